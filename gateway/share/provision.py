"""Making, finding and taking away shares in the upstream's database.

A share is made in one transaction. Before it is taken away it is shut in one of its own, from whatever database: if
anything fails then, nobody logs in any more.

Owns what may take whose place. Refuses names that others use, and to change a share that is there without being asked:
what a partner may read is never a by-product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NoReturn

from psycopg2.errorcodes import INSUFFICIENT_PRIVILEGE, INTERNAL_ERROR, LOCK_NOT_AVAILABLE
from psycopg2.sql import SQL, Composable

from gateway.share import statements
from gateway.share.administrator import Administrator, Refused
from gateway.share.catalog import Excess, excesses
from gateway.share.definition import digest
from gateway.share.names import Name, Text, rendered, spelled
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
_WITHOUT_TEMPORARY: Final = """
SELECT current_database()::text, format('GRANT TEMPORARY ON DATABASE %I TO PUBLIC', current_database())
WHERE NOT has_database_privilege('public', current_database(), 'TEMPORARY')
"""
_LEFT: Final = "SELECT rolname FROM pg_roles WHERE rolname IN (%(name)s, %(name)s || '_owner') ORDER BY rolname"
_STRANGERS: Final = """
SELECT pg_get_userbyid(nspowner)::text, current_database()::text FROM pg_namespace
WHERE nspname = %(name)s AND nspowner NOT IN (SELECT oid FROM pg_roles WHERE rolname = %(owner)s)
"""
# Its name may have changed since it was recorded.
_DATABASE: Final = """
SELECT datname FROM pg_database AS d, LATERAL (SELECT EXISTS (
  SELECT FROM pg_shdepend JOIN pg_roles AS o ON o.oid = refobjid
  WHERE dbid = d.oid AND refclassid = 'pg_authid'::regclass AND deptype = 'o' AND rolname = %(owner)s) AS owns) AS it
WHERE owns OR datname IN (%(database)s, current_database())
ORDER BY owns DESC, datname = %(database)s DESC LIMIT 1
"""
_PREPARED: Final = """
SELECT gid, database, database = current_database() FROM pg_prepared_xacts WHERE owner = %(name)s ORDER BY gid
"""
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
    open: tuple[Excess, ...]
    closed: tuple[Excess, ...]
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
                await _check_unprepared(admin, before.share)
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
        ((by,),) = await admin.rows("SELECT current_user::text")
        made = Record(share, await digest(admin, share.name), datetime.now(UTC).isoformat(timespec="seconds"), by)
        for statement in statements.record(share, made.comment()):
            await admin.run(statement)
        return made

    async def _made(self, admin: Administrator, there: Record, password: str | None) -> Made:
        """With PUBLIC closed, if that is wanted: as far as we may, for a REVOKE beyond that is only a warning."""
        found = left = await excesses(admin, there)
        if self.close_public:
            for remedy in (one.remedy for one in found if one.remedy is not None):
                await admin.run(remedy)
            left = await excesses(admin, there)
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


async def way_back(admin: Administrator, name: str) -> str | None:
    """What gives PUBLIC the temporary tables of this database again, which a server gives it at first; None: it has
    them, or there is another share than that one here. Whether a share took them is not known any more."""
    shares = [one.share for one in await records(admin)]
    for database, grant in await admin.rows(_WITHOUT_TEMPORARY):
        if not any(one.database == database and one.name != name for one in shares):
            return str(grant)
    return None


async def left(admin: Administrator, name: str) -> list[str]:
    """The roles that a share of that name would have, and that are there."""
    return [role for (role,) in await admin.rows(_LEFT, {"name": name})]


# --- the end of one ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shut:
    """database: where the rest of the share is. closed: nobody logs in any more; else a prepared transaction of the
    partner's has locked the role."""

    record: Record
    database: str
    closed: bool


async def shut(admin: Administrator, name: str) -> Shut | None:
    """Nobody logs in as the role any more, and its sessions have ended. admin: in any database. None: no such share."""
    _check_version(admin)
    found = await record(admin, name)
    if found is None:
        return None
    share = found.share
    ((database,),) = await admin.rows(_DATABASE, {"owner": share.owner, "database": share.database})
    closed = await _closed(admin, share)
    await admin.run(SQL("BEGIN"))
    await _end_sessions(admin, share)
    await admin.run(SQL("COMMIT"))
    return Shut(found, database, closed)


