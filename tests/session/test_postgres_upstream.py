"""The upstream's half: a login that no lying upstream can weaken."""

from __future__ import annotations

import hashlib
from struct import pack

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from gateway.session import postgres_upstream
from gateway.session.postgres_upstream import Refused, UpstreamLogin
from gateway.session.vocabulary import TLSFacts
from gateway.upstream import Login, TLSMode, Upstream
from tests.fakes import (
    KEY_DATA,
    NOT_SUPERUSER,
    OK,
    READY,
    SUPERUSER_QUERY,
    UPSTREAM_KEY,
    UPSTREAM_PID,
    WELCOME,
    ScramUpstream,
    error,
    message,
    messages,
    startup,
    status,
    upstream,
)
from tests.pki import make_ca

PLAIN, PLUS = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"
SECRET = "pencil, s3cr=t"
CERTIFICATE = make_ca().certificate.public_bytes(Encoding.DER)
WITHOUT_HASH = make_ca(key=ed25519.Ed25519PrivateKey.generate()).certificate.public_bytes(Encoding.DER)
TLS = TLSFacts("TLSv1.3", peer_certificate=CERTIFICATE)
# The machine that runs the tests may be busy with something else.
unhurried = settings(deadline=None)


def authentication(kind: int, data: bytes = b"") -> bytes:
    return message(b"R", pack("!I", kind) + data)


# --- logging in --------------------------------------------------------------------------------------------------

ALLOW_ALL = frozenset({"scram-sha-256", "scram-sha-256-plus", "md5", "password", "none"})


def login(
    secret: str | None = SECRET,
    *,
    methods: set[str] | frozenset[str] | None = None,
    tls: TLSFacts | None = None,
    parameters: dict[bytes, bytes] | None = None,
    ask: bool = True,
) -> UpstreamLogin:
    where: Upstream = upstream() if methods is None else upstream(password_methods=frozenset(methods))
    return UpstreamLogin(where, Login(password=secret), "reader", parameters or {}, tls, ask=ask)


def test_startup_names_the_role_and_forwards_the_rest() -> None:
    sent = login(parameters={b"database": b"shop", b"user": b"alice", b"options": b"-c geqo=off"}).first()
    assert sent == startup({b"database": b"shop", b"user": b"reader", b"options": b"-c geqo=off"})


def welcomed(ours: UpstreamLogin) -> None:
    """Through what follows the authentication: the question about superusers, and its answer."""
    assert ours.feed(WELCOME) == SUPERUSER_QUERY
    assert not ours.ready
    assert ours.feed(NOT_SUPERUSER) == b""
    assert ours.ready


def test_trust() -> None:
    welcomed(login(None))


def scram(ours: UpstreamLogin, theirs: ScramUpstream) -> None:
    """Up to the server's proof; what is left is AuthenticationOk."""
    challenge = theirs.first(ours.feed(theirs.offer()))
    assert ours.feed(theirs.final(ours.feed(challenge))) == b""
    assert not ours.ready


def test_scram() -> None:
    ours, theirs = login(), ScramUpstream(SECRET)
    scram(ours, theirs)
    welcomed(ours)
    assert (theirs.mechanism, theirs.flag) == (PLAIN, "n")


def test_scram_byte_by_byte() -> None:
    ours, theirs = login(), ScramUpstream(SECRET)

    def drip(data: bytes) -> bytes:
        return b"".join(ours.feed(bytes([byte])) for byte in data)

    challenge = theirs.first(drip(theirs.offer()))
    assert drip(theirs.final(drip(challenge)) + WELCOME) == SUPERUSER_QUERY
    assert drip(NOT_SUPERUSER) == b""
    assert ours.ready
    assert not ours.superuser


