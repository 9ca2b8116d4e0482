"""The registry as the gateway has it: a book, and a source that keeps it up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from gateway.registry.book import Book
from gateway.registry.postgres import PostgresSource
from gateway.registry.settings import RegistrySettings
from gateway.registry.sqlite import POLL, SQLiteSource


def open_registry(settings: RegistrySettings, reactor: Any) -> Registry:
    """Nothing is read before `start`. The clock is the reactor's."""
    book = Book(settings.stale_after, reactor.callLater)
    announce = _Announcer(str(settings.database))
    if isinstance(settings.database, Path):
        return Registry(book, _Polled(SQLiteSource(settings.database, book, announce.say), reactor))
    return Registry(book, PostgresSource(settings.database, book, reactor, announce.say))


class Source(Protocol):
    """away: whether the database cannot be read at present."""

    @property
    def away(self) -> bool: ...

    def start(self) -> Deferred[None]:
        """Fires when everything was read for the first time. Fails with LedgerError."""

    def stop(self) -> Deferred[None]: ...


class Registry:
    """things: what sessions ask."""

    def __init__(self, things: Book, source: Source) -> None:
        self.things, self._source = things, source

    @property
    def healthy(self) -> bool:
        """Whether the database can be read at present. Until it has been away for too long sessions do not notice."""
        return self.things.available and not self._source.away

    def start(self) -> Deferred[None]:
        """Fires when everything was read for the first time. Fails with LedgerError, which says why."""
        return self._source.start()

    async def _stop(self) -> None:
        await self._source.stop()
        self.things.close()

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())


class _Polled:
    """A SQLiteSource as a Source."""

    def __init__(self, source: SQLiteSource, reactor: Any) -> None:
        self._source = source
        self._polling = LoopingCall(source.tick)
        self._polling.clock = reactor

    @property
    def away(self) -> bool:
        return self._source.away

    def start(self) -> Deferred[None]:
        return maybeDeferred(self._start)

    def _start(self) -> None:
        self._source.open()
        self._polling.start(POLL, now=False)

    def stop(self) -> Deferred[None]:
        return maybeDeferred(self._stop)

    def _stop(self) -> None:
        if self._polling.running:
            self._polling.stop()
        self._source.close()


class _Announcer:
    """Tells the log when the database goes and when it comes back."""

    _log = Logger()

    def __init__(self, database: str) -> None:
        self._database = database

    def say(self, reason: str | None) -> None:
        if reason is None:
            self._log.info("registry: {database} is there again", database=self._database)
        else:
            self._log.warn("registry: {database} is away: {reason}", database=self._database, reason=reason)