async def _closed(admin: Administrator, share: Share) -> bool:
    await admin.run(SQL("BEGIN"))
    try:
        await _shut(admin, share)
    except Refused as error:
        if error.sqlstate not in _BUSY:
            raise
        await admin.run(SQL("ROLLBACK"))
        return False
    await admin.run(SQL("COMMIT"))
    return True


async def revoke(admin: Administrator, name: str) -> Record | None:
    """What was taken away; None if there is no such share. admin: in the database where it is.

    It is shut first, so nobody logs in any more even if what follows fails. There is one thing that can keep us from
    that, a prepared transaction that has locked the role and that only a superuser may end: then the role at least
    reads nothing any more. Raises ShareError, with what has to be done.
    """
    found = await shut(admin, name)
    if found is None:
        return None
    share = found.record.share
    stuck = await _roll_back(admin, name)
    if stuck:
        await _explain(admin, found, stuck)
    if not found.closed:
        await admin.run(SQL("BEGIN"))
        await _shut(admin, share)
        await admin.run(SQL("COMMIT"))
    await admin.run(SQL("BEGIN"))
    await _drop(admin, share)
    await admin.run(SQL("COMMIT"))
    return found.record


async def _roll_back(admin: Administrator, name: str) -> list[str]:
    """The role's prepared transactions: they have locks, but no session that could be ended. Which are left, and where:
    before they are ended by a superuser, in their own database, the role cannot be dropped."""
    stuck = []
    for prepared, database, here in await admin.rows(_PREPARED, {"name": name}):
        statement = SQL("ROLLBACK PREPARED {}").format(Text(prepared))
        if not here or not await _permitted(admin, statement):
            stuck.append(f"{rendered(statement)} in the database {spelled(database)}")
    return stuck


async def _permitted(admin: Administrator, statement: Composable) -> bool:
    try:
        await admin.run(statement)
    except Refused as error:
        if error.sqlstate != INSUFFICIENT_PRIVILEGE:
            raise
        return False
    return True


async def _explain(admin: Administrator, found: Shut, stuck: list[str]) -> NoReturn:
    share = found.record.share
    told = f"the role {spelled(share.name)} has a prepared transaction: a superuser has to run {', '.join(stuck)}"
    if not found.closed:
        await admin.run(SQL("BEGIN"))
        for statement in statements.close(share):
            await admin.run(statement)
        await admin.run(SQL("COMMIT"))
        told += "; until then it still logs in, but reads nothing any more"
    raise ShareError(f"{told}; then revoke the share again")


async def _check_unprepared(admin: Administrator, share: Share) -> None:
    """Nothing of that is ended within a transaction (manual, ROLLBACK PREPARED)."""
    for prepared, database, _ in await admin.rows(_PREPARED, {"name": share.name}):
        told = f"the role {spelled(share.name)} has a prepared transaction, {rendered(Text(prepared))}"
        raise ShareError(f"{told}, in the database {spelled(database)}: revoke the share first, which ends it")


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
    await _check_its_own(admin, share, roles)
    first, *others = statements.drop(share, roles)
    await admin.run(first)
    # Those that were let in before the role was shut, and were not to be seen yet.
    await _terminate(admin, share)
    for statement in others:
        await admin.run(statement)


async def _check_its_own(admin: Administrator, share: Share, roles: Iterable[str]) -> None:
    """Where the share's database is gone, a schema of that name is somebody else's."""
    for whose, database in await admin.rows(_STRANGERS, {"name": share.name, "owner": share.owner}):
        schema, names = spelled(share.name), ", ".join(map(spelled, roles))
        told = f"the schema {schema} in the database {spelled(database)} is owned by {spelled(whose)}, not by the share"
        raise ShareError(
            f"{told}: nothing was dropped, and the share's roles are still there. If its own database is gone, "
            f"DROP OWNED BY {names} RESTRICT; DROP ROLE {names} is the rest"
        )


async def _address(admin: Administrator) -> str | None:
    ((address,),) = await admin.rows("SELECT host(inet_client_addr())")
    return None if address is None else str(address)


def _check_version(admin: Administrator) -> None:
    if admin.server_version < OLDEST:
        raise ShareError(f"the server is PostgreSQL {admin.server_version // 10_000}; shares take 13 or newer")
