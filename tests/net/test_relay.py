"""The relay over real sockets: every byte once and in order, bounded memory, and every way to end it."""

from __future__ import annotations

import gc
import random
import socket
import weakref
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.net.poller import Poller
from gateway.net.relay import LAST_SECONDS, LINGER_SECONDS, QUIET_SECONDS, Relay
from gateway.net.stream import SIZE
from gateway.net.transport import LINGER_SECONDS as CLOSE_SECONDS
from gateway.net.transport import Transport
from gateway.session.vocabulary import Framing
from gateway.wire.postgres_framing import BackendFraming
from tests.reactor import ManualReactor
from tests.wires import Authority, Peer, reset, tcp_pair, unix_pair

READY = b"Z\0\0\0\x05I"
FATAL = b"E\0\0\0\x09FATAL"
GRACE = 30.0


def row(size: int) -> bytes:
    return b"D" + (size + 4).to_bytes(4) + b"r" * size


class Owner:
    """What the driver does for a relay's transports."""

    def __init__(self) -> None:
        self.relay: Relay | None = None

    def sniffed(self, _: Transport, first: bytes) -> None:
        raise AssertionError

    def received(self, transport: Transport, data: bytes) -> None:
        raise AssertionError

    def secured(self, transport: Transport) -> None:
        pass

    def lost(self, transport: Transport, reason: str) -> None:
        assert self.relay is not None
        self.relay.lost(transport, reason)


class Splice:
    """client peer ↔ relay ↔ upstream peer. `ended`: each reason that the relay gave."""

    def __init__(
        self,
        reactor: ManualReactor,
        poller: Poller,
        authority: Authority | None = None,
        tls: str = "",
        framing: Framing | None = None,
        buffer: int = 0,
        pair: Callable[[int], tuple[socket.socket, socket.socket]] = unix_pair,
        linger: float = LINGER_SECONDS,
        faithful: bool = False,
    ) -> None:
        self.reactor, self.ended = reactor, list[str]()
        owner = Owner()
        near, far = pair(buffer)
        self.client, self.client_side = Peer(far), Transport(poller, reactor, near, owner)
        near, far = pair(buffer)
        self.upstream, self.upstream_side = Peer(far), Transport(poller, reactor, near, owner)
        if "client" in tls:
            assert authority
            self.client.secure(authority.as_client(self.client.sock))
            self.client_side.start_tls(authority.server.connection)
            reactor.until(lambda: self.client.secured, self.client.step)
        if "upstream" in tls:
            assert authority
            self.upstream.secure(authority.as_server(self.upstream.sock))
            self.upstream_side.start_tls(authority.as_client)
            reactor.until(lambda: self.upstream.secured, self.upstream.step)
        reactor.settle()
        self.relay = owner.relay = Relay(
            reactor, self.client_side, self.upstream_side, framing, self.ended.append, linger, faithful
        )

    def start(self, ahead: bytes = b"") -> Splice:
        self.relay.start(ahead)
        return self

    def until(self, true: Callable[[], object]) -> None:
        self.reactor.until(true, self.client.play, self.upstream.play)

    def wait(self, true: Callable[[], object]) -> None:
        """The same, while time goes by: a reset waits for the system to have sent everything."""
        self.reactor.until(true, self.client.play, self.upstream.play, lambda: self.reactor.advance(0.01))

    def say(self, data: bytes) -> None:
        """The upstream says it, and the client hears it."""
        before = len(self.client.data)
        self.upstream.write(data)
        self.until(lambda: len(self.client.data) == before + len(data))

    def ask(self, data: bytes) -> None:
        before = len(self.upstream.data)
        self.client.write(data)
        self.until(lambda: len(self.upstream.data) == before + len(data))

    def both_closed(self) -> bool:
        return self.client_side.closed and self.upstream_side.closed


Make = Callable[..., Splice]


@pytest.fixture
def splice(reactor: ManualReactor, poller: Poller, authority: Authority) -> Iterator[Make]:
    made: list[Splice] = []

    def make(**how: object) -> Splice:
        made.append(Splice(reactor, poller, authority, **how))  # type: ignore[arg-type]
        return made[-1]

    yield make
    # However it ended, after the lingering nothing is left: no socket, no timer, no second word.
    for one in made:
        one.client.sock.close()
        one.upstream.sock.close()
        one.reactor.settle()
        for _ in range(5):
            one.reactor.advance(GRACE)
            one.reactor.settle()
        assert one.both_closed()
        assert len(one.ended) == 1
    assert reactor.getDelayedCalls() == []


TLS = ["", "client", "upstream", "client, upstream"]

# --- bytes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", TLS)
@pytest.mark.parametrize("buffer", [0, 4096])
def test_both_directions_at_once_byte_for_byte(splice: Make, tls: str, buffer: int):
    one = splice(tls=tls, buffer=buffer).start(b"ahead")
    choice = random.Random(tls + str(buffer))
    down, up = choice.randbytes(700_000), choice.randbytes(500_000)
    told = asked = 0
    while told < len(down) or asked < len(up):
        size = choice.choice([1, 100, 5_000, 17_000, 70_000])
        one.upstream.write(down[told : told + size])
        told += size
        size = choice.choice([1, 100, 5_000, 17_000, 70_000])
        one.client.write(up[asked : asked + size])
        asked += size
        one.reactor.turn()
        one.client.read(choice.randint(1, 60_000))
        one.upstream.read(choice.randint(1, 60_000))
        assert one.client_side.pending <= SIZE
        assert one.upstream_side.pending <= SIZE
    one.until(lambda: len(one.client.data) == len(down) and len(one.upstream.data) == len(up) + 5)
    assert one.client.data == down
    assert one.upstream.data == b"ahead" + up
    assert (one.relay.from_client, one.relay.to_client) == (len(up) + 5, len(down))
    assert one.ended == []


