"""Both ends of connections for the tests of `gateway.net`: certificates, a transport's owner, and the peer beyond.

Owns real sockets and never blocks on them; who waits for what is the test's to say.
"""

from __future__ import annotations

import os
import socket
import struct
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from OpenSSL import SSL

from gateway.certs import Certificates, ClientContext, ServerContext
from gateway.errors import Problems
from gateway.net.transport import Transport
from gateway.upstream import Address, ClientTLS, Login, ServerTLS, TLSMode, Upstream
from tests.pki import Issued, issue, make_ca, write_pem

SECTION = "postgres:main"
HOST = "db.example.org"

# Both ends of the pairs that are still there: their tests hold them in circles, which nobody frees at a known time.
_ends: weakref.WeakSet[socket.socket] = weakref.WeakSet()


class Authority:
    """A CA, a server certificate for HOST, and the gateway's contexts made from their files."""

    def __init__(self, folder: Path, server: Issued | None = None, ca: Issued | None = None) -> None:
        self.ca = ca or make_ca()
        root = write_pem(folder / "ca.crt", self.ca.certificate)
        pair = (server or issue(self.ca, HOST, sans=[HOST, "127.0.0.1"])).write(folder, "server")
        self.upstream = Upstream("main", (Address(HOST, 5432),), ClientTLS(TLSMode.VERIFY_FULL, root_certificate=root))
        problems = Problems()
        self.certificates = Certificates.build(
            {SECTION: (ServerTLS(*pair), (b"postgresql",))}, {"upstream:main": self.upstream}, problems
        )
        problems.raise_if_any()

    @property
    def server(self) -> ServerContext:
        return self.certificates.server(SECTION)

    @property
    def client(self) -> ClientContext:
        return self.certificates.client(self.upstream, Login())

    def as_server(self, sock: socket.socket) -> SSL.Connection:
        return self.server.connection(sock)

    def as_client(self, sock: socket.socket) -> SSL.Connection:
        return self.client.connection(sock, HOST)


def close_pairs() -> None:
    """What a test left open is no other test's to find: not among its descriptors, nor as its ResourceWarning."""
    while _ends:
        _ends.pop().close()


@contextmanager
def no_new_descriptors() -> Iterator[None]:
    """None may be left open. One that was open before may be closed: garbage is freed at any time."""
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - their names only
    yield
    assert set(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208 - their names only


def unix_pair(buffer: int = 0) -> tuple[socket.socket, socket.socket]:
    """Delivery between these is immediate; with `buffer`, each holds few bytes for the other."""
    pair = socket.socketpair()
    for sock in pair:
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    _ends.update(pair)
    return pair


def tcp_pair(buffer: int = 0) -> tuple[socket.socket, socket.socket]:
    with socket.socket() as listening:
        if buffer:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        far = socket.socket()
        if buffer:
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        far.connect(listening.getsockname())
        near, _ = listening.accept()
    _ends.update((near, far))
    return near, far


def reset(sock: socket.socket) -> None:
    """Close with a TCP reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Peer:
    """What a transport speaks to. `data`: what came; `end`: `"eof"` in order, `"cut"` if not."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.tls: SSL.Connection | None = None
        self.secured = False
        self.data = bytearray()
        self.end: str | None = None
        self.outbox = bytearray()

    def secure(self, connection: SSL.Connection) -> None:
        self.tls = connection
        self.step()

    def write(self, data: bytes) -> None:
        """Send it now, and what does not fit at the next steps."""
        self.outbox += data
        self.step()

    def step(self) -> None:
        """Go on with the handshake, then with the outbox."""
        try:
            if self.tls and not self.secured:
                self.tls.do_handshake()
                self.secured = True
            while self.outbox:
                sent = (self.tls or self.sock).send(bytes(self.outbox[:16_384]))
                del self.outbox[:sent]
        except (SSL.WantReadError, SSL.WantWriteError, BlockingIOError):
            return
        except (SSL.Error, OSError):
            self.end = self.end or "cut"
            self.outbox.clear()

    def read(self, most: int = 1 << 30) -> None:
        """Take at most so much of what is there."""
        while most > 0 and not self.end:
            try:
                data = (self.tls or self.sock).recv(min(most, 65_536))
            except (SSL.WantReadError, BlockingIOError):
                return
            except SSL.ZeroReturnError:
                data = b""
            except (SSL.Error, OSError):
                self.end = "cut"
                return
            if not data:
                self.end = "eof"
            self.data += data
            most -= len(data)

    def play(self) -> None:
        self.step()
        if self.tls is None or self.secured:
            self.read()

    def finish(self) -> None:
        """Half-close, in order."""
        if self.tls:
            self.tls.shutdown()
        self.sock.shutdown(socket.SHUT_WR)


class Recorder:
    """A transport's owner that notes what it is told, and fails when it is told anything after the end."""

    def __init__(self) -> None:
        self.data = b""
        self.first: bytes | None = None
        self.secure = False
        self.reason: str | None = None

    def _alive(self) -> None:
        assert self.reason is None, "told after it was lost"

    def sniffed(self, _: Transport, first: bytes) -> None:
        self._alive()
        self.first = first

    def received(self, transport: Transport, data: bytes) -> None:
        self._alive()
        self.data += data

    def secured(self, transport: Transport) -> None:
        self._alive()
        assert not self.secure
        self.secure = True

    def lost(self, transport: Transport, reason: str) -> None:
        self._alive()
        self.reason = reason
