"""What HTTP asks of a driver: both sides at their own pace, upstreams that are handed on, records of requests."""

from __future__ import annotations

import gc
import random
import select
import socket
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.net.driver import MAX_PENDING, Driver
from gateway.net.poller import Poller
from gateway.net.stream import SIZE
from gateway.net.transport import LINGER_SECONDS, Transport
from gateway.session.vocabulary import (
    Asked,
    Close,
    Command,
    Data,
    Dial,
    Dialed,
    Ended,
    Event,
    Expired,
    HangUp,
    Hold,
    Lost,
    Opened,
    Passage,
    Proceed,
    Release,
    RequestRecord,
    Reuse,
    Secured,
    Send,
    SetDeadline,
    ShuttingDown,
    Side,
    Sniff,
    Sniffed,
    Splice,
    StartTLS,
    TimedOut,
)
from gateway.upstream import Address
from tests.drivers import CLIENT, Bench, Make, benches
from tests.reactor import ManualReactor
from tests.wires import SECTION, Authority, Peer, tcp_pair, unix_pair

BUG = "a bug in the gateway (see its log)"


@pytest.fixture
def bench(reactor: ManualReactor, poller: Poller, authority: Authority, tmp_path: Path) -> Iterator[Make]:
    with benches(reactor, poller, authority, tmp_path) as make:
        yield make


def noise(size: int, seed: int = 1) -> bytes:
    """Of which no part is like another."""
    return random.Random(seed).randbytes(size)


def narrow() -> tuple[socket.socket, socket.socket]:
    return unix_pair(4096)


def across(event: Data) -> list[Command]:
    """What a proxy does with a body."""
    return [Send(Side.UPSTREAM if event.side is Side.CLIENT else Side.CLIENT, event.data)]


