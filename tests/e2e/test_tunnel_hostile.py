"""Tunnels under attack and under trouble: who is refused, how a connection ends, and what the other side is told of it.

Orderly or not is the point: a stream that broke on one side never looks complete on the other.
"""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.serials import serial_text
from tests.e2e.tunnels import Peer, Service, caller_context, service_context
from tests.gateways import PATIENCE, RunningGateway, Sections
from tests.pki import SERVER, Issued, issue, make_ca, make_crl, write_pem
from tests.raw_https import End
from tests.servers import free_port

Files = tuple[Path, Path]
DAY = 86_400.0
KEY = "0123456789abcdef-the-key-of-a-thing"

# By its name, what is told of each tunnel beside its addresses.
SERVERS: dict[str, dict[str, object]] = {
    "main": {"rules": "\ndeny meter-66 all\nallow meter-* all"},
    "vouched": {"client_ca": "both.crt", "rules": "\nallow all all ca=other-ca.crt"},
    "optional": {"client_certificate": "optional", "rules": "\nallow meter-7 all"},
    "any": {"alpn": "none", "rules": "\nallow all all"},
    "key": {"cn": "key", "rules": f"\nallow key:{hashlib.sha256(KEY.encode()).hexdigest()[:16]} all"},
    "nobody": {},
}
CLIENTS: dict[str, dict[str, object]] = {
    "adapter": {},
    "any-alpn": {"alpn": "none"},
    "named": {"tls": "verify-ca"},
    "unverified": {"tls": "require", "root_certificate": "", "insecure": "yes"},
    "clear": {"tls": "disable", "root_certificate": "", "certificate": "", "key": "", "insecure": "yes"},
}


@dataclass(frozen=True, slots=True)
class Site:
    """service: behind the tunnels of mode = server, plain. remote: where those of mode = client lead to."""

    gateway: RunningGateway
    folder: Path
    issued: dict[str, Issued]
    ports: dict[str, int]
    service: Service
    remote: Service

    def files(self, name: str) -> Files:
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    def caller(self, name: str | None = "meter", **more: Any) -> ssl.SSLContext:
        return caller_context(self.gateway.root_certificate, self.files(name) if name else (), **more)

    def host(self, name: str = "remote", **more: Any) -> ssl.SSLContext:
        """The remote's TLS: it requires a certificate."""
        return service_context(self.files(name), self.gateway.root_certificate, **more)

    @contextmanager
    def through(self, mode: str) -> Iterator[tuple[Peer, Peer]]:
        """An open tunnel: the client and the service, of which one speaks TLS."""
        if mode == "server":
            with Peer.calling(self.ports["main"], self.caller()) as client:
                client.handshake()
                with self.service.accepted() as service:
                    yield client, service
        else:
            with Peer.calling(self.ports["adapter"]) as client, self.remote.accepted(self.host()) as service:
                yield client, service.handshake()


def make_certificates(folder: Path, gateway: RunningGateway) -> dict[str, Issued]:
    """By what is the matter with them; their files are of the same names.

    `gateway.ca` vouches for the certificates that the gateway itself shows, on either side.
    """
    ca, other, foreign = make_ca("clients"), make_ca("other clients"), make_ca("clients")
    remote = make_ca("remotes")
    found = {
        "meter": issue(ca, "meter-7"),
        "unknown": issue(ca, "stranger-7"),
        "denied": issue(ca, "meter-66"),
        "revoked": issue(ca, "meter-8"),
        "foreign": issue(foreign, "meter-7"),
        "expired": issue(ca, "meter-7", valid=(-9, -1)),
        "not-yet": issue(ca, "meter-7", valid=(1, 9)),
        "for-servers": issue(ca, "meter-7", eku=(SERVER,)),
        "other": issue(other, "meter-7"),
        "thing": issue(ca, KEY),
        "wrong-thing": issue(ca, KEY + "x"),
        "adapter": issue(gateway.ca, "http-adapter"),
        "remote": issue(remote, "localhost", sans=["localhost"]),
        "remote-other-name": issue(remote, "localhost", sans=["other.example", "localhost.example"]),
        "remote-only-cn": issue(remote, "localhost"),
        "remote-foreign": issue(make_ca("remotes"), "localhost", sans=["localhost"]),
        "remote-expired": issue(remote, "localhost", sans=["localhost"], valid=(-9, -1)),
        "remote-revoked": issue(remote, "localhost", sans=["localhost"]),
    }
    for name, each in found.items():
        each.write(folder, name)
    write_pem(folder / "client_ca.crt", ca.certificate)
    write_pem(folder / "client_crl.crl", make_crl(ca, [found["revoked"]]))
    write_pem(folder / "both.crt", ca.certificate, other.certificate)
    write_pem(folder / "other-ca.crt", other.certificate)
    write_pem(folder / "root_certificate.crt", remote.certificate)
    write_pem(folder / "crl.crl", make_crl(remote, [found["remote-revoked"]]))
    return found | {"ca": ca}


