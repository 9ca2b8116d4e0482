"""One connection's life: runs a session's commands on its two transports, keeps its deadlines, writes its audit
records.

Owns the transports and the clock of one connection, and decides nothing. Whatever happens, it ends exactly once: the
session hears Ended, the counters are given back, both sockets are closed and one record is written.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Protocol

from twisted.logger import Logger

from gateway import audit
from gateway.certs import Certificates, tls_facts
from gateway.errors import ProtocolError, UpstreamError
from gateway.net import dial
from gateway.net.poller import Poller
from gateway.net.relay import Relay
from gateway.net.stream import SIZE
from gateway.net.transport import Transport
from gateway.policy import Network
from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Dial,
    Dialed,
    Ended,
    Event,
    Expired,
    Facts,
    Idle,
    Lost,
    Opened,
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

# Twisted refuses timers further away than this; a token may be valid for years.
_FAR = 86_400.0


@dataclass(frozen=True, slots=True)
class Door:
    """One listener's present settings, as a connection reads them once when it opens. A reload makes a new one.

    session: makes one from `admit(subject) -> bool`. section: names the server context in `certificates`.
    proxy_networks: peers that must begin with a PROXY header. idle_timeout, grace: seconds.
    """

    name: str
    section: str
    session: Callable[[Callable[[str], bool]], Session]
    certificates: Certificates
    proxy_networks: tuple[Network, ...]
    handshake_timeout: float
    idle_timeout: float | None
    grace: float


class House(Protocol):
    """What all connections of the process share (`gateway.net.connections`). `now`: seconds since the epoch."""

    reactor: Any
    poller: Poller
    now: Callable[[], float]

    def welcome(self, driver: Driver, address: str) -> bool:
        """Count a connection from that address; False: it is one too many."""

    def opened(self, driver: Driver) -> None:
        """It has proven who it is, and is let in."""

    def admit(self, driver: Driver, subject: str) -> bool:
        """Count a session of that subject; False: it is one too many."""

    def farewell(self, driver: Driver) -> None:
        """It has ended: give back what was counted."""

    def write_audit(self, line: str) -> None: ...


class Driver:
    """`start()` once; then it lives until it calls `house.farewell`."""

    _log = Logger()

    __slots__ = (
        "_client",
        "_deadline",
        "_dial",
        "_door",
        "_events",
        "_expires",
        "_header",
        "_house",
        "_moved",
        "_moved_at",
        "_opened_at",
        "_over",
        "_peer",
        "_relay",
        "_running",
        "_session",
        "_target",
        "_upstream",
        "address",
        "number",
        "subject",
    )

    def __init__(self, house: House, door: Door, number: int, sock: socket.socket, peer: Address) -> None:
        self._house, self._door, self._peer = house, door, peer
        self.number = number
        self.address: str | None = None  # what `house.welcome` counted
        self.subject: str | None = None  # what `house.admit` counted
        self._session: Session = door.session(self._admit)
        self._client = Transport(house.poller, house.reactor, sock, self)
        self._upstream: Transport | None = None
        self._dial: dial.Dial | None = None
        self._target: Dial | None = None
        self._relay: Relay | None = None
        self._header: ProxyHeader | None = None
        self._events: list[Event] = []
        self._running = self._over = False
        self._deadline: Any = None
        self._expires = 0.0
        self._opened_at = self._moved_at = house.now()
        self._moved = 0

    def _admit(self, subject: str) -> bool:
        return self._house.admit(self, subject)

    def start(self) -> None:
        """Read the PROXY header where one is due, then open the session."""
        if _within(self._peer.host, self._door.proxy_networks):
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
            self._peer = Address(source.address, source.port or 0)
        self._open()

    def _open(self) -> None:
        welcome = self._house.welcome(self, self._peer.host)
        self._tell(Opened(self._peer, over_limit=not welcome))
        if not self._over:
            self._client.resume()

    # --- events in, commands out ------------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        """One event at a time: what a command causes at once waits its turn."""
        self._events.append(event)
        if self._running:
            return
        self._running = True
        try:
            while self._events and not self._over:
                for command in self._handle(self._events.pop(0)):
                    if not self._over:
                        _RUN[type(command)](self, command)
        except Exception:  # noqa: BLE001 - fail closed, whatever it is
            self._log.failure("a bug ended connection {number}", number=self.number)
            self._end("a bug in the gateway (see its log)")
        finally:
            self._running = False

    def _handle(self, event: Event) -> Sequence[Command]:
        try:
            return self._session.handle(event)
        except Exception:  # noqa: BLE001 - fail closed, whatever it is
            self._log.failure("a bug ended connection {number}", number=self.number)
            return [Close("a bug in the gateway (see its log)")]

    def _transport(self, side: Side) -> Transport | None:
        return self._client if side is Side.CLIENT else self._upstream

    def _side(self, transport: Transport) -> Side:
        return Side.CLIENT if transport is self._client else Side.UPSTREAM

    # --- what transports tell ---------------------------------------------------------------------------------------

    def sniffed(self, _: Transport, first: bytes) -> None:
        self._tell(Sniffed(first))

    def received(self, transport: Transport, data: bytes) -> None:
        if self._header is not None:
            self._proxied(data)
        else:
            self._tell(Data(self._side(transport), data))

    def secured(self, transport: Transport) -> None:
        connection = transport.connection
        assert connection is not None  # it has just finished its handshake
        if transport is self._upstream and self._target is not None:
            context = self._door.certificates.client(self._target.upstream, self._target.login)
            try:
                context.verify(connection, self._target.address.host)
            except UpstreamError as error:
                self._drop_upstream()
                self._tell(Lost(Side.UPSTREAM, str(error)))
                return
        self._tell(Secured(self._side(transport), tls_facts(connection)))

    def lost(self, transport: Transport, reason: str) -> None:
        if self._relay is not None:
            self._relay.lost(transport, reason)
        elif self._header is not None:
            self._end(f"PROXY header: {reason}")
        else:
            self._tell(Lost(self._side(transport), reason))

    # --- commands ---------------------------------------------------------------------------------------------------

    def _sniff(self, _: Sniff) -> None:
        self._client.sniff()

    def _start_tls(self, command: StartTLS) -> None:
        certificates = self._door.certificates
        if command.side is Side.CLIENT:
            self._client.start_tls(certificates.server(self._door.section).connection)
        elif self._upstream is not None and self._target is not None:
            host = self._target.address.host
            try:
                context = certificates.client(self._target.upstream, self._target.login)
            except LookupError:
                # A cancel for a session that is older than a reload which took its upstream away.
                self._tell(Lost(Side.UPSTREAM, "the upstream is not configured any more"))
                return
            self._upstream.start_tls(lambda sock: context.connection(sock, host))

    def _set_deadline(self, command: SetDeadline) -> None:
        self._cancel_deadline()
        if command.seconds is not None:
            self._deadline = self._house.reactor.callLater(command.seconds, self._timed_out)

    def _timed_out(self) -> None:
        if self._header is not None:
            self._end("timed out before the PROXY header was complete")
        else:
            self._tell(TimedOut())

    def _cancel_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def _dial_upstream(self, command: Dial) -> None:
        self._drop_upstream()
        # What the one before may still have to say is nothing that the next one said.
        self._events = [event for event in self._events if getattr(event, "side", None) is not Side.UPSTREAM]
        self._target = command
        self._dial = dial.Dial(
            self._house.reactor,
            self._house.poller,
            command.address,
            self._connected,
            self._not_connected,
            command.upstream.connect_timeout,
        )

    def _connected(self, sock: socket.socket) -> None:
        self._dial = None
        self._upstream = Transport(self._house.poller, self._house.reactor, sock, self)
        self._upstream.resume()
        self._tell(Dialed())

    def _not_connected(self, reason: str) -> None:
        self._dial = None
        self._tell(Lost(Side.UPSTREAM, reason))

    def _drop_upstream(self) -> None:
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        if self._upstream is not None:
            self._upstream.abort()
            self._upstream = None

    def _send(self, command: Send) -> None:
        transport = self._transport(command.side)
        if transport is not None:
            transport.write(command.data)

    def _splice(self, command: Splice) -> None:
        assert self._upstream is not None  # a session splices only after Dialed
        self._audit("open")
        self._house.opened(self)
        self._relay = Relay(self._house.reactor, self._client, self._upstream, command.framing, self._end)
        if command.expires is not None:
            self._expires = command.expires
            self._wait_for_expiry()
        # What was dialed is not needed any more, and an idle session should cost little.
        self._target = None
        lost = [transport for transport in (self._client, self._upstream) if transport.closed]
        if lost:
            self._relay.lost(lost[0], "it was gone when the session opened")
        else:
            self._relay.start(command.to_upstream)

    def _wait_for_expiry(self) -> None:
        left = self._expires - self._house.now()
        if left > 0:
            self._deadline = self._house.reactor.callLater(min(left, _FAR), self._wait_for_expiry)
        else:
            self._deadline = None
            self._tell(Expired())

    def _close(self, command: Close) -> None:
        if self._relay is not None:
            grace = self._door.grace
            self._relay.finish(command.farewell, command.reason, command.patient, grace)
            return
        if command.farewell:
            self._client.write(command.farewell)
        self._end(command.reason)

    # --- what the house asks ----------------------------------------------------------------------------------------

    def shut_down(self) -> None:
        if self._header is not None:
            self._end("the gateway is shutting down")
        else:
            self._tell(ShuttingDown())

    def give_way(self) -> None:
        """Others came while it was over a limit, or proved nothing and the gateway is full."""
        self._end("too many connections: gave way to a newer one")
        self._client.abort()

    def check_idle(self) -> None:
        """Asked now and then: tell the session when nothing has moved for the idle timeout."""
        if self._relay is None or self._door.idle_timeout is None:
            return
        moved = self._relay.sent + self._relay.received
        now = self._house.now()
        if moved != self._moved:
            self._moved, self._moved_at = moved, now
        elif now - self._moved_at >= self._door.idle_timeout:
            self._moved_at = now
            self._tell(Idle())

    # --- the end ----------------------------------------------------------------------------------------------------

    def _end(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        self._cancel_deadline()
        self._handle(Ended())
        if self._relay is None:
            self._drop_upstream()
        else:
            self._relay.cut(reason)
        self._client.close()
        self._audit("close", reason)
        # These hold this driver: without this only the garbage collector would free it and its transports.
        self._relay, self._session = None, _OVER
        # Counted for as long as it has a socket: who does not take its refusal is still there.
        self._client.when_closed(self._leave)

    def _leave(self) -> None:
        self._house.farewell(self)

    def _audit(self, event: str, reason: str | None = None) -> None:
        now = self._house.now()
        more: dict[str, Any] = {"connection": self.number, "listener": self._door.name, "client": str(self._peer)}
        if reason is not None:
            relay = self._relay
            more |= {"reason": reason, "sent": relay.sent if relay else 0, "received": relay.received if relay else 0}
            more["seconds"] = round(now - self._opened_at, 3)
        self._house.write_audit(audit.record(event, now, self._session.facts, **more))


class _Over:
    """The session of a driver that has ended."""

    facts = Facts()

    def handle(self, event: Event) -> Sequence[Command]:  # noqa: ARG002 - it hears nothing any more
        return ()


_OVER = _Over()


def _within(host: str, networks: tuple[Network, ...]) -> bool:
    return bool(networks and host) and any(ip_address(host) in network for network in networks)


_RUN: dict[type[Command], Callable[[Driver, Any], None]] = {
    Sniff: Driver._sniff,
    StartTLS: Driver._start_tls,
    SetDeadline: Driver._set_deadline,
    Dial: Driver._dial_upstream,
    Send: Driver._send,
    Splice: Driver._splice,
    Close: Driver._close,
}
