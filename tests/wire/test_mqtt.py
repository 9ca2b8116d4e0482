"""MQTT's packets but CONNECT: what each looks like, and every rule with the bytes that break it."""

from __future__ import annotations

import pytest

from gateway.wire.mqtt import MAX_REMAINING, around_id, frame, parse, serialize
from gateway.wire.mqtt_packets import (
    NOTHING,
    Auth,
    ConnAck,
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
    Reason,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Version,
)
from gateway.wire.mqtt_reading import MAX_FILTERS

V31, V311, V5 = Version
BOTH, OLD = [V311, V5], [V31, V311]
MALFORMED, PROTOCOL = Reason.MALFORMED_PACKET, Reason.PROTOCOL_ERROR


def read(data: bytes, version: Version) -> Packet:
    found = frame(data, 0, 1 << 28)
    assert found is not None
    assert found[1] == len(data)
    return parse(data, 0, *found, version)


def refused(data: bytes, version: Version) -> Reason:
    with pytest.raises(Malformed) as error:
        read(data, version)
    return error.value.code


# --- frames --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "size"),
    [
        (b"\0", 0),
        (b"\x7f", 127),
        (b"\x80\x01", 128),
        (b"\xff\x7f", 16_383),
        (b"\x80\x80\x01", 16_384),
        (b"\xff\xff\x7f", 2_097_151),
        (b"\x80\x80\x80\x01", 2_097_152),
        (b"\xff\xff\xff\x7f", MAX_REMAINING),
    ],
)
def test_lengths(length: bytes, size: int) -> None:
    """The table of MQTT-1.5.5."""
    body, end = 1 + len(length), 1 + len(length) + size
    for before, after in ((b"", b""), (b"??", b""), (b"", b"\x80\0")):
        data, at = before + b"\x30" + length + after, len(before)
        assert frame(data, at, end) == (at + body, at + end)
        for cut in range(at, at + body):
            assert frame(data[:cut], at, end) is None
        with pytest.raises(Malformed) as error:
            frame(data, at, end - 1)
        assert error.value.code is Reason.PACKET_TOO_LARGE


@pytest.mark.parametrize(
    "length", [b"\x80\0", b"\xff\0", b"\x80\x80\0", b"\x80\x80\x80\0", b"\x80" * 4, b"\xff" * 4, b"\x80" * 5 + b"\x01"]
)
def test_lengths_that_are_too_long(length: bytes) -> None:
    """Known with the last byte that may be one, whatever follows."""
    for more in (b"", b"\x01", b"\x80"):
        with pytest.raises(Malformed) as error:
            frame(b"\x30" + length + more, 0, MAX_REMAINING)
        assert error.value.code is MALFORMED
    enough = length[: length.find(0) + 1] if 0 in length else length[:4]
    for cut in range(len(enough)):
        assert frame(b"\x30" + enough[:cut], 0, MAX_REMAINING) is None


def test_nothing_there() -> None:
    assert frame(b"", 0, 100) is None
    assert frame(b"\x30", 0, 100) is None
    assert frame(b"\x30\0", 2, 100) is None


