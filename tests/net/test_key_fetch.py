"""When sets of keys are asked for, what is known meanwhile, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from gateway.errors import Problem, Problems
from gateway.net import key_fetch
from gateway.net.fetching import Unfetched
from gateway.net.key_fetch import FIRST_WAIT, KeyFetch, Source, sources
from gateway.settings import JWTSettings
from gateway.tokens import VerificationKey
from tests.net.test_document import Site
from tests.pki import make_ca, write_pem
from tests.registry.conftest import in_reactor

reactor: Any = installed_reactor

URL = "https://issuer.example/jwks.json"
REFRESH = 300.0
KEYS = {name: VerificationKey(Ed25519PrivateKey.generate().public_key(), name) for name in ("one", "two")}


def parse(document: bytes) -> tuple[VerificationKey, ...]:
    """A document is the names of its keys."""
    try:
        return tuple(KEYS[name] for name in document.decode().split(","))
    except KeyError:
        raise ValueError("is not a JWK Set") from None


class Issuer:
    """Answers as the test says. asked: one Deferred for each fetch."""

    def __init__(self, url: str = URL, refresh: float = REFRESH, trust: bytes = b"") -> None:
        self.source = Source(url, refresh, self._get, trust)
        self.asked: list[Deferred[bytes]] = []
        self.cancelled = 0

    def _get(self) -> Deferred[bytes]:
        def cancelled(one: Deferred[bytes]) -> None:
            self.cancelled += 1
            one.errback(CancelledError())

        self.asked.append(Deferred(cancelled))
        return self.asked[-1]

    def says(self, keys: str) -> None:
        self.asked[-1].callback(keys.encode())

    def fails(self, reason: str = "it is down") -> None:
        self.asked[-1].errback(Unfetched(reason))


class Fetching:
    """A KeyFetch under a clock of the test's."""

    def __init__(self, **issuers: Issuer) -> None:
        self.clock = Clock()
        self.keys = KeyFetch(self.clock, parse)
        self.keys.adopt({name: one.source for name, one in issuers.items()})

    def known(self, name: str = "main") -> list[str | None]:
        return [key.kid for key in self.keys.keys(name)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, stack)


@pytest.fixture(autouse=True)
def no_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_fetch, "_SPREAD", 0)


@pytest.fixture(name="said")
def log() -> Iterator[list[str]]:
    said: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_namespace", "").startswith("gateway.net.key_fetch"):
            said.append(f"{event['log_level'].name}: {formatEvent(event)}")

    globalLogPublisher.addObserver(observe)
    yield said
    globalLogPublisher.removeObserver(observe)


# --- the start --------------------------------------------------------------------------------------------------------


def test_the_start_waits_for_the_first_answers() -> None:
    issuer, other = Issuer(), Issuer()
    fetching = Fetching(main=issuer, other=other)
    assert not issuer.asked, "before the start"
    started = fetching.keys.start()
    issuer.says("one")
    assert not started.called
    assert not fetching.keys.healthy()
    other.says("two")
    assert started.called
    assert fetching.known() == ["one"]
    assert fetching.known("other") == ["two"]
    assert fetching.keys.healthy()


def test_but_not_for_one_that_fails() -> None:
    issuer = Issuer()
    fetching = Fetching(main=issuer)
    started = fetching.keys.start()
    issuer.fails()
    assert started.called
    assert fetching.known() == []


def test_nor_for_one_that_takes_its_time() -> None:
    issuer = Issuer()
    fetching = Fetching(main=issuer)
    started = fetching.keys.start()
    fetching.clock.advance(FIRST_WAIT - 0.1)
    assert not started.called
    fetching.clock.advance(0.2)
    assert started.called
    issuer.says("one")
    assert fetching.known() == ["one"]


def test_nor_at_all_where_there_is_nothing_to_wait_for() -> None:
    fetching = Fetching()
    assert fetching.keys.start().called
    assert fetching.keys.healthy() is None
    assert not fetching.clock.getDelayedCalls()


def test_a_name_without_a_url() -> None:
    assert Fetching().known("main") == []


# --- again, and again -------------------------------------------------------------------------------------------------


