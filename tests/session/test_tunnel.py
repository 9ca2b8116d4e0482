"""Tunnels as transcripts: the order of things in both modes, who is refused, and what never happens whatever comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admission import Admission, Verdict
from gateway.identity import Identity
from gateway.session import tunnel
from gateway.session.tunnel import MAX_AHEAD, TunnelAccess, TunnelSession
from gateway.session.vocabulary import (
    Close,
    Command,
    Data,
    Dial,
    Dialed,
    Ended,
    Event,
    Expired,
    Hold,
    Idle,
    Killed,
    Lost,
    Opened,
    Reloaded,
    Secured,
    Send,
    SetDeadline,
    ShuttingDown,
    Side,
    Splice,
    StartTLS,
    TimedOut,
    TLSFacts,
)
from gateway.upstream import Address, ClientTLS, TLSMode, Upstream
from tests.fakes import Whom
from tests.pki import Issued, issue, make_ca, subject_of

NOW = 1_700_000_000.0
CLIENT = Address("10.0.0.1", 40000)
LOCAL = Address("127.0.0.1", 40000)
FIRST, SECOND = Address("grpc1.example", 50051), Address("grpc2.example", 50051)
PLAIN = Upstream("tunnel:grpc", (FIRST, SECOND), ClientTLS(TLSMode.DISABLE), connect_timeout=3.0)
REMOTE = replace(PLAIN, tls=ClientTLS(TLSMode.VERIFY_FULL, alpn=(b"h2",)))
CA = make_ca()
METER = issue(CA, "meter-7", sans=["meter.example"])
NOBODY = issue(CA, subject=subject_of([(NameOID.COMMON_NAME, "meter-7")], [(NameOID.COMMON_NAME, "admin")]))
H2 = TLSFacts("TLSv1.3", b"h2")


def shown(issued: Issued = METER, alpn: bytes = b"h2", expires: float = NOW + 600) -> TLSFacts:
    """A handshake with that client certificate."""
    return TLSFacts("TLSv1.3", alpn, None, issued.certificate.public_bytes(Encoding.DER), expires, (b"issuer",))


class Rules(Admission):
    """One word for everybody; `asked` is what about."""

    def __init__(self, allowed: bool = True) -> None:
        super().__init__(())
        self.allowed = allowed
        self.asked: list[tuple[Identity | None, str]] = []

    def decide(self, identity: Identity | None, address: str, method: str = "") -> Verdict:
        assert not method
        self.asked.append((identity, address))
        return Verdict(self.allowed, "rules:1: so it is written")

    @property
    def subjects(self) -> list[str | None]:
        return [identity.subject if identity else None for identity, _ in self.asked]


def server(**given: Any) -> TunnelAccess:
    defaults: dict[str, Any] = {"upstream": PLAIN, "admission": Rules(), "server": True, "alpn": (b"h2",)}
    return TunnelAccess(**(defaults | given))


def client(**given: Any) -> TunnelAccess:
    defaults: dict[str, Any] = {"upstream": REMOTE, "admission": Rules(), "server": False, "alpn": (b"h2",)}
    return TunnelAccess(**(defaults | given))


class Count:
    """Keeps who was counted; `room` is the answer."""

    def __init__(self, room: bool = True) -> None:
        self.room = room
        self.counted: list[str] = []

    def __call__(self, subject: str) -> bool:
        self.counted.append(subject)
        return self.room


class Conversation:
    """One session from Opened on; `commands` is all that it has ever answered."""

    def __init__(
        self,
        access: TunnelAccess,
        *,
        admit: Callable[[str], bool] = lambda subject: True,
        peer: Address = CLIENT,
        over_limit: bool = False,
    ) -> None:
        self.access = access
        self.whom = Whom(admit)
        self.session = TunnelSession(lambda: self.access, self.whom, lambda: NOW)
        self.commands: list[Command] = []
        self.tell(Opened(peer, over_limit))

    def tell(self, event: Event) -> list[Command]:
        answer = list(self.session.handle(event))
        self.commands += answer
        return answer

    def secured(self, tls: TLSFacts | None = None) -> list[Command]:
        return self.tell(Secured(Side.CLIENT, tls or shown()))

    def open(self) -> Conversation:
        """Up to the splice, in either mode."""
        if self.access.server:
            self.secured()
        self.tell(Dialed())
        if not self.access.server:
            self.tell(Secured(Side.UPSTREAM, H2))
        assert self.of(Splice)
        return self

    def of(self, kind: type[Any]) -> list[Any]:
        return [command for command in self.commands if isinstance(command, kind)]

    @property
    def dials(self) -> list[Address]:
        return [command.address for command in self.of(Dial)]

    @property
    def refusal(self) -> str:
        """The reason of the end, with nothing dialed before it."""
        (close,) = self.of(Close)
        assert close == self.commands[-1] == Close(close.reason, broken=True)
        assert not self.of(Dial)
        assert self.session.facts.decision == "refused"
        return str(close.reason)


# --- server: the clients' TLS ends here ----------------------------------------------------------------------------


def test_server_from_the_first_byte_to_the_splice() -> None:
    talk = Conversation(server(half_close_timeout=77.0, handshake_timeout=5.0))
    assert talk.commands == [SetDeadline(5.0), StartTLS(Side.CLIENT)]
    assert talk.secured() == [Hold(), SetDeadline(3.0), Dial(PLAIN, FIRST)]
    assert talk.tell(Dialed()) == [SetDeadline(None), Splice(None, b"", NOW + 600, 77.0, True)]
    facts = talk.session.facts
    assert (facts.subject, facts.decision, facts.rule) == ("meter-7", "allowed", "rules:1: so it is written")
    assert (facts.tls, facts.upstream) == ("TLSv1.3", "tunnel:grpc grpc1.example:50051")
    assert facts.serial is not None
    assert int(facts.serial, 16) == METER.certificate.serial_number


def test_what_the_rules_are_asked() -> None:
    rules = Rules()
    Conversation(server(admission=rules)).secured()
    ((identity, address),) = rules.asked
    assert identity is not None
    assert (identity.kind, identity.subject, address) == ("certificate", "meter-7", CLIENT.host)
    assert (identity.expires, identity.issuers) == (NOW + 600, (b"issuer",))


def test_no_rule_no_dial() -> None:
    talk = Conversation(server(admission=Rules(False)))
    talk.secured()
    assert talk.refusal == "denied: rules:1: so it is written"
    assert talk.session.facts.subject == "meter-7"
    assert talk.session.facts.rule is None


def test_who_shows_no_certificate_is_nobody_and_the_rules_say_what_that_may() -> None:
    count = Count()
    for allowed in (True, False):
        rules = Rules(allowed)
        talk = Conversation(server(admission=rules), admit=count)
        talk.secured(H2)
        assert rules.asked == [(None, CLIENT.host)]
        assert talk.dials == ([FIRST] if allowed else [])
        assert (talk.session.facts.subject, talk.session.facts.serial) == (None, None)
    assert count.counted == []


def test_nobody_proven_never_expires() -> None:
    talk = Conversation(server())
    talk.secured(H2)
    assert talk.tell(Dialed()) == [SetDeadline(None), Splice(linger=600.0, faithful=True)]


def test_a_certificate_that_names_two_is_nobodys() -> None:
    rules = Rules()
    talk = Conversation(server(admission=rules))
    talk.secured(shown(NOBODY))
    assert talk.refusal.startswith("denied: ")
    assert rules.asked == []


@pytest.mark.parametrize("alpn", [b"", b"http/1.1", b"h2c", b"H2", b"h2\0"])
def test_another_protocol_than_ours_is_refused_before_anybody_is_asked(alpn: bytes) -> None:
    """None at all, too: a browser may have been lured here with bytes that were meant for another service."""
    rules = Rules()
    talk = Conversation(server(admission=rules))
    talk.secured(shown(alpn=alpn))
    assert "ALPN" in talk.refusal
    assert rules.asked == []


@pytest.mark.parametrize(("ours", "theirs"), [((), b""), ((), b"x"), ((b"h2", b"x"), b"x"), ((b"h2", b"x"), b"h2")])
def test_protocols_that_will_do(ours: tuple[bytes, ...], theirs: bytes) -> None:
    talk = Conversation(server(alpn=ours))
    talk.secured(shown(alpn=theirs))
    assert talk.dials == [FIRST]


@pytest.mark.parametrize("expires", [NOW - 1, NOW])
def test_a_certificate_that_has_expired_since_its_handshake_began(expires: float) -> None:
    rules = Rules()
    talk = Conversation(server(admission=rules))
    talk.secured(shown(expires=expires))
    assert talk.refusal == "denied: the certificate has expired"
    assert rules.asked == []


def test_too_many_of_one_subject() -> None:
    count = Count(room=False)
    talk = Conversation(server(), admit=count)
    talk.secured()
    assert talk.refusal == "too many connections of this subject"
    assert count.counted == ["meter-7"]


def test_only_those_who_were_let_in_are_counted_and_once() -> None:
    count = Count()
    for allowed in (False, True):
        talk = Conversation(server(admission=Rules(allowed)), admit=count)
        talk.secured()
    talk.tell(Lost(Side.UPSTREAM, "refused"))
    talk.tell(Dialed())
    assert count.counted == ["meter-7"]


def test_a_reload_reaches_who_is_still_in_the_handshake() -> None:
    talk = Conversation(server())
    talk.access = server(admission=Rules(False))
    talk.secured()
    assert talk.refusal == "denied: rules:1: so it is written"
    talk = Conversation(server(admission=Rules(False)))
    rules = Rules()
    talk.access = server(admission=rules, identity="dns", upstream=replace(PLAIN, addresses=(SECOND,)), alpn=(b"x",))
    talk.secured()
    assert rules.subjects == ["meter.example"]
    assert talk.dials == [FIRST], "where its own door led"


@pytest.mark.parametrize(("cn", "source"), [("key", "cn"), ("id", "uri")])
def test_how_a_certificate_is_read_is_configured(monkeypatch: pytest.MonkeyPatch, cn: str, source: str) -> None:
    asked: list[Any] = []

    def read(*what: Any, **how: Any) -> Identity:
        asked.append((what, how))
        return Identity("certificate", "key:0123456789abcdef", NOW + 600, key=b"secret")

    monkeypatch.setattr(tunnel, "from_certificate", read)
    talk = Conversation(server(cn=cn, identity=source))
    tls = shown()
    talk.secured(tls)
    assert asked == [((tls.peer_certificate, NOW + 600, (b"issuer",)), {"cn": cn, "source": source})]
    assert talk.session.facts.subject == "key:0123456789abcdef"
    assert "secret" not in repr(talk.session.facts) + repr(talk.commands)


def test_a_handshake_that_takes_too_long() -> None:
    talk = Conversation(server())
    talk.tell(TimedOut())
    assert talk.refusal == "timed out in the TLS handshake"


def test_a_handshake_that_fails_leaves_its_alert_to_be_read() -> None:
    talk = Conversation(server())
    assert talk.tell(Lost(Side.CLIENT, "certificate verify failed")) == [Close("certificate verify failed")]


def test_an_upstream_with_tls_of_its_own() -> None:
    talk = Conversation(server(upstream=REMOTE))
    talk.secured()
    assert talk.tell(Dialed()) == [StartTLS(Side.UPSTREAM)]
    talk.tell(Secured(Side.UPSTREAM, TLSFacts("TLSv1.2", b"h2")))
    assert talk.of(Splice) == [Splice(None, b"", NOW + 600, 600.0, True)]
    assert talk.session.facts.tls == "TLSv1.3", "the client's"


# --- client: TLS begins here -----------------------------------------------------------------------------------------


def test_client_from_the_first_byte_to_the_splice() -> None:
    """A client is not even read before the remote has proven who it is."""
    talk = Conversation(client(half_close_timeout=77.0), peer=LOCAL)
    assert talk.commands == [Hold(), SetDeadline(3.0), Dial(REMOTE, FIRST)]
    assert talk.tell(Dialed()) == [StartTLS(Side.UPSTREAM)]
    splice = Splice(None, b"", None, 77.0, True)
    assert talk.tell(Secured(Side.UPSTREAM, H2)) == [SetDeadline(None), splice]
    facts = talk.session.facts
    assert (facts.subject, facts.serial) == (None, None)
    assert (facts.decision, facts.rule) == ("allowed", "rules:1: so it is written")
    assert (facts.tls, facts.upstream) == ("TLSv1.3", "tunnel:grpc grpc1.example:50051")


@pytest.mark.parametrize("peer", [LOCAL, Address("", 0)])
def test_a_local_client_is_nobody_at_its_address(peer: Address) -> None:
    rules = Rules(False)
    talk = Conversation(client(admission=rules), peer=peer)
    assert talk.refusal == "denied: rules:1: so it is written"
    assert rules.asked == [(None, peer.host)]


@pytest.mark.parametrize("alpn", [b"", b"http/1.1"])
def test_a_remote_that_does_not_speak_ours_is_passed_over(alpn: bytes) -> None:
    talk = Conversation(client())
    talk.tell(Dialed())
    assert talk.tell(Secured(Side.UPSTREAM, TLSFacts("TLSv1.3", alpn)))[-1] == Dial(REMOTE, SECOND)
    talk.tell(Dialed())
    (close,) = talk.tell(Secured(Side.UPSTREAM, TLSFacts("TLSv1.3", alpn)))
    assert isinstance(close, Close)
    assert close.broken
    assert "ALPN" in close.reason
    assert not talk.of(Splice)


def test_a_remote_without_alpn_where_none_is_asked_for() -> None:
    talk = Conversation(client(alpn=()))
    talk.tell(Dialed())
    talk.tell(Secured(Side.UPSTREAM, TLSFacts("TLSv1.3")))
    assert talk.of(Splice)


def test_a_remote_in_clear_where_that_is_written() -> None:
    """`insecure = yes`, which the configuration wants to see for it."""
    talk = Conversation(client(upstream=PLAIN))
    assert talk.tell(Dialed()) == [SetDeadline(None), Splice(linger=600.0, faithful=True)]
    assert talk.session.facts.tls is None


def test_a_remote_that_does_not_prove_its_name_hears_nothing() -> None:
    talk = Conversation(client())
    talk.tell(Data(Side.CLIENT, b"secret"))
    for _ in range(2):
        talk.tell(Dialed())
        talk.tell(Lost(Side.UPSTREAM, "the upstream's certificate is not for grpc.example"))
    assert not talk.of(Send)
    assert not talk.of(Splice)
    reason = "upstream tunnel:grpc grpc2.example:50051: the upstream's certificate is not for grpc.example"
    assert talk.commands[-1] == Close(reason, broken=True)


def test_what_a_remote_says_in_clear_ends_it() -> None:
    for reached in (False, True):
        talk = Conversation(client())
        if reached:
            talk.tell(Dialed())
        (close,) = talk.tell(Data(Side.UPSTREAM, b"PRI * HTTP/2.0"))
        assert isinstance(close, Close)
        assert close.broken


# --- the next address ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [Lost(Side.UPSTREAM, "connection refused"), TimedOut()])
@pytest.mark.parametrize("access", [server(upstream=REMOTE), client()])
@pytest.mark.parametrize("reached", [False, True])
def test_next_address(access: TunnelAccess, event: Event, reached: bool) -> None:
    talk = Conversation(access)
    if access.server:
        talk.secured()
    if reached:
        talk.tell(Dialed())
    assert talk.tell(event) == [SetDeadline(3.0), Dial(REMOTE, SECOND)]
    assert talk.session.facts.upstream == "tunnel:grpc grpc2.example:50051"
    assert talk.tell(Dialed()) == [StartTLS(Side.UPSTREAM)]
    talk.tell(Secured(Side.UPSTREAM, H2))
    assert talk.of(Splice)


def test_no_address_is_left() -> None:
    talk = Conversation(server())
    talk.secured()
    talk.tell(TimedOut())
    (close,) = talk.tell(Lost(Side.UPSTREAM, "no route to host"))
    assert close == Close("upstream tunnel:grpc grpc2.example:50051: no route to host", broken=True)
    assert talk.session.facts.decision == "refused"
    assert talk.dials == [FIRST, SECOND]


@pytest.mark.parametrize("access", [server(), client()])
def test_no_address_at_all(access: TunnelAccess) -> None:
    talk = Conversation(replace(access, upstream=replace(access.upstream, addresses=())))
    if access.server:
        talk.secured()
    assert talk.refusal == "the upstream has no address"


# --- what the client sent meanwhile ----------------------------------------------------------------------------------


@pytest.mark.parametrize("access", [server(), client()])
def test_what_was_already_read_goes_first_and_in_order(access: TunnelAccess) -> None:
    talk = Conversation(access)
    if access.server:
        talk.secured()
    assert talk.tell(Data(Side.CLIENT, b"PRI * ")) == []
    talk.tell(Lost(Side.UPSTREAM, "refused"))
    talk.tell(Dialed())
    if not access.server:
        assert talk.tell(Data(Side.CLIENT, b"HTTP/2.0")) == []
        talk.tell(Secured(Side.UPSTREAM, H2))
    (splice,) = talk.of(Splice)
    assert splice.to_upstream == (b"PRI * " if access.server else b"PRI * HTTP/2.0")
    assert not talk.of(Send)


@pytest.mark.parametrize("access", [server(), client()])
def test_what_a_client_sends_ahead_is_bounded(access: TunnelAccess) -> None:
    talk = Conversation(access)
    if access.server:
        talk.secured()
    assert talk.tell(Data(Side.CLIENT, bytes(MAX_AHEAD))) == []
    assert talk.tell(Data(Side.CLIENT, b"x")) == [Close("too many bytes ahead of the upstream", broken=True)]


def test_bytes_before_the_handshake_is_over_are_nobodys() -> None:
    talk = Conversation(server())
    talk.tell(Data(Side.CLIENT, b"PRI"))
    assert talk.refusal == "Data client is not expected while HANDSHAKE"


# --- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("access", [server(), client()])
def test_over_the_limit_nothing_is_done(access: TunnelAccess) -> None:
    talk = Conversation(access, over_limit=True)
    assert talk.commands == [Close("too many connections", broken=True)]
    assert talk.secured() == []


@pytest.mark.parametrize("access", [server(), client()])
@pytest.mark.parametrize(
    ("event", "reason"), [(Expired(), "the certificate has expired"), (Idle(), "idle for too long")]
)
def test_an_end_of_ours_does_not_look_like_the_upstreams(access: TunnelAccess, event: Event, reason: str) -> None:
    talk = Conversation(access).open()
    assert talk.tell(event) == [Close(reason, broken=True)]
    assert talk.tell(ShuttingDown()) == []


@pytest.mark.parametrize("access", [server(), client()])
def test_a_shutdown_waits_until_nothing_moves_and_an_expiry_does_not_wait_for_it(access: TunnelAccess) -> None:
    talk = Conversation(access).open()
    assert talk.tell(ShuttingDown()) == [Close("the gateway is shutting down", patient=True, broken=True)]
    assert talk.tell(Expired()) == [Close("the certificate has expired", broken=True)]


def test_a_shutdown_before_the_splice() -> None:
    for step in range(3):
        talk = Conversation(server(upstream=REMOTE))
        for event in (Secured(Side.CLIENT, shown()), Dialed())[:step]:
            talk.tell(event)
        assert talk.tell(ShuttingDown()) == [Close("the gateway is shutting down", broken=True)]
        assert talk.tell(Dialed()) == []


@pytest.mark.parametrize("access", [server(upstream=REMOTE), client()])
def test_a_client_that_goes_away_is_not_dialed_for_any_longer(access: TunnelAccess) -> None:
    for reached in (False, True):
        talk = Conversation(access)
        if access.server:
            talk.secured()
        if reached:
            talk.tell(Dialed())
        assert talk.tell(Lost(Side.CLIENT, "reset")) == [Close("reset")]
        assert talk.tell(Lost(Side.UPSTREAM, "refused")) == []
        assert talk.dials == [FIRST]


def test_ended_is_the_end() -> None:
    for talk in (Conversation(server()), Conversation(client()), Conversation(server()).open()):
        for event in (Ended(), Dialed(), ShuttingDown(), Expired()):
            assert talk.tell(event) == []


# --- whatever comes --------------------------------------------------------------------------------------------------

HONEST_SERVER: list[Event] = [Secured(Side.CLIENT, shown()), Dialed()]
HONEST_CLIENT: list[Event] = [Dialed(), Secured(Side.UPSTREAM, H2)]
WORTHLESS: list[Event] = [
    Secured(Side.CLIENT, tls)
    for tls in (H2, shown(NOBODY), shown(alpn=b""), shown(alpn=b"x"), shown(expires=NOW), shown(issue(CA, "mallory")))
]
EVENTS = st.sampled_from(
    [
        Opened(CLIENT),
        Dialed(),
        Secured(Side.UPSTREAM, H2),
        TimedOut(),
        TimedOut(stalled=Side.CLIENT),
        Expired(),
        Idle(),
        ShuttingDown(),
        Killed("an operator"),
        Reloaded(),
        Lost(Side.CLIENT, "gone"),
        Lost(Side.UPSTREAM, "gone", orderly=True),
        Data(Side.CLIENT, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        Data(Side.UPSTREAM, b"\0\0\0\4\0\0\0\0\0"),
        Ended(),
    ]
)
unhurried = settings(deadline=None)


class OnlyMeter(Rules):
    def decide(self, identity: Identity | None, address: str, method: str = "") -> Verdict:
        self.allowed = identity is not None and identity.subject == "meter-7"
        return super().decide(identity, address, method)


@unhurried
@given(st.lists(EVENTS | st.sampled_from(WORTHLESS), max_size=8), st.sampled_from([PLAIN, REMOTE]))
def test_nothing_is_dialed_without_proof_and_verdict(events: list[Event], upstream: Upstream) -> None:
    talk = Conversation(server(admission=OnlyMeter(), upstream=upstream))
    for event in events:
        talk.tell(event)
    assert not talk.of(Dial)
    assert not talk.of(Splice)
    assert talk.session.facts.decision == "refused"


@unhurried
@given(st.lists(EVENTS | st.sampled_from(WORTHLESS), max_size=8))
def test_no_byte_goes_on_before_the_remote_is_verified(events: list[Event]) -> None:
    talk = Conversation(client())
    for event in events:
        if not (isinstance(event, Secured) and event.side is Side.UPSTREAM):
            talk.tell(event)
    assert not talk.of(Splice)
    assert not talk.of(Send)


@unhurried
@given(st.integers(0, 2), st.lists(EVENTS | st.sampled_from(WORTHLESS + HONEST_SERVER), max_size=8), st.booleans())
def test_never_raises_and_ends_once(size: int, events: list[Event], ends_tls: bool) -> None:
    talk = Conversation(server() if ends_tls else client())
    ended = False
    for event in (*(HONEST_SERVER if ends_tls else HONEST_CLIENT)[:size], *events, Ended()):
        commands = talk.tell(event)
        assert not (ended and commands)
        final = [command for command in commands if isinstance(command, Close) and not command.patient]
        ended = ended or bool(final) or isinstance(event, Ended)
        if final:
            assert commands[-1] is final[0]
    assert len(talk.of(Splice)) <= 1
