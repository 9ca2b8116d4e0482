"""A client's frames as RFC 6455 has them, however they are split; with wsproto as the other end."""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage
from wsproto.events import Ping as TheirPing
from wsproto.events import Pong as TheirPong

from gateway.errors import ProtocolError
from gateway.wire.websocket import close_frame
from gateway.wire.websocket_frames import (
    ClientFrames,
    ClientMessages,
    Closing,
    FrameError,
    Message,
    Piece,
    Ping,
    Pong,
    binary_frame,
    is_text,
    ping_frame,
    pong_frame,
    text_frame,
)
from tests.client_frames import BINARY, CLOSE, CONTINUATION, MASK, PING, PONG, TEXT, frame, masked

unhurried = settings(deadline=None)
LIMIT = 1000


def read(*reads: bytes, limit: int = LIMIT) -> list[Message | Ping | Pong | Closing]:
    """All that is in them. Raises FrameError."""
    messages, found = ClientMessages(limit), []
    for data in reads:
        messages.receive(data)
        while (one := messages.next()) is not None:
            found.append(one)
    return found


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def refused(*reads: bytes, limit: int = LIMIT) -> FrameError:
    with pytest.raises(FrameError) as raised:
        read(*reads, limit=limit)
    return raised.value


# --- what may come ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 127, 999, 1000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message(size: int, opcode: int) -> None:
    data = bytes(b"abcdefg" * 143)[:size]
    sent = frame(opcode, data)
    whole = [Message(opcode == TEXT, data)]
    assert read(sent) == whole
    assert read(*bytewise(sent)) == whole
    assert read(sent + sent) == whole * 2
    assert read(sent[:-1]) == []


@pytest.mark.parametrize("size", [65_535, 65_536, 100_000])
def test_a_long_message(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    assert read(frame(BINARY, data[:size]), limit=size) == [Message(False, data[:size])]
    assert refused(frame(BINARY, data[:size]), limit=size - 1).code == 1009


def test_the_examples_of_the_rfc() -> None:
    """RFC 6455, 5.7."""
    assert read(bytes.fromhex("818537fa213d7f9f4d5158")) == [Message(True, b"Hello")]
    assert read(bytes.fromhex("898537fa213d7f9f4d5158")) == [Ping(b"Hello")]
    assert text_frame(b"Hello") == bytes.fromhex("810548656c6c6f")
    assert pong_frame(b"Hello") == bytes.fromhex("8a0548656c6c6f")
    assert binary_frame(bytes(256))[:4] == bytes.fromhex("827e0100")
    assert binary_frame(bytes(65_536))[:10] == bytes.fromhex("827f0000000000010000")


def test_fragments_are_joined_and_controls_come_between_them() -> None:
    sent = (
        frame(TEXT, b"he", fin=False)
        + frame(PING, b"?")
        + frame(CONTINUATION, b"", fin=False)
        + frame(PONG)
        + frame(CONTINUATION, b"llo")
        + frame(BINARY, b"\xff")
    )
    expected = [Ping(b"?"), Pong(b""), Message(True, b"hello"), Message(False, b"\xff")]
    assert read(sent) == expected
    assert read(*bytewise(sent)) == expected


def test_a_character_may_be_cut_by_a_fragment() -> None:
    cut = "ä".encode()
    assert read(frame(TEXT, cut[:1], fin=False) + frame(CONTINUATION, cut[1:])) == [Message(True, cut)]


def test_pieces_come_as_they_are_read() -> None:
    """Without a limit nothing is kept, so nobody has to wait for the end of a frame."""
    frames = ClientFrames()
    sent = frame(BINARY, b"abcdefgh", fin=False)
    frames.receive(sent[:-5])
    assert frames.next() == Piece(False, b"abc", False)
    assert frames.next() is None
    frames.receive(sent[-5:] + frame(CONTINUATION, b"ij")[:-1])
    assert frames.next() == Piece(False, b"defgh", False)
    assert frames.next() == Piece(False, b"i", False)
    assert frames.next() is None
    frames.receive(masked(b"ij")[-1:])
    assert frames.next() == Piece(False, b"j", True)
    assert frames.next() is None


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1011, 1012, 1013, 1014, 3000, 4000, 4999])
def test_a_close(code: int) -> None:
    assert read(frame(CLOSE, pack("!H", code) + "tschüß".encode())) == [Closing(code, "tschüß")]


def test_nothing_is_read_after_a_close() -> None:
    assert read(frame(CLOSE) + frame(TEXT, b"x"), b"\xff\xff") == [Closing(None, "")]


