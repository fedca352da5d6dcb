-- outbox.register_kinds: what the configuration says of kinds, so that their notifications get their lane at enqueue, and
-- whether suppressed addresses get them, too.
INSERT /* outbox.register_kinds */ INTO outbox.kind AS k (name, priority, route, ignores_suppression)
SELECT u.name, u.priority, u.route, u.ignores_suppression
FROM unnest($1::text[], $2::text[], $3::text[], $4::bool[]) u (name, priority, route, ignores_suppression) ORDER BY u.name
ON CONFLICT (name) DO UPDATE SET priority = excluded.priority, route = excluded.route, ignores_suppression = excluded.ignores_suppression
  WHERE (k.priority, k.route, k.ignores_suppression) IS DISTINCT FROM (excluded.priority, excluded.route, excluded.ignores_suppression)
