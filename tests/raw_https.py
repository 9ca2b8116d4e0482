"""An HTTPS client that sends exactly the bytes that it is given, and reads strictly.

Owns the client's side of TLS (in memory, so that each way in which a connection can end is told from the others) and
the reading of one response. Refuses, as a failed assertion, whatever a proxy must not send. It shares no code with the
gateway.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Self

from tests.raw_client import PATIENCE, own_address

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) ([\t -~\x80-\xff]*)")
_FIELD = re.compile(rb"(%b): ([!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?" % _TOKEN)
_SIZE = re.compile(rb"[0-9a-f]{1,16}")
# What a proxy may say once only.
_SINGLE = (b"content-length", b"transfer-encoding", b"connection", b"content-type", b"date")


class End(Enum):
    """How a stream came to its end."""

    ORDERLY = "close_notify"
    CUT = "FIN, without close_notify"
    RESET = "RST"


class Ended(Exception):
    """The stream ended where there had to be more. `so_far`: what came of the body that was being read."""

    def __init__(self, end: End, so_far: bytes = b"") -> None:
        super().__init__(end)
        self.end, self.so_far = end, so_far


Fields = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Response:
    """`fields` and `trailers`: names in lower case. interim: the statuses that came before this one."""

    status: int
    reason: bytes
    fields: Fields
    body: bytes
    trailers: Fields = field(default_factory=list)
    interim: tuple[int, ...] = ()

    def values(self, name: bytes) -> list[bytes]:
        return [value for known, value in self.fields if known == name]

    @property
    def closes(self) -> bool:
        """Whether it says that the connection ends with it."""
        return self.values(b"connection") == [b"close"]

    @property
    def refusal(self) -> str:
        """The text of an answer of the gateway's own, which has to be complete."""
        assert self.values(b"content-type") == [b"application/json"], self
        assert self.closes, self
        content: dict[str, Any] = json.loads(self.body)
        assert set(content) == {"status", "error"}
        assert content["status"] == self.status
        return str(content["error"])


