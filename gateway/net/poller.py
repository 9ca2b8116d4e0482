"""One epoll of our own inside Twisted's reactor: readiness of all our sockets, a batch per wake-up.

Twisted's reactor sees a single reader, this one; the cost that it adds to each event of each descriptor (a logging
context, a validity check, a registration table) is then paid once for a batch. Linux only, as is epoll.
"""

from __future__ import annotations

import select
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
# Rounds before the reactor gets its turn again for timers and signals.
_ROUNDS = 16
_BATCH = 256


class Pollable(Protocol):
    """What is told of its readiness. Both are called on errors too, where that readiness was asked for."""

    def on_readable(self) -> None: ...

    def on_writable(self) -> None: ...

    def on_bug(self) -> None:
        """One of the above raised what it should not have: end, at once."""


@implementer(IReadDescriptor)
class Poller:
    """Level-triggered. A descriptor with no interest is not registered at all, so that a hang-up behind it waits."""

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[Pollable, int]] = {}
        self._reactor = IReactorFDSet(reactor)
        self._reactor.addReader(self)

    def watch(self, fd: int, who: Pollable, interest: int) -> None:
        """From now on tell `who` of this readiness of `fd` (READ, WRITE, both, or 0 for none)."""
        known = self._watched.get(fd)
        if not interest:
            if known:
                del self._watched[fd]
                self._epoll.unregister(fd)
            return
        if known:
            self._epoll.modify(fd, interest)
        else:
            self._epoll.register(fd, interest)
        self._watched[fd] = (who, interest)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def doRead(self) -> None:
        watched = self._watched
        for _ in range(_ROUNDS):
            events = self._epoll.poll(0, _BATCH)
            if not events:
                return
            for fd, ready in events:
                found = watched.get(fd)
                if found is None:
                    continue
                who, interest = found
                try:
                    # A hang-up or an error goes to whichever side is waiting.
                    if interest & READ and ready & ~WRITE:
                        who.on_readable()
                    if interest & WRITE and ready & ~READ and watched.get(fd) is found:
                        who.on_writable()
                except Exception:  # noqa: BLE001 - fail closed, whatever it is
                    self._log.failure("a bug ended one connection")
                    self._end(fd, who)
            if self._epoll.closed:
                return

    def _end(self, fd: int, who: Pollable) -> None:
        """What is raised out of `doRead` would make the reactor drop all connections."""
        try:
            who.on_bug()
        except Exception:  # noqa: BLE001 - see above
            self._log.failure("a bug in ending a connection")
            self.watch(fd, who, 0)

    def logPrefix(self) -> str:
        return "gateway"

    def connectionLost(self, _: Failure) -> None:
        self.close()

    def close(self) -> None:
        if not self._epoll.closed:
            self._reactor.removeReader(self)
            self._epoll.close()
            self._watched.clear()
