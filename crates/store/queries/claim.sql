-- outbox.claim: leases up to $9 due deliveries of one lane, behind the cursor ($6, $7, $8).
-- The queue alone is read, contents are fetched by id afterwards: joined with 300 partitions an empty poll costs 20 times
-- as much. SKIP LOCKED, so that relays never wait for each other; ctid = ANY(ARRAY(...)), so that the rows are found once.
-- The cursor skips the dead entries at the head of the index. A lost claim is harmless, so its commit is asynchronous.
WITH guard AS MATERIALIZED (
  SELECT set_config('synchronous_commit', 'off', true) IS NOT NULL AND outbox.assert_armed($1, $2) AS ok
)
UPDATE /* outbox.claim */ outbox.queue q
SET lease = $3, lease_until = now() + $4 * interval '1 second', claims = least(q.claims, 32766) + 1
WHERE q.ctid = ANY (ARRAY(
  SELECT c.ctid FROM outbox.queue c
  WHERE (SELECT ok FROM guard)
    AND c.lane = $5 AND c.due_at <= now() AND (c.due_at, c.message_id, c.recipient_no) > ($6, $7, $8)
    AND c.intent IS NULL AND c.parked IS NULL
    -- An expired lease, one without an end, or one absurdly far ahead because the clock went back, is nobody's.
    AND (c.lease IS NULL OR c.lease_until IS NULL OR c.lease_until < now() OR c.lease_until > now() + interval '1 day')
  ORDER BY c.due_at, c.message_id, c.recipient_no
  LIMIT $9 FOR UPDATE OF c SKIP LOCKED))
RETURNING q.message_id, q.recipient_no, q.due_at, q.claims, q.attempt_no, q.intents, q.open_doubts, q.pinned_route,
  extract(epoch FROM now() - q.due_at)::float8 AS due_for_s,
  outbox.is_bound(q.same_key_of, q.prev_intent, q.open_doubts) AS bound, q.upstream, extract(epoch FROM now() - q.first_intent_at)::float8 AS first_intent_age_s
