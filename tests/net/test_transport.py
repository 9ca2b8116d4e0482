"""One connection to a peer, over real sockets: sniffed, limited, encrypted, written to, and closed in order."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import select
import socket
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.net.poller import Poller
from gateway.net.stream import SIZE, VIEW, RawTLSStream, TLSStream
from gateway.net.transport import LINGER_BYTES, LINGER_SECONDS, MAX_LINGER_SECONDS, Transport
from gateway.wire.proxy import BINARY_START, ProxyHeader
from tests.pki import issue, make_ca
from tests.reactor import ManualReactor
from tests.wires import HOST, Authority, Peer, Recorder, reset, tcp_pair, unix_pair

PROXY = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 5432\r\n"
PROXY2 = BINARY_START + b"\x21\x11\0\x0c" + bytes(12)


class Line:
    """A transport with its owner, and the peer at the other end."""

    def __init__(self, reactor: ManualReactor, poller: Poller, pair: tuple[socket.socket, socket.socket]) -> None:
        self.reactor, self.owner, self.peer = reactor, Recorder(), Peer(pair[1])
        self.transport = Transport(poller, reactor, pair[0], self.owner)

    def until(self, true: Callable[[], object]) -> None:
        self.reactor.until(true, self.peer.play)

    def secure(self, authority: Authority) -> None:
        """Both shake hands, the transport as the server."""
        self.peer.secure(authority.as_client(self.peer.sock))
        self.transport.start_tls(authority.server.connection)
        self.until(lambda: self.owner.secure and self.peer.secured)


@pytest.fixture
def line(reactor: ManualReactor, poller: Poller) -> Line:
    return Line(reactor, poller, unix_pair())


@pytest.fixture
def tcp(reactor: ManualReactor, poller: Poller) -> Line:
    return Line(reactor, poller, tcp_pair())


@pytest.fixture
def narrow(reactor: ManualReactor, poller: Poller) -> Line:
    """The sockets hold a few kilobytes."""
    return Line(reactor, poller, unix_pair(4096))


# --- reading -------------------------------------------------------------------------------------------------------


def test_the_first_byte_is_told_and_left(line: Line):
    line.transport.sniff()
    line.reactor.settle()
    assert line.owner.first is None
    line.peer.write(b"\x16 and so on")
    line.reactor.turn()
    assert line.owner.first == b"\x16"
    line.reactor.settle()
    assert line.owner.data == b"\x16 and so on"


def test_who_leaves_before_the_first_byte_is_lost(line: Line):
    line.transport.sniff()
    line.peer.sock.close()
    line.reactor.settle()
    assert line.owner.reason == "the peer closed the connection"
    assert line.transport.closed


def test_who_is_reset_before_the_first_byte_is_lost(tcp: Line):
    tcp.transport.sniff()
    reset(tcp.peer.sock)
    tcp.reactor.until(lambda: tcp.owner.reason)
    assert tcp.owner.reason == "Connection reset by peer"


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_a_limit_leaves_the_rest_on_the_socket(line: Line, limit: int):
    line.transport.limit(limit)
    line.peer.write(b"x" * limit + b"what follows")
    line.transport.on_readable()
    assert line.owner.data == b"x" * limit
    line.transport.limit(SIZE)
    line.transport.on_readable()
    assert line.owner.data == b"x" * limit + b"what follows"


def test_the_end_behind_a_limit(line: Line):
    line.transport.limit(5)
    line.transport.resume()
    line.peer.sock.close()
    line.reactor.settle()
    assert line.owner.reason == "the peer closed the connection"


class Proxied(Recorder):
    """Reads a PROXY header, then TLS, as the driver does."""

    def __init__(self, authority: Authority) -> None:
        super().__init__()
        self.authority = authority
        self.header: ProxyHeader | None = ProxyHeader()

    def received(self, transport: Transport, data: bytes) -> None:
        if self.header is None:
            super().received(transport, data)
            return
        source = self.header.feed(data)
        transport.limit(self.header.needs)
        if source is not None:
            self.header = None
            transport.limit(SIZE)
            transport.start_tls(self.authority.server.connection)


@pytest.mark.parametrize("header", [PROXY, PROXY2])
def test_a_proxy_header_with_the_client_hello_right_behind_it(
    reactor: ManualReactor, poller: Poller, authority: Authority, header: bytes
):
    near, far = unix_pair()
    # The peer's own hello is caught on its way, and sent on in one piece with the header.
    outside, inside = unix_pair()
    peer = Peer(outside)
    peer.secure(authority.as_client(outside))
    far.send(header + inside.recv(SIZE))
    owner = Proxied(authority)
    transport = Transport(poller, reactor, near, owner)
    transport.limit(ProxyHeader().needs)
    transport.resume()

    inside.setblocking(False)
    far.setblocking(False)

    def carry() -> None:
        for source, sink in ((inside, far), (far, inside)):
            with contextlib.suppress(BlockingIOError):
                sink.send(source.recv(SIZE))
        peer.play()

    reactor.until(lambda: owner.secure and peer.secured, carry)
    peer.write(b"hello")
    reactor.until(lambda: owner.data, carry)
    assert owner.data == b"hello"


# --- TLS -----------------------------------------------------------------------------------------------------------


def test_direct_tls_both_ways(line: Line, authority: Authority):
    line.secure(authority)
    assert isinstance(line.transport.stream, RawTLSStream)
    line.peer.write(b"to us" * 20_000)
    line.until(lambda: len(line.owner.data) == 100_000)
    assert line.owner.data == b"to us" * 20_000
    line.transport.write(b"to it" * 20_000)
    line.until(lambda: len(line.peer.data) == 100_000)
    assert line.peer.data == b"to it" * 20_000


def test_starttls_after_a_clear_answer(line: Line, authority: Authority):
    line.transport.resume()
    line.peer.write(b"SSLRequest")
    line.reactor.settle()
    line.transport.write(b"S")
    line.peer.read(1)
    assert line.peer.data == b"S"
    line.secure(authority)
    assert line.owner.data == b"SSLRequest"


def test_as_the_client_of_an_upstream(line: Line, authority: Authority):
    line.peer.secure(authority.as_server(line.peer.sock))
    line.transport.start_tls(authority.as_client)
    line.until(lambda: line.owner.secure and line.peer.secured)
    line.peer.write(b"ready")
    line.until(lambda: line.owner.data)
    assert line.owner.data == b"ready"


def test_what_comes_with_the_last_flight_of_the_handshake_is_delivered(line: Line, authority: Authority):
    """Finished and data in one packet: the data may be inside OpenSSL, where no event tells of it."""
    line.peer.secure(authority.as_client(line.peer.sock))
    line.transport.start_tls(authority.server.connection)
    while not line.peer.secured:
        line.peer.step()
    line.peer.write(b"at once")
    line.peer.sock.shutdown(socket.SHUT_WR)
    line.reactor.turn()
    assert line.owner.secure
    assert line.owner.data == b"at once"


@pytest.mark.parametrize("size", [10, 5_000, 40_000])
def test_an_end_that_openssl_has_already_read_is_told(line: Line, authority: Authority, size: int):
    """close_notify without FIN: the socket will never be readable again."""
    line.secure(authority)
    line.peer.write(b"x" * size)
    assert line.peer.tls
    line.peer.tls.shutdown()
    line.reactor.until(lambda: line.owner.reason)
    assert line.owner.data == b"x" * size
    assert line.owner.reason == "the peer closed the connection"


def test_start_tls_with_an_answer_that_was_not_taken(narrow: Line, authority: Authority):
    """What is still to be sent in clear would be sent inside TLS."""
    narrow.transport.write(b"x" * 100_000)
    assert narrow.transport.pending
    narrow.transport.start_tls(authority.server.connection)
    assert narrow.owner.reason == "the peer did not take the answer to its encryption request"


def test_start_tls_when_it_is_gone(line: Line, authority: Authority):
    line.transport.abort()
    line.transport.start_tls(authority.server.connection)
    assert line.transport.connection is None


def test_a_handshake_larger_than_the_socket_holds(reactor: ManualReactor, poller: Poller, tmp_path: Path):
    """It has to wait for room to write, several times over."""
    ca = make_ca()
    names = [f"name-{number}.{'x' * 40}.example.org" for number in range(600)]
    large = Authority(tmp_path, issue(ca, HOST, sans=[HOST, *names]), ca)
    line = Line(reactor, poller, unix_pair(1))
    waited = 0
    line.peer.secure(large.as_client(line.peer.sock))
    line.transport.start_tls(large.server.connection)
    while not (line.owner.secure and line.peer.secured):
        waited += line.transport.stream.wants_write
        line.peer.step()
        assert reactor.turn(1), "it waits for nothing"
    assert waited > 2
    line.peer.write(b"fine")
    line.until(lambda: line.owner.data)
    assert line.owner.data == b"fine"


def test_the_alert_of_a_failed_handshake_reaches_the_peer(tcp: Line, authority: Authority):
    """Closed at once, with the peer's first data unread, the socket would be reset and the alert destroyed."""
    connection = authority.as_client(tcp.peer.sock)
    connection.set_alpn_protos([b"something else"])
    tcp.peer.secure(connection)
    tcp.peer.sock.send(b"more than was asked for")
    tcp.transport.start_tls(authority.server.connection)
    tcp.reactor.until(lambda: tcp.owner.reason)
    assert tcp.owner.reason
    assert "no protocol of ours" in tcp.owner.reason
    alert = b""
    select.select([tcp.peer.sock], [], [], 5)
    alert = tcp.peer.sock.recv(100)
    # RFC 8446, 6: type alert, TLS 1.2 on the wire, 2 bytes, fatal, no_application_protocol.
    assert alert[:7] == b"\x15\x03\x03\x00\x02\x02\x78"
    assert tcp.peer.sock.recv(100) == b""  # and not ECONNRESET
    tcp.peer.sock.close()
    tcp.reactor.until(lambda: tcp.transport.closed)


