"""A PostgreSQL client over a plain socket that says exactly what it is told, and reads strictly.

Owns the client's side of TLS (in memory, so that ciphertext can be cut anywhere) and the framing of backend messages.
Refuses, as a failed assertion, whatever a server must not send. It shares no code with the gateway.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

from tests.servers import free_port

SSL_REQUEST = struct.pack("!II", 8, 80877103)
BACKEND_TYPES = frozenset(b"123ACDEGHIKNRSTVWZcdnstv")
PATIENCE = 30.0

Message = tuple[bytes, bytes]


def packet(code: int, body: bytes) -> bytes:
    """A packet without a type, as clients send first."""
    return struct.pack("!II", 8 + len(body), code) + body


def startup(user: str, database: str = "postgres", **more: str) -> bytes:
    parameters = {"user": user, "database": database, **more}
    return packet(3 << 16, b"".join(f"{key}\0{value}\0".encode() for key, value in parameters.items()) + b"\0")


def cancel(pid: int, key: bytes) -> bytes:
    return packet(80877102, struct.pack("!i", pid) + key)


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", 4 + len(body)) + body


def query(sql: str) -> bytes:
    return message(b"Q", sql.encode() + b"\0")


def password(secret: str | bytes) -> bytes:
    return message(b"p", (secret.encode() if isinstance(secret, str) else secret) + b"\0")


def error_fields(body: bytes) -> dict[str, str]:
    assert body.endswith(b"\0\0"), body
    return {entry[:1].decode(): entry[1:].decode() for entry in body[:-2].split(b"\0")}


_numbers = itertools.count(1)


def own_address() -> str:
    """An address of 127.0.0.0/8 that nobody was given before."""
    return str(IPv4Address("127.77.0.0") + next(_numbers))


class RawClient:
    """`slowly`: every byte is sent in a packet of its own. `trust`: the CA file; None: whoever answers is believed.

    address: where it comes from; without one, an address of 127.0.0.0/8 that is its own, so that the audit tells it
    from every other. name: what the audit calls it.
    """

    def __init__(
        self,
        where: int | Path,
        trust: Path | None = None,
        *,
        slowly: bool = False,
        certificate: Sequence[Path] = (),
        server_name: str = "localhost",
        receive_buffer: int | None = None,
        address: str | None = None,
    ) -> None:
        family = socket.AF_INET if isinstance(where, int) else socket.AF_UNIX
        self.socket = socket.socket(family)
        self.socket.settimeout(PATIENCE)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if family == socket.AF_INET:
            # An address that is used again must not meet one of its ports again: the audit could not tell them apart.
            self.socket.bind((address, free_port(address)) if address else (own_address(), 0))
        self.socket.connect(("127.0.0.1", where) if isinstance(where, int) else str(where))
        if family == socket.AF_INET:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.name = "{}:{}".format(*self.socket.getsockname()) if family == socket.AF_INET else ""
        self.slowly = slowly
        self._server_name = server_name
        self.context = ssl.create_default_context(cafile=trust) if trust else ssl._create_unverified_context()
        if certificate:
            self.context.load_cert_chain(certificate[0], certificate[1])
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._buffer = bytearray()

    @classmethod
    @contextmanager
    def connected(cls, where: int | Path, trust: Path | None = None, **more: object) -> Iterator[Self]:
        """With TLS, ready for the start-up packet."""
        with closing(cls(where, trust, **more)) as client:  # type: ignore[arg-type]
            client.start_tls()
            yield client

    def close_sending(self) -> None:
        """Half-closed: what the server still says can be read."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.socket.close()

    # --- bytes --------------------------------------------------------------------------------------------------------

    def send_raw(self, data: bytes) -> None:
        """As it is, whether there is TLS or not."""
        if not self.slowly:
            self.socket.sendall(data)
            return
        for at in range(len(data)):
            self.socket.sendall(data[at : at + 1])
            time.sleep(0.0002)

    def send(self, data: bytes) -> None:
        if self._tls is None:
            self.send_raw(data)
            return
        self._tls.write(data)
        self.send_raw(self._outgoing.read())

    def receive(self) -> bytes:
        """Some bytes; none at the end of the stream, however it ends. TimeoutError while it goes on in silence."""
        while True:
            try:
                if self._tls is not None:
                    return self._tls.read(65_536)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return b""
            try:
                data = self.socket.recv(65_536)
            except ConnectionError:
                return b""
            if not data or self._tls is None:
                return data
            self._incoming.write(data)

    # --- steps of a login ---------------------------------------------------------------------------------------------

    def start_tls(self, ask: bytes = SSL_REQUEST) -> None:
        if ask:
            self.send_raw(ask)
            assert self.socket.recv(1) == b"S"
        self.handshake()

    def hello(self, server_name: str | None = None) -> bytes:
        """The ClientHello, not sent yet."""
        self._tls = self.context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_name or self._server_name
        )
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._outgoing.read()

    def handshake(self) -> None:
        """Raises ssl.SSLError or ConnectionError when the server does not want it."""
        self.send_raw(self.hello())
        assert self._tls is not None
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.send_raw(self._outgoing.read())
                data = self.socket.recv(65_536)
                if not data:
                    raise ConnectionError("the server closed during the handshake") from None
                self._incoming.write(data)
            else:
                self.send_raw(self._outgoing.read())
                return

    @property
    def tls_version(self) -> str | None:
        return self._tls.version() if self._tls else None

    def peer_certificate(self) -> bytes:
        assert self._tls is not None
        der = self._tls.getpeercert(binary_form=True)
        assert der is not None
        return der

    def send_login(self, user: str, token: str | bytes, database: str = "postgres", **more: str) -> None:
        """Up to the password, for whatever it is answered."""
        self.send(startup(user, database, **more))
        assert self.read() == (b"R", struct.pack("!I", 3))
        self.send_password(token)

    def send_password(self, token: str | bytes) -> None:
        self.send(password(token))

    def log_in(
        self, user: str, token: str | bytes, database: str = "postgres", **more: str
    ) -> dict[bytes, list[bytes]]:
        """Up to ReadyForQuery; what came until then, by the type of message."""
        self.send_login(user, token, database, **more)
        found: dict[bytes, list[bytes]] = {}
        for kind, body in self.until(b"Z"):
            assert kind != b"E", error_fields(body)
            found.setdefault(kind, []).append(body)
        assert found[b"R"] == [struct.pack("!I", 0)]
        return found

    def backend_key(self, found: dict[bytes, list[bytes]]) -> tuple[int, bytes]:
        """The pid and the cancel key that the login gave."""
        (body,) = found[b"K"]
        return struct.unpack_from("!i", body)[0], body[4:]

    # --- messages -----------------------------------------------------------------------------------------------------

    def read(self) -> Message | None:
        """The next message; None at the end of the stream, which must not cut one."""
        while True:
            if len(self._buffer) >= 5:
                kind, length = struct.unpack_from("!cI", self._buffer)
                assert kind[0] in BACKEND_TYPES, f"not a message: {bytes(self._buffer[:80])!r}"
                assert length >= 4
                if len(self._buffer) > length:
                    body = bytes(self._buffer[5 : 1 + length])
                    del self._buffer[: 1 + length]
                    return kind, body
            data = self.receive()
            if not data:
                assert not self._buffer, f"the stream ends inside a message: {bytes(self._buffer[:80])!r}"
                return None
            self._buffer += data

    def messages(self) -> Iterator[Message]:
        """All of them, to the end of the stream."""
        while (found := self.read()) is not None:
            yield found

    def until(self, last: bytes) -> Iterator[Message]:
        for found in self.messages():
            yield found
            if found[0] == last:
                return
        raise AssertionError(f"the stream ended before {last!r}")

    def ask(self, sql: str) -> list[Message]:
        """What a simple query is answered, ReadyForQuery included."""
        self.send(query(sql))
        return list(self.until(b"Z"))

    def value(self, sql: str) -> str:
        """The only column of the only row."""
        (row,) = (body for kind, body in self.ask(sql) if kind == b"D")
        return row[6:].decode()

    def refusal(self) -> dict[str, str]:
        """The fields of the FATAL that ends the stream: the very next message, and the last."""
        found = self.read()
        assert found is not None, "closed without a word"
        assert found[0] == b"E", found
        assert self.read() is None, "something follows the error"
        fields = error_fields(found[1])
        assert fields["S"] == fields["V"] == "FATAL"
        return fields

    def is_closed(self) -> bool:
        """Ended by the other side, without a word."""
        return self.read() is None
