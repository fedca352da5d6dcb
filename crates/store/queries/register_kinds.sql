-- outbox.register_kinds: what the configuration says of kinds, so that their notifications get their lane at enqueue.
INSERT /* outbox.register_kinds */ INTO outbox.kind AS k (name, priority, route)
SELECT u.name, u.priority, u.route FROM unnest($1::text[], $2::text[], $3::text[]) u (name, priority, route) ORDER BY u.name
ON CONFLICT (name) DO UPDATE SET priority = excluded.priority, route = excluded.route
  WHERE (k.priority, k.route) IS DISTINCT FROM (excluded.priority, excluded.route)
