"""JWT verification: from the bytes a client shows to an Identity, with the keys and the clock passed in.

Owns the strict reading of a compact JWS (RFC 7515) that carries claims (RFC 7519), under the advice of RFC 8725. The
configured key decides which algorithms may be used; what the token says of itself never adds one, never fetches a key
(`jku`, `x5u`, `jwk` and `x5c` are ignored) and never names a file. Only PyJWT's signature primitives are used: its
reader is more liberal than ours and looks at the clock itself.

Refuses, always as Denied: whatever is not exactly one grammar (padding, stray bits, duplicate members, NaN), unknown
`crit`, `b64`, tokens typed for another purpose, and claims that do not hold at the given time.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import Algorithm, ECAlgorithm, OKPAlgorithm, RSAAlgorithm, RSAPSSAlgorithm

from gateway.errors import Denied
from gateway.identity import Identity
from gateway.jose import base64url, json_object, unpadded

# As long as the longest password that is read: the password, not this, is what a client could find too long.
MAX_TOKEN: Final = 64 * 1024

# The header is parsed before the signature is known to be good; this has room for a certificate chain that we ignore.
MAX_HEADER: Final = 16 * 1024

# The last second of the year 9999: later dates are a mistake, and overflow what reads them next.
MAX_DATE: Final = 253_402_300_799

MIN_RSA_BITS: Final = 2048

# Longer than any name that issuers give to a token; a UUID has 36.
MAX_JTI: Final = 1024

# What stands beside a name in a list that somebody wrote by hand, and would otherwise be taken for a part of it.
_NOT_IN_JTI: Final = frozenset(" #,;\"'")

# Explicit typing (RFC 8725 section 3.11): a logout token or a DPoP proof signed by the same key opens nothing here.
TYPES: Final = frozenset({"jwt", "at+jwt"})

_ED25519: Final = frozenset({"EdDSA", "Ed25519"})
_EDDSA: Final = OKPAlgorithm()
ALGORITHMS: Final[Mapping[str, Algorithm]] = {
    "EdDSA": _EDDSA,
    "Ed25519": _EDDSA,  # the fully specified name of RFC 9864
    "ES256": ECAlgorithm(ECAlgorithm.SHA256),
    "ES384": ECAlgorithm(ECAlgorithm.SHA384),
    "RS256": RSAAlgorithm(RSAAlgorithm.SHA256),
    "RS384": RSAAlgorithm(RSAAlgorithm.SHA384),
    "RS512": RSAAlgorithm(RSAAlgorithm.SHA512),
    "PS256": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA256),
    "PS384": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA384),
    "PS512": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA512),
}

PublicKey = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key that may vouch for tokens.

    kid: the name that its issuer gives it, if configured. alg: the one algorithm that it is for (RFC 7517 section 4.4);
    None: any of its type. algorithms: all that it may verify. thumbprint: its RFC 7638 name, which every key also
    answers to. Raises ValueError for a key of a type, curve or size that we do not trust, or an alg not of its type.
    """

    public_key: PublicKey = field(repr=False)
    kid: str | None = None
    alg: str | None = None
    algorithms: frozenset[str] = field(init=False)
    thumbprint: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "algorithms", _algorithms(self.public_key, self.alg))
        object.__setattr__(self, "thumbprint", _thumbprint(self.public_key))


def load_public_key(pem: bytes, kid: str | None = None) -> VerificationKey:
    """The one SubjectPublicKeyInfo block (RFC 7468 section 13) of `pem`; ValueError, saying why, for anything else."""
    labels = re.findall(rb"-----BEGIN ([A-Z0-9 ]*)-----", pem)
    if any(label.endswith(b"PRIVATE KEY") for label in labels):
        raise ValueError("holds a private key; verifying needs only the public one (openssl pkey -pubout)")
    if len(labels) != 1:
        raise ValueError(f"expected one PEM block (BEGIN PUBLIC KEY), found {len(labels)}")
    if labels[0] != b"PUBLIC KEY":
        raise ValueError(f"expected BEGIN PUBLIC KEY, found BEGIN {labels[0].decode('ascii')}")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("the public key cannot be read: damaged, or of an unknown type or curve") from None
    if not isinstance(key, PublicKey):
        raise ValueError("unsupported type of key; use Ed25519, EC P-256, EC P-384 or RSA")
    return VerificationKey(key, kid)


