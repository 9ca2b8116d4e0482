"""WebSockets in a channel with the embedded hub, as transcripts: opening, both directions, and every kind of end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.hub.message import Message
from gateway.routes import Routes
from gateway.session.access import HTTPAccess
from gateway.session.channel_socket import MAX_DROPPED, MAX_WAITING, PING_SECONDS
from gateway.session.vocabulary import (
    Drained,
    Ended,
    Enter,
    Hold,
    Mail,
    RequestRecord,
    Send,
    ShuttingDown,
    Side,
    TLSFacts,
)
from gateway.things import Rights
from gateway.wire.mqtt_packets import NOTHING, Properties
from tests.channels import (
    ACCEPT,
    BOTH,
    CHANNEL,
    MISSING,
    NAMED,
    OPENING,
    OTHER_KEY,
    PACKET,
    STRANGE,
    THING,
    TOPIC,
    Site,
    Talk,
    answers,
)
from tests.client_frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame
from tests.http_sessions import KEY, NOW, message, nameless, request, route, rules, shown

PATH = f"/ws/{TOPIC}"
TEXTUAL = Properties(payload_format=1)


def opened(site: Site | None = None, target: str = PATH, tls: TLSFacts | None = None, **routes: Any) -> Talk:
    one = (site or Site()).talk(tls, **routes)
    one.open(target)
    assert answers(one) == [101]
    return one


def refused(status: int, target: str = PATH, *lines: str, site: Site | None = None, **routes: Any) -> str:
    one = (site or Site()).talk(routes.pop("tls", None), **routes)
    one.open(target, *lines)
    assert one.session._socket is None
    return one.refused(status)


# --- opening ---------------------------------------------------------------------------------------------------------


def test_it_opens() -> None:
    one = opened()
    answer = message(one.sent(Side.CLIENT))
    assert answer.first == "HTTP/1.1 101 Switching Protocols"
    assert answer.one("Sec-WebSocket-Accept") == ACCEPT
    assert (answer.one("Connection"), answer.one("Upgrade")) == ("Upgrade", "websocket")
    assert answer.one("Sec-WebSocket-Protocol") is None
    assert (one.record.status, one.record.decision, one.record.passage.subject) == (101, "allowed", THING)
    assert one.of(Enter) == [Enter(audited=False)]
    assert one.deadline == PING_SECONDS
    assert not one.dials
    facts = one.session.facts
    assert (facts.decision, facts.subject, facts.rule) == ("allowed", THING, "rules:1: allow all all")


def test_the_key_may_be_in_the_query() -> None:
    one = opened(None, f"{PATH}?authorization={KEY}", nameless(), client="optional")
    assert one.session.facts.subject == THING
    opened(None, f"{PATH}?authorization={KEY}", ws_key=True)
    opened(None, f"{PATH}?authorization=Bearer%20{KEY}&a=1")
    one = Site().talk(nameless(), client="none")
    one.open(f"{PATH}?authorization=thing+{KEY}", f"Authorization: {KEY}")
    assert answers(one) == [101]


def test_it_also_opens_below_the_route_for_posts() -> None:
    opened(None, f"/http/{TOPIC}")


@pytest.mark.parametrize(
    ("status", "target", "lines", "routes"),
    [
        (401, PATH, (), {"tls": nameless(), "client": "optional"}),
        (401, f"{PATH}?authorization=nobodys-key", (), {"tls": nameless(), "client": "optional"}),
        (401, f"/ws/channels/{MISSING}/messages?authorization=nobodys-key", (), {"client": "none"}),
        (401, f"{PATH}?authorization=Basic%20{KEY}", (), {"client": "none"}),
        (400, f"{PATH}?authorization={KEY}", (f"Authorization: {OTHER_KEY}",), {"client": "none"}),
        (400, f"{PATH}?authorization={KEY}&authorization={KEY}", (), {}),
        (403, f"{PATH}?authorization={OTHER_KEY}", (), {}),
        (403, PATH, (f"Authorization: {OTHER_KEY}",), {}),
        (403, PATH, (), {"ws_key": True}),
        (403, PATH, (), {"tls": nameless()}),
        (401, f"{PATH}?authorization={OTHER_KEY}", (), {"tls": shown(NAMED), "cn": "id"}),
        (403, PATH, (), {"tls": shown(NAMED), "cn": "id", "ws_key": True}),
        (403, f"/ws/channels/{STRANGE}/messages", (), {}),
        (404, f"/ws/channels/{MISSING}/messages", (), {}),
        (404, "/ws/nothing", (), {}),
        (400, f"{PATH}/+", (), {}),
        (400, f"{PATH}/%23", (), {}),
        (400, PATH, ("Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==",), {}),
    ],
)
def test_it_is_refused_before_the_upgrade(
    status: int, target: str, lines: tuple[str, ...], routes: dict[str, Any]
) -> None:
    refused(status, target, *lines, **routes)


def test_what_is_no_handshake() -> None:
    for lines, status in ((OPENING[:2] + OPENING[3:], 400), (OPENING[:3], 400), (OPENING[1:], 405)):
        one = Site().talk()
        one.client(request(PATH, *lines))
        one.refused(status)
    one = Site().talk()
    one.client(request(PATH, *OPENING[:3], "Sec-WebSocket-Version: 8"))
    one.refused(426)
    assert one.answered.one("Sec-WebSocket-Version") == "13"


def test_any_right_is_enough() -> None:
    for rights in (BOTH, Rights(publish=True), Rights(subscribe=True)):
        opened(Site(rights))
    refused(403, site=Site(Rights()))


def test_the_registry_is_away() -> None:
    site = Site()
    site.book.lost()
    for call in list(site.later):
        call()
    assert refused(503, site=site) == "the registry cannot be asked"


# --- to the hub ------------------------------------------------------------------------------------------------------


def test_what_the_client_says_is_published() -> None:
    site = Site()
    one = opened(site, f"{PATH}/a/b")
    one.client(frame(TEXT, "hällo".encode()) + frame(BINARY, b"\xff", fin=False) + frame(CONTINUATION, b"\xfe"))
    one.client(frame(TEXT, b""))
    assert [(heard.topic, heard.payload, heard.qos) for heard in site.heard] == [
        (f"{TOPIC}/a/b", "hällo".encode(), 1),
        (f"{TOPIC}/a/b", b"\xff\xfe", 1),
        (f"{TOPIC}/a/b", b"", 1),
    ]
    assert [heard.properties for heard in site.heard] == [TEXTUAL, NOTHING, TEXTUAL]


def test_the_hub_tells_others_once_for_each_read(monkeypatch: pytest.MonkeyPatch) -> None:
    site, flushed = Site(), list[int]()
    one = opened(site)
    monkeypatch.setattr(site.hub, "flush", lambda: flushed.append(len(site.heard)))
    one.client(frame(TEXT, b"a") + frame(TEXT, b"b"))
    assert set(flushed) == {2}


def test_frames_that_come_with_the_handshake() -> None:
    site = Site()
    one = site.talk()
    one.client(request(PATH, *OPENING, body=frame(TEXT, b"early") + frame(TEXT, b"cut")[:3]))
    one.client(frame(TEXT, b"cut")[3:])
    assert [heard.payload for heard in site.heard] == [b"early", b"cut"]
    assert one.frames == [(TEXT, b"early"), (TEXT, b"cut")]


def test_who_may_not_publish() -> None:
    site = Site(Rights(subscribe=True))
    one = opened(site)
    one.client(frame(PING) + frame(TEXT, b"x"))
    assert not site.heard
    assert one.parted(1008) == "the thing may not publish in this channel"


def test_who_may_publish_since() -> None:
    site = Site(Rights(subscribe=True))
    one = opened(site)
    site.know(THING, KEY, {CHANNEL: BOTH})
    one.client(frame(TEXT, b"x"))
    assert [heard.payload for heard in site.heard] == [b"x"]
    assert one.closed is None


def test_a_message_that_is_too_large() -> None:
    site = Site()
    room = PACKET - len(TOPIC) - 32
    one = opened(site)
    one.client(frame(BINARY, bytes(room)))
    assert len(site.heard) == 1
    one.client(frame(BINARY, bytes(room + 1))[:4])
    assert one.parted(1009)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x81\x01x", 1002),
        (frame(TEXT, b"x", bits=0x40), 1002),
        (frame(3), 1002),
        (frame(PING, fin=False), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(CLOSE, b"\x03\xed"), 1002),
    ],
)
def test_what_breaks_the_protocol(sent: bytes, code: int) -> None:
    site = Site()
    one = opened(site)
    one.client(frame(TEXT, b"before") + sent + frame(TEXT, b"behind"))
    assert [heard.payload for heard in site.heard] == [b"before"]
    assert one.parted(code)


# --- from the hub ----------------------------------------------------------------------------------------------------


def test_what_others_say() -> None:
    site = Site()
    one = opened(site)
    site.publish(TOPIC, b"plain")
    site.publish(TOPIC, b"text", TEXTUAL)
    site.publish(TOPIC, b"\xff", TEXTUAL)
    site.publish(f"{TOPIC}/a/b", b"below")
    site.publish(f"{TOPIC}x", b"beside")
    site.publish(f"channels/{STRANGE}/messages", b"elsewhere")
    assert one.frames == [(BINARY, b"plain"), (TEXT, b"text"), (BINARY, b"\xff"), (BINARY, b"below")]


def test_a_subtopic_hears_what_is_below_it() -> None:
    site = Site()
    one = opened(site, f"{PATH}/a")
    for topic in (TOPIC, f"{TOPIC}/a", f"{TOPIC}/a/b", f"{TOPIC}/b", f"{TOPIC}/aa"):
        site.publish(topic, topic.encode())
    assert [data for _, data in one.frames] == [f"{TOPIC}/a".encode(), f"{TOPIC}/a/b".encode()]


def test_two_websockets_and_a_post() -> None:
    site = Site()
    one, two, three = opened(site), opened(site), site.talk()
    one.client(frame(TEXT, b"from one"))
    three.post(f"/http/{TOPIC}", "Content-Type: application/json", body=b"{}")
    assert one.frames == two.frames == [(TEXT, b"from one"), (TEXT, b"{}")]
    assert answers(three) == [202]


def test_what_is_retained_comes_at_once() -> None:
    site = Site()
    site.hub.publish(Message(TOPIC, b"kept", 1, True))
    assert opened(site).frames == [(BINARY, b"kept")]


def test_long_messages() -> None:
    site = Site()
    one = opened(site)
    for size in (125, 126, 65_535, 65_536):
        site.publish(TOPIC, bytes(size))
    assert [len(data) for _, data in one.frames] == [125, 126, 65_535, 65_536]


def test_who_may_not_subscribe_hears_nothing() -> None:
    site = Site(Rights(publish=True))
    one = opened(site)
    site.publish(TOPIC, b"secret")
    one.client(frame(TEXT, b"x"))
    assert [heard.payload for heard in site.heard] == [b"secret", b"x"]
    assert not one.frames


def test_what_comes_in_one_read_goes_out_together() -> None:
    """A read of one client's can hold thousands of frames, for thousands who listen."""
    site = Site()
    one, two = opened(site), opened(site)
    one.client(frame(BINARY) * 500 + frame(TEXT, b"last"))
    mails = [event for event in two.office.told if isinstance(event, Mail)]
    assert len(mails) == 1
    assert two.frames == one.frames == [(BINARY, b"")] * 500 + [(TEXT, b"last")]


