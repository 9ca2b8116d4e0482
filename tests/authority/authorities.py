"""Authorities for the tests: in a folder, and made in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from gateway.authority import names
from gateway.authority.authority import Authority, Foundation, Made, Order, found, opened
from gateway.authority.certificates import Issuer
from gateway.authority.keys import new_key

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)


def make(folder: Path, *, days: int = 1095, now: datetime = NOW, limits: x509.NameConstraints | None = None) -> Path:
    found(folder, Foundation("Test CA", days, limits), now, None)
    return folder


@contextmanager
def signing(folder: Path) -> Iterator[tuple[Authority, Issuer]]:
    with opened(folder) as authority:
        yield authority, authority.issuer(None)


def client(name: str = "alice", *, days: int = 730) -> Order:
    return Order(name, "client", names.subject(name), name, (), days)


def server(*dns: str, name: str = "server", days: int = 1000) -> Order:
    alternatives = tuple(map(names.dns, dns))
    return Order(name, "server", names.server_subject(alternatives), dns[0], alternatives, days)


def sign(folder: Path, order: Order, *, now: datetime = NOW, force: bool = False) -> Made:
    with signing(folder) as (authority, issuer):
        return authority.sign(issuer, order, now, new_key(), force=force)


def certificate(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())


def crl(folder: Path) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl((folder / "crl.pem").read_bytes())


def number(folder: Path) -> int:
    """Of the CRL."""
    return crl(folder).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
