"""Topic names and filters: the examples of MQTT-4.7 and 4.8, and an independent matcher."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.matcher import MQTTMatcher

from gateway.wire.mqtt_topics import MAX_LEVELS, is_filter, is_name, matches, shared
from tests import mqtt_packets

unhurried = settings(deadline=None)


@pytest.mark.parametrize("topic", ["a", "/", "//", "/a", "a/", " ", "$SYS/x", "ACCOUNTS", "é/\U0001f600", "$share/a/b"])
def test_names(topic: str) -> None:
    assert is_name(topic)
    assert is_filter(topic)


@pytest.mark.parametrize("topic", ["", "+", "#", "a/+", "a/#", "a+", "a#b", "+/a", "a/\0", "\0"])
def test_no_names(topic: str) -> None:
    assert not is_name(topic)


@pytest.mark.parametrize(
    "topic_filter",
    [
        "#",
        "+",
        "+/+",
        "/+",
        "+/",
        "/#",
        "a/#",
        "+/a/#",
        "+/tennis/#",
        "sport/+/player1",
        "$SYS/#",
        "$share",
        "$shared/x",
    ],
)
def test_filters(topic_filter: str) -> None:
    assert is_filter(topic_filter)
    assert shared(topic_filter) is None


@pytest.mark.parametrize(
    "topic_filter",
    ["", "a#", "a/#/b", "#/a", "##", "a/b#", "sport+", "+a", "a/b+/c", "++", "a/++", "\0", "a/\0", "a/#/", "/#/", "#a"],
)
def test_no_filters(topic_filter: str) -> None:
    assert not is_filter(topic_filter)


@pytest.mark.parametrize(
    ("topic_filter", "parts"),
    [
        ("$share/group/a/b", ("group", "a/b")),
        ("$share/g/+", ("g", "+")),
        ("$share/g/#", ("g", "#")),
        ("$share/g//a", ("g", "/a")),
        ("$share/g//", ("g", "/")),
        ("$share/$share/a", ("$share", "a")),
        ("$share/g/$SYS/#", ("g", "$SYS/#")),
    ],
)
def test_shared_filters(topic_filter: str, parts: tuple[str, str]) -> None:
    assert is_filter(topic_filter)
    assert shared(topic_filter) == parts


@pytest.mark.parametrize(
    "topic_filter",
    [
        *("$share/", "$share/g", "$share/g/", "$share//a", "$share///", "$share/+/a", "$share/#/a", "$share/a+/b"),
        *("$share/g/a#", "$share/g/#/a", "$share/g\0/a", "$share/#", "$share/g/$share/h/a", "$share/g/$share/"),
    ],
)
def test_no_shared_filters(topic_filter: str) -> None:
    assert not is_filter(topic_filter)


def test_how_deep() -> None:
    deepest = "/".join("a" * MAX_LEVELS)
    assert is_name(deepest)
    assert is_filter(deepest)
    assert is_filter("$share/g/" + deepest)
    for too_deep in (deepest + "/", deepest + "/b"):
        assert not is_name(too_deep)
        assert not is_filter(too_deep)
        assert not is_filter("$share/g/" + too_deep)
    assert not is_filter(deepest + "/#")


@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [
        ("sport/tennis/player1/#", "sport/tennis/player1"),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
        ("sport/#", "sport"),
        ("#", "sport"),
        ("#", "/"),
        ("sport/tennis/+", "sport/tennis/player1"),
        ("sport/+", "sport/"),
        ("+/+", "/finance"),
        ("/+", "/finance"),
        ("$SYS/#", "$SYS"),
        ("$SYS/#", "$SYS/x/y"),
        ("$SYS/monitor/+", "$SYS/monitor/Clients"),
        ("+/$SYS", "a/$SYS"),
        ("a", "a"),
        ("+", "+x"),
    ],
)
def test_matches(topic_filter: str, topic: str) -> None:
    assert matches(topic_filter, topic)


@pytest.mark.parametrize(
    ("topic_filter", "topic"),
    [
        ("sport/tennis/player1/#", "sport/tennis/player2"),
        ("sport/tennis/player1/#", "sport/tennis"),
        ("sport/tennis/+", "sport/tennis/player1/ranking"),
        ("sport/+", "sport"),
        ("+", "/finance"),
        ("a/+/#", "a"),
        ("#", "$SYS/x"),
        ("+/monitor/Clients", "$SYS/monitor/Clients"),
        ("+", "$SYS"),
        ("+/#", "$SYS"),
        ("ACCOUNTS", "Accounts"),
        ("/a", "a"),
        ("a", "a/"),
        ("a/b", "a"),
        ("a", "a/b"),
    ],
)
def test_does_not_match(topic_filter: str, topic: str) -> None:
    assert not matches(topic_filter, topic)


few = st.lists(st.sampled_from(["a", "b", "", "$a"]), min_size=1, max_size=4).map("/".join).filter(bool)
few_filters = st.builds(
    lambda levels, last: "/".join(levels + last),
    st.lists(st.sampled_from(["a", "b", "", "$a", "+"]), max_size=4),
    st.sampled_from([[], ["#"]]),
).filter(is_filter)


@settings(deadline=None, max_examples=500)
@given(few_filters, few)
def test_as_another_matcher_says(topic_filter: str, topic: str) -> None:
    matcher = MQTTMatcher()
    matcher[topic_filter] = True
    assert matches(topic_filter, topic) == bool(list(matcher.iter_match(topic)))


@unhurried
@given(mqtt_packets.names)
def test_a_name_matches_itself_and_all_that_is_above(topic: str) -> None:
    assert matches(topic, topic)
    levels = topic.split("/")
    for size in range(1, len(levels) + 1):
        assert matches("/".join([*levels[:size], "#"]), topic)
