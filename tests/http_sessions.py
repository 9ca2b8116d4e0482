"""What the tests of the HTTP session talk with: routes, certificates, and a conversation that stands for the driver.

Messages are built and read here by hand, never by the code under test. Whatever is said in a conversation is held to
what must be true of all of them: see `Conversation.tell`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.serialization import Encoding

from gateway.admission import Admission, parse_admission_rule
from gateway.routes import Route, Routes
from gateway.session.access import HTTPAccess
from gateway.session.backends import Backends
from gateway.session.http import HTTPSession
from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Dial,
    Dialed,
    Ended,
    Event,
    HangUp,
    Hold,
    Lost,
    Opened,
    Proceed,
    Release,
    RequestRecord,
    Reuse,
    Secured,
    Send,
    SetDeadline,
    Side,
    Sniffed,
    Splice,
    TimedOut,
    TLSFacts,
)
from gateway.upstream import Address, ClientTLS, TLSMode, Upstream
from tests.pki import Issued, issue, make_ca

NOW = 1_700_000_000.0
CLIENT = Address("10.0.0.1", 40000)
HOST = "gw.example"
FIRST, SECOND, THIRD = (Address(f"web{n}.example", 8080) for n in (1, 2, 3))

KEY = "thing-key-4711"
CA = make_ca()
THING = issue(CA, KEY)
METER = issue(CA, "meter-7", sans=["meter.example"])

# No two alike, so that a test sees which of them a deadline is.
HANDSHAKE, HEAD, BODY, KEEPALIVE, GRACE, CONNECT, RESPONSE = 31.0, 32.0, 33.0, 34.0, 35.0, 36.0, 37.0


def der(issued: Issued = THING) -> bytes:
    return issued.certificate.public_bytes(Encoding.DER)


def shown(issued: Issued = THING, expires: float = NOW + 600, server_name: str | None = None) -> TLSFacts:
    """A handshake with that client certificate."""
    return TLSFacts("TLSv1.3", b"http/1.1", server_name, der(issued), expires, (b"issuer",))


def nameless(server_name: str | None = None) -> TLSFacts:
    """A handshake without one."""
    return TLSFacts("TLSv1.3", b"http/1.1", server_name)


def rules(*lines: str) -> Admission:
    return Admission(tuple(parse_admission_rule(line, "rules:1", lambda _: frozenset({b"issuer"})) for line in lines))


def upstream(*addresses: Address, name: str = "main", mode: TLSMode = TLSMode.DISABLE) -> Upstream:
    return Upstream(f"route:{name}", addresses or (FIRST,), ClientTLS(mode), connect_timeout=CONNECT)


def route(*lines: str, **given: Any) -> Route:
    """One that takes everything, for everybody; `lines` are its rules."""
    name = given.get("name", "main")
    defaults: dict[str, Any] = {
        "name": name,
        "listeners": ("main",),
        "hosts": (),
        "path": "",
        "upstream": upstream(name=name),
        "admission": rules(*(lines or ("allow all all",))),
        "response_timeout": RESPONSE,
    }
    return Route(**(defaults | given))


def access(*routes: Route) -> HTTPAccess:
    return HTTPAccess(Routes(routes or (route(),)), HANDSHAKE, HEAD, BODY, KEEPALIVE, GRACE)


# --- messages, by hand -----------------------------------------------------------------------------------------------


def request(target: str = "/", *lines: str, method: str = "GET", body: bytes = b"", version: str = "1.1") -> bytes:
    """A head with Host, unless one of the lines is, and what is sent behind it."""
    host = () if any(line.lower().startswith("host:") for line in lines) else (f"Host: {HOST}",)
    return "\r\n".join((f"{method} {target} HTTP/{version}", *host, *lines, "", "")).encode("latin-1") + body


def response(status: str = "200 OK", *lines: str, body: bytes = b"", version: str = "1.1") -> bytes:
    return "\r\n".join((f"HTTP/{version} {status}", *lines, "", "")).encode("latin-1") + body


def sized(body: bytes = b"ok", *lines: str, status: str = "200 OK") -> bytes:
    return response(status, f"Content-Length: {len(body)}", *lines, body=body)


def chunks(*pieces: bytes, trailers: str = "") -> bytes:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return framed + b"0\r\n" + trailers.encode("ascii") + b"\r\n"


class Message(NamedTuple):
    """One message; `body` is all that follows its head."""

    first: str
    fields: list[tuple[str, str]]
    body: bytes

    @property
    def status(self) -> int:
        return int(self.first.split(" ", 2)[1])

    @property
    def target(self) -> str:
        return self.first.split(" ")[1]

    def all(self, name: str) -> list[str]:
        """The values of that field; names of fields in `_` are what some servers make of `-`."""
        return [value for found, value in self.fields if found.lower().replace("_", "-") == name.lower()]

    def one(self, name: str) -> str | None:
        found = self.all(name)
        assert len(found) < 2
        return found[0] if found else None

    @property
    def said(self) -> Any:
        """Of an answer of the gateway's own."""
        assert self.one("Content-Type") == "application/json"
        assert int(self.one("Content-Length") or "") == len(self.body)
        return json.loads(self.body)


