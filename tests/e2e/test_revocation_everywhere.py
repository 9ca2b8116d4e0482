"""A certificate, a token or a thing that counts no more: what it has let in ends, whatever it speaks and whatever state
it is in, with the word that its protocol has for that; and nobody else's.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.wire import mqtt
from gateway.wire.mqtt_packets import ConnAck, Disconnect, Packet, PingReq, PingResp, Reason, Version
from tests.e2e.https_clients import Caller as HTTPSCaller
from tests.e2e.tunnels import Peer, Service, caller_context
from tests.e2e.websocket_service import WebSocketService
from tests.e2e.wss_clients import WebSocket, open_with_websockets
from tests.fake_upstream import Caller
from tests.gateways import RunningGateway, Sections, behind, wait_until
from tests.http_servers import Received, WebService
from tests.pki import Issued, issue, make_crl, write_pem
from tests.raw_client import RawClient, error_fields, query
from tests.raw_https import End, Ended, RawHTTPS
from tests.raw_mqtt import RawMQTT, connect_of
from tests.servers import PostgresServer, free_port
from tests.things import Device, Workshop, topic

V311, V5 = Version.V311, Version.V5
IN_TIME = 1.0
ROLE, PASSWORD = "revoked_everywhere", "a secret of the server"
NOT_TRUSTED = "the client certificate is not trusted any more"
GET = b"GET /web/quick HTTP/1.1\r\nHost: localhost\r\n\r\n"
SLOW = b"GET /web/slow HTTP/1.1\r\nHost: localhost\r\n\r\n"


def half(caller: Caller, _: Received) -> None:
    """Of an answer; then nothing, until somebody hangs up."""
    caller.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf!")
    caller.wait()


# --- a site -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Site:
    """One gateway process with every protocol in front of what it guards."""

    gateway: RunningGateway
    workshop: Workshop
    tunnelled: Service
    tunnel_port: int
    postgres_port: int
    channel: str

    @classmethod
    @contextmanager
    def running(cls, folder: Path, database: PostgresServer) -> Iterator[Self]:
        with ExitStack() as stack:
            web, sockets = stack.enter_context(WebService.running()), stack.enter_context(WebSocketService.running())
            web.scripts["/web/slow"] = half
            tunnelled = stack.enter_context(Service.listening())
            postgres, tunnel = free_port(), free_port()
            everybody = {"rules": "\nallow all all"}
            sections: Sections = {
                "tls": {"client_crl": "clients.crl"},
                "upstream:main": behind(database, password=PASSWORD),
                "jwt:main": {"public_keys": "jwt.pub", "revoked": "revoked"},
                "postgres:main": {"listen": f"127.0.0.1:{postgres}", "rules": "\nallow all all all"},
                "route:web": {"path": "/web", "upstream": f"http://127.0.0.1:{web.port}", **everybody},
                "route:live": {
                    "path": "/live",
                    "upstream": sockets.url,
                    "websocket": "yes",
                    "ws_key": "optional",
                    **everybody,
                },
                "tunnel:main": {
                    "mode": "server",
                    "listen": f"127.0.0.1:{tunnel}",
                    "upstream": f"localhost:{tunnelled.port}",
                    "cn": "key",
                    **everybody,
                },
            }
            gateway = RunningGateway.made_mqtt(folder, sections)
            key = gateway.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            (folder / "jwt.pub").write_bytes(key)
            (folder / "revoked").touch()
            write_pem(folder / "clients.crl", make_crl(gateway.ca))
            stack.enter_context(gateway.for_a_while())
            workshop = stack.enter_context(Workshop.of(gateway))
            yield cls(gateway, workshop, tunnelled, tunnel, postgres, workshop.channel())
            web.hang_up()
            gateway.check_at_rest()

    @contextmanager
    def live(self, jti: str) -> Iterator[Live]:
        """Of a new thing."""
        device = self.workshop.thing(self.channel)
        wait_until(lambda: self._lets_in(device), "the gateway knows the new thing")
        with ExitStack() as stack:
            yield Live(self, stack, device, jti)

    def _lets_in(self, device: Device) -> bool:
        where = self.gateway.mqtt_port, self.gateway.root_certificate, device.certificate
        with RawMQTT.connected(*where) as client:
            return client.log_in(connect_of(device, V311)).code == 0


@pytest.fixture(scope="module")
def shared_site(embedded_postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    embedded_postgres.make_role(ROLE, PASSWORD)
    with Site.running(tmp_path_factory.mktemp("gateway"), embedded_postgres) as site:
        yield site


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    """With a CRL that names nobody, and no revoked token."""
    yield shared_site
    folder = shared_site.gateway.folder
    write_pem(folder / "clients.crl", make_crl(shared_site.gateway.ca))
    (folder / "revoked").write_text("")
    shared_site.gateway.reload()


# --- everything that one of its things can have open ------------------------------------------------------------------


class Live:
    """All at once, each of which has said something and been answered."""

    def __init__(self, site: Site, stack: ExitStack, device: Device, jti: str) -> None:
        gateway, place = site.gateway, f"{topic(site.channel)}/{jti}"
        self._site, self._stack, self.device = site, stack, device
        self.postgres, self.copying = self._postgres(jti), self._postgres(jti)
        self.copying.send(query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 10000000)) TO STDOUT"))
        assert [next(self.copying.messages())[0] for _ in range(2)] == [b"H", b"d"]
        self.idle, self.begun = self._https(), self._https()
        assert self.idle.ask(GET).status == 200
        self.begun.send(SLOW)
        assert self.begun._head()[0] == 200
        self.socket = self._wss("/live/echo")
        self.channel = self._wss(f"/ws/{place}?authorization={device.key}")
        self.mqtt_socket = self._wss("/mqtt", "mqtt")
        self.mqtt_socket.send(mqtt.serialize(connect_of(device, V5, f"{jti}-wss"), V5))
        assert isinstance(heard(self.mqtt_socket), ConnAck)
        self.mqtt: list[RawMQTT] = []
        for version in (V311, V5):
            where = gateway.mqtt_port, gateway.root_certificate, device.certificate
            self.mqtt.append(stack.enter_context(RawMQTT.connected(*where)))
            assert self.mqtt[-1].log_in(connect_of(device, version, f"{jti}-{version}")).code == 0
        self.tunnel = self.through_tunnel()
        self.service = stack.enter_context(site.tunnelled.accepted())
        self.check()

    def _postgres(self, jti: str) -> RawClient:
        site = self._site
        where = site.postgres_port, site.gateway.root_certificate
        client = self._stack.enter_context(RawClient.connected(*where, certificate=self.device.certificate))
        client.log_in(ROLE, site.gateway.token(ROLE, jti=jti))
        return client

    def _https(self) -> RawHTTPS:
        gateway = self._site.gateway
        where = gateway.https_port, gateway.root_certificate, self.device.certificate
        return self._stack.enter_context(RawHTTPS.connected(*where))

    def _wss(self, path: str, *protocols: str) -> WebSocket:
        caller = HTTPSCaller.of(self._site.gateway, self.device.certificate)
        return self._stack.enter_context(open_with_websockets(caller, path, protocols=protocols))

    def through_tunnel(self) -> Peer:
        context = caller_context(self._site.gateway.root_certificate, self.device.certificate)
        return self._stack.enter_context(Peer.calling(self._site.tunnel_port, context)).handshake()

    # --- they go on -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """All but the HTTPS connections, of which every request would be the last after a reload."""
        self.check_postgres()
        for socket in (self.socket, self.channel):
            socket.send("hello")
            assert socket.receive() == "hello"
        self.mqtt_socket.send(mqtt.serialize(PingReq(), V5))
        assert heard(self.mqtt_socket) == PingResp()
        for client in self.mqtt:
            client.check_alive()
        self.tunnel.send(b"ping")
        assert self.service.exactly(4) == b"ping"

    def check_postgres(self) -> None:
        assert self.postgres.value("SELECT 'here'") == "here"

    def check_https(self) -> None:
        """An answer in progress, and one more."""
        assert self.begun._exactly(5) == b"half!"
        assert self.begun.is_silent(0.05)
        assert self.idle.ask(GET).status == 200

    # --- they have ended ----------------------------------------------------------------------------------------------

    def check_revoked(self, code: Reason, reason: str) -> None:
        """All but that of PostgreSQL. reason: as a WebSocket of an upstream's is told."""
        assert self.idle.ending() is End.ORDERLY
        with pytest.raises(Ended) as ended:
            self.begun._exactly(10)
        assert (ended.value.end, ended.value.so_far) == (End.RESET, b"half!")
        assert self.socket.end() == (1008, reason)
        assert self.channel.end()[0] == 1008
        assert heard(self.mqtt_socket) == Disconnect(code)
        assert self.mqtt_socket.end()[0] == 1008
        assert [client.hear_all() for client in self.mqtt] == [[], [Disconnect(code)]]
        assert self.tunnel.ending() is End.RESET
        assert self.service.ending() is End.RESET

    def check_postgres_revoked(self) -> None:
        fields = self.postgres.refusal()
        words = "Terminating connection: the token or the certificate is not valid any more"
        assert (fields["C"], fields["M"]) == ("57P01", words)
        # Between two messages of what it was given; each of them is whole, or the client would fail here.
        *rows, last = self.copying.messages()
        assert {kind for kind, _ in rows} == {b"d"}
        assert (last[0], error_fields(last[1])) == (b"E", fields)

    def reasons(self) -> set[str]:
        """What the audit says of the ends of those of them that have addresses of their own, but for PostgreSQL."""
        names = [self.begun.name, self.tunnel.name, *(client.name for client in self.mqtt)]
        return {self._reason(name) for name in names}

    def _reason(self, name: str) -> str:
        gateway = self._site.gateway

        def found() -> Sequence[str]:
            records = (*gateway.audit(), *gateway.audit("request"))
            return [one["reason"] for one in records if one["client"] == name and one.get("reason")]

        wait_until(found, f"the audit tells of the end of {name}")
        return found()[-1]


