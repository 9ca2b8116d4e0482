"""The demo application: it tells what arrived, holds no more than it may, and echoes WebSockets."""

from __future__ import annotations

import base64
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.testing import StringTransport
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import unix_connect
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)

from gateway.demo import MAX_BODY, MAX_HEAD, DemoApplication, DemoConnection
from tests.gateways import wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
SENT = GET + b"\r\n"


class Wire(StringTransport):
    """What the demo wrote, and whether it has hung up."""

    aborting = False

    def abortConnection(self) -> None:  # noqa: N802
        self.aborting = True

    def loseConnection(self) -> None:  # noqa: N802
        # As Twisted's own: it would wait for the producer.
        assert self.producer is None
        super().loseConnection()


def connected() -> tuple[DemoConnection, Wire]:
    connection, wire = DemoConnection(set()), Wire()
    connection.makeConnection(wire)
    return connection, wire


@dataclass
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


def answers(data: bytes) -> list[Answer]:
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        status, *lines = head.decode("ascii").split("\r\n")
        fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(fields.get("content-length", 0))
        found.append(Answer(int(status.split()[1]), fields, data[:length]))
        data = data[length:]
    return found


def asked(data: bytes) -> Answer:
    """The answer to it, after which the connection is still open."""
    connection, wire = connected()
    connection.dataReceived(data)
    assert not wire.disconnecting
    (answer,) = answers(wire.value())
    return answer


def refused(data: bytes) -> Answer:
    """The answer to it, with which the connection ends."""
    connection, wire = connected()
    connection.dataReceived(data)
    assert wire.disconnecting
    (answer,) = answers(wire.value())
    assert answer.fields["connection"] == "close"
    return answer


# --- HTTP -------------------------------------------------------------------------------------------------------------


def test_it_tells_what_arrived() -> None:
    answer = asked(
        b"GET /a%20b?c=d&e HTTP/1.1\r\nhost: a\r\nX-Forwarded-For: 192.0.2.1\r\nAuthorization: key\r\n"
        b"client-cert: :AA==:\r\nx-forwarded-for: 192.0.2.2\r\n\r\n"
    )
    assert answer.status == 200
    assert answer.fields["content-type"] == "application/json"
    assert answer.fields["cache-control"] == "no-store"
    assert answer.body.endswith(b"}\n")
    assert answer.document == {
        "method": "GET",
        "path": "/a%20b",
        "query": "c=d&e",
        "headers": {
            "host": "a",
            "X-Forwarded-For": "192.0.2.1, 192.0.2.2",
            "Authorization": "key",
            "client-cert": ":AA==:",
        },
        "body": "",
        "body_encoding": "utf-8",
        "body_length": 0,
    }


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "FROB"])
def test_any_method_will_do(method: str) -> None:
    answer = asked(f"{method} /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi".encode())
    assert (answer.document["method"], answer.document["body"]) == (method, "hi")


