"""A tunnel's connection from its first byte to the splice: TLS, who is there, the verdict, the dial, TLS onwards.

Owns the order in which these happen, for both modes: as `server` the clients' TLS ends here, as `client` they are local
and plain, and TLS begins here. Refuses whatever comes at another moment: nothing is dialed before the rules have said
yes, and no byte of a client goes on before the upstream's TLS is up and verified.

Nothing is known of the protocol inside, so nothing can be said in it, and its silence proves nothing: an end in order
is only ever the peer's own. Whatever the gateway ends looks broken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from gateway.admission import Admission
from gateway.errors import Denied
from gateway.identity import Identity, from_certificate
from gateway.session.standing import Standing
from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Dial,
    Dialed,
    Ended,
    Event,
    Expired,
    Facts,
    Hold,
    Idle,
    Killed,
    Lost,
    Opened,
    Questions,
    Reloaded,
    Secured,
    SetDeadline,
    ShuttingDown,
    Side,
    Splice,
    StartTLS,
    TimedOut,
    TLSFacts,
)
from gateway.things import Things, Unavailable
from gateway.upstream import Address, TLSMode, Upstream

# What may be on its way from a client that is not read any more: one read of the driver's.
MAX_AHEAD = 65_536


@dataclass(frozen=True, slots=True)
class TunnelAccess:
    """Who may come in at one tunnel, and to where. Everything about its sessions that a reload replaces.

    upstream: its TLS mode alone says whether the way there is encrypted.
    server: it ends its clients' TLS. alpn: what has to be negotiated on each side that speaks TLS; empty: nothing.
    cn, identity: how a certificate names its client (`gateway.identity.from_certificate`).
    half_close_timeout: seconds that one direction may be silent after the other has ended.
    things: whoever is disabled there is not let in (`gateway.session.standing`); None: there is no registry.
    """

    upstream: Upstream
    admission: Admission
    server: bool
    alpn: tuple[bytes, ...] = ()
    cn: str = "id"
    identity: str = "cn"
    half_close_timeout: float = 600.0
    handshake_timeout: float = 30.0
    things: Things | None = None


class State(Enum):
    NEW = auto()
    HANDSHAKE = auto()
    DIAL = auto()  # on the way to one address of the upstream
    UPSTREAM_HANDSHAKE = auto()
    OPEN = auto()
    CLOSED = auto()


class TunnelSession:
    """`handle(event) -> [command]`. questions: a subject is asked for once.

    current: the tunnel's access now. A session is one of the time when it was opened, but whose name a certificate
    holds and who is allowed is asked of the latest: a reload reaches who is still at the door. Whoever is inside stays
    under the rules of then, but not with a certificate that has been revoked since. clock: seconds since the epoch.
    """

    __slots__ = (
        "_access",
        "_addresses",
        "_ahead",
        "_certified",
        "_client",
        "_clock",
        "_current",
        "_expires",
        "_questions",
        "_standing",
        "_state",
        "facts",
    )

    def __init__(self, current: Callable[[], TunnelAccess], questions: Questions, clock: Callable[[], float]) -> None:
        self.facts = Facts()
        self._current, self._questions, self._clock = current, questions, clock
        self._access = current()
        things = self._access.things
        self._standing = Standing(things, questions) if things is not None else None
        self._state = State.NEW
        self._client = Address("", 0)
        self._addresses = list(self._access.upstream.addresses)
        self._ahead = bytearray()
        self._expires: float | None = None
        self._certified = False

    def handle(self, event: Event) -> Sequence[Command]:
        if isinstance(event, Ended):
            self._end()
        if self._state is State.CLOSED:
            return []
        side: Side | None = getattr(event, "side", None)
        step = _STEPS.get((self._state, type(event), side))
        if step is None:
            kind = f"{type(event).__name__} {side.value}" if side else type(event).__name__
            return self._close(f"{kind} is not expected while {self._state.name}")
        try:
            return step(self, event)
        except Denied as error:
            return self._close(f"denied: {error}")
        except Unavailable:
            return self._close("denied: the registry cannot be asked")

    def moved(self) -> tuple[int, int]:
        return 0, 0

    # --- ends -------------------------------------------------------------------------------------------------------

    def _close(self, reason: str) -> list[Command]:
        self._state = State.CLOSED
        return [Close(reason, broken=True)]

    def _lost_client(self, event: Lost) -> list[Command]:
        """Not as broken: that would take back the alert which tells the client what is wrong with its certificate."""
        self._state = State.CLOSED
        return [Close(event.reason)]

    def _handshake_too_slow(self, _: TimedOut) -> list[Command]:
        return self._close("timed out in the TLS handshake")

    def _shutting_down(self, _: ShuttingDown) -> list[Command]:
        return self._close("the gateway is shutting down")

    def _shutting_down_open(self, _: ShuttingDown) -> list[Command]:
        """Once nothing moves. The driver's grace period is the end of that, an expiry an earlier one."""
        return [Close("the gateway is shutting down", patient=True, broken=True)]

    def _expired(self, _: Expired) -> list[Command]:
        return self._close("the certificate has expired")

    def _idle(self, _: Idle) -> list[Command]:
        return self._close("idle for too long")

    def _killed(self, event: Killed) -> list[Command]:
        return self._close(event.reason)

    def _early_reload(self, _: Reloaded) -> list[Command]:
        """Everything is still to be asked."""
        return []

    def _reloaded(self, _: Reloaded) -> list[Command]:
        """Raises Denied, Unavailable."""
        if self._certified and not self._questions.trusted():
            return self._close("the client certificate is not trusted any more")
        if self._standing is not None:
            self._standing.again()
        return []

    def _end(self) -> None:
        self._state = State.CLOSED
        if self._standing is not None:
            self._standing.stop()

    # --- the client -------------------------------------------------------------------------------------------------

    def _opened(self, event: Opened) -> list[Command]:
        self._client = event.client
        if event.over_limit:
            return self._close("too many connections")
        if not self._access.server:
            return self._decide(None)
        self._state = State.HANDSHAKE
        return [SetDeadline(self._access.handshake_timeout), StartTLS(Side.CLIENT)]

    def _secured(self, event: Secured) -> list[Command]:
        self.facts.tls = event.tls.version
        if not self._speaks_ours(event.tls):
            return self._close(f"denied: the client negotiated {_protocol(event.tls)}")
        return self._decide(self._identify(event.tls))

    def _speaks_ours(self, tls: TLSFacts) -> bool:
        """RFC 9325, 3.8: one who agrees on no protocol may have been sent here from another service of that name."""
        return not self._access.alpn or tls.alpn in self._access.alpn

    def _identify(self, tls: TLSFacts) -> Identity | None:
        """Raises Denied. None: the listener lets in who shows no certificate, and this one has shown none."""
        if tls.peer_certificate is None:
            return None
        assert tls.peer_expires is not None  # it is in every certificate
        latest = self._current()
        identity = from_certificate(
            tls.peer_certificate, tls.peer_expires, tls.peer_issuers, cn=latest.cn, source=latest.identity
        )
        self.facts.subject, self.facts.serial = identity.subject, identity.serial
        if identity.expires <= self._clock():
            raise Denied("the certificate has expired")
        return identity

    def _decide(self, identity: Identity | None) -> list[Command]:
        verdict = self._current().admission.decide(identity, self._client.host)
        if not verdict.allowed:
            raise Denied(verdict.rule)
        if self._standing is not None:
            self._standing.check(identity)
        if identity is not None:
            self._certified = True
            if not self._questions.admit(identity.subject):
                return self._close("too many connections of this subject")
            self._expires = identity.expires
        self.facts.rule = verdict.rule
        return [Hold(), *self._next_address("the upstream has no address")]

    # --- the upstream -----------------------------------------------------------------------------------------------

    def _next_address(self, failure: str) -> list[Command]:
        """Dial the next address; where none is left, `failure` is the end."""
        if not self._addresses:
            return self._close(failure)
        upstream, address = self._access.upstream, self._addresses.pop(0)
        self._state = State.DIAL
        self.facts.upstream = f"{upstream.name} {address}"
        return [SetDeadline(upstream.connect_timeout), Dial(upstream, address)]

    def _failed(self, reason: str) -> list[Command]:
        return self._next_address(f"upstream {self.facts.upstream}: {reason}")

    def _lost_upstream(self, event: Lost) -> list[Command]:
        return self._failed(event.reason)

    def _upstream_too_slow(self, _: TimedOut) -> list[Command]:
        return self._failed("it took longer than connect_timeout")

    def _dialed(self, _: Dialed) -> list[Command]:
        if self._access.upstream.tls.mode is TLSMode.DISABLE:
            return self._open()
        self._state = State.UPSTREAM_HANDSHAKE
        return [StartTLS(Side.UPSTREAM)]

    def _upstream_secured(self, event: Secured) -> list[Command]:
        if not self._speaks_ours(event.tls):
            return self._failed(f"it negotiated {_protocol(event.tls)}")
        if not self._access.server:
            self.facts.tls = event.tls.version
        return self._open()

    def _sent_ahead(self, event: Data) -> list[Command]:
        """What was read before the client was held waits here for the upstream."""
        self._ahead += event.data
        if len(self._ahead) > MAX_AHEAD:
            return self._close("too many bytes ahead of the upstream")
        return []

    def _open(self) -> list[Command]:
        ahead, self._ahead = bytes(self._ahead), bytearray()
        self._state, self.facts.decision = State.OPEN, "allowed"
        linger = self._access.half_close_timeout
        return [
            SetDeadline(None),
            Splice(to_upstream=ahead, expires=self._expires, linger=linger, faithful=True),
        ]


