"""The verdict on a proven client: rules, roles, limits, replication, superusers and the tricks around them."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.policy import Deny, Request
from gateway.session.vocabulary import Side
from gateway.upstream import Address
from tests.fakes import (
    CLIENT,
    Conversation,
    access,
    login_sent,
    password,
    startup,
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
    talk = Conversation().asked()
    talk.access = access(listener="other", policy=Asked())
    talk.client(password(token()))
    assert asked == [Request("front", "shop", "alice", "alice", CLIENT.host)] * 2


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


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (b"database", b"database"),
        (b"true", b"true"),
        (b"ON", b"true"),
        # PostgreSQL takes the beginning of a boolean for it; an ordinary session would escape the superuser question.
        (b"fals", b"true"),
        (b"fa", b"true"),
        (b"of", b"true"),
    ],
)
def test_replication_where_a_rule_allows_it(value: bytes, sent: bytes) -> None:
    start = {b"user": b"alice", b"database": b"shop", b"replication": value}
    talk = Conversation(access("allow all alice all replication=yes")).dialed(startup(start))
    assert login_sent(talk) == start | {b"replication": sent}


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
