"""All live connections of the process: their limits, their idle check, what is told of them, and how they end.

Owns the counters and the set of drivers.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from gateway.audit import Audit
from gateway.limits import Count, Rate, whose
from gateway.net.door import Door
from gateway.net.driver import Driver
from gateway.net.live import Live, Stage
from gateway.net.poller import Poller
from gateway.net.pool import Pool
from gateway.upstream import Address

# Connections of a quiet door at a time. They come one by one, from this machine, and are soon answered.
MAX_QUIET = 16
# How often idle sessions are looked for; an idle timeout is kept to within this.
SWEEP_SECONDS = 1.0
# After a reload every connection is asked whether it may stay, which takes OpenSSL some 0.3 ms where there is a
# certificate. For so long at a time; then it is others' turn.
SLICE_SECONDS = 0.02


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
        # Those that have not been told of the latest reload yet.
        self._untold: deque[Driver] = deque()
        self._killed = self._unheard = self._accepted = 0
        self._empty: Deferred[None] | None = None
        self.draining = False
        self._sweep = LoopingCall(self._check_idle)
        self._sweep.clock = reactor

    def __len__(self) -> int:
        return len(self._drivers)

    def start(self) -> None:
        self._sweep.start(SWEEP_SECONDS, now=False)

    def open(self, door: Door, sock: socket.socket, peer: Address, *, as_client: bool = False) -> None:
        """Take a connection; or, far over the limit, close it unheard. as_client: the peer is the
        client itself, and sends no PROXY header, in whatever network it is."""
        if door.quiet:
            self._open_quiet(door, sock, peer, as_client)
            return
        if len(self._drivers) - len(self._waiting) >= self.limit + self._waiting_room():
            sock.close()
            self._unheard += 1
            if self._turned_away.allow("", self.now()):
                self._log.warn("[limits] max_connections: far too many connections, some are closed unheard")
            return
        driver = Driver(self, door, next(self._numbers), sock, peer)
        self._drivers.add(driver)
        self._accepted += 1
        driver.start(as_client=as_client)

    def _open_quiet(self, door: Door, sock: socket.socket, peer: Address, as_client: bool) -> None:
        if len(self._quiet) >= MAX_QUIET:
            next(iter(self._quiet)).give_way()
        driver = Driver(self, door, next(self._numbers), sock, peer)
        self._quiet[driver] = None
        driver.start(as_client=as_client)

    def _waiting_room(self) -> int:
        return waiting_room(self.limit)

    def _check_idle(self) -> None:
        for driver in tuple(self._drivers):
            driver.check_idle()
        self.pool.sweep()

    # --- what an operator asks --------------------------------------------------------------------------------------

    def live(self) -> Iterator[Live]:
        """The oldest first, each as it is when its turn comes; those of a quiet door are nobody's business."""
        for driver in sorted(self._drivers, key=lambda driver: driver.number):
            one = driver.live(self._stage(driver))
            if one is not None:
                yield one

    def _stage(self, driver: Driver) -> Stage:
        if driver in self._waiting:
            return "over limit"
        # Before the PROXY header is there, it is not counted at all.
        return "open" if driver.address is not None and driver not in self._opening else "opening"

    def kill(self, ids: Collection[int], reason: str) -> int:
        """End those, at once, each with its protocol's own word for that; how many of them there were. reason: for the
        audit."""
        chosen = [driver for driver in self._drivers if driver.number in ids and not driver.over]
        for driver in chosen:
            driver.kill(reason)
        self._killed += len(chosen)
        return len(chosen)

    def counters(self) -> Mapping[str, int]:
        """connections: that there are, with those that are opening and those over a limit, which have their own
        numbers, too. accepted, unheard (closed, as far too many), killed: since the start. idle_upstreams: open, and at
        nobody's service."""
        return {
            "connections": len(self._drivers),
            "opening": len(self._opening),
            "over_limit": len(self._waiting),
            "accepted": self._accepted,
            "unheard": self._unheard,
            "killed": self._killed,
            "idle_upstreams": len(self.pool),
        }

    # --- a reload ---------------------------------------------------------------------------------------------------

    def reloaded(self) -> None:
        """Tell all sessions. Those that are opened from now on need not be told; another reload begins anew."""
        begun = bool(self._untold)
        self._untold = deque(self._drivers)
        if not begun:
            self._tell_reloaded()

    def _tell_reloaded(self) -> None:
        seconds = self.reactor.seconds
        latest = seconds() + SLICE_SECONDS
        try:
            while self._untold:
                self._untold.popleft().reloaded()
                if seconds() >= latest:
                    break
        finally:
            # Whatever one of them raised, the others are told; and so are all by the next reload.
            if self._untold:
                self.reactor.callLater(0, self._tell_reloaded)

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
        self._empty, self.draining = done, True
        for driver in (*self._drivers, *self._quiet):
            driver.shut_down()
        self._look_if_empty()
        return done

    def _look_if_empty(self) -> None:
        if self._empty is not None and not (self._drivers or self._quiet):
            empty, self._empty = self._empty, None
            empty.callback(None)