# By the mode: our certificate, and the keys of whom to believe and of what these revoked; the files are called so.
OWN = {"server": ("server", "client_ca", "client_crl"), "client": ("adapter", "root_certificate", "crl")}


def tunnel(mode: str, port: int, to: int, **more: object) -> dict[str, object]:
    """As most of these tests want it."""
    common: dict[str, object] = {
        "mode": mode,
        "listen": f"127.0.0.1:{port}",
        "upstream": f"localhost:{to}",
        "half_close_timeout": 1,
        "connect_timeout": 5,
    }
    name, trust, crl = OWN[mode]
    own = {"certificate": f"{name}.crt", "key": f"{name}.key", trust: f"{trust}.crt"}
    if trust not in more:
        own[crl] = f"{crl}.crl"
    return {key: value for key, value in {**common, **own, **more}.items() if value != ""}


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("gateway")
    ports = {name: free_port() for name in (*SERVERS, *CLIENTS)}
    with Service.listening() as service, Service.listening() as remote:
        sections = {
            f"tunnel:{name}": tunnel("server", ports[name], service.port, **more) for name, more in SERVERS.items()
        }
        sections |= {
            f"tunnel:{name}": tunnel("client", ports[name], remote.port, **more) for name, more in CLIENTS.items()
        }
        sections["tunnel:unix"] = tunnel("client", 0, remote.port, listen=f"unix:{folder}/adapter.sock")
        gateway = RunningGateway.made_tunnels(folder, sections)
        issued = make_certificates(folder, gateway)
        with gateway.for_a_while():
            yield Site(gateway, folder, issued, ports, service, remote)


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    yield shared_site
    shared_site.gateway.check_at_rest()
    assert shared_site.service.untouched
    assert shared_site.remote.untouched


MODES = pytest.mark.parametrize("mode", ["server", "client"])


# --- who is let in ----------------------------------------------------------------------------------------------------


def check_refused(site: Site, port: int, context: ssl.SSLContext, reason: str) -> dict[str, Any]:
    """Nobody is dialed. With TLS 1.3 the client hears of it after its own handshake is complete."""
    with Peer.calling(port, context) as client:
        with suppress(ConnectionError, ssl.SSLError):
            client.handshake().send(b"let me in")
            assert not client.receive()
            assert client.end is End.RESET
        record = site.gateway.end_of(client.name)
    assert reason in record["reason"]
    assert record["decision"] == "refused"
    assert "upstream" not in record
    assert site.service.untouched
    return record


def check_passes(client: Peer, service: Peer) -> None:
    client.send(b"there")
    assert service.exactly(5) == b"there"
    service.send(b"and back")
    assert client.exactly(8) == b"and back"


def check_let_in(site: Site, port: int, context: ssl.SSLContext) -> dict[str, Any]:
    with Peer.calling(port, context) as client:
        client.handshake()
        with site.service.accepted() as service:
            check_passes(client, service)
            client.end_sending()
            assert service.ending() is End.ORDERLY
        assert client.ending() is End.ORDERLY
        return site.gateway.end_of(client.name)


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])


