"""One blocking connection to an upstream, plain or with TLS as the gateway has it, under one deadline.

Owns its socket. Refuses to wait longer than it was told to, whatever the other end does.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

from OpenSSL import SSL

from gateway.certs import ClientContext, handshake_failure, tls_facts
from gateway.errors import UpstreamError
from gateway.session.vocabulary import TLSFacts
from gateway.upstream import Address

T = TypeVar("T")

_SIZE: Final = 65_536
_CLOSED: Final = "it has closed the connection"


class Contact:
    """seconds: for all that is done with it. Everything raises UpstreamError or OSError, TimeoutError among them.

    Only a name is looked up without that deadline: the system's resolver has one of its own.
    """

    def __init__(self, address: Address, seconds: float) -> None:
        self._address, self._ends = address, time.monotonic() + seconds
        self._tls: SSL.Connection | None = None
        self._socket = _connected(address, self._ends)
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()

    def secure(self, context: ClientContext) -> TLSFacts:
        self._tls = tls = context.connection(self._socket, self._address.host)
        self._patiently(tls.do_handshake)
        context.verify(tls, self._address.host)
        return tls_facts(tls)

    def send(self, data: bytes) -> None:
        while data:
            data = data[self._patiently(partial(self._end.send, data), writing=True) :]

    def receive(self) -> bytes:
        """Some bytes."""
        data = self._patiently(partial(self._end.recv, _SIZE))
        if not data:
            raise UpstreamError(_CLOSED)
        return data

    @property
    def _end(self) -> SSL.Connection | socket.socket:
        return self._tls if self._tls is not None else self._socket

    def _patiently(self, act: Callable[[], T], *, writing: bool = False) -> T:
        """writing: what a plain socket waits for; TLS says it itself."""
        while True:
            try:
                return act()
            except SSL.WantReadError:
                self._wait(select.POLLIN)
            except SSL.WantWriteError:
                self._wait(select.POLLOUT)
            except BlockingIOError:
                self._wait(select.POLLOUT if writing else select.POLLIN)
            except SSL.Error as error:
                raise UpstreamError(self._why(error)) from None

    def _why(self, error: SSL.Error) -> str:
        """An alert may come at any time: with TLS 1.3 the one about our certificate, behind the handshake."""
        assert self._tls is not None  # nothing else raises that
        if isinstance(error, SSL.ZeroReturnError):
            return _CLOSED
        if isinstance(error, SSL.SysCallError):
            return "the connection was cut"
        return f"TLS: {handshake_failure(self._tls, error)}"

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self._socket, event)
        if not poll.poll(_left(self._ends) * 1000):
            raise TimeoutError


def _left(ends: float) -> float:
    """Seconds. Raises TimeoutError if there are none."""
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _connected(address: Address, ends: float) -> socket.socket:
    """To the first place of that name where somebody answers; all of them share the time. Raises OSError."""
    failed = OSError("the name has no address")
    for family, where in _places(address):
        sock = socket.socket(family)
        try:
            sock.settimeout(_left(ends))
            sock.connect(where)
        except OSError as error:
            sock.close()
            failed = error
        else:
            return sock
    raise failed


def _places(address: Address) -> list[tuple[int, Any]]:
    if not address.port:
        return [(socket.AF_UNIX, address.host)]
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return [(family, where) for family, *_, where in found]