def test_but_in_pieces_of_which_some_can_wait() -> None:
    site = Site()
    one = opened(site)
    for n in range(300):
        site.hub.publish(Message(TOPIC, bytes((n % 256,)) * 1000, 1))
    site.turn()
    sizes = [len(event.data) for event in one.office.told if isinstance(event, Mail)]
    assert 5 <= len(sizes) <= 6
    assert max(sizes) <= 65_536
    assert [data[0] for _, data in one.frames] == [n % 256 for n in range(300)]


def test_nobody_hears_anything_after_the_end() -> None:
    site = Site()
    one = opened(site)
    site.hub.publish(Message(TOPIC, b"x", 1))
    one.tell(ShuttingDown())
    assert not [event for event in one.office.told if isinstance(event, Mail)]


# --- a slow client ---------------------------------------------------------------------------------------------------


def test_what_a_slow_client_does_not_take_waits() -> None:
    site = Site()
    one = opened(site)
    site.publish(TOPIC, b"1")
    one.office.full = True
    site.publish(TOPIC, b"2")
    site.publish(TOPIC, b"3")
    assert one.frames == [(BINARY, b"1")]
    one.office.full = False
    # In order: what waits goes first.
    site.publish(TOPIC, b"4")
    one.tell(Drained())
    site.publish(TOPIC, b"5")
    assert [data for _, data in one.frames] == [b"1", b"2", b"3", b"4", b"5"]
    assert not one.tell(Drained())


