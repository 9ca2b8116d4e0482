"""What docs/audit.md promises: the events, and the keys that the record of each may have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_PAGE: Final = (Path(__file__).parent.parent / "docs" / "audit.md").read_text("utf-8")
_ROWS: Final = [row.strip("|").split("|") for row in re.findall(r"(?m)^\| *`.*\|$", _PAGE)]


def _quoted(cell: str) -> list[str]:
    return re.findall(r"`([a-z_]+)`", cell)


EVENTS: Final = [event for row in _ROWS if len(row) == 2 for event in _quoted(row[0])]
_OF_A_SESSION: Final = ("open", "denied", "close")
_GROUPS: Final = {
    "all": EVENTS,
    "all of a connection": (*_OF_A_SESSION, "request"),
    "all of an operator": ("kill", "reload", "drain", "probe"),
    "PostgreSQL": _OF_A_SESSION,
    "MQTT": _OF_A_SESSION,
}


def _where(cell: str) -> set[str]:
    places = (one.strip() for one in cell.split(","))
    return {event for place in places for event in (_quoted(place) or _GROUPS[place])}


KEYS: Final = {
    event: frozenset(key for row in _ROWS if len(row) == 3 and event in _where(row[1]) for key in _quoted(row[0]))
    for event in EVENTS
}