@VERSIONS
@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        (None, "peer did not return a certificate"),
        ("foreign", "certificate verify failed"),
        ("other", "certificate verify failed"),
        ("revoked", "certificate revoked"),
        ("expired", "certificate has expired"),
        ("not-yet", "certificate is not yet valid"),
        ("for-servers", "unsuitable certificate purpose"),
    ],
)
def test_bad_certificates(site: Site, certificate: str | None, reason: str, version: ssl.TLSVersion) -> None:
    context = site.caller(certificate)
    context.maximum_version = version
    record = check_refused(site, site.ports["main"], context, reason)
    assert record["reason"].startswith("TLS handshake: ")
    assert "subject" not in record


def test_rules(site: Site) -> None:
    assert check_let_in(site, site.ports["main"], site.caller())["rule"].endswith("line 2: allow meter-* all")
    record = check_refused(site, site.ports["main"], site.caller("denied"), "line 1: deny meter-66 all")
    assert record["subject"] == "meter-66"
    check_refused(site, site.ports["main"], site.caller("unknown"), "denied: no rule matches")
    check_refused(site, site.ports["nobody"], site.caller(), "denied: no rule matches")


def test_rule_about_who_vouches(site: Site) -> None:
    """Both CAs are believed, and both know a meter-7."""
    check_refused(site, site.ports["vouched"], site.caller("meter"), "denied: no rule matches")
    check_let_in(site, site.ports["vouched"], site.caller("other"))


def test_optional_certificate_proves_nothing_by_its_absence(site: Site) -> None:
    check_refused(site, site.ports["optional"], site.caller(None), "denied: no rule matches")
    check_refused(site, site.ports["optional"], site.caller("foreign"), "certificate verify failed")
    check_let_in(site, site.ports["optional"], site.caller())


@pytest.mark.parametrize("alpn", [(), ("http/1.1",), ("h2c", "h")], ids=str)
def test_other_protocols(site: Site, alpn: tuple[str, ...]) -> None:
    reason = "no protocol of ours" if alpn else "negotiated no ALPN protocol"
    check_refused(site, site.ports["main"], site.caller(alpn=alpn), reason)
    check_let_in(site, site.ports["any"], site.caller(alpn=alpn))


def test_one_protocol_among_several(site: Site) -> None:
    with Peer.calling(site.ports["main"], site.caller(alpn=("http/1.1", "h2"))) as client:
        client.handshake()
        assert client.tls is not None
        assert client.tls.selected_alpn_protocol() == "h2"
        with site.service.accepted():
            pass
        assert client.ending() is End.ORDERLY


def test_plain_text_to_the_tls_side(site: Site) -> None:
    with Peer.calling(site.ports["main"]) as client:
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        answer = b""
        while data := client.receive():
            answer += data
        # An alert of TLS, at most.
        assert answer[:1] in (b"", b"\x15")
        assert len(answer) <= 7
        assert "TLS handshake" in site.gateway.end_of(client.name)["reason"]
    assert site.service.untouched


def test_key_in_the_certificate_stays_secret(site: Site) -> None:
    record = check_let_in(site, site.ports["key"], site.caller("thing"))
    assert record["subject"] == f"key:{hashlib.sha256(KEY.encode()).hexdigest()[:16]}"
    check_refused(site, site.ports["key"], site.caller("wrong-thing"), "denied: no rule matches")
    assert KEY not in site.gateway.log.read_text()
    assert KEY not in (site.folder / "audit.jsonl").read_text()


