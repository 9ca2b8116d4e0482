"""Listening: all or nothing at the start, and nothing that a client does stops it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.net import listener
from gateway.net.listener import Listener, bind
from gateway.net.poller import READ, Poller
from gateway.upstream import Address
from tests.reactor import ManualReactor
from tests.servers import free_port
from tests.wires import no_new_descriptors

# What is freed without having been closed is said to nobody else.
pytestmark = pytest.mark.filterwarnings("error::ResourceWarning")


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """None may be left open, whatever failed."""
    with no_new_descriptors():
        yield


def resolves(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    def getaddrinfo(_: str, port: int, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


# --- binding -------------------------------------------------------------------------------------------------------


def test_an_address():
    port = free_port()
    (sock,) = bind(Address("127.0.0.1", port))
    with sock, socket.create_connection(("127.0.0.1", port)):
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


def test_an_address_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use"):
        bind(Address(*other.getsockname()))


def test_a_name_binds_all_of_its_addresses_once(monkeypatch: pytest.MonkeyPatch):
    resolves(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.1")
    sockets = bind(Address("both.example.org", free_port()))
    assert sorted(sock.getsockname()[0] for sock in sockets) == ["127.0.0.1", "127.0.0.2"]
    for sock in sockets:
        sock.close()


def test_one_address_that_fails_frees_the_others(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.2", 0)) as other:
        port = other.getsockname()[1]
        resolves(monkeypatch, "127.0.0.1", "127.0.0.2")
        with pytest.raises(OSError, match="in use"):
            bind(Address("both.example.org", port))
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_a_name_that_is_not_known(monkeypatch: pytest.MonkeyPatch):
    def getaddrinfo(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(OSError, match="not known"):
        bind(Address("nowhere.invalid", 5432))


def test_a_star_is_every_interface():
    port = free_port()
    (sock,) = bind(Address("*", port))
    with sock, socket.create_connection(("127.0.0.1", port)):
        pass


def test_a_star_without_ipv6(monkeypatch: pytest.MonkeyPatch):
    real = socket.socket

    def no_ipv6(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return real(family, kind)

    port = free_port()
    monkeypatch.setattr(socket, "socket", no_ipv6)
    (sock,) = bind(Address("*", port))
    monkeypatch.undo()
    with sock:
        assert sock.getsockname() == ("0.0.0.0", port)


def test_a_star_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use"):
        bind(Address("*", other.getsockname()[1]))


def test_an_ipv6_address_is_not_also_ipv4():
    port = free_port()
    try:
        (sock,) = bind(Address("::", port))
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        pytest.skip("no IPv6")
    with sock:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


# --- Unix sockets --------------------------------------------------------------------------------------------------


def test_a_unix_socket(tmp_path: Path):
    (sock,) = bind(Address(str(tmp_path / "s"), 0))
    with sock, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))


def test_a_socket_left_by_the_dead_is_replaced(tmp_path: Path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    (sock,) = bind(Address(path, 0))
    with sock, socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


@pytest.mark.parametrize("busy", [False, True])
def test_a_socket_of_the_living_is_not_taken(tmp_path: Path, busy: bool):
    """Not even when it is too busy to answer, where a connection attempt would wait."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as client:
        living.bind(path)
        living.listen(0)
        if busy:
            client.connect(path)
        with pytest.raises(OSError, match="in use"):
            bind(Address(path, 0))
        assert (tmp_path / "s").is_socket()


def test_a_file_in_the_way_stays(tmp_path: Path):
    (tmp_path / "s").write_text("precious")
    with pytest.raises(OSError, match="in use"):
        bind(Address(str(tmp_path / "s"), 0))
    assert (tmp_path / "s").read_text() == "precious"


# --- accepting -----------------------------------------------------------------------------------------------------

Accepted = list[tuple[socket.socket, Address]]


class Scripted:
    """A listening socket whose `accept` does what the test says."""

    def __init__(self, *results: Any) -> None:
        self.results = list(results)
        self.closed = False

    def setblocking(self, _: bool) -> None:
        pass

    def fileno(self) -> int:
        return 1_000_000

    def close(self) -> None:
        self.closed = True

    def accept(self) -> Any:
        if not self.results:
            raise BlockingIOError
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result


class Noted:
    """A poller that notes what is watched."""

    def __init__(self) -> None:
        self.interest = 0

    def watch(self, fd: int, who: Any, interest: int) -> None:
        self.interest = interest


def scripted(reactor: ManualReactor, *results: Any, told: Callable[[Any, Address], None] | None = None) -> Any:
    poller: Any = Noted()
    sock: Any = Scripted(*results)
    accepted: list[Any] = []
    one = Listener(reactor, poller, sock, told or (lambda *both: accepted.append(both)))
    one.start()
    return one, poller, sock, accepted


