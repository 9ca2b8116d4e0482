"""One connection to the hub: what a client sends, once its session with it has checked that it may.

Owns QoS 0, 1 and 2 from a client (MQTT-4.3), the answers to SUBSCRIBE and UNSUBSCRIBE, and their order. Refuses what
breaks the protocol in a way that only the hub can see.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.hub.frames import puback, pubcomp, pubrec
from gateway.hub.message import published
from gateway.hub.ports import Client
from gateway.hub.retained import Due
from gateway.hub.routes import Topic
from gateway.hub.rows import Change, InboundRow
from gateway.hub.session import Session, Subscribed
from gateway.hub.tree import weight
from gateway.wire.mqtt import serialize
from gateway.wire.mqtt_packets import (
    Malformed,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Reason,
    Refusal,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Version,
)
from gateway.wire.mqtt_topics import shared

if TYPE_CHECKING:
    from gateway.hub.hub import Hub

# MQTT before 5.0 knows no Receive Maximum; more messages of QoS 2 than this at once are nobody's window.
_MAX_RECEIVED: Final = 4_096


class Attached:
    """session_present: for CONNACK. session_expiry: seconds, as bounded by the hub; also for CONNACK."""

    __slots__ = ("_due", "_hub", "_is_5", "_searching", "_session", "_started", "session_expiry", "session_present")

    def __init__(self, hub: Hub, session: Session, client: Client, *, present: bool) -> None:
        self.session_present = present
        self.session_expiry = session.expiry
        self._hub, self._session = hub, session
        self._is_5 = session.version is Version.V5
        self._due: Due | None = None
        self._started = self._searching = False
        session.box.connect(self, client)

    @property
    def session(self) -> Session:
        return self._session

    @property
    def filters(self) -> list[str]:
        """What is subscribed to; of a shared subscription the filter behind its name."""
        return [share[1] if (share := shared(one)) else one for one in self._session.subscriptions]

    @property
    def dropped(self) -> int:
        """Messages that this client did not get, since there is a session."""
        return self._session.box.missed

    def start(self) -> None:
        """CONNACK has been sent: what has waited for the client follows."""
        self._started = True
        self.drained()

    def drained(self) -> None:
        """The client has taken what was delivered."""
        box = self._session.box
        if self._started and box.attached is self and box.fate is None:
            box.ready = True
            self.pump()

    def pump(self) -> None:
        """Send what waits."""
        self._session.out.pump()
        self._pump_due()

    def _pump_due(self) -> None:
        if self._due is None or self._searching:
            return
        if not self._due.pump(self._hub.clock()):
            self._due = None
        elif self._due.searching:
            # The others first.
            self._searching = True
            self._hub.later(0, self._search_on)

    def _search_on(self) -> None:
        self._searching = False
        if self._session.box.attached is self:
            self._pump_due()
            self._hub.flush()

    def detach(self, *, will: bool, session_expiry: int | None = None) -> None:
        """The connection has ended. will: unless it did with a DISCONNECT that says otherwise (MQTT-3.14.4-3).
        session_expiry: seconds, from that DISCONNECT."""
        if self._session.box.attached is self:
            self._hub.sessions.close(self._session, will=will, expiry=session_expiry)

    # --- PUBLISH ----------------------------------------------------------------------------------------------------

    def forward(self, topic: Topic, frames: bytes, count: int) -> None:
        """`count` whole PUBLISH packets to that topic, of QoS 0, not retained and without properties, exactly as the
        client sent them. Who speaks the same family of versions gets the same bytes."""
        hub = self._hub
        routes = topic.routes
        if routes.stamp != hub.subscriptions.tree.stamp:
            routes = hub.subscriptions.refresh(topic)
        counters = hub.counters
        counters.received += count
        if topic.reserved:
            return
        boxes = routes.boxes[self._is_5]
        counters.sent += count * len(boxes)
        for box in boxes:
            if box.ready:
                if not box.chunks:
                    hub.dirty.append(box)
                box.chunks.append(frames)
            else:
                box.miss(count)
        if routes.more[self._is_5]:
            hub.spread_frames(topic, frames, self._session, routes, count)

    def publish(self, packet: Publish) -> None:
        """Every other PUBLISH: its topic resolved from an alias, and permitted, already."""
        hub, session, qos = self._hub, self._session, packet.qos
        hub.counters.received += 1
        if qos and not self._is_expected(packet):
            return
        topic = hub.subscriptions.topic(packet.topic)
        before = hub.journal.changes
        code = self._accept(packet, topic)
        if not qos:
            return
        if code >= Reason.UNSPECIFIED_ERROR:
            self.refuse(packet, code)
            return
        if qos == 2:
            self._remember(packet.packet_id, before)
        answer = puback if qos == 1 else pubrec
        data = answer(packet.packet_id, code if self._is_5 else 0)
        if hub.journal.changes == before:
            session.box.queue(data)
            return
        session.box.unanswered += qos == 1
        session.box.hold(data, self._refused(packet))

    def publish_plain(self, topic: Topic, packet_id: int, payload: bytes) -> None:
        """One of QoS 1, not retained and without properties, to that topic: the same, and quicker where nobody hears
        it; there Receive Maximum has nothing to bound."""
        session, subscriptions = self._session, self._hub.subscriptions
        if topic.reserved or session.box.holds or not subscriptions.routes(topic).nobody:
            self.publish(Publish(topic.name, payload, 1, packet_id=packet_id))
            return
        self._hub.counters.received += 1
        session.box.put(puback(packet_id, Reason.NO_MATCHING_SUBSCRIBERS if self._is_5 else 0))

    def _accept(self, packet: Publish, topic: Topic) -> Reason:
        hub = self._hub
        if not packet.retain and not topic.reserved and packet.qos < 2 and hub.subscriptions.routes(topic).nobody:
            return Reason.NO_MATCHING_SUBSCRIBERS
        return hub.accept(published(packet, hub.clock()), topic, self._session, self._session.owner)

    def _is_expected(self, packet: Publish) -> bool:
        """Whether the message is a new one. Raises Malformed where there may not be another one (MQTT-4.9)."""
        session, packet_id = self._session, packet.packet_id
        if packet.qos == 2 and packet_id in session.received:
            # MQTT-4.3.3-10: it has been published.
            if session.box.holds:
                session.box.hold(pubrec(packet_id), self._refused(packet))
            else:
                session.box.put(pubrec(packet_id))
            return False
        limit = self._hub.settings.receive_maximum if self._is_5 else _MAX_RECEIVED
        if len(session.received) + session.box.unanswered >= limit:
            raise Malformed("more messages than Receive Maximum allows", Reason.RECEIVE_MAXIMUM_EXCEEDED)
        return True

    def _remember(self, packet_id: int, before: int) -> None:
        session, journal = self._session, self._hub.journal
        session.received.add(packet_id)
        if session.out.durable:
            journal.add(Change.PUT_INBOUND, InboundRow(session.id, packet_id))
        if journal.changes != before:
            journal.undo(partial(session.received.discard, packet_id))

    def _refused(self, packet: Publish) -> bytes | None:
        """What is said if the message turns out not to be stored."""
        if not self._is_5:
            return None
        answer = puback if packet.qos == 1 else pubrec
        return answer(packet.packet_id, Reason.IMPLEMENTATION_SPECIFIC_ERROR)

    def refuse(self, packet: Publish, code: Reason) -> None:
        """Before 5.0 there is no way to say so but the end; what is for no client to publish is dropped."""
        if not packet.qos:
            return
        answer = puback if packet.qos == 1 else pubrec
        if self._is_5:
            self._session.box.queue(answer(packet.packet_id, code))
        elif code is Reason.NOT_AUTHORIZED:
            self._session.box.queue(answer(packet.packet_id))
        else:
            self._session.box.end(code, "a message could not be kept")

    def acknowledge(self, packet: PubAck | PubRec | PubRel | PubComp) -> None:
        """Raises Malformed where it is the answer to something else."""
        if isinstance(packet, PubRel):
            self._release(packet.packet_id)
            return
        out = self._session.out
        if isinstance(packet, PubAck):
            out.acknowledged(packet.packet_id)
        elif isinstance(packet, PubRec):
            out.received(packet.packet_id, packet.code)
        else:
            out.completed(packet.packet_id)
        self._pump_due()

    def _release(self, packet_id: int) -> None:
        """PUBREL: the identifier may come again, and then as another message (MQTT-4.3.3-12)."""
        session = self._session
        if packet_id not in session.received:
            # MQTT-3.7.2.1.
            session.box.queue(pubcomp(packet_id, Reason.PACKET_IDENTIFIER_NOT_FOUND if self._is_5 else 0))
            return
        session.received.discard(packet_id)
        if session.out.durable:
            self._hub.journal.add(Change.DROP_INBOUND, InboundRow(session.id, packet_id))
            session.box.hold(pubcomp(packet_id), None)
        else:
            session.box.queue(pubcomp(packet_id))

    # --- SUBSCRIBE --------------------------------------------------------------------------------------------------

    def subscribe(self, packet: Subscribe, refused: Mapping[int, int]) -> None:
        """refused: the codes of those that are not permitted, by their index. What is retained follows SUBACK."""
        session, before = self._session, self._hub.journal.changes
        identifiers = packet.properties.subscription_identifiers
        identifier = identifiers[0] if identifiers else 0
        codes, due = [], []
        for index, asked in enumerate(packet.subscriptions):
            code = refused.get(index, self._why_not(asked))
            if code is None:
                new = self._hub.subscriptions.add(session, asked, identifier)
                if asked.retain_handling == 0 or (asked.retain_handling == 1 and new):
                    due.append(session.subscriptions[asked.filter])
                code = asked.qos
            codes.append(code)
        self._answer(serialize(SubAck(packet.packet_id, tuple(codes)), session.version), before)
        if due:
            self._owe(due)

    def _owe(self, subscriptions: list[Subscribed]) -> None:
        """Send what is retained."""
        if self._due is None:
            self._due = Due(self._session, self._hub.retained)
        for subscribed in subscriptions:
            # MQTT-4.8.2: not to a shared subscription.
            if subscribed.group is None:
                self._due.add(subscribed, self._hub.settings.max_subscriptions)
        self._pump_due()

    def _why_not(self, asked: Subscription) -> int | None:
        """Raises Malformed."""
        session, settings = self._session, self._hub.settings
        if asked.no_local and shared(asked.filter) is not None:
            # MQTT-3.8.3-4.
            raise Malformed("a shared subscription with No Local", Reason.PROTOCOL_ERROR)
        if asked.filter in session.subscriptions or (
            len(session.subscriptions) < settings.max_subscriptions
            and session.filter_bytes + weight(asked.filter) <= settings.max_filter_bytes
        ):
            return None
        return Reason.QUOTA_EXCEEDED if self._is_5 else Refusal.SUBSCRIPTION_FAILED

    def unsubscribe(self, packet: Unsubscribe) -> None:
        session, before = self._session, self._hub.journal.changes
        found = [self._hub.subscriptions.remove(session, topic_filter) is not None for topic_filter in packet.filters]
        codes = tuple(Reason.SUCCESS if there else Reason.NO_SUBSCRIPTION_EXISTED for there in found)
        self._answer(serialize(UnsubAck(packet.packet_id, codes), session.version), before)

    def _answer(self, data: bytes, before: int) -> None:
        if self._hub.journal.changes == before and not self._unstorable():
            self._session.box.queue(data)
        else:
            self._session.box.hold(data, None)

    def _unstorable(self) -> bool:
        return self._session.out.durable and self._hub.journal.failure is not None
