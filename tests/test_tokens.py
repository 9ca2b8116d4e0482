"""Tokens: what the seeds' issuers and the RFCs write is accepted; every forgery, confusion and sloppiness is Denied."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms

from gateway.errors import Denied
from gateway.identity import Identity
from gateway.tokens import (
    MAX_DATE,
    MAX_HEADER,
    MAX_TOKEN,
    TokenVerifier,
    VerificationKey,
    certificate_bound,
    check_jti,
    load_public_key,
)
from gateway.wire.postgres import MAX_PASSWORD
from tests.pki import make_ca, pem

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

NOW = 1_700_000_000.0
CLAIMS = {"sub": "alice", "exp": NOW + 60}

ED25519 = ed25519.Ed25519PrivateKey.generate()
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
RSA = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, PrivateKey] = {
    "EdDSA": ED25519,
    "Ed25519": ED25519,
    "ES256": P256,
    "ES384": P384,
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSA),
}


def b64(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def public(key: Any) -> bytes:
    encoded: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def verification_key(key: PrivateKey, kid: str | None = None) -> VerificationKey:
    return load_public_key(public(key), kid)


def sign(header: bytes, payload: bytes, key: PrivateKey = ED25519, alg: str = "EdDSA") -> bytes:
    """A token of exactly these bytes, well signed."""
    signed = b64(header) + b"." + b64(payload)
    algorithm = get_default_algorithms()["EdDSA" if alg == "Ed25519" else alg]
    return signed + b"." + b64(algorithm.sign(signed, key))


def issue(
    claims: Any = CLAIMS, header: dict[str, Any] | None = None, key: PrivateKey = ED25519, alg: str = "EdDSA"
) -> bytes:
    return sign(json.dumps({"alg": alg} | (header or {})).encode(), json.dumps(claims).encode(), key, alg)


def verifier(**options: Any) -> TokenVerifier:
    return TokenVerifier([verification_key(ED25519)], **options)


def denied(token: bytes, why: str | None, now: float = NOW, **options: Any) -> None:
    with pytest.raises(Denied, match=why):
        verifier(**options).verify(token, now)


# --- what is accepted --------------------------------------------------------------------------------------------


def test_identity_of_a_token() -> None:
    claims = CLAIMS | {"jti": "n1", "role": "reader"}
    identity = verifier().verify(issue(claims), NOW)
    assert identity == Identity("jwt", "alice", NOW + 60, "n1", claims)
    with pytest.raises(TypeError):
        identity.claims["role"] = "owner"  # type: ignore[index]


def test_the_token_of_the_older_proxy_documentation() -> None:
    """Its header has `typ` and a stray `crv`, and no `kid`; its JSON has blanks."""
    private = load_pem_private_key(
        b"-----BEGIN PRIVATE KEY-----\n"
        b"MC4CAQAwBQYDK2VwBCIEINQG5lNt1bE8TZa68mV/WZdpqsXaOXBHvgPQGm5CcjHp\n"
        b"-----END PRIVATE KEY-----\n",
        password=None,
    )
    token = (
        b"eyJ0eXAiOiAiSldUIiwgImFsZyI6ICJFZERTQSIsICJjcnYiOiAiRWQyNTUxOSJ9."
        b"eyJzdWIiOiAibXlfdXNlciIsICJleHAiOiAxNjEwNTYxOTYxfQ."
        b"YeTn4oYwOvQLApTg2WgldX--qRywM0MV-EoDdL7ZNr0HnoadxZ9wKt_fqqT7L8w1d378UtaXavq0B_LUYUt4Dg"
    )
    identity = TokenVerifier([load_public_key(public(private))]).verify(token, 1610561960)
    assert (identity.subject, identity.expires, identity.serial) == ("my_user", 1610561961, None)


@pytest.mark.parametrize("alg", KEYS)
def test_each_algorithm_with_its_own_key(alg: str) -> None:
    key = KEYS[alg]
    token = issue(alg=alg, key=key)
    assert TokenVerifier([verification_key(key)]).verify(token, NOW).subject == "alice"
    forged = token[:-6] + (b"AAAAAA" if token[-6:] != b"AAAAAA" else b"BBBBBB")
    with pytest.raises(Denied):
        TokenVerifier([verification_key(key)]).verify(forged, NOW)


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"])
def test_types_of_access_tokens(typ: str) -> None:
    assert verifier().verify(issue(header={"typ": typ}), NOW).subject == "alice"


def test_key_references_in_the_header_are_ignored() -> None:
    """An attacker's key in `jwk` neither verifies its own token nor spoils a good one."""
    attacker = ed25519.Ed25519PrivateKey.generate()
    references = {
        "jwk": OKPAlgorithm.to_jwk(attacker.public_key(), as_dict=True),
        "jku": "https://attacker.example/keys",
        "x5u": "file:///etc/passwd",
        "x5c": ["AAAA"],
    }
    assert verifier().verify(issue(header=references), NOW).subject == "alice"
    denied(issue(header=references, key=attacker), "signature")


