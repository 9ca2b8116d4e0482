"""Connecting to an address without waiting: name look-up off the reactor thread, each address of a name in turn.

Owns the sockets until they are connected, and the threads that look names up. The last address has no deadline of its
own: the caller cancels.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from functools import cache
from threading import Thread
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from gateway.net.poller import WRITE, Poller
from gateway.upstream import Address, is_ip

# What an address of a name gets at least; across the world TCP connects in less.
MIN_SHARE = 1.0


class _Unawaited(Thread):
    """Ends with the process: a resolver that hangs must not hold that up, as in the reactor's own pool it would."""

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(*values, **named, daemon=True)


class _Resolvers(ThreadPool):
    threadFactory = _Unawaited  # noqa: N815 - ThreadPool's name for it


@cache
def resolvers() -> ThreadPool:
    """Made when first needed: after twistd has become a daemon. As many threads as the reactor's own pool has."""
    pool = _Resolvers(0, 10, "resolvers")
    pool.start()
    return pool


def keep_alive(sock: socket.socket) -> None:
    """No waiting for more to send, and a peer that vanished without a word is noticed within two minutes."""
    if sock.family == socket.AF_UNIX:
        return
    for level, option, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6),
    ):
        sock.setsockopt(level, option, value)


class Dial:
    """One attempt to reach `address`: exactly one of `connected(socket)` and `failed(reason)`, unless cancelled.

    seconds: what the caller gives it, after which it cancels. Each address of a name gets its share of that, so that a
    dead one does not use up the time of the others.
    """

    def __init__(
        self,
        reactor: Any,
        poller: Poller,
        address: Address,
        connected: Callable[[socket.socket], None],
        failed: Callable[[str], None],
        seconds: float,
    ) -> None:
        self._reactor, self._poller, self._connected, self._failed = reactor, poller, connected, failed
        self._share = seconds
        self._timer: Any = None
        self._sock: socket.socket | None = None
        self._cancelled = False
        self._candidates: list[tuple[int, Any]] = []
        if not address.port:
            self._candidates = [(socket.AF_UNIX, address.host)]
            reactor.callLater(0, self._next, "")
        elif is_ip(address.host):
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            self._candidates = [(family, (address.host, address.port))]
            reactor.callLater(0, self._next, "")
        else:
            found: Deferred[Any] = deferToThreadPool(
                reactor,
                resolvers(),
                socket.getaddrinfo,
                address.host,
                address.port,
                type=socket.SOCK_STREAM,
            )
            found.addCallbacks(self._resolved, self._unresolved)

    def cancel(self) -> None:
        """Give up; nothing is told any more."""
        self._cancelled = True
        self._drop()

    def _resolved(self, found: list[tuple[Any, ...]]) -> None:
        self._candidates = list(dict.fromkeys((entry[0], entry[4]) for entry in found))
        self._share = max(self._share / max(len(self._candidates), 1), MIN_SHARE)
        self._next("the name has no address")

    def _unresolved(self, failure: Failure) -> None:
        if not self._cancelled:
            self._failed(f"the name cannot be resolved: {failure.getErrorMessage()}")

    def _next(self, reason: str) -> None:
        if self._cancelled:
            return
        if not self._candidates:
            self._failed(reason)
            return
        family, where = self._candidates.pop(0)
        try:
            self._sock = sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            keep_alive(sock)
            sock.connect(where)
        except OSError as error:
            # EAGAIN, which Python takes for the same, says that a Unix socket's backlog is full (connect(2)).
            if error.errno == errno.EINPROGRESS:
                self._poller.watch(sock.fileno(), self, WRITE)
                if self._candidates:
                    self._timer = self._reactor.callLater(self._share, self._too_slow)
                return
            self._drop()
            self._next(error.strerror or str(error))
        else:
            self._done()

    def _too_slow(self) -> None:
        self._timer = None
        self._drop()
        self._next(os.strerror(errno.ETIMEDOUT))

    def on_readable(self) -> None:
        """Only writability is asked for."""

    def on_writable(self) -> None:
        assert self._sock is not None  # it is what the poller watches
        error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._drop()
            self._next(os.strerror(error))
        elif _is_connected(self._sock):
            self._done()

    def on_bug(self) -> None:
        self._drop()

    def _done(self) -> None:
        sock, self._sock = self._sock, None
        assert sock is not None  # _next made it
        self._stop_timer()
        self._poller.watch(sock.fileno(), self, 0)
        self._connected(sock)

    def _drop(self) -> None:
        self._stop_timer()
        if self._sock is not None:
            self._poller.watch(self._sock.fileno(), self, 0)
            self._sock.close()
            self._sock = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _is_connected(sock: socket.socket) -> bool:
    """The event may have been meant for another socket that had this number a moment ago."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
