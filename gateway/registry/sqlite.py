"""A SQLite file as the source of a book: read whole once, and then what has changed, each time that somebody wrote.

Owns one connection, which never writes. It is asked often whether anybody has written, which costs microseconds. A file
that has been replaced, or has another history than the one that was followed, is read whole again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from gateway.registry.book import Book, Changes, Snapshot
from gateway.registry.records import LedgerError
from gateway.registry.snapshot import (
    CHANGED,
    CHANGED_CHANNELS,
    CHANGED_CONNECTIONS,
    CHANGED_THINGS,
    CHANNELS,
    CONNECTIONS,
    LAST,
    THINGS,
    anything,
    changes,
    snapshot,
)
from gateway.registry.sqlite_store import connect, make, told

# Seconds between two `tick`s: with the time that it takes to read and tell, within a second.
POLL: Final = 0.25
# Seconds that the gateway stands still at most: with a write-ahead log readers do not wait for writers.
_BUSY: Final = 0.1

_SINCE: Final = "seq > :seq"


class SQLiteSource:
    """say: told why the file is away, and None when it is there again."""

    def __init__(self, path: Path, book: Book, say: Callable[[str | None], None]) -> None:
        self._path, self._book, self._say = path, book, say
        self._database: sqlite3.Connection | None = None
        self._file = (0, 0)
        self._version = 0
        self._last: tuple[int, bytes] = (0, b"")
        self.away = False

    def open(self) -> None:
        """Reads it for the first time; makes it if it is not there. Raises LedgerError."""
        make(self._path)
        self._follow()

    def tick(self) -> None:
        try:
            self._follow()
        except Exception as error:  # noqa: BLE001 - whatever it is must not end the polling, and with it revocation
            self.close()
            self._lost(str(error) if isinstance(error, LedgerError) else repr(error))
        else:
            self._found()

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    # --- how --------------------------------------------------------------------------------------------------------

    def _lost(self, reason: str) -> None:
        self._book.lost()
        if not self.away:
            self._say(reason)
        self.away = True

    def _found(self) -> None:
        if self.away:
            self._book.found()
            self._say(None)
        self.away = False

    def _follow(self) -> None:
        with told(self._path):
            status = self._path.stat()
        file = (status.st_dev, status.st_ino)
        if file != self._file:
            self.close()
        if self._database is not None:
            self._read_changes(self._database)
            return
        self._file = file
        self._database = connect(self._path, _BUSY)
        self._read_all(self._database)

    def _read_all(self, database: sqlite3.Connection) -> None:
        """The version comes first: what is written in between is read twice rather than never."""
        with told(self._path):
            version = _version(database)
            last, found = _all(database)
        self._version, self._last = version, last
        self._book.replace(found)

    def _read_changes(self, database: sqlite3.Connection) -> None:
        with told(self._path):
            version = _version(database)
            if version == self._version:
                return
            found = _since(database, self._last)
        if found is None:
            self._read_all(database)
            return
        self._version = version
        self._last, changed = found
        self._book.apply(changed)


def _version(database: sqlite3.Connection) -> int:
    """Another number after each commit of others, however they write (SQLite, PRAGMA data_version)."""
    version: int = database.execute("PRAGMA data_version").fetchone()[0]
    return version


def _all(database: sqlite3.Connection) -> tuple[tuple[int, bytes], Snapshot]:
    """The last change, and what there is after it: of one transaction, so that they belong together."""
    with _reading(database):
        last = database.execute(LAST).fetchone() or (0, b"")
        return last, snapshot(*map(database.execute, (THINGS, CHANNELS, CONNECTIONS)))


def _since(database: sqlite3.Connection, last: tuple[int, bytes]) -> tuple[tuple[int, bytes], Changes] | None:
    """The same of what has changed since; None: that cannot be told."""
    values = {"seq": last[0]}

    def rows(sql: str) -> list[Any]:
        return database.execute(sql.format(since=_SINCE), values).fetchall()

    with _reading(database):
        if not database.execute("SELECT 1 FROM change WHERE seq = ? AND mark = ?", last).fetchone():
            return None
        changed = rows(CHANGED)
        if anything(changed):
            return None
        if changed:
            last = changed[-1][:2]
        return last, changes(changed, *map(rows, (CHANGED_THINGS, CHANGED_CHANNELS, CHANGED_CONNECTIONS)))


@contextmanager
def _reading(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN")
    try:
        yield
    finally:
        database.execute("ROLLBACK")
