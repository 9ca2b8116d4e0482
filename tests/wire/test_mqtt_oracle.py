"""MQTT's grammar beside two that others wrote: `mqtt5` for 5.0, and paho for 3.1 and 3.1.1.

What we write they read as the same, and what they write we read as the same. Where one of them takes more than the
standard does, a test says so, and we follow the standard.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import mqtt5
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt import _packet as paho
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from gateway.wire import mqtt_packets as ours
from gateway.wire.mqtt import frame, parse, parse_connect, serialize
from gateway.wire.mqtt_packets import Connect, Malformed, Packet, Properties, Publish, Subscription, Version, Will
from tests import mqtt_packets

unhurried = settings(deadline=None)
LIMIT = 1 << 20


def read(data: bytes, version: Version) -> Packet:
    found = frame(data, 0, LIMIT)
    assert found is not None
    assert found[1] == len(data)
    return parse_connect(data, 0, *found) if data[0] == 0x10 else parse(data, 0, *found, version)


# --- 5.0 -------------------------------------------------------------------------------------------------------------

# Where mqtt5 has another word for it.
THEIR_NAMES = {
    "payload_format": "payload_format_indicator",
    "message_expiry": "message_expiry_interval",
    "subscription_identifiers": "subscription_ids",
    "session_expiry": "session_expiry_interval",
    "assigned_client_identifier": "assigned_client_id",
    "request_problem_information": "request_problem_info",
    "will_delay": "will_delay_interval",
    "request_response_information": "request_response_info",
    "response_information": "response_info",
    "reason_string": "reason_str",
    "receive_maximum": "receive_max",
    "topic_alias_maximum": "topic_alias_max",
    "maximum_qos": "max_qos",
    "maximum_packet_size": "max_packet_size",
    "subscription_identifier_available": "subscription_id_available",
}
FLAGS = {
    *("request_problem_information", "request_response_information", "retain_available"),
    *("wildcard_subscription_available", "subscription_identifier_available", "shared_subscription_available"),
}


def theirs_of(properties: Properties) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for name, their_name in {name: THEIR_NAMES.get(name, name) for name in Properties.__slots__}.items():
        value = getattr(properties, name)
        if value is None or value == ():
            continue
        if name in FLAGS:
            value = bool(value)
        elif name == "maximum_qos":
            value = mqtt5.QoS(value)
        said[their_name] = list(value) if isinstance(value, tuple) else value
    return said


def their_will(will: Will | None) -> mqtt5.Will | None:
    if will is None:
        return None
    more = theirs_of(will.properties)
    return mqtt5.Will(will.topic, payload=will.payload, qos=mqtt5.QoS(will.qos), retain=will.retain, **more)


def their_connect(packet: Connect, more: dict[str, Any]) -> Any:
    return mqtt5.ConnectPacket(
        packet.client_id,
        username=packet.user_name,
        password=packet.password,
        clean_start=packet.clean_start,
        will=their_will(packet.will),
        keep_alive=packet.keep_alive,
        **more,
    )


def their_publish(packet: Publish, more: dict[str, Any]) -> Any:
    return mqtt5.PublishPacket(
        packet.topic,
        packet.payload,
        qos=mqtt5.QoS(packet.qos),
        retain=packet.retain,
        packet_id=packet.packet_id or None,
        duplicate=packet.dup,
        **more,
    )


def their_filter(one: Subscription) -> mqtt5.TopicFilter:
    return mqtt5.TopicFilter(
        one.filter,
        max_qos=mqtt5.QoS(one.qos),
        no_local=one.no_local,
        retain_as_published=one.retain_as_published,
        retain_handling=mqtt5.RetainHandling(one.retain_handling),
    )


def their_subscribe(packet: ours.Subscribe, more: dict[str, Any]) -> Any:
    if "subscription_ids" in more:
        (more["subscription_id"],) = more.pop("subscription_ids")
    return mqtt5.SubscribePacket(packet.packet_id, [their_filter(one) for one in packet.subscriptions], **more)


THEIRS: dict[type, Callable[[Any, dict[str, Any]], Any]] = {
    Connect: their_connect,
    Publish: their_publish,
    ours.ConnAck: lambda one, more: mqtt5.ConnAckPacket(
        session_present=one.session_present, reason_code=mqtt5.ConnAckReasonCode(one.code), **more
    ),
    ours.PubAck: lambda one, more: mqtt5.PubAckPacket(
        one.packet_id, reason_code=mqtt5.PubAckReasonCode(one.code), **more
    ),
    ours.PubRec: lambda one, more: mqtt5.PubRecPacket(
        one.packet_id, reason_code=mqtt5.PubRecReasonCode(one.code), **more
    ),
    ours.PubRel: lambda one, more: mqtt5.PubRelPacket(
        one.packet_id, reason_code=mqtt5.PubRelReasonCode(one.code), **more
    ),
    ours.PubComp: lambda one, more: mqtt5.PubCompPacket(
        one.packet_id, reason_code=mqtt5.PubCompReasonCode(one.code), **more
    ),
    ours.Subscribe: their_subscribe,
    ours.SubAck: lambda one, more: mqtt5.SubAckPacket(
        one.packet_id, [mqtt5.SubAckReasonCode(code) for code in one.codes], **more
    ),
    ours.Unsubscribe: lambda one, more: mqtt5.UnsubscribePacket(one.packet_id, list(one.filters), **more),
    ours.UnsubAck: lambda one, more: mqtt5.UnsubAckPacket(
        one.packet_id, [mqtt5.UnsubAckReasonCode(code) for code in one.codes], **more
    ),
    ours.PingReq: lambda _, __: mqtt5.PingReqPacket(),
    ours.PingResp: lambda _, __: mqtt5.PingRespPacket(),
    ours.Disconnect: lambda one, more: mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode(one.code), **more),
    ours.Auth: lambda one, more: mqtt5.AuthPacket(reason_code=mqtt5.AuthReasonCode(one.code), **more),
}


def theirs(packet: Packet) -> Any:
    return THEIRS[type(packet)](packet, theirs_of(getattr(packet, "properties", ours.NOTHING)))


def is_known_to_them(packet: Packet) -> bool:
    """They have no 0x8C in DISCONNECT (the table of 2.4 has it), and no AUTH of no bytes (3.15.2.1 does)."""
    return packet != ours.Auth() and not (isinstance(packet, ours.Disconnect) and packet.code == 0x8C)


packets_of_5 = mqtt_packets.all_packets(Version.V5).filter(is_known_to_them)


def test_their_equality_tells_packets_apart() -> None:
    """Otherwise the two tests below could not fail."""
    one, other = Publish("a", b"x"), Publish("a", b"y")
    assert theirs(one) == theirs(one)
    assert theirs(one) != theirs(other)
    assert theirs(one) != theirs(Publish("a", b"x", properties=Properties(content_type="")))


@settings(deadline=None, max_examples=300)
@given(packets_of_5)
def test_they_read_what_we_write(packet: Packet) -> None:
    data = serialize(packet, Version.V5)
    assert mqtt5.read(memoryview(data)) == (theirs(packet), len(data))


@settings(deadline=None, max_examples=300)
@given(packets_of_5)
def test_we_read_what_they_write(packet: Packet) -> None:
    """They leave out what is the default; so it is compared in their words."""
    again = read(theirs(packet).write(), Version.V5)
    assert type(again) is type(packet)
    assert theirs(again) == theirs(packet)


@settings(deadline=None, max_examples=500)
@given(packets_of_5, st.data())
def test_what_we_take_they_take_as_the_same(packet: Packet, data: st.DataObject) -> None:
    """Bytes that were changed: we may refuse what they take, but never the other way round, nor read it otherwise."""
    changed = bytearray(serialize(packet, Version.V5))
    place = data.draw(st.integers(0, len(changed) - 1))
    changed[place] = data.draw(st.integers(0, 255))
    try:
        taken = read_first(bytes(changed))
    except Malformed:
        return
    if taken is not None and is_known_to_them(taken[0]):
        assert mqtt5.read(memoryview(changed)) == (theirs(taken[0]), taken[1])


def read_first(data: bytes) -> tuple[Packet, int] | None:
    found = frame(data, 0, LIMIT)
    if found is None or found[1] > len(data):
        return None
    if data[0] == 0x10:
        connect = parse_connect(data, 0, *found)
        # They know 5.0 alone.
        return (connect, found[1]) if connect.version is Version.V5 else None
    return parse(data, 0, *found, Version.V5), found[1]


# Where they take more than the standard does.
@pytest.mark.parametrize(
    ("data", "section"),
    [
        (b"\x30\x04\0\1+\0", "3.3.2-2: wildcards in the topic of a PUBLISH"),
        (b"\x30\x07\0\1a\3\x08\0\0", "3.3.2-13: a response topic that is no name"),
        (b"\x82\x10\0\1\0\0\x0a$share/g/a\4", "3.8.3-4: no local in a shared subscription"),
    ],
)
def test_where_we_follow_the_standard(data: bytes, section: str) -> None:
    assert mqtt5.read(memoryview(data))[1] == len(data), section
    with pytest.raises(Malformed):
        read(data, Version.V5)


# --- 3.1 and 3.1.1 ---------------------------------------------------------------------------------------------------

OLD = [Version.V31, Version.V311]
old_versions = st.sampled_from(OLD)
PAHO_VERSIONS = {Version.V31: MQTTProtocolVersion.MQTTv31, Version.V311: MQTTProtocolVersion.MQTTv311}


class NoSocket:
    def close(self) -> None:
        """There is nothing to close."""


class Writer(Client):
    """paho's client, without a network: what it would send is kept."""

    def __init__(self, version: Version, client_id: str = "me", *, clean: bool = True) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id, clean, protocol=PAHO_VERSIONS[version])
        self.sent: list[bytes] = []
        # It asks whether there is one, and closes it in the end.
        self._sock = cast(Any, NoSocket())

    def _packet_queue(self, command: Any, packet: Any, *_: Any) -> MQTTErrorCode:
        self.sent.append(bytes(packet))
        return MQTTErrorCode.MQTT_ERR_SUCCESS