def test_every_refresh_seconds_after_the_answer() -> None:
    issuer = Issuer()
    fetching = Fetching(main=issuer)
    fetching.keys.start()
    fetching.clock.advance(4)
    issuer.says("one")
    fetching.clock.advance(REFRESH - 0.1)
    assert len(issuer.asked) == 1
    fetching.clock.advance(0.2)
    assert len(issuer.asked) == 2
    assert fetching.known() == ["one"], "while it is asked"
    issuer.says("two")
    assert fetching.known() == ["two"], "a key that is no longer there is no longer believed"


def test_not_all_gateways_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_fetch, "_SPREAD", 0.1)
    delays = set()
    for _ in range(20):
        issuer = Issuer()
        fetching = Fetching(main=issuer)
        fetching.keys.start()
        issuer.says("one")
        (again,) = fetching.clock.getDelayedCalls()
        delays.add(again.getTime())
    assert len(delays) > 1
    assert min(delays) >= 0.9 * REFRESH
    assert max(delays) <= 1.1 * REFRESH


def test_after_failures_with_growing_patience() -> None:
    issuer = Issuer(refresh=10)
    fetching = Fetching(main=issuer)
    fetching.keys.start()
    for wait in (1, 2, 4, 8, 10, 10):
        issuer.fails()
        before = len(issuer.asked)
        fetching.clock.advance(wait - 0.1)
        assert len(issuer.asked) == before
        fetching.clock.advance(0.1)
        assert len(issuer.asked) == before + 1
    issuer.says("one")
    fetching.clock.advance(10)
    issuer.fails()
    fetching.clock.advance(1)
    assert len(issuer.asked) == 9, "it begins anew"


def test_a_failure_that_lasts_for_days() -> None:
    issuer = Issuer(refresh=1)
    fetching = Fetching(main=issuer)
    fetching.keys.start()
    for _ in range(2_000):
        issuer.fails()
        fetching.clock.advance(1)
    issuer.says("one")
    assert fetching.known() == ["one"]


def test_the_last_good_set_is_kept(said: list[str]) -> None:
    issuer = Issuer(refresh=1)
    fetching = Fetching(main=issuer)
    fetching.keys.start()
    issuer.says("one")
    for answer in (issuer.fails, lambda: issuer.says("garbage"), issuer.fails):
        fetching.clock.advance(1)
        answer()
        assert fetching.known() == ["one"]
        assert not fetching.keys.healthy()
    fetching.clock.advance(1)
    issuer.says("one")
    assert fetching.keys.healthy()
    fetching.clock.advance(1)
    issuer.says("one")
    assert said == [
        "info: [jwt:main] jwks: fetched, 1 keys",
        "warn: [jwt:main] jwks: it is down; the last good set stays in force",
        "info: [jwt:main] jwks: fetched, 1 keys",
    ]


def test_a_set_that_was_never_there(said: list[str]) -> None:
    issuer = Issuer(refresh=1)
    fetching = Fetching(main=issuer)
    fetching.keys.start()
    issuer.says("garbage")
    fetching.clock.advance(1)
    issuer.fails()
    expected = "warn: [jwt:main] jwks: the set is not a JWK Set; until it is fetched, its tokens are refused"
    assert said == [expected]


def test_a_bug_in_reading_it_is_a_failure_like_any_other() -> None:
    def broken(_: bytes) -> tuple[VerificationKey, ...]:
        raise RecursionError("too deep")

    issuer, clock = Issuer(), Clock()
    keys = KeyFetch(clock, broken)
    keys.adopt({"main": issuer.source})
    keys.start()
    issuer.says("one")
    clock.advance(1)
    assert len(issuer.asked) == 2
    assert not keys.healthy()


# --- a key that is not known ------------------------------------------------------------------------------------------


