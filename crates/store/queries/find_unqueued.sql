-- outbox.find_unqueued: messages that have no delivery, neither queued nor ended: of an address, one by its id, or all of the last days; newest first.
SELECT /* outbox.find_unqueued */ u.message_id, u.kind, to_char(u.enqueued_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS enqueued_at, u.attempts,
       count(*) OVER () AS how_many
FROM outbox.find_unqueued($1, $2) u ORDER BY u.message_id DESC LIMIT 20
