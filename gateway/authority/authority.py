"""The authority: a CA, what it has signed, and what it has taken back, in one folder.

Owns the order of things: what is asked is checked, then made, then put into the folder with the index in one step. So a
certificate that anybody can have is in the index, where it can be revoked. Refuses to sign twice under one name unless
told to, and to sign with a key, or to go by an index, that is not that of the CA's certificate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.authority import folder as folders
from gateway.authority import index as indexes
from gateway.authority import names
from gateway.authority.certificates import (
    BACKDATED,
    CLIENT,
    SERVER,
    Issuer,
    Revoked,
    SigningKey,
    issue,
    revocation_list,
    self_signed,
    validity,
)
from gateway.authority.errors import AuthorityError
from gateway.authority.folder import PRIVATE, PUBLIC, Content, Folder
from gateway.authority.index import Index, Record
from gateway.authority.keys import new_key, read_key, write_key
from gateway.serials import serial_number

CERTIFICATE: Final = "ca.crt"
KEY: Final = "ca.key"
CRL: Final = "crl.pem"
INDEX: Final = "index.json"

# How long a CRL is good, unless told otherwise.
CRL_DAYS: Final = 30

# How far a clock may be behind that of the last CRL: what two machines that keep one folder may differ by.
_SLACK: Final = timedelta(minutes=5)

_PURPOSES: Final = {"server": SERVER, "thing": CLIENT, "client": CLIENT}

_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    InvalidSignature,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Foundation:
    """What a new CA will be."""

    name: str
    days: int
    limits: x509.NameConstraints | None = None
    with_rsa: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """A certificate that is wanted. kind: one of kinds.KINDS. shown: its subject as people may read it."""

    name: str
    kind: str
    subject: x509.Name
    shown: str
    names: tuple[x509.GeneralName, ...]
    days: int


@dataclass(frozen=True, slots=True)
class Made:
    """capped: it ends with the CA, and so before it was meant to. with_key: its private key is in the folder, new."""

    record: Record
    capped: bool
    with_key: bool


def found(path: Path, wanted: Foundation, now: datetime, passphrase: bytes | None, *, force: bool = False) -> datetime:
    """Makes a CA in that folder, and its first CRL. Until when it lasts. Raises AuthorityError, OSError."""
    subject, key = names.subject(wanted.name), new_key(with_rsa=wanted.with_rsa)
    sealed = write_key(key, passphrase)
    folders.make(path)
    with folders.locked(path) as folder:
        for name in (CERTIFICATE, KEY, CRL, INDEX):
            if folder.has(name) and not force:
                raise AuthorityError(
                    f"{path / name}: exists; --force makes another CA in its place, whose certificates have nothing to "
                    "do with those of before"
                )
        dates = validity(now, timedelta(days=wanted.days))
        issuer = Issuer(self_signed(key, subject, dates, wanted.limits), key)
        index = Index(_fingerprint(issuer.certificate), _number(folder) + 1, now, now, CRL_DAYS)
        index, crl = _listed(issuer, index, now)
        folder.commit({
            CERTIFICATE: Content(_pem(issuer.certificate)),
            KEY: Content(sealed, PRIVATE),
            CRL: crl,
            INDEX: Content(index.write(), PRIVATE),
        })  # fmt: skip
        return issuer.certificate.not_valid_after_utc


@contextmanager
def opened(path: Path) -> Iterator[Authority]:
    """The authority in that folder, for one command at a time. Raises AuthorityError, OSError."""
    with folders.locked(path) as folder:
        if not folder.has(INDEX) and not folder.has(CERTIFICATE):
            raise AuthorityError(f"{path}: has no CA in it; `securegw pki ca` makes one")
        certificate = _own(folder)
        index = indexes.parse(folder.read(INDEX, indexes.MAX_INDEX))
        if index.ca != _fingerprint(certificate):
            raise AuthorityError(f"{path / INDEX}: is the index of another CA than {CERTIFICATE}")
        yield Authority(folder, certificate, index)


def _own(folder: Folder) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(folder.read(CERTIFICATE))
        certificate.verify_directly_issued_by(certificate)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except _UNREADABLE:
        raise AuthorityError(f"{folder.path / CERTIFICATE}: is not a readable certificate of a root CA") from None
    if not constraints.ca:
        raise AuthorityError(f"{folder.path / CERTIFICATE}: is not the certificate of a CA")
    return certificate


@dataclass(slots=True)
class Authority:
    """While its folder is locked. Every method that changes something raises AuthorityError and OSError."""

    folder: Folder
    certificate: x509.Certificate
    index: Index

    def issuer(self, passphrase: bytes | None) -> Issuer:
        """Whoever has the CA's key can sign. Raises AuthorityError, OSError."""
        key = read_key(self.folder.read(KEY), passphrase, str(self.folder.path / KEY))
        if key.public_key() != self.certificate.public_key():
            raise AuthorityError(f"{self.folder.path / KEY}: is not the key of {CERTIFICATE}")
        return Issuer(self.certificate, key)

    # --- certificates -----------------------------------------------------------------------------------------------

    def sign(self, issuer: Issuer, order: Order, now: datetime, key: SigningKey, *, force: bool) -> Made:
        """For a new key, which is put beside the certificate."""
        self._refuse_taken(order.name, True, now, force)
        return self._make(issuer, order, now, key.public_key(), key, requested=False)

    def sign_request(
        self, issuer: Issuer, order: Order, now: datetime, key: CertificatePublicKeyTypes, *, force: bool
    ) -> Made:
        """For a public key whose private key is elsewhere."""
        self._refuse_taken(order.name, False, now, force)
        return self._make(issuer, order, now, key, None, requested=True)

    def _refuse_taken(self, name: str, with_key: bool, now: datetime, force: bool) -> None:
        names.file_name(name)
        if self.folder.has(f"{name}.key") and not with_key:
            raise AuthorityError(
                f"{self.folder.path / name}.key: exists, and would not be the key of {name}.crt; move it away first"
            )
        if force:
            return
        for one in self.index.records:
            if one.name == name and one.live(now):
                raise AuthorityError(
                    f"{name}: has a certificate until {one.end:%Y-%m-%d}; `securegw pki renew {name}` makes its "
                    "successor, and --force another one in its place"
                )
        for file in (f"{name}.crt", f"{name}.key"):
            if self.folder.has(file):
                raise AuthorityError(f"{self.folder.path / file}: exists; --force replaces it")

    def _make(
        self,
        issuer: Issuer,
        order: Order,
        now: datetime,
        public: CertificatePublicKeyTypes,
        private: SigningKey | None,
        *,
        requested: bool,
    ) -> Made:
        names.refuse_beyond(_limits(self.certificate), order.subject, order.names)
        dates = validity(now, timedelta(days=order.days), self.certificate)
        certificate = issue(issuer, public, order.subject, order.names, _PURPOSES[order.kind], dates)
        record = Record(
            certificate.serial_number,
            order.name,
            order.kind,
            order.shown,
            tuple(map(names.shown, order.names)),
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
            order.days,
            f"{order.name}.crt",
            requested,
        )
        # A thing's key can stand in its certificate, which is then no less a secret.
        mode = PRIVATE if order.kind == "thing" else PUBLIC
        files = {f"{order.name}.crt": Content(_pem(certificate), mode)}
        if private is not None:
            files[f"{order.name}.key"] = Content(write_key(private), PRIVATE)
        self._commit(self.index.with_record(record), files)
        return Made(record, dates.capped, private is not None)

    def renew(self, issuer: Issuer, name: str, now: datetime, days: int | None, *, with_new_key: bool) -> Made:
        """The successor of what NAME.crt is: the same names and, unless told otherwise, the same key. The old one stays
        good until its end. days: None for as many as before."""
        record = next((one for one in self.index.records if one.file == f"{names.file_name(name)}.crt"), None)
        if record is None:
            raise AuthorityError(f"{name}: there is no certificate of that name to renew")
        if record.revoked_at is not None:
            raise AuthorityError(f"{name}: its certificate is revoked; make another one")
        if with_new_key and record.requested:
            raise AuthorityError(
                f"{name}: its key was made elsewhere; so is a new one, and `securegw pki sign` signs it"
            )
        old = self._issued(self.folder.read(f"{name}.crt"), f"{self.folder.path / name}.crt")
        if old.serial_number != record.serial:
            raise AuthorityError(f"{self.folder.path / name}.crt: is not the certificate that the index has for {name}")
        private = None
        if with_new_key:
            private = new_key(with_rsa=isinstance(old.public_key(), rsa.RSAPublicKey))
        order = Order(name, record.kind, old.subject, record.subject, _alternatives(old), days or record.days)
        public = old.public_key() if private is None else private.public_key()
        return self._make(issuer, order, now, public, private, requested=record.requested)

    def renew_self(self, issuer: Issuer, now: datetime, days: int | None) -> x509.Certificate:
        """The CA's own certificate, with the same key and names: what it has signed is under both of them."""
        old = self.certificate
        lifetime = old.not_valid_after_utc - old.not_valid_before_utc - BACKDATED
        dates = validity(now, timedelta(days=days) if days else lifetime)
        renewed = self_signed(issuer.key, old.subject, dates, _limits(old))
        self._commit(replace(self.index, ca=_fingerprint(renewed)), {CERTIFICATE: Content(_pem(renewed))})
        self.certificate = renewed
        return renewed

    def _issued(self, pem: bytes, where: str) -> x509.Certificate:
        """A certificate of ours. Raises AuthorityError."""
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            certificate.verify_directly_issued_by(self.certificate)
        except _UNREADABLE:
            raise AuthorityError(f"{where}: is not a certificate that this CA has signed") from None
        return certificate

    # --- revocation -------------------------------------------------------------------------------------------------

    def named(self, target: str) -> tuple[Record, ...]:
        """All certificates of that name, or the one with that serial number in hexadecimal. Raises AuthorityError."""
        by_name = tuple(one for one in self.index.records if one.name == target)
        by_serial: tuple[Record, ...] = ()
        with suppress(ValueError):
            serial = serial_number(target)
            by_serial = tuple(one for one in self.index.records if one.serial == serial)
        if by_name and by_serial and by_name != by_serial:
            raise AuthorityError(f"{target}: is the name of one certificate, and the serial number of another")
        return by_name or by_serial

    def known(self, pem: bytes, where: str) -> Record:
        """The record of a certificate of ours. One that the index does not know, since it was restored from a backup,
        is taken into it: a signature of ours can always be taken back."""
        certificate = self._issued(pem, where)
        for one in self.index.records:
            if one.serial == certificate.serial_number:
                return one
        try:
            record = _unknown(certificate)
        except _UNREADABLE:
            raise AuthorityError(f"{where}: is not readable to its end") from None
        self.index = replace(self.index, records=(*self.index.records, record))
        return record

    def revoke(self, issuer: Issuer, records: Sequence[Record], reason: str, now: datetime) -> tuple[Record, ...]:
        """Those that were not revoked before, and are now. There is a new CRL in any case."""
        fresh = tuple(one for one in records if one.revoked_at is None)
        self._publish(issuer, now, self.index.with_revoked((one.serial for one in fresh), now, reason))
        return fresh

    def publish(self, issuer: Issuer, now: datetime, days: int | None) -> None:
        """A new CRL. days: how long it is good; None for as long as the one before."""
        self._publish(issuer, now, replace(self.index, days=days or self.index.days))

    def _publish(self, issuer: Issuer, now: datetime, index: Index) -> None:
        self._refuse_earlier(now)
        number = max(index.number, _number(self.folder)) + 1
        index, crl = _listed(issuer, replace(index, number=number), now)
        self._commit(index, {CRL: crl})

    def _refuse_earlier(self, now: datetime) -> None:
        """One of the two clocks is wrong, and by which of them somebody is still revoked, only a person can tell."""
        if now < self.index.issued - _SLACK:
            raise AuthorityError(
                f"the last {CRL} is of {self.index.issued:%Y-%m-%d %H:%M} UTC, and by the clock it is "
                f"{now:%Y-%m-%d %H:%M} UTC now. If the clock was wrong then and is right now, write "
                f'"issued": "{now:{indexes.TIME}}" into {self.folder.path / INDEX}, and try again'
            )

    def _commit(self, index: Index, files: Mapping[str, Content]) -> None:
        self.folder.commit({**files, INDEX: Content(index.write(), PRIVATE)})
        self.index = index


