"""Hostile HTTPS clients and upstreams: a right answer, or an end that nobody takes for one; bounded time and memory."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography.x509 import load_pem_x509_certificate
from OpenSSL import SSL

from tests.fake_upstream import Caller
from tests.gateways import RunningGateway, Sections, wait_until
from tests.http_servers import ANSWER, Received, Script, WebService
from tests.pki import CLIENT, SERVER, issue, make_ca
from tests.raw_https import End, Ended, RawHTTPS
from tests.servers import free_port

KEY = "77aa8c1f-the-key-of-a-thing"
OTHER_KEY = "b2f0413e-the-key-of-another"
MB = 1_048_576
BOUND = 12 * MB

HEAD_TIMEOUT = 0.5
BODY_TIMEOUT = 0.6
RESPONSE_TIMEOUT = 0.8
DAY = 86_400


@dataclass(slots=True)
class Site:
    gateway: RunningGateway
    service: WebService
    certificate: tuple[Path, Path]
    other: tuple[Path, Path]

    @contextmanager
    def client(self, certificate: tuple[Path, ...] | None = None, **more: Any) -> Iterator[RawHTTPS]:
        gateway, shown = self.gateway, self.certificate if certificate is None else certificate
        with RawHTTPS.connected(gateway.https_port, gateway.root_certificate, shown, **more) as client:
            yield client

    def records(self, client: RawHTTPS, count: int) -> list[dict[str, Any]]:
        """Exactly so many records of requests of that client."""

        def found() -> list[dict[str, Any]]:
            return [record for record in self.gateway.audit("request") if record["client"] == client.name]

        wait_until(lambda: len(found()) >= count, "the audit tells of it")
        assert len(found()) == count
        return found()

    def untouched(self) -> bool:
        return not self.service.bytes_received and not self.service.connections


def get(path: str, *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/{version}", "Host: localhost", *lines, "", "")).encode("latin-1")


def post(path: str, *lines: str) -> bytes:
    return get(path, *lines, method="POST")


@contextmanager
def deaf_port() -> Iterator[int]:
    """Of a listener whose backlog is full: it drops what comes."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", free_port()), backlog=0))
        for _ in range(2):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(full.getsockname())
        yield full.getsockname()[1]


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with WebService.running() as service, deaf_port() as deaf:
        upstream = {"upstream": f"http://127.0.0.1:{service.port}", "response_timeout": RESPONSE_TIMEOUT}
        everybody = {"rules": "\nallow all,anonymous all"}
        sections: Sections = {
            "https:main": {"head_timeout": HEAD_TIMEOUT, "body_timeout": BODY_TIMEOUT, "keepalive_timeout": 3},
            "route:main": {**upstream, "websocket": "yes"},
            "route:down": {"path": "/down", "upstream": f"http://127.0.0.1:{free_port()}", **everybody},
            "route:deaf": {
                "path": "/deaf",
                "upstream": f"http://127.0.0.1:{deaf}",
                "connect_timeout": 0.3,
                **everybody,
            },
            "route:open": {"path": "/open", "client": "none", "websocket": "yes", **upstream, **everybody},
            "route:nobody": {"path": "/nobody", **upstream},
        }
        with RunningGateway.https(tmp_path_factory.mktemp("gateway"), sections) as gateway:
            yield Site(gateway, service, gateway.thing(KEY), gateway.thing(OTHER_KEY, "other"))


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    """With an upstream that nobody has called yet; after the test nothing is left, also of secrets."""
    service, gateway = shared_site.service, shared_site.gateway
    yield shared_site
    gateway.check_at_rest()
    service.hang_up()
    wait_until(lambda: not gateway.pooled(), "the pool lets go of what the upstream has ended")
    gateway.check_at_rest()
    service.server.callers.clear()
    service.requests.clear()
    service.begun.clear()
    assert not service.refused
    check_no_secret(gateway)


def check_no_secret(gateway: RunningGateway) -> None:
    text = gateway.log.read_text() + (gateway.folder / "audit.jsonl").read_text()
    for secret in (KEY, OTHER_KEY, KEY[:12], OTHER_KEY[:12], "authorization=", "Unhandled"):
        assert secret not in text


def resident(gateway: RunningGateway) -> int:
    assert gateway.process is not None
    size: int = psutil.Process(gateway.process.pid).memory_info().rss
    return size


# --- slow clients -----------------------------------------------------------------------------------------------------


