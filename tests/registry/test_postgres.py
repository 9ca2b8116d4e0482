"""Gateways that share a PostgreSQL database hear of each change at once, and of what they missed when they are back."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any, cast

import psycopg2
import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.protocols import portforward
from zope.interface import provider

from gateway.registry import postgres as source_module
from gateway.registry import postgres_link
from gateway.registry.conninfo import arguments
from gateway.registry.ledger import Ledger, LedgerError, Taken, ThingRow, open_ledger
from gateway.registry.postgres import PostgresSource
from gateway.registry.postgres_link import Link
from gateway.registry.service import Registry, open_registry
from gateway.registry.settings import PostgresDatabase, RegistrySettings
from gateway.things import Change, Rights, Unavailable
from tests.registry.conftest import PASSWORD, in_reactor, new_database
from tests.servers import PostgresServer, free_port

reactor: Any = installed_reactor

BOTH = Rights(True, True)


async def until(true: Callable[[], object], seconds: float = 20) -> float:
    """How many seconds it took."""
    began = monotonic()
    while not true():
        assert monotonic() - began < seconds, "it did not happen"
        await deferLater(reactor, 0.01)
    return monotonic() - began


@asynccontextmanager
async def running(settings: RegistrySettings) -> AsyncIterator[Registry]:
    registry = open_registry(settings, reactor)
    await registry.start()
    try:
        yield registry
    finally:
        await registry.stop()


def heard_of(registry: Registry, thing: str) -> list[Change]:
    heard: list[Change] = []
    registry.things.watch(thing, heard.append)
    return heard


def reached(heard: list[Change], size: int) -> bool:
    return len(heard) == size


def database(settings: RegistrySettings) -> PostgresDatabase:
    assert isinstance(settings.database, PostgresDatabase)
    return settings.database


def test_a_name_is_somebodys_once_whatever_isolation_the_role_was_given(
    postgres: RegistrySettings, embedded_postgres: PostgresServer
) -> None:
    """Whoever waits for the lock sees what its last holder did."""
    user = database(postgres).user
    embedded_postgres.sql(f"ALTER ROLE {user} SET default_transaction_isolation = 'repeatable read'")
    waiting = "SELECT count(*)::int FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    refused: list[Exception] = []

    def second() -> None:
        with pytest.raises(Taken) as told:
            two.create_thing("pump", alone=True)
        refused.append(told.value)

    thread = threading.Thread(target=second)

    def meanwhile(_done: int) -> None:
        thread.start()
        began = monotonic()
        while embedded_postgres.sql(waiting) != [(1,)]:
            assert monotonic() - began < 20

    with open_ledger(postgres) as one, open_ledger(postgres) as two:
        one.import_things([ThingRow("pump")], alone=True, progress=meanwhile)
        thread.join()
        assert [thing.name for thing in one.things()] == ["pump"]
    assert len(refused) == 1


@pytest.fixture
def ledger(postgres: RegistrySettings) -> Iterator[Ledger]:
    with open_ledger(postgres) as ledger:
        yield ledger


@pytest.fixture
def thing(ledger: Ledger) -> str:
    record, _ = ledger.create_thing("pump", key="pump" * 4)
    ledger.create_channel("floor")
    ledger.connect("pump", "floor")
    return record.id


@pytest.fixture(autouse=True)
def nothing_unhandled() -> Iterator[None]:
    """Whatever happens to the connection, no error of it reaches the reactor, which would log it with its traceback."""
    failures: list[LogEvent] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        if "log_failure" in event:
            failures.append(event)

    observer = cast(ILogObserver, observe)
    globalLogPublisher.addObserver(observer)
    yield
    globalLogPublisher.removeObserver(observer)
    assert not failures


@contextmanager
def sql_session(settings: RegistrySettings) -> Iterator[Any]:
    """A session whose transactions the test begins and ends."""
    connection = psycopg2.connect(**arguments(database(settings), "test", {}))
    try:
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


# --- reading and hearing --------------------------------------------------------------------------------------------


@in_reactor
async def test_reads_everything(postgres: RegistrySettings, ledger: Ledger, thing: str) -> None:
    async with running(postgres) as registry:
        assert registry.healthy
        known = registry.things.with_key(b"pump" * 4)
        assert known
        assert (known.id, known.name, known.enabled) == (thing, "pump", True)
        channel = ledger.channel("floor").id
        assert registry.things.has_channel(channel)
        assert registry.things.rights(thing, channel) == BOTH
    with pytest.raises(Unavailable):
        registry.things.named(thing)
    assert not registry.healthy


CHANGES: list[tuple[Callable[[Ledger], object], Change]] = [
    (lambda ledger: ledger.set_enabled("pump", False), Change.REVOKED),
    (lambda ledger: ledger.rotate_key("pump"), Change.REVOKED),
    (lambda ledger: ledger.delete_thing("pump"), Change.REVOKED),
    (lambda ledger: ledger.disconnect("pump", "floor"), Change.SHRUNK),
    (lambda ledger: ledger.connect("pump", "floor", publish=False), Change.SHRUNK),
    (lambda ledger: ledger.delete_channel("floor"), Change.SHRUNK),
    (lambda ledger: ledger.connect("pump", ledger.create_channel("roof").id), Change.GROWN),
]


@pytest.mark.parametrize(("change", "told"), CHANGES)
@in_reactor
async def test_two_gateways_hear_the_ledger_within_a_second(
    postgres: RegistrySettings, ledger: Ledger, thing: str, change: Callable[[Ledger], object], told: Change
) -> None:
    async with running(postgres) as one, running(postgres) as other:
        heard = [heard_of(one, thing), heard_of(other, thing)]
        change(ledger)
        assert await until(lambda: all(heard)) < 1
        assert heard == [[told]] * 2
        assert one.things._things == other.things._things


OTHER = "00000000-0000-4000-8000-000000000001"
MAKE_OTHER = f"INSERT INTO securegw.thing (id, name, key_hash) VALUES ('{OTHER}', 'x', decode(repeat('00', 32), 'hex'))"

BY_HAND = [
    (f"{MAKE_OTHER}; UPDATE securegw.connection SET thing = '{OTHER}'", Change.SHRUNK),
    ("UPDATE securegw.thing SET enabled = false", Change.REVOKED),
    ("DELETE FROM securegw.thing", Change.REVOKED),
    ("UPDATE securegw.thing SET key_hash = decode(repeat('00', 32), 'hex')", Change.REVOKED),
    ("TRUNCATE securegw.thing CASCADE", Change.REVOKED),
    ("TRUNCATE securegw.connection", Change.SHRUNK),
    ("DELETE FROM securegw.channel", Change.SHRUNK),
    ("UPDATE securegw.connection SET may_subscribe = false", Change.SHRUNK),
    ("UPDATE securegw.connection SET may_publish = false WHERE may_publish; SELECT 1", Change.SHRUNK),
    ("INSERT INTO securegw.change DEFAULT VALUES; DELETE FROM securegw.connection", Change.SHRUNK),
]


@pytest.mark.parametrize(("statement", "told"), BY_HAND)
@in_reactor
async def test_hears_hands_within_a_second(
    postgres: RegistrySettings, embedded_postgres: PostgresServer, thing: str, statement: str, told: Change
) -> None:
    async with running(postgres) as registry, running(postgres) as untold:
        heard = heard_of(registry, thing)
        embedded_postgres.sql(statement, database=database(postgres).dbname)
        assert await until(lambda: heard) < 1
        assert heard == [told]
        async with running(postgres) as fresh:
            await until(lambda: untold.things._things == fresh.things._things)
            assert registry.things._things == fresh.things._things
            assert registry.things._channels == fresh.things._channels


@in_reactor
async def test_an_import_is_heard_whole(postgres: RegistrySettings, ledger: Ledger, thing: str) -> None:
    """More changes than the log keeps."""
    async with running(postgres) as registry:
        ledger.import_things(ThingRow(f"t{number}", channels=["floor"]) for number in range(6_000))
        await until(lambda: len(registry.things._things) == 6_001)
        assert len(registry.things._by_key) == 6_001
        ledger.delete_channel("floor")
        await until(lambda: not any(entry.rights for entry in registry.things._things.values()))


@in_reactor
async def test_transactions_that_end_in_another_order(postgres: RegistrySettings, ledger: Ledger, thing: str) -> None:
    """The first to write is the last to commit: its change has the smaller number, and must not be missed."""
    other = ledger.create_thing("valve")[0].id
    async with running(postgres) as registry:
        mine, others = heard_of(registry, thing), heard_of(registry, other)
        with sql_session(postgres) as session:
            session.execute("UPDATE thing SET enabled = false WHERE id = %s", (thing,))
            for seen, enabled in enumerate((False, True, False), 1):
                ledger.set_enabled("valve", enabled)
                await until(partial(reached, others, seen))
            assert (mine, others) == ([], [Change.REVOKED, Change.GROWN, Change.REVOKED])
            session.connection.commit()
        await until(lambda: mine)
        assert mine == [Change.REVOKED]


@in_reactor
async def test_what_was_not_committed_at_the_first_reading(
    postgres: RegistrySettings, ledger: Ledger, thing: str
) -> None:
    with sql_session(postgres) as session:
        session.execute("UPDATE thing SET enabled = false WHERE id = %s", (thing,))
        async with running(postgres) as registry:
            heard = heard_of(registry, thing)
            ledger.create_thing("valve")
            await until(lambda: len(registry.things._things) == 2)
            session.connection.commit()
            await until(lambda: heard)
            assert heard == [Change.REVOKED]


@in_reactor
async def test_a_missed_notification(
    postgres: RegistrySettings, ledger: Ledger, thing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "LOOK", 0.1)
    async with running(postgres) as registry:
        heard = heard_of(registry, thing)
        with sql_session(postgres) as session:
            session.execute("ALTER TABLE thing DISABLE TRIGGER USER")
            session.execute("UPDATE thing SET enabled = false")
            session.execute("INSERT INTO change (thing) VALUES (%s)", (thing,))
            session.connection.commit()
        await until(lambda: heard)


@pytest.mark.parametrize("statement", ["DELETE FROM change", "UPDATE change SET mark = gen_random_uuid()"])
@in_reactor
async def test_a_history_that_cannot_be_followed(
    postgres: RegistrySettings, thing: str, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a dump was restored: no trigger has run."""
    monkeypatch.setattr(source_module, "LOOK", 0.1)
    async with running(postgres) as registry:
        heard = heard_of(registry, thing)
        with sql_session(postgres) as session:
            session.execute("ALTER TABLE thing DISABLE TRIGGER USER")
            session.execute("UPDATE thing SET enabled = false")
            session.execute(statement)
            session.connection.commit()
        await until(lambda: heard)
        assert heard == [Change.REVOKED]
        with sql_session(postgres) as session:
            session.execute("ALTER TABLE thing ENABLE TRIGGER USER")
            session.execute("UPDATE thing SET enabled = true")
            session.connection.commit()
        await until(lambda: len(heard) == 2)


