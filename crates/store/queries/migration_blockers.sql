-- outbox.migration_blockers: sessions that have a lock on a table of the outbox, for longer than a moment where that is to be seen.
SELECT /* outbox.migration_blockers */ l.pid, min(a.usename::text) AS user_name, min(a.application_name) AS application
FROM pg_locks l JOIN pg_database d ON d.oid = l.database LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.granted AND d.datname = current_database() AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.relation IN (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'outbox')
  AND coalesce(a.xact_start < clock_timestamp() - interval '2 seconds', true)
GROUP BY l.pid ORDER BY l.pid LIMIT 5
