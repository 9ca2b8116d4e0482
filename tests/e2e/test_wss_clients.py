"""Real WebSocket clients through a real gateway, to a real WebSocket service: messages, ends, and who may open one."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clients import random_bytes
from tests.e2e.https_clients import Caller, Files
from tests.e2e.websocket_service import WebSocketService
from tests.e2e.wss_clients import (
    NODE_SCRIPTS,
    OPENERS,
    Message,
    Opener,
    Refused,
    WebSocket,
    missing_for_node,
    open_with_node,
    open_with_websockets,
)
from tests.gateways import PATIENCE, RunningGateway, Sections, wait_until

KEY = "2d9a6f1c-thing-key"
OTHER = "another-thing"
CHANNEL = "5a2c9d52-channel"
QUERY = f"?authorization={KEY}"
WITH_KEY = {"Authorization": KEY}


@dataclass(frozen=True, slots=True)
class Site:
    gateway: RunningGateway
    service: WebSocketService
    certificates: dict[str, Files]

    def caller(self, certificate: str | None = KEY) -> Caller:
        return Caller.of(self.gateway, self.certificates[certificate] if certificate else None)


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with WebSocketService.running() as service:
        common: dict[str, object] = {"upstream": service.url, "rules": "\nallow all all"}
        sockets = {**common, "websocket": "yes"}
        sections: dict[str, dict[str, object]] = {
            "route:main": common,
            "route:plain": {**common, "path": "/plain", "websocket": "no"},
            "route:word": {**sockets, "path": "/word", "send_scheme": "Thing"},
            "route:lax": {**sockets, "path": "/lax", "ws_key": "optional", "ws_query": "forward"},
            "route:open": {**sockets, "path": "/open", "client": "none"},
            "route:id": {**sockets, "path": "/id", "cn": "id"},
        }
        with RunningGateway.https(tmp_path_factory.mktemp("gateway"), sections) as gateway:
            yield Site(gateway, service, {key: gateway.thing(key, key) for key in (KEY, OTHER)})


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    yield shared_site
    shared_site.gateway.check_at_rest()
    for file in ("audit.jsonl", "log"):
        assert KEY not in (shared_site.gateway.folder / file).read_text()


@pytest.fixture(params=OPENERS)
def opener(request: pytest.FixtureRequest) -> Opener:
    if request.param == "node":
        request.getfixturevalue("node_ws")
    return OPENERS[request.param]


# --- messages ---------------------------------------------------------------------------------------------------------

MESSAGES: tuple[Message, ...] = (
    *("", b"", "a", "Grüße, 気温 🌡", b"\0\xff\x80"),
    # Where the length takes more bytes (RFC 6455, 5.2).
    *("x" * 125, "x" * 126, b"x" * 65_535, b"x" * 65_536),
)


def test_text_and_binary(site: Site, opener: Opener) -> None:
    with opener(site.caller(), f"/ws/echo{QUERY}") as socket:
        for message in MESSAGES:
            socket.send(message)
            assert socket.receive() == message
        for message in MESSAGES:
            socket.send(message)
        assert [socket.receive() for _ in MESSAGES] == list(MESSAGES)


def test_16_mb(site: Site, opener: Opener) -> None:
    content = random_bytes(16 * 1024 * 1024)
    with opener(site.caller(), "/ws/echo", fields=WITH_KEY) as socket:
        socket.send(content)
        assert socket.receive() == content


def test_ping_from_either_side(site: Site, opener: Opener) -> None:
    with opener(site.caller(), "/ws/ping", fields=WITH_KEY) as socket:
        assert socket.receive() == "pong"
        socket.ping()
        socket.send("after")
        assert socket.receive() == "after"


def test_fragments_stay_fragments(site: Site, node_ws: None) -> None:
    parts = ["one", "", "two", "three"]
    with open_with_websockets(site.caller(), "/ws/fragments", fields=WITH_KEY) as socket:
        socket.send_fragments(parts)
        # It ends with an empty fragment of its own, and so does the service.
        assert socket.receive_fragments() == [*parts, "", "|5", ""]
    with open_with_node(site.caller(), "/ws/fragments", fields=WITH_KEY) as node:
        node.send_fragments(parts)
        assert node.receive() == "onetwothree|4"


def test_deflate_is_agreed_on_end_to_end(site: Site, opener: Opener) -> None:
    text, ended = "the same again and again, " * 40_000, len(site.gateway.audit())
    with opener(site.caller(), "/ws/who", fields=WITH_KEY, compress=True) as socket:
        assert socket.extensions == "permessage-deflate"
        assert who(socket)["extensions"] == ["permessage-deflate"]
        socket.send(text)
        assert socket.receive() == text
        socket.close(1000, "")
    wait_until(lambda: len(site.gateway.audit()) > ended, "the record of its end")
    record = site.gateway.audit()[-1]
    assert 1000 < record["from_client"] < len(text) / 20
    assert 1000 < record["to_client"] < len(text) / 20


def test_no_deflate_unless_the_client_wants_it(site: Site, opener: Opener) -> None:
    with opener(site.caller(), "/ws/who", fields=WITH_KEY) as socket:
        assert socket.extensions == ""
        assert who(socket)["extensions"] == []


def test_subprotocols(site: Site, opener: Opener) -> None:
    with opener(site.caller(), "/ws/who", fields=WITH_KEY, protocols=("mqtt", "senml.v1")) as socket:
        assert socket.protocol == "senml.v1"
        assert dict(who(socket)["fields"])["sec-websocket-protocol"].replace(" ", "") == "mqtt,senml.v1"


def test_ends_of_either_side(site: Site, opener: Opener) -> None:
    with opener(site.caller(), "/ws/leave", fields=WITH_KEY) as socket:
        assert socket.end() == (4321, "enough of it")
    with opener(site.caller(), "/ws/mine", fields=WITH_KEY) as socket:
        assert socket.close(4000, "that is all") == (4000, "that is all")
    wait_until(lambda: "/ws/mine" in site.service.closed, "the service has seen the end")
    assert site.service.closed.pop("/ws/mine") == (4000, "that is all")


# --- who may open one -------------------------------------------------------------------------------------------------


def who(socket: WebSocket) -> dict[str, Any]:
    """What the service says first at /ws/who."""
    told: dict[str, Any] = json.loads(socket.receive())
    return told


@pytest.mark.parametrize("opener", ["websockets", "aiohttp"], indirect=True)
@pytest.mark.parametrize(
    ("query", "fields"),
    [
        (QUERY, {}),
        ("", WITH_KEY),
        (QUERY, {"Authorization": f"Bearer {KEY}"}),
        (f"?authorization=Thing%20{KEY}", {}),
        (f"?Authorization=%32{KEY[1:]}&", {}),
    ],
    ids=["query", "header", "both", "word", "encoded"],
)
def test_with_the_key(site: Site, opener: Opener, query: str, fields: dict[str, str]) -> None:
    """However it came, the service gets it in the header and nowhere else."""
    with opener(site.caller(), f"/ws/who{query}", fields=fields) as socket:
        told = who(socket)
    assert told["target"] == "/ws/who"
    assert [value for name, value in told["fields"] if name == "authorization"] == [KEY]


def test_what_else_is_in_the_query_stays(site: Site, opener: Opener) -> None:
    asked = len(site.service.asked)
    with opener(site.caller(), f"/ws/echo?a=1&authorization={KEY}&b=%20") as socket:
        socket.send("hello")
        assert socket.receive() == "hello"
    assert site.service.asked[asked:] == ["/ws/echo?a=1&b=%20"]


@pytest.mark.parametrize("opener", ["websockets", "aiohttp"], indirect=True)
@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("", {}),
        ("?authorization=wrong", {}),
        (f"?authorization={KEY.upper()}", {}),
        ("", {"Authorization": "wrong"}),
        ("?authorization=wrong", WITH_KEY),
        (QUERY, {"Authorization": "wrong"}),
        (f"?authorization={OTHER}", {}),
    ],
    ids=["neither", "query", "case", "header", "query, not header", "header, not query", "another's"],
)
def test_without_the_key(site: Site, opener: Opener, query: str, fields: dict[str, str]) -> None:
    asked = len(site.service.asked)
    with pytest.raises(Refused) as refused, opener(site.caller(), f"/ws/who{query}", fields=fields):
        pass
    assert refused.value.status == 403
    assert len(site.service.asked) == asked


def test_without_a_certificate(site: Site, opener: Opener) -> None:
    asked = len(site.service.asked)
    for path in ("/ws/who", "/lax", "/id"):
        with pytest.raises(Refused) as refused, opener(site.caller(None), path + QUERY, fields=WITH_KEY):
            pass
        assert refused.value.status == 403
    assert len(site.service.asked) == asked


def test_where_the_key_is_optional(site: Site, opener: Opener) -> None:
    asked = len(site.service.asked)
    for query in ("", QUERY):
        with opener(site.caller(), f"/lax{query}") as socket:
            socket.send("hello")
            assert socket.receive() == "hello"
    with pytest.raises(Refused) as refused, opener(site.caller(), "/lax?authorization=wrong"):
        pass
    assert refused.value.status == 403
    # This route forwards the query as it is.
    assert site.service.asked[asked:] == ["/lax", f"/lax{QUERY}"]


def test_where_there_is_no_certificate_to_compare_with(site: Site, opener: Opener) -> None:
    for path, certificate in (("/open", None), ("/open", KEY), ("/id", OTHER)):
        with opener(site.caller(certificate), f"{path}?authorization=token") as socket:
            socket.send("hello")
            assert socket.receive() == "hello"


def test_where_there_are_no_websockets(site: Site, opener: Opener) -> None:
    asked = len(site.service.asked)
    with pytest.raises(Refused) as refused, opener(site.caller(), f"/plain{QUERY}"):
        pass
    assert refused.value.status == 403
    assert len(site.service.asked) == asked


def test_a_service_that_refuses(site: Site, opener: Opener) -> None:
    with pytest.raises(Refused) as refused, opener(site.caller(), f"/ws/refuse{QUERY}"):
        pass
    assert refused.value.status == 403
    assert refused.value.body in ('{"reason": "this channel is closed"}', "")
    assert site.service.asked[-1] == "/ws/refuse"


def test_two_things_are_never_mixed(site: Site, opener: Opener) -> None:
    with ExitStack() as stack:
        sockets = {}
        for key in (KEY, OTHER, KEY, OTHER):
            socket = stack.enter_context(opener(site.caller(key), f"/ws/who?authorization={key}"))
            told = who(socket)
            assert dict(told["fields"])["authorization"] == key
            sockets[socket] = key
        for number in range(20):
            for at, (socket, key) in enumerate(sockets.items()):
                socket.send(f"{at} {key} {number}")
        for number in range(20):
            for at, (socket, key) in enumerate(sockets.items()):
                assert socket.receive() == f"{at} {key} {number}"


def test_the_seeds_program(site: Site, node_ws: None) -> None:
    """Of the chapter on mutual authentication; it prints what it gets, as Node prints bytes."""
    certificate, key = map(str, site.certificates[KEY])
    command = ["node", str(NODE_SCRIPTS / "seed.js"), str(site.gateway.https_port), CHANNEL, KEY, certificate, key]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False, text=True)
    assert done.stdout == "<Buffer 73 6f 6d 65 74 68 69 6e 67>\n", done.stderr
    assert site.service.asked[-1] == f"/ws/channels/{CHANNEL}/messages"
    command[4] = "another-key"
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False, text=True)
    assert "Unexpected server response: 403" in done.stdout


# --- ends of the gateway's making -------------------------------------------------------------------------------------


def openers() -> list[Opener]:
    """For one test of all of them: Node's where it is there."""
    return [opener for name, opener in OPENERS.items() if name != "node" or not missing_for_node()]