def test_a_client_that_asks_for_nothing(site: Site) -> None:
    with site.client() as client:
        began = time.monotonic()
        assert client.ending() is End.ORDERLY
        assert HEAD_TIMEOUT * 0.8 < time.monotonic() - began < HEAD_TIMEOUT * 6
    assert site.untouched()


@pytest.mark.parametrize("slowly", [False, True], ids=["silent", "dripping"])
@pytest.mark.parametrize("before", [b"", get("/first")], ids=["first", "second"])
def test_slow_head(site: Site, before: bytes, slowly: bool) -> None:
    """Every byte is progress, and buys no time."""
    with site.client() as client:
        if before:
            assert client.ask(before).status == 200
        bytes_before = site.service.bytes_received
        began = time.monotonic()
        client.send(get("/slow")[:-6])
        while slowly and time.monotonic() - began < HEAD_TIMEOUT * 6 and client.is_silent(0.05):
            client.try_send(b"x")
        answer = client.response()
        assert (answer.status, answer.refusal) == (408, "the request did not come in time")
        assert HEAD_TIMEOUT * 0.8 < time.monotonic() - began < HEAD_TIMEOUT * 6
        assert client.ending() is End.ORDERLY
        assert site.service.bytes_received == bytes_before
        assert [record["status"] for record in site.records(client, 1 + bool(before))][-1] == 408


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        pytest.param(post("/slow", "Content-Length: 100000"), b"x", id="counted"),
        pytest.param(post("/slow", "Transfer-Encoding: chunked"), b"1\r\nx\r\n", id="chunked"),
        pytest.param(post("/slow", "Transfer-Encoding: chunked"), b"0", id="in a chunk's size"),
        pytest.param(post("/slow", "Transfer-Encoding: chunked") + b"0\r\n", b"X: y\r\n", id="in trailers"),
    ],
)
@pytest.mark.parametrize("slowly", [False, True], ids=["silent", "dripping"])
def test_slow_body(site: Site, head: bytes, piece: bytes, slowly: bool) -> None:
    """The upstream never takes what came for a whole request."""
    with site.client() as client:
        began = time.monotonic()
        client.send(head + piece)
        for _ in range(40):
            if not slowly or not client.is_silent(0.1):
                break
            client.try_send(piece)
        answer = client.response()
        assert (answer.status, answer.refusal) == (408, "the body did not come in time")
        assert BODY_TIMEOUT * 0.8 < time.monotonic() - began < BODY_TIMEOUT * 5
        assert client.ending() is End.ORDERLY
        (record,) = site.records(client, 1)
        assert record["status"] == 408
    assert not site.service.requests


def test_a_client_that_goes_away_in_its_body(site: Site) -> None:
    """By a FIN after which nothing more can come: what the upstream has got is no request."""
    with site.client() as client:
        client.send(post("/half", "Content-Length: 10") + b"12345")
        wait_until(lambda: site.service.begun, "the upstream has the head")
        client.end_sending()
        with pytest.raises(Ended):
            client.response()
        (record,) = site.records(client, 1)
        assert record["status"] == 0
    site.gateway.check_at_rest()
    assert not site.gateway.pooled()
    assert not site.service.requests


# --- memory -----------------------------------------------------------------------------------------------------------


def flood(client: RawHTTPS, piece: bytes, most: int) -> int:
    """How much of it was sent until nobody took any more, or it was enough."""
    client.socket.settimeout(0.3)
    sent = 0
    with suppress(OSError):
        while sent < most:
            client.send(piece)
            sent += len(piece)
    return sent


def check_bounded(site: Site, before: int) -> None:
    grown = resident(site.gateway) - before
    assert grown < BOUND, f"{grown / MB:.1f} MiB"


CHUNK = b"10000\r\n" + b"x" * 65_536 + b"\r\n"


def test_endless_upload_to_an_upstream_that_does_not_read(site: Site) -> None:
    def deaf(caller: Caller, _: Received) -> None:
        caller.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        done.wait(20)

    done = threading.Event()
    with site.service.script("/upload", deaf), site.client() as client:
        before = resident(site.gateway)
        client.send(post("/upload", "Transfer-Encoding: chunked"))
        sent = flood(client, CHUNK, 256 * MB)
        assert sent < 64 * MB
        check_bounded(site, before)
        (record,) = site.records(client, 1)
        assert record["status"] in (0, 408, 504)
        check_bounded(site, before)
        done.set()
    assert not site.service.requests


