"""How an operator, and a reload, end a PostgreSQL session, in each of its states; and whom they leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.serials import serial_text
from gateway.session.vocabulary import Close, Command, Dialed, Killed, Reloaded, ShuttingDown, Side, Sniffed
from gateway.tokens import TokenVerifier, VerificationKey
from gateway.upstream import TLSMode
from tests.fakes import (
    ISSUER,
    NOW,
    UPSTREAM_PID,
    WELCOME,
    Conversation,
    access,
    base64url,
    cancel_request,
    fields,
    messages,
    password,
    token,
    upstream,
)
from tests.pki import issue, make_ca

KILL = Killed("killed by an operator")
CERTIFICATE = b"DER of a certificate"


def sniffed() -> Conversation:
    talk = Conversation()
    talk.tell(Sniffed(b"\x16"))
    return talk


def securing() -> Conversation:
    return Conversation(access(upstream=upstream(TLSMode.REQUIRE))).dialed()


# How each state is reached by somebody without a certificate.
STATES: dict[str, Callable[[], Conversation]] = {
    "first byte": Conversation,
    "clear": lambda: Conversation().clear(),
    "handshake": sniffed,
    "start-up": lambda: Conversation().secure(),
    "password": lambda: Conversation().asked(),
    "dialing": lambda: Conversation().proven(),
    "securing": securing,
    "login": lambda: Conversation().dialed(),
    "open": lambda: Conversation().open(),
}
PROVEN = ("dialing", "securing", "login", "open")


@pytest.mark.parametrize("state", STATES)
def test_killed_in_each_state(state: str) -> None:
    """In PostgreSQL's own words, wherever there is a way to say them; at once, also where it is open."""
    talk = STATES[state]()
    assert not talk.closed
    talk.tell(KILL)
    assert talk.closed
    said = fields(talk.closed.farewell)
    assert talk.closed == Close(KILL.reason, talk.closed.farewell)
    words = ("FATAL", "57P01", "terminating connection due to administrator command")
    assert (said.get("S"), said.get("C"), said.get("M")) == ((None,) * 3 if state == "handshake" else words)


def test_killed_while_it_waits_until_it_is_idle() -> None:
    """A shutdown has patience, an operator has none."""
    session = Conversation().open().session
    (shutdown,) = session.handle(ShuttingDown())
    (kill,) = session.handle(KILL)
    assert isinstance(shutdown, Close)
    assert isinstance(kill, Close)
    assert (shutdown.patient, kill.patient) == (True, False)


@pytest.mark.parametrize("sent", [False, True])
def test_a_cancel_that_is_killed(sent: bool) -> None:
    """There is no answer to a cancel request, whatever happens to it."""
    other = Conversation().open()
    (key,) = [body[4:] for kind, body in messages(other.sent(Side.CLIENT)[1:]) if kind == b"K"]
    talk = Conversation(cancels=other.cancels).clear()
    talk.client(cancel_request(UPSTREAM_PID, key))
    if sent:
        talk.tell(Dialed())
    assert talk.tell(Reloaded()) == []
    assert talk.tell(KILL) == [Close(KILL.reason)]


def test_nothing_is_heard_after_the_end() -> None:
    talk = Conversation().open()
    talk.tell(KILL)
    talk.whom.trusts = False
    assert talk.tell(Reloaded()) == talk.tell(KILL) == []


# --- a certificate's serial number, to find its sessions by -----------------------------------------------------------


def test_the_serial_number_of_the_certificate_is_told() -> None:
    """Also where the token is bound to none: what was stolen is the machine that has both."""
    issued = issue(make_ca(), "laptop").certificate
    talk = Conversation().asked(certificate=issued.public_bytes(Encoding.DER))
    assert talk.session.facts.serial == serial_text(issued.serial_number)
    talk.client(password(token()))
    assert not talk.closed
    assert (talk.session.facts.serial, talk.session.facts.jti) == (serial_text(issued.serial_number), "serial-1")