def _protocol(tls: TLSFacts) -> str:
    return f"the ALPN protocol {tls.alpn.decode('ascii', 'backslashreplace')}" if tls.alpn else "no ALPN protocol"


# Each takes the one kind of event that its row names: its class, and its side where it has one.
_Step = Callable[[TunnelSession, Any], Sequence[Command]]
_DIALING = (State.DIAL, State.UPSTREAM_HANDSHAKE)
_STEPS: dict[tuple[State, type, Side | None], _Step] = {
    (State.NEW, Opened, None): TunnelSession._opened,
    (State.HANDSHAKE, Secured, Side.CLIENT): TunnelSession._secured,
    (State.HANDSHAKE, TimedOut, None): TunnelSession._handshake_too_slow,
    (State.DIAL, Dialed, None): TunnelSession._dialed,
    (State.UPSTREAM_HANDSHAKE, Secured, Side.UPSTREAM): TunnelSession._upstream_secured,
    **{(state, Data, Side.CLIENT): TunnelSession._sent_ahead for state in _DIALING},
    **{(state, Lost, Side.UPSTREAM): TunnelSession._lost_upstream for state in _DIALING},
    **{(state, TimedOut, None): TunnelSession._upstream_too_slow for state in _DIALING},
    **{(state, Lost, Side.CLIENT): TunnelSession._lost_client for state in State},
    **{(state, ShuttingDown, None): TunnelSession._shutting_down for state in State},
    **{(state, Killed, None): TunnelSession._killed for state in State},
    **{(state, Reloaded, None): TunnelSession._early_reload for state in (State.NEW, State.HANDSHAKE)},
    **{(state, Reloaded, None): TunnelSession._reloaded for state in (*_DIALING, State.OPEN)},
    (State.OPEN, ShuttingDown, None): TunnelSession._shutting_down_open,
    (State.OPEN, Expired, None): TunnelSession._expired,
    (State.OPEN, Idle, None): TunnelSession._idle,
}
