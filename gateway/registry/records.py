"""What the ledger says and is told, as values; and which names, keys and ids it takes.

Refuses what cannot be printed on one line, keys that could be guessed or could not be sent, and metadata without bound.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

from gateway.things import UUID, key_hash

MAX_NAME: Final = 254
MAX_METADATA: Final = 16 * 1024
# A key shorter than this could be guessed by whoever has its hash: it has no salt, and the hash is a fast one.
MIN_KEY: Final = 16
# More fits neither a certificate's name nor, comfortably, a header.
MAX_KEY: Final = 254

_UUID: Final = re.compile(UUID)
_KEY: Final = re.compile(rf"[!-~]{{{MIN_KEY},{MAX_KEY}}}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class LedgerError(Exception):
    """It was not done, and nothing has changed; the text says why."""


class NotFound(LedgerError):
    """There is no such thing, channel or connection."""


class Exists(LedgerError):
    """Another has that id or that key already."""


class Taken(LedgerError):
    """There is one of that name already, and the new one was meant to be the only one. lines: one of each name that is
    taken."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


class Invalid(LedgerError):
    """What was asked for makes no sense."""


@dataclass(frozen=True, slots=True)
class ThingRecord:
    """key_sha256: in hexadecimal. created: in UTC."""

    id: str
    name: str
    enabled: bool
    metadata: Mapping[str, Any]
    created: datetime
    key_sha256: str


@dataclass(frozen=True, slots=True)
class ChannelRecord:
    id: str
    name: str
    created: datetime


@dataclass(frozen=True, slots=True)
class ConnectionRecord:
    """thing, channel: their ids."""

    thing: str
    channel: str
    publish: bool
    subscribe: bool


@dataclass(frozen=True, slots=True)
class RowChannel:
    """A channel, by id or name, that a row's thing is connected to, with rights of its own."""

    channel: str
    publish: bool = True
    subscribe: bool = True


@dataclass(frozen=True, slots=True)
class ThingRow:
    """One thing to import. With neither key nor key_sha256 (hexadecimal, as exported) it gets a new key.

    channels: each by id or name, with both rights; or as a RowChannel.
    """

    name: str
    id: str | None = None
    key: str | None = field(default=None, repr=False)
    key_sha256: str | None = None
    metadata: Mapping[str, Any] | None = None
    enabled: bool = True
    channels: Sequence[str | RowChannel] = ()


# --- what is taken --------------------------------------------------------------------------------------------------


def as_uuid(text: str) -> str | None:
    """In its canonical text, if it is one."""
    lower = text.lower()
    return lower if _UUID.fullmatch(lower) else None


def checked_id(text: str | None) -> str:
    """That id, or without one a new one."""
    if text is None:
        return str(uuid4())
    found = as_uuid(text)
    if found is None:
        raise Invalid(f"an id is a UUID, which {text[:50]!r} is not")
    return found


def checked_name(text: str) -> str:
    if not 1 <= len(text) <= MAX_NAME or not text.isprintable():
        raise Invalid(f"a name has 1 to {MAX_NAME} printable characters")
    return text


def checked_key(text: str) -> bytes:
    """Its hash."""
    if not _KEY.fullmatch(text):
        raise Invalid(f"a key has {MIN_KEY} to {MAX_KEY} visible ASCII characters and no space")
    return key_hash(text.encode("ascii"))


def new_key() -> str:
    """122 random bits, as a UUID: short enough for a certificate's name, and never mistaken for an option."""
    return str(uuid4())


def checked_hash(text: str) -> bytes:
    if not _SHA256.fullmatch(text.lower()):
        raise Invalid("a key_sha256 has 64 hexadecimal digits")
    return bytes.fromhex(text)


def checked_metadata(metadata: Mapping[str, Any] | None) -> str:
    """As JSON."""
    try:
        text = json.dumps(dict(metadata or {}), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode("utf-8"))
    except (TypeError, ValueError, RecursionError):
        raise Invalid("the metadata is not a JSON object") from None
    if size > MAX_METADATA:
        raise Invalid(f"the metadata has {size} bytes of JSON; {MAX_METADATA} are allowed")
    return text
