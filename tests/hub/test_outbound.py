"""QoS 1 and 2 towards a client: identifiers, the window, order, bounds, and answers that do not fit."""

from __future__ import annotations

import pytest

from gateway.hub.message import Message
from gateway.hub.settings import HubSettings
from gateway.wire.mqtt_packets import (
    Malformed,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Reason,
    Version,
)
from tests.hub.clients import V5, V311, World

versions = pytest.mark.parametrize("version", [V311, V5])


def test_the_window_before_5_0():
    world = World(settings=HubSettings(max_inflight=3))
    a = world.connect(version=V311)
    a.subscribe("t")
    for n in range(8):
        world.publish("t", b"%d" % n, 1)
    found = a.messages()
    assert [m.payload for m in found] == [b"0", b"1", b"2"]
    for m in found:
        a.answer(PubAck(m.packet_id))
    assert a.payloads() == [b"3", b"4", b"5"]


def test_qos_0_does_not_wait_for_the_window():
    world = World(settings=HubSettings(max_inflight=1))
    a = world.connect(version=V311)
    a.subscribe("t")
    for qos in (1, 1, 0):
        world.publish("t", b"%d" % qos, qos)
    assert a.payloads() == [b"1", b"0"]


def test_identifiers_are_used_once_at_a_time():
    world = World()
    a = world.connect()
    a.subscribe("t")
    world.publish("t", b"stays", 1)
    a.attached.session.out._last_id = 65_534
    for _ in range(3):
        world.publish("t", b"x", 1)
    assert [m.packet_id for m in a.messages()] == [1, 65_535, 2, 3]


def test_an_answer_to_something_else_is_refused():
    world = World()
    a = world.connect()
    a.subscribe("t")
    world.publish("t", b"1", 1)
    world.publish("t", b"2", 2)
    one, two = a.messages()
    for wrong in (PubAck(two.packet_id), PubRec(one.packet_id), PubComp(two.packet_id)):
        with pytest.raises(Malformed) as error:
            a.attached.acknowledge(wrong)
        assert error.value.code is Reason.PROTOCOL_ERROR


@versions
def test_answers_to_what_is_not_known(version: Version):
    a = World().connect(version=version)
    code = 0x92 if version is V5 else 0
    a.answer(PubAck(5))
    a.answer(PubComp(5))
    assert a.take() == []
    a.answer(PubRec(5))
    assert a.take() == [PubRel(5, code)]
    a.answer(PubRel(5))
    assert a.take() == [PubComp(5, code)]


def test_a_refused_message_is_done_with():
    world = World()
    a = world.connect(receive_maximum=1)
    a.subscribe("t")
    world.publish("t", b"1", 2)
    world.publish("t", b"2", 2)
    first = a.messages()[0]
    a.answer(PubRec(first.packet_id, Reason.QUOTA_EXCEEDED))
    assert a.payloads() == [b"2"]


def test_a_slow_subscriber_is_bounded_and_told():
    world = World(settings=HubSettings(max_queued=5))
    a = world.keeping()
    a.subscribe("t")
    a.take()
    a.slow = True
    world.publish("t", b"the last one it is sent")
    for n in range(7):
        world.publish("t", b"lost", 0)
        if n < 5:
            world.publish("t", b"%d" % n, 1)
    assert a.ended is None
    assert a.attached.dropped == 7
    assert a.payloads() == [b"the last one it is sent"]
    world.publish("t", b"5", 1)
    assert a.ended is not None
    assert a.ended[0] is Reason.QUOTA_EXCEEDED
    a = world.keeping()
    assert a.present
    assert a.payloads() == [b"%d" % n for n in range(5)]


@versions
def test_a_slow_subscriber_is_told_what_was_forwarded_past_it(version: Version):
    world = World()
    a, b = world.connect(version=version), world.connect("b")
    a.subscribe("t")
    a.take()
    a.slow = True
    b.forward("t", b"1")
    b.forward("t", b"2", b"3")
    assert a.payloads() == [b"1"]
    assert a.attached.dropped == world.hub.counters.dropped == 2


def test_a_slow_subscriber_that_catches_up():
    world = World()
    a = world.connect()
    a.subscribe("t")
    a.take()
    a.slow = True
    for qos in (0, 1, 0, 2):
        world.publish("t", b"%d" % qos, qos)
    a.slow = False
    a.attached.drained()
    world.hub.flush()
    assert a.payloads() == [b"0", b"1", b"2"]


def test_bytes_are_bounded_too():
    world = World(settings=HubSettings(max_queued_bytes=10_000))
    a = world.keeping()
    a.subscribe("t")
    a.leave()
    for n in range(20):
        world.publish("t", bytes([n]) * 1_000, 1)
    a = world.keeping()
    assert 5 < len(a.messages()) < 10


