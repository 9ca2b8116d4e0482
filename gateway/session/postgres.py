"""One PostgreSQL client from its first byte to the splice: encryption, start-up, token, verdict, the upstream's login.

Owns the order in which these happen. Refuses whatever comes at another moment: nothing is dialed before the token is
verified and the policy has said yes, and the client hears AuthenticationOk only after the upstream said so to us.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any

from gateway.errors import Denied, ProtocolError, UpstreamError
from gateway.identity import Identity, serial_number
from gateway.policy import Allow
from gateway.session import postgres_answers as answers
from gateway.session.access import Access
from gateway.session.cancel import CancelKeys, CancelTarget
from gateway.session.postgres_cancel import CancelErrand, NotCancelled
from gateway.session.postgres_startup import Startup
from gateway.session.postgres_upstream import Link, Refused, UpstreamLogin
from gateway.session.postgres_verdict import NotAllowed, verdict
from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Dialed,
    Ended,
    Event,
    Expired,
    Facts,
    Idle,
    Killed,
    Lost,
    Opened,
    Questions,
    Reloaded,
    Secured,
    Send,
    SetDeadline,
    ShuttingDown,
    Side,
    Sniff,
    Sniffed,
    Splice,
    StartTLS,
    TimedOut,
    TLSFacts,
)
from gateway.tokens import certificate_bound
from gateway.upstream import Address
from gateway.wire import postgres as wire
from gateway.wire.postgres_framing import BackendFraming

ALPN = b"postgresql"
# What a client may send ahead of ReadyForQuery, after its password: an optimistic first query.
MAX_AHEAD = 65_536
_CANCEL_KEY_SIZE = {wire.PROTOCOL_3_0: 4, wire.PROTOCOL_3_2: 32}


class State(Enum):
    NEW = auto()
    FIRST_BYTE = auto()
    CLEAR = auto()  # before TLS: SSLRequest, GSSENCRequest, CancelRequest
    HANDSHAKE = auto()
    STARTUP = auto()  # inside TLS: StartupMessage or CancelRequest
    PASSWORD = auto()
    LINK = auto()  # on the way to one address of the upstream
    LOGIN = auto()
    OPEN = auto()
    CANCEL_LINK = auto()
    CANCEL_SENT = auto()
    CLOSED = auto()


_CLIENT_SPEAKS_TLS = (State.STARTUP, State.PASSWORD, State.LINK, State.LOGIN, State.OPEN)
_CANCELLING = (State.CANCEL_LINK, State.CANCEL_SENT)


class PostgresSession:
    """`handle(event) -> [command]`. questions: a subject is asked for once.

    current: the listener's Access now. A session is one of the time when it was opened, but what is believed and
    allowed is asked of the latest: a reload reaches who is still at the door. Whoever is inside already stays under the
    rules of then, but not with a token or a certificate that has been revoked since. clock: seconds since the epoch.
    """

    __slots__ = (
        "_access",
        "_addresses",
        "_allowed",
        "_asked",
        "_buffer",
        "_cancel_key",
        "_cancels",
        "_certified",
        "_client",
        "_clock",
        "_current",
        "_direct",
        "_errand",
        "_gssenc_refused",
        "_identity",
        "_last_answer",
        "_last_reason",
        "_link",
        "_login",
        "_over_limit",
        "_questions",
        "_state",
        "_tls",
        "_version",
        "facts",
    )

    def __init__(
        self,
        current: Callable[[], Access],
        cancels: CancelKeys,
        questions: Questions,
        clock: Callable[[], float],
    ) -> None:
        self.facts = Facts()
        self._current, self._cancels, self._questions, self._clock = current, cancels, questions, clock
        self._access = current()
        self._state = State.NEW
        self._client = Address("", 0)
        self._over_limit = self._direct = self._gssenc_refused = self._certified = False
        self._tls: TLSFacts | None = None
        self._buffer = bytearray()
        self._version = wire.PROTOCOL_3_0
        self._asked: Startup | None = None
        self._identity: Identity | None = None
        self._allowed: Allow | None = None
        self._addresses: list[Address] = []
        self._link: Link | None = None
        self._login: UpstreamLogin | None = None
        self._last_answer = answers.UNREACHABLE
        self._last_reason = "the upstream has no address"
        self._cancel_key: tuple[int, bytes] | None = None
        self._errand: CancelErrand | None = None

    def handle(self, event: Event) -> Sequence[Command]:
        if isinstance(event, Ended):
            return self._ended()
        if self._state is State.CLOSED:
            return []
        step = _ANY_TIME.get(type(event)) or _STEPS.get((self._state, _kind(event)))
        if step is None:
            return self._close(f"{_kind(event)} is not expected while {self._state.name}", answers.PROTOCOL_VIOLATION)
        try:
            return step(self, event)
        except ProtocolError as error:
            return self._close(f"protocol violation: {error}", answers.PROTOCOL_VIOLATION)
        except Denied as error:
            return self._close(f"authentication failed: {error}", answers.AUTHENTICATION_FAILED)
        except NotAllowed as error:
            return self._close(f"denied: {error}", answers.NOT_ALLOWED)
        except NotCancelled as error:
            return self._close(f"cancel: {error}")

    # --- ends -------------------------------------------------------------------------------------------------------

    def _close(self, reason: str, farewell: bytes = b"", patient: bool = False) -> list[Command]:
        """End it. Only a spliced session that is asked for patience goes on, until the driver ends it."""
        clear = self._state in (State.FIRST_BYTE, State.CLEAR)
        if not (clear or self._state in _CLIENT_SPEAKS_TLS):
            farewell = b""
        if not (patient and self._state is State.OPEN):
            self._state = State.CLOSED
        return [Close(reason, farewell, patient)]

    def _ended(self) -> list[Command]:
        self._state = State.CLOSED
        if self._cancel_key:
            self._cancels.revoke(*self._cancel_key)
            self._cancel_key = None
        return []

    def _lost_client(self, event: Lost) -> list[Command]:
        return self._close(event.reason)

    def _timed_out(self, _: TimedOut) -> list[Command]:
        if self._state in (State.LINK, State.LOGIN):
            return self._next_address("it took longer than connect_timeout", answers.UNREACHABLE)
        return self._close(f"timed out while {self._state.name}", answers.TOO_SLOW)

    def _shutting_down(self, _: ShuttingDown) -> list[Command]:
        return self._close("the gateway is shutting down", answers.SHUTTING_DOWN, patient=True)

    def _expired(self, _: Expired) -> list[Command]:
        return self._close("the token has expired", answers.EXPIRED)

    def _idle(self, _: Idle) -> list[Command]:
        return self._close("idle for too long", answers.IDLE_TOO_LONG)

    def _killed(self, event: Killed) -> list[Command]:
        return self._close(event.reason, answers.KILLED)

    def _reloaded(self, _: Reloaded) -> list[Command]:
        """The token's jti is known once it was verified, the certificate since the handshake."""
        if self._current().verifier.revoked(self.facts.jti):
            return self._close("the token has been revoked", answers.REVOKED)
        if self._certified and not self._questions.trusted():
            return self._close("the client certificate is not trusted any more", answers.REVOKED)
        return []

    def moved(self) -> tuple[int, int]:
        return 0, 0

    # --- encryption -------------------------------------------------------------------------------------------------

    def _opened(self, event: Opened) -> list[Command]:
        self._client, self._over_limit = event.client, event.over_limit
        self._state = State.FIRST_BYTE
        return [SetDeadline(self._access.handshake_timeout), Sniff()]

    def _sniffed(self, event: Sniffed) -> list[Command]:
        """A TLS record of type handshake as the first byte is direct TLS (manual, "SSL Session Encryption")."""
        if event.first == b"\x16":
            self._direct = True
            self._state = State.HANDSHAKE
            return [StartTLS(Side.CLIENT)]
        self._state = State.CLEAR
        return []

    def _clear(self, event: Data) -> list[Command]:
        packet = self._first_packet(event.data)
        match packet:
            case None:
                return []
            case wire.StartupMessage():
                return self._close("plain text: the client did not ask for TLS", answers.TLS_REQUIRED)
            case wire.CancelRequest():
                return self._cancel(packet)
        if self._buffer:
            # Nothing that arrived in clear may be taken for part of the encrypted session (CVE-2021-23214).
            raise ProtocolError("unencrypted bytes after the encryption request")
        if isinstance(packet, wire.GSSENCRequest):
            if self._gssenc_refused:
                raise ProtocolError("the same encryption request twice")
            self._gssenc_refused = True
            return [Send(Side.CLIENT, wire.REFUSE_ENCRYPTION)]
        self._state = State.HANDSHAKE
        return [Send(Side.CLIENT, wire.ACCEPT_TLS), StartTLS(Side.CLIENT)]

    def _first_packet(self, data: bytes) -> wire.FirstPacket | None:
        self._buffer += data
        found = wire.read_first_packet(self._buffer)
        if found is None:
            return None
        packet, size = found
        del self._buffer[:size]
        return packet

    def _secured(self, event: Secured) -> list[Command]:
        self._tls, self._state = event.tls, State.STARTUP
        self.facts.tls = event.tls.version
        if event.tls.peer_certificate is not None:
            self._certified = True
            # Who comes in is for the token to say; this is for an operator to find the session by.
            self.facts.serial = serial_number(event.tls.peer_certificate)
        if self._direct and event.tls.alpn != ALPN:
            return self._close("direct TLS without the ALPN protocol postgresql", answers.NO_ALPN)
        return []

    # --- start-up and password --------------------------------------------------------------------------------------

    def _startup(self, event: Data) -> list[Command]:
        packet = self._first_packet(event.data)
        match packet:
            case None:
                return []
            case wire.CancelRequest():
                return self._cancel(packet)
            case wire.StartupMessage():
                return self._start(packet)
        raise ProtocolError("an encryption request inside TLS")

    def _start(self, packet: wire.StartupMessage) -> list[Command]:
        if packet.version[0] != 3:
            return self._close(f"protocol {packet.version[0]}.{packet.version[1]}", answers.WRONG_VERSION)
        if self._buffer:
            raise ProtocolError("bytes after the StartupMessage, before any answer")
        if not packet.parameters.get(b"user"):
            return self._close("a StartupMessage without a user", answers.NO_USER)
        if self._over_limit:
            return self._close("too many connections", answers.TOO_MANY)
        self._asked = asked = Startup(packet)
        self.facts.user, self.facts.database, self.facts.application = asked.user, asked.database, asked.application
        self._version = asked.version
        self._state = State.PASSWORD
        return [Send(Side.CLIENT, asked.negotiation + wire.AUTHENTICATION_CLEARTEXT_PASSWORD)]

    def _password(self, event: Data) -> list[Command]:
        self._buffer += event.data
        found = wire.read_password(self._buffer)
        if found is None:
            return []
        password, size = found
        del self._buffer[:size]
        return self._authenticate(password)

    def _authenticate(self, token: bytes) -> list[Command]:
        """Raises Denied. The token's subject is the requested user, exactly, or nobody."""
        identity = self._current().verifier.verify(token, self._clock())
        self.facts.subject, self.facts.jti = identity.subject, identity.serial
        certificate_bound(identity, self._tls.peer_certificate if self._tls else None)
        if identity.subject != self.facts.user:
            raise Denied("the token is for another user")
        self._identity = identity
        return self._decide(identity)

    def _decide(self, identity: Identity) -> list[Command]:
        assert self._asked is not None  # the state says so
        allowed = verdict(self._access, self._current(), identity, self._asked, self._client.host)
        if not self._questions.admit(identity.subject):
            return self._close("too many connections of this subject", answers.TOO_MANY)
        self._allowed = allowed
        self.facts.role, self.facts.rule = allowed.role, allowed.rule
        if self._access.application_name is not None:
            self._asked.name_application(self._access.application_name, identity.subject, self._client.host)
        self._addresses = list(self._access.upstream.addresses)
        return self._next_address()

    # --- the upstream -----------------------------------------------------------------------------------------------

    def _next_address(self, failure: str = "", answer: bytes = b"") -> list[Command]:
        """Dial the next address, or tell the client what the last one said."""
        if failure and self._link:
            self._last_reason, self._last_answer = f"upstream {self._link.address}: {failure}", answer
        if not self._addresses or self._allowed is None:
            return self._close(self._last_reason, self._last_answer)
        address = self._addresses.pop(0)
        upstream = self._access.upstream
        self._link = Link(upstream, address, upstream.login(self._allowed.role))
        self._state = State.LINK
        self.facts.upstream = f"{upstream.name} {address}"
        return [SetDeadline(upstream.connect_timeout), *self._link.start()]

    def _linking(self, event: Data | Secured | Dialed) -> list[Command]:
        assert self._link is not None  # the state says so
        assert self._allowed is not None
        try:
            commands = self._link.handle(event)
        except UpstreamError as error:
            return self._next_address(str(error), answers.UNREACHABLE)
        if not self._link.ready:
            return commands
        link, self._state = self._link, State.LOGIN
        assert self._asked is not None
        self._login = UpstreamLogin(
            link.upstream,
            link.login,
            self._allowed.role,
            self._asked.parameters,
            link.tls,
            ask=not self._asked.physical,
        )
        return [*commands, Send(Side.UPSTREAM, self._login.first())]

    def _logging_in(self, event: Data) -> list[Command]:
        assert self._login  # the state says so
        try:
            answer = self._login.feed(event.data)
        except UpstreamError as error:
            return self._next_address(str(error), answers.UNREACHABLE)
        except Refused as error:
            return self._upstream_refused(error)
        if not self._login.ready:
            return [Send(Side.UPSTREAM, answer)] if answer else []
        return self._logged_in(self._login)

    def _upstream_refused(self, refusal: Refused) -> list[Command]:
        """28xxx is between the gateway and the database; 57P03 (starting up, a standby) is worth another address."""
        sqlstate = refusal.error.sqlstate
        if sqlstate.startswith("28"):
            return self._close(str(refusal), answers.NOT_LET_IN)
        answer = answers.retold(refusal.error, self.facts.role or "", self.facts.subject)
        if sqlstate == "57P03":
            return self._next_address(str(refusal), answer)
        return self._close(str(refusal), answer)

    def _logged_in(self, login: UpstreamLogin) -> list[Command]:
        assert self._allowed is not None  # the state says so
        assert self._identity is not None
        if self._access.upstream.target_session_attrs == "read-write" and not login.writable:
            return self._next_address("it is read-only, or too old to say", answers.UNREACHABLE)
        if login.superuser and not self._allowed.superuser:
            raise NotAllowed("the upstream role is a superuser, or it is not known")
        framing = BackendFraming()
        framing.asked = bool(self._buffer)
        framing.feed(memoryview(login.rest))
        greeting = (
            wire.AUTHENTICATION_OK + login.greeting + self._cancel_data(login) + login.ready_for_query + login.rest
        )
        ahead = bytes(self._buffer)
        expires = self._expiry(self._identity) if self._access.terminate_on_expiry else None
        self._state, self.facts.decision = State.OPEN, "allowed"
        # Nothing of the login is needed any more; an idle session should cost little.
        self._login = self._link = self._tls = self._identity = self._allowed = None
        self._buffer, self._asked, self._addresses = bytearray(), None, []
        return [SetDeadline(None), Send(Side.CLIENT, greeting), Splice(framing, ahead, expires)]

    def _expiry(self, identity: Identity) -> float:
        """When the first of what let the client in ends: its token, or the certificate that it showed."""
        certificate = self._tls.peer_expires if self._tls else None
        return identity.expires if certificate is None else min(identity.expires, certificate)

    def _cancel_data(self, login: UpstreamLogin) -> bytes:
        """A key of our own under the backend's own pid, which the client can also see in SQL."""
        if login.cancel is None or self._link is None:
            return b""
        pid, key = login.cancel
        target = CancelTarget(self._link.upstream, self._link.address, self._link.login, pid, key, self.facts.subject)
        ours = self._cancels.issue(target, _CANCEL_KEY_SIZE[self._version])
        self._cancel_key = (pid, ours)
        return wire.backend_key_data(pid, ours)

    def _ahead(self, event: Data) -> list[Command]:
        """A client may send its first query before ReadyForQuery; it waits here for the verdict."""
        self._buffer += event.data
        if len(self._buffer) > MAX_AHEAD:
            raise ProtocolError("too many bytes ahead of ReadyForQuery")
        return []

    def _lost_upstream(self, event: Lost) -> list[Command]:
        return self._next_address(event.reason, answers.UNREACHABLE)

    # --- cancel -----------------------------------------------------------------------------------------------------

    def _cancel(self, request: wire.CancelRequest) -> list[Command]:
        """Manual, "Canceling Requests in Progress": no reply in any case, success or not."""
        if self._buffer:
            raise ProtocolError("bytes after the CancelRequest")
        self.facts.decision = "cancel"
        self._state = State.CANCEL_LINK
        errand = self._errand = CancelErrand(self._cancels, request, self._client.host, self._clock())
        self.facts.subject, self.facts.upstream = errand.subject, errand.upstream
        return errand.start()

    def _cancel_linking(self, event: Data | Secured | Dialed) -> list[Command]:
        assert self._errand is not None  # the state says so
        commands = self._errand.linking(event)
        if self._errand.sent:
            self._state = State.CANCEL_SENT
        return commands

    def _cancel_alone(self, _: Lost) -> list[Command]:
        return []

    def _cancel_over(self, event: Lost) -> list[Command]:
        assert self._errand is not None  # the state says so
        return self._close(f"cancel: {self._errand.over(event)}")


