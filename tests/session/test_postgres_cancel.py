"""CancelRequest: in clear and in TLS, to the right backend the right way, and never a word to the client."""

from __future__ import annotations

from collections.abc import Callable
from struct import pack, unpack

import pytest

from gateway.session.cancel import CancelKeys
from gateway.session.vocabulary import (
    Close,
    Data,
    Dial,
    Dialed,
    Ended,
    Event,
    Expired,
    Lost,
    Secured,
    Send,
    SetDeadline,
    ShuttingDown,
    Side,
    StartTLS,
    TimedOut,
    TLSFacts,
)
from gateway.upstream import Address, Login, TLSMode
from tests.fakes import (
    ALICE,
    CLIENT,
    FIRST,
    IS_SUPERUSER,
    OK,
    ORDINARY_ROLE,
    READY,
    SECOND,
    SSL_REQUEST,
    UPSTREAM_KEY,
    UPSTREAM_PID,
    WELCOME,
    Conversation,
    access,
    cancel_request,
    messages,
    password,
    startup,
    token,
    upstream,
)


def key_given(talk: Conversation) -> tuple[int, bytes]:
    """Of the BackendKeyData that the client got."""
    (body,) = [body for kind, body in messages(talk.sent(Side.CLIENT)[1:]) if kind == b"K"]
    return unpack("!i", body[:4])[0], body[4:]


PASSED_ON = cancel_request(UPSTREAM_PID, UPSTREAM_KEY)
PLACES: list[Callable[[Conversation], Conversation]] = [Conversation.clear, Conversation.secure]


@pytest.fixture
def live() -> Conversation:
    """An open session without TLS upstream."""
    return Conversation().open()


def cancelling(live: Conversation, place: Callable[[Conversation], Conversation] = Conversation.clear) -> Conversation:
    return place(Conversation(cancels=live.cancels))


@pytest.mark.parametrize(("version", "size"), [((3, 0), 4), ((3, 1), 4), ((3, 2), 32), ((3, 9), 32)])
def test_key_is_our_own_and_of_the_versions_size(version: tuple[int, int], size: int) -> None:
    talk = Conversation().open(startup({b"user": b"alice", b"database": b"shop"}, version))
    pid, key = key_given(talk)
    assert pid == UPSTREAM_PID
    assert len(key) == size
    assert UPSTREAM_KEY not in talk.sent(Side.CLIENT)
    assert len(talk.cancels) == 1


def test_no_key_where_the_upstream_gave_none() -> None:
    talk = Conversation().open(welcome=OK + ORDINARY_ROLE + READY)
    assert [kind for kind, _ in messages(talk.sent(Side.CLIENT)[1:])] == [b"R", b"R", b"S", b"Z"]
    assert len(talk.cancels) == 0


@pytest.mark.parametrize("place", PLACES)
def test_cancel(live: Conversation, place: Callable[[Conversation], Conversation]) -> None:
    talk = cancelling(live, place)
    before = talk.sent(Side.CLIENT)
    asked = talk.client(cancel_request(*key_given(live)))
    assert asked == [SetDeadline(10.0), Dial(upstream(), FIRST, Login())]
    assert talk.tell(Dialed()) == [Send(Side.UPSTREAM, PASSED_ON)]
    assert talk.tell(Lost(Side.UPSTREAM, "closed")) == [Close("cancel: passed on")]
    assert talk.sent(Side.CLIENT) == before
    assert talk.session.facts.decision == "cancel"
    assert talk.session.facts.subject == "alice"
    assert len(live.cancels) == 1


def test_cancel_byte_by_byte(live: Conversation) -> None:
    talk = cancelling(live)
    for byte in cancel_request(*key_given(live)):
        assert talk.dials == []
        talk.client(bytes([byte]))
    assert talk.dials == [FIRST]


@pytest.mark.parametrize("mode", [TLSMode.REQUIRE, TLSMode.VERIFY_CA, TLSMode.VERIFY_FULL])
def test_cancel_goes_the_sessions_way(mode: TLSMode) -> None:
    """The same address, login and TLS mode as the session that it is for, whatever a reload has changed since."""
    role = Login("alice", certificate=None, password=None)
    where = upstream(mode, role, addresses=(FIRST, SECOND))
    live = Conversation(access(upstream=where)).proven()
    live.tell(Lost(Side.UPSTREAM, "refused"))
    live.tell(Dialed())
    live.upstream(b"S")
    live.tell(Secured(Side.UPSTREAM, TLSFacts("TLSv1.3")))
    live.upstream(WELCOME)
    talk = Conversation(access(upstream=upstream()), cancels=live.cancels).clear()
    assert talk.client(cancel_request(*key_given(live)))[1:] == [Dial(where, SECOND, role)]
    assert talk.tell(Dialed()) == [Send(Side.UPSTREAM, SSL_REQUEST)]
    assert talk.upstream(b"S") == [StartTLS(Side.UPSTREAM)]
    assert talk.tell(Secured(Side.UPSTREAM, TLSFacts("TLSv1.3"))) == [Send(Side.UPSTREAM, PASSED_ON)]


@pytest.mark.parametrize("answer", [b"N", b"SX", b"E"])
def test_the_key_is_never_sent_without_the_tls_it_needs(answer: bytes) -> None:
    live = Conversation(access(upstream=upstream(TLSMode.REQUIRE))).proven()
    live.tell(Dialed())
    live.upstream(b"S")
    live.tell(Secured(Side.UPSTREAM, TLSFacts("TLSv1.3")))
    live.upstream(WELCOME)
    talk = cancelling(live)
    talk.client(cancel_request(*key_given(live)))
    talk.tell(Dialed())
    talk.upstream(answer)
    assert talk.closed
    assert talk.sent(Side.UPSTREAM) == SSL_REQUEST
    assert talk.sqlstate is None


