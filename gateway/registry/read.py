"""How the ledger reads: rows by id or by name, and lists page by page.

A page is a transaction of its own: whoever reads a long list slowly holds up nobody, and may write in between.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.registry.records import ChannelRecord, ConnectionRecord, Invalid, NotFound, ThingRecord, as_uuid
from gateway.registry.store import Row, Store

PAGE: Final = 5_000
# Of the ids that share a name, an error tells so many.
_TOLD: Final = 10


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the tables. order: two columns that no two rows share; their places in a row follow.

    other: how a connection names it, and the other's own name there; for lists of those connected to one of the others.
    """

    noun: str
    select: str
    order: tuple[str, str]
    places: tuple[int, int]


THING: Final = Kind(
    "thing",
    "SELECT t.id, t.name, t.enabled, CAST(t.metadata AS TEXT), t.created, t.key_hash FROM thing t",
    ("created", "id"),
    (4, 0),
)
CHANNEL: Final = Kind("channel", "SELECT t.id, t.name, t.created FROM channel t", ("created", "id"), (2, 0))
CONNECTION: Final = Kind(
    "connection",
    "SELECT t.thing, t.channel, t.may_publish, t.may_subscribe FROM connection t",
    ("thing", "channel"),
    (0, 1),
)


def find(store: Store, kind: Kind, id_or_name: str) -> Row:
    """The row with that id, or else the only one with that name. Within a transaction. Raises LedgerError."""
    found: list[Row] = []
    if identifier := as_uuid(id_or_name):
        found = store.rows(f"{kind.select} WHERE t.id = ?", (identifier,))
    # What cannot be printed is nobody's name, and no database takes all of it.
    if not found and id_or_name.isprintable():
        found = store.rows(f"{kind.select} WHERE t.name = ? ORDER BY t.id LIMIT {_TOLD + 1}", (id_or_name,))
    if not found:
        raise NotFound(f"there is no {kind.noun} {id_or_name[:254]!r}")
    if len(found) > 1:
        ids = ", ".join(row[0] for row in found[:_TOLD]) + (" and more" if len(found) > _TOLD else "")
        raise Invalid(f"more than one {kind.noun} has the name {id_or_name!r}; say which by id: {ids}")
    return found[0]


def namesakes(store: Store, kind: Kind, names: Collection[str]) -> dict[str, str]:
    """Of those that are taken, by the name, who has it. names: printable, and no more than a statement may have."""
    places = ", ".join("?" for _ in names)
    sql = f"SELECT name, id FROM {kind.noun} WHERE name IN ({places}) ORDER BY id"  # noqa: S608 - one of two tables
    found = store.rows(sql, [*names])
    return {name: f"there is a {kind.noun} named {name} already (id {first})" for name, first in reversed(found)}


def pages(store: Store, kind: Kind, about: Mapping[str, str]) -> Iterator[Row]:
    """All rows in order; `about`: only those connected to that thing or that channel, by its id."""
    select, wanted, values = kind.select, [], [*about.values()]
    if kind is CONNECTION:
        wanted = [f"t.{name} = ?" for name in about]
    elif about:
        # Not JOIN: SQLite, which takes this word for an order, would sort all that are connected again for each page.
        select += " CROSS JOIN connection c"
        wanted = [f"c.{kind.noun} = t.id", *(f"c.{name} = ?" for name in about)]
    first, second = kind.order
    after: list[Any] = []
    while True:
        where = wanted + ([f"(t.{first}, t.{second}) > (?, ?)"] if after else [])
        clause = f" WHERE {' AND '.join(where)}" if where else ""
        with store.transaction(write=False):
            sql = f"{select}{clause} ORDER BY t.{first}, t.{second} LIMIT {PAGE}"
            found = store.rows(sql, (*values, *after))
        yield from found
        if len(found) < PAGE:
            return
        after = [found[-1][place] for place in kind.places]


# --- rows as values -------------------------------------------------------------------------------------------------


def thing_record(store: Store, row: Row) -> ThingRecord:
    identifier, name, enabled, metadata, created, key = row
    moment = store.moment(created)
    return ThingRecord(identifier, name, bool(enabled), json.loads(metadata), moment, bytes(key).hex())


def channel_record(store: Store, row: Row) -> ChannelRecord:
    identifier, name, created = row
    return ChannelRecord(identifier, name, store.moment(created))


def connection_record(row: Row) -> ConnectionRecord:
    thing, channel, publish, subscribe = row
    return ConnectionRecord(thing, channel, bool(publish), bool(subscribe))
