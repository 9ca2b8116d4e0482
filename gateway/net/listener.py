"""Accepting connections: bound sockets, and what to do when there is no room for one more.

Owns the listening sockets. A failed bind raises at once, before anything runs.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from gateway.net.dial import keep_alive
from gateway.net.poller import READ, Poller
from gateway.upstream import Address

_BACKLOG = 1024
# Connections taken from the kernel before others get their turn: each costs a handshake soon.
_AT_ONCE = 32
# Without a free descriptor the backlog waits; asking again at once would only spin.
_PAUSE_SECONDS = 0.2
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def bind(address: Address) -> list[socket.socket]:
    """Listening sockets for `host:port`, every interface (`*`), or the path of a Unix socket. Raises OSError."""
    if not address.port:
        return [_bind_unix(Path(address.host))]
    if address.host == "*":
        return [_bind_all(address.port)]
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, where in dict.fromkeys((entry[0], entry[4]) for entry in found):
            sockets.append(_bind(family, where))
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind_all(port: int) -> socket.socket:
    try:
        return _bind(socket.AF_INET6, ("::", port), both=True)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        return _bind(socket.AF_INET, ("0.0.0.0", port))  # noqa: S104 - asked for by name


def _bind(family: int, where: Any, both: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not both))
        sock.bind(where)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(path: Path) -> socket.socket:
    """A socket left over by a dead process is replaced; one that may have an owner is not."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)  # a full backlog would make this wait
                if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
                    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            path.unlink()
        sock.bind(str(path))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


class Listener:
    """Tells `accepted(socket, peer)` of each connection, from `start` to `stop`."""

    _log = Logger()

    def __init__(
        self, reactor: Any, poller: Poller, sock: socket.socket, accepted: Callable[[socket.socket, Address], None]
    ) -> None:
        sock.setblocking(False)
        self._reactor, self._poller, self._sock, self._accepted = reactor, poller, sock, accepted
        self._pause: Any = None

    def start(self) -> None:
        self._pause = None
        self._poller.watch(self._sock.fileno(), self, READ)

    def stop(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._poller.watch(self._sock.fileno(), self, 0)
        self._sock.close()

    def on_readable(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, peer = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._rest(error)
                    return
                continue  # that one client gave up before it was accepted (accept(2), "Error handling")
            self._welcome(sock, peer)

    def _welcome(self, sock: socket.socket, peer: Any) -> None:
        try:
            keep_alive(sock)
        except OSError:
            sock.close()
            return
        if sock.family == socket.AF_UNIX:
            self._accepted(sock, Address("", 0))
        else:
            self._accepted(sock, Address(peer[0].removeprefix("::ffff:") if "." in peer[0] else peer[0], peer[1]))

    def _rest(self, error: OSError) -> None:
        self._log.error("cannot accept: {error}; trying again soon", error=error.strerror)
        self._poller.watch(self._sock.fileno(), self, 0)
        self._pause = self._reactor.callLater(_PAUSE_SECONDS, self.start)

    def on_writable(self) -> None:
        """Only readability is asked for."""

    def on_bug(self) -> None:
        """The connection at fault is gone; go on accepting."""
