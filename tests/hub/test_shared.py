"""Shared subscriptions: one of them, in turn, who can take it."""

from __future__ import annotations

from collections import Counter

from gateway.hub.settings import HubSettings
from gateway.wire.mqtt_packets import PubAck, PubRec
from tests.hub.clients import World

SHARED = "$share/s/t"


def members(world: World, names: str, keeping: bool = False):
    made = [(world.keeping if keeping else world.connect)(name) for name in names]
    for client in made:
        client.subscribe(SHARED)
        client.take()
    return made


def test_in_turn():
    world = World()
    made = members(world, "abc")
    for n in range(9):
        world.publish("t", b"%d" % n, n % 3)
    assert Counter(len(client.messages()) for client in made) == {3: 3}


def test_those_who_take_it_come_first():
    world = World()
    slow, quick = members(world, "ab")
    slow.slow = True
    for n in range(2):
        world.publish("t", b"%d" % n, 1)
    slow.take()
    quick.take()
    for n in range(4):
        world.publish("t", b"%d" % n, n % 2)
    assert slow.messages() == []
    assert len(quick.messages()) == 4


def test_who_is_offline_gets_it_only_if_nobody_else_is_there():
    world = World()
    away, here = members(world, "ab", keeping=True)
    away.leave()
    for _ in range(3):
        world.publish("t", b"", 1)
    assert len(here.messages()) == 3
    here.leave()
    for _ in range(4):
        world.publish("t", b"", 1)
        world.publish("t", b"", 0)
    assert [len(world.keeping(name).messages()) for name in "ab"] == [2, 5]


def test_a_full_queue_is_passed_over():
    world = World(settings=HubSettings(max_queued=1))
    made = members(world, "ab")
    for _ in range(2):
        world.publish("t", b"", 1)
    assert [len(client.messages()) for client in made] == [1, 1]
    world.publish("t", b"", 1)
    assert all(client.ended is None for client in made)


def test_what_a_member_leaves_behind_goes_to_another():
    """MQTT-4.8.2-5 and -6."""
    world = World()
    a, b = members(world, "ab")
    for n in range(6):
        world.publish("t", b"%d" % n, 1 + n // 4)
    found = a.messages()
    assert [m.payload for m in found] == [b"0", b"2", b"4"]
    b.take()
    a.answer(PubAck(found[0].packet_id))
    a.answer(PubRec(found[2].packet_id))
    a.leave()
    # Its message of QoS 2 is nobody else's.
    assert b.payloads() == [b"2"]


def test_what_waits_for_a_session_waits():
    world = World(settings=HubSettings(sys_interval=1e9))  # whose messages would flush as well
    a, b = members(world, "ab", keeping=True)
    world.publish("t", b"0", 1)
    a.leave()
    assert b.messages() == []
    world.time.pass_by(10_000)
    assert b.payloads() == [b"0"]


def test_groups_are_told_apart_by_name_and_filter():
    world = World()
    a = world.connect()
    a.subscribe("$share/s/t", "$share/r/t", "$share/s/+", "t")
    a.take()
    world.publish("t")
    assert len(a.messages()) == 4
    a.unsubscribe("$share/s/t")
    a.take()
    world.publish("t")
    assert len(a.messages()) == 3


def test_the_own_qos_identifier_and_flag():
    world = World()
    a = world.connect()
    a.subscribe(SHARED, qos=1, identifier=7)
    a.take()
    world.publish("t", b"", 2, retain=True)
    (m,) = a.messages()
    assert (m.qos, m.retain, m.properties.subscription_identifiers) == (1, False, (7,))


def test_nothing_retained_is_sent_to_a_share():
    world = World()
    world.publish("t", b"", 1, retain=True)
    world.publish("t", b"x", 1, retain=True)
    a = world.connect()
    a.subscribe(SHARED)
    assert a.messages() == []
