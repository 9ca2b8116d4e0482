"""What an operator asks for, done with the pieces of the gateway, and what the audit says of it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, succeed

from gateway import control
from gateway.control import Done, Enter, Kill, NotDone, Refused
from gateway.net.connections import Connections
from gateway.net.door import Door
from gateway.net.live import Live
from gateway.net.operations import MAX_SHOWN, Operations
from gateway.session.vocabulary import Facts
from gateway.upstream import Address


def live(number: int, **facts: Any) -> Live:
    return Live(number, "mqtt:main", Address("2001:db8::1", 5), 1.5, Facts(**facts), 3, 4, "open")


class Held:
    """Stands for the connections."""

    def __init__(self, *found: Live) -> None:
        self.found = found
        self.killed: list[tuple[Collection[int], str]] = []
        self.opened: list[tuple[object, Address, bool]] = []
        self.written: list[dict[str, Any]] = []
        self.draining = False

    def __len__(self) -> int:
        return len(self.found)

    def now(self) -> float:
        return 1e9

    def live(self) -> Iterator[Live]:
        return iter(self.found)

    def kill(self, ids: Collection[int], reason: str) -> int:
        self.killed.append((ids, reason))
        return len(ids)

    def counters(self) -> Mapping[str, int]:
        return {"connections": len(self)}

    def open(self, door: object, sock: socket.socket, peer: Address, *, as_client: bool = False) -> None:
        sock.close()
        self.opened.append((door, peer, as_client))

    def write_audit(self, line: str) -> None:
        record = json.loads(line)
        assert record.pop("time") == "2001-09-09T01:46:40.000+00:00"
        assert record.pop("decision") == "allowed"
        self.written.append(record)


class NamedDoor:
    name = "mqtt:main"


class Ended:
    times = 0

    def __call__(self) -> None:
        self.times += 1


ALICE = live(1, subject="alice", jti="j-1", serial="a1")
TWICE = live(2, subject="alice", jti="j-2")
OTHERS = (live(3, subject="Alice", serial="a10"), live(4), live(5, subject="alice2", user="alice", jti="j-1x"))
DOOR = NamedDoor()


def operations(
    held: Held,
    refused: Refused | None = None,
    end: Ended | None = None,
    unfetched: Callable[[], Deferred[Sequence[str]]] = lambda: succeed([]),
) -> Operations:
    doors = {"mqtt:main": cast(Door, DOOR)}
    return Operations(cast(Connections, held), lambda: doors, lambda: refused, unfetched, end or Ended())


@pytest.mark.parametrize(
    ("asked", "ids", "record"),
    [
        (Kill(identity="alice"), {1, 2}, {"subject": "alice"}),
        (Kill(jti="j-1"), {1}, {"jti": "j-1"}),
        (Kill(serial="a1"), {1}, {"serial": "a1"}),
        (Kill(identity=""), set(), {"subject": ""}),
        (Kill(ids=(4, 9)), {4, 9}, {"connections": [4, 9]}),
    ],
)
def test_a_kill_is_exact_and_recorded(asked: Kill, ids: set[int], record: dict[str, object]):
    held = Held(ALICE, TWICE, *OTHERS)
    assert operations(held).kill(asked, 4711) == len(ids)
    assert held.killed == [(ids, "killed by an operator (user 4711)")]
    assert held.written == [{"event": "kill", "uid": 4711, "killed": len(ids), **record}]


def test_a_session_is_shown_as_the_audit_knows_it_and_no_name_is_endless():
    (one,) = operations(Held(live(1, user="u" * MAX_SHOWN, client_id="c" * 65_535, dropped=3))).sessions()
    assert one == control.Session(
        id=1,
        listener="mqtt:main",
        client="[2001:db8::1]:5",
        opened_at=1.5,
        moved=7,
        state="open",
        user="u" * MAX_SHOWN,
        client_id="c" * MAX_SHOWN + "...",
    )


@pytest.mark.parametrize(
    ("address", "host"),
    [("203.0.113.9", "203.0.113.9"), ("2001:DB8:0::1", "2001:db8::1"), ("::ffff:192.0.2.1", "192.0.2.1")],
)
def test_who_enters_comes_from_that_address(address: str, host: str):
    held = Held()
    ours, theirs = socket.socketpair()
    with ours:
        operations(held).enter(Enter("mqtt:main", address), theirs, 4711)
    assert held.opened == [(DOOR, Address(host, 0), True)]
    assert held.written == [{"event": "probe", "uid": 4711, "listener": "mqtt:main", "client": host}]


def test_nobody_enters_a_gateway_that_is_ending():
    held = Held()
    held.draining = True
    ours, theirs = socket.socketpair()
    with ours:
        with pytest.raises(NotDone, match="ending"):
            operations(held).enter(Enter("mqtt:main", "192.0.2.1"), theirs, 4711)
        assert theirs.fileno() == -1
    assert (held.opened, held.written) == ([], [])


@pytest.mark.parametrize(
    ("listener", "address"),
    [
        ("mqtt:other", "192.0.2.1"),
        ("main", "192.0.2.1"),
        ("mqtt:main", "192.0.2.1:5"),
        ("mqtt:main", "192.0.2.0/24"),
        ("mqtt:main", "fe80::1%eth0"),
        ("mqtt:main", "localhost"),
    ],
)
def test_who_cannot_enter_is_closed(listener: str, address: str):
    held = Held()
    ours, theirs = socket.socketpair()
    with ours:
        with pytest.raises(NotDone):
            operations(held).enter(Enter(listener, address), theirs, 4711)
        assert ours.recv(1) == b""
    assert not held.opened
    assert not held.written


def test_reloads_are_recorded():
    held = Held()
    refused = Refused("the reload failed", ("[tls] key: is missing",))
    assert operations(held).reload(4711).result == Done()
    assert operations(held, refused, unfetched=lambda: pytest.fail("nothing is new")).reload(0).result == refused
    assert held.written == [{"event": "reload", "uid": 4711}, {"event": "reload", "uid": 0, "reason": "failed"}]


def test_a_reload_whose_keys_are_not_there_is_done_but():
    held: Held = Held()
    unfetched: Deferred[Sequence[str]] = Deferred()
    answer = operations(held, unfetched=lambda: unfetched).reload(0)
    assert held.written == [{"event": "reload", "uid": 0}]
    assert not answer.called
    unfetched.callback(["[jwt:main] jwks: it is down"])
    assert answer.result == Done(("[jwt:main] jwks: it is down",))


def test_a_drain_begins_once():
    held, end = Held(ALICE), Ended()
    asked = operations(held, end=end)
    asked.drain(4711)
    asked.drain(0)
    assert end.times == 1
    assert held.written == [{"event": "drain", "uid": 4711}]
    assert asked.left() == 1


def test_counters():
    assert operations(Held(ALICE)).counters() == {"connections": 1}
