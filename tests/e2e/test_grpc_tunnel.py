"""gRPC through tunnels: a real client and a real server, in place of what Mainflux's *_SERVER_CERT, *_SERVER_KEY and
*_CA_CERTS settings did. The tunnels before and beside them are the README's, but for their addresses.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest

from tests.gateways import RunningGateway
from tests.pki import Issued, issue, make_ca, write_pem
from tests.servers import free_port

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
PATIENCE = 20.0
SERVICE = "test.Things"
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
]
STREAMS = 40
DETAILS = b"\x08\x09\x12\0\xff"


def readme_tunnel(name: str, port: int, to: int) -> dict[str, object]:
    """Its section in the README, at that port of ours and to that one."""
    found = re.search(rf"(?m)^ +\[tunnel:{name}\]\n(?: +.+\n)+", README)
    assert found is not None
    parser = ConfigParser()
    parser.read_string(re.sub(r"(?m)^ +", "", found[0]))
    section = dict(parser[f"tunnel:{name}"])
    assert set(section) >= {"listen", "upstream"}
    return {**section, "listen": f"127.0.0.1:{port}", "upstream": f"localhost:{to}"}


# --- the service ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Things:
    """The service, on bytes as they are.

    ended: the calls of Chat and Wait that are over, each with the seconds that it had been given.
    """

    ended: queue.Queue[float | None] = field(default_factory=queue.Queue)

    def echo(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        sent = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-")]
        context.send_initial_metadata([(f"first-{key}", value) for key, value in sent])
        context.set_trailing_metadata([(f"last-{key}", value) for key, value in sent])
        return request

    def count(self, request: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        number, size = map(int, request.split())
        for each in range(number):
            yield each.to_bytes(4) + bytes(size)

    def join(self, requests: Iterator[bytes], _: grpc.ServicerContext) -> bytes:
        return b"".join(requests)

    def chat(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        left = context.time_remaining()
        context.add_callback(lambda: self.ended.put(left))
        for request in requests:
            yield b"re: " + request

    def wait(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        over, left = threading.Event(), context.time_remaining()
        context.add_callback(over.set)
        over.wait(PATIENCE)
        self.ended.put(left)
        return b"too late"

    def fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata([("grpc-status-details-bin", DETAILS)])
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, request.decode())
        raise AssertionError("abort raises")

    def handlers(self) -> grpc.GenericRpcHandler:
        unary, streaming = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        methods = {
            "Echo": unary(self.echo),
            "Count": grpc.unary_stream_rpc_method_handler(self.count),
            "Join": grpc.stream_unary_rpc_method_handler(self.join),
            "Chat": streaming(self.chat),
            "Wait": unary(self.wait),
            "Fail": unary(self.fail),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)


@contextmanager
def serving(things: Things, credentials: grpc.ServerCredentials | None = None) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(2 * STREAMS), handlers=[things.handlers()], options=OPTIONS)
    address = f"127.0.0.1:{free_port()}"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


# --- the tunnels ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Way:
    """From the client to the service. gateway: the one that the client talks to."""

    things: Things
    gateway: RunningGateway
    port: int
    credentials: grpc.ChannelCredentials | None

    @contextmanager
    def channel(self) -> Iterator[Stub]:
        address = f"localhost:{self.port}"
        insecure = self.credentials is None
        opened = grpc.insecure_channel if insecure else grpc.secure_channel
        with opened(address, *([] if insecure else [self.credentials]), options=OPTIONS) as channel:
            yield Stub(channel)

    def connections(self) -> int:
        """How many it has had up to now."""
        return len(self.gateway.audit("open"))


class Stub:
    def __init__(self, channel: grpc.Channel) -> None:
        self.echo = channel.unary_unary(f"/{SERVICE}/Echo")
        self.count = channel.unary_stream(f"/{SERVICE}/Count")
        self.join = channel.stream_unary(f"/{SERVICE}/Join")
        self.chat = channel.stream_stream(f"/{SERVICE}/Chat")
        self.wait = channel.unary_unary(f"/{SERVICE}/Wait")
        self.fail = channel.unary_unary(f"/{SERVICE}/Fail")


@dataclass(slots=True)
class PKI:
    """Two authorities: one for the service, one for its callers."""

    things: Issued = field(default_factory=lambda: make_ca("things"))
    adapters: Issued = field(default_factory=lambda: make_ca("adapters"))

    def write(self, folder: Path) -> Path:
        """The files that the README names."""
        folder.mkdir(exist_ok=True)
        write_pem(folder / "things-ca.crt", self.things.certificate)
        write_pem(folder / "adapters-ca.crt", self.adapters.certificate)
        issue(self.things, "things", sans=["localhost"]).write(folder, "things")
        issue(self.adapters, "http-adapter").write(folder, "http-adapter")
        issue(self.adapters, "stranger").write(folder, "stranger")
        return folder


def read(folder: Path, *names: str) -> list[bytes]:
    return [(folder / name).read_bytes() for name in names]


def caller(folder: Path, name: str = "http-adapter") -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(*read(folder, "things-ca.crt", f"{name}.key", f"{name}.crt"))


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Way]]:
    """server: client with TLS → tunnel → plain service. chained: plain client → tunnel → tunnel → plain service.

    client: plain client → tunnel → service with TLS that requires a certificate.
    """
    pki, things, ports = PKI(), Things(), [free_port() for _ in range(3)]
    folders = [pki.write(tmp_path_factory.mktemp(name)) for name in ("before", "beside")]
    key, certificate, adapters = read(folders[0], "things.key", "things.crt", "adapters-ca.crt")
    secure = grpc.ssl_server_credentials([(key, certificate)], adapters, require_client_auth=True)
    with ExitStack() as stack:
        plain_port, secure_port = (stack.enter_context(serving(things, one)) for one in (None, secure))
        before = {"tunnel:things": readme_tunnel("things", ports[0], plain_port)}
        beside = {
            "tunnel:adapter": readme_tunnel("adapter", ports[1], ports[0]),
            "tunnel:secure": readme_tunnel("adapter", ports[2], secure_port),
        }
        first, second = (
            stack.enter_context(RunningGateway.tunnels(folder, sections))
            for folder, sections in zip(folders, (before, beside), strict=True)
        )
        yield {
            "server": Way(things, first, ports[0], caller(folders[0])),
            "client": Way(things, second, ports[2], None),
            "chained": Way(things, second, ports[1], None),
        }
        for gateway in (first, second):
            gateway.check_at_rest()


@pytest.fixture(params=["server", "client", "chained"])
def way(request: pytest.FixtureRequest, ways: dict[str, Way]) -> Way:
    found = ways[request.param]
    with suppress(queue.Empty):
        while True:
            found.things.ended.get_nowait()
    return found


# --- calls ------------------------------------------------------------------------------------------------------------


def test_unary_and_metadata_both_ways(way: Way) -> None:
    sent = (("x-trace", "0123"), ("x-blob-bin", b"\0\xff\n"))
    with way.channel() as stub:
        answer, call = stub.echo.with_call(b"hello", metadata=sent, timeout=PATIENCE)
        assert answer == b"hello"
        assert {("first-x-trace", "0123"), ("first-x-blob-bin", b"\0\xff\n")} <= set(call.initial_metadata())
        assert {("last-x-trace", "0123"), ("last-x-blob-bin", b"\0\xff\n")} <= set(call.trailing_metadata())
        assert call.code() is grpc.StatusCode.OK
        assert stub.echo(b"", timeout=PATIENCE) == b""


def test_server_streaming(way: Way) -> None:
    with way.channel() as stub:
        answers = list(stub.count(b"500 100", timeout=PATIENCE))
    assert answers == [each.to_bytes(4) + bytes(100) for each in range(500)]


def test_client_streaming(way: Way) -> None:
    parts = [each.to_bytes(4) for each in range(500)]
    with way.channel() as stub:
        assert stub.join(iter(parts), timeout=PATIENCE) == b"".join(parts)
        assert stub.join(iter(()), timeout=PATIENCE) == b""


def test_bidirectional(way: Way) -> None:
    """In turn: each answer comes while the client still has something to say."""
    said: queue.Queue[bytes | None] = queue.Queue()
    with way.channel() as stub:
        answers = stub.chat(iter(said.get, None), timeout=PATIENCE)
        for number in range(20):
            said.put(b"%d" % number)
            assert next(answers) == b"re: %d" % number
        said.put(None)
        assert list(answers) == []
        assert answers.code() is grpc.StatusCode.OK


def test_large_messages(way: Way) -> None:
    message = bytes(range(256)) * 65_536
    with way.channel() as stub:
        assert stub.echo(message, timeout=PATIENCE) == message
        assert sum(map(len, stub.count(b"128 131068", timeout=PATIENCE))) == len(message)


def test_deadline(way: Way) -> None:
    """The service learns both how much time it has, and that it is over."""
    with way.channel() as stub:
        stub.echo(b"", timeout=PATIENCE)
        with pytest.raises(grpc.RpcError) as caught:
            stub.wait(b"", timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        left = way.things.ended.get(timeout=PATIENCE)
        assert left is not None
        assert 0 < left < 0.5
        assert stub.echo(b"on the same connection", timeout=PATIENCE)


def test_cancellation(way: Way) -> None:
    with way.channel() as stub:
        said: queue.Queue[bytes | None] = queue.Queue()
        said.put(b"one")
        call = stub.chat(iter(said.get, None), timeout=PATIENCE)
        assert next(call) == b"re: one"
        assert way.things.ended.empty()
        call.cancel()
        with pytest.raises(grpc.RpcError):
            next(call)
        assert call.code() is grpc.StatusCode.CANCELLED
        way.things.ended.get(timeout=PATIENCE)
        said.put(None)
        assert stub.echo(b"on the same connection", timeout=PATIENCE)


def test_error_with_details(way: Way) -> None:
    with way.channel() as stub, pytest.raises(grpc.RpcError) as caught:
        stub.fail("nicht möglich".encode(), timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "nicht möglich"
    assert ("grpc-status-details-bin", DETAILS) in caught.value.trailing_metadata()


def test_many_calls_on_one_connection(way: Way) -> None:
    before = way.connections()
    with way.channel() as stub:
        said: list[queue.Queue[bytes | None]] = [queue.Queue() for _ in range(STREAMS)]
        streams = [stub.chat(iter(one.get, None), timeout=PATIENCE) for one in said]
        calls = [stub.echo.future(b"%d" % number, timeout=PATIENCE) for number in range(300)]
        for number, (one, stream) in enumerate(zip(said, streams, strict=True)):
            one.put(b"%d" % number)
            assert next(stream) == b"re: %d" % number
        assert [call.result() for call in calls] == [b"%d" % number for number in range(300)]
        for one, stream in zip(said, streams, strict=True):
            one.put(None)
            assert list(stream) == []
        assert way.connections() == before + 1


# --- who may ----------------------------------------------------------------------------------------------------------


def refused(way: Way, credentials: grpc.ChannelCredentials | None) -> None:
    with Way(way.things, way.gateway, way.port, credentials).channel() as stub, pytest.raises(grpc.RpcError) as caught:
        stub.echo(b"let me in", timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_only_with_a_certificate_that_a_rule_allows(ways: dict[str, Way]) -> None:
    way = ways["server"]
    folder, before = way.gateway.folder, way.connections()
    refused(way, caller(folder, "stranger"))
    refused(way, grpc.ssl_channel_credentials(*read(folder, "things-ca.crt")))
    refused(way, None)
    assert way.connections() == before
    reasons = " ".join(record["reason"] for record in way.gateway.audit())
    assert "denied: no rule matches" in reasons
    assert "peer did not return a certificate" in reasons


def test_subject_and_bytes_are_in_the_audit(ways: dict[str, Way]) -> None:
    way = ways["server"]
    with way.channel() as stub:
        assert stub.echo(bytes(1000), timeout=PATIENCE) == bytes(1000)
    way.gateway.check_at_rest()
    record = way.gateway.audit()[-1]
    assert record["subject"] == "http-adapter"
    assert record["rule"] == "[tunnel:things] rules, line 1: allow http-adapter all"
    assert 1000 < record["from_client"] < 3000
    assert 1000 < record["to_client"] < 3000


def test_gateway_that_is_started_anew(ways: dict[str, Way]) -> None:
    """A call in progress fails; the next one finds its way by itself."""
    way = ways["server"]
    with way.channel() as stub:
        lost = stub.wait.future(b"", timeout=PATIENCE)
        stub.echo(b"", timeout=PATIENCE)
        assert way.gateway.stop() == 0
        assert lost.code() is grpc.StatusCode.UNAVAILABLE
        way.gateway.start()
        assert stub.echo(b"again", timeout=PATIENCE, wait_for_ready=True) == b"again"
