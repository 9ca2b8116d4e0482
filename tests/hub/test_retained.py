"""What is retained: bounded, expiring, and given out as it is taken."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.hub.frames import Frames
from gateway.hub.message import Message
from gateway.hub.retained import Due, Entry
from gateway.hub.rows import StoreError
from gateway.hub.settings import HubSettings
from gateway.hub.store import MemoryStore
from gateway.wire.mqtt_packets import Properties, PubAck, Reason, Subscribe, Subscription, Will
from tests.hub.clients import V5, V311, FailingStore, World


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
    world = World(settings=HubSettings(max_subscriptions=100))
    for n in range(80):
        world.publish(f"t/{n}", b"." * 10_000, 0, retain=True)
    a = world.connect()
    a.slow = True
    for _ in range(5):
        a.subscribe(*["t/#"] * 50)
    assert a.attached._due is not None
    assert len(a.attached._due._waiting) <= 100


# --- in steps --------------------------------------------------------------------------------------------------------


class Steps:
    """How many were made in the searches of a hub, each of which may make ten in a turn."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._search = world.hub.retained.search
        monkeypatch.setattr(Due, "STEPS", 10)
        monkeypatch.setattr(world.hub.retained, "search", self._counted)

    def _counted(self, topic_filter: str) -> Iterator[Entry | None]:
        for found in self._search(topic_filter):
            self.count += 1
            yield found


def test_a_search_does_not_keep_the_others_waiting(monkeypatch: pytest.MonkeyPatch):
    """A filter can mean none of very many, and a SUBSCRIBE can hold many of them."""
    world = World()
    for n in range(100):
        world.publish(f"t/{n}/x", b"%d" % n, retain=True)
    steps, a = Steps(world, monkeypatch), world.connect()
    for _ in range(2):
        a.attached.subscribe(Subscribe(1, (*[Subscription(f"+/+/{n}") for n in range(20)], Subscription("t/#"))), {})
    assert 0 < steps.count <= 10
    a.flush()
    assert steps.count > 20 * 100
    assert sorted(a.payloads(), key=int) == [b"%d" % n for n in range(100)]


def test_who_has_left_is_not_searched_for(monkeypatch: pytest.MonkeyPatch):
    world = World()
    for n in range(100):
        world.publish(f"t/{n}", retain=True)
    steps, a = Steps(world, monkeypatch), world.connect()
    a.attached.subscribe(Subscribe(1, (Subscription("t/#"),)), {})
    a.leave()
    assert steps.count <= 10


def test_what_is_replaced_during_a_search_is_found(monkeypatch: pytest.MonkeyPatch):
    world = World()
    for n in range(30):
        world.publish(f"t/{n}", b"old", retain=True)
    Steps(world, monkeypatch)
    a = world.connect()
    a.attached.subscribe(Subscribe(1, (Subscription("t/#"),)), {})
    for n in range(30):
        world.hub.publish(Message(f"t/{n}", b"new", 0, True))
    a.flush()
    assert len({found.topic for found in a.messages() if found.retain}) == 30


class Hearing:
    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def arrived(self, message: Message) -> None:
        self.heard.append(message.payload)


@pytest.mark.parametrize("stops", [False, True])
def test_a_listener_does_not_keep_the_others_waiting(monkeypatch: pytest.MonkeyPatch, stops: bool):
    world, hearing = World(), Hearing()
    for n in range(100):
        world.publish(f"t/{n}", b"%d" % n, retain=True)
    world.publish("t/0", b"gone soon", retain=True, expires=world.time.now + 1)
    world.time.now += 2
    steps = Steps(world, monkeypatch)
    listening = world.hub.listen("t/#", hearing, retained=True)
    assert steps.count == 10
    assert len(hearing.heard) < 10
    if stops:
        listening.stop()
    world.time.turn()
    assert steps.count == 10 if stops else sorted(hearing.heard, key=int) == [b"%d" % n for n in range(1, 100)]