@in_reactor
async def test_what_is_read_is_of_one_moment(postgres: RegistrySettings, ledger: Ledger, thing: str) -> None:
    link = Link(reactor, database(postgres))
    await link.open()

    async def names() -> list[Any]:
        before = await link.rows("SELECT name FROM thing")
        ledger.create_thing("valve")
        return [before, await link.rows("SELECT name FROM thing")]

    assert await link.transaction(names) == [[("pump",)], [("pump",)]]
    with pytest.raises(LedgerError, match="read-only"):
        await link.rows("DELETE FROM thing RETURNING id")
    link.close()


@in_reactor
async def test_reading_is_all_that_it_may(
    postgres: RegistrySettings, embedded_postgres: PostgresServer, ledger: Ledger, thing: str
) -> None:
    embedded_postgres.make_role("reader", PASSWORD)
    with sql_session(postgres) as session:
        session.execute("GRANT USAGE ON SCHEMA securegw TO reader")
        session.execute("GRANT SELECT ON ALL TABLES IN SCHEMA securegw TO reader")
        session.connection.commit()
    reading = replace(postgres, database=replace(database(postgres), user="reader"))
    async with running(reading) as registry:
        heard = heard_of(registry, thing)
        ledger.set_enabled("pump", False)
        assert await until(lambda: heard) < 1
    with open_ledger(reading) as ledger, pytest.raises(LedgerError, match="permission denied"):
        ledger.create_thing("valve")


