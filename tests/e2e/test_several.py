"""Several of everything in one process: listeners, upstreams, issuers, certificates, ways from a token to a role."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.gateways import RunningGateway, behind, wait_until
from tests.pki import Issued, issue, make_ca
from tests.raw_client import RawClient
from tests.servers import PostgresServer, free_port

PASSWORDS = {"one": "the first server's", "two": "the second server's"}


@pytest.fixture(scope="module")
def servers(embedded_postgres: PostgresServer, debian_postgres: PostgresServer) -> dict[str, PostgresServer]:
    found = {"one": embedded_postgres, "two": debian_postgres}
    for name, server in found.items():
        for role in ("alice", "bob", "reader", "reporting"):
            server.make_role(role, PASSWORDS[name])
        server.make_role("carol", "her own")
    return found


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {name: free_port() for name in ("one", "two", "claim", "other-issuer")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def certificates(folder: Path) -> dict[str, Issued]:
    """By their names; the first is a listener's own."""
    ca = make_ca("of the names")
    found = {
        "own": issue(ca, "own.example", sans=["own.example"]),
        "a": issue(ca, "a.example", sans=["a.example"]),
        "wild": issue(ca, "wild", sans=["*.wild.example"]),
    }
    for name, issued in found.items():
        issued.write(folder, name)
    return found


@pytest.fixture(scope="module")
def other(folder: Path) -> RunningGateway:
    """Never started: another issuer of tokens, and its key."""
    return RunningGateway.made(folder / "other", {})


@pytest.fixture(scope="module")
def gateway(
    servers: dict[str, PostgresServer],
    ports: dict[str, int],
    folder: Path,
    certificates: dict[str, Issued],
    other: RunningGateway,
) -> Iterator[RunningGateway]:
    listen = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    sections: dict[str, dict[str, object]] = {
        "jwt:other": {"public_keys": other.folder / "jwt.pub", "issuer": "the other", "audience": "one, two"},
        "upstream:main": {"hosts": "/nowhere:1"},
        "upstream:one": behind(servers["one"], password=PASSWORDS["one"]),
        "upstream:two": behind(servers["two"], password=PASSWORDS["two"]),
        "login:carol": {"upstream": "two", "password": "her own"},
        "postgres:one": {
            "listen": listen["one"],
            "upstream": "one",
            "rules": "\nallow postgres alice 127.0.0.0/8\nallow all bob all role=reader",
            "certificate": "own.crt",
            "key": "own.key",
            "sni": "\na.crt a.key\nwild.crt wild.key",
        },
        "postgres:two": {
            "listen": listen["two"],
            "upstream": "two",
            "rules": "\ndeny all alice all\nallow all all all",
            "minimum_version": "1.3",
        },
        "postgres:claim": {
            "listen": listen["claim"],
            "upstream": "one",
            "role": "claim:db_role",
            "rules": "\nallow all alice,bob all",
        },
        "postgres:other-issuer": {
            "listen": listen["other-issuer"],
            "upstream": "one",
            "jwt": "other",
            "rules": "\nallow all all all",
        },
    }
    with RunningGateway.running(folder, sections) as gateway:
        yield gateway
        gateway.check_at_rest()


def role_of(port: int, user: str, token: str) -> str | None:
    """The role that the user is upstream; None: not let in."""
    with RawClient.connected(port) as client:
        client.send_login(user, token)
        kinds = {}
        for kind, body in client.messages():
            kinds[kind] = body
            if kind in (b"Z", b"E"):
                break
        if b"E" in kinds:
            assert b"C28" in kinds[b"E"]
            return None
        return client.value("SELECT current_user")


def opened(gateway: RunningGateway, listener: str) -> list[str]:
    """The upstreams of that listener's sessions so far."""
    return [entry["upstream"] for entry in gateway.audit("open") if entry["listener"] == f"postgres:{listener}"]


