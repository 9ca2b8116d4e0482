"""CONNECT (MQTT-3.1) of 3.1, 3.1.1 and 5.0: the one packet that says which of them is spoken.

Owns its reading and writing. Refuses everything that contradicts itself. Whether a client identifier, a user name or a
password will do, the empty one included, is the session's business.
"""

from __future__ import annotations

from typing import Final

from gateway.wire import mqtt_properties, mqtt_topics
from gateway.wire.mqtt_fields import Data, Reader, write_binary, write_short, write_text, write_variable
from gateway.wire.mqtt_packets import NOTHING, Connect, Malformed, PacketType, Properties, Reason, Version, Will

CONNECT_FIRST: Final = PacketType.CONNECT << 4

# MQTT-3.1.2.1 and 3.1.2.2; MQIsdp is that of 3.1.
_NAMES: Final = {Version.V31: "MQIsdp", Version.V311: "MQTT", Version.V5: "MQTT"}

# MQTT-3.1.2.3.
_RESERVED: Final = 0x01
_CLEAN_START: Final = 0x02
_WILL: Final = 0x04
_WILL_QOS_AT: Final = 3
_WILL_RETAIN: Final = 0x20
_OF_WILL: Final = 0x38
_PASSWORD: Final = 0x40
_USER_NAME: Final = 0x80

_OF_CONNECT: Final = mqtt_properties.OF[PacketType.CONNECT]


def connect_version(data: Data, body: int, end: int) -> Version:
    """What the CONNECT between these two wants to speak, before anything else in it is looked at.

    So that a refusal can be said in the client's own version. Raises Malformed, with UNSUPPORTED_PROTOCOL_VERSION where
    the client speaks MQTT, but none that we know.
    """
    return _read_version(Reader(data, body, end))


def _read_version(reader: Reader) -> Version:
    name, level = reader.text(), reader.byte()
    if name not in _NAMES.values():
        raise Malformed("the protocol is not MQTT")
    for version, its_name in _NAMES.items():
        if level == version and name == its_name:
            return version
    raise Malformed("unknown version of MQTT", Reason.UNSUPPORTED_PROTOCOL_VERSION)


def parse_connect(data: Data, start_of_packet: int, body: int, end: int) -> Connect:
    """The packet whose fixed header stands at `start_of_packet`, and that is there whole. Raises Malformed.

    A user name that is announced has to be there, in 3.1 too, which would let it be absent: a client that means to name
    itself and does not is not to be taken for one that does not.
    """
    if data[start_of_packet] != CONNECT_FIRST:
        raise Malformed("a CONNECT was expected", Reason.PROTOCOL_ERROR)
    reader = Reader(data, body, end)
    version = _read_version(reader)
    flags, keep_alive = reader.byte(), reader.short()
    _check_flags(flags, version)
    # MQTT-3.1.2.11 and 3.1.3: the order of these is the order on the wire.
    properties = _read_properties(reader) if version is Version.V5 else NOTHING
    client_id = reader.text()
    will = _read_will(reader, flags, version) if flags & _WILL else None
    user_name = reader.text() if flags & _USER_NAME else None
    password = reader.binary() if flags & _PASSWORD else None
    reader.finish()
    return Connect(version, client_id, bool(flags & _CLEAN_START), keep_alive, user_name, password, will, properties)


def _check_flags(flags: int, version: Version) -> None:
    # MQTT-3.1.2-3.
    if flags & _RESERVED:
        raise Malformed("the reserved flag of CONNECT is set")
    # MQTT-3.1.2-11 and -13 (without a will), -12 (with one).
    if flags & _OF_WILL and not flags & _WILL:
        raise Malformed("CONNECT says how to publish a will, and has none")
    if flags >> _WILL_QOS_AT & 3 == 3:
        raise Malformed("the will has QoS 3")
    # 3.1.1: 3.1.2-22. Since 5.0 a password may stand alone.
    if version < Version.V5 and flags & _PASSWORD and not flags & _USER_NAME:
        raise Malformed("a password without a user name")


def _read_properties(reader: Reader) -> Properties:
    properties = mqtt_properties.read(reader, _OF_CONNECT)
    # MQTT-3.1.2.11.10.
    if properties.authentication_data is not None and properties.authentication_method is None:
        raise Malformed("authentication data without a method", Reason.PROTOCOL_ERROR)
    return properties


def _read_will(reader: Reader, flags: int, version: Version) -> Will:
    properties = mqtt_properties.read(reader, mqtt_properties.WILL) if version is Version.V5 else NOTHING
    topic, payload = reader.text(), reader.binary()
    if not mqtt_topics.is_name(topic):
        raise Malformed("the will's topic is not a topic name", Reason.TOPIC_NAME_INVALID)
    return Will(topic, payload, flags >> _WILL_QOS_AT & 3, bool(flags & _WILL_RETAIN), properties)


def write_connect(packet: Connect) -> bytes:
    """ValueError: one of its fields cannot be written."""
    is_5 = packet.version is Version.V5
    parts = [
        write_text(_NAMES[packet.version]),
        bytes((packet.version, _flags(packet))),
        write_short(packet.keep_alive),
    ]
    if is_5:
        parts.append(mqtt_properties.write(packet.properties, _OF_CONNECT))
    parts.append(write_text(packet.client_id))
    if packet.will is not None:
        if is_5:
            parts.append(mqtt_properties.write(packet.will.properties, mqtt_properties.WILL))
        parts += write_text(packet.will.topic), write_binary(packet.will.payload)
    if packet.user_name is not None:
        parts.append(write_text(packet.user_name))
    if packet.password is not None:
        parts.append(write_binary(packet.password))
    content = b"".join(parts)
    return bytes((CONNECT_FIRST,)) + write_variable(len(content)) + content


def _flags(packet: Connect) -> int:
    flags = _CLEAN_START if packet.clean_start else 0
    if packet.will is not None:
        flags |= _WILL | packet.will.qos << _WILL_QOS_AT
        flags |= _WILL_RETAIN if packet.will.retain else 0
    if packet.user_name is not None:
        flags |= _USER_NAME
    if packet.password is not None:
        flags |= _PASSWORD
    return flags
