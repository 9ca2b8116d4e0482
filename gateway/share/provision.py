"""Making, finding and taking away shares in the upstream's database.

A share is made in one transaction. Before it is taken away it is shut in one of its own: whatever fails then, nobody
logs in any more.

Owns what may take whose place. Refuses names that others use, and to change a share that is there without being asked:
what a partner may read is never a by-product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from psycopg2.errorcodes import INSUFFICIENT_PRIVILEGE, INTERNAL_ERROR, LOCK_NOT_AVAILABLE
from psycopg2.sql import SQL, Composable

from gateway.share import statements
from gateway.share.administrator import Administrator, Refused
from gateway.share.catalog import Finding, findings
from gateway.share.definition import digest
from gateway.share.names import Name, Text
from gateway.share.share import Record, Share, ShareError, read_record

OLDEST: Final = 130_000

# A partner may alter its own role (its password, its settings): so it can lock it, or change it before we do.
_BUSY: Final = frozenset({LOCK_NOT_AVAILABLE, INTERNAL_ERROR})
# Its sessions are ended before each: it would have to be back, and first, every time.
_TRIES: Final = 10
_SHUT_TIMEOUT: Final = SQL("SET LOCAL lock_timeout = '500ms'")
# Before PostgreSQL 15 a role could give itself to others, and so hold the row of the membership that we need to end its
# sessions; before 16, whoever may make roles may have this one instead.
_SIGNALLER: Final = "pg_signal_backend"
_OWN_SIGNALLER: Final = 160_000

_IT_TAKES: Final = (
    "the role has to be a superuser, or have CREATEROLE, own the database, and be able to pass on SELECT on what is "
    "read; and a query has to name the columns that it takes from tables"
)

_RECORDS: Final = """
SELECT rolname, shobj_description(oid, 'pg_authid') FROM pg_roles
WHERE shobj_description(oid, 'pg_authid') LIKE 'securegw share %%' AND (%(name)s IS NULL OR rolname = %(name)s)
ORDER BY rolname
"""
_ROLES: Final = "SELECT rolname FROM pg_roles WHERE rolname IN (%(name)s, %(owner)s)"
_TAKEN: Final = """
SELECT 'a role' FROM pg_roles WHERE rolname IN (%(name)s, %(owner)s)
UNION ALL SELECT 'a schema' FROM pg_namespace WHERE nspname = %(name)s
"""
# What reading it would check (manual, "Rules and Privileges"), from the rule itself: for each relation, the columns as
# the rights of the view's owner, by the bits of a set that begins at the lowest system column, -7; and for functions,
# those of who reads. A GRANT of what one may not pass on is only a warning.
_UNREADABLE: Final = """
WITH rule AS (
  SELECT r.ev_action::text AS action, o.oid AS owner, u.oid AS reader
  FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class JOIN pg_namespace AS n ON n.oid = c.relnamespace,
    pg_roles AS o, pg_roles AS u
  WHERE n.nspname = %(name)s AND c.relname = %(name)s AND o.rolname = %(owner)s AND u.rolname = %(name)s
), read AS (
  SELECT owner, found[1]::oid AS relation, number::int - 7 AS number
  FROM rule, regexp_matches(action,
    ':relid ([0-9]+)[^{}]*:requiredPerms [1-9][0-9]* :checkAsUser [0-9]+ :selectedCols \\(b([ 0-9]*)\\)', 'g') AS found
  LEFT JOIN LATERAL regexp_split_to_table(nullif(ltrim(found[2]), ''), ' ') AS number ON true
), called AS (
  SELECT reader, found[1]::oid AS function
  FROM rule, regexp_matches(action, ':(?:funcid|opfuncid|aggfnoid|winfnoid) ([1-9][0-9]*)', 'g') AS found
)
SELECT 'relation ' || relation::regclass FROM read WHERE CASE number
  WHEN 0 THEN EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attnum > 0
    AND NOT a.attisdropped AND NOT has_column_privilege(owner, relation, a.attnum, 'SELECT'))
  ELSE NOT coalesce(has_column_privilege(owner, relation, number::int2, 'SELECT'),
    has_any_column_privilege(owner, relation, 'SELECT')) END
UNION
SELECT 'function ' || function::regprocedure FROM called WHERE NOT has_function_privilege(reader, function, 'EXECUTE')
ORDER BY 1
"""
_PREPARED: Final = "SELECT gid FROM pg_prepared_xacts WHERE owner = %(name)s AND database = current_database()"
_END_SESSIONS: Final = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE usesysid = (SELECT oid FROM pg_roles WHERE rolname = %(name)s)
"""


@dataclass(frozen=True, slots=True)
class Made:
    """What is there now. password: of the role's login, None if the share was there already. open: what PUBLIC, or
    somebody's grant, lets the role do beyond its view. closed: what PUBLIC does not have any more. address: where the
    server sees us come from; None: over a Unix socket."""

    record: Record
    password: str | None
    open: tuple[Finding, ...]
    closed: tuple[Finding, ...]
    address: str | None


