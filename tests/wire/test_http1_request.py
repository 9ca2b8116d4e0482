"""Request heads: what is meant is read as it was meant, and what two servers could read in two ways is refused."""

from __future__ import annotations

from ipaddress import IPv6Address
from urllib.parse import urlsplit

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.wire import http1_fields
from gateway.wire.http1 import (
    CHUNKED,
    MAX_FIELDS,
    MAX_HEAD,
    METHODS,
    Refused,
    RequestHead,
    _length,
    claims_identity,
    find_head,
    parse_request,
)
from gateway.wire.http1_fields import HOP_BY_HOP, tokens

# The machine that runs the tests may be busy with something else.
unhurried = settings(deadline=None)

HOST = b"Host: gw.example\r\n"


def request(fields: bytes = b"", line: bytes = b"GET / HTTP/1.1", host: bytes = HOST) -> bytes:
    return line + b"\r\n" + host + fields + b"\r\n"


def refusal(head: bytes) -> Refused | None:
    try:
        parse_request(head)
    except Refused as refused:
        return refused
    return None


def status_of(head: bytes) -> int | None:
    """What a client that sends that gets; None: it is let in."""
    try:
        size = find_head(head)
        if not size:
            return 408
    except Refused as refused:
        return refused.status
    found = refusal(head[:size])
    return found.status if found else None


# --- where a head ends ---------------------------------------------------------------------------------------------


def test_find_head_byte_by_byte() -> None:
    head = request(b"X: a\r\n")
    for size in range(len(head)):
        assert find_head(head[:size]) == 0
    assert find_head(head) == len(head)
    assert find_head(bytearray(head + b"GET / HTTP/1.1\r\n\r\n")) == len(head)


def test_find_head_from_where_the_last_message_ended() -> None:
    first, second = request(), request(b"X: a\r\n")
    both = first + second
    assert find_head(both, len(first)) == len(both)
    assert find_head(both[:-1], len(first)) == 0
    assert find_head(first, len(first)) == 0


def test_find_head_up_to_the_longest() -> None:
    def of(size: int) -> bytes:
        return request(b"X: " + b"a" * (size - len(request(b"X: \r\n"))) + b"\r\n")

    assert len(of(MAX_HEAD)) == MAX_HEAD
    assert find_head(of(MAX_HEAD)) == MAX_HEAD
    assert find_head(b"....." + of(MAX_HEAD), 5) == MAX_HEAD + 5
    assert find_head(of(MAX_HEAD)[:-1]) == 0
    long = of(MAX_HEAD + 1)
    for buffer, start in ((long, 0), (long[:MAX_HEAD], 0), (b"x" * MAX_HEAD, 0), (b"....." + long, 5)):
        with pytest.raises(Refused) as refused:
            find_head(buffer, start)
        assert refused.value.status == 431


def test_a_head_that_ends_in_bare_lf_need_not_be_waited_for() -> None:
    for head in (b"GET / HTTP/1.1\nHost: gw.example\n\n", b"\n", b"GET / HTTP/1.1\r\nHost: gw.example\r\n\n"):
        with pytest.raises(Refused) as refused:
            find_head(head)
        assert refused.value.status == 400
    assert find_head(b"GET / HTTP/1.1\r\n") == 0


# --- what is let in ------------------------------------------------------------------------------------------------


def test_everything_of_a_request() -> None:
    head = (
        b"POST /things/a%2Fb/x;y=1?q=%C3%BC&r=a/b?c HTTP/1.1\r\n"
        b"X-Empty:\r\n"
        b"Host: GW.Example.:8443\r\n"
        b"cOOKIE: a=1; b=2\r\n"
        b"X-Blanks:  \t a \t b\t \r\n"
        b"Connection: X-Private, , Keep-Alive\r\n"
        b"X-Private: 1\r\n"
        b"Content-Length: 007\r\n"
        b"Expect: 100-Continue\r\n"
        b"TE: deflate;q=0.5 ,Trailers\r\n"
        b"Keep-Alive: timeout=5\r\n"
        b"Proxy-Connection: keep-alive\r\n"
        b"Proxy-Authorization: Basic x\r\n"
        b"Upgrade: h2c\r\n"
        b"Trailer: X-Sum\r\n"
        b"Cookie: \xe4\xff\r\n"
        b"\r\n"
    )
    assert parse_request(head) == RequestHead(
        method=b"POST",
        target=b"/things/a%2Fb/x;y=1?q=%C3%BC&r=a/b?c",
        path=b"/things/a%2Fb/x;y=1",
        query=b"q=%C3%BC&r=a/b?c",
        host=b"GW.Example.:8443",
        hostname="gw.example",
        http11=True,
        fields=[
            (b"x-empty", b"X-Empty", b""),
            (b"cookie", b"cOOKIE", b"a=1; b=2"),
            (b"x-blanks", b"X-Blanks", b"a \t b"),
            (b"trailer", b"Trailer", b"X-Sum"),
            (b"cookie", b"Cookie", b"\xe4\xff"),
        ],
        length=7,
        keep_alive=True,
        upgrade=b"",
        expect=True,
        te_trailers=True,
    )


