-- breaking: no
-- What a relay says of its routes: which of them rest after failures, and which are slowed down.
SET LOCAL lock_timeout = '5s';

ALTER TABLE outbox.relay ADD COLUMN route_states json;
COMMENT ON COLUMN outbox.relay.route_states IS
  'Routes that are not as they should be on this relay, as it said itself when that changed: an array of objects with route, state (resting: nothing is tried but one delivery now and then; slowed: fewer connections than max_connections), since, failures, connections and why. NULL before it said anything.';
