"""All live connections of the process: their limits, their idle check, and the end of all of them.

Owns the counters and the set of drivers.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from gateway.audit import Audit
from gateway.limits import Count, Rate, whose
from gateway.net.door import Door
from gateway.net.driver import Driver
from gateway.net.poller import Poller
from gateway.net.pool import Pool
from gateway.upstream import Address

# Connections of a quiet door at a time. They come one by one, from this machine, and are soon answered.
MAX_QUIET = 16
# How often idle sessions are looked for; an idle timeout is kept to within this.
SWEEP_SECONDS = 1.0


def waiting_room(limit: int) -> int:
    """So many connections over a limit are heard, only to be told that there are too many."""
    return 16 + limit // 10


class Connections:
    """Implements `gateway.net.door.House`. Limits may be set anew at any time (a reload)."""

    _log = Logger()

    def __init__(self, reactor: Any, poller: Poller, audit: Audit, now: Callable[[], float] = time.time) -> None:
        self.reactor, self.poller, self.now = reactor, poller, now
        self.pool = Pool(reactor.seconds)
        self._audit = audit
        self.limit = 0
        self.subjects = Count(0)
        self._turned_away = Rate(0.1)
        self.addresses = Count(0)
        self._drivers: set[Driver] = set()
        # Those of a quiet door, the oldest first. Not among the others: a gateway that is full can still be asked how
        # it is.
        self._quiet: dict[Driver, None] = {}
        # Those over a limit, the oldest first: they take no room from others.
        self._waiting: dict[Driver, None] = {}
        # Those that have proven nothing yet, the oldest first.
        self._opening: dict[Driver, None] = {}
        self._numbers = itertools.count(1)
        self._empty: Deferred[None] | None = None
        self._sweep = LoopingCall(self._check_idle)
        self._sweep.clock = reactor

    def __len__(self) -> int:
        return len(self._drivers)

    def start(self) -> None:
        self._sweep.start(SWEEP_SECONDS, now=False)

    def open(self, door: Door, sock: socket.socket, peer: Address) -> None:
        """Take a connection; or, far over the limit, close it unheard."""
        if door.quiet:
            self._open_quiet(door, sock, peer)
            return
        if len(self._drivers) - len(self._waiting) >= self.limit + self._waiting_room():
            sock.close()
            if self._turned_away.allow("", self.now()):
                self._log.warn("[limits] max_connections: far too many connections, some are closed unheard")
            return
        driver = Driver(self, door, next(self._numbers), sock, peer)
        self._drivers.add(driver)
        driver.start()

    def _open_quiet(self, door: Door, sock: socket.socket, peer: Address) -> None:
        if len(self._quiet) >= MAX_QUIET:
            next(iter(self._quiet)).give_way()
        driver = Driver(self, door, next(self._numbers), sock, peer)
        self._quiet[driver] = None
        driver.start()

    def _waiting_room(self) -> int:
        return waiting_room(self.limit)

    def _check_idle(self) -> None:
        for driver in tuple(self._drivers):
            driver.check_idle()
        self.pool.sweep()

    # --- House ------------------------------------------------------------------------------------------------------

    def welcome(self, driver: Driver, address: str) -> bool:
        if driver in self._quiet:
            return True
        client = whose(address)
        if self.addresses.take(client):
            if self._has_room():
                driver.address = client
                self._opening[driver] = None
                return True
            self.addresses.free(client)
        if len(self._waiting) >= self._waiting_room():
            next(iter(self._waiting)).give_way()
        self._waiting[driver] = None
        return False

    def _has_room(self) -> bool:
        """Nobody can keep others out with connections that prove nothing: when it is full, the oldest gives way."""
        if len(self._drivers) - len(self._waiting) <= self.limit:
            return True
        if not self._opening:
            return False
        next(iter(self._opening)).give_way()
        return True

    def opened(self, driver: Driver) -> None:
        self._opening.pop(driver, None)

    def admit(self, driver: Driver, subject: str) -> bool:
        if not self.subjects.take(subject):
            return False
        driver.subject = subject
        return True

    def farewell(self, driver: Driver) -> None:
        self._drivers.discard(driver)
        self._quiet.pop(driver, None)
        self._waiting.pop(driver, None)
        self._opening.pop(driver, None)
        if driver.address is not None:
            self.addresses.free(driver.address)
        if driver.subject is not None:
            self.subjects.free(driver.subject)
        self._look_if_empty()

    def write_audit(self, line: str) -> None:
        self._audit.write(line)

    # --- the end ----------------------------------------------------------------------------------------------------

    def drain(self) -> Deferred[None]:
        """Ask every session to end; fires when the last one has. Each has its own grace period."""
        if self._sweep.running:
            self._sweep.stop()
        done: Deferred[None] = Deferred()
        self._empty = done
        for driver in (*self._drivers, *self._quiet):
            driver.shut_down()
        self._look_if_empty()
        return done

    def _look_if_empty(self) -> None:
        if self._empty is not None and not (self._drivers or self._quiet):
            empty, self._empty = self._empty, None
            empty.callback(None)