def test_audit(site: Site) -> None:
    serial = serial_text(site.issued["meter"].certificate.serial_number)
    with site.through("server") as (client, service):
        client.send(b"0123456789")
        service.exactly(10)
        service.send(b"not for the audit")
        client.exactly(17)
        (opened,) = [record for record in site.gateway.audit("open") if record["client"] == client.name]
        client.end_sending()
        assert service.ending() is End.ORDERLY
        service.end_sending()
        closed = site.gateway.end_of(client.name)
    known = {
        "listener": "tunnel:main",
        "client": client.name,
        "subject": "meter-7",
        "serial": serial,
        "upstream": f"tunnel:main localhost:{site.service.port}",
        "tls": "TLSv1.3",
        "decision": "allowed",
        "rule": "[tunnel:main] rules, line 2: allow meter-* all",
    }
    both = {"time", "event", "connection"}
    assert known.items() <= opened.items()
    assert set(opened) == set(known) | both
    expected = {**known, "from_client": 10, "to_client": 17, "reason": "the client closed the connection"}
    assert expected.items() <= closed.items()
    assert set(closed) == set(expected) | both | {"seconds"}
    assert "not for" not in (site.folder / "audit.jsonl").read_text() + site.gateway.log.read_text()


# --- the end of a stream ----------------------------------------------------------------------------------------------


def half_closed(site: Site, stack: ExitStack) -> list[tuple[Peer, Peer]]:
    """Of each mode and in each direction an open tunnel in which the first one has ended."""
    found = []
    for mode in ("server", "client"):
        for first in (0, 1):
            ends = stack.enter_context(site.through(mode))
            ending, going_on = ends[first], ends[1 - first]
            ending.send(b"that is all")
            ending.end_sending()
            assert going_on.exactly(11) == b"that is all"
            assert going_on.ending() is End.ORDERLY
            found.append((ending, going_on))
    return found


def test_half_close(site: Site) -> None:
    """Data go on in the other direction for longer than half_close_timeout, which is about silence."""
    with ExitStack() as stack:
        tunnels = half_closed(site, stack)
        until = time.monotonic() + 3
        while time.monotonic() < until:
            for ending, going_on in tunnels:
                going_on.send(b"more")
                assert ending.exactly(4) == b"more"
            time.sleep(0.3)
        for ending, going_on in tunnels:
            going_on.end_sending()
            assert ending.ending() is End.ORDERLY


def test_half_close_timeout(site: Site) -> None:
    with ExitStack() as stack:
        began = time.monotonic()
        tunnels = half_closed(site, stack)
        for ending, _ in tunnels:
            assert ending.ending() is End.RESET
        assert 0.9 < time.monotonic() - began < 4


@MODES
def test_close_notify_alone_is_an_end(site: Site, mode: str) -> None:
    """RFC 8446, 6.1: no FIN has to come with it."""
    with site.through(mode) as (client, service):
        secure, plain = (client, service) if mode == "server" else (service, client)
        secure.close_notify()
        assert plain.ending() is End.ORDERLY
        plain.send(b"still here")
        assert secure.exactly(10) == b"still here"
        plain.end_sending()
        assert secure.ending() is End.ORDERLY


@MODES
@pytest.mark.parametrize("way", [Peer.cut, Peer.reset])
@pytest.mark.parametrize("who", ["client", "upstream"])
def test_broken_stream_never_looks_complete(site: Site, mode: str, who: str, way: Callable[[Peer], None]) -> None:
    """A FIN in the middle of TLS is what an attacker on the way can send (RFC 8446, 6.1)."""
    with site.through(mode) as (client, service):
        check_passes(client, service)
        breaking, other = (client, service) if who == "client" else (service, client)
        if way is Peer.cut and breaking.tls is None:
            return  # a FIN is the orderly end of a plain stream
        way(breaking)
        assert other.ending() is End.RESET
        assert f"the {who}'s connection broke" in site.gateway.end_of(client.name)["reason"]


@MODES
def test_half_an_answer(site: Site, mode: str) -> None:
    """Then the service dies: what was said before may come, but no end."""
    with site.through(mode) as (client, service):
        service.send(b"x" * 100_000)
        service.reset()
        got = 0
        while data := client.receive():
            got += len(data)
        assert got <= 100_000
        assert client.end is End.RESET


# --- expiry, reload, shutdown -----------------------------------------------------------------------------------------


