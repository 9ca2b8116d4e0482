"""What an operator sees of live connections, and how some of them are ended; by one driver, and by all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from gateway.audit import Audit
from gateway.net import connections
from gateway.net.connections import Connections
from gateway.net.door import Door
from gateway.net.live import Live
from gateway.net.poller import Poller
from gateway.session.vocabulary import (
    Asked,
    Close,
    Facts,
    Killed,
    Opened,
    Passage,
    Reloaded,
    RequestRecord,
    Secured,
    Send,
    Side,
    Sniff,
    Sniffed,
    StartTLS,
)
from gateway.upstream import Address
from tests.drivers import CLIENT, GRACE, NOW, READY, Bench, Make, benches, spliced
from tests.net.test_connections import Gate, gate
from tests.reactor import ManualReactor
from tests.wires import SECTION, Authority

REASON = "killed by an operator"
FATAL = b"E\0\0\0\x08bye!"
__all__ = ("gate",)


@pytest.fixture
def bench(reactor: ManualReactor, poller: Poller, authority: Authority, tmp_path: Path) -> Iterator[Make]:
    with benches(reactor, poller, authority, tmp_path) as make:
        yield make


# --- trust ------------------------------------------------------------------------------------------------------------


class Context:
    """Stands for a listener's: trusts, or not. asked: how often."""

    def __init__(self, trusts: bool) -> None:
        self.trusts, self.asked = trusts, 0

    def still_trusts(self, _: object) -> bool:
        self.asked += 1
        return self.trusts


class _Certificates:
    def __init__(self, **servers: Context) -> None:
        self.servers = {name.replace("_", ":"): one for name, one in servers.items()}


# They stand for real ones.
Certificates: Any = _Certificates


def secured(bench: Make, authority: Authority) -> tuple[Bench, list[Door]]:
    """A client over TLS, and its door as it is now, which is the last of the list."""
    doors: list[Door] = []
    one = bench({Opened: [Sniff()], Sniffed: [StartTLS(Side.CLIENT)]}, latest=lambda: doors[-1])
    doors.append(one.door)
    one.start()
    one.client.secure(authority.as_client(one.client.sock))
    one.heard(Secured)
    return one, doors


def test_trust_is_that_of_what_is_in_force_now_and_nothing_changes_by_asking(bench: Make, authority: Authority) -> None:
    """`renew` goes over to it, and with that to other upstream connections."""
    one, doors = secured(bench, authority)
    asked = one.session.questions
    assert asked.trusted()
    context = Context(trusts=False)
    doors.append(replace(one.door, certificates=Certificates(postgres_main=context)))
    assert [asked.trusted(), asked.trusted()] == [False, False]
    assert one.driver._door is doors[0]
    context.trusts = True
    assert asked.trusted()
    assert asked.renew()
    assert context.asked == 4
    assert one.driver._door is doors[1]


def test_without_a_reload_the_clock_alone_can_end_trust(bench: Make, authority: Authority) -> None:
    """A CRL may have become stale: it is asked again although nothing is new."""
    one, doors = secured(bench, authority)
    context = Context(trusts=False)
    doors[0] = one.driver._door = replace(one.door, certificates=Certificates(postgres_main=context))
    assert one.session.questions.renew()
    assert not one.session.questions.trusted()


def test_a_listener_that_speaks_no_tls_any_more_trusts_nobody(bench: Make, authority: Authority) -> None:
    one, doors = secured(bench, authority)
    doors.append(replace(one.door, certificates=Certificates()))
    assert not one.session.questions.trusted()
    assert not one.session.questions.renew()


def test_who_speaks_no_tls_has_nothing_to_be_trusted(bench: Make) -> None:
    one = bench()
    one.door = one.driver._door = replace(one.door, latest=lambda: replace(one.door, certificates=Certificates()))
    one.start()
    assert one.session.questions.trusted()


# --- one driver -------------------------------------------------------------------------------------------------------


def test_killed_before_its_proxy_header_is_there(bench: Make) -> None:
    one = bench(proxy_networks=(ip_network("198.51.100.0/24"),))
    one.start()
    one.driver.reloaded()
    one.driver.kill(REASON)
    assert one.ended()["reason"] == REASON
    assert not one.session.of(Killed)
    assert not one.session.of(Reloaded)


