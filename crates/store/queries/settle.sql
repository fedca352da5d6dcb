-- outbox.settle: the hot half of settle, for attempts that still own their delivery: by their token, or (when it is not
-- certain that their intent was ever written) by the lease of their claim. One durable commit for many deliveries.
-- Appends the attempts to the ledger and moves each delivery on: sent, failed, expired (gone from the queue, into
-- done), retry (pending again, lease and intent cleared in the same UPDATE: a delayed first intend must not match), held
-- or in_doubt; doubt_again: back where policy took it from to send it again with the same key, untransmitted. Accepted with
-- the same key: the upstream has de-duplicated, so its earlier doubts are settled, too. An earlier attempt that turned out accepted (accepted_late) outranks every verdict.
-- Attempts without an answer found their row locked by somebody or no longer theirs: outbox.settle_late() looks at them.
-- Answers name the token: two attempts of one delivery may be in one batch, and only one of them owns the row.
SELECT /* outbox.settle */ message_id, recipient_no, token
FROM outbox.settle_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25)
