"""Who gets the messages of a topic: every session once (MQTT-3.3.5), in the order in which it is fastest to tell them.

Owns the answer for one topic, which holds until the tree's stamp changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from gateway.hub.outbound import Outbound
from gateway.hub.outbox import Outbox
from gateway.hub.ports import Listener
from gateway.hub.session import Session, Subscribed
from gateway.hub.shared import Group


class Listening:
    """Somebody in this process who listens to a filter, until `stop`; then it is `over`."""

    __slots__ = ("_filter", "_stop", "listener", "over")

    def __init__(self, topic_filter: str, listener: Listener, stop: Callable[[str, Listening], object]) -> None:
        self._filter, self.listener, self._stop = topic_filter, listener, stop
        self.over = False

    def stop(self) -> None:
        self.over = True
        self._stop(self._filter, self)


Matched = Subscribed | Group | Listening


class Route:
    """One session, and how it subscribed: with the highest QoS of all its subscriptions that match, and all their
    identifiers. own: the same for messages of its own; None: it does not want them (MQTT-3.8.3-3)."""

    __slots__ = ("identifiers", "out", "own", "qos", "retain_as_published", "session")

    def __init__(self, session: Session, subscriptions: list[Subscribed]) -> None:
        self.session = session
        self.out: Outbound = session.out
        self.qos = max(subscribed.qos for subscribed in subscriptions)
        self.retain_as_published = any(subscribed.retain_as_published for subscribed in subscriptions)
        self.identifiers = tuple(subscribed.identifier for subscribed in subscriptions if subscribed.identifier)
        others = [subscribed for subscribed in subscriptions if not subscribed.no_local]
        self.own: Route | None = self
        if len(others) < len(subscriptions):
            self.own = Route(session, others) if others else None

    @property
    def plain(self) -> bool:
        """Whether it is told a message of QoS 0 as everybody else is."""
        return not self.identifiers and self.own is self and self.out.terms.plain


class Routes:
    """boxes: of those who are told the same of a message with QoS 0; before 5.0 and from 5.0 on. special: the others.
    more: by the family that a message came in: whether there is anybody but `boxes` of the same."""

    __slots__ = ("all", "boxes", "groups", "listeners", "more", "special", "stamp")

    def __init__(self, stamp: int, found: Iterable[Matched]) -> None:
        self.stamp = stamp
        by_session: dict[Session, list[Subscribed]] = {}
        self.groups: list[Group] = []
        self.listeners: list[Listener] = []
        for match in found:
            if isinstance(match, Subscribed):
                by_session.setdefault(match.session, []).append(match)
            elif isinstance(match, Group):
                self.groups.append(match)
            else:
                self.listeners.append(match.listener)
        self.all = [Route(session, subscriptions) for session, subscriptions in by_session.items()]
        self.special = [route for route in self.all if not route.plain]
        self.boxes: tuple[list[Outbox], list[Outbox]] = ([], [])
        for route in self.all:
            if route.plain:
                self.boxes[route.out.terms.is_5].append(route.out.box)
        more = bool(self.special or self.groups or self.listeners)
        self.more = (more or bool(self.boxes[1]), more or bool(self.boxes[0]))

    @property
    def nobody(self) -> bool:
        return not (self.all or self.groups or self.listeners)

    def __len__(self) -> int:
        return 1 + len(self.all) + len(self.groups) + len(self.listeners)


NOWHERE: Final = Routes(-1, ())


class Topic:
    """A topic's name, and who gets its messages, as it was asked last. reserved: it is the hub's own (MQTT-4.7.2)."""

    __slots__ = ("name", "reserved", "routes")

    def __init__(self, name: str) -> None:
        self.name = name
        self.reserved = name.startswith("$")
        self.routes = NOWHERE
