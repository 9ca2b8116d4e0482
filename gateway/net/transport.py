"""One connection to a peer: a non-blocking socket that can be sniffed, become TLS, be written to, and be closed in
order, or be seen to break.

Owns the socket and what could not be sent yet. What is received goes to an owner (the driver, or the pool) until the
relay takes over.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from fcntl import ioctl
from typing import Any

from OpenSSL import SSL

from gateway.net.owner import NOBODY, Owner
from gateway.net.poller import READ, WRITE, Poller
from gateway.net.stream import SIZE, VIEW, BrokenStream, ClosedStream, EndOfStream, PlainStream, Stream, tls_stream

# After our last byte the peer gets so long to read it before the socket is closed: a close with unread input is a
# reset, which can destroy an ErrorResponse on its way. And so long again whenever it has taken some of what is left,
# but no longer than the second in all.
LINGER_SECONDS = 2.0
MAX_LINGER_SECONDS = 30.0
# And it may send so much more, unread, in that time.
LINGER_BYTES = 1_048_576
# How often it is looked whether the system has sent everything, so that a reset destroys nothing here.
_LOOK_SECONDS = 0.1
# linux/sockios.h: how many bytes of a socket were not sent at all yet; and socket(7): close with a reset.
_SIOCOUTQNSD = 0x894B
_RESET = struct.pack("ii", 1, 0)


def _nothing() -> None:
    pass


class Transport:
    """clock: Twisted's IReactorTime, for the lingering close only."""

    __slots__ = (
        "_broken",
        "_clock",
        "_closing",
        "_fd",
        "_interest",
        "_limit",
        "_linger",
        "_on_closed",
        "_on_drained",
        "_owner",
        "_pending",
        "_poller",
        "_sock",
        "_written",
        "closed",
        "connection",
        "ended",
        "on_readable",
        "pending",
        "stream",
    )

    def __init__(self, poller: Poller, clock: Any, sock: socket.socket, owner: Owner) -> None:
        sock.setblocking(False)
        self._poller, self._clock, self._sock, self._owner = poller, clock, sock, owner
        self._fd = sock.fileno()
        self._interest = 0
        self._pending = bytearray()
        self.pending = 0  # bytes that the peer has not taken yet
        self._broken = self._closing = self._written = False
        self._linger: Any = None
        self._limit = SIZE
        self.on_readable: Callable[[], None] = self._receive
        self._on_drained: Callable[[], None] = _nothing
        self._on_closed: Callable[[], None] = _nothing
        self.closed = False
        self.ended = False  # the owner was told `lost` because the peer has ended in order
        self.connection: SSL.Connection | None = None
        self.stream: Stream = PlainStream(sock)

    # --- interest ---------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Read from now on."""
        self._want(self._interest | READ)

    def pause(self) -> None:
        """Leave what comes on the socket."""
        self._want(self._interest & ~READ)

    def proceed(self) -> None:
        """Read again after a pause, first what the stream holds and no event will tell of."""
        if self._interest & READ or self._closing:
            return
        self.resume()
        if self.stream.unread:
            self.on_readable()

    def _want(self, interest: int) -> None:
        if interest != self._interest and not self.closed:
            self._interest = interest
            self._poller.watch(self._fd, self, interest)

    def blocked(self) -> None:
        """The stream was read and had nothing: if it has to write first, wait for that."""
        if self.stream.wants_write:
            self._want(self._interest | WRITE)

    def on_writable(self) -> None:
        if self.stream.wants_write:
            self.stream.wants_write = False
            if self._interest & READ:
                self.on_readable()
        if not self.closed:
            self._flush()

    def on_bug(self) -> None:
        self._lost("a bug in the gateway (see its log)")

    # --- reading ----------------------------------------------------------------------------------------------------

    def sniff(self) -> None:
        """Tell the owner the first byte, and leave it on the socket. Reading then goes on."""
        self.on_readable = self._sniff
        self.resume()

    def limit(self, size: int) -> None:
        """Take at most so many bytes at once off a plain socket, so that what follows is left for TLS."""
        self._limit = size

    def _sniff(self) -> None:
        try:
            first = self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error.strerror or str(error))
            return
        if not first:
            self._ended()
            return
        self.on_readable = self._receive
        self._owner.sniffed(self, first)

    def _receive(self) -> None:
        try:
            if self._limit < SIZE:
                data = self._sock.recv(self._limit)
                if not data:
                    raise EndOfStream
            else:
                data = bytes(VIEW[: self.stream.read()])
        except BlockingIOError:
            return
        except EndOfStream:
            self._ended()
            return
        except (BrokenStream, OSError) as error:
            self._lost(str(error))
            return
        if not data:
            self.blocked()
            return
        self._owner.received(self, data)
        if self.stream.unread and self._interest & READ:
            self.on_readable()

    def relay(self, on_read: Callable[[], None], on_drained: Callable[[], None]) -> None:
        """From now on `on_read` reads the stream itself when there is something, and `on_drained` is told when all
        is sent.

        What OpenSSL holds decrypted raises no event: call `on_read` once after this.
        """
        self.on_readable, self._on_drained = on_read, on_drained
        self.resume()

    # --- TLS --------------------------------------------------------------------------------------------------------

    def start_tls(self, connect: Callable[[socket.socket], SSL.Connection], *, small: bool = False) -> None:
        """Go on as TLS on the same socket; the owner hears `secured`, or `lost`. small: as of `tls_stream`."""
        if self.closed:
            return
        if self._pending:
            self._lost("the peer did not take the answer to its encryption request")
            return
        self.connection = connect(self._sock)
        self.stream = tls_stream(self.connection, small=small)
        self.on_readable = self._handshake
        self.resume()
        # If that is all, the owner, whose call this is, has yet to act on it: what the peer says next is still on the
        # socket, for whoever reads then.
        self._shake_hands()

    def _handshake(self) -> None:
        self._shake_hands()
        if not self.closed and self.on_readable == self._receive and self._interest & READ:
            self._receive()

    def _shake_hands(self) -> None:
        try:
            done = self.stream.handshake()
        except BrokenStream as error:
            owner = self._owner
            self.close()  # not at once: the alert, which tells the peer why, is on its way to it
            owner.lost(self, str(error))
            return
        if not done:
            self.blocked()
            return
        self.on_readable = self._receive
        self._owner.secured(self)

    # --- writing ----------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send now, or as soon as the peer takes it. Unbounded by itself: only for what a session says."""
        if self.closed or self._closing:
            return
        if not self._pending:
            try:
                sent = self.stream.send(data)
            except BrokenStream as error:
                self._lost(str(error))
                return
            if sent == len(data):
                return
            data = data[sent:]
        self._keep(data)

    def push(self, size: int) -> bool:
        """Send the first `size` bytes of VIEW. False: a part waits here; send no more before `on_drained`."""
        if self._pending:
            self._keep(bytes(VIEW[:size]))
            return False
        sent = self.stream.write(size)
        if sent == size:
            return True
        self._keep(bytes(VIEW[sent:size]))
        return False

    def _keep(self, data: bytes) -> None:
        if data:
            self._pending += data
            self.pending = len(self._pending)
            self._want(self._interest | WRITE)

    def _flush(self) -> None:
        self._written = True
        try:
            while self._pending:
                sent = self.stream.send(bytes(memoryview(self._pending)[:SIZE]))
                if not sent:
                    return
                del self._pending[:sent]
                self.pending = len(self._pending)
        except BrokenStream as error:
            self._lost(str(error))
            return
        if not self.stream.wants_write:
            self._want(self._interest & ~WRITE)
        if self._closing:
            self._finish()
        else:
            self._on_drained()

    def when_drained(self, drained: Callable[[], None]) -> None:
        """Call that from now on whenever everything pending was sent; once too often does no harm."""
        self._on_drained = drained

    # --- the owner --------------------------------------------------------------------------------------------------

    @property
    def at_rest(self) -> bool:
        """Nothing is on its way in either direction as far as we can see, not even the end."""
        if self._closing or self._pending or self.stream.unread:
            return False
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:  # it broke, or is closed
            return False
        return False

    def adopt(self, owner: Owner) -> None:
        """From now on `owner` is told, in the ordinary way. Not while something is pending: whose would it be?"""
        assert not self._pending
        assert not self._closing
        self._owner = owner
        self.on_readable = self._receive
        self._on_drained = _nothing

    # --- the end ----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Half-close: once all is sent, tell the peer that nothing more comes; what it sends is still read."""
        if self.closed:
            return
        if self._pending:
            self._on_drained = self._end_now
        else:
            self._end_now()

    def _end_now(self) -> None:
        if not self.stream.finish():
            self._on_drained = self._end_now
            self._want(self._interest | WRITE)
            return
        self._on_drained = _nothing
        with suppress(OSError):  # the peer is gone already: reading will tell
            self._sock.shutdown(socket.SHUT_WR)

    def close(self, broken: bool = False) -> None:
        """Send what is pending, end in order, give the peer a moment to read it. The owner hears nothing more.

        broken: that was not all, and the peer must not think so: no close_notify, and a reset in place of a FIN. It
        may destroy what the peer has not read yet. A Unix socket knows no reset: there only TLS tells the difference.
        """
        if self.closed or self._closing:
            return
        self._closing, self._broken = True, broken
        self._owner = NOBODY
        self._written = False
        latest = self._clock.seconds() + MAX_LINGER_SECONDS
        self._linger = self._clock.callLater(LINGER_SECONDS, self._look, self._left(), latest)
        self._limit = LINGER_BYTES
        self.stream.wants_write = False
        self.on_readable = self._discard
        if not self._pending:
            self._finish()

    @property
    def left(self) -> int:
        """How much the peer has to take before it can take more; 0: nothing waits here."""
        return self._left() if self.pending else 0

    def _left(self) -> int:
        """How much the peer has to take before it can take more."""
        return self.pending + _unsent(self._sock)

    def _look(self, before: int, latest: float) -> None:
        """A slow peer gets all of it as long as it takes some of it. Half a TLS record is still pending as a whole, but
        the socket could be written to."""
        left, wait = self._left(), min(LINGER_SECONDS, latest - self._clock.seconds())
        if left and (self._written or left < before) and wait > 0:
            self._written = False
            self._linger = self._clock.callLater(wait, self._look, left, latest)
        else:
            self.abort()

    def _finish(self) -> None:
        if self._broken:
            self.pause()
            self._reset(self._linger.getTime())
            return
        self._end_now()
        self.resume()
        self._discard()

    def _reset(self, latest: float) -> None:
        """Once the system has sent everything, for a reset destroys what it has not."""
        if self._clock.seconds() >= latest or not _unsent(self._sock):
            self.abort()
            return
        if self._linger.active():
            self._linger.cancel()
        self._linger = self._clock.callLater(_LOOK_SECONDS, self._reset, latest)

    def _discard(self) -> None:
        """Read and forget, straight from the socket: nothing of it is decrypted any more."""
        try:
            size = self._sock.recv_into(VIEW)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        self._limit -= size
        if not size and self._pending:
            self.pause()  # it has finished sending; it may still be reading
        elif not size or self._limit <= 0:
            self.abort()

    def when_closed(self, closed: Callable[[], None]) -> None:
        """Call that once the socket is closed, which may be now."""
        if self.closed:
            closed()
        else:
            self._on_closed = closed

    def abort(self) -> None:
        """Close at once; what is pending is lost, and the connection reset for it. The owner hears nothing more."""
        if self.closed:
            return
        self._want(0)
        if self._broken or self._pending:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.closed = True
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        self._sock.close()
        self.stream = ClosedStream()
        # These hold the transport itself: without this only the garbage collector would free it.
        self.on_readable = self._on_drained = _nothing
        self._owner = NOBODY
        self._linger = None
        self._pending = bytearray()
        self.pending = 0  # bytes that the peer has not taken yet
        closed, self._on_closed = self._on_closed, _nothing
        closed()

    def _ended(self) -> None:
        self.ended = True
        self._lost("the peer closed the connection")

    def _lost(self, reason: str) -> None:
        if self.closed:
            return
        owner = self._owner
        self.abort()
        owner.lost(self, reason)


def _unsent(sock: socket.socket) -> int:
    """How many bytes the system still holds, which a reset would destroy. A Unix socket's are at the peer's already."""
    if sock.family == socket.AF_UNIX:
        return 0
    return int.from_bytes(ioctl(sock, _SIOCOUTQNSD, bytes(4)), sys.byteorder)
