"""Connecting: one answer to each attempt, each address of a name in turn, and no socket left behind."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.net.dial import Dial, keep_alive
from gateway.net.poller import WRITE, Poller
from gateway.upstream import Address
from tests.reactor import ManualReactor
from tests.servers import free_port
from tests.wires import no_new_descriptors, unix_pair


class Caller:
    def __init__(self, reactor: ManualReactor, poller: Poller) -> None:
        self.reactor, self.poller = reactor, poller
        self.sockets: list[socket.socket] = []
        self.reasons: list[str] = []
        self.attempts: list[Dial] = []

    def dial(self, host: str, port: int, seconds: float = 10.0) -> Dial:
        # Held until the end: being freed must not be what closes its sockets.
        told = self.sockets.append, self.reasons.append
        self.attempts.append(Dial(self.reactor, self.poller, Address(host, port), *told, seconds))
        return self.attempts[-1]

    def wait(self) -> None:
        self.reactor.run_threads()
        self.reactor.until(lambda: self.sockets or self.reasons, lambda: self.reactor.advance(0))
        assert len(self.sockets) + len(self.reasons) == 1

    def never(self) -> None:
        self.reactor.run_threads()
        self.reactor.advance(1)
        self.reactor.turn(0.02)
        self.reactor.settle()
        assert not self.sockets
        assert not self.reasons


@pytest.fixture
def caller(reactor: ManualReactor, poller: Poller) -> Iterator[Caller]:
    with no_new_descriptors():
        caller = Caller(reactor, poller)
        yield caller
        for sock in caller.sockets:
            sock.close()
    assert not reactor.getDelayedCalls()
    assert not poller._watched


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        # Made before the caller counts its descriptors.
        yield server


def resolves(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, int]) -> None:
    def getaddrinfo(host: str, port: int, *, type: int) -> list[object]:  # noqa: A002 - its name there
        return [(socket.AF_INET, type, 6, "", one) for one in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_an_address(server: socket.socket, caller: Caller):
    caller.dial(*server.getsockname())
    assert not caller.sockets  # never before the caller has heard which attempt this is
    caller.wait()
    (sock,) = caller.sockets
    assert sock.getpeername() == server.getsockname()
    assert not sock.getblocking()
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_an_ipv6_address(caller: Caller):
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6")
    with server:
        caller.dial("::1", server.getsockname()[1])
        caller.wait()
        assert caller.sockets[0].family == socket.AF_INET6


def test_refused(caller: Caller):
    caller.dial("127.0.0.1", free_port())
    caller.wait()
    assert caller.reasons == ["Connection refused"]


def test_a_name_is_looked_up_off_the_reactor_thread(
    server: socket.socket, caller: Caller, monkeypatch: pytest.MonkeyPatch
):
    resolves(monkeypatch, server.getsockname())
    caller.dial("db.example.org", 5432)
    assert len(caller.reactor.threads.jobs) == 1
    caller.wait()
    assert caller.sockets


def test_every_address_of_a_name_in_turn(server: socket.socket, caller: Caller, monkeypatch: pytest.MonkeyPatch):
    resolves(monkeypatch, ("127.0.0.1", free_port()), ("127.0.0.1", free_port()), server.getsockname())
    caller.dial("db.example.org", 5432)
    caller.wait()
    assert caller.sockets[0].getpeername() == server.getsockname()


def test_the_reason_is_the_last_addresss(caller: Caller, monkeypatch: pytest.MonkeyPatch):
    resolves(monkeypatch, ("127.0.0.1", free_port()), ("127.0.0.1", free_port()))
    caller.dial("db.example.org", 5432)
    caller.wait()
    assert caller.reasons == ["Connection refused"]


@pytest.fixture
def dead() -> Iterator[tuple[str, int]]:
    """An address that never answers: a listener whose backlog is full drops what comes."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield full.getsockname()
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize(("seconds", "share"), [(12, 4), (1.5, 1)])
def test_a_dead_address_leaves_the_others_their_time(
    server: socket.socket,
    dead: tuple[str, int],
    caller: Caller,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    share: float,
):
    """A third of the time each, but at least a second."""
    resolves(monkeypatch, dead, ("127.0.0.1", free_port()), server.getsockname())
    caller.dial("db.example.org", 5432, seconds)
    caller.reactor.run_threads()
    caller.reactor.advance(share - 0.01)
    assert not caller.reactor.turn(0.02)
    caller.reactor.advance(0.01)
    caller.wait()
    assert caller.sockets[0].getpeername() == server.getsockname()


def test_the_last_address_has_all_the_time_that_is_left(
    dead: tuple[str, int], caller: Caller, monkeypatch: pytest.MonkeyPatch
):
    resolves(monkeypatch, ("127.0.0.1", free_port()), dead)
    attempt = caller.dial("db.example.org", 5432)
    caller.reactor.run_threads()
    caller.reactor.until(lambda: len(attempt._candidates) == 0)
    caller.reactor.advance(1000)
    assert not caller.reasons
    attempt.cancel()


