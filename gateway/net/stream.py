"""Bytes in and out of one non-blocking socket, plain or TLS, through one buffer that the whole process shares.

Owns the calls that move bytes, and their errors. The reactor runs in one thread and every read is passed on before
the next one, so one kept buffer serves all connections and nothing is copied between the two system calls.

Two ways to drive OpenSSL: `RawTLSStream` calls `SSL_read` and `SSL_write` of the library that pyOpenSSL itself uses,
straight into the kept buffer (a fifth less CPU per transaction); that is private API of `cryptography`, so it is
probed at import, and `TLSStream` does the same through pyOpenSSL's public methods where it is missing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, Protocol

from OpenSSL import SSL

from gateway.certs import handshake_failure

# One read from an upstream; four TLS records. Larger gained nothing when measured.
SIZE = 65_536
# The most that one TLS record holds, and how long one is when more of a bulk transfer is probably behind it.
_RECORD = 16_384
_BULK = 4_096
# How a TLS handshake can be told from an attempt to exhaust us is its deadline; one record is never longer than 16 KiB.


class EndOfStream(Exception):
    """The peer has finished sending, in order (FIN, or TLS close_notify)."""


class BrokenStream(Exception):
    """The connection failed; the text says how, for the audit."""


class Stream(Protocol):
    """All methods are non-blocking. `wants_write`: the last blocked read goes on when the socket can be written.

    `unread`: the next read has something to tell of which the socket may never speak again.
    """

    wants_write: bool
    unread: bool

    def read(self) -> int:
        """So many bytes are now at the start of VIEW; 0: nothing to read yet. Raises EndOfStream, BrokenStream."""

    def write(self, size: int) -> int:
        """Send the first `size` bytes of VIEW; returns how many were taken. Raises BrokenStream."""

    def send(self, data: bytes) -> int:
        """The same from other bytes, at most SIZE of them. After a short write, `data` has to begin with the rest."""

    def handshake(self) -> bool:
        """Whether the handshake is complete. Raises BrokenStream."""

    def finish(self) -> bool:
        """Tell the peer, in the stream's own way, that nothing more comes. False: again when it can be written."""


class PlainStream:
    """TCP or a Unix socket, as it is."""

    wants_write = False
    unread = False

    def __init__(self, sock: socket.socket) -> None:
        self._recv_into = sock.recv_into
        self._send = sock.send

    def read(self) -> int:
        try:
            size = self._recv_into(VIEW)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise BrokenStream(_reason(error)) from None
        if not size:
            raise EndOfStream
        return size

    def write(self, size: int) -> int:
        return self.send(VIEW[:size])

    def send(self, data: bytes | memoryview) -> int:
        try:
            return self._send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise BrokenStream(_reason(error)) from None

    def handshake(self) -> bool:
        return True

    def finish(self) -> bool:
        return True


class ClosedStream:
    """After the end. OpenSSL knows its socket by number only, and that may be another connection's by now."""

    wants_write = False
    unread = False

    def read(self) -> int:
        raise BrokenStream("it is closed")

    def write(self, _: int) -> int:
        raise BrokenStream("it is closed")

    def send(self, _: bytes) -> int:
        raise BrokenStream("it is closed")

    def handshake(self) -> bool:
        raise BrokenStream("it is closed")

    def finish(self) -> bool:
        return True


class TLSStream:
    """TLS through pyOpenSSL's public API."""

    def __init__(self, connection: SSL.Connection) -> None:
        self.connection = connection
        self.wants_write = self.unread = False

    def read(self) -> int:
        self.wants_write = False
        try:
            return int(self.connection.recv_into(VIEW))
        except SSL.WantReadError:
            return 0
        except SSL.WantWriteError:
            self.wants_write = True
            return 0
        except SSL.ZeroReturnError:
            raise EndOfStream from None
        except (SSL.Error, OSError) as error:
            _forget_errors()
            raise BrokenStream(_reason(error)) from None

    def write(self, size: int) -> int:
        return self.send(VIEW[:size])

    def send(self, data: bytes | memoryview) -> int:
        sent, size = 0, len(data)
        try:
            while sent < size:
                sent += self.connection.send(data[sent:])
        except (SSL.WantReadError, SSL.WantWriteError):
            pass
        except (SSL.Error, OSError) as error:
            _forget_errors()
            raise BrokenStream(_reason(error)) from None
        return sent

    def handshake(self) -> bool:
        self.wants_write = False
        try:
            self.connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.WantWriteError:
            self.wants_write = True
            return False
        except (SSL.Error, OSError) as error:
            _forget_errors()
            raise BrokenStream(f"TLS handshake: {_handshake_reason(self.connection, error)}") from None
        return True

    def finish(self) -> bool:
        try:
            self.connection.shutdown()
        except SSL.WantWriteError:
            return False
        except (SSL.Error, OSError):
            _forget_errors()  # the peer is gone: the socket's own end has to do
        return True


