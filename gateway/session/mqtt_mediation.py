"""Between a client and a broker: which packets pass as they came, which are answered here, and which are changed.

Owns what has to be remembered for that. Refuses a PUBLISH in either direction, and a filter of a SUBSCRIBE, for which
the client has no right. What passes is never written anew, but for a SUBSCRIBE of which a part was refused,
and its SUBACK.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from weakref import proxy

from gateway.session.mqtt_frames import Frames, Single
from gateway.session.mqtt_link import TOPIC_ALIASES, Ending
from gateway.session.vocabulary import Command, Send, Side
from gateway.wire import mqtt
from gateway.wire.mqtt_packets import (
    Auth,
    ConnAck,
    Disconnect,
    Packet,
    PingReq,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Reason,
    Refusal,
    SubAck,
    Subscribe,
    Unsubscribe,
    Version,
)
from gateway.wire.mqtt_topics import shared

if TYPE_CHECKING:
    from gateway.session.mqtt_broker import BrokerLink

# Subscriptions that are known here, for a reload that takes rights away; the broker has bounds of its own.
_MAX_FILTERS: Final = 1_000
_MAX_FILTER_BYTES: Final = 262_144
# Answers to a SUBSCRIBE of which a part was refused that may be due at a time.
_MAX_DUE: Final = 100
# CONNECT is refused where it is read. Before 5.0 no server says goodbye (3.1.1: 3.14).
_NOT_OF_BROKERS: Final = (ConnAck, Auth, Subscribe, Unsubscribe, PingReq, Disconnect)


class Mediation:
    """dismissed: the code of the broker's DISCONNECT, which has been passed on."""

    def __init__(self, link: BrokerLink) -> None:
        # Which owns this: a cycle would wait for a collection.
        self._link: BrokerLink = proxy(link)
        self._up: list[tuple[int, int] | bytes] = []
        self._down: list[tuple[int, int] | bytes] = []
        # For SUBACK: the codes in it that are given already; None: the broker's.
        self._due: dict[int, list[int | None]] = {}
        # QoS 2 that was answered here in the other one's place, until its PUBREL (MQTT-4.3.3).
        self._dropped: set[int] = set()
        self._absorbed: set[int] = set()
        self._aliases: dict[int, str] = {}
        self._untold_up, self._untold_down = _Untold(), _Untold()
        # By the whole filter, what it means without `$share`.
        self._filters: dict[str, str] = {}
        self._filter_bytes = 0
        self.dismissed: int | None = None

    # --- pieces of a read -------------------------------------------------------------------------------------------

    def up(self, start: int, end: int) -> None:
        """These bytes of the client's pass."""
        _add(self._up, start, end)

    def down(self, start: int, end: int) -> None:
        """These bytes of the broker's pass."""
        _add(self._down, start, end)

    def flush(self, up: bytes, down: bytes) -> Sequence[Command]:
        """What passes of one read, in one write, and what was answered here. up, down: the last read of each side."""
        to_broker, self._up = _joined(self._up, up), []
        to_client, self._down = _joined(self._down, down), []
        return _sends(to_broker, to_client)

    def _tell_client(self, packet: Packet) -> None:
        self._down.append(mqtt.serialize(packet, self._link.version))

    def _tell_broker(self, packet: Packet) -> None:
        self._up.append(mqtt.serialize(packet, self._link.spoken))

    # --- from the client --------------------------------------------------------------------------------------------

    def from_client(self, packet: Packet, single: Single) -> None:
        """May raise Ending."""
        if isinstance(packet, Publish):
            self._publish(packet, single)
        elif isinstance(packet, Subscribe):
            self._subscribe(packet, single)
        elif isinstance(packet, Unsubscribe):
            self._unsubscribe(packet, single)
        elif isinstance(packet, PubRel) and packet.packet_id in self._dropped:
            self._dropped.discard(packet.packet_id)
            self._tell_client(PubComp(packet.packet_id))
        else:
            self._pass(packet, single)

    def _pass(self, packet: Packet, single: Single) -> None:
        """As it came; but 3.1 marks what it repeats, which in 3.1.1 only PUBLISH may (3.1.1: 2.2.2)."""
        if self._link.version is Version.V31:
            self._tell_broker(packet)
        else:
            self.up(single.start, single.end)

    def _publish(self, packet: Publish, single: Single) -> None:
        link = self._link
        topic, alias = link.topic_of(packet), packet.properties.topic_alias
        if not link.may_publish(topic):
            self._untold_up.note(packet)
            self._deny(packet)
        elif not packet.topic and alias in self._untold_up:
            self._tell_broker(self._untold_up.told(packet, topic))
        else:
            self._untold_up.told(packet, topic)
            link.frames.know(topic, True)
            self.up(single.start, single.end)

    def _deny(self, packet: Publish) -> None:
        """As with the hub: an answer of ours in the broker's place, or the end."""
        link = self._link
        is_5 = link.version is Version.V5
        if not link.access.drop_denied and not (is_5 and packet.qos):
            raise Ending(Reason.NOT_AUTHORIZED, "it may not publish to that topic")
        code = Reason.NOT_AUTHORIZED if is_5 else 0
        if packet.qos == 1:
            self._tell_client(PubAck(packet.packet_id, code))
        elif packet.qos == 2:
            self._tell_client(PubRec(packet.packet_id, code))
            if not is_5:
                self._dropped.add(packet.packet_id)

    def _subscribe(self, packet: Subscribe, single: Single) -> None:
        link = self._link
        refused: dict[int, int] = {}
        for at, one in enumerate(packet.subscriptions):
            if not link.may_subscribe(one.filter):
                refused[at] = Reason.NOT_AUTHORIZED if link.version is Version.V5 else Refusal.SUBSCRIPTION_FAILED
            elif one.filter not in self._filters:
                self._remember(one.filter)
        allowed = tuple(one for at, one in enumerate(packet.subscriptions) if at not in refused)
        if not refused:
            self._pass(packet, single)
        elif not allowed:
            self._tell_client(SubAck(packet.packet_id, tuple(refused.values())))
        elif len(self._due) < _MAX_DUE:
            self._due[packet.packet_id] = [refused.get(at) for at in range(len(packet.subscriptions))]
            self._tell_broker(replace(packet, subscriptions=allowed))
        else:
            raise Ending(Reason.QUOTA_EXCEEDED, "too many SUBSCRIBE that wait for their SUBACK")

    def _remember(self, topic_filter: str) -> None:
        """Raises Ending: what is not remembered could not be taken away by a reload."""
        self._filter_bytes += len(topic_filter.encode())
        if len(self._filters) >= _MAX_FILTERS or self._filter_bytes > _MAX_FILTER_BYTES:
            raise Ending(Reason.QUOTA_EXCEEDED, "more subscriptions than can be remembered")
        share = shared(topic_filter)
        self._filters[topic_filter] = share[1] if share else topic_filter

    def _unsubscribe(self, packet: Unsubscribe, single: Single) -> None:
        for topic_filter in packet.filters:
            if self._filters.pop(topic_filter, None) is not None:
                self._filter_bytes -= len(topic_filter.encode())
        self._pass(packet, single)

    def filters(self) -> Sequence[str]:
        return tuple(self._filters.values())

    # --- from the broker --------------------------------------------------------------------------------------------

    def from_broker(self, packet: Packet, single: Single, frames: Frames[bool]) -> None:
        """May raise Ending."""
        if isinstance(packet, Publish):
            self._published(packet, single, frames)
        elif isinstance(packet, SubAck) and packet.packet_id in self._due:
            self._acknowledged(packet)
        elif isinstance(packet, PubRel) and packet.packet_id in self._absorbed:
            self._absorbed.discard(packet.packet_id)
            self._tell_broker(PubComp(packet.packet_id))
        elif isinstance(packet, Disconnect) and self._link.version is Version.V5:
            self.dismissed = packet.code
            # Where else it could go behind us is not the client's business.
            self._tell_client(replace(packet, properties=replace(packet.properties, server_reference=None)))
        elif isinstance(packet, _NOT_OF_BROKERS):
            raise Ending(Reason.SERVER_UNAVAILABLE, f"{type(packet).__name__} from the broker")
        else:
            self.down(single.start, single.end)

    def _published(self, packet: Publish, single: Single, frames: Frames[bool]) -> None:
        """What a broker has kept may be of a time when the client had other rights."""
        topic, alias = self._topic_of(packet), packet.properties.topic_alias
        if self._link.entry.permission.subscribe(topic):
            if not packet.topic and alias in self._untold_down:
                self._tell_client(self._untold_down.told(packet, topic))
                return
            self._untold_down.told(packet, topic)
            frames.know(topic, True)
            self.down(single.start, single.end)
            return
        self._untold_down.note(packet)
        if packet.qos == 1:
            self._tell_broker(PubAck(packet.packet_id))
        elif packet.qos == 2:
            self._absorbed.add(packet.packet_id)
            self._tell_broker(PubRec(packet.packet_id))

    def _topic_of(self, packet: Publish) -> str:
        alias = packet.properties.topic_alias
        if alias is None:
            return packet.topic
        most = min(self._link.entry.connect.properties.topic_alias_maximum or 0, TOPIC_ALIASES)
        if not 0 < alias <= most or not (packet.topic or alias in self._aliases):
            raise Ending(Reason.SERVER_UNAVAILABLE, "the broker used a topic alias that it may not use")
        if packet.topic:
            self._aliases[alias] = packet.topic
        return self._aliases[alias]

    def _acknowledged(self, packet: SubAck) -> None:
        """The broker's codes, with those that were given here at their places. Raises Ending."""
        due, theirs = self._due.pop(packet.packet_id), iter(packet.codes)
        if due.count(None) != len(packet.codes):
            raise Ending(Reason.SERVER_UNAVAILABLE, "the broker's SUBACK has not one code for each subscription")
        codes = tuple(next(theirs) if code is None else code for code in due)
        self._tell_client(replace(packet, codes=codes))


