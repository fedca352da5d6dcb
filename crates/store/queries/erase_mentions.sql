-- outbox.erase_mentions: empties messages to others that have an address in them, one page of so many messages after $3.
SELECT /* outbox.erase_mentions */ e.message_id, NULL::int4 AS recipient_no, e.result FROM outbox.erase_mentions($1, $2, $3, $4) e