@pytest.mark.parametrize("cut", [0, 1, 5, 8])
def test_the_last_word_comes_between_two_messages(bench: Make, cut: int) -> None:
    """In the middle of a COPY, say: what is begun is finished, then the client hears why."""
    one = spliced(bench({Killed: [Close(REASON, FATAL)]}))
    message = b"d\0\0\0\x0aabcdef"
    one.client.write(b"Q\0\0\0\x04")
    one.far.write(message + message[:cut])
    one.until(lambda: one.client.data.endswith(message + message[:cut]))
    one.driver.kill(REASON)
    if cut:
        ending = one.driver.live("opening")
        assert ending is not None
        assert ending.state == "ending"
        one.far.write(message[cut:] + message)
    one.over()
    one.until(lambda: one.client.end)
    assert bytes(one.client.data) == READY + message * (2 if cut else 1) + FATAL
    assert one.ended()["reason"] == REASON


def test_no_last_word_rather_than_inside_a_message(bench: Make) -> None:
    one = spliced(bench({Killed: [Close(REASON, FATAL)]}))
    one.far.write(b"d\0\0\0\x0aab")
    one.until(lambda: one.client.data.endswith(b"ab"))
    one.driver.kill(REASON)
    one.reactor.advance(GRACE)
    one.reactor.advance(1)
    assert one.ended()["reason"] == REASON
    assert FATAL not in one.client.data


@pytest.mark.parametrize("audited", [False, True])
def test_the_record_of_a_connection_whose_requests_have_told_everything(bench: Make, audited: bool) -> None:
    """But not why it was ended, if they are over."""
    request = RequestRecord(Asked("GET", "localhost", "/"), Passage(), 200)
    one = bench({Opened: [request], Killed: [Close(REASON, audited=audited)]}).start()
    one.driver.kill(REASON)
    one.over()
    assert [record["reason"] for record in one.records("close")] == [REASON] * audited


def test_what_is_told_of_it(bench: Make) -> None:
    one = bench({Opened: [Send(Side.CLIENT, b"hello")]}).start()
    live = one.driver.live("opening")
    facts = one.session.facts
    assert live == Live(7, SECTION, CLIENT, NOW, Facts(user="somebody", subject="alice"), 10, 20, "opening")
    facts.subject = "bob"
    assert live is not None
    assert live.facts.subject == "alice"
    one.driver.deliver(b"12345")
    live = one.driver.live("open")
    assert live is not None
    assert live.to_client == 25
    one.driver._end("over")
    assert one.driver.live("open") is None


def test_what_is_told_of_a_relayed_one(bench: Make) -> None:
    one = spliced(bench())
    one.client.write(b"12345")
    one.until(lambda: one.far.data == b"12345")
    live = one.driver.live("opening")
    assert live is not None
    assert (live.from_client, live.to_client, live.state) == (5, len(READY), "open")


# --- all of them ------------------------------------------------------------------------------------------------------


def states(gate: Gate) -> dict[int, str]:
    return {one.id: one.state for one in gate.all.live()}


def test_live_ones(gate: Gate) -> None:
    gate.all.limit = 3
    gate.log_in("alice", "192.0.2.1")
    gate.log_in("bob", "192.0.2.2")
    gate.come("192.0.2.3")
    gate.come(quiet=True)
    assert states(gate) == {1: "open", 2: "open", 3: "opening"}
    found = {one.id: one for one in gate.all.live()}
    assert found[2].client == Address("192.0.2.2", 5000)
    assert found[2].opened_at == gate.time
    gate.log_in("carol", "192.0.2.3")
    gate.come("192.0.2.4")
    assert list(states(gate).items()) == [(1, "open"), (2, "open"), (5, "open"), (6, "over limit")]


def test_who_has_ended_is_not_told_of(gate: Gate) -> None:
    """Though its client still has to take the last word."""
    client = gate.come()
    client.write(b"bug")
    gate.until(lambda: gate.audit("close"))
    assert list(gate.all.live()) == []
    assert gate.all.kill([1], REASON) == 0


