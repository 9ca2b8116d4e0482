"""HTTP/1.1's chunked transfer coding, both ways (RFC 9112, 7.1).

Owns the grammar of a chunked body. Refuses every spelling of it but one: no sign, no blank, no `0x`, no bare LF, no
size of more than 16 digits. Chunk extensions are read by their grammar and dropped; no upstream sees them. Bounded: a
line, the trailer section, and how much of a body may be framing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from httptools import HttpRequestParser

from gateway.wire.http1_fields import DASHED, HOP_BY_HOP, TOKEN, Field, Refused, claims_identity, read_fields

MAX_EXTENSION: Final = 256
MAX_TRAILERS: Final = 8_192

_MAX_DIGITS: Final = 16
_MAX_SIZE_LINE: Final = _MAX_DIGITS + MAX_EXTENSION + 2
# A chunk without extensions may bring so many bytes of framing, and any chunk as many as it has data; what is beyond
# adds up over the body to this at most. Without it each byte of data could cost us 275 on the wire (so CVE-2023-39326).
_FREE_FRAMING: Final = 16
_MAX_EXCESS: Final = 16_384

# RFC 9112, 7.1.1: chunk-ext, the quoted-string of RFC 9110, 5.6.4 (obs-text, too). Blanks ("BWS") are only tolerated by
# that grammar, and have hidden a body from one of two servers before: none are.
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_EXTENSION: Final = rb"(?:;%b(?:=(?:%b|%b))?)*" % (TOKEN, TOKEN, _QUOTED)
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,%d})(%b)\r\n" % (_MAX_DIGITS, _EXTENSION))

# RFC 9110, 6.5.1: what frames, routes, modifies or authenticates the message, or says how to read its body, has no
# meaning after it. A server that merges trailers into the fields would give it one.
_NO_TRAILERS: Final = HOP_BY_HOP | frozenset(
    b"age authorization cache-control content-encoding content-location content-range content-type cookie date expires"
    b" location max-forwards pragma proxy range retry-after set-cookie trailer vary warning www-authenticate"
    b" authentication-info proxy-authentication-info sec-websocket-key sec-websocket-accept".split()
)
# What nearly every chunk begins with. There is no other bound on how small chunks are, so they have to be cheap.
_plain_size_at: Final = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n").match


class ChunkedReader:
    """Reads one chunked body.

    done: it is complete, trailers and all. trailers: the fields after it; those that RFC 9110, 6.5.1 has no place for
    there (framing, routing, authentication, whatever says who the client is) are left out. Leaving them out is what
    that section lets a recipient do; refusing them would break an upload whose body was already sent on.
    """

    __slots__ = ("_excess", "_left", "_limit", "_line", "_next", "_section", "done", "trailers")

    def __init__(self) -> None:
        self._left = 0  # bytes still to come of the chunk begun last
        self._line = b""  # the beginning of a line that a read cut in two
        self._limit = _MAX_SIZE_LINE  # of that line
        self._next = ChunkedReader._size
        self._section = b""  # the trailer section so far
        self._excess = 0
        self.done = False
        self.trailers: list[Field] = []

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """The payload in these next bytes, and how many of them are of this body. Raises Refused."""
        pieces = []
        at, size = 0, len(data)
        while at < size and not self.done:
            if self._left:
                piece = data[at : at + self._left]
                self._left -= len(piece)
                at += len(piece)
                pieces.append(piece)
            elif (whole := self._whole_chunks(data, at, pieces)) > at:
                at = whole
            else:
                at = self._read_line(data, at)
        return b"".join(pieces), at

    def _whole_chunks(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Past the chunks from `at` on that are whole and without extensions; the same as line by line, only faster."""
        if self._line or self._excess or self._next is not ChunkedReader._size:
            return at
        while found := _plain_size_at(data, at):
            start = found.end()
            end = start + int(found[1], 16)
            if start == end or data[end : end + 2] != b"\r\n":
                break
            pieces.append(data[start:end])
            at = end + 2
        return at

    def _read_line(self, data: bytes, at: int) -> int:
        """Where the line ends that begins, or goes on, at `at`; all of `data` if that is further on."""
        room = at + self._limit - len(self._line)
        end = data.find(b"\n", at, room) + 1
        if end:
            line = self._line + data[at:end]
            self._line = b""
            self._next(self, line)
            return end
        if room <= len(data):
            raise Refused(400, "malformed chunk")
        self._line += data[at:]
        return len(data)

    def _size(self, line: bytes) -> None:
        found = _SIZE_LINE.fullmatch(line)
        if found is None:
            raise Refused(400, "malformed chunk size")
        self._left = int(found[1], 16)
        framing = len(line) if found[2] else max(0, len(line) - _FREE_FRAMING)
        self._excess = max(0, self._excess + framing - self._left)
        if self._excess > _MAX_EXCESS:
            raise Refused(400, "more chunk extensions than data")
        if self._left:
            self._next, self._limit = ChunkedReader._end, 2
        else:
            self._next, self._limit = ChunkedReader._trailer, MAX_TRAILERS

    def _end(self, line: bytes) -> None:
        if line != b"\r\n":
            raise Refused(400, "chunk of another size than it said")
        self._next, self._limit = ChunkedReader._size, _MAX_SIZE_LINE

    def _trailer(self, line: bytes) -> None:
        if line == b"\r\n":
            self.done = True
            self.trailers = _trailers(self._section)
        elif line[-2:] != b"\r\n":
            raise Refused(400, "line ended by a bare LF")
        else:
            self._section += line
            # Room for the empty line is always left, and for one that is too long to be it.
            self._limit = max(2, MAX_TRAILERS - len(self._section))


def _trailers(section: bytes) -> list[Field]:
    """RFC 9112, 7.1.2. The first line is there for the parser only."""
    if not section:
        return []
    fields, _ = read_fields(HttpRequestParser, b"GET / HTTP/1.1\r\n" + section + b"\r\n")
    return [field for field in fields if not _misplaced(field[0])]


def _misplaced(name: bytes) -> bool:
    return name.translate(DASHED).strip(b"-") in _NO_TRAILERS or claims_identity(name)


def chunk(payload: bytes) -> bytes:
    """One chunk; nothing for no payload, since an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


def last_chunk(trailers: Iterable[Field] = ()) -> bytes:
    """The end of the body."""
    return b"0\r\n%b\r\n" % b"".join([b"%b: %b\r\n" % (name, value) for _, name, value in trailers])
