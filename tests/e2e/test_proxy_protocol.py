"""The PROXY header: believed from the networks that are configured, demanded of them, and garbage from anybody else."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import ip_address

import pytest

from tests.gateways import RunningGateway, Sections, behind
from tests.raw_client import SSL_REQUEST, RawClient
from tests.servers import PostgresServer

PASSWORD = "a secret of the server"
BALANCER = "127.99.0.1"
SOMEBODY = "127.98.0.1"
Header = Callable[[str, int], bytes]


@pytest.fixture(scope="module")
def shared_gateway(
    embedded_postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    embedded_postgres.make_role("alice", PASSWORD)
    sections: Sections = {
        "upstream:main": behind(embedded_postgres, password=PASSWORD),
        "limits": {"handshake_timeout": 3, "max_connections_per_address": 3},
        "postgres:main": {
            "proxy_protocol": "127.99.0.0/16",
            "rules": "\nallow all all 203.0.113.0/24,2001:db8::/32\nallow all all 127.97.0.0/16",
        },
    }
    with RunningGateway.running(tmp_path_factory.mktemp("gateway"), sections) as gateway:
        yield gateway


@pytest.fixture
def gateway(shared_gateway: RunningGateway) -> Iterator[RunningGateway]:
    yield shared_gateway
    shared_gateway.check_at_rest()


def text(source: str, port: int) -> bytes:
    family = "TCP6" if ":" in source else "TCP4"
    destination = "2001:db8::1" if ":" in source else "192.0.2.1"
    return f"PROXY {family} {source} {destination} {port} 5432\r\n".encode()


def binary(source: str, port: int, more: bytes = b"") -> bytes:
    packed = ip_address(source).packed
    block = packed * 2 + struct.pack("!HH", port, 5432) + more
    family = 0x21 if len(packed) == 16 else 0x11
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, family, len(block)) + block


def enter(gateway: RunningGateway, header: bytes, client_name: str, *, slowly: bool = False) -> None:
    with closing(RawClient(gateway.port, gateway.root_certificate, address=BALANCER, slowly=slowly)) as client:
        client.send_raw(header)
        client.start_tls()
        client.log_in("alice", gateway.token("alice"))
        assert client.value("SELECT current_user") == "alice"
    record = gateway.end_of(client_name)
    assert record["decision"] == "allowed"


@pytest.mark.parametrize("slowly", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("header", [text, binary])
@pytest.mark.parametrize("source", ["203.0.113.7", "2001:db8::7"])
def test_address_in_audit_and_rules(gateway: RunningGateway, header: Header, source: str, slowly: bool) -> None:
    port = 1000 + len(gateway.audit())
    name = f"[{source}]:{port}" if ":" in source else f"{source}:{port}"
    enter(gateway, header(source, port), name, slowly=slowly)


def test_header_and_request_in_one_packet(gateway: RunningGateway) -> None:
    with closing(RawClient(gateway.port, gateway.root_certificate, address=BALANCER)) as client:
        client.send_raw(binary("203.0.113.8", 77, b"\x04\0\x02hi") + SSL_REQUEST)
        assert client.socket.recv(1) == b"S"
        client.handshake()
        client.log_in("alice", gateway.token("alice"))
    assert gateway.end_of("203.0.113.8:77")["decision"] == "allowed"


@pytest.mark.parametrize("header", [text, binary])
def test_rules_hold_for_the_address_that_it_tells(gateway: RunningGateway, header: Header) -> None:
    port = 3000 + len(gateway.audit())
    with closing(RawClient(gateway.port, gateway.root_certificate, address=BALANCER)) as client:
        client.send_raw(header("198.51.100.1", port))
        client.start_tls()
        client.send_login("alice", gateway.token("alice"))
        assert client.refusal()["C"] == "28000"
    assert gateway.end_of(f"198.51.100.1:{port}")["reason"] == "denied: no rule matches"


def test_limits_hold_for_the_address_that_it_tells(gateway: RunningGateway) -> None:
    """Not for the balancer, through which everybody comes."""
    clients = [RawClient(gateway.port, gateway.root_certificate, address=BALANCER) for _ in range(6)]
    for number, client in enumerate(clients):
        client.send_raw(text(f"203.0.113.{20 + number}", 1))
        client.start_tls()
        client.log_in("alice", gateway.token("alice"))
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    "first",
    [
        SSL_REQUEST,
        b"\x16\x03\x01\x02\x00" + bytes(60),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 1\r\n" + bytes(20),
        b"PROXY TCP4 203.0.113.07 192.0.2.1 1 2\r\n",
        b"PROXY TCP5 203.0.113.7 192.0.2.1 1 2\r\n",
        b"PROXY TCP4 " + b"1" * 200,
        b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c" + bytes(12),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff" + bytes(200),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\x0c" + bytes(12),
    ],
    ids=["none", "TLS", "cut", "zeros", "TCP5", "endless", "version 1", "huge", "unix"],
)
def test_missing_or_bad_header(gateway: RunningGateway, first: bytes) -> None:
    with closing(RawClient(gateway.port, address=BALANCER)) as client:
        before = len(gateway.audit())
        client.send_raw(first)
        if first == SSL_REQUEST:
            client.close_sending()
        assert client.is_closed()
        assert gateway.end_of(client.name)["reason"].startswith("PROXY header: ")
        assert len(gateway.audit()) == before + 1


def test_header_that_never_comes(gateway: RunningGateway) -> None:
    with closing(RawClient(gateway.port, address=BALANCER)) as client:
        client.send_raw(b"PROXY ")
        assert client.is_closed()
        assert "timed out" in gateway.end_of(client.name)["reason"]


@pytest.mark.parametrize("header", [text("203.0.113.7", 1), binary("203.0.113.7", 1)], ids=["text", "binary"])
def test_from_anybody_else_it_is_garbage(gateway: RunningGateway, header: bytes) -> None:
    with closing(RawClient(gateway.port, gateway.root_certificate, address=SOMEBODY)) as client:
        client.send_raw(header + SSL_REQUEST)
        assert client.refusal()["C"] == "08P01"
        assert "invalid length" in gateway.end_of(client.name)["reason"]


def test_anybody_else_comes_without(gateway: RunningGateway) -> None:
    with RawClient.connected(gateway.port, gateway.root_certificate, address="127.97.0.1") as client:
        client.log_in("alice", gateway.token("alice"))


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"], ids=["UNKNOWN", "LOCAL"])
def test_the_balancers_own_check(gateway: RunningGateway, header: bytes) -> None:
    """Then the connection's own address counts, for which there is no rule here."""
    with closing(RawClient(gateway.port, gateway.root_certificate, address=BALANCER)) as client:
        client.send_raw(header)
        client.start_tls()
        client.send_login("alice", gateway.token("alice"))
        assert client.refusal()["C"] == "28000"
        assert gateway.end_of(client.name)["reason"] == "denied: no rule matches"