def test_garbage_instead_of_a_hello(line: Line, authority: Authority):
    line.peer.write(b"\x16\x03\x01\x00\x05junk!")
    line.transport.start_tls(authority.server.connection)
    line.reactor.settle()
    assert line.owner.reason
    assert line.owner.reason.startswith("TLS handshake: ")


def test_a_cut_inside_tls_is_not_the_end(line: Line, authority: Authority):
    line.secure(authority)
    line.peer.sock.close()
    line.reactor.settle()
    assert line.owner.reason
    assert line.owner.reason != "the peer closed the connection"


# --- writing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encrypted", [False, True])
def test_the_order_of_writes_under_back_pressure(narrow: Line, authority: Authority, encrypted: bool):
    if encrypted:
        narrow.secure(authority)
    choice = random.Random(1)
    expected = b""
    for _ in range(300):
        data = choice.randbytes(choice.choice([1, 100, 5_000, 20_000]))
        expected += data
        narrow.transport.write(data)
        if choice.random() < 0.5:
            narrow.peer.read(choice.randint(1, 8_000))
            narrow.reactor.turn()
    assert narrow.transport.pending
    narrow.until(lambda: len(narrow.peer.data) == len(expected))
    assert narrow.peer.data == expected
    assert not narrow.transport.pending
    narrow.reactor.settle()  # nothing waits to write any more


