"""The registry as its operators write it: one method, one transaction.

Owns what may be asked and how it is answered; `records` owns what is taken, a `Store` the database. A key is answered
once, when it is made; afterwards only its SHA-256 is known. Refuses names that mean more than one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from gateway.registry.bulk import Imported, import_rows
from gateway.registry.postgres_store import PostgresStore
from gateway.registry.read import (
    CHANNEL,
    CONNECTION,
    THING,
    channel_record,
    connection_record,
    find,
    namesakes,
    pages,
    thing_record,
)
from gateway.registry.records import (
    ChannelRecord,
    ConnectionRecord,
    Exists,
    Invalid,
    LedgerError,
    NotFound,
    RowChannel,
    Taken,
    ThingRecord,
    ThingRow,
    checked_id,
    checked_key,
    checked_name,
    new_key,
)
from gateway.registry.schema import PRUNE
from gateway.registry.settings import RegistrySettings
from gateway.registry.sqlite_store import SQLiteStore
from gateway.registry.store import Store

__all__ = [
    "ChannelRecord",
    "ConnectionRecord",
    "Exists",
    "Imported",
    "Invalid",
    "Ledger",
    "LedgerError",
    "NotFound",
    "RowChannel",
    "Taken",
    "ThingRecord",
    "ThingRow",
    "open_ledger",
]

_CONNECT: Final = """
INSERT INTO connection (thing, channel, may_publish, may_subscribe) VALUES (?, ?, ?, ?)
ON CONFLICT (thing, channel) DO UPDATE SET may_publish = excluded.may_publish, may_subscribe = excluded.may_subscribe
"""


def open_ledger(settings: RegistrySettings) -> Ledger:
    """Makes the registry where it is missing. Raises LedgerError, saying what to do about it."""
    if isinstance(settings.database, Path):
        return Ledger(SQLiteStore(settings.database))
    return Ledger(PostgresStore(settings.database))


class Ledger:
    """Things and channels are given by id or, where only one has it, by name.

    Everything raises LedgerError, or one of its kinds.
    """

    def __init__(self, store: Store, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store, self._clock = store, clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._store.close()

    # --- things -----------------------------------------------------------------------------------------------------

    def create_thing(
        self,
        name: str,
        *,
        id: str | None = None,  # noqa: A002 - it is called so everywhere else
        key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        alone: bool = False,
    ) -> tuple[ThingRecord, str]:
        """And its key, which nobody can be told again. Without `id` and `key` both are new and random.

        alone: as of `import_things`.
        """
        key = new_key() if key is None else key
        row = ThingRow(name, id, key, metadata=metadata)
        ((record, _),) = self.import_things([row], describe=lambda _: "", alone=alone)
        return record, key

    def thing(self, id_or_name: str) -> ThingRecord:
        with self._store.transaction(write=False):
            return thing_record(self._store, find(self._store, THING, id_or_name))

    def things(self, *, channel: str | None = None) -> Iterator[ThingRecord]:
        """All of them, or those connected to that channel, by age. What changes meanwhile may be in it or not."""
        for row in pages(self._store, THING, self._about(channel=channel)):
            yield thing_record(self._store, row)

    def set_enabled(self, thing: str, enabled: bool) -> ThingRecord:
        with self._writing():
            (found, *_) = find(self._store, THING, thing)
            self._store.change("UPDATE thing SET enabled = ? WHERE id = ?", (enabled, found))
            return thing_record(self._store, find(self._store, THING, found))

    def rotate_key(self, thing: str, key: str | None = None) -> tuple[ThingRecord, str]:
        """And its new key, which nobody can be told again. The old one is worth nothing from now on."""
        key = new_key() if key is None else key
        hashed = checked_key(key)
        with self._writing():
            (found, *_) = find(self._store, THING, thing)
            if self._store.rows("SELECT 1 FROM thing WHERE key_hash = ?", (hashed,)):
                raise Exists("this is the key of a thing already")
            self._store.change("UPDATE thing SET key_hash = ? WHERE id = ?", (hashed, found))
            return thing_record(self._store, find(self._store, THING, found)), key

    def delete_thing(self, thing: str) -> ThingRecord:
        """As it was. Its connections go with it."""
        with self._writing():
            record = thing_record(self._store, find(self._store, THING, thing))
            self._store.change("DELETE FROM thing WHERE id = ?", (record.id,))
            return record

    def import_things(
        self,
        rows: Iterable[ThingRow],
        *,
        progress: Callable[[int], None] = lambda _: None,
        describe: Callable[[int], str] = "row {}: ".format,
        alone: bool = False,
    ) -> tuple[Imported, ...]:
        """All of them or none, with the keys of those that brought none.

        progress: told how many are done. describe: what an error begins with, for the row of that number, from 1.
        alone: each is to be the only one of its name. Raises Taken where one is not, with all of those.
        """
        with self._writing(alone=alone):
            return import_rows(self._store, rows, self._store.kept(self._clock()), progress, describe, alone)

    # --- channels ---------------------------------------------------------------------------------------------------

    def create_channel(self, name: str, *, id: str | None = None, alone: bool = False) -> ChannelRecord:  # noqa: A002 - as above
        """alone: it is to be the only one of its name. Raises Taken where it would not be."""
        new = (checked_id(id), checked_name(name), self._store.kept(self._clock()))
        with self._writing(alone=alone):
            if alone and (taken := namesakes(self._store, CHANNEL, [name])):
                raise Taken([*taken.values()])
            if self._store.rows("SELECT 1 FROM channel WHERE id = ?", new[:1]):
                raise Exists(f"there is a channel {new[0]} already")
            self._store.insert("channel", "id, name, created", [new])
            return channel_record(self._store, find(self._store, CHANNEL, new[0]))

    def channel(self, id_or_name: str) -> ChannelRecord:
        with self._store.transaction(write=False):
            return channel_record(self._store, find(self._store, CHANNEL, id_or_name))

    def channels(self, *, thing: str | None = None) -> Iterator[ChannelRecord]:
        """As `things`."""
        for row in pages(self._store, CHANNEL, self._about(thing=thing)):
            yield channel_record(self._store, row)

    def delete_channel(self, channel: str) -> ChannelRecord:
        """As it was. Its connections go with it."""
        with self._writing():
            record = channel_record(self._store, find(self._store, CHANNEL, channel))
            self._store.change("DELETE FROM channel WHERE id = ?", (record.id,))
            return record

    # --- connections ------------------------------------------------------------------------------------------------

    def connect(self, thing: str, channel: str, *, publish: bool = True, subscribe: bool = True) -> ConnectionRecord:
        """If they are connected already, with these rights in place of those."""
        if not publish and not subscribe:
            raise Invalid("a connection lets a thing publish, subscribe, or both")
        with self._writing():
            one, other = self._pair(thing, channel)
            self._store.change(_CONNECT, (one, other, publish, subscribe))
            return ConnectionRecord(one, other, publish, subscribe)

    def disconnect(self, thing: str, channel: str) -> ConnectionRecord:
        """As it was."""
        with self._writing():
            pair = self._pair(thing, channel)
            found = self._store.rows(f"{CONNECTION.select} WHERE t.thing = ? AND t.channel = ?", pair)
            if not found:
                raise NotFound(f"the thing {pair[0]} is not connected to the channel {pair[1]}")
            self._store.change("DELETE FROM connection WHERE thing = ? AND channel = ?", pair)
            return connection_record(found[0])

    def connections(self, *, thing: str | None = None, channel: str | None = None) -> Iterator[ConnectionRecord]:
        """As `things`, but by their ids."""
        yield from map(connection_record, pages(self._store, CONNECTION, self._about(thing=thing, channel=channel)))

    # --- how --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self, *, alone: bool = False) -> Iterator[None]:
        """alone: between a look at who has a name and taking it, no other who looks can take it."""
        with self._store.transaction():
            if alone:
                self._store.alone()
            yield
            self._store.change(PRUNE, ())

    def _pair(self, thing: str, channel: str) -> tuple[str, str]:
        return find(self._store, THING, thing)[0], find(self._store, CHANNEL, channel)[0]

    def _about(self, *, thing: str | None = None, channel: str | None = None) -> dict[str, str]:
        """The ids of those that are given."""
        with self._store.transaction(write=False):
            kinds = {"thing": (THING, thing), "channel": (CHANNEL, channel)}
            return {name: find(self._store, kind, one)[0] for name, (kind, one) in kinds.items() if one is not None}
