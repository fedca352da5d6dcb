-- outbox.intend: makes the intents of many deliveries durable in one commit, before any byte of their end markers.
-- Idempotent: when the answer of its COMMIT is lost, execute it again (waiting, see WAIT below), never SELECT: the old
-- backend may commit after the SELECT. Each row is matched by the lease of its claim or the token of this very attempt.
-- Key order, so that two relays cannot deadlock; SKIP LOCKED, so that one row locked by an application's open cancel()
-- does not stall every courier behind 354. Answers granted, refused (seen under lock and not ours) or changed (other
-- bytes than an attempt in doubt); rows without an answer were locked by somebody or are gone. Every answer names its
-- token: one relay may ask for two attempts of one delivery in one batch (its own lease expired under a slow courier), and
-- only the attempt whose token the row carries now may transmit.
-- A delivery that is being sent again with the same key gets an intent only for the upstream that knows the key, inside
-- its window; a repetition is not asked again (the gate asks before the marker). An intent for another upstream, which a
-- person may have decided, ends that for good.
WITH guard AS MATERIALIZED (
  SELECT set_config('synchronous_commit', outbox.durable_commit(), true) IS NOT NULL
     AND set_config('lock_timeout', $10, true) IS NOT NULL
     AND outbox.assert_continues($1, $2, $9, $13) AS ok
),
input AS (
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
         q.open_doubts > 0 AND q.content_sha256 IS NOT NULL AND q.content_sha256 <> i.sha256 AS changed
  FROM input i JOIN outbox.queue q USING (message_id, recipient_no)
  WHERE (SELECT ok FROM guard)
  ORDER BY q.message_id, q.recipient_no
  FOR UPDATE OF q SKIP LOCKED
),
written AS (
  UPDATE /* outbox.intend */ outbox.queue q
  SET intent = s.token, intent_by = $9, intent_at = now(), first_intent_at = coalesce(q.first_intent_at, now()),
      intents = q.intents + (q.intent IS NULL)::int::smallint, content_sha256 = s.sha256, pinned_route = s.route,
      upstream = CASE WHEN q.open_doubts = 0 OR q.upstream = s.upstream THEN s.upstream END
  FROM seen s
  WHERE q.message_id = s.message_id AND q.recipient_no = s.recipient_no AND s.mine AND NOT s.changed
    AND NOT EXISTS (SELECT FROM outbox.done d WHERE d.message_id = q.message_id AND d.recipient_no = q.recipient_no)
  RETURNING q.message_id, q.recipient_no, q.intent
)
SELECT s.message_id, s.recipient_no, s.token,
       CASE WHEN w.intent IS NOT NULL THEN 'granted' WHEN s.mine AND s.changed THEN 'changed' ELSE 'refused' END AS answer
FROM seen s LEFT JOIN written w ON w.message_id = s.message_id AND w.recipient_no = s.recipient_no AND w.intent = s.token
