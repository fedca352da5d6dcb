-- outbox.retry: failed, cancelled, expired deliveries become pending again, pending ones due now.
SELECT /* outbox.retry */ r.delivery AS recipient_no, r.result FROM outbox.retry($1, $2, $3, $4) r
