"""Each page of docs/ does what it says: its test follows it to the letter, with what it presupposes given.

A page whose commands need a machine of their own is looked at by tests/docs/test_docs.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from gateway.embedded import Account
from tests.docs.conftest import require
from tests.docs.walk import Reader
from tests.e2e.websocket_service import WebSocketService
from tests.e2e.wss_clients import NODE_SCRIPTS, missing_for_node
from tests.http_servers import WebService
from tests.mosquitto import Mosquitto, mosquitto_program
from tests.servers import PostgresServer, debian_programs


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    """The readers' own, in which they may make roles and drop them."""
    programs = debian_programs()
    if programs is None:
        pytest.skip("not installed: Debian's PostgreSQL")
    with PostgresServer.running(programs, Account.current(), tls=True) as server:
        yield server


def give_database(reader: Reader, server: PostgresServer) -> None:
    """As pages presuppose it: at port 5432, the certificate of its authority, and psql as an administrator."""
    reader.ports["5432"] = server.port
    shutil.copy(server.root_certificate, reader.folder / "db-ca.crt")
    reader.environ |= {"PGHOST": str(server.folder), "PGPORT": str(server.port), "PGUSER": "postgres"}


def test_load_balancer(reader: Reader) -> None:
    require("haproxy", "curl")
    reader.follow("load-balancer.md")


def test_grpc(reader: Reader) -> None:
    reader.follow("grpc.md")


def test_many_gateways(reader: Reader, database: PostgresServer) -> None:
    require("psql", "openssl", "mosquitto", "mosquitto_sub", "mosquitto_pub")
    program = mosquitto_program()
    assert program is not None
    give_database(reader, database)
    with Mosquitto.running(program, tls=True, users={"securegw": "the broker's"}) as broker:
        reader.ports["8884"] = broker.port
        shutil.copy(broker.root_certificate, reader.folder / "broker-ca.crt")
        (reader.folder / "broker.password").write_text("the broker's\n")
        reader.follow("many-gateways.md")


def test_replace_jwt_postgresql_proxy(reader: Reader, database: PostgresServer) -> None:
    require("psql")
    give_database(reader, database)
    reader.follow("replace-jwt-postgresql-proxy.md")


def test_replace_mainflux_nginx(reader: Reader) -> None:
    """In the place of Mainflux's adapters: a web service, one for WebSockets, and a broker."""
    require("curl", "mosquitto", "mosquitto_sub", "mosquitto_pub", "node")
    missing = missing_for_node()
    if missing:
        pytest.skip(missing)
    program = mosquitto_program()
    assert program is not None
    reader.environ["NODE_PATH"] = str(NODE_SCRIPTS / "node_modules")
    with WebService.running() as web, WebSocketService.running() as websockets, Mosquitto.running(program) as broker:
        reader.ports |= {"8185": web.port, "8186": int(websockets.url.rpartition(":")[2]), "1883": broker.port}
        reader.follow("replace-mainflux-nginx.md")
    key = (reader.folder / "thermometer.secret").read_bytes().strip()
    (posted,) = web.requests
    assert posted.path == "/channels/5bb7d1a5-3c9a-4b0e-9f0f-6d3c1b8a2f10/messages"
    assert posted.values(b"authorization") == [key]
    assert websockets.asked == [posted.path]


def test_revoke(reader: Reader, database: PostgresServer) -> None:
    require("psql", "mosquitto_sub")
    give_database(reader, database)
    reader.follow("revoke.md")


def test_share_a_view(reader: Reader, database: PostgresServer) -> None:
    require("psql", "openssl")
    give_database(reader, database)
    reader.follow("share-a-view.md")


def test_rotate_keys(reader: Reader, database: PostgresServer) -> None:
    require("psql", "openssl", "mosquitto_pub")
    give_database(reader, database)
    reader.follow("rotate-keys.md")


def test_explain_and_check(reader: Reader, database: PostgresServer) -> None:
    require("psql")
    give_database(reader, database)
    reader.follow("explain-and-check.md")
