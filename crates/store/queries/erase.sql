-- outbox.erase: takes an address out of every table, in one batch of so many messages.
SELECT /* outbox.erase */ e.message_id, e.recipient_no, e.result FROM outbox.erase($1, $2, $3, $4) e
