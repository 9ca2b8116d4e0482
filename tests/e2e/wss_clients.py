"""Real WebSocket clients, all used in one way: the package websockets, aiohttp, and ws in Node."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import aiohttp
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close
from websockets.typing import Subprotocol

from tests.e2e.https_clients import Caller
from tests.gateways import PATIENCE

NODE_SCRIPTS = Path(__file__).with_name("node")

Message = str | bytes
# The code and reason of a Close frame; 1006 is the end of the connection without one (RFC 6455, 7.4.1).
End = tuple[int, str]


class Refused(Exception):
    """An answer other than 101. `body`: empty where the client does not show it."""

    def __init__(self, status: int, body: str = "") -> None:
        super().__init__(status)
        self.status, self.body = status, body


class WebSocket(Protocol):
    """protocol, extensions: what was agreed on; empty for none."""

    @property
    def protocol(self) -> str: ...

    @property
    def extensions(self) -> str: ...

    def send(self, message: Message) -> None: ...

    def receive(self) -> Message: ...

    def ping(self) -> None:
        """And wait for the pong."""

    def close(self, code: int, reason: str) -> End:
        """And what the other side said to that."""

    def end(self) -> End:
        """What it was ended with, when nothing else comes any more."""


class Opener(Protocol):
    """Raises Refused."""

    def __call__(
        self,
        caller: Caller,
        path: str,
        *,
        fields: Mapping[str, str] = {},
        protocols: Sequence[str] = (),
        compress: bool = False,
    ) -> AbstractContextManager[WebSocket]: ...


def _address(caller: Caller, path: str) -> str:
    return caller.url(path).replace("https:", "wss:")


# --- the package websockets -------------------------------------------------------------------------------------------


Run = Callable[[Coroutine[Any, Any, Any]], Any]


class PackageWebSocket:
    """Its asyncio client: the threaded one reads and writes TLS at once, at which Python 3.11 can hang."""

    def __init__(self, run: Run, connection: ClientConnection) -> None:
        self.run, self.connection = run, connection
        self.protocol = connection.subprotocol or ""
        self.extensions = ", ".join(extension.name for extension in connection.protocol.extensions)

    def send(self, message: Message) -> None:
        self.run(self.connection.send(message))

    def send_fragments(self, parts: Sequence[str]) -> None:
        """And an empty one after them."""
        self.run(self.connection.send(parts))

    def receive(self) -> Message:
        message: Message = self.run(asyncio.wait_for(self.connection.recv(), PATIENCE))
        return message

    def receive_fragments(self) -> list[Message]:
        async def parts() -> list[Message]:
            return [part async for part in self.connection.recv_streaming()]

        fragments: list[Message] = self.run(asyncio.wait_for(parts(), PATIENCE))
        return fragments

    def ping(self) -> None:
        async def ping() -> None:
            await asyncio.wait_for(await self.connection.ping(b"are you there?"), PATIENCE)

        self.run(ping())

    def close(self, code: int, reason: str) -> End:
        self.run(self.connection.close(code, reason))
        return self._end(self.connection.protocol.close_rcvd)

    def end(self) -> End:
        try:
            message = self.receive()
        except ConnectionClosed as closed:
            return self._end(closed.rcvd)
        raise AssertionError(message)

    def _end(self, received: Close | None) -> End:
        return (received.code, received.reason) if received else (1006, "")


@contextmanager
def open_with_websockets(
    caller: Caller,
    path: str,
    *,
    fields: Mapping[str, str] = {},
    protocols: Sequence[str] = (),
    compress: bool = False,
) -> Iterator[PackageWebSocket]:
    async def opened() -> ClientConnection:
        return await connect(
            _address(caller, path),
            ssl=caller.context,
            additional_headers=fields,
            subprotocols=[Subprotocol(protocol) for protocol in protocols] or None,
            compression="deflate" if compress else None,
            ping_interval=None,
            max_size=None,
            proxy=None,
        )

    with asyncio.Runner() as runner:
        try:
            connection = runner.run(opened())
        except InvalidStatus as refused:
            raise Refused(refused.response.status_code, (refused.response.body or b"").decode()) from None
        try:
            yield PackageWebSocket(runner.run, connection)
        finally:
            runner.run(connection.close())


# --- aiohttp ----------------------------------------------------------------------------------------------------------


class AiohttpWebSocket:
    def __init__(self, run: Run, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.run, self.socket = run, socket
        self.protocol = socket.protocol or ""
        self.extensions = "permessage-deflate" if socket.compress else ""

    def send(self, message: Message) -> None:
        self.run(self.socket.send_str(message) if isinstance(message, str) else self.socket.send_bytes(message))

    def receive(self) -> Message:
        message = self._next()
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        data: Message = message.data
        return data

    def _next(self) -> aiohttp.WSMessage:
        message: aiohttp.WSMessage = self.run(self.socket.receive(PATIENCE))
        return message

    def ping(self) -> None:
        """It keeps pongs to itself unless everything else is left to us, too."""
        self.socket._autoping = False
        self.run(self.socket.ping(b"are you there?"))
        message = self._next()
        assert (message.type, bytes(message.data)) == (aiohttp.WSMsgType.PONG, b"are you there?")
        self.socket._autoping = True

    def close(self, code: int, reason: str) -> End:
        self.run(self.socket.close(code=code, message=reason.encode()))
        return self.socket.close_code or 0, reason

    def end(self) -> End:
        message = self._next()
        if message.type is aiohttp.WSMsgType.CLOSE:
            return message.data, message.extra or ""
        assert message.type is aiohttp.WSMsgType.CLOSED, message
        return 1006, ""


@contextmanager
def open_with_aiohttp(
    caller: Caller,
    path: str,
    *,
    fields: Mapping[str, str] = {},
    protocols: Sequence[str] = (),
    compress: bool = False,
) -> Iterator[AiohttpWebSocket]:
    with asyncio.Runner() as runner:

        async def opened() -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
            session = aiohttp.ClientSession()
            try:
                return session, await session.ws_connect(
                    _address(caller, path),
                    ssl=caller.context,
                    headers=fields,
                    protocols=protocols,
                    compress=15 if compress else 0,
                    max_msg_size=0,
                )
            except aiohttp.WSServerHandshakeError as error:
                await session.close()
                raise Refused(error.status) from None

        session, socket = runner.run(opened())
        try:
            yield AiohttpWebSocket(runner.run, socket)
        finally:
            runner.run(session.close())


# --- Node -------------------------------------------------------------------------------------------------------------


def missing_for_node() -> str | None:
    """What it cannot run without."""
    if shutil.which("node") is None:
        return "node is not installed"
    return None if (NODE_SCRIPTS / "node_modules" / "ws").is_dir() else "the npm package ws is not installed"


class NodeWebSocket:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        opened = self.event("open")
        self.protocol: str = opened["protocol"]
        self.extensions: str = opened["extensions"]

    def event(self, *wanted: str) -> dict[str, Any]:
        """The next one, which has to be of that kind."""
        assert self.process.stdout is not None
        event: dict[str, Any] = json.loads(self.process.stdout.readline())
        if event["event"] == "refused":
            raise Refused(event["status"], event["body"])
        assert event["event"] in wanted, event
        return event

    def do(self, command: str, **more: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": command, **more}) + "\n")
        self.process.stdin.flush()

    def send(self, message: Message) -> None:
        if isinstance(message, str):
            self.do("text", text=message)
        else:
            self.do("bytes", bytes=base64.b64encode(message).decode("ascii"))

    def send_fragments(self, parts: Sequence[str]) -> None:
        self.do("fragments", parts=parts)

    def receive(self) -> Message:
        event = self.event("message")
        return event["text"] if "text" in event else base64.b64decode(event["bytes"])

    def ping(self) -> None:
        self.do("ping", bytes=base64.b64encode(b"are you there?").decode("ascii"))
        assert base64.b64decode(self.event("pong")["bytes"]) == b"are you there?"

    def close(self, code: int, reason: str) -> End:
        self.do("close", code=code, reason=reason)
        return self.end()

    def end(self) -> End:
        event = self.event("close")
        return event["code"], event["reason"]


@contextmanager
def open_with_node(
    caller: Caller,
    path: str,
    *,
    fields: Mapping[str, str] = {},
    protocols: Sequence[str] = (),
    compress: bool = False,
) -> Iterator[NodeWebSocket]:
    options: dict[str, Any] = {"ca": str(caller.trust), "headers": dict(fields), "perMessageDeflate": compress}
    if caller.certificate:
        options["cert"], options["key"] = map(str, caller.certificate)
    told = json.dumps({"url": _address(caller, path), "protocols": list(protocols), "options": options})
    command = ["node", str(NODE_SCRIPTS / "ws_client.js"), told]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as process:
        try:
            yield NodeWebSocket(process)
        finally:
            process.kill()


OPENERS: dict[str, Opener] = {
    "websockets": open_with_websockets,
    "aiohttp": open_with_aiohttp,
    "node": open_with_node,
}