def test_head_has_the_head_of_get() -> None:
    connection, wire = connected()
    connection.dataReceived(b"HEAD" + SENT[3:])
    head, _, body = wire.value().partition(b"\r\n\r\n")
    assert body == b""
    (length,) = (line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: "))
    assert int(length.split()[1]) == len(asked(SENT).body) + len("HEAD") - len("GET")
    assert not wire.disconnecting


def test_connect_is_not_for_applications() -> None:
    assert asked(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n").status == 501


@pytest.mark.parametrize(
    ("body", "text", "encoding"),
    [
        ("grüß dich".encode(), "grüß dich", "utf-8"),
        (b"\0\x1b[31m", "\0\x1b[31m", "utf-8"),
        (b"\xff\xfe", base64.b64encode(b"\xff\xfe").decode(), "base64"),
    ],
)
def test_a_body_is_text_where_it_can_be(body: bytes, text: str, encoding: str) -> None:
    answer = asked(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    assert (answer.document["body"], answer.document["body_encoding"]) == (text, encoding)
    assert answer.document["body_length"] == len(body)


def test_no_byte_that_a_terminal_obeys_comes_back() -> None:
    answer = asked(b"PUT /\x7e HTTP/1.1\r\nHost: a\r\nX: \xe4\x9b\r\nContent-Length: 7\r\n\r\n\x1b[31m\r\xc2")
    assert not [byte for byte in answer.body if (byte < 0x20 and byte != 0x0A) or byte > 0x7E]
    assert answer.document["headers"]["X"] == "\xe4\x9b"


@pytest.mark.parametrize(("length", "status"), [(MAX_BODY, 200), (MAX_BODY + 1, 413), (5 * MAX_BODY, 413)])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_bounded(length: int, status: int, chunked: bool) -> None:
    connection, wire = connected()
    field = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % length
    connection.dataReceived(b"PUT / HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n")
    for start in range(0, length, 65536):
        part = b"x" * min(65536, length - start)
        connection.dataReceived(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
        assert len(connection._body) <= MAX_BODY
    connection.dataReceived((b"0\r\n\r\n" if chunked else b"") + SENT)
    answer, then = answers(wire.value())
    assert not connection._body
    assert (answer.status, then.status) == (status, 200)
    assert then.document["body_length"] == 0


def test_whoever_waits_for_100_is_told() -> None:
    connection, wire = connected()
    connection.dataReceived(b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert wire.value().startswith(b"HTTP/1.1 100 ")
    connection.dataReceived(b"hi")
    assert [answer.status for answer in answers(wire.value())] == [100, 200]


def test_one_connection_for_many_requests() -> None:
    connection, wire = connected()
    data = SENT + b"PUT /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n" + SENT
    for byte in data:
        connection.dataReceived(bytes([byte]))
    connection.dataReceived(data)
    assert [answer.document["body"] for answer in answers(wire.value())] == ["", "hi", ""] * 2
    assert not wire.disconnecting


@pytest.mark.parametrize("last", [GET + b"Connection: close\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"])
def test_the_last_request_ends_the_connection(last: bytes) -> None:
    assert refused(last + SENT).status == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (GET + b"X : y\r\n\r\n", 400),
        (GET + b"Transfer-Encoding: gzip\r\n\r\n", 501),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        (GET + b"X: " + b"y" * MAX_HEAD, 431),
    ],
)
def test_what_is_no_request_is_refused(sent: bytes, status: int) -> None:
    assert refused(sent).status == status


@given(st.binary(max_size=300) | st.builds(lambda noise: GET + noise, st.binary(max_size=100)))
def test_nothing_that_is_sent_raises(noise: bytes) -> None:
    connection, _ = connected()
    connection.dataReceived(noise)


# --- WebSocket --------------------------------------------------------------------------------------------------------


class Client:
    """A WebSocket on a connection to the demo."""

    def __init__(self, path: str = "/echo/x", ahead: bytes = b"") -> None:
        self.ws = WSConnection(ConnectionType.CLIENT)
        self.demo, self.wire = connected()
        self.demo.dataReceived(self.ws.send(Request(host="a", target=path)) + ahead)

    def hear(self) -> list[Event]:
        self.ws.receive_data(self.wire.value())
        self.wire.clear()
        return list(self.ws.events())

    def say(self, *events: Event) -> list[Event]:
        self.demo.dataReceived(b"".join(map(self.ws.send, events)))
        return self.hear()


@pytest.fixture
def client() -> Client:
    client = Client()
    assert [type(event) for event in client.hear()] == [AcceptConnection]
    return client


def test_a_websocket_echoes(client: Client) -> None:
    assert client.say(TextMessage("grüß dich"), BytesMessage(b"\0\xff")) == [
        TextMessage("grüß dich"),
        BytesMessage(b"\0\xff"),
    ]
    assert client.say(Ping(b"there?")) == [Pong(b"there?")]
    assert not client.wire.disconnecting


def test_a_message_comes_back_whole(client: Client) -> None:
    """A client that sends all of a message before it reads would wait for ever if it came back in parts."""
    assert client.say(TextMessage("one ", message_finished=False)) == []
    assert client.say(Ping(b""), TextMessage("message")) == [Pong(b""), TextMessage("one message")]
    assert client.say(BytesMessage(b"an", message_finished=False), BytesMessage(b"other")) == [BytesMessage(b"another")]


@pytest.mark.parametrize("part", [1024, MAX_BODY // 2, MAX_BODY])
def test_a_message_is_bounded(client: Client, part: int) -> None:
    parts = [BytesMessage(b"x" * part, message_finished=False)] * (MAX_BODY // part)
    assert client.say(*parts) == []
    assert client.say(BytesMessage(b""), *parts) == [BytesMessage(b"x" * MAX_BODY)]
    (closed,) = client.say(BytesMessage(b"x"), BytesMessage(b"after"), Ping(b""))
    assert isinstance(closed, CloseConnection)
    assert closed.code == 1009
    assert client.wire.disconnecting


def test_a_frame_that_is_too_long_is_not_awaited(client: Client) -> None:
    client.demo.dataReceived(b"\x81\xff" + (64 << 20).to_bytes(8, "big") + b"\0\0\0\0" + b"x" * (MAX_BODY + 1))
    assert isinstance(client.hear()[0], CloseConnection)


@pytest.mark.parametrize(
    ("payload", "code"),
    [(b"", 1005), (b"\x03\xe8", 1000), (b"\x03\xe8bye", 1000), (b"\x0f\xa0", 4000), (b"x", 1002), (b"\x03\xed", 1002)],
)
def test_a_close_is_answered_and_is_the_end(client: Client, payload: bytes, code: int) -> None:
    client.demo.dataReceived(bytes([0x88, 0x80 + len(payload), 0, 0, 0, 0]) + payload + frame(TextMessage("after")))
    (answer,) = client.hear()
    assert isinstance(answer, CloseConnection)
    assert answer.code == code
    assert client.wire.disconnecting


def frame(event: Event) -> bytes:
    client = Client()
    client.hear()
    return client.ws.send(event)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x81\x02hi", 1002),  # not masked
        (b"\xc1\x80\0\0\0\0", 1002),  # a reserved bit
        (b"\x83\x80\0\0\0\0", 1002),  # a reserved opcode
        (b"\x80\x80\0\0\0\0", 1002),  # a continuation of nothing
        (b"\x81\x81\0\0\0\0\xff", 1007),  # not UTF-8
        (b"\x89\xfe\x00\x7e\0\0\0\0", 1002),  # a long ping
    ],
)
def test_a_broken_frame_is_the_end(client: Client, sent: bytes, code: int) -> None:
    client.demo.dataReceived(sent)
    (closed,) = client.hear()
    assert isinstance(closed, CloseConnection)
    assert closed.code == code
    assert client.wire.disconnecting


@given(st.binary(max_size=300))
def test_no_frame_raises(noise: bytes) -> None:
    client = Client()
    client.demo.dataReceived(noise)


def test_what_is_sent_ahead_of_the_answer_is_echoed() -> None:
    client = Client(ahead=frame(TextMessage("early")))
    assert [type(event) for event in client.hear()] == [AcceptConnection, TextMessage]


UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /echo/x HTTP/1.1\r\nHost: a\r\n" + UPGRADE + b"\r\n",
        b"GET /echo/x HTTP/1.1\r\nHost: a\r\n" + UPGRADE.replace(b"13", b"8") + KEY + b"\r\n",
        b"GET /echo/x HTTP/1.1\r\nHost: a\r\n" + UPGRADE.replace(b"websocket", b"h2c") + KEY + b"\r\n",
        b"POST /echo/x HTTP/1.1\r\nHost: a\r\n" + UPGRADE + KEY + b"\r\n",
        b"GET /echo/x HTTP/1.1\r\nHost: \xff\r\n" + UPGRADE + KEY + b"\r\n",
    ],
)
def test_what_cannot_be_a_websocket_is_refused(sent: bytes) -> None:
    assert asked(sent).status == 400


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /echo/x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /echox HTTP/1.1\r\nHost: a\r\n" + UPGRADE + KEY + b"\r\n",
        b"GET /echo/x HTTP/1.0\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" + KEY + b"\r\n",
    ],
)
def test_what_need_not_be_one_is_told(sent: bytes) -> None:
    connection, wire = connected()
    connection.dataReceived(sent)
    (answer,) = answers(wire.value())
    assert answer.document["path"].startswith("/echo")


