"""The ledger does what its operator says, all of it or nothing, in both databases alike."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import pytest

from gateway.registry import bulk, read
from gateway.registry.ledger import (
    ChannelRecord,
    ConnectionRecord,
    Exists,
    Invalid,
    Ledger,
    LedgerError,
    NotFound,
    Taken,
    ThingRecord,
    ThingRow,
    open_ledger,
)
from gateway.registry.settings import RegistrySettings

ID = "0a1b2c3d-0000-4000-8000-00000000000f"
KEY = "sixteen-visible!"


# --- things ---------------------------------------------------------------------------------------------------------


def test_create_thing(ledger: Ledger) -> None:
    before = datetime.now(UTC)
    record, key = ledger.create_thing("pump", metadata={"floor": 3, "tags": ["ä", None, 1.5, {"b": 1, "a": 2}]})
    assert record == ledger.thing(record.id) == ledger.thing("pump")
    assert record.name == "pump"
    assert record.enabled
    assert record.metadata == {"floor": 3, "tags": ["ä", None, 1.5, {"b": 1, "a": 2}]}
    assert record.key_sha256 == sha256(key.encode()).hexdigest()
    assert UUID(record.id).version == 4
    assert record.created.tzinfo is UTC
    assert timedelta(0) <= record.created - before < timedelta(minutes=1)


def test_keys_are_new_each_time(ledger: Ledger) -> None:
    made = [ledger.create_thing("pump") for _ in range(20)]
    assert len({key for _, key in made}) == len({record.id for record, _ in made}) == 20
    assert all(len(key) == 36 and key.isascii() for _, key in made)


def test_create_thing_with_id_and_key(ledger: Ledger) -> None:
    record, key = ledger.create_thing("pump", id=ID.upper(), key=KEY)
    assert (record.id, key) == (ID, KEY)
    assert ledger.thing(ID.upper()) == record


@pytest.mark.parametrize("name", ["x", "ä" * 254, "two words", "'; DROP TABLE thing; --", "%s ? {0}", "名前", ID])
def test_names(ledger: Ledger, name: str) -> None:
    record, _ = ledger.create_thing(name)
    assert ledger.thing(name) == record
    assert ledger.create_channel(name) == ledger.channel(name)


@pytest.mark.parametrize("name", ["", "x" * 255, "two\nlines", "\x00", "\x7f", "a\u202eb", "\ud800", "\ufeff"])
def test_refused_names(ledger: Ledger, name: str) -> None:
    for make in (ledger.create_thing, ledger.create_channel):
        with pytest.raises(Invalid, match="printable"):
            make(name)
    assert not [*ledger.things(), *ledger.channels()]


@pytest.mark.parametrize(
    "key", ["", "fifteen-visible", "x" * 255, "with a space in it", "sixteen\nlines-ok!", "k" * 16 + "ä"]
)
def test_refused_keys(ledger: Ledger, key: str) -> None:
    known, _ = ledger.create_thing("known")
    for use in (lambda: ledger.create_thing("pump", key=key), lambda: ledger.rotate_key("known", key)):
        with pytest.raises(Invalid) as refused:
            use()
        assert not key or key not in str(refused.value)
    assert [*ledger.things()] == [known]


@pytest.mark.parametrize("wrong", ["", "pump", ID[:-1], ID + "0", "{" + ID + "}", ID.replace("-", ""), " " + ID])
def test_refused_ids(ledger: Ledger, wrong: str) -> None:
    with pytest.raises(Invalid, match="UUID"):
        ledger.create_thing("pump", id=wrong)
    with pytest.raises(Invalid, match="UUID"):
        ledger.create_channel("pump", id=wrong)


@pytest.mark.parametrize(
    "metadata", [{"x": float("nan")}, {"x": float("inf")}, {"x": "y" * 16384}, {"x": object()}, {"x": "\ud800"}]
)
def test_refused_metadata(ledger: Ledger, metadata: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="metadata"):
        ledger.create_thing("pump", metadata=metadata)


def test_metadata_of_the_largest_size(ledger: Ledger) -> None:
    metadata = {"x": "\x00" + "y" * (16 * 1024 - len('{"x":"\\u0000"}'))}
    record, _ = ledger.create_thing("pump", metadata=metadata)
    assert ledger.thing(record.id).metadata == metadata


def test_id_and_key_belong_to_one(ledger: Ledger) -> None:
    ledger.create_thing("pump", id=ID, key=KEY)
    with pytest.raises(Exists, match="id already"):
        ledger.create_thing("other", id=ID)
    with pytest.raises(Exists, match="key already") as refused:
        ledger.create_thing("other", key=KEY)
    assert KEY not in str(refused.value)
    ledger.create_thing("other")
    with pytest.raises(Exists):
        ledger.rotate_key("other", KEY)
    with pytest.raises(Exists):
        ledger.rotate_key("pump", KEY)


def test_ambiguous(ledger: Ledger) -> None:
    ids = sorted(ledger.create_thing("pump")[0].id for _ in range(3))
    with pytest.raises(Invalid) as refused:
        ledger.delete_thing("pump")
    assert ", ".join(ids) in str(refused.value)
    assert ledger.delete_thing(ids[0]).id == ids[0]
    channels = [ledger.create_channel("c").id for _ in range(12)]
    with pytest.raises(Invalid, match="and more") as refused:
        ledger.channel("c")
    assert sum(channel in str(refused.value) for channel in channels) == 10


def test_a_name_that_is_to_be_the_only_one(ledger: Ledger) -> None:
    thing, _ = ledger.create_thing("pump", alone=True)
    channel = ledger.create_channel("pump", alone=True)
    with pytest.raises(Taken, match=rf"^there is a thing named pump already \(id {thing.id}\)$"):
        ledger.create_thing("pump", alone=True)
    with pytest.raises(Taken, match=rf"^there is a channel named pump already \(id {channel.id}\)$"):
        ledger.create_channel("pump", alone=True)
    assert ([*ledger.things()], [*ledger.channels()]) == ([thing], [channel])
    for one in ledger.create_thing("pump")[0], ledger.create_channel("pump"):
        assert one.name == "pump"
    ledger.create_thing("Pump", alone=True)


def test_names_that_are_taken_are_told_together(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "BATCH", 2)
    known, _ = ledger.create_thing("pump")
    rows = [ThingRow(name) for name in ("a", "pump", "b", "a", "pump")]
    with pytest.raises(Taken) as refused:
        ledger.import_things(rows, alone=True)
    assert refused.value.lines == (
        f"row 2: there is a thing named pump already (id {known.id})",
        "row 4: the name a is that of row 1",
        "row 5: the name pump is that of row 2",
    )
    assert [*ledger.things()] == [known]


def test_only_one_of_many_who_want_a_name_alone_has_it(either: RegistrySettings) -> None:
    made: list[object] = []
    refused: list[Taken] = []
    start = threading.Barrier(8)

    def write(number: int) -> None:
        with open_ledger(either) as ledger:
            start.wait()
            try:
                made.append(
                    ledger.create_thing("t", alone=True) if number % 2 else ledger.create_channel("t", alone=True)
                )
            except Taken as error:
                refused.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(refused)) == (2, 6)


def test_an_id_is_not_a_name(ledger: Ledger) -> None:
    """Who may name a thing must not be able to stand for another."""
    record, _ = ledger.create_thing("pump", id=ID)
    ledger.create_thing(ID)
    assert ledger.thing(ID) == record


@pytest.mark.parametrize("unknown", ["", "pump", ID, "\x00", "\ud800", "x" * 100_000])
def test_unknown(ledger: Ledger, unknown: str) -> None:
    ledger.create_thing("thing")
    ledger.create_channel("channel")
    asked: list[Callable[[], object]] = [
        lambda: ledger.thing(unknown),
        lambda: ledger.set_enabled(unknown, True),
        lambda: ledger.rotate_key(unknown),
        lambda: ledger.delete_thing(unknown),
        lambda: ledger.channel(unknown),
        lambda: ledger.delete_channel(unknown),
        lambda: ledger.connect(unknown, "channel"),
        lambda: ledger.connect("thing", unknown),
        lambda: ledger.disconnect(unknown, "channel"),
        lambda: ledger.disconnect("thing", unknown),
        lambda: [*ledger.things(channel=unknown)],
        lambda: [*ledger.channels(thing=unknown)],
        lambda: [*ledger.connections(thing=unknown)],
    ]
    for ask in asked:
        with pytest.raises(NotFound, match="there is no") as refused:
            ask()
        assert len(str(refused.value)) < 1100


def test_set_enabled(ledger: Ledger) -> None:
    record, _ = ledger.create_thing("pump")
    assert not ledger.set_enabled("pump", False).enabled
    assert not ledger.set_enabled(record.id, False).enabled
    assert not ledger.thing("pump").enabled
    assert ledger.set_enabled("pump", True) == record


def test_rotate_key(ledger: Ledger) -> None:
    before, old = ledger.create_thing("pump")
    after, new = ledger.rotate_key("pump")
    assert new != old
    assert after.key_sha256 == sha256(new.encode()).hexdigest() != before.key_sha256
    assert ledger.rotate_key("pump", KEY)[0].key_sha256 == sha256(KEY.encode()).hexdigest()


def test_delete_thing(ledger: Ledger) -> None:
    record, _ = ledger.create_thing("pump")
    channel = ledger.create_channel("c")
    ledger.connect("pump", "c")
    assert ledger.delete_thing("pump") == record
    assert not [*ledger.things(), *ledger.connections()]
    assert [*ledger.channels()] == [channel]


# --- channels and connections ---------------------------------------------------------------------------------------


def test_channels(ledger: Ledger) -> None:
    first = ledger.create_channel("c", id=ID)
    assert first == ChannelRecord(ID, "c", first.created)
    with pytest.raises(Exists):
        ledger.create_channel("d", id=ID)
    ledger.create_thing("pump")
    ledger.connect("pump", "c")
    assert ledger.delete_channel("c") == first
    assert not [*ledger.channels(), *ledger.connections()]
    assert [*ledger.things()]


def test_connect(ledger: Ledger) -> None:
    thing, channel = ledger.create_thing("pump")[0].id, ledger.create_channel("c").id
    assert ledger.connect("pump", "c") == ConnectionRecord(thing, channel, True, True)
    assert ledger.connect(thing, channel, publish=False) == ConnectionRecord(thing, channel, False, True)
    assert [*ledger.connections()] == [ConnectionRecord(thing, channel, False, True)]
    ledger.connect("pump", "c", subscribe=False)
    assert ledger.disconnect("pump", "c") == ConnectionRecord(thing, channel, True, False)
    with pytest.raises(NotFound, match="not connected"):
        ledger.disconnect("pump", "c")
    with pytest.raises(Invalid):
        ledger.connect("pump", "c", publish=False, subscribe=False)
    assert [*ledger.connections()] == []


def test_lists(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order and complete, whatever the size of a page, and while somebody writes in between."""
    things = [ledger.create_thing(f"t{number}")[0] for number in range(7)]
    channels = [ledger.create_channel(f"c{number}") for number in range(3)]
    for thing in things[1:]:
        for channel in channels[:2]:
            ledger.connect(thing.id, channel.id)
    by_id = sorted((thing.id, channel.id) for thing in things[1:] for channel in channels[:2])
    for size in (1, 2, 3, 7, 100):
        monkeypatch.setattr(read, "PAGE", size)
        assert [*ledger.things()] == things
        assert [*ledger.things(channel="c1")] == things[1:]
        assert [*ledger.things(channel="c2")] == []
        assert [*ledger.channels()] == channels
        assert [*ledger.channels(thing="t1")] == channels[:2]
        assert [*ledger.channels(thing="t0")] == []
        assert [(one.thing, one.channel) for one in ledger.connections()] == by_id
        assert len([*ledger.connections(thing="t1")]) == 2
        assert len([*ledger.connections(channel="c0")]) == 6
        assert len([*ledger.connections(thing="t1", channel="c0")]) == 1
        assert [ledger.set_enabled(thing.id, True) for thing in ledger.things()] == things


