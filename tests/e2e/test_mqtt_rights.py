"""What MQTT clients may publish and subscribe to through a real gateway: each code at its place, or the end."""

from __future__ import annotations

import pytest

from gateway.wire.mqtt_packets import (
    Disconnect,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Reason,
    Refusal,
    SubAck,
    Subscribe,
    Subscription,
    Version,
)
from tests.e2e.mqtt_sites import MQTTSite
from tests.raw_https import End
from tests.things import topic

V31, V311, V5 = Version.V31, Version.V311, Version.V5
versions = pytest.mark.parametrize("version", [V311, V5], ids=["3.1.1", "5"])


@pytest.fixture
def site(mqtt_site: MQTTSite) -> MQTTSite:
    return mqtt_site


def code_of(version: Version, old: Refusal, new: Reason) -> int:
    return new if version is V5 else old


def not_its_own(site: MQTTSite) -> list[str]:
    """Topics that alice may not publish to."""
    return [
        topic(site.other),
        topic("00000000-0000-4000-8000-000000000000"),
        f"x/{site.channel}/messages",
        f"channels/{site.channel}/messagesx",
        f"channels/{site.channel}",
        f"channels/{site.channel}/",
        f"/{topic(site.channel)}",
        topic(site.channel).upper(),
        f"channels/{site.channel}/../{site.other}/messages",
        "$SYS/broker/version",
        f"$share/group/{topic(site.channel)}",
    ]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_denied_publish_before_5(site: MQTTSite, qos: int) -> None:
    """There is no code for it: the connection ends, and nobody hears of it."""
    with site.logged_in(site.mallory, V311) as watcher:
        watcher.exchange(Subscribe(1, (Subscription(f"{topic(site.other)}/#", 2),)))
        for name in not_its_own(site):
            with site.logged_in(site.alice, V311) as client:
                client.say(Publish(name, b"denied", qos, packet_id=1 if qos else 0))
                assert client.ending() is End.ORDERLY
            record = site.gateway.end_of(client.name)
            assert record["reason"] == "it may not publish to that topic"
        watcher.check_alive()


def test_a_denied_publish_in_5(site: MQTTSite) -> None:
    with site.logged_in(site.mallory, V311) as watcher, site.logged_in(site.alice, V5) as client:
        watcher.exchange(Subscribe(1, (Subscription(f"{topic(site.other)}/#", 2),)))
        for number, name in enumerate(not_its_own(site), 1):
            answer = client.exchange(Publish(name, b"denied", 1, packet_id=number))
            assert answer == PubAck(number, Reason.NOT_AUTHORIZED)
            answer = client.exchange(Publish(name, b"denied", 2, packet_id=number))
            assert answer == PubRec(number, Reason.NOT_AUTHORIZED)
        # Each can go on, and its identifiers are free again.
        place = site.place()
        assert isinstance(client.exchange(Subscribe(1, (Subscription(place),))), SubAck)
        client.say(Publish(place, b"allowed", 2, packet_id=1), PubRel(1))
        heard = [client.hear() for _ in range(3)]
        assert Publish(place, b"allowed") in heard
        assert [one for one in heard if not isinstance(one, Publish)] == [PubRec(1), PubComp(1)]
        client.say(Publish(topic(site.other), b"denied"))
        assert client.hear_all() == [Disconnect(Reason.NOT_AUTHORIZED)]
        watcher.check_alive()


def test_an_alias_of_a_denied_topic(site: MQTTSite) -> None:
    """What an alias stands for is asked, with each use of it and whatever it stood for before."""
    place, denied = site.place(), topic(site.other)

    def said(name: str, number: int, alias: int = 1) -> Publish:
        return Publish(name, b"x", 1, packet_id=number, properties=Properties(topic_alias=alias))

    with site.logged_in(site.alice, V5) as client:
        client.exchange(Subscribe(9, (Subscription(place),)))
        assert client.exchange(said(denied, 1)) == PubAck(1, Reason.NOT_AUTHORIZED)
        assert client.exchange(said("", 2)) == PubAck(2, Reason.NOT_AUTHORIZED)
        client.say(said(place, 3))
        assert {type(client.hear()), type(client.hear())} == {PubAck, Publish}
        client.say(said("", 4))
        assert {type(client.hear()), type(client.hear())} == {PubAck, Publish}
        assert client.exchange(said(denied, 5)) == PubAck(5, Reason.NOT_AUTHORIZED)
        assert client.exchange(said("", 6)) == PubAck(6, Reason.NOT_AUTHORIZED)
        client.say(said("", 7, alias=2))
        assert client.hear_all() == [Disconnect(Reason.PROTOCOL_ERROR)]


@versions
def test_denied_filters_among_allowed_ones(site: MQTTSite, version: Version) -> None:
    """Each has its code at its place, and only those that are allowed hold."""
    place = site.place()
    refused = code_of(version, Refusal.SUBSCRIPTION_FAILED, Reason.NOT_AUTHORIZED)
    wanted = {
        f"{place}/+": 1,
        topic(site.other): refused,
        "channels/+/messages": refused,
        "#": refused,
        f"{place}/a/#": 2,
        "$SYS/#": refused,
        "+/+/messages": refused,
        f"channels/{site.channel}/+": refused,
        f"channels/{site.channel}/#": refused,
        f"$share/group/{topic(site.other)}": refused,
        "$share/group/#": refused,
        f"$share/group/{place}/shared": 0,
        "$queue/#": refused,
    }
    asked = [Subscription(name, code if code < 3 else 1) for name, code in wanted.items()]
    with site.logged_in(site.alice, version) as client:
        answer = client.exchange(Subscribe(7, tuple(asked)))
        assert answer == SubAck(7, tuple(wanted.values()))
        assert client.exchange(Subscribe(8, (Subscription("#"),))) == SubAck(8, (refused,))
        with site.logged_in(site.mallory, V311) as mallory:
            for qos in (0, 1):
                mallory.say(Publish(topic(site.other), b"not for alice", qos, packet_id=qos))
            assert mallory.hear() == PubAck(1)
        client.check_alive()
