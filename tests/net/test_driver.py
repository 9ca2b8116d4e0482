"""One connection's life, with a session that does what the test says: every command, every deadline, one end."""

from __future__ import annotations

import gc
import json
import socket
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.net.driver import MAX_PENDING
from gateway.net.poller import Poller
from gateway.net.stillness import STALL_SECONDS
from gateway.net.transport import LINGER_SECONDS
from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Denial,
    Dial,
    Dialed,
    Dismissed,
    Drained,
    Ended,
    Enter,
    Event,
    Expired,
    HangUp,
    Idle,
    Lost,
    Mail,
    Opened,
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
from gateway.upstream import Address, ClientTLS, TLSMode, Upstream
from gateway.wire.postgres_framing import BackendFraming
from gateway.wire.proxy import BINARY_START
from tests.drivers import CLIENT, GRACE, IDLE, NOW, READY, TIMEOUT, Bench, Make, benches, spliced
from tests.reactor import ManualReactor
from tests.wires import SECTION, Authority, Peer, reset, tcp_pair, unix_pair

PROXY = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 5432\r\n"
PROXY2 = BINARY_START + b"\x21\x11\0\x0c" + bytes([192, 0, 2, 7, 198, 51, 100, 1]) + b"\xdc\x04\x15\x38"
LOCAL = BINARY_START + b"\x20\0\0\0"
SECRET = "correct horse battery staple"


@pytest.fixture
def bench(reactor: ManualReactor, poller: Poller, authority: Authority, tmp_path: Path) -> Iterator[Make]:
    with benches(reactor, poller, authority, tmp_path) as make:
        yield make


# --- events and commands -------------------------------------------------------------------------------------------


def test_a_client_is_announced_and_its_bytes_told(bench: Make):
    one = bench().start()
    assert one.session.heard == [Opened(CLIENT)]
    assert one.house.welcomed == [CLIENT.host]
    one.client.write(b"hello")
    assert one.heard(Data) == Data(Side.CLIENT, b"hello")


def test_one_too_many_is_told_so(bench: Make):
    one = bench()
    one.house.room = False
    one.start()
    assert one.session.heard == [Opened(CLIENT, over_limit=True)]


def test_a_subject_is_counted_by_the_house(bench: Make):
    one = bench().start()
    assert one.session.questions.admit("alice")
    assert one.house.admitted == ["alice"]


def test_sniff_then_direct_tls(bench: Make, authority: Authority):
    one = bench({Opened: [Sniff()], Sniffed: [StartTLS(Side.CLIENT)]}).start()
    connection = authority.as_client(one.client.sock)
    connection.set_alpn_protos([b"postgresql"])
    one.client.secure(connection)
    secured = one.heard(Secured)
    assert one.session.of(Sniffed) == [Sniffed(b"\x16")]
    assert secured.side is Side.CLIENT
    assert secured.tls.alpn == b"postgresql"
    assert secured.tls.version == "TLSv1.3"
    one.until(lambda: one.client.secured)
    one.client.write(b"inside")
    assert one.heard(Data) == Data(Side.CLIENT, b"inside")


def test_send_to_both_sides(bench: Make):
    one = bench()
    one.answers |= {
        Opened: [Send(Side.UPSTREAM, b"to nobody yet"), Send(Side.CLIENT, b"wait"), one.dial],
        Dialed: [Send(Side.UPSTREAM, b"hello upstream")],
    }
    one.start()
    one.until(lambda: one.accepted and one.far.data)
    assert one.far.data == b"hello upstream"
    assert one.client.data == b"wait"
    one.far.write(b"hello gateway")
    assert one.heard(Data) == Data(Side.UPSTREAM, b"hello gateway")


def test_commands_run_in_order_and_what_they_cause_waits(bench: Make):
    """StartTLS fails at once here; the session hears of it only after the commands behind it were run."""
    one = bench()
    one.answers |= {
        Opened: [Sniff()],
        Sniffed: [StartTLS(Side.CLIENT), SetDeadline(5)],
        Lost: lambda _: [Close(f"deadline: {one.driver._deadline._timer is not None}")],
    }
    one.start()
    one.client.write(b"\x16\x03\x01\x00\x05junk!")
    assert one.ended()["reason"] == "deadline: True"


def test_nothing_runs_after_close(bench: Make):
    one = bench()
    one.answers[Opened] = [
        Close("first", b"bye"),
        Send(Side.CLIENT, b"more"),
        one.dial,
        SetDeadline(1),
        Close("second"),
    ]
    one.start()
    assert one.ended()["reason"] == "first"
    assert one.driver._deadline._timer is None
    assert one.driver._upstream._attempt is None
    one.until(lambda: one.client.end)
    assert one.client.data == b"bye"


def test_events_after_the_end_are_not_told(bench: Make):
    one = bench({Opened: [Close("over")]}).start()
    one.client.write(b"hello?")
    one.driver.shut_down()
    one.driver.check_idle()
    one.driver.received(one.driver._client, b"x")
    one.driver.lost(one.driver._client, "gone")
    assert one.ended()["reason"] == "over"


