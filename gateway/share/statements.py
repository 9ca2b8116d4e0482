"""The SQL that makes a share, and the SQL that takes it away: PostgreSQL 13 to 18.

Owns what the partner's role may do. Composed of identifiers and constants by psycopg2.sql, never by formatting strings;
every name in it has its schema, because the session's search_path is empty. And nothing in it plans or executes what is
shared, not even as another role: a view, a policy or a function of its owner's could set the role back to that of the
administrator whose session it is (manual, SET ROLE), already while a query is planned. Reading is for `share check`,
which does it as the partner.

The view belongs to a role of its own that cannot log in and may read nothing but what the view reads, column by column.
A view reads with its owner's rights (manual, "Rules and Privileges"). Those of whoever creates it, often a superuser,
would be everything, past every row security policy; those of the tables' owner are all of that owner's tables, and past
their policies too, and tables of several owners have no such role. So whatever the view is replaced with one day, by
mistake or by force, it reads no more than these columns. security_invoker (PostgreSQL 15) is the opposite: with it the
partner would need rights on the tables themselves. Row security holds for the owner role like for anybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from psycopg2.sql import SQL, Composable, Composed

from gateway.share.names import Name, Text, listed, rendered
from gateway.share.share import Query, Share

# One partner's pool and a person who looks at it; each is a process of the server.
CONNECTION_LIMIT: Final = 5

# What the role's sessions begin with, as pg_db_role_setting tells it. The role itself can set these otherwise, for
# PostgreSQL has no way to forbid it: they end accidents. What holds against malice are the privileges and the limit.
SETTINGS: Final = {
    "statement_timeout": "60s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "60s",
    "default_transaction_read_only": "on",
    "search_path": '""',
}

# What --print shows in place of a verifier: there is no password yet.
NO_VERIFIER: Final = "<SCRAM-SHA-256 verifier of a new random password>"

_NOTHING_ELSE: Final = SQL("NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT NOREPLICATION NOBYPASSRLS")

# For whom the view is made: this role's rights are those of the columns that its rule depends on. PostgreSQL records a
# dependency on the table as a whole where no column is named, as in count(*).
_OWNERS_RIGHTS: Final = SQL("""
DECLARE needed record;
BEGIN
  FOR needed IN
    SELECT d.refobjid::regclass AS relation,
           '(' || string_agg(DISTINCT quote_ident(a.attname), ', ') || ')' AS columns
    FROM pg_depend d
    JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
    LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attnum > 0
    WHERE r.ev_class = {view}::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
    GROUP BY d.refobjid
  LOOP
    EXECUTE format('GRANT SELECT %s ON %s TO %s', needed.columns, needed.relation, {owner}::regrole);
  END LOOP;
