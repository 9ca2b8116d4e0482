"""All sessions: whose they are, when they end, and what becomes then of their wills and of what they shared.

Owns their life (MQTT-4.1): taken over, resumed, kept without a connection, expired. Refuses to keep more than the
bounds allow; nobody's session gives way to another owner's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from gateway.hub.budget import Budget
from gateway.hub.delivery import Delivery
from gateway.hub.frames import Frames
from gateway.hub.journal import Journal
from gateway.hub.message import Message, published
from gateway.hub.outbound import Outbound, Terms
from gateway.hub.outbox import Outbox
from gateway.hub.ports import Later, Permission
from gateway.hub.rows import Change
from gateway.hub.session import LastWill, Session
from gateway.hub.settings import HubSettings
from gateway.hub.status import Counters
from gateway.hub.subscriptions import Subscriptions
from gateway.wire.mqtt_packets import Connect, Reason, Version, Will
from gateway.wire.mqtt_topics import shared

# MQTT-3.1.2.11.3: when the client does not say how much it takes.
_ANY_WINDOW: Final = 65_535

# After a restart clients have so long to come back before their wills are published.
RETURN_SECONDS: Final = 10.0


class Sessions:
    """publish: what is to be done with a will, of that owner. stirred: called when others may have got something.
    dirty: of the hub's outboxes."""

    def __init__(
        self,
        settings: HubSettings,
        journal: Journal,
        subscriptions: Subscriptions,
        dirty: list[Outbox],
        counters: Counters,
        clock: Callable[[], float],
        later: Later,
        publish: Callable[[Message, str], object],
        stirred: Callable[[], None],
    ) -> None:
        self.online = self.offline = 0
        self._settings, self._journal, self._subscriptions, self._dirty = settings, journal, subscriptions, dirty
        self._clock, self._later, self._publish = clock, later, publish
        self._stirred, self._counters = stirred, counters
        self._budget = Budget(settings.max_total_bytes)
        self._budgets: dict[str, Budget] = {}
        # In each, those that have had no connection for longest come first.
        self._of: dict[str, dict[str, Session]] = {}

    def __iter__(self) -> Iterator[Session]:
        return (session for owned in self._of.values() for session in owned.values())

    def make(self, number: int, owner: str, client_id: str, permission: Permission) -> Session:
        """A new one, without a connection."""
        box = Outbox(self._dirty, self._journal, self._counters)
        budget = self._budgets.setdefault(owner, Budget(self._settings.max_owner_bytes, self._budget))
        out = Outbound(number, box, self._journal, self._settings, budget, self._clock)
        session = Session(number, owner, client_id, permission, out)
        self._of.setdefault(owner, {})[client_id] = session
        self.offline += 1
        return session

    # --- connections ------------------------------------------------------------------------------------------------

    def open(self, owner: str, connect: Connect, permission: Permission) -> tuple[Session, bool]:
        """The session for that connection, and whether it was there before (MQTT-3.1.2.4)."""
        session = self._of.get(owner, {}).get(connect.client_id)
        if session is not None and session.box.attached is not None:
            self._take_over(session)
            session = self._of.get(owner, {}).get(connect.client_id)
        if session is not None and self._is_over(session):
            self._forget_will(session)
            self.end(session)
            session = None
        elif session is not None and connect.clean_start:
            self.end(session)
            session = None
        present = session is not None
        if session is None:
            session = self.make(self._journal.number(), owner, connect.client_id, permission)
        session.permission = permission
        self._resume(session, connect)
        if present:
            self._drop_what_is_denied(session)
        return session, present

    def _is_over(self, session: Session) -> bool:
        """Of one without a connection that is only kept, since a restart, for its will (`restore`)."""
        return session.ended is not None and session.ended + session.expiry <= self._clock()

    def _take_over(self, session: Session) -> None:
        """MQTT-3.1.4-3."""
        client = session.box.client
        session.box.flush()
        self.close(session, will=True)
        if client is not None:
            client.end(Reason.SESSION_TAKEN_OVER, "another connection took over the session")

    def _resume(self, session: Session, connect: Connect) -> None:
        if session.timer is not None:
            session.timer.cancel()
            session.timer = None
        self._forget_will(session)
        session.ended, session.version = None, connect.version
        self.offline -= 1
        self.online += 1
        session.expiry = self._expiry(connect)
        session.out.durable = self._journal.durable and session.expiry > 0
        session.out.connect(self._terms(connect))
        if connect.will is not None:
            self._set_will(session, connect.will)
        if session.subscriptions:
            self._subscriptions.changed()
        self._record(session)

    def _expiry(self, connect: Connect) -> int:
        """Seconds. Before 5.0 a session is clean, or does not end by itself."""
        longest = self._settings.max_session_expiry
        if connect.version is Version.V5:
            return min(connect.properties.session_expiry or 0, longest)
        return 0 if connect.clean_start else longest

    def _terms(self, connect: Connect) -> Terms:
        settings = self._settings
        if connect.version is not Version.V5:
            return Terms(is_5=False, window=settings.max_inflight)
        properties = connect.properties
        largest = properties.maximum_packet_size or 0
        aliases = min(properties.topic_alias_maximum or 0, settings.topic_alias_maximum)
        return Terms(
            is_5=True,
            window=min(properties.receive_maximum or _ANY_WINDOW, settings.max_queued),
            max_packet=largest,
            aliases=aliases,
            # A plain message of a client before 5.0 grows by one byte.
            plain=not aliases and (not largest or largest > settings.max_packet_size),
        )

    def _drop_what_is_denied(self, session: Session) -> None:
        permission = session.permission
        for topic_filter in list(session.subscriptions):
            share = shared(topic_filter)
            if not permission.subscribe(share[1] if share is not None else topic_filter):
                self._subscriptions.remove(session, topic_filter)
        session.out.drop(
            delivery
            for delivery in session.out.all()
            if not delivery.released and not permission.subscribe(delivery.message.topic)
        )

    def close(self, session: Session, *, will: bool, expiry: int | None = None) -> None:
        """The connection has ended. expiry: seconds, from DISCONNECT (MQTT-3.14.2.2.2)."""
        session.box.disconnect()
        self.online -= 1
        self.offline += 1
        session.ended = self._clock()
        if expiry is not None and session.expiry:
            session.expiry = min(expiry, self._settings.max_session_expiry)
        owned = self._of[session.owner]
        owned[session.client_id] = owned.pop(session.client_id)
        if not will:
            self._forget_will(session)
        if not session.expiry or self.offline > self._settings.max_sessions:
            self.end(session)
            return
        self._await_will(session)
        session.timer = self._later(session.expiry, lambda: self._expired(session))
        self._record(session)
        self._bound(session.owner)

    def _bound(self, owner: str) -> None:
        kept = [session for session in self._of.get(owner, {}).values() if session.ended is not None]
        for session in kept[: max(0, len(kept) - self._settings.max_owner_sessions)]:
            self.end(session)

    # --- ends -------------------------------------------------------------------------------------------------------

    def _expired(self, session: Session) -> None:
        session.timer = None
        self.end(session)

    def end(self, session: Session) -> None:
        """Of a session without a connection. Its will is published, if it has one still (MQTT-3.1.2-8)."""
        if session.timer is not None:
            session.timer.cancel()
            session.timer = None
        self._remove(session)
        left = session.out.all()
        for topic_filter in list(session.subscriptions):
            self._subscriptions.remove(session, topic_filter)
        if session.will is not None:
            self._publish_will(session)
        self._unrecord(session)
        session.out.drop(left)
        if not self._of[session.owner]:
            del self._of[session.owner], self._budgets[session.owner]
        for delivery in left:
            self._pass_on(delivery)
        self._stirred()

    def _remove(self, session: Session) -> None:
        owned = self._of[session.owner]
        del owned[session.client_id]
        self.offline -= 1

    def _pass_on(self, delivery: Delivery) -> None:
        """A shared subscription's message goes to somebody else, if this one cannot have seen it as QoS 2
        (MQTT-4.8.2-5, -6)."""
        if delivery.group is not None and not (delivery.qos == 2 and delivery.packet_id):
            delivery.group.share(Frames(delivery.message, self._clock(), delivery.kept), delivery.weight)

    def forget(self, owner: str) -> None:
        """Nothing of that owner's is kept: no session without a connection, and those that have one end with it."""
        for session in list(self._of.get(owner, {}).values()):
            self._forget_will(session)
            session.expiry, session.out.durable = 0, False
            if session.box.attached is None:
                self.end(session)
            else:
                self._unrecord(session)

    def close_all(self) -> None:
        """Nothing is waited for any more. What is stored is left as it is."""
        for session in self:
            if session.timer is not None:
                session.timer.cancel()
                session.timer = None
            will = session.will
            if will is not None and will.timer is not None:
                will.timer.cancel()
                will.timer = None

    # --- wills ------------------------------------------------------------------------------------------------------

    def _set_will(self, session: Session, will: Will) -> None:
        """MQTT-3.1.2.5."""
        properties = will.properties
        message = published(will, 0.0)
        session.will = LastWill(
            Message(will.topic, will.payload, will.qos, will.retain, message.properties),
            properties.will_delay or 0,
            properties.message_expiry,
        )
        if self._journal.durable:
            session.will.kept = self._journal.keep(session.will.message)
            self._journal.refer(session.will.kept)

    def _await_will(self, session: Session) -> None:
        """MQTT-3.1.3.2.2: after its delay, unless there is a connection again by then."""
        will = session.will
        if will is None:
            return
        if will.due is None:
            will.due = self._clock() + will.delay
        wait = will.due - self._clock()
        if wait > 0:
            will.timer = self._later(wait, lambda: self._will_is_due(session))
        else:
            self._publish_will(session)

    def _will_is_due(self, session: Session) -> None:
        if session.will is not None:
            session.will.timer = None  # it has been called: there is nothing to cancel
        self._publish_will(session)

    def _publish_will(self, session: Session) -> None:
        will = session.will
        if will is None:
            return
        message, expires = will.message, will.expiry
        self._forget_will(session)
        if session.stored:
            self._record(session)
        if session.permission.publish(message.topic):
            self._publish(
                Message(
                    message.topic,
                    message.payload,
                    message.qos,
                    message.retain,
                    message.properties,
                    None if expires is None else self._clock() + expires,
                ),
                session.owner,
            )

    def _forget_will(self, session: Session) -> None:
        will, session.will = session.will, None
        if will is None:
            return
        if will.timer is not None:
            will.timer.cancel()
        if will.kept is not None:
            self._journal.release(will.kept)

    # --- what is stored ---------------------------------------------------------------------------------------------

    def _record(self, session: Session) -> None:
        """A session that outlives its connection, or a will that does, outlives the process."""
        if self._journal.durable and (session.expiry or session.will is not None):
            session.stored = True
            self._journal.add(Change.PUT_SESSION, session.row())
        else:
            self._unrecord(session)

    def _unrecord(self, session: Session) -> None:
        if session.stored:
            session.stored = False
            self._journal.add(Change.DROP_SESSION, (session.id,))

    def restore(self, session: Session) -> None:
        """One that was stored, with all that belongs to it; its connection, if it had one, is lost."""
        now = self._clock()
        if session.ended is None:
            session.ended = now
        left, will = session.ended + session.expiry - now, session.will
        if will is not None:
            # That of a process is no death of its clients, and until they are back it is known again what they may.
            will.due = max(now + will.delay if will.due is None else will.due, now + RETURN_SECONDS)
            left = max(left, RETURN_SECONDS)
        if left <= 0 or self.offline > self._settings.max_sessions:
            self.end(session)
            return
        self._await_will(session)
        session.timer = self._later(left, lambda: self._expired(session))
        self._record(session)
