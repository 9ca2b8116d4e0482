"""Bytes to packets, however they come: the short way for floods means the same as parsing each packet, to the byte."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.session.mqtt_frames import ANY, MAX_KNOWN, MAX_KNOWN_NAME, PLAIN, Frames, Run, Single
from gateway.wire import mqtt
from gateway.wire.mqtt_packets import NOTHING, Malformed, Packet, PingReq, Publish, Reason, Version
from tests import mqtt_packets
from tests.mqtt_sessions import LIMIT, V5, V31, V311

VERSIONS = (V31, V311, V5)
QUICK = (PLAIN, ANY)
# Few, so that there are runs; the two that are known are the first ones.
NAMES = ("a", "b/c", "d", "a/")
KNOWN = NAMES[:2]
versions, quicks = st.sampled_from(VERSIONS), st.sampled_from(QUICK)


def frames(
    version: Version, quick: frozenset[int] = ANY, known: tuple[str, ...] = (), limit: int = LIMIT
) -> Frames[str]:
    made: Frames[str] = Frames(version, limit, quick)
    for name in known:
        made.know(name, name)
    return made


class Seen:
    """What came out of one Frames: every packet, and every byte that stands for it."""

    def __init__(self, version: Version, made: Frames[str]) -> None:
        self.version, self.made = version, made
        self.packets: list[Packet] = []
        self.data = b""
        self.runs = 0
        self.malformed: tuple[str, int] | None = None

    def read(self, data: bytes) -> Seen:
        if self.malformed is not None:
            return self
        before = len(self.packets)
        try:
            for item in self.made.read(data):
                self._see(item)
        except Malformed as malformed:
            self.malformed = (str(malformed), malformed.code)
        else:
            assert self.made.count == len(self.packets) - before
        return self

    def _see(self, item: Run[str] | Single) -> None:
        piece = self.made.data[item.start : item.end]
        self.data += piece
        if isinstance(item, Single):
            assert alone(piece, self.version) == [item.packet]
            self.packets.append(item.packet)
            return
        self.runs += 1
        found = alone(piece, self.version)
        assert len(found) == item.number > 0
        for packet in found:
            assert isinstance(packet, Publish)
            assert packet.topic == item.topic
            assert packet.properties is NOTHING
        assert isinstance(found[0], Publish)
        first = piece[: len(piece) // item.number]
        assert first[item.payload - item.start :] == found[0].payload
        assert item.number == 1 or not found[0].qos
        self.packets += found


def alone(data: bytes, version: Version) -> list[Packet]:
    """Each packet parsed by itself."""
    found: list[Packet] = []
    at = 0
    while at < len(data):
        edges = mqtt.frame(data, at, LIMIT)
        assert edges is not None
        found.append(mqtt.parse(data, at, *edges, version))
        at = edges[1]
    return found


def publish(version: Version, topic: str, size: int, qos: int = 0, flags: int = 0) -> bytes:
    made = Publish(topic, b"x" * size, qos, bool(flags & 1), bool(flags & 2) and qos > 0, 7 if qos else 0)
    return mqtt.serialize(made, version)


_floods = st.lists(
    st.tuples(
        st.sampled_from(NAMES), st.sampled_from([0, 1, 2, 120, 125, 130, 300]), st.integers(0, 2), st.integers(0, 3)
    ),
    max_size=12,
)


def _bytes_of(version: Version, flood: list[tuple[str, int, int, int]], others: list[Packet]) -> bytes:
    pieces = [publish(version, *one) for one in flood]
    return b"".join(pieces + [mqtt.serialize(packet, version) for packet in others])


def _split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


_cuts = st.lists(st.integers(0, 10_000), max_size=8)


@given(st.data(), versions, quicks, _floods, _cuts, st.sampled_from([(), KNOWN, NAMES]))
@settings(max_examples=400, deadline=None)
def test_any_split_of_any_packets_is_the_same_as_each_packet_alone(
    data: Any, version: Version, quick: frozenset[int], flood: list[Any], cuts: list[int], known: tuple[str, ...]
):
    others = data.draw(st.lists(mqtt_packets.packets(version), max_size=4))
    whole = _bytes_of(version, flood, others)
    expected = alone(whole, version)
    bytewise = [bytes((one,)) for one in whole] if len(whole) < 1500 else []
    for pieces in ([whole], _split(whole, cuts), bytewise):
        if not pieces:
            continue
        seen = Seen(version, frames(version, quick, known))
        for piece in pieces:
            seen.read(piece)
        assert seen.packets == expected
        assert seen.data == whole
        assert seen.malformed is None


@given(
    versions, quicks, st.binary(max_size=80) | _floods, _cuts, st.integers(0, 400), st.integers(0, 255), st.booleans()
)
@settings(max_examples=600, deadline=None)
def test_broken_bytes_are_malformed_and_nothing_else_with_the_short_way_and_without(
    version: Version, quick: frozenset[int], given_data: Any, cuts: list[int], at: int, byte: int, known: bool
):
    data = given_data if isinstance(given_data, bytes) else _bytes_of(version, given_data, [])
    if data:
        data = data[: at % len(data)] + bytes((byte,)) + data[at % len(data) + 1 :]
    plain = Seen(version, frames(version, frozenset())).read(data)
    quickly = Seen(version, frames(version, quick, NAMES if known else ()))
    for piece in _split(data, cuts):
        quickly.read(piece)
    assert quickly.packets == plain.packets
    assert quickly.data == plain.data
    # In pieces it may be told of later, but for the same reason.
    assert quickly.malformed == plain.malformed


@pytest.mark.parametrize("version", VERSIONS)
def test_a_flood_to_a_known_topic_is_one_run(version: Version):
    one, other = publish(version, "a", 20), publish(version, "b/c", 20)
    seen = Seen(version, frames(version, PLAIN, KNOWN)).read(one * 50 + other * 3 + one)
    assert (len(seen.packets), seen.runs) == (54, 3)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("flags", range(4))
def test_what_may_be_part_of_a_run(version: Version, qos: int, flags: int):
    data = publish(version, "a", 5, qos, flags)
    plain = Seen(version, frames(version, PLAIN, KNOWN)).read(data)
    assert plain.runs == (data[0] in PLAIN) == (qos < 2 and not flags & 1 and not (qos and flags & 2))
    assert Seen(version, frames(version, ANY, KNOWN)).read(data).runs == 1


@pytest.mark.parametrize(
    "data",
    [
        b"\x31\x03\x00\x01a\x00",  # longer than it says: the rest is no packet
        b"\x30\x04\x00\x01a\x03",  # 5.0: properties that are not there
        b"\x30\x03\x00\x01a",  # 5.0: no length of properties
        b"\x32\x06\x00\x01a\x00\x00\x00",  # packet identifier zero
        b"\x36\x06\x00\x01a\x00\x01\x00",  # QoS 3
        b"\x38\x04\x00\x01a\x00",  # a duplicate of QoS 0
        b"\x30\x04\x00\x03a\x00",  # the name reaches beyond
        b"\x32\x04\x00\x01a\x00",  # half an identifier
        b"\x30\x80\x00\x00\x01a\x00",  # a length in more bytes than it needs
        b"\x30\x80\x80\x00\x00\x01a\x00",
        b"\x30\x84\x00\x00\x01a\x00",
        b"\x30\x01\x00",
        b"\x30\x00",
    ],
)
def test_what_only_looks_like_one_that_is_known_is_malformed(data: bytes):
    seen = Seen(V5, frames(V5, ANY, KNOWN)).read(data + b"\xff")
    assert seen.malformed
    assert not seen.runs or seen.packets == alone(seen.data, V5)


@pytest.mark.parametrize("data", [b"\x30\x03\x00\x03b/c", b"\x32\x05\x00\x03b/c\x00\x01", b"\x30\x02\x00\x01a"])
def test_a_name_that_reaches_beyond_its_packet_is_malformed_known_or_not(data: bytes):
    for known in ((), KNOWN):
        seen = Seen(V311, frames(V311, ANY, known)).read(data + data)
        assert seen.malformed
        assert seen.packets == []


@pytest.mark.parametrize("version", VERSIONS)
def test_packets_with_identifiers_are_each_a_run(version: Version):
    """Also where they are the same to the byte."""
    data = publish(version, "a", 5, 1)
    seen = Seen(version, frames(version, ANY, KNOWN)).read(data * 3)
    assert (seen.runs, len(seen.packets)) == (3, 3)


def test_a_packet_that_is_too_large_is_refused_before_it_is_kept_known_or_not():
    for known in ((), KNOWN):
        data = publish(V311, "a", 100)
        assert not Seen(V311, frames(V311, ANY, known, len(data))).read(data).malformed
        for piece in (data, data[:2]):
            made = frames(V311, ANY, known, len(data) - 1)
            seen = Seen(V311, made).read(piece)
            assert seen.malformed == ("a packet is larger than it may be", Reason.PACKET_TOO_LARGE)
            assert not made._gathered


def test_what_is_kept_is_less_than_one_packet_and_a_read():
    made = frames(V311, ANY, KNOWN, 1000)
    data = publish(V311, "d", 900) * 20
    for at in range(0, len(data), 333):
        list(made.read(data[at : at + 333]))
        assert len(made._gathered) < 1000 + 333


def test_what_is_decided_counts_for_the_next_packet_of_the_same_read():
    made = frames(V311, PLAIN)
    found: list[Any] = []
    for item in made.read(publish(V311, "a", 1) * 3 + mqtt.serialize(PingReq(), V311) + publish(V311, "a", 1)):
        found.append(type(item))
        if isinstance(item, Single) and isinstance(item.packet, Publish):
            made.know(item.packet.topic, item.packet.topic)
        elif isinstance(item, Single):
            made.known.clear()
    assert found == [Single, Run, Single, Single]


def test_what_is_known_is_bounded():
    made = frames(V311)
    for number in range(MAX_KNOWN + 1):
        made.know(f"t/{number}", "x")
    assert len(made.known) == 1
    made.know("x" * (MAX_KNOWN_NAME + 1), "x")
    made.know("é" * (MAX_KNOWN_NAME // 2 + 1), "x")
    assert len(made.known) == 1
    made.know("é" * (MAX_KNOWN_NAME // 2), "x")
    assert len(made.known) == 2


def test_names_are_known_by_their_bytes():
    made = frames(V311, ANY, ("é",))
    assert made.known == {"é".encode(): "é"}
    decomposed = "e\u0301"
    assert Seen(V311, made).read(publish(V311, decomposed, 1)).runs == 0
    assert Seen(V311, made).read(publish(V311, "é", 1)).runs == 1


def test_a_packet_in_many_pieces_is_joined_once():
    """With each of its bytes would be quadratic: a megabyte in single bytes."""
    made, data = frames(V311, ANY, KNOWN), publish(V311, "a", 1 << 20)
    for piece in (data[at : at + 64] for at in range(0, len(data), 64)):
        items = list(made.read(piece))
    assert len(items) == 1
