"""Somebody between the gateway and the database, who ends TLS on both sides with a certificate of his choice."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gateway.wire.postgres import ACCEPT_TLS, SSL_REQUEST, Message, authentication

# Seconds after which nothing more is to come: only in a test that fails.
SILENCE = 10.0

Change = Callable[[bytes], bytes]


def unchanged(data: bytes) -> bytes:
    return data


def without_channel_binding(data: bytes) -> bytes:
    """AuthenticationSASL with only the mechanism that does not notice him."""
    if data[:1] == b"R" and authentication(data[5:])[0] == 10:
        return bytes(Message(b"R", (10).to_bytes(4) + b"SCRAM-SHA-256\0\0"))
    return data


@dataclass(slots=True)
class Middleman:
    """Passes one connection on, and keeps what the gateway says in it. `change` is done to what the server says."""

    port: int
    heard: bytearray = field(default_factory=bytearray)

    @classmethod
    @contextmanager
    def listening(
        cls, server_port: int, certificate: Path, key: Path, change: Change = unchanged
    ) -> Iterator[Middleman]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(SILENCE)
            middleman = cls(listener.getsockname()[1])
            thread = threading.Thread(target=middleman._serve, args=(listener, server_port, context, change))
            thread.start()
            try:
                yield middleman
            finally:
                thread.join()

    def _serve(self, listener: socket.socket, server_port: int, context: ssl.SSLContext, change: Change) -> None:
        plain, _ = listener.accept()
        assert plain.recv(8, socket.MSG_WAITALL) == SSL_REQUEST
        plain.sendall(ACCEPT_TLS)
        with context.wrap_socket(plain, server_side=True) as gateway, _connected(server_port) as server:
            while True:
                ready = [gateway, server]
                if not (gateway.pending() or server.pending()):
                    ready = select.select(ready, [], [], SILENCE)[0]
                if not ready:
                    return
                for source in ready:
                    if source.pending() or select.select([source], [], [], 0)[0]:
                        data = _receive(source)
                        if not data:
                            return
                        if source is gateway:
                            self.heard += data
                            server.sendall(data)
                        else:
                            gateway.sendall(change(data))


def _connected(port: int) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", port))
    plain.sendall(SSL_REQUEST)
    assert plain.recv(1) == ACCEPT_TLS
    return context.wrap_socket(plain)


def _receive(source: ssl.SSLSocket) -> bytes:
    try:
        return source.recv(65_536)
    except OSError:
        return b""
