"""CONNECT: every rule of MQTT-3.1, in each version, with the bytes that break it."""

from __future__ import annotations

import pytest

from gateway.wire.mqtt import connect_version, frame, parse_connect, serialize
from gateway.wire.mqtt_packets import Connect, Malformed, Properties, Reason, Version, Will

OLD, NEW = b"\0\x06MQIsdp\x03", b"\0\x04MQTT\x04"
FIVE = b"\0\x04MQTT\x05"
ALIVE = b"\0\x3c"
ID = b"\0\x02me"
WILL, SOME, USER, PASSWORD = b"\0\x01w", b"\0\x02hi", b"\0\x01u", b"\0\x01p"


def packet(*parts: bytes) -> bytes:
    content = b"".join(parts)
    return bytes((0x10, len(content))) + content


def read(data: bytes) -> Connect:
    found = frame(data, 0, 1000)
    assert found is not None
    return parse_connect(data, 0, *found)


def flags(value: int) -> bytes:
    return bytes((value,))


@pytest.mark.parametrize(
    ("start", "version", "between"), [(OLD, Version.V31, b""), (NEW, Version.V311, b""), (FIVE, Version.V5, b"\0")]
)
def test_each_version(start: bytes, version: Version, between: bytes) -> None:
    assert read(packet(start, flags(2), ALIVE, between, ID)) == Connect(version, "me", True, 60)
    assert read(packet(start, flags(0), b"\0\0", between, b"\0\0")) == Connect(version, "", False, 0)
    whole = packet(start, flags(0xF6), ALIVE, between, ID, between, WILL, SOME, USER, PASSWORD)
    connect = Connect(version, "me", True, 60, "u", b"p", Will("w", b"hi", 2, True))
    assert read(whole) == connect
    assert serialize(connect, Version.V311) == whole
    assert connect_version(whole, 2, len(whole)) is version


def test_the_properties_of_5_come_before_the_payload() -> None:
    own, of_will = b"\x05\x11\0\0\0\x07", b"\x05\x18\0\0\0\x09"
    data = packet(FIVE, flags(6), ALIVE, own, ID, of_will, WILL, SOME)
    will = Will("w", b"hi", properties=Properties(will_delay=9))
    assert read(data) == Connect(Version.V5, "me", True, 60, will=will, properties=Properties(session_expiry=7))


def test_no_secret_in_what_is_printed() -> None:
    connect = Connect(Version.V5, "me", True, 0, "u", b"secret", properties=Properties(authentication_data=b"secret"))
    assert "secret" not in repr(connect)


@pytest.mark.parametrize(
    ("start", "code"),
    [
        (b"\0\x04MQTT\x03", Reason.UNSUPPORTED_PROTOCOL_VERSION),
        (b"\0\x04MQTT\x06", Reason.UNSUPPORTED_PROTOCOL_VERSION),
        (b"\0\x04MQTT\0", Reason.UNSUPPORTED_PROTOCOL_VERSION),
        (b"\0\x04MQTT\x84", Reason.UNSUPPORTED_PROTOCOL_VERSION),
        (b"\0\x06MQIsdp\x04", Reason.UNSUPPORTED_PROTOCOL_VERSION),
        (b"\0\x06MQIsdp\x05", Reason.UNSUPPORTED_PROTOCOL_VERSION),
        (b"\0\x04mqtt\x04", Reason.MALFORMED_PACKET),
        (b"\0\x05MQTTX\x04", Reason.MALFORMED_PACKET),
        (b"\0\x03MQT\x04", Reason.MALFORMED_PACKET),
        (b"\0\0\x04", Reason.MALFORMED_PACKET),
        (b"\0\x04MQ\xff\xff\x04", Reason.MALFORMED_PACKET),
    ],
)
def test_other_protocols(start: bytes, code: Reason) -> None:
    data = packet(start, flags(2), ALIVE, ID)
    with pytest.raises(Malformed) as error:
        read(data)
    assert error.value.code is code
    with pytest.raises(Malformed) as error:
        connect_version(data, 2, len(data))
    assert error.value.code is code


@pytest.mark.parametrize(("start", "between"), [(OLD, b""), (NEW, b""), (FIVE, b"\0")])
@pytest.mark.parametrize(
    ("value", "payload"),
    [
        (0x03, ID),  # the reserved flag
        (0x0A, ID),  # a will's QoS without a will
        (0x12, ID),
        (0x22, ID),  # a will's retain without a will
        (0x1E, ID + WILL + SOME),  # QoS 3
        (0x1A, ID),
        (0x82, ID),  # fewer fields than flags
        (0xC2, ID + USER),
        (0x06, ID + WILL),
        (0x02, ID + USER),  # more fields than flags
        (0x02, ID + b"\0"),
        (0x02, b"\0\x03me"),
        (0x02, b"\0"),
        (0x02, b""),
        (0x02, b"\0\x02m\0"),  # NUL
        (0x02, b"\0\x02\xc3\x28"),  # no UTF-8
        (0x02, b"\0\x03\xed\xa0\x80"),  # a surrogate
        (0x02, b"\0\x02\xc0\xaf"),  # overlong
        (0x82, ID + b"\0\x01\0"),
        (0x82, ID + b"\0\x01\xff"),
    ],
)
def test_what_is_refused_in_every_version(start: bytes, between: bytes, value: int, payload: bytes) -> None:
    if between and value & 4:
        payload = payload.replace(WILL, between + WILL)
    with pytest.raises(Malformed) as error:
        read(packet(start, flags(value), ALIVE, between, payload))
    assert error.value.code is Reason.MALFORMED_PACKET