def test_a_certificate_expires(site: Site) -> None:
    files = site.gateway.thing("short-lived", "short-lived", valid=(-1, 4 / 86_400))
    caller, path, began = Caller.of(site.gateway, files), "/ws/expired?authorization=short-lived", time.monotonic()
    with ExitStack() as stack:
        sockets = [stack.enter_context(opener(caller, path)) for opener in openers()]
        for socket in sockets:
            socket.send("before")
            assert socket.receive() == "before"
        for socket in sockets:
            code, reason = socket.end()
            assert code == 1008
            assert "expired" in reason
    # A certificate's time has no parts of a second.
    assert 2 < time.monotonic() - began < 7


@pytest.fixture
def ending(tmp_path: Path) -> Iterator[Site]:
    """A gateway that ends who is idle for a second."""
    with WebSocketService.running() as service:
        sections: Sections = {"route:main": {"upstream": service.url}, "limits": {"idle_timeout": 1}}
        with RunningGateway.https(tmp_path, sections) as gateway:
            yield Site(gateway, service, {KEY: gateway.thing(KEY)})


def test_idle_and_then_the_end_of_the_gateway(ending: Site) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(opener(ending.caller(), f"/ws/idle{QUERY}")) for opener in openers()]
        for socket in idle:
            code, reason = socket.end()
            assert code == 1001
            assert "idle" in reason
    with ExitStack() as stack:
        sockets = [stack.enter_context(opener(ending.caller(), f"/ws/busy{QUERY}")) for opener in openers()]
        for socket in sockets:
            socket.send("before")
            assert socket.receive() == "before"
        began = time.monotonic()
        assert ending.gateway.process is not None
        ending.gateway.process.terminate()
        for socket in sockets:
            code, reason = socket.end()
            assert code == 1001
            assert "shutting down" in reason
        assert ending.gateway.process.wait(PATIENCE) == 0
        assert time.monotonic() - began < 4