def test_large_upload(site: Site) -> None:
    """64 MiB arrive, without ever being in the gateway's memory."""

    def count(caller: Caller, _: Received) -> None:
        while not caller.said.endswith(b"\r\n0\r\n\r\n"):
            got.append(len(caller.read()))
            del caller.said[:-16]
        caller.send(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    got: list[int] = []
    with site.service.script("/upload", count), site.client() as client:
        before = resident(site.gateway)
        client.send(post("/upload", "Transfer-Encoding: chunked"))
        for _ in range(1024):
            client.send(CHUNK)
        check_bounded(site, before)
        assert client.ask(b"0\r\n\r\n").status == 204
        assert sum(got) >= 1022 * 65_536
        (record,) = site.records(client, 1)
        assert record["from_client"] == 64 * MB


def test_a_client_that_does_not_read_a_download(site: Site) -> None:
    """It is cut when it has taken nothing for a while: with a RST, since it has not got everything."""

    def endless(caller: Caller, _: Received) -> None:
        caller.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            caller.send(CHUNK)
            sent.append(len(CHUNK))

    sent: list[int] = []
    with site.service.script("/download", endless), site.client(receive_buffer=16_384) as client:
        before = resident(site.gateway)
        client.send(get("/download"))
        (record,) = site.records(client, 1)
        check_bounded(site, before)
        assert sum(sent) < 64 * MB
        assert "does not take" in record["reason"]
        assert record["status"] == 200
        with pytest.raises(Ended) as ended:
            client.response()
        assert ended.value.end is not End.ORDERLY


def test_a_flood_of_requests_without_reading_an_answer(site: Site) -> None:
    """Whoever asks on and on without taking an answer is cut."""

    def gone() -> bool:
        check_bounded(site, before)
        return site.gateway.descriptors() - site.gateway.pooled() == site.gateway.idle_descriptors

    site.service.answer = b"y" * 20_000
    try:
        with site.client(receive_buffer=16_384) as client:
            before = resident(site.gateway)
            assert flood(client, get("/flood") * 100, 64 * MB) < 32 * MB
            wait_until(gone, "the gateway has enough of it")
    finally:
        site.service.answer = ANSWER


def test_a_flood_of_requests_waits_on_the_wire(site: Site) -> None:
    """What is asked ahead stays out of memory: with each answer the gateway takes no more than it has room for."""

    def ask() -> None:
        with suppress(OSError):
            while True:
                client.send(get("/next") * 1000)
                sent.append(1000 * len(get("/next")))

    sent: list[int] = []
    with site.client() as client:
        before = resident(site.gateway)
        asking = threading.Thread(target=ask)
        asking.start()
        try:
            wait_until(lambda: len(site.service.requests) > 400, "400 of them are answered")
            # Most of it is in the kernel's buffers, which are of up to 6 MB.
            assert sum(sent) < 12 * MB
            check_bounded(site, before)
        finally:
            client.socket.shutdown(socket.SHUT_RDWR)
            asking.join()


# --- upstreams that answer badly --------------------------------------------------------------------------------------

BAD_UPSTREAM = "the upstream gave no valid answer"


def says(*pieces: bytes, reset: bool = False) -> Script:
    """Just that, and then the end."""

    def script(caller: Caller, _: Received) -> None:
        for piece in pieces:
            caller.send(piece)
            time.sleep(0.02)
        if reset:
            caller.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return script


def head(*lines: str, status: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join((status, *lines, "", "")).encode("latin-1")


OK = head("Content-Length: 5") + b"hello"
CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", id="TLS"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", id="ssh"),
        pytest.param(b"hello, world\r\n\r\n", id="words"),
        pytest.param(b"<html>the answer of HTTP/0.9</html>\r\n", id="HTTP 0.9"),
        pytest.param(bytes(1000) + b"\r\n\r\n", id="zeros"),
        pytest.param(OK.replace(b"\r\n", b"\n"), id="LF alone"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="half a head"),
        pytest.param(head("Content-Length: 5", status="HTTP/2.0 200 OK"), id="HTTP 2.0"),
        pytest.param(head("Content-Length: 5", status="HTTP/1.1 2000 OK"), id="a long status"),
        pytest.param(head("Content-Length: 5", status="HTTP/1.1 999 OK"), id="status 999"),
        pytest.param(head("Content-Length: 5", status="HTTP/1.1 OK"), id="no status"),
        pytest.param(head("Content-Length: 5", "Content-Length: 6") + b"hello!", id="two lengths"),
        pytest.param(head("Content-Length: 5, 5") + b"hello", id="a list of lengths"),
        pytest.param(head("Content-Length: -5") + b"hello", id="a negative length"),
        pytest.param(head("Content-Length: 5", CHUNKED) + b"0\r\n\r\n", id="length and chunks"),
        pytest.param(head("Transfer-Encoding: gzip") + b"hello", id="a coding"),
        pytest.param(head("Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n", id="chunked twice"),
        pytest.param(head(CHUNKED, status="HTTP/1.0 200 OK") + b"0\r\n\r\n", id="chunks of HTTP 1.0"),
        pytest.param(head("X: y", " z", "Content-Length: 5") + b"hello", id="folded"),
        pytest.param(head("X : y", "Content-Length: 5") + b"hello", id="a blank before the colon"),
        pytest.param(head("X: a\0b", "Content-Length: 5") + b"hello", id="NUL"),
        pytest.param(head("X: a\rSet-Cookie: evil", "Content-Length: 5") + b"hello", id="CR alone"),
        pytest.param(head("X: a\nSet-Cookie: evil", "Content-Length: 5") + b"hello", id="LF in a field"),
        pytest.param(head(*(f"X-{number}: y" for number in range(101))), id="101 fields"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 40_000, id="a long field"),
        pytest.param(head(status="HTTP/1.1 100 Continue") * 100 + OK, id="100 interim answers"),
        pytest.param(head("Content-Length: 5", status="HTTP/1.1 103 Early Hints") + b"hello", id="interim body"),
        pytest.param(head("Connection: Upgrade", "Upgrade: h2c", status="HTTP/1.1 101 S"), id="101 unasked"),
    ],
)
def test_upstream_answers_no_http(site: Site, answer: bytes) -> None:
    with site.service.script("/bad", says(answer)), site.client() as client:
        refused = client.ask(get("/bad"))
        assert (refused.status, refused.refusal) == (502, BAD_UPSTREAM)
        assert client.ending() is End.ORDERLY
        (record,) = site.records(client, 1)
        assert record["status"] == 502
        assert record["reason"]