# --- what each packet looks like -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "versions", "packet"),
    [
        (b"\x20\x02\0\0", OLD, ConnAck()),
        (b"\x20\x02\1\0", OLD, ConnAck(session_present=True)),
        (b"\x20\x02\0\5", OLD, ConnAck(code=5)),
        (b"\x20\x03\0\x87\0", [V5], ConnAck(code=0x87)),
        (b"\x30\x07\0\3a/bhi", OLD, Publish("a/b", b"hi")),
        (b"\x30\x03\0\1a", OLD, Publish("a", b"")),
        (b"\x31\x04\0\1a\0", [V5], Publish("a", b"", retain=True)),
        (b"\x3b\x06\0\1a\1\2x", OLD, Publish("a", b"x", 1, True, True, 0x102)),
        (b"\x34\x07\0\1a\1\2\0x", [V5], Publish("a", b"x", 2, packet_id=0x102)),
        (b"\x32\x09\0\0\0\7\3\x23\0\1x", [V5], Publish("", b"x", 1, packet_id=7, properties=Properties(topic_alias=1))),
        (b"\x40\x02\1\2", list(Version), PubAck(0x102)),
        (b"\x50\x02\1\2", list(Version), PubRec(0x102)),
        (b"\x62\x02\1\2", list(Version), PubRel(0x102)),
        (b"\x70\x02\1\2", list(Version), PubComp(0x102)),
        (b"\x40\x03\1\2\x10", [V5], PubAck(0x102, 0x10)),
        (b"\x50\x03\1\2\x97", [V5], PubRec(0x102, 0x97)),
        (b"\x62\x03\1\2\x92", [V5], PubRel(0x102, 0x92)),
        (b"\x70\x03\1\2\x92", [V5], PubComp(0x102, 0x92)),
        (b"\x40\x08\1\2\x10\4\x1f\0\1r", [V5], PubAck(0x102, 0x10, Properties(reason_string="r"))),
        (b"\x82\x06\0\1\0\1a\2", OLD, Subscribe(1, (Subscription("a", 2),))),
        (b"\x82\x0a\0\1\0\1a\0\0\1#\1", OLD, Subscribe(1, (Subscription("a"), Subscription("#", 1)))),
        (b"\x82\x07\0\1\0\0\1a\x2e", [V5], Subscribe(1, (Subscription("a", 2, True, True, 2),))),
        (b"\x90\x04\0\1\2\x80", OLD, SubAck(1, (2, 0x80))),
        (b"\x90\x04\0\1\0\x87", [V5], SubAck(1, (0x87,))),
        (b"\xa2\x05\0\1\0\1a", OLD, Unsubscribe(1, ("a",))),
        (b"\xa2\x09\0\1\0\0\1a\0\1b", [V5], Unsubscribe(1, ("a", "b"))),
        (b"\xb0\x02\0\1", OLD, UnsubAck(1)),
        (b"\xb0\x04\0\1\0\x11", [V5], UnsubAck(1, (0x11,))),
        (b"\xc0\0", list(Version), PingReq()),
        (b"\xd0\0", list(Version), PingResp()),
        (b"\xe0\0", list(Version), Disconnect()),
        (b"\xe0\1\x04", [V5], Disconnect(4)),
        (b"\xe0\x06\x8e\4\x1f\0\1r", [V5], Disconnect(0x8E, Properties(reason_string="r"))),
        (b"\xf0\0", [V5], Auth()),
        (b"\xf0\x06\x18\4\x15\0\1m", [V5], Auth(0x18, Properties(authentication_method="m"))),
    ],
)
def test_a_packet(data: bytes, versions: list[Version], packet: Packet) -> None:
    for version in versions:
        assert read(data, version) == packet
        assert serialize(packet, version) == data


@pytest.mark.parametrize(
    ("longer", "packet"),
    [
        (b"\x40\x03\1\2\0", PubAck(0x102)),
        (b"\x40\x04\1\2\0\0", PubAck(0x102)),
        (b"\x62\x04\1\2\x92\0", PubRel(0x102, 0x92)),
        (b"\xe0\1\0", Disconnect()),
        (b"\xe0\2\0\0", Disconnect()),
        (b"\xe0\2\x8b\0", Disconnect(0x8B)),
    ],
)
def test_the_longer_forms_of_5(longer: bytes, packet: Packet) -> None:
    assert read(longer, V5) == packet


def test_no_properties_are_always_the_same_object() -> None:
    for data in (b"\x30\x04\0\1a\0", b"\x40\x02\0\1", b"\x40\x04\0\1\0\0", b"\x20\x03\0\0\0", b"\xe0\0"):
        packet = read(data, V5)
        assert isinstance(packet, Publish | PubAck | ConnAck | Disconnect)
        assert packet.properties is NOTHING


def test_retransmissions_of_3_1() -> None:
    """3.1: 2.1 lets these be marked as duplicates; later versions do not."""
    for data in (b"\x6a\x02\0\1", b"\x8a\x06\0\1\0\1a\2", b"\xaa\x05\0\1\0\1a"):
        assert read(data, V31) == read(bytes((data[0] - 8,)) + data[1:], V31)
        assert refused(data, V311) is MALFORMED
        assert refused(data, V5) is MALFORMED


