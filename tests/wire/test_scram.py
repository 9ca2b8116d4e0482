"""SCRAM as a client: against scramp's own server, and against servers that lie."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from scramp import ScramException, ScramMechanism  # type: ignore[import-untyped]

from gateway.errors import UpstreamError
from gateway.wire.scram import MAX_ITERATIONS, MAX_MESSAGE, MAX_SALT, ScramLogin, available
from tests.pki import make_ca

PLAIN, PLUS = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"
PASSWORD = "pencil, s3cr=t"
# The machine that runs the tests may be busy with something else.
unhurried = settings(deadline=None)

SALT = b"0123456789abcdef"


def der(key: Any = None) -> bytes:
    return make_ca(key=key).certificate.public_bytes(Encoding.DER)


CERTIFICATE = der()
WITHOUT_HASH = der(ed25519.Ed25519PrivateKey.generate())


def end_point(certificate: bytes, algorithm: str = "sha256") -> tuple[str, bytes]:
    return "tls-server-end-point", hashlib.new(algorithm, certificate).digest()


def server(mechanism: str = PLAIN, binding: tuple[str, bytes] | None = None, password: str = PASSWORD) -> Any:
    scram = ScramMechanism(mechanism)
    secrets = scram.make_auth_info(password, salt=SALT, iteration_count=4096)
    return scram.make_server(lambda user: secrets, channel_binding=binding)


def log_in(login: ScramLogin, peer: Any) -> None:
    peer.set_client_first(login.first().decode())
    peer.set_client_final(login.challenge(peer.get_server_first().encode()).decode())
    login.finish(peer.get_server_final().encode())


# --- good servers ------------------------------------------------------------------------------------------------


def test_login_without_tls() -> None:
    log_in(ScramLogin(PLAIN, PASSWORD, None, False), server())


def test_login_bound_to_the_certificate() -> None:
    login = ScramLogin(PLUS, PASSWORD, CERTIFICATE, True)
    log_in(login, server(PLUS, end_point(CERTIFICATE)))


def test_login_over_tls_to_a_server_without_plus() -> None:
    log_in(ScramLogin(PLAIN, PASSWORD, CERTIFICATE, False), server())


@pytest.mark.parametrize("password", ["x", "päss wörd", "I\u00adX", "\u00aa", "p" * 5000, "a,b=c", "\u0627\u0628"])
def test_passwords_are_prepared_as_the_server_does(password: str) -> None:
    log_in(ScramLogin(PLAIN, password, None, False), server(password=password))


def test_proof_by_hand() -> None:
    """RFC 5802 section 3, worked out without scramp: `*` for the ignored user, `biws` for the flag `n,,`."""
    login = ScramLogin(PLAIN, "pencil", None, False)
    first = login.first().decode()
    assert first.startswith("n,,n=*,r=")
    nonce = first.removeprefix("n,,n=*,r=") + "server"
    server_first = f"r={nonce},s={b64encode(SALT).decode()},i=4096"
    message = f"{first[3:]},{server_first},c=biws,r={nonce}".encode()
    salted = hashlib.pbkdf2_hmac("sha256", b"pencil", SALT, 4096)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    assert login.challenge(server_first.encode()) == f"c=biws,r={nonce},p={b64encode(proof).decode()}".encode()
    server_signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
    login.finish(b"v=" + b64encode(server_signature))


def test_nonces_are_fresh() -> None:
    assert len({ScramLogin(PLAIN, PASSWORD, None, False).first() for _ in range(50)}) == 50


# --- the downgrade flag ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mechanism", "certificate", "advertised", "flag"),
    [
        (PLUS, CERTIFICATE, True, b"p=tls-server-end-point,,"),
        (PLAIN, CERTIFICATE, False, b"y,,"),
        (PLAIN, CERTIFICATE, True, b"n,,"),
        (PLAIN, None, False, b"n,,"),
        (PLAIN, WITHOUT_HASH, True, b"n,,"),
        (PLAIN, WITHOUT_HASH, False, b"n,,"),
    ],
)
def test_flag(mechanism: str, certificate: bytes | None, advertised: bool, flag: bytes) -> None:
    assert ScramLogin(mechanism, PASSWORD, certificate, advertised).first().startswith(flag + b"n=*,r=")


def test_offer_taken_out_on_the_way_is_noticed_by_the_server() -> None:
    login = ScramLogin(PLAIN, PASSWORD, CERTIFICATE, False)
    with pytest.raises(ScramException, match="in fact it does"):
        server(PLUS, end_point(CERTIFICATE)).set_client_first(login.first().decode())


def test_man_in_the_middle_with_another_certificate() -> None:
    login, peer = ScramLogin(PLUS, PASSWORD, der(), True), server(PLUS, end_point(CERTIFICATE))
    peer.set_client_first(login.first().decode())
    final = login.challenge(peer.get_server_first().encode()).decode()
    with pytest.raises(ScramException, match="bindings don't match"):
        peer.set_client_final(final)
    with pytest.raises(UpstreamError, match="channel-bindings-dont-match"):
        login.finish(peer.get_server_final().encode())


@pytest.mark.parametrize(("certificate", "advertised"), [(None, True), (CERTIFICATE, False), (None, False)])
def test_plus_needs_tls_and_an_offer(certificate: bytes | None, advertised: bool) -> None:
    with pytest.raises(UpstreamError, match="PLUS"):
        ScramLogin(PLUS, PASSWORD, certificate, advertised)


# --- the certificate's hash --------------------------------------------------------------------------------------

# sha1, sha256, sha384, sha512 WithRSAEncryption, and md5 (RFC 8017 appendix A.2.4): the last byte of the identifier.
RSA_SIGNATURES = {4: "sha256", 5: "sha256", 11: "sha256", 12: "sha384", 13: "sha512"}


@pytest.mark.parametrize("last", RSA_SIGNATURES)
def test_hash_of_the_certificate(last: int) -> None:
    """RFC 5929 section 4.1. The signature no longer fits, which is not what is asked here."""
    identifier = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01"
    certificate = der(rsa.generate_private_key(65537, 2048))
    assert certificate.count(identifier + b"\x0b") == 2
    certificate = certificate.replace(identifier + b"\x0b", identifier + bytes([last]))
    assert available(certificate)
    log_in(ScramLogin(PLUS, PASSWORD, certificate, True), server(PLUS, end_point(certificate, RSA_SIGNATURES[last])))


def test_certificate_without_a_hash() -> None:
    assert not available(WITHOUT_HASH)
    with pytest.raises(UpstreamError, match="Ed25519"):
        ScramLogin(PLUS, PASSWORD, WITHOUT_HASH, True)


@pytest.mark.parametrize("certificate", [None, b"", b"garbage", CERTIFICATE[:-1], CERTIFICATE + b"\0"])
def test_no_certificate_to_bind_to(certificate: bytes | None) -> None:
    assert not available(certificate)
    with pytest.raises(UpstreamError):
        ScramLogin(PLUS, PASSWORD, certificate, True)


def test_certificate_of_an_unknown_version() -> None:
    version = b"\xa0\x03\x02\x01\x02"
    certificate = CERTIFICATE.replace(version, version[:-1] + b"\x09")
    assert certificate != CERTIFICATE
    assert not available(certificate)


# --- bad servers -------------------------------------------------------------------------------------------------


def server_first(nonce: str, salt: str = b64encode(SALT).decode(), iterations: object = 4096, rest: str = "") -> bytes:
    return f"r={nonce},s={salt},i={iterations}{rest}".encode()


def refused(make: Callable[[str], bytes], why: str) -> None:
    """`make` gets the client's nonce and gives the server-first-message."""
    login = ScramLogin(PLAIN, PASSWORD, None, False)
    nonce = login.first().decode().rpartition("r=")[2]
    with pytest.raises(UpstreamError, match=why) as caught:
        login.challenge(make(nonce))
    assert PASSWORD not in str(caught.value)
    with pytest.raises(UpstreamError):
        login.finish(b"v=" + b64encode(bytes(32)))


