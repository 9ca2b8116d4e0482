"""Sessions: taken over by their owner only, resumed by who may still, bounded, and forgotten."""

from __future__ import annotations

import pytest

from gateway.hub.settings import HubSettings
from gateway.wire.mqtt_packets import Connect, Properties, PubAck, Publish, PubRec, PubRel, Reason, Version, Will
from tests.hub.clients import V5, V311, Anything, World

versions = pytest.mark.parametrize("version", [V311, V5])


@versions
def test_take_over(version: Version):
    world = World()
    first = world.keeping("a", version)
    first.subscribe("t")
    world.publish("t", b"1", 1)
    second = world.keeping("a", version)
    assert first.ended is not None
    assert first.ended[0] is Reason.SESSION_TAKEN_OVER
    assert second.present
    assert [(m.payload, m.dup) for m in second.messages()] == [(b"1", True)]
    # The end of the first one is no end of the second.
    first.attached.detach(will=True)
    world.publish("t", b"2")
    assert second.payloads() == [b"2"]
    assert world.hub.sessions.online == 1


def test_who_is_taken_over_has_got_everything_up_to_then():
    world = World()
    first = world.connect("a")
    first.attached.publish(Publish("t", b"", 1, packet_id=5))
    world.connect("a")
    assert first.take() == [PubAck(5, 0x10)]


def test_nobody_takes_over_what_is_another_owner_s():
    world = World()
    a = world.keeping("a")
    a.subscribe("t")
    other = world.keeping("a", owner="somebody else")
    assert not other.present
    assert a.ended is None
    world.publish("t")
    assert (a.payloads(), other.messages()) == ([b"x"], [])


@pytest.mark.parametrize(("delay", "clean", "published"), [(0, False, 1), (5, False, 0), (5, True, 1)])
def test_the_will_of_who_is_taken_over(delay: int, clean: bool, published: int):
    """MQTT-3.1.4-3 and 3.1.3.2.2."""
    world = World()
    b = world.connect("b")
    b.subscribe("will")
    will = Will("will", b"x", properties=Properties(will_delay=delay))
    world.keeping("a", will=will)
    world.connect("a", clean=clean, session_expiry=60)
    world.time.pass_by(100)
    assert len(b.messages()) == published


@versions
def test_clean_start(version: Version):
    world = World()
    a = world.keeping("a", version)
    a.subscribe("t")
    a.leave()
    world.publish("t", b"1", 1)
    a = world.connect("a", version, clean=True)
    assert not a.present
    world.publish("t", b"2", 1)
    assert a.messages() == []


def test_before_5_0_a_session_that_is_not_clean_is_kept_for_the_longest_time():
    world = World(settings=HubSettings(max_session_expiry=100))
    a = world.keeping("a", V311)
    assert a.attached.session_expiry == 100
    a.leave()
    world.time.pass_by(99)
    a = world.keeping("a", V311)
    assert a.present
    a.leave()
    world.time.pass_by(101)
    assert not world.keeping("a", V311).present


def test_no_longer_than_the_bound():
    world = World(settings=HubSettings(max_session_expiry=100))
    a = world.keeping(session_expiry=0xFFFF_FFFF)
    assert a.attached.session_expiry == 100
    a.leave(expiry=0xFFFF_FFFF)
    world.time.pass_by(101)
    assert not list(world.hub.sessions)


@pytest.mark.parametrize(("before", "after"), [(V311, V5), (V5, V311)])
def test_a_session_outlives_its_version(before: Version, after: Version):
    world = World()
    a = world.keeping("a", before)
    a.subscribe("t")
    a.leave()
    b = world.connect("b", before)
    b.publish("t", b"1", 1)
    a = world.keeping("a", after)
    b.forward("t", b"2")
    assert a.payloads() == [b"1", b"2"]


