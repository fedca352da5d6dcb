-- outbox.cancel: ends what is not yet sending.
SELECT /* outbox.cancel */ r.recipient_no, r.result FROM outbox.cancel($1, $2) r
