"""A share is shut before anything else, whatever is in the way of the rest: whose transaction, or which name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg2.sql import SQL

from gateway.embedded import Account
from gateway.share import provision
from gateway.share.provision import Shut
from gateway.share.share import ShareError
from gateway.upstream import Login
from tests.servers import PostgresServer, debian_programs
from tests.share.databases import (
    DBA_PASSWORD,
    NAME,
    PASSWORD,
    Office,
    drop_database,
    make_database,
    partner,
    share_of,
)

PREPARE = "PREPARE TRANSACTION 'it''s mine'"
ROLL_BACK = "ROLLBACK PREPARED 'it''s mine'"
OWNED = "SELECT lo_create(0)"
LOCKED = "ALTER ROLE acme PASSWORD 'mine'"
READ = "SELECT FROM acme.acme"


@pytest.fixture(scope="module", params=["embedded", "debian"])
def server(request: pytest.FixtureRequest, embedded_programs: Path, account: Account) -> Iterator[PostgresServer]:
    """One that has prepared transactions, and an administrator who is no superuser."""
    programs = embedded_programs if request.param == "embedded" else debian_programs()
    if programs is None:
        pytest.skip("there is no server of Debian's")
    with PostgresServer.running(programs, account, max_prepared_transactions="5") as found:
        found.make_role("dba", DBA_PASSWORD, options="CREATEROLE")
        yield found


@pytest.fixture(params=["postgres", "dba"])
def office(request: pytest.FixtureRequest, server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    """With a share."""
    monkeypatch.setattr(provision, "_SHUT_TIMEOUT", SQL("SET LOCAL lock_timeout = '50ms'"))
    make_database(server, owner=request.param)
    found = Office(server) if request.param == "postgres" else Office(server, "dba", Login("dba", DBA_PASSWORD))
    found.create(share_of())
    yield found
    drop_database(server)
    server.sql("DROP ROLE IF EXISTS acme, acme_owner")


def prepare(office: Office, *statements: str) -> None:
    with partner(office) as session:
        session.execute("BEGIN READ WRITE")
        for statement in (*statements, PREPARE):
            session.execute(statement.encode())


def shut(office: Office) -> Shut | None:
    """From a database that has nothing to do with it."""
    elsewhere = Office(office.server, office.role, office.login, database="postgres")
    return elsewhere.perform(lambda admin: provision.shut(admin, "acme"))


def can_log_in(office: Office) -> bool:
    try:
        partner(office).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.parametrize("statement", [OWNED, LOCKED, READ])
def test_a_prepared_transaction_ends_or_who_can_end_it_is_told(office: Office, statement: str) -> None:
    prepare(office, statement)
    if office.role == "postgres":
        assert office.revoke() is not None
    else:
        with pytest.raises(ShareError) as told:
            office.revoke()
        assert f"a superuser has to run {ROLL_BACK} in the database {NAME}" in str(told.value)
        if statement != LOCKED:
            assert not can_log_in(office)
            assert "still logs in" not in str(told.value)
        office.server.sql(ROLL_BACK, database=NAME)
        assert office.revoke() is not None
    assert office.records() == []


def test_whoever_cannot_be_kept_out_reads_nothing_any_more(office: Office) -> None:
    """The partner has locked its role, and the view, too."""
    prepare(office, LOCKED, READ)
    found = shut(office)
    assert found is not None
    assert not found.closed
    if office.role == "dba":
        with pytest.raises(ShareError, match="until then it still logs in, but reads nothing any more"):
            office.revoke()
        with partner(office) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("SELECT * FROM acme.acme")
        assert [record.share.name for record in office.records()] == ["acme"]
        office.server.sql(ROLL_BACK, database=NAME)
    assert office.revoke() is not None
    assert office.records() == []


def test_it_is_shut_once_it_can_be_whatever_follows(office: Office) -> None:
    prepare(office, LOCKED)
    if office.role == "dba":
        with pytest.raises(ShareError, match="superuser"):
            office.revoke()
        office.server.sql(ROLL_BACK, database=NAME)
    office.server.sql("CREATE TABLE acme.precious ()", database=NAME)
    with pytest.raises(ShareError, match="cannot drop schema acme"):
        office.revoke()
    assert not can_log_in(office)
    office.server.sql("DROP TABLE acme.precious", database=NAME)
    assert office.revoke() is not None


def test_one_in_another_database_is_told(office: Office) -> None:
    """There, nobody that is here can end it."""
    wanted = f"host={office.server.folder} port={office.server.port} user=acme dbname=postgres"
    with psycopg.connect(wanted, password=PASSWORD, autocommit=True) as session:
        session.execute(f"BEGIN READ WRITE; {OWNED}; {PREPARE}".encode())
    with pytest.raises(ShareError) as told:
        office.revoke()
    assert f"{ROLL_BACK} in the database postgres" in str(told.value)
    assert not can_log_in(office)
    office.server.sql(ROLL_BACK)
    assert office.revoke() is not None


def test_nothing_takes_the_place_of_a_share_that_cannot_end(office: Office) -> None:
    prepare(office, OWNED)
    with pytest.raises(ShareError) as told:
        office.create(share_of(), replace=True)
    assert "the role acme has a prepared transaction, 'it''s mine', in the database share_shop" in str(told.value)
    assert "revoke the share first" in str(told.value)
    assert can_log_in(office)
    office.server.sql(ROLL_BACK, database=NAME)
    office.create(share_of(), replace=True)


def test_it_is_shut_from_any_database(office: Office) -> None:
    with partner(office) as session:
        found = shut(office)
        assert found is not None
        assert (found.record.share.name, found.database, found.closed) == ("acme", NAME, True)
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert not can_log_in(office)
    assert office.server.sql("SELECT rolcanlogin, rolpassword FROM pg_authid WHERE rolname = 'acme'") == [(False, None)]
    assert office.revoke() is not None
    assert shut(office) is None


@pytest.mark.parametrize("what", ["renamed", "dropped"])
def test_a_database_may_have_another_name_by_now_or_be_gone(office: Office, what: str) -> None:
    if what == "renamed":
        office.server.sql(f"ALTER DATABASE {NAME} RENAME TO share_renamed")
    else:
        drop_database(office.server)
    try:
        found = shut(office)
        assert found is not None
        assert found.database == ("share_renamed" if what == "renamed" else "postgres")
        there = Office(office.server, office.role, office.login, database=found.database)
        assert there.revoke() is not None
        assert there.perform(provision.records) == []
    finally:
        drop_database(office.server, "share_renamed")


@pytest.mark.parametrize("other", [NAME, "share_other"])
def test_somebody_elses_schema_of_that_name_stays(office: Office, other: str) -> None:
    """The share's is gone; the database that has its name now, or that is asked instead, has such a schema, too."""
    drop_database(office.server)
    office.server.sql(f"CREATE DATABASE {other} OWNER {office.role}")
    precious = f"SET ROLE {office.role}; CREATE SCHEMA acme; CREATE VIEW acme.acme AS SELECT 1 AS precious"
    office.server.sql(precious, database=other)
    there = Office(office.server, office.role, office.login, database=other)
    try:
        found = there.perform(lambda admin: provision.shut(admin, "acme"))
        assert found is not None
        assert (found.database, found.closed) == (other, True)
        for attempt in (there.revoke, lambda: there.create(share_of(database=other), replace=True)):
            with pytest.raises(ShareError) as told:
                attempt()
            assert f"the schema acme in the database {other} is owned by {office.role}, not by the" in str(told.value)
            assert "nothing was dropped, and the share's roles are still there" in str(told.value)
            assert office.server.sql("SELECT precious FROM acme.acme", database=other) == [(1,)]
            assert there.perform(lambda admin: provision.left(admin, "acme")) == ["acme", "acme_owner"]
        assert not can_log_in(office)
        (rest,) = re.findall("DROP OWNED BY .* is the rest", str(told.value))
        office.server.sql(rest.removesuffix(" is the rest"), database=other)
        assert there.revoke() is None
    finally:
        drop_database(office.server, other)


def test_its_roles_are_found_without_its_record(office: Office) -> None:
    assert office.perform(lambda admin: provision.left(admin, "acme")) == ["acme", "acme_owner"]
    assert office.perform(lambda admin: provision.left(admin, "acm")) == []