# --- dialing -------------------------------------------------------------------------------------------------------


def test_who_has_something_dialed_has_proven_who_it_is(bench: Make):
    """Until then it gives way to others when the gateway is full."""
    one = bench().start()
    one.client.write(b"the proof")
    one.heard(Data)
    assert one.house.let_in == []
    one.answers[Data] = [one.dial]
    one.client.write(b"more of it")
    one.heard(Dialed)
    assert one.house.let_in == [one.driver]


def test_an_upstream_that_is_not_there(bench: Make, tmp_path: Path):
    nowhere = Dial(Upstream("main", (), ClientTLS(TLSMode.DISABLE)), Address(str(tmp_path / "none"), 0))
    one = bench({Opened: [nowhere]}).start()
    assert one.heard(Lost) == Lost(Side.UPSTREAM, "No such file or directory")


def test_dialing_again_drops_the_first(bench: Make):
    one = bench()
    one.answers |= {Opened: [one.dial], Dialed: lambda _: [one.dial] if len(one.session.of(Dialed)) == 1 else []}
    one.start()
    one.until(lambda: len(one.accepted) == 2 and len(one.session.of(Dialed)) == 2)
    one.until(lambda: one.accepted[0].end)
    assert not one.accepted[1].end
    assert one.session.of(Lost) == []


def test_dialing_again_before_the_first_is_there(bench: Make):
    one = bench()
    one.answers |= {Opened: [one.dial, one.dial]}
    one.start()
    one.heard(Dialed)
    one.step()
    one.reactor.settle()
    assert len(one.session.of(Dialed)) == 1
    assert len(one.accepted) == 1


def test_what_the_former_upstream_causes_is_not_blamed_on_the_next(bench: Make):
    """It is lost at once, while the commands that drop it are still being run."""
    one = bench()
    one.upstream = replace(one.upstream, name="gone")
    first, one.upstream = one.dial, replace(one.upstream, name="main")
    one.answers |= {
        Opened: [first],
        Dialed: lambda _: [StartTLS(Side.UPSTREAM), one.dial] if len(one.session.of(Dialed)) == 1 else [],
    }
    one.start()
    one.until(lambda: len(one.session.of(Dialed)) == 2)
    assert one.session.of(Lost) == []
    one.until(lambda: len(one.accepted) == 2)
    one.far.write(b"hello")
    assert one.heard(Data) == Data(Side.UPSTREAM, b"hello")


def test_what_the_client_causes_is_told_after_another_dial(bench: Make):
    one = bench()
    one.answers |= {Opened: [Sniff()], Sniffed: [StartTLS(Side.CLIENT), one.dial]}
    one.start()
    one.client.write(b"\x16\x03\x01\x00\x05junk!")
    assert one.heard(Lost).side is Side.CLIENT


def test_closed_while_dialing(bench: Make):
    one = bench()
    one.answers |= {Opened: [one.dial, Close("never mind")]}
    one.start()
    one.ended()
    one.reactor.advance(1)
    assert one.session.of(Dialed) == []


def test_an_upstream_that_leaves_before_the_splice(bench: Make):
    one = bench()
    one.answers |= {Opened: [one.dial]}
    one.start()
    one.until(lambda: one.accepted and one.session.of(Dialed))
    one.far.sock.close()
    assert one.heard(Lost) == Lost(Side.UPSTREAM, "the peer closed the connection", orderly=True)


@pytest.mark.parametrize("side", Side)
def test_a_reset_before_the_splice_is_no_end_in_order(bench: Make, side: Side):
    """Where the end of a stream is the end of an answer, half of one would look complete."""
    one = bench(pair=tcp_pair)
    server = one.server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    one.answers |= {Opened: [Dial(one.upstream, Address(*server.getsockname()))]}
    one.start()
    one.until(lambda: one.accepted and one.session.of(Dialed))
    reset(one.client.sock if side is Side.CLIENT else one.far.sock)
    lost = one.heard(Lost)
    assert (lost.side, lost.orderly) == (side, False)


def upstream_with_tls(bench: Make, authority: Authority, certificate_for: str) -> Bench:
    """The upstream of the authority's configuration, at a loopback address."""
    server = socket.create_server((certificate_for, 0))
    server.setblocking(False)
    one = bench()
    one.server.close()
    one.server = server
    one.answers |= {
        Opened: [Dial(authority.upstream, Address(*server.getsockname()))],
        Dialed: [StartTLS(Side.UPSTREAM)],
    }
    one.start()
    one.until(lambda: one.accepted)
    one.far.secure(authority.as_server(one.far.sock))
    return one


def test_tls_to_the_upstream(bench: Make, authority: Authority):
    one = upstream_with_tls(bench, authority, "127.0.0.1")
    secured = one.heard(Secured)
    assert secured.side is Side.UPSTREAM
    assert secured.tls.peer_certificate
    one.far.write(b"hello")
    assert one.heard(Data) == Data(Side.UPSTREAM, b"hello")


