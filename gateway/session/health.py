"""The health listener's connections: one HTTP/1.1 request each, for whether the gateway lives and is ready.

Owns the two paths and what they say. Plain and without proof, so it listens on loopback or a Unix socket only, changes
nothing and tells nothing that is not for everybody there. Refuses other methods, bodies, and whoever takes his time.
Host may be anything: a page that a browser was tricked into opening here learns what it could not use.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Final

from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Ended,
    Event,
    Facts,
    Killed,
    Lost,
    Opened,
    Reloaded,
    SetDeadline,
    ShuttingDown,
    TimedOut,
)
from gateway.wire.http1 import Refused, RequestHead, find_head, parse_request

READY: Final = b"/.well-known/securegw/health"
LIVE: Final = b"/.well-known/securegw/health/live"
# Who asks is on the same machine.
HEAD_SECONDS: Final = 5.0
_DRAINING: Final = {"status": "draining"}
_ALLOW: Final = "Allow: GET, HEAD\r\n"


@dataclass(frozen=True, slots=True)
class Health:
    """How the gateway is. ready: it takes new connections. connections: how many there are.

    last_reload_failed: what it runs with is older than what is configured; it works, but somebody has to know.
    registry: whether its database can be read; None: there is none. For a while what is known counts. keys: whether
    those of every `[jwt:NAME]` could be fetched from their URL; None: none has one. The last good ones count.
    audit_failing: records are being lost; clients are let in all the same, and somebody has to know.
    """

    ready: bool
    last_reload_failed: bool
    connections: int
    registry: bool | None = None
    keys: bool | None = None
    audit_failing: bool = False


class State(Enum):
    NEW = auto()
    HEAD = auto()
    CLOSED = auto()


class HealthSession:
    """`handle(event) -> [command]`. current: how the gateway is now."""

    __slots__ = ("_buffer", "_current", "_state", "facts")

    def __init__(self, current: Callable[[], Health]) -> None:
        self.facts = Facts()
        self._current = current
        self._state = State.NEW
        self._buffer = bytearray()

    def handle(self, event: Event) -> Sequence[Command]:
        if isinstance(event, Ended):
            self._state = State.CLOSED
        if self._state is State.CLOSED:
            return []
        step = _STEPS.get((self._state, type(event)))
        if step is None:
            return self._close(f"{type(event).__name__} is not expected while {self._state.name}")
        try:
            return step(self, event)
        except Refused as refused:
            return self._refuse(refused.status, str(refused))

    def _opened(self, event: Opened) -> list[Command]:
        if event.over_limit:
            return self._refuse(503, "too many connections")
        self._state = State.HEAD
        return [SetDeadline(HEAD_SECONDS)]

    def _received(self, event: Data) -> list[Command]:
        """Raises Refused. What follows the first head is nobody's: the connection ends with its answer."""
        self._buffer += event.data
        end = find_head(self._buffer)
        return self._answer(parse_request(bytes(self._buffer[:end]))) if end else []

    def _answer(self, head: RequestHead) -> list[Command]:
        if head.path not in (READY, LIVE):
            return self._refuse(404, "no such path", head.method)
        if head.method not in (b"GET", b"HEAD"):
            return self._refuse(405, "another method than GET and HEAD")
        if head.length:
            return self._refuse(413, "a body", head.method)
        self.facts.decision = "allowed"
        if head.path == LIVE:
            return self._say(200, {"status": "live"}, head.method)
        health = self._current()
        reload = "failed" if health.last_reload_failed else "ok"
        state = {"status": "ready"} if health.ready else _DRAINING
        answer: dict[str, object] = {**state, "reload": reload, "connections": health.connections}
        for name, there in (("registry", health.registry), ("keys", health.keys)):
            if there is not None:
                answer[name] = "ok" if there else "away"
        if health.audit_failing:
            answer["audit"] = "failed"
        return self._say(200 if health.ready else 503, answer, head.method)

    # --- ends -------------------------------------------------------------------------------------------------------

    def _say(self, status: int, content: Mapping[str, object], method: bytes) -> list[Command]:
        return self._close(f"answered {status}", _response(status, content, method))

    def _refuse(self, status: int, reason: str, method: bytes = b"GET") -> list[Command]:
        content = {"status": status, "error": HTTPStatus(status).phrase}
        return self._close(f"refused {status}: {reason}", _response(status, content, method))

    def _close(self, reason: str, farewell: bytes = b"") -> list[Command]:
        self._state = State.CLOSED
        return [Close(reason, farewell)]

    def _timed_out(self, _: TimedOut) -> list[Command]:
        return self._refuse(408, f"no whole request in {HEAD_SECONDS:g} seconds")

    def _lost(self, event: Lost) -> list[Command]:
        return self._close(event.reason)

    def _killed(self, event: Killed) -> list[Command]:
        return self._close(event.reason)

    def _reloaded(self, _: Reloaded) -> list[Command]:
        """It lets in everybody."""
        return []

    def moved(self) -> tuple[int, int]:
        return 0, 0

    def _shutting_down(self, _: ShuttingDown) -> list[Command]:
        """Whatever it is going to ask, this is the answer; the end of the gateway need not wait for the question."""
        return self._close("the gateway is shutting down", _response(503, _DRAINING, b"GET"))


def _response(status: int, content: Mapping[str, object], method: bytes) -> bytes:
    """The whole of it; to HEAD without the body (RFC 9110, 9.3.2)."""
    body = json.dumps(content).encode("ascii") + b"\n"
    # RFC 9110, 15.5.6: whoever gets a 405 is told what would do.
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\n"
        f"{_ALLOW if status == 405 else ''}Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + (b"" if method == b"HEAD" else body)


# Each takes the one kind of event that its row names.
_Step = Callable[[HealthSession, Any], Sequence[Command]]
_STEPS: Final[dict[tuple[State, type], _Step]] = {
    (State.NEW, Opened): HealthSession._opened,
    (State.HEAD, Data): HealthSession._received,
    (State.HEAD, TimedOut): HealthSession._timed_out,
    (State.HEAD, Lost): HealthSession._lost,
    (State.HEAD, ShuttingDown): HealthSession._shutting_down,
    **{(state, Killed): HealthSession._killed for state in State},
    **{(state, Reloaded): HealthSession._reloaded for state in State},
}
