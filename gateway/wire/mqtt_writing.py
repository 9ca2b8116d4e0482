"""MQTT's control packets but CONNECT and PUBLISH (MQTT-3), to bytes.

Owns their layout, short forms included. What a packet may say is not checked here, but by reading it again (`mqtt`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.wire import mqtt_properties
from gateway.wire.mqtt_fields import write_byte, write_short, write_text, write_variable
from gateway.wire.mqtt_packets import (
    NOTHING,
    Auth,
    ConnAck,
    Disconnect,
    Packet,
    PacketType,
    PingReq,
    PingResp,
    Properties,
    PubAck,
    PubComp,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Version,
)

_Ack = PubAck | PubRec | PubRel | PubComp
_Content = Callable[[Any, PacketType, Version], bytes]


def write(packet: Packet, version: Version) -> bytes:
    """ValueError: a field does not fit, or before 5.0 there is no way to say it."""
    kind, flags, content = _WRITERS[type(packet)]
    data = content(packet, kind, version)
    return bytes((kind << 4 | flags,)) + write_variable(len(data)) + data


def _properties(properties: Properties, kind: PacketType, version: Version) -> bytes:
    return mqtt_properties.write(properties, mqtt_properties.OF[kind]) if version is Version.V5 else b""


def _reason(packet: _Ack | Disconnect | Auth, kind: PacketType) -> bytes:
    """In its shortest form (MQTT-3.4.2.1, 3.14.2.1, 3.15.2.1)."""
    if packet.properties == NOTHING:
        return write_byte(packet.code) if packet.code else b""
    return write_byte(packet.code) + mqtt_properties.write(packet.properties, mqtt_properties.OF[kind])


def _connack(packet: ConnAck, kind: PacketType, version: Version) -> bytes:
    return write_byte(packet.session_present) + write_byte(packet.code) + _properties(packet.properties, kind, version)


def _ack(packet: _Ack, kind: PacketType, version: Version) -> bytes:
    """A refusal must not become the success that an acknowledgement always is before 5.0."""
    if version is Version.V5:
        return write_short(packet.packet_id) + _reason(packet, kind)
    if packet.code >= 0x80 and kind in (PacketType.PUBACK, PacketType.PUBREC):
        raise ValueError("before 5.0 an acknowledgement cannot refuse")
    return write_short(packet.packet_id)


def _subscribe(packet: Subscribe, kind: PacketType, version: Version) -> bytes:
    before = write_short(packet.packet_id) + _properties(packet.properties, kind, version)
    return before + b"".join(write_text(one.filter) + write_byte(_options(one)) for one in packet.subscriptions)


def _options(one: Subscription) -> int:
    return one.qos | one.no_local << 2 | one.retain_as_published << 3 | one.retain_handling << 4


def _suback(packet: SubAck, kind: PacketType, version: Version) -> bytes:
    return write_short(packet.packet_id) + _properties(packet.properties, kind, version) + bytes(packet.codes)


def _unsubscribe(packet: Unsubscribe, kind: PacketType, version: Version) -> bytes:
    before = write_short(packet.packet_id) + _properties(packet.properties, kind, version)
    return before + b"".join(map(write_text, packet.filters))


def _unsuback(packet: UnsubAck, kind: PacketType, version: Version) -> bytes:
    if version is not Version.V5:
        return write_short(packet.packet_id)
    return write_short(packet.packet_id) + _properties(packet.properties, kind, version) + bytes(packet.codes)


def _nothing(_: Packet, __: PacketType, ___: Version) -> bytes:
    return b""


def _disconnect(packet: Disconnect, kind: PacketType, version: Version) -> bytes:
    if version is Version.V5:
        return _reason(packet, kind)
    if packet.code:
        raise ValueError("before 5.0 a DISCONNECT has no reason code")
    return b""


def _auth(packet: Auth, kind: PacketType, _: Version) -> bytes:
    return _reason(packet, kind)


# The type, the flags (MQTT-2.1.3), and what follows the fixed header.
_WRITERS: Final[Mapping[type[Packet], tuple[PacketType, int, _Content]]] = {
    ConnAck: (PacketType.CONNACK, 0, _connack),
    PubAck: (PacketType.PUBACK, 0, _ack),
    PubRec: (PacketType.PUBREC, 0, _ack),
    PubRel: (PacketType.PUBREL, 2, _ack),
    PubComp: (PacketType.PUBCOMP, 0, _ack),
    Subscribe: (PacketType.SUBSCRIBE, 2, _subscribe),
    SubAck: (PacketType.SUBACK, 0, _suback),
    Unsubscribe: (PacketType.UNSUBSCRIBE, 2, _unsubscribe),
    UnsubAck: (PacketType.UNSUBACK, 0, _unsuback),
    PingReq: (PacketType.PINGREQ, 0, _nothing),
    PingResp: (PacketType.PINGRESP, 0, _nothing),
    Disconnect: (PacketType.DISCONNECT, 0, _disconnect),
    Auth: (PacketType.AUTH, 0, _auth),
}