def test_expired_certificate_ends_the_connection_in_use(site: Site) -> None:
    brief = issue(site.issued["ca"], "meter-9", valid=(-1, 2.0 / DAY))
    expires = brief.certificate.not_valid_after_utc.timestamp()
    brief.write(site.folder, "brief")
    with Peer.calling(site.ports["main"], site.caller("brief")) as client:
        client.handshake()
        with site.service.accepted() as service:
            ping_until_it_ends(client, service)
            assert expires <= time.time() < expires + 2
            assert (client.end or client.ending()) is End.RESET
            assert (service.end or service.ending()) is End.RESET
        assert site.gateway.end_of(client.name)["reason"] == "the certificate has expired"


def ping_until_it_ends(client: Peer, service: Peer) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for source, sink in ((client, service), (service, client)):
            try:
                source.send(b"ping")
            except ConnectionError:
                return
            if not sink.receive():
                return
        time.sleep(0.02)
    pytest.fail("it goes on and on")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def own_site(stack: ExitStack, folder: Path, more: Sections, *, to: int | None = None) -> Site:
    """A gateway for one test, with the tunnels main and adapter."""
    service, remote = (stack.enter_context(Service.listening()) for _ in range(2))
    ports = {name: free_port() for name in ("main", "adapter")}
    server = tunnel("server", ports["main"], to or service.port, rules="\nallow meter-* all")
    sections = {"tunnel:main": server, "tunnel:adapter": tunnel("client", ports["adapter"], to or remote.port), **more}
    gateway = RunningGateway.made_tunnels(folder, sections)
    issued = make_certificates(folder, gateway)
    stack.enter_context(gateway.for_a_while())
    return Site(gateway, folder, issued, ports, service, remote)


def test_reload(tmp_path: Path, stack: ExitStack) -> None:
    """Rules, and another upstream: for connections to come. Rules also for who is still at the door, and a revocation
    for those who are in."""
    site = own_site(stack, tmp_path, {})
    port, gateway = site.ports["main"], site.gateway
    at_the_door = stack.enter_context(Peer.calling(port, site.caller("meter")))
    with site.through("server") as (client, service), Service.listening() as another:
        section = gateway.sections["tunnel:main"]
        gateway.reconfigure({"tunnel:main": {**section, "rules": "\nallow stranger-* all"}})
        check_passes(client, service)
        at_the_door.handshake()
        assert at_the_door.ending() is End.RESET
        assert gateway.end_of(at_the_door.name)["reason"] == "denied: no rule matches"
        check_refused(site, port, site.caller("meter"), "denied: no rule matches")
        check_let_in(site, port, site.caller("unknown"))
        upstream = f"127.0.0.1:{another.port}"
        gateway.reconfigure({"tunnel:main": {**section, "rules": "\nallow all all", "upstream": upstream}})
        newer = stack.enter_context(Peer.calling(port, site.caller("unknown"))).handshake()
        behind = stack.enter_context(another.accepted())
        check_passes(newer, behind)
        check_passes(client, service)
        revoked = [site.issued["meter"], site.issued["revoked"]]
        write_pem(tmp_path / "client_crl.crl", make_crl(site.issued["ca"], revoked))
        gateway.reload()
        assert [one.ending() for one in (client, service)] == [End.RESET] * 2
        assert gateway.end_of(client.name)["reason"] == "the client certificate is not trusted any more"
        check_refused(site, port, site.caller("meter"), "certificate revoked")
        (tmp_path / "client_ca.crt").unlink()
        gateway.reload(succeeds=False)
        check_refused(site, port, site.caller("meter"), "certificate revoked")
        check_passes(newer, behind)


@MODES
def test_sigterm(tmp_path: Path, stack: ExitStack, mode: str) -> None:
    """The idle one ends at once, the busy one goes on for shutdown_grace; neither end looks like one in order."""
    site = own_site(stack, tmp_path, {"gateway": {"shutdown_grace": 1}})
    with site.through(mode) as idle, site.through(mode) as (client, service), pouring(service):
        check_passes(*idle)
        assert site.gateway.process is not None
        site.gateway.process.terminate()
        began = time.monotonic()
        assert [one.ending() for one in idle] == [End.RESET] * 2
        assert time.monotonic() < began + 0.8, "the idle one waited for the busy one"
        while client.receive():
            time.sleep(0.002)
        assert client.end is End.RESET
        assert 0.9 < time.monotonic() - began < 8
        assert site.gateway.process.wait(PATIENCE) == 0
        assert [record["reason"] for record in site.gateway.audit()][-2:] == ["the gateway is shutting down"] * 2
    assert "Traceback" not in site.gateway.log.read_text()


