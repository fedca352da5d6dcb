-- outbox.tell_routes: what a relay says of its routes, for people; nothing is decided by it. Asynchronous: lost in a crash, it
-- is said again when it changes.
WITH fit AS MATERIALIZED (
  SELECT set_config('synchronous_commit', 'off', true) IS NOT NULL AS ok
)
UPDATE /* outbox.tell_routes */ outbox.relay r SET route_states = $2::text::json FROM fit WHERE fit.ok AND r.incarnation = $1
