"""What the partner could try once it is connected, tried: each statement in a transaction that is rolled back.

Owns which answers prove a refusal: SQLSTATE 42501, which the server gives for want of a privilege and nothing else. Any
other error proves nothing, and is told as such. Where the partner could make a transaction read-write, so is ours: that
they begin read-only is a courtesy, and no refusal must rest on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import psycopg2
from psycopg2.errorcodes import INSUFFICIENT_PRIVILEGE, OBJECT_NOT_IN_PREREQUISITE_STATE
from psycopg2.extensions import connection as Connection  # noqa: N812 - it is a class
from psycopg2.sql import SQL, Composable

from gateway.registry.postgres_store import reason
from gateway.share.names import Name, Text, rendered, spelled
from gateway.share.share import Share
from gateway.share.statements import SETTINGS, view_of
from gateway.share.survey import Relation, Survey
from gateway.share.tried import Tried, Verdict, together

# A view that cannot be written to at all, as that of a query with GROUP BY (manual, CREATE VIEW, "Updatable Views").
_NO_TARGET: Final = OBJECT_NOT_IN_PREREQUISITE_STATE

_REFUSED: Final = "refused"

# A verifier that fits no password: should it ever be kept, nobody could log in.
_NOBODYS: Final = f"SCRAM-SHA-256$4096:AAAAAAAAAAAAAAAAAAAAAA==${'A' * 43}=:{'A' * 43}="


@dataclass(frozen=True, slots=True)
class Probe:
    """group: what it is told together with. known: every role may do that."""

    group: str
    what: str
    sql: Composable
    codes: frozenset[str] = frozenset({INSUFFICIENT_PRIVILEGE})
    known: bool = False


def read(session: Connection, share: Share) -> Tried:
    """The one thing that has to work."""
    view = spelled(share.name, share.name)
    try:
        with session.cursor() as cursor:
            cursor.execute(rendered(SQL("SELECT * FROM {} LIMIT 1").format(view_of(share))))
            rows = len(cursor.fetchall())
    except psycopg2.Error as error:
        return Tried(f"SELECT on the view {view}", "readable", reason(error), Verdict.UNPROVEN)
    got = "readable" if rows else "readable, and empty"
    return Tried(f"SELECT on the view {view}", "readable", got, Verdict.OK)


def settings(session: Connection) -> Iterator[Tried]:
    """What is in force when a session begins."""
    for name, wanted in SETTINGS.items():
        with session.cursor() as cursor:
            cursor.execute("SELECT pg_catalog.current_setting(%s)", (name,))
            ((found,),) = cursor.fetchall()
        verdict = Verdict.OK if _plain(found) == _plain(wanted) else Verdict.LOOSENED
        yield Tried(f"{name} at the start", wanted, found, verdict)


def limit(session: Connection) -> None:
    """From here on no statement waits without end, whatever the partner has made of the role's settings."""
    with session.cursor() as cursor:
        for name in ("statement_timeout", "lock_timeout"):
            cursor.execute(f"SET {name} = '{SETTINGS[name]}'")


_UNITS: Final[Mapping[str, int]] = {"min": 60, "s": 1}


def _plain(setting: str) -> str | int:
    """The server tells 60s as 1min, and an empty list with or without quotes."""
    for unit, seconds in _UNITS.items():
        number = setting.removesuffix(unit)
        if number != setting and number.isdigit():
            return int(number) * seconds
    return setting.strip('"')


def tried(session: Connection, share: Share, found: Survey) -> Iterator[Tried]:
    """session: autocommitting. All that should be refused, group by group."""
    for group, probes in groupby(_probes(share, found), key=lambda probe: probe.group):
        yield from together(group, [_try(session, probe) for probe in probes])


def _try(session: Connection, probe: Probe) -> Tried:
    try:
        with session.cursor() as cursor:
            cursor.execute(f"BEGIN READ WRITE; {rendered(probe.sql)}")
    except psycopg2.Error as error:
        return _outcome(probe, error)
    finally:
        _roll_back(session)
    if probe.known:
        return Tried(probe.what, "every role may", "allowed", Verdict.KNOWN)
    return Tried(probe.what, _REFUSED, "it was done, and rolled back", Verdict.LOOSENED)


def _roll_back(session: Connection) -> None:
    """Where there is nobody any more to ask, it is rolled back already, and the next statement says so."""
    with suppress(psycopg2.Error), session.cursor() as cursor:
        cursor.execute("ROLLBACK")


def _outcome(probe: Probe, error: psycopg2.Error) -> Tried:
    if error.pgcode in probe.codes:
        return Tried(probe.what, _REFUSED, _REFUSED, Verdict.OK)
    return Tried(probe.what, _REFUSED, f"another error: {reason(error)}", Verdict.UNPROVEN)


# --- what to try ------------------------------------------------------------------------------------------------------


def _probes(share: Share, found: Survey) -> Iterator[Probe]:
    own = [one for one in found.relations if (one.schema, one.name) == (share.name, share.name)]
    others = [one for one in found.relations if one not in own]
    yield from _reads(others)
    yield from _writes("write to the view", own)
    yield from _writes("write to another table or view", [one for one in others if one.writable])
    yield from _creations(found)
    yield from _server(share)
    yield from _roles(share, found)
    yield from _limits(share)
    yield from _known(share)


def _reads(relations: list[Relation]) -> Iterator[Probe]:
    for one in relations:
        statement = SQL("SELECT FROM {}.{} LIMIT 0").format(Name(one.schema), Name(one.name))
        yield Probe("SELECT on another table or view", f"SELECT on {spelled(one.schema, one.name)}", statement)


