"""Following the backend's messages: against a reference that sees the whole stream, cut at every possible place."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.postgres import BackendFraming
from tests.fakes import READY, message, status

unhurried = settings(deadline=None)

ROW = message(b"D", b"\0\1\0\0\0\1x")
DONE = message(b"C", b"SELECT 100\0")
NOTIFICATION = message(b"A", b"\0\0\0\7channel\0hello\0")
NOTICE = message(b"N", b"SNOTICE\0C00000\0Mhm\0\0")
FAILED = message(b"E", b"SERROR\0C42601\0Mno\0\0")
# More short messages than are walked in one read.
BULK = ROW * 200


def feed(framing: BackendFraming, *chunks: bytes) -> BackendFraming:
    for chunk in chunks:
        framing.feed(memoryview(chunk))
    return framing


def fresh(asked: bool = True) -> BackendFraming:
    framing = BackendFraming()
    framing.asked = asked
    return framing


class Reference:
    """The whole stream, parsed anew after each read: slow and plain."""

    def __init__(self) -> None:
        self.data = b""
        self.asked = True

    def feed(self, chunk: bytes) -> None:
        before = len(self._parsed()[0])
        self.data += chunk
        if b"Z" in self._parsed()[0][before:]:
            self.asked = False

    def _parsed(self) -> tuple[list[bytes], bool]:
        """The types of the complete messages, and whether there is nothing after them."""
        at, types = 0, []
        while at + 5 <= len(self.data):
            end = at + 1 + int.from_bytes(self.data[at + 1 : at + 5])
            if end > len(self.data):
                break
            types.append(self.data[at : at + 1])
            at = end
        return types, at == len(self.data)

    @property
    def boundary(self) -> bool:
        return self._parsed()[1]

    @property
    def idle(self) -> bool:
        answers = [kind for kind in self._parsed()[0] if kind not in (b"A", b"N", b"S")]
        return self.boundary and not self.asked and answers[-1:] in ([], [b"Z"])


def cut(data: st.DataObject, stream: bytes) -> list[bytes]:
    """Into reads, none of them empty."""
    places = data.draw(st.sets(st.integers(0, len(stream)), max_size=20))
    return [stream[start:end] for start, end in pairwise(sorted(places | {0, len(stream)}))]


def test_it_begins_after_ready_for_query() -> None:
    framing = BackendFraming()
    assert framing.boundary
    assert framing.idle


def test_a_question_makes_it_busy_until_ready_for_query() -> None:
    framing = fresh()
    assert framing.boundary
    assert not framing.idle
    feed(framing, ROW + DONE)
    assert framing.boundary
    assert not framing.idle
    feed(framing, READY)
    assert framing.idle


def test_a_question_while_the_answer_is_under_way() -> None:
    framing = feed(fresh(), ROW, DONE + READY)
    framing.asked = True
    assert framing.boundary
    assert not framing.idle


@pytest.mark.parametrize("answer", [ROW, DONE, FAILED, message(b"1"), NOTICE + FAILED, FAILED + NOTICE])
def test_the_answer_to_a_pipelined_question(answer: bytes) -> None:
    """Sent before the last ReadyForQuery, which was not its own: it waits for the next."""
    framing = feed(fresh(), DONE + READY)
    assert not feed(framing, answer).idle
    assert feed(framing, READY).idle


@pytest.mark.parametrize("at", range(1, len(ROW + DONE + READY)))
def test_cut_in_two_at_every_byte(at: int) -> None:
    stream = ROW + DONE + READY
    framing = feed(fresh(), stream[:at])
    assert framing.boundary is (at in (len(ROW), len(ROW + DONE)))
    assert not framing.idle
    feed(framing, stream[at:])
    assert framing.boundary
    assert framing.idle


def test_byte_by_byte() -> None:
    stream, framing, reference = ROW + FAILED + READY + NOTICE + DONE + READY, fresh(), Reference()
    for byte in stream:
        feed(framing, bytes([byte]))
        reference.feed(bytes([byte]))
        assert framing.boundary is reference.boundary
        assert not framing.idle or reference.idle
    assert framing.idle


def test_a_message_longer_than_many_reads() -> None:
    row = message(b"D", b"Z" * 100_000)
    framing = feed(fresh(), row[:40_000], row[40_000:80_000])
    assert not framing.boundary
    assert feed(framing, row[80_000:]).boundary


def test_messages_inside_a_value_are_not_messages() -> None:
    """A stored value that looks like the end of a result, right at the end of a read."""
    value = message(b"D", b"\0\1\0\0\0\x20" + DONE + READY + b"more")
    framing = feed(fresh(), value[:-4])
    assert not framing.boundary
    assert not framing.idle
    assert feed(framing, value[-4:]).boundary


def test_nothing_read_changes_nothing() -> None:
    framing = feed(fresh(), b"")
    assert framing.asked
    assert not framing.idle


@pytest.mark.parametrize("message_of_its_own", [NOTIFICATION, NOTICE, status(b"TimeZone", b"UTC")])
def test_what_comes_unasked_leaves_it_idle(message_of_its_own: bytes) -> None:
    """A client that LISTENs is as idle after a notification as before ("Asynchronous Operations")."""
    framing = feed(fresh(), DONE + READY)
    assert feed(framing, message_of_its_own[:7]).boundary is False
    assert feed(framing, message_of_its_own[7:]).idle
    assert feed(fresh(), DONE + READY + message_of_its_own).idle


def test_what_comes_unasked_does_not_answer_a_question() -> None:
    framing = feed(fresh(), DONE + READY)
    framing.asked = True
    assert not feed(framing, NOTICE).idle
    assert framing.asked


def test_bulk_is_lost_and_found_at_the_end_of_the_result() -> None:
    framing = feed(fresh(), BULK)
    assert not framing.boundary
    assert not framing.idle
    feed(framing, ROW[:9])
    feed(framing, ROW[9:] + ROW)
    assert not framing.boundary
    feed(framing, ROW + DONE + READY)
    assert framing.boundary
    assert framing.idle
    assert not feed(framing, ROW[:3]).boundary
    assert feed(framing, ROW[3:]).boundary


def test_bulk_that_ends_within_the_same_read() -> None:
    framing = feed(fresh(), BULK + DONE + READY)
    assert framing.boundary
    assert framing.idle


@pytest.mark.parametrize(
    "end",
    [
        DONE,
        READY,
        FAILED + READY,
        DONE + READY + b"N",
        DONE[:1] + READY,
        message(b"C", b"select 1\0") + READY,
        b"C\0\0\0\x0fSELECT 1\0" + READY,  # a length that does not fit its tag
        DONE + message(b"Z", b"X"),
        DONE + message(b"Z", b"II"),
    ],
)
def test_nothing_else_finds_the_boundary_again(end: bytes) -> None:
    framing = feed(fresh(), BULK, end)
    assert not framing.boundary
    assert not framing.idle


@pytest.mark.parametrize("tag", [b"SELECT 1", b"INSERT 0 18446744073709551615", b"COPY 5", b"SET", b"BEGIN", b"A" * 63])
@pytest.mark.parametrize("mark", [b"I", b"T", b"E"])
def test_every_end_of_a_result(tag: bytes, mark: bytes) -> None:
    end = message(b"C", tag + b"\0") + message(b"Z", mark)
    framing = feed(fresh(), BULK, end)
    assert framing.boundary
    assert framing.idle


def test_a_type_that_no_backend_sends_is_not_trusted() -> None:
    framing = feed(fresh(), message(b"?", b"what is this"))
    assert not framing.boundary
    assert feed(framing, DONE + READY).boundary


def test_as_many_messages_as_are_walked_are_still_exact() -> None:
    framing = feed(fresh(), ROW * 62 + DONE + READY)
    assert framing.idle
    assert not feed(framing, ROW[:5]).boundary


@pytest.mark.parametrize("length", [0, 1, 2, 3, 2**31, 2**32 - 1])
def test_impossible_lengths_do_not_hang(length: int) -> None:
    framing = feed(fresh(), b"D" + length.to_bytes(4) + b"D" * 1000)
    feed(framing, b"\0" * 1000)
    assert not framing.idle


MESSAGES = st.sampled_from([ROW, ROW * 3, DONE, READY, DONE + READY, NOTICE, NOTIFICATION, FAILED + READY, BULK])
LONG = st.integers(0, 3000).map(lambda size: message(b"d", b"v" * size))
STREAMS = st.lists(MESSAGES | LONG, max_size=12).map(b"".join)


@unhurried
@given(st.data(), STREAMS)
def test_never_wrong_about_a_boundary(data: st.DataObject, stream: bytes) -> None:
    """Whatever the cuts: a boundary or an idle moment is claimed only where there is one."""
    framing, reference = fresh(), Reference()
    for chunk in cut(data, stream):
        if data.draw(st.booleans()):
            framing.asked = reference.asked = True
        feed(framing, chunk)
        reference.feed(chunk)
        assert not framing.boundary or reference.boundary
        assert not framing.idle or reference.idle


@unhurried
@given(st.data(), st.lists(st.sampled_from([ROW, DONE, READY, NOTICE, FAILED]), max_size=40).map(b"".join))
def test_exact_as_long_as_reads_are_small(data: st.DataObject, stream: bytes) -> None:
    framing, reference = fresh(), Reference()
    for chunk in cut(data, stream):
        feed(framing, chunk)
        reference.feed(chunk)
        assert framing.boundary is reference.boundary


@unhurried
@given(st.lists(st.binary(max_size=400), max_size=20))
def test_any_bytes(chunks: list[bytes]) -> None:
    framing = fresh()
    for chunk in chunks:
        feed(framing, chunk)
        assert not framing.idle or framing.boundary
