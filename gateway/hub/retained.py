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


class Entry:
    """kept: it is stored; the hub's own messages are not. weight: bytes, as those of a message."""

    __slots__ = ("kept", "message", "weight")

    def __init__(self, message: Message, kept: Kept | None) -> None:
        self.message, self.kept, self.weight = message, kept, message.weight()

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

    def has_room(self, message: Message, now: float) -> bool:
        """Whether it can be retained; one with an empty payload can, since it removes (MQTT-3.3.1-6)."""
        if not message.payload or self._fits(message):
            return True
        self._sweep(now)
        return self._fits(message)

    def _sweep(self, now: float) -> None:
        if now - self._swept < _SWEEP:
            return
        self._swept = now
        for entry in [entry for entry in self._entries.values() if entry.message.remaining(now) == 0]:
            self.remove(entry.message.topic)

    def _fits(self, message: Message) -> bool:
        before = self._entries.get(message.topic)
        settings = self._settings
        size = self._bytes + Entry(message, None).whole - (before.whole if before is not None else 0)
        return len(self._entries) + (before is None) <= settings.max_retained and size <= settings.max_retained_bytes

    def put(self, frames: Frames, *, stored: bool = True) -> None:
        """Retain that message, or remove what is there. There has to be room."""
        message = frames.message
        before = self._entries.get(message.topic)
        self.remove(message.topic)
        self._put(frames, stored=stored)
        self._journal.undo(lambda: self._back(message.topic, before))

    def _put(self, frames: Frames, *, stored: bool) -> None:
        message = frames.message
        if not message.payload:
            return
        if stored and self._journal.durable:
            if frames.kept is None:
                frames.kept = self._journal.keep(message)
            self._journal.refer(frames.kept)
            self._journal.add(Change.PUT_RETAINED, RetainedRow(message.topic, frames.kept.id))
            self.restore(Entry(message, frames.kept))
        else:
            self.restore(Entry(message, None))

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
        self._bytes += entry.whole

    def remove(self, topic: str) -> None:
        entry = self._entries.pop(topic, None)
        if entry is None:
            return
        self._tree.remove(topic, _HERE)
        self._bytes -= entry.whole
        if entry.kept is not None:
            self._journal.add(Change.DROP_RETAINED, (topic,))
            self._journal.release(entry.kept)

    def matching(self, topic_filter: str) -> Iterator[Message]:
        return (entry.message for entry in self._tree.covered(topic_filter))


class Due:
    """What is retained and still to be sent to one session, since it has subscribed."""

    __slots__ = ("_retained", "_session", "_waiting")

    # Bytes that are given out before a look whether the client takes them.
    STRIDE: Final = 65_536

    def __init__(self, session: Session, retained: Retained) -> None:
        self._session, self._retained = session, retained
        self._waiting: deque[tuple[str, Subscribed]] = deque()

    def add(self, subscribed: Subscribed, limit: int) -> None:
        """limit: of topics that may wait. Those beyond it are missed."""
        for message in self._retained.matching(subscribed.filter):
            if len(self._waiting) >= limit:
                self._session.box.miss()
                return
            self._waiting.append((message.topic, subscribed))

    def pump(self, now: float) -> bool:
        """Send, as far as the client takes it. Whether there is more."""
        out, given = self._session.out, 0
        while self._waiting and out.open and not out.box.holds:
            topic, subscribed = self._waiting.popleft()
            entry = self._retained.get(topic, now)
            # MQTT-3.10.4-2: nor is anything sent for a subscription that is not there any more.
            if entry is None or self._session.subscriptions.get(subscribed.filter) is not subscribed:
                continue
            self._send(entry, subscribed, now)
            given += entry.weight
            if given > self.STRIDE:
                given = 0
                out.box.flush()
        return bool(self._waiting)

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
