"""WebSockets as transcripts: the key, the handshake on both sides, and how an open one is ended."""

from __future__ import annotations

import base64
import hashlib
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.session.vocabulary import (
    Close,
    Data,
    Dialed,
    Ended,
    Event,
    Expired,
    HangUp,
    Hold,
    Idle,
    Lost,
    Release,
    RequestRecord,
    Send,
    ShuttingDown,
    Side,
    Splice,
    TLSFacts,
)
from tests.http_sessions import (
    BODY,
    CONNECT,
    FIRST,
    KEY,
    METER,
    NOW,
    RESPONSE,
    Conversation,
    House,
    access,
    message,
    nameless,
    request,
    response,
    route,
    shown,
    sized,
    upstream,
)

OTHER = "another-key"
NONCE = "dGhlIHNhbXBsZSBub25jZQ=="
# RFC 6455, 1.3.
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
OPENING = ("Connection: keep-alive, Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {NONCE}")
VERSION = "Sec-WebSocket-Version: 13"
AGREED = ("Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Accept: {ACCEPT}")


def opening(target: str = "/ws", *lines: str, version: str = VERSION, **more: Any) -> bytes:
    return request(target, *OPENING, version, *lines, **more)


def asking(target: str = "/ws", *lines: str, tls: TLSFacts | None = None, **settings: Any) -> Conversation:
    """Up to the verdict."""
    one = Conversation(access(route(**{"websocket": True, **settings})), tls, secrets=(KEY, OTHER))
    one.client(opening(target, *lines))
    return one


def asked(target: str = "/ws", *lines: str, tls: TLSFacts | None = None, **settings: Any) -> Conversation:
    """Up to where the upstream has got it."""
    one = asking(target, *lines, tls=tls, **settings)
    one.tell(Dialed())
    return one


def opened(frames: bytes = b"", **settings: Any) -> Conversation:
    one = asked("/ws", f"Authorization: {KEY}", **settings)
    one.upstream(response("101 Switching Protocols", *AGREED, body=frames))
    assert one.spliced is not None
    return one


# --- the key ----------------------------------------------------------------------------------------------------------


def test_the_key_in_the_header() -> None:
    one = asked("/ws?a=1", f"Authorization: Thing {KEY}")
    assert one.asked.all("Authorization") == [KEY]
    assert one.asked.target == "/ws?a=1"


@pytest.mark.parametrize(
    ("query", "left"),
    [
        (f"authorization={KEY}", ""),
        (f"a=1&authorization={KEY}", "?a=1"),
        (f"authorization={KEY}&a=1&b=2", "?a=1&b=2"),
        (f"a=1&authorization={KEY}&b=2", "?a=1&b=2"),
        (f"a=1;authorization={KEY};b=2", "?a=1;b=2"),
        (f"a=1;authorization={KEY}&b=2", "?a=1&b=2"),
        (f"a=%26&authorization={KEY}&a=1&&b", "?a=%26&a=1&&b"),
        (f"AUTHORIZATION={KEY}", ""),
        (f"%61uthorization={KEY}", ""),
        (f"authorization%20={KEY}", ""),
        (f"+authorization={KEY}", ""),
        (f"authorization={KEY.replace('-', '%2D')}", ""),
        (f"authorization=Bearer%20{KEY}", ""),
        (f"authorization=Thing+{KEY}", ""),
    ],
)
def test_the_key_in_the_query(query: str, left: str) -> None:
    """The upstream hears it in the header, and there only."""
    one = asked(f"/ws?{query}")
    assert one.asked.all("Authorization") == [KEY]
    assert one.asked.target == "/ws" + left
    assert one.sent(Side.UPSTREAM).count(KEY.encode()) == 1


