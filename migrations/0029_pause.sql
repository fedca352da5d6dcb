-- breaking: no
-- Pausing: a route, a kind or a tenant waits until it is resumed. A pause is one row, however much waits; what a relay meets
-- of it is parked one batch at a time, and nothing of it gets an intent.
SET LOCAL lock_timeout = '5s';

CREATE TABLE outbox.pause (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  what text NOT NULL,
  name text NOT NULL,
  since timestamptz NOT NULL DEFAULT now(),
  paused_by name NOT NULL DEFAULT session_user,
  reason text NOT NULL,
  until timestamptz,
  ended_at timestamptz,
  CONSTRAINT pause_what_is_known CHECK (what IN ('route', 'kind', 'tenant'))
);
COMMENT ON TABLE outbox.pause IS 'What is paused, and what was until a short time ago (ended_at). Nearly always empty: intend looks at it once per batch. Private: see outbox.pauses.';
COMMENT ON COLUMN outbox.pause.until IS 'It ends by itself then, by the clock of the database.';
COMMENT ON COLUMN outbox.pause.ended_at IS 'Resumed, or its time was over. The row goes when nothing is parked for it any more, and an hour has passed.';
CREATE UNIQUE INDEX pause_in_force ON outbox.pause (what, name) WHERE ended_at IS NULL;
COMMENT ON INDEX outbox.pause_in_force IS 'A thing is paused once.';

CREATE TABLE outbox.pause_parked (
  message_id uuid NOT NULL,
  recipient_no smallint NOT NULL,
  pause_id bigint NOT NULL,
  due_at timestamptz NOT NULL,
  expires_at timestamptz,
  PRIMARY KEY (message_id, recipient_no)
);
COMMENT ON TABLE outbox.pause_parked IS 'Deliveries that relays have met and parked for a pause, and when they were due: a queue row that is parked is never due. Private.';
CREATE INDEX pause_parked_due ON outbox.pause_parked (pause_id, due_at);
CREATE INDEX pause_parked_expires ON outbox.pause_parked (expires_at) WHERE expires_at IS NOT NULL;
COMMENT ON INDEX outbox.pause_parked_expires IS 'What ends as expired while it is paused.';
COMMENT ON INDEX outbox.pause_parked_due IS 'What goes on when a pause has ended, in the order in which it was due.';

-- As in 0019, with one word more.
CREATE OR REPLACE FUNCTION outbox.parked_is_sound(parked text, due_at timestamptz, intent uuid, doubt_since timestamptz) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN parked IN ('doubt', 'held', 'poison', 'ordered', 'paused') AND due_at = 'infinity'
     AND (parked <> 'doubt' OR (intent IS NOT NULL AND doubt_since IS NOT NULL));
END $$;
COMMENT ON COLUMN outbox.queue.parked IS 'Why it is not due at all: doubt, held, poison, ordered (waits behind its ordering key), paused (outbox.pause_parked says for what). Parked rows have due_at = infinity, so they never clog the head of the index.';

