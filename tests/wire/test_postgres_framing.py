"""Following the backend's messages: against a reference that sees the whole stream, cut at every possible place."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.postgres_framing import BackendFraming
from tests.fakes import READY, message, status

unhurried = settings(deadline=None)

ROW = message(b"D", b"\0\1\0\0\0\1x")
DONE = message(b"C", b"SELECT 100\0")
NOTIFICATION = message(b"A", b"\0\0\0\7channel\0hello\0")
NOTICE = message(b"N", b"SNOTICE\0C00000\0Mhm\0\0")
IN_TRANSACTION, IN_FAILED_TRANSACTION = message(b"Z", b"T"), message(b"Z", b"E")
FAILED = message(b"E", b"SERROR\0C42601\0Mno\0\0")
# More short messages than are walked in one read.
BULK = ROW * 200
# A stored value of the bytes that every answer ends with.
MISLEADING = message(b"D", b"\0\1\0\0\0\x1c" + DONE + READY + b"more")
MISLED = MISLEADING.index(READY) + len(READY)


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
        if any(kind[:1] == b"Z" for kind in self._parsed()[0][before:]):
            self.asked = False

    def _parsed(self) -> tuple[list[bytes], bool]:
        """The types of the complete messages (Z with its status), and whether there is nothing after them."""
        at, types = 0, []
        while at + 5 <= len(self.data):
            end = at + 1 + int.from_bytes(self.data[at + 1 : at + 5])
            if end > len(self.data):
                break
            types.append(self.data[at : at + 1] + (self.data[at + 5 : end] if self.data[at] == ord("Z") else b""))
            at = end
        return types, at == len(self.data)

    @property
    def boundary(self) -> bool:
        return self._parsed()[1]

    @property
    def idle(self) -> bool:
        answers = [kind for kind in self._parsed()[0] if kind not in (b"A", b"N", b"S")]
        return self.boundary and not self.asked and answers[-1:] in ([], [b"ZI"])


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
    framing = feed(fresh(), MISLEADING[:MISLED])
    assert not framing.boundary
    assert not framing.idle
    assert feed(framing, MISLEADING[MISLED:]).boundary
    assert not framing.idle


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


# --- transactions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ready", [IN_TRANSACTION, IN_FAILED_TRANSACTION, message(b"Z", b"?")])
@pytest.mark.parametrize("before", [DONE, BULK + DONE])
@pytest.mark.parametrize("back", range(len(IN_TRANSACTION)))
def test_who_is_in_a_transaction_is_not_idle(ready: bytes, before: bytes, back: int) -> None:
    """Ending the session there would undo what the client did: wherever the read was cut, also before the status."""
    stream = before + ready
    framing = feed(fresh(), stream[: len(stream) - back], stream[len(stream) - back :])
    assert not framing.idle
    assert not feed(framing, NOTICE).idle
    framing.asked = True
    assert not feed(framing, DONE + READY[:5]).idle
    assert feed(framing, READY[5:]).idle


def test_a_transaction_that_a_notice_follows_in_the_same_read() -> None:
    assert not feed(fresh(), DONE + IN_TRANSACTION + NOTICE).idle
    assert not feed(fresh(), DONE + IN_TRANSACTION[:5], b"T" + NOTICE).idle
    assert feed(fresh(), DONE + READY[:5], b"I" + NOTICE).idle


def test_a_transaction_is_a_boundary() -> None:
    framing = feed(fresh(), DONE + IN_TRANSACTION)
    assert framing.boundary
    assert not framing.asked


# --- bulk results ------------------------------------------------------------------------------------------------


def test_bulk_is_lost_and_seems_to_have_ended() -> None:
    """Then the session may be idle, but where a message ends is known only of what answers the next question."""
    framing = feed(fresh(), BULK)
    assert not framing.boundary
    assert not framing.idle
    feed(framing, ROW[:9])
    feed(framing, ROW[9:] + ROW)
    assert not framing.boundary
    assert not framing.idle
    feed(framing, ROW + DONE + READY)
    assert framing.idle
    assert not framing.boundary


def test_the_answer_to_the_next_question_is_exact_again() -> None:
    framing = feed(fresh(), BULK, DONE + READY)
    framing.asked = True
    assert not framing.idle
    assert not framing.boundary
    assert not feed(framing, ROW[:3]).boundary
    assert feed(framing, ROW[3:]).boundary
    assert not framing.idle
    assert not feed(framing, MISLEADING[:MISLED]).idle
    assert not framing.boundary
    assert feed(framing, MISLEADING[MISLED:]).boundary
    assert feed(framing, NOTICE + DONE + READY).idle
    assert framing.boundary
    assert not feed(framing, NOTICE[:7]).idle


@pytest.mark.parametrize("answer", [NOTICE, DONE, FAILED, ROW * 3, DONE + READY, READY, DONE[:7]])
def test_the_answer_may_begin_with_anything(answer: bytes) -> None:
    framing = feed(fresh(), BULK, DONE + READY)
    framing.asked = True
    feed(framing, answer)
    assert framing.boundary is (answer != DONE[:7])
    assert framing.idle is answer.endswith(READY)


def test_lost_again_in_the_answer() -> None:
    framing = feed(fresh(), BULK, DONE + READY)
    framing.asked = True
    assert not feed(framing, BULK).boundary
    assert not framing.idle
    assert feed(framing, DONE + READY).idle


@pytest.mark.parametrize("asked", [False, True])
def test_a_question_asked_before_the_end_makes_nothing_exact(asked: bool) -> None:
    """Only one that follows what seemed to be the end."""
    framing = feed(fresh(), BULK)
    framing.asked = asked
    assert not feed(framing, ROW).boundary
    assert not feed(framing, DONE + READY).boundary
    assert not feed(framing, ROW).boundary
    assert not framing.idle


@pytest.mark.parametrize(
    "rest", [MISLEADING[MISLED:], b"m", MISLEADING[MISLED:] + ROW, b"A", b"N\0\0", NOTICE + b"more"]
)
def test_a_stored_ready_for_query_is_not_believed(rest: bytes) -> None:
    """The attack: rows of READY, and a read that ends in one. What follows unasked shows that it was none."""
    framing = feed(fresh(), BULK, MISLEADING[:MISLED])
    assert not framing.boundary
    feed(framing, rest)
    assert not framing.boundary
    assert not framing.idle
    assert not feed(framing, ROW).boundary
    assert not feed(framing, DONE).idle
    assert feed(framing, READY).idle


@pytest.mark.parametrize(
    "unasked", [NOTIFICATION, NOTICE, status(b"TimeZone", b"UTC"), NOTIFICATION + NOTICE, NOTICE * 100, b""]
)
def test_what_comes_unasked_leaves_it_seeming_idle(unasked: bytes) -> None:
    framing = feed(fresh(), BULK, DONE + READY, unasked, unasked)
    assert framing.idle
    assert not framing.boundary
    framing.asked = True
    assert feed(framing, ROW).boundary


@pytest.mark.parametrize("cut", range(1, len(NOTICE)))
def test_half_of_what_comes_unasked_does_not(cut: int) -> None:
    framing = feed(fresh(), BULK, DONE + READY)
    assert not feed(framing, NOTICE[:cut]).idle
    assert not feed(framing, NOTICE[cut:]).idle
    assert feed(framing, DONE + READY).idle


def test_an_end_with_something_else_inside_is_none() -> None:
    assert not feed(fresh(), BULK, READY[:4], NOTICE, READY[4:]).idle


@pytest.mark.parametrize(
    "end",
    [
        DONE,
        READY[:-1],
        DONE + READY + b"N",
        DONE + READY + ROW,
        DONE + message(b"Z", b"X"),
        DONE + message(b"Z", b"II"),
        b"Z\0\0\0\x06I",
        b"z\0\0\0\x05I",
        READY + b"\n",
    ],
)
def test_nothing_else_seems_to_be_the_end(end: bytes) -> None:
    framing = feed(fresh(), BULK, end)
    assert not framing.boundary
    assert not framing.idle


@pytest.mark.parametrize("end", [DONE, FAILED, message(b"I"), message(b"s"), message(b"C", b"x" * 500 + b"\0"), b""])
def test_whatever_ends_an_answer(end: bytes) -> None:
    assert feed(fresh(), BULK, end + READY).idle
    assert feed(fresh(), BULK + end + READY).idle


def test_a_type_that_no_backend_sends_is_not_trusted() -> None:
    framing = feed(fresh(), message(b"?", b"what is this"))
    assert not framing.boundary
    assert feed(framing, DONE + READY).idle
    assert not framing.boundary
    framing.asked = True
    assert feed(framing, ROW).boundary


def test_as_many_messages_as_are_walked_are_still_exact() -> None:
    framing = feed(fresh(), ROW * 62 + DONE + READY)
    assert framing.idle
    assert not feed(framing, ROW[:5]).boundary


@pytest.mark.parametrize("length", [0, 1, 2, 3, 2**31, 2**32 - 1])
def test_impossible_lengths_do_not_hang(length: int) -> None:
    framing = feed(fresh(), b"D" + length.to_bytes(4) + b"D" * 1000)
    feed(framing, b"\0" * 1000)
    assert not framing.idle


# --- any stream, cut anywhere ------------------------------------------------------------------------------------

SHORT = [ROW, DONE, READY, IN_TRANSACTION, IN_FAILED_TRANSACTION, NOTICE, FAILED]
MESSAGES = st.sampled_from([*SHORT, ROW * 3, DONE + READY, NOTIFICATION, FAILED + READY, BULK])
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
@given(st.data(), st.lists(st.sampled_from(SHORT), max_size=40).map(b"".join))
def test_exact_as_long_as_reads_are_small(data: st.DataObject, stream: bytes) -> None:
    framing, reference = fresh(), Reference()
    for chunk in cut(data, stream):
        feed(framing, chunk)
        reference.feed(chunk)
        assert framing.boundary is reference.boundary
        assert framing.idle is reference.idle


@unhurried
@given(st.data(), st.lists(st.sampled_from([MISLEADING, ROW, DONE, READY]), max_size=20).map(b"".join))
def test_no_row_makes_it_sure_of_a_boundary(data: st.DataObject, stream: bytes) -> None:
    """Without another question there is none, and what seems idle seems so by its last bytes alone."""
    framing, seen = feed(fresh(), BULK), BULK
    for chunk in cut(data, stream):
        feed(framing, chunk)
        seen += chunk
        assert not framing.boundary
        assert framing.idle is seen.endswith(READY)


@unhurried
@given(st.lists(st.binary(max_size=400), max_size=20))
def test_any_bytes(chunks: list[bytes]) -> None:
    framing = fresh()
    for chunk in chunks:
        feed(framing, chunk)
        assert not framing.idle or b"Z" in b"".join(chunks)