# --- fixed headers -------------------------------------------------------------------------------------------------

WHOLE = {
    0x20: b"\0\0",
    0x40: b"\0\1",
    0x50: b"\0\1",
    0x62: b"\0\1",
    0x70: b"\0\1",
    0x82: b"\0\1\0\1a\0",
    0x90: b"\0\1\0",
    0xA2: b"\0\1\0\1a",
    0xB0: b"\0\1",
    0xC0: b"",
    0xD0: b"",
    0xE0: b"",
}


@pytest.mark.parametrize("first", [first for first in range(256) if first & 0xF0 != 0x30])
def test_only_these_first_bytes(first: int) -> None:
    """Types 0 and 15, CONNECT, and reserved flags (MQTT-2.1.3)."""
    content = WHOLE.get(first & 0xF0, WHOLE.get(first & 0xF0 | 2, b""))
    data = bytes((first, len(content))) + content
    if first in WHOLE:
        read(data, V311)
    else:
        assert refused(data, V311) is (PROTOCOL if first >> 4 == 1 else MALFORMED)


@pytest.mark.parametrize("version", Version)
def test_auth_and_type_0(version: Version) -> None:
    assert refused(b"\0\0", version) is MALFORMED
    for flags in range(1, 16):
        assert refused(bytes((0xF0 | flags, 0)), version) is MALFORMED
    if version < V5:
        assert refused(b"\xf0\0", version) is MALFORMED
        with pytest.raises(ValueError, match="type of packet"):
            serialize(Auth(), version)


def test_flags_of_publish() -> None:
    for flags in range(16):
        data = bytes((0x30 | flags, 5)) + b"\0\1a\0\1"
        if flags & 6 == 6 or flags & 14 == 8:
            assert refused(data, V311) is MALFORMED
        else:
            packet = read(data, V311)
            assert isinstance(packet, Publish)
            assert (packet.dup, packet.qos, packet.retain) == (flags >= 8, flags >> 1 & 3, flags & 1)


# --- lengths within --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [bytes((first, len(rest))) + rest for first, rest in WHOLE.items()])
def test_nothing_more_and_nothing_less(data: bytes) -> None:
    longer = bytes((data[0], data[1] + 1)) + data[2:] + b"\0"
    # One more QoS is granted: that is a packet of its own.
    if data[0] != 0x90:
        assert refused(longer, V311) in (MALFORMED, PROTOCOL)
    for size in range(data[1]):
        assert refused(bytes((data[0], size)) + data[2 : 2 + size], V311) in (MALFORMED, PROTOCOL)


@pytest.mark.parametrize("content", [b"", b"\0", b"\0\1", b"\0\2a", b"\xff\xffa", b"\0\1a", b"\0\1a\0"])
def test_a_publish_that_is_cut(content: bytes) -> None:
    assert refused(bytes((0x32, len(content))) + content, V311) is MALFORMED
    assert refused(bytes((0x34, len(content))) + content, V5) is MALFORMED


@pytest.mark.parametrize("content", [b"", b"\0", b"\0\2a", b"\xff\xffa"])
def test_a_topic_that_is_cut(content: bytes) -> None:
    """Without a packet identifier nothing else would miss it; whether bytes of the next packet follow, or none."""
    for version in Version:
        data = bytes((0x30, len(content))) + content
        assert refused(data, version) is MALFORMED
        with pytest.raises(Malformed):
            parse(data + b"aaaa\0", 0, 2, len(data), version)


def test_it_does_not_read_what_follows_the_packet() -> None:
    data = b"\x32\x04\0\1a\0\1\0\1\0"
    with pytest.raises(Malformed):
        parse(data, 0, 2, 6, V311)
    with pytest.raises(Malformed):
        parse(b"\x30\x03\0\1a\0\0\0", 0, 2, 5, V5)
    with pytest.raises(Malformed):
        parse(b"\x30\x01\0\0a", 0, 2, 3, V311)
    with pytest.raises(Malformed):
        parse(b"\x40\x01\0\1", 0, 2, 3, V311)