class TokenVerifier:
    """Verifies tokens against keys. With no key, every token is refused.

    issuer: the exact `iss` wanted; None: any. audience: one of these must be in `aud`; empty: `aud` is not looked at.
    leeway: seconds by which the issuer's clock may differ from ours. max_lifetime: seconds from `iat` to `exp`, or from
    now where the token has no `iat`. revoked: every `jti` that is no longer believed. revocable: there is a list of
    them, so whatever has a `jti` must have one that could be in it. more: keys that come and go, so it is asked at each
    verification. missing: called for a token whose `kid` names no key that is known; does not wait.
    """

    __slots__ = (
        "_audience",
        "_issuer",
        "_keys",
        "_leeway",
        "_max_lifetime",
        "_missing",
        "_more",
        "_revocable",
        "_revoked",
    )

    def __init__(
        self,
        keys: Sequence[VerificationKey],
        *,
        issuer: str | None = None,
        audience: tuple[str, ...] = (),
        leeway: float = 0,
        max_lifetime: float | None = None,
        revoked: frozenset[str] = frozenset(),
        revocable: bool = False,
        more: Callable[[], Sequence[VerificationKey]] | None = None,
        missing: Callable[[], None] | None = None,
    ) -> None:
        self._keys = tuple(keys)
        self._issuer = issuer
        self._audience = frozenset(audience)
        self._leeway = leeway
        self._max_lifetime = max_lifetime
        self._revoked, self._revocable = revoked, revocable
        self._more, self._missing = more, missing

    def verify(self, token: bytes, now: float) -> Identity:
        """Who the token proves. Raises Denied, with the true reason, for everything else.

        The identity expires at `exp` plus the leeway: what was let in within the leeway is not ended at once.
        """
        signed, header, payload, signature = _parts(token)
        self._check_signature(header, signed, signature)
        claims = _json_object(payload, "claims set")
        self._check_issuer_and_audience(claims)
        expires = self._check_dates(claims, now)
        serial = _serial(claims)
        self._check_not_revoked(serial)
        return Identity("jwt", _subject(claims), expires, serial, MappingProxyType(claims))

    def revoked(self, jti: str | None) -> bool:
        """A token without a `jti` has no name by which it could be."""
        return jti is not None and jti in self._revoked

    def _check_not_revoked(self, jti: str | None) -> None:
        if self._revocable and jti is not None:
            try:
                check_jti(jti)
            except ValueError:
                raise Denied("the token's jti is none that could be revoked") from None
        if self.revoked(jti):
            raise Denied("the token is revoked")

    def _check_signature(self, header: dict[str, Any], signed: bytes, signature: bytes) -> None:
        name = header.get("alg")
        if not isinstance(name, str):
            raise Denied("the token's header has no alg")
        keys = [key for key in self._candidates(header) if name in key.algorithms]
        if not keys:
            raise Denied(f"no configured key may verify alg {name[:20]!r}")
        if not any(ALGORITHMS[name].verify(signed, key.public_key, signature) for key in keys):
            raise Denied("the token's signature fits no configured key")

    def _candidates(self, header: dict[str, Any]) -> Sequence[VerificationKey]:
        """The keys that `kid` (RFC 7515 section 4.1.4) leaves to try.

        A kid that names configured keys leaves only those. One that we do not know can still be the issuer's name for
        a key that was configured without a name; it never leads to a key that is known under another name.
        """
        keys = (*self._keys, *self._more()) if self._more else self._keys
        if "kid" not in header:
            return keys
        kid = header["kid"]
        if not isinstance(kid, str):
            raise Denied("the token's kid is not a string")
        named = [key for key in keys if kid in (key.kid, key.thumbprint)]
        if not named and self._missing is not None:
            self._missing()
        return named or [key for key in keys if key.kid is None]

    def _check_issuer_and_audience(self, claims: dict[str, Any]) -> None:
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise Denied("the token's iss is not the configured issuer")
        if not self._audience:
            return
        audience = claims.get("aud")
        if isinstance(audience, str):
            audience = [audience]
        if not isinstance(audience, list) or not all(isinstance(name, str) for name in audience):
            raise Denied("the token has no aud that is a string or a list of strings")
        if self._audience.isdisjoint(audience):
            raise Denied("the token's aud names none of the configured audiences")

    def _check_dates(self, claims: dict[str, Any], now: float) -> float:
        """RFC 7519 sections 4.1.4 to 4.1.6. Each comparison says what must hold, so that a NaN lets nobody in."""
        exp, nbf, iat = (_date(claims, name) for name in ("exp", "nbf", "iat"))
        if exp is None:
            raise Denied("the token has no exp")
        if not now < exp + self._leeway:
            raise Denied(f"the token expired {now - exp:.0f} seconds ago")
        if nbf is not None and not nbf <= now + self._leeway:
            raise Denied(f"the token is not valid for another {nbf - now:.0f} seconds (nbf)")
        if iat is not None and not iat <= now + self._leeway:
            raise Denied(f"the token was issued {iat - now:.0f} seconds in the future (iat)")
        if self._max_lifetime is not None and not exp - (now if iat is None else iat) <= self._max_lifetime:
            raise Denied(f"the token lives longer than the {self._max_lifetime:g} seconds allowed")
        return float(exp + self._leeway)


def check_jti(jti: str) -> None:
    """Raises ValueError for a `jti` that cannot be told exactly from what is around it, in a list or by eye.

    RFC 7519, 4.1.7, lets it be any string; real ones are UUIDs, random hexadecimal or base64, and URNs.
    """
    if not jti or not jti.isprintable() or not _NOT_IN_JTI.isdisjoint(jti):
        raise ValueError("a jti has no spaces, none of # , ; \" ' and nothing that cannot be seen")
    if len(jti.encode()) > MAX_JTI:
        raise ValueError(f"the jti is longer than {MAX_JTI} bytes")


