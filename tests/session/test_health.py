"""The health listener as transcripts: what it says, and that nothing else can be had from it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.session.health import Health, HealthSession
from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Dialed,
    Ended,
    Event,
    Killed,
    Lost,
    Opened,
    Reloaded,
    SetDeadline,
    ShuttingDown,
    Side,
    Sniffed,
    TimedOut,
)
from gateway.upstream import Address

LOCAL = Address("127.0.0.1", 40000)
WELL = Health(ready=True, last_reload_failed=False, connections=3)
READY, LIVE = "/.well-known/securegw/health", "/.well-known/securegw/health/live"


class Answer:
    """The one response in a farewell, taken apart by hand."""

    def __init__(self, response: bytes) -> None:
        head, end, self.body = response.partition(b"\r\n\r\n")
        assert end
        first, *lines = head.decode("ascii").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        self.status = int(status)
        self.fields = dict(line.split(": ", 1) for line in lines)
        assert len(self.fields) == len(lines)

    @property
    def said(self) -> Any:
        assert int(self.fields["Content-Length"]) == len(self.body)
        return json.loads(self.body)


class Conversation:
    """One session from Opened on."""

    def __init__(self, health: Health = WELL, *, over_limit: bool = False) -> None:
        self.health = health
        self.session = HealthSession(lambda: self.health)
        self.opening = self.tell(Opened(LOCAL, over_limit))

    def tell(self, event: Event) -> list[Command]:
        return list(self.session.handle(event))

    def send(self, data: bytes) -> list[Command]:
        return self.tell(Data(Side.CLIENT, data))

    def end(self, event: Event) -> Close:
        """What that event ends it with; nothing comes after."""
        (close,) = self.tell(event)
        assert isinstance(close, Close)
        assert self.send(b"GET / HTTP/1.1\r\n") == []
        return close

    def ask(self, request: bytes) -> Answer:
        return Answer(self.end(Data(Side.CLIENT, request)).farewell)


def request(path: str, method: str = "GET", *more: str, version: str = "HTTP/1.1") -> bytes:
    lines = (f"{method} {path} {version}", "Host: localhost:8081", *more)
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


def test_ready() -> None:
    talk = Conversation()
    assert talk.opening == [SetDeadline(5.0)]
    answer = talk.ask(request(READY))
    assert (answer.status, answer.said) == (200, {"status": "ready", "reload": "ok", "connections": 3})
    assert talk.session.facts.decision == "allowed"


@pytest.mark.parametrize("path", [READY, LIVE, "/"])
def test_every_answer_is_the_last_and_kept_by_nobody(path: str) -> None:
    fields = Conversation().ask(request(path)).fields
    assert (fields["Connection"], fields["Cache-Control"]) == ("close", "no-store")
    assert fields["Content-Type"] == "application/json"


def test_draining() -> None:
    answer = Conversation(Health(False, False, 3)).ask(request(READY))
    assert (answer.status, answer.said) == (503, {"status": "draining", "reload": "ok", "connections": 3})


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
def test_a_reload_that_failed_is_told_and_changes_nothing_else(ready: bool, status: int) -> None:
    answer = Conversation(Health(ready, True, 3)).ask(request(READY))
    assert (answer.status, answer.said["reload"]) == (status, "failed")


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
def test_records_that_are_lost_are_told_and_keep_nobody_out(ready: bool, status: int) -> None:
    answer = Conversation(Health(ready, False, 3, audit_failing=True)).ask(request(READY))
    assert (answer.status, answer.said["audit"]) == (status, "failed")


@pytest.mark.parametrize(("known", "told"), [(True, "ok"), (False, "away")])
def test_where_there_is_a_registry_it_is_told_how_it_is(known: bool, told: str) -> None:
    """What is known of things counts for a while, so who comes in is not turned away."""
    answer = Conversation(Health(True, False, 3, registry=known)).ask(request(READY))
    assert (answer.status, answer.said) == (
        200,
        {"status": "ready", "reload": "ok", "connections": 3, "registry": told},
    )
    answer = Conversation(Health(False, False, 3, registry=known)).ask(request(READY))
    assert (answer.status, answer.said["registry"]) == (503, told)


@pytest.mark.parametrize(("known", "told"), [(True, "ok"), (False, "away")])
def test_keys_that_are_fetched_are_told_of(known: bool, told: str) -> None:
    answer = Conversation(Health(True, False, 3, keys=known)).ask(request(READY))
    assert (answer.status, answer.said) == (
        200,
        {"status": "ready", "reload": "ok", "connections": 3, "keys": told},
    )


@pytest.mark.parametrize("health", [WELL, Health(False, True, 0), Health(True, False, 0, registry=False)])
def test_live_is_live_whatever_else_is_wrong(health: Health) -> None:
    answer = Conversation(health).ask(request(LIVE))
    assert (answer.status, answer.said) == (200, {"status": "live"})


def test_what_is_told_is_how_it_is_now() -> None:
    talk = Conversation()
    talk.send(b"GET ")
    talk.health = Health(False, False, 9)
    assert talk.ask(request(READY)[4:]).said == {"status": "draining", "reload": "ok", "connections": 9}


@pytest.mark.parametrize("path", [READY, LIVE, "/"])
def test_head_is_get_without_the_body(path: str) -> None:
    got, head = (Conversation().ask(request(path, method)) for method in ("GET", "HEAD"))
    assert head.body == b""
    assert (head.status, head.fields) == (got.status, got.fields)


def test_a_request_may_come_in_pieces() -> None:
    talk = Conversation()
    data = request(READY)
    for byte in data[:-1]:
        assert talk.send(bytes([byte])) == []
    assert talk.ask(data[-1:]).status == 200


def test_what_follows_the_first_request_is_not_read() -> None:
    talk = Conversation()
    assert talk.ask(request(READY) + request("/secret", "DELETE")).status == 200


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("path", [READY + "?verbose=1", READY + "?"])
def test_old_versions_and_queries_will_do(version: str, path: str) -> None:
    assert Conversation().ask(request(path, version=version)).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/",
        READY + "/",
        READY + "/ready",
        LIVE + "/",
        READY.upper(),
        READY.replace("health", "%68ealth"),
        "//" + READY[1:],
        "/." + READY,
        "/x/.." + READY,
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_paths_are_nothing(path: str, method: str) -> None:
    assert Conversation().ask(request(path, method)).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", [READY, LIVE])
def test_other_methods_do_nothing(path: str, method: str) -> None:
    answer = Conversation().ask(request(path, method, "Content-Length: 0"))
    assert (answer.status, answer.fields["Allow"]) == (405, "GET, HEAD")


def test_only_a_405_says_what_would_do() -> None:
    assert "Allow" not in Conversation().ask(request("/")).fields


@pytest.mark.parametrize("body", ["Content-Length: 1", "Content-Length: 99999999999", "Transfer-Encoding: chunked"])
def test_no_body_is_taken(body: str) -> None:
    assert Conversation().ask(request(READY, "GET", body)).status == 413


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET\r\n\r\n", 400),
        (request(READY).replace(b"\r\n", b"\n"), 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (request(READY, "GET", "Host: other"), 400),
        (request(READY, "GET", "Content-Length: 0", "Transfer-Encoding: chunked"), 400),
        (request(READY, "GET", "A : b"), 400),
        (f"GET {READY} HTTP/1.1\r\n\r\n".encode(), 400),
        (request(READY, "BREW"), 501),
        (request(READY, version="HTTP/2.0"), 505),
        (request(READY, "GET", "A: " + "b" * 40_000), 431),
        (request(READY, "GET", *(f"A{n}: b" for n in range(101))), 431),
        (b"x" * 70_000, 431),
    ],
)
def test_bad_requests(data: bytes, status: int) -> None:
    talk = Conversation()
    answer = talk.ask(data)
    assert answer.status == status
    assert answer.said["status"] == status
    assert talk.session.facts.decision == "refused"


def test_an_endless_head_is_cut_at_its_bound() -> None:
    talk = Conversation()
    sent = 0
    while not (commands := talk.send(b"A: " + b"b" * 1000 + b"\r\n")):
        sent += 1000
        assert sent < 40_000
    (close,) = commands
    assert isinstance(close, Close)
    assert Answer(close.farewell).status == 431


@pytest.mark.parametrize("sent", [b"", b"GET /.well"])
def test_a_slow_request_is_told_so(sent: bytes) -> None:
    talk = Conversation()
    if sent:
        talk.send(sent)
    assert Answer(talk.end(TimedOut()).farewell).status == 408


def test_over_the_limit() -> None:
    talk = Conversation(over_limit=True)
    (close,) = talk.opening
    assert isinstance(close, Close)
    assert Answer(close.farewell).status == 503
    assert talk.send(request(READY)) == []


def test_who_has_not_asked_yet_does_not_hold_up_a_shutdown() -> None:
    answer = Answer(Conversation().end(ShuttingDown()).farewell)
    assert (answer.status, answer.said) == (503, {"status": "draining"})


def test_a_reload_is_none_of_its_business_and_a_kill_is() -> None:
    talk = Conversation()
    assert talk.tell(Reloaded()) == []
    assert talk.end(Killed("killed by an operator")) == Close("killed by an operator")
    assert talk.tell(Reloaded()) == talk.tell(Killed("again")) == []


def test_a_client_that_goes_away() -> None:
    assert Conversation().end(Lost(Side.CLIENT, "reset")) == Close("reset")


def test_what_is_refused_is_not_told_back() -> None:
    """No reflection: what somebody else put into the request of a browser is not in the answer."""
    close = Conversation().end(Data(Side.CLIENT, request("/<script>", "GET", "X: marker")))
    for answer in (close.farewell, Conversation().ask(request("/marker")).body):
        assert b"script" not in answer
        assert b"marker" not in answer


EVENTS = (
    st.sampled_from(
        [Opened(LOCAL), TimedOut(), Dialed(), ShuttingDown(), Sniffed(b"G"), Lost(Side.CLIENT, "x"), Ended()]
    )
    | st.sampled_from([request(READY), request(READY)[:20], b"\r\n\r\n"]).map(lambda data: Data(Side.CLIENT, data))
    | st.binary(max_size=60).map(lambda data: Data(Side.CLIENT, data))
)


@settings(deadline=None)
@given(st.lists(EVENTS, max_size=8))
def test_never_raises_and_ends_once(events: list[Event]) -> None:
    talk = Conversation()
    closes = 0
    for event in (*events, Ended()):
        for command in talk.tell(event):
            assert not closes
            assert isinstance(command, Close)
            closes += 1