def through(one: Bench, answers: dict[type, Any] | None = None) -> Bench:
    """Up to an upstream to which, and from which, everything is passed on. Its socket holds little, too."""
    one.answers |= {Opened: [one.dial], Data: across, **(answers or {})}
    one.start()
    one.reactor.until(lambda: one.session.of(Dialed) and one.accepted, one.accept)
    for sock in (upstream_of(one)._sock, one.far.sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return one


def upstream_of(one: Bench) -> Transport:
    upstream = one.driver._upstream.transport
    assert upstream is not None
    return upstream


def stand_still(one: Bench, *peers: Peer) -> None:
    """Until nothing moves any more, however often these peers try to send."""
    for _ in range(50):
        one.reactor.settle()
        for peer in peers:
            peer.step()


def count(one: Bench, side: Side) -> int:
    return sum(len(event.data) for event in one.session.of(Data) if event.side is side)


# --- back-pressure -------------------------------------------------------------------------------------------------


def test_an_upload_goes_as_fast_as_the_upstream_takes_it(bench: Make):
    one = through(bench(pair=narrow))
    body = noise(1_000_000)
    one.client.write(body)
    stand_still(one, one.client)
    assert 0 < upstream_of(one).pending <= SIZE
    assert count(one, Side.CLIENT) <= 2 * SIZE

    def go_on() -> None:
        one.far.read(10_000)
        one.client.step()
        one.reactor.settle()
        assert upstream_of(one).pending <= SIZE

    one.reactor.until(lambda: len(one.far.data) >= len(body), go_on)
    assert one.far.data == body


def test_a_download_goes_as_fast_as_the_client_takes_it(bench: Make):
    one = through(bench(pair=narrow))
    body = noise(1_000_000)
    one.far.write(body)
    stand_still(one, one.far)
    assert 0 < one.driver._client.pending <= SIZE
    assert count(one, Side.UPSTREAM) <= 2 * SIZE

    def go_on() -> None:
        one.client.read(10_000)
        one.far.step()
        one.reactor.settle()
        assert one.driver._client.pending <= SIZE

    one.reactor.until(lambda: len(one.client.data) >= len(body), go_on)
    assert one.client.data == body


def test_one_way_that_is_stuck_does_not_stop_the_other(bench: Make):
    """An upstream that answers before it has read the body, and a client that reads the answer as it comes."""
    one = through(bench(pair=narrow))
    body, answer = noise(1_000_000, 1), noise(1_000_000, 2)
    one.client.write(body)
    stand_still(one, one.client)
    one.far.write(answer)
    one.reactor.until(lambda: len(one.client.data) >= len(answer), one.client.read, one.far.step)
    assert one.client.data == answer
    assert one.far.data == b""
    one.until(lambda: len(one.far.data) == len(body))
    assert one.far.data == body


def test_who_is_not_read_is_still_heard_to_end(bench: Make):
    """The session has to know that nobody waits for the answer any more."""
    one = through(bench(pair=narrow))
    one.far.write(noise(1_000_000))
    stand_still(one, one.far)
    assert one.driver._client.pending
    one.client.sock.close()
    assert one.heard(Lost).side is Side.CLIENT


class Traffic:
    """Two peers that send what they have, and take what comes, in pieces; whatever comes of it is checked."""

    def __init__(self, one: Bench) -> None:
        self.one = one
        self.sent = {one.client: bytearray(), one.far: bytearray()}
        self.seed = 0

    def say(self, peer: Peer, size: int) -> None:
        self.seed += 1
        data = noise(size, self.seed)
        self.sent[peer] += data
        peer.write(data)

    def do(self, what: str, size: int) -> None:
        one = self.one
        match what:
            case "client says":
                self.say(one.client, size)
            case "upstream says":
                self.say(one.far, size)
            case "client reads":
                one.client.read(size)
            case "upstream reads":
                one.far.read(size)
            case "turn":
                one.client.step()
                one.far.step()
                one.reactor.turn()
            case "hold":
                one.driver._hold(Hold())
            case "proceed":
                one.driver._proceed(Proceed())
        assert one.driver._client.pending <= SIZE
        assert upstream_of(one).pending <= SIZE

    def finish(self) -> None:
        one = self.one
        one.driver._proceed(Proceed())
        done = {one.far: self.sent[one.client], one.client: self.sent[one.far]}
        one.until(lambda: all(len(peer.data) == len(data) for peer, data in done.items()))
        assert all(peer.data == data for peer, data in done.items())


DOINGS = ("client says", "upstream says", "client reads", "upstream reads", "turn", "turn", "hold", "proceed")
STEPS = st.lists(st.tuples(st.sampled_from(DOINGS), st.integers(1, 150_000)), max_size=60)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_nothing_is_lost_or_reordered_or_stuck(authority: Authority, tmp_path: Path, steps: list[tuple[str, int]]):
    reactor = ManualReactor()
    poller = Poller(reactor)
    with benches(reactor, poller, authority, tmp_path) as make:
        traffic = Traffic(through(make(pair=narrow)))
        for what, size in steps:
            traffic.do(what, size)
        traffic.finish()
    poller.close()


@pytest.mark.parametrize("seed", range(6))
def test_nor_is_it_with_tls(bench: Make, authority: Authority, seed: int):
    one = bench(pair=narrow)
    connection = authority.as_client(one.client.sock)
    connection.set_alpn_protos([b"postgresql"])
    one.client.tls = connection
    one.answers |= {Opened: [StartTLS(Side.CLIENT)], Secured: [one.dial], Data: across}
    one.start()
    one.until(lambda: one.session.of(Dialed) and one.accepted)
    for sock in (upstream_of(one)._sock, one.far.sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    traffic, chance = Traffic(one), random.Random(seed)
    for _ in range(200):
        traffic.do(chance.choice(DOINGS), chance.randrange(1, 100_000))
    traffic.finish()


def test_who_asks_on_and_on_and_never_reads_is_ended(bench: Make):
    """Nothing else bounds what a session itself says."""
    one = bench(pair=narrow)
    one.answers |= {Opened: [one.dial], Data: [Send(Side.CLIENT, bytes(SIZE - 1))]}
    one.start()
    one.reactor.until(lambda: one.session.of(Dialed) and one.accepted, one.accept)
    most = 0
    for _ in range(20):
        if not one.session.ended:
            one.client.write(b"GET / HTTP/1.1\r\n\r\n")
            one.reactor.settle()
            most = max(most, one.driver._client.pending)
    assert MAX_PENDING - SIZE < most <= MAX_PENDING
    # At once, rather than after it had a moment more to read.
    assert one.driver._client.closed
    assert one.ended()["reason"] == "the client does not read what it asks for"
    one.until(lambda: one.far.end)


def test_who_reads_at_last_may_go_on(bench: Make):
    one = bench({Data: [Send(Side.CLIENT, bytes(SIZE - 1))]}, pair=narrow).start()
    for _ in range(30):
        one.client.data.clear()
        for _ in range(7):
            one.client.write(b"GET / HTTP/1.1\r\n\r\n")
            one.reactor.settle()
        one.until(lambda: len(one.client.data) == 7 * (SIZE - 1))
    assert not one.session.ended


@pytest.mark.parametrize("kind", ["dialed", "reused"])
def test_a_new_upstream_waits_too_while_the_client_takes_the_last_answer(bench: Make, kind: str):
    """Its answer would come on top of the other."""
    one = bench(pair=narrow)
    answer = Send(Side.CLIENT, bytes(100_000))
    if kind == "dialed":
        one.answers[Opened] = [answer, one.dial]
    else:
        one.answers |= {Opened: [one.dial], Dialed: [Release(), answer], TimedOut: lambda _: reuse(one)}
    one.start()
    one.reactor.until(lambda: one.session.of(Dialed) and one.accepted, one.accept)
    if kind == "reused":
        one.driver.tell(TimedOut())
    one.far.write(b"the next answer")
    one.reactor.settle()
    assert one.driver._client.pending
    assert one.session.of(Data) == []
    one.until(lambda: len(one.client.data) == 100_000)
    assert one.heard(Data) == Data(Side.UPSTREAM, b"the next answer")


def test_also_one_that_has_to_shake_hands_first(bench: Make, authority: Authority):
    one = bench(pair=narrow)
    one.server.close()
    one.server = server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    one.answers |= {
        Opened: [Dial(authority.upstream, Address(*server.getsockname()))],
        Dialed: [Send(Side.CLIENT, bytes(100_000)), StartTLS(Side.UPSTREAM)],
    }
    one.start()
    one.reactor.until(lambda: one.accepted, one.accept)
    one.far.secure(authority.as_server(one.far.sock))
    one.reactor.until(lambda: one.session.of(Secured) and one.far.secured, one.far.step)
    one.far.write(b"the next answer")
    assert select.select([upstream_of(one)._sock], [], [], 5)[0]
    one.reactor.settle()
    assert one.session.of(Data) == []
    one.until(lambda: len(one.client.data) == 100_000)
    assert one.heard(Data) == Data(Side.UPSTREAM, b"the next answer")


# --- Hold and Proceed ----------------------------------------------------------------------------------------------


def held(bench: Make, **how: Any) -> Bench:
    one = bench(**how)
    through(one, {Data: lambda event: [*across(event), Hold()] if event.data.startswith(b"hold") else across(event)})
    one.client.write(b"hold")
    one.until(lambda: one.far.data == b"hold")
    return one


def test_who_is_held_is_not_read_until_it_may_proceed(bench: Make):
    one = held(bench)
    one.client.write(b"more")
    one.far.write(b"an answer")
    one.until(lambda: one.client.data == b"an answer")
    one.reactor.settle()
    assert one.far.data == b"hold"
    one.answers[TimedOut] = [Proceed()]
    one.driver.tell(TimedOut())
    one.until(lambda: one.far.data == b"holdmore")


@pytest.mark.parametrize("what", ["upstream drained", "upstream lost", "hung up", "released", "dialed again"])
def test_only_proceed_ends_a_hold(bench: Make, what: str):
    """Neither do the other occasions on which a client is read again."""
    one = held(bench)
    one.client.write(b"more")
    if what == "upstream drained":
        one.driver._send(Send(Side.UPSTREAM, bytes(100_000)))
        assert upstream_of(one).pending
        one.until(lambda: not upstream_of(one).pending)
    elif what == "upstream lost":
        one.far.sock.close()
        one.heard(Lost)
    else:
        commands: dict[str, Command] = {"hung up": HangUp(), "released": Release(), "dialed again": one.dial}
        one.answers[TimedOut] = [commands[what]]
        one.driver.tell(TimedOut())
    for _ in range(10):
        one.step()
        one.reactor.settle()
    assert count(one, Side.CLIENT) == len(b"hold")
    one.driver._proceed(Proceed())
    one.until(lambda: count(one, Side.CLIENT) == len(b"holdmore"))


def test_proceed_does_not_go_before_the_upstream(bench: Make):
    one = held(bench, pair=narrow)
    one.driver._send(Send(Side.UPSTREAM, noise(100_000)))
    one.client.write(b"more")
    one.driver._proceed(Proceed())
    one.reactor.settle()
    assert count(one, Side.CLIENT) == len(b"hold")
    one.until(lambda: len(one.far.data) == 100_008)
    assert one.far.data == b"hold" + noise(100_000) + b"more"


def test_what_tls_holds_is_read_when_it_may_proceed(bench: Make, authority: Authority):
    """No event tells of it."""
    one = bench()
    connection = authority.as_client(one.client.sock)
    connection.set_alpn_protos([b"postgresql"])
    one.client.tls = connection
    first = iter([[Hold()]])
    one.answers |= {Opened: [StartTLS(Side.CLIENT)], Data: lambda _: next(first, [])}
    one.start()
    one.until(lambda: one.client.secured and one.session.of(Secured))
    # More than is read at once, in few enough records to be on the socket at the same time.
    body = noise(150_000)
    one.client.write(body)
    one.heard(Data)
    one.until(lambda: not one.client.outbox)
    one.reactor.settle()
    assert len(one.session.of(Data)) == 1
    one.driver._proceed(Proceed())
    one.until(lambda: count(one, Side.CLIENT) == len(body))
    assert b"".join(event.data for event in one.session.of(Data)) == body


def test_a_splice_ends_a_hold(bench: Make):
    """What the client has sent ahead is relayed, as it is."""
    one = bench()
    one.answers |= {Opened: [Hold(), one.dial], Dialed: [Splice(to_upstream=b"ahead, ")]}
    one.client.write(b"and more")
    one.start()
    one.until(lambda: one.accepted and one.far.data == b"ahead, and more")
    assert one.session.of(Data) == []


# --- Release, Reuse, HangUp ----------------------------------------------------------------------------------------


def reuse(one: Bench) -> list[Command]:
    """As a session does it: it asks first."""
    assert one.session.questions.idle(one.dial)
    return [Reuse(one.dial)]


def released(one: Bench) -> Bench:
    """It has used an upstream, and given it away."""
    one.answers |= {
        Opened: [one.dial],
        Dialed: [Send(Side.UPSTREAM, b"a request")],
        Data: lambda event: [Release()] if event.side is Side.UPSTREAM else [],
    }
    one.start()
    one.until(lambda: one.accepted and one.far.data == b"a request")
    one.far.write(b"an answer")
    one.heard(Data)
    assert len(one.house.pool) == 1
    return one


def test_one_gives_an_upstream_away_and_another_goes_on_with_it(bench: Make):
    first = released(bench())
    second = bench(beside=first, number=8)
    second.answers |= {Opened: lambda _: [Reuse(second.dial), Send(Side.UPSTREAM, b"; another")]}
    assert second.driver.idle(second.dial)
    second.start()
    second.until(lambda: second.far.data == b"a request; another")
    second.far.write(b"its answer")
    assert second.heard(Data) == Data(Side.UPSTREAM, b"its answer")
    assert len(first.session.of(Data)) == 1
    assert first.house.let_in == [first.driver, second.driver]
    assert second.session.of(Dialed) == []
    assert len(first.accepted) == 1
    assert not second.driver.idle(second.dial)
    # The end of who had it first is nothing to who has it now.
    first.driver._end("over")
    first.until(lambda: first.client.end)
    assert not second.far.end
    second.far.sock.close()
    assert second.heard(Lost).side is Side.UPSTREAM


def test_the_same_one_goes_on_with_it_time_after_time(bench: Make):
    one = released(bench())
    one.answers[TimedOut] = lambda _: [*reuse(one), Send(Side.UPSTREAM, b".")]
    for _ in range(3):
        one.far.data.clear()
        one.session.heard.clear()
        one.driver.tell(TimedOut())
        one.until(lambda: one.far.data == b".")
        one.far.write(b"an answer")
        assert one.heard(Data) == Data(Side.UPSTREAM, b"an answer")
    assert len(one.accepted) == 1
    assert len(one.house.pool) == 1


def test_never_under_other_certificates(bench: Make, authority: Authority, tmp_path_factory: pytest.TempPathFactory):
    """After a reload: what was verified then is not for a session of now, nor the other way round."""
    first = released(bench())
    other = Authority(tmp_path_factory.mktemp("other"), ca=authority.ca).certificates
    second = bench(beside=first, number=8, certificates=other)
    second.answers |= {Opened: lambda _: [Reuse(second.dial)]}
    assert not second.driver.idle(second.dial)
    second.start()
    assert second.ended()["reason"] == BUG
    assert not first.far.end
    assert first.driver.idle(first.dial)


def test_never_one_of_another_name(bench: Make):
    """Another section's upstream may be at the same address, and trusted otherwise."""
    first = released(bench())
    second = bench(beside=first, number=8)
    second.upstream = replace(second.upstream, name="other")
    assert not second.driver.idle(second.dial)
    assert second.driver.idle(replace(second.dial, name=first.dial.name))


def test_it_is_given_back_under_the_name_by_which_it_was_taken(bench: Make):
    """And not under that of what was dialed before it."""
    first = released(bench())
    used = first.far
    second = bench(beside=first, number=8)
    second.upstream = replace(second.upstream, name="other")
    second.answers |= {
        Opened: [second.dial],
        Dialed: lambda _: [*reuse(first), Send(Side.UPSTREAM, b"; another")],
        Data: [Release()],
    }
    second.start()
    second.until(lambda: used.data == b"a request; another")
    assert not second.driver.idle(first.dial)
    used.write(b"its answer")
    second.heard(Data)
    assert second.driver.idle(first.dial)
    assert not second.driver.idle(second.dial)


def _close(peer: Peer) -> None:
    peer.sock.close()


def _speak(peer: Peer) -> None:
    peer.write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")


@pytest.mark.parametrize("dies", [_close, _speak])
@pytest.mark.parametrize("told", [True, False])
def test_one_that_died_meanwhile_is_not_there(bench: Make, dies: Callable[[Peer], None], told: bool):
    one = released(bench())
    dies(one.far)
    if told:
        one.reactor.until(lambda: not len(one.house.pool))
    assert not one.driver.idle(one.dial)
    assert len(one.house.pool) == 0
    assert one.session.of(Lost) == []


def test_one_that_dies_after_the_question_is_lost_like_any_other(bench: Make):
    """A session has to know it, for it may ask again elsewhere."""
    one = released(bench())

    def ask(_: Event) -> list[Command]:
        again = reuse(one)
        one.far.sock.close()
        return [*again, Send(Side.UPSTREAM, b"another")]

    one.answers[TimedOut] = ask
    one.driver.tell(TimedOut())
    assert one.heard(Lost).side is Side.UPSTREAM
    assert len(one.session.of(Lost)) == 1
    one.answers[TimedOut] = [one.dial]
    one.driver.tell(TimedOut())
    one.until(lambda: len(one.session.of(Dialed)) == 2)


def test_a_reuse_takes_the_place_of_what_there_was(bench: Make):
    first = released(bench())
    second = bench(beside=first, number=8)
    second.answers |= {Opened: [second.dial], Dialed: lambda _: reuse(second)}
    second.start()
    second.until(lambda: len(second.accepted) == 2 and second.session.of(Dialed))
    second.until(lambda: second.accepted[1].end)
    second.accepted[0].write(b"hello")
    assert second.heard(Data) == Data(Side.UPSTREAM, b"hello")


def test_what_has_not_sent_everything_is_not_kept_and_holds_nobody_up(bench: Make):
    """The client waited for that one; nobody else will say that it may go on."""
    one = through(bench(pair=narrow))
    one.client.write(noise(300_000))
    stand_still(one, one.client)
    assert upstream_of(one).pending
    before = count(one, Side.CLIENT)
    one.driver._release(Release())
    assert len(one.house.pool) == 0
    one.until(lambda: one.far.end)
    one.until(lambda: count(one, Side.CLIENT) == 300_000 > before)


def test_what_was_lost_is_not_kept(bench: Make):
    one = through(bench(), {Lost: [Release()]})
    one.far.sock.close()
    one.heard(Lost)
    assert len(one.house.pool) == 0
    assert not one.driver.idle(one.dial)


def test_what_speaks_on_with_its_answer_is_not_kept(bench: Make, authority: Authority):
    """The second record is still in OpenSSL, and no session has seen it: it would be the next one's answer."""
    one = bench()
    one.server.close()
    one.server = server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    dial = Dial(authority.upstream, Address(*server.getsockname()), name=("main", "there"))
    one.answers |= {Opened: [dial], Dialed: [StartTLS(Side.UPSTREAM)], Data: [Release()]}
    one.start()
    one.until(lambda: one.accepted)
    one.far.secure(authority.as_server(one.far.sock))
    one.until(lambda: one.session.of(Secured) and one.far.secured)
    one.far.write(b"an answer" + bytes(200_000))
    one.heard(Data)
    one.reactor.settle()
    assert not one.driver.idle(dial)
    assert len(one.house.pool) == 0
    assert len(one.session.of(Data)) == 1


@pytest.mark.parametrize("command", [Release(), HangUp(), Proceed(), Hold()])
def test_without_an_upstream_there_is_nothing_to_do(bench: Make, command: Command):
    one = bench({Opened: [command, Close("went on")]}).start()
    assert one.ended()["reason"] == "went on"


def test_the_end_of_a_connection_leaves_what_it_has_released(bench: Make):
    one = released(bench())
    one.client.sock.close()
    one.answers[Lost] = [Close("left")]
    one.ended()
    one.reactor.advance(LINGER_SECONDS)
    assert len(one.house.pool) == 1
    assert not one.far.end


def test_after_a_hang_up_nothing_more_is_heard_of_it(bench: Make):
    """Also what it has already said, while the commands before are still being run."""
    one = bench()
    gone = replace(one.dial, upstream=replace(one.upstream, name="gone"))
    one.answers |= {Opened: [gone], Dialed: [StartTLS(Side.UPSTREAM), HangUp(), SetDeadline(5)]}
    one.start()
    one.until(lambda: one.accepted and one.far.end)
    assert one.session.of(Lost) == []
    one.reactor.advance(5)
    assert one.session.of(TimedOut) == [TimedOut()]


def test_after_a_hang_up_the_client_is_heard_as_before(bench: Make):
    one = bench()
    one.answers |= {Opened: [Sniff()], Sniffed: [StartTLS(Side.CLIENT), HangUp()]}
    one.start()
    one.client.write(b"\x16\x03\x01\x00\x05junk!")
    assert one.heard(Lost).side is Side.CLIENT


def test_hanging_up_before_it_was_dialed(bench: Make):
    one = bench()
    one.answers |= {Opened: [one.dial, HangUp()]}
    one.start()
    for _ in range(5):
        one.step()
        one.reactor.settle()
    assert one.session.of(Dialed) == []
    assert one.accepted == []


def test_hanging_up_lets_a_client_go_on_that_waited_for_it(bench: Make):
    one = through(bench(pair=narrow))
    one.client.write(noise(300_000))
    stand_still(one, one.client)
    before = count(one, Side.CLIENT)
    one.driver._hang_up(HangUp())
    one.until(lambda: one.far.end and count(one, Side.CLIENT) == 300_000 > before)


def test_an_upstream_that_is_lost_lets_a_client_go_on_that_waited_for_it(bench: Make):
    one = through(bench(pair=narrow))
    one.client.write(noise(300_000))
    stand_still(one, one.client)
    before = count(one, Side.CLIENT)
    one.far.sock.close()
    one.heard(Lost)
    one.until(lambda: count(one, Side.CLIENT) == 300_000 > before)


# --- deadlines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "then"), [(5, 10), (10, 5), (10, 10)])
def test_the_deadline_set_last_counts(bench: Make, first: float, then: float):
    one = bench({Opened: [SetDeadline(first), SetDeadline(then)]}).start()
    one.reactor.advance(then - 0.1)
    assert one.session.of(TimedOut) == []
    one.reactor.advance(0.2)
    assert one.session.of(TimedOut) == [TimedOut()]
    one.reactor.advance(100)
    assert one.session.of(TimedOut) == [TimedOut()]


def test_an_earlier_one_after_the_timer_was_set_again(bench: Make):
    one = bench({Opened: [SetDeadline(10)], Data: [SetDeadline(3)]}).start()
    one.reactor.advance(6)
    one.driver._set_deadline(SetDeadline(10))  # until 16
    one.reactor.advance(5)  # the first timer has passed, and was set again
    assert one.session.of(TimedOut) == []
    one.client.write(b"x")
    one.heard(Data)
    one.reactor.advance(2.9)
    assert one.session.of(TimedOut) == []
    one.reactor.advance(0.2)
    assert one.session.of(TimedOut) == [TimedOut()]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sets=st.lists(st.tuples(st.integers(0, 12), st.none() | st.integers(1, 10)), max_size=12))
def test_whichever_deadlines_are_set(authority: Authority, tmp_path: Path, sets: list[tuple[int, int | None]]):
    reactor = ManualReactor()
    poller = Poller(reactor)
    with benches(reactor, poller, authority, tmp_path) as make:
        one = make().start()
        due: float | None = None
        passed = 0
        for wait, seconds in (*sets, (20, None)):
            for _ in range(wait):
                reactor.advance(1)
                if due is not None and reactor.seconds() >= due:
                    due, passed = None, passed + 1
                assert len(one.session.of(TimedOut)) == passed
            due = None if seconds is None else reactor.seconds() + seconds
            one.driver._set_deadline(SetDeadline(seconds))
            assert len(reactor.getDelayedCalls()) == (due is not None)
    poller.close()


def test_a_later_deadline_moves_no_timer(bench: Make):
    """It comes with every request."""
    one = bench({Opened: [SetDeadline(10)]}).start()
    (timer,) = one.reactor.getDelayedCalls()
    before = timer.getTime()
    for _ in range(9):
        one.reactor.advance(1)
        one.driver._set_deadline(SetDeadline(10))
        assert one.reactor.getDelayedCalls() == [timer]
        assert timer.getTime() == before


@pytest.mark.parametrize("side", [Side.CLIENT, Side.UPSTREAM, None])
def test_a_deadline_says_who_does_not_take_what_was_sent(bench: Make, side: Side | None):
    one = through(bench(pair=narrow))
    if side:
        one.driver._send(Send(side, bytes(300_000)))
    one.driver._set_deadline(SetDeadline(5))
    one.reactor.advance(5)
    assert one.session.of(TimedOut) == [TimedOut(stalled=side)]


# --- records of requests -------------------------------------------------------------------------------------------

ASKED = Asked("GET", "things.example.org", "/channels/1")


def asked(status: int = 200, **more: Any) -> RequestRecord:
    return RequestRecord(ASKED, Passage("main", "meter-7", "0a", "allow meter-7 all"), status, **more)


def test_a_request_is_recorded_with_where_it_came_from(bench: Make):
    one = bench(
        {Data: [asked(from_client=3, to_client=4, seconds=0.25, upstream="10.0.0.1:80", decision="allowed")]}
    ).start()
    one.client.write(b"x")
    one.until(lambda: one.records("request"))
    assert one.records("request") == [
        {
            "time": "2030-03-17T17:46:40.000+00:00",
            "event": "request",
            "connection": 7,
            "listener": SECTION,
            "client": str(CLIENT),
            "method": "GET",
            "host": "things.example.org",
            "path": "/channels/1",
            "status": 200,
            "from_client": 3,
            "to_client": 4,
            "seconds": 0.25,
            "decision": "allowed",
            "route": "main",
            "subject": "meter-7",
            "serial": "0a",
            "rule": "allow meter-7 all",
            "upstream": "10.0.0.1:80",
        }
    ]


def test_each_is_recorded_at_its_own_time(bench: Make):
    one = bench({Data: [asked()]}).start()
    for second in ("40.000", "41.500", "43.000"):
        one.house.audit.clear()
        one.client.write(b"x")
        one.until(lambda: one.records("request"))
        assert one.records("request")[0]["time"][17:23] == second
        one.house.time += 1.5


def test_who_comes_through_a_proxy_is_recorded_as_who_it_is(bench: Make):
    one = bench({Opened: [asked(), Close("over")]}, proxy_networks=(ip_network("198.51.100.0/24"),)).start()
    one.client.write(b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 5432\r\n")
    one.over()
    assert one.records("request")[0]["client"] == "192.0.2.7:56324"


def test_a_connection_with_requests_leaves_no_record_of_its_end(bench: Make):
    one = bench({Data: [asked()], Lost: [Close("left")]}).start()
    one.client.write(b"x")
    one.until(lambda: one.records("request"))
    one.client.sock.close()
    one.over()
    assert [entry["event"] for entry in one.house.audit] == ["request"]


def test_one_without_any_does(bench: Make):
    one = bench({Lost: [Close("left")]}).start()
    one.client.sock.close()
    assert one.ended()["reason"] == "left"
    assert [entry["event"] for entry in one.house.audit] == ["close"]


def test_a_websocket_leaves_its_request_and_its_end(bench: Make):
    """When it was opened is said by the request; what went through it only by the end."""
    one = bench()
    one.answers |= {Opened: [one.dial], Dialed: [asked(101), Splice()]}
    one.start()
    one.until(lambda: one.accepted and one.records("request"))
    one.client.write(b"frames")
    one.until(lambda: one.far.data == b"frames")
    one.client.sock.close()
    one.far.sock.close()
    record = one.ended()
    assert (record["from_client"], record["to_client"]) == (6, 0)
    assert [entry["event"] for entry in one.house.audit] == ["request", "close"]


@pytest.mark.parametrize("end", ["bug", "give way", "shutdown", "end"])
def test_a_request_that_was_cut_short_is_recorded(bench: Make, end: str):
    """However the connection ends: the session has the last word, and nothing but records is run of it."""
    one = bench()
    one.answers[Ended] = [Send(Side.CLIENT, b"no"), one.dial, SetDeadline(5), asked(0, reason="cut"), Close("again")]
    one.start()
    doings: dict[str, Callable[[], object]] = {
        "bug": one.driver._client.on_bug,
        "give way": one.driver.give_way,
        "shutdown": one.driver.shut_down,
        "end": lambda: one.driver._end("over"),
    }
    one.answers |= {Lost: [Close("lost")], ShuttingDown: [Close("stopping")]}
    doings[end]()
    one.over()
    (record,) = one.house.audit
    assert (record["event"], record["reason"], record["status"]) == ("request", "cut", 0)
    one.client.read()
    assert one.client.data == b""
    assert one.driver._upstream._attempt is None


@pytest.mark.parametrize("end", ["closed", "spliced"])
def test_a_quiet_door_leaves_no_record(bench: Make, end: str):
    one = bench(quiet=True)
    one.answers |= {Opened: [one.dial], Dialed: [Splice()] if end == "spliced" else [Close("answered")]}
    one.start()
    one.until(lambda: one.accepted and one.session.of(Dialed))
    one.client.sock.close()
    one.far.sock.close()
    one.over()
    assert one.house.audit == []


# --- the end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [True, False])
def test_a_broken_end_is_seen_as_one(bench: Make, broken: bool):
    """Half an answer must not look like a whole one."""
    one = bench({Opened: [Send(Side.CLIENT, b"half"), Close("x", broken=broken)]}, pair=tcp_pair).start()
    one.over()
    one.until(lambda: one.client.end)
    assert one.client.end == ("cut" if broken else "eof")
    if not broken:
        assert one.client.data == b"half"


@pytest.mark.parametrize(
    ("faithful", "farewell", "end"), [(True, b"", "cut"), (True, b"bye", "eof"), (False, b"", "eof")]
)
def test_a_broken_end_of_a_relay(bench: Make, faithful: bool, farewell: bytes, end: str):
    """A faithful one breaks by itself wherever it has not said the end."""
    one = bench(pair=tcp_pair)
    one.answers |= {Opened: [one.dial], Dialed: [Splice(faithful=faithful)]}
    one.answers[Expired] = [Close("x", farewell, broken=faithful)]
    one.start()
    one.until(lambda: one.accepted and one.records("open"))
    one.driver.tell(Expired())
    one.until(lambda: one.client.end)
    assert one.client.end == end
    assert one.client.data == farewell


def _raise(_: Event) -> Sequence[Command]:
    raise RuntimeError


NOTHING: Any = None
BUGS: dict[str, Any] = {
    "the session": _raise,
    "a command": [Send(Side.UPSTREAM, NOTHING)],
    "a command behind another": [SetDeadline(5), Send(Side.UPSTREAM, b"x"), Send(Side.CLIENT, NOTHING), Close("x")],
    "nothing to reuse": [Reuse(Dial(NOTHING, NOTHING))],
    "no command at all": ["Close"],
    "not even a list": None,
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_ends_one_connection_once_and_frees_all_of_it(
    reactor: ManualReactor,
    poller: Poller,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bug: str,
):
    # Before it is begun, Twisted's log keeps everything, also the frames of failures.
    failures: list[str] = []
    monkeypatch.setattr(Driver, "_log", SimpleNamespace(failure=lambda text, **_: failures.append(text)))
    gc.collect()
    gc.disable()
    try:
        one = Bench(reactor, poller, authority, tmp_path, {})
        other = Bench(reactor, poller, authority, tmp_path, {}, beside=one, number=8)
        through(one, {Ended: [asked(0, reason="cut")]})
        other.start()
        session, sock = weakref.ref(one.session), weakref.ref(upstream_of(one)._sock)
        one.driver._set_deadline(SetDeadline(5))
        one.answers[Data] = BUGS[bug]
        one.client.write(b"hello")
        one.over()
        assert failures == ["a bug ended connection {number}"]
        assert one.records("request")[0]["reason"] == "cut"
        one.until(lambda: one.far.end)
        # Further events are nobody's.
        one.driver.tell(TimedOut())
        one.over()
        assert other.session.heard == [Opened(CLIENT)]
        one.client.sock.close()
        one.far.sock.close()
        reactor.settle()
        reactor.advance(LINGER_SECONDS)
        assert len(one.house.gone) == 1
        assert reactor.getDelayedCalls() == []
        one.scripts.clear()
        one.house.gone.clear()
        one.house.let_in.clear()
        one.answers.clear()
        del one.driver
        assert session() is None
        assert sock() is None
        other.driver._end("over")
        other.client.sock.close()
        one.server.close()
        reactor.settle()
    finally:
        gc.enable()


def test_what_was_released_holds_on_to_nobody(
    reactor: ManualReactor, poller: Poller, authority: Authority, tmp_path: Path
):
    """A driver that has ended is freed although its upstream lives on."""
    gc.collect()
    gc.disable()
    try:
        one = released(Bench(reactor, poller, authority, tmp_path, {}))
        session, sock, house = weakref.ref(one.session), weakref.ref(one.driver._client._sock), one.house
        one.driver._end("over")
        one.client.sock.close()
        reactor.settle()
        one.scripts.clear()
        one.answers.clear()
        house.gone.clear()
        house.let_in.clear()
        del one.driver
        assert session() is None
        assert sock() is None
        assert len(house.pool) == 1
        house.pool.close_all()
        one.server.close()
        for peer in one.accepted:
            peer.sock.close()
    finally:
        gc.enable()
