-- outbox.doctor_triggers: triggers of the outbox that are not enabled as the migrations made them, and what puts each back. One is for
-- sessions that replicate, the others for all that do not.
SELECT /* outbox.doctor_triggers */ t.tgname::text AS name, t.tgrelid::regclass::text AS of, t.tgenabled::text AS enabled,
       format('ALTER TABLE %s ENABLE %sTRIGGER %I;', t.tgrelid::regclass, CASE WHEN t.tgname = 'queue_is_ours' THEN 'REPLICA ' END, t.tgname) AS remedy
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = 'outbox'::regnamespace AND NOT t.tgisinternal AND t.tgparentid = 0
  AND t.tgenabled <> CASE WHEN t.tgname = 'queue_is_ours' THEN 'R' ELSE 'O' END
ORDER BY 1
