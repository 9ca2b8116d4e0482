"""Something that listens where a PostgreSQL server should, and answers as badly as a test wants.

Owns its listening socket and a thread for each connection; counts connections and keeps what it was sent.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.pki import Issued
from tests.raw_client import message

# Said to one connection, until it returns; then the connection is closed. What it raises as OSError is no failure.
Talk = Callable[["Caller"], None]


@dataclass(slots=True)
class Caller:
    """One connection of the gateway's. `said`: everything that it sent."""

    socket: socket.socket
    said: bytearray = field(default_factory=bytearray)

    def read(self) -> bytes:
        """Some bytes; none at the end."""
        data = self.socket.recv(65_536)
        self.said += data
        return data

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def wait(self) -> None:
        """Until the other side hangs up, politely or not: some versions of `ssl` call a reset an end, others raise."""
        with suppress(ConnectionError):
            while self.read():
                pass

    def let_in(self, key: bytes = b"") -> None:
        """After the StartupMessage: ask for nothing, and say that the role is no superuser. `key`: BackendKeyData."""
        if not self.said:
            self.read()
        ready = message(b"Z", b"I")
        self.send(message(b"R", bytes(4)) + key + ready)
        self.read()
        row = message(b"D", b"\0\1\0\0\0\1f")
        self.send(message(b"T", bytes(2)) + row + message(b"C", b"SELECT 1\0") + ready)

    def start_tls(self, context: ssl.SSLContext) -> None:
        self.read()
        self.send(b"S")
        self.socket = context.wrap_socket(self.socket, server_side=True)


def server_context(folder: Path, issued: Issued, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*issued.write(folder, name))
    return context


@dataclass(slots=True)
class FakeUpstream:
    """`callers`: everybody who connected, also those who are gone."""

    talk: Talk
    listening: socket.socket
    callers: list[Caller] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    @classmethod
    @contextmanager
    def running(cls, talk: Talk) -> Iterator[Self]:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            fake = cls(talk, listening)
            accepting = threading.Thread(target=fake._accept, daemon=True)
            accepting.start()
            try:
                yield fake
            finally:
                listening.shutdown(socket.SHUT_RDWR)
                for caller in fake.callers:
                    with suppress(OSError):
                        caller.socket.shutdown(socket.SHUT_RDWR)
                for thread in (accepting, *fake.threads):
                    thread.join(5)

    @property
    def port(self) -> int:
        port: int = self.listening.getsockname()[1]
        return port

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller = Caller(self.listening.accept()[0])
                caller.socket.settimeout(30)
                self.callers.append(caller)
                thread = threading.Thread(target=self._serve, args=(caller,), daemon=True)
                self.threads.append(thread)
                thread.start()

    def _serve(self, caller: Caller) -> None:
        with suppress(OSError):
            self.talk(caller)
        with suppress(OSError):
            caller.socket.close()