def test_an_unknown_key_is_a_reason_to_ask_early_but_not_often() -> None:
    issuer = Issuer()
    fetching = Fetching(main=issuer)
    fetching.keys.wanted("main")
    assert not issuer.asked, "before the start"
    fetching.keys.start()
    fetching.keys.wanted("main")
    assert len(issuer.asked) == 1, "it is being asked"
    issuer.says("one")
    for _ in range(1_000):
        fetching.keys.wanted("main")
    assert len(issuer.asked) == 2
    assert not issuer.cancelled
    issuer.says("one,two")
    assert fetching.known() == ["one", "two"]
    fetching.clock.advance(29)
    fetching.keys.wanted("main")
    assert len(issuer.asked) == 2
    fetching.clock.advance(1)
    fetching.keys.wanted("main")
    assert len(issuer.asked) == 3
    issuer.says("two")
    fetching.clock.advance(REFRESH)
    assert len(issuer.asked) == 4, "the usual time counts from the last answer"
    fetching.keys.wanted("another")


# --- reload and end ---------------------------------------------------------------------------------------------------


def test_a_reload_asks_again_and_forgets_nothing() -> None:
    issuer = Issuer()
    fetching = Fetching(main=issuer)
    fetching.keys.start()
    issuer.says("one")
    again = Issuer(refresh=20)
    fetching.keys.adopt({"main": again.source})
    assert fetching.known() == ["one"]
    again.says("two")
    assert fetching.known() == ["two"]
    fetching.clock.advance(20)
    assert (len(issuer.asked), len(again.asked)) == (1, 2)


def test_what_was_under_way_at_a_reload_counts_no_more() -> None:
    issuer, again = Issuer(), Issuer()
    fetching = Fetching(main=issuer)
    fetching.keys.start()
    fetching.keys.adopt({"main": again.source})
    assert issuer.cancelled == 1
    again.says("one")
    assert fetching.known() == ["one"]
    assert len(fetching.clock.getDelayedCalls()) == 1


def test_keys_of_another_url_are_forgotten() -> None:
    issuer, elsewhere = Issuer(), Issuer("https://other.example/jwks.json")
    fetching = Fetching(main=issuer)
    fetching.keys.start()
    issuer.says("one")
    fetching.keys.adopt({"main": elsewhere.source})
    assert fetching.known() == []
    assert not fetching.keys.healthy()
    elsewhere.says("two")
    fetching.keys.adopt({})
    assert fetching.known() == []
    assert not fetching.clock.getDelayedCalls()


def test_keys_that_other_authorities_vouched_for_are_forgotten() -> None:
    """The old one may have been changed because it is not to be believed any more."""
    issuer, again, theirs = Issuer(trust=b"old"), Issuer(trust=b"old"), Issuer(trust=b"new")
    fetching = Fetching(main=issuer)
    fetching.keys.start()
    issuer.says("one")
    fetching.keys.adopt({"main": again.source})
    assert fetching.known() == ["one"]
    fetching.keys.adopt({"main": theirs.source})
    assert again.cancelled == 1
    assert fetching.known() == []
    theirs.fails()
    fetching.clock.advance(REFRESH)
    assert fetching.known() == []
    assert not fetching.keys.healthy()


def test_whoever_reloads_is_told_of_a_new_url_without_keys() -> None:
    issuer, elsewhere, another = Issuer(), Issuer("https://other.example/jwks.json"), Issuer()
    fetching = Fetching(main=issuer)
    fetching.keys.start()
    issuer.says("one")
    fetching.keys.adopt({"main": elsewhere.source, "another": another.source})
    told = fetching.keys.unfetched()
    another.says("one")
    assert not told.called
    elsewhere.fails()
    assert told.result == ["[jwt:main] jwks: it is down; until it is fetched, its tokens are refused"]


def test_nor_is_a_slow_one_waited_for_longer_than_by_the_start() -> None:
    issuer = Issuer()
    fetching = Fetching()
    fetching.keys.start()
    fetching.keys.adopt({"main": issuer.source})
    one = fetching.keys.unfetched()
    fetching.clock.advance(FIRST_WAIT - 0.1)
    other = fetching.keys.unfetched()
    assert not one.called
    fetching.clock.advance(0.1)
    assert one.result == ["[jwt:main] jwks: there is no answer yet; until it is fetched, its tokens are refused"]
    issuer.says("one")
    assert other.result == []


