"""Whose certificates are believed: the authorities and the revocation lists of one listener or one upstream.

Owns how both are read and put into a context, and, without a handshake, whether a client's certificate would be
believed and why it would not, asked of OpenSSL as a handshake asks it. Refuses, as a problem of the configuration, what
`pem` refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto
from OpenSSL.crypto import X509, X509Store, X509StoreContext, X509StoreContextError, X509StoreFlags
from twisted.logger import Logger

from gateway.errors import Problems
from gateway.pem import Place, load_certificates, load_crls, read

log = Logger()

# What OpenSSL's security level 2 demands, its default since 3.2: 112 bits (SSL_CTX_set_security_level(3)).
MIN_RSA: Final = 2048
MIN_CURVE: Final = 224
_WEAK_DIGESTS: Final = frozenset({"md5", "sha1"})
# X509_V_FLAG_NO_CHECK_TIME: neither certificates nor CRLs are held to their dates. pyOpenSSL has no name for it.
_NO_CHECK_TIME: Final = 0x200000


def warn(path: Path, words: str) -> None:
    log.warn("{path}: {words}", path=path, words=words)  # noqa: G010  Twisted's Logger has no other name for it


def weak_key(certificate: x509.Certificate) -> str | None:
    """Why OpenSSL would not believe that key, whatever the chain says."""
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA:
        return f"its RSA key of {key.key_size} bits is too weak"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < MIN_CURVE:
        return f"its key on the curve {key.curve.name} is too weak"
    return None


def weak_signature(certificate: x509.Certificate) -> str | None:
    """The same of what its issuer has signed it with."""
    try:
        digest = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return "it is signed with an algorithm that is not known"
    return f"it is signed with {digest.name}" if digest is not None and digest.name in _WEAK_DIGESTS else None


class StaleCRLWarning:
    """OpenSSL's verification callback where a stale CRL still counts: it forgives that one error and no other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said = False

    def __call__(self, _connection: SSL.Connection, _certificate: X509, error: int, _depth: int, ok: int) -> bool:
        if ok or error != SSL.X509VerificationCodes.ERR_CRL_HAS_EXPIRED:
            return bool(ok)
        if not self.said:
            self.said = True
            warn(self.path, "a CRL past its nextUpdate is still trusted (stale_crl = warn)")
        return True


@dataclass(frozen=True, slots=True)
class Examined:
    """A client's certificate as a handshake would see it.

    refusal: why it would fail; None: it would not. issuers: SHA-256 of the DER of each that vouches for it, from its
    issuer up to the root. stale: it is only let in because a CRL past its nextUpdate still counts.
    """

    refusal: str | None = None
    issuers: tuple[bytes, ...] = ()
    stale: bool = False


class Unbelieved(Exception):
    """No handshake would go well with that certificate; the text says why."""


@dataclass(frozen=True, slots=True)
class Trust:
    """With any CRL, every certificate of a chain needs one of its issuer."""

    authorities: tuple[x509.Certificate, ...] = ()
    crls: tuple[x509.CertificateRevocationList, ...] = ()
    forgive: StaleCRLWarning | None = None
    # What verifies without a handshake, made when it is first asked for: a reload asks for each session.
    _stores: dict[tuple[int, int], X509Store] = field(default_factory=dict, init=False, repr=False, compare=False)

    def install(self, context: SSL.Context, mode: int) -> None:
        store = context.get_cert_store()
        assert store is not None
        self._fill(store, self.crls)
        context.set_verify(mode, self.forgive)

    def _fill(self, store: X509Store, crls: Sequence[x509.CertificateRevocationList]) -> None:
        for authority in self.authorities:
            store.add_cert(X509.from_cryptography(authority))
        for crl in crls:
            store.add_crl(crl)
        if self.crls:
            # Also where none of them is in force yet.
            store.set_flags(X509StoreFlags.CRL_CHECK | X509StoreFlags.CRL_CHECK_ALL)

    # --- a client's certificate, without a handshake ----------------------------------------------------------------

    def examine(self, chain: Sequence[x509.Certificate]) -> Examined:
        """chain: the client's certificate, and what it would send along."""
        leaf, *others = map(X509.from_cryptography, chain)
        try:
            found, stale = self.believed(leaf, others)
        except Unbelieved as why:
            return Examined(str(why))
        return _examined([one.to_cryptography() for one in found], stale)

    def believed(self, leaf: X509, others: Sequence[X509]) -> tuple[Sequence[X509], bool]:
        """The chain up to the root, as OpenSSL builds it, and whether a stale CRL was forgiven. Raises Unbelieved.

        OpenSSL forgives that only while it shakes hands. So it then looks at no dates at all, and those that do matter
        are looked at here.
        """
        try:
            return X509StoreContext(self._store(self.crls), leaf, others).get_verified_chain(), False
        except X509StoreContextError as error:
            if self.forgive is None or error.errors[0] != SSL.X509VerificationCodes.ERR_CRL_HAS_EXPIRED:
                raise Unbelieved(error.errors[2]) from error
        now = datetime.now(UTC)
        begun = tuple(crl for crl in self.crls if crl.last_update_utc <= now)
        try:
            found = X509StoreContext(self._store(begun, _NO_CHECK_TIME), leaf, others).get_verified_chain()
        except X509StoreContextError as error:
            raise Unbelieved(error.errors[2]) from error
        dates = [(one.not_valid_before_utc, one.not_valid_after_utc) for one in map(X509.to_cryptography, found)]
        if not all(first <= now <= last for first, last in dates):
            raise Unbelieved("certificate has expired, or is not yet valid")
        return found, True

    def _store(self, crls: Sequence[x509.CertificateRevocationList], flags: int = 0) -> X509Store:
        """crls: all, or those of them that are in force already, which only ever become more."""
        key = len(crls), flags
        if key not in self._stores:
            store = X509Store()
            self._fill(store, crls)
            if flags:
                store.set_flags(flags)
            # A handshake asks what a certificate is for (RFC 5280, 4.2.1.12); how to ask, pyOpenSSL keeps to itself.
            private: Any = crypto
            private._lib.X509_STORE_set_purpose(store._store, private._lib.X509_PURPOSE_SSL_CLIENT)  # noqa: SLF001
            self._stores[key] = store
        return self._stores[key]


def _examined(found: Sequence[x509.Certificate], stale: bool) -> Examined:
    """A handshake also looks at the strength of each key, and of each signature but the root's own."""
    weak = [why for why in map(weak_key, found) if why] + [why for why in map(weak_signature, found[:-1]) if why]
    if weak:
        return Examined(f"OpenSSL's security level: {weak[0]}")
    return Examined(None, tuple(sha256(one.public_bytes(Encoding.DER)).digest() for one in found[1:]), stale)


def read_trust(
    problems: Problems, ca: tuple[Place, Path | None], crl: tuple[Place, Path | None], stale_crl: str = "deny"
) -> Trust:
    """Reads a CA file and a CRL file, each given with its place in the configuration."""
    authorities = read(load_certificates, *ca, problems) or ()
    crls = read(load_crls, *crl, problems) or ()
    if crl[1] and stale_crl == "warn":
        return Trust(authorities, crls, StaleCRLWarning(crl[1]))
    if crl[1] and any(each.next_update_utc and each.next_update_utc < datetime.now(UTC) for each in crls):
        warn(crl[1], "a CRL in it is past its nextUpdate: whom it speaks of is refused")
    return Trust(authorities, crls)
