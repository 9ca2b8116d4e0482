"""The registry in PostgreSQL, for the ledger: making it, and writing in it. Waits for the server: not for a reactor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import psycopg2
from psycopg2 import errors
from psycopg2.extras import execute_values

from gateway.registry.conninfo import arguments
from gateway.registry.postgres_schema import ALONE, IS_MADE, LOCK, POSTGRES
from gateway.registry.records import Exists, LedgerError
from gateway.registry.schema import SELECT_VERSION, VERSION
from gateway.registry.settings import PostgresDatabase
from gateway.registry.store import Row

# Milliseconds. No statement of ours takes long; what waits for another's lock should say so while somebody looks on.
# And it has to see what the other did: a role may have been given another isolation, with which it would not.
_SESSION: Final = {
    "statement_timeout": "60000",
    "lock_timeout": "15000",
    "idle_in_transaction_session_timeout": "60000",
    "default_transaction_isolation": "read committed",
}
_PAGE: Final = 1_000


class PostgresStore:
    """A `Store`."""

    def __init__(self, database: PostgresDatabase) -> None:
        """Makes the registry where it is missing."""
        self._name = str(database)
        with self._told():
            self._connection = psycopg2.connect(**arguments(database, "securegw ledger", _SESSION))
        try:
            with self.transaction():
                self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        if not self.rows(IS_MADE):
            self.rows("SELECT pg_advisory_xact_lock(?)", (LOCK,))
            if not self.rows(IS_MADE):
                self._execute(POSTGRES)
        found = self.rows(SELECT_VERSION)
        if found != [(VERSION,)]:
            raise LedgerError(f"{self._name} has version {found} of the registry; this securegw knows {VERSION}")

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[None]:
        with self._told():
            try:
                if not write:
                    self._execute("SET TRANSACTION READ ONLY")
                yield
                self._connection.commit()
            except BaseException:
                if not self._connection.closed:
                    self._connection.rollback()
                raise

    def alone(self) -> None:
        """It needs no privilege, unlike a lock on the table."""
        self.rows("SELECT pg_advisory_xact_lock(?)", (ALONE,))

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql.replace("?", "%s"), tuple(values))
            found: list[Row] = cursor.fetchall()
            return found

    def change(self, sql: str, values: Sequence[Any]) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(sql.replace("?", "%s"), tuple(values))
            changed: int = cursor.rowcount
            return changed

    def insert(self, table: str, columns: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._connection.cursor() as cursor:
            sql = f"INSERT INTO {table} ({columns}) VALUES %s"  # noqa: S608 - our own names of tables and columns
            execute_values(cursor, sql, rows, page_size=_PAGE)

    def _execute(self, sql: str) -> None:
        """A script as it is."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql)

    def kept(self, moment: datetime) -> datetime:
        return moment

    def moment(self, kept: Any) -> datetime:
        found: datetime = kept
        return found.astimezone(UTC)

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns psycopg2's errors into LedgerErrors. libpq puts no password into them."""
        try:
            yield
        except errors.UniqueViolation:
            raise Exists("another has that id or that key already") from None
        except errors.InsufficientPrivilege as error:
            raise LedgerError(f"{self._name}: {reason(error)}: the user may not do that there") from None
        except psycopg2.Error as error:
            raise LedgerError(f"{self._name}: {reason(error)}") from None


def reason(error: psycopg2.Error) -> str:
    """On one line, without what a statement's error says of the values in it."""
    return error.diag.message_primary or " ".join(str(error).split())
