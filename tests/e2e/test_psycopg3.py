"""psycopg 3 with the libpq 18 of its binary wheel: what its users do, the same as without a gateway."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import errors, pq
from psycopg.types.json import Jsonb
from psycopg.types.range import Range

from tests.e2e.clients import Site, copy_rows, random_bytes
from tests.gateways import wait_until
from tests.pki import make_ca, write_pem

MEGABYTE = 1_048_576


@pytest.fixture
def connection(site: Site) -> Iterator[psycopg.Connection]:
    with closing(psycopg.connect(**site.dsn, autocommit=True)) as opened:
        yield opened


# --- queries ----------------------------------------------------------------------------------------------------------

VALUES: list[tuple[str, Any]] = [
    ("boolean", True),
    ("smallint", -32768),
    ("bigint", 2**63 - 1),
    ("double precision", 0.1),
    ("numeric", Decimal("-12345678901234567890.0123456789")),
    ("text", "naïve \N{SNOWMAN} \N{PILE OF POO} '\"\\"),
    ("bytea", bytes(range(256))),
    ("date", date(2031, 2, 28)),
    ("timestamptz", datetime(2031, 2, 28, 12, 30, 15, 123456, UTC)),
    ("interval", timedelta(days=3, seconds=5, microseconds=7)),
    ("uuid", UUID("5bad03b5-ca7c-4ae2-8d2f-0d0a6a0d2b1e")),
    ("jsonb", {"a": [1, 2.5, None, "ü"], "b": {}}),
    ("int[]", [1, None, 3]),
    ("text[]", ["a,b", 'c"d', "{}"]),
    ("cidr", ip_network("2001:db8::/32")),
    ("int4range", Range(1, 10)),
    ("text", None),
]


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_every_type_comes_back_as_it_went(connection: psycopg.Connection, binary: bool) -> None:
    columns = ", ".join(f"%{'b' if binary else 't'}::{kind}" for kind, _ in VALUES)
    sent = [Jsonb(value) if kind == "jsonb" else value for kind, value in VALUES]
    with connection.cursor(binary=binary) as cursor:
        row = cursor.execute(f"SELECT {columns}".encode(), sent).fetchone()
    assert row == tuple(value for _, value in VALUES)


def test_an_error_inside_a_session_leaves_it_usable(connection: psycopg.Connection) -> None:
    with pytest.raises(errors.DivisionByZero) as caught:
        connection.execute("SELECT 1/0")
    assert caught.value.sqlstate == "22012"
    with pytest.raises(errors.SyntaxError) as caught_syntax:
        connection.execute("SELEC")
    assert caught_syntax.value.diag.statement_position == "1"
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_transactions_and_savepoints(connection: psycopg.Connection) -> None:
    connection.execute("CREATE TEMP TABLE t (x int PRIMARY KEY)")
    with connection.transaction():
        connection.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(errors.UniqueViolation), connection.transaction():
            connection.execute("INSERT INTO t VALUES (2), (1)")
        assert connection.info.transaction_status is pq.TransactionStatus.INTRANS
    with pytest.raises(ZeroDivisionError), connection.transaction():
        connection.execute("INSERT INTO t VALUES (3)")
        raise ZeroDivisionError
    assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]


def test_prepared_statements(connection: psycopg.Connection) -> None:
    for number in range(20):
        assert connection.execute("SELECT %s::int * 2", (number,), prepare=True).fetchone() == (2 * number,)
    assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (1,)


def test_server_side_cursors(site: Site) -> None:
    with psycopg.connect(**site.dsn) as connection, connection.cursor("named", scrollable=True) as cursor:
        cursor.execute("SELECT generate_series(1, 5000)")
        cursor.itersize = 700
        assert sum(number for (number,) in cursor) == 5000 * 5001 // 2
        cursor.scroll(10, mode="absolute")
        assert cursor.fetchone() == (11,)


def test_a_result_of_many_rows(connection: psycopg.Connection) -> None:
    rows = connection.execute("SELECT n, md5(n::text) FROM generate_series(1, 100000) n").fetchall()
    assert len(rows) == 100_000
    assert rows[-1] == (100_000, hashlib.md5(b"100000", usedforsecurity=False).hexdigest())


def test_a_parameter_and_a_field_of_twelve_megabytes(connection: psycopg.Connection) -> None:
    sent = random_bytes(12 * MEGABYTE)
    row = connection.execute("SELECT %b::bytea, md5(%b::bytea)", (sent, sent), binary=True).fetchone()
    assert row == (sent, hashlib.md5(sent, usedforsecurity=False).hexdigest())


def test_a_query_text_of_five_megabytes(connection: psycopg.Connection) -> None:
    text = "x" * (5 * MEGABYTE)
    assert connection.execute(f"SELECT length('{text}')".encode()).fetchone() == (len(text),)


# --- COPY, large objects ----------------------------------------------------------------------------------------------


def test_copy_both_ways_compares_byte_for_byte(connection: psycopg.Connection) -> None:
    sent = copy_rows(100_000)
    assert len(sent) > 4 * MEGABYTE
    connection.execute("CREATE TEMP TABLE t (n int, words text)")
    with connection.cursor() as cursor:
        with cursor.copy("COPY t FROM STDIN") as copy:
            for start in range(0, len(sent), 100_003):
                copy.write(sent[start : start + 100_003])
        assert cursor.rowcount == 100_000
        with cursor.copy("COPY (SELECT * FROM t ORDER BY n) TO STDOUT") as copy:
            assert b"".join(map(bytes, copy)) == sent


def test_copy_that_fails_half_way_leaves_the_session_usable(connection: psycopg.Connection) -> None:
    connection.execute("CREATE TEMP TABLE t (n int)")
    with pytest.raises(errors.InvalidTextRepresentation), connection.cursor().copy("COPY t FROM STDIN") as copy:
        copy.write(b"1\n" * 100_000 + b"one\n")
    with pytest.raises(ZeroDivisionError), connection.cursor().copy("COPY t FROM STDIN") as copy:
        copy.write(b"1\n")
        raise ZeroDivisionError
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_copy_out_that_nobody_reads_to_its_end(connection: psycopg.Connection) -> None:
    """The driver cancels it, and then has to find the end of what was on its way."""
    copying = connection.cursor().copy("COPY (SELECT generate_series(1, 100000000)) TO STDOUT")
    with pytest.raises(ZeroDivisionError), copying as copy:
        assert copy.read()
        raise ZeroDivisionError
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_large_objects(connection: psycopg.Connection) -> None:
    sent = random_bytes(3 * MEGABYTE)
    row = connection.execute("SELECT lo_from_bytea(0, %b)", (sent,)).fetchone()
    assert row is not None
    with connection.transaction():
        handle = connection.execute("SELECT lo_open(%s, 131072)", row).fetchone()
        assert handle is not None
        parts = []
        while part := connection.execute("SELECT loread(%s, 500000)", handle, binary=True).fetchone():
            if not part[0]:
                break
            parts.append(part[0])
        connection.execute("SELECT lo_unlink(%s)", row)
    assert b"".join(parts) == sent


# --- pipelining -------------------------------------------------------------------------------------------------------


def test_a_pipeline_of_many_statements(connection: psycopg.Connection) -> None:
    connection.execute("CREATE TEMP TABLE t (n int, pad text)")
    with connection.pipeline(), connection.cursor() as cursor:
        cursor.executemany("INSERT INTO t VALUES (%s, %s)", ((number, "x" * 500) for number in range(5000)))
        answers = [connection.execute("SELECT %s::int", (number,)) for number in range(500)]
        assert [answer.fetchone() for answer in answers] == [(number,) for number in range(500)]
    assert connection.execute("SELECT sum(n) FROM t").fetchone() == (5000 * 4999 // 2,)


def test_an_error_in_a_pipeline_is_told_where_it_happened(connection: psycopg.Connection) -> None:
    with connection.pipeline() as pipeline:
        first = connection.execute("SELECT 1")
        pipeline.sync()
        with pytest.raises(errors.DivisionByZero):
            connection.execute("SELECT 1/0")
            pipeline.sync()
        last = connection.execute("SELECT 3")
        assert first.fetchone() == (1,)
        assert last.fetchone() == (3,)


# --- what comes unasked -----------------------------------------------------------------------------------------------


def test_notifications_carry_the_pid_of_their_sender(site: Site, connection: psycopg.Connection) -> None:
    connection.execute("LISTEN news")
    with psycopg.connect(**site.dsn, autocommit=True) as sender:
        sender.execute("SELECT pg_notify('news', %s)", ("x" * 7000,))
        pid = sender.execute("SELECT pg_backend_pid()").fetchone()
        notify = next(connection.notifies(timeout=20))
        assert (notify.channel, notify.payload, (notify.pid,)) == ("news", "x" * 7000, pid)
        # The pid in BackendKeyData is the same, so the driver can tell its own notifications from others'.
        assert sender.info.backend_pid == notify.pid


def test_an_idle_listener_hears_at_once(site: Site, connection: psycopg.Connection) -> None:
    connection.execute("LISTEN news")
    heard: list[str] = []
    listener = threading.Thread(
        target=lambda: heard.extend(one.payload for one in connection.notifies(timeout=20, stop_after=2))
    )
    listener.start()
    with psycopg.connect(**site.dsn, autocommit=True) as sender:
        sender.execute("NOTIFY news, 'one'")
        sender.execute("NOTIFY news, 'two'")
    listener.join(20)
    assert heard == ["one", "two"]


def test_notices_come_in_order(connection: psycopg.Connection) -> None:
    told: list[str | None] = []
    connection.add_notice_handler(lambda notice: told.append(notice.message_primary))
    connection.execute("DO $$ BEGIN FOR n IN 1..300 LOOP RAISE NOTICE 'notice %', n; END LOOP; END $$")
    assert told == [f"notice {number}" for number in range(1, 301)]


# --- start-up parameters ----------------------------------------------------------------------------------------------


def test_options_reach_the_server(site: Site) -> None:
    with psycopg.connect(**site.dsn, options="-c statement_timeout=100ms -c search_path=pg_catalog") as connection:
        assert connection.execute("SHOW search_path").fetchone() == ("pg_catalog",)
        with pytest.raises(errors.QueryCanceled, match="statement timeout"):
            connection.execute("SELECT pg_sleep(60)")


def test_application_name_is_kept(site: Site) -> None:
    with psycopg.connect(**site.dsn, application_name="a job") as connection:
        query = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        assert connection.execute(query).fetchone() == ("a job",)
    wait_until(lambda: site.gateway.audit()[-1].get("application") == "a job", "the audit names it")


def test_client_encoding_and_what_the_server_reports(site: Site) -> None:
    with psycopg.connect(**site.dsn, client_encoding="LATIN1", options="-c DateStyle=German") as connection:
        reported = connection.info.parameter_status
        assert reported("client_encoding") == "LATIN1"
        assert reported("DateStyle") == "German, DMY"
        assert reported("server_version") == connection.execute("SHOW server_version").fetchone()[0]  # type: ignore[index]
        assert reported("session_authorization") == site.role
        assert connection.execute("SELECT 'ä', ascii(%s)", ("ä",)).fetchone() == ("ä", 0xE4)
        connection.execute("SET client_encoding = 'UTF8'")
        assert reported("client_encoding") == "UTF8"


# --- cancel -----------------------------------------------------------------------------------------------------------


def sleep_and_cancel(site: Site, connection: psycopg.Connection, cancel: str) -> None:
    """The query ends long before its time, with 57014, and the session goes on."""

    def cancel_it() -> None:
        site.wait_for_sleepers()
        getattr(connection, cancel)()

    canceller = threading.Thread(target=cancel_it)
    begun = time.monotonic()
    canceller.start()
    with pytest.raises(errors.QueryCanceled, match="user request"):
        connection.execute("SELECT pg_sleep(60)")
    assert time.monotonic() - begun < 30
    canceller.join()
    assert connection.execute("SELECT 1").fetchone() == (1,)


# PQcancel sends its request in clear, PQcancelBlocking inside TLS.
@pytest.mark.parametrize("cancel", ["cancel", "cancel_safe"])
@pytest.mark.parametrize("version", ["3.0", "3.2"])
def test_cancel(site: Site, cancel: str, version: str) -> None:
    limits = {"min_protocol_version": version, "max_protocol_version": version}
    with psycopg.connect(**site.dsn | limits, autocommit=True) as connection:
        sleep_and_cancel(site, connection, cancel)
    wait_until(lambda: any(one["reason"] == "cancel: passed on" for one in site.gateway.audit()), "it is audited")


def test_cancel_hits_only_its_own_session(site: Site, connection: psycopg.Connection) -> None:
    with psycopg.connect(**site.dsn, autocommit=True) as other:
        result: list[Any] = []
        sleeper = threading.Thread(target=lambda: result.append(other.execute("SELECT 7, pg_sleep(1)").fetchone()))
        sleeper.start()
        site.wait_for_sleepers()
        connection.cancel_safe()
        sleeper.join()
        assert result == [(7, "")]


def test_a_connection_cut_in_the_middle_of_a_query_ends_it(site: Site) -> None:
    """The server hears of it: a client that is gone must not keep a session."""
    connection = psycopg.connect(**site.dsn, autocommit=True)
    connection.pgconn.send_query(b"SELECT n, repeat('x', 1000) FROM generate_series(1, 10000000) n")
    wait_until(lambda: site.server.connections(site.role) == 1, "the query runs")
    connection.close()
    wait_until(lambda: not site.server.connections(site.role), "its session has ended")


# --- asynchronous -----------------------------------------------------------------------------------------------------


def test_twenty_asynchronous_connections_at_once(site: Site) -> None:
    async def one(number: int) -> Any:
        connection = await psycopg.AsyncConnection.connect(**site.dsn)
        async with connection, connection.cursor() as cursor:
            await cursor.execute("SELECT %s::int, repeat('x', 100000)", (number,))
            return await cursor.fetchone()

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*map(one, range(20)))

    assert asyncio.run(all_of_them()) == [(number, "x" * 100_000) for number in range(20)]


# --- the protocol's versions and TLS ----------------------------------------------------------------------------------


def key_length(conninfo: dict[str, Any], trace: Path) -> int:
    """How long the cancel key is, as libpq's own trace of BackendKeyData tells it."""
    pgconn = pq.PGconn.connect_start(psycopg.conninfo.make_conninfo(**conninfo).encode())
    with trace.open("wb") as file:
        pgconn.trace(file.fileno())
        status = pq.PollingStatus.WRITING
        while status not in (pq.PollingStatus.OK, pq.PollingStatus.FAILED):
            time.sleep(0.002)
            status = pq.PollingStatus(pgconn.connect_poll())
        error = pgconn.error_message
        pgconn.untrace()
        pgconn.finish()
    assert status is pq.PollingStatus.OK, error
    line = next(line for line in trace.read_text().splitlines() if "BackendKeyData" in line)
    return int(line.split("\t")[2]) - 8