def test_upstream_with_an_endless_head(site: Site) -> None:
    def endless(caller: Caller, _: Received) -> None:
        caller.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            caller.send(b"X: y\r\n" * 1000)

    with site.service.script("/bad", endless), site.client() as client:
        before = resident(site.gateway)
        assert client.ask(get("/bad")).refusal == BAD_UPSTREAM
        check_bounded(site, before)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-", head(status="HTTP/1.1 103 E")])
def test_upstream_that_hangs(site: Site, said: bytes) -> None:
    def hang(caller: Caller, _: Received) -> None:
        caller.send(said)
        caller.wait()

    with site.service.script("/hang", hang), site.client() as client:
        began = time.monotonic()
        answer = client.ask(get("/hang"))
        assert (answer.status, answer.refusal) == (504, "the upstream did not answer in time")
        assert RESPONSE_TIMEOUT * 0.8 < time.monotonic() - began < RESPONSE_TIMEOUT * 5


# An answer that begins well and never becomes whole, and how it breaks off.
HALF = {
    "half of its length": head("Content-Length: 10") + b"hello",
    "half a chunk": head(CHUNKED) + b"a\r\nhello",
    "a chunk without an end": head(CHUNKED) + b"5\r\nhello\r\n",
    "a chunk of another size": head(CHUNKED) + b"5\r\nhello!\r\n0\r\n\r\n",
    "half of the last chunk": head(CHUNKED) + b"5\r\nhello\r\n0\r\n",
    "no chunk at all": head(CHUNKED) + b"5\r\nhello\r\ng\r\nhello\r\n0\r\n\r\n",
    "folded trailers": head(CHUNKED) + b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
}


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("kind", HALF)
def test_half_an_answer_is_never_a_whole_one(site: Site, kind: str, reset: bool, version: str) -> None:
    """The client's connection breaks, in a way that cannot be taken for an end."""
    first, last = HALF[kind][: HALF[kind].index(b"hello")], HALF[kind][HALF[kind].index(b"hello") :]
    with site.service.script("/half", says(first, last, reset=reset)), site.client() as client:
        with pytest.raises(Ended) as ended:
            client.ask(get("/half", "Connection: keep-alive", version=version))
        assert ended.value.end is not End.ORDERLY
        assert b"hello".startswith(ended.value.so_far)
        (record,) = site.records(client, 1)
        assert record["status"] == 200
        assert "upstream" in record["reason"]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
