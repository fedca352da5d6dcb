-- outbox.renew: a relay that lives keeps what it has in hand, however slow the server: without this a dialogue longer than
-- the lease would be claimed again and again, and never end. Asynchronous: a lost renewal is only an expired lease.
WITH guard AS MATERIALIZED (
  SELECT set_config('synchronous_commit', 'off', true) IS NOT NULL AND outbox.assert_armed($1, $2) AS ok
),
hit AS MATERIALIZED (
  SELECT q.message_id, q.recipient_no
  FROM unnest($3::uuid[], $4::int2[], $5::uuid[]) AS i (message_id, recipient_no, lease) JOIN outbox.queue q USING (message_id, recipient_no)
  WHERE (SELECT ok FROM guard) AND q.lease = i.lease AND q.intent IS NULL
  ORDER BY q.message_id, q.recipient_no FOR UPDATE OF q SKIP LOCKED
)
UPDATE /* outbox.renew */ outbox.queue q SET lease_until = now() + $6 * interval '1 second'
FROM hit h WHERE q.message_id = h.message_id AND q.recipient_no = h.recipient_no
RETURNING q.message_id
