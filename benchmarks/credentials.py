"""What every peer shows and every client presents: one ECDSA P-256 certificate, one Ed25519-signed token."""

from __future__ import annotations

import os
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
from cryptography.x509.oid import NameOID

LIFETIME = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Credentials:
    certificate: Path
    key: Path
    public_key: Path
    token: str = field(repr=False)


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


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )


def _write(path: Path, content: bytes, mode: int) -> Path:
    path.touch(mode=0o600)
    path.chmod(mode)
    path.write_bytes(content)
    return path
