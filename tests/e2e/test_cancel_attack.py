"""CancelRequest comes before any login, so whoever sends one with a wrong key must reach nothing upstream."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.fake_upstream import Caller, FakeUpstream
from tests.gateways import RunningGateway, Sections, behind, wait_until
from tests.raw_client import RawClient, cancel, error_fields, message, own_address, query
from tests.servers import PostgresServer

PASSWORD = "upstream"
UPSTREAM_KEY = (4242, b"\xde\xad\xbe\xef")
RATE = 20


def answer_everybody(caller: Caller) -> None:
    """A server that lets everybody in, tells its key, and never answers a query."""
    packet = caller.read()
    if packet[4:8] == struct.pack("!I", 80877102):
        return
    caller.let_in(message(b"K", struct.pack("!i", UPSTREAM_KEY[0]) + UPSTREAM_KEY[1]))
    caller.wait()


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream.running(answer_everybody) as fake:
        yield fake


@pytest.fixture(scope="module")
def gateway(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    sections: Sections = {
        "upstream:main": {"hosts": f"127.0.0.1:{upstream.port}", "tls": "disable"},
        "limits": {"cancel_rate": RATE},
    }
    with RunningGateway.running(tmp_path_factory.mktemp("gateway"), sections) as gateway:
        yield gateway
        gateway.check_at_rest()


@pytest.fixture
def victim(gateway: RunningGateway) -> Iterator[RawClient]:
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        yield client


def try_cancel(gateway: RunningGateway, pid: int, key: bytes, *, tls: bool = False, address: str | None = None) -> str:
    """What the audit says of it; the client is told nothing, whatever happened."""
    with closing(RawClient(gateway.port, gateway.root_certificate, address=address)) as client:
        if tls:
            client.start_tls()
        client.send(cancel(pid, key))
        assert client.is_closed()
    record = gateway.end_of(client.name)
    assert record["decision"] == "cancel"
    reason: str = record["reason"]
    return reason


def changed(key: bytes, at: int) -> bytes:
    return key[:at] + bytes([key[at] ^ 1]) + key[at + 1 :]


@pytest.mark.parametrize("tls", [False, True], ids=["in clear", "inside TLS"])
def test_wrong_keys_reach_nothing(
    gateway: RunningGateway, upstream: FakeUpstream, victim: RawClient, tls: bool
) -> None:
    pid, key = victim.backend_key(victim.log_in("alice", gateway.token("alice")))
    callers = len(upstream.callers)
    wrong = [
        *(changed(key, at) for at in range(len(key))),
        key + b"\0",
        key[:-1] + b"\0\0",
        bytes(4),
        bytes(32),
        UPSTREAM_KEY[1],
    ]
    for each in wrong:
        assert try_cancel(gateway, pid, each, tls=tls) == "cancel: no such session"
    assert try_cancel(gateway, pid + 1, key, tls=tls) == "cancel: no such session"
    assert try_cancel(gateway, -1, key, tls=tls) == "cancel: no such session"
    assert len(upstream.callers) == callers


def test_the_key_is_the_gateways_own(gateway: RunningGateway, upstream: FakeUpstream, victim: RawClient) -> None:
    """The same pid twice, as two servers can have: each key opens its own session only, and upstream goes its key."""
    pid, key = victim.backend_key(victim.log_in("alice", gateway.token("alice")))
    assert pid == UPSTREAM_KEY[0]
    assert key != UPSTREAM_KEY[1]
    with RawClient.connected(gateway.port, gateway.root_certificate) as other:
        _, another = other.backend_key(other.log_in("bob", gateway.token("bob")))
        assert another != key
    gateway.end_of(other.name)
    assert try_cancel(gateway, pid, another) == "cancel: no such session"
    assert try_cancel(gateway, pid, key) == "cancel: passed on"
    assert upstream.callers[-1].said == cancel(*UPSTREAM_KEY)


def test_a_key_dies_with_its_session(gateway: RunningGateway, upstream: FakeUpstream) -> None:
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        pid, key = client.backend_key(client.log_in("alice", gateway.token("alice")))
    gateway.end_of(client.name)
    callers = len(upstream.callers)
    assert try_cancel(gateway, pid, key) == "cancel: no such session"
    assert len(upstream.callers) == callers


def test_guessing_is_rate_limited(gateway: RunningGateway, upstream: FakeUpstream, victim: RawClient) -> None:
    """Past the rate even the right key is refused; everybody else's still works, and so does a login."""
    pid, key = victim.backend_key(victim.log_in("alice", gateway.token("alice")))
    callers, guesser = len(upstream.callers), own_address()
    began = time.monotonic()
    reasons = [try_cancel(gateway, pid, bytes(4), address=guesser) for _ in range(4 * RATE)]
    limited = reasons.count("cancel: too many requests from this address")
    assert limited >= 3 * RATE - RATE * (time.monotonic() - began) - 1
    assert limited
    assert len(upstream.callers) == callers
    # At once: a token of the bucket comes back only after 1/RATE of a second.
    burst = [try_cancel(gateway, pid, bytes(4), address=guesser) for _ in range(RATE)]
    assert "cancel: too many requests from this address" in burst
    assert try_cancel(gateway, pid, key) == "cancel: passed on"
    assert len(upstream.callers) == callers + 1
    with RawClient.connected(gateway.port, gateway.root_certificate, address=guesser) as client:
        client.log_in("alice", gateway.token("alice"))


def test_no_byte_after_a_cancel_request(gateway: RunningGateway, upstream: FakeUpstream, victim: RawClient) -> None:
    pid, key = victim.backend_key(victim.log_in("alice", gateway.token("alice")))
    callers = len(upstream.callers)
    with closing(RawClient(gateway.port)) as client:
        client.send_raw(cancel(pid, key) + b"\0")
        assert client.refusal()["C"] == "08P01"
    assert len(upstream.callers) == callers


@pytest.mark.parametrize("tls", [False, True], ids=["in clear", "inside TLS"])
def test_the_right_key_cancels(
    embedded_postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory, tls: bool
) -> None:
    """For real: only this session's query, and the session goes on."""
    embedded_postgres.make_role("alice", PASSWORD)
    sections: Sections = {"upstream:main": behind(embedded_postgres, password=PASSWORD)}
    sleeping = "SELECT count(*)::int FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    with (
        RunningGateway.running(tmp_path_factory.mktemp("gateway"), sections) as gateway,
        ExitStack() as stack,
    ):
        two = [stack.enter_context(RawClient.connected(gateway.port, gateway.root_certificate)) for _ in range(2)]
        (pid, key), _ = [client.backend_key(client.log_in("alice", gateway.token("alice"))) for client in two]
        two[0].send(query("SELECT pg_sleep(60)"))
        two[1].send(query("SELECT pg_sleep(1)"))
        wait_until(lambda: embedded_postgres.sql(sleeping) == [(2,)], "both queries run")
        assert try_cancel(gateway, pid, key, tls=tls) == "cancel: passed on"
        answer = dict(two[0].until(b"Z"))
        assert error_fields(answer[b"E"])["C"] == "57014"
        assert b"E" not in dict(two[1].until(b"Z"))
        assert two[0].value("SELECT 1") == "1"
        stack.close()
        gateway.check_at_rest()
