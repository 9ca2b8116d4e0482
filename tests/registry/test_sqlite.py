"""A book on a SQLite file hears what others write, by the ledger or by hand, and survives what happens to files."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from gateway.registry.book import Book
from gateway.registry.ledger import Ledger, LedgerError, open_ledger
from gateway.registry.settings import RegistrySettings
from gateway.registry.sqlite import SQLiteSource
from gateway.things import NO_RIGHTS, Change, Rights, Unavailable

BOTH = Rights(True, True)
OTHER = "00000000-0000-4000-8000-000000000001"


@dataclass
class Reader:
    """One gateway's side of it."""

    path: Path
    clock: Clock = field(default_factory=Clock)
    said: list[str | None] = field(default_factory=list)
    book: Book = field(init=False)
    source: SQLiteSource = field(init=False)

    def __post_init__(self) -> None:
        self.book = Book(300, self.clock.callLater)
        self.source = SQLiteSource(self.path, self.book, self.said.append)
        self.source.open()

    def heard_of(self, thing: str) -> list[Change]:
        heard: list[Change] = []
        self.book.watch(thing, heard.append)
        return heard


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with open_ledger(RegistrySettings(path)) as ledger:
        yield ledger


@pytest.fixture
def thing(ledger: Ledger) -> str:
    """Its key is its name four times; it is connected to a channel."""
    record, _ = ledger.create_thing("pump", key="pump" * 4)
    ledger.create_channel("floor")
    ledger.connect("pump", "floor")
    return record.id


@pytest.fixture
def reader(path: Path, thing: str) -> Iterator[Reader]:
    reader = Reader(path)
    yield reader
    reader.source.close()


def by_hand(path: Path, *statements: str) -> None:
    """In a process of its own, as with the sqlite3 shell: foreign keys are not enforced there."""
    opened = "import sqlite3, sys; database = sqlite3.connect(sys.argv[1], isolation_level=None)"
    script = f"{opened}\nfor statement in sys.argv[2:]: database.execute(statement)"
    subprocess.run([sys.executable, "-c", script, path, *statements], check=True)


