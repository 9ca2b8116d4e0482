"""Who the hub talks to: clients, listeners, permissions and timers, as it sees them.

Owns the names only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.hub.message import Message
from gateway.wire.mqtt_packets import Reason


class Client(Protocol):
    """A connected MQTT client."""

    def deliver(self, data: bytes) -> None:
        """Whole packets for the client, sent now."""

    def congested(self) -> bool:
        """What was delivered before waits, because the client does not take it; `Attached.drained` is called once it
        has."""

    def end(self, code: Reason, reason: str) -> None:
        """DISCONNECT with that code (5.0 only), and the end. The hub has let go of the connection already."""


class Permission(Protocol):
    """What an identity may do; asked at any time, also long after its connection."""

    def publish(self, topic: str, /) -> bool: ...

    def subscribe(self, topic_filter: str, /) -> bool:
        """The filter is the inner one of a shared subscription, or a topic."""


class Listener(Protocol):
    """Somebody in this process who wants messages as values."""

    def arrived(self, message: Message) -> None: ...


class Cancellable(Protocol):
    """A call that is to come."""

    def cancel(self) -> object: ...


Later = Callable[[float, Callable[[], None]], Cancellable]
