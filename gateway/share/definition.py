"""What a share's view is, as one digest: whatever changes what it shows, but for the rows, changes that.

Owns the question: which views, policies and functions stand behind the view, and how each of them is told. It reads
catalogs alone: nothing of the view is planned or executed.

PostgreSQL knows what a rule, a policy or a body in SQL's own words depends on. Of a body that is a text it knows
nothing: there every function counts whose name is a word of the text, in whatever case, and no more can be seen. Of a
foreign table it is not seen as whom the other server is asked: a user mapping may have a password, and is never read.
"""

from __future__ import annotations

from typing import Final

from gateway.share.administrator import Administrator

# The form of the digest; a record says it, so that one made in another is not taken for a change.
FORM: Final = "2:"

# A query about c, a row of pg_class that is a share's view: rows of (class, object, words), of that view and all that
# stands behind it. Each relation is read with the rights of somebody: of a view's owner, or with security_invoker, and
# by functions, of whoever reads the view (manual, "Rules and Privileges"). Functions are called by the partner.
BEHIND: Final = """
  WITH RECURSIVE part (class, object, reader, partner) AS (
    SELECT 'pg_class'::regclass, c.oid, one.oid, one.oid
    FROM (SELECT coalesce((SELECT oid FROM pg_roles WHERE rolname = c.relname), 0::oid) AS oid) AS one
    UNION
    SELECT next.*, partner FROM part, LATERAL (
      SELECT 'pg_rewrite'::regclass, r.oid, CASE WHEN EXISTS (SELECT FROM pg_options_to_table(v.reloptions)
        WHERE option_name = 'security_invoker' AND option_value::boolean) THEN reader ELSE v.relowner END
      FROM pg_class AS v JOIN pg_rewrite AS r ON r.ev_class = v.oid AND r.rulename = '_RETURN'
      WHERE class = 'pg_class'::regclass AND v.oid = object
      UNION ALL
      SELECT 'pg_policy'::regclass, p.oid, reader
      FROM pg_policy AS p JOIN pg_class AS t ON t.oid = p.polrelid AND t.relrowsecurity
      WHERE class = 'pg_class'::regclass AND p.polrelid = object AND p.polcmd IN ('r', '*')
        AND EXISTS (SELECT FROM unnest(p.polroles) AS one
          WHERE CASE one WHEN 0 THEN true ELSE pg_has_role(reader, one, 'USAGE') END)
      UNION ALL
      SELECT 'pg_attrdef'::regclass, f.oid, CASE WHEN class = 'pg_proc'::regclass
        THEN (SELECT CASE WHEN prosecdef THEN proowner ELSE reader END FROM pg_proc WHERE oid = object) ELSE reader END
      FROM pg_depend AS d JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attgenerated = 'v'
        JOIN pg_attrdef AS f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
      WHERE d.classid = class AND d.objid = object AND d.refclassid = 'pg_class'::regclass AND (
        d.refobjsubid = a.attnum OR CASE class
          WHEN 'pg_rewrite'::regclass THEN (SELECT ev_action::text FROM pg_rewrite WHERE oid = object)
          WHEN 'pg_policy'::regclass THEN (SELECT polqual::text FROM pg_policy WHERE oid = object)
          WHEN 'pg_proc'::regclass THEN (SELECT to_jsonb(p) ->> 'prosqlbody' FROM pg_proc AS p WHERE oid = object)
          END ~ ':varattno 0 ')
      UNION ALL
      SELECT 'pg_constraint'::regclass, oid, reader
      FROM pg_constraint WHERE class = 'pg_type'::regclass AND contypid = object
      UNION ALL
      SELECT d.refclassid::regclass, d.refobjid, CASE
        WHEN d.classid = 'pg_proc'::regclass THEN (SELECT CASE WHEN prosecdef THEN proowner ELSE reader END
          FROM pg_proc WHERE oid = object)
        WHEN d.refclassid = 'pg_class'::regclass THEN reader ELSE partner END
      FROM pg_depend AS d WHERE d.classid = class AND d.objid = object AND (
        d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_cast'::regclass, 'pg_type'::regclass)
        OR (d.refclassid = 'pg_class'::regclass AND class <> 'pg_type'::regclass)) AND class <> 'pg_class'::regclass
      UNION ALL
      SELECT 'pg_proc'::regclass, named.oid, CASE WHEN p.prosecdef THEN p.proowner ELSE reader END
      FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang AND l.lanname NOT IN ('c', 'internal'),
        regexp_matches(p.prosrc, '\\w+', 'g') AS word
        JOIN pg_proc AS named ON named.proname IN (word[1], lower(word[1]))
      WHERE class = 'pg_proc'::regclass AND p.oid = object AND named.oid >= 16384
    ) AS next
  )
  SELECT DISTINCT class, object, CASE class
    WHEN 'pg_class'::regclass THEN (SELECT jsonb_build_array(t.oid::regclass, reader::regrole,
        CASE WHEN t.relkind IN ('v', 'm') THEN pg_get_viewdef(t.oid) END,
        (SELECT jsonb_build_array(ftoptions, srvname, srvoptions, (
            SELECT jsonb_agg(jsonb_build_array(attname, attfdwoptions) ORDER BY attnum)
            FROM pg_attribute WHERE attrelid = t.oid AND attfdwoptions IS NOT NULL AND NOT attisdropped))
          FROM pg_foreign_table JOIN pg_foreign_server AS s ON s.oid = ftserver WHERE ftrelid = t.oid),
        t.relrowsecurity, CASE WHEN t.relrowsecurity
        THEN jsonb_build_array(t.relforcerowsecurity, pg_has_role(reader, t.relowner, 'USAGE'),
          (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE oid = reader)) END)
      FROM pg_class AS t WHERE t.oid = object)
    WHEN 'pg_policy'::regclass THEN (SELECT jsonb_build_array(polrelid::regclass, reader::regrole, polname,
        polpermissive, pg_get_expr(polqual, polrelid)) FROM pg_policy WHERE oid = object)
    WHEN 'pg_attrdef'::regclass THEN (SELECT jsonb_build_array(adrelid::regclass, adnum, pg_get_expr(adbin, adrelid))
      FROM pg_attrdef WHERE oid = object)
    WHEN 'pg_constraint'::regclass THEN (SELECT jsonb_build_array(contypid::regtype, conname,
        pg_get_constraintdef(oid)) FROM pg_constraint WHERE oid = object)
    WHEN 'pg_proc'::regclass THEN (SELECT jsonb_build_array(p.oid::regprocedure,
        CASE WHEN p.prosecdef THEN p.proowner::regrole END, CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid)
        END, aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn, aggmtransfn, aggminvtransfn, aggmfinalfn,
        agginitval, aggminitval)
      FROM pg_proc AS p LEFT JOIN pg_aggregate ON aggfnoid = p.oid WHERE p.oid = object)
    END::text AS words
  FROM part
"""

# An expression about the same: the form, and SHA-256, in hexadecimal, of all the words.
DIGEST: Final = """'{form}' || encode(sha256(convert_to((
  SELECT string_agg(words, E'\n' ORDER BY words COLLATE "C") FROM ({behind}) AS every
), 'UTF8')), 'hex')""".replace("{form}", FORM).replace("{behind}", BEHIND)

_DIGEST_OF: Final = """
SELECT {digest} FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(name)s AND c.relname = %(name)s
""".replace("{digest}", DIGEST)


async def digest(admin: Administrator, name: str) -> str:
    """Of the view of the share of that name, which is there."""
    ((found,),) = await admin.rows(_DIGEST_OF, {"name": name})
    return str(found)
