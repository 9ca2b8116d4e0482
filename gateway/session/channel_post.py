"""A message that is POSTed to a channel: its body, whole; its way to the hub or the broker; and the answer.

Owns the order of these, and the one audit record. Refuses a body that is larger than a packet of MQTT may be before it
is read, and says 202 only once the message has been taken over by whoever keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.hub.hub import Hub
from gateway.hub.message import Message
from gateway.session.channel_request import ChannelRequest
from gateway.session.http_answers import CONTINUE, SHUTDOWN, Refusal, accepted, answer, unavailable
from gateway.session.http_body import NO_BODY, Body
from gateway.session.http_exchange import MIN_PROGRESS, State, Terms
from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Event,
    Hold,
    Lost,
    Passage,
    Questions,
    RequestRecord,
    Send,
    SetDeadline,
    Settled,
    Side,
    TimedOut,
    deadline,
)
from gateway.wire.http1 import Refused
from gateway.wire.mqtt_packets import Reason

_TOO_LARGE = "the message is larger than it may be"
_SLOW = "the message was not accepted in time"


class Delivery(Protocol):
    """The way of one message to whoever keeps it. done: it has arrived."""

    done: bool

    @property
    def upstream(self) -> str | None:
        """Where that is, if it is not in this process."""

    def begin(self, message: Message) -> Sequence[Command]:
        """Raises Refusal."""

    def handle(self, event: Event) -> Sequence[Command]:
        """Of whatever is not the client's. Raises Refusal: it does not arrive."""


class HubDelivery:
    """To the hub of this process. seconds: that it may take."""

    upstream = None

    def __init__(self, hub: Hub, questions: Questions, seconds: float) -> None:
        self._hub, self._questions, self._seconds = hub, questions, seconds
        self.done = False

    def begin(self, message: Message) -> Sequence[Command]:
        self._hub.publish(message, self._settled)
        self._hub.flush()
        return (deadline(self._seconds),)

    def _settled(self, reason: Reason) -> None:
        # Not while the hub is at it.
        self._questions.tell(Settled(reason))

    def handle(self, event: Event) -> Sequence[Command]:
        if isinstance(event, Settled):
            refuse(event.code)
            self.done = True
            return ()
        if isinstance(event, TimedOut):
            raise Refusal(504, _SLOW)
        raise unavailable(f"{type(event).__name__} where the hub's answer was due")


def refuse(code: int) -> None:
    """Raises Refusal for what is no success (MQTT-3.4.2.1)."""
    if code < Reason.UNSPECIFIED_ERROR:
        return
    if code == Reason.NOT_AUTHORIZED:
        raise Refusal(403, "the broker does not allow that", "the broker refused the message: not authorized")
    if code == Reason.PACKET_TOO_LARGE:
        raise Refusal(413, _TOO_LARGE, "the broker refused the message: too large")
    raise unavailable(f"the message was refused with code {code}")


class Post:
    """Each method answers commands; the attributes are those of an `Exchange`."""

    _body = NO_BODY
    _progress = 0
    held = keep = final = False
    ahead = b""

    def __init__(
        self, request: ChannelRequest, passage: Passage, terms: Terms, delivery: Delivery, *, last: bool
    ) -> None:
        self._request, self._terms, self._delivery, self.last = request, terms, delivery, last
        self._record = RequestRecord(request.asked, passage, decision="allowed")
        self._began = terms.clock()
        self._payload = bytearray()
        self.state = State.WAITING

    def begin(self, data: bytes) -> Sequence[Command]:
        """With what the client sent behind the head. Raises Refusal, `http1.Refused`."""
        head = self._request.head
        if head.length > self._request.place.room:
            raise Refusal(413, _TOO_LARGE)
        if head.length == len(data):
            return self._publish(data)
        self._body = Body(head.length, chunked=False)
        if data or self._body.done:
            commands = self._take(data)
        else:
            # Whoever has begun already does not wait for it (RFC 9110, 10.1.1).
            commands = (Send(Side.CLIENT, CONTINUE),) if head.expect else ()
        return commands if self._body.done else (*commands, deadline(self._terms.body_timeout))

    def handle(self, event: Event) -> Sequence[Command]:
        try:
            if isinstance(event, Data) and event.side is Side.CLIENT:
                return self._more(event.data)
            if isinstance(event, Lost) and event.side is Side.CLIENT:
                return *self.abandon(f"the client's connection: {event.reason}"), Close(event.reason)
            if isinstance(event, TimedOut):
                self._check_time()
            commands = self._delivery.handle(event)
            return self._settled(commands) if self._delivery.done else self._patient(commands)
        except Refusal as refusal:
            return self.refuse(refusal)
        except Refused as refused:
            return self.refuse(Refusal(refused.status, str(refused)))

    def _check_time(self) -> None:
        if self.final:
            raise Refusal(503, SHUTDOWN)
        if not self._body.done:
            raise Refusal(408, "the body did not come in time")

    # --- the body ---------------------------------------------------------------------------------------------------

    def _more(self, data: bytes) -> Sequence[Command]:
        if self._body.done:
            self.ahead += data
            return self._hold()
        commands = self._take(data)
        return (*commands, *self._hold()) if self.ahead else commands

    def _take(self, data: bytes) -> Sequence[Command]:
        """Raises Refusal, `http1.Refused`."""
        body = self._body
        content, used = body.feed(data)
        self._payload += content
        if len(self._payload) > self._request.place.room:
            raise Refusal(413, _TOO_LARGE)
        if body.done:
            self.ahead = data[used:]
            # It has taken its time: whoever sends it may have lost its rights meanwhile.
            self._request.rights(self._request.thing())
            return self._publish(bytes(self._payload))
        if body.moved - self._progress >= MIN_PROGRESS:
            self._progress = body.moved
            return self._patient((deadline(self._terms.body_timeout),))
        return ()

    def _hold(self) -> Sequence[Command]:
        if self.held:
            return ()
        self.held = True
        return (Hold(),)

    # --- the message ------------------------------------------------------------------------------------------------

    def _publish(self, payload: bytes) -> Sequence[Command]:
        self._record.from_client = len(payload)
        place = self._request.place
        message = Message(place.topic, payload, 1, False, place.properties(payload))
        return self._patient(self._delivery.begin(message))

    def _patient(self, commands: Sequence[Command]) -> Sequence[Command]:
        """Once the gateway is shutting down, the deadline set for that stays."""
        if not self.final:
            return commands
        return [command for command in commands if not isinstance(command, SetDeadline)]

    def _settled(self, commands: Sequence[Command]) -> Sequence[Command]:
        self.state = State.OVER
        head = self._request.head
        self.keep = head.keep_alive and not self.last
        self._record.status = 202
        self._close_record()
        return *commands, Send(Side.CLIENT, accepted(keep=self.keep, http11=head.http11)), self._record

    # --- the end ----------------------------------------------------------------------------------------------------

    def _close_record(self) -> None:
        self._record.upstream = self._delivery.upstream
        self._record.seconds = self._terms.clock() - self._began

    def abandon(self, reason: str) -> list[Command]:
        """The connection ends, whatever the reason: the record is still due."""
        if self.state is State.OVER:
            return []
        self.state = State.OVER
        self._record.reason = reason
        self._close_record()
        return [self._record]

    def refuse(self, refusal: Refusal) -> Sequence[Command]:
        """Whatever it is at."""
        self._record.status = refusal.status
        reason = str(refusal)
        return *self.abandon(reason), Close(reason, answer(refusal, self._request.head.method))
