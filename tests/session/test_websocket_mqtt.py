"""MQTT over WebSocket, as transcripts: the sub-protocol, packets in frames, and both kinds of end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Dialed,
    Drained,
    Ended,
    Enter,
    Event,
    Facts,
    Hold,
    Killed,
    Lost,
    Mail,
    Opened,
    Reloaded,
    RequestRecord,
    Secured,
    Send,
    SetDeadline,
    ShuttingDown,
    Side,
    StartTLS,
    TimedOut,
    TLSFacts,
)
from gateway.session.websocket_mqtt import Inside, MQTTSocket
from gateway.things import Rights
from gateway.wire import mqtt
from gateway.wire.mqtt_packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    Publish,
    Reason,
    SubAck,
    Subscribe,
    Subscription,
    Version,
)
from tests.channels import (
    ACCEPT,
    CHANNEL,
    NAMED,
    OPENING,
    OTHER,
    OTHER_KEY,
    STRANGE,
    THING,
    TOPIC,
    Office,
    Site,
    Talk,
    answers,
    packets,
)
from tests.client_frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame
from tests.http_sessions import CLIENT, HOST, KEY, NOW, message, nameless, request, rules, shown

V5 = Version.V5
OFFER = "Sec-WebSocket-Protocol: mqtt"
CONNECT = Connect(V5, "c1", True, 60, THING, KEY.encode())


def asking(
    *lines: str, target: str = "/mqtt", tls: TLSFacts | None = None, site: Site | None = None, **routes: Any
) -> Talk:
    one = (site or Site()).talk(tls, **routes)
    one.client(request(target, *OPENING, *lines))
    return one


def opened(site: Site | None = None, **more: Any) -> Talk:
    one = asking(OFFER, site=site, **more)
    assert answers(one) == [101]
    return one


def sent(*sent: Packet) -> bytes:
    """In one frame each."""
    return b"".join(frame(BINARY, mqtt.serialize(packet, V5)) for packet in sent)


def said(one: Talk) -> list[Packet]:
    """All that came in binary frames."""
    return packets(b"".join(data for opcode, data in one.frames if opcode == BINARY))


def connected(site: Site | None = None) -> Talk:
    one = opened(site)
    one.client(sent(CONNECT))
    (answer,) = said(one)
    assert isinstance(answer, ConnAck)
    assert not answer.code
    return one


# --- opening ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offers", "chosen"),
    [
        (("mqtt",), "mqtt"),
        (("mqttv3.1",), "mqttv3.1"),
        (("mqttv3.1, mqtt",), "mqtt"),
        (("chat", "x , mqtt,y"), "mqtt"),
    ],
)
def test_the_sub_protocol(offers: tuple[str, ...], chosen: str) -> None:
    one = asking(*(f"Sec-WebSocket-Protocol: {offer}" for offer in offers))
    answer = message(one.sent(Side.CLIENT))
    assert answer.status == 101
    assert answer.one("Sec-WebSocket-Protocol") == chosen
    assert answer.one("Sec-WebSocket-Accept") == ACCEPT
    assert one.record.status == 101
    assert one.record.passage[:2] == ("mqtt", THING)


@pytest.mark.parametrize("offer", [None, "", "chat", "MQTT", "mqtt5", "mqtt v", "amqp, mqttt"])
def test_nothing_that_we_speak(offer: str | None) -> None:
    lines = () if offer is None else (f"Sec-WebSocket-Protocol: {offer}",)
    assert asking(*lines).refused(400) == "Sec-WebSocket-Protocol does not offer mqtt"


def test_what_is_no_handshake() -> None:
    for method in ("GET", "POST"):
        one = Site().talk()
        one.client(request("/mqtt", OFFER, method=method))
        one.refused(400)


def test_the_rules_of_the_route() -> None:
    asking(OFFER, admission=rules("deny all all")).refused(403)
    asking(OFFER, tls=nameless()).refused(403)
    ways: list[tuple[TLSFacts, dict[str, Any]]] = [(shown(), {}), (shown(NAMED), {"cn": "id"})]
    for tls, routes in ways:
        opened(tls=tls, admission=rules(f"allow {THING} all"), **routes)
        asking(OFFER, tls=tls, admission=rules(f"deny {THING} all", "allow all all"), **routes).refused(403)


def test_a_key_that_is_given_is_the_certificates() -> None:
    opened(target=f"/mqtt?authorization={KEY}")
    for target, lines in ((f"/mqtt?authorization={OTHER_KEY}", ()), ("/mqtt", (f"Authorization: {OTHER_KEY}",))):
        asking(OFFER, *lines, target=target).refused(403)


def test_a_page_of_another_origin_has_to_know_the_key() -> None:
    """Its browser shows the certificate of whoever looks at it (RFC 6455, 10.2)."""
    elsewhere = "Origin: https://evil.example"
    for origin in (elsewhere, "Origin: null", f"Origin: http://{HOST}", f"Origin: https://{HOST}:444"):
        asking(OFFER, origin).refused(403)
    for lines, target in (
        ((elsewhere,), f"/mqtt?authorization={KEY}"),
        ((f"Origin: https://{HOST}",), "/mqtt"),
        ((f"Origin: https://{HOST.upper()}",), "/mqtt"),
    ):
        assert answers(asking(OFFER, *lines, target=target)) == [101]
    # Where there is no certificate there is nothing to take advantage of.
    assert answers(asking(OFFER, elsewhere, tls=nameless(), client="optional")) == [101]


def test_nor_does_it_get_in_where_no_key_could_tell() -> None:
    """What is in the query then says nothing of who has sent it."""
    elsewhere = "Origin: https://evil.example"
    for target in ("/mqtt", f"/mqtt?authorization={KEY}"):
        asking(OFFER, elsewhere, target=target, client="none").refused(403)
        asking(OFFER, elsewhere, target=target, tls=shown(NAMED), cn="id").refused(403)
    assert answers(asking(OFFER, tls=shown(NAMED), cn="id")) == [101]


@pytest.mark.parametrize("next_is", ["said", "heard"])
def test_a_reload_after_which_it_would_not_be_let_in(next_is: str) -> None:
    site = Site()
    one = connected(site)
    one.client(sent(Subscribe(1, (Subscription(TOPIC),))))
    site.mqtt = replace(site.mqtt)
    one.access = site.access(admission=rules("deny all all"))
    before = len(said(one))
    if next_is == "said":
        one.client(sent(Publish(TOPIC, b"forged")))
    else:
        site.publish(TOPIC, b"secret")
        one.tell(Drained())
    assert [heard.payload for heard in site.heard] == ([] if next_is == "said" else [b"secret"])
    assert said(one)[before:] == [Disconnect(Reason.NOT_AUTHORIZED)]
    assert one.closed is not None


# --- the session inside ----------------------------------------------------------------------------------------------


def test_it_gets_in() -> None:
    one = connected()
    facts = one.session.facts
    assert (facts.subject, facts.client_id, facts.decision, facts.tls) == (THING, "c1", "allowed", "TLSv1.3")
    assert one.office.counted == [THING]
    assert len(one.of(RequestRecord)) == 1
    assert len(one.of(StartTLS)) == 1
    assert one.of(Enter) == [Enter(audited=False), Enter()]


def test_too_many_connections_of_one_thing() -> None:
    site = Site()
    one = Talk(site, site.access(), shown(), room=False)
    one.client(request("/mqtt", *OPENING, OFFER))
    assert one.refused(503) == "too many connections of this subject"


def test_a_key_in_connect_alone() -> None:
    site = Site()
    object.__setattr__(site.mqtt, "client", "none")
    one = opened(site, tls=nameless(), client="none")
    one.client(sent(CONNECT))
    assert isinstance(said(one)[0], ConnAck)
    assert one.session.facts.subject == THING


def test_a_refusal() -> None:
    one = opened()
    one.client(sent(Connect(V5, "c1", True, 60, THING, b"wrong")))
    answer = said(one)[0]
    assert isinstance(answer, ConnAck)
    assert answer.code == Reason.BAD_USER_NAME_OR_PASSWORD
    one.parted(1008)


def test_a_connection_that_was_counted_for_another() -> None:
    site = Site()
    object.__setattr__(site.mqtt, "client", "none")
    site.know(THING, KEY, {CHANNEL: Rights(publish=True)})
    for channel, key, subject in ((CHANNEL, KEY, THING), (STRANGE, OTHER_KEY, OTHER)):
        one = site.talk(nameless(), client="none")
        one.post(f"/http/channels/{channel}/messages", f"Authorization: {key}")
        one.client(request("/mqtt", *OPENING, OFFER) + sent(CONNECT))
        assert answers(one) == [202, 101]
        assert one.office.counted == [subject]
        assert (one.closed is None) is (subject == THING)
    office = Office()
    assert Inside(office, "a").admit("a")
    assert not Inside(office, "a").admit("b")
    inside = Inside(office, None)
    assert inside.admit("a")
    assert not inside.admit("b")
    assert office.counted == ["a"]


def test_messages_both_ways() -> None:
    site = Site()
    one = connected(site)
    other = site.talk()
    one.client(sent(Subscribe(1, (Subscription(f"{TOPIC}/#", 1),))))
    other.post(f"/http/{TOPIC}", "Content-Type: text/plain")
    answer, publish = said(one)[1:]
    assert isinstance(answer, SubAck)
    assert isinstance(publish, Publish)
    assert (publish.topic, publish.payload, publish.properties.content_type) == (TOPIC, b"hello", "text/plain")
    one.client(sent(Publish(f"{TOPIC}/up", b"x", 1, packet_id=7)))
    assert site.heard[-1].topic == f"{TOPIC}/up"
    assert [packet for packet in said(one) if isinstance(packet, PubAck)][-1].packet_id == 7


def test_packets_span_frames_and_share_them() -> None:
    site = Site()
    one = connected(site)
    data = b"".join(mqtt.serialize(Publish(TOPIC, b"%d" % n), V5) for n in range(3)) + mqtt.serialize(PingReq(), V5)
    middle = len(data) // 2
    one.client(
        frame(BINARY, data[:middle], fin=False) + frame(PING, b"?") + frame(CONTINUATION, data[middle : middle + 1])
    )
    for at in range(middle + 1, len(data)):
        one.client(frame(BINARY, data[at : at + 1]))
    assert [heard.payload for heard in site.heard] == [b"0", b"1", b"2"]
    assert said(one)[1:] == [PingResp()]
    assert (PONG, b"?") in one.frames


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 60), max_size=12), st.integers(1, 30))
def test_however_frames_and_reads_are_cut(sizes: list[int], read: int) -> None:
    site = Site()
    one = opened(site)
    data = b"".join(
        mqtt.serialize(packet, V5) for packet in (CONNECT, Publish(TOPIC, b"a" * 200), Publish(TOPIC, b"b"))
    )
    framed = b""
    for size in (*sizes, len(data)):
        framed += frame(BINARY, data[:size])
        data = data[size:]
    for at in range(0, len(framed), read):
        one.client(framed[at : at + read])
    assert [heard.payload for heard in site.heard] == [b"a" * 200, b"b"]


# --- the end ---------------------------------------------------------------------------------------------------------


def test_a_disconnect() -> None:
    one = connected()
    one.client(sent(Disconnect()))
    assert one.parted(1000) == "the client has disconnected"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"x"), 1003),
        (frame(TEXT, b"", fin=False), 1003),
        (b"\x82\x01x", 1002),
        (frame(BINARY, b"x", bits=0x40), 1002),
        (frame(CLOSE), 1000),
        (frame(CLOSE, b"\x03\xe9"), 1001),
        (frame(CLOSE, b"\x03\xed"), 1002),
    ],
)
def test_the_end_of_the_websocket(data: bytes, code: int) -> None:
    """Whatever was whole before it has arrived, and there is no word of MQTT's beside it."""
    site = Site()
    one = connected(site)
    before = len(said(one))
    one.client(sent(Publish(TOPIC, b"last")) + frame(PING) + data + sent(Publish(TOPIC, b"behind")))
    assert [heard.payload for heard in site.heard] == [b"last"]
    one.parted(code)
    assert one.frames[-2] == (PONG, b"")
    assert len(said(one)) == before
    assert not site.book._watches


