"""The properties of 5.0: each in each packet, once or more often, and the values that it may have."""

from __future__ import annotations

import pytest

from gateway.wire.mqtt import frame, parse, parse_connect, serialize
from gateway.wire.mqtt_fields import write_variable
from gateway.wire.mqtt_packets import Connect, Malformed, Packet, Properties, Publish, Reason, Version
from gateway.wire.mqtt_properties import MAX_REPEATED
from tests import mqtt_packets as random_packets

MALFORMED, PROTOCOL = Reason.MALFORMED_PACKET, Reason.PROTOCOL_ERROR

# MQTT-2.2.2.2, table 2-4: identifier, and a value as bytes and as itself.
EACH: dict[str, tuple[int, bytes, object]] = {
    "payload_format": (0x01, b"\1", 1),
    "message_expiry": (0x02, b"\xff\xff\xff\xff", 0xFFFF_FFFF),
    "content_type": (0x03, b"\0\1c", "c"),
    "response_topic": (0x08, b"\0\1r", "r"),
    "correlation_data": (0x09, b"\0\2\0\xff", b"\0\xff"),
    "subscription_identifiers": (0x0B, b"\xff\xff\xff\x7f", (268_435_455,)),
    "session_expiry": (0x11, b"\0\0\0\0", 0),
    "assigned_client_identifier": (0x12, b"\0\1i", "i"),
    "server_keep_alive": (0x13, b"\0\x3c", 60),
    "authentication_method": (0x15, b"\0\1m", "m"),
    "authentication_data": (0x16, b"\0\0", b""),
    "request_problem_information": (0x17, b"\0", 0),
    "will_delay": (0x18, b"\0\0\1\0", 256),
    "request_response_information": (0x19, b"\1", 1),
    "response_information": (0x1A, b"\0\0", ""),
    "server_reference": (0x1C, b"\0\1s", "s"),
    "reason_string": (0x1F, b"\0\3\xe2\x82\xac", "€"),
    "receive_maximum": (0x21, b"\xff\xff", 65_535),
    "topic_alias_maximum": (0x22, b"\0\0", 0),
    "topic_alias": (0x23, b"\0\1", 1),
    "maximum_qos": (0x24, b"\0", 0),
    "retain_available": (0x25, b"\0", 0),
    "user_properties": (0x26, b"\0\1k\0\0", (("k", ""),)),
    "maximum_packet_size": (0x27, b"\0\0\0\1", 1),
    "wildcard_subscription_available": (0x28, b"\0", 0),
    "subscription_identifier_available": (0x29, b"\1", 1),
    "shared_subscription_available": (0x2A, b"\0", 0),
}

METHOD = b"\x15\0\1m"
# The packet around the properties, and what it may have.
PLACES: dict[str, tuple[int, bytes, bytes, list[str]]] = {
    "CONNECT": (0x10, b"\0\4MQTT\5\2\0\0", b"\0\0", random_packets.OF_CONNECT),
    "will": (0x10, b"\0\4MQTT\5\6\0\0\0\0\0", b"\0\1w\0\0", random_packets.OF_WILL),
    "CONNACK": (0x20, b"\0\0", b"", random_packets.OF_CONNACK),
    "PUBLISH": (0x30, b"\0\1t", b"", random_packets.OF_PUBLISH),
    "PUBACK": (0x40, b"\0\1\0", b"", random_packets.OF_REASON),
    "PUBREC": (0x50, b"\0\1\0", b"", random_packets.OF_REASON),
    "PUBREL": (0x62, b"\0\1\0", b"", random_packets.OF_REASON),
    "PUBCOMP": (0x70, b"\0\1\0", b"", random_packets.OF_REASON),
    "SUBSCRIBE": (0x82, b"\0\1", b"\0\1f\0", random_packets.OF_SUBSCRIBE),
    "SUBACK": (0x90, b"\0\1", b"\0", random_packets.OF_REASON),
    "UNSUBSCRIBE": (0xA2, b"\0\1", b"\0\1f", random_packets.OF_UNSUBSCRIBE),
    "UNSUBACK": (0xB0, b"\0\1", b"\0", random_packets.OF_REASON),
    "DISCONNECT": (0xE0, b"\0", b"", random_packets.OF_DISCONNECT),
    "AUTH": (0xF0, b"\0", b"", random_packets.OF_AUTH),
}


def packet(place: str, block: bytes) -> bytes:
    first, before, after, _ = PLACES[place]
    content = before + write_variable(len(block)) + block + after
    return bytes((first,)) + write_variable(len(content)) + content


def read(data: bytes) -> Packet:
    found = frame(data, 0, 1 << 20)
    assert found is not None
    assert found[1] == len(data)
    return parse_connect(data, 0, *found) if data[0] == 0x10 else parse(data, 0, *found, Version.V5)


def properties(place: str, block: bytes) -> Properties:
    found = read(packet(place, block))
    if place == "will":
        assert isinstance(found, Connect)
        assert found.will is not None
        return found.will.properties
    given = found.properties  # type: ignore[union-attr]  # PINGREQ and PINGRESP are no places
    assert isinstance(given, Properties)
    return given


def refused(place: str, block: bytes) -> Reason:
    with pytest.raises(Malformed) as error:
        read(packet(place, block))
    return error.value.code


