"""WebSocket: the handshake as RFC 6455 has it, and a Close only ever between two frames."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, Protocol

from gateway.errors import ProtocolError
from gateway.wire.http1 import Refused, parse_request, parse_response
from gateway.wire.websocket import ServerFrames, accept, check_request, check_response, close_frame

unhurried = settings(deadline=None)

# The example of RFC 6455, 1.3.
KEY, ACCEPT = b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

UPGRADE = {
    b"Host": b"gw.example",
    b"Upgrade": b"websocket",
    b"Connection": b"keep-alive, Upgrade",
    b"Sec-WebSocket-Key": KEY,
    b"Sec-WebSocket-Version": b"13",
}
AGREED = {b"Upgrade": b"websocket", b"Connection": b"Upgrade", b"Sec-WebSocket-Accept": ACCEPT}


def lines(fields: dict[bytes, bytes], more: bytes = b"") -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in fields.items()) + more + b"\r\n"


# --- the handshake -------------------------------------------------------------------------------------------------


def check(fields: dict[bytes, bytes], more: bytes = b"", line: bytes = b"GET /ws HTTP/1.1") -> bytes:
    return check_request(parse_request(line + b"\r\n" + lines(fields, more)))


def test_accept() -> None:
    assert accept(KEY) == ACCEPT


def test_a_handshake() -> None:
    assert check(UPGRADE) == KEY
    assert check(UPGRADE | {b"Upgrade": b"WebSocket", b"Connection": b"UPGRADE"}, b"Content-Length: 0\r\n") == KEY
    # The example of RFC 6455, 4.1, whose last two bits are not zero.
    assert check(UPGRADE | {b"Sec-WebSocket-Key": b"AQIDBAUGBwgJCgsMDQ4PEC=="}) == b"AQIDBAUGBwgJCgsMDQ4PEC=="


@pytest.mark.parametrize(
    ("status", "changed"),
    [
        (400, {b"Upgrade": b"h2c"}),
        (400, {b"Upgrade": b""}),
        (400, {b"Upgrade": b"websocket, h2c"}),
        (400, {b"Upgrade": b"websocket/13"}),
        (400, {b"Connection": b"keep-alive"}),
        (400, {b"Connection": b"close"}),
        (400, {b"Sec-WebSocket-Version": b""}),
        (426, {b"Sec-WebSocket-Version": b"12"}),
        (426, {b"Sec-WebSocket-Version": b"8"}),
        (426, {b"Sec-WebSocket-Version": b"13, 8"}),
        (426, {b"Sec-WebSocket-Version": b"013"}),
        (400, {b"Sec-WebSocket-Key": b""}),
        (400, {b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZQ"}),
        (400, {b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZ==="}),
        (400, {b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZQ=="[4:]}),
        (400, {b"Sec-WebSocket-Key": KEY[1:]}),
        (400, {b"Sec-WebSocket-Key": b"A" + KEY}),
        (400, {b"Sec-WebSocket-Key": b"AAAA" + KEY}),
        (400, {b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25-ZQ=="}),
        (400, {b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZS Bub25jZQ=="}),
        (400, {b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZWE="}),
        (400, {b"Sec-WebSocket-Key": KEY + b", " + KEY}),
    ],
)
def test_no_handshake(status: int, changed: dict[bytes, bytes]) -> None:
    fields = {name: value for name, value in (UPGRADE | changed).items() if value}
    with pytest.raises(Refused) as refused:
        check(fields)
    assert refused.value.status == (400 if b"" in changed.values() else status)


@pytest.mark.parametrize(
    ("line", "more"),
    [
        (b"POST /ws HTTP/1.1", b""),
        (b"HEAD /ws HTTP/1.1", b""),
        (b"GET /ws HTTP/1.0", b""),
        (b"GET /ws HTTP/1.1", b"Content-Length: 1\r\n"),
        (b"GET /ws HTTP/1.1", b"Transfer-Encoding: chunked\r\n"),
        (b"GET /ws HTTP/1.1", b"Upgrade: websocket\r\n"),
        (b"GET /ws HTTP/1.1", b"Sec-WebSocket-Key: " + KEY + b"\r\n"),
        (b"GET /ws HTTP/1.1", b"sec-websocket-version: 13\r\n"),
        (b"GET /ws HTTP/1.1", b"Connection: Sec-WebSocket-Key\r\n"),
    ],
)
def test_no_handshake_around_the_fields(line: bytes, more: bytes) -> None:
    with pytest.raises(Refused) as refused:
        check(UPGRADE, more, line)
    assert refused.value.status == 400


def test_an_agreement() -> None:
    for fields in (AGREED, AGREED | {b"Upgrade": b"WebSocket", b"Connection": b"x, upgrade"}):
        check_response(parse_response(b"HTTP/1.1 101 Switching Protocols\r\n" + lines(fields)), KEY)


@pytest.mark.parametrize(
    ("line", "changed", "more"),
    [
        (b"HTTP/1.1 200 OK", {}, b""),
        (b"HTTP/1.1 100 Continue", {}, b""),
        (b"HTTP/1.0 101 X", {}, b""),
        (b"HTTP/1.1 101 X", {b"Upgrade": b"h2c"}, b""),
        (b"HTTP/1.1 101 X", {b"Connection": b"close"}, b""),
        (b"HTTP/1.1 101 X", {b"Sec-WebSocket-Accept": accept(b"A" * 22 + b"==")}, b""),
        (b"HTTP/1.1 101 X", {b"Sec-WebSocket-Accept": ACCEPT.lower()}, b""),
        (b"HTTP/1.1 101 X", {b"Sec-WebSocket-Accept": KEY}, b""),
        (b"HTTP/1.1 101 X", {b"Sec-WebSocket-Accept": b""}, b""),
        (b"HTTP/1.1 101 X", {b"X": b"y"}, b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n"),
        (b"HTTP/1.1 101 X", {}, b"Connection: Sec-WebSocket-Accept\r\n"),
    ],
)
def test_no_agreement(line: bytes, changed: dict[bytes, bytes], more: bytes) -> None:
    head = parse_response(line + b"\r\n" + lines(AGREED | changed, more))
    with pytest.raises(ProtocolError) as error:
        check_response(head, KEY)
    assert not isinstance(error.value, Refused)


def test_no_accept_at_all() -> None:
    fields = {name: value for name, value in AGREED.items() if name != b"Sec-WebSocket-Accept"}
    with pytest.raises(ProtocolError):
        check_response(parse_response(b"HTTP/1.1 101 X\r\n" + lines(fields)), KEY)


# --- Close ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [b"", b"expired", b"x" * 123])
def test_a_client_understands_our_close(reason: bytes) -> None:
    client = Protocol(CLIENT)
    client.receive_data(close_frame(1008, reason))
    assert client.close_rcvd is not None
    assert (client.close_rcvd.code, client.close_rcvd.reason) == (1008, reason.decode())


def test_a_close_of_more_than_a_control_frame_holds() -> None:
    with pytest.raises(ValueError, match="123"):
        close_frame(1001, b"x" * 124)


# --- the frames of a server ------------------------------------------------------------------------------------------


def frame(payload: bytes, opcode: Opcode = Opcode.BINARY, *, mask: bool = False, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin).serialize(mask=mask)


TEXT, PING = frame(b"hello", Opcode.TEXT), frame(b"", Opcode.PING)
MIDDLE, LONG = frame(b"x" * 1000), frame(b"y" * 70_000)
PIECES = frame(b"a", fin=False) + frame(b"b", Opcode.CONT)
BYE = frame(b"\x03\xe8bye", Opcode.CLOSE)


def feed(frames: ServerFrames, *pieces: bytes) -> ServerFrames:
    for piece in pieces:
        frames.feed(memoryview(piece))
    return frames


def boundaries(*frames: bytes) -> set[int]:
    """After how many bytes of these a frame ends."""
    ends = {0}
    for one in frames:
        ends.add(max(ends) + len(one))
    return ends


def test_it_begins_at_a_boundary() -> None:
    frames = ServerFrames()
    assert frames.boundary
    assert frames.idle
    frames.asked = True
    assert frames.idle


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65_535, 65_536, 200_000])
def test_lengths_of_each_kind(size: int) -> None:
    whole = frame(b"\x81" * size)
    assert feed(ServerFrames(), whole).boundary
    assert not feed(ServerFrames(), whole[:-1]).boundary
    assert not feed(ServerFrames(), whole[:-1]).idle
    assert feed(ServerFrames(), whole[:-1], whole[-1:]).boundary
    assert not feed(ServerFrames(), whole + b"\x82").boundary


def test_cut_in_two_at_every_byte() -> None:
    parts = [TEXT, MIDDLE, PING, *[frame(b"x" * size) for size in (125, 126)], frame(b"y" * 65_536), TEXT]
    stream, ends = b"".join(parts), boundaries(*parts)
    near = {at for end in ends for at in range(end - 3, end + 13) if 0 < at < len(stream)}
    for at in near:
        frames = feed(ServerFrames(), stream[:at])
        assert frames.boundary is (at in ends)
        assert feed(frames, stream[at:]).boundary


def test_byte_by_byte() -> None:
    parts = [TEXT, PING, MIDDLE, PING, frame(b"z" * 300), TEXT]
    frames, ends = ServerFrames(), boundaries(*parts)
    for at, byte in enumerate(b"".join(parts), 1):
        assert feed(frames, bytes([byte])).boundary is (at in ends)


@unhurried
@given(
    st.lists(st.sampled_from([TEXT, PING, MIDDLE, LONG, PIECES]) | st.binary(max_size=300).map(frame), max_size=10),
    st.data(),
)
def test_however_it_is_split(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    ends = boundaries(*parts) | {
        at + 3 for part, at in zip(parts, sorted(boundaries(*parts)), strict=False) if part is PIECES
    }
    places = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=20)) | {0, len(stream)})
    frames = ServerFrames()
    for start, end in pairwise(places):
        rest = memoryview(stream)[start:]
        if start not in ends:
            expected = min(place for place in ends if place > start) - start
            found = frames.seek(rest)
            # A header that is cut in two may say nothing yet; here all of it follows.
            assert found == expected
            assert frames.seek(rest[: expected - 1]) is None
        feed(frames, stream[start:end])
        assert frames.boundary is (end in ends)


def test_seek_in_a_header_that_is_not_complete_yet() -> None:
    frames = feed(ServerFrames(), LONG[:1])
    for size in range(9):
        assert frames.seek(memoryview(LONG)[1 : 1 + size]) is None
    assert frames.seek(memoryview(LONG)[1:]) == len(LONG) - 1
    assert frames.seek(memoryview(LONG + TEXT)[1:]) == len(LONG) - 1
    assert frames.seek(memoryview(LONG)[1:-1]) is None


def test_seek_changes_nothing() -> None:
    frames = feed(ServerFrames(), MIDDLE[:1])
    assert frames.seek(memoryview(MIDDLE)[1:]) == frames.seek(memoryview(MIDDLE)[1:]) == len(MIDDLE) - 1
    assert feed(frames, MIDDLE[1:]).boundary


@pytest.mark.parametrize("before", [b"", TEXT, LONG])
def test_nothing_after_the_server_s_own_close(before: bytes) -> None:
    """A client that was told once must not be told again (RFC 6455, 5.5.1)."""
    stream = before + BYE
    for at in range(max(0, len(before) - 12), len(stream)):
        frames = feed(ServerFrames(), stream[:at], stream[at:])
        assert not frames.boundary
        assert not frames.idle
        assert frames.seek(memoryview(TEXT)) is None
        assert not feed(frames, TEXT).boundary
    for at in range(1, len(BYE)):
        assert feed(ServerFrames(), before, BYE[:at]).seek(memoryview(BYE)[at:]) is None


@pytest.mark.parametrize(
    "broken",
    [
        frame(b"hello", mask=True),
        frame(b"", mask=True),
        b"\x82\x80" + bytes(8),
        frame(b"x" * 1000, mask=True),
        b"\x82\x7f\x80\0\0\0\0\0\0\0",
        b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
    ],
)
def test_what_no_client_may_accept_has_no_end(broken: bytes) -> None:
    for pieces in ([broken], [broken[at : at + 1] for at in range(len(broken))], [TEXT + broken[:2], broken[2:]]):
        frames = feed(ServerFrames(), *pieces)
        for _ in range(3):
            assert not frames.boundary
            assert not feed(frames, TEXT * 10 + bytes(1000)).boundary
    assert feed(ServerFrames(), broken[:1]).seek(memoryview(broken[1:] + bytes(2000))) is None


def test_the_longest_length_is_waited_for() -> None:
    frames = feed(ServerFrames(), b"\x82\x7f\x7f" + b"\xff" * 7)
    assert not feed(frames, TEXT * 10).boundary
    assert frames.seek(memoryview(TEXT)) is None


def test_a_read_full_of_frames_of_64_bytes_is_followed() -> None:
    read = frame(b"x" * 62) * 1024
    assert len(read) == 65_536
    assert feed(ServerFrames(), read).boundary
    assert feed(ServerFrames(), read, read, TEXT).boundary
    assert not feed(ServerFrames(), read, TEXT[:-1]).boundary


def test_a_flood_of_tiny_frames_is_given_up() -> None:
    """Its boundaries would cost more than its bytes; none is better than a wrong one."""
    frames = feed(ServerFrames(), PING * 1025)
    assert not frames.boundary
    assert not feed(frames, TEXT).boundary
    assert frames.seek(memoryview(TEXT)) is None
    assert feed(ServerFrames(), PING * 1024, PING * 1024).boundary


@unhurried
@given(st.lists(st.binary(max_size=30), max_size=20))
def test_anything_at_all(pieces: list[bytes]) -> None:
    frames = ServerFrames()
    for piece in pieces:
        before = frames.boundary
        found = frames.seek(memoryview(piece))
        assert found is None or 0 <= found <= len(piece)
        if before and found is not None:
            assert found == 0
        if found:
            assert feed(frames, piece[:found]).boundary
        feed(frames, piece[found or 0 :])
