"""The topics of channels, and keys: which topic is whose, and that nothing else is anybody's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.things import NO_RIGHTS, Rights, Thing, channel_of, key_hash, matches, topic_of
from gateway.wire import mqtt_topics

CHANNEL = "0d7c9a52-1111-4222-8333-444455556666"


@pytest.mark.parametrize("rest", ["", "/", "/a", "/a/b", "//", "/#", "/+", "/+/a/#", "/a\nb", "/ü"])
def test_a_channels_topics(rest: str):
    assert channel_of(f"channels/{CHANNEL}/messages{rest}") == CHANNEL


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "#",
        "+",
        "channels",
        "channels/#",
        "channels/+/messages",
        f"channels/{CHANNEL}",
        f"channels/{CHANNEL}/#",
        f"channels/{CHANNEL}/+",
        f"channels/{CHANNEL}/message",
        f"channels/{CHANNEL}/messages#",
        f"channels/{CHANNEL}/messagesx",
        f"channels/{CHANNEL}/messages\n",
        f"/channels/{CHANNEL}/messages",
        f"x/channels/{CHANNEL}/messages",
        f"Channels/{CHANNEL}/messages",
        f"channels/{CHANNEL.upper()}/messages",
        f"channels/{CHANNEL[:-1]}/messages",
        f"channels/{CHANNEL}0/messages",
        f"channels/ {CHANNEL}/messages",
        f"channels/{CHANNEL.replace('-', '')}/messages",
        f"channels/{CHANNEL.replace('4', chr(0x664))}/messages",
        f"channels//{CHANNEL}/messages",
        f"$share/g/channels/{CHANNEL}/messages",
        f"channels/{CHANNEL}/../{CHANNEL}/messages",
    ],
)
def test_what_is_no_channels_topic(topic: str):
    assert channel_of(topic) is None


_levels = st.sampled_from(["", "a", "+", CHANNEL, "messages", "channels"])
_filters = st.lists(_levels, max_size=6).map("/".join).filter(mqtt_topics.is_filter)


@given(_filters, st.lists(st.sampled_from(["", "a", CHANNEL, "messages", "channels"]), min_size=1, max_size=6))
def test_all_that_a_channels_filter_means_is_that_channels(topic_filter: str, levels: list[str]):
    topic = "/".join(levels)
    for asked in (topic_filter, topic_of(CHANNEL, topic_filter), f"{topic_of(CHANNEL)}/#"):
        channel = channel_of(asked)
        if channel is not None and mqtt_topics.is_filter(asked) and topic and mqtt_topics.matches(asked, topic):
            assert channel_of(topic) == channel
        if channel is not None:
            assert channel_of(topic_of(channel, topic)) == channel


def test_the_topic_of_a_channel():
    assert topic_of(CHANNEL) == f"channels/{CHANNEL}/messages"
    assert topic_of(CHANNEL, "a/b") == f"channels/{CHANNEL}/messages/a/b"


def test_a_key_matches_itself_alone():
    thing = Thing(CHANNEL, "one", key_hash(b"secret"))
    assert matches(thing, b"secret")
    for other in (b"", b"Secret", b"secret ", b"secre", key_hash(b"secret"), thing.key):
        assert not matches(thing, other)
    # No key is right for whoever has none.
    assert not matches(Thing("", "", b""), b"")


def test_the_hash_is_in_no_repr():
    thing = Thing(CHANNEL, "one", key_hash(b"secret"))
    assert repr(key_hash(b"secret")) not in repr(thing)
    assert not NO_RIGHTS.publish
    assert Rights() == NO_RIGHTS