@pytest.mark.parametrize(
    ("offers", "certificate", "methods", "mechanism", "flag"),
    [
        ((PLUS, PLAIN), CERTIFICATE, {"scram-sha-256", "scram-sha-256-plus"}, PLUS, "p=tls-server-end-point"),
        ((PLAIN, PLUS), CERTIFICATE, {"scram-sha-256", "scram-sha-256-plus"}, PLUS, "p=tls-server-end-point"),
        ((PLUS,), CERTIFICATE, {"scram-sha-256-plus"}, PLUS, "p=tls-server-end-point"),
        ((PLAIN,), CERTIFICATE, {"scram-sha-256", "scram-sha-256-plus"}, PLAIN, "y"),
        ((PLAIN,), CERTIFICATE, {"scram-sha-256"}, PLAIN, "n"),
        ((PLUS, PLAIN), CERTIFICATE, {"scram-sha-256"}, PLAIN, "n"),
        ((PLUS, PLAIN), WITHOUT_HASH, {"scram-sha-256", "scram-sha-256-plus"}, PLAIN, "n"),
        ((PLAIN,), None, {"scram-sha-256", "scram-sha-256-plus"}, PLAIN, "n"),
    ],
)
def test_strongest_mechanism(
    offers: tuple[str, ...], certificate: bytes | None, methods: set[str], mechanism: str, flag: str
) -> None:
    tls = TLSFacts("TLSv1.3", peer_certificate=certificate) if certificate else None
    ours, theirs = login(methods=methods, tls=tls), ScramUpstream(SECRET, offers, certificate)
    scram(ours, theirs)
    assert (theirs.mechanism, theirs.flag) == (mechanism, flag)
    welcomed(ours)


@pytest.mark.parametrize(
    ("offers", "tls", "methods"),
    [
        ([PLUS], None, {"scram-sha-256", "scram-sha-256-plus"}),
        ([PLUS], TLS, {"scram-sha-256"}),
        ([PLAIN], TLS, {"scram-sha-256-plus"}),
        ([PLAIN], None, {"md5", "password", "none"}),
        (["SCRAM-SHA-1", "OAUTHBEARER", "scram-sha-256"], None, ALLOW_ALL),
    ],
)
def test_no_mechanism_in_common(offers: list[str], tls: TLSFacts | None, methods: set[str]) -> None:
    with pytest.raises(UpstreamError, match="password_methods"):
        login(methods=methods, tls=tls).feed(ScramUpstream(SECRET, offers).offer())


def test_ok_before_the_server_has_proven_itself() -> None:
    """An impostor that does not know the password can still say yes: at any moment but the right one it is refused."""
    for moment in range(3):
        ours, theirs = login(), ScramUpstream(SECRET)
        if moment > 0:
            challenge = theirs.first(ours.feed(theirs.offer()))
        if moment > 1:
            ours.feed(challenge)
        with pytest.raises(UpstreamError):
            ours.feed(WELCOME)
        assert not ours.ready


def test_wrong_server_signature() -> None:
    ours, theirs = login(), ScramUpstream(SECRET)
    final = theirs.final(ours.feed(theirs.first(ours.feed(theirs.offer()))))
    with pytest.raises(UpstreamError, match="SCRAM"):
        ours.feed(final.replace(b"v=" + final[11:15], b"v=" + (b"AAAA" if final[11:15] != b"AAAA" else b"BBBB")))


@pytest.mark.parametrize("again", [authentication(10, b"SCRAM-SHA-256\0\0"), authentication(11, b"r=x")])
def test_scram_does_not_begin_again(again: bytes) -> None:
    ours, theirs = login(), ScramUpstream(SECRET)
    scram(ours, theirs)
    with pytest.raises(UpstreamError, match="wrong moment"):
        ours.feed(again)


def test_md5() -> None:
    ours = login(methods={"md5"})
    sent = ours.feed(authentication(5, b"salt"))
    inner = hashlib.md5(f"{SECRET}reader".encode()).hexdigest().encode()  # noqa: S324 - what the manual says
    assert sent == message(b"p", b"md5" + hashlib.md5(inner + b"salt").hexdigest().encode() + b"\0")  # noqa: S324
    welcomed(ours)


