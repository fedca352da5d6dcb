-- outbox.settle: the hot half of settle, for attempts that still own their delivery: by their token, or (when it is not
-- certain that their intent was ever written) by the lease of their claim. One durable commit for many deliveries.
-- Appends the attempts to the ledger and moves each delivery on: sent, failed, expired (gone from the queue, into
-- done), retry (pending again, lease and intent cleared in the same UPDATE: a delayed first intend must not match), held
-- or in_doubt; doubt_again: back where policy took it from to send it again with the same key, untransmitted. Accepted with
-- the same key: the upstream has de-duplicated, so its earlier doubts are settled, too. An earlier attempt that turned out accepted (accepted_late) outranks every verdict.
-- Attempts without an answer found their row locked by somebody or no longer theirs: outbox.settle_late() looks at them.
-- Answers name the token: two attempts of one delivery may be in one batch, and only one of them owns the row.
WITH guard AS MATERIALIZED (
  SELECT set_config('synchronous_commit', outbox.durable_commit(), true) IS NOT NULL AND outbox.assert_armed($1, $2) AS ok
),
input AS (
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
  FROM input i JOIN outbox.queue q USING (message_id, recipient_no)
  WHERE (SELECT ok FROM guard)
    AND (q.intent = i.token OR (NOT i.intended AND q.intent IS NULL AND q.lease = i.lease))
  ORDER BY q.message_id, q.recipient_no
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
  WHERE q.message_id = h.message_id AND q.recipient_no = h.recipient_no AND h.final IN ('sent', 'failed', 'expired', 'suppressed')
  RETURNING q.message_id, q.recipient_no, q.lane, q.attempt_no, q.intents, q.resends, q.open_doubts, q.content_sha256, q.address_hash, q.order_key
),
finished AS (
  INSERT INTO outbox.done (message_id, recipient_no, state, evidence, reason, token, open_doubts, attempt_no, intents, resends, lane, content_sha256, address_hash)
  SELECT g.message_id, g.recipient_no, h.final,
         CASE WHEN h.final <> 'sent' THEN NULL WHEN h.deduplicated AND h.accepted_late IS NULL THEN 'idempotent upstream' ELSE 'reply' END,
         CASE WHEN h.accepted_late IS NOT NULL THEN 'an earlier attempt was accepted' ELSE h.reason END, coalesce(h.accepted_late, h.token),
         CASE WHEN h.deduplicated THEN 0 ELSE greatest(g.open_doubts + h.doubts, 0) END, g.attempt_no + (h.counts AND NOT h.counted)::int,
         g.intents, g.resends, g.lane, g.content_sha256, g.address_hash
  FROM gone g JOIN hit h USING (message_id, recipient_no)
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
  WHERE q.message_id = h.message_id AND q.recipient_no = h.recipient_no AND h.final IN ('retry', 'held', 'poison', 'in_doubt', 'doubt_again')
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
  WHERE g.order_key IS NOT NULL AND q.message_id = n.message_id AND q.recipient_no = n.recipient_no
)
SELECT message_id, recipient_no, token FROM hit