# --- what may not ----------------------------------------------------------------------------------------------------

MALFORMED = {
    "not masked": b"\x81\x01x",
    "not masked, empty": b"\x81\x00",
    "a control not masked": b"\x89\x00",
    **{f"bit {bits:#x}": frame(TEXT, b"x", bits=bits) for bits in (0x10, 0x20, 0x40, 0x70)},
    **{f"bit {bits:#x} of a control": frame(PING, b"x", bits=bits) for bits in (0x10, 0x20, 0x40)},
    **{f"opcode {opcode}": frame(opcode, b"x") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "a ping in fragments": frame(PING, b"x", fin=False),
    "a close in fragments": frame(CLOSE, fin=False),
    "a long ping": frame(PING, bytes(126)),
    "a long close": frame(CLOSE, b"\x03\xe8" + b"x" * 124),
    "a continuation of nothing": frame(CONTINUATION, b"x"),
    "a continuation of what has ended": frame(TEXT, b"x") + frame(CONTINUATION, b"x"),
    "text in a message": frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"),
    "binary in a message": frame(TEXT, b"x", fin=False) + frame(BINARY, b"x"),
    "125 in two bytes": b"\x82" + pack("!BH", 0xFE, 125) + MASK + bytes(125),
    "0 in two bytes": b"\x82" + pack("!BH", 0xFE, 0) + MASK,
    "65,535 in eight bytes": b"\x82" + pack("!BQ", 0xFF, 65_535) + MASK + bytes(65_535),
    "1 in eight bytes": b"\x82" + pack("!BQ", 0xFF, 1) + MASK + b"x",
    "64 bits": b"\x82" + pack("!BQ", 0xFF, 1 << 63) + MASK,
    "half a code": frame(CLOSE, b"\x03"),
    **{
        f"code {code}": frame(CLOSE, pack("!H", code))
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
    },
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
def test_what_breaks_the_protocol(sent: bytes) -> None:
    assert refused(sent, limit=100_000).code == 1002
    assert refused(*bytewise(sent), limit=100_000).code == 1002


@pytest.mark.parametrize(
    "sent",
    [
        frame(TEXT, b"\xff"),
        frame(TEXT, b"\xc0\xaf"),
        frame(TEXT, b"\xed\xa0\x80"),
        frame(TEXT, b"\xf4\x90\x80\x80"),
        frame(TEXT, "ä".encode()[:1]),
        frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"\xe4"),
        frame(CLOSE, b"\x03\xe8\xff"),
    ],
)
def test_what_is_no_text(sent: bytes) -> None:
    assert refused(sent).code == 1007


def test_what_was_whole_before_is_told() -> None:
    messages = ClientMessages(LIMIT)
    messages.receive(frame(TEXT, b"a") + frame(PING) + b"\xff\xff")
    assert (messages.next(), messages.next()) == (Message(True, b"a"), Ping(b""))
    with pytest.raises(FrameError):
        messages.next()


@pytest.mark.parametrize(
    "sent",
    [
        frame(BINARY, bytes(1001)),
        # Of what is announced nothing needs to have come.
        frame(BINARY, bytes(1001))[:4],
        b"\x82" + pack("!BQ", 0xFF, 1 << 62),
        frame(TEXT, bytes(1000), fin=False) + frame(CONTINUATION, b"x"),
        frame(TEXT, bytes(999), fin=False) + frame(PING) + frame(CONTINUATION, b"xy", fin=False),
    ],
)
def test_a_message_that_is_too_big(sent: bytes) -> None:
    assert refused(sent).code == 1009


def test_the_limit_is_that_of_each_message() -> None:
    big = frame(BINARY, bytes(600), fin=False) + frame(CONTINUATION, bytes(400))
    assert read(big * 3) == [Message(False, bytes(1000))] * 3


def test_fragments_without_end_and_without_bytes_cost_nothing() -> None:
    messages = ClientMessages(LIMIT)
    messages.receive(frame(TEXT, b"x", fin=False))
    assert messages.next() is None
    for _ in range(1000):
        messages.receive(frame(CONTINUATION, fin=False) * 10)
        assert messages.next() is None
    assert len(messages._gathered) == 1
    assert not messages._frames._left


def test_what_it_keeps_of_a_frame_that_does_not_end() -> None:
    """A header and a control frame at most; and of a message what its limit allows."""
    frames = ClientFrames()
    for byte in bytewise(frame(PING, bytes(125))[:-1]):
        frames.receive(byte)
        assert frames.next() is None
    assert len(frames._data) == 130


def test_no_payload_is_in_a_repr() -> None:
    assert "secret" not in repr(read(frame(TEXT, b"secret")))
    frames = ClientFrames()
    frames.receive(frame(BINARY, b"secret"))
    assert "secret" not in repr(frames.next())


# --- against another implementation ----------------------------------------------------------------------------------

PAYLOADS = st.one_of(st.binary(max_size=300), st.sampled_from([bytes(125), bytes(126), bytes(65_535), bytes(65_536)]))
EVENTS = st.one_of(
    st.builds(TextMessage, data=st.text(max_size=200), message_finished=st.booleans()),
    st.builds(BytesMessage, data=PAYLOADS, message_finished=st.booleans()),
    st.builds(TheirPing, payload=st.binary(max_size=125)),
    st.builds(TheirPong, payload=st.binary(max_size=125)),
)


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({at % (len(data) + 1) for at in cuts})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


@unhurried
@given(st.lists(EVENTS, max_size=8), st.lists(st.integers(min_value=0), max_size=8))
def test_what_wsproto_sends_is_read(events: list[TextMessage | BytesMessage | TheirPing | TheirPong], cuts: list[int]):
    client = Connection(ConnectionType.CLIENT)
    sent, expected = b"", list[Message | Ping | Pong]()
    gathered: list[bytes] | None = None
    kind: type = TextMessage
    for event in events:
        if isinstance(event, TheirPing):
            expected.append(Ping(bytes(event.payload)))
        elif isinstance(event, TheirPong):
            expected.append(Pong(bytes(event.payload)))
        else:
            if gathered is not None and type(event) is not kind:
                continue  # the message before it has not ended
            kind = type(event)
            data = event.data.encode() if isinstance(event, TextMessage) else bytes(event.data)
            gathered = [*(gathered or []), data]
            if event.message_finished:
                expected.append(Message(kind is TextMessage, b"".join(gathered)))
                gathered = None
        sent += client.send(event)
    assert read(*cut(sent, cuts), limit=1 << 20) == expected


@unhurried
@given(st.text(max_size=300), PAYLOADS, st.binary(max_size=125))
def test_what_we_send_wsproto_reads(text: str, payload: bytes, control: bytes) -> None:
    client = Connection(ConnectionType.CLIENT)
    sent = text_frame(text.encode()) + binary_frame(payload) + ping_frame(control) + pong_frame(control)
    client.receive_data(sent + close_frame(1008, b"no"))
    found = list(client.events())
    data = b"".join(bytes(event.data) for event in found if isinstance(event, BytesMessage))
    said = "".join(event.data for event in found if isinstance(event, TextMessage))
    assert (said, data) == (text, payload)
    assert [bytes(event.payload) for event in found if isinstance(event, TheirPing | TheirPong)] == [control, control]
    assert isinstance(found[-1], CloseConnection)
    assert found[-1].code == 1008


def outcome(*reads: bytes) -> tuple[list[object], int | None]:
    """What was found, and the code of the end. Nothing else may be raised."""
    messages, found = ClientMessages(100), list[object]()
    try:
        for one in reads:
            messages.receive(one)
            while (message := messages.next()) is not None:
                found.append(message)
    except FrameError as error:
        return found, error.code
    return found, None


@unhurried
@example(MALFORMED["64 bits"], [])
@given(st.binary(max_size=400), st.lists(st.integers(min_value=0), max_size=6))
def test_never_anything_but_an_error_of_the_protocol(data: bytes, cuts: list[int]) -> None:
    """And the same wherever the bytes are split."""
    assert issubclass(FrameError, ProtocolError)
    assert outcome(data) == outcome(*cut(data, cuts))


@unhurried
@given(
    st.lists(
        st.builds(
            frame,
            st.integers(0, 15),
            st.binary(max_size=130),
            fin=st.booleans(),
            bits=st.sampled_from([0, 0, 0, 0x40]),
            mask=st.binary(min_size=4, max_size=4),
        ),
        max_size=6,
    ).map(b"".join),
    st.lists(st.integers(min_value=0), max_size=6),
)
def test_frames_of_every_kind_split_anywhere(data: bytes, cuts: list[int]) -> None:
    assert outcome(data) == outcome(*cut(data, cuts))


@given(st.binary(max_size=20))
def test_is_text(data: bytes) -> None:
    assert is_text(data) is (data.decode("utf-8", "ignore").encode() == data)
