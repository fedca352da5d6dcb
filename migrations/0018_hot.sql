-- breaking: no
-- Claim, contents, intend and settle as functions: each backend plans them once. As unnamed statements, which are what works
-- through every pooler, they cost more to plan than to execute: half of Postgres' time went there.
SET LOCAL lock_timeout = '5s';

-- The plans are for keys, in any size of table: generic, made once, by index, whatever the statistics say when they are
-- made. Of a queue that vacuum found empty the planner expects one row, and would keep a plan that reads all of it. So:
--  * no sequential or bitmap scans, nested loops only;
--  * key = ANY (ARRAY[...]) in place of key = ... in joins: it looks up just the same, but promises no order, so that the
--    planner has no use for an index that is read from end to end;
--  * OFFSET 0 keeps a look-up a look-up: it is not made a join.
-- JIT is off because a disabled path that is the only one (outbox.control has no index) costs so much that it would start.
-- Statement parameters are written $1, $2, ... so that the bodies can be prepared and explained as they are.

-- Of an empty queue the planner expects one row, and thinks that queue_due, which holds the key behind lane and due_at, would
-- find it as well as the primary key does; once kept, that plan reads the whole index for each delivery. As a partial index
-- it can be used by what names the lane (lane = ... implies its condition), and by nothing else.
DROP INDEX outbox.queue_due;
CREATE INDEX queue_due ON outbox.queue (lane, due_at, message_id, recipient_no) WITH (fillfactor = 90) WHERE lane IS NOT NULL;
COMMENT ON INDEX outbox.queue_due IS 'What the claim walks, behind an in-memory cursor. Partial so that nobody looks keys up in it.';

CREATE FUNCTION outbox.claim_batch(
  p_epoch uuid, p_identity text, p_lease uuid, p_lease_s float8, p_free bigint, p_rooms bigint[],
  p_lanes smallint[], p_limits bigint[], p_room_of int[], p_due_at timestamptz[], p_message_id uuid[], p_recipient_no smallint[])
RETURNS TABLE (lane smallint, message_id uuid, recipient_no smallint, due_at timestamptz, claims smallint, attempt_no smallint, intents smallint, open_doubts smallint,
               pinned_route text, due_for_s float8, bound boolean, upstream bigint, first_intent_age_s float8)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  v_rows tid[];
  v_take bigint;
  v_count bigint;
BEGIN
  -- A lost claim is harmless: its lease expires.
  PERFORM set_config('synchronous_commit', 'off', true);
  PERFORM outbox.assert_armed(p_epoch, p_identity);
  FOR i IN 1 .. cardinality(p_lanes) LOOP
    v_take := least(p_limits[i], p_free, p_rooms[p_room_of[i]]);
    CONTINUE WHEN v_take <= 0;
    v_rows := ARRAY(
      SELECT c.ctid FROM outbox.queue c
      WHERE c.lane = p_lanes[i] AND c.due_at <= now() AND (c.due_at, c.message_id, c.recipient_no) > (p_due_at[i], p_message_id[i], p_recipient_no[i])
        AND c.intent IS NULL AND c.parked IS NULL
        -- An expired lease, one without an end, or one absurdly far ahead because the clock went back, is nobody's.
        AND (c.lease IS NULL OR c.lease_until IS NULL OR c.lease_until < now() OR c.lease_until > now() + interval '1 day')
      ORDER BY c.due_at, c.message_id, c.recipient_no
      LIMIT v_take FOR UPDATE OF c SKIP LOCKED);
    v_count := cardinality(v_rows);
    CONTINUE WHEN v_count = 0;
    RETURN QUERY
      UPDATE outbox.queue q
      SET lease = p_lease, lease_until = now() + p_lease_s * interval '1 second', claims = least(q.claims, 32766) + 1
      WHERE q.ctid = ANY (v_rows)
      RETURNING q.lane, q.message_id, q.recipient_no, q.due_at, q.claims, q.attempt_no, q.intents, q.open_doubts, q.pinned_route,
        date_part('epoch', now() - q.due_at),
        outbox.is_bound(q.same_key_of, q.prev_intent, q.open_doubts), q.upstream, date_part('epoch', now() - q.first_intent_at);
    p_free := p_free - v_count;
    p_rooms[p_room_of[i]] := p_rooms[p_room_of[i]] - v_count;
  END LOOP;
END $$;
COMMENT ON FUNCTION outbox.claim_batch(uuid, text, uuid, float8, bigint, bigint[], smallint[], bigint[], int[], timestamptz[], uuid[], smallint[]) IS
  'Relays: leases due deliveries of many lanes in the order given, behind a cursor for each, at most p_limits of a lane, p_rooms of all lanes of one room, p_free of all.';

