"""The way to a broker: which address, with what, and what becomes of a client whose broker refuses, breaks or dies."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.session.backends import DOWN_SECONDS, Backends
from gateway.session.mqtt_access import BrokerLogin
from gateway.session.mqtt_broker import _MAX_AHEAD, BrokerLink
from gateway.session.mqtt_link import TOPIC_ALIASES
from gateway.session.vocabulary import (
    Close,
    Denial,
    Dial,
    Dialed,
    Ended,
    Enter,
    Event,
    HangUp,
    Hold,
    Lost,
    Proceed,
    Secured,
    Send,
    ShuttingDown,
    Side,
    StartTLS,
    TimedOut,
)
from gateway.upstream import Address, TLSMode
from gateway.wire import mqtt
from gateway.wire.mqtt_packets import (
    ConnAck,
    Connect,
    Disconnect,
    PingReq,
    PingResp,
    Properties,
    PubAck,
    Publish,
    Reason,
    Refusal,
    Version,
    Will,
)
from tests.mqtt_sessions import (
    CONNECT_TIMEOUT,
    FIRST,
    KEY,
    NAMELESS,
    SECOND,
    THING_ID,
    TOPIC,
    V5,
    V31,
    V311,
    Talk,
    World,
    broker,
    hello,
    link_is_freed,
    parsed,
)

versions = pytest.mark.parametrize("version", [V31, V311, V5])
THIRD = Address("mq3.example", 1883)


def world(**given: Any) -> World:
    return World(**({"upstream": broker()} | given))


def login(version: Version = V311, **given: Any) -> Talk:
    """Up to the CONNECT that the broker gets."""
    talk = world(**given).talk().said(hello(version)).event(Dialed())
    talk.raw_upstream()
    return talk


# --- the way there ---------------------------------------------------------------------------------------------------


@versions
def test_step_by_step(version: Version):
    here = world(keep_alive=0)
    talk = here.talk()
    before = len(talk.commands)
    talk.said(hello(version, keep_alive=60, will=Will(TOPIC, b"bye", 1, True), clean_start=False))
    hold, deadline, dial = talk.commands[before:]
    upstream = here.access.upstream
    assert upstream is not None
    assert (hold, dial) == (Hold(), Dial(upstream, FIRST, name=("mqtt:main", str(FIRST))))
    assert talk.deadline == CONNECT_TIMEOUT
    assert not talk.entered
    talk.tell(Dialed())
    (connect,) = talk.upstream()
    assert isinstance(connect, Connect)
    assert connect == Connect(
        V5 if version is V5 else V311,
        f"{THING_ID}:c",
        clean_start=False,
        keep_alive=60,
        user_name=THING_ID,
        password=KEY.encode(),
        will=Will(TOPIC, b"bye", 1, True),
        properties=Properties(maximum_packet_size=here.access.max_packet) if version is V5 else connect.properties,
    )
    assert (talk.session.facts.decision, talk.take()) == ("refused", [])
    before = len(talk.commands)
    talk.heard(ConnAck(True))
    assert [type(one) for one in talk.commands[before:]] == [Send, Enter, type(deadline), Proceed]
    assert talk.deadline == 90
    (answer,) = talk.take()
    assert isinstance(answer, ConnAck)
    assert (answer.session_present, answer.code) == (True, 0)
    facts = talk.session.facts
    assert (facts.decision, facts.upstream, facts.client_id) == ("allowed", f"mqtt:main {FIRST}", "c")


def test_over_tls_nothing_is_said_before_it_is_secured():
    talk = world(upstream=broker(TLSMode.VERIFY_FULL)).talk().said(hello()).event(Dialed())
    assert talk.of(StartTLS)[-1].side is Side.UPSTREAM
    assert talk.raw_upstream() == b""
    talk.tell(Secured(Side.UPSTREAM, NAMELESS))
    assert len(talk.upstream()) == 1


@pytest.mark.parametrize("stage", ["dial", "tls", "login"])
@pytest.mark.parametrize("how", ["lost", "slow"])
def test_each_address_is_tried_in_turn(stage: str, how: str):
    talk = world(upstream=broker(TLSMode.VERIFY_CA)).talk().said(hello(V5))
    event = Lost(Side.UPSTREAM, "connection refused") if how == "lost" else TimedOut()
    for address in (FIRST, SECOND):
        assert talk.dials[-1] == address
        assert talk.deadline == CONNECT_TIMEOUT
        assert talk.session.facts.upstream == f"mqtt:main {address}"
        if stage != "dial":
            talk.tell(Dialed())
        if stage == "login":
            talk.tell(Secured(Side.UPSTREAM, NAMELESS))
            talk.broker(b"\x20")  # a piece of an answer, which is not the other's
        assert not talk.closed
        talk.tell(event)
    assert talk.dials == [FIRST, SECOND]
    assert talk.code == Reason.SERVER_UNAVAILABLE
    expected = "connection refused" if how == "lost" else "it took longer than connect_timeout"
    assert talk.reason == f"upstream mqtt:main {SECOND}: {expected}"


def test_the_second_address_is_as_good_as_the_first():
    talk = login().broker(b"\x20").event(Lost(Side.UPSTREAM, "x")).event(Dialed())
    assert len(talk.upstream()) == 1
    talk.heard(ConnAck(), PingResp())
    assert talk.take() == [ConnAck(), PingResp()]


def remembering(*addresses: Address) -> World:
    here = world(upstream=broker(TLSMode.DISABLE, *addresses))
    here.reload(backends=Backends(here.time.clock))
    return here


def dialed(here: World) -> list[Address]:
    """Where the next client is led, one address after the other, if none is there."""
    talk = here.talk().said(hello())
    while not talk.closed:
        talk.tell(Lost(Side.UPSTREAM, "connection refused"))
    return talk.dials


def led_to(here: World) -> Address:
    """Where the next one is led first; it goes away again."""
    talk = here.talk().said(hello())
    talk.gone()
    return talk.dials[0]


def test_an_address_that_failed_is_the_last_for_a_while_for_everybody():
    here = remembering(FIRST, SECOND, THIRD)
    assert [led_to(here) for _ in range(3)] == [FIRST] * 3  # no turns: each is to find what it has left there
    talk = here.talk().said(hello()).event(Lost(Side.UPSTREAM, "connection refused"))
    assert talk.dials == [FIRST, SECOND]
    assert led_to(here) == SECOND
    here.pass_by(DOWN_SECONDS)
    assert dialed(here) == [FIRST, SECOND, THIRD]


def test_one_that_has_let_somebody_in_has_not_failed():
    here = remembering(FIRST, SECOND)
    talk = here.talk().said(hello()).event(Lost(Side.UPSTREAM, "x")).event(Lost(Side.UPSTREAM, "x"))
    assert talk.closed
    late = here.talk().said(hello()).event(Dialed())
    assert late.dials == [FIRST]
    here.pass_by(DOWN_SECONDS / 2)
    assert dialed(here) == [FIRST, SECOND]
    late = here.talk().said(hello()).event(Lost(Side.UPSTREAM, "x")).event(Dialed()).heard(ConnAck())
    assert not late.closed
    assert dialed(here) == [SECOND, FIRST]


@pytest.mark.parametrize("how", ["credentials", "version", "client"])
def test_what_is_no_fault_of_the_server_is_not_held_against_it(how: str):
    here = remembering(FIRST, SECOND)
    talk = here.talk().said(hello(V5)).event(Dialed())
    if how == "client":
        talk.gone()
    else:
        talk.heard(ConnAck(False, 0x87 if how == "credentials" else 0x84))
    assert talk.closed
    assert led_to(here) == FIRST


@versions
def test_what_broker_and_client_hear_while_it_is_on_its_way_is_nothing(version: Version):
    talk = world().talk().said(hello(version))
    assert talk.held
    assert (talk.take(), talk.raw_upstream()) == ([], b"")


# --- bytes ahead -----------------------------------------------------------------------------------------------------


def test_what_was_read_ahead_follows_the_login_in_order():
    talk = world().talk().said(hello(), PingReq(), Publish(TOPIC, b"1"))
    talk.said(Publish(TOPIC, b"2"))
    talk.tell(Dialed())
    assert len(talk.upstream()) == 1
    talk.broker(bytes((0x20, 2, 0)))
    assert talk.raw_upstream() == b""
    talk.broker(b"\0")
    assert talk.upstream() == [PingReq(), Publish(TOPIC, b"1"), Publish(TOPIC, b"2")]
    assert not talk.held


def test_what_was_read_ahead_is_bounded():
    talk = world().talk().said(hello(V5))
    for _ in range(2):
        talk.client(bytes(_MAX_AHEAD // 2))
    assert not talk.closed
    talk.client(b"x")
    assert talk.code == Reason.SERVER_BUSY


def test_what_was_read_ahead_may_be_wrong_or_goodbye():
    talk = world().talk().said(hello(V5), Publish("elsewhere", b"x")).event(Dialed()).heard(ConnAck())
    assert talk.code == Reason.NOT_AUTHORIZED
    talk = world().talk().said(hello(), Disconnect()).event(Dialed()).heard(ConnAck())
    assert talk.reason == "the client has disconnected"
    assert [type(one) for one in talk.upstream()] == [Connect, Disconnect]
    assert not talk.of(Proceed)


# --- the broker's answer ---------------------------------------------------------------------------------------------


def test_an_answer_may_come_in_any_pieces_with_what_was_kept_behind_it():
    data = mqtt.serialize(ConnAck(True), V311) + mqtt.serialize(Publish(TOPIC, b"kept", 1, packet_id=1), V311)
    for at in range(1, len(data)):
        talk = login().broker(data[:at]).broker(data[at:])
        assert talk.take() == [ConnAck(True), Publish(TOPIC, b"kept", 1, packet_id=1)]


@pytest.mark.parametrize(
    ("version", "code", "login_as", "expected"),
    [
        (V5, Reason.NOT_AUTHORIZED, BrokerLogin(), Reason.NOT_AUTHORIZED),
        (V5, Reason.BAD_USER_NAME_OR_PASSWORD, BrokerLogin(), Reason.NOT_AUTHORIZED),
        (V5, Reason.BANNED, BrokerLogin(), Reason.NOT_AUTHORIZED),
        (V5, Reason.BAD_USER_NAME_OR_PASSWORD, BrokerLogin(False, "g"), Reason.SERVER_UNAVAILABLE),
        (V5, Reason.NOT_AUTHORIZED, BrokerLogin(False, "g"), Reason.SERVER_UNAVAILABLE),
        (V5, Reason.BANNED, BrokerLogin(False), Reason.SERVER_UNAVAILABLE),
        (V5, Reason.UNSUPPORTED_PROTOCOL_VERSION, BrokerLogin(), Reason.UNSUPPORTED_PROTOCOL_VERSION),
        (V5, Reason.UNSUPPORTED_PROTOCOL_VERSION, BrokerLogin(False), Reason.UNSUPPORTED_PROTOCOL_VERSION),
        (V311, Refusal.NOT_AUTHORIZED, BrokerLogin(), Refusal.NOT_AUTHORIZED),
        (V311, Refusal.BAD_USER_NAME_OR_PASSWORD, BrokerLogin(), Refusal.NOT_AUTHORIZED),
        (V311, Refusal.BAD_USER_NAME_OR_PASSWORD, BrokerLogin(False), Refusal.SERVER_UNAVAILABLE),
        (V31, Refusal.NOT_AUTHORIZED, BrokerLogin(), Refusal.NOT_AUTHORIZED),
        (V31, Refusal.UNACCEPTABLE_PROTOCOL_VERSION, BrokerLogin(), Refusal.UNACCEPTABLE_PROTOCOL_VERSION),
    ],
)
def test_a_refused_login_is_told_as_far_as_it_is_the_clients_business(
    version: Version, code: int, login_as: BrokerLogin, expected: int
):
    properties = Properties(reason_string="internal", server_reference="10.0.0.9") if version is V5 else Properties()
    talk = login(version, login=login_as).heard(ConnAck(False, code, properties))
    assert talk.code == expected
    assert talk.reason == f"the broker refused the login with code {int(code)}"
    assert b"internal" not in talk.of(Close)[0].farewell
    assert talk.dials == [FIRST]
    assert talk.session.facts.decision == "refused"
    assert not talk.entered


@pytest.mark.parametrize("code", [Reason.SERVER_BUSY, Reason.USE_ANOTHER_SERVER])
def test_a_second_broker_may_let_in_whom_the_first_has_no_room_for(code: Reason):
    talk = login(V5).heard(ConnAck(False, code), PingResp())
    assert talk.dials == [FIRST, SECOND]
    assert talk.deadline == CONNECT_TIMEOUT
    assert not talk.closed
    talk.event(Dialed())
    assert [type(one) for one in talk.upstream()] == [Connect]
    talk.heard(ConnAck())
    (answer,) = talk.take()
    assert isinstance(answer, ConnAck)
    assert answer.code == 0
    facts = talk.session.facts
    assert (facts.decision, facts.upstream) == ("allowed", f"mqtt:main {SECOND}")


@pytest.mark.parametrize(
    ("version", "code", "expected"),
    [
        (V5, Reason.SERVER_BUSY, Reason.SERVER_BUSY),
        (V5, Reason.QUOTA_EXCEEDED, Reason.QUOTA_EXCEEDED),
        (V5, Reason.SERVER_UNAVAILABLE, Reason.SERVER_UNAVAILABLE),
        (V5, Reason.USE_ANOTHER_SERVER, Reason.SERVER_UNAVAILABLE),
        (V5, Reason.CLIENT_IDENTIFIER_NOT_VALID, Reason.SERVER_UNAVAILABLE),
        (V5, Reason.UNSPECIFIED_ERROR, Reason.SERVER_UNAVAILABLE),
        (V311, Refusal.SERVER_UNAVAILABLE, Refusal.SERVER_UNAVAILABLE),
        (V311, Refusal.IDENTIFIER_REJECTED, Refusal.SERVER_UNAVAILABLE),
        (V31, Refusal.SERVER_UNAVAILABLE, Refusal.SERVER_UNAVAILABLE),
    ],
)
def test_only_once_no_broker_is_left_the_client_hears_of_it(version: Version, code: int, expected: int):
    properties = Properties(reason_string="internal", server_reference="10.0.0.9") if version is V5 else Properties()
    talk = login(version)
    for _ in range(2):
        assert not talk.closed
        talk.heard(ConnAck(False, code, properties)).event(Dialed())
    assert talk.dials == [FIRST, SECOND]
    assert talk.code == expected
    assert talk.reason == f"upstream mqtt:main {SECOND}: the broker refused the login with code {int(code)}"
    assert b"internal" not in talk.of(Close)[0].farewell
    assert talk.session.facts.decision == "refused"
    assert not talk.entered


def test_it_hears_of_the_last_one():
    talk = login(V5).heard(ConnAck(False, Reason.SERVER_BUSY)).event(Lost(Side.UPSTREAM, "connection refused"))
    assert talk.code == Reason.SERVER_UNAVAILABLE
    talk = login(V5).event(Lost(Side.UPSTREAM, "x")).event(Dialed()).heard(ConnAck(False, Reason.SERVER_BUSY))
    assert talk.code == Reason.SERVER_BUSY
    talk = login(V5).heard(ConnAck(False, Reason.SERVER_BUSY)).event(Dialed()).heard(ConnAck(False, Reason.BANNED))
    assert talk.code == Reason.NOT_AUTHORIZED


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_a_broker_that_does_not_know_5_says_so_in_its_own_words(cut: int):
    """In 3.1.1's form, which 5.0 does not have (3.1.1: 3.2.2.3)."""
    answer = b"\x20\x02\x00\x01"
    talk = login(V5).broker(answer[:cut]).broker(answer[cut:]) if cut else login(V5).broker(answer)
    assert talk.code == Reason.UNSUPPORTED_PROTOCOL_VERSION
    assert talk.reason == "the broker does not speak MQTT 5"
    assert talk.dials == [FIRST]


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00",
        b"\x00\x00",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x21\x02\x00\x00",
        b"\x20\x02\x02\x00",
        b"\x20\x02\x01\x05",
        b"\x20\x01\x00",
        b"\x20\x03\x00\x00\x00",
        b"\xd0\x00",
        b"\x30\x03\x00\x01a",
        b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00",
        b"\x20\xff\xff\xff\x7f",
        b"\xff\xff\xff\xff\xff",
    ],
)
def test_what_is_no_answer_leads_to_the_next_broker_and_at_last_ends_it(answer: bytes):
    for version, code in ((V311, Refusal.SERVER_UNAVAILABLE), (V5, Reason.SERVER_UNAVAILABLE)):
        if version is V5 and answer == b"\x20\x03\x00\x00\x00":
            continue  # which is one, of 5.0
        talk = login(version)
        for address in (FIRST, SECOND):
            assert talk.dials[-1] == address
            talk.event(Dialed()).broker(answer)
            if talk.dials[-1] == address and not talk.closed:
                talk.broker(bytes(200))
        assert talk.code == code
        assert talk.reason.startswith(f"upstream mqtt:main {SECOND}: its answer")
        assert not talk.entered


