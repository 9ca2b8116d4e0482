"""Names as people write them on a command line, and as SQL, the gateway's rules, pg_hba.conf and an INI want them.

Owns every quote. Refuses names that PostgreSQL would cut, and those that one of these four could not spell: a name has
to be the same one everywhere, or it is somebody else's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

from psycopg2 import sql

# PostgreSQL cuts what is longer, with no more than a notice (manual, "Identifiers and Key Words").
MAX_NAME: Final = 63

# One name of a list: as it stands, or in double quotes, in which two of them are one. Nothing is folded to lower case.
_ITEM: Final = re.compile(r'"((?:[^"]|"")+)"|([^".,\s]+)')
_PLAIN: Final = re.compile(r"[A-Za-z0-9_]+(?:[A-Za-z0-9_.@-]*[A-Za-z0-9_])?")
_SECTION: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
# Words that pg_hba.conf and our own rules take for something else unless they are quoted.
_WORDS: Final = frozenset({"all", "sameuser", "samerole", "samegroup", "replication", "local", "samehost", "samenet"})


def checked(name: str, what: str) -> str:
    """The name, if it can be one everywhere. Raises ValueError."""
    size = len(name.encode("utf-8", "surrogatepass"))
    if not 1 <= size <= MAX_NAME:
        raise ValueError(f"{what} has {size} bytes; PostgreSQL has names of 1 to {MAX_NAME}")
    if not name.isprintable():
        raise ValueError(f"{what} has a character that cannot be seen")
    if name != name.strip():
        raise ValueError(f"{what} begins or ends with a space, which an INI cannot say")
    if name.startswith("/"):
        raise ValueError(f"{what} begins with /, which pg_hba.conf takes for a pattern")
    return name


def parse_list(text: str, separator: str) -> tuple[str, ...]:
    """`sales.orders` with a dot, `id,name` with a comma; names with anything else in them are quoted as in SQL, but
    Upper Case stays as it is also without quotes. Raises ValueError."""
    found: list[str] = []
    at = 0
    while True:
        item = _ITEM.match(text, at)
        if item is None:
            raise ValueError(f"cannot read names from here on: {text[at:] or 'nothing is left'}")
        found.append(item[1].replace('""', '"') if item[1] else item[2])
        at = item.end()
        if at == len(text):
            return tuple(found)
        if text[at] != separator:
            raise ValueError(f'names are separated by {separator!r}, and quoted like "this": {text[at:]}')
        at += 1


def quoted(name: str) -> str:
    """Nothing but a name, for our rules (gateway.rules) and for pg_hba.conf: in quotes wherever they could matter."""
    if _PLAIN.fullmatch(name) and name not in _WORDS:
        return name
    return '"' + name.replace('"', '""') + '"'


def spelled(*names: str) -> str:
    """A name in a sentence, with what stands before its dots: as it could be written in SQL."""
    return ".".join(Name(name).as_string() if not _SECTION.fullmatch(name) else name for name in names)


def slug(name: str) -> str:
    """What stands for it in the heading of a section, and in a file's name."""
    if _SECTION.fullmatch(name):
        return name
    return f"share-{sha256(name.encode()).hexdigest()[:16]}"


# --- in SQL -----------------------------------------------------------------------------------------------------------


class Name(sql.Composable):
    """An identifier. Unlike psycopg2's own it needs no connection, so that what `--print` shows is what is executed."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._name = name

    def as_string(self, _: Any = None) -> str:
        """Manual, 4.1.1: always quoted, so that no word is a key word and nothing is folded."""
        return '"' + self._name.replace('"', '""') + '"'


class Text(sql.Composable):
    """A string constant, for sessions with standard_conforming_strings (manual, 4.1.2.1), as `conninfo` has them."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._text = text

    def as_string(self, _: Any = None) -> str:
        return "'" + self._text.replace("'", "''") + "'"


def rendered(statement: sql.Composable) -> str:
    """The SQL of what is composed of nothing but SQL, Name and Text."""
    context: Any = None
    return statement.as_string(context)


def listed(parts: Sequence[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
