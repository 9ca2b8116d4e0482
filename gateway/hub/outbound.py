"""The way of messages to one session: packet identifiers, the window, the queue behind it, and what is sent again.

Owns QoS 1 and 2 towards a client (MQTT-4.3, 4.4, 4.9), in order, within bounds. Refuses answers that do not fit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from gateway.hub.budget import Budget
from gateway.hub.delivery import Delivery
from gateway.hub.frames import Frames, pubrel
from gateway.hub.journal import Journal
from gateway.hub.outbox import Outbox
from gateway.hub.rows import Change
from gateway.hub.settings import HubSettings
from gateway.wire.mqtt_packets import Malformed, Reason

# Bytes that a client which is connected always has, whatever waits for others.
_RESERVE: Final = 262_144
_LAST_ID: Final = 65_535
# Bytes that a queue gives out before it looks whether the client takes them.
_STRIDE: Final = 65_536
# Bytes of QoS 0 that come together for one client before it is seen whether it takes them: one message can reach it
# through a thousand shared subscriptions.
_MOST_AT_ONCE: Final = 1_048_576
# Seconds between two looks through a full queue for messages that have expired.
_SWEEP: Final = 1.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What the client of a connection takes. window: unacknowledged messages. max_packet: bytes, 0: any.
    aliases: so many it lets us use. plain: whether it can be sent the very bytes that others are."""

    is_5: bool
    window: int
    max_packet: int = 0
    aliases: int = 0
    plain: bool = True