@pytest.mark.parametrize("salt", [b"", b"sal", b"salty"])
def test_md5_salt(salt: bytes) -> None:
    with pytest.raises(UpstreamError, match="salt"):
        login(methods={"md5"}).feed(authentication(5, salt))


def test_cleartext_inside_tls() -> None:
    ours = login(methods={"password"}, tls=TLS)
    assert ours.feed(authentication(3)) == message(b"p", SECRET.encode() + b"\0")
    welcomed(ours)


def test_cleartext_never_outside_tls() -> None:
    with pytest.raises(UpstreamError, match="outside TLS"):
        login(methods=ALLOW_ALL).feed(authentication(3))


@pytest.mark.parametrize("tls", [None, TLS])
@pytest.mark.parametrize(
    ("asks", "method"),
    [(authentication(3), "password"), (authentication(5, b"salt"), "md5"), (OK, "none")],
)
def test_every_weaker_way_is_opted_into(asks: bytes, method: str, tls: TLSFacts | None) -> None:
    """By default, and with every method but this one allowed. Saying yes without a question hides an impostor."""
    for methods in (None, ALLOW_ALL - {method}):
        with pytest.raises(UpstreamError, match="password_methods") as caught:
            login(methods=methods, tls=tls).feed(asks)
        assert SECRET not in str(caught.value)


def test_trust_with_a_password_configured_is_opted_into() -> None:
    ours = login(methods={"none"})
    welcomed(ours)


@pytest.mark.parametrize(
    "asks", [authentication(3), authentication(5, b"salt"), authentication(10, b"SCRAM-SHA-256\0\0")]
)
def test_no_password_to_give(asks: bytes) -> None:
    with pytest.raises(UpstreamError, match="none is configured"):
        login(None, methods=ALLOW_ALL, tls=TLS).feed(asks)


@pytest.mark.parametrize("kind", [1, 2, 6, 7, 8, 9, 11, 12, 13, 2**32 - 1])
def test_other_authentication_requests(kind: int) -> None:
    with pytest.raises(UpstreamError, match="authentication request"):
        login(methods=ALLOW_ALL, tls=TLS).feed(authentication(kind))


@pytest.mark.parametrize("kind", [b"S", b"K", b"Z", b"v", b"T", b"D", b"p", b"\0", b"H"])
def test_nothing_but_authentication_before_ok(kind: bytes) -> None:
    with pytest.raises(UpstreamError, match="breaks the protocol"):
        login(None).feed(message(kind, b"x\0y\0\0\0\0\0"))


@pytest.mark.parametrize("kind", [b"R", b"v", b"T", b"D", b"A", b"C", b"\xff"])
def test_nothing_but_the_greeting_after_ok(kind: bytes) -> None:
    with pytest.raises(UpstreamError, match="breaks the protocol"):
        login(None).feed(OK + message(kind, b"\0\0\0\0"))


@pytest.mark.parametrize("kind", [b"R", b"v", b"K", b"G", b"H", b"W", b"d", b"1", b"t", b"p", b"\0"])
def test_nothing_but_an_answer_to_our_question(kind: bytes) -> None:
    ours = login(None)
    with pytest.raises(UpstreamError, match="breaks the protocol"):
        ours.feed(WELCOME + message(kind, b"\0\0\0\0\0\0\0\0"))
    assert ours.superuser


@pytest.mark.parametrize("length", [0, 3, 65_536 + 5, 2**32 - 1])
def test_lengths_are_bounded_before_they_are_buffered(length: int) -> None:
    with pytest.raises(UpstreamError, match="breaks the protocol"):
        login(None).feed(b"N" + pack("!I", length))


