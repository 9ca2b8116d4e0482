"""A PostgreSQL database as the source of a book: read whole once, and then what has changed, as soon as it is notified.

Owns one link at a time, on which it listens and reads. Even without a notification it looks every few seconds, which
also shows whether the link is alive. After a lost link it reads everything again: what has changed meanwhile is in no
notification. It never writes; `securegw` makes the tables.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import uniform
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from gateway.registry.book import Book, Changes, Snapshot
from gateway.registry.postgres_link import ANSWER_TIMEOUT, Link, Row
from gateway.registry.postgres_schema import IS_MADE
from gateway.registry.records import LedgerError
from gateway.registry.schema import SELECT_VERSION, VERSION
from gateway.registry.settings import PostgresDatabase
from gateway.registry.snapshot import (
    CHANGED,
    CHANGED_CHANNELS,
    CHANGED_CONNECTIONS,
    CHANGED_THINGS,
    CHANNELS,
    CONNECTIONS,
    LAST,
    THINGS,
    anything,
    changes,
    snapshot,
)

# Seconds between two looks, if nothing is notified meanwhile.
LOOK: Final = 2.0
# Seconds before the next attempt, doubled from the first to the last. Each is shortened by up to a half at random:
# many gateways lose one database at the same time.
FIRST_PAUSE: Final = 0.25
LAST_PAUSE: Final = 5.0

# What has become visible since the snapshot that was looked at last. Transactions end in another order than they began.
_SINCE: Final = "NOT pg_visible_in_snapshot(xid, %s::pg_snapshot)"
_SNAPSHOT: Final = "SELECT pg_current_snapshot()::text"
_STILL_THERE: Final = "SELECT 1 FROM change WHERE seq = %s AND mark = %s"


class PostgresSource:
    """say: told why the database is away, and None when it is there again."""

    def __init__(self, database: PostgresDatabase, book: Book, reactor: Any, say: Callable[[str | None], None]) -> None:
        self._database, self._book, self._reactor, self._say = database, book, reactor, say
        self._link = Link(reactor, database)
        self._running: Deferred[None] | None = None
        self._pause: Deferred[None] | None = None
        self._stopped = False
        self.away = False

    def start(self) -> Deferred[None]:
        """Fires when everything was read for the first time. Fails with LedgerError."""
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        try:
            follower = await self._connected()
        except LedgerError as error:
            self._link.close()
            raise LedgerError(f"{self._database}: {error}") from None
        self._running = Deferred.fromCoroutine(self._run(follower))

    def stop(self) -> Deferred[None]:
        """Fires when nothing of it is left."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._stopped = True
        self._link.close()
        if self._pause is not None:
            self._pause.cancel()
        if self._running is not None:
            await self._running

    # --- how --------------------------------------------------------------------------------------------------------

    async def _connected(self) -> _Follower:
        self._link = Link(self._reactor, self._database)
        await self._link.open()
        follower = _Follower(self._link, self._book)
        await follower.read_all()
        return follower

    async def _run(self, follower: _Follower | None) -> None:
        pause = FIRST_PAUSE
        while not self._stopped:
            try:
                if follower is None:
                    follower = await self._connected()
                    self._found()
                    pause = FIRST_PAUSE
                await follower.look()
            except Exception as error:  # noqa: BLE001 - whatever it is must not end this loop, and with it revocation
                follower = None
                self._link.close()
                self._lost(str(error) if isinstance(error, LedgerError) else repr(error))
                await self._rest(pause)
                pause = min(2 * pause, LAST_PAUSE)

    async def _rest(self, seconds: float) -> None:
        if not self._stopped:
            self._pause = deferLater(self._reactor, seconds * uniform(0.5, 1))  # noqa: S311 - no secret
            with suppress(CancelledError):
                await self._pause

    def _lost(self, reason: str) -> None:
        self._book.lost()
        if not self.away and not self._stopped:
            self._say(reason)
        self.away = True

    def _found(self) -> None:
        if self.away:
            self._say(None)
        self.away = False


class _Follower:
    """What a book is told over one link."""

    def __init__(self, link: Link, book: Book) -> None:
        self._link, self._book = link, book
        self._seen = ""
        self._last: tuple[int, str] = (0, "")

    async def read_all(self) -> None:
        self._book.replace(await self._link.transaction(self._all))

    async def look(self) -> None:
        await self._link.news(LOOK)
        changed = await self._link.transaction(self._changes)
        if changed is None:
            await self.read_all()
        elif changed.things or changed.channels:
            self._book.apply(changed)

    async def _all(self) -> Snapshot:
        await self._check_version()
        last = await self._link.rows(LAST)
        self._last = last[0] if last else (0, "")
        ((self._seen,),) = await self._link.rows(_SNAPSHOT)
        return snapshot(*[await self._link.rows(sql) for sql in (THINGS, CHANNELS, CONNECTIONS)])

    async def _check_version(self) -> None:
        if not await self._link.rows(IS_MADE):
            raise LedgerError("there is no registry in it yet; the first `securegw channel create` makes it")
        found = await self._link.rows(SELECT_VERSION)
        if found != [(VERSION,)]:
            raise LedgerError(f"has version {found} of the registry; this securegw knows {VERSION}")

    async def _changes(self) -> Changes | None:
        """None: the history is another than the one that we followed, or does not say what has changed."""
        if self._last[1] and not await self._link.rows(_STILL_THERE, *self._last, seconds=ANSWER_TIMEOUT):
            return None
        changed = await self._since(CHANGED)
        if anything(changed):
            return None
        if not changed:
            return Changes({}, {})
        now = await self._link.rows(_SNAPSHOT)
        found = [await self._since(sql) for sql in (CHANGED_THINGS, CHANGED_CHANNELS, CHANGED_CONNECTIONS)]
        ((self._seen,),) = now
        self._last = max(self._last, changed[-1][:2])
        return changes(changed, *found)

    async def _since(self, sql: str) -> list[Row]:
        return await self._link.rows(sql.format(since=_SINCE), self._seen)
