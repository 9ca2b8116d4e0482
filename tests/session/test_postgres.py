"""A Postgres session from its first event to its last: the whole journey, and its end in every state."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.session.vocabulary import (
    Close,
    Data,
    Dial,
    Dialed,
    Ended,
    Event,
    Expired,
    Idle,
    Lost,
    Secured,
    Send,
    SetDeadline,
    ShuttingDown,
    Side,
    Sniff,
    Sniffed,
    Splice,
    StartTLS,
    TimedOut,
    TLSFacts,
)
from gateway.tokens import TokenVerifier, VerificationKey
from gateway.upstream import Login, TLSMode
from tests.fakes import (
    ALICE,
    ASKS_PASSWORD,
    FIRST,
    ISSUER,
    KEY_DATA,
    NOT_SUPERUSER,
    NOW,
    OK,
    ORDINARY_ROLE,
    READY,
    SSL_REQUEST,
    SUPERUSER_QUERY,
    WELCOME,
    Conversation,
    access,
    message,
    messages,
    password,
    startup,
    status,
    token,
    upstream,
)

QUERY = message(b"Q", b"select 1\0")
TLS = TLSFacts("TLSv1.3")


# --- the whole journey -------------------------------------------------------------------------------------------


def test_journey() -> None:
    where = upstream(TLSMode.REQUIRE)
    talk = Conversation(access(upstream=where))
    talk.tell(Sniffed(b"\0"))
    talk.client(SSL_REQUEST)
    talk.tell(Secured(Side.CLIENT, TLS))
    talk.client(ALICE)
    talk.client(password(token()))
    talk.tell(Dialed())
    talk.upstream(b"S")
    talk.tell(Secured(Side.UPSTREAM, TLS))
    talk.upstream(WELCOME)
    *before, greeting, splice = talk.commands
    assert before == [
        SetDeadline(30.0),
        Sniff(),
        Send(Side.CLIENT, b"S"),
        StartTLS(Side.CLIENT),
        Send(Side.CLIENT, ASKS_PASSWORD),
        SetDeadline(10.0),
        Dial(where, FIRST, Login()),
        Send(Side.UPSTREAM, SSL_REQUEST),
        StartTLS(Side.UPSTREAM),
        Send(Side.UPSTREAM, startup({b"user": b"alice", b"database": b"shop"})),
        Send(Side.UPSTREAM, SUPERUSER_QUERY),
        SetDeadline(None),
    ]
    assert isinstance(greeting, Send)
    assert [kind for kind, _ in messages(greeting.data)] == [b"R", b"S", b"K", b"Z"]
    assert isinstance(splice, Splice)
    facts = talk.session.facts
    assert (facts.user, facts.subject, facts.role, facts.database) == ("alice", "alice", "alice", "shop")
    assert (facts.decision, facts.upstream, facts.tls) == ("allowed", "main db1.example:5432", "TLSv1.3")


def test_decision_is_allowed_only_at_the_splice() -> None:
    assert Conversation().dialed().session.facts.decision == "refused"
    assert Conversation().open().session.facts.decision == "allowed"


def test_ok_waits_for_the_upstreams_own_login() -> None:
    """Byte by byte: the client hears nothing before it is known who logged in, and the upstream is ready again."""
    talk = Conversation().dialed()
    talk.superuser = None
    before, said = talk.sent(Side.CLIENT), WELCOME + NOT_SUPERUSER
    for byte in said[:-1]:
        talk.upstream(bytes([byte]))
        assert talk.sent(Side.CLIENT) == before
    talk.upstream(said[-1:])
    assert talk.sent(Side.CLIENT).removeprefix(before).startswith(OK)


def test_greeting_keeps_its_order() -> None:
    notice = message(b"N", b"SNOTICE\0Mhello\0\0")
    said = status(b"server_version", b"18.0") + notice + ORDINARY_ROLE + notice + status(b"TimeZone", b"UTC")
    talk = Conversation().open(welcome=OK + said + READY)
    assert talk.sent(Side.CLIENT) == b"S" + ASKS_PASSWORD + OK + said + READY


def test_the_answer_to_our_question_is_not_the_clients() -> None:
    """What comes at any time is: a setting that changed, a notice, a notification."""
    notice, notification = message(b"N", b"SNOTICE\0Mhello\0\0"), message(b"A", b"\0\0\0\1x\0y\0")
    description, row, done = (message(kind, body) for kind, body in messages(NOT_SUPERUSER)[:3])
    changed = status(b"TimeZone", b"UTC")
    talk = Conversation().dialed()
    talk.superuser = notice + description + changed + row + notification + done + notice + READY
    talk.upstream(WELCOME)
    heard = messages(talk.sent(Side.CLIENT)[1:])
    assert [kind for kind, _ in heard] == [b"R", b"R", b"S", b"N", b"S", b"A", b"N", b"K", b"Z"]
    assert ORDINARY_ROLE + notice + changed + notification + notice in talk.sent(Side.CLIENT)


def test_key_comes_before_ready_for_query_in_a_transaction_state_of_its_own() -> None:
    """The state is that after our question: what the client finds."""
    ready = message(b"Z", b"T")
    talk = Conversation().dialed()
    talk.superuser = NOT_SUPERUSER.removesuffix(READY) + ready
    talk.upstream(OK + KEY_DATA + ORDINARY_ROLE + READY)
    assert [kind for kind, _ in messages(talk.sent(Side.CLIENT)[1:])] == [b"R", b"R", b"S", b"K", b"Z"]
    assert talk.sent(Side.CLIENT).endswith(ready)


@pytest.mark.parametrize("rest", [b"N", message(b"N", b"SNOTICE\0\0"), message(b"A", b"\0\0\0\1x\0y\0") + b"S\0"])
def test_what_follows_the_greeting_is_kept_and_followed(rest: bytes) -> None:
    """Framing must have seen every byte that the client gets, or it would name a boundary inside a message."""
    talk = Conversation().dialed()
    talk.superuser = NOT_SUPERUSER + rest
    talk.upstream(WELCOME)
    assert talk.sent(Side.CLIENT).endswith(READY + rest)
    framing = talk.splice.framing
    assert framing is not None
    assert framing.boundary is (rest == message(b"N", b"SNOTICE\0\0"))


def test_splice_starts_idle() -> None:
    splice = Conversation().open().splice
    assert splice.framing is not None
    assert splice.framing.idle
    assert splice.to_upstream == b""


# --- what the client sends ahead ---------------------------------------------------------------------------------


def test_a_query_sent_ahead_waits_for_the_verdict() -> None:
    talk = Conversation().asked()
    talk.client(password(token()) + QUERY[:5])
    talk.client(QUERY[5:9])
    talk.tell(Dialed())
    talk.client(QUERY[9:])
    assert talk.sent(Side.UPSTREAM) == startup({b"user": b"alice", b"database": b"shop"})
    talk.upstream(WELCOME)
    assert talk.splice.to_upstream == QUERY


def test_a_query_sent_ahead_makes_the_session_busy() -> None:
    """A patient shutdown must not take it for idle, and so lose the answer."""
    talk = Conversation().dialed()
    talk.client(QUERY)
    talk.upstream(WELCOME)
    framing = talk.splice.framing
    assert framing is not None
    assert framing.asked
    assert not framing.idle


@pytest.mark.parametrize("dialed", [False, True])
def test_what_is_sent_ahead_is_bounded(dialed: bool) -> None:
    talk = Conversation().proven()
    if dialed:
        talk.tell(Dialed())
    talk.client(b"Q" * 65_536)
    assert talk.closed is None
    talk.client(b"Q")
    assert talk.sqlstate == "08P01"


def test_what_is_sent_ahead_survives_failover() -> None:
    talk = Conversation(access(upstream=upstream(addresses=(FIRST, FIRST)))).proven()
    talk.client(QUERY)
    talk.tell(Lost(Side.UPSTREAM, "refused"))
    talk.tell(Dialed())
    talk.upstream(WELCOME)
    assert talk.splice.to_upstream == QUERY


# --- expiry ------------------------------------------------------------------------------------------------------


def test_session_ends_with_its_token() -> None:
    talk = Conversation().open()
    assert talk.splice.expires == NOW + 600
    talk.tell(Expired())
    assert talk.sqlstate == "57P01"
    assert talk.closed is not None
    assert not talk.closed.patient


@pytest.mark.parametrize(("certificate", "expires"), [(599.0, 599.0), (600.0, 600.0), (601.0, 600.0), (None, 600.0)])
def test_session_ends_with_the_certificate_that_it_was_opened_with(certificate: float | None, expires: float) -> None:
    """Or with the token, whichever is first."""
    until = None if certificate is None else NOW + certificate
    for terminate, expected in ((True, NOW + expires), (False, None)):
        talk = Conversation(access(terminate_on_expiry=terminate)).clear()
        talk.client(SSL_REQUEST)
        talk.tell(Secured(Side.CLIENT, TLSFacts("TLSv1.3", peer_certificate=b"der", peer_expires=until)))
        talk.client(ALICE)
        talk.client(password(token()))
        talk.tell(Dialed())
        talk.upstream(WELCOME)
        assert talk.splice.expires == expected


def test_the_upstreams_certificate_ends_no_session() -> None:
    """It was good when it was asked for; the client has no part in it."""
    talk = Conversation(access(upstream=upstream(TLSMode.VERIFY_FULL))).proven()
    talk.tell(Dialed())
    talk.upstream(b"S")
    talk.tell(Secured(Side.UPSTREAM, TLSFacts("TLSv1.3", peer_certificate=b"der", peer_expires=NOW + 1)))
    talk.upstream(WELCOME)
    assert talk.splice.expires == NOW + 600


def test_expiry_includes_the_leeway() -> None:
    verifier = TokenVerifier([VerificationKey(ISSUER.public_key())], leeway=30)
    talk = Conversation(access(verifier=verifier)).dialed(jwt=token(exp=NOW - 10))
    talk.upstream(WELCOME)
    assert talk.splice.expires == NOW + 20


def test_expiry_can_be_kept() -> None:
    assert Conversation(access(terminate_on_expiry=False)).open().splice.expires is None


# --- ends --------------------------------------------------------------------------------------------------------


def handshake() -> Conversation:
    talk = Conversation().clear()
    talk.client(SSL_REQUEST)
    return talk


def question() -> Conversation:
    """The upstream has let us in; who its role is, it has not said."""
    talk = Conversation().dialed()
    talk.superuser = None
    talk.upstream(WELCOME)
    return talk


# What the client can be told there: an error in clear, an error in TLS, or nothing at all in the middle of a handshake.
STATES: dict[str, tuple[Callable[[], Conversation], bool]] = {
    "first byte": (Conversation, True),
    "clear": (lambda: Conversation().clear(), True),
    "handshake": (handshake, False),
    "start-up": (lambda: Conversation().secure(), True),
    "password": (lambda: Conversation().asked(), True),
    "link": (lambda: Conversation().proven(), True),
    "login": (lambda: Conversation().dialed(), True),
    "question": (question, True),
    "open": (lambda: Conversation().open(), True),
}
every_state = pytest.mark.parametrize("state", STATES)


@pytest.mark.parametrize("state", ["first byte", "clear", "handshake", "start-up", "password"])
def test_too_slow(state: str) -> None:
    make, told = STATES[state]
    talk = make()
    talk.tell(TimedOut())
    assert talk.closed
    assert talk.sqlstate == ("57014" if told else None)


def test_one_deadline_for_all_that_a_client_does() -> None:
    """Each packet in its own time would let a slow one stay forever."""
    assert Conversation().asked().of(SetDeadline) == [SetDeadline(30.0)]


@pytest.mark.parametrize("state", ["link", "login", "question"])
def test_upstream_too_slow(state: str) -> None:
    talk = STATES[state][0]()
    talk.tell(TimedOut())
    assert talk.sqlstate == "08006"


@every_state
def test_shutting_down(state: str) -> None:
    make, told = STATES[state]
    talk = make()
    talk.tell(ShuttingDown())
    assert talk.closed is not None
    assert talk.closed.patient
    assert talk.sqlstate == ("57P01" if told else None)


def test_shutting_down_leaves_an_open_session_to_expire() -> None:
    """Patience does not keep it longer than its token."""
    talk = Conversation().open()
    (patient,) = talk.tell(ShuttingDown())
    (final,) = talk.session.handle(Expired())
    assert isinstance(patient, Close)
    assert isinstance(final, Close)
    assert (patient.patient, final.patient) == (True, False)


def test_idle_for_too_long() -> None:
    talk = Conversation().open()
    talk.tell(Idle())
    assert talk.sqlstate == "57P05"
    assert talk.closed is not None
    assert not talk.closed.patient


@every_state
def test_client_gone(state: str) -> None:
    talk = STATES[state][0]()
    assert talk.tell(Lost(Side.CLIENT, "reset by peer")) == [Close("reset by peer")]


@every_state
def test_after_the_end_there_is_nothing(state: str) -> None:
    talk = STATES[state][0]()
    talk.tell(Lost(Side.CLIENT, "gone"))
    for event in (*LATER, Data(Side.CLIENT, ALICE), Ended(), Ended(), *LATER):
        assert talk.tell(event) == []


@every_state
def test_ended_frees_whatever_was_registered(state: str) -> None:
    talk = STATES[state][0]()
    assert len(talk.cancels) == (state == "open")
    assert talk.tell(Ended()) == []
    assert len(talk.cancels) == 0
    assert talk.client(ALICE) == []


LATER: list[Event] = [
    Dialed(),
    Secured(Side.UPSTREAM, TLS),
    TimedOut(),
    Expired(),
    Idle(),
    ShuttingDown(),
    Sniffed(b"\x16"),
]


@pytest.mark.parametrize("event", [Dialed(), Data(Side.UPSTREAM, WELCOME), Secured(Side.UPSTREAM, TLS)])
@pytest.mark.parametrize("state", ["first byte", "clear", "handshake", "start-up", "password"])
def test_what_comes_at_the_wrong_moment_ends_it(state: str, event: Event) -> None:
    talk = STATES[state][0]()
    talk.tell(event)
    assert talk.closed
    assert talk.dials == []
