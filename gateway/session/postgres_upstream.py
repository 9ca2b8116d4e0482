"""The upstream half of a Postgres session: the way to one address (`Link`), and logging in there (`UpstreamLogin`).

Refuses every downgrade that was not configured: no TLS where TLS is asked for, a weaker password method, no question
for the password at all, an AuthenticationOk before the server has proven that it knows the password too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from hashlib import md5

from gateway.errors import ProtocolError, UpstreamError
from gateway.session.vocabulary import Command, Data, Dial, Dialed, Event, Secured, Send, Side, StartTLS, TLSFacts
from gateway.upstream import Address, Login, TLSMode, Upstream
from gateway.wire import postgres as wire
from gateway.wire.scram import ScramLogin, available

# All that an upstream may send between its AuthenticationOk and its first ReadyForQuery.
MAX_GREETING = 262_144


# Of the role that logged in, whatever `role` or the search path are set to by then.
SUPERUSER_QUERY = wire.query(
    "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) session_user"
)


class Refused(Exception):
    """The upstream answered with an ErrorResponse."""

    def __init__(self, error: wire.ErrorResponse) -> None:
        super().__init__(f"the upstream refused: {error.sqlstate} {error.text}")
        self.error = error


class Link:
    """From nothing to a connection on which the first PostgreSQL packet may be sent, as safe as the mode asks for.

    Manual, "SSL Session Encryption": SSLRequest, one byte, handshake.
    """

    def __init__(self, upstream: Upstream, address: Address, login: Login) -> None:
        self.upstream, self.address, self.login = upstream, address, login
        self.ready = False
        self.tls: TLSFacts | None = None
        self._asked = False

    def start(self) -> list[Command]:
        return [Dial(self.upstream, self.address, self.login)]

    def handle(self, event: Event) -> list[Command]:
        """Raises UpstreamError. After the event that sets `ready`, the link has done its work."""
        match event:
            case Dialed() if self.upstream.tls.mode is TLSMode.DISABLE:
                self.ready = True
                return []
            case Dialed():
                self._asked = True
                return [Send(Side.UPSTREAM, wire.SSL_REQUEST)]
            case Data(data=b"S") if self._asked:
                self._asked = False
                return [StartTLS(Side.UPSTREAM)]
            case Data(data=b"N") if self._asked:
                raise UpstreamError("the upstream does not offer TLS")
            case Secured():
                self.tls, self.ready = event.tls, True
                return []
        # An error or anything else sent before TLS is nobody's word (CVE-2024-10977, CVE-2021-23222).
        raise UpstreamError("the upstream sent something else than one byte S or N before TLS")


class _Stage(Enum):
    METHOD = auto()  # waiting for how it wants the password, or AuthenticationOk
    MD5 = auto()
    CLEARTEXT = auto()
    SASL_CHALLENGE = auto()
    SASL_FINAL = auto()
    PROVEN = auto()  # SCRAM: the server has proven itself
    GREETING = auto()  # AuthenticationOk is here; ReadyForQuery is not
    QUESTION = auto()  # ReadyForQuery too, and SUPERUSER_QUERY is asked


_TYPES = {_Stage.GREETING: b"ESNKZ", _Stage.QUESTION: b"TDCZENSA"}
_BEFORE = b"REN"
_AUTHENTICATION_KINDS = {0: "ok", 3: "cleartext", 5: "md5", 10: "sasl", 11: "sasl_continue", 12: "sasl_final"}


class UpstreamLogin:
    """One login as one role: `feed` what the upstream sends, send what it returns, until `ready`.

    Then `greeting` is what the client is to get after its own AuthenticationOk (ParameterStatus and NoticeResponse
    in order), `ready_for_query` the last message, `rest` whatever followed it, and `superuser` whether the role is one.
    That is asked for in SQL, because `is_superuser` tells of whatever role was set at start-up (by the client, or by
    ALTER ROLE or ALTER DATABASE). Physical replication knows no SQL: there `ask` is False and it has to do.
    """

    def __init__(
        self,
        upstream: Upstream,
        login: Login,
        role: str,
        parameters: Mapping[bytes, bytes],
        tls: TLSFacts | None,
        *,
        ask: bool = True,
    ) -> None:
        self._upstream, self._login, self._tls = upstream, login, tls
        self._role = role.encode()
        self._parameters = {**parameters, b"user": self._role}
        self._ask = ask
        self._stage = _Stage.METHOD
        self._scram: ScramLogin | None = None
        self._buffer = bytearray()
        self.greeting = bytearray()
        self.statuses: dict[bytes, bytes] = {}
        self.cancel: tuple[int, bytes] | None = None
        self.ready_for_query = b""
        self.superuser = True

    @property
    def ready(self) -> bool:
        return bool(self.ready_for_query)

    @property
    def writable(self) -> bool:
        """Both are reported since PostgreSQL 14; a server that says nothing is not taken for writable."""
        said = self.statuses.get
        return said(b"in_hot_standby") == b"off" and said(b"default_transaction_read_only") == b"off"

    @property
    def rest(self) -> bytes:
        return bytes(self._buffer)

    def first(self) -> bytes:
        return wire.startup_message(self._parameters)

    def feed(self, data: bytes) -> bytes:
        """Raises UpstreamError, or Refused with the upstream's ErrorResponse."""
        self._buffer += data
        answer = b""
        try:
            while not self.ready:
                types = _TYPES.get(self._stage, _BEFORE)
                found = wire.read_message(self._buffer, types, wire.MAX_LOGIN_MESSAGE)
                if found is None:
                    break
                message, size = found
                del self._buffer[:size]
                answer += self._message(message)
        except ProtocolError as error:
            raise UpstreamError(f"the upstream breaks the protocol: {error}") from None
        return answer

    def _message(self, message: wire.Message) -> bytes:
        match message.type:
            case b"E":
                raise Refused(wire.parse_error_response(message.body))
            case b"R":
                return self._authentication(message.body)
            case b"K":
                self.cancel = wire.parse_backend_key_data(message.body)
            case b"Z":
                return self._ready(message)
            case b"D":
                self.superuser = wire.single_value(message.body) != b"f"
            case b"T" | b"C":
                pass
            case _:
                self._greet(message)
        return b""

    def _ready(self, message: wire.Message) -> bytes:
        if self._ask and self._stage is _Stage.GREETING:
            self._stage = _Stage.QUESTION
            return SUPERUSER_QUERY
        if not self._ask:
            self.superuser = self.statuses.get(b"is_superuser") != b"off"
        self.ready_for_query = bytes(message)
        return b""

    def _greet(self, message: wire.Message) -> None:
        if message.type == b"S":
            key, value = wire.parameter_status(message.body)
            self.statuses[key] = value
        self.greeting += bytes(message)
        if len(self.greeting) > MAX_GREETING:
            raise UpstreamError("the upstream's greeting has no end")

    def _authentication(self, body: bytes) -> bytes:
        kind, data = wire.authentication(body)
        step = _STEPS.get((self._stage, _AUTHENTICATION_KINDS.get(kind, "")))
        if step is None:
            raise UpstreamError(
                f"the upstream sent authentication request {kind} at the wrong moment or of an unknown kind"
            )
        return step(self, data)

    def _allow(self, method: str) -> None:
        if method not in self._upstream.password_methods:
            raise UpstreamError(
                f"the upstream asks for the password by {method!r}, which password_methods does not allow"
            )

    def _password(self) -> str:
        if self._login.password is None:
            raise UpstreamError("the upstream asks for a password, and none is configured for this role")
        return self._login.password

    def _ok_unasked(self, _: bytes) -> bytes:
        if self._login.password is not None:
            self._allow("none")
        return self._ok(b"")

    def _ok(self, _: bytes) -> bytes:
        self._stage = _Stage.GREETING
        return b""

    def _cleartext(self, _: bytes) -> bytes:
        password = self._password()
        self._allow("password")
        if self._tls is None:
            raise UpstreamError("the upstream asks for the clear password outside TLS")
        self._stage = _Stage.CLEARTEXT
        return wire.password_message(password.encode())

    def _md5(self, salt: bytes) -> bytes:
        password = self._password()
        self._allow("md5")
        if len(salt) != 4:
            raise UpstreamError("the upstream sent an MD5 salt that is not 4 bytes long")
        self._stage = _Stage.MD5
        inner = md5(password.encode() + self._role, usedforsecurity=False).hexdigest()
        outer = md5(inner.encode() + salt, usedforsecurity=False).hexdigest()
        return wire.password_message(b"md5" + outer.encode())

    def _sasl(self, data: bytes) -> bytes:
        password, offered = self._password(), wire.sasl_mechanisms(data)
        mechanism, certificate = self._mechanism(offered)
        self._scram = ScramLogin(mechanism, password, certificate, "SCRAM-SHA-256-PLUS" in offered)
        self._stage = _Stage.SASL_CHALLENGE
        return wire.sasl_initial_response(mechanism, self._scram.first())

    def _mechanism(self, offered: Sequence[str]) -> tuple[str, bytes | None]:
        """The strongest mechanism that both sides allow; with PLUS, the server's certificate to bind to."""
        certificate = self._tls.peer_certificate if self._tls else None
        allowed = self._upstream.password_methods
        bindable = certificate is not None and available(certificate)
        if bindable and "SCRAM-SHA-256-PLUS" in offered and "scram-sha-256-plus" in allowed:
            return "SCRAM-SHA-256-PLUS", certificate
        if "SCRAM-SHA-256" in offered and "scram-sha-256" in allowed:
            return "SCRAM-SHA-256", certificate if bindable and "scram-sha-256-plus" in allowed else None
        raise UpstreamError(f"the upstream offers {', '.join(offered)}, of which password_methods allows none here")

    def _sasl_continue(self, data: bytes) -> bytes:
        assert self._scram is not None  # the stage says so
        self._stage = _Stage.SASL_FINAL
        return wire.sasl_response(self._scram.challenge(data))

    def _sasl_final(self, data: bytes) -> bytes:
        assert self._scram is not None  # the stage says so
        self._scram.finish(data)
        self._stage = _Stage.PROVEN
        return b""


_STEPS = {
    (_Stage.METHOD, "ok"): UpstreamLogin._ok_unasked,
    (_Stage.METHOD, "cleartext"): UpstreamLogin._cleartext,
    (_Stage.METHOD, "md5"): UpstreamLogin._md5,
    (_Stage.METHOD, "sasl"): UpstreamLogin._sasl,
    (_Stage.SASL_CHALLENGE, "sasl_continue"): UpstreamLogin._sasl_continue,
    (_Stage.SASL_FINAL, "sasl_final"): UpstreamLogin._sasl_final,
    (_Stage.PROVEN, "ok"): UpstreamLogin._ok,
    (_Stage.MD5, "ok"): UpstreamLogin._ok,
    (_Stage.CLEARTEXT, "ok"): UpstreamLogin._ok,
}
