"""Bytes through one socket: both ways to drive OpenSSL give the same, and every end is told for what it is."""

from __future__ import annotations

import importlib.util
import random
import re
import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.bindings import _rust
from OpenSSL import SSL

from gateway.net import stream as module
from gateway.net.stream import (
    SIZE,
    VIEW,
    BrokenStream,
    ClosedStream,
    EndOfStream,
    PlainStream,
    RawTLSStream,
    Stream,
    TLSStream,
    tls_stream,
)
from tests.pki import issue, make_ca
from tests.wires import HOST, Authority, Peer, unix_pair

lib: Any = vars(SSL)["_lib"]
# One read takes a single record below the first of these, looks for more above it, and fills the buffer at the last.
SIZES = [1, 4095, 4096, 16_384, 20_000, SIZE, 3 * SIZE]


@pytest.fixture(params=[TLSStream, RawTLSStream])
def kind(request: pytest.FixtureRequest) -> type[TLSStream]:
    kind: type[TLSStream] = request.param
    return kind


@pytest.fixture(autouse=True)
def clean_error_queue() -> Iterator[None]:
    """Whatever a test provokes, nothing of it may be left to be blamed on the next connection."""
    lib.ERR_clear_error()
    yield
    assert lib.ERR_peek_error() == 0


Link = tuple[TLSStream, Peer]


def connect(kind: type[TLSStream], authority: Authority, buffer: int = 0) -> Link:
    near, far = unix_pair(buffer)
    near.setblocking(False)
    peer = Peer(far)
    peer.secure(authority.as_client(far))
    stream = kind(authority.as_server(near))
    while not stream.handshake():
        peer.step()
    while not peer.secured:
        peer.step()
    return stream, peer


@pytest.fixture
def link(kind: type[TLSStream], authority: Authority) -> Link:
    return connect(kind, authority)


@pytest.fixture
def plain() -> tuple[PlainStream, Peer]:
    near, far = unix_pair()
    near.setblocking(False)
    return PlainStream(near), Peer(far)


def collect(stream: Stream, size: int) -> bytes:
    """Exactly so many bytes, which are there."""
    data = b""
    while len(data) < size:
        got = stream.read()
        assert got or stream.unread
        data += bytes(VIEW[:got])
    return data


def outcome(stream: Stream) -> str:
    """How the stream goes on from here."""
    try:
        return "open" if stream.read() == 0 else "data"
    except EndOfStream:
        return "end"
    except BrokenStream as error:
        return str(error)


# --- plain ---------------------------------------------------------------------------------------------------------


def test_plain_bytes_both_ways(plain: tuple[PlainStream, Peer]):
    stream, peer = plain
    assert stream.handshake()
    assert outcome(stream) == "open"
    peer.write(b"hello")
    assert bytes(VIEW[: stream.read()]) == b"hello"
    VIEW[:5] = b"world"
    assert stream.write(5) == 5
    assert stream.send(b"!") == 1
    peer.read()
    assert peer.data == b"world!"


def test_plain_ends(plain: tuple[PlainStream, Peer]):
    stream, peer = plain
    assert stream.finish()
    peer.write(b"bye")
    peer.sock.close()
    assert outcome(stream) == "data"
    assert outcome(stream) == "end"
    with pytest.raises(BrokenStream, match="Broken pipe"):
        stream.send(b"x")


def test_plain_takes_what_fits_and_no_more(plain: tuple[PlainStream, Peer]):
    stream, peer = plain
    sent = 0
    while taken := stream.send(b"x" * SIZE):
        sent += taken
    peer.read()
    assert len(peer.data) == sent


def test_a_closed_socket_is_a_broken_stream():
    near, far = unix_pair()
    stream = PlainStream(near)
    near.close()
    far.close()
    with pytest.raises(BrokenStream):
        stream.read()


def test_nothing_moves_after_the_end():
    stream = ClosedStream()
    calls: list[Any] = [stream.read, stream.handshake, lambda: stream.write(1), lambda: stream.send(b"x")]
    for call in calls:
        with pytest.raises(BrokenStream):
            call()
    assert stream.finish()
    assert not stream.wants_write
    assert not stream.unread


