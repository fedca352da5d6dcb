-- outbox.release_held: lets held deliveries go on.
SELECT /* outbox.release_held */ r.recipient_no, r.result FROM outbox.release($1, $2) r
