"""Topic names and topic filters (MQTT-4.7), and shared subscriptions (MQTT-4.8.2), as text.

Owns which of them there can be and which filter matches which name. Refuses wildcards where none may be, and what is
too deep. Who may use a topic is for a policy to say.
"""

from __future__ import annotations

import re
from typing import Final

# Each level is a step, and a node, of every tree of subscriptions that a topic is looked up in; 65,535 slashes would
# make one as deep. Applications use some ten, and services that set a bound allow fewer than this.
MAX_LEVELS: Final = 128

_SHARE: Final = "$share/"
_LEVEL: Final = r"(?:\+|[^+#/\0]*)"
# MQTT-4.7.1: a wildcard is a level of its own, and `#` the last one.
_FILTER: Final = re.compile(rf"#|{_LEVEL}(?:/{_LEVEL})*(?:/#)?")
# MQTT-4.8.2-1 and -2.
_SHARE_NAME: Final = re.compile(r"[^+#/\0]+")


def is_name(topic: str) -> bool:
    """Whether a message can be published there. That the text is short enough is for who writes it down to check."""
    return not (
        "+" in topic or "#" in topic or "\0" in topic or not topic or topic.count("/") >= MAX_LEVELS
    )  # the commonest reasons to read on come first: this is asked of each message


def is_filter(topic_filter: str) -> bool:
    """Whether it can be subscribed to; `$share/name/filter` included, in every version.

    A share of a share is refused: no message could be meant by it, and who strips it twice would see another filter
    than who strips it once.
    """
    parts = shared(topic_filter)
    if parts is None:
        return _is_plain(topic_filter)
    name, inner = parts
    return bool(_SHARE_NAME.fullmatch(name)) and not inner.startswith(_SHARE) and _is_plain(inner)


def _is_plain(topic_filter: str) -> bool:
    return bool(topic_filter) and topic_filter.count("/") < MAX_LEVELS and bool(_FILTER.fullmatch(topic_filter))


def shared(topic_filter: str) -> tuple[str, str] | None:
    """The name of the share and the filter in it; None: the subscription is not a shared one."""
    if not topic_filter.startswith(_SHARE):
        return None
    name, _, inner = topic_filter[len(_SHARE) :].partition("/")
    return name, inner


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a message of that (valid) topic is meant by that (valid) filter; of a shared one, by the filter in it."""
    # MQTT-4.7.2-1.
    if topic.startswith("$") and topic_filter.startswith(("+", "#")):
        return False
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        # MQTT-4.7.1.2: the level above it is meant too.
        wanted.pop()
        if len(levels) < len(wanted):
            return False
    elif len(levels) != len(wanted):
        return False
    return all(want in ("+", level) for want, level in zip(wanted, levels, strict=False))
