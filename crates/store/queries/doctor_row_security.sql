-- outbox.doctor_row_security: tables of the outbox with row level security, and whether it hides rows: from this user, from the owner whose
-- rights functions have (FORCE), or from some user that is a relay's. A partition is read through its table, whose own it has then.
SELECT /* outbox.doctor_row_security */ c.relname::text AS name,
       row_security_active(c.oid) OR c.relforcerowsecurity AND NOT o.rolsuper AND NOT o.rolbypassrls AS hides,
       EXISTS (SELECT FROM pg_roles r WHERE r.rolcanlogin AND NOT r.rolsuper AND NOT r.rolbypassrls AND NOT pg_has_role(r.oid, c.relowner, 'USAGE')
                 AND EXISTS (SELECT FROM pg_roles g WHERE g.rolname = 'outbox_relay' AND pg_has_role(r.oid, g.oid, 'MEMBER'))) AS hides_from_relays
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles o ON o.oid = c.relowner
WHERE n.nspname = 'outbox' AND c.relkind IN ('r', 'p') AND c.relrowsecurity AND (NOT c.relispartition OR c.relforcerowsecurity)
ORDER BY 1
