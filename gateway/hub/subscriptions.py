"""All subscriptions, and the answers to who gets the messages of a topic.

Owns the tree, the groups of shared subscriptions, and how many answers are remembered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Final

from gateway.hub.journal import Journal
from gateway.hub.ports import Listener
from gateway.hub.routes import NOWHERE, Listening, Matched, Routes, Topic
from gateway.hub.rows import Change, SubscriptionRow
from gateway.hub.session import Session, Subscribed
from gateway.hub.shared import Group
from gateway.hub.tree import Tree, weight
from gateway.wire.mqtt_packets import Subscription
from gateway.wire.mqtt_topics import shared

# Topics that are remembered with their answers, and receivers in all these answers: some 200 bytes each.
_MAX_TOPICS: Final = 10_000
_MAX_ROUTES: Final = 50_000
# Characters of a topic that is remembered: most have less than a hundred, while 65,535 bytes are allowed.
_MAX_NAME: Final = 512


class Subscriptions:
    def __init__(self, journal: Journal) -> None:
        self.tree: Tree[Hashable, Matched] = Tree()
        self.count = 0  # of clients' subscriptions
        self._journal = journal
        self._topics: dict[str, Topic] = {}
        self._fresh: deque[tuple[Topic, Routes]] = deque()
        self._routes = 0

    # --- changes ----------------------------------------------------------------------------------------------------

    def add(self, session: Session, asked: Subscription, identifier: int) -> bool:
        """Whether it is a new one; if not, it takes the place of the old one (MQTT-3.8.4-3)."""
        new = self.restore(session, asked, identifier)
        if session.out.durable:
            self._journal.add(Change.PUT_SUBSCRIPTION, subscription_row(session.subscriptions[asked.filter]))
        return new

    def restore(self, session: Session, asked: Subscription, identifier: int) -> bool:
        """The same, of one that is stored already."""
        before = session.subscriptions.get(asked.filter)
        share = shared(asked.filter)
        group = self._group(asked.filter, *share) if share is not None else None
        subscribed = Subscribed(
            session, asked.filter, asked.qos, asked.no_local, asked.retain_as_published, identifier, group
        )
        if group is not None:
            # Whoever has the group in an answer has its members with it.
            group.add(subscribed)
        else:
            self.tree.put(asked.filter, session, subscribed)
        session.subscriptions[asked.filter] = subscribed
        if before is None:
            self.count += 1
            session.filter_bytes += weight(asked.filter)
        return before is None

    def _group(self, topic_filter: str, name: str, inner: str) -> Group:
        found = self.tree.get(inner, name)
        if isinstance(found, Group):
            return found
        group = Group(topic_filter)
        self.tree.put(inner, name, group)
        return group

    def remove(self, session: Session, topic_filter: str) -> Subscribed | None:
        """What there was."""
        subscribed = session.subscriptions.pop(topic_filter, None)
        if subscribed is None:
            return None
        self.count -= 1
        session.filter_bytes -= weight(topic_filter)
        if subscribed.group is None:
            self.tree.remove(topic_filter, session)
        else:
            self._leave(subscribed.group, session)
        if session.stored:
            self._journal.add(Change.DROP_SUBSCRIPTION, (session.id, topic_filter))
        return subscribed

    def _leave(self, group: Group, session: Session) -> None:
        group.remove(session)
        share = shared(group.filter)
        if not group.members and share is not None:
            name, inner = share
            self.tree.remove(inner, name)

    def listen(self, topic_filter: str, listener: Listener) -> Listening:
        listening = Listening(topic_filter, listener, self.tree.remove)
        self.tree.put(topic_filter, listening, listening)
        return listening

    def changed(self) -> None:
        """Something about a session that decides how it is told."""
        self.tree.stamp += 1

    # --- answers ----------------------------------------------------------------------------------------------------

    def topic(self, name: str) -> Topic:
        """The same one each time, as long as it is remembered."""
        if len(name) > _MAX_NAME:
            return Topic(name)
        found = self._topics.get(name)
        if found is None:
            if len(self._topics) >= _MAX_TOPICS:
                oldest = next(iter(self._topics))
                self._topics.pop(oldest).routes = NOWHERE
            found = self._topics[name] = Topic(name)
        return found

    def routes(self, topic: Topic) -> Routes:
        routes = topic.routes
        return routes if routes.stamp == self.tree.stamp else self.refresh(topic)

    def refresh(self, topic: Topic) -> Routes:
        routes = topic.routes = Routes(self.tree.stamp, (match for _, match in self.tree.match(topic.name)))
        if len(topic.name) > _MAX_NAME:
            return routes
        self._fresh.append((topic, routes))
        self._routes += len(routes)
        while self._routes > _MAX_ROUTES and len(self._fresh) > 1:
            old, stale = self._fresh.popleft()
            self._routes -= len(stale)
            if old.routes is stale:
                old.routes = NOWHERE
        return routes


def subscription_row(subscribed: Subscribed) -> SubscriptionRow:
    return SubscriptionRow(
        subscribed.session.id,
        subscribed.filter,
        subscribed.qos,
        subscribed.no_local,
        subscribed.retain_as_published,
        subscribed.identifier,
    )
