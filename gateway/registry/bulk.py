"""Many things at once: checked row by row, written in batches, within the transaction of whoever calls.

Refuses names that are taken, all of them at once, where each thing is meant to be the only one of its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from gateway.registry.read import CHANNEL, THING, find, namesakes
from gateway.registry.records import (
    Exists,
    Invalid,
    LedgerError,
    RowChannel,
    Taken,
    ThingRecord,
    ThingRow,
    checked_hash,
    checked_id,
    checked_key,
    checked_metadata,
    checked_name,
    new_key,
)
from gateway.registry.store import Store

# Far below the 32,766 values that a statement of SQLite's may have.
BATCH: Final = 1_000


class Imported(NamedTuple):
    """key: of a thing that brought none; nobody can be told it again."""

    record: ThingRecord
    key: str | None


class _New(NamedTuple):
    """A row that can be written. number: its own, from 1. key: its hash."""

    number: int
    id: str
    name: str
    key: bytes
    metadata: str
    enabled: bool
    channels: tuple[tuple[str, bool, bool], ...]
    made: str | None


def import_rows(
    store: Store,
    rows: Iterable[ThingRow],
    created: Any,
    progress: Callable[[int], None],
    describe: Callable[[int], str],
    alone: bool,
) -> tuple[Imported, ...]:
    """created: now, as the store keeps it. For the others see `Ledger.import_things`."""
    importer = _Importer(store, created, describe)
    numbered = enumerate(rows, 1)
    done: list[Imported] = []
    taken: list[str] = []
    while some := list(islice(numbered, BATCH)):
        batch = importer.checked(some)
        if alone:
            taken += importer.taken(batch)
        done += importer.write(batch)
        progress(len(done))
    if taken:
        raise Taken(taken)
    return tuple(done)


class _Importer:
    def __init__(self, store: Store, created: Any, describe: Callable[[int], str]) -> None:
        self._store, self._created, self._describe = store, created, describe
        # Of each id and key the number of the row that brought it.
        self._ids: dict[str, int] = {}
        self._keys: dict[bytes, int] = {}
        self._names: dict[str, int] = {}
        self._channels: dict[str, str] = {}

    def checked(self, rows: list[tuple[int, ThingRow]]) -> list[_New]:
        batch = [self._checked(number, row) for number, row in rows]
        self._refuse_known("id", {one.id: one.number for one in batch})
        self._refuse_known("key_hash", {one.key: one.number for one in batch})
        return batch

    def taken(self, batch: list[_New]) -> Iterator[str]:
        """Of those whose name another has, which other. Before they are written."""
        there = namesakes(self._store, THING, {one.name for one in batch})
        for one in batch:
            first = self._names.setdefault(one.name, one.number)
            if first != one.number:
                other = self._describe(first).removesuffix(": ")
                yield f"{self._describe(one.number)}the name {one.name} is that of {other}"
            elif one.name in there:
                yield f"{self._describe(one.number)}{there[one.name]}"

    def write(self, batch: list[_New]) -> list[Imported]:
        things = [(one.id, one.name, one.key, one.metadata, one.enabled, self._created) for one in batch]
        self._store.insert("thing", "id, name, key_hash, metadata, enabled, created", things)
        connections = [(one.id, *connection) for one in batch for connection in one.channels]
        self._store.insert("connection", "thing, channel, may_publish, may_subscribe", connections)
        return [Imported(self._record(one), one.made) for one in batch]

    def _checked(self, number: int, row: ThingRow) -> _New:
        try:
            new = self._new(number, row)
            self._refuse_again("id", self._ids.setdefault(new.id, number), number)
            self._refuse_again("key", self._keys.setdefault(new.key, number), number)
        except LedgerError as error:
            raise type(error)(f"{self._describe(number)}{error}") from None
        return new

    def _refuse_again(self, what: str, first: int, number: int) -> None:
        if first != number:
            raise Exists(f"row {first} has the same {what}")

    def _new(self, number: int, row: ThingRow) -> _New:
        if row.key is not None and row.key_sha256 is not None:
            raise Invalid("has both a key and the hash of a key")
        made = None
        if row.key_sha256 is not None:
            key = checked_hash(row.key_sha256)
        elif row.key is not None:
            key = checked_key(row.key)
        else:
            made = new_key()
            key = checked_key(made)
        metadata = checked_metadata(row.metadata)
        channels = tuple(self._connections(row))
        return _New(number, checked_id(row.id), checked_name(row.name), key, metadata, row.enabled, channels, made)

    def _connections(self, row: ThingRow) -> Iterator[tuple[str, bool, bool]]:
        seen = set()
        for one in row.channels:
            wanted = one if isinstance(one, RowChannel) else RowChannel(one)
            if wanted.channel not in self._channels:
                self._channels[wanted.channel] = find(self._store, CHANNEL, wanted.channel)[0]
            channel = self._channels[wanted.channel]
            if channel in seen:
                raise Invalid(f"is connected to the channel {channel} twice")
            if not wanted.publish and not wanted.subscribe:
                raise Invalid(f"may neither publish nor subscribe in the channel {channel}")
            seen.add(channel)
            yield channel, wanted.publish, wanted.subscribe

    def _refuse_known(self, column: str, numbers: dict[Any, int]) -> None:
        """The table would refuse them too, but could not say which row it was."""
        places = ", ".join("?" for _ in numbers)
        sql = f"SELECT {column} FROM thing WHERE {column} IN ({places}) LIMIT 1"  # noqa: S608 - one of two names, above
        for (known,) in self._store.rows(sql, [*numbers]):
            number = numbers[known if isinstance(known, str) else bytes(known)]
            what = "id" if column == "id" else "key"
            raise Exists(f"{self._describe(number)}there is a thing with this {what} already")

    def _record(self, new: _New) -> ThingRecord:
        created = self._store.moment(self._created)
        return ThingRecord(new.id, new.name, new.enabled, json.loads(new.metadata), created, new.key.hex())
