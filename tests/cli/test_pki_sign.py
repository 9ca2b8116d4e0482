"""`securegw pki sign`: a request gets what it is given, not what it asks for."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.authority.test_requests import ADDRESS, DB, names, request
from tests.cli.pki_console import PKI
from tests.pki import new_key

NAMED = ("--dns", "a.example")
ID = "8c1f8e0f-6c9d-4c1f-9a3b-5d7e9f012345"


@pytest.fixture
def pki(tmp_path: Path) -> PKI:
    made = PKI(tmp_path)
    made.ok("ca")
    return made


def certificate(pki: PKI, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((pki.folder / f"{name}.crt").read_bytes())


def alternatives(found: x509.Certificate) -> list[x509.GeneralName]:
    return list(found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def test_only_its_key_is_taken(pki: PKI) -> None:
    key = new_key()
    asked = (
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]),
        names(DB),
    )
    pki.write("a.csr", request(*asked, key=key, cn="the gateway"))
    result = pki.run(
        "sign", pki.here.joinpath("a.csr").as_posix(), "--as", "server", "--name", "a", "--dns", "a.example"
    )
    assert result.exit_code == 0
    assert (
        "also asks for dns:db.example, BasicConstraints, ExtendedKeyUsage, which is not in the certificate"
        in result.stderr
    )
    signed = certificate(pki, "a")
    assert signed.public_key() == key.public_key()
    assert alternatives(signed) == [x509.DNSName("a.example")]
    assert signed.subject.rfc4514_string() == "CN=a.example"
    assert not signed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = signed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not (pki.folder / "a.key").exists()


def test_names_that_it_asks_for_take_a_word(pki: PKI) -> None:
    csr = request(names(DB, ADDRESS))
    said = pki.refused("sign", "-", "--as", "server", "--name", "db", stdin=csr)
    assert "asks for dns:db.example, ip:192.0.2.1: say which names it gets, or --requested-names" in said
    made = pki.json(
        "sign", "-", "--as", "server", "--name", "db", "--requested-names", "--dns", "db.example", stdin=csr
    )
    assert made["names"] == ["dns:db.example", "ip:192.0.2.1"]
    assert (made["key"], made["requested"]) == (None, True)


def test_a_thing_and_a_client(pki: PKI) -> None:
    csr = request(cn="somebody else")
    pki.ok("sign", "-", "--as", "thing", "--name", "boiler", "--id", ID, stdin=csr)
    pki.ok("sign", "-", "--as", "client", "--name", "alice", "--uri", "spiffe://example.com/alice", stdin=csr)
    assert certificate(pki, "boiler").subject.rfc4514_string() == f"CN={ID}"
    assert certificate(pki, "alice").subject.rfc4514_string() == "CN=alice"


WILDCARD = x509.DNSName("*.example.com")


def test_a_certificate_with_a_things_key_is_for_its_owner_alone(pki: PKI) -> None:
    """However it was made, and whatever was there before."""
    csr = str(pki.here / pki.write("a.csr", request()))
    for name, arguments in (
        ("made", ("thing", "made", "--key-file", "-")),
        ("made", ("renew", "made")),
        ("made", ("renew", "made", "--new-key")),
        ("made", ("thing", "made", "--key-file", "-", "--force")),
        ("signed", ("sign", csr, "--as", "thing", "--name", "signed", "--key-file", "-")),
        ("signed", ("renew", "signed")),
    ):
        pki.ok(*arguments, stdin="the-secret-key-of-a-boiler")
        assert stat.S_IMODE((pki.folder / f"{name}.crt").stat().st_mode) == 0o600, arguments
        (pki.folder / f"{name}.crt").chmod(0o644)


def test_a_wildcard_has_to_be_named(pki: PKI) -> None:
    csr = request(names(WILDCARD))
    command = ("sign", "-", "--as", "server", "--name", "all")
    assert "a wildcard has to be named, with --dns" in pki.refused(*command, "--requested-names", stdin=csr)
    pki.ok(*command, "--dns", "*.example.com", stdin=csr)
    assert alternatives(certificate(pki, "all")) == [WILDCARD]


def test_what_it_asks_for_is_no_text_for_a_terminal(pki: PKI) -> None:
    csr = request(names(x509.DNSName("\x1b[2Jevil")))
    assert "\\x1b[2Jevil" in pki.refused("sign", "-", "--as", "server", "--name", "a", stdin=csr)
    assert "\\x1b[2Jevil" in pki.run("sign", "-", "--as", "client", "--name", "a", stdin=csr).stderr


@pytest.mark.parametrize(
    ("csr", "why"),
    [
        (b"", "-: is not a certificate signing request alone, as PEM"),
        (b"\x00\xff", "-: is not a certificate signing request alone, as PEM"),
        (b"x" * 100_000, "-: is larger than"),
        (request()[:-70], "-: is not a readable PEM certificate signing request"),
        (request(key=rsa.generate_private_key(65537, 1024)), "RSA"),  # noqa: S505 - it is to be refused
        (request() + request()[:20], "-: is not a certificate signing request alone, as PEM"),
    ],
)
def test_what_is_not_signed(pki: PKI, csr: bytes, why: str) -> None:
    assert why in pki.refused("sign", "-", "--as", "client", "--name", "a", stdin=csr)


@pytest.mark.parametrize(
    ("kind", "words", "why"),
    [
        ("server", (*NAMED, "--email", "a@b.example"), "--email is not for a server"),
        ("server", (*NAMED, "--uri", "a:b"), "--uri is not for a server"),
        ("server", (*NAMED, "--cn", "a"), "--cn is not for a server"),
        ("server", (*NAMED, "--id", ID), "--id is not for a server"),
        ("server", (*NAMED, "--key-file", "-"), "--key-file is not for a server"),
        ("server", (), "a server has at least one name"),
        ("thing", ("--cn", "a", "--id", ID), "--cn is not for a thing"),
        ("thing", ("--ip", "192.0.2.1", "--id", ID), "--ip is not for a thing"),
        ("thing", (), "give --key-file or --id"),
        ("client", ("--ip", "192.0.2.1"), "--ip is not for a client"),
        ("client", ("--id", ID), "--id is not for a client"),
    ],
)
def test_words_that_do_not_go_with_what_it_is_for(pki: PKI, kind: str, words: tuple[str, ...], why: str) -> None:
    csr, secret = str(pki.here / pki.write("a.csr", request())), "the-secret-key-of-a-boiler"
    assert why in pki.refused("sign", csr, "--as", kind, "--name", "a", *words, status=2, stdin=secret)


def test_a_file_that_is_not_there(pki: PKI) -> None:
    assert "none.csr: No such file" in pki.refused("sign", "none.csr", "--as", "client", "--name", "a")