def test_a_plain_request() -> None:
    head = parse_request(request(b"Accept: */*\r\n"))
    assert head == RequestHead(
        b"GET", b"/", b"/", None, b"gw.example", "gw.example", True, [(b"accept", b"Accept", b"*/*")], 0, True, b"",
        False, False,
    )  # fmt: skip


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_that_llhttp_knows(method: bytes) -> None:
    assert parse_request(request(line=method + b" / HTTP/1.1")).method == method


@pytest.mark.parametrize(
    ("line", "host", "target", "path", "query"),
    [
        (b"GET /", b"a", b"/", b"/", None),
        (b"GET /?", b"a", b"/?", b"/", b""),
        (b"GET //x/../y", b"a", b"//x/../y", b"//x/../y", None),
        (b"GET /-._~!$&'()*+,;=:@%20", b"a", b"/-._~!$&'()*+,;=:@%20", b"/-._~!$&'()*+,;=:@%20", None),
        (b"GET /?ids[]={1|2}^`", b"a", b"/?ids[]={1|2}^`", b"/", b"ids[]={1|2}^`"),
        (b"OPTIONS *", b"a", b"*", b"*", None),
        (b"GET https://a/x?y", b"a", b"/x?y", b"/x", b"y"),
        (b"GET HTTPS://A:8443/x", b"a:8443", b"/x", b"/x", None),
        (b"GET https://a", b"a", b"/", b"/", None),
        (b"GET https://a?x", b"a", b"/?x", b"/", b"x"),
        (b"OPTIONS https://a", b"a", b"*", b"*", None),
        (b"OPTIONS https://a/", b"a", b"/", b"/", None),
        (b"\r\nGET /", b"a", b"/", b"/", None),
    ],
)
def test_forms_of_the_target(line: bytes, host: bytes, target: bytes, path: bytes, query: bytes | None) -> None:
    head = parse_request(request(line=line + b" HTTP/1.1", host=b"Host: " + host + b"\r\n"))
    assert (head.target, head.path, head.query, head.host) == (target, path, query, host)


@pytest.mark.parametrize(
    ("host", "hostname"),
    [
        (b"gw.example", "gw.example"),
        (b"GW.EXAMPLE:443", "gw.example"),
        (b"gw.example.", "gw.example"),
        (b"gw.example.:65535", "gw.example"),
        (b"my_service-1", "my_service-1"),
        (b"192.0.2.1:8443", "192.0.2.1"),
        (b"[2001:DB8::1]", "[2001:db8::1]"),
        (b"[::ffff:192.0.2.1]:8443", f"[{IPv6Address('::ffff:192.0.2.1')}]"),
        (b"[0:0:0:0:0:0:0:1]", "[::1]"),
        (b"a" * 255 + b":12345", "a" * 255),
    ],
)
def test_hosts(host: bytes, hostname: str) -> None:
    head = parse_request(request(host=b"Host:" + host + b"\r\n"))
    assert (head.host, head.hostname) == (host, hostname)


