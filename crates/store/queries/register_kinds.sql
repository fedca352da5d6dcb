-- outbox.register_kinds: what the configuration says of kinds: the lane that their notifications get at enqueue, whether
-- suppressed addresses get them, what becomes of ordering keys in which one of them stops or fails, of what is enqueued
-- twice, and what goes in digests.
INSERT /* outbox.register_kinds */ INTO outbox.kind AS k
  (name, priority, route, ignores_suppression, skip_after, failed_blocks, guard_window, on_duplicate, collect, collect_max, collect_as)
SELECT u.name, u.priority, u.route, u.ignores_suppression, u.skip_after_s * interval '1 second', u.failed_blocks, u.guard_window_s * interval '1 second', u.on_duplicate,
       u.collect_s * interval '1 second', coalesce(u.collect_max, 50), u.collect_as
FROM unnest($1::text[], $2::text[], $3::text[], $4::bool[], $5::float8[], $6::bool[], $7::float8[], $8::text[], $9::float8[], $10::int[], $11::text[])
  u (name, priority, route, ignores_suppression, skip_after_s, failed_blocks, guard_window_s, on_duplicate, collect_s, collect_max, collect_as) ORDER BY u.name
ON CONFLICT (name) DO UPDATE SET priority = excluded.priority, route = excluded.route, ignores_suppression = excluded.ignores_suppression,
    skip_after = excluded.skip_after, failed_blocks = excluded.failed_blocks, guard_window = excluded.guard_window, on_duplicate = excluded.on_duplicate,
    collect = excluded.collect, collect_max = excluded.collect_max, collect_as = excluded.collect_as
  WHERE (k.priority, k.route, k.ignores_suppression, k.skip_after, k.failed_blocks, k.guard_window, k.on_duplicate, k.collect, k.collect_max, k.collect_as)
    IS DISTINCT FROM (excluded.priority, excluded.route, excluded.ignores_suppression, excluded.skip_after, excluded.failed_blocks, excluded.guard_window,
                      excluded.on_duplicate, excluded.collect, excluded.collect_max, excluded.collect_as)
