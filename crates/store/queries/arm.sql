-- outbox.arm: a person declares that this database is the one to send from.
SELECT /* outbox.arm */ a.identity, a.previous_identity, a.epoch, a.cause, a.held, a.in_doubt, a.sending FROM outbox.arm($1, $2) a