@pytest.mark.parametrize(
    "data",
    [
        b"\x32\x05\0\1a\0\0",
        *(b"\x40\x02\0\0", b"\x50\x02\0\0", b"\x62\x02\0\0", b"\x70\x02\0\0"),
        *(b"\x82\x06\0\0\0\1a\0", b"\x90\x03\0\0\0", b"\xa2\x05\0\0\0\1a", b"\xb0\x02\0\0"),
    ],
)
def test_a_packet_identifier_is_not_zero(data: bytes) -> None:
    assert refused(data, V311) is PROTOCOL
    assert refused(data, V5) is PROTOCOL


# --- text ------------------------------------------------------------------------------------------------------------

NO_TEXT = [
    b"\0",
    b"a\0b",
    b"\xff",
    b"\x80",
    b"\xc3",
    b"\xc3(",
    b"\xc0\x80",
    b"\xc0\xaf",
    b"\xe0\x80\xaf",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xed\xa0\xbd\xed\xb8\x80",
    b"\xf4\x90\x80\x80",
    b"\xf8\x88\x80\x80\x80",
]


@pytest.mark.parametrize("text", NO_TEXT)
def test_text_is_utf_8(text: bytes) -> None:
    """MQTT-1.5.4-1 and -2, wherever there is text."""
    field = len(text).to_bytes(2) + text
    size = len(field)
    assert refused(bytes((0x30, size)) + field, V311) is MALFORMED
    assert refused(bytes((0x30, size + 1)) + field + b"\0", V5) is MALFORMED
    assert refused(bytes((0x82, size + 3)) + b"\0\1" + field + b"\0", V311) is MALFORMED
    assert refused(bytes((0xA2, size + 2)) + b"\0\1" + field, V311) is MALFORMED
    assert refused(bytes((0x30, size + 5)) + b"\0\1a" + bytes((size + 1, 3)) + field, V5) is MALFORMED
    pair = b"\x26\0\1k" + field
    assert refused(bytes((0x30, 4 + len(pair))) + b"\0\1a" + bytes((len(pair),)) + pair, V5) is MALFORMED
    pair = b"\x26" + field + b"\0\1v"
    assert refused(bytes((0x30, 4 + len(pair))) + b"\0\1a" + bytes((len(pair),)) + pair, V5) is MALFORMED


@pytest.mark.parametrize("text", ["\ufeffa", "\ufeff", "\x01", "\x7f", "\uffff", "\U0010ffff", "\ud7ff\ue000"])
def test_text_is_kept_as_it_is(text: str) -> None:
    """MQTT-1.5.4-3; control characters and non-characters should not be, but may."""
    packet = Publish(text, b"")
    assert read(serialize(packet, V311), V311) == packet


# --- topics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["+", "#", "a/+", "a/#", "a+", "/".join("a" * 129)])
def test_no_topic_names(topic: str) -> None:
    encoded = len(topic).to_bytes(2) + topic.encode()
    for version in Version:
        data = encoded + (b"\0" if version is V5 else b"") + b"x"
        frame_of = b"\x30" + (bytes((len(data),)) if len(data) < 128 else bytes((len(data) & 127 | 128, 2))) + data
        if len(data) < 128:
            assert refused(frame_of, version) is Reason.TOPIC_NAME_INVALID
        with pytest.raises(ValueError, match="topic name"):
            serialize(Publish(topic, b"x"), version)


def test_an_empty_topic_and_its_alias() -> None:
    assert refused(b"\x30\x03\0\0x", V311) is Reason.TOPIC_NAME_INVALID
    assert refused(b"\x30\x03\0\0x", V31) is Reason.TOPIC_NAME_INVALID
    assert refused(b"\x30\x03\0\0\0", V5) is PROTOCOL
    assert refused(b"\x30\x05\0\0\2\1\0", V5) is PROTOCOL
    assert refused(b"\x30\x06\0\0\3\x23\0\0", V5) is Reason.TOPIC_ALIAS_INVALID
    assert refused(b"\x30\x07\0\1a\3\x23\0\0", V5) is Reason.TOPIC_ALIAS_INVALID
    # An alias does not make a topic of wildcards a name.
    assert refused(b"\x30\x07\0\1+\3\x23\0\1", V5) is Reason.TOPIC_NAME_INVALID
    for version in Version:
        with pytest.raises(ValueError, match="topic name"):
            serialize(Publish("", b""), version)


