"""PEM files: certificates, revocation lists and private keys, read whole or refused whole.

Refuses files that do not parse to their last block (the parser alone would skip a cut one), CRLs without nextUpdate,
encrypted keys (nobody is ever asked for a passphrase), and keys that TLS cannot use or that belong to another
certificate. No reason quotes a file's content.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway import named_files
from gateway.errors import Problems

T = TypeVar("T")

# Where the configuration says something, and where its problems are told: a section and a key in it.
Place = tuple[str, str]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

CERTIFICATE_BLOCK = re.compile(rb"-----BEGIN [A-Z0-9 ]*CERTIFICATE-----")
CRL_BLOCK = re.compile(rb"-----BEGIN [A-Z0-9 ]*CRL-----")
WHOLE_CRL = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)

# An authority with a million revoked certificates has one of some 40 MiB, and PEM takes a third more.
MAX_CRL: Final = 128 * 1024 * 1024

# Everything that cryptography raises for a bad certificate, CRL or key.
UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@contextmanager
def _parsing(path: Path, what: str) -> Iterator[None]:
    """One plain reason for whatever the parsers raise."""
    try:
        yield
    except UNREADABLE as error:
        raise ValueError(f"{path}: is not a readable {what}") from error


def load_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """All certificates of a file, at least one."""
    pem = named_files.read(path)
    with _parsing(path, "PEM certificate"):
        found = tuple(x509.load_pem_x509_certificates(pem))
        for certificate in found:  # both are parsed only when asked for, and must not fail later
            certificate.extensions  # noqa: B018
            certificate.public_key()
    if len(found) != len(CERTIFICATE_BLOCK.findall(pem)):
        raise ValueError(f"{path}: not all of its certificates are readable")
    return found


def load_crls(path: Path) -> tuple[x509.CertificateRevocationList, ...]:
    """All CRLs of a file, at least one, each with the nextUpdate that RFC 5280, 5.1.2.5 demands."""
    pem = named_files.read(path, MAX_CRL)
    blocks = WHOLE_CRL.findall(pem)
    if not blocks or len(blocks) != len(CRL_BLOCK.findall(pem)):
        raise ValueError(f"{path}: is not a readable PEM CRL")
    with _parsing(path, "PEM CRL"):
        found = tuple(map(x509.load_pem_x509_crl, blocks))
    if any(crl.next_update_utc is None for crl in found):
        raise ValueError(f"{path}: has no nextUpdate, so nobody could tell when it is stale")
    return found


def load_key(path: Path) -> PrivateKey:
    """A private key that TLS can use."""
    pem = named_files.read(path)
    with _parsing(path, "PEM private key"):
        try:
            key = load_pem_private_key(pem, password=None)
        except TypeError:  # cryptography's way to say that a passphrase is missing
            key = None
    if key is None:
        raise ValueError(f"{path}: is encrypted; store the key without a passphrase, readable by the gateway alone")
    if not isinstance(key, PrivateKey):
        raise ValueError(f"{path}: TLS has no use for this kind of private key")
    return key


def exposed(path: Path) -> bool:
    """Whether others can use a private key, by PostgreSQL's rule (manual, 18.9.2): 0600, or 0640 if it is root's."""
    status = path.stat()
    return bool(status.st_mode & (0o037 if status.st_uid == 0 else 0o077))


def read(load: Callable[[Path], T], place: Place, path: Path | None, problems: Problems) -> T | None:
    """What `load` makes of that file; None without a path, and None with a problem of that place if it fails."""
    if path:
        with problems.at(*place):
            return load(path)
    return None


@dataclass(frozen=True, slots=True)
class Credential:
    """Our own certificate with what is sent along (the leaf first), and its key."""

    certificate_path: Path
    key_path: Path
    chain: tuple[x509.Certificate, ...]
    key: PrivateKey = field(repr=False)

    def dns_names(self) -> list[bytes]:
        """The leaf's SAN DNS names, in lower case."""
        try:
            names = self.chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return []
        return [name.lower().encode("ascii") for name in names.get_values_for_type(x509.DNSName)]


def load_credential(places: tuple[Place, Place], certificate: Path, key: Path, problems: Problems) -> Credential | None:
    """Both files, checked against each other; `places` are where the configuration names them."""
    chain = read(load_certificates, places[0], certificate, problems)
    private = read(load_key, places[1], key, problems)
    if chain is None or private is None:
        return None
    if chain[0].public_key() != private.public_key():
        problems.add(*places[1], f"{key}: does not match the certificate {certificate}")
        return None
    return Credential(certificate, key, chain, private)
