"""Lines that never decide: found where they are plain to see, and never said of one that decides anything at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest

from gateway.admission import AdmissionRule, parse_admission_rule
from gateway.identity import Identity
from gateway.inspection.dead_rules import MAX_QUESTIONS, Dead, dead_admission, dead_policy, dead_topics
from gateway.policy import Deny, Policy, Request, Rule, parse_rule
from gateway.rules import client_address
from gateway.topic_rules import Speaker, TopicRule, covers, overlaps, parse_topic_rule
from gateway.wire.mqtt_topics import matches

AUTHORITIES = {"one": frozenset({b"1"}), "both": frozenset({b"1", b"2"})}


def policy(*lines: str) -> list[Rule]:
    return [parse_rule(line, f"line {number}") for number, line in enumerate(lines, 1)]


def admission(*lines: str) -> list[AdmissionRule]:
    return [
        parse_admission_rule(line, f"line {number}", AUTHORITIES.__getitem__) for number, line in enumerate(lines, 1)
    ]


def topics(*lines: str) -> list[TopicRule]:
    return [parse_topic_rule(line, f"line {number}") for number, line in enumerate(lines, 1)]


def numbers(found: Sequence[Dead]) -> list[tuple[int, int | None]]:
    """Of the lines, and of those that are in their way."""

    def number(place: str) -> int:
        return int(place.partition(":")[0].removeprefix("line "))

    return [(number(one.rule), number(one.by) if one.by else None) for one in found]


# --- what is plain to see ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "dead"),
    [
        (["allow all all all", "deny sales mallory all"], [(2, 1)]),
        (["allow sales alice all", "allow sales alice all role=other"], [(2, 1)]),
        (["allow sales all 192.0.2.0/24", "deny sales alice 192.0.2.7"], [(2, 1)]),
        (["deny all all 0.0.0.0/1", "deny all all 128.0.0.0/1", "allow sales alice 192.0.2.7"], [(3, 2)]),
        (["allow all all 0.0.0.0/1", "allow all all 128.0.0.0/1", "allow sales alice 0.0.0.0/0"], [(3, None)]),
        (["allow sales alice all", "allow hr alice all", "deny sales,hr alice all"], [(3, None)]),
        (["allow sales all all", "allow sameuser sales all"], [(2, 1)]),
        (["allow sameuser all all", "allow alice alice all"], [(2, 1)]),
        (["allow sameuser all all", "allow sales alice all"], []),
        (["allow all all local", "allow sales alice all"], []),
        (["deny sales alice all", "allow all alice all replication=yes"], []),
        # The last line keeps mallory from replicating, which the first one does not speak of.
        (["allow all all all", "allow all bob all replication=yes", "deny sales mallory all"], []),
        (["allow all all all replication=yes", "deny sales all all"], [(2, 1)]),
        (["allow all all all", "allow all all all replication=yes"], []),
        (["allow all all 2001:db8::/32", "allow sales alice 2001:db8::7,192.0.2.7"], []),
    ],
)
def test_databases(lines: list[str], dead: list[tuple[int, int | None]]) -> None:
    assert numbers(dead_policy(policy(*lines))) == dead


@pytest.mark.parametrize(
    ("lines", "dead"),
    [
        (["allow all all", "deny mallory all"], [(2, 1)]),
        (["allow a* all", "allow alice all"], [(2, 1)]),
        (["allow a* all", "allow al*ce all"], [(2, 1)]),
        (["allow al*ce all", "allow a* all"], []),
        (["allow * all", "allow all all"], []),  # who shows no certificate
        (["allow all all", "allow anonymous all"], [(2, 1)]),
        (["allow anonymous all", "allow all all"], []),
        (["allow all all method=GET", "allow alice all"], []),
        (["allow all all method=GET,POST", "deny alice all method=POST"], [(2, 1)]),
        (["allow all all ca=one", "allow alice all"], []),
        (["allow all all ca=one", "allow alice all ca=both"], []),
        (["allow all all ca=both", "allow alice all ca=one"], [(2, 1)]),
        (['allow "a*" all', "allow a* all"], []),
    ],
)
def test_certificates(lines: list[str], dead: list[tuple[int, int | None]]) -> None:
    assert numbers(dead_admission(admission(*lines))) == dead


@pytest.mark.parametrize(
    ("lines", "dead"),
    [
        (["allow all all #", "deny all publish secret/#"], [(2, 1)]),
        # Who subscribes to more than secret/# is not let in by the first line, and kept out by the second one.
        (["allow all all secret/#", "deny all subscribe secret/a"], []),
        (["deny all all secret/#", "allow panel subscribe secret/a"], [(2, 1)]),
        (["allow all all a/+", "allow all publish a/%c"], [(2, 1)]),
        (["allow all publish a/%c", "allow all publish a/+"], []),
        (["allow all all by/%c/#", "allow all all by/%c/x"], [(2, 1)]),
        (["allow all all by/%i/#", "deny all publish by/%i/x"], []),
        (["allow all all by/%c/#", "allow panel all by/panel/x"], [(2, 1)]),
        (["allow all all #", "allow all all $SYS/#"], []),
        (["allow all publish #", "allow all all a"], []),
        (["allow all publish #", "allow all subscribe #", "allow panel all a/b"], [(3, None)]),
    ],
)
def test_topics(lines: list[str], dead: list[tuple[int, int | None]]) -> None:
    assert numbers(dead_topics(topics(*lines))) == dead


def test_too_many_questions_are_not_asked() -> None:
    many = ",".join(f"user{number}" for number in range(MAX_QUESTIONS // 100))
    networks = ",".join(f"192.0.2.{number}" for number in range(200))
    assert dead_policy(policy("allow all all all", f"allow all {many} {networks}")) == ()


def test_names_that_look_like_ours_prove_nothing() -> None:
    """What stands for everybody else must be nobody's name."""
    assert dead_policy(policy('allow all "\x01" all', "allow all all all")) == ()
    assert dead_policy(policy('allow "\x01","\x02" all all', "allow all all all")) == ()
    assert dead_admission(admission('allow "\x01" all', "allow a* all")) == ()
    assert dead_topics(topics("allow all all a/\x01", "allow all all a/%c")) == ()