@pytest.mark.parametrize("topic_filter", ["", "a#", "#/a", "a+", "$share/g", "$share//a", "$share/+/a", "$share/g/a#"])
def test_no_topic_filters(topic_filter: str) -> None:
    field = len(topic_filter).to_bytes(2) + topic_filter.encode()
    for version in Version:
        between = b"\0" if version is V5 else b""
        subscribe, unsubscribe = b"\0\1" + between + field + b"\0", b"\0\1" + between + field
        assert refused(bytes((0x82, len(subscribe))) + subscribe, version) is Reason.TOPIC_FILTER_INVALID
        assert refused(bytes((0xA2, len(unsubscribe))) + unsubscribe, version) is Reason.TOPIC_FILTER_INVALID
        for packet in (Subscribe(1, (Subscription(topic_filter),)), Unsubscribe(1, (topic_filter,))):
            with pytest.raises(ValueError, match="topic filter"):
                serialize(packet, version)


# --- SUBSCRIBE and UNSUBSCRIBE ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", range(256))
def test_subscription_options(options: int) -> None:
    old, new = b"\x82\x06\0\1\0\1a" + bytes((options,)), b"\x82\x07\0\1\0\0\1a" + bytes((options,))
    if options <= 2:
        assert read(old, V311) == read(old, V31) == Subscribe(1, (Subscription("a", options),))
    else:
        assert refused(old, V311) is not None
        assert refused(old, V31) is not None
    if options & 0xC0:
        assert refused(new, V5) is MALFORMED
    elif options & 3 == 3 or options & 0x30 == 0x30:
        assert refused(new, V5) is PROTOCOL
    else:
        wanted = Subscription("a", options & 3, bool(options & 4), bool(options & 8), options >> 4)
        assert read(new, V5) == Subscribe(1, (wanted,))


def test_no_local_and_shared() -> None:
    assert refused(b"\x82\x10\0\1\0\0\x0a$share/g/a\4", V5) is PROTOCOL
    assert read(b"\x82\x10\0\1\0\0\x0a$share/g/a\0", V5) == Subscribe(1, (Subscription("$share/g/a"),))
    with pytest.raises(ValueError, match="no local"):
        serialize(Subscribe(1, (Subscription("$share/g/a", no_local=True),)), V5)


def test_at_least_one_filter_and_one_code() -> None:
    for version in OLD:
        assert refused(b"\x82\x02\0\1", version) is PROTOCOL
        assert refused(b"\xa2\x02\0\1", version) is PROTOCOL
        assert refused(b"\x90\x02\0\1", version) is PROTOCOL
    for first in (0x82, 0xA2, 0x90, 0xB0):
        assert refused(bytes((first, 3)) + b"\0\1\0", V5) is PROTOCOL
    for packet in (Subscribe(1, ()), Unsubscribe(1, ()), SubAck(1, ()), UnsubAck(1)):
        with pytest.raises(ValueError, match=r"no (topic filter|reason code)"):
            serialize(packet, V5)


def test_how_many_filters() -> None:
    most = Unsubscribe(1, ("a",) * MAX_FILTERS)
    data = serialize(most, V5)
    assert read(data, V5) == most
    for packet in (Unsubscribe(1, ("a",) * (MAX_FILTERS + 1)), Subscribe(1, (Subscription("a"),) * (MAX_FILTERS + 1))):
        with pytest.raises(ValueError, match="too many"):
            serialize(packet, V5)
    content = b"\0\1\0" + b"\0\1a" * (MAX_FILTERS + 1)
    more = b"\xa2" + bytes((len(content) & 127 | 128, len(content) >> 7)) + content
    assert refused(more, V5) is Reason.IMPLEMENTATION_SPECIFIC_ERROR


def test_one_subscription_identifier_in_subscribe() -> None:
    assert read(b"\x82\x09\0\1\2\x0b\7\0\1a\0", V5) == Subscribe(
        1, (Subscription("a"),), Properties(subscription_identifiers=(7,))
    )
    assert refused(b"\x82\x0b\0\1\4\x0b\7\x0b\x08\0\1a\0", V5) is PROTOCOL


