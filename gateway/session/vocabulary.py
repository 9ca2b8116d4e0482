"""Everything a session and the driver can say to each other.

A session is `handle(event) -> [command, ...]`: it gets Events, answers Commands, and never touches a socket.
The driver (`gateway.net.driver`) owns both transports and the clock, and runs the commands in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import NamedTuple, Protocol

from gateway.upstream import Address, Login, Upstream


class Side(Enum):
    """The two ends of a connection."""

    # Enum hashes names, in Python; this is looked up for each event.
    __hash__ = object.__hash__

    CLIENT = "client"
    UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class TLSFacts:
    """What a finished handshake proved.

    peer_certificate: DER, or None. A client's is verified. An upstream's is, as far as the mode asks for that: under
    `require` without a root certificate it is only what SCRAM's channel binding needs, and proves no name.
    peer_expires: its notAfter, in seconds since the epoch.
    peer_issuers: SHA-256 of the DER of each certificate that vouches for a client's, from its issuer up to the root.
    """

    version: str
    alpn: bytes = b""
    server_name: str | None = None
    peer_certificate: bytes | None = field(default=None, repr=False)
    peer_expires: float | None = None
    peer_issuers: tuple[bytes, ...] = ()


# --- events: what happened ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    """A client is connected; nothing was read yet. `over_limit`: it may learn that, and nothing else."""

    client: Address
    over_limit: bool = False


@dataclass(frozen=True, slots=True)
class Sniffed:
    """The answer to Sniff: the first byte, still unread on the socket."""

    first: bytes


@dataclass(frozen=True, slots=True)
class Data:
    side: Side
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Secured:
    """The TLS handshake of that side is complete and the peer's certificate, if any, is verified."""

    side: Side
    tls: TLSFacts


@dataclass(frozen=True, slots=True)
class Dialed:
    """The upstream is connected (TCP or Unix; no TLS yet)."""


@dataclass(frozen=True, slots=True)
class Lost:
    """That side is gone, or could not be dialed, or failed its TLS handshake. `reason` is for the audit.

    orderly: it said that it has finished (FIN, or close_notify over TLS), so nothing of what it sent is missing.
    """

    side: Side
    reason: str
    orderly: bool = False


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The deadline set last (SetDeadline) has passed. `stalled`: that side is not taking what was sent to it."""

    stalled: Side | None = None


@dataclass(frozen=True, slots=True)
class Expired:
    """What proved the identity is no longer valid (sent to spliced sessions)."""


@dataclass(frozen=True, slots=True)
class Idle:
    """A spliced session moved no byte for the listener's idle timeout."""


@dataclass(frozen=True, slots=True)
class ShuttingDown:
    """The gateway stops: the session is to end as soon as it may."""


@dataclass(frozen=True, slots=True)
class Killed:
    """An operator ends the session, at once. reason: for the audit; the client hears what its protocol has for that."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What is in force has changed, by a reload or in the registry. Whoever was let in by what does not count any more
    ends now: a certificate that is not trusted (`Questions.trusted`), a revoked token, a disabled thing."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Always the last event, exactly once: free what was registered. Only RequestRecords are still run."""


@dataclass(frozen=True, slots=True)
class Mail:
    """For the client, from elsewhere in this process: whole messages in its own protocol."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Drained:
    """After `Questions.congested` has said yes: the client has taken everything."""


@dataclass(frozen=True, slots=True)
class Dismissed:
    """Somebody else in this process ends the session. code: in the protocol's own numbers; reason: for the audit."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Settled:
    """What the session has asked of another part of this process is done, or, with another code than 0, is not."""

    code: int = 0


Event = (
    Opened
    | Sniffed
    | Data
    | Secured
    | Dialed
    | Lost
    | TimedOut
    | Expired
    | Idle
    | ShuttingDown
    | Killed
    | Reloaded
    | Mail
    | Drained
    | Dismissed
    | Settled
    | Ended
)


# --- commands: what to do ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sniff:
    """Wait for the first byte and say which it is, leaving it on the socket."""


@dataclass(frozen=True, slots=True)
class StartTLS:
    """Begin the handshake: as server to the client, as client to the upstream dialed last.

    small: this peer's messages come in many small TLS records, so a read takes all that are there.
    """

    side: Side
    small: bool = False


@dataclass(frozen=True, slots=True)
class SetDeadline:
    """Send TimedOut after so many seconds; None: never. Replaces the deadline set before."""

    seconds: float | None


@lru_cache(maxsize=64)
def deadline(seconds: float) -> SetDeadline:
    """One of those that come with every request."""
    return SetDeadline(seconds)


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to that address of the upstream, dropping any upstream connection there was.

    `login` names the client certificate to use if TLS is started later. name: what Release and Reuse know it by.
    """

    upstream: Upstream
    address: Address
    login: Login = field(default_factory=Login)
    name: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Reuse:
    """Go on with an idle connection of that name, which `Questions.idle` has just said is there. TLS is up already.

    Its end may be on the way to us.
    """

    dial: Dial


@dataclass(frozen=True, slots=True)
class Release:
    """The upstream connection becomes an idle one, for whoever next wants one of that name."""


@dataclass(frozen=True, slots=True)
class HangUp:
    """End the upstream connection, or the attempt to dial one. Nothing more is heard of it.

    orderly: what was sent before still arrives there.
    """

    orderly: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """Read nothing more from the client, until Proceed or Splice."""


@dataclass(frozen=True, slots=True)
class Proceed:
    """Read from the client again."""


@dataclass(frozen=True, slots=True)
class Send:
    side: Side
    data: bytes = field(repr=False)


class Framing(Protocol):
    """Follows the bytes upstream → client, so that a farewell is only ever put between two messages.

    asked: set whenever the client sends; cleared when the upstream has answered and no transaction is open.
    """

    asked: bool

    def feed(self, data: memoryview) -> None:
        """The next bytes to the client, in order."""

    def seek(self, data: memoryview) -> int | None:
        """How many of these next bytes, not fed yet, lead to a boundary; None: more than these, or unknown."""

    @property
    def boundary(self) -> bool:
        """Every message begun so far is also complete, as far as can be known."""

    @property
    def idle(self) -> bool:
        """At a boundary at which the upstream waits for the client's next request."""