@pytest.mark.parametrize(("version", "length"), [("3.0", 4), ("3.2", 32)])
def test_the_cancel_key_is_as_long_as_the_version_has_it(site: Site, tmp_path: Path, version: str, length: int) -> None:
    limits = {"min_protocol_version": version, "max_protocol_version": version}
    with psycopg.connect(**site.dsn | limits) as connection:
        assert connection.pgconn.full_protocol_version == int(version.replace(".", "000"))
    assert key_length(site.dsn | limits, tmp_path / "trace") == length


def test_a_version_that_is_not_there_yet_is_negotiated(site: Site) -> None:
    with psycopg.connect(**site.dsn, max_protocol_version="latest") as connection:
        assert connection.pgconn.full_protocol_version == 30002
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_direct_tls(site: Site) -> None:
    direct = {"sslnegotiation": "direct", "min_protocol_version": "3.2", "max_protocol_version": "3.2"}
    with psycopg.connect(**site.dsn | direct, autocommit=True) as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("SELECT 1").fetchone() == (1,)
        sleep_and_cancel(site, connection, "cancel_safe")


@pytest.mark.parametrize("mode", ["disable", "prefer"])
def test_without_channel_binding(site: Site, mode: str) -> None:
    with psycopg.connect(**site.dsn, channel_binding=mode) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_channel_binding_that_a_token_cannot_have_is_refused_by_the_client(site: Site) -> None:
    with pytest.raises(psycopg.OperationalError, match="channel binding"):
        psycopg.connect(**site.dsn, channel_binding="require")