# --- codes -----------------------------------------------------------------------------------------------------------

CODES_OF_5 = {
    0x20: (b"\0%c\0", {0, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F}),
    0x40: (b"\0\1%c", {0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}),
    0x50: (b"\0\1%c", {0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}),
    0x62: (b"\0\1%c", {0, 0x92}),
    0x70: (b"\0\1%c", {0, 0x92}),
    0x90: (b"\0\1\0%c", {0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2}),
    0xB0: (b"\0\1\0%c", {0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91}),
    0xE0: (
        b"%c",
        {0, 4, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, *range(0x8B, 0x91), *range(0x93, 0xA3)},
    ),
    0xF0: (b"%c\4\x15\0\1m", {0, 0x18, 0x19}),
}


@pytest.mark.parametrize("first", CODES_OF_5)
def test_reason_codes_of_5(first: int) -> None:
    form, permitted = CODES_OF_5[first]
    for code in range(256):
        content = form % code
        data = bytes((first, len(content))) + content
        if code in permitted:
            read(data, V5)
        else:
            assert refused(data, V5) is MALFORMED


@pytest.mark.parametrize("version", OLD)
def test_return_codes_before_5(version: Version) -> None:
    for code in range(256):
        connack, suback = b"\x20\x02\0" + bytes((code,)), b"\x90\x03\0\1" + bytes((code,))
        if code <= 5:
            assert read(connack, version) == ConnAck(code=code)
        else:
            assert refused(connack, version) is MALFORMED
        if code in (0, 1, 2, 0x80):
            assert read(suback, version) == SubAck(1, (code,))
        else:
            assert refused(suback, version) is MALFORMED


def test_flags_of_connack() -> None:
    for flags in range(2, 256):
        assert refused(b"\x20\x02" + bytes((flags, 0)), V311) is MALFORMED
    assert refused(b"\x20\x02\1\5", V311) is PROTOCOL
    assert refused(b"\x20\x03\1\x87\0", V5) is PROTOCOL


def test_auth_has_a_method() -> None:
    """Only the form that has nothing at all may be without it (MQTT-3.15.2.1)."""
    assert refused(b"\xf0\1\0", V5) is MALFORMED
    assert refused(b"\xf0\2\0\0", V5) is PROTOCOL
    assert refused(b"\xf0\2\x18\0", V5) is PROTOCOL
    assert refused(b"\xf0\x06\x18\4\x16\0\1d", V5) is PROTOCOL
    with pytest.raises(ValueError, match="not to be written"):
        serialize(Auth(0x18), V5)


