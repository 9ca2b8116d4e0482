"""MQTT's control packets (MQTT-2 and 3), of 3.1, 3.1.1 and 5.0: bytes to packets and back.

Owns where a packet ends, and PUBLISH. CONNECT is read by `mqtt_connect`, every other packet by `mqtt_reading`. Refuses
every deviation from the standard, in both directions: what it would not read it does not write. It does not know who
sent a packet: that a client sends none that are a server's (CONNACK, SUBACK …), no subscription identifiers in PUBLISH,
and so on, is for the session to see.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final

from gateway.wire import mqtt_properties, mqtt_reading, mqtt_writing
from gateway.wire.mqtt_connect import connect_version, parse_connect, write_connect
from gateway.wire.mqtt_fields import (
    MAX_VARIABLE,
    Data,
    Reader,
    packet_id_at,
    text_of,
    variable_at,
    write_text,
    write_variable,
)
from gateway.wire.mqtt_packets import (
    NOTHING,
    Connect,
    Malformed,
    Packet,
    PacketType,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Reason,
    Version,
)
from gateway.wire.mqtt_topics import is_name

__all__ = ["MAX_REMAINING", "around_id", "connect_version", "frame", "parse", "parse_connect", "serialize"]

# MQTT-2.1.4.
MAX_REMAINING: Final = MAX_VARIABLE

_PUBLISH: Final = PacketType.PUBLISH << 4
_DUP: Final = 0x08
_RETAIN: Final = 0x01
# MQTT-3.3.1-4 (QoS 3, with and without DUP) and 3.3.1-2 (DUP with QoS 0).
_IMPOSSIBLE_FLAGS: Final = frozenset((0x06, 0x0E, 0x08))
_FIRSTS: Final = {flags: bytes((_PUBLISH | flags,)) for flags in range(16) if flags & 0x0E not in _IMPOSSIBLE_FLAGS}
_OF_PUBLISH: Final = mqtt_properties.OF[PacketType.PUBLISH]

# Acknowledgements that say nothing but that all is well, four bytes in every version, are read and written at once.
_Ack = PubAck | PubRec | PubRel | PubComp
_ACK_TYPES: Final = (PubAck, PubRec, PubRel, PubComp)
_ACKS: Final[Mapping[int, type[_Ack]]] = {0x40: PubAck, 0x50: PubRec, 0x62: PubRel, 0x70: PubComp}
_ACK_FIRSTS: Final = {ack: first for first, ack in _ACKS.items()}
_ack: Final = Struct("!BBH").pack
_short: Final = Struct("!H").pack


def frame(data: Data, position: int, limit: int) -> tuple[int, int] | None:
    """Of the packet whose fixed header stands at `position`: where what follows that header begins, and where it ends.

    The end may be beyond the data. None: more bytes please. Raises Malformed, with PACKET_TOO_LARGE when the whole
    packet has more than `limit` bytes: before any of them have to be kept.
    """
    length = variable_at(data, position + 1, len(data))
    if length is None:
        return None
    size, body = length
    end = body + size
    if end - position > limit:
        raise Malformed("a packet is larger than it may be", Reason.PACKET_TOO_LARGE)
    return body, end


def parse(data: Data, start_of_packet: int, body: int, end: int, version: Version) -> Packet:
    """The packet between these, which `frame` has found and which is there whole. Raises Malformed."""
    first = data[start_of_packet]
    if first & 0xF0 == _PUBLISH:
        return _read_publish(data, first, body, end, version)
    if end - body == 2 and (ack := _ACKS.get(first)):
        return ack(packet_id_at(data, body, end))
    return mqtt_reading.read(first, Reader(data, body, end), version)


def _read_publish(data: Data, first: int, body: int, end: int, version: Version) -> Publish:
    """MQTT-3.3. Written for speed, since most packets are this one."""
    if first & 0x0E in _IMPOSSIBLE_FLAGS:
        raise Malformed("a PUBLISH with QoS 3, or a duplicate with QoS 0")
    qos = first >> 1 & 3
    at = body + 2
    stop = at + (data[body] << 8 | data[body + 1]) if at <= end else at
    if stop > end:
        raise Malformed("a field reaches beyond its packet")
    topic = text_of(data[at:stop])
    packet_id = 0
    if qos:
        packet_id = packet_id_at(data, stop, end)
        stop += 2
    properties = NOTHING
    if version is Version.V5:
        properties, stop = _read_properties(data, stop, end)
    if not is_name(topic):
        _check_alias(topic, properties, version)
    return Publish(topic, bytes(data[stop:end]), qos, first & _RETAIN != 0, first & _DUP != 0, packet_id, properties)


def _read_properties(data: Data, at: int, end: int) -> tuple[Properties, int]:
    if at < end and not data[at]:
        return NOTHING, at + 1
    reader = Reader(data, at, end)
    return mqtt_properties.read(reader, _OF_PUBLISH), reader.at


def _check_alias(topic: str, properties: Properties, version: Version) -> None:
    """What is no topic name may only be the empty one that an alias stands for (MQTT-3.3.2-8, 3.3.2.3.4)."""
    if topic or version is not Version.V5:
        raise Malformed("the topic of a PUBLISH is not a topic name", Reason.TOPIC_NAME_INVALID)
    if properties.topic_alias is None:
        raise Malformed("neither a topic nor a topic alias", Reason.PROTOCOL_ERROR)


def serialize(packet: Packet, version: Version) -> bytes:
    """The whole packet. A Connect is written in its own version.

    Before 5.0 there are no properties, and no codes of UNSUBACK, PUBREL and PUBCOMP; they are left out. ValueError:
    what the packet says cannot be written, or would not be read.
    """
    if isinstance(packet, Publish):
        return _write_publish(packet, version)
    if isinstance(packet, _ACK_TYPES) and not packet.code and packet.properties is NOTHING:
        if not 0 < packet.packet_id < 0x10000:
            raise ValueError("a packet identifier out of range")
        return _ack(_ACK_FIRSTS[type(packet)], 2, packet.packet_id)
    if isinstance(packet, Connect):
        data, version = write_connect(packet), packet.version
    else:
        data = mqtt_writing.write(packet, version)
    _read_again(data, version)
    return data


def _write_publish(packet: Publish, version: Version) -> bytes:
    before, after = around_id(packet, version)
    if not packet.qos:
        if packet.packet_id:
            raise ValueError("a packet identifier with QoS 0")
        return before + after
    if not 0 < packet.packet_id < 0x10000:
        raise ValueError("a packet identifier out of range")
    return b"".join((before, _short(packet.packet_id), after))


def around_id(packet: Publish, version: Version) -> tuple[bytes, bytes]:
    """What stands before and after the packet identifier, of which QoS 0 has none (MQTT-3.3).

    One message to many subscribers differs in nothing else, so what is common to them can be written once. The
    identifier in `packet` is not looked at. ValueError: it cannot be written.
    """
    flags = packet.qos << 1 | packet.retain | packet.dup << 3
    if flags not in _FIRSTS:
        raise ValueError("flags of a PUBLISH that there are not")
    topic = packet.topic
    is_5 = version is Version.V5
    if not is_name(topic) and (topic or not is_5 or packet.properties.topic_alias is None):
        raise ValueError("the topic of a PUBLISH is not a topic name")
    properties = mqtt_properties.write(packet.properties, _OF_PUBLISH) if is_5 else b""
    name, payload = write_text(topic), packet.payload
    size = len(name) + len(properties) + len(payload) + (2 if packet.qos else 0)
    return b"".join((_FIRSTS[flags], write_variable(size), name)), properties + payload


def _read_again(data: bytes, version: Version) -> None:
    """Nobody has to understand what we would not: ValueError. These are the rare packets, so it costs little."""
    found = frame(data, 0, len(data))
    assert found is not None
    try:
        if data[0] >> 4 == PacketType.CONNECT:
            parse_connect(data, 0, *found)
        else:
            parse(data, 0, *found, version)
    except Malformed as error:
        raise ValueError(f"not to be written: {error}") from None
