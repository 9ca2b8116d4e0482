"""A peer's bytes, cut into MQTT packets however they come, with a short way for the PUBLISH packets of a flood.

Owns what is left of one read for the next, and which topics were decided about. A PUBLISH to such a topic that says
nothing unusual is not parsed: the standard leaves only its payload open, which is nobody's business. Refuses, as
Malformed, what `wire.mqtt` refuses, and a packet that is too large before it is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Generic, NamedTuple, TypeVar

from gateway.wire import mqtt
from gateway.wire.mqtt_packets import Packet, Version

T = TypeVar("T")

# Topics that were decided about, for one client; beyond that all are forgotten, which only costs time.
MAX_KNOWN: Final = 1_024
# A longer name is decided about each time: what is remembered has to be short.
MAX_KNOWN_NAME: Final = 512

# Its bits in the first byte of a PUBLISH.
_QOS: Final = 6

# First bytes of a PUBLISH (MQTT-3.3.1): QoS 0 and 1, not retained, for the first time; and all that there are, but for
# the impossible.
PLAIN: Final = frozenset({0x30, 0x32})
ANY: Final = frozenset({0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x3A, 0x3B, 0x3C, 0x3D})


class Run(NamedTuple, Generic[T]):
    """`number` packets after each other, to one topic that is known: these bytes of `Frames.data`.

    payload: where that of the first one begins. Where there are packet identifiers, `number` is 1.
    """

    topic: T
    start: int
    end: int
    number: int
    payload: int


class Single(NamedTuple):
    """A packet that was parsed: these bytes of `Frames.data`."""

    packet: Packet
    start: int
    end: int


class Frames(Generic[T]):
    """quick: first bytes of what may be part of a Run. limit: of a whole packet, in bytes.

    known: by the bytes of its name, what stands for a topic that one may publish to. data: what the last items of
    `read` are about. count: of the packets of that read.
    """

    __slots__ = ("_gathered", "_limit", "_needed", "_quick", "_version", "count", "data", "known")

    def __init__(self, version: Version, limit: int, quick: frozenset[int]) -> None:
        self._version, self._limit, self._quick = version, limit, quick
        self._gathered = bytearray()
        self._needed = 0
        self.data = b""
        self.count = 0
        self.known: dict[bytes, T] = {}

    def know(self, name: str, topic: T) -> None:
        """That topic may be published to, until `known` is cleared."""
        key = name.encode("utf-8")
        if len(key) <= MAX_KNOWN_NAME:
            if len(self.known) >= MAX_KNOWN:
                self.known.clear()
            self.known[key] = topic

    def read(self, data: bytes) -> Iterable[Run[T] | Single]:
        """Each item before the next one is looked at, so that what it decides counts for that. Raises Malformed."""
        self.count = 0
        if self._gathered:
            # Joined once a packet is whole, not with each of its bytes.
            if len(self._gathered) + len(data) < self._needed:
                self._gathered += data
                return ()
            data = b"".join((self._gathered, data))
            self._gathered.clear()
        self.data = data
        return self._cut(data)

    def _cut(self, data: bytes) -> Iterator[Run[T] | Single]:
        position, size = 0, len(data)
        while position < size:
            run = self._run(data, position, size)
            if run is not None:
                position = run.end
                self.count += run.number
                yield run
                continue
            found = mqtt.frame(data, position, self._limit)
            if found is None or found[1] > size:
                # Of a length that is not complete nobody knows more than that a byte is missing.
                self._needed = size - position + 1 if found is None else found[1] - position
                self._gathered += data[position:]
                return
            body, end = found
            self.count += 1
            yield Single(mqtt.parse(data, position, body, end, self._version), position, end)
            position = end

    def _run(self, data: bytes, position: int, size: int) -> Run[T] | None:
        """As many as stand here whole and alike. Written for speed: a flood is nothing else."""
        plain = self._plain(data, position, size)
        if plain is None:
            return None
        topic, head, end = plain
        number = 1
        if not data[position] & _QOS:
            # Most often the next one begins with the same bytes, and so is as long and means the same.
            same, step = data[position:head], end - position
            last = size - step
            while end <= last and data.startswith(same, end):
                end += step
                number += 1
        return Run(topic, position, end, number, head)

    def _plain(self, data: bytes, position: int, size: int) -> tuple[T, int, int] | None:
        """The topic of the PUBLISH here, if it needs no parsing; where its payload begins, and where it ends."""
        if position + 4 >= size or data[position] not in self._quick:
            return None
        body, length = position + 2, data[position + 1]
        if length > 127:
            # Two bytes of length are enough for 16 KiB; a longer packet costs more than its parsing.
            high = data[body]
            if not 0 < high < 128:
                return None
            length, body = length + (high << 7) - 128, body + 1
        end = body + length
        if end > size or body + 2 > size or end - position > self._limit:
            return None
        name_end = body + 2 + (data[body] << 8 | data[body + 1])
        head = self._head(data, position, name_end, end)
        topic = self.known.get(data[body + 2 : name_end]) if head else None
        return None if topic is None else (topic, head, end)

    def _head(self, data: bytes, position: int, name_end: int, end: int) -> int:
        """Where the payload begins; 0: the packet says something that has to be parsed, or nothing that is right."""
        head = name_end
        if data[position] & _QOS:
            head += 2
            if head > end or not (data[name_end] or data[name_end + 1]):
                return 0
        if self._version is Version.V5:
            if head >= end or data[head]:
                return 0
            head += 1
        return head if head <= end else 0
