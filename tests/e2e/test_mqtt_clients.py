"""Real MQTT libraries through a real gateway, to its hub and to a real Mosquitto: what applications do all day."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from tests.e2e.clients import random_bytes
from tests.e2e.mqtt_clients import OPENERS
from tests.e2e.mqtt_node import Node
from tests.e2e.mqtt_sites import MQTTSite
from tests.e2e.mqtt_vocabulary import V5, V31, V311, Extras, Message, MQTTClient, Opener, Wish

EXTRAS = Extras(
    content_type="application/senml+json",
    user_properties=(("a", "1"), ("a", "2"), ("ä", "気温")),
    response_topic="answers/to/me",
    correlation=b"\0\xff\x80",
)
versions = pytest.mark.parametrize("version", [V311, V5], ids=["3.1.1", "5"])


@pytest.fixture
def site(mqtt_site: MQTTSite) -> MQTTSite:
    return mqtt_site


def expect(client: MQTTClient, *messages: Message) -> None:
    """These, in this order, and with nothing more said with them."""
    assert [client.receive() for _ in messages] == list(messages)


# --- getting in -------------------------------------------------------------------------------------------------------


@versions
@pytest.mark.parametrize("shown", ["certificate and password", "certificate", "password"])
def test_getting_in(site: MQTTSite, mqtt_opener: Opener, version: int, shown: str) -> None:
    """Without the password it is filled from the certificate; without the certificate this is plain MQTTS."""
    account = site.account(site.alice, password="password" in shown, certificate="certificate" in shown)
    place = site.place()
    with mqtt_opener(account, site.hello(version)) as client:
        assert not client.session_present
        assert client.subscribe(Wish(place)) == [0]
        client.publish(Message(place, b"to myself"))
        expect(client, Message(place, b"to myself"))


def test_mqtt_3_1(site: MQTTSite, mqtt_js: Node) -> None:
    """Of the libraries, these two still speak it."""
    for opener in (OPENERS["paho"], mqtt_js.open):
        place = site.place()
        with opener(site.account(site.alice), site.hello(V31)) as client:
            assert client.subscribe(Wish(place, 2)) == [2]
            client.publish(Message(place, b"old", 2))
            expect(client, Message(place, b"old", 2))


# --- messages ---------------------------------------------------------------------------------------------------------


@versions
def test_each_quality_of_service(site: MQTTSite, mqtt_opener: Opener, version: int) -> None:
    """Between two things. A message comes with the lower of both (MQTT-3.8.4)."""
    place = site.place()
    with (
        mqtt_opener(site.account(site.alice), site.hello(version)) as sender,
        mqtt_opener(site.account(site.bob), site.hello(version)) as receiver,
    ):
        assert receiver.subscribe(Wish(f"{place}/0", 0), Wish(f"{place}/1", 1), Wish(f"{place}/2/#", 2)) == [0, 1, 2]
        for granted in (0, 1, 2):
            for qos in (0, 1, 2):
                sender.publish(Message(f"{place}/{granted}", f"{qos}".encode(), qos))
                expect(receiver, Message(f"{place}/{granted}", f"{qos}".encode(), min(qos, granted)))
        receiver.unsubscribe(f"{place}/0")
        sender.publish(Message(f"{place}/0", b"nobody's"))
        sender.publish(Message(f"{place}/2/below", b"next"))
        expect(receiver, Message(f"{place}/2/below", b"next"))


@versions
def test_many_in_order(site: MQTTSite, mqtt_opener: Opener, version: int) -> None:
    place = site.place()
    messages = [Message(place, b"%d" % number, number % 3) for number in range(24)]
    with mqtt_opener(site.account(site.alice), site.hello(version)) as client:
        client.subscribe(Wish(place, 2))
        for message in messages:
            client.publish(message)
        received = [client.receive() for _ in messages]
    for qos in (0, 1, 2):
        # In the order of their kind (MQTT-4.6.0): the handshakes of the others overtake each other.
        assert [one for one in received if one.qos == qos] == [one for one in messages if one.qos == qos]


@versions
def test_200_kb(site: MQTTSite, mqtt_opener: Opener, version: int) -> None:
    message = Message(site.place(), random_bytes(200_000), 1)
    with mqtt_opener(site.account(site.alice), site.hello(version)) as client:
        client.subscribe(Wish(message.topic, 1))
        client.publish(message)
        expect(client, message)


@versions
def test_a_retained_message(site: MQTTSite, mqtt_opener: Opener, version: int) -> None:
    place = site.place()
    kept = Message(place, b"the latest", 1, retain=True)
    with mqtt_opener(site.account(site.alice), site.hello(version)) as sender:
        sender.publish(Message(place, b"an old one", 1, retain=True))
        sender.publish(kept)
        with mqtt_opener(site.account(site.bob), site.hello(version)) as receiver:
            receiver.subscribe(Wish(place, 1))
            expect(receiver, kept)
            # To whoever has subscribed already, it is a message as any other (MQTT-3.3.1-12).
            sender.publish(Message(place, b"", 1, retain=True))
            expect(receiver, Message(place, b"", 1))
        with mqtt_opener(site.account(site.bob), site.hello(version)) as receiver:
            receiver.subscribe(Wish(place, 1))
            sender.publish(Message(place, b"not retained"))
            expect(receiver, Message(place, b"not retained"))


@versions
def test_a_will(site: MQTTSite, mqtt_opener: Opener, version: int) -> None:
    """Of whoever vanishes, and of nobody who takes its leave."""
    place = site.place()
    will = Message(place, b"I am gone", 1, extras=EXTRAS if version == V5 else Extras())
    with mqtt_opener(site.account(site.bob), site.hello(version)) as watcher:
        watcher.subscribe(Wish(place, 1))
        with mqtt_opener(site.account(site.alice), site.hello(version, will=will)) as leaving:
            leaving.leave()
        with mqtt_opener(site.account(site.alice), site.hello(version, will=will)) as vanishing:
            vanishing.publish(Message(place, b"so far"))
            expect(watcher, Message(place, b"so far"))
            vanishing.vanish()
        expect(watcher, will)
        watcher.publish(Message(place, b"anything else?"))
        expect(watcher, Message(place, b"anything else?"))


@versions
def test_a_session_that_is_kept(site: MQTTSite, mqtt_opener: Opener, version: int) -> None:
    """What comes while its client is away waits for it, with QoS 1 and 2."""
    place = site.place()
    hello = site.hello(version, clean=False, expiry=600 if version == V5 else None)
    account = site.account(site.bob)
    with mqtt_opener(account, hello) as client:
        assert not client.session_present
        client.subscribe(Wish(place, 2))
    with mqtt_opener(site.account(site.alice), site.hello(version)) as sender:
        for qos in (1, 2, 1):
            sender.publish(Message(place, b"while you were away", qos))
    with mqtt_opener(account, hello) as client:
        assert client.session_present
        received = [client.receive() for _ in range(3)]
        # Its handshake lets a message with QoS 2 come later.
        assert sorted(received, key=lambda message: message.qos) == [
            Message(place, b"while you were away", qos) for qos in (1, 1, 2)
        ]
    with mqtt_opener(account, replace(hello, clean=True, expiry=0 if version == V5 else None)) as client:
        assert not client.session_present


def test_an_idle_client_is_kept_by_its_pings(site: MQTTSite, mqtt_js: Node) -> None:
    """With a keep-alive of two seconds whoever says nothing is cut off after three."""
    place = site.place()
    with ExitStack() as stack:
        clients = [
            stack.enter_context(opener(site.account(site.alice), site.hello(version, keep_alive=2)))
            for opener in (*OPENERS.values(), mqtt_js.open)
            for version in (V311, V5)
        ]
        time.sleep(3.5)
        for client in clients:
            client.subscribe(Wish(place))
            client.publish(Message(place, b"still here"))
            expect(client, Message(place, b"still here"))
            client.leave()


# --- 5.0 --------------------------------------------------------------------------------------------------------------


def test_what_is_said_with_a_message(site: MQTTSite, mqtt_opener: Opener) -> None:
    place = site.place()
    with mqtt_opener(site.account(site.alice), site.hello(V5)) as client:
        client.subscribe(Wish(place, 1, identifier=4711))
        client.publish(Message(place, b"payload", 1, extras=replace(EXTRAS, expiry=600)))
        message = client.receive()
        expiry = message.extras.expiry
        assert expiry is not None
        assert 590 < expiry <= 600
        extras = replace(EXTRAS, expiry=expiry, subscription_ids=(4711,))
        assert message == Message(place, b"payload", 1, extras=extras)


def test_a_message_that_has_expired(site: MQTTSite, mqtt_js: Node) -> None:
    """While nobody took it: retained, and in a session."""
    openers = (*OPENERS.values(), mqtt_js.open)
    sessions = [(opener, site.place(), site.hello(V5, clean=False, expiry=600)) for opener in openers]
    for opener, place, hello in sessions:
        with opener(site.account(site.bob), hello) as client:
            client.subscribe(Wish(f"{place}/#", 1))
            client.publish(Message(f"{place}/retained", b"old", 1, retain=True, extras=Extras(expiry=1)))
            client.receive()
        with opener(site.account(site.alice), site.hello(V5)) as sender:
            sender.publish(Message(f"{place}/queued", b"old", 1, extras=Extras(expiry=1)))
    time.sleep(2.1)
    for opener, place, hello in sessions:
        with opener(site.account(site.bob), hello) as client:
            assert client.session_present
            client.subscribe(Wish(f"{place}/retained", 1))
            client.publish(Message(f"{place}/queued", b"new", 1))
            expect(client, Message(f"{place}/queued", b"new", 1))


def test_no_local_and_retain_handling(site: MQTTSite, mqtt_opener: Opener) -> None:
    place = site.place()
    with (
        mqtt_opener(site.account(site.alice), site.hello(V5)) as one,
        mqtt_opener(site.account(site.bob), site.hello(V5)) as other,
    ):
        one.publish(Message(place, b"retained", 1, retain=True))
        one.subscribe(Wish(place, 1, no_local=True, retain_handling=2))
        one.publish(Message(place, b"mine", 1))
        other.subscribe(Wish(place, 1, retain_as_published=True))
        expect(other, Message(place, b"retained", 1, retain=True))
        other.publish(Message(place, b"theirs", 1, retain=True))
        expect(one, Message(place, b"theirs", 1))
        expect(other, Message(place, b"theirs", 1, retain=True))


def test_topic_aliases_of_a_client(site: MQTTSite, mqtt_js: Node) -> None:
    """gmqtt, aiomqtt and paho leave the topic out only where they are told to."""
    place = site.place()
    for opener in (OPENERS["paho"], OPENERS["aiomqtt"], mqtt_js.open):
        with opener(site.account(site.alice), site.hello(V5)) as client:
            client.subscribe(Wish(f"{place}/#", 1))
            for topic, alias, payload in (
                ("one", 1, b"1"),
                ("two", 2, b"2"),
                ("", 1, b"1"),
                ("three", 1, b"3"),
                ("", 1, b"3"),
            ):
                client.publish(Message(f"{place}/{topic}" if topic else "", payload, 1, extras=Extras(alias=alias)))
            names = {b"1": "one", b"2": "two", b"3": "three"}
            expect(client, *(Message(f"{place}/{names[one]}", one, 1) for one in (b"1", b"2", b"1", b"3", b"3")))


def test_topic_aliases_of_the_server(site: MQTTSite, mqtt_js: Node) -> None:
    """Whoever takes them gets messages with the topics that they stand for."""
    place = site.place()
    for opener in (OPENERS["gmqtt"], mqtt_js.open):
        with opener(site.account(site.alice), site.hello(V5, aliases=5)) as client:
            client.subscribe(Wish(f"{place}/#", 1))
            for number in (1, 2, 1, 2, 3, 1, 4, 5, 6, 7, 1, 2, 6, 7):
                client.publish(Message(f"{place}/{number}", b"%d" % number, 1))
                message = client.receive()
                assert (message.topic, message.payload) == (f"{place}/{number}", b"%d" % number)


# --- shared -----------------------------------------------------------------------------------------------------------


@versions
def test_a_shared_subscription(site: MQTTSite, mqtt_opener: Opener, version: int) -> None:
    """Each message reaches one of the group, and everybody who is not of it."""
    place = site.place()
    with ExitStack() as stack:
        workers = [
            stack.enter_context(mqtt_opener(site.account(device), site.hello(version)))
            for device in (site.alice, site.bob)
        ]
        for worker in workers:
            assert worker.subscribe(Wish(f"$share/workers/{place}", 1)) == [1]
        watcher = stack.enter_context(mqtt_opener(site.account(site.bob), site.hello(version)))
        watcher.subscribe(Wish(place, 1))
        numbers = [b"%d" % number for number in range(10)]
        for number in numbers:
            watcher.publish(Message(place, number, 1))
        expect(watcher, *(Message(place, number, 1) for number in numbers))
        for worker in workers:
            worker.subscribe(Wish(f"{place}/end"))
            worker.publish(Message(f"{place}/end", b"end"))
        received = [list(up_to_the_end(worker)) for worker in workers]
        assert sorted(itertools.chain(*received)) == numbers
        assert all(received)


def up_to_the_end(client: MQTTClient) -> Iterator[bytes]:
    while (payload := client.receive().payload) != b"end":
        yield payload
