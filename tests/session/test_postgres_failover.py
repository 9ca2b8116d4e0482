"""What the upstream says and does before it lets us in, and which address is tried next."""

from __future__ import annotations

import pytest

from gateway.session.vocabulary import (
    Close,
    Dial,
    Dialed,
    Event,
    Lost,
    Secured,
    Send,
    SetDeadline,
    Side,
    TimedOut,
    TLSFacts,
)
from gateway.upstream import Login, TLSMode
from tests.fakes import (
    FIRST,
    KEY_DATA,
    NOT_SUPERUSER,
    OK,
    ORDINARY_ROLE,
    READY,
    SECOND,
    SSL_REQUEST,
    WELCOME,
    Conversation,
    ScramUpstream,
    access,
    error,
    fields,
    message,
    startup,
    status,
    token,
    upstream,
)

ALICE_UPSTREAM = startup({b"user": b"alice", b"database": b"shop"})
NOT_YET = error(S="FATAL", V="FATAL", C="57P03", M="the database system is starting up", F="postmaster.c", L="2408")


def two(mode: TLSMode = TLSMode.DISABLE, **settings: str) -> Conversation:
    """On the way to the first of two addresses."""
    return Conversation(access(upstream=upstream(mode, addresses=(FIRST, SECOND), **settings))).proven()


def refusal(talk: Conversation) -> dict[str, str]:
    assert talk.closed
    return fields(talk.closed.farewell)


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sqlstate", ["3D000", "53300", "57P03", "42501", "22023", "57P01", "XX000"])
@pytest.mark.parametrize("before", [b"", OK, OK + ORDINARY_ROLE, WELCOME])
def test_errors_are_forwarded_without_the_upstreams_inside(sqlstate: str, before: bytes) -> None:
    said = {"S": "FATAL", "V": "FATAL", "C": sqlstate, "M": "no", "D": "because", "H": "try"}
    talk = Conversation().dialed()
    talk.superuser = None
    talk.upstream(before + error(**said, F="postinit.c", L="941", R="InitPostgres", W="a trigger"))
    assert refusal(talk) == said
    assert OK not in talk.sent(Side.CLIENT)
    assert sqlstate in talk.reason


@pytest.mark.parametrize("sqlstate", ["28P01", "28000", "28999"])
@pytest.mark.parametrize("before", [b"", OK])
def test_login_errors_are_between_the_gateway_and_the_database(sqlstate: str, before: bytes) -> None:
    talk = Conversation(access("allow all all all role=reader")).dialed()
    talk.upstream(before + error(S="FATAL", C=sqlstate, M='password authentication failed for user "reader"'))
    assert talk.sqlstate == "28000"
    assert b"reader" not in talk.sent(Side.CLIENT)
    assert "reader" in talk.reason


@pytest.mark.parametrize("field", ["M", "D", "H"])
def test_an_error_that_names_a_role_unknown_to_the_client_is_told_in_other_words(field: str) -> None:
    """'too many connections for role "reader"' has the right SQLSTATE, and a name that is not the client's business."""
    told = {"S": "FATAL", "C": "53300", "M": "too many", "D": "so many", "H": "wait"}
    told[field] += ' for role "reader"'
    talk = Conversation(access("allow all all all role=reader")).dialed()
    talk.upstream(error(**told))
    assert refusal(talk) == {"S": "FATAL", "V": "FATAL", "C": "53300", "M": "The database refused the connection"}
    assert "53300" in talk.reason


def test_the_last_of_several_addresses_names_no_role_either() -> None:
    talk = Conversation(access("allow all all all role=reader", upstream=upstream(addresses=(FIRST, SECOND)))).proven()
    for _ in range(2):
        talk.tell(Dialed())
        talk.upstream(error(S="FATAL", C="57P03", M="not yet, reader"))
    assert refusal(talk)["C"] == "57P03"
    assert b"reader" not in talk.sent(Side.CLIENT)


@pytest.mark.parametrize(("rule", "role"), [("allow all all all", "alice"), ("allow all all all role=reader", "shop")])
def test_an_error_that_names_nobody_else_is_told_as_it_is(rule: str, role: str) -> None:
    said = {"S": "FATAL", "V": "FATAL", "C": "53300", "M": f'too many connections for "{role}"'}
    talk = Conversation(access(rule)).dialed()
    talk.upstream(error(**said))
    assert refusal(talk) == said


