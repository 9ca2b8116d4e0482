"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS as PostgreSQL speaks them, from the client's side: how we log in upstream.

Owns what the library (scramp) leaves to its caller: bytes, bounds, channel binding and the downgrade flag. Refuses, as
UpstreamError, every message that is not exactly in turn: a foreign nonce, a wrong server signature, an iteration
count that is weak or would hold up the reactor. Reasons never hold the password. Keeps nothing between logins.

RFC 5802, RFC 7677, RFC 5929; PostgreSQL manual, "SASL Authentication" in the protocol chapter.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import MD5, SHA1, SHA256, Hash
from cryptography.x509 import InvalidVersion, load_der_x509_certificate
from scramp import ScramClient, ScramException  # type: ignore[import-untyped]

from gateway.errors import UpstreamError

SCRAM: Final = "SCRAM-SHA-256"
SCRAM_PLUS: Final = "SCRAM-SHA-256-PLUS"

# RFC 7677 section 4: fewer would make the exchange cheap to break for whoever sees it.
MIN_ITERATIONS: Final = 4096
# PBKDF2 runs on the reactor's thread at every login: so many are some 80 ms, in which everybody else waits.
# PostgreSQL's own default is 4096.
MAX_ITERATIONS: Final = 100_000

# PostgreSQL's salt has 16 bytes (scramp asks for 12) and its messages about 100: nothing near the upper bounds is
# PostgreSQL.
MIN_SALT: Final = 12
MAX_SALT: Final = 256
MAX_MESSAGE: Final = 2048

# Nonce, salt, iteration count (RFC 5802 section 7). PostgreSQL sends no extensions, and we understand none.
_SERVER_FIRST: Final = re.compile(rb"r=[!-+\--~]+,s=([A-Za-z0-9+/]+={0,2}),i=([1-9][0-9]{0,9})")
_SERVER_FINAL: Final = re.compile(rb"v=[A-Za-z0-9+/]{43}=|e=[a-z-]{1,64}")

# PostgreSQL ignores it: the role is the one of the start-up packet. scramp wants one character at least.
_USER: Final = "*"


class ScramLogin:
    """One login. Call `first`, `challenge`, `finish`, in that order; the server is proven only when `finish` returned.

    mechanism: the one chosen. server_certificate: DER, or None without TLS. advertised_plus: the server offered
    SCRAM-SHA-256-PLUS. Raises UpstreamError like every method.
    """

    __slots__ = ("_client",)

    def __init__(self, mechanism: str, password: str, server_certificate: bytes | None, advertised_plus: bool) -> None:
        if mechanism not in (SCRAM, SCRAM_PLUS):
            raise UpstreamError("the SASL mechanism is not one of ours")
        if not password:
            raise UpstreamError("SCRAM needs a password that is not empty")
        binding = _binding(mechanism, server_certificate, advertised_plus)
        with _upstream_errors():
            self._client = ScramClient([mechanism], _USER, password, channel_binding=binding)

    def first(self) -> bytes:
        """The client-first-message."""
        with _upstream_errors():
            return _sent(self._client.get_client_first())

    def challenge(self, server_first: bytes) -> bytes:
        """The client-final-message that answers the server-first-message."""
        with _upstream_errors():
            self._client.set_server_first(_server_first(server_first))
            return _sent(self._client.get_client_final())

    def finish(self, server_final: bytes) -> None:
        """Checks the server's signature: it, too, knows the password."""
        with _upstream_errors():
            self._client.set_server_final(_server_final(server_final))


def available(server_certificate: bytes | None) -> bool:
    """Whether SCRAM-SHA-256-PLUS can be used over the TLS connection with this certificate (None: no TLS)."""
    try:
        return server_certificate is not None and bool(_end_point(server_certificate))
    except UpstreamError:
        return False


def _binding(mechanism: str, certificate: bytes | None, advertised_plus: bool) -> tuple[str, bytes] | None:
    """What scramp makes the gs2-cbind-flag (RFC 5802 section 6) from: `p` or `y` with a binding, `n` without.

    `y` says that we could bind but saw no offer; a server that made one then refuses, for somebody took it out on the
    way. So it must be `n` where we saw the offer and chose not to bind, or cannot with this certificate.
    """
    if mechanism == SCRAM_PLUS:
        if certificate is None or not advertised_plus:
            raise UpstreamError("SCRAM-SHA-256-PLUS needs TLS and a server that offers it")
        return "tls-server-end-point", _end_point(certificate)
    if certificate is not None and not advertised_plus and available(certificate):
        return "tls-server-end-point", _end_point(certificate)
    return None


def _end_point(certificate: bytes) -> bytes:
    """RFC 5929 section 4.1: the certificate under the hash of its signature, or SHA-256 where that is MD5 or SHA-1."""
    try:
        algorithm = load_der_x509_certificate(certificate).signature_hash_algorithm
    except (ValueError, InvalidVersion, UnsupportedAlgorithm):
        raise UpstreamError("the server's certificate has no known signature hash to bind the channel to") from None
    if algorithm is None:
        raise UpstreamError("the server's certificate is signed without a hash (Ed25519): no channel binding")
    digest = Hash(SHA256() if isinstance(algorithm, MD5 | SHA1) else algorithm)
    digest.update(certificate)
    return digest.finalize()


def _sent(message: str) -> bytes:
    return message.encode("utf-8")


def _server_first(message: bytes) -> str:
    """RFC 5802 section 7, server-first-message, with its cost bounded before anything is computed from it.

    scramp checks that the nonce goes on from ours.
    """
    match = _SERVER_FIRST.fullmatch(message) if len(message) <= MAX_MESSAGE else None
    if match is None:
        raise UpstreamError("SCRAM: malformed server-first-message")
    salt, iterations = match.groups()
    if not MIN_ITERATIONS <= int(iterations) <= MAX_ITERATIONS:
        raise UpstreamError(f"SCRAM: the iteration count is not within {MIN_ITERATIONS} to {MAX_ITERATIONS}")
    if not MIN_SALT <= len(_base64(salt)) <= MAX_SALT:
        raise UpstreamError(f"SCRAM: the salt does not have {MIN_SALT} to {MAX_SALT} bytes")
    return message.decode("ascii")


def _base64(text: bytes) -> bytes:
    """RFC 4648 section 4, in its one canonical spelling (section 3.5)."""
    try:
        data = b64decode(text, validate=True)
    except ValueError:
        data = b""
    if b64encode(data) != text:
        raise UpstreamError("SCRAM: the salt is not base64")
    return data


def _server_final(message: bytes) -> str:
    """RFC 5802 section 7, server-final-message: a signature of SHA-256's size, or an error."""
    if not _SERVER_FINAL.fullmatch(message):
        raise UpstreamError("SCRAM: malformed server-final-message")
    return message.decode("ascii")


@contextmanager
def _upstream_errors() -> Iterator[None]:
    """scramp's errors name grammar and codes, never values; unchained, as its frames hold the password."""
    try:
        yield
    except ScramException as error:
        raise UpstreamError(f"SCRAM: {error}") from None
