"""One HTTP request and its answer: the way to the upstream, both bodies, and how each of them may fail.

Owns the order of these, and the one audit record. Refuses an answer that is not HTTP/1.1 as RFC 9112 has it, and lets
no half of an answer look like a whole one: whatever breaks in its middle breaks the client's connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

from gateway.errors import ProtocolError
from gateway.routes import Route
from gateway.session.backends import Backends
from gateway.session.http_answers import SHUTDOWN, Refusal, answer
from gateway.session.http_body import NO_BODY, Body
from gateway.session.http_heads import known_response, lines, told_response
from gateway.session.vocabulary import (
    Asked,
    Close,
    Command,
    Data,
    Dial,
    Dialed,
    Event,
    HangUp,
    Hold,
    Lost,
    Passage,
    Proceed,
    Release,
    RequestRecord,
    Reuse,
    Secured,
    Send,
    Side,
    Splice,
    StartTLS,
    TimedOut,
    deadline,
)
from gateway.upstream import TLSMode
from gateway.wire import http1, websocket
from gateway.wire.http1 import CHUNKED, UNTIL_CLOSE, RequestHead, ResponseHead

# A client that sends a body slower than this many bytes in each `body_timeout` is cut.
MIN_PROGRESS = 4096
# Sent again over a new connection, a request like that does no more than it did once (RFC 9110, 9.2.2).
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
# What an upstream may say before its answer proper.
_MAX_INFORMATIONAL = 16

_BAD_UPSTREAM = "the upstream gave no valid answer"
_NO_UPSTREAM = "no upstream can be reached"
_SLOW_UPSTREAM = "the upstream did not answer in time"


class State(Enum):
    # Enum hashes names, in Python; this is looked up for each event.
    __hash__ = object.__hash__

    DIALING = auto()
    SECURING = auto()
    WAITING = auto()  # for the head of the answer
    ANSWERING = auto()
    UPGRADED = auto()
    OVER = auto()


class Outgoing(NamedTuple):
    """The request as the upstream will get it.

    dials: the ways there. shared: the upstream's connection may serve others afterwards. key: of a WebSocket's
    handshake.
    """

    route: Route
    head: RequestHead
    data: bytes
    dials: tuple[Dial, ...]
    asked: Asked
    passage: Passage
    shared: bool = True
    key: bytes | None = None

    def __repr__(self) -> str:
        return f"Outgoing({self.asked!r}, {self.passage!r})"


@dataclass(frozen=True, slots=True)
class Terms:
    """What is the same for all exchanges of a connection. clock: seconds since the epoch. expires: the certificate.

    idle: `Questions.idle`.
    """

    backends: Backends
    clock: Callable[[], float]
    idle: Callable[[Dial], bool]
    body_timeout: float
    expires: float | None


class Exchange:
    """Each method answers commands. state: OVER when nothing more belongs to it. keep: the connection can go on then.

    last: the answer is to say that the connection ends. final: the gateway is shutting down, and the deadline set for
    that stays. ahead: what the client sent after this request. held: nothing more is read from it.
    """

    # Made once for each request: what most of them never change is here.
    _target: Dial
    _others: Sequence[Dial] = ()
    _response: ResponseHead | None = None
    _body = NO_BODY
    _answer: Body
    _replay: bytes | None = None
    _buffer = b""
    _progress = _informational = 0
    held = keep = final = False
    ahead = b""

    def __init__(self, out: Outgoing, terms: Terms, *, last: bool) -> None:
        self._out, self._terms, self.last = out, terms, last
        self._record = RequestRecord(out.asked, out.passage, decision="allowed")
        self._began = terms.clock()
        self.state = State.DIALING

    def handle(self, event: Event) -> Sequence[Command]:
        """Data, Dialed, Secured, Lost and TimedOut. An event that has no place here ends it."""
        step = _STEPS.get((self.state, type(event), getattr(event, "side", None)))
        if step is None:
            return self._fail(502, _BAD_UPSTREAM, f"{type(event).__name__} while {self.state.name.lower()}")
        try:
            return step(self, event)
        except http1.Refused as refused:
            return self._fail(refused.status, str(refused), str(refused))

    # --- the way there ----------------------------------------------------------------------------------------------

    def begin(self, data: bytes) -> Sequence[Command]:
        """Dial, with what the client sent behind the head. Raises `http1.Refused`."""
        length = self._out.head.length
        if length == len(data):
            # All at once, as most bodies come, and those of no length.
            self._buffer, self._record.from_client = data, length
        else:
            self._body = Body(length, chunked=length == CHUNKED)
            self._buffer = self._take(data)
        return self._dial_next(self._terms.backends.order(self._out.dials))

    def _dial_next(self, dials: Sequence[Dial]) -> Sequence[Command]:
        """The next address; over an idle connection the request goes out at once."""
        target = self._target = dials[0]
        self._others = dials[1:]
        assert target.name is not None  # the pool's
        self._record.upstream = target.name[1]
        if self._terms.idle(target):
            if self._body.done and self._out.head.method in _IDEMPOTENT:
                self._replay = self._buffer
            return Reuse(target), *self._ask()
        self.state = State.DIALING
        return *self._deadline(target.upstream.connect_timeout), target

    def _dialed(self, _: Dialed) -> Sequence[Command]:
        if self._out.route.upstream.tls.mode is TLSMode.DISABLE:
            return self._ask()
        self.state = State.SECURING
        return (StartTLS(Side.UPSTREAM),)

    def _secured(self, _: Secured) -> Sequence[Command]:
        return self._ask()

    def _ask(self) -> Sequence[Command]:
        """Send all there is of the request; from now on it is the upstream's."""
        self._terms.backends.worked(self._target)
        self.state = State.WAITING
        data = self._out.data
        if self._buffer:
            data, self._buffer = data + self._buffer, b""
        if self.held and not self._body.done:
            self.held = False
            return Send(Side.UPSTREAM, data), *self._awaited(), Proceed()
        return Send(Side.UPSTREAM, data), *self._awaited()

    def _awaited(self) -> Sequence[Command]:
        if self._body.done:
            return self._deadline(self._out.route.response_timeout)
        self._progress = self._body.moved
        return self._deadline(self._terms.body_timeout)

    def _deadline(self, seconds: float) -> Sequence[Command]:
        return () if self.final else (deadline(seconds),)

    def _unreachable(self, event: Lost) -> Sequence[Command]:
        self._terms.backends.failed(self._target)
        if self._others:
            return self._dial_next(self._others)
        return self._fail(502, _NO_UPSTREAM, event.reason)

    def _unreachable_in_time(self, _: TimedOut) -> Sequence[Command]:
        if self.final:
            return self._fail(503, SHUTDOWN, SHUTDOWN)
        self._terms.backends.failed(self._target)
        if self._others:
            return self._dial_next(self._others)
        return self._fail(504, _SLOW_UPSTREAM, "the upstream could not be reached in time")

    # --- the request's body -----------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> bytes:
        """What of it is sent on; the rest is another request's."""
        if self._body.done:
            self.ahead += data
            return b""
        ready, used = self._body.feed(data)
        self._record.from_client = self._body.moved
        if used < len(data):
            self.ahead += data[used:]
        return ready

    def _early(self, event: Data) -> Sequence[Command]:
        """There is no upstream yet: one read waits for it, or for its turn if it is another request."""
        self._buffer += self._take(event.data)
        return self._hold()

    def _hold(self) -> Sequence[Command]:
        if self.held:
            return ()
        self.held = True
        return (Hold(),)

    def _more(self, event: Data) -> Sequence[Command]:
        if self._body.done:
            self.ahead += event.data
            return self._hold()
        ready = self._take(event.data)
        commands: list[Command] = [Send(Side.UPSTREAM, ready)] if ready else []
        if self._complete_or_progressing():
            commands += self._awaited()
        if self.ahead:
            commands += self._hold()
        return commands

    def _complete_or_progressing(self) -> bool:
        return self._body.done or self._body.moved - self._progress >= MIN_PROGRESS

    # --- the answer -------------------------------------------------------------------------------------------------

    def _heard(self, event: Data) -> Sequence[Command]:
        data = self._buffer + event.data if self._buffer else event.data
        self._replay = None
        commands: Sequence[Command] = ()
        try:
            while self.state is State.WAITING:
                end = http1.find_head(data)
                if not end:
                    self._buffer = data
                    return commands
                raw, data = data[:end], data[end:]
                head = known_response(raw)
                if head.status >= 200:
                    answered = self._answered(head, raw, data)
                    return (*commands, *answered) if commands else answered
                commands = (*commands, *(self._upgraded(head, data) if head.status == 101 else self._informed(head)))
        except ProtocolError as error:
            return *commands, *self._fail(502, _BAD_UPSTREAM, f"the upstream's answer: {error}")
        return commands

    def _informed(self, head: ResponseHead) -> Sequence[Command]:
        """100 and 103 are passed on, to who can know them (RFC 9110, 15.2)."""
        self._informational += 1
        if self._informational > _MAX_INFORMATIONAL:
            raise ProtocolError("too many interim answers")
        if not self._out.head.http11 or (head.status == 100 and not self._out.head.expect):
            return ()
        # A client that has waited for this has all the time for its body from now on.
        return Send(Side.CLIENT, b"%b\r\n" % lines(head)), *(self._awaited() if head.status == 100 else ())

    def _answered(self, head: ResponseHead, raw: bytes, data: bytes) -> Sequence[Command]:
        self.state, self._response, self._buffer = State.ANSWERING, head, b""
        request = self._out.head
        self._record.status = head.status
        length = http1.body_length(head, request.method)
        chunked = length < 0 and request.http11
        # A body of unknown length ends for HTTP/1.0 where the connection does; an upgrade that was refused, too.
        certain = length >= 0 or chunked
        self.keep = request.keep_alive and self._body.done and not self.last and certain and self._out.key is None
        told = told_response(raw, chunked, self.keep, request.http11)
        if length == len(data):
            # All at once, as most answers come.
            self._record.to_client = length
            return self._complete(told + data, clean=True)
        self._answer = Body(length, chunked=chunked)
        try:
            return self._pass_on(data, told)
        except ProtocolError:
            # The client has not been told anything of it yet, so it can still hear of that.
            self._response, self._record.status = None, 0
            raise

    def _body_heard(self, event: Data) -> Sequence[Command]:
        try:
            return self._pass_on(event.data, b"")
        except ProtocolError as error:
            return self._fail(502, _BAD_UPSTREAM, f"the upstream's answer: {error}")

    def _pass_on(self, data: bytes, before: bytes) -> Sequence[Command]:
        """More of the answer, in one write with its head where that is new."""
        answer = self._answer
        ready, used = (b"", 0) if answer.done else answer.feed(data)
        if before:
            ready = before + ready
        self._record.to_client = answer.moved
        if answer.done:
            return self._complete(ready, clean=used == len(data))
        sent: list[Command] = [Send(Side.CLIENT, ready)] if ready else []
        if self._body.done:
            sent += self._deadline(self._out.route.response_timeout)
        return sent

    def _complete(self, ready: bytes, *, clean: bool) -> Sequence[Command]:
        """clean: the upstream said nothing beyond its answer, so its connection can be another request's."""
        assert self._response is not None  # it comes first
        self.state = State.OVER
        clean = clean and self._response.keep_alive and self._body.done and self._out.shared
        self._record.seconds = self._terms.clock() - self._began
        return Send(Side.CLIENT, ready), _RELEASE if clean else _HANG_UP, self._record

    # --- a WebSocket ------------------------------------------------------------------------------------------------

    def _upgraded(self, head: ResponseHead, data: bytes) -> Sequence[Command]:
        """The upstream agrees: from here on both sides speak frames (RFC 6455, 4.2.2)."""
        if self._out.key is None:
            raise ProtocolError("101, where no upgrade was asked for")
        websocket.check_response(head, self._out.key)
        self.state = State.UPGRADED
        self._record.status = 101
        self._record.seconds = self._terms.clock() - self._began
        frames = websocket.ServerFrames()
        frames.feed(memoryview(data))
        told = lines(head) + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        return (
            Send(Side.CLIENT, told + data),
            self._record,
            Splice(framing=frames, to_upstream=self.ahead, expires=self._terms.expires),
        )

    # --- what goes wrong --------------------------------------------------------------------------------------------

    def _upstream_lost(self, event: Lost) -> Sequence[Command]:
        """Before the answer. A connection of the pool may have been at its end before it was asked anything."""
        if self._replay is not None:
            self._buffer, self._replay = self._replay, None
            self.state = State.DIALING
            return *self._deadline(self._target.upstream.connect_timeout), self._target
        return self._fail(502, _BAD_UPSTREAM, f"the upstream ended before its answer: {event.reason}")

    def _upstream_ended(self, event: Lost) -> Sequence[Command]:
        """In the middle of the answer, or where it ends by that."""
        assert self._response is not None  # the state says so
        if self._response.length == UNTIL_CLOSE and event.orderly:
            return self._complete(self._answer.end(), clean=False)
        return self._fail(502, _BAD_UPSTREAM, f"the upstream ended in the middle of its answer: {event.reason}")

    def _client_lost(self, event: Lost) -> Sequence[Command]:
        return self._end(f"the client's connection: {event.reason}")

    def _too_slow(self, event: TimedOut) -> Sequence[Command]:
        if self.final:
            return self._fail(503, SHUTDOWN, SHUTDOWN)
        if event.stalled is Side.CLIENT:
            return self._end("the client does not take the answer")
        if not self._body.done and event.stalled is None:
            return self._fail(408, "the body did not come in time", "the body did not come in time")
        return self._fail(504, _SLOW_UPSTREAM, "the upstream did not answer in time")

    def abandon(self, reason: str) -> list[Command]:
        """The connection ends, whatever the reason: the record is still due."""
        if self.state in (State.OVER, State.UPGRADED):
            return []
        self._record.reason, self.state = reason, State.OVER
        self._record.seconds = self._terms.clock() - self._began
        return [self._record]

    def refuse(self, refusal: Refusal) -> Sequence[Command]:
        """Whatever it is at: with that answer, if none has begun."""
        return self._fail(refusal.status, refusal.error, str(refusal))

    def _end(self, reason: str) -> list[Command]:
        return [*self.abandon(reason), Close(reason, broken=self._response is not None)]

    def _fail(self, status: int, error: str, reason: str) -> list[Command]:
        """An answer of ours, where none has begun."""
        if self._response is not None:
            return self._end(reason)
        self._record.status = status
        farewell = answer(Refusal(status, error), self._out.head.method)
        return [*self.abandon(reason), Close(reason, farewell)]