@pytest.mark.parametrize("tls", TLS)
@pytest.mark.parametrize("stalled", ["client", "upstream"])
def test_who_does_not_read_costs_one_buffer(splice: Make, tls: str, stalled: str):
    one = splice(tls=tls, buffer=8192).start()
    reader, writer = (one.client, one.upstream) if stalled == "client" else (one.upstream, one.client)
    side = one.client_side if stalled == "client" else one.upstream_side
    data = random.Random(tls).randbytes(2_000_000)
    writer.write(data)
    for _ in range(50):
        writer.step()
        one.reactor.settle()  # which would fail if it span
        assert side.pending <= SIZE
    assert side.pending
    assert len(writer.outbox) > 1_500_000
    # The other direction goes on meanwhile.
    reader.outbox += b"still here"
    one.reactor.until(lambda: writer.data, reader.step, writer.read)
    assert writer.data == b"still here"
    one.until(lambda: len(reader.data) == len(data))
    assert reader.data == data


def test_what_the_client_sent_ahead_waits_for_a_stalled_upstream(splice: Make):
    one = splice(buffer=4096)
    ahead = random.Random(7).randbytes(60_000)
    one.client.write(b"after")
    one.start(ahead)
    assert one.upstream_side.pending <= 2 * SIZE
    one.until(lambda: len(one.upstream.data) == len(ahead) + 5)
    assert one.upstream.data == ahead + b"after"


@pytest.mark.parametrize("tls", TLS)
def test_what_came_before_the_splice_is_not_forgotten(splice: Make, tls: str):
    one = splice(tls=tls)
    one.client_side.pause()
    one.upstream_side.pause()
    one.upstream.write(b"u" * 20_000)
    one.client.write(b"c" * 20_000)
    one.start()
    one.until(lambda: len(one.client.data) == len(one.upstream.data) == 20_000)


class Endless:
    """A stream that always has more, of which the socket would not tell."""

    wants_write = False

    def __init__(self, unread: bool, size: int) -> None:
        self.unread, self.size = unread, size
        self.reads = 0

    def read(self) -> int:
        self.reads += 1
        assert self.reads < 1_000, "nobody else gets a turn"
        return self.size


@pytest.mark.parametrize(("unread", "size", "turns"), [(True, 1, 5), (False, 20_000, 4), (False, 1, 1)])
def test_who_always_has_more_takes_no_turn_of_others(splice: Make, unread: bool, size: int, turns: int):
    one = splice().start()
    real, endless = one.upstream_side.stream, Endless(unread, size)
    one.upstream_side.stream = endless  # type: ignore[assignment]
    one.upstream_side.on_readable()
    one.upstream_side.stream = real
    assert endless.reads == turns


# --- ends of streams -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", TLS)
@pytest.mark.parametrize("size", [0, 10, 5_000, 300_000])
@pytest.mark.parametrize("faithful", [False, True])
def test_the_client_ends_and_still_gets_its_answer(splice: Make, tls: str, size: int, faithful: bool):
    one = splice(tls=tls, faithful=faithful, pair=tcp_pair).start()
    one.client.write(b"q" * size)
    one.until(lambda: not one.client.outbox)
    one.client.finish()
    one.until(lambda: one.upstream.end)
    assert one.upstream.end == "eof"
    assert len(one.upstream.data) == size
    one.upstream.write(b"last words" * 30_000)
    one.until(lambda: not one.upstream.outbox)
    assert one.ended == []
    one.upstream.finish()
    one.until(lambda: one.client.end)
    assert one.client.end == "eof"
    assert one.client.data == b"last words" * 30_000
    assert one.ended == ["the client closed the connection"]


@pytest.mark.parametrize("tls", TLS)
@pytest.mark.parametrize("faithful", [False, True])
def test_the_upstream_ends_and_still_hears_the_client(splice: Make, tls: str, faithful: bool):
    one = splice(tls=tls, faithful=faithful, pair=tcp_pair).start()
    one.say(b"greeting")
    one.upstream.finish()
    one.until(lambda: one.client.end)
    one.ask(b"q" * 300_000)
    assert one.ended == []
    one.client.finish()
    one.until(lambda: one.upstream.end)
    assert (one.client.end, one.upstream.end) == ("eof", "eof")
    assert one.ended == ["the upstream closed the connection"]


@pytest.mark.parametrize("tls", TLS)
def test_a_hang_up_behind_a_slow_client_loses_no_row(splice: Make, tls: str):
    """The upstream says much and leaves, while nobody reads: all of it is still delivered, and then the end."""
    one = splice(tls=tls, buffer=8192).start()
    data = random.Random(tls).randbytes(1_000_000)
    one.upstream.write(data)
    while one.upstream.outbox:
        one.upstream.step()
        one.reactor.settle()
        one.client.read(3_000)
    one.upstream.finish()
    one.upstream.sock.close()
    for _ in range(5):
        one.reactor.settle()
        assert one.client_side.pending <= SIZE
    assert one.ended == []
    one.until(lambda: one.client.end)
    assert one.client.end == "eof"
    assert one.client.data == data
    one.client.sock.close()
    one.reactor.until(lambda: one.ended)
    assert one.ended == ["the upstream closed the connection"]
    assert one.relay.to_client == len(data)