def test_an_answer_that_ends_with_the_connection(site: Site, reset: bool, version: str) -> None:
    """FIN is its end; a RST is not."""
    with site.service.script("/old", says(head(), b"hello", reset=reset)), site.client() as client:
        client.send(get("/old", version=version))
        if reset:
            with pytest.raises(Ended) as ended:
                client.response()
            assert ended.value.end is not End.ORDERLY
        else:
            assert client.response().body == b"hello"
            assert version == "1.1" or client.ending() is End.ORDERLY


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(OK + head("Content-Length: 6") + b"stolen", id="two answers"),
        pytest.param(OK + b"!", id="a byte more"),
        pytest.param(head(CHUNKED) + b"5\r\nhello\r\n0\r\n\r\n" + OK, id="behind the last chunk"),
        pytest.param(head("Content-Length: 6", status="HTTP/1.1 204 No Content") + b"stolen", id="204 with a body"),
        pytest.param(head("Content-Length: 6", status="HTTP/1.1 304 Not Modified") + b"stolen", id="304 with a body"),
        pytest.param(head(CHUNKED, status="HTTP/1.1 204 No Content") + b"6\r\nstolen\r\n0\r\n\r\n", id="204 in chunks"),
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
def test_what_follows_an_answer_is_nobodys(site: Site, answer: bytes, late: bool) -> None:
    """Neither the next request's, nor another client's on the same connection."""

    def script(caller: Caller, _: Received) -> None:
        end = answer.index(b"\r\n\r\n") + 4 if late else len(answer)
        end += 5 if late and b"hello" in answer[end : end + 5] else 0
        caller.send(answer[:end])
        time.sleep(0.05)
        caller.send(answer[end:])
        site.service.serve(caller)

    with site.service.script("/more", script), site.client() as one, site.client(site.other) as other:
        first = one.ask(get("/more"))
        assert first.body in (b"hello", b"")
        time.sleep(0.1 if late else 0)
        for client in (other, one):
            if not first.closes or client is other:
                answered = client.ask(get("/next"))
                assert (answered.status, answered.body) == (200, ANSWER)
    assert site.service.connections > 1


def test_an_answer_to_head_that_has_a_body(site: Site) -> None:
    with site.service.script("/head", says(OK)), site.client() as client:
        assert client.ask(get("/head", method="HEAD")).status == 200
        assert client.ask(get("/next")).body == ANSWER


def test_interim_answers(site: Site) -> None:
    """Passed on where they are known and asked for; never to HTTP/1.0."""
    interim = head("Link: </a>", status="HTTP/1.1 103 Early Hints") + head(status="HTTP/1.1 100 Continue")
    answer = interim + head("Content-Length: 5", "Connection: close") + b"hello"
    with site.service.script("/hints", says(answer)), site.client() as client:
        assert client.ask(get("/hints")).interim == (103,)
        assert client.ask(post("/hints", "Expect: 100-continue", "Content-Length: 1") + b"x").interim == (103, 100)
        assert client.ask(get("/hints", version="1.0")).interim == ()


def test_a_pooled_connection_that_dies_when_it_is_used(site: Site) -> None:
    """A GET is asked again, on a new connection; a POST might have been heard, so it is not."""

    def once(caller: Caller, request: Received) -> None:
        heard.append(request.method)
        caller.send(OK)
        caller.read()

    heard: list[bytes] = []
    with site.service.script("/once", once), site.client() as client:
        for _ in range(3):
            assert client.ask(get("/once")).body == b"hello"
        assert heard == [b"GET"] * 3
        refused = client.ask(post("/once", "Content-Length: 1") + b"x")
        assert (refused.status, refused.refusal) == (502, BAD_UPSTREAM)
        assert heard == [b"GET"] * 3
    assert site.service.connections == 3


def test_an_upstream_that_answers_before_the_body_is_there(site: Site) -> None:
    """Its answer gets through, and nothing of the rest of the body is taken for a request."""
    hidden = get("/hidden")
    with site.service.script("/early", says(OK)), site.client() as client:
        client.send(post("/early", f"Content-Length: {len(hidden)}"))
        answer = client.response()
        assert (answer.body, answer.closes) == (b"hello", True)
        client.try_send(hidden)
        assert client.ending() is not None
    assert not site.service.requests


def test_upstream_down(site: Site) -> None:
    with site.client() as client:
        answer = client.ask(get("/down"))
        assert (answer.status, answer.refusal) == (502, "no upstream can be reached")


def test_upstream_that_does_not_take_the_connection(site: Site) -> None:
    with site.client() as client:
        assert client.ask(get("/deaf")).status in (502, 504)
        (record,) = site.records(client, 1)
        assert record["seconds"] < 5


# --- certificates and TLS ---------------------------------------------------------------------------------------------