@pytest.mark.parametrize("certificate", [None, b"", CERTIFICATE, b"\x30\x80", b"\xff" * 1000])
def test_without_a_certificate_that_can_be_read_there_is_none(certificate: bytes | None) -> None:
    """It is the token that lets in."""
    talk = Conversation().asked(certificate=certificate)
    talk.client(password(token()))
    assert not talk.closed
    assert talk.session.facts.serial is None


# --- a token that is revoked ------------------------------------------------------------------------------------------


def revoke(talk: Conversation, *jtis: str) -> list[Command]:
    """By a reload."""
    verifier = TokenVerifier([VerificationKey(ISSUER.public_key())], revoked=frozenset(jtis))
    talk.access = replace(talk.access, verifier=verifier)
    return talk.tell(Reloaded())


@pytest.mark.parametrize("state", STATES)
def test_a_revoked_token_ends_who_has_shown_it(state: str) -> None:
    """In every state from its verification on; before that it is refused when it comes."""
    talk = STATES[state]()
    revoke(talk, "serial-1", "serial-2")
    assert talk.reason == ("the token has been revoked" if state in PROVEN else "")
    assert talk.sqlstate == ("57P01" if state in PROVEN else None)


@pytest.mark.parametrize("state", STATES)
def test_another_revoked_token_ends_nobody(state: str) -> None:
    assert revoke(STATES[state](), "serial-2", "") == []


def test_a_token_without_a_jti_has_no_name_to_be_revoked_by() -> None:
    claims = base64url(b'{"sub":"alice","exp":%d}' % (NOW + 600))
    signed = base64url(b'{"alg":"EdDSA"}') + b"." + claims
    talk = Conversation().proven(jwt=signed + b"." + base64url(ISSUER.sign(signed)))
    assert not talk.closed
    assert revoke(talk, "serial-1", "None", "") == []


def test_a_token_that_is_revoked_before_it_is_shown() -> None:
    talk = Conversation().asked()
    revoke(talk, "serial-1")
    talk.client(password(token()))
    assert talk.reason == "authentication failed: the token is revoked"
    assert talk.sqlstate == "28P01"
    assert talk.dials == []


def test_a_reload_leaves_what_is_open_under_the_rules_of_then() -> None:
    talk = Conversation().open()
    talk.access = access("deny all all all")
    assert talk.tell(Reloaded()) == []


# --- a certificate that is not trusted any more -----------------------------------------------------------------------


def certified(*then: Callable[[Conversation], object]) -> Conversation:
    """With a certificate, up to the request for the password, and on from there."""
    talk = Conversation().asked(certificate=CERTIFICATE)
    for step in then:
        step(talk)
    return talk


def prove(talk: Conversation) -> None:
    talk.client(password(token()))


def reach(talk: Conversation) -> None:
    talk.tell(Dialed())


def log_in(talk: Conversation) -> None:
    talk.upstream(WELCOME)
    assert talk.spliced


@pytest.mark.parametrize(
    "at",
    [
        lambda: Conversation().secure(CERTIFICATE),
        certified,
        lambda: certified(prove),
        lambda: certified(prove, reach),
        lambda: certified(prove, reach, log_in),
    ],
)
def test_a_certificate_that_is_not_trusted_any_more(at: Callable[[], Conversation]) -> None:
    """In every state from the handshake on, although it is the token that says who it is."""
    talk = at()
    assert talk.tell(Reloaded()) == []
    talk.whom.trusts = False
    talk.tell(Reloaded())
    assert talk.reason == "the client certificate is not trusted any more"
    assert talk.sqlstate == "57P01"


@pytest.mark.parametrize("state", STATES)
def test_who_has_shown_none_is_not_asked_for_one(state: str) -> None:
    talk = STATES[state]()
    talk.whom.trusts = False
    assert talk.tell(Reloaded()) == []
