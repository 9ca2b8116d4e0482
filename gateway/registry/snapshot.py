"""What the gateway reads of the registry's tables, and rows of them as what a `Book` is told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from gateway.registry.book import Changes, Entry, Snapshot
from gateway.things import Rights, Thing

Rows = Iterable[tuple[Any, ...]]

THINGS: Final = "SELECT id, name, key_hash, enabled FROM thing"
CHANNELS: Final = "SELECT id FROM channel"
# The join is for SQLite, where somebody can delete a channel with foreign keys and triggers switched off.
CONNECTIONS: Final = """
SELECT c.thing, c.channel, c.may_publish, c.may_subscribe FROM connection c JOIN channel h ON h.id = c.channel"""

# The last change that there is, and what has changed `since`, a condition. Each row names a thing, a channel, or
# neither where anything may have changed.
LAST: Final = "SELECT seq, mark FROM change ORDER BY seq DESC LIMIT 1"
CHANGED: Final = "SELECT seq, mark, thing, channel FROM change WHERE {since} ORDER BY seq"
CHANGED_THINGS: Final = f"{THINGS} WHERE id IN (SELECT thing FROM change WHERE {{since}})"  # noqa: S608 - constants
CHANGED_CHANNELS: Final = f"{CHANNELS} WHERE id IN (SELECT channel FROM change WHERE {{since}})"  # noqa: S608 - as above
CHANGED_CONNECTIONS: Final = f"{CONNECTIONS} WHERE c.thing IN (SELECT thing FROM change WHERE {{since}})"  # noqa: S608

# There are only these four, however many connections.
_RIGHTS: Final = {
    (publish, subscribe): Rights(publish, subscribe) for publish in (False, True) for subscribe in (False, True)
}
_NONE: Final[Mapping[str, Rights]] = {}


def snapshot(things: Rows, channels: Rows, connections: Rows) -> Snapshot:
    """From all rows of THINGS, CHANNELS and CONNECTIONS."""
    there = {row[0]: row[0] for row in channels}
    return Snapshot(_entries(things, connections, there), set(there))


def changes(changed: Rows, things: Rows, channels: Rows, connections: Rows) -> Changes:
    """From what the statements above with CHANGED in their names find."""
    entries = _entries(things, connections, {})
    there = {row[0] for row in channels}
    named = [row[-2:] for row in changed]
    return Changes(
        {thing: entries.get(thing) for thing, _ in named if thing is not None},
        {channel: channel in there for _, channel in named if channel is not None},
    )


def anything(changed: Rows) -> bool:
    """Whether a row of CHANGED does not say what has changed."""
    return any(thing is None and channel is None for *_, thing, channel in changed)


def _entries(things: Rows, connections: Rows, channels: Mapping[str, str]) -> dict[str, Entry]:
    """channels: the text of each id that is kept already; there need not be one for each connection."""
    rights: defaultdict[str, dict[str, Rights]] = defaultdict(dict)
    for thing, channel, publish, subscribe in connections:
        rights[thing][channels.get(channel, channel)] = _RIGHTS[publish, subscribe]
    return {
        identifier: Entry(Thing(identifier, name, bytes(key), bool(enabled)), rights.get(identifier, _NONE))
        for identifier, name, key, enabled in things
    }