# --- TLS -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_what_the_peer_sends_arrives(link: Link, size: int):
    stream, peer = link
    data = random.Random(size).randbytes(size)
    assert outcome(stream) == "open"
    peer.write(data)
    got = b""
    while len(got) < size:
        peer.step()
        got += bytes(VIEW[: stream.read()])
    assert got == data
    assert outcome(stream) == "open"
    assert not stream.wants_write


@pytest.mark.parametrize("size", [0, 1, 4096, 20_000, SIZE])
def test_close_notify_is_the_end_in_order(link: Link, size: int):
    """Even though the socket stays open and will never say anything again."""
    stream, peer = link
    peer.write(b"x" * size)
    assert peer.tls
    peer.tls.shutdown()
    collect(stream, size)
    assert outcome(stream) == "end"
    assert outcome(stream) == "end"


@pytest.mark.parametrize("size", [0, 1, 4096, 20_000, SIZE])
def test_a_cut_is_never_the_end_in_order(link: Link, size: int):
    """RFC 8446, 6.1: without close_notify somebody may have cut off the rest."""
    stream, peer = link
    peer.write(b"x" * size)
    peer.sock.shutdown(socket.SHUT_RDWR)
    assert collect(stream, size) == b"x" * size
    assert re.match("TLS: unexpected eof|the connection was cut", outcome(stream))
    assert outcome(stream) not in ("open", "data", "end")


@pytest.mark.parametrize("size", [0, 1, 4096, 20_000])
def test_a_forged_record_breaks_the_stream(link: Link, size: int):
    stream, peer = link
    peer.write(b"x" * size)
    peer.sock.send(b"\x17\x03\x03\x00\x40" + b"f" * 64)
    assert collect(stream, size) == b"x" * size
    assert re.search("decrypt|bad record mac", outcome(stream))
    assert outcome(stream) not in ("open", "data", "end")


def test_after_a_look_ahead_the_transport_is_told_to_read_again(authority: Authority):
    """What the look took off the socket raises no event any more."""
    for end in ("shutdown", "forge"):
        stream, peer = connect(RawTLSStream, authority)
        peer.write(b"x" * 5000)
        assert peer.tls
        if end == "shutdown":
            peer.tls.shutdown()
        else:
            peer.sock.send(b"\x17\x03\x03\x00\x40" + b"f" * 64)
        assert stream.read() == 5000
        assert stream.unread
        assert outcome(stream) not in ("open", "data")
        assert not stream.unread


def test_nothing_is_looked_at_twice_when_the_socket_is_just_empty(authority: Authority):
    stream, peer = connect(RawTLSStream, authority)
    peer.write(b"x" * 5000)
    assert stream.read() == 5000
    assert not stream.unread


def test_a_failure_on_one_connection_does_not_break_the_next(kind: type[TLSStream], authority: Authority):
    bad, bad_peer = connect(kind, authority)
    good, good_peer = connect(kind, authority)
    bad_peer.sock.send(b"\x17\x03\x03\x00\x40" + b"f" * 64)
    with pytest.raises(BrokenStream):
        bad.read()
    assert lib.ERR_peek_error() == 0
    assert outcome(good) == "open"
    good_peer.write(b"fine")
    assert bytes(VIEW[: good.read()]) == b"fine"


@pytest.mark.parametrize("step", ["write", "send", "finish", "handshake"])
def test_what_the_system_refused_is_not_blamed_on_the_next(kind: type[TLSStream], authority: Authority, step: str):
    """pyOpenSSL leaves EPIPE in the queue; then every connection that has nothing to read would seem broken."""
    good, _ = connect(kind, authority)
    if step == "handshake":
        near, far = unix_pair()
        near.setblocking(False)
        peer = Peer(far)
        peer.secure(authority.as_client(far))
        stream = kind(authority.as_server(near))
    else:
        stream, peer = connect(kind, authority)
    peer.sock.close()
    calls: dict[str, Any] = {
        "write": lambda: stream.write(SIZE),
        "send": lambda: stream.send(b"x"),
        "handshake": stream.handshake,
        "finish": stream.finish,
    }
    if step == "finish":
        assert stream.finish()
    else:
        with pytest.raises(BrokenStream, match=r"Broken pipe|was cut|eof"):
            calls[step]()
    assert lib.ERR_peek_error() == 0
    assert outcome(good) == "open"


