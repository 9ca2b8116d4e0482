"""The client's half of the login: start-up packet, password, and what of both reaches the upstream."""

from __future__ import annotations

import hashlib
from struct import pack

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.session.vocabulary import Data, Dialed, Send, Side
from gateway.tokens import TokenVerifier, VerificationKey
from gateway.upstream import Address
from tests.fakes import (
    ALICE,
    ASKS_PASSWORD,
    FIRST,
    ISSUER,
    NOW,
    SECOND,
    STRANGER,
    SUPERUSER_QUERY,
    WELCOME,
    Conversation,
    access,
    base64url,
    login_sent,
    message,
    messages,
    packet,
    password,
    startup,
    strings,
    token,
    upstream,
)
from tests.pki import issue, make_ca

# --- the start-up packet -----------------------------------------------------------------------------------------


def test_password_is_asked_for_in_clear_inside_tls() -> None:
    talk = Conversation().secure()
    assert talk.client(ALICE) == [Send(Side.CLIENT, ASKS_PASSWORD)]
    assert (talk.session.facts.user, talk.session.facts.database) == ("alice", "shop")


def test_startup_packet_byte_by_byte() -> None:
    talk = Conversation().secure()
    assert [talk.client(bytes([byte])) for byte in ALICE] == [[]] * (len(ALICE) - 1) + [
        [Send(Side.CLIENT, ASKS_PASSWORD)]
    ]


@pytest.mark.parametrize("start", [{b"user": b"alice"}, {b"user": b"alice", b"database": b""}])
def test_database_defaults_to_the_user(start: dict[bytes, bytes]) -> None:
    talk = Conversation(access("allow alice alice all")).dialed(startup(start))
    assert talk.session.facts.database == "alice"
    assert login_sent(talk) == {b"user": b"alice", b"database": b"alice"}


@pytest.mark.parametrize("start", [{}, {b"user": b""}, {b"database": b"shop"}])
def test_user_is_required(start: dict[bytes, bytes]) -> None:
    talk = Conversation().asked(startup(start))
    assert talk.sqlstate == "28000"
    assert talk.of(Send)[1:] == []


@pytest.mark.parametrize("bad", [b"a" * 64, b"\xff", b"alice\xc3"])
@pytest.mark.parametrize("name", [b"user", b"database"])
def test_names_are_short_and_utf_8(name: bytes, bad: bytes) -> None:
    talk = Conversation().asked(startup({b"user": b"alice", b"database": b"shop", name: bad}))
    assert talk.sqlstate == "08P01"


def test_longest_names() -> None:
    name = "n" * 63
    talk = Conversation().dialed(startup({b"user": name.encode(), b"database": b"d" * 63}), token(name))
    assert login_sent(talk) == {b"user": name.encode(), b"database": b"d" * 63}


@pytest.mark.parametrize("rest", [b"\0", password(token()), ALICE])
def test_nothing_may_follow_before_an_answer(rest: bytes) -> None:
    talk = Conversation().asked(ALICE + rest)
    assert talk.sqlstate == "08P01"


@pytest.mark.parametrize("code", [0, 1 << 16, 2 << 16, 4 << 16, 80877105, 0xFFFFFFFF])
def test_other_major_versions(code: int) -> None:
    talk = Conversation().asked(packet(code, strings(b"user", b"alice") + b"\0"))
    assert talk.sqlstate == "0A000"


NO_OPTIONS: list[bytes] = []


@pytest.mark.parametrize(
    ("version", "options", "answered"),
    [
        ((3, 0), NO_OPTIONS, None),
        ((3, 2), NO_OPTIONS, None),
        ((3, 1), NO_OPTIONS, (3, 0)),
        ((3, 3), NO_OPTIONS, (3, 2)),
        ((3, 9), NO_OPTIONS, (3, 2)),
        ((3, 9999), [b"_pq_.grease"], (3, 2)),
        ((3, 0), [b"_pq_.one", b"_pq_.two", b"_pq_."], (3, 0)),
        ((3, 2), [b"_pq_.one"], (3, 2)),
    ],
)
def test_version_negotiation(version: tuple[int, int], options: list[bytes], answered: tuple[int, int] | None) -> None:
    """One NegotiateProtocolVersion that names every option, before the request for the password."""
    start = startup({b"user": b"alice"} | dict.fromkeys(options, b"on"), version)
    talk = Conversation().dialed(start)
    answers = messages(talk.sent(Side.CLIENT)[1:])
    assert answers.pop() == (b"R", pack("!I", 3))
    expected = []
    if answered:
        expected = [(b"v", pack("!II", answered[0] << 16 | answered[1], len(options)) + strings(*options))]
    assert answers == expected
    assert login_sent(talk) == {b"user": b"alice", b"database": b"alice"}


