"""`securegw sessions` and a gateway that runs: what it lists, and what its commands do to clients of every protocol."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway import control
from gateway.cli.errors import Failure
from gateway.cli.main import securegw
from gateway.cli.running import ask, enter, follow
from gateway.wire.mqtt_packets import (
    Disconnect,
    PubAck,
    Publish,
    Reason,
    SubAck,
    Subscribe,
    Subscription,
    Version,
    Will,
)
from tests.e2e.https_clients import Caller
from tests.e2e.tunnels import Peer, Service, caller_context
from tests.e2e.wss_clients import WebSocket, open_with_websockets
from tests.gateways import RunningGateway, Sections, behind, wait_until
from tests.pki import issue
from tests.raw_client import RawClient
from tests.raw_https import End, RawHTTPS
from tests.raw_mqtt import RawMQTT, connect_of
from tests.servers import PostgresServer, free_port
from tests.things import Device, Workshop, topic

PASSWORD = "a secret of the server"
KILLED = f"killed by an operator (user {os.geteuid()})"


# A listener, for there has to be one.
NOBODYS: Sections = {"tunnel:none": {"mode": "client", "listen": f"127.0.0.1:{free_port()}", "upstream": "localhost:1"}}


def run(gateway: RunningGateway, *arguments: str) -> Result:
    return CliRunner().invoke(securegw, ["-c", str(gateway.folder / "gw.ini"), "sessions", *arguments])


@dataclass(frozen=True, slots=True)
class Site:
    """things: one for each of HTTPS, WSS and MQTT, all of them connected to `channel`."""

    gateway: RunningGateway
    workshop: Workshop
    channel: str
    things: tuple[Device, Device, Device]
    service: Service
    postgres_port: int
    tunnel_port: int

    @property
    def socket(self) -> Path:
        return self.gateway.folder / "control.sock"

    def run(self, *arguments: str) -> Result:
        return run(self.gateway, *arguments)

    def ok(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.ok("list", "--json", *arguments))
        return found

    def killed(self, *arguments: str) -> int:
        return int(json.loads(self.ok("kill", "--json", *arguments))["killed"])


@pytest.fixture(scope="module")
def server(embedded_postgres: PostgresServer) -> PostgresServer:
    embedded_postgres.make_role("alice", PASSWORD)
    return embedded_postgres


@pytest.fixture(scope="module")
def shared_site(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    postgres, tunnel = free_port(), free_port()
    with ExitStack() as stack:
        service = stack.enter_context(Service.listening())
        sections: Sections = {
            "control": {"socket": "control.sock"},
            "jwt:main": {"public_keys": "jwt.pub"},
            "upstream:main": behind(server, password=PASSWORD),
            "postgres:main": {
                "listen": f"127.0.0.1:{postgres}",
                "rules": "\nallow all alice 127.0.0.0/8\nallow all alice 203.0.113.0/24",
            },
            "tunnel:main": {
                "mode": "server",
                "listen": f"127.0.0.1:{tunnel}",
                "upstream": f"127.0.0.1:{service.port}",
                "certificate": "server.crt",
                "key": "server.key",
                "client_ca": "ca.crt",
                "rules": "\nallow meter-7 all",
            },
        }
        gateway = RunningGateway.made_mqtt(tmp_path_factory.mktemp("gateway"), sections)
        key = gateway.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (gateway.folder / "jwt.pub").write_bytes(key)
        workshop = stack.enter_context(Workshop.of(gateway))
        channel = workshop.channel()
        things = workshop.thing(channel), workshop.thing(channel), workshop.thing(channel)
        stack.enter_context(gateway.for_a_while())
        yield Site(gateway, workshop, channel, things, service, postgres, tunnel)


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    yield shared_site
    shared_site.gateway.check_at_rest()


@dataclass(frozen=True, slots=True)
class Clients:
    """Each has been let in, and has spoken."""

    postgres: RawClient
    https: RawHTTPS
    wss: WebSocket
    mqtt: RawMQTT
    tunnel: Peer


@contextmanager
def everybody(site: Site) -> Iterator[Clients]:
    gateway, trust = site.gateway, site.gateway.root_certificate
    poster, listener, speaker = site.things
    with ExitStack() as stack:
        postgres = stack.enter_context(RawClient.connected(site.postgres_port, trust))
        postgres.log_in("alice", gateway.token("alice", jti="token-1"))
        https = stack.enter_context(closing(RawHTTPS(gateway.https_port, trust, poster.certificate)))
        https.handshake()
        head = f"POST /http/{topic(site.channel)} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {poster.key}\r\n"
        assert https.ask(f"{head}Content-Length: 1\r\n\r\nx".encode()).status == 202
        path = f"/ws/{topic(site.channel)}?authorization={listener.key}"
        wss = stack.enter_context(open_with_websockets(Caller.of(gateway, listener.certificate), path))
        mqtt = stack.enter_context(RawMQTT.connected(gateway.mqtt_port, trust, speaker.certificate))
        will = Will(topic(site.channel, "will"), b"last words")
        assert mqtt.log_in(connect_of(speaker, Version.V5, "speaker", will=will)).code == 0
        certificate = issue(gateway.ca, "meter-7").write(gateway.folder, "meter")
        tunnel = stack.enter_context(Peer.calling(site.tunnel_port, caller_context(trust, certificate)))
        tunnel.handshake()
        behind_it = stack.enter_context(site.service.accepted())
        behind_it.send(b"welcome")
        assert tunnel.exactly(7) == b"welcome"
        yield Clients(postgres, https, wss, mqtt, tunnel)


# --- what is told ---------------------------------------------------------------------------------------------------


def test_sessions_of_all_protocols_are_listed(site: Site) -> None:
    with everybody(site) as clients:
        found = {(one["listener"], one["subject"]): one for one in site.listed()}
        poster, listener, speaker = (one.id for one in site.things)
        assert set(found) == {
            ("postgres:main", "alice"),
            ("https:main", poster),
            ("https:main", listener),
            ("mqtt:main", speaker),
            ("tunnel:main", "meter-7"),
        }
        assert all(one["state"] == "open" for one in found.values())
        login = found["postgres:main", "alice"]
        assert (login["database"], login["user"], login["jti"]) == ("postgres", "alice", "token-1")
        assert login["client"] == clients.postgres.name
        assert found["mqtt:main", speaker]["client_id"].endswith("speaker")
        assert found["tunnel:main", "meter-7"]["bytes"] == 7
        assert found["tunnel:main", "meter-7"]["serial"]
        table = site.ok("list", "--listener", "postgres")
        assert [line.split()[1:3] for line in table.splitlines()] == [
            ["LISTENER", "IDENTITY"],
            ["postgres:main", "alice"],
        ]
        assert [one["listener"] for one in site.listed("--identity", "meter-7")] == ["tunnel:main"]
        assert site.listed("--identity", "meter") == []
        counters = json.loads(site.ok("counters", "--json"))
        assert counters["connections"] == 5
        assert "connections" in site.ok("counters")
        text = json.dumps(site.listed())
        assert not any(one.key in text for one in site.things)


# --- kills ----------------------------------------------------------------------------------------------------------


def check_killed(site: Site, name: str) -> None:
    assert site.gateway.end_of(name)["reason"] == KILLED


def test_killed_by_id_each_is_told_in_its_protocols_words(site: Site) -> None:
    with everybody(site) as clients:
        chosen = [argument for one in site.listed() for argument in ("--id", str(one["id"]))]
        assert site.ok("kill", *chosen) == "5 sessions killed.\n"
        refusal = clients.postgres.refusal()
        assert (refusal["C"], refusal["M"]) == ("57P01", "terminating connection due to administrator command")
        assert clients.mqtt.hear_all() == [Disconnect(Reason.ADMINISTRATIVE_ACTION)]
        assert clients.wss.end()[0] == 1008
        assert clients.https.ending() in (End.ORDERLY, End.CUT, End.RESET)
        assert clients.tunnel.ending() is End.RESET
    for one in (clients.postgres, clients.mqtt, clients.tunnel):
        check_killed(site, one.name)
    record = site.gateway.audit("kill")[-1]
    assert (record["uid"], record["killed"], len(record["connections"])) == (os.geteuid(), 5, 5)


@pytest.mark.parametrize("way", ["--jti", "--identity"])
def test_killed_by_token_or_identity_nobody_else_notices(site: Site, way: str) -> None:
    with everybody(site) as clients:
        assert site.killed(way, {"--jti": "token-1", "--identity": "alice"}[way]) == 1
        assert clients.postgres.refusal()["C"] == "57P01"
        clients.mqtt.check_alive()
        clients.wss.send("still there")
        assert len(site.listed()) == 4


def test_killed_by_the_serial_of_its_certificate(site: Site) -> None:
    with everybody(site) as clients:
        (serial,) = (one["serial"] for one in site.listed("--listener", "tunnel:main"))
        shown = serial.upper().rjust(len(serial) + len(serial) % 2, "0")
        colons = ":".join(shown[at : at + 2] for at in range(0, len(shown), 2))
        assert site.killed("--serial", colons) == 1
        assert clients.tunnel.ending() is End.RESET
        clients.mqtt.check_alive()


def test_whoever_is_killed_has_no_last_word(site: Site) -> None:
    trust, speaker = site.gateway.root_certificate, site.things[2]
    with (
        everybody(site) as clients,
        RawMQTT.connected(site.gateway.mqtt_port, trust, site.things[0].certificate) as watcher,
    ):
        watcher.log_in(connect_of(site.things[0], Version.V5, "watcher"))
        assert isinstance(watcher.exchange(Subscribe(1, (Subscription(topic(site.channel, "will")),))), SubAck)
        assert site.killed("--identity", speaker.id) == 1
        assert clients.mqtt.hear_all() == [Disconnect(Reason.ADMINISTRATIVE_ACTION)]
        answer = watcher.exchange(Publish(topic(site.channel, "else"), b"x", 1, packet_id=1))
        assert isinstance(answer, PubAck)
        watcher.check_alive()


def test_where_there_is_none(site: Site) -> None:
    with everybody(site) as clients:
        for way in (("--identity", "Alice"), ("--identity", "alic"), ("--jti", "x"), ("--serial", "1"), ("--id", "0")):
            result = site.run("kill", *way)
            assert (result.exit_code, result.stdout) == (1, "")
            assert "no such session" in result.stderr
        assert clients.postgres.value("SELECT 1") == "1"


# --- a reload -------------------------------------------------------------------------------------------------------


def test_a_reload_and_one_that_fails(site: Site) -> None:
    gateway = site.gateway
    before = gateway.log.read_text().count("reloaded")
    assert site.ok("reload") == "Reloaded.\n"
    wait_until(lambda: gateway.log.read_text().count("reloaded") > before, "it says so")
    rules = gateway.sections["tunnel:main"]["rules"]
    try:
        gateway.sections["tunnel:main"]["rules"] = "\nallow everything"
        gateway.write_ini()
        result = site.run("reload")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "everything stays as it was" in result.stderr
        assert "[tunnel:main] rules, line 1:" in result.stderr
        # Sessions can be looked at and killed, although the INI cannot be used now.
        assert site.listed() == []
    finally:
        gateway.sections["tunnel:main"]["rules"] = rules
        gateway.write_ini()
    assert site.ok("reload") == "Reloaded.\n"
    assert [one.get("reason") for one in gateway.audit("reload")[-3:]] == [None, "failed", None]


def test_the_socket_needs_a_restart_to_change(site: Site) -> None:
    gateway = site.gateway
    try:
        gateway.sections["control"]["socket"] = "other.sock"
        gateway.write_ini()
        answer = ask(site.socket, control.Reload())
        assert isinstance(answer, control.Refused)
        assert answer.reasons == ("[control] socket: a change needs a restart",)
    finally:
        gateway.sections["control"]["socket"] = "control.sock"
        gateway.write_ini()
    assert ask(site.socket, control.Reload()) == control.Done()


# --- from anywhere --------------------------------------------------------------------------------------------------


@contextmanager
def entered(site: Site, listener: str, address: str, folder: Path) -> Iterator[RawClient]:
    """A client whose other end entered from that address."""
    with socket.socket(socket.AF_UNIX) as between:
        path = folder / "between.sock"
        between.bind(str(path))
        between.listen()
        with closing(RawClient(path, site.gateway.root_certificate)) as client:
            accepted, _ = between.accept()
            with accepted:
                assert ask(site.socket, control.Enter(listener, address), accepted.fileno()) == control.Done()
            yield client
        path.unlink()


def test_rules_are_about_the_address_that_was_entered_from(site: Site, tmp_path: Path) -> None:
    token = site.gateway.token("alice")
    with entered(site, "postgres:main", "203.0.113.9", tmp_path) as client:
        client.start_tls()
        client.log_in("alice", token)
        assert client.value("SELECT 1") == "1"
        assert [one["client"] for one in site.listed()] == ["203.0.113.9"]
    assert site.gateway.end_of("203.0.113.9")["decision"] == "allowed"
    with entered(site, "postgres:main", "198.51.100.1", tmp_path) as client:
        client.start_tls()
        client.send_login("alice", token)
        assert client.refusal()["C"] == "28000"
    assert site.gateway.end_of("198.51.100.1")["decision"] == "refused"
    probes = [(one["listener"], one["client"], one["uid"]) for one in site.gateway.audit("probe")]
    assert probes == [("postgres:main", address, os.geteuid()) for address in ("203.0.113.9", "198.51.100.1")]


def test_a_socket_of_its_own(site: Site) -> None:
    connection, theirs = socket.socketpair()
    with theirs:
        enter(site.socket, "health", "127.0.0.1", theirs)
    with connection:
        connection.settimeout(10)
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize(
    ("listener", "address", "words"),
    [
        ("postgres:none", "192.0.2.1", "no listener of that name; there are health, https:main, mqtt:main, postgres"),
        ("postgres:main", "example.org", "not an IP address"),
        ("postgres:main", "", "not an IP address"),
        ("postgres:main", "fe80::1%lo", "one of this machine's links alone"),
    ],
)
def test_where_and_whence_are_checked(site: Site, listener: str, address: str, words: str) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs, pytest.raises(Failure, match=words):
            ask(site.socket, control.Enter(listener, address), theirs.fileno())
        assert ours.recv(1) == b""


# --- the end --------------------------------------------------------------------------------------------------------


def test_a_drain_waits_for_who_is_at_it(server: PostgresServer, tmp_path: Path) -> None:
    sections: Sections = {
        "control": {"socket": "control.sock"},
        "upstream:main": behind(server, password=PASSWORD),
    }
    with RunningGateway.running(tmp_path / "gateway", sections) as gateway:
        path = gateway.folder / "control.sock"
        with RawClient.connected(gateway.port, gateway.root_certificate) as client:
            client.log_in("alice", gateway.token("alice"))
            client.ask("BEGIN")
            lines = follow(path, control.Drain())
            assert next(lines) == control.Left(1)
            assert ask(path, control.Reload()) == control.Done()  # it can be asked until its end
            assert next(follow(path, control.Drain())) == control.Left(1)  # again is no second signal
            client.ask("COMMIT")
            assert client.refusal()["C"] == "57P01"
            assert {answer for answer in lines if answer != control.Left(1)} <= {control.Left(0)}
        process = gateway.process
        assert process is not None
        assert process.wait(1) == 0
        assert not path.exists()
        assert [one["uid"] for one in gateway.audit("drain")] == [os.geteuid()]


def test_the_drain_of_one_that_is_idle(tmp_path: Path) -> None:
    with RunningGateway.tunnels(tmp_path / "gateway", {"control": {"socket": "c.sock"}, **NOBODYS}) as gateway:
        result = run(gateway, "drain")
        assert (result.exit_code, result.stdout) == (0, "The gateway has ended.\n"), result.output
        assert gateway.process is not None
        assert gateway.process.wait(1) == 0
        result = run(gateway, "list")
        assert result.exit_code == 1
        assert "is the gateway running" in result.stderr