@pytest.mark.parametrize("bound", ["max_owner_bytes", "max_total_bytes"])
def test_bytes_of_an_owner_and_of_all_are_bounded(bound: str):
    world = World(settings=HubSettings(**{bound: 10_000}))
    for name in "abc":
        a = world.keeping(name)
        a.subscribe(name)
        a.leave()
    for _ in range(4):
        for name in "abc":
            world.publish(name, b"." * 1_000, 1)
    assert sum(session.out.count for session in world.hub.sessions) == 7
    other = world.keeping("x", owner="somebody else")
    other.subscribe("x")
    other.leave()
    world.publish("x", b"." * 1_000, 1)
    kept = next(session for session in world.hub.sessions if session.owner == "somebody else").out.count
    assert kept == (1 if bound == "max_owner_bytes" else 0)
    world.hub.end_sessions("thing")
    world.publish("x", b"." * 1_000, 1)
    assert sum(session.out.count for session in world.hub.sessions) == kept + 1


def test_expired_messages_make_room():
    world = World(settings=HubSettings(max_queued=2))
    a = world.keeping()
    a.subscribe("t")
    a.leave()
    b = world.connect("b")
    for n in range(2):
        b.publish("t", b"%d" % n, 1, properties=Properties(message_expiry=1))
    b.publish("t", b"no room", 1)
    world.time.pass_by(2)
    b.publish("t", b"room", 1)
    assert world.keeping().payloads() == [b"room"]


def test_an_alias_is_not_used_where_it_was_never_told():
    world = World()
    a = world.connect(topic_alias_maximum=5, maximum_packet_size=30)
    a.subscribe("t")
    a.take()
    world.publish("t", b"." * 100)
    world.publish("t", b"small")
    world.publish("t", b"smaller")
    assert [(m.topic, m.properties.topic_alias) for m in a.messages()] == [("t", 1), ("", 1)]


def test_no_alias_after_a_reconnection():
    world = World()
    for _ in range(2):
        a = world.keeping(topic_alias_maximum=5)
        a.subscribe("t")
        a.take()
        world.publish("t")
        assert [m.topic for m in a.messages()] == ["t"]
        a.leave()


def test_a_smaller_window_after_a_reconnection():
    world = World()
    a = world.keeping()
    a.subscribe("t")
    for n in range(3):
        world.publish("t", b"%d" % n, 1)
    a.leave()
    world.publish("t", b"3", 1)
    a = world.keeping(receive_maximum=2)
    seen: list[Publish] = []
    while found := a.messages():
        seen += found
        assert len(found) <= 2
        a.answer(PubAck(found[0].packet_id))
        if len(found) == 2:
            a.answer(PubAck(found[1].packet_id))
    assert [(m.payload, m.dup) for m in seen] == [(b"0", True), (b"1", True), (b"2", True), (b"3", False)]


def test_an_answer_that_comes_before_it_is_sent_again():
    world = World()
    a = world.keeping()
    a.subscribe("t")
    for n in range(3):
        world.publish("t", b"%d" % n, 1)
    ids = [m.packet_id for m in a.messages()]
    a.leave()
    a = world.keeping(receive_maximum=1)
    a.take()
    a.answer(PubAck(ids[2]))
    assert a.take() == []
    a.answer(PubAck(ids[0]))
    assert a.payloads() == [b"1"]
    a.answer(PubAck(ids[1]))
    assert a.take() == []
    assert a.attached.session.out.count == 0
    world.publish("t", b"next", 1)
    assert a.payloads() == [b"next"]


def test_who_is_there_and_reads_does_not_suffer_from_what_others_leave_lying_about():
    world = World(settings=HubSettings(max_total_bytes=10_000))
    a = world.keeping()
    a.subscribe("t")
    a.leave()
    for _ in range(20):
        world.publish("t", b"." * 1_000, 1)
    b = world.connect("b", owner="somebody else")
    b.subscribe("u")
    b.take()
    world.publish("u", b"x" * 1_000, 1)
    assert b.payloads() == [b"x" * 1_000]
    # But no more than so much of it, where it is not acknowledged.
    for _ in range(300):
        world.publish("u", b"x" * 1_000, 1)
    assert b.ended == (Reason.QUOTA_EXCEEDED, "too many messages wait for the client")


def test_one_message_that_comes_a_thousand_times_is_bounded():
    """Each shared subscription has its own of it, all in one turn."""
    world = World()
    a = world.connect()
    a.subscribe(*[f"$share/{n}/t" for n in range(100)])
    a.take()
    world.hub.publish(Message("t", b"." * 100_000))
    box = a.attached.session.box
    assert 1_000_000 < sum(map(len, box.chunks)) < 1_300_000
    a.flush()
    assert len(a.messages()) + a.attached.dropped == 100
    # After that it is as before.
    world.publish("t", b"." * 100_000)
    assert len(a.messages()) > 10