def test_what_the_relay_pushes_comes_after_what_waits(narrow: Line):
    """Even where there is room for it by now."""
    narrow.transport.write(b"x" * 50_000)
    narrow.peer.read()
    VIEW[:5] = b"after"
    assert not narrow.transport.push(5)
    narrow.until(lambda: len(narrow.peer.data) == 50_005)
    assert narrow.peer.data == b"x" * 50_000 + b"after"


def test_a_peer_that_is_gone_is_noticed_by_writing(tcp: Line):
    reset(tcp.peer.sock)
    tcp.reactor.until(lambda: tcp.owner.reason, lambda: tcp.transport.write(b"x"))
    assert tcp.transport.closed


def test_a_peer_that_goes_while_it_is_written_to(narrow: Line):
    narrow.transport.write(b"x" * 100_000)
    narrow.peer.sock.close()
    narrow.reactor.settle()
    assert narrow.owner.reason
    assert narrow.transport.closed
    assert not narrow.transport.pending


def test_half_close_follows_what_is_pending(narrow: Line, authority: Authority):
    narrow.secure(authority)
    narrow.transport.write(b"x" * 50_000)
    narrow.transport.end()
    assert narrow.transport.pending
    narrow.until(lambda: narrow.peer.end)
    assert narrow.peer.end == "eof"
    assert narrow.peer.data == b"x" * 50_000
    narrow.peer.write(b"still heard")
    narrow.until(lambda: narrow.owner.data)
    assert narrow.owner.reason is None


