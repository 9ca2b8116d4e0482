"""pg8000: a driver in plain Python, so without any of libpq's habits."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from typing import Any

import pg8000  # type: ignore[import-untyped]
import pytest
from pg8000.native import Connection, DatabaseError, InterfaceError  # type: ignore[import-untyped]

from tests.e2e.clients import Site, copy_rows, random_bytes, tls_context

MEGABYTE = 1_048_576

# The two ways to an upstream differ in nothing that a driver could see; psycopg 3 and asyncpg are tested on both.
pytestmark = pytest.mark.parametrize("shared_site", ["embedded_postgres"], indirect=True, scope="module")


def connect(site: Site, **more: Any) -> Connection:
    return Connection(
        **{
            "user": site.role,
            "host": "127.0.0.1",
            "port": site.gateway.port,
            "database": "postgres",
            "password": site.gateway.token(site.role),
            "ssl_context": tls_context(site.gateway),
            **more,
        }
    )


@pytest.fixture
def connection(site: Site) -> Iterator[Connection]:
    with closing(connect(site)) as opened:
        yield opened


def test_values_come_back_as_they_went(connection: Connection) -> None:
    sent = {
        "a": True,
        "b": 2**62,
        "c": 0.1,
        "d": Decimal("-1.50"),
        "e": "naïve \N{PILE OF POO}",
        "f": bytes(range(256)),
        "g": datetime(2031, 2, 28, 1, 2, 3, 456789, UTC),
        "h": [1, 2, 3],
        "i": None,
    }
    kinds = ("bool", "int8", "float8", "numeric", "text", "bytea", "timestamptz", "int8[]", "date")
    query = ", ".join(f"cast(:{name} AS {kind})" for name, kind in zip(sent, kinds, strict=True))
    assert connection.run(f"SELECT {query}", **sent) == [list(sent.values())]


def test_an_error_inside_a_session_leaves_it_usable(connection: Connection) -> None:
    with pytest.raises(DatabaseError) as caught:
        connection.run("SELECT 1/0")
    assert caught.value.args[0]["C"] == "22012"
    assert connection.run("SELECT 1") == [[1]]


def test_transactions(connection: Connection) -> None:
    connection.run("CREATE TEMP TABLE t (x int)")
    connection.run("START TRANSACTION")
    connection.run("INSERT INTO t VALUES (1)")
    connection.run("ROLLBACK")
    assert connection.run("TABLE t") == []


def test_prepared_statements(connection: Connection) -> None:
    statement = connection.prepare("SELECT cast(:n AS int) * 2")
    assert [statement.run(n=number) for number in range(50)] == [[[2 * number]] for number in range(50)]
    statement.close()


def test_five_megabytes_up_and_down(connection: Connection) -> None:
    sent = random_bytes(5 * MEGABYTE)
    assert connection.run("SELECT cast(:sent AS bytea)", sent=sent) == [[sent]]


def test_copy_both_ways_compares_byte_for_byte(connection: Connection) -> None:
    sent = copy_rows(50_000)
    received = BytesIO()
    connection.run("CREATE TEMP TABLE t (n int, words text)")
    connection.run("COPY t FROM STDIN", stream=BytesIO(sent))
    connection.run("COPY (SELECT * FROM t ORDER BY n) TO STDOUT", stream=received)
    assert received.getvalue() == sent


def test_listen_and_notify(site: Site, connection: Connection) -> None:
    connection.run("LISTEN news")
    with closing(connect(site)) as sender:
        sender.run("NOTIFY news, 'hello'")
        pid = sender.run("SELECT pg_backend_pid()")[0][0]
    connection.run("SELECT 1")
    assert list(connection.notifications) == [(pid, "news", "hello")]


def test_notices(connection: Connection) -> None:
    connection.run("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
    assert [notice[b"M"] for notice in connection.notices] == [b"one", b"two"]


def test_start_up_parameters(site: Site) -> None:
    parameters = {"options": "-c statement_timeout=50ms", "DateStyle": "German", "client_encoding": "LATIN1"}
    with closing(connect(site, startup_params=parameters, application_name="a job")) as connection:
        reported = connection.parameter_statuses
        assert (reported["DateStyle"], reported["client_encoding"]) == ("German, DMY", "LATIN1")
        assert reported["application_name"] == "a job"
        assert connection.run("SELECT 'ä'") == [["ä"]]
        with pytest.raises(DatabaseError, match="statement timeout"):
            connection.run("SELECT pg_sleep(60)")


def test_the_dbapi_interface(site: Site) -> None:
    arguments: dict[str, Any] = {"host": "127.0.0.1", "port": site.gateway.port, "database": "postgres"}
    password = site.gateway.token(site.role)
    with closing(
        pg8000.connect(site.role, password=password, ssl_context=tls_context(site.gateway), **arguments)
    ) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TEMP TABLE t (n int)")
        cursor.executemany("INSERT INTO t VALUES (%s)", [(number,) for number in range(200)])
        cursor.execute("SELECT sum(n) FROM t")
        assert cursor.fetchone() == [19_900]
        connection.commit()


def test_without_tls_it_is_told_so(site: Site) -> None:
    with pytest.raises(DatabaseError) as caught:
        connect(site, ssl_context=False)
    assert (caught.value.args[0]["S"], caught.value.args[0]["C"]) == ("FATAL", "28000")


def test_a_wrong_token_is_refused(site: Site) -> None:
    with pytest.raises(DatabaseError) as caught:
        connect(site, password="secret")
    assert (caught.value.args[0]["C"], caught.value.args[0]["M"]) == ("28P01", "Authentication failed")


def test_a_client_that_does_not_trust_the_certificate_refuses(site: Site) -> None:
    with pytest.raises((ssl.SSLCertVerificationError, InterfaceError)):
        connect(site, ssl_context=ssl.create_default_context())
