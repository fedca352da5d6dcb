-- breaking: no
-- What people and the reaper ask costs the same whatever waits and whatever has been: stopped deliveries, heads of ordering keys
-- and ends other than `sent` are found by small indexes of their own, which no claim, intend or ordinary settle writes.
-- An index on outbox.done blocks settles while it is made (1.6 s for ten million). Whoever minds makes it first, under this name:
-- CREATE INDEX CONCURRENTLY done_unsent ON outbox.done (state, message_id DESC, recipient_no) WHERE state <> 'sent'.
SET LOCAL lock_timeout = '5s';

CREATE INDEX IF NOT EXISTS queue_stopped ON outbox.queue (parked, message_id, recipient_no) WHERE parked IN ('doubt', 'held', 'poison');
COMMENT ON INDEX outbox.queue_stopped IS 'Finds what is in doubt or held among a million that wait.';
CREATE INDEX IF NOT EXISTS queue_heads ON outbox.queue (order_key) WHERE order_key IS NOT NULL AND parked IS DISTINCT FROM 'ordered';
COMMENT ON INDEX outbox.queue_heads IS 'Whether anything of an ordering key moves: without reading all that waits behind it.';
CREATE INDEX IF NOT EXISTS done_unsent ON outbox.done (state, message_id DESC, recipient_no) WHERE state <> 'sent';
COMMENT ON INDEX outbox.done_unsent IS 'Finds the newest that failed, expired, were cancelled or suppressed among millions that were sent.';

-- Lists by state -----------------------------------------------------------------------------------------------------
CREATE FUNCTION outbox.find_state(state text, kind text DEFAULT NULL, max_rows int DEFAULT 50)
RETURNS TABLE (message_id uuid, recipient_no int)
LANGUAGE plpgsql STABLE ROWS 50 SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET enable_sort = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  many bigint := greatest(find_state.max_rows, 1);
BEGIN
  IF find_state.state IN ('sent', 'failed', 'cancelled', 'expired', 'suppressed') THEN
    RETURN QUERY
    SELECT d.message_id, d.recipient_no::int FROM outbox.done d
    WHERE d.state = find_state.state AND (find_state.kind IS NULL OR (SELECT m.kind FROM outbox.message m WHERE m.id = d.message_id) = find_state.kind)
    ORDER BY d.message_id DESC, d.recipient_no LIMIT many;
  ELSIF find_state.state IN ('in_doubt', 'held') THEN
    RETURN QUERY
    SELECT q.message_id, q.recipient_no::int FROM (
      (SELECT x.* FROM outbox.queue x WHERE x.parked = CASE find_state.state WHEN 'held' THEN 'held' ELSE 'doubt' END
         AND (find_state.kind IS NULL OR (SELECT m.kind FROM outbox.message m WHERE m.id = x.message_id) = find_state.kind)
       ORDER BY x.message_id DESC, x.recipient_no LIMIT many)
      UNION ALL
      (SELECT x.* FROM outbox.queue x WHERE x.parked = 'poison' AND find_state.state = 'held'
         AND (find_state.kind IS NULL OR (SELECT m.kind FROM outbox.message m WHERE m.id = x.message_id) = find_state.kind)
       ORDER BY x.message_id DESC, x.recipient_no LIMIT many)) q
    WHERE outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) = find_state.state
    ORDER BY q.message_id DESC, q.recipient_no LIMIT many;
  ELSIF find_state.state = 'pending' THEN
    -- Most are: the newest first, until there are enough.
    RETURN QUERY
    SELECT q.message_id, q.recipient_no::int FROM outbox.queue q
    WHERE outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) = 'pending'
      AND (find_state.kind IS NULL OR (SELECT m.kind FROM outbox.message m WHERE m.id = q.message_id) = find_state.kind)
    ORDER BY q.message_id DESC, q.recipient_no LIMIT many;
  ELSE
    -- In flight: few, and anywhere.
    RETURN QUERY
    WITH hit AS MATERIALIZED (
      SELECT q.message_id, q.recipient_no FROM outbox.queue q
      WHERE outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) = find_state.state
        AND (find_state.kind IS NULL OR (SELECT m.kind FROM outbox.message m WHERE m.id = q.message_id) = find_state.kind))
    SELECT h.message_id, h.recipient_no::int FROM hit h ORDER BY h.message_id DESC, h.recipient_no LIMIT many;
  END IF;
END $$;
COMMENT ON FUNCTION outbox.find_state(text, text, int) IS
'The newest deliveries in a state, without walking through all that came after them: outbox.deliveries WHERE state = ... reads message by message. Narrowed to a kind it reads the messages of the state until it has enough; claimed and sending read the queue once. Example:
  SELECT d.* FROM outbox.find_state(''failed'', max_rows => 50) f JOIN outbox.deliveries d USING (message_id, recipient_no) ORDER BY d.message_id DESC;';

