-- outbox.awake: this relay looks for itself again; no producer pays for a wake-up. Asynchronous, as outbox.sleep.
WITH fit AS MATERIALIZED (
  SELECT set_config('synchronous_commit', 'off', true) IS NOT NULL AS ok
)
DELETE /* outbox.awake */ FROM outbox.sleeper s USING fit WHERE fit.ok AND s.incarnation = $1
