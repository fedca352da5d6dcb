-- outbox.doctor_tables: the big tables of the outbox: dead rows, autovacuum, options. From the catalogue and the
-- statistics, so that it costs the same on any queue and needs no privilege on the tables.
SELECT /* outbox.doctor_tables */ c.relname::text AS name, c.reltuples::float8 AS estimate, pg_stat_get_live_tuples(c.oid) AS live, pg_stat_get_dead_tuples(c.oid) AS dead,
       extract(epoch FROM now() - pg_stat_get_last_autovacuum_time(c.oid))::float8 AS vacuumed_ago_s,
       coalesce(c.reloptions, '{}')::text[] AS options, c.relname LIKE '%\_default' AS is_default,
       -- A partition is named after the Monday it begins with.
       CASE WHEN c.relname ~ '^(message|attempt)_[0-9]{8}$'
            THEN extract(epoch FROM to_date(right(c.relname, 8), 'YYYYMMDD') + 7 - (now() AT TIME ZONE 'UTC'))::float8 END AS covers_s,
       EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid AND NOT i.inhdetachpending) AS is_attached,
       CASE WHEN c.relname LIKE '%\_default' THEN pg_relation_size(c.oid) ELSE 0 END AS bytes
FROM pg_class c
WHERE c.relnamespace = 'outbox'::regnamespace AND c.relkind = 'r'
ORDER BY c.relname
