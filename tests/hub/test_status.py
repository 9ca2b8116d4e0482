"""`$SYS`: who asks is told, and hears what has changed."""

from __future__ import annotations

from gateway.hub.settings import HubSettings
from gateway.wire.mqtt_packets import Properties, Will
from tests.hub.clients import World


def told(messages) -> dict[str, bytes]:
    return {m.topic.removeprefix("$SYS/broker/"): m.payload for m in messages}


def test_gauges():
    world = World(settings=HubSettings(sys_interval=10))
    a = world.connect()
    world.keeping("b").leave()
    a.subscribe("#", "$SYS/#")
    first = told(a.messages())
    assert first["clients/connected"] == b"0"
    assert first["version"].startswith(b"securegw")
    world.publish("t", b"", 1, retain=True)
    world.publish("t", b"kept", 1, retain=True)
    a.publish("t")
    a.take()
    world.time.pass_by(10)
    news = told(a.messages())
    assert news["clients/connected"] == b"1"
    assert news["clients/disconnected"] == b"1"
    assert news["clients/total"] == b"2"
    assert news["subscriptions/count"] == b"2"
    assert news["messages/received"] == b"1"
    assert news["uptime"] == b"10 seconds"
    assert "version" not in news
    a.slow = True
    world.publish("t")
    world.publish("t")
    a.take()
    a.slow = False
    a.attached.drained()
    world.time.pass_by(10)
    assert told(a.messages())["publish/messages/dropped"] == b"1"


def test_no_one_else_says_so():
    world = World()
    a = world.connect()
    a.publish("$SYS/broker/version", b"mine", retain=True)
    a.subscribe("$SYS/broker/version")
    assert a.payloads() != [b"mine"]


def test_it_ends_with_the_hub():
    world = World()
    world.keeping(will=Will("w", b"x", properties=Properties(will_delay=60))).leave(will=True)
    world.hub.close()
    world.time.turn()
    assert not [call for _, _, call in world.time._calls if call.call is not None]
