"""What the database's own catalogs say that the partner's role may do beyond its one view.

Owns the questions. Each is about everything of its kind, not about what we know of: a grant by hand is found whatever
it is on. Rights that everybody has because of PUBLIC cannot be taken from one role (manual, 5.8): where the role has
something through PUBLIC, what is found comes with the statement that takes it from everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from psycopg2.sql import SQL

from gateway.share.administrator import Administrator
from gateway.share.definition import BEHIND, DIGEST, FORM
from gateway.share.share import Record
from gateway.share.statements import CONNECTION_LIMIT, SETTINGS


@dataclass(frozen=True, slots=True)
class Excess:
    """what: the right, and on what. got: how it comes to be there. remedy: takes it from PUBLIC; None: by hand."""

    what: str
    got: str
    remedy: SQL | None = None

    @property
    def way_back(self) -> str | None:
        """Gives it to PUBLIC again. A remedy begins with REVOKE; for default privileges it comes behind all names."""
        if self.remedy is None:
            return None
        said = self.remedy.string.removesuffix(" FROM PUBLIC")
        before, _, right = said.partition("REVOKE ") if said.startswith("REVOKE ") else said.rpartition("REVOKE ")
        return f"{before}GRANT {right} TO PUBLIC"


# Object ids; 0, which none has, for what is not there.
_OBJECTS: Final = """
SELECT coalesce((SELECT oid FROM pg_roles WHERE rolname = %(name)s), 0)::bigint,
       coalesce((SELECT oid FROM pg_roles WHERE rolname = %(owner)s), 0)::bigint,
       coalesce((SELECT oid FROM pg_namespace WHERE nspname = %(name)s), 0)::bigint,
       coalesce((SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = %(name)s AND c.relname = %(name)s AND c.relkind = 'v'), 0)::bigint
"""

# Each answers with rows of (what, got, remedy); no row is the good answer. Without `got` it is a right that the role
# has, and because PUBLIC has it, if there is a remedy.

_ATTRIBUTES: Final = """
SELECT word || ' of the role ' || quote_ident(rolname), 'the attribute is set', NULL
FROM pg_roles,
  LATERAL (VALUES ('SUPERUSER', rolsuper), ('CREATEROLE', rolcreaterole), ('CREATEDB', rolcreatedb),
    ('INHERIT', rolinherit), ('REPLICATION', rolreplication), ('BYPASSRLS', rolbypassrls),
    ('LOGIN', rolcanlogin AND oid = %(owner)s)) AS attribute (word, given)
WHERE oid IN (%(role)s, %(owner)s) AND given
UNION ALL
SELECT 'the CONNECTION LIMIT of the role', CASE rolconnlimit WHEN -1 THEN 'none' ELSE rolconnlimit::text END, NULL
FROM pg_roles WHERE oid = %(role)s AND rolconnlimit NOT BETWEEN 0 AND %(limit)s
UNION ALL
SELECT 'the role that owns the view', 'is not there', NULL WHERE %(owner)s = 0
"""

# Since PostgreSQL 16 whoever makes a role may let others become its members, and is none itself: by a membership that
# the server grants it in the name of its first superuser (10). Before that, the two options are not there.
_MEMBERSHIPS: Final = """
SELECT 'membership of ' || quote_ident(pg_get_userbyid(member)) || ' in ' || quote_ident(pg_get_userbyid(roleid)),
       'granted', NULL
FROM pg_auth_members AS m WHERE member IN (%(role)s, %(owner)s) OR (roleid IN (%(role)s, %(owner)s)
  AND (coalesce((to_jsonb(m) ->> 'inherit_option')::boolean OR (to_jsonb(m) ->> 'set_option')::boolean, true)
    OR grantor <> 10 OR pg_get_userbyid(member) <> %(by)s))