-- Relays -------------------------------------------------------------------------------------------------------------
-- Of the deliveries named, those that are paused. Each that is as its claim left it is parked, which takes its lease away and
-- costs it nothing: no attempt, no claim. One that somebody has locked is answered, too (not done): it must not be intended by
-- this execution. What has an intent, or is not ours, is not answered: intend judges it. Never waits.
CREATE FUNCTION outbox.stop_batch(p_message_ids uuid[], p_recipient_nos smallint[], p_leases uuid[], p_tokens uuid[], p_routes text[])
RETURNS TABLE (message_id uuid, recipient_no smallint, token uuid, done boolean, verdict text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH told AS MATERIALIZED (
    SELECT i.message_id, i.recipient_no, i.lease, i.token, p.id AS pause_id, m.expires_at
    FROM unnest($1, $2, $3, $4, $5) AS i (message_id, recipient_no, lease, token, route)
    JOIN outbox.queue q ON q.message_id = ANY (ARRAY[i.message_id]) AND q.recipient_no = i.recipient_no AND q.lease = i.lease AND q.intent IS NULL AND q.parked IS NULL
    CROSS JOIN LATERAL (SELECT x.kind, x.tenant, x.expires_at FROM outbox.message x WHERE x.id = ANY (ARRAY[i.message_id])) m
    CROSS JOIN LATERAL (
      SELECT p.id FROM outbox.pause p
      WHERE p.ended_at IS NULL AND (p.until IS NULL OR p.until > now())
        AND p.name = CASE p.what WHEN 'kind' THEN m.kind WHEN 'tenant' THEN m.tenant ELSE i.route END
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
END $$;
COMMENT ON FUNCTION outbox.stop_batch(uuid[], smallint[], uuid[], uuid[], text[]) IS
  'Relays: parks those of these claimed deliveries that are paused, by their leases, and answers them; done is false for one that somebody has locked. Called for what was claimed, and by intend_batch().';

CREATE FUNCTION outbox.unpark(batch int DEFAULT 1000) RETURNS bigint LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
  ended record;
  expired outbox.queue;
  looked bigint;
  left_over bigint := greatest(batch, 1);
BEGIN
  FOR expired IN
    SELECT q.* FROM outbox.pause_parked k JOIN outbox.queue q ON q.message_id = k.message_id AND q.recipient_no = k.recipient_no
    WHERE k.expires_at <= now() AND q.parked = 'paused' AND q.intent IS NULL ORDER BY k.expires_at LIMIT left_over FOR UPDATE OF q SKIP LOCKED
  LOOP
    PERFORM outbox.finish(expired, 'expired', NULL, 'its time passed while it was paused', expired.prev_intent, expired.open_doubts);
    DELETE FROM outbox.pause_parked k WHERE k.message_id = expired.message_id AND k.recipient_no = expired.recipient_no;
    left_over := left_over - 1;
  END LOOP;
  FOR ended IN UPDATE outbox.pause p SET ended_at = p.until WHERE p.ended_at IS NULL AND p.until <= now() RETURNING p.* LOOP
    PERFORM outbox.audit_entry('resume', NULL, NULL, NULL, 'its time was over: ' || ended.reason, format('paused (%s %s)', ended.what, ended.name), 'resumed');
  END LOOP;
  FOR ended IN SELECT p.id FROM outbox.pause p WHERE p.ended_at IS NOT NULL ORDER BY p.id LOOP
    EXIT WHEN left_over <= 0;
    WITH page AS MATERIALIZED (
      SELECT k.message_id, k.recipient_no, k.due_at FROM outbox.pause_parked k WHERE k.pause_id = ended.id
      ORDER BY k.due_at LIMIT left_over FOR UPDATE SKIP LOCKED
    ),
    hit AS MATERIALIZED (
      SELECT g.message_id, g.recipient_no, g.due_at FROM page g JOIN outbox.queue q ON q.message_id = g.message_id AND q.recipient_no = g.recipient_no
      WHERE q.parked = 'paused' FOR UPDATE OF q SKIP LOCKED
    ),
    freed AS (
      UPDATE outbox.queue q SET parked = NULL, due_at = h.due_at FROM hit h WHERE q.message_id = h.message_id AND q.recipient_no = h.recipient_no
    ),
    -- What somebody has locked comes later; what was cancelled or held meanwhile has no business here.
    forgotten AS (
      DELETE FROM outbox.pause_parked k USING page g
      WHERE k.message_id = g.message_id AND k.recipient_no = g.recipient_no
        AND (EXISTS (SELECT FROM hit h WHERE h.message_id = g.message_id AND h.recipient_no = g.recipient_no)
             OR NOT EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = g.message_id AND q.recipient_no = g.recipient_no AND q.parked = 'paused'))
      RETURNING 1
    )
    SELECT count(*) INTO looked FROM forgotten;
    left_over := left_over - looked;
  END LOOP;
  DELETE FROM outbox.pause p WHERE p.ended_at < now() - interval '1 hour' AND NOT EXISTS (SELECT FROM outbox.pause_parked k WHERE k.pause_id = p.id);
  RETURN greatest(batch, 1) - left_over;
END $$;
COMMENT ON FUNCTION outbox.unpark(int) IS
  'Relays: makes due again what was parked for pauses that have ended, each when it was due before, and ends what has expired meanwhile, at most so many per call; answers how many. Ends pauses whose time is over. Something else of it may be paused still: then it is parked again when a relay meets it.';

-- As in 0018; what is paused at this moment gets no intent. Of an empty table that is one look per batch.
CREATE OR REPLACE FUNCTION outbox.intend_batch(
  p_epoch uuid, p_identity text, p_message_ids uuid[], p_recipient_nos smallint[], p_leases uuid[], p_tokens uuid[], p_sha256 bytea[], p_routes text[],
  p_relay uuid, p_lock_timeout text, p_upstreams bigint[], p_usable_s float8[], p_beat bigint, p_rows text)
RETURNS TABLE (message_id uuid, recipient_no smallint, token uuid, answer text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  v_count bigint;
  v_stop record;
  v_stopped uuid[] := '{}';
BEGIN
  PERFORM set_config('synchronous_commit', outbox.durable_commit(), true), set_config('lock_timeout', p_lock_timeout, true);
  PERFORM outbox.assert_continues(p_epoch, p_identity, p_relay, p_beat);
  IF p_rows = 'wait' THEN
    -- Waits for whoever has a row locked; what it did is seen by the statement below.
    PERFORM FROM unnest(p_message_ids, p_recipient_nos) AS i (message_id, recipient_no)
    JOIN outbox.queue q ON q.message_id = ANY (ARRAY[i.message_id]) AND q.recipient_no = i.recipient_no
    ORDER BY i.message_id, i.recipient_no FOR UPDATE OF q;
  END IF;
  IF EXISTS (SELECT FROM outbox.pause p WHERE p.ended_at IS NULL) THEN
    -- What is paused has no intent, and is parked. Whose row is locked by somebody has no answer, as below.
    FOR v_stop IN SELECT s.* FROM outbox.stop_batch(p_message_ids, p_recipient_nos, p_leases, p_tokens, p_routes) s LOOP
      v_stopped := v_stopped || v_stop.token;
      IF v_stop.done THEN
        message_id := v_stop.message_id; recipient_no := v_stop.recipient_no; token := v_stop.token; answer := 'refused';
        RETURN NEXT;
      END IF;
    END LOOP;
    IF v_stopped <> '{}' THEN
      SELECT array_agg(i.message_id), array_agg(i.recipient_no), array_agg(i.lease), array_agg(i.token), array_agg(i.sha256), array_agg(i.route), array_agg(i.upstream), array_agg(i.usable_s)
      INTO p_message_ids, p_recipient_nos, p_leases, p_tokens, p_sha256, p_routes, p_upstreams, p_usable_s
      FROM unnest(p_message_ids, p_recipient_nos, p_leases, p_tokens, p_sha256, p_routes, p_upstreams, p_usable_s)
        AS i (message_id, recipient_no, lease, token, sha256, route, upstream, usable_s)
      WHERE i.token <> ALL (v_stopped);
      IF p_message_ids IS NULL THEN
        RETURN;
      END IF;
    END IF;
  END IF;
  IF p_rows = 'expected' THEN
    -- Nearly always every row is as its claim left it: without locking first it is half the work. What is not goes the long
    -- way below, where a repetition is harmless.
    RETURN QUERY
    UPDATE outbox.queue q
    SET intent = i.token, intent_by = $9, intent_at = now(), first_intent_at = coalesce(q.first_intent_at, now()), intents = q.intents + 1,
        content_sha256 = i.sha256, pinned_route = i.route, upstream = i.upstream
    FROM unnest($3, $4, $5, $6, $7, $8, $11) AS i (message_id, recipient_no, lease, token, sha256, route, upstream)
    WHERE q.message_id = ANY (ARRAY[i.message_id]) AND q.recipient_no = i.recipient_no AND q.lease = i.lease AND q.intent IS NULL
      AND q.parked IS NULL AND q.accepted_late IS NULL AND q.open_doubts = 0
      AND NOT EXISTS (SELECT FROM outbox.done d WHERE d.message_id = q.message_id AND d.recipient_no = q.recipient_no OFFSET 0)
    RETURNING q.message_id, q.recipient_no, q.intent, 'granted';
    GET DIAGNOSTICS v_count = ROW_COUNT;
    IF v_count = cardinality($3) THEN
      RETURN;
    END IF;
  END IF;
  RETURN QUERY
  WITH input AS (
    SELECT * FROM unnest($3::uuid[], $4::int2[], $5::uuid[], $6::uuid[], $7::bytea[], $8::text[], $11::int8[], $12::float8[])
      AS i (message_id, recipient_no, lease, token, sha256, route, upstream, usable_s)
  ),
  seen AS MATERIALIZED (
    SELECT q.message_id, q.recipient_no, i.token, i.sha256, i.route, i.upstream,
           ((q.intent IS NULL AND q.lease = i.lease) OR q.intent = i.token)
             AND q.parked IS NULL AND q.accepted_late IS NULL
             AND (q.intent IS NOT NULL OR NOT outbox.is_bound(q.same_key_of, q.prev_intent, q.open_doubts)
                  OR coalesce(q.pinned_route = i.route AND q.upstream = i.upstream
                              AND now() >= q.first_intent_at AND now() < q.first_intent_at + i.usable_s * interval '1 second', false)) AS mine,
           q.open_doubts > 0 AND q.content_sha256 IS NOT NULL AND q.content_sha256 <> i.sha256 AS changed,
           EXISTS (SELECT FROM outbox.done d WHERE d.message_id = q.message_id AND d.recipient_no = q.recipient_no OFFSET 0) AS finished
    FROM input i JOIN outbox.queue q ON q.message_id = ANY (ARRAY[i.message_id]) AND q.recipient_no = i.recipient_no
    ORDER BY i.message_id, i.recipient_no
    FOR UPDATE OF q SKIP LOCKED
  ),
  written AS (
    UPDATE /* outbox.intend */ outbox.queue q
    SET intent = s.token, intent_by = $9, intent_at = now(), first_intent_at = coalesce(q.first_intent_at, now()),
        intents = q.intents + (q.intent IS NULL)::int::smallint, content_sha256 = s.sha256, pinned_route = s.route,
        upstream = CASE WHEN q.open_doubts = 0 OR q.upstream = s.upstream THEN s.upstream END
    FROM seen s
    WHERE q.message_id = ANY (ARRAY[s.message_id]) AND q.recipient_no = s.recipient_no AND s.mine AND NOT s.changed AND NOT s.finished
    RETURNING q.message_id, q.recipient_no, q.intent
  )
  SELECT w.message_id, w.recipient_no, w.intent, 'granted' FROM written w
  UNION ALL
  SELECT s.message_id, s.recipient_no, s.token, CASE WHEN s.mine AND s.changed THEN 'changed' ELSE 'refused' END
  FROM seen s WHERE NOT (s.mine AND NOT s.changed AND NOT s.finished);
END $$;

-- After a failover: what is paused here may have been resumed and sent by the server that was lost.
CREATE OR REPLACE FUNCTION outbox.quarantine(batch integer DEFAULT 10000, OUT held bigint, OUT finished boolean) LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
#variable_conflict use_column
DECLARE
  here text := outbox.database_identity();
  c outbox.control;
  f outbox.failover;
  last_message uuid;
  last_recipient smallint;
  newly bigint;
BEGIN
  held := 0; finished := true;
  SELECT * INTO c FROM outbox.control FOR UPDATE;
  IF c.identity IS DISTINCT FROM here THEN
    PERFORM outbox.notice(c.epoch, here, CASE WHEN c.identity LIKE 'disarmed: %' THEN substr(c.identity, 11) ELSE 'another server, it was ' || c.identity END);
  END IF;
  SELECT * INTO f FROM outbox.failover x WHERE x.epoch = c.epoch AND x.identity = here FOR UPDATE;
  IF NOT FOUND THEN RETURN; END IF;
  held := f.held;
  IF f.completed_at IS NOT NULL THEN RETURN; END IF;
  SELECT p.message_id, p.recipient_no INTO last_message, last_recipient FROM (
    SELECT q.message_id, q.recipient_no FROM outbox.queue q WHERE (q.message_id, q.recipient_no) > (f.after_message, f.after_recipient) AND (q.message_id, q.recipient_no) <= (f.until_message, f.until_recipient)
    ORDER BY q.message_id, q.recipient_no LIMIT greatest(batch, 1)) p
  ORDER BY p.message_id DESC, p.recipient_no DESC LIMIT 1;
  IF NOT FOUND THEN
    UPDATE outbox.failover x SET completed_at = now() WHERE x.epoch = f.epoch AND x.identity = f.identity;
    PERFORM outbox.audit_entry('quarantine', NULL, NULL, NULL, 'failover: ' || f.cause, c.identity, f.held || ' held');
    RETURN;
  END IF;
  WITH walked AS (
    UPDATE outbox.queue q
    SET parked = coalesce(nullif(q.parked, 'paused'), 'held'), due_at = 'infinity', lease = NULL, lease_until = NULL,
        note = CASE WHEN q.parked = 'doubt' THEN 'failover: ' || coalesce(q.note, 'in doubt before it') ELSE 'failover: may have been sent before it, by what this server does not know' END
    WHERE (q.message_id, q.recipient_no) > (f.after_message, f.after_recipient) AND (q.message_id, q.recipient_no) <= (last_message, last_recipient)
      AND q.note IS DISTINCT FROM 'failover: may have been sent before it, by what this server does not know'
      -- Behind an ordering key: its turn may have come, so when it comes here it is held (free_next(), settle). In doubt: a
      -- person decides, not a policy, which may have decided before.
      AND (q.intent IS NULL AND coalesce(q.parked, 'ordered') IN ('ordered', 'paused') OR q.parked = 'doubt' AND coalesce(q.note, '') NOT LIKE 'failover:%')
      -- Nothing is due before its not_before, whatever happens to it; an hour for clocks that differ.
      AND (q.parked = 'doubt' OR q.due_at <= now() OR coalesce(outbox.not_before_of(q.message_id) <= now() + interval '1 hour', true))
    RETURNING q.parked
  )
  SELECT count(*) FILTER (WHERE w.parked = 'held') INTO newly FROM walked w;
  UPDATE outbox.failover x SET after_message = last_message, after_recipient = last_recipient, held = x.held + newly
  WHERE x.epoch = f.epoch AND x.identity = f.identity;
  held := f.held + newly;
  finished := false;
END $$;

-- Deciding -----------------------------------------------------------------------------------------------------------
CREATE FUNCTION outbox.pause_target(p_function text, p_route text, p_kind text, p_tenant text, OUT what text, OUT name text) LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF num_nonnulls(p_route, p_kind, p_tenant) <> 1 THEN
    RAISE EXCEPTION USING ERRCODE = '22H70', MESSAGE = format('outbox.%s: kind: exactly one of route, kind, tenant must be given, not %s', p_function, num_nonnulls(p_route, p_kind, p_tenant)), COLUMN = 'kind',
      HINT = format('SELECT outbox.%s(kind => ''newsletter'', reason => ''why'')', p_function);
  END IF;
  what := CASE WHEN p_route IS NOT NULL THEN 'route' WHEN p_kind IS NOT NULL THEN 'kind' ELSE 'tenant' END;
  name := coalesce(p_route, p_kind, p_tenant);
  IF name = '' THEN
    RAISE EXCEPTION USING ERRCODE = '22H70', MESSAGE = format('outbox.%s: %s: is empty', p_function, what), COLUMN = what, HINT = 'name it';
  END IF;
END $$;
COMMENT ON FUNCTION outbox.pause_target(text, text, text, text) IS 'Private: what is to be paused or resumed; raises 22H70.';

CREATE FUNCTION outbox.pause(reason text, route text DEFAULT NULL, kind text DEFAULT NULL, tenant text DEFAULT NULL, until timestamptz DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  target record;
  known outbox.pause;
BEGIN
  PERFORM outbox.require_reason('pause', pause.reason);
  SELECT * INTO target FROM outbox.pause_target('pause', pause.route, pause.kind, pause.tenant);
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
    INSERT INTO outbox.pause (what, name, reason, until) VALUES (target.what, target.name, pause.reason, pause.until) ON CONFLICT DO NOTHING;
    IF FOUND THEN
      PERFORM outbox.audit_entry('pause', NULL, NULL, NULL, pause.reason, format('%s %s', target.what, target.name),
                                 format('paused (%s %s)', target.what, target.name) || coalesce(' until ' || date_trunc('second', pause.until), ''));
      RETURN format('paused: %s %s', target.what, target.name)
        || CASE WHEN target.what = 'kind' AND NOT EXISTS (SELECT FROM outbox.kind k WHERE k.name = target.name) THEN ' (no relay''s configuration names this kind: compare its spelling)' ELSE '' END;
    END IF;
  END LOOP;
  -- Who says it again says why and for how long from now on.
  UPDATE outbox.pause p SET reason = pause.reason, until = pause.until WHERE p.id = known.id;
  PERFORM outbox.audit_entry('pause', NULL, NULL, NULL, pause.reason, format('paused (%s %s)', target.what, target.name) || coalesce(' until ' || date_trunc('second', known.until), ''),
                             format('paused (%s %s)', target.what, target.name) || coalesce(' until ' || date_trunc('second', pause.until), ''));
  RETURN format('already paused: %s %s, by %s since %s; its reason and end are the new ones', target.what, target.name, known.paused_by, date_trunc('second', known.since));
END $$;
COMMENT ON FUNCTION outbox.pause(text, text, text, text, timestamptz) IS
'Pauses one route, kind or tenant, until outbox.resume() or the time given: relays hand out nothing of it within half a second, and nothing of it gets an intent once this has committed (one whose intent was being written just then is delivered; nobody calls back what is on the wire). One row, however much waits. Nothing is lost by it: deliveries stay pending, and end as expired where their time passes meanwhile. Repeating it changes reason and end. Example:
  SELECT outbox.pause(kind => ''newsletter'', reason => ''wrong price in the text'', until => now() + interval ''2 hours'');';

CREATE FUNCTION outbox.resume(reason text, route text DEFAULT NULL, kind text DEFAULT NULL, tenant text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  target record;
  known outbox.pause;
BEGIN
  PERFORM outbox.require_reason('resume', resume.reason);
  SELECT * INTO target FROM outbox.pause_target('resume', resume.route, resume.kind, resume.tenant);
  UPDATE outbox.pause p SET ended_at = now() WHERE p.what = target.what AND p.name = target.name AND p.ended_at IS NULL RETURNING p.* INTO known;
  IF NOT FOUND THEN
    RETURN format('nothing to resume: %s %s is not paused', target.what, target.name);
  END IF;
  PERFORM outbox.audit_entry('resume', NULL, NULL, NULL, resume.reason, format('paused (%s %s)', target.what, target.name), 'resumed');
  -- The first go at once; relays come for the others.
  PERFORM outbox.unpark(1000);
  PERFORM outbox.wake_relays();
  RETURN format('resumed: %s %s, paused by %s since %s', target.what, target.name, known.paused_by, date_trunc('second', known.since));
END $$;
COMMENT ON FUNCTION outbox.resume(text, text, text, text) IS
'Ends a pause. What waited goes on in the order in which it was due; what has expired meanwhile ends as expired. Repeating it is a no-op that says so. Example:
  SELECT outbox.resume(kind => ''newsletter'', reason => ''price corrected'');';

-- As in 0007; and says what is paused.
CREATE OR REPLACE FUNCTION outbox.retry(id uuid, recipient_no int DEFAULT NULL, reason text DEFAULT 'retry', force boolean DEFAULT false) RETURNS TABLE (delivery int, result text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  q outbox.queue;
  d outbox.done;
  known boolean := false;
  due timestamptz;
BEGIN
  PERFORM outbox.require_reason('retry', retry.reason);
  FOR q IN SELECT x.* FROM outbox.queue x WHERE x.message_id = retry.id AND (retry.recipient_no IS NULL OR x.recipient_no = retry.recipient_no) ORDER BY x.recipient_no FOR UPDATE LOOP
    known := true;
    delivery := q.recipient_no;
    IF q.parked IS NULL AND q.intent IS NULL THEN
      -- Now, but never before the message wanted to be sent.
      UPDATE outbox.queue u SET due_at = least(u.due_at, greatest(now(), outbox.not_before_of(u.message_id)))
      WHERE u.message_id = q.message_id AND u.recipient_no = q.recipient_no RETURNING u.due_at INTO due;
      PERFORM outbox.audit_entry('retry', q.message_id, q.recipient_no, NULL, retry.reason, 'pending', 'pending');
      result := CASE WHEN due > now() THEN format('pending: not before %s', date_trunc('second', due)) ELSE 'pending: due now' END;
    ELSE
      result := format('nothing to retry: it is %s', outbox.state_of(q.parked, q.intent, q.lease, q.lease_until))
        || CASE WHEN q.parked = 'doubt' THEN ', decide it with outbox.resolve()' WHEN q.parked IN ('held', 'poison') THEN ', release it with outbox.release()'
                WHEN q.parked = 'paused' THEN ', paused until outbox.resume()' ELSE '' END;
    END IF;
    RETURN NEXT;
  END LOOP;
  FOR d IN SELECT x.* FROM outbox.done x WHERE x.message_id = retry.id AND (retry.recipient_no IS NULL OR x.recipient_no = retry.recipient_no) ORDER BY x.recipient_no FOR UPDATE LOOP
    known := true;
    delivery := d.recipient_no;
    IF d.state = 'sent' THEN
      result := 'nothing to retry: it is sent';
    ELSIF d.open_doubts > 0 AND NOT coalesce(retry.force, false) THEN
      result := format('refused: %s with %s open doubt(s), it may have arrived; a retry would be a resend: pass force => true when you want it', d.state, d.open_doubts);
    ELSE
      PERFORM outbox.audit_entry(CASE WHEN d.open_doubts > 0 THEN 'retry as resend' ELSE 'retry' END, d.message_id, d.recipient_no, d.token, retry.reason, d.state, 'pending');
      d.resends := d.resends + (d.open_doubts > 0)::int;
      PERFORM outbox.reopen(d, NULL, NULL);
      due := outbox.not_before_of(d.message_id);
      result := 'pending: it was ' || d.state || CASE WHEN due > now() THEN format(', not before %s', date_trunc('second', due)) ELSE '' END;
    END IF;
    RETURN NEXT;
  END LOOP;
  IF NOT known THEN PERFORM outbox.unknown_delivery('retry', retry.id, retry.recipient_no); END IF;
END $$;

-- Looking ------------------------------------------------------------------------------------------------------------
CREATE FUNCTION outbox.pause_words(p_kind text, p_tenant text, p_route text) RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT format('paused (%s %s, by %s since %s%s: %s)', p.what, p.name, p.paused_by, date_trunc('second', p.since), coalesce(' until ' || date_trunc('second', p.until), ''), p.reason)
          FROM outbox.pause p
          WHERE p.ended_at IS NULL AND (p.until IS NULL OR p.until > now()) AND p.name = CASE p.what WHEN 'kind' THEN p_kind WHEN 'tenant' THEN p_tenant ELSE p_route END
          ORDER BY p.id LIMIT 1);
END $$;
COMMENT ON FUNCTION outbox.pause_words(text, text, text) IS 'Why something waits that is paused, in words; NULL when it is not.';

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
         THEN coalesce(outbox.pause_words(m.kind, m.tenant, coalesce(q.pinned_route, m.route, (SELECT r.name FROM outbox.route r WHERE r.group_no = q.lane / 4), 'default')), outbox.state_reason(q.parked, q.note))
         ELSE outbox.state_reason(q.parked, q.note) END AS reason, q.lane,
    nullif(q.due_at, 'infinity') AS due_at, q.attempt_no::int AS attempts, q.intents::int AS intents, q.open_doubts::int AS open_doubts, q.resends::int AS resends,
    NULL::text AS evidence, NULL::timestamptz AS finished_at, coalesce(q.pinned_route, m.route) AS route
  FROM outbox.queue q WHERE q.message_id = m.id
  UNION ALL
  SELECT f.recipient_no, f.state, f.reason, f.lane, NULL, f.attempt_no::int, f.intents::int, f.open_doubts::int, f.resends::int, f.evidence, f.finished_at, m.route
  FROM outbox.done f WHERE f.message_id = m.id
) d;

CREATE VIEW outbox.pauses AS
SELECT p.what, p.name, p.since, p.paused_by, CASE WHEN outbox.may_see_addresses(current_user) THEN p.reason ELSE outbox.mask_text(p.reason) END AS reason, p.until
FROM outbox.pause p WHERE p.ended_at IS NULL AND (p.until IS NULL OR p.until > now());
COMMENT ON VIEW outbox.pauses IS 'What is paused, by whom, since when and why. Example:
  SELECT what, name, paused_by, now() - since AS so_long, reason FROM outbox.pauses ORDER BY since;';

-- The list of SQLSTATEs goes on, whatever else it has got meanwhile.
DO $migration$
BEGIN
  EXECUTE format('COMMENT ON FUNCTION outbox.refuse(text, text, text, text, text) IS %L',
    replace(obj_description('outbox.refuse(text, text, text, text, text)'::regprocedure, 'pg_proc'), '. Testing: ', '; 22H70 not one of route, kind, tenant; 22H71 an end that has passed; 22H72 no such route. Testing: '));
END $migration$;

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  -- EXECUTE on pause and resume is in 0010.
  ('outbox_relay', 'SELECT', '{pause,pause_parked}'::text[]),
  ('outbox_relay', 'EXECUTE', '{stop_batch,unpark}'),
  ('outbox_operator outbox_viewer', 'SELECT', '{pauses}'),
  ('outbox_operator outbox_viewer', 'EXECUTE', '{pause_words}');
SELECT outbox.grant_roles();
