"""What it takes to fetch the keys at a URL, the same for the gateway, which must not wait, and for commands, which do.

Owns whom TLS believes there, the bounds, and the words for what is refused: redirects and whatever else is no plain
200, an answer without an end of its own (RFC 9112, 6.3: one that ends with the connection), one that is too long, and
one that is late.
"""

from __future__ import annotations

from typing import Final

from gateway.certs import ClientContext
from gateway.errors import Problems
from gateway.jwks import MAX_DOCUMENT
from gateway.settings import JWTSettings
from gateway.upstream import ClientTLS, Login

# All of it: name, connection, TLS, answer. A slow server may have this long.
SECONDS: Final = 10.0
# What a server may say around the document: the head, and the framing of chunks.
_MAX_FRAMING: Final = 64 * 1024
MAX_ANSWER: Final = MAX_DOCUMENT + _MAX_FRAMING
# A reason may quote what the server sent; a line of the log is enough of that.
MAX_REASON: Final = 200

FIELDS: Final = {"Accept": "application/jwk-set+json, application/json", "User-Agent": "securegw"}

TOO_LONG: Final = f"the answer is longer than {MAX_DOCUMENT} bytes"
ENDLESS: Final = "the answer does not say where it ends"


class Unfetched(Exception):
    """The document was not had; the text says why, for a person."""


def context(jwt: JWTSettings, problems: Problems) -> ClientContext:
    """As for an upstream; but the key of the configuration has another name here."""
    section, found = f"jwt:{jwt.name}", Problems()
    made = ClientContext(section, ClientTLS(root_certificate=jwt.jwks_root_certificate), Login(), found)
    for problem in found.found:
        problems.add(section, f"jwks_{problem.key}", problem.reason)
    return made


def refuse(status: int) -> None:
    """Raises Unfetched for any status but 200."""
    if 300 <= status < 400:
        where = "which is not followed: the URL has to be where the document is"
        raise Unfetched(f"the answer is a redirect ({status}), {where}")
    if status != 200:
        raise Unfetched(f"the answer has the status {status}")


def late(seconds: float) -> Unfetched:
    return Unfetched(f"there was no whole answer within {seconds:g} seconds")
