-- breaking: no
-- What is in a digest was `pending` whatever had become of that: in doubt or held it looked as if it were still to be sent, and it
-- aged the oldest delivery that waits.
SET LOCAL lock_timeout = '5s';

CREATE FUNCTION outbox.state_in_digest(p_message_id uuid, p_recipient_no smallint) RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- One that has ended tells its members soon; until then they wait for that.
  RETURN coalesce((
    SELECT outbox.state_of(q.parked, q.intent, q.lease, q.lease_until)
    FROM outbox.digest_member d JOIN outbox.queue q ON q.message_id = d.digest_id AND q.recipient_no = 1
    WHERE d.message_id = p_message_id AND d.recipient_no = p_recipient_no), 'pending');
END $$;
COMMENT ON FUNCTION outbox.state_in_digest(uuid, smallint) IS 'The state of a delivery that is in a digest: that of the digest.';

-- As in 0034.
CREATE OR REPLACE VIEW outbox.deliveries AS
SELECT m.id AS message_id, d.recipient_no::int AS recipient_no,
  CASE WHEN outbox.may_see_addresses(current_user) THEN (m.recipients || m.cc || m.bcc)[d.recipient_no]
       ELSE outbox.mask_address((m.recipients || m.cc || m.bcc)[d.recipient_no]) END AS recipient,
  m.kind, d.state,
  CASE WHEN outbox.may_see_addresses(current_user) THEN d.reason ELSE outbox.mask_text(d.reason) END AS reason,
  m.tenant, d.route, CASE d.lane % 4 WHEN 0 THEN 'urgent' WHEN 1 THEN 'normal' ELSE 'bulk' END AS priority,
  m.created_at, d.due_at, d.attempts, d.intents, d.open_doubts, d.resends, d.evidence, d.finished_at, m.not_before, m.expires_at,
  CASE WHEN outbox.may_see_addresses(current_user) THEN m.ordering_key ELSE outbox.mask_text(m.ordering_key) END AS ordering_key,
  CASE WHEN outbox.may_see_addresses(current_user) THEN m.dedup_key ELSE outbox.mask_text(m.dedup_key) END AS dedup_key,
  m.on_doubt, m.application_name, m.session_role, m.txid
FROM outbox.message m
CROSS JOIN LATERAL (
  SELECT q.recipient_no,
    CASE WHEN q.parked = 'collected' THEN outbox.state_in_digest(q.message_id, q.recipient_no) ELSE outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) END AS state,
    CASE WHEN q.intent IS NULL AND coalesce(q.parked, 'paused') = 'paused' AND EXISTS (SELECT FROM outbox.pause p WHERE p.ended_at IS NULL)
         THEN coalesce(outbox.pause_words(m.kind, m.tenant, coalesce(q.pinned_route, m.route, (SELECT r.name FROM outbox.route r WHERE r.group_no = q.lane / 4), 'default'), (m.recipients || m.cc || m.bcc)[q.recipient_no]),
                       outbox.pause_words(q.message_id, q.recipient_no, q.parked), outbox.state_reason(q.parked, q.note))
         ELSE outbox.state_reason(q.parked, q.note) END AS reason, q.lane,
    nullif(q.due_at, 'infinity') AS due_at, q.attempt_no::int AS attempts, q.intents::int AS intents, q.open_doubts::int AS open_doubts, q.resends::int AS resends,
    NULL::text AS evidence, NULL::timestamptz AS finished_at, coalesce(q.pinned_route, m.route) AS route
  FROM outbox.queue q WHERE q.message_id = m.id
  UNION ALL
  SELECT f.recipient_no, f.state, f.reason, f.lane, NULL, f.attempt_no::int, f.intents::int, f.open_doubts::int, f.resends::int, f.evidence, f.finished_at, m.route
  FROM outbox.done f WHERE f.message_id = m.id
) d;