def test_an_upstream_whose_certificate_is_for_another_is_lost(bench: Make, authority: Authority):
    """The chain is right; not one byte of the session reaches it."""
    one = upstream_with_tls(bench, authority, "127.0.0.2")
    lost = one.heard(Lost)
    assert lost.side is Side.UPSTREAM
    assert "not for 127.0.0.2" in lost.reason
    assert one.session.of(Secured) == []
    one.until(lambda: one.far.end)
    assert one.far.data == b""


def test_an_upstream_that_a_reload_took_away(bench: Make):
    one = bench()
    one.answers |= {Opened: [one.dial], Dialed: [StartTLS(Side.UPSTREAM)]}
    one.upstream = replace(one.upstream, name="gone")
    one.answers[Opened] = [one.dial]
    one.start()
    assert one.heard(Lost) == Lost(Side.UPSTREAM, "the upstream is not configured any more")


def test_tls_to_an_upstream_that_is_gone_is_not_begun(bench: Make):
    one = bench({Opened: [StartTLS(Side.UPSTREAM), Close("went on")]}).start()
    assert one.ended()["reason"] == "went on"


# --- deadlines -----------------------------------------------------------------------------------------------------


def test_a_deadline_passes_once(bench: Make):
    one = bench({Opened: [SetDeadline(5)]}).start()
    one.reactor.advance(4.9)
    assert one.session.of(TimedOut) == []
    one.reactor.advance(0.2)
    one.reactor.advance(100)
    assert one.session.of(TimedOut) == [TimedOut()]


def test_a_deadline_replaces_the_one_before(bench: Make):
    one = bench({Opened: [SetDeadline(5), SetDeadline(10)]}).start()
    one.reactor.advance(9)
    assert one.session.of(TimedOut) == []
    one.reactor.advance(2)
    assert one.session.of(TimedOut) == [TimedOut()]


def test_a_deadline_is_called_off(bench: Make):
    one = bench({Opened: [SetDeadline(5), SetDeadline(None)]}).start()
    one.reactor.advance(100)
    assert one.session.of(TimedOut) == []


def test_the_end_calls_off_the_deadline(bench: Make):
    one = bench({Opened: [SetDeadline(5), Close("over")]}).start()
    one.reactor.advance(10)
    assert one.session.of(TimedOut) == []


@pytest.mark.parametrize("left", [0.0, -5.0, 10.0, 86_399.0, 86_400.0, 90_000.0, 10 * 365 * 86_400.0])
def test_expiry_is_told_when_it_is_time_however_far(bench: Make, left: float):
    """Twisted refuses timers that are years away; the token does not end sooner for it."""
    one = spliced(bench(idle_timeout=None), expires=NOW + left)
    waited = 0.0
    while waited < left - 60:
        step = min(86_000.0, left - 60 - waited)
        waited += step
        one.house.time += step
        one.reactor.advance(step)
        assert one.session.of(Expired) == []
        assert all(call.getTime() - one.reactor.seconds() <= 86_400 for call in one.reactor.getDelayedCalls())
    if left > 0:
        assert one.session.of(Expired) == []
    one.house.time = NOW + max(left, 0)
    one.reactor.advance(120)
    assert one.session.of(Expired) == [Expired()]


def test_no_expiry_is_never(bench: Make):
    one = spliced(bench(idle_timeout=None))
    one.house.time += 1e9
    one.reactor.advance(86_400)
    assert one.session.of(Expired) == []


def test_an_expired_session_ends_with_its_farewell(bench: Make):
    one = bench()
    one.answers[Expired] = [Close("the token has expired", b"E\0\0\0\x06!\0")]
    spliced(one, expires=NOW + 10)
    one.house.time += 10
    one.reactor.advance(10)
    assert one.ended()["reason"] == "the token has expired"
    one.until(lambda: one.client.end)
    assert one.client.data == READY + b"E\0\0\0\x06!\0"


# --- PROXY ---------------------------------------------------------------------------------------------------------

TRUSTED = (ip_network("198.51.100.0/24"),)


@pytest.mark.parametrize(("header", "shown"), [(PROXY, True), (PROXY2, True), (LOCAL, False)])
def test_a_proxy_header_split_at_every_byte(bench: Make, header: bytes, shown: bool):
    for cut in range(1, len(header)):
        one = bench(proxy_networks=TRUSTED).start()
        one.client.write(header[:cut])
        one.reactor.settle()
        assert one.scripts[0].heard == []
        one.client.write(header[cut:] + b"hello")
        opened = one.heard(Opened)
        assert opened.client == (Address("192.0.2.7", 56324) if shown else CLIENT)
        assert one.house.welcomed == [opened.client.host]
        assert one.heard(Data) == Data(Side.CLIENT, b"hello")
        one.client.sock.close()
        one.reactor.settle()
        one.driver._end("done")


