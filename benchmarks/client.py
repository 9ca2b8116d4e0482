"""A small PostgreSQL client over TLS 1.3: it logs in, asks one simple query, and sits idle in great numbers.

It speaks only what the load needs (PostgreSQL manual, "Message Flow": SSLRequest, StartupMessage, a cleartext
password, simple query, Terminate) and refuses any other kind of login.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field

SSL_REQUEST = struct.pack("!II", 8, 80877103)
PROTOCOL_3_0 = 196608
HEADER = struct.Struct("!cI")
TIMEOUT = 30.0
# jwt-postgresql-proxy listens with a backlog of 6: more at once would measure its SYN retries.
AT_ONCE = 4
# Sessions a second; who opens fewer is taken for stuck.
SLOWEST_RATE = 10


class ServerError(Exception):
    """The server said no, or something this client does not speak."""


def tls_context() -> ssl.SSLContext:
    """TLS 1.3 only. The certificate is compared once per peer, not verified a thousand times a second."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


@dataclass(frozen=True, slots=True)
class Account:
    port: int
    role: str
    database: str
    password: str = field(repr=False)
    context: ssl.SSLContext = field(default_factory=tls_context)


class Connection:
    """One logged-in session."""

    __slots__ = ("_buffer", "socket")

    def __init__(self, account: Account) -> None:
        self._buffer = b""
        raw = socket.create_connection(("127.0.0.1", account.port), TIMEOUT)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.sendall(SSL_REQUEST)
            if raw.recv(1) != b"S":
                raise ServerError("no TLS")
            self.socket = account.context.wrap_socket(raw)
        except BaseException:
            raw.close()
            raise
        try:
            self._log_in(account)
        except BaseException:
            self.socket.close()
            raise

    def _log_in(self, account: Account) -> None:
        pairs = f"user\0{account.role}\0database\0{account.database}\0\0".encode()
        self.socket.sendall(struct.pack("!II", 8 + len(pairs), PROTOCOL_3_0) + pairs)
        password = account.password.encode() + b"\0"
        while (message := self._read())[0] != b"Z":
            if message == (b"R", b"\0\0\0\3"):
                self.socket.sendall(HEADER.pack(b"p", 4 + len(password)) + password)
            elif message[0] == b"R" and message[1] != b"\0\0\0\0":
                raise ServerError(f"unexpected login request {message[1][:4]!r}")

    def _read(self) -> tuple[bytes, bytes]:
        while True:
            if len(self._buffer) >= HEADER.size:
                kind, length = HEADER.unpack_from(self._buffer)
                if len(self._buffer) > length:
                    payload, self._buffer = self._buffer[5 : length + 1], self._buffer[length + 1 :]
                    if kind == b"E":
                        raise ServerError(payload.replace(b"\0", b" ").decode(errors="replace"))
                    return kind, payload
            chunk = self.socket.recv(65536)
            if not chunk:
                raise ServerError("closed by the server")
            self._buffer += chunk

    def ask(self, query: str) -> None:
        text = query.encode() + b"\0"
        self.socket.sendall(HEADER.pack(b"Q", 4 + len(text)) + text)
        while self._read()[0] != b"Z":
            pass

    def close(self) -> None:
        with suppress(OSError):  # If the server closed first, there is nobody left to say goodbye to.
            self.socket.sendall(HEADER.pack(b"X", 4))
        self.socket.close()


def open_session(account: Account) -> Connection:
    """Logged in and asked once: PgBouncer dials upstream only for the first query."""
    connection = Connection(account)
    try:
        connection.ask("select 1")
    except BaseException:
        connection.close()
        raise
    return connection


def open_many(account: Account, count: int) -> list[Connection]:
    """`count` sessions, a few at a time. All or none."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(open_session, account) for _ in range(count)]
        wait(futures, TIMEOUT + count / SLOWEST_RATE, FIRST_EXCEPTION)
        pool.shutdown(cancel_futures=True)
    tried = [future for future in futures if not future.cancelled()]
    failures = [failure for future in tried if (failure := future.exception())]
    opened = [future.result() for future in tried if not future.exception()]
    if len(opened) < count:
        close_all(opened)
        reason = failures[0] if failures else "out of time"
        raise ServerError(f"{len(opened)} of {count} sessions opened: {reason}")
    return opened


def close_all(connections: list[Connection]) -> None:
    for connection in connections:
        connection.close()


def connect_for(account: Account, seconds: float, sample: Callable[[], float]) -> tuple[int, float, float, float]:
    """Log in, ask once and leave, over and over: connections, seconds, our CPU seconds, by how much `sample` grew."""
    counts = [0] * AT_ONCE
    failures: list[BaseException] = []
    start, cpu, sampled = time.monotonic(), time.process_time(), sample()

    def worker(index: int) -> None:
        try:
            while time.monotonic() < start + seconds and not failures:
                open_session(account).close()
                counts[index] += 1
        except (OSError, ServerError) as error:
            failures.append(error)

    threads = [threading.Thread(target=worker, args=(index,), daemon=True) for index in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 2 * TIMEOUT)
    if failures:
        raise ServerError(f"connection {sum(counts) + 1} failed: {failures[0]}")
    return sum(counts), time.monotonic() - start, time.process_time() - cpu, sample() - sampled