def test_a_slow_client_that_reads_is_waited_for(splice: Make):
    """After the upstream's end, for as long as it takes; a client that stops reading is not."""
    one = splice(buffer=4096).start()
    one.upstream.write(b"r" * 60_000)
    while one.upstream.outbox:
        one.upstream.step()
        one.reactor.settle()
        one.client.read(1_000)
    one.upstream.sock.close()
    while one.client_side.pending:
        one.client.read(2_000)
        one.reactor.settle()
        one.reactor.advance(LINGER_SECONDS / 2)
        assert one.ended == []
    one.client.read()
    assert one.client.data == b"r" * 60_000


def test_a_slow_upstream_that_reads_is_waited_for(splice: Make):
    one = splice(buffer=4096)
    one.client.finish()
    one.start(b"q" * 60_000)
    assert one.upstream_side.pending
    while one.upstream_side.pending:
        before = one.upstream_side.pending
        while one.upstream_side.pending == before:
            one.upstream.read(1_000)
            one.reactor.settle()
        one.reactor.advance(LINGER_SECONDS)
        assert one.ended == [] or not one.upstream_side.pending
    one.upstream.read()
    assert one.upstream.data == b"q" * 60_000
    assert one.upstream.end == "eof"


def test_a_client_that_ends_and_stops_reading_is_not_waited_for(splice: Make):
    one = splice(buffer=4096).start()
    one.client.finish()
    one.upstream.outbox += b"r" * 60_000
    one.reactor.until(lambda: one.client_side.pending, one.upstream.step)
    one.reactor.advance(LINGER_SECONDS)
    assert one.ended == []  # something has moved since
    one.reactor.advance(LINGER_SECONDS)
    assert one.ended == ["the client closed the connection"]


@pytest.mark.parametrize("size", [10, 5_000, 40_000, 3 * SIZE + 40_000])
def test_an_end_that_openssl_has_already_read_is_passed_on(splice: Make, size: int):
    """close_notify and no FIN: no event tells of it once it was read together with the last rows."""
    one = splice(tls="upstream", buffer=400_000).start()
    one.upstream.write(b"r" * size)
    assert not one.upstream.outbox
    assert one.upstream.tls
    one.upstream.tls.shutdown()
    one.reactor.until(lambda: one.client.end, one.client.play)
    assert one.client.data == b"r" * size
    assert one.client.end == "eof"


@pytest.mark.parametrize("first", ["client", "upstream"])
def test_the_other_side_has_so_long_to_end_too(splice: Make, first: str):
    one = splice().start()
    (one.client if first == "client" else one.upstream).finish()
    one.reactor.settle()
    one.reactor.advance(LINGER_SECONDS - 0.1)
    assert one.ended == []
    one.reactor.advance(0.2)
    assert one.ended == [f"the {first} closed the connection"]
    one.reactor.advance(CLOSE_SECONDS)
    assert one.both_closed()


@pytest.mark.parametrize("first", ["client", "upstream"])
def test_half_ended_it_lives_while_something_moves(splice: Make, first: str):
    one = splice().start()
    (one.client if first == "client" else one.upstream).finish()
    one.reactor.settle()
    for _ in range(20):
        one.reactor.advance(LINGER_SECONDS * 0.9)
        assert one.ended == []
        if first == "client":
            one.say(b"x")
        else:
            one.ask(b"x")
    one.reactor.pump([LINGER_SECONDS, LINGER_SECONDS])
    assert one.ended == [f"the {first} closed the connection"]


@pytest.mark.parametrize("first", ["client", "upstream"])
def test_half_ended_it_lives_while_it_is_being_read(splice: Make, first: str):
    one = splice(buffer=4096).start()
    if first == "client":
        reader, side, writer = one.client, one.client_side, one.upstream
    else:
        reader, side, writer = one.upstream, one.upstream_side, one.client
    reader.finish()
    one.reactor.settle()
    writer.write(b"r" * 60_000)
    one.reactor.until(lambda: side.pending, writer.step)
    one.reactor.advance(LINGER_SECONDS)
    while writer.outbox or side.pending:
        before = side.pending, one.relay.from_client + one.relay.to_client
        while before == (side.pending, one.relay.from_client + one.relay.to_client):
            reader.read(500)
            writer.step()
            one.reactor.settle()
        one.reactor.advance(LINGER_SECONDS)
        assert one.ended == []
    one.until(lambda: len(reader.data) == 60_000)


@pytest.mark.parametrize("linger", [1.0, 500.0])
def test_how_long_it_lingers_can_be_said(splice: Make, linger: float):
    one = splice(linger=linger).start()
    one.client.finish()
    one.reactor.settle()
    one.reactor.advance(linger - 0.1)
    assert one.ended == []
    one.reactor.advance(0.2)
    assert one.ended == ["the client closed the connection"]


def test_a_reset_of_the_client_ends_the_upstream(splice: Make):
    one = splice(pair=tcp_pair).start()
    reset(one.client.sock)
    one.reactor.until(lambda: one.ended)
    assert one.ended == ["the client's connection broke: Connection reset by peer"]
    one.reactor.until(lambda: one.upstream.end, one.upstream.play)
    assert one.upstream.end == "eof"