-- As in 0040.
CREATE OR REPLACE FUNCTION outbox.find_state(state text, kind text DEFAULT NULL, max_rows int DEFAULT 50)
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
       ORDER BY x.message_id DESC, x.recipient_no LIMIT many)
      UNION ALL
      -- What is in a digest that has stopped; of those there are few that have not ended.
      (SELECT x.* FROM outbox.digest g JOIN outbox.queue s ON s.message_id = g.id AND s.recipient_no = 1
         AND s.parked = ANY (CASE find_state.state WHEN 'held' THEN ARRAY['held', 'poison'] ELSE ARRAY['doubt'] END)
       JOIN outbox.digest_member d ON d.digest_id = g.id
       JOIN outbox.queue x ON x.message_id = d.message_id AND x.recipient_no = d.recipient_no AND x.parked = 'collected'
       WHERE g.state IS NULL AND (find_state.kind IS NULL OR (SELECT m.kind FROM outbox.message m WHERE m.id = x.message_id) = find_state.kind))) q
    ORDER BY q.message_id DESC, q.recipient_no LIMIT many;
  ELSIF find_state.state = 'pending' THEN
    -- Most are: the newest first, until there are enough.
    RETURN QUERY
    SELECT q.message_id, q.recipient_no::int FROM outbox.queue q
    WHERE CASE WHEN q.parked = 'collected' THEN outbox.state_in_digest(q.message_id, q.recipient_no) ELSE outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) END = 'pending'
      AND (find_state.kind IS NULL OR (SELECT m.kind FROM outbox.message m WHERE m.id = q.message_id) = find_state.kind)
    ORDER BY q.message_id DESC, q.recipient_no LIMIT many;
  ELSE
    -- In flight: few, and anywhere.
    RETURN QUERY
    WITH hit AS MATERIALIZED (
      SELECT q.message_id, q.recipient_no FROM outbox.queue q
      WHERE CASE WHEN q.parked = 'collected' THEN outbox.state_in_digest(q.message_id, q.recipient_no) ELSE outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) END = find_state.state
        AND (find_state.kind IS NULL OR (SELECT m.kind FROM outbox.message m WHERE m.id = q.message_id) = find_state.kind))
    SELECT h.message_id, h.recipient_no::int FROM hit h ORDER BY h.message_id DESC, h.recipient_no LIMIT many;
  END IF;
END $$;

-- As in 0040; what is in a digest is as old as that.
CREATE OR REPLACE VIEW outbox.queue_health AS
WITH unfinished AS (
  SELECT outbox.state_of(s.parked, s.intent, s.lease, s.lease_until) AS state,
         CASE WHEN s.parked = 'doubt' THEN s.doubt_since WHEN s.intent IS NOT NULL THEN s.intent_at WHEN s.parked IS NULL THEN s.due_at WHEN s.parked = 'collected' THEN NULL
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

-- It is in the hands of its digest: nothing that is said of one that waits by itself is true of it.
DO $migration$
DECLARE
  source text := pg_get_functiondef('outbox.send_again(uuid, text, int)'::regprocedure);
  state text := 'outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) AS state, false AS ended';
  hint text := 'HINT = CASE delivery.state WHEN ''in_doubt'' THEN';
BEGIN
  IF strpos(source, state) = 0 OR strpos(source, hint) = 0 THEN
    RAISE EXCEPTION 'outbox.send_again is not as it was';
  END IF;
  source := replace(source, state, 'CASE WHEN q.parked = ''collected'' THEN outbox.state_in_digest(q.message_id, q.recipient_no) ELSE outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) END AS state, false AS ended');
  source := replace(source, 'or cancel it first'' END', 'or cancel it first'' END END');
  EXECUTE replace(source, hint, 'HINT = CASE WHEN EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = m.id AND q.recipient_no = delivery.recipient_no AND q.parked = ''collected'')
          THEN format(''it is in digest %s and ends as that does: decide that one'', outbox.digest_of_delivery(m.id, delivery.recipient_no))
        ELSE CASE delivery.state WHEN ''in_doubt'' THEN');
END $migration$;

-- What is gathered goes when its window closes, whoever asks.
DO $migration$
DECLARE
  source text := pg_get_functiondef('outbox.retry(uuid, int, text, boolean)'::regprocedure);
  waits text := '    IF q.parked IS NULL AND q.intent IS NULL THEN';
  state text := 'it is %s'', outbox.state_of(q.parked, q.intent, q.lease, q.lease_until))';
BEGIN
  IF strpos(source, waits) = 0 OR strpos(source, state) = 0 THEN
    RAISE EXCEPTION 'outbox.retry is not as it was';
  END IF;
  source := replace(source, waits, '    IF q.parked IS NULL AND q.intent IS NULL AND q.due_at > now()
       AND EXISTS (SELECT FROM outbox.digest_member x WHERE x.message_id = q.message_id AND x.recipient_no = q.recipient_no AND x.digest_id IS NULL) THEN
      result := format(''nothing to retry: it is pending, %s'', q.note);
    ELSIF q.parked IS NULL AND q.intent IS NULL THEN');
  EXECUTE replace(source, state,
    'it is %s'', CASE WHEN q.parked = ''collected'' THEN outbox.state_in_digest(q.message_id, q.recipient_no) ELSE outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) END)');
END $migration$;

INSERT INTO outbox.privilege (roles, privileges, names) VALUES ('outbox_operator outbox_viewer', 'EXECUTE', '{state_in_digest}'::text[]);
SELECT outbox.grant_roles();
