"""Fixtures for the whole suite: real servers, each started once and only when a test asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.embedded import Account, installed_programs, usable_programs
from tests.servers import PostgresServer, debian_programs, psql_program
from tests.wires import close_pairs


@pytest.fixture(autouse=True)
def pairs() -> Iterator[None]:
    """Connections of tests end with them."""
    yield
    close_pairs()


@pytest.fixture(scope="session")
def account() -> Account:
    """Whom servers run as."""
    return Account.current()


@pytest.fixture(scope="session")
def embedded_programs(account: Account) -> Path:
    """The folder of PyPI's PostgreSQL programs: postgres, psql and pgbench, all without TLS."""
    installed = installed_programs()
    assert installed is not None
    return usable_programs(installed, account)


@pytest.fixture(scope="session")
def embedded_postgres(embedded_programs: Path, account: Account) -> Iterator[PostgresServer]:
    """PostgreSQL 18 without TLS."""
    with PostgresServer.running(embedded_programs, account) as server:
        yield server


@pytest.fixture(scope="session")
def debian_postgres(account: Account) -> Iterator[PostgresServer]:
    """Debian's PostgreSQL, reached over TLS."""
    programs = debian_programs()
    if programs is None:
        pytest.skip("Debian PostgreSQL with TLS is not installed")
    with PostgresServer.running(programs, account, tls=True) as server:
        yield server


@pytest.fixture(scope="session")
def psql() -> Path:
    """A psql that speaks TLS."""
    program = psql_program()
    if program is None:
        pytest.skip("Debian PostgreSQL with TLS is not installed")
    return program
