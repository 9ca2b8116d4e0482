"""The keys of every `[jwt:NAME]` whose JWK Set (RFC 7517) is at a URL: fetched off the data path, known on it.

Owns when a set is asked for, and which was the last good one. That stays in force for as long as no other takes its
place: who cannot reach its issuer for an hour would rather go on. So whoever withdraws a key must be heard: a set that
cannot be fetched is said in the log, once until it can be, in `healthy`, and, while it has no keys, to whoever reloads.
Refuses, as if they could not be fetched, sets that cannot be read and sets without a key of ours: an issuer that means
it can let its tokens expire.

The gateway's start waits for the first answers, but not long: clients that were turned away by a restart would not
come back by themselves, and an issuer that is down is no reason to keep everybody else out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from math import inf
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway import jwks, named_files
from gateway.errors import Problems
from gateway.net.document import Documents
from gateway.net.fetching import context
from gateway.settings import JWTSettings
from gateway.tokens import VerificationKey

# Seconds that the start waits for the first answers, and whoever reloads.
FIRST_WAIT: Final = 5.0
# Seconds after a first failure; after each further one twice as long, up to the usual time between two fetches.
_BACK_OFF: Final = 1.0
# Seconds between two fetches that tokens may cause: anybody can make up a token whose key we do not know.
_EARLY: Final = 30.0
# Many gateways that were started at once do not go on asking at once.
_SPREAD: Final = 0.1

Parse = Callable[[bytes], tuple[VerificationKey, ...]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where one set is. refresh: seconds between two fetches. get: fails with whatever, which says why. trust: SHA-256
    of the file with the authorities that vouch for the server; empty: the system's do."""

    url: str
    refresh: float
    get: Callable[[], Deferred[bytes]] = field(compare=False)
    trust: bytes = b""

    def is_that_of(self, other: Source) -> bool:
        """Whether what came from there could come from here, too."""
        return (self.url, self.trust) == (other.url, other.trust)


def sources(reactor: Any, found: Mapping[str, JWTSettings], problems: Problems) -> dict[str, Source]:
    """By the NAME of each `[jwt:NAME]` that has a URL. Fetches nothing, but reads the authorities' files."""
    named: dict[str, Source] = {}
    for name, jwt in found.items():
        if jwt.jwks is not None:
            documents = Documents(reactor, context(jwt, problems))
            get = partial(documents.get, jwt.jwks)
            named[name] = Source(jwt.jwks, jwt.jwks_refresh, get, _trust(jwt.jwks_root_certificate))
    return named


def _trust(root_certificate: Path | None) -> bytes:
    # What is wrong with the file is a problem already, and nothing comes of what is made of it.
    with suppress(OSError):
        return sha256(named_files.read(root_certificate)).digest() if root_certificate else b""
    return b""


class KeyFetch:
    """All sets. Nothing is fetched before `start` and after `stop`."""

    def __init__(self, reactor: Any, parse: Parse = jwks.parse) -> None:
        self._reactor, self._parse = reactor, parse
        self._sets: dict[str, _KeySet] = {}
        self._running = False
        self._waiting: list[Deferred[None]] = []

    def adopt(self, wanted: Mapping[str, Source]) -> None:
        """At the start and with each reload, which asks for all of them again, as it reads files again. Keys are still
        known if neither their URL has changed nor who vouches for it: one that may not any more may have made them
        up."""
        before, self._sets = self._sets, {}
        for name, source in wanted.items():
            known = before.get(name)
            if known is not None and known.source.is_that_of(source):
                self._sets[name] = before.pop(name)
                known.source = source
            else:
                self._sets[name] = _KeySet(name, source, self._reactor, self._parse, self._tried)
        for one in before.values():
            one.stop()
        if self._running:
            self._fetch()

    def keys(self, name: str) -> Sequence[VerificationKey]:
        """What may vouch for tokens now; nothing, until a first set was fetched."""
        one = self._sets.get(name)
        return one.keys if one is not None else ()

    def wanted(self, name: str) -> None:
        """A token names a key that is not known: it may be newer than what we have. Does not wait."""
        one = self._sets.get(name)
        if self._running and one is not None:
            one.hurry()

    def healthy(self) -> bool | None:
        """Whether every set could be fetched when it was last tried; None: there is none."""
        return all(one.keys and one.failed is None for one in self._sets.values()) if self._sets else None

    def unfetched(self) -> Deferred[Sequence[str]]:
        """Of which URLs there are no keys, and why, each in a line. Fires as what `start` returns."""
        return self._all_tried().addCallback(lambda _: [one.lacking() for one in self._sets.values() if not one.keys])

    def start(self) -> Deferred[None]:
        """Fires when each set was tried once, whatever came of it, or after FIRST_WAIT seconds. Never fails."""
        self._running = True
        self._fetch()
        return self._all_tried()

    def stop(self) -> None:
        self._running = False
        for one in self._sets.values():
            one.stop()
        self._settle()

    def _fetch(self) -> None:
        for one in self._sets.values():
            one.fetch()

    def _all_tried(self) -> Deferred[None]:
        tried: Deferred[None] = Deferred()
        tried.addTimeout(FIRST_WAIT, self._reactor, lambda *_: None)
        self._waiting.append(tried)
        self._tried()
        return tried

    def _tried(self) -> None:
        if all(one.keys or one.failed is not None for one in self._sets.values()):
            self._settle()

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)