@pytest.mark.parametrize("data", [message(b"S", b"x"), message(b"K", b"\0\0\0\1"), message(b"K", bytes(261))])
def test_malformed_greeting(data: bytes) -> None:
    with pytest.raises(UpstreamError, match="breaks the protocol"):
        login(None).feed(OK + data)


@pytest.mark.parametrize("ask", [False, True])
def test_greeting_in_order_and_what_follows(ask: bool) -> None:
    notice = message(b"N", b"SNOTICE\0Mwelcome\0\0")
    one, two, three = status(b"a", b"1"), status(b"b", b"2"), status(b"a", b"3")
    ours = login(None, ask=ask)
    early, rest = message(b"N", b"SWARNING\0Mearly\0\0"), b"A\0\0"
    ours.feed(early + OK + one + notice + two + KEY_DATA + three + READY + (b"" if ask else rest))
    if ask:
        ours.feed(NOT_SUPERUSER + rest)
    assert bytes(ours.greeting) == early + one + notice + two + three
    assert ours.statuses == {b"a": b"3", b"b": b"2"}
    assert ours.cancel == (UPSTREAM_PID, UPSTREAM_KEY)
    assert ours.ready_for_query == READY
    assert ours.rest == rest


def test_greeting_without_a_key() -> None:
    ours = login(None)
    ours.feed(OK + READY + NOT_SUPERUSER)
    assert ours.ready
    assert ours.cancel is None


NOTICE = message(b"N", b"n" * 60_000)


@pytest.mark.parametrize(("before", "filling"), [(b"", NOTICE), (OK, NOTICE), (OK, status(b"a", b"v" * 1000))])
def test_greeting_is_bounded(before: bytes, filling: bytes) -> None:
    ours = login(None)
    ours.feed(before)
    with pytest.raises(UpstreamError, match="no end"):
        for _ in range(postgres_upstream.MAX_GREETING // len(filling) + 1):
            ours.feed(filling)
    assert len(ours.greeting) <= postgres_upstream.MAX_GREETING + len(filling)


@pytest.mark.parametrize("before", [b"", OK, OK + status(b"a", b"1"), WELCOME, WELCOME + NOT_SUPERUSER[:-6]])
def test_refusal(before: bytes) -> None:
    with pytest.raises(Refused, match="3D000 no such database") as caught:
        login(None).feed(before + error(S="FATAL", C="3D000", M="no such database", F="postinit.c"))
    assert caught.value.error.sqlstate == "3D000"


def test_secrets_are_not_shown() -> None:
    ours, theirs = login(), ScramUpstream(SECRET)
    scram(ours, theirs)
    assert SECRET not in repr(ours) + repr(Login(password=SECRET)) + repr(
        upstream(TLSMode.DISABLE, Login(None, SECRET))
    )


UPSTREAM_MESSAGES = st.sampled_from([
    OK,
    READY,
    KEY_DATA,
    WELCOME,
    NOT_SUPERUSER,
    status(b"a", b"1"),
    authentication(3),
    authentication(5, b"salt"),
    authentication(10, b"SCRAM-SHA-256\0\0"),
    authentication(11, b"r=x,s=AAAAAAAAAAAAAAAAAAAAAA==,i=4096"),
    authentication(12, b"v=" + b"A" * 43 + b"="),
    message(b"N", b"\0"),
    error(C="28P01"),
])  # fmt: skip


@unhurried
@given(st.lists(UPSTREAM_MESSAGES | st.binary(max_size=40), max_size=10), st.booleans())
def test_who_does_not_know_the_password_is_never_believed(answers: list[bytes], secured: bool) -> None:
    """Whatever it sends, an upstream without the password gets no `ready`, and not the password either."""
    ours = login(tls=TLS if secured else None)
    for answer in answers:
        try:
            sent = ours.feed(answer)
        except (UpstreamError, Refused):
            break
        assert not ours.ready
        assert SECRET.encode() not in sent
        assert all(kind == b"p" for kind, _ in messages(sent))
    assert not ours.ready
