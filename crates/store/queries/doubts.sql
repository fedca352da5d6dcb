-- outbox.doubts: deliveries in doubt that a policy may decide, oldest first. The index of what has stopped has them in this
-- order, whatever else waits; each message is looked up (LIMIT 1: all of them would be read to join many doubts).
-- What was in doubt when the database failed over waits for a person: it may have been decided, and sent, before.
-- Pages go on behind the whole key, or the remaining recipients of a message at the limit are skipped.
SELECT /* outbox.doubts */ q.message_id, q.recipient_no, q.intent, q.resends, q.doubt_by, m.kind, m.on_doubt,
       extract(epoch FROM coalesce(r.doubt_grace, interval '15 minutes'))::float8 AS grace_s, r.signed_off_at IS NOT NULL AS signed_off,
       q.pinned_route, q.upstream, extract(epoch FROM now() - q.first_intent_at)::float8 AS first_intent_age_s, q.same_key_resends
FROM outbox.queue q CROSS JOIN LATERAL (SELECT x.kind, x.on_doubt FROM outbox.message x WHERE x.id = q.message_id LIMIT 1) m LEFT JOIN outbox.relay r ON r.incarnation = q.intent_by
WHERE q.parked = 'doubt' AND q.lane = ANY ($1) AND coalesce(q.note, '') NOT LIKE 'failover:%' AND (q.message_id, q.recipient_no) > ($2, $3)
ORDER BY q.message_id, q.recipient_no LIMIT $4
