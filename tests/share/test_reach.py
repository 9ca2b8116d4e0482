"""Which rules let the partner do more, or somebody else in: found by the text of the rules alone."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity import Identity
from gateway.policy import Allow, Policy, Request, Rule, parse_rule
from gateway.settings import PostgresListener
from gateway.share import lines
from gateway.share.reach import MAX_ASKED, Reach
from gateway.share.share import Share, Table
from gateway.share.tried import Tried, Verdict
from gateway.upstream import Address, ServerTLS

SHARE = Share.of("orders", "shop", "acme", ["203.0.113.0/24", "2001:db8::/64"], Table("public", "orders"))
RULE = "allow shop acme 203.0.113.0/24,2001:db8::/64 role=orders"


def reach(*rules: str, role_claim: str | None = None) -> Reach:
    listener = PostgresListener(
        name="main",
        listen=(Address("127.0.0.1", 6432),),
        tls=ServerTLS(Path("server.crt"), Path("server.key")),
        upstream="main",
        jwt="main",
        rules=tuple(parse_rule(rule, f"line {number}") for number, rule in enumerate(rules, 1)),
        role_claim=role_claim,
    )
    return Reach(SHARE, listener, ("postgres", "shop", "other"))


def loosened(*rules: str, role_claim: str | None = None) -> list[str]:
    found = reach(*rules, role_claim=role_claim).rows(entered=True)
    return [row.what for row in found if row.verdict is Verdict.LOOSENED]


def test_the_rule_that_is_printed_is_as_tight_as_can_be() -> None:
    assert lines.rule(SHARE) == RULE
    assert {row.verdict for row in reach(RULE).rows(entered=True)} == {Verdict.OK}


@pytest.mark.parametrize(
    "rules",
    [
        ["deny all acme all", RULE],
        [],
        ["deny shop acme 203.0.113.64/26", RULE],
        ["allow shop acme 203.0.113.0/24 role=orders"],
    ],
)
def test_a_partner_who_does_not_get_in_is_told(rules: list[str]) -> None:
    assert Verdict.UNPROVEN in {row.verdict for row in reach(*rules).rows(entered=True)}
    assert not loosened(*rules)


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (["allow shop acme all role=orders"], "from 0.0.0.0"),
        (["allow shop acme 203.0.112.0/23,2001:db8::/64 role=orders"], "from 203.0.112.0"),
        ([RULE, "allow shop acme 198.51.100.7 role=orders"], "from 198.51.100.7"),
        ([RULE, "allow shop acme local role=orders"], "Unix socket"),
        ([RULE, "deny all acme 0.0.0.0/1,203.0.112.0/20", "allow shop acme 0.0.0.0/0"], "from 128.0.0.0"),
        ([RULE, "allow all acme 10.0.0.0/8 role=orders replication=yes"], "from 10.0.0.0"),
        ([RULE, "allow all acme 10.0.0.0/8"], "from 10.0.0.0"),
        ([RULE, "allow sameuser acme 203.0.113.9"], "into acme"),
        (["allow all acme 203.0.113.0/24,2001:db8::/64 role=orders"], "into any other"),
        (["allow shop,other acme 203.0.113.0/24,2001:db8::/64 role=orders"], "into other"),
        ([RULE, "allow all all 203.0.113.128/25"], "into postgres"),
        (["allow shop acme 203.0.113.0/24,2001:db8::/64 role=dba", RULE], "acme from 203.0.113.0"),
        (["allow shop acme 203.0.113.0/24,2001:db8::/64", RULE], "acme from 203.0.113.0"),
        ([f"{RULE} superuser=yes"], "acme from 203.0.113.0"),
        (["allow all acme 203.0.113.0/24 role=orders replication=yes", RULE], "replication"),
        ([RULE, "allow shop bob 192.0.2.0/24 role=orders"], "bob from 192.0.2.0 as orders"),
        (["allow shop all 203.0.113.0/24,2001:db8::/64 role=orders"], "any other from 203.0.113.0 as orders"),
        # Whose subject happens to be the share's name.
        ([RULE, "deny all acme all", "allow all all all"], "orders from 0.0.0.0 as orders"),
        ([RULE, "deny all acme all", "allow shop all 192.0.2.0/24"], "orders from 192.0.2.0 as orders"),
        ([RULE, "allow shop orders local"], "orders from a Unix socket as orders"),
    ],
)
def test_a_rule_that_is_too_wide_is_found(rules: list[str], named: str) -> None:
    assert any(named in one for one in loosened(*rules)), loosened(*rules)


def test_another_listener_need_not_let_the_partner_in() -> None:
    assert {row.verdict for row in reach("allow shop bob all").rows(entered=False)} == {Verdict.OK}
    wide = reach("allow shop acme 203.0.113.0/24 role=dba").rows(entered=False)
    assert Verdict.LOOSENED in {row.verdict for row in wide}


def test_what_comes_before_a_wide_rule_counts() -> None:
    assert not loosened(RULE, "deny all acme,orders all", "allow all all all")


def test_a_role_that_a_token_names_is_not_the_rules_word() -> None:
    rows = reach("allow shop acme 203.0.113.0/24,2001:db8::/64", role_claim="role").rows(entered=True)
    assert Verdict.LOOSENED in {row.verdict for row in rows}


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ("allow all all all", "any other from 0.0.0.0 as orders"),
        ("allow shop bob 192.0.2.0/24", "bob from 192.0.2.0 as orders"),
        ("allow all bob local", "bob from a Unix socket as orders"),
    ],
)
def test_nor_is_it_that_of_others(rule: str, named: str) -> None:
    """Where a claim is the role, whoever the issuer writes the share's name for comes in as it."""
    assert named in "\n".join(loosened(RULE, "deny all acme all", rule, role_claim="role"))
    assert not loosened(RULE, "deny all acme all", f"{rule} role=staff", role_claim="role")


