-- outbox.standing: the database's time, and the relays whose heartbeat goes on, the one that came first in front. For metrics:
-- nothing is decided by it but who exports what is true of the whole outbox.
SELECT /* outbox.standing */ extract(epoch FROM clock_timestamp())::float8 AS now_s, r.incarnation, r.name, r.host, r.version
FROM (VALUES (1)) one LEFT JOIN outbox.relay r
  ON r.signed_off_at IS NULL AND r.beat_at > now() - $1 * interval '1 second'
ORDER BY r.started_at, r.incarnation LIMIT 200
