-- outbox.resend_same_key: resolves a doubt by sending again with the same key, if its upstream and window still are what
-- the relay thinks. No row when the delivery is locked by somebody or gone: the reaper comes again.
WITH guard AS MATERIALIZED (
  SELECT set_config('synchronous_commit', outbox.durable_commit(), true) IS NOT NULL AND outbox.assert_armed($1, $2) AS ok
),
free AS MATERIALIZED (
  SELECT q.message_id, q.recipient_no FROM outbox.queue q
  WHERE (SELECT ok FROM guard) AND q.message_id = $3 AND q.recipient_no = $4 FOR UPDATE OF q SKIP LOCKED
)
SELECT /* outbox.resend_same_key */ outbox.resend_same_key(f.message_id, f.recipient_no, $5, $6, $7, $8 * interval '1 second', $9) AS answer FROM free f
