"""The tree finds what `wire.mqtt_topics.matches` says, both ways, and forgets what was taken out."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from gateway.hub.tree import Tree, size, weight
from gateway.wire.mqtt_topics import is_filter, is_name, matches

_levels = st.sampled_from(["", "a", "b", "$SYS", "$"])
topics = st.lists(_levels, min_size=1, max_size=4).map("/".join).filter(is_name)
filters = st.lists(_levels | st.sampled_from(["+", "#"]), min_size=1, max_size=4).map("/".join).filter(is_filter)


def tree_of(names: list[str]) -> Tree[int, str]:
    tree: Tree[int, str] = Tree()
    for key, name in enumerate(names):
        tree.put(name, key, name)
    return tree


@given(st.lists(filters), topics)
def test_match(asked: list[str], topic: str):
    found = [value for _, value in tree_of(asked).match(topic)]
    assert sorted(found) == sorted(one for one in asked if matches(one, topic))


@given(st.lists(topics), filters)
def test_covered(names: list[str], topic_filter: str):
    found = [name for name in tree_of(names).covered(topic_filter) if name is not None]
    assert sorted(found) == sorted(one for one in names if matches(topic_filter, one))


@given(st.lists(filters), st.data())
def test_remove(asked: list[str], data: st.DataObject):
    tree = tree_of(asked)
    for key in data.draw(st.permutations(range(len(asked)))):
        assert tree.remove(asked[key], key) == asked[key]
        assert tree.remove(asked[key], key) is None
        assert tree.get(asked[key], key) is None
    assert tree.count == 0
    assert not tree._root.below
    assert not tree._root.here


def test_each_change_has_another_stamp():
    tree: Tree[int, int] = Tree()
    stamps = [tree.stamp]
    tree.put("a/+", 1, 1)
    stamps.append(tree.stamp)
    assert tree.put("a/+", 1, 2) == 1
    stamps.append(tree.stamp)
    tree.remove("a/+", 1)
    stamps.append(tree.stamp)
    assert len(set(stamps)) == 4
    assert tree.remove("a/+", 1) is None
    assert tree.stamp == stamps[-1]


def test_looking_in_vain_is_told_step_by_step():
    tree = tree_of([f"{n}/x" for n in range(50)])
    assert list(tree.covered("+/y")) == [None] * 51


def test_a_name_counts_as_what_python_keeps_it_in():
    """One character beyond the others makes all of them wide."""
    for text in ("x" * 1_000, "é" + "x" * 999, "\U0001f600" + "x" * 999):
        assert sys.getsizeof(text) - sys.getsizeof("") <= size(text) + 48
        assert weight(text) > size(text)
