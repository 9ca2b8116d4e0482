"""The keys that are at a URL now, fetched once, for whoever has no reactor.

Owns one GET over a blocking connection. Whom TLS believes, and what is refused, is what `net.fetching` says, as where
the gateway fetches them.
"""

from __future__ import annotations

from contextlib import closing
from typing import Final
from urllib.parse import urlsplit

from gateway import jwks
from gateway.certs import ClientContext
from gateway.errors import ConfigError, Problems, ProtocolError, UpstreamError
from gateway.inspection.contact import Contact
from gateway.net.fetching import (
    ENDLESS,
    FIELDS,
    MAX_ANSWER,
    MAX_REASON,
    SECONDS,
    TOO_LONG,
    Unfetched,
    context,
    late,
    refuse,
)
from gateway.session.http_body import Body
from gateway.settings import JWTSettings
from gateway.tokens import VerificationKey
from gateway.upstream import Address
from gateway.wire.http1 import UNTIL_CLOSE, ResponseHead, find_head, parse_response

__all__ = ["Unfetched", "fetch", "get"]

_HTTPS: Final = 443


def fetch(jwt: JWTSettings) -> tuple[VerificationKey, ...]:
    """Of a `[jwt:NAME]` with a URL. Raises Unfetched, which says why they could not be had."""
    assert jwt.jwks is not None  # whoever calls has looked
    problems = Problems()
    try:
        believed = context(jwt, problems)
        problems.raise_if_any()
        return jwks.parse(get(jwt.jwks, believed))
    except ConfigError as error:
        raise Unfetched(str(error)) from None
    except ValueError as error:
        raise Unfetched(f"the set {error}") from None


def get(url: str, believed: ClientContext) -> bytes:
    """The document. Raises Unfetched."""
    try:
        return _document(url, believed)
    except TimeoutError:
        raise late(SECONDS) from None
    except OSError as error:
        raise Unfetched(error.strerror or str(error)) from None
    except (UpstreamError, ProtocolError) as error:
        raise Unfetched(str(error)[:MAX_REASON]) from None


def _document(url: str, believed: ClientContext) -> bytes:
    """Raises Unfetched, UpstreamError, ProtocolError, OSError."""
    parts = urlsplit(url)
    assert parts.hostname is not None  # the configuration has seen to that
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fields = {"Host": parts.netloc, **FIELDS, "Connection": "close"}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with closing(Contact(Address(parts.hostname, parts.port or _HTTPS), SECONDS)) as contact:
        contact.secure(believed)
        contact.send(f"GET {target} HTTP/1.1\r\n{head}\r\n".encode("ascii"))
        return _Answer(contact).document()


class _Answer:
    """What comes over a contact, of which there may be so much and no more."""

    def __init__(self, contact: Contact) -> None:
        self._contact, self._left, self._held = contact, MAX_ANSWER, b""

    def document(self) -> bytes:
        head = self._head()
        while head.status < 200:  # RFC 9110, 15.2: an interim answer, behind which comes the one that is meant
            head = self._head()
        refuse(head.status)
        if head.length == UNTIL_CLOSE:
            raise Unfetched(ENDLESS)
        body = Body(head.length, chunked=False)
        found = body.feed(self._held)[0]
        while not body.done:
            found += body.feed(self._more())[0]
        if len(found) > jwks.MAX_DOCUMENT:
            raise Unfetched(TOO_LONG)
        return found

    def _head(self) -> ResponseHead:
        while not (end := find_head(self._held)):
            self._held += self._more()
        head, self._held = self._held[:end], self._held[end:]
        return parse_response(head)

    def _more(self) -> bytes:
        data = self._contact.receive()
        self._left -= len(data)
        if self._left < 0:
            raise Unfetched(TOO_LONG)
        return data
