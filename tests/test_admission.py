"""Rules about certificate identities: the grammar of a line, and whom it admits and must not."""

from __future__ import annotations

import re
from collections.abc import Callable
from time import perf_counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.admission import Admission, AdmissionRule, Verdict, parse_admission_rule
from gateway.identity import Identity

ROOT, INTERMEDIATE, OTHER = b"\1" * 32, b"\2" * 32, b"\3" * 32
FILES = {"ca.crt": frozenset({ROOT, OTHER}), "other ca.crt": frozenset({OTHER}), "empty.crt": frozenset[bytes]()}


def authorities(path: str) -> frozenset[bytes]:
    if path not in FILES:
        raise FileNotFoundError(2, "No such file or directory", path)
    return FILES[path]


def parse(line: str, source: str = "here") -> AdmissionRule:
    return parse_admission_rule(line, source, authorities)


def certificate(subject: str, issuers: tuple[bytes, ...] = (INTERMEDIATE, ROOT)) -> Identity:
    return Identity("certificate", subject, expires=2e9, issuers=issuers)


def decide(*lines: str, identity: Identity | None, address: str = "192.0.2.1", method: str = "GET") -> Verdict:
    rules = tuple(parse(line, f"line {number}") for number, line in enumerate(lines, 1))
    return Admission(rules).decide(identity, address, method)


def admitted(*lines: str, subject: str = "sensor-1", address: str = "192.0.2.1", method: str = "GET") -> bool:
    return decide(*lines, identity=certificate(subject), address=address, method=method).allowed


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


# --- the decision -----------------------------------------------------------------------------------------------------


def test_no_rules_admit_nobody() -> None:
    assert decide(identity=certificate("sensor-1")) == Verdict(False, "no rule matches")
    assert decide(identity=None) == Verdict(False, "no rule matches")


def test_the_first_match_decides_and_is_told() -> None:
    lines = ("deny sensor-1 all", "allow all all # why")
    assert decide(*lines, identity=certificate("sensor-1")) == Verdict(False, "line 1: deny sensor-1 all")
    assert decide(*lines, identity=certificate("sensor-2")) == Verdict(True, "line 2: allow all all # why")
    assert admitted("allow sensor-1 all", "deny all all")


@pytest.mark.parametrize("subject", ["sensor", "sensor-12", "Sensor-1", "sensor-1 ", "sensor-1,b", "sensor-1\0", "all"])
def test_only_the_exact_identity(subject: str) -> None:
    assert not admitted("allow sensor-1, b all", subject=subject)


def test_a_key_is_named_by_its_digest() -> None:
    assert admitted("allow key:0123456789abcdef all", subject="key:0123456789abcdef")


def test_a_uri_is_a_name() -> None:
    assert admitted("allow spiffe://example.org/sensor/* all", subject="spiffe://example.org/sensor/1")


@pytest.mark.parametrize(
    ("line", "anonymous", "known"),
    [
        ("allow all all", True, True),
        ("allow anonymous all", True, False),
        ("allow * all", False, True),
        ("allow sensor-1,anonymous all", True, True),
        ('allow "anonymous" all', False, False),
        ('allow "all" all', False, False),
        ("allow sensor-1 all", False, True),
        ("allow all all ca=ca.crt", False, True),
        ("allow anonymous all ca=ca.crt", False, False),
        ("allow all 198.51.100.0/24", False, False),
    ],
)
def test_who_shows_no_certificate(line: str, anonymous: bool, known: bool) -> None:
    assert decide(line, identity=None).allowed is anonymous
    assert admitted(line) is known


def test_an_identity_may_be_called_like_a_keyword() -> None:
    assert admitted('allow "anonymous" all', subject="anonymous")
    assert not admitted("allow anonymous all", subject="anonymous")


