-- outbox.register_kinds: what the configuration says of kinds: the lane that their notifications get at enqueue, whether
-- suppressed addresses get them, and what becomes of ordering keys in which one of them stops or fails.
INSERT /* outbox.register_kinds */ INTO outbox.kind AS k (name, priority, route, ignores_suppression, skip_after, failed_blocks)
SELECT u.name, u.priority, u.route, u.ignores_suppression, u.skip_after_s * interval '1 second', u.failed_blocks
FROM unnest($1::text[], $2::text[], $3::text[], $4::bool[], $5::float8[], $6::bool[]) u (name, priority, route, ignores_suppression, skip_after_s, failed_blocks) ORDER BY u.name
ON CONFLICT (name) DO UPDATE SET priority = excluded.priority, route = excluded.route, ignores_suppression = excluded.ignores_suppression,
    skip_after = excluded.skip_after, failed_blocks = excluded.failed_blocks
  WHERE (k.priority, k.route, k.ignores_suppression, k.skip_after, k.failed_blocks)
    IS DISTINCT FROM (excluded.priority, excluded.route, excluded.ignores_suppression, excluded.skip_after, excluded.failed_blocks)