CREATE FUNCTION outbox.contents_of(p_ids uuid[])
RETURNS TABLE (id uuid, created_at_us bigint, kind text, sender text, reply_to text, recipients text[], cc text[], bcc text[], payload text, subject text, body_text text, body_html text,
               raw_message bytea, headers text, attachments text, priority text, expires_in_s float8, age_s float8, on_doubt text, route text, tenant text, locale text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT m.id, round(date_part('epoch', m.created_at) * 1000000)::bigint, m.kind, m.sender, m.reply_to, m.recipients, m.cc, m.bcc,
    m.payload::text, m.subject, m.body_text, m.body_html, m.raw_message, m.headers::text, m.attachments::text,
    m.priority, date_part('epoch', m.expires_at - now()),
    date_part('epoch', now() - greatest(m.created_at, m.not_before)),
    m.on_doubt, m.route, m.tenant, m.locale
  FROM unnest($1) AS wanted (id) CROSS JOIN LATERAL (SELECT x.* FROM outbox.message x WHERE x.id = ANY (ARRAY[wanted.id])) m;
END $$;
COMMENT ON FUNCTION outbox.contents_of(uuid[]) IS 'Relays: what claimed deliveries say, one partition looked at per message.';

CREATE FUNCTION outbox.intend_batch(
  p_epoch uuid, p_identity text, p_message_ids uuid[], p_recipient_nos smallint[], p_leases uuid[], p_tokens uuid[], p_sha256 bytea[], p_routes text[],
  p_relay uuid, p_lock_timeout text, p_upstreams bigint[], p_usable_s float8[], p_beat bigint, p_rows text)
RETURNS TABLE (message_id uuid, recipient_no smallint, token uuid, answer text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  v_count bigint;
BEGIN
  PERFORM set_config('synchronous_commit', outbox.durable_commit(), true), set_config('lock_timeout', p_lock_timeout, true);
  PERFORM outbox.assert_continues(p_epoch, p_identity, p_relay, p_beat);
  IF p_rows = 'wait' THEN
    -- Waits for whoever has a row locked; what it did is seen by the statement below.
    PERFORM FROM unnest(p_message_ids, p_recipient_nos) AS i (message_id, recipient_no)
    JOIN outbox.queue q ON q.message_id = ANY (ARRAY[i.message_id]) AND q.recipient_no = i.recipient_no
    ORDER BY i.message_id, i.recipient_no FOR UPDATE OF q;
  ELSIF p_rows = 'expected' THEN
    -- Nearly always every row is as its claim left it: without locking first it is half the work. What is not goes the long
    -- way below, where a repetition is harmless.
    RETURN QUERY
    UPDATE outbox.queue q
    SET intent = i.token, intent_by = $9, intent_at = now(), first_intent_at = coalesce(q.first_intent_at, now()), intents = q.intents + 1,
        content_sha256 = i.sha256, pinned_route = i.route, upstream = i.upstream
    FROM unnest($3, $4, $5, $6, $7, $8, $11) AS i (message_id, recipient_no, lease, token, sha256, route, upstream)
    WHERE q.message_id = ANY (ARRAY[i.message_id]) AND q.recipient_no = i.recipient_no AND q.lease = i.lease AND q.intent IS NULL
      AND q.parked IS NULL AND q.accepted_late IS NULL AND q.open_doubts = 0
      AND NOT EXISTS (SELECT FROM outbox.done d WHERE d.message_id = q.message_id AND d.recipient_no = q.recipient_no OFFSET 0)
    RETURNING q.message_id, q.recipient_no, q.intent, 'granted';
    GET DIAGNOSTICS v_count = ROW_COUNT;
    IF v_count = cardinality($3) THEN
      RETURN;
    END IF;
  END IF;
  RETURN QUERY
  WITH input AS (
    SELECT * FROM unnest($3::uuid[], $4::int2[], $5::uuid[], $6::uuid[], $7::bytea[], $8::text[], $11::int8[], $12::float8[])
      AS i (message_id, recipient_no, lease, token, sha256, route, upstream, usable_s)
  ),
  seen AS MATERIALIZED (
    SELECT q.message_id, q.recipient_no, i.token, i.sha256, i.route, i.upstream,
           ((q.intent IS NULL AND q.lease = i.lease) OR q.intent = i.token)
             AND q.parked IS NULL AND q.accepted_late IS NULL
             AND (q.intent IS NOT NULL OR NOT outbox.is_bound(q.same_key_of, q.prev_intent, q.open_doubts)
                  OR coalesce(q.pinned_route = i.route AND q.upstream = i.upstream
                              AND now() >= q.first_intent_at AND now() < q.first_intent_at + i.usable_s * interval '1 second', false)) AS mine,
           q.open_doubts > 0 AND q.content_sha256 IS NOT NULL AND q.content_sha256 <> i.sha256 AS changed,
           EXISTS (SELECT FROM outbox.done d WHERE d.message_id = q.message_id AND d.recipient_no = q.recipient_no OFFSET 0) AS finished
    FROM input i JOIN outbox.queue q ON q.message_id = ANY (ARRAY[i.message_id]) AND q.recipient_no = i.recipient_no
    ORDER BY i.message_id, i.recipient_no
    FOR UPDATE OF q SKIP LOCKED
  ),
  written AS (
    UPDATE /* outbox.intend */ outbox.queue q
    SET intent = s.token, intent_by = $9, intent_at = now(), first_intent_at = coalesce(q.first_intent_at, now()),
        intents = q.intents + (q.intent IS NULL)::int::smallint, content_sha256 = s.sha256, pinned_route = s.route,
        upstream = CASE WHEN q.open_doubts = 0 OR q.upstream = s.upstream THEN s.upstream END
    FROM seen s
    WHERE q.message_id = ANY (ARRAY[s.message_id]) AND q.recipient_no = s.recipient_no AND s.mine AND NOT s.changed AND NOT s.finished
    RETURNING q.message_id, q.recipient_no, q.intent
  )
  SELECT w.message_id, w.recipient_no, w.intent, 'granted' FROM written w
  UNION ALL
  SELECT s.message_id, s.recipient_no, s.token, CASE WHEN s.mine AND s.changed THEN 'changed' ELSE 'refused' END
  FROM seen s WHERE NOT (s.mine AND NOT s.changed AND NOT s.finished);
END $$;
COMMENT ON FUNCTION outbox.intend_batch(uuid, text, uuid[], smallint[], uuid[], uuid[], bytea[], text[], uuid, text, bigint[], float8[], bigint, text) IS
  'Relays: makes the intents of many deliveries durable in one commit, before any byte of their end markers. Idempotent. Answers granted, refused or changed by token; a row without an answer is locked by somebody or gone. p_rows: expected takes the rows without locking them first and fails after p_lock_timeout when somebody has one; skip passes over such rows; wait waits for them.';

CREATE FUNCTION outbox.settle_batch(
  p_epoch uuid, p_identity text, p_message_ids uuid[], p_recipient_nos smallint[], p_leases uuid[], p_tokens uuid[], p_intended boolean[], p_verdicts text[], p_after_s float8[],
  p_counts boolean[], p_reasons text[], p_outcomes text[], p_phases text[], p_causes text[], p_codes smallint[], p_enhanced text[], p_replies text[], p_details text[], p_routes text[],
  p_servers text[], p_took_s float8[], p_bytes int[], p_relay uuid, p_rows text, p_lock_timeout text)
RETURNS TABLE (message_id uuid, recipient_no smallint, token uuid)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  v_count bigint;
BEGIN
  PERFORM set_config('synchronous_commit', outbox.durable_commit(), true), set_config('lock_timeout', p_lock_timeout, true);
  PERFORM outbox.assert_armed(p_epoch, p_identity);
  IF p_rows = 'expected' THEN
    -- Nearly always: accepted, and the row is as its intent left it. No attempt of this token can be in the ledger then:
    -- whoever writes one parks the row, takes its intent away, or takes it out of the queue.
    RETURN QUERY
    WITH gone AS (
      DELETE FROM outbox.queue q
      USING unnest($3, $4, $6, $7, $8, $10, $11, $12, $13, $15, $16, $17, $19, $20, $21, $22)
        AS i (message_id, recipient_no, token, intended, verdict, counts, reason, outcome, phase, code, enhanced, reply, route, server, took_s, bytes)
      WHERE q.message_id = ANY (ARRAY[i.message_id]) AND q.recipient_no = i.recipient_no AND q.intent = i.token
        AND i.intended AND i.verdict = 'sent' AND i.outcome = 'accepted' AND q.parked IS NULL AND q.accepted_late IS NULL AND q.order_key IS NULL
        AND NOT outbox.is_bound(q.same_key_of, q.prev_intent, q.open_doubts)
      RETURNING q.message_id, q.recipient_no, q.lane, q.attempt_no, q.intents, q.resends, q.open_doubts, q.address_hash,
        i.token, i.counts, i.reason, i.outcome, i.phase, i.code, i.enhanced, i.reply, i.route, i.server, i.took_s, i.bytes
    ),
    ledger AS (
      INSERT INTO outbox.attempt (message_id, recipient_no, token, attempt_no, outcome, phase, code, enhanced, reply, route, server, relay, started_at, bytes)
      SELECT message_id, recipient_no, token, attempt_no + 1, outcome, phase, code, enhanced, reply, route, server, $23, clock_timestamp() - took_s * interval '1 second', bytes
      FROM gone
    ),
    finished AS (
      -- The hash of its bytes guards against another attempt that differs; after an acceptance there is none.
      INSERT INTO outbox.done (message_id, recipient_no, state, evidence, reason, token, open_doubts, attempt_no, intents, resends, lane, address_hash)
      SELECT message_id, recipient_no, 'sent', 'reply', reason, token, open_doubts, attempt_no + counts::int, intents, resends, lane, address_hash
      FROM gone
    )
    SELECT message_id, recipient_no, token FROM gone;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    IF v_count = cardinality($3) THEN
      RETURN;
    END IF;
  END IF;
  RETURN QUERY
  WITH input AS (
    SELECT DISTINCT ON (i.message_id, i.recipient_no, i.token) i.* FROM unnest($3::uuid[], $4::int2[], $5::uuid[], $6::uuid[], $7::bool[], $8::text[], $9::float8[], $10::bool[], $11::text[],
                         $12::text[], $13::text[], $14::text[], $15::int2[], $16::text[], $17::text[], $18::text[], $19::text[], $20::text[],
                         $21::float8[], $22::int4[])
      AS i (message_id, recipient_no, lease, token, intended, verdict, after_s, counts, reason,
            outcome, phase, cause, code, enhanced, reply, detail, route, server, took_s, bytes)
  ),
  hit AS MATERIALIZED (
    SELECT i.*, q.order_key, q.attempt_no, q.accepted_late,
           i.outcome IS NOT DISTINCT FROM 'accepted' AND i.intended AND outbox.is_bound(q.same_key_of, q.prev_intent, q.open_doubts) AS deduplicated,
           -- The ledger says "unknown" of this attempt before and after: what that does to open_doubts.
           CASE WHEN i.outcome IS NULL THEN 0
                ELSE (i.outcome = 'unknown')::int - (q.parked IS NOT DISTINCT FROM 'doubt')::int END AS doubts,
           -- A repeated "unknown", or the reply that came after one: this attempt has been counted before.
           q.parked IS NOT DISTINCT FROM 'doubt' AND q.doubt_by IS NOT DISTINCT FROM 'relay' AS counted,
           CASE WHEN q.accepted_late IS NOT NULL THEN 'sent' ELSE i.verdict END AS final
    FROM input i JOIN outbox.queue q ON q.message_id = ANY (ARRAY[i.message_id]) AND q.recipient_no = i.recipient_no
    WHERE (q.intent = i.token OR (NOT i.intended AND q.intent IS NULL AND q.lease = i.lease))
    ORDER BY i.message_id, i.recipient_no
    FOR UPDATE OF q SKIP LOCKED
  ),
  ledger AS (
    INSERT INTO outbox.attempt AS a (message_id, recipient_no, token, attempt_no, outcome, phase, cause, code, enhanced, reply, detail, route, server, relay, started_at, bytes)
    SELECT message_id, recipient_no, token, attempt_no + 1, outcome, phase, cause, code, enhanced, reply, detail, route, server, $23,
           clock_timestamp() - took_s * interval '1 second', bytes
    FROM hit WHERE outcome IS NOT NULL
    ON CONFLICT (message_id, recipient_no, token) DO UPDATE
      SET outcome = excluded.outcome, phase = excluded.phase, cause = excluded.cause, code = excluded.code, enhanced = excluded.enhanced, reply = excluded.reply,
          detail = excluded.detail, route = excluded.route, server = excluded.server, finished_at = excluded.finished_at, bytes = excluded.bytes
      WHERE a.outcome = 'unknown'
  ),
  gone AS (
    DELETE FROM outbox.queue q USING hit h
    WHERE q.message_id = ANY (ARRAY[h.message_id]) AND q.recipient_no = h.recipient_no AND h.final IN ('sent', 'failed', 'expired', 'suppressed')
    RETURNING q.message_id, q.recipient_no, q.lane, q.attempt_no, q.intents, q.resends, q.open_doubts, q.content_sha256, q.address_hash, q.order_key,
      h.token, h.final, h.deduplicated, h.accepted_late, h.reason, h.doubts, h.counts, h.counted
  ),
  finished AS (
    INSERT INTO outbox.done (message_id, recipient_no, state, evidence, reason, token, open_doubts, attempt_no, intents, resends, lane, content_sha256, address_hash)
    SELECT g.message_id, g.recipient_no, g.final,
           CASE WHEN g.final <> 'sent' THEN NULL WHEN g.deduplicated AND g.accepted_late IS NULL THEN 'idempotent upstream' ELSE 'reply' END,
           CASE WHEN g.accepted_late IS NOT NULL THEN 'an earlier attempt was accepted' ELSE g.reason END, coalesce(g.accepted_late, g.token),
           CASE WHEN g.deduplicated THEN 0 ELSE greatest(g.open_doubts + g.doubts, 0) END, g.attempt_no + (g.counts AND NOT g.counted)::int,
           g.intents, g.resends, g.lane, g.content_sha256, g.address_hash
    FROM gone g
  ),
  kept AS (
    UPDATE /* outbox.settle */ outbox.queue q
    SET lease = NULL, lease_until = NULL,
        intent = CASE h.final WHEN 'in_doubt' THEN q.intent WHEN 'doubt_again' THEN q.prev_intent END,
        intent_by = CASE WHEN h.final = 'in_doubt' THEN q.intent_by END,
        intent_at = CASE h.final WHEN 'in_doubt' THEN q.intent_at WHEN 'doubt_again' THEN q.first_intent_at END,
        parked = CASE h.final WHEN 'in_doubt' THEN 'doubt' WHEN 'doubt_again' THEN 'doubt' WHEN 'held' THEN 'held' WHEN 'poison' THEN 'poison' END,
        note = h.reason,
        due_at = CASE WHEN h.final = 'retry' THEN now() + h.after_s * interval '1 second' ELSE 'infinity' END,
        doubt_since = CASE WHEN h.final IN ('in_doubt', 'doubt_again') THEN coalesce(q.doubt_since, now()) END,
        doubt_by = CASE WHEN h.final IN ('in_doubt', 'doubt_again') THEN 'relay' END,
        open_doubts = greatest(q.open_doubts + h.doubts, 0),
        attempt_no = q.attempt_no + (h.counts AND NOT h.counted)::int,
        claims = greatest(q.claims - (NOT h.counted)::int, 0)
    FROM hit h
    WHERE q.message_id = ANY (ARRAY[h.message_id]) AND q.recipient_no = h.recipient_no AND h.final IN ('retry', 'held', 'poison', 'in_doubt', 'doubt_again')
  ),
  freed AS (
    -- Without waiting: an application may have the next one locked (an open cancel), and this is one commit for many. Nobody
    -- overtakes it, outbox.free_ordered() frees it later.
    UPDATE outbox.queue q
    SET parked = CASE WHEN q.note LIKE 'failover:%' THEN 'held' END,
        due_at = CASE WHEN q.note LIKE 'failover:%' THEN 'infinity' ELSE greatest(now(), outbox.not_before_of(q.message_id)) END
    FROM gone g CROSS JOIN LATERAL (
      SELECT n.message_id, n.recipient_no FROM outbox.queue n
      WHERE n.parked = 'ordered' AND (n.message_id, n.recipient_no) = (
        SELECT f.message_id, f.recipient_no FROM outbox.queue f
        WHERE f.order_key = g.order_key AND f.parked = 'ordered' ORDER BY f.order_no LIMIT 1)
      FOR UPDATE OF n SKIP LOCKED) n
    WHERE g.order_key IS NOT NULL AND q.message_id = ANY (ARRAY[n.message_id]) AND q.recipient_no = n.recipient_no
  )
  SELECT message_id, recipient_no, token FROM hit;
END $$;
COMMENT ON FUNCTION outbox.settle_batch(uuid, text, uuid[], smallint[], uuid[], uuid[], boolean[], text[], float8[], boolean[], text[], text[], text[], text[], smallint[], text[], text[], text[], text[], text[], float8[], int[], uuid, text, text) IS
  'Relays: the hot half of settle. Makes the outcomes of many attempts durable in one commit, for attempts that still own their delivery; answers those. The others are for outbox.settle_late(). p_rows: as for intend_batch(), without wait.';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  ('outbox_relay', 'EXECUTE', '{claim_batch,contents_of,intend_batch,settle_batch,is_bound}'::text[]);
SELECT outbox.grant_roles();