# --- a start that fails ---------------------------------------------------------------------------------------------


async def refused(settings: RegistrySettings) -> str:
    registry = open_registry(settings, reactor)
    with pytest.raises(LedgerError) as error:
        await registry.start()
    assert not registry.healthy
    await registry.stop()
    assert PASSWORD not in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@in_reactor
async def test_no_registry_yet(postgres: RegistrySettings) -> None:
    assert "no registry in it yet" in await refused(postgres)


@in_reactor
async def test_a_newer_registry(postgres: RegistrySettings, ledger: Ledger) -> None:
    with ledger._store.transaction():
        ledger._store.change("UPDATE registry SET version = 2", ())
    assert "this securegw knows 1" in await refused(postgres)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"password": "wrong"}, "password authentication failed"),
        ({"password": None}, "no password supplied"),
        ({"dbname": "nowhere"}, 'database "nowhere" does not exist'),
        ({"port": 9}, "Connection refused"),
        ({"hosts": ("/nowhere",)}, "No such file"),
        ({"hosts": ("no-such-host.invalid",)}, "no-such-host.invalid"),
    ],
)
@in_reactor
async def test_no_way_in(postgres: RegistrySettings, ledger: Ledger, changed: dict[str, Any], why: str) -> None:
    settings = replace(postgres, database=replace(database(postgres), **changed))
    assert why in await refused(settings)
    with pytest.raises(LedgerError) as error:
        open_ledger(settings)
    assert PASSWORD not in str(error.value)


