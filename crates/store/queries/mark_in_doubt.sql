-- outbox.mark_in_doubt: intents of dead, unknown or signed-off incarnations, and those older than any attempt can live.
WITH guard AS MATERIALIZED (
  SELECT set_config('synchronous_commit', outbox.durable_commit(), true) IS NOT NULL AND outbox.assert_armed($1, $2) AS ok
)
SELECT /* outbox.mark_in_doubt */ x.message_id, x.recipient_no, x.token, x.relay, q.pinned_route AS route
FROM guard CROSS JOIN LATERAL outbox.mark_in_doubt(CASE WHEN guard.ok THEN $3::uuid[] END, $4 * interval '1 second') x
LEFT JOIN outbox.queue q ON q.message_id = x.message_id AND q.recipient_no = x.recipient_no