@contextmanager
def pouring(source: Peer) -> Iterator[None]:
    """More than anybody takes, until it is cut off."""

    def pour() -> None:
        with suppress(ConnectionError):
            while True:
                source.send(bytes(65_536))

    thread = threading.Thread(target=pour)
    thread.start()
    try:
        yield
    finally:
        source.socket.close()
        thread.join()


def test_limit_for_each_subject(tmp_path: Path, stack: ExitStack) -> None:
    site = own_site(stack, tmp_path, {"limits": {"max_connections_per_subject": 2}})
    with site.through("server") as first:
        with site.through("server") as second:
            check_refused(site, site.ports["main"], site.caller(), "too many connections of this subject")
            check_passes(*second)
        site.gateway.end_of(second[0].name)
        check_let_in(site, site.ports["main"], site.caller())
        check_passes(*first)


# --- an upstream in trouble -------------------------------------------------------------------------------------------


def test_upstream_down(tmp_path: Path, stack: ExitStack) -> None:
    dead = free_port()
    site = own_site(stack, tmp_path, {}, to=dead)
    with Peer.calling(site.ports["main"], site.caller()) as client:
        client.handshake()
        assert client.ending() is End.RESET
        record = site.gateway.end_of(client.name)
        assert record["reason"] == f"upstream tunnel:main localhost:{dead}: Connection refused"
        assert record["subject"] == "meter-7"
    with Peer.calling(site.ports["adapter"]) as local:
        assert local.ending() is End.RESET
        assert "Connection refused" in site.gateway.end_of(local.name)["reason"]
    site.gateway.check_at_rest()


def test_failover(tmp_path: Path, stack: ExitStack) -> None:
    """To the first address that answers, over TLS also if it has the right certificate."""
    dead, port, local_port = free_port(), free_port(), free_port()
    wrong, right, plain = (stack.enter_context(Service.listening()) for _ in range(3))
    server = tunnel("server", port, 0, upstream=f"127.0.0.1:{dead}, 127.0.0.1:{plain.port}", rules="\nallow all all")
    hosts = ", ".join(f"localhost:{one}" for one in (dead, wrong.port, right.port))
    site = own_site(stack, tmp_path, {"tunnel:a": server, "tunnel:b": tunnel("client", local_port, 0, upstream=hosts)})
    with Peer.calling(port, site.caller()) as client:
        client.handshake()
        with plain.accepted() as service:
            check_passes(client, service)
        assert client.ending() is End.ORDERLY
    with Peer.calling(local_port) as local:
        local.send(b"only for the right one")
        with wrong.accepted(site.host("remote-other-name")) as service:
            service.handshake()
            assert service.ending() is not End.ORDERLY
        with right.accepted(site.host()) as service:
            service.handshake()
            assert service.exactly(22) == b"only for the right one"
            check_passes(local, service)
        assert local.ending() is End.RESET
    site.gateway.check_at_rest()


# --- mode = client: a remote that is not the one meant ----------------------------------------------------------------


