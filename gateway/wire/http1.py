"""HTTP/1.1 heads: bytes → RequestHead, ResponseHead, by RFC 9110 and 9112, strictly.

Owns the request line, the status line, Host, and what the fields say of the connection and of the body's length.
Refuses whatever two servers could read in two ways: a body framed twice or oddly, a second or malformed Host, a target
outside of RFC 3986, blanks where none belong. The heads that a peer gets are written anew from what is returned here.

Field lines are `http1_fields`, chunked bodies `http1_chunked`; their names are here, too.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from httptools import HttpRequestParser, HttpResponseParser

from gateway.errors import ProtocolError
from gateway.wire.http1_chunked import ChunkedReader, chunk, last_chunk
from gateway.wire.http1_fields import (
    MAX_FIELDS,
    MAX_HEAD,
    TOKEN,
    Field,
    Refused,
    claims_identity,
    frames_otherwise,
    read_fields,
    tokens,
)

__all__ = [
    "CHUNKED",
    "MAX_FIELDS",
    "MAX_HEAD",
    "METHODS",
    "UNTIL_CLOSE",
    "ChunkedReader",
    "Field",
    "Refused",
    "RequestHead",
    "ResponseHead",
    "body_length",
    "chunk",
    "claims_identity",
    "find_head",
    "frames_otherwise",
    "last_chunk",
    "parse_request",
    "parse_response",
]

# Lengths of a body that no number says.
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

# Every method that llhttp knows but CONNECT (we are no tunnel to anywhere), TRACE (it would show what we add) and PRI.
METHODS: Final = frozenset(
    b"GET HEAD POST PUT DELETE OPTIONS PATCH QUERY"
    b" ACL BIND CHECKOUT COPY LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY PROPFIND PROPPATCH"
    b" PURGE REBIND REPORT SEARCH SOURCE SUBSCRIBE UNBIND UNLINK UNLOCK UNSUBSCRIBE".split()
)

# RFC 3986, 3.3 and 3.4; in a query also what browsers leave as it is there (`?ids[]=1`; WHATWG URL, 1.3). That two
# digits follow each `%` is looked at where there is one.
_ORIGIN: Final = rb"((/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)(?:\?([A-Za-z0-9._~!$&'()*+,;=:@%/?\[\]{}|^`-]*))?)"
_ORIGIN_FORM: Final = re.compile(_ORIGIN)
_BAD_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE_FORM: Final = re.compile(rb"(?i:https)://([^/?#]+)(.*)")

# RFC 9112, 3: single spaces. 2.2: an empty line before it, left over from the last body, is ignored; we ignore one.
_REQUEST_LINE: Final = re.compile(rb"(?:\r\n)?([A-Z-]+) " + _ORIGIN + rb" HTTP/1\.([01])\r\n")
_ANY_REQUEST_LINE: Final = re.compile(rb"(?:\r\n)?(" + TOKEN + rb") ([!-~]+) HTTP/([0-9]\.[0-9])\r\n")

# RFC 9112, 4. The blank before a reason phrase that is not there is missing from many servers.
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t -~\x80-\xff]*))?\r\n")

# RFC 3986, 3.2.2: of its names only what DNS and its neighbours are made of; what is in the brackets is checked apart.
_HOST: Final = re.compile(rb"(?:([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\.?|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{1,5}))?")
# A name of 255 and a port.
_MAX_HOST: Final = 261

# Up to 10**18: no sign, no blank, and no number that a C program would read as another.
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
# RFC 9110, 10.1.4: a coding may have parameters; `chunked` has none.
_CODING: Final = re.compile(TOKEN + rb"(?:[ \t]*;[!-~ \t]*)?")
# They name no field.
_PLAIN_OPTIONS: Final = frozenset({b"close", b"keep-alive", b"upgrade"})


class RequestHead(NamedTuple):
    """One request, as it was meant.

    target: in origin-form, or `*`. host: the authority as sent; hostname: lower-case, without port and final dot (an
    IPv6 address keeps its brackets).
    fields: the end-to-end ones, in order: without what is between the client and us (`http1_fields.HOP_BY_HOP`) and
    whatever Connection names. That may be any field, so a caller sets the fields that are its own after this.
    length: of the body; 0 where there is none; CHUNKED.
    upgrade: the lower-case Upgrade of an HTTP/1.1 request whose Connection names it, else nothing.
    expect: the client waits for a 100 before it sends a body. te_trailers: it takes trailers.
    """

    method: bytes
    target: bytes
    path: bytes
    query: bytes | None
    host: bytes
    hostname: str
    http11: bool
    fields: list[Field]
    length: int
    keep_alive: bool
    upgrade: bytes
    expect: bool
    te_trailers: bool

    def __repr__(self) -> str:
        """Without what may be a secret."""
        return f"RequestHead(method={self.method!r}, path={self.path!r}, hostname={self.hostname!r})"


class ResponseHead(NamedTuple):
    """One response of an upstream. `fields` and `upgrade` as in RequestHead.

    length: what the fields alone say; see `body_length`. keep_alive: as the fields say; a body UNTIL_CLOSE ends it.
    """

    status: int
    reason: bytes
    http11: bool
    fields: list[Field]
    length: int
    keep_alive: bool
    upgrade: bytes


def find_head(buffer: bytes | bytearray, start: int = 0) -> int:
    """Where the head that begins at `start` ends, just after its empty line; 0: not there yet.

    Raises Refused: 431 for a head longer than MAX_HEAD; 400 as soon as it is seen to end in a bare LF, which would
    never be followed by more.
    """
    end = buffer.find(b"\r\n\r\n", start, start + MAX_HEAD)
    if end >= 0:
        return end + 4
    size = len(buffer)
    if size - start >= MAX_HEAD:
        raise Refused(431, f"head of more than {MAX_HEAD} bytes")
    if size > start and buffer[-1] == 0x0A and buffer[-2:] != b"\r\n":
        raise Refused(400, "line ended by a bare LF")
    return 0


# --- requests ----------------------------------------------------------------------------------------------------


def parse_request(head: bytes) -> RequestHead:
    """Exactly one complete head, as `find_head` found it. Raises Refused."""
    line = _REQUEST_LINE.match(head)
    if line:
        authority, (method, target, path, query, minor) = b"", line.groups()
    else:
        authority, (method, target, path, query, minor) = _unusual_line(head)
    if method not in METHODS:
        raise Refused(501, "method not implemented")
    if b"%" in target and _BAD_PERCENT.search(target):
        raise Refused(400, "malformed percent-encoding in the target")
    fields, ours = read_fields(HttpRequestParser, head)
    host = ours.pop(b"host", b"")
    hostname = _hostname(host)
    if authority and authority.lower() != host.lower():
        raise Refused(400, "the target's host is not Host")
    http11 = minor == b"1"
    if not ours:
        return RequestHead(method, target, path, query, host, hostname, http11, fields, 0, http11, b"", False, False)
    length = _length(ours, http11, 0)
    keep_alive, upgrade, fields = _connection(ours, http11, fields)
    expect = http11 and _expects(ours) and length != 0
    te_trailers = http11 and b"trailers" in _elements(ours.get(b"te", b""))
    return RequestHead(
        method, target, path, query, host, hostname, http11, fields, length, keep_alive, upgrade, expect, te_trailers
    )


_Line = tuple[bytes, bytes, bytes, bytes | None, bytes]


def _unusual_line(head: bytes) -> tuple[bytes, _Line]:
    """What is no request line in origin-form: the authority, then method, target, path, query, minor version."""
    line = _ANY_REQUEST_LINE.match(head)
    if line is None:
        raise Refused(400, "malformed request line")
    method, target, version = line.groups()
    if version not in (b"1.0", b"1.1"):
        raise Refused(505, "HTTP version not supported")
    if method not in METHODS:
        raise Refused(501, "method not implemented")
    if method == b"OPTIONS" and target == b"*":
        return b"", (method, target, target, None, version[2:])
    authority, origin = _absolute_form(target)
    if method == b"OPTIONS" and not origin:
        # RFC 9112, 3.2.4: the last proxy of the chain asks for the server as a whole.
        return authority, (method, b"*", b"*", None, version[2:])
    found = _ORIGIN_FORM.fullmatch(origin if origin[:1] == b"/" else b"/" + origin)
    if found is None:
        raise Refused(400, "malformed target")
    target, path, query = found.groups()
    return authority, (method, target, path, query, version[2:])


def _absolute_form(target: bytes) -> tuple[bytes, bytes]:
    """The authority, and what follows it. `http` would be somebody else's: this listener is TLS only."""
    found = _ABSOLUTE_FORM.fullmatch(target)
    if found is None:
        raise Refused(400, "malformed target")
    return found[1], found[2]


