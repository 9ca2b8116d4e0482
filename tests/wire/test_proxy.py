"""The PROXY header: read to its last byte and not one further, and refused where it is not exact."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ProtocolError
from gateway.wire.proxy import BINARY_START, LONGEST_TEXT, MAX_BINARY_BLOCK, ProxyHeader, ProxySource

ADDRESSES4 = socket.inet_aton("192.0.2.7") + socket.inet_aton("198.51.100.1") + b"\xdc\x04\x15\x38"
SOURCE4 = ProxySource("192.0.2.7", 56324)
ADDRESSES6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::7") + socket.inet_pton(socket.AF_INET6, "::1") + b"\xdc\x04\x15\x38"
)
SOURCE6 = ProxySource("2001:db8::7", 56324)
# The machine that runs the tests may be busy with something else.
unhurried = settings(deadline=None)

NEXT = b"\0\0\0\x08\x04\xd2\x16\x2f"


def binary(block: bytes = ADDRESSES4, *, command: int = 0x21, family: int = 0x11, length: int | None = None) -> bytes:
    announced = len(block) if length is None else length
    return BINARY_START + bytes([command, family]) + announced.to_bytes(2) + block


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2) + value


def read(stream: bytes, most: Iterator[int] | None = None) -> tuple[ProxySource, bytes]:
    """As a socket is read: never more than `needs`. The source, and what the next protocol gets."""
    header = ProxyHeader()
    while stream:
        size = min(header.needs, next(most)) if most else header.needs
        assert size > 0
        chunk, stream = stream[:size], stream[size:]
        source = header.feed(chunk)
        if source is not None:
            assert header.needs == 0
            return source, stream
    raise AssertionError("the header did not end")


GOOD = [
    (b"PROXY UNKNOWN\r\n", ProxySource()),
    (b"PROXY UNKNOWN whatever 1.2.3.4 stands here\r\n", ProxySource()),
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 5432\r\n", SOURCE4),
    (b"PROXY TCP4 1.1.1.1 1.1.1.1 0 0\r\n", ProxySource("1.1.1.1", 0)),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ProxySource("255.255.255.255", 65535)),
    (b"PROXY TCP6 2001:db8::7 ::1 56324 5432\r\n", SOURCE6),
    (b"PROXY TCP6 2001:0DB8:0:0:0:0:0:7 :: 56324 5432\r\n", SOURCE6),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 56324 5432\r\n", SOURCE4),
    (b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n", None),
    (binary(), SOURCE4),
    (binary(ADDRESSES6, family=0x21), SOURCE6),
    (binary(b"\0" * 10 + b"\xff\xff\xc0\0\x02\x07" + ADDRESSES6[16:], family=0x21), SOURCE4),
    (binary(ADDRESSES4 + tlv(0x04, b"") + tlv(0x02, b"db.example") + tlv(0xEA, b"x" * 300)), SOURCE4),
    (binary(ADDRESSES4 + tlv(0x04, bytes(MAX_BINARY_BLOCK - 12 - 3))), SOURCE4),
    (binary(b"", command=0x20, family=0x00), ProxySource()),
    (binary(ADDRESSES4, command=0x20), ProxySource()),
    (binary(b"health", command=0x20, family=0x31), ProxySource()),
    (binary(b"", family=0x00), ProxySource()),
    (binary(tlv(0x02, b"db.example"), family=0x00), ProxySource()),
]


@pytest.mark.parametrize(("header", "source"), GOOD)
def test_header_whole_and_byte_by_byte(header: bytes, source: ProxySource | None) -> None:
    expected = source or ProxySource(":".join(["ffff"] * 8), 65535)
    assert read(header + NEXT) == (expected, NEXT)
    assert read(header + NEXT, iter(lambda: 1, 0)) == (expected, NEXT)


@unhurried
@given(st.sampled_from(GOOD), st.lists(st.integers(1, 40), min_size=LONGEST_TEXT), st.binary())
def test_header_however_it_is_split(good: tuple[bytes, ProxySource], sizes: list[int], after: bytes) -> None:
    sizes += [MAX_BINARY_BLOCK] * LONGEST_TEXT
    assert read(good[0] + after, iter(sizes)) == read(good[0] + after)
    assert read(good[0] + after)[1] == after


@pytest.mark.parametrize(
    "stream",
    [
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\x16\x03\x01\x02\0",
        b"GET / HTTP/1.1\r\n",
        b"proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY\r\n",
        b"PROXYTCP4 1.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY  TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY TCP4\r\n1.1.1.1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1 \r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1  1 1\r\n",
        b"PROXY TCP4\t1.1.1.1\t1.1.1.1\t1\t1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 65536 1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1 00\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 -1 1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.1 1_0 1\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 \u0661 1\r\n".encode(),
        b"PROXY TCP4 01.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY TCP4 1.1.1.1 1.1.1.01 1 1\r\n",
        b"PROXY TCP4 256.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY TCP4 1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY TCP4 0x1.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY TCP4 127.1 1.1.1.1 1 1\r\n",
        b"PROXY TCP4 ::1 ::1 1 1\r\n",
        b"PROXY TCP4 1.1.1.1 ::1 1 1\r\n",
        b"PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY TCP6 ::1 1.1.1.1 1 1\r\n",
        b"PROXY TCP6 ::1::2 ::1 1 1\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n",
        b"PROXY TCP6 [::1] ::1 1 1\r\n",
        b"PROXY TCP6 00001:: ::1 1 1\r\n",
        b"PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n",
        b"PROXY UNIX /var/run/x /var/run/y 1 1\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY UNKNOWN \0\r\n",
        b"PROXY UNKNOWN a\rb\r\n",
        b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n",
        binary(command=0x11),
        binary(command=0x31),
        binary(command=0x22),
        binary(command=0x2F),
        binary(command=0x00),
        binary(family=0x12),
        binary(ADDRESSES6, family=0x22),
        binary(bytes(216), family=0x31),
        binary(bytes(216), family=0x32),
        binary(family=0x10),
        binary(family=0x01),
        binary(family=0x41),
        binary(ADDRESSES4[:-1]),
        binary(ADDRESSES4, family=0x21),
        binary(b""),
        binary(ADDRESSES4 + b"\x04"),
        binary(ADDRESSES4 + b"\x04\0"),
        binary(ADDRESSES4 + b"\x04\0\x01"),
        binary(ADDRESSES4 + tlv(0x04, b"abc")[:-1]),
        binary(ADDRESSES4 + tlv(0x04, b"") + b"\0"),
        binary(b"\x04\0\x09", family=0x00),
        binary(length=MAX_BINARY_BLOCK + 1),
        binary(length=65535, command=0x20),
        BINARY_START[:-1] + b"\r" + bytes(20),
    ],
)
def test_bad_headers(stream: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(stream)


@pytest.mark.parametrize("stream", [b"G", b"\x16", b"PROXX", b"\r\n\r\n\n"])
def test_another_protocol_is_refused_at_its_first_wrong_byte(stream: bytes) -> None:
    header = ProxyHeader()
    assert header.feed(stream[:-1]) is None
    with pytest.raises(ProtocolError):
        header.feed(stream[-1:])


def test_longest_line() -> None:
    start, end = b"PROXY UNKNOWN ", b"\r\n"
    fits = start + b"x" * (LONGEST_TEXT - len(start + end)) + end
    assert read(fits + NEXT) == (ProxySource(), NEXT)
    with pytest.raises(ProtocolError):
        read(start + b"x" + fits[len(start) :])


def test_announced_length_is_refused_before_its_bytes_are_waited_for() -> None:
    header = ProxyHeader()
    stream = binary(length=MAX_BINARY_BLOCK + 1)
    assert header.feed(stream[:15]) is None
    with pytest.raises(ProtocolError):
        header.feed(stream[15:16])


def test_more_than_needed_is_the_callers_error() -> None:
    header = ProxyHeader()
    with pytest.raises(ValueError, match="more bytes"):
        header.feed(b"PROXY UNKNOWN\r\n" + NEXT)
    assert header.feed(b"PROXY UNKNOWN\r\n") == ProxySource()
    with pytest.raises(ValueError, match="more bytes"):
        header.feed(NEXT[:1])


def test_nothing_more_after_a_refusal() -> None:
    header = ProxyHeader()
    with pytest.raises(ProtocolError):
        header.feed(b"GET")
    assert header.needs == 0


@unhurried
@given(
    st.binary()
    | st.binary().map(lambda rest: b"PROXY TCP4 " + rest)
    | st.text("0123456789.:abcdef \r\n").map(lambda rest: b"PROXY TCP6 " + rest.encode())
    | st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=80)).map(
        lambda drawn: binary(drawn[2], command=drawn[0], family=drawn[1])
    )
    | st.tuples(st.sampled_from([0x11, 0x21]), st.binary(min_size=12, max_size=80)).map(
        lambda drawn: binary(drawn[1], family=drawn[0])
    )
)
def test_never_anything_but_protocol_error(stream: bytes) -> None:
    header = ProxyHeader()
    with suppress(ProtocolError):
        while stream and header.needs:
            chunk, stream = stream[: header.needs], stream[header.needs :]
            assert header.feed(chunk) is None or header.needs == 0
