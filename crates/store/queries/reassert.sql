-- outbox.reassert: what this relay remembers of its attempts, against what the answering server knows. Needs no arming.
SELECT /* outbox.reassert */ r.message_id, r.recipient_no, r.token, r.answer
FROM outbox.reassert($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21) r
