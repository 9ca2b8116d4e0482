"""The registry as it is now, read once and by heart, as the gateway knows it.

Refuses to make a registry where there is none, and writes nothing into one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psycopg2

from gateway.registry.book import Book, Snapshot
from gateway.registry.conninfo import arguments
from gateway.registry.postgres_schema import IS_MADE
from gateway.registry.postgres_store import reason
from gateway.registry.records import LedgerError
from gateway.registry.schema import SELECT_VERSION, VERSION
from gateway.registry.settings import PostgresDatabase, RegistrySettings
from gateway.registry.snapshot import CHANNELS, CONNECTIONS, THINGS, snapshot
from gateway.registry.sqlite_store import connect, told

# Milliseconds. Whoever looks on should be told of what holds it up.
_SESSION: Final = {"statement_timeout": "60000", "default_transaction_read_only": "on"}
_WORDS: Final = "there is no registry yet; the first `securegw channel create` makes it"


class Missing(LedgerError):
    """There is no registry in that place yet."""


class Timer:
    """Of a clock that never strikes: what is only looked at does not grow old."""

    def cancel(self) -> None:
        """There is nothing to cancel."""


def never(_seconds: float, _call: Callable[[], Any]) -> Timer:
    """As a reactor's callLater, where there is no reactor."""
    return Timer()


def read_things(settings: RegistrySettings) -> Book:
    """Raises LedgerError, which says why it cannot be read; Missing if there is nothing to read."""
    book = Book(settings.stale_after, never)
    if isinstance(settings.database, Path):
        book.replace(_of_sqlite(settings.database))
    else:
        book.replace(_of_postgres(settings.database))
    return book


def things_to_be(settings: RegistrySettings) -> Book:
    """As `read_things`; and where there is no file yet, what a gateway would make at its start: one without any thing.
    In PostgreSQL it does not start without a registry. Raises LedgerError."""
    try:
        return read_things(settings)
    except Missing:
        if not isinstance(settings.database, Path):
            raise
    book = Book(settings.stale_after, never)
    book.replace(snapshot((), (), ()))
    return book


def _of_sqlite(path: Path) -> Snapshot:
    if not path.exists():
        raise Missing(f"{path}: {_WORDS}")
    with closing(connect(path)) as database, told(path):
        database.execute("BEGIN")
        return snapshot(*map(database.execute, (THINGS, CHANNELS, CONNECTIONS)))


def _of_postgres(database: PostgresDatabase) -> Snapshot:
    try:
        with closing(psycopg2.connect(**arguments(database, "securegw inspection", _SESSION))) as connection:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with connection.cursor() as cursor:
                return _read(cursor)
    except psycopg2.Error as error:
        raise LedgerError(f"{database}: {reason(error)}") from None
    except LedgerError as error:
        raise type(error)(f"{database}: {error}") from None


def _read(cursor: Any) -> Snapshot:
    def rows(sql: str) -> list[tuple[Any, ...]]:
        cursor.execute(sql)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found

    if not rows(IS_MADE):
        raise Missing(_WORDS)
    version = rows(SELECT_VERSION)
    if version != [(VERSION,)]:
        raise LedgerError(f"has version {version} of the registry; this securegw knows {VERSION}")
    return snapshot(*map(rows, (THINGS, CHANNELS, CONNECTIONS)))