def _listed(issuer: Issuer, index: Index, now: datetime) -> tuple[Index, Content]:
    """The CRL with the index's number. Who has ended is left out once a CRL from after that had it (RFC 5280, 3.3); and
    only if they have ended now: the clock of that CRL may have been ahead."""
    ended = min(index.issued, now)
    revoked = [
        Revoked(one.serial, one.revoked_at, one.reason)
        for one in index.records
        if one.revoked_at is not None and one.reason is not None and one.end >= ended
    ]
    crl = revocation_list(issuer, index.number, now, timedelta(days=index.days), revoked)
    assert crl.next_update_utc is not None
    return replace(index, issued=now, next_update=crl.next_update_utc), Content(crl.public_bytes(Encoding.PEM))


def _number(folder: Folder) -> int:
    """Of the CRL that is there: an index from a backup may be behind it, and a number never comes twice (RFC 5280,
    5.2.3)."""
    try:
        crl = x509.load_pem_x509_crl(folder.read(CRL, indexes.MAX_INDEX))
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (FileNotFoundError, *_UNREADABLE):
        return 0


def _unknown(certificate: x509.Certificate) -> Record:
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return Record(
        certificate.serial_number,
        "unknown",
        "server" if SERVER in purposes else "client",
        # It may be a thing's, whose name is its key.
        names.key_shown(names.common_name(certificate.subject)),
        tuple(map(names.shown, _alternatives(certificate))),
        begin,
        end,
        max(1, (end - begin).days),
        None,
    )


def _alternatives(certificate: x509.Certificate) -> tuple[x509.GeneralName, ...]:
    try:
        return tuple(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()


def _limits(certificate: x509.Certificate) -> x509.NameConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return None


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(SHA256()).hex()


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)
