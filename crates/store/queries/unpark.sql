-- outbox.unpark: makes due again what was parked for pauses that have ended, at most $3 at once.
WITH guard AS MATERIALIZED (
  SELECT set_config('synchronous_commit', 'off', true) IS NOT NULL AND outbox.assert_armed($1, $2) AS ok
)
SELECT /* outbox.unpark */ u.freed FROM guard g CROSS JOIN LATERAL outbox.unpark($3) AS u (freed) WHERE g.ok
