-- outbox.doctor_indexes: indexes of the outbox that are not usable, and those the protocol needs that are not there.
SELECT /* outbox.doctor_indexes */ i.indexrelid::regclass::text AS name, 'invalid' AS fault
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = 'outbox'::regnamespace AND NOT (i.indisvalid AND i.indisready)
UNION ALL
SELECT 'outbox.' || n.name, 'missing'
FROM unnest('{queue_pkey,queue_due,queue_ordered,queue_stopped,queue_heads,done_pkey,done_address,done_unsent,message_pkey,attempt_pkey,dedup_key_pkey,relay_pkey}'::text[]) n(name)
WHERE to_regclass('outbox.' || n.name) IS NULL
ORDER BY 1