@pytest.mark.parametrize("tls", ["upstream", "client, upstream"])
def test_an_upstream_that_is_cut_leaves_its_rows(splice: Make, tls: str):
    """Truncation is not an end in order, and the audit says so; what came before it is delivered."""
    one = splice(tls=tls).start()
    one.upstream.write(b"r" * 50_000)
    one.upstream.sock.close()
    one.until(lambda: one.client.end)
    assert one.client.data == b"r" * 50_000
    assert one.ended[0].startswith("the upstream's connection broke: ")


def test_the_upstream_breaks_while_it_is_written_to(splice: Make):
    one = splice(buffer=4096).start()
    one.client.outbox += b"q" * 100_000
    one.reactor.until(lambda: one.upstream_side.pending, one.client.step)
    one.upstream.sock.close()
    one.reactor.until(lambda: one.ended, one.client.step)
    assert one.ended[0].startswith("the upstream's connection broke: ")


@pytest.mark.parametrize("tls", ["", "client"])
@pytest.mark.parametrize("stalled", [False, True])
def test_what_an_upstream_said_before_it_took_no_more_is_delivered(splice: Make, tls: str, stalled: bool):
    """The reason why it closes is the last thing it says; a client in the middle of a request has to hear it."""
    one = splice(tls=tls, buffer=8192 if stalled else 0).start()
    rows = b"r" * 100_000 if stalled else b""
    one.upstream.outbox += rows + b"FATAL"
    while one.upstream.outbox:
        one.upstream.step()
        if stalled:
            one.reactor.settle()
            one.client.read(2_000)
    one.upstream.sock.close()
    one.client.write(b"q" * 1_000)
    one.client_side.on_readable()  # before the upstream's turn, as it may come
    one.client.step()
    one.client_side.on_readable()
    assert one.ended == []
    one.until(lambda: one.client.end)
    assert one.client.data == rows + b"FATAL"
    assert one.ended[0].startswith("the upstream's connection broke: ")


def test_an_upstream_that_takes_no_more_and_says_no_more_is_not_waited_for(splice: Make):
    one = splice(buffer=4096).start()
    one.upstream.outbox += b"r" * 100_000
    one.reactor.until(lambda: one.client_side.pending, one.upstream.step)
    one.upstream.sock.close()
    one.client.write(b"q")
    one.reactor.settle()
    assert one.ended == []
    one.reactor.advance(LINGER_SECONDS)
    assert one.ended[0].startswith("the upstream's connection broke: ")


def test_a_side_that_was_gone_before_the_start(splice: Make):
    one = splice()
    one.client_side.abort()
    one.relay.lost(one.client_side, "it was gone")
    assert one.ended == ["the client's connection broke: it was gone"]


def test_the_upstream_breaks_at_what_was_sent_ahead(splice: Make):
    one = splice()
    one.upstream.sock.close()
    one.start(b"ahead")
    one.reactor.settle()
    assert one.ended[0].startswith("the upstream's connection broke: ")


# --- what was sent before the start --------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", TLS)
def test_what_waited_before_the_start_comes_first_and_nothing_is_read_for_it(splice: Make, tls: str):
    """The head of a 101 and the first frames, to a side that takes them slowly."""
    one = splice(tls=tls, buffer=4096)
    one.client_side.write(b"h" * 50_000)
    one.upstream_side.write(b"H" * 50_000)
    waiting = one.client_side.pending, one.upstream_side.pending
    one.upstream.write(b"d" * 20_000)
    one.client.write(b"u" * 20_000)
    one.start(b"ahead")
    one.reactor.settle()
    assert (one.client_side.pending, one.upstream_side.pending) == (waiting[0], waiting[1] + 5)
    one.until(lambda: len(one.client.data) == 70_000 and len(one.upstream.data) == 70_005)
    assert one.client.data == b"h" * 50_000 + b"d" * 20_000
    assert one.upstream.data == b"H" * 50_000 + b"ahead" + b"u" * 20_000
    assert (one.relay.from_client, one.relay.to_client) == (20_005, 20_000)


# --- faithful: a side that broke is never passed on as one that ended ----------------------------------------------


def break_off(peer: Peer) -> None:
    """Plain: a reset. TLS: a FIN without close_notify (RFC 8446, 6.1)."""
    if peer.tls:
        peer.sock.shutdown(socket.SHUT_WR)
    else:
        reset(peer.sock)


@pytest.mark.parametrize("tls", TLS)
@pytest.mark.parametrize("first", ["client", "upstream"])
@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_who_breaks_is_passed_on_as_broken(splice: Make, tls: str, first: str, faithful: bool, half: bool):
    """half: the other has ended its own stream in order before that."""
    one = splice(tls=tls, faithful=faithful, pair=tcp_pair).start()
    one.say(b"r" * 100_000)
    one.ask(b"q" * 100_000)
    breaks, other = (one.client, one.upstream) if first == "client" else (one.upstream, one.client)
    if half:
        other.finish()
        one.until(lambda: breaks.end)
    break_off(breaks)
    one.wait(lambda: other.end)
    assert other.end == ("cut" if faithful else "eof")
    assert other.data == (b"q" if first == "client" else b"r") * 100_000
    assert len(one.ended) == 1


