"""Authorities and revocation lists that are believed together: whether they belong together, and whether clients can
be revoked at all.

Owns what OpenSSL would find out only when somebody comes: it refuses whom a list of another authority is about, however
alike the names of the two are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from gateway.inspection.expiry import clients_tls, listeners_tls
from gateway.inspection.findings import Finding, fail, ok, warn
from gateway.pem import UNREADABLE, load_certificates, load_crls
from gateway.settings import Config

# Of an authority that TLS can use.
_KEYS: Final = (rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)


@dataclass(frozen=True, slots=True)
class _Believed:
    """Files, and each one's section and key."""

    ca: tuple[str, str, Path]
    crl: tuple[str, str, Path] | None


def check_lists(config: Config) -> Iterator[Finding]:
    """Of what several sections share, each is told of once."""
    yield from dict.fromkeys([*_without_lists(config), *_found(config)])


def _without_lists(config: Config) -> Iterator[Finding]:
    asking = {section: tls for section, tls in listeners_tls(config).items() if tls.client_certificate != "none"}
    believed = {section: _vouching(tls.client_ca) for section, tls in asking.items()}
    for section, tls in asking.items():
        if tls.client_crl is not None:
            continue
        others = (one for one in asking if asking[one].client_crl is not None and believed[one] & believed[section])
        other = next(others, None)
        if other is None:
            words = "is not given: a certificate that is revoked still gets in"
            yield warn(tls.sections.get("client_ca", section), "client_crl", words)
        else:
            words = f"is not given, though [{other}], which believes the same authority, has one"
            yield warn(section, "client_crl", f"{words}: a certificate that is revoked there still gets in here")


def _vouching(path: Path | None) -> frozenset[x509.Certificate]:
    """None of a file that cannot be read, which is told of elsewhere."""
    with suppress(OSError, *UNREADABLE):
        return frozenset(load_certificates(path) if path is not None else ())
    return frozenset()


def _found(config: Config) -> Iterator[Finding]:
    for one in dict.fromkeys(_believed(config)):
        with suppress(OSError, *UNREADABLE):
            authorities = load_certificates(one.ca[2])
            yield from (warn(*one.ca[:2], f"{one.ca[2]}: {why}") for why in _no_authorities(authorities))
            if one.crl is not None:
                yield from _of_crls(one.crl, authorities, load_crls(one.crl[2]))


def _believed(config: Config) -> Iterator[_Believed]:
    for section, tls in listeners_tls(config).items():
        if tls.client_ca is not None:
            ca = tls.sections.get("client_ca", section), "client_ca", tls.client_ca
            crl = tls.sections.get("client_crl", section), "client_crl"
            yield _Believed(ca, (*crl, tls.client_crl) if tls.client_crl is not None else None)
    for section, client in clients_tls(config).items():
        if client.root_certificate is not None:
            crl_file = (section, "crl", client.crl) if client.crl is not None else None
            yield _Believed((section, "root_certificate", client.root_certificate), crl_file)


def _no_authorities(certificates: Sequence[x509.Certificate]) -> Iterator[str]:
    """One that is signed by itself vouches at least for itself."""
    for one in certificates:
        if one.issuer != one.subject and not _is_authority(one):
            yield f"{_name(one.subject)} is no authority (basicConstraints), so it vouches for nobody"


def _is_authority(one: x509.Certificate) -> bool:
    try:
        return one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _of_crls(
    place: tuple[str, str, Path],
    authorities: Sequence[x509.Certificate],
    crls: Sequence[x509.CertificateRevocationList],
) -> Iterator[Finding]:
    """With any list, each certificate of a chain needs one of its issuer (X509_V_FLAG_CRL_CHECK_ALL)."""
    section, key, path = place
    found = []
    for crl in crls:
        if any(_is_of(crl, one) for one in authorities):
            continue
        if any(one.subject == crl.issuer for one in authorities):
            why = "is of another authority with the same name: nobody is let in by it"
            found.append(fail(section, key, f"{path}: the CRL of {_name(crl.issuer)} {why}"))
        else:
            why = "counts only for those who send its certificate along: it is none of the authorities"
            found.append(warn(section, key, f"{path}: the CRL of {_name(crl.issuer)} {why}"))
    without = [one for one in authorities if not any(_is_of(crl, one) for crl in crls)]
    told = fail if len(without) == len(authorities) else warn
    for one in without:
        why = f"has no CRL of {_name(one.subject)}, so whomever that vouches for is refused"
        found.append(told(section, key, f"{path}: {why}"))
    yield from found or [ok(section, key, f"{path}: signed by the authorities that it is about")]


def _is_of(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    key = authority.public_key()
    if crl.issuer != authority.subject or not isinstance(key, _KEYS):
        return False
    try:
        return crl.is_signature_valid(key)
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
        return False


def _name(name: x509.Name) -> str:
    return name.rfc4514_string() or "nobody"
