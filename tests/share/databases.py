"""A database with something to share in it, and somebody to share it, for the tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg

from gateway.share import provision
from gateway.share.administrator import Administrator, perform
from gateway.share.conninfo import arguments
from gateway.share.provision import Creation, Made
from gateway.share.share import Query, Record, Share, Table
from gateway.upstream import Address, ClientTLS, Login, TLSMode, Upstream
from tests.servers import PostgresServer

Result = TypeVar("Result")

NAME = "share_shop"
PASSWORD = "a password of the tests"
# Of a share, a table or a column.
ODD = "par't\"nr {é} %s \\ $$"
DBA_PASSWORD = "dba's own"
ORDERS = Table("shop", "orders", ("id", "total"))

TABLES = """
CREATE SCHEMA shop;
CREATE TABLE shop.orders (id int PRIMARY KEY, total numeric, customer text);
CREATE TABLE shop.customers (name text, card text);
INSERT INTO shop.orders VALUES (1, 9.99, 'bob');
"""


def share_of(name: str = "acme", source: Table | Query = ORDERS, *networks: str, database: str = NAME) -> Share:
    return Share.of(name, database, "acme corp", networks or ("203.0.113.0/24",), source)


def make_database(server: PostgresServer, name: str = NAME, owner: str = "postgres") -> None:
    drop_database(server, name)
    server.sql(f'CREATE DATABASE "{name}" OWNER "{owner}"')
    server.sql(f'SET ROLE "{owner}"; {TABLES}', database=name)


def drop_database(server: PostgresServer, name: str = NAME) -> None:
    server.sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def upstream_of(server: PostgresServer, *, tls: bool) -> Upstream:
    """Over its Unix socket (as which the superuser gets in), or over TCP with TLS."""
    if not tls:
        return Upstream("main", (Address(str(server.socket), 0),), ClientTLS(TLSMode.DISABLE))
    return Upstream("main", (Address("localhost", server.port),), ClientTLS(root_certificate=server.root_certificate))


@dataclass(frozen=True, slots=True)
class Office:
    """Somebody who makes shares."""

    server: PostgresServer
    role: str = "postgres"
    login: Login = field(default_factory=Login)
    tls: bool = False
    database: str = NAME

    def perform(self, work: Callable[[Administrator], Awaitable[Result]]) -> Result:
        return perform(self.arguments(), work)

    def arguments(self) -> dict[str, Any]:
        return arguments(upstream_of(self.server, tls=self.tls), self.login, self.role, self.database)

    def create(self, share: Share, *, keep: Callable[[], None] = lambda: None, **more: bool) -> Made:
        return self.perform(Creation(share, PASSWORD, keep, **more).run)

    def revoke(self, name: str = "acme") -> Record | None:
        return self.perform(lambda admin: provision.revoke(admin, name))

    def records(self) -> list[Record]:
        return self.perform(provision.records)


def partner(office: Office, name: str = "acme") -> psycopg.Connection:
    """Straight to the database, as the gateway logs in."""
    server = office.server
    wanted: dict[str, Any] = {"host": "localhost", "sslmode": "verify-full", "sslrootcert": server.root_certificate}
    if server.ca is None:
        wanted = {"host": server.folder}
    wanted |= {"port": server.port, "user": name, "dbname": NAME, "password": PASSWORD}
    return psycopg.connect(**wanted, autocommit=True)
