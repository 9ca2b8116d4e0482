"""A reload takes trust away: from clients that are connected, from handshakes that have begun, and from upstreams."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.e2e.tunnels import Peer, Service, caller_context
from tests.fake_upstream import Caller, FakeUpstream, server_context
from tests.gateways import RunningGateway, Sections, wait_until
from tests.http_servers import WebService
from tests.pki import Issued, issue, make_ca, make_crl, write_pem
from tests.raw_https import End, RawHTTPS
from tests.servers import free_port

UNTRUSTED = "the client certificate is not trusted any more"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /danger HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nboom"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: mallory\r\n\r\n"
)


@dataclass(slots=True)
class Site:
    """A gateway with HTTPS and a tunnel, and a CRL that names nobody yet."""

    gateway: RunningGateway
    service: WebService
    tunnelled: Service
    tunnel_port: int
    mallory: Issued

    @contextmanager
    def client(self, name: str) -> Iterator[RawHTTPS]:
        gateway = self.gateway
        with RawHTTPS.connected(gateway.https_port, gateway.root_certificate, self.files(name)) as client:
            yield client

    def files(self, name: str) -> tuple[Path, Path]:
        return self.gateway.folder / f"{name}.crt", self.gateway.folder / f"{name}.key"

    def revoke_mallory(self) -> None:
        write_pem(self.gateway.folder / "clients.crl", make_crl(self.gateway.ca, [self.mallory]))
        self.gateway.reload()

    def wait_until_taken(self, name: str) -> None:
        """By the gateway: the system has accepted that connection long before."""
        assert self.gateway.process is not None
        process = psutil.Process(self.gateway.process.pid)

        def taken() -> bool:
            return name in {
                "{}:{}".format(*one.raddr)
                for one in process.net_connections("tcp")
                if one.status == psutil.CONN_ESTABLISHED
            }

        wait_until(taken, "the gateway has taken the connection")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with WebService.running() as service, Service.listening() as tunnelled:
        port = free_port()
        sections: Sections = {
            "tls": {"client_crl": "clients.crl"},
            "route:main": {"upstream": f"http://127.0.0.1:{service.port}"},
            "tunnel:main": {
                "mode": "server",
                "listen": f"127.0.0.1:{port}",
                "upstream": f"localhost:{tunnelled.port}",
                "certificate": "server.crt",
                "key": "server.key",
                "client_ca": "ca.crt",
                "client_crl": "clients.crl",
                "rules": "\nallow all all",
            },
        }
        gateway = RunningGateway.made_https(tmp_path, sections)
        mallory = issue(gateway.ca, "mallory")
        mallory.write(tmp_path, "mallory")
        gateway.thing("alice", "alice")
        write_pem(tmp_path / "clients.crl", make_crl(gateway.ca))
        with gateway.for_a_while():
            yield Site(gateway, service, tunnelled, port, mallory)
            service.hang_up()
            gateway.check_at_rest()


# --- clients that are connected ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_after", [GET, POST, UPGRADE, GET * 3], ids=["GET", "POST", "WebSocket", "several"])
@pytest.mark.parametrize("requests_before", [0, 1])
def test_a_kept_connection_of_a_client_that_is_revoked(site: Site, requests_before: int, request_after: bytes) -> None:
    """It ends, and the upstream hears nothing of what comes after that; others go on, and come back."""
    with site.client("mallory") as mallory, site.client("alice") as alice:
        for client in (mallory, alice):
            for _ in range(requests_before):
                answer = client.ask(GET)
                assert (answer.status, answer.closes) == (200, False)
        bytes_before, connections_before = site.service.bytes_received, site.service.connections
        site.revoke_mallory()
        mallory.try_send(request_after)
        assert mallory.ending() is End.ORDERLY
        assert (site.service.bytes_received, site.service.connections) == (bytes_before, connections_before)
        answer = alice.ask(GET)
        assert (answer.status, answer.closes) == (200, True)
        assert alice.ending() is End.ORDERLY
        names = mallory.name, alice.name
    with site.client("alice") as client:
        assert not client.ask(GET).closes
    with pytest.raises(ssl.SSLError, match=r"(?i)revoked"), site.client("mallory") as client:
        client.receive()
    wait_until(lambda: len(site.gateway.audit("request")) == 2 * requests_before + 2, "the audit tells of it")
    found = [[one["status"] for one in site.gateway.audit("request") if one["client"] == name] for name in names]
    assert found == [[200] * requests_before, [200] * (requests_before + 1)]
    assert site.gateway.end_of(names[0])["reason"] == UNTRUSTED


# --- handshakes that have begun ---------------------------------------------------------------------------------------


def begin(client: RawHTTPS) -> None:
    """The ClientHello, up to the server's answer."""
    with suppress(ssl.SSLWantReadError):
        client._tls.do_handshake()
    client._flush()
    assert client.socket.recv(1, socket.MSG_PEEK)


