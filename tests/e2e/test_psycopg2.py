"""psycopg2, with the libpq 17 of its binary wheel."""

from __future__ import annotations

import io
import select
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import errors
from psycopg2.extensions import (
    POLL_OK,
    POLL_READ,
    POLL_WRITE,
    TRANSACTION_STATUS_INERROR,
    Diagnostics,
)
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class
from psycopg2.extras import execute_values

from tests.e2e.clients import Site, copy_rows, random_bytes
from tests.gateways import PATIENCE
from tests.pki import make_ca, write_pem

MEGABYTE = 1_048_576

# The two ways to an upstream differ in nothing that a driver could see; psycopg 3 and asyncpg are tested on both.
pytestmark = pytest.mark.parametrize("shared_site", ["embedded_postgres"], indirect=True, scope="module")


@pytest.fixture
def connection(site: Site) -> Iterator[Connection]:
    with closing(psycopg2.connect(**site.dsn)) as opened:
        yield opened


def test_values_come_back_as_they_went(connection: Connection) -> None:
    sent = (
        True,
        2**62,
        0.1,
        Decimal("-1.50"),
        "naïve \N{PILE OF POO}",
        datetime(2031, 2, 28, 1, tzinfo=UTC),
        [1, 2],
        None,
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s, %s, %s::float8, %s, %s, %s, %s, %s", sent)
        assert cursor.fetchone() == sent


def test_an_error_aborts_the_transaction_not_the_session(connection: Connection) -> None:
    with connection.cursor() as cursor:
        with pytest.raises(errors.UndefinedTable) as caught:
            cursor.execute("SELECT * FROM nowhere")
        diagnosis: Diagnostics = caught.value.diag
        assert (caught.value.pgcode, diagnosis.statement_position) == ("42P01", "15")
        assert connection.get_transaction_status() == TRANSACTION_STATUS_INERROR
        connection.rollback()
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


def test_a_named_cursor(connection: Connection) -> None:
    with connection.cursor("named") as cursor:
        cursor.itersize = 1000
        cursor.execute("SELECT generate_series(1, 20000)")
        assert sum(number for (number,) in cursor) == 20_000 * 20_001 // 2


def test_twelve_megabytes_up_and_down(connection: Connection) -> None:
    sent = random_bytes(6 * MEGABYTE)
    with connection.cursor() as cursor:
        # Bound by the client: twice as long in the text of the query, as hexadecimal digits.
        cursor.execute("SELECT %s::bytea", (sent,))
        row = cursor.fetchone()
        assert row is not None
        assert bytes(row[0]) == sent


def test_many_rows_in_few_statements(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE t (n int, words text)")
        execute_values(
            cursor, "INSERT INTO t VALUES %s", ((number, "x" * 50) for number in range(20_000)), page_size=5000
        )
        cursor.execute("SELECT count(*), sum(n) FROM t")
        assert cursor.fetchone() == (20_000, 20_000 * 19_999 // 2)


def test_copy_both_ways_compares_byte_for_byte(connection: Connection) -> None:
    sent = copy_rows(100_000)
    received = io.BytesIO()
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE t (n int, words text)")
        cursor.copy_expert("COPY t FROM STDIN", io.BytesIO(sent))
        cursor.copy_expert("COPY (SELECT * FROM t ORDER BY n) TO STDOUT", received)
    assert received.getvalue() == sent


def test_large_objects_by_the_fast_path_protocol(connection: Connection) -> None:
    sent = random_bytes(2 * MEGABYTE)
    one = connection.lobject(0, "wb")
    one.write(sent)
    one.seek(0)
    again = connection.lobject(one.oid, "rb")
    assert again.read() == sent
    again.unlink()


def test_listen_and_notify(site: Site, connection: Connection) -> None:
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("LISTEN news")
    with closing(psycopg2.connect(**site.dsn)) as sender, sender, sender.cursor() as cursor:
        cursor.execute("NOTIFY news, 'hello'")
        pid = sender.info.backend_pid
    assert select.select([connection], [], [], PATIENCE)[0]
    connection.poll()
    heard = [(one.pid, one.channel, one.payload) for one in connection.notifies]
    assert heard == [(pid, "news", "hello")]


def test_notices(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
    assert connection.notices == ["NOTICE:  one\n", "WARNING:  two\n"]


def test_cancel(site: Site, connection: Connection) -> None:
    """psycopg2 sends its CancelRequest in clear."""

    def cancel() -> None:
        site.wait_for_sleepers()
        connection.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with connection.cursor() as cursor:
        with pytest.raises(errors.QueryCanceled, match="user request"):
            cursor.execute("SELECT pg_sleep(60)")
        canceller.join()
        connection.rollback()
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


def test_options_and_encoding(site: Site) -> None:
    options = "-c statement_timeout=50ms -c TimeZone=Asia/Kathmandu"
    with closing(psycopg2.connect(**site.dsn, options=options, client_encoding="LATIN1")) as connection:
        assert connection.encoding == "LATIN1"
        assert connection.get_parameter_status("TimeZone") == "Asia/Kathmandu"
        with connection.cursor() as cursor:
            cursor.execute("SELECT 'ä'")
            assert cursor.fetchone() == ("ä",)
            with pytest.raises(errors.QueryCanceled, match="statement timeout"):
                cursor.execute("SELECT pg_sleep(60)")


def test_an_asynchronous_connection(site: Site) -> None:
    with closing(psycopg2.connect(**site.dsn, async_=True)) as connection:

        def wait() -> None:
            while (state := connection.poll()) != POLL_OK:
                read = [connection] if state == POLL_READ else []
                write = [connection] if state == POLL_WRITE else []
                assert any(select.select(read, write, [], PATIENCE))

        wait()
        cursor = connection.cursor()
        cursor.execute("SELECT repeat('x', 1000000)")
        wait()
        assert cursor.fetchone() == ("x" * 1_000_000,)


def test_a_client_that_does_not_trust_the_certificate_refuses(site: Site, tmp_path: Path) -> None:
    write_pem(tmp_path / "other.crt", make_ca("other").certificate)
    with pytest.raises(psycopg2.OperationalError, match="certificate verify failed"):
        psycopg2.connect(**site.dsn | {"sslrootcert": str(tmp_path / "other.crt")})


def test_a_client_without_tls_is_told_so(site: Site) -> None:
    with pytest.raises(psycopg2.OperationalError, match="TLS is required"):
        psycopg2.connect(**site.dsn | {"sslmode": "disable"})


def test_direct_tls(site: Site) -> None:
    with closing(psycopg2.connect(**site.dsn, sslnegotiation="direct")) as connection:
        assert connection.info.ssl_in_use
