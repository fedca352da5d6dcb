-- outbox.settle_evidence: what a mail server's log says of one attempt.
SELECT /* outbox.settle_evidence */ outbox.settle_evidence($1, $2, $3, $4, $5) AS result
