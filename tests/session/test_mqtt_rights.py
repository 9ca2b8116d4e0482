"""Rights that come and go under a live session: the registry's changes and a reload, with the hub and with a broker."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.hub.message import Message
from gateway.session.mqtt_link import _CHANGES
from gateway.session.vocabulary import Dialed, HangUp, Lost, Side
from gateway.things import Change, Unavailable, key_hash, topic_of
from gateway.wire.mqtt_packets import (
    ConnAck,
    Connect,
    Disconnect,
    PingReq,
    PubAck,
    Publish,
    Reason,
    Refusal,
    SubAck,
    Subscribe,
    Subscription,
    Will,
)
from tests.mqtt_sessions import (
    CA,
    CHANNEL,
    FOREIGN,
    KEY,
    METER,
    NAMED,
    NAMELESS,
    OTHER_THING,
    THING_ID,
    TOPIC,
    V5,
    V311,
    Talk,
    World,
    admission,
    broker,
    hello,
    payloads,
    shown,
    topics,
)
from tests.pki import issue

wheres = pytest.mark.parametrize("where", ["hub", "broker"])
MINE = f"channels/{CHANNEL}/messages/#"
WILL = Will(TOPIC, b"bye")
CODES = {
    Change.SHRUNK: Reason.NOT_AUTHORIZED,
    Change.REVOKED: Reason.ADMINISTRATIVE_ACTION,
    Change.UNKNOWN: Reason.SERVER_SHUTTING_DOWN,  # what DISCONNECT has for it
}


def world(where: str, **given: Any) -> World:
    return World(**({"upstream": broker()} if where == "broker" else {}), **given)


def client(here: World, tls: Any = None, **connect: Any) -> Talk:
    talk = here.through(tls, **connect) if here.access.upstream else here.client(tls, **connect)
    talk.take()
    return talk


def subscribed(talk: Talk, topic_filter: str = MINE) -> Talk:
    talk.said(Subscribe(1, (Subscription(topic_filter),)))
    if talk.world.access.upstream:
        talk.upstream()
        talk.heard(SubAck(1, (0,)))
    assert talk.take() == [SubAck(1, (0,))]
    return talk


def message(talk: Talk, topic: str = TOPIC) -> Talk:
    """Somebody else says something on that topic."""
    if talk.world.access.upstream:
        talk.heard(Publish(topic, b"m"))
    else:
        talk.world.hub.publish(Message(topic, b"m"))
        talk.world.time.turn()
    return talk


# --- the registry ----------------------------------------------------------------------------------------------------


@wheres
@pytest.mark.parametrize("change", list(CODES))
@pytest.mark.parametrize("version", [V311, V5])
def test_a_change_ends_live_sessions_at_once(where: str, change: Change, version: Any):
    here = world(where)
    listener = here.client(client_id="l").subscribed(MINE) if where == "hub" else None
    if listener:
        here.registry.watches.clear()
    talk = client(here, version=version, will=WILL)
    here.registry.tell(change)
    assert talk.closed
    assert talk.code == (CODES[change] if version is V5 else None)
    assert talk.reason == _CHANGES[change][1]
    # Who is revoked leaves no Will; who is only cut off, does.
    revoked = change is not Change.UNKNOWN
    if listener:
        here.time.turn()
        assert payloads(listener.take()) == ([] if revoked else [b"bye"])
    else:
        assert talk.upstream() == ([Disconnect()] if revoked else [])
        assert talk.of(HangUp) == [HangUp(orderly=True)]


@wheres
def test_only_those_of_that_thing(where: str):
    here = world(where)
    both = [client(here, client_id=client_id) for client_id in "ab"]
    other = client(here, shown(OTHER_THING))
    here.registry.tell(Change.REVOKED)
    assert all(talk.closed for talk in both)
    assert not other.closed
    assert {watch.thing for watch in here.registry.watches} == {other.counted[0]}


@wheres
def test_more_rights_are_there_at_once_and_what_was_decided_is_decided_anew(where: str):
    here = world(where, drop_denied=True)
    talk = client(here)
    foreign = topic_of(FOREIGN)
    talk.said(Publish(foreign, b"1", 1, packet_id=1), Publish(TOPIC, b"1"))
    here.registry.allow(True, True, channel=FOREIGN)
    talk.said(Publish(foreign, b"2", 1, packet_id=1))
    assert here.registry.asked == [FOREIGN, CHANNEL]  # remembered until there is a change
    here.registry.tell(Change.GROWN)
    assert not talk.closed
    talk.said(Publish(foreign, b"3", 1, packet_id=1), Publish(TOPIC, b"3"))
    assert here.registry.asked == [FOREIGN, CHANNEL, FOREIGN, CHANNEL]
    if where == "broker":
        assert payloads(talk.upstream()) == [b"1", b"3", b"3"]


@wheres
def test_who_leaves_at_once_leaves_a_record_of_what_it_was_denied(where: str):
    talk = client(world(where, drop_denied=True))
    talk.said(Publish(topic_of(FOREIGN), b"x"), Disconnect())
    assert talk.reason == "the client has disconnected"
    assert talk.denials == [("publish", topic_of(FOREIGN))]


def test_a_change_while_it_is_at_something_waits_its_turn_and_ends_it_once():
    here = world("hub")
    talk = client(here, version=V5)
    rights = here.registry.rights

    def changed(thing: str, channel: str) -> Any:
        here.registry.tell(Change.SHRUNK)
        here.registry.tell(Change.REVOKED)
        assert not talk.closed
        return rights(thing, channel)

    here.registry.rights = changed  # type: ignore[method-assign]  # that it happens just then
    talk.said(Publish(TOPIC, b"x", 1, packet_id=1))
    assert [type(one) for one in talk.take()] == [PubAck, Disconnect]
    assert talk.code == Reason.NOT_AUTHORIZED
    assert here.registry.watches == []


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.parametrize("change", list(CODES))
def test_a_change_on_the_way_to_the_broker(version: Any, change: Change):
    for stage in ("dialing", "login"):
        here = world("broker")
        talk = here.talk().said(hello(version))
        if stage == "login":
            talk.tell(Dialed())
        here.registry.tell(change)
        new = Reason.SERVER_UNAVAILABLE if change is Change.UNKNOWN else Reason.NOT_AUTHORIZED
        old = Refusal.SERVER_UNAVAILABLE if change is Change.UNKNOWN else Refusal.NOT_AUTHORIZED
        assert talk.code == (new if version is V5 else old)
        assert not talk.entered
        # Nothing more comes of it.
        talk.tell(Lost(Side.UPSTREAM, "x"))
        assert len(talk.dials) == 1
        assert here.registry.watches == []


@wheres
@pytest.mark.parametrize("version", [V311, V5])
def test_a_thing_that_changes_between_the_verdict_and_the_watch_does_not_get_in(where: str, version: Any):
    here = world(where)
    talk = here.talk()
    named = here.registry.named

    def changed(thing: str) -> Any:
        found = named(thing)
        return replace(found, enabled=False) if found else None

    here.registry.named = changed  # type: ignore[method-assign]  # that it happens just then
    talk.said(hello(version))
    assert talk.code == (Reason.NOT_AUTHORIZED if version is V5 else Refusal.NOT_AUTHORIZED)
    assert not talk.entered
    assert talk.dials == []
    assert here.registry.watches == []
    assert here.hub.sessions.online == 0


def test_nor_one_that_nobody_can_watch():
    here = world("hub")
    talk = here.talk(NAMELESS)

    def unavailable(thing: str, changed: Any) -> Any:
        raise Unavailable

    here.registry.watch = unavailable  # type: ignore[method-assign]  # that it happens just then
    talk.said(hello(V5, user_name=THING_ID, password=KEY.encode()))
    assert talk.code == Reason.SERVER_UNAVAILABLE


@wheres
def test_while_the_registry_cannot_be_asked_what_is_not_known_is_refused(where: str):
    here = world(where)
    talk = client(here, version=V5)
    here.registry.available = False
    talk.said(Publish(TOPIC, b"x", 1, packet_id=1), Subscribe(2, (Subscription(MINE),)))
    assert talk.take() == [PubAck(1, Reason.NOT_AUTHORIZED), SubAck(2, (Reason.NOT_AUTHORIZED,))]


@wheres
@pytest.mark.parametrize("how", ["lost", "disconnect", "malformed", "refused"])
def test_nobody_watches_for_who_has_gone(where: str, how: str):
    here = world(where)
    if how == "refused":
        if where == "broker":
            here.talk().said(hello()).event(Dialed()).heard(ConnAck(False, 5))
    else:
        talk = client(here)
        assert len(here.registry.watches) == 1
        {"lost": talk.gone, "disconnect": lambda: talk.said(Disconnect()), "malformed": lambda: talk.client(b"\0\0")}[
            how
        ]()
    assert here.registry.watches == []


# --- a reload --------------------------------------------------------------------------------------------------------

ALL = {"cn": "id", "things": None}


def with_rules(where: str, *lines: str, **given: Any) -> World:
    return world(where, **{**ALL, "topics": topics(*(lines or ("allow all all #",)))}, **given)


@wheres
def test_after_a_reload_that_changes_nothing_it_goes_on(where: str):
    here = with_rules(where)
    talk = subscribed(client(here, shown(METER)), "a")
    here.reload()
    talk.said(Publish("a", b"x"), PingReq())
    message(talk, "a")
    assert not talk.closed


@wheres
@pytest.mark.parametrize("next_is", ["said", "heard"])
@pytest.mark.parametrize("version", [V311, V5])
def test_who_is_not_let_in_any_more_hears_and_says_no_more(where: str, next_is: str, version: Any):
    """A listener says nothing for a long time, so what it is about to hear counts as well."""
    here = with_rules(where)
    other = here.client(client_id="l").subscribed("#") if where == "hub" else None
    talk = subscribed(client(here, shown(METER), version=version, will=Will("w", b"bye")), "a")
    here.reload(admission=admission("deny meter-7 all", "allow all all"))
    if next_is == "said":
        talk.said(Publish("a", b"said"))
    else:
        message(talk, "a")
    assert talk.reason == "denied: rules:1: deny meter-7 all"
    assert talk.code == (Reason.NOT_AUTHORIZED if version is V5 else None)
    assert payloads(talk.take()) == []
    if other:
        here.time.turn()
        assert payloads(other.take()) == ([] if next_is == "said" else [b"m"])
    else:
        assert talk.upstream() == [Disconnect()]


@wheres
def test_a_certificate_that_is_not_trusted_any_more(where: str):
    here = with_rules(where)
    talk = client(here, shown(METER), version=V5)
    here.reload()
    talk.trusts = False
    talk.said(PingReq())
    assert talk.reason == "the client certificate is not trusted any more"
    assert talk.code == Reason.NOT_AUTHORIZED


@wheres
def test_a_topic_that_may_not_be_published_to_any_more(where: str):
    here = with_rules(where, drop_denied=True)
    talk = client(here, shown(METER), version=V5)
    talk.said(*[Publish("a", b"1")] * 3, Publish("b", b"1"))
    here.reload(topics=topics("allow all all b"))
    talk.said(Publish("a", b"2"), Publish("b", b"2"))
    assert talk.denials == [("publish", "a")]
    if where == "broker":
        assert payloads(talk.upstream()) == [b"1"] * 4 + [b"2"]


@wheres
@pytest.mark.parametrize("next_is", ["said", "heard"])
def test_a_subscription_that_may_not_be_any_more_ends_it(where: str, next_is: str):
    here = with_rules(where)
    talk = subscribed(client(here, shown(METER), version=V5), "a/#")
    here.reload(topics=topics("deny all subscribe a/secret", "allow all all #"))
    talk.said(PingReq()) if next_is == "said" else message(talk, "a/secret")
    assert talk.reason == "it may not subscribe any more to what it has subscribed to"
    assert talk.code == Reason.NOT_AUTHORIZED
    assert payloads(talk.take()) == []


def test_nor_is_it_given_what_has_waited_for_it():
    """Whoever reads slowly, and says nothing, would otherwise hear what was said after the reload."""
    here = with_rules("hub")
    talk = client(here, shown(METER), version=V5).subscribed("a/#", qos=1)
    other = here.client(client_id="l", version=V5)
    talk.slow = True
    for payload in (b"old", b"secret"):
        other.said(Publish("a/b", payload, 1, packet_id=1))
        here.reload(topics=topics("deny meter-7 subscribe #", "allow all all #"))
    talk.take()
    talk.drained()
    assert talk.reason == "it may not subscribe any more to what it has subscribed to"
    assert payloads(talk.take()) == []


@wheres
def test_a_will_that_may_not_be_any_more_ends_it_and_is_not_left(where: str):
    here = with_rules(where)
    other = here.client(client_id="l").subscribed("w") if where == "hub" else None
    talk = client(here, shown(METER), version=V5, will=Will("w", b"bye"))
    here.reload(topics=topics("deny all publish w", "allow all all #"))
    talk.said(PingReq())
    assert talk.reason == "denied: it may not publish to the topic of its Will"
    if other:
        assert payloads(other.take()) == []
    else:
        assert talk.upstream() == [Disconnect()]


@wheres
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"client": "required"}),
        ({}, {"fill_password": False}),
        ({}, {"topics": topics("allow all all #")}),
        ({"cn": "id", "check_password": False}, {"check_password": True}),
        ({"prefix_client_ids": True}, {"prefix_client_ids": False}),
    ],
)
def test_whatever_would_not_be_let_in_now_has_to_go(where: str, before: dict[str, Any], after: dict[str, Any]):
    here = world(where, **before)
    named = before.get("cn") == "id"
    tls = NAMELESS if after.get("client") else shown(NAMED) if named else shown()
    credentials = {"user_name": THING_ID, "password": KEY.encode()} if tls is NAMELESS else {}
    talk = client(here, tls, version=V5, **credentials)
    here.reload(**after)
    talk.said(PingReq())
    assert talk.code == Reason.NOT_AUTHORIZED
    assert talk.reason.startswith("denied: ")


def test_what_a_broker_has_for_it_is_decided_anew():
    here = with_rules("broker")
    talk = client(here, shown(METER))
    for _ in range(2):
        talk.heard(Publish("a", b"1"), Publish("b", b"1"))
    assert payloads(talk.take()) == [b"1"] * 4
    here.reload(topics=topics("allow all all b"))
    talk.heard(Publish("a", b"2"), Publish("b", b"3"), Publish("a", b"2"))
    assert payloads(talk.take()) == [b"3"]


@wheres
def test_whoever_is_somebody_else_now_has_to_go(where: str):
    here = with_rules(where)
    talk = client(here, shown(issue(CA, "meter-7", sans=["meter.example"])), version=V5)
    here.reload(identity="dns")
    talk.said(PingReq())
    assert talk.reason == "denied: another name, or other rights, come with the certificate now"
    assert talk.code == Reason.NOT_AUTHORIZED


@wheres
def test_a_client_id_of_ours_stays_what_it_was(where: str):
    here = world(where)
    talk = here.talk().said(hello(V5, ""))
    if where == "broker":
        talk.event(Dialed())
        (connect,) = talk.upstream()
        assert isinstance(connect, Connect)
        talk.heard(ConnAck())
    (answer,) = talk.take()
    assert isinstance(answer, ConnAck)
    assigned = answer.properties.assigned_client_identifier
    here.reload()
    talk.said(PingReq())
    assert not talk.closed
    entry = talk.link.entry
    assert (entry.connect.client_id, entry.assigned) == (assigned, assigned)


def test_a_reload_while_the_broker_is_dialed_counts_from_the_first_packet_on():
    here = with_rules("broker")
    talk = here.talk(shown(METER)).said(hello(V5), Publish("a", b"x"))
    here.reload(admission=admission("deny all all"))
    talk.event(Dialed()).heard(ConnAck())
    assert talk.closed
    assert payloads([one for one in talk.upstream() if not isinstance(one, Connect)]) == []


def test_a_thing_whose_key_was_rotated_before_a_reload_is_noticed_by_it():
    here = world("hub")
    talk = client(here, version=V5)
    here.registry.things[THING_ID] = replace(here.registry.things[THING_ID], key=key_hash(b"new"))
    here.reload()
    assert talk.said(PingReq()).reason == "denied: no thing has that key"


def test_nothing_is_asked_again_without_a_reload():
    here = world("hub")
    talk = client(here)
    for _ in range(3):
        talk.said(PingReq())
    here.registry.available = False
    talk.said(PingReq())
    assert not talk.closed
