"""Time: a client's silence, its haste, and the end of what proved who it is; with the hub and with a broker alike."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.session.mqtt_link import _STUCK
from gateway.session.vocabulary import Dialed, Hold, Proceed, Send, Side, TimedOut
from gateway.wire import mqtt
from gateway.wire.mqtt_packets import ConnAck, Disconnect, PingReq, PingResp, Publish, Reason, Refusal, Version, Will
from tests.mqtt_sessions import (
    CHANNEL,
    KEY,
    NAMELESS,
    OTHER_THING,
    THING_ID,
    TOPIC,
    V5,
    V31,
    V311,
    Talk,
    World,
    broker,
    hello,
    payloads,
    shown,
)

versions = pytest.mark.parametrize("version", [V31, V311, V5])
wheres = pytest.mark.parametrize("where", ["hub", "broker"])
MINE = f"channels/{CHANNEL}/messages/#"


def world(where: str, **given: Any) -> World:
    return World(**({"upstream": broker()} if where == "broker" else {}), **given)


def client(here: World, **connect: Any) -> Talk:
    talk = here.through(**connect) if here.access.upstream else here.client(**connect)
    talk.take()
    return talk


# --- keep-alive ------------------------------------------------------------------------------------------------------


@wheres
@versions
def test_silence_ends_it_at_one_and_a_half_times_the_keep_alive_and_not_before(where: str, version: Version):
    """MQTT-3.1.2-22."""
    here = world(where)
    talk = client(here, version=version, keep_alive=10)
    here.pass_by(14.99)
    assert not talk.closed
    here.pass_by(0.01)
    assert talk.reason == "the client was silent for longer than its keep-alive"
    assert talk.code == (Reason.KEEP_ALIVE_TIMEOUT if version is V5 else None)


@wheres
def test_whatever_is_said_counts(where: str):
    here = world(where)
    talk = client(here, keep_alive=10)
    for packet in (PingReq(), Publish(TOPIC, b"x")):
        here.pass_by(14.9)
        talk.said(packet)
    here.pass_by(14.9)
    assert not talk.closed
    here.pass_by(0.1)
    assert talk.closed


def test_what_it_hears_does_not_count():
    here = world("hub")
    talk = client(here, keep_alive=10).subscribed(MINE)
    publisher = client(here, client_id="p")
    for _ in range(3):
        here.pass_by(5)
        publisher.said(Publish(TOPIC, b"x"))
    assert talk.closed
    talk = client(world("broker"), keep_alive=10)
    for _ in range(3):
        talk.world.pass_by(5)
        talk.heard(PingResp())
    assert talk.closed


@wheres
def test_without_a_keep_alive_nobody_has_to_say_anything(where: str):
    here = world(where)
    talk = client(here, keep_alive=0)
    here.pass_by(1e7)
    assert not talk.closed


@wheres
@pytest.mark.parametrize(("asked", "expected"), [(0, 45), (10, 15), (60, 45)])
def test_5_may_be_held_to_less_than_it_asked_for(where: str, asked: int, expected: float):
    here = world(where, keep_alive=30)
    talk = client(here, version=V5, keep_alive=asked)
    here.pass_by(expected - 0.01)
    assert not talk.closed
    here.pass_by(0.02)
    assert talk.code == Reason.KEEP_ALIVE_TIMEOUT


@wheres
def test_before_5_there_is_no_way_to_say_so(where: str):
    here = world(where, keep_alive=30)
    talk = client(here, keep_alive=60)
    here.pass_by(89)
    assert not talk.closed
    here.pass_by(1)
    assert talk.closed


def test_silence_leaves_a_will():
    here = world("hub")
    listener = client(here, client_id="l").subscribed(MINE)
    client(here, tls=shown(OTHER_THING), keep_alive=10, will=Will(TOPIC, b"bye"))
    here.pass_by(15)
    assert payloads(listener.take()) == [b"bye"]


def test_pieces_of_a_packet_are_no_silence_but_have_their_bound():
    here = world("hub", max_packet=1024)
    talk = client(here, version=V5, keep_alive=10)
    data = mqtt.serialize(Publish(TOPIC, b"x" * 900), V5)
    for at in range(len(data)):
        here.pass_by(14)
        talk.client(data[at : at + 1])
    assert not talk.closed
    here.pass_by(15)
    assert talk.closed


def test_a_deadline_that_comes_early_is_set_anew():
    """A reactor's clock is not ours."""
    talk = client(world("hub"), keep_alive=10)
    talk.world.time.now += 14
    talk.tell(TimedOut())
    assert not talk.closed
    assert talk.deadline == pytest.approx(1)


