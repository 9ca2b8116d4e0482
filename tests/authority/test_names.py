"""What may stand in a certificate, and what its files may be called."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.authority import names
from gateway.authority.errors import AuthorityError
from gateway.identity import from_certificate
from tests.pki import issue, make_ca

DER = Encoding.DER


@pytest.mark.parametrize("name", ["a", "boiler", "boiler-2.west_wing", "0", "a" * 64, "A.b"])
def test_a_name_of_files(name: str) -> None:
    assert names.file_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../ca", "a/b", "/etc/passwd", "a\0b", "a\n", "a b", "-rf", ".hidden", "a.", "a" * 65,
        "a" * 9999,        "käse", "\u202ecod", "ca", "CA", "Ca", "a\\b", "~", "\udcff", "ca\u0130",
    ],
)  # fmt: skip
def test_a_name_that_could_be_a_path_or_something_else(name: str) -> None:
    with pytest.raises(AuthorityError) as refused:
        names.file_name(name)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "name", ["gw.example.com", "localhost", "*.example.com", "xn--kse-qla.example", "1.example", "a" * 63]
)
def test_a_dns_name(name: str) -> None:
    assert names.dns(name).value == name


def test_a_dns_name_is_in_lower_case() -> None:
    assert names.dns("GW.Example.COM").value == "gw.example.com"


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "a.", ".a", "a..b", "-a", "a-", "a_b", "a b", "a\n", "käse.example", "*", "*.com", "a.*.com",
        "*a.b.com", "**.a.b", "192.0.2.1", "1.2.3", "a" * 64, ".".join(["a" * 63] * 4), "a,b", "a\0.b", "dns:a",
        "::1",    ],
)  # fmt: skip
def test_no_dns_name(name: str) -> None:
    with pytest.raises(AuthorityError):
        names.dns(name)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "::1"])
def test_an_address(address: str) -> None:
    assert str(names.ip(address).value) == address


@pytest.mark.parametrize("address", ["", "192.0.2", "192.0.2.0/24", "fe80::1%eth0", "localhost", "010.0.0.1", "1"])
def test_no_address(address: str) -> None:
    with pytest.raises(AuthorityError):
        names.ip(address)


@pytest.mark.parametrize("address", ["alice@example.com", "a.b+c@x.example", "A@Example.com"])
def test_an_email_address(address: str) -> None:
    assert names.email(address).value == address


@pytest.mark.parametrize(
    "address",
    ["", "a", "@b", "a@", "a@b@c.d", "a b@c.d", "ä@b.c", "a@[192.0.2.1]", "Alice <a@b.c>", "a\n@b.c", ".a@b.c"],
)
def test_no_email_address(address: str) -> None:
    with pytest.raises(AuthorityError):
        names.email(address)


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://example.com/boiler",
        "spiffe://example.com",
        "urn:uuid:0",
        "https://a.b:8443/c?d=e%20f#g",
        "tag:a,2030:b",
    ],
)
def test_a_uri(uri: str) -> None:
    assert names.uri(uri).value == uri


@pytest.mark.parametrize(
    "uri",
    [
        "", "a", "/a", "//a/b", ":a", "a:", "https://", "https://u@h/", "https://[::1]/", "https://h:/", "https:///p",
        "a:%zz", "a:%2", "a:b c", "a:b\n", "a:ä", "a:b#c#d", "a:<b>", "a:" + "b" * 2048, "1a:b", "spiffe://a b/",
    ],
)  # fmt: skip
def test_no_uri(uri: str) -> None:
    with pytest.raises(AuthorityError):
        names.uri(uri)


# --- the subject ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alice", "Ärger GmbH", "a" * 64, "ä" * 32, "a=b,c/d+e", "雪", "'"])
def test_the_gateway_reads_every_common_name_that_is_taken(name: str) -> None:
    made = issue(make_ca(), subject=names.subject(name))
    identity = from_certificate(made.certificate.public_bytes(DER), 0.0, ())
    assert identity.subject == name


@pytest.mark.parametrize(
    "name", ["", " ", " a", "a ", "a\n", "a\0", "a" * 65, "ä" * 33, "\u202ea", "\udcff", "a\u00a0b"]
)
def test_a_common_name_that_nobody_could_see(name: str) -> None:
    with pytest.raises(AuthorityError):
        names.subject(name)


def test_a_key_is_shown_as_the_gateway_shows_it() -> None:
    key = "0b6c-~!{}"
    made = issue(make_ca(), subject=names.key_subject(key))
    identity = from_certificate(made.certificate.public_bytes(DER), 0.0, (), cn="key")
    assert identity.key == key.encode()
    assert identity.subject == names.key_shown(key)


@pytest.mark.parametrize("key", ["", "a b", "a\n", "schlüssel", "\x7f"])
def test_a_key_that_has_no_place_in_a_field_value(key: str) -> None:
    with pytest.raises(AuthorityError, match="visible characters"):
        names.key_subject(key)


def test_a_key_that_is_too_long_is_not_quoted() -> None:
    with pytest.raises(AuthorityError, match=r"has 65 characters, and a common name at most 64.*--id") as refused:
        names.key_subject("k" * 65)
    assert "kk" not in str(refused.value)


def test_an_id_is_in_the_text_that_the_registry_writes() -> None:
    subject = names.id_subject("8C1F8E0F-6C9D-4C1F-9A3B-5D7E9F012345")
    assert names.common_name(subject) == "8c1f8e0f-6c9d-4c1f-9a3b-5d7e9f012345"
    with pytest.raises(AuthorityError, match="is no UUID"):
        names.id_subject("boiler")


def test_a_server_is_called_by_its_first_name_that_has_room() -> None:
    long = names.dns(f"{'a' * 60}.example")
    assert names.common_name(names.server_subject([long, names.ip("192.0.2.1")])) == "192.0.2.1"
    assert not names.server_subject([long]).rdns


# --- name constraints -------------------------------------------------------------------------------------------------


def test_a_domain_alone_excludes_every_address() -> None:
    limits = names.constraints(("example.com",), ())
    assert limits is not None
    assert [str(one.value) for one in limits.excluded_subtrees or ()] == ["0.0.0.0/0", "::/0"]


@pytest.mark.parametrize(
    ("domains", "networks"),
    [
        ((), ("192.0.2.0/24",)),
        (("*.a.b",), ()),
        ((".a.b",), ()),
        (("a b",), ()),
        (("a.b",), ("192.0.2.1/24",)),
        (("a.b",), ("x",)),
    ],
)
def test_constraints_that_would_not_mean_what_they_say(domains: tuple[str, ...], networks: tuple[str, ...]) -> None:
    with pytest.raises(AuthorityError):
        names.constraints(domains, networks)


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        (names.dns("example.com"), True),
        (names.dns("a.b.example.com"), True),
        (names.dns("*.example.com"), True),
        (names.dns("badexample.com"), False),
        (names.dns("example.com.evil"), False),
        (names.dns("com.example"), False),
        (names.ip("192.0.2.1"), True),
        (names.ip("192.0.3.1"), False),
        (names.ip("::1"), False),
        (names.email("a@evil.example"), True),
        (names.uri("spiffe://evil/a"), True),
    ],
)
def test_what_is_beyond_the_constraints_is_not_signed(name: x509.GeneralName, inside: bool) -> None:
    limits = names.constraints(("example.com",), ("192.0.2.0/24",))
    names.refuse_beyond(None, names.subject("x"), [name])
    if inside:
        names.refuse_beyond(limits, names.subject("x"), [name])
    else:
        with pytest.raises(AuthorityError, match="name constraints"):
            names.refuse_beyond(limits, names.subject("x"), [name])


def test_a_common_name_like_a_host_is_held_to_them_as_openssl_does() -> None:
    limits = names.constraints(("example.com",), ())
    names.refuse_beyond(limits, names.subject("a.example.com"), [])
    names.refuse_beyond(limits, names.subject("8c1f8e0f-6c9d-4c1f-9a3b-5d7e9f012345"), [])
    names.refuse_beyond(limits, names.subject("my.key"), [names.dns("a.example.com")])
    with pytest.raises(AuthorityError, match="looks like a host") as refused:
        names.refuse_beyond(limits, names.key_subject("my.key"), [])
    assert "my.key" not in str(refused.value)