def with_method(place: str, name: str) -> bytes:
    """Authentication data needs a method beside it, and AUTH always has one."""
    needed = name == "authentication_data" or (place == "AUTH" and name != "authentication_method")
    return METHOD if needed else b""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", EACH)
def test_where_each_may_be(place: str, name: str) -> None:
    identifier, value, said = EACH[name]
    block = bytes((identifier,)) + value
    if name in PLACES[place][3]:
        block += with_method(place, name)
        assert getattr(properties(place, block), name) == said
        again = read(packet(place, block))
        assert read(serialize(again, Version.V5)) == again
    else:
        assert refused(place, block) is MALFORMED


@pytest.mark.parametrize("place", PLACES)
def test_how_often_each_may_be(place: str) -> None:
    for name in PLACES[place][3]:
        identifier, value, said = EACH[name]
        block = (bytes((identifier,)) + value) * 2 + with_method(place, name)
        if name == "user_properties" or (name == "subscription_identifiers" and place == "PUBLISH"):
            assert isinstance(said, tuple)
            assert getattr(properties(place, block), name) == said * 2
        else:
            assert refused(place, block) is PROTOCOL


@pytest.mark.parametrize("place", PLACES)
def test_cut_short(place: str) -> None:
    for name in PLACES[place][3]:
        identifier, value, _ = EACH[name]
        block = with_method(place, name) + bytes((identifier,)) + value
        for size in range(len(with_method(place, name)) + 1, len(block)):
            assert refused(place, block[:size]) is MALFORMED


@pytest.mark.parametrize("place", PLACES)
def test_a_length_beyond_the_packet(place: str) -> None:
    first, before, after, _ = PLACES[place]
    for length in (bytes((len(after) + 1,)), b"\x7f", b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x80\0"):
        content = before + length + after
        with pytest.raises(Malformed) as error:
            read(bytes((first, len(content))) + content)
        assert error.value.code is MALFORMED


KNOWN = {identifier for identifier, _, _ in EACH.values()}


@pytest.mark.parametrize("identifier", [one for one in range(128) if one not in KNOWN])
def test_unknown_ones(identifier: int) -> None:
    assert refused("PUBLISH", bytes((identifier, 0, 0, 0, 0, 0))) is MALFORMED
    assert refused("CONNACK", bytes((identifier, 0, 0, 0, 0, 0))) is MALFORMED


def test_identifiers_that_are_longer_than_they_need_to_be() -> None:
    assert refused("PUBLISH", b"\x81\0\1") is MALFORMED
    assert refused("PUBLISH", b"\x81\x01\1") is MALFORMED
    assert refused("PUBLISH", b"\x0b\x81\0") is MALFORMED
    assert refused("PUBLISH", b"\x0b\xff\xff\xff\xff\x01") is MALFORMED


@pytest.mark.parametrize(
    ("place", "block", "code"),
    [
        ("PUBLISH", b"\x01\2", PROTOCOL),
        ("PUBLISH", b"\x01\xff", PROTOCOL),
        ("will", b"\x01\2", PROTOCOL),
        ("PUBLISH", b"\x0b\0", PROTOCOL),
        ("SUBSCRIBE", b"\x0b\0", PROTOCOL),
        ("CONNECT", b"\x17\2", PROTOCOL),
        ("CONNECT", b"\x19\2", PROTOCOL),
        ("CONNECT", b"\x21\0\0", PROTOCOL),
        ("CONNACK", b"\x21\0\0", PROTOCOL),
        ("CONNECT", b"\x27\0\0\0\0", PROTOCOL),
        ("CONNACK", b"\x27\0\0\0\0", PROTOCOL),
        ("CONNACK", b"\x24\2", PROTOCOL),
        ("CONNACK", b"\x25\2", PROTOCOL),
        ("CONNACK", b"\x28\2", PROTOCOL),
        ("CONNACK", b"\x29\2", PROTOCOL),
        ("CONNACK", b"\x2a\2", PROTOCOL),
        ("PUBLISH", b"\x23\0\0", Reason.TOPIC_ALIAS_INVALID),
        ("PUBLISH", b"\x08\0\0", Reason.TOPIC_NAME_INVALID),
        ("PUBLISH", b"\x08\0\1+", Reason.TOPIC_NAME_INVALID),
        ("will", b"\x08\0\3a/#", Reason.TOPIC_NAME_INVALID),
    ],
)
def test_values_that_may_not_be(place: str, block: bytes, code: Reason) -> None:
    assert refused(place, block) is code


def test_so_many_and_no_more() -> None:
    """Five bytes each, and a tuple of two strings: who sends a packet of them wants our memory."""
    one = b"\x26\0\0\0\0"
    assert len(properties("PUBLISH", one * MAX_REPEATED).user_properties) == MAX_REPEATED
    assert refused("PUBLISH", one * (MAX_REPEATED + 1)) is Reason.IMPLEMENTATION_SPECIFIC_ERROR
    assert refused("PUBLISH", b"\x0b\1" * (MAX_REPEATED + 1)) is Reason.IMPLEMENTATION_SPECIFIC_ERROR


def test_in_any_order() -> None:
    parts = [bytes((EACH[name][0],)) + EACH[name][1] for name in random_packets.OF_PUBLISH]
    given = properties("PUBLISH", b"".join(parts))
    assert given == properties("PUBLISH", b"".join(reversed(parts)))
    assert read(serialize(Publish("t", b"", properties=given), Version.V5)) == Publish("t", b"", properties=given)
