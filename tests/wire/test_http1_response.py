"""Response heads: an upstream's faults are told as such, and a body's length is never guessed."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ProtocolError
from gateway.wire.http1 import (
    CHUNKED,
    MAX_FIELDS,
    UNTIL_CLOSE,
    Refused,
    ResponseHead,
    body_length,
    parse_response,
)
from gateway.wire.http1_fields import HOP_BY_HOP

unhurried = settings(deadline=None)


def response(fields: bytes = b"", line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


def test_everything_of_a_response() -> None:
    head = (
        b"HTTP/1.1 206 Partially \xe4\r\n"
        b"Server: x\r\n"
        b"Connection: X-Private, keep-alive\r\n"
        b"X-Private: 1\r\n"
        b"Keep-Alive: timeout=5\r\n"
        b"Proxy-Authenticate: Basic\r\n"
        b"Set-Cookie: a=1 \t\r\n"
        b"sET-cOOKIE: b=2\r\n"
        b"Upgrade: h2c\r\n"
        b"Trailer: X-Sum\r\n"
        b"Content-Length: 7\r\n"
        b"X-Empty:\r\n"
        b"\r\n"
    )
    assert parse_response(head) == ResponseHead(
        status=206,
        reason=b"Partially \xe4",
        http11=True,
        fields=[
            (b"server", b"Server", b"x"),
            (b"set-cookie", b"Set-Cookie", b"a=1"),
            (b"set-cookie", b"sET-cOOKIE", b"b=2"),
            (b"trailer", b"Trailer", b"X-Sum"),
            (b"x-empty", b"X-Empty", b""),
        ],
        length=7,
        keep_alive=True,
        upgrade=b"",
    )


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK"),
        (b"HTTP/1.1 200 ", 200, b""),
        (b"HTTP/1.1 200", 200, b""),
        (b"HTTP/1.0 599 a\tb  c", 599, b"a\tb  c"),
        (b"HTTP/1.1 100 Continue", 100, b"Continue"),
        (b"HTTP/1.1 101 Switching Protocols", 101, b"Switching Protocols"),
        (b"HTTP/1.1 304 Not Modified", 304, b"Not Modified"),
    ],
)
def test_status_lines(line: bytes, status: int, reason: bytes) -> None:
    head = parse_response(response(line=line))
    assert (head.status, head.reason, head.http11) == (status, reason, line[:8] == b"HTTP/1.1")


@pytest.mark.parametrize(
    ("version", "fields", "keep_alive"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: Close\r\n", False),
        (b"1.1", b"Connection: x, ,close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive\r\nConnection: close\r\n", False),
    ],
)
def test_keep_alive(version: bytes, fields: bytes, keep_alive: bool) -> None:
    assert parse_response(response(fields, b"HTTP/" + version + b" 200 OK")).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("line", "fields", "upgrade"),
    [
        (b"HTTP/1.1 101 X", b"Connection: Upgrade\r\nUpgrade: WebSocket\r\n", b"websocket"),
        (b"HTTP/1.1 200 X", b"Connection: Upgrade\r\nUpgrade: WebSocket\r\n", b"websocket"),
        (b"HTTP/1.1 101 X", b"Upgrade: websocket\r\n", b""),
        (b"HTTP/1.1 101 X", b"Connection: upgrade\r\n", b""),
        (b"HTTP/1.0 101 X", b"Connection: upgrade\r\nUpgrade: websocket\r\n", b""),
    ],
)
def test_upgrade(line: bytes, fields: bytes, upgrade: bytes) -> None:
    head = parse_response(response(fields + b"X: a\r\n", line))
    assert head.upgrade == upgrade
    assert head.fields == [(b"x", b"X", b"a")]


# RFC 9112, 6.3: what the fields say, and of which answers they say nothing.
@pytest.mark.parametrize(
    ("fields", "length"),
    [
        (b"", UNTIL_CLOSE),
        (b"Content-Length: 0\r\n", 0),
        (b"Content-Length: 5 \r\n", 5),
        (b"Transfer-Encoding: Chunked\r\n", CHUNKED),
    ],
)
@pytest.mark.parametrize(
    ("method", "status", "body"),
    [
        (b"GET", 200, True),
        (b"POST", 201, True),
        (b"GET", 404, True),
        (b"OPTIONS", 599, True),
        (b"GET", 205, True),
        (b"HEAD", 200, False),
        (b"HEAD", 404, False),
        (b"GET", 204, False),
        (b"GET", 304, False),
        (b"POST", 304, False),
    ],
)
def test_body_length(method: bytes, status: int, body: bool, fields: bytes, length: int) -> None:
    head = parse_response(response(fields, b"HTTP/1.1 %d X" % status))
    assert head.length == length
    assert body_length(head, method) == (length if body else 0)


@pytest.mark.parametrize("status", [100, 101, 102, 103, 199])
def test_interim_responses_have_no_body(status: int) -> None:
    line = b"HTTP/1.1 %d X" % status
    for fields in (b"", b"Content-Length: 0\r\n", b"Link: a\r\n"):
        assert body_length(parse_response(response(fields, line)), b"GET") == 0
    for fields in (b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"):
        with pytest.raises(ProtocolError):
            parse_response(response(fields, line))


@pytest.mark.parametrize("fields", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_204_that_says_it_has_a_body_is_the_last_on_its_connection(fields: bytes) -> None:
    """If one follows, it must not be taken for the next client's answer."""
    head = parse_response(response(fields, b"HTTP/1.1 204 X"))
    assert not head.keep_alive
    assert body_length(head, b"GET") == 0
    assert parse_response(response(b"Content-Length: 0\r\n", b"HTTP/1.1 204 X")).keep_alive
    assert parse_response(response(fields)).keep_alive


