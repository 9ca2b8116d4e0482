"""A real WebSocket service (the package websockets) to stand behind the gateway: what it does depends on the path.

Owns its listening socket and its threads. It echoes at /ws/echo, and at whatever has no meaning of its own.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

SUBPROTOCOLS = [Subprotocol("senml.v2"), Subprotocol("senml.v1")]


@dataclass(slots=True)
class WebSocketService:
    """asked: the targets of all requests. closed: by target, the code and reason that each WebSocket ended with."""

    asked: list[str] = field(default_factory=list)
    closed: dict[str, tuple[int, str]] = field(default_factory=dict)
    _server: Server | None = None

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        service = cls()
        with serve(
            service._speak,
            "127.0.0.1",
            0,
            subprotocols=SUBPROTOCOLS,
            select_subprotocol=_select,
            process_request=service._begin,
            ping_interval=None,
            max_size=None,
        ) as service._server:
            thread = threading.Thread(target=service._server.serve_forever)
            thread.start()
            try:
                yield service
            finally:
                service._server.shutdown()
                thread.join()

    @property
    def url(self) -> str:
        assert self._server is not None
        return "http://{}:{}".format(*self._server.socket.getsockname())

    def _begin(self, _: ServerConnection, request: Request) -> Response | None:
        self.asked.append(request.path)
        if request.path != "/ws/refuse":
            return None
        body = b'{"reason": "this channel is closed"}'
        fields = Headers({"Content-Type": "application/json", "Content-Length": str(len(body)), "X-Reason": "closed"})
        return Response(403, "Forbidden", fields, body)

    def _speak(self, websocket: ServerConnection) -> None:
        request = websocket.request
        assert request is not None
        try:
            _TALKS.get(request.path, _echo)(websocket)
        except ConnectionClosed:
            pass
        finally:
            websocket.close()
            self.closed[request.path] = websocket.close_code or 0, websocket.close_reason or ""


def _select(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """By itself it would demand that the client offers one."""
    return next((protocol for protocol in offered if protocol in SUBPROTOCOLS), None)


def _echo(websocket: ServerConnection) -> None:
    for message in websocket:
        websocket.send(message)


def _who(websocket: ServerConnection) -> None:
    """What it was asked, and what was agreed on; then an echo."""
    assert websocket.request is not None
    told = {
        "target": websocket.request.path,
        "fields": [[name.lower(), value] for name, value in websocket.request.headers.raw_items()],
        "extensions": [extension.name for extension in websocket.protocol.extensions],
    }
    websocket.send(json.dumps(told))
    _echo(websocket)


def _once(websocket: ServerConnection) -> None:
    websocket.send(websocket.recv())


def _fragments(websocket: ServerConnection) -> None:
    """Tells each message in the fragments that it came in, and how many these were."""
    while True:
        parts = [str(part) for part in websocket.recv_streaming()]
        websocket.send(part for part in [*parts, f"|{len(parts)}"])


def _leave(websocket: ServerConnection) -> None:
    websocket.close(4321, "enough of it")


def _ping(websocket: ServerConnection) -> None:
    """Says that the pong came."""
    websocket.ping(b"are you there?").wait(30)
    websocket.send("pong")
    _echo(websocket)


_TALKS = {
    "/ws/who": _who,
    "/ws/fragments": _fragments,
    "/ws/leave": _leave,
    "/ws/ping": _ping,
    "/ws/channels/5a2c9d52-channel/messages": _once,
}
