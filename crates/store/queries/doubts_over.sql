-- outbox.doubts_over: doubts this reaper has watched for their whole grace by its own monotonic clock. Repeatable.
WITH guard AS MATERIALIZED (
  SELECT set_config('synchronous_commit', outbox.durable_commit(), true) IS NOT NULL AND outbox.assert_armed($1, $2) AS ok
)
SELECT /* outbox.doubts_over */ outbox.doubts_over($3, $4, $5, $6) AS noted FROM guard WHERE guard.ok