@pytest.mark.parametrize("by", ["write", "send"])
def test_a_full_socket_is_gone_on_with_where_it_stopped(kind: type[TLSStream], authority: Authority, by: str):
    """Partial writes, from another buffer each time, to a reader that takes what it likes."""
    stream, peer = connect(kind, authority, buffer=8192)
    choice = random.Random(by)
    data = choice.randbytes(1_000_000)
    sent = stopped = 0
    while sent < len(data):
        if by == "write":
            size = min(choice.randint(1, SIZE), len(data) - sent)
            # A stopped record may only be repeated with at least what it was begun with.
            size = min(SIZE, len(data) - sent) if stopped else size
            VIEW[:size] = data[sent : sent + size]
            taken = stream.write(size)
        else:
            size = min(SIZE, len(data) - sent)
            taken = stream.send(data[sent : sent + size])
        assert 0 <= taken <= size
        stopped += taken < size
        sent += taken
        if taken < size:
            peer.read(choice.randint(1, 30_000))
    assert stopped > 10
    while len(peer.data) < len(data):
        peer.read()
    assert peer.data == data


def test_what_is_sent_is_not_copied(authority: Authority):
    stream, _ = connect(RawTLSStream, authority)
    data = bytes(30_000_000)
    tracemalloc.start()
    try:
        sent = stream.send(data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 16_384 < sent < len(data)
    assert most < 100_000


def test_any_bytes_can_be_sent(link: Link):
    stream, peer = link
    assert stream.send(b"") == 0
    assert stream.send(memoryview(b"..part..")[2:-2]) == 4
    peer.read()
    assert peer.data == b"part"


@pytest.fixture(params=["TLS1_2_VERSION", "TLS1_3_VERSION"])
def half(request: pytest.FixtureRequest, kind: type[TLSStream], authority: Authority) -> Link:
    """A link of that version."""
    near, far = unix_pair()
    near.setblocking(False)
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(getattr(SSL, request.param))
    connection = SSL.Connection(context, far)
    connection.set_connect_state()
    peer = Peer(far)
    peer.secure(connection)
    stream = kind(authority.as_server(near))
    while not (stream.handshake() and peer.secured):
        peer.step()
    assert connection.get_protocol_version() == getattr(SSL, request.param)
    return stream, peer


def test_who_has_said_the_end_still_hears(half: Link):
    """RFC 8446, 6.1: close_notify ends one direction. Also in TLS 1.2, where both of us have to want it so."""
    stream, peer = half
    assert stream.finish()
    stream.connection.sock_shutdown(socket.SHUT_WR)
    peer.read()
    assert peer.end == "eof"
    for size in (1, 20_000, SIZE):
        peer.write(b"y" * size)
        assert collect(stream, size) == b"y" * size
    peer.finish()
    assert outcome(stream) == "end"


def test_who_has_heard_the_end_still_speaks(half: Link):
    stream, peer = half
    peer.finish()
    assert outcome(stream) == "end"
    for size in (1, 20_000, SIZE):
        before = len(peer.data)
        assert stream.send(b"x" * size) == size
        VIEW[:3] = b"abc"
        assert stream.write(3) == 3
        peer.read()
        assert peer.data[before:] == b"x" * size + b"abc"
    assert stream.finish()
    peer.read()
    assert peer.end == "eof"


def test_finishing_waits_for_room(kind: type[TLSStream], authority: Authority):
    """Otherwise a slow reader would find its stream cut instead of ended."""
    stream, peer = connect(kind, authority, buffer=4096)
    sent = 0
    while taken := stream.send(b"x"):
        sent += taken
    # The byte that did not fit is in a record begun; that record has to go first.
    while not stream.send(b"x"):
        peer.read(10_000)
    sent += 1
    while stream.send(b"x"):
        sent += 1
    peer.read()
    while not stream.send(b"x"):
        peer.read()
    assert stream.finish()
    peer.read()
    assert peer.end == "eof"
    assert len(peer.data) == sent + 1


def test_finishing_says_that_it_has_to_wait(kind: type[TLSStream], authority: Authority):
    stream, peer = connect(kind, authority)
    near = stream.connection
    filling = socket.socket(fileno=socket.dup(near.fileno()))
    filling.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            filling.send(b"\0")
    filling.close()
    assert not stream.finish()
    while peer.sock.recv(1 << 20) == b"\0" * (1 << 20):
        pass
    assert stream.finish()
    peer.sock.close()


def test_a_handshake_that_fails_says_why(kind: type[TLSStream], authority: Authority):
    near, far = unix_pair()
    near.setblocking(False)
    peer = Peer(far)
    peer.sock.send(b"GET / HTTP/1.1\r\n\r\n")
    stream = kind(authority.as_server(near))
    with pytest.raises(BrokenStream, match=r"TLS handshake: .*http request"):
        stream.handshake()


def test_a_handshake_that_is_cut(kind: type[TLSStream], authority: Authority):
    near, far = unix_pair()
    near.setblocking(False)
    stream = kind(authority.as_server(near))
    assert not stream.handshake()
    far.close()
    with pytest.raises(BrokenStream, match="TLS handshake: "):
        stream.handshake()


def test_a_foreign_certificate_fails_the_handshake(kind: type[TLSStream], authority: Authority, tmp_path: Path):
    ca = make_ca("somebody else")
    foreign = Authority(tmp_path, issue(ca, HOST, sans=[HOST]), ca)
    near, far = unix_pair()
    near.setblocking(False)
    peer = Peer(far)
    peer.secure(foreign.as_server(far))
    stream = kind(authority.as_client(near))

    def shake() -> None:
        while not stream.handshake():
            peer.step()

    with pytest.raises(BrokenStream, match=r"certificate verify failed: .*issuer certificate"):
        shake()


def test_a_look_ahead_that_has_to_write_first_leaves_nothing_unread(
    monkeypatch: pytest.MonkeyPatch, authority: Authority
):
    """`unread` is what makes the reader go on at once, and nothing but another look ahead or the end takes it back."""
    near, _ = unix_pair()
    stream = RawTLSStream(authority.as_server(near))
    real = module._lib
    for error, unread in (
        (real.SSL_ERROR_WANT_WRITE, False),
        (real.SSL_ERROR_WANT_READ, False),
        (real.SSL_ERROR_ZERO_RETURN, True),
    ):
        names = {name: getattr(real, name) for name in used_names()} | {"SSL_get_error": lambda *_, error=error: error}
        monkeypatch.setattr(module, "_lib", SimpleNamespace(**names))
        stream._look_ahead(-1)
        assert stream.unread is unread


# --- the private names ---------------------------------------------------------------------------------------------


def test_here_the_fast_way_is_taken(authority: Authority):
    near, _ = unix_pair()
    assert type(tls_stream(authority.as_server(near))) is RawTLSStream


def fresh_module() -> Any:
    """The module, imported once more beside the one in use."""
    spec = importlib.util.spec_from_file_location("stream_again", module.__file__)
    assert spec
    assert spec.loader
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    return again


def used_names() -> set[str]:
    return set(re.findall(r"_lib\.(\w+)", Path(module.__file__).read_text("utf-8")))


@pytest.mark.parametrize("missing", [*sorted(used_names()), "everything"])
def test_without_a_private_name_it_goes_the_public_way(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, missing: str
):
    real = _rust._openssl
    names = {name: getattr(real.lib, name) for name in used_names() - {missing}}
    if missing == "everything":
        monkeypatch.delattr(_rust, "_openssl")
        monkeypatch.setitem(__import__("sys").modules, "cryptography.hazmat.bindings._rust._openssl", None)
    else:
        monkeypatch.setattr(_rust, "_openssl", SimpleNamespace(lib=SimpleNamespace(**names), ffi=real.ffi))
    again = fresh_module()
    assert again._raw is None
    near, far = unix_pair()
    near.setblocking(False)
    peer = Peer(far)
    peer.secure(authority.as_client(far))
    stream = again.tls_stream(authority.as_server(near))
    assert type(stream) is again.TLSStream
    while not stream.handshake():
        peer.step()
    while not peer.secured:
        peer.step()
    peer.write(b"the same")
    assert bytes(again.VIEW[: stream.read()]) == b"the same"


def test_without_pyopenssls_private_attribute_it_goes_the_public_way(monkeypatch: pytest.MonkeyPatch):
    def no_ssl(self: Any, *_: Any) -> None:
        self._ssl = object()

    monkeypatch.setattr(SSL.Connection, "__init__", no_ssl)
    assert fresh_module()._raw is None
