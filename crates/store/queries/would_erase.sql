-- outbox.would_erase: what erase would do, and nothing is done.
SELECT /* outbox.would_erase */ e.message_id, e.recipient_no, e.result FROM outbox.would_erase($1, $2) e