BAD_LINES = [
    b"",
    b"HTTP/1.1",
    b"HTTP/1.1 ",
    b"HTTP/1.1 20 OK",
    b"HTTP/1.1 2000 OK",
    b"HTTP/1.1 200OK",
    b"HTTP/1.1  200 OK",
    b"HTTP/1.1\t200 OK",
    b"HTTP/1.1 200\tOK",
    b"HTTP/1.1 099 OK",
    b"HTTP/1.1 000 OK",
    b"HTTP/1.1 600 OK",
    b"HTTP/1.1 999 OK",
    b"HTTP/1.1 -20 OK",
    b"HTTP/1.1 0x2 OK",
    b"HTTP/1.1 200 O\0K",
    b"HTTP/1.1 200 O\x01K",
    b"HTTP/1.1 200 O\x7fK",
    b"HTTP/1.1 200 O\rK",
    b"HTTP/1.1 200 O\nK",
    b"HTTP/1.1 200 OK\n",
    b"HTTP/1.1 200 OK\r",
    b" HTTP/1.1 200 OK",
    b"\r\nHTTP/1.1 200 OK",
    b"\nHTTP/1.1 200 OK",
    b"HTTP/1.2 200 OK",
    b"HTTP/2.0 200 OK",
    b"HTTP/2 200",
    b"HTTP/0.9 200 OK",
    b"http/1.1 200 OK",
    b"ICY 200 OK",
    b"RTSP/1.0 200 OK",
    b"GET / HTTP/1.1",
    b"\x16\x03\x01",
]