def test_what_waits_is_bounded() -> None:
    site = Site()
    one = opened(site)
    one.office.full = True
    for _ in range(300):
        site.publish(TOPIC, bytes(1000))
    one.office.full = False
    one.tell(Drained())
    assert MAX_WAITING - 1004 < sum(len(data) + 4 for _, data in one.frames) <= MAX_WAITING
    one.client(frame(CLOSE))
    assert one.parted(1000) == "the client has closed the WebSocket"


def test_a_client_that_takes_nothing_is_ended() -> None:
    site = Site()
    one = opened(site)
    one.office.full = True
    site.publish(TOPIC, bytes(MAX_WAITING - 10))
    for _ in range(MAX_DROPPED):
        site.publish(TOPIC, b"more")
    assert one.closed is None
    site.publish(TOPIC, b"more")
    assert one.parted(1013) == f"the client does not take its messages ({MAX_DROPPED + 1} messages for it were dropped)"


# --- controls --------------------------------------------------------------------------------------------------------


def test_a_ping_gets_its_pong() -> None:
    one = opened()
    one.client(frame(PING, b"?") + frame(PONG, b"unasked") + frame(PING))
    assert one.frames == [(PONG, b"?"), (PONG, b"")]


@pytest.mark.parametrize(
    ("said", "answer"), [(b"", 1000), (b"\x03\xe8", 1000), (b"\x03\xe9bye", 1001), (b"\x0f\xa0", 4000)]
)
def test_a_close_gets_its_own_code(said: bytes, answer: int) -> None:
    site = Site()
    one = opened(site)
    one.client(frame(TEXT, b"last") + frame(CLOSE, said) + frame(TEXT, b"behind"))
    assert [heard.payload for heard in site.heard] == [b"last"]
    assert one.parted(answer) == "the client has closed the WebSocket"


