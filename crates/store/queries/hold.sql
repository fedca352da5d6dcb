-- outbox.hold: stops what is not yet sending.
SELECT /* outbox.hold */ r.recipient_no, r.result FROM outbox.hold($1, $2) r
