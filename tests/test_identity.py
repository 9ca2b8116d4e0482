"""A certificate's identity: what it names exactly, and every way in which it might name two."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Denied
from gateway.identity import MAX_KEY, MAX_NAME, Identity, from_certificate
from gateway.serials import serial_text
from tests.pki import common_name, issue, make_ca, subject_of

CN, ORGANIZATION, UNIT = NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME
CA = make_ca()
# Authorities write longer names than X.520 allows, so the tests do.
pytestmark = pytest.mark.filterwarnings("ignore:Attribute's length must be:UserWarning")

ISSUERS = (b"\1" * 32, b"\2" * 32)
KEY = "5a3f0b1e-93a8-4c33-8d1c-2f6c6c1c0d11"


def der(subject: x509.Name, *sans: str | x509.GeneralName) -> bytes:
    return issue(CA, subject=subject, sans=sans).certificate.public_bytes(Encoding.DER)


def named(cn: str) -> x509.Name:
    return subject_of([(CN, cn)])


def identify(certificate: bytes, cn: str = "id", source: str = "cn") -> Identity:
    return from_certificate(certificate, 2e9, ISSUERS, cn=cn, source=source)


def refused(certificate: bytes, reason: str, cn: str = "id", source: str = "cn") -> None:
    with pytest.raises(Denied, match=re.escape(reason)):
        identify(certificate, cn, source)


def patched(tag: int, value: bytes) -> bytes:
    """A certificate whose CN is this ASN.1 type, of these eight bytes; its signature no longer fits."""
    good = der(named("12345678"))
    old = b"\x0c\x0812345678"
    assert good.count(old) == 1
    assert len(value) == 8
    return good.replace(old, bytes((tag, 8)) + value)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cn",
    [
        "sensor-1",
        "a=b",
        "a,b",
        "x,CN=victim",
        "/CN=victim",
        "a/b",
        "a+b",
        "a+CN=b",
        "Zähler Straße 7",
        "温度計",
        'quo"ted\\',
        "*",
        "Sensor",
        "n" * 65,
        "n" * MAX_NAME,
        "e\u0301",
        "\u00e9",
        "\u212b",
    ],
)
def test_a_common_name_is_taken_exactly(cn: str) -> None:
    certificate = issue(CA, subject=named(cn)).certificate
    found = identify(certificate.public_bytes(Encoding.DER))
    assert found == Identity(
        "certificate", cn, expires=2e9, serial=serial_text(certificate.serial_number), issuers=ISSUERS
    )


def test_a_printable_string_is_taken_too() -> None:
    subject = x509.Name([x509.NameAttribute(CN, "sensor-1", _ASN1Type.PrintableString)])
    assert identify(der(subject)).subject == "sensor-1"


def test_no_other_attribute_passes_for_a_common_name() -> None:
    assert identify(der(subject_of([(ORGANIZATION, "x,CN=victim")], [(CN, "me")]))).subject == "me"
    refused(der(subject_of([(ORGANIZATION, "x,CN=victim")])), "has 0 common names")
    refused(der(subject_of([(ORGANIZATION, "x/CN=victim")])), "has 0 common names")
    refused(der(subject_of([(ORGANIZATION, "victim"), (UNIT, "CN=victim")])), "an RDN of several values")


def test_the_issuers_common_name_is_not_the_subjects() -> None:
    refused(der(x509.Name([])), "has 0 common names")


@pytest.mark.parametrize(
    "rdns",
    [
        ([(CN, "me")], [(CN, "victim")]),
        ([(CN, "victim")], [(CN, "me")]),
        ([(CN, "me")], [(CN, "me")]),
        ([(CN, "me")], [(ORGANIZATION, "x")], [(CN, "victim")]),
    ],
)
def test_two_common_names_are_nobodys(rdns: tuple[list[tuple[x509.ObjectIdentifier, str]], ...]) -> None:
    refused(der(subject_of(*rdns)), "has 2 common names")


@pytest.mark.parametrize(
    "rdns",
    [
        ([(CN, "me"), (CN, "victim")],),
        ([(CN, "me"), (ORGANIZATION, "x")],),
        ([(CN, "me")], [(ORGANIZATION, "x"), (UNIT, "y")]),
    ],
)
def test_a_multi_valued_rdn_is_nobodys(rdns: tuple[list[tuple[x509.ObjectIdentifier, str]], ...]) -> None:
    refused(der(subject_of(*rdns)), "an RDN of several values")


@pytest.mark.parametrize("mark", ["\0", "\n", "\r", "\t", "\x1b", "\x7f", "\x80", "\x85", "\x9f"])
@pytest.mark.parametrize("form", ["{}victim", "vic{}tim", "victim{}", "victim{}.evil.example"])
def test_a_control_character_is_refused(mark: str, form: str) -> None:
    refused(der(named(form.format(mark))), "a character that cannot be seen")


@pytest.mark.parametrize(
    "mark", ["\u200b", "\u200e", "\u202e", "\u2066", "\ufeff", "\u00ad", "\u2028", "\u2029", "\ue000", "\U000e0041"]
)
def test_what_cannot_be_seen_is_refused(mark: str) -> None:
    refused(der(named(f"vic{mark}tim")), "a character that cannot be seen")


@pytest.mark.parametrize("cn", [" victim", "victim ", "  ", "\u00a0victim", "victim\u00a0", "victim\u3000", "\u2003v"])
def test_outer_space_is_refused(cn: str) -> None:
    with pytest.raises(Denied):
        identify(der(named(cn)))


def test_an_inner_space_is_part_of_a_name() -> None:
    assert identify(der(named("room 1  left"))).subject == "room 1  left"


@pytest.mark.parametrize("cn", ["", "n" * (MAX_NAME + 1), "ü" * (MAX_NAME // 2 + 1)])
def test_a_name_has_bounds(cn: str) -> None:
    refused(der(named(cn)), "empty or longer than")


@pytest.mark.parametrize(
    "kind",
    [
        _ASN1Type.T61String,
        _ASN1Type.BMPString,
        _ASN1Type.UniversalString,
        _ASN1Type.IA5String,
        _ASN1Type.VisibleString,
        _ASN1Type.NumericString,
        _ASN1Type.OctetString,
    ],
)
def test_other_types_of_string_are_refused(kind: _ASN1Type) -> None:
    subject = x509.Name([x509.NameAttribute(CN, "12345678", kind, _validate=False)])
    refused(der(subject), "neither a UTF8String nor a PrintableString")


def test_the_type_is_the_common_names_own() -> None:
    """Not that of a neighbour, and not of a value that looks like the DER of another name."""
    disguise = "\x06\x03U\x04\x03\x0c\x01a"
    subject = x509.Name([x509.NameAttribute(CN, disguise, _ASN1Type.T61String, _validate=False)])
    refused(der(subject), "neither a UTF8String nor a PrintableString")
    mixed = [x509.NameAttribute(ORGANIZATION, "x", _ASN1Type.T61String), x509.NameAttribute(CN, "me")]
    assert identify(der(x509.Name(mixed))).subject == "me"


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (0x0C, b"vic\xfftim\0"),
        (0x0C, b"\xc0\xafvictim"),
        (0x0C, b"\xed\xa0\x80victi"),
        (0x13, b"vict\xc3\xadm1"),
        (0x14, b"vict\xe9m12"),
        (0x1E, b"\xd8\0\0v\0i\0c"),
        (0x1C, b"\0\x11\0\0\0\0\0v"),
        (0x03, b"\0victim1"),
        (0x1B, b"victim12"),
        (0x30, b"\x0c\x06victim"),
    ],
)
def test_what_cannot_be_decoded_is_refused(tag: int, value: bytes) -> None:
    with pytest.raises(Denied) as refusal:
        identify(patched(tag, value))
    assert "vict" not in str(refusal.value)


@pytest.mark.parametrize(
    "change", [lambda _: b"", lambda good: good[:-1], lambda good: good + b"\0", lambda _: b"\0" * 99]
)
def test_what_is_not_a_certificate_is_refused(change: Callable[[bytes], bytes]) -> None:
    refused(change(der(named("me"))), "cannot be read")


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_is_kept_and_never_shown() -> None:
    found = identify(der(named(KEY)), cn="key")
    assert found.key == KEY.encode()
    assert found.subject == "key:" + sha256(KEY.encode()).hexdigest()[:16]
    assert (found.kind, found.expires, found.issuers) == ("certificate", 2e9, ISSUERS)
    assert KEY not in repr(found)


@pytest.mark.parametrize("key", ["k", "!", "~", 'a=b,c/d+e;f"g', "Bearer", "k" * MAX_KEY])
def test_a_key_is_visible_ascii(key: str) -> None:
    assert identify(der(named(key)), cn="key").key == key.encode()


@pytest.mark.parametrize(
    "key", ["", "Bearer abc", " abc", "abc ", "a\tb", "a\r\nX: y", "a\0", "schlüssel", "k" * (MAX_KEY + 1), "\x7f"]
)
def test_what_cannot_stand_in_a_header_is_no_key_and_not_told(key: str) -> None:
    with pytest.raises(Denied) as refusal:
        identify(der(named(key)), cn="key")
    assert not key or key not in str(refusal.value)


@pytest.mark.parametrize("rdns", [([(CN, KEY)], [(CN, "x")]), ([(CN, KEY), (ORGANIZATION, "x")],), ([(UNIT, KEY)],)])
def test_no_refusal_tells_the_key(rdns: tuple[list[tuple[x509.ObjectIdentifier, str]], ...]) -> None:
    with pytest.raises(Denied) as refusal:
        identify(der(subject_of(*rdns)), cn="key")
    assert KEY not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_key_is_in_the_common_name_whatever_the_source() -> None:
    assert identify(der(named(KEY), "other.example"), cn="key", source="dns").key == KEY.encode()


# --- subjectAltName ---------------------------------------------------------------------------------------------------

URI, DNS, EMAIL = "spiffe://example.org/sensor/1", "sensor-1.example.org", "Sensor+1@example.org"
ALL: tuple[str | x509.GeneralName, ...] = (
    x509.UniformResourceIdentifier(URI),
    x509.DNSName(DNS),
    x509.RFC822Name(EMAIL),
    "192.0.2.1",
)
KINDS: dict[str, type[x509.UniformResourceIdentifier | x509.DNSName | x509.RFC822Name]] = {
    "uri": x509.UniformResourceIdentifier,
    "dns": x509.DNSName,
    "email": x509.RFC822Name,
}


@pytest.mark.parametrize(("source", "name"), [("uri", URI), ("dns", DNS), ("email", EMAIL), ("cn", "me")])
def test_each_source_tells_its_own_name(source: str, name: str) -> None:
    found = identify(der(common_name("me"), *ALL), source=source)
    assert (found.subject, found.key) == (name, None)


@pytest.mark.parametrize("source", ["uri", "dns", "email"])
def test_the_common_name_never_stands_in_for_another_source(source: str) -> None:
    refused(der(common_name("me")), "has no subjectAltName", source=source)
    others = [name for name in ALL if not isinstance(name, KINDS[source])]
    refused(der(common_name("me"), *others), f"has 0 names of the type {source}", source=source)


@pytest.mark.parametrize(("source", "name"), [("uri", URI), ("dns", DNS), ("email", EMAIL)])
def test_two_names_of_the_type_are_nobodys(source: str, name: str) -> None:
    make = KINDS[source]
    refused(der(common_name("me"), make(name), make("x" + name)), f"has 2 names of the type {source}", source=source)
    refused(der(common_name("me"), make(name), make(name)), f"has 2 names of the type {source}", source=source)


def test_a_subject_of_several_common_names_does_not_matter_to_another_source() -> None:
    assert identify(der(subject_of([(CN, "a")], [(CN, "b")]), DNS), source="dns").subject == DNS


@pytest.mark.parametrize("source", ["uri", "dns", "email"])
@pytest.mark.parametrize("mark", [b"\0", b"\n", b"\x7f", b" ", b"\xc3\xa9"])
def test_a_name_of_unfit_characters_is_refused(source: str, mark: bytes) -> None:
    text = "victim" + "x" * len(mark) + "@example.org"
    good = der(common_name("me"), KINDS[source](text))
    bad = good.replace(b"victim" + b"x" * len(mark), b"victim" + mark)
    assert bad != good
    with pytest.raises(Denied) as refusal:
        identify(bad, source=source)
    assert "victim" not in str(refusal.value)


@pytest.mark.parametrize("name", ["*.example.org", "*", "a*.example.org", "a.*.org"])
def test_a_wildcard_is_nobodys_name(name: str) -> None:
    refused(der(common_name("me"), name), "wildcard", source="dns")


@pytest.mark.parametrize("source", ["uri", "dns", "email"])
def test_an_empty_or_endless_name_is_refused(source: str) -> None:
    for text in ("", "n" * (MAX_NAME + 1)):
        with pytest.raises(Denied):
            identify(der(common_name("me"), KINDS[source]._init_without_validation(text)), source=source)


def test_two_extensions_of_names_are_refused() -> None:
    """The builder makes none, so another extension of this certificate is given the OID of the SAN (2.5.29.17)."""
    good = der(common_name("me"), DNS)
    bad = good.replace(bytes.fromhex("0603551d25"), bytes.fromhex("0603551d11"))
    assert bad != good
    refused(bad, "cannot be read", source="dns")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a003020102", "a003020104"),  # version 5 of certificates
        (f"82{len(DNS):02x}" + DNS.encode().hex(), f"a3{len(DNS):02x}" + DNS.encode().hex()),  # an x400Address
    ],
)
def test_what_cannot_be_understood_is_refused(old: str, new: str) -> None:
    good = der(common_name("me"), DNS)
    bad = good.replace(bytes.fromhex(old), bytes.fromhex(new))
    assert bad != good
    refused(bad, "cannot be read", source="dns")


# --- any bytes --------------------------------------------------------------------------------------------------------

SOUND = der(subject_of([(ORGANIZATION, "o")], [(CN, "me")]), *ALL)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@given(
    st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=3),
    st.sampled_from(["cn", "uri", "dns", "email"]),
    st.sampled_from(["key", "id"]),
)
def test_a_damaged_certificate_is_somebodys_or_denied(damage: list[tuple[int, int]], source: str, cn: str) -> None:
    certificate = bytearray(SOUND)
    for position, value in damage:
        certificate[position] = value
    try:
        found = identify(bytes(certificate), cn, source)
    except Denied:
        return
    assert found.subject.isprintable()
    assert found.subject == found.subject.strip() != ""