@pytest.mark.parametrize(
    ("pattern", "subject", "matches"),
    [
        ("sensor-*", "sensor-1", True),
        ("sensor-*", "sensor-", True),
        ("sensor-*", "sensor", False),
        ("sensor-*", "Sensor-1", False),
        ("sensor-*", "a sensor-1", False),
        ("sensor-*", "sensor-1\n2", True),
        ("*.example.org", "a.example.org", True),
        ("*.example.org", "a.example.org.evil", False),
        ("*.example.org", "aXexampleXorg", False),
        ("a*b", "ab", True),
        ("a*b", "a", False),
        ("ab*ba", "aba", False),
        ("ab*ba", "abba", True),
        ("a*b*c", "a-c-b", False),
        ("a*b*c", "abc", True),
        ("a*b*c", "abcbc", True),
        ("a*bc*cd", "abcd", False),
        ("*a*a*", "a", False),
        ("*a*b*", "ba", False),
        ("a**b", "ab", True),
        ("*", "", True),
        ("*", "a*b", True),
        ("s?nsor-*", "sensor-1", False),
        ("[a-z]*", "sensor-1", False),
        ("[a-z]*", "[a-z]1", True),
        (".*", "sensor-1", False),
        ('"sensor-*"', "sensor-1", False),
        ('"sensor-*"', "sensor-*", True),
        ("a,sensor-*,b", "b", True),
    ],
)
def test_patterns(pattern: str, subject: str, matches: bool) -> None:
    assert admitted(f"allow {pattern} all", subject=subject) is matches


@given(st.text("ab*", min_size=1, max_size=8), st.text("ab*", max_size=10))
def test_a_pattern_is_the_regular_expression_that_it_looks_like(pattern: str, subject: str) -> None:
    expected = re.fullmatch(pattern.replace("*", ".*"), subject) is not None
    assert admitted(f"allow {pattern} all", subject=subject) is expected


def test_no_name_makes_a_pattern_slow() -> None:
    rule = parse("allow " + "a*" * 30 + "b all")
    before = perf_counter()
    assert not rule.match(certificate("a" * 2000), None, "GET")
    assert perf_counter() - before < 1


@pytest.mark.parametrize(
    ("network", "address", "inside"),
    [
        ("192.0.2.0/24", "192.0.2.255", True),
        ("192.0.2.0/24", "192.0.3.0", False),
        ("192.0.2.0/24", "::ffff:192.0.2.7", True),
        ("::/0", "::ffff:192.0.2.7", False),
        ("10.0.0.0/8, 2001:db8::1", "2001:db8::1", True),
        ("local", "", True),
        ("local", "127.0.0.1", False),
        ("127.0.0.0/8", "", False),
        ("all", "", True),
    ],
)
def test_networks(network: str, address: str, inside: bool) -> None:
    assert admitted(f"allow all {network}", address=address) is inside


def test_an_address_that_is_none_is_denied_whatever_the_rules_say() -> None:
    verdict = decide("allow all all", identity=None, address="localhost")
    assert verdict == Verdict(False, "the client address 'localhost' is not an IP address")


@pytest.mark.parametrize(
    ("option", "method", "matches"),
    [
        ("method=GET", "GET", True),
        ("method=GET", "HEAD", False),
        ("method=GET", "POST", False),
        ("method=GET", "get", False),
        ("method=GET", "", False),
        ("method=GET,HEAD", "HEAD", True),
        ("method=GET, HEAD", "HEAD", True),
        ("method=M-SEARCH", "M-SEARCH", True),
        ("", "", True),
        ("", "POST", True),
    ],
)
def test_methods(option: str, method: str, matches: bool) -> None:
    assert admitted(f"allow all all {option}", method=method) is matches
    assert admitted(f"deny all all {option}", "allow all all", method=method) is not matches


@pytest.mark.parametrize(
    ("path", "issuers", "matches"),
    [
        ("ca.crt", (INTERMEDIATE, ROOT), True),
        ("ca.crt", (OTHER,), True),
        ("ca.crt", (INTERMEDIATE,), False),
        ("ca.crt", (), False),
        ("ca.crt", (ROOT[:-1],), False),
        ('"other ca.crt"', (INTERMEDIATE, ROOT), False),
        ('"other ca.crt"', (INTERMEDIATE, OTHER), True),
    ],
)
def test_authorities(path: str, issuers: tuple[bytes, ...], matches: bool) -> None:
    identity = certificate("sensor-1", issuers)
    assert decide(f"allow sensor-1 all ca={path}", identity=identity).allowed is matches
    assert decide(f"deny all all ca={path}", "allow all all", identity=identity).allowed is not matches


