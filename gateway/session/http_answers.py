"""What the gateway itself says to an HTTP client: a refusal, with a JSON body and the end of the connection; and, where
it serves the request itself, that it has.

Every text is a constant; the true reason is in the audit.
"""

from __future__ import annotations

import json
from http import HTTPStatus

from gateway.wire.http1 import Refused
from gateway.wire.websocket import accept

SHUTDOWN = "the gateway is shutting down"
EXPIRED = "the client certificate has expired"
FORBIDDEN = "forbidden"
KILLED = "ended by an administrator"
NOT_TRUSTED = "the client certificate is not trusted any more"
UNAVAILABLE = "not available at present, try again later"


class Refusal(Exception):
    """A request gets this answer instead of the upstream's.

    `error` is for the client. The exception's own text is the true reason, for the audit. fields: header lines.
    """

    def __init__(self, status: int, error: str, reason: str = "", fields: bytes = b"") -> None:
        super().__init__(reason or error)
        self.status, self.error, self.fields = status, error, fields


def refusal_for(refused: Refused) -> Refusal:
    """What breaks a grammar is told why."""
    fields = b"Sec-WebSocket-Version: 13\r\n" if refused.status == 426 else b""
    return Refusal(refused.status, str(refused), fields=fields)


def unauthorized(reason: str) -> Refusal:
    """No key, or none that counts (RFC 9110, 11.6.1). The answer is the same whatever is wrong with it."""
    return Refusal(401, "unknown key", reason, b'WWW-Authenticate: Bearer realm="channels"\r\n')


def unavailable(reason: str) -> Refusal:
    return Refusal(503, UNAVAILABLE, reason)


def answer(refusal: Refusal, method: bytes = b"GET") -> bytes:
    """The whole response; to HEAD without the body (RFC 9110, 9.3.2)."""
    phrase = HTTPStatus(refusal.status).phrase
    body = json.dumps({"status": refusal.status, "error": refusal.error}).encode("ascii") + b"\n"
    head = (
        f"HTTP/1.1 {refusal.status} {phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n"
    )
    return head.encode("ascii") + refusal.fields + b"\r\n" + (b"" if method == b"HEAD" else body)


# Said before any request, in the clear, to who speaks HTTP to a port for HTTPS.
PLAIN = answer(Refusal(400, "this port speaks HTTPS only"))

# RFC 9110, 10.1.1.
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n%b\r\n"
_KEPT = _ACCEPTED % b""
_KEPT_10 = _ACCEPTED % b"Connection: keep-alive\r\n"
_LAST = _ACCEPTED % b"Connection: close\r\n"


def accepted(*, keep: bool, http11: bool) -> bytes:
    """What was sent has arrived where it is kept. keep: the connection goes on."""
    if not keep:
        return _LAST
    return _KEPT if http11 else _KEPT_10


def switching(key: bytes, protocol: bytes = b"") -> bytes:
    """The agreement to a WebSocket with that Sec-WebSocket-Key (RFC 6455, 4.2.2), and to one of the protocols that the
    client has offered."""
    chosen = b"Sec-WebSocket-Protocol: %b\r\n" % protocol if protocol else b""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (accept(key), chosen)
    )
