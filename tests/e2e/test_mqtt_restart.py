"""Ends in the middle of something: of the gateway, of the broker, of a subscriber's patience. What was acknowledged is
not lost, and what nobody takes is bounded.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from gateway.wire import mqtt
from gateway.wire.mqtt_packets import (
    ConnAck,
    Disconnect,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Reason,
    Refusal,
    Subscribe,
    Subscription,
    Version,
)
from tests.e2e.mqtt_sites import HUB, MQTTSite
from tests.gateways import PATIENCE, wait_until
from tests.mosquitto import Mosquitto
from tests.raw_mqtt import RawMQTT, connect_of

V311, V5 = Version.V311, Version.V5
both = pytest.mark.parametrize("version", [V311, V5], ids=["3.1.1", "5"])


@pytest.fixture
def hub_site(tmp_path: Path) -> Iterator[MQTTSite]:
    with MQTTSite.running(tmp_path / "gateway", HUB) as site:
        yield site


def kept(version: Version) -> dict[str, Any]:
    properties = Properties(session_expiry=600) if version is V5 else Properties()
    return {"clean_start": False, "properties": properties}


def publish(client: RawMQTT, place: str, payload: bytes, qos: int, *, retain: bool = False) -> None:
    """Until it is acknowledged."""
    answer = client.exchange(Publish(place, payload, qos, retain, packet_id=1))
    if qos == 2:
        assert isinstance(answer, PubRec)
        answer = client.exchange(PubRel(1))
    assert isinstance(answer, PubAck | PubComp)
    assert answer.code in (Reason.SUCCESS, Reason.NO_MATCHING_SUBSCRIBERS)


def kill(site: MQTTSite) -> None:
    assert site.gateway.process is not None
    site.gateway.process.kill()
    site.gateway.process.wait()


# --- the hub ----------------------------------------------------------------------------------------------------------


@both
def test_what_was_acknowledged_survives_a_kill(hub_site: MQTTSite, version: Version) -> None:
    """Retained messages, sessions with their subscriptions, and what waits for them."""
    site, place = hub_site, hub_site.place()
    with site.raw(site.bob.certificate) as client:
        assert not client.log_in(connect_of(site.bob, version, **kept(version))).session_present
        client.exchange(Subscribe(1, (Subscription(f"{place}/queued", 2),)))
    wait_until(lambda: site.gateway.end_of(client.name), "it is gone")
    with site.raw(site.alice.certificate) as sender:
        sender.log_in(connect_of(site.alice, version))
        publish(sender, f"{place}/retained", b"retained", 1, retain=True)
        for number in range(20):
            publish(sender, f"{place}/queued", b"%d" % number, 1 + number % 2)
        # Of a message with QoS 2 whose end is still due, the identifier has to be known.
        sender.exchange(Publish(f"{place}/queued", b"half", 2, packet_id=7))
        kill(site)
    site.gateway.start()
    with site.raw(site.bob.certificate) as client:
        assert client.log_in(connect_of(site.bob, version, **kept(version))).session_present
        received = list(take(client, 21))
        assert sorted(received) == sorted([b"half", *(b"%d" % number for number in range(20))])
        with site.raw(site.alice.certificate) as sender:
            sender.log_in(connect_of(site.alice, version))
            publish(sender, f"{place}/queued", b"still subscribed", 1)
        assert list(take(client, 1)) == [b"still subscribed"]
        client.say(Subscribe(2, (Subscription(f"{place}/retained", 1),)))
        heard = [client.hear(), client.hear()]
        assert [one.payload for one in heard if isinstance(one, Publish)] == [b"retained"]


def take(client: RawMQTT, count: int) -> Iterator[bytes]:
    """So many messages, each acknowledged up to its end."""
    due = count
    while due:
        packet = client.hear()
        if isinstance(packet, Publish):
            yield packet.payload
            client.say(PubAck(packet.packet_id) if packet.qos == 1 else PubRec(packet.packet_id))
            due -= packet.qos == 1
        elif isinstance(packet, PubRel):
            client.say(PubComp(packet.packet_id))
            due -= 1
        else:
            assert packet is not None, "the connection has ended"


def test_a_session_that_is_interrupted_goes_on(hub_site: MQTTSite) -> None:
    """What was sent and not acknowledged comes again, as a duplicate; what was half done is finished."""
    site, place = hub_site, hub_site.place()
    with site.raw(site.bob.certificate) as client, site.raw(site.alice.certificate) as sender:
        client.log_in(connect_of(site.bob, V311, clean_start=False))
        client.exchange(Subscribe(1, (Subscription(place, 2),)))
        sender.log_in(connect_of(site.alice, V311))
        publish(sender, place, b"once", 1)
        publish(sender, place, b"exactly once", 2)
        first, second = client.hear(), client.hear()
        assert isinstance(first, Publish)
        assert isinstance(second, Publish)
        assert client.exchange(PubRec(second.packet_id)) == PubRel(second.packet_id)
        kill(site)
    site.gateway.start()
    with site.raw(site.bob.certificate) as client:
        assert client.log_in(connect_of(site.bob, V311, clean_start=False)).session_present
        again = [client.hear(), client.hear()]
        assert Publish(place, b"once", 1, dup=True, packet_id=first.packet_id) in again
        assert PubRel(second.packet_id) in again
        client.say(PubAck(first.packet_id), PubComp(second.packet_id))
        client.check_alive()


def test_a_shutdown_is_told(hub_site: MQTTSite) -> None:
    with ExitStack() as stack:
        old, new = (
            stack.enter_context(hub_site.raw(hub_site.alice.certificate)),
            stack.enter_context(hub_site.raw(hub_site.bob.certificate)),
        )
        old.log_in(connect_of(hub_site.alice, V311))
        new.log_in(connect_of(hub_site.bob, V5))
        assert hub_site.gateway.stop() == 0
        assert new.hear_all() == [Disconnect(Reason.SERVER_SHUTTING_DOWN)]
        assert old.hear_all() == []


@both
def test_a_slow_subscriber_is_bounded(tmp_path: Path, version: Version) -> None:
    """Of QoS 1 it gets as much as may wait for it, and is then disconnected; of QoS 0 it misses what it does not take.
    Nobody else is held up, and the process does not grow with it."""
    bounds = {"database": "memory", "max_queued": 50}
    with MQTTSite.running(tmp_path / "gateway", HUB, {"hub": bounds}) as site, ExitStack() as stack:
        assert site.gateway.process is not None
        process, payload, place = psutil.Process(site.gateway.process.pid), b"x" * 20_000, site.place()
        slow = stack.enter_context(site.raw(site.bob.certificate))
        slow.log_in(connect_of(site.bob, version))
        slow.exchange(Subscribe(1, (Subscription(f"{place}/1", 1), Subscription(f"{place}/0"))))
        sender = stack.enter_context(site.raw(site.alice.certificate))
        sender.log_in(connect_of(site.alice, version, "sender"))
        sender.check_alive()
        before = process.memory_info().rss
        for _ in range(2_000):
            sender.say(Publish(f"{place}/0", payload))
        sender.check_alive()
        # 40 MB were sent, and what was not taken was dropped.
        assert process.memory_info().rss - before < 25_000_000
        for _ in range(400):
            publish(sender, f"{place}/1", payload, 1)
        sender.check_alive()
        assert process.memory_info().rss - before < 25_000_000
        heard = slow.hear_all()
        assert all(isinstance(packet, Publish) for packet in heard[:-1])
        last = heard[-1]
        assert last == Disconnect(Reason.QUOTA_EXCEEDED) if version is V5 else isinstance(last, Publish)
        site.gateway.end_of(slow.name)


# --- a broker ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["killed", "stopped"])
def test_a_broker_that_goes(tmp_path: Path, mosquitto: Path, way: str) -> None:
    """Its clients are told. What it had acknowledged is there when it is back, as far as it has kept it: a Mosquitto
    that is killed keeps nothing."""
    with (
        Mosquitto.running(mosquitto) as broker,
        MQTTSite.running(tmp_path / "gateway", "another", {"mqtt:main": broker.upstream}) as site,
    ):
        place = site.place()
        with site.raw(site.bob.certificate) as receiver:
            receiver.log_in(connect_of(site.bob, V311, clean_start=False))
            receiver.exchange(Subscribe(1, (Subscription(place, 1),)))
        with site.raw(site.alice.certificate) as old, site.raw(site.alice.certificate) as new:
            old.log_in(connect_of(site.alice, V311, "old"))
            new.log_in(connect_of(site.alice, V5, "new"))
            for number in range(10):
                publish(new, place, b"%d" % number, 1)
            broker.kill() if way == "killed" else broker.stop()
            assert old.hear_all() == []
            assert new.hear_all() == [Disconnect(Reason.SERVER_SHUTTING_DOWN)]
        for version, code in ((V5, Reason.SERVER_UNAVAILABLE), (V311, Refusal.SERVER_UNAVAILABLE)):
            with site.raw(site.alice.certificate) as client:
                assert client.log_in(connect_of(site.alice, version)).code == code
        broker.start()
        with site.raw(site.bob.certificate) as receiver:
            answer = receiver.log_in(connect_of(site.bob, V311, clean_start=False))
            if way == "stopped":
                assert answer.session_present
                assert list(take(receiver, 10)) == [b"%d" % number for number in range(10)]
            receiver.check_alive()
        site.gateway.check_at_rest()


def test_nothing_is_acknowledged_in_the_brokers_place(tmp_path: Path) -> None:
    """A broker that takes messages and dies before it has acknowledged them: their sender hears no acknowledgement."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        upstream = {"upstream": f"127.0.0.1:{listening.getsockname()[1]}", "tls": "disable"}
        running = MQTTSite.running(tmp_path / "gateway", "another", {"mqtt:main": upstream})
        with running as site, site.raw(site.alice.certificate) as client:
            client.version = V5
            messages = [Publish(site.place(), b"x", 1, packet_id=number) for number in (1, 2, 3)]
            client.say(connect_of(site.alice, V5), *messages)
            broker, _ = listening.accept()
            with broker:
                broker.settimeout(PATIENCE)
                assert broker.recv(65_536)[0] == 0x10
                broker.sendall(mqtt.serialize(ConnAck(), V5))
                assert isinstance(client.hear(), ConnAck)
                heard = b""
                while heard.count(b"/messages/") < 3:
                    heard += broker.recv(65_536)
                broker.sendall(mqtt.serialize(PubAck(1), V5))
                assert client.hear() == PubAck(1)
            assert client.hear_all() == [Disconnect(Reason.SERVER_SHUTTING_DOWN)]
