"""Rules that never decide, because lines before them decide whatever they are about.

Owns a set of questions that stands for all there are: where no two names, networks or topics differ in what a rule
makes of them, one stands for the rest, and a name that nobody has stands for all that no rule names. The rules
themselves are asked, so nothing here says again what they mean. Never calls a rule dead that could decide; where there
would be too many questions, and where several filters together might cover another, it says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import count, islice, product
from typing import Any, Final, TypeVar

from gateway.admission import AdmissionRule
from gateway.identity import Identity
from gateway.policy import Request, Rule
from gateway.rules import IPAddress, Networks
from gateway.topic_rules import Speaker, TopicRule, covers

R = TypeVar("R")
Q = TypeVar("Q")

# Questions for one rule, times the rules before it: some 20 ms.
MAX_QUESTIONS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Dead:
    """rule: the line and where it stands. by: that one of those before it, if it is one alone."""

    rule: str
    by: str | None


def _dead(
    rules: Sequence[R],
    questions: Callable[[R, Sequence[R]], Sequence[Q] | None],
    decides: Callable[[R, Q], bool],
    instead: Callable[[R, R, Q], bool],
) -> Iterator[tuple[R, R | None]]:
    """Rules that decide none of the questions about them, each with the one that does so alone.

    questions: about a rule, given those before it; None: too many. instead: whether another rule, before it, decides.
    """
    for number, rule in enumerate(rules):
        before = rules[:number]
        about = questions(rule, before)
        if not before or about is None:
            continue
        mine = [one for one in about if decides(rule, one)]
        # A rule that decides nothing at all is another mistake.
        if mine and all(any(instead(other, rule, one) for other in before) for one in mine):
            alone = (other for other in before if all(instead(other, rule, one) for one in mine))
            yield rule, next(alone, None)


def _unused(lines: Iterable[Any]) -> Iterator[str]:
    """Characters that stand in none of these: what is true of them is true of whatever is named nowhere."""
    used = {character for line in lines for character in line.text}
    return (chr(code) for code in count(1) if chr(code) not in used)


def _place(rule: Any) -> str:
    return f"{rule.source}: {rule.text}"


def _told(found: Iterable[tuple[Any, Any]]) -> tuple[Dead, ...]:
    return tuple(Dead(_place(rule), _place(by) if by is not None else None) for rule, by in found)


# --- addresses ------------------------------------------------------------------------------------------------------


def _addresses(about: Networks, others: Iterable[Networks]) -> list[IPAddress | None]:
    """One client of each kind: the first of every network, the first behind it, and one of a Unix socket."""
    found: set[IPAddress | None] = {None, IPv4Address(0), IPv6Address(0)}
    for network in (one for networks in (about, *others) for one in networks.exact):
        found.add(network.network_address)
        behind = int(network.broadcast_address) + 1
        if behind < 1 << network.max_prefixlen:
            found.add(type(network.network_address)(behind))
    return [client for client in found if about.match(client)]


# --- databases ------------------------------------------------------------------------------------------------------

_Login = tuple[str, Request, IPAddress | None]


def dead_policy(rules: Sequence[Rule]) -> tuple[Dead, ...]:
    """Where no line allows replication, it does not matter which of them denies it."""
    replication = [""] if any(rule.allow and rule.replication for rule in rules) else []

    def questions(rule: Rule, before: Sequence[Rule]) -> list[_Login] | None:
        return _logins(rule, before, replication)

    def decides(rule: Rule, asked: _Login) -> bool:
        return rule.match(*asked)

    return _told(_dead(rules, questions, decides, lambda other, _, asked: decides(other, asked)))


def _logins(rule: Rule, before: Sequence[Rule], replication: list[str]) -> list[_Login] | None:
    """replication: the database that it is asked for with, if it is."""
    anybody, anything = islice(_unused((rule, *before)), 2)
    subjects = [*sorted(rule.subjects.exact), *([anybody] if "all" in rule.subjects.keywords else [])]
    databases = [*sorted(rule.databases.exact), *([anything] if "all" in rule.databases.keywords else []), *replication]
    pairs = list(product(subjects, databases))
    pairs += [(name, name) for name in subjects if "sameuser" in rule.databases.keywords]
    clients = _addresses(rule.networks, (one.networks for one in before))
    if _too_many(before, pairs, clients):
        return None
    return [
        (subject, Request("", database, subject, "", "", replication=not database), client)
        for (subject, database), client in product(pairs, clients)
    ]


def _too_many(before: Sequence[object], *several: Sequence[object]) -> bool:
    return math.prod(map(len, several)) * max(1, len(before)) > MAX_QUESTIONS


# --- certificates ---------------------------------------------------------------------------------------------------

_Visit = tuple[Identity | None, IPAddress | None, str]


def dead_admission(rules: Sequence[AdmissionRule]) -> tuple[Dead, ...]:
    def decides(rule: AdmissionRule, asked: _Visit) -> bool:
        return rule.match(*asked)

    return _told(_dead(rules, _visits, decides, lambda other, _, asked: decides(other, asked)))


def _visits(rule: AdmissionRule, before: Sequence[AdmissionRule]) -> list[_Visit] | None:
    """A pattern stands for itself with, in the place of `*`, what only a `*` matches: whatever pattern matches that
    matches all of it."""
    anything = next(_unused((rule, *before)))
    exact = sorted(rule.identities.names.exact)
    names = [*exact, *(name.replace("*", anything) for name in exact if "*" in name)]
    names += [anything] if "all" in rule.identities.names.keywords else []
    # Who is vouched for by one of them alone is the hardest for other rules; and by none, where it does not matter.
    issuers = [(one,) for one in sorted(rule.authorities)] if rule.authorities is not None else [()]
    methods = (
        sorted(rule.methods)
        if rule.methods is not None
        else [anything, *{method for one in before for method in one.methods or ()}]
    )
    clients = _addresses(rule.networks, (one.networks for one in before))
    if _too_many(before, [*names, ""], issuers, methods, clients):
        return None
    people = [Identity("", name, math.inf, issuers=vouching) for name, vouching in product(names, issuers)]
    return list(product([*people, None], clients, methods))


# --- topics ---------------------------------------------------------------------------------------------------------

_Say = tuple[Speaker, str]

# A name that no place in a filter can be filled with.
_NO_LEVEL: Final = "/"


def dead_topics(rules: Sequence[TopicRule]) -> tuple[Dead, ...]:
    return _told(_dead(rules, _sayings, _is_about, _is_covered))


def _sayings(rule: TopicRule, before: Sequence[TopicRule]) -> list[_Say] | None:
    """Each place in a filter is filled with a level that is nobody's, or with what is none, which makes the widest
    filter of a rule that denies, and keeps one that allows from saying anything."""
    subject, user, client = islice(_unused((rule, *before)), 3)
    named = {name for one in before for name in one.identities or ()}
    subjects = sorted(rule.identities) if rule.identities is not None else [subject, _NO_LEVEL, *named]
    users, clients = (None, user, _NO_LEVEL), (client, _NO_LEVEL)
    verbs = sorted(rule.verbs)
    if _too_many(before, subjects, users, clients, verbs):
        return None
    people = (Speaker(*one) for one in product(subjects, users, clients))
    return list(product(people, verbs))


def _is_about(rule: TopicRule, asked: _Say) -> bool:
    return rule.filter_for(*asked) is not None


def _is_covered(other: TopicRule, rule: TopicRule, asked: _Say) -> bool:
    """Whatever topic `rule` decides about, `other` has decided about it. A line that denies takes all subscriptions
    that overlap with it, a line that allows only those within it."""
    wide, narrow = other.filter_for(*asked), rule.filter_for(*asked)
    if wide is None or narrow is None or not covers(wide, narrow):
        return False
    return asked[1] == "publish" or rule.allow or not other.allow