def test_a_proxy_header_byte_by_byte(bench: Make):
    one = bench(proxy_networks=TRUSTED).start()
    for byte in PROXY2:
        one.client.write(bytes([byte]))
        one.reactor.settle()
    assert one.heard(Opened) == Opened(Address("192.0.2.7", 56324))


def test_a_proxy_header_with_the_client_hello_behind_it(bench: Make, authority: Authority):
    one = bench({Opened: [Sniff()], Sniffed: [StartTLS(Side.CLIENT)]}, proxy_networks=TRUSTED)
    outside, inside = unix_pair()
    hello = Peer(outside)
    hello.secure(authority.as_client(outside))
    one.client.write(PROXY + inside.recv(65_536))
    one.start()
    one.until(lambda: one.session.of(Sniffed))
    assert one.session.of(Sniffed) == [Sniffed(b"\x16")]
    one.until(lambda: one.client.data)
    assert one.client.data[:1] == b"\x16"  # its ServerHello
    outside.close()
    inside.close()


def test_from_the_trusted_network_the_header_is_required(bench: Make):
    one = bench(proxy_networks=TRUSTED).start()
    one.client.write(b"\0\0\0\x08\x04\xd2\x16\x2f hello")
    record = one.ended()
    assert record["reason"] == "PROXY header: not a PROXY header"
    assert record["client"] == str(CLIENT)
    assert one.session.heard == [Ended()]
    assert one.house.welcomed == []


def test_no_header_is_due_from_whoever_is_the_client_itself(bench: Make):
    """Entered from an address of the balancer's network: it has been said who it is."""
    one = bench(proxy_networks=TRUSTED)
    one.driver.start(as_client=True)
    assert one.heard(Opened) == Opened(CLIENT)
    one.client.write(PROXY)
    assert one.heard(Data) == Data(Side.CLIENT, PROXY)


def test_from_elsewhere_it_is_just_bytes(bench: Make):
    """Else anybody could say where they come from."""
    one = bench(proxy_networks=(ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))).start()
    assert one.heard(Opened) == Opened(CLIENT)
    one.client.write(PROXY)
    assert one.heard(Data) == Data(Side.CLIENT, PROXY)


def test_a_unix_client_is_in_no_network(bench: Make):
    one = bench(proxy_networks=(ip_network("0.0.0.0/0"),), peer=Address("", 0)).start()
    assert one.heard(Opened) == Opened(Address("", 0))


def test_a_proxy_header_that_does_not_come(bench: Make):
    one = bench(proxy_networks=TRUSTED).start()
    one.client.write(PROXY[:-1])
    one.reactor.settle()
    one.reactor.advance(TIMEOUT - 0.1)
    assert not one.records("close")
    one.reactor.advance(0.2)
    assert one.ended()["reason"] == "timed out before the PROXY header was complete"


def test_after_the_header_its_timeout_is_the_sessions(bench: Make):
    one = bench({Opened: [SetDeadline(100)]}, proxy_networks=TRUSTED).start()
    one.client.write(PROXY)
    one.heard(Opened)
    one.reactor.advance(99)
    assert one.session.of(TimedOut) == []


@pytest.mark.parametrize("sent", [b"", PROXY[:10]])
def test_who_leaves_within_the_proxy_header(bench: Make, sent: bytes):
    one = bench(proxy_networks=TRUSTED).start()
    one.client.write(sent)
    one.client.sock.close()
    assert one.ended()["reason"] == "PROXY header: the peer closed the connection"


def test_shutdown_within_the_proxy_header(bench: Make):
    one = bench(proxy_networks=TRUSTED).start()
    one.driver.shut_down()
    assert one.ended()["reason"] == "the gateway is shutting down"


# --- the open session ----------------------------------------------------------------------------------------------


def test_an_open_session_relays_and_counts(bench: Make):
    one = spliced(bench(), ahead=b"ahead")
    one.client.write(b"query")
    one.until(lambda: len(one.far.data) == 10)
    one.far.write(b"D\0\0\0\x08rows")
    one.until(lambda: len(one.client.data) == len(READY) + 9)
    one.house.time += 12.5
    one.client.sock.close()
    one.until(lambda: one.far.end)
    one.far.sock.close()
    record = one.ended()
    assert record["reason"] == "the client closed the connection"
    assert (record["from_client"], record["to_client"]) == (10, len(READY) + 9)
    assert record["seconds"] == 12.5
    assert one.session.of(Data) == []
    assert one.session.of(Lost) == []


def test_both_records_say_who_and_where(bench: Make):
    one = spliced(bench())
    one.driver._end("over")
    (opened,), (closed,) = one.records("open"), one.records("close")
    common = {"connection": 7, "listener": SECTION, "client": str(CLIENT), "user": "somebody", "subject": "alice"}
    assert common.items() <= opened.items()
    assert common.items() <= closed.items()
    assert "reason" not in opened
    assert opened["time"] == "2030-03-17T17:46:40.000+00:00"


