"""How an operator and a reload end an MQTT client's connection, in each of its states, over the hub and a broker."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.session.vocabulary import Close, Dial, Dialed, HangUp, Killed, Reloaded, Secured, Side
from gateway.upstream import TLSMode
from gateway.wire.mqtt_packets import ConnAck, Disconnect, Publish, Reason, Will
from tests.mqtt_sessions import METER, V5, V311, Talk, World, admission, broker, hello, payloads, shown, topics

KILL = Killed("killed by an operator")
NOT_TRUSTED = "the client certificate is not trusted any more"
WILL = Will("w", b"bye")
wheres = pytest.mark.parametrize("where", ["hub", "broker"])
versions = pytest.mark.parametrize("version", [V311, V5])


def world(where: str, **given: Any) -> World:
    """Where certificates and rules say who may what."""
    if where == "broker":
        given.setdefault("upstream", broker())
    return World(**{"cn": "id", "things": None, "topics": topics("allow all all #"), **given})


def client(here: World, **connect: Any) -> Talk:
    enter = here.client if here.access.hub is not None else here.through
    return enter(shown(METER), **connect)


def listener(here: World) -> Talk | None:
    """Of everybody's Wills, where they are ours to publish."""
    return here.client(shown(METER), client_id="listener").subscribed("w") if here.access.hub is not None else None


def left(here: World, talk: Talk, other: Talk | None) -> list[bytes]:
    """The Wills that were published; a broker that hears DISCONNECT publishes none (MQTT-3.14.4-3)."""
    if other is None:
        return [] if talk.upstream()[-1:] == [Disconnect()] else [WILL.payload]
    here.time.turn()
    return payloads(other.take())


# --- killed -----------------------------------------------------------------------------------------------------------


@wheres
@versions
def test_killed_while_it_is_open(where: str, version: Any) -> None:
    """Only 5.0 can be told why. An operator who ends it wants no last word of it."""
    here = world(where)
    other = listener(here)
    talk = client(here, version=version, will=WILL)
    talk.event(KILL)
    assert talk.reason == KILL.reason
    assert talk.code == (Reason.ADMINISTRATIVE_ACTION if version is V5 else None)
    assert left(here, talk, other) == []


@pytest.mark.parametrize("secured", [False, True])
def test_killed_before_it_has_said_what_it_is(secured: bool) -> None:
    here = world("hub")
    talk = here.talk(shown(METER)) if secured else Talk(here)
    talk.event(KILL)
    assert talk.closed == Close(KILL.reason)


@pytest.mark.parametrize("steps", [0, 1, 2])
@versions
def test_killed_on_the_way_to_a_broker(steps: int, version: Any) -> None:
    """What the broker has already heard, its Will, it must not take for the client's."""
    talk, told = on_the_way(steps, version)
    talk.event(KILL)
    assert talk.reason == KILL.reason
    assert talk.code == (Reason.NOT_AUTHORIZED if version is V5 else 5)
    assert told() == ([Disconnect()] if steps == 2 else [])
    assert bool(talk.of(HangUp)) is (steps == 2)


def on_the_way(steps: int, version: Any) -> tuple[Talk, Any]:
    """Dialing, in the handshake, waiting for CONNACK; and what the broker has heard since."""
    here = world("broker", upstream=broker(TLSMode.REQUIRE))
    talk = here.talk(shown(METER)).said(hello(version, will=WILL))
    for event in (Dialed(), Secured(Side.UPSTREAM, shown(METER)))[:steps]:
        talk.event(event)
    assert not talk.closed
    talk.upstream()
    return talk, talk.upstream


# --- a reload ---------------------------------------------------------------------------------------------------------


@wheres
@versions
def test_a_certificate_that_is_not_trusted_any_more_at_once(where: str, version: Any) -> None:
    """Not only when something moves."""
    here = world(where)
    other = listener(here)
    talk = client(here, version=version, will=WILL)
    here.reload()
    talk.trusts = False
    talk.event(Reloaded())
    assert talk.reason == NOT_TRUSTED
    assert talk.code == (Reason.NOT_AUTHORIZED if version is V5 else None)
    assert left(here, talk, other) == []


@wheres
def test_a_rule_that_has_changed_at_once(where: str) -> None:
    here = world(where)
    talk = client(here, version=V5)
    here.reload(admission=admission("deny meter-7 all", "allow all all"))
    talk.event(Reloaded())
    assert talk.reason == "denied: rules:1: deny meter-7 all"
    assert talk.code == Reason.NOT_AUTHORIZED


@wheres
def test_who_may_stay_goes_on(where: str) -> None:
    here = world(where)
    talk = client(here, version=V5)
    here.reload()
    talk.event(Reloaded()).said(Publish("a", b"x"))
    assert not talk.closed


@pytest.mark.parametrize("trusts", [False, True])
def test_between_the_handshake_and_connect(trusts: bool) -> None:
    """What was believed in the handshake would not be asked about again."""
    here = world("hub")
    talk = here.talk(shown(METER))
    here.reload()
    talk.trusts = trusts
    talk.event(Reloaded())
    assert talk.closed == (None if trusts else Close(NOT_TRUSTED))


def test_before_the_end_of_the_handshake_that_is_the_drivers() -> None:
    talk = Talk(world("hub"))
    talk.trusts = False
    assert not talk.event(Reloaded()).closed


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_on_the_way_to_a_broker(steps: int) -> None:
    talk, told = on_the_way(steps, V5)
    talk.event(Reloaded())
    assert not talk.closed
    talk.trusts = False
    talk.event(Reloaded())
    assert (talk.reason, talk.code) == (NOT_TRUSTED, Reason.NOT_AUTHORIZED)
    assert told() == ([Disconnect()] if steps == 2 else [])


@pytest.mark.parametrize("allowed", [False, True])
def test_rules_that_change_while_the_broker_is_asked(allowed: bool) -> None:
    """They are asked when it has answered, before the client hears of that."""
    talk, told = on_the_way(2, V5)
    if not allowed:
        talk.world.reload(admission=admission("deny all all"))
    else:
        talk.world.reload()
    talk.event(Reloaded())
    assert not talk.closed
    talk.heard(ConnAck())
    if allowed:
        assert not talk.closed
        assert isinstance(talk.take()[0], ConnAck)
    else:
        assert (talk.reason, talk.code) == ("denied: rules:1: deny all all", Reason.NOT_AUTHORIZED)
        assert told() == [Disconnect()]
        assert len(talk.of(Dial)) == 1
