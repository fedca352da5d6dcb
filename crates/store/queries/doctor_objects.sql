-- outbox.doctor_objects: what there is in the schemas, and what our roles and PUBLIC may do with it, a line each: compared with migrations/objects.txt,
-- which a test writes by this very query. Without quotes: with
-- quote_all_identifiers types have them, and a pooler takes no option against it. Weeks come and go, and are lines only where somebody was granted something.
WITH place AS (
  SELECT n.oid, n.nspname, n.nspowner, n.nspacl FROM pg_namespace n WHERE n.nspname IN ('outbox', 'outbox_test')
), object AS (
  SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' ELSE 'table' END AS kind, p.nspname || '.' || c.relname AS name, NOT c.relispartition AS lasts,
         coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)) AS acl
  FROM pg_class c JOIN place p ON p.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'S')
  UNION ALL
  SELECT 'function', p.nspname || '.' || f.proname || '(' || replace(replace(oidvectortypes(f.proargtypes), '"', ''), 'outbox.', '') || ')', true, coalesce(f.proacl, acldefault('f', f.proowner))
  FROM pg_proc f JOIN place p ON p.oid = f.pronamespace
  UNION ALL
  SELECT 'schema', p.nspname, true, coalesce(p.nspacl, acldefault('n', p.nspowner)) FROM place p
  UNION ALL
  SELECT 'column', p.nspname || '.' || c.relname || '.' || a.attname, false, a.attacl
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN place p ON p.oid = c.relnamespace WHERE a.attacl IS NOT NULL
), line AS (
  SELECT o.kind || ' ' || o.name AS line FROM object o WHERE o.lasts
  UNION ALL
  SELECT 'trigger ' || t.tgname || ' on ' || p.nspname || '.' || c.relname
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN place p ON p.oid = c.relnamespace WHERE NOT t.tgisinternal AND t.tgparentid = 0
  UNION ALL
  SELECT 'grant ' || CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE r.rolname::text END || ' ' || a.privilege_type || ' ' || o.kind || ' ' || o.name
  FROM object o CROSS JOIN LATERAL aclexplode(o.acl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
  WHERE a.grantee = 0 OR r.rolname IN ('outbox_producer', 'outbox_relay', 'outbox_operator', 'outbox_viewer', 'outbox_monitor')
  UNION ALL
  SELECT 'role ' || r.rolname FROM pg_roles r WHERE r.rolname IN ('outbox_producer', 'outbox_relay', 'outbox_operator', 'outbox_viewer', 'outbox_monitor')
)
SELECT DISTINCT /* outbox.doctor_objects */ line COLLATE "C" AS line FROM line ORDER BY 1