def certificate_bound(identity: Identity, peer_certificate: bytes | None) -> None:
    """Raises Denied if the token is bound to a client certificate (RFC 8705 section 3.1) other than this one (DER).

    RFC 7800 would let us ignore a kind of `cnf` that we cannot check; its binding would then protect nothing: refused.
    """
    if "cnf" not in identity.claims:
        return
    confirmation = identity.claims["cnf"]
    if not isinstance(confirmation, dict) or confirmation.keys() != {"x5t#S256"}:
        raise Denied("the token is bound to its holder in a way other than x5t#S256")
    thumbprint = confirmation["x5t#S256"]
    if not isinstance(thumbprint, str):
        raise Denied("the token's x5t#S256 is not a string")
    wanted = _base64url(thumbprint.encode("utf-8"), "x5t#S256")
    if peer_certificate is None:
        raise Denied("the token is bound to a client certificate and none was presented")
    if not hmac.compare_digest(hashlib.sha256(peer_certificate).digest(), wanted):
        raise Denied("the token is bound to another client certificate")


# --- the grammar -------------------------------------------------------------------------------------------------


def _parts(token: bytes) -> tuple[bytes, dict[str, Any], bytes, bytes]:
    """Signing input, checked header, payload and signature of a compact serialization (RFC 7515 section 7.1)."""
    if len(token) > MAX_TOKEN:
        raise Denied(f"the token is longer than {MAX_TOKEN} bytes")
    segments = token.split(b".")
    if len(segments) != 3:
        raise Denied("not a JWT: three parts expected")
    if len(segments[0]) > MAX_HEADER:
        raise Denied(f"the token's header is longer than {MAX_HEADER} bytes")
    header = _json_object(_base64url(segments[0], "header"), "header")
    _check_header(header)
    payload, signature = _base64url(segments[1], "claims set"), _base64url(segments[2], "signature")
    return token[: token.rindex(b".")], header, payload, signature


def _check_header(header: dict[str, Any]) -> None:
    """RFC 7515 sections 4.1.9 and 4.1.11. We understand no extension, so no `crit` and no `b64` (RFC 7797)."""
    if "crit" in header or "b64" in header:
        raise Denied("the token's header demands an extension (crit or b64)")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in TYPES:
        raise Denied("the token's typ is neither JWT nor at+jwt")


def _base64url(text: bytes, part: str) -> bytes:
    try:
        return base64url(text)
    except ValueError as error:
        raise Denied(f"the token's {part} {error}") from None


def _json_object(data: bytes, part: str) -> dict[str, Any]:
    try:
        return json_object(data)
    except ValueError as error:
        raise Denied(f"the token's {part} {error}") from None


# --- claims ------------------------------------------------------------------------------------------------------


def _date(claims: dict[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519 section 2). A bool is an int in Python, but no date."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_DATE:
        raise Denied(f"the token's {name} is not a date")
    return value


def _subject(claims: dict[str, Any]) -> str:
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject or "\0" in subject:
        raise Denied("the token has no sub that is a non-empty string without NUL")
    return subject


def _serial(claims: dict[str, Any]) -> str | None:
    serial = claims.get("jti")
    if "jti" in claims and not isinstance(serial, str):
        raise Denied("the token's jti is not a string")
    return serial


# --- keys --------------------------------------------------------------------------------------------------------


def _algorithms(key: PublicKey, alg: str | None) -> frozenset[str]:
    possible = _algorithms_of_type(key)
    # Both names of Ed25519 are one algorithm (RFC 9864 section 2.2).
    wanted = possible if alg is None else _ED25519 if alg in _ED25519 else frozenset({alg})
    if not wanted <= possible:
        raise ValueError(f"alg {alg!r} is not for this type of key")
    return wanted


def _algorithms_of_type(key: PublicKey) -> frozenset[str]:
    if isinstance(key, Ed25519PublicKey):
        return _ED25519
    if isinstance(key, RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise ValueError(f"an RSA key of {key.key_size} bits is too weak; at least {MIN_RSA_BITS} are needed")
        return frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
    if isinstance(key.curve, SECP256R1):
        return frozenset({"ES256"})
    if isinstance(key.curve, SECP384R1):
        return frozenset({"ES384"})
    raise ValueError(f"unsupported curve {key.curve.name}; use P-256 or P-384")


def _thumbprint(key: PublicKey) -> str:
    """RFC 7638 section 3: the hash of the required members in order; RFC 8037 section 2 names those of Ed25519."""
    if isinstance(key, Ed25519PublicKey):
        jwk = OKPAlgorithm.to_jwk(key, as_dict=True)
    elif isinstance(key, RSAPublicKey):
        jwk = RSAAlgorithm.to_jwk(key, as_dict=True)
    else:
        jwk = ECAlgorithm.to_jwk(key, as_dict=True)
    required = {name: jwk[name] for name in ("crv", "e", "kty", "n", "x", "y") if name in jwk}
    digest = hashlib.sha256(json.dumps(required, sort_keys=True, separators=(",", ":")).encode("ascii")).digest()
    return unpadded(digest).decode("ascii")