def test_one_that_never_comes_costs_no_more_than_one_packet():
    here = world(max_packet=4096)
    talk = here.talk().said(hello()).event(Dialed())
    talk.broker(b"\x20\xfd\x1f")
    for _ in range(4):
        talk.broker(bytes(1000))
    link = talk.link
    assert isinstance(link, BrokerLink)
    assert len(link._gathered) < 4096
    here.pass_by(2 * CONNECT_TIMEOUT)
    assert talk.code == Refusal.SERVER_UNAVAILABLE


# --- terms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "ours", "theirs", "told", "deadline"),
    [
        (60, 0, None, None, 90),
        (60, 0, 20, 20, 30),
        (60, 30, None, 30, 45),
        (60, 30, 20, 20, 30),
        (60, 30, 40, 30, 45),
        (0, 0, None, None, None),
        (0, 0, 20, 20, 30),
        (0, 30, None, 30, 45),
        (20, 30, None, None, 30),
    ],
)
def test_the_narrower_keep_alive_holds_and_is_told(
    asked: int, ours: int, theirs: int | None, told: int | None, deadline: float | None
):
    here = world(keep_alive=ours)
    talk = here.talk().said(hello(V5, keep_alive=asked)).event(Dialed())
    talk.raw_upstream()
    talk.heard(ConnAck(False, 0, Properties(server_keep_alive=theirs)))
    (answer,) = talk.take()
    assert isinstance(answer, ConnAck)
    assert answer.properties.server_keep_alive == told
    assert talk.deadline is not None
    # Without one it is the certificate's.
    assert talk.deadline == pytest.approx(deadline) if deadline else talk.deadline > 1e8


