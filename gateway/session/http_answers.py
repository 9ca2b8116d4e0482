"""What the gateway itself says to an HTTP client: a status, a JSON body, and that the connection ends.

Every text is a constant; the true reason is in the audit.
"""

from __future__ import annotations

import json
from http import HTTPStatus

SHUTDOWN = "the gateway is shutting down"


class Refusal(Exception):
    """A request gets this answer instead of the upstream's.

    `error` is for the client. The exception's own text is the true reason, for the audit. fields: header lines.
    """

    def __init__(self, status: int, error: str, reason: str = "", fields: bytes = b"") -> None:
        super().__init__(reason or error)
        self.status, self.error, self.fields = status, error, fields


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
