-- outbox.history_since: when the oldest message that is kept was enqueued.
SELECT /* outbox.history_since */ to_char(outbox.history_since() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS at
