"""Who looks into pg_stat_activity sees whom the gateway let in, and nobody can write anything else there by the way."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.gateways import RunningGateway, Sections, behind
from tests.raw_client import RawClient
from tests.servers import PostgresServer, free_port

PASSWORD = "a secret of the server"
NAMES = "SELECT application_name FROM pg_stat_activity WHERE usename = 'alice'"


@pytest.fixture(scope="module")
def plain_port() -> int:
    """Of the listener without a template."""
    return free_port()


@pytest.fixture(scope="module")
def gateway(
    embedded_postgres: PostgresServer, plain_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    embedded_postgres.make_role("alice", PASSWORD)
    sections: Sections = {
        "upstream:main": behind(embedded_postgres, password=PASSWORD),
        "postgres:main": {"application_name": "{application_name} [{subject} {address}] {{}}"},
        "postgres:plain": {"listen": f"127.0.0.1:{plain_port}", "rules": "\nallow all all all"},
    }
    with RunningGateway.running(tmp_path_factory.mktemp("gateway"), sections) as gateway:
        yield gateway
        gateway.check_at_rest()


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        ("my app", "my app [alice 127.0.3.3] {}"),
        (None, "[alice 127.0.3.3] {}"),
        ("", "[alice 127.0.3.3] {}"),
        ("{subject}{0.__class__}%s", "{subject}{0.__class__}%s [alice 127.0.3.3] {}"),
        # What the client says is cut, so that it cannot push out who it is.
        ("a" * 200, "a" * 42 + " [alice 127.0.3.3] {}"),
    ],
)
def test_template(gateway: RunningGateway, embedded_postgres: PostgresServer, said: str | None, seen: str) -> None:
    more = {} if said is None else {"application_name": said}
    with RawClient.connected(gateway.port, gateway.root_certificate, address="127.0.3.3") as client:
        client.log_in("alice", gateway.token("alice"), **more)
        assert client.value("SHOW application_name") == seen
        assert (seen,) in embedded_postgres.sql(NAMES)


def test_without_template(gateway: RunningGateway, embedded_postgres: PostgresServer, plain_port: int) -> None:
    settings = gateway.connection("alice", port=plain_port, application_name="as it is")
    with psycopg.connect(**settings) as connection:
        assert connection.execute("SHOW application_name").fetchone() == ("as it is",)
        assert ("as it is",) in embedded_postgres.sql(NAMES)
