"""The members of a JSON object, each of them once.

Owns that one rule for every strict reader: where a name is given twice, two readers could see two different objects
(RFC 8259, 4).
"""

from __future__ import annotations

from typing import Any


def each_once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` of the json module. Raises ValueError."""
    made = dict(members)
    if len(made) != len(members):
        raise ValueError("gives a member twice")
    return made