@pytest.mark.parametrize(
    "value",
    [
        OTHER,
        KEY.upper(),
        KEY[:-1],
        f"{KEY}x",
        f"{KEY}={KEY}",
        f"Basic%20{KEY}",
        f"{quote(KEY)}%2c",
        "Bearer",
        f"%25{ord(KEY[0]):02X}{KEY[1:]}",
    ],
)
def test_another_key_in_the_query(value: str) -> None:
    asking(f"/ws?authorization={value}").refused(403)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "%20",
        f"{KEY}%20",
        f"%20{KEY}",
        f"{KEY}+",
        f"{KEY}%0d%0aX-Evil:%201",
        f"{KEY}%0a",
        f"{KEY}%00",
        f"{KEY}%09",
        f"{KEY}%7f",
        f"{KEY}%c3%a4",
        f"a%20%20{KEY}",
    ],
)
@pytest.mark.parametrize(
    ("tls", "settings"), [(shown(), {}), (nameless(), {"client": "optional"}), (shown(METER), {"cn": "id"})]
)
def test_what_can_be_no_field_is_no_key(value: str, tls: TLSFacts, settings: dict[str, Any]) -> None:
    one = asking(f"/ws?authorization={value}", tls=tls, **settings)
    assert one.refused(400) == "authorization in the query is not a key"


@pytest.mark.parametrize(
    "query",
    [
        f"authorization={KEY}&authorization={KEY}",
        f"authorization={KEY}&authorization={OTHER}",
        f"authorization={KEY};authorization={KEY}",
        f"authorization={KEY}&Authorization=",
        f"authorization={KEY}&%61uthorization",
        f"authorization={KEY}&authorization+=x",
    ],
)
def test_two_keys_in_the_query(query: str) -> None:
    assert asking(f"/ws?{query}").refused(400) == "authorization is in the query twice"


def test_both_must_be_the_key() -> None:
    for header, query, status in ((KEY, KEY, 0), (KEY, OTHER, 403), (OTHER, KEY, 403), (OTHER, OTHER, 403)):
        one = asking(f"/ws?authorization={query}", f"Authorization: {header}")
        if status:
            one.refused(status)
        else:
            assert one.dials == [FIRST]


def test_neither() -> None:
    one = asking()
    assert one.refused(403) == "no key for a WebSocket"
    assert "?authorization=" in one.answered.said["error"]


def test_neither_where_that_will_do() -> None:
    assert asked(ws_key=False).asked.all("Authorization") == [KEY]
    asking("/ws", f"Authorization: {OTHER}", ws_key=False).refused(403)
    asking(f"/ws?authorization={OTHER}", ws_key=False).refused(403)


def test_two_headers() -> None:
    assert asking("/ws", f"Authorization: {KEY}", f"authorization: {KEY}").refused(400)


def test_the_query_as_it_came_where_that_is_configured() -> None:
    one = asked(f"/ws?a&authorization={KEY}", ws_forward_key=True)
    assert one.asked.target == f"/ws?a&authorization={KEY}"
    assert one.asked.all("Authorization") == [KEY]
    asking(f"/ws?authorization={OTHER}", ws_forward_key=True).refused(403)


@pytest.mark.parametrize("base", ["", "/v1"])
def test_the_query_behind_a_base(base: str) -> None:
    one = asked(f"/ws?authorization={KEY}", path="/ws", base=base)
    assert one.asked.target == (base or "/")


def test_without_a_certificate() -> None:
    """Where none is required: the key is the upstream's to judge, and has to be there all the same."""
    for client in ("optional", "none"):
        one = asked("/ws?authorization=Basic%20eDp5&a=1", tls=nameless(), client=client)
        assert one.asked.all("Authorization") == ["Basic eDp5"]
        assert one.asked.target == "/ws?a=1"
        one = asked("/ws", "Authorization: Basic eDp5", tls=nameless(), client=client)
        assert one.asked.all("Authorization") == ["Basic eDp5"]
    asking(tls=nameless(), client="optional").refused(403)
    assert asked(tls=nameless(), client="none").asked.all("Authorization") == []
    asking("/ws", f"Authorization: {KEY}", tls=nameless()).refused(403)