-- What has stopped ---------------------------------------------------------------------------------------------------
-- As in 0011, but for where it begins; and each message is looked up by its id. (The planner does not know that it will look into
-- one partition only, and reads all messages there are when there are many doubts. LIMIT 1 tells it.)
CREATE OR REPLACE VIEW outbox.in_doubt AS
SELECT q.message_id, q.recipient_no::int AS recipient_no, q.intent AS token,
  CASE WHEN outbox.may_see_addresses(current_user) THEN (m.recipients || m.cc || m.bcc)[q.recipient_no]
       ELSE outbox.mask_address((m.recipients || m.cc || m.bcc)[q.recipient_no]) END AS recipient,
  m.kind, m.tenant, q.doubt_since, now() - q.doubt_since AS age, q.doubt_by AS marked_by,
  r.name AS relay_name, r.host AS relay_host, q.intent_by AS relay_incarnation, r.signed_off_at IS NOT NULL AS relay_signed_off,
  coalesce(q.pinned_route, m.route) AS route, q.message_id::text AS message_id_header, q.intent_at, q.resends::int AS resends,
  outbox.may_be_alive_until(q.doubt_by, q.doubt_since, q.intent_by) AS may_be_alive_until,
  CASE WHEN outbox.may_see_addresses(current_user) THEN q.note ELSE outbox.mask_text(q.note) END AS note,
  coalesce(a.phase, 'end_marker') AS phase, coalesce(a.server, g.host) AS server,
  CASE WHEN a.server IS NOT NULL THEN 'attempt' WHEN g.host IS NOT NULL THEN 'route' END AS server_known_by,
  outbox.relay_state(r) AS relay_state, outbox.may_be_alive(q.doubt_by, q.intent_by, q.intent) AS may_be_alive,
  'message-id=' || coalesce(
    CASE WHEN m.raw_message IS NULL THEN NULL
         WHEN outbox.may_see_addresses(current_user) THEN outbox.own_message_id(m.raw_message)
         ELSE outbox.mask_text(outbox.own_message_id(m.raw_message)) END,
    '<' || q.message_id) AS search_for,
  least(q.intent_at, q.doubt_since) - interval '10 minutes' AS search_from,
  greatest(q.doubt_since, outbox.may_be_alive_until(q.doubt_by, q.doubt_since, q.intent_by), q.intent_at + coalesce(r.doubt_grace, interval '15 minutes'))
    + interval '10 minutes' AS search_until,
  q.intents::int AS intents
FROM (SELECT x.* FROM outbox.queue x WHERE x.parked = 'doubt') q
LEFT JOIN LATERAL (SELECT x.* FROM outbox.message x WHERE x.id = q.message_id LIMIT 1) m ON true
LEFT JOIN outbox.relay r ON r.incarnation = q.intent_by
LEFT JOIN LATERAL (SELECT x.* FROM outbox.attempt x WHERE x.message_id = q.message_id AND x.recipient_no = q.recipient_no AND x.token = q.intent LIMIT 1) a ON true
LEFT JOIN outbox.route g ON g.name = coalesce(q.pinned_route, m.route) AND g.host_since <= q.intent_at;

-- As in 0032, but from what has stopped to its key, and what waits behind it counted in the index.
CREATE OR REPLACE VIEW outbox.blocked_keys AS
SELECT m.tenant, CASE WHEN outbox.may_see_addresses(current_user) THEN m.ordering_key ELSE outbox.mask_text(m.ordering_key) END AS ordering_key,
  k.waiting, q.message_id, q.recipient_no::int AS recipient_no, m.kind, outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) AS state,
  CASE WHEN outbox.may_see_addresses(current_user) THEN outbox.state_reason(q.parked, q.note) ELSE outbox.mask_text(outbox.state_reason(q.parked, q.note)) END AS reason,
  coalesce(b.since, q.doubt_since) AS since, b.skips_at
FROM (
  SELECT s.order_key, (SELECT count(*) FROM outbox.queue o WHERE o.order_key = s.order_key)
                    - (SELECT count(*) FROM outbox.queue h WHERE h.order_key = s.order_key AND h.parked IS DISTINCT FROM 'ordered') AS waiting
  FROM (SELECT DISTINCT x.order_key FROM outbox.queue x WHERE x.order_key IS NOT NULL AND x.parked IN ('doubt', 'held', 'poison')) s
  WHERE NOT EXISTS (SELECT FROM outbox.queue a WHERE a.order_key = s.order_key AND a.parked IS DISTINCT FROM 'ordered'
                    AND coalesce(a.parked, '') NOT IN ('doubt', 'held', 'poison'))
  OFFSET 0) k