def test_largest_token() -> None:
    """Padding the claims to the limit and one step over it."""
    room = MAX_TOKEN * 3 // 4 - 250
    assert verifier().verify(issue(CLAIMS | {"x": "y" * room}), NOW).subject == "alice"
    denied(issue(CLAIMS | {"x": "y" * (room + 250)}), "longer than")


def test_every_password_that_is_read_may_be_a_token() -> None:
    assert MAX_TOKEN == MAX_PASSWORD
    denied(b"A" * MAX_PASSWORD, "three parts")
    denied(b"A" * (MAX_PASSWORD + 1), "longer than 65536 bytes")


# --- the key decides ---------------------------------------------------------------------------------------------


def test_no_keys_let_nobody_in() -> None:
    with pytest.raises(Denied, match="no configured key"):
        TokenVerifier([]).verify(issue(), NOW)


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "", "ES256", "RS256", "HS256", "eddsa", "Ed448", None, 7, ["EdDSA"]]
)
def test_algorithms_that_the_key_does_not_have(alg: Any) -> None:
    denied(issue(header={"alg": alg}), "alg")


def test_unsigned() -> None:
    for signature in (b"", b"AA"):
        token = b64(b'{"alg":"none"}') + b"." + b64(json.dumps(CLAIMS).encode()) + b"." + signature
        denied(token, "alg|signature")


@pytest.mark.parametrize("secret", [public(RSA), public(RSA).strip(), public(ED25519)])
def test_public_key_as_hmac_secret(secret: bytes) -> None:
    signed = b64(b'{"alg":"HS256"}') + b"." + b64(json.dumps(CLAIMS).encode())
    token = signed + b"." + b64(hmac.digest(secret, signed, "sha256"))
    both = TokenVerifier([verification_key(RSA), verification_key(ED25519)])
    with pytest.raises(Denied, match="alg"):
        both.verify(token, NOW)


def test_curves_do_not_mix() -> None:
    """A P-384 key with ES256 in the header, well signed with SHA-256."""
    signed = b64(b'{"alg":"ES256"}') + b"." + b64(json.dumps(CLAIMS).encode())
    token = signed + b"." + b64(ECAlgorithm(ECAlgorithm.SHA256).sign(signed, P384))
    with pytest.raises(Denied, match="alg"):
        TokenVerifier([verification_key(P384)]).verify(token, NOW)


def test_der_signature_is_no_jws_signature() -> None:
    """RFC 7518 section 3.4 wants R and S side by side."""
    from cryptography.hazmat.primitives.hashes import SHA256

    signed = issue(alg="ES256", key=P256).rpartition(b".")[0]
    token = signed + b"." + b64(P256.sign(signed, ec.ECDSA(SHA256())))
    with pytest.raises(Denied, match="signature"):
        TokenVerifier([verification_key(P256)]).verify(token, NOW)


def test_null_signature() -> None:
    """CVE-2022-21449: R = S = 0."""
    signed = issue(alg="ES256", key=P256).rpartition(b".")[0]
    with pytest.raises(Denied, match="signature"):
        TokenVerifier([verification_key(P256)]).verify(signed + b"." + b64(bytes(64)), NOW)


def test_changed_claims_do_not_fit_the_signature() -> None:
    header, _, signature = issue().split(b".")
    denied(header + b"." + b64(json.dumps(CLAIMS | {"sub": "root"}).encode()) + b"." + signature, "signature")


# --- kid ---------------------------------------------------------------------------------------------------------

OTHER = ed25519.Ed25519PrivateKey.generate()


def opens(keys: list[VerificationKey], token: bytes) -> bool:
    try:
        return TokenVerifier(keys).verify(token, NOW).subject == "alice"
    except Denied:
        return False