def test_an_id_hands_the_key_on() -> None:
    one = asked("/ws?authorization=Bearer%20x", tls=shown(METER), cn="id")
    assert one.asked.all("Authorization") == ["Bearer x"]
    asking(tls=shown(METER), cn="id").refused(403)


@given(st.text(st.characters(codec="latin-1"), max_size=30))
def test_nothing_of_a_query_can_break_out_of_its_field(value: str) -> None:
    one = Conversation(access(route(client="none", websocket=True)), nameless(), secrets=())
    one.client(opening("/ws?authorization=" + quote(value.encode("latin-1"), safe="")))
    if one.dials:
        one.tell(Dialed())
        assert one.asked.all("Authorization") == [value]
        assert one.asked.target == "/ws"
        assert one.asked.body == b""


# --- whether it may be ------------------------------------------------------------------------------------------------


def test_a_route_without_websockets() -> None:
    one = asking("/ws", f"Authorization: {KEY}", websocket=False)
    assert one.refused(403) == "this route takes no WebSockets"
    assert one.answered.said["error"] == "forbidden"


def test_a_rule_for_other_methods() -> None:
    one = Conversation(access(route("allow all all method=POST", websocket=True)))
    one.client(opening("/ws", f"Authorization: {KEY}"))
    assert one.refused(403).startswith("denied: ")


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (400, request("/ws", *OPENING, f"Authorization: {KEY}")),
        (426, opening("/ws", f"Authorization: {KEY}", version="Sec-WebSocket-Version: 8")),
        (400, opening("/ws", f"Authorization: {KEY}", "Sec-WebSocket-Version: 13")),
        (400, opening("/ws", f"Authorization: {KEY}", f"Sec-WebSocket-Key: {NONCE}")),
        (400, request("/ws", *OPENING[:2], VERSION, f"Authorization: {KEY}")),
        (400, request("/ws", *OPENING[:2], VERSION, "Sec-WebSocket-Key: c2hvcnQ=", f"Authorization: {KEY}")),
        (400, opening("/ws", f"Authorization: {KEY}", method="POST")),
        (400, opening("/ws", f"Authorization: {KEY}", "Content-Length: 1", body=b"x")),
        (400, opening("/ws", f"Authorization: {KEY}", "Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    ],
)
def test_handshakes_that_are_none(status: int, data: bytes) -> None:
    one = Conversation(access(route(websocket=True)))
    one.client(data)
    one.refused(status)
    assert one.answered.all("Sec-WebSocket-Version") == (["13"] if status == 426 else [])


def test_http_1_0_has_no_upgrade() -> None:
    one = Conversation(access(route(websocket=True)))
    one.ask(opening("/ws").replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert one.asked.one("Upgrade") is None


# --- the handshake ----------------------------------------------------------------------------------------------------


def test_what_the_upstream_is_asked() -> None:
    one = asked(
        "/ws", f"Authorization: {KEY}", "Sec-WebSocket-Protocol: mqtt", "Sec-WebSocket-Extensions: x", "Origin: y"
    )
    assert one.asked.first == "GET /ws HTTP/1.1"
    expected = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": NONCE,
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "mqtt",
        "Sec-WebSocket-Extensions": "x",
        "Origin": "y",
    }
    assert {name: one.asked.one(name) for name in expected} == expected
    assert one.asked.one("Content-Length") is None
    assert one.deadline == RESPONSE


def test_from_the_handshake_to_the_splice() -> None:
    one = asked("/ws", f"Authorization: {KEY}")
    one.clock.now += 2
    told, record, splice = one.upstream(response("101 Switching Protocols", *AGREED, "Sec-WebSocket-Protocol: mqtt"))
    assert isinstance(told, Send)
    answer = message(told.data)
    assert (told.side, answer.status, answer.body) == (Side.CLIENT, 101, b"")
    expected = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Accept": ACCEPT}
    assert {name: answer.one(name) for name in expected} == expected
    assert answer.one("Sec-WebSocket-Protocol") == "mqtt"
    assert isinstance(splice, Splice)
    assert (splice.to_upstream, splice.expires) == (b"", NOW + 600)
    assert splice.framing is not None
    assert splice.framing.boundary
    assert record == one.record
    assert (one.record.status, one.record.seconds, one.record.reason) == (101, 2.0, None)
    assert one.record.asked == ("GET", "gw.example", "/ws")


def test_what_the_record_of_its_end_will_say() -> None:
    facts = opened().session.facts
    assert (facts.decision, facts.rule) == ("allowed", "rules:1: allow all all")
    assert facts.subject is not None
    assert facts.subject.startswith("key:")
    assert facts.serial is not None


def test_the_accept_is_of_the_clients_own_key() -> None:
    nonce = base64.b64encode(bytes(range(16)))
    digest = hashlib.sha1(nonce + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
    for accept, opens in ((base64.b64encode(digest).decode(), True), (ACCEPT, False)):
        one = Conversation(access(route(websocket=True, ws_key=False)))
        one.ask(opening().replace(NONCE.encode(), nonce))
        lines = (*AGREED[:2], f"Sec-WebSocket-Accept: {accept}")
        one.upstream(response("101 Switching Protocols", *lines))
        assert bool(one.of(Splice)) is opens


@pytest.mark.parametrize(
    "lines",
    [
        AGREED[:2],
        AGREED[1:],
        (AGREED[0], AGREED[2]),
        ("Connection: Upgrade", "Upgrade: h2c", AGREED[2]),
        (*AGREED, AGREED[2]),
        (*AGREED[:2], f"Sec-WebSocket-Accept: {ACCEPT.lower()}"),
        (*AGREED[:2], f"Sec-WebSocket-Accept: {NONCE}"),
        (*AGREED, "Content-Length: 3"),
    ],
)
def test_an_upstream_that_does_not_really_agree(lines: tuple[str, ...]) -> None:
    one = asked("/ws", f"Authorization: {KEY}")
    one.upstream(response("101 Switching Protocols", *lines))
    one.failed(502)
    assert not one.of(Splice)
    assert not one.of(Release)


@pytest.mark.parametrize("status", ["200 OK", "403 Forbidden", "404 Not Found"])
def test_an_upstream_that_refuses(status: str) -> None:
    """It answers like any other; what the client sent ahead are frames, and never a request."""
    one = asking("/ws", f"Authorization: {KEY}")
    one.client(request("/smuggled"))
    one.tell(Dialed())
    one.upstream(sized(b"no", status=status))
    assert one.answered.first == f"HTTP/1.1 {status}"
    assert one.answered.one("Connection") == "close"
    assert one.answered.body == b"no"
    assert one.closed == Close("the last answer was given")
    assert not one.of(Splice)
    assert one.dials == [FIRST]
    assert b"smuggled" not in one.sent(Side.UPSTREAM)
    assert len(one.of(RequestRecord)) == 1


def test_hints_before_the_101() -> None:
    one = asked("/ws", f"Authorization: {KEY}")
    one.upstream(response("103 Early Hints") + response("101 Switching Protocols", *AGREED))
    assert one.spliced is not None


def test_a_handshake_that_takes_too_long() -> None:
    for one, seconds in (
        (asking("/ws", f"Authorization: {KEY}"), CONNECT),
        (asked("/ws", f"Authorization: {KEY}"), 37),
    ):
        assert one.deadline == seconds
        one.time_out()
        one.failed(504)


def test_over_an_idle_connection_that_was_at_its_end() -> None:
    one = Conversation(access(route(websocket=True, ws_key=False)), house=House(FIRST))
    one.client(opening())
    one.lose(Side.UPSTREAM)
    one.tell(Dialed())
    one.upstream(response("101 Switching Protocols", *AGREED))
    assert one.spliced is not None


def test_what_the_client_sent_ahead_goes_first_and_in_order() -> None:
    """None of it before the upstream has agreed to speak frames."""
    one = Conversation(access(route(websocket=True)))
    one.client(opening("/ws", f"Authorization: {KEY}") + b"one,")
    assert one.client(b"two,") == [Hold()]
    one.tell(Dialed())
    one.client(b"three")
    assert one.asked.body == b""
    one.upstream(response("101 Switching Protocols", *AGREED))
    assert one.spliced is not None
    assert one.spliced.to_upstream == b"one,two,three"


def test_what_the_upstream_sent_ahead_goes_right_behind_the_head() -> None:
    frames = b"\x81\x05hello\x81\x05wor"
    one = opened(frames)
    assert one.answered.body == frames
    assert one.spliced is not None
    assert one.spliced.framing is not None
    assert not one.spliced.framing.boundary, "a frame is half there"


def test_no_certificate_no_expiry() -> None:
    one = asked(tls=nameless(), client="none")
    one.upstream(response("101 Switching Protocols", *AGREED))
    assert one.spliced is not None
    assert one.spliced.expires is None


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "code", "reason"),
    [
        (Expired(), 1008, "the client certificate has expired"),
        (ShuttingDown(), 1001, "the gateway is shutting down"),
        (Idle(), 1001, "idle for too long"),
    ],
)
def test_the_end_of_an_open_one(event: Event, code: int, reason: str) -> None:
    one = opened()
    (close,) = one.tell(event)
    assert isinstance(close, Close)
    assert close.reason == reason
    assert not close.patient
    payload = code.to_bytes(2) + reason.encode()
    assert close.farewell == bytes((0x88, len(payload))) + payload
    assert one.tell(Ended()) == []
    assert len(one.of(RequestRecord)) == 1


