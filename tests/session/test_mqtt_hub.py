"""A client of the embedded hub: what its packets become, what it is told, and what it has no right to."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.session.mqtt_link import MAX_ALIASED, MAX_DENIED, MAX_TOLD, TOPIC_ALIASES
from gateway.session.vocabulary import Dial, Ended, Send, Side
from gateway.things import topic_of
from gateway.wire import mqtt
from gateway.wire.mqtt_packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Reason,
    Refusal,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Version,
    Will,
)
from tests.mqtt_sessions import (
    CHANNEL,
    FOREIGN,
    OTHER_ID,
    OTHER_THING,
    TOPIC,
    V5,
    V31,
    V311,
    Talk,
    World,
    alias,
    hello,
    link_is_freed,
    payloads,
    shown,
    topics,
)

versions = pytest.mark.parametrize("version", [V31, V311, V5])
MINE = f"channels/{CHANNEL}/messages/#"
DENIED = topic_of(FOREIGN)


def publish(qos: int = 0, topic: str = TOPIC, payload: bytes = b"m", **more: Any) -> Publish:
    return Publish(topic, payload, qos, packet_id=5 if qos else 0, **more)


def codes(packets: list[Packet]) -> list[tuple[str, int]]:
    return [(type(one).__name__, getattr(one, "code", 0)) for one in packets]


# --- what passes -----------------------------------------------------------------------------------------------------


@versions
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_message_reaches_those_who_listen_and_is_acknowledged(version: Version, qos: int):
    world = World()
    listener = world.client(shown(OTHER_THING), client_id="l").subscribed(MINE)
    talk = world.client(version=version).said(publish(qos))
    assert codes(talk.take()) == [[], [("PubAck", 0)], [("PubRec", 0)]][qos]
    if qos == 2:
        assert codes(talk.said(PubRel(5)).take()) == [("PubComp", 0)]
    assert payloads(listener.take()) == [b"m"]


def test_a_flood_is_heard_whole_however_it_is_cut():
    data = b"".join(mqtt.serialize(publish(payload=b"%d" % number), V311) for number in range(200))
    for cut in (1, 7, 31, 32, 33, 1000):
        world = World()
        listener = world.client(client_id="l").subscribed(MINE)
        talk = world.client()
        for at in range(0, len(data), cut):
            talk.client(data[at : at + cut])
        assert payloads(listener.take()) == [b"%d" % number for number in range(200)]


def test_the_registry_is_asked_once_for_a_topic_until_something_changes():
    world = World()
    talk = world.client()
    for _ in range(3):
        talk.said(publish(), publish(1), publish())
    assert world.registry.asked == [CHANNEL]
    talk.said(publish(topic=f"{TOPIC}/sub"))
    assert world.registry.asked == [CHANNEL] * 2


@versions
def test_unsubscribe_and_ping_are_answered(version: Version):
    talk = World().client(version=version).subscribed(MINE)
    talk.said(Unsubscribe(9, (MINE,)), PingReq())
    found = talk.take()
    assert {type(one) for one in found} == {UnsubAck, PingResp}


def test_the_answers_to_one_read_are_one_write():
    talk = World().client()
    before = len(talk.commands)
    talk.said(*[Publish(TOPIC, b"m", 1, packet_id=number) for number in range(1, 11)])
    written = [one for one in talk.commands[before:] if isinstance(one, Send)]
    assert len(written) == 1
    assert codes(talk.take()) == [("PubAck", 0)] * 10


def test_a_share_is_asked_by_the_filter_in_it():
    talk = World().client(version=V5)
    talk.said(Subscribe(1, (Subscription(f"$share/g/{MINE}"), Subscription(f"$share/g/{DENIED}"))))
    assert talk.take() == [SubAck(1, (0, Reason.NOT_AUTHORIZED))]
    assert list(talk.link.filters()) == [MINE]


# --- what does not ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "qos", "drop", "answer", "ends"),
    [
        (V31, 0, False, [], None),
        (V311, 0, False, [], None),
        (V311, 1, False, [], None),
        (V311, 2, False, [], None),
        (V5, 0, False, [], Reason.NOT_AUTHORIZED),
        (V5, 1, False, [("PubAck", Reason.NOT_AUTHORIZED)], False),
        (V5, 2, False, [("PubRec", Reason.NOT_AUTHORIZED)], False),
        (V31, 0, True, [], False),
        (V311, 0, True, [], False),
        (V311, 1, True, [("PubAck", 0)], False),
        (V311, 2, True, [("PubRec", 0)], False),
        (V5, 0, True, [], False),
        (V5, 1, True, [("PubAck", Reason.NOT_AUTHORIZED)], False),
        (V5, 2, True, [("PubRec", Reason.NOT_AUTHORIZED)], False),
    ],
)
def test_a_publish_that_is_denied(version: Version, qos: int, drop: bool, answer: list[Any], ends: int | None):
    """ends: the code of the farewell, None: an end without one, False: none."""
    world = World(drop_denied=drop)
    for channel in (CHANNEL, FOREIGN):
        world.registry.allow(False, True, OTHER_ID, channel)
    listener = world.client(shown(OTHER_THING), client_id="l").subscribed(MINE, f"channels/{FOREIGN}/messages/#")
    talk = world.client(version=version).said(publish(qos, DENIED))
    assert payloads(listener.take()) == []
    assert talk.denials == [("publish", DENIED)]
    assert bool(talk.closed) == (ends is not False)
    if ends is not False:
        assert talk.code == ends
        assert talk.reason == "it may not publish to that topic"
        return
    assert codes(talk.take()) == answer
    if answer == [("PubRec", 0)]:
        assert codes(talk.said(PubRel(5)).take()) == [("PubComp", 0)]
    # It goes on.
    talk.said(publish())
    assert payloads(listener.take()) == [b"m"]


@versions
def test_a_subscribe_may_be_refused_in_part(version: Version):
    world = World()
    talk = world.client(version=version)
    asked = (DENIED, MINE, "#", f"channels/+/messages/{CHANNEL}", f"channels/{CHANNEL}/#")
    talk.said(Subscribe(3, tuple(Subscription(one, 1) for one in asked)))
    refused = Reason.NOT_AUTHORIZED if version is V5 else Refusal.SUBSCRIPTION_FAILED
    assert talk.take() == [SubAck(3, (refused, 1, refused, refused, refused))]
    assert talk.denials == [("subscribe", one) for one in asked if one != MINE]
    assert not talk.closed
    publisher = world.client(shown(OTHER_THING), client_id="p").said(publish(1))
    publisher.take()
    assert payloads(talk.take()) == [b"m"]


def test_denials_are_told_once_and_not_without_end():
    talk = World(drop_denied=True).client()
    for _ in range(2):
        talk.said(*[publish(topic=f"no/{number}/{'x' * 300}") for number in range(MAX_DENIED + 9)])
    assert len(talk.denials) == MAX_DENIED
    assert all(len(topic) == MAX_TOLD for _, topic in talk.denials)
    assert not talk.closed


def test_the_registry_is_not_asked_again_for_what_was_denied():
    world = World(drop_denied=True)
    talk = world.client()
    for _ in range(5):
        talk.said(publish(topic=DENIED))
    assert world.registry.asked == [FOREIGN]


def test_nobody_but_the_hub_speaks_for_the_hub():
    world = World(topics=topics("allow all all #", "allow all all $SYS/#"))
    listener = world.client(client_id="l").said(Subscribe(1, (Subscription("$SYS/#"),)))
    assert b"mine" not in payloads(listener.take())
    world.client(client_id="p").said(publish(topic="$SYS/broker/version", payload=b"mine"))
    assert b"mine" not in payloads(listener.take())


# --- topic aliases ---------------------------------------------------------------------------------------------------


def test_a_topic_alias_is_resolved_before_anybody_decides():
    world = World()
    listener = world.client(client_id="l").subscribed(MINE)
    talk = world.client(version=V5)
    talk.said(publish(properties=alias(1)), publish(topic="", payload=b"n", properties=alias(1)))
    found = [one for one in listener.take() if isinstance(one, Publish)]
    assert [(one.topic, one.payload) for one in found] == [(TOPIC, b"m"), (TOPIC, b"n")]
    # Moved to where it may not be.
    talk.said(publish(1, DENIED, properties=alias(1)), publish(1, "", properties=alias(1)))
    assert codes(talk.take()) == [("PubAck", Reason.NOT_AUTHORIZED)] * 2
    assert payloads(listener.take()) == []
    talk.said(publish(properties=alias(1)), publish(topic="", payload=b"o", properties=alias(1)))
    assert payloads(listener.take()) == [b"m", b"o"]


def test_a_listener_is_not_told_the_publishers_alias():
    world = World()
    listener = world.client(client_id="l", version=V5).subscribed(MINE)
    world.client(version=V5).said(publish(properties=Properties(topic_alias=1, content_type="text/plain")))
    (found,) = listener.take()
    assert isinstance(found, Publish)
    assert found.topic == TOPIC
    assert found.properties == Properties(content_type="text/plain")


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (publish(properties=alias(TOPIC_ALIASES + 1)), Reason.TOPIC_ALIAS_INVALID),
        (publish(topic="", properties=alias(TOPIC_ALIASES + 1)), Reason.TOPIC_ALIAS_INVALID),
        (publish(topic="", properties=alias(3)), Reason.PROTOCOL_ERROR),
        (publish(properties=Properties(subscription_identifiers=(1,))), Reason.PROTOCOL_ERROR),
    ],
)
def test_what_no_alias_can_be(packet: Publish, code: int):
    assert World().client(version=V5).said(packet).code == code


def test_no_alias_for_what_is_too_long_to_be_remembered():
    talk = World().client(version=V5)
    talk.said(publish(topic=f"{TOPIC}/".ljust(MAX_ALIASED, "x"), properties=alias(1)))
    assert not talk.closed
    talk.said(publish(topic=f"{TOPIC}/".ljust(MAX_ALIASED + 1, "x"), properties=alias(1)))
    assert talk.code == Reason.QUOTA_EXCEEDED


def test_what_was_denied_is_not_kept_to_be_denied_again():
    talk = World().client(version=V5)
    topic = "x" * 60_000
    talk.said(publish(1, topic), publish(1, topic))
    talk.said(Subscribe(1, (Subscription(topic), Subscription(topic))))
    assert not [one for one in talk.link._denied if topic in one]
    assert talk.denials == [("publish", topic[:MAX_TOLD]), ("subscribe", topic[:MAX_TOLD])]


def test_all_aliases_that_were_promised_can_be_used_and_are_forgotten_with_the_connection():
    world = World()
    talk = world.talk().said(hello(V5))
    (told,) = talk.take()
    assert isinstance(told, ConnAck)
    assert told.properties.topic_alias_maximum == TOPIC_ALIASES
    talk.said(*[publish(topic=f"{TOPIC}/{number}", properties=alias(number)) for number in range(1, TOPIC_ALIASES + 1)])
    assert not talk.closed
    again = world.client(version=V5)
    assert again.said(publish(topic="", properties=alias(1))).code == Reason.PROTOCOL_ERROR


# --- what breaks the protocol ----------------------------------------------------------------------------------------


@versions
@pytest.mark.parametrize(
    "packet",
    [ConnAck(), SubAck(1, (0,)), UnsubAck(1, (0,)), PingResp(), Auth(0, Properties(authentication_method="x"))],
)
def test_what_only_servers_send_ends_it(version: Version, packet: Packet):
    if isinstance(packet, Auth) and version is not V5:
        return
    if isinstance(packet, UnsubAck) and version is not V5:
        packet = UnsubAck(1)
    talk = World().client(version=version).said(packet)
    assert talk.code == (Reason.PROTOCOL_ERROR if version is V5 else None)
    assert talk.closed


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x00\x00", Reason.MALFORMED_PACKET),
        (b"\x30\x02\x00\x05", Reason.MALFORMED_PACKET),
        (b"\x36\x06\x00\x01a\x00\x01\x00", Reason.MALFORMED_PACKET),
        (b"\x30\x06\x00\x03a/#\x00", Reason.TOPIC_NAME_INVALID),
        (b"\x30\x05\x00\x02\xc3\x28\x00", Reason.MALFORMED_PACKET),
        (b"\x82\x05\x00\x01\x00\x00\x00", Reason.TOPIC_FILTER_INVALID),
        (b"\x82\x08\x00\x01\x00\x00\x02a#\x00", Reason.TOPIC_FILTER_INVALID),
        (b"\x80\x06\x00\x01\x00\x00\x01a\x00", Reason.MALFORMED_PACKET),
        (b"\xff\xff\xff\xff\xff", Reason.MALFORMED_PACKET),
        (b"\x30\xff\xff\xff\x7f", Reason.PACKET_TOO_LARGE),
    ],
)
def test_malformed_packets_get_their_answer_and_the_end(data: bytes, code: int):
    talk = World().client(version=V5).client(data)
    assert talk.closed
    assert talk.code == code


def test_more_than_receive_maximum_ends_it():
    talk = World().client(version=V5)
    talk.said(*[Publish(TOPIC, b"m", 2, packet_id=number) for number in range(1, 101)])
    assert not talk.closed
    assert talk.said(Publish(TOPIC, b"m", 2, packet_id=101)).code == Reason.RECEIVE_MAXIMUM_EXCEEDED


# --- terms -----------------------------------------------------------------------------------------------------------


def test_what_5_is_told_of_what_holds_here():
    world = World(max_packet=2048, keep_alive=30)
    talk = world.talk().said(hello(V5, "", keep_alive=60, properties=Properties(session_expiry=0xFFFF_FFFF)))
    (told,) = talk.take()
    assert isinstance(told, ConnAck)
    properties, hub = told.properties, world.hub.settings
    assert properties.session_expiry == hub.max_session_expiry
    assert properties.receive_maximum == hub.receive_maximum
    assert (properties.maximum_packet_size, properties.server_keep_alive) == (2048, 30)
    assert properties.assigned_client_identifier
    plain = world.talk().said(hello(V5, keep_alive=30))
    (told,) = plain.take()
    assert isinstance(told, ConnAck)
    assert (told.properties.server_keep_alive, told.properties.session_expiry) == (None, None)


def test_a_session_that_is_resumed_is_told_so_and_what_was_kept_follows_connack():
    world = World()
    kept = hello(client_id="kept", clean_start=False)
    world.talk().said(kept, Subscribe(1, (Subscription(MINE, 1),))).said(Disconnect())
    world.client(client_id="p").said(publish(1))
    talk = world.talk().said(kept)
    answer, message = talk.take()
    assert answer == ConnAck(True)
    assert payloads([message]) == [b"m"]


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "left"),
    [
        ("disconnect", False),
        ("disconnect with will", True),
        ("lost", True),
        ("cut", True),
        ("malformed", True),
        ("error", True),
    ],
)
def test_who_leaves_a_will(how: str, left: bool):
    world = World()
    listener = world.client(client_id="l").subscribed(MINE)
    talk = world.client(version=V5, will=Will(TOPIC, b"bye"))
    if how.startswith("disconnect"):
        talk.said(Disconnect(Reason.DISCONNECT_WITH_WILL if left else 0))
        assert talk.reason == "the client has disconnected"
        assert talk.code is None
    elif how == "lost":
        talk.gone()
    elif how == "cut":
        talk.tell(Ended())
    elif how == "malformed":
        talk.client(b"\x00\x00")
    else:
        talk.said(Disconnect(Reason.UNSPECIFIED_ERROR))
    world.time.turn()
    assert payloads(listener.take()) == ([b"bye"] if left else [])
    assert world.hub.sessions.online == 1


def test_what_comes_behind_disconnect_is_nothing():
    world = World()
    listener = world.client(client_id="l").subscribed(MINE)
    talk = world.client().said(publish(), Disconnect(), publish(payload=b"late"), Connect(V311, "c"))
    assert talk.reason == "the client has disconnected"
    assert payloads(listener.take()) == [b"m"]


def test_what_came_before_a_violation_in_the_same_read_counts():
    world = World()
    listener = world.client(client_id="l").subscribed(MINE)
    talk = world.client().said(publish(), publish(topic=DENIED), publish(payload=b"late"))
    assert talk.closed
    assert payloads(listener.take()) == [b"m"]


def test_a_session_expiry_in_disconnect():
    world = World()
    zero = world.client(version=V5)
    assert zero.said(Disconnect(0, Properties(session_expiry=5))).code == Reason.PROTOCOL_ERROR
    some = world.client(version=V5, properties=Properties(session_expiry=50))
    some.said(Disconnect(0, Properties(session_expiry=5)))
    assert some.code is None
    assert world.hub.sessions.offline == 1
    world.pass_by(6)
    assert world.hub.sessions.offline == 0


# --- who does not take what it is sent -------------------------------------------------------------------------------


def test_a_client_that_does_not_take_its_answers_is_not_read():
    talk = World().client()
    talk.slow = True
    talk.said(PingReq())
    assert talk.held
    assert talk.take() == [PingResp()]
    talk.said(PingReq())  # what had been read already
    assert talk.take() == [PingResp()]
    talk.drained()
    assert not talk.held


def test_a_slow_listener_misses_what_it_may_and_gets_the_rest_once_it_has_taken_all():
    world = World()
    listener = world.client(client_id="l").subscribed(MINE, qos=1)
    publisher = world.client(client_id="p")
    listener.slow = True
    publisher.said(publish(payload=b"1"))
    for number in range(3):
        publisher.said(publish(payload=b"lost"), publish(1, payload=b"kept%d" % number))
    assert payloads(listener.take()) == [b"1"]
    listener.drained()
    assert payloads(listener.take()) == [b"kept0", b"kept1", b"kept2"]
    assert not listener.closed


def test_what_it_has_missed_is_told_at_its_end():
    world = World()
    publisher = world.client(client_id="p")
    for missed in (3, 0, 2):
        listener = world.client(client_id="l", clean_start=False).subscribed(MINE, qos=1)
        listener.slow = bool(missed)
        for number in range(missed + 1):
            publisher.said(publish(payload=b"%d" % number))
        assert listener.session.facts.dropped is None
        listener.gone()
        # Of this connection, though its session has missed more.
        assert listener.session.facts.dropped == (missed or None)


def test_who_was_not_let_in_has_missed_nothing():
    world = World()
    world.registry.available = False
    talk = world.talk().said(hello())
    assert talk.closed
    assert talk.session.facts.dropped is None


def test_a_listener_that_lets_too_much_come_together_is_disconnected():
    world = World()
    listener = world.client(client_id="l", version=V5).subscribed(MINE, qos=1)
    publisher = world.client(client_id="p")
    listener.slow = True
    for number in range(1, world.hub.settings.max_queued + 3):
        publisher.said(Publish(TOPIC, b"m", 1, packet_id=number))
    assert listener.code == Reason.QUOTA_EXCEEDED


# --- nothing is left -------------------------------------------------------------------------------------------------


def test_nothing_is_dialed_for_the_hub():
    talk = World().client().subscribed(MINE).said(publish(2), PubRel(5), Disconnect())
    assert not talk.of(Dial)
    assert not [one for one in talk.of(Send) if one.side is not Side.CLIENT]


@pytest.mark.parametrize("how", ["disconnect", "lost", "denied"])
def test_a_session_leaves_no_cycle_behind(how: str):
    """Cycles would wait for a collection, which is rare here."""
    world = World()
    talk = world.client(version=V5).subscribed(MINE).said(publish(1), publish(properties=alias(1)))
    if how == "disconnect":
        talk.said(Disconnect())
    elif how == "lost":
        talk.gone()
    else:
        talk.said(publish(topic=DENIED))
    assert talk.closed
    assert link_is_freed(talk)


def test_flows_of_qos_2_in_both_directions():
    world = World()
    listener = world.client(client_id="l").subscribed(MINE, qos=2)
    talk = world.client(client_id="p").said(publish(2), publish(2))  # it comes twice, and counts once
    assert codes(talk.take()) == [("PubRec", 0)] * 2
    (message,) = listener.take()
    assert isinstance(message, Publish)
    assert codes(listener.said(PubRec(message.packet_id)).take()) == [("PubRel", 0)]
    assert listener.said(PubComp(message.packet_id)).take() == []
    assert codes(talk.said(PubRel(5)).take()) == [("PubComp", 0)]
    assert listener.take() == []


def test_acknowledgements_of_what_was_never_sent():
    assert World().client(version=V5).said(PubAck(9), PubComp(9)).closed is None
    talk = World().client(version=V5).said(PubRec(9))
    assert codes(talk.take()) == [("PubRel", Reason.PACKET_IDENTIFIER_NOT_FOUND)]


BIG = bytes(10_000)


def until_all_is_taken(talk: Talk) -> list[Packet]:
    """A client that takes 64 KiB at a time; what it was sent at once."""
    found = talk.take()
    for _ in range(1000):
        before = len(found)
        talk.drained()
        assert talk.taken < 300_000
        found += talk.take()
        if len(found) == before:
            return found
    raise AssertionError("it never ends")


def test_what_was_kept_comes_as_the_client_takes_it():
    """Not all at once: a driver ends whoever has more waiting than half a mebibyte."""
    world = World()
    kept = hello(V5, "kept", clean_start=False, properties=Properties(session_expiry=100, receive_maximum=300))
    world.talk().said(kept, Subscribe(1, (Subscription(MINE, 1),))).said(Disconnect())
    publisher = world.client(client_id="p")
    for number in range(1, 251):
        publisher.said(Publish(TOPIC, b"%d," % number + BIG, 1, packet_id=number))
    talk = world.talk()
    talk.takes = 65_536
    talk.said(kept)
    assert talk.taken < 300_000
    first, *messages = until_all_is_taken(talk)
    assert isinstance(first, ConnAck)
    numbers = [int(one.split(b",")[0]) for one in payloads(messages)]
    assert numbers == list(range(1, 251))
    assert not talk.closed


@pytest.mark.parametrize("takes", [None, 65_536])
def test_what_is_retained_comes_in_order_behind_suback_as_the_client_takes_it(takes: int | None):
    world = World()
    publisher = world.client(client_id="p")
    for number in range(250):
        publisher.said(Publish(f"{TOPIC}/{number:03}", BIG, retain=True))
    talk = world.client()
    talk.takes = takes
    talk.taken = 0
    talk.said(Publish(TOPIC, b"m", 1, packet_id=9), Subscribe(1, (Subscription(MINE),)), PingReq())
    if takes:
        assert talk.taken < 300_000
    found = until_all_is_taken(talk) if takes else talk.take()
    answers = [one for one in found if not isinstance(one, Publish)]
    assert {type(one) for one in answers} == {PubAck, SubAck, PingResp}
    assert [type(one) for one in found if not isinstance(one, PingResp)][:2] == [PubAck, SubAck]
    topics_seen = [one.topic for one in found if isinstance(one, Publish)]
    assert sorted(topics_seen) == [f"{TOPIC}/{number:03}" for number in range(250)]