def heard(socket: WebSocket) -> Packet:
    """The packet of MQTT 5 that comes next."""
    data = socket.receive()
    assert isinstance(data, bytes)
    place = mqtt.frame(data, 0, 1 << 20)
    assert place is not None
    return mqtt.parse(data, 0, *place, V5)


def certificate_of(device: Device, ca: Issued) -> Issued:
    return Issued(x509.load_pem_x509_certificate(device.certificate[0].read_bytes()), ca.key)


# --- what revokes -----------------------------------------------------------------------------------------------------


def test_a_new_crl(site: Site) -> None:
    gateway = site.gateway
    with site.live("alice-1") as stays, site.live("mallory-1") as goes:
        revoked = make_crl(gateway.ca, [certificate_of(goes.device, gateway.ca)])
        write_pem(gateway.folder / "clients.crl", revoked)
        gateway.reload()
        began = time.monotonic()
        goes.check_postgres_revoked()
        goes.check_revoked(Reason.NOT_AUTHORIZED, NOT_TRUSTED)
        assert time.monotonic() - began < IN_TIME
        stays.check()
        stays.check_https()
        assert goes.reasons() == {NOT_TRUSTED}
        with pytest.raises(ssl.SSLError, match=r"(?i)revoked"):
            goes._https().receive()


