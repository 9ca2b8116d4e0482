"""Certificates that nobody will believe, chains that are none, and secrets by their owner's kind."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.inspection.credentials import check_certificates, check_dates, check_jwt, check_secret
from gateway.inspection.findings import Level
from gateway.pem import exposed
from tests.gateways import Sections
from tests.inspection.site import DATABASE, Site
from tests.inspection.test_examined_clients import signed_with_sha1
from tests.pki import Issued, PrivateKey, issue, make_ca, write_pem

NAMES = ["localhost", "127.0.0.1"]
WEAK = rsa.generate_private_key(65_537, 1024)  # noqa: S505 - to be told of


def told(site: Site, sections: Sections | None = None) -> list[str]:
    return [
        f"{one.level.value} [{one.section}] {one.about}: {one.text.removeprefix(f'{site.folder}/')}"
        for one in check_certificates(site.config({**DATABASE, **(sections or {})}))
        if one.about in ("certificate", "client_ca", "root_certificate")
    ]


def of_server(site: Site, issued: Issued) -> list[str]:
    issued.write(site.folder, "server")
    return told(site)


def test_a_weak_one_of_ours(site: Site) -> None:
    first, *_ = of_server(site, issue(site.ca, "localhost", sans=NAMES, key=WEAK))
    words = "of CN=localhost: its RSA key of 1024 bits is too weak"
    assert first == f"FAIL [tls] certificate: server.crt: {words}"


def test_a_weak_signature(site: Site) -> None:
    """But for that of a root, which proves nothing."""
    weak = signed_with_sha1(issue(site.ca, "localhost", sans=NAMES))
    write_pem(site.folder / "server.crt", weak.certificate)
    write_pem(site.folder / "server.key", weak.key)
    assert told(site)[0] == "FAIL [tls] certificate: server.crt: of CN=localhost: it is signed with sha1"
    root = signed_with_sha1(make_ca())
    write_pem(site.folder / "server.crt", issue(site.ca, "localhost", sans=NAMES).certificate)
    write_pem(site.folder / "ca.crt", root.certificate)
    upstream = {"hosts": "db.example", "root_certificate": "ca.crt"}
    assert not [one for one in told(site, {"upstream:main": upstream}) if "sha1" in one]


def test_an_issuer_that_only_has_the_name(site: Site) -> None:
    """The signature is another's (cryptography raises InvalidSignature, which is no ValueError)."""
    other = make_ca()
    server = issue(site.ca, "localhost", sans=NAMES)
    write_pem(site.folder / "server.crt", server.certificate, other.certificate)
    write_pem(site.folder / "server.key", server.key)
    words = "CN=Test CA comes behind CN=localhost, but has not issued it"
    assert told(site)[0] == f"FAIL [tls] certificate: server.crt: {words}"


def test_an_address_is_a_name_too(site: Site) -> None:
    assert of_server(site, issue(site.ca, "x", sans=["127.0.0.1"])) == [
        "ok [tls] certificate: server.crt: CN=x, EC secp256r1"
    ]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (rsa.generate_private_key(65_537, 2048), "RSA 2048"),
        (ec.generate_private_key(ec.SECP384R1()), "EC secp384r1"),
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
    ],
)
def test_of_which_kind_it_is(site: Site, key: PrivateKey, words: str) -> None:
    found = of_server(site, issue(site.ca, "localhost", sans=NAMES, key=key))
    assert found == [f"ok [tls] certificate: server.crt: CN=localhost, {words}"]


def test_weak_authorities_where_they_stand(site: Site) -> None:
    write_pem(site.folder / "weak.crt", make_ca("weak", key=WEAK).certificate)
    clients = {"client_certificate": "optional", "client_ca": "weak.crt"}
    found = told(site, {
        "tls": {"certificate": "server.crt", "key": "server.key", **clients},
        "https:main": {"listen": "127.0.0.1:8443"},
        "upstream:main": {"hosts": "db.example", "root_certificate": "weak.crt"},
    })  # fmt: skip
    assert [one for one in found if not one.startswith("ok")] == [
        f"warn {place}: weak.crt: of CN=weak: its RSA key of 1024 bits is too weak"
        for place in ("[tls] client_ca", "[upstream:main] root_certificate")
    ]


