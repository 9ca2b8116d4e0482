"""What the interoperability tests of Eclipse Paho check in a broker, of 3.1.1 and 5.0, against the hub itself."""

from __future__ import annotations

import pytest

from gateway.wire.mqtt_packets import (
    NOTHING,
    Properties,
    PubAck,
    PubComp,
    PubRec,
    PubRel,
    SubAck,
    Subscription,
    UnsubAck,
    Version,
    Will,
)
from tests.hub.clients import V5, V311, World

TOPICS = ("TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA")
versions = pytest.mark.parametrize("version", [V311, V5])
USER = Properties(user_properties=(("c", "3"), ("a", "2"), ("c", "1")))


def said(properties: Properties, version: Version) -> Properties:
    return properties if version is V5 else NOTHING


@versions
def test_basic(version: Version):
    a = World().connect(version=version)
    a.subscribe(TOPICS[0])
    for qos in range(3):
        a.publish(TOPICS[0], b"qos %d" % qos, qos, 10 + qos)
    assert [(m.payload, m.qos) for m in a.messages()] == [(b"qos 0", 0), (b"qos 1", 1), (b"qos 2", 2)]


@versions
def test_retained(version: Version):
    a = World().connect(version=version)
    for qos in range(3):
        a.publish(TOPICS[1 + qos], b"qos %d" % qos, qos, 10 + qos, retain=True, properties=said(USER, version))
    a.take()
    a.subscribe("+/+")
    found = a.messages()
    assert sorted((m.topic, m.payload, m.qos, m.retain) for m in found) == [
        (TOPICS[2], b"qos 1", 1, True),
        (TOPICS[1], b"qos 0", 0, True),
        (TOPICS[3], b"qos 2", 2, True),
    ]
    assert all(m.properties == said(USER, version) for m in found)


@versions
def test_an_empty_payload_removes_what_is_retained(version: Version):
    a = World().connect(version=version)
    for qos, topic in enumerate(TOPICS[1:4]):
        a.publish(topic, b"kept", qos, 10 + qos, retain=True)
        a.publish(topic, b"", qos, 20 + qos, retain=True)
    a.take()
    a.subscribe("+/+")
    assert a.messages() == []


@versions
def test_a_removal_is_told_to_those_who_are_there(version: Version):
    a = World().connect(version=version)
    a.subscribe("#")
    a.publish("t", b"", retain=True)
    assert [(m.payload, m.retain) for m in a.messages()] == [(b"", False)]


@versions
def test_will(version: Version):
    world = World()
    a = world.connect("a", version, will=Will(TOPICS[2], b"not disconnected", 1))
    b = world.keeping("b", version)
    b.subscribe(TOPICS[2])
    b.take()
    a.leave(will=True)
    assert b.payloads() == [b"not disconnected"]


@versions
def test_no_will_after_a_disconnect(version: Version):
    world = World()
    a = world.connect("a", version, will=Will(TOPICS[2], b"not disconnected", 1))
    b = world.connect("b", version)
    b.subscribe(TOPICS[2])
    a.leave()
    assert b.payloads() == []


def test_offline_message_queueing_of_3_1_1():
    offline_queueing(V311)


def test_offline_message_queueing_of_5():
    offline_queueing(V5)


def offline_queueing(version: Version) -> None:
    world = World()
    a = world.keeping("a", version)
    a.subscribe("+/+")
    a.leave()
    b = world.connect("b", version)
    for qos in range(3):
        b.publish(TOPICS[1 + qos], b"qos %d" % qos, qos, 10 + qos)
    a = world.keeping("a", version)
    assert a.present
    assert a.payloads() == [b"qos 1", b"qos 2"]


@versions
def test_overlapping_subscriptions(version: Version):
    a = World().connect(version=version)
    a.subscribe(Subscription("TopicA/#", 2), Subscription("TopicA/+", 1))
    a.take()
    a.publish(TOPICS[3], b"once", 2)
    assert [(m.payload, m.qos) for m in a.messages()] == [(b"once", 2)]


@versions
def test_redelivery_on_reconnect(version: Version):
    world = World()
    b = world.keeping("b", version)
    b.subscribe("TopicA/#")
    b.publish(TOPICS[1], b"1", 1, 10)
    b.publish(TOPICS[3], b"2", 2, 11)
    first = b.messages()
    b.leave()
    b = world.keeping("b", version)
    again = b.messages()
    assert [(m.packet_id, m.payload, m.qos, m.dup) for m in again] == [
        (first[0].packet_id, b"1", 1, True),
        (first[1].packet_id, b"2", 2, True),
    ]


