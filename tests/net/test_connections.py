"""All connections together: what is counted is given back in every ending, and all of them can be ended."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from gateway.audit import Audit
from gateway.net.connections import MAX_QUIET, SWEEP_SECONDS, Connections
from gateway.net.door import Door
from gateway.net.owner import NOBODY
from gateway.net.poller import Poller
from gateway.net.pool import IDLE_SECONDS
from gateway.net.relay import QUIET_SECONDS
from gateway.net.transport import LINGER_SECONDS, Transport
from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Dial,
    Dialed,
    Ended,
    Event,
    Facts,
    Idle,
    Killed,
    Lost,
    Opened,
    SetDeadline,
    ShuttingDown,
    Splice,
    TimedOut,
)
from gateway.upstream import Address, ClientTLS, TLSMode, Upstream
from gateway.wire.postgres_framing import BackendFraming
from tests.reactor import ManualReactor
from tests.wires import SECTION, Authority, Peer, unix_pair

TIMEOUT, IDLE, GRACE = 30.0, 60.0, 20.0
FULL = b"too many"


class Greeter:
    """Takes a subject's name as the client's first bytes, and opens a session with the upstream for it."""

    def __init__(self, admit: Callable[[str], bool], dial: Dial, heard: list[Event]) -> None:
        self.facts = Facts()
        self._admit, self._dial, self._heard = admit, dial, heard

    def handle(self, event: Event) -> Sequence[Command]:
        self._heard.append(event)
        match event:
            case Opened(over_limit=True):
                # It holds on to its place as long as it can, as a hostile client would.
                return [SetDeadline(TIMEOUT)]
            case Opened():
                return [SetDeadline(TIMEOUT)]
            case Data(data=b"bug"):
                raise RuntimeError
            case Data(data=data):
                if not self._admit(data.decode()):
                    return [Close("the subject has too many", FULL)]
                return [self._dial]
            case Dialed():
                return [SetDeadline(None), Splice(BackendFraming())]
            case ShuttingDown():
                return [Close("stopping", b"bye", patient=True)]
            case Lost(reason=reason) | Killed(reason=reason):
                return [Close(reason)]
            case Idle() | TimedOut():
                return [Close(type(event).__name__)]
        return []

    def moved(self) -> tuple[int, int]:
        return 10, 20


class Gate:
    """`Connections` with a door, the clients that came through it, and the upstream behind it."""

    def __init__(self, reactor: ManualReactor, poller: Poller, authority: Authority, folder: Path) -> None:
        self.reactor, self.folder = reactor, folder
        self.time = 1_900_000_000.0
        self.all = Connections(reactor, poller, Audit(folder / "audit"), lambda: self.time)
        self.all.limit, self.all.addresses.limit, self.all.subjects.limit = 100, 100, 100
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(folder / "s"))
        self.server.listen(100)
        self.server.setblocking(False)
        self.dial = Dial(Upstream("main", (), ClientTLS(TLSMode.DISABLE)), Address(str(folder / "s"), 0))
        self.heard: list[Event] = []
        self.door = Door(
            name=SECTION,
            session=lambda asked: Greeter(asked.admit, self.dial, self.heard),
            certificates=authority.certificates,
            proxy_networks=(),
            handshake_timeout=TIMEOUT,
            idle_timeout=IDLE,
            grace=GRACE,
        )
        self.quietly: list[Event] = []
        self.quiet = replace(self.door, session=lambda asked: Greeter(asked.admit, self.dial, self.quietly), quiet=True)
        self.clients: list[Peer] = []
        self.upstreams: list[Peer] = []

    def come(self, host: str = "192.0.2.1", buffer: int = 0, quiet: bool = False, as_client: bool = False) -> Peer:
        near, far = unix_pair(buffer)
        client = Peer(far)
        self.clients.append(client)
        self.all.open(self.quiet if quiet else self.door, near, Address(host, 5000), as_client=as_client)
        return client

    def step(self) -> None:
        self.reactor.advance(0)
        try:
            while True:
                self.upstreams.append(Peer(self.server.accept()[0]))
        except OSError:
            pass
        for peer in (*self.clients, *self.upstreams):
            peer.play()

    def until(self, true: Callable[[], object]) -> None:
        self.reactor.until(true, self.step)

    def log_in(self, subject: str = "alice", host: str = "192.0.2.1", buffer: int = 0) -> Peer:
        before = self.audit("open")
        client = self.come(host, buffer)
        client.write(subject.encode())
        self.until(lambda: self.audit("open") > before and len(self.upstreams) > before)
        self.upstreams[-1].write(b"Z\0\0\0\x05I")
        self.until(lambda: client.data)
        return client

    def audit(self, event: str) -> int:
        return sum(entry["event"] == event for entry in self.records())

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "audit").read_text().splitlines()]

    def opened(self) -> list[bool]:
        """Of each connection that was heard: whether it was over a limit."""
        return [event.over_limit for event in self.heard if isinstance(event, Opened)]

    def held(self) -> tuple[int, int, int]:
        return len(self.all), self.all.addresses.total(), self.all.subjects.total()


@pytest.fixture
def gate(reactor: ManualReactor, poller: Poller, authority: Authority, tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(reactor, poller, authority, tmp_path)
    yield gate
    for peer in (*gate.clients, *gate.upstreams):
        peer.sock.close()
    gate.server.close()
    for _ in range(5):
        reactor.settle()
        reactor.advance(TIMEOUT)
    assert gate.held() == (0, 0, 0)
    assert gate.all._waiting == gate.all._opening == gate.all._quiet == {}
    assert sum(isinstance(event, Ended) for event in gate.heard) == len(gate.opened()) == gate.audit("close")
    gate.all._audit.close()


# --- limits --------------------------------------------------------------------------------------------------------


def test_each_is_counted_and_numbered(gate: Gate):
    gate.log_in("alice", "192.0.2.1")
    gate.log_in("alice", "192.0.2.2")
    gate.come("192.0.2.2")
    assert gate.held() == (3, 3, 2)
    assert [record["connection"] for record in gate.records()] == [1, 2]


def test_over_the_limit_in_all_it_is_told_so(gate: Gate):
    gate.all.limit = 2
    gate.log_in()
    gate.log_in()
    gate.come()
    assert gate.opened() == [False, False, True]


def test_who_has_proven_nothing_gives_way_when_it_is_full(gate: Gate):
    """The oldest first; a session never does."""
    gate.all.limit = 3
    gate.log_in()
    for _ in range(4):
        gate.come()
    gate.until(lambda: sum(client.end is None for client in gate.clients) == 3)
    assert [client.end is None for client in gate.clients] == [True, False, False, True, True]
    assert gate.opened() == [False] * 5
    assert gate.held() == (3, 3, 1)
    assert {record["reason"] for record in gate.records() if record["event"] == "close"} == {
        "too many connections: gave way to a newer one"
    }
    gate.log_in()
    gate.log_in()
    gate.come()
    assert gate.opened() == [False] * 7 + [True]


def test_over_the_limit_of_its_address(gate: Gate):
    gate.all.addresses.limit = 2
    for host in ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"):
        gate.come(host)
    assert gate.opened() == [False, False, True, False]


def test_over_the_limit_of_its_subject(gate: Gate):
    gate.all.subjects.limit = 1
    gate.log_in("alice")
    second = gate.come()
    second.write(b"alice")
    gate.until(lambda: second.end)
    assert second.data == FULL
    assert gate.held() == (2, 2, 1)
    second.sock.close()
    gate.until(lambda: gate.held() == (1, 1, 1))
    gate.log_in("bob")
    assert gate.held() == (2, 2, 2)


def test_one_address_over_its_limit_takes_no_room_from_others(gate: Gate):
    """However many it opens and holds on to: the limit in all is for those who are within theirs."""
    gate.all.limit, gate.all.addresses.limit = 10, 2
    for _ in range(500):
        gate.come("192.0.2.66")
    for number in range(8):
        gate.come(f"192.0.2.{number}")
    assert gate.opened() == [False, False, *[True] * 498, *[False] * 8]
    # And it cannot hold more than a few, of which the oldest makes room for the next.
    assert len(gate.all) <= 10 + gate.all._waiting_room()
    assert len(gate.all._waiting) == gate.all._waiting_room()
    gate.until(lambda: gate.clients[2].end)
    assert not gate.clients[499].end
    assert not gate.clients[-1].end
    assert gate.records()[0]["reason"] == "too many connections: gave way to a newer one"
    gate.come("192.0.2.66")
    assert gate.opened()[-1] is True


def test_far_over_the_limit_it_is_closed_unheard(gate: Gate):
    """Those who have not yet said who they are (a PROXY header that does not come) are bounded too."""
    gate.all.limit = 10
    gate.door = replace(gate.door, proxy_networks=(ip_network("192.0.2.0/24"),))
    for _ in range(100):
        gate.come()
    assert len(gate.all) == 10 + gate.all._waiting_room()
    gate.clients[-1].play()
    assert gate.clients[-1].end == "eof"
    gate.reactor.advance(TIMEOUT)
    gate.reactor.advance(LINGER_SECONDS)
    assert len(gate.all) == 0
    # These end without a session having been opened, and are audited all the same.
    gate.heard.clear()
    (gate.folder / "audit").write_text("")


def test_nobody_gives_way_to_an_address_over_its_limit(gate: Gate):
    gate.all.limit, gate.all.addresses.limit = 2, 1
    first, second = gate.come("192.0.2.1"), gate.come("192.0.2.66")
    for _ in range(3):
        gate.come("192.0.2.66")
    gate.step()
    assert gate.opened() == [False, False, True, True, True]
    assert first.end is second.end is None


def test_who_is_refused_for_want_of_room_is_not_counted_for_its_address(gate: Gate):
    gate.all.limit = 1
    session = gate.log_in()
    gate.come("192.0.2.66")
    assert gate.opened() == [False, True]
    assert gate.all.addresses.total() == 1
    assert session.end is None


def test_who_is_refused_and_stays_is_counted(gate: Gate):
    """Or a client that never closes would cost a descriptor beyond every limit, as often as it likes."""
    gate.log_in("alice")
    gate.all.limit, gate.all.subjects.limit = 20, 0
    for number in range(200):
        gate.come().write(b"junk")
        gate.reactor.settle()
        assert gate.audit("close") == number + 1
        assert gate.held() == (min(20, number + 2), min(20, number + 2), 1)
    # Two descriptors of the session, one of each of the others.
    assert len(gate.all.poller._watched) == 2 + 19
    gate.reactor.settle()
    assert [client.sock.recv(100, socket.MSG_DONTWAIT) for client in gate.clients[1:]] == [FULL] * 200
    assert gate.clients[0].end is None
    gate.reactor.advance(LINGER_SECONDS)
    assert gate.held() == (1, 1, 1)


def test_over_the_limit_and_refused_and_staying_is_bounded_too(gate: Gate):
    gate.log_in("alice")
    gate.all.limit = 1
    for _ in range(200):
        gate.come().write(b"bug")
        gate.reactor.settle()
        assert len(gate.all.poller._watched) <= 2 + gate.all._waiting_room()
    assert gate.opened() == [False] + [True] * 200
    assert gate.audit("close") == 200
    assert gate.clients[0].end is None


def test_those_of_one_address_who_are_refused_and_stay_are_counted(gate: Gate):
    gate.all.addresses.limit, gate.all.subjects.limit = 3, 0
    for _ in range(4):
        gate.come("192.0.2.66").write(b"junk")
        gate.reactor.settle()
    gate.come("192.0.2.1")
    assert gate.opened() == [False, False, False, True, False]
    gate.reactor.advance(LINGER_SECONDS)
    gate.come("192.0.2.66")
    assert gate.opened()[-1] is False


def test_a_place_given_back_can_be_taken(gate: Gate):
    gate.all.limit = gate.all.addresses.limit = 1
    for _ in range(3):
        client = gate.come()
        client.sock.close()
        gate.until(lambda: not len(gate.all))
    assert gate.opened() == [False, False, False]


def _leave(gate: Gate, client: Peer) -> None:
    client.sock.close()


def _upstream_leaves(gate: Gate, client: Peer) -> None:
    gate.upstreams[-1].sock.close()


def _bug(gate: Gate, client: Peer) -> None:
    for driver in tuple(gate.all._drivers):
        driver._client.on_bug()


def _idle(gate: Gate, client: Peer) -> None:
    for _ in range(3):
        gate.time += IDLE
        gate.all._check_idle()


def _slow(gate: Gate, client: Peer) -> None:
    gate.reactor.advance(TIMEOUT)


@pytest.mark.parametrize("end", [_leave, _upstream_leaves, _bug, _idle])
def test_every_ending_of_a_session_gives_back_what_it_took(gate: Gate, end: Callable[[Gate, Peer], None]):
    client = gate.log_in()
    assert gate.held() == (1, 1, 1)
    end(gate, client)
    gate.until(lambda: client.end or client.sock.fileno() == -1)
    client.sock.close()
    gate.upstreams[-1].sock.close()
    gate.until(lambda: gate.held() == (0, 0, 0))


@pytest.mark.parametrize("end", [_leave, _bug, _slow, lambda gate, client: client.write(b"bug")])
def test_every_ending_before_the_session_too(gate: Gate, end: Callable[[Gate, Peer], None]):
    client = gate.come()
    assert gate.held() == (1, 1, 0)
    end(gate, client)
    gate.until(lambda: gate.audit("close"))
    gate.reactor.advance(LINGER_SECONDS)
    assert gate.held() == (0, 0, 0)


def test_an_upstream_that_is_not_there_gives_back_the_subject(gate: Gate):
    gate.server.close()
    gate.come().write(b"alice")
    gate.until(lambda: gate.audit("close"))
    assert gate.held() == (1, 1, 1)
    gate.clients[0].sock.close()
    gate.until(lambda: gate.held() == (0, 0, 0))


def test_a_reload_may_lower_the_limits(gate: Gate):
    """Nobody is thrown out; nobody comes in until there is room."""
    for _ in range(3):
        gate.log_in()
    gate.all.limit = gate.all.addresses.limit = gate.all.subjects.limit = 1
    gate.come()
    assert gate.opened()[-1] is True
    assert gate.held()[1:] == (3, 3)


@pytest.mark.parametrize("quiet", [False, True])
def test_no_proxy_header_is_due_where_it_is_known_who_comes(gate: Gate, quiet: bool):
    balanced = (ip_network("192.0.2.0/24"),)
    gate.door, gate.quiet = (replace(door, proxy_networks=balanced) for door in (gate.door, gate.quiet))
    heard = gate.quietly if quiet else gate.heard
    gate.come("192.0.2.1", quiet=quiet, as_client=True)
    assert heard == [Opened(Address("192.0.2.1", 5000))]


# --- quiet doors ---------------------------------------------------------------------------------------------------


def test_a_full_gateway_can_still_be_asked_how_it_is(gate: Gate):
    """And whoever asks has no part in its limits."""
    gate.all.limit = gate.all.addresses.limit = 1
    gate.log_in("alice", "127.0.0.1")
    for _ in range(100):
        gate.come("127.0.0.1")
    held = gate.held()
    for _ in range(MAX_QUIET):
        gate.come("127.0.0.1", quiet=True)
    assert [event.over_limit for event in gate.quietly if isinstance(event, Opened)] == [False] * MAX_QUIET
    assert gate.held() == held


def test_who_asks_how_it_is_takes_nobodys_place(gate: Gate):
    gate.all.limit = gate.all.addresses.limit = 2
    first = gate.come("127.0.0.1")
    for _ in range(MAX_QUIET):
        gate.come("127.0.0.1", quiet=True)
    gate.come("127.0.0.1")
    assert gate.opened() == [False, False]
    assert gate.held() == (2, 2, 0)
    gate.step()
    assert first.end is None


def test_those_who_ask_how_it_is_are_bounded_too(gate: Gate):
    """The oldest gives way, so that nobody can keep the others from asking."""
    client = gate.come()
    for number in range(100):
        gate.come(quiet=True)
        assert len(gate.all._quiet) == min(number + 1, MAX_QUIET)
    gate.step()
    ends = [one.end is None for one in gate.clients]
    assert ends == [True, *[False] * (100 - MAX_QUIET), *[True] * MAX_QUIET]
    assert client.end is None
    assert gate.records() == []


def test_who_has_asked_how_it_is_makes_room_for_the_next(gate: Gate):
    for _ in range(100):
        client = gate.come(quiet=True)
        client.sock.close()
        gate.until(lambda: not gate.all._quiet)
    assert gate.records() == []


# --- the pool ------------------------------------------------------------------------------------------------------


def test_the_sweep_closes_what_was_idle_for_long_in_the_pool(gate: Gate):
    gate.all.start()
    near, far = unix_pair()
    transport = Transport(gate.all.poller, gate.reactor, near, NOBODY)
    gate.all.pool.put("there", transport)
    gate.reactor.pump([SWEEP_SECONDS] * int(IDLE_SECONDS - 1))
    assert len(gate.all.pool) == 1
    gate.reactor.pump([SWEEP_SECONDS] * 2)
    assert len(gate.all.pool) == 0
    assert transport.closed
    assert far.recv(1) == b""
    far.close()
    gate.all.drain()


# --- idle ----------------------------------------------------------------------------------------------------------


def test_the_sweep_finds_the_idle(gate: Gate):
    gate.all.start()
    client = gate.log_in()
    for _ in range(int(IDLE / SWEEP_SECONDS) + 3):
        gate.time += SWEEP_SECONDS
        gate.reactor.advance(SWEEP_SECONDS)
    gate.until(lambda: client.end)
    assert gate.records()[-1]["reason"] == "Idle"
    gate.all.drain()
    assert gate.reactor.getDelayedCalls() == []


# --- the end of all of them ----------------------------------------------------------------------------------------


def drained(gate: Gate) -> list[None]:
    fired: list[None] = []
    gate.all.drain().addCallback(fired.append)
    return fired


def test_drained_when_nobody_is_there(gate: Gate):
    assert drained(gate) == [None]


def test_drained_when_the_last_who_asks_how_it_is_has_left(gate: Gate):
    client = gate.come(quiet=True)
    fired = drained(gate)
    assert [type(event) for event in gate.quietly] == [Opened, ShuttingDown, Ended]
    assert fired == []
    client.sock.close()
    gate.until(lambda: fired)


def test_drained_when_the_last_has_left(gate: Gate):
    first, second, stranger = gate.log_in(), gate.log_in(), gate.come()
    second.write(b"query")
    gate.until(lambda: gate.upstreams[1].data == b"query")
    fired = drained(gate)
    assert gate.audit("close") == 1  # whoever had not logged in
    gate.reactor.advance(QUIET_SECONDS)
    assert gate.audit("close") == 2
    gate.until(lambda: first.end)
    assert first.data.endswith(b"bye")
    for client in (stranger, first):
        client.sock.close()
    gate.until(lambda: len(gate.all) == 1)
    assert fired == []
    gate.upstreams[1].write(b"Z\0\0\0\x05I")
    gate.until(lambda: second.data.endswith(b"I" * 1) and len(second.data) == 12)
    gate.reactor.advance(QUIET_SECONDS)
    gate.until(lambda: second.end)
    assert second.data.endswith(b"bye")
    assert gate.audit("close") == 3
    assert fired == []  # it has not read that yet, as far as anybody knows
    second.sock.close()
    gate.until(lambda: fired)


def test_drained_with_every_row_delivered(gate: Gate):
    """A result that is finished for the upstream, but not for a client that reads slowly, is waited for."""
    client = gate.log_in(buffer=4096)
    client.write(b"query")
    gate.until(lambda: gate.upstreams[0].data)
    before, rows = len(client.data), b"D" + (50_004).to_bytes(4) + b"r" * 50_000
    gate.upstreams[0].write(rows + b"Z\0\0\0\x05I")
    gate.reactor.settle()
    fired = drained(gate)
    while len(client.data) < before + len(rows):
        assert gate.audit("close") == 0
        gate.reactor.advance(QUIET_SECONDS * 2)
        client.read(3_000)
        gate.reactor.settle()
    gate.reactor.advance(QUIET_SECONDS)
    gate.reactor.advance(QUIET_SECONDS)
    gate.until(lambda: client.end)
    assert client.data[before:] == rows + b"Z\0\0\0\x05Ibye"
    client.sock.close()
    gate.until(lambda: fired)


def test_drained_in_spite_of_those_who_never_finish(gate: Gate):
    for _ in range(3):
        client = gate.log_in()
        client.write(b"a query without an answer")
    gate.until(lambda: all(one.data for one in gate.upstreams))
    fired = drained(gate)
    gate.reactor.advance(GRACE - 0.1)
    assert fired == []
    gate.reactor.advance(0.2)
    assert gate.audit("close") == 3
    assert fired == []
    gate.reactor.advance(LINGER_SECONDS)
    assert fired == [None]
    assert len(gate.all) == 0


def test_drained_in_spite_of_the_waiting_room(gate: Gate):
    gate.all.limit = 0
    gate.come()
    gate.come()
    fired = drained(gate)
    assert gate.audit("close") == 2
    gate.reactor.advance(LINGER_SECONDS)
    assert fired == [None]