@pytest.mark.parametrize(
    ("version", "fields", "keep_alive", "upgrade"),
    [
        (b"1.1", b"", True, b""),
        (b"1.0", b"", False, b""),
        (b"1.1", b"Connection: close\r\n", False, b""),
        (b"1.1", b"Connection: keep-alive\r\nConnection: ,\t CLOSE ,\r\n", False, b""),
        (b"1.0", b"Connection: Keep-Alive\r\n", True, b""),
        (b"1.0", b"Connection: keep-alive, close\r\n", False, b""),
        (b"1.1", b"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n", True, b"websocket"),
        (b"1.1", b"Connection: keep-alive\r\nUpgrade: websocket\r\n", True, b""),
        (b"1.1", b"Upgrade: websocket\r\n", True, b""),
        (b"1.1", b"Connection: not-upgrade\r\nUpgrade: websocket\r\n", True, b""),
        (b"1.1", b"Connection: upgrade\r\n", True, b""),
        (b"1.1", b"Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n", True, b"a,b"),
        (b"1.0", b"Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\n", True, b""),
        (b"1.1", b"Connection:\r\n", True, b""),
        (b"1.1", b"Keep-Alive: timeout=5\r\nProxy-Connection: close\r\n", True, b""),
    ],
)
def test_connection(version: bytes, fields: bytes, keep_alive: bool, upgrade: bytes) -> None:
    head = parse_request(request(fields + b"Accept: x\r\n", b"GET / HTTP/" + version))
    assert (head.keep_alive, head.upgrade, head.http11) == (keep_alive, upgrade, version == b"1.1")
    assert head.fields == [(b"accept", b"Accept", b"x")]


def test_connection_names_no_framing_and_no_host() -> None:
    named = b"Connection: Host, Content-Length, Transfer-Encoding, Authorization, X-Forwarded-For\r\n"
    fields = b"Content-Length: 5\r\nAuthorization: a\r\nAuthorization: b\r\nX-Forwarded-For: c\r\nAccept: d\r\n"
    for head in (request(named + fields, b"POST / HTTP/1.1"), request(fields + named, b"POST / HTTP/1.1")):
        parsed = parse_request(head)
        assert (parsed.length, parsed.host) == (5, b"gw.example")
        assert parsed.fields == [(b"accept", b"Accept", b"d")]
    assert parse_request(request(named + b"Transfer-Encoding: chunked\r\n", b"POST / HTTP/1.1")).length == CHUNKED


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        (b"", 0),
        (b"Content-Length: 0\r\n", 0),
        (b"Content-Length:  5 \r\n", 5),
        (b"content-length: 999999999999999999\r\n", 10**18 - 1),
        (b"Transfer-Encoding: chunked\r\n", CHUNKED),
        (b"TRANSFER-ENCODING:Chunked \r\n", CHUNKED),
        (b"Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 5\r\n", 5),
    ],
)
def test_lengths(fields: bytes, length: int) -> None:
    for method in (b"GET", b"HEAD", b"POST"):
        assert parse_request(request(fields, method + b" / HTTP/1.1")).length == length


