"""Fifty reloads in a row, each with another certificate, under two hundred sessions of all protocols: nothing is
dropped, no request fails, and whoever comes meanwhile meets one certificate with its own key.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import asyncpg
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.asyncio.client import ClientConnection, connect

from gateway.wire import mqtt
from gateway.wire.mqtt_packets import ConnAck, PingReq, PingResp, Version
from tests.e2e.websocket_service import WebSocketService
from tests.gateways import RunningGateway, Sections, behind, wait_until
from tests.http_servers import ANSWER, WebService
from tests.pki import Issued, issue, make_crl, write_pem
from tests.raw_mqtt import RawMQTT, connect_of
from tests.servers import PostgresServer, free_port
from tests.things import Device, Workshop

ROLE, PASSWORD = "under_load", "a secret of the server"
SESSIONS = {"postgres": 50, "https": 60, "mqtt": 40, "wss": 20, "tunnel": 30}
SWAPS = 50
# Of these reloads one has a key that is another certificate's.
BROKEN_EVERY = 10
# Between two exchanges of one session, in seconds.
PAUSE = 0.4
PATIENCE = 20.0
GET = b"GET /web/ HTTP/1.1\r\nHost: localhost\r\n\r\n"


# --- a site -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Site:
    gateway: RunningGateway
    devices: list[Device]
    ports: dict[str, int]
    # Of the gateway's, one after the other.
    certificates: list[Issued]

    @classmethod
    @contextmanager
    def running(cls, folder: Path, database: PostgresServer) -> Iterator[Self]:
        ports = {"postgres": free_port(), "tunnel": free_port(), "service": free_port()}
        everybody = {"rules": "\nallow all all"}
        with WebService.running() as web, WebSocketService.running() as sockets, ExitStack() as stack:
            sections: Sections = {
                "tls": {"client_crl": "clients.crl"},
                "limits": {"max_connections_per_address": 1000, "max_connections_per_subject": 1000},
                "upstream:main": behind(database, password=PASSWORD),
                "jwt:main": {"public_keys": "jwt.pub"},
                "postgres:main": {"listen": f"127.0.0.1:{ports['postgres']}", "rules": "\nallow all all all"},
                "route:web": {"path": "/web", "upstream": f"http://127.0.0.1:{web.port}", **everybody},
                "route:live": {"path": "/live", "upstream": sockets.url, "websocket": "yes"}
                | {"ws_key": "optional", **everybody},
                "tunnel:main": {"mode": "server", "listen": f"127.0.0.1:{ports['tunnel']}", "cn": "key"}
                | {"upstream": f"localhost:{ports['service']}", **everybody},
            }
            gateway = RunningGateway.made_mqtt(folder, sections)
            key = gateway.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            (folder / "jwt.pub").write_bytes(key)
            write_pem(folder / "clients.crl", make_crl(gateway.ca))
            certificates = [issue(gateway.ca, "localhost", sans=["localhost", "127.0.0.1"]) for _ in range(6)]
            certificates[0].write(folder, "server")
            stack.enter_context(gateway.for_a_while())
            workshop = stack.enter_context(Workshop.of(gateway))
            site = cls(gateway, [workshop.thing() for _ in range(4)], {**ports, "https": gateway.port}, certificates)
            site.ports["mqtt"] = gateway.mqtt_port
            wait_until(site._known, "the gateway knows the things")
            yield site
            web.hang_up()

    def _known(self) -> bool:
        where = self.gateway.mqtt_port, self.gateway.root_certificate, self.devices[-1].certificate
        with RawMQTT.connected(*where) as client:
            return client.log_in(connect_of(self.devices[-1], Version.V311)).code == 0

    def context(self, device: Device | None, *alpn: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.gateway.root_certificate)
        if device is not None:
            context.load_cert_chain(*device.certificate)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def swap(self, number: int) -> None:
        """Another certificate, and a reload; or first one that fails, which leaves everything as it was."""
        folder = self.gateway.folder
        new, other = (self.certificates[(number + more) % len(self.certificates)] for more in (1, 2))
        if number % BROKEN_EVERY == 0:
            write_pem(folder / "server.crt", new.certificate)
            write_pem(folder / "server.key", other.key)
            self.gateway.reload(succeeds=False)
        new.write(folder, "server")
        self.gateway.reload()


@pytest.fixture
def site(embedded_postgres: PostgresServer, tmp_path: Path) -> Iterator[Site]:
    embedded_postgres.make_role(ROLE, PASSWORD)
    with Site.running(tmp_path, embedded_postgres) as site:
        yield site
        site.gateway.check_at_rest()


# --- who is there -----------------------------------------------------------------------------------------------------


class Session(Protocol):
    async def exchange(self) -> None:
        """Raises, or fails, where it is not answered as it should be."""

    async def close(self) -> None: ...


@dataclass(slots=True)
class Load:
    """done: exchanges, by protocol. met: server certificates, in DER. came: connections while certificates changed."""

    site: Site
    done: Counter[str] = field(default_factory=Counter)
    met: set[bytes] = field(default_factory=set)
    came: int = 0
    over: bool = False
    left: int = sum(SESSIONS.values())
    all_ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def session(self, kind: str, device: Device, number: int) -> None:
        session = await _OPENERS[kind](self.site, device, number)
        await session.exchange()
        self.left -= 1
        if not self.left:
            self.all_ready.set()
        while not self.over:
            await asyncio.sleep(PAUSE)
            async with asyncio.timeout(PATIENCE):
                await session.exchange()
            self.done[kind] += 1
        await session.close()

    async def newcomers(self, port: str, alpn: str) -> None:
        """One after the other."""
        while not self.over:
            # It verifies the certificate, and TLS that its owner has the key.
            stream = await Stream.opened(self.site, port, self.site.devices[0], alpn)
            self.met.add(stream.writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
            if port == "https":
                await stream.request()
            self.came += 1
            await stream.close()
            await asyncio.sleep(0.01)


@dataclass(slots=True)
class Stream:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def opened(cls, site: Site, port: str, device: Device, alpn: str) -> Self:
        context = site.context(device, alpn)
        where = ("127.0.0.1", site.ports[port])
        return cls(*await asyncio.open_connection(*where, ssl=context, server_hostname="localhost"))

    async def say(self, data: bytes, answer: bytes) -> None:
        self.writer.write(data)
        assert await self.reader.readexactly(len(answer)) == answer

    async def request(self) -> bool:
        """Whether the connection goes on after the answer, which has to be whole."""
        self.writer.write(GET)
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        assert await self.reader.readexactly(len(ANSWER)) == ANSWER
        return b"connection: close" not in head.lower()

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


@dataclass(slots=True)
class Saying:
    """The same, again and again, over one connection."""

    stream: Stream
    said: bytes
    answer: bytes

    async def exchange(self) -> None:
        await self.stream.say(self.said, self.answer)

    async def close(self) -> None:
        await self.stream.close()


async def _mqtt(site: Site, device: Device, number: int) -> Session:
    stream = await Stream.opened(site, "mqtt", device, "mqtt")
    hello, ping = connect_of(device, Version.V311, f"load-{number}"), PingReq()
    written = [mqtt.serialize(one, Version.V311) for one in (hello, ConnAck(), ping, PingResp())]
    await stream.say(*written[:2])
    return Saying(stream, *written[2:])


async def _tunnel(site: Site, device: Device, number: int) -> Session:
    said = b"%d" % number
    return Saying(await Stream.opened(site, "tunnel", device, "h2"), said, said)


@dataclass(slots=True)
class HTTPS:
    """It comes back only where an answer has said that it was the last."""

    site: Site
    device: Device
    stream: Stream
    kept: bool = True

    @classmethod
    async def opened(cls, site: Site, device: Device, _: int) -> Session:
        return cls(site, device, await Stream.opened(site, "https", device, "http/1.1"))

    async def exchange(self) -> None:
        if not self.kept:
            assert await self.stream.reader.read() == b""
            await self.stream.close()
            self.stream = await Stream.opened(self.site, "https", self.device, "http/1.1")
        self.kept = await self.stream.request()

    async def close(self) -> None:
        await self.stream.close()


@dataclass(slots=True)
class WSS:
    socket: ClientConnection

    @classmethod
    async def opened(cls, site: Site, device: Device, _: int) -> Session:
        url = f"wss://localhost:{site.ports['https']}/live/echo"
        return cls(await connect(url, ssl=site.context(device), ping_interval=None, proxy=None))

    async def exchange(self) -> None:
        await self.socket.send("hello")
        assert await self.socket.recv() == "hello"

    async def close(self) -> None:
        await self.socket.close()


@dataclass(slots=True)
class Postgres:
    connection: Any
    pid: int

    @classmethod
    async def opened(cls, site: Site, device: Device, number: int) -> Session:
        """Every second one shows a certificate, too."""
        connection = await asyncpg.connect(
            host="localhost",
            port=site.ports["postgres"],
            user=ROLE,
            database="postgres",
            password=site.gateway.token(ROLE, jti=f"load-{number}"),
            ssl=site.context(device if number % 2 else None),
        )
        return cls(connection, await connection.fetchval("SELECT pg_backend_pid()"))

    async def exchange(self) -> None:
        assert await self.connection.fetchval("SELECT pg_backend_pid()") == self.pid

    async def close(self) -> None:
        await self.connection.close()


_OPENERS: dict[str, Callable[[Site, Device, int], Awaitable[Session]]] = {
    "postgres": Postgres.opened,
    "https": HTTPS.opened,
    "mqtt": _mqtt,
    "wss": WSS.opened,
    "tunnel": _tunnel,
}


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()


# --- the test ---------------------------------------------------------------------------------------------------------


async def under_load(site: Site) -> Load:
    load = Load(site)
    async with await asyncio.start_server(echo, "127.0.0.1", site.ports["service"]), asyncio.TaskGroup() as tasks:
        kinds = [kind for kind, count in SESSIONS.items() for _ in range(count)]
        for number, kind in enumerate(kinds):
            tasks.create_task(load.session(kind, site.devices[number % len(site.devices)], number))
        await asyncio.wait_for(load.all_ready.wait(), PATIENCE)
        for port, alpn in (("https", "http/1.1"), ("mqtt", "mqtt"), ("tunnel", "h2")):
            tasks.create_task(load.newcomers(port, alpn))
        for number in range(SWAPS):
            await asyncio.to_thread(site.swap, number)
        await asyncio.sleep(2 * PAUSE)
        assert not [one for one in site.gateway.audit() if one["listener"] == "postgres:main"]
        load.over = True
    return load


def test_reloads_drop_nothing(site: Site) -> None:
    load = asyncio.run(under_load(site))
    # Everybody was there through all of it.
    for kind, count in SESSIONS.items():
        assert load.done[kind] >= 3 * count, (kind, load.done)
    assert load.came >= SWAPS / 2
    assert len(load.met) > 1
    assert load.met <= {one.certificate.public_bytes(Encoding.DER) for one in site.certificates}
    assert {one["status"] for one in site.gateway.audit("request")} == {101, 200}
