-- outbox.collect: gathers claimed deliveries whose kinds collect, by their leases, and makes the digests that are due: one
-- transaction, so that a digest and what it was made of are there together or not at all. Asynchronous: what is lost in a crash is
-- gathered again, and an intent for a digest is written later.
WITH guard AS MATERIALIZED (
  SELECT set_config('synchronous_commit', 'off', true) IS NOT NULL AND outbox.assert_armed($1, $2) AS ok
)
SELECT /* outbox.collect */ c.message_id, c.recipient_no, c.verdict, c.digest_id
FROM guard g CROSS JOIN LATERAL outbox.collect_batch($3, $4, $5) c
WHERE g.ok
