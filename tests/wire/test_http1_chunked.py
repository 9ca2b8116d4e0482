"""Chunked bodies: one spelling, however they are split, and no more framing than they are worth."""

from __future__ import annotations

import gc
import re
import weakref
from itertools import pairwise, product, zip_longest

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.http1 import MAX_FIELDS, ChunkedReader, Field, Refused, chunk, last_chunk
from gateway.wire.http1_chunked import MAX_EXTENSION, MAX_TRAILERS

unhurried = settings(deadline=None)

NEXT = b"GET / HTTP/1.1\r\n"
END = b"0\r\n\r\n"
Read = tuple[bytes, list[Field], bytes]


def read(*pieces: bytes) -> Read | None:
    """The payload, the trailers, and what is left of the stream; None: the body is not complete."""
    reader, payload = ChunkedReader(), b""
    for number, piece in enumerate(pieces):
        part, used = reader.feed(piece)
        payload += part
        if reader.done:
            return payload, reader.trailers, piece[used:] + b"".join(pieces[number + 1 :])
        assert used == len(piece)
    return None


def one_by_one(stream: bytes) -> list[bytes]:
    return [stream[at : at + 1] for at in range(len(stream))]


GOOD = [
    (END, b""),
    (b"00000\r\n\r\n", b""),
    (b"5\r\nhello\r\n" + END, b"hello"),
    (b"5\r\nhello\r\n00c\r\nchunked body\r\n" + END, b"hellochunked body"),
    (b"1A\r\n" + b"x" * 26 + b"\r\n1b\r\n" + b"y" * 27 + b"\r\n" + END, b"x" * 26 + b"y" * 27),
    (b"0000000000000001\r\n\n\r\n" + END, b"\n"),
    (b"4\r\n\r\n\r\n\r\n" + END, b"\r\n\r\n"),
    (b"7\r\n0\r\n\r\nab\r\n" + END, b"0\r\n\r\nab"),
    (b"1;a\r\nx\r\n0;last\r\n\r\n", b"x"),
    (b'1;a=b;c="d;\\" \xe4\t";e\r\nx\r\n' + END, b"x"),
    (b"1;" + b"a" * (MAX_EXTENSION - 1) + b"\r\nx\r\n" + END, b"x"),
    (b"0000000000000001;" + b"a" * (MAX_EXTENSION - 1) + b"\r\nx\r\n" + END, b"x"),
]


@pytest.mark.parametrize(("body", "payload"), GOOD)
def test_body_whole_and_byte_by_byte(body: bytes, payload: bytes) -> None:
    assert read(body + NEXT) == (payload, [], NEXT)
    assert read(body) == (payload, [], b"")
    assert read(*one_by_one(body + NEXT)) == (payload, [], NEXT)
    assert read(*one_by_one(body)[:-1]) is None
    assert read(body[:-1]) is None


@pytest.mark.parametrize(("body", "payload"), GOOD)
def test_body_cut_in_two_at_every_byte(body: bytes, payload: bytes) -> None:
    for at in range(len(body)):
        assert read(body[:at], body[at:] + NEXT) == (payload, [], NEXT)


def test_the_payload_comes_as_it_is_read() -> None:
    reader = ChunkedReader()
    assert reader.feed(b"5\r\nhe") == (b"he", 5)
    assert reader.feed(b"ll") == (b"ll", 2)
    assert reader.feed(b"o\r") == (b"o", 2)
    assert reader.feed(b"\n1\r\n!") == (b"!", 5)
    assert not reader.done
    assert reader.feed(b"\r\n0\r\n\r\nnext") == (b"", 7)
    assert reader.done
    assert reader.feed(b"next") == (b"", 0)


def test_the_largest_size_is_no_promise_to_keep_so_much() -> None:
    reader = ChunkedReader()
    assert reader.feed(b"f" * 16 + b"\r\n" + b"x" * 1000) == (b"x" * 1000, 1018)


