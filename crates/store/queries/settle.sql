-- outbox.settle: the hot half of settle, for attempts that still own their delivery: by their token, or (when it is not
-- certain that their intent was ever written) by the lease of their claim. One durable commit for many deliveries.
-- Appends the attempts to the ledger and moves each delivery on: sent, failed, expired (gone from the queue, into
-- done), retry (pending again, lease and intent cleared in the same UPDATE: a delayed first intend must not match), held
-- or in_doubt. An earlier attempt that turned out accepted (accepted_late) outranks every verdict.
-- Rows without an answer are locked by somebody or are no longer this attempt's: outbox.settle_late() looks at them.
WITH guard AS MATERIALIZED (
  SELECT set_config('synchronous_commit', outbox.durable_commit(), true) IS NOT NULL AND outbox.assert_armed($1, $2) AS ok
),
input AS (
  SELECT * FROM unnest($3::uuid[], $4::int2[], $5::uuid[], $6::uuid[], $7::bool[], $8::text[], $9::float8[], $10::bool[], $11::text[],
                       $12::text[], $13::text[], $14::text[], $15::int2[], $16::text[], $17::text[], $18::text[], $19::text[], $20::text[],
                       $21::float8[], $22::int4[])
    AS i (message_id, recipient_no, lease, token, intended, verdict, after_s, counts, reason,
          outcome, phase, cause, code, enhanced, reply, detail, route, server, took_s, bytes)
),
hit AS MATERIALIZED (
  SELECT i.*, q.parked IS NOT DISTINCT FROM 'doubt' AS was_doubt, q.order_key, q.attempt_no, q.accepted_late,
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
  SELECT g.message_id, g.recipient_no, h.final, CASE WHEN h.final = 'sent' THEN 'reply' END,
         CASE WHEN h.accepted_late IS NOT NULL THEN 'an earlier attempt was accepted' ELSE h.reason END, coalesce(h.accepted_late, h.token),
         greatest(g.open_doubts - (h.was_doubt AND h.outcome <> 'unknown')::int + (h.outcome = 'unknown' AND NOT h.was_doubt)::int, 0), g.attempt_no + coalesce(h.counts, false)::int,
         g.intents, g.resends, g.lane, g.content_sha256, g.address_hash
  FROM gone g JOIN hit h USING (message_id, recipient_no)
),
kept AS (
  UPDATE /* outbox.settle */ outbox.queue q
  SET lease = NULL, lease_until = NULL,
      intent = CASE WHEN h.final = 'in_doubt' THEN q.intent END,
      intent_by = CASE WHEN h.final = 'in_doubt' THEN q.intent_by END,
      intent_at = CASE WHEN h.final = 'in_doubt' THEN q.intent_at END,
      parked = CASE h.final WHEN 'in_doubt' THEN 'doubt' WHEN 'held' THEN 'held' WHEN 'poison' THEN 'poison' END,
      note = h.reason,
      due_at = CASE WHEN h.final = 'retry' THEN now() + h.after_s * interval '1 second' ELSE 'infinity' END,
      doubt_since = CASE WHEN h.final = 'in_doubt' THEN coalesce(q.doubt_since, now()) END,
      doubt_by = CASE WHEN h.final = 'in_doubt' THEN 'relay' END,
      open_doubts = greatest(q.open_doubts + CASE WHEN h.final = 'in_doubt' AND NOT h.was_doubt THEN 1
                                                  WHEN h.final <> 'in_doubt' AND h.was_doubt THEN -1 ELSE 0 END, 0),
      attempt_no = q.attempt_no + coalesce(h.counts, false)::int,
      claims = greatest(q.claims - 1, 0)
  FROM hit h
  WHERE q.message_id = h.message_id AND q.recipient_no = h.recipient_no AND h.final IN ('retry', 'held', 'poison', 'in_doubt')
),
freed AS (
  UPDATE outbox.queue q
  SET parked = NULL, due_at = greatest(now(), (SELECT m.not_before FROM outbox.message m WHERE m.id = q.message_id))
  FROM gone g CROSS JOIN LATERAL (
    SELECT n.message_id, n.recipient_no FROM outbox.queue n
    WHERE n.order_key = g.order_key AND n.parked = 'ordered' ORDER BY n.order_no LIMIT 1) n
  WHERE g.order_key IS NOT NULL AND q.message_id = n.message_id AND q.recipient_no = n.recipient_no
)
SELECT message_id, recipient_no FROM hit
