"""What was stored becomes what there is again, and what there is becomes rows.

Owns both directions, so that they agree. What refers to something that is not there is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from gateway.hub.delivery import Delivery
from gateway.hub.journal import Journal, Kept
from gateway.hub.message import Message
from gateway.hub.ports import Permission
from gateway.hub.retained import Entry, Retained
from gateway.hub.rows import (
    Change,
    InboundRow,
    RetainedRow,
    Row,
    SessionRow,
    Stored,
    message_of,
    message_row,
)
from gateway.hub.session import LastWill, Session, Subscribed
from gateway.hub.sessions import Sessions
from gateway.hub.shared import Group
from gateway.hub.subscriptions import Subscriptions, subscription_row
from gateway.wire.mqtt_packets import Subscription, Version


def snapshot(sessions: Sessions, retained: Retained) -> Iterator[Row]:
    """Every row that there should be."""
    messages: dict[int, Message] = {}
    for session in sessions:
        if session.stored:
            yield from _rows_of(session, messages)
    for entry in retained.entries():
        if entry.kept is not None:
            messages[entry.kept.id] = entry.message
            yield Change.PUT_RETAINED, RetainedRow(entry.message.topic, entry.kept.id)
    for number, message in messages.items():
        yield Change.PUT_MESSAGE, message_row(number, message)


def _rows_of(session: Session, messages: dict[int, Message]) -> Iterator[Row]:
    yield Change.PUT_SESSION, session.row()
    will = session.will
    if will is not None and will.kept is not None:
        messages[will.kept.id] = will.message
    if not session.expiry:
        return
    for subscribed in session.subscriptions.values():
        yield Change.PUT_SUBSCRIPTION, subscription_row(subscribed)
    for packet_id in session.received:
        yield Change.PUT_INBOUND, InboundRow(session.id, packet_id)
    for delivery in session.out.all():
        if delivery.kept is not None:
            messages[delivery.kept.id] = delivery.message
            yield Change.PUT_DELIVERY, delivery.row(session.id)


class Restoring:
    """permission_of: what an owner may do, whose connection is not there to ask."""

    def __init__(
        self,
        journal: Journal,
        subscriptions: Subscriptions,
        sessions: Sessions,
        retained: Retained,
        permission_of: Callable[[str], Permission],
    ) -> None:
        self._journal, self._subscriptions = journal, subscriptions
        self._sessions, self._retained, self._permission_of = sessions, retained, permission_of
        self._kept: dict[int, Kept] = {}
        self._by_id: dict[int, Session] = {}

    def restore(self, stored: Stored) -> None:
        for message in stored.messages:
            self._kept[message.id] = Kept(message.id, message_of(message))
            self._journal.number(message.id)
        for row in stored.sessions:
            self._session(row)
        self._belongings(stored)
        for retained in stored.retained:
            kept = self._refer(retained.message)
            if kept is not None:
                self._retained.restore(Entry(kept.message, kept))
        for unused in self._kept.values():
            if not unused.references:
                self._journal.add(Change.DROP_MESSAGE, (unused.id,))
        for session in self._by_id.values():
            self._sessions.restore(session)

    def _refer(self, number: int | None) -> Kept | None:
        kept = self._kept.get(number) if number is not None else None
        if kept is not None:
            kept.references += 1
        return kept

    def _session(self, row: SessionRow) -> None:
        session = self._sessions.make(row.id, row.owner, row.client_id, self._permission_of(row.owner))
        self._journal.number(row.id)
        session.version, session.expiry, session.ended = Version(row.version), row.expiry, row.ended
        session.stored = True
        session.out.durable = row.expiry > 0
        kept = self._refer(row.will)
        if kept is not None:
            session.will = LastWill(kept.message, row.will_delay, row.will_expiry, kept, row.will_due)
        self._by_id[row.id] = session

    def _belongings(self, stored: Stored) -> None:
        for row in stored.subscriptions:
            session = self._by_id.get(row.session)
            if session is not None:
                asked = Subscription(row.filter, row.qos, bool(row.no_local), bool(row.retain_as_published))
                self._subscriptions.restore(session, asked, row.identifier)
        for inbound in stored.inbound:
            session = self._by_id.get(inbound.session)
            if session is not None:
                session.received.add(inbound.packet_id)
        self._deliveries(stored)

    def _deliveries(self, stored: Stored) -> None:
        for row in stored.deliveries:
            self._journal.number(row.sequence)
            session, kept = self._by_id.get(row.session), self._refer(row.message)
            if session is None or kept is None:
                self._journal.add(Change.DROP_DELIVERY, (row.sequence,))
                continue
            delivery = Delivery(
                kept.message,
                row.qos,
                bool(row.retain),
                tuple(json.loads(row.identifiers)),
                _group(session, row.share),
            )
            delivery.sequence, delivery.kept = row.sequence, kept
            delivery.packet_id, delivery.released = row.packet_id, bool(row.released)
            session.out.restore(delivery)


def _group(session: Session, share: str | None) -> Group | None:
    subscribed: Subscribed | None = session.subscriptions.get(share) if share is not None else None
    return subscribed.group if subscribed is not None else None
