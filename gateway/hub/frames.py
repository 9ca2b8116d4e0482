"""The bytes of a PUBLISH for its subscribers, and of the short answers; QoS 0 as it was sent, turned between families.

Owns how often a message is written: once for all subscribers that are told the same of it. `wire.mqtt` knows the
grammar.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from struct import Struct
from typing import Final

from gateway.hub.journal import Kept
from gateway.hub.message import Message
from gateway.wire.mqtt import around_id, frame
from gateway.wire.mqtt_fields import write_variable
from gateway.wire.mqtt_packets import NOTHING, Properties, Publish, Version

_short: Final = Struct("!H").pack
_short_at: Final = Struct("!H").unpack_from
_ack: Final = Struct("!BBH").pack
_ack_5: Final = Struct("!BBHB").pack

_PUBLISH: Final = 0x30
_FIRST: Final = bytes((_PUBLISH,))
_PUBACK: Final = 0x40
_PUBREC: Final = 0x50
_PUBREL: Final = 0x62
_PUBCOMP: Final = 0x70


def puback(packet_id: int, code: int = 0) -> bytes:
    """MQTT-3.4. code: of 5.0 only, here and below; without one, 5.0 and the versions before it are alike."""
    return _ack_5(_PUBACK, 3, packet_id, code) if code else _ack(_PUBACK, 2, packet_id)


def pubrec(packet_id: int, code: int = 0) -> bytes:
    """MQTT-3.5."""
    return _ack_5(_PUBREC, 3, packet_id, code) if code else _ack(_PUBREC, 2, packet_id)


def pubrel(packet_id: int, code: int = 0) -> bytes:
    """MQTT-3.6."""
    return _ack_5(_PUBREL, 3, packet_id, code) if code else _ack(_PUBREL, 2, packet_id)


def pubcomp(packet_id: int, code: int = 0) -> bytes:
    """MQTT-3.7."""
    return _ack_5(_PUBCOMP, 3, packet_id, code) if code else _ack(_PUBCOMP, 2, packet_id)


class Frames:
    """One message, written at most once for each family, QoS and retain flag.

    now: seconds since the epoch, of which the remaining expiry is told (MQTT-3.3.2-6). kept: it is stored.
    """

    __slots__ = ("_parts", "kept", "message", "now")

    def __init__(self, message: Message, now: float, kept: Kept | None = None) -> None:
        self.message, self.now, self.kept = message, now, kept
        self._parts: dict[tuple[bool, int, bool], tuple[bytes, bytes]] = {}

    def plain(self, is_5: bool, retain: bool) -> bytes:
        """With QoS 0."""
        key = (is_5, 0, retain)
        found = self._parts.get(key)
        if found is None:
            found = self._parts[key] = (b"".join(self._write(is_5, 0, retain)), b"")
        return found[0]

    def numbered(self, is_5: bool, qos: int, retain: bool, packet_id: int) -> bytes:
        """With QoS 1 or 2."""
        key = (is_5, qos, retain)
        parts = self._parts.get(key)
        if parts is None:
            parts = self._parts[key] = self._write(is_5, qos, retain)
        return parts[0] + _short(packet_id) + parts[1]

    def _write(self, is_5: bool, qos: int, retain: bool) -> tuple[bytes, bytes]:
        message = self.message
        if message.properties is NOTHING and (message.expires is None or not is_5):
            return _plain(message, is_5, qos, retain)
        properties = self._properties() if is_5 else NOTHING
        return around_id(
            Publish(message.topic, message.payload, qos, retain, properties=properties),
            Version.V5 if is_5 else Version.V311,
        )

    def _properties(self) -> Properties:
        properties, remaining = self.message.properties, self.message.remaining(self.now)
        return properties if remaining is None else replace(properties, message_expiry=remaining)

    def special(
        self,
        is_5: bool,
        qos: int,
        retain: bool,
        *,
        packet_id: int = 0,
        dup: bool = False,
        identifiers: tuple[int, ...] = (),
        alias: int = 0,
        known: bool = False,
    ) -> bytes:
        """For one subscriber. alias: of the topic, 0: none; known: the client has been told it, and needs no topic."""
        message = self.message
        properties = message.properties
        if is_5:
            properties = replace(self._properties(), subscription_identifiers=identifiers, topic_alias=alias or None)
        before, after = around_id(
            Publish("" if known else message.topic, message.payload, qos, retain, dup, properties=properties),
            Version.V5 if is_5 else Version.V311,
        )
        return before + (_short(packet_id) if qos else b"") + after


def _plain(message: Message, is_5: bool, qos: int, retain: bool) -> tuple[bytes, bytes]:
    """MQTT-3.3, of a message that says nothing beside its payload, as most do: the same as `around_id` writes, in a
    third of the time."""
    name, payload = message.topic.encode(), message.payload
    size = 2 + len(name) + len(payload) + (2 if qos else 0) + is_5
    before = bytes((_PUBLISH | qos << 1 | retain,)) + write_variable(size) + _short(len(name)) + name
    return before, b"\0" + payload if is_5 else payload


def turned(frames: bytes, from_5: bool) -> bytes:
    """These packets as the other family has them. What they are, `payloads` says."""
    found: list[bytes] = []
    at, size = 0, len(frames)
    while at < size:
        edges = frame(frames, at, size)
        assert edges is not None  # they are whole: a session has parsed them
        body, at = edges
        middle = body + 2 + _short_at(frames, body)[0]
        # The length of the properties, which is 0, comes or goes.
        if from_5:
            found += (_FIRST, write_variable(at - body - 1), frames[body:middle], frames[middle + 1 : at])
        else:
            found += (_FIRST, write_variable(at - body + 1), frames[body:middle], b"\0", frames[middle:at])
    return b"".join(found)


def payloads(frames: bytes, from_5: bool) -> Iterator[bytes]:
    """What is in each of these whole packets: PUBLISH, QoS 0, and without properties (MQTT-3.3)."""
    at, size = 0, len(frames)
    while at < size:
        found = frame(frames, at, size)
        assert found is not None  # they are whole: a session has parsed them
        body, at = found
        yield frames[body + 2 + _short_at(frames, body)[0] + from_5 : at]