def test_makes_the_file(path: Path) -> None:
    reader = Reader(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert reader.book.named("x") is None
    reader.source.close()


def test_reads_everything(reader: Reader, ledger: Ledger, thing: str) -> None:
    channel = ledger.channel("floor").id
    known = reader.book.with_key(b"pump" * 4)
    assert known
    assert (known.id, known.name, known.enabled) == (thing, "pump", True)
    assert reader.book.rights(thing, channel) == BOTH
    assert reader.book.has_channel(channel)


CHANGES: list[tuple[Callable[[Ledger], object], list[Change]]] = [
    (lambda ledger: ledger.set_enabled("pump", False), [Change.REVOKED]),
    (lambda ledger: ledger.rotate_key("pump"), [Change.REVOKED]),
    (lambda ledger: ledger.delete_thing("pump"), [Change.REVOKED]),
    (lambda ledger: ledger.disconnect("pump", "floor"), [Change.SHRUNK]),
    (lambda ledger: ledger.connect("pump", "floor", publish=False), [Change.SHRUNK]),
    (lambda ledger: ledger.delete_channel("floor"), [Change.SHRUNK]),
    (lambda ledger: ledger.connect("pump", ledger.create_channel("roof").id), [Change.GROWN]),
    (lambda ledger: ledger.create_thing("another"), []),
    (lambda ledger: ledger.set_enabled("pump", True), []),
]


@pytest.mark.parametrize(("change", "told"), CHANGES)
def test_hears_the_ledger(
    reader: Reader, ledger: Ledger, thing: str, change: Callable[[Ledger], object], told: list[Change]
) -> None:
    heard = reader.heard_of(thing)
    change(ledger)
    assert heard == []
    reader.source.tick()
    reader.source.tick()
    assert heard == told
    assert not reader.said


BY_HAND = [
    ("UPDATE thing SET enabled = 0", [Change.REVOKED]),
    ("DELETE FROM thing", [Change.REVOKED]),
    ("UPDATE thing SET key_hash = zeroblob(32)", [Change.REVOKED]),
    (f"UPDATE thing SET id = '{OTHER}'", [Change.REVOKED]),
    ("DELETE FROM connection", [Change.SHRUNK]),
    ("UPDATE connection SET may_subscribe = 0", [Change.SHRUNK]),
    (f"UPDATE connection SET thing = '{OTHER}'", [Change.SHRUNK]),
    ("DELETE FROM channel", [Change.SHRUNK]),
    (f"UPDATE channel SET id = '{OTHER}'", [Change.SHRUNK]),
    ("REPLACE INTO thing (id, name, key_hash) SELECT id, name, zeroblob(32) FROM thing", [Change.REVOKED]),
    (f"REPLACE INTO thing (id, name, key_hash) SELECT '{OTHER}', 'thief', key_hash FROM thing", [Change.REVOKED]),
    ("UPDATE thing SET name = 'valve'", []),
    ("UPDATE thing SET metadata = '[]'", []),
]


@pytest.mark.parametrize(("statement", "told"), BY_HAND)
def test_hears_hands(reader: Reader, path: Path, thing: str, statement: str, told: list[Change]) -> None:
    heard = reader.heard_of(thing)
    by_hand(path, statement)
    reader.source.tick()
    assert heard == told
    again = Reader(path)
    assert again.book._things == reader.book._things
    assert again.book._by_key == reader.book._by_key
    assert again.book._channels == reader.book._channels
    again.source.close()


def test_an_update_that_replaces_another(reader: Reader, ledger: Ledger, path: Path, thing: str) -> None:
    ledger.create_thing("thief")
    reader.source.tick()
    heard = reader.heard_of(thing)
    by_hand(
        path,
        "UPDATE OR REPLACE thing SET key_hash = (SELECT key_hash FROM thing WHERE name = 'pump') WHERE name = 'thief'",
    )
    reader.source.tick()
    assert heard == [Change.REVOKED]
    owner = reader.book.with_key(b"pump" * 4)
    assert owner
    assert owner.name == "thief"


def test_a_connection_that_becomes_another_things(reader: Reader, ledger: Ledger, path: Path, thing: str) -> None:
    other = ledger.create_thing("valve")[0].id
    reader.source.tick()
    heard = [reader.heard_of(thing), reader.heard_of(other)]
    by_hand(path, f"UPDATE connection SET thing = '{other}'")
    reader.source.tick()
    assert heard == [[Change.SHRUNK], [Change.GROWN]]


@pytest.mark.parametrize("table", ["thing", "channel"])
def test_hands_leave_no_connection_behind(ledger: Ledger, path: Path, thing: str, table: str) -> None:
    """Or it would be one of whoever next has that id."""
    by_hand(path, f"DELETE FROM {table}")
    assert not [*ledger.connections()]


def test_a_channel_that_comes_after_its_connection(reader: Reader, path: Path, thing: str) -> None:
    by_hand(path, f"INSERT INTO connection (thing, channel) VALUES ('{thing}', '{OTHER}')")
    reader.source.tick()
    heard = reader.heard_of(thing)
    assert reader.book.rights(thing, OTHER) == NO_RIGHTS
    by_hand(path, f"INSERT INTO channel (id, name) VALUES ('{OTHER}', 'c')")
    reader.source.tick()
    assert heard == [Change.GROWN]
    assert reader.book.rights(thing, OTHER) == BOTH


def test_all_of_one_transaction_at_once(reader: Reader, path: Path, thing: str) -> None:
    heard = reader.heard_of(thing)
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("BEGIN")
    database.execute("UPDATE thing SET enabled = 0")
    reader.source.tick()
    database.execute("UPDATE thing SET enabled = 1")
    database.execute("DELETE FROM connection")
    database.execute("COMMIT")
    reader.source.tick()
    assert heard == [Change.SHRUNK]
    database.execute("BEGIN")
    database.execute("DELETE FROM thing")
    database.execute("ROLLBACK")
    reader.source.tick()
    assert heard == [Change.SHRUNK]
    database.close()


def test_two_gateways(reader: Reader, ledger: Ledger, path: Path, thing: str) -> None:
    other = Reader(path)
    heard = [reader.heard_of(thing), other.heard_of(thing)]
    ledger.set_enabled("pump", False)
    reader.source.tick()
    other.source.tick()
    assert heard == [[Change.REVOKED]] * 2
    other.source.close()


def test_nothing_is_read_where_nobody_wrote(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.registry.sqlite._since", lambda *_: pytest.fail("it reads"))
    for _ in range(3):
        reader.source.tick()
    assert not reader.source.away


# --- a history that cannot be followed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM change",
        "DELETE FROM change WHERE seq < (SELECT max(seq) FROM change)",
        "UPDATE change SET mark = x'00'",
    ],
)
def test_a_log_that_was_pruned(reader: Reader, path: Path, thing: str, statement: str) -> None:
    heard = reader.heard_of(thing)
    by_hand(path, "UPDATE thing SET enabled = 0", statement)
    reader.source.tick()
    assert heard == [Change.REVOKED]
    by_hand(path, "UPDATE thing SET enabled = 1")
    reader.source.tick()
    assert heard == [Change.REVOKED, Change.GROWN]


def test_a_row_that_names_nothing(reader: Reader, path: Path, thing: str) -> None:
    heard = reader.heard_of(thing)
    by_hand(path, "DROP TRIGGER thing_updated", "UPDATE thing SET enabled = 0", "INSERT INTO change DEFAULT VALUES")
    reader.source.tick()
    assert heard == [Change.REVOKED]