"""

_SETTINGS: Final = """
WITH found AS (
  SELECT setdatabase, split_part(one, '=', 1) AS name, substr(one, strpos(one, '=') + 1) AS value
  FROM pg_db_role_setting, unnest(setconfig) AS one WHERE setrole = %(role)s
), wanted AS (SELECT * FROM unnest(%(settings)s, %(values)s) AS given (name, value))
SELECT 'the setting ' || name, coalesce('is ' || found.value, 'is not set'), NULL
FROM wanted LEFT JOIN (SELECT * FROM found WHERE setdatabase = 0) AS found USING (name)
WHERE found.value IS DISTINCT FROM wanted.value
UNION ALL
SELECT 'the setting ' || name || ' in one database', 'is ' || value, NULL FROM found
WHERE setdatabase <> 0 AND (name, value) NOT IN (SELECT name, value FROM wanted)
UNION ALL
SELECT 'the setting ' || name, 'is ' || value, NULL FROM found
WHERE setdatabase = 0 AND name NOT IN (SELECT name FROM wanted)
"""

# Every object of every database in whose ACL the role stands, or that it owns (manual, "pg_shdepend").
_GRANTS: Final = """
SELECT CASE deptype WHEN 'o' THEN 'ownership of ' ELSE 'rights on ' END ||
       CASE WHEN dbid IN (0, here.oid) THEN pg_describe_object(classid, objid, objsubid)
            ELSE 'something in the database ' || quote_ident(other.datname) END, 'granted', NULL
FROM pg_shdepend
CROSS JOIN (SELECT oid FROM pg_database WHERE datname = current_database()) AS here
LEFT JOIN pg_database AS other ON other.oid = dbid
WHERE refclassid = 'pg_authid'::regclass AND refobjid = %(role)s AND deptype IN ('a', 'o') AND NOT (
  deptype = 'a' AND objsubid = 0 AND (
    (dbid = here.oid AND classid = 'pg_class'::regclass AND objid = %(view)s)
    OR (dbid = here.oid AND classid = 'pg_namespace'::regclass AND objid = %(schema)s)
    OR (dbid = 0 AND classid = 'pg_database'::regclass AND objid = here.oid)))
"""

# The same of the role that owns the view: SELECT on what its rule depends on, and nothing else.
_OWNERS: Final = """
WITH needed AS (
  SELECT d.refobjid AS relation, d.refobjsubid AS number
  FROM pg_rewrite AS r JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
  WHERE r.ev_class = %(view)s AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
)
SELECT CASE deptype WHEN 'o' THEN 'ownership of ' ELSE 'rights on ' END ||
       CASE WHEN dbid IN (0, here.oid) THEN pg_describe_object(classid, objid, objsubid)
            ELSE 'something in the database ' || quote_ident(other.datname) END, 'the owner of the view has it', NULL
FROM pg_shdepend
CROSS JOIN (SELECT oid FROM pg_database WHERE datname = current_database()) AS here
LEFT JOIN pg_database AS other ON other.oid = dbid
WHERE refclassid = 'pg_authid'::regclass AND refobjid = %(owner)s AND deptype IN ('a', 'o') AND NOT (
  dbid = here.oid AND CASE deptype
    WHEN 'a' THEN classid = 'pg_class'::regclass AND (objid, objsubid) IN (SELECT relation, number FROM needed)
    ELSE (classid = 'pg_class'::regclass AND objid = %(view)s)
      OR (classid = 'pg_namespace'::regclass AND objid = %(schema)s) END)
UNION ALL
SELECT privilege_type || ' on ' || relation::regclass || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END,
       'the owner of the view has it', NULL
FROM (SELECT DISTINCT relation, one.* FROM needed JOIN pg_class ON oid = relation, aclexplode(relacl) AS one
  UNION SELECT relation, one.* FROM needed JOIN pg_attribute ON attrelid = relation, aclexplode(attacl) AS one) AS every
