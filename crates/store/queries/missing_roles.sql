-- outbox.missing_roles: roles that the migrations would have made, had their owner been allowed to.
SELECT /* outbox.missing_roles */ w.name
FROM unnest('{outbox_producer,outbox_relay,outbox_operator,outbox_viewer,outbox_monitor}'::text[]) WITH ORDINALITY AS w(name, no)
WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = w.name) ORDER BY w.no