@st.composite
def old_connects(draw: st.DrawFn) -> Connect:
    packet = draw(old_versions.flatmap(mqtt_packets.connects))
    # An empty one paho replaces by its own, and it wants a clean session with it.
    return packet if packet.client_id else draw(st.just(Connect(packet.version, "me", True, packet.keep_alive)))


@unhurried
@given(old_connects())
def test_paho_s_connect(packet: Connect) -> None:
    writer = Writer(packet.version, packet.client_id, clean=packet.clean_start)
    if packet.user_name is not None:
        # Its own way to set a password takes text.
        writer._username, writer._password = packet.user_name.encode(), packet.password
    if packet.will is not None:
        writer.will_set(packet.will.topic, packet.will.payload, packet.will.qos, packet.will.retain)
    writer._send_connect(packet.keep_alive)
    assert writer.sent == [serialize(packet, packet.version)]
    assert read(writer.sent[0], packet.version) == packet


@unhurried
@given(old_versions.flatmap(lambda version: st.tuples(st.just(version), mqtt_packets.publishes(version))))
def test_paho_s_publish(case: tuple[Version, Publish]) -> None:
    version, packet = case
    writer, topic = Writer(version), packet.topic.encode()
    writer._send_publish(packet.packet_id, topic, packet.payload, packet.qos, packet.retain, packet.dup)
    data = serialize(packet, version)
    assert writer.sent == [data]
    assert read(data, version) == packet
    again = paho.decode_publish(data[0], content(data), PAHO_VERSIONS[version])
    assert (again.topic, again.payload, again.qos, again.retain) == (topic, packet.payload, packet.qos, packet.retain)
    assert (again.dup, again.mid) == (packet.dup, packet.packet_id)


