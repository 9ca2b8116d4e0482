"""A driver on a bench: a session that does what the test says, a house that notes what it is told, real sockets on
both sides.

Owns the check, after each test, that nothing is left open and nothing is left to happen.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gateway.net.door import Door
from gateway.net.driver import Driver
from gateway.net.poller import Poller
from gateway.net.pool import Pool
from gateway.net.transport import MAX_LINGER_SECONDS
from gateway.session.vocabulary import (
    Command,
    Dial,
    Dialed,
    Ended,
    Event,
    Facts,
    Opened,
    Questions,
    SetDeadline,
    Splice,
)
from gateway.upstream import Address, ClientTLS, TLSMode, Upstream
from gateway.wire.postgres_framing import BackendFraming
from tests.reactor import ManualReactor
from tests.wires import SECTION, Authority, Peer, unix_pair

CLIENT = Address("198.51.100.9", 4711)
TIMEOUT, IDLE, GRACE = 30.0, 600.0, 20.0
NOW = 1_900_000_000.0
READY = b"Z\0\0\0\x05I"
# Of the Unix sockets that the upstreams listen on.
_NUMBERS = itertools.count()

Answer = Sequence[Command] | Callable[[Any], Sequence[Command]]


class Script:
    """A session: notes what it hears, answers as it was told. Fails if it is called while it is called."""

    def __init__(self, questions: Questions) -> None:
        self.questions = questions
        self.facts = Facts(user="somebody", subject="alice")
        self.heard: list[Event] = []
        self.answers: dict[type, Answer] = {}
        self._busy = False

    def handle(self, event: Event) -> Sequence[Command]:
        assert not self._busy, "one event at a time"
        assert not self.ended, "nothing comes after Ended"
        self._busy = True
        try:
            self.heard.append(event)
            answer = self.answers.get(type(event), ())
            return answer(event) if callable(answer) else answer
        finally:
            self._busy = False

    def moved(self) -> tuple[int, int]:
        return 10, 20

    @property
    def ended(self) -> bool:
        return any(isinstance(event, Ended) for event in self.heard)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.heard if isinstance(event, kind)]


class House:
    def __init__(self, reactor: ManualReactor, poller: Poller) -> None:
        self.reactor, self.poller = reactor, poller
        self.pool = Pool(reactor.seconds)
        self.room = True
        self.time = NOW
        self.now: Callable[[], float] = lambda: self.time
        self.welcomed: list[str] = []
        self.admitted: list[str] = []
        self.let_in: list[Driver] = []
        self.gone: list[Driver] = []
        self.audit: list[dict[str, Any]] = []

    def welcome(self, driver: Driver, address: str) -> bool:
        self.welcomed.append(address)
        return self.room

    def opened(self, driver: Driver) -> None:
        self.let_in.append(driver)

    def admit(self, driver: Driver, subject: str) -> bool:
        self.admitted.append(subject)
        return self.room

    def farewell(self, driver: Driver) -> None:
        self.gone.append(driver)

    def write_audit(self, line: str) -> None:
        self.audit.append(json.loads(line))

    def records(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self.audit if entry["event"] == event]


class Bench:
    """A driver between the test's client and, once it dials, the test's upstream.

    beside: another bench, in whose house it is and whose upstream it dials.
    """

    def __init__(
        self,
        reactor: ManualReactor,
        poller: Poller,
        authority: Authority,
        folder: Path,
        answers: dict[type, Answer],
        peer: Address = CLIENT,
        pair: Callable[[], tuple[socket.socket, socket.socket]] = unix_pair,
        beside: Bench | None = None,
        number: int = 7,
        **door: Any,
    ) -> None:
        self.reactor, self.number = reactor, number
        self.house: House = beside.house if beside else House(reactor, poller)
        self.scripts: list[Script] = []
        self.server: socket.socket = beside.server if beside else _listening(folder)
        self.upstream = Upstream("main", (), ClientTLS(TLSMode.DISABLE))
        self.accepted: list[Peer] = beside.accepted if beside else []
        settings: dict[str, Any] = {
            "name": SECTION,
            "session": self._session,
            "certificates": authority.certificates,
            "proxy_networks": (),
            "handshake_timeout": TIMEOUT,
            "idle_timeout": IDLE,
            "grace": GRACE,
        }
        self.answers = answers
        near, far = pair()
        self.client = Peer(far)
        self.door = Door(**settings | door)
        self.driver = Driver(self.house, self.door, number, near, peer)

    def _session(self, questions: Questions) -> Script:
        self.scripts.append(Script(questions))
        self.scripts[0].answers = self.answers
        return self.scripts[0]

    @property
    def session(self) -> Script:
        return self.scripts[0]

    @property
    def dial(self) -> Dial:
        where = str(self.server.getsockname())
        return Dial(self.upstream, Address(where, 0), name=(self.upstream.name, where))

    @property
    def far(self) -> Peer:
        return self.accepted[-1]

    def start(self) -> Bench:
        self.driver.start()
        return self

    def accept(self) -> None:
        self.reactor.advance(0)
        with contextlib.suppress(BlockingIOError):
            self.accepted.append(Peer(self.server.accept()[0]))

    def step(self) -> None:
        self.accept()
        self.client.play()
        for peer in self.accepted:
            peer.play()

    def until(self, true: Callable[[], object]) -> None:
        self.reactor.until(true, self.step)

    def heard(self, kind: type) -> Any:
        """The first event of that kind, once it has come."""
        self.until(lambda: self.session.of(kind))
        return self.session.of(kind)[0]

    def records(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self.house.records(event) if entry["connection"] == self.number]

    def over(self) -> None:
        """Waits for the end, and checks that it was one."""
        self.until(lambda: self.session.ended)
        # Counted for as long as the client has its socket.
        assert self.house.gone.count(self.driver) == self.driver._client.closed
        assert len(self.session.of(Ended)) == 1
        assert isinstance(self.session.heard[-1], Ended)

    def ended(self) -> dict[str, Any]:
        """The same, and what the audit says of it."""
        self.over()
        (record,) = self.records("close")
        return record

    def close(self) -> None:
        """However it ended: nothing of it is left open."""
        self.client.sock.close()
        for peer in self.accepted:
            peer.sock.close()
        self.server.close()
        self.reactor.settle()
        self.reactor.advance(2 * GRACE)
        self.reactor.settle()
        if self.driver not in self.house.gone:
            self.driver._end("the test is over")
        self.reactor.advance(MAX_LINGER_SECONDS)
        self.house.pool.close_all()
        assert len(self.session.of(Ended)) == 1
        closes = len(self.records("close"))
        assert closes == 0 if self.door.quiet else closes == 1 or (closes == 0 and self.records("request"))
        assert self.house.gone.count(self.driver) == 1
        assert self.driver._client.closed
        assert self.driver._upstream.transport is None or self.driver._upstream.transport.closed


def _listening(folder: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / f"s{next(_NUMBERS)}"))
    server.listen()
    server.setblocking(False)
    return server


Make = Callable[..., Bench]


@contextlib.contextmanager
def benches(reactor: ManualReactor, poller: Poller, authority: Authority, folder: Path) -> Iterator[Make]:
    made: list[Bench] = []

    def make(answers: dict[type, Answer] | None = None, **how: Any) -> Bench:
        made.append(Bench(reactor, poller, authority, folder, answers or {}, **how))
        return made[-1]

    yield make
    for one in made:
        one.close()
    assert reactor.getDelayedCalls() == []
    assert not poller._watched


def spliced(one: Bench, expires: float | None = None, ahead: bytes = b"") -> Bench:
    """From its start to an open session."""
    framing = BackendFraming()
    one.answers |= {Opened: [one.dial], Dialed: [SetDeadline(None), Splice(framing, ahead, expires)]}
    one.start()
    one.until(lambda: one.accepted and one.records("open"))
    one.far.write(READY)
    one.until(lambda: one.client.data.endswith(READY))
    return one