def test_a_silent_client_is_asked_and_then_ended() -> None:
    site = Site()
    one = opened(site)
    for _ in range(3):
        site.clock.now += PING_SECONDS
        one.time_out()
        assert one.frames[-1] == (PING, b"")
        assert one.deadline == PING_SECONDS
        one.client(frame(PONG))
    site.clock.now += PING_SECONDS
    one.time_out()
    site.clock.now += PING_SECONDS
    one.time_out()
    assert one.closed is not None
    assert one.closed.reason == "the client does not answer"


def test_a_timer_that_is_early() -> None:
    site = Site()
    one = opened(site)
    site.clock.now += PING_SECONDS - 0.5
    assert not [sent for sent in one.time_out() if isinstance(sent, Send)]
    assert one.deadline == pytest.approx(0.5)


# --- the end ---------------------------------------------------------------------------------------------------------


def gone(site: Site, one: Talk) -> None:
    """It is not listening, and nobody is watched, any more."""
    before = len(one.office.told)
    site.publish(TOPIC, b"x")
    site.know(THING, KEY, {})
    assert len(one.office.told) == before
    assert not site.book._watches


@pytest.mark.parametrize(
    ("key", "rights", "enabled"),
    [(KEY, Rights(), True), (KEY, Rights(publish=True), True), (KEY, BOTH, False), ("rotated", BOTH, True)],
)
def test_a_thing_that_may_do_less(key: str, rights: Rights, enabled: bool) -> None:
    site = Site()
    one = opened(site)
    site.know(THING, key, {CHANNEL: rights}, enabled=enabled)
    assert one.parted(1008)
    gone(site, one)


def test_a_thing_that_may_do_more() -> None:
    site = Site()
    one = opened(site)
    site.know(THING, KEY, {CHANNEL: BOTH, STRANGE: BOTH})
    assert one.closed is None


def test_the_registry_has_been_away_for_too_long() -> None:
    site = Site()
    one = opened(site)
    site.book.lost()
    for call in list(site.later):
        call()
    assert one.parted(1013) == "the registry cannot be asked"