def test_the_farewell_stays_what_it_is_while_it_waits_for_its_place() -> None:
    """The relay says it at the end of a frame. A second Close until then would take its place."""
    one = opened()
    one.tell(Expired())
    assert list(one.session.handle(ShuttingDown())) == []
    assert list(one.session.handle(Idle())) == []


@pytest.mark.parametrize("stage", ["dialing", "waiting"])
def test_one_that_opens_while_the_gateway_shuts_down_is_ended_at_once(stage: str) -> None:
    """Nobody would tell it again."""
    one = asking("/ws", f"Authorization: {KEY}")
    if stage == "waiting":
        one.tell(Dialed())
    one.tell(ShuttingDown())
    if stage == "dialing":
        one.tell(Dialed())
    one.upstream(response("101 Switching Protocols", *AGREED))
    assert one.closed is not None
    assert one.answered.status in (101, 502, 503)
    if one.spliced is not None:
        assert one.closed.farewell[:4] == b"\x88" + bytes((len(one.closed.farewell) - 2,)) + (1001).to_bytes(2)


@pytest.mark.parametrize("event", [Data(Side.CLIENT, b"GET / HTTP/1.1\r\n"), Dialed(), Lost(Side.UPSTREAM, "x")])
def test_what_has_no_place_in_an_open_one_ends_it(event: Event) -> None:
    one = opened()
    one.tell(event)
    assert one.closed is not None
    assert len(one.of(RequestRecord)) == 1


def test_its_connection_is_nobody_elses_afterwards() -> None:
    one = opened()
    one.tell(ShuttingDown())
    assert not one.of(Release)
    assert not one.of(HangUp)


def test_its_body_has_no_time_of_its_own() -> None:
    assert BODY not in [getattr(command, "seconds", None) for command in opened().commands]


def test_an_upstream_with_several_addresses() -> None:
    one = asking("/ws", f"Authorization: {KEY}", upstream=upstream(FIRST, FIRST))
    one.lose(Side.UPSTREAM)
    one.tell(Dialed())
    one.upstream(response("101 Switching Protocols", *AGREED))
    assert one.spliced is not None