# --- what decides is not dead -----------------------------------------------------------------------------------------


NETWORKS = ["all", "local", "192.0.2.0/24", "192.0.2.0/25", "192.0.2.128/25", "2001:db8::/32", "192.0.2.7", "0.0.0.0/0"]
ADDRESSES = ["", "192.0.2.7", "192.0.2.8", "192.0.2.200", "198.51.100.1", "2001:db8::1", "::ffff:192.0.2.7", "::1"]


def some(random: Random, *words: str) -> str:
    return ",".join(random.sample(words, random.randint(1, 2)))


def policy_line(random: Random) -> str:
    allow = random.random() < 0.6
    database, subject = some(random, "a", "b", "all", "sameuser"), some(random, "a", "b", "c", "all")
    line = f"{'allow' if allow else 'deny'} {database} {subject} {some(random, *NETWORKS)}"
    return line + (random.choice(["", " replication=yes"]) if allow else "")


def policy_decides(random: Random, rules: list[Rule]) -> str:
    user = random.choice("abcd")
    # Where nobody may, it makes no difference which line says so.
    replication = random.random() < 0.3 and any(rule.allow and rule.replication for rule in rules)
    database = "" if replication else random.choice(["a", "b", "d", user])
    asked = Request("", database, user, user, random.choice(ADDRESSES), replication)
    found = Policy(tuple(rules)).decide(Identity("jwt", user, math.inf), asked)
    return getattr(found, "rule", "") or getattr(found, "reason", "")


def admission_line(random: Random) -> str:
    action, who = (
        random.choice(["allow", "deny"]),
        some(random, "a", "ab", "a*", "*b", "a*b", "all", "anonymous", '"a*"'),
    )
    more = random.choice(["", "", " method=GET", " method=GET,POST"]) + random.choice(["", "", " ca=one", " ca=both"])
    return f"{action} {who} {some(random, *NETWORKS)}{more}"


