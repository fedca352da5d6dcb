-- outbox.circumstances: dedup key, ordering key, origin and relay of one message's deliveries, masked; and of a
-- digest what it was made of, the first 100.
SELECT /* outbox.circumstances */ c.recipient_no, outbox.mask_text(c.dedup_key) AS dedup_key,
       to_char(c.key_until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS key_until, c.key_until > now() AS key_in_force, c.key_holder,
       c.waits_for, c.waits_for_no, c.waits_for_state, c.ahead,
       c.copy_of, to_char(c.copied_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS copied_at, c.copied_by::text AS copied_by,
       outbox.mask_text(c.copy_reason) AS copy_reason, extract(epoch FROM c.relay_silent)::float8 AS relay_silent_s, c.same_key,
       ARRAY(SELECT m.message_id || '/' || m.recipient_no FROM outbox.digest_members m WHERE m.digest_id = $1 ORDER BY m.message_id, m.recipient_no LIMIT 100) AS made_of
FROM outbox.circumstances($1) c ORDER BY c.recipient_no