def test_clients_are_told_with_their_address(reactor: ManualReactor, poller: Poller):
    (sock,) = bind(Address("127.0.0.1", free_port()))
    accepted: Accepted = []
    one = Listener(reactor, poller, sock, lambda *both: accepted.append(both))
    one.start()
    clients = [socket.create_connection(sock.getsockname()) for _ in range(40)]
    reactor.until(lambda: len(accepted) == 40)
    assert {(peer.host, peer.port) for _, peer in accepted} == {client.getsockname() for client in clients}
    assert accepted[0][0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    one.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", clients[0].getpeername()[1]))
    for client in (*clients, *(sock for sock, _ in accepted)):
        client.close()


def test_an_ipv4_client_of_an_ipv6_socket_keeps_its_ipv4_address(reactor: ManualReactor, poller: Poller):
    """Else no rule for its network would fit it."""
    port = free_port()
    (sock,) = bind(Address("*", port))
    if sock.family != socket.AF_INET6:
        sock.close()
        pytest.skip("no IPv6")
    accepted: Accepted = []
    one = Listener(reactor, poller, sock, lambda *both: accepted.append(both))
    one.start()
    with socket.create_connection(("127.0.0.1", port)) as client:
        reactor.until(lambda: accepted)
        assert accepted[0][1] == Address(*client.getsockname())
    accepted[0][0].close()
    one.stop()


def test_a_client_of_a_unix_socket_has_no_address(reactor: ManualReactor, poller: Poller, tmp_path: Path):
    (sock,) = bind(Address(str(tmp_path / "s"), 0))
    accepted: Accepted = []
    one = Listener(reactor, poller, sock, lambda *both: accepted.append(both))
    one.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        reactor.until(lambda: accepted)
    assert accepted[0][1] == Address("", 0)
    accepted[0][0].close()
    one.stop()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_without_a_free_descriptor_it_rests_and_recovers(reactor: ManualReactor, error: int):
    """Asking again at once would spin; not asking again would be deaf for ever."""
    near, far = socket.socketpair()
    one, poller, _, accepted = scripted(reactor, OSError(error, "no room"), (near, ""))
    one.on_readable()
    assert poller.interest == 0
    assert accepted == []
    reactor.advance(1)
    assert poller.interest == READ
    one.on_readable()
    assert len(accepted) == 1
    near.close()
    far.close()


def test_stopped_while_it_rests(reactor: ManualReactor):
    one, poller, sock, _ = scripted(reactor, OSError(errno.EMFILE, "no room"))
    one.on_readable()
    one.stop()
    reactor.advance(1)
    assert poller.interest == 0
    assert sock.closed


def test_a_client_that_gave_up_does_not_stop_the_others(reactor: ManualReactor):
    near, far = socket.socketpair()
    one, poller, _, accepted = scripted(reactor, ConnectionAbortedError(errno.ECONNABORTED, "gone"), (near, ""))
    one.on_readable()
    assert len(accepted) == 1
    assert poller.interest == READ
    near.close()
    far.close()


def test_others_get_their_turn(reactor: ManualReactor):
    one, _, sock, _ = scripted(reactor, *[OSError(errno.ECONNABORTED, "gone")] * 1000)
    one.on_readable()
    assert len(sock.results) > 900


def test_a_client_whose_socket_takes_no_options_is_closed(reactor: ManualReactor, monkeypatch: pytest.MonkeyPatch):
    def broken(_: socket.socket) -> None:
        raise OSError(errno.EINVAL, "it was reset")

    near, far = socket.socketpair()
    monkeypatch.setattr(listener, "keep_alive", broken)
    one, _, _, accepted = scripted(reactor, (near, ""))
    one.on_readable()
    assert accepted == []
    assert near.fileno() == -1
    far.close()


def test_a_bug_with_one_client_leaves_it_open_for_the_next(reactor: ManualReactor, poller: Poller):
    (sock,) = bind(Address("127.0.0.1", free_port()))
    accepted: Accepted = []

    def told(client: socket.socket, peer: Address) -> None:
        accepted.append((client, peer))
        if len(accepted) == 1:
            raise RuntimeError

    one = Listener(reactor, poller, sock, told)
    one.start()
    first = socket.create_connection(sock.getsockname())
    reactor.until(lambda: len(accepted) == 1)
    second = socket.create_connection(sock.getsockname())
    reactor.until(lambda: len(accepted) == 2)
    one.stop()
    for client in (first, second, *(client for client, _ in accepted)):
        client.close()