@lru_cache(maxsize=512)
def _checked_hostname(host: bytes) -> str:
    """uri-host [":" port] (RFC 9110, 7.2), the name in lower case and without the dot of the root."""
    found = _HOST.fullmatch(host)
    if found is None or int(found[3] or 0) > 65_535:
        raise Refused(400, "malformed Host")
    name, literal, _ = found.groups()
    if literal is None:
        return str(name.lower(), "ascii")
    try:
        # One address has many spellings, and one route.
        return f"[{IPv6Address(str(literal, 'ascii'))}]"
    except ValueError:
        raise Refused(400, "malformed Host") from None


def _hostname(host: bytes) -> str:
    # Before the cache, so that what it keeps is small.
    if not host:
        raise Refused(400, "no Host")
    if len(host) > _MAX_HOST:
        raise Refused(400, "malformed Host")
    return _checked_hostname(host)


def _expects(ours: dict[bytes, bytes]) -> bool:
    """RFC 9110, 10.1.1."""
    expectation = ours.get(b"expect")
    if expectation is None:
        return False
    if expectation.lower() != b"100-continue":
        raise Refused(417, "unknown expectation")
    return True


# --- what both kinds of head say of body and connection ----------------------------------------------------------


def _length(ours: dict[bytes, bytes], http11: bool, unsaid: int) -> int:
    """RFC 9112, 6.1 to 6.3: one Content-Length, or one Transfer-Encoding that is `chunked`, or neither."""
    coding, length = ours.get(b"transfer-encoding"), ours.get(b"content-length")
    if coding is None:
        if length is None:
            return unsaid
        if not _LENGTH.fullmatch(length):
            raise Refused(400, "malformed Content-Length")
        return int(length)
    if length is not None:
        raise Refused(400, "both Content-Length and Transfer-Encoding")
    if not http11:
        raise Refused(400, "Transfer-Encoding in HTTP/1.0")
    if coding.lower() != b"chunked":
        raise _bad_coding(coding)
    return CHUNKED


