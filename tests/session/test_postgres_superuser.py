"""Who logged in upstream is asked in SQL, before the client hears anything: superusers come in only where allowed."""

from __future__ import annotations

from struct import pack

import pytest

from gateway.errors import UpstreamError
from gateway.session import postgres_upstream
from gateway.session.access import Access
from gateway.session.postgres_upstream import UpstreamLogin
from gateway.session.vocabulary import Send, Side
from gateway.upstream import Login
from tests.fakes import (
    IS_SUPERUSER,
    KEY_DATA,
    NOT_SUPERUSER,
    OK,
    READY,
    SUPERUSER_QUERY,
    WELCOME,
    Conversation,
    access,
    error,
    login_sent,
    message,
    messages,
    startup,
    status,
    superuser_is,
    upstream,
)

NOTICE = message(b"N", b"SNOTICE\0Mhm\0\0")

# --- the question ------------------------------------------------------------------------------------------------


def login(ask: bool = True) -> UpstreamLogin:
    """By trust."""
    return UpstreamLogin(upstream(), Login(), "reader", {}, None, ask=ask)


def test_the_question_is_the_one_that_the_tests_know() -> None:
    assert postgres_upstream.SUPERUSER_QUERY == SUPERUSER_QUERY


@pytest.mark.parametrize("cut", range(len(NOT_SUPERUSER)))
def test_nobody_is_known_to_be_ordinary_before_the_answer_is_whole(cut: int) -> None:
    ours = login()
    ours.feed(WELCOME + NOT_SUPERUSER[:cut])
    assert not ours.ready
    ours.feed(NOT_SUPERUSER[cut:])
    assert ours.ready
    assert not ours.superuser


def test_the_last_ready_for_query_is_the_clients() -> None:
    """The first only says that we may ask; it may even be in another state."""
    ours, failed = login(), message(b"Z", b"E")
    assert ours.feed(OK + KEY_DATA + message(b"Z", b"T")) == SUPERUSER_QUERY
    assert ours.ready_for_query == b""
    ours.feed(NOT_SUPERUSER.removesuffix(READY) + failed + READY)
    assert ours.ready_for_query == failed
    assert ours.rest == READY


def test_messages_that_come_at_any_time_are_the_clients() -> None:
    """Also between the parts of the answer, and where the question and they cross each other."""
    notification = message(b"A", b"\0\0\0\1x\0y\0")
    changed = status(b"is_superuser", b"on")
    description, row, done = (message(kind, body) for kind, body in messages(NOT_SUPERUSER)[:3])
    ours = login()
    assert ours.feed(OK + READY + NOTICE) == SUPERUSER_QUERY
    assert ours.feed(description + notification + row + changed + done + NOTICE + READY) == b""
    assert bytes(ours.greeting) == NOTICE + notification + changed + NOTICE
    assert ours.statuses == {b"is_superuser": b"on"}
    assert not ours.superuser


