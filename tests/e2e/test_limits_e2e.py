"""How many connections there may be in all, of one subject and of one address; and all are given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing

import psycopg
import pytest

from tests.gateways import RunningGateway, Sections, behind, wait_until
from tests.raw_client import SSL_REQUEST, RawClient, cancel, query, startup
from tests.servers import PostgresServer

PASSWORD = "a secret of the server"
SUBJECTS = [f"user{number}" for number in range(5)]


@pytest.fixture(scope="module")
def shared_gateway(
    embedded_postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    for subject in SUBJECTS:
        embedded_postgres.make_role(subject, PASSWORD)
    sections: Sections = {"upstream:main": behind(embedded_postgres, password=PASSWORD)}
    with RunningGateway.running(tmp_path_factory.mktemp("gateway"), sections) as gateway:
        yield gateway


@pytest.fixture
def gateway(shared_gateway: RunningGateway) -> Iterator[RunningGateway]:
    yield shared_gateway
    shared_gateway.check_at_rest()


class Visitors:
    """Sessions, and attempts at one more."""

    def __init__(self, gateway: RunningGateway, stack: ExitStack) -> None:
        self.gateway, self.stack = gateway, stack

    def session(self, subject: str, address: str | None = None) -> RawClient:
        client = self.stack.enter_context(
            RawClient.connected(self.gateway.port, self.gateway.root_certificate, address=address)
        )
        client.log_in(subject, self.gateway.token(subject))
        return client

    def refused(self, subject: str, reason: str, address: str | None = None) -> None:
        """Told 53300, at the start-up packet or after the password."""
        with RawClient.connected(self.gateway.port, self.gateway.root_certificate, address=address) as client:
            client.send(startup(subject))
            found = client.read()
            assert found is not None
            if found[0] == b"R":
                client.send_password(self.gateway.token(subject))
                assert client.refusal()["C"] == "53300"
            else:
                assert found[0] == b"E"
                assert b"C53300\0" in found[1]
                assert client.read() is None
        record = self.gateway.end_of(client.name)
        assert record["reason"] == reason
        assert record["decision"] == "refused"

    def gone(self, client: RawClient) -> None:
        client.close()
        self.gateway.end_of(client.name)


@pytest.fixture
def visitors(gateway: RunningGateway) -> Iterator[Visitors]:
    with ExitStack() as stack:
        yield Visitors(gateway, stack)


def test_in_all(gateway: RunningGateway, visitors: Visitors) -> None:
    gateway.reconfigure({"limits": {"max_connections": 3}})
    first, *_ = [visitors.session(subject) for subject in SUBJECTS[:3]]
    for _ in range(3):
        visitors.refused("user3", "too many connections")
    visitors.gone(first)
    visitors.session("user3")
    visitors.refused("user4", "too many connections")


def test_of_one_subject(gateway: RunningGateway, visitors: Visitors) -> None:
    gateway.reconfigure({"limits": {"max_connections_per_subject": 2}})
    first, _ = visitors.session("user0"), visitors.session("user0")
    for _ in range(3):
        visitors.refused("user0", "too many connections of this subject")
    visitors.session("user1")
    visitors.gone(first)
    visitors.session("user0")
    visitors.refused("user0", "too many connections of this subject")


def test_of_one_address(gateway: RunningGateway, visitors: Visitors) -> None:
    gateway.reconfigure({"limits": {"max_connections_per_address": 2}})
    first, _ = visitors.session("user0", "127.0.5.1"), visitors.session("user1", "127.0.5.1")
    for _ in range(3):
        visitors.refused("user2", "too many connections", "127.0.5.1")
    visitors.session("user2", "127.0.5.2")
    visitors.gone(first)
    visitors.session("user0", "127.0.5.1")
    visitors.refused("user1", "too many connections", "127.0.5.1")


def test_whoever_is_not_logged_in_counts_for_the_address(gateway: RunningGateway, visitors: Visitors) -> None:
    gateway.reconfigure({"limits": {"max_connections_per_address": 2}})
    silent = [visitors.stack.enter_context(closing(RawClient(gateway.port, address="127.0.5.3"))) for _ in range(2)]
    for client in silent:
        client.send_raw(SSL_REQUEST)
        assert client.socket.recv(1) == b"S"
    visitors.refused("user0", "too many connections", "127.0.5.3")
    visitors.gone(silent[0])
    visitors.session("user0", "127.0.5.3")


def test_a_refused_token_gives_all_back(gateway: RunningGateway, visitors: Visitors) -> None:
    limits = {"max_connections": 2, "max_connections_per_subject": 1, "max_connections_per_address": 1}
    gateway.reconfigure({"limits": limits})
    for token, user, sqlstate in (
        (gateway.token("user1"), "user0", "28P01"),
        (gateway.token("user0", -1), "user0", "28P01"),
        (gateway.token("no-such-role"), "no-such-role", "28000"),
    ):
        with RawClient.connected(gateway.port, gateway.root_certificate, address="127.0.5.4") as client:
            client.send_login(user, token)
            assert client.refusal()["C"] == sqlstate
        gateway.end_of(client.name)
    visitors.session("user0", "127.0.5.4")


def test_far_too_many_are_closed_unheard(gateway: RunningGateway, visitors: Visitors) -> None:
    """So that those who wait for their 53300 are bounded too; and whoever is in stays in."""
    gateway.reconfigure({"limits": {"max_connections": 2}})
    inside = visitors.session("user0")
    crowd = [visitors.stack.enter_context(closing(RawClient(gateway.port))) for _ in range(40)]
    for client in crowd:
        try:
            client.send_raw(SSL_REQUEST)
        except ConnectionError:
            continue
    heard = [client for client in crowd if client.receive() == b"S"]
    assert 1 <= len(heard) <= 20
    assert inside.value("SELECT 1") == "1"


def test_cancel_works_when_it_is_full(
    gateway: RunningGateway, embedded_postgres: PostgresServer, visitors: Visitors
) -> None:
    """Else a full house could not be helped."""
    gateway.reconfigure({"limits": {"max_connections": 1}})
    client = visitors.stack.enter_context(RawClient.connected(gateway.port, gateway.root_certificate))
    pid, key = client.backend_key(client.log_in("user0", gateway.token("user0")))
    client.send(query("SELECT pg_sleep(60)"))
    sleeping = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    wait_until(lambda: embedded_postgres.sql(sleeping), "the query runs")
    with closing(RawClient(gateway.port)) as other:
        other.send_raw(cancel(pid, key))
        assert other.is_closed()
    assert gateway.end_of(other.name)["reason"] == "cancel: passed on"
    assert b"E" in {kind for kind, _ in client.until(b"Z")}


def test_what_a_driver_says(gateway: RunningGateway, visitors: Visitors) -> None:
    gateway.reconfigure({"limits": {"max_connections_per_subject": 1}})
    visitors.session("user0")
    with pytest.raises(psycopg.OperationalError, match="Too many connections"):
        psycopg.connect(**gateway.connection("user0"))
    gateway.reconfigure({"limits": {"max_connections_per_subject": 2}})
    with psycopg.connect(**gateway.connection("user0")) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