def test_what_5_is_told_is_what_holds_and_nothing_of_what_is_behind_us():
    here = world(max_packet=8192)
    talk = here.talk().said(hello(V5, "", properties=Properties(maximum_packet_size=4096, topic_alias_maximum=1000)))
    talk.tell(Dialed())
    (connect,) = talk.upstream()
    assert isinstance(connect, Connect)
    assert connect.properties == Properties(maximum_packet_size=4096, topic_alias_maximum=TOPIC_ALIASES)
    theirs = Properties(
        assigned_client_identifier="theirs",
        maximum_packet_size=100_000,
        topic_alias_maximum=65_535,
        receive_maximum=20,
        retain_available=0,
        server_reference="10.0.0.9",
        authentication_method="x",
        authentication_data=b"y",
        reason_string="hello from 10.0.0.9",
        user_properties=(("node", "10.0.0.9"),),
    )
    talk.heard(ConnAck(False, 0, theirs))
    (answer,) = talk.take()
    assert isinstance(answer, ConnAck)
    told = answer.properties
    assert connect.client_id == f"{THING_ID}:{told.assigned_client_identifier}"
    assert (told.maximum_packet_size, told.topic_alias_maximum, told.receive_maximum) == (8192, TOPIC_ALIASES, 20)
    assert (told.retain_available, told.reason_string, told.user_properties) == (0, None, ())
    assert (told.server_reference, told.authentication_method, told.authentication_data) == (None, None, None)


