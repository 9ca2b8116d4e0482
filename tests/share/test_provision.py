"""Shares made in real servers, of both kinds of administrators: what is there then, and what is not there after."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from gateway.share import administrator, provision
from gateway.share.administrator import Administrator, perform
from gateway.share.share import Query, ShareError, Table
from gateway.share.statements import CONNECTION_LIMIT
from gateway.upstream import Login
from tests.servers import PostgresServer
from tests.share.databases import (
    DBA_PASSWORD,
    NAME,
    ODD,
    PASSWORD,
    Office,
    drop_database,
    make_database,
    partner,
    share_of,
)
from tests.wires import no_new_descriptors


def test_the_partner_reads_the_view_and_nothing_else(office: Office) -> None:
    made = office.create(share_of())
    assert made.password == PASSWORD
    with partner(office) as session:
        assert [str(row) for row in session.execute("SELECT * FROM acme.acme")] == ["(1, Decimal('9.99'))"]
        for statement in ("SELECT FROM shop.orders", "CREATE TABLE acme.mine ()", "SELECT customer FROM acme.acme"):
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedColumn)):
                session.execute(f"BEGIN READ WRITE; {statement}")
            session.execute("ROLLBACK")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            session.execute("CREATE TEMP TABLE mine ()")


def test_the_role_is_as_small_as_can_be(office: Office) -> None:
    office.create(share_of())
    flags = "rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolcanlogin, rolconnlimit"
    query = f"SELECT {flags} FROM pg_roles WHERE rolname LIKE 'acme%' ORDER BY rolname"
    owner = (*[False] * 7, -1)
    assert office.server.sql(query) == [(*[False] * 6, True, CONNECTION_LIMIT), owner]


def test_the_owner_of_the_view_reads_no_more_than_the_view(office: Office) -> None:
    """Whatever the view is replaced with: here, by all columns."""
    office.create(share_of())
    office.server.sql("CREATE OR REPLACE VIEW acme.acme AS SELECT id, total, customer FROM shop.orders", database=NAME)
    with partner(office) as session, pytest.raises(psycopg.errors.InsufficientPrivilege, match="orders"):
        session.execute("SELECT id FROM acme.acme")


def test_row_security_holds_for_the_partner(office: Office) -> None:
    policy = "ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY"
    office.server.sql(policy, database=NAME)
    try:
        office.create(share_of())
        with partner(office) as session:
            assert session.execute("SELECT * FROM acme.acme").fetchall() == []
    finally:
        office.server.sql(policy.replace("ENABLE", "DISABLE"), database=NAME)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM shop.orders",
        "SELECT o FROM shop.orders AS o",
        "WITH a AS (SELECT id FROM shop.orders) TABLE a -- a comment at the end",
        'SELECT o.id, c.name AS "n{}%s\'" FROM shop.orders AS o LEFT JOIN shop.customers AS c ON c.name = o.customer;',
        "VALUES (1)",
    ],
)
def test_a_query_is_a_view(office: Office, sql: str) -> None:
    office.create(share_of("acme", Query.of(sql)))
    with partner(office) as session:
        assert len(session.execute("SELECT * FROM acme.acme").fetchall()) == 1


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT 1; SELECT 2", "syntax error"),
        ("SELECT 1; DROP TABLE shop.orders", "syntax error"),
        ("SELECT 1); DROP TABLE shop.orders; SELECT (2", "mismatched parentheses"),
        ("SELECT 1) WITH CHECK OPTION; DROP TABLE shop.orders; VALUES (1", "mismatched parentheses"),
        ("SELECT 1; two CURSOR FOR SELECT 2", "syntax error"),
        ("SELECT 1; n int); DROP TABLE shop.orders; SELECT (2", "syntax error"),
        ("SELECT 1; BEGIN DROP TABLE shop.orders; END; --", "syntax error"),
        ("SELECT $a$;$a$); DROP TABLE shop.orders; SELECT ($$;$$", "mismatched parentheses"),
        ("SELECT ctid, id FROM shop.orders", "name the columns"),
        ("DELETE FROM shop.orders RETURNING id", "syntax error"),
        ("WITH gone AS (DELETE FROM shop.orders RETURNING id) SELECT * FROM gone", "data-modifying"),
        ("SELECT id FROM orders", "does not exist"),
        ("SELECT id, o FROM shop.orders AS o", "name the columns"),
        ("SELECT pg_read_file('PG_VERSION') FROM shop.orders", "permission denied for function"),
        ("nonsense", "syntax error"),
    ],
)
def test_what_is_no_query_changes_nothing(office: Office, sql: str, reason: str) -> None:
    with pytest.raises(ShareError, match=reason):
        office.create(share_of("acme", Query.of(sql)))
    assert office.records() == []
    assert office.server.sql("SELECT count(*)::int FROM shop.orders", database=NAME) == [(1,)]


def test_nor_where_the_database_says_that_functions_are_not_checked(office: Office) -> None:
    office.server.sql(f"ALTER DATABASE {NAME} SET check_function_bodies = off")
    try:
        with pytest.raises(ShareError, match="mismatched parentheses"):
            office.create(share_of("acme", Query.of("SELECT 1); DROP TABLE shop.orders; SELECT (2")))
    finally:
        office.server.sql(f"ALTER DATABASE {NAME} RESET check_function_bodies")
    assert office.server.sql("SELECT count(*)::int FROM shop.orders", database=NAME) == [(1,)]


@pytest.mark.parametrize(
    "source", [Table("shop", "none"), Table("none", "orders"), Table("shop", "orders", ("id", "none"))]
)
def test_a_table_that_is_not_there(office: Office, source: Table) -> None:
    with pytest.raises(ShareError, match="does not exist"):
        office.create(share_of("acme", source))
    assert office.records() == []


def test_the_longest_and_oddest_names(office: Office) -> None:
    server, quoted = office.server, ODD.replace('"', '""')
    server.sql(
        f'ALTER TABLE shop.customers RENAME TO "{quoted}"; ALTER TABLE shop."{quoted}" RENAME name TO "{quoted}"',
        database=NAME,
    )
    try:
        office.create(share_of(ODD, Table("shop", ODD, (ODD,))))
        with partner(office, ODD) as session:
            assert session.execute(f'SELECT "{quoted}" FROM "{quoted}"."{quoted}"'.encode()).fetchall() == []
        assert [record.share.name for record in office.records()] == [ODD]
        assert office.revoke(ODD) is not None
    finally:
        server.sql(
            f'ALTER TABLE shop."{quoted}" RENAME TO customers; ALTER TABLE shop.customers RENAME "{quoted}" TO name',
            database=NAME,
        )


def test_a_second_time_nothing_is_changed(office: Office) -> None:
    office.create(share_of())
    before = office.server.sql("SELECT oid, xmin::text FROM pg_authid WHERE rolname = 'acme'")
    again = office.create(share_of(), keep=lambda: pytest.fail("nothing was made"))
    assert again.password is None
    assert again.record == office.records()[0]
    assert office.server.sql("SELECT oid, xmin::text FROM pg_authid WHERE rolname = 'acme'") == before


def test_something_else_takes_its_place_only_when_asked_to(office: Office) -> None:
    office.create(share_of())
    other = share_of("acme", Table("shop", "customers", ("name",)), "192.0.2.0/24")
    with pytest.raises(ShareError, match=r"networks 203\.0\.113\.0/24, not 192\.0\.2\.0/24; its source"):
        office.create(other)
    with partner(office) as session:
        office.create(other, replace=True)
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT * FROM acme.acme")
    assert [record.share for record in office.records()] == [other]
    with partner(office) as session:
        assert session.execute("SELECT name FROM acme.acme").fetchall() == []


@pytest.mark.parametrize("taken", ["acme", "acme_owner"])
def test_a_role_of_somebody_else_is_left_alone(office: Office, taken: str) -> None:
    office.server.sql(f"CREATE ROLE {taken}; COMMENT ON ROLE {taken} IS 'securegw share'")
    try:
        for replace in (False, True):
            with pytest.raises(ShareError, match="a role of that name is there already"):
                office.create(share_of(), replace=replace)
        assert office.revoke() is None
        assert office.records() == []
    finally:
        office.server.sql(f"DROP ROLE {taken}")


def test_so_is_a_schema(office: Office) -> None:
    office.server.sql("CREATE SCHEMA acme", database=NAME)
    try:
        with pytest.raises(ShareError, match="a schema of that name"):
            office.create(share_of())
    finally:
        office.server.sql("DROP SCHEMA acme", database=NAME)


def test_what_cannot_be_kept_is_not_made(office: Office) -> None:
    """The file of the password comes before COMMIT."""

    def keep() -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        office.create(share_of(), keep=keep)
    assert office.records() == []


def test_the_password_goes_nowhere(office: Office) -> None:
    before = len(office.server.log.read_text("utf-8"))
    office.server.sql(f"ALTER DATABASE {NAME} SET log_statement = 'all'")
    try:
        made = office.create(share_of())
    finally:
        office.server.sql(f"ALTER DATABASE {NAME} RESET log_statement")
    logged = office.server.log.read_text("utf-8")[before:]
    assert 'CREATE ROLE "acme" LOGIN' in logged
    assert PASSWORD not in logged
    ((stored,),) = office.server.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'acme'")
    assert stored.startswith("SCRAM-SHA-256$")
    assert PASSWORD not in made.record.comment()


def test_a_revoked_share_is_gone_with_its_sessions(office: Office) -> None:
    office.create(share_of())
    with partner(office) as session:
        assert office.revoke() is not None
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert office.revoke() is None
    assert office.records() == []


def test_what_others_put_into_its_schema_is_not_dropped_with_it(office: Office) -> None:
    office.create(share_of())
    office.server.sql("CREATE TABLE acme.precious ()", database=NAME)
    try:
        with pytest.raises(ShareError, match="cannot drop schema acme"):
            office.revoke()
        with pytest.raises(psycopg.OperationalError, match=r"not permitted to log in|password authentication failed"):
            partner(office)
        assert [record.share.name for record in office.records()] == ["acme"]
    finally:
        office.server.sql("DROP TABLE acme.precious", database=NAME)
    assert office.revoke() is not None


def test_what_is_left_of_a_share_is_revoked(office: Office) -> None:
    """Somebody has begun by hand."""
    office.create(share_of())
    office.server.sql("DROP OWNED BY acme_owner CASCADE; DROP ROLE acme_owner", database=NAME)
    assert office.revoke() is not None
    assert office.records() == []


def test_what_everybody_has_is_told_and_closed_on_request(office: Office) -> None:
    try:
        open_ = office.create(share_of()).open
        assert [finding.what for finding in open_] == [f"TEMPORARY on the database {NAME}"]
        made = office.create(share_of(), replace=True, close_public=True)
        assert (made.open, made.closed) == ((), open_)
        with partner(office) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("BEGIN READ WRITE; CREATE TEMP TABLE mine ()")
    finally:
        office.server.sql(f"GRANT TEMPORARY ON DATABASE {NAME} TO PUBLIC")


def test_it_is_closed_for_a_share_that_is_there_too(office: Office) -> None:
    open_ = office.create(share_of()).open
    role = "SELECT oid, xmin::text FROM pg_authid WHERE rolname = 'acme'"
    before = office.server.sql(role)
    try:
        for closed in (open_, ()):
            made = office.create(share_of(), keep=lambda: pytest.fail("nothing was made"), close_public=True)
            assert (made.password, made.open, made.closed) == (None, (), closed)
        with partner(office) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("BEGIN READ WRITE; CREATE TEMP TABLE mine ()")
        assert office.server.sql(role) == before
    finally:
        office.server.sql(f"GRANT TEMPORARY ON DATABASE {NAME} TO PUBLIC")


def test_what_could_not_be_closed_is_not_told_as_closed(office: Office) -> None:
    """A REVOKE of what one may not revoke is only a warning (manual, REVOKE)."""
    office.server.sql("GRANT CREATE ON TABLESPACE pg_default TO PUBLIC")
    try:
        made = office.create(share_of(), close_public=True)
    finally:
        office.server.sql("REVOKE ALL ON TABLESPACE pg_default FROM PUBLIC")
        office.server.sql(f"GRANT TEMPORARY ON DATABASE {NAME} TO PUBLIC")
    beyond, own = "CREATE on the tablespace pg_default", f"TEMPORARY on the database {NAME}"
    open_, closed = ([one.what for one in found] for found in (made.open, made.closed))
    if office.role == "postgres":
        assert (open_, closed) == ([], [own, beyond])
    else:
        assert (open_, closed) == ([beyond], [own])


def test_two_of_one_name_are_kept_apart_by_the_server(office: Office) -> None:
    """Else two would both see that it is free. No lock is needed that somebody else could hold."""
    again = "SET lock_timeout = '50ms'; CREATE ROLE acme_owner"

    def keep() -> None:
        with pytest.raises(psycopg.errors.LockNotAvailable):
            office.server.sql(again)

    office.create(share_of(), keep=keep)


# --- who may not ------------------------------------------------------------------------------------------------------


def test_who_lacks_the_rights_is_told_which(embedded_postgres: PostgresServer) -> None:
    server = embedded_postgres
    make_database(server)
    server.make_role("nobody", DBA_PASSWORD)
    try:
        office = Office(server, "nobody", Login("nobody", DBA_PASSWORD))
        with pytest.raises(ShareError, match=r"permission denied to create role.*CREATEROLE"):
            office.create(share_of())
        with pytest.raises(ShareError, match=r"password authentication failed|fe_sendauth|no password"):
            Office(server, "nobody", Login("nobody", "wrong")).create(share_of())
        server.sql("ALTER ROLE nobody CREATEROLE")
        with pytest.raises(ShareError, match=r"permission denied for database.*own the database"):
            office.create(share_of())
        assert Office(server).records() == []
    finally:
        drop_database(server)
        server.sql("DROP ROLE nobody")


async def nothing(_: Administrator) -> None:
    pytest.fail("it never answered")


@pytest.fixture
def silent() -> Iterator[dict[str, Any]]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield {"host": "127.0.0.1", "port": server.getsockname()[1], "user": "x", "dbname": "x", "sslmode": "disable"}


def test_a_server_that_does_not_answer_is_not_waited_for(
    silent: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(administrator, "CONNECT_TIMEOUT", 0.2)
    with pytest.raises(ShareError, match=r"has not answered for 0\.2 seconds"):
        perform(silent, nothing)


def test_who_waits_can_interrupt(silent: dict[str, Any]) -> None:
    before = signal.getsignal(signal.SIGINT)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        perform(silent, nothing)
    timer.join()
    assert signal.getsignal(signal.SIGINT) == before


def test_even_before_anything_is_begun(silent: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    taking = administrator._interrupted_by_sigint

    @contextmanager
    def interrupted(interrupt: Callable[[], None]) -> Iterator[None]:
        with taking(interrupt):
            signal.raise_signal(signal.SIGINT)
            yield

    monkeypatch.setattr(administrator, "_interrupted_by_sigint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        perform(silent, nothing)


def test_a_server_that_goes_away_ends_it(embedded_postgres: PostgresServer) -> None:
    office = Office(embedded_postgres, database="postgres")

    async def work(admin: Administrator) -> None:
        await admin.rows("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(ShareError, match="terminating connection"):
        office.perform(work)


def test_nobody_is_there(embedded_postgres: PostgresServer) -> None:
    wanted = {"host": "/nonexistent", "port": "1", "user": "x", "dbname": "x"}
    with pytest.raises(ShareError, match="No such file"):
        perform(wanted, provision.records)


@pytest.mark.parametrize("ends", ["well", "badly", "interrupted"])
def test_nothing_is_left_open(embedded_postgres: PostgresServer, silent: dict[str, Any], ends: str) -> None:
    with no_new_descriptors():
        match ends:
            case "well":
                Office(embedded_postgres, database="postgres").records()
            case "badly":
                with pytest.raises(ShareError):
                    perform({**silent, "port": "1"}, nothing)
            case _:
                test_who_waits_can_interrupt(silent)


@pytest.fixture(params=["embedded", "debian"])
def team(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """share_hand is the role share_team in all that it does."""
    server: PostgresServer = request.getfixturevalue(f"{request.param}_postgres")
    server.sql("CREATE ROLE share_team CREATEROLE")
    server.make_role("share_hand", DBA_PASSWORD)
    server.sql("GRANT share_team TO share_hand; ALTER ROLE share_hand SET role = 'share_team'")
    make_database(server, "share_teams", owner="share_team")
    yield server
    drop_database(server, "share_teams")
    server.sql("DROP ROLE share_hand; DROP ROLE share_team")


def test_who_made_it_is_whoever_that_was_by_then(team: PostgresServer) -> None:
    """That role is a member of the share's, by the server's own doing (PostgreSQL 16)."""
    login = Login("share_hand", DBA_PASSWORD)
    office = Office(team, "share_hand", login, team.ca is not None, database="share_teams")
    assert office.create(share_of(database="share_teams"), close_public=True).open == ()
    (record,) = office.records()
    assert record.by == "share_team"
    assert office.revoke() is not None


def test_a_share_is_of_columns(office: Office) -> None:
    """All that the table has when it is made, not those that it gets later."""
    office.create(share_of("acme", Table("shop", "customers")))
    office.server.sql("ALTER TABLE shop.customers ADD COLUMN secret text", database=NAME)
    try:
        with partner(office) as session:
            found = session.execute("SELECT * FROM acme.acme").description or []
        assert [column.name for column in found] == ["name", "card"]
    finally:
        office.server.sql("ALTER TABLE shop.customers DROP COLUMN secret", database=NAME)
