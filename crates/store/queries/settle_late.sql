-- outbox.settle_late: one attempt whose delivery has moved on; waits for a locked row, but not for ever.
WITH guard AS MATERIALIZED (
  SELECT set_config('synchronous_commit', outbox.durable_commit(), true) IS NOT NULL
     AND set_config('lock_timeout', '5s', true) IS NOT NULL AND outbox.assert_armed($1, $2) AS ok
)
SELECT /* outbox.settle_late */
  outbox.settle_late($3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                     clock_timestamp() - $18 * interval '1 second', $19) AS answer
FROM guard WHERE guard.ok
