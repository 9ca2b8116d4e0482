"""The quickstart's keys: kept while they are good, and made anew, all of a folder, when one of them is not."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway import quickstart_pki
from gateway.quickstart_pki import (
    CERTIFICATE_LIFETIME,
    PKI,
    RENEW_BEFORE,
    TOKEN_SECONDS,
    make_pki,
    make_token,
)
from tests.pki import Days, issue, make_ca, write_pem

FILES = ("ca.crt", "other.crt", "other.key", "server.crt", "server.key", "thing.crt", "thing.key")


def silent(_: str) -> None:
    """Nobody is told."""


# --- certificates -----------------------------------------------------------------------------------------------------


def test_a_thing_has_a_random_key(tmp_path: Path) -> None:
    pki, other = make_pki(tmp_path / "pki", silent), make_pki(tmp_path / "other", silent)
    assert UUID(pki.thing()).version == 4
    assert pki.thing() != other.thing()


def test_they_are_kept_until_a_month_before_their_end(tmp_path: Path) -> None:
    made = datetime.now(UTC)
    pki = make_pki(tmp_path / "pki", silent)
    before = {name: (pki.folder / name).read_bytes() for name in FILES}
    last = made + CERTIFICATE_LIFETIME - RENEW_BEFORE
    assert pki.good(last - timedelta(minutes=1))
    assert not pki.good(last + timedelta(minutes=1))
    assert not pki.good(made - timedelta(days=1))
    make_pki(pki.folder, pytest.fail)
    assert {name: (pki.folder / name).read_bytes() for name in FILES} == before


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "foreign"])
def test_one_that_is_damaged_makes_all_anew(tmp_path: Path, name: str, damage: str) -> None:
    pki, other = make_pki(tmp_path / "pki", silent), make_pki(tmp_path / "other", silent)
    before = {name: (pki.folder / name).read_bytes() for name in FILES}
    damaged = pki.folder / name
    if damage == "missing":
        damaged.unlink()
    else:
        damaged.write_bytes(b"" if damage == "empty" else (other.folder / name).read_bytes())
    assert not pki.good(datetime.now(UTC))
    told: list[str] = []
    assert make_pki(pki.folder, told.append).good(datetime.now(UTC))
    assert len(told) == 1
    assert not [name for name in FILES if (pki.folder / name).read_bytes() == before[name]]


GOOD, ENDING, BEGINNING = (-1, 90), (-1, 29), (1, 90)


@pytest.mark.parametrize(
    ("ca", "server", "thing", "good"),
    [
        (GOOD, GOOD, GOOD, True),
        (ENDING, GOOD, GOOD, False),
        (GOOD, ENDING, GOOD, False),
        (GOOD, GOOD, ENDING, False),
        (GOOD, BEGINNING, GOOD, False),
        (GOOD, GOOD, BEGINNING, False),
    ],
)
def test_all_have_to_be_in_time(tmp_path: Path, ca: Days, server: Days, thing: Days, good: bool) -> None:
    authority = make_ca(valid=ca)
    write_pem(tmp_path / "ca.crt", authority.certificate)
    issue(authority, valid=server).write(tmp_path, "server")
    issue(authority, valid=thing).write(tmp_path, "thing")
    issue(authority, valid=GOOD).write(tmp_path, "other")
    assert PKI(tmp_path).good(datetime.now(UTC)) is good


def test_a_folder_of_before_things_had_certificates_is_made_anew(tmp_path: Path) -> None:
    pki = make_pki(tmp_path / "pki", silent)
    for path in (pki.certificate, pki.key):
        path.unlink()
    ca = pki.ca.read_bytes()
    assert make_pki(pki.folder, silent).good(datetime.now(UTC))
    assert pki.ca.read_bytes() != ca


def test_nothing_of_a_generation_that_was_begun_remains(tmp_path: Path) -> None:
    (tmp_path / "pki.new").mkdir()
    (tmp_path / "pki.new" / "ca.key").write_bytes(b"left")
    make_pki(tmp_path / "pki", silent)
    assert {path.name for path in (tmp_path / "pki").iterdir()} == set(FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["pki"]


def test_what_the_certificates_may_be_used_for(tmp_path: Path) -> None:
    pki = make_pki(tmp_path / "pki", silent)
    for name, purpose in (("server", "serverAuth"), ("thing", "clientAuth"), ("other", "clientAuth")):
        leaf = x509.load_pem_x509_certificate((pki.folder / f"{name}.crt").read_bytes())
        (found,) = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert found._name == purpose
        assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


# --- the token --------------------------------------------------------------------------------------------------------


def test_the_token_is_renewed_when_half_of_its_life_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, path, now = Ed25519PrivateKey.generate(), tmp_path / "token", time.time()
    first = make_token(path, key, "somebody")
    monkeypatch.setattr(quickstart_pki.time, "time", lambda: now + TOKEN_SECONDS / 2 - 60)  # type: ignore[attr-defined]
    assert make_token(path, key, "somebody") == first
    monkeypatch.setattr(quickstart_pki.time, "time", lambda: now + TOKEN_SECONDS / 2 + 60)  # type: ignore[attr-defined]
    assert make_token(path, key, "somebody") != first


def test_a_token_of_another_key_is_replaced(tmp_path: Path) -> None:
    first = make_token(tmp_path / "token", Ed25519PrivateKey.generate(), "somebody")
    assert make_token(tmp_path / "token", Ed25519PrivateKey.generate(), "somebody") != first
