-- outbox.erased: what was sent to an address that was erased, by its proof, newest first. Masked, whoever looks.
SELECT /* outbox.erased */ e.message_id, e.recipient_no, e.kind, e.state, e.evidence, to_char(e.enqueued_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS enqueued_at,
       to_char(e.finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS finished_at, to_char(e.erased_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS erased_at,
       e.server, outbox.mask_words(e.reply, $1) AS reply
FROM outbox.erased($1, $2) e
