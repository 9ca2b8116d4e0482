"""A web service behind the gateway that records what it gets, as h11 reads it, and answers as well as a test wants.

Owns one connection's reading and its answers; sockets and threads are `fake_upstream`'s. It shares no code with the
gateway: h11 is the oracle of what a strict server understands.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Self

import h11

from tests.fake_upstream import Caller, FakeUpstream

Fields = list[tuple[bytes, bytes]]
ANSWER = b"the upstream's answer\n"


@dataclass(slots=True)
class Received:
    """One request. `fields` with their names as they came. whole: its body has come to its end."""

    method: bytes
    target: bytes
    fields: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    whole: bool = False

    def values(self, name: bytes) -> list[bytes]:
        """Of the fields of that lower-case name."""
        return [value for known, value in self.fields if known.lower() == name]

    @property
    def path(self) -> str:
        return self.target.partition(b"?")[0].decode("ascii")


def raw_fields(event: h11.Request | h11.EndOfMessage) -> Fields:
    """As they came: h11 has them in lower case otherwise."""
    return list(event.headers.raw_items())


# What is said to a request as soon as its head is known, in place of the usual answer; then the connection is closed,
# unless it calls `WebService.serve`.
Script = Callable[[Caller, Received], None]


@dataclass(slots=True)
class WebService:
    """`requests`: those that came as a whole; begun: all whose head came; refused: what h11 did not accept, other than
    the end of the connection in the middle of a request.

    scripts: by path.
    """

    requests: list[Received] = field(default_factory=list)
    begun: list[Received] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    scripts: dict[str, Script] = field(default_factory=dict)
    answer: bytes = ANSWER
    _server: FakeUpstream | None = None

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        service = cls()
        with FakeUpstream.running(service.serve) as service._server:
            yield service

    # --- what tests ask -----------------------------------------------------------------------------------------------

    @property
    def server(self) -> FakeUpstream:
        assert self._server is not None
        return self._server

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def connections(self) -> int:
        """How many there ever were."""
        return len(self.server.callers)

    @property
    def bytes_received(self) -> int:
        return sum(len(caller.said) for caller in self.server.callers)

    def hang_up(self) -> None:
        """On everybody, so on all that are idle, too."""
        for caller in self.server.callers:
            with suppress(OSError):
                caller.socket.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def script(self, path: str, script: Script) -> Iterator[None]:
        self.scripts[path] = script
        try:
            yield
        finally:
            del self.scripts[path]

    # --- one connection -----------------------------------------------------------------------------------------------

    def serve(self, caller: Caller) -> None:
        """Requests, one after the other, until one of the two has enough of it."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 17)
        try:
            while self._exchange(connection, caller):
                connection.start_next_cycle()
        except h11.RemoteProtocolError as error:
            if not connection.trailing_data[1]:
                self.refused.append(str(error))

    def _exchange(self, connection: h11.Connection, caller: Caller) -> bool:
        """Whether there may be another one."""
        request: Received | None = None
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    go_on = connection.send(h11.InformationalResponse(status_code=100, headers=[]))
                    caller.send(go_on or b"")
                connection.receive_data(caller.read())
            elif isinstance(event, h11.Request):
                request = Received(event.method, event.target, raw_fields(event))
                self.begun.append(request)
                script = self.scripts.get(request.path)
                if script is not None:
                    script(caller, request)
                    return False
            elif isinstance(event, h11.Data):
                assert request is not None
                request.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                request.trailers, request.whole = raw_fields(event), True
                self.requests.append(request)
                return self._respond(connection, caller)
            else:
                return False

    def _respond(self, connection: h11.Connection, caller: Caller) -> bool:
        length = str(len(self.answer)).encode("ascii")
        head = h11.Response(status_code=200, headers=[(b"Content-Length", length), (b"Content-Type", b"text/plain")])
        events: tuple[h11.Event, ...] = (head, h11.Data(data=self.answer), h11.EndOfMessage())
        caller.send(b"".join(connection.send(event) or b"" for event in events))
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE


def understood(data: bytes) -> tuple[list[Received], str]:
    """What a strict server understands of a client's bytes: the whole requests, and why it reads none after them:
    `"refused"`, `"incomplete"`, or `"done"` (nothing is left, or the last of them ends the connection)."""
    requests: list[Received] = []
    # RFC 9112, 2.2: one empty line before a request is ignored, but not by h11.
    while data := data.removeprefix(b"\r\n"):
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        connection.receive_data(data)
        try:
            request = _whole(connection)
        except h11.RemoteProtocolError:
            return requests, "refused"
        if request is None:
            return requests, "incomplete"
        requests.append(request)
        # With that answer an upgrade is declined, and it is known whether another request may follow.
        connection.send(h11.Response(status_code=404, headers=[(b"Content-Length", b"0")]))
        connection.send(h11.EndOfMessage())
        if connection.their_state is not h11.DONE:
            break
        data = connection.trailing_data[0]
    return requests, "done"


def _whole(connection: h11.Connection) -> Received | None:
    request = None
    while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        if isinstance(event, h11.Request):
            request = Received(event.method, event.target, raw_fields(event))
            continue
        assert request is not None
        if isinstance(event, h11.Data):
            request.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            request.trailers, request.whole = raw_fields(event), True
            return request
    return None
