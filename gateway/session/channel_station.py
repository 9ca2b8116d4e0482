"""Where an open WebSocket's messages go, and where those for it come from: the hub, or a broker.

Owns the two ways. Refuses, by ending the WebSocket, whatever a broker may not send.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import cycle
from typing import Final, Protocol

from gateway.hub.hub import Hub, Listening
from gateway.hub.message import Message
from gateway.hub.message import published as to_message
from gateway.session.channel_broker import Approach, packet_for
from gateway.session.http_answers import Refusal
from gateway.session.mqtt_frames import Frames, Run
from gateway.session.vocabulary import Command, Data, Event, HangUp, Hold, Lost, Mail, Proceed, Questions, Send, Side
from gateway.wire import mqtt
from gateway.wire.mqtt_packets import (
    Disconnect,
    Malformed,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    Publish,
    Reason,
    SubAck,
    Subscribe,
    Subscription,
)
from gateway.wire.websocket_frames import TOO_BIG, binary_frame, is_text, text_frame

# Codes of a Close (RFC 6455, 7.4.1; 1013 is IANA's: "try again later").
GOING_AWAY: Final = 1001
POLICY: Final = 1008
TRY_LATER: Final = 1013

# How often a broker hears something of us at least, in seconds; it may want it more often (MQTT-3.2.2.3.14).
KEEP_ALIVE: Final = 60
# Messages on their way to a broker that it has not acknowledged; it may want fewer (MQTT-3.3.4).
_MAX_IN_FLIGHT: Final = 100
_SUBSCRIBE_ID: Final = 1
# What a broker may send between a SUBSCRIBE and its SUBACK (MQTT-3.8.4), in bytes.
_MAX_KEPT: Final = 262_144


class Parting(Exception):
    """The WebSocket ends with that code. The text is for the audit, and a constant where the client gets it, too."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def below(topic: str) -> str:
    """The filter of a WebSocket: the topic of its URL, and every subtopic of that (MQTT-4.7.1.2)."""
    return f"{topic}/#"


def to_frame(message: Message) -> bytes:
    """A text frame for what is said, truly, to be text (MQTT-3.3.2.3.2); any other payload is none of our business."""
    payload = message.payload
    if message.properties.payload_format and is_text(payload):
        return text_frame(payload)
    return binary_frame(payload)


# Bytes of frames that are sent in one write, if there is more than one.
_TOGETHER: Final = 65_536


@lru_cache(maxsize=1)
def _frame_of(message: Message) -> bytes:
    """The same for all who listen, one after the other."""
    return to_frame(message)


class Station(Protocol):
    """interval: seconds after which `tick` is due at the latest. held: the client is not read."""

    interval: float
    held: bool

    def begin(self, topic: str, *, listens: bool) -> Sequence[Command]:
        """The WebSocket is open, and hears from now on what is said at that topic and below it, if it `listens`."""

    def publish(self, message: Message) -> Sequence[Command]:
        """Raises Parting."""

    def flush(self) -> None:
        """All of one read has been published."""

    def handle(self, event: Event) -> Sequence[Command]:
        """Of the upstream. Raises Parting."""

    def tick(self, *, deaf: bool) -> Sequence[Command]:
        """Now and then. deaf: nothing is read of the upstream, because the client takes nothing. Raises Parting."""

    def stop(self) -> Sequence[Command]:
        """Nothing more goes either way."""


class HubStation:
    """The hub of this process. Implements `gateway.hub.ports.Listener`, too."""

    held = False

    def __init__(self, hub: Hub, questions: Questions, interval: float) -> None:
        self._hub, self._questions, self.interval = hub, questions, interval
        self._listening: Listening | None = None
        self._frames: list[bytes] = []

    def begin(self, topic: str, *, listens: bool) -> Sequence[Command]:
        if listens:
            self._listening = self._hub.listen(below(topic), self, retained=True)
        return ()

    def arrived(self, message: Message) -> None:
        """All of one turn goes out together: a read of somebody's can hold thousands."""
        if not self._frames:
            self._hub.later(0, self._tell)
        self._frames.append(_frame_of(message))

    def _tell(self) -> None:
        """In pieces, of which some may still wait where all of it would be too much."""
        frames, self._frames = self._frames, []
        together: list[bytes] = []
        size = 0
        for frame in (*frames, b""):
            if together and (not frame or size + len(frame) > _TOGETHER):
                if self._listening is not None:
                    self._questions.tell(Mail(b"".join(together)))
                together, size = [], 0
            together.append(frame)
            size += len(frame)

    def publish(self, message: Message) -> Sequence[Command]:
        self._hub.publish(message)
        return ()

    def flush(self) -> None:
        self._hub.flush()

    def handle(self, event: Event) -> Sequence[Command]:
        raise Parting(TRY_LATER, f"{type(event).__name__}, though nothing was dialed")

    def tick(self, *, deaf: bool) -> Sequence[Command]:  # noqa: ARG002 - there is no upstream
        return ()

    def stop(self) -> Sequence[Command]:
        if self._listening is not None:
            self._listening.stop()
            self._listening = None
        return ()