def test_order_of_the_same_moment(either: RegistrySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "PAGE", 2)
    with open_ledger(either) as opened:
        ledger = Ledger(opened._store, lambda: datetime(2026, 1, 1, tzinfo=UTC))
        ids = sorted(ledger.create_thing("pump")[0].id for _ in range(7))
        assert [record.id for record in ledger.things()] == ids


# --- several writers, and what goes wrong ---------------------------------------------------------------------------


def test_it_stays(either: RegistrySettings) -> None:
    with open_ledger(either) as ledger:
        record, _ = ledger.create_thing("pump", metadata={"a": 1})
    with open_ledger(either) as ledger:
        assert [*ledger.things()] == [record]


def test_many_writers(either: RegistrySettings) -> None:
    """Eight at once, that also make the registry at once: each thing is made once, and nobody is turned away."""
    made: list[ThingRecord] = []
    wrong: list[BaseException] = []
    start = threading.Barrier(8)

    def write() -> None:
        try:
            start.wait()
            with open_ledger(either) as ledger:
                made.extend(ledger.create_thing(f"t{number}")[0] for number in range(5))
        except BaseException as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    with open_ledger(either) as ledger:
        assert sorted(record.id for record in ledger.things()) == sorted(record.id for record in made)
        assert len(made) == 40


