"""What there is in the share's database that the partner has to be kept from: names to try statements on. And which
server it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psycopg2.errorcodes import INSUFFICIENT_PRIVILEGE

from gateway.share.administrator import Administrator, Refused

# A statement on each takes about a millisecond; beyond that the catalogs have to do, which are asked about all of them.
MAX_RELATIONS: Final = 2000
MAX_NAMES: Final = 200

_RELATIONS: Final = """
SELECT n.nspname, c.relname, c.relkind::text,
       (SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
        ORDER BY attnum LIMIT 1)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND n.nspname !~ '^pg_(temp|toast)'
ORDER BY n.nspname, c.relname LIMIT %(limit)s
"""
# Those of the catalogs that nobody but a superuser reads, on any server from 13 on.
_CATALOGS: Final = ("pg_authid", "pg_largeobject", "pg_shadow", "pg_statistic", "pg_user_mapping")

_SCHEMAS: Final = """
SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast)' AND nspname <> 'information_schema'
ORDER BY nspname LIMIT %(limit)s
"""
_ROLES: Final = "SELECT rolname FROM pg_roles ORDER BY rolname LIMIT %(limit)s"
_DATABASES: Final = "SELECT datname FROM pg_database ORDER BY NOT datallowconn, datname LIMIT %(limit)s"


@dataclass(frozen=True, slots=True)
class Relation:
    """kind: as pg_class.relkind. column: its first one, or None."""

    schema: str
    name: str
    kind: str
    column: str | None

    @property
    def writable(self) -> bool:
        """INSERT and its like get as far as to privileges."""
        return self.kind in ("r", "p", "v", "f")


@dataclass(frozen=True, slots=True)
class Survey:
    """relations: the share's own view among them. server: see `identifier`."""

    relations: tuple[Relation, ...]
    schemas: tuple[str, ...]
    roles: tuple[str, ...]
    databases: tuple[str, ...]
    server: str | None


async def survey(admin: Administrator) -> Survey:
    """admin: in the share's database."""
    found = [Relation(*row) for row in await admin.rows(_RELATIONS, {"limit": MAX_RELATIONS})]
    found += [Relation("pg_catalog", name, "c", None) for name in _CATALOGS]

    async def names(question: str) -> tuple[str, ...]:
        return tuple(name for (name,) in await admin.rows(question, {"limit": MAX_NAMES}))

    schemas, roles, databases = await names(_SCHEMAS), await names(_ROLES), await names(_DATABASES)
    return Survey(tuple(found), schemas, roles, databases, await identifier(admin))


async def identifier(admin: Administrator) -> str | None:
    """Of the data, so that a replica has the same (manual, "Control Data Functions"). None: we may not ask, though
    everybody may as a server is made."""
    try:
        ((found,),) = await admin.rows("SELECT system_identifier::text FROM pg_control_system()")
    except Refused as error:
        if error.sqlstate != INSUFFICIENT_PRIVILEGE:
            raise
        return None
    return str(found)