class _KeySet:
    """One of them. keys: the last good set. failed: why what was tried since then failed; None: it did not. tried: told
    after each attempt."""

    _log = Logger()

    def __init__(self, name: str, source: Source, reactor: Any, parse: Parse, tried: Callable[[], None]) -> None:
        self.source = source
        self.keys: tuple[VerificationKey, ...] = ()
        self.failed: str | None = None
        self._name, self._reactor, self._parse, self._tried = name, reactor, parse, tried
        self._hurried = -inf
        self._delay = _BACK_OFF
        self._asking: Deferred[bytes] | None = None
        self._timer: Any = None

    def fetch(self) -> None:
        """Now, instead of whatever is in progress or planned."""
        self.stop()
        self._asking = asking = self.source.get()
        found = asking.addCallback(self._read)
        found.addCallbacks(self._arrived, self._failed, callbackArgs=(asking,), errbackArgs=(asking,))

    def hurry(self) -> None:
        now = self._reactor.seconds()
        if self._asking is None and now - self._hurried >= _EARLY:
            self._hurried = now
            self.fetch()

    def lacking(self) -> str:
        """What is not there, why, and what that means."""
        reason = self.failed or "there is no answer yet"
        meanwhile = "the last good set stays in force" if self.keys else "until it is fetched, its tokens are refused"
        return f"[jwt:{self._name}] jwks: {reason}; {meanwhile}"

    def stop(self) -> None:
        """What is cancelled is told nowhere."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read(self, document: bytes) -> tuple[VerificationKey, ...]:
        """Raises ValueError."""
        try:
            return self._parse(document)
        except ValueError as error:
            raise ValueError(f"the set {error}") from None

    def _arrived(self, keys: tuple[VerificationKey, ...], asking: Deferred[Any]) -> None:
        if asking is not self._asking:
            return
        if self.failed is not None or {one.thumbprint for one in keys} != {one.thumbprint for one in self.keys}:
            self._log.info("[jwt:{name}] jwks: fetched, {n} keys", name=self._name, n=len(keys))
        self.keys, self.failed, self._delay = keys, None, _BACK_OFF
        self._again(self.source.refresh)

    def _failed(self, failure: Failure, asking: Deferred[Any]) -> None:
        if asking is not self._asking:
            return
        first, self.failed = self.failed is None, failure.getErrorMessage()
        if first:
            self._log.warn("{words}", words=self.lacking())
        delay = min(self._delay, self.source.refresh)
        self._delay = 2 * delay
        self._again(delay)

    def _again(self, seconds: float) -> None:
        self._asking = None
        spread = SystemRandom().uniform(1 - _SPREAD, 1 + _SPREAD)
        self._timer = self._reactor.callLater(seconds * spread, self._on_time)
        self._tried()

    def _on_time(self) -> None:
        self._timer = None
        self.fetch()
