"""The registry as a SQLite file: opening it, making it, and writing in it.

Owns the file's permissions: it is made for its owner alone, and refused where others may write to it, because whoever
does decides who is who. Refuses files of other applications and of newer versions.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from gateway.registry.records import Exists, LedgerError
from gateway.registry.schema import SELECT_VERSION, SQLITE, VERSION
from gateway.registry.store import Row

# Seconds to wait for another process to finish writing. An import of 100,000 things takes less.
BUSY: Final = 15.0

# 64 MiB of cache, and no file for what undoes a single statement: together half the time of an import.
_FOR_IMPORTS: Final = ("PRAGMA cache_size = -65536", "PRAGMA temp_store = MEMORY")


def connect(path: Path, busy: float = BUSY) -> sqlite3.Connection:
    """A connection to the registry that is there. busy: seconds to wait for others. Raises LedgerError."""
    with told(path):
        database = _opened(path, busy)
        try:
            database.execute("PRAGMA foreign_keys = ON")
            _check_version(path, database)
        except BaseException:
            database.close()
            raise
    return database


def make(path: Path) -> None:
    """Makes the file where there is none, and the registry in it where it is empty. Raises LedgerError."""
    with told(path):
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        database = _opened(path, BUSY)
        try:
            if not _tables(database):
                _fill(database)
            # So that readers do not wait for writers. While another is at work it fails; whoever comes next does it.
            with suppress(sqlite3.OperationalError):
                database.execute("PRAGMA journal_mode = WAL")
        finally:
            database.close()


def _opened(path: Path, busy: float) -> sqlite3.Connection:
    if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise LedgerError(f"{path}: others than its owner may write to it; chmod go-w first")
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=busy, isolation_level=None)


def _fill(database: sqlite3.Connection) -> None:
    """Whoever does so at the same time waits in BEGIN, and then finds it done."""
    database.execute("BEGIN IMMEDIATE")
    if not _tables(database):
        for statement in _statements(SQLITE):
            database.execute(statement)
    database.execute("COMMIT")


def _statements(script: str) -> Iterator[str]:
    """One at a time: `executescript` would commit first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _tables(database: sqlite3.Connection) -> int:
    count: int = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    return count


def _check_version(path: Path, database: sqlite3.Connection) -> None:
    try:
        (found,) = database.execute(SELECT_VERSION).fetchone() or (None,)
    except sqlite3.OperationalError as error:
        if "no such" not in str(error):
            raise
        raise LedgerError(f"{path}: is not a registry of securegw") from None
    if found != VERSION:
        raise LedgerError(f"{path}: has version {found} of the registry; this securegw knows {VERSION}")


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turns the errors of the file and of SQLite into LedgerErrors."""
    try:
        yield
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}") from None
    except sqlite3.IntegrityError as error:
        # Of our own statements only ids and keys can be in the way; the rest was checked before.
        raise Exists("another has that id or that key already") from error
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise LedgerError(f"{path}: another process has been writing to it for too long; try again") from None
        raise LedgerError(f"{path}: {error}") from None


class SQLiteStore:
    """A `Store`."""

    def __init__(self, path: Path, busy: float = BUSY) -> None:
        """Makes the registry where it is missing."""
        self._path = path
        make(path)
        self._database = connect(path, busy)
        for setting in _FOR_IMPORTS:
            self._database.execute(setting)

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[None]:
        # IMMEDIATE: to begin as a reader and become a writer fails when another has written in between.
        with told(self._path):
            self._database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                # A full disk, among others, has rolled it back already.
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def alone(self) -> None:
        """Whoever writes is alone anyway (BEGIN IMMEDIATE)."""

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        return self._database.execute(sql, values).fetchall()

    def change(self, sql: str, values: Sequence[Any]) -> int:
        return self._database.execute(sql, values).rowcount

    def insert(self, table: str, columns: str, rows: Iterable[Sequence[Any]]) -> None:
        places = ", ".join("?" for _ in columns.split(","))
        sql = f"INSERT INTO {table} ({columns}) VALUES ({places})"  # noqa: S608 - our own names of tables and columns
        self._database.executemany(sql, rows)

    def kept(self, moment: datetime) -> str:
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def moment(self, kept: Any) -> datetime:
        found = datetime.fromisoformat(kept)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)

    def close(self) -> None:
        self._database.close()
