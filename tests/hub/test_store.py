"""The file: whose it is, who may read it, what it refuses, and that a change is whole or was never made."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

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
from gateway.hub.store import MemoryStore, SqliteStore

SESSION = SessionRow(1, "owner", "a", 5, 60, None, None, 0, None, None)
MESSAGE = MessageRow(2, "t", b"\0\xff", 1, False, 1.5, 1, "c", "r", b"d", '[["a", "b"]]')
DELIVERY = DeliveryRow(3, 1, 2, 1, False, "[4]", 9, False, None)
SUBSCRIPTION = SubscriptionRow(1, "t/#", 2, False, True, 4)
EVERYTHING: list[Row] = [
    (Change.PUT_SESSION, SESSION),
    (Change.PUT_MESSAGE, MESSAGE),
    (Change.PUT_DELIVERY, DELIVERY),
    (Change.PUT_SUBSCRIPTION, SUBSCRIPTION),
    (Change.PUT_INBOUND, InboundRow(1, 77)),
    (Change.PUT_RETAINED, RetainedRow("t", 2)),
]
WHOLE = Stored([SESSION], [SUBSCRIPTION], [MESSAGE], [DELIVERY], [InboundRow(1, 77)], [RetainedRow("t", 2)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hub.sqlite"


def again(store: SqliteStore, path: Path) -> SqliteStore:
    store.close()
    return SqliteStore(path)


def test_what_was_committed_is_there(path: Path):
    store = SqliteStore(path)
    store.commit(EVERYTHING)
    store = again(store, path)
    assert store.load() == WHOLE
    store.close()


def test_a_session_goes_with_what_is_its_own(path: Path):
    store = SqliteStore(path)
    store.commit(EVERYTHING)
    store.commit([(Change.DROP_SESSION, (1,))])
    store = again(store, path)
    assert store.load() == Stored(messages=[MESSAGE], retained=[RetainedRow("t", 2)])
    store.close()


@pytest.mark.parametrize(
    ("change", "row", "table"),
    [
        (Change.DROP_SUBSCRIPTION, (1, "t/#"), "subscriptions"),
        (Change.DROP_MESSAGE, (2,), "messages"),
        (Change.DROP_DELIVERY, (3,), "deliveries"),
        (Change.DROP_INBOUND, (1, 77), "inbound"),
        (Change.DROP_RETAINED, ("t",), "retained"),
    ],
)
def test_each_row_goes_by_itself(path: Path, change: Change, row: tuple[object, ...], table: str):
    store = SqliteStore(path)
    store.commit([*EVERYTHING, (change, row)])
    found = store.load()
    store.close()
    assert getattr(found, table) == []
    assert sum(len(getattr(found, name)) for name in Stored.__dataclass_fields__) == 5


def test_everything_can_be_written_anew(path: Path):
    store = SqliteStore(path)
    store.commit(EVERYTHING)
    store.commit([(Change.CLEAR, ())])
    assert store.load() == Stored()
    store.close()


def test_only_its_owner_reads_it(path: Path):
    store = SqliteStore(path)
    store.commit(EVERYTHING)
    assert {one.name: one.stat().st_mode & 0o777 for one in path.parent.iterdir()} == {
        "hub.sqlite": 0o600,
        "hub.sqlite-wal": 0o600,
    }
    store.close()


def test_a_change_is_whole_or_none(path: Path):
    store = SqliteStore(path)
    with pytest.raises(StoreError):
        store.commit([*EVERYTHING, (Change.PUT_SESSION, (1, None, None, None, None, None, None, None, None, None))])
    assert store.load() == Stored()
    store.commit(EVERYTHING)
    assert store.load() == WHOLE
    store.close()


def test_no_room(path: Path):
    store = SqliteStore(path)
    store.commit(EVERYTHING)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError) as error:
        store.commit([(Change.PUT_MESSAGE, MESSAGE._replace(id=5, payload=b"." * 100_000))])
    assert error.value.full
    assert store.load() == WHOLE
    store.commit([(Change.DROP_MESSAGE, (2,))])
    store.close()


def test_another_process_has_it(path: Path):
    store = SqliteStore(path)
    with pytest.raises(StoreError):
        SqliteStore(path)
    store.commit(EVERYTHING)
    store.close()


@pytest.mark.parametrize(
    "script",
    ["CREATE TABLE a (b)", "PRAGMA user_version = 1", "PRAGMA application_id = 0x73677748; PRAGMA user_version = 2"],
)
def test_a_file_of_something_else(path: Path, script: str):
    other = sqlite3.connect(path)
    other.executescript(script)
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreError):
        SqliteStore(path)
    other = sqlite3.connect(path)
    other.execute("PRAGMA journal_mode = DELETE")
    other.close()
    assert path.read_bytes()[100:] == before[100:]


def test_no_database(path: Path):
    path.write_bytes(b"something else entirely" * 1_000)
    with pytest.raises(StoreError):
        SqliteStore(path)
    with pytest.raises(StoreError):
        SqliteStore(path.parent / "nowhere" / "hub.sqlite")


def test_memory_keeps_nothing():
    store = MemoryStore()
    store.commit(EVERYTHING)
    assert store.load() == Stored()
    assert not store.durable
    store.close()