def test_half_close_when_there_is_no_room_to_say_so(narrow: Line, authority: Authority):
    """close_notify itself has to wait; without it the peer would take its stream for cut."""
    narrow.secure(authority)
    stuffing = socket.socket(fileno=socket.dup(narrow.peer.sock.fileno()))
    narrow.reactor.settle()
    filling = socket.socket(fileno=socket.dup(narrow.transport._sock.fileno()))
    filling.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            filling.send(b"\0" * 64)
    narrow.transport.end()
    while not select.select([], [filling], [], 0)[1]:
        stuffing.recv(SIZE)
    narrow.reactor.turn()
    select.select([stuffing], [], [], 5)
    taken = stuffing.recv(SIZE).lstrip(b"\0")
    assert taken[:3] == b"\x17\x03\x03"  # close_notify, as TLS 1.3 hides it
    assert stuffing.recv(SIZE) == b""
    for sock in (stuffing, filling):
        sock.close()


def test_who_asks_is_told_whenever_all_is_sent(narrow: Line):
    told: list[int] = []
    narrow.transport.when_drained(lambda: told.append(narrow.transport.pending))
    narrow.transport.write(b"x" * 50_000)
    narrow.reactor.settle()
    assert told == []
    for times in (1, 2):
        narrow.until(lambda: not narrow.transport.pending)
        assert told == [0] * times
        narrow.transport.write(b"y" * 50_000)
        assert narrow.transport.pending


# --- another owner -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encrypted", [False, True])
def test_handed_over_it_tells_the_new_owner(line: Line, authority: Authority, encrypted: bool):
    if encrypted:
        line.secure(authority)
    line.transport.relay(lambda: pytest.fail("read for the relay"), lambda: pytest.fail("told the relay"))
    second = Recorder()
    line.transport.adopt(second)
    line.peer.write(b"hello")
    line.transport.write(b"x" * 1_000_000)
    line.until(lambda: second.data and not line.transport.pending)
    assert second.data == b"hello"
    line.peer.finish()
    line.until(lambda: second.reason)
    assert (line.owner.data, line.owner.reason) == (b"", None)


@pytest.mark.parametrize("what", ["pending", "closing"])
def test_with_something_under_way_it_is_not_handed_over(narrow: Line, what: str):
    if what == "pending":
        narrow.transport.write(b"x" * 50_000)
    else:
        narrow.transport.close()
    with pytest.raises(AssertionError):
        narrow.transport.adopt(Recorder())


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("what", ["nothing", "byte", "end", "reset", "pending", "closing", "closed"])
def test_at_rest_is_who_has_nothing_on_its_way(tcp: Line, authority: Authority, encrypted: bool, what: str):
    """Without a turn of the poller: what has come is seen at once."""
    if encrypted:
        tcp.secure(authority)
        tcp.reactor.settle()
    assert tcp.transport.at_rest
    if what == "byte":
        tcp.peer.write(b"x")
    elif what == "end":
        tcp.peer.finish()
    elif what == "reset":
        reset(tcp.peer.sock)
    elif what == "pending":
        while not tcp.transport.pending:
            tcp.transport.write(b"x" * 1_000_000)
    elif what == "closing":
        tcp.transport.close()
    elif what == "closed":
        tcp.transport.abort()
    if what in ("byte", "end", "reset"):
        select.select([tcp.transport._sock], [], [], 5)
    assert tcp.transport.at_rest is (what == "nothing")