def test_an_end_in_place_of_connect() -> None:
    one = opened()
    one.client(frame(TEXT, b"x"))
    one.parted(1003)


def test_what_is_no_mqtt() -> None:
    one = connected()
    one.client(frame(BINARY, b"\xf0\xff\xff\xff\xff"))
    assert isinstance(said(one)[-1], Disconnect)
    one.parted(1008)


def test_a_shutdown() -> None:
    one = connected()
    one.tell(ShuttingDown())
    last = said(one)[-1]
    assert isinstance(last, Disconnect)
    assert last.code == Reason.SERVER_SHUTTING_DOWN
    one.parted(1001)


def test_a_thing_that_may_do_less() -> None:
    site = Site()
    one = connected(site)
    site.know(THING, KEY, {})
    last = said(one)[-1]
    assert isinstance(last, Disconnect)
    assert last.code == Reason.NOT_AUTHORIZED
    one.parted(1008)


def test_the_certificate_expires() -> None:
    site = Site()
    one = connected(site)
    site.clock.now = NOW + 600
    one.time_out()
    one.parted(1008)


def test_silence() -> None:
    """Pings of the WebSocket's own are no sign of life of the MQTT client."""
    site = Site()
    one = connected(site)
    site.clock.now += 89
    one.client(frame(PING))
    site.clock.now += 1
    one.time_out()
    last = said(one)[-1]
    assert isinstance(last, Disconnect)
    assert last.code == Reason.KEEP_ALIVE_TIMEOUT