@dataclass(frozen=True, slots=True)
class Splice:
    """Login is over: relay raw bytes both ways from here on. Data events end.

    to_upstream: bytes that the client sent ahead. expires: seconds since the epoch, when to send Expired.
    linger: when one side has ended in order, the other may be silent for so many seconds before it is ended too.
    faithful: the end of the stream has a meaning here, so a connection that broke is passed on as one that broke.
    """

    framing: Framing | None = None
    to_upstream: bytes = field(default=b"", repr=False)
    expires: float | None = None
    linger: float = 10.0
    faithful: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    """End both sides. `farewell` goes to the client first; when spliced, only at a message boundary.

    reason is the true one, for the audit. patient: a spliced session that is not idle keeps running until it is, or
    until the driver's grace period is over. broken: the client must not take what it has got for complete, so its
    connection is reset instead of being ended in order. audited: there is a record of it, also of a connection whose
    requests have told everything.
    """

    reason: str
    farewell: bytes = field(default=b"", repr=False)
    patient: bool = False
    broken: bool = False
    audited: bool = False


class Passage(NamedTuple):
    """What the audit says of who may go where, which is the same for many requests. subject: what was proven."""

    route: str | None = None
    subject: str | None = None
    serial: str | None = None
    rule: str | None = None


class Asked(NamedTuple):
    """What the audit says of a request's head. No query: it may hold a key."""

    method: str = ""
    host: str = ""
    path: str = ""


@dataclass(slots=True)
class RequestRecord:
    """Write this audit record of one HTTP request. The driver adds the time, the connection, the listener, the client.

    status: what the client was told; 0: nothing. from_client, to_client: bytes of the bodies.
    seconds: from the complete head to the end of the answer. reason: of a refusal or a failure, the true one.
    """

    asked: Asked
    passage: Passage
    status: int = 0
    upstream: str | None = None
    decision: str = "refused"
    from_client: int = 0
    to_client: int = 0
    seconds: float = 0.0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Enter:
    """The client has proven who it is and is let in, though nothing is dialed for it.

    audited: with a record of that.
    """

    audited: bool = True


@dataclass(frozen=True, slots=True)
class Denial:
    """Write an audit record of what was refused in a session that goes on. action: `publish` or `subscribe`."""

    action: str
    topic: str
    reason: str


Command = (
    Sniff
    | StartTLS
    | SetDeadline
    | Dial
    | Reuse
    | Release
    | HangUp
    | Hold
    | Proceed
    | Send
    | Splice
    | RequestRecord
    | Enter
    | Denial
    | Close
)


@dataclass(slots=True)
class Facts:
    """What the audit record says of a session; filled in by the session as it learns, read by the driver.

    user: what the client called itself. subject: what was proven, by the token `jti` or the certificate `serial`.
    client_id: of MQTT. from_client, to_client: bytes, once they are known. dropped: messages that were
    for it, and that it did not take in time.
    """

    user: str | None = None
    subject: str | None = None
    jti: str | None = None
    serial: str | None = None
    role: str | None = None
    database: str | None = None
    application: str | None = None
    upstream: str | None = None
    tls: str | None = None
    decision: str = "refused"
    rule: str | None = None
    client_id: str | None = None
    from_client: int | None = None
    to_client: int | None = None
    dropped: int | None = None


class Questions(Protocol):
    """What a session may ask of its driver, which answers at once."""

    def admit(self, subject: str) -> bool:
        """Whether that subject may have one more session; if so, this is it."""

    def renew(self) -> bool:
        """After a reload: go on under what is in force now, trust in upstreams included.

        False: the client's certificate would not be let in under that.
        """

    def trusted(self) -> bool:
        """Whether the client's certificate would be let in under what is in force now; true where there is no TLS.

        Changes nothing, unlike `renew`: upstream connections stay what they are.
        """

    def idle(self, dial: Dial) -> bool:
        """Whether there is an idle connection of that name, at rest as far as can be seen."""

    def tell(self, event: Event) -> None:
        """Have the session handle that, as soon as it has handled what it is at. After its end nothing happens."""

    def deliver(self, data: bytes) -> None:
        """As `tell(Mail(data))`, for a session that would do no more with it than to send it; this is quicker."""

    def congested(self) -> bool:
        """Whether something waits for a client that does not take it; if so, Drained comes when it has."""


class Session(Protocol):
    """What the driver needs of a session, whatever its protocol."""

    facts: Facts

    def handle(self, event: Event) -> Sequence[Command]:
        """Never raises for anything a peer sent."""

    def moved(self) -> tuple[int, int]:
        """Bytes to and from the client so far, while it is the session that counts them; otherwise zeros."""
