-- outbox.own_sending: the intents this incarnation is said to hold; those it provably never transmitted it settles itself.
SELECT /* outbox.own_sending */ message_id, recipient_no, intent FROM outbox.queue
WHERE intent_by = $1 AND intent IS NOT NULL AND parked IS NULL
