"""Of a request its key is believed, and nothing else."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.authority.errors import AuthorityError
from gateway.authority.requests import MAX_REQUEST, read_request, requested
from tests.pki import PrivateKey, common_name, new_key, pem

SERVER = (x509.DNSName, x509.IPAddress)


def request(*extensions: x509.ExtensionType, key: PrivateKey | None = None, cn: str = "whoever") -> bytes:
    key = key or new_key()
    builder = x509.CertificateSigningRequestBuilder(common_name(cn))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()).public_bytes(
        Encoding.PEM
    )


def names(*found: x509.GeneralName) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(found)


DB, ADDRESS = x509.DNSName("db.example"), x509.IPAddress(ip_address("192.0.2.1"))


def test_what_it_asks_for() -> None:
    key = new_key()
    ca = x509.BasicConstraints(ca=True, path_length=None)
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    read = read_request(request(names(DB, ADDRESS), ca, unknown, key=key), "a.csr")
    assert read.public_key == key.public_key()
    assert requested(read, SERVER) == read.names == (DB, ADDRESS)
    assert read.ignored == ("BasicConstraints", "1.2.3.4")


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)])
def test_keys_that_are_signed(key: PrivateKey) -> None:
    assert read_request(request(key=key), "a.csr").public_key == key.public_key()


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (rsa.generate_private_key(65537, 1024), "2048 to 8192 bits, not 1024"),  # noqa: S505 - it is to be refused
        (rsa.generate_private_key(3, 2048), "an exponent from 65537 on"),
        (ec.generate_private_key(ec.SECP256K1()), "neither RSA, nor ECDSA"),
        (ed25519.Ed25519PrivateKey.generate(), "neither RSA, nor ECDSA"),
    ],
)
def test_keys_that_are_not_worth_signing(key: PrivateKey, reason: str) -> None:
    with pytest.raises(AuthorityError, match=reason):
        read_request(request(key=key), "a.csr")


def test_a_request_for_a_key_that_its_sender_does_not_have() -> None:
    der = bytearray(x509.load_pem_x509_csr(request()).public_bytes(Encoding.DER))
    at = der.index(b"whoever")
    der[at : at + 7] = b"whoelse"
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(AuthorityError, match="is not signed by the key in it"):
        read_request(forged, "a.csr")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        request()[:-60],
        pem(new_key()),
        request() + pem(new_key()),
        b"#" * (MAX_REQUEST + 1) + request(),
    ],
)
def test_what_is_no_request(content: bytes) -> None:
    with pytest.raises(AuthorityError, match="certificate signing request"):
        read_request(content, "a.csr")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (x509.DNSName("*.example.com"), "a wildcard has to be named"),
        (x509.DNSName("a b"), "is no DNS name"),
        (x509.DNSName("evil.example\0.bank.example"), "is no DNS name"),
        (x509.RFC822Name("a@b.example"), "cannot have"),
        (x509.DirectoryName(common_name("a")), "cannot have"),
        (x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"), "cannot have"),
        (x509.RegisteredID(x509.ObjectIdentifier("1.2.3")), "cannot have"),
    ],
)
def test_names_that_nobody_gets_for_asking(name: x509.GeneralName, reason: str) -> None:
    read = read_request(request(names(DB, name)), "a.csr")
    with pytest.raises(AuthorityError, match=reason):
        requested(read, SERVER)
