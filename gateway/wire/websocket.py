"""WebSocket (RFC 6455): the opening handshake on both of its sides, and where a Close of ours may be put.

Owns the checks of the handshake, the Close frame, and the walk along the headers of an upstream's frames. Refuses every
handshake that is not exactly the RFC's. What is in the frames is the business of the two ends.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha1
from struct import Struct
from typing import Final

from gateway.errors import ProtocolError
from gateway.wire.http1 import Field, Refused, RequestHead, ResponseHead

# RFC 6455, 1.3.
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# RFC 6455, 4.1: the base64 of 16 bytes. Its own example has bits set that padding leaves over, so that may be.
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")
# RFC 6455, 5.5: 125 bytes of payload, two of which are the code.
_MAX_REASON: Final = 123

_CLOSE: Final = 8
_short_at: Final = Struct("!H").unpack_from
_long_at: Final = Struct("!Q").unpack_from
# So many frames are followed in one read. Full of frames of 64 bytes, the longest read (64 KiB) has no more, and is
# followed in some 0.2 ms; shorter ones without end would cost more to follow than to encrypt.
_MAX_WALK: Final = 1_024
# Two bytes, and a length of eight.
_LONGEST_HEADER: Final = 10


def accept(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for that Sec-WebSocket-Key (RFC 6455, 4.2.2)."""
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


def check_request(head: RequestHead) -> bytes:
    """The Sec-WebSocket-Key of a client's opening handshake (RFC 6455, 4.2.1).

    Raises Refused; with 426 the answer has to name version 13 (4.4).
    """
    # Without HTTP/1.1, or without `upgrade` in Connection, the head has no upgrade.
    if head.method != b"GET" or head.length or head.upgrade != b"websocket":
        raise Refused(400, "no WebSocket handshake: it is a GET of HTTP/1.1 with Upgrade: websocket and without a body")
    version = _values(head.fields, b"sec-websocket-version")
    if len(version) != 1:
        raise Refused(400, "not exactly one Sec-WebSocket-Version")
    if version[0] != b"13":
        raise Refused(426, "unknown Sec-WebSocket-Version")
    key = _values(head.fields, b"sec-websocket-key")
    if len(key) != 1 or not _KEY.fullmatch(key[0]):
        raise Refused(400, "not exactly one Sec-WebSocket-Key of 16 bytes")
    return key[0]


def check_response(head: ResponseHead, key: bytes) -> None:
    """ProtocolError unless the upstream has agreed to the handshake with that key (RFC 6455, 4.1)."""
    if head.status != 101 or head.upgrade != b"websocket":
        raise ProtocolError("the upstream did not switch to WebSocket")
    if _values(head.fields, b"sec-websocket-accept") != [accept(key)]:
        raise ProtocolError("the upstream's Sec-WebSocket-Accept is not the answer to the key")


def _values(fields: list[Field], name: bytes) -> list[bytes]:
    return [field[2] for field in fields if field[0] == name]


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """A Close from a server: one frame, not masked (RFC 6455, 5.5.1). reason: UTF-8, at most 123 bytes."""
    if len(reason) > _MAX_REASON:
        raise ValueError("the reason of a Close is longer than 123 bytes")
    return bytes((0x80 | _CLOSE, 2 + len(reason))) + code.to_bytes(2) + reason


class ServerFrames:
    """Follows the headers of an upstream's frames (RFC 6455, 5.2), from the first byte after its 101.

    Exact however the bytes are split. There is no boundary, from then on, after
    - a Close of the upstream's: nobody may send a second one, nor anything else (5.5.1); the two ends finish alone;
    - a masked frame: the client has to fail the connection (5.1), as it has to on a length of more than 63 bits (5.2),
      whose end never comes;
    - more frames in one read than `_MAX_WALK`: unlike a message of PostgreSQL's, the next frame could not be told from
      the bytes in one, so what was lost once is lost.

    asked: as the relay sets it; a WebSocket has no questions and answers.
    """

    __slots__ = ("_head", "_over", "_rest", "asked")

    def __init__(self) -> None:
        self._rest = 0  # bytes still to come of the frame begun last
        self._head = b""  # the beginning of a header that a read cut in two
        self._over = False
        self.asked = False

    @property
    def boundary(self) -> bool:
        return not (self._over or self._rest or self._head)

    @property
    def idle(self) -> bool:
        return self.boundary

    def feed(self, data: memoryview) -> None:
        """The next bytes that the upstream sent, in order."""
        if self._over:
            return
        if self._head:
            data = memoryview(self._head + data)
            self._head = b""
        at, size = self._rest, len(data)
        for _ in range(_MAX_WALK):
            step = _frame_size(data, at, size)
            if step <= 0:
                break
            at += step
        else:
            step = _OVER if at < size else 0
        self._over = step == _OVER
        self._rest = max(0, at - size)
        self._head = bytes(data[at : at + _LONGEST_HEADER])

    def seek(self, data: memoryview) -> int | None:
        """How many of these next bytes complete the frame begun last; None: more than these, or unknown."""
        if self._over:
            return None
        end = self._rest
        if self._head:
            header = memoryview(self._head + data[:_LONGEST_HEADER])
            step = _frame_size(header, 0, len(header))
            if step <= 0:
                return None
            end = step - len(self._head)
        return end if end <= len(data) else None


# No frame of ours may come after this one.
_OVER: Final = -1


def _frame_size(data: memoryview, at: int, size: int) -> int:
    """The bytes of the frame that begins there, header included; 0: its header is not complete."""
    if at + 2 > size:
        return 0
    if data[at] & 0x0F == _CLOSE:
        return _OVER
    length = data[at + 1]
    if length < 126:
        return 2 + length
    if length == 126:
        return 4 + _short_at(data, at + 2)[0] if at + 4 <= size else 0
    if length > 127:
        return _OVER
    return 10 + _long_at(data, at + 2)[0] if at + 10 <= size else 0
