"""A partner who does not want to go, and an owner of what is shared who wants more than to share it."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg2.sql import SQL, Composed

from gateway.embedded import Account
from gateway.share import provision, statements
from gateway.share.share import Query, Share, Table
from tests.servers import PostgresServer
from tests.share.databases import NAME, Office, drop_database, make_database, partner, share_of

# --- a partner who stays ----------------------------------------------------------------------------------------------

FREED = "SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0; BEGIN READ WRITE; "


@pytest.mark.parametrize(
    "held",
    [
        FREED + "ALTER ROLE acme PASSWORD 'mine'",
        FREED + "ALTER ROLE acme SET work_mem = '1MB'",
        FREED + "SELECT FROM acme.acme; LOCK TABLE pg_roles IN ACCESS SHARE MODE",
        FREED + "SELECT lo_create(0)",
        "SELECT pg_advisory_lock(7308613, 1)",
        "SET default_transaction_read_only = off; SELECT lo_create(0)",
    ],
)
@pytest.mark.parametrize("replace", [False, True])
def test_no_lock_of_the_partners_keeps_it(office: Office, held: str, replace: bool) -> None:
    office.create(share_of())
    with partner(office) as session:
        for statement in held.split("; "):
            session.execute(statement.encode())
        if replace:
            office.create(share_of(), replace=True)
        else:
            assert office.revoke() is not None
            assert office.records() == []
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")


@pytest.mark.parametrize("replace", [False, True])
def test_nor_does_one_who_comes_back_just_then(office: Office, replace: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    office.create(share_of())
    shut = statements.shut
    sessions: list[psycopg.Connection] = []

    def late(share: Share) -> Composed:
        if not sessions:
            sessions.append(partner(office))
            sessions[0].execute("BEGIN READ WRITE; ALTER ROLE acme PASSWORD 'mine'")
        return shut(share)

    monkeypatch.setattr(statements, "shut", late)
    monkeypatch.setattr(provision, "_SHUT_TIMEOUT", SQL("SET LOCAL lock_timeout = '50ms'"))
    if replace:
        office.create(share_of(), replace=True)
    else:
        assert office.revoke() is not None
    with pytest.raises(psycopg.OperationalError):
        sessions[0].execute("SELECT 1")


def test_nor_does_one_that_comes_back_again_and_again(office: Office) -> None:
    office.create(share_of())
    came = threading.Event()

    def stay() -> None:
        while True:
            try:
                with partner(office) as session:
                    came.set()
                    session.execute("BEGIN READ WRITE; ALTER ROLE acme PASSWORD 'mine'; SELECT pg_sleep(5)")
            except psycopg.Error as error:
                if not came.is_set() or any(
                    word in str(error) for word in ("not permitted", "password", "does not exist")
                ):
                    return

    partners = [threading.Thread(target=stay) for _ in range(3)]
    for one in partners:
        one.start()
    assert came.wait(60)
    assert office.revoke() is not None
    for one in partners:
        one.join()
    assert office.records() == []


def test_nor_does_a_prepared_transaction(embedded_programs: Path, account: Account) -> None:
    with PostgresServer.running(embedded_programs, account, max_prepared_transactions="2") as server:
        make_database(server)
        office = Office(server)
        office.create(share_of())
        with partner(office) as session:
            session.execute("BEGIN READ WRITE; ALTER ROLE acme PASSWORD 'mine'; PREPARE TRANSACTION 'it''s mine'")
        assert office.revoke() is not None
        assert office.records() == []


# --- an owner of what is shared who wants more ------------------------------------------------------------------------

# Whatever of it is planned or executed sets back the role, and leaves who it was: a function that says it never changes
# anything is called while a query is planned.
EVIL = """
CREATE ROLE mallory;
CREATE SCHEMA mal AUTHORIZATION mallory;
SET SESSION AUTHORIZATION mallory;
CREATE TABLE mal.t (id int);
CREATE TABLE mal.seen (who text);
GRANT USAGE ON SCHEMA mal TO PUBLIC;
GRANT INSERT ON mal.seen TO PUBLIC;
CREATE FUNCTION mal.act() RETURNS boolean LANGUAGE plpgsql AS
  'BEGIN RESET ROLE; INSERT INTO mal.seen VALUES (current_user); RETURN true; END';
CREATE FUNCTION mal.calm(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN mal.act(); END';
CREATE DOMAIN mal.d AS int CHECK (mal.calm(VALUE));
CREATE VIEW mal.v AS SELECT id FROM mal.t WHERE mal.calm(1);
CREATE VIEW mal.w AS SELECT id, 1::mal.d AS d FROM mal.t;
CREATE TABLE mal.p (id int DEFAULT mal.calm(1)::int, CHECK (mal.calm(1)));
ALTER TABLE mal.p ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON mal.p USING (mal.calm(1));
CREATE FUNCTION mal.f(x int DEFAULT mal.calm(2)::int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT mal.calm(3)::int';
"""


SHARED = (
    Table("mal", "v"),
    Table("mal", "w"),
    Table("mal", "p", ("id",)),
    Query.of("SELECT id FROM mal.v"),
    Query.of("SELECT id, mal.calm(4) FROM mal.t WHERE mal.f() = 1 AND mal.calm(5) LIMIT mal.f()"),
    Query.of("SELECT '1'::mal.d AS d, id FROM mal.t"),
)


@pytest.mark.parametrize("kind", ["embedded", "debian"])
def test_nothing_of_theirs_is_called_as_the_administrator(request: pytest.FixtureRequest, kind: str) -> None:
    server: PostgresServer = request.getfixturevalue(f"{kind}_postgres")
    make_database(server)
    server.sql(EVIL, database=NAME)
    office = Office(server)
    try:
        for source in SHARED:
            office.create(share_of("acme", source), replace=True)
            office.create(share_of("acme", source))
            assert server.sql("SELECT who FROM mal.seen", database=NAME) == []
        office.revoke()
        assert server.sql("SELECT who FROM mal.seen", database=NAME) == []
        # They would, if they were only planned.
        with suppress(psycopg.Error):
            server.sql("EXPLAIN SELECT FROM mal.v", database=NAME)
        assert server.sql("SELECT who FROM mal.seen LIMIT 1", database=NAME) == [("postgres",)]
    finally:
        drop_database(server)
        server.sql("DROP ROLE mallory")