def test_without_tls_between_them_the_reset_goes_through(splice: Make):
    """And not a FIN, which a plain client would take for the end."""
    one = splice(tls="upstream", faithful=True, pair=tcp_pair).start()
    one.upstream.sock.shutdown(socket.SHUT_WR)
    one.reactor.until(lambda: one.ended)
    with pytest.raises(ConnectionResetError):
        one.client.sock.recv(1)


def test_what_waits_is_sent_before_the_reset(splice: Make):
    """The upstream breaks while neither takes what the other says."""
    one = splice(faithful=True, pair=tcp_pair, buffer=4096).start()
    one.upstream.outbox += b"r" * 1_000_000
    one.client.outbox += b"q" * 1_000_000
    one.reactor.until(lambda: one.client_side.pending and one.upstream_side.pending, one.client.step, one.upstream.step)
    reset(one.upstream.sock)
    one.reactor.until(lambda: one.ended)
    assert one.client_side.pending
    while not one.client.end:
        one.client.read()
        one.reactor.settle()
        if not one.client_side.pending:
            one.reactor.advance(0.1)
    assert one.client.end == "cut"
    assert len(one.client.data) == one.relay.to_client


@pytest.mark.parametrize("faithful", [False, True])
def test_an_upstream_that_takes_no_more_was_not_told_everything(splice: Make, faithful: bool):
    """Whatever it said before that, and although it ends: the client must not think that it was heard."""
    one = splice(tls="client", faithful=faithful).start()
    one.upstream.write(b"no more")
    one.upstream.sock.close()
    one.client.write(b"q" * 1_000)
    one.client_side.on_readable()
    one.client_side.on_readable()
    assert one.ended == []
    one.until(lambda: one.client.end)
    assert one.client.data == b"no more"
    assert one.client.end == ("cut" if faithful else "eof")


@pytest.mark.parametrize("tls", TLS)
@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("how", ["silence", "cut", "finish", "patient"])
def test_an_end_of_ours_is_not_the_end_of_the_stream(splice: Make, tls: str, faithful: bool, how: str):
    one = splice(tls=tls, faithful=faithful, pair=tcp_pair).start()
    if how == "silence":
        one.client.finish()
        one.until(lambda: one.upstream.end)
        one.reactor.advance(LINGER_SECONDS)
    elif how == "cut":
        one.relay.cut("expired")
    else:
        one.relay.finish(b"", "expired", how == "patient", GRACE)
        one.reactor.advance(QUIET_SECONDS)
    assert len(one.ended) == 1
    one.wait(lambda: one.client.end and one.upstream.end)
    assert one.client.end == ("cut" if faithful else "eof")
    assert one.upstream.end == ("cut" if faithful and how != "silence" else "eof")


def test_a_farewell_ends_the_clients_stream_in_order(splice: Make):
    """It says itself that this is the end; the upstream was told nothing."""
    one = splice(tls="client", faithful=True, pair=tcp_pair).start()
    one.relay.finish(FATAL, "expired", False, GRACE)
    one.wait(lambda: one.client.end and one.upstream.end)
    assert one.client.data == FATAL
    assert (one.client.end, one.upstream.end) == ("eof", "cut")


# --- farewells -----------------------------------------------------------------------------------------------------


@pytest.fixture
def busy(splice: Make) -> Splice:
    """A session that has been asked something and has not answered."""
    one = splice(framing=BackendFraming()).start()
    one.say(READY)
    one.ask(b"Q")
    return one


@pytest.fixture
def idle(splice: Make) -> Splice:
    one = splice(framing=BackendFraming()).start()
    one.say(READY)
    return one


def test_a_farewell_at_a_boundary_is_said_at_once(busy: Splice):
    busy.say(row(10))
    busy.relay.finish(FATAL, "expired", patient=False, grace=GRACE)
    busy.until(lambda: busy.client.end)
    assert busy.client.data == READY + row(10) + FATAL
    assert busy.client.end == "eof"
    assert busy.ended == ["expired"]


@pytest.mark.parametrize("cut", [1, 4, 5, 500, 1004])
def test_a_farewell_is_never_put_inside_a_message(busy: Splice, cut: int):
    """Every byte of the row comes before it, wherever the row was when it was due; and none of the next."""
    message = row(1_000)
    busy.say(message[:cut])
    busy.relay.finish(FATAL, "expired", patient=False, grace=GRACE)
    busy.reactor.settle()
    assert busy.ended == []
    busy.upstream.write(message[cut:600])
    busy.reactor.settle()
    assert busy.ended == []
    busy.upstream.write(message[max(cut, 600) :] + row(20) + row(30)[:7])
    busy.until(lambda: busy.client.end)
    assert busy.client.data == READY + message + FATAL
    assert busy.ended == ["expired"]
    assert busy.relay.to_client == len(READY + message)


def test_the_patient_cut_nothing_short(busy: Splice):
    busy.say(row(1_000)[:500])
    busy.relay.finish(FATAL, "shutdown", patient=True, grace=GRACE)
    busy.upstream.write(row(1_000)[500:] + row(20) + READY)
    busy.until(lambda: len(busy.client.data) == len(READY + row(1_000) + row(20) + READY))
    busy.reactor.advance(QUIET_SECONDS)
    busy.until(lambda: busy.client.end)
    assert busy.client.data == READY + row(1_000) + row(20) + READY + FATAL


def test_when_the_grace_is_over_the_next_boundary_will_do(busy: Splice):
    busy.say(row(1_000)[:500])
    busy.relay.finish(FATAL, "shutdown", patient=True, grace=GRACE)
    busy.reactor.advance(GRACE)
    assert busy.ended == []
    busy.upstream.write(row(1_000)[500:] + row(20))
    busy.until(lambda: busy.client.end)
    assert busy.client.data == READY + row(1_000) + FATAL