def test_before_5_a_disconnect_has_nothing() -> None:
    for version in OLD:
        assert refused(b"\xe0\1\0", version) is MALFORMED
        assert refused(b"\xe0\2\0\0", version) is MALFORMED


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "versions"),
    [
        (Publish("x" * 65_536, b""), Version),
        (Publish("\0", b""), Version),
        (Publish("\ud800", b""), Version),
        (Publish("a", b"", 3, packet_id=1), Version),
        (Publish("a", b"", -1), Version),
        (Publish("a", b"", 8, packet_id=1), Version),
        (Publish("a", b"", 4, packet_id=1), Version),
        (Publish("a", b"", dup=True), Version),
        (Publish("a", b"", 1), Version),
        (Publish("a", b"", 1, packet_id=65_536), Version),
        (Publish("a", b"", packet_id=1), Version),
        (Publish("a", b"", properties=Properties(session_expiry=1)), [V5]),
        (Publish("a", b"", properties=Properties(topic_alias=0)), [V5]),
        (Publish("a", b"", properties=Properties(topic_alias=65_536)), [V5]),
        (Publish("a", b"", properties=Properties(message_expiry=1 << 32)), [V5]),
        (Publish("a", b"", properties=Properties(message_expiry=-1)), [V5]),
        (Publish("a", b"", properties=Properties(content_type="\0")), [V5]),
        (Publish("a", b"", properties=Properties(content_type="\ud800")), [V5]),
        (Publish("a", b"", properties=Properties(content_type="x" * 65_536)), [V5]),
        (Publish("a", b"", properties=Properties(correlation_data=bytes(65_536))), [V5]),
        (Publish("a", b"", properties=Properties(response_topic="a/#")), [V5]),
        (Publish("a", b"", properties=Properties(payload_format=2)), [V5]),
        (Publish("a", b"", properties=Properties(subscription_identifiers=(1, 0))), [V5]),
        (Publish("a", b"", properties=Properties(subscription_identifiers=(268_435_456,))), [V5]),
        (Publish("a", b"", properties=Properties(user_properties=(("a", "\0"),))), [V5]),
        (PubAck(0), Version),
        (PubRel(65_536), Version),
        (PubComp(-1), Version),
        (PubAck(1, 0x92), [V5]),
        (PubAck(0, 0x10), [V5]),
        (PubAck(1, 0x100), [V5]),
        (PubAck(1, 0x87), OLD),
        (PubRec(1, 0x97), OLD),
        (PubRel(1, 0x10), [V5]),
        (ConnAck(code=0x87), OLD),
        (ConnAck(code=4), [V5]),
        (ConnAck(code=6), OLD),
        (ConnAck(session_present=True, code=5), OLD),
        (SubAck(1, (0x87,)), OLD),
        (SubAck(1, (3,)), [V5]),
        (SubAck(1, (256,)), [V5]),
        (UnsubAck(1, (1,)), [V5]),
        (Subscribe(0, (Subscription("a"),)), Version),
        (Subscribe(1, (Subscription("a", 3),)), Version),
        (Subscribe(1, (Subscription("a", no_local=True),)), OLD),
        (Subscribe(1, (Subscription("a", retain_handling=3),)), [V5]),
        (Subscribe(1, (Subscription("a"),), Properties(subscription_identifiers=(1, 2))), [V5]),
        (Disconnect(4), OLD),
        (Disconnect(0x8B), OLD),
        (Disconnect(0x88), [V5]),
        (Disconnect(0, Properties(will_delay=1)), [V5]),
    ],
)
def test_what_cannot_be_written(packet: Packet, versions: list[Version]) -> None:
    for version in versions:
        with pytest.raises(ValueError, match=r"."):
            serialize(packet, version)


def test_before_5_properties_and_what_an_old_packet_has_no_room_for_are_left_out() -> None:
    said = Properties(reason_string="r")
    for version in OLD:
        assert serialize(Publish("a", b"x", properties=Properties(content_type="c")), version) == b"\x30\x04\0\1ax"
        assert serialize(PubAck(1, 0x10, said), version) == b"\x40\x02\0\1"
        assert serialize(PubRel(1, 0x92), version) == b"\x62\x02\0\1"
        assert serialize(PubComp(1, 0x92, said), version) == b"\x70\x02\0\1"
        assert serialize(UnsubAck(1, (0x11,), said), version) == b"\xb0\x02\0\1"
        assert serialize(ConnAck(code=5, properties=said), version) == b"\x20\x02\0\5"


def test_properties_that_say_nothing() -> None:
    """Equal to NOTHING is as good as being it."""
    assert serialize(PubAck(1, 0, Properties()), V5) == b"\x40\x02\0\1"
    assert serialize(Disconnect(0, Properties()), V5) == b"\xe0\0"
    assert serialize(Publish("a", b"x", properties=Properties()), V5) == b"\x30\x05\0\1a\0x"


def test_around_the_packet_identifier() -> None:
    given = Properties(content_type="c")
    for version in Version:
        for packet_id in (1, 0x102):
            packet = Publish("a/b", b"x" * 200, 1, True, packet_id=packet_id, properties=given)
            before, after = around_id(packet, version)
            assert before + packet_id.to_bytes(2) + after == serialize(packet, version)
        without = Publish("a/b", b"x", properties=given)
        assert b"".join(around_id(without, version)) == serialize(without, version)


def test_sizes_of_publish() -> None:
    for size in (0, 123, 124, 125, 16_379, 16_380, 2_097_147, 2_097_148):
        packet = Publish("ab", bytes(size))
        data = serialize(packet, V311)
        assert len(data) == size + 4 + 1 + (1 if size < 124 else 2 if size < 16_380 else 3 if size < 2_097_148 else 4)
        assert read(data, V311) == packet
