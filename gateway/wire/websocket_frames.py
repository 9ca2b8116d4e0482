"""WebSocket frames (RFC 6455, 5) where the gateway itself is the server: a client's bytes → messages, and back.

Owns the framing in both directions and the joining of fragments. Refuses, with the code of the Close that is due, every
frame that a client may not send: not masked, with reserved bits or opcodes, of a length that is written longer than it
needs to be, fragments out of order, text that is not UTF-8, and a message that is longer than it may be, before any of
it is kept.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from gateway.errors import ProtocolError

# RFC 6455, 7.4.1.
PROTOCOL_ERROR: Final = 1002
NOT_UTF8: Final = 1007
TOO_BIG: Final = 1009

# RFC 6455, 5.2.
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_FINAL: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_CONTROL: Final = 0x08
_OPCODES: Final = frozenset((_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG))
# RFC 6455, 5.5.
_MAX_CONTROL: Final = 125

_short: Final = Struct("!BBH").pack
_long: Final = Struct("!BBQ").pack


class FrameError(ProtocolError):
    """The client has to hear a Close with `code`; the text may be its reason."""

    def __init__(self, reason: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.code = code


class Piece(NamedTuple):
    """The next bytes of a message, perhaps none. final: the last ones."""

    text: bool
    data: bytes
    final: bool

    def __repr__(self) -> str:
        return f"Piece(text={self.text}, size={len(self.data)}, final={self.final})"


class Message(NamedTuple):
    """All of a message. Text is UTF-8."""

    text: bool
    data: bytes

    def __repr__(self) -> str:
        return f"Message(text={self.text}, size={len(self.data)})"


class Ping(NamedTuple):
    data: bytes


class Pong(NamedTuple):
    data: bytes


class Closing(NamedTuple):
    """code: None where the client has said none (RFC 6455, 7.1.5)."""

    code: int | None
    reason: str


Control = Ping | Pong | Closing


class ClientFrames:
    """`receive` bytes, then ask for the `next` frame until there is none. limit: bytes of a message, None for no limit:
    where its pieces are passed on and none is kept."""

    __slots__ = ("_at", "_closed", "_data", "_final", "_left", "_limit", "_mask", "_size", "_text")

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._data = b""
        self._at = 0  # what stands before it was read
        self._left = 0  # bytes still to come of the data frame begun last
        self._mask = b""  # as it applies to the next of them
        self._final = False
        self._text: bool | None = None  # of the message begun last; None: it is complete
        self._size = 0  # of that message, so far
        self._closed = False

    def receive(self, data: bytes) -> None:
        self._data = self._data[self._at :] + data if self._at < len(self._data) else data
        self._at = 0

    def next(self) -> Piece | Control | None:
        """None: more bytes please. Nothing is read after a Close (RFC 6455, 5.5.1). Raises FrameError."""
        if self._left:
            return self._more()
        data, at = self._data, self._at
        if self._closed or len(data) < at + 2:
            return None
        first, second = data[at], data[at + 1]
        opcode = first & 0x0F
        self._check(first, second, opcode)
        found = self._length(second & 0x7F, at + 2)
        if found is None:
            return None
        length, at = found
        if not opcode & _CONTROL and self._limit is not None and self._size + length > self._limit:
            raise FrameError("a message is too big", TOO_BIG)
        start = at + 4
        if len(data) < start + (length if opcode & _CONTROL else 0):
            return None
        self._mask = data[at:start]
        self._at = start
        if opcode & _CONTROL:
            self._at += length
            return self._control(opcode, _unmasked(data[start : start + length], self._mask))
        if opcode != _CONTINUATION:
            self._text = opcode == _TEXT
        self._final, self._left = bool(first & _FINAL), length
        self._size += length
        return self._more() if length else self._piece(b"")

    def _check(self, first: int, second: int, opcode: int) -> None:
        """RFC 6455, 5.1, 5.2, 5.4, 5.5."""
        if first & _RESERVED:
            raise FrameError("reserved bits are set")
        if opcode not in _OPCODES:
            raise FrameError("unknown opcode")
        if not second & _MASKED:
            raise FrameError("a frame is not masked")
        if opcode & _CONTROL:
            if not first & _FINAL or second & 0x7F > _MAX_CONTROL:
                raise FrameError("a control frame in fragments, or too long")
        elif (opcode == _CONTINUATION) is (self._text is None):
            raise FrameError("fragments out of order")

    def _length(self, length: int, at: int) -> tuple[int, int] | None:
        """And where it ends; None: it does not yet. It is written as short as it can be (RFC 6455, 5.2)."""
        if length < 126:
            return length, at
        end = at + (2 if length == 126 else 8)
        if len(self._data) < end:
            return None
        value = int.from_bytes(self._data[at:end])
        if value < 126 or (length == 127 and not 0xFFFF < value < 1 << 63):
            raise FrameError("a length that is longer than it needs to be")
        return value, end

    def _more(self) -> Piece | None:
        """What is here of a data frame's payload; None: nothing."""
        data = self._data[self._at : self._at + self._left]
        if not data:
            return None
        mask, size = self._mask, len(data)
        self._at += size
        self._left -= size
        turned = size & 3
        self._mask = mask[turned:] + mask[:turned]
        return self._piece(_unmasked(data, mask))

    def _piece(self, data: bytes) -> Piece:
        text, final = bool(self._text), self._final and not self._left
        if final:
            self._text, self._size = None, 0
        return Piece(text, data, final)

    def _control(self, opcode: int, data: bytes) -> Control:
        if opcode == _PING:
            return Ping(data)
        if opcode == _PONG:
            return Pong(data)
        self._closed = True
        return _closing(data)


