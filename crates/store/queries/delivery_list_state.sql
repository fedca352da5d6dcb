-- outbox.delivery_list_state: deliveries in one state, newest first, for people; masked as in outbox.delivery_list. The state's
-- own index says which, however much has come since.
SELECT /* outbox.delivery_list_state */ d.message_id, d.recipient_no, outbox.mask_address(d.recipient) AS recipient, d.kind, d.state,
       outbox.mask_words(d.reason, d.recipient) AS reason, d.tenant, d.route, d.priority, to_char(d.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS created_at, to_char(d.due_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS due_at,
       d.due_at > now() AS due_later, d.attempts, d.intents, d.open_doubts, d.resends, d.evidence, to_char(d.finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS finished_at,
       to_char(d.not_before AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS not_before, to_char(d.expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS expires_at, d.on_doubt, d.application_name,
       d.session_role::text AS session_role, d.txid::text AS txid, outbox.is_content_gone(d.message_id) AS content_gone
FROM outbox.find_state($1, $2, least($3::int8, 2147483647)::int) f CROSS JOIN LATERAL (
  SELECT x.* FROM outbox.deliveries x WHERE x.message_id = f.message_id AND x.recipient_no = f.recipient_no OFFSET 0) d
ORDER BY d.message_id DESC, d.recipient_no LIMIT $3
