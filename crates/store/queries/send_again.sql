-- outbox.send_again: what has ended once more, as a new message.
SELECT /* outbox.send_again */ outbox.send_again($1, $2, $3) AS id