def test_without_kid_every_key_is_tried() -> None:
    keys = [verification_key(OTHER, "old"), verification_key(ED25519, "new")]
    assert opens(keys, issue())


def test_kid_picks_only_its_key() -> None:
    keys = [verification_key(OTHER, "old"), verification_key(ED25519, "new")]
    assert opens(keys, issue(header={"kid": "new"}))
    assert not opens(keys, issue(header={"kid": "old"}))
    assert not opens([*keys, verification_key(ED25519)], issue(header={"kid": "old"}))


def test_kid_may_be_the_thumbprint() -> None:
    named, unnamed = verification_key(ED25519, "new"), verification_key(OTHER)
    assert opens([named, unnamed], issue(header={"kid": named.thumbprint}))
    assert not opens([named, unnamed], issue(header={"kid": unnamed.thumbprint}))


def test_unknown_kid_reaches_only_keys_without_a_name() -> None:
    assert opens([verification_key(ED25519)], issue(header={"kid": "../../etc/passwd"}))
    assert not opens([verification_key(ED25519, "new")], issue(header={"kid": "unknown"}))


@pytest.mark.parametrize("kid", [None, 0, [], {"new": 1}, True])
def test_kid_is_a_string(kid: Any) -> None:
    denied(issue(header={"kid": kid}), "kid")


# --- the grammar -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b".",
        b"..",
        b"password",
        b"a.b",
        b"a.b.c.d.e",
        b"\0" * 100,
        b"\xff.\xff.\xff",
        b"." * MAX_TOKEN,
        b"A" * (MAX_TOKEN + 1),
    ],
)
def test_garbage(token: bytes) -> None:
    denied(token, None)


@pytest.mark.parametrize("token", [issue() + b".e30", issue() + b".", b"." + issue(), issue().rpartition(b".")[0]])
def test_three_parts(token: bytes) -> None:
    denied(token, "three parts")


@pytest.mark.parametrize("edit", ["pad", "space", "newline", "start", "plus", "null"])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_base64url_has_no_junk(part: int, edit: str) -> None:
    """Each edit survives a lenient decoder; where it is in the signed part, it is signed as it stands."""
    parts = issue(CLAIMS | {"x": "??>>~~"}).split(b".")
    edits = {
        "pad": parts[part] + b"=" * (-len(parts[part]) % 4 or 4),
        "space": parts[part] + b" ",
        "newline": parts[part][:8] + b"\n" + parts[part][8:],
        "start": b" " + parts[part],
        "plus": parts[part].replace(b"-", b"+").replace(b"_", b"/") + b"+",
        "null": parts[part] + b"\0",
    }
    parts[part] = edits[edit]
    if part < 2:
        parts[2] = b64(ED25519.sign(parts[0] + b"." + parts[1]))
    denied(b".".join(parts), "base64url")


def test_standard_alphabet_is_refused() -> None:
    payload = json.dumps(CLAIMS | {"x": "???>>>"}).encode()
    standard = b64(payload).replace(b"-", b"+").replace(b"_", b"/")
    assert standard != b64(payload)
    signed = b64(b'{"alg":"EdDSA"}') + b"." + standard
    denied(signed + b"." + b64(ED25519.sign(signed)), "base64url")


def test_trailing_bits_are_canonical() -> None:
    """64 bytes leave four spare bits in the last character: fifteen other spellings of one signature."""
    token = issue()
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    spelling = token[:-1] + alphabet[alphabet.index(token[-1]) + 1 :][:1]
    assert urlsafe_b64decode(spelling.split(b".")[2] + b"==") == urlsafe_b64decode(token.split(b".")[2] + b"==")
    denied(spelling, "signature is not strict base64url")