class RawTLSStream(TLSStream):
    """The same with two calls into OpenSSL less wrapped."""

    def __init__(self, connection: SSL.Connection, bulk: int = _BULK) -> None:
        super().__init__(connection)
        self._bulk = bulk
        self._ssl = connection._ssl  # noqa: SLF001 - see the module's docstring
        self._failure: BrokenStream | None = None

    def read(self) -> int:
        size: int = _lib.SSL_read(self._ssl, _BUFFER, SIZE)
        if size < self._bulk:
            return size if size > 0 else self._blocked_read(size)
        return self._read_on(size)

    def _read_on(self, size: int) -> int:
        """One call returns one record, and PostgreSQL's are 8 KiB: fill the buffer, to write it as a whole."""
        while size <= SIZE - _RECORD:
            more = _lib.SSL_read(self._ssl, _BUFFER + size, SIZE - size)
            if more <= 0:
                self._look_ahead(more)
                break
            size += more
            if more < self._bulk:
                break
        return size

    def _look_ahead(self, result: int) -> None:
        """Nothing yet, the end, or a failure: the next read tells."""
        error = _lib.SSL_get_error(self._ssl, result)
        self.unread = error not in (_lib.SSL_ERROR_WANT_READ, _lib.SSL_ERROR_WANT_WRITE)
        if error in (_lib.SSL_ERROR_SSL, _lib.SSL_ERROR_SYSCALL):
            self._failure = self._broken(error)

    def _blocked_read(self, result: int) -> int:
        self.unread = False
        if self._failure is not None:
            _lib.ERR_clear_error()
            failure, self._failure = self._failure, None
            raise failure
        error = _lib.SSL_get_error(self._ssl, result)
        self.wants_write = error == _lib.SSL_ERROR_WANT_WRITE
        if self.wants_write or error == _lib.SSL_ERROR_WANT_READ:
            return 0
        if error == _lib.SSL_ERROR_ZERO_RETURN:
            raise EndOfStream
        raise self._broken(error)

    def write(self, size: int) -> int:
        return self._write(_BUFFER, size)

    def send(self, data: bytes | memoryview) -> int:
        if type(data) is not bytes or not data:
            return self._write(_ffi.from_buffer(data), len(data))
        # cffi lends out the bytes themselves, which costs less than to ask for a pointer into them.
        sent: int = _lib.SSL_write(self._ssl, data, len(data))
        if sent == len(data):
            return sent
        return self._write(_ffi.from_buffer(data), len(data), sent) if sent > 0 else self._blocked_write(sent)

    def _write(self, data: Any, size: int, sent: int = 0) -> int:
        """From where that array of C's is: nothing is copied but into the records. sent: so many were before."""
        while sent < size:
            result = _lib.SSL_write(self._ssl, data + sent, size - sent)
            if result <= 0:
                return sent + self._blocked_write(result)
            sent += result
        return sent

    def _blocked_write(self, result: int) -> int:
        """Nothing was taken, for now. Raises BrokenStream if it never will be."""
        error = _lib.SSL_get_error(self._ssl, result)
        if error in (_lib.SSL_ERROR_WANT_WRITE, _lib.SSL_ERROR_WANT_READ):
            return 0
        raise self._broken(error)

    def _broken(self, error: int) -> BrokenStream:
        """Empties the error queue, see `_forget_errors`."""
        reasons = []
        while code := _lib.ERR_get_error():
            reason = _lib.ERR_reason_error_string(code)
            # What the system said has no text of OpenSSL's: its errno is in the lower bits (err.h).
            known = reason != _ffi.NULL
            reasons.append(_ffi.string(reason).decode("ascii", "replace") if known else os.strerror(code & 0x7FFF_FFFF))
        if reasons:
            return BrokenStream("TLS: " + ", ".join(reasons))
        return BrokenStream("the connection was cut" if error == _lib.SSL_ERROR_SYSCALL else f"TLS error {error}")


# pyOpenSSL has no public name for it, and leaves what the system said (EPIPE, ECONNRESET) in OpenSSL's error queue.
# That belongs to the thread: whatever is in it would be blamed on the next connection, which would be closed for it.
_forget_errors: Callable[[], object] = getattr(getattr(SSL, "_lib", None), "ERR_clear_error", lambda: None)


def _reason(error: Exception) -> str:
    """One line for the audit."""
    if isinstance(error, SSL.SysCallError):
        return "the connection was cut"
    if isinstance(error, SSL.Error):
        queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
        return "TLS: " + (", ".join(entry[-1] for entry in queue) or type(error).__name__)
    return getattr(error, "strerror", None) or str(error)


def _handshake_reason(connection: SSL.Connection, error: Exception) -> str:
    if isinstance(error, SSL.Error) and not isinstance(error, SSL.SysCallError):
        return handshake_failure(connection, error)
    return _reason(error)


def _probe() -> tuple[Any, Any] | None:
    try:
        from cryptography.hazmat.bindings._rust import _openssl  # noqa: PLC0415 - it may be missing

        lib, ffi = _openssl.lib, _openssl.ffi
    except (ImportError, AttributeError):
        return None
    needed = (
        "SSL_read",
        "SSL_write",
        "SSL_get_error",
        "ERR_get_error",
        "ERR_clear_error",
        "ERR_reason_error_string",
        "SSL_ERROR_SSL",
        "SSL_ERROR_SYSCALL",
        "SSL_ERROR_WANT_READ",
        "SSL_ERROR_WANT_WRITE",
        "SSL_ERROR_ZERO_RETURN",
    )
    probe = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    if not all(hasattr(lib, name) for name in needed) or not isinstance(getattr(probe, "_ssl", None), ffi.CData):
        return None
    return lib, ffi


_raw = _probe()
if _raw is None:
    VIEW = memoryview(bytearray(SIZE))
else:
    _lib, _ffi = _raw
    _BUFFER = _ffi.new("char[]", SIZE)
    VIEW = memoryview(_ffi.buffer(_BUFFER))


def tls_stream(connection: SSL.Connection, *, small: bool = False) -> TLSStream:
    """The fastest stream that this installation offers for a connection on a socket.

    small: many small records are expected, so each read takes as many as are there.
    """
    return TLSStream(connection) if _raw is None else RawTLSStream(connection, 1 if small else _BULK)
