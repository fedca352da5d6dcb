-- outbox.migration_lock: who holds the advisory lock of migrations (its key is "hapax" in ASCII). A prepared transaction has no session.
SELECT /* outbox.migration_lock */ l.pid, a.usename::text AS user_name, a.application_name AS application
FROM pg_locks l JOIN pg_database d ON d.oid = l.database LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND d.datname = current_database()
  AND (l.classid::int8 << 32) + l.objid::int8 = 448311353720
ORDER BY l.pid