def test_who_has_an_end_that_openssl_has_already_read_is_not_at_rest(line: Line, authority: Authority):
    line.secure(authority)
    line.transport.pause()
    line.peer.write(b"x" * 5_000)
    assert line.peer.tls
    line.peer.tls.shutdown()
    assert line.transport.stream.read() == 5_000
    assert not line.transport.at_rest


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("how", ["end", "cut"])
def test_the_owner_can_tell_an_end_from_a_cut(tcp: Line, authority: Authority, encrypted: bool, how: str):
    if encrypted:
        tcp.secure(authority)
    tcp.transport.resume()
    if how == "end":
        tcp.peer.finish()
    else:
        reset(tcp.peer.sock)
    tcp.reactor.until(lambda: tcp.owner.reason)
    assert tcp.transport.ended is (how == "end")


def test_who_leaves_before_the_first_byte_has_ended_in_order(line: Line):
    line.transport.sniff()
    line.peer.sock.close()
    line.reactor.settle()
    assert line.transport.ended


def test_to_proceed_is_to_read_what_openssl_holds_first(line: Line, authority: Authority):
    """No event tells of it."""
    line.secure(authority)
    line.transport.pause()
    line.peer.write(b"x" * 5_000)
    assert line.peer.tls
    line.peer.tls.shutdown()
    assert line.transport.stream.read() == 5_000
    line.transport.resume()
    line.reactor.settle()
    line.transport.proceed()
    assert line.owner.reason is None  # it is being read, so who reads goes on by itself
    line.transport.pause()
    line.transport.proceed()
    assert line.owner.reason == "the peer closed the connection"


def test_to_proceed_is_to_hear_of_what_came_meanwhile(line: Line):
    line.transport.pause()
    line.peer.write(b"meanwhile")
    line.transport.proceed()
    assert line.owner.data == b""
    line.reactor.settle()
    assert line.owner.data == b"meanwhile"


# --- the end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_farewell_arrives_although_input_is_unread(tcp: Line, authority: Authority, encrypted: bool):
    """Closed at once, the socket would be reset, and the ErrorResponse destroyed on its way."""
    if encrypted:
        tcp.secure(authority)
    tcp.peer.write(b"in flight" * 5_000)
    tcp.transport.write(b"ErrorResponse")
    tcp.transport.close()
    for _ in range(3):
        tcp.peer.write(b"and more")
        tcp.reactor.turn(0.01)
    tcp.until(lambda: tcp.peer.end)
    assert tcp.peer.data == b"ErrorResponse"
    assert tcp.peer.end == "eof"
    assert not tcp.transport.closed
    tcp.peer.sock.close()
    tcp.reactor.until(lambda: tcp.transport.closed)
    assert tcp.reactor.getDelayedCalls() == []


def ciphertext_end(peer: Peer) -> str:
    """How TCP itself ended, below TLS."""
    try:
        while peer.sock.recv(SIZE):
            pass
    except ConnectionResetError:
        return "reset"
    return "fin"


def test_broken_is_a_reset_behind_what_was_said(tcp: Line):
    tcp.peer.write(b"unread")
    tcp.transport.write(b"half of it")
    tcp.transport.close(broken=True)
    assert tcp.transport.closed
    tcp.until(lambda: tcp.peer.end)
    assert tcp.peer.data == b"half of it"
    assert tcp.peer.end == "cut"
    assert tcp.owner.reason is None
    assert tcp.reactor.getDelayedCalls() == []