def test_an_error_without_fields_still_tells_something() -> None:
    talk = Conversation().dialed()
    talk.upstream(message(b"E", b"\0"))
    assert refusal(talk).keys() == {"S", "V", "C", "M"}
    assert talk.sqlstate == "XX000"


@pytest.mark.parametrize("sqlstate", ["3D000", "53300", "28P01", "28000"])
def test_an_error_that_another_address_would_repeat_ends_it(sqlstate: str) -> None:
    talk = two()
    talk.tell(Dialed())
    talk.upstream(error(C=sqlstate, M="no"))
    assert talk.closed
    assert talk.dials == [FIRST]


@pytest.mark.parametrize("answer", [b"N", b"SX", NOT_YET, error(C="3D000", M="forged"), b"\0"])
def test_nothing_said_before_tls_reaches_the_client(answer: bytes) -> None:
    """CVE-2024-10977, on every address; and the start-up packet is never sent in clear."""
    talk = two(TLSMode.REQUIRE)
    for _ in range(2):
        talk.tell(Dialed())
        talk.upstream(answer)
    assert refusal(talk) == {"S": "FATAL", "V": "FATAL", "C": "08006", "M": "The database cannot be reached"}
    assert talk.sent(Side.UPSTREAM) == SSL_REQUEST * 2


def test_garbage_from_the_upstream() -> None:
    talk = Conversation().dialed()
    talk.upstream(b"HTTP/1.1 400 Bad Request\r\n")
    assert talk.sqlstate == "08006"
    assert b"HTTP" not in talk.sent(Side.CLIENT)


# --- the next address --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [Lost(Side.UPSTREAM, "connection refused"), TimedOut()])
@pytest.mark.parametrize("reached", [False, True])
def test_next_address(event: Event, reached: bool) -> None:
    talk = two()
    if reached:
        talk.tell(Dialed())
    commands = talk.tell(event)
    where = talk.of(Dial)[0].upstream
    assert commands == [SetDeadline(10.0), Dial(where, SECOND, Login())]
    assert talk.session.facts.upstream == "main db2.example:5432"
    assert talk.tell(Dialed()) == [Send(Side.UPSTREAM, ALICE_UPSTREAM)]
    talk.upstream(WELCOME)
    assert talk.spliced


@pytest.mark.parametrize(
    "answer",
    [
        NOT_YET,
        OK + NOT_YET,
        b"garbage",
        message(b"R", b"\0\0\0\3"),
        OK + ORDINARY_ROLE[:9],
        WELCOME + NOT_YET,
        WELCOME + NOT_SUPERUSER[:9],
    ],
)
def test_next_address_after_what_the_first_said(answer: bytes) -> None:
    """Nothing of the first login is left in the second."""
    talk = two()
    talk.superuser = None
    talk.tell(Dialed())
    talk.upstream(answer)
    if not talk.dials[1:]:
        talk.tell(Lost(Side.UPSTREAM, "closed"))
    assert talk.dials == [FIRST, SECOND]
    talk.superuser = NOT_SUPERUSER
    talk.tell(Dialed())
    assert talk.sent(Side.UPSTREAM).endswith(ALICE_UPSTREAM)
    talk.upstream(WELCOME)
    assert talk.sent(Side.CLIENT).count(OK) == 1
    assert talk.spliced


def test_tls_handshake_of_one_address_fails() -> None:
    talk = two(TLSMode.VERIFY_FULL)
    talk.tell(Dialed())
    talk.upstream(b"S")
    talk.tell(Lost(Side.UPSTREAM, "certificate verify failed"))
    assert talk.dials == [FIRST, SECOND]
    talk.tell(Dialed())
    talk.upstream(b"S")
    talk.tell(Secured(Side.UPSTREAM, TLSFacts("TLSv1.3")))
    talk.upstream(WELCOME)
    assert talk.spliced


def test_the_last_address_has_the_last_word() -> None:
    talk = two()
    talk.tell(Lost(Side.UPSTREAM, "connection refused"))
    talk.tell(Dialed())
    talk.upstream(NOT_YET)
    assert refusal(talk)["C"] == "57P03"
    assert "F" not in refusal(talk)
    assert "db2.example:5432" in talk.reason


def test_no_address_is_left() -> None:
    talk = two()
    talk.tell(TimedOut())
    talk.tell(Lost(Side.UPSTREAM, "no route to host"))
    assert talk.sqlstate == "08006"
    assert "no route to host" in talk.reason
    assert b"route" not in talk.sent(Side.CLIENT)


