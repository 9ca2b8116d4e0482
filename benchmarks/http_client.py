"""One HTTPS request by the standard library, to see whether a peer is ready and on which terms it answers."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass

from benchmarks.credentials import MutualCredentials

OK = 200
FORBIDDEN = 403
TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """status: 0 if the connection ended without one. certificate: DER, the server's."""

    status: int
    version: str | None
    cipher: str
    certificate: bytes | None


def ask(shown: MutualCredentials, port: int, authorization: str, *, certificate: bool = True) -> Answer:
    """A GET on a new connection. Raises OSError if there is no connection, or not the right server."""
    context = ssl.create_default_context(cafile=str(shown.authority))
    if certificate:
        context.load_cert_chain(shown.client_certificate, shown.client_key)
    request = f"GET /small HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}\r\nConnection: close\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", port), TIMEOUT) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secured,
    ):
        secured.sendall(request.encode())
        said = b""
        while chunk := secured.recv(65536):
            said += chunk
        cipher = secured.cipher()
        return Answer(
            int(said[9:12] or 0), secured.version(), cipher[0] if cipher else "", secured.getpeercert(binary_form=True)
        )
