"""A registry of each kind, new for each test."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import pytest_twisted

from gateway.registry.ledger import Ledger, open_ledger
from gateway.registry.settings import PostgresDatabase, RegistrySettings
from gateway.upstream import TLSMode
from tests.servers import PostgresServer

PASSWORD = "registry-secret"
_numbers = count(1)

Test = TypeVar("Test", bound=Callable[..., Coroutine[Any, Any, None]])


def in_reactor(test: Test) -> Test:
    """A test that waits in Twisted's reactor."""
    return cast(Test, pytest_twisted.ensureDeferred(test))


def new_database(server: PostgresServer) -> PostgresDatabase:
    """A new, empty one, whose owner logs in without TLS."""
    name = f"registry_{next(_numbers)}"
    server.make_role(name, PASSWORD)
    server.sql(f"CREATE DATABASE {name} OWNER {name}")
    return PostgresDatabase(("127.0.0.1",), name, name, server.port, PASSWORD, TLSMode.DISABLE)


@pytest.fixture
def sqlite(tmp_path: Path) -> RegistrySettings:
    return RegistrySettings(tmp_path / "registry.db")


@pytest.fixture
def postgres(embedded_postgres: PostgresServer) -> RegistrySettings:
    return RegistrySettings(new_database(embedded_postgres))


@pytest.fixture(params=["sqlite", "postgres"])
def either(request: pytest.FixtureRequest) -> RegistrySettings:
    """One after the other."""
    settings: RegistrySettings = request.getfixturevalue(request.param)
    return settings


@pytest.fixture
def ledger(either: RegistrySettings) -> Iterator[Ledger]:
    with open_ledger(either) as ledger:
        yield ledger
