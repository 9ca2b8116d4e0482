"""Where a session may end that is in the middle of a result: `BackendFraming.seek`."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.postgres import BackendFraming
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


@pytest.mark.parametrize("cut", range(1, len(DONE + READY)))
def test_the_end_of_a_bulk_result_may_come_in_two_reads(cut: int) -> None:
    end = DONE + READY
    framing = at(row(1) * 100 + end[:cut], 100 * len(row(1)) + cut)
    assert not framing.boundary
    framing.feed(memoryview(end[cut:]))
    assert framing.idle