# --- the certificate -------------------------------------------------------------------------------------------------


@wheres
@versions
def test_a_session_ends_with_its_certificate_and_leaves_no_will(where: str, version: Version):
    here = world(where)
    listener = here.client(client_id="l").subscribed(MINE) if where == "hub" else None
    until = here.time.now + 100
    talk = client(here, tls=shown(expires=until), version=version, keep_alive=50, will=Will(TOPIC, b"bye"))
    here.pass_by(60)
    talk.said(PingReq())
    here.pass_by(39.9)
    assert not talk.closed
    talk.take()
    here.pass_by(0.1)
    assert talk.reason == "the client certificate has expired"
    assert talk.code == (Reason.NOT_AUTHORIZED if version is V5 else None)
    if listener:
        assert payloads(listener.take()) == []
    else:
        assert talk.upstream() == [PingReq(), Disconnect()]


def test_who_has_shown_none_has_no_such_end():
    talk = client(world("hub"), tls=NAMELESS, user_name=THING_ID, password=KEY.encode())
    assert talk.deadline is None


@pytest.mark.parametrize(("stage", "seconds"), [("login", 36), ("login", 72)])
def test_on_the_way_to_a_broker_it_is_the_ways_deadlines_that_count(stage: str, seconds: float):
    here = world("broker")
    talk = here.talk().said(hello(keep_alive=1))
    here.pass_by(seconds - 0.5)
    assert not talk.closed
    here.pass_by(0.5)
    assert len(talk.dials) == 2
    assert (talk.code == Refusal.SERVER_UNAVAILABLE) == (seconds == 72)


# --- haste -----------------------------------------------------------------------------------------------------------


@wheres
def test_who_sends_more_than_it_may_is_read_later(where: str):
    here = world(where, packet_rate=10.0)
    talk = client(here, keep_alive=0)
    talk.said(*[Publish(TOPIC, b"%d" % number) for number in range(10)])
    assert not talk.held  # a second's worth
    talk.said(*[Publish(TOPIC, b"x")] * 5)
    assert talk.held
    assert talk.deadline == pytest.approx(0.5)
    here.pass_by(0.49)
    assert talk.held
    here.pass_by(0.02)
    assert not talk.held
    assert not talk.closed
    # What it has sent is all there.
    if where == "broker":
        assert len(talk.upstream()) == 15


@wheres
def test_at_the_rate_nobody_is_held(where: str):
    here = world(where, packet_rate=10.0)
    talk = client(here)
    for _ in range(100):
        here.pass_by(0.1)
        talk.said(PingReq())
    assert [one for one in talk.of(Hold) if where == "hub"] == []
    assert not talk.held


def test_rest_is_not_saved_up_beyond_a_second():
    here = world("hub", packet_rate=10.0)
    talk = client(here)
    here.pass_by(1000)
    talk.said(*[PingReq()] * 11)
    assert talk.held
    assert talk.deadline == pytest.approx(0.1)


def test_packets_of_a_run_count_each():
    here = world("hub", packet_rate=10.0)
    talk = client(here).said(Publish(TOPIC, b"x"))
    here.pass_by(10)
    talk.said(*[Publish(TOPIC, b"x")] * 30)
    assert talk.deadline == pytest.approx(2.0)


@wheres
def test_who_is_held_is_not_silent(where: str):
    here = world(where, packet_rate=1.0)
    talk = client(here, keep_alive=10)
    talk.said(*[PingReq()] * 101)
    here.pass_by(99.9)
    assert talk.held
    assert not talk.closed
    here.pass_by(0.2)
    assert not talk.held
    here.pass_by(14.8)
    assert not talk.closed
    here.pass_by(0.2)
    assert talk.closed