class ClientMessages:
    """The same, message by message. limit: bytes of one."""

    __slots__ = ("_frames", "_gathered")

    def __init__(self, limit: int) -> None:
        self._frames = ClientFrames(limit)
        self._gathered = bytearray()

    def receive(self, data: bytes) -> None:
        self._frames.receive(data)

    def next(self) -> Message | Control | None:
        """As of `ClientFrames`. A control frame may come between the fragments of a message (RFC 6455, 5.4)."""
        while (frame := self._frames.next()) is not None:
            if not isinstance(frame, Piece):
                return frame
            if frame.final:
                return self._message(frame)
            self._gathered += frame.data
        return None

    def _message(self, last: Piece) -> Message:
        data = last.data
        if self._gathered:
            data = bytes(self._gathered) + data
            self._gathered.clear()
        if last.text and not is_text(data):
            raise FrameError("text that is not UTF-8", NOT_UTF8)
        return Message(last.text, data)


def is_text(data: bytes) -> bool:
    """Whether it can be a text frame (RFC 6455, 5.6)."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _unmasked(data: bytes, mask: bytes) -> bytes:
    """RFC 6455, 5.3. One operation on two long numbers is what Python is fast at."""
    size = len(data)
    repeated = mask * (size + 3 >> 2)
    return (int.from_bytes(data) ^ int.from_bytes(repeated[:size])).to_bytes(size)


def _closing(data: bytes) -> Closing:
    """RFC 6455, 5.5.1 and 7.4."""
    if not data:
        return Closing(None, "")
    code = int.from_bytes(data[:2])
    # 7.4.1 and IANA's registry: 1004 to 1006 and 1015 are never sent; from 3000 on they are applications' own.
    known = 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
    if len(data) == 1 or not known:
        raise FrameError("a Close with no valid code")
    if not is_text(data[2:]):
        raise FrameError("the reason of a Close is not UTF-8", NOT_UTF8)
    return Closing(code, data[2:].decode("utf-8"))


# --- a server's frames -----------------------------------------------------------------------------------------------


def text_frame(data: bytes) -> bytes:
    """data: UTF-8."""
    return _frame(_TEXT, data)


def binary_frame(data: bytes) -> bytes:
    return _frame(_BINARY, data)


def ping_frame(data: bytes = b"") -> bytes:
    """data: at most 125 bytes."""
    return _frame(_PING, data)


def pong_frame(data: bytes) -> bytes:
    """data: that of the Ping."""
    return _frame(_PONG, data)


def _frame(opcode: int, data: bytes) -> bytes:
    """One frame, not masked (RFC 6455, 5.1)."""
    size, first = len(data), _FINAL | opcode
    if size < 126:
        return bytes((first, size)) + data
    if size < 0x10000:
        return _short(first, 126, size) + data
    return _long(first, 127, size) + data
