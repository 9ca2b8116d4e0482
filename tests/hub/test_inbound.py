"""What a client sends: QoS 2 once, Receive Maximum, the order of answers, subscriptions within bounds."""

from __future__ import annotations

import pytest

from gateway.hub.settings import HubSettings
from gateway.wire.mqtt_packets import (
    Malformed,
    Packet,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Reason,
    SubAck,
    Subscribe,
    Subscription,
    Version,
)
from tests.hub.clients import V5, V311, World

versions = pytest.mark.parametrize("version", [V311, V5])


@versions
def test_qos_2_is_published_once(version: Version):
    world = World()
    b = world.connect("b", version)
    b.subscribe("t")
    a = world.keeping("a", version)
    a.publish("t", b"1", 2, 5)
    a.publish("t", b"1", 2, 5, dup=True)
    assert a.take() == [PubRec(5), PubRec(5)]
    a.leave()
    a = world.keeping("a", version)
    a.publish("t", b"1", 2, 5, dup=True)
    a.answer(PubRel(5))
    assert a.take() == [PubRec(5), PubComp(5)]
    a.publish("t", b"2", 2, 5)
    assert b.payloads() == [b"1", b"2"]


def test_nobody_is_told_apart():
    world = World()
    a = world.connect()
    a.publish("t", b"", 1)
    a.publish("t", b"", 2)
    assert a.take() == [PubAck(7, 0x10), PubRec(7, 0x10)]


def test_receive_maximum():
    world = World(settings=HubSettings(receive_maximum=3))
    a = world.connect()
    for n in range(3):
        a.publish("t", b"", 2, 1 + n)
    # QoS 0 does not count, nor does what is there already.
    a.publish("t", b"")
    a.publish("t", b"", 2, 2, dup=True)
    for qos in (1, 2):
        with pytest.raises(Malformed) as error:
            a.publish("t", b"", qos, 9)
        assert error.value.code is Reason.RECEIVE_MAXIMUM_EXCEEDED
    a.answer(PubRel(1))
    a.publish("t", b"", 1, 9)


def test_before_5_0_there_is_a_bound_too():
    a = World().connect(version=V311)
    with pytest.raises(Malformed):
        for n in range(5_000):
            a.attached.publish(Publish("t", b"", 2, packet_id=1 + n))


def test_too_many_subscriptions():
    world = World(settings=HubSettings(max_subscriptions=2))
    for version in (V311, V5):
        a = world.connect(version=version)
        a.subscribe("a", "b", "c", "a")
        assert a.take() == [SubAck(9, (2, 2, 0x97 if version is V5 else 0x80, 2))]
        a.unsubscribe("a")
        a.subscribe("c")
        assert a.take()[-1] == SubAck(9, (2,))


def test_filters_are_bounded_by_their_bytes():
    world = World(settings=HubSettings(max_filter_bytes=1_000))
    for long in ("a" * 600, "/" * 2):
        a = world.connect()
        a.subscribe("+", long, "#")
        assert a.take() == [SubAck(9, (2, 0x97, 2))]
        a.unsubscribe("+", "#")
        a.subscribe("x" + long[2:])
        assert a.take()[-1] == SubAck(9, (2,))


def test_a_shared_subscription_has_no_no_local():
    a = World().connect()
    with pytest.raises(Malformed) as error:
        a.attached.subscribe(Subscribe(1, (Subscription("$share/a/b", no_local=True),)), {})
    assert error.value.code is Reason.PROTOCOL_ERROR


def test_one_delivery_for_each_flush():
    world = World()
    a = world.connect()
    a.subscribe("t")
    a.take()
    before = a.batches
    for n in range(10):
        a.attached.publish(Publish("t", b"%d" % n, n % 3, packet_id=n + 1 if n % 3 else 0))
    world.hub.flush()
    assert a.batches == before + 1
    assert len(a.take()) == 16


@versions
def test_a_plain_one_is_published_as_any(version: Version):
    world = World()
    a = world.connect("a", version)
    b = world.connect("b")

    def answers(topic: str) -> list[Packet]:
        a.publish(topic, b"x", 1, 5)
        usual = a.take()
        a.attached.publish_plain(world.hub.topic(topic.encode()), 5, b"x")
        a.flush()
        assert a.take() == usual
        return usual

    assert answers("t") == [PubAck(5, 0x10 if version is V5 else 0)]
    assert answers("$t") == [PubAck(5, 0x87 if version is V5 else 0)]
    b.subscribe("t")
    assert answers("t") == [PubAck(5)]
    assert b.payloads() == [b"x", b"x"]


@versions
def test_forward(version: Version):
    """The same bytes to who speaks the same family, their own to others."""
    world = World()
    both = world.connect("old", V311), world.connect("new", V5)
    for client in both:
        client.subscribe("t/+")
        client.take()
    a = world.connect("a", version)
    a.forward("t/x", b"1", b"", b"3" * 1_000)
    for client in both:
        found = client.messages()
        assert [m.payload for m in found] == [b"1", b"", b"3" * 1_000]
        assert {(m.topic, m.qos, m.retain) for m in found} == {("t/x", 0, False)}


def test_what_is_forwarded_reaches_listeners_and_shares():
    world = World()
    heard: list[bytes] = []

    class Ear:
        def arrived(self, message) -> None:
            heard.append(message.payload)

    listening = world.hub.listen("t/#", Ear())
    a = world.connect()
    a.subscribe("$share/s/t/+")
    a.take()
    a.forward("t/x", b"1", b"2")
    listening.stop()
    a.forward("t/x", b"3")
    assert heard == [b"1", b"2"]
    assert a.payloads() == [b"1", b"2", b"3"]


def test_a_listener_and_what_is_retained():
    world = World()
    world.publish("t/a", b"kept", 1, retain=True)
    world.publish("t/b", b"expired", 1, retain=True, expires=world.time.now + 1)
    world.time.pass_by(2)
    heard: list[bytes] = []

    class Ear:
        def arrived(self, message) -> None:
            heard.append(message.payload)

    world.hub.listen("t/+", Ear())
    assert heard == []
    world.hub.listen("t/+", Ear(), retained=True)
    assert heard == [b"kept"]


def test_a_message_that_no_packet_could_have():
    world = World()
    assert world.publish("a/+") == [Reason.TOPIC_NAME_INVALID]
    assert world.publish("") == [Reason.TOPIC_NAME_INVALID]
    assert world.publish("t" * 70_000) == [Reason.IMPLEMENTATION_SPECIFIC_ERROR]
    assert world.publish("$SYS/broker/version") == [Reason.NOT_AUTHORIZED]
    assert world.publish("t") == [Reason.NO_MATCHING_SUBSCRIBERS]
