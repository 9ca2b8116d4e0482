"""The registry as the gateway starts, asks and stops it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import provider

from gateway.registry.ledger import LedgerError, open_ledger
from gateway.registry.service import Registry, open_registry
from gateway.registry.settings import RegistrySettings
from gateway.registry.sqlite import POLL
from gateway.things import Change, Unavailable


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logged() -> Iterator[list[str]]:
    events: list[str] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        events.append(f"{event['log_level'].name}: {event['log_format'].format(**event)}")

    observer = cast(ILogObserver, observe)
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)


def result(deferred: Deferred[None]) -> None:
    """Of what has fired already."""
    found: list[None] = []
    deferred.addCallback(found.append)
    assert found


def started(settings: RegistrySettings, clock: Clock) -> Registry:
    registry = open_registry(settings, clock)
    result(registry.start())
    return registry


def test_nothing_before_the_start(sqlite: RegistrySettings, clock: Clock, tmp_path: Path) -> None:
    registry = open_registry(sqlite, clock)
    assert not registry.healthy
    with pytest.raises(Unavailable):
        registry.things.named("x")
    assert not [*tmp_path.iterdir()]
    result(registry.stop())


def test_a_change_within_a_second(sqlite: RegistrySettings, clock: Clock) -> None:
    assert POLL <= 0.5
    registry = started(sqlite, clock)
    assert registry.healthy
    heard: list[Change] = []
    with open_ledger(sqlite) as ledger:
        thing = ledger.create_thing("pump")[0].id
        clock.advance(POLL)
        assert registry.things.named(thing)
        registry.things.watch(thing, heard.append)
        ledger.set_enabled("pump", False)
        clock.advance(POLL)
    assert heard == [Change.REVOKED]
    result(registry.stop())


def test_a_start_that_fails(clock: Clock, tmp_path: Path) -> None:
    registry = open_registry(RegistrySettings(tmp_path / "nowhere" / "registry.db"), clock)
    failed: list[Failure] = []
    registry.start().addErrback(failed.append)
    assert isinstance(failed[0].value, LedgerError)
    assert "No such file" in str(failed[0].value)
    assert not registry.healthy
    result(registry.stop())
    assert not clock.getDelayedCalls()


def test_away_and_back(sqlite: RegistrySettings, clock: Clock, tmp_path: Path, logged: list[str]) -> None:
    path = tmp_path / "registry.db"
    registry = started(sqlite, clock)
    path.rename(tmp_path / "elsewhere")
    clock.pump([POLL] * 3)
    assert not registry.healthy
    assert registry.things.available
    clock.advance(300)
    assert not registry.things.available
    (tmp_path / "elsewhere").rename(path)
    clock.advance(POLL)
    assert registry.healthy
    assert logged == [
        f"warn: registry: {path} is away: {path}: No such file or directory",
        f"info: registry: {path} is there again",
    ]
    result(registry.stop())


def test_nothing_is_left(sqlite: RegistrySettings, clock: Clock, tmp_path: Path) -> None:
    registry = started(sqlite, clock)
    (tmp_path / "registry.db").rename(tmp_path / "elsewhere")
    clock.advance(POLL)
    result(registry.stop())
    assert not clock.getDelayedCalls()
    assert not registry.healthy
    with pytest.raises(Unavailable):
        registry.things.named("x")
    # Nobody holds it open: SQLite takes its log away with the last connection.
    sqlite3.connect(tmp_path / "elsewhere").close()
    result(registry.stop())