WHERE grantee = %(owner)s AND (privilege_type <> 'SELECT' OR is_grantable)
"""

# What stands in the ACLs of the three things that the role has to do with. The view and its schema are its alone.
_OWN: Final = """
WITH acl AS (
  SELECT 'the view' AS what, 'SELECT' AS wanted, 'TABLE ' || oid::regclass AS object, relowner AS owner, one.*
  FROM pg_class, aclexplode(relacl) AS one WHERE oid = %(view)s
  UNION ALL
  SELECT 'the column ' || quote_ident(attname) || ' of the view', '', 'TABLE ' || attrelid::regclass, 0, one.*
  FROM pg_attribute, aclexplode(attacl) AS one WHERE attrelid = %(view)s
  UNION ALL
  SELECT 'the schema of the view', 'USAGE', format('SCHEMA %%I', nspname), nspowner, one.*
  FROM pg_namespace, aclexplode(nspacl) AS one WHERE oid = %(schema)s
  UNION ALL
  SELECT 'the database ' || quote_ident(datname), 'CONNECT', format('DATABASE %%I', datname), datdba, one.*
  FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba))) AS one
  WHERE datname = current_database() AND grantee IN (0, %(role)s) AND NOT (grantee = 0 AND privilege_type = 'CONNECT')
)
SELECT privilege_type || ' on ' || what || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END,
       CASE WHEN grantee NOT IN (0, %(role)s) THEN quote_ident(pg_get_userbyid(grantee)) || ' has it' END,
       CASE grantee WHEN 0 THEN format('REVOKE %%s ON %%s FROM PUBLIC', privilege_type, object) END
FROM acl WHERE grantee <> owner AND NOT (grantee = %(role)s AND privilege_type = wanted AND NOT is_grantable)
"""

_SCHEMAS: Final = """
SELECT word || ' on the schema ' || quote_ident(nspname), NULL,
       CASE WHEN public THEN format('REVOKE %%s ON SCHEMA %%I FROM PUBLIC', word, nspname) END
FROM pg_namespace, LATERAL (VALUES ('CREATE'), ('USAGE')) AS privilege (word),
  LATERAL (SELECT EXISTS (SELECT FROM aclexplode(coalesce(nspacl, acldefault('n', nspowner))) AS one
    WHERE one.grantee = 0 AND one.privilege_type = word) AS public) AS everybody
WHERE nspname !~ '^pg_(temp|toast)' AND has_schema_privilege(%(role)s::oid, oid, word)
  AND NOT (word = 'USAGE' AND (oid = %(schema)s OR nspname IN ('pg_catalog', 'information_schema', 'public')))
"""

# As the server was made, everybody reads most catalogs (manual, "pg_init_privs") and the information schema, whose
# views stand below the first object id that others get; no more than that is right.
_RELATIONS: Final = """
SELECT string_agg(word, ', ' ORDER BY word) || ' on ' || c.oid::regclass::text, NULL,
       CASE WHEN bool_or(public) THEN format('REVOKE %%s ON %%s %%s FROM PUBLIC',
         string_agg(word, ', ') FILTER (WHERE public), CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
         c.oid::regclass) END
FROM pg_class AS c
CROSS JOIN unnest(%(words)s) AS p (word)
CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM aclexplode(c.relacl) AS one
    WHERE one.grantee = 0 AND one.privilege_type = word) AS public) AS everybody
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT (c.oid = %(view)s AND word = 'SELECT')
  AND (CASE word WHEN 'USAGE' THEN c.relkind = 'S' AND has_sequence_privilege(%(role)s::oid, c.oid, word)
      ELSE has_table_privilege(%(role)s::oid, c.oid, word) END)
  AND NOT (word = 'SELECT' AND c.relnamespace = 'information_schema'::regnamespace AND c.oid < 16384)
  AND NOT EXISTS (SELECT FROM pg_init_privs AS i, aclexplode(i.initprivs) AS one
    WHERE i.classoid = 'pg_class'::regclass AND i.objoid = c.oid AND i.objsubid = 0 AND i.privtype = 'i'
      AND one.grantee = 0 AND one.privilege_type = word)
GROUP BY c.oid
"""

# What is given of single columns is taken, and given back, of these alone: it may be all that others have.
_COLUMNS: Final = """
SELECT word || ' on ' || attrelid::regclass || ' (' || quote_ident(attname) || ')', NULL,
       CASE WHEN public THEN format('REVOKE %%s (%%I) ON TABLE %%s FROM PUBLIC', word, attname, attrelid::regclass) END
