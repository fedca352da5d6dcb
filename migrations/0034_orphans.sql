-- breaking: no
-- Mail of a route that was taken out of the configuration: it does not wait for ever for a relay that has it.
SET LOCAL lock_timeout = '5s';

ALTER TABLE outbox.relay ADD COLUMN routes text[];
COMMENT ON COLUMN outbox.relay.routes IS 'The routes it was configured with; NULL: one of an older version, that may have any.';

CREATE FUNCTION outbox.adopt_orphans(batch int DEFAULT 1000) RETURNS bigint LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
  orphan outbox.route;
  moved bigint;
  left_over bigint := greatest(batch, 1);
BEGIN
  -- For five minutes after the last sign of a relay it may come back: a restart is no reason to send its mail another way.
  FOR orphan IN
    SELECT r.* FROM outbox.route r
    WHERE NOT EXISTS (SELECT FROM outbox.relay l WHERE coalesce(l.signed_off_at, l.beat_at) > now() - interval '5 minutes' AND (l.routes IS NULL OR r.name = ANY (l.routes)))
    ORDER BY r.group_no
  LOOP
    UPDATE outbox.kind k SET route = NULL WHERE k.route = orphan.name;
    WITH page AS MATERIALIZED (
      SELECT q.message_id, q.recipient_no, q.lane FROM outbox.queue q
      WHERE q.lane = ANY (ARRAY[orphan.group_no * 4, orphan.group_no * 4 + 1, orphan.group_no * 4 + 2]::int2[]) AND q.due_at <= now()
        AND q.parked IS NULL AND q.intent IS NULL AND (q.lease IS NULL OR q.lease_until < now())
      ORDER BY q.lane, q.due_at LIMIT left_over FOR UPDATE SKIP LOCKED
    )
    UPDATE outbox.queue q SET lane = p.lane % 4::int2 FROM page p WHERE q.message_id = p.message_id AND q.recipient_no = p.recipient_no;
    GET DIAGNOSTICS moved = ROW_COUNT;
    left_over := left_over - moved;
    EXIT WHEN left_over <= 0;
  END LOOP;
  RETURN greatest(batch, 1) - left_over;
END $$;
COMMENT ON FUNCTION outbox.adopt_orphans(int) IS
  'Relays: deliveries that are due in lanes of routes which no relay has had for five minutes go into the lanes of the default route, at most so many per call; answers how many. There each goes by what the configuration says now, or is held when it names a route that is not there. Kinds that led to such a route lead nowhere.';

CREATE FUNCTION outbox.pause_words(p_message_id uuid, p_recipient_no smallint, p_parked text) RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF p_parked IS DISTINCT FROM 'paused' THEN
    RETURN NULL;
  END IF;
  RETURN (SELECT format('paused (%s %s, by %s since %s%s: %s)', p.what, coalesce(p.hint, p.name), p.paused_by, date_trunc('second', p.since), coalesce(' until ' || date_trunc('second', p.until), ''), p.reason)
          FROM outbox.pause_parked k JOIN outbox.pause p ON p.id = k.pause_id AND p.ended_at IS NULL
          WHERE k.message_id = p_message_id AND k.recipient_no = p_recipient_no);
END $$;
COMMENT ON FUNCTION outbox.pause_words(uuid, smallint, text) IS 'What a delivery is parked for, in words; NULL when it is not.';

-- As in 0033; what is parked says for which pause, also where only the relay's configuration knows why its route is that one.
CREATE OR REPLACE VIEW outbox.deliveries AS
SELECT m.id AS message_id, d.recipient_no::int AS recipient_no,
  CASE WHEN outbox.may_see_addresses(current_user) THEN (m.recipients || m.cc || m.bcc)[d.recipient_no]
       ELSE outbox.mask_address((m.recipients || m.cc || m.bcc)[d.recipient_no]) END AS recipient,
  m.kind, d.state,
  CASE WHEN outbox.may_see_addresses(current_user) THEN d.reason ELSE outbox.mask_text(d.reason) END AS reason,
  m.tenant, d.route, CASE d.lane % 4 WHEN 0 THEN 'urgent' WHEN 1 THEN 'normal' ELSE 'bulk' END AS priority,
  m.created_at, d.due_at, d.attempts, d.intents, d.open_doubts, d.resends, d.evidence, d.finished_at, m.not_before, m.expires_at,
  CASE WHEN outbox.may_see_addresses(current_user) THEN m.ordering_key ELSE outbox.mask_text(m.ordering_key) END AS ordering_key,
  CASE WHEN outbox.may_see_addresses(current_user) THEN m.dedup_key ELSE outbox.mask_text(m.dedup_key) END AS dedup_key,
  m.on_doubt, m.application_name, m.session_role, m.txid
FROM outbox.message m
CROSS JOIN LATERAL (
  SELECT q.recipient_no, outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) AS state, 
    CASE WHEN q.intent IS NULL AND coalesce(q.parked, 'paused') = 'paused' AND EXISTS (SELECT FROM outbox.pause p WHERE p.ended_at IS NULL)
         THEN coalesce(outbox.pause_words(m.kind, m.tenant, coalesce(q.pinned_route, m.route, (SELECT r.name FROM outbox.route r WHERE r.group_no = q.lane / 4), 'default'), (m.recipients || m.cc || m.bcc)[q.recipient_no]),
                       outbox.pause_words(q.message_id, q.recipient_no, q.parked), outbox.state_reason(q.parked, q.note))
         ELSE outbox.state_reason(q.parked, q.note) END AS reason, q.lane,
    nullif(q.due_at, 'infinity') AS due_at, q.attempt_no::int AS attempts, q.intents::int AS intents, q.open_doubts::int AS open_doubts, q.resends::int AS resends,
    NULL::text AS evidence, NULL::timestamptz AS finished_at, coalesce(q.pinned_route, m.route) AS route
  FROM outbox.queue q WHERE q.message_id = m.id
  UNION ALL
  SELECT f.recipient_no, f.state, f.reason, f.lane, NULL, f.attempt_no::int, f.intents::int, f.open_doubts::int, f.resends::int, f.evidence, f.finished_at, m.route
  FROM outbox.done f WHERE f.message_id = m.id
) d;

-- What has expired would expire again: its time is part of the message.
DO $migration$
DECLARE
  source text := pg_get_functiondef('outbox.retry(uuid, int, text, boolean)'::regprocedure);
  before text := E'    ELSIF d.open_doubts > 0 AND NOT coalesce(retry.force, false) THEN\n';
BEGIN
  IF strpos(source, before) = 0 THEN
    RAISE EXCEPTION 'outbox.retry is not as it was';
  END IF;
  EXECUTE replace(source, before,
    E'    ELSIF d.state = ''expired'' AND EXISTS (SELECT FROM outbox.message m WHERE m.id = d.message_id AND m.expires_at <= now()) THEN\n'
    || E'      result := ''refused: its expires_at has passed; outbox.send_again() sends it as a new message, which does not expire'';\n' || before);
END $migration$;

INSERT INTO outbox.privilege (roles, privileges, names) VALUES ('outbox_relay', 'EXECUTE', '{adopt_orphans}'::text[]);
SELECT outbox.grant_roles();