def test_nor_does_one_with_large_messages():
    world, hearing = World(), Hearing()
    for n in range(10):
        world.publish(f"t/{n}", bytes(50_000), retain=True)
    world.hub.listen("t/#", hearing, retained=True)
    assert len(hearing.heard) == 2
    world.time.turn()
    assert len(hearing.heard) == 10


# --- whose they are --------------------------------------------------------------------------------------------------


def retain(world: World, owner: str, count: int, payload: bytes = b"x") -> list[Reason]:
    """At topics of its own, one after the other."""
    a = world.connect(owner=owner)
    codes = []
    for n in range(count):
        a.publish(f"{owner}/{n}", payload, 1, retain=True)
        (answer,) = a.take()
        assert isinstance(answer, PubAck)
        codes.append(Reason(answer.code))
    a.leave()
    return codes


@pytest.mark.parametrize("bound", [HubSettings(max_retained=40), HubSettings(max_retained_bytes=4 * 16_000)])
def test_nobody_has_more_than_a_quarter(bound: HubSettings):
    world = World(settings=bound)
    codes = retain(world, "greedy", 20, b"." * 600)
    kept = codes.count(Reason.NO_MATCHING_SUBSCRIBERS)
    assert 8 <= kept <= 11
    assert codes == [Reason.NO_MATCHING_SUBSCRIBERS] * kept + [Reason.QUOTA_EXCEEDED] * (20 - kept)
    # Whoever comes under another client id is the same.
    assert retain(world, "greedy", kept + 1, b"." * 600)[-1] is Reason.QUOTA_EXCEEDED
    assert retain(world, "modest", 1, b"." * 600) == [Reason.NO_MATCHING_SUBSCRIBERS]
    # What is in the place of its own is no more; and what it removes makes room.
    a = world.connect(owner="greedy")
    a.publish("greedy/0", b"", retain=True)
    a.publish("new", b"." * 600, 1, retain=True)
    assert a.take() == [PubAck(7, Reason.NO_MATCHING_SUBSCRIBERS)]


def test_a_message_in_anothers_place_is_not_the_others_any_more():
    world = World(settings=HubSettings(max_retained=40))
    retain(world, "a", 10)
    b = world.connect(owner="b")
    b.publish("a/0", b"mine", retain=True)
    assert world.hub.retained._owned["a"][0] == 9
    assert world.hub.retained._owned["b"][0] == 1
    assert retain(world, "a", 10)[1:] == [Reason.NO_MATCHING_SUBSCRIBERS] * 9
    for n in range(10):
        world.publish(f"a/{n}", b"", retain=True)
    assert not world.hub.retained._owned


def test_a_will_is_its_owners():
    world = World(settings=HubSettings(max_retained=40))
    retain(world, "a", 9)
    for n in range(3):
        world.connect(f"w{n}", owner="a", will=Will(f"w/{n}", b"bye", 0, True)).leave(will=True)
    b = world.connect("b", owner="b")
    b.subscribe("w/#")
    assert [found.topic for found in b.messages()] == ["w/0"]


def test_what_could_not_be_stored_is_nobodys():
    store = FailingStore(MemoryStore())
    world = World(store)
    a = world.connect(owner="a")
    a.publish("t", b"old", 1, retain=True)
    before = dict(world.hub.retained._owned)
    store.error = StoreError("disk")
    a.publish("t", b"newer and longer", 1, retain=True)
    a.publish("u", b"x", 1, retain=True)
    assert before
    assert world.hub.retained._owned == before


def test_what_counts_for_nobody():
    """The hub's own, and what is left of an earlier life."""
    world = World(settings=HubSettings(max_retained=40))
    frames = Frames(Message("t", b"x", 0, True), world.time.now)
    world.hub.retained.put(frames)
    assert not world.hub.retained._owned


def test_a_wide_topic_counts_as_what_it_takes():
    world = World(settings=HubSettings(max_retained_bytes=200_000))
    for n in range(9):
        world.publish(f"{n}\U0001f600" + "x" * 10_000, retain=True)
    assert len([one for one in world.hub.retained.entries() if not one.message.topic.startswith("$")]) == 2
