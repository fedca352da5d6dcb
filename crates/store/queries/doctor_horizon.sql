-- outbox.doctor_horizon: what keeps dead rows from being cleaned: old transactions, prepared ones, replication slots. Ages
-- are the database's; of sessions of other users only pg_read_all_stats sees when they began ($1: older than so many
-- seconds). No query is read: it could hold data.
SELECT /* outbox.doctor_horizon */ 'transaction' AS kind, format('pid %s, user %s, application %L, %s', a.pid, a.usename, a.application_name, a.state) AS what,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS age_s, a.pid
FROM pg_stat_activity a
WHERE a.xact_start IS NOT NULL AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend' AND a.application_name <> 'hapax doctor'
  AND extract(epoch FROM clock_timestamp() - a.xact_start) >= $1
UNION ALL
SELECT 'prepared', format('%L of %s in database %s', p.gid, p.owner, p.database), extract(epoch FROM clock_timestamp() - p.prepared)::float8, 0
FROM pg_prepared_xacts p WHERE extract(epoch FROM clock_timestamp() - p.prepared) >= $1
UNION ALL
SELECT 'slot', format('%s (%s%s)', s.slot_name, s.slot_type, CASE WHEN s.active THEN '' ELSE ', inactive' END),
       -- In transactions, not seconds: nothing says when it began.
       greatest(age(s.xmin), age(s.catalog_xmin))::float8, 0
FROM pg_replication_slots s WHERE NOT s.active OR s.xmin IS NOT NULL
ORDER BY 1, 3 DESC