def test_every_other_parameter_is_forwarded_as_it_is() -> None:
    start = {
        b"user": b"alice",
        b"database": b"shop",
        b"application_name": b"psql \xff",
        b"options": rb"-c geqo=off -c search_path=a,\ b",
        b"DateStyle": b"ISO, MDY",
        b"client_encoding": b"LATIN1",
        b"search_path": b"\xc3\xa4",
        b"extra_float_digits": b"",
    }
    assert login_sent(Conversation().dialed(startup(start))) == start


# --- the password ------------------------------------------------------------------------------------------------


def denied(talk: Conversation) -> str:
    """The constant answer to whoever did not prove who they are; tells the true reason."""
    assert talk.sqlstate == "28P01"
    assert talk.closed is not None
    assert b"MAuthentication failed\0" in talk.closed.farewell
    assert talk.dials == []
    return talk.reason


def test_a_good_token_dials() -> None:
    talk = Conversation().proven()
    assert talk.dials == [Address("db1.example", 5432)]
    assert (talk.session.facts.subject, talk.session.facts.jti) == ("alice", "serial-1")


def test_password_byte_by_byte() -> None:
    talk = Conversation().asked()
    for byte in password(token())[:-1]:
        assert talk.client(bytes([byte])) == []
    talk.client(b"\0")
    assert len(talk.dials) == 1


def test_a_token_of_many_claims() -> None:
    jwt = token(padding="x" * 48_000)
    assert 60_000 < len(jwt) < 65_536
    assert Conversation().proven(jwt=jwt).dials


@pytest.mark.parametrize("data", [b"p" + pack("!I", 65_536 + 6), b"p" + pack("!I", 2**32 - 1), b"p\0\0\0\3"])
def test_password_length_is_bounded_before_it_is_buffered(data: bytes) -> None:
    talk = Conversation().asked()
    talk.client(data)
    assert talk.sqlstate == "08P01"


@pytest.mark.parametrize("data", [b"Q", b"X\0\0\0\4", b"\x16\x03\x01", message(b"p", b"x"), message(b"p", b"x\0y\0")])
def test_something_else_than_a_password(data: bytes) -> None:
    talk = Conversation().asked()
    talk.client(data)
    assert talk.sqlstate == "08P01"
    assert talk.dials == []


@pytest.mark.parametrize(
    ("jwt", "reason"),
    [
        (b"", "three parts"),
        (b"not a token", "three parts"),
        (b"\xff.\xff.\xff", "base64url"),
        (token(key=STRANGER), "signature"),
        (token()[:-4] + b"AAAA", "signature"),
        (token(exp=NOW), "expired"),
        (token(exp=NOW - 1), "expired"),
        (token(nbf=NOW + 60), "nbf"),
        (token(exp=None), "exp"),
        (base64url(b'{"alg":"none"}') + token()[token().index(b".") :], "alg"),
        (token("bob"), "another user"),
        (token("Alice"), "another user"),
        (token("alice "), "another user"),
        (token("alic"), "another user"),
        (token("alice\0"), "sub"),
    ],
)
def test_tokens_that_prove_nothing(jwt: bytes, reason: str) -> None:
    talk = Conversation().proven(jwt=jwt)
    assert reason in denied(talk)
    assert jwt.decode("latin-1") not in talk.reason or not jwt


def test_no_key_lets_nobody_in() -> None:
    denied(Conversation(access(verifier=TokenVerifier([]))).proven())


def test_the_listeners_own_verifier_decides() -> None:
    verifier = TokenVerifier([VerificationKey(ISSUER.public_key())], issuer="https://issuer")
    denied(Conversation(access(verifier=verifier)).proven())
    assert Conversation(access(verifier=verifier)).proven(jwt=token(iss="https://issuer")).dials


def test_a_reload_reaches_who_waits_at_the_prompt() -> None:
    """A key taken out of the configuration opens nothing any more, also for who was there before."""
    talk = Conversation().asked()
    talk.access = access(verifier=TokenVerifier([VerificationKey(STRANGER.public_key())]))
    talk.client(password(token()))
    denied(talk)


def test_a_reload_lets_in_who_waits_at_the_prompt() -> None:
    talk = Conversation().asked()
    talk.access = access(verifier=TokenVerifier([VerificationKey(STRANGER.public_key())]))
    talk.client(password(token(key=STRANGER)))
    assert talk.dials


def test_the_session_is_of_the_time_when_it_was_opened() -> None:
    talk = Conversation(access(application_name="before")).asked()
    talk.access = access(
        upstream=upstream(addresses=(SECOND,)),
        role_claim="role",
        terminate_on_expiry=False,
    )
    talk.client(password(token()))
    talk.tell(Dialed())
    assert talk.dials == [FIRST]
    assert login_sent(talk)[b"user"] == b"alice"
    assert login_sent(talk)[b"application_name"] == b"before"
    talk.upstream(WELCOME)
    assert talk.splice.expires == NOW + 600


