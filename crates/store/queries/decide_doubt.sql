-- outbox.decide_doubt: a policy's decision, named by the token of the doubt it looked at. No row when the delivery is
-- locked by somebody or gone: the reaper must not wait for an application, it comes again.
WITH guard AS MATERIALIZED (
  SELECT set_config('synchronous_commit', outbox.durable_commit(), true) IS NOT NULL AND outbox.assert_armed($1, $2) AS ok
),
free AS MATERIALIZED (
  SELECT q.message_id, q.recipient_no FROM outbox.queue q
  WHERE (SELECT ok FROM guard) AND q.message_id = $3 AND q.recipient_no = $4 FOR UPDATE OF q SKIP LOCKED
)
SELECT /* outbox.decide_doubt */ outbox.resolve_doubt(f.message_id, f.recipient_no, $5, $6, $7, true, 'policy') AS answer FROM free f
