"""Retained messages (MQTT-3.3.1.3): the last one of each topic, within bounds, and stored.

Owns the messages, and what of them waits for one session: topics rather than messages, so that a subscription to very
many costs little until the client takes them, and brings what is retained then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from gateway.hub import tree
from gateway.hub.delivery import Delivery
from gateway.hub.frames import Frames
from gateway.hub.journal import Journal, Kept
from gateway.hub.message import Message
from gateway.hub.rows import Change, RetainedRow
from gateway.hub.session import Session, Subscribed
from gateway.hub.settings import HubSettings

_HERE: Final = ""
# Seconds between two looks through all of them for those that have expired.
_SWEEP: Final = 1.0
# One owner has at most so much of the room: the others are not to be left without any.
_SHARE: Final = 4


class Entry:
    """kept: it is stored; the hub's own messages are not. owner: whose message it is; None: the hub's own, or of an
    earlier life. weight: bytes, as those of a message."""

    __slots__ = ("kept", "message", "owner", "weight")

    def __init__(self, message: Message, kept: Kept | None, owner: str | None = None) -> None:
        self.message, self.kept, self.owner, self.weight = message, kept, owner, message.weight()

    @property
    def whole(self) -> int:
        """Bytes, with its place in the tree."""
        return self.weight + tree.weight(self.message.topic)


class Retained:
    def __init__(self, settings: HubSettings, journal: Journal) -> None:
        self._settings, self._journal = settings, journal
        self._entries: dict[str, Entry] = {}
        self._tree: tree.Tree[str, Entry] = tree.Tree()
        self._bytes = 0
        # By owner: messages, and their bytes.
        self._owned: dict[str, tuple[int, int]] = {}
        self._swept = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def get(self, topic: str, now: float) -> Entry | None:
        entry = self._entries.get(topic)
        if entry is not None and entry.message.remaining(now) == 0:
            self.remove(topic)
            return None
        return entry

    def has_room(self, message: Message, now: float, owner: str | None) -> bool:
        """Whether it can be retained; one with an empty payload can, since it removes (MQTT-3.3.1-6)."""
        if not message.payload or self._fits(message, owner):
            return True
        self._sweep(now)
        return self._fits(message, owner)

    def _sweep(self, now: float) -> None:
        if now - self._swept < _SWEEP:
            return
        self._swept = now
        for entry in [entry for entry in self._entries.values() if entry.message.remaining(now) == 0]:
            self.remove(entry.message.topic)

    def _fits(self, message: Message, owner: str | None) -> bool:
        before = self._entries.get(message.topic)
        settings, new = self._settings, Entry(message, None).whole
        size = self._bytes + new - (before.whole if before is not None else 0)
        if len(self._entries) + (before is None) > settings.max_retained or size > settings.max_retained_bytes:
            return False
        if owner is None:
            return True
        count, size = self._owned.get(owner, (0, 0))
        if before is not None and before.owner == owner:
            count, size = count - 1, size - before.whole
        return count < max(settings.max_retained // _SHARE, 1) and size + new <= settings.max_retained_bytes // _SHARE

    def put(self, frames: Frames, owner: str | None = None, *, stored: bool = True) -> None:
        """Retain that message, or remove what is there. There has to be room."""
        message = frames.message
        before = self._entries.get(message.topic)
        # In its place, where whoever searches the tree at the time still finds it.
        self.remove(message.topic, prune=not message.payload)
        self._put(frames, owner, stored=stored)
        self._journal.undo(lambda: self._back(message.topic, before))

    def _put(self, frames: Frames, owner: str | None, *, stored: bool) -> None:
        message = frames.message
        if not message.payload:
            return
        if stored and self._journal.durable:
            if frames.kept is None:
                frames.kept = self._journal.keep(message)
            self._journal.refer(frames.kept)
            self._journal.add(Change.PUT_RETAINED, RetainedRow(message.topic, frames.kept.id))
            self.restore(Entry(message, frames.kept, owner))
        else:
            self.restore(Entry(message, None, owner))

    def _back(self, topic: str, before: Entry | None) -> None:
        """The change could not be stored, so there was none."""
        self.remove(topic)
        if before is not None:
            if before.kept is not None:
                self._journal.refer(before.kept)
            self.restore(before)

    def restore(self, entry: Entry) -> None:
        topic = entry.message.topic
        self._entries[topic] = entry
        self._tree.put(topic, _HERE, entry)
        self._count(entry, 1)

    def remove(self, topic: str, *, prune: bool = True) -> None:
        entry = self._entries.pop(topic, None)
        if entry is None:
            return
        if prune:
            self._tree.remove(topic, _HERE)
        self._count(entry, -1)
        if entry.kept is not None:
            self._journal.add(Change.DROP_RETAINED, (topic,))
            self._journal.release(entry.kept)

    def _count(self, entry: Entry, more: int) -> None:
        """more: 1, or -1 for less."""
        whole = more * entry.whole
        self._bytes += whole
        if entry.owner is None:
            return
        count, size = self._owned.pop(entry.owner, (0, 0))
        if count + more:
            self._owned[entry.owner] = count + more, size + whole

    def search(self, topic_filter: str) -> Iterator[Entry | None]:
        """What is retained at the topics that the filter means, step by step, as of `Tree.covered`."""
        return self._tree.covered(topic_filter)


class Due:
    """What is retained and still to be sent to one session, since it has subscribed."""

    __slots__ = ("_retained", "_search", "_session", "_waiting")

    # Bytes that are given out before a look whether the client takes them.
    STRIDE: Final = 65_536
    # Nodes that are looked at in one go: about a millisecond. A filter can mean none of very many.
    STEPS: Final = 2_000
    _END: Final = Entry(Message("/", b""), None)

    def __init__(self, session: Session, retained: Retained) -> None:
        self._session, self._retained = session, retained
        self._waiting: deque[Subscribed] = deque()
        self._search: Iterator[Entry | None] | None = None

    def add(self, subscribed: Subscribed, limit: int) -> None:
        """limit: of subscriptions that may wait. What is retained for those beyond it is missed."""
        if len(self._waiting) >= limit:
            self._session.box.miss()
        else:
            self._waiting.append(subscribed)

    def pump(self, now: float) -> bool:
        """Send, as far as the client takes it and it can be found in one go. Whether there is more."""
        out, given, steps = self._session.out, 0, 0
        while self._waiting and out.open and not out.box.holds and steps < self.STEPS:
            subscribed = self._waiting[0]
            # MQTT-3.10.4-2: nothing is sent for a subscription that is not there any more.
            if self._session.subscriptions.get(subscribed.filter) is not subscribed:
                self._next()
                continue
            if self._search is None:
                self._search = self._retained.search(subscribed.filter)
            steps += 1
            entry = next(self._search, self._END)
            if entry is self._END:
                self._next()
                continue
            if entry is not None:
                # What is there now: it may have been replaced since it was found.
                entry = self._retained.get(entry.message.topic, now)
            if entry is not None:
                self._send(entry, subscribed, now)
                given += entry.weight
                if given > self.STRIDE:
                    given = 0
                    out.box.flush()
        return bool(self._waiting)

    def _next(self) -> None:
        self._waiting.popleft()
        self._search = None

    @property
    def searching(self) -> bool:
        """It only waits for its turn, not for the client."""
        out = self._session.out
        return bool(self._waiting) and out.open and not out.box.holds

    def _send(self, entry: Entry, subscribed: Subscribed, now: float) -> None:
        """MQTT-3.3.1-8: with the retain flag."""
        message, out = entry.message, self._session.out
        frames = Frames(message, now, entry.kept)
        qos = min(message.qos, subscribed.qos)
        identifiers = (subscribed.identifier,) if subscribed.identifier else ()
        if qos:
            out.offer(Delivery(message, qos, True, identifiers, weight=entry.weight), frames)
        else:
            out.tell(frames, True, identifiers)
