"""A real web application (aiohttp) to stand behind the gateway: it tells as JSON what it was asked.

Owns its event loop, in a thread of its own, and where it listens: a port, in plain or over TLS, or a Unix socket.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

from aiohttp import web

from tests.e2e.clients import random_bytes
from tests.servers import free_port

BLOCK = 1 << 20
TEXT = "Temperaturen: -5 °C, 40 °C\n" * 200
GZIPPED = gzip.compress(TEXT.encode(), mtime=0)
COOKIES = ("session=a1b2; Path=/; HttpOnly", "theme=dark; Expires=Wed, 21 Oct 2065 07:28:00 GMT; Path=/")
ELSEWHERE = "http://elsewhere.example/login?next=%2Fa%20b"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def blocks(size: int) -> Iterator[bytes]:
    """That many bytes, always the same, of which no part could take another's place unseen."""
    content = random_bytes(BLOCK - 8)
    for number in range(-(-size // BLOCK)):
        yield (number.to_bytes(8) + content)[: size - number * BLOCK]


def digest(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


@dataclass(slots=True)
class WebApplication:
    """asked: the targets of all requests. `busy`: how many of them are at /slow now."""

    name: str
    asked: list[str] = field(default_factory=list)
    busy: int = 0
    port: int = 0
    _connections: dict[asyncio.Transport, int] = field(default_factory=dict)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _runner: web.AppRunner | None = None

    @classmethod
    @contextmanager
    def running(
        cls, name: str = "application", *, tls: ssl.SSLContext | None = None, path: Path | None = None
    ) -> Iterator[Self]:
        """path: of a Unix socket, in place of a port."""
        application = cls(name, port=0 if path else free_port())
        thread = threading.Thread(target=application._loop.run_forever)
        thread.start()
        application._run(application._start(tls, path))
        try:
            yield application
        finally:
            application.die()
            application._loop.call_soon_threadsafe(application._loop.stop)
            thread.join()
            application._loop.close()

    def _run(self, work: Awaitable[None]) -> None:
        async def done() -> None:
            await work

        asyncio.run_coroutine_threadsafe(done(), self._loop).result(30)

    async def _start(self, tls: ssl.SSLContext | None, path: Path | None) -> None:
        app = web.Application(middlewares=[self._count])
        get: dict[str, Handler] = {
            "/download": self._download, "/gzip": self._gzip, "/cookies": self._cookies, "/redirect": self._redirect,
            "/slow": self._slow, "/status/{code}": self._status, "/half": self._half,
        }  # fmt: skip
        for where, handler in get.items():
            app.router.add_get(where, handler)
        app.router.add_route("*", "/refuse", self._echo, expect_handler=_refuse)
        app.router.add_route("*", "/{anything:.*}", self._echo)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        site: web.BaseSite = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=tls)
        if path:
            site = web.UnixSite(self._runner, path)
        await site.start()

    # --- what tests ask -----------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many there ever were, on which anything was asked."""
        return len(self._connections)

    def hang_up(self) -> None:
        """On everybody, also in the middle of a word."""

        async def abort() -> None:
            for transport in self._connections:
                transport.abort()

        self._run(abort())

    def die(self) -> None:
        """Without a word to anybody; nobody listens there any more."""

        async def stop() -> None:
            assert self._runner is not None
            for site in tuple(self._runner.sites):
                await site.stop()
            for transport in self._connections:
                transport.abort()
            await self._runner.cleanup()
            handlers = asyncio.all_tasks() - {asyncio.current_task()}
            for handler in handlers:
                handler.cancel()
            await asyncio.gather(*handlers, return_exceptions=True)

        self._run(stop())

    # --- what it answers ----------------------------------------------------------------------------------------------

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        assert isinstance(request.transport, asyncio.Transport)
        self._connections.setdefault(request.transport, len(self._connections))
        self.asked.append(request.raw_path)
        return await handler(request)

    async def _echo(self, request: web.Request) -> web.StreamResponse:
        found, start, length = hashlib.sha256(), b"", 0
        async for part in request.content.iter_chunked(BLOCK):
            found.update(part)
            length += len(part)
            if length <= BLOCK:
                start += part
        assert isinstance(request.transport, asyncio.Transport)
        certificate: dict[str, Any] = request.transport.get_extra_info("peercert") or {}
        told = {
            "application": self.name,
            "connection": self._connections[request.transport],
            "peer": [value for rdn in certificate.get("subject", ()) for _, value in rdn],
            "method": request.method,
            "target": request.raw_path,
            "fields": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers],
            "length": length,
            "sha256": found.hexdigest(),
            "body": start.decode("latin-1") if length <= BLOCK else None,
        }
        return web.json_response(told, headers={"X-Application": self.name})

    async def _download(self, request: web.Request) -> web.StreamResponse:
        size = int(request.query["size"])
        response = web.StreamResponse()
        if request.query.get("chunked"):
            response.enable_chunked_encoding()
        else:
            response.content_length = size
        await response.prepare(request)
        # aiohttp would send it to HEAD, too.
        for part in blocks(size) if request.method == "GET" else ():
            await response.write(part)
        await response.write_eof()
        return response

    async def _half(self, request: web.Request) -> web.StreamResponse:
        """An answer in whose middle the connection breaks."""
        response = web.StreamResponse()
        if request.query.get("chunked"):
            response.enable_chunked_encoding()
        else:
            response.content_length = BLOCK
        await response.prepare(request)
        await response.write(bytes(BLOCK // 2))
        assert request.transport is not None
        request.transport.close()
        return response

    async def _gzip(self, _: web.Request) -> web.StreamResponse:
        headers = {"Content-Encoding": "gzip", "Content-Type": "text/plain; charset=utf-8", "ETag": '"of-gzip"'}
        return web.Response(body=GZIPPED, headers=headers)

    async def _cookies(self, _: web.Request) -> web.StreamResponse:
        response = web.Response(text="eat")
        for cookie in COOKIES:
            response.headers.add("Set-Cookie", cookie)
        return response

    async def _redirect(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=int(request.query.get("status", "302")), headers={"Location": ELSEWHERE})

    async def _slow(self, request: web.Request) -> web.StreamResponse:
        self.busy += 1
        try:
            await asyncio.sleep(float(request.query["seconds"]))
            return await self._echo(request)
        finally:
            self.busy -= 1

    async def _status(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=int(request.match_info["code"]), headers={"X-Application": self.name})


async def _refuse(_: web.Request) -> NoReturn:
    """In place of 100 (Continue)."""
    raise web.HTTPForbidden(text="not that")
