"""Where a session may end that is in the middle of a result: `BackendFraming.seek`."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import postgres_framing
from gateway.wire.postgres_framing import BackendFraming
from tests.fakes import READY, message

DONE = message(b"C", b"SELECT 100\0")


def row(size: int) -> bytes:
    return message(b"D", b"\0\1" + size.to_bytes(4, "big") + b"x" * size)


def at(stream: bytes, position: int) -> BackendFraming:
    """A framing that was fed the first bytes of it, in one read."""
    framing = BackendFraming()
    framing.asked = True
    framing.feed(memoryview(stream[:position]))
    return framing


def starts(stream: bytes) -> set[int]:
    found, position = set(), 0
    while position < len(stream):
        found.add(position)
        position += 1 + int.from_bytes(stream[position + 1 : position + 5], "big")
    return found | {position}


@pytest.mark.parametrize("position", range(1, 60))
def test_the_rest_of_a_message_is_found_wherever_it_was_cut(position: int) -> None:
    stream = row(20) + row(9) + row(20)
    sought = at(stream, position).seek(memoryview(stream[position:]))
    assert sought is not None
    assert position + sought == min(end for end in starts(stream) if end >= position)


def test_a_message_that_goes_on_after_these_bytes_has_no_end_here() -> None:
    stream = row(1000)
    assert at(stream, 100).seek(memoryview(stream[100:900])) is None
    assert at(stream, 2).seek(memoryview(stream[2:4])) is None
    assert at(stream, 2).seek(memoryview(stream[2:])) == len(stream) - 2


@given(st.integers(0, 2**32), st.integers(200, 4000), st.integers(20, 400))
def test_the_way_is_found_again_in_a_bulk_result(seed: int, position: int, longest: int) -> None:
    """`seek` in what follows a read that lost it names a true boundary, and feeding up to there arrives at it."""
    rows = random.Random(seed)
    stream = b"".join(row(rows.randrange(longest)) for _ in range(12_000 // (longest // 2 + 11) + 200))
    framing = at(stream, 70 * (longest + 11))
    assert not framing.boundary
    later = 70 * (longest + 11) + position
    read = stream[later : later + 8_000]
    sought = framing.seek(memoryview(read))
    assert sought is not None
    assert later + sought in starts(stream)
    framing.feed(memoryview(read[:sought]))
    assert framing.boundary


@pytest.mark.parametrize("junk", [b"D" * 4_000, b"d\0\0\0\4" * 3, bytes(4_000), random.Random(1).randbytes(4_000)])
def test_what_is_no_chain_to_the_end_is_no_way(junk: bytes) -> None:
    stream = row(1) * 100
    framing = at(stream, len(stream) - 3)
    assert framing.seek(memoryview(junk + b"\xff")) is None
    assert not framing.boundary


@pytest.mark.parametrize("junk", [b"", b"\xff" * 5, b"D\0\0\0\3"])
@pytest.mark.parametrize("link", [b"D\0\0\0\4", b"d\0\0\0\4", b"D\0\0\0\5D", b"D" * 5, b"DD\0\0\0\4"])
def test_no_read_is_looked_through_for_long(link: bytes, junk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack: a chain from everywhere through all of a read that breaks at its end, to be followed each time."""
    seen = 0

    def is_header(data: bytes | memoryview, at: int) -> bool:
        nonlocal seen
        seen += 1
        return known(data, at)

    known = postgres_framing._is_header
    monkeypatch.setattr(postgres_framing, "_is_header", is_header)
    framing = at(row(1) * 100, 100 * len(row(1)))
    framing.seek(memoryview((link * 65_536)[: 65_535 - len(junk)] + junk))
    assert 0 < seen <= 20_000


def test_a_chain_that_broke_does_not_keep_from_finding_the_next() -> None:
    stream = row(1) * 100
    framing = at(stream, len(stream))
    broken = b"d\0\0\0\4" * 10 + b"d\0\0\0\3"
    assert framing.seek(memoryview(broken + row(3) * 8)) == len(broken)


@pytest.mark.parametrize(("links", "found"), [(7, None), (8, 3)])
def test_a_chain_that_is_too_short_is_chance(links: int, found: int | None) -> None:
    stream = row(1) * 100
    assert at(stream, len(stream)).seek(memoryview(b"xyz" + row(3) * links)) == found


@pytest.mark.parametrize("head", [b"?", b"?\0\0", b"D\0\0\0", b"\xff\0\0\0"])
def test_half_a_header_of_no_message_has_no_end(head: bytes) -> None:
    """Of a type that no backend sends, or with a length that no message has."""
    framing = at(row(1) + head, len(row(1) + head))
    assert framing.seek(memoryview((b"\0\0\0\0" if head == b"?" else b"\0\0\3")[: 5 - len(head)] + b"x" * 50)) is None


PIECES = (
    st.sampled_from([row(1), row(1) * 100, row(300), DONE, READY, message(b"Z", b"T"), message(b"N", b"x")])
    | st.sampled_from([b"D\0\0\0\4" * 9, b"D\0\0\0\3", b"Z\0\0\0\4", b"?\0\0\0\x09", b"D\0\0\0", b"?\0", b"Z\0\0\0\5"])
    | st.binary(max_size=12)
)


@given(st.lists(PIECES, max_size=6), st.lists(PIECES, max_size=20).map(b"".join), st.booleans())
def test_what_seek_says_leads_to_a_boundary(before: list[bytes], data: bytes, asked: bool) -> None:
    """Whatever came before and whatever comes: fed so many bytes, it is at one."""
    framing = BackendFraming()
    for piece in before:
        framing.asked = framing.asked or asked
        framing.feed(memoryview(piece))
    sought = framing.seek(memoryview(data))
    if sought is not None:
        assert 0 <= sought <= len(data)
        framing.feed(memoryview(data[:sought]))
        assert framing.boundary


@pytest.mark.parametrize("cut", range(1, len(DONE + READY)))
def test_the_end_of_a_bulk_result_may_come_in_two_reads(cut: int) -> None:
    end = DONE + READY
    framing = at(row(1) * 100 + end[:cut], 100 * len(row(1)) + cut)
    assert not framing.boundary
    assert not framing.idle
    framing.feed(memoryview(end[cut:]))
    assert framing.idle
