"""What every peer shows and every client presents: ECDSA P-256 certificates; for Postgres, an Ed25519-signed token."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from pwd import struct_passwd

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=1)
LOCALHOST = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])


@dataclass(frozen=True, slots=True)
class Credentials:
    certificate: Path
    key: Path
    public_key: Path
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class MutualCredentials:
    """One CA's server and client. thing_key: the client's common name, which is also its secret (Mainflux's way)."""

    authority: Path
    certificate: Path
    key: Path
    client_certificate: Path
    client_key: Path
    thing_key: str = field(repr=False)


def write_credentials(folder: Path, role: str, account: struct_passwd) -> Credentials:
    """Fresh files in `folder`; the private one belongs to `account`, as PostgreSQL insists."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = {"sub": role, "exp": int(time.time() + LIFETIME.total_seconds())}
    certificate = _write(folder / "server.crt", _self_signed(key).public_bytes(Encoding.PEM), 0o644)
    key_file = _write(folder / "server.key", private, 0o600)
    os.chown(key_file, account.pw_uid, account.pw_gid)
    public_key = _write(folder / "token.pub", public, 0o644)
    return Credentials(certificate, key_file, public_key, jwt.encode(claims, signer, algorithm="EdDSA"))


def write_mutual_credentials(folder: Path) -> MutualCredentials:
    """Fresh files in `folder`."""
    thing_key = secrets.token_hex(16)
    signer = ec.generate_private_key(ec.SECP256R1())
    issuer = _name("benchmark CA")
    root = _certificate(issuer, issuer, signer, signer, (x509.BasicConstraints(ca=True, path_length=0),))
    authority = _write(folder / "ca.crt", root.public_bytes(Encoding.PEM), 0o644)

    def issue(file: str, common_name: str, *extensions: x509.ExtensionType) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = _certificate(_name(common_name), issuer, key, signer, extensions)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return (
            _write(folder / f"{file}.crt", leaf.public_bytes(Encoding.PEM), 0o644),
            _write(folder / f"{file}.key", private, 0o600),
        )

    server = issue("server", "localhost", LOCALHOST, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]))
    client = issue("client", thing_key, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]))
    return MutualCredentials(authority, *server, *client, thing_key)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = _name("localhost")
    return _certificate(name, name, key, key, (LOCALHOST,))


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    extensions: tuple[x509.ExtensionType, ...],
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, isinstance(extension, x509.BasicConstraints))
    return builder.sign(signer, hashes.SHA256())


def _write(path: Path, content: bytes, mode: int) -> Path:
    path.touch(mode=0o600)
    path.chmod(mode)
    path.write_bytes(content)
    return path
