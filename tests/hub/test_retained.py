"""What is retained: bounded, expiring, and given out as it is taken."""

from __future__ import annotations

import pytest

from gateway.hub.settings import HubSettings
from gateway.wire.mqtt_packets import Properties, PubAck, Reason
from tests.hub.clients import V5, V311, World


def test_so_many_and_so_much():
    for settings in (HubSettings(max_retained=20), HubSettings(max_retained_bytes=20_000)):
        world = World(settings=settings)
        mine = len(world.hub.retained)
        codes = [world.publish(f"t/{n}", b"." * 500, 1, retain=True)[0] for n in range(20)]
        assert Reason.QUOTA_EXCEEDED in codes
        kept = len(world.hub.retained) - mine
        assert 0 < kept < 20
        # One in the place of another is no more, one that removes is less.
        assert world.publish("t/0", b"." * 500, 1, retain=True) == [Reason.NO_MATCHING_SUBSCRIBERS]
        world.publish("t/0", b"", 1, retain=True)
        assert world.publish("t/new", b"." * 500, 1, retain=True) == [Reason.NO_MATCHING_SUBSCRIBERS]


def test_no_room_is_told_to_its_publisher():
    world = World(settings=HubSettings(max_retained=0))
    a, old = world.connect(), world.connect("old", V311)
    a.subscribe("t")
    a.take()
    a.publish("t", b"x", 1, retain=True)
    assert a.take() == [PubAck(7, Reason.QUOTA_EXCEEDED)]
    old.publish("t", b"y", 1, retain=True)
    assert old.ended is not None
    # With QoS 0 nobody asks; it is a message all the same.
    world.publish("t", b"z", retain=True)
    assert a.payloads() == [b"z"]


def test_expiry():
    world = World(settings=HubSettings(max_retained=12))
    a = world.connect()
    a.publish("t", b"x", retain=True, properties=Properties(message_expiry=10))
    world.time.pass_by(4)
    a.subscribe("t")
    assert [m.properties.message_expiry for m in a.messages()] == [6]
    world.time.pass_by(7)
    a.subscribe("t")
    assert a.messages() == []


def test_what_has_expired_makes_room():
    world = World(settings=HubSettings(max_retained=11))
    assert world.publish("t", b"x", 1, retain=True, expires=world.time.now + 5) == [0x10]
    assert world.publish("u", b"x", 1, retain=True) == [Reason.QUOTA_EXCEEDED]
    world.time.pass_by(6)
    assert world.publish("u", b"x", 1, retain=True) == [0x10]


@pytest.mark.parametrize("version", [V311, V5])
def test_a_subscription_to_very_many(version):
    """They do not count as a queue: who subscribes to all of them is not disconnected for it."""
    world = World(settings=HubSettings(max_queued=10, max_inflight=4))
    for n in range(50):
        world.publish(f"t/{n}", b"%d" % n, 1, retain=True)
    a = world.connect(version=version, receive_maximum=4) if version is V5 else world.connect(version=version)
    a.subscribe("t/#", qos=1)
    seen = []
    while found := a.messages():
        assert len(found) <= 4
        for m in found:
            seen.append(m.payload)
            a.answer(PubAck(m.packet_id))
    assert sorted(seen, key=int) == [b"%d" % n for n in range(50)]
    assert a.attached.dropped == 0


def test_a_client_that_does_not_take_them():
    world = World()
    for n in range(50):
        world.publish(f"t/{n}", b"." * 10_000, 0, retain=True)
    a = world.connect()
    a.slow = True
    a.subscribe("t/#")
    assert 0 < len(a.messages()) < 20
    a.slow = False
    world.publish("t/0", b"newer", retain=True)
    a.attached.drained()
    a.flush()
    found = a.payloads()
    assert found.count(b"newer") == 1
    assert a.attached.dropped == 1  # the live one


def test_no_more_for_a_subscription_that_is_gone():
    world = World()
    for n in range(20):
        world.publish(f"t/{n}", b"." * 10_000, 0, retain=True)
    a = world.connect()
    a.slow = True
    a.subscribe("t/#")
    a.unsubscribe("t/#")
    a.take()
    a.slow = False
    a.attached.drained()
    a.flush()
    assert a.messages() == []


def test_filters_without_end_cost_no_more_than_the_bound():
    world = World(settings=HubSettings(max_retained=100))
    for n in range(80):
        world.publish(f"t/{n}", b"." * 10_000, 0, retain=True)
    a = world.connect()
    a.slow = True
    for _ in range(5):
        a.subscribe(*["t/#"] * 50)
    assert a.attached._due is not None
    assert len(a.attached._due._waiting) <= 100