def test_a_will_does_not_wait_at_the_broker():
    """Nobody could take it back there, once its client may not publish it any more."""
    will = Will(TOPIC, b"bye", 1, True, Properties(will_delay=60, message_expiry=9))
    talk = world().talk().said(hello(V5, will=will))
    talk.tell(Dialed())
    (connect,) = talk.upstream()
    assert isinstance(connect, Connect)
    assert connect.will == Will(TOPIC, b"bye", 1, True, Properties(message_expiry=9))


# --- while it is open ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [V311, V5])
def test_a_broker_that_dies_ends_it_and_acknowledges_nothing(version: Version):
    talk = world().through(version=version).said(Publish(TOPIC, b"x", 1, packet_id=1))
    talk.tell(Lost(Side.UPSTREAM, "connection reset"))
    # 5.0 has no DISCONNECT with SERVER_UNAVAILABLE.
    assert talk.code == (Reason.SERVER_SHUTTING_DOWN if version is V5 else None)
    assert talk.reason == "the broker: connection reset"
    assert [type(one) for one in talk.take()] == ([Disconnect] if version is V5 else [])


def test_a_client_that_leaves_in_order_takes_leave_of_the_broker_in_order():
    for packet in (Disconnect(), Disconnect(Reason.DISCONNECT_WITH_WILL)):
        talk = world().through(version=V5)
        before = len(talk.commands)
        talk.said(Publish(TOPIC, b"last", 0), packet, Publish(TOPIC, b"late", 0))
        send, hang_up, close = talk.commands[before:]
        assert isinstance(send, Send)
        assert parsed(send.data, V5) == [Publish(TOPIC, b"last", 0), packet]
        assert hang_up == HangUp(orderly=True)
        assert close == Close("the client has disconnected")