FROM (
  SELECT attrelid, attnum, attname, privilege_type, bool_or(grantee = 0)
  FROM pg_attribute, aclexplode(attacl) WHERE NOT attisdropped AND attrelid <> %(view)s GROUP BY 1, 2, 3, 4
) AS given (attrelid, attnum, attname, word, public)
WHERE (public OR (has_column_privilege(%(role)s::oid, attrelid, attnum, word)
    AND NOT has_table_privilege(%(role)s::oid, attrelid, word)))
  AND NOT EXISTS (SELECT FROM pg_init_privs AS i, aclexplode(i.initprivs) AS one
    WHERE i.classoid = 'pg_class'::regclass AND i.objoid = attrelid AND i.objsubid IN (0, attnum) AND i.privtype = 'i'
      AND one.grantee = 0 AND one.privilege_type = word)
"""

# Functions that act with other rights than the caller's: their owner's, the server's user's, another session's. Those
# in a schema that the role may not use are called where something else is made of them: an operator, a cast, a domain.
# An aggregate calls its functions as its own owner (manual, CREATE AGGREGATE), an operator class as nobody.
_FUNCTIONS: Final = """
WITH noted AS MATERIALIZED (
  SELECT p.oid, p.pronamespace AS schema, coalesce(p.proacl, acldefault('f', p.proowner)) AS acl, CASE
    WHEN p.prosecdef THEN 'the SECURITY DEFINER function'
    WHEN p.oid IN (SELECT i.objoid FROM pg_init_privs AS i WHERE i.classoid = 'pg_proc'::regclass
        AND NOT EXISTS (SELECT FROM aclexplode(i.initprivs) AS one WHERE one.grantee = 0))
      THEN 'the restricted function'
    WHEN NOT l.lanpltrusted AND l.lanname NOT IN ('c', 'internal') THEN 'the function in an untrusted language'
    WHEN l.lanname IN ('c', 'internal') AND p.oid >= 16384 AND p.prokind <> 'a' AND e.oid IS NULL
      THEN 'the function made by hand of the server''s own, or of a library,'
    WHEN e.extname = 'dblink' THEN 'the function of dblink'
    END AS why
  FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
  LEFT JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
  LEFT JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
), may AS MATERIALIZED (
  SELECT oid, acl, why, callable, callable AND has_schema_privilege(%(role)s::oid, schema, 'USAGE') AS named
  FROM noted, LATERAL (SELECT has_function_privilege(%(role)s::oid, oid, 'EXECUTE') AS callable) AS right_of
  WHERE why IS NOT NULL
)
SELECT 'EXECUTE on ' || why || ' ' || oid::regprocedure, 'through ' || way,
       CASE WHEN named AND EXISTS (SELECT FROM aclexplode(acl) AS one WHERE one.grantee = 0)
         THEN format('REVOKE EXECUTE ON ROUTINE %%s FROM PUBLIC', oid::regprocedure) END
FROM may LEFT JOIN LATERAL (
  SELECT min(pg_describe_object(u.classid, u.objid, 0)) AS way FROM pg_depend AS u
  WHERE u.refclassid = 'pg_proc'::regclass AND u.refobjid = may.oid AND CASE
    WHEN u.classid IN ('pg_operator'::regclass, 'pg_cast'::regclass, 'pg_type'::regclass) THEN callable
    WHEN u.classid = 'pg_constraint'::regclass
      THEN callable AND EXISTS (SELECT FROM pg_constraint AS k WHERE k.oid = u.objid AND k.contypid <> 0)
    WHEN u.classid = 'pg_proc'::regclass
      THEN has_function_privilege(%(role)s::oid, u.objid, 'EXECUTE')
        AND (callable OR EXISTS (SELECT FROM pg_aggregate AS a WHERE a.aggfnoid = u.objid))
    ELSE u.classid IN ('pg_amproc'::regclass, 'pg_opclass'::regclass, 'pg_opfamily'::regclass) END
) AS ways ON NOT named
WHERE named OR way IS NOT NULL
"""

# Trusted ones that came with an extension are everybody's by design; one made by hand is whatever its handler is.
_LANGUAGES: Final = """
SELECT 'USAGE on the language ' || quote_ident(lanname) || ', by hand', NULL,
       CASE WHEN EXISTS (SELECT FROM aclexplode(coalesce(lanacl, acldefault('l', lanowner))) AS one WHERE grantee = 0)
         THEN format('REVOKE USAGE ON LANGUAGE %%I FROM PUBLIC', lanname) END
