"""Channels with a broker behind the gateway, as transcripts: the way there, messages both ways, and how it fails."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.session.backends import Backends
from gateway.session.channel_socket import PING_SECONDS, ChannelSocket
from gateway.session.channel_station import BrokerStation
from gateway.session.mqtt_access import BrokerLogin
from gateway.session.vocabulary import (
    Close,
    Dial,
    Dialed,
    HangUp,
    Hold,
    Proceed,
    Release,
    Reuse,
    Secured,
    Send,
    SetDeadline,
    ShuttingDown,
    Side,
    StartTLS,
    TLSFacts,
)
from gateway.things import Rights
from gateway.upstream import TLSMode
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
    PubRec,
    Reason,
    SubAck,
    Subscribe,
    Subscription,
    Version,
)
from tests.channels import (
    BOTH,
    BROKER,
    CHANNEL,
    NAMED,
    PACKET,
    SECOND_BROKER,
    STRANGE,
    THING,
    TOPIC,
    Site,
    Talk,
    answers,
    brokers,
    packets,
)
from tests.client_frames import BINARY, CLOSE, PING, PONG, TEXT, frame
from tests.http_sessions import (
    CONNECT,
    GRACE,
    KEEPALIVE,
    KEY,
    NOW,
    RESPONSE,
    Clock,
    message,
    nameless,
    shown,
)

POST, WS = f"/http/{TOPIC}", f"/ws/{TOPIC}"
V311 = Version.V311
# As 3.1.1 says it, which 5.0 would never.
TOO_NEW = b"\x20\x02\x00\x01"


def site(**more: Any) -> Site:
    return Site(**{"broker": brokers()} | more)


def posting(at: Site | None = None, *lines: str, tls: TLSFacts | None = None, **routes: Any) -> Talk:
    """Up to the dial."""
    one = (at or site()).talk(tls, **routes)
    one.post(POST, "Content-Type: text/plain", *lines)
    assert len(one.of(Dial)) == 1
    return one


def reusing(at: Site | None = None) -> Talk:
    """The same over an idle connection."""
    place = at or site()
    one = Talk(place, place.access(), shown(), at_rest=(BROKER, BROKER))
    one.post(POST)
    assert len(one.of(Reuse)) == 1
    return one


# --- the login -------------------------------------------------------------------------------------------------------


def test_a_post_logs_in_and_publishes() -> None:
    one = posting()
    assert one.dials == [BROKER]
    assert one.deadline == CONNECT
    connect = one.log_in()
    assert (connect.version, connect.clean_start, connect.keep_alive, connect.will) == (Version.V5, True, 0, None)
    assert (connect.user_name, connect.password) == (THING, KEY.encode())
    assert connect.properties == Properties(maximum_packet_size=PACKET)
    assert 1 <= len(connect.client_id) <= 23
    assert connect.client_id.isalnum()
    properties = Properties(content_type="text/plain", payload_format=1)
    assert one.told() == [Publish(TOPIC, b"hello", 1, packet_id=1, properties=properties)]
    assert one.deadline == RESPONSE
    assert not answers(one)
    one.broker(PubAck(1))
    assert answers(one) == [202]
    assert one.of(Release)
    assert one.deadline == KEEPALIVE
    assert (one.record.upstream, one.record.status) == (str(BROKER), 202)


@pytest.mark.parametrize(("key", "rights", "status"), [(KEY, Rights(), 403), ("rotated", BOTH, 401)])
def test_rights_that_are_lost_on_the_way_to_the_broker(key: str, rights: Rights, status: int) -> None:
    at = site()
    one = posting(at)
    at.know(THING, key, {CHANNEL: rights})
    one.log_in()
    assert [type(packet) for data in one.of_upstream() for packet in packets(data)] == [Connect]
    assert one.failed(status)


def test_rights_that_are_lost_before_it_is_said_again() -> None:
    at = site()
    one = reusing(at)
    at.know(THING, KEY, {CHANNEL: Rights()})
    one.lose(Side.UPSTREAM)
    before = len(one.of_upstream())
    one.log_in()
    assert len(one.of_upstream()) == before + 1
    assert one.failed(403)


def test_no_two_client_ids_are_the_same() -> None:
    assert posting().log_in().client_id != posting().log_in().client_id


def test_tls_comes_first() -> None:
    one = posting(site(broker=brokers(mode=TLSMode.VERIFY_FULL)))
    one.tell(Dialed())
    assert one.of(StartTLS) == [StartTLS(Side.CLIENT), StartTLS(Side.UPSTREAM)]
    assert not one.of_upstream()
    one.tell(Secured(Side.UPSTREAM, TLSFacts("TLSv1.3")))
    assert isinstance(one.told()[0], Connect)


@pytest.mark.parametrize(
    ("login", "tls", "lines", "routes", "expected"),
    [
        (BrokerLogin(), shown(NAMED), (f"Authorization: {KEY}",), {"cn": "id"}, (THING, KEY.encode())),
        (BrokerLogin(), nameless(), (f"Authorization: {KEY}",), {"client": "none"}, (THING, KEY.encode())),
        # There is no key to show.
        (BrokerLogin(), shown(NAMED), (), {"cn": "id"}, (THING, None)),
        (BrokerLogin(True, "gateway", b"word"), shown(NAMED), (), {"cn": "id"}, ("gateway", b"word")),
        (BrokerLogin(False, "gateway", b"word"), shown(), (), {}, ("gateway", b"word")),
        (BrokerLogin(False, None, b"word"), shown(), (), {}, (THING, b"word")),
        (BrokerLogin(False), shown(), (), {}, (THING, None)),
    ],
)
def test_as_whom(
    login: BrokerLogin,
    tls: TLSFacts,
    lines: tuple[str, ...],
    routes: dict[str, Any],
    expected: tuple[str | None, bytes | None],
) -> None:
    connect = posting(site(login=login), *lines, tls=tls, **routes).log_in()
    assert (connect.user_name, connect.password) == expected


def test_a_connection_of_one_thing_is_no_others() -> None:
    """Neither under another key, nor in another version, nor as the gateway itself."""
    names = set()
    rotated = site()
    rotated.know(THING, "rotated", {CHANNEL: BOTH})
    older = site()
    ways: list[tuple[Site, Talk]] = [(one, one.talk()) for one in (site(), site(login=BrokerLogin(False, "gateway")))]
    ways += [(rotated, rotated.talk(shown(NAMED), cn="id")), (older, older.talk())]
    ways[3][1].access.versions["mqtt:main"] = V311
    for _, one in ways:
        one.post(POST)
        names.add(one.of(Dial)[0].name)
    assert len(names) == 4
    assert not [name for name in names if KEY in str(name) or "rotated" in str(name)]


def test_the_gateways_own_connection_serves_all() -> None:
    names = set()
    for key in (KEY, "second-key"):
        place = site(login=BrokerLogin(False, "gateway", b"word"))
        place.know(STRANGE, "second-key", {CHANNEL: BOTH})
        names.add(posting(place, f"Authorization: {key}", tls=nameless(), client="none").of(Dial)[0].name)
    assert len(names) == 1


# --- over an idle connection -----------------------------------------------------------------------------------------


def test_an_idle_connection_is_used_at_once() -> None:
    one = reusing()
    assert one.told() == [Publish(TOPIC, b"hello", 1, packet_id=1)]
    one.broker(PubAck(1))
    one.post(POST)
    one.broker(PubAck(1))
    assert answers(one) == [202, 202]
    assert not one.dials
    assert len(one.of(Release)) == 2


def test_one_that_was_at_its_end_is_not_the_end() -> None:
    one = reusing()
    one.lose(Side.UPSTREAM)
    assert one.dials == [BROKER]
    one.log_in()
    assert isinstance(one.told()[0], Publish)
    one.broker(PubAck(1))
    assert answers(one) == [202]


def test_but_a_second_one_is() -> None:
    one = reusing()
    one.lose(Side.UPSTREAM)
    one.log_in()
    one.lose(Side.UPSTREAM)
    assert one.failed(503) == "the broker, before it acknowledged: it broke"


@pytest.mark.parametrize(
    ("answer", "rest"),
    [
        (ConnAck(), b"\xd0\x00"),
        (ConnAck(properties=Properties(server_keep_alive=59)), b""),
    ],
)
def test_what_is_not_at_rest_is_not_kept(answer: ConnAck, rest: bytes) -> None:
    """It has more to say, or wants to hear of us sooner than somebody will want it."""
    one = posting()
    one.log_in(answer)
    one.upstream(mqtt.serialize(PubAck(1), Version.V5) + rest)
    assert answers(one) == [202]
    assert one.of(HangUp)
    assert not one.of(Release)


# --- how it fails ----------------------------------------------------------------------------------------------------


def test_the_next_address_is_tried() -> None:
    one = posting(site(broker=brokers(BROKER, SECOND_BROKER)))
    one.lose(Side.UPSTREAM)
    one.tell(Dialed())
    one.time_out()
    assert one.failed(503).startswith("upstream mqtt:main broker")
    assert set(one.dials) == {BROKER, SECOND_BROKER}


def test_an_address_that_failed_comes_last() -> None:
    place = site(broker=brokers(BROKER, SECOND_BROKER))
    backends = Backends(Clock())
    first: list[str] = []
    for _ in range(4):
        one = Talk(place, place.access(), shown(), backends=backends)
        one.post(POST)
        if one.dials == [BROKER]:
            one.lose(Side.UPSTREAM)
            one.log_in()
        first.append(str(one.dials[0]))
    assert first.count(str(BROKER)) == 1


@pytest.mark.parametrize(
    ("login", "code", "status"),
    [
        (BrokerLogin(), Reason.NOT_AUTHORIZED, 403),
        (BrokerLogin(), Reason.BAD_USER_NAME_OR_PASSWORD, 403),
        (BrokerLogin(), Reason.SERVER_BUSY, 503),
        (BrokerLogin(False, "gateway"), Reason.NOT_AUTHORIZED, 503),
    ],
)
def test_the_broker_refuses_the_login(login: BrokerLogin, code: Reason, status: int) -> None:
    one = posting(site(login=login))
    one.log_in(ConnAck(False, code))
    assert f"code {int(code)}" in one.failed(status)


@pytest.mark.parametrize(
    "answer",
    [
        b"\x20\x03\x00\x00",
        b"\x20\x05\x00\x00\x00",
        b"\xd0\x00",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x20\xff\xff\xff\xff",
    ],
)
def test_what_is_no_connack(answer: bytes) -> None:
    one = posting()
    one.tell(Dialed())
    one.upstream(answer)
    if one.closed is None:
        one.time_out()
    one.failed(503)


def test_a_connack_in_pieces() -> None:
    one = posting()
    one.tell(Dialed())
    for byte in mqtt.serialize(ConnAck(), Version.V5):
        one.upstream(bytes((byte,)))
    assert isinstance(one.told()[0], Publish)
    for byte in mqtt.serialize(PubAck(1, Reason.NO_MATCHING_SUBSCRIBERS), Version.V5):
        one.upstream(bytes((byte,)))
    assert answers(one) == [202]


@pytest.mark.parametrize("answer", [TOO_NEW, mqtt.serialize(ConnAck(False, 0x84), Version.V5)])
def test_a_broker_of_an_older_time(answer: bytes) -> None:
    place = site()
    one = posting(place)
    one.tell(Dialed())
    one.upstream(answer)
    assert one.dials == [BROKER, BROKER]
    connect = one.log_in(version=V311)
    assert connect.version is V311
    assert connect.properties == Properties()
    assert one.told(V311) == [Publish(TOPIC, b"hello", 1, packet_id=1)]
    one.broker(PubAck(1), version=V311)
    assert answers(one) == [202]
    # From now on it is spoken to like that at once.
    assert one.access.versions == {"mqtt:main": V311}
    other = Talk(place, one.access, shown())
    other.post(POST)
    assert other.log_in(version=V311).version is V311


def test_it_is_told_only_once_that_it_is_too_new() -> None:
    one = posting()
    for _ in range(2):
        one.tell(Dialed())
        one.upstream(TOO_NEW)
    assert "code 1" in one.failed(503)


@pytest.mark.parametrize(
    ("packet", "status"),
    [
        (PubAck(1, Reason.NOT_AUTHORIZED), 403),
        (PubAck(1, Reason.QUOTA_EXCEEDED), 503),
        (Disconnect(Reason.NOT_AUTHORIZED), 403),
        (Disconnect(Reason.PACKET_TOO_LARGE), 413),
        (Disconnect(Reason.QUOTA_EXCEEDED), 503),
    ],
)
def test_the_broker_refuses_the_message(packet: PubAck | Disconnect, status: int) -> None:
    one = posting()
    one.log_in()
    one.broker(packet)
    one.failed(status)


@pytest.mark.parametrize("packet", [PubAck(2), PubRec(1), Disconnect(), PingResp(), Publish("x", b"")])
def test_the_broker_answers_something_else(packet: Any) -> None:
    one = posting()
    one.log_in()
    one.broker(packet)
    one.failed(503)


def test_the_broker_answers_nothing() -> None:
    one = posting()
    one.log_in()
    one.time_out()
    assert one.failed(504) == "the broker did not answer in time"


def test_the_broker_goes_away() -> None:
    one = posting()
    one.log_in()
    one.lose(Side.UPSTREAM)
    one.failed(503)


@pytest.mark.parametrize(
    ("terms", "status"), [(Properties(maximum_packet_size=60), 413), (Properties(maximum_qos=0), 503)]
)
def test_what_the_broker_does_not_take_is_not_sent(terms: Properties, status: int) -> None:
    one = posting()
    one.log_in(ConnAck(properties=terms))
    assert len(one.of_upstream()) == 1
    one.failed(status)


def test_a_shutdown_on_the_way() -> None:
    one = posting(site(broker=brokers(BROKER, SECOND_BROKER)))
    one.tell(ShuttingDown())
    assert one.deadline == GRACE
    assert not [sent for sent in one.lose(Side.UPSTREAM) if isinstance(sent, SetDeadline)]
    one.log_in()
    assert one.deadline == GRACE
    one.broker(PubAck(1))
    assert one.answered.status == 202
    assert one.closed is not None


def test_requests_wait_for_the_broker() -> None:
    one = posting()
    one.post(POST)
    assert one.held
    one.log_in()
    one.office.at_rest.append(str(BROKER))
    one.broker(PubAck(1))
    one.broker(PubAck(1))
    assert answers(one) == [202, 202]
    assert not one.held


# --- a WebSocket -----------------------------------------------------------------------------------------------------


def opening(at: Site | None = None, **routes: Any) -> Talk:
    one = (at or site()).talk(**routes)
    one.open(WS)
    assert len(one.of(Dial)) == 1
    return one


def opened(at: Site | None = None, terms: Properties | None = None) -> Talk:
    one = opening(at)
    one.log_in(ConnAck(properties=terms or Properties()))
    one.broker(SubAck(1, (0,)))
    assert answers(one) == [101]
    return one


def test_it_opens_once_it_is_subscribed() -> None:
    one = opening()
    connect = one.log_in()
    assert connect.keep_alive == 60
    assert (connect.user_name, connect.password) == (THING, KEY.encode())
    assert one.told() == [Subscribe(1, (Subscription(f"{TOPIC}/#"),))]
    assert not one.sent(Side.CLIENT)
    one.broker(SubAck(1, (0,)))
    assert message(one.sent(Side.CLIENT)).status == 101
    assert (one.record.status, one.record.upstream) == (101, str(BROKER))
    assert one.deadline == PING_SECONDS
    one.broker(Publish(TOPIC, b"abc"))
    one.lose(Side.CLIENT)
    assert (one.session.facts.to_client, one.session.facts.from_client) == (5, 0)


def test_who_may_not_subscribe_does_not() -> None:
    one = opening(site(rights=Rights(publish=True)))
    one.log_in()
    assert answers(one) == [101]
    assert len(one.of_upstream()) == 1


def test_it_never_takes_a_connection_of_the_pool() -> None:
    place = site()
    one = Talk(place, place.access(), shown(), at_rest=(BROKER,))
    one.open(WS)
    assert one.dials == [BROKER]


def test_what_comes_before_the_answer_comes_after_it() -> None:
    one = opening()
    one.log_in(rest=mqtt.serialize(Publish(TOPIC, b"1"), Version.V5))
    one.broker(Publish(TOPIC, b"2"), SubAck(1, (0,)), Publish(TOPIC, b"3"))
    assert one.frames == [(BINARY, b"1"), (BINARY, b"2"), (BINARY, b"3")]


def test_what_comes_before_the_answer_is_bounded() -> None:
    one = opening()
    one.log_in()
    for _ in range(400):
        if one.closed is None:
            one.broker(Publish(TOPIC, bytes(800)))
    one.failed(503)


def test_what_the_client_says_too_early_waits() -> None:
    one = opening()
    one.client(frame(TEXT, b"a"))
    assert one.held
    one.log_in()
    one.broker(SubAck(1, (0,)))
    assert not one.held
    assert [type(packet) for packet in one.told()] == [Publish]


def test_messages_both_ways() -> None:
    one = opened()
    one.client(frame(TEXT, b"a") + frame(BINARY, b"\xff"))
    sent = [packet for data in one.of_upstream()[2:] for packet in packets(data)]
    assert sent == [
        Publish(TOPIC, b"a", 1, packet_id=2, properties=Properties(payload_format=1)),
        Publish(TOPIC, b"\xff", 1, packet_id=3),
    ]
    one.broker(PubAck(2), PubAck(3), Publish(TOPIC, b"a", properties=Properties(payload_format=1)))
    one.broker(Publish(f"{TOPIC}/b", b"\xff"))
    assert one.frames == [(TEXT, b"a"), (BINARY, b"\xff")]


def test_no_more_is_in_flight_than_the_broker_wants() -> None:
    one = opened(terms=Properties(receive_maximum=2))
    before = len(one.of_upstream())
    one.client(b"".join(frame(TEXT, b"%d" % n) for n in range(5)))
    assert len(one.of_upstream()) == before + 2
    assert one.held
    one.broker(PubAck(2))
    one.broker(PubAck(3))
    assert len(one.of_upstream()) == before + 4
    assert one.held
    one.broker(PubAck(4))
    assert len(one.of_upstream()) == before + 5
    assert not one.held


def test_a_close_waits_for_what_was_said_before_it() -> None:
    one = opened(terms=Properties(receive_maximum=1))
    one.client(frame(TEXT, b"1") + frame(TEXT, b"2") + frame(CLOSE))
    assert one.closed is None
    one.broker(PubAck(2))
    assert one.told()[-1] == Disconnect()
    assert one.of(HangUp) == [HangUp(orderly=True)]
    assert one.parted(1000) == "the client has closed the WebSocket"


def test_a_broker_that_takes_no_acknowledged_messages() -> None:
    one = opened(terms=Properties(maximum_qos=0))
    one.client(frame(TEXT, b"a"))
    (publish,) = one.told()
    assert isinstance(publish, Publish)
    assert (publish.qos, publish.packet_id) == (0, 0)


def test_packet_identifiers_come_round() -> None:
    one = opened()
    socket = one.session._socket
    assert isinstance(socket, ChannelSocket)
    station = socket._station
    assert isinstance(station, BrokerStation)
    for number in range(2, 0x10000):
        assert next(station._ids) == number
    one.client(frame(TEXT, b"a"))
    assert one.told() == [Publish(TOPIC, b"a", 1, packet_id=2, properties=Properties(payload_format=1))]


def test_pings_for_both_sides() -> None:
    place = site()
    one = opened(place)
    for _ in range(3):
        place.clock.now += PING_SECONDS
        one.time_out()
        assert one.told() == [PingReq()]
        assert one.frames[-1] == (PING, b"")
        one.client(frame(PONG))
        one.broker(PingResp())
    place.clock.now += PING_SECONDS
    one.time_out()
    one.client(frame(PONG))
    place.clock.now += PING_SECONDS
    one.time_out()
    assert one.parted(1013) == "the broker does not answer"


def test_the_brokers_own_keep_alive() -> None:
    assert opened(terms=Properties(server_keep_alive=20)).deadline == 15


def test_a_client_that_is_not_read_is_not_silent() -> None:
    place = site()
    one = opened(place, Properties(receive_maximum=1))
    one.client(frame(TEXT, b"1") + frame(TEXT, b"2"))
    for _ in range(3):
        place.clock.now += PING_SECONDS
        one.time_out()
        one.broker(PingResp())
    assert one.closed is None


def test_a_broker_that_is_not_read_is_not_silent() -> None:
    place = site()
    one = opened(place)
    for _ in range(3):
        place.clock.now += PING_SECONDS
        one.time_out(Side.CLIENT)
        one.client(frame(PONG))
    assert one.closed is None


def test_a_broker_that_does_not_take_anything() -> None:
    place = site()
    one = opened(place)
    place.clock.now += PING_SECONDS
    one.time_out(Side.UPSTREAM)
    one.parted(1013)


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (Disconnect(Reason.SERVER_SHUTTING_DOWN), 1013),
        (PubAck(77), 1013),
        (Publish(TOPIC, b"", 1, packet_id=1), 1013),
        (PubRec(1), 1013),
        (ConnAck(), 1013),
    ],
)
def test_what_a_broker_may_not_say(packet: Any, code: int) -> None:
    one = opened()
    one.broker(packet)
    one.parted(code)


def test_what_is_no_packet() -> None:
    one = opened()
    one.upstream(b"\x36\x00")
    one.parted(1013)


@pytest.mark.parametrize(("code", "close"), [(Reason.NOT_AUTHORIZED, 1008), (Reason.QUOTA_EXCEEDED, 1013)])
def test_the_broker_refuses_a_message(code: Reason, close: int) -> None:
    one = opened()
    one.client(frame(TEXT, b"a"))
    one.broker(PubAck(2, code))
    one.parted(close)


def test_a_message_that_the_broker_would_not_take() -> None:
    one = opened(terms=Properties(maximum_packet_size=100))
    one.client(frame(BINARY, bytes(100)))
    one.parted(1009)


@pytest.mark.parametrize(("code", "status"), [(Reason.NOT_AUTHORIZED, 403), (Reason.QUOTA_EXCEEDED, 503)])
def test_the_broker_refuses_the_subscription(code: Reason, status: int) -> None:
    one = opening()
    one.log_in()
    one.broker(SubAck(1, (code,)))
    one.failed(status)
    assert not one.site.book._watches


def test_the_broker_goes_away_while_it_is_open() -> None:
    one = opened()
    one.lose(Side.UPSTREAM)
    assert one.parted(1013) == "the broker: it broke"
    assert not one.site.book._watches


@pytest.mark.parametrize("stage", ["dialing", "login", "subscribing"])
@pytest.mark.parametrize("what", ["lost", "slow", "gone", "revoked", "shutdown"])
def test_every_way_to_fail_before_it_opens(stage: str, what: str) -> None:
    place = site()
    one = opening(place)
    if stage != "dialing":
        one.tell(Dialed())
    if stage == "subscribing":
        one.broker(ConnAck())
    if what == "lost":
        one.lose(Side.UPSTREAM)
    elif what == "slow":
        one.time_out()
    elif what == "revoked":
        place.know(THING, KEY, {})
    elif what == "shutdown":
        one.tell(ShuttingDown())
        one.time_out()
    if what == "gone":
        one.lose(Side.CLIENT)
        assert one.record.status == 0
    else:
        one.failed(403 if what == "revoked" else 503)
    assert not place.book._watches


def test_a_shutdown_does_not_wait_for_every_address() -> None:
    one = opening(site(broker=brokers(BROKER, SECOND_BROKER)))
    one.tell(ShuttingDown())
    one.time_out()
    assert one.failed(503) == "the gateway is shutting down"


def test_a_shutdown_while_it_opens() -> None:
    one = opening(site(broker=brokers(BROKER, SECOND_BROKER)))
    one.tell(ShuttingDown())
    one.lose(Side.UPSTREAM)
    assert one.deadline == GRACE
    one.log_in()
    one.broker(SubAck(1, (0,)))
    assert one.parted(1001) == "the gateway is shutting down"


def test_the_certificate_expires() -> None:
    place = site()
    one = opened(place)
    place.clock.now = NOW + 600
    one.time_out()
    assert one.parted(1008) == "the client certificate has expired"
    assert [type(command) for command in one.commands[-3:]] == [Send, HangUp, Close]
    assert not [command for command in one.commands if isinstance(command, Hold | Proceed)]
