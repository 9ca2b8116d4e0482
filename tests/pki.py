"""A small PKI for the tests: authorities, certificates good and ugly, revocation lists, and their PEM files.

Owns no policy: it signs whatever it is asked to sign (expired, of the wrong purpose, with any subject), because the
tests need exactly what a careless or hostile authority would hand out. Keys are EC P-256, made in microseconds.
Times are days from now, so that nothing here ages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey | rsa.RSAPrivateKey
Days = tuple[float, float]
PEM = x509.Certificate | x509.CertificateRevocationList | PrivateKey

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its key; `chain` is what stands between it and the root, the nearest issuer first."""

    certificate: x509.Certificate
    key: PrivateKey
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def root(self) -> bool:
        return self.certificate.issuer == self.certificate.subject

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Writes `name.crt` (the certificate, then its chain) and `name.key`, and tells both paths."""
        return (
            write_pem(folder / f"{name}.crt", self.certificate, *self.chain),
            write_pem(folder / f"{name}.key", self.key),
        )


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def common_name(cn: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])


def subject_of(*rdns: Sequence[tuple[x509.ObjectIdentifier, str]]) -> x509.Name:
    """A subject with the RDNs in this order; an RDN of several attributes is multi-valued. No length is checked."""
    return x509.Name(
        x509.RelativeDistinguishedName(x509.NameAttribute(oid, value, _validate=False) for oid, value in rdn)
        for rdn in rdns
    )


def general_name(san: str | x509.GeneralName) -> x509.GeneralName:
    """A string is an IP address where it can be one, else a DNS name; other kinds are given ready-made."""
    if not isinstance(san, str):
        return san
    try:
        return x509.IPAddress(ip_address(san))
    except ValueError:
        return x509.DNSName(san)


def _from_now(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def _signed(
    builder: x509.CertificateBuilder,
    public: PrivateKey,
    issuer: Issued | None,
    signer: PrivateKey,
    valid: Days,
) -> x509.Certificate:
    own = x509.SubjectKeyIdentifier.from_public_key(public.public_key())
    signers = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    if issuer:
        builder = builder.issuer_name(issuer.certificate.subject)
    builder = builder.public_key(public.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(_from_now(valid[0])).not_valid_after(_from_now(valid[1]))
    builder = builder.add_extension(own, critical=False).add_extension(signers, critical=False)
    return builder.sign(signer, _digest(signer))


def _digest(key: PrivateKey) -> SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else SHA256()


def _chain_below(issuer: Issued) -> tuple[x509.Certificate, ...]:
    return () if issuer.root else (issuer.certificate, *issuer.chain)


def make_ca(
    name: str = "Test CA",
    issuer: Issued | None = None,
    *,
    valid: Days = (-2, 60),
    key: PrivateKey | None = None,
) -> Issued:
    """A root, or with an issuer an intermediate."""
    key = key or new_key()
    builder = x509.CertificateBuilder(issuer_name=common_name(name), subject_name=common_name(name))
    if issuer:
        builder = x509.CertificateBuilder(subject_name=common_name(name))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(_ca_usage(), critical=True)
    certificate = _signed(builder, key, issuer, issuer.key if issuer else key, valid)
    return Issued(certificate, key, _chain_below(issuer) if issuer else ())


def _ca_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def issue(
    ca: Issued,
    cn: str = "someone",
    *,
    subject: x509.Name | None = None,
    sans: Sequence[str | x509.GeneralName] = (),
    eku: Sequence[x509.ObjectIdentifier] = (SERVER, CLIENT),
    valid: Days = (-1, 30),
    key: PrivateKey | None = None,
) -> Issued:
    """A leaf of that authority. `subject` replaces the one made of `cn`; an empty `eku` leaves the extension out."""
    key = key or new_key()
    builder = x509.CertificateBuilder(subject_name=subject if subject is not None else common_name(cn))
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    if eku:
        builder = builder.add_extension(x509.ExtendedKeyUsage(eku), critical=False)
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(map(general_name, sans)), critical=False)
    return Issued(_signed(builder, key, ca, ca.key, valid), key, _chain_below(ca))


def make_crl(
    ca: Issued, revoked: Iterable[Issued] = (), *, valid: Days = (-1, 7), key: PrivateKey | None = None
) -> x509.CertificateRevocationList:
    """That authority's revocation list; `valid[1]` is its nextUpdate. With another `key`: a forged one."""
    builder = x509.CertificateRevocationListBuilder(issuer_name=ca.certificate.subject)
    builder = builder.last_update(_from_now(valid[0])).next_update(_from_now(valid[1]))
    for issued in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(issued.certificate.serial_number)
        builder = builder.add_revoked_certificate(entry.revocation_date(_from_now(valid[0])).build())
    key = key or ca.key
    return builder.sign(key, _digest(key))


def pem(*things: PEM, passphrase: bytes | None = None) -> bytes:
    """All of them after each other; keys as PKCS #8, encrypted where there is a passphrase."""
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return b"".join(
        thing.public_bytes(Encoding.PEM)
        if isinstance(thing, x509.Certificate | x509.CertificateRevocationList)
        else thing.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        for thing in things
    )


def write_pem(
    path: Path,
    *things: PEM,
    passphrase: bytes | None = None,
    mode: int = 0o600,
) -> Path:
    """Writes (or replaces) the file with exactly this mode, whatever the umask, and tells its path."""
    path.write_bytes(b"")
    path.chmod(mode)
    path.write_bytes(pem(*things, passphrase=passphrase))
    return path
