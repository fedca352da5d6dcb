-- outbox.find_deliveries: the deliveries to one address since so many seconds ago, newest first.
SELECT /* outbox.find_deliveries */ f.message_id, f.recipient_no
FROM outbox.find_deliveries($1, now() - $2::float8 * interval '1 second', $3) f
ORDER BY f.message_id DESC, f.recipient_no
