-- outbox.health: one row per state, for people. No addresses, costs the same on any queue.
SELECT /* outbox.health */ state, deliveries, exact, to_char(oldest AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS oldest, extract(epoch FROM now() - oldest)::float8 AS oldest_age_s,
       to_char(newest AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS newest
FROM outbox.queue_health