def test_what_is_not_permitted_any_more_is_not_resumed():
    world = World()
    a = world.keeping()
    a.subscribe("denied", "fine", "$share/s/denied/too", "+")
    for topic in ("denied", "fine", "secret"):
        world.publish(topic, topic.encode(), 1)
    world.publish("secret", b"in the hands of the client already", 2)
    last = a.messages()[-1]
    a.answer(PubRec(last.packet_id))
    a.leave()
    for topic in ("denied", "secret", "fine"):
        world.publish(topic, topic.encode(), 1)
    world.permission("thing").unsubscribable |= {"denied", "denied/too", "secret", "+"}
    a = world.keeping()
    assert a.attached.filters == ["fine"]
    packets = a.take()
    assert [packet.payload for packet in packets if isinstance(packet, Publish)] == [b"fine", b"fine"]
    assert packets[1] == PubRel(last.packet_id)
    for topic in ("denied", "denied/too", "secret", "fine"):
        world.publish(topic, topic.encode())
    assert a.payloads() == [b"fine"]


def test_a_will_of_somebody_who_may_not_any_more():
    world = World()
    b = world.connect("b", owner="other")
    b.subscribe("will")
    a = world.connect("a", will=Will("will", b"x"))
    world.permission("thing").unpublishable.add("will")
    a.leave(will=True)
    assert b.messages() == []


def test_an_owner_s_oldest_session_gives_way():
    world = World(settings=HubSettings(max_owner_sessions=2))
    world.keeping("x", owner="other").leave()
    for name in "abc":
        world.keeping(name).leave()
    assert not world.keeping("a").present
    assert all(world.keeping(name, owner=owner).present for name, owner in (("c", "thing"), ("x", "other")))


def test_the_oldest_session_is_the_one_that_was_left_first():
    world = World(settings=HubSettings(max_owner_sessions=2))
    for name in "aba":
        world.keeping(name).leave()
    world.keeping("c").leave()
    assert [session.client_id for session in world.hub.sessions] == ["a", "c"]


def test_it_is_the_newest_permission_that_is_asked():
    world = World()
    a = world.keeping(will=Will("w", b"x"))
    a.subscribe("t")
    a.leave()
    denying = world.permissions["thing"] = Anything()
    denying.unsubscribable.add("t")
    denying.unpublishable.add("w")
    b = world.connect("b", owner="other")
    b.subscribe("w")
    a = world.keeping(will=Will("w", b"x"))
    assert a.attached.filters == []
    a.leave(will=True)
    assert b.messages() == []


def test_nobody_s_session_gives_way_to_another_owner_s():
    world = World(settings=HubSettings(max_sessions=2))
    for name in "abc":
        world.keeping(name, owner=name).leave()
    assert [world.keeping(name, owner=name).present for name in "abc"] == [True, True, False]


def test_everything_of_an_owner_is_forgotten():
    world = World()
    b = world.connect("b", owner="other")
    b.subscribe("will/#")
    late = Properties(will_delay=10)
    world.keeping("offline", will=Will("will/1", b"x", properties=late)).leave(will=True)
    online = world.keeping("online", will=Will("will/2", b"x", properties=late))
    online.subscribe("t")
    world.hub.end_sessions("thing")
    online.leave(will=True)
    world.time.pass_by(100)
    assert b.messages() == []
    assert [session.owner for session in world.hub.sessions] == ["other"]
    assert not world.keeping("offline").present
    assert not world.keeping("online").present


def test_nothing_is_left_of_a_session():
    world = World()
    for version in (V311, V5):
        a = world.connect("a", version, will=Will("w", b"x"))
        a.subscribe("t/+", "$share/s/t")
        world.publish("t/1", b"x", 1)
        a.leave(will=True)
    hub = world.hub
    assert not list(hub.sessions)
    assert (hub.sessions.online, hub.sessions.offline, hub.subscriptions.count) == (0, 0, 0)
    assert not hub.subscriptions.tree.count
    assert not hub.sessions._budgets
    assert not hub.sessions._budget.used


def test_nothing_is_sent_ahead_of_connack():
    world = World()
    a = world.keeping()
    a.subscribe("t")
    a.leave()
    world.publish("t", b"1", 1)

    class Quiet:
        data = b""

        def deliver(self, data: bytes) -> None:
            self.data += data

        def congested(self) -> bool:
            return False

        def end(self, code: Reason, reason: str) -> None:
            raise AssertionError

    quiet = Quiet()
    connect = Connect(V5, "a", False, properties=Properties(session_expiry=60))
    attached = world.hub.attach("thing", connect, quiet, world.permission("thing"))
    attached.drained()
    world.publish("t", b"2", 1)
    assert quiet.data == b""
    attached.start()
    world.hub.flush()
    assert quiet.data.count(b"\0\1t") == 2