def test_only_one_try() -> None:
    talk = Conversation().proven(jwt=b"wrong")
    assert talk.client(password(token())) == []
    assert talk.dials == []


# --- certificate-bound tokens ------------------------------------------------------------------------------------

CA = make_ca()
CERTIFICATE, OTHER = (issue(CA).certificate.public_bytes(Encoding.DER) for _ in range(2))
BOUND = token(cnf={"x5t#S256": base64url(hashlib.sha256(CERTIFICATE).digest()).decode()})


@pytest.mark.parametrize(
    ("jwt", "certificate", "allowed"),
    [
        (BOUND, CERTIFICATE, True),
        (BOUND, OTHER, False),
        (BOUND, None, False),
        (token(), CERTIFICATE, True),
        (token(cnf={"jkt": "x"}), CERTIFICATE, False),
        (token(cnf=None), CERTIFICATE, False),
    ],
)
def test_certificate_bound_token(jwt: bytes, certificate: bytes | None, allowed: bool) -> None:
    talk = Conversation().asked(certificate=certificate)
    talk.client(password(jwt))
    assert bool(talk.dials) is allowed
    assert (talk.session.facts.subject, talk.session.facts.jti) == ("alice", "serial-1")
    if not allowed:
        denied(talk)


# --- application_name --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "given", "expected"),
    [
        ("{subject}@{address}", {}, b"alice@10.0.0.1"),
        ("{application_name} ({subject})", {b"application_name": b"psql"}, b"psql (alice)"),
        ("{application_name} {address}", {}, b"10.0.0.1"),
        ("{application_name}", {b"application_name": b"{subject} %s {0}"}, b"{subject} %s {0}"),
        ("gw {application_name}", {b"application_name": b"x" * 100}, b"gw " + b"x" * 60),
        ("fixed", {b"application_name": b"psql"}, b"fixed"),
        ("{application_name} {subject}", {b"application_name": b"x" * 100}, b"x" * 57 + b" alice"),
        ("{application_name}@{address}", {b"application_name": b"x" * 54}, b"x" * 54 + b"@10.0.0.1"),
        ("{application_name}|{subject}", {b"application_name": "ä".encode() * 40}, "ä".encode() * 28 + b"|alice"),
        ("y" * 58 + "{application_name}{subject}", {b"application_name": b"x" * 100}, b"y" * 58 + b"alice"),
        ("{application_name}" + "y" * 80, {b"application_name": b"x" * 100}, b"y" * 63),
        ("y" * 80 + "{application_name}", {b"application_name": b"x" * 100}, b"y" * 63),
    ],
)
def test_application_name(template: str, given: dict[bytes, bytes], expected: bytes) -> None:
    settings = access(application_name=template)
    talk = Conversation(settings).dialed(startup({b"user": b"alice"} | given))
    assert login_sent(talk)[b"application_name"] == expected


def test_the_audit_keeps_what_the_client_called_itself() -> None:
    start = startup({b"user": b"alice", b"application_name": b"psql \xff"})
    talk = Conversation(access(application_name="gw")).dialed(start)
    assert talk.session.facts.application == "psql "


@pytest.mark.parametrize("given", [b"x" * 64, b"x" * 9000, "ä".encode() * 40])
def test_the_audit_keeps_no_more_than_a_name(given: bytes) -> None:
    """PostgreSQL would cut it as well; a start-up packet's worth of it would only fill the log."""
    talk = Conversation().dialed(startup({b"user": b"alice", b"application_name": given}))
    assert talk.session.facts.application == given[:63].decode("utf-8", "ignore")
    assert login_sent(talk)[b"application_name"] == given


# --- secrets -----------------------------------------------------------------------------------------------------


def test_the_token_goes_nowhere() -> None:
    jwt = token()
    talk = Conversation().open()
    assert jwt not in talk.sent(Side.UPSTREAM) + talk.sent(Side.CLIENT)
    for shown in (repr(talk.commands), repr(talk.session.facts), repr(talk.session._identity)):
        assert jwt.decode() not in shown


def test_events_do_not_show_what_a_client_sent() -> None:
    assert "secret" not in repr(Data(Side.CLIENT, password(b"secret")))


def test_refusals_do_not_show_the_token() -> None:
    jwt = token("bob")
    talk = Conversation().proven(jwt=jwt)
    assert jwt.decode() not in talk.reason + repr(talk.commands)


def test_upstream_hears_nothing_but_the_login_and_one_question() -> None:
    talk = Conversation().proven()
    assert talk.sent(Side.UPSTREAM) == b""
    talk.tell(Dialed())
    assert login_sent(talk) == {b"user": b"alice", b"database": b"shop"}
    talk.upstream(WELCOME)
    assert talk.sent(Side.UPSTREAM) == ALICE + SUPERUSER_QUERY
