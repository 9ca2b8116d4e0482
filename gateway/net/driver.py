"""One connection's life: runs a session's commands on its two transports, keeps its deadlines, and has its records
written.

Owns the transports and the clock of one connection, and decides nothing. Whatever happens, it ends exactly once: the
session hears Ended, the counters are given back, both sockets are closed and one record is written; none where the
records of its requests have told everything.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from gateway.certs import tls_facts
from gateway.errors import ProtocolError, UpstreamError
from gateway.net.deadline import Deadline
from gateway.net.door import Door, House
from gateway.net.live import Live, Stage
from gateway.net.owner import OVER
from gateway.net.records import Records
from gateway.net.relay import Relay
from gateway.net.stillness import Stillness
from gateway.net.stream import SIZE
from gateway.net.transport import Transport
from gateway.net.upstream_side import UpstreamSide
from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Denial,
    Dial,
    Dialed,
    Drained,
    Ended,
    Enter,
    Event,
    Expired,
    HangUp,
    Hold,
    Idle,
    Killed,
    Lost,
    Mail,
    Opened,
    Proceed,
    Release,
    Reloaded,
    RequestRecord,
    Reuse,
    Secured,
    Send,
    Session,
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
from gateway.wire.proxy import ProxyHeader

# What may wait for a client that does not read: a read of the upstream's, and what a session itself says. Only one who
# asks on and on without reading an answer gets beyond that.
MAX_PENDING = 8 * SIZE


class Driver:
    """`start()` once; then it lives until it calls `house.farewell`."""

    _log = Logger()

    __slots__ = (
        "_client",
        "_congested",
        "_deadline",
        "_delivered",
        "_door",
        "_events",
        "_expires",
        "_header",
        "_held",
        "_house",
        "_over",
        "_records",
        "_relay",
        "_running",
        "_session",
        "_stillness",
        "_upstream",
        "address",
        "number",
        "subject",
    )

    def __init__(self, house: House, door: Door, number: int, sock: socket.socket, peer: Address) -> None:
        self._house, self._door = house, door
        self.number = number
        self.address: str | None = None  # what `house.welcome` counted
        self.subject: str | None = None  # what `house.admit` counted
        self._session: Session = door.session(self)
        self._client = Transport(house.poller, house.reactor, sock, self)
        self._upstream = UpstreamSide(house)
        self._relay: Relay | None = None
        self._header: ProxyHeader | None = None
        self._events: list[Event] = []
        self._running = self._over = False
        self._held = self._congested = False
        self._deadline = Deadline(house.reactor, self._deadline_passed)
        self._expires = 0.0
        self._delivered = 0
        now = house.now()
        self._records, self._stillness = Records(house, door, number, peer, now), Stillness(now)

    # --- what the session asks --------------------------------------------------------------------------------------

    def admit(self, subject: str) -> bool:
        return self._house.admit(self, subject)

    def renew(self) -> bool:
        latest = self._door.latest() if self._door.latest else self._door
        if latest is self._door:
            return True
        self._door = latest
        return self._trusted_by(latest)

    def trusted(self) -> bool:
        return self._trusted_by(self._door.latest() if self._door.latest else self._door)

    def _trusted_by(self, door: Door) -> bool:
        connection = self._client.connection
        if connection is None:
            return True
        # A tunnel may have become one whose clients speak no TLS: there is nothing any more that would trust this one.
        context = door.certificates.servers.get(door.name)
        return context is not None and context.still_trusts(connection)

    def deliver(self, data: bytes) -> None:
        if self._running:
            self._events.append(Mail(data))
        else:
            self._delivered += len(data)
            self._client.write(data)

    def congested(self) -> bool:
        self._congested = bool(self._client.pending)
        return self._congested

    def idle(self, dial: Dial) -> bool:
        return self._house.pool.ready((self._door.certificates, dial.name))

    # --- the beginning ----------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """It has ended; perhaps its client still has to take the last words."""
        return self._over

    def start(self, *, as_client: bool = False) -> None:
        """Read the PROXY header where one is due, then open the session. as_client: none is, whoever the peer is."""
        if not as_client and self._door.expects_proxy(self._records.client.host):
            self._header = ProxyHeader()
            self._set_deadline(SetDeadline(self._door.handshake_timeout))
            self._client.limit(self._header.needs)
            self._client.resume()
        else:
            self._open()

    def _proxied(self, data: bytes) -> None:
        assert self._header is not None  # `received` asks
        try:
            source = self._header.feed(data)
        except ProtocolError as error:
            self._end(f"PROXY header: {error}")
            return
        self._client.limit(self._header.needs)
        if source is None:
            return
        self._header = None
        self._client.limit(SIZE)
        if source.address is not None:
            self._records.client = Address(source.address, source.port or 0)
        self._open()

    def _open(self) -> None:
        client = self._records.client
        welcome = self._house.welcome(self, client.host)
        self.tell(Opened(client, over_limit=not welcome))
        if not self._over:
            self._client.when_drained(self._client_drained)
            self._hear_client()

    # --- events in, commands out ------------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """One event at a time: what a command causes at once waits its turn."""
        if self._running:
            self._events.append(event)
            return
        self._running = True
        try:
            while not self._over:
                for command in self._session.handle(event):
                    if not self._over:
                        _RUN[type(command)](self, command)
                if not self._events:
                    return
                event = self._events.pop(0)
        except Exception:  # noqa: BLE001 - fail closed, whatever it is
            self._log.failure("a bug ended connection {number}", number=self.number)
            self._end("a bug in the gateway (see its log)")
        finally:
            self._running = False

    def _side(self, transport: Transport) -> Side:
        return Side.CLIENT if transport is self._client else Side.UPSTREAM

    # --- what transports tell ---------------------------------------------------------------------------------------

    def sniffed(self, _: Transport, first: bytes) -> None:
        self.tell(Sniffed(first))

    def received(self, transport: Transport, data: bytes) -> None:
        if self._header is not None:
            self._proxied(data)
        else:
            self.tell(Data(Side.CLIENT if transport is self._client else Side.UPSTREAM, data))

    def secured(self, transport: Transport) -> None:
        connection = transport.connection
        assert connection is not None  # it has just finished its handshake
        if transport is self._client:
            if not self.renew():
                self._end("TLS: the client certificate is not trusted any more, since a reload")
                return
        else:
            try:
                self._upstream.verify(self._door.certificates)
            except UpstreamError as error:
                self._upstream.drop()
                self.tell(Lost(Side.UPSTREAM, str(error)))
                return
            if self._client.pending:
                transport.pause()  # which was read in spite of that, to shake hands
        self.tell(Secured(self._side(transport), tls_facts(connection, issuers=transport is self._client)))

    def lost(self, transport: Transport, reason: str) -> None:
        if self._relay is not None:
            self._relay.lost(transport, reason)
        elif self._header is not None:
            self._end(f"PROXY header: {reason}")
        else:
            self.tell(Lost(self._side(transport), reason, orderly=transport.ended))
            self._hear_client()

    # --- commands ---------------------------------------------------------------------------------------------------

    def _sniff(self, _: Sniff) -> None:
        self._client.sniff()

    def _start_tls(self, command: StartTLS) -> None:
        certificates = self._door.certificates
        if command.side is Side.CLIENT:
            self._client.start_tls(certificates.server(self._door.name).connection, small=command.small)
            return
        try:
            self._upstream.start_tls(certificates, small=command.small)
        except UpstreamError as error:
            self.tell(Lost(Side.UPSTREAM, str(error)))

    def _set_deadline(self, command: SetDeadline) -> None:
        if command.seconds is None:
            self._deadline.stop()
        else:
            self._deadline.set(command.seconds)

    def _deadline_passed(self) -> None:
        if self._relay is not None:
            self._wait_for_expiry()
        elif self._header is not None:
            self._end("timed out before the PROXY header was complete")
        else:
            self.tell(TimedOut(self._stalled()))

    def _stalled(self) -> Side | None:
        if self._client.pending:
            return Side.CLIENT
        upstream = self._upstream.transport
        return Side.UPSTREAM if upstream is not None and upstream.pending else None

    def _dial_upstream(self, command: Dial) -> None:
        self._house.opened(self)
        if self._upstream.begun:
            self._hang_up()
        self._upstream.dial(command, self._connected, self._not_connected)

    def _reuse(self, command: Reuse) -> None:
        self._house.opened(self)
        if self._upstream.begun:
            self._hang_up()
        self._take_upstream(self._upstream.reuse(command.dial, self._door.certificates, self))

    def _connected(self, sock: socket.socket) -> None:
        self._take_upstream(self._upstream.connected(sock, self))
        self.tell(Dialed())

    def _take_upstream(self, upstream: Transport) -> None:
        upstream.when_drained(self._hear_client)
        if self._client.pending:
            upstream.pause()

    def _not_connected(self, reason: str) -> None:
        self._upstream.failed()
        self.tell(Lost(Side.UPSTREAM, reason))

    def _release(self, _: Release) -> None:
        released = self._upstream.release(self._door.certificates)
        if released is not None and released.closed:
            self._hear_client()  # which may have waited for it

    def _hang_up(self, command: HangUp | None = None) -> None:
        if command is not None and command.orderly:
            self._upstream.close()
        self._upstream.drop()
        if self._events:
            # What that one may still have to say is nothing that the next one said.
            self._events = [event for event in self._events if getattr(event, "side", None) is not Side.UPSTREAM]
        self._hear_client()

    def _hold(self, _: Hold) -> None:
        self._held = True
        self._client.pause()

    def _proceed(self, _: Proceed) -> None:
        self._held = False
        self._hear_client()

    def _hear_client(self) -> None:
        """Read from the client, unless the session or what it has sent already keeps it waiting."""
        upstream = self._upstream.transport
        if not self._held and (upstream is None or not upstream.pending):
            self._client.proceed()

    def _client_drained(self) -> None:
        upstream = self._upstream.transport
        if upstream is not None:
            upstream.proceed()
        if self._congested and not self._client.pending:
            self._congested = False
            self.tell(Drained())

    def _send(self, command: Send) -> None:
        sink = self._client if command.side is Side.CLIENT else self._upstream.transport
        if sink is not None:
            sink.write(command.data)
            if sink.pending:
                self._hold_back(sink, len(command.data))

    def _hold_back(self, sink: Transport, said: int) -> None:
        """What one side does not take at once stops the other: at most one read of it waits.

        said: bytes that were said at once, which may be as many as a session lets it be.
        """
        client, upstream = self._client, self._upstream.transport
        source = upstream if sink is client else client
        if source is not None:
            source.pause()
        if sink.pending <= max(MAX_PENDING, said):
            return
        if sink is client:
            self._end("the client does not read what it asks for")
            client.abort()
        else:
            self._upstream.drop()
            self.tell(Lost(Side.UPSTREAM, "it does not read what it asks for"))

    def _record(self, command: RequestRecord) -> None:
        self._records.request(command)

    def _enter(self, command: Enter) -> None:
        self._house.opened(self)
        if command.audited:
            self._records.opened(self._session.facts)

    def _deny(self, command: Denial) -> None:
        self._records.denied(command, self._session.facts)

    def _splice(self, command: Splice) -> None:
        upstream = self._upstream.transport
        assert upstream is not None  # a session splices only after Dialed
        if not self._records.of_requests:
            self._records.opened(self._session.facts)
        self._deadline.stop()
        self._relay = Relay(
            self._house.reactor,
            self._client,
            upstream,
            command.framing,
            self._end,
            linger=command.linger,
            faithful=command.faithful,
        )
        if command.expires is not None:
            self._expires = command.expires
            self._wait_for_expiry()
        self._upstream.settle()
        lost = [transport for transport in (self._client, upstream) if transport.closed]
        if lost:
            self._relay.lost(lost[0], "it was gone when the session opened")
        else:
            self._relay.start(command.to_upstream)

    def _wait_for_expiry(self) -> None:
        left = self._expires - self._house.now()
        if left > 0:
            self._deadline.set(left)
        else:
            self.tell(Expired())

    def _close(self, command: Close) -> None:
        if self._relay is not None:
            grace = self._door.grace
            self._relay.finish(command.farewell, command.reason, command.patient, grace)
            return
        if command.farewell:
            self._client.write(command.farewell)
        self._records.lasting = self._records.lasting or command.audited
        self._end(command.reason, broken=command.broken)

    # --- what the house asks ----------------------------------------------------------------------------------------

    def shut_down(self) -> None:
        if self._header is not None:
            self._end("the gateway is shutting down")
        else:
            self.tell(ShuttingDown())

    def kill(self, reason: str) -> None:
        if self._header is not None:
            self._end(reason)
        else:
            self.tell(Killed(reason))

    def reloaded(self) -> None:
        if self._header is None:
            self.tell(Reloaded())

    def live(self, stage: Stage) -> Live | None:
        """As it is now; None: it has ended, and only its socket is left. stage: as far as the house knows."""
        if self._over:
            return None
        relay = self._relay
        if relay is not None:
            from_client, to_client = relay.from_client, relay.to_client
            stage = "open" if relay.farewell is None else "ending"
        else:
            from_client, to_client = self._session.moved()
            to_client += self._delivered
        return self._records.live(self._session.facts, from_client, to_client, stage)

    def give_way(self) -> None:
        """Others came while it was over a limit, or proved nothing and the gateway is full."""
        self._end("too many connections: gave way to a newer one")
        self._client.abort()

    def check_idle(self) -> None:
        """Asked now and then: tell the session when nothing has moved for the idle timeout."""
        if self._relay is None:
            self._check_stalled()
        if self._relay is None or self._door.idle_timeout is None:
            return
        moved = self._relay.from_client + self._relay.to_client
        if self._stillness.idle(moved, self._house.now(), self._door.idle_timeout):
            self.tell(Idle())

    def _check_stalled(self) -> None:
        if self._stillness.stalled(self._client.left, self._house.now()):
            self._end("the client does not take what it is sent")
            self._client.abort()

    # --- the end ----------------------------------------------------------------------------------------------------

    def _end(self, reason: str, *, broken: bool = False) -> None:
        if self._over:
            return
        self._over = True
        self._deadline.close()
        self._last_words()
        if self._relay is None:
            self._upstream.drop()
        else:
            self._relay.cut(reason)
        self._client.close(broken=broken)
        if self._relay is not None or self._records.lasting or not self._records.of_requests:
            self._record_end(reason)
        # These hold this driver: without this only the garbage collector would free it and its transports.
        self._relay, self._session = None, OVER
        # Counted for as long as it has a socket: who does not take its refusal is still there.
        self._client.when_closed(self._leave)

    def _last_words(self) -> None:
        try:
            for command in self._session.handle(Ended()):
                if isinstance(command, RequestRecord):
                    self._record(command)
        except Exception:  # noqa: BLE001 - the end is not to be stopped by it
            self._log.failure("a bug at the end of connection {number}", number=self.number)

    def _leave(self) -> None:
        self._house.farewell(self)

    def _record_end(self, reason: str) -> None:
        facts = self._session.facts
        if self._relay is not None:
            facts.from_client, facts.to_client = self._relay.from_client, self._relay.to_client
        else:
            facts.from_client, facts.to_client = facts.from_client or 0, (facts.to_client or 0) + self._delivered
        self._records.closed(facts, reason)


_RUN: dict[type[Command], Callable[[Driver, Any], None]] = {
    Sniff: Driver._sniff,
    StartTLS: Driver._start_tls,
    SetDeadline: Driver._set_deadline,
    Dial: Driver._dial_upstream,
    Reuse: Driver._reuse,
    Release: Driver._release,
    HangUp: Driver._hang_up,
    Hold: Driver._hold,
    Proceed: Driver._proceed,
    Send: Driver._send,
    Splice: Driver._splice,
    RequestRecord: Driver._record,
    Enter: Driver._enter,
    Denial: Driver._deny,
    Close: Driver._close,
}
