"""Tokens that are issued are the gateway's own: always named, always ending, and never one that it would refuse."""

from __future__ import annotations

import hashlib
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.errors import Denied
from gateway.restrictions import restrictions
from gateway.token_issuing import (
    KINDS,
    RESERVED,
    PrivateKey,
    issue,
    load_private_key,
    private_pem,
    public_pem,
)
from gateway.tokens import TokenVerifier, VerificationKey, certificate_bound, load_public_key

NOW = 1_700_000_000.5
KEYS: dict[str, PrivateKey] = {
    "ed25519": KINDS["ed25519"](),
    "es256": KINDS["es256"](),
    "es384": KINDS["es384"](),
    "rs256": rsa.generate_private_key(65537, 2048),
}
KEY = KEYS["ed25519"]


def made(key: PrivateKey = KEY, **options: Any) -> str:
    defaults: dict[str, Any] = {"subject": "alice", "lifetime": 60, "now": NOW}
    return issue(key, **(defaults | options))


def claims(token: str) -> dict[str, Any]:
    read: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return read


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_key_opens_the_gateway(kind: str) -> None:
    """The key goes through files, as it does in life."""
    key = load_private_key(private_pem(KEYS[kind], b"word"), b"word")
    public = load_public_key(public_pem(key))
    token = made(key)
    assert jwt.get_unverified_header(token)["kid"] == public.thumbprint
    identity = TokenVerifier([public]).verify(token.encode(), NOW)
    assert (identity.subject, identity.expires) == ("alice", 1_700_000_060)


def test_there_is_always_a_beginning_an_end_and_a_name() -> None:
    found = claims(made())
    assert found == {"sub": "alice", "iat": 1_700_000_000, "exp": 1_700_000_060, "jti": found["jti"]}
    names = {claims(made())["jti"] for _ in range(50)}
    assert len(names) == 50
    assert {len(name) for name in names} == {32}
    assert all(set(name) <= set("0123456789abcdef") for name in names)


def test_everything_that_can_be_said() -> None:
    found = claims(
        made(
            issuer="https://issuer",
            audience=["postgres"],
            databases=["sales"],
            networks=["192.0.2.0/24"],
            certificate=b"DER",
            claims={"role": "reader"},
        )
    )
    assert {name: found[name] for name in ("iss", "aud", "role", "securegw")} == {
        "iss": "https://issuer",
        "aud": "postgres",
        "role": "reader",
        "securegw": {"db": ["sales"], "cidr": ["192.0.2.0/24"]},
    }
    assert claims(made(audience=["a", "b"]))["aud"] == ["a", "b"]
    assert claims(made(databases=["a"]))["securegw"] == {"db": ["a"]}


def test_a_bound_token_needs_its_certificate() -> None:
    identity = TokenVerifier([VerificationKey(KEY.public_key())]).verify(made(certificate=b"DER").encode(), NOW)
    certificate_bound(identity, b"DER")
    for other in (None, b"other", hashlib.sha256(b"DER").digest()):
        with pytest.raises(Denied, match="bound"):
            certificate_bound(identity, other)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"subject": ""}, "no sub"),
        ({"subject": "al\0ice"}, "no sub"),
        ({"subject": "\ud800"}, "not strict JSON"),
        ({"lifetime": 0}, "expired"),
        ({"lifetime": -60}, "expired"),
        ({"lifetime": 10**12}, "exp is not a date"),
        ({"databases": [""]}, "db has a name"),
        ({"databases": ["n" * 64]}, "db has a name"),
        ({"databases": ["d"] * 101}, "db has not from 1 to 100 items"),
        ({"networks": ["192.0.2.1/24"]}, "cidr has an item"),
        ({"networks": ["all"]}, "cidr has an item"),
        ({"networks": ["::ffff:192.0.2.0/120"]}, "cidr has an item"),
        ({"claims": {"x": float("nan")}}, "not strict JSON"),
        ({"claims": {"x": "y" * 65_536}}, "longer than 65536 bytes"),
    ],
)
def test_what_would_open_nothing_is_not_issued(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        made(**options)


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_claims_with_a_meaning_have_one_way_in(name: str) -> None:
    with pytest.raises(ValueError, match=f"the claim {name} cannot be given like this"):
        made(claims={name: "x"})


def test_restrictions_are_what_was_asked_for() -> None:
    found = restrictions(claims(made(databases=["sales", "sales", "ops"], networks=["192.0.2.7", "2001:db8::/32"])))
    assert found.databases == frozenset({"sales", "ops"})
    assert [str(network) for network in found.networks or ()] == ["192.0.2.7/32", "2001:db8::/32"]
    assert restrictions(claims(made())) == restrictions({})


# --- private keys -----------------------------------------------------------------------------------------------------


def test_an_encrypted_key_needs_its_passphrase() -> None:
    pem = private_pem(KEY, b"hunter2")
    assert b"ENCRYPTED" in pem
    for word, why in (
        (None, "is encrypted: a passphrase is needed: --passphrase-file"),
        (b"hunter3", "or the passphrase is another"),
    ):
        with pytest.raises(ValueError, match=why) as caught:
            load_private_key(pem, word)
        assert "hunter" not in str(caught.value)
    with pytest.raises(ValueError, match="is not encrypted, so no passphrase"):
        load_private_key(private_pem(KEY, None), b"hunter2")


@pytest.mark.parametrize("text", [b"", b"hunter2", public_pem(KEY), private_pem(KEY, None)[:-40]])
def test_what_is_no_private_key_is_not_quoted(text: bytes) -> None:
    with pytest.raises(ValueError, match="is not a readable PEM private key") as caught:
        load_private_key(text, None)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (ed448.Ed448PrivateKey.generate(), "signs no tokens"),
        (ec.generate_private_key(ec.SECP521R1()), "unsupported curve secp521r1"),
        (rsa.generate_private_key(65537, 1024), "1024 bits is too weak"),  # noqa: S505 - what is refused
    ],
)
def test_keys_whose_tokens_nobody_would_believe(key: Any, why: str) -> None:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match=why):
        load_private_key(pem, None)
