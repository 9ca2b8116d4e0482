"""The whole registry by heart, and who is told when it changes.

Owns what is known, whether it still counts, and the watchers. Answers at once, from memory. Refuses to answer
(`Unavailable`) before the first reading, and when the source has been away for too long; until then what was known
counts, and what was not known is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.things import NO_RIGHTS, Change, Rights, Thing, Unavailable, key_hash

_NOBODY: Final[Mapping[str, Rights]] = {}


@dataclass(frozen=True, slots=True)
class Entry:
    """A thing, and its rights in each channel that it is connected to, by the channel's id."""

    thing: Thing
    rights: Mapping[str, Rights]

    @property
    def counts(self) -> Mapping[str, Rights]:
        """What it may do at present."""
        return self.rights if self.thing.enabled else _NOBODY


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All there is. things: by their ids."""

    things: dict[str, Entry]
    channels: set[str]


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed, by id, as it is now. None: it is not there any more. channels: whether it is there."""

    things: Mapping[str, Entry | None]
    channels: Mapping[str, bool]


class Timer(Protocol):
    def cancel(self) -> None: ...


class Book:
    """A `gateway.things.Things`.

    stale_after: seconds that what is known counts after `lost`. later: calls after so many seconds, as a reactor's
    callLater. deleted: told of each thing that is not there any more, after those who watch it.
    """

    def __init__(self, stale_after: float, later: Callable[[float, Callable[[], None]], Timer]) -> None:
        self._stale_after, self._later = stale_after, later
        self._things: dict[str, Entry] = {}
        self._by_key: dict[bytes, Thing] = {}
        self._channels: set[str] = set()
        self._watches: dict[str, dict[_Watch, None]] = {}
        self._available = False
        self._timer: Timer | None = None
        self.deleted: Callable[[str], None] = lambda _: None

    # --- what sessions ask ------------------------------------------------------------------------------------------

    @property
    def available(self) -> bool:
        """Whether questions are answered."""
        return self._available

    def with_key(self, key: bytes) -> Thing | None:
        self._check()
        return self._by_key.get(key_hash(key))

    def named(self, thing: str) -> Thing | None:
        self._check()
        entry = self._things.get(thing)
        return entry.thing if entry else None

    def has_channel(self, channel: str) -> bool:
        self._check()
        return channel in self._channels

    def rights(self, thing: str, channel: str) -> Rights:
        self._check()
        entry = self._things.get(thing)
        if entry is None or channel not in self._channels:
            return NO_RIGHTS
        return entry.counts.get(channel, NO_RIGHTS)

    def watch(self, thing: str, changed: Callable[[Change], None]) -> _Watch:
        self._check()
        watch = _Watch(self, thing, changed)
        self._watches.setdefault(thing, {})[watch] = None
        return watch

    def _check(self) -> None:
        if not self._available:
            raise Unavailable

    # --- what the source tells --------------------------------------------------------------------------------------

    def replace(self, snapshot: Snapshot) -> None:
        """This is all there is now. Found, if the source was lost."""
        before, self._things = self._things, snapshot.things
        self._by_key = {entry.thing.key: entry.thing for entry in snapshot.things.values()}
        self._channels = snapshot.channels
        self.found()
        self._tell((name, before.get(name)) for name in tuple(self._watches))
        self._tell_deleted(before)

    def apply(self, changes: Changes) -> None:
        """This is different now. Found, if the source was lost."""
        before = {name: self._things.get(name) for name in changes.things}
        for name in changes.things:
            self._forget(name)
        for name, entry in changes.things.items():
            if entry is not None:
                self._learn(name, entry, before)
        for channel, there in changes.channels.items():
            (self._channels.add if there else self._channels.discard)(channel)
        self.found()
        self._tell(before.items())
        self._tell_deleted(name for name, entry in before.items() if entry is not None)

    def lost(self) -> None:
        """The source is away from now on. Once is enough."""
        if self._available and self._timer is None:
            self._timer = self._later(self._stale_after, self._stale)

    def found(self) -> None:
        """The source is there, and nothing else has changed. Only once everything was read for the first time."""
        self._available = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Answers nothing more, and tells nobody."""
        self.found()
        self._available = False
        self._watches.clear()

    # --- how --------------------------------------------------------------------------------------------------------

    def _forget(self, name: str) -> None:
        entry = self._things.pop(name, None)
        if entry is not None:
            del self._by_key[entry.thing.key]

    def _learn(self, name: str, entry: Entry, before: dict[str, Entry | None]) -> None:
        """A key has one owner in the database: who had it, and is not among the changes, was replaced in silence."""
        owner = self._by_key.get(entry.thing.key)
        if owner is not None:
            before.setdefault(owner.id, self._things[owner.id])
            self._forget(owner.id)
        self._things[name] = entry
        self._by_key[entry.thing.key] = entry.thing

    def _stale(self) -> None:
        self._available, self._timer = False, None
        self._tell_each((watch, Change.UNKNOWN) for watches in self._watches.values() for watch in watches)

    def _tell(self, before: Iterable[tuple[str, Entry | None]]) -> None:
        found = ((name, _difference(old, self._things.get(name))) for name, old in before if name in self._watches)
        self._tell_each((watch, change) for name, change in found if change for watch in self._watches[name])

    def _tell_deleted(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._things:
                self.deleted(name)

    def _tell_each(self, told: Iterable[tuple[_Watch, Change]]) -> None:
        """Only once it is clear who is told what: they may stop each other, ask, and watch anew.

        Raises what they raised, which they never should, but not before all of them have heard.
        """
        bugs = []
        for watch, change in tuple(told):
            try:
                if watch.active:
                    watch.changed(change)
            except Exception as error:  # noqa: BLE001 - one session's bug must not keep another alive
                bugs.append(error)
        if bugs:
            raise ExceptionGroup("while watchers were told", bugs)

    def stop(self, watch: _Watch) -> None:
        watches = self._watches.get(watch.thing, {})
        watches.pop(watch, None)
        if not watches:
            self._watches.pop(watch.thing, None)


class _Watch:
    __slots__ = ("_book", "active", "changed", "thing")

    def __init__(self, book: Book, thing: str, changed: Callable[[Change], None]) -> None:
        self._book, self.thing, self.changed = book, thing, changed
        self.active = True

    def stop(self) -> None:
        if self.active:
            self.active = False
            self._book.stop(self)


def _difference(before: Entry | None, after: Entry | None) -> Change | None:
    if before is None or after is None:
        return Change.GROWN if after else Change.REVOKED if before else None
    if before.thing.key != after.thing.key or (before.thing.enabled and not after.thing.enabled):
        return Change.REVOKED
    if any(_less(rights, after.counts.get(channel, NO_RIGHTS)) for channel, rights in before.counts.items()):
        return Change.SHRUNK
    grown = any(_less(rights, before.counts.get(channel, NO_RIGHTS)) for channel, rights in after.counts.items())
    return Change.GROWN if grown or (after.thing.enabled and not before.thing.enabled) else None


def _less(rights: Rights, than: Rights) -> bool:
    """Whether `than` lacks one of them."""
    return rights.publish > than.publish or rights.subscribe > than.subscribe
