"""What the audit is told of a topic that was denied: enough to see what is wrong, without asking anybody."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.session.mqtt_caller import ChannelPermission, RulePermission, why_not
from gateway.things import NO_RIGHTS, Change, Rights, Thing, Unavailable, Watch
from gateway.topic_rules import Speaker, TopicRules

HERE = "0d7c9a52-8a0b-4c7e-9b65-0a5e4c1f2d3e"
AWAY = "1d7c9a52-8a0b-4c7e-9b65-0a5e4c1f2d3e"


class Things:
    """One channel, to which nobody is connected. away: nobody can be asked."""

    def __init__(self, *, away: bool = False) -> None:
        self.away = away

    def with_key(self, key: bytes) -> Thing | None:
        return None

    def named(self, thing: str) -> Thing | None:
        return None

    def has_channel(self, channel: str) -> bool:
        if self.away:
            raise Unavailable
        return channel == HERE

    def rights(self, thing: str, channel: str) -> Rights:
        return NO_RIGHTS

    def watch(self, thing: str, changed: Callable[[Change], None]) -> Watch:
        raise AssertionError("nobody watches here")


@pytest.mark.parametrize(
    ("action", "topic", "reason"),
    [
        ("publish", "channels/heating/messages", "it is no channel's"),
        ("subscribe", "channels/+/messages", "it is no channel's"),
        ("publish", f"channels/{HERE.upper()}/messages", "it is no channel's"),
        ("publish", f"channels/{AWAY}/messages", "there is no such channel"),
        ("publish", f"channels/{HERE}/messages/a", "the thing is not connected to that channel, or may not publish"),
        (
            "subscribe",
            f"$share/g/channels/{HERE}/messages/#",
            "the thing is not connected to that channel, or may not sub",
        ),
    ],
)
def test_of_a_channel(action: str, topic: str, reason: str) -> None:
    permission = ChannelPermission(Things(), "thing")
    assert why_not(permission, action, topic).startswith(reason)


def test_of_a_registry_that_is_away() -> None:
    permission = ChannelPermission(Things(away=True), "thing")
    assert why_not(permission, "publish", f"channels/{HERE}/messages") == "the registry cannot be asked"


def test_of_rules() -> None:
    permission = RulePermission(TopicRules, Speaker("a", None, "b"))
    assert why_not(permission, "publish", "x") == "no rule about topics allows it"
