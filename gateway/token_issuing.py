"""Tokens as this gateway's operator issues them: a private key, claims, and out comes a JWT that `tokens` accepts.

Owns which claims there always are (`sub`, `iat`, `exp`, `jti`), and the name of the key, its RFC 7638 thumbprint.
Refuses, as ValueError, whatever the gateway would not let in, so that no token is issued that opens nothing; and shows
no private key in any reason.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from gateway.errors import Denied
from gateway.jose import unpadded
from gateway.restrictions import CLAIM, restrictions
from gateway.tokens import MAX_TOKEN, TokenVerifier, VerificationKey

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey

# What `token keygen` makes. 3072 bits are worth 128 of a symmetric key (NIST SP 800-57 part 1, table 2).
KINDS: Final[Mapping[str, Callable[[], PrivateKey]]] = {
    "ed25519": Ed25519PrivateKey.generate,
    "es256": lambda: generate_private_key(SECP256R1()),
    "es384": lambda: generate_private_key(SECP384R1()),
    "rs256": lambda: generate_rsa(65537, 3072),
}

# These have arguments of their own, or would be a second answer to one.
RESERVED: Final = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "cnf", CLAIM})


def issue(
    private_key: PrivateKey,
    *,
    subject: str,
    lifetime: int,
    now: float,
    issuer: str | None = None,
    audience: Sequence[str] = (),
    databases: Sequence[str] = (),
    networks: Sequence[str] = (),
    certificate: bytes | None = None,
    claims: Mapping[str, Any] | None = None,
) -> str:
    """A token of `subject` for `lifetime` seconds from `now`, seconds since the epoch.

    databases, networks: only for these; empty: for whatever the rules allow. certificate: DER, of the only client that
    may use it (RFC 8705, 3.1). claims: further ones. Raises ValueError for what the gateway would refuse.
    """
    if taken := sorted(RESERVED & set(claims or {})):
        raise ValueError(f"the claim {taken[0]} cannot be given like this")
    issued = int(now)
    payload: dict[str, Any] = {"sub": subject, "iat": issued, "exp": issued + lifetime, "jti": secrets.token_hex(16)}
    if issuer is not None:
        payload["iss"] = issuer
    if audience:
        payload["aud"] = audience[0] if len(audience) == 1 else list(audience)
    if restricted := _restricted(databases, networks):
        payload[CLAIM] = restricted
    if certificate is not None:
        payload["cnf"] = {"x5t#S256": unpadded(hashlib.sha256(certificate).digest()).decode("ascii")}
    return _signed(private_key, {**payload, **(claims or {})}, now)


def _restricted(databases: Sequence[str], networks: Sequence[str]) -> dict[str, list[str]]:
    return {name: list(items) for name, items in (("db", databases), ("cidr", networks)) if items}


def _signed(private_key: PrivateKey, payload: dict[str, Any], now: float) -> str:
    key = VerificationKey(private_key.public_key())
    token = jwt.encode(payload, private_key, algorithm(key), headers={"kid": key.thumbprint})
    if len(token) > MAX_TOKEN:
        raise ValueError(f"the token would be longer than {MAX_TOKEN} bytes")
    try:
        restrictions(TokenVerifier([key]).verify(token.encode("ascii"), now).claims)
    except Denied as error:
        raise ValueError(str(error)) from None
    return token


def algorithm(key: VerificationKey) -> str:
    """The one that most programs know, of those that this key may be used with."""
    return next(name for name in ("EdDSA", "ES256", "ES384", "RS256") if name in key.algorithms)


# --- private keys ---------------------------------------------------------------------------------------------------


def private_pem(key: PrivateKey, passphrase: bytes | None) -> bytes:
    """PKCS #8 (RFC 5958), encrypted where there is a passphrase."""
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def public_pem(key: PrivateKey) -> bytes:
    """As `[jwt:NAME] public_keys` takes it."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def load_private_key(pem: bytes, passphrase: bytes | None) -> PrivateKey:
    """Raises ValueError, quoting neither of them."""
    try:
        key = load_pem_private_key(pem, passphrase)
    except TypeError:
        missing = "is encrypted: a passphrase is needed: --passphrase-file"
        reason = missing if passphrase is None else "is not encrypted, so no passphrase"
        raise ValueError(reason) from None
    except (ValueError, UnsupportedAlgorithm):
        wrong = "" if passphrase is None else ", or the passphrase is another"
        raise ValueError(f"is not a readable PEM private key{wrong}") from None
    if not isinstance(key, PrivateKey):
        raise ValueError("is a kind of key that signs no tokens; use Ed25519, EC P-256, EC P-384 or RSA")
    VerificationKey(key.public_key())  # of a curve and size that the gateway trusts
    return key
