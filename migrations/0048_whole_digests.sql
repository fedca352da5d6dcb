-- breaking: no
-- When a window closed while another relay had some of it in hand for the moment of a claim, its digest was made without those, and they
-- went in one of their own, a window later. It is waited for them, for two seconds at most: an application may hold a lock for long.
SET LOCAL lock_timeout = '5s';

DO $migration$
DECLARE
  source text := pg_get_functiondef('outbox.collect_batch(uuid[], smallint[], uuid[])'::regprocedure);
  declared text := E'  v_made uuid[];\n';
  made text := E'      v_digest := outbox.make_digest(one.key, one.collect_max);\n';
  begun text := E'    LOOP\n      SELECT count(*) INTO v_waiting';
  ended text := E'    IF v_waiting = 0 OR v_closes <= clock_timestamp() THEN\n';
BEGIN
  IF strpos(source, declared) = 0 OR strpos(source, begun) = 0 OR strpos(source, made) = 0 OR strpos(source, ended) = 0 THEN
    RAISE EXCEPTION 'outbox.collect_batch is not as it was';
  END IF;
  source := replace(source, declared, E'  v_later boolean;\n');
  source := replace(source, begun, E'    v_later := false;\n' || begun);
  source := replace(source, made, $sql$      v_later := clock_timestamp() BETWEEN v_closes AND v_closes + interval '2 seconds' AND v_waiting > (
        SELECT count(*) FROM (
          SELECT FROM outbox.digest_member d JOIN outbox.queue q ON q.message_id = d.message_id AND q.recipient_no = d.recipient_no
          WHERE d.key = one.key AND d.digest_id IS NULL AND q.parked IS NULL AND q.intent IS NULL AND q.intents = 0 FOR UPDATE OF q SKIP LOCKED) free);
      IF v_later THEN
        UPDATE outbox.queue q SET due_at = clock_timestamp() + interval '100 milliseconds'
        FROM unnest(one.ids, one.nos) AS i (id, no) WHERE q.message_id = i.id AND q.recipient_no = i.no AND q.parked IS NULL AND q.lease IS NULL;
        EXIT;
      END IF;
$sql$ || made);
  source := replace(source, ended, E'    IF v_waiting = 0 OR v_closes <= clock_timestamp() AND NOT v_later THEN\n');
  EXECUTE source;
END $migration$;

SELECT outbox.grant_roles();
