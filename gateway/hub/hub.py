"""The hub: a message comes from a client, from HTTP or from the gateway itself, and goes to everybody it is meant for.

Owns the way of a message through the rooms of this package, and the moment at which clients are told. Asks nobody
whether a client may: who calls it has. What it asks itself is the permission of those who are not there: of a will, and
of what was kept for a session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from gateway.hub.attached import Attached
from gateway.hub.delivery import Delivery
from gateway.hub.frames import Frames, payloads, turned
from gateway.hub.journal import Journal, refusal
from gateway.hub.message import Message
from gateway.hub.outbox import Outbox
from gateway.hub.ports import Cancellable, Client, Later, Listener, Permission
from gateway.hub.restore import Restoring, snapshot
from gateway.hub.retained import Due, Entry, Retained
from gateway.hub.routes import Listening, Route, Routes, Topic
from gateway.hub.rows import Store
from gateway.hub.session import Session
from gateway.hub.sessions import Sessions
from gateway.hub.settings import HubSettings
from gateway.hub.status import Counters, Status, own_version
from gateway.hub.subscriptions import Subscriptions
from gateway.wire.mqtt import around_id
from gateway.wire.mqtt_packets import Connect, Publish, Reason, Version
from gateway.wire.mqtt_topics import is_name

__all__ = ["Attached", "Hub", "Listening", "Topic"]


class Nobody:
    """The permission of those whom nobody can vouch for."""

    def publish(self, _: str, /) -> bool:
        return False

    def subscribe(self, _: str, /) -> bool:
        return False


def _nobody(_: str) -> Permission:
    return Nobody()


class Hub:
    """clock: seconds since the epoch. later: calls after so many seconds, 0: in the next turn of the reactor.
    permission_of: what an owner may do whose connection an earlier process had; its wills depend on it.

    Raises StoreError when the store cannot be read.
    """

    def __init__(
        self,
        settings: HubSettings,
        store: Store,
        clock: Callable[[], float],
        later: Later,
        permission_of: Callable[[str], Permission] = _nobody,
    ) -> None:
        self.settings, self.clock, self.later = settings, clock, later
        self.dirty: list[Outbox] = []
        self.counters = Counters()
        self.journal = Journal(store, later, lambda: snapshot(self.sessions, self.retained), self.flush)
        self.subscriptions = Subscriptions(self.journal)
        self.retained = Retained(settings, self.journal)
        self.sessions = Sessions(
            settings,
            self.journal,
            self.subscriptions,
            self.dirty,
            self.counters,
            clock,
            later,
            lambda will, owner: self.publish(will, owner=owner),
            self._flush_soon,
        )
        self._flushing = False
        self._next_status: Cancellable | None = None
        self._since = clock()
        Restoring(self.journal, self.subscriptions, self.sessions, self.retained, permission_of).restore(store.load())
        self._status = Status(self._gauges())
        self._say_status()

    # --- clients ----------------------------------------------------------------------------------------------------

    def attach(self, owner: str, connect: Connect, client: Client, permission: Permission) -> Attached:
        """The connection of a client that was let in. connect: its client id is never empty. Once its CONNACK is sent,
        `Attached.start` is called. Whoever had the session of that owner and client id loses it."""
        session, present = self.sessions.open(owner, connect, permission)
        return Attached(self, session, client, present=present)

    def end_sessions(self, owner: str) -> None:
        """Forget everything that is kept for that owner; what has a connection, as soon as that ends."""
        self.sessions.forget(owner)

    def topic(self, name: bytes) -> Topic:
        """name: well-formed UTF-8. The caller may keep it."""
        return self.subscriptions.topic(name.decode())

    # --- messages ---------------------------------------------------------------------------------------------------

    def publish(self, message: Message, done: Callable[[Reason], None] | None = None, owner: str | None = None) -> None:
        """A message that no client sent. done: called when it is stored where it has to be, or refused; perhaps at
        once. owner: whose message it is, if it is retained."""
        before = self.journal.changes
        code = self._why_not(message)
        if code is None:
            code = self.accept(message, self.subscriptions.topic(message.topic), None, owner)
            self._flush_soon()
        if done is None:
            return
        if self.journal.changes == before:
            done(code)
        else:
            self.journal.answer(lambda failure: done(code if failure is None else refusal(failure)))

    def _why_not(self, message: Message) -> Reason | None:
        """No packet has been read that has it, so whether there can be one is asked here."""
        if not is_name(message.topic):
            return Reason.TOPIC_NAME_INVALID
        packet = Publish(message.topic, message.payload, message.qos, properties=message.properties)
        try:
            around_id(packet, Version.V5)
        except ValueError:
            return Reason.IMPLEMENTATION_SPECIFIC_ERROR
        return None

    def accept(self, message: Message, topic: Topic, publisher: Session | None, owner: str | None) -> Reason:
        """Retain it, and give it to everybody; below 0x80 it is on its way, though perhaps not stored yet. owner: whose
        it is, where it counts as such."""
        if topic.reserved:
            return Reason.NOT_AUTHORIZED
        routes = self.subscriptions.routes(topic)
        failure = self.journal.failure
        if failure is not None and message.qos and self._has_to_store(message, routes, publisher):
            return refusal(failure)
        frames = Frames(message, self.clock())
        if message.retain:
            if self.retained.has_room(message, frames.now, owner):
                self.retained.put(frames, owner)
            elif message.qos:
                return Reason.QUOTA_EXCEEDED
        if routes.nobody:
            return Reason.NO_MATCHING_SUBSCRIBERS
        self._spread(frames, routes, publisher)
        return Reason.SUCCESS

    def _has_to_store(self, message: Message, routes: Routes, publisher: Session | None) -> bool:
        if message.retain or (message.qos == 2 and publisher is not None and publisher.out.durable):
            return True
        members = (member for group in routes.groups for member in group.members)
        return any(route.qos and route.out.durable for route in routes.all) or any(
            member.qos and member.session.out.durable for member in members
        )

    def _spread(self, frames: Frames, routes: Routes, publisher: Session | None) -> None:
        weight = frames.message.weight()
        for route in routes.all:
            self._give(frames, route, publisher, weight)
        self._spread_rest(frames, routes, weight)

    def _give(self, frames: Frames, route: Route, publisher: Session | None, weight: int) -> None:
        if route.session is publisher:
            # MQTT-3.8.3-3.
            if route.own is None:
                return
            route = route.own
        message = frames.message
        qos = min(message.qos, route.qos)
        retain = message.retain and route.retain_as_published
        self.counters.sent += 1
        if qos:
            route.out.offer(Delivery(message, qos, retain, route.identifiers, None, weight), frames)
        else:
            route.out.tell(frames, retain, route.identifiers)

    def _spread_rest(self, frames: Frames, routes: Routes, weight: int) -> None:
        for group in routes.groups:
            self.counters.sent += group.share(frames, weight)
        for listener in routes.listeners:
            listener.arrived(frames.message)

    def spread_frames(self, topic: Topic, data: bytes, publisher: Session, routes: Routes, count: int) -> None:
        """What `Attached.forward` leaves: everybody who needs other bytes than these."""
        from_5 = publisher.version is Version.V5
        others = routes.boxes[not from_5]
        if others:
            self.counters.sent += count * len(others)
            whole = turned(data, from_5)
            for box in others:
                if box.ready:
                    box.put(whole)
                else:
                    box.miss(count)
        if not (routes.special or routes.groups or routes.listeners):
            return
        now = self.clock()
        for payload in payloads(data, from_5):
            frames = Frames(Message(topic.name, payload), now)
            weight = frames.message.weight()
            for route in routes.special:
                self._give(frames, route, publisher, weight)
            self._spread_rest(frames, routes, weight)

    def listen(self, topic_filter: str, listener: Listener, *, retained: bool = False) -> Listening:
        """retained: what is retained arrives, too, as much as can be found in one go at once. A listener is told of
        everything that the filter means; whether it may, its caller has asked."""
        listening = self.subscriptions.listen(topic_filter, listener)
        if retained:
            self._tell_retained(self.retained.search(topic_filter), listening)
        return listening

    def _tell_retained(self, search: Iterator[Entry | None], listening: Listening) -> None:
        """In the next turn the rest: others come first."""
        now, given = self.clock(), 0
        for steps, entry in enumerate(() if listening.over else search, 1):
            # What is there now: it may have been replaced since.
            found = None if entry is None else self.retained.get(entry.message.topic, now)
            if found is not None:
                listening.listener.arrived(found.message)
                given += found.weight
            if steps == Due.STEPS or given > Due.STRIDE:
                self.later(0, partial(self._tell_retained, search, listening))
                return

    # --- moments ----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Deliver what has come together since the last time: at once to each client."""
        dirty = self.dirty
        while dirty:
            batch = dirty[:]
            dirty.clear()
            for box in batch:
                box.flush()
                if box.fate is not None:
                    self._end(box)
                elif box.released and box.attached is not None:
                    box.released = False
                    box.attached.pump()

    def _end(self, box: Outbox) -> None:
        attached, client, fate = box.attached, box.client, box.fate
        # Who has a fate has a connection, too.
        assert attached is not None
        assert client is not None
        assert fate is not None
        attached.detach(will=True)
        client.end(*fate)

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self.later(0, self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = False
        self.flush()

    def _say_status(self) -> None:
        for message in self._status.news():
            frames = Frames(message, self.clock())
            if self.retained.has_room(message, frames.now, None):
                self.retained.put(frames, stored=False)
            self._spread(frames, self.subscriptions.routes(self.subscriptions.topic(message.topic)), None)
        self._next_status = self.later(self.settings.sys_interval, self._say_status)
        self.flush()

    def _gauges(self) -> dict[str, Callable[[], str]]:
        counters, sessions = self.counters, self.sessions
        return {
            "version": own_version,
            "uptime": lambda: f"{int(self.clock() - self._since)} seconds",
            "clients/connected": lambda: str(sessions.online),
            "clients/disconnected": lambda: str(sessions.offline),
            "clients/total": lambda: str(sessions.online + sessions.offline),
            "messages/received": lambda: str(counters.received),
            "messages/sent": lambda: str(counters.sent),
            "publish/messages/dropped": lambda: str(counters.dropped),
            "retained messages/count": lambda: str(len(self.retained)),
            "subscriptions/count": lambda: str(self.subscriptions.count),
        }

    def close(self) -> None:
        """Everything that has to be stored is; nothing after that, and nothing is left to be called."""
        self.flush()
        self.journal.close()
        self.sessions.close_all()
        if self._next_status is not None:
            self._next_status.cancel()
            self._next_status = None