def test_and_of_one_that_has_none_yet_by_each_reload() -> None:
    issuer, again = Issuer(), Issuer()
    fetching = Fetching(main=issuer)
    fetching.keys.start()
    issuer.fails()
    fetching.keys.adopt({"main": again.source})
    assert fetching.keys.unfetched().result == [
        "[jwt:main] jwks: it is down; until it is fetched, its tokens are refused"
    ]


def test_a_url_whose_last_answer_is_still_in_force_is_no_news() -> None:
    issuer = Issuer()
    fetching = Fetching(main=issuer)
    fetching.keys.start()
    issuer.says("one")
    fetching.clock.advance(REFRESH)
    issuer.fails()
    fetching.keys.adopt({"main": issuer.source})
    assert fetching.keys.unfetched().result == []
    assert Fetching().keys.unfetched().result == []


def test_whoever_reloads_does_not_wait_for_an_end() -> None:
    fetching = Fetching()
    fetching.keys.start()
    fetching.keys.adopt({"main": Issuer().source})
    told = fetching.keys.unfetched()
    fetching.keys.stop()
    assert told.called
    assert not fetching.clock.getDelayedCalls()


@pytest.mark.parametrize("before", [lambda one: None, lambda one: one.says("one"), lambda one: one.fails()])
def test_the_end(before: Callable[[Issuer], None], said: list[str]) -> None:
    issuer = Issuer()
    fetching = Fetching(main=issuer)
    started = fetching.keys.start()
    before(issuer)
    words = list(said)
    fetching.keys.stop()
    assert started.called
    assert not fetching.clock.getDelayedCalls()
    fetching.keys.wanted("main")
    fetching.keys.stop()
    assert len(issuer.asked) == 1
    assert said == words, "what is cancelled is told nowhere"


# --- from the configuration to a server -------------------------------------------------------------------------------


def settings(name: str, jwks: str | None, root: Path | None = None) -> JWTSettings:
    return JWTSettings(name, (), jwks=jwks, jwks_root_certificate=root, jwks_refresh=42)


def test_sources_are_those_with_a_url(site: Site) -> None:
    problems = Problems()
    found = sources(reactor, {"main": settings("main", URL, site.ca), "file": settings("file", None)}, problems)
    assert [(name, one.url, one.refresh) for name, one in found.items()] == [("main", URL, 42)]
    assert not problems.found


def test_authorities_are_others_when_their_file_is_another(site: Site) -> None:
    def trust(root: Path | None) -> bytes:
        return sources(reactor, {"main": settings("main", URL, root)}, Problems())["main"].trust

    before = trust(site.ca)
    assert trust(site.ca) == before != trust(None) == b""
    copy = site.folder / "copy.crt"
    copy.write_bytes(site.ca.read_bytes())
    assert trust(copy) == before
    write_pem(site.ca, make_ca().certificate)
    assert trust(site.ca) not in (before, b"")


def test_authorities_that_cannot_be_used(site: Site) -> None:
    problems, missing = Problems(), site.folder / "missing.crt"
    site.ca.write_text("garbage")
    sources(reactor, {"a": settings("a", URL, site.ca), "b": settings("b", URL, missing)}, problems)
    assert problems.found == [
        Problem("jwt:a", "jwks_root_certificate", f"{site.ca}: is not a readable PEM certificate"),
        Problem("jwt:b", "jwks_root_certificate", f"{missing}: No such file or directory"),
    ]


@in_reactor
async def test_over_real_tls(site: Site) -> None:
    url = site.serve(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\none,two")
    problems = Problems()
    keys = KeyFetch(reactor, parse)
    keys.adopt(sources(reactor, {"main": settings("main", url, site.ca)}, problems))
    await keys.start()
    assert keys.keys("main") == tuple(KEYS.values())
    assert keys.healthy()
    keys.stop()


@in_reactor
async def test_an_end_in_the_middle_of_it(site: Site) -> None:
    url = site.serve(lambda caller: caller.wait())
    keys = KeyFetch(reactor, parse)
    keys.adopt(sources(reactor, {"main": settings("main", url, site.ca)}, Problems()))
    started = keys.start()
    keys.stop()
    await started
    assert keys.keys("main") == ()