@versions
def test_pubrel_is_sent_again(version: Version):
    world = World()
    b = world.keeping("b", version)
    b.subscribe("t")
    b.publish("t", b"2", 2)
    packet_id = b.messages()[0].packet_id
    b.answer(PubRec(packet_id))
    assert b.take() == [PubRel(packet_id)]
    b.leave()
    b = world.keeping("b", version)
    assert b.take() == [PubRel(packet_id)]
    b.answer(PubComp(packet_id))
    b.leave()
    assert world.keeping("b", version).take() == []


@versions
def test_subscribe_failure(version: Version):
    a = World().connect(version=version)
    a.subscribe("fine", "test/nosubscribe", qos=1, refused={1: 0x80})
    assert a.take() == [SubAck(9, (1, 0x80))]
    a.publish("test/nosubscribe")
    assert a.messages() == []


@versions
def test_dollar_topics(version: Version):
    world = World()
    b = world.connect(version=version)
    b.subscribe("#", "+/B", "$TopicA/B")
    b.take()
    b.publish("$TopicA/B", b"", 1)
    assert b.take() == [PubAck(7, 0x87 if version is V5 else 0)]
    b.forward("$TopicA/B", b"x")
    b.publish("$TopicA/B", b"x", retain=True)
    b.subscribe("$TopicA/#")
    assert b.messages() == []


@versions
def test_unsubscribe(version: Version):
    world = World()
    b = world.connect("b", version)
    b.subscribe(*TOPICS[:3])
    b.take()
    b.unsubscribe(TOPICS[0], "never")
    assert b.take() == [UnsubAck(9, (0, 0x11) if version is V5 else ())]
    a = world.connect("a", version)
    for topic in TOPICS[:3]:
        a.publish(topic, topic.encode(), 1)
    assert b.payloads() == [b"TopicA/B", b"Topic/C"]


def test_session_expiry():
    world = World()
    world.connect(session_expiry=0).leave()
    assert not world.connect(clean=False, session_expiry=5).present
    a = world.connect(session_expiry=5)
    a.subscribe("t")
    a.leave()
    world.time.pass_by(2)
    a = world.connect(clean=False, session_expiry=5)
    assert a.present
    a.leave()
    world.time.pass_by(6)
    a = world.connect(clean=False, session_expiry=1)
    assert not a.present
    a.leave(expiry=5)
    world.time.pass_by(3)
    a = world.connect(clean=False, session_expiry=1)
    assert a.present
    a.leave(expiry=0)
    assert not world.connect(clean=False).present


def test_a_session_cannot_be_kept_after_all():
    """MQTT-3.14.2.2.2: 0 in CONNECT stays 0."""
    world = World()
    world.connect().leave(expiry=60)
    assert not world.connect(clean=False).present


def test_shared_subscriptions():
    world = World()
    a, b = world.connect("a"), world.connect("b")
    for client in (a, b):
        client.subscribe("$share/name/t/#", "own")
        client.take()
    for n in range(4):
        a.publish("t/x", b"%d" % n, 2, 10 + n)
    a.forward("t", b"4", b"5")
    assert sorted(a.payloads() + b.payloads()) == [b"%d" % n for n in range(6)]
    a.publish("own")
    assert a.payloads() == b.payloads() == [b"x"]


def test_user_properties_in_their_order():
    world = World()
    a = world.connect()
    a.subscribe("t")
    for qos in range(3):
        a.publish("t", b"", qos, 10 + qos, properties=USER)
    assert [m.properties.user_properties for m in a.messages()] == [USER.user_properties] * 3


def test_properties_that_pass_through():
    world = World()
    a = world.connect()
    a.subscribe("t", identifier=5)
    given = Properties(
        payload_format=1,
        content_type="My name",
        response_topic="t/answer",
        correlation_data=b"334",
        topic_alias=3,
    )
    for qos in range(3):
        a.publish("t", b"", qos, 10 + qos, properties=given)
    expected = Properties(
        payload_format=1,
        content_type="My name",
        response_topic="t/answer",
        correlation_data=b"334",
        subscription_identifiers=(5,),
    )
    assert [m.properties for m in a.messages()] == [expected] * 3


def test_publication_expiry():
    world = World()
    b = world.keeping("b")
    b.subscribe("t")
    b.leave()
    a = world.connect("a")
    for qos in (1, 2):
        a.publish("t", b"gone", qos, 10 + qos, properties=Properties(message_expiry=1))
        a.publish("t", b"there", qos, 20 + qos, properties=Properties(message_expiry=6))
    world.time.pass_by(3)
    b = world.keeping("b")
    assert [(m.payload, m.properties.message_expiry) for m in b.messages()] == [(b"there", 3)] * 2


def test_no_local():
    world = World()
    a, b = world.connect("a"), world.connect("b")
    for client in (a, b):
        client.subscribe(Subscription("t", 2, no_local=True))
        client.take()
    a.publish("t", b"noLocal", 1)
    a.forward("t", b"forwarded")
    assert a.messages() == []
    assert b.payloads() == [b"noLocal", b"forwarded"]


