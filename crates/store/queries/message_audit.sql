-- outbox.message_audit: what people and policies have decided about one message.
SELECT /* outbox.message_audit */ to_char(u.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS at, u.actor::text AS actor, u.application_name, u.action, u.recipient_no::int4 AS recipient_no, u.token,
       outbox.mask_text(u.reason) AS reason, u.before, u.after
FROM outbox.audit u
WHERE u.message_id = $1 AND ($2::int4 IS NULL OR u.recipient_no IS NULL OR u.recipient_no = $2)
ORDER BY u.id
