"""Administrators of both kinds, on both servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.upstream import Login
from tests.servers import PostgresServer
from tests.share.databases import DBA_PASSWORD, NAME, ODD, Office, drop_database, make_database

LEFT = """
SELECT 'role ' || rolname FROM pg_roles WHERE rolname IN ('acme', 'acme_owner', %s, %s || '_owner')
UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname IN ('acme', %s)
UNION ALL SELECT relacl::text FROM pg_class WHERE oid = 'shop.orders'::regclass AND relacl::text LIKE '%%acme%%'
"""


@pytest.fixture(scope="module", params=["embedded-superuser", "embedded-dba", "debian-dba-tls"])
def shared_office(request: pytest.FixtureRequest) -> Iterator[Office]:
    kind, _, who = request.param.partition("-")
    server: PostgresServer = request.getfixturevalue(f"{kind}_postgres")
    if who == "superuser":
        make_database(server)
        yield Office(server)
    else:
        server.make_role("dba", DBA_PASSWORD, options="CREATEROLE")
        make_database(server, owner="dba")
        yield Office(server, "dba", Login("dba", DBA_PASSWORD), who.endswith("tls"))
    drop_database(server)


@pytest.fixture
def office(shared_office: Office) -> Iterator[Office]:
    """There is no share, and afterwards nothing of one."""
    yield shared_office
    for record in shared_office.records():
        shared_office.revoke(record.share.name)
    assert shared_office.server.sql(LEFT, *[ODD] * 3, database=NAME) == []
