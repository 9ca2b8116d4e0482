"""One MQTT connection by the standard library, to see whether a peer is ready and on which terms it answers."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass

from benchmarks.credentials import MutualCredentials

ACCEPTED = 0
TIMEOUT = 10.0
# MQTT 3.1.1, 3.1 and 3.2: CONNECT with a user name, a password and a clean session, and the answer to it.
CONNECT_HEAD = b"\x00\x04MQTT\x04\xc2\x00\x3c"
CONNACK = b"\x20\x02"
DISCONNECT = b"\xe0\x00"


@dataclass(frozen=True, slots=True)
class Answer:
    """code: of the CONNACK; None if the connection ended without one. certificate: DER, the server's."""

    code: int | None
    version: str | None
    cipher: str
    certificate: bytes | None


def ask(shown: MutualCredentials, port: int, password: str, *, certificate: bool = True) -> Answer:
    """CONNECT on a new TLS connection. Raises OSError if there is no connection, or not the right server."""
    context = ssl.create_default_context(cafile=str(shown.authority))
    if certificate:
        context.load_cert_chain(shown.client_certificate, shown.client_key)
    with (
        socket.create_connection(("127.0.0.1", port), TIMEOUT) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secured,
    ):
        code = connect(secured, shown.thing_key, password)
        cipher = secured.cipher()
        return Answer(code, secured.version(), cipher[0] if cipher else "", secured.getpeercert(binary_form=True))


def ask_plainly(port: int) -> int | None:
    """CONNECT without TLS; the code of the CONNACK."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as raw:
        return connect(raw, "benchmark", "unused")


def connect(connection: socket.socket, thing: str, password: str) -> int | None:
    rest = CONNECT_HEAD + b"".join(map(_text, (f"{thing}-ask", thing, password)))
    assert len(rest) < 128, "the remaining length is one byte"
    connection.sendall(b"\x10" + bytes([len(rest)]) + rest)
    said = b""
    while len(said) < 4 and (chunk := connection.recv(4 - len(said))):
        said += chunk
    if len(said) < 4 or not said.startswith(CONNACK):
        return None
    connection.sendall(DISCONNECT)
    return said[3]


def _text(value: str) -> bytes:
    return len(value).to_bytes(2, "big") + value.encode()