def test_every_part_of_a_rule_has_to_match() -> None:
    line = "allow sensor-* 192.0.2.0/24 method=POST ca=ca.crt"
    assert admitted(line, method="POST")
    assert not admitted(line, method="POST", subject="x")
    assert not admitted(line, method="POST", address="192.0.3.1")
    assert not admitted(line, method="GET")
    assert not decide(line, identity=certificate("sensor-1", ()), method="POST").allowed


# --- the grammar ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "a rule is: allow|deny IDENTITY"),
        ("# nothing", "a rule is: allow|deny IDENTITY"),
        ("allow all", "a rule is: allow|deny IDENTITY"),
        ("allow all method=GET", "a rule is: allow|deny IDENTITY"),
        ("allow all # all", "a rule is: allow|deny IDENTITY"),
        ("permit all all", "begins with allow or deny"),
        ("Allow all all", "begins with allow or deny"),
        ('"allow" all all', "begins with allow or deny"),
        ("allow all all all", "an option is one of method=GET,HEAD, ca=PATH"),
        ("allow all all role=x", "an option is one of"),
        ("allow all all method=", "cannot read the rule from here on: method="),
        ("allow all all method=get", "get is not a method"),
        ("allow all all method=GET,all", "all is not a method"),
        ("allow all all method=*", "* is not a method"),
        ('allow all all method="GET "', "GET  is not a method"),
        ("allow all all method=GÉT", "GÉT is not a method"),
        ("allow all all method=GET method=PUT", "method is given twice"),
        ("allow all all ca=ca.crt,ca.crt", "ca takes one path"),
        ("allow all all ca=ca.crt ca=ca.crt", "ca is given twice"),
        ("deny all all ca=empty.crt", "empty.crt holds no certificate"),
        ("allow +sensors all", "+sensors is not supported"),
        ("allow /^sensor-* all", "/^sensor-* is not supported"),
        ("allow @file all", "@file is not supported"),
        ("allow sameuser all", "sameuser is not supported"),
        ('allow "" all', 'cannot read the rule from here on: ""'),
        ("allow all 192.0.2.1/24", "has host bits set"),
        ("allow all example.com", "is not an address or a CIDR"),
        ("allow all anonymous", "is not an address or a CIDR"),
    ],
)
def test_what_is_not_a_rule_is_refused_and_said(line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse(line)


def test_a_file_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        parse("deny all all ca=missing.crt")


def test_a_rule_keeps_its_line_and_place() -> None:
    rule = parse("  allow a, b all  ca=ca.crt # why ", "[route:main] rules, line 2")
    assert (rule.text, rule.source) == ("allow a, b all  ca=ca.crt # why", "[route:main] rules, line 2")


@given(names, names)
def test_no_quoted_name_admits_another(ruled: str, asked: str) -> None:
    assert admitted(f"allow {quote(ruled)} all", subject=ruled)
    assume(ruled != asked)
    assert not admitted(f"allow {quote(ruled)} all", subject=asked)


@given(names, st.sampled_from([str.upper, str.lower, str.swapcase, str.casefold, str.strip]))
def test_neither_case_nor_space_is_folded(ruled: str, change: Callable[[str], str]) -> None:
    assume(change(ruled) != ruled)
    assert not admitted(f"allow {quote(ruled)} all", subject=change(ruled))


near_misses = st.lists(
    st.sampled_from(
        ["allow", "deny", "all", ",", '"', "*", "#", "=", "method=", "ca=", "GET", "ca.crt", "1.2.3.4", "\n"]
    )
)


@given(st.one_of(st.text(max_size=60), near_misses.map("".join), near_misses.map(" ".join)))
def test_any_line_is_a_rule_or_an_error(line: str) -> None:
    try:
        rule = parse(line)
    except (ValueError, OSError):
        return
    assert line.split(maxsplit=1)[0] == ("allow" if rule.allow else "deny")
