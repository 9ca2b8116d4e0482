"""Where one message of an open PostgreSQL session ends and the next begins, and whether anybody waits for an answer.

Owns that question alone: it reads headers, never what is in a message.
Source: PostgreSQL manual, "Message Formats" and "Message Flow".
"""

from __future__ import annotations

import re
from struct import Struct

_length_at = Struct("!I").unpack_from

# Every type byte a backend may begin a message with once a session is open ("Message Formats", (B)).
_BACKEND_TYPES = frozenset(b"123ACDEGHIKNRSTVWZcdnstv")
_READY_FOR_QUERY, _IDLE = ord("Z"), ord("I")
# NotificationResponse, NoticeResponse and ParameterStatus come at any time ("Asynchronous Operations").
_UNASKED = frozenset(b"ANS")
# Walking a read of many short rows would cost more than encrypting it; see BackendFraming.
_MAX_WALK = 64
# ReadyForQuery as the very last bytes of a read: how every result ends.
_READY = re.compile(rb"Z\0\0\0\x05([ITE])\Z")
_READY_SIZE = 6
# DataRow and CopyData, of which bulk results are made. A chain of so many, right up to the end of a read, is no chance;
# where rows are short its first link is near the start.
_BULK_TYPES = frozenset(b"Dd")
_MIN_CHAIN = 8
_MAX_SEEK = 8_192
# And whatever the bytes are, no read is looked through for longer than so many headers (some milliseconds).
_MAX_STEPS = 20_000


class BackendFraming:
    """Follows the message boundaries of an open session's backend stream, for at most `_MAX_WALK` steps a read.

    It is exact from ReadyForQuery on, through any number of messages, until one read holds more short messages than
    that (a bulk result). Then it knows no boundary, until `seek` finds its way again, or what it was fed ended like a
    ReadyForQuery and the client has asked for something after that. In between it may seem `idle`: bytes of a row can
    look the same, so whoever acts on that first makes sure that nothing follows.

    asked: something was sent for the client since the last ReadyForQuery; set by whoever sent it.
    """

    __slots__ = ("_head", "_in_transaction", "_lost", "_rest", "_seems_ready", "_status_due", "asked")

    def __init__(self) -> None:
        self._rest = 0  # bytes still to come of the message begun last
        self._head = b""  # the beginning of a header that a read cut in two
        self._status_due = False  # what is still to come is the transaction status of a ReadyForQuery
        self._lost = self._seems_ready = False
        self._in_transaction = self.asked = False

    @property
    def boundary(self) -> bool:
        return not (self._lost or self._rest or self._head)

    @property
    def idle(self) -> bool:
        """Nothing is asked, no transaction is open, and no message is under way, or so it seems."""
        return not (self.asked or self._in_transaction) and (self.boundary or self._seems_ready)

    def feed(self, data: memoryview) -> None:
        """The next bytes that the backend sent, in order."""
        if self._lost:
            if not (self._seems_ready and self.asked):
                self._look_for_ready(data)
                return
            self._found(0)
        if self._head:
            data = memoryview(self._head + data)
            self._head = b""
        first = at = last = self._rest
        size = len(data)
        if first and size and self._status_due:
            self._status(data[0])
        for _ in range(_MAX_WALK):
            if at + 5 > size:
                break
            last = at
            at += 1 + _length_at(data, at + 1)[0]
        else:
            if at + 5 <= size:
                self._lost, self._rest, self._head = True, 0, b""
                self._look_for_ready(data)
                return
        if at < size:
            self._head = bytes(data[at:])
            self._rest = 0
        else:
            self._rest = at - size
        if at > first:
            self._judge(data, first, last)

    def _judge(self, data: memoryview, first: int, last: int) -> None:
        """What the headers from `first` to `last` say of who waits for whom."""
        kind = data[last]
        if kind == _READY_FOR_QUERY:
            self.asked = False
            self._status_due = last + 5 >= len(data)
            if not self._status_due:
                self._status(data[last + 5])
        elif kind not in _BACKEND_TYPES:
            self._lost = True
        elif kind not in _UNASKED:
            self.asked = True  # the answer to something sent before the last ReadyForQuery (pipelining)
        elif first < last:
            self._judge(data, first, _before(data, first, last))

    def _status(self, status: int) -> None:
        """ReadyForQuery's byte: idle, or in a transaction (that has failed)."""
        self._status_due = False
        self._in_transaction = status != _IDLE

    def _look_for_ready(self, data: memoryview) -> None:
        if self._seems_ready and _all_unasked(data):
            return
        # It may come in two reads: what is kept in `_head` meanwhile is the last of what came before.
        tail = (self._head + bytes(data[-_READY_SIZE:]))[-_READY_SIZE:]
        match = _READY.search(tail)
        self._head = tail
        self._seems_ready = match is not None
        if match:
            self.asked = False
            self._status(match[1][0])

    def _found(self, rest: int) -> None:
        self._rest, self._head = rest, b""
        self._lost = self._seems_ready = self._status_due = False

    # --- for an end in the middle of a result -----------------------------------------------------------------------

    def seek(self, data: memoryview) -> int | None:
        """How many of these next bytes complete the message begun last; None: more than these, or unknown.

        Fed so many, it is at a boundary. Asked when a session is to end: in a bulk result it looks for the first chain
        of headers through to the end of the bytes. Rows made to look like one could mislead it, to no other harm than
        an end inside a message.
        """
        if self._lost:
            self._find_chain(data)
            if self._lost:
                return None
        end = self._rest
        if self._head:
            header = self._head + bytes(data[: 5 - len(self._head)])
            if len(header) < 5 or not _is_header(header, 0):
                return None
            end = 1 + _length_at(header, 1)[0] - len(self._head)
        return end if end <= len(data) else None

    def _find_chain(self, data: memoryview) -> None:
        steps = _MAX_STEPS
        for start in range(min(len(data), _MAX_SEEK)):
            if data[start] not in _BULK_TYPES:
                continue
            links, used = _chain(data, start, steps)
            if links >= _MIN_CHAIN:
                self._found(start)
                return
            steps -= used
            if steps <= 0:
                return


def _before(data: memoryview, first: int, last: int) -> int:
    """Where the header before the one at `last` is."""
    at = first
    while (following := at + 1 + _length_at(data, at + 1)[0]) < last:
        at = following
    return at


def _all_unasked(data: memoryview) -> bool:
    """Whether these are whole messages, all of the kinds that come at any time."""
    at, size = 0, len(data)
    while at + 5 <= size and data[at] in _UNASKED:
        at += 1 + max(4, _length_at(data, at + 1)[0])
    return at == size


def _is_header(data: bytes | memoryview, at: int) -> bool:
    return data[at] in _BACKEND_TYPES and _length_at(data, at + 1)[0] >= 4


def _chain(data: memoryview, start: int, steps: int) -> tuple[int, int]:
    """How many headers follow each other from `start` to the end of the bytes (0 if it breaks); how many were read."""
    at, size, used = start, len(data), 0
    while at + 5 <= size:
        used += 1
        if used > steps or not _is_header(data, at):
            return 0, used
        at += 1 + _length_at(data, at + 1)[0]
    return used, used
