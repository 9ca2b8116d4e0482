"""The way to one address of an upstream: TLS where it is configured, and no word from anybody before it."""

from __future__ import annotations

import pytest

from gateway.errors import UpstreamError
from gateway.session.postgres_upstream import Link
from gateway.session.vocabulary import Data, Dial, Dialed, Secured, Send, Side, StartTLS, TLSFacts
from gateway.upstream import Login, TLSMode
from tests.fakes import FIRST, OK, SSL_REQUEST, error, upstream

TLS = TLSFacts("TLSv1.3", peer_certificate=b"der")
VERIFYING = [TLSMode.REQUIRE, TLSMode.VERIFY_CA, TLSMode.VERIFY_FULL]


def link(mode: TLSMode) -> Link:
    return Link(upstream(mode), FIRST, Login())


def test_link_without_tls() -> None:
    there = link(TLSMode.DISABLE)
    assert there.start() == [Dial(there.upstream, FIRST, Login())]
    assert not there.ready
    assert there.handle(Dialed()) == []
    assert there.ready
    assert there.tls is None


@pytest.mark.parametrize("mode", VERIFYING)
def test_link_with_tls(mode: TLSMode) -> None:
    there = link(mode)
    there.start()
    assert there.handle(Dialed()) == [Send(Side.UPSTREAM, SSL_REQUEST)]
    assert there.handle(Data(Side.UPSTREAM, b"S")) == [StartTLS(Side.UPSTREAM)]
    assert not there.ready
    assert there.handle(Secured(Side.UPSTREAM, TLS)) == []
    assert there.ready
    assert there.tls == TLS


@pytest.mark.parametrize("mode", VERIFYING)
@pytest.mark.parametrize(
    "answer",
    [
        b"N",
        b"SX",
        b"SS",
        b"NN",
        b"E",
        b"s",
        b"\0",
        b"G",
        b"S" + OK,
        error(S="FATAL", C="53300", M="a man in the middle says hello"),
    ],
)
def test_anything_but_one_s_ends_the_link(mode: TLSMode, answer: bytes) -> None:
    """CVE-2021-23222, CVE-2024-10977, and no downgrade to clear text. What it said is not even in the reason."""
    there = link(mode)
    there.handle(Dialed())
    with pytest.raises(UpstreamError) as caught:
        there.handle(Data(Side.UPSTREAM, answer))
    assert "hello" not in str(caught.value)
    assert not there.ready


@pytest.mark.parametrize("mode", VERIFYING)
def test_bytes_that_were_not_asked_for(mode: TLSMode) -> None:
    for answers in ([], [b"S"]):
        there = link(mode)
        there.start()
        if answers:
            there.handle(Dialed())
            there.handle(Data(Side.UPSTREAM, b"S"))
        with pytest.raises(UpstreamError):
            there.handle(Data(Side.UPSTREAM, b"S"))