def test_of_several_in_a_file_the_first_that_ends(site: Site) -> None:
    write_pem(site.folder / "ca.crt", make_ca(valid=(-2, 90)).certificate, make_ca("b", valid=(-2, 70)).certificate)
    upstream = {"hosts": "db.example", "root_certificate": "ca.crt"}
    (found,) = [
        one for one in check_dates(site.config({**DATABASE, "upstream:main": upstream})) if "ca.crt" in one.text
    ]
    ends = datetime.now(UTC) + timedelta(days=70)
    assert found.level is Level.OK
    assert found.text == f"{site.folder / 'ca.crt'}: 2 in it, the first of which lasts until {ends:%Y-%m-%d}"


# --- tokens -----------------------------------------------------------------------------------------------------------

STILL = (
    "is not given, though [jwt:main], which believes the same key, has one: a token that is revoked there still gets in"
)


@pytest.mark.parametrize(
    ("main", "reports", "warned"),
    [
        ({"revoked": "revoked"}, {}, True),
        ({"revoked": "revoked"}, {"issuer": "https://a.example"}, True),
        ({"revoked": "revoked", "issuer": "https://b.example"}, {"issuer": "https://a.example"}, False),
        ({"revoked": "revoked"}, {"revoked": "revoked"}, False),
        ({}, {}, False),
        ({"revoked": "revoked"}, {"public_keys": "other.pub"}, False),
        (
            {"revoked": "revoked", "jwks": "https://a.example/k"},
            {"public_keys": "", "jwks": "https://a.example/k"},
            True,
        ),
        (
            {"revoked": "revoked", "jwks": "https://a.example/k"},
            {"public_keys": "", "jwks": "https://b.example/k"},
            False,
        ),
    ],
)
def test_a_key_whose_tokens_are_revoked_in_one_place_only(
    site: Site, main: dict[str, object], reports: dict[str, object], warned: bool
) -> None:
    (site.folder / "revoked").touch()
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    (site.folder / "other.pub").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    sections = {"jwt:main": {"public_keys": "jwt.pub", **main}, "jwt:reports": {"public_keys": "jwt.pub", **reports}}
    found = [
        (one.section, one.level, one.text)
        for one in check_jwt(site.config({**DATABASE, **drop_empty(sections)}), {})
        if one.about == "revoked" and one.level is not Level.OK
    ]
    assert found == ([("jwt:reports", Level.WARN, f"{STILL} here")] if warned else [])


def drop_empty(sections: Sections) -> Sections:
    return {name: {key: text for key, text in keys.items() if text != ""} for name, keys in sections.items()}


# --- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "mode", "level"),
    [
        (0, 0o600, "ok"),
        (0, 0o640, "ok"),
        (0, 0o660, "warn"),
        (0, 0o650, "warn"),
        (4711, 0o600, "ok"),
        (4711, 0o640, "warn"),
        (4711, 0o620, "warn"),
        (0, 0o601, "FAIL"),
        (0, 0o602, "FAIL"),
        (4711, 0o604, "FAIL"),
    ],
)
def test_who_else_can_use_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, mode: int, level: str
) -> None:
    """As the gateway itself sees it where it reads a private key."""
    secret = tmp_path / "secret"
    secret.touch()
    status = secret.stat()
    owned = os.stat_result((0o100_000 | mode, *status[1:4], owner, *status[5:10]))
    monkeypatch.setattr(Path, "stat", lambda _, **__: owned)
    (found,) = check_secret("tls", "key", secret)
    assert found.level.value == level
    assert exposed(secret) == (level != "ok")


def test_a_secret_that_is_not_there(tmp_path: Path) -> None:
    assert list(check_secret("tls", "key", tmp_path / "gone")) == []