@wheres
def test_a_held_one_still_ends_with_its_certificate(where: str):
    here = world(where, packet_rate=1.0)
    talk = client(here, tls=shown(expires=here.time.now + 20))
    talk.said(*[PingReq()] * 101)
    here.pass_by(20)
    assert talk.reason == "the client certificate has expired"


def test_what_was_read_before_the_hold_is_heard_and_makes_it_longer():
    here = world("hub", packet_rate=10.0)
    talk = client(here).said(*[PingReq()] * 20).said(*[PingReq()] * 20)
    assert len(talk.take()) == 40
    assert len(talk.of(Hold)) == 1
    assert talk.deadline == pytest.approx(3.0)
    here.pass_by(3.01)
    assert len(talk.of(Proceed)) == 1


def test_both_reasons_not_to_read_have_to_be_gone():
    here = world("hub", packet_rate=10.0)
    talk = client(here)
    talk.slow = True
    talk.said(*[PingReq()] * 20)
    assert talk.held
    here.pass_by(1.01)
    assert talk.held
    talk.drained()
    assert not talk.held
    # The other way round.
    here.pass_by(5)
    talk.slow = True
    talk.said(*[PingReq()] * 20)
    talk.drained()
    assert talk.held
    here.pass_by(1.01)
    assert not talk.held


@pytest.mark.parametrize("version", [V311, V5])
def test_who_does_not_take_what_it_is_sent_is_not_waited_for_without_end(version: Version):
    here = world("hub")
    listener = client(here, client_id="l").subscribed(MINE)
    talk = client(here, tls=shown(OTHER_THING), version=version, keep_alive=10, will=Will(TOPIC, b"bye"))
    talk.slow = True
    here.pass_by(7)
    talk.said(PingReq())
    assert talk.held
    assert talk.deadline == _STUCK  # and no more that of its keep-alive
    here.pass_by(_STUCK - 0.1)
    assert not talk.closed
    here.pass_by(0.1)
    assert talk.reason == "the client does not take what it is sent"
    assert talk.code == (Reason.QUOTA_EXCEEDED if version is V5 else None)
    assert payloads(listener.take()) == [b"bye"]
    assert here.hub.sessions.online == 1


def test_who_takes_it_in_time_goes_on_as_before():
    here = world("hub")
    talk = client(here, keep_alive=10)
    for _ in range(3):
        talk.slow = True
        talk.said(PingReq())
        here.pass_by(_STUCK - 1)
        talk.drained()
        assert not talk.held
        assert talk.deadline == 15
    here.pass_by(14.9)
    assert not talk.closed
    here.pass_by(0.1)
    assert talk.reason == "the client was silent for longer than its keep-alive"


def test_who_does_not_send_may_take_as_long_as_it_wants():
    """What it is sent has a bound of its own."""
    here = world("hub")
    talk = client(here, keep_alive=0)
    talk.slow = True
    here.pass_by(1e6)
    assert not talk.closed


def test_haste_is_not_being_stuck():
    here = world("hub", packet_rate=1.0)
    talk = client(here, keep_alive=0)
    talk.said(*[PingReq()] * 201)
    here.pass_by(100)
    talk.slow = True
    here.pass_by(100.1)
    # From now on it is.
    assert talk.held
    assert talk.deadline == pytest.approx(_STUCK)
    here.pass_by(_STUCK - 0.2)
    assert not talk.closed
    here.pass_by(0.2)
    assert talk.reason == "the client does not take what it is sent"


def test_the_certificate_of_who_is_stuck_may_end_before():
    here = world("hub")
    talk = client(here, tls=shown(expires=here.time.now + 20))
    talk.slow = True
    talk.said(PingReq())
    assert talk.deadline == 20
    here.pass_by(20)
    assert talk.reason == "the client certificate has expired"


def test_what_was_read_ahead_of_the_broker_counts_too():
    here = world("broker", packet_rate=10.0)
    talk = here.talk().said(hello(), *[PingReq()] * 20)
    talk.event(Dialed()).heard(ConnAck())
    assert talk.held
    assert len([one for one in talk.of(Send) if one.side is Side.UPSTREAM]) == 2
    here.pass_by(1.01)
    assert not talk.held


def test_the_first_second_is_a_whole_one():
    talk = client(world("hub", packet_rate=10.0)).said(*[PingReq()] * 10)
    assert not talk.held