@pytest.mark.parametrize("side", ["client", "upstream"])
def test_a_side_that_is_gone_when_the_session_opens(bench: Make, side: str):
    one = bench(pair=tcp_pair)

    def gone(_: Dialed) -> list[Command]:
        transport = one.driver._client if side == "client" else one.driver._upstream.transport
        assert transport
        transport.abort()
        return [Splice()]

    one.answers |= {Opened: [one.dial], Dialed: gone}
    one.start()
    assert "it was gone when the session opened" in one.ended()["reason"]


def test_a_reset_of_the_client(bench: Make):
    one = spliced(bench(pair=tcp_pair))
    reset(one.client.sock)
    assert one.ended()["reason"] == "the client's connection broke: Connection reset by peer"
    one.until(lambda: one.far.end)


def test_shutdown_waits_for_the_answer(bench: Make):
    one = bench()
    one.answers[ShuttingDown] = [Close("stopping", b"E\0\0\0\x06!\0", patient=True)]
    spliced(one)
    one.client.write(b"query")
    one.until(lambda: one.far.data)
    one.driver.shut_down()
    one.reactor.advance(GRACE / 2)
    assert not one.records("close")
    one.far.write(READY)
    one.until(lambda: one.client.data == READY * 2)
    one.reactor.advance(1)
    assert one.ended()["reason"] == "stopping"


def test_an_idle_session_is_told_so(bench: Make):
    one = spliced(bench())
    one.house.time += IDLE - 1
    one.driver.check_idle()  # it has moved since it was opened
    one.house.time += IDLE - 1
    one.driver.check_idle()
    assert one.session.of(Idle) == []
    one.client.write(b"x")
    one.until(lambda: one.far.data)
    one.house.time += 1
    one.driver.check_idle()
    one.house.time += IDLE - 1
    one.driver.check_idle()
    assert one.session.of(Idle) == []
    one.house.time += 1
    one.driver.check_idle()
    assert one.session.of(Idle) == [Idle()]
    one.driver.check_idle()
    assert one.session.of(Idle) == [Idle()]


@pytest.mark.parametrize("timeout", [None, IDLE])
def test_nobody_is_idle_without_a_timeout_or_before_the_splice(bench: Make, timeout: float | None):
    one = bench(idle_timeout=timeout)
    if timeout is None:
        spliced(one)
    else:
        one.start()
    one.house.time += 10 * IDLE
    one.driver.check_idle()
    one.house.time += 10 * IDLE
    one.driver.check_idle()
    assert one.session.of(Idle) == []


# --- the end -------------------------------------------------------------------------------------------------------


def _raise(_: Event) -> Sequence[Command]:
    raise RuntimeError(SECRET)


@pytest.mark.parametrize("event", [Opened, Data, Dialed, Ended])
def test_a_bug_in_the_session_ends_that_connection(bench: Make, event: type):
    one = bench()
    one.answers |= {Opened: [one.dial], Dialed: [Send(Side.CLIENT, b"x")], event: _raise}
    one.start()
    one.client.write(b"hello")
    if event is Ended:
        one.heard(Dialed)
        one.driver._end("over")
    record = one.ended()
    assert record["reason"] == ("over" if event is Ended else "a bug in the gateway (see its log)")
    assert SECRET not in json.dumps(one.house.audit)


def test_a_bug_in_running_a_command_ends_both_sides(bench: Make):
    """Also when the relay was already made: its upstream must not live on alone."""
    one = bench()
    framing: Any = "no framing at all"
    one.answers |= {
        Opened: [one.dial],
        Dialed: [Splice(framing, b"x" * 10, expires=NOW)],
        Expired: [Close("x", b"", False)],
    }
    one.start()
    assert one.ended()["reason"] == "a bug in the gateway (see its log)"
    one.until(lambda: one.accepted and one.far.end)


def test_a_splice_without_an_upstream_is_a_bug(bench: Make):
    one = bench({Opened: [Splice()]}).start()
    assert one.ended()["reason"] == "a bug in the gateway (see its log)"


def test_a_bug_in_the_relay_ends_both_sides(bench: Make):
    class Broken(BackendFraming):
        def feed(self, data: memoryview) -> None:
            raise RuntimeError(SECRET)

    one = bench()
    one.answers |= {Opened: [one.dial], Dialed: [Splice(Broken())]}
    one.start()
    one.until(lambda: one.accepted and one.records("open"))
    one.far.write(b"anything")
    record = one.ended()
    assert "a bug in the gateway (see its log)" in record["reason"]
    one.until(lambda: one.far.end and one.client.end)


def test_over_a_limit_it_gives_way(bench: Make):
    one = bench()
    one.house.room = False
    one.start()
    one.driver.give_way()
    assert one.house.gone == [one.driver]
    assert one.ended()["reason"] == "too many connections: gave way to a newer one"


def test_who_does_not_take_its_refusal_gives_way_too(bench: Make):
    one = bench({Opened: [Close("full", b"too many")]})
    one.house.room = False
    one.start()
    assert one.ended()["reason"] == "full"
    assert one.house.gone == []
    one.driver.give_way()
    assert one.house.gone == [one.driver]
    assert one.driver._client.closed
    assert one.ended()["reason"] == "full"


