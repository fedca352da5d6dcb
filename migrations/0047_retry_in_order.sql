-- breaking: no
-- A retry left its ordering key: what was cancelled or had failed and was tried again went out while the head of its key was in doubt,
-- held or not yet due. It goes behind whatever of its key waits now.
SET LOCAL lock_timeout = '5s';

-- As 0038 left it, and into the ordering key.
CREATE OR REPLACE FUNCTION outbox.reopen(d outbox.done, p_parked text, p_note text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_key text;
  v_tenant text;
BEGIN
  IF outbox.is_content_gone(d.message_id) THEN
    IF p_parked IS NULL THEN PERFORM outbox.require_content('retry', d.message_id); END IF;
    UPDATE outbox.done x SET state = 'failed', evidence = NULL, reason = p_note || '; its content is gone', open_doubts = d.open_doubts
    WHERE x.message_id = d.message_id AND x.recipient_no = d.recipient_no;
    RETURN;
  END IF;
  SELECT outbox.order_key(m.tenant, m.ordering_key), m.tenant INTO v_key, v_tenant FROM outbox.message m WHERE m.id = d.message_id;
  -- What is held is decided by somebody, and its key has gone on.
  IF v_key IS NOT NULL AND p_parked IS NULL THEN
    -- As queue_ordered(): behind those who enqueue for the key now; the next statement sees what they have committed.
    INSERT INTO outbox.ordering AS o (order_key) VALUES (v_key) ON CONFLICT (order_key) DO UPDATE SET last_used = now();
    IF EXISTS (SELECT FROM outbox.queue q WHERE q.order_key = v_key) THEN
      p_parked := 'ordered';
    END IF;
  ELSE
    v_key := NULL;
  END IF;
  DELETE FROM outbox.done x WHERE x.message_id = d.message_id AND x.recipient_no = d.recipient_no;
  INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, parked, note, attempt_no, intents, open_doubts, resends, prev_intent, content_sha256, address_hash,
                            order_key, order_no, tenant_no)
  VALUES (d.message_id, d.recipient_no, d.lane, CASE WHEN p_parked IS NULL THEN greatest(now(), outbox.not_before_of(d.message_id)) ELSE 'infinity' END, p_parked, p_note,
          d.attempt_no, d.intents, d.open_doubts, d.resends, d.token, d.content_sha256, d.address_hash,
          v_key, CASE WHEN v_key IS NOT NULL THEN nextval('outbox.order_no') END, hashtext(v_tenant) & 2147483647);
END $$;

DO $migration$
DECLARE
  source text := pg_get_functiondef('outbox.retry(uuid, int, text, boolean)'::regprocedure);
  told text := 'result := ''pending: it was '' || d.state ||';
BEGIN
  IF strpos(source, told) = 0 THEN
    RAISE EXCEPTION 'outbox.retry is not as it was';
  END IF;
  EXECUTE replace(source, told, told || ' CASE WHEN EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = d.message_id AND q.recipient_no = d.recipient_no AND q.parked = ''ordered'')
        THEN '', behind what waits for its ordering key'' ELSE '''' END ||');
END $migration$;

SELECT outbox.grant_roles();
