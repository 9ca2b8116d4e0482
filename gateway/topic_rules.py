"""Who may say and hear what in MQTT: rules of one line each about topics, and the decision from them.

Owns the grammar of such a rule and the first match through a list of them. Pure and synchronous. Refuses everything
that no rule allows.

    allow|deny IDENTITY publish|subscribe|all FILTER

FILTER is the rest of the line, in which %c is the identity's name, %u the user name, %i the client id and %% a %. What
stands for one of them is always one level, or the rule does not match: no name can widen it, nor lead to the topics
that begin with `$`, which are the broker's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.wire import mqtt_topics

_LINE: Final = re.compile(r"(allow|deny)[ \t]+(\S+)[ \t]+(publish|subscribe|all)[ \t]+(\S.*)")
_PLACE: Final = re.compile(r"%(.?)")


@dataclass(frozen=True, slots=True)
class Speaker:
    """Whom the rules are asked about. subject: the name that was proven."""

    subject: str
    user_name: str | None
    client_id: str


@dataclass(frozen=True, slots=True)
class TopicRule:
    """identities: names; None is everybody. verbs: of `publish` and `subscribe`. text, source: as of an
    AdmissionRule."""

    allow: bool
    identities: frozenset[str] | None
    verbs: frozenset[str]
    filter: str
    text: str
    source: str

    def filter_for(self, speaker: Speaker, verb: str) -> str | None:
        """The filter that this rule is about for that speaker; None: it is not about that."""
        if verb not in self.verbs or (self.identities is not None and speaker.subject not in self.identities):
            return None
        if "%" not in self.filter:
            return self.filter
        values = {"c": speaker.subject, "u": speaker.user_name, "i": speaker.client_id, "%": "%"}
        asked = _PLACE.findall(self.filter)
        about = self.filter
        if not all(_is_level(values[place]) for place in asked):
            if self.allow:
                return None
            # Nobody gets around what is denied by a name that is no level: then it is denied whatever the level is.
            about = _any_level(about, values)
        about = _PLACE.sub(lambda found: values[found[1]] or "", about)
        return about if _special(about) == _special(self.filter) else None


def _any_level(template: str, values: Mapping[str, str | None]) -> str:
    """With `+` for each level that has a place in it for what is no level."""
    levels = template.split("/")
    return "/".join(
        level if all(_is_level(values[place]) for place in _PLACE.findall(level)) else "+" for level in levels
    )


def _is_level(value: str | None) -> bool:
    return bool(value) and not any(mark in str(value) for mark in "+#/\0")


class TopicRules:
    """The rules of one listener."""

    def __init__(self, rules: tuple[TopicRule, ...] = ()) -> None:
        self.rules = rules

    def may_publish(self, speaker: Speaker, topic: str) -> bool:
        """topic: a valid name. The first rule whose filter matches it decides."""
        for rule in self.rules:
            about = rule.filter_for(speaker, "publish")
            if about is not None and mqtt_topics.matches(about, topic):
                return rule.allow
        return False

    def may_subscribe(self, speaker: Speaker, asked: str) -> bool:
        """asked: a valid filter, without `$share`. It is let in by a rule whose filter matches every topic that it
        matches, unless one before that denies some topic that it matches."""
        for rule in self.rules:
            about = rule.filter_for(speaker, "subscribe")
            if about is None:
                continue
            if rule.allow and covers(about, asked):
                return True
            if not rule.allow and overlaps(about, asked):
                return False
        return False


def _special(topic_filter: str) -> bool:
    """Whether it is about topics that begin with `$`, which a wildcard in the first level never is (MQTT-4.7.2)."""
    return topic_filter.startswith("$")


def covers(wide: str, narrow: str) -> bool:
    """Whether the filter `wide` matches every topic that the filter `narrow` matches (MQTT-4.7.1)."""
    if _special(wide) != _special(narrow):
        return False
    several, few = wide.split("/"), narrow.split("/")
    for at, level in enumerate(several):
        if level == "#":
            return True
        if at >= len(few) or few[at] == "#" or level not in ("+", few[at]):
            return False
    # `a/#` is the only longer filter that `a` is about as well; it is longer here, so it is about more.
    return len(several) == len(few)


def overlaps(one: str, other: str) -> bool:
    """Whether there may be a topic that both filters match. Where it is a close call: yes."""
    if _special(one) != _special(other):
        return False
    left, right = one.split("/"), other.split("/")
    for at in range(max(len(left), len(right))):
        # `a/#` also matches `a`.
        if left[at : at + 1] == ["#"] or right[at : at + 1] == ["#"]:
            return True
        if at >= len(left) or at >= len(right):
            return False
        if left[at] != right[at] and "+" not in (left[at], right[at]):
            return False
    return True


def parse_topic_rule(line: str, source: str) -> TopicRule:
    """Raises ValueError, saying what is wrong, for anything that is not exactly one rule."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError("a rule is: allow|deny IDENTITY publish|subscribe|all FILTER")
    action, names, verb, about = found.groups()
    identities = tuple(name for name in names.split(",") if name)
    if not identities or ("all" in identities and len(identities) > 1):
        raise ValueError("IDENTITY is all, or names with commas between them")
    unknown = [place for place in _PLACE.findall(about) if place not in ("c", "u", "i", "%")]
    if unknown:
        raise ValueError(f"%{unknown[0]} is none of %c, %u, %i and %%")
    # A place may stand within a level, so it is tried with what could be one.
    if not mqtt_topics.is_filter(_PLACE.sub("x", about)) or mqtt_topics.shared(about) is not None:
        raise ValueError("FILTER is no MQTT filter such as devices/%c/#")
    return TopicRule(
        allow=action == "allow",
        identities=None if identities == ("all",) else frozenset(identities),
        verbs=frozenset({"publish", "subscribe"} if verb == "all" else {verb}),
        filter=about,
        text=line.strip(),
        source=source,
    )