class RawHTTPS:
    """Comes from an address of 127.0.0.0/8 that is its own; name: what the audit calls it."""

    def __init__(
        self,
        port: int,
        trust: Path,
        certificate: Sequence[Path] = (),
        *,
        server_name: str | None = "localhost",
        alpn: Sequence[str] = ("http/1.1",),
        receive_buffer: int | None = None,
    ) -> None:
        self.context = ssl.create_default_context(cafile=trust)
        self.context.check_hostname = server_name is not None
        if certificate:
            self.context.load_cert_chain(certificate[0], certificate[1])
        if alpn:
            self.context.set_alpn_protocols(list(alpn))
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.bind((own_address(), 0))
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.name = "{}:{}".format(*self.socket.getsockname())
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = self.context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        self._buffer = bytearray()
        self._end: End | None = None

    @classmethod
    @contextmanager
    def connected(cls, port: int, trust: Path, certificate: Sequence[Path] = (), **more: Any) -> Iterator[Self]:
        """With TLS, ready for a request."""
        with closing(cls(port, trust, certificate, **more)) as client:
            client.handshake()
            yield client

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Closed with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    @property
    def protocol(self) -> str | None:
        """What ALPN has chosen."""
        return self._tls.selected_alpn_protocol()

    # --- bytes --------------------------------------------------------------------------------------------------------

    def handshake(self) -> None:
        """Raises ssl.SSLError or ConnectionError when the server does not want it."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                data = self.socket.recv(65_536)
                if not data:
                    raise ConnectionError("the server closed during the handshake") from None
                self._incoming.write(data)
            except ssl.SSLError:
                self._flush()
                raise
            else:
                self._flush()
                return

    def _flush(self) -> None:
        self.socket.sendall(self._outgoing.read())

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        self._flush()

    def send_slowly(self, data: bytes, pause: float = 0.0) -> None:
        """Each byte in a TLS record and a packet of its own."""
        for at in range(len(data)):
            self.send(data[at : at + 1])
            if pause:
                time.sleep(pause)

    def try_send(self, data: bytes) -> bool:
        """Whether nobody has hung up on it yet, as far as could be seen."""
        try:
            self.send(data)
        except (ConnectionError, ssl.SSLError):
            return False
        return True

    def end_sending(self) -> None:
        """close_notify and FIN; what the server still says can be read."""
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()
        self.socket.shutdown(socket.SHUT_WR)

    def receive(self) -> bytes:
        """Some bytes; none at the end, after which `end` knows which it was. TimeoutError while there is silence."""
        while self._end is None:
            try:
                data = self._tls.read(65_536)
            except ssl.SSLWantReadError:
                self._fill()
            except ssl.SSLZeroReturnError:
                self._end = End.ORDERLY
            except ssl.SSLEOFError:
                self._end = End.CUT
            else:
                if data:
                    return data
                self._end = End.ORDERLY
        return b""

    def _fill(self) -> None:
        try:
            data = self.socket.recv(65_536)
        except ConnectionError:
            self._end = End.RESET
            return
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def is_silent(self, seconds: float) -> bool:
        """Nothing comes for so long, not even an end."""
        assert not self._buffer
        self.socket.settimeout(seconds)
        try:
            self._buffer += self.receive()
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(PATIENCE)
        return False

    def ending(self) -> End:
        """How it ends: now, without a word more."""
        assert not self._buffer, bytes(self._buffer[:200])
        data = self.receive()
        assert not data, data[:200]
        assert self._end is not None
        return self._end

    # --- responses ----------------------------------------------------------------------------------------------------

    def ask(self, request: bytes) -> Response:
        self.send(request)
        return self.response(request.partition(b" ")[0])

    def responses(self) -> Iterator[Response]:
        """To requests other than HEAD: all of them, up to the end of the stream, which must be between two."""
        while self._buffer or self._more():
            yield self.response()

    def response(self, method: bytes = b"GET") -> Response:
        """The next final one. Raises Ended if the stream ends before it is complete."""
        interim = []
        while True:
            status, reason, fields = self._head()
            if status == 101 or status >= 200:
                break
            interim.append(status)
        for name in _SINGLE:
            assert sum(1 for known, _ in fields if known == name) <= 1, fields
        body, trailers = self._body(method, status, fields)
        return Response(status, reason, fields, body, trailers, tuple(interim))

    def _head(self) -> tuple[int, bytes, Fields]:
        line = self._line()
        found = _STATUS.fullmatch(line)
        assert found is not None, line
        return int(found[1]), found[2], self._fields()

    def _fields(self) -> Fields:
        fields = []
        while line := self._line():
            found = _FIELD.fullmatch(line)
            assert found is not None, line
            fields.append((found[1].lower(), found[2] or b""))
        return fields

    def _body(self, method: bytes, status: int, fields: Fields) -> tuple[bytes, Fields]:
        """RFC 9112, 6.3."""
        framing = {name: value for name, value in fields if name in (b"content-length", b"transfer-encoding")}
        assert len(framing) < 2, fields
        if method == b"HEAD" or status < 200 or status in (204, 304):
            return b"", []
        if b"transfer-encoding" in framing:
            assert framing[b"transfer-encoding"] == b"chunked"
            return self._chunks()
        if b"content-length" in framing:
            return self._exactly(int(framing[b"content-length"])), []
        return self._rest(), []

    def _chunks(self) -> tuple[bytes, Fields]:
        body = bytearray()
        try:
            while True:
                line = self._line()
                assert _SIZE.fullmatch(line), line
                if not int(line, 16):
                    return bytes(body), self._fields()
                body += self._exactly(int(line, 16))
                assert self._line() == b""
        except Ended as ended:
            raise Ended(ended.end, bytes(body) + ended.so_far) from None

    def _rest(self) -> bytes:
        while self._more():
            pass
        assert self._end is not None
        body = bytes(self._buffer)
        self._buffer.clear()
        if self._end is not End.ORDERLY:
            raise Ended(self._end, body)
        return body

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            self._need()
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        assert line.endswith(b"\r\n"), line
        assert b"\r" not in line[:-2], line
        return line[:-2]

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._more():
                assert self._end is not None
                raise Ended(self._end, bytes(self._buffer))
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _need(self) -> None:
        if not self._more():
            assert self._end is not None
            raise Ended(self._end)

    def _more(self) -> bool:
        data = self.receive()
        self._buffer += data
        return bool(data)