FROM pg_language AS l WHERE oid >= 16384 AND lanpltrusted AND has_language_privilege(%(role)s::oid, oid, 'USAGE')
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_language'::regclass AND objid = l.oid AND deptype = 'e')
"""

# Foreign data wrappers and servers lead out of the database, tablespaces to other disks.
_PLACES: Final = """
SELECT privilege || ' on the ' || lower(kind) || ' ' || name, NULL,
       CASE WHEN EXISTS (SELECT FROM aclexplode(acl) AS one WHERE one.grantee = 0 AND one.privilege_type = privilege)
         THEN format('REVOKE %%s ON %%s %%s FROM PUBLIC', privilege, kind, name) END
FROM (
  SELECT 'FOREIGN DATA WRAPPER', 'USAGE', quote_ident(fdwname), fdwacl,
         has_foreign_data_wrapper_privilege(%(role)s::oid, oid, 'USAGE') FROM pg_foreign_data_wrapper
  UNION ALL
  SELECT 'FOREIGN SERVER', 'USAGE', quote_ident(srvname), srvacl, has_server_privilege(%(role)s::oid, oid, 'USAGE')
  FROM pg_foreign_server
  UNION ALL
  SELECT 'TABLESPACE', 'CREATE', quote_ident(spcname), spcacl, has_tablespace_privilege(%(role)s::oid, oid, 'CREATE')
  FROM pg_tablespace
) AS place (kind, privilege, name, acl, has) WHERE has
"""

# What everybody will have on things that are not there yet. Routines and types are everybody's anyway.
_DEFAULTS: Final = """
SELECT privilege_type || ' on the ' || lower(kind) || ' to be made by '
       || quote_ident(pg_get_userbyid(defaclrole)) || coalesce(' in the schema ' || quote_ident(nspname), ''), NULL,
       format('ALTER DEFAULT PRIVILEGES FOR ROLE %%I%%s REVOKE %%s ON %%s FROM PUBLIC', pg_get_userbyid(defaclrole),
         ' IN SCHEMA ' || quote_ident(nspname), privilege_type, kind)
FROM pg_default_acl
LEFT JOIN pg_namespace AS n ON n.oid = defaclnamespace
JOIN (VALUES ('r', 'TABLES'), ('S', 'SEQUENCES'), ('f', 'ROUTINES'), ('T', 'TYPES'), ('n', 'SCHEMAS'),
  ('L', 'LARGE OBJECTS')) AS known (letter, kind) ON letter = defaclobjtype::text, aclexplode(defaclacl)
WHERE grantee = 0 AND letter NOT IN ('f', 'T')
"""

_LARGE_OBJECTS: Final = """
SELECT privilege_type || ' on the large object ' || oid, NULL,
       format('REVOKE %%s ON LARGE OBJECT %%s FROM PUBLIC', privilege_type, oid)
FROM pg_largeobject_metadata, aclexplode(lomacl) WHERE grantee = 0
UNION ALL
SELECT 'every large object', 'lo_compat_privileges is on', NULL WHERE current_setting('lo_compat_privileges') = 'on'
"""

_PARAMETERS: Final = """
SELECT privilege_type || ' on the parameter ' || parname, NULL,
       format('REVOKE %%s ON PARAMETER %%s FROM PUBLIC', privilege_type, parname)
FROM pg_parameter_acl, aclexplode(paracl) WHERE grantee = 0
"""

_VIEW: Final = """
SELECT 'the view', 'is not there', NULL WHERE %(view)s = 0
UNION ALL
SELECT 'security_barrier of the view', 'is not set', NULL FROM pg_class WHERE oid = %(view)s AND NOT EXISTS (
  SELECT FROM pg_options_to_table(reloptions) WHERE option_name = 'security_barrier' AND option_value::boolean)
UNION ALL
SELECT 'the owner of the view', quote_ident(pg_get_userbyid(relowner)), NULL
FROM pg_class WHERE oid = %(view)s AND relowner <> %(owner)s
UNION ALL
SELECT 'the owner of the schema', quote_ident(pg_get_userbyid(nspowner)), NULL
FROM pg_namespace WHERE oid = %(schema)s AND nspowner <> %(owner)s
UNION ALL
SELECT 'the definition of the view, or of a view or a function behind it, or the row security of what it reads',
       'is not as it was made', NULL