def test_no_farewell_at_all_rather_than_inside_a_message(busy: Splice):
    busy.say(row(1_000)[:500])
    busy.relay.finish(FATAL, "expired", patient=False, grace=GRACE)
    busy.reactor.advance(GRACE)
    busy.reactor.advance(LAST_SECONDS - 0.1)
    assert busy.ended == []
    busy.reactor.advance(0.2)
    assert busy.ended == ["expired"]
    busy.until(lambda: busy.client.end)
    assert FATAL not in busy.client.data


def test_the_patient_wait_for_the_answer(busy: Splice):
    busy.relay.finish(FATAL, "shutdown", patient=True, grace=GRACE)
    busy.say(row(10))
    busy.reactor.advance(GRACE / 2)
    assert busy.ended == []
    busy.say(b"C\0\0\0\x0dSELECT 1\0" + READY)
    assert busy.ended == []
    busy.reactor.advance(QUIET_SECONDS)
    busy.until(lambda: busy.client.end)
    assert busy.client.data.endswith(READY + FATAL)
    assert busy.ended == ["shutdown"]


def test_the_patient_also_wait_for_quiet(idle: Splice):
    """A pipelining client's next request may be on its way while the upstream looks idle."""
    idle.relay.finish(FATAL, "shutdown", patient=True, grace=GRACE)
    idle.reactor.advance(QUIET_SECONDS / 2)
    assert idle.ended == []
    idle.ask(b"Q")
    idle.reactor.advance(QUIET_SECONDS * 3)
    assert idle.ended == []
    idle.say(READY)
    idle.reactor.advance(QUIET_SECONDS)
    assert idle.ended == ["shutdown"]


def test_patience_ends_after_the_grace(busy: Splice):
    busy.relay.finish(FATAL, "shutdown", patient=True, grace=GRACE)
    busy.reactor.advance(GRACE - 0.1)
    assert busy.ended == []
    busy.reactor.advance(0.2)
    assert busy.ended == ["shutdown"]
    busy.until(lambda: busy.client.end)
    assert busy.client.data == READY + FATAL


def test_what_is_urgent_overtakes_patience_and_gets_no_more_time(busy: Splice):
    busy.say(row(1_000)[:500])
    busy.relay.finish(FATAL, "shutdown", patient=True, grace=GRACE)
    busy.reactor.advance(GRACE - 1)
    busy.relay.finish(FATAL, "expired", patient=False, grace=GRACE)
    busy.relay.finish(FATAL, "shutdown again", patient=True, grace=GRACE)
    busy.reactor.advance(1)
    busy.reactor.advance(LAST_SECONDS)
    assert busy.ended == ["expired"]


def test_a_farewell_to_a_client_that_does_not_read_is_bounded(splice: Make):
    one = splice(framing=BackendFraming(), buffer=4096).start()
    one.upstream.outbox += row(500_000)
    one.reactor.until(lambda: one.client_side.pending, one.upstream.step)
    one.relay.finish(FATAL, "expired", patient=False, grace=GRACE)
    one.reactor.advance(GRACE)
    one.reactor.advance(LAST_SECONDS)
    assert one.ended == ["expired"]
    one.reactor.advance(CLOSE_SECONDS)
    assert one.both_closed()


@pytest.fixture
def slow(splice: Make) -> Splice:
    """The upstream has said all of it, the client has not heard all of it."""
    one = splice(framing=BackendFraming()).start()
    one.client_side._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    one.ask(b"Q")
    one.upstream.write(row(50_000) + READY)
    one.reactor.settle()
    assert one.relay.to_client == len(row(50_000) + READY)
    assert one.client_side.pending
    return one


def test_the_patient_wait_for_a_slow_reader(slow: Splice):
    one = slow
    one.relay.finish(FATAL, "shutdown", patient=True, grace=GRACE)
    while one.client_side.pending:
        one.reactor.advance(QUIET_SECONDS * 3)
        assert one.ended == []
        one.client.read(2_000)
        one.reactor.settle()
    one.reactor.pump([QUIET_SECONDS] * 2)
    assert one.ended == ["shutdown"]
    one.until(lambda: one.client.end)
    assert one.client.data == row(50_000) + READY + FATAL


def test_a_slow_reader_is_not_waited_for_beyond_the_grace(slow: Splice):
    """What it has not taken by then it may still take before the socket is closed, and the farewell behind it."""
    one = slow
    one.relay.finish(FATAL, "shutdown", patient=True, grace=GRACE)
    one.reactor.advance(GRACE)
    assert one.ended == ["shutdown"]
    one.until(lambda: one.client.end)
    assert one.client.data == row(50_000) + READY + FATAL


@pytest.mark.parametrize("step", [QUIET_SECONDS * part for part in (0.3, 0.5, 0.9)])
def test_quiet_is_counted_from_the_last_byte(idle: Splice, step: float):
    """However the look that was due and the next question fall together: no timer of an earlier quiet ends it."""
    idle.relay.finish(FATAL, "shutdown", patient=True, grace=GRACE)
    for _ in range(8):
        idle.reactor.advance(step)
        assert idle.ended == []
        idle.ask(b"Q")
        idle.say(READY)
        assert len(idle.reactor.getDelayedCalls()) == 2  # the grace, and one look
    idle.reactor.pump([QUIET_SECONDS / 10] * 9)
    assert idle.ended == []
    idle.reactor.pump([QUIET_SECONDS / 10] * 12)
    assert idle.ended == ["shutdown"]


