-- breaking: no
-- One address can be paused, too: by its hash, as the suppression list has it.
SET LOCAL lock_timeout = '5s';

ALTER TABLE outbox.pause
  ADD COLUMN hint text,
  ADD COLUMN address_hash bigint,
  DROP CONSTRAINT pause_what_is_known,
  ADD CONSTRAINT pause_what_is_known CHECK (what IN ('route', 'kind', 'tenant', 'address') AND (what = 'address') = (address_hash IS NOT NULL));
COMMENT ON COLUMN outbox.pause.name IS 'Of an address: SHA-256 of it in lower case, in hex digits.';
COMMENT ON COLUMN outbox.pause.hint IS 'What people are shown: the name, or the masked address.';
COMMENT ON COLUMN outbox.pause.address_hash IS 'outbox.address_hash(): what queue rows have. Finds candidates.';

-- As in 0030; and by address.
CREATE OR REPLACE FUNCTION outbox.stop_batch(p_message_ids uuid[], p_recipient_nos smallint[], p_leases uuid[], p_tokens uuid[], p_routes text[])
RETURNS TABLE (message_id uuid, recipient_no smallint, token uuid, done boolean, verdict text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  found_one record;
  row_of outbox.queue;
BEGIN
  RETURN QUERY
  WITH told AS MATERIALIZED (
    SELECT i.message_id, i.recipient_no, i.lease, i.token, p.id AS pause_id, m.expires_at
    FROM unnest($1, $2, $3, $4, $5) AS i (message_id, recipient_no, lease, token, route)
    JOIN outbox.queue q ON q.message_id = ANY (ARRAY[i.message_id]) AND q.recipient_no = i.recipient_no AND q.lease = i.lease AND q.intent IS NULL AND q.parked IS NULL
    CROSS JOIN LATERAL (SELECT x.kind, x.tenant, x.expires_at, (x.recipients || x.cc || x.bcc)[i.recipient_no] AS mailbox FROM outbox.message x WHERE x.id = ANY (ARRAY[i.message_id])) m
    CROSS JOIN LATERAL (
      SELECT p.id FROM outbox.pause p
      WHERE p.ended_at IS NULL AND (p.until IS NULL OR p.until > now())
        AND p.name = CASE p.what WHEN 'kind' THEN m.kind WHEN 'tenant' THEN m.tenant WHEN 'route' THEN i.route
                            ELSE CASE WHEN p.address_hash = q.address_hash THEN encode(outbox.address_digest(m.mailbox), 'hex') END END
      ORDER BY p.id LIMIT 1) p
  ),
  hit AS MATERIALIZED (
    SELECT t.message_id, t.recipient_no, t.token, t.pause_id, t.expires_at, q.due_at
    FROM told t JOIN outbox.queue q ON q.message_id = ANY (ARRAY[t.message_id]) AND q.recipient_no = t.recipient_no
    WHERE q.lease = t.lease AND q.intent IS NULL AND q.parked IS NULL
    ORDER BY t.message_id, t.recipient_no FOR UPDATE OF q SKIP LOCKED
  ),
  kept AS (
    INSERT INTO outbox.pause_parked (message_id, recipient_no, pause_id, due_at, expires_at)
    SELECT DISTINCT ON (h.message_id, h.recipient_no) h.message_id, h.recipient_no, h.pause_id, h.due_at, h.expires_at FROM hit h ORDER BY h.message_id, h.recipient_no
    ON CONFLICT (message_id, recipient_no) DO UPDATE SET pause_id = excluded.pause_id, due_at = excluded.due_at, expires_at = excluded.expires_at
  ),
  parked AS (
    UPDATE outbox.queue q SET parked = 'paused', due_at = 'infinity', lease = NULL, lease_until = NULL, claims = greatest(q.claims - 1, 0)
    FROM hit h WHERE q.message_id = ANY (ARRAY[h.message_id]) AND q.recipient_no = h.recipient_no
  )
  SELECT t.message_id, t.recipient_no, t.token, EXISTS (SELECT FROM hit h WHERE h.token = t.token AND h.message_id = t.message_id AND h.recipient_no = t.recipient_no), 'paused'
  FROM told t;
  IF NOT EXISTS (SELECT FROM outbox.suppression) THEN
    RETURN;
  END IF;
  -- By the hash that the queue row has; the message is read only where that is in the list. A hash is not an address.
  FOR found_one IN
    SELECT i.message_id, i.recipient_no, i.lease, i.token, s.words
    FROM unnest($1, $2, $3, $4) AS i (message_id, recipient_no, lease, token)
    JOIN outbox.queue q ON q.message_id = ANY (ARRAY[i.message_id]) AND q.recipient_no = i.recipient_no AND q.lease = i.lease AND q.intent IS NULL AND q.parked IS NULL
    CROSS JOIN LATERAL (SELECT FROM outbox.suppression h WHERE h.address_hash = ANY (ARRAY[q.address_hash]) LIMIT 1) h
    CROSS JOIN LATERAL (
      SELECT x.kind, x.tenant, outbox.address_digest((x.recipients || x.cc || x.bcc)[i.recipient_no]) AS digest FROM outbox.message x WHERE x.id = ANY (ARRAY[i.message_id]) OFFSET 0) m
    CROSS JOIN LATERAL (
      SELECT format('on the suppression list: %s since %s (entry %s)', e.reason, date_trunc('second', e.since), e.id) AS words FROM outbox.suppression e
      WHERE e.address_hash = ANY (ARRAY[q.address_hash]) AND e.digest = m.digest AND (e.until IS NULL OR e.until > now())
        AND (e.kind IS NULL OR e.kind = m.kind) AND (e.tenant IS NULL OR e.tenant = m.tenant)
      ORDER BY e.id LIMIT 1) s
    WHERE NOT EXISTS (SELECT FROM outbox.kind k WHERE k.name = m.kind AND k.ignores_suppression)
    ORDER BY i.message_id, i.recipient_no
  LOOP
    SELECT x.* INTO row_of FROM outbox.queue x
    WHERE x.message_id = found_one.message_id AND x.recipient_no = found_one.recipient_no AND x.lease = found_one.lease AND x.intent IS NULL AND x.parked IS NULL
    FOR UPDATE SKIP LOCKED;
    done := FOUND;
    IF FOUND THEN
      -- With its doubts, if it has any: a copy may have arrived before.
      PERFORM outbox.finish(row_of, 'suppressed', NULL, found_one.words, row_of.prev_intent, row_of.open_doubts);
    END IF;
    message_id := found_one.message_id; recipient_no := found_one.recipient_no; token := found_one.token; verdict := 'suppressed';
    RETURN NEXT;
  END LOOP;
END $$;

DROP FUNCTION outbox.pause_target(text, text, text, text);
CREATE FUNCTION outbox.pause_target(p_function text, p_route text, p_kind text, p_tenant text, p_address text, OUT what text, OUT name text, OUT hint text, OUT address_hash bigint) LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF num_nonnulls(p_route, p_kind, p_tenant, p_address) <> 1 THEN
    RAISE EXCEPTION USING ERRCODE = '22H70', MESSAGE = format('outbox.%s: kind: exactly one of route, kind, tenant, address must be given, not %s', p_function, num_nonnulls(p_route, p_kind, p_tenant, p_address)), COLUMN = 'kind',
      HINT = format('SELECT outbox.%s(kind => ''newsletter'', reason => ''why'')', p_function);
  END IF;
  IF p_address IS NOT NULL THEN
    what := 'address';
    hint := outbox.require_address(p_function, p_address);
    name := encode(outbox.address_digest(hint), 'hex');
    address_hash := outbox.address_hash(hint);
    hint := outbox.mask_address(hint);
    RETURN;
  END IF;
  what := CASE WHEN p_route IS NOT NULL THEN 'route' WHEN p_kind IS NOT NULL THEN 'kind' ELSE 'tenant' END;
  name := coalesce(p_route, p_kind, p_tenant);
  hint := name;
  IF name = '' THEN
    RAISE EXCEPTION USING ERRCODE = '22H70', MESSAGE = format('outbox.%s: %s: is empty', p_function, what), COLUMN = what, HINT = 'name it';
  END IF;
END $$;
COMMENT ON FUNCTION outbox.pause_target(text, text, text, text, text) IS 'Private: what is to be paused or resumed; raises 22H70, and 22H73 without repeating the address.';

DROP FUNCTION outbox.pause(text, text, text, text, timestamptz);
CREATE FUNCTION outbox.pause(reason text, route text DEFAULT NULL, kind text DEFAULT NULL, tenant text DEFAULT NULL, until timestamptz DEFAULT NULL, address text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  target record;
  known outbox.pause;
BEGIN
  PERFORM outbox.require_reason('pause', pause.reason);
  SELECT * INTO target FROM outbox.pause_target('pause', pause.route, pause.kind, pause.tenant, pause.address);
  IF pause.until <= now() THEN
    RAISE EXCEPTION USING ERRCODE = '22H71', MESSAGE = format('outbox.pause: until: %s has passed', date_trunc('second', pause.until)), COLUMN = 'until',
      HINT = 'give a time that lies ahead, or none: then it lasts until outbox.resume()';
  END IF;
  IF target.what = 'route' AND NOT EXISTS (SELECT FROM outbox.route r WHERE r.name = target.name) THEN
    RAISE EXCEPTION USING ERRCODE = '22H72', MESSAGE = format('outbox.pause: route: no relay has ever had a route %L', left(target.name, 100)), COLUMN = 'route',
      HINT = (SELECT 'there are: ' || coalesce(string_agg(r.name, ', ' ORDER BY r.name), 'none') FROM outbox.route r);
  END IF;
  UPDATE outbox.pause p SET ended_at = p.until WHERE p.what = target.what AND p.name = target.name AND p.ended_at IS NULL AND p.until <= now();
  LOOP
    SELECT p.* INTO known FROM outbox.pause p WHERE p.what = target.what AND p.name = target.name AND p.ended_at IS NULL FOR UPDATE;
    EXIT WHEN FOUND;
    INSERT INTO outbox.pause (what, name, hint, address_hash, reason, until) VALUES (target.what, target.name, target.hint, target.address_hash, pause.reason, pause.until) ON CONFLICT DO NOTHING;
    IF FOUND THEN
      PERFORM outbox.audit_entry('pause', NULL, NULL, NULL, pause.reason, format('%s %s', target.what, target.hint),
                                 format('paused (%s %s)', target.what, target.hint) || coalesce(' until ' || date_trunc('second', pause.until), ''));
      RETURN format('paused: %s %s', target.what, target.hint)
        || CASE WHEN target.what = 'kind' AND NOT EXISTS (SELECT FROM outbox.kind k WHERE k.name = target.name) THEN ' (no relay''s configuration names this kind: compare its spelling)' ELSE '' END;
    END IF;
  END LOOP;
  -- Who says it again says why and for how long from now on.
  UPDATE outbox.pause p SET reason = pause.reason, until = pause.until WHERE p.id = known.id;
  PERFORM outbox.audit_entry('pause', NULL, NULL, NULL, pause.reason, format('paused (%s %s)', target.what, target.hint) || coalesce(' until ' || date_trunc('second', known.until), ''),
                             format('paused (%s %s)', target.what, target.hint) || coalesce(' until ' || date_trunc('second', pause.until), ''));
  RETURN format('already paused: %s %s, by %s since %s; its reason and end are the new ones', target.what, target.hint, known.paused_by, date_trunc('second', known.since));
END $$;
COMMENT ON FUNCTION outbox.pause(text, text, text, text, timestamptz, text) IS
'Pauses one route, kind, tenant or address, until outbox.resume() or the time given: relays hand out nothing of it within half a second, and nothing of it gets an intent once this has committed (one whose intent was being written just then is delivered; nobody calls back what is on the wire). One row, however much waits. Of an address a hash is kept, and what those see who may not see addresses. Nothing is lost by it: deliveries stay pending, and end as expired where their time passes meanwhile. Repeating it changes reason and end. Example:
  SELECT outbox.pause(kind => ''newsletter'', reason => ''wrong price in the text'', until => now() + interval ''2 hours'');';

DROP FUNCTION outbox.resume(text, text, text, text);
CREATE FUNCTION outbox.resume(reason text, route text DEFAULT NULL, kind text DEFAULT NULL, tenant text DEFAULT NULL, address text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  target record;
  known outbox.pause;
BEGIN
  PERFORM outbox.require_reason('resume', resume.reason);
  SELECT * INTO target FROM outbox.pause_target('resume', resume.route, resume.kind, resume.tenant, resume.address);
  UPDATE outbox.pause p SET ended_at = now() WHERE p.what = target.what AND p.name = target.name AND p.ended_at IS NULL RETURNING p.* INTO known;
  IF NOT FOUND THEN
    RETURN format('nothing to resume: %s %s is not paused', target.what, target.hint);
  END IF;
  PERFORM outbox.audit_entry('resume', NULL, NULL, NULL, resume.reason, format('paused (%s %s)', target.what, target.hint), 'resumed');
  -- The first go at once; relays come for the others.
  PERFORM outbox.unpark(1000);
  PERFORM outbox.wake_relays();
  RETURN format('resumed: %s %s, paused by %s since %s', target.what, target.hint, known.paused_by, date_trunc('second', known.since));
END $$;
COMMENT ON FUNCTION outbox.resume(text, text, text, text, text) IS
'Ends a pause. What waited goes on in the order in which it was due; what has expired meanwhile ends as expired. Repeating it is a no-op that says so. Example:
  SELECT outbox.resume(kind => ''newsletter'', reason => ''price corrected'');';

-- Looking ------------------------------------------------------------------------------------------------------------
CREATE FUNCTION outbox.pause_words(p_kind text, p_tenant text, p_route text, p_mailbox text) RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT format('paused (%s %s, by %s since %s%s: %s)', p.what, coalesce(p.hint, p.name), p.paused_by, date_trunc('second', p.since), coalesce(' until ' || date_trunc('second', p.until), ''), p.reason)
          FROM outbox.pause p
          WHERE p.ended_at IS NULL AND (p.until IS NULL OR p.until > now())
            AND p.name = CASE p.what WHEN 'kind' THEN p_kind WHEN 'tenant' THEN p_tenant WHEN 'route' THEN p_route ELSE encode(outbox.address_digest(p_mailbox), 'hex') END
          ORDER BY p.id LIMIT 1);
END $$;
COMMENT ON FUNCTION outbox.pause_words(text, text, text, text) IS 'Why something waits that is paused, in words; NULL when it is not.';

-- As in 0029; and says when it is the address that is paused.
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
         THEN coalesce(outbox.pause_words(m.kind, m.tenant, coalesce(q.pinned_route, m.route, (SELECT r.name FROM outbox.route r WHERE r.group_no = q.lane / 4), 'default'), (m.recipients || m.cc || m.bcc)[q.recipient_no]), outbox.state_reason(q.parked, q.note))
         ELSE outbox.state_reason(q.parked, q.note) END AS reason, q.lane,
    nullif(q.due_at, 'infinity') AS due_at, q.attempt_no::int AS attempts, q.intents::int AS intents, q.open_doubts::int AS open_doubts, q.resends::int AS resends,
    NULL::text AS evidence, NULL::timestamptz AS finished_at, coalesce(q.pinned_route, m.route) AS route
  FROM outbox.queue q WHERE q.message_id = m.id
  UNION ALL
  SELECT f.recipient_no, f.state, f.reason, f.lane, NULL, f.attempt_no::int, f.intents::int, f.open_doubts::int, f.resends::int, f.evidence, f.finished_at, m.route
  FROM outbox.done f WHERE f.message_id = m.id
) d;

CREATE OR REPLACE VIEW outbox.pauses AS
SELECT p.what, coalesce(p.hint, p.name) AS name, p.since, p.paused_by, CASE WHEN outbox.may_see_addresses(current_user) THEN p.reason ELSE outbox.mask_text(p.reason) END AS reason, p.until
FROM outbox.pause p WHERE p.ended_at IS NULL AND (p.until IS NULL OR p.until > now());

-- What raises it has one more.
DO $migration$
BEGIN
  EXECUTE format('COMMENT ON FUNCTION outbox.refuse(text, text, text, text, text) IS %L',
    replace(obj_description('outbox.refuse(text, text, text, text, text)'::regprocedure, 'pg_proc'), '22H70 not one of route, kind, tenant', '22H70 not one of route, kind, tenant, address'));
END $migration$;

SELECT outbox.grant_roles();