FROM pg_class AS c WHERE oid = %(view)s AND starts_with(%(definition)s, '{form}') AND {digest} <> %(definition)s
UNION ALL
SELECT 'what stands behind the view', 'is not known: the record was made by an older securegw; --replace makes another',
       NULL WHERE NOT starts_with(%(definition)s, '{form}')
UNION ALL
SELECT 'a rule or a trigger on the view', quote_ident(name), NULL
FROM (SELECT rulename FROM pg_rewrite WHERE ev_class = %(view)s AND rulename <> '_RETURN'
  UNION ALL SELECT tgname FROM pg_trigger WHERE tgrelid = %(view)s) AS more (name)
UNION ALL
SELECT 'something else in the schema of the view', pg_describe_object(classid, objid, 0), NULL
FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = %(schema)s
  AND NOT (classid = 'pg_class'::regclass AND objid = %(view)s)
""".replace("{form}", FORM).replace("{digest}", DIGEST)

# A session's settings are its user's own to choose. In the words, which are JSON, a line feed is a letter: the name of
# the function may have one before it.
_CHOSEN: Final = """
SELECT DISTINCT 'what the partner sets, for ' || pg_describe_object(class, object, 0), 'it asks for settings', NULL
FROM pg_class AS c, LATERAL ({behind}) AS behind
WHERE c.oid = %(view)s AND words ~* '(current_setting|pg_settings|pg_show_all_settings)\\M'
""".replace("{behind}", BEHIND)

_QUESTIONS: Final[Mapping[str, str]] = {
    "attributes of the share's roles": _ATTRIBUTES,
    "memberships of, and in, the share's roles": _MEMBERSHIPS,
    "settings of the role": _SETTINGS,
    "grants to the role, and what it owns": _GRANTS,
    "grants to the owner of the view, and what it owns": _OWNERS,
    "rights on the view, its schema and the database": _OWN,
    "rights on schemas": _SCHEMAS,
    "rights on tables, views and sequences": _RELATIONS,
    "rights on columns": _COLUMNS,
    "functions with rights of others": _FUNCTIONS,
    "languages made by hand": _LANGUAGES,
    "foreign data wrappers, foreign servers and tablespaces": _PLACES,
    "rights to come": _DEFAULTS,
    "large objects of others": _LARGE_OBJECTS,
    "the view as it was made": _VIEW,
    "settings that decide what the view shows": _CHOSEN,
}
# Of PostgreSQL 15 and newer.
_LATER: Final[Mapping[str, str]] = {"parameters for superusers": _PARAMETERS}
_WITH_PARAMETERS: Final = 150_000
_WITH_MAINTAIN: Final = 170_000

_PRIVILEGES: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "USAGE")


async def answers(admin: Administrator, record: Record) -> dict[str, list[Excess]]:
    """Question by question, what should not be there. admin: in the share's database."""
    share = record.share
    ((role, owner, schema, view),) = await admin.rows(_OBJECTS, {"name": share.name, "owner": share.owner})
    values: dict[str, Any] = {"role": role, "owner": owner, "schema": schema, "view": view}
    values |= {"limit": CONNECTION_LIMIT, "definition": record.definition, "by": record.by}
    values |= {"settings": list(SETTINGS), "values": list(SETTINGS.values())}
    values["words"] = [*_PRIVILEGES, *(["MAINTAIN"] if admin.server_version >= _WITH_MAINTAIN else [])]
    found: dict[str, list[Excess]] = {}
    for title, question in {**_QUESTIONS, **(_LATER if admin.server_version >= _WITH_PARAMETERS else {})}.items():
        rows = await admin.rows(question, values)
        found[title] = [_excess(*row) for row in sorted(rows, key=lambda row: str(row[0]))]
    return found


def _excess(what: str, got: str | None, remedy: str | None) -> Excess:
    has = "PUBLIC has it" if remedy else "the role has it"
    return Excess(what, got or has, SQL(remedy) if remedy else None)


async def excesses(admin: Administrator, record: Record) -> tuple[Excess, ...]:
    return tuple(excess for every in (await answers(admin, record)).values() for excess in every)