@pytest.mark.parametrize("takes", [True, False])
def test_counted_until_its_socket_is_closed(bench: Make, takes: bool):
    one = bench({Opened: [Close("no", b"no")]}).start()
    assert len(one.records("close")) == len(one.session.of(Ended)) == 1
    one.reactor.advance(LINGER_SECONDS - 0.1)
    assert one.house.gone == []
    if takes:
        one.client.sock.close()
        one.reactor.settle()
    else:
        one.reactor.advance(0.2)
    assert one.house.gone == [one.driver]


def test_what_was_sent_and_received_is_never_in_the_audit(bench: Make):
    secret = SECRET.encode()
    one = bench()
    one.answers |= {
        Opened: [one.dial],
        Dialed: [Send(Side.UPSTREAM, secret), Send(Side.CLIENT, secret), Splice(None, secret, NOW + 1e6)],
    }
    one.start()
    one.client.write(secret)
    one.until(lambda: one.accepted and len(one.far.data) >= 2 * len(secret))
    one.client.sock.close()
    one.far.sock.close()
    one.ended()
    assert SECRET not in json.dumps(one.house.audit)


def _upstream_says(one: Bench) -> None:
    if one.accepted:
        one.far.write(READY)


def _upstream_leaves(one: Bench) -> None:
    if one.accepted:
        one.far.sock.shutdown(socket.SHUT_RDWR)


def _turn(one: Bench) -> None:
    one.step()
    one.reactor.turn()


def _be_idle(one: Bench) -> None:
    one.house.time += IDLE
    one.driver.check_idle()


DOINGS: dict[str, Callable[[Bench], None]] = {
    "client says": lambda one: one.client.write(b"C"),
    "client leaves": lambda one: one.client.sock.shutdown(socket.SHUT_RDWR),
    "upstream says": _upstream_says,
    "upstream leaves": _upstream_leaves,
    "turn": _turn,
    "shutdown": lambda one: one.driver.shut_down(),
    "idle": _be_idle,
    "time": lambda one: one.reactor.advance(7),
    "give way": lambda one: one.driver.give_way(),
    "bug": lambda one: one.driver._client.on_bug(),
}


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(doings=st.lists(st.sampled_from(sorted(DOINGS)), max_size=20), proxy=st.booleans())
def test_one_end_whatever_happens(authority: Authority, tmp_path: Path, doings: list[str], proxy: bool):
    reactor = ManualReactor()
    poller = Poller(reactor)
    one = Bench(reactor, poller, authority, tmp_path, {}, proxy_networks=TRUSTED if proxy else (), idle_timeout=IDLE)
    one.answers |= {
        Opened: [SetDeadline(15), one.dial],
        Dialed: [SetDeadline(None), Splice(BackendFraming(), b"ahead", NOW + 50)],
        ShuttingDown: [Close("stopping", b"bye", patient=True)],
    }
    for kind in (TimedOut, Expired, Idle, Lost):
        one.answers[kind] = [Close(kind.__name__, b"bye")]
    one.start()
    one.client.write(PROXY)
    for doing in doings:
        try:
            DOINGS[doing](one)
        except OSError:
            continue
        assert len(one.session.of(Ended)) == len(one.records("close")) <= 1
        assert one.house.gone == [one.driver][: bool(one.session.of(Ended)) and one.driver._client.closed]
    one.client.sock.close()
    for peer in one.accepted:
        peer.sock.close()
    one.server.close()
    for _ in range(6):
        reactor.settle()
        one.house.time += 20
        reactor.advance(20)
    assert len(one.session.of(Ended)) == len(one.house.gone) == len(one.records("close")) == 1
    assert reactor.getDelayedCalls() == []
    assert not poller._watched
    poller.close()


@pytest.mark.parametrize("how", ["refused", "spliced"])
def test_an_ended_connection_is_freed_at_once(
    reactor: ManualReactor, poller: Poller, authority: Authority, tmp_path: Path, how: str
):
    """With its TLS state; a busy gateway would else hold many dead ones until the garbage collector comes."""
    gc.collect()
    gc.disable()
    try:
        one = Bench(reactor, poller, authority, tmp_path, {Opened: [Close("no", b"no")]} if how == "refused" else {})
        session, sock = weakref.ref(one.session), weakref.ref(one.driver._client._sock)
        if how == "refused":
            one.start()
        else:
            spliced(one)
        one.client.sock.close()
        for peer in one.accepted:
            peer.sock.close()
        one.ended()
        reactor.settle()
        reactor.advance(LINGER_SECONDS)
        one.server.close()
        # What the test itself holds of it.
        one.scripts.clear()
        one.house.gone.clear()
        one.house.let_in.clear()
        del one.driver
        assert session() is None
        assert sock() is None
    finally:
        gc.enable()


