"""Every extension and date of what is signed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID

from gateway.authority import names
from gateway.authority.certificates import (
    BACKDATED,
    CLIENT,
    SERVER,
    Issuer,
    Revoked,
    issue,
    revocation_list,
    self_signed,
    validity,
)
from gateway.authority.errors import AuthorityError
from gateway.authority.keys import new_key

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
DAY = timedelta(days=1)
KEY = new_key()


def ca(days: int = 1095, limits: x509.NameConstraints | None = None) -> Issuer:
    return Issuer(self_signed(KEY, names.subject("Test CA"), validity(NOW, days * DAY), limits), KEY)


def leaf(
    issuer: Issuer, subject: x509.Name, *alternatives: x509.GeneralName, purpose: x509.ObjectIdentifier
) -> x509.Certificate:
    dates = validity(NOW, 30 * DAY, issuer.certificate)
    return issue(issuer, new_key().public_key(), subject, alternatives, purpose, dates)


def extensions(certificate: x509.Certificate) -> dict[str, bool]:
    """By the names of RFC 5280, and whether they are critical."""
    return {one.oid._name: one.critical for one in certificate.extensions}


def test_the_extensions_of_a_ca() -> None:
    certificate = ca(limits=names.constraints(("example.com",), ())).certificate
    assert extensions(certificate) == {
        "subjectKeyIdentifier": False,
        "basicConstraints": True,
        "keyUsage": True,
        "authorityKeyIdentifier": False,
        "nameConstraints": True,
    }
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)


@pytest.mark.parametrize("purpose", [SERVER, CLIENT])
def test_the_extensions_of_a_leaf(purpose: x509.ObjectIdentifier) -> None:
    issuer = ca()
    certificate = leaf(issuer, names.subject("a"), names.dns("a.example"), purpose=purpose)
    assert extensions(certificate) == {
        "subjectKeyIdentifier": False,
        "basicConstraints": True,
        "keyUsage": True,
        "extendedKeyUsage": False,
        "authorityKeyIdentifier": False,
        "subjectAltName": False,
    }
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign, usage.crl_sign) == (True, False, False)
    own = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    of = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert of.key_identifier == own.digest


def test_without_a_subject_its_names_are_critical() -> None:
    certificate = leaf(ca(), x509.Name([]), names.dns("a.example"), purpose=SERVER)
    assert extensions(certificate)["subjectAltName"]
    certificate = leaf(ca(), names.subject("a"), purpose=CLIENT)
    assert "subjectAltName" not in extensions(certificate)


def test_the_common_name_is_a_utf8string() -> None:
    assert names.subject("alice").public_bytes().endswith(b"\x0c\x05alice")


def test_serial_numbers_are_positive_in_20_octets_and_random() -> None:
    issuer = ca()
    found = [leaf(issuer, names.subject("a"), purpose=CLIENT).serial_number for _ in range(50)]
    assert len(set(found)) == 50
    assert all(0 < one < 1 << 159 for one in found)
    assert max(found) > 1 << 150


def test_keys() -> None:
    assert isinstance(KEY, ec.EllipticCurvePrivateKey)
    assert KEY.curve.name == "secp256r1"
    other = new_key(with_rsa=True)
    assert isinstance(other, rsa.RSAPrivateKey)
    assert (other.key_size, other.public_key().public_numbers().e) == (3072, 65537)


# --- dates ------------------------------------------------------------------------------------------------------------


def test_it_begins_a_little_in_the_past_but_not_before_its_issuer() -> None:
    issuer = ca().certificate
    assert validity(NOW, DAY).begin == NOW - BACKDATED
    assert validity(NOW + DAY, DAY, issuer).begin == NOW + DAY - BACKDATED
    assert validity(NOW, DAY, issuer).begin == issuer.not_valid_before_utc
    assert validity(NOW + timedelta(minutes=1), DAY, issuer).begin > issuer.not_valid_before_utc


def test_it_ends_with_its_issuer() -> None:
    issuer = ca(days=10).certificate
    within, beyond = validity(NOW, 10 * DAY, issuer), validity(NOW, 10 * DAY + timedelta(seconds=1), issuer)
    assert (within.capped, beyond.capped) == (False, True)
    assert within.end == beyond.end == issuer.not_valid_after_utc


@pytest.mark.parametrize(("at", "reason"), [(10 * DAY, "ended at"), (-DAY, "is the clock right")])
def test_nothing_is_signed_outside_the_dates_of_the_issuer(at: timedelta, reason: str) -> None:
    with pytest.raises(AuthorityError, match=reason):
        validity(NOW + at, DAY, ca(days=10).certificate)


@pytest.mark.parametrize(
    ("end", "written"),
    [
        ("2049-12-31T23:59:59", b"\x17\x0d491231235959Z"),  # UTCTime
        ("2050-01-01T00:00:00", b"\x18\x0f20500101000000Z"),  # GeneralizedTime
    ],
)
def test_dates_are_written_as_rfc_5280_has_it(end: str, written: bytes) -> None:
    last = datetime.fromisoformat(end).replace(tzinfo=UTC)
    certificate = self_signed(KEY, names.subject("Test CA"), validity(NOW, last - NOW))
    assert b"\x17\x0d310506060809Z" + written in certificate.public_bytes(Encoding.DER)
    assert certificate.not_valid_after_utc == last


# --- revocation lists -------------------------------------------------------------------------------------------------


def test_a_revocation_list() -> None:
    issuer = ca()
    crl = revocation_list(issuer, 7, NOW, 30 * DAY, [Revoked(5, NOW, "keyCompromise"), Revoked(6, NOW, "unspecified")])
    assert crl.is_signature_valid(KEY.public_key())
    assert crl.issuer == issuer.certificate.subject
    assert crl.extensions.get_extension_for_oid(ExtensionOID.CRL_NUMBER).value == x509.CRLNumber(7)
    assert {one.oid._name: one.critical for one in crl.extensions} == {
        "authorityKeyIdentifier": False,
        "cRLNumber": False,
    }
    assert crl.last_update_utc == issuer.certificate.not_valid_before_utc
    assert crl.next_update_utc == NOW + 30 * DAY
    first, second = crl
    assert (first.serial_number, second.serial_number) == (5, 6)
    assert [one.value.reason.value for one in first.extensions] == ["keyCompromise"]
    assert not list(second.extensions)
