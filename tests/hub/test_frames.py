"""A message is written as `wire.mqtt` would, and QoS 0 is turned from one family to the other without loss."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hub.frames import Frames, payloads, puback, pubcomp, pubrec, pubrel, turned
from gateway.hub.message import Message, published, travelling
from gateway.wire.mqtt import serialize
from gateway.wire.mqtt_packets import (
    NOTHING,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Version,
)
from tests.hub.clients import V5, V311

topics = st.sampled_from(["t", "long/" * 30, "ü/€"])
bodies = st.binary(max_size=300)
properties = st.sampled_from([NOTHING, Properties(content_type="a", user_properties=(("b", "c"), ("b", "d")))])


@given(topics, bodies, st.sampled_from([V311, V5]), st.integers(0, 2), st.booleans(), properties, st.booleans())
def test_a_message(topic: str, body: bytes, version: Version, qos: int, retain: bool, said: Properties, expires: bool):
    message = Message(topic, body, qos, retain, said, 103.5 if expires else None)
    frames = Frames(message, 100.0)
    told = Properties(
        content_type=said.content_type,
        user_properties=said.user_properties,
        message_expiry=4 if expires else None,
    )
    expected = serialize(
        Publish(topic, body, qos, retain, packet_id=77 if qos else 0, properties=told if version is V5 else NOTHING),
        version,
    )
    for _ in range(2):
        if qos:
            assert frames.numbered(version is V5, qos, retain, 77) == expected
        else:
            assert frames.plain(version is V5, retain) == expected


@given(st.lists(st.tuples(topics, bodies), min_size=1, max_size=5), st.sampled_from([V311, V5]))
def test_turned(packets: list[tuple[str, bytes]], version: Version):
    other = V311 if version is V5 else V5
    data = b"".join(serialize(Publish(topic, body), version) for topic, body in packets)
    expected = b"".join(serialize(Publish(topic, body), other) for topic, body in packets)
    assert turned(data, version is V5) == expected
    assert turned(expected, version is not V5) == data
    assert list(payloads(data, version is V5)) == [body for _, body in packets]


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 16_382, 16_383, 16_384, 70_000])
def test_turned_where_the_length_grows(size: int):
    for body in (size - 5, size - 4, size - 3):
        packet = Publish("t", b"x" * max(0, body))
        assert turned(serialize(packet, V311), False) == serialize(packet, V5)
        assert turned(serialize(packet, V5), True) == serialize(packet, V311)


def test_for_one_subscriber():
    frames = Frames(Message("t", b"x", 1), 0.0)
    special = frames.special(True, 1, True, packet_id=9, dup=True, identifiers=(3, 4), alias=2, known=True)
    expected = Publish("", b"x", 1, True, True, 9, Properties(subscription_identifiers=(3, 4), topic_alias=2))
    assert special == serialize(expected, V5)
    assert frames.special(False, 1, False, packet_id=9) == serialize(Publish("t", b"x", 1, packet_id=9), V311)


@pytest.mark.parametrize(
    ("write", "packet"), [(puback, PubAck), (pubrec, PubRec), (pubrel, PubRel), (pubcomp, PubComp)]
)
def test_answers(write, packet):
    assert write(0x1234) == serialize(packet(0x1234), V5) == serialize(packet(0x1234), V311)
    code = 0x92 if packet in (PubRel, PubComp) else 0x97
    from gateway.wire.mqtt import frame, parse

    data = write(0x1234, code)
    edges = frame(data, 0, 100)
    assert edges is not None
    assert parse(data, 0, *edges, V5) == packet(0x1234, code)


def test_what_travels():
    """MQTT-3.3.2.3.4, -3.3.4-6: an alias and subscription identifiers belong to one connection."""
    said = Properties(payload_format=1, topic_alias=3, message_expiry=5, subscription_identifiers=(1,))
    message = published(Publish("t", b"x", properties=said), 100.0)
    assert message.properties == Properties(payload_format=1)
    assert message.expires == 105.0
    assert travelling(Properties(topic_alias=3)) is NOTHING
    assert message.remaining(104.1) == 1
    assert message.remaining(105.0) == 0
    assert Message("t", b"").remaining(0) is None


def test_weight_counts_everything_that_a_client_chooses():
    bare = Message("t", b"").weight()
    full = Message(
        "t" * 10,
        b"x" * 100,
        properties=Properties(
            content_type="c" * 1_000,
            response_topic="r" * 10_000,
            correlation_data=b"d" * 50_000,
            user_properties=(("n" * 60_000, "v" * 60_000),) * 2,
        ),
    )
    assert full.weight() - bare > 300_000


def test_a_payload_is_no_business_of_a_log():
    assert "secret" not in repr(Message("t", b"secret"))
