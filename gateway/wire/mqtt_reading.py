"""MQTT's control packets but CONNECT and PUBLISH (MQTT-3), from bytes.

Owns one strict reading of each, by the packet's first byte, and the reason codes that it may have. Refuses every other
first byte: that is, unknown types and reserved flags.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeVar

from gateway.wire import mqtt_properties
from gateway.wire.mqtt_fields import Reader
from gateway.wire.mqtt_packets import (
    NOTHING,
    Auth,
    ConnAck,
    Disconnect,
    Malformed,
    Packet,
    PacketType,
    PingReq,
    PingResp,
    Properties,
    PubAck,
    PubComp,
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
from gateway.wire.mqtt_topics import is_filter, shared

# Filters in one SUBSCRIBE or UNSUBSCRIBE; the standard sets no bound. One takes a microsecond or two to read and some
# hundred bytes to keep, and may be as short as three: a packet full of them would hold everybody else up.
MAX_FILTERS: Final = 1_024

# MQTT-2.4, and where each packet is described.
_CONNACK_CODES: Final = frozenset((0x00, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, 0x99, *range(0x9A, 0x9E), 0x9F))
_PUBACK_CODES: Final = frozenset((0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99))
_PUBREL_CODES: Final = frozenset((0x00, 0x92))
_SUBACK_CODES: Final = frozenset((0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2))
_UNSUBACK_CODES: Final = frozenset((0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91))
_DISCONNECT_CODES: Final = frozenset(
    (0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, *range(0x93, 0xA3))
)
_AUTH_CODES: Final = frozenset((0x00, 0x18, 0x19))
# 3.1.1: 3.2.2.3 and 3.9.3.
_OLD_CONNACK_CODES: Final = frozenset(range(Refusal.NOT_AUTHORIZED + 1))
_OLD_SUBACK_CODES: Final = frozenset((0, 1, 2, Refusal.SUBSCRIPTION_FAILED))

_RESERVED_OPTIONS: Final = 0xC0
_NO_LOCAL: Final = 0x04
_RETAIN_AS_PUBLISHED: Final = 0x08

_T = TypeVar("_T")
_Ack = type[PubAck] | type[PubRec] | type[PubRel] | type[PubComp]
_Read = Callable[[Reader, Version], Packet]


def read(first: int, reader: Reader, version: Version) -> Packet:
    """The packet with that first byte; `reader` has all that follows its fixed header. Raises Malformed."""
    how = _READERS[version].get(first)
    if how is None:
        raise Malformed(*_why_not(first))
    packet = how(reader, version)
    reader.finish()
    return packet


def _why_not(first: int) -> tuple[str, Reason]:
    if first >> 4 == PacketType.CONNECT:
        # MQTT-3.1.0-2.
        return "a second CONNECT", Reason.PROTOCOL_ERROR
    # MQTT-2.1.3-1.
    return "a type of packet, or flags in it, that there are not", Reason.MALFORMED_PACKET


def _read_code(reader: Reader, codes: frozenset[int]) -> int:
    code = reader.byte()
    if code not in codes:
        raise Malformed("a reason code that the packet cannot have")
    return code


def _read_reason(reader: Reader, kind: PacketType, codes: frozenset[int]) -> tuple[int, Properties]:
    """A reason code and properties, of which the latter, or both, may be left out (MQTT-3.4.2.1, 3.14.2.1)."""
    code = _read_code(reader, codes) if reader.more else 0
    return code, mqtt_properties.read(reader, mqtt_properties.OF[kind]) if reader.more else NOTHING


def _read_ack(ack: _Ack, kind: PacketType, codes: frozenset[int], reader: Reader, version: Version) -> Packet:
    """MQTT-3.4 to 3.7. Before 5.0 there is nothing but the identifier."""
    packet_id = reader.packet_id()
    return ack(packet_id, *_read_reason(reader, kind, codes)) if version is Version.V5 else ack(packet_id)


def _read_connack(reader: Reader, version: Version) -> ConnAck:
    """MQTT-3.2."""
    flags = reader.byte()
    # MQTT-3.2.2-1.
    if flags > 1:
        raise Malformed("a reserved flag of CONNACK is set")
    code = _read_code(reader, _CONNACK_CODES if version is Version.V5 else _OLD_CONNACK_CODES)
    # MQTT-3.2.2-6.
    if code and flags:
        raise Malformed("CONNACK refuses, and has a session", Reason.PROTOCOL_ERROR)
    return ConnAck(bool(flags), code, _read_properties(reader, PacketType.CONNACK, version))


def _read_properties(reader: Reader, kind: PacketType, version: Version) -> Properties:
    return mqtt_properties.read(reader, mqtt_properties.OF[kind]) if version is Version.V5 else NOTHING


def _read_subscribe(reader: Reader, version: Version) -> Subscribe:
    """MQTT-3.8."""
    packet_id = reader.packet_id()
    properties = _read_properties(reader, PacketType.SUBSCRIBE, version)
    # MQTT-3.8.2.1.2.
    if len(properties.subscription_identifiers) > 1:
        raise Malformed("a property is there twice", Reason.PROTOCOL_ERROR)
    return Subscribe(packet_id, _read_list(reader, version, _read_subscription), properties)


def _read_unsubscribe(reader: Reader, version: Version) -> Unsubscribe:
    """MQTT-3.10."""
    packet_id = reader.packet_id()
    properties = _read_properties(reader, PacketType.UNSUBSCRIBE, version)
    return Unsubscribe(packet_id, _read_list(reader, version, _read_filter), properties)


def _read_list(reader: Reader, version: Version, read_one: Callable[[Reader, Version], _T]) -> tuple[_T, ...]:
    # MQTT-3.8.3-2 and 3.10.3-2.
    if not reader.more:
        raise Malformed("no topic filter", Reason.PROTOCOL_ERROR)
    found: list[_T] = []
    while reader.more:
        if len(found) == MAX_FILTERS:
            raise Malformed("too many topic filters", Reason.IMPLEMENTATION_SPECIFIC_ERROR)
        found.append(read_one(reader, version))
    return tuple(found)


def _read_filter(reader: Reader, _: Version) -> str:
    topic_filter = reader.text()
    if not is_filter(topic_filter):
        raise Malformed("not a topic filter", Reason.TOPIC_FILTER_INVALID)
    return topic_filter


def _read_subscription(reader: Reader, version: Version) -> Subscription:
    """MQTT-3.8.3.1; before 5.0 the options are the QoS alone (3.1.1: 3.8.3-4)."""
    topic_filter, options = _read_filter(reader, version), reader.byte()
    if options & _RESERVED_OPTIONS or (version < Version.V5 and options > 2):
        raise Malformed("a reserved subscription option is set")
    qos, retain_handling, no_local = options & 3, options >> 4, bool(options & _NO_LOCAL)
    if qos == 3 or retain_handling == 3:
        raise Malformed("a subscription option that there is not", Reason.PROTOCOL_ERROR)
    # MQTT-3.8.3-4.
    if no_local and shared(topic_filter):
        raise Malformed("no local in a shared subscription", Reason.PROTOCOL_ERROR)
    return Subscription(topic_filter, qos, no_local, bool(options & _RETAIN_AS_PUBLISHED), retain_handling)


def _read_suback(reader: Reader, version: Version) -> SubAck:
    """MQTT-3.9."""
    packet_id = reader.packet_id()
    properties = _read_properties(reader, PacketType.SUBACK, version)
    return SubAck(
        packet_id, _read_codes(reader, _SUBACK_CODES if version is Version.V5 else _OLD_SUBACK_CODES), properties
    )


def _read_unsuback(reader: Reader, version: Version) -> UnsubAck:
    """MQTT-3.11."""
    packet_id = reader.packet_id()
    if version < Version.V5:
        return UnsubAck(packet_id)
    properties = _read_properties(reader, PacketType.UNSUBACK, version)
    return UnsubAck(packet_id, _read_codes(reader, _UNSUBACK_CODES), properties)


def _read_codes(reader: Reader, codes: frozenset[int]) -> tuple[int, ...]:
    found = tuple(reader.rest())
    if not found:
        raise Malformed("no reason code", Reason.PROTOCOL_ERROR)
    if not codes.issuperset(found):
        raise Malformed("a reason code that the packet cannot have")
    return found


def _read_disconnect(reader: Reader, version: Version) -> Disconnect:
    """MQTT-3.14."""
    if version < Version.V5:
        return Disconnect()
    return Disconnect(*_read_reason(reader, PacketType.DISCONNECT, _DISCONNECT_CODES))


def _read_auth(reader: Reader, _: Version) -> Auth:
    """MQTT-3.15. Only the empty one, which says that all is well, may be without a method (3.15.2.1, 3.15.2.2.2)."""
    if not reader.more:
        return Auth()
    code = _read_code(reader, _AUTH_CODES)
    properties = mqtt_properties.read(reader, mqtt_properties.OF[PacketType.AUTH])
    if properties.authentication_method is None:
        raise Malformed("AUTH without a method", Reason.PROTOCOL_ERROR)
    return Auth(code, properties)


# By the whole first byte, so that what is not here is refused with its flags (MQTT-2.1.3).
_ALWAYS: Final[Mapping[int, _Read]] = {
    0x20: _read_connack,
    0x40: partial(_read_ack, PubAck, PacketType.PUBACK, _PUBACK_CODES),
    0x50: partial(_read_ack, PubRec, PacketType.PUBREC, _PUBACK_CODES),
    0x62: partial(_read_ack, PubRel, PacketType.PUBREL, _PUBREL_CODES),
    0x70: partial(_read_ack, PubComp, PacketType.PUBCOMP, _PUBREL_CODES),
    0x82: _read_subscribe,
    0x90: _read_suback,
    0xA2: _read_unsubscribe,
    0xB0: _read_unsuback,
    0xC0: lambda _, __: PingReq(),
    0xD0: lambda _, __: PingResp(),
    0xE0: _read_disconnect,
}
# In 3.1 these too can be marked as duplicates (3.1: 2.1, "DUP").
_DUPLICATES: Final[Mapping[int, _Read]] = {first | 0x08: _ALWAYS[first] for first in (0x62, 0x82, 0xA2)}
_READERS: Final[Mapping[Version, Mapping[int, _Read]]] = {
    Version.V31: {**_ALWAYS, **_DUPLICATES},
    Version.V311: _ALWAYS,
    Version.V5: {**_ALWAYS, 0xF0: _read_auth},
}