@pytest.mark.parametrize("iterations", [1, 4095, MAX_ITERATIONS + 1, 10_000_000, 4294967295, 9_999_999_999])
def test_iterations_are_bounded_before_they_are_computed(iterations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> bytes:
        raise AssertionError("the key was derived")

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", never)
    refused(lambda nonce: server_first(nonce + "x", iterations=iterations), "iteration count is not within")


@pytest.mark.parametrize(
    "iterations", ["", "0", "-4096", "+4096", "04096", "4096 ", "4e3", "9" * 5000, "4_096", "४०९६"]
)
def test_iteration_counts_that_are_none(iterations: str) -> None:
    refused(lambda nonce: server_first(nonce + "x", iterations=iterations), "malformed")


@pytest.mark.parametrize("size", [1, 11, MAX_SALT + 1])
def test_salt_is_bounded(size: int) -> None:
    refused(lambda nonce: server_first(nonce + "x", b64encode(bytes(size)).decode()), "salt does not have")


@pytest.mark.parametrize("salt", ["AAAAA", "AAA=A", "AAAA=", "A" * 17])
def test_salt_is_base64(salt: str) -> None:
    refused(lambda nonce: server_first(nonce + "x", salt), "salt is not base64|malformed")


def test_foreign_nonce() -> None:
    refused(lambda nonce: server_first("x" + nonce), "nonce")
    refused(lambda nonce: server_first(nonce[:-1] + "é"), "malformed")
    refused(lambda nonce: server_first(nonce[:-1]), "nonce")
    refused(lambda nonce: server_first("0" * 40), "nonce")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff",
        b"r=",
        b"r=x,s=,i=4096",
        b"m=ext,r=x,s=AAAA,i=4096",
        b"e=other-error",
        b"s=AAAAAAAAAAAAAAAA,r=x,i=4096",
        b"r=a,r=b,s=AAAAAAAAAAAAAAAA,i=4096",
        b"v=" + b64encode(bytes(32)),
        b"r=x" * MAX_MESSAGE,
    ],
)
def test_malformed_server_first(message: bytes) -> None:
    refused(lambda nonce: message, "malformed")