def test_no_address_at_all() -> None:
    talk = Conversation(access(upstream=upstream(addresses=()))).proven()
    assert talk.sqlstate == "08006"
    assert talk.dials == []


def test_each_address_has_connect_timeout() -> None:
    where = upstream(addresses=(FIRST, SECOND), connect_timeout=3.0)
    talk = Conversation(access(upstream=where, handshake_timeout=30.0)).proven()
    talk.tell(TimedOut())
    assert [command.seconds for command in talk.of(SetDeadline)] == [30.0, 3.0, 3.0]


# --- target_session_attrs ----------------------------------------------------------------------------------------

WRITABLE = status(b"in_hot_standby", b"off") + status(b"default_transaction_read_only", b"off")


@pytest.mark.parametrize(
    "says",
    [
        b"",
        status(b"in_hot_standby", b"on") + status(b"default_transaction_read_only", b"off"),
        status(b"in_hot_standby", b"off") + status(b"default_transaction_read_only", b"on"),
        status(b"in_hot_standby", b"off"),
        status(b"default_transaction_read_only", b"off"),
        WRITABLE + status(b"in_hot_standby", b"on"),
    ],
)
def test_read_write_passes_over_what_is_not(says: bytes) -> None:
    talk = two(target_session_attrs="read-write")
    talk.tell(Dialed())
    talk.upstream(OK + ORDINARY_ROLE + says + KEY_DATA + READY)
    assert talk.dials == [FIRST, SECOND]
    assert not talk.spliced
    assert len(talk.cancels) == 0
    talk.tell(Dialed())
    talk.upstream(OK + ORDINARY_ROLE + WRITABLE + KEY_DATA + READY)
    assert talk.spliced


def test_read_write_and_no_writable_address() -> None:
    talk = two(target_session_attrs="read-write")
    for _ in range(2):
        talk.tell(Dialed())
        talk.upstream(WELCOME)
    assert talk.sqlstate == "08006"
    assert "read-only" in talk.reason


def test_any_takes_a_standby() -> None:
    talk = two()
    talk.tell(Dialed())
    talk.upstream(OK + ORDINARY_ROLE + status(b"in_hot_standby", b"on") + READY)
    assert talk.spliced


# --- logins ------------------------------------------------------------------------------------------------------


def test_login_of_the_role() -> None:
    """The password of that role, else the one for all, is proven by SCRAM; the client hears OK only then."""
    logins = (Login("reader", "reader's"), Login(None, "everybody's"))
    for rule, secret in (("allow all all all role=reader", "reader's"), ("allow all all all", "everybody's")):
        talk = Conversation(access(rule, upstream=upstream(TLSMode.DISABLE, *logins))).dialed()
        theirs = ScramUpstream(secret)
        (initial,) = talk.upstream(theirs.offer())
        assert isinstance(initial, Send)
        (response,) = talk.upstream(theirs.first(initial.data))
        assert isinstance(response, Send)
        assert talk.upstream(theirs.final(response.data)) == []
        assert OK not in talk.sent(Side.CLIENT)
        talk.upstream(WELCOME)
        assert OK in talk.sent(Side.CLIENT)
        assert talk.spliced
        assert secret.encode() not in talk.sent(Side.UPSTREAM)


def test_client_certificate_of_the_role_is_used_to_dial() -> None:
    login = Login("alice", certificate=None, key=None, password="unused")
    talk = Conversation(access(upstream=upstream(TLSMode.VERIFY_FULL, Login(), login))).proven()
    assert talk.of(Dial)[0].login == login


def test_downgrade_is_not_told_to_the_client() -> None:
    talk = Conversation(access(upstream=upstream(TLSMode.DISABLE, Login(None, "secret")))).dialed()
    talk.upstream(message(b"R", b"\0\0\0\5salt"))
    assert talk.sqlstate == "08006"
    assert "md5" in talk.reason
    assert b"md5" not in talk.sent(Side.CLIENT)
    assert b"secret" not in talk.sent(Side.UPSTREAM)


def test_nothing_of_the_client_is_passed_on_by_a_failed_login() -> None:
    talk = two()
    talk.client(message(b"Q", b"drop table x\0"))
    talk.tell(Dialed())
    talk.upstream(error(C="28P01", M="no"))
    assert talk.sent(Side.UPSTREAM) == ALICE_UPSTREAM
    assert isinstance(talk.commands[-1], Close)
    assert token() not in talk.sent(Side.UPSTREAM)
