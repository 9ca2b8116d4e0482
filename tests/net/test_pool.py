"""The pool over real sockets: who is idle is handed out once, and never after it has said or ended anything."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator

import pytest

from gateway.net import pool as module
from gateway.net.poller import Poller
from gateway.net.pool import IDLE_SECONDS, MAX_IDLE_PER_KEY, Pool
from gateway.net.transport import Transport
from tests.reactor import ManualReactor
from tests.wires import Authority, Peer, Recorder, reset, tcp_pair

KEY, OTHER = ("things", 1), ("things", 2)


class House:
    """A pool, and connections that were used once; `peers` are the upstreams behind them."""

    def __init__(self, reactor: ManualReactor, poller: Poller, authority: Authority) -> None:
        self.reactor, self.poller, self.authority = reactor, poller, authority
        self.pool = Pool(reactor.seconds)
        self.peers: dict[Transport, Peer] = {}

    def used(self, tls: bool = False) -> Transport:
        owner = Recorder()
        near, far = tcp_pair()
        transport, peer = Transport(self.poller, self.reactor, near, owner), Peer(far)
        self.peers[transport] = peer
        transport.resume()
        if tls:
            peer.secure(self.authority.as_server(far))
            transport.start_tls(self.authority.as_client)
            self.reactor.until(lambda: owner.secure and peer.secured, peer.step)
        peer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        self.reactor.until(lambda: owner.data)
        return transport

    def idle(self, key: object = KEY, tls: bool = False) -> Transport:
        transport = self.used(tls)
        self.pool.put(key, transport)
        assert not transport.closed
        return transport

    def take(self, key: object) -> Transport | None:
        before = len(self.pool)
        if not self.pool.ready(key):
            return None
        transport = self.pool.take(key)
        assert len(self.pool) < before
        return transport

    def sweep(self, seconds: float) -> None:
        """After so many seconds."""
        self.reactor.advance(seconds)
        self.pool.sweep()

    def end(self, transport: Transport) -> str | None:
        """How the upstream saw it end."""
        peer = self.peers[transport]
        self.reactor.until(lambda: peer.end, peer.play)
        return peer.end


@pytest.fixture
def house(reactor: ManualReactor, poller: Poller, authority: Authority) -> Iterator[House]:
    house = House(reactor, poller, authority)
    yield house
    house.pool.close_all()
    assert len(house.pool) == 0
    assert house.pool._idle == {}
    for transport, peer in house.peers.items():
        peer.sock.close()
        transport.abort()
    assert reactor.getDelayedCalls() == []


# --- handing out ---------------------------------------------------------------------------------------------------


def test_the_one_returned_last_comes_first_and_once(house: House):
    first, second, third = house.idle(), house.idle(), house.idle()
    assert len(house.pool) == 3
    assert house.take(KEY) is third
    house.pool.put(KEY, third)
    assert [house.take(KEY) for _ in range(4)] == [third, second, first, None]
    assert len(house.pool) == 0


def test_nobody_gets_what_was_another_keys(house: House):
    mine = house.idle()
    assert house.take(OTHER) is None
    assert house.take(("things", 1)) is mine


@pytest.mark.parametrize("tls", [False, True])
def test_it_serves_who_adopts_it(house: House, tls: bool):
    transport = house.idle(tls=tls)
    assert house.take(KEY) is transport
    owner = Recorder()
    transport.adopt(owner)
    peer = house.peers[transport]
    transport.write(b"GET / HTTP/1.1\r\n\r\n")
    house.reactor.until(lambda: peer.data, peer.play)
    peer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    house.reactor.until(lambda: owner.data)
    assert owner.data == b"HTTP/1.1 200 OK\r\n\r\n"
    peer.finish()
    house.reactor.until(lambda: owner.reason)


def test_who_put_it_back_hears_nothing_more(house: House):
    transport = house.used()
    owner = transport._owner
    assert isinstance(owner, Recorder)
    before = owner.data
    transport.when_drained(lambda: pytest.fail("told"))
    house.pool.put(KEY, transport)
    house.peers[transport].write(b"unasked")
    house.reactor.until(lambda: transport.closed)
    assert (owner.data, owner.reason) == (before, None)


def test_it_is_read_again_although_it_came_back_paused(house: House):
    transport = house.used()
    transport.pause()
    house.pool.put(KEY, transport)
    house.peers[transport].sock.close()
    house.reactor.until(lambda: transport.closed)


def test_coming_and_going_costs_no_system_call_of_the_poller(house: House, monkeypatch: pytest.MonkeyPatch):
    transport = house.idle()
    monkeypatch.setattr(house.poller, "watch", lambda *_: pytest.fail("epoll_ctl"))
    for _ in range(3):
        assert house.take(KEY) is transport
        transport.adopt(Recorder())
        transport.resume()
        house.pool.put(KEY, transport)
    monkeypatch.undo()


# --- who is not kept -----------------------------------------------------------------------------------------------

ENDS: dict[str, Callable[[Peer], object]] = {
    "end": Peer.finish,
    "close": lambda peer: peer.sock.close(),
    "reset": lambda peer: reset(peer.sock),
    "408": lambda peer: peer.write(b"HTTP/1.1 408 Request Timeout\r\n\r\n"),
    "one byte": lambda peer: peer.write(b"\0"),
    "forged": lambda peer: peer.sock.send(b"\x17\x03\x03\x00\x40" + b"f" * 64),
}


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("how", ENDS)
def test_who_ends_or_speaks_while_idle_is_dropped_at_once(house: House, tls: bool, how: str):
    stays, transport = house.idle(tls=tls), house.idle(tls=tls)
    ENDS[how](house.peers[transport])
    house.reactor.until(lambda: transport.closed)
    assert len(house.pool) == 1
    assert house.take(KEY) is stays
    assert house.take(KEY) is None


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("how", ENDS)
def test_nor_is_it_handed_out_before_the_poller_has_told(house: House, tls: bool, how: str):
    """It would be taken for the answer to the next request."""
    stays, transport = house.idle(tls=tls), house.idle(tls=tls)
    ENDS[how](house.peers[transport])
    assert select.select([transport._sock], [], [], 5)[0]
    assert house.take(KEY) is stays
    assert transport.closed
    assert len(house.pool) == 0


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("how", ENDS)
def test_nor_is_who_has_ended_or_spoken_before_it_came_back(house: House, tls: bool, how: str):
    transport = house.used(tls)
    ENDS[how](house.peers[transport])
    assert select.select([transport._sock], [], [], 5)[0]
    house.pool.put(KEY, transport)
    assert house.take(KEY) is None
    assert transport.closed
    assert len(house.pool) == 0


def test_what_is_put_on_top_after_the_look_is_not_what_is_taken(house: House):
    """Its upstream has said more than its answer, unseen as yet: that would become the answer to the next request."""
    looked_at, spoke = house.idle(), house.used()
    assert house.pool.ready(KEY)
    house.peers[spoke].write(b"HTTP/1.1 200 OK\r\n\r\nplanted")
    assert select.select([spoke._sock], [], [], 5)[0]
    house.pool.put(KEY, spoke)
    assert house.pool.take(KEY) is looked_at
    assert not spoke.closed
    assert not house.pool.ready(KEY)
    assert spoke.closed
    assert len(house.pool) == 0


def test_it_is_taken_only_after_a_look(house: House):
    with pytest.raises(ValueError, match="after ready"):
        house.pool.take(KEY)
    stays = house.idle()
    with pytest.raises(ValueError, match="after ready"):
        house.pool.take(KEY)
    assert house.take(KEY) is stays
    house.pool.put(KEY, stays)
    with pytest.raises(ValueError, match="after ready"):
        house.pool.take(KEY)
    assert len(house.pool) == 1


def test_what_has_ended_after_the_look_is_not_taken(house: House):
    stays, looked_at = house.idle(), house.idle()
    assert house.pool.ready(KEY)
    house.peers[looked_at].sock.close()
    house.reactor.until(lambda: looked_at.closed)
    with pytest.raises(ValueError, match="not in list"):
        house.pool.take(KEY)
    assert len(house.pool) == 1
    assert house.take(KEY) is stays


def test_what_was_looked_at_under_another_key_is_not_taken(house: House):
    house.idle(KEY)
    house.idle(OTHER)
    assert house.pool.ready(OTHER)
    with pytest.raises(ValueError, match="not in list"):
        house.pool.take(KEY)
    assert len(house.pool) == 2


def test_an_end_that_openssl_has_already_read_is_seen(house: House):
    transport = house.used(tls=True)
    peer = house.peers[transport]
    transport.pause()
    assert peer.tls
    peer.write(b"x" * 5_000)
    peer.tls.shutdown()
    assert transport.stream.read() == 5_000
    house.pool.put(KEY, transport)
    assert house.take(KEY) is None
    assert transport.closed


@pytest.mark.parametrize("what", ["closed", "pending"])
def test_who_has_not_sent_everything_is_not_kept(house: House, what: str):
    transport = house.used()
    if what == "closed":
        transport.abort()
    else:
        while not transport.pending:
            transport.write(b"x" * 1_000_000)
    house.pool.put(KEY, transport)
    assert transport.closed
    assert len(house.pool) == 0
    assert house.take(KEY) is None


def test_one_that_was_closed_behind_our_back_is_not_handed_out(house: House):
    stays, transport = house.idle(), house.idle()
    transport.abort()
    assert house.take(KEY) is stays


def test_a_bug_in_one_is_its_end(house: House):
    transport = house.idle()
    transport.on_bug()
    assert len(house.pool) == 0


def test_what_tls_says_for_itself_is_not_speech(house: House):
    """New session tickets and the like give nothing to read."""
    transport = house.idle(tls=True)
    transport.on_readable()
    assert house.take(KEY) is transport


# --- bounds --------------------------------------------------------------------------------------------------------


def test_one_key_has_only_so_many(house: House):
    for _ in range(MAX_IDLE_PER_KEY):
        house.idle()
    one_more = house.used()
    house.pool.put(KEY, one_more)
    assert one_more.closed
    assert len(house.pool) == MAX_IDLE_PER_KEY
    house.idle(OTHER)
    house.take(KEY)
    house.idle()


def test_all_have_only_so_many(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_IDLE", 5)
    for number in range(5):
        house.idle((KEY, number))
    one_more = house.used()
    house.pool.put(OTHER, one_more)
    assert one_more.closed
    assert len(house.pool) == 5
    house.take((KEY, 3))
    house.idle(OTHER)


# --- the end of idleness -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
def test_who_is_idle_for_long_is_closed_in_order(house: House, tls: bool):
    transport = house.idle(tls=tls)
    house.sweep(IDLE_SECONDS - 1)
    assert not transport.closed
    later = house.idle(tls=tls)
    house.sweep(1)
    assert transport.closed
    assert house.reactor.getDelayedCalls() == []
    assert house.end(transport) == "eof"
    assert len(house.pool) == 1
    assert house.take(KEY) is later


def test_who_was_used_meanwhile_is_not(house: House):
    transport = house.idle()
    house.reactor.advance(IDLE_SECONDS / 2)
    assert house.take(KEY) is transport
    house.pool.put(KEY, transport)
    house.sweep(IDLE_SECONDS / 2)
    assert not transport.closed
    house.sweep(IDLE_SECONDS / 2)
    assert transport.closed


def test_how_long_can_be_said(house: House):
    house.pool = Pool(house.reactor.seconds, idle_seconds=5)
    transport = house.idle()
    house.sweep(4.9)
    assert not transport.closed
    house.sweep(0.2)
    assert transport.closed


def test_only_the_one_that_ended_is_forgotten(house: House):
    """Whatever else there is, under whichever key."""
    first, gone, last, other = house.idle(), house.idle(), house.idle(), house.idle(OTHER)
    house.peers[gone].sock.close()
    house.reactor.until(lambda: gone.closed)
    assert len(house.pool) == 3
    assert house.take(OTHER) is other
    assert [house.take(KEY) for _ in range(3)] == [last, first, None]


def test_a_place_that_is_empty_is_forgotten(house: House):
    """Its key may hold on to contexts of before a reload."""
    house.idle()
    house.take(KEY)
    house.pool.sweep()
    assert house.pool._idle == {}


def test_what_is_not_current_is_closed(house: House):
    old, new = house.idle(KEY), house.idle(OTHER)
    house.pool.retain(lambda key: key == OTHER)
    assert old.closed
    assert house.end(old) == "eof"
    assert house.take(KEY) is None
    assert house.take(OTHER) is new


def test_after_the_end_nothing_is_kept(house: House):
    transports = [house.idle(KEY), house.idle(OTHER)]
    transports.append(house.used())
    house.pool.close_all()
    house.pool.put(KEY, transports[-1])
    assert all(transport.closed for transport in transports)
    assert len(house.pool) == 0
    assert [house.end(transport) for transport in transports] == ["eof"] * 3


def test_a_unix_socket_is_pooled_too(house: House):
    near, far = socket.socketpair()
    transport = Transport(house.poller, house.reactor, near, Recorder())
    house.peers[transport] = Peer(far)
    house.pool.put(KEY, transport)
    assert house.take(KEY) is transport
    house.pool.put(KEY, transport)
    far.close()
    house.reactor.until(lambda: transport.closed)