def test_refused_websockets_say_so_to_their_client() -> None:
    client = Client("/elsewhere")
    assert isinstance(client.hear()[0], RejectConnection)


# --- the connection ---------------------------------------------------------------------------------------------------


def test_nothing_is_read_while_answers_are_not_taken() -> None:
    connection, wire = connected()
    assert wire.producer is connection
    assert wire.streaming
    connection.pauseProducing()
    assert wire.producerState == "paused"
    connection.resumeProducing()
    assert wire.producerState == "producing"


# --- on a real socket -------------------------------------------------------------------------------------------------


@contextmanager
def served(path: Path) -> Iterator[tuple[DemoApplication, EPollReactor]]:
    reactor, application, started = EPollReactor(), DemoApplication(path), threading.Event()

    def start() -> None:
        application.start(reactor)
        started.set()

    reactor.callWhenRunning(start)
    thread = threading.Thread(target=reactor.run, kwargs={"installSignalHandlers": False}, daemon=True)
    thread.start()
    try:
        assert started.wait(10)
        yield application, reactor
    finally:
        reactor.callFromThread(lambda: application.stop().addBoth(lambda _: reactor.stop()))
        thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Short enough for a socket."""
    folder = os.open(tmp_path, os.O_DIRECTORY)
    yield Path(f"/proc/self/fd/{folder}/demo")
    os.close(folder)


def test_real_clients(path: Path) -> None:
    with served(path), httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://demo") as web:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert web.get("/hello").json()["path"] == "/hello"
        assert web.post("/", content=iter([b"a", b"b"])).json()["body"] == "ab"
        assert web.put("/", content=b"x" * (MAX_BODY + 1)).status_code == 413
        with unix_connect(str(path), "ws://demo/echo/x") as ws:
            for message in ("hello", b"\0" * 1_000_000, "ä" * 100_000):
                ws.send(message)
                assert ws.recv() == message
    assert not path.exists()


def test_a_client_that_reads_nothing_is_not_read(path: Path) -> None:
    with served(path), socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
        peer.settimeout(0.5)
        with pytest.raises(TimeoutError):
            for _ in range(1000):
                peer.sendall(SENT * 400)


def test_the_socket_of_a_killed_gateway_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with served(path), httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as web:
        assert web.get("http://demo/").status_code == 200


def test_stopping_cuts_what_is_open(path: Path) -> None:
    with served(path) as (application, reactor), unix_connect(str(path), "ws://demo/echo/x") as ws:
        reactor.callFromThread(application.stop)
        with pytest.raises(ConnectionClosedError):
            ws.recv(10)
        wait_until(lambda: not path.exists(), "its socket is gone")


def test_one_that_was_not_started_can_be_stopped(tmp_path: Path) -> None:
    assert DemoApplication(tmp_path / "demo").stop().called
