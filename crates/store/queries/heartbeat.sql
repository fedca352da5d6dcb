-- outbox.heartbeat: advances the counter by compare-and-set. The answer names the counter that stands now: anything but
-- $2 + 1 means that somebody else is this incarnation, and this process must stop. It is read under lock: a repetition may
-- wait for its own orphan, and must see what that has committed, not its own older snapshot. Durable: a counter that falls
-- back in a crash of the server would look like somebody else.
WITH guard AS MATERIALIZED (
  SELECT set_config('synchronous_commit', outbox.durable_commit(), true) IS NOT NULL AND outbox.assert_armed($3, $4) AS ok
),
seen AS MATERIALIZED (
  SELECT r.beat FROM outbox.relay r
  WHERE (SELECT ok FROM guard) AND r.incarnation = $1 AND r.signed_off_at IS NULL FOR UPDATE
),
beat AS (
  UPDATE /* outbox.heartbeat */ outbox.relay r SET beat = r.beat + 1, beat_at = now()
  FROM seen s WHERE r.incarnation = $1 AND s.beat = $2 AND r.beat = $2 RETURNING r.beat
)
-- Whose counter goes on is where it was, whatever the address: that is recorded.
SELECT coalesce((SELECT beat FROM beat), (SELECT beat FROM seen)) AS beat, (SELECT outbox.note_address('heartbeat') FROM beat) AS moved,
       outbox.addresses() AS met_at