def test_nothing_comes() -> None:
    one = opened()
    one.time_out()
    assert one.parted(1000) == "CONNECT did not come in time"


def test_the_client_goes_away() -> None:
    site = Site()
    one = connected(site)
    one.lose(Side.CLIENT)
    assert one.closed is not None
    assert not site.book._watches


def test_the_connection_is_cut() -> None:
    site = Site()
    one = connected(site)
    one.session.handle(Ended())
    assert not site.book._watches


# --- what passes -----------------------------------------------------------------------------------------------------


class Inner:
    """A session that answers as it is told."""

    def __init__(self) -> None:
        self.facts = Facts()
        self.heard: list[Event] = []
        self.answers: dict[type[Event], Sequence[Command]] = {Opened: (SetDeadline(3), StartTLS(Side.CLIENT))}

    def handle(self, event: Event) -> Sequence[Command]:
        self.heard.append(event)
        return self.answers.get(type(event), ())

    def moved(self) -> tuple[int, int]:
        return 10, 20


def test_the_session_believes_that_it_has_a_port_of_its_own() -> None:
    inner, tls = Inner(), shown()
    inner.answers[Secured] = (SetDeadline(4),)
    assert MQTTSocket(inner).begin(CLIENT, tls) == [SetDeadline(3), SetDeadline(4)]
    assert inner.heard == [Opened(CLIENT), Secured(Side.CLIENT, tls)]


