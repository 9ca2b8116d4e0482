"""One connection to PostgreSQL inside Twisted's reactor: questions with a deadline, and what it is notified of.

Owns the way there: names are resolved in a thread, because libpq would stand still for them, and no wait is endless.
Whatever goes wrong ends the connection, and there is no way back: whoever uses it makes another. So a broken answer,
a timeout and a server that has vanished are one case, and nothing is ever asked on a connection in doubt.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import psycopg2
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from txpostgres import txpostgres

from gateway.registry.conninfo import CONNECT_TIMEOUT, arguments
from gateway.registry.postgres_schema import NOTIFIED
from gateway.registry.postgres_store import reason
from gateway.registry.records import LedgerError
from gateway.registry.settings import PostgresDatabase
from gateway.upstream import is_ip

Result = TypeVar("Result")
Row = tuple[Any, ...]

# Seconds. The server ends what takes longer than a minute; the rest is for a dead one.
READ_TIMEOUT: Final = 70.0
# An answer to what costs nothing; after this the server, or the way there, is taken for dead.
ANSWER_TIMEOUT: Final = 5.0
# What is read together belongs together.
_SESSION: Final = {
    "statement_timeout": "60000",
    "default_transaction_isolation": "repeatable read",
    "default_transaction_read_only": "on",
}


class Link:
    """Used by one coroutine, which waits for one thing at a time. Everything raises LedgerError, with the reason."""

    def __init__(self, reactor: Any, database: PostgresDatabase) -> None:
        self._reactor, self._database = reactor, database
        self._connection = _Connection(reactor, self._notified, self._fail)
        self._waiting: Deferred[Any] | None = None
        self._over: str | None = None
        self._news = self._idle = False

    async def open(self) -> None:
        """Connected, and listening."""
        addresses = await self._within(CONNECT_TIMEOUT, self._resolved())
        wanted = arguments(self._database, "securegw", _SESSION) | addresses
        # libpq's own deadline is for those who wait in it (PostgreSQL, 34.1.2, connect_timeout).
        await self._within(CONNECT_TIMEOUT * len(wanted["host"].split(",")), self._connection.connect(**wanted))
        await self._within(ANSWER_TIMEOUT, self._connection.runOperation(f"LISTEN {NOTIFIED}"))

    async def news(self, seconds: float) -> None:
        """Until something was notified, but no longer than that."""
        if not self._news:
            self._idle = True
            await self._wait(seconds, self._settle)
        self._news = self._idle = False

    async def rows(self, sql: str, *values: Any, seconds: float = READ_TIMEOUT) -> list[Row]:
        found: list[Row] = await self._within(seconds, self._connection.runQuery(sql, values or None))
        return found

    async def transaction(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """What it reads is of one moment. It ends in order, or with the connection."""
        await self._within(ANSWER_TIMEOUT, self._connection.runOperation("BEGIN"))
        result = await call()
        await self._within(ANSWER_TIMEOUT, self._connection.runOperation("COMMIT"))
        return result

    def close(self) -> None:
        self._fail("it was closed")

    # --- how --------------------------------------------------------------------------------------------------------

    def _resolved(self) -> Deferred[dict[str, str]]:
        pool = self._reactor.getThreadPool()
        return deferToThreadPool(self._reactor, pool, resolve, self._database)

    def _within(self, seconds: float, asked: Deferred[Any]) -> Deferred[Any]:
        """Its answer, in time. It is not cancelled after that: txpostgres would have libpq wait for the dead server."""
        waiting = self._wait(seconds, lambda: self._fail(f"no answer within {seconds:g} seconds"))

        def answered(result: Any) -> None:
            if self._waiting is waiting:
                self._settle(result)

        def failed(failure: Failure) -> None:
            if self._waiting is waiting:
                self._fail(_reason(failure))

        asked.addCallbacks(answered, failed)
        return waiting

    def _wait(self, seconds: float, late: Callable[[], None]) -> Deferred[Any]:
        waiting: Deferred[Any] = Deferred()
        if self._over is not None:
            waiting.errback(LedgerError(self._over))
            return waiting
        timer = self._reactor.callLater(seconds, late)

        def done(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            return result

        self._waiting = waiting
        return waiting.addBoth(done)

    def _settle(self, result: Any = None) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(result)

    def _notified(self) -> None:
        self._news = True
        if self._idle:
            self._settle()

    def _fail(self, why: str) -> None:
        if self._over is not None:
            return
        self._over = why
        self._connection.finish()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(LedgerError(why))


class _Connection(txpostgres.Connection):  # type: ignore[misc]  # txpostgres has no types
    """notified: called when anything was. lost: called with the reason, once or more often."""

    def __init__(self, reactor: Any, notified: Callable[[], None], lost: Callable[[str], None]) -> None:
        super().__init__(reactor)
        self._told, self._lost = notified, lost
        self._finished = False

    def doRead(self) -> None:
        """Not txpostgres's own: it raises an end that nobody was waiting for into the reactor, and then reads on.

        After a failed attempt to connect there is no socket, but an error on its way to whoever waits.
        """
        try:
            super(txpostgres.Connection, self).doRead()
        except psycopg2.Error as error:
            self._lost(reason(error))
        if not self._connection.closed and self._connection.fileno() >= 0:
            self.checkForNotifies()
            self.reactor.addReader(self)

    def connectionLost(self, why: Failure) -> None:
        """A better reason may be on its way: txpostgres tells whoever waits in the reactor's next turn."""
        super().connectionLost(why)
        if not self._finished:
            self.reactor.callLater(0, self._lost, "the connection was lost")

    def checkForNotifies(self) -> None:  # noqa: N802 - it is txpostgres's
        if self._connection.notifies:
            self._connection.notifies.clear()
            self._told()

    def finish(self) -> None:
        """`close`, also where it never came to a connection."""
        self._finished = True
        if self._connection is not None:
            self.close()


def _reason(failure: Failure) -> str:
    error = failure.value
    return reason(error) if isinstance(error, psycopg2.Error) else str(error)


def resolve(database: PostgresDatabase) -> dict[str, str]:
    """libpq's `host` and `hostaddr`, address by address. Waits for the resolver. Raises OSError if there is none."""
    found: list[tuple[str, str]] = []
    failed: OSError | None = None
    for host in database.hosts:
        if host.startswith("/"):
            found.append((host, ""))
            continue
        try:
            found += [(host, address) for address in _addresses(host, database.port)]
        except OSError as error:
            failed = error
    if failed is not None and not found:
        raise failed
    return {"host": ",".join(host for host, _ in found), "hostaddr": ",".join(address for _, address in found)}


def _addresses(host: str, port: int) -> list[str]:
    if is_ip(host):
        return [host]
    known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in known))
