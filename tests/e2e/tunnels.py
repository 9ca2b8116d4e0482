"""Whoever talks through a tunnel: on either side of it, plain or over TLS, as the caller or as the service.

Owns one end of a connection, and tells exactly how the other end finished. It shares no code with the gateway, and has
no threads: the gateway is another process.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from tests.raw_client import PATIENCE, own_address
from tests.raw_https import End

H2 = ("h2",)
_RESET = struct.pack("ii", 1, 0)


def caller_context(trust: Path, certificate: Sequence[Path] = (), alpn: Sequence[str] = H2) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=trust)
    return _completed(context, certificate, alpn)


def service_context(certificate: Sequence[Path], trust: Path | None = None, alpn: Sequence[str] = H2) -> ssl.SSLContext:
    """trust: whose client certificates it requires."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if trust is not None:
        context.load_verify_locations(trust)
        context.verify_mode = ssl.CERT_REQUIRED
    return _completed(context, certificate, alpn)


def _completed(context: ssl.SSLContext, certificate: Sequence[Path], alpn: Sequence[str]) -> ssl.SSLContext:
    if certificate:
        context.load_cert_chain(certificate[0], certificate[1])
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class Peer:
    """One end of a connection. TLS is in memory, so that each way in which a stream can end is told from the others.

    name: what the audit calls it. end: how the other end finished; of a plain stream, End.ORDERLY is a FIN.
    """

    def __init__(
        self, sock: socket.socket, name: str, context: ssl.SSLContext | None = None, *, calls: bool = False
    ) -> None:
        sock.settimeout(PATIENCE)
        self.socket, self.name = sock, name
        self.end: End | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls: ssl.SSLObject | None = None
        if context is not None:
            host = "localhost" if calls else None
            self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=not calls, server_hostname=host)

    @classmethod
    @contextmanager
    def calling(cls, at: int | Path, context: ssl.SSLContext | None = None) -> Iterator[Self]:
        """Of that port or Unix socket. From an address of its own; no handshake yet."""
        if isinstance(at, Path):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(at))
            name = "local"
        else:
            sock = socket.create_connection(("127.0.0.1", at), PATIENCE, (own_address(), 0))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            name = "{}:{}".format(*sock.getsockname())
        with sock:
            yield cls(sock, name, context, calls=True)

    # --- what it does -------------------------------------------------------------------------------------------------

    def handshake(self) -> Self:
        """Raises ssl.SSLError or ConnectionError if the other end does not want it."""
        assert self.tls is not None
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
                if self.end is not None:
                    raise ConnectionError(self.end) from None
            except ssl.SSLError:
                self._flush()
                raise
            else:
                self._flush()
                return self

    def send(self, data: bytes) -> None:
        """Raises ConnectionError if it cannot; only after a reset is `end` known then."""
        if self.tls is None:
            self._put(data)
        else:
            self.tls.write(data)
            self._flush()

    def close_notify(self) -> None:
        """TLS's own word for it, and no FIN."""
        assert self.tls is not None
        with suppress(ssl.SSLError):
            self.tls.unwrap()
        self._flush()

    def cut(self) -> None:
        """FIN, over TLS without a close_notify."""
        self.socket.shutdown(socket.SHUT_WR)

    def end_sending(self) -> None:
        """In order. What the other end still says can be read."""
        if self.tls is not None:
            self.close_notify()
        self.cut()

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.socket.close()

    # --- what it hears ------------------------------------------------------------------------------------------------

    def receive(self) -> bytes:
        """Some bytes; none once it has ended, and then `end` is known. TimeoutError while there is silence."""
        while self.end is None:
            data = self._read()
            if data:
                return data
        return b""

    def exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            some = self.receive()
            assert some, f"{self.end} after {bytes(data[:200])!r}"
            data += some
        assert len(data) == size
        return bytes(data)

    def ending(self) -> End:
        """How it ends: now, without a word more."""
        data = self.receive()
        assert not data, data[:200]
        assert self.end is not None
        return self.end

    def _read(self) -> bytes:
        if self.tls is None:
            return self._plain()
        try:
            return self.tls.read(65_536) or self._ended(End.ORDERLY)
        except ssl.SSLWantReadError:
            self._fill()
            return b""
        except ssl.SSLZeroReturnError:
            return self._ended(End.ORDERLY)
        except ssl.SSLEOFError:
            return self._ended(End.CUT)

    def _plain(self) -> bytes:
        try:
            data = self.socket.recv(65_536)
        except ConnectionError:
            return self._ended(End.RESET)
        return data or self._ended(End.ORDERLY)

    def _fill(self) -> None:
        data = self._plain()
        if data:
            self._incoming.write(data)
        elif self.end is End.ORDERLY:
            # Only a FIN: what it means is TLS's to say.
            self.end = None
            self._incoming.write_eof()

    def _ended(self, end: End) -> bytes:
        self.end = end
        return b""

    def _flush(self) -> None:
        self._put(self._outgoing.read())

    def _put(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except ConnectionResetError:
            # A socket says so only once. After a FIN it would have been a BrokenPipeError.
            self.end = End.RESET
            raise


class Service:
    """Somebody who listens where a tunnel leads to."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self.port: int = listening.getsockname()[1]

    @classmethod
    @contextmanager
    def listening(cls) -> Iterator[Self]:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            yield cls(listening)

    @contextmanager
    def accepted(self, context: ssl.SSLContext | None = None) -> Iterator[Peer]:
        """The next caller; no handshake yet."""
        self._listening.settimeout(PATIENCE)
        sock, address = self._listening.accept()
        with sock:
            yield Peer(sock, "{}:{}".format(*address), context)

    @property
    def untouched(self) -> bool:
        """Nobody waits to be accepted."""
        self._listening.settimeout(0)
        try:
            self._listening.accept()[0].close()
        except BlockingIOError:
            return True
        return False