def _writes(group: str, relations: list[Relation]) -> Iterator[Probe]:
    """None of them touches a row, even where it is allowed."""
    codes = frozenset({INSUFFICIENT_PRIVILEGE, _NO_TARGET})
    for one in relations:
        where, target = spelled(one.schema, one.name), SQL("{}.{}").format(Name(one.schema), Name(one.name))
        own = codes if one.kind == "v" else frozenset({INSUFFICIENT_PRIVILEGE})
        yield Probe(group, f"INSERT: {where}", SQL("INSERT INTO {} SELECT WHERE false").format(target), own)
        yield Probe(group, f"DELETE: {where}", SQL("DELETE FROM {} WHERE false").format(target), own)
        if one.column is not None:
            update = SQL("UPDATE {} SET {} = DEFAULT WHERE false").format(target, Name(one.column))
            yield Probe(group, f"UPDATE: {where}", update, own)


def _creations(found: Survey) -> Iterator[Probe]:
    for schema in found.schemas:
        statement = SQL("CREATE TABLE {}.securegw_probe ()").format(Name(schema))
        yield Probe("CREATE in a schema", f"CREATE TABLE in the schema {spelled(schema)}", statement)
    for what, sql in (("CREATE SCHEMA", "CREATE SCHEMA securegw_probe"), ("TEMPORARY", "CREATE TEMP TABLE p ()")):
        yield Probe(what, f"{what} on the database", SQL(sql))


def _server(share: Share) -> Iterator[Probe]:
    """Files and programs of the server: should it be allowed, then they are ones that do no harm."""
    copies = {
        "COPY TO PROGRAM": SQL("COPY (SELECT 1) TO PROGRAM 'cat > /dev/null'"),
        "COPY FROM PROGRAM": SQL("COPY {} FROM PROGRAM 'true'").format(view_of(share)),
        "COPY TO a file of the server": SQL("COPY (SELECT 1) TO '/dev/null'"),
        "COPY FROM a file of the server": SQL("COPY {} FROM '/dev/null'").format(view_of(share)),
    }
    for what, sql in copies.items():
        yield Probe(what, what, sql)
    calls = "pg_read_file('PG_VERSION'); pg_read_binary_file('PG_VERSION'); pg_ls_dir('.'); pg_stat_file('.')"
    calls += "; lo_import('/dev/null'); lo_export(0, '/dev/null'); pg_ls_waldir()"
    for call in calls.split("; "):
        yield Probe("functions for superusers", call, SQL("SELECT pg_catalog." + call))


def _roles(share: Share, found: Survey) -> Iterator[Probe]:
    others = [role for role in found.roles if role != share.name]
    for role in others:
        yield Probe("SET ROLE", f"SET ROLE {spelled(role)}", SQL("SET ROLE {}").format(Name(role)))
    for role in others:
        statement = SQL("SET SESSION AUTHORIZATION {}").format(Name(role))
        yield Probe("SET SESSION AUTHORIZATION", f"SET SESSION AUTHORIZATION {spelled(role)}", statement)


def _limits(share: Share) -> Iterator[Probe]:
    role, database = Name(share.name), Name(share.database)
    statements = {
        "ALTER ROLE … CONNECTION LIMIT": SQL("ALTER ROLE {} CONNECTION LIMIT -1").format(role),
        "ALTER ROLE … SUPERUSER": SQL("ALTER ROLE {} SUPERUSER").format(role),
        "ALTER ROLE … BYPASSRLS": SQL("ALTER ROLE {} BYPASSRLS").format(role),
        "ALTER ROLE … CREATEROLE": SQL("ALTER ROLE {} CREATEROLE").format(role),
        "ALTER DATABASE … SET": SQL("ALTER DATABASE {} SET search_path = public").format(database),
        "SET session_replication_role": SQL("SET session_replication_role = replica"),
        "SET temp_file_limit": SQL("SET temp_file_limit = -1"),
    }
    for what, sql in statements.items():
        yield Probe("its own limits", what, sql)


def _known(share: Share) -> Iterator[Probe]:
    """PostgreSQL has no way to keep these from a role that may log in."""
    yield Probe("timeout", "SET statement_timeout = 0, for itself", SQL("SET statement_timeout = 0"), known=True)
    password = SQL("ALTER ROLE {} PASSWORD {}").format(Name(share.name), Text(_NOBODYS))
    yield Probe("password", "ALTER ROLE … PASSWORD, of its own", password, known=True)
    yield Probe("large objects", "lo_create: large objects of its own", SQL("SELECT lo_create(0)"), known=True)
    comments = SQL("SELECT description FROM pg_catalog.pg_shdescription")
    yield Probe("comments", "comments on roles, among them the records of all shares", comments, known=True)
    for what, sql in _KNOWN.items():
        yield Probe(what, what, SQL(sql), known=True)


_KNOWN: Final[Mapping[str, str]] = {
    "LISTEN and NOTIFY: what others tell each other in this database": "LISTEN securegw_probe; NOTIFY securegw_probe",
    "sources of functions, and definitions of views, in all schemas": (
        "SELECT prosrc FROM pg_catalog.pg_proc LIMIT 1; "
        "SELECT pg_catalog.pg_get_viewdef(oid) FROM pg_catalog.pg_class WHERE relkind = 'v' LIMIT 1"
    ),
    "statistics: names, sizes and numbers of rows of all tables": (
        "SELECT relname, n_live_tup FROM pg_catalog.pg_stat_all_tables LIMIT 1; "
        "SELECT reltuples, pg_catalog.pg_relation_size(oid) FROM pg_catalog.pg_class LIMIT 1"
    ),
    "advisory locks, also those that others use": "SELECT pg_catalog.pg_try_advisory_xact_lock(7308613, 2)",
}
