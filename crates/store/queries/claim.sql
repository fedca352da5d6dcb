-- outbox.claim: leases due deliveries of many lanes in their order, each behind its cursor, within the room of its route and
-- the room of the relay. The queue alone is read, contents are fetched by id afterwards: joined with 300 partitions an empty
-- poll costs 20 times as much. SKIP LOCKED, so that relays never wait for each other. The cursor skips the dead entries at the
-- head of the index. A lost claim is harmless, so its commit is asynchronous.
SELECT /* outbox.claim */ lane, message_id, recipient_no, due_at, claims, attempt_no, intents, open_doubts, pinned_route, due_for_s, bound, upstream, first_intent_age_s
FROM outbox.claim_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
