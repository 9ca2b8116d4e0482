"""Fixtures for real clients: one gateway for each module and upstream, and after each test a look at what is left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.clients import PASSWORD, ROLE, Program, Site, libpq_with_tls
from tests.e2e.mqtt_clients import OPENERS as MQTT_OPENERS
from tests.e2e.mqtt_clients import missing_for_mqtt_js
from tests.e2e.mqtt_node import Node
from tests.e2e.mqtt_sites import HUB, MOSQUITTO, MQTTSite
from tests.e2e.mqtt_vocabulary import Opener
from tests.e2e.wss_clients import missing_for_node
from tests.gateways import RunningGateway, behind, wait_until
from tests.mosquitto import mosquitto_program
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


# --- MQTT -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def mosquitto() -> Path:
    """The broker."""
    program = mosquitto_program()
    if program is None:
        pytest.skip("Mosquitto is not installed")
    return program


@pytest.fixture(scope="session")
def mosquitto_clients() -> None:
    for name in ("mosquitto_pub", "mosquitto_sub", "stdbuf"):
        _need_program(name)


@pytest.fixture(scope="session")
def mqtt_js() -> Iterator[Node]:
    """One process for all clients of MQTT.js."""
    missing = missing_for_mqtt_js()
    if missing:
        pytest.skip(missing)
    with Node.running() as node:
        yield node


@pytest.fixture(params=[*MQTT_OPENERS, "mqtt.js"])
def mqtt_opener(request: pytest.FixtureRequest) -> Opener:
    if request.param == "mqtt.js":
        node: Node = request.getfixturevalue("mqtt_js")
        return node.open
    return MQTT_OPENERS[request.param]


@pytest.fixture(scope="module", params=[HUB, MOSQUITTO])
def shared_mqtt_site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MQTTSite]:
    """One gateway for the module: once with its own hub, once before a Mosquitto with TLS (verify-full)."""
    if request.param == MOSQUITTO:
        request.getfixturevalue("mosquitto")
    with MQTTSite.running(tmp_path_factory.mktemp("gateway"), request.param, tls=True) as site:
        yield site


@pytest.fixture
def channel_site(shared_mqtt_site: MQTTSite) -> Iterator[MQTTSite]:
    """It may keep connections to its broker, for the next POST."""
    yield shared_mqtt_site
    shared_mqtt_site.gateway.check_at_rest()
    shared_mqtt_site.check_no_secret()


@pytest.fixture
def mqtt_site(channel_site: MQTTSite) -> Iterator[MQTTSite]:
    """Where nobody POSTs."""
    yield channel_site
    wait_until(lambda: not channel_site.gateway.pooled(), "the broker is rid of everybody")
