"""asyncpg: a driver of its own, binary and pipelined, on Python's TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import wraps
from io import BytesIO
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.e2e.clients import Site, copy_rows, random_bytes, tls_context
from tests.gateways import PATIENCE

MEGABYTE = 1_048_576

Test = Callable[[Site], None]


def asynchronous(test: Callable[[Site], Awaitable[None]]) -> Test:
    """Runs the test in an event loop of its own, with a limit."""

    @wraps(test)
    def run(site: Site) -> None:
        async def limited() -> None:
            await asyncio.wait_for(test(site), 2 * PATIENCE)

        asyncio.run(limited())

    return run


def arguments(site: Site, **more: Any) -> dict[str, Any]:
    return {
        "host": "127.0.0.1",
        "port": site.gateway.port,
        "user": site.role,
        "database": "postgres",
        "password": site.gateway.token(site.role),
        "ssl": tls_context(site.gateway),
        **more,
    }


@asynccontextmanager
async def connected(site: Site, **more: Any) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(**arguments(site, **more))
    try:
        yield connection
    finally:
        await connection.close()


@asynchronous
async def test_values_come_back_as_they_went(site: Site) -> None:
    values = {
        "bool": True,
        "int8": -(2**63),
        "float8": 0.1,
        "numeric": Decimal("-12345678901234567890.0123456789"),
        "text": "naïve \N{PILE OF POO}",
        "bytea": bytes(range(256)),
        "timestamptz": datetime(2031, 2, 28, 12, 30, 15, 123456, UTC),
        "interval": timedelta(days=3, seconds=5),
        "uuid": UUID("5bad03b5-ca7c-4ae2-8d2f-0d0a6a0d2b1e"),
        "int[]": [1, None, 3],
        "jsonb": '{"a": 1}',
        "int4range": asyncpg.Range(1, 10),
        "date": None,
    }
    query = ", ".join(f"${place}::{kind}" for place, kind in enumerate(values, 1))
    async with connected(site) as connection:
        row = await connection.fetchrow(f"SELECT {query}", *values.values())
    assert tuple(row) == tuple(values.values())


@asynchronous
async def test_an_error_inside_a_session_leaves_it_usable(site: Site) -> None:
    async with connected(site) as connection:
        with pytest.raises(asyncpg.DivisionByZeroError) as caught:
            await connection.fetch("SELECT 1/$1::int", 0)
        assert caught.value.sqlstate == "22012"
        assert await connection.fetchval("SELECT 1") == 1


@asynchronous
async def test_transactions_and_savepoints(site: Site) -> None:
    async with connected(site) as connection:
        await connection.execute("CREATE TEMP TABLE t (x int PRIMARY KEY)")
        async with connection.transaction():
            await connection.execute("INSERT INTO t VALUES (1)")
            with pytest.raises(asyncpg.UniqueViolationError):
                async with connection.transaction():
                    await connection.execute("INSERT INTO t VALUES (1)")
        assert await connection.fetch("TABLE t") == [(1,)]


@asynchronous
async def test_prepared_statements_and_cursors(site: Site) -> None:
    async with connected(site) as connection:
        statement = await connection.prepare("SELECT n, repeat('x', n) FROM generate_series(1, $1) n")
        assert len(await statement.fetch(300)) == 300
        async with connection.transaction():
            total = 0
            async for row in statement.cursor(1000, prefetch=77):
                total += len(row[1])
        assert total == 1000 * 1001 // 2


@asynchronous
async def test_a_pipeline_of_many_rows(site: Site) -> None:
    """executemany sends Bind and Execute for all rows without waiting for an answer."""
    async with connected(site) as connection:
        await connection.execute("CREATE TEMP TABLE t (n int, words text)")
        await connection.executemany("INSERT INTO t VALUES ($1, $2)", [(n, "x" * 300) for n in range(20_000)])
        assert await connection.fetchval("SELECT sum(n) FROM t") == 20_000 * 19_999 // 2


@asynchronous
async def test_twelve_megabytes_up_and_down(site: Site) -> None:
    sent = random_bytes(12 * MEGABYTE)
    async with connected(site) as connection:
        assert await connection.fetchval("SELECT $1::bytea", sent) == sent


@asynchronous
async def test_a_result_of_many_rows(site: Site) -> None:
    async with connected(site) as connection:
        rows = await connection.fetch("SELECT n, md5(n::text) FROM generate_series(1, 100000) n")
        assert [row[0] for row in rows] == list(range(1, 100_001))


@asynchronous
async def test_copy_both_ways_compares_byte_for_byte(site: Site) -> None:
    sent = copy_rows(100_000)
    received = BytesIO()
    async with connected(site) as connection:
        await connection.execute("CREATE TEMP TABLE t (n int, words text)")
        await connection.copy_to_table("t", source=BytesIO(sent))
        await connection.copy_from_query("SELECT * FROM t ORDER BY n", output=received)
    assert received.getvalue() == sent


@asynchronous
async def test_binary_copy_of_records(site: Site) -> None:
    records = [(n, Decimal(n) / 8, f"row {n}") for n in range(5000)]
    async with connected(site) as connection:
        await connection.execute("CREATE TEMP TABLE t (n int, d numeric, words text)")
        await connection.copy_records_to_table("t", records=records)
        assert [tuple(row) for row in await connection.fetch("SELECT * FROM t ORDER BY n")] == records


@asynchronous
async def test_listen_and_notify(site: Site) -> None:
    heard: asyncio.Queue[tuple[int, str, str]] = asyncio.Queue()
    async with connected(site) as listener, connected(site) as sender:
        await listener.add_listener("news", lambda _, *told: heard.put_nowait(told))
        await sender.execute("NOTIFY news, 'hello'")
        assert await heard.get() == (sender.get_server_pid(), "news", "hello")
        assert sender.get_server_pid() == await sender.fetchval("SELECT pg_backend_pid()")


@asynchronous
async def test_notices(site: Site) -> None:
    told: list[str] = []
    async with connected(site) as connection:
        connection.add_log_listener(lambda _, message: told.append(message.message))
        await connection.execute("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
        await connection.fetchval("SELECT 1")
    assert told == ["one", "two"]


@asynchronous
async def test_a_timeout_cancels_the_query(site: Site) -> None:
    async with connected(site) as connection:
        with pytest.raises(TimeoutError):
            await connection.execute("SELECT pg_sleep(60)", timeout=0.2)
        assert await connection.fetchval("SELECT 1") == 1


@asynchronous
async def test_a_cancelled_task_cancels_the_query(site: Site) -> None:
    async with connected(site) as connection:
        task = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
        await asyncio.to_thread(site.wait_for_sleepers)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await connection.fetchval("SELECT 1") == 1
        await asyncio.to_thread(site.wait_for_sleepers, 0)


@asynchronous
async def test_server_settings(site: Site) -> None:
    settings = {"statement_timeout": "50ms", "application_name": "a job", "datestyle": "German"}
    async with connected(site, server_settings=settings) as connection:
        reported = connection.get_settings()
        assert (reported.application_name, reported.DateStyle) == ("a job", "German, DMY")
        assert (reported.client_encoding, reported.is_superuser) == ("UTF8", "off")
        with pytest.raises(asyncpg.QueryCanceledError, match="statement timeout"):
            await connection.execute("SELECT pg_sleep(60)")


@asynchronous
async def test_a_pool_under_load(site: Site) -> None:
    async with asyncpg.create_pool(**arguments(site), min_size=2, max_size=10) as pool:
        answers = await asyncio.gather(*(pool.fetchval("SELECT $1::int", number) for number in range(300)))
    assert answers == list(range(300))


@asynchronous
async def test_direct_tls(site: Site) -> None:
    """With the context that asyncpg makes itself, which asks for the ALPN protocol."""
    root = f"sslmode=verify-full&sslrootcert={site.gateway.root_certificate}"
    dsn = f"postgresql://{site.role}@127.0.0.1:{site.gateway.port}/postgres?{root}&sslnegotiation=direct"
    async with connected(site, dsn=dsn, ssl=None) as connection:
        with pytest.raises(TimeoutError):
            await connection.execute("SELECT pg_sleep(60)", timeout=0.2)
        assert await connection.fetchval("SELECT 1") == 1


@asynchronous
async def test_without_tls_it_is_told_so(site: Site) -> None:
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="TLS is required") as caught:
        await asyncpg.connect(**arguments(site, ssl=False))
    assert caught.value.sqlstate == "28000"


@asynchronous
async def test_a_wrong_token_is_refused(site: Site) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError, match="Authentication failed"):
        await asyncpg.connect(**arguments(site, password="secret"))


@asynchronous
async def test_a_client_that_does_not_trust_the_certificate_refuses(site: Site) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncpg.connect(**arguments(site, ssl=ssl.create_default_context()))
