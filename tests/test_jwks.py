"""JWK Sets: those of the RFCs and of real issuers are read; what could mislead makes the whole set unusable."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.errors import Denied
from gateway.jose import unpadded
from gateway.jwks import MAX_DOCUMENT, MAX_KEYS, MAX_RSA_BITS, parse
from gateway.tokens import TokenVerifier
from tests.test_tokens import ED25519, NOW, P256, P384, RSA, issue

Jwk = dict[str, Any]


def jwk(key: Any, **members: Any) -> Jwk:
    public = key.public_key()
    algorithm: Any = OKPAlgorithm
    if isinstance(public, rsa.RSAPublicKey):
        algorithm = RSAAlgorithm
    if isinstance(public, ec.EllipticCurvePublicKey):
        algorithm = ECAlgorithm
    made: Jwk = algorithm.to_jwk(public, as_dict=True)
    made.pop("key_ops", None)
    return made | members


def document(*keys: Any, **members: Any) -> bytes:
    return json.dumps({"keys": list(keys), **members}).encode()


def refused(content: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        parse(content)
    assert "\n" not in str(caught.value)


ED, EC256, EC384, RS = jwk(ED25519), jwk(P256), jwk(P384), jwk(RSA)


# --- what is read -----------------------------------------------------------------------------------------------------


def test_the_key_of_rfc_8037() -> None:
    """Appendix A.2, and its thumbprint in A.3."""
    text = '{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}'
    (key,) = parse(document(json.loads(text)))
    assert key.thumbprint == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    assert (key.kid, key.algorithms) == (None, frozenset({"EdDSA", "Ed25519"}))


def test_the_rsa_key_of_rfc_7517() -> None:
    """Appendix A.1: of its two keys the first is for encryption."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknj"
        "hMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQ"
        "vRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzK"
        "nqDKgw"
    )
    encrypts = {
        "kty": "EC",
        "crv": "P-256",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
        "use": "enc",
        "kid": "1",
    }
    (key,) = parse(document(encrypts, {"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}))
    assert (key.kid, key.algorithms) == ("2011-04-29", frozenset({"RS256"}))


@pytest.mark.parametrize(("key", "alg"), [(ED25519, "EdDSA"), (P256, "ES256"), (P384, "ES384"), (RSA, "PS512")])
def test_each_type_verifies(key: Any, alg: str) -> None:
    (parsed,) = parse(document(jwk(key, kid="k", use="sig", key_ops=["verify"], alg=alg)))
    assert TokenVerifier([parsed]).verify(issue(header={"kid": "k"}, key=key, alg=alg), NOW).subject == "alice"


def test_alg_narrows_the_key() -> None:
    keys = parse(document(RS | {"alg": "RS256"}))
    TokenVerifier(keys).verify(issue(key=RSA, alg="RS256"), NOW)
    with pytest.raises(Denied, match="no configured key may verify alg 'RS384'"):
        TokenVerifier(keys).verify(issue(key=RSA, alg="RS384"), NOW)


@pytest.mark.parametrize("alg", ["EdDSA", "Ed25519"])
def test_both_names_of_ed25519_are_one(alg: str) -> None:
    keys = parse(document(ED | {"alg": alg}))
    for told in ("EdDSA", "Ed25519"):
        TokenVerifier(keys).verify(issue(alg=told), NOW)


def test_certificates_urls_and_members_that_nobody_knows_are_not_looked_at() -> None:
    more = {"x5c": ["nonsense"], "x5u": "http://127.0.0.1:1/", "x5t": 7, "x5t#S256": None, "ext": True, "iss": "x"}
    (key,) = parse(document(ED | more, note="of the issuer's own"))
    assert key.kid is None


@pytest.mark.parametrize(
    "other",
    [
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"},
        {"kty": "OKP", "crv": "Ed448", "x": "AAAA"},
        {"kty": "OKP", "crv": "X25519", "x": "AAAA"},
        {"kty": "OKP"},
        {"kty": "EC", "crv": "secp256k1", "x": "AAAA", "y": "AAAA"},
        {"kty": "EC", "crv": "P-521", "x": "AAAA", "y": "AAAA"},
        {"kty": "rsa"},
        EC256 | {"use": "enc"},
        EC256 | {"use": ""},
        EC256 | {"key_ops": ["sign", "deriveKey"]},
        EC256 | {"key_ops": []},
        EC256 | {"use": "sig", "key_ops": ["encrypt"]},
        RS | {"alg": "RSA-OAEP"},
        EC256 | {"alg": "ES256K"},
        RS | {"alg": "HS256"},
        RS | {"alg": "none"},
    ],
)
def test_what_is_not_for_us_is_passed_over(other: Jwk) -> None:
    assert [key.kid for key in parse(document(other | {"kid": "other"}, ED | {"kid": "ours"}))] == ["ours"]
    refused(document(other), "has no key that could verify a token")


@pytest.mark.parametrize("bits", [1024, 2040, MAX_RSA_BITS + 8])
def test_rsa_of_a_size_that_we_do_not_trust_is_passed_over(bits: int) -> None:
    n = unpadded(((1 << bits) - 1).to_bytes(bits // 8)).decode()
    assert len(parse(document(RS | {"n": n}, ED))) == 1


def test_a_whole_key_of_another_curve_is_passed_over() -> None:
    refused(document(jwk(ed448.Ed448PrivateKey.generate())), "has no key that could verify a token")


# --- what makes a set unusable --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "private",
    [
        ED | {"d": "AAAA"},
        RS | {"d": "AAAA"},
        RS | {"p": "AAAA", "q": "AAAA"},
        RS | {"oth": []},
        EC256 | {"d": None},
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
        {"kty": "AKP", "priv": "AAAA"},
        RS | {"use": "enc", "d": "AAAA"},
    ],
)
def test_a_private_key_is_nobodys_any_more(private: Jwk) -> None:
    refused(document(ED, private), "key 2: it is a private or secret one")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is not strict JSON"),
        (b"{", "is not strict JSON"),
        (b"\xef\xbb\xbf" + document(ED), "is not strict JSON"),
        (b'{"keys": [], "keys": []}', "is not strict JSON"),
        (document(ED).replace(b'"kty"', b'"kty": "OKP", "kty"'), "is not strict JSON"),
        (document(ED, n=float("nan")), "is not strict JSON"),
        (b"[" * 500_000, "is not strict JSON"),
        (b'{"keys": "\\ud800"}', "is not strict JSON"),
        (b"[]", "is not a JSON object"),
        (b"{}", "is not a JWK Set"),
        (b'{"keys": {}}', "is not a JWK Set"),
        (b'{"keys": [[]]}', "is not a JWK Set"),
        (json.dumps(ED).encode(), "is not a JWK Set"),
        (document(), "has no key"),
        (document(*[{"kty": "x"}] * (MAX_KEYS + 1)), "has more than 100 keys"),
        (document(ED, padding="x" * MAX_DOCUMENT), "is larger than"),
    ],
)
def test_documents_that_are_no_set(content: bytes, why: str) -> None:
    refused(content, why)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ({}, "key 2: it has no kty"),
        (ED | {"kty": 7}, "key 2: its kty is not a string"),
        (ED | {"kid": 7}, "key 2: its kid is not a string"),
        (ED | {"kid": None}, "key 2: its kid is not a string"),
        (ED | {"alg": ["EdDSA"]}, "key 2: its alg is not a string"),
        (ED | {"use": ["sig"]}, "key 2: its use is not a string"),
        (ED | {"key_ops": "verify"}, "key 2: its key_ops are not a list of strings"),
        (ED | {"crv": 7}, "key 2: its crv is not a string"),
        (ED | {"x": 7}, "key 2: its x is not a string"),
        ({"kty": "OKP", "crv": "Ed25519"}, "key 2: it has no x"),
        (ED | {"x": ED["x"] + "="}, "key 2: its x is not strict base64url"),
        (ED | {"x": "AAAA"}, "key 2: its x has 3 bytes instead of 32"),
        (ED | {"alg": "RS256"}, "key 2: alg 'RS256' is not for this type of key"),
        (EC256 | {"alg": "ES384"}, "key 2: alg 'ES384' is not for this type of key"),
        (EC256 | {"y": EC256["x"]}, "key 2: its x and y are no point of P-256"),
        (EC256 | {"crv": "P-384"}, "key 2: its x has 32 bytes instead of 48"),
        ({**EC384, "y": ""}, "key 2: its y is not strict base64url"),
        (RS | {"e": "AA"}, "key 2: its e begins with zeros"),
        (RS | {"n": "AA" + RS["n"]}, "key 2: its n "),
        (RS | {"e": unpadded(b"\x01" * 9).decode()}, "key 2: its e is too large to be meant"),
        (RS | {"e": "Ag"}, "key 2: its n and e are no RSA key"),
        (RS | {"e": "AQ"}, "key 2: its n and e are no RSA key"),
        ({"kty": "RSA", "e": "AQAB"}, "key 2: it has no n"),
    ],
)
def test_a_key_that_would_be_for_us_but_is_malformed(key: Jwk, why: str) -> None:
    refused(document(EC256 | {"kid": "good"}, key), why)


