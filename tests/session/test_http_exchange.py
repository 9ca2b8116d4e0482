"""One request and its answer as a transcript: both bodies, what breaks in the middle, and every wait's deadline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.session.vocabulary import (
    Close,
    Dial,
    Dialed,
    Ended,
    Event,
    Expired,
    HangUp,
    Hold,
    Idle,
    Lost,
    Opened,
    Proceed,
    Release,
    RequestRecord,
    Reuse,
    Secured,
    Send,
    SetDeadline,
    ShuttingDown,
    Side,
    StartTLS,
    TimedOut,
    TLSFacts,
)
from gateway.upstream import TLSMode
from tests.http_sessions import (
    BODY,
    CLIENT,
    CONNECT,
    FIRST,
    GRACE,
    HEAD,
    KEEPALIVE,
    KEY,
    NOW,
    RESPONSE,
    SECOND,
    Conversation,
    House,
    access,
    chunks,
    message,
    nameless,
    request,
    response,
    route,
    sized,
    talk,
    upstream,
)

POST = request("/", "Content-Length: 10", method="POST")
CHUNKED_POST = request("/", "Transfer-Encoding: chunked", method="POST")
CHUNKED = response("200 OK", "Transfer-Encoding: chunked")
UNTIL_CLOSE = response("200 OK", "Connection: close")


def pooled(**given: Any) -> Conversation:
    """Its upstream has an idle connection."""
    return Conversation(access(route(**given)), house=House(FIRST))


# --- the way there ----------------------------------------------------------------------------------------------------


def test_one_request_in_full() -> None:
    one = Conversation()
    dial = Dial(one.access.routes.routes[0].upstream, FIRST, name=("route:main", str(FIRST)))
    assert one.client(request()) == [SetDeadline(CONNECT), dial]
    assert not one.sent(Side.UPSTREAM)
    sent, *rest = one.tell(Dialed())
    assert isinstance(sent, Send)
    assert rest == [SetDeadline(RESPONSE)]
    one.clock.now += 2
    answer, *rest = one.upstream(sized(b"ok"))
    assert answer == Send(Side.CLIENT, sized(b"ok"))
    record = one.record
    assert rest == [Release(), record, SetDeadline(KEEPALIVE)]
    assert (record.status, record.upstream, record.decision) == (200, str(FIRST), "allowed")
    assert (record.from_client, record.to_client, record.seconds, record.reason) == (0, 2, 2.0, None)


def test_an_idle_connection_is_asked_at_once() -> None:
    one = pooled()
    reuse, sent, deadline = one.client(request())
    assert isinstance(reuse, Reuse)
    assert isinstance(sent, Send)
    assert deadline == SetDeadline(RESPONSE)
    assert not one.dials
    one.upstream(sized())
    assert one.of(Release)


def test_an_upstream_with_tls_hears_nothing_before_it_is_up() -> None:
    one = talk(upstream=upstream(mode=TLSMode.VERIFY_FULL))
    one.client(request())
    assert one.tell(Dialed()) == [StartTLS(Side.UPSTREAM)]
    assert not one.sent(Side.UPSTREAM)
    one.tell(Secured(Side.UPSTREAM, TLSFacts("TLSv1.3")))
    assert one.asked.one("Authorization") == KEY


def test_an_upstream_with_tls_at_rest_is_asked_at_once() -> None:
    one = pooled(upstream=upstream(mode=TLSMode.VERIFY_FULL))
    one.client(request())
    assert one.asked
    assert StartTLS(Side.UPSTREAM) not in one.commands


@pytest.mark.parametrize("reached", [False, True])
@pytest.mark.parametrize("event", [Lost(Side.UPSTREAM, "refused"), TimedOut()])
def test_the_next_address(reached: bool, event: Event) -> None:
    one = talk(upstream=upstream(FIRST, SECOND, mode=TLSMode.VERIFY_FULL))
    one.client(POST)
    if reached:
        one.tell(Dialed())
    one.tell(event)
    assert one.dials == [FIRST, SECOND]
    assert one.deadline == CONNECT
    one.tell(Dialed())
    one.tell(Secured(Side.UPSTREAM, TLSFacts("TLSv1.3")))
    assert one.asked.one("Authorization") == KEY
    assert one.record_of_end().upstream == str(SECOND)


@pytest.mark.parametrize(
    ("event", "status", "reason"),
    [
        (Lost(Side.UPSTREAM, "connection refused"), 502, "connection refused"),
        (TimedOut(), 504, "the upstream could not be reached in time"),
    ],
)
def test_no_address_is_left(event: Event, status: int, reason: str) -> None:
    one = talk(upstream=upstream(FIRST, SECOND))
    one.client(request())
    one.tell(event)
    one.tell(event)
    assert one.failed(status) == reason
    assert one.record.upstream == str(SECOND)
    assert one.record.decision == "allowed"
    assert reason not in one.answered.said["error"]


@pytest.mark.parametrize("event", [Lost(Side.UPSTREAM, "refused"), TimedOut()])
def test_an_address_that_failed_is_the_last_one_for_the_next_request(event: Event) -> None:
    one = talk(upstream=upstream(FIRST, SECOND))
    one.client(request())
    one.tell(event)
    one.tell(Dialed())
    one.upstream(sized())
    for _ in range(2):
        one.client(request())
        one.tell(Dialed())
        one.upstream(sized())
    assert one.dials == [FIRST, SECOND, SECOND, SECOND]


def test_an_address_that_works_again_has_its_turn() -> None:
    """It was only asked because the other one, too, had failed."""
    one = talk(upstream=upstream(FIRST, SECOND))
    one.client(request())
    one.lose(Side.UPSTREAM)
    one.tell(Dialed())
    one.upstream(sized())
    one.client(request())
    one.lose(Side.UPSTREAM)
    one.tell(Dialed())
    one.upstream(sized())
    assert one.dials == [FIRST, SECOND, SECOND, FIRST]
    for _ in range(2):
        one.client(request())
        one.tell(Dialed())
        one.upstream(sized())
    assert one.dials[4:] == [FIRST, FIRST]


def test_an_idle_connection_to_the_next_address() -> None:
    one = Conversation(access(route(upstream=upstream(FIRST, SECOND))), house=House(SECOND))
    one.client(request())
    one.lose(Side.UPSTREAM)
    assert one.asked
    assert one.dials == [FIRST]
    assert one.of(Reuse)[0].dial.address == SECOND
    assert one.deadline == RESPONSE


@pytest.mark.parametrize("reached", [False, True])
def test_what_an_upstream_says_before_it_is_asked_is_no_answer(reached: bool) -> None:
    one = talk(upstream=upstream(mode=TLSMode.VERIFY_FULL))
    one.client(request())
    if reached:
        one.tell(Dialed())
    one.upstream(sized())
    one.failed(502)


# --- a connection of the pool that was at its end ---------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
@pytest.mark.parametrize("orderly", [True, False])
def test_asked_again_over_a_new_connection(method: str, orderly: bool) -> None:
    one = pooled()
    one.client(request(method=method))
    first = one.sent(Side.UPSTREAM)
    one.lose(Side.UPSTREAM, orderly=orderly)
    assert one.dials == [FIRST]
    assert one.deadline == CONNECT
    one.tell(Dialed())
    assert one.sent(Side.UPSTREAM) == first * 2
    one.upstream(response("204 No Content"))
    assert one.record.status == 204


def test_asked_again_with_its_body() -> None:
    for head, body in ((request("/", "Content-Length: 3", method="PUT"), b"abc"), (CHUNKED_POST, chunks(b"abc"))):
        one = pooled()
        one.client(head.replace(b"POST", b"PUT") + body)
        first = one.sent(Side.UPSTREAM)
        one.lose(Side.UPSTREAM)
        one.tell(Dialed())
        assert one.sent(Side.UPSTREAM) == first * 2
        assert first.endswith(b"\r\n\r\n" + body)


@pytest.mark.parametrize("method", ["POST", "PATCH", "LOCK"])
def test_never_asked_twice(method: str) -> None:
    one = pooled()
    one.client(request(method=method))
    one.lose(Side.UPSTREAM)
    assert one.failed(502) == "the upstream ended before its answer: it broke"
    assert not one.dials


def test_not_asked_again_when_a_part_of_the_body_is_gone() -> None:
    one = pooled()
    one.client(request("/", "Content-Length: 6", method="PUT", body=b"abc"))
    one.client(b"def")
    one.lose(Side.UPSTREAM)
    one.failed(502)


@pytest.mark.parametrize("heard", [b"H", response("100 Continue"), response("103 Early Hints")])
def test_not_asked_again_when_an_answer_has_begun(heard: bytes) -> None:
    one = pooled()
    one.client(request())
    one.upstream(heard)
    one.lose(Side.UPSTREAM)
    assert not one.dials
    assert message(one.closed.farewell if one.closed else b"").status == 502


def test_asked_again_only_once() -> None:
    one = pooled()
    one.client(request())
    one.lose(Side.UPSTREAM)
    one.tell(Dialed())
    one.lose(Side.UPSTREAM)
    one.failed(502)
    assert one.dials == [FIRST]


def test_not_asked_again_over_a_new_connection() -> None:
    one = Conversation().ask(request())
    one.lose(Side.UPSTREAM)
    one.failed(502)
    assert one.dials == [FIRST]


# --- the request's body -----------------------------------------------------------------------------------------------


def test_a_counted_body() -> None:
    one = Conversation()
    one.client(POST + b"01234")
    one.tell(Dialed())
    assert one.deadline == BODY
    assert one.asked.one("Content-Length") == "10"
    one.client(b"56789")
    assert one.asked.body == b"0123456789"
    assert one.deadline == RESPONSE
    one.upstream(sized())
    assert (one.record.from_client, one.record.to_client) == (10, 2)


@given(st.lists(st.integers(1, 40), max_size=8), st.booleans())
def test_a_chunked_body_however_it_is_cut(cuts: list[int], early: bool) -> None:
    """What follows it is another request, and never the upstream's."""
    data = CHUNKED_POST + chunks(b"abc", b"d" * 20, trailers="X-Sum: 7\r\n") + request("/next", "X-Smuggled: 1")
    one = Conversation()
    pieces, at = [], 0
    for size in (*cuts, len(data)):
        pieces.append(data[at : at + size])
        at += size
    for piece in filter(None, pieces):
        one.client(piece)
        if not early and one.dials and not one.linked:
            one.tell(Dialed())
    if not one.linked:
        one.tell(Dialed())
    body = one.asked.body
    content, at = b"", 0
    while body[at : at + 1] != b"0":
        end = body.index(b"\r\n", at)
        size = int(body[at:end], 16)
        content += body[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
    assert content == b"abc" + b"d" * 20
    assert body[at:] == b"0\r\nX-Sum: 7\r\n\r\n"
    one.upstream(sized())
    assert one.record.from_client == 23
    one.tell(Dialed())
    assert one.sent(Side.UPSTREAM).count(b"X-Smuggled: 1") == 1
    assert b"GET /next HTTP/1.1\r\nHost: gw.example\r\nX-Smuggled: 1\r\nAuthorization:" in one.sent(Side.UPSTREAM)


def test_chunk_extensions_go_no_further() -> None:
    one = Conversation().ask(CHUNKED_POST + b"3;a=b\r\nabc\r\n00;c\r\n\r\n")
    assert one.asked.body == chunks(b"abc")


@pytest.mark.parametrize("bad", [b"zz\r\n", b"3\r\nabcd\r\n", b"-1\r\n", b"3\nabc\r\n", b" 3\r\nabc\r\n"])
@pytest.mark.parametrize("stage", ["first", "dialing", "waiting", "answering"])
def test_a_broken_chunk_ends_it_wherever_it_comes(bad: bytes, stage: str) -> None:
    one = Conversation()
    one.client(CHUNKED_POST + (bad if stage == "first" else b""))
    if stage == "first":
        one.refused(400)
        return
    if stage != "dialing":
        one.tell(Dialed())
    if stage == "answering":
        one.upstream(sized(b"ok")[:-1])
    sent = one.sent(Side.UPSTREAM)
    one.client(bad)
    assert one.sent(Side.UPSTREAM) == sent, "nothing more goes there"
    assert one.closed is not None
    if stage == "answering":
        assert one.closed.broken
        assert one.closed.farewell == b""
    else:
        one.failed(400)


def test_one_read_of_the_body_waits_for_the_upstream() -> None:
    one = Conversation()
    one.client(POST)
    assert one.client(b"01234") == [Hold()]
    assert one.client(b"567") == []
    *_, last = one.tell(Dialed())
    assert last == Proceed()
    assert one.asked.body == b"01234567"
    one.client(b"89")
    assert one.asked.body == b"0123456789"


def test_a_body_that_is_complete_leaves_the_client_held() -> None:
    one = Conversation()
    one.client(POST)
    one.client(b"0123456789")
    one.tell(Dialed())
    assert one.held
    assert one.upstream(sized())[-1] == Proceed()


def test_a_body_that_drips_is_cut() -> None:
    one = Conversation().ask(request("/", "Content-Length: 100000", method="POST"))
    assert one.client(b"a" * 4_095) == [Send(Side.UPSTREAM, b"a" * 4_095)]
    assert one.client(b"a")[-1] == SetDeadline(BODY)
    assert len(one.client(b"a" * 4_095)) == 1
    one.time_out()
    assert one.failed(408) == "the body did not come in time"


def test_a_body_that_the_upstream_does_not_take_is_not_the_clients_fault() -> None:
    one = Conversation().ask(POST)
    one.time_out(stalled=Side.UPSTREAM)
    one.failed(504)


def test_a_client_that_leaves_in_the_middle_of_its_body() -> None:
    for orderly in (False, True):
        one = Conversation().ask(POST + b"012")
        one.lose(Side.CLIENT, orderly=orderly)
        assert one.record.reason == "the client's connection: it broke"
        assert (one.record.status, one.record.from_client) == (0, 3)
        assert not one.of(Release)


# --- 100-continue and what else comes before the answer ---------------------------------------------------------------

EXPECTING = request("/", "Content-Length: 3", "Expect: 100-continue", method="POST")


def test_100_continue() -> None:
    one = Conversation().ask(EXPECTING)
    assert one.asked.one("Expect") == "100-continue"
    told = one.upstream(response("100 Continue"))
    assert told == [Send(Side.CLIENT, b"HTTP/1.1 100 Continue\r\n\r\n"), SetDeadline(BODY)], "the body's time begins"
    one.client(b"abc")
    one.upstream(sized())
    assert one.record.status == 200
    assert one.closed is None


def test_no_100_for_who_did_not_ask() -> None:
    for version in ("1.0", "1.1"):
        one = Conversation().ask(request(version=version))
        assert one.upstream(response("100 Continue")) == []
    one = Conversation()
    one.ask(EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert one.asked.one("Expect") is None
    assert one.upstream(response("100 Continue")) == []


def test_early_hints() -> None:
    one = Conversation().ask(request())
    hints = response("103 Early Hints", "Link: </a.css>", "Connection: x-y", "X-Y: 1")
    assert one.upstream(hints) == [Send(Side.CLIENT, b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")]
    assert one.upstream(hints[:20]) == []
    one.upstream(hints[20:] + sized())
    assert one.sent(Side.CLIENT).endswith(sized())
    assert one.record.status == 200
    assert one.of(Release)
    one = Conversation().ask(request(version="1.0"))
    assert one.upstream(hints) == []


def test_hints_without_end() -> None:
    one = Conversation().ask(request())
    for _ in range(16):
        one.upstream(response("103 Early Hints"))
    assert one.deadline == RESPONSE
    assert SetDeadline(RESPONSE) not in one.commands[-16:], "they buy no time"
    one.upstream(response("103 Early Hints"))
    assert one.closed is not None
    assert message(one.closed.farewell).status == 502 == one.record.status


def test_hints_without_end_in_one_read() -> None:
    one = Conversation().ask(request())
    one.upstream(response("103 Early Hints") * 1_000)
    assert one.record.status == 502
    assert len(one.of(Send)) == 1 + 16


def test_a_final_answer_instead_of_100() -> None:
    """What the client sends, or does not send, after it cannot be told from a request."""
    one = Conversation().ask(EXPECTING)
    one.upstream(sized(b"no", status="417 Expectation Failed"))
    assert one.answered.one("Connection") == "close"
    assert one.closed == Close("the last answer was given")
    assert one.of(HangUp)
    assert not one.of(Release)
    assert one.record.status == 417


def test_an_early_answer_while_the_body_still_comes() -> None:
    one = Conversation().ask(POST + b"012")
    one.upstream(response("413 Content Too Large", "Content-Length: 4", body=b"no"))
    assert one.answered.one("Connection") == "close"
    assert one.closed is None
    one.client(b"345")
    one.upstream(b"pe")
    assert one.closed == Close("the last answer was given")
    assert not one.of(Release)
    assert one.record.status == 413


def test_an_early_answer_that_outlasts_the_body() -> None:
    """The client was told that this is the end."""
    one = Conversation().ask(POST)
    one.upstream(response("200 OK", "Content-Length: 4", body=b"no"))
    one.client(b"0123456789")
    one.upstream(b"pe")
    assert one.closed == Close("the last answer was given")
    assert one.of(Release), "the upstream has had all of it"


@pytest.mark.parametrize(
    "lines", [(), ("Connection: Upgrade", "Upgrade: websocket"), ("Connection: Upgrade", "Upgrade: h2c")]
)
def test_101_unasked(lines: tuple[str, ...]) -> None:
    one = Conversation().ask(request())
    one.upstream(response("101 Switching Protocols", *lines))
    assert one.failed(502) == "the upstream's answer: 101, where no upgrade was asked for"


# --- the answer -------------------------------------------------------------------------------------------------------


def test_fields_of_an_answer() -> None:
    one = Conversation().ask(request())
    lines = ["server: x", "Set-Cookie: a=1", "Connection: X-Mine", "X-Mine: 1", "Keep-Alive: timeout=5"]
    lines += ["Upgrade: h2", "Proxy-Authenticate: Basic", "SET-COOKIE: b=2", "Trailer: X-Sum", "Content-Length: 0"]
    one.upstream(response("200 Fine by me", *lines))
    assert one.answered.first == "HTTP/1.1 200 Fine by me"
    expected = [("server", "x"), ("Set-Cookie", "a=1"), ("SET-COOKIE", "b=2"), ("Trailer", "X-Sum")]
    assert one.answered.fields == [*expected, ("Content-Length", "0")]


@given(st.lists(st.integers(1, 30), max_size=10))
def test_a_chunked_answer_however_it_is_cut(cuts: list[int]) -> None:
    data = CHUNKED + chunks(b"abc", b"d" * 20, trailers="X-Sum: 7\r\nAuthorization: x\r\n")
    one = Conversation().ask(request())
    at = 0
    for size in (*cuts, len(data)):
        if data[at : at + size]:
            one.upstream(data[at : at + size])
        at += size
    assert one.answered.one("Transfer-Encoding") == "chunked"
    assert one.answered.one("Content-Length") is None
    assert one.answered.body.endswith(b"0\r\nX-Sum: 7\r\n\r\n")
    assert one.record.to_client == 23
    assert one.of(Release)
    assert one.closed is None


def test_a_large_answer_is_passed_on_as_it_comes() -> None:
    one = Conversation().ask(request())
    one.upstream(response("200 OK", f"Content-Length: {10**18 - 1}"))
    for _ in range(3):
        assert one.upstream(b"x" * 70_000) == [Send(Side.CLIENT, b"x" * 70_000), SetDeadline(RESPONSE)]
    assert one.closed is None


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_answers_that_have_no_body(status: str) -> None:
    one = Conversation().ask(request())
    one.upstream(response(status, "ETag: x"))
    assert one.answered.fields == [("ETag", "x")]
    assert one.of(Release)
    assert one.deadline == KEEPALIVE


@pytest.mark.parametrize("lines", [("Content-Length: 7",), ("Transfer-Encoding: chunked",), ()])
def test_head_has_no_body(lines: tuple[str, ...]) -> None:
    one = Conversation().ask(request(method="HEAD"))
    one.upstream(response("200 OK", *lines))
    assert one.answered.one("Content-Length") == ("7" if "7" in str(lines) else None)
    assert one.answered.body == b""
    assert one.of(Release)
    assert one.closed is None


def test_304_may_say_a_length() -> None:
    one = Conversation().ask(request())
    one.upstream(response("304 Not Modified", "Content-Length: 7"))
    assert one.answered.one("Content-Length") == "7"
    assert one.of(Release)


def test_204_may_not() -> None:
    """If a body does follow, it is no answer to the next request."""
    one = Conversation().ask(request())
    one.upstream(response("204 No Content", "Content-Length: 7"))
    assert one.answered.one("Content-Length") is None
    assert not one.of(Release)
    assert one.of(HangUp)


EXCESS = sized(b"evil", status="200 Poisoned")


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GET", sized(b"ok")),
        ("GET", CHUNKED + chunks(b"ok")),
        ("HEAD", response("200 OK", "Content-Length: 4")),
        ("GET", response("204 No Content")),
        ("GET", response("304 Not Modified", "Content-Length: 4")),
    ],
)
@pytest.mark.parametrize("excess", [EXCESS, b"\r\n", b"x"])
def test_what_follows_an_answer_is_for_nobody(method: str, answer: bytes, excess: bytes) -> None:
    one = Conversation().ask(request(method=method))
    one.upstream(answer + excess)
    assert b"Poisoned" not in one.sent(Side.CLIENT)
    assert one.answered.body in (b"", b"ok", chunks(b"ok"))
    assert one.of(HangUp)
    assert not one.of(Release)
    assert one.closed is None, "the client's connection is fine"


@pytest.mark.parametrize(
    ("version", "lines", "kept"),
    [
        ("1.1", (), True),
        ("1.1", ("Connection: keep-alive",), True),
        ("1.1", ("Connection: close",), False),
        ("1.1", ("Connection: x, CLOSE",), False),
        ("1.0", (), False),
        ("1.0", ("Connection: keep-alive",), True),
    ],
)
def test_the_upstreams_connection(version: str, lines: tuple[str, ...], kept: bool) -> None:
    one = Conversation().ask(request())
    one.upstream(response("200 OK", *lines, "Content-Length: 0", version=version))
    assert bool(one.of(Release)) is kept
    assert bool(one.of(HangUp)) is not kept
    assert one.answered.first == "HTTP/1.1 200 OK"
    assert one.answered.one("Connection") is None
    assert one.closed is None


@pytest.mark.parametrize("value", ["Negotiate YII=", "NTLM TlRM", "negotiate", "ntlm x", "Negotiate\tYII="])
def test_a_connection_that_was_proven_to_be_somebodys_is_not_shared(value: str) -> None:
    one = Conversation(access(route(client="optional")), nameless())
    one.ask(request("/", f"Authorization: {value}"))
    one.upstream(sized())
    assert one.of(HangUp)
    assert not one.of(Release)


@pytest.mark.parametrize("value", [KEY, "Basic eDp5", "Bearer x"])
def test_a_connection_whose_requests_prove_themselves_is_shared(value: str) -> None:
    one = Conversation(access(route(client="optional")), nameless())
    one.ask(request("/", f"Authorization: {value}"))
    one.upstream(sized())
    assert one.of(Release)


@pytest.mark.parametrize(
    ("version", "lines", "kept", "said"),
    [
        ("1.1", (), True, None),
        ("1.1", ("Connection: close",), False, "close"),
        ("1.1", ("Connection: keep-alive, Close",), False, "close"),
        ("1.0", (), False, "close"),
        ("1.0", ("Connection: keep-alive",), True, "keep-alive"),
    ],
)
def test_the_clients_connection(version: str, lines: tuple[str, ...], kept: bool, said: str | None) -> None:
    one = Conversation().ask(request("/", *lines, version=version))
    assert one.asked.first.endswith("HTTP/1.1")
    one.upstream(sized())
    assert one.answered.one("Connection") == said
    assert (one.closed is None) is kept
    assert one.of(Release)


def test_a_chunked_answer_to_http_1_0() -> None:
    one = Conversation().ask(request("/", "Connection: keep-alive", version="1.0"))
    one.upstream(CHUNKED + chunks(b"abc", b"def", trailers="X-Sum: 7\r\n"))
    assert one.answered.fields == [("Connection", "close")]
    assert one.answered.body == b"abcdef"
    assert one.closed == Close("the last answer was given")
    assert one.of(Release)


@pytest.mark.parametrize("head", [UNTIL_CLOSE, response()])
def test_an_answer_until_close(head: bytes) -> None:
    """Nor is its connection anybody's when it did not say that it would close."""
    one = Conversation().ask(request())
    one.upstream(head + b"abc")
    assert one.answered.one("Transfer-Encoding") == "chunked"
    one.lose(Side.UPSTREAM, orderly=True)
    assert one.answered.body == chunks(b"abc")
    assert one.record.reason is None
    assert one.closed is None
    assert not one.of(Release)


def test_an_answer_until_close_to_http_1_0() -> None:
    one = Conversation().ask(request(version="1.0"))
    one.upstream(UNTIL_CLOSE + b"abc")
    one.lose(Side.UPSTREAM, orderly=True)
    assert one.answered.body == b"abc"
    assert one.closed == Close("the last answer was given")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    ("begun", "orderly"),
    [
        (UNTIL_CLOSE, False),
        (UNTIL_CLOSE + b"abc", False),
        (CHUNKED, True),
        (CHUNKED + b"3\r\nabc\r\n", True),
        (CHUNKED + b"3\r\nab", False),
        (CHUNKED + b"3\r\nabc\r\n0\r\n", True),
        (CHUNKED + b"3\r\nabc\r\n0\r\nX: y\r\n", True),
        (sized(b"abc")[:-1], True),
        (response("200 OK", "Content-Length: 1"), True),
    ],
)
def test_half_an_answer_never_looks_complete(version: str, begun: bytes, orderly: bool) -> None:
    """A client of HTTP/1.0 would take an end in order for the end of the body."""
    one = Conversation().ask(request(version=version))
    one.upstream(begun)
    one.lose(Side.UPSTREAM, orderly=orderly)
    assert one.closed is not None
    assert one.closed.broken
    assert one.closed.farewell == b""
    assert not one.sent(Side.CLIENT).endswith(b"0\r\n\r\n")
    assert one.record.reason == "the upstream ended in the middle of its answer: it broke"
    assert one.record.status == 200


@pytest.mark.parametrize("stalled", [None, Side.CLIENT, Side.UPSTREAM])
def test_an_answer_that_stops_coming_breaks_the_clients_connection(stalled: Side | None) -> None:
    one = Conversation().ask(request())
    one.upstream(sized(b"abc")[:-1])
    one.time_out(stalled)
    assert one.closed is not None
    assert one.closed.broken
    assert one.closed.farewell == b""
    assert one.record.reason


def test_a_broken_chunk_in_the_middle_of_an_answer() -> None:
    one = Conversation().ask(request())
    one.upstream(CHUNKED + b"3\r\nabc\r\n")
    one.upstream(b"zz\r\n")
    assert one.closed is not None
    assert one.closed.broken
    assert not one.of(Release)
    assert not one.sent(Side.CLIENT).endswith(b"0\r\n\r\n")


def test_a_broken_chunk_right_behind_the_head() -> None:
    """The client has heard nothing yet, so it can be told."""
    one = Conversation().ask(request())
    one.upstream(CHUNKED + b"zz\r\n")
    assert one.closed is not None
    assert not one.of(Release)
    assert one.closed.broken or message(one.closed.farewell).status == 502
    assert one.record.status == (502 if one.closed.farewell else 0), "what the client was told"


@pytest.mark.parametrize(
    "answer",
    [
        b"220 smtp.example ESMTP\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.7\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 600 X\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        response("200 OK", "Content-Length: 1", "Content-Length: 2", body=b"x"),
        response("200 OK", "Content-Length: 1", "Content-Length: 1", body=b"x"),
        response("200 OK", "Content-Length: -1"),
        response("200 OK", "Content-Length: 1", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        response("200 OK", "Transfer-Encoding: gzip"),
        response("200 OK", "Transfer-Encoding: chunked", version="1.0", body=b"0\r\n\r\n"),
        response("200 OK", "X: a\r\n b"),
        response("200 OK", "X : a"),
        response("200 OK", "X: a\0"),
        response("200 OK", *(f"X{n}: {n}" for n in range(101))),
        response("200 OK", "X: " + "a" * 32_768),
        response("100 Continue", "Content-Length: 1", body=b"x"),
    ],
)
def test_answers_that_are_none(answer: bytes) -> None:
    one = Conversation().ask(request())
    one.upstream(answer)
    assert one.failed(502).startswith("the upstream's answer: ")
    assert one.answered.said["error"] == "the upstream gave no valid answer"
    assert not one.of(Release)


def test_a_head_that_never_ends() -> None:
    one = Conversation().ask(request())
    one.upstream(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(32):
        if one.closed is None:
            one.upstream(b"a" * 1_024)
    one.failed(502)
    assert one.commands.count(SetDeadline(RESPONSE)) == 1


@given(st.binary(max_size=100))
def test_whatever_an_upstream_says(data: bytes) -> None:
    one = Conversation().ask(request())
    one.upstream(data)
    if one.closed is None:
        one.lose(Side.UPSTREAM)
    assert one.record.status == 502


@pytest.mark.parametrize("orderly", [True, False])
@pytest.mark.parametrize("heard", [b"", b"HTTP/1.1 200 O"])
def test_an_upstream_that_ends_before_its_answer(orderly: bool, heard: bytes) -> None:
    one = Conversation().ask(request())
    if heard:
        one.upstream(heard)
    one.lose(Side.UPSTREAM, orderly=orderly)
    one.failed(502)


def test_an_upstream_that_never_answers() -> None:
    one = Conversation().ask(request())
    one.time_out()
    assert one.failed(504) == "the upstream did not answer in time"


def test_head_gets_no_body_of_ours_either() -> None:
    one = Conversation().ask(request(method="HEAD"))
    one.time_out()
    assert one.answered.status == 504
    assert one.answered.body == b""


def test_a_client_that_does_not_take_the_answer() -> None:
    one = Conversation().ask(request())
    one.upstream(sized(b"abc")[:-1])
    one.time_out(stalled=Side.CLIENT)
    assert one.record.reason == "the client does not take the answer"


# --- pipelining -------------------------------------------------------------------------------------------------------


def test_requests_wait_for_their_turn() -> None:
    one = Conversation()
    one.client(request("/1") + request("/2") + request("/3")[:10])
    for number in (1, 2):
        one.tell(Dialed())
        assert message(one.of(Send)[-1].data).target == f"/{number}"
        one.upstream(sized(b"%d" % number))
    assert one.dials == [FIRST, FIRST]
    assert one.deadline == HEAD, "half of the third is here"
    one.client(request("/3")[10:])
    one.tell(Dialed())
    one.upstream(sized(b"3"))
    assert one.sent(Side.CLIENT) == sized(b"1") + sized(b"2") + sized(b"3")
    assert [record.asked.path for record in one.of(RequestRecord)] == ["/1", "/2", "/3"]
    assert not one.of(Hold)


@pytest.mark.parametrize("dialed", [False, True])
def test_a_client_that_asks_ahead_is_not_read_meanwhile(dialed: bool) -> None:
    one = Conversation()
    one.client(request("/1"))
    if dialed:
        one.tell(Dialed())
    assert one.client(request("/2")) == [Hold()]
    assert one.client(request("/3")) == []
    if not dialed:
        one.tell(Dialed())
    assert b"GET /2 " not in one.sent(Side.UPSTREAM)
    for _ in (2, 3):
        one.upstream(sized())
        one.tell(Dialed())
    one.upstream(sized())
    assert [message(send.data).target for send in one.of(Send) if send.side is Side.UPSTREAM] == ["/1", "/2", "/3"]
    assert not one.held


def test_who_asks_ahead_without_end_does_not_fill_the_memory() -> None:
    """It sends whenever it is read; what waits here is no more than a read and what came with the first request."""
    one = Conversation()
    read = request("/") * 100
    received = 0
    for _ in range(50):
        if not one.held:
            one.client(read)
            received += len(read)
        if one.dials and not one.linked:
            one.tell(Dialed())
        one.upstream(sized())
    answered = len(one.of(RequestRecord)) * len(request("/"))
    assert received - answered <= 3 * len(read)


def test_a_bad_request_behind_a_good_one() -> None:
    one = Conversation()
    one.client(request("/1") + b"GET /2 HTTP/1.1\r\n\r\n" + request("/3"))
    one.tell(Dialed())
    one.upstream(sized())
    assert one.sent(Side.CLIENT).startswith(sized())
    assert one.closed is not None
    assert message(one.closed.farewell).status == 400
    assert [record.status for record in one.of(RequestRecord)] == [200, 400]


def test_nothing_is_answered_behind_the_last_one() -> None:
    one = Conversation()
    one.client(request("/1", "Connection: close") + request("/2"))
    one.tell(Dialed())
    one.upstream(sized())
    assert one.closed == Close("the last answer was given")
    assert one.dials == [FIRST]


def test_a_request_behind_a_body() -> None:
    one = Conversation()
    one.client(POST)
    one.tell(Dialed())
    assert one.client(b"0123456789" + request("/2"))[-1] == Hold()
    assert one.asked.body == b"0123456789"
    one.upstream(sized())
    one.tell(Dialed())
    assert message(one.of(Send)[-1].data).target == "/2"
    assert not one.held


# --- every wait has a deadline, every state its end -------------------------------------------------------------------


def dialing() -> Conversation:
    one = Conversation()
    one.client(request())
    return one


def securing() -> Conversation:
    one = talk(upstream=upstream(mode=TLSMode.VERIFY_FULL))
    one.client(request())
    one.tell(Dialed())
    return one


def again() -> Conversation:
    one = pooled()
    one.client(request())
    one.lose(Side.UPSTREAM)
    return one


def waiting() -> Conversation:
    return Conversation().ask(request())


def reading_the_body() -> Conversation:
    return Conversation().ask(POST)


def reused_with_a_body() -> Conversation:
    one = pooled()
    one.client(POST)
    return one


def answering() -> Conversation:
    one = waiting()
    one.upstream(sized(b"abc")[:-1])
    return one


def answering_and_reading() -> Conversation:
    one = reading_the_body()
    one.upstream(sized(b"abc")[:-1])
    return one


def answering_after_the_body() -> Conversation:
    one = answering_and_reading()
    one.client(b"0123456789")
    return one


STATES: list[tuple[Callable[[], Conversation], float]] = [
    (dialing, CONNECT),
    (securing, CONNECT),
    (again, CONNECT),
    (waiting, RESPONSE),
    (reading_the_body, BODY),
    (reused_with_a_body, BODY),
    (answering, RESPONSE),
    (answering_and_reading, BODY),
    (answering_after_the_body, RESPONSE),
]
EACH = pytest.mark.parametrize("state", [state for state, _ in STATES])


@pytest.mark.parametrize(("state", "seconds"), STATES)
def test_deadlines(state: Callable[[], Conversation], seconds: float) -> None:
    one = state()
    assert one.deadline == seconds
    one.time_out()
    assert one.closed is not None
    assert len(one.of(RequestRecord)) == 1
    assert one.record.reason


@EACH
def test_the_end_in_any_state_leaves_one_record(state: Callable[[], Conversation]) -> None:
    one = state()
    one.clock.now += 3
    one.tell(Ended())
    assert one.record.reason == "the connection was ended"
    assert (one.record.seconds, one.record.decision) == (3.0, "allowed")
    assert one.record.passage.subject is not None
    assert one.tell(Ended()) == []


@EACH
def test_a_client_that_leaves_in_any_state_leaves_one_record(state: Callable[[], Conversation]) -> None:
    one = state()
    one.lose(Side.CLIENT)
    assert one.record.reason == "the client's connection: it broke"
    assert one.closed is not None
    assert not one.of(Release)


OUT_OF_PLACE = [Dialed(), Secured(Side.CLIENT, nameless()), Expired(), Idle(), Opened(CLIENT)]


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (state, event)
        for state, _ in STATES
        for event in OUT_OF_PLACE
        if not (isinstance(event, Dialed) and state in (dialing, again))
    ],
)
def test_what_has_no_place_ends_it(state: Callable[[], Conversation], event: Event) -> None:
    one = state()
    one.tell(event)
    assert one.closed is not None
    assert len(one.of(RequestRecord)) == 1


@pytest.mark.parametrize("event", OUT_OF_PLACE)
def test_what_has_no_place_in_an_answer_breaks_it(event: Event) -> None:
    one = answering()
    one.tell(event)
    assert one.closed is not None
    assert one.closed.broken


def test_nothing_is_asked_behind_an_answer_that_broke() -> None:
    one = answering()
    one.client(request("/2"))
    one.lose(Side.UPSTREAM)
    assert one.closed is not None
    assert one.commands[-1] == one.closed
    assert len(one.of(RequestRecord)) == 1


@EACH
def test_shutdown_waits_for_the_answer_as_long_as_the_grace_period(state: Callable[[], Conversation]) -> None:
    one = state()
    assert one.tell(ShuttingDown()) == [SetDeadline(GRACE)]
    if state in (dialing, securing, again):
        one.tell(Dialed() if state is not securing else Secured(Side.UPSTREAM, TLSFacts("TLSv1.3")))
    begun = bool(one.sent(Side.CLIENT))
    if b"Content-Length: 10" in one.sent(Side.UPSTREAM):
        one.client(b"0123456789")
    one.upstream(b"c" if begun else sized())
    assert one.commands.count(SetDeadline(GRACE)) == 1
    assert one.deadline == GRACE, "nothing moves it"
    assert one.closed is not None
    assert not one.closed.broken
    assert (one.record.status, one.record.reason) == (200, None)
    if not begun:
        assert one.answered.one("Connection") == "close"


@EACH
def test_shutdown_ends_what_is_not_answered_in_time(state: Callable[[], Conversation]) -> None:
    one = state()
    one.tell(ShuttingDown())
    one.time_out()
    assert one.closed is not None
    assert one.record.reason
    assert one.dials in ([FIRST], [])


def test_shutdown_tries_no_further_address_when_time_is_up() -> None:
    one = talk(upstream=upstream(FIRST, SECOND))
    one.client(request())
    one.tell(ShuttingDown())
    one.time_out()
    assert one.failed(503) == "the gateway is shutting down"
    assert one.dials == [FIRST]


def test_shutdown_answers_nothing_that_was_asked_ahead() -> None:
    one = Conversation()
    one.client(request("/1") + request("/2"))
    one.tell(Dialed())
    one.tell(ShuttingDown())
    one.upstream(sized())
    assert one.closed == Close("the last answer was given")
    assert one.dials == [FIRST]


def test_times_are_told_of_the_request_only() -> None:
    one = Conversation()
    one.clock.now = NOW + 50
    one.client(request())
    one.clock.now = NOW + 53
    one.tell(Dialed())
    one.upstream(sized(b"abc")[:-1])
    one.clock.now = NOW + 57
    one.upstream(b"c")
    assert one.record.seconds == 7.0
