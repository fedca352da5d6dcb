-- outbox.row_security: tables of the outbox of which row level security would hide rows from this user, or, where it is FORCEd, from
-- the owner, whose rights functions have. Asked before anything else: what is hidden looks like what is not there.
SELECT /* outbox.row_security */ c.relname::text AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles o ON o.oid = c.relowner
WHERE n.nspname = 'outbox' AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relrowsecurity
  AND (row_security_active(c.oid) OR c.relforcerowsecurity AND NOT o.rolsuper AND NOT o.rolbypassrls)
ORDER BY 1