@pytest.mark.parametrize("place", PLACES)
def test_unknown_keys_dial_nothing(live: Conversation, place: Callable[[Conversation], Conversation]) -> None:
    pid, key = key_given(live)
    flipped = key[:-1] + bytes([key[-1] ^ 1])
    for attempt in ((pid, flipped), (pid + 1, key), (pid, key + b"\0"), (pid, UPSTREAM_KEY), (pid, bytes(256))):
        talk = cancelling(live, place)
        before = talk.sent(Side.CLIENT)
        assert talk.client(cancel_request(*attempt)) == [Close("cancel: no such session")]
        assert talk.sent(Side.CLIENT) == before
        live.cancels.rate._buckets.clear()


@pytest.mark.parametrize("extra", [b"\0", SSL_REQUEST, ALICE])
def test_nothing_follows_a_cancel(live: Conversation, extra: bytes) -> None:
    talk = cancelling(live)
    talk.client(cancel_request(*key_given(live)) + extra)
    assert talk.closed
    assert talk.dials == []


def test_cancels_are_limited_per_address() -> None:
    """Guessing 4 bytes takes 2³¹ tries; even the right key waits once too many were tried."""
    live = Conversation(cancels=CancelKeys(2.0)).open()
    request = cancel_request(*key_given(live))
    for _ in range(2):
        assert cancelling(live).client(cancel_request(1, b"gues"))[0] == Close("cancel: no such session")
    for place in PLACES:
        talk = cancelling(live, place)
        assert talk.client(request) == [Close("cancel: too many requests from this address")]
    other = Conversation(cancels=live.cancels, client=Address("10.0.0.2", CLIENT.port)).clear()
    other.client(request)
    assert other.dials == [FIRST]


def test_key_dies_with_its_session(live: Conversation) -> None:
    request = cancel_request(*key_given(live))
    live.tell(ShuttingDown())
    assert len(live.cancels) == 1
    live.tell(Ended())
    assert len(live.cancels) == 0
    assert cancelling(live).client(request) == [Close("cancel: no such session")]
    live.tell(Ended())


def test_the_end_of_one_session_leaves_the_other() -> None:
    first = Conversation().open()
    second = Conversation(cancels=first.cancels).open()
    first.tell(Ended())
    talk = cancelling(second)
    talk.client(cancel_request(*key_given(second)))
    assert talk.dials == [FIRST]


def test_sessions_that_never_opened_leave_no_key() -> None:
    cancels = CancelKeys(5.0)
    superuser = Conversation(cancels=cancels).dialed()
    superuser.superuser = IS_SUPERUSER
    superuser.upstream(WELCOME)
    superuser.tell(Ended())
    standby = Conversation(access(upstream=upstream(target_session_attrs="read-write")), cancels=cancels).open()
    standby.tell(Ended())
    assert superuser.closed
    assert standby.closed
    assert len(cancels) == 0


def test_the_end_of_a_cancel_revokes_nothing(live: Conversation) -> None:
    talk = cancelling(live)
    talk.client(cancel_request(*key_given(live)))
    talk.tell(Ended())
    assert len(live.cancels) == 1


@pytest.mark.parametrize("dialed", [False, True])
def test_the_client_need_not_wait(live: Conversation, dialed: bool) -> None:
    """libpq closes at once in some versions; the cancel goes on."""
    talk = cancelling(live)
    talk.client(cancel_request(*key_given(live)))
    if dialed:
        talk.tell(Dialed())
    assert talk.tell(Lost(Side.CLIENT, "closed")) == []
    if not dialed:
        talk.tell(Dialed())
    assert talk.sent(Side.UPSTREAM) == PASSED_ON


@pytest.mark.parametrize("dialed", [False, True])
@pytest.mark.parametrize(
    "event",
    [
        TimedOut(),
        ShuttingDown(),
        Expired(),
        Lost(Side.UPSTREAM, "refused"),
        Data(Side.UPSTREAM, b"x"),
        Data(Side.CLIENT, b"x"),
    ],
)
def test_no_reply_whatever_happens(live: Conversation, event: Event, dialed: bool) -> None:
    talk = cancelling(live)
    talk.client(cancel_request(*key_given(live)))
    if dialed:
        talk.tell(Dialed())
    talk.tell(event)
    assert talk.closed
    assert talk.sqlstate is None
    assert talk.sent(Side.CLIENT) == b""


def test_only_one_address_is_tried(live: Conversation) -> None:
    talk = cancelling(live)
    talk.client(cancel_request(*key_given(live)))
    talk.tell(Lost(Side.UPSTREAM, "refused"))
    assert talk.reason == "cancel: refused"
    assert talk.dials == [FIRST]


def test_over_the_limit_one_can_still_cancel(live: Conversation) -> None:
    """Who has too many connections needs it most."""
    talk = Conversation(cancels=live.cancels, over_limit=True).clear()
    talk.client(cancel_request(*key_given(live)))
    assert talk.dials == [FIRST]


@pytest.mark.parametrize("body", [b"", b"\0\0\0\1", b"\0\0\0\1key", bytes(4 + 257)])
def test_malformed_cancels_dial_nothing(live: Conversation, body: bytes) -> None:
    talk = cancelling(live)
    talk.client(pack("!II", 8 + len(body), 80877102) + body)
    assert talk.closed
    assert talk.dials == []


def test_cancel_is_no_login(live: Conversation) -> None:
    talk = cancelling(live, Conversation.secure)
    talk.client(cancel_request(*key_given(live)))
    talk.tell(Dialed())
    talk.client(ALICE + password(token()))
    assert talk.sent(Side.UPSTREAM) == PASSED_ON