def admission_decides(random: Random, rules: list[AdmissionRule]) -> str:
    name = random.choice([None, "a", "ab", "aab", "abc", "b", "a*", "axb", ""])
    issuers = tuple(random.sample([b"1", b"2", b"3"], random.randint(0, 2)))
    identity = None if name is None else Identity("certificate", name, math.inf, issuers=issuers)
    asked = identity, client_address(random.choice(ADDRESSES)), random.choice(["", "GET", "POST", "PUT"])
    return next((f"{rule.source}: {rule.text}" for rule in rules if rule.match(*asked)), "")


FILTERS = [
    "#",
    "a/#",
    "a/+",
    "a/b",
    "+/b",
    "a/%c",
    "a/%c/#",
    "%i/b",
    "a/x%u/c",
    "a/%c/%i",
    "$SYS/#",
    "a",
    "+/+/#",
    "%%/b",
]
ASKED = [
    "a",
    "a/b",
    "a/c",
    "a/b/c",
    "a/#",
    "+/b",
    "#",
    "a/p",
    "p/b",
    "a/p/#",
    "$SYS/x",
    "a/xp/c",
    "a/+/c",
    "%/b",
    "a/p/p",
]


def topic_line(random: Random) -> str:
    verb = random.choice(["publish", "subscribe", "all"])
    action, who = random.choice(["allow", "deny"]), random.choice(["all", "p", "p,q", "r/s"])
    return f"{action} {who} {verb} {random.choice(FILTERS)}"


def topic_decides(random: Random, rules: list[TopicRule]) -> str:
    names = ["p", "q", "r/s", "b", "$SYS", ""]
    speaker = Speaker(random.choice(names), random.choice([None, *names]), random.choice(names))
    verb, topic = random.choice(["publish", "subscribe"]), random.choice(ASKED)
    if verb == "publish" and ("#" in topic or "+" in topic):
        return ""
    return next((f"{rule.source}: {rule.text}" for rule in rules if says(rule, speaker, verb, topic)), "")


def says(rule: TopicRule, speaker: Speaker, verb: str, topic: str) -> bool:
    """Written anew from what a line is said to mean."""
    about = rule.filter_for(speaker, verb)
    if about is None:
        return False
    if verb == "publish":
        return matches(about, topic)
    return covers(about, topic) if rule.allow else overlaps(about, topic)


@pytest.mark.parametrize(
    ("line", "parse", "dead", "decides"),
    [
        (policy_line, policy, dead_policy, policy_decides),
        (admission_line, admission, dead_admission, admission_decides),
        (topic_line, topics, dead_topics, topic_decides),
    ],
    ids=["databases", "certificates", "topics"],
)
def test_a_line_that_is_called_dead_never_decides(
    line: Callable[[Random], str],
    parse: Callable[..., list[Any]],
    dead: Callable[[list[Any]], Sequence[Dead]],
    decides: Callable[[Random, list[Any]], str],
) -> None:
    random, claims = Random(7), 0
    for _ in range(150):
        rules = parse(*(line(random) for _ in range(random.randint(2, 6))))
        called = {one.rule for one in dead(rules)}
        claims += len(called)
        for _ in range(100):
            assert decides(random, rules) not in called, (rules, called)
    assert claims > 40


def test_without_the_dead_lines_everything_is_as_before() -> None:
    random = Random(8)
    for _ in range(100):
        rules = policy(*(policy_line(random) for _ in range(random.randint(2, 6))))
        called = {one.rule for one in dead_policy(rules)}
        living = [rule for rule in rules if f"{rule.source}: {rule.text}" not in called]
        for _ in range(100):
            user, replication, address = random.choice("abcd"), random.random() < 0.3, random.choice(ADDRESSES)
            asked = Request("", "" if replication else random.choice("abd"), user, user, address, replication)
            before, after = (
                Policy(tuple(some)).decide(Identity("", user, math.inf), asked) for some in (rules, living)
            )
            assert before == after or (isinstance(before, Deny) and isinstance(after, Deny)), (rules, called, asked)
