-- outbox.stop: parks those of the claimed deliveries that are paused and ends those that are suppressed, by their leases,
-- before anything is done for them. Without their route ($6 NULL) only kinds and tenants are compared. Asynchronous: what is
-- lost in a crash is found again.
WITH guard AS MATERIALIZED (
  SELECT set_config('synchronous_commit', 'off', true) IS NOT NULL AND outbox.assert_armed($1, $2) AS ok
)
SELECT /* outbox.stop */ s.message_id, s.recipient_no, s.done, s.verdict
FROM guard g CROSS JOIN LATERAL outbox.stop_batch($3, $4, $5, $5, array_fill($6::text, ARRAY[cardinality($3::uuid[])])) s
WHERE g.ok
