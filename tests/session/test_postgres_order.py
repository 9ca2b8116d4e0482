"""What never happens, in whatever order events come: no dial without proof, no OK before the upstream's, no bug."""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.session.vocabulary import (
    Close,
    Data,
    Dial,
    Dialed,
    Ended,
    Event,
    Expired,
    Idle,
    Killed,
    Lost,
    Opened,
    Reloaded,
    Secured,
    ShuttingDown,
    Side,
    Sniffed,
    Splice,
    TimedOut,
    TLSFacts,
)
from gateway.upstream import Login, TLSMode
from tests.fakes import (
    ALICE,
    CLIENT,
    FIRST,
    GSSENC_REQUEST,
    IS_SUPERUSER,
    KEY_DATA,
    NOT_SUPERUSER,
    NOW,
    OK,
    READY,
    SSL_REQUEST,
    STRANGER,
    WELCOME,
    Conversation,
    access,
    cancel_request,
    error,
    message,
    packet,
    password,
    startup,
    token,
    upstream,
)

QUERY = message(b"Q", b"select 1\0")
TLS = TLSFacts("TLSv1.3")
# The machine that runs the tests may be busy with something else.
unhurried = settings(deadline=None)


LATER: list[Event] = [
    Dialed(),
    Secured(Side.UPSTREAM, TLS),
    TimedOut(),
    Expired(),
    Idle(),
    ShuttingDown(),
    Killed("an operator"),
    Reloaded(),
    Sniffed(b"\x16"),
]
WORTHLESS = [b"", b"x", token("bob"), token(key=STRANGER), token(exp=NOW), token("mallory"), token()[:-4] + b"AAAA"]
CLIENT_DATA = st.sampled_from([
    SSL_REQUEST,
    GSSENC_REQUEST,
    ALICE,
    startup({b"user": b"mallory"}),
    startup({b"user": b"alice", b"options": b"-c session_authorization=postgres"}),
    startup({b"user": b"alice", b"_pq_.x": b"1"}, (3, 9)),
    cancel_request(1, b"gues"),
    packet(2 << 16),
    QUERY,
    *map(password, WORTHLESS),
]) | st.binary(max_size=24)  # fmt: skip
HONEST_EVENTS: list[Event] = [
    Opened(CLIENT),
    Sniffed(b"\0"),
    Data(Side.CLIENT, SSL_REQUEST),
    Secured(Side.CLIENT, TLS),
    Data(Side.CLIENT, ALICE),
    Data(Side.CLIENT, password(token())),
    Dialed(),
    Data(Side.UPSTREAM, WELCOME),
    Data(Side.UPSTREAM, NOT_SUPERUSER),
]
EVENTS = (
    CLIENT_DATA.map(lambda data: Data(Side.CLIENT, data))
    | st.sampled_from([WELCOME, NOT_SUPERUSER, OK, READY, b"S", b"N", error(C="28P01")]).map(
        lambda data: Data(Side.UPSTREAM, data)
    )
    | st.binary(max_size=24).map(lambda data: Data(Side.UPSTREAM, data))
    | st.sampled_from([*HONEST_EVENTS[:5], *LATER, Sniffed(b"\0"), Lost(Side.UPSTREAM, "x"), Lost(Side.CLIENT, "x")])
    | st.sampled_from([Secured(Side.CLIENT, TLSFacts("TLSv1.3", b"postgresql")), Ended()])
)
FROM = st.integers(0, 5).map(lambda size: HONEST_EVENTS[:size])
MALLORY_DENIED = ("deny all mallory all", "allow all all all")


@unhurried
@given(FROM, st.lists(EVENTS, max_size=8), st.sampled_from(list(TLSMode)))
def test_nothing_is_dialed_without_proof_and_verdict(start: list[Event], events: list[Event], mode: TLSMode) -> None:
    talk = Conversation(access(*MALLORY_DENIED, upstream=upstream(mode)))
    for event in (*start[1:], *events):
        commands = talk.tell(event)
        assert not any(isinstance(command, Dial | Splice) for command in commands)
    assert talk.sent(Side.UPSTREAM) == b""
    assert OK not in talk.sent(Side.CLIENT)
    assert talk.session.facts.decision in ("refused", "cancel")


PROVEN_FROM = st.integers(6, 7).map(lambda size: HONEST_EVENTS[:size])
# Everything that an upstream may send, short of the proof that it knows the password.
IMPOSTOR = st.sampled_from([
    OK,
    READY,
    WELCOME,
    NOT_SUPERUSER,
    KEY_DATA,
    message(b"R", pack("!I", 10) + b"SCRAM-SHA-256\0\0"),
    message(b"R", pack("!I", 3)),
    message(b"R", pack("!I", 5) + b"salt"),
    message(b"R", pack("!I", 12) + b"v=" + b"A" * 43 + b"="),
    error(C="57P03"),
]) | st.binary(max_size=24)  # fmt: skip


@unhurried
@given(PROVEN_FROM, st.lists(IMPOSTOR.map(lambda data: Data(Side.UPSTREAM, data)) | EVENTS, max_size=8))
def test_never_ok_before_the_upstreams(start: list[Event], events: list[Event]) -> None:
    where = upstream(TLSMode.DISABLE, Login(None, "secret"), addresses=(FIRST, FIRST))
    talk = Conversation(access(upstream=where))
    for event in (*start[1:], *events):
        talk.tell(event)
    assert OK not in talk.sent(Side.CLIENT)
    assert not talk.spliced
    assert b"secret" not in talk.sent(Side.UPSTREAM)


def ordinary(answer: bytes) -> bool:
    """Whether that is, or holds, a row that says so."""
    return message(b"D", b"\0\1\0\0\0\1f") in answer


ANSWERS = st.sampled_from([
    IS_SUPERUSER,
    READY,
    OK,
    WELCOME,
    KEY_DATA,
    message(b"D", b"\0\1\xff\xff\xff\xff"),
    message(b"D", b"\0\0"),
    message(b"C", b"SELECT 0\0"),
    message(b"N", b"SNOTICE\0\0"),
    error(C="42501"),
]) | st.binary(max_size=24)  # fmt: skip


@unhurried
@given(st.lists(ANSWERS.map(lambda data: Data(Side.UPSTREAM, data)) | EVENTS, max_size=8))
def test_never_in_before_the_role_is_known_to_be_ordinary(events: list[Event]) -> None:
    """One who reports is_superuser=off, and every answer to our question but the right one."""
    talk = Conversation()
    talk.superuser = None
    for event in HONEST_EVENTS[1:8]:
        talk.tell(event)
    for event in events:
        if isinstance(event, Data) and event.side is Side.UPSTREAM and ordinary(event.data):
            continue
        talk.tell(event)
    assert not talk.spliced
    assert OK not in talk.sent(Side.CLIENT)


@unhurried
@given(st.integers(0, 9), st.lists(EVENTS | st.sampled_from(HONEST_EVENTS), max_size=8), st.sampled_from(list(TLSMode)))
def test_never_raises_and_ends_once(size: int, events: Sequence[Event], mode: TLSMode) -> None:
    talk = Conversation(access(upstream=upstream(mode)))
    ended = False
    for event in (*HONEST_EVENTS[1:size], *events, Ended()):
        commands = talk.session.handle(event)
        assert not (ended and commands)
        final = [command for command in commands if isinstance(command, Close) and not command.patient]
        ended = ended or bool(final) or isinstance(event, Ended)
        if final:
            assert commands[-1] is final[0]
    assert len(talk.cancels) == 0