BAD = [
    b"\r\n",
    b"\r\n5\r\nhello\r\n" + END,
    b"\n",
    b";a\r\n",
    b"g\r\n",
    b"+5\r\nhello\r\n",
    b"-5\r\nhello\r\n",
    b"0x5\r\nhello\r\n",
    b"5_0\r\n",
    b"5.\r\nhello\r\n",
    b" 5\r\nhello\r\n",
    b"5 \r\nhello\r\n",
    b"5\t\r\nhello\r\n",
    b"5 ;a\r\nhello\r\n",
    b"5; a\r\nhello\r\n",
    b"5;a =b\r\nhello\r\n",
    b"5;a= b\r\nhello\r\n",
    b"5\nhello\r\n",
    b"5\r\r\nhello\r\n",
    b"5\rhello\r\n",
    b"5\0\r\nhello\r\n",
    b"\xd9\xa5\r\nhello\r\n",
    b"5,5\r\nhello\r\n",
    b"0" * 17 + b"\r\n\r\n",
    b"1" + b"0" * 16 + b"\r\n",
    b"f" * 17 + b"\r\n",
    b"5;\r\nhello\r\n",
    b"5;a;\r\nhello\r\n",
    b"5;=b\r\nhello\r\n",
    b"5;a=\r\nhello\r\n",
    b'5;a="b\r\nhello\r\n',
    b'5;a="b\\\r\nhello\r\n',
    b'5;a="b"c\r\nhello\r\n',
    b'5;"a"\r\nhello\r\n',
    b"5;a\nb\r\nhello\r\n",
    b"5;a\rb\r\nhello\r\n",
    b'5;a="\n"\r\nhello\r\n',
    b'5;a="\0"\r\nhello\r\n',
    b"5;a\n\r\nhello\r\n",
    b"5a;\xe4\r\n",
    b"1;" + b"a" * MAX_EXTENSION * 2 + b"\r\nx\r\n",
    b"1" * 400,
    b"5\r\nhello" + END,
    b"5\r\nhello5\r\nworld\r\n\r\n" + END,
    b"0\r\n5\r\nhello\r\n\r\n",
    b"5\r\nhello\n" + END,
    b"5\r\nhello\r\r\n" + END,
    b"5\r\nhello\n\r" + END,
    b"5\r\nhello!\r\n" + END,
    b"5\r\nhelloab" + END,
    b"5\r\nhell\r\n" + END,
    b"6\r\nhello\r\n" + END,
    b"0\r\n\n",
    b"0\n\r\n",
    b"0\n\n",
    b"0\r\n\r\r\n\r\n",
    b"0\r\n X: a\r\n\r\n",
    b"0\r\nX : a\r\n\r\n",
    b"0\r\nX: a\n\r\n",
    b"0\r\nX: a\r\n b\r\n\r\n",
    b"0\r\nX: a\rY: b\r\n\r\n",
    b"0\r\nX: a\0\r\n\r\n",
    b"0\r\nX\r\n\r\n",
    b"0\r\n: a\r\n\r\n",
    b"0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"0\r\nX(: a\r\n\r\n",
    b"0\r\nX: " + b"a" * MAX_TRAILERS + b"\r\n\r\n",
    b"0\r\n" + b"X: a\r\n" * (MAX_FIELDS + 1) + b"\r\n",
    b"0\r\n" + b"X: aaaaaaaaaaaaa\r\n" * (MAX_TRAILERS // 17),
    b"0\r\n" + b"X" * (MAX_TRAILERS + 1),
]


@pytest.mark.parametrize("body", BAD)
def test_bad_body_whole_and_byte_by_byte(body: bytes) -> None:
    for before in (b"", b"1\r\nx\r\n"):
        for pieces in ([before + body], [before, body], one_by_one(before + body)):
            with pytest.raises(Refused) as refused:
                read(*pieces)
            assert refused.value.status in {400, 431}


def test_a_line_without_an_end_is_not_kept() -> None:
    """Neither of a size nor of trailers, and not in many small reads either."""
    for begin, most in ((b"", 16 + MAX_EXTENSION + 2), (b"1\r\nx", 2), (b"0\r\n", MAX_TRAILERS)):
        reader = ChunkedReader()
        reader.feed(begin)
        with pytest.raises(Refused):
            for _ in range(most):
                reader.feed(b"1")


def test_extensions_without_end() -> None:
    """Nearly all of it is framing: it is ended after some KiB, however it is split."""
    small = b"1;" + b"a" * 200 + b"\r\nx\r\n"
    with pytest.raises(Refused):
        read(small * 200)
    with pytest.raises(Refused):
        read(*[small] * 200)


@pytest.mark.parametrize("at_a_time", [1, 8, 1_000, 65_536])
def test_the_smallest_chunks_with_the_smallest_extensions(at_a_time: int) -> None:
    """Each takes many times as long to read as one without, and half of it is framing: 64 KiB of them are too many."""
    body = b"1;a\r\nx\r\n" * 8_192
    assert len(body) == 65_536
    reader, heard = ChunkedReader(), 0
    with pytest.raises(Refused) as refused:
        for at in range(0, len(body), at_a_time):
            piece = body[at : at + at_a_time]
            heard += len(piece)
            reader.feed(piece)
    assert refused.value.status == 400
    assert heard <= 33_000 + at_a_time


@pytest.mark.parametrize("how_many", [1, 3])
def test_plain_chunks_in_between_are_no_way_around_it(how_many: int) -> None:
    """They pay with the data that they bring, not with the framing that they might have had."""
    small = b"1;a\r\nx\r\n" * how_many
    with pytest.raises(Refused):
        read((small + b"1\r\nx\r\n") * 10_000)
    assert read((small + chunk(b"y" * 4 * how_many)) * 10_000 + END) is not None


@pytest.mark.parametrize(
    "one",
    [
        b"1\r\nx\r\n",
        b"0000000000001\r\nx\r\n",
        chunk(b"x" * 90).replace(b"\r", b";chunk-signature=" + b"0" * 64 + b"\r", 1),
    ],
)
def test_small_chunks_and_signed_chunks_may_go_on_for_ever(one: bytes) -> None:
    body = one * 5000 + END
    whole = read(body)
    assert whole is not None
    assert len(whole[0]) == 5000 * one.count(b"x")
    assert read(*[body[at : at + 1000] for at in range(0, len(body), 1000)]) == whole


def test_plain_chunks_pay_for_extensions_whether_they_are_whole_or_cut() -> None:
    """The quick way past whole chunks counts as the other does."""
    body = (b"1;" + b"a" * 200 + b"\r\nx\r\n" + chunk(b"y" * 300)) * 500 + END
    whole = read(body)
    assert whole is not None
    assert read(*[body[at : at + 7] for at in range(0, len(body), 7)]) == whole


# --- trailers ------------------------------------------------------------------------------------------------------


def test_trailers() -> None:
    fields = b"X-Sum: 1 \r\ngrpc-status:0\r\nX-Sum: \xe4\r\nEmpty:\r\n"
    expected = [
        (b"x-sum", b"X-Sum", b"1"),
        (b"grpc-status", b"grpc-status", b"0"),
        (b"x-sum", b"X-Sum", b"\xe4"),
        (b"empty", b"Empty", b""),
    ]
    for split in (lambda stream: [stream], one_by_one):
        assert read(*split(b"1\r\nx\r\n0\r\n" + fields + b"\r\n" + NEXT)) == (b"x", expected, NEXT)
    assert read(b"0\r\n" + b"X: a\r\n" * MAX_FIELDS + b"\r\n") is not None


def test_as_long_as_trailers_may_be() -> None:
    section = b"X: " + b"a" * (MAX_TRAILERS - 5) + b"\r\n"
    assert len(section) == MAX_TRAILERS
    for pieces in ([b"0\r\n" + section + b"\r\n"], one_by_one(b"0\r\n" + section + b"\r\n")):
        found = read(*pieces)
        assert found is not None
        assert len(found[1]) == 1
    with pytest.raises(Refused):
        read(b"0\r\n" + section + b"Y: b\r\n\r\n")


@pytest.mark.parametrize(
    "name",
    b"Content-Length Transfer-Encoding Host Trailer Connection TE Expect Upgrade Keep-Alive Authorization Cookie"
    b" Set-Cookie Content-Type Content-Encoding Content-Range Cache-Control Range Location Client-Cert Client_Cert"
    b" Client-Cert-Chain X-Forwarded-For X_Forwarded_For X-Forwarded-Client-Cert Forwarded X-Real-IP X-SSL-Client-DN"
    b" Proxy-Authorization WWW-Authenticate".split(),
)
def test_trailers_that_would_mean_something_among_the_fields_are_left_out(name: bytes) -> None:
    found = read(b"0\r\nX: a\r\n" + name.upper() + b": 5\r\nY: b\r\n\r\n")
    assert found == (b"", [(b"x", b"X", b"a"), (b"y", b"Y", b"b")], b"")


SEPARATORS = b"!#$%&'*+.^_`|~-"
NEVER = [
    *(
        b"Connection Content-Length Expect Host Keep-Alive Proxy-Authenticate Proxy-Authorization Proxy-Connection TE"
    ).split(),
    *(b"Transfer-Encoding Upgrade Client-Cert Client-Cert-Chain X-Forwarded-For X-Forwarded-Proto X-Real-IP").split(),
    *(b"Forwarded Proxy Authorization").split(),
]


def variable(name: bytes) -> bytes:
    """What the least careful of servers calls it."""
    return re.sub(rb"[^A-Za-z0-9]", b"_", name).upper()


@pytest.mark.parametrize("name", NEVER)
def test_no_spelling_of_what_frames_or_claims_is_left_in(name: bytes) -> None:
    """To a server that adds trailers to the fields, and does not tell one separator from another."""
    parts = name.split(b"-")
    spelled = [
        b"".join(part + bytes(after) for part, after in zip_longest(parts, [[one] for one in between], fillvalue=b""))
        for between in product(SEPARATORS, repeat=len(parts) - 1)
    ]
    for one in spelled:
        for change in (bytes.title, bytes.lower, bytes.upper):
            found = read(b"0\r\nX: a\r\n%b: 5\r\nY: b\r\n\r\n" % change(one))
            assert found is not None
            assert {variable(known) for _, known, _ in found[1]} == {b"X", b"Y"}


@pytest.mark.parametrize("name", [b"Content_Length", b"Transfer_Encoding", b"Expect_", b"_Host", b"TE."])
def test_framing_with_something_around_it_is_left_out(name: bytes) -> None:
    assert read(b"0\r\n" + name + b": 5\r\n\r\n") == (b"", [], b"")


@pytest.mark.parametrize(
    "fields",
    [
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\n",
        b"Connection: close\r\n",
        b"Upgrade: x\r\nConnection: upgrade\r\n",
    ],
)
def test_what_trailers_say_of_framing_changes_nothing(fields: bytes) -> None:
    found = read(b"0\r\n" + fields + b"X: a\r\n\r\n" + NEXT)
    assert found == (b"", [(b"x", b"X", b"a")], NEXT)


# --- writing -------------------------------------------------------------------------------------------------------


def test_chunks_that_we_write() -> None:
    assert chunk(b"hello") == b"5\r\nhello\r\n"
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert chunk(b"") == b""
    assert last_chunk([]) == b"0\r\n\r\n"
    assert last_chunk([(b"x-a", b"X-A", b"b"), (b"c", b"c", b"")]) == b"0\r\nX-A: b\r\nc: \r\n\r\n"


@unhurried
@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_what_we_write_we_read_however_it_is_split(payloads: list[bytes], data: st.DataObject) -> None:
    trailers = [(b"x-a", b"X-A", b"b"), (b"c", b"c", b"")]
    body = b"".join(map(chunk, payloads)) + last_chunk(trailers) + NEXT
    places = data.draw(st.sets(st.integers(0, len(body)), max_size=20)) | {0, len(body)}
    pieces = [body[start:end] for start, end in pairwise(sorted(places))]
    assert read(*pieces) == (b"".join(payloads), trailers, NEXT)


# --- against another parser ------------------------------------------------------------------------------------------


def by_h11(body: bytes) -> Read | None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    payload = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            return None
        if isinstance(event, h11.Data):
            payload += event.data
        if isinstance(event, h11.EndOfMessage):
            trailers = [(bytes(name), spelled, bytes(value)) for (name, value), (spelled, _) in zip(
                event.headers, event.headers.raw_items(), strict=True)]  # fmt: skip
            return payload, trailers, connection.trailing_data[0]


def check_against_h11(body: bytes) -> None:
    """What is let in means the same to h11; and however it is split, the verdict is the same."""
    try:
        ours = read(body)
    except Refused:
        with pytest.raises(Refused):
            read(*one_by_one(body))
        return
    assert read(*one_by_one(body)) == ours
    if ours is None:
        return
    theirs = by_h11(body)
    assert theirs is not None
    assert (ours[0], ours[2]) == (theirs[0], theirs[2])
    assert set(ours[1]) <= set(theirs[1])


@pytest.mark.parametrize(("body", "_"), GOOD)
def test_h11_agrees_whatever_byte_is_changed(body: bytes, _: bytes) -> None:
    body += NEXT
    for at in range(min(len(body), 64)):
        for byte in (b"", b"\r", b"\n", b"\r\n", b" ", b"\0", b";", b"=", b'"', b"0", b"f", b"x"):
            check_against_h11(body[:at] + byte + body[at + 1 :])
            check_against_h11(body[:at] + byte + body[at:])


_PIECES = [
    b"\r\n",
    b"\r",
    b"\n",
    b" ",
    b"0",
    b"1",
    b"5",
    b"f",
    b";a",
    b"=b",
    b'="c"',
    b"hello",
    b"1\r\nx\r\n",
    b"0\r\n",
]
_PIECES += [b"X: a\r\n", b"Host: b\r\n", END, b"\0", b"\xff", b"5\r\nhello\r\n"]


@unhurried
@given(st.lists(st.sampled_from(_PIECES) | st.binary(max_size=2), max_size=20).map(b"".join))
def test_nothing_but_refusals_and_what_h11_agrees_with(body: bytes) -> None:
    check_against_h11(body)


def test_a_reader_is_freed_at_once() -> None:
    """One for each body: none may wait for the garbage collector."""

    class Watched(ChunkedReader):
        __slots__ = ("__weakref__",)

    gc.disable()
    try:
        reader = Watched()
        reader.feed(b"5\r\nhel")
        watch = weakref.ref(reader)
        del reader
        assert watch() is None
    finally:
        gc.enable()
