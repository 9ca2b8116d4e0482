"""Bounded memory, whatever a peer does: many idle sessions, a client that does not read, a server that does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
import psycopg
import pytest

from tests.fake_upstream import Caller, FakeUpstream
from tests.gateways import RunningGateway, Sections, behind, wait_until
from tests.raw_client import RawClient, message, query
from tests.servers import PostgresServer, free_port

PASSWORD = "a secret of the server"
MB = 1_048_576
BOUND = 10 * MB


def let_in(caller: Caller) -> None:
    caller.let_in()
    caller.wait()


@pytest.fixture(scope="module")
def crowd_port() -> int:
    """Of the listener before an upstream that takes any number."""
    return free_port()


@pytest.fixture(scope="module")
def gateway(
    embedded_postgres: PostgresServer, crowd_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    embedded_postgres.make_role("alice", PASSWORD)
    embedded_postgres.sql("DROP TABLE IF EXISTS locked")
    embedded_postgres.sql("CREATE TABLE locked (line text)")
    embedded_postgres.sql("GRANT ALL ON locked TO alice")
    with FakeUpstream.running(let_in) as upstream:
        sections: Sections = {
            "upstream:main": behind(embedded_postgres, password=PASSWORD),
            "upstream:crowd": {"hosts": f"127.0.0.1:{upstream.port}", "tls": "disable"},
            "postgres:crowd": {
                "listen": f"127.0.0.1:{crowd_port}",
                "upstream": "crowd",
                "rules": "\nallow all all all",
            },
            "limits": {"max_connections_per_subject": 1000},
        }
        with RunningGateway.running(tmp_path_factory.mktemp("gateway"), sections) as gateway:
            yield gateway
            gateway.check_at_rest()


def resident(gateway: RunningGateway) -> int:
    assert gateway.process is not None
    size: int = psutil.Process(gateway.process.pid).memory_info().rss
    return size


def most(gateway: RunningGateway, seconds: float) -> int:
    """The largest resident size in that time."""
    until, found = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        found = max(found, resident(gateway))
        time.sleep(0.05)
    return found


def come_and_go(gateway: RunningGateway, port: int, count: int) -> int:
    """So many idle sessions at once; the resident size with all of them."""
    with ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(RawClient.connected(port, gateway.root_certificate))
            client.log_in("alice", gateway.token("alice"))
        size = resident(gateway)
    gateway.check_at_rest()
    return size


def test_idle_sessions(gateway: RunningGateway, crowd_port: int) -> None:
    come_and_go(gateway, crowd_port, 10)
    before = resident(gateway)
    assert come_and_go(gateway, crowd_port, 300) - before < 300 * 50_000
    after = resident(gateway)
    come_and_go(gateway, crowd_port, 300)
    assert resident(gateway) - after < 3 * MB


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[RawClient]:
    with RawClient.connected(gateway.port, gateway.root_certificate) as client:
        client.log_in("alice", gateway.token("alice"))
        # What the first large transfer of a process costs is not of interest.
        client.ask("SELECT repeat('x', 1000000)")
        yield client


def test_client_that_does_not_read(
    gateway: RunningGateway, embedded_postgres: PostgresServer, client: RawClient
) -> None:
    before = resident(gateway)
    client.send(query("SELECT repeat('x', 1000000) FROM generate_series(1, 400)"))
    waiting = "SELECT 1 FROM pg_stat_activity WHERE usename = 'alice' AND wait_event = 'ClientWrite'"
    wait_until(lambda: embedded_postgres.sql(waiting), "the server waits for its client")
    assert most(gateway, 1) - before < BOUND
    assert embedded_postgres.sql(waiting)
    # Nothing was lost while it waited.
    rows = [len(body) for kind, body in client.until(b"Z") if kind == b"D"]
    assert rows == [1_000_006] * 400
    assert resident(gateway) - before < BOUND


def test_server_that_does_not_read(
    gateway: RunningGateway, embedded_postgres: PostgresServer, client: RawClient
) -> None:
    """It waits for a lock, and the client does not wait for its CopyInResponse."""
    lines = message(b"d", b"x" * 99_999 + b"\n") * 10
    count = 200
    before = resident(gateway)
    sent = 0

    def send() -> None:
        nonlocal sent
        client.send(query("COPY locked FROM STDIN"))
        for _ in range(count):
            client.send(lines)
            sent += 1
        client.send(message(b"c", b""))

    with locked(embedded_postgres):
        sending = threading.Thread(target=send)
        sending.start()
        wait_until(still(lambda: sent), "the client is held back")
        assert sent < count
        assert most(gateway, 0.5) - before < BOUND
    sending.join(30)
    assert dict(client.until(b"Z"))[b"C"] == b"COPY 2000\0"
    assert embedded_postgres.sql("SELECT count(*)::int, sum(length(line))::bigint FROM locked") == [(2000, 199_998_000)]
    assert resident(gateway) - before < BOUND


@contextmanager
def locked(server: PostgresServer) -> Iterator[None]:
    """The table is, until the end of the block."""
    where: dict[str, Any] = {"host": str(server.folder), "port": server.port, "user": "postgres", "dbname": "postgres"}
    with psycopg.connect(**where) as connection:
        connection.execute("LOCK TABLE locked IN ACCESS EXCLUSIVE MODE")
        yield


def still(value: Callable[[], int]) -> Callable[[], bool]:
    """Whether it is positive and has not changed since it was asked half a second ago."""

    def asked() -> bool:
        before = value()
        time.sleep(0.5)
        return 0 < before == value()

    return asked