def test_some_are_killed_and_no_others(gate: Gate) -> None:
    for n in range(4):
        gate.log_in(f"user{n}")
    quiet = gate.come(quiet=True)
    assert gate.all.kill({2, 4, 5, 99}, REASON) == 2
    gate.until(lambda: gate.audit("close") == 2)
    closed = {record["connection"]: record["reason"] for record in gate.records() if record["event"] == "close"}
    assert closed == {2: REASON, 4: REASON}
    assert set(states(gate)) == {1, 3}
    assert quiet.end is None
    assert gate.all.counters()["killed"] == 2


def test_the_counters(gate: Gate) -> None:
    gate.all.limit = 2
    gate.log_in()
    gate.come()
    gate.come("192.0.2.2", quiet=True)
    for _ in range(connections.waiting_room(2) + 5):
        gate.come("192.0.2.3")
    found = gate.all.counters()
    assert found["connections"] == len(gate.all)
    assert found["opening"] == 1
    assert found["over_limit"] == len(gate.all._waiting)
    assert (found["unheard"], found["idle_upstreams"], found["killed"]) == (gate.all._unheard, 0, 0)
    assert found["accepted"] + found["unheard"] == connections.waiting_room(2) + 7


# --- a reload ---------------------------------------------------------------------------------------------------------


class Turns:
    """Stands for a reactor: what is to come next comes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.next: list[Callable[[], None]] = []

    def seconds(self) -> float:
        return self.now

    def callLater(self, seconds: float, call: Callable[[], None]) -> None:  # noqa: N802 - a reactor's
        assert not seconds
        self.next.append(call)

    def turn(self) -> None:
        (call,) = self.next
        self.next.clear()
        call()


class Slow:
    """A connection that takes a millisecond to find out whether it may stay."""

    def __init__(self, turns: Turns, told: list[Slow]) -> None:
        self._turns, self._told = turns, told

    def reloaded(self) -> None:
        self._turns.now += 0.001
        self._told.append(self)


class Crowd:
    def __init__(self, poller: Poller, folder: Path, size: int) -> None:
        self.turns, self.told = Turns(), list[Slow]()
        self.all = Connections(self.turns, poller, Audit(folder / "audit"))
        house: Any = self.all
        self.drivers: set[Any] = house._drivers
        self.drivers.update(Slow(self.turns, self.told) for _ in range(size))


def test_ten_thousand_are_told_in_slices(poller: Poller, tmp_path: Path) -> None:
    """Others have their turn after 20 ms each time."""
    crowd = Crowd(poller, tmp_path, 10_000)
    crowd.all.reloaded()
    slices = [len(crowd.told)]
    while crowd.turns.next:
        crowd.turns.turn()
        slices.append(len(crowd.told) - sum(slices))
    assert max(slices) <= 21
    assert len(crowd.told) == 10_000
    assert set(crowd.told) == crowd.drivers
    crowd.all._audit.close()


def test_another_reload_meanwhile_begins_anew(poller: Poller, tmp_path: Path) -> None:
    """Those that were told already are told again; who has gone is not."""
    crowd = Crowd(poller, tmp_path, 50)
    crowd.all.reloaded()
    first = len(crowd.told)
    crowd.drivers.difference_update(crowd.told[:5])
    crowd.all.reloaded()
    while crowd.turns.next:
        crowd.turns.turn()
    again = crowd.told[first:]
    assert len(again) == len(set(again)) == 45
    assert set(again) == crowd.drivers
    crowd.all._audit.close()


def test_one_that_cannot_be_told_keeps_no_other_from_it(poller: Poller, tmp_path: Path) -> None:
    crowd = Crowd(poller, tmp_path, 3)

    class Broken(Slow):
        def reloaded(self) -> None:
            super().reloaded()
            raise RuntimeError

    crowd.drivers.add(Broken(crowd.turns, crowd.told))
    for _ in range(2):
        with suppress(RuntimeError):
            crowd.all.reloaded()
        while crowd.turns.next:
            with suppress(RuntimeError):
                crowd.turns.turn()
    assert {one: crowd.told.count(one) for one in crowd.drivers} == dict.fromkeys(crowd.drivers, 2)
    crowd.all._audit.close()


def test_sessions_hear_of_a_reload(gate: Gate) -> None:
    gate.log_in()
    gate.come()
    gate.come(quiet=True)
    gate.all.reloaded()
    assert sum(isinstance(event, Reloaded) for event in gate.heard) == 2
    assert not any(isinstance(event, Reloaded) for event in gate.quietly)