def test_what_has_ended_is_not_looked_at_again(idle: Splice):
    idle.relay.finish(FATAL, "shutdown", patient=True, grace=GRACE)
    idle.relay.cut("a bug")
    idle.client.sock.close()
    idle.upstream.sock.close()
    idle.reactor.settle()
    assert idle.both_closed()
    assert idle.reactor.getDelayedCalls() == []


def test_a_look_before_the_question_does_not_end_it(idle: Splice):
    """Asked after the first look, answered before the next: there must be a new quiet, not the old one."""
    idle.relay.finish(FATAL, "shutdown", patient=True, grace=GRACE)
    idle.ask(b"Q")
    idle.reactor.advance(QUIET_SECONDS)
    idle.say(READY)
    idle.reactor.advance(QUIET_SECONDS - 0.001)
    assert idle.ended == []
    idle.reactor.advance(0.002)
    assert idle.ended == ["shutdown"]


def test_the_impatient_hear_no_more_of_the_client(busy: Splice):
    """What an expired token asks for is not asked of the upstream, however long its answer takes."""
    busy.say(row(1_000)[:500])
    busy.relay.finish(FATAL, "expired", patient=False, grace=GRACE)
    busy.client.write(b"DROP TABLE")
    busy.reactor.settle()
    busy.upstream.write(row(1_000)[500:700])
    busy.reactor.settle()
    busy.reactor.advance(GRACE)
    busy.reactor.settle()
    assert busy.ended == []
    busy.upstream.write(row(1_000)[700:])
    busy.until(lambda: busy.client.end and busy.upstream.end)
    assert busy.upstream.data == b"Q"
    assert busy.client.data == READY + row(1_000) + FATAL


def test_the_patient_hear_the_client_until_the_grace_is_over(busy: Splice):
    busy.relay.finish(FATAL, "shutdown", patient=True, grace=GRACE)
    busy.say(row(1_000)[:500])
    busy.ask(b"more")
    busy.reactor.advance(GRACE)
    busy.client.write(b"DROP TABLE")
    busy.reactor.settle()
    busy.reactor.advance(LAST_SECONDS)
    busy.until(lambda: busy.upstream.end)
    assert busy.upstream.data == b"Qmore"


def test_the_impatient_leave_a_client_unread_whose_tls_has_something_to_write(splice: Make):
    """A key update, say: that its socket can be written does not mean that it is read."""
    one = splice(tls="client", framing=BackendFraming()).start()
    one.say(row(1_000)[:500])
    one.client_side.stream.wants_write = True
    one.client_side.blocked()
    one.relay.finish(FATAL, "expired", patient=False, grace=GRACE)
    one.client.write(b"DROP TABLE")
    one.reactor.settle()
    one.upstream.write(row(1_000)[500:])
    one.until(lambda: one.client.end and one.upstream.end)
    assert one.upstream.data == b""
    assert one.client.data == row(1_000) + FATAL


@pytest.fixture
def seems_idle(splice: Make) -> Splice:
    """In a bulk result: more rows than are walked, the last of which looks like a ReadyForQuery so far."""
    one = splice(framing=BackendFraming()).start()
    one.say(READY)
    one.ask(b"Q")
    one.say(row(10) * 100 + LAST[: -len(REST)])
    framing = one.relay.framing
    assert framing
    assert framing.idle
    assert not framing.boundary
    return one


REST = b"and the rest of that row"
LAST = b"D" + (4 + 6 + len(REST)).to_bytes(4) + READY + REST


@pytest.mark.parametrize("patient", [True, False])
def test_what_only_seems_idle_is_looked_at_again(seems_idle: Splice, patient: bool):
    one = seems_idle
    before = len(one.client.data)
    one.relay.finish(FATAL, "over", patient=patient, grace=GRACE)
    one.reactor.advance(QUIET_SECONDS / 2)
    one.say(REST)
    one.reactor.advance(QUIET_SECONDS * 4)
    assert one.ended == []
    one.say(row(10) * 3 + b"C\0\0\0\x0dSELECT 1\0" + READY)
    assert one.ended == []
    one.reactor.advance(QUIET_SECONDS)
    one.until(lambda: one.client.end)
    assert one.client.data[before:] == REST + row(10) * 3 + b"C\0\0\0\x0dSELECT 1\0" + READY + FATAL


def test_what_seems_idle_and_stays_so_is_left(splice: Make):
    one = splice(framing=BackendFraming()).start()
    one.ask(b"Q")
    one.say(row(10) * 100 + READY)
    one.relay.finish(FATAL, "expired", patient=False, grace=GRACE)
    one.client.write(b"DROP TABLE")
    one.reactor.settle()
    assert one.ended == []
    one.reactor.advance(QUIET_SECONDS)
    one.until(lambda: one.client.end and one.upstream.end)
    assert one.client.data == row(10) * 100 + READY + FATAL
    assert one.upstream.data == b"Q"


def test_without_framing_the_patient_wait_for_quiet(splice: Make):
    one = splice().start()
    one.relay.finish(b"", "shutdown", patient=True, grace=GRACE)
    assert one.ended == []
    one.reactor.advance(QUIET_SECONDS)
    assert one.ended == ["shutdown"]


