-- outbox.claim_turns: the claim for a lane in which several tenants wait, as many for each; with the guards of outbox.claim.
SELECT /* outbox.claim_turns */ lane, message_id, recipient_no, due_at, claims, attempt_no, intents, open_doubts, pinned_route, due_for_s, bound, upstream, first_intent_age_s, turn, seen_due, seen_id, seen_no, seen_all
FROM outbox.claim_turns($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
