-- outbox.guard: notes claimed deliveries whose kinds have a guard_window, and stops what repeats another, by their leases.
-- Asynchronous: an intent is written later, and what is flushed for it is flushed for this; what is lost before is found again.
WITH guard AS MATERIALIZED (
  SELECT set_config('synchronous_commit', 'off', true) IS NOT NULL AND outbox.assert_armed($1, $2) AS ok
)
SELECT /* outbox.guard */ b.message_id, b.recipient_no, b.verdict, b.reason
FROM guard g CROSS JOIN LATERAL outbox.guard_batch($3, $4, $5) b
WHERE g.ok
