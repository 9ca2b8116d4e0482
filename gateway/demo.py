"""The application behind the quickstart's HTTPS: it says as JSON what it was asked, and below /echo/ echoes WebSockets.

Owns one Unix socket, in a folder that only we can enter, and what is spoken there. Its one client is the gateway, which
keeps the deadlines. It bounds what it holds all the same: a head to 64 KiB, a body or a WebSocket message to 1 MiB; and
it reads nothing while its answers are not taken.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Any

import h11
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from wsproto.connection import Connection, ConnectionType
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.handshake import H11Handshake
from wsproto.utilities import RemoteProtocolError
from zope.interface import implementer

MAX_HEAD = 64 * 1024
MAX_BODY = 1024 * 1024

WEBSOCKETS = b"/echo/"


class DemoApplication:
    """path: where to listen, and nobody else does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connections: set[DemoConnection] = set()
        self._port: Any = None

    def start(self, reactor: Any) -> None:
        """Raises OSError or CannotListenError."""
        self._path.unlink(missing_ok=True)  # of a gateway that was killed
        self._port = reactor.listenUNIX(str(self._path), Demo(self._connections), mode=0o600)

    def stop(self) -> Deferred[None]:
        """Cuts what is open; fires when nothing listens any longer. Does nothing where nothing was started."""
        port, self._port = self._port, None
        for connection in tuple(self._connections):
            connection.transport.abortConnection()
        return maybeDeferred(port.stopListening if port else lambda: None)


class Demo(Factory):
    noisy = False

    def __init__(self, connections: set[DemoConnection]) -> None:
        self._connections = connections

    def buildProtocol(self, _: object) -> DemoConnection:
        return DemoConnection(self._connections)


@implementer(IPushProducer)
class DemoConnection(Protocol):
    """HTTP/1.1, one request after the other, until one of them opens a WebSocket.

    connections: where it stands while it is open.
    """

    transport: Any

    def __init__(self, connections: set[DemoConnection]) -> None:
        self._connections = connections
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._websocket: Connection | None = None
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._length = 0

    def connectionMade(self) -> None:
        self._connections.add(self)
        self.transport.registerProducer(self, True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002 - Twisted's signature
        self._connections.discard(self)

    def dataReceived(self, data: bytes) -> None:
        if self._websocket is None:
            self._serve(data)
        else:
            self._websocket.receive_data(data)
        if self._websocket is not None:
            self._echo(self._websocket)

    def pauseProducing(self) -> None:
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """The connection is lost."""

    def _close(self) -> None:
        # Twisted would wait for a producer that is still there.
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    # --- HTTP -------------------------------------------------------------------------------------------------------

    def _serve(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            while self._websocket is None and self._http.our_state is not h11.MUST_CLOSE:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    self._begin(event)
                elif isinstance(event, h11.Data):
                    self._length += len(event.data)
                    self._body += event.data[: MAX_BODY - len(self._body)]
                elif isinstance(event, h11.EndOfMessage):
                    self._answer()
                else:
                    return
        except h11.RemoteProtocolError as error:
            self._refuse(HTTPStatus(error.error_status_hint))

    def _begin(self, request: h11.Request) -> None:
        self._request = request
        if self._http.they_are_waiting_for_100_continue:
            self._write(h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[]))

    def _answer(self) -> None:
        assert self._request is not None  # its body has ended
        request = self._request
        fields = {name for name, _ in request.headers}
        if self._length > MAX_BODY:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        elif request.method == b"CONNECT":
            self._refuse(HTTPStatus.NOT_IMPLEMENTED)
        # Of a request in HTTP/1.0 an Upgrade has to be ignored (RFC 9110 section 7.8).
        elif request.target.startswith(WEBSOCKETS) and b"upgrade" in fields and request.http_version == b"1.1":
            self._open(request)
        else:
            self._send(HTTPStatus.OK, echo(request, bytes(self._body)))

    def _refuse(self, status: HTTPStatus) -> None:
        self._send(status, {"error": status.phrase})

    def _send(self, status: HTTPStatus, document: Mapping[str, object]) -> None:
        # In ASCII, so that no terminal obeys what somebody sent.
        body = json.dumps(document, indent=2).encode("ascii") + b"\n"
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        if self._http.their_state is h11.ERROR:
            headers.append(("Connection", "close"))
        self._write(h11.Response(status_code=status, reason=status.phrase, headers=headers))
        if self._request is None or self._request.method != b"HEAD":
            self._write(h11.Data(data=body))
        self._write(h11.EndOfMessage())
        self._request, self._body, self._length = None, bytearray(), 0
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            self._close()

    def _write(self, event: h11.Event) -> None:
        self.transport.write(self._http.send(event))

    # --- WebSocket --------------------------------------------------------------------------------------------------

    def _open(self, request: h11.Request) -> None:
        handshake = H11Handshake(ConnectionType.SERVER)
        try:
            if request.method != b"GET":
                raise RemoteProtocolError("a WebSocket is opened with GET (RFC 6455 section 4.1)")
            handshake.initiate_upgrade_connection(list(request.headers), request.target)
            accepted = handshake.send(AcceptConnection())
        except (RemoteProtocolError, UnicodeError):
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        self.transport.write(accepted)
        self._body = bytearray()
        self._websocket = handshake.connection
        assert self._websocket is not None  # it was accepted
        ahead, _ = self._http.trailing_data
        self._websocket.receive_data(ahead)

    def _echo(self, websocket: Connection) -> None:
        for event in websocket.events():
            answer: Event | None = None
            if isinstance(event, Ping | CloseConnection):
                answer = event.response()
            elif isinstance(event, TextMessage | BytesMessage):
                answer = self._whole(event)
            if answer:
                self.transport.write(websocket.send(answer))
            if isinstance(answer, CloseConnection):
                # What follows a Close frame is nobody's (RFC 6455 section 5.5.1).
                self._close()
                return

    def _whole(self, part: TextMessage | BytesMessage) -> Event | None:
        """The message, once its last part is there: many clients send all of one before they read."""
        self._body += part.data.encode("utf-8") if isinstance(part, TextMessage) else part.data
        if len(self._body) > MAX_BODY:
            return CloseConnection(CloseReason.MESSAGE_TOO_BIG)
        if not part.message_finished:
            return None
        data, self._body = bytes(self._body), bytearray()
        return TextMessage(data.decode("utf-8")) if isinstance(part, TextMessage) else BytesMessage(data)


def echo(request: h11.Request, body: bytes) -> dict[str, object]:
    """What was asked, as it came."""
    path, _, query = request.target.decode("ascii").partition("?")
    try:
        text, encoding = body.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(body).decode("ascii"), "base64"
    return {
        "method": request.method.decode("ascii"),
        "path": path,
        "query": query,
        "headers": _fields(request),
        "body": text,
        "body_encoding": encoding,
        "body_length": len(body),
    }


def _fields(request: h11.Request) -> dict[str, str]:
    """Names as the first of each was written; the values of several are joined, as RFC 9110 section 5.2 does it."""
    names: dict[bytes, str] = {}
    fields: dict[str, str] = {}
    for raw, value in request.headers.raw_items():
        name, text = names.setdefault(raw.lower(), raw.decode("ascii")), value.decode("latin-1")
        fields[name] = f"{fields[name]}, {text}" if name in fields else text
    return fields