JOIN outbox.queue q ON q.order_key = k.order_key AND q.parked IS DISTINCT FROM 'ordered' AND q.parked IN ('doubt', 'held', 'poison')
CROSS JOIN LATERAL (SELECT x.* FROM outbox.message x WHERE x.id = q.message_id LIMIT 1) m
LEFT JOIN outbox.key_block b ON b.message_id = q.message_id AND b.recipient_no = q.recipient_no
WHERE k.waiting > 0;

-- As in 0008; what has stopped is counted by itself: among more than 20,000 that wait in a lane for a pause or an ordering key it
-- was not seen.
CREATE OR REPLACE VIEW outbox.queue_health AS
WITH unfinished AS (
  SELECT outbox.state_of(s.parked, s.intent, s.lease, s.lease_until) AS state,
         CASE WHEN s.parked = 'doubt' THEN s.doubt_since WHEN s.intent IS NOT NULL THEN s.intent_at WHEN s.parked IS NULL THEN s.due_at
              ELSE outbox.uuid_time(s.message_id) END AS at
  FROM (
    SELECT w.* FROM outbox.lanes() AS l(lane) CROSS JOIN LATERAL (
      (SELECT q.* FROM outbox.queue q WHERE q.lane = l.lane AND q.due_at < 'infinity' ORDER BY q.due_at, q.message_id, q.recipient_no LIMIT 20000)
      UNION ALL
      (SELECT q.* FROM outbox.queue q WHERE q.lane = l.lane AND q.due_at = 'infinity' ORDER BY q.message_id, q.recipient_no LIMIT 20000)) w
    WHERE coalesce(w.parked, '') NOT IN ('doubt', 'held', 'poison')
    UNION ALL
    (SELECT q.* FROM outbox.queue q WHERE q.parked = 'doubt' LIMIT 20000)
    UNION ALL
    (SELECT q.* FROM outbox.queue q WHERE q.parked IN ('held', 'poison') LIMIT 20000)) s
),
finished AS (
  SELECT d.state, d.finished_at AS at FROM outbox.done d ORDER BY d.message_id DESC, d.recipient_no DESC LIMIT 20000
),
seen AS MATERIALIZED (
  SELECT u.state, count(*) AS n, min(u.at) AS oldest, max(u.at) AS newest, false AS terminal FROM unfinished u GROUP BY u.state
  UNION ALL
  SELECT f.state, count(*), min(f.at), max(f.at), true FROM finished f GROUP BY f.state
),
sizes AS (
  SELECT coalesce(sum(x.n) FILTER (WHERE NOT x.terminal), 0) AS unfinished, coalesce(sum(x.n) FILTER (WHERE x.terminal), 0) AS finished,
    (SELECT greatest(c.reltuples, 0)::bigint FROM pg_class c WHERE c.oid = 'outbox.queue'::regclass) AS queue_estimate,
    (SELECT greatest(c.reltuples, 0)::bigint FROM pg_class c WHERE c.oid = 'outbox.done'::regclass) AS done_estimate
  FROM seen x
)
SELECT w.state,
  CASE
    WHEN w.terminal AND z.finished >= 20000 THEN greatest(coalesce(s.n, 0), round(z.done_estimate * (coalesce(s.n, 0) / z.finished)))
    WHEN w.state = 'pending' AND z.unfinished >= 20000 THEN greatest(coalesce(s.n, 0), z.queue_estimate - (z.unfinished - coalesce(s.n, 0)))
    ELSE coalesce(s.n, 0) END::bigint AS deliveries,
  CASE WHEN w.terminal THEN z.finished < 20000 ELSE z.unfinished < 20000 END AS exact,
  CASE WHEN NOT w.terminal OR z.finished < 20000 THEN s.oldest END AS oldest, s.newest
FROM (VALUES (1, 'pending', false), (2, 'claimed', false), (3, 'sending', false), (4, 'in_doubt', false), (5, 'held', false),
             (6, 'sent', true), (7, 'failed', true), (8, 'cancelled', true), (9, 'expired', true), (10, 'suppressed', true)) w(no, state, terminal)
CROSS JOIN sizes z
LEFT JOIN (SELECT v.state, v.n::numeric AS n, v.oldest, v.newest FROM seen v) s ON s.state = w.state
ORDER BY w.no;

-- As in 0008; by its index, which a planner that knows how many rows a lane has leaves for the whole table, once per lane.
CREATE OR REPLACE FUNCTION outbox.backlog() RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
  SELECT count(*) FROM outbox.lanes() AS l(lane) CROSS JOIN LATERAL (
    SELECT FROM outbox.queue q
    WHERE q.lane = l.lane AND q.due_at <= now() AND q.intent IS NULL AND (q.lease IS NULL OR q.lease_until < now())
    ORDER BY q.due_at, q.message_id, q.recipient_no LIMIT 20000) due
