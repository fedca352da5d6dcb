-- outbox.message_attempts: every finished attempt of one message, in the order of their ends, masked.
SELECT /* outbox.message_attempts */ a.recipient_no, a.token, a.attempt_no, a.outcome, a.phase, a.cause, a.code, a.enhanced,
       outbox.mask_words(a.reply, a.recipient) AS reply, outbox.mask_words(a.detail, a.recipient) AS detail, a.route, a.server, a.relay_name, a.relay_host,
       a.relay_incarnation, to_char(a.started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS started_at, to_char(a.finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS finished_at,
       extract(epoch FROM a.took)::float8 AS took_s, a.bytes
FROM outbox.attempts a
WHERE a.message_id = $1 AND ($2::int4 IS NULL OR a.recipient_no = $2)
ORDER BY a.recipient_no, a.finished_at