@pytest.mark.parametrize("mode", ["disable", "prefer"])
def test_encryption_by_gssapi_is_declined(site: Site, mode: str) -> None:
    with psycopg.connect(**site.dsn, gssencmode=mode) as connection:
        assert connection.pgconn.ssl_in_use


def test_a_client_that_does_not_trust_the_certificate_refuses(site: Site, tmp_path: Path) -> None:
    write_pem(tmp_path / "other.crt", make_ca("other").certificate)
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(**site.dsn | {"sslrootcert": str(tmp_path / "other.crt")})


def test_a_client_that_expects_another_name_refuses(site: Site) -> None:
    with pytest.raises(psycopg.OperationalError, match="does not match host name"):
        psycopg.connect(**site.dsn | {"host": "db.example", "hostaddr": "127.0.0.1"})


def test_a_client_without_tls_is_told_so(site: Site) -> None:
    with pytest.raises(psycopg.OperationalError, match="TLS is required"):
        psycopg.connect(**site.dsn | {"sslmode": "disable"})
    wait_until(lambda: site.gateway.audit()[-1]["decision"] == "refused", "it is audited")


def test_a_wrong_token_is_refused(site: Site) -> None:
    with pytest.raises(psycopg.OperationalError, match="Authentication failed"):
        psycopg.connect(**site.dsn | {"password": site.gateway.token("somebody else")})
