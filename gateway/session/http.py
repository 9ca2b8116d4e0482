"""One HTTPS client from its first byte to its last: TLS, one request after the other, perhaps a WebSocket.

Owns the order of requests on a connection, and its ends. What `http_decisions` refuses gets a status and the end of the
connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any

from gateway.session.access import HTTPAccess
from gateway.session.backends import Backends
from gateway.session.channel_opening import Opening
from gateway.session.channel_socket import ChannelSocket
from gateway.session.channel_station import GOING_AWAY, POLICY, TRY_LATER
from gateway.session.http_answers import EXPIRED, KILLED, PLAIN, SHUTDOWN, Refusal, answer, refusal_for
from gateway.session.http_decisions import Decisions, asked
from gateway.session.http_errands import LocalExchange
from gateway.session.http_exchange import Exchange, Outgoing
from gateway.session.http_exchange import State as Exchanging
from gateway.session.http_heads import known_request
from gateway.session.vocabulary import (
    Asked,
    Close,
    Command,
    Data,
    Dialed,
    Dismissed,
    Drained,
    Ended,
    Enter,
    Event,
    Expired,
    Facts,
    Idle,
    Killed,
    Lost,
    Mail,
    Opened,
    Proceed,
    Questions,
    Reloaded,
    RequestRecord,
    Secured,
    SetDeadline,
    ShuttingDown,
    Side,
    Sniff,
    Sniffed,
    StartTLS,
    TimedOut,
    deadline,
)
from gateway.session.websocket_mqtt import MQTTOpening, MQTTSocket
from gateway.upstream import Address
from gateway.wire import http1, websocket
from gateway.wire.mqtt_packets import Reason

# Who speaks 1.0 only, such as `curl -0`, says so.
ALPN = (b"http/1.1", b"http/1.0")
_CLIENT_HELLO = 0x16
_PROCEED = Proceed()
_ENTER = Enter(audited=False)


class State(Enum):
    # Enum hashes names, in Python; this is looked up for each event.
    __hash__ = object.__hash__

    NEW = auto()
    FIRST_BYTE = auto()
    HANDSHAKE = auto()
    HEAD = auto()  # waiting for a request, or for the rest of its head
    EXCHANGE = auto()
    OPEN = auto()  # a WebSocket of an upstream's
    SOCKET = auto()  # one of ours
    CLOSED = auto()


class HTTPSession:
    """`handle(event) -> [command]`. current: the listener's access now. questions: a subject is asked for once.
    clock: seconds since the epoch.
    """

    __slots__ = (
        "_buffer",
        "_client",
        "_decisions",
        "_exchange",
        "_let_in",
        "_socket",
        "_state",
        "facts",
    )

    def __init__(
        self,
        current: Callable[[], HTTPAccess],
        backends: Backends,
        questions: Questions,
        clock: Callable[[], float],
    ) -> None:
        self.facts = Facts()
        self._decisions = Decisions(current, backends, questions, clock, self.facts)
        self._state = State.NEW
        self._client = Address("", 0)
        self._buffer = bytearray()
        self._exchange: Exchange | LocalExchange | None = None
        self._socket: ChannelSocket | MQTTSocket | None = None
        self._let_in = False

    def handle(self, event: Event) -> Sequence[Command]:
        step = _STEPS.get((self._state, type(event)))
        if step is not None:
            return step(self, event)
        if isinstance(event, Ended):
            return self._ended()
        if self._state is State.CLOSED:
            return ()
        if self._socket is not None:
            return self._of_socket(event)
        if self._exchange is not None:
            return self._exchanged(event)
        return self._close(f"{type(event).__name__} while {self._state.name.lower()}")

    def _close(self, reason: str, farewell: bytes = b"") -> Sequence[Command]:
        self._state = State.CLOSED
        return (Close(reason, farewell),)

    # --- TLS --------------------------------------------------------------------------------------------------------

    def _opened(self, event: Opened) -> Sequence[Command]:
        self._client, self._decisions.over_limit = event.client, event.over_limit
        self._state = State.FIRST_BYTE
        return SetDeadline(self._decisions.access.handshake_timeout), Sniff()

    def _sniffed(self, event: Sniffed) -> Sequence[Command]:
        if event.first[0] != _CLIENT_HELLO:
            return self._close("no TLS: the first byte is not a ClientHello's", PLAIN)
        self._state = State.HANDSHAKE
        return (StartTLS(Side.CLIENT),)

    def _secured(self, event: Secured) -> Sequence[Command]:
        self._decisions.secured(self._client, event.tls)
        self.facts.tls = event.tls.version
        self._state = State.HEAD
        return (SetDeadline(self._decisions.access.head_timeout),)

    def _lost(self, event: Lost) -> Sequence[Command]:
        return self._close(event.reason)

    # --- a request --------------------------------------------------------------------------------------------------

    def _heard(self, event: Data) -> Sequence[Command]:
        """Most heads come whole, and are never copied to the buffer."""
        if event.side is not Side.CLIENT:
            return self._close("bytes of an upstream between two requests")
        data: bytes | bytearray = event.data
        begun = bool(self._buffer)
        if begun:
            self._buffer += event.data
            data = self._buffer
        try:
            end = http1.find_head(data)
            if end:
                head, rest = bytes(data[:end]), bytes(data[end:])
                self._buffer.clear()
                return self._request(head, rest)
        except http1.Refused as refused:
            return self._refuse_unread(refusal_for(refused))
        if begun:
            return ()
        self._buffer += event.data
        return (SetDeadline(self._decisions.access.head_timeout),)

    def _request(self, data: bytes, rest: bytes) -> Sequence[Command]:
        """Raises `http1.Refused` for a head that breaks the grammar."""
        head, decisions = known_request(data), self._decisions
        try:
            out = decisions.decided(head)
            if isinstance(out, Outgoing):
                exchange: Exchange | LocalExchange = Exchange(out, decisions.terms, last=decisions.last)
                return self._begun(exchange, exchange.begin(rest))
            exchange = decisions.served(out)
            return (*self._entered(), *self._begun(exchange, exchange.begin(rest)))
        except Refusal as refusal:
            return self._refuse(refusal, asked(head), head.method)
        except http1.Refused as refused:
            return self._refuse(refusal_for(refused), asked(head), head.method)

    def _entered(self) -> Sequence[Command]:
        """Nothing will be dialed by which the driver could tell that the client has proven who it is."""
        if self._let_in or self._decisions.counted is None:
            return ()
        self._let_in = True
        return (_ENTER,)

    # --- while it is answered ---------------------------------------------------------------------------------------

    def _begun(self, exchange: Exchange | LocalExchange, commands: Sequence[Command]) -> Sequence[Command]:
        self._exchange, self._state = exchange, State.EXCHANGE
        return commands if exchange.state is not Exchanging.UPGRADED else self._upgraded(exchange, commands)

    def _exchanged(self, event: Event) -> Sequence[Command]:
        exchange = self._exchange
        assert exchange is not None  # the state says so
        commands = exchange.handle(event)
        if exchange.state is Exchanging.OVER:
            return self._answered(exchange, commands)
        return commands if exchange.state is not Exchanging.UPGRADED else self._upgraded(exchange, commands)

    def _upgraded(self, exchange: Exchange | LocalExchange, commands: Sequence[Command]) -> Sequence[Command]:
        self._exchange = None
        if isinstance(exchange, Opening | MQTTOpening):
            return self._opened_here(exchange, commands)
        self._state = State.OPEN
        self.facts.decision, self.facts.rule = "allowed", self._decisions.passage.rule
        return (*commands, *self._part(GOING_AWAY, SHUTDOWN)) if exchange.final else commands

    def _opened_here(self, exchange: Opening | MQTTOpening, commands: Sequence[Command]) -> Sequence[Command]:
        """A WebSocket of which we are the other end."""
        self._state, self._socket = State.SOCKET, exchange.socket
        if isinstance(exchange, MQTTOpening):
            # The session inside tells of itself.
            self.facts = exchange.socket.inner.facts
        else:
            self.facts.decision, self.facts.rule = "allowed", self._decisions.passage.rule
        commands = self._unless_closed(commands)
        if self._decisions.stale and self._state is State.SOCKET:
            # A reload came while a broker was asked.
            commands = (*commands, *self._of_socket(Reloaded()))
        if exchange.ahead and self._state is State.SOCKET:
            commands = (*commands, *self._of_socket(Data(Side.CLIENT, exchange.ahead)))
        if exchange.final and self._state is State.SOCKET:
            commands = (*commands, *self._of_socket(ShuttingDown()))
        return commands

    def _of_socket(self, event: Event) -> Sequence[Command]:
        """Asked after a reload before anything more is said or heard, as MQTT does: whoever would not be let in now has
        to go."""
        assert self._socket is not None  # the state says so
        if isinstance(event, Data | Mail | Drained | Reloaded) and self._decisions.stale:
            try:
                self._decisions.again()
            except Refusal as refusal:
                code = POLICY if isinstance(self._socket, ChannelSocket) else Reason.NOT_AUTHORIZED
                event = Dismissed(code, str(refusal))
        return self._unless_closed(self._socket.handle(event))

    def _unless_closed(self, commands: Sequence[Command]) -> Sequence[Command]:
        if commands and isinstance(commands[-1], Close):
            self._state = State.CLOSED
        return commands

    def _answered(self, exchange: Exchange | LocalExchange, commands: Sequence[Command]) -> Sequence[Command]:
        """On to the next request, which may be here already."""
        self._exchange = None
        if isinstance(commands[-1], Close):
            self._state = State.CLOSED
            return commands
        if not exchange.keep or self._decisions.last:
            return *commands, *self._close("the last answer was given")
        self._state = State.HEAD
        keep_alive = deadline(self._decisions.access.keepalive_timeout)
        if not exchange.ahead:
            return (*commands, keep_alive, _PROCEED) if exchange.held else (*commands, keep_alive)
        more = self._heard(Data(Side.CLIENT, exchange.ahead))
        if self._exchange is not None and self._exchange.ahead:
            # Even of what is here already more is left than the next request: nothing is read before its answer.
            self._exchange.held = exchange.held
        elif exchange.held and self._state is not State.CLOSED:
            more = (*more, _PROCEED)
        return *commands, keep_alive, *more

    def _refuse(self, refusal: Refusal, asked: Asked, method: bytes) -> Sequence[Command]:
        record = RequestRecord(asked, self._decisions.passage, refusal.status, reason=str(refusal))
        return (record, *self._close(str(refusal), answer(refusal, method)))

    def _refuse_unread(self, refusal: Refusal) -> Sequence[Command]:
        """A head that says nothing."""
        self._decisions.nameless()
        return self._refuse(refusal, Asked(), b"")

    # --- what ends it -----------------------------------------------------------------------------------------------

    def _head_timed_out(self, _: TimedOut) -> Sequence[Command]:
        if not self._buffer:
            return self._close("nothing was asked for")
        return self._refuse_unread(Refusal(408, "the request did not come in time"))

    def _timed_out(self, _: TimedOut) -> Sequence[Command]:
        return self._close("TLS was not finished in time")

    def _shut_down(self, _: ShuttingDown) -> Sequence[Command]:
        return self._close(SHUTDOWN)

    def _shut_down_after(self, _: ShuttingDown) -> Sequence[Command]:
        """Whoever has asked gets the answer, if it comes within the grace period."""
        assert self._exchange is not None  # the state says so
        self._decisions.last = self._exchange.last = self._exchange.final = True
        return (SetDeadline(self._decisions.access.grace),)

    def _open_shut_down(self, _: ShuttingDown) -> Sequence[Command]:
        return self._part(GOING_AWAY, SHUTDOWN)

    def _open_expired(self, _: Expired) -> Sequence[Command]:
        return self._part(POLICY, EXPIRED)

    def _open_idle(self, _: Idle) -> Sequence[Command]:
        return self._part(GOING_AWAY, "idle for too long")

    def _part(self, code: int, reason: str, public: str = "") -> Sequence[Command]:
        """A Close frame (RFC 6455, 7.4.1). public: what the client is told."""
        return self._close(reason, websocket.close_frame(code, (public or reason).encode("ascii")))

    # --- the end of one whom somebody does not want here any more -----------------------------------------------------

    def _killed(self, event: Killed) -> Sequence[Command]:
        return self._dismiss(event.reason)

    def _killed_within(self, event: Killed) -> Sequence[Command]:
        return self._exchange_refused(Refusal(503, KILLED, event.reason))

    def _open_killed(self, event: Killed) -> Sequence[Command]:
        return self._part(POLICY, event.reason, KILLED)

    def _early_reload(self, _: Reloaded) -> Sequence[Command]:
        """Everything is still to be asked."""
        return ()

    def _reloaded(self, _: Reloaded) -> Sequence[Command]:
        """Between two requests; who has begun with one gets an answer to it."""
        refusal = self._decisions.unwelcome()
        if refusal is None:
            return ()
        return self._refuse_unread(refusal) if self._buffer else self._dismiss(str(refusal))

    def _dismiss(self, reason: str) -> Sequence[Command]:
        """Nothing was asked that could be answered, so only the record of the connection can say why it ends."""
        self._state = State.CLOSED
        return (Close(reason, audited=True),)

    def _reloaded_within(self, _: Reloaded) -> Sequence[Command]:
        refusal = self._decisions.unwelcome()
        return () if refusal is None else self._exchange_refused(refusal)

    def _open_reloaded(self, _: Reloaded) -> Sequence[Command]:
        refusal = self._decisions.unwelcome()
        if refusal is None:
            return ()
        return self._part(POLICY if refusal.status == 403 else TRY_LATER, str(refusal), refusal.error)

    def _exchange_refused(self, refusal: Refusal) -> Sequence[Command]:
        exchange = self._exchange
        assert exchange is not None  # the state says so
        return self._answered(exchange, exchange.refuse(refusal))

    # --- the end ----------------------------------------------------------------------------------------------------

    def moved(self) -> tuple[int, int]:
        return self._socket.moved() if self._socket is not None else (0, 0)

    def _ended(self) -> Sequence[Command]:
        self._state = State.CLOSED
        self._decisions.stop()
        if self._socket is not None:
            commands = self._socket.handle(Ended())
            if isinstance(self._socket, ChannelSocket):
                self.facts.from_client, self.facts.to_client = self._socket.moved()
            return commands
        commands = () if self._exchange is None else self._exchange.abandon("the connection was ended")
        self._exchange = None
        return commands


_Step = Callable[[HTTPSession, Any], Sequence[Command]]
_EARLY = (State.NEW, State.FIRST_BYTE, State.HANDSHAKE)
_STEPS: dict[tuple[State, type[Event]], _Step] = {
    (State.NEW, Opened): HTTPSession._opened,
    (State.FIRST_BYTE, Sniffed): HTTPSession._sniffed,
    (State.FIRST_BYTE, Lost): HTTPSession._lost,
    (State.FIRST_BYTE, TimedOut): HTTPSession._timed_out,
    (State.FIRST_BYTE, ShuttingDown): HTTPSession._shut_down,
    (State.HANDSHAKE, Secured): HTTPSession._secured,
    (State.HANDSHAKE, Lost): HTTPSession._lost,
    (State.HANDSHAKE, TimedOut): HTTPSession._timed_out,
    (State.HANDSHAKE, ShuttingDown): HTTPSession._shut_down,
    (State.HEAD, Data): HTTPSession._heard,
    (State.HEAD, Lost): HTTPSession._lost,
    (State.HEAD, TimedOut): HTTPSession._head_timed_out,
    (State.HEAD, ShuttingDown): HTTPSession._shut_down,
    (State.EXCHANGE, Data): HTTPSession._exchanged,
    (State.EXCHANGE, Dialed): HTTPSession._exchanged,
    (State.EXCHANGE, Secured): HTTPSession._exchanged,
    (State.EXCHANGE, Lost): HTTPSession._exchanged,
    (State.EXCHANGE, TimedOut): HTTPSession._exchanged,
    (State.EXCHANGE, ShuttingDown): HTTPSession._shut_down_after,
    (State.OPEN, Expired): HTTPSession._open_expired,
    (State.OPEN, Idle): HTTPSession._open_idle,
    (State.OPEN, ShuttingDown): HTTPSession._open_shut_down,
    **{(state, Killed): HTTPSession._killed for state in (*_EARLY, State.HEAD)},
    (State.EXCHANGE, Killed): HTTPSession._killed_within,
    (State.OPEN, Killed): HTTPSession._open_killed,
    **{(state, Reloaded): HTTPSession._early_reload for state in _EARLY},
    (State.HEAD, Reloaded): HTTPSession._reloaded,
    (State.EXCHANGE, Reloaded): HTTPSession._reloaded_within,
    (State.OPEN, Reloaded): HTTPSession._open_reloaded,
}
