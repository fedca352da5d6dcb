-- outbox.find_token: the delivery of an attempt or doubt.
SELECT /* outbox.find_token */ f.message_id, f.recipient_no FROM outbox.find_token($1) f