@in_reactor
async def test_a_server_that_does_not_answer(postgres: RegistrySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq's own connect_timeout does not count where nobody waits in libpq."""
    monkeypatch.setattr(postgres_link, "CONNECT_TIMEOUT", 0.3)
    port = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
    settings = replace(postgres, database=replace(database(postgres), port=port.getHost().port))
    assert "no answer within 0.3 seconds" in await refused(settings)
    await port.stopListening()


class HangsUp(Protocol):
    def dataReceived(self, _: bytes) -> None:
        assert self.transport
        self.transport.loseConnection()


@in_reactor
async def test_a_server_that_hangs_up(postgres: RegistrySettings) -> None:
    port = reactor.listenTCP(0, Factory.forProtocol(HangsUp), interface="127.0.0.1")
    settings = replace(postgres, database=replace(database(postgres), port=port.getHost().port))
    assert "closed the connection" in await refused(settings)
    await port.stopListening()


@in_reactor
async def test_names_are_resolved_in_a_thread(
    postgres: RegistrySettings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    resolve = postgres_link.resolve

    def watched(database: PostgresDatabase) -> dict[str, str]:
        threads.append(threading.current_thread())
        return resolve(database)

    monkeypatch.setattr(postgres_link, "resolve", watched)
    hosts = ("no-such-host.invalid", "localhost")
    async with running(replace(postgres, database=replace(database(postgres), hosts=hosts))) as registry:
        assert registry.healthy
    assert threads
    assert threading.main_thread() not in threads


# --- a database that goes away --------------------------------------------------------------------------------------


class Cuttable(portforward.ProxyFactory):
    """A way to the server that can be cut, or go dead without a word."""

    def __init__(self, server: PostgresServer) -> None:
        super().__init__("127.0.0.1", server.port)
        self.ways: list[Any] = []
        self.listening = reactor.listenTCP(free_port(), self, interface="127.0.0.1")

    def buildProtocol(self, address: Any) -> Any:
        way = super().buildProtocol(address)
        self.ways.append(way)
        return way

    def ends(self) -> list[Any]:
        both = [end for way in self.ways for end in (way, way.peer) if end is not None]
        return [end.transport for end in both if end.transport is not None]

    def cut(self) -> None:
        for transport in self.ends():
            transport.abortConnection()
        self.ways.clear()

    def freeze(self) -> None:
        for transport in self.ends():
            transport.pauseProducing()


@pytest.fixture
def proxy(embedded_postgres: PostgresServer) -> Iterator[Cuttable]:
    proxy = Cuttable(embedded_postgres)
    yield proxy
    proxy.cut()
    pytest_twisted.blockon(proxy.listening.stopListening())


@pytest.fixture
def through(postgres: RegistrySettings, proxy: Cuttable) -> RegistrySettings:
    return replace(postgres, database=replace(database(postgres), port=proxy.listening.getHost().port))


@in_reactor
async def test_what_changed_while_the_way_was_cut(
    through: RegistrySettings, ledger: Ledger, thing: str, proxy: Cuttable
) -> None:
    async with running(through) as registry:
        heard = heard_of(registry, thing)
        port = proxy.listening.getHost().port
        await proxy.listening.stopListening()
        proxy.cut()
        await until(lambda: not registry.healthy)
        ledger.disconnect("pump", "floor")
        assert registry.things.rights(thing, ledger.channel("floor").id) == BOTH
        await deferLater(reactor, 0.5)
        assert heard == []
        proxy.listening = reactor.listenTCP(port, proxy, interface="127.0.0.1")
        await until(lambda: registry.healthy)
        assert heard == [Change.SHRUNK]
        ledger.set_enabled("pump", False)
        assert await until(lambda: len(heard) == 2) < 1


@in_reactor
async def test_a_way_that_goes_dead(
    through: RegistrySettings, ledger: Ledger, thing: str, proxy: Cuttable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing tells of it but the silence."""
    monkeypatch.setattr(source_module, "LOOK", 0.1)
    monkeypatch.setattr(postgres_link, "ANSWER_TIMEOUT", 0.5)
    monkeypatch.setattr(source_module, "ANSWER_TIMEOUT", 0.5)
    async with running(through) as registry:
        heard = heard_of(registry, thing)
        proxy.freeze()
        ledger.set_enabled("pump", False)
        await until(lambda: not registry.healthy, 2)
        await until(lambda: registry.healthy)
        assert heard == [Change.REVOKED]


@pytest.mark.parametrize("how", ["stop", "kill"])
@in_reactor
async def test_the_server_is_restarted(
    postgres: RegistrySettings, ledger: Ledger, thing: str, embedded_postgres: PostgresServer, how: str
) -> None:
    ledger.close()
    async with running(postgres) as one, running(postgres) as other:
        heard = [heard_of(one, thing), heard_of(other, thing)]
        embedded_postgres.sql("CHECKPOINT")
        getattr(embedded_postgres, how)()
        await until(lambda: not one.healthy and not other.healthy)
        assert one.things.named(thing)
        embedded_postgres.start()
        with open_ledger(postgres) as again:
            again.set_enabled("pump", False)
            await until(lambda: one.healthy and other.healthy)
            assert heard == [[Change.REVOKED]] * 2
            again.set_enabled("pump", True)
            assert await until(lambda: all(len(told) == 2 for told in heard)) < 1


@in_reactor
async def test_away_for_too_long(through: RegistrySettings, ledger: Ledger, thing: str, proxy: Cuttable) -> None:
    async with running(replace(through, stale_after=0.5)) as registry:
        heard = heard_of(registry, thing)
        port = proxy.listening.getHost().port
        await proxy.listening.stopListening()
        proxy.cut()
        await until(lambda: heard)
        assert heard == [Change.UNKNOWN]
        with pytest.raises(Unavailable):
            registry.things.named(thing)
        proxy.listening = reactor.listenTCP(port, proxy, interface="127.0.0.1")
        await until(lambda: registry.healthy)
        assert registry.things.named(thing)
        assert heard == [Change.UNKNOWN]


@in_reactor
async def test_its_session_is_ended(
    postgres: RegistrySettings, ledger: Ledger, thing: str, embedded_postgres: PostgresServer
) -> None:
    said: list[str | None] = []
    async with running(postgres) as registry:
        source = registry._source
        assert isinstance(source, PostgresSource)
        source._say = said.append
        embedded_postgres.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'securegw' AND datname = %s",
            database(postgres).dbname,
        )
        await until(lambda: len(said) == 2)
        assert said[1] is None
        assert "terminat" in str(said[0])
        assert registry.healthy


@in_reactor
async def test_the_schema_is_dropped_and_made_again(postgres: RegistrySettings, ledger: Ledger, thing: str) -> None:
    async with running(postgres) as registry:
        heard = heard_of(registry, thing)
        with sql_session(postgres) as session:
            session.execute("DROP SCHEMA securegw CASCADE")
            session.connection.commit()
        await until(lambda: not registry.healthy)
        assert registry.things.named(thing)
        open_ledger(postgres).close()
        await until(lambda: registry.healthy)
        assert heard == [Change.REVOKED]


@in_reactor
async def test_a_bug_while_it_is_told(postgres: RegistrySettings, ledger: Ledger, thing: str) -> None:
    def buggy(_: Change) -> None:
        raise RuntimeError("a bug")

    async with running(postgres) as registry:
        watch = registry.things.watch(thing, buggy)
        heard = heard_of(registry, thing)
        ledger.set_enabled("pump", False)
        await until(lambda: heard)
        watch.stop()
        await until(lambda: registry.healthy)
        ledger.set_enabled("pump", True)
        await until(lambda: len(heard) == 2)
        assert heard == [Change.REVOKED, Change.GROWN]


@in_reactor
async def test_nothing_is_left(
    through: RegistrySettings, ledger: Ledger, thing: str, proxy: Cuttable, embedded_postgres: PostgresServer
) -> None:
    """Stopped while it reads, waits, or is about to try again."""
    before = set(reactor.getDelayedCalls())
    for away in (False, True):
        async with running(through) as registry:
            if away:
                proxy.freeze()
                proxy.cut()
                await until(lambda: not registry.healthy)
        assert set(reactor.getDelayedCalls()) <= before
    name = database(through).dbname
    alive = "SELECT count(*)::int FROM pg_stat_activity WHERE application_name = 'securegw' AND datname = %s"
    await until(lambda: embedded_postgres.sql(alive, name) == [(0,)])


@in_reactor
async def test_stopped_between_two_attempts(
    through: RegistrySettings, ledger: Ledger, thing: str, proxy: Cuttable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "FIRST_PAUSE", 60)
    async with running(through) as registry:
        proxy.cut()
        await until(lambda: not registry.healthy)
        began = monotonic()
    assert monotonic() - began < 10


# --- the ledger -----------------------------------------------------------------------------------------------------


def test_a_lock_that_is_not_given_up(postgres: RegistrySettings, ledger: Ledger, thing: str) -> None:
    with sql_session(postgres) as session:
        session.execute("UPDATE thing SET name = 'mine'")
        ledger._store.change("SET lock_timeout = '50ms'", ())
        with pytest.raises(LedgerError, match="lock timeout"):
            ledger.set_enabled("pump", False)
    assert not ledger.set_enabled("pump", False).enabled


def test_the_server_goes_while_the_ledger_is_open(
    postgres: RegistrySettings, ledger: Ledger, embedded_postgres: PostgresServer, thing: str
) -> None:
    embedded_postgres.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'securegw ledger'"
    )
    with pytest.raises(LedgerError, match="terminat"):
        ledger.create_thing("valve")
    with pytest.raises(LedgerError):
        ledger.create_thing("valve")


def test_may_not_make_it(embedded_postgres: PostgresServer) -> None:
    mine = new_database(embedded_postgres)
    embedded_postgres.make_role("guest", PASSWORD)
    with pytest.raises(LedgerError, match="permission denied") as refused:
        open_ledger(RegistrySettings(replace(mine, user="guest")))
    assert "may not" in str(refused.value)