_RELEASE = Release()
_HANG_UP = HangUp()

_Step = Callable[[Exchange, Any], Sequence[Command]]
_UP, _CLIENT = Side.UPSTREAM, Side.CLIENT
_STEPS: dict[tuple[State, type[Event], Side | None], _Step] = {
    (State.DIALING, Dialed, None): Exchange._dialed,
    (State.DIALING, Lost, _UP): Exchange._unreachable,
    (State.DIALING, TimedOut, None): Exchange._unreachable_in_time,
    (State.DIALING, Data, _CLIENT): Exchange._early,
    (State.DIALING, Lost, _CLIENT): Exchange._client_lost,
    (State.SECURING, Secured, _UP): Exchange._secured,
    (State.SECURING, Lost, _UP): Exchange._unreachable,
    (State.SECURING, TimedOut, None): Exchange._unreachable_in_time,
    (State.SECURING, Data, _CLIENT): Exchange._early,
    (State.SECURING, Lost, _CLIENT): Exchange._client_lost,
    (State.WAITING, Data, _CLIENT): Exchange._more,
    (State.WAITING, Data, _UP): Exchange._heard,
    (State.WAITING, Lost, _UP): Exchange._upstream_lost,
    (State.WAITING, Lost, _CLIENT): Exchange._client_lost,
    (State.WAITING, TimedOut, None): Exchange._too_slow,
    (State.ANSWERING, Data, _CLIENT): Exchange._more,
    (State.ANSWERING, Data, _UP): Exchange._body_heard,
    (State.ANSWERING, Lost, _UP): Exchange._upstream_ended,
    (State.ANSWERING, Lost, _CLIENT): Exchange._client_lost,
    (State.ANSWERING, TimedOut, None): Exchange._too_slow,
}