@pytest.mark.parametrize("line", BAD_LINES)
def test_bad_status_line(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_response(response(line=line))


BAD_FIELDS = [
    b"X : a\r\n",
    b" X: a\r\n",
    b"X: a\r\n b\r\n",
    b"X: a\nY: b\r\n",
    b"X: a\rY: b\r\n",
    b"X: a\0\r\n",
    b"X: a\x7f\r\n",
    b"X\r\n",
    b": a\r\n",
    b"X(: a\r\n",
    b"X: a\r\n" * (MAX_FIELDS + 1),
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    b"Content-Length: 5\r\nContent-Length: 5\r\n",
    b"Content-Length: 5\r\nContent-Length: 6\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: 0x5\r\n",
    b"Content-Length:\r\n",
    b"Content-Length: 1000000000000000000\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: chunked, gzip\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked;x=y\r\n",
    b"Transfer-Encoding:\r\n",
    b"Connection: a b\r\n",
]


@pytest.mark.parametrize("fields", BAD_FIELDS)
@pytest.mark.parametrize("line", [b"HTTP/1.1 200 OK", b"HTTP/1.0 404 Not Found", b"HTTP/1.1 101 X"])
def test_bad_fields_are_the_upstream_s_fault(fields: bytes, line: bytes) -> None:
    with pytest.raises(ProtocolError) as error:
        parse_response(response(fields, line))
    assert not isinstance(error.value, Refused)


def test_transfer_encoding_in_http_1_0() -> None:
    with pytest.raises(ProtocolError):
        parse_response(response(b"Transfer-Encoding: chunked\r\n", b"HTTP/1.0 200 OK"))


@pytest.mark.parametrize("after", [b"x", b"\r\n", response(), b"HTTP/1.1 200 OK\r\nX: a\r\n"])
def test_more_or_less_than_one_head(after: bytes) -> None:
    for head in (response(b"Content-Length: 0\r\n") + after, response()[:-1], response()[:-2], b""):
        with pytest.raises(ProtocolError):
            parse_response(head)


# --- against another parser ----------------------------------------------------------------------------------------


def check_against_h11(head: bytes) -> None:
    try:
        ours = parse_response(head)
    except Refused:
        raise
    except ProtocolError:
        return
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a"), ("Upgrade", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(head)
    theirs = connection.next_event()
    assert isinstance(theirs, h11.Response | h11.InformationalResponse)
    fields = [(bytes(name), bytes(value)) for name, value in theirs.headers]
    named = {option.strip().lower() for name, value in fields if name == b"connection" for option in value.split(b",")}
    assert ours.status == theirs.status_code
    assert ours.reason == theirs.reason
    assert ours.http11 == (theirs.http_version == b"1.1")
    left_out = HOP_BY_HOP | named
    assert [(name, value) for name, _, value in ours.fields] == [pair for pair in fields if pair[0] not in left_out]
    values = dict(fields)
    told = UNTIL_CLOSE if b"content-length" not in values else int(values[b"content-length"])
    assert ours.length == (CHUNKED if b"transfer-encoding" in values else told)


GOOD = [
    response(),
    response(b"Content-Length: 12\r\nX-A: b c \r\nSet-Cookie: d\r\nset-cookie: e\r\n", b"HTTP/1.1 404 Not Found"),
    response(b"Transfer-Encoding: chunked\r\nConnection: close, X-B\r\nX-B: c\r\n", b"HTTP/1.1 200 "),
    response(b"Connection: Upgrade\r\nUpgrade: websocket\r\nX-C:\r\n", b"HTTP/1.1 101 Switching Protocols"),
    response(b"Connection: keep-alive\r\n", b"HTTP/1.0 599"),
]


@pytest.mark.parametrize("head", GOOD)
def test_h11_agrees_whatever_byte_is_changed(head: bytes) -> None:
    parse_response(head)
    for at in range(len(head)):
        for byte in (b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b"\0", b":", b",", b"0", b"\x0b", b"\xff"):
            check_against_h11(head[:at] + byte + head[at + 1 :])
            check_against_h11(head[:at] + byte + head[at:])


@unhurried
@given(st.sampled_from([b"", *GOOD]), st.data())
def test_nothing_but_protocol_errors(head: bytes, data: st.DataObject) -> None:
    pieces = [b"\r\n", b"\r", b"\n", b" ", b":", b",", b"HTTP/1.1 200 OK\r\n", b"Content-Length", b"Transfer-Encoding"]
    pieces += [b"chunked", b"Connection", b"close", b"Upgrade", b"5", b"x", b"\0"]
    noise = st.lists(st.sampled_from(pieces) | st.binary(max_size=3), max_size=8).map(b"".join)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(head)))
        until = data.draw(st.integers(at, min(len(head), at + 10)))
        head = head[:at] + data.draw(noise) + head[until:]
    check_against_h11(head)