def check_not_believed(site: Site, name: str, remote: ssl.SSLContext | None, reason: str) -> None:
    """The local client gets no byte and sees its connection broken; the remote gets nothing of what it said."""
    with Peer.calling(site.ports[name]) as local:
        local.send(b"a secret for the right one")
        with site.remote.accepted(remote) as service:
            if remote is None:
                service.send(b"HTTP/1.1 400 Bad Request\r\n\r\nwhat you sent is no plain HTTP")
                assert b"a secret" not in service.receive()
            else:
                with suppress(ConnectionError, ssl.SSLError):
                    service.handshake()
                    service.send(b"trust me")
                    assert not service.receive()
            assert local.ending() is End.RESET
        assert reason in site.gateway.end_of(local.name)["reason"]


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        ("remote-other-name", "the upstream's certificate is not for localhost"),
        ("remote-only-cn", "the upstream's certificate is not for localhost"),
        ("remote-foreign", "certificate verify failed"),
        ("remote-expired", "certificate has expired"),
        ("remote-revoked", "certificate revoked"),
    ],
)
def test_remote_with_a_wrong_certificate(site: Site, certificate: str, reason: str) -> None:
    check_not_believed(site, "adapter", site.host(certificate), reason)


def test_remote_without_tls(site: Site) -> None:
    check_not_believed(site, "adapter", None, "TLS handshake: ")
    check_not_believed(site, "unverified", None, "TLS handshake: ")


def test_remote_that_speaks_something_else(site: Site) -> None:
    check_not_believed(site, "adapter", site.host(alpn=()), "it negotiated no ALPN protocol")
    check_not_believed(site, "adapter", site.host(alpn=("http/1.1",)), "it negotiated no ALPN protocol")


def check_believed(site: Site, at: str | Path, remote: ssl.SSLContext | None) -> None:
    with Peer.calling(at if isinstance(at, Path) else site.ports[at]) as local:
        local.send(b"hello")
        with site.remote.accepted(remote) as service:
            if remote is not None:
                service.handshake()
            assert service.exactly(5) == b"hello"
            check_passes(local, service)
            local.end_sending()
            assert service.ending() is End.ORDERLY
            service.end_sending()
            assert local.ending() is End.ORDERLY


def test_remote_that_is_believed(site: Site) -> None:
    check_believed(site, "adapter", site.host())
    check_believed(site, "any-alpn", site.host(alpn=()))


def test_it_shows_its_certificate(site: Site) -> None:
    with Peer.calling(site.ports["adapter"]), site.remote.accepted(site.host()) as service:
        service.handshake()
        assert service.tls is not None
        shown = service.tls.getpeercert() or {}
        assert shown["subject"] == ((("commonName", "http-adapter"),),)
        assert service.tls.selected_alpn_protocol() == "h2"


def test_less_verification_where_it_is_said(site: Site) -> None:
    """verify-ca: any name; require: anybody; disable: no TLS at all."""
    check_believed(site, "named", site.host("remote-other-name"))
    check_not_believed(site, "named", site.host("remote-foreign"), "certificate verify failed")
    check_believed(site, "unverified", site.host("remote-foreign"))
    check_believed(site, "clear", None)


def test_client_on_a_unix_socket(site: Site) -> None:
    check_believed(site, site.folder / "adapter.sock", site.host())


def test_remote_that_never_says_a_word(tmp_path: Path, stack: ExitStack) -> None:
    port, silent = free_port(), stack.enter_context(Service.listening())
    site = own_site(stack, tmp_path, {"tunnel:slow": tunnel("client", port, silent.port, connect_timeout=1)})
    with Peer.calling(port) as local, silent.accepted():
        assert local.ending() is End.RESET
        assert "longer than connect_timeout" in site.gateway.end_of(local.name)["reason"]


# --- a start that is refused ------------------------------------------------------------------------------------------

