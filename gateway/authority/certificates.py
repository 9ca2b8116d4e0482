"""Certificates and revocation lists as this authority makes them: pure, with the time passed in.

Owns every extension and date in them (RFC 5280, profiled so that OpenSSL, GnuTLS, Go and the CA/Browser Forum's readers
agree). Refuses dates in which nothing could be valid. The library writes dates from 2050 on as GeneralizedTime and
those before as UTCTime, as RFC 5280, 4.1.2.5, has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.authority.errors import AuthorityError

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH

# For readers whose clock is a little slow.
BACKDATED: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whoever signs."""

    certificate: x509.Certificate
    key: SigningKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when, both included. capped: it would be longer, if its issuer did not end."""

    begin: datetime
    end: datetime
    capped: bool = False


def validity(now: datetime, lifetime: timedelta, within: x509.Certificate | None = None) -> Validity:
    """That long from now on, and a little before, but never outside the dates of its issuer. Raises AuthorityError."""
    begin, end = now - BACKDATED, now + lifetime
    if within is None:
        return Validity(begin, end)
    first, last = within.not_valid_before_utc, within.not_valid_after_utc
    if now >= last:
        raise AuthorityError(f"the CA's certificate ended at {last:%Y-%m-%d %H:%M} UTC: renew it first")
    if now < first:
        raise AuthorityError(f"the CA's certificate begins at {first:%Y-%m-%d %H:%M} UTC: is the clock right?")
    return Validity(max(begin, first), min(end, last), end > last)


def self_signed(
    key: SigningKey, name: x509.Name, dates: Validity, limits: x509.NameConstraints | None = None
) -> x509.Certificate:
    """A CA that signs leaves and revocation lists, and no CA below it."""
    builder = _builder(name, name, key.public_key(), dates)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
    )
    if limits is not None:
        builder = builder.add_extension(limits, critical=True)
    return builder.sign(key, SHA256())


def issue(
    issuer: Issuer,
    public_key: CertificatePublicKeyTypes,
    subject: x509.Name,
    names: Sequence[x509.GeneralName],
    purpose: x509.ObjectIdentifier,
    dates: Validity,
) -> x509.Certificate:
    """A leaf. What it may be used for is one thing, and it signs nothing but handshakes: with TLS 1.3, and what forward
    secrecy leaves of 1.2, that is all a key is asked for, an RSA key too."""
    builder = _builder(subject, issuer.certificate.subject, public_key, dates)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(digital_signature=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    builder = builder.add_extension(_of(issuer), critical=False)
    if names:
        critical = not subject.rdns  # RFC 5280, 4.2.1.6
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=critical)
    return builder.sign(issuer.key, SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: CertificatePublicKeyTypes, dates: Validity
) -> x509.CertificateBuilder:
    """The serial number: 159 random bits, so that it is positive in 20 octets (RFC 5280, 4.1.2.2)."""
    builder = x509.CertificateBuilder(issuer, subject, public_key, x509.random_serial_number())
    builder = builder.not_valid_before(dates.begin).not_valid_after(dates.end)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)


def _of(issuer: Issuer) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


# --- revocation lists -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Revoked:
    """One entry of a revocation list. reason: one of kinds.REASONS."""

    serial: int
    at: datetime
    reason: str


def revocation_list(
    issuer: Issuer, number: int, now: datetime, lifetime: timedelta, revoked: Iterable[Revoked]
) -> x509.CertificateRevocationList:
    """In force from now on, and a little before; the next one has to be there when the lifetime is over."""
    begin = max(now - BACKDATED, issuer.certificate.not_valid_before_utc)
    builder = x509.CertificateRevocationListBuilder(issuer.certificate.subject, begin, now + lifetime)
    builder = builder.add_extension(_of(issuer), critical=False)
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    for one in revoked:
        builder = builder.add_revoked_certificate(_entry(one))
    return builder.sign(issuer.key, SHA256())


def _entry(one: Revoked) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder(one.serial, one.at)
    if one.reason != "unspecified":  # for which RFC 5280, 5.3.1, would have no extension
        builder = builder.add_extension(x509.CRLReason(x509.ReasonFlags(one.reason)), critical=False)
    return builder.build()
