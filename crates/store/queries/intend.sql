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
SELECT /* outbox.intend */ message_id, recipient_no, token, answer
FROM outbox.intend_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