@pytest.mark.parametrize("begun", [False, True], ids=["connected", "after ClientHello"])
def test_a_handshake_that_ends_after_the_reload(site: Site, begun: bool) -> None:
    where = (site.gateway.https_port, site.gateway.root_certificate)
    names = ("mallory", "alice")
    with (
        closing(RawHTTPS(*where, site.files(names[0]))) as mallory,
        closing(RawHTTPS(*where, site.files(names[1]))) as alice,
    ):
        for client in (mallory, alice):
            site.wait_until_taken(client.name)
            if begun:
                begin(client)
        site.revoke_mallory()
        with suppress(ConnectionError, ssl.SSLError):
            mallory.handshake()
            mallory.try_send(GET)
            assert mallory.receive() == b""
        assert UNTRUSTED in site.gateway.end_of(mallory.name)["reason"]
        assert not site.service.connections
        alice.handshake()
        assert alice.ask(GET).status == 200


@pytest.mark.parametrize("begun", [False, True], ids=["connected", "after ClientHello"])
def test_a_handshake_of_a_tunnel_that_ends_after_the_reload(site: Site, begun: bool) -> None:
    def calling(name: str) -> AbstractContextManager[Peer]:
        return Peer.calling(site.tunnel_port, caller_context(site.gateway.root_certificate, site.files(name)))

    with calling("mallory") as mallory, calling("alice") as alice:
        for peer in (mallory, alice):
            site.wait_until_taken(peer.name)
            if begun:
                assert peer.tls is not None
                with suppress(ssl.SSLWantReadError):
                    peer.tls.do_handshake()
                peer._flush()
                assert peer.socket.recv(1, socket.MSG_PEEK)
        site.revoke_mallory()
        with suppress(ConnectionError, ssl.SSLError):
            mallory.handshake()
            mallory.send(b"let me in")
            assert mallory.receive() == b""
        assert UNTRUSTED in site.gateway.end_of(mallory.name)["reason"]
        assert site.tunnelled.untouched
        alice.handshake()
        with site.tunnelled.accepted() as service:
            alice.send(b"it is me")
            assert service.exactly(8) == b"it is me"


# --- upstreams --------------------------------------------------------------------------------------------------------


@contextmanager
def impostor(folder: Path) -> Iterator[tuple[WebService, FakeUpstream]]:
    """A web service with a certificate for the right name, of an authority that nobody knows."""
    context = server_context(folder, issue(make_ca("gateway tests"), "localhost", sans=["localhost"]), "impostor")
    service = WebService()

    def talk(caller: Caller) -> None:
        caller.socket = context.wrap_socket(caller.socket, server_side=True)
        service.serve(caller)

    with FakeUpstream.running(talk) as listening:
        yield service, listening


def test_an_upstream_that_is_verified_from_now_on(tmp_path: Path) -> None:
    """Neither the connection in the pool nor a new one under the old trust gets what a kept client asks for."""
    with impostor(tmp_path) as (service, listening):
        upstream = {"upstream": f"https://localhost:{listening.port}", "tls": "require"}
        with RunningGateway.https(tmp_path, {"route:main": upstream}) as gateway:
            where = (gateway.https_port, gateway.root_certificate, gateway.thing("alice"))
            with RawHTTPS.connected(*where) as kept, RawHTTPS.connected(*where) as quiet:
                assert kept.ask(GET).status == 200
                verified = {**gateway.sections["route:main"], "tls": "verify-full", "root_certificate": "ca.crt"}
                gateway.reconfigure({"route:main": verified})
                for client in (kept, quiet):
                    answer = client.ask(POST)
                    assert answer.status == 502
                    assert client.ending() is End.ORDERLY
            assert [(request.method, request.path) for request in service.begun] == [(b"GET", "/")]
            assert [record["status"] for record in gateway.audit("request")] == [200, 502, 502]
            gateway.check_at_rest()