@pytest.mark.parametrize("topic", [b"\0\0", b"\0\x01+", b"\0\x03a/#"])
def test_a_will_s_topic_is_a_name(topic: bytes) -> None:
    with pytest.raises(Malformed) as error:
        read(packet(NEW, flags(6), ALIVE, ID, topic, SOME))
    assert error.value.code is Reason.TOPIC_NAME_INVALID


def test_a_password_without_a_user_name() -> None:
    for start in (OLD, NEW):
        with pytest.raises(Malformed):
            read(packet(start, flags(0x42), ALIVE, ID, PASSWORD))
    assert read(packet(FIVE, flags(0x42), ALIVE, b"\0", ID, PASSWORD)).password == b"p"
    with pytest.raises(ValueError, match="user name"):
        serialize(Connect(Version.V311, "me", password=b"p"), Version.V311)


def test_the_user_name_that_3_1_would_let_be_absent() -> None:
    with pytest.raises(Malformed):
        read(packet(OLD, flags(0x82), ALIVE, ID))


@pytest.mark.parametrize("first", [0x11, 0x12, 0x18, 0x1F, 0x20, 0xC0])
def test_other_first_bytes(first: int) -> None:
    data = packet(NEW, flags(2), ALIVE, ID)
    with pytest.raises(Malformed) as error:
        read(bytes((first,)) + data[1:])
    assert error.value.code is Reason.PROTOCOL_ERROR


def test_authentication_data_without_a_method() -> None:
    assert read(packet(FIVE, flags(2), ALIVE, b"\x08\x15\0\x01m\x16\0\x01d", ID)).properties == Properties(
        authentication_method="m", authentication_data=b"d"
    )
    with pytest.raises(Malformed) as error:
        read(packet(FIVE, flags(2), ALIVE, b"\x04\x16\0\x01d", ID))
    assert error.value.code is Reason.PROTOCOL_ERROR


@pytest.mark.parametrize("block", [b"\x05\x18\0\0\0\x09", b"\x02\x01\x01", b"\x03\x23\0\x01"])
def test_properties_that_are_not_connect_s(block: bytes) -> None:
    with pytest.raises(Malformed) as error:
        read(packet(FIVE, flags(2), ALIVE, block, ID))
    assert error.value.code is Reason.MALFORMED_PACKET


@pytest.mark.parametrize("block", [b"\x05\x11\0\0\0\x09", b"\x03\x23\0\x01", b"\x02\x0b\x01"])
def test_properties_that_are_not_a_will_s(block: bytes) -> None:
    with pytest.raises(Malformed) as error:
        read(packet(FIVE, flags(6), ALIVE, b"\0", ID, block, WILL, SOME))
    assert error.value.code is Reason.MALFORMED_PACKET


@pytest.mark.parametrize(
    "connect",
    [
        Connect(Version.V5, "x" * 65_536),
        Connect(Version.V5, "\0"),
        Connect(Version.V5, "\ud800"),
        Connect(Version.V5, "me", keep_alive=65_536),
        Connect(Version.V5, "me", keep_alive=-1),
        Connect(Version.V5, "me", user_name="é" * 32_768),
        Connect(Version.V5, "me", password=bytes(65_536)),
        Connect(Version.V5, "me", will=Will("a/+", b"")),
        Connect(Version.V5, "me", will=Will("", b"")),
        Connect(Version.V5, "me", will=Will("a", b"", 3)),
        Connect(Version.V5, "me", will=Will("a", bytes(65_536))),
        Connect(Version.V5, "me", properties=Properties(topic_alias=1)),
        Connect(Version.V5, "me", properties=Properties(receive_maximum=0)),
        Connect(Version.V5, "me", properties=Properties(authentication_data=b"d")),
    ],
)
def test_what_cannot_be_written(connect: Connect) -> None:
    with pytest.raises(ValueError, match=r"."):
        serialize(connect, connect.version)


def test_the_longest_fields() -> None:
    connect = Connect(Version.V5, "x" * 65_535, user_name="é" * 32_767, password=bytes(65_535))
    data = serialize(connect, Version.V5)
    found = frame(data, 0, len(data))
    assert found is not None
    assert parse_connect(data, 0, *found) == connect
