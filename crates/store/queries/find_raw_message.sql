-- outbox.find_raw_message: finished messages by their own Message-ID header, newest first.
SELECT /* outbox.find_raw_message */ f.message_id
FROM outbox.find_raw_message($1, now() - $2::float8 * interval '1 second') f ORDER BY f.message_id DESC