def test_all_or_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is read after it was written: if that fails, nothing was written."""
    record, _ = ledger.create_thing("pump")

    def fail(*_: object) -> ThingRecord:
        raise LedgerError("a broken wire")

    with monkeypatch.context() as patched:
        patched.setattr("gateway.registry.ledger.thing_record", fail)
        with pytest.raises(LedgerError, match="wire"):
            ledger.set_enabled("pump", False)
    assert ledger.thing("pump") == record


def test_no_secret_is_kept_or_shown(either: RegistrySettings) -> None:
    with open_ledger(either) as ledger:
        record, key = ledger.create_thing("pump", key=str(uuid4()))
        assert key not in repr(record)
        assert not any(key in repr(row) for row in ledger._store.rows("SELECT * FROM thing"))
        assert not any(key.encode() in repr(row).encode() for row in ledger._store.rows("SELECT * FROM change"))


def test_a_newer_registry(either: RegistrySettings) -> None:
    with open_ledger(either) as ledger, ledger._store.transaction():
        ledger._store.change("UPDATE registry SET version = ?", (2,))
    with pytest.raises(LedgerError, match="this securegw knows 1"):
        open_ledger(either)


def test_the_log_of_changes_is_bounded(either: RegistrySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "gateway.registry.ledger.PRUNE", "DELETE FROM change WHERE seq < (SELECT max(seq) FROM change) - 5"
    )
    with open_ledger(either) as ledger:
        for _ in range(20):
            ledger.create_thing("pump")
        assert 1 <= ledger._store.rows("SELECT count(*) FROM change")[0][0] <= 6
