-- outbox.register_routes: names get a group of lanes once and keep it.
WITH known AS (
  INSERT INTO outbox.route (name) SELECT u.name FROM unnest($1::text[]) u(name)
  WHERE NOT EXISTS (SELECT FROM outbox.route r WHERE r.name = u.name)
  ON CONFLICT (name) DO NOTHING RETURNING name, group_no
)
SELECT /* outbox.register_routes */ name, group_no FROM known
UNION SELECT name, group_no FROM outbox.route WHERE name = ANY ($1::text[])
