"""What a share's view is, as one digest: whatever changes what it shows, but for the rows, changes that.

Owns the question. It reads catalogs alone: nothing of the view is planned or executed.
"""

from __future__ import annotations

from typing import Final

from gateway.share.administrator import Administrator

# An expression about c, a row of pg_class: SHA-256, in hexadecimal, of the view's definition, and of the row security
# that holds for what it reads, also through other views, each of which reads with the rights of its own owner.
DIGEST: Final = """encode(sha256(convert_to(pg_get_viewdef(c.oid) || coalesce((
  WITH RECURSIVE edge AS (
    SELECT DISTINCT r.ev_class AS view, d.refobjid AS relation
    FROM pg_rewrite AS r JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
    WHERE r.rulename = '_RETURN' AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
  ), behind AS (
    SELECT relation, c.relowner AS reader FROM edge WHERE view = c.oid
    UNION SELECT edge.relation, v.relowner FROM behind JOIN pg_class AS v ON v.oid = behind.relation AND v.relkind = 'v'
      JOIN edge ON edge.view = v.oid
  )
  SELECT string_agg(concat_ws(' ', relation::regclass, reader::regrole, relrowsecurity, relforcerowsecurity, (
      SELECT string_agg(concat_ws(' ', quote_ident(polname), polpermissive, pg_get_expr(polqual, polrelid)), E'\n'
        ORDER BY polname)
      FROM pg_policy WHERE polrelid = relation AND polcmd IN ('r', '*') AND EXISTS (SELECT FROM unnest(polroles) AS one
        WHERE CASE one WHEN 0 THEN true ELSE pg_has_role(reader, one, 'USAGE') END))),
    E'\n' ORDER BY relation::regclass::text, reader::regrole::text)
  FROM behind JOIN pg_class AS t ON t.oid = relation
), ''), 'UTF8')), 'hex')"""

_DIGEST_OF: Final = """
SELECT {digest} FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(name)s AND c.relname = %(name)s
""".replace("{digest}", DIGEST)


async def digest(admin: Administrator, name: str) -> str:
    """Of the view of the share of that name, which is there."""
    ((found,),) = await admin.rows(_DIGEST_OF, {"name": name})
    return str(found)
