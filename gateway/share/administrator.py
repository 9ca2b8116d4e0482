"""One administrator's connection to the upstream's database, in a reactor of its own that runs for as long as it takes.

Owns the waiting: txpostgres has no deadlines, and its way to cancel is to have libpq wait for the server that does not
answer. Whatever goes wrong ends the connection, and with it the transaction: nothing is half done.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import psycopg2
from psycopg2 import extensions
from psycopg2.sql import SQL, Composable
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.python.failure import Failure
from txpostgres import txpostgres

from gateway.registry.postgres_store import reason
from gateway.share.names import rendered
from gateway.share.share import ShareError

Result = TypeVar("Result")
Row = tuple[Any, ...]

# Seconds for each host to let us in; and for an answer, after the server's own statement_timeout of a minute.
CONNECT_TIMEOUT: Final = 10.0
ANSWER_TIMEOUT: Final = 70.0

# How the server spells what the catalogs say. Set in the session: whatever else says otherwise, be it for a role, a
# database or by the environment (libpq's PGTZ comes after its `options`), has been said by then.
_SPELLING: Final = SQL(
    "SET timezone = 'UTC'; SET datestyle = 'ISO, MDY'; SET intervalstyle = 'postgres'; SET extra_float_digits = 1; "
    "SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET quote_all_identifiers = off"
)


class Refused(ShareError):
    """The server said no to a statement. sqlstate: its code (manual, Appendix A)."""

    def __init__(self, reason: str, sqlstate: str | None) -> None:
        super().__init__(reason)
        self.sqlstate = sqlstate


class Administrator:
    """Used by one coroutine, which waits for one thing at a time. Everything raises ShareError, with the reason."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._connection = _Connection(reactor)

    async def open(self, wanted: Mapping[str, Any]) -> None:
        """wanted: keyword arguments of psycopg2.connect. No connection is made twice."""
        hosts = str(wanted["host"]).count(",") + 1
        await self._within(CONNECT_TIMEOUT * hosts, self._connection.connect(**wanted))

    async def run(self, statement: Composable) -> None:
        await self._within(ANSWER_TIMEOUT, self._connection.runOperation(rendered(statement)))

    async def rows(self, query: str, values: Mapping[str, Any] | None = None) -> list[Row]:
        """values: for the %(name)s in the query."""
        found: list[Row] = await self._within(ANSWER_TIMEOUT, self._connection.runQuery(query, values))
        return found

    def verifier(self, password: str, role: str) -> str:
        """What the server stores of it (manual, 34.12, PQencryptPasswordConn): the password itself never goes there,
        where a log or pg_stat_activity would show it."""
        found: str = extensions.encrypt_password(password, role, self._connection.pollable(), "scram-sha-256")
        return found

    @property
    def server_version(self) -> int:
        """150004 is 15.4."""
        found: int = self._connection.pollable().server_version
        return found

    def close(self) -> None:
        self._connection.finish()

    def _within(self, seconds: float, asked: Deferred[Any]) -> Deferred[Any]:
        """Its answer, in time. It is not cancelled after that, only no more waited for."""
        waiting: Deferred[Any] = Deferred()

        def late() -> None:
            waiting.errback(ShareError(f"the database has not answered for {seconds:g} seconds"))

        timer = self._reactor.callLater(seconds, late)

        def settled(result: Any) -> None:
            if not timer.active():
                return
            timer.cancel()
            if isinstance(result, Failure):
                waiting.errback(_told(result))
            else:
                waiting.callback(result)

        asked.addBoth(settled)
        return waiting


class _Connection(txpostgres.Connection):  # type: ignore[misc]  # txpostgres has no types
    """Whoever waits is told of its end; nobody else has to be."""

    def doRead(self) -> None:
        """Not txpostgres's own, which raises an end that nobody was waiting for into the reactor."""
        self.reactor.removeReader(self)
        if not self.pollable().closed:
            self.continuePolling(swallowErrors=True)
        if not self.pollable().closed and self.pollable().fileno() >= 0:
            self.reactor.addReader(self)

    def finish(self) -> None:
        """`close`, also where it never came to a connection."""
        if self._connection is not None:
            self.close()


def _told(failure: Failure) -> ShareError:
    error = failure.value
    if isinstance(error, psycopg2.Error):
        return Refused(reason(error), error.pgcode)
    return ShareError(str(error))


def perform(wanted: Mapping[str, Any], work: Callable[[Administrator], Awaitable[Result]]) -> Result:
    """What `work` finds, or raises, over a connection made for it. In the main thread alone, which gets the signals.

    Raises ShareError, KeyboardInterrupt.
    """
    with _reactor() as reactor:
        outcome = _outcome(reactor, wanted, work)
    if isinstance(outcome, Failure):
        if outcome.check(CancelledError):
            raise KeyboardInterrupt
        outcome.raiseException()
    return outcome


@contextmanager
def _reactor() -> Iterator[Any]:
    """Twisted's own lives as long as its process does, and closes neither its pipe nor its epoll."""
    reactor: Any = EPollReactor()
    try:
        yield reactor
    finally:
        reactor.waker.connectionLost(None)
        reactor._poller.close()  # noqa: SLF001 - it has no public name, and the cycles around it keep it open


def _outcome(
    reactor: Any, wanted: Mapping[str, Any], work: Callable[[Administrator], Awaitable[Result]]
) -> Result | Failure:
    doing: list[Deferred[Result]] = []
    outcomes: list[Result | Failure] = []

    def begin() -> None:
        doing.append(Deferred.fromCoroutine(_connected(reactor, wanted, work)))
        doing[0].addBoth(over)

    def over(outcome: Result | Failure) -> None:
        outcomes.append(outcome)
        reactor.stop()

    def interrupt() -> None:
        doing[0].cancel()

    reactor.callWhenRunning(begin)
    # By the reactor, which does nothing before `begin`.
    with _interrupted_by_sigint(lambda: reactor.callFromThread(interrupt)):
        reactor.run(installSignalHandlers=False)
    (outcome,) = outcomes
    return outcome


async def _connected(
    reactor: Any, wanted: Mapping[str, Any], work: Callable[[Administrator], Awaitable[Result]]
) -> Result:
    admin = Administrator(reactor)
    try:
        await admin.open(wanted)
        await admin.run(_SPELLING)
        return await work(admin)
    finally:
        admin.close()


@contextmanager
def _interrupted_by_sigint(interrupt: Callable[[], None]) -> Iterator[None]:
    """A reactor would swallow the exception that Python raises; and handlers of its own it leaves behind."""
    before = signal.signal(signal.SIGINT, lambda *_: interrupt())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
