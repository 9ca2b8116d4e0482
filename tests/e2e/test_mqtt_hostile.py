"""Mutated MQTT over real sockets, cut anywhere: the process goes on answering, and nothing is left of it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from gateway.wire.mqtt_packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Malformed,
    Packet,
    PingReq,
    PingResp,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Version,
    Will,
)
from tests.e2e.mqtt_sites import MQTTSite
from tests.raw_mqtt import RawMQTT, connect_of
from tests.things import topic

SEED = 20_261_127
ROUNDS = 400
VERSIONS = (Version.V31, Version.V311, Version.V5)


@pytest.fixture
def site(mqtt_site: MQTTSite) -> MQTTSite:
    return mqtt_site


def first_packets(site: MQTTSite, version: Version) -> list[Packet]:
    will = Will(topic(site.channel, "will"), b"will", 1, True)
    properties = Properties()
    if version is Version.V5:
        names = (("a", "b"),)
        properties = Properties(session_expiry=1, receive_maximum=1, user_properties=names, topic_alias_maximum=3)
    return [
        connect_of(site.alice, version, "hostile", keep_alive=1, will=will, properties=properties),
        connect_of(site.alice, version, "hostile", clean_start=False),
        Connect(version, "hostile"),
    ]


def later_packets(site: MQTTSite, version: Version) -> list[Packet]:
    place = topic(site.channel, "hostile")
    said = Properties()
    if version is Version.V5:
        said = Properties(topic_alias=1, content_type="a/b", user_properties=(("a", "b"),), message_expiry=1)
    return [
        *(Publish(place, b"payload", qos, True, packet_id=qos, properties=said) for qos in (0, 1, 2)),
        Publish(topic(site.other), b"x"),
        *(kind(1) for kind in (PubAck, PubRec, PubRel, PubComp)),
        Subscribe(1, (Subscription(f"{place}/#", 2), Subscription("#"), Subscription(f"$share/a/{place}", 1))),
        Unsubscribe(2, (place, "#")),
        SubAck(1, (0,)),
        ConnAck(),
        UnsubAck(1, (0,) if version is Version.V5 else ()),
        PingReq(),
        PingResp(),
        *([Auth()] if version is Version.V5 else []),
        Disconnect(),
    ]


def mutated(chance: random.Random, data: bytes) -> bytes:
    """One thing or a few wrong with it."""
    content = bytearray(data)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 5))):
        at = chance.randrange(len(content)) if content else 0
        match chance.randrange(6):
            case 0 if content:
                content[at] ^= 1 << chance.randrange(8)
            case 1 if content:
                content[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del content[at : at + chance.randrange(1, 5)]
            case 3:
                content[at:at] = chance.randbytes(chance.randrange(1, 5))
            case 4:
                content[at:at] = content[at : at + chance.randrange(1, 30)]
            case _:
                # A length that promises more than there is, or has a byte too many.
                content[1:2] = chance.choice((b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff\x7f", b"\x80\x00", b"\x00"))
    return bytes(content)


def dialogues(site: MQTTSite) -> Iterator[tuple[Version, list[bytes]]]:
    """What is sent on each connection: in half of them the login is good, so that what follows is looked at."""
    chance = random.Random(SEED)
    for number in range(ROUNDS):
        version = VERSIONS[number % 3]
        writer = RawMQTT.__new__(RawMQTT)
        writer.version = version
        first = writer.written(chance.choice(first_packets(site, version)[: 1 if number % 2 else 3]))
        later = [writer.written(one) for one in chance.choices(later_packets(site, version), k=chance.randrange(1, 8))]
        spoiled = [mutated(chance, one) for one in later]
        data = (first if number % 2 else mutated(chance, first)) + b"".join(spoiled)
        cuts = sorted(chance.choices(range(len(data) + 1), k=chance.choice((0, 1, 3, 10))))
        yield version, [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def test_mutations(site: MQTTSite) -> None:
    """Whoever they come from, each is an end or an answer in its protocol."""
    gateway = site.gateway
    with RawMQTT.connected(gateway.mqtt_port, gateway.root_certificate, site.bob.certificate) as bystander:
        bystander.log_in(connect_of(site.bob, Version.V5, "bystander", keep_alive=0))
        for version, pieces in dialogues(site):
            certificate = site.alice.certificate
            with RawMQTT.connected(gateway.mqtt_port, gateway.root_certificate, certificate) as client:
                client.version = version
                for piece in pieces:
                    if piece and not client.try_send(piece):
                        break
                client.end_sending()
                for packet in strictly(client):
                    assert isinstance(packet, _OF_SERVERS)
            bystander.check_alive()
    assert len(gateway.audit()) >= ROUNDS


_OF_SERVERS = (
    *(ConnAck, Publish, PubAck, PubRec, PubRel, PubComp),
    *(SubAck, UnsubAck, PingResp, Disconnect),
)


def strictly(client: RawMQTT) -> Iterator[Packet]:
    """What the server says, up to the end. Of a version that it could not read it says what 3.1.1 has for that."""
    try:
        yield from client.hear_all()
    except Malformed:
        client.version = Version.V311 if client.version is Version.V5 else Version.V5
        yield from client.hear_all()
