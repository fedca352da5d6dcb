-- outbox.doctor_detached: weeks that are no partitions, under their name or one that begins with it, and how many unfinished deliveries have their message, or
-- attempts, in one, by all that is known: in the table's week, and found nowhere else. Counted among the first 100,000 of the week. And the statements that attach it
-- again, without what has come meanwhile being in the way; or, where the week was made again, put back what is in it.
WITH apart AS (
  SELECT c.relname::text AS name, w.parent, w.parent || '_' || w.stamp AS week,
         timestamp '2000-01-01' + make_interval(years => left(w.stamp, 4)::int - 2000, months => substr(w.stamp, 5, 2)::int - 1, days => right(w.stamp, 2)::int - 1) AS starts,
         EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid) AS pending
  FROM pg_class c CROSS JOIN LATERAL (SELECT m[1] AS parent, m[2] AS stamp FROM regexp_match(c.relname, '^(message|attempt)_([0-9]{8})(?![0-9])') m) w
  WHERE c.relnamespace = to_regnamespace('outbox') AND c.relkind = 'r' AND w.stamp IS NOT NULL
    AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid AND NOT i.inhdetachpending)
), ranged AS (
  SELECT a.*, (lpad(to_hex((extract(epoch FROM a.starts) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid AS low,
         (lpad(to_hex((extract(epoch FROM a.starts + interval '7 days') * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid AS high,
         EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = to_regclass('outbox.' || a.week) AND NOT i.inhdetachpending) AS made_again,
         CASE a.parent WHEN 'message' THEN 'id' ELSE 'message_id' END AS key
  FROM apart a
)
SELECT /* outbox.doctor_detached */ r.name, r.parent,
  extract(epoch FROM r.starts + interval '7 days' - (now() AT TIME ZONE 'UTC'))::float8 AS covers_s,
  CASE r.parent
    WHEN 'message' THEN (SELECT count(*) FROM (SELECT q.message_id FROM outbox.queue q WHERE q.message_id >= r.low AND q.message_id < r.high ORDER BY q.message_id LIMIT 100000) q
                         WHERE NOT EXISTS (SELECT FROM outbox.message m WHERE m.id = q.message_id))
    -- An attempt that is under way has no row yet.
    ELSE (SELECT count(*) FROM (SELECT q.* FROM outbox.queue q WHERE q.message_id >= r.low AND q.message_id < r.high ORDER BY q.message_id LIMIT 100000) q
          WHERE q.attempt_no > CASE WHEN q.intent IS NULL THEN 0 ELSE 1 END
            AND NOT EXISTS (SELECT FROM outbox.attempt a WHERE a.message_id = q.message_id AND a.recipient_no = q.recipient_no))
  END AS unfinished,
  CASE WHEN r.pending THEN format('ALTER TABLE outbox.%I DETACH PARTITION outbox.%I FINALIZE; ', r.parent, r.name) ELSE '' END
  || CASE WHEN r.made_again THEN format('INSERT INTO outbox.%I SELECT * FROM outbox.%I ON CONFLICT DO NOTHING;', r.parent, r.name)
     ELSE CASE WHEN r.name <> r.week THEN format('ALTER TABLE outbox.%I RENAME TO %I; ', r.name, r.week) ELSE '' END
       || format('ALTER TABLE outbox.%1$I ADD CONSTRAINT its_week CHECK (%3$I >= %4$L AND %3$I < %5$L); BEGIN; LOCK TABLE outbox.%2$I; '
                 'WITH moved AS (DELETE FROM outbox.%2$I WHERE %3$I >= %4$L AND %3$I < %5$L RETURNING *) INSERT INTO outbox.%1$I SELECT * FROM moved; '
                 'ALTER TABLE outbox.%6$I ATTACH PARTITION outbox.%1$I FOR VALUES FROM (%4$L) TO (%5$L); COMMIT; ALTER TABLE outbox.%1$I DROP CONSTRAINT its_week;',
                 r.week, r.parent || '_default', r.key, r.low, r.high, r.parent) END AS remedy
FROM ranged r ORDER BY r.name
