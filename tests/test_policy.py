"""Rules: the grammar of a line, and what it opens and must not."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.identity import Identity
from gateway.policy import Allow, Decision, Deny, Policy, Request, parse_rule
from gateway.rules import Names


def decide(
    *lines: str,
    subject: str = "alice",
    database: str = "readings",
    address: str = "192.0.2.1",
    role: str = "reader",
    replication: bool = False,
) -> Decision:
    rules = tuple(parse_rule(line, f"line {number}") for number, line in enumerate(lines, 1))
    request = Request("main", database, subject, role, address, replication)
    return Policy(rules).decide(Identity("jwt", subject, expires=2e9), request)


def allowed(*lines: str, subject: str = "alice", database: str = "readings", address: str = "192.0.2.1") -> bool:
    return isinstance(decide(*lines, subject=subject, database=database, address=address), Allow)


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


# --- the decision -----------------------------------------------------------------------------------------------------


def test_no_rules_deny_everyone() -> None:
    assert decide() == Deny("no rule matches")


def test_a_rule_lets_in_with_the_mapped_role_and_no_superuser() -> None:
    assert decide("allow readings alice 192.0.2.0/24") == Allow(
        role="reader", superuser=False, rule="line 1: allow readings alice 192.0.2.0/24"
    )


def test_the_first_match_decides() -> None:
    assert decide("deny all alice all", "allow all all all") == Deny("line 1: deny all alice all")
    assert allowed("allow all alice all", "deny all all all")
    assert allowed("deny all bob all", "allow all all all")


def test_options_reach_the_decision() -> None:
    verdict = decide("allow all all all role=app superuser=yes")
    assert isinstance(verdict, Allow)
    assert (verdict.role, verdict.superuser) == ("app", True)


@pytest.mark.parametrize(
    "database", ["reading", "readings2", "Readings", "READINGS", "readings ", " readings", "all", ""]
)
def test_only_the_exact_database(database: str) -> None:
    assert not allowed("allow readings all all", database=database)


@pytest.mark.parametrize("subject", ["alic", "alice2", "Alice", "alice ", "alice,bob", "alice\0", "all"])
def test_only_the_exact_subject(subject: str) -> None:
    assert not allowed("allow all alice,bob all", subject=subject)


def test_sameuser_is_the_database_of_the_users_own_name() -> None:
    assert allowed("allow sameuser all all", database="alice", subject="alice")
    assert not allowed("allow sameuser all all", database="bob", subject="alice")
    assert not allowed("allow sameuser all all", database="sameuser", subject="alice")


def test_a_quoted_keyword_is_a_name() -> None:
    assert not allowed('allow "all" all all')
    assert allowed('allow "all" all all', database="all")
    assert not allowed('allow all "all" all')
    assert not allowed('allow "sameuser" all all', database="alice")


@pytest.mark.parametrize(
    ("network", "address", "inside"),
    [
        ("192.0.2.0/24", "192.0.2.255", True),
        ("192.0.2.0/24", "192.0.3.0", False),
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.10", False),
        ("2001:db8::/32", "2001:db8::1", True),
        ("2001:db8::1", "2001:db8::2", False),
        ("192.0.2.0/24", "::ffff:192.0.2.7", True),
        ("::/0", "::ffff:192.0.2.7", False),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("10.0.0.0/8, 192.0.2.0/24", "192.0.2.1", True),
        ("fe80::/10", "fe80::1%eth0", True),
        ("all", "192.0.2.1", True),
        ("all", "", True),
        ("local", "", True),
        ("local", "127.0.0.1", False),
        ("127.0.0.0/8", "", False),
    ],
)
def test_networks(network: str, address: str, inside: bool) -> None:
    assert allowed(f"allow all all {network}", address=address) is inside


def test_an_address_that_is_none_is_denied_whatever_the_rules_say() -> None:
    verdict = decide("allow all all all", address="localhost")
    assert isinstance(verdict, Deny)
    assert "'localhost'" in verdict.reason


# --- replication ------------------------------------------------------------------------------------------------------


def test_replication_needs_a_rule_that_says_so() -> None:
    assert isinstance(decide("allow all all all superuser=yes", replication=True), Deny)
    assert isinstance(decide("allow all all all replication=yes", replication=True), Allow)
    assert isinstance(decide("allow all all all replication=yes"), Allow)


def test_physical_replication_is_of_all_databases() -> None:
    assert isinstance(decide("allow readings all all replication=yes", replication=True, database=""), Deny)
    assert isinstance(decide("allow sameuser all all replication=yes", replication=True, database=""), Deny)
    assert isinstance(decide("allow readings all all replication=yes", replication=True), Allow)


def test_a_deny_rule_also_stops_replication() -> None:
    rules = ("deny secrets alice all", "allow all all all replication=yes")
    assert isinstance(decide(*rules, replication=True, database="secrets"), Deny)
    assert isinstance(decide(*rules, replication=True, database=""), Deny)
    assert isinstance(decide(*rules, replication=True, database="readings"), Allow)


# --- the grammar ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "a rule is: allow|deny DATABASE"),
        ("# nothing", "a rule is: allow|deny DATABASE"),
        ("allow all all", "a rule is: allow|deny DATABASE"),
        ("allow all all # all", "a rule is: allow|deny DATABASE"),
        ("allow all all role=x", "a rule is: allow|deny DATABASE"),
        ("permit all all all", "begins with allow or deny"),
        ("ALLOW all all all", "begins with allow or deny"),
        ('"allow" all all all', "begins with allow or deny"),
        ("allow,deny all all all", "begins with allow or deny"),
        ("allow a,,b all all", "cannot read the rule from here on: a,,b"),
        ("allow a, all all", "a rule is: allow|deny DATABASE"),
        ("allow a ,b all all", "cannot read the rule from here on: ,b"),
        ('allow "a all all', 'cannot read the rule from here on: "a'),
        ('allow a"b" all all', 'cannot read the rule from here on: a"b"'),
        ('allow "" all all', 'cannot read the rule from here on: ""'),
        ("allow samerole all all", "samerole is not supported"),
        ("allow replication all all", "replication is not supported"),
        ("allow all sameuser all", "sameuser is not supported"),
        ("allow all +admins all", "+admins is not supported"),
        ("allow all /^a all", "/^a is not supported"),
        ("allow @file all all", "@file is not supported"),
        ("allow all all 192.0.2.1/24", "has host bits set"),
        ("allow all all 192.0.2.0/33", "192.0.2.0/33"),
        ("allow all all 192.0.2.0/255.255.255.0", "is not an address or a CIDR"),
        ("allow all all 192.0.2.0/024", "is not an address or a CIDR"),
        ("allow all all 192.0.2", "192.0.2"),
        ("allow all all fe80::1%eth0", "is not an address or a CIDR"),
        ("allow all all ::ffff:192.0.2.0/120", "write an IPv4 client as IPv4"),
        ("allow all all example.com", "is not an address or a CIDR"),
        ('allow all all "all"', "is not an address or a CIDR"),
        ("allow all all samenet", "is not an address or a CIDR"),
        ("allow all all all all", "an option is one of"),
        ("allow all all all login=x", "an option is one of"),
        ("allow all all all role=", "cannot read the rule from here on: role="),
        ("allow all all all role=a,b", "role takes one name"),
        (f"allow all all all role={'r' * 64}", f"the role {'r' * 64} is longer than the 63 bytes"),
        (f"allow all all all role={'ü' * 32}", "is longer than the 63 bytes"),
        ("allow all all all superuser=no", "superuser takes only yes"),
        ("allow all all all superuser=yes superuser=yes", "superuser is given twice"),
        ("deny all all all role=x", "a deny rule has no options"),
        ("deny all all all superuser=yes", "a deny rule has no options"),
    ],
)
def test_what_is_not_a_rule_is_refused_and_said(line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_rule(line, "here")


def test_a_rule_keeps_its_line_and_place() -> None:
    rule = parse_rule("  allow a, b all all  role=x # why ", "[postgres:main] rules, line 2")
    assert rule.text == "allow a, b all all  role=x # why"
    assert rule.source == "[postgres:main] rules, line 2"
    assert rule.databases.exact == {"a", "b"}


def test_a_role_may_be_as_long_as_postgresql_allows() -> None:
    assert parse_rule(f"allow all all all role={'r' * 63}", "here").role == "r" * 63


def test_a_mark_inside_quotes_has_no_meaning() -> None:
    rule = parse_rule('allow "a#b","c,d","e f","role=x","+g" all 192.0.2.0/24#end', "here")
    assert rule.databases.exact == {"a#b", "c,d", "e f", "role=x", "+g"}
    assert rule.networks.exact == (ip_network("192.0.2.0/24"),)


@given(st.lists(names, min_size=1, max_size=4), names, names)
def test_quoting_carries_every_name(databases: list[str], subject: str, role: str) -> None:
    listed = ",".join(map(quote, databases))
    rule = parse_rule(f"allow {listed} {quote(subject)} all role={quote(role)}", "here")
    assert rule.databases == Names(frozenset(databases), frozenset())
    assert rule.subjects == Names(frozenset({subject}), frozenset())
    assert rule.role == role


@given(names, names)
def test_no_name_opens_another(ruled: str, asked: str) -> None:
    assume(ruled != asked)
    assert not allowed(f"allow {quote(ruled)} all all", database=asked)
    assert not allowed(f"allow all {quote(ruled)} all", subject=asked)


@given(names, st.integers(0, 11), st.sampled_from([str.upper, str.lower, str.swapcase, str.casefold, str.strip]))
def test_neither_prefix_nor_case_opens(ruled: str, cut: int, change: Callable[[str], str]) -> None:
    for asked in {ruled[:cut], ruled + "x", change(ruled)} - {ruled}:
        assert not allowed(f"allow {quote(ruled)} all all", database=asked)
        assert not allowed(f"allow all {quote(ruled)} all", subject=asked)


near_misses = st.lists(
    st.sampled_from(["allow", "deny", "all", ",", '"', " ", "#", "=", "role=", "1.2.3.4", "/8", "\n"])
)


@given(st.one_of(st.text(max_size=60), near_misses.map("".join), near_misses.map(" ".join)))
def test_any_line_is_a_rule_or_a_value_error(line: str) -> None:
    try:
        rule = parse_rule(line, "here")
    except ValueError:
        return
    assert line.split(maxsplit=1)[0] == ("allow" if rule.allow else "deny")
