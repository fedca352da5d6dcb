-- outbox.pauses: what a relay shall not hand out now, pauses that have ended while something is parked for them, whether something
-- has expired that is parked, and whether
-- there is a suppression list at all. A plain read of tables that are nearly always empty, twice a second at most.
SELECT /* outbox.pauses */ p.what, p.name, p.ended_at IS NOT NULL OR coalesce(p.until <= now(), false) AS ended
FROM outbox.pause p
WHERE p.ended_at IS NULL OR p.ended_at < now() - interval '1 hour' OR EXISTS (SELECT FROM outbox.pause_parked k WHERE k.pause_id = p.id)
UNION ALL
SELECT 'expired', '', true WHERE EXISTS (
  SELECT FROM outbox.pause_parked k JOIN outbox.queue q ON q.message_id = k.message_id AND q.recipient_no = k.recipient_no
  WHERE k.expires_at <= now() AND q.parked = 'paused')
UNION ALL
SELECT 'suppression', '', false WHERE EXISTS (SELECT FROM outbox.suppression)