@pytest.mark.parametrize(
    "payload",
    [
        b'{"sub":"alice","sub":"root","exp":9999999999}',
        b'{"sub":"alice","exp":9999999999,"x":{"a":1,"a":2}}',
        b'{"sub":"alice","exp":9999999999,"x":[{"a":1,"\\u0061":2}]}',
        b'{"sub":"alice","exp":Infinity}',
        b'{"sub":"alice","exp":NaN}',
        b'{"sub":"alice","exp":9999999999,"x":-Infinity}',
        b'{"sub":"alice","exp":1e999}',
        b'{"sub":"alice","exp":9999999999,"x":-1e999}',
        b'{"sub":"alice","exp":' + b"9" * 5000 + b"}",
        b'{"sub":"\\ud800","exp":9999999999}',
        b'{"sub":"alice","exp":9999999999,"x":["\\udfff"]}',
        b'{"sub":"alice","exp":9999999999,"\\ud800":1}',
        b'{"sub":"al\xffice","exp":9999999999}',
        b'{"sub":"alice\n","exp":9999999999}',
        b"\xef\xbb\xbf" + b'{"sub":"alice","exp":9999999999}',
        '{"sub":"alice","exp":9999999999}'.encode("utf-16"),
        b'{"sub":"alice","exp":9999999999}x',
        b'{"sub":"alice","exp":9999999999,}',
        b"{'sub':'alice','exp':9999999999}",
        b'{"sub":"alice","exp":9999999999,"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b"[" * 40_000,
    ],
)
def test_json_is_strict(payload: bytes) -> None:
    denied(sign(b'{"alg":"EdDSA"}', payload), "claims set is not strict JSON")


@pytest.mark.parametrize("payload", [b"[]", b'"alice"', b"null", b"1", b"true", b'[["sub","alice"]]'])
def test_json_is_an_object(payload: bytes) -> None:
    denied(sign(b'{"alg":"EdDSA"}', payload), "not a JSON object")


@pytest.mark.parametrize("header", [b'{"alg":"none","alg":"EdDSA"}', b'{"alg":"EdDSA","x":NaN}', b"[" * 9_000])
def test_header_is_strict_json(header: bytes) -> None:
    denied(sign(header, json.dumps(CLAIMS).encode()), "header is not strict JSON")


def test_header_is_bounded() -> None:
    denied(issue(header={"x": "y" * MAX_HEADER}), "header is longer")


@pytest.mark.parametrize(
    "header",
    [{"crit": ["exp"]}, {"crit": []}, {"crit": None}, {"b64": True}, {"b64": False}, {"crit": ["b64"], "b64": True}],
)
def test_extensions_are_refused(header: dict[str, Any]) -> None:
    denied(issue(header=header), "extension")


@pytest.mark.parametrize("typ", ["dpop+jwt", "logout+jwt", "JOSE", "", None, 1, ["JWT"], "JWT "])
def test_tokens_for_another_purpose(typ: Any) -> None:
    denied(issue(header={"typ": typ}), "typ")


# --- claims ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sub", ["", "a\0b", "\0", 1, None, True, ["alice"], {"a": 1}])
def test_subject(sub: Any) -> None:
    denied(issue(CLAIMS | {"sub": sub}), "sub")


def test_subject_is_required_and_exact() -> None:
    denied(issue({"exp": NOW + 60}), "sub")
    assert verifier().verify(issue(CLAIMS | {"sub": " Älice=x,y "}), NOW).subject == " Älice=x,y "


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("date", [True, False, None, "1700000060", [1], -1, -0.5, MAX_DATE + 1, 10**400, 1e300])
def test_dates_are_numbers(name: str, date: Any) -> None:
    denied(issue(CLAIMS | {name: date}), f"{name} is not a date")


def test_exp_is_required() -> None:
    denied(issue({"sub": "alice"}), "no exp")


def test_expiry_is_exact() -> None:
    """RFC 7519 section 4.1.4: not on or after."""
    token = issue({"sub": "alice", "exp": 1000.5})
    assert verifier().verify(token, 1000.49).expires == 1000.5
    denied(token, "expired", now=1000.5)


def test_leeway_moves_the_expiry_of_the_identity_too() -> None:
    token = issue({"sub": "alice", "exp": 1000})
    assert verifier(leeway=5).verify(token, 1004.9).expires == 1005
    denied(token, "expired", now=1005, leeway=5)


@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_tokens_from_the_future(name: str) -> None:
    token = issue({"sub": "alice", "exp": 2000, name: 1000})
    assert verifier().verify(token, 1000).subject == "alice"
    assert verifier(leeway=5).verify(token, 995).subject == "alice"
    denied(token, name, now=999)
    denied(token, name, now=994, leeway=5)


@pytest.mark.parametrize("broken", [{"leeway": float("nan")}, {"max_lifetime": float("nan")}])
def test_a_clock_that_is_no_number_lets_nobody_in(broken: dict[str, float]) -> None:
    denied(issue(), "expired|longer", **broken)
    denied(issue(), None, now=float("nan"))


def test_lifetime() -> None:
    token = issue({"sub": "alice", "iat": 1000, "exp": 1600})
    assert verifier(max_lifetime=600).verify(token, 1500).subject == "alice"
    denied(token, "lives longer", now=1500, max_lifetime=599)