def test_one_kid_for_two_keys() -> None:
    refused(document(EC256 | {"kid": "k"}, jwk(ec.generate_private_key(ec.SECP256R1()), kid="k")), "the same kid")
    refused(document(RS | {"kid": "k"}, RS | {"kid": "k", "alg": "RS256"}), "the same kid")
    # These are alternatives (RFC 7517 section 4.5), and no kid is no kid.
    assert len(parse(document(EC256 | {"kid": "k"}, EC384 | {"kid": "k"}, RS | {"kid": "k"}))) == 3
    assert len(parse(document(RS | {"kid": "k", "alg": "RS256"}, RS | {"kid": "k", "alg": "PS256"}))) == 2
    assert len(parse(document(ED, jwk(ed25519.Ed25519PrivateKey.generate())))) == 2


# --- properties -------------------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["AQAB", "sig", "verify"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
members = st.dictionaries(
    st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d", "kid", "use", "key_ops", "alg"]), values
)


def only_refused(content: bytes) -> None:
    try:
        keys = parse(content)
    except ValueError:
        return
    assert keys


@given(st.sampled_from([ED, EC256, EC384, RS]), members)
def test_any_members(key: Jwk, changed: Jwk) -> None:
    only_refused(document(key | changed))


@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    only_refused(content)
    only_refused(b'{"keys":[' + content + b"]}")
