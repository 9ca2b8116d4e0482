"""What was acknowledged survives the end of the process, and nothing is acknowledged before it would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.hub.message import Message
from gateway.hub.restore import snapshot
from gateway.hub.rows import StoreError
from gateway.hub.sessions import RETURN_SECONDS
from gateway.hub.settings import HubSettings
from gateway.hub.store import SqliteStore
from gateway.wire.mqtt_packets import (
    Malformed,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Reason,
    SubAck,
    Subscription,
    Version,
    Will,
)
from tests.hub.clients import V5, V311, World
from tests.hub.machine import Machine

versions = pytest.mark.parametrize("version", [V311, V5])


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.store.close()


def lists(world: World) -> list[str]:
    return sorted(map(repr, snapshot(world.hub.sessions, world.hub.retained)))


@versions
@pytest.mark.parametrize("how", ["restart", "crash"])
def test_everything_survives(machine: Machine, version: Version, how: str):
    world = machine.world
    a = world.keeping("a", version)
    a.subscribe("t/#", "$share/s/u", qos=1)
    a.subscribe("q")
    told = Properties(content_type="text/plain", user_properties=(("b", "1"), ("a", "2")))
    world.publish("q", b"sent", 2, properties=told)
    world.publish("t/x", b"sent too", 1)
    sent = a.messages()
    a.publish("nowhere", b"", 2, 55)
    a.leave()
    world.publish("t/y", b"queued", 1, expires=world.time.now + 100, properties=told)
    world.publish("u", b"shared", 1)
    world.publish("kept", b"retained", 1, retain=True, properties=told)
    world.publish("kept/0", b"retained", 0, retain=True)
    before = lists(world)
    world = getattr(machine, how)(after=10)
    assert lists(world) == before
    a = world.keeping("a", version)
    assert a.present
    found = a.messages()
    assert [(m.payload, m.packet_id, m.dup) for m in found[:2]] == [
        (b"sent", sent[0].packet_id, True),
        (b"sent too", sent[1].packet_id, True),
    ]
    assert [m.payload for m in found[2:]] == [b"queued", b"shared"]
    if version is V5:
        assert found[0].properties == told
        assert found[2].properties.message_expiry == 90
    a.publish("nowhere", b"", 2, 55, dup=True)
    a.answer(PubRel(55))
    assert a.take() == [PubRec(55), PubComp(55)]
    a.subscribe("kept/#")
    assert sorted(m.topic for m in a.messages()) == ["kept", "kept/0"]
    world.publish("t/z", b"subscribed still", 0)
    assert a.payloads() == [b"subscribed still"]


def test_nothing_is_left_of_what_is_done(machine: Machine):
    world = machine.world
    a = world.keeping()
    a.subscribe("t", "u")
    for qos in (1, 2):
        world.publish("t", b"%d" % qos, qos)
    one, two = a.messages()
    a.answer(PubAck(one.packet_id))
    a.answer(PubRec(two.packet_id))
    a.answer(PubComp(two.packet_id))
    a.unsubscribe("u")
    world.publish("r", b"1", 1, retain=True)
    world.publish("r", b"", 1, retain=True)
    a.publish("x", b"", 2, 5)
    a.answer(PubRel(5))
    stored = machine.store.load()
    assert (len(stored.sessions), [row.filter for row in stored.subscriptions]) == (1, ["t"])
    assert not (stored.messages)
    assert not (stored.deliveries)
    assert not (stored.inbound)
    assert not (stored.retained)
    world.connect(clean=True)
    stored = machine.store.load()
    assert not (stored.sessions)
    assert not (stored.subscriptions)


def test_a_message_is_stored_once(machine: Machine):
    for name in "abc":
        a = machine.world.keeping(name)
        a.subscribe("t")
        a.leave()
    machine.world.publish("t", b"x", 1, retain=True)
    stored = machine.store.load()
    assert (len(stored.messages), len(stored.deliveries), len(stored.retained)) == (1, 3, 1)


def test_no_acknowledgement_before_the_commit(machine: Machine):
    world = machine.world
    a = world.keeping("a")
    a.subscribe("t")
    a.take()
    b = world.connect("b")
    b.publish("t", b"1", 1, 1, turn=False)
    b.publish("nowhere", b"2", 1, 2, turn=False)
    b.publish("t", b"3", 2, 3, turn=False)
    b.publish("t", b"3", 2, 3, dup=True, turn=False)
    assert b.take() == []
    # Of QoS 2 not even the message: were it to come again, its receiver could not tell.
    assert a.payloads() == [b"1"]
    commits = len(machine.store.commits)
    world.time.turn()
    assert len(machine.store.commits) == commits + 1
    assert b.take() == [PubAck(1), PubAck(2, 0x10), PubRec(3), PubRec(3)]
    assert a.payloads() == [b"3"]


def test_what_needs_no_store_is_acknowledged_at_once(machine: Machine):
    world = machine.world
    a = world.connect("a")
    a.subscribe("t")
    a.take()
    a.publish("t", b"", 1, turn=False)
    a.publish("t", b"", 2, 8, turn=False)
    assert [type(packet) for packet in a.take()] == [Publish, PubAck, Publish, PubRec]


def test_pubrel_and_pubcomp_wait_too(machine: Machine):
    world = machine.world
    a = world.keeping()
    a.subscribe("t")
    world.publish("t", b"x", 2)
    packet_id = a.messages()[0].packet_id
    a.publish("nowhere", b"", 2, 5)
    a.take()
    a.answer(PubRec(packet_id), turn=False)
    a.answer(PubRel(5), turn=False)
    assert a.take() == []
    world.time.turn()
    assert a.take() == [PubRel(packet_id), PubComp(5)]


@versions
def test_what_was_released_stays_released(machine: Machine, version: Version):
    world = machine.world
    a = world.keeping("a", version)
    a.subscribe("t")
    world.publish("t", b"x", 2)
    packet_id = a.messages()[0].packet_id
    a.answer(PubRec(packet_id))
    # It has been completed, but that was not stored.
    a.answer(PubComp(packet_id), turn=False)
    assert machine.crash().keeping("a", version).take() == [PubRel(packet_id)]


def test_a_store_that_does_not_come_back_before_the_end(machine: Machine):
    world = machine.world
    a = world.keeping()
    machine.store.error = LOCKED
    a.subscribe("t")
    world.hub.close()
    machine.store.error = None
    written = len(machine.store.commits)
    world.time.pass_by(10)
    assert len(machine.store.commits) == written


def test_what_is_overtaken_has_no_alias(machine: Machine):
    world = machine.world
    a = world.keeping(topic_alias_maximum=5)
    a.subscribe("t")
    a.take()
    for qos in (2, 0):
        world.hub.publish(Message("t", b"%d" % qos, qos))
    world.time.turn()
    assert [(m.payload, m.topic, m.properties.topic_alias) for m in a.messages()] == [
        (b"0", "t", 1),
        (b"2", "t", None),
    ]


def test_receive_maximum_counts_what_is_not_stored_yet(tmp_path: Path):
    machine = Machine(tmp_path, HubSettings(receive_maximum=3))
    a = machine.world.keeping("a")
    a.subscribe("t")
    b = machine.world.connect("b")
    for n in range(3):
        b.publish("t", b"", 1 + n % 2, 1 + n, turn=False)
    with pytest.raises(Malformed):
        b.publish("t", b"", 1, 9, turn=False)
    machine.world.time.turn()
    b.publish("t", b"", 1, 9)
    machine.store.close()


def test_suback_comes_before_what_is_retained(machine: Machine):
    world = machine.world
    world.publish("t", b"x", 1, retain=True)
    a = world.keeping()
    a.subscribe("t")
    assert [type(packet) for packet in a.take()] == [SubAck, Publish]


def test_numbers_are_not_used_again(machine: Machine):
    a = machine.world.keeping("a")
    a.subscribe("t")
    for _ in range(20):
        machine.world.publish("t", b"", 1)
        a.answer(PubAck(a.messages()[0].packet_id))
    a.leave()
    for name in "abc":
        a = machine.world.keeping(name)
        a.subscribe("t")
        a.leave()
    machine.world.publish("t", b"1", 1)
    for n in (b"2", b"3"):
        machine.crash().publish("t", n, 1)
    world = machine.crash()
    assert [world.keeping(name).payloads() for name in "abc"] == [[b"1", b"2", b"3"]] * 3


def test_what_is_forgotten_is_forgotten_in_the_store(machine: Machine):
    world = machine.world
    a = world.keeping("a")
    a.subscribe("t")
    world.keeping("b").leave()
    world.publish("t", b"x", 1)
    world.hub.end_sessions("thing")
    world.time.turn()
    world = machine.crash()
    assert not list(world.hub.sessions)
    world.time.turn()
    stored = machine.store.load()
    assert (stored.sessions, stored.deliveries, stored.messages) == ([], [], [])


def test_done_is_called_once_it_is_stored(machine: Machine):
    world = machine.world
    codes: list[Reason] = []
    a = world.keeping()
    a.subscribe("t")
    world.hub.publish(Message("t", b"x", 1), codes.append)
    assert codes == []
    world.time.turn()
    assert codes == [Reason.SUCCESS]


def test_a_will_survives(machine: Machine):
    world = machine.world
    b = world.keeping("b")
    b.subscribe("will/#")
    said = Properties(will_delay=30, message_expiry=50, content_type="c")
    world.keeping("a", will=Will("will/delayed", b"1", 1, properties=said)).leave(will=True)
    world.connect("c", will=Will("will/lost", b"2", 1, properties=said))
    world.keeping("d", will=Will("will/lost", b"3", 1, properties=said))
    world = machine.crash(after=10)
    b = world.keeping("b")
    world.time.pass_by(RETURN_SECONDS - 0.1)
    assert b.messages() == []
    # Of a session that ends with its connection, the will does not wait longer than for that.
    world.time.pass_by(0.1)
    assert b.payloads() == [b"2"]
    world.time.pass_by(19 - RETURN_SECONDS)
    assert b.messages() == []
    world.time.pass_by(2)
    found = b.messages()
    assert [(m.payload, m.properties) for m in found] == [(b"1", Properties(content_type="c", message_expiry=50))]
    world.time.pass_by(10)
    assert b.payloads() == [b"3"]
    world = machine.crash()
    world.time.pass_by(100)
    assert [m.payload for m in world.keeping("b").messages() if not m.dup] == []


def test_a_will_of_somebody_who_may_not_any_more(machine: Machine):
    world = machine.world
    b = world.keeping("b", owner="other")
    b.subscribe("will")
    world.connect("c", will=Will("will", b"2", 1))
    world.permission("thing").unpublishable.add("will")
    world = machine.crash()
    b = world.keeping("b", owner="other")
    world.time.pass_by(RETURN_SECONDS)
    assert b.payloads() == []
    assert [session.client_id for session in world.hub.sessions] == ["b"]


@pytest.mark.parametrize("expiry", [0, 5, 3_600])
@pytest.mark.parametrize("delay", [0, 5, 60])
@versions
def test_after_a_restart_a_will_is_published_unless_its_client_comes_back(
    machine: Machine, version: Version, expiry: int, delay: int
):
    """Nobody has died but the process. And what somebody may is known again only once there are things."""
    world = machine.world
    b = world.keeping("b", owner="other")
    b.subscribe("will")
    is_5 = version is V5
    how: dict[str, Any] = {"clean": False, "session_expiry": expiry} if is_5 else {"clean": not expiry}
    will = Will("will", b"x", 1, properties=Properties(will_delay=delay) if is_5 else Properties())
    for name in ("gone", "back"):
        world.connect(name, version, will=will, **how)
    world.permission("thing").unpublishable.add("will")
    world = machine.crash(after=10)
    b = world.keeping("b", owner="other")
    world.permission("thing").unpublishable.clear()
    due = max(RETURN_SECONDS, min(delay, expiry)) if is_5 else RETURN_SECONDS
    world.time.pass_by(due - 0.1)
    assert b.payloads() == []
    back = world.connect("back", version, **how)
    # What is kept for a will alone is no session that anybody finds again.
    assert back.present == (expiry == 3_600 or (not is_5 and expiry > 0))
    world.time.pass_by(0.1)
    assert b.payloads() == [b"x"]
    back.leave()
    world.time.pass_by(100)
    assert b.payloads() == []


def test_a_will_that_was_due_while_there_was_no_process(machine: Machine):
    world = machine.world
    b = world.keeping("b", owner="other")
    b.subscribe("will")
    will = Will("will", b"x", 1, properties=Properties(will_delay=30))
    world.keeping("a", will=will, session_expiry=40).leave(will=True)
    # It may be interrupted again, too.
    for seconds in (1_000, RETURN_SECONDS - 1):
        world = machine.crash(after=seconds)
        b = world.keeping("b", owner="other")
        assert b.payloads() == []
    world.time.pass_by(RETURN_SECONDS)
    assert b.payloads() == [b"x"]
    assert [session.client_id for session in world.hub.sessions] == ["b"]
    world.time.turn()
    assert [row.client_id for row in machine.store.load().sessions] == ["b"]


@pytest.mark.parametrize("clean", [False, True])
def test_who_comes_back_after_a_restart_with_another_session(machine: Machine, clean: bool):
    """With the new session the old one ends, and with that its will is due (MQTT-3.1.2-8)."""
    world = machine.world
    b = world.keeping("b", owner="other")
    b.subscribe("will")
    world.keeping("a", will=Will("will", b"x", 1))
    world = machine.crash()
    b = world.keeping("b", owner="other")
    assert world.connect("a", clean=clean, session_expiry=3_600).present != clean
    world.time.pass_by(RETURN_SECONDS)
    assert b.payloads() == ([b"x"] if clean else [])


def test_a_session_expires_while_nobody_is_there(machine: Machine):
    machine.world.keeping(session_expiry=60).leave()
    world = machine.restart(after=50)
    world.time.pass_by(5)
    world = machine.crash()
    a = world.keeping(session_expiry=60)
    assert a.present
    # The connection was there when the process ended, so that is when its time begins.
    world = machine.crash(after=50)
    assert len(list(world.hub.sessions)) == 1
    world = machine.restart(after=70)
    assert not list(world.hub.sessions)
    world.time.turn()
    assert machine.store.load().sessions == []


def test_a_session_expires_in_the_store_as_well(machine: Machine):
    a = machine.world.keeping(session_expiry=60)
    a.subscribe("t")
    a.leave()
    machine.world.publish("t", b"x", 1)
    machine.world.time.pass_by(61)
    stored = machine.store.load()
    assert not (stored.sessions)
    assert not (stored.deliveries)
    assert not (stored.messages)
    assert not (stored.subscriptions)


FULL, LOCKED = StoreError("database or disk is full", full=True), StoreError("database is locked")


@pytest.mark.parametrize(("error", "code"), [(FULL, 0x97), (LOCKED, 0x83)])
def test_a_store_that_fails_refuses(machine: Machine, error: StoreError, code: int):
    world = machine.world
    a = world.keeping("a")
    a.subscribe("t")
    a.leave()
    c = world.connect("c")
    c.subscribe("t", "free")
    c.take()
    b, old = world.connect("b"), world.connect("old", V311)
    machine.store.error = error
    b.publish("t", b"1", 1, 1, turn=False)
    b.publish("t", b"2", 2, 2, turn=False)
    world.time.turn()
    assert b.take() == [PubAck(1, 0x83), PubRec(2, 0x83)]
    # From now on it is known, and nobody is told anything.
    c.take()
    b.publish("t", b"3", 1, 3)
    b.publish("t", b"4", 2, 4)
    assert b.take() == [PubAck(3, code), PubRec(4, code)]
    assert c.messages() == []
    assert world.publish("t", b"5", 1) == [code]
    assert world.publish("r", b"5", 1, retain=True) == [code]
    # What needs no store goes on.
    b.publish("free", b"6", 1, 5)
    b.publish("t", b"7", 0)
    assert b.take() == [PubAck(5)]
    assert c.payloads() == [b"6", b"7"]
    old.publish("t", b"8", 1)
    assert old.take() == []
    assert old.ended is not None
    # Nothing of it is there for who was not.
    assert world.keeping("a").messages() == []


def test_before_5_0_the_publisher_of_a_commit_that_fails_is_ended(machine: Machine):
    world = machine.world
    a = world.keeping("a")
    a.subscribe("t")
    b = world.keeping("b", V311)
    machine.store.error = LOCKED
    b.publish("t", b"1", 2, 1)
    assert b.take() == []
    assert b.ended is not None
    # It sends it again, and it is no duplicate.
    machine.store.error = None
    world.time.pass_by(2)
    b = world.keeping("b", V311)
    b.publish("t", b"1", 2, 1, dup=True)
    assert b.take() == [PubRec(1)]
    assert a.ended is not None  # its own message of QoS 2 could not be sent
    assert world.keeping("a").payloads() == [b"1"]


def test_a_subscription_that_cannot_be_stored_is_not_granted(machine: Machine):
    a = machine.world.keeping("a")
    machine.store.error = LOCKED
    a.subscribe("t")
    assert a.take() == []
    assert a.ended is not None
    a = machine.world.keeping("a")
    a.subscribe("t")
    assert a.take() == []
    assert a.ended is not None
    b = machine.world.connect("b")
    b.subscribe("t")
    assert b.take() == [SubAck(9, (2,))]


def test_a_retained_message_that_could_not_be_stored_was_never_there(machine: Machine):
    world = machine.world
    world.publish("r", b"old", 1, retain=True)
    machine.store.error = LOCKED
    assert world.publish("r", b"new", 1, retain=True) == [Reason.IMPLEMENTATION_SPECIFIC_ERROR]
    assert world.publish("s", b"new", 1, retain=True) == [Reason.IMPLEMENTATION_SPECIFIC_ERROR]
    a = world.connect()
    a.subscribe("r", "s")
    assert a.payloads() == [b"old"]


def test_once_the_store_is_back_it_has_everything(machine: Machine):
    world = machine.world
    a = world.keeping("a")
    a.subscribe("t")
    for n in (1, 2):
        world.publish("t", b"%d" % n, 1)
    one, _ = a.messages()
    machine.store.error = LOCKED
    a.answer(PubAck(one.packet_id))
    a.leave()
    world.keeping("b").leave()
    world.time.pass_by(3)
    machine.store.error = None
    assert len(machine.store.load().deliveries) == 2
    world.time.pass_by(2)
    assert len(machine.store.load().deliveries) == 1
    before = lists(world)
    world = machine.crash()
    assert lists(world) == before
    assert world.keeping("a").payloads() == [b"2"]
    assert world.keeping("b").present


def test_a_process_that_is_killed(tmp_path: Path):
    """The same with a real process, and a real signal."""
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from gateway.hub.hub import Hub
from gateway.hub.message import Message
from gateway.hub.settings import HubSettings
from gateway.hub.store import SqliteStore
from gateway.wire.mqtt_packets import Connect, Subscribe, Subscription, Version

class Nobody:
    deliver = end = lambda self, *_: None
    congested = lambda self: False
    publish = subscribe = lambda self, _: True

class Call:
    cancel = lambda self: None

calls = []
def later(seconds, call):
    calls.append((seconds, call))
    return Call()

hub = Hub(HubSettings(), SqliteStore(Path({str(tmp_path / "hub")!r})), time.time, later)
attached = hub.attach("thing", Connect(Version.V311, "a", False), Nobody(), Nobody())
attached.start()
attached.subscribe(Subscribe(1, (Subscription("t", 1),)), {{}})
attached.detach(will=False)
for n in range(10 ** 9):
    hub.publish(Message("t", b"%d" % n, 1), lambda code: print(n, int(code), flush=True))
    for seconds, call in calls[:]:
        if not seconds:
            calls.remove((seconds, call))
            call()
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline() for _ in range(50)]
    os.kill(process.pid, signal.SIGKILL)
    acknowledged += process.stdout.readlines()
    process.stdout.close()
    process.wait()
    store = SqliteStore(tmp_path / "hub")
    stored = store.load()
    store.close()
    told = {int(line.split()[0]) for line in acknowledged if line.endswith("\n") and line.split()[1] == "0"}
    assert told
    assert told <= {int(row.payload) for row in stored.messages}


def test_retained_wildcards_after_a_restart(machine: Machine):
    machine.world.publish("a/b", b"x", 1, retain=True)
    a = machine.restart().connect()
    a.subscribe(Subscription("+/b", 1))
    assert [(m.topic, m.retain) for m in a.messages()] == [("a/b", True)]