def test_lifetime_without_iat_counts_from_now() -> None:
    token = issue({"sub": "alice", "exp": 1600})
    assert verifier(max_lifetime=600).verify(token, 1000).subject == "alice"
    denied(token, "lives longer", now=999, max_lifetime=600)


@pytest.mark.parametrize(
    "iss", ["https://issuer.example/", "HTTPS://issuer.example", "", None, 1, ["https://issuer.example"]]
)
def test_issuer_is_exact(iss: Any) -> None:
    configured = "https://issuer.example"
    assert verifier(issuer=configured).verify(issue(CLAIMS | {"iss": configured}), NOW).subject == "alice"
    denied(issue(CLAIMS | {"iss": iss}), "iss", issuer=configured)
    denied(issue(), "iss", issuer=configured)


@pytest.mark.parametrize("aud", ["db", ["web", "db"], "db2", ["db2"]])
def test_audience(aud: Any) -> None:
    assert verifier(audience=("db", "db2")).verify(issue(CLAIMS | {"aud": aud}), NOW).subject == "alice"


@pytest.mark.parametrize("aud", ["d", "db,web", "DB", [], ["web"], [["db"]], ["db", 1], {"db": 1}, None, 1])
def test_foreign_audience(aud: Any) -> None:
    denied(issue(CLAIMS | {"aud": aud}), "aud", audience=("db",))
    denied(issue(), "aud", audience=("db",))


def test_audience_is_not_looked_at_unless_configured() -> None:
    assert verifier().verify(issue(CLAIMS | {"aud": "elsewhere"}), NOW).subject == "alice"


@pytest.mark.parametrize("jti", [1, None, ["n1"]])
def test_serial_is_a_string(jti: Any) -> None:
    denied(issue(CLAIMS | {"jti": jti}), "jti")


# --- nothing but Denied ------------------------------------------------------------------------------------------

# The machine that runs the tests may be busy with something else.
unhurried = settings(deadline=None)

# Any code points, lone surrogates too.
TEXT = st.lists(st.integers(0, 0x10FFFF), max_size=8).map(lambda points: "".join(map(chr, points)))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
CLAIM = st.sampled_from(["sub", "exp", "nbf", "iat", "iss", "aud", "jti", "cnf"])
FIELD = st.sampled_from(["alg", "typ", "kid", "crit", "jwk", "x5c"])
FULL = TokenVerifier(
    [verification_key(ED25519), verification_key(P256, "p"), verification_key(RSA, "r")], audience=("a",)
)


def only_denied(token: bytes) -> None:
    try:
        identity = FULL.verify(token, NOW)
        certificate_bound(identity, b"certificate")
    except Denied:
        return
    assert identity.subject
    assert identity.expires > NOW


@unhurried
@given(st.binary() | st.from_regex(rb"[A-Za-z0-9_=-]*\.[A-Za-z0-9_=-]*\.[A-Za-z0-9_=-]*", fullmatch=True))
def test_any_bytes(token: bytes) -> None:
    only_denied(token)


@unhurried
@given(st.dictionaries(FIELD, JSON), st.sampled_from(["EdDSA", "ES256", "RS256", "PS512"]), st.binary(max_size=300))
def test_any_header_and_signature(header: dict[str, Any], alg: str, signature: bytes) -> None:
    only_denied(b64(json.dumps({"alg": alg} | header).encode()) + b".e30." + b64(signature))


@unhurried
@given(st.dictionaries(CLAIM, JSON), st.booleans())
def test_any_claims(claims: dict[str, Any], sound: bool) -> None:
    only_denied(issue(CLAIMS | {"aud": "a"} | claims if sound else claims))


@unhurried
@given(st.binary())
def test_any_payload(payload: bytes) -> None:
    only_denied(sign(b'{"alg":"EdDSA"}', payload))


@unhurried
@given(st.integers(0, 200), st.integers(0, 255))
def test_any_changed_byte(position: int, byte: int) -> None:
    token = bytearray(issue())
    position %= len(token)
    if token[position] != byte:
        token[position] = byte
        denied(bytes(token), None)