def test_broken_has_no_close_notify(tcp: Line, authority: Authority):
    tcp.secure(authority)
    tcp.transport.write(b"half of it")
    tcp.until(lambda: tcp.peer.data)
    tcp.transport.close(broken=True)
    assert ciphertext_end(tcp.peer) == "reset"


def test_broken_on_a_unix_socket_has_no_close_notify(line: Line, authority: Authority):
    line.secure(authority)
    line.transport.write(b"half of it")
    line.transport.close(broken=True)
    assert line.transport.closed
    line.peer.read()
    assert line.peer.data == b"half of it"
    assert line.peer.end == "cut"


@pytest.mark.parametrize("encrypted", [False, True])
def test_broken_waits_for_what_is_pending(
    reactor: ManualReactor, poller: Poller, authority: Authority, encrypted: bool
):
    """Here and in the system, whose part a reset would destroy."""
    line = Line(reactor, poller, tcp_pair(4096))
    if encrypted:
        line.secure(authority)
    line.transport.resume()
    line.transport.write(b"x" * 300_000)
    assert line.transport.pending
    line.transport.close(broken=True)
    while not line.peer.end:
        line.peer.play()
        reactor.settle()
        if not line.transport.pending:
            reactor.advance(0.1)
    assert line.peer.data == b"x" * 300_000
    assert line.peer.end == "cut"
    assert reactor.getDelayedCalls() == []


@pytest.mark.parametrize("pending", [True, False])
def test_broken_waits_no_longer_than_in_order(reactor: ManualReactor, poller: Poller, pending: bool):
    """Whether the peer leaves it here or in the system. And the end behind what is lost is a reset."""
    line = Line(reactor, poller, tcp_pair(4096))
    if not pending:
        line.transport._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)
    line.transport.write(b"x" * 300_000)
    assert bool(line.transport.pending) is pending
    line.transport.close(broken=True)
    for _ in range(19):
        reactor.settle()
        assert not line.transport.closed
        reactor.advance(LINGER_SECONDS / 20)
    reactor.advance(LINGER_SECONDS / 20 + 0.001)
    assert line.transport.closed
    line.until(lambda: line.peer.end)
    assert line.peer.end == "cut"


def test_broken_waits_also_for_who_has_nothing_more_to_say(reactor: ManualReactor, poller: Poller):
    """Nothing of it is read any more, so that its end cannot cut short what it has not got yet."""
    line = Line(reactor, poller, tcp_pair(4096))
    line.transport._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)
    line.transport.resume()
    line.transport.write(b"x" * 300_000)
    line.transport.close(broken=True)
    line.transport.proceed()
    line.peer.finish()
    reactor.settle()
    reactor.until(lambda: line.peer.end, line.peer.play, lambda: reactor.advance(LINGER_SECONDS / 2_000))
    assert line.peer.data == b"x" * 300_000
    assert line.peer.end == "cut"


def test_in_order_but_not_taken_is_a_reset_in_the_end(reactor: ManualReactor, poller: Poller):
    """What was lost must not seem to be all there was."""
    line = Line(reactor, poller, tcp_pair(4096))
    line.transport.write(b"x" * 300_000)
    line.transport.close()
    reactor.advance(LINGER_SECONDS)
    line.until(lambda: line.peer.end)
    assert line.peer.end == "cut"
    assert len(line.peer.data) < 300_000


def test_a_peer_that_resets_first_ends_the_breaking(reactor: ManualReactor, poller: Poller):
    line = Line(reactor, poller, tcp_pair(4096))
    line.transport.write(b"x" * 300_000)
    line.transport.close(broken=True)
    reset(line.peer.sock)
    reactor.until(lambda: line.transport.closed)
    assert reactor.getDelayedCalls() == []


def test_closing_waits_for_what_is_pending(narrow: Line):
    narrow.transport.resume()
    narrow.transport.write(b"x" * 50_000)
    narrow.transport.close()
    narrow.peer.finish()  # it has nothing more to say, but goes on reading
    narrow.until(lambda: narrow.peer.end)
    assert narrow.peer.data == b"x" * 50_000
    narrow.reactor.settle()
    assert narrow.transport.closed


