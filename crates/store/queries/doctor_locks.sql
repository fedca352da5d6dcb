-- outbox.doctor_locks: who holds an advisory lock of the outbox: sessions that may do nothing that takes it, and others that have been at it
-- for longer than so many seconds ($1; how long is seen of one's own sessions, or with pg_read_all_stats).
WITH ours (what, key) AS (VALUES
  ('upkeep', hashtextextended('hapax.maintain', 0)), ('contents', hashtextextended('hapax.contents', 0)),
  ('erasing', hashtextextended('hapax.erase', 0)), ('migrations', 448311353720))
SELECT /* outbox.doctor_locks */ h.what, h.pid, h.user_name, h.application, h.is_stranger, h.held_s
FROM (
  SELECT o.what, l.pid, a.usename::text AS user_name, a.application_name AS application,
         extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.state_change))::float8 AS held_s,
         a.usesysid IS NOT NULL AND NOT pg_has_role(a.usesysid, n.nspowner, 'MEMBER')
           AND NOT EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = n.oid AND p.proname IN ('maintain', 'remove_contents', 'erase')
                             AND has_function_privilege(a.usesysid, p.oid, 'EXECUTE')) AS is_stranger
  FROM ours o
  JOIN pg_locks l ON l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND (l.classid::int8 << 32) + l.objid::int8 = o.key
  JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
  JOIN pg_namespace n ON n.nspname = 'outbox'
  LEFT JOIN pg_stat_activity a ON a.pid = l.pid) h
WHERE h.is_stranger OR h.held_s > $1 OR h.pid IS NULL
ORDER BY h.what, h.pid
