-- outbox.register_routes: names get a group of lanes once and keep it; the host is the one that was configured last.
WITH given AS MATERIALIZED (
  SELECT u.name, u.host FROM unnest($1::text[], $2::text[]) u(name, host)
),
known AS (
  INSERT INTO outbox.route (name, host, host_since) SELECT g.name, g.host, now() FROM given g
  WHERE NOT EXISTS (SELECT FROM outbox.route r WHERE r.name = g.name)
  ON CONFLICT (name) DO NOTHING RETURNING name, group_no
),
moved AS (
  UPDATE outbox.route r SET host = g.host, host_since = now() FROM given g
  WHERE r.name = g.name AND r.host IS DISTINCT FROM g.host
)
SELECT /* outbox.register_routes */ name, group_no FROM known
UNION SELECT name, group_no FROM outbox.route WHERE name = ANY ($1::text[])
