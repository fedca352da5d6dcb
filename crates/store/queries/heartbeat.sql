-- outbox.heartbeat: advances the counter by compare-and-set. The answer names the counter that stands now: anything but
-- $2 (an earlier answer was lost) or $2 + 1 means that somebody else is this incarnation, and this process must stop.
WITH guard AS MATERIALIZED (SELECT outbox.assert_armed($3, $4) AS ok),
beat AS (
  UPDATE /* outbox.heartbeat */ outbox.relay SET beat = beat + 1, beat_at = now()
  WHERE (SELECT ok FROM guard) AND incarnation = $1 AND beat = $2 AND signed_off_at IS NULL RETURNING beat
)
SELECT coalesce((SELECT beat FROM beat), (SELECT r.beat FROM outbox.relay r WHERE r.incarnation = $1 AND r.signed_off_at IS NULL)) AS beat
