"""The quickstart's keys: a CA with the two certificates that it signed, and a key pair with the JWT that it signed.

Owns two folders, each made whole beside its place and then renamed, so that no file of one generation ever stands
beside one of another. Refuses to keep what is damaged, foreign or near its end. The CA's private key is never written,
so nobody can sign with it later: its certificates are made together, and made anew together.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from gateway.authority import names
from gateway.authority.certificates import CLIENT, SERVER, Issuer, Validity, issue, self_signed, validity
from gateway.authority.keys import new_key, write_key
from gateway.embedded import write_private
from gateway.errors import Denied
from gateway.tokens import TokenVerifier, VerificationKey
from gateway.upstream import ServerTLS

# Apple's systems refuse server certificates that live longer than 398 days.
CERTIFICATE_LIFETIME = timedelta(days=397)
RENEW_BEFORE = timedelta(days=30)

TOKEN_SECONDS = 24 * 3600

THINGS = ("thing", "other")
_LEAVES = ("server", *THINGS)


@dataclass(frozen=True, slots=True)
class PKI:
    """A folder with the CA's certificate, and those of this machine and of two things with their keys."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def certificate(self) -> Path:
        """The thing's, with a random key as its common name: whoever reads it can be the thing."""
        return self.folder / "thing.crt"

    @property
    def key(self) -> Path:
        """The private key of the thing's certificate."""
        return self.folder / "thing.key"

    @property
    def server(self) -> ServerTLS:
        """For a listener whose clients prove themselves by something else."""
        return ServerTLS(self.folder / "server.crt", self.folder / "server.key")

    @property
    def mutual(self) -> ServerTLS:
        """For one that hears clients without a certificate, too, so that they can be told what is missing."""
        tls = self.server
        return ServerTLS(tls.certificate, tls.key, client_certificate="optional", client_ca=self.ca)

    def files(self, thing: str) -> tuple[Path, Path]:
        """The certificate and the private key of one of THINGS."""
        return self.folder / f"{thing}.crt", self.folder / f"{thing}.key"

    def thing(self, thing: str = THINGS[0]) -> str:
        """The common name of its certificate, which is its secret key."""
        certificate, _ = self.files(thing)
        subject = x509.load_pem_x509_certificate(certificate.read_bytes()).subject
        return str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)

    def good(self, now: datetime) -> bool:
        try:
            ca = x509.load_pem_x509_certificate(self.ca.read_bytes())
            return now < ca.not_valid_after_utc - RENEW_BEFORE and all(self._good(name, ca, now) for name in _LEAVES)
        except (OSError, ValueError, TypeError, InvalidSignature):
            return False

    def _good(self, name: str, ca: x509.Certificate, now: datetime) -> bool:
        leaf = x509.load_pem_x509_certificate((self.folder / f"{name}.crt").read_bytes())
        key = load_pem_private_key((self.folder / f"{name}.key").read_bytes(), None)
        leaf.verify_directly_issued_by(ca)
        in_time = leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc - RENEW_BEFORE
        return in_time and key.public_key() == leaf.public_key()


def make_pki(folder: Path, log: Callable[[str], None]) -> PKI:
    """That of last time while it is good, else a new one."""
    pki = PKI(folder)
    if not pki.good(datetime.now(UTC)):
        log("quickstart: making a CA, a server certificate for localhost, and those of two things")
        _replace_folder(folder, _new_pki(datetime.now(UTC)))
    return pki


def make_signing_key(folder: Path, log: Callable[[str], None]) -> Ed25519PrivateKey:
    """That of last time, else a new one."""
    try:
        key = load_pem_private_key((folder / "private.pem").read_bytes(), None)
        if isinstance(key, Ed25519PrivateKey):
            return key
    except (OSError, ValueError, TypeError):
        pass
    log("quickstart: making an Ed25519 key pair that signs JWTs")
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _replace_folder(folder, {"private.pem": private, "public.pem": public})
    return key


def make_token(path: Path, key: Ed25519PrivateKey, subject: str) -> str:
    """The token of last time while at least half of its life is left, else a new one."""
    now = time.time()
    verifier = TokenVerifier([VerificationKey(key.public_key())])
    try:
        token = path.read_bytes()
        if verifier.verify(token, now).expires - now > TOKEN_SECONDS / 2:
            return token.decode("ascii")
    except (FileNotFoundError, Denied):
        pass
    claims = {"sub": subject, "iat": int(now), "exp": int(now) + TOKEN_SECONDS, "jti": str(uuid.uuid4())}
    made = jwt.encode(claims, key, algorithm="EdDSA")
    write_private(path, made)
    return made


def _replace_folder(folder: Path, files: dict[str, bytes]) -> None:
    """By one with these files; killed at any moment, it leaves a whole folder or none."""
    unfinished = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    for name, content in files.items():
        write_private(unfinished / name, content.decode("ascii"))
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


# --- certificates ---------------------------------------------------------------------------------------------------


def _new_pki(now: datetime) -> dict[str, bytes]:
    addresses = ("127.0.0.1", "::1")
    # Should somebody trust this CA for more than the quickstart: it can vouch for nothing but this machine.
    limits = names.constraints(("localhost",), addresses)
    key, dates = new_key(), validity(now, CERTIFICATE_LIFETIME)
    ca = Issuer(self_signed(key, names.subject("securegw quickstart CA"), dates, limits), key)
    local = [names.dns("localhost"), *map(names.ip, addresses)]
    files = {"ca.crt": ca.certificate.public_bytes(Encoding.PEM)}
    files |= _pair(ca, dates, "server", names.server_subject(local), local, SERVER)
    for thing in THINGS:
        files |= _pair(ca, dates, thing, names.key_subject(str(uuid.uuid4())), (), CLIENT)
    return files


def _pair(
    ca: Issuer,
    dates: Validity,
    name: str,
    subject: x509.Name,
    alternatives: Sequence[x509.GeneralName],
    purpose: x509.ObjectIdentifier,
) -> dict[str, bytes]:
    key = new_key()
    certificate = issue(ca, key.public_key(), subject, alternatives, purpose, dates)
    return {f"{name}.crt": certificate.public_bytes(Encoding.PEM), f"{name}.key": write_key(key)}
