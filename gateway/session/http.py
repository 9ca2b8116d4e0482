"""One HTTPS client from its first byte to its last: TLS, one request after the other, perhaps a WebSocket.

Owns the order of requests on a connection and what every one of them is held to before anything is dialed: the name
asked for in TLS, a route, the certificate, its key, the rules. Refuses with a status and the end of the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any

from gateway.identity import Identity
from gateway.routes import Route
from gateway.session.access import HTTPAccess
from gateway.session.backends import Backends
from gateway.session.channel_opening import Opening
from gateway.session.channel_socket import ChannelSocket
from gateway.session.channel_station import POLICY
from gateway.session.http_answers import EXPIRED, FORBIDDEN, PLAIN, SHUTDOWN, Refusal, answer, refusal_for
from gateway.session.http_caller import Caller
from gateway.session.http_errands import Errand, LocalExchange, errand
from gateway.session.http_exchange import Exchange, Outgoing, Terms
from gateway.session.http_exchange import State as Exchanging
from gateway.session.http_heads import known_request
from gateway.session.http_outgoing import find_route, outgoing
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
    Lost,
    Mail,
    Opened,
    Passage,
    Proceed,
    Questions,
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
from gateway.wire.http1 import RequestHead
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

    # Made with the handshake.
    _caller: Caller
    _terms: Terms

    __slots__ = (
        "_access",
        "_backends",
        "_buffer",
        "_caller",
        "_client",
        "_clock",
        "_counted",
        "_current",
        "_exchange",
        "_last",
        "_let_in",
        "_out",
        "_over_limit",
        "_passage",
        "_questions",
        "_socket",
        "_state",
        "_terms",
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
        self._current, self._backends, self._questions, self._clock = current, backends, questions, clock
        self._access = current()
        self._state = State.NEW
        self._client = Address("", 0)
        self._out: Outgoing | Errand | None = None
        self._passage = Passage()
        self._buffer = bytearray()
        self._exchange: Exchange | LocalExchange | None = None
        self._socket: ChannelSocket | MQTTSocket | None = None
        self._counted: str | None = None
        self._over_limit = self._let_in = self._last = False

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
        self._client, self._over_limit = event.client, event.over_limit
        self._state = State.FIRST_BYTE
        return SetDeadline(self._access.handshake_timeout), Sniff()

    def _sniffed(self, event: Sniffed) -> Sequence[Command]:
        if event.first[0] != _CLIENT_HELLO:
            return self._close("no TLS: the first byte is not a ClientHello's", PLAIN)
        self._state = State.HANDSHAKE
        return (StartTLS(Side.CLIENT),)

    def _secured(self, event: Secured) -> Sequence[Command]:
        self._caller = Caller(self._client, event.tls, self._clock)
        self._terms = self._new_terms()
        self.facts.tls = event.tls.version
        self._state = State.HEAD
        return (SetDeadline(self._access.head_timeout),)

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
        return (SetDeadline(self._access.head_timeout),)

    def _request(self, data: bytes, rest: bytes) -> Sequence[Command]:
        """Raises `http1.Refused` for a head that breaks the grammar."""
        head = known_request(data)
        try:
            out = self._decided(head)
            if isinstance(out, Outgoing):
                exchange: Exchange | LocalExchange = Exchange(out, self._terms, last=self._last)
                return self._begun(exchange, exchange.begin(rest))
            exchange = self._served(out)
            return (*self._entered(), *self._begun(exchange, exchange.begin(rest)))
        except Refusal as refusal:
            return self._refuse(refusal, _asked(head), head.method)
        except http1.Refused as refused:
            return self._refuse(refusal_for(refused), _asked(head), head.method)

    def _decided(self, head: RequestHead) -> Outgoing | Errand:
        """Whether it may go on, and as what; as before, if it is that very head under these very rules. Raises
        Refusal, `http1.Refused`."""
        current = self._current()
        if current is not self._access:
            self._renew(current)
            if not self._questions.renew():
                self._passage = Passage(subject=self.facts.subject, serial=self.facts.serial)
                raise Refusal(403, "the client certificate is not trusted any more")
        out = self._out
        if out is None or out.head is not head:
            self._passage = Passage()
            out = self._out = self._decide(head, _asked(head))
        elif self._caller.expired:
            raise Refusal(403, EXPIRED)
        return out

    def _new_terms(self) -> Terms:
        expires = self._caller.tls.peer_expires
        return Terms(self._backends, self._clock, self._questions.idle, self._access.body_timeout, expires)

    def _renew(self, access: HTTPAccess) -> None:
        """A reload: what was decided is forgotten, and the connection ends with this request."""
        self._access, self._last, self._out = access, True, None
        self._terms = self._new_terms()
        self._caller.forget()

    def _decide(self, head: RequestHead, asked: Asked) -> Outgoing | Errand:
        caller = self._caller
        if self._over_limit:
            raise Refusal(503, "too many connections")
        if caller.expired:
            raise Refusal(403, EXPIRED)
        if caller.server_name is not None and caller.server_name != head.hostname:
            raise Refusal(421, "Host is not the name that TLS was asked for")
        route = find_route(self._access.routes, head)
        self._passage = Passage(route.name)
        if route.serve != "upstream":
            return self._errand(route, head, asked)
        rule = None
        try:
            identity, rule = caller.admit(route, head.method)
        finally:
            self._name(route, caller.identity(route), rule)
        if identity is not None:
            self._count(identity.subject)
        return outgoing(caller, route, identity, head, asked, self._passage)

    def _name(self, route: Route, identity: Identity | None, rule: str | None) -> None:
        """For the audit, also of a refusal."""
        if identity is None:
            self._passage = Passage(route.name, rule=rule)
        else:
            self._passage = Passage(route.name, identity.subject, identity.serial, rule)
            self.facts.subject, self.facts.serial = identity.subject, identity.serial

    def _count(self, subject: str) -> None:
        if self._counted is None:
            if not self._questions.admit(subject):
                raise Refusal(503, "too many connections", "too many connections of this subject")
            self._counted = subject

    # --- a request that is served here ------------------------------------------------------------------------------

    def _errand(self, route: Route, head: RequestHead, asked: Asked) -> Errand:
        identity = self._caller.identify(route)
        self._name(route, identity, None)
        return errand(route, self._caller, identity, head, asked, self._current, self._questions, self._clock)

    def _served(self, out: Errand) -> LocalExchange:
        """Who sends it is asked anew for each one. Raises Refusal."""
        subject = out.subject()
        if subject is not None and subject != self._passage.subject:
            self._passage = self._passage._replace(subject=subject)
            self.facts.subject = subject
        rule = out.rule()
        if rule != self._passage.rule:
            self._passage = self._passage._replace(rule=rule)
        if subject is not None:
            self._count(subject)
        return out.exchange(self._passage, self._terms, self._counted, last=self._last)

    def _entered(self) -> Sequence[Command]:
        """Nothing will be dialed by which the driver could tell that the client has proven who it is."""
        if self._let_in or self._counted is None:
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
        self.facts.decision, self.facts.rule = "allowed", self._passage.rule
        return (*commands, *self._part(1001, SHUTDOWN)) if exchange.final else commands

    def _opened_here(self, exchange: Opening | MQTTOpening, commands: Sequence[Command]) -> Sequence[Command]:
        """A WebSocket of which we are the other end."""
        self._state, self._socket = State.SOCKET, exchange.socket
        if isinstance(exchange, MQTTOpening):
            # The session inside tells of itself.
            self.facts = exchange.socket.inner.facts
        else:
            self.facts.decision, self.facts.rule = "allowed", self._passage.rule
        commands = self._unless_closed(commands)
        if exchange.ahead and self._state is State.SOCKET:
            commands = (*commands, *self._of_socket(Data(Side.CLIENT, exchange.ahead)))
        if exchange.final and self._state is State.SOCKET:
            commands = (*commands, *self._of_socket(ShuttingDown()))
        return commands

    def _of_socket(self, event: Event) -> Sequence[Command]:
        """Asked after a reload before anything more is said or heard, as MQTT does: whoever would not be let in now has
        to go."""
        assert self._socket is not None  # the state says so
        if isinstance(event, Data | Mail | Drained) and self._current() is not self._access:
            try:
                self._ask_again()
            except Refusal as refusal:
                code = POLICY if isinstance(self._socket, ChannelSocket) else Reason.NOT_AUTHORIZED
                event = Dismissed(code, str(refusal))
        return self._unless_closed(self._socket.handle(event))

    def _ask_again(self) -> None:
        """Raises Refusal."""
        out = self._out
        assert out is not None  # it has opened the socket
        self._renew(self._current())
        if not self._questions.renew():
            raise Refusal(403, "the client certificate is not trusted any more")
        again = self._out = self._decide(out.head, out.asked)
        if isinstance(again, Outgoing) or type(again) is not type(out):
            raise Refusal(403, FORBIDDEN, "its path leads somewhere else now")
        again.subject()
        again.rule()

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
        if not exchange.keep or self._last:
            return *commands, *self._close("the last answer was given")
        self._state = State.HEAD
        keep_alive = deadline(self._access.keepalive_timeout)
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
        record = RequestRecord(asked, self._passage, refusal.status, reason=str(refusal))
        return (record, *self._close(str(refusal), answer(refusal, method)))

    def _refuse_unread(self, refusal: Refusal) -> Sequence[Command]:
        """A head that says nothing: what is known is who sent it, if there was another request before."""
        self._passage = Passage(subject=self.facts.subject, serial=self.facts.serial)
        return self._refuse(refusal, Asked(), b"")

    # --- the end ----------------------------------------------------------------------------------------------------

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
        self._last = self._exchange.last = self._exchange.final = True
        return (SetDeadline(self._access.grace),)

    def _open_shut_down(self, _: ShuttingDown) -> Sequence[Command]:
        return self._part(1001, SHUTDOWN)

    def _open_expired(self, _: Expired) -> Sequence[Command]:
        return self._part(1008, EXPIRED)

    def _open_idle(self, _: Idle) -> Sequence[Command]:
        return self._part(1001, "idle for too long")

    def _part(self, code: int, reason: str) -> Sequence[Command]:
        """A Close frame (RFC 6455, 7.4.1)."""
        return self._close(reason, websocket.close_frame(code, reason.encode("ascii")))

    def _ended(self) -> Sequence[Command]:
        self._state = State.CLOSED
        if self._socket is not None:
            commands = self._socket.handle(Ended())
            if isinstance(self._socket, ChannelSocket):
                self.facts.sent, self.facts.received = self._socket.sent, self._socket.received
            return commands
        commands = () if self._exchange is None else self._exchange.abandon("the connection was ended")
        self._exchange = None
        return commands


def _asked(head: RequestHead) -> Asked:
    return Asked(head.method.decode("ascii"), head.hostname, head.path.decode("ascii"))


_Step = Callable[[HTTPSession, Any], Sequence[Command]]
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
}
