"""What stands behind a share's view is part of what was made: views, functions, and whose row security holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from gateway.share import provision
from gateway.share.administrator import Administrator
from gateway.share.catalog import excesses
from gateway.share.share import Query, Record, Table
from tests.servers import PostgresServer
from tests.share.databases import NAME, Office, drop_database, make_database, partner, share_of

MORE = """
CREATE ROLE share_nested; CREATE ROLE share_table_owner; CREATE ROLE share_mallory;
CREATE TABLE shop.rows (id int, tenant text, card text);
INSERT INTO shop.rows VALUES (1, 'a', '4111-0001'), (2, 'b', '4111-0002');
CREATE VIEW shop.nested AS SELECT id, tenant FROM shop.rows WHERE tenant = 'a';
CREATE VIEW shop.outer AS SELECT id, tenant FROM shop.nested;
CREATE MATERIALIZED VIEW shop.kept AS SELECT id FROM shop.nested;
CREATE FUNCTION public.masked(text) RETURNS text LANGUAGE sql AS $$ SELECT 'xxxx' $$;
CREATE FUNCTION public.twice(text) RETURNS text LANGUAGE sql RETURN public.masked($1) || public.masked($1);
CREATE FUNCTION public.worded(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN public.masked($1); END $$;
CREATE FUNCTION public.shouted(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN Public.Masked($1); END $$;
CREATE FUNCTION public.join_up(text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'xxxx' $$;
CREATE AGGREGATE public.joined(text) (SFUNC = public.join_up, STYPE = text, INITCOND = '');
CREATE FUNCTION public.alike(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT $1 = 'a' $$;
CREATE OPERATOR public.=~= (FUNCTION = public.alike, LEFTARG = text, RIGHTARG = text);
CREATE TYPE public.price AS (amount int);
CREATE FUNCTION public.told(public.price) RETURNS text LANGUAGE sql AS $$ SELECT 'xxxx' $$;
CREATE CAST (public.price AS text) WITH FUNCTION public.told(public.price);
CREATE FUNCTION public.small(text) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
CREATE DOMAIN public.word AS text CONSTRAINT small CHECK (public.small(VALUE));
CREATE TABLE shop.tenants (name text);
INSERT INTO shop.tenants VALUES ('a'), ('b');
CREATE VIEW shop.current AS SELECT name FROM shop.tenants WHERE name = 'a';
CREATE FUNCTION shop.ok(text) RETURNS bool LANGUAGE sql AS $$ SELECT $1 = 'a' $$;
CREATE TABLE shop.rls (id int, tenant text);
INSERT INTO shop.rls VALUES (1, 'a'), (2, 'b');
ALTER TABLE shop.rls ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON shop.rls USING (shop.ok(tenant) OR tenant IN (SELECT name FROM shop.current));
ALTER TABLE shop.rls OWNER TO share_table_owner;
GRANT SELECT ON shop.rls, shop.current TO share_nested;
GRANT USAGE, CREATE ON SCHEMA shop TO share_nested, share_table_owner;
CREATE VIEW shop.over AS SELECT id, tenant FROM shop.rls;
ALTER VIEW shop.over OWNER TO share_nested;
"""

SHARES: dict[str, Table | Query] = {
    "s_nested": Table("shop", "outer"),
    "s_kept": Table("shop", "kept"),
    "s_masked": Query.of("SELECT id, public.masked(card) FROM shop.rows"),
    "s_twice": Query.of("SELECT id, public.twice(card) FROM shop.rows"),
    "s_worded": Query.of("SELECT id, public.worded(card) FROM shop.rows"),
    "s_shouted": Query.of("SELECT id, public.shouted(card) FROM shop.rows"),
    "s_moment": Query.of(
        "SELECT id FROM shop.rows WHERE timestamptz '2024-01-01 00:00+00' < now() AND interval '1 day' > '0' "
        "AND date '2024-02-01' < now() AND float8 '0.1234567' < 1 AND bytea 'a' <> '' AND money '1' > '0'"
    ),
    "s_joined": Query.of("SELECT public.joined(card) FROM shop.rows"),
    "s_operator": Query.of("SELECT id FROM shop.rows WHERE tenant OPERATOR(public.=~=) ''"),
    "s_cast": Query.of("SELECT ROW(id)::public.price::text FROM shop.rows"),
    "s_domain": Query.of("SELECT card::public.word FROM shop.rows"),
    "s_rls": Table("shop", "over"),
    "s_plain": Query.of("SELECT id FROM shop.rows WHERE tenant = 'a'"),
}
NESTED = "CREATE OR REPLACE VIEW shop.nested AS SELECT id, tenant FROM shop.rows WHERE tenant = 'a'"
CHANGED = "or of a view or a function behind it"
# What older servers do not have.
newest = pytest.mark.parametrize("office", ["embedded"], indirect=True)


@pytest.fixture(scope="module", params=["embedded", "debian"])
def office(request: pytest.FixtureRequest) -> Iterator[Office]:
    """With all these shares, and nothing open."""
    server: PostgresServer = request.getfixturevalue(f"{request.param}_postgres")
    make_database(server)
    server.sql(MORE, database=NAME)
    found = Office(server)
    for name, source in SHARES.items():
        made = found.create(share_of(name, source), close_public=True)
        assert made.open == (), name
    yield found
    for name in SHARES:
        found.revoke(name)
    drop_database(server)
    server.sql("DROP ROLE share_nested, share_table_owner, share_mallory")


def found_by(office: Office, name: str, before: Record | None = None) -> list[str]:
    async def work(admin: Administrator) -> list[str]:
        record = before or await provision.record(admin, name)
        assert record is not None
        return [f"{one.what}: {one.got}" for one in await excesses(admin, record)]

    return office.perform(work)


def seen(office: Office, name: str) -> object:
    with partner(office, name) as session:
        return session.execute(f"SELECT * FROM {name}.{name} ORDER BY 1".encode()).fetchall()


def function(name: str, returns: str, body: str) -> str:
    return f"CREATE OR REPLACE FUNCTION {name} RETURNS {returns} LANGUAGE sql AS $$ {body} $$"


MASKED = function("public.masked(text)", "text", "SELECT 'xxxx'")
UNMASKED = function("public.masked(text)", "text", "SELECT $1")


@pytest.mark.parametrize(
    ("name", "loosen", "tighten"),
    [
        ("s_nested", "CREATE OR REPLACE VIEW shop.nested AS SELECT id, tenant FROM shop.rows", NESTED),
        ("s_nested", "CREATE OR REPLACE VIEW shop.nested AS SELECT id, card AS tenant FROM shop.rows", NESTED),
        ("s_masked", UNMASKED, MASKED),
        ("s_twice", UNMASKED, MASKED),
        ("s_worded", UNMASKED, MASKED),
        ("s_shouted", UNMASKED, MASKED),
        (
            "s_joined",
            function("public.join_up(text, text)", "text", "SELECT $1 || $2"),
            function("public.join_up(text, text)", "text", "SELECT 'xxxx'"),
        ),
        (
            "s_operator",
            function("public.alike(text, text)", "boolean", "SELECT true"),
            function("public.alike(text, text)", "boolean", "SELECT $1 = 'a'"),
        ),
        (
            "s_cast",
            function("public.told(public.price)", "text", "SELECT $1.amount::text"),
            function("public.told(public.price)", "text", "SELECT 'xxxx'"),
        ),
        (
            "s_rls",
            function("shop.ok(text)", "bool", "SELECT true"),
            function("shop.ok(text)", "bool", "SELECT $1 = 'a'"),
        ),
        (
            "s_rls",
            "CREATE OR REPLACE VIEW shop.current AS SELECT name FROM shop.tenants",
            "CREATE OR REPLACE VIEW shop.current AS SELECT name FROM shop.tenants WHERE name = 'a'",
        ),
        ("s_rls", "ALTER ROLE share_nested BYPASSRLS", "ALTER ROLE share_nested NOBYPASSRLS"),
        (
            "s_rls",
            "ALTER TABLE shop.rls OWNER TO share_nested",
            "ALTER TABLE shop.rls OWNER TO share_table_owner; GRANT SELECT ON shop.rls TO share_nested",
        ),
        ("s_rls", "GRANT share_table_owner TO share_nested", "REVOKE share_table_owner FROM share_nested"),
    ],
)
def test_what_shows_more_is_found(office: Office, name: str, loosen: str, tighten: str) -> None:
    """And it does show more, so that this is about something."""
    before = seen(office, name)
    office.server.sql(loosen, database=NAME)
    try:
        after, found = seen(office, name), found_by(office, name)
    finally:
        office.server.sql(tighten, database=NAME)
    assert before != after
    assert any(CHANGED in one for one in found), found
    assert found_by(office, name) == []


@pytest.mark.parametrize(
    ("name", "change", "undo"),
    [
        (
            "s_kept",
            "CREATE OR REPLACE VIEW shop.nested AS SELECT id, tenant FROM shop.rows",
            NESTED,
        ),
        (
            "s_domain",
            function("public.small(text)", "boolean", "SELECT false"),
            function("public.small(text)", "boolean", "SELECT true"),
        ),
        ("s_rls", "ALTER TABLE shop.rls FORCE ROW LEVEL SECURITY", "ALTER TABLE shop.rls NO FORCE ROW LEVEL SECURITY"),
        ("s_twice", "ALTER FUNCTION public.masked SECURITY DEFINER", "ALTER FUNCTION public.masked SECURITY INVOKER"),
        ("s_nested", "ALTER VIEW shop.outer SET (security_invoker)", "ALTER VIEW shop.outer RESET (security_invoker)"),
    ],
)
def test_so_is_what_would_with_other_rows(office: Office, name: str, change: str, undo: str) -> None:
    office.server.sql(change, database=NAME)
    try:
        found = found_by(office, name)
    finally:
        office.server.sql(undo, database=NAME)
    assert any(CHANGED in one for one in found), found
    assert found_by(office, name) == []


@pytest.mark.parametrize(
    "change",
    [
        "ALTER FOREIGN TABLE shop.far OPTIONS (SET name 'customers')",
        "ALTER FOREIGN TABLE shop.far ALTER COLUMN name OPTIONS (SET column_name 'card')",
        "ALTER SERVER far OPTIONS (SET dbname 'other')",
        "ALTER SERVER far RENAME TO farther",
    ],
)
def test_so_is_another_table_of_a_foreign_server(office: Office, change: str) -> None:
    """Or a column, or a database. As whom it is asked is a secret."""
    office.server.sql(
        "CREATE FOREIGN DATA WRAPPER outside; CREATE SERVER far FOREIGN DATA WRAPPER outside OPTIONS (dbname 'one'); "
        "CREATE FOREIGN TABLE shop.far (id int, name text OPTIONS (column_name 'name')) SERVER far "
        "OPTIONS (name 'orders'); CREATE USER MAPPING FOR postgres SERVER far OPTIONS (password 'one')",
        database=NAME,
    )
    try:
        assert office.create(share_of("s_far", Table("shop", "far"))).open == ()
        office.server.sql("ALTER USER MAPPING FOR postgres SERVER far OPTIONS (SET password 'two')", database=NAME)
        assert found_by(office, "s_far") == []
        office.server.sql(change, database=NAME)
        (found,) = found_by(office, "s_far")
    finally:
        office.revoke("s_far")
        office.server.sql("DROP FOREIGN DATA WRAPPER outside CASCADE", database=NAME)
    assert CHANGED in found


@newest
def test_so_is_a_column_that_is_made_as_it_is_read(office: Office) -> None:
    masked = "(overlay(card placing 'xxxx' from 6 for 4)) VIRTUAL"
    office.server.sql(f"ALTER TABLE shop.rows ADD COLUMN short text GENERATED ALWAYS AS {masked}", database=NAME)
    try:
        office.create(share_of("s_made", Table("shop", "rows", ("short",))))
        office.server.sql(
            "ALTER TABLE shop.rows ADD COLUMN other text GENERATED ALWAYS AS (card) VIRTUAL", database=NAME
        )
        assert found_by(office, "s_made") == []
        office.server.sql("ALTER TABLE shop.rows ALTER COLUMN short SET EXPRESSION AS (card)", database=NAME)
        (found,) = found_by(office, "s_made")
    finally:
        office.revoke("s_made")
        office.server.sql("ALTER TABLE shop.rows DROP COLUMN short, DROP COLUMN IF EXISTS other", database=NAME)
    assert CHANGED in found


@newest
@pytest.mark.parametrize("way", ["whole row", "nested", "function"])
def test_also_within_a_whole_row(office: Office, way: str) -> None:
    """Of which the server notes nothing, where it notes another column of the table."""
    sources: dict[str, tuple[str, Table | Query]] = {
        "whole row": ("SELECT 1", Query.of("SELECT to_jsonb(v) ->> 'short' FROM shop.made AS v")),
        "nested": (
            "CREATE VIEW shop.whole AS SELECT v.id, to_jsonb(v) ->> 'short' AS short FROM shop.made AS v",
            Table("shop", "whole"),
        ),
        "function": (
            (
                "CREATE FUNCTION public.whole() RETURNS text LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC "
                "SELECT to_jsonb(v) ->> 'short' FROM shop.made AS v WHERE id = 1; END"
            ),
            Query.of("SELECT public.whole() AS short"),
        ),
    }
    change, source = sources[way]
    office.server.sql(
        "CREATE TABLE shop.made (id int, card text, short text GENERATED ALWAYS AS ('xxxx') VIRTUAL); "
        f"INSERT INTO shop.made VALUES (1, '4111-0001'); {change}",
        database=NAME,
    )
    try:
        office.create(share_of("s_whole", source))
        before = seen(office, "s_whole")
        assert not any(CHANGED in one for one in found_by(office, "s_whole"))
        office.server.sql("ALTER TABLE shop.made ALTER COLUMN short SET EXPRESSION AS (card)", database=NAME)
        after, found = seen(office, "s_whole"), found_by(office, "s_whole")
    finally:
        office.revoke("s_whole")
        office.server.sql("DROP TABLE shop.made CASCADE; DROP FUNCTION IF EXISTS public.whole", database=NAME)
    assert before != after
    assert any(CHANGED in one for one in found), found


@newest
def test_a_column_that_somebody_else_reads_is_not_behind_it(office: Office) -> None:
    office.server.sql("ALTER TABLE shop.rows ADD COLUMN short text GENERATED ALWAYS AS (card) VIRTUAL", database=NAME)
    try:
        office.server.sql("CREATE VIEW shop.others AS SELECT short, r FROM shop.rows AS r", database=NAME)
        assert found_by(office, "s_plain") == []
    finally:
        office.server.sql("ALTER TABLE shop.rows DROP COLUMN short CASCADE", database=NAME)


@pytest.mark.parametrize(
    "setting",
    [
        "timezone = 'Asia/Tokyo'",
        "datestyle = 'SQL, DMY'",
        "intervalstyle = 'iso_8601'",
        "extra_float_digits = -15",
        "bytea_output = 'escape'",
        "quote_all_identifiers = on",
    ],
)
def test_how_the_server_spells_it_is_no_change(office: Office, setting: str) -> None:
    office.server.sql(f"ALTER ROLE postgres SET {setting}")
    try:
        assert found_by(office, "s_moment") == []
    finally:
        office.server.sql("ALTER ROLE postgres RESET ALL")


def test_nor_is_what_the_environment_says_of_it(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq's own, which comes after all other settings of a connection."""
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    assert found_by(office, "s_moment") == []


def test_what_is_not_behind_a_view_changes_nothing(office: Office) -> None:
    for harmless in (
        "ALTER ROLE share_mallory BYPASSRLS",
        "GRANT share_table_owner TO share_mallory",
        "CREATE FUNCTION public.unused() RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
        "CREATE POLICY unused ON shop.rows USING (true)",
        "CREATE INDEX ON shop.rows (id)",
        "ANALYZE shop.rows",
        "REFRESH MATERIALIZED VIEW shop.kept",
        "ALTER TABLE shop.rows ADD COLUMN more text",
    ):
        office.server.sql(harmless, database=NAME)
    try:
        assert {name: found_by(office, name) for name in SHARES} == {name: [] for name in SHARES}
    finally:
        office.server.sql(
            "ALTER ROLE share_mallory NOBYPASSRLS; REVOKE share_table_owner FROM share_mallory; "
            "DROP FUNCTION public.unused; DROP POLICY unused ON shop.rows; ALTER TABLE shop.rows DROP COLUMN more",
            database=NAME,
        )


@pytest.mark.parametrize("way", ["policy", "function", "line", "tab", "case", "view", "query"])
def test_what_the_partner_decides_by_a_setting_is_told(office: Office, way: str) -> None:
    given = "current_setting('app.tenant', true)"
    setting = f"coalesce({given}, 'a')"
    sources: dict[str, tuple[str, Table | Query]] = {
        "policy": (f"ALTER POLICY p ON shop.rls USING (tenant = {setting})", Table("shop", "over")),
        "function": (function("shop.ok(text)", "bool", f"SELECT $1 = {setting}"), Table("shop", "over")),
        "line": (function("shop.ok(text)", "bool", f"SELECT $1 =\n{given}"), Table("shop", "over")),
        "tab": (function("shop.ok(text)", "bool", f"SELECT $1 =\t{given}"), Table("shop", "over")),
        "case": (function("shop.ok(text)", "bool", f"SELECT $1 = {setting.upper()}"), Table("shop", "over")),
        "view": (
            f"CREATE OR REPLACE VIEW shop.nested AS SELECT id, tenant FROM shop.rows WHERE tenant = {setting}",
            Table("shop", "outer"),
        ),
        "query": ("", Query.of(f"SELECT id, tenant FROM shop.rows WHERE tenant = {setting}")),
    }
    change, source = sources[way]
    office.server.sql(change or "SELECT 1", database=NAME)
    try:
        (told,) = office.create(share_of("s_chosen", source)).open
        with partner(office, "s_chosen") as session:
            session.execute("SET app.tenant = 'b'")
            rows = session.execute("SELECT * FROM s_chosen.s_chosen ORDER BY 1").fetchall()
    finally:
        office.revoke("s_chosen")
        office.server.sql(
            "ALTER POLICY p ON shop.rls USING (shop.ok(tenant) OR tenant IN (SELECT name FROM shop.current)); "
            + function("shop.ok(text)", "bool", "SELECT $1 = 'a'")
            + f"; {NESTED}",
            database=NAME,
        )
    assert rows[-1] == (2, "b")
    assert told.what.startswith("what the partner sets, for ")
    assert told.remedy is None


def test_a_record_of_an_older_form_is_not_taken_for_a_change(office: Office) -> None:
    async def aged(admin: Administrator) -> Record:
        record = await provision.record(admin, "s_plain")
        assert record is not None
        return replace(record, definition="0" * 64)

    (told,) = found_by(office, "s_plain", office.perform(aged))
    assert told.startswith("what stands behind the view: is not known: the record was made by an older securegw")


@newest
def test_who_may_make_members_of_the_shares_roles_is_found(office: Office) -> None:
    """With nothing but the option to do that, which PostgreSQL 16 gives to whoever makes a role, and to nobody else."""
    for role in ("s_plain", "s_plain_owner"):
        office.server.sql(f"GRANT {role} TO share_mallory WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
        try:
            assert found_by(office, "s_plain") == [f"membership of share_mallory in {role}: granted"]
        finally:
            office.server.sql(f"REVOKE {role} FROM share_mallory")
