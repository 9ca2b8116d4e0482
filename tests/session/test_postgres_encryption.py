"""Before and around TLS: what may come first, how often, and what must never cross from clear into encrypted."""

from __future__ import annotations

from collections.abc import Callable
from struct import pack

import pytest

from gateway.session.vocabulary import Close, Data, Secured, Send, SetDeadline, Side, Sniff, Sniffed, StartTLS, TLSFacts
from tests.fakes import (
    ALICE,
    ASKS_PASSWORD,
    GSSENC_REQUEST,
    SSL_REQUEST,
    Conversation,
    access,
    packet,
    password,
    startup,
    token,
)


def test_the_first_byte_is_looked_at_under_a_deadline() -> None:
    talk = Conversation(access(handshake_timeout=7.0))
    assert talk.commands == [SetDeadline(7.0), Sniff()]
    assert talk.tell(Sniffed(b"\0")) == []


def test_ssl_request() -> None:
    talk = Conversation().clear()
    assert talk.client(SSL_REQUEST) == [Send(Side.CLIENT, b"S"), StartTLS(Side.CLIENT)]
    assert talk.tell(Secured(Side.CLIENT, TLSFacts("TLSv1.2"))) == []
    assert talk.session.facts.tls == "TLSv1.2"


def test_ssl_request_byte_by_byte() -> None:
    talk = Conversation().clear()
    for byte in SSL_REQUEST[:-1]:
        assert talk.client(bytes([byte])) == []
    assert talk.client(SSL_REQUEST[-1:]) == [Send(Side.CLIENT, b"S"), StartTLS(Side.CLIENT)]


def test_gssenc_request_then_ssl_request() -> None:
    """Only the one that was not answered yes can be followed by the other."""
    talk = Conversation().clear()
    assert talk.client(GSSENC_REQUEST) == [Send(Side.CLIENT, b"N")]
    assert talk.client(SSL_REQUEST) == [Send(Side.CLIENT, b"S"), StartTLS(Side.CLIENT)]


def test_gssenc_request_twice() -> None:
    talk = Conversation().clear()
    talk.client(GSSENC_REQUEST)
    talk.client(GSSENC_REQUEST)
    assert talk.sqlstate == "08P01"
    assert talk.sent(Side.CLIENT)[:2] == b"NE"
    assert talk.of(StartTLS) == []


@pytest.mark.parametrize("request_in_tls", [SSL_REQUEST, GSSENC_REQUEST])
def test_encryption_request_inside_tls(request_in_tls: bytes) -> None:
    """Also the second of the two orders: SSLRequest was granted, so nothing is left to ask for."""
    talk = Conversation().secure()
    talk.client(request_in_tls)
    assert talk.sqlstate == "08P01"
    assert len(talk.of(StartTLS)) == 1


@pytest.mark.parametrize("stuffed", [b"\0", ALICE, SSL_REQUEST, GSSENC_REQUEST, b"\x16\x03\x01"])
@pytest.mark.parametrize("first", [SSL_REQUEST, GSSENC_REQUEST])
def test_bytes_stuffed_after_an_encryption_request(first: bytes, stuffed: bytes) -> None:
    """CVE-2021-23214: a man in the middle puts clear bytes before the handshake."""
    talk = Conversation().clear()
    talk.client(first + stuffed)
    assert talk.sqlstate == "08P01"
    assert "unencrypted bytes" in talk.reason
    assert talk.of(StartTLS) == []
    assert talk.of(Send) == []


def test_clear_bytes_after_the_answer_are_not_the_sessions() -> None:
    """From StartTLS on, the transport decrypts; clear data reaching the session is refused, and nothing is told."""
    talk = Conversation().clear()
    talk.client(SSL_REQUEST)
    talk.client(ALICE)
    assert isinstance(talk.commands[-1], Close)
    assert talk.sqlstate is None


def test_plain_startup_message() -> None:
    talk = Conversation().clear()
    talk.client(ALICE)
    assert talk.sqlstate == "28000"
    assert talk.of(Send) == []
    assert "plain text" in talk.reason


def test_plain_startup_message_after_a_refused_gssenc_request() -> None:
    talk = Conversation().clear()
    talk.client(GSSENC_REQUEST)
    talk.client(ALICE + password(token()))
    assert talk.sqlstate == "28000"
    assert talk.dials == []


# --- direct TLS --------------------------------------------------------------------------------------------------


def direct(alpn: bytes) -> Conversation:
    talk = Conversation()
    assert talk.tell(Sniffed(b"\x16")) == [StartTLS(Side.CLIENT)]
    talk.tell(Secured(Side.CLIENT, TLSFacts("TLSv1.3", alpn=alpn)))
    return talk


def test_direct_tls() -> None:
    talk = direct(b"postgresql")
    assert talk.client(ALICE) == [Send(Side.CLIENT, ASKS_PASSWORD)]


@pytest.mark.parametrize("alpn", [b"", b"http/1.1", b"postgres", b"PostgreSQL", b"postgresql\0"])
def test_direct_tls_needs_its_alpn(alpn: bytes) -> None:
    """Else a browser or another protocol's bytes could be played against this port (ALPACA)."""
    talk = direct(alpn)
    assert talk.sqlstate == "08P01"
    assert talk.client(ALICE) == []


def test_negotiated_tls_needs_no_alpn() -> None:
    assert Conversation().asked().commands[-1] == Send(Side.CLIENT, ASKS_PASSWORD)


@pytest.mark.parametrize("request_in_tls", [SSL_REQUEST, GSSENC_REQUEST])
def test_encryption_request_after_direct_tls(request_in_tls: bytes) -> None:
    talk = direct(b"postgresql")
    talk.client(request_in_tls)
    assert talk.sqlstate == "08P01"
    assert talk.of(Send) == []


# --- garbage and sizes, in clear and in TLS ----------------------------------------------------------------------

PLACES: list[Callable[[], Conversation]] = [
    lambda: Conversation().clear(),
    lambda: Conversation().secure(),
    lambda: direct(b"postgresql"),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "garbage",
    [
        pack("!I", 10_001),
        pack("!I", 7),
        b"GET / HTTP/1.1\r\n",
        b"\xff\xff\xff\xff",
        packet(80877103, b"x"),
        packet(80877102, b"\0\0\0\1key"),
        packet(3 << 16, b"user\0alice"),
    ],
)
def test_garbage(place: Callable[[], Conversation], garbage: bytes) -> None:
    talk = place()
    talk.client(garbage)
    assert talk.sqlstate == "08P01"
    assert talk.session.handle(Data(Side.CLIENT, ALICE)) == []


@pytest.mark.parametrize("place", PLACES)
def test_oversize_is_refused_before_it_is_buffered(place: Callable[[], Conversation]) -> None:
    talk = place()
    talk.client(pack("!I", 10_001)[:3])
    assert talk.closed is None
    talk.client(pack("!I", 10_001)[3:])
    assert talk.sqlstate == "08P01"
    assert len(talk.session._buffer) <= 4


def test_longest_startup_packet_is_taken() -> None:
    room = 10_000 - len(startup({b"user": b"alice", b"options": b""}))
    talk = Conversation().asked(startup({b"user": b"alice", b"options": b"o" * room}))
    assert talk.commands[-1] == Send(Side.CLIENT, ASKS_PASSWORD)