@pytest.mark.parametrize(
    ("event", "code"), [(ShuttingDown(), 1001), (Killed("x"), 1008), (Reloaded(), 1008), (Mail(b"x"), 1000)]
)
def test_a_session_that_ends_without_a_word(event: Event, code: int) -> None:
    """As before 5.0: the WebSocket's own Close says what can be said."""
    inner = Inner()
    inner.answers[type(event)] = (Close("why"),)
    assert MQTTSocket(inner).handle(event) == [Close("why", bytes((0x88, 2)) + code.to_bytes(2))]


def test_what_it_has_moved() -> None:
    assert MQTTSocket(Inner()).moved() == (10, 20)


@pytest.mark.parametrize(
    "event",
    [Mail(b"x"), TimedOut(), Dialed(), Data(Side.UPSTREAM, b"x"), Lost(Side.UPSTREAM, "x"), Lost(Side.CLIENT, "x")],
)
def test_events_and_commands_pass(event: Event) -> None:
    inner = Inner()
    socket = MQTTSocket(inner)
    inner.answers[type(event)] = (Hold(), Send(Side.UPSTREAM, b"up"), Send(Side.CLIENT, b"down"), SetDeadline(1))
    answer = socket.handle(event)
    assert inner.heard == [event]
    assert answer == [Hold(), Send(Side.UPSTREAM, b"up"), Send(Side.CLIENT, b"\x82\x04down"), SetDeadline(1)]


def test_an_end_that_is_to_look_broken_does() -> None:
    inner = Inner()
    inner.answers[TimedOut] = (Close("x", broken=True),)
    (close,) = MQTTSocket(inner).handle(TimedOut())
    assert isinstance(close, Close)
    assert close.broken


def test_mail_does_not_pass_by() -> None:
    office = Office()
    Inside(office, None).deliver(b"x")
    assert office.told == [Mail(b"x")]


def test_a_read_is_one_event() -> None:
    inner = Inner()
    MQTTSocket(inner).handle(Data(Side.CLIENT, frame(BINARY, b"a") + frame(PONG) + frame(BINARY) + frame(BINARY, b"b")))
    assert [event.data for event in inner.heard if isinstance(event, Data)] == [b"ab"]
