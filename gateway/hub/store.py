"""What outlives the process, in SQLite: one file, WAL, and one transaction for all that came together.

Owns the file, its schema and its version. Refuses a file of another version or purpose, and one that another process
has open. A commit survives the end of the process, however it comes; the last ones may not survive that of the machine
(synchronous = NORMAL), which is the price of not waiting for the disk with each.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from gateway.hub.rows import (
    Change,
    DeliveryRow,
    InboundRow,
    MessageRow,
    RetainedRow,
    Row,
    SessionRow,
    Stored,
    StoreError,
    SubscriptionRow,
)

# "sgwH": so that no other program's database is taken for the hub's.
APPLICATION: Final = 0x73677748
VERSION: Final = 1

_TABLES: Final = (
    """CREATE TABLE session (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, client_id TEXT NOT NULL,
       version INTEGER NOT NULL, expiry INTEGER NOT NULL, ended REAL, will INTEGER, will_delay INTEGER NOT NULL,
       will_expiry INTEGER, will_due REAL) STRICT""",
    """CREATE TABLE subscription (session INTEGER NOT NULL, filter TEXT NOT NULL, qos INTEGER NOT NULL,
       no_local INTEGER NOT NULL, retain_as_published INTEGER NOT NULL, identifier INTEGER NOT NULL,
       PRIMARY KEY (session, filter)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE message (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL, qos INTEGER NOT NULL,
       retain INTEGER NOT NULL, expires REAL, payload_format INTEGER, content_type TEXT, response_topic TEXT,
       correlation_data BLOB, user_properties TEXT NOT NULL) STRICT""",
    """CREATE TABLE delivery (sequence INTEGER PRIMARY KEY, session INTEGER NOT NULL, message INTEGER NOT NULL,
       qos INTEGER NOT NULL, retain INTEGER NOT NULL, identifiers TEXT NOT NULL, packet_id INTEGER NOT NULL,
       released INTEGER NOT NULL, share TEXT) STRICT""",
    "CREATE INDEX delivery_session ON delivery (session)",
    """CREATE TABLE inbound (session INTEGER NOT NULL, packet_id INTEGER NOT NULL,
       PRIMARY KEY (session, packet_id)) STRICT, WITHOUT ROWID""",
    "CREATE TABLE retained (topic TEXT PRIMARY KEY, message INTEGER NOT NULL) STRICT, WITHOUT ROWID",
)
_OF_SESSION: Final = ("subscription", "delivery", "inbound")
_EACH: Final = ("session", "subscription", "message", "delivery", "inbound", "retained")


def _put(table: str, columns: int) -> tuple[str, ...]:
    return (f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * columns)})",)  # noqa: S608 - no name is a client's


_STATEMENTS: Final[dict[Change, tuple[str, ...]]] = {
    Change.PUT_SESSION: _put("session", len(SessionRow._fields)),
    Change.DROP_SESSION: (
        "DELETE FROM session WHERE id = ?",
        *(f"DELETE FROM {table} WHERE session = ?" for table in _OF_SESSION),  # noqa: S608 - as above
    ),
    Change.PUT_SUBSCRIPTION: _put("subscription", len(SubscriptionRow._fields)),
    Change.DROP_SUBSCRIPTION: ("DELETE FROM subscription WHERE session = ? AND filter = ?",),
    Change.PUT_MESSAGE: _put("message", len(MessageRow._fields)),
    Change.DROP_MESSAGE: ("DELETE FROM message WHERE id = ?",),
    Change.PUT_DELIVERY: _put("delivery", len(DeliveryRow._fields)),
    Change.DROP_DELIVERY: ("DELETE FROM delivery WHERE sequence = ?",),
    Change.PUT_INBOUND: _put("inbound", len(InboundRow._fields)),
    Change.DROP_INBOUND: ("DELETE FROM inbound WHERE session = ? AND packet_id = ?",),
    Change.PUT_RETAINED: _put("retained", len(RetainedRow._fields)),
    Change.DROP_RETAINED: ("DELETE FROM retained WHERE topic = ?",),
    Change.CLEAR: tuple(f"DELETE FROM {table}" for table in _EACH),  # noqa: S608 - as above
}

_R = TypeVar("_R", bound=tuple[Any, ...])


class MemoryStore:
    """Keeps nothing: sessions last as long as the process."""

    durable = False

    def load(self) -> Stored:
        return Stored()

    def commit(self, changes: list[Row]) -> None:
        pass

    def close(self) -> None:
        pass


class SqliteStore:
    """Raises StoreError where the file cannot be used."""

    durable = True

    def __init__(self, path: Path) -> None:
        with _as_store_error():
            # Made here, so that nobody else can read it from its first moment on; WAL takes over the file's mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None, cached_statements=64)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    def _open(self) -> None:
        # Before anything else, since it says how WAL is begun: exclusively, without memory that is shared.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("BEGIN IMMEDIATE")
        found = (self._pragma("application_id"), self._pragma("user_version"))
        if found == (0, 0) and not self._db.execute("SELECT 1 FROM sqlite_schema").fetchone():
            for statement in _TABLES:
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {APPLICATION}")
            self._db.execute(f"PRAGMA user_version = {VERSION}")
        elif found != (APPLICATION, VERSION):
            raise StoreError("it is no database of this version of the hub")
        self._db.execute("COMMIT")

    def _pragma(self, name: str) -> int:
        value: int = self._db.execute(f"PRAGMA {name}").fetchone()[0]
        return value

    def load(self) -> Stored:
        with _as_store_error():
            return Stored(
                self._all(SessionRow, "session", "id"),
                self._all(SubscriptionRow, "subscription", "session"),
                self._all(MessageRow, "message", "id"),
                self._all(DeliveryRow, "delivery", "sequence"),
                self._all(InboundRow, "inbound", "session"),
                self._all(RetainedRow, "retained", "topic"),
            )

    def _all(self, kind: type[_R], table: str, order: str) -> list[_R]:
        rows = self._db.execute(f"SELECT * FROM {table} ORDER BY {order}")  # noqa: S608 - no name is a client's
        return [kind(*row) for row in rows]

    def commit(self, changes: list[Row]) -> None:
        with _as_store_error():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                execute = self._db.execute
                for change, values in changes:
                    for statement in _STATEMENTS[change]:
                        execute(statement, values)
                execute("COMMIT")
            except BaseException:
                # Some errors have rolled it back already.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        self._db.close()


@contextmanager
def _as_store_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{error.filename}: {error.strerror}") from error
    except sqlite3.Error as error:
        if error.sqlite_errorname == "SQLITE_BUSY":
            raise StoreError("another process has it open") from error
        raise StoreError(str(error), full=error.sqlite_errorname == "SQLITE_FULL") from error