def check_refused_in_tls(client: RawHTTPS, *words: str) -> None:
    """By an alert: in TLS 1.3 the client's handshake may be done before the server has seen its certificate."""
    with closing(client), pytest.raises(ssl.SSLError) as refused:
        client.handshake()
        client.receive()
        raise AssertionError("it is let in")
    assert any(word in str(refused.value).lower() for word in words), refused.value


def test_certificate_that_expires(site: Site) -> None:
    """On a connection that goes on: its next request is refused. A new connection is refused in TLS."""
    certificate = site.gateway.thing("short-lived", "short", valid=(-1, 1.5 / DAY))
    expires = load_pem_x509_certificate(certificate[0].read_bytes()).not_valid_after_utc.timestamp()
    with site.client(certificate) as client:
        assert client.ask(get("/")).status == 200
        time.sleep(expires - time.time() + 0.05)
        bytes_before = site.service.bytes_received
        answer = client.ask(get("/"))
        assert (answer.status, answer.refusal) == (403, "the client certificate has expired")
        assert client.ending() is End.ORDERLY
        assert site.service.bytes_received == bytes_before
        assert [record["status"] for record in site.records(client, 2)] == [200, 403]
    # OpenSSL compares whole seconds.
    time.sleep(max(0.0, expires + 1.05 - time.time()))
    gateway = site.gateway
    check_refused_in_tls(RawHTTPS(gateway.https_port, gateway.root_certificate, certificate), "expired")


def test_certificate_of_a_foreign_authority(site: Site) -> None:
    """Of the same name as the right one, too."""
    gateway = site.gateway
    for name in ("somebody", "gateway tests"):
        foreign = issue(make_ca(name), KEY, eku=[CLIENT]).write(gateway.folder, "foreign")
        check_refused_in_tls(
            RawHTTPS(gateway.https_port, gateway.root_certificate, foreign), "unknown ca", "decrypt error", "bad cert"
        )
    assert site.untouched()


def test_certificate_for_servers_only(site: Site) -> None:
    gateway = site.gateway
    wrong = issue(gateway.ca, KEY, eku=[SERVER]).write(gateway.folder, "wrong")
    check_refused_in_tls(RawHTTPS(gateway.https_port, gateway.root_certificate, wrong), "certificate")
    assert site.untouched()


def test_no_certificate(site: Site) -> None:
    with site.client(()) as client:
        answer = client.ask(get("/"))
        assert (answer.status, answer.refusal) == (403, "a client certificate is required here")
        assert client.ending() is End.ORDERLY
    with site.client(()) as client:
        assert client.ask(get("/", f"Authorization: {KEY}")).status == 403
    assert site.untouched()


def test_nobody_is_let_in_where_no_rule_says_so(site: Site) -> None:
    with site.client() as client:
        answer = client.ask(get("/nobody/at/all"))
        assert (answer.status, answer.refusal) == (403, "forbidden")
    assert site.untouched()


@pytest.mark.parametrize("first", [get("/"), b"GET", b"\n", b"HELO me\r\n"])
def test_plain_text_on_the_port_for_tls(site: Site, first: bytes) -> None:
    with socket.create_connection(("127.0.0.1", site.gateway.https_port), 10) as client:
        client.sendall(first)
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    text, _, body = answer.partition(b"\r\n\r\n")
    assert text.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nConnection: close" in text
    assert json.loads(body) == {"status": 400, "error": "this port speaks HTTPS only"}
    assert site.untouched()


def alert(site: Site, hello: bytes) -> int:
    """What the server ends the handshake with."""
    with socket.create_connection(("127.0.0.1", site.gateway.https_port), 10) as client:
        client.sendall(hello)
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert len(answer) == 7
    assert (answer[0], answer[5]) == (21, 2), answer
    return answer[6]


PROTOCOL_VERSION, NO_APPLICATION_PROTOCOL = 70, 120


@pytest.mark.parametrize("minor", [1, 2], ids=["TLS 1.0", "TLS 1.1"])
def test_old_tls(site: Site, minor: int) -> None:
    suites = bytes.fromhex("c009c00ac013c014002f0035")
    body = bytes([3, minor]) + bytes(range(32)) + b"\0" + struct.pack("!H", len(suites)) + suites + b"\1\0"
    handshake = b"\1" + struct.pack("!I", len(body))[1:] + body
    assert alert(site, b"\x16\3\1" + struct.pack("!H", len(handshake)) + handshake) == PROTOCOL_VERSION


def test_alpn(site: Site) -> None:
    """h2 alone is refused; nothing is as good as http/1.1."""
    gateway = site.gateway
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        RawHTTPS(gateway.https_port, gateway.root_certificate, site.certificate, alpn=["h2"]).handshake()
    for offered in (["h2", "http/1.1"], []):
        with site.client(alpn=offered) as client:
            assert client.ask(get("/")).status == 200
            assert client.protocol == ("http/1.1" if offered else None)


