"""CONNECT: whole, first and once; who is refused hears it in the protocol; and nothing happens before the verdict."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.session.mqtt import MAX_CONNECT
from gateway.session.mqtt_link import farewell, refusal
from gateway.session.vocabulary import (
    Close,
    Data,
    Dial,
    Dialed,
    Dismissed,
    Drained,
    Ended,
    Enter,
    Event,
    Expired,
    Hold,
    Idle,
    Lost,
    Mail,
    Opened,
    Secured,
    Send,
    SetDeadline,
    Settled,
    ShuttingDown,
    Side,
    Sniffed,
    StartTLS,
    TimedOut,
    TLSFacts,
)
from gateway.upstream import TLSMode
from gateway.wire import mqtt
from gateway.wire.mqtt_packets import (
    ConnAck,
    Connect,
    Disconnect,
    PingReq,
    PingResp,
    Properties,
    Publish,
    Reason,
    Refusal,
    Will,
)
from tests.mqtt_sessions import (
    CHANNEL,
    CLIENT,
    HANDSHAKE,
    KEY,
    LIMIT,
    METER,
    NAMED,
    NAMELESS,
    THING_ID,
    TOPIC,
    V5,
    V31,
    V311,
    Talk,
    World,
    admission,
    broker,
    hello,
    parsed,
    payloads,
    shown,
    topics,
)

versions = pytest.mark.parametrize("version", [V31, V311, V5])
BEHIND = mqtt.serialize(Publish(TOPIC, b"behind"), V311) + mqtt.serialize(PingReq(), V311)


# --- the order of things ---------------------------------------------------------------------------------------------


def test_a_client_comes_in_step_by_step():
    world = World()
    talk = Talk(world)
    deadline, tls = talk.commands
    assert (deadline, tls.side) == (SetDeadline(HANDSHAKE), Side.CLIENT)  # type: ignore[union-attr]  # or it fails
    talk.tell(Secured(Side.CLIENT, shown()))
    assert talk.commands[2:] == [SetDeadline(HANDSHAKE)]
    talk.said(hello(keep_alive=10))
    assert talk.commands[3:] == [Send(Side.CLIENT, bytes((0x20, 2, 0, 0))), Enter(), SetDeadline(15.0)]
    assert not talk.session._buffer
    facts = talk.session.facts
    assert (facts.tls, facts.subject, facts.decision) == ("TLSv1.3", THING_ID, "allowed")
    assert (facts.client_id, facts.rule) == ("c", "rules:1: allow all all")
    assert facts.serial
    assert talk.counted == [THING_ID]


@versions
def test_every_version_is_welcome(version: Any):
    world = World()
    talk = world.client(version=version)
    assert talk.entered
    assert talk.said(PingReq()).take() == [PingResp()]


@pytest.mark.parametrize("where", [{}, {"upstream": broker()}], ids=["hub", "broker"])
@versions
def test_a_connect_may_come_in_any_two_pieces_or_byte_by_byte(version: Any, where: dict[str, Any]):
    connect = hello(version, user_name=THING_ID, password=None if version is V31 else b"thing-key-4711")
    data = mqtt.serialize(connect, version)
    pieces = [(data[:at], data[at:]) for at in range(1, len(data))] + [tuple(bytes((one,)) for one in data)]
    whole = World(**where).talk().client(data)
    for split in pieces:
        talk = World(**where).talk()
        for piece in split[:-1]:
            before = len(talk.commands)
            talk.client(piece)
            assert len(talk.commands) == before, "something was done before CONNECT was whole"
        talk.client(split[-1])
        assert talk.commands == whole.commands
        assert talk.of(Dial) if where else talk.entered


def test_what_is_behind_connect_is_heard_after_the_verdict_however_it_comes():
    data = mqtt.serialize(hello(), V311) + BEHIND
    for at in range(1, len(data) + 1):
        world = World()
        listener = world.client(client_id="listener").subscribed(TOPIC)
        talk = world.talk().client(data[:at])
        if data[at:]:
            talk.client(data[at:])
        assert talk.take() == [ConnAck(), PingResp()]
        assert payloads(listener.take()) == [b"behind"]


@pytest.mark.parametrize("where", [{}, {"upstream": broker()}], ids=["hub", "broker"])
@pytest.mark.parametrize(
    ("tls", "connect"),
    [
        (shown(), hello(password=b"wrong", user_name=THING_ID)),
        (shown(), hello(user_name="somebody else")),
        (shown(), hello(will=Will("channels/x", b"bye"))),
        (shown(), hello(client_id="x" * 257)),
        (NAMELESS, hello()),
        (shown(expires=1.0), hello()),
    ],
)
def test_bytes_behind_a_refused_connect_reach_nobody(where: dict[str, Any], tls: Any, connect: Connect):
    world = World(**where)
    if not where:
        listener = world.client(client_id="listener").subscribed(f"channels/{CHANNEL}/messages/#")
    talk = world.talk(tls).client(mqtt.serialize(connect, V311) + BEHIND)
    assert talk.closed
    assert not talk.of(Dial)
    assert not talk.entered
    assert not talk.raw_upstream()
    talk.client(BEHIND)
    if not where:
        assert listener.take() == []
        assert world.hub.sessions.online == 1


def test_nothing_is_dialed_before_connect_and_no_byte_goes_there_before_the_login():
    world = World(upstream=broker(TLSMode.VERIFY_FULL))
    talk = world.talk().client(mqtt.serialize(hello(), V311) + BEHIND)
    assert talk.raw_upstream() == b""
    talk.tell(Dialed())
    assert [one.side for one in talk.of(StartTLS)] == [Side.CLIENT, Side.UPSTREAM]
    assert talk.raw_upstream() == b""
    talk.tell(Secured(Side.UPSTREAM, NAMELESS))
    (connect,) = talk.upstream()
    assert isinstance(connect, Connect)
    assert not talk.take()
    talk.heard(ConnAck())
    assert talk.raw_upstream() == BEHIND


def test_a_second_connect_ends_it():
    where: dict[str, Any]
    for where in ({}, {"upstream": broker()}):
        world = World(**where)
        for version, code in ((V311, None), (V5, Reason.PROTOCOL_ERROR)):
            talk = world.through(version=version) if where else world.client(version=version)
            talk.said(hello(version))
            assert talk.closed
            assert talk.code == code
            assert talk.raw_upstream() == b""


def test_two_connects_in_one_read():
    talk = World().talk().said(hello(), hello(client_id="d"))
    assert isinstance(talk.take()[0], ConnAck)
    assert "CONNECT" in talk.reason


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_a_connect_that_is_too_large_is_refused_before_it_is_kept():
    talk = World(max_packet=1024).talk()
    talk.client(b"\x10\x80\x08\x00\x04MQTT\x05")  # 1,024 and its header
    assert talk.code == Reason.PACKET_TOO_LARGE
    assert len(talk.session._buffer) == 0
    old = World(max_packet=1024).talk().client(b"\x10\x80\x08\x00\x04MQTT\x04")
    assert (old.code, old.reason) == (None, "CONNECT: a packet is larger than it may be")


def test_before_anything_is_proven_less_is_kept_than_later():
    body = mqtt.serialize(hello(V5, password=b"x" * 60_000, will=Will("w", b"y" * 60_000)), V5)
    assert 100_000 < len(body) < MAX_CONNECT
    talk = World(max_packet=64_000_000).talk().client(body[:-1])
    assert not talk.closed
    assert talk.client(body[-1:]).code == Reason.BAD_USER_NAME_OR_PASSWORD
    talk = World(max_packet=64_000_000).talk()
    talk.client(b"\x10\xff\xff\x0f\x00\x04MQTT\x05")  # 262,143, and its header
    assert talk.code == Reason.PACKET_TOO_LARGE
    assert len(talk.session._buffer) == 0


def test_one_as_large_as_it_may_be_is_not():
    body = mqtt.serialize(hello(V5, password=b"x" * 1000), V5)
    talk = World(max_packet=len(body), fill_password=True).talk().client(body)
    assert talk.code == Reason.BAD_USER_NAME_OR_PASSWORD
    assert World(max_packet=len(body) - 1).talk().client(body).code == Reason.PACKET_TOO_LARGE


def test_connect_has_a_deadline_that_bytes_do_not_move():
    world = World()
    talk = world.talk()
    for _ in range(3):
        world.pass_by(HANDSHAKE / 4)
        talk.client(b"\x10" if not talk.session._buffer else b"\x80" if len(talk.session._buffer) < 2 else b"\x01")
    world.pass_by(HANDSHAKE / 4)
    assert talk.reason == "CONNECT did not come in time"
    assert talk.code is None


def test_so_has_the_handshake():
    world = World()
    talk = Talk(world)
    world.pass_by(HANDSHAKE)
    assert talk.reason == "TLS was not finished in time"


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x30\x03\x00\x01a", None),  # another packet first
        (b"\x11\x00", None),  # a reserved flag in the first byte
        (b"\x10\xff\xff\xff\xff\x01", None),  # a length of five bytes
        (b"\x10\x80\x00", None),  # a length that is longer than it needs to be
        (b"\x10\x07\x00\x04MQXX\x05", None),  # not MQTT
        (b"\x10\x00", None),
        (b"\x10\x0c\x00\x04MQTT\x04\x03\x00\x00\x00\x00", None),  # the reserved flag, in 3.1.1
        (b"\x10\x0d\x00\x04MQTT\x05\x03\x00\x00\x00\x00\x00", Reason.MALFORMED_PACKET),
        (b"\x10\x0e\x00\x04MQTT\x04\x42\x00\x00\x00\x00\x00\x00", None),  # a password without a user name
        (b"\x10\x10\x00\x04MQTT\x05\x02\x00\x00\x03\x17\x01\x17\x00\x00", Reason.MALFORMED_PACKET),
        (b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01a\x00", Reason.MALFORMED_PACKET),  # trailing bytes
        (b"\x10\x0c\x00\x04MQTT\x06\x02\x00\x00\x00\x00", Refusal.UNACCEPTABLE_PROTOCOL_VERSION),
        (b"\x10\x0c\x00\x04MQTT\x03\x02\x00\x00\x00\x00", Refusal.UNACCEPTABLE_PROTOCOL_VERSION),
        (b"GET / HTTP/1.1\r\n\r\n", None),
        (b"\x16\x03\x01\x02\x00", None),
    ],
)
def test_what_is_no_connect_ends_it_with_a_code_where_there_can_be_one(data: bytes, code: int | None):
    talk = World(upstream=broker()).talk().client(data)
    assert talk.closed
    assert talk.reason.startswith("CONNECT: ")
    assert not talk.of(Dial)
    farewell = talk.closed.farewell
    if code is None:
        assert farewell == b""
    else:
        (answer,) = parsed(farewell, V5 if code >= 0x80 else V311)
        assert answer == ConnAck(False, code)


@pytest.mark.parametrize(
    ("connect", "old", "new"),
    [
        ({"user_name": "nobody"}, Refusal.BAD_USER_NAME_OR_PASSWORD, Reason.BAD_USER_NAME_OR_PASSWORD),
        ({"client_id": "x" * 257}, Refusal.IDENTIFIER_REJECTED, Reason.CLIENT_IDENTIFIER_NOT_VALID),
        ({"will": Will("elsewhere", b"")}, Refusal.NOT_AUTHORIZED, Reason.NOT_AUTHORIZED),
    ],
)
def test_each_version_hears_its_own_code(connect: dict[str, Any], old: int, new: int):
    for version in (V31, V311, V5):
        talk = World().talk().said(hello(version, **connect))
        assert talk.code == (new if version is V5 else old)
        assert talk.session.facts.decision == "refused"


def test_enhanced_authentication_is_refused():
    properties = Properties(authentication_method="SCRAM-SHA-256", authentication_data=b"n,,")
    talk = World(upstream=broker()).talk().said(hello(V5, properties=properties))
    assert talk.code == Reason.BAD_AUTHENTICATION_METHOD
    assert not talk.of(Dial)


def test_too_many_connections_are_told_so():
    for version, code in ((V311, Refusal.SERVER_UNAVAILABLE), (V5, Reason.QUOTA_EXCEEDED)):
        world = World()
        over = Talk(world, over_limit=True).event(Secured(Side.CLIENT, shown())).said(hello(version))
        assert (over.code, over.counted) == (code, [])
        many = Talk(world, room=False).event(Secured(Side.CLIENT, shown())).said(hello(version))
        assert (many.code, many.counted) == (code, [THING_ID])
        assert world.registry.watches == []
        assert world.hub.sessions.online == 0


def test_those_who_are_nobody_in_particular_are_not_counted_as_one_subject():
    world = World(things=None, topics=topics("allow all all #"))
    talk = Talk(world, room=False).event(Secured(Side.CLIENT, NAMELESS)).said(hello())
    assert talk.entered
    assert talk.counted == []
    assert talk.session.facts.subject is None


def test_a_rule_has_to_let_it_in():
    for rules in (admission(), admission(f"deny {THING_ID} all", "allow all all"), admission("allow all 192.0.2.0/24")):
        talk = World(admission=rules).talk().said(hello(V5))
        assert talk.code == Reason.NOT_AUTHORIZED
        assert talk.reason.startswith("denied: ")
    allowed = World(admission=admission(f"allow {THING_ID} 10.0.0.0/8")).talk().said(hello())
    assert allowed.entered


def test_no_code_of_ours_is_one_that_cannot_be_said():
    for code in Reason:
        if code >= 0x80:
            for version in (V31, V311):
                (answer,) = parsed(refusal(code, version), version)
                assert isinstance(answer, ConnAck)
                assert 1 <= answer.code <= 5
                assert farewell(code, version) == b""
    ended_by = (
        Reason.NOT_AUTHORIZED,
        Reason.ADMINISTRATIVE_ACTION,
        Reason.SERVER_UNAVAILABLE,
        Reason.SERVER_SHUTTING_DOWN,
        Reason.QUOTA_EXCEEDED,
        Reason.SERVER_BUSY,
    )
    for code in ended_by:
        (answer,) = parsed(refusal(code, V5), V5)
        assert isinstance(answer, ConnAck)
        assert answer.code >= 0x80
        (goodbye,) = parsed(farewell(code, V5), V5)
        assert isinstance(goodbye, Disconnect)
        assert goodbye.code >= 0x80


# --- what the audit says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "swapped",
    [
        {"user_name": KEY, "password": THING_ID.encode()},
        {"user_name": KEY, "password": KEY.encode()},
        {"user_name": KEY, "password": b"x", "client_id": KEY},
        {"user_name": THING_ID, "password": b"x", "client_id": KEY},
    ],
)
@pytest.mark.parametrize("tls", [NAMELESS, shown()])
def test_a_key_in_the_wrong_field_is_not_recorded(swapped: dict[str, Any], tls: TLSFacts):
    facts = World().talk(tls).said(hello(V5, **swapped)).session.facts
    assert (facts.decision, facts.user, facts.client_id) == ("refused", None, None)


def test_nor_what_anybody_may_make_up():
    talk = World().talk().said(hello(client_id="c" * 5000, user_name="u" * 60_000))
    facts = talk.session.facts
    assert (facts.user, facts.client_id) == (None, None)


def test_what_is_proven_is_recorded():
    facts = World().client(user_name=THING_ID, client_id="mine").session.facts
    assert (facts.user, facts.client_id) == (THING_ID, "mine")
    swapped = World().client(client_id=KEY).session.facts
    assert (swapped.decision, swapped.client_id) == ("allowed", None)
    here = World(cn="id", things=None, topics=topics("allow all all #"))
    assert here.client(shown(METER), user_name="meter-7").session.facts.user == "meter-7"
    assert here.client(shown(METER), user_name="somebody").session.facts.user is None
    assert here.client(NAMELESS, user_name="somebody").session.facts.user is None


def test_all_bytes_of_the_client_are_counted():
    talk = World().client()
    connect = len(mqtt.serialize(hello(), V311))
    talk.said(PingReq()).gone()
    assert (talk.session.facts.from_client, talk.session.facts.to_client) == (connect + 2, 4 + 2)
    refused = World().talk().client(b"\x10\x00")
    assert (refused.session.facts.from_client, refused.session.facts.to_client) == (2, 0)


def test_the_key_is_in_no_word_of_it():
    for password in (b"thing-key-4711", b"thing-key-4713"):
        talk = World().talk().said(hello(user_name=THING_ID, password=password))
        for said in (*map(repr, talk.commands), repr(talk.session.facts), talk.reason):
            assert "thing-key" not in said


# --- the end ---------------------------------------------------------------------------------------------------------


def test_a_shutdown_before_the_verdict_just_ends_it():
    talk = Talk(World()).event(ShuttingDown())
    assert talk.reason == "the gateway is shutting down"
    talk = World().talk().event(ShuttingDown())
    assert (talk.reason, talk.code) == ("the gateway is shutting down", None)


def test_a_client_that_leaves_before_is_told_of_as_it_was():
    assert World().talk().client(b"\x10").gone("reset by peer").reason == "reset by peer"
    assert Talk(World()).gone("TLS: no shared cipher").reason == "TLS: no shared cipher"


_EVENTS: list[Event] = [
    Opened(CLIENT),
    Sniffed(b"x"),
    Data(Side.CLIENT, mqtt.serialize(hello(V5), V5)),
    Data(Side.CLIENT, mqtt.serialize(hello(V311), V311)),
    Data(Side.CLIENT, mqtt.serialize(Publish(TOPIC, b"x", 1, packet_id=3), V311)),
    Data(Side.CLIENT, b"\x00"),
    Data(Side.UPSTREAM, b"\x20\x02\x00\x00"),
    Data(Side.UPSTREAM, b"\x20\x03\x00\x00\x00"),
    Data(Side.UPSTREAM, b"\xff"),
    Secured(Side.CLIENT, shown()),
    Secured(Side.UPSTREAM, NAMELESS),
    Dialed(),
    Lost(Side.CLIENT, "x"),
    Lost(Side.UPSTREAM, "x"),
    TimedOut(),
    TimedOut(Side.CLIENT),
    Expired(),
    Idle(),
    ShuttingDown(),
    Mail(b"\x30\x03\x00\x01a"),
    Drained(),
    Dismissed(Reason.ADMINISTRATIVE_ACTION, "x"),
    Dismissed(Reason.QUOTA_EXCEEDED, "x"),
    Settled(),
    Ended(),
]


@given(st.lists(st.sampled_from(_EVENTS), max_size=12), st.booleans(), st.booleans(), st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_whatever_comes_whenever_nothing_breaks(events: list[Event], with_broker: bool, tls: bool, start: int):
    """Also an event that has no place: the conversation itself sees to what may never happen."""
    mode = TLSMode.VERIFY_FULL if tls else TLSMode.DISABLE
    world = World(upstream=broker(mode)) if with_broker else World()
    talk = Talk(world) if start == 0 else world.talk()
    if start > 1:
        talk.said(hello(V5 if start == 2 else V311, keep_alive=5))
    for event in events:
        if isinstance(event, Ended):
            break
        if not talk.closed:
            talk.tell(event)
    for data in (one.farewell for one in talk.of(Close)):
        assert len(data) < 16
    for one in talk.of(Send):
        assert mqtt.frame(one.data, 0, LIMIT) is not None
    if not talk.closed:
        talk.tell(Ended())
    assert world.registry.watches == []
    assert world.hub.sessions.online == 0
    assert not (talk.of(Dial) and not with_broker)
    assert len(talk.of(Hold)) <= len(events) + 1


def test_a_named_certificate_is_enough_where_the_password_is_ignored():
    talk = World(cn="id", check_password=False).talk(shown(NAMED)).said(hello())
    assert talk.entered