# --- a session that needs no upstream --------------------------------------------------------------------------------


def test_who_enters_has_proven_who_it_is_without_a_dial(bench: Make):
    one = bench({Opened: [Enter()]}).start()
    assert one.house.let_in == [one.driver]
    (record,) = one.records("open")
    assert record["subject"] == "alice"
    quietly = bench({Opened: [Enter(audited=False)]}, beside=one, number=8).start()
    assert one.house.let_in == [one.driver, quietly.driver]
    assert quietly.records("open") == []


def test_what_is_refused_in_a_session_that_goes_on_is_a_record_of_its_own(bench: Make):
    one = bench({Opened: [Denial("publish", "secret/topic", "why")]})
    one.start()
    one.session.facts.decision, one.session.facts.rule = "allowed", "rules:1"
    one.answers[TimedOut] = [Denial("subscribe", "secret/#", "why not")]
    one.driver.tell(TimedOut())
    denied = one.records("denied")
    assert [(entry["action"], entry["topic"]) for entry in denied] == [
        ("publish", "secret/topic"),
        ("subscribe", "secret/#"),
    ]
    assert {(entry["decision"], entry["subject"], entry.get("rule")) for entry in denied} == {
        ("refused", "alice", None)
    }
    assert not one.session.ended
    assert (one.session.facts.decision, one.session.facts.rule) == ("allowed", "rules:1")


def test_others_in_this_process_may_tell_it_something(bench: Make):
    one = bench({Dismissed: [Close("sent away", b"bye")]}).start()
    one.driver.tell(Dismissed(0x98, "why"))
    assert one.ended()["reason"] == "sent away"
    # After its end nothing happens.
    one.driver.tell(Dismissed(0x98, "again"))
    one.driver.tell(Mail(b"x"))
    assert len(one.session.of(Dismissed)) == 1
    one.until(lambda: one.client.end)
    assert one.client.data == b"bye"


def test_what_it_is_told_while_it_is_at_something_waits_its_turn(bench: Make):
    one = bench()

    def busy(_: Data) -> Sequence[Command]:
        one.driver.tell(Dismissed(1, "first"))
        one.driver.deliver(b"mail")
        one.driver.tell(Dismissed(2, "second"))
        return [Send(Side.CLIENT, b"answer,")]

    one.answers |= {Data: busy, Mail: lambda mail: [Send(Side.CLIENT, mail.data)]}
    one.start()
    one.client.write(b"x")
    one.until(lambda: one.client.data == b"answer,mail")
    assert one.session.heard[-3:] == [Dismissed(1, "first"), Mail(b"mail"), Dismissed(2, "second")]


def test_mail_is_delivered_at_once_and_counted(bench: Make):
    one = bench({Mail: lambda mail: [Send(Side.CLIENT, mail.data)], ShuttingDown: [Close("over")]}).start()
    for number in range(3):
        one.driver.deliver(b"mail%d" % number)
    one.until(lambda: one.client.data == b"mail0mail1mail2")
    # Nobody had to do more with it.
    assert one.session.of(Mail) == []
    one.driver.shut_down()
    assert one.ended()["to_client"] == 15


def test_nothing_is_delivered_after_the_end(bench: Make):
    one = bench({Opened: [Close("over", b"bye")]}).start()
    one.driver.deliver(b"late")
    one.until(lambda: one.client.end)
    assert one.client.data == b"bye"


@pytest.mark.parametrize(("from_client", "to_client"), [(None, None), (12, 34)])
def test_what_a_session_has_counted_is_in_the_record_of_its_end(
    bench: Make, from_client: int | None, to_client: int | None
):
    one = bench({Opened: [Close("over")]})
    one.session.facts.from_client, one.session.facts.to_client = from_client, to_client
    record = one.start().ended()
    assert (record["from_client"], record["to_client"]) == (from_client or 0, to_client or 0)
    assert "dropped" not in record


def test_what_a_client_has_missed_is_in_the_record_of_its_end(bench: Make):
    one = bench({Opened: [Close("over")]})
    one.session.facts.dropped = 3
    assert one.start().ended()["dropped"] == 3


# --- a client that does not take what it is sent ----------------------------------------------------------------------

MUCH = bytes(4 << 20)


def test_a_congested_client_is_told_of_once_it_has_taken_all(bench: Make):
    one = bench().start()
    assert not one.driver.congested()
    one.driver.deliver(MUCH)
    assert one.driver.congested()
    assert one.driver.congested()
    one.until(lambda: one.client.data == MUCH)
    one.until(lambda: one.session.of(Drained))
    assert not one.driver.congested()
    for _ in range(5):
        one.step()
        one.reactor.settle()
    assert one.session.of(Drained) == [Drained()]


def test_who_has_not_asked_is_not_told(bench: Make):
    one = bench().start()
    one.driver.deliver(MUCH)
    one.until(lambda: one.client.data == MUCH)
    one.reactor.settle()
    assert one.session.of(Drained) == []


