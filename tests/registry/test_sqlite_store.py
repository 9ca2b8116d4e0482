"""The file: for its owner alone, nobody else's, and its errors in words."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from gateway.registry.ledger import Ledger, LedgerError, ThingRow, open_ledger
from gateway.registry.settings import RegistrySettings
from gateway.registry.sqlite_store import SQLiteStore


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_for_its_owner_alone(sqlite: RegistrySettings, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with open_ledger(sqlite) as ledger:
            ledger.create_thing("pump")
            assert {path.name: mode(path) for path in tmp_path.iterdir()} == dict.fromkeys(
                ("registry.db", "registry.db-wal", "registry.db-shm"), 0o600
            )
    finally:
        os.umask(before)


@pytest.mark.parametrize("bits", [0o620, 0o602, 0o666])
def test_refused_where_others_may_write(sqlite: RegistrySettings, tmp_path: Path, bits: int) -> None:
    open_ledger(sqlite).close()
    (tmp_path / "registry.db").chmod(bits)
    with pytest.raises(LedgerError, match="chmod"):
        open_ledger(sqlite)
    (tmp_path / "registry.db").chmod(0o640)
    open_ledger(sqlite).close()


def test_odd_names_of_files(tmp_path: Path) -> None:
    for name in ("with space", "100%?mode=memory", "a#b", "ä.db", "'"):
        with open_ledger(RegistrySettings(tmp_path / name)) as ledger:
            ledger.create_thing("pump")
        assert mode(tmp_path / name) == 0o600


def test_readers_do_not_wait_for_writers(sqlite: RegistrySettings, tmp_path: Path) -> None:
    with open_ledger(sqlite) as ledger:
        assert ledger._store.rows("PRAGMA journal_mode") == [("wal",)]


def test_an_empty_file_is_filled(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.touch(0o600)
    with open_ledger(RegistrySettings(path)) as ledger:
        assert not [*ledger.things()]


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"nowhere/registry.db: No such file or directory"):
        open_ledger(RegistrySettings(tmp_path / "nowhere" / "registry.db"))


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=str(tmp_path)):
        open_ledger(RegistrySettings(tmp_path))


def test_no_database(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_text("[main]\nkey = value\n" * 100, "utf-8")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="not a database"):
        open_ledger(RegistrySettings(path))
    assert path.read_bytes() == before


def test_of_another_application(tmp_path: Path) -> None:
    path = tmp_path / "cookies.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE cookie (value TEXT)")
    database.close()
    path.chmod(0o600)
    with pytest.raises(LedgerError, match="is not a registry"):
        open_ledger(RegistrySettings(path))
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (1,)
    database.close()


def test_busy(sqlite: RegistrySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_ledger(sqlite).close()
    other = sqlite3.connect(tmp_path / "registry.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with Ledger(SQLiteStore(tmp_path / "registry.db", busy=0.01)) as ledger:
        with pytest.raises(LedgerError, match="another process"):
            ledger.create_thing("pump")
        assert not [*ledger.things()]
        other.execute("ROLLBACK")
        ledger.create_thing("pump")
    other.close()


def test_a_full_disk(sqlite: RegistrySettings) -> None:
    """SQLite says so of a full disk and of its own limit alike."""
    with open_ledger(sqlite) as ledger:
        store = ledger._store
        assert isinstance(store, SQLiteStore)
        record, _ = ledger.create_thing("pump")
        store.rows("PRAGMA max_page_count = 50")
        with pytest.raises(LedgerError, match="full"):
            ledger.import_things(ThingRow("x" * 200) for _ in range(5000))
        assert [*ledger.things()] == [record]
        store.rows("PRAGMA max_page_count = 5000")
        ledger.create_thing("another")


def test_what_sqlite_has_rolled_back_itself(sqlite: RegistrySettings, tmp_path: Path) -> None:
    """As after some errors (SQLite, ROLLBACK): the error is told, and not that there is nothing to roll back."""
    store = SQLiteStore(tmp_path / "registry.db")
    with pytest.raises(LedgerError, match="the true reason"), store.transaction():
        store.change("ROLLBACK", ())
        raise LedgerError("the true reason")
    store.close()


def test_a_file_that_others_own(sqlite: RegistrySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refused)
    with pytest.raises(LedgerError, match=r"registry.db: Permission denied"):
        open_ledger(sqlite)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO thing (id, name, key_hash) VALUES ('{id}', 'x', 'text of thirty-two characters ...')",
        "INSERT INTO thing (id, name, key_hash) VALUES ('{id}', 'x', x'00')",
        "INSERT INTO thing (id, name, key_hash) VALUES ('{ID}', 'x', zeroblob(32))",
        "INSERT INTO thing (id, name, key_hash) VALUES ('{id}', '', zeroblob(32))",
        "INSERT INTO thing (id, name, key_hash) VALUES ('{id}', x'00', zeroblob(32))",
        "INSERT INTO thing (id, name, key_hash, enabled) VALUES ('{id}', 'x', zeroblob(32), 2)",
        "INSERT INTO thing (id, name, key_hash, metadata) VALUES ('{id}', 'x', zeroblob(32), '{{')",
        "INSERT INTO thing (id, name, key_hash, created) VALUES ('{id}', 'x', zeroblob(32), 'yesterday')",
        "INSERT INTO channel (id, name) VALUES ('x', 'x')",
    ],
)
def test_what_hands_cannot_put_in(sqlite: RegistrySettings, tmp_path: Path, statement: str) -> None:
    open_ledger(sqlite).close()
    database = sqlite3.connect(tmp_path / "registry.db")
    identifier = "0a1b2c3d-0000-4000-8000-00000000000f"
    with pytest.raises(sqlite3.IntegrityError):
        database.execute(statement.format(id=identifier, ID=identifier.upper()))
    database.close()


def test_what_hands_put_in(sqlite: RegistrySettings, tmp_path: Path) -> None:
    open_ledger(sqlite).close()
    with sqlite3.connect(tmp_path / "registry.db") as database:
        database.execute(
            "INSERT INTO thing (id, name, key_hash) VALUES ('0a1b2c3d-0000-4000-8000-00000000000f', 'x', zeroblob(32))"
        )
    database.close()
    with open_ledger(sqlite) as ledger:
        (record,) = ledger.things()
        assert (record.enabled, record.metadata, record.created.tzname()) == (True, {}, "UTC")
