"""Documents over real TLS, for the gateway and for commands: whom we believe, and what a server may not do to us."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as installed_reactor
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from gateway.certs import ClientContext
from gateway.errors import Problems
from gateway.inspection import key_sets
from gateway.net import document, fetching
from gateway.net.document import Documents
from gateway.net.fetching import Unfetched
from gateway.settings import JWTSettings
from tests.fake_upstream import Caller, FakeUpstream
from tests.pki import Issued, issue, make_ca, write_pem
from tests.registry.conftest import in_reactor

reactor: Any = installed_reactor

BODY = b'{"keys": []}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n" + BODY
CA = make_ca("document tests")

Answer = Callable[[Caller], None]


# URL → document, believing the authorities in that file.
Get = Callable[[str, Path | None], Awaitable[bytes]]


def believing(authorities: Path | None) -> ClientContext:
    problems = Problems()
    found = fetching.context(JWTSettings("main", (), jwks_root_certificate=authorities), problems)
    problems.raise_if_any()
    return found


def as_the_gateway(url: str, authorities: Path | None) -> Awaitable[bytes]:
    return Documents(reactor, believing(authorities)).get(url)


def as_a_command(url: str, authorities: Path | None) -> Awaitable[bytes]:
    from twisted.internet.threads import deferToThread

    return deferToThread(key_sets.get, url, believing(authorities))


class Site:
    """A folder, and the servers that a test has started in it."""

    def __init__(self, folder: Path, stack: ExitStack, get: Get = as_the_gateway) -> None:
        self.folder, self._stack, self._get = folder, stack, get
        self.ca = write_pem(folder / "ca.crt", CA.certificate)
        self.servers: list[FakeUpstream] = []

    def get(self, url: str) -> Awaitable[bytes]:
        return self._get(url, self.ca)

    def serve(self, answer: Answer | bytes, server: Issued | None = None, host: str = "localhost", **tls: Any) -> str:
        """Its URL. answer: what it says once it has a request, or does."""
        (server or issue(CA, sans=["localhost"])).write(self.folder, "server")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.crt", self.folder / "server.key")
        for name, value in tls.items():
            setattr(context, name, value)

        def talk(caller: Caller) -> None:
            caller.socket = context.wrap_socket(caller.socket, server_side=True)
            while b"\r\n\r\n" not in caller.said:
                if not caller.read():
                    return
            if callable(answer):
                answer(caller)
            else:
                caller.send(answer)
            caller.wait()

        self.servers.append(self._stack.enter_context(FakeUpstream.running(talk)))
        return f"https://{host}:{self.servers[-1].port}/set?of=keys"

    def asked(self) -> bytes:
        (caller,) = self.servers[-1].callers
        return bytes(caller.said)


@pytest.fixture(params=[as_the_gateway, as_a_command])
def get(request: pytest.FixtureRequest) -> Get:
    asking: Get = request.param
    return asking


@pytest.fixture
def site(tmp_path: Path, get: Get) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, stack, get)


@contextmanager
def refused(reason: str) -> Iterator[None]:
    with pytest.raises(Unfetched, match=reason):
        yield


@in_reactor
async def test_a_document(site: Site) -> None:
    assert await site.get(site.serve(OK)) == BODY
    request = site.asked()
    assert request.startswith(b"GET /set?of=keys HTTP/1.1\r\n")
    assert b"\r\nAccept: application/jwk-set+json, application/json\r\n" in request
    assert b"\r\nUser-Agent: securegw\r\n" in request


@in_reactor
async def test_the_log_has_no_line_of_it(site: Site) -> None:
    said: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        said.append(formatEvent(event))

    url = site.serve(OK)
    globalLogPublisher.addObserver(observe)
    try:
        await site.get(url)
    finally:
        globalLogPublisher.removeObserver(observe)
    assert said == []


@in_reactor
async def test_in_chunks(site: Site) -> None:
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    assert await site.get(site.serve(chunks)) == b"abc"


@in_reactor
async def test_by_ip_address(site: Site) -> None:
    url = site.serve(OK, issue(CA, sans=["127.0.0.1"]), host="127.0.0.1")
    assert await site.get(url) == BODY


# --- who answers ------------------------------------------------------------------------------------------------------


@in_reactor
@pytest.mark.parametrize(
    ("server", "host"),
    [
        (issue(CA, "localhost", sans=["elsewhere.example"]), "localhost"),
        (issue(CA, "localhost"), "localhost"),
        (issue(CA, "127.0.0.1", sans=["localhost"]), "127.0.0.1"),
    ],
    ids=["another name", "a CN is no name", "a name is no address"],
)
async def test_another_server(site: Site, server: Issued, host: str) -> None:
    with refused(f"^the upstream's certificate is not for {host}$"):
        await site.get(site.serve(OK, server, host))
    assert site.asked() == b""


@in_reactor
@pytest.mark.parametrize(
    "server",
    [issue(make_ca("another"), sans=["localhost"]), issue(CA, sans=["localhost"], valid=(-9, -1))],
    ids=["another authority", "expired"],
)
async def test_a_certificate_that_is_not_trusted(site: Site, server: Issued) -> None:
    with refused("^TLS: certificate verify failed"):
        await site.get(site.serve(OK, server))
    assert site.asked() == b""


@in_reactor
async def test_the_systems_authorities(site: Site, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    url = site.serve(OK)
    with refused("^TLS: certificate verify failed"):
        await get(url, None)
    monkeypatch.setenv("SSL_CERT_FILE", str(site.ca))
    assert await get(url, None) == BODY


@in_reactor
@pytest.mark.filterwarnings("ignore:.*TLSv1.*:DeprecationWarning")
async def test_an_old_tls(site: Site) -> None:
    old = site.serve(OK, maximum_version=ssl.TLSVersion.TLSv1_1, minimum_version=ssl.TLSVersion.TLSv1)
    with refused("^TLS: "):
        await site.get(old)
    assert await site.get(site.serve(OK, maximum_version=ssl.TLSVersion.TLSv1_2)) == BODY


# --- what it answers --------------------------------------------------------------------------------------------------


@in_reactor
@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"307 Temporary", b"308 Permanent"])
async def test_redirects_are_not_followed(site: Site, status: bytes) -> None:
    elsewhere = site.serve(OK).encode()
    followed = site.servers[-1]
    moved = b"HTTP/1.1 " + status + b"\r\nLocation: " + elsewhere + b"\r\nContent-Length: 0\r\n\r\n"
    with refused(f"a redirect \\({status[:3].decode()}\\)"):
        await site.get(site.serve(moved))
    assert not followed.callers


@in_reactor
@pytest.mark.parametrize("status", [204, 206, 304, 404, 500, 503])
async def test_any_other_status(site: Site, status: int) -> None:
    ended = threading.Event()

    def answer(caller: Caller) -> None:
        caller.send(b"HTTP/1.1 %d Whatever\r\nContent-Length: 1000\r\n\r\n%s" % (status, BODY))
        caller.wait()
        ended.set()

    with refused(r"a redirect \(304\)" if status == 304 else f"^the answer has the status {status}$"):
        await site.get(site.serve(answer))
    await in_a_thread(ended)


async def in_a_thread(event: threading.Event) -> None:
    from twisted.internet.threads import deferToThread

    assert await deferToThread(event.wait, 10), "the connection was left open"


def forever(head: bytes, piece: bytes) -> Answer:
    def answer(caller: Caller) -> None:
        caller.send(head)
        while True:
            caller.send(piece)

    return answer


@in_reactor
@pytest.mark.parametrize(
    "answer",
    [
        forever(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n", b"x" * 65_536),
        forever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65_536 + b"\r\n"),
        forever(b"HTTP/1.1 200 OK\r\n", b"X-Field: " + b"x" * 8_000 + b"\r\n"),
        forever(b"HTTP/1.1 200 OK\r\nX: ", b"x\r\n " * 10_000),
        forever(b"", b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * 1_000),
    ],
    ids=["length", "chunks", "fields", "folded field", "interim answers"],
)
async def test_too_much(site: Site, answer: Answer) -> None:
    with refused("^(the answer is longer than 1048576 bytes|head of more than 32768 bytes)$"):
        await site.get(site.serve(answer))


@in_reactor
async def test_as_much_as_may_be(site: Site) -> None:
    largest = b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n" + bytes(1_048_576)
    assert len(await site.get(site.serve(largest))) == 1_048_576


@in_reactor
@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nsome",
        b"HTTP/1.1 200 OK\r\n\r\n" + BODY,
    ],
    ids=["nothing", "no body", "half a body", "no length, and no end"],
)
async def test_too_slow(site: Site, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    for asking in (document, key_sets):
        monkeypatch.setattr(asking, "SECONDS", 0.2)
    ended = threading.Event()

    def answer(caller: Caller) -> None:
        caller.send(said)
        caller.wait()
        ended.set()

    with refused(r"^there was no whole answer within 0\.2 seconds$|^the answer does not say where it ends$"):
        await site.get(site.serve(answer))
    await in_a_thread(ended)


@in_reactor
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n" + BODY, "^the answer does not say where it ends$"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n" + BODY, "."),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", "."),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n" + BODY, "."),
        (b"\x16\x03garbage\r\n\r\n", "."),
        (b"", "."),
    ],
    ids=["no length", "cut off", "cut off chunks", "no number", "garbage", "nothing"],
)
async def test_an_answer_that_is_none(site: Site, said: bytes, reason: str) -> None:
    def answer(caller: Caller) -> None:
        caller.send(said)
        caller.socket.close()

    with refused(reason):
        await site.get(site.serve(answer))


@in_reactor
async def test_nobody_there(site: Site) -> None:
    url = site.serve(OK)
    site._stack.close()
    with refused("refused"):
        await site.get(url)


@in_reactor
async def test_a_name_that_does_not_exist(site: Site) -> None:
    with refused("."):
        await site.get("https://nobody.invalid/set")


@in_reactor
async def test_a_reason_is_one_line_of_bounded_length(site: Site) -> None:
    hostile = b"HTTP/1.1 " + b"\x1b[2Jforged " * 1_000 + b"\r\n\r\n"
    with pytest.raises(Unfetched) as caught:
        await site.get(site.serve(hostile))
    assert len(str(caught.value)) <= 200
    assert str(caught.value).isprintable()
