"""`$SYS`: what the hub says about itself, as retained messages of its own.

Owns the counters and the topics. They are no secret between clients, so nothing here names one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from gateway.hub.message import Message


@dataclass(slots=True)
class Counters:
    """Messages since the start. received: from clients; sent: meant for clients; dropped: of these, what they could not
    be sent."""

    received: int = 0
    sent: int = 0
    dropped: int = 0


class Status:
    """gauges: topic below `$SYS/broker/` → its value now. What has not changed is not said again."""

    def __init__(self, gauges: Mapping[str, Callable[[], str]]) -> None:
        self._gauges = gauges
        self._said: dict[str, str] = {}

    def news(self) -> Iterator[Message]:
        for name, gauge in self._gauges.items():
            value = gauge()
            if self._said.get(name) != value:
                self._said[name] = value
                yield Message(f"$SYS/broker/{name}", value.encode(), retain=True)


def own_version() -> str:
    try:
        return f"securegw {version('securegw')}"
    except PackageNotFoundError:
        return "securegw"
