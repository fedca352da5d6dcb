-- outbox.relay_list: relays that have not signed off and were heard of today, for people. Ages are the database's; nothing
-- is decided by them.
SELECT /* outbox.relay_list */ incarnation, name, host, pid, version, to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS started_at, to_char(beat_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS beat_at,
       extract(epoch FROM now() - beat_at)::float8 AS beat_age_s,
       -- A database that is behind has no such column.
       (to_json(relay) -> 'route_states')::text AS route_states, (to_json(relay) -> 'routes')::text AS routes
FROM outbox.relay WHERE signed_off_at IS NULL AND beat_at > now() - interval '1 day'
ORDER BY relay.beat_at DESC LIMIT 100
