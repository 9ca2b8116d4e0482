"""Readiness: level-triggered, one bad connection at a time, and quiet about what nobody asked for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import pytest
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from gateway.net.poller import READ, WRITE, Poller
from tests.reactor import ManualReactor
from tests.wires import unix_pair


class Watcher:
    """Does what the test says; notes what it heard."""

    def __init__(
        self,
        readable: Callable[[], object] = lambda: None,
        writable: Callable[[], object] = lambda: None,
        bug: Callable[[], object] = lambda: None,
    ) -> None:
        self.heard: list[str] = []
        self._do = {"readable": readable, "writable": writable, "bug": bug}

    def _hear(self, what: str) -> None:
        self.heard.append(what)
        self._do[what]()

    def on_readable(self) -> None:
        self._hear("readable")

    def on_writable(self) -> None:
        self._hear("writable")

    def on_bug(self) -> None:
        self._hear("bug")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = unix_pair()
    near.setblocking(False)
    yield near, far
    near.close()
    far.close()


Pair = tuple[socket.socket, socket.socket]


def test_the_fakes_and_the_poller_are_what_twisted_wants(reactor, poller):
    assert verifyObject(IReactorFDSet, reactor)
    assert verifyObject(IReadDescriptor, poller)
    assert reactor.getReaders() == [poller]


def test_what_is_left_unread_is_told_again(reactor: ManualReactor, poller: Poller, pair: Pair):
    near, far = pair
    seen: list[bytes] = []
    watcher = Watcher(lambda: seen.append(near.recv(1)))
    poller.watch(near.fileno(), watcher, READ)
    far.send(b"abc")
    reactor.settle()
    assert seen == [b"a", b"b", b"c"]


def test_one_descriptor_that_is_always_ready_leaves_the_reactor_its_turn(
    reactor: ManualReactor, poller: Poller, pair: Pair
):
    watcher = Watcher()
    poller.watch(pair[0].fileno(), watcher, WRITE)
    reactor.turn()
    assert 0 < len(watcher.heard) < 100


def test_a_hang_up_behind_a_paused_descriptor_neither_spins_nor_loses_data(
    reactor: ManualReactor, poller: Poller, pair: Pair
):
    near, far = pair
    seen: list[bytes] = []
    watcher = Watcher(lambda: seen.append(near.recv(100)))
    poller.watch(near.fileno(), watcher, READ)
    poller.watch(near.fileno(), watcher, 0)
    far.send(b"last words")
    far.close()
    for _ in range(5):
        assert not reactor.turn()
    assert watcher.heard == []

    poller.watch(near.fileno(), watcher, READ)
    reactor.until(lambda: b"" in seen)
    assert seen[:2] == [b"last words", b""]


@pytest.mark.parametrize(("interest", "heard"), [(READ, {"readable"}), (WRITE, {"writable"})])
def test_a_hang_up_goes_to_whichever_side_waits(
    reactor: ManualReactor, poller: Poller, pair: Pair, interest: int, heard: set[str]
):
    near, far = pair
    watcher = Watcher()
    poller.watch(near.fileno(), watcher, interest)
    far.close()
    reactor.turn()
    assert set(watcher.heard) == heard


def test_an_error_alone_goes_to_who_reads(reactor: ManualReactor, poller: Poller):
    """The writing end of a pipe without a reader: an error, and nothing to read."""
    reading, writing = os.pipe()
    watcher = Watcher(bug=lambda: None)
    poller.watch(writing, watcher, READ)
    os.close(reading)
    reactor.turn()
    assert set(watcher.heard) == {"readable"}
    os.close(writing)


def test_who_stops_waiting_while_it_reads_is_not_told_to_write(reactor: ManualReactor, poller: Poller, pair: Pair):
    near, far = pair
    watcher = Watcher(lambda: poller.watch(near.fileno(), watcher, 0))
    poller.watch(near.fileno(), watcher, READ | WRITE)
    far.send(b"x")
    reactor.settle()
    assert watcher.heard == ["readable"]


class Bug(RuntimeError):
    pass


def _raise() -> None:
    raise Bug


def test_a_bug_ends_that_connection_only(reactor: ManualReactor, poller: Poller, pair: Pair):
    near, far = pair
    others = unix_pair()
    bad = Watcher(_raise, bug=lambda: poller.watch(near.fileno(), bad, 0))
    good = Watcher(lambda: others[0].recv(100))
    poller.watch(near.fileno(), bad, READ)
    poller.watch(others[0].fileno(), good, READ)
    far.send(b"x")
    others[1].send(b"x")
    reactor.settle()
    assert bad.heard == ["readable", "bug"]
    assert good.heard == ["readable"]
    assert poller in reactor.readers
    for sock in others:
        sock.close()


def test_a_bug_while_ending_a_connection_does_not_end_the_others(reactor: ManualReactor, poller: Poller, pair: Pair):
    """Raised out of doRead it would make the reactor drop the poller, and with it every connection."""
    bad = Watcher(_raise, bug=_raise)
    poller.watch(pair[0].fileno(), bad, READ)
    pair[1].send(b"x")
    reactor.settle()
    assert bad.heard == ["readable", "bug"]
    assert poller in reactor.readers


def test_a_number_used_again_within_a_batch_is_harmless(reactor: ManualReactor, poller: Poller):
    """Both are ready; the first to be told closes the other and opens a connection that gets its number."""
    first, second = unix_pair(), unix_pair()
    fresh = Watcher()
    opened: list[socket.socket] = []
    spare = unix_pair()

    def swap(own: socket.socket, other: socket.socket) -> None:
        poller.watch(own.fileno(), who[own], 0)
        number = other.fileno()
        poller.watch(number, who[other], 0)
        os.dup2(spare[0].fileno(), number)
        opened.append(other)
        poller.watch(number, fresh, READ)

    who = {
        first[0]: Watcher(lambda: swap(first[0], second[0])),
        second[0]: Watcher(lambda: swap(second[0], first[0])),
    }
    for pair in (first, second):
        poller.watch(pair[0].fileno(), who[pair[0]], READ)
        pair[1].send(b"x")
    reactor.settle()
    # A stale word is possible (whoever hears it finds nothing to read), but never for the old owner.
    assert [watcher.heard for watcher in who.values()].count(["readable"]) == 1
    assert [watcher.heard for watcher in who.values()].count([]) == 1
    assert len(fresh.heard) <= 1

    fresh.heard.clear()
    fresh._do["readable"] = lambda: opened[0].recv(10)
    spare[1].send(b"for the new one")
    reactor.settle()
    assert fresh.heard
    for sock in (*first, *second, *spare):
        sock.close()


def test_a_descriptor_that_cannot_be_watched_is_not_remembered(poller: Poller, tmp_path):
    """Regular files are refused by epoll, as everything is when there are too many watches."""
    with (tmp_path / "file").open("wb") as file:
        watcher = Watcher()
        with pytest.raises(PermissionError):
            poller.watch(file.fileno(), watcher, READ)
        poller.watch(file.fileno(), watcher, 0)


def test_closed_by_whom_it_tells(reactor: ManualReactor, poller: Poller, pair: Pair):
    watcher = Watcher(poller.close)
    poller.watch(pair[0].fileno(), watcher, READ)
    pair[1].send(b"x")
    reactor.settle()
    assert watcher.heard == ["readable"]
    assert reactor.getReaders() == []
    poller.watch(pair[0].fileno(), watcher, 0)


def test_the_reactor_closes_it(reactor: ManualReactor, poller: Poller):
    poller.connectionLost(Failure(Bug()))
    poller.close()
    assert reactor.getReaders() == []
