"""MQTT's grammar against chance: what is written is read, and no bytes raise anything but ProtocolError."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.errors import ProtocolError
from gateway.wire.mqtt import frame, parse, parse_connect, serialize
from gateway.wire.mqtt_fields import Data
from gateway.wire.mqtt_packets import (
    NOTHING,
    Disconnect,
    Packet,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    UnsubAck,
    Version,
)
from tests import mqtt_packets

unhurried = settings(deadline=None)
versions = st.sampled_from(Version)
LIMIT = 1 << 20
SHORTENED = (PubAck, PubRec, PubRel, PubComp, Disconnect)


def read(data: Data, version: Version, position: int = 0) -> tuple[Packet, int]:
    found = frame(data, position, LIMIT)
    assert found is not None
    assert found[1] <= len(data)
    if data[position] == 0x10:
        return parse_connect(data, position, *found), found[1]
    return parse(data, position, *found, version), found[1]


@unhurried
@given(versions.flatmap(lambda version: st.tuples(st.just(version), mqtt_packets.all_packets(version))))
def test_what_is_written_is_read(case: tuple[Version, Packet]) -> None:
    version, packet = case
    data = serialize(packet, version)
    assert read(data, version) == (packet, len(data))


@unhurried
@given(versions.flatmap(lambda version: st.tuples(st.just(version), mqtt_packets.all_packets(version))), st.data())
def test_wherever_it_stands_and_however_it_is_kept(case: tuple[Version, Packet], data: st.DataObject) -> None:
    version, packet = case
    before, after = data.draw(st.binary(max_size=5)), data.draw(st.binary(max_size=5))
    kept = before + serialize(packet, version) + after
    for one in (kept, bytearray(kept), memoryview(kept)):
        assert read(one, version, len(before)) == (packet, len(kept) - len(after))


@unhurried
@given(versions.flatmap(lambda version: st.tuples(st.just(version), mqtt_packets.all_packets(version))))
def test_byte_by_byte(case: tuple[Version, Packet]) -> None:
    """The end is known with the last byte of the length, and is the same from then on."""
    version, packet = case
    data = serialize(packet, version)
    whole = frame(data, 0, LIMIT)
    assert whole is not None
    body, end = whole
    assert end == len(data)
    for size in range(1, body):
        assert frame(data[:size], 0, LIMIT) is None
    for size in range(body, end):
        assert frame(data[:size], 0, LIMIT) == whole


@unhurried
@given(versions.flatmap(lambda version: st.tuples(st.just(version), mqtt_packets.all_packets(version))), st.data())
def test_one_byte_more_or_less_within_the_length(case: tuple[Version, Packet], data: st.DataObject) -> None:
    """No byte of a packet goes unheard."""
    version, packet = case
    # These have several forms that say the same.
    assume(not (isinstance(packet, SHORTENED) and packet.properties is NOTHING))
    written = serialize(packet, version)
    found = frame(written, 0, LIMIT)
    assert found is not None
    body = found[0]
    shorter, longer = written[:-1], written + data.draw(st.binary(min_size=1, max_size=1))
    for changed in (shorter, longer):
        try:
            again = parse_or_connect(changed, body, len(changed), version)
        except ProtocolError:
            continue
        assert again != packet


def parse_or_connect(data: bytes, body: int, end: int, version: Version) -> Packet:
    return parse_connect(data, 0, body, end) if data[0] == 0x10 else parse(data, 0, body, end, version)


def nothing_else(data: bytes, version: Version) -> None:
    """Reads all there is as a stream; what could be read can be written, and read again as the same."""
    position = 0
    while (found := frame(data, position, LIMIT)) is not None and found[1] <= len(data):
        if data[position] >> 4 == 1:
            connect = parse_connect(data, position, *found)
            version = connect.version
            assert read(serialize(connect, version), version)[0] == connect
            position = found[1]
            continue
        packet = parse(data, position, *found, version)
        assert read(serialize(packet, version), version)[0] == packet
        position = found[1]


firsts = st.integers(0, 255) | st.sampled_from([0x10, 0x20, 0x32, 0x40, 0x62, 0x82, 0x90, 0xA2, 0xB0, 0xE0, 0xF0])


@settings(deadline=None, max_examples=400)
@given(versions, firsts, st.binary(max_size=60))
def test_any_bytes_in_a_frame(version: Version, first: int, content: bytes) -> None:
    with_its_errors(bytes((first, len(content))) + content, version)


@unhurried
@given(versions, st.binary(max_size=60))
def test_any_bytes_at_all(version: Version, data: bytes) -> None:
    with_its_errors(data, version)


@settings(deadline=None, max_examples=400)
@given(versions.flatmap(lambda version: st.tuples(st.just(version), mqtt_packets.all_packets(version))), st.data())
def test_mutations(case: tuple[Version, Packet], data: st.DataObject) -> None:
    version, packet = case
    changed = bytearray(serialize(packet, version))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed) - 1))
        match data.draw(st.sampled_from(["set", "insert", "delete"])):
            case "set":
                changed[place] = data.draw(st.integers(0, 255))
            case "insert":
                changed.insert(place, data.draw(st.integers(0, 255)))
            case _ if len(changed) > 1:
                del changed[place]
    with_its_errors(bytes(changed), data.draw(versions))
    # The same with a length that fits, so that more than the length is looked at.
    if len(changed) > 2:
        with_its_errors(bytes((changed[0], min(127, len(changed) - 2))) + bytes(changed[2:129]), version)


def with_its_errors(data: bytes, version: Version) -> None:
    with suppress(ProtocolError):
        nothing_else(data, version)


@unhurried
@given(st.lists(mqtt_packets.packets(Version.V5), max_size=6), st.data())
def test_a_stream_however_it_is_split(sent: list[Packet], data: st.DataObject) -> None:
    stream = b"".join(serialize(packet, Version.V5) for packet in sent)
    places = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=10)) | {0, len(stream)})
    waiting, received = bytearray(), []
    for start, end in pairwise(places):
        waiting += stream[start:end]
        while (found := frame(waiting, 0, LIMIT)) and found[1] <= len(waiting):
            received.append(parse(waiting, 0, *found, Version.V5))
            del waiting[: found[1]]
    assert received == sent
    assert not waiting


@unhurried
@given(mqtt_packets.packets(Version.V5), st.sampled_from([Version.V31, Version.V311]))
def test_before_5_nothing_of_5_is_written(packet: Packet, version: Version) -> None:
    """Properties are left out; what would change its meaning without them, or without its code, is not written."""
    try:
        again, _ = read(serialize(packet, version), version)
    except ValueError:
        assume(False)
    assert type(again) is type(packet)
    for name in (field.name for field in dataclasses.fields(again)):
        if name == "properties":
            assert again.properties is NOTHING  # type: ignore[union-attr]  # only PINGREQ and PINGRESP have none
        elif name == "codes" and isinstance(again, UnsubAck):
            assert again.codes == ()
        elif name != "code":
            assert getattr(again, name) == getattr(packet, name)
    if isinstance(packet, Publish):
        assert isinstance(again, Publish)
        assert again.topic


@pytest.mark.parametrize("version", Version)
def test_an_empty_alias_of_5_is_no_topic_before(version: Version) -> None:
    packet = Publish("", b"x", properties=Properties(topic_alias=1))
    if version is Version.V5:
        assert read(serialize(packet, version), version)[0] == packet
    else:
        with pytest.raises(ValueError, match="topic name"):
            serialize(packet, version)
