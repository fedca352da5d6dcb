-- breaking: no
-- Ordering keys whose head has stopped: it blocks what comes behind it, or is skipped, as its kind says; and what blocks a key
-- is to be seen.
SET LOCAL lock_timeout = '5s';

ALTER TABLE outbox.kind
  ADD COLUMN skip_after interval,
  ADD COLUMN failed_blocks boolean NOT NULL DEFAULT false,
  ADD CONSTRAINT kind_skip_after_is_a_time CHECK (skip_after >= interval '0');
COMMENT ON COLUMN outbox.kind.skip_after IS 'A delivery of this kind that is in doubt, held or poison lets those behind it in its ordering key pass after so long; NULL: they wait for it. From the relays'' configuration (on_block).';
COMMENT ON COLUMN outbox.kind.failed_blocks IS 'A delivery of this kind that has an ordering key and fails is held instead, so that its key waits. From the relays'' configuration.';

CREATE TABLE outbox.key_block (
  message_id uuid NOT NULL,
  recipient_no smallint NOT NULL,
  since timestamptz NOT NULL,
  skips_at timestamptz,
  PRIMARY KEY (message_id, recipient_no)
) WITH (fillfactor = 50);
COMMENT ON TABLE outbox.key_block IS 'Stopped deliveries that others wait behind, as outbox.free_ordered() has met them. Nearly always empty. Private: see outbox.blocked_keys.';
COMMENT ON COLUMN outbox.key_block.since IS 'When it was first met; of a doubt, when it was marked.';
COMMENT ON COLUMN outbox.key_block.skips_at IS 'Those behind it pass from then on; NULL: they wait for it.';

CREATE FUNCTION outbox.failed_blocks(p_message_id uuid) RETURNS boolean LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN EXISTS (SELECT FROM outbox.message m JOIN outbox.kind k ON k.name = m.kind WHERE m.id = p_message_id AND k.failed_blocks);
END $$;
COMMENT ON FUNCTION outbox.failed_blocks(uuid) IS 'Relays: whether a delivery of this message, which has an ordering key, is held when it fails.';

CREATE FUNCTION outbox.is_skipped(p_message_id uuid, p_recipient_no smallint, p_parked text) RETURNS boolean LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN p_parked IN ('doubt', 'held', 'poison')
     AND EXISTS (SELECT FROM outbox.key_block b WHERE b.message_id = p_message_id AND b.recipient_no = p_recipient_no AND b.skips_at <= now());
END $$;
COMMENT ON FUNCTION outbox.is_skipped(uuid, smallint, text) IS 'Relays: whether a stopped delivery lets those behind it in its ordering key pass.';

-- As in 0012; those that are skipped are in nobody's way.
CREATE OR REPLACE FUNCTION outbox.free_next(p_order_key text) RETURNS void LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE outbox.queue q
  SET parked = CASE WHEN q.note LIKE 'failover:%' THEN 'held' END,
      due_at = CASE WHEN q.note LIKE 'failover:%' THEN 'infinity' ELSE greatest(now(), (SELECT m.not_before FROM outbox.message m WHERE m.id = q.message_id)) END
  FROM (
    SELECT n.message_id, n.recipient_no FROM outbox.queue n
    WHERE n.parked = 'ordered'
      AND NOT EXISTS (SELECT FROM outbox.queue h WHERE h.order_key = p_order_key AND h.parked IS DISTINCT FROM 'ordered' AND NOT outbox.is_skipped(h.message_id, h.recipient_no, h.parked))
      AND (n.message_id, n.recipient_no) = (
        SELECT f.message_id, f.recipient_no FROM outbox.queue f
        WHERE f.order_key = p_order_key AND f.parked = 'ordered' ORDER BY f.order_no LIMIT 1)
    FOR UPDATE OF n SKIP LOCKED) n
  WHERE q.message_id = n.message_id AND q.recipient_no = n.recipient_no
$$;
COMMENT ON FUNCTION outbox.free_next(text) IS 'Makes the next delivery of an ordering key due, if its head has ended or is skipped. Does not wait for its lock, and lets nobody overtake it: free_ordered() comes again.';

-- As in 0003; and notes what blocks, and frees what may pass it.
CREATE OR REPLACE FUNCTION outbox.free_ordered() RETURNS bigint LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  stuck record;
  freed bigint := 0;
BEGIN
  DELETE FROM outbox.key_block b
  WHERE NOT EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = b.message_id AND q.recipient_no = b.recipient_no AND q.parked IN ('doubt', 'held', 'poison'));
  FOR stuck IN
    SELECT q.order_key, NOT bool_and(q.parked = 'ordered') AS blocked FROM outbox.queue q WHERE q.order_key IS NOT NULL
    GROUP BY q.order_key HAVING bool_and(coalesce(q.parked IN ('ordered', 'doubt', 'held', 'poison'), false)) AND bool_or(q.parked = 'ordered') ORDER BY q.order_key LIMIT 1000
  LOOP
    IF stuck.blocked THEN
      -- What the configuration says may have changed since.
      INSERT INTO outbox.key_block AS b (message_id, recipient_no, since, skips_at)
      SELECT q.message_id, q.recipient_no, coalesce(q.doubt_since, now()), coalesce(q.doubt_since, now()) + k.skip_after
      FROM outbox.queue q JOIN outbox.message m ON m.id = q.message_id LEFT JOIN outbox.kind k ON k.name = m.kind
      WHERE q.order_key = stuck.order_key AND q.parked IN ('doubt', 'held', 'poison')
      ORDER BY q.message_id, q.recipient_no
      ON CONFLICT (message_id, recipient_no) DO UPDATE SET skips_at = b.since + (excluded.skips_at - excluded.since)
        WHERE b.skips_at IS DISTINCT FROM b.since + (excluded.skips_at - excluded.since);
      CONTINUE WHEN EXISTS (
        SELECT FROM outbox.queue q WHERE q.order_key = stuck.order_key AND q.parked IN ('doubt', 'held', 'poison') AND NOT outbox.is_skipped(q.message_id, q.recipient_no, q.parked));
    END IF;
    PERFORM FROM outbox.ordering o WHERE o.order_key = stuck.order_key FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
      PERFORM outbox.free_next(stuck.order_key);
      freed := freed + 1;
    END IF;
  END LOOP;
  RETURN freed;
