"""What session tests talk with: a conversation that keeps every command, tokens, and an upstream that knows SCRAM.

Messages are built and read here by hand, never by the code under test.
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from struct import pack, unpack
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scramp import ScramMechanism  # type: ignore[import-untyped]

from gateway.policy import Policy, parse_rule
from gateway.session.access import Access
from gateway.session.cancel import CancelKeys
from gateway.session.postgres import PostgresSession
from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Dial,
    Dialed,
    Event,
    Opened,
    Secured,
    Send,
    Side,
    Sniffed,
    Splice,
    TLSFacts,
)
from gateway.tokens import TokenVerifier, VerificationKey
from gateway.upstream import Address, ClientTLS, Login, TLSMode, Upstream

NOW = 1_700_000_000.0
ISSUER = Ed25519PrivateKey.generate()
STRANGER = Ed25519PrivateKey.generate()
CLIENT = Address("10.0.0.1", 40000)
FIRST, SECOND = Address("db1.example", 5432), Address("db2.example", 5432)


# --- messages, by hand -------------------------------------------------------------------------------------------


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + pack("!I", 4 + len(body)) + body


def packet(code: int, body: bytes = b"") -> bytes:
    return pack("!II", 8 + len(body), code) + body


def strings(*texts: bytes) -> bytes:
    return b"".join(text + b"\0" for text in texts)


def startup(parameters: Mapping[bytes, bytes], version: tuple[int, int] = (3, 0)) -> bytes:
    pairs = b"".join(strings(*pair) for pair in parameters.items())
    return packet(version[0] << 16 | version[1], pairs + b"\0")


def cancel_request(pid: int, key: bytes) -> bytes:
    return packet(80877102, pack("!i", pid) + key)


def password(text: bytes) -> bytes:
    return message(b"p", text + b"\0")


def error(**fields: str) -> bytes:
    return message(b"E", strings(*(code.encode() + text.encode() for code, text in fields.items())) + b"\0")


def messages(data: bytes) -> list[tuple[bytes, bytes]]:
    """Type and body of each; the data must hold nothing else."""
    found = []
    while data:
        (length,) = unpack("!I", data[1:5])
        assert len(data) > length >= 4
        found.append((data[:1], data[5 : 1 + length]))
        data = data[1 + length :]
    return found


def fields(data: bytes) -> dict[str, str]:
    """Of exactly one ErrorResponse; nothing for no bytes."""
    if not data:
        return {}
    ((kind, body),) = messages(data)
    assert kind == b"E"
    assert body.endswith(b"\0\0")
    return {entry[:1].decode(): entry[1:].decode() for entry in body[:-2].split(b"\0")}


SSL_REQUEST, GSSENC_REQUEST = packet(80877103), packet(80877104)
ALICE = startup({b"user": b"alice", b"database": b"shop"})
ASKS_PASSWORD = message(b"R", pack("!I", 3))
OK = message(b"R", pack("!I", 0))
READY = message(b"Z", b"I")
UPSTREAM_PID, UPSTREAM_KEY = 4711, b"\x01\x02\x03\x04"
KEY_DATA = message(b"K", pack("!i", UPSTREAM_PID) + UPSTREAM_KEY)


def status(name: bytes, value: bytes) -> bytes:
    return message(b"S", strings(name, value))


ORDINARY_ROLE = status(b"is_superuser", b"off")
WELCOME = OK + ORDINARY_ROLE + KEY_DATA + READY


SUPERUSER_QUERY = message(
    b"Q", b"SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) session_user\0"
)


def superuser_is(value: bytes) -> bytes:
    """The whole answer to SUPERUSER_QUERY."""
    row = message(b"D", pack("!HI", 1, len(value)) + value)
    return message(b"T", bytes(2)) + row + message(b"C", b"SELECT 1\0") + READY


NOT_SUPERUSER, IS_SUPERUSER = superuser_is(b"f"), superuser_is(b"t")


# --- settings ----------------------------------------------------------------------------------------------------


def base64url(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def token(subject: str = "alice", key: Ed25519PrivateKey = ISSUER, **claims: Any) -> bytes:
    payload = {"sub": subject, "exp": NOW + 600, "jti": "serial-1", **claims}
    signed = base64url(b'{"alg":"EdDSA"}') + b"." + base64url(json.dumps(payload).encode())
    return signed + b"." + base64url(key.sign(signed))


def upstream(mode: TLSMode = TLSMode.DISABLE, *logins: Login, **settings: Any) -> Upstream:
    given: dict[str, Any] = {"name": "main", "addresses": (FIRST,), "tls": ClientTLS(mode), "logins": logins}
    return Upstream(**(given | settings))


def access(*rules: str, **settings: Any) -> Access:
    """Without rules: everybody may open anything. The upstream lets the gateway in by trust."""
    given = [parse_rule(rule, "rules:1") for rule in rules or ("allow all all all",)]
    defaults: dict[str, Any] = {
        "listener": "front",
        "verifier": TokenVerifier([VerificationKey(ISSUER.public_key())]),
        "policy": Policy(tuple(given)),
        "upstream": upstream(),
    }
    return Access(**(defaults | settings))


# --- the conversation --------------------------------------------------------------------------------------------


class Whom:
    """Implements Questions for a session that asks for little. trusts: what it says of the client's certificate.

    told: what the session was told by somebody else; the test passes it on.
    """

    def __init__(self, admit: Callable[[str], bool]) -> None:
        self._admit = admit
        self.trusts = True
        self.told: list[Event] = []

    def admit(self, subject: str) -> bool:
        return self._admit(subject)

    def renew(self) -> bool:
        raise AssertionError("the session stays with the upstream of before")

    def trusted(self) -> bool:
        return self.trusts

    def idle(self, dial: Dial) -> bool:
        raise AssertionError(f"it shares no connection: {dial}")

    def tell(self, event: Event) -> None:
        self.told.append(event)

    def deliver(self, data: bytes) -> None:
        raise AssertionError("nobody else has anything for it")

    def congested(self) -> bool:
        raise AssertionError("a session with an upstream leaves that to the driver")


class Conversation:
    """One session from Opened on; `commands` is all that it has ever answered.

    superuser: what the upstream says when it is asked, by itself; None: nothing yet.
    """

    def __init__(
        self,
        settings: Access | None = None,
        *,
        cancels: CancelKeys | None = None,
        admit: Callable[[str], bool] = lambda subject: True,
        client: Address = CLIENT,
        over_limit: bool = False,
    ) -> None:
        self.cancels = CancelKeys(5.0) if cancels is None else cancels
        self.access = settings or access()
        self.whom = Whom(admit)
        self.session = PostgresSession(lambda: self.access, self.cancels, self.whom, lambda: NOW)
        self.superuser: bytes | None = NOT_SUPERUSER
        self.commands: list[Command] = []
        self.tell(Opened(client, over_limit))

    def tell(self, event: Event) -> list[Command]:
        answer = list(self.session.handle(event))
        self.commands += answer
        if self.superuser is not None and Send(Side.UPSTREAM, SUPERUSER_QUERY) in answer:
            answer += self.upstream(self.superuser)
        return answer

    def client(self, data: bytes) -> list[Command]:
        return self.tell(Data(Side.CLIENT, data))

    def upstream(self, data: bytes) -> list[Command]:
        return self.tell(Data(Side.UPSTREAM, data))

    def clear(self) -> Conversation:
        """The first byte is there, and it is not TLS."""
        self.tell(Sniffed(b"\0"))
        return self

    def secure(self, certificate: bytes | None = None) -> Conversation:
        """TLS by SSLRequest."""
        self.clear().client(SSL_REQUEST)
        self.tell(Secured(Side.CLIENT, TLSFacts("TLSv1.3", peer_certificate=certificate)))
        return self

    def asked(self, start: bytes = ALICE, certificate: bytes | None = None) -> Conversation:
        """Up to the request for the password."""
        self.secure(certificate).client(start)
        return self

    def proven(self, start: bytes = ALICE, jwt: bytes | None = None) -> Conversation:
        """Up to the first Dial."""
        self.asked(start).client(password(token() if jwt is None else jwt))
        return self

    def dialed(self, start: bytes = ALICE, jwt: bytes | None = None) -> Conversation:
        """Up to the StartupMessage to an upstream without TLS."""
        self.proven(start, jwt).tell(Dialed())
        return self

    def open(self, start: bytes = ALICE, welcome: bytes = WELCOME) -> Conversation:
        self.dialed(start).upstream(welcome)
        return self

    def of(self, kind: type[Any]) -> list[Any]:
        return [command for command in self.commands if isinstance(command, kind)]

    def sent(self, side: Side) -> bytes:
        """Every byte sent to that side, farewell included."""
        data = b"".join(command.data for command in self.of(Send) if command.side is side)
        return data + self.closed.farewell if side is Side.CLIENT and self.closed else data

    @property
    def closed(self) -> Close | None:
        closes: list[Close] = self.of(Close)
        assert len(closes) <= 1
        return closes[0] if closes else None

    @property
    def reason(self) -> str:
        return self.closed.reason if self.closed else ""

    @property
    def sqlstate(self) -> str | None:
        """What the farewell says; None where there is none."""
        return fields(self.closed.farewell).get("C") if self.closed else None

    @property
    def dials(self) -> list[Address]:
        return [command.address for command in self.of(Dial)]

    @property
    def spliced(self) -> bool:
        return bool(self.of(Splice))

    @property
    def splice(self) -> Splice:
        (splice,) = self.of(Splice)
        assert isinstance(splice, Splice)
        return splice


def login_sent(talk: Conversation) -> dict[bytes, bytes]:
    """The parameters of the one StartupMessage that went to an upstream without TLS, and nothing else did."""
    length, version = unpack("!II", talk.sent(Side.UPSTREAM)[:8])
    body = talk.sent(Side.UPSTREAM)[8:]
    # Never more than what every upstream has: no minor version, no option.
    assert (length, version) == (8 + len(body), 3 << 16)
    *entries, last, end = body.split(b"\0")
    assert (last, end) == (b"", b"")
    return dict(zip(entries[::2], entries[1::2], strict=True))


# --- an upstream with a password ---------------------------------------------------------------------------------


class ScramUpstream:
    """Answers a StartupMessage, then SCRAM messages, as PostgreSQL does. `flag` is the gs2-cbind-flag it was sent."""

    def __init__(
        self, secret: str, offers: Sequence[str] = ("SCRAM-SHA-256",), certificate: bytes | None = None
    ) -> None:
        self.secret, self.offers, self.certificate = secret, offers, certificate
        self.mechanism = self.flag = ""
        self._peer: Any = None

    def offer(self) -> bytes:
        return message(b"R", pack("!I", 10) + strings(*(name.encode() for name in self.offers)) + b"\0")

    def first(self, data: bytes) -> bytes:
        """SASLInitialResponse → AuthenticationSASLContinue."""
        ((kind, body),) = messages(data)
        assert kind == b"p"
        name, _, rest = body.partition(b"\0")
        assert unpack("!I", rest[:4]) == (len(rest) - 4,)
        self.mechanism, first = name.decode(), rest[4:].decode()
        self.flag = first.partition(",")[0]
        self._peer = self._server()
        self._peer.set_client_first(first)
        return message(b"R", pack("!I", 11) + self._peer.get_server_first().encode())

    def final(self, data: bytes) -> bytes:
        """SASLResponse → AuthenticationSASLFinal, without the AuthenticationOk that follows it."""
        ((kind, body),) = messages(data)
        assert kind == b"p"
        self._peer.set_client_final(body.decode())
        return message(b"R", pack("!I", 12) + self._peer.get_server_final().encode())

    def _server(self) -> Any:
        scram = ScramMechanism(self.mechanism)
        stored = scram.make_auth_info(self.secret, salt=b"0123456789abcdef", iteration_count=4096)
        binding = None
        if self.certificate is not None and "SCRAM-SHA-256-PLUS" in self.offers:
            binding = "tls-server-end-point", hashlib.sha256(self.certificate).digest()
        return scram.make_server(lambda user: stored, channel_binding=binding)
