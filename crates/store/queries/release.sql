-- outbox.release: gives back what was claimed and has no intent (shutdown, a closed route), optionally later or into
-- another lane, or with words for people in a note that said nothing, or such words before. Never touches a row with an intent. SKIP LOCKED: one row that an application has locked must not keep all
-- the others leased; its own lease expires.
WITH guard AS MATERIALIZED (
  SELECT set_config('synchronous_commit', 'off', true) IS NOT NULL AND outbox.assert_armed($1, $2) AS ok
),
input AS (
  SELECT * FROM unnest($3::uuid[], $4::int2[], $5::uuid[], $6::float8[], $7::int2[], $8::text[]) AS i (message_id, recipient_no, lease, after_s, lane, note)
),
hit AS MATERIALIZED (
  SELECT q.message_id, q.recipient_no, i.after_s, i.lane, i.note FROM input i JOIN outbox.queue q USING (message_id, recipient_no)
  WHERE (SELECT ok FROM guard) AND q.lease = i.lease AND q.intent IS NULL
  ORDER BY q.message_id, q.recipient_no FOR UPDATE OF q SKIP LOCKED
)
UPDATE /* outbox.release */ outbox.queue q
SET lease = NULL, lease_until = NULL, claims = greatest(q.claims - 1, 0), lane = coalesce(h.lane, q.lane),
    note = CASE WHEN q.note IS NULL OR q.note LIKE 'quiet hours%' THEN coalesce(h.note, q.note) ELSE q.note END,
    due_at = CASE WHEN h.after_s > 0 THEN greatest(q.due_at, now() + h.after_s * interval '1 second') ELSE q.due_at END
FROM hit h WHERE q.message_id = h.message_id AND q.recipient_no = h.recipient_no
RETURNING q.message_id, q.recipient_no
