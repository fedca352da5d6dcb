-- outbox.sleep: this relay wants to be woken, for $2 seconds from now; what dead relays have left behind goes. Answers nothing
-- where transactions may be prepared: one that has notified cannot be, and no producer may fail for a wake-up.
-- Asynchronous: a registration that is lost in a crash is only a slower poll.
WITH fit AS MATERIALIZED (
  SELECT set_config('synchronous_commit', 'off', true) IS NOT NULL AND current_setting('max_prepared_transactions') = '0' AS ok
),
gone AS (
  DELETE FROM outbox.sleeper s USING fit WHERE fit.ok AND s.until < now() AND s.incarnation <> $1
)
INSERT /* outbox.sleep */ INTO outbox.sleeper (incarnation, until)
SELECT $1, now() + $2 * interval '1 second' FROM fit WHERE fit.ok
ON CONFLICT (incarnation) DO UPDATE SET until = excluded.until
RETURNING true AS registered
