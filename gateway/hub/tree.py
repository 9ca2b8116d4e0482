"""Names by their levels: which filters mean a topic, or which topics a filter means, in a step for each level.

Owns the tree and its stamp, which changes with every change, so that answers can be kept until then. Refuses nothing:
filters were checked (`wire.mqtt_topics`), which also bounds their depth.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


# Bytes of a node with one below it. Levels may be empty, so a name of 128 bytes can make as many.
_NODE: Final = 384


def size(text: str) -> int:
    """Bytes that Python keeps a text in, at the most: one character beyond ASCII can make four of each."""
    return len(text) if text.isascii() else 4 * len(text)


def weight(name: str) -> int:
    """Bytes that a name, or a filter, takes in a tree, if it shares no node with another."""
    return size(name) + _NODE * (1 + name.count("/"))


class _Node(Generic[K, V]):
    __slots__ = ("below", "here")

    def __init__(self) -> None:
        self.below: dict[str, _Node[K, V]] = {}
        self.here: dict[K, V] = {}


class Tree(Generic[K, V]):
    """At each filter, one value of each key."""

    __slots__ = ("_root", "count", "stamp")

    def __init__(self) -> None:
        self._root: _Node[K, V] = _Node()
        self.count = 0
        self.stamp = 0

    def put(self, topic_filter: str, key: K, value: V) -> V | None:
        """The value that was there before."""
        node = self._root
        for level in topic_filter.split("/"):
            found = node.below.get(level)
            if found is None:
                found = node.below[level] = _Node()
            node = found
        self.stamp += 1
        before = node.here.get(key)
        self.count += before is None
        node.here[key] = value
        return before

    def get(self, topic_filter: str, key: K) -> V | None:
        path = self._path(topic_filter)
        return path[-1].here.get(key) if path else None

    def remove(self, topic_filter: str, key: K) -> V | None:
        """The value that was there; nodes that are of no use any more go with it."""
        levels = topic_filter.split("/")
        path = self._path(topic_filter)
        if not path or key not in path[-1].here:
            return None
        self.stamp += 1
        self.count -= 1
        value = path[-1].here.pop(key)
        for level in reversed(levels):
            if path[-1].here or path[-1].below:
                break
            path.pop()
            del path[-1].below[level]
        return value

    def _path(self, topic_filter: str) -> list[_Node[K, V]]:
        """From the root to the filter's node; empty: there is none."""
        path = [self._root]
        for level in topic_filter.split("/"):
            found = path[-1].below.get(level)
            if found is None:
                return []
            path.append(found)
        return path

    def match(self, topic: str) -> Iterator[tuple[K, V]]:
        """All that are meant by a message of that topic (MQTT-4.7)."""
        nodes = [self._root]
        # MQTT-4.7.2-1: no wildcard at its beginning means a topic that begins with `$`.
        wild = not topic.startswith("$")
        for level in topic.split("/"):
            if not nodes:
                return
            further = []
            for node in nodes:
                below = node.below
                if wild:
                    if "#" in below:
                        yield from below["#"].here.items()
                    if "+" in below:
                        further.append(below["+"])
                if level in below:
                    further.append(below[level])
            nodes, wild = further, True
        for node in nodes:
            # MQTT-4.7.1.2: the level above `#` is meant too.
            if "#" in node.below:
                yield from node.below["#"].here.items()
            yield from node.here.items()

    def covered(self, topic_filter: str) -> Iterator[V | None]:
        """The values at all topics that the filter means, where topics were put (MQTT-4.7). None: a node was looked at
        in vain, so that who asks can stop and go on later; the tree may change meanwhile."""
        levels = topic_filter.split("/")
        waiting = [(self._root, 0)]
        while waiting:
            node, at = waiting.pop()
            yield None
            if at == len(levels):
                yield from tuple(node.here.values())
            elif levels[at] == "#":
                yield from tuple(node.here.values())
                waiting += [(found, at) for found in _step(node, "+", node is self._root)]
            else:
                waiting += [(found, at + 1) for found in _step(node, levels[at], node is self._root)]


def _step(node: _Node[K, V], level: str, root: bool) -> Iterator[_Node[K, V]]:
    if level == "+":
        for name, found in node.below.items():
            # MQTT-4.7.2-1.
            if not (root and name.startswith("$")):
                yield found
    elif level in node.below:
        yield node.below[level]
