"""A share: who may read what, from where. And the record of it, which the database itself keeps as a comment.

A comment is everybody's to read (manual, COMMENT), so to other partners, too: nothing secret is in it. A table of ours
would be theirs who made it, and what an administrator reads in it could run their code as him.

Owns the record's form. Refuses a comment that is not exactly what we would have written about that role: somebody
else's words are no share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from gateway.members import each_once
from gateway.rules import parse_network
from gateway.share.names import MAX_NAME, checked, spelled

_OWNER: Final = "_owner"
_MARK: Final = "securegw share "
_VERSION: Final = 1
# As long as a subject may be; a token's is bounded by the 64 KiB of a password.
_MAX_SUBJECT: Final = 2048


class ShareError(Exception):
    """What was asked could not be done, and why, in one sentence; it says nothing secret."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table or a view. columns: those that are shared; none: all that it has now."""

    schema: str
    name: str
    columns: tuple[str, ...] = ()

    def __str__(self) -> str:
        columns = f" ({', '.join(map(spelled, self.columns))})" if self.columns else ""
        return f"{spelled(self.schema, self.name)}{columns}"


@dataclass(frozen=True, slots=True)
class Query:
    """digest: SHA-256 of its text, in hexadecimal. text: empty where only the record is known."""

    digest: str
    text: str = ""

    @classmethod
    def of(cls, text: str) -> Query:
        """Raises ValueError. A final semicolon is the editor's."""
        text = text.strip().removesuffix(";").rstrip()
        if not text or "\0" in text:
            raise ValueError("the query is empty, or has a NUL in it")
        return cls(sha256(text.encode()).hexdigest(), text)

    def __str__(self) -> str:
        return f"a query (SHA-256 {self.digest[:16]}…)"


@dataclass(frozen=True, slots=True)
class Share:
    """name: of its role, its schema and its view. subject: of the partner's token. networks: CIDRs, in order."""

    name: str
    database: str
    subject: str
    networks: tuple[str, ...]
    source: Table | Query

    @classmethod
    def of(cls, name: str, database: str, subject: str, networks: Sequence[str], source: Table | Query) -> Share:
        """Raises ValueError for what cannot be shared in this way."""
        checked(name, "the name")
        if len((name + _OWNER).encode()) > MAX_NAME:
            raise ValueError(
                f"the name is longer than {MAX_NAME - len(_OWNER)} bytes: its owner is called NAME{_OWNER}"
            )
        checked(database, "the database")
        _check_source(source)
        seen = subject.isprintable() and subject == subject.strip()
        if not seen or not 1 <= len(subject.encode()) <= _MAX_SUBJECT:
            raise ValueError(f"the subject is not 1 to {_MAX_SUBJECT} bytes that can be seen")
        if not networks:
            raise ValueError("no network is given")
        found = sorted({parse_network(one) for one in networks}, key=lambda one: (one.version, one))
        return cls(name, database, subject, tuple(map(str, found)), source)

    @property
    def owner(self) -> str:
        return self.name + _OWNER

    def differences(self, other: Share) -> list[str]:
        """What this one says otherwise, for people."""
        pairs = {
            "database": (other.database, self.database),
            "partner": (other.subject, self.subject),
            "networks": (", ".join(other.networks), ", ".join(self.networks)),
            "source": (str(other.source), str(self.source)),
        }
        return [f"{what} {before}, not {now}" for what, (before, now) in pairs.items() if before != now]


def _check_source(source: Table | Query) -> None:
    if isinstance(source, Query):
        return
    for part, what in ((source.schema, "the schema"), (source.name, "the table")):
        checked(part, what)
    for column in source.columns:
        checked(column, "the column")
    if len(set(source.columns)) != len(source.columns):
        raise ValueError("a column is given twice")


@dataclass(frozen=True, slots=True)
class Record:
    """definition: the digest of what the view is (gateway.share.definition). made: as in ISO 8601. by: a role."""

    share: Share
    definition: str
    made: str
    by: str

    def comment(self) -> str:
        share = self.share
        source: dict[str, Any] = {"query": share.source.digest} if isinstance(share.source, Query) else {}
        if isinstance(share.source, Table):
            source = {"table": [share.source.schema, share.source.name], "columns": list(share.source.columns)}
        about = {"version": _VERSION, "name": share.name, "database": share.database, "subject": share.subject}
        about |= {"networks": list(share.networks), **source}
        about |= {"definition": self.definition, "made": self.made, "by": self.by}
        return _MARK + json.dumps(about, ensure_ascii=False)


def read_record(comment: str | None, role: str) -> Record | None:
    """The record in a role's comment; None if that is anything but one of ours, about that role."""
    if comment is None or not comment.startswith(_MARK):
        return None
    try:
        found = json.loads(comment.removeprefix(_MARK), object_pairs_hook=each_once)
        record = _record(found)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    # Whatever would be written in another way was not written by us.
    return record if record.share.name == role and record.comment() == comment else None


def _record(found: Mapping[str, Any]) -> Record:
    if type(found["version"]) is not int or found["version"] != _VERSION:
        raise ValueError("another version")
    source: Table | Query
    if "query" in found:
        source = Query(_text(found["query"]))
    else:
        schema, table = map(_text, found["table"])
        source = Table(schema, table, tuple(map(_text, found["columns"])))
    networks = tuple(map(_text, found["networks"]))
    share = Share.of(_text(found["name"]), _text(found["database"]), _text(found["subject"]), networks, source)
    return Record(share, _text(found["definition"]), _text(found["made"]), _text(found["by"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value