def test_server_first_is_exactly_three_attributes_within_bounds() -> None:
    refused(lambda nonce: server_first(nonce + "x", rest=",x=y"), "malformed")
    refused(lambda nonce: server_first(nonce + "x", rest="\n"), "malformed")
    refused(lambda nonce: server_first(nonce + "x", rest="\0"), "malformed")
    refused(lambda nonce: server_first(nonce + "x" * MAX_MESSAGE), "malformed")


def challenged() -> tuple[ScramLogin, Any]:
    login, peer = ScramLogin(PLAIN, PASSWORD, None, False), server()
    peer.set_client_first(login.first().decode())
    peer.set_client_final(login.challenge(peer.get_server_first().encode()).decode())
    return login, peer


def test_wrong_server_signature() -> None:
    """A server that does not know the password but says yes."""
    login, peer = challenged()
    signature = bytearray(b64decode(peer.get_server_final()[2:]))
    signature[-1] ^= 1
    with pytest.raises(UpstreamError, match="signature"):
        login.finish(b"v=" + b64encode(signature))


@pytest.mark.parametrize(
    "message",
    [b"", b"v=", b"v=AAAA", b"v=\xff", b"v=" + b"A" * 44, b"v=" + b64encode(bytes(33)), b"x=y", b"e=", b"e=\n", b"\0"],
)
def test_malformed_server_final(message: bytes) -> None:
    login, _ = challenged()
    with pytest.raises(UpstreamError, match="malformed"):
        login.finish(message)


