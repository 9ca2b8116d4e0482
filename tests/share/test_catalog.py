"""What is granted beyond the share is found by the database's own catalogs, on whatever it is; and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from psycopg2.sql import SQL

from gateway.share import provision
from gateway.share.administrator import Administrator
from gateway.share.catalog import Excess, excesses
from gateway.share.share import Table
from tests.servers import PostgresServer
from tests.share.databases import NAME, Office, drop_database, make_database, share_of

MORE = """
CREATE ROLE share_readers;
CREATE ROLE share_shop_app;
CREATE TABLE shop.rows (id int, tenant text);
ALTER TABLE shop.rows ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON shop.rows USING (tenant = 'a');
CREATE VIEW shop.few AS SELECT id FROM shop.rows;
GRANT SELECT ON shop.rows, shop.orders TO share_shop_app;
GRANT CREATE ON SCHEMA shop TO share_shop_app;
ALTER VIEW shop.few OWNER TO share_shop_app;
"""
SECRET = "RETURNS text SECURITY DEFINER LANGUAGE sql AS 'SELECT 1::text'"
AVAILABLE = "SELECT 1 FROM pg_available_extensions WHERE name = %s"


@pytest.fixture(scope="module", params=["embedded", "debian"])
def office(request: pytest.FixtureRequest) -> Iterator[Office]:
    """With two shares; nobody has anything else."""
    server: PostgresServer = request.getfixturevalue(f"{request.param}_postgres")
    make_database(server)
    server.sql(MORE, database=NAME)
    found = Office(server)
    assert [one.what for one in found.create(share_of()).open] == [f"TEMPORARY on the database {NAME}"]
    found.create(share_of("few", Table("shop", "few")), close_public=True)
    yield found
    found.revoke()
    found.revoke("few")
    drop_database(server)
    server.sql("DROP ROLE share_readers, share_shop_app")


def found_by(office: Office, name: str = "acme") -> list[Excess]:
    async def work(admin: Administrator) -> list[Excess]:
        record = await provision.record(admin, name)
        assert record is not None
        return list(await excesses(admin, record))

    return office.perform(work)


@pytest.mark.parametrize("name", ["acme", "few"])
def test_a_share_as_it_was_made_has_nothing_to_find(office: Office, name: str) -> None:
    assert found_by(office, name) == []


@pytest.mark.parametrize(
    ("loosen", "tighten", "named"),
    [
        # Functions that act as somebody else, wherever they are and whatever calls them.
        (
            f"CREATE FUNCTION pg_catalog.leak() {SECRET}",
            "DROP FUNCTION pg_catalog.leak",
            "SECURITY DEFINER function leak()",
        ),
        (
            (
                f"CREATE FUNCTION shop.leak(text) {SECRET}; "
                "CREATE OPERATOR public.!!! (FUNCTION = shop.leak, RIGHTARG = text)"
            ),
            "DROP FUNCTION shop.leak CASCADE",
            "SECURITY DEFINER function shop.leak(text): through operator",
        ),
        (
            (
                f"CREATE FUNCTION shop.leak(text, int) {SECRET}; REVOKE EXECUTE ON FUNCTION shop.leak FROM PUBLIC; "
                "CREATE AGGREGATE public.agg(int) (SFUNC = shop.leak, STYPE = text)"
            ),
            "DROP FUNCTION shop.leak CASCADE",
            "SECURITY DEFINER function shop.leak(text,integer): through function",
        ),
        (
            (
                f"CREATE TYPE public.x AS (a int); CREATE FUNCTION shop.leak(public.x) {SECRET}; "
                "CREATE CAST (public.x AS text) WITH FUNCTION shop.leak(public.x)"
            ),
            "DROP TYPE public.x CASCADE",
            "through cast",
        ),
        (
            (
                f"CREATE FUNCTION shop.leak(text) {SECRET}; "
                "CREATE DOMAIN public.d AS text CHECK (shop.leak(VALUE) IS NULL)"
            ),
            "DROP FUNCTION shop.leak CASCADE; DROP DOMAIN public.d",
            "through constraint",
        ),
        (
            "CREATE FUNCTION public.read(text) RETURNS text LANGUAGE internal STRICT AS 'pg_read_file_all'",
            "DROP FUNCTION public.read",
            "by hand of the server's own, or of a library, public.read(text)",
        ),
        (
            "CREATE FUNCTION public.put(oid, text) RETURNS int LANGUAGE internal STRICT AS 'be_lo_export'",
            "DROP FUNCTION public.put",
            "public.put(oid,text)",
        ),
        (
            "CREATE EXTENSION pgstattuple SCHEMA public; GRANT EXECUTE ON FUNCTION public.pgstattuple(text) TO PUBLIC",
            "DROP EXTENSION pgstattuple",
            "the restricted function public.pgstattuple(text): PUBLIC",
        ),
        (
            (
                "CREATE EXTENSION dblink SCHEMA shop; "
                "CREATE OPERATOR public.<<<< (FUNCTION = shop.dblink_connect, LEFTARG = text, RIGHTARG = text)"
            ),
            "DROP EXTENSION dblink CASCADE",
            "dblink shop.dblink_connect(text,text): through operator",
        ),
        (
            "CREATE TRUSTED LANGUAGE made HANDLER plpgsql_call_handler INLINE plpgsql_inline_handler",
            "DROP LANGUAGE made",
            "USAGE on the language made, by hand: PUBLIC",
        ),
        # Columns of catalogs.
        (
            "GRANT SELECT (subconninfo) ON pg_subscription TO PUBLIC",
            "REVOKE SELECT (subconninfo) ON pg_subscription FROM PUBLIC",
            "SELECT on pg_subscription (subconninfo): PUBLIC",
        ),
        (
            "GRANT SELECT (stxdmcv) ON pg_statistic_ext_data TO PUBLIC",
            "REVOKE SELECT (stxdmcv) ON pg_statistic_ext_data FROM PUBLIC",
            "SELECT on pg_statistic_ext_data (stxdmcv): PUBLIC",
        ),
        (
            "GRANT SELECT (rolpassword) ON pg_authid TO acme",
            "REVOKE SELECT (rolpassword) ON pg_authid FROM acme",
            "SELECT on pg_authid (rolpassword): the role",
        ),
        # Ways out.
        (
            "CREATE FOREIGN DATA WRAPPER outside; GRANT USAGE ON FOREIGN DATA WRAPPER outside TO PUBLIC",
            "DROP FOREIGN DATA WRAPPER outside",
            "USAGE on the foreign data wrapper outside: PUBLIC",
        ),
        (
            (
                "CREATE FOREIGN DATA WRAPPER outside; CREATE SERVER far FOREIGN DATA WRAPPER outside; "
                "GRANT USAGE ON FOREIGN SERVER far TO PUBLIC"
            ),
            "DROP FOREIGN DATA WRAPPER outside CASCADE",
            "USAGE on the foreign server far: PUBLIC",
        ),
        (
            "GRANT CREATE ON TABLESPACE pg_default TO PUBLIC",
            "REVOKE CREATE ON TABLESPACE pg_default FROM PUBLIC",
            "CREATE on the tablespace pg_default: PUBLIC",
        ),
        # Others who share in the share.
        (
            "GRANT SELECT ON acme.acme TO PUBLIC",
            "REVOKE ALL ON acme.acme FROM PUBLIC",
            "SELECT on the view: PUBLIC has it",
        ),
        (
            "GRANT USAGE ON SCHEMA acme TO PUBLIC",
            "REVOKE ALL ON SCHEMA acme FROM PUBLIC",
            "USAGE on the schema of the view: PUBLIC",
        ),
        (
            "GRANT SELECT ON acme.acme TO share_readers",
            "REVOKE ALL ON acme.acme FROM share_readers",
            "SELECT on the view: share_readers has it",
        ),
        (
            "GRANT SELECT (id) ON acme.acme TO share_readers",
            "REVOKE ALL ON acme.acme FROM share_readers",
            "SELECT on the column id of the view: share_readers has it",
        ),
        ("GRANT acme TO share_readers", "REVOKE acme FROM share_readers", "membership of share_readers in acme"),
        (
            "GRANT acme_owner TO share_readers",
            "REVOKE acme_owner FROM share_readers",
            "membership of share_readers in acme_owner",
        ),
        # What the view could show, were it another.
        (
            "GRANT SELECT ON shop.customers TO acme_owner",
            "REVOKE ALL ON shop.customers FROM acme_owner",
            "rights on table shop.customers: the owner",
        ),
        (
            "GRANT SELECT (customer) ON shop.orders TO acme_owner",
            "REVOKE SELECT (customer) ON shop.orders FROM acme_owner",
            "rights on column customer of table shop.orders: the owner",
        ),
        (
            "GRANT UPDATE (id) ON shop.orders TO acme_owner",
            "REVOKE UPDATE (id) ON shop.orders FROM acme_owner",
            "UPDATE on shop.orders: the owner",
        ),
        # Columns of tables.
        (
            "GRANT SELECT (name) ON shop.customers TO acme",
            "REVOKE SELECT (name) ON shop.customers FROM acme",
            "SELECT on shop.customers (name): the role",
        ),
        (
            (
                "GRANT UPDATE (name) ON shop.customers TO share_readers; "
                "ALTER ROLE acme INHERIT; GRANT share_readers TO acme"
            ),
            (
                "REVOKE ALL (name) ON shop.customers FROM share_readers; "
                "REVOKE share_readers FROM acme; ALTER ROLE acme NOINHERIT"
            ),
            "UPDATE on shop.customers (name): the role",
        ),
        (
            "CREATE TABLE shop.mine (); ALTER TABLE shop.mine OWNER TO acme_owner",
            "DROP TABLE shop.mine",
            "ownership of table shop.mine: the owner",
        ),
        # What is to come.
        (
            "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
            "ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM PUBLIC",
            "SELECT on the tables to be made by postgres: PUBLIC",
        ),
        (
            "ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT USAGE ON SEQUENCES TO PUBLIC",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA shop REVOKE USAGE ON SEQUENCES FROM PUBLIC",
            "USAGE on the sequences to be made by postgres in the schema shop: PUBLIC",
        ),
    ],
)
def test_what_is_loosened_is_found(office: Office, loosen: str, tighten: str, named: str) -> None:
    _needs_extension(office, loosen)
    office.server.sql(loosen, database=NAME)
    try:
        found = [f"{one.what}: {one.got}" for one in found_by(office)]
    finally:
        office.server.sql(tighten, database=NAME)
    assert any(named in one for one in found), found


def _needs_extension(office: Office, statement: str) -> None:
    words = statement.split()
    if words[:2] == ["CREATE", "EXTENSION"] and not office.server.sql(AVAILABLE, words[2]):
        pytest.skip(f"the server has no {words[2]}")


@pytest.mark.parametrize(
    "harmless",
    [
        # In a schema that the role may not use, and nothing leads to it.
        f"CREATE FUNCTION shop.leak() {SECRET}",
        # A trigger is called by whoever may write to its table.
        (
            "CREATE FUNCTION shop.note() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; "
            "CREATE TRIGGER note AFTER INSERT ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.note()"
        ),
        # Nobody may call it, also not by its operator.
        (
            f"CREATE FUNCTION shop.leak(text) {SECRET}; REVOKE EXECUTE ON FUNCTION shop.leak FROM PUBLIC; "
            "CREATE OPERATOR public.!!! (FUNCTION = shop.leak, RIGHTARG = text)"
        ),
        "CREATE POLICY others ON shop.rows TO share_readers USING (true)",
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC",
        "CREATE FOREIGN DATA WRAPPER outside",
        "CREATE AGGREGATE public.agg(int) (SFUNC = int4pl, STYPE = int)",
        "INSERT INTO shop.rows VALUES (1, 'a')",
    ],
)
@pytest.mark.parametrize("name", ["acme", "few"])
def test_what_leads_nowhere_is_not_told(office: Office, harmless: str, name: str) -> None:
    office.server.sql(harmless, database=NAME)
    try:
        assert found_by(office, name) == []
    finally:
        office.server.sql(
            "DROP FUNCTION IF EXISTS shop.leak CASCADE; DROP FUNCTION IF EXISTS shop.note CASCADE; "
            "DROP AGGREGATE IF EXISTS public.agg(int); "
            "DROP POLICY IF EXISTS others ON shop.rows; ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON ROUTINES TO PUBLIC; "
            "DROP FOREIGN DATA WRAPPER IF EXISTS outside",
            database=NAME,
        )


@pytest.mark.parametrize(
    ("loosen", "tighten"),
    [
        ("ALTER TABLE shop.rows DISABLE ROW LEVEL SECURITY", "ALTER TABLE shop.rows ENABLE ROW LEVEL SECURITY"),
        ("CREATE POLICY every ON shop.rows USING (true)", "DROP POLICY every ON shop.rows"),
        ("ALTER POLICY mine ON shop.rows USING (true)", "ALTER POLICY mine ON shop.rows USING (tenant = 'a')"),
        ("ALTER VIEW shop.few OWNER TO share_readers", "ALTER VIEW shop.few OWNER TO share_shop_app"),
        (
            "CREATE OR REPLACE VIEW shop.few AS SELECT id FROM shop.rows UNION SELECT id FROM shop.orders",
            "CREATE OR REPLACE VIEW shop.few AS SELECT id FROM shop.rows",
        ),
    ],
)
def test_row_security_behind_another_view_is_part_of_the_definition(office: Office, loosen: str, tighten: str) -> None:
    office.server.sql(loosen, database=NAME)
    try:
        found = [one.what for one in found_by(office, "few")]
    finally:
        office.server.sql(tighten, database=NAME)
    assert any("row security of what it reads" in one for one in found), found
    assert found_by(office, "few") == []


def test_of_a_column_that_column_is_taken_and_given_back(office: Office) -> None:
    """Nothing more; and one that is not there any more is in nobody's way."""
    name, card = "\"a %s 'x' b\"", "card"
    acl = (
        "SELECT attname, relacl::text, ARRAY(SELECT one::text FROM unnest(attacl) AS one ORDER BY 1) FROM pg_class "
        "JOIN pg_attribute ON attrelid = pg_class.oid "
        "WHERE attrelid = 'shop.cards'::regclass AND attnum > 0 AND NOT attisdropped"
    )
    office.server.sql(
        f"CREATE TABLE shop.cards (id int, {name} text, {card} text, gone text); "
        f"GRANT SELECT ({name}), SELECT (gone), UPDATE ({card}) ON shop.cards TO PUBLIC; "
        f"GRANT SELECT ({card}) ON shop.cards TO share_readers; ALTER TABLE shop.cards DROP COLUMN gone",
        database=NAME,
    )
    try:
        before = office.server.sql(acl, database=NAME)
        closed = office.create(share_of(), close_public=True).closed
        assert [one.what for one in closed] == [f"SELECT on shop.cards ({name})", f"UPDATE on shop.cards ({card})"]
        assert office.server.sql(acl, database=NAME) != before
        assert found_by(office) == []
        for one in closed:
            assert one.way_back is not None
            office.server.sql(one.way_back, database=NAME)
        assert sorted(office.server.sql(acl, database=NAME)) == sorted(before)
    finally:
        office.server.sql("DROP TABLE shop.cards", database=NAME)