def content(data: bytes) -> bytes:
    found = frame(data, 0, LIMIT)
    assert found is not None
    return data[found[0] : found[1]]


@unhurried
@given(old_versions, st.lists(st.tuples(mqtt_packets.filters, st.integers(0, 2)), min_size=1, max_size=4))
def test_paho_s_subscribe_and_unsubscribe(version: Version, wanted: list[tuple[str, int]]) -> None:
    writer = Writer(version)
    writer._send_subscribe(0, [(topic_filter.encode(), qos) for topic_filter, qos in wanted])
    writer._send_unsubscribe(0, [topic_filter.encode() for topic_filter, _ in wanted])
    subscribe = ours.Subscribe(1, tuple(Subscription(*one) for one in wanted))
    unsubscribe = ours.Unsubscribe(2, tuple(topic_filter for topic_filter, _ in wanted))
    assert writer.sent == [serialize(subscribe, version), serialize(unsubscribe, version)]
    assert [read(data, version) for data in writer.sent] == [subscribe, unsubscribe]


@pytest.mark.parametrize("version", OLD)
def test_paho_s_short_packets(version: Version) -> None:
    writer = Writer(version)
    for send in (writer._send_puback, writer._send_pubrec, writer._send_pubrel, writer._send_pubcomp):
        send(0x102)
    writer._send_pingreq()
    writer._send_pingresp()
    writer._send_disconnect()
    acks: list[Packet] = [ours.PubAck(0x102), ours.PubRec(0x102), ours.PubRel(0x102), ours.PubComp(0x102)]
    packets: list[Packet] = [*acks, ours.PingReq(), ours.PingResp(), ours.Disconnect()]
    assert writer.sent == [serialize(packet, version) for packet in packets]
    assert [read(data, version) for data in writer.sent] == packets
    # Each is a named tuple that begins with the identifier; it says so of some only.
    decoders = (paho.decode_puback, paho.decode_pubrec, paho.decode_pubrel, paho.decode_pubcomp)
    for decode, data in zip(decoders, writer.sent, strict=False):
        assert decode(data[0], content(data), PAHO_VERSIONS[version])[0] == 0x102


@pytest.mark.parametrize("version", OLD)
def test_what_paho_reads_of_a_server(version: Version) -> None:
    for present, code in ((False, 0), (True, 0), (False, 5)):
        data = serialize(ours.ConnAck(present, code), version)
        connack = paho.decode_connack(data[0], content(data), PAHO_VERSIONS[version])
        assert (connack.flags, int(connack.rc)) == (present, code)
    data = serialize(ours.SubAck(0x102, (0, 1, 2, 0x80)), version)
    suback = paho.decode_suback(data[0], content(data), PAHO_VERSIONS[version])
    assert (suback.mid, suback.granted_qos) == (0x102, (0, 1, 2, 0x80))
    data = serialize(ours.UnsubAck(0x102), version)
    assert paho.decode_unsuback(data[0], content(data), PAHO_VERSIONS[version]).mid == 0x102