NO_FILES = {"root_certificate": "", "certificate": "", "key": ""}
LOCAL_ONLY = "listen: is plain with mode = client, so only"
# The mode, what is said in its section, and what is said of that, beside the section.
REFUSED: list[tuple[str, dict[str, object], str]] = [
    ("client", {"listen": "*:7183"}, LOCAL_ONLY),
    ("client", {"listen": "192.0.2.1:7184"}, LOCAL_ONLY),
    ("client", {"listen": "[::]:7185"}, LOCAL_ONLY),
    ("client", {"root_certificate": "missing.crt"}, "root_certificate: "),
    ("client", {"root_certificate": "empty.crt"}, "root_certificate: "),
    ("client", {"root_certificate": "."}, "root_certificate: "),
    ("client", {"root_certificate": "garbage.crt"}, "root_certificate: "),
    ("client", {"crl": "missing.crl"}, "crl: "),
    ("client", {"certificate": "missing.crt"}, "certificate: "),
    ("client", {"key": "missing.key"}, "key: "),
    ("client", {"key": "meter.key"}, "key: "),
    ("client", {"key": ""}, "key: "),
    ("client", {"tls": "disable", **NO_FILES}, "tls: is disable, so nothing is encrypted"),
    ("client", {"tls": "require", "root_certificate": ""}, "tls: is require without a root_certificate"),
    ("client", {"rules": "\nallow all all"}, "rules: is for mode = server only"),
    ("server", {"client_ca": "missing.crt"}, "client_ca: "),
    ("server", {"client_ca": "empty.crt"}, "client_ca: "),
    ("server", {"client_ca": ""}, "client_ca: is required"),
    ("server", {"client_crl": "missing.crl"}, "client_crl: "),
    ("server", {"rules": "\nallow all all ca=missing.crt"}, "rules, line 1: "),
    ("server", {"rules": "\nallow all all method=GET"}, "rules, line 1: "),
    ("server", {"insecure": "yes"}, "insecure: is for mode = client only"),
]


def test_refused_start(tmp_path: Path) -> None:
    """All that is wrong at once, a line for each, and nobody listens."""
    port = free_port()
    sections = {"tunnel:good": tunnel("client", port, 7)}
    sections |= {
        f"tunnel:{number:02}": tunnel(mode, free_port(), 7, **more) for number, (mode, more, _) in enumerate(REFUSED)
    }
    gateway = RunningGateway.made_tunnels(tmp_path, sections)
    make_certificates(tmp_path, gateway)
    (tmp_path / "empty.crt").touch()
    (tmp_path / "garbage.crt").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    gateway.start(wait=False)
    assert gateway.process is not None
    assert gateway.process.wait(PATIENCE) == 1
    said = sorted(gateway.log.read_text().splitlines())
    assert len(said) == len(REFUSED), said
    for line, (number, (_, _, told)) in zip(said, enumerate(REFUSED), strict=True):
        assert line.startswith(f"[tunnel:{number:02}] {told}")
        assert line.partition(": ")[2]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port))


# --- load, and somebody else's TLS ------------------------------------------------------------------------------------


@MODES
def test_64_megabytes_each_way(site: Site, mode: str) -> None:
    block = os.urandom(1_048_576)
    sent, count = hashlib.sha256(), 64
    for _ in range(count):
        sent.update(block)

    def pour(peer: Peer) -> None:
        for _ in range(count):
            peer.send(block)
        peer.end_sending()

    for reverse in (False, True):
        with site.through(mode) as ends:
            source, sink = reversed(ends) if reverse else ends
            pouring = threading.Thread(target=pour, args=(source,))
            pouring.start()
            got = hashlib.sha256()
            while data := sink.receive():
                got.update(data)
            pouring.join()
            assert sink.end is End.ORDERLY
            assert got.digest() == sent.digest()
            sink.end_sending()
            assert source.ending() is End.ORDERLY


@pytest.mark.usefixtures("openssl_program")
def test_openssl_s_client(site: Site) -> None:
    certificate, key = site.files("meter")
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{site.ports['main']}", "-alpn", "h2", "-brief"]
    command += ["-cert", str(certificate), "-key", str(key), "-CAfile", str(site.gateway.root_certificate)]
    command += ["-verify_return_error", "-verify_hostname", "localhost", "-ign_eof"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as client:  # type: ignore[call-overload]
        assert client.stdin is not None
        client.stdin.write(b"hello\n")
        client.stdin.flush()
        with site.service.accepted() as service:
            assert service.exactly(6) == b"hello\n"
            service.send(b"and hello to you\n")
            service.end_sending()
            out, err = client.communicate(timeout=PATIENCE)
        assert b"and hello to you" in out
        assert b"Verification: OK" in err
        assert client.returncode == 0
