"""The verdict on a proven client: rules, roles, limits, replication, superusers and the tricks around them."""

from __future__ import annotations

from struct import pack
from typing import Any

import pytest

from gateway.policy import Deny, Request
from gateway.session.access import Access
from gateway.session.vocabulary import Send, Side
from gateway.upstream import Address
from tests.fakes import (
    CLIENT,
    IS_SUPERUSER,
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
    password,
    startup,
    status,
    superuser_is,
    token,
    upstream,
)

# --- the verdict -------------------------------------------------------------------------------------------------


def refused(talk: Conversation) -> str:
    assert talk.sqlstate == "28000"
    assert talk.dials == []
    return talk.reason


@pytest.mark.parametrize(
    "rule",
    [
        "deny all all all",
        "allow other alice all",
        "allow shop bob all",
        "allow shop alice 192.0.2.0/24",
        "allow shop alice local",
        "allow Shop alice all",
    ],
)
def test_no_rule_no_dial(rule: str) -> None:
    refused(Conversation(access(rule)).proven())


def test_the_client_does_not_learn_the_rule() -> None:
    talk = Conversation(access("deny shop alice all")).proven()
    assert "rules:1: deny shop alice all" in refused(talk)
    assert b"deny" not in talk.sent(Side.CLIENT)


def test_what_the_policy_is_asked() -> None:
    asked: list[Request] = []

    class Asked:
        def decide(self, identity: Any, request: Request) -> Deny:
            asked.append(request)
            return Deny("asked")

    Conversation(access(policy=Asked())).proven()
    assert asked == [Request("front", "shop", "alice", "alice", CLIENT.host)]


def test_a_rule_can_name_the_role() -> None:
    talk = Conversation(access("allow shop alice all role=reader")).dialed()
    assert login_sent(talk)[b"user"] == b"reader"
    assert (talk.session.facts.user, talk.session.facts.role) == ("alice", "reader")
    assert talk.session.facts.rule == "rules:1: allow shop alice all role=reader"


def test_a_claim_can_name_the_role() -> None:
    talk = Conversation(access(role_claim="role")).dialed(jwt=token(role="n" * 63))
    assert login_sent(talk)[b"user"] == b"n" * 63


@pytest.mark.parametrize("role", [None, "", "n" * 64, "ä" * 32, "admin\0", 7, True, ["admin"], {"name": "admin"}])
def test_claims_that_name_no_role(role: Any) -> None:
    claims = {} if role is None else {"role": role}
    talk = Conversation(access(role_claim="role")).proven(jwt=token(**claims))
    assert talk.sqlstate == "28P01"
    assert "'role'" in talk.reason
    assert talk.dials == []


def test_too_many_of_one_subject() -> None:
    asked: list[str] = []

    def admit(subject: str) -> bool:
        asked.append(subject)
        return False

    talk = Conversation(admit=admit).proven()
    assert talk.sqlstate == "53300"
    assert talk.dials == []
    assert asked == ["alice"]


def test_only_those_who_were_let_in_are_counted() -> None:
    counted: list[str] = []

    def admit(subject: str) -> bool:
        counted.append(subject)
        return True

    Conversation(access("deny all all all"), admit=admit).proven()
    Conversation(admit=admit).proven(jwt=token("bob"))
    assert counted == []
    Conversation(access(upstream=upstream(addresses=(Address("a", 1), Address("b", 1)))), admit=admit).open()
    assert counted == ["alice"]


def test_over_the_limit_is_told_inside_tls_before_any_password() -> None:
    talk = Conversation(over_limit=True).asked()
    assert talk.sqlstate == "53300"
    assert talk.sent(Side.CLIENT)[:2] == b"SE"
    assert talk.client(password(token())) == []


# --- replication -------------------------------------------------------------------------------------------------

NO_REPLICATION = [b"", b"0", b"f", b"false", b"FALSE", b"n", b"no", b"off", b"Off"]
PHYSICAL = [b"1", b"t", b"true", b"TRUE", b"on", b"yes", b"y", b"tru", b" ", b"2", b"fals", b"\xff"]


@pytest.mark.parametrize("value", [*PHYSICAL, b"database", b"DATABASE"])
def test_replication_is_denied_unless_allowed(value: bytes) -> None:
    start = startup({b"user": b"alice", b"database": b"shop", b"replication": value})
    refused(Conversation().proven(start))


@pytest.mark.parametrize("value", NO_REPLICATION)
def test_no_replication_asked_for(value: bytes) -> None:
    start = startup({b"user": b"alice", b"database": b"shop", b"replication": value})
    assert login_sent(Conversation().dialed(start)) == {b"user": b"alice", b"database": b"shop"}


@pytest.mark.parametrize("value", [b"database", b"true"])
def test_replication_where_a_rule_allows_it(value: bytes) -> None:
    start = {b"user": b"alice", b"database": b"shop", b"replication": value}
    talk = Conversation(access("allow all alice all replication=yes")).dialed(startup(start))
    assert login_sent(talk) == start


@pytest.mark.parametrize("value", [*PHYSICAL, b"database", b"DATABASE"])
def test_replication_is_of_every_database(value: bytes) -> None:
    """To be let into one database is not to read all of them; a base backup does, whatever was named."""
    start = startup({b"user": b"alice", b"database": b"shop", b"replication": value})
    refused(Conversation(access("allow shop alice all replication=yes")).proven(start))
    refused(Conversation(access("deny other alice all", "allow all alice all replication=yes")).proven(start))
    assert Conversation(access("allow all alice all replication=yes")).proven(start).dials


@pytest.mark.parametrize(("value", "database"), [(b"true", ""), (b"database", ""), (b"off", "shop")])
def test_what_the_policy_is_asked_about_replication(value: bytes, database: str) -> None:
    asked: list[Request] = []

    class Asked:
        def decide(self, identity: Any, request: Request) -> Deny:
            asked.append(request)
            return Deny("asked")

    start = startup({b"user": b"alice", b"database": b"shop", b"replication": value})
    talk = Conversation(access(policy=Asked())).proven(start)
    assert asked == [Request("front", database, "alice", "alice", CLIENT.host, replication=not database)]
    assert talk.session.facts.database == "shop"


# --- superusers --------------------------------------------------------------------------------------------------

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
    refused(Conversation().proven(start))
    assert Conversation(access("allow all all all superuser=yes")).proven(start).dials


ROLES = [{b"role": b"reader"}, {b"options": b"-c role=reader"}, {b"options": b"--role=reader"}]


@pytest.mark.parametrize("chosen", [*ROLES, {b"options": b"-c app.role=x", b"app.session_authorization": b"y"}])
def test_a_role_set_at_startup_hides_nobody(chosen: dict[bytes, bytes]) -> None:
    start = {b"user": b"alice", b"database": b"shop"} | chosen
    assert login_sent(Conversation().dialed(startup(start))) == start
    assert answered(access(), NOT_SUPERUSER, chosen).spliced
    not_let_in(answered(access(), IS_SUPERUSER, chosen))


def test_a_reload_reaches_who_waits_at_the_prompt() -> None:
    talk = Conversation(access("allow all all all")).asked()
    talk.access = access("deny shop alice all", "allow all all all")
    talk.client(password(token()))
    assert "deny shop alice all" in refused(talk)
    talk = Conversation(access("deny all all all")).asked()
    talk.access = access("allow all all all role=reader")
    talk.client(password(token()))
    assert talk.session.facts.role == "reader"
    assert talk.dials