def test_cancelled_during_an_addresss_share(
    server: socket.socket, dead: tuple[str, int], caller: Caller, monkeypatch: pytest.MonkeyPatch
):
    resolves(monkeypatch, dead, server.getsockname())
    attempt = caller.dial("db.example.org", 5432)
    caller.reactor.run_threads()
    assert caller.reactor.getDelayedCalls()
    attempt.cancel()
    caller.reactor.advance(100)
    caller.never()


def test_a_resolver_that_hangs_does_not_hold_up_the_end():
    program = """
import socket, time
from twisted.internet import reactor
from gateway.net.dial import Dial
from gateway.upstream import Address
def getaddrinfo(*_, **__):
    reactor.callFromThread(reactor.stop)
    time.sleep(60)
socket.getaddrinfo = getaddrinfo
reactor.callWhenRunning(Dial, reactor, None, Address("db.example.org", 1), print, print, 10.0)
reactor.run()
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=30, check=True, capture_output=True)
    assert done.stdout + done.stderr == b""


def test_a_name_that_is_not_known(caller: Caller, monkeypatch: pytest.MonkeyPatch):
    def getaddrinfo(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    caller.dial("nowhere.invalid", 5432)
    caller.wait()
    assert caller.reasons[0].startswith("the name cannot be resolved: ")
    assert "not known" in caller.reasons[0]


def test_a_name_that_has_no_address(caller: Caller, monkeypatch: pytest.MonkeyPatch):
    resolves(monkeypatch)
    caller.dial("nowhere.example.org", 5432)
    caller.wait()
    assert caller.reasons == ["the name has no address"]


def test_a_name_that_no_resolver_takes(caller: Caller):
    caller.dial("a" * 64 + ".example.org", 5432)
    caller.wait()
    assert caller.reasons[0].startswith("the name cannot be resolved: ")


# --- Unix sockets --------------------------------------------------------------------------------------------------


def test_a_unix_socket(caller: Caller, tmp_path: Path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        caller.dial(path, 0)
        caller.wait()
        assert caller.sockets[0].getpeername() == path


def test_a_unix_socket_that_is_missing(caller: Caller, tmp_path: Path):
    caller.dial(str(tmp_path / "s"), 0)
    caller.wait()
    assert caller.reasons == ["No such file or directory"]


def test_a_unix_path_that_is_too_long(caller: Caller, tmp_path: Path):
    caller.dial(str(tmp_path / ("s" * 120)), 0)
    caller.wait()
    assert caller.reasons == ["AF_UNIX path too long"]


def test_a_unix_socket_with_a_full_backlog(caller: Caller, tmp_path: Path):
    """connect(2) answers EAGAIN: nothing is on its way, although the socket looks writable."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as waiting:
        server.bind(path)
        server.listen(0)
        waiting.connect(path)
        caller.dial(path, 0)
        caller.wait()
        assert caller.reasons == ["Resource temporarily unavailable"]


# --- giving up -----------------------------------------------------------------------------------------------------


def test_cancelled_before_it_began(server: socket.socket, caller: Caller):
    caller.dial(*server.getsockname()).cancel()
    caller.never()


def test_cancelled_while_connecting(server: socket.socket, caller: Caller):
    attempt = caller.dial(*server.getsockname())
    caller.reactor.advance(0)
    assert caller.poller._watched
    attempt.cancel()
    caller.never()


def test_cancelled_after_it_is_connected_leaves_the_socket_to_the_caller(server: socket.socket, caller: Caller):
    attempt = caller.dial(*server.getsockname())
    caller.wait()
    attempt.cancel()
    assert caller.sockets[0].getpeername() == server.getsockname()


@pytest.mark.parametrize("known", [True, False])
def test_cancelled_while_resolving(server: socket.socket, caller: Caller, monkeypatch: pytest.MonkeyPatch, known: bool):
    if known:
        resolves(monkeypatch, server.getsockname())
    caller.dial("a" * 64 + ".example.org", 5432).cancel()
    caller.never()


def test_an_event_for_another_socket_of_the_same_number(dead: tuple[str, int], caller: Caller):
    """It was in the batch already when that one was closed. It says nothing about this one."""
    attempt = caller.dial(*dead)
    caller.reactor.advance(0)
    (watched,) = caller.poller._watched.values()
    assert watched == (attempt, WRITE)
    attempt.on_writable()
    assert not caller.sockets
    assert not caller.reasons
    attempt.cancel()


def test_a_bug_leaves_nothing(server: socket.socket, caller: Caller):
    attempt = caller.dial(*server.getsockname())
    caller.reactor.advance(0)
    attempt.on_readable()
    attempt.on_bug()
    caller.never()


def test_a_unix_socket_is_kept_alive_by_nobody():
    for sock in unix_pair():
        keep_alive(sock)
        sock.close()
