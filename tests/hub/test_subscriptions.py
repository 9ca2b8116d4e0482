"""Answers are remembered until something changes, and no more of them than the bound."""

from __future__ import annotations

import pytest

from gateway.hub import subscriptions
from gateway.hub.routes import NOWHERE
from tests.hub.clients import World


def test_an_answer_holds_until_a_change():
    world = World()
    a = world.connect()
    topic = world.hub.topic(b"t")
    assert world.hub.topic(b"t") is topic
    a.forward("t")
    routes = topic.routes
    a.forward("t")
    assert topic.routes is routes
    a.subscribe("+")
    a.take()
    a.forward("t", b"1")
    a.unsubscribe("+")
    a.forward("t", b"2")
    assert a.payloads() == [b"1"]


def test_topics_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subscriptions, "_MAX_TOPICS", 10)
    world = World()
    a = world.connect()
    first = world.hub.topic(b"first")
    a.forward("first", b"x")
    for n in range(20):
        world.hub.topic(b"%d" % n)
    assert first.routes is NOWHERE
    a.subscribe("first")
    a.take()
    # Whoever has kept it can go on using it.
    a.attached.forward(first, b"\x30\x09\x00\x05first\x00x", 1)
    world.hub.flush()
    assert a.payloads() == [b"x"]


def test_answers_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subscriptions, "_MAX_ROUTES", 50)
    world = World()
    clients = [world.connect(str(n)) for n in range(10)]
    for client in clients:
        client.subscribe("#")
        client.take()
    for n in range(20):
        clients[0].forward(f"t/{n}", b"x")
    kept = [topic for topic in world.hub.subscriptions._topics.values() if topic.routes is not NOWHERE]
    assert len(kept) <= 5
    assert [len(client.messages()) for client in clients] == [20] * 10


def test_a_long_topic_is_not_remembered():
    world = World()
    long = "t" * 10_000
    a = world.connect()
    a.subscribe("#")
    a.take()
    a.publish(long, b"1", 1)
    a.forward(long, b"2")
    assert a.payloads() == [b"1", b"2"]
    assert long not in world.hub.subscriptions._topics
    assert all(len(topic.name) < 1_000 for topic, _ in world.hub.subscriptions._fresh)