def test_reasons_tell_nothing_of_the_token() -> None:
    """The audit record gets the reason: neither the claims nor the signature may stand in it or in what is chained."""
    for payload in (b'{"sub":"secret-name","sub":1}', b'{"sub":"secret-name"', b'{"sub":"secret-name","exp":1}'):
        with pytest.raises(Denied) as caught:
            verifier().verify(sign(b'{"alg":"EdDSA"}', payload), NOW)
        assert "secret-name" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "secret" not in repr(verifier().verify(issue(CLAIMS | {"x": "secret"}), NOW))


# --- revoked tokens, and keys that come and go -----------------------------------------------------------------------


def test_a_revoked_token() -> None:
    token = issue(CLAIMS | {"jti": "one"})
    assert verifier(revoked=frozenset({"two", ""})).verify(token, NOW).serial == "one"
    denied(token, "the token is revoked", revoked=frozenset({"one"}))


def test_a_name_is_revoked_exactly() -> None:
    asked = verifier(revoked=frozenset({"one"}))
    assert [asked.revoked(jti) for jti in ("one", "One", "one ", "", None)] == [True, False, False, False, False]
    assert asked.verify(issue(), NOW).serial is None


UNNAMEABLE = ["", " a", "a ", "a b", "a\tb", "a\n", "#a", "a#b", "a,b", "\u00a0", "a\u200b", "\u202eabc", "x" * 1025]


@pytest.mark.parametrize("jti", UNNAMEABLE)
def test_where_tokens_are_revoked_nobody_gets_in_with_one_that_could_not_be(jti: str) -> None:
    token = issue(CLAIMS | {"jti": jti})
    assert verifier().verify(token, NOW).serial == jti
    denied(token, "the token's jti is none that could be revoked", revocable=True)
    with pytest.raises(ValueError, match="jti"):
        check_jti(jti)


@pytest.mark.parametrize("jti", ["a", "urn:uuid:3", "fünf", "a/b+c==", "x" * 1024, "(a|b)"])
def test_every_other_name_is_fine_there(jti: str) -> None:
    check_jti(jti)
    assert verifier(revocable=True).verify(issue(CLAIMS | {"jti": jti}), NOW).serial == jti


def test_a_token_without_a_name_is_fine_there_too() -> None:
    """It ends soon, or with its key: who makes tokens decides whether they have names."""
    assert verifier(revocable=True).verify(issue(), NOW).serial is None


def test_only_who_holds_a_token_learns_that_it_is_revoked() -> None:
    forged = issue(CLAIMS | {"jti": "one"}, key=ed25519.Ed25519PrivateKey.generate())
    denied(forged, "the token's signature fits no configured key", revoked=frozenset({"one"}))


def test_keys_that_come_and_go() -> None:
    known: list[VerificationKey] = []
    asked = TokenVerifier([verification_key(P256, "file")], more=lambda: known)
    of_the_set, of_the_file = issue(header={"kid": "set"}), issue(header={"kid": "file"}, key=P256, alg="ES256")
    asked.verify(of_the_file, NOW)
    with pytest.raises(Denied, match="no configured key"):
        asked.verify(of_the_set, NOW)
    known.append(verification_key(ED25519, "set"))
    for token in (of_the_set, of_the_file, issue()):
        asked.verify(token, NOW)
    known.clear()
    with pytest.raises(Denied, match="no configured key"):
        asked.verify(of_the_set, NOW)


def test_a_key_of_one_algorithm() -> None:
    narrow = VerificationKey(RSA.public_key(), alg="PS256")
    assert narrow.algorithms == {"PS256"}
    TokenVerifier([narrow]).verify(issue(key=RSA, alg="PS256"), NOW)
    with pytest.raises(Denied, match="no configured key may verify alg 'RS256'"):
        TokenVerifier([narrow]).verify(issue(key=RSA, alg="RS256"), NOW)


@pytest.mark.parametrize("alg", ["none", "HS256", "ES256", "", "ps256"])
def test_an_algorithm_that_is_not_the_keys(alg: str) -> None:
    with pytest.raises(ValueError, match="is not for this type of key"):
        VerificationKey(RSA.public_key(), alg=alg)


# --- bound to a certificate --------------------------------------------------------------------------------------

CERTIFICATE = b"the DER of a certificate"
BOUND = b64(hashlib.sha256(CERTIFICATE).digest()).decode()


def bound_to(cnf: Any) -> Identity:
    return verifier().verify(issue(CLAIMS | {"cnf": cnf}), NOW)


def test_unbound_token_needs_no_certificate() -> None:
    identity = verifier().verify(issue(), NOW)
    certificate_bound(identity, None)
    certificate_bound(identity, CERTIFICATE)


