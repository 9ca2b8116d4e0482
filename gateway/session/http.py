"""One HTTPS client from its first byte to its last: TLS, one request after the other, perhaps a WebSocket.

Owns the order of requests on a connection and what every one of them is held to before anything is dialed: the name
asked for in TLS, a route, the certificate, its key, the rules. Refuses with a status and the end of the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any

from gateway.errors import ProtocolError
from gateway.identity import Identity
from gateway.routes import Route
from gateway.session.access import HTTPAccess
from gateway.session.backends import Backends
from gateway.session.http_answers import PLAIN, SHUTDOWN, Refusal, answer
from gateway.session.http_caller import FORBIDDEN, Caller, ours
from gateway.session.http_exchange import Exchange, Outgoing, Terms
from gateway.session.http_exchange import State as Exchanging
from gateway.session.http_heads import known_request
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
    Facts,
    Idle,
    Lost,
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
from gateway.upstream import Address
from gateway.wire import http1, websocket
from gateway.wire.http1 import CHUNKED, RequestHead

# Who speaks 1.0 only, such as `curl -0`, says so.
ALPN = (b"http/1.1", b"http/1.0")
_CLIENT_HELLO = 0x16
_PROCEED = Proceed()
_EXPIRED = "the client certificate has expired"


class State(Enum):
    # Enum hashes names, in Python; this is looked up for each event.
    __hash__ = object.__hash__

    NEW = auto()
    FIRST_BYTE = auto()
    HANDSHAKE = auto()
    HEAD = auto()  # waiting for a request, or for the rest of its head
    EXCHANGE = auto()
    OPEN = auto()  # a WebSocket
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
        "_out",
        "_over_limit",
        "_passage",
        "_questions",
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
        self._out: Outgoing | None = None
        self._passage = Passage()
        self._buffer = bytearray()
        self._exchange: Exchange | None = None
        self._over_limit = self._counted = self._last = False

    def handle(self, event: Event) -> Sequence[Command]:
        step = _STEPS.get((self._state, type(event)))
        if step is not None:
            return step(self, event)
        if isinstance(event, Ended):
            return self._ended()
        if self._state is State.CLOSED:
            return ()
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
            return self._refuse_unread(_refusal(refused))
        if begun:
            return ()
        self._buffer += event.data
        return (SetDeadline(self._access.head_timeout),)

    def _request(self, data: bytes, rest: bytes) -> Sequence[Command]:
        """Raises `http1.Refused` for a head that breaks the grammar."""
        head = known_request(data)
        current = self._current()
        if current is not self._access:
            self._renew(current)
            if not self._questions.renew():
                asked = Asked(head.method.decode("ascii"), head.hostname, head.path.decode("ascii"))
                self._passage = Passage(subject=self.facts.subject, serial=self.facts.serial)
                return self._refuse(Refusal(403, "the client certificate is not trusted any more"), asked, head.method)
        out = self._out
        if out is None or out.head is not head:
            # Only that very head, under these very rules, is answered for by what was decided before.
            asked = Asked(head.method.decode("ascii"), head.hostname, head.path.decode("ascii"))
            self._passage = Passage()
            try:
                out = self._out = self._decide(head, asked)
            except Refusal as refusal:
                return self._refuse(refusal, asked, head.method)
            except http1.Refused as refused:
                return self._refuse(_refusal(refused), asked, head.method)
        elif self._caller.expired:
            return self._refuse(Refusal(403, _EXPIRED), out.asked, head.method)
        exchange = Exchange(out, self._terms, last=self._last)
        try:
            commands = exchange.begin(rest)
        except http1.Refused as refused:
            return self._refuse(_refusal(refused), out.asked, head.method)
        self._exchange, self._state = exchange, State.EXCHANGE
        return commands

    def _new_terms(self) -> Terms:
        expires = self._caller.tls.peer_expires
        return Terms(self._backends, self._clock, self._questions.idle, self._access.body_timeout, expires)

    def _renew(self, access: HTTPAccess) -> None:
        """A reload: what was decided is forgotten, and the connection ends with this request."""
        self._access, self._last, self._out = access, True, None
        self._terms = self._new_terms()
        self._caller.forget()

    def _decide(self, head: RequestHead, asked: Asked) -> Outgoing:
        """Whether it may go on, and as what. Raises Refusal."""
        caller = self._caller
        if self._over_limit:
            raise Refusal(503, "too many connections")
        if caller.expired:
            raise Refusal(403, _EXPIRED)
        if caller.server_name is not None and caller.server_name != head.hostname:
            raise Refusal(421, "Host is not the name that TLS was asked for")
        route = self._route(head)
        self._passage = Passage(route.name)
        rule = None
        try:
            identity, rule = caller.admit(route, head.method)
        finally:
            self._name(route, caller.identity(route), rule)
        self._count(identity)
        return self._outgoing(route, identity, head, asked)

    def _name(self, route: Route, identity: Identity | None, rule: str | None) -> None:
        """For the audit, also of a refusal."""
        if identity is None:
            self._passage = Passage(route.name, rule=rule)
        else:
            self._passage = Passage(route.name, identity.subject, identity.serial, rule)
            self.facts.subject, self.facts.serial = identity.subject, identity.serial

    def _route(self, head: RequestHead) -> Route:
        # `*` asks about the server as a whole (RFC 9110, 9.3.7).
        path = "/" if head.path == b"*" else head.path.decode("ascii")
        try:
            route = self._access.routes.find(head.hostname, path)
        except ProtocolError as error:
            raise Refusal(400, "servers would read this path in different ways", str(error)) from None
        if route is None:
            raise Refusal(404, "there is nothing here", "no route")
        return route

    def _count(self, identity: Identity | None) -> None:
        if identity is None or self._counted:
            return
        if not self._questions.admit(identity.subject):
            raise Refusal(503, "too many connections", "too many connections of this subject")
        self._counted = True

    def _outgoing(self, route: Route, identity: Identity | None, head: RequestHead, asked: Asked) -> Outgoing:
        caller, key, target = self._caller, None, head.target
        if head.upgrade == b"websocket":
            if not route.websocket:
                raise Refusal(403, FORBIDDEN, "this route takes no WebSockets")
            key = websocket.check_request(head)
            authorization, target = caller.websocket(route, identity, head)
        else:
            authorization = caller.authorization(route, identity, head)
        if route.base is not None:
            target = _rebased(route.base, route.path, target)
        host = head.host if route.keep_host else str(route.upstream.addresses[0]).encode("ascii")
        lines = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (head.method, target, host)]
        lines += [b"%b: %b\r\n" % (name, value) for lower, name, value in head.fields if not ours(lower)]
        if authorization is not None:
            lines.append(b"Authorization: %b\r\n" % authorization)
        lines += (caller.fields(route, head.host), _framing(head, key))
        upstream = route.upstream
        dials = tuple(Dial(upstream, one, name=(upstream.name, str(one))) for one in upstream.addresses)
        return Outgoing(route, head, b"".join(lines), dials, asked, self._passage, _shared(authorization), key)

    # --- while it is answered ---------------------------------------------------------------------------------------

    def _exchanged(self, event: Event) -> Sequence[Command]:
        exchange = self._exchange
        assert exchange is not None  # the state says so
        commands = exchange.handle(event)
        if exchange.state is Exchanging.OVER:
            return self._answered(exchange, commands)
        if exchange.state is Exchanging.UPGRADED:
            self._state, self._exchange = State.OPEN, None
            self.facts.decision, self.facts.rule = "allowed", self._passage.rule
            if exchange.final:
                return *commands, *self._part(1001, SHUTDOWN)
        return commands

    def _answered(self, exchange: Exchange, commands: Sequence[Command]) -> Sequence[Command]:
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
        return self._part(1008, _EXPIRED)

    def _open_idle(self, _: Idle) -> Sequence[Command]:
        return self._part(1001, "idle for too long")

    def _part(self, code: int, reason: str) -> Sequence[Command]:
        """A Close frame (RFC 6455, 7.4.1)."""
        return self._close(reason, websocket.close_frame(code, reason.encode("ascii")))

    def _ended(self) -> Sequence[Command]:
        commands = () if self._exchange is None else self._exchange.abandon("the connection was ended")
        self._state, self._exchange = State.CLOSED, None
        return commands


def _refusal(refused: http1.Refused) -> Refusal:
    fields = b"Sec-WebSocket-Version: 13\r\n" if refused.status == 426 else b""
    return Refusal(refused.status, str(refused), fields=fields)


def _shared(authorization: bytes | None) -> bool:
    """These schemes prove the identity of a connection, not of a request (RFC 4559, 6)."""
    return authorization is None or not authorization.lower().startswith((b"nego", b"ntlm", b"kerberos"))


def _rebased(base: str, path: str, target: bytes) -> bytes:
    """The route's prefix gives way to the path in the upstream's URL."""
    rest = target.removeprefix(path.encode("ascii"))
    if target == b"*":
        return target
    if rest[:1] == b"/":
        # One slash: behind an empty base two of them would be the beginning of a host (RFC 3986, 3.3).
        return b"%b/%b" % (base.encode("ascii"), rest.lstrip(b"/"))
    return (base or "/").encode("ascii") + rest


def _framing(head: RequestHead, key: bytes | None) -> bytes:
    """How the body and the connection go on from here (RFC 9112, 6 and 9.1)."""
    if key is not None:
        return b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    lines = b"TE: trailers\r\nConnection: TE\r\n" if head.te_trailers else b""
    if head.expect:
        lines += b"Expect: 100-continue\r\n"
    if head.length == CHUNKED:
        return lines + b"Transfer-Encoding: chunked\r\n\r\n"
    if head.length or head.method in (b"POST", b"PUT", b"PATCH"):
        return lines + b"Content-Length: %d\r\n\r\n" % head.length
    return lines + b"\r\n"


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