@pytest.mark.parametrize(
    ("version", "fields", "expect"),
    [
        (b"1.1", b"Expect: 100-continue\r\nContent-Length: 1\r\n", True),
        (b"1.1", b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", True),
        (b"1.1", b"Expect: 100-continue\r\n", False),
        (b"1.1", b"Content-Length: 1\r\n", False),
        (b"1.0", b"Expect: 100-continue\r\nContent-Length: 1\r\n", False),
        (b"1.0", b"Expect: a miracle\r\nContent-Length: 1\r\n", False),
    ],
)
def test_expect(version: bytes, fields: bytes, expect: bool) -> None:
    assert parse_request(request(fields, b"POST / HTTP/" + version)).expect is expect


@pytest.mark.parametrize(
    ("version", "value", "te_trailers"),
    [(b"1.1", b"trailers", True), (b"1.1", b"x-trailers", False), (b"1.1", b"", False), (b"1.0", b"trailers", False)],
)
def test_te(version: bytes, value: bytes, te_trailers: bool) -> None:
    head = parse_request(request(b"TE: " + value + b"\r\n", b"GET / HTTP/" + version))
    assert head.te_trailers is te_trailers


def test_as_many_fields_as_there_may_be() -> None:
    assert len(parse_request(request(b"X: a\r\n" * (MAX_FIELDS - 1))).fields) == MAX_FIELDS - 1


@pytest.mark.parametrize("blank", [b"", b" ", b"\t", b" \t "])
@pytest.mark.parametrize("value", [b"", b"a", b"a \t b", b"\x80\xff", b'"'])
def test_blanks_around_a_value(blank: bytes, value: bytes) -> None:
    assert parse_request(request(b"X:" + blank + value + blank + b"\r\n")).fields == [(b"x", b"X", value)]


# --- what is not -----------------------------------------------------------------------------------------------------

LINES = [
    (400, b""),
    (400, b"GET"),
    (400, b"GET /"),
    (400, b"GET  / HTTP/1.1"),
    (400, b"GET /  HTTP/1.1"),
    (400, b"GET / HTTP/1.1 "),
    (400, b" GET / HTTP/1.1"),
    (400, b"GET\t/ HTTP/1.1"),
    (400, b"GET /\tHTTP/1.1"),
    (400, b"GET /\x0bHTTP/1.1"),
    (400, b"GET / / HTTP/1.1"),
    (400, b"GET / http/1.1"),
    (400, b"GET / HTTP/1.1x"),
    (400, b"GET / HTTP/01.1"),
    (400, b"GET / HTTP/1.10"),
    (400, b"GET / HTTP/1"),
    (400, b"GET / HTTP/1,1"),
    (400, b"GET / HTTP /1.1"),
    (400, b"GET / RTSP/1.0"),
    (400, b"GET / ICE/1.0"),
    (400, b"GET HTTP/1.1"),
    (400, b"GET  HTTP/1.1"),
    (400, b"\0GET / HTTP/1.1"),
    (400, b"G\0ET / HTTP/1.1"),
    (400, b"G@T / HTTP/1.1"),
    (400, b"GET(x) / HTTP/1.1"),
    (400, b"\nGET / HTTP/1.1"),
    (400, b"\rGET / HTTP/1.1"),
    (400, b"\r\n\r\nGET / HTTP/1.1"),
    (400, b"\r\n\nGET / HTTP/1.1"),
    (400, b"\r\n GET / HTTP/1.1"),
    (400, b"GET / HTTP/1.1\n"),
    (400, b"GET / HTTP/1.1\r"),
    (400, b"GET /\r HTTP/1.1"),
    (400, b"GET /\n HTTP/1.1"),
    (400, b"GET / HTTP/1.1\rX: y"),
    (400, b"GET / HTTP/1.1\nX: y"),
    (505, b"GET / HTTP/0.9"),
    (505, b"GET / HTTP/1.2"),
    (505, b"GET / HTTP/2.0"),
    (505, b"GET / HTTP/3.0"),
    (505, b"PRI * HTTP/2.0"),
    (501, b"PRI * HTTP/1.1"),
    (501, b"PRI / HTTP/1.1"),
    (501, b"CONNECT gw.example:443 HTTP/1.1"),
    (501, b"CONNECT / HTTP/1.1"),
    (501, b"TRACE / HTTP/1.1"),
    (501, b"get / HTTP/1.1"),
    (501, b"Get / HTTP/1.1"),
    (501, b"FOO / HTTP/1.1"),
    (501, b"PLAY / HTTP/1.1"),
    (501, b"GETT / HTTP/1.1"),
    (400, b"GET, / HTTP/1.1"),
    (400, b"GET * HTTP/1.1"),
    (400, b"POST * HTTP/1.1"),
    (400, b"OPTIONS ** HTTP/1.1"),
    (400, b"OPTIONS *?x HTTP/1.1"),
    (400, b"GET gw.example HTTP/1.1"),
    (400, b"GET gw.example:443 HTTP/1.1"),
    (400, b"GET ?x HTTP/1.1"),
    (400, b"GET x HTTP/1.1"),
    (400, b"GET http://gw.example/ HTTP/1.1"),
    (400, b"GET ws://gw.example/ HTTP/1.1"),
    (400, b"GET ftp://gw.example/ HTTP/1.1"),
    (400, b"GET https:/gw.example/ HTTP/1.1"),
    (400, b"GET https:///x HTTP/1.1"),
    (400, b"GET https://other.example/ HTTP/1.1"),
    (400, b"GET https://gw.example:443/ HTTP/1.1"),
    (400, b"GET https://gw.example./ HTTP/1.1"),
    (400, b"GET https://gw.example@other.example/ HTTP/1.1"),
    (400, b"GET https://user@gw.example/ HTTP/1.1"),
    (400, b"GET https://gw.example\\@other.example/ HTTP/1.1"),
    (400, b"GET https://gw.example/#x HTTP/1.1"),
    (400, b"GET https://gw.example#x HTTP/1.1"),
    (400, b"GET https://gw.example/%zz HTTP/1.1"),
    (400, b"GET https://gw.example/|x HTTP/1.1"),
    (400, b'GET https://gw.example?x?"y HTTP/1.1'),
    (400, b"GET /#x HTTP/1.1"),
    (400, b"GET /x?y#z HTTP/1.1"),
    (400, b"GET /%zz HTTP/1.1"),
    (400, b"GET /%1 HTTP/1.1"),
    (400, b"GET /% HTTP/1.1"),
    (400, b"GET /%%20 HTTP/1.1"),
    (400, b"GET /%2 0 HTTP/1.1"),
    (400, b"GET /x?y=%g0 HTTP/1.1"),
    (400, b"GET /%u0041 HTTP/1.1"),
    *[(400, b"GET /a%bb HTTP/1.1" % bytes([c])) for c in b'|"<>\\^`{}[] #\0\t\r\n\x01\x1f\x7f\x80\xff'],
    *[(400, b"GET /?a%bb HTTP/1.1" % bytes([c])) for c in b'"<>\\ #\0\t\r\n\x01\x1f\x7f\x80\xff'],
]


@pytest.mark.parametrize(("status", "line"), LINES)
def test_hostile_request_line(status: int, line: bytes) -> None:
    assert status_of(request(line=line)) == status


HOSTS = [
    b"",
    b"Host:\r\n",
    b"Host: \t \r\n",
    HOST + HOST,
    HOST + b"host: other.example\r\n",
    b"Host: a, b\r\n",
    b"Host: a,b\r\n",
    b"Host: a b\r\n",
    b"Host: user@a\r\n",
    b"Host: user:pass@a\r\n",
    b"Host: a/b\r\n",
    b"Host: a?b\r\n",
    b"Host: a#b\r\n",
    b"Host: a\\b\r\n",
    b"Host: https://a\r\n",
    b"Host: a%2eb\r\n",
    b"Host: a:\r\n",
    b"Host: a:b\r\n",
    b"Host: a:-1\r\n",
    b"Host: a:65536\r\n",
    b"Host: a:000443\r\n",
    b"Host: a:443:443\r\n",
    b"Host: :443\r\n",
    b"Host: .\r\n",
    b"Host: a..\r\n",
    b"Host: a..b\r\n",
    b"Host: .a\r\n",
    b"Host: *\r\n",
    b"Host: a\xffb\r\n",
    b"Host: \xc3\xa4.example\r\n",
    b"Host: a\0b\r\n",
    b"Host: ::1\r\n",
    b"Host: [::1\r\n",
    b"Host: ::1]\r\n",
    b"Host: []\r\n",
    b"Host: [a]\r\n",
    b"Host: [a.b]\r\n",
    b"Host: [1.2.3.4]\r\n",
    b"Host: [::1]x\r\n",
    b"Host: [::1]:\r\n",
    b"Host: [::1%eth0]\r\n",
    b"Host: [::1%25eth0]\r\n",
    b"Host: [::1::2]\r\n",
    b"Host: [v1.a]\r\n",
    b"Host: [[::1]]\r\n",
    b"Host: " + b"a" * 256 + b":12345\r\n",
    b"Host: " + b"a." * 4000 + b"\r\n",
    b"Host : a\r\n",
    b"Host\r\n",
    b"X-Host: a\r\n",
    b"H_ost: a\r\n",
]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_hostile_host(host: bytes, version: bytes) -> None:
    assert status_of(request(line=b"GET / HTTP/" + version, host=host)) == 400


FIELDS = [
    # Where one field ends and the next begins.
    (400, b"X : a\r\n"),
    (400, b"X\t: a\r\n"),
    (400, b" X: a\r\n"),
    (400, b"X: a\r\n b\r\n"),
    (400, b"X: a\r\n\tb\r\n"),
    (400, b"X:\r\n a\r\n"),
    (400, b"X: a\r\n \r\n"),
    (400, b"X: a\nY: b\r\n"),
    (400, b"X: a\n\r\n"),
    (400, b"X: a\rY: b\r\n"),
    (400, b"X: a\r\r\n"),
    (400, b"\rX: a\r\n"),
    (400, b"\nX: a\r\n"),
    (400, b": a\r\n"),
    (400, b"a\r\n"),
    (400, b"X=a\r\n"),
    *[(400, b"X%b: a\r\n" % bytes([c])) for c in b'\0\x01\x7f\x80\xff"(),/;<=>?@[\\]{}'],
    *[(400, b"X: a%bb\r\n" % bytes([c])) for c in (*range(9), *range(10, 32), 127)],
    *[(400, b"X: %b\r\n" % bytes([c])) for c in (*range(9), *range(10, 32), 127)],
    # How long the body is.
    (400, b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
    (400, b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
    (400, b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"),
    (400, b"Transfer-Encoding: chunked\r\nConnection: Content-Length\r\nContent-Length: 5\r\n"),
    (400, b"Content-Length: 5\r\nContent-Length: 5\r\n"),
    (400, b"Content-Length: 5\r\ncontent-length: 6\r\n"),
    (400, b"Content-Length: 5, 5\r\n"),
    (400, b"Content-Length: 5,\r\n"),
    (400, b"Content-Length: 5 5\r\n"),
    (400, b"Content-Length: +5\r\n"),
    (400, b"Content-Length: -5\r\n"),
    (400, b"Content-Length: -0\r\n"),
    (400, b"Content-Length: 0x5\r\n"),
    (400, b"Content-Length: 5_0\r\n"),
    (400, b"Content-Length: 5.0\r\n"),
    (400, b"Content-Length: 5e0\r\n"),
    (400, b"Content-Length: \xb2\r\n"),
    (400, b"Content-Length: \xd9\xa5\r\n"),
    (400, b'Content-Length: "5"\r\n'),
    (400, b"Content-Length: five\r\n"),
    (400, b"Content-Length:\r\n"),
    (400, b"Content-Length: \r\n"),
    (400, b"Content-Length: 5;x\r\n"),
    (400, b"Content-Length: 1000000000000000000\r\n"),
    (400, b"Content-Length: 18446744073709551617\r\n"),
    (400, b"Content-Length: 0000000000000000005\r\n"),
    (400, b"Content-Length : 5\r\n"),
    (400, b"Content-Length:\x0b5\r\n"),
    (400, b"Content-Length: 5\0\r\n"),
    (400, b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
    (400, b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
    (400, b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
    (400, b"Transfer-Encoding: chunked, chunked\r\n"),
    (400, b"Transfer-Encoding: chunked, gzip\r\n"),
    (400, b"Transfer-Encoding: chunked,\r\n"),
    (400, b"Transfer-Encoding: , chunked\r\n"),
    (400, b"Transfer-Encoding: chunked;q=1\r\n"),
    (400, b"Transfer-Encoding: chunked ;\r\n"),
    (400, b"Transfer-Encoding: \x0bchunked\r\n"),
    (400, b"Transfer-Encoding: chun ked\r\n"),
    (400, b'Transfer-Encoding: "chunked"\r\n'),
    (400, b"Transfer-Encoding: chunked\xa0\r\n"),
    (400, b"Transfer-Encoding:\r\n"),
    (400, b"Transfer-Encoding: \r\n"),
    (400, b"Transfer-Encoding : chunked\r\n"),
    (400, b"Transfer-Encoding:\r\n chunked\r\n"),
    (501, b"Transfer-Encoding: gzip, chunked\r\n"),
    (501, b"Transfer-Encoding: gzip\r\n"),
    (501, b"Transfer-Encoding: identity\r\n"),
    (501, b"Transfer-Encoding: xchunked\r\n"),
    (501, b"Transfer-Encoding: chunke\r\n"),
    (501, b"Transfer-Encoding: foo;bar=baz, chunked\r\n"),
    # What else is read.
    (400, b"Connection: close;x\r\n"),
    (400, b"Connection: keep-alive Upgrade\r\n"),
    (400, b"Connection: \xff\r\n"),
    (417, b"Expect: 200-ok\r\n"),
    (417, b"Expect: 100-continue, x\r\n"),
    (417, b"Expect:\r\n"),
    (417, b"Expect: 100-continue\r\nExpect: 100-continue\r\n"),
    (431, b"X: a\r\n" * MAX_FIELDS),
    (431, b"X: " + b"a" * MAX_HEAD + b"\r\n"),
    (431, b"X" * MAX_HEAD + b": a\r\n"),
]


@pytest.mark.parametrize(("status", "fields"), FIELDS)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_hostile_fields(status: int, fields: bytes, method: bytes) -> None:
    line = method + b" / HTTP/1.1"
    assert status_of(request(fields, line)) == status
    assert status_of(request(b"Accept: a\r\n" + fields + b"Cookie: b\r\n", line)) == status


@pytest.mark.parametrize(
    ("status", "ours"),
    [
        (400, {b"content-length": b"5", b"transfer-encoding": b"chunked"}),
        (400, {b"content-length": b"+5"}),
        (400, {b"content-length": b""}),
        (400, {b"transfer-encoding": b""}),
        (400, {b"transfer-encoding": b"chunked,chunked"}),
        (400, {b"transfer-encoding": b"chunked, gzip"}),
        (400, {b"transfer-encoding": b"chunked;a=b, gzip"}),
        (501, {b"transfer-encoding": b"gzip, chunked"}),
    ],
)
def test_framing_is_refused_without_llhttp_too(status: int, ours: dict[bytes, bytes]) -> None:
    """It refuses most of these itself, today; that is not left to it alone."""
    with pytest.raises(Refused) as refused:
        _length(ours, True, 0)
    assert refused.value.status == status


def test_a_missing_host_is_told_as_such() -> None:
    with pytest.raises(Refused, match="no Host"):
        parse_request(request(host=b""))


def test_transfer_encoding_in_http_1_0() -> None:
    assert status_of(request(b"Transfer-Encoding: chunked\r\n", b"POST / HTTP/1.0")) == 400


@pytest.mark.parametrize("after", [b"x", b"\r\n", request(), request(b"Connection: close\r\n"), b"GET /"])
@pytest.mark.parametrize("fields", [b"", b"Connection: close\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n"])
def test_more_than_one_head_is_not_mixed_into_it(fields: bytes, after: bytes) -> None:
    with pytest.raises(Refused):
        parse_request(request(fields) + after)


@pytest.mark.parametrize("size", [0, 1, 2, 16, len(request()) - 1, len(request()) - 2])
def test_less_than_one_head(size: int) -> None:
    with pytest.raises(Refused):
        parse_request(request()[:size])


def test_a_refusal_repeats_nothing_of_the_request() -> None:
    secret = b"5ecret"
    hostile = [line.replace(b"x", secret) for _, line in LINES] + [line + secret for _, line in LINES]
    heads = [request(line=line) for line in hostile] + [request(fields.replace(b"a", secret)) for _, fields in FIELDS]
    heads += [request(host=host.replace(b"a", secret)) for host in HOSTS]
    for refused in filter(None, map(refusal, heads)):
        assert "5ecret" not in repr(refused)
        assert refused.__cause__ is None
        assert refused.__suppress_context__ or refused.__context__ is None


# --- against another parser, and against noise --------------------------------------------------------------------


def by_h11(head: bytes) -> h11.Request:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * MAX_HEAD)
    connection.receive_data(head)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    return event


def origin_form(theirs: h11.Request) -> bytes:
    if not theirs.target.lower().startswith(b"https://"):
        return theirs.target
    parts = urlsplit(theirs.target)
    if theirs.method == b"OPTIONS" and parts.path == b"" and b"?" not in theirs.target:
        return b"*"
    return (parts.path or b"/") + (b"?" + parts.query if b"?" in theirs.target else b"")


def check_against_h11(head: bytes) -> None:
    """A head that is let in means the same to h11."""
    refused = refusal(head)
    if refused:
        assert refused.status in {400, 417, 431, 501, 505}
        return
    ours = parse_request(head)
    theirs = by_h11(head.removeprefix(b"\r\n"))
    fields = [(bytes(name), bytes(value)) for name, value in theirs.headers]
    values = dict(fields)
    named = {option.strip().lower() for name, value in fields if name == b"connection" for option in value.split(b",")}
    assert ours.method == theirs.method
    assert ours.target == origin_form(theirs)
    assert ours.target == ours.path + (b"" if ours.query is None else b"?" + ours.query)
    assert ours.host == values[b"host"]
    assert ours.http11 == (theirs.http_version == b"1.1")
    left_out = HOP_BY_HOP | named
    assert [(name, value) for name, _, value in ours.fields] == [pair for pair in fields if pair[0] not in left_out]
    assert all(name == spelled.lower() for name, spelled, _ in ours.fields)
    assert ours.length == (CHUNKED if b"transfer-encoding" in values else int(values.get(b"content-length", 0)))


GOOD = [
    request(),
    request(b"Content-Length: 12\r\nX-A: b c \r\nAuthorization: Thing 0123\r\n", b"POST /a/b?c=%20d HTTP/1.1"),
    request(b"Transfer-Encoding: chunked\r\nTE: trailers\r\n", b"PUT /a HTTP/1.1"),
    request(b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nX-B:\r\n"),
    request(b"Connection: close, X-C\r\nX-C: d\r\nCookie: e\r\n", b"GET https://gw.example/f?g HTTP/1.0"),
    request(b"Expect: 100-continue\r\nContent-Length: 3\r\n", b"\r\nOPTIONS * HTTP/1.1", b"Host: [::1]:8443\r\n"),
]


@pytest.mark.parametrize("head", GOOD)
def test_h11_agrees(head: bytes) -> None:
    parse_request(head)
    check_against_h11(head)


@pytest.mark.parametrize("head", GOOD)
def test_h11_agrees_whatever_byte_is_changed(head: bytes) -> None:
    """Every byte of every head, taken away or made one of those that mean something."""
    for at in range(len(head)):
        for byte in (
            b"",
            b"\r",
            b"\n",
            b"\r\n",
            b" ",
            b"\t",
            b"\0",
            b":",
            b",",
            b"0",
            b"\x0b",
            b"\xff",
            b"%",
            b"\r\n\r\n",
        ):
            check_against_h11(head[:at] + byte + head[at + 1 :])
            check_against_h11(head[:at] + byte + head[at:])


_PIECES = [
    b"\r\n",
    b"\r",
    b"\n",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\0",
    b"GET",
    b"/",
    b"?",
    b"%41",
    b"https://gw.example",
]
_PIECES += [b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", HOST, b"Host", b"Content-Length", b"Transfer-Encoding", b"chunked"]
_PIECES += [b"Connection", b"close", b"Upgrade", b"websocket", b"Expect", b"100-continue", b"5", b"-", b"x", b"\xe4"]
_NOISE = st.lists(st.sampled_from(_PIECES) | st.binary(max_size=3), max_size=30).map(b"".join)


@unhurried
@given(_NOISE, st.booleans())
@example(b"", True)
def test_nothing_but_refusals_and_what_h11_agrees_with(noise: bytes, begun: bool) -> None:
    head = b"GET / HTTP/1.1\r\n" + HOST + noise if begun else noise
    assert status_of(head) in {None, 400, 408, 417, 431, 501, 505}
    check_against_h11(head)
    check_against_h11(head + b"\r\n\r\n")


@unhurried
@given(st.sampled_from(GOOD), st.data())
def test_nothing_but_refusals_for_cut_and_mixed_heads(head: bytes, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(head)))
        until = data.draw(st.integers(at, min(len(head), at + 10)))
        head = head[:at] + data.draw(_NOISE) + head[until:]
    check_against_h11(head)


# --- who says who is there ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    b"client-cert client-cert-chain client_cert forwarded x-real-ip x_real_ip x-forwarded-for x_forwarded_for"
    b" x-forwarded_proto x-forwarded-client-cert x-forwarded-anything x-client-cert x-client-cert-dn x_client_cert"
    b" x-ssl-client-cert x_ssl_client_verify x-ssl-".split(),
)
def test_fields_that_claim_an_identity(name: bytes) -> None:
    assert claims_identity(name)


@pytest.mark.parametrize("name", b"authorization client-certs x-forward x-client forwarded-for x-sslx accept".split())
def test_fields_that_claim_none(name: bytes) -> None:
    assert not claims_identity(name)


# --- what is remembered --------------------------------------------------------------------------------------------


def test_only_a_short_connection_is_remembered() -> None:
    """Its tokens may be thousands, each an object of its own."""
    remembered = http1_fields._remembered
    remembered.cache_clear()
    many = b",".join(b"%04d" % n for n in range(4_000))
    assert tokens(many) == tokens(many) == set(many.split(b","))
    assert parse_request(request(b"Connection: " + many + b"\r\n")).method == b"GET"
    assert remembered.cache_info().currsize == 0
    assert tokens(b"Close, x") == {b"close", b"x"}
    assert remembered.cache_info().currsize == 1
    for value in (b"a b", b"a," * 200 + b"a b"):
        with pytest.raises(Refused):
            tokens(value)