def test_bound_token_with_its_certificate() -> None:
    certificate_bound(bound_to({"x5t#S256": BOUND}), CERTIFICATE)


def test_stolen_bound_token() -> None:
    with pytest.raises(Denied, match="none was presented"):
        certificate_bound(bound_to({"x5t#S256": BOUND}), None)
    with pytest.raises(Denied, match="another"):
        certificate_bound(bound_to({"x5t#S256": BOUND}), CERTIFICATE + b" ")


@pytest.mark.parametrize(
    "cnf",
    [
        None,
        {},
        [],
        "x",
        {"jkt": BOUND},
        {"x5t#S256": BOUND, "jkt": BOUND},
        {"x5t": BOUND},
        {"x5t#S256": None},
        {"x5t#S256": ""},
        {"x5t#S256": [BOUND]},
        {"x5t#S256": BOUND + "="},
        {"x5t#S256": BOUND[:-1]},
        {"x5t#S256": BOUND[:-2]},
        {"x5t#S256": "é"},
        {"x5t#S256": hashlib.sha256(CERTIFICATE).hexdigest()},
    ],
)
def test_other_bindings_are_refused(cnf: Any) -> None:
    with pytest.raises(Denied):
        certificate_bound(bound_to(cnf), CERTIFICATE)


# --- keys --------------------------------------------------------------------------------------------------------


def private(key: Any, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    encoded: bytes = key.private_bytes(Encoding.PEM, form, NoEncryption())
    return encoded


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "found 0"),
        (b"not PEM", "found 0"),
        (private(ED25519), "private key"),
        (private(RSA, PrivateFormat.TraditionalOpenSSL), "private key"),
        (public(ED25519) + private(ED25519), "private key"),
        (public(ED25519) + public(RSA), "found 2"),
        (pem(make_ca().certificate), "found BEGIN CERTIFICATE"),
        (RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1), "found BEGIN RSA PUBLIC KEY"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read"),
        (b"-----BEGIN PUBLIC KEY-----\n", "cannot be read"),
        (public(ed448.Ed448PrivateKey.generate()), "unsupported type"),
        (public(ec.generate_private_key(ec.SECP521R1())), "unsupported curve secp521r1"),
        (public(ec.generate_private_key(ec.SECP256K1())), "unsupported curve secp256k1"),
        (public(rsa.generate_private_key(65537, 1024)), "1024 bits is too weak"),  # noqa: S505 -- what is refused
    ],
)
def test_keys_that_are_refused(text: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        load_public_key(text)
    secret = private(ED25519).splitlines()[1].decode()
    assert secret not in str(caught.value)


def test_key_from_a_file_with_a_comment_and_dos_line_ends() -> None:
    text = b"# the issuer\r\n" + public(P256).replace(b"\n", b"\r\n")
    assert load_public_key(text, "k").kid == "k"


def test_algorithms_of_each_type() -> None:
    assert verification_key(ED25519).algorithms == {"EdDSA", "Ed25519"}
    assert verification_key(P256).algorithms == {"ES256"}
    assert verification_key(P384).algorithms == {"ES384"}
    assert verification_key(RSA).algorithms == {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}


def test_thumbprints_of_the_standards() -> None:
    """RFC 7638 section 3.1 and RFC 8037 appendix A.3."""
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknj"
        "hMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQ"
        "vRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzK"
        "nqDKgw"
    )
    key = RSAAlgorithm.from_jwk({"kty": "RSA", "e": "AQAB", "n": modulus})
    assert isinstance(key, rsa.RSAPublicKey)
    assert VerificationKey(key).thumbprint == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    raw = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    edwards = ed25519.Ed25519PublicKey.from_public_bytes(raw)
    assert VerificationKey(edwards).thumbprint == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_thumbprint_keeps_leading_zeros_of_a_coordinate() -> None:
    """RFC 7518 section 6.2.1.2: coordinates have the full size of the curve."""
    keys = (ec.derive_private_key(scalar, ec.SECP256R1()).public_key() for scalar in range(1, 5000))
    key = next(key for key in keys if key.public_numbers().x < 1 << 248)
    numbers = key.public_numbers()
    x, y = (b64(number.to_bytes(32)).decode() for number in (numbers.x, numbers.y))
    jwk = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
    assert VerificationKey(key).thumbprint == b64(hashlib.sha256(jwk.encode()).digest()).decode()