def test_lingering_is_bounded_in_time(narrow: Line):
    """Also for a peer that neither reads nor leaves."""
    narrow.transport.write(b"x" * 50_000)
    narrow.transport.close()
    narrow.reactor.settle()
    narrow.reactor.advance(LINGER_SECONDS - 0.01)
    assert not narrow.transport.closed
    narrow.reactor.advance(0.02)
    assert narrow.transport.closed


def slowly(line: Line, size: int, seconds: float) -> None:
    """The peer takes so much, and the time passes."""
    line.peer.step()
    line.peer.read(size)
    line.reactor.settle()
    line.reactor.advance(seconds)


@pytest.mark.parametrize("tls", [False, True])
def test_a_slow_peer_gets_all_of_it(narrow: Line, authority: Authority, tls: bool):
    """The tail of an answer, on a line that takes longer for it than anybody is waited for."""
    if tls:
        narrow.secure(authority)
    narrow.transport.write(bytes(2 * SIZE))
    narrow.transport.close()
    narrow.reactor.until(lambda: narrow.peer.end, lambda: slowly(narrow, SIZE // 4, LINGER_SECONDS / 4))
    assert narrow.peer.data == bytes(2 * SIZE)
    assert narrow.peer.end == "eof"
    assert narrow.reactor.seconds() > 3 * LINGER_SECONDS


def test_a_slow_peer_that_stops_is_waited_for_no_longer(narrow: Line):
    narrow.transport.write(bytes(50_000))
    narrow.transport.close()
    for _ in range(4):
        slowly(narrow, 5_000, LINGER_SECONDS * 0.9)
    assert not narrow.transport.closed
    narrow.reactor.advance(LINGER_SECONDS)
    narrow.reactor.advance(LINGER_SECONDS)
    assert narrow.transport.closed


@pytest.mark.parametrize("broken", [True, False])
def test_a_slow_peer_is_not_waited_for_for_ever(narrow: Line, broken: bool):
    """A few bytes now and then hold no descriptor."""
    narrow.transport.write(bytes(400_000))
    narrow.transport.close(broken)
    while narrow.reactor.seconds() < MAX_LINGER_SECONDS - 0.5:
        slowly(narrow, 2_000, 0.3)
        assert not narrow.transport.closed
    slowly(narrow, 20_000, 1)  # on a busy machine timers are late
    assert narrow.transport.closed
    assert narrow.reactor.getDelayedCalls() == []
    narrow.peer.read()
    assert len(narrow.peer.data) < 400_000


def test_what_the_system_holds_for_a_slow_peer_is_not_destroyed(reactor: ManualReactor, poller: Poller):
    """By the reset that it would get for what it sends meanwhile."""
    line = Line(reactor, poller, tcp_pair(4096))
    line.transport._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)
    line.transport.write(b"x" * 300_000)
    assert not line.transport.pending
    line.transport.close()

    def read_some() -> None:
        line.peer.write(b"another request")
        line.peer.read(5_000)
        reactor.advance(LINGER_SECONDS / 20)

    reactor.until(lambda: len(line.peer.data) == 300_000, read_some)
    assert reactor.seconds() > 2 * LINGER_SECONDS
    assert line.peer.data == b"x" * 300_000
    line.until(lambda: line.peer.end)
    assert line.peer.end == "eof"


def test_lingering_is_bounded_in_bytes(line: Line):
    line.transport.close()
    sent = 0
    while not line.transport.closed:
        sent += line.peer.sock.send(b"x" * 10_000)
        line.reactor.settle()
        assert sent <= LINGER_BYTES + 20_000
    assert sent >= LINGER_BYTES


def test_a_reset_ends_the_lingering(tcp: Line):
    tcp.transport.close()
    reset(tcp.peer.sock)
    tcp.reactor.until(lambda: tcp.transport.closed)
    assert tcp.owner.reason is None


def test_the_owner_hears_nothing_after_close(line: Line):
    line.transport.resume()
    line.transport.close()
    line.peer.write(b"too late")
    line.peer.sock.close()
    line.reactor.settle()
    assert line.owner.data == b""
    assert line.owner.reason is None


def test_nothing_is_said_after_close(line: Line):
    line.transport.close()
    line.transport.write(b"too late")
    line.transport.close()
    line.transport.end()
    line.peer.read()
    assert line.peer.data == b""


@pytest.mark.parametrize("how", ["abort", "lost", "linger", "left"])
def test_who_asks_is_told_once_when_the_socket_is_closed(line: Line, how: str):
    told: list[int] = []
    line.transport.resume()
    line.transport.when_closed(lambda: told.append(line.transport._sock.fileno()))
    if how == "abort":
        line.transport.abort()
    elif how == "lost":
        line.peer.sock.close()
        line.reactor.settle()
    else:
        line.transport.close()
        line.reactor.settle()
        assert told == []
        if how == "left":
            line.peer.sock.close()
            line.reactor.settle()
        else:
            line.reactor.advance(LINGER_SECONDS)
    assert told == [-1]
    line.transport.abort()
    assert told == [-1]
    line.transport.when_closed(lambda: told.append(0))
    assert told == [-1, 0]


def test_a_paused_transport_is_not_read_when_it_can_be_written(line: Line):
    """What its TLS wanted to write goes out with the next write, or when it is read again."""
    line.transport.resume()
    line.transport.stream.wants_write = True
    line.transport.blocked()
    line.transport.pause()
    line.peer.write(b"not yet")
    line.reactor.settle()
    assert line.owner.data == b""
    line.transport.resume()
    line.reactor.settle()
    assert line.owner.data == b"not yet"


def test_abort_is_at_once_and_silent(narrow: Line):
    narrow.transport.resume()
    narrow.transport.write(b"x" * 50_000)
    narrow.transport.abort()
    assert narrow.transport.closed
    assert narrow.transport._sock.fileno() == -1
    assert narrow.owner.reason is None
    for call in (narrow.transport.abort, narrow.transport.close, narrow.transport.end, narrow.transport.resume):
        call()
    narrow.transport.write(b"x")
    narrow.reactor.settle()
    assert narrow.owner.reason is None


def test_a_bug_is_the_end(line: Line):
    line.transport.resume()
    line.transport.on_bug()
    assert line.owner.reason == "a bug in the gateway (see its log)"
    line.transport.on_bug()


def test_openssl_never_touches_a_number_that_is_another_connections_now(line: Line, authority: Authority):
    line.secure(authority)
    number = line.transport._sock.fileno()
    assert isinstance(line.transport.stream, TLSStream)
    line.transport.abort()
    near, far = unix_pair()
    if number not in (near.fileno(), far.fileno()):
        # A lower one was free as well: other tests' garbage is collected at any time.
        os.dup2(near.fileno(), number)
        near.close()
        near = socket.socket(fileno=number)
    with pytest.raises(Exception, match="it is closed"):
        line.transport.push(10)
    near.setblocking(False)
    far.setblocking(False)
    for sock in (near, far):
        with pytest.raises(BlockingIOError):
            sock.recv(1)


@pytest.mark.parametrize("how", ["abort", "close", "linger", "lost"])
def test_a_closed_transport_is_freed_at_once(line: Line, authority: Authority, how: str):
    gc.collect()
    gc.disable()
    try:
        line.secure(authority)
        line.transport.write(b"x")
        if how == "abort":
            line.transport.abort()
        elif how == "lost":
            line.peer.sock.close()
            line.reactor.settle()
        else:
            line.transport.close()
            if how == "close":
                line.peer.sock.close()
            line.reactor.settle()
            line.reactor.advance(LINGER_SECONDS)
        assert line.transport.closed
        freed: list[Callable[[], object]] = [weakref.ref(line.transport.connection), weakref.ref(line.owner)]
        line.owner = Recorder()
        del line.transport
        assert [one() for one in freed] == [None, None]
    finally:
        gc.enable()