END $$;
COMMENT ON FUNCTION outbox.free_ordered() IS 'Frees keys whose head ended while their next delivery was being committed or locked, and those whose head has stopped and is skipped; notes what blocks a key. Called by the reaper.';

-- As in 0018. What fails is held where its key is to wait for it; what is freed has nobody of its key on the way.
CREATE OR REPLACE FUNCTION outbox.settle_batch(
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
           CASE WHEN q.accepted_late IS NOT NULL THEN 'sent'
                -- Not where another attempt may have arrived: released, it would be sent again without the questions of a resend.
                WHEN i.verdict = 'failed' AND q.order_key IS NOT NULL AND q.open_doubts <= (q.parked IS NOT DISTINCT FROM 'doubt')::int
                     AND outbox.failed_blocks(i.message_id) THEN 'held'
                ELSE i.verdict END AS final
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
        note = CASE WHEN h.verdict = 'failed' THEN 'failed, and its ordering key waits for it: ' || h.reason ELSE h.reason END,
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
    -- overtakes it, outbox.free_ordered() frees it later. Where one was skipped, another of its key may be on its way.
    UPDATE outbox.queue q
    SET parked = CASE WHEN q.note LIKE 'failover:%' THEN 'held' END,
        due_at = CASE WHEN q.note LIKE 'failover:%' THEN 'infinity' ELSE greatest(now(), outbox.not_before_of(q.message_id)) END
    FROM gone g CROSS JOIN LATERAL (
      SELECT n.message_id, n.recipient_no FROM outbox.queue n
      WHERE n.parked = 'ordered' AND (n.message_id, n.recipient_no) = (
        SELECT f.message_id, f.recipient_no FROM outbox.queue f
        WHERE f.order_key = g.order_key AND f.parked = 'ordered' ORDER BY f.order_no LIMIT 1)
        AND NOT EXISTS (
          SELECT FROM outbox.queue h WHERE h.order_key = g.order_key AND h.parked IS DISTINCT FROM 'ordered' AND NOT outbox.is_skipped(h.message_id, h.recipient_no, h.parked)
            AND NOT EXISTS (SELECT FROM gone o WHERE o.message_id = h.message_id AND o.recipient_no = h.recipient_no))
      FOR UPDATE OF n SKIP LOCKED) n
    WHERE g.order_key IS NOT NULL AND q.message_id = ANY (ARRAY[n.message_id]) AND q.recipient_no = n.recipient_no
  )
  SELECT message_id, recipient_no, token FROM hit;
END $$;

-- Looking ------------------------------------------------------------------------------------------------------------
CREATE VIEW outbox.blocked_keys AS
SELECT m.tenant, CASE WHEN outbox.may_see_addresses(current_user) THEN m.ordering_key ELSE outbox.mask_text(m.ordering_key) END AS ordering_key,
  k.waiting, q.message_id, q.recipient_no::int AS recipient_no, m.kind, outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) AS state,
  CASE WHEN outbox.may_see_addresses(current_user) THEN outbox.state_reason(q.parked, q.note) ELSE outbox.mask_text(outbox.state_reason(q.parked, q.note)) END AS reason,
  coalesce(b.since, q.doubt_since) AS since, b.skips_at
FROM (
  SELECT o.order_key, count(*) FILTER (WHERE o.parked = 'ordered') AS waiting FROM outbox.queue o WHERE o.order_key IS NOT NULL
  GROUP BY o.order_key HAVING bool_or(o.parked = 'ordered') AND bool_or(o.parked IN ('doubt', 'held', 'poison'))
    AND bool_and(coalesce(o.parked IN ('ordered', 'doubt', 'held', 'poison'), false))) k
JOIN outbox.queue q ON q.order_key = k.order_key AND q.parked IN ('doubt', 'held', 'poison')
JOIN outbox.message m ON m.id = q.message_id
LEFT JOIN outbox.key_block b ON b.message_id = q.message_id AND b.recipient_no = q.recipient_no;
COMMENT ON VIEW outbox.blocked_keys IS 'Ordering keys in which nothing moves because of a delivery that is in doubt or held: which, why, since when (as a relay has met it), how many wait behind it, and when they pass it (skips_at; NULL: they wait until it is decided). Example:
  SELECT tenant, ordering_key, waiting, message_id, state, reason FROM outbox.blocked_keys ORDER BY waiting DESC;';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  ('outbox_relay', 'EXECUTE', '{failed_blocks,is_skipped}'::text[]),
  ('outbox_operator outbox_viewer', 'SELECT', '{blocked_keys}');
SELECT outbox.grant_roles();
