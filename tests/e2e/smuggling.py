"""Hostile HTTP/1.1 requests, each with what the gateway has to answer: the table of `test_https_smuggling`.

Owns the bytes, all of them written by hand. A request that is refused is followed by nothing; after one that is let
through the marker, which every test sends behind the bytes, has to get an answer of its own.
"""

from __future__ import annotations

from typing import NamedTuple

KEY = "0d9e27a4-the-key-of-a-thing"
MARKER = b"GET /marker HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Case(NamedTuple):
    """statuses: of all final answers, that to the marker included; none where the gateway has to wait for more."""

    name: str
    raw: bytes
    statuses: tuple[int, ...]


def request(line: str, *lines: str, body: bytes = b"", host: str | None = "localhost") -> bytes:
    """Lines end in CRLF; each character is a byte."""
    hosts = [] if host is None else [f"Host: {host}"]
    return "".join(f"{one}\r\n" for one in (line, *hosts, *lines, "")).encode("latin-1") + body


def get(*lines: str, line: str = "GET /a HTTP/1.1", host: str | None = "localhost") -> bytes:
    return request(line, *lines, host=host)


def post(*lines: str, body: bytes = b"", line: str = "POST /a HTTP/1.1") -> bytes:
    return request(line, *lines, body=body)


def chunks(body: bytes, *lines: str) -> bytes:
    return post("Transfer-Encoding: chunked", *lines, body=body)


HIDDEN = get("X-Hidden: yes", line="GET /hidden HTTP/1.1")
WHOLE = b"5\r\nhello\r\n0\r\n\r\n"
OK = (200, 200)


def _cases(group: str, statuses: tuple[int, ...], *cases: tuple[str, bytes]) -> list[Case]:
    return [Case(f"{group}: {name}", raw, statuses) for name, raw in cases]


def _said(lines: list[str]) -> list[tuple[str, bytes]]:
    return [(repr(line), post(line, body=WHOLE)) for line in lines]


LENGTHS = [
    *_cases(
        "length",
        OK,
        ("plain", post("Content-Length: 5", body=b"hello")),
        ("no blank", post("Content-Length:5", body=b"hello")),
        ("blanks around", post("Content-Length: \t 5 \t", body=b"hello")),
        ("leading zeros", post("Content-Length: 000005", body=b"hello")),
        ("in capitals", post("CONTENT-LENGTH: 5", body=b"hello")),
        ("zero", post("Content-Length: 0")),
        ("none for POST", post()),
        ("a request in the body", post(f"Content-Length: {len(HIDDEN)}", body=HIDDEN)),
        ("a request in the body of GET", get(f"Content-Length: {len(HIDDEN)}") + HIDDEN),
        ("chunks in a counted body", post(f"Content-Length: {len(WHOLE)}", body=WHOLE)),
        ("with an underscore", post("Content_Length: 7", "Content-Length: 5", body=b"hello")),
        ("body of DELETE", request("DELETE /a HTTP/1.1", "Content-Length: 5", body=b"hello")),
        ("body of OPTIONS *", request("OPTIONS * HTTP/1.1", "Content-Length: 5", body=b"hello")),
        ("not sent on, but counted", post("Connection: content-length", "Content-Length: 5", body=b"hello")),
    ),
    *_cases(
        "length",
        (400,),
        ("twice", post("Content-Length: 5", "Content-Length: 5", body=b"hello")),
        ("two of them", post("Content-Length: 0", "Content-Length: 5", body=b"hello")),
        ("two, apart", post("Content-Length: 5", "X: y", "content-length: 0", body=b"hello")),
        ("two, and one of Connection's", post("Connection: content-length", "Content-Length: 5", "Content-Length: 0")),
        *(
            (repr(value), post(f"Content-Length: {value}", body=b"hello"))
            for value in (
                "5, 5",
                "5,5",
                "5,0",
                "5,",
                ",5",
                "5 5",
                "+5",
                "-5",
                "-0",
                "0x5",
                "5h",
                "5.0",
                "5e0",
                "5_0",
                "0b1",
                '"5"',
                "5;",
                "5;a=b",
                "five",
                "",
                " ",
                "(5)",
                "\xb5",
                "\xb2",
                "\xd9\xa5",
                "\xa05",
                "9" * 19,
                "18446744073709551621",
                "4294967301" * 2,
                "5\x0b",
                "\x0c5",
                "5\x00",
                "5\x7f",
                "5\r",
                "\r5",
            )
        ),
    ),
    *_cases("length", (505,), ("of HTTP/2", post("Content-Length: 5", body=b"hello", line="POST /a HTTP/2.0"))),
    *_cases(
        "length",
        (),
        ("longer than what comes", post(f"Content-Length: {len(MARKER) + 1}")),
        ("of 18 digits", post(f"Content-Length: {'9' * 18}")),
    ),
]