@pytest.mark.parametrize("how", ["lost", "malformed", "shutdown", "silence", "ended"])
def test_one_that_does_not_leaves_its_will_so_the_broker_hears_no_goodbye(how: str):
    here = world()
    talk = here.through(version=V5, keep_alive=10, will=Will(TOPIC, b"bye"))
    if how == "silence":
        here.pass_by(15)
    else:
        events: dict[str, Event] = {"lost": Lost(Side.CLIENT, "x"), "shutdown": ShuttingDown(), "ended": Ended()}
        talk.event(events[how]) if how in events else talk.client(b"\x00\x00")
    assert talk.raw_upstream() == b""
    # What is on its way there arrives, where it is us who end it.
    assert talk.of(HangUp) == ([] if how in ("lost", "ended") else [HangUp(orderly=True)])
    assert bool(talk.closed) == (how != "ended")


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize(
    ("wrong", "goodbye", "code"),
    [
        (b"\x00\x00", False, Reason.MALFORMED_PACKET),
        (mqtt.serialize(hello(V5), V5), False, Reason.PROTOCOL_ERROR),
        (mqtt.serialize(PingResp(), V5), False, Reason.PROTOCOL_ERROR),
        (mqtt.serialize(Publish("elsewhere", b"x"), V5), True, Reason.NOT_AUTHORIZED),
    ],
)
def test_what_passed_before_what_went_wrong_in_the_same_read_arrives(
    wrong: bytes, goodbye: bool, code: Reason, drop: bool
):
    if drop and code is Reason.NOT_AUTHORIZED:
        return  # which is nothing wrong then
    talk = world(drop_denied=drop).through(version=V5, will=Will(TOPIC, b"bye"))
    refused = Publish("elsewhere", b"x", 1, packet_id=4)
    passed = [Publish(TOPIC, b"1"), Publish(TOPIC, b"2"), Publish(TOPIC, b"3", 1, packet_id=5)]
    before = len(talk.commands)
    told = (*passed[:1], refused, *passed[1:])
    talk.client(b"".join(mqtt.serialize(one, V5) for one in told) + wrong + mqtt.serialize(Publish(TOPIC, b"late"), V5))
    assert talk.code == code
    assert talk.upstream() == [*passed, *([Disconnect()] if goodbye else [])]
    assert talk.take() == [PubAck(4, Reason.NOT_AUTHORIZED), Disconnect(code)]
    kinds = [type(one) for one in talk.commands[before:] if not isinstance(one, Denial)]
    assert kinds == [*[Send] * (3 if goodbye else 2), HangUp, Close]
    assert talk.of(HangUp) == [HangUp(orderly=True)]


