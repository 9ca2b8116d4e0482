"""Everything a session and the driver can say to each other.

A session is `handle(event) -> [command, ...]`: it gets Events, answers Commands, and never touches a socket.
The driver (`gateway.net.driver`) owns both transports and the clock, and runs the commands in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from gateway.upstream import Address, Login, Upstream


class Side(Enum):
    """The two ends of a connection."""

    CLIENT = "client"
    UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class TLSFacts:
    """What a finished handshake proved.

    peer_certificate: DER, or None. A client's is verified. An upstream's is, as far as the mode asks for that: under
    `require` without a root certificate it is only what SCRAM's channel binding needs, and proves no name.
    peer_expires: its notAfter, in seconds since the epoch.
    """

    version: str
    alpn: bytes = b""
    server_name: str | None = None
    peer_certificate: bytes | None = field(default=None, repr=False)
    peer_expires: float | None = None


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
    """That side is gone, or could not be dialed, or failed its TLS handshake. `reason` is for the audit."""

    side: Side
    reason: str


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The deadline set last (SetDeadline) has passed."""


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
class Ended:
    """Always the last event, exactly once: free what was registered. Commands are ignored."""


Event = Opened | Sniffed | Data | Secured | Dialed | Lost | TimedOut | Expired | Idle | ShuttingDown | Ended


# --- commands: what to do ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sniff:
    """Wait for the first byte and say which it is, leaving it on the socket."""


@dataclass(frozen=True, slots=True)
class StartTLS:
    """Begin the handshake: as server to the client, as client to the upstream dialed last."""

    side: Side


@dataclass(frozen=True, slots=True)
class SetDeadline:
    """Send TimedOut after so many seconds; None: never. Replaces the deadline set before."""

    seconds: float | None


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to that address of the upstream, dropping any upstream connection there was.

    `login` names the client certificate to use if TLS is started later.
    """

    upstream: Upstream
    address: Address
    login: Login = field(default_factory=Login)


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
    """

    framing: Framing | None = None
    to_upstream: bytes = field(default=b"", repr=False)
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Close:
    """End both sides. `farewell` goes to the client first; when spliced, only at a message boundary.

    reason is the true one, for the audit. patient: a spliced session that is not idle keeps running until it is, or
    until the driver's grace period is over.
    """

    reason: str
    farewell: bytes = field(default=b"", repr=False)
    patient: bool = False


Command = Sniff | StartTLS | SetDeadline | Dial | Send | Splice | Close


@dataclass(slots=True)
class Facts:
    """What the audit record says of a session; filled in by the session as it learns, read by the driver.

    user: what the client called itself. subject: what was proven.
    """

    user: str | None = None
    subject: str | None = None
    jti: str | None = None
    role: str | None = None
    database: str | None = None
    application: str | None = None
    upstream: str | None = None
    tls: str | None = None
    decision: str = "refused"
    rule: str | None = None


class Session(Protocol):
    """What the driver needs of a session, whatever its protocol."""

    facts: Facts

    def handle(self, event: Event) -> Sequence[Command]:
        """Never raises for anything a peer sent."""