def test_a_revoked_token(site: Site) -> None:
    """It ends what this token has let in, and nothing else of the same people."""
    with site.live("alice-2") as one, site.live("bob-2") as other:
        again = one._postgres("alice-3")
        (site.gateway.folder / "revoked").write_text("# by hand\nsomebody-else\nalice-2\t99999999999\n")
        site.gateway.reload()
        one.check_postgres_revoked()
        assert again.value("SELECT 'here'") == "here"
        other.check()
        other.check_https()
        one.check_https()
        one.channel.send("still here")
        assert one.channel.receive() == "still here"
        assert site.gateway.end_of(one.postgres.name)["reason"] == "the token has been revoked"
        with pytest.raises(AssertionError, match="28P01"):
            one._postgres("alice-2")


@pytest.mark.parametrize("how", ["disabled", "another key", "deleted"])
def test_a_thing(site: Site, how: str) -> None:
    """At once and without a reload, also where it is not the registry that lets it in."""
    ledger = site.workshop.ledger
    with site.live("alice-4") as stays, site.live("mallory-4") as goes:
        mallory, began = goes.device, time.monotonic()
        match how:
            case "disabled":
                ledger.set_enabled(mallory.id, False)
            case "another key":
                ledger.rotate_key(mallory.id)
            case "deleted":
                ledger.delete_thing(mallory.id)
        goes.check_revoked(Reason.ADMINISTRATIVE_ACTION, "forbidden")
        assert time.monotonic() - began < IN_TIME
        stays.check()
        stays.check_https()
        # Its token is still good, and nobody has revoked its certificate.
        goes.check_postgres()
        if how == "disabled":
            answer = goes._https().ask(GET)
            assert (answer.status, answer.refusal) == (403, "forbidden")
            assert goes.through_tunnel().ending() is End.RESET
            ledger.set_enabled(mallory.id, True)
            wait_until(lambda: goes._https().ask(GET).status == 200, "it is let in again")
        else:
            # A key that nobody knows is none of the registry's business.
            assert goes._https().ask(GET).status == 200