def test_every_remedy_is_one(office: Office) -> None:
    """What PUBLIC has is taken from it by what is told, on things with odd names too."""
    odd = '"a %s {} ""x"" b"'
    office.server.sql(
        f"CREATE FOREIGN DATA WRAPPER {odd}; GRANT USAGE ON FOREIGN DATA WRAPPER {odd} TO PUBLIC; "
        f"CREATE SCHEMA {odd}; GRANT ALL ON SCHEMA {odd} TO PUBLIC; "
        f"CREATE TABLE {odd}.{odd} ({odd} int); GRANT ALL ON {odd}.{odd} TO PUBLIC; "
        f"CREATE FUNCTION {odd}.{odd}(text) {SECRET}; "
        f"CREATE TRUSTED LANGUAGE {odd} HANDLER plpgsql_call_handler; "
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {odd} GRANT SELECT ON TABLES TO PUBLIC; "
        "GRANT SELECT (rolpassword) ON pg_authid TO PUBLIC; GRANT TEMPORARY ON DATABASE share_shop TO PUBLIC; "
        "GRANT USAGE ON SCHEMA acme TO PUBLIC; GRANT SELECT ON acme.acme TO PUBLIC; "
        "GRANT CREATE ON TABLESPACE pg_default TO PUBLIC",
        database=NAME,
    )
    try:
        assert len(found_by(office)) >= 11
        office.create(share_of(), replace=True, close_public=True)
        assert found_by(office) == []
    finally:
        office.server.sql(
            f"DROP SCHEMA {odd} CASCADE; DROP FOREIGN DATA WRAPPER {odd}; DROP LANGUAGE {odd}", database=NAME
        )


@pytest.mark.parametrize(
    ("remedy", "way_back"),
    [
        ("REVOKE TEMPORARY ON DATABASE shop FROM PUBLIC", "GRANT TEMPORARY ON DATABASE shop TO PUBLIC"),
        (
            'REVOKE SELECT ON TABLE "REVOKE x FROM PUBLIC" FROM PUBLIC',
            'GRANT SELECT ON TABLE "REVOKE x FROM PUBLIC" TO PUBLIC',
        ),
        (
            'ALTER DEFAULT PRIVILEGES FOR ROLE "REVOKE " REVOKE SELECT ON TABLES FROM PUBLIC',
            'ALTER DEFAULT PRIVILEGES FOR ROLE "REVOKE " GRANT SELECT ON TABLES TO PUBLIC',
        ),
    ],
)
def test_what_was_taken_can_be_given_back(remedy: str, way_back: str) -> None:
    assert Excess("it", "PUBLIC has it", SQL(remedy)).way_back == way_back
    assert Excess("it", "the role has it").way_back is None