def test_who_was_told_may_fill_it_again(bench: Make):
    """What is said at once may be larger than what may wait of what was said before."""
    one = bench()
    one.answers[Drained] = lambda _: [Send(Side.CLIENT, MUCH)] if len(one.session.of(Drained)) == 1 else ()
    one.start()
    one.driver.deliver(MUCH)
    assert one.driver.congested()
    one.until(lambda: len(one.client.data) == 2 * len(MUCH))
    assert len(one.session.of(Drained)) == 1


def test_a_client_that_takes_nothing_is_sent_no_more_than_so_much(bench: Make):
    one = bench({TimedOut: [Send(Side.CLIENT, bytes(MAX_PENDING // 4))]}).start()
    told = 0
    while not one.session.ended:
        one.driver.tell(TimedOut())
        told += 1
        assert told < 1000
        assert one.driver._client.pending <= MAX_PENDING
    assert one.ended()["reason"] == "the client does not read what it asks for"


def test_a_client_that_takes_nothing_of_it_for_a_minute_is_ended(bench: Make):
    one = bench().start()
    one.driver.deliver(MUCH)
    assert one.driver._client.left
    one.driver.check_idle()
    one.house.time += STALL_SECONDS - 1
    one.driver.check_idle()
    assert not one.session.ended
    one.house.time += 1
    one.driver.check_idle()
    assert one.ended()["reason"] == "the client does not take what it is sent"


def _has_taken(one: Bench, waits: int) -> bool:
    return one.driver._client.left < waits


def test_one_that_takes_a_little_is_not(bench: Make):
    one = bench().start()
    one.driver.deliver(MUCH)
    while waits := one.driver._client.left:
        one.driver.check_idle()
        one.house.time += STALL_SECONDS - 1
        one.driver.check_idle()
        one.until(partial(_has_taken, one, waits))
    # Nor is one that has nothing to take.
    for _ in range(3):
        one.house.time += STALL_SECONDS
        one.driver.check_idle()
    assert not one.session.ended


def test_an_upstream_that_takes_nothing_is_sent_no_more_than_so_much(bench: Make):
    one = bench()
    one.answers |= {Opened: [one.dial], TimedOut: [Send(Side.UPSTREAM, bytes(MAX_PENDING // 4))]}
    one.start()
    one.heard(Dialed)
    told = 0
    while not one.session.of(Lost):
        one.driver.tell(TimedOut())
        told += 1
        assert told < 1000
        assert one.driver._upstream.transport is None or one.driver._upstream.transport.pending <= MAX_PENDING
    assert one.session.of(Lost) == [Lost(Side.UPSTREAM, "it does not read what it asks for")]
    assert one.driver._upstream.transport is None


# --- an upstream that hears the last word -----------------------------------------------------------------------------


@pytest.mark.parametrize("orderly", [True, False])
def test_an_orderly_end_lets_what_was_said_arrive(bench: Make, orderly: bool):
    """Even if the client's end is the very next thing."""
    one = bench()
    one.answers |= {
        Opened: [one.dial],
        ShuttingDown: [Send(Side.UPSTREAM, MUCH), HangUp(orderly=orderly), Close("over")],
    }
    one.start()
    one.until(lambda: one.accepted and one.session.of(Dialed))
    one.driver.shut_down()
    assert one.driver._upstream.transport is None
    one.until(lambda: one.far.end)
    assert (one.far.data == MUCH) == orderly
    one.ended()


def test_an_orderly_end_before_there_is_an_upstream(bench: Make):
    one = bench({ShuttingDown: [HangUp(orderly=True), Close("over")]})
    one.answers[Opened] = [one.dial]
    one.start()
    one.driver.shut_down()
    assert one.driver._upstream._attempt is None
    one.ended()
    assert one.session.of(Dialed) == []


def test_an_upstream_that_never_reads_the_last_word_does_not_hold_up_anybody(bench: Make):
    one = bench()
    one.answers |= {
        Opened: [one.dial],
        ShuttingDown: [Send(Side.UPSTREAM, MUCH), HangUp(orderly=True), Close("over")],
    }
    one.start()
    one.until(lambda: one.accepted and one.session.of(Dialed))
    one.driver.shut_down()
    assert len(one.session.of(Ended)) == 1
    # `benches` sees that nothing is left after the longest linger there is.


def test_what_the_upstream_says_after_an_orderly_end_is_nothing(bench: Make):
    one = bench()
    one.answers |= {Opened: [one.dial], ShuttingDown: [HangUp(orderly=True)]}
    one.start()
    one.until(lambda: one.accepted and one.session.of(Dialed))
    one.driver.shut_down()
    one.far.write(b"wait, one more thing")
    one.until(lambda: one.far.end)
    one.far.sock.close()
    one.reactor.settle()
    assert one.session.of(Data) == one.session.of(Lost) == []
    # It may dial again.
    one.answers[TimedOut] = [one.dial]
    one.driver.tell(TimedOut())
    one.until(lambda: len(one.session.of(Dialed)) == 2)