# --- the clock alone --------------------------------------------------------------------------------------------------


def enters(gateway: RunningGateway, port: int, certificate: tuple[Path, Path]) -> bool:
    try:
        with RawHTTPS.connected(port, gateway.root_certificate, certificate) as client:
            return client.ask(GET).status == 200
    except (ssl.SSLError, ConnectionError):
        return False
    except Ended:
        return False


def test_a_crl_that_becomes_stale(tmp_path: Path) -> None:
    """With `deny` nobody comes in from then on, and those who are in end with the next reload; with `warn` only who is
    revoked does."""
    warns = free_port()
    with WebService.running() as web:
        sections: Sections = {
            "tls": {"client_crl": "clients.crl"},
            "https:warns": {"listen": f"127.0.0.1:{warns}", "stale_crl": "warn"},
            "route:main": {"upstream": f"http://127.0.0.1:{web.port}", "listener": "main,warns"},
        }
        gateway = RunningGateway.made_https(tmp_path, sections)
        denies = gateway.https_port
        alice, mallory = gateway.thing("alice", "alice"), issue(gateway.ca, "mallory")
        mallory.write(tmp_path, "mallory")
        files = tmp_path / "mallory.crt", tmp_path / "mallory.key"
        write_pem(tmp_path / "clients.crl", make_crl(gateway.ca, valid=(-1, 4 / 86_400)))
        stale_at = time.monotonic() + 4
        with gateway.for_a_while(), ExitStack() as stack:
            where = [(port, one) for port in (denies, warns) for one in (alice, files)]
            kept = [stack.enter_context(RawHTTPS.connected(port, gateway.root_certificate, one)) for port, one in where]
            for client in kept:
                assert client.ask(GET).status == 200
            # It counts up to the end of that second.
            time.sleep(max(0.0, stale_at + 1.2 - time.monotonic()))
            assert [enters(gateway, port, alice) for port in (denies, warns)] == [False, True]
            for client in kept:
                assert client.ask(GET).status == 200
            # Stale, and still it says who is revoked.
            write_pem(tmp_path / "clients.crl", make_crl(gateway.ca, [mallory], valid=(-1, -1 / 86_400)))
            gateway.reload()
            ends = [client.is_silent(0.3) for client in kept]
            assert ends == [False, False, True, False]
            answer = kept[2].ask(GET)
            assert (answer.status, answer.closes) == (200, True)
            assert [enters(gateway, warns, one) for one in (alice, files)] == [True, False]
        web.hang_up()
