"""From [jwt:NAME] to the verifier of a listener: revoked tokens, and the keys of a URL, as they are at that moment."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import Denied
from gateway.token_issuing import public_pem
from gateway.tokens import VerificationKey
from tests.test_doors import Site

ISSUER, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def token(key: Ed25519PrivateKey, **claims: Any) -> bytes:
    return jwt.encode({"sub": "alice", "exp": time.time() + 60, **claims}, key, "EdDSA").encode()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    (tmp_path / "jwt.pub").write_bytes(public_pem(ISSUER))
    (tmp_path / "revoked.txt").write_text("lost\n")
    return site


def verify(site: Site, token: bytes) -> str:
    return site.state.access["postgres:main"].verifier.verify(token, time.time()).subject


def test_a_reload_takes_up_what_was_revoked(site: Site) -> None:
    site.sections["jwt:main"]["revoked"] = "revoked.txt"
    site.build()
    assert verify(site, token(ISSUER, jti="kept")) == "alice"
    with pytest.raises(Denied, match="revoked"):
        verify(site, token(ISSUER, jti="lost"))
    assert site.state.access["postgres:main"].verifier.revoked("lost")
    (site.folder / "revoked.txt").write_text("lost\nkept\n")
    assert verify(site, token(ISSUER, jti="kept")) == "alice"
    site.build()
    with pytest.raises(Denied, match="revoked"):
        verify(site, token(ISSUER, jti="kept"))


def test_with_a_list_every_name_must_be_one_for_it(site: Site) -> None:
    site.build()
    assert verify(site, token(ISSUER, jti="kept #")) == "alice"
    (site.folder / "revoked.txt").write_text("")
    site.sections["jwt:main"]["revoked"] = "revoked.txt"
    site.build()
    with pytest.raises(Denied, match="could be revoked"):
        verify(site, token(ISSUER, jti="kept #"))
    assert verify(site, token(ISSUER)) == "alice"


def test_the_keys_of_a_url_are_asked_for_by_name(site: Site) -> None:
    known: dict[str, list[VerificationKey]] = {"main": []}
    site.doors.keys = known.__getitem__
    site.sections["jwt:main"]["jwks"] = "https://issuer.example/keys"
    site.build()
    assert verify(site, token(ISSUER)) == "alice"
    with pytest.raises(Denied, match="signature"):
        verify(site, token(OTHER))
    known["main"] = [VerificationKey(OTHER.public_key())]
    assert verify(site, token(OTHER)) == "alice"


def test_where_there_is_no_url_nobody_is_asked(site: Site) -> None:
    def never(name: str) -> list[VerificationKey]:
        raise AssertionError(name)

    site.doors.keys = never
    site.build()
    assert verify(site, token(ISSUER)) == "alice"


def test_without_anybody_to_ask_a_url_lets_nobody_in(site: Site) -> None:
    site.sections["jwt:main"] = {"jwks": "https://issuer.example/keys"}
    site.build()
    with pytest.raises(Denied, match="no configured key"):
        verify(site, token(ISSUER))
