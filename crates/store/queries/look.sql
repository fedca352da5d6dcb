-- outbox.look: in which of these lanes a claim would find something, and when the next delivery is due: one plain read for
-- an idle relay instead of a claim per lane. A hint: the claim decides, with all its guards. Each lane is walked in the
-- order of its index up to the first hit. Who is registered as sleeping asks for a mark
-- ($3): a transaction number of its own, which only those lack that were assigned one before, and so may not have seen the
-- registration; they have all ended when the oldest open one is above the mark. $2: how many producers wait for each other
-- to notify.
SELECT /* outbox.look */
  array_agg(l.lane) FILTER (WHERE d.due) AS due, extract(epoch FROM min(n.due_at) - now())::float8 AS next_in_s,
  pg_snapshot_xmin(pg_current_snapshot())::text::int8 AS oldest, CASE WHEN $3 THEN pg_current_xact_id()::text::int8 END AS mark,
  CASE WHEN $2 THEN (SELECT count(*) FROM pg_locks k
                     WHERE k.locktype = 'object' AND k.database = 0 AND k.classid = 1262 AND k.objid = 0 AND NOT k.granted) ELSE 0 END AS waiting
FROM unnest($1::int2[]) AS l (lane)
LEFT JOIN LATERAL (
  SELECT true AS due FROM outbox.queue c
  WHERE c.lane = l.lane AND c.due_at <= now() AND c.intent IS NULL AND c.parked IS NULL
    AND (c.lease IS NULL OR c.lease_until IS NULL OR c.lease_until < now() OR c.lease_until > now() + interval '1 day')
  ORDER BY c.due_at, c.message_id, c.recipient_no LIMIT 1) d ON true
LEFT JOIN LATERAL (
  SELECT c.due_at FROM outbox.queue c
  WHERE c.lane = l.lane AND c.due_at > now() AND c.due_at < 'infinity' AND d.due IS NULL
  ORDER BY c.due_at, c.message_id, c.recipient_no LIMIT 1) n ON true
