"""HTTP/1.1's field lines: the one parse of them for request heads, response heads and trailers.

Owns which fields are between two neighbours only, and which would have a server believe that we said something. llhttp
(httptools) reads the lines; what it lets pass and we do not is checked by who calls. Refuses a repeated field of those
that frame or route a message. RFC 9110, section 5; RFC 9112, section 5.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from httptools import (
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
    HttpResponseParser,
)

from gateway.errors import ProtocolError

# More than any browser or library sends, and what a server behind us takes, too (nginx: 4 times 8 KiB; Apache: 100).
MAX_HEAD: Final = 32_768
MAX_FIELDS: Final = 100

# Lower-case name, name as it came, value without the blanks around it.
Field = tuple[bytes, bytes, bytes]

TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"

# What concerns this connection or this message's framing only (RFC 9110, 7.6.1; RFC 9112, 6), with Host and Expect,
# which we answer for ourselves. Proxy-Authorization would be for us, and we ask for none.
HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Two of these are two messages, for whoever takes the other one.
_SINGLE: Final = frozenset({b"content-length", b"host", b"transfer-encoding"})

_CLAIMS: Final = frozenset({b"client-cert", b"client-cert-chain", b"forwarded", b"x-real-ip"})
_CLAIMS_BEGIN: Final = (b"x-forwarded-", b"x-client-cert", b"x-ssl-")

_TOKEN: Final = re.compile(TOKEN)

# Servers that make variables of fields write `_` for `-`, and some of them for whatever is no letter or digit.
DASHED: Final = bytes(byte if bytes([byte]).isalnum() else ord("-") for byte in range(256))


class Refused(ProtocolError):
    """The client's bytes get this status code. The text is constant: it holds nothing that the client sent."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Lines:
    """What llhttp calls back with each field: sorted into what is for the other end and what is for us."""

    __slots__ = ("complete", "ours", "theirs")

    def __init__(self) -> None:
        self.theirs: list[Field] = []
        self.ours: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        # llhttp leaves the blanks after a value (OWS: RFC 9112, 5).
        if lower in HOP_BY_HOP:
            self.ours.append((lower, value.rstrip(b" \t")))
        else:
            self.theirs.append((lower, name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def read_fields(
    parser: type[HttpRequestParser | HttpResponseParser], head: bytes
) -> tuple[list[Field], dict[bytes, bytes]]:
    """The fields of exactly one head, its first line included: those for the other end, and the values of those for us.

    Refuses obs-fold, bare CR and LF, and controls. Once llhttp has said that the fields are complete, what it raises is
    about the body (a coding it does not know) or what comes after an Upgrade: framing is read by us.
    """
    lines = _Lines()
    try:
        parser(lines).feed_data(head)
    except HttpParserUpgrade:
        pass
    except HttpParserError as error:
        if not lines.complete:
            raise Refused(400, f"malformed head: {error}") from None
    # A second head in the same bytes would have its fields read into the first.
    if not lines.complete or head.find(b"\r\n\r\n") != len(head) - 4:
        raise Refused(400, "not exactly one head")
    if len(lines.theirs) + len(lines.ours) > MAX_FIELDS:
        raise Refused(431, f"more than {MAX_FIELDS} fields")
    return lines.theirs, _join(lines.ours)


def _join(lines: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """By name, as one list where repeated (RFC 9110, 5.3)."""
    fields: dict[bytes, bytes] = {}
    for name, value in lines:
        if name not in fields:
            fields[name] = value
        elif name in _SINGLE:
            raise Refused(400, f"more than one {name.decode().title()}")
        else:
            fields[name] += b"," + value
    return fields


def tokens(value: bytes) -> frozenset[bytes]:
    """A list of tokens in lower case (RFC 9110, 5.6.1); elements may be empty."""
    return _remembered(value) if len(value) <= _SHORT else _tokens(value)


def _tokens(value: bytes) -> frozenset[bytes]:
    found = frozenset(element.strip(b" \t").lower() for element in value.split(b",")) - {b""}
    if not all(map(_TOKEN.fullmatch, found)):
        raise Refused(400, "malformed Connection")
    return found


# What is remembered has to be short; nearly all values of Connection are.
_SHORT: Final = 128
_remembered = lru_cache(maxsize=64)(_tokens)


def claims_identity(name: bytes) -> bool:
    """Whether a field of that lower-case name says who or where the client is, which upstreams must hear from us only.

    In any spelling that CGI, WSGI and their like make the same variable of.
    """
    name = name.translate(DASHED)
    return name in _CLAIMS or name.startswith(_CLAIMS_BEGIN)


def frames_otherwise(name: bytes) -> bool:
    """Whether such a server would take a field that we pass on for one of those that are between neighbours only."""
    return name.translate(DASHED).strip(b"-") in HOP_BY_HOP