CODINGS = [
    *_cases(
        "coding",
        OK,
        *((repr(line), post(line, body=WHOLE)) for line in (
            "Transfer-Encoding: chunked", "Transfer-Encoding: CHUNKED", "tRANSFER-eNCODING: cHuNkEd",
            "Transfer-Encoding:chunked", "Transfer-Encoding:\tchunked", "Transfer-Encoding:  chunked \t ",
        )),
        ("of GET", get("Transfer-Encoding: chunked") + WHOLE),
        ("with an underscore", post("Transfer_Encoding: chunked", "Content-Length: 5", body=b"hello")),
        ("another field's", post("X-Transfer-Encoding: chunked", "Content-Length: 5", body=b"hello")),
        ("Connection's, too", chunks(WHOLE, "Connection: Transfer-Encoding")),
        ("a request in a chunk", chunks(b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN))),
        ("TE, too", chunks(WHOLE, "TE: trailers", "Connection: TE")),
    ),
    *_cases(
        "coding",
        (400,),
        ("and a length", post("Transfer-Encoding: chunked", "Content-Length: 5", body=WHOLE)),
        ("after a length", post("Content-Length: 5", "Transfer-Encoding: chunked", body=WHOLE)),
        ("and a length of 0", post("Content-Length: 0", "Transfer-Encoding: chunked", body=WHOLE)),
        ("and a length that is none", post("Content-Length: x", "Transfer-Encoding: chunked", body=WHOLE)),
        ("and the body's length", post(f"Content-Length: {len(WHOLE)}", "Transfer-Encoding: chunked", body=WHOLE)),
        ("unknown, and a length", post("Content-Length: 5", "Transfer-Encoding: gzip", body=b"hello")),
        ("empty, and a length", post("Content-Length: 5", "Transfer-Encoding:", body=b"hello")),
        ("of Connection's, and a length", post("Connection: transfer-encoding", "Content-Length: 5",
                                               "Transfer-Encoding: chunked", body=WHOLE)),
        ("twice", chunks(WHOLE, "Transfer-Encoding: chunked")),
        ("twice, and apart", chunks(WHOLE, "X: y", "transfer-encoding: identity")),
        ("identity first", post("Transfer-Encoding: identity", "Transfer-Encoding: chunked", body=WHOLE)),
        ("of HTTP/1.0", post("Transfer-Encoding: chunked", body=WHOLE, line="POST /a HTTP/1.0")),
        ("of HTTP/1.0, kept", post("Transfer-Encoding: chunked", "Connection: keep-alive", body=WHOLE,
                                   line="POST /a HTTP/1.0")),
        *_said([
            "Transfer-Encoding : chunked", "Transfer-Encoding\t: chunked", "Transfer-Encoding\x0b: chunked",
            "Transfer-Encoding\x00: chunked", "\x00Transfer-Encoding: chunked", " Transfer-Encoding: chunked",
            "\tTransfer-Encoding: chunked", "Transfer-Encoding:\r\n chunked", "Transfer-Encoding:\r\n\tchunked",
            "Transfer-Encoding: chun\r\n ked", "X: y\r\n Transfer-Encoding: chunked",
            "X: y\nTransfer-Encoding: chunked",
            "X: y\rTransfer-Encoding: chunked", "X: y\r\r\nTransfer-Encoding: chunked", "\rTransfer-Encoding: chunked",
            "\nTransfer-Encoding: chunked", "X: y\x00\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\n",
            "Transfer-Encoding: \x00chunked", "Transfer-Encoding: chunked\x00", "Transfer-Encoding: c\x00hunked",
            "Transfer-Encoding: \x0bchunked", "Transfer-Encoding: chunked\x0c", "Transfer-Encoding: chunked\r",
            "Transfer-Encoding: chun ked", "Transfer-Encoding: chunked chunked", "Transfer-Encoding: \xa0chunked",
            "Transfer-Encoding: chun\xe2\x84\xaaed", "Transfer-Encoding: chunked\x85", "Transfer-Encoding:",
            "Transfer-Encoding: ,", "Transfer-Encoding: chunked,", "Transfer-Encoding: ,chunked",
            "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: chunked, gzip", "Transfer-Encoding: chunked;q=1", "Transfer-Encoding: chunked ;a=b",
            'Transfer-Encoding: "chunked"', "Transfer-Encoding: 'chun ked'", "Transfer-Encoding: chunked, ,gzip",
            "Transfer Encoding: chunked", "Transfer-Encoding;: chunked", "Transfer-Encoding = chunked",
            "Transfer-Encoding", "Transfer-Encoding(x): chunked", "Transfer-Encoding\xa0: chunked",
        ]),
    ),
    *_cases(
        "coding",
        (501,),
        *_said([
            "Transfer-Encoding: gzip", "Transfer-Encoding: identity", "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: identity, chunked", "Transfer-Encoding: xchunked", "Transfer-Encoding: chunked-x",
            "Transfer-Encoding: 'chunked'", "Transfer-Encoding: chunke", "Transfer-Encoding: gzip;q=1, chunked",
        ]),
    ),
]  # fmt: skip