class BrokerStation:
    """A connection of its own to a broker that has let us in. Before `begin` it is subscribed, if it is to listen;
    `subscribed`: that is done, and what came meanwhile is kept.

    Messages to it have QoS 1: a WebSocket has no acknowledgements, but whoever subscribes with QoS 1 is to get them as
    it gets others. Beyond what may be in flight they wait here, and the client is not read.
    """

    def __init__(self, approach: Approach, max_packet: int, interval: float, clock: Callable[[], float]) -> None:
        self._approach, self._clock, self._version = approach, clock, approach.version
        terms = approach.welcome
        self.interval = min(interval, (terms.server_keep_alive or KEEP_ALIVE) * 0.75)
        self._qos = 0 if terms.maximum_qos == 0 else 1
        self._most = min(terms.receive_maximum or _MAX_IN_FLIGHT, _MAX_IN_FLIGHT)
        self._ids: Iterator[int] = cycle(range(_SUBSCRIBE_ID + 1, 0x10000))
        self._in_flight: set[int] = set()
        self._waiting: deque[Message] = deque()
        self._frames: Frames[bool] = Frames(self._version, max_packet, frozenset())
        self.held = self.subscribed = self._gone = False
        self._heard = True
        self._kept: list[bytes] | None = []

    def subscribe(self, topic: str, *, listens: bool) -> Sequence[Command]:
        """Raises Parting."""
        commands = self.handle(Data(Side.UPSTREAM, self._approach.rest)) if self._approach.rest else ()
        if not listens:
            self.subscribed = True
            return commands
        subscribe = Subscribe(_SUBSCRIBE_ID, (Subscription(below(topic)),))
        return Send(Side.UPSTREAM, mqtt.serialize(subscribe, self._version)), *commands

    def begin(self, topic: str, *, listens: bool) -> Sequence[Command]:  # noqa: ARG002 - `subscribe` has said it
        kept, self._kept = self._kept, None
        return (Send(Side.CLIENT, b"".join(kept)),) if kept else ()

    # --- to the broker ----------------------------------------------------------------------------------------------

    def publish(self, message: Message) -> Sequence[Command]:
        self._waiting.append(message)
        return self._push()

    def _push(self) -> Sequence[Command]:
        packets = []
        while self._waiting and len(self._in_flight) < self._most:
            packets.append(self._packet(self._waiting.popleft()))
        commands: list[Command] = [Send(Side.UPSTREAM, b"".join(packets))] if packets else []
        if self.held is not bool(self._waiting):
            self.held = not self.held
            commands.append(Hold() if self.held else Proceed())
        return commands

    def _packet(self, message: Message) -> bytes:
        packet_id = 0
        if self._qos:
            # So many are never in flight that one of them comes again.
            packet_id = next(self._ids)
            self._in_flight.add(packet_id)
        try:
            return packet_for(message, self._qos, packet_id, self._approach)
        except Refusal as refusal:
            raise Parting(TOO_BIG, str(refusal)) from None

    def flush(self) -> None:
        """Everything has gone out already."""

    # --- from the broker --------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> Sequence[Command]:
        if isinstance(event, Lost):
            self._gone = True
            raise Parting(TRY_LATER, f"the broker: {event.reason}")
        if not isinstance(event, Data):
            raise Parting(TRY_LATER, f"{type(event).__name__} of a broker that has let us in")
        self._heard = True
        frames: list[bytes] = []
        try:
            for item in self._frames.read(event.data):
                assert not isinstance(item, Run)  # nothing is quick here
                self._packet_heard(item.packet, frames)
        except Malformed as malformed:
            raise Parting(TRY_LATER, f"the broker: {malformed}") from None
        return *self._passed_on(frames), *self._push()

    def _passed_on(self, frames: list[bytes]) -> Sequence[Command]:
        """Back-pressure is the driver's: while the client takes nothing, the broker is not read."""
        if self._kept is None:
            return (Send(Side.CLIENT, b"".join(frames)),) if frames else ()
        self._kept += frames
        if sum(map(len, self._kept)) > _MAX_KEPT:
            raise Parting(TRY_LATER, "the broker says too much before it acknowledges the subscription")
        return ()

    def _packet_heard(self, packet: Packet, frames: list[bytes]) -> None:
        if isinstance(packet, Publish) and not packet.qos and packet.topic:
            frames.append(to_frame(to_message(packet, self._clock())))
        elif isinstance(packet, PubAck) and packet.packet_id in self._in_flight:
            self._in_flight.discard(packet.packet_id)
            self._check(packet.code, "a message")
        elif isinstance(packet, SubAck) and packet.packet_id == _SUBSCRIBE_ID:
            self._check(packet.codes[0], "the subscription")
            self.subscribed = True
        elif isinstance(packet, Disconnect):
            raise Parting(TRY_LATER, f"the broker has ended it with code {packet.code}")
        elif not isinstance(packet, PingResp):
            raise Parting(TRY_LATER, f"{type(packet).__name__} from the broker, where none is due")

    def _check(self, code: int, what: str) -> None:
        if code >= Reason.UNSPECIFIED_ERROR:
            denied = code in (Reason.NOT_AUTHORIZED, Reason.UNSPECIFIED_ERROR)
            raise Parting(POLICY if denied else TRY_LATER, f"the broker refused {what} with code {code}")

    def tick(self, *, deaf: bool) -> Sequence[Command]:
        if not self._heard and not deaf:
            raise Parting(TRY_LATER, "the broker does not answer")
        self._heard = False
        return (Send(Side.UPSTREAM, mqtt.serialize(PingReq(), self._version)),)

    def stop(self) -> Sequence[Command]:
        """In order, so that what was sent arrives."""
        if self._gone:
            return ()
        return Send(Side.UPSTREAM, mqtt.serialize(Disconnect(), self._version)), HangUp(orderly=True)
