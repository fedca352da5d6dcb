-- outbox.decide_doubt: a policy's decision, named by the token of the doubt it looked at.
WITH guard AS MATERIALIZED (
  SELECT set_config('synchronous_commit', outbox.durable_commit(), true) IS NOT NULL AND outbox.assert_armed($1, $2) AS ok
)
SELECT /* outbox.decide_doubt */ outbox.resolve_doubt($3, $4, $5, $6, $7, true, 'policy') AS answer FROM guard WHERE guard.ok
