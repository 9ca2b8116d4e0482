"""An import: all of it or nothing, and an error says which row it was."""

from __future__ import annotations

from hashlib import sha256
from uuid import uuid4

import pytest

from gateway.registry import bulk
from gateway.registry.ledger import Exists, Invalid, Ledger, NotFound, RowChannel, ThingRow

ID = "0a1b2c3d-0000-4000-8000-00000000000f"
KEY = "sixteen-visible!"


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "BATCH", 10)


def test_import(ledger: Ledger) -> None:
    here, there = ledger.create_channel("here"), ledger.create_channel("there")
    told: list[int] = []
    hashed = sha256(b"another key of one's own").hexdigest()
    rows = [
        ThingRow("a"),
        ThingRow("b", id=ID.upper(), key=KEY, metadata={"x": 1}, enabled=False, channels=["here", there.id]),
        ThingRow("c", key_sha256=hashed.upper(), channels=(RowChannel("here", publish=False),)),
        *(ThingRow(f"t{number}") for number in range(22)),
    ]
    first, second, third, *rest = ledger.import_things(iter(rows), progress=told.append)
    assert told == [10, 20, 25]
    assert first.key
    assert first.record.key_sha256 == sha256(first.key.encode()).hexdigest()
    assert (second.key, second.record.id, second.record.enabled) == (None, ID, False)
    assert (third.key, third.record.key_sha256) == (None, hashed)
    assert all(one.key for one in rest)
    records = {record.id: record for record in ledger.things()}
    assert records == {one.record.id: one.record for one in (first, second, third, *rest)}
    assert {(one.thing, one.channel, one.publish, one.subscribe) for one in ledger.connections()} == {
        (ID, here.id, True, True),
        (ID, there.id, True, True),
        (third.record.id, here.id, False, True),
    }


WRONG = [
    (ThingRow(""), Invalid, "printable"),
    (ThingRow("x", id="x"), Invalid, "UUID"),
    (ThingRow("x", key="short"), Invalid, "16"),
    (ThingRow("x", key=""), Invalid, "16"),
    (ThingRow("x", key_sha256="00"), Invalid, "64"),
    (ThingRow("x", key_sha256="g" * 64), Invalid, "64"),
    (ThingRow("x", key_sha256="0" * 63 + "\n"), Invalid, "64"),
    (ThingRow("x", key=KEY, key_sha256="0" * 64), Invalid, "both"),
    (ThingRow("x", metadata={"x": float("nan")}), Invalid, "metadata"),
    (ThingRow("x", channels=["nowhere"]), NotFound, "nowhere"),
    (ThingRow("x", channels=["here", "here"]), Invalid, "twice"),
    (ThingRow("x", channels=[RowChannel("here", publish=False, subscribe=False)]), Invalid, "neither"),
    (ThingRow("x", id=ID), Exists, "id already"),
    (ThingRow("x", key=KEY), Exists, "key already"),
    (ThingRow("x", key_sha256=sha256(KEY.encode()).hexdigest()), Exists, "key already"),
    (ThingRow("x", id="00000000-0000-4000-8000-000000000001"), Exists, "row 1 has the same id"),
    (ThingRow("x", key="the first one's key"), Invalid, "16"),
    (ThingRow("x", key="the-first-one's-key"), Exists, "row 1 has the same key"),
]


@pytest.mark.parametrize(("row", "kind", "why"), WRONG)
def test_one_wrong_row_and_nothing_was_done(ledger: Ledger, row: ThingRow, kind: type[Exception], why: str) -> None:
    known, _ = ledger.create_thing("known", id=ID, key=KEY)
    ledger.create_channel("here")
    first = ThingRow("t0", id="00000000-0000-4000-8000-000000000001", key="the-first-one's-key", channels=["here"])
    rows = [first, *(ThingRow(f"t{number}") for number in range(13)), row, ThingRow("y")]
    with pytest.raises(kind, match=f"row 15: .*{why}"):
        ledger.import_things(rows)
    assert [*ledger.things()] == [known]
    assert [*ledger.connections()] == []


def test_no_key_in_an_error_or_a_repr() -> None:
    assert KEY not in repr(ThingRow("x", key=KEY))


def test_rows_that_fail_while_they_are_read(ledger: Ledger) -> None:
    def rows() -> object:
        yield from (ThingRow("a") for _ in range(15))
        raise ValueError("line 16 is no CSV")

    with pytest.raises(ValueError, match="line 16"):
        ledger.import_things(rows())  # type: ignore[arg-type]  # it never comes to an end
    assert not [*ledger.things()]


def test_an_empty_import(ledger: Ledger) -> None:
    assert ledger.import_things([]) == ()


def test_an_export_comes_back(ledger: Ledger) -> None:
    ledger.create_channel("here")
    ledger.import_things(ThingRow(f"t{number}", key=str(uuid4()), metadata={"n": number}) for number in range(12))
    records = [*ledger.things()]
    for record in records:
        ledger.delete_thing(record.id)
    ledger.import_things(
        ThingRow(one.name, one.id, key_sha256=one.key_sha256, metadata=one.metadata, enabled=one.enabled)
        for one in records
    )
    again = {one.id: (one.name, one.key_sha256, one.metadata) for one in ledger.things()}
    assert again == {one.id: (one.name, one.key_sha256, one.metadata) for one in records}