def _bad_coding(coding: bytes) -> Refused:
    """501 only for what could be read, and might be right: codings we do not know, `chunked` last or not among them."""
    codings = _elements(coding)
    names = [element.partition(b";")[0].rstrip(b" \t") for element in codings]
    if not all(map(_CODING.fullmatch, codings)) or b"chunked" in names[:-1] or names == [b"chunked"]:
        return Refused(400, "malformed Transfer-Encoding")
    return Refused(501, "transfer coding not implemented")


def _elements(value: bytes) -> list[bytes]:
    return [element.strip(b" \t") for element in value.lower().split(b",")]


def _connection(ours: dict[bytes, bytes], http11: bool, fields: list[Field]) -> tuple[bool, bytes, list[Field]]:
    """Whether the connection is kept, the Upgrade, and the fields without those that Connection names.

    RFC 9110, 7.6.1 and 7.8; RFC 9112, 9.3. What frames or routes the message is not among `fields` any more.
    """
    if b"connection" not in ours:
        return http11, b"", fields
    options = tokens(ours[b"connection"])
    keep_alive = b"close" not in options and (http11 or b"keep-alive" in options)
    upgrade = ours.get(b"upgrade", b"").lower() if http11 and b"upgrade" in options else b""
    if options <= _PLAIN_OPTIONS:
        return keep_alive, upgrade, fields
    return keep_alive, upgrade, [field for field in fields if field[0] not in options]


# --- responses ---------------------------------------------------------------------------------------------------


def parse_response(head: bytes) -> ResponseHead:
    """Exactly one complete head of an upstream. Raises ProtocolError, and never Refused: the client did no wrong."""
    line = _STATUS_LINE.match(head)
    if line is None:
        raise ProtocolError("malformed status line")
    minor, code, reason = line.groups()
    http11, status = minor == b"1", int(code)
    try:
        fields, ours = read_fields(HttpResponseParser, head)
        length = _length(ours, http11, UNTIL_CLOSE)
        keep_alive, upgrade, fields = _connection(ours, http11, fields)
    except Refused as error:
        raise ProtocolError(str(error)) from None
    if (status < 200 or status == 204) and length not in (0, UNTIL_CLOSE):
        # RFC 9112, 6.1 and 9110, 8.6 forbid it. If a body does follow, it must not be the next answer.
        if status < 200:
            raise ProtocolError("an interim response with a body")
        keep_alive = False
    return ResponseHead(status, reason or b"", http11, fields, length, keep_alive, upgrade)


def body_length(response: ResponseHead, method: bytes) -> int:
    """How long the body is of that answer to that method (RFC 9112, 6.3; CONNECT is never sent)."""
    status = response.status
    if method == b"HEAD" or status < 200 or status in (204, 304):
        return 0
    return response.length