def test_so_does_what_the_broker_said_before_it_went_wrong():
    talk = world().through(version=V5)
    talk.broker(mqtt.serialize(Publish(TOPIC, b"1"), V5) * 2 + mqtt.serialize(PubAck(9), V5) + b"\x00\x00")
    assert talk.reason.startswith("the broker: ")
    assert talk.take() == [*[Publish(TOPIC, b"1")] * 2, PubAck(9), Disconnect(Reason.SERVER_SHUTTING_DOWN)]


@pytest.mark.parametrize("version", [V311, V5])
def test_the_audit_is_told_of_no_messages_that_the_broker_has_dropped(version: Version):
    talk = world().through(version=version).gone()
    assert talk.session.facts.dropped is None


def test_a_shutdown_on_the_way_is_told_in_connack():
    for version, code in ((V311, Refusal.SERVER_UNAVAILABLE), (V5, Reason.SERVER_UNAVAILABLE)):
        for talk in (world().talk().said(hello(version)), login(version)):
            assert talk.event(ShuttingDown()).code == code
            assert talk.reason == "the gateway is shutting down"


def test_a_client_that_is_lost_on_the_way_is_just_gone():
    talk = login().gone("x")
    assert (talk.reason, talk.code) == ("x", None)


@pytest.mark.parametrize("how", ["disconnect", "lost", "refused"])
def test_a_session_leaves_no_cycle_behind(how: str):
    if how == "refused":
        talk = login().heard(ConnAck(False, Refusal.NOT_AUTHORIZED))
    else:
        talk = world().through(version=V5).said(Publish(TOPIC, b"x", 1, packet_id=1))
        talk.said(Disconnect()) if how == "disconnect" else talk.gone()
    assert talk.closed
    assert link_is_freed(talk)