def test_the_patient_wait_for_a_slow_upstream(splice: Make):
    one = splice(buffer=4096).start()
    one.client.outbox += b"q" * 60_000
    one.reactor.until(lambda: one.upstream_side.pending, one.client.step)
    while one.client.outbox:
        one.client.step()
        one.reactor.settle()
        one.upstream.read(1_000)
    one.relay.finish(b"", "shutdown", patient=True, grace=GRACE)
    while one.upstream_side.pending:
        one.reactor.pump([QUIET_SECONDS] * 3)
        assert one.ended == []
        one.upstream.read(1_000)
        one.reactor.settle()
    one.reactor.pump([QUIET_SECONDS] * 2)
    assert one.ended == ["shutdown"]


def test_who_has_ended_while_a_farewell_is_due_has_the_whole_grace(busy: Splice):
    busy.relay.finish(FATAL, "shutdown", patient=True, grace=GRACE)
    busy.client.finish()
    busy.reactor.settle()
    busy.reactor.pump([GRACE / 10] * 9)
    assert busy.ended == []
    assert len(busy.reactor.getDelayedCalls()) == 1
    busy.say(row(10) + READY)
    busy.reactor.advance(QUIET_SECONDS)
    busy.until(lambda: busy.client.end)
    assert busy.client.data == READY + row(10) + READY + FATAL


def test_the_client_leaves_while_a_farewell_is_due(busy: Splice):
    busy.relay.finish(FATAL, "shutdown", patient=True, grace=GRACE)
    busy.client.sock.close()
    busy.until(lambda: busy.upstream.end)
    busy.upstream.finish()
    busy.reactor.until(lambda: busy.ended)
    assert busy.ended == ["shutdown"]
    busy.relay.finish(FATAL, "again", patient=False, grace=GRACE)


def test_cut_ends_it_wherever_it_is(busy: Splice):
    busy.say(row(1_000)[:500])
    busy.relay.cut("a bug")
    waiting = len(busy.reactor.getDelayedCalls())
    busy.relay.cut("another")
    busy.relay.finish(FATAL, "shutdown", patient=True, grace=GRACE)
    assert len(busy.reactor.getDelayedCalls()) == waiting
    assert busy.ended == ["a bug"]
    busy.until(lambda: busy.client.end and busy.upstream.end)


# --- every interleaving --------------------------------------------------------------------------------------------

STEPS: dict[str, Callable[[Splice], object]] = {
    "client asks": lambda one: one.client.write(b"Q" * 3_000),
    "upstream says": lambda one: one.upstream.write(row(3_000)),
    "upstream says half": lambda one: one.upstream.write(row(9_000)[:5_000]),
    "upstream is ready": lambda one: one.upstream.write(READY),
    "client reads": lambda one: one.client.read(),
    "upstream reads": lambda one: one.upstream.read(),
    "client ends": lambda one: one.client.sock.shutdown(socket.SHUT_WR),
    "upstream ends": lambda one: one.upstream.sock.shutdown(socket.SHUT_WR),
    "client leaves": lambda one: one.client.sock.shutdown(socket.SHUT_RDWR),
    "upstream leaves": lambda one: one.upstream.sock.shutdown(socket.SHUT_RDWR),
    "patient": lambda one: one.relay.finish(FATAL, "shutdown", patient=True, grace=GRACE),
    "urgent": lambda one: one.relay.finish(FATAL, "expired", patient=False, grace=GRACE),
    "turn": lambda one: one.reactor.settle(),
    "time": lambda one: one.reactor.advance(LINGER_SECONDS / 3),
    "client breaks": lambda one: one.client_side._lost("broken"),
    "upstream breaks": lambda one: one.upstream_side._lost("broken"),
}


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from(sorted(STEPS)), max_size=25), narrow=st.booleans(), faithful=st.booleans())
def test_it_ends_exactly_once_whatever_happens(steps: list[str], narrow: bool, faithful: bool):
    reactor = ManualReactor()
    poller = Poller(reactor)
    one = Splice(reactor, poller, framing=BackendFraming(), buffer=4096 if narrow else 0, faithful=faithful).start()
    for step in steps:
        try:
            STEPS[step](one)
        except OSError:
            continue  # it had left before
        assert len(one.ended) <= 1
        assert one.client_side.pending <= SIZE + len(FATAL)
        assert one.upstream_side.pending <= SIZE
    one.client.sock.close()
    one.upstream.sock.close()
    for _ in range(5):
        reactor.settle()
        reactor.advance(GRACE)
    assert len(one.ended) == 1
    assert one.both_closed()
    assert reactor.getDelayedCalls() == []
    assert one.relay.from_client >= len(one.upstream.data)
    assert one.relay.to_client >= len(one.client.data) - len(FATAL)
    poller.close()


def test_an_ended_relay_is_freed_at_once(reactor: ManualReactor, poller: Poller):
    class Noted(BackendFraming):
        """The relay itself has no room for a weak reference."""

    gc.collect()
    gc.disable()
    try:
        one = Splice(reactor, poller, framing=Noted()).start()
        framing = weakref.ref(one.relay.framing)
        one.client.finish()
        one.upstream.finish()
        reactor.settle()
        one.client.sock.close()
        one.upstream.sock.close()
        reactor.settle()
        assert one.ended
        assert one.both_closed()
        del one
        assert framing() is None
    finally:
        gc.enable()
