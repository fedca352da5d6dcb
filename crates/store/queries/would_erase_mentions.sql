-- outbox.would_erase_mentions: what erase_mentions would do, one page of so many messages after $2, and nothing is done.
SELECT /* outbox.would_erase_mentions */ e.message_id, NULL::int4 AS recipient_no, e.result FROM outbox.would_erase_mentions($1, $2, $3) e