class _Untold(set[int]):
    """Topic aliases that the receiver has never heard of, because the packet that set them did not pass."""

    def note(self, packet: Publish) -> None:
        """It does not pass."""
        if packet.topic and packet.properties.topic_alias is not None:
            self.add(packet.properties.topic_alias)

    def told(self, packet: Publish, topic: str) -> Publish:
        """It passes: with its topic, if the alias alone would say nothing."""
        if packet.properties.topic_alias is not None:
            self.discard(packet.properties.topic_alias)
        return packet if packet.topic else replace(packet, topic=topic)


def _add(pieces: list[tuple[int, int] | bytes], start: int, end: int) -> None:
    """Neighbours become one piece, so that a read of which all may pass is one."""
    last = pieces[-1] if pieces else None
    if isinstance(last, tuple) and last[1] == start:
        pieces[-1] = (last[0], end)
    else:
        pieces.append((start, end))


def _joined(pieces: list[tuple[int, int] | bytes], data: bytes) -> bytes:
    if not pieces:
        return b""
    return b"".join([data[one[0] : one[1]] if isinstance(one, tuple) else one for one in pieces])


def _sends(up: bytes, down: bytes) -> Sequence[Command]:
    if not down:
        return (Send(Side.UPSTREAM, up),) if up else ()
    to_client = Send(Side.CLIENT, down)
    return (Send(Side.UPSTREAM, up), to_client) if up else (to_client,)