def _kind(event: Event) -> str:
    """What an event is called in the table below: its class, and its side where it has one."""
    name = type(event).__name__
    return f"{name} {event.side.value}" if isinstance(event, Data | Secured | Lost) else name


# Each takes the one kind of event that its row names.
_Step = Callable[[PostgresSession, Any], Sequence[Command]]
_ANY_TIME: dict[type, _Step] = {
    TimedOut: PostgresSession._timed_out,
    ShuttingDown: PostgresSession._shutting_down,
    Expired: PostgresSession._expired,
    Idle: PostgresSession._idle,
    Killed: PostgresSession._killed,
    Reloaded: PostgresSession._reloaded,
}
_STEPS: dict[tuple[State, str], _Step] = {
    (State.NEW, "Opened"): PostgresSession._opened,
    (State.FIRST_BYTE, "Sniffed"): PostgresSession._sniffed,
    (State.CLEAR, "Data client"): PostgresSession._clear,
    (State.HANDSHAKE, "Secured client"): PostgresSession._secured,
    (State.STARTUP, "Data client"): PostgresSession._startup,
    (State.PASSWORD, "Data client"): PostgresSession._password,
    (State.LINK, "Dialed"): PostgresSession._linking,
    (State.LINK, "Data upstream"): PostgresSession._linking,
    (State.LINK, "Secured upstream"): PostgresSession._linking,
    (State.LOGIN, "Data upstream"): PostgresSession._logging_in,
    (State.CANCEL_LINK, "Dialed"): PostgresSession._cancel_linking,
    (State.CANCEL_LINK, "Data upstream"): PostgresSession._cancel_linking,
    (State.CANCEL_LINK, "Secured upstream"): PostgresSession._cancel_linking,
    (State.CANCEL_LINK, "Lost upstream"): PostgresSession._cancel_over,
    (State.CANCEL_SENT, "Lost upstream"): PostgresSession._cancel_over,
    **{(state, "Data client"): PostgresSession._ahead for state in (State.LINK, State.LOGIN)},
    **{(state, "Lost upstream"): PostgresSession._lost_upstream for state in (State.LINK, State.LOGIN)},
    **{(state, "Lost client"): PostgresSession._lost_client for state in State if state not in _CANCELLING},
    # Who cancels need not wait for the end of it.
    **{(state, "Lost client"): PostgresSession._cancel_alone for state in _CANCELLING},
}