def test_the_certificate_expires() -> None:
    site = Site()
    one = opened(site, tls=shown(expires=NOW + 10))
    assert one.deadline == 10
    site.clock.now = NOW + 10
    one.time_out()
    assert one.parted(1008) == "the client certificate has expired"
    gone(site, one)


def test_a_shutdown() -> None:
    site = Site()
    one = opened(site)
    one.tell(ShuttingDown())
    assert one.parted(1001) == "the gateway is shutting down"
    gone(site, one)


def test_the_client_goes_away() -> None:
    site = Site()
    one = opened(site)
    one.lose(Side.CLIENT)
    assert one.closed is not None
    assert one.closed.reason == "it broke"
    assert not one.closed.farewell
    gone(site, one)


def test_the_connection_is_cut() -> None:
    site = Site()
    one = opened(site)
    assert not one.session.handle(Ended())
    gone(site, one)


def test_a_reload_leaves_it() -> None:
    site = Site()
    one = opened(site)
    one.access = site.access()
    one.client(frame(TEXT, b"x"))
    assert one.frames == [(TEXT, b"x")]


def test_a_reload_that_revokes_its_certificate_ends_it_when_it_speaks() -> None:
    site = Site()
    one = opened(site)
    one.access, one.office.trusts = site.access(), False
    one.client(frame(TEXT, b"x"))
    assert [opcode for opcode, _ in one.frames] == [CLOSE]
    assert one.parted(1008) == "the client certificate is not trusted any more"
    gone(site, one)


def test_a_reload_that_revokes_its_certificate_ends_it_before_it_hears() -> None:
    site = Site()
    one = opened(site)
    one.access, one.office.trusts = site.access(), False
    site.publish(TOPIC, b"secret")
    assert [opcode for opcode, _ in one.frames] == [CLOSE]
    assert one.parted(1008) == "the client certificate is not trusted any more"
    gone(site, one)


# What a reload does to somebody who is connected.
RELOADS: dict[str, Callable[[Site], HTTPAccess]] = {
    "denied": lambda site: site.access(admission=rules(f"deny {THING} all", "allow all all")),
    "the key is to be said": lambda site: site.access(ws_key=True),
    "served otherwise": lambda site: replace(
        site.access(), routes=Routes((route(name="ws", path="/ws", serve="mqtt", mqtt="main"),))
    ),
    "led elsewhere": lambda site: replace(site.access(), routes=Routes((route(name="main"),))),
    "led nowhere": lambda site: replace(site.access(), routes=Routes((route(name="main", path="/other"),))),
    "no listener": lambda site: replace(site.access(), mqtt={}),
}


@pytest.mark.parametrize("next_is", ["said", "heard", "taken"])
@pytest.mark.parametrize("reload", sorted(RELOADS))
def test_whoever_would_not_be_let_in_after_a_reload_has_to_go(reload: str, next_is: str) -> None:
    site = Site()
    one = opened(site)
    if next_is == "taken":
        one.office.full = True
        site.publish(TOPIC, b"secret")
        one.office.full = False
    one.access = RELOADS[reload](site)
    if next_is == "said":
        one.client(frame(TEXT, b"forged"))
    elif next_is == "heard":
        site.publish(TOPIC, b"secret")
    else:
        one.tell(Drained())
    assert [heard.payload for heard in site.heard] == ([] if next_is == "said" else [b"secret"])
    assert [opcode for opcode, _ in one.frames] == [CLOSE]
    assert one.parted(1008)
    gone(site, one)


def test_what_the_record_of_the_end_says() -> None:
    one = opened()
    one.client(frame(TEXT, b"hello"))
    one.client(frame(CLOSE))
    assert one.parted(1000) == "the client has closed the WebSocket"
    assert (one.session.facts.to_client, one.session.facts.from_client) == (7, 11 + 6)
    assert len(one.of(RequestRecord)) == 1
    assert not one.of(Hold)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200), st.lists(st.integers(0, 15), max_size=5))
def test_whatever_a_client_sends(data: bytes, opcodes: list[int]) -> None:
    """It goes on, or it ends with a Close; the same for its last bytes alone as for all at once."""
    one = opened()
    sent = b"".join(frame(opcode, data[:100]) for opcode in opcodes) + data
    for at in range(0, len(sent), 7):
        if one.closed is None:
            one.client(sent[at : at + 7])
    if one.closed is not None:
        assert one.frames[-1][0] == CLOSE
