-- outbox.relays: the heartbeat counters an observer watches with its own monotonic clock.
SELECT /* outbox.relays */ incarnation, beat, signed_off_at IS NOT NULL AS signed_off,
       extract(epoch FROM doubt_grace)::float8 AS doubt_grace_s
FROM outbox.relay WHERE signed_off_at IS NULL OR signed_off_at > now() - interval '1 hour'