def test_renegotiation(site: Site) -> None:
    """A client of TLS 1.2 that wants to begin anew, perhaps as somebody else, is not heard."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.use_certificate_file(str(site.certificate[0]))
    context.use_privatekey_file(str(site.certificate[1]))
    with socket.create_connection(("127.0.0.1", site.gateway.https_port), 10) as sock:
        client = SSL.Connection(context, sock)
        sock.setblocking(True)
        client.set_connect_state()
        client.do_handshake()
        assert client.get_protocol_version_name() == "TLSv1.2"
        client.renegotiate()
        with pytest.raises(SSL.Error):
            client.do_handshake()
            client.sendall(get("/"))
            client.recv(4096)
    assert site.untouched()


# --- the key of a WebSocket -------------------------------------------------------------------------------------------


def opening(target: str, *lines: str) -> bytes:
    return get(
        target,
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *lines,
    )


@pytest.mark.parametrize("path", ["/ws", "/open/ws"], ids=["certificate", "anybody"])
@pytest.mark.parametrize(
    "key",
    [
        "%0d%0aX-Evil:%20yes",
        "x%0d%0aX-Evil:%20yes",
        "x%0aX-Evil:%20yes",
        "x%0d",
        "%00",
        "x%00y",
        "x%7f",
        "%80",
        "%c4%8d%c4%8a",
        "x%09y",
        "%20x",
        "x++y",
        "",
        "x&authorization=x",
        "x;authorization=x",
        "x&Authorization=x",
        "x&%61uthorization=x",
        "x&authorization",
    ],
)
def test_header_injection_through_the_query(site: Site, path: str, key: str) -> None:
    """Also where no certificate would have to agree with it."""
    with site.client() as client:
        answer = client.ask(opening(f"{path}?authorization={key}"))
        assert answer.status in (400, 403)
        assert answer.refusal
        assert client.ending() is End.ORDERLY
    assert site.untouched()


def test_a_key_in_the_query(site: Site) -> None:
    """It reaches the upstream as Authorization only; a wrong one is refused. No record tells it."""
    with site.client() as client:
        assert client.ask(opening(f"/ws?a=b&authorization={OTHER_KEY}")).status == 403
    assert site.untouched()
    with site.client() as client:
        client.send(opening(f"/ws?a=b&authorization={KEY}&c=d"))
        wait_until(lambda: site.service.requests, "the upstream is asked")
        (asked,) = site.service.requests
        assert asked.target == b"/ws?a=b&c=d"
        assert asked.values(b"authorization") == [KEY.encode()]
        # The service knows no WebSockets, so this was the answer.
        assert client.response().closes
        (record,) = site.records(client, 1)
        assert record["path"] == "/ws"


# --- the audit --------------------------------------------------------------------------------------------------------


def test_one_record_for_each_request(site: Site) -> None:
    """Whatever becomes of it."""
    requests = [
        get("/a?b=secret"),
        post("/b", "Content-Length: 3") + b"abc",
        get("/down"),
    ]
    with site.client() as client:
        answers = [client.ask(request) for request in requests]
        found = site.records(client, 3)
        assert [record["status"] for record in found] == [answer.status for answer in answers] == [200, 200, 502]
        assert [(record["method"], record["path"]) for record in found] == [
            ("GET", "/a"),
            ("POST", "/b"),
            ("GET", "/down"),
        ]
        assert [record["from_client"] for record in found] == [0, 3, 0]
        assert {record["listener"] for record in found} == {"https:main"}
        assert len({record["connection"] for record in found}) == 1
        assert "secret" not in str(found)
        subjects = {record["subject"] for record in found}
    with site.client(site.other) as client:
        client.send(get("/a") * 3 + get("/a", f"Authorization: {KEY}"))
        assert [answer.status for answer in client.responses()] == [200, 200, 200, 403]
        records = site.records(client, 4)
        assert {record["subject"] for record in records}.isdisjoint(subjects)
        assert all(record["subject"].startswith("key:") for record in records)
        assert not [record for record in site.gateway.audit("close") if record["client"] == client.name]


# --- signals ----------------------------------------------------------------------------------------------------------


@contextmanager
def own_site(folder: Path, service: WebService, **gateway: object) -> Iterator[RunningGateway]:
    sections: Sections = {
        "gateway": gateway,
        "route:main": {"upstream": f"http://127.0.0.1:{service.port}"},
    }
    with RunningGateway.https(folder, sections) as running:
        yield running


def download(release: threading.Event, pieces: int = 10) -> Script:
    def script(caller: Caller, _: Received) -> None:
        caller.send(head(f"Content-Length: {pieces * 1000}") + b"x" * 1000)
        release.wait(10)
        for _piece in range(1, pieces):
            caller.send(b"x" * 1000)
            time.sleep(0.01)

    return script


def health(gateway: RunningGateway) -> dict[str, Any]:
    with socket.create_connection(("127.0.0.1", gateway.health_port), 10) as client:
        client.sendall(b"GET /.well-known/securegw/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


def test_shutdown_waits_for_a_download(tmp_path: Path) -> None:
    """Who has asked gets the whole answer; who is idle is ended; nobody new is let in."""
    release = threading.Event()
    with WebService.running() as service, own_site(tmp_path, service, shutdown_grace=5) as gateway:
        certificate = gateway.thing(KEY)
        where = (gateway.https_port, gateway.root_certificate, certificate)
        with (
            service.script("/download", download(release)),
            RawHTTPS.connected(*where) as busy,
            RawHTTPS.connected(*where) as idle,
        ):
            assert idle.ask(get("/")).status == 200
            busy.send(get("/download"))
            wait_until(lambda: service.begun[1:], "the download has begun")
            assert gateway.process is not None
            gateway.process.terminate()
            assert idle.ending() is End.ORDERLY
            with pytest.raises(ConnectionError):
                RawHTTPS.connected(*where).__enter__()
            release.set()
            answer = busy.response()
            assert len(answer.body) == 10_000
            assert busy.ending() is End.ORDERLY
        assert gateway.process.wait(10) == 0
        assert gateway.audit("request")[-1]["to_client"] == 10_000
        check_no_secret(gateway)


def test_shutdown_cuts_what_takes_too_long(tmp_path: Path) -> None:
    """And nobody takes it for a whole answer."""
    with WebService.running() as service, own_site(tmp_path, service, shutdown_grace=0.3) as gateway:
        certificate = gateway.thing(KEY)
        release = threading.Event()
        with (
            service.script("/download", download(release)),
            RawHTTPS.connected(gateway.https_port, gateway.root_certificate, certificate) as client,
        ):
            client.send(get("/download"))
            wait_until(lambda: service.begun, "the download has begun")
            assert gateway.process is not None
            gateway.process.terminate()
            with pytest.raises(Ended) as ended:
                client.response()
            assert ended.value.end is not End.ORDERLY
            release.set()
        assert gateway.process.wait(10) == 0
        (record,) = gateway.audit("request")
        assert record["status"] == 200
        assert record["reason"]


def test_reload(tmp_path: Path) -> None:
    """The next request of a connection is judged anew, and is its last; a failed reload changes nothing but is told."""
    with WebService.running() as service, own_site(tmp_path, service) as gateway:
        certificates = gateway.thing(KEY), gateway.thing(OTHER_KEY, "other")
        with ExitStack() as stack:
            denied, allowed, kept = (
                stack.enter_context(RawHTTPS.connected(gateway.https_port, gateway.root_certificate, certificate))
                for certificate in (certificates[0], certificates[1], certificates[1])
            )
            for client in (denied, allowed, kept):
                assert not client.ask(get("/")).closes
            assert health(gateway)["reload"] == "ok"

            good = gateway.sections["route:main"]
            gateway.sections["route:main"] = {**good, "rules": "\nallow nobody at all"}
            gateway.write_ini()
            gateway.reload(succeeds=False)
            assert health(gateway) == {"status": "ready", "reload": "failed", "connections": 3}
            assert not kept.ask(get("/")).closes

            subject = gateway.audit("request")[0]["subject"]
            gateway.reconfigure({"route:main": {**good, "rules": f'\ndeny "{subject}" all\nallow all all'}})
            assert health(gateway)["reload"] == "ok"
            bytes_before = service.bytes_received
            assert denied.ask(get("/")).refusal == "forbidden"
            assert service.bytes_received == bytes_before
            for client in (allowed, kept):
                answer = client.ask(get("/"))
                assert (answer.status, answer.closes) == (200, True)
            for client in (denied, allowed, kept):
                assert client.ending() is End.ORDERLY
        with RawHTTPS.connected(gateway.https_port, gateway.root_certificate, certificates[1]) as client:
            assert not client.ask(get("/")).closes
        service.hang_up()
        gateway.check_at_rest()
        check_no_secret(gateway)