def test_each_listener_has_its_upstream(
    gateway: RunningGateway, servers: dict[str, PostgresServer], ports: dict[str, int]
) -> None:
    for name, user in (("one", "alice"), ("two", "bob")):
        with psycopg.connect(
            **gateway.connection(user, port=ports[name], sslmode="require", sslrootcert="")
        ) as connection:
            assert connection.info.server_version // 10_000 == servers[name].version
            wait_until(partial(opened, gateway, name), "its record is written")
            assert opened(gateway, name)[-1].startswith(f"{name} ")


def test_each_listener_has_its_rules(gateway: RunningGateway, ports: dict[str, int]) -> None:
    assert role_of(ports["one"], "alice", gateway.token("alice")) == "alice"
    assert role_of(ports["two"], "alice", gateway.token("alice")) is None
    assert role_of(ports["two"], "bob", gateway.token("bob")) == "bob"
    assert role_of(ports["one"], "reader", gateway.token("reader")) is None


def test_role_of_a_rule(gateway: RunningGateway, ports: dict[str, int]) -> None:
    """The user is the token's subject all the same."""
    assert role_of(ports["one"], "bob", gateway.token("bob")) == "reader"
    assert role_of(ports["one"], "reader", gateway.token("bob")) is None


def test_login_of_one_role(gateway: RunningGateway, ports: dict[str, int]) -> None:
    assert role_of(ports["two"], "carol", gateway.token("carol")) == "carol"


def test_role_of_a_claim(gateway: RunningGateway, ports: dict[str, int]) -> None:
    port = ports["claim"]
    assert role_of(port, "alice", gateway.token("alice", db_role="reporting")) == "reporting"
    assert role_of(port, "reporting", gateway.token("alice", db_role="reporting")) is None
    for bad in ({}, {"db_role": ["reporting"]}, {"db_role": ""}, {"db_role": None}, {"db_role": "r" * 64}):
        assert role_of(port, "alice", gateway.token("alice", **bad)) is None
    assert role_of(port, "carol", gateway.token("carol", db_role="reporting")) is None


def test_each_listener_has_its_issuer(gateway: RunningGateway, other: RunningGateway, ports: dict[str, int]) -> None:
    port = ports["other-issuer"]
    assert role_of(port, "alice", other.token("alice", iss="the other", aud="two")) == "alice"
    assert role_of(port, "alice", other.token("alice", iss="the other", aud=["x", "one"])) == "alice"
    assert role_of(port, "alice", other.token("alice", iss="the other", aud="three")) is None
    assert role_of(port, "alice", other.token("alice", iss="another", aud="one")) is None
    assert role_of(port, "alice", other.token("alice", aud="one")) is None
    assert role_of(port, "alice", gateway.token("alice", iss="the other", aud="one")) is None
    assert role_of(ports["one"], "alice", other.token("alice", iss="the other", aud="one")) is None


@pytest.mark.parametrize(
    ("asked", "served"),
    [
        ("own.example", "own"),
        ("a.example", "a"),
        ("A.Example", "a"),
        ("x.wild.example", "wild"),
        ("x.y.wild.example", "own"),
        ("wild.example", "own"),
        ("unknown.example", "own"),
    ],
)
def test_certificate_by_server_name(
    gateway: RunningGateway, certificates: dict[str, Issued], ports: dict[str, int], asked: str, served: str
) -> None:
    with RawClient.connected(ports["one"], server_name=asked) as client:
        assert client.peer_certificate() == certificates[served].certificate.public_bytes(Encoding.DER)
        client.log_in("alice", gateway.token("alice"))


def test_other_listeners_keep_theirs(gateway: RunningGateway, ports: dict[str, int]) -> None:
    with RawClient.connected(ports["two"], gateway.root_certificate, server_name="localhost") as client:
        names = x509.load_der_x509_certificate(client.peer_certificate()).subject.rfc4514_string()
        assert names == "CN=localhost"


def test_minimum_version_of_one_listener(gateway: RunningGateway, ports: dict[str, int]) -> None:
    for name, version in (("one", "TLSv1.2"), ("two", None)):
        client = RawClient(ports[name])
        client.context.maximum_version = client.context.maximum_version.TLSv1_2
        try:
            client.start_tls()
            assert client.tls_version == version
        except OSError:
            assert version is None
        finally:
            client.close()
