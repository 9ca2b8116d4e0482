"""A WebSocket client's frames, made by hand (RFC 6455, 5.2)."""

from __future__ import annotations

from struct import pack

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x12\x34\x56\x78"


def masked(data: bytes, mask: bytes = MASK) -> bytes:
    return bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, mask: bytes = MASK, bits: int = 0) -> bytes:
    size = len(data)
    if size < 126:
        length = bytes((0x80 | size,))
    elif size < 0x10000:
        length = pack("!BH", 0x80 | 126, size)
    else:
        length = pack("!BQ", 0x80 | 127, size)
    return bytes((0x80 * fin | bits | opcode,)) + length + mask + masked(data, mask)
