"""Things, the channels that they are connected to, and the topics and paths that stand for those.

Owns the grammar of a channel's topic, and what one may ask of whoever keeps the things (`gateway.registry`). Refuses
every topic that is not exactly one channel's: a thing has no business anywhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from hashlib import sha256
from hmac import compare_digest
from typing import Final, Protocol


@dataclass(frozen=True, slots=True)
class Thing:
    """id: a UUID in its canonical text. key: SHA-256 of its secret key."""

    id: str
    name: str
    key: bytes = field(repr=False)
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Rights:
    """What a connection lets its thing do in its channel."""

    publish: bool = False
    subscribe: bool = False


NO_RIGHTS: Final = Rights()


class Change(Enum):
    """What has happened to a thing that somebody watches."""

    GROWN = auto()  # it may do more than before
    SHRUNK = auto()  # it may do less: its live sessions end
    REVOKED = auto()  # it is disabled, deleted, or has another key: its live sessions end
    UNKNOWN = auto()  # whoever keeps the things could not be asked for too long: nothing that was known counts any more


class Unavailable(Exception):
    """Nobody can say at present who is who: refuse, without a word about the thing itself."""


class Watch(Protocol):
    def stop(self) -> None:
        """Hear nothing more."""


class Things(Protocol):
    """What sessions may ask. Every answer comes at once; each may raise Unavailable."""

    def with_key(self, key: bytes) -> Thing | None:
        """The thing whose secret key that is, also if it is disabled."""

    def named(self, thing: str) -> Thing | None:
        """By its id, in its canonical text."""

    def has_channel(self, channel: str) -> bool:
        """By its id."""

    def rights(self, thing: str, channel: str) -> Rights:
        """NO_RIGHTS where they are not connected, where either is not there, and where the thing is disabled."""

    def watch(self, thing: str, changed: Callable[[Change], None]) -> Watch:
        """Tell of each change of that thing from now on; not while this is running. `changed` never raises."""


def key_hash(key: bytes) -> bytes:
    """As keys are kept. They are random, or refused where they are made, so that no salt and no slow hash is needed."""
    return sha256(key).digest()


def matches(thing: Thing, key: bytes) -> bool:
    """Whether that is the thing's secret key. However much of it is right, it takes the same time."""
    return compare_digest(key_hash(key), thing.key)


# --- channels -------------------------------------------------------------------------------------------------------

UUID: Final = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_TOPIC: Final = re.compile(rf"channels/({UUID})/messages(?:/.*)?", re.DOTALL)


def channel_of(topic: str) -> str | None:
    """The id of the channel whose topic, or filter, that is: `channels/<id>/messages[/subtopic…]`.

    Wildcards can only be in the subtopic: everything that such a filter matches is that channel's.
    """
    found = _TOPIC.fullmatch(topic)
    return found[1] if found else None


def topic_of(channel: str, subtopic: str = "") -> str:
    """subtopic: without the slash before it."""
    return f"channels/{channel}/messages/{subtopic}" if subtopic else f"channels/{channel}/messages"