@dataclass(frozen=True, slots=True)
class Creation:
    """password: that the role will have. keep: called once a share is made but for COMMIT, with whatever must outlast
    it. replace: another share of that name gives way. close_public: what PUBLIC has beyond the view is taken from it,
    also where the share is there already."""

    share: Share
    password: str
    keep: Callable[[], None]
    replace: bool = False
    close_public: bool = False

    async def run(self, admin: Administrator) -> Made:
        _check_version(admin)
        await admin.run(SQL("BEGIN"))
        before = await record(admin, self.share.name)
        if before is not None and not self.replace:
            self._check_same(before)
            made = await self._made(admin, before, None)
        else:
            if before is not None:
                await _shut(admin, before.share)
                await _drop(admin, before.share)
            await self._check_free(admin)
            made = await self._made(admin, await self._create(admin), self.password)
            self.keep()
        await admin.run(SQL("COMMIT"))
        return made

    def _check_same(self, before: Record) -> None:
        differences = "; its ".join(self.share.differences(before.share))
        if differences:
            told = f"there is a share {self.share.name} already, but its {differences}"
            raise ShareError(f"{told}; --replace puts this one in its place")

    async def _check_free(self, admin: Administrator) -> None:
        taken = await admin.rows(_TAKEN, {"name": self.share.name, "owner": self.share.owner})
        if taken:
            raise ShareError(f"{taken[0][0]} of that name is there already, and is not a share's: {self.share.name}")

    async def _create(self, admin: Administrator) -> Record:
        share = self.share
        for statement in statements.create(share, admin.verifier(self.password, share.name)):
            await _explained(admin, statement)
        await _check_readable(admin, share)
        ((by,),) = await admin.rows("SELECT session_user::text")
        made = Record(share, await digest(admin, share.name), datetime.now(UTC).isoformat(timespec="seconds"), by)
        for statement in statements.record(share, made.comment()):
            await admin.run(statement)
        return made

    async def _made(self, admin: Administrator, there: Record, password: str | None) -> Made:
        """With PUBLIC closed, if that is wanted: as far as we may, for a REVOKE beyond that is only a warning."""
        found = left = await findings(admin, there)
        if self.close_public:
            for remedy in (one.remedy for one in found if one.remedy is not None):
                await admin.run(remedy)
            left = await findings(admin, there)
        closed = tuple(one for one in found if one.remedy is not None and one not in left)
        return Made(there, password, left, closed, await _address(admin))


async def _explained(admin: Administrator, statement: Composable) -> None:
    try:
        await admin.run(statement)
    except Refused as error:
        if error.sqlstate != INSUFFICIENT_PRIVILEGE:
            raise
        raise ShareError(f"{error}; {_IT_TAKES}") from error


async def _check_readable(admin: Administrator, share: Share) -> None:
    for (what,) in await admin.rows(_UNREADABLE, {"name": share.name, "owner": share.owner}):
        raise ShareError(f"permission denied for {what}; {_IT_TAKES}")


async def records(admin: Administrator) -> list[Record]:
    """Every share in the server, by name."""
    found = [read_record(comment, role) for role, comment in await admin.rows(_RECORDS, {"name": None})]
    return [one for one in found if one is not None]


async def record(admin: Administrator, name: str) -> Record | None:
    """Of the share of that name, in whichever database it is; None: there is none."""
    for role, comment in await admin.rows(_RECORDS, {"name": name}):
        return read_record(comment, role)
    return None


async def revoke(admin: Administrator, name: str) -> Record | None:
    """What was taken away; None if there is no such share. From the first moment nobody logs in any more, even if what
    follows fails."""
    _check_version(admin)
    found = await record(admin, name)
    if found is None:
        return None
    await admin.run(SQL("BEGIN"))
    await _end_sessions(admin, found.share)
    await admin.run(SQL("COMMIT"))
    # They have locks, but no session that could be ended.
    for (prepared,) in await admin.rows(_PREPARED, {"name": name}):
        await admin.run(SQL("ROLLBACK PREPARED {}").format(Text(prepared)))
    await admin.run(SQL("BEGIN"))
    await _shut(admin, found.share)
    await admin.run(SQL("COMMIT"))
    await admin.run(SQL("BEGIN"))
    await _drop(admin, found.share)
    await admin.run(SQL("COMMIT"))
    return found


async def _shut(admin: Administrator, share: Share) -> None:
    """Whatever the partner does: it has a row of its own in the catalogs, and sessions to lock it with."""
    await admin.run(_SHUT_TIMEOUT)
    for left in reversed(range(_TRIES)):
        await _end_sessions(admin, share)
        await admin.run(SQL("SAVEPOINT shut"))
        try:
            await admin.run(statements.shut(share))
            break
        except Refused as error:
            if error.sqlstate not in _BUSY or not left:
                raise
            await admin.run(SQL("ROLLBACK TO SAVEPOINT shut"))
    await admin.run(SQL("SET LOCAL lock_timeout TO DEFAULT"))


async def _end_sessions(admin: Administrator, share: Share) -> None:
    """Takes no lock that the partner could have. It needs a right for that which we have only as long."""
    await admin.run(SQL("SAVEPOINT signalling"))
    signaller = share.name if admin.server_version >= _OWN_SIGNALLER else _SIGNALLER
    await admin.run(SQL("GRANT {} TO CURRENT_USER").format(Name(signaller)))
    await _terminate(admin, share)
    await admin.run(SQL("ROLLBACK TO SAVEPOINT signalling"))


async def _terminate(admin: Administrator, share: Share) -> None:
    # Else a transaction sees the sessions that there were at its first look.
    await admin.rows("SELECT pg_stat_clear_snapshot()")
    await admin.rows(_END_SESSIONS, {"name": share.name})


async def _drop(admin: Administrator, share: Share) -> None:
    roles = [role for (role,) in await admin.rows(_ROLES, {"name": share.name, "owner": share.owner})]
    first, *others = statements.drop(share, roles)
    await admin.run(first)
    # Those that were let in before the role was shut, and were not to be seen yet.
    await _terminate(admin, share)
    for statement in others:
        await admin.run(statement)


async def _address(admin: Administrator) -> str | None:
    ((address,),) = await admin.rows("SELECT host(inet_client_addr())")
    return None if address is None else str(address)


def _check_version(admin: Administrator) -> None:
    if admin.server_version < OLDEST:
        raise ShareError(f"the server is PostgreSQL {admin.server_version // 10_000}; shares take 13 or newer")