def copied(path: Path, name: str) -> Path:
    """A backup, made in order."""
    backup = path.with_name(name)
    with sqlite3.connect(path) as database, sqlite3.connect(backup) as copy:
        database.backup(copy)
    database.close()
    copy.close()
    backup.chmod(0o600)
    return backup


def test_the_file_is_replaced(reader: Reader, ledger: Ledger, path: Path, thing: str) -> None:
    backup = copied(path, "backup.db")
    ledger.connect("pump", ledger.create_channel("roof").id)
    reader.source.tick()
    heard = reader.heard_of(thing)
    for part in path.parent.glob("registry.db-*"):
        part.unlink()
    backup.replace(path)
    reader.source.tick()
    assert heard == [Change.SHRUNK]
    by_hand(path, "DELETE FROM thing")
    reader.source.tick()
    assert heard == [Change.SHRUNK, Change.REVOKED]


def test_a_backup_is_restored_into_the_file(reader: Reader, ledger: Ledger, path: Path, thing: str) -> None:
    """Its log is as long as the one that was followed, and says something else."""
    backup = copied(path, "backup.db")
    ledger.set_enabled("pump", False)
    reader.source.tick()
    heard = reader.heard_of(thing)
    by_hand(backup, "UPDATE thing SET name = 'valve'")
    with sqlite3.connect(backup) as copy, sqlite3.connect(path) as database:
        copy.backup(database)
    copy.close()
    database.close()
    reader.source.tick()
    assert heard == [Change.GROWN]


# --- a file that is away --------------------------------------------------------------------------------------------


def test_the_file_goes_and_comes(reader: Reader, path: Path, thing: str) -> None:
    heard = reader.heard_of(thing)
    path.rename(path.with_name("elsewhere"))
    for _ in range(3):
        reader.source.tick()
    assert reader.said == [f"{path}: No such file or directory"]
    assert reader.source.away
    assert reader.book.named(thing)
    reader.clock.advance(300)
    assert heard == [Change.UNKNOWN]
    with pytest.raises(Unavailable):
        reader.book.named(thing)
    assert not path.exists()
    path.with_name("elsewhere").rename(path)
    reader.source.tick()
    assert reader.said[1:] == [None]
    assert reader.book.named(thing)
    assert heard == [Change.UNKNOWN]
    assert not reader.clock.getDelayedCalls()


def test_what_changed_while_the_file_was_away(reader: Reader, path: Path, thing: str) -> None:
    heard = reader.heard_of(thing)
    backup = copied(path, "backup.db")
    for part in path.parent.glob("registry.db*"):
        part.unlink()
    reader.source.tick()
    by_hand(backup, "DELETE FROM connection")
    backup.rename(path)
    reader.source.tick()
    assert heard == [Change.SHRUNK]


def test_everything_is_read_again_after_that(reader: Reader, path: Path, thing: str) -> None:
    heard = reader.heard_of(thing)
    away = path.with_name("elsewhere")
    checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)"
    by_hand(path, checkpoint)
    path.rename(away)
    reader.source.tick()
    by_hand(away, "DROP TRIGGER thing_updated", "UPDATE thing SET enabled = 0", checkpoint)
    away.rename(path)
    reader.source.tick()
    assert heard == [Change.REVOKED]


def test_a_broken_file(reader: Reader, path: Path, thing: str) -> None:
    heard = reader.heard_of(thing)
    backup = copied(path, "backup.db")
    broken = path.with_name("broken")
    broken.write_bytes(b"x" * 8192)
    broken.chmod(0o600)
    for part in path.parent.glob("registry.db-*"):
        part.unlink()
    broken.replace(path)
    reader.source.tick()
    reader.source.tick()
    (said,) = reader.said
    assert said == f"{path}: file is not a database"
    assert reader.book.named(thing)
    backup.replace(path)
    reader.source.tick()
    assert not reader.source.away
    assert heard == []


def test_no_registry_in_it_any_more(reader: Reader, path: Path, thing: str) -> None:
    by_hand(path, "DROP TABLE connection")
    reader.source.tick()
    assert "no such table: connection" in str(reader.said)
    assert reader.book.named(thing)


def test_a_bug_while_it_is_told(reader: Reader, ledger: Ledger, path: Path, thing: str) -> None:
    """It is said, and the next change is heard all the same."""

    def buggy(_: Change) -> None:
        raise RuntimeError("a bug")

    watch = reader.book.watch(thing, buggy)
    heard = reader.heard_of(thing)
    ledger.set_enabled("pump", False)
    reader.source.tick()
    assert "watchers" in str(reader.said)
    watch.stop()
    ledger.set_enabled("pump", True)
    reader.source.tick()
    assert heard == [Change.REVOKED, Change.GROWN]
    assert not reader.source.away


def test_start_without_the_folder(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path)
    with pytest.raises(LedgerError, match="No such file"):
        Reader(tmp_path / "registry.db")