END
""")

# Nothing of it is ever planned or executed: a function's validator only parses. PL/pgSQL takes what is in a cursor's
# declaration with the server's own lexer, and refuses a parenthesis that was not opened there. So the text cannot close
# the parentheses in which the view has it, and what is within them can be nothing but one query.
_ONE_QUERY: Final = SQL("DECLARE one CURSOR FOR\n{query}\n; BEGIN END")


def view_of(share: Share) -> Composed:
    return SQL("{}.{}").format(Name(share.name), Name(share.name))


def create(share: Share, verifier: str) -> Iterator[Composable]:
    """Everything but the record, in order, for one transaction."""
    role, owner, view = Name(share.name), Name(share.owner), view_of(share)
    yield SQL("CREATE ROLE {} NOLOGIN {}").format(owner, _NOTHING_ELSE)
    limit = SQL("CONNECTION LIMIT " + str(CONNECTION_LIMIT))
    yield SQL("CREATE ROLE {} LOGIN {} {} PASSWORD {}").format(role, _NOTHING_ELSE, limit, Text(verifier))
    for setting, value in SETTINGS.items():
        text = Text("" if value == '""' else value)
        yield SQL("ALTER ROLE {} SET {} = {}").format(role, Name(setting), text)
    # Who is no superuser may hand things over to a role only as its member (and so from 16 on even to one of its own).
    yield SQL("GRANT {}, {} TO CURRENT_USER").format(owner, role)
    yield SQL("CREATE SCHEMA {}").format(role)
    if isinstance(share.source, Query):
        yield from _one_query(view, share.source)
    yield SQL("CREATE VIEW {} WITH (security_barrier = true) AS {}").format(view, _select(share))
    yield SQL("GRANT USAGE ON SCHEMA {} TO {}").format(role, role)
    yield SQL("GRANT SELECT ON TABLE {} TO {}").format(view, role)
    yield SQL("GRANT CONNECT ON DATABASE {} TO {}").format(Name(share.database), role)
    rights = _OWNERS_RIGHTS.format(view=Text(rendered(view)), owner=Text(rendered(owner)))
    yield SQL("DO {}").format(Text(rendered(rights)))
    yield SQL("ALTER SCHEMA {} OWNER TO {}").format(role, owner)
    yield SQL("ALTER VIEW {} OWNER TO {}").format(view, owner)


def _one_query(function: Composed, query: Query) -> Iterator[Composable]:
    body = Text(rendered(_ONE_QUERY.format(query=SQL(query.text))))
    # Whoever owns the database could have set it otherwise for everybody, and the validator would do nothing.
    yield SQL("SET LOCAL check_function_bodies = on")
    yield SQL("CREATE FUNCTION {} () RETURNS void LANGUAGE plpgsql AS {}").format(function, body)
    yield SQL("DROP FUNCTION {} ()").format(function)


def _select(share: Share) -> Composed:
    if isinstance(share.source, Query):
        # The line feed ends a comment that the query may end with.
        return SQL("(\n{}\n)").format(SQL(share.source.text))
    columns = listed([Name(column) for column in share.source.columns]) if share.source.columns else SQL("*")
    return SQL("SELECT {} FROM {}.{}").format(columns, Name(share.source.schema), Name(share.source.name))


def record(share: Share, comment: str) -> Iterator[Composed]:
    role = Name(share.name)
    yield SQL("COMMENT ON ROLE {} IS {}").format(role, Text(comment))
    yield SQL("COMMENT ON SCHEMA {} IS {}").format(role, Text("made by securegw share; see the comment on the role"))
    yield SQL("REVOKE {}, {} FROM CURRENT_USER").format(Name(share.owner), role)


def shut(share: Share) -> Composed:
    """Nobody logs in as the role any more."""
    return SQL("ALTER ROLE {} NOLOGIN PASSWORD NULL").format(Name(share.name))


def close(share: Share) -> Iterator[Composed]:
    """The role reads nothing any more. No lock on it, and none on the view, is waited for."""
    role, owner = Name(share.name), Name(share.owner)
    yield SQL("GRANT {} TO CURRENT_USER").format(owner)
    yield SQL("REVOKE ALL ON TABLE {} FROM {}").format(view_of(share), role)
    yield SQL("REVOKE ALL ON SCHEMA {} FROM {}").format(role, role)
    yield SQL("REVOKE {} FROM CURRENT_USER").format(owner)


def drop(share: Share, roles: Sequence[str]) -> Iterator[Composed]:
    """roles: those of the share that are still there. What somebody else put into the schema, or grants in other
    databases, make this fail: it is not ours to drop."""
    names = listed([Name(role) for role in roles])
    yield SQL("GRANT {} TO CURRENT_USER").format(names)
    yield SQL("DROP VIEW IF EXISTS {}").format(view_of(share))
    yield SQL("DROP SCHEMA IF EXISTS {}").format(Name(share.name))
    # The owner's rights on the tables, and the role's on the database. They own nothing any more.
    yield SQL("DROP OWNED BY {} RESTRICT").format(names)
    yield SQL("DROP ROLE {}").format(names)