def test_they_are_bounded_too() -> None:
    ours, notice = login(), message(b"N", b"n" * 60_000)
    ours.feed(WELCOME)
    with pytest.raises(UpstreamError, match="no end"):
        for _ in range(postgres_upstream.MAX_GREETING // len(notice) + 1):
            ours.feed(notice)


@pytest.mark.parametrize(
    ("welcome", "superuser"),
    [
        (OK + status(b"is_superuser", b"off") + READY, False),
        (OK + status(b"is_superuser", b"on") + READY, True),
        (OK + status(b"is_superuser", b"OFF") + READY, True),
        (OK + status(b"is_superuser", b"") + READY, True),
        (OK + READY, True),
    ],
)
def test_where_no_sql_is_spoken_nothing_is_asked(welcome: bytes, superuser: bool) -> None:
    ours = login(ask=False)
    assert ours.superuser
    assert ours.feed(welcome) == b""
    assert ours.ready
    assert ours.superuser is superuser


# --- the verdict -------------------------------------------------------------------------------------------------


MAY_REPLICATE = "allow all all all replication=yes"
MAY_ALL = "allow all all all superuser=yes replication=yes"
DONE = message(b"C", b"SELECT 1\0") + READY
NOT_SURE = {
    "true": superuser_is(b"t"),
    "in other words": superuser_is(b"false"),
    "capital": superuser_is(b"F"),
    "nothing in it": superuser_is(b""),
    "no row": message(b"T", bytes(2)) + message(b"C", b"SELECT 0\0") + READY,
    "no answer at all": READY,
    "the first word is not the last": superuser_is(b"f").removesuffix(DONE) + superuser_is(b"t"),
}
BROKEN = {
    "null": message(b"D", pack("!Hi", 1, -1)) + DONE,
    "two columns": message(b"D", pack("!HIcIc", 2, 1, b"f", 1, b"f")) + DONE,
    "no column": message(b"D", bytes(2)) + DONE,
    "a length that lies": message(b"D", pack("!HIc", 1, 2, b"f")) + DONE,
    "garbage": b"HTTP/1.1 400 Bad Request\r\n",
    "another login": OK + READY,
    "another key": message(b"K", bytes(8)) + READY,
    "a copy": message(b"G", bytes(3)) + READY,
}


def answered(settings: Access, answer: bytes, start: dict[bytes, bytes] | None = None) -> Conversation:
    """Logged in as one who reports is_superuser=off, and asked."""
    talk = Conversation(settings).dialed(startup({b"user": b"alice", b"database": b"shop"} | (start or {})))
    talk.superuser = answer
    talk.upstream(WELCOME)
    return talk


def not_let_in(talk: Conversation, sqlstate: str = "28000") -> str:
    assert talk.sqlstate == sqlstate
    assert not talk.spliced
    assert OK not in talk.sent(Side.CLIENT)
    assert len(talk.cancels) == 0
    return talk.reason


@pytest.mark.parametrize("answer", NOT_SURE.values(), ids=NOT_SURE)
def test_superuser_is_denied_unless_allowed(answer: bytes) -> None:
    """is_superuser=off is no answer: ALTER ROLE alice SET role = ... makes it say so, and RESET ROLE takes it back."""
    assert "superuser" in not_let_in(answered(access(), answer))
    assert answered(access(MAY_ALL), answer).spliced


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_an_answer_that_is_none_lets_nobody_in(answer: bytes) -> None:
    for settings in (access(), access(MAY_ALL)):
        assert "breaks the protocol" in not_let_in(answered(settings, answer), "08006")


@pytest.mark.parametrize("before", [b"", NOT_SUPERUSER.removesuffix(DONE)])
def test_an_error_for_an_answer_lets_nobody_in(before: bytes) -> None:
    talk = answered(access(), before + error(S="ERROR", C="42501", M="permission denied for view pg_roles"))
    assert "pg_roles" in not_let_in(talk, "42501")


def test_what_is_asked_does_not_depend_on_what_the_upstream_says_of_itself() -> None:
    for says in (status(b"is_superuser", b"on"), status(b"is_superuser", b"off"), b""):
        talk = Conversation().open(welcome=OK + says + READY)
        assert talk.of(Send)[-2] == Send(Side.UPSTREAM, SUPERUSER_QUERY)
        assert talk.spliced


def test_what_the_client_sent_ahead_does_not_mix_with_the_question() -> None:
    query = message(b"Q", b"select true\0")
    talk = Conversation().dialed()
    talk.superuser = None
    talk.client(query)
    talk.upstream(WELCOME)
    talk.client(query)
    assert talk.sent(Side.UPSTREAM).endswith(SUPERUSER_QUERY)
    assert query not in talk.sent(Side.UPSTREAM)
    talk.upstream(IS_SUPERUSER)
    not_let_in(talk)
    assert query not in talk.sent(Side.UPSTREAM)


PHYSICAL_START = {b"replication": b"true"}


@pytest.mark.parametrize("says", [b"on", b"OFF", b"", None])
def test_physical_replication_knows_no_sql(says: bytes | None) -> None:
    welcome = OK + (b"" if says is None else status(b"is_superuser", says)) + READY
    for rule, spliced in ((MAY_REPLICATE, False), (MAY_ALL, True)):
        talk = Conversation(access(rule)).dialed(startup({b"user": b"alice"} | PHYSICAL_START))
        talk.upstream(welcome)
        assert SUPERUSER_QUERY not in talk.sent(Side.UPSTREAM)
        assert talk.spliced is spliced
        if not spliced:
            assert "superuser" in not_let_in(talk)


def test_physical_replication_of_an_ordinary_role() -> None:
    talk = Conversation(access(MAY_REPLICATE)).dialed(startup({b"user": b"alice"} | PHYSICAL_START))
    talk.upstream(WELCOME)
    assert SUPERUSER_QUERY not in talk.sent(Side.UPSTREAM)
    assert talk.spliced


def test_the_last_word_about_superuser_counts() -> None:
    talk = Conversation(access(MAY_REPLICATE)).dialed(startup({b"user": b"alice"} | PHYSICAL_START))
    talk.upstream(OK + status(b"is_superuser", b"off") + status(b"is_superuser", b"on") + READY)
    assert "superuser" in not_let_in(talk)


@pytest.mark.parametrize("value", [b"database", b"off"])
def test_who_can_speak_sql_is_asked(value: bytes) -> None:
    not_let_in(answered(access(MAY_REPLICATE), IS_SUPERUSER, {b"replication": value}))


# --- other ways to be somebody else ------------------------------------------------------------------------------

TRICKS = [
    {b"session_authorization": b"postgres"},
    {b"SESSION_AUTHORIZATION": b"postgres"},
    {b"options": b"-c session_authorization=postgres"},
    {b"options": rb"-c\ session_authorization=postgres"},
    {b"options": b"-Ecsession_authorization=postgres"},
    {b"options": b"--session-authorization=postgres"},
    {b"options": b"-c SESSION_AUTHORIZATION=postgres"},
]


@pytest.mark.parametrize("trick", TRICKS)
def test_a_session_authorization_set_at_startup(trick: dict[bytes, bytes]) -> None:
    """A superuser would look like somebody else to our question, and RESET SESSION AUTHORIZATION ends that."""
    start = startup({b"user": b"alice", b"database": b"shop"} | trick)
    talk = Conversation().proven(start)
    assert talk.dials == []
    assert "session_authorization" in not_let_in(talk)
    assert Conversation(access("allow all all all superuser=yes")).proven(start).dials


ROLES = [{b"role": b"reader"}, {b"options": b"-c role=reader"}, {b"options": b"--role=reader"}]


@pytest.mark.parametrize("chosen", [*ROLES, {b"options": b"-c app.role=x", b"app.session_authorization": b"y"}])
def test_a_role_set_at_startup_hides_nobody(chosen: dict[bytes, bytes]) -> None:
    start = {b"user": b"alice", b"database": b"shop"} | chosen
    assert login_sent(Conversation().dialed(startup(start))) == start
    assert answered(access(), NOT_SUPERUSER, chosen).spliced
    not_let_in(answered(access(), IS_SUPERUSER, chosen))
