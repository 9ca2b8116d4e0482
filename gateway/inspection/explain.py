"""Whether a client of PostgreSQL, of HTTPS or of a tunnel would be let in, and what decides that.

Owns what such a client would send, up to where the gateway would open the way to an upstream or has refused. The
decision is the session's own.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Final

from gateway.doors import State
from gateway.inspection.explanation import (
    Client,
    Entrance,
    Explanation,
    denying,
    directly,
    known,
    of_registry,
    place,
)
from gateway.inspection.rehearsal import Rehearsal
from gateway.policy import Policy
from gateway.routes import Route
from gateway.session.vocabulary import Asked, Data, Opened, Passage, RequestRecord, Side, Sniffed
from gateway.settings import HTTPSListener, PostgresListener, Tunnel
from gateway.things import channel_of
from gateway.upstream import is_ip
from gateway.wire import postgres as wire

# Where a ClientHello begins, and where an SSLRequest does.
_HELLO, _CLEAR = b"\x16", b"\0"
_NO_WORD: Final = "the gateway has not decided yet"
# Once a thing is let in: it may not, and there is no such channel. What else is wrong with its request has another
# status, and is not the registry's to say.
_OF_THE_REGISTRY: Final = (403, 404)


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoginAttempt:
    """What a client of PostgreSQL says. replication: it asks for that, not for the database."""

    user: str
    database: str
    token: bytes = field(repr=False)
    replication: bool = False

    def startup(self) -> bytes:
        parameters = {b"user": self.user.encode(), b"database": self.database.encode()}
        if self.replication:
            parameters[b"replication"] = b"true"
        return wire.startup_message(parameters)


@directly
def postgres(state: State, listener: PostgresListener, client: Client, login: LoginAttempt) -> Explanation:
    section = f"postgres:{listener.name}"
    entrance = Entrance(state, section, listener.tls, client)
    rehearsal = entrance.rehearsal
    rehearsal.tell(Opened(client.where))
    rehearsal.tell(Sniffed(_CLEAR))
    rehearsal.tell(Data(Side.CLIENT, wire.SSL_REQUEST))
    refused = entrance.shake_hands()
    if refused is not None:
        return refused
    for said in (login.startup(), wire.password_message(login.token)):
        if rehearsal.refusal is None:
            rehearsal.tell(Data(Side.CLIENT, said))
    policy: Policy = state.access[section].policy
    facts, allowed = rehearsal.facts, rehearsal.dialed is not None
    notes = entrance.notes
    if allowed and not any(rule.superuser for rule in policy.rules if place(rule) == facts.rule):
        notes += ("Whether the role is a superuser, which this rule does not allow, only the database can tell.",)
    return Explanation(
        allowed,
        section,
        None if allowed else rehearsal.refusal or _NO_WORD,
        facts.rule or denying(rehearsal.refusal, section, policy.rules),
        known(
            subject=facts.subject,
            jti=facts.jti,
            database=None if login.replication else facts.database,
            role=facts.role,
            upstream=facts.upstream,
        ),
        notes,
    )


# --- HTTPS ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WebRequest:
    """host: as in Host, with its port. target: path and query. authorization: as in that field, in whole.

    websocket: it asks for one, with that sub-protocol if there is one.
    """

    method: str
    host: str
    target: str
    authorization: bytes | None = field(default=None, repr=False)
    websocket: bool = False
    protocol: str = ""

    @property
    def name(self) -> str | None:
        """What TLS is asked for (RFC 6066, 3: no IP address)."""
        bracketed = self.host.startswith("[")
        name = self.host if bracketed else self.host.partition(":")[0]
        return None if bracketed or is_ip(name) else name

    def head(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {self.host}"]
        if self.websocket:
            key = base64.b64encode(bytes(16)).decode("ascii")
            lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
            lines += [f"Sec-WebSocket-Key: {key}"]
            lines += [f"Sec-WebSocket-Protocol: {self.protocol}"] if self.protocol else []
        elif self.method not in ("GET", "HEAD"):
            lines += ["Content-Length: 0"]
        head = "".join(f"{line}\r\n" for line in lines).encode("utf-8")
        return head + (b"" if self.authorization is None else b"Authorization: %b\r\n" % self.authorization) + b"\r\n"


@directly
def http(state: State, listener: HTTPSListener, client: Client, request: WebRequest) -> Explanation:
    section = f"https:{listener.name}"
    entrance = Entrance(state, section, listener.tls, client)
    rehearsal = entrance.rehearsal
    rehearsal.tell(Opened(client.where))
    rehearsal.tell(Sniffed(_HELLO))
    refused = entrance.shake_hands(b"http/1.1", request.name)
    if refused is not None:
        return refused
    rehearsal.tell(Data(Side.CLIENT, request.head()))
    allowed = _lets_through(rehearsal)
    dialed = rehearsal.dialed
    # What becomes of the request is told when its connection ends, at the latest.
    rehearsal.end()
    records = rehearsal.said(RequestRecord)
    record = records[0] if records else RequestRecord(Asked(), Passage())
    route = next((one for one in state.config.routes if one.name == record.passage.route), None)
    notes = entrance.notes
    if allowed and route is not None and route.serve == "mqtt":
        notes += ("MQTT itself decides about the CONNECT inside: see `securegw explain mqtt`.",)
    rule, let_in_by = _deciding(record, route, allowed=allowed)
    return Explanation(
        allowed,
        section,
        None if allowed else record.reason or rehearsal.refusal or _NO_WORD,
        rule,
        known(
            let_in_by=let_in_by,
            route=f"[route:{route.name}]" if route else None,
            subject=record.passage.subject,
            serial=record.passage.serial,
            upstream=str(dialed.address) if dialed else None,
            status=None if allowed or not record.status else str(record.status),
        ),
        notes,
    )


def _deciding(record: RequestRecord, route: Route | None, *, allowed: bool) -> tuple[str | None, str | None]:
    """The line, or the connection in the registry; in that case also the line that let the thing in."""
    if route is None:
        return None, None
    rule = record.passage.rule
    if rule is None:
        return denying(record.reason, f"route:{route.name}", route.admission.rules), None
    if route.serve != "channels":
        return rule, None
    channel = channel_of(record.asked.path.removeprefix(route.path).removeprefix("/"))
    if channel is None or not (allowed or record.status in _OF_THE_REGISTRY):
        return None, rule
    return of_registry(record.passage.subject, channel), rule


def _lets_through(rehearsal: Rehearsal) -> bool:
    """To an upstream; or, where it is served here, with what was asked for."""
    return rehearsal.dialed is not None or any(one.status in (101, 202) for one in rehearsal.said(RequestRecord))


# --- tunnels --------------------------------------------------------------------------------------------------------


@directly
def tunnel(state: State, listener: Tunnel, client: Client) -> Explanation:
    section = f"tunnel:{listener.name}"
    entrance = Entrance(state, section, listener.tls, client)
    rehearsal = entrance.rehearsal
    rehearsal.tell(Opened(client.where))
    if listener.tls is not None:
        refused = entrance.shake_hands(listener.alpn[0] if listener.alpn else b"")
        if refused is not None:
            return refused
    facts, allowed = rehearsal.facts, rehearsal.dialed is not None
    return Explanation(
        allowed,
        section,
        None if allowed else rehearsal.refusal or _NO_WORD,
        facts.rule or denying(rehearsal.refusal, section, listener.admission.rules),
        known(subject=facts.subject, serial=facts.serial, upstream=facts.upstream),
        entrance.notes,
    )