$$;

-- Ordering keys ------------------------------------------------------------------------------------------------------
-- As in 0032, key by key from one on, at most 1,000 of them: all keys of a long queue were grouped every two seconds, and behind
-- 1,000 that stay blocked no other was freed.
CREATE FUNCTION outbox.free_ordered(after text, OUT freed bigint, OUT next text) LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET jit = off AS $$
DECLARE
  one record;
BEGIN
  freed := 0;
  DELETE FROM outbox.key_block b
  WHERE NOT EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = b.message_id AND q.recipient_no = b.recipient_no AND q.parked IN ('doubt', 'held', 'poison'));
  FOR one IN
    WITH RECURSIVE page AS (
      SELECT (SELECT q.order_key FROM outbox.queue q WHERE q.order_key > coalesce(after, '') ORDER BY q.order_key LIMIT 1) AS order_key, 1 AS no
      UNION ALL
      SELECT (SELECT q.order_key FROM outbox.queue q WHERE q.order_key > p.order_key ORDER BY q.order_key LIMIT 1), p.no + 1
      FROM page p WHERE p.order_key IS NOT NULL AND p.no < 1000)
    SELECT p.order_key, p.no, EXISTS (SELECT FROM outbox.queue h WHERE h.order_key = p.order_key AND h.parked IS DISTINCT FROM 'ordered') AS headed,
      EXISTS (SELECT FROM outbox.queue h WHERE h.order_key = p.order_key AND h.parked IS DISTINCT FROM 'ordered' AND coalesce(h.parked, '') NOT IN ('doubt', 'held', 'poison')) AS moving
    FROM page p
  LOOP
    next := CASE WHEN one.no = 1000 THEN one.order_key END;
    CONTINUE WHEN one.moving OR one.order_key IS NULL;
    CONTINUE WHEN NOT EXISTS (SELECT FROM outbox.queue w WHERE w.order_key = one.order_key AND w.parked = 'ordered');
    IF one.headed THEN
      -- What the configuration says may have changed since.
      INSERT INTO outbox.key_block AS b (message_id, recipient_no, since, skips_at)
      SELECT q.message_id, q.recipient_no, coalesce(q.doubt_since, now()), coalesce(q.doubt_since, now()) + k.skip_after
      FROM outbox.queue q JOIN outbox.message m ON m.id = q.message_id LEFT JOIN outbox.kind k ON k.name = m.kind
      WHERE q.order_key = one.order_key AND q.parked IS DISTINCT FROM 'ordered' AND q.parked IN ('doubt', 'held', 'poison')
      ORDER BY q.message_id, q.recipient_no
      ON CONFLICT (message_id, recipient_no) DO UPDATE SET skips_at = b.since + (excluded.skips_at - excluded.since)
        WHERE b.skips_at IS DISTINCT FROM b.since + (excluded.skips_at - excluded.since);
      CONTINUE WHEN EXISTS (
        SELECT FROM outbox.queue q WHERE q.order_key = one.order_key AND q.parked IS DISTINCT FROM 'ordered' AND q.parked IN ('doubt', 'held', 'poison')
          AND NOT outbox.is_skipped(q.message_id, q.recipient_no, q.parked));
    END IF;
    PERFORM FROM outbox.ordering o WHERE o.order_key = one.order_key FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
      PERFORM outbox.free_next(one.order_key);
      freed := freed + 1;
    END IF;
  END LOOP;
END $$;
COMMENT ON FUNCTION outbox.free_ordered(text) IS 'Frees keys whose head ended while their next delivery was being committed or locked, and those whose head has stopped and is skipped; notes what blocks a key. Looks at the 1,000 keys after the given one, from the first on when NULL, and says where to go on, NULL when that was the last. Called by the reaper.';

-- For relays of before: once round.
CREATE OR REPLACE FUNCTION outbox.free_ordered() RETURNS bigint LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  page record;
  freed bigint := 0;
  after text;
BEGIN
  LOOP
    SELECT f.* INTO page FROM outbox.free_ordered(after) f;
    freed := freed + page.freed;
    after := page.next;
    EXIT WHEN after IS NULL;
  END LOOP;
  RETURN freed;
END $$;
COMMENT ON FUNCTION outbox.free_ordered() IS 'outbox.free_ordered(text) with every key, for relays of an earlier release.';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  ('outbox_operator outbox_viewer', 'EXECUTE', '{find_state}'::text[]);
SELECT outbox.grant_roles();