networks = st.builds(
    lambda first, bits: ip_network((first >> (32 - bits) << (32 - bits), bits)),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 8, 22, 23, 24, 25, 26, 32]),
)
near = st.integers(int(ip_address("203.0.112.0")), int(ip_address("203.0.115.255"))).map(
    lambda one: str(ip_address(one))
)


@given(st.lists(st.tuples(st.booleans(), networks), max_size=5), st.lists(near, min_size=1, max_size=50))
def test_no_address_is_let_in_that_is_not_found(rules: list[tuple[bool, object]], addresses: list[str]) -> None:
    """Whatever the rules, and whoever is asked for: if any address outside gets in, the proof says that one does."""
    texts = [f"allow shop acme {one} role=orders" if allow else f"deny shop acme {one}" for allow, one in rules]
    policy = Policy(tuple(parse_rule(text, "here") for text in (*texts, RULE)))
    outside = [one for one in addresses if not any(ip_address(one) in ip_network(net) for net in SHARE.networks)]
    asked = [
        policy.decide(Identity("jwt", "acme", inf), Request("main", "shop", "acme", "acme", one)) for one in outside
    ]
    if any(isinstance(verdict, Allow) for verdict in asked):
        assert loosened(*texts, RULE)


def test_neighbours_are_outside_and_next_to_it() -> None:
    assert reach(RULE).neighbours() == [
        "203.0.112.255",
        "203.0.114.0",
        "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001:db8:0:1::",
    ]
    whole = Share.of("x", "shop", "acme", ["0.0.0.0/0"], Table("public", "t"))
    assert Reach(whole, reach(RULE).listener, ()).neighbours() == []


# --- many rules -------------------------------------------------------------------------------------------------------


def counted(monkeypatch: pytest.MonkeyPatch, *rules: str) -> tuple[int, list[Tried]]:
    """How often a rule was asked about something, and the rows."""
    asked = 0
    match = Rule.match

    def counting(self: Rule, *about: Any) -> bool:
        nonlocal asked
        asked += 1
        return match(self, *about)

    monkeypatch.setattr(Rule, "match", counting)
    rows = list(reach(RULE, *rules).rows(entered=True))
    return asked, rows


@pytest.mark.parametrize(
    "rule",
    ["allow db{0} s{0} 10.0.{0}.0/24", "allow db{0} s{0} 10.0.{0}.0/24 role=r{0}", "deny db{0} s{0} 10.0.{0}.0/24"],
)
def test_what_is_about_somebody_else_is_hardly_asked(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    asked, rows = counted(monkeypatch, *(rule.format(number) for number in range(200)))
    assert {row.verdict for row in rows} == {Verdict.OK}
    assert asked < 10_000


def test_a_rule_of_each_network_is_asked_about_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, rows = counted(monkeypatch, *(f"allow db{number} acme 10.0.{number}.0/24" for number in range(200)))
    assert sum(row.verdict is Verdict.LOOSENED for row in rows) == 200
    assert Verdict.UNPROVEN not in {row.verdict for row in rows}
    assert asked < 100_000


def test_a_rule_for_everybody_is_asked_about_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [f"allow db{number} s{number} 10.0.{number}.0/24" for number in range(200)]
    asked, rows = counted(monkeypatch, "deny all acme,orders all", *others, "allow all all all")
    assert {row.verdict for row in rows} == {Verdict.OK}
    assert asked < 500_000


def test_too_much_to_ask_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody would have to be asked about, from everywhere, into everything."""
    wide = [f"allow db{number} all 10.0.{number}.0/24,0.0.0.0/1 role=orders" for number in range(200)]
    asked, rows = counted(monkeypatch, *(f"deny all s{number} all" for number in range(200)), *wide)
    assert rows[-1].verdict is Verdict.UNPROVEN
    assert "too many rules" in rows[-1].got
    assert asked < MAX_ASKED
