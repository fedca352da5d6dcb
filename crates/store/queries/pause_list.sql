-- outbox.pause_list: what is paused, for people.
SELECT /* outbox.pause_list */ p.what, p.name, p.paused_by::text AS paused_by, outbox.mask_text(p.reason) AS reason,
       to_char(p.since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS since, extract(epoch FROM now() - p.since)::float8 AS age_s,
       to_char(p.until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS until
FROM outbox.pauses p ORDER BY p.since, p.what, p.name
