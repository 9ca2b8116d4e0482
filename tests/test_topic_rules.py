"""Rules about topics: the grammar of a line, the first match, and what may stand for a name in it."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.topic_rules import Speaker, TopicRules, covers, overlaps, parse_topic_rule
from gateway.wire import mqtt_topics

ALICE = Speaker("alice", "al", "phone")


def rules(*lines: str) -> TopicRules:
    return TopicRules(tuple(parse_topic_rule(line, f"rules:{number}") for number, line in enumerate(lines, 1)))


# --- first match -----------------------------------------------------------------------------------------------------


def test_without_a_rule_nothing_is_allowed():
    assert not rules().may_publish(ALICE, "a")
    assert not rules().may_subscribe(ALICE, "a")
    assert not rules("allow all all b").may_publish(ALICE, "a")


def test_the_first_rule_that_matches_a_topic_decides():
    some = rules("deny all publish a/b", "allow all publish a/#", "deny all all #")
    assert some.may_publish(ALICE, "a/c")
    assert some.may_publish(ALICE, "a")
    assert not some.may_publish(ALICE, "a/b")
    assert not some.may_publish(ALICE, "b")
    assert rules("allow all publish a/b", "deny all publish a/#").may_publish(ALICE, "a/b")


def test_a_rule_is_about_whom_and_what_it_says():
    some = rules("allow alice,bob publish a", "allow carol subscribe a", "allow dave all a")
    both, none = (True, True), (False, False)
    expected = {"alice": (True, False), "bob": (True, False), "carol": (False, True), "dave": both, "eve": none}
    for name, may in expected.items():
        speaker = Speaker(name, None, "c")
        assert (some.may_publish(speaker, "a"), some.may_subscribe(speaker, "a")) == may
    # Nobody in particular is nobody that a rule names.
    assert not some.may_publish(Speaker("", None, "c"), "a")
    assert rules("allow all all a").may_publish(Speaker("", None, "c"), "a")


@pytest.mark.parametrize(
    ("lines", "asked", "may"),
    [
        (["allow all subscribe a/#"], "a/b", True),
        (["allow all subscribe a/#"], "a/+", True),
        (["allow all subscribe a/#"], "a/#", True),
        (["allow all subscribe a/#"], "a", True),
        (["allow all subscribe a/#"], "#", False),
        (["allow all subscribe a/#"], "+/b", False),
        (["allow all subscribe a/+"], "a/#", False),
        (["allow all subscribe a/+"], "a/b/c", False),
        (["allow all subscribe a/b"], "a/+", False),
        (["allow all subscribe #"], "$SYS/#", False),
        (["allow all subscribe #", "allow all subscribe $SYS/#"], "$SYS/a", True),
        (["allow all subscribe +/+"], "$SYS/a", False),
        # What is denied takes a wider filter with it, since a broker would send all that this means.
        (["deny all subscribe a/secret", "allow all subscribe a/#"], "a/#", False),
        (["deny all subscribe a/secret", "allow all subscribe a/#"], "a/+", False),
        (["deny all subscribe a/secret", "allow all subscribe a/#"], "+/+", False),
        (["deny all subscribe a/secret", "allow all subscribe a/#"], "a/open", True),
        (["deny all subscribe a/secret", "allow all subscribe a/#"], "a/+/x", True),
        (["deny all subscribe a/secret/#", "allow all subscribe #"], "a/+/x", False),
        (["deny all subscribe +/secret", "allow all subscribe #"], "a/#", False),
        (["deny all subscribe a/#", "allow all subscribe #"], "a", False),
        (["deny all subscribe $SYS/#", "allow all subscribe #"], "#", True),
        # But not what was allowed before it.
        (["allow all subscribe a/+", "deny all subscribe a/secret"], "a/+", True),
        # Two that would only together be enough are not.
        (["allow all subscribe a", "allow all subscribe a/+/#"], "a/#", False),
    ],
)
def test_subscribing(lines: list[str], asked: str, may: bool):
    assert rules(*lines).may_subscribe(ALICE, asked) == may


# --- names in filters ------------------------------------------------------------------------------------------------


def test_what_stands_for_names():
    some = rules("allow all publish c/%c/u/%u/i/%i/%%/x%cy")
    assert some.may_publish(ALICE, "c/alice/u/al/i/phone/%/xalicey")
    assert not some.may_publish(ALICE, "c/bob/u/al/i/phone/%/xalicey")
    assert some.may_publish(Speaker("%c", "%u", "%i"), "c/%c/u/%u/i/%i/%/x%cy")


@pytest.mark.parametrize("name", ["+", "#", "a/b", "/", "", "a+", "+a", "a#", "\0", "a/", "/a", "a\0b"])
def test_no_name_widens_a_rule(name: str):
    for place, speaker in (
        ("%c", Speaker(name, "u", "i")),
        ("%u", Speaker("c", name, "i")),
        ("%i", Speaker("c", "u", name)),
    ):
        some = rules(f"allow all all d/{place}/#", f"allow all all e{place}")
        for topic in ("d/x/y", f"d/{name}/y", "d//y", "d/a/b", "d", "e", "e/", f"e{name}"):
            assert not some.may_publish(speaker, topic)
            assert not some.may_subscribe(speaker, topic)
        assert not some.may_subscribe(speaker, "#")
        # Nor is another rule affected.
        assert rules(f"allow all all {place}/#", "allow all all d/x").may_publish(speaker, "d/x")


@pytest.mark.parametrize("name", ["+", "#", "a/b", "/", "", "a+", "#a", "\0"])
def test_no_name_gets_around_what_is_denied(name: str):
    for place, speaker in (
        ("%c", Speaker(name, "u", "i")),
        ("%u", Speaker("c", name, "i")),
        ("%i", Speaker("c", "u", name)),
    ):
        some = rules(f"deny all all d/{place}/secret", f"deny all all e/x{place}", "allow all all #")
        assert not some.may_publish(speaker, "d/anything/secret")
        assert not some.may_subscribe(speaker, "d/anything/secret")
        assert not some.may_subscribe(speaker, "d/+/secret")
        assert not some.may_publish(speaker, "e/xy")
        # But that is all.
        for topic in ("d/anything", "d/anything/open", "d/a/b/secret", "f/x/secret"):
            assert some.may_publish(speaker, topic)
            assert some.may_subscribe(speaker, topic)
        # What was allowed before it is allowed.
        assert rules("allow all all d/#", f"deny all all d/{place}").may_publish(speaker, "d/x")


def test_an_unknown_user_name_gets_around_nothing():
    some = rules("deny all all d/%u", "allow all all #")
    assert not some.may_publish(Speaker("c", None, "i"), "d/al")
    assert some.may_publish(Speaker("c", "al", "i"), "d/other")


def test_only_the_level_of_such_a_name_is_any():
    some = rules("deny all all %c/%%/%u", "allow all all #")
    speaker = Speaker("alice", "a/b", "i")
    assert not some.may_publish(speaker, "alice/%/x")
    for topic in ("bob/%/x", "alice/x/x", "alice/%/x/y", "alice/%"):
        assert some.may_publish(speaker, topic)
    assert rules("deny all all 100%%/%u", "allow all all #").may_publish(speaker, "5%/x")


def test_whom_a_rule_is_not_about_it_denies_nothing():
    some = rules("deny bob all d/%u", "deny all subscribe e/%u", "allow all all #")
    for topic in ("d/x", "e/x"):
        assert some.may_publish(Speaker("alice", None, "i"), topic)


def test_an_unknown_user_name_matches_nothing():
    assert not rules("allow all all d/%u").may_publish(Speaker("c", None, "i"), "d/None")
    assert not rules("allow all all d/%u").may_publish(Speaker("c", None, "i"), "d/")


@pytest.mark.parametrize("name", ["$SYS", "$CONTROL", "$share", "$"])
def test_no_name_leads_to_the_brokers_own_topics(name: str):
    for place, speaker in (("%i", Speaker("c", None, name)), ("%c", Speaker(name, None, "i"))):
        for some in map(rules, (f"allow all all {place}/#", f"allow all all {place}", f"allow all all {place}x")):
            for topic in (f"{name}/v1", name, f"{name}x"):
                assert not some.may_publish(speaker, topic)
                assert not some.may_subscribe(speaker, topic)
        # Where the rule itself does, it is meant.
        assert rules(f"allow all all $x/{place}").may_publish(speaker, f"$x/{name}")
        assert rules(f"allow all all x/{place}").may_publish(speaker, f"x/{name}")


# --- the grammar -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "",
        "allow",
        "allow all all",
        "allow all all ",
        " allow all all a",
        "permit all all a",
        "Allow all all a",
        "allow all read a",
        "allow all publish,subscribe a",
        "allow , all a",
        "allow all,bob all a",
        "allow all all a/#/b",
        "allow all all a#",
        "allow all all a+/b",
        "allow all all #/a",
        "allow all all $share/g/a",
        "allow all all a\0",
        "allow all all %c#",
        "allow all all %c+",
        "allow all all %x",
        "allow all all a%",
        "allow all all %C",
        f"allow all all {'/' * 200}",
    ],
)
def test_what_is_not_exactly_one_rule(line: str):
    with pytest.raises(ValueError, match=r"."):
        parse_topic_rule(line, "rules:1")


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="%x is none of %c, %u, %i and %%"):
        parse_topic_rule("allow all all a/%x", "rules:1")
    with pytest.raises(ValueError, match="FILTER is no MQTT filter such as devices/%c/#"):
        parse_topic_rule("allow all all a/#/b", "rules:1")
    with pytest.raises(ValueError, match="IDENTITY is all, or names with commas between them"):
        parse_topic_rule("allow all,x all a", "rules:1")


def test_what_a_rule_keeps():
    rule = parse_topic_rule("deny  alice,bob\tall  a b/%c/#", "rules:7")
    assert (rule.allow, rule.identities) == (False, frozenset({"alice", "bob"}))
    assert rule.verbs == {"publish", "subscribe"}
    assert (rule.filter, rule.text, rule.source) == ("a b/%c/#", "deny  alice,bob\tall  a b/%c/#", "rules:7")
    assert parse_topic_rule("allow all publish #", "x").identities is None


# --- filters and filters ---------------------------------------------------------------------------------------------

_level = st.sampled_from(["", "a", "b", "$a", "+"])
_filters = st.builds(
    lambda levels, last: "/".join(levels + last),
    st.lists(_level, min_size=0, max_size=4),
    st.sampled_from([[], ["#"]]),
).filter(mqtt_topics.is_filter)
_topics = (
    st.lists(st.sampled_from(["", "a", "b", "$a", "c"]), min_size=1, max_size=5)
    .map("/".join)
    .filter(mqtt_topics.is_name)
)


@given(_filters, _filters, st.lists(_topics, min_size=1, max_size=12))
@settings(max_examples=1000, deadline=None)
def test_covers_and_overlaps_against_single_topics(one: str, other: str, some: list[str]):
    for topic in some:
        mine, theirs = mqtt_topics.matches(one, topic), mqtt_topics.matches(other, topic)
        if covers(one, other):
            assert mine or not theirs, (one, other, topic)
        if mine and theirs:
            assert overlaps(one, other), (one, other, topic)
            assert overlaps(other, one)


def _every_topic() -> list[str]:
    """Of up to four levels, of names that filters have and one that none has."""
    levels = ["", "a", "b", "c", "$a"]
    found: list[list[str]] = [[]]
    topics: list[str] = []
    for _ in range(4):
        found = [[*before, level] for before in found for level in levels]
        topics += ["/".join(one) for one in found]
    return [topic for topic in topics if mqtt_topics.is_name(topic)]


EVERY = _every_topic()
_short = _filters.filter(lambda one: one.count("/") < 3)


@given(_short, _short)
@settings(max_examples=200, deadline=None)
def test_covers_and_overlaps_are_not_too_careful(one: str, other: str):
    """All topics that could tell filters of up to three levels apart are tried. What follows from there being no empty
    topic, nobody has to know: that `+/#` means all that `#` means, and `/+/#` all that `/#` does."""
    assume("+/#" not in (one, other) and not one.startswith("/") and not other.startswith("/"))
    mine = [mqtt_topics.matches(one, topic) for topic in EVERY]
    theirs = [mqtt_topics.matches(other, topic) for topic in EVERY]
    assert overlaps(one, other) == any(a and b for a, b in zip(mine, theirs, strict=True)), (one, other)
    assert covers(one, other) == all(a or not b for a, b in zip(mine, theirs, strict=True)), (one, other)


@given(_topics, _topics)
def test_a_topic_is_a_filter_of_one_topic(one: str, other: str):
    assert covers(one, other) == overlaps(one, other) == (one == other)