class Outbound:
    """durable: what is queued from now on is stored, for the session of that number."""

    def __init__(
        self,
        session: int,
        box: Outbox,
        journal: Journal,
        settings: HubSettings,
        budget: Budget,
        clock: Callable[[], float],
    ) -> None:
        self.durable = False
        self.box = box
        self.terms = Terms(is_5=False, window=settings.max_inflight)
        self.count = 0  # of messages queued or not acknowledged
        self._session, self._journal, self._settings, self._budget = session, journal, settings, budget
        self._clock = clock
        self._bytes = 0
        self._queue: deque[Delivery] = deque()
        self._by_id: dict[int, Delivery] = {}  # in the order in which they were first sent
        self._outstanding = 0
        self._last_id = 0
        self._aliases: dict[str, int] = {}
        self._swept = 0.0

    def connect(self, terms: Terms) -> None:
        """What is not acknowledged will be sent again, first and in order (MQTT-4.4, 4.6)."""
        self.terms = terms
        self._aliases.clear()
        self._outstanding = 0
        for delivery in self._by_id.values():
            delivery.sent = False
        self._queue = deque((*self._by_id.values(), *(d for d in self._queue if not d.packet_id)))

    def all(self) -> list[Delivery]:
        """Everything that is not acknowledged, in order."""
        return [*self._by_id.values(), *(d for d in self._queue if not d.packet_id)]

    # --- in ---------------------------------------------------------------------------------------------------------

    def tell(self, frames: Frames, retain: bool, identifiers: tuple[int, ...]) -> None:
        """A message with QoS 0: now or never."""
        box, terms = self.box, self.terms
        if not box.ready or box.size > _MOST_AT_ONCE:
            box.miss()
            return
        if not identifiers and terms.plain:
            box.put(frames.plain(terms.is_5, retain))
            return
        data = self._special(frames, 0, retain, 0, identifiers)
        # MQTT-3.1.2-24.
        if terms.max_packet and len(data) > terms.max_packet:
            box.miss()
        else:
            box.put(data)

    def has_room(self, weight: int) -> bool:
        settings = self._settings
        return (
            self.count < settings.max_queued
            and self._bytes + weight <= settings.max_queued_bytes
            # Whoever is there and reads is not to suffer from what others leave lying about.
            and (self._reserved(weight) or self._budget.has_room(weight))
        )

    def _reserved(self, weight: int) -> bool:
        return self.box.client is not None and self._bytes + weight <= _RESERVE

    def offer(self, delivery: Delivery, frames: Frames) -> bool:
        """A message with QoS 1 or 2. False: there is no room; who is connected and has let it come to that is
        disconnected."""
        if not self.has_room(delivery.weight):
            self._sweep()
            if not self.has_room(delivery.weight):
                self.box.lose()
                self.box.end(Reason.QUOTA_EXCEEDED, "too many messages wait for the client")
                return False
        self._count(delivery)
        if self.durable:
            self._store(delivery, frames)
        if self.box.ready and not self._queue and self._outstanding < self.terms.window:
            self._send(delivery, frames)
        else:
            self._queue.append(delivery)
            self._record(delivery)
        return True

    def restore(self, delivery: Delivery) -> None:
        """One that was queued, or sent, in an earlier life; in order."""
        self._count(delivery)
        if delivery.packet_id:
            self._by_id[delivery.packet_id] = delivery
            self._last_id = delivery.packet_id
        else:
            self._queue.append(delivery)

    def _count(self, delivery: Delivery) -> None:
        self.count += 1
        self._bytes += delivery.weight
        self._budget.take(delivery.weight)

    def _store(self, delivery: Delivery, frames: Frames) -> None:
        if frames.kept is None:
            frames.kept = self._journal.keep(delivery.message)
        self._journal.refer(frames.kept)
        delivery.kept, delivery.sequence = frames.kept, self._journal.number()
        self._journal.undo(lambda: self._withdraw(delivery))

    def _record(self, delivery: Delivery) -> None:
        if delivery.kept is not None:
            self._journal.add(Change.PUT_DELIVERY, delivery.row(self._session))

    def _withdraw(self, delivery: Delivery) -> None:
        """It could not be stored, so its publisher is refused; what has been sent already cannot be taken back."""
        if not delivery.done and (not delivery.sent or delivery.qos == 2):
            self._finish(delivery)

    def _sweep(self) -> None:
        now = self._clock()
        if now - self._swept < _SWEEP:
            return
        self._swept = now
        for delivery in [d for d in self._queue if not d.packet_id and d.message.remaining(now) == 0]:
            self._finish(delivery)
        self._queue = deque(d for d in self._queue if not d.done)

    # --- out --------------------------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether another message can be sent at once."""
        return self.box.ready and self._outstanding < self.terms.window and not self._queue

    def pump(self) -> None:
        """Send what waits, as far as the window and the client allow."""
        given = 0
        while self._queue and self.box.ready and self._outstanding < self.terms.window:
            delivery = self._queue.popleft()
            if delivery.done:
                continue
            given += delivery.weight
            self._send(delivery)
            if given > _STRIDE:
                given = 0
                self.box.flush()

    def _send(self, delivery: Delivery, frames: Frames | None = None) -> None:
        again = delivery.packet_id != 0
        frames = frames or Frames(delivery.message, self._clock())
        # MQTT-3.3.2-5: only what has never been sent can expire here.
        if not again and delivery.message.remaining(frames.now) == 0:
            self._finish(delivery)
            return
        if not again:
            self._number(delivery)
        data = pubrel(delivery.packet_id) if delivery.released else self._frame(delivery, frames, dup=again)
        if self.terms.max_packet and len(data) > self.terms.max_packet:
            # MQTT-3.1.2-25: as if it had been sent.
            self.box.miss()
            self._finish(delivery)
            return
        delivery.sent = True
        self._outstanding += 1
        if not again:
            self._record(delivery)
        if delivery.qos == 2 and delivery.kept is not None and not again:
            # Were its identifier forgotten, the client would take it for another message.
            self.box.hold(data, None)
        else:
            self.box.put(data)

    def _number(self, delivery: Delivery) -> None:
        packet_id = self._last_id % _LAST_ID + 1
        while packet_id in self._by_id:
            packet_id = packet_id % _LAST_ID + 1
        self._last_id = delivery.packet_id = packet_id
        self._by_id[packet_id] = delivery

    def _frame(self, delivery: Delivery, frames: Frames, *, dup: bool) -> bytes:
        terms, packet_id = self.terms, delivery.packet_id
        if dup:
            return frames.special(
                terms.is_5,
                delivery.qos,
                delivery.retain,
                packet_id=packet_id,
                dup=True,
                identifiers=delivery.identifiers,
            )
        if delivery.identifiers or not terms.plain:
            return self._special(frames, delivery.qos, delivery.retain, packet_id, delivery.identifiers)
        return frames.numbered(terms.is_5, delivery.qos, delivery.retain, packet_id)

    def _special(self, frames: Frames, qos: int, retain: bool, packet_id: int, identifiers: tuple[int, ...]) -> bytes:
        alias, known = self._alias(frames.message.topic) if not (qos == 2 and self.durable) else (0, False)
        data = frames.special(
            self.terms.is_5,
            qos,
            retain,
            packet_id=packet_id,
            identifiers=identifiers,
            alias=alias,
            known=known,
        )
        if self.terms.max_packet and len(data) > self.terms.max_packet and alias and not known:
            # It will not be sent, so the client is not told.
            del self._aliases[frames.message.topic]
        return data

    def _alias(self, topic: str) -> tuple[int, bool]:
        """MQTT-3.3.2.3.4: the first topics get the aliases that there are. What is held back has none: others overtake
        it. 0: none; and whether the client knows it."""
        alias = self._aliases.get(topic)
        if alias is not None:
            return alias, True
        if len(self._aliases) >= self.terms.aliases:
            return 0, False
        self._aliases[topic] = alias = len(self._aliases) + 1
        return alias, False

    # --- answers ----------------------------------------------------------------------------------------------------

    def acknowledged(self, packet_id: int) -> None:
        """PUBACK. An identifier that is not known any more is nothing bad (MQTT-4.4)."""
        delivery = self._by_id.get(packet_id)
        if delivery is None:
            return
        if delivery.qos != 1:
            raise Malformed("PUBACK for a message of QoS 2", Reason.PROTOCOL_ERROR)
        self._finish(delivery)
        self.pump()

    def received(self, packet_id: int, code: int) -> None:
        """PUBREC."""
        delivery = self._by_id.get(packet_id)
        if delivery is None:
            # MQTT-3.6.2.1. Before 5.0 there is only one answer.
            self.box.queue(pubrel(packet_id, Reason.PACKET_IDENTIFIER_NOT_FOUND if self.terms.is_5 else 0))
            return
        if delivery.qos != 2:
            raise Malformed("PUBREC for a message of QoS 1", Reason.PROTOCOL_ERROR)
        if code >= Reason.UNSPECIFIED_ERROR:
            self._finish(delivery)
            self.pump()
            return
        self._released(delivery)

    def _released(self, delivery: Delivery) -> None:
        data = pubrel(delivery.packet_id)
        if delivery.released or delivery.kept is None:
            delivery.released = True
            self.box.queue(data)
        else:
            delivery.released = True
            self._record(delivery)
            self.box.hold(data, None)

    def completed(self, packet_id: int) -> None:
        """PUBCOMP."""
        delivery = self._by_id.get(packet_id)
        if delivery is None:
            return
        if not delivery.released:
            raise Malformed("PUBCOMP without PUBREC", Reason.PROTOCOL_ERROR)
        self._finish(delivery)
        self.pump()

    def _finish(self, delivery: Delivery) -> None:
        if delivery.packet_id:
            del self._by_id[delivery.packet_id]
        if delivery.sent:
            self._outstanding -= 1
        delivery.done = True
        self.count -= 1
        self._bytes -= delivery.weight
        self._budget.take(-delivery.weight)
        if delivery.kept is not None:
            self._journal.add(Change.DROP_DELIVERY, (delivery.sequence,))
            self._journal.release(delivery.kept)

    def drop(self, unwanted: Iterable[Delivery]) -> None:
        """These are not to be sent any more. Not while there is a connection."""
        for delivery in unwanted:
            self._finish(delivery)
        self._queue = deque(d for d in self._queue if not d.done)
