"""The properties of 5.0 (MQTT-2.2.2): their identifiers, types and ranges, and which packet may have which.

Owns reading and writing a block of them. Refuses what the packet may not have, what is there twice and may not be, and
values out of their range. What follows from a value is the session's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from gateway.wire import mqtt_topics
from gateway.wire.mqtt_fields import (
    Reader,
    write_binary,
    write_byte,
    write_long,
    write_short,
    write_text,
    write_variable,
)
from gateway.wire.mqtt_packets import NOTHING, Malformed, PacketType, Properties, Reason

# The standard sets no bound to user properties and subscription identifiers. One takes some microseconds to read, and
# at the smallest becomes ten times as large in memory; so a packet of nothing else would be expensive.
MAX_REPEATED: Final = 1_024


@dataclass(frozen=True, slots=True)
class _Type:
    read: Callable[[Reader], Any]
    write: Callable[[Any], bytes]


def _read_pair(reader: Reader) -> tuple[str, str]:
    return reader.text(), reader.text()


def _write_pair(pair: tuple[str, str]) -> bytes:
    return write_text(pair[0]) + write_text(pair[1])


_BYTE: Final = _Type(Reader.byte, write_byte)
_SHORT: Final = _Type(Reader.short, write_short)
_LONG: Final = _Type(Reader.long, write_long)
_VARIABLE: Final = _Type(Reader.variable, write_variable)
_TEXT: Final = _Type(Reader.text, write_text)
_BINARY: Final = _Type(Reader.binary, write_binary)
_PAIR: Final = _Type(_read_pair, _write_pair)


def _any(_: object) -> bool:
    return True


def _flag(value: int) -> bool:
    return value in (0, 1)


def _positive(value: int) -> bool:
    return value > 0


@dataclass(frozen=True, slots=True)
class _Property:
    """id: a variable byte integer, but none is greater than 127. name: of the field of Properties.

    fits: whether that value of its type may be; otherwise `code`. repeated: the field is a tuple.
    """

    id: int
    name: str
    type: _Type
    fits: Callable[[Any], bool] = _any
    code: Reason = Reason.PROTOCOL_ERROR
    repeated: bool = False


# MQTT-2.2.2.2, and the ranges from where each is described.
_ALL: Final = (
    _Property(0x01, "payload_format", _BYTE, _flag),
    _Property(0x02, "message_expiry", _LONG),
    _Property(0x03, "content_type", _TEXT),
    # MQTT-3.3.2-14: no wildcards.
    _Property(0x08, "response_topic", _TEXT, mqtt_topics.is_name, Reason.TOPIC_NAME_INVALID),
    _Property(0x09, "correlation_data", _BINARY),
    _Property(0x0B, "subscription_identifiers", _VARIABLE, _positive, repeated=True),
    _Property(0x11, "session_expiry", _LONG),
    _Property(0x12, "assigned_client_identifier", _TEXT),
    _Property(0x13, "server_keep_alive", _SHORT),
    _Property(0x15, "authentication_method", _TEXT),
    _Property(0x16, "authentication_data", _BINARY),
    _Property(0x17, "request_problem_information", _BYTE, _flag),
    _Property(0x18, "will_delay", _LONG),
    _Property(0x19, "request_response_information", _BYTE, _flag),
    _Property(0x1A, "response_information", _TEXT),
    _Property(0x1C, "server_reference", _TEXT),
    _Property(0x1F, "reason_string", _TEXT),
    _Property(0x21, "receive_maximum", _SHORT, _positive),
    _Property(0x22, "topic_alias_maximum", _SHORT),
    _Property(0x23, "topic_alias", _SHORT, _positive, Reason.TOPIC_ALIAS_INVALID),
    _Property(0x24, "maximum_qos", _BYTE, _flag),
    _Property(0x25, "retain_available", _BYTE, _flag),
    _Property(0x26, "user_properties", _PAIR, repeated=True),
    _Property(0x27, "maximum_packet_size", _LONG, _positive),
    _Property(0x28, "wildcard_subscription_available", _BYTE, _flag),
    _Property(0x29, "subscription_identifier_available", _BYTE, _flag),
    _Property(0x2A, "shared_subscription_available", _BYTE, _flag),
)
_REPEATED: Final = frozenset(one.name for one in _ALL if one.repeated)
_values_of: Final = attrgetter(*(one.name for one in _ALL))

# What may be at one place, by identifier.
Place = Mapping[int, _Property]


def _place(*identifiers: int) -> Place:
    return {one.id: one for one in _ALL if one.id in identifiers}


_REASONS: Final = _place(0x1F, 0x26)

# The third column of table 2-4.
WILL: Final = _place(0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26)
OF: Final[Mapping[PacketType, Place]] = {
    PacketType.CONNECT: _place(0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27),
    PacketType.CONNACK: _place(
        *(0x11, 0x12, 0x13, 0x15, 0x16, 0x1A, 0x1C, 0x1F, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2A)
    ),
    PacketType.PUBLISH: _place(0x01, 0x02, 0x03, 0x08, 0x09, 0x0B, 0x23, 0x26),
    PacketType.PUBACK: _REASONS,
    PacketType.PUBREC: _REASONS,
    PacketType.PUBREL: _REASONS,
    PacketType.PUBCOMP: _REASONS,
    PacketType.SUBSCRIBE: _place(0x0B, 0x26),
    PacketType.SUBACK: _REASONS,
    PacketType.UNSUBSCRIBE: _place(0x26),
    PacketType.UNSUBACK: _REASONS,
    PacketType.DISCONNECT: _place(0x11, 0x1C, 0x1F, 0x26),
    PacketType.AUTH: _place(0x15, 0x16, 0x1F, 0x26),
}


def read(reader: Reader, place: Place) -> Properties:
    """The properties that begin there, with their length. Raises Malformed."""
    size = reader.variable()
    if not size:
        return NOTHING
    block = reader.part(size)
    values: dict[str, Any] = {}
    while block.more:
        known = place.get(block.variable())
        if known is None:
            raise Malformed("a property that there is not, or not in that packet")
        _add(values, known, block)
    for name in _REPEATED & values.keys():
        values[name] = tuple(values[name])
    return Properties(**values)


def _add(values: dict[str, Any], known: _Property, block: Reader) -> None:
    value = known.type.read(block)
    if not known.fits(value):
        raise Malformed("a property has a value that is not permitted", known.code)
    if known.repeated:
        listed = values.setdefault(known.name, [])
        if len(listed) == MAX_REPEATED:
            raise Malformed("too many properties", Reason.IMPLEMENTATION_SPECIFIC_ERROR)
        listed.append(value)
    elif known.name in values:
        raise Malformed("a property is there twice", Reason.PROTOCOL_ERROR)
    else:
        values[known.name] = value


def write(properties: Properties, place: Place) -> bytes:
    """With their length. ValueError: one may not be there, or its value cannot be written."""
    if properties is NOTHING:
        return b"\0"
    parts = []
    for known, value in zip(_ALL, _values_of(properties), strict=True):
        if value is None or value == ():
            continue
        if known.id not in place:
            raise ValueError(f"no {known.name} in that packet")
        parts += [_write_one(known, one) for one in (value if known.repeated else (value,))]
    block = b"".join(parts)
    return write_variable(len(block)) + block


def _write_one(known: _Property, value: Any) -> bytes:
    if not known.fits(value):
        raise ValueError(f"{known.name} has a value that is not permitted")
    return bytes((known.id,)) + known.type.write(value)