def test_server_final_has_nothing_after_it() -> None:
    for rest in (b",x=y", b"\n", b"\0", b"="):
        login, peer = challenged()
        with pytest.raises(UpstreamError, match="malformed"):
            login.finish(peer.get_server_final().encode() + rest)


@pytest.mark.parametrize("code", [b"invalid-proof", b"other-error", b"something-new"])
def test_server_error(code: bytes) -> None:
    login, _ = challenged()
    with pytest.raises(UpstreamError):
        login.finish(b"e=" + code)


def test_wrong_password() -> None:
    login, peer = ScramLogin(PLAIN, "wrong", None, False), server()
    peer.set_client_first(login.first().decode())
    final = login.challenge(peer.get_server_first().encode()).decode()
    with pytest.raises(ScramException):
        peer.set_client_final(final)
    with pytest.raises(UpstreamError, match="invalid-proof"):
        login.finish(peer.get_server_final().encode())


def test_messages_out_of_turn() -> None:
    """A server that skips the proof, or asks twice."""
    with pytest.raises(UpstreamError):
        ScramLogin(PLAIN, PASSWORD, None, False).challenge(server_first("x"))
    early = ScramLogin(PLAIN, PASSWORD, None, False)
    early.first()
    with pytest.raises(UpstreamError):
        early.finish(b"v=" + b64encode(bytes(32)))
    login, peer = challenged()
    with pytest.raises(UpstreamError):
        login.challenge(peer.server_first.encode())
    with pytest.raises(UpstreamError):
        login.first()


@unhurried
@given(st.binary() | st.from_regex(rb"[rsimev]=[ -~]*(,[rsimev]=[ -~]*)*", fullmatch=True))
def test_never_anything_but_upstream_error(message: bytes) -> None:
    login = ScramLogin(PLAIN, PASSWORD, None, False)
    login.first()
    with pytest.raises(UpstreamError):
        login.challenge(message)
    with pytest.raises(UpstreamError):
        login.finish(message)


@unhurried
@given(st.binary() | st.from_regex(rb"[ve]=[A-Za-z0-9+/=,-]*", fullmatch=True))
def test_final_is_never_anything_but_upstream_error(message: bytes) -> None:
    login, _ = SHARED
    with pytest.raises(UpstreamError):
        login.finish(message)


SHARED = challenged()


@unhurried
@given(
    st.lists(st.integers(0, 0x10FFFF)).map(lambda points: "".join(map(chr, points))),
    st.sampled_from([PLAIN, PLUS, "SCRAM-SHA-1", "PLAIN", ""]),
    st.booleans(),
)
def test_any_password_and_mechanism(password: str, mechanism: str, advertised: bool) -> None:
    with suppress(UpstreamError):
        ScramLogin(mechanism, password, CERTIFICATE, advertised).first()


# --- our own mistakes, and secrets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "password", ["", "secret\0", "secret\ue000", "\u0627secret", "secret\ud800", "secret\U0001f600"]
)
def test_passwords_that_saslprep_refuses(password: str) -> None:
    """RFC 4013: nothing at all, a control, private use, mixed directions, a surrogate, a code point of after 3.2."""

    def log_in_to_any_server() -> None:
        login = ScramLogin(PLAIN, password, None, False)
        nonce = login.first().decode().rpartition("r=")[2]
        login.challenge(server_first(nonce + "x"))

    with pytest.raises(UpstreamError) as caught:
        log_in_to_any_server()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "SCRAM-SHA-512", "scram-sha-256", "PLAIN", ""])
def test_other_mechanisms(mechanism: str) -> None:
    with pytest.raises(UpstreamError, match="mechanism"):
        ScramLogin(mechanism, PASSWORD, CERTIFICATE, True)


def test_password_is_not_shown() -> None:
    login, _ = challenged()
    assert PASSWORD not in repr(login)
