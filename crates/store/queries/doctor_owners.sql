-- outbox.doctor_owners: what does not belong to the role that most of the functions belong to, whose rights they have, and what gives it back. A
-- sequence of a column goes with its table. The first row is that role's own, and has no object.
WITH rightful AS (
  SELECT f.proowner AS owner FROM pg_proc f WHERE f.pronamespace = 'outbox'::regnamespace GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1
), object AS (
  SELECT 0 AS no, 'SCHEMA' AS kind, 'outbox' AS name, n.nspowner AS owner FROM pg_namespace n WHERE n.nspname = 'outbox'
  UNION ALL
  SELECT 1, CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, format('outbox.%I', c.relname), c.relowner FROM pg_class c
  WHERE c.relnamespace = 'outbox'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
    AND NOT (c.relkind = 'S' AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')))
  UNION ALL
  SELECT 2, 'FUNCTION', format('outbox.%I(%s)', f.proname, oidvectortypes(f.proargtypes)), f.proowner FROM pg_proc f WHERE f.pronamespace = 'outbox'::regnamespace
)
SELECT /* outbox.doctor_owners */ '' AS what, r.rolname::text AS owner, r.rolname::text AS rightful, r.rolsuper AS superuser, '' AS remedy, -1 AS no
FROM rightful w JOIN pg_roles r ON r.oid = w.owner
UNION ALL
SELECT lower(o.kind) || ' ' || o.name, h.rolname, r.rolname, r.rolsuper, format('ALTER %s %s OWNER TO %I;', o.kind, o.name, r.rolname), o.no
FROM object o CROSS JOIN rightful w JOIN pg_roles r ON r.oid = w.owner JOIN pg_roles h ON h.oid = o.owner
WHERE o.owner <> w.owner
ORDER BY 6, 1
