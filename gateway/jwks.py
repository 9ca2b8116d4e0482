"""A JWK Set (RFC 7517) as its issuer publishes it: from the bytes of the document to keys that may verify tokens.

Owns which of its keys are for us: those that sign, of the types that `tokens` trusts. As RFC 7517 section 5 asks,
others are passed over: other types and curves, encryption, keys too weak or too large. What would be for us but is
malformed makes the whole set unusable, and so does a private key: whoever reads the set could sign. Certificates and
URLs in it (`x5c`, `x5u`) are not looked at, and nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers

from gateway.jose import base64url, json_object
from gateway.tokens import ALGORITHMS, MIN_RSA_BITS, PublicKey, VerificationKey

# Real sets have some ten keys, each with a chain of certificates at most.
MAX_DOCUMENT: Final = 1024 * 1024

# A token without a kid is tried with every key of its algorithm.
MAX_KEYS: Final = 100

# OpenSSL verifies with no larger modulus, and with no exponent of more than 64 bits above 3072 (its manual,
# RSA_public_encrypt and OPENSSL_RSA_MAX_MODULUS_BITS): such a key is there to cost time.
MAX_RSA_BITS: Final = 16_384
_MAX_EXPONENT: Final = 8

# RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1; `priv` is that of draft-ietf-cose-dilithium.
_PRIVATE: Final = ("d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv")


def parse(document: bytes) -> tuple[VerificationKey, ...]:
    """The keys that may verify tokens, at least one, in the order of the set. ValueError says why there are none."""
    if len(document) > MAX_DOCUMENT:
        raise ValueError(f"is larger than {MAX_DOCUMENT} bytes")
    listed = json_object(document).get("keys")
    if not isinstance(listed, list) or not all(isinstance(jwk, dict) for jwk in listed):
        raise ValueError("is not a JWK Set: it has no keys that are a list of objects")
    if len(listed) > MAX_KEYS:
        raise ValueError(f"has more than {MAX_KEYS} keys")
    keys = [key for number, jwk in enumerate(listed, 1) if (key := _numbered(number, jwk))]
    if not keys:
        raise ValueError("has no key that could verify a token: Ed25519, EC (P-256, P-384) or RSA, to sign with")
    _check_kids(keys)
    return tuple(keys)


def _check_kids(keys: list[VerificationKey]) -> None:
    """RFC 7517 section 4.5: one kid for two keys only where these are alternatives, told apart by their algorithms."""
    taken: set[tuple[str, str]] = set()
    for key in keys:
        names = {(key.kid, algorithm) for algorithm in key.algorithms if key.kid is not None}
        if not names.isdisjoint(taken):
            raise ValueError("has two keys of the same kid and type")
        taken |= names


def _numbered(number: int, jwk: dict[str, Any]) -> VerificationKey | None:
    try:
        return _key(jwk)
    except ValueError as error:
        raise ValueError(f"key {number}: {error}") from None


def _key(jwk: dict[str, Any]) -> VerificationKey | None:
    """None for one that is not for us."""
    for member in _PRIVATE:
        if member in jwk:
            raise ValueError(f"it is a private or secret one ({member}): whoever has read it can sign, so it must go")
    kid, alg = _text(jwk, "kid"), _text(jwk, "alg")
    make = _kind(jwk)
    if make is None or not _verifies(jwk) or (alg is not None and alg not in ALGORITHMS):
        return None
    public_key = make(jwk)
    return VerificationKey(public_key, kid, alg) if public_key else None


def _text(jwk: dict[str, Any], member: str) -> str | None:
    text = jwk.get(member)
    if member in jwk and not isinstance(text, str):
        raise ValueError(f"its {member} is not a string")
    return text


def _verifies(jwk: dict[str, Any]) -> bool:
    """RFC 7517 sections 4.2 and 4.3: both are optional, and have to agree where both are there."""
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or not all(isinstance(one, str) for one in operations):
        raise ValueError("its key_ops are not a list of strings")
    return _text(jwk, "use") in (None, "sig") and "verify" in operations


# --- types of keys: RFC 7518 section 6, RFC 8037 section 2 -----------------------------------------------------------


def _kind(jwk: dict[str, Any]) -> Callable[[dict[str, Any]], PublicKey | None] | None:
    kty = _text(jwk, "kty")
    if kty is None:
        raise ValueError("it has no kty")
    if kty == "RSA":
        return _rsa
    return _CURVES.get((kty, _text(jwk, "crv") or ""))


def _octets(jwk: dict[str, Any], member: str, size: int | None = None) -> bytes:
    """size: exactly so many; None: as many as it takes, none of them a leading zero (Base64urlUInt, RFC 7518, 2)."""
    text = _text(jwk, member)
    if text is None:
        raise ValueError(f"it has no {member}")
    try:
        octets = base64url(text.encode("utf-8"))
    except ValueError as error:
        raise ValueError(f"its {member} {error}") from None
    if size is not None and len(octets) != size:
        raise ValueError(f"its {member} has {len(octets)} bytes instead of {size}")
    if size is None and octets[0] == 0:
        raise ValueError(f"its {member} begins with zeros")
    return octets


def _rsa(jwk: dict[str, Any]) -> RSAPublicKey | None:
    n, e = _octets(jwk, "n"), _octets(jwk, "e")
    if len(e) > _MAX_EXPONENT:
        raise ValueError("its e is too large to be meant")
    modulus = int.from_bytes(n)
    if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
        return None
    try:
        return RSAPublicNumbers(int.from_bytes(e), modulus).public_key()
    except ValueError:
        raise ValueError("its n and e are no RSA key") from None


def _ec(curve: SECP256R1 | SECP384R1, jwk: dict[str, Any]) -> EllipticCurvePublicKey:
    x, y = (int.from_bytes(_octets(jwk, member, curve.key_size // 8)) for member in ("x", "y"))
    try:
        return EllipticCurvePublicNumbers(x, y, curve).public_key()
    except ValueError:
        raise ValueError(f"its x and y are no point of {jwk['crv']}") from None


_CURVES: Final[Mapping[tuple[str, str], Callable[[dict[str, Any]], PublicKey]]] = {
    ("OKP", "Ed25519"): lambda jwk: Ed25519PublicKey.from_public_bytes(_octets(jwk, "x", 32)),
    ("EC", "P-256"): lambda jwk: _ec(SECP256R1(), jwk),
    ("EC", "P-384"): lambda jwk: _ec(SECP384R1(), jwk),
}