CHUNKS = [
    *_cases(
        "chunk",
        OK,
        *((repr(body), chunks(body)) for body in (
            b"0\r\n\r\n", b"000\r\n\r\n", b"005\r\nhello\r\n0\r\n\r\n", b"0000000000000005\r\nhello\r\n0\r\n\r\n",
            b"a\r\n0123456789\r\n0\r\n\r\n", b"A\r\n0123456789\r\n00\r\n\r\n", b"5;a\r\nhello\r\n0\r\n\r\n",
            b"5;a=b\r\nhello\r\n0\r\n\r\n", b'5;a="b;c"\r\nhello\r\n0;z\r\n\r\n', b"5;a;b=c\r\nhello\r\n0;x=y\r\n\r\n",
            b"2\r\n\r\n\r\n0\r\n\r\n", b"5\r\n0\r\n\r\n\r\n0\r\n\r\n",
        )),
        ("a thousand of one byte", chunks(b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n")),
        ("trailers", chunks(b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nx-other:  2 \r\n\r\n", "Trailer: X-Sum")),
        *((f"{name} in the trailers", chunks(b"0\r\n%b\r\nX-Good: yes\r\n\r\n" % name.encode())) for name in (
            "Content-Length: 50", "Transfer-Encoding: chunked", "Host: evil", "Authorization: evil", "Client-Cert: :x:",
            "Client_Cert: :x:", "X-Forwarded-For: evil", "X_Forwarded_Proto: http", "X-SSL-Client-Verify: SUCCESS",
            "Forwarded: for=evil", "Cookie: a=b", "Connection: close", "Connection: x-good", "Trailer: X-Good",
            "TE: trailers", "Upgrade: websocket", "Expect: 100-continue", "Keep-Alive: timeout=1",
            "Proxy-Authorization: evil", "Content-Type: text/evil", "Set-Cookie: a=b", "Range: bytes=0-1",
        )),
    ),
    *_cases(
        "chunk",
        (400,),
        *((repr(body), chunks(body)) for body in (
            b"\r\n", b"\r\n5\r\nhello\r\n0\r\n\r\n", b" 5\r\nhello\r\n0\r\n\r\n", b"5 \r\nhello\r\n0\r\n\r\n",
            b"\t5\r\nhello\r\n0\r\n\r\n", b"+5\r\nhello\r\n0\r\n\r\n", b"-5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n", b"5h\r\nhello\r\n0\r\n\r\n", b"g\r\nhello\r\n0\r\n\r\n",
            b"5_0\r\nhello\r\n0\r\n\r\n", b"5.\r\nhello\r\n0\r\n\r\n", b"\xb5\r\nhello\r\n0\r\n\r\n",
            b"00000000000000005\r\nhello\r\n0\r\n\r\n", b"10000000000000005\r\nhello\r\n0\r\n\r\n",
            b"ffffffffffffffff5\r\nhello\r\n0\r\n\r\n", b"5\nhello\r\n0\r\n\r\n", b"5\rhello\r\n0\r\n\r\n",
            b"5\r\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello\r0\r\n\r\n", b"5\r\nhello0\r\n\r\n",
            b"5\r\nhello!\r\n0\r\n\r\n", b"5\r\nhell\r\n0\r\n\r\n", b"5\r\nhello\r\n\r\n0\r\n\r\n",
            b"5;\r\nhello\r\n0\r\n\r\n", b"5; a=b\r\nhello\r\n0\r\n\r\n", b"5 ;a=b\r\nhello\r\n0\r\n\r\n",
            b"5;a =b\r\nhello\r\n0\r\n\r\n", b"5;a= b\r\nhello\r\n0\r\n\r\n", b"5;=b\r\nhello\r\n0\r\n\r\n",
            b"5;a=\r\nhello\r\n0\r\n\r\n", b"5;a=b \r\nhello\r\n0\r\n\r\n", b"5;a\nb\r\nhello\r\n0\r\n\r\n",
            b"5;a\rb\r\nhello\r\n0\r\n\r\n", b"5;a\x00\r\nhello\r\n0\r\n\r\n", b'5;a="\r\nhello\r\n0\r\n\r\n',
            b'5;a="b\r\n"\r\nhello\r\n0\r\n\r\n', b";a=b\r\nhello\r\n0\r\n\r\n", b"5,5\r\nhello\r\n0\r\n\r\n",
            b"5;a=b,c\r\nhello\r\n0\r\n\r\n", b"5:a\r\nhello\r\n0\r\n\r\n", b"0\n\n", b"0\r\n\n", b"0\n\r\n",
            b"0 \r\n\r\n", b"0\r\n \r\n\r\n", b"-0\r\n\r\n", b"0x0\r\n\r\n", b"0;\r\n\r\n",
            b"0\r\nX: y\n\r\n", b"0\r\nX: y\r\n z\r\n\r\n", b"0\r\n X: y\r\n\r\n", b"0\r\nX : y\r\n\r\n",
            b"0\r\nX\r\n\r\n", b"0\r\n: y\r\n\r\n", b"0\r\nX: y\x00\r\n\r\n", b"0\r\nX: y\rz\r\n\r\n",
            b"0\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"0\r\n",
        )),
        ("too long an extension", chunks(b"5;a=" + b"b" * 300 + b"\r\nhello\r\n0\r\n\r\n")),
        ("extensions without end", chunks(b"1;" + b"a" * 20_000)),
        ("more extensions than data", chunks((b"1;a=" + b"b" * 200 + b"\r\nx\r\n") * 100 + b"0\r\n\r\n")),
        ("too long a size", chunks(b"0" * 20_000)),
        ("too long a trailer", chunks(b"0\r\nX: " + b"y" * 9000 + b"\r\n\r\n")),
    ),
    *_cases("chunk", (200, 400), ("something behind the last", chunks(WHOLE + b"5\r\nhello\r\n0\r\n\r\n"))),
    *_cases("chunk", (431,), ("too many trailers", chunks(b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n"))),
    *_cases(
        "chunk",
        (),
        ("of 2**64 - 1", chunks(b"ffffffffffffffff\r\n")),
        ("longer than what comes", chunks(b"%x\r\n" % (len(MARKER) + 1))),
    ),
]  # fmt: skip

LINES = [
    *_cases(
        "line",
        OK,
        ("an empty one first", b"\r\n" + get()),
        ("no blank after the colon", get("X:y")),
        ("an empty value", get("X:", "Y: ")),
        ("blanks around a value", get("X: \t y \t ")),
        ("a tab in a value", get("X: a\tb")),
        ("Latin-1 and UTF-8 in a value", get("X: \xe9 \xc3\xa9")),
        ("every sign of a token in a name", get("!#$%&'*+-.^_`|~09azAZ: y")),
        ("the same name three times", get("X: 1", "x: 2", "X: 3")),
        ("a line that looks like a request", get("X: GET / HTTP/1.1")),
        ("a colon in a value", get("X: Host: evil")),
        ("99 fields more", get(*(f"X-{number}: y" for number in range(99)))),
        ("as long as may be", get("X: " + "y" * (32_768 - len(get("X: "))))),
    ),
    *_cases(
        "line",
        (400,),
        ("LF alone everywhere", get().replace(b"\r\n", b"\n")),
        ("LF alone after the first", get().replace(b"\r\n", b"\n", 1)),
        ("LF alone after Host", b"GET /a HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n"),
        ("LF alone at the end", b"GET /a HTTP/1.1\r\nHost: localhost\r\n\n"),
        ("LF alone before the end", b"GET /a HTTP/1.1\r\nHost: localhost\n\r\n"),
        ("LF first", b"\n" + get()),
        ("CR first", b"\r" + get()),
        ("two empty ones first", b"\r\n\r\n" + get()),
        ("a blank first", b" " + get()),
        ("a NUL first", b"\0" + get()),
        ("a byte order mark first", b"\xef\xbb\xbf" + get()),
        ("folded", get("X: y\r\n z")),
        ("folded with a tab", get("X: y\r\n\tz")),
        ("folded, nothing but a blank", get("X: y\r\n ")),
        ("folded Host", get("X: y", host="local\r\n host")),
        ("folded first", get(host=None).replace(b"\r\n\r\n", b"\r\n Host: localhost\r\n\r\n")),
        ("CR alone in a value", get("X: a\rb")),
        ("CR alone at a value's end", get("X: a\r")),
        ("CR alone between", get("X: a\rHost: evil")),
        *((f"{bad!r} in a value", get(f"X: a{bad}b")) for bad in "\0\1\x08\x0b\x0c\x1b\x1f\x7f\n"),
        *((f"{bad!r} in a name", get(f"X{bad}Y: z")) for bad in '\0\t\x0b\x0c\r\n\x7f\x80\xff ()<>@,;\\"/[]?={}'),
        ("no name", get(": y")),
        ("no colon", get("X")),
        ("only blanks", get("   ")),
        ("a blank before the colon", get("X : y")),
        ("a tab before the colon", get("X\t: y")),
        ("a blank before a name", get("Y: z", " X: y")),
    ),
    *_cases(
        "line",
        (431,),
        ("100 fields more", get(*(f"X-{number}: y" for number in range(100)))),
        ("10,000 fields", get(*("X: y" for _ in range(10_000)))),
        ("one byte too long", get("X: " + "y" * (32_769 - len(get("X: "))))),
        ("a long target", get(line=f"GET /{'a' * 40_000} HTTP/1.1")),
        ("a long name", get(f"{'X' * 40_000}: y")),
        ("no end", b"GET /a HTTP/1.1\r\nX: " + b"y" * 40_000),
        ("no end of the first", b"G" * 40_000),
        ("empty ones without end", b"GET /a HTTP/1.1\r\n" + b"X:\r\n" * 10_000),
    ),
]  # fmt: skip

FIRST_LINES = [
    *_cases(
        "first line",
        OK,
        *((repr(line), get(line=line)) for line in (
            "OPTIONS * HTTP/1.1", "GET / HTTP/1.1", "GET /a//b HTTP/1.1", "GET /a/ HTTP/1.1", "GET /a;b=c HTTP/1.1",
            "GET /a?b=/../c HTTP/1.1", "GET /a? HTTP/1.1", "GET /a??b HTTP/1.1", "GET /%61 HTTP/1.1",
            "M-SEARCH /a HTTP/1.1",
            "GET https://localhost/a HTTP/1.1", "GET HTTPS://LocalHost/a?b HTTP/1.1", "GET https://localhost HTTP/1.1",
            "GET https://localhost?a HTTP/1.1", "OPTIONS https://localhost HTTP/1.1", "GET /https://evil/ HTTP/1.1",
            "GET /a?b=%0d%0aX:%20y HTTP/1.1", "GET /a?b=%00 HTTP/1.1", "GET /a?b[]=c HTTP/1.1", "GET /a:b@c HTTP/1.1",
        )),
    ),
    *_cases("first line", (200,), ("HTTP/1.0", get(line="GET /a HTTP/1.0"))),
    *_cases(
        "first line",
        (400,),
        *((repr(line), get(line=line)) for line in (
            "", " ", "GET", "GET /a", "GET  /a HTTP/1.1", "GET /a  HTTP/1.1", "GET\t/a HTTP/1.1", "GET /a\tHTTP/1.1",
            "GET /a HTTP/1.1 ", "GET /a HTTP/1.1\t", " GET /a HTTP/1.1", "GET /a HTTP/1.1\r", "GET\x0b/a HTTP/1.1",
            "GET /a\x0cHTTP/1.1", "GET\x00/a HTTP/1.1", "GET /a\x00 HTTP/1.1", "GET /a b HTTP/1.1", "G ET /a HTTP/1.1",
            "GET /a HTTP/1.1 HTTP/1.1", "GET /a HTTP/1.10", "GET /a HTTP/1.1x", "GET /a HTTP/1,1", "GET /a HTTP/1",
            "GET /a HTTP/ 1.1", "GET /a HTTP /1.1", "GET /a HTTP/01.1", "GET /a HTTP/1. 1", "GET /a HTTP/+1.1",
            "GET /a http/1.1", "GET /a HTTPS/1.1", "GET /a HTTP/1.1\rX: y", "GET /a\rX HTTP/1.1", "GET /a\x7f HTTP/1.1",
            "GET /a\xe9 HTTP/1.1", "GET /\xc3\xa9 HTTP/1.1", "G\x00T /a HTTP/1.1", "G\xc9T /a HTTP/1.1",
            "(GET) /a HTTP/1.1",
            "G:T /a HTTP/1.1", "GET a HTTP/1.1", "GET ?a HTTP/1.1", "GET * HTTP/1.1", "POST * HTTP/1.1",
            "GET #a HTTP/1.1",
            "GET /a#b HTTP/1.1", 'GET /" HTTP/1.1', "GET /< HTTP/1.1", "GET /{ HTTP/1.1", "GET /| HTTP/1.1",
            "GET /^ HTTP/1.1", "GET /` HTTP/1.1", "GET /\\ HTTP/1.1", "GET /a\\..\\b HTTP/1.1", "GET /% HTTP/1.1",
            "GET /%4 HTTP/1.1", "GET /%zz HTTP/1.1", "GET /a?% HTTP/1.1", "GET /a?b#c HTTP/1.1", "GET /a?b c HTTP/1.1",
            "GET /a/../b HTTP/1.1", "GET /.. HTTP/1.1", "GET /./a HTTP/1.1", "GET /a/%2e%2e/b HTTP/1.1",
            "GET /a/%252e%252e/b HTTP/1.1", "GET /a/..%2fb HTTP/1.1", "GET /a/..;/b HTTP/1.1", "GET /a%00b HTTP/1.1",
            "GET /a%0d%0aX:%20y HTTP/1.1", "GET /a%5cb HTTP/1.1", "GET /a%c0%afb HTTP/1.1", "GET /a%ff HTTP/1.1",
            "GET //evil/a HTTP/1.1", "GET ///a HTTP/1.1", "GET /%2fevil/a HTTP/1.1", "GET /a%25252525 HTTP/1.1",
            "GET http://localhost/a HTTP/1.1", "GET https://evil/a HTTP/1.1", "GET https://localhost:1/a HTTP/1.1",
            "GET https://a@localhost/a HTTP/1.1", "GET https://localhost@evil/a HTTP/1.1", "GET https:///a HTTP/1.1",
            "GET https:/localhost/a HTTP/1.1", "GET https:localhost/a HTTP/1.1", "GET ftp://localhost/a HTTP/1.1",
            "GET //localhost/a HTTP/1.1", "GET https://localhost#a HTTP/1.1", "GET https://localhost\\a HTTP/1.1",
            "GET https://localhost/a\\b HTTP/1.1", "GET https://localhost//evil/ HTTP/1.1",
            "GET localhost:443 HTTP/1.1",
            "GET localhost HTTP/1.1", "OPTIONS *a HTTP/1.1", "OPTIONS *?a HTTP/1.1", "OPTIONS https://evil HTTP/1.1",
        )),
    ),
    *_cases(
        "first line",
        (501,),
        *((repr(line), get(line=line)) for line in (
            "get /a HTTP/1.1", "Get /a HTTP/1.1", "GETS /a HTTP/1.1", "BREW /a HTTP/1.1", f"{'G' * 5000} /a HTTP/1.1",
            "TRACE /a HTTP/1.1", "CONNECT localhost:443 HTTP/1.1", "CONNECT /a HTTP/1.1", "PRI /a HTTP/1.1",
            "GET! /a HTTP/1.1", "-GET /a HTTP/1.1",
        )),
    ),
    *_cases(
        "first line",
        (505,),
        *((repr(line), get(line=line)) for line in (
            "GET /a HTTP/1.2", "GET /a HTTP/2.0", "GET /a HTTP/0.9", "GET /a HTTP/9.9", "PRI * HTTP/2.0",
        )),
    ),
]  # fmt: skip

HOSTS = [
    *_cases(
        "host",
        OK,
        *((repr(host), get(host=host)) for host in (
            "LOCALHOST", "localhost:443", "localhost:0", "localhost:65535", "localhost.", "LocalHost.:8443",
            " localhost ",
        )),
        ("another field's", get("X-Host: evil", "Hosts: evil", "_Host: evil")),
        ("of Connection's", get("Connection: host")),
    ),
    *_cases(
        "host",
        (400,),
        ("none", get(host=None)),
        ("none in HTTP/1.0", get(host=None, line="GET /a HTTP/1.0")),
        ("only in the target", get(host=None, line="GET https://localhost/a HTTP/1.1")),
        ("twice", get("Host: localhost")),
        ("two", get("Host: evil")),
        ("two, apart", get("X: y", "hOST: evil")),
        ("twice, one of them empty", get("Host:")),
        ("two in HTTP/1.0", get("Host: evil", line="GET /a HTTP/1.0")),
        *((repr(host), get(host=host)) for host in (
            "", " ", ":443", "localhost:", "localhost:65536", "localhost:99999", "localhost:443443", "localhost:4a",
            "localhost:-1", "localhost: 443", "localhost :443", "localhost:443:443", "localhost evil", "localhost,evil",
            "localhost, localhost", "localhost;evil", "evil@localhost", "localhost@evil", "localhost/", "localhost/a",
            "localhost?a", "localhost#a", "localhost\\evil", "localhost%00", "localhos%74", "localhost..", ".localhost",
            ".", "local..host", "local\0host", "localhost\0", "local\x7fhost", "local\thost", "localhost\x0b",
            "l\xf6calhost", "[::1", "::1", "[::1]x", "[localhost]", "[]", "[::g]", "[::1%25lo]",
            "https://localhost", "(localhost)", "localhost'", '"localhost"', "*", "local*", "$host", "localhost\nevil",
            "localhost\r", "a" * 300,
        )),
        ("a blank before the colon", get("Host : localhost", host=None)),
        ("disagrees with the target", get(line="GET https://localhost/a HTTP/1.1", host="localhost:443")),
    ),
    *_cases(
        "host",
        (421,),
        *((repr(host), get(host=host)) for host in (
            "evil", "localhost.evil", "evil.localhost", "127.0.0.1", "[::1]", "localhos", "localhost_", "xn--localhost",
        )),
    ),
    *_cases("host", (200, 421), ("another's in the second request", get() + get(host="evil"))),
]  # fmt: skip

FIELDS = [
    *_cases(
        "field",
        OK,
        *((line, get(line, "X: y")) for line in (
            "Client-Cert: :ZXZpbA==:", "client-cert: evil", "Client_Cert: evil", "CLIENT_CERT: evil",
            "Client-Cert-Chain: evil", "Client_Cert_Chain: evil", "Client-Cert_Chain: evil", "X-Forwarded-For: 6.6.6.6",
            "X_Forwarded_For: 6.6.6.6", "X-Forwarded_For: 6.6.6.6", "x-forwarded-proto: http", "X-Forwarded-Host: evil",
            "X_FORWARDED_HOST: evil", "X-Forwarded-Port: 1", "X-Forwarded-Prefix: /evil",
            "X-Forwarded-Client-Cert: evil", "X_Forwarded-Client_Cert: evil",
            "X-Real-IP: 6.6.6.6", "X_Real_IP: 6.6.6.6", "Forwarded: for=6.6.6.6",
            "X-SSL-Client-Verify: SUCCESS", "X_SSL_CLIENT_S_DN: CN=evil", "X-SSL-CERT: evil", "X-Client-Cert: evil",
            "X_Client_Cert_CN: evil", "X-Client-Certificate: evil", "Proxy-Authorization: Basic evil",
            "Proxy-Connection: keep-alive", "Keep-Alive: timeout=1000, max=1000", "TE: chunked", "TE: trailers",
            "Trailer: Content-Length", "Via: 1.0 evil", "Via: 1.1 securegw", "Proxy: evil", "Upgrade: websocket",
            "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP", "Expect: 100-continue", "Connection: keep-alive",
            "Connection: authorization", "Connection: Client-Cert, X-Forwarded-For, X-Forwarded-Proto, Via",
            "Connection: Host, Content-Length, Transfer-Encoding", "Connection:", "Connection: ,, x ,,",
            "Connection: x", "Connection: upgrade",
            "X-HTTP-Method-Override: DELETE", "X-Original-URL: /evil", "X-Rewrite-URL: /evil", "Content-Encoding: gzip",
            f"Authorization: {KEY}", f"authorization: Bearer {KEY}", f"Authorization: THING  {KEY}",
        )),
        ("all that claims", get("X-Forwarded-For: 1", "X-Forwarded-For: 2", "x_forwarded_for: 3", "Client-Cert: a",
                                "client-cert: b")),
        ("another's key, but Connection's", get("Connection: Authorization", "Authorization: evil")),
        ("Connection twice", get("Connection: a", "A: 1", "B: 2", "Connection: b")),
        ("an upgrade to h2c", get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")),
        ("h2c, with a body", post("Connection: Upgrade", "Upgrade: h2c", "Content-Length: 5", body=b"hello")),
        ("h2c, with chunks", chunks(WHOLE, "Connection: Upgrade", "Upgrade: h2c, websocket")),
        ("Expect, with a body", post("Expect: 100-continue", "Content-Length: 5", body=b"hello")),
        ("Expect, with chunks", chunks(WHOLE, "expect: 100-CONTINUE")),
        ("Expect, and a hidden request", post("Expect: 100-continue", f"Content-Length: {len(HIDDEN)}", body=HIDDEN)),
    ),
    *_cases(
        "field",
        (400,),
        ("Authorization twice", get(f"Authorization: {KEY}", f"Authorization: {KEY}")),
        ("two Authorizations", get(f"Authorization: {KEY}", "Authorization: evil")),
        ("two Authorizations, apart", get(f"Authorization: {KEY}", "X: y", "authorization: evil")),
        *((line, get(line)) for line in (
            "Connection: a b", 'Connection: "close"', "Connection: close; x", "Connection: (x)", "Connection: \xe9",
            "Connection: a/b",
        )),
        ("a WebSocket without a key", get("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                                          f"Authorization: {KEY}")),
        ("a WebSocket with POST", post("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                                       "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")),
        ("a WebSocket with a body", get("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                                        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Content-Length: 5") + b"hello"),
    ),
    *_cases("field", (200,), ("close", get("Connection: close")), ("close, too", get("Connection: x,  CLOSE ,y"))),
    *_cases(
        "field",
        (403,),
        *((line, get(line)) for line in (
            "Authorization: evil", "Authorization:", f"Authorization: {KEY}x", f"Authorization: {KEY[:-1]}",
            f"Authorization: {KEY.upper()}", f"Authorization: Basic {KEY}", f"Authorization: {KEY}, {KEY}",
            f"Authorization: {KEY} {KEY}", f"Authorization: Bearer {KEY}, evil", f"Authorization: Bearer{KEY}",
            f"Authorization: Bearer\t{KEY}", f'Authorization: "{KEY}"', f"Authorization: Bearer Bearer {KEY}",
            "Authorization: Bearer", f"Authorization: {KEY}\xe9",
        )),
        ("a WebSocket without the thing's key", get("Connection: Upgrade", "Upgrade: websocket",
                                                    "Sec-WebSocket-Version: 13",
                                                    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")),
    ),
    *_cases(
        "field",
        (417,),
        *((line, post(line, "Content-Length: 5", body=b"hello")) for line in (
            "Expect: 100-continue, x", "Expect: 200-ok", "Expect:", "Expect: 100-continue\r\nExpect: 100-continue",
        )),
    ),
]  # fmt: skip

PIPELINES = [
    *_cases("pipeline", (200,) * 4, ("three", get() + post("Content-Length: 5", body=b"hello") + chunks(WHOLE))),
    *_cases("pipeline", (200,) * 51, ("fifty", get() * 50)),
    *_cases("pipeline", (200, 200, 200), ("an empty line between", get() + b"\r\n" + get())),
    *_cases("pipeline", (200, 200, 200), ("behind a body of none", post("Content-Length: 0") + HIDDEN)),
    *_cases("pipeline", (200,), ("behind the last", get("Connection: close") + HIDDEN)),
    *_cases("pipeline", (200,), ("behind the last, HTTP/1.0", get(line="GET /a HTTP/1.0") + HIDDEN)),
    *_cases("pipeline", (200, 400), ("a bad one", get() + get("X : y"))),
    *_cases("pipeline", (200, 400), ("a body of no length", post(body=b"5\r\nhello\r\n\r\n"))),
    *_cases("pipeline", (200, 400), ("a bad body", get() + chunks(b"x\r\n"))),
    *_cases("pipeline", (200, 403), ("another's", get() + get("Authorization: evil"))),
    *_cases("pipeline", (200, 400), ("too long a body", post("Content-Length: 4", body=b"hell o "))),
    *_cases("pipeline", (400,), ("behind a refusal", get("X : y") + HIDDEN)),
    *_cases("pipeline", (200,), ("HTTP/2's preface", get("Connection: close") + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
]  # fmt: skip

CASES = [*LENGTHS, *CODINGS, *CHUNKS, *LINES, *FIRST_LINES, *HOSTS, *FIELDS, *PIPELINES]
