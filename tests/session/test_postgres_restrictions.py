"""A token that says where it may be used: the session holds its client to that, whatever the rules allow."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.session.vocabulary import Side
from gateway.upstream import Address
from tests.fakes import ALICE, Conversation, access, password, startup, token

REPLICATION = startup({b"user": b"alice", b"database": b"shop", b"replication": b"database"})
PHYSICAL = startup({b"user": b"alice", b"replication": b"true"})


def restricted(**claim: Any) -> bytes:
    return token(securegw=claim)


def refused(talk: Conversation, why: str, sqlstate: str = "28000") -> None:
    assert talk.sqlstate == sqlstate
    assert why in talk.reason
    assert talk.dials == []
    assert b"token" not in talk.sent(Side.CLIENT)


def coming_from(address: str, jwt: bytes, start: bytes = ALICE, rule: str = "allow all all all") -> Conversation:
    return Conversation(access(rule), client=Address(address, 1234 if address else 0)).proven(start, jwt)


@pytest.mark.parametrize("db", [["other"], ["Shop"], ["shop "], ["sho"], ["all"], ["sameuser"], ["*"]])
def test_another_database(db: list[str]) -> None:
    refused(Conversation().proven(jwt=restricted(db=db)), "denied: the token is not for this database")


def test_names_of_databases_have_one_spelling() -> None:
    """PostgreSQL takes that of a start-up packet as it is."""
    start = startup({b"user": b"alice", b"database": b"Shop"})
    refused(Conversation().proven(start, restricted(db=["shop"])), "denied: the token is not for this database")
    assert Conversation().proven(start, restricted(db=["other", "Shop"])).dials


@pytest.mark.parametrize("start", [REPLICATION, PHYSICAL])
def test_a_token_for_databases_does_not_replicate(start: bytes) -> None:
    """It would read the others, too; and an empty name is not one of the list either."""
    rule = "allow all all all replication=yes"
    refused(Conversation(access(rule)).proven(start, restricted(db=["shop"])), "replication can read all of them")
    assert Conversation(access(rule)).proven(start, restricted(cidr=["0.0.0.0/0"])).dials


@pytest.mark.parametrize(
    ("address", "cidr"),
    [
        ("198.51.100.7", ["192.0.2.0/24"]),
        ("198.51.100.7", ["2001:db8::/32", "::/0"]),
        ("2001:db8::7", ["0.0.0.0/0", "2001:db9::/32"]),
        ("", ["0.0.0.0/0", "::/0"]),
    ],
)
def test_another_network(address: str, cidr: list[str]) -> None:
    refused(coming_from(address, restricted(cidr=cidr)), "denied: the token is not for this client address")


@pytest.mark.parametrize(
    ("address", "cidr"),
    [
        ("198.51.100.7", ["192.0.2.0/24", "198.51.100.0/24"]),
        ("198.51.100.7", ["198.51.100.7"]),
        ("::ffff:198.51.100.7", ["198.51.100.0/24"]),
        ("2001:db8::7", ["2001:db8::/32"]),
    ],
)
def test_its_own_network(address: str, cidr: list[str]) -> None:
    assert coming_from(address, restricted(cidr=cidr, db=["shop"])).dials


def test_both_have_to_hold() -> None:
    refused(coming_from("198.51.100.7", restricted(db=["other"], cidr=["198.51.100.0/24"])), "database")
    refused(coming_from("198.51.100.7", restricted(db=["shop"], cidr=["192.0.2.0/24"])), "address")


def test_it_allows_nothing_that_no_rule_does() -> None:
    jwt = restricted(db=["shop"], cidr=["198.51.100.0/24"])
    refused(coming_from("198.51.100.7", jwt, rule="allow other alice all"), "no rule matches")
    refused(coming_from("198.51.100.7", jwt, rule="deny shop alice all"), "rules:1: deny shop alice all")


@pytest.mark.parametrize(
    "claim",
    [
        None,
        [],
        "shop",
        {"db": "shop"},
        {"db": []},
        {"db": [""]},
        {"db": [7]},
        {"db": ["sh\0op"]},
        {"db": ["n" * 64]},
        {"db": None},
        {"db": ["shop"], "schema": ["public"]},
        {"DB": ["shop"]},
        {"cidr": []},
        {"cidr": ["all"]},
        {"cidr": ["local"]},
        {"cidr": ["198.51.100.7/24"]},
        {"cidr": ["198.51.100.0/255.255.255.0"]},
        {"cidr": [{}]},
        {"cidr": ["0.0.0.0/0"] * 101},
    ],
)
def test_what_is_not_understood_is_not_overlooked(claim: Any) -> None:
    refused(coming_from("198.51.100.7", token(securegw=claim)), "authentication failed: the token's", "28P01")


def test_a_claim_without_a_restriction_restricts_nothing() -> None:
    assert Conversation().proven(jwt=restricted()).dials


def test_a_reload_does_not_lift_it() -> None:
    talk = Conversation(access("deny all all all")).asked()
    talk.access = access("allow all all all")
    talk.client(password(restricted(db=["other"])))
    refused(talk, "database")