def message(data: bytes) -> Message:
    head, end, body = data.partition(b"\r\n\r\n")
    assert end, data
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = [line.split(": ", 1) for line in lines]
    assert all(len(field) == 2 and field[0].strip() == field[0] for field in fields), lines
    return Message(first, [(name, value) for name, value in fields], body)


# --- the conversation ------------------------------------------------------------------------------------------------


class House:
    """Implements Questions. at_rest: names of idle connections, one for each time that it is there."""

    def __init__(self, *at_rest: Address, room: bool = True) -> None:
        self.at_rest = [str(one) for one in at_rest]
        self.room = room
        self.counted: list[str] = []
        self.trusts = True

    def admit(self, subject: str) -> bool:
        self.counted.append(subject)
        return self.room

    def renew(self) -> bool:
        return self.trusts

    def trusted(self) -> bool:
        return self.trusts

    def idle(self, dial: Dial) -> bool:
        assert dial.name is not None
        return dial.name[1] in self.at_rest

    def tell(self, event: Event) -> None:
        raise AssertionError(f"nobody else is there to tell it of {event}")

    def deliver(self, data: bytes) -> None:
        raise AssertionError("nobody else has anything for it")

    def congested(self) -> bool:
        raise AssertionError("a session with an upstream leaves that to the driver")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Conversation:
    """One session from Opened to the end of its handshake; then as the test goes on.

    `commands` is all that it has ever answered; `deadline` what was set last; `held`: the client is not read;
    `linked`: there is an upstream connection; `spliced`, `closed`: how it has ended. secrets: of which nothing may be
    in the repr of anything said.
    """

    def __init__(
        self,
        current: HTTPAccess | None = None,
        tls: TLSFacts | None = None,
        *,
        house: House | None = None,
        clock: Clock | None = None,
        backends: Backends | None = None,
        client: Address = CLIENT,
        over_limit: bool = False,
        secrets: Sequence[str] = (KEY,),
        secured: bool = True,
    ) -> None:
        self.access = current or access()
        self.house, self.clock = house or House(), clock or Clock()
        self.backends = backends or Backends(self.clock)
        self.session = HTTPSession(lambda: self.access, self.backends, self.house, self.clock)
        self.secrets = secrets
        self.commands: list[Command] = []
        self.events: list[Event] = []
        self.deadline: float | None = None
        self.held = self.linked = False
        self.spliced: Splice | None = None
        self.closed: Close | None = None
        self.tell(Opened(client, over_limit))
        if secured:
            self.tell(Sniffed(b"\x16"))
            self.tell(Secured(Side.CLIENT, tls or shown()))

    def tell(self, event: Event) -> list[Command]:
        """What it answers. Nothing is sent to an upstream that is not there, nor to anybody after the end; every wait
        has a deadline; no secret can be seen; and what was closed hears of its end, which leaves only records."""
        answer = list(self.session.handle(event))
        self.events.append(event)
        self.commands += answer
        if isinstance(event, Dialed):
            self.linked = True
        elif isinstance(event, Lost) and event.side is Side.UPSTREAM:
            self.linked = False
        for command in answer:
            self._run(command)
        seen = repr((event, answer, self.session.facts))
        assert not [secret for secret in self.secrets if secret in seen], seen
        if self.closed is None and self.spliced is None:
            assert self.deadline is not None
        if self.closed is not None and self.spliced is None and not isinstance(event, Ended):
            assert all(isinstance(last, RequestRecord) for last in self.tell(Ended()))
        return answer

    def _run(self, command: Command) -> None:
        assert self.closed is None or isinstance(command, RequestRecord), f"{command} after {self.closed}"
        match command:
            case SetDeadline(seconds):
                self.deadline = seconds
            case Hold() | Proceed():
                assert self.held is isinstance(command, Proceed)
                self.held = not self.held
            case Send(side, data):
                assert side is Side.CLIENT or (data and self.linked)
            case Splice():
                assert self.linked
                self.spliced = command
            case Close():
                self.closed = command
            case _:
                self._link(command)

    def _link(self, command: Command) -> None:
        """The upstream connection comes and goes."""
        match command:
            case Dial():
                self.linked = False
            case Reuse(dial):
                assert self.house.idle(dial)
                assert dial.name is not None
                self.house.at_rest.remove(dial.name[1])
                self.linked = True
            case Release():
                assert self.linked
                self.linked = False
            case HangUp():
                self.linked = False

    # --- what happens ------------------------------------------------------------------------------------------------

    def client(self, data: bytes) -> list[Command]:
        return self.tell(Data(Side.CLIENT, data))

    def upstream(self, data: bytes) -> list[Command]:
        return self.tell(Data(Side.UPSTREAM, data))

    def ask(self, data: bytes) -> Conversation:
        """Up to where the upstream has got it, over a connection of its own."""
        self.client(data)
        self.tell(Dialed())
        assert self.sent(Side.UPSTREAM)
        return self

    def lose(self, side: Side, *, orderly: bool = False) -> list[Command]:
        return self.tell(Lost(side, "it broke", orderly=orderly))

    def time_out(self, stalled: Side | None = None) -> list[Command]:
        return self.tell(TimedOut(stalled))

    # --- what came of it ---------------------------------------------------------------------------------------------

    def of(self, kind: type[Any]) -> list[Any]:
        return [command for command in self.commands if isinstance(command, kind)]

    def sent(self, side: Side) -> bytes:
        """All of it, with what was said at the end."""
        data = b"".join(send.data for send in self.of(Send) if send.side is side)
        return data + (self.closed.farewell if self.closed and side is Side.CLIENT else b"")

    def of_upstream(self) -> list[bytes]:
        """Each write to an upstream."""
        return [send.data for send in self.of(Send) if send.side is Side.UPSTREAM]

    @property
    def dials(self) -> list[Address]:
        """Where connections were made."""
        return [dial.address for dial in self.of(Dial)]

    @property
    def asked(self) -> Message:
        """What the upstream got."""
        return message(self.sent(Side.UPSTREAM))

    @property
    def answered(self) -> Message:
        """What the client got."""
        return message(self.sent(Side.CLIENT))

    @property
    def record(self) -> RequestRecord:
        (record,) = self.of(RequestRecord)
        assert isinstance(record, RequestRecord)
        return record

    def record_of_end(self) -> RequestRecord:
        """The record of the one request, which is given up now."""
        self.lose(Side.CLIENT)
        return self.record

    def refused(self, status: int) -> str:
        """The true reason. The client was told of that status in JSON and nothing was dialed for it."""
        assert not self.of(Dial)
        assert not self.of(Reuse)
        assert self.record.decision == "refused"
        return self.failed(status)

    def failed(self, status: int) -> str:
        """The true reason. The client was told of that status in JSON, and is gone."""
        assert self.closed is not None
        assert not self.closed.broken
        answer = message(self.closed.farewell)
        assert answer.status == status == self.record.status
        assert answer.said["status"] == status
        assert set(answer.said) == {"status", "error"}
        assert answer.one("Connection") == "close"
        assert self.record.reason
        return self.record.reason


def talk(*lines: str, tls: TLSFacts | None = None, **given: Any) -> Conversation:
    """With one route like that (see `route`)."""
    return Conversation(access(route(*lines, **given)), tls)
