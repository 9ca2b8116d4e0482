"""The data types that MQTT's packets are made of (MQTT-1.5): integers, strings, binary data, variable byte integers.

Owns one strict reading of each and its writing. Refuses what reaches beyond its packet, text that is not well-formed
UTF-8 or has a NUL in it, and integers that are written longer than they need to be.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from gateway.wire.mqtt_packets import Malformed, Reason

Data = bytes | bytearray | memoryview

# MQTT-1.5.5: four bytes of seven bits each.
MAX_VARIABLE: Final = 268_435_455
_MAX_VARIABLE_BYTES: Final = 4
# MQTT-1.5.4 and 1.5.6: the length is two bytes.
MAX_LENGTH: Final = 65_535

_short: Final = Struct("!H")
_long: Final = Struct("!I")


def variable_at(data: Data, position: int, end: int) -> tuple[int, int] | None:
    """A variable byte integer and where it ends; None: it does not end before `end`.

    Raises Malformed as soon as it is known to be longer than four bytes, or than it needs to be (MQTT-1.5.5-1).
    """
    # One byte, or two, is what there nearly always is.
    if position < end and (low := data[position]) < 0x80:
        return low, position + 1
    if position + 1 < end and 0 < (high := data[position + 1]) < 0x80:
        return low & 0x7F | high << 7, position + 2
    return _longer_variable_at(data, position, end)


def _longer_variable_at(data: Data, position: int, end: int) -> tuple[int, int] | None:
    value = 0
    for index, at in enumerate(range(position, min(position + _MAX_VARIABLE_BYTES, end))):
        byte = data[at]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if not byte:
                raise Malformed("a variable byte integer is longer than it needs to be")
            return value, at + 1
    if position + _MAX_VARIABLE_BYTES <= end:
        raise Malformed("a variable byte integer of more than four bytes")
    return None


def text_of(data: Data) -> str:
    """A UTF-8 encoded string without its length (MQTT-1.5.4). Raises Malformed."""
    try:
        # Python's decoder takes no surrogates and no overlong forms, and keeps U+FEFF (MQTT-1.5.4-1 and -3).
        text = str(data, "utf-8")
    except UnicodeDecodeError:
        raise Malformed("a string is not UTF-8") from None
    # MQTT-1.5.4-2.
    if "\0" in text:
        raise Malformed("a string has a NUL in it")
    return text


def packet_id_at(data: Data, position: int, end: int) -> int:
    """MQTT-2.2.1: two bytes, and not zero. Raises Malformed."""
    if position + 2 > end:
        raise Malformed("a field reaches beyond its packet")
    value = data[position] << 8 | data[position + 1]
    if not value:
        raise Malformed("the packet identifier is zero", Reason.PROTOCOL_ERROR)
    return value


class Reader:
    """Reads the fields of one packet, or of a part of it, from `at` up to `end`. Everything raises Malformed."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: Data, at: int, end: int) -> None:
        self.data = data
        self.at = at
        self.end = end

    def _take(self, size: int) -> int:
        """Where the next so many bytes begin."""
        start = self.at
        if start + size > self.end:
            raise Malformed("a field reaches beyond its packet")
        self.at = start + size
        return start

    def byte(self) -> int:
        return self.data[self._take(1)]

    def short(self) -> int:
        value: int = _short.unpack_from(self.data, self._take(2))[0]
        return value

    def long(self) -> int:
        value: int = _long.unpack_from(self.data, self._take(4))[0]
        return value

    def variable(self) -> int:
        found = variable_at(self.data, self.at, self.end)
        if found is None:
            raise Malformed("a field reaches beyond its packet")
        value, self.at = found
        return value

    def binary(self) -> bytes:
        size = self.short()
        start = self._take(size)
        return bytes(self.data[start : start + size])

    def text(self) -> str:
        size = self.short()
        start = self._take(size)
        return text_of(self.data[start : start + size])

    def rest(self) -> bytes:
        start, self.at = self.at, self.end
        return bytes(self.data[start : self.end])

    def part(self, size: int) -> Reader:
        """The next so many bytes, to be read apart."""
        start = self._take(size)
        return Reader(self.data, start, start + size)

    def packet_id(self) -> int:
        value = packet_id_at(self.data, self.at, self.end)
        self.at += 2
        return value

    @property
    def more(self) -> bool:
        return self.at < self.end

    def finish(self) -> None:
        if self.at != self.end:
            raise Malformed("a packet is longer than what is in it")


def write_byte(value: int) -> bytes:
    return _number(value, 1)


def write_short(value: int) -> bytes:
    return _number(value, 2)


def write_long(value: int) -> bytes:
    return _number(value, 4)


def _number(value: int, size: int) -> bytes:
    try:
        return value.to_bytes(size)
    except OverflowError:
        raise ValueError("a number does not fit into its field") from None


def write_variable(value: int) -> bytes:
    """MQTT-1.5.5. ValueError: it is negative, or greater than MAX_VARIABLE."""
    if value < 0 or value > MAX_VARIABLE:
        raise ValueError("a number does not fit into a variable byte integer")
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if value < 0x20_0000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14 & 0x7F | 0x80, value >> 21))


def write_binary(value: bytes) -> bytes:
    size = len(value)
    if size > MAX_LENGTH:
        raise ValueError("a field is longer than 65,535 bytes")
    return _short.pack(size) + value


def write_text(value: str) -> bytes:
    """ValueError: it is too long, has a NUL in it, or a surrogate."""
    if "\0" in value:
        raise ValueError("a string has a NUL in it")
    return write_binary(value.encode())