def test_retain_as_published():
    a = World().connect()
    a.subscribe(Subscription("t", 2, retain_as_published=True))
    a.publish("t", b"false", 1)
    a.publish("t", b"true", 1, retain=True)
    assert [(m.payload, m.retain) for m in a.messages()] == [(b"false", False), (b"true", True)]


@pytest.mark.parametrize(("handling", "first", "second"), [(0, 3, 3), (1, 3, 0), (2, 0, 0)])
def test_retain_handling(handling: int, first: int, second: int):
    world = World()
    a = world.connect()
    for qos in range(3):
        a.publish(TOPICS[1 + qos], b"x", qos, 10 + qos, retain=True)
    a.take()
    asked = Subscription("+/+", 2, retain_handling=handling)
    a.subscribe(asked)
    assert len(a.messages()) == first
    a.subscribe(asked)
    assert len(a.messages()) == second


def test_subscription_identifiers():
    world = World()
    a, b = world.connect("a"), world.connect("b")
    a.subscribe("t", identifier=456_789)
    b.subscribe("t", identifier=2)
    b.subscribe("+", identifier=3)
    a.take()
    b.take()
    b.publish("t", b"ids", 1)
    b.forward("t", b"forwarded")
    assert [m.properties.subscription_identifiers for m in a.messages()] == [(456_789,)] * 2
    assert [sorted(m.properties.subscription_identifiers) for m in b.messages()] == [[2, 3]] * 2
    a.subscribe("t")
    a.take()
    b.forward("t", b"no identifier any more")
    assert a.messages()[0].properties is NOTHING


def test_topic_aliases_of_ours():
    a = World().connect(topic_alias_maximum=1)
    a.subscribe("#")
    a.take()
    for qos in range(3):
        a.publish("t", b"", qos, 10 + qos)
    a.publish("u")
    assert [(m.topic, m.properties.topic_alias) for m in a.messages()] == [
        ("t", 1),
        ("", 1),
        ("", 1),
        ("u", None),
    ]


def test_maximum_packet_size():
    world = World()
    a = world.connect(maximum_packet_size=64)
    a.subscribe("t")
    b = world.connect("b")
    for qos in range(3):
        b.publish("t", b"." * 64, qos, 10 + qos)
        b.publish("t", b"small", qos, 20 + qos)
    b.forward("t", b"." * 64, b"small")
    assert a.payloads() == [b"small"] * 4
    assert a.attached.dropped == 4


def test_will_delay():
    world = World()
    b = world.connect("b")
    b.subscribe("will")
    b.take()
    will = Will("will", b"late", 1, properties=Properties(will_delay=3, content_type="text/plain"))
    world.keeping("a", will=will).leave(will=True)
    world.time.pass_by(2)
    assert b.messages() == []
    world.time.pass_by(2)
    assert [(m.payload, m.properties) for m in b.messages()] == [(b"late", Properties(content_type="text/plain"))]


def test_a_delayed_will_is_not_published_if_the_client_is_back():
    world = World()
    b = world.connect("b")
    b.subscribe("will")
    b.take()
    will = Will("will", b"late", 1, properties=Properties(will_delay=3))
    world.keeping("a", will=will).leave(will=True)
    world.time.pass_by(2)
    world.keeping("a")
    world.time.pass_by(10)
    assert b.messages() == []


def test_a_delayed_will_is_published_when_the_session_ends():
    world = World()
    b = world.connect("b")
    b.subscribe("will")
    b.take()
    will = Will("will", b"late", 1, properties=Properties(will_delay=300))
    world.connect("a", session_expiry=5, will=will).leave(will=True)
    world.time.pass_by(4)
    assert b.messages() == []
    world.time.pass_by(2)
    assert b.payloads() == [b"late"]
    world.keeping("a", will=will).leave(will=True)
    world.connect("a", clean=True)
    assert b.payloads() == [b"late"]


def test_flow_control():
    world = World()
    a = world.connect("a", receive_maximum=2)
    a.subscribe("t")
    a.take()
    b = world.connect("b")
    for n in range(5):
        b.publish("t", b"%d" % n, 1 + n % 2, 10 + n)
    first, second = a.messages()
    assert (first.payload, second.payload) == (b"0", b"1")
    a.answer(PubAck(first.packet_id))
    assert a.payloads() == [b"2"]
    # QoS 2 takes its place until PUBCOMP.
    a.answer(PubRec(second.packet_id))
    assert a.take() == [PubRel(second.packet_id)]
    a.answer(PubComp(second.packet_id))
    assert a.payloads() == [b"3"]
