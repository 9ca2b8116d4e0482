"""A session ends when its token does: with a FATAL between two messages, as a strict reader of all the bytes sees."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.fake_upstream import Caller, FakeUpstream
from tests.gateways import PATIENCE, RunningGateway, Sections, behind
from tests.raw_client import RawClient, error_fields, message, query
from tests.servers import PostgresServer, free_port

PASSWORD = "a secret of the server"
GRACE = 1


def endless(size: int) -> bytes:
    """Rows of one text of that size. In the FROM clause the server would first collect them all."""
    return query(f"SELECT substr(repeat('x', {size}), generate_series(1, 2000000000) * 0 + 1)")


@pytest.fixture(scope="module")
def server(embedded_postgres: PostgresServer) -> PostgresServer:
    embedded_postgres.make_role("alice", PASSWORD)
    return embedded_postgres


@pytest.fixture(scope="module")
def keeping_port() -> int:
    """Of the listener with on_expiry = keep."""
    return free_port()


@pytest.fixture(scope="module")
def shared_gateway(
    server: PostgresServer, keeping_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    sections: Sections = {
        "gateway": {"shutdown_grace": GRACE},
        "upstream:main": behind(server, password=PASSWORD),
        "postgres:keep": {"listen": f"127.0.0.1:{keeping_port}", "rules": "\nallow all all all", "on_expiry": "keep"},
    }
    with RunningGateway.running(tmp_path_factory.mktemp("gateway"), sections) as gateway:
        yield gateway


@pytest.fixture
def gateway(shared_gateway: RunningGateway) -> Iterator[RunningGateway]:
    yield shared_gateway
    shared_gateway.check_at_rest()


def check_expired(gateway: RunningGateway, client: RawClient) -> None:
    record = gateway.end_of(client.name)
    assert record["reason"] == "the token has expired"
    assert record["decision"] == "allowed"


def test_idle_session(gateway: RunningGateway) -> None:
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        expires = time.time() + 2
        client.log_in("alice", gateway.token("alice", 2))
        assert client.value("SELECT 1") == "1"
        assert client.refusal()["C"] == "57P01"
        assert expires - 0.1 < time.time() < expires + 3
        check_expired(gateway, client)


def test_session_in_the_middle_of_a_query(gateway: RunningGateway, server: PostgresServer) -> None:
    """It said nothing yet, so this too is between two messages."""
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        client.log_in("alice", gateway.token("alice", 1))
        client.send(query("SELECT pg_sleep(4)"))
        assert client.refusal()["C"] == "57P01"
        check_expired(gateway, client)


# Rows far larger than one read, of about its size, and some in each read.
@pytest.mark.parametrize("size", [3_000_000, 70_000, 4_000])
def test_session_in_the_middle_of_a_large_result(gateway: RunningGateway, size: int) -> None:
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        expires = time.time() + 1
        client.log_in("alice", gateway.token("alice", 1))
        client.send(endless(size))
        rows = 0
        for kind, body in client.messages():
            if kind == b"D":
                rows += 1
                assert len(body) == size + 6
            last = kind, body
        assert rows
        assert last[0] == b"E"
        assert error_fields(last[1])["C"] == "57P01"
        assert expires - 0.1 < time.time() < expires + 8
        check_expired(gateway, client)


def test_short_rows(server: PostgresServer, tmp_path: Path) -> None:
    """Of a result of very many the boundaries are not followed: the farewell comes after it, when it ends in time."""
    rows = 300_000
    sections: Sections = {
        # However busy the machine is.
        "gateway": {"shutdown_grace": PATIENCE},
        "upstream:main": behind(server, password=PASSWORD),
    }
    with (
        RunningGateway.running(tmp_path, sections) as gateway,
        RawClient.connected(gateway.port, gateway.root_certificate) as client,
    ):
        client.log_in("alice", gateway.token("alice", 1))
        client.send(query(f"SELECT n FROM generate_series(1, {rows}) n, pg_sleep(0.7)"))
        kinds = [kind for kind, _ in client.messages()]
        assert kinds[:1] == [b"T"]
        assert kinds.count(b"D") == rows
        assert kinds[-3:] == [b"C", b"Z", b"E"]
        check_expired(gateway, client)


def let_in(caller: Caller) -> bytes:
    """Without a question; the first query."""
    caller.let_in()
    return caller.read()


@contextmanager
def before(folder: Path, talk: Callable[[Caller], None]) -> Iterator[RunningGateway]:
    """A gateway before an upstream of that kind."""
    with FakeUpstream.running(talk) as upstream:
        sections: Sections = {
            "gateway": {"shutdown_grace": GRACE},
            "upstream:main": {"hosts": f"127.0.0.1:{upstream.port}", "tls": "disable"},
        }
        with RunningGateway.running(folder, sections) as gateway:
            yield gateway
            gateway.check_at_rest()


def test_reads_that_never_end_with_a_message(tmp_path: Path) -> None:
    """A server sends 8 KiB at a time, wherever in a message that ends; the boundary is then inside what is read."""

    def talk(caller: Caller) -> None:
        let_in(caller)
        row = message(b"D", b"\0\1\0\0\x0f\xa0" + b"x" * 4000)
        for number in count():
            at = number * 8000 % len(row)
            caller.send((row * 3)[at : at + 8000])
            time.sleep(0.01)

    with (
        before(tmp_path, talk) as gateway,
        RawClient.connected(gateway.port, gateway.root_certificate) as client,
    ):
        client.log_in("alice", gateway.token("alice", 1))
        client.send(query("SELECT"))
        kind, body = list(client.messages())[-1]
        assert kind == b"E"
        assert error_fields(body)["C"] == "57P01"


LONG = b"".join(message(b"D", b"\0\1\0\0\0\1x") for _ in range(2000))
END = message(b"C", b"SELECT 2000\0") + message(b"Z", b"I")


def test_short_rows_whose_end_comes_in_two_parts(tmp_path: Path) -> None:
    """Wherever it is cut."""

    def talk(caller: Caller) -> None:
        cut = int(let_in(caller)[5:-1])
        caller.send(LONG + END[:cut])
        time.sleep(0.3)
        caller.send(END[cut:])
        caller.wait()

    with before(tmp_path, talk) as gateway, ExitStack() as stack:
        cuts = (1, 5, 9, len(END) - 6, len(END) - 1)
        clients = {cut: RawClient(gateway.port, gateway.root_certificate) for cut in cuts}
        for cut, client in clients.items():
            stack.enter_context(closing(client))
            client.start_tls()
            client.log_in("alice", gateway.token("alice", 2))
            client.send(query(str(cut)))
        for client in clients.values():
            assert [kind for kind, _ in client.until(b"Z")][-3:] == [b"D", b"C", b"Z"]
        left_without_a_word = [cut for cut, client in clients.items() if client.read() is None]
        assert not left_without_a_word


def test_endless_short_rows(gateway: RunningGateway) -> None:
    """Nothing lasts longer than the grace: it is cut then, and never with a message inside another."""
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        expires = time.time() + 1
        client.log_in("alice", gateway.token("alice", 1))
        client.send(endless(10))
        tail = b""
        while data := client.receive():
            tail = (tail + data)[-4000:]
        assert b"57P01" not in tail or tail.endswith(b"\0\0")
        assert time.time() < expires + GRACE + 8
        check_expired(gateway, client)


def test_slow_reader(gateway: RunningGateway) -> None:
    """What it has not read yet when the token expires is not torn: the FATAL comes behind it."""
    with RawClient.connected(gateway.port, gateway.root_certificate, receive_buffer=100_000) as client:
        client.log_in("alice", gateway.token("alice", 1))
        client.send(endless(70_000))
        last = b""
        until = time.monotonic() + 2
        for kind, _ in client.messages():
            last = kind
            if time.monotonic() < until:
                time.sleep(0.02)
        assert last == b"E"
        check_expired(gateway, client)


def test_keep(gateway: RunningGateway, keeping_port: int) -> None:
    with RawClient.connected(keeping_port, gateway.root_certificate) as client:
        client.log_in("alice", gateway.token("alice", 1))
        assert client.value("SELECT 1 FROM pg_sleep(2)") == "1"
        assert client.value("SELECT 2") == "2"
        with RawClient.connected(keeping_port, gateway.root_certificate) as other:
            other.send_login("alice", gateway.token("alice", -1))
            assert other.refusal()["C"] == "28P01"


def test_token_that_expires_during_the_login(gateway: RunningGateway) -> None:
    """It is verified when it comes; the session then ends as soon as it is open."""
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        client.send_login("alice", gateway.token("alice", 0.05))
        kinds = [kind for kind, _ in client.messages()]
        assert kinds[-1] == b"E"


def test_idle_timeout(server: PostgresServer, tmp_path: Path) -> None:
    sections: Sections = {"upstream:main": behind(server, password=PASSWORD), "limits": {"idle_timeout": 1}}
    with RunningGateway.running(tmp_path, sections) as gateway:
        with (
            RawClient.connected(gateway.port, gateway.root_certificate) as idle,
            RawClient.connected(gateway.port, gateway.root_certificate) as busy,
        ):
            for client in (idle, busy):
                client.log_in("alice", gateway.token("alice"))
            began = time.monotonic()
            while time.monotonic() < began + 4:
                assert busy.value("SELECT 1") == "1"
                time.sleep(0.2)
            assert idle.refusal()["C"] == "57P05"
            record = gateway.end_of(idle.name)
            assert record["reason"] == "idle for too long"
            assert 0.9 < record["seconds"] < 4
        gateway.check_at_rest()
