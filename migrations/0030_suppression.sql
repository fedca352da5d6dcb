-- breaking: no
-- The suppression list: addresses that get nothing, because they bounced, complained, left, or somebody said so.
SET LOCAL lock_timeout = '5s';

ALTER TABLE outbox.kind ADD COLUMN ignores_suppression boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN outbox.kind.ignores_suppression IS 'Goes to suppressed addresses, too: legal notices. From the relays'' configuration.';

CREATE TABLE outbox.suppression (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  address_hash bigint NOT NULL,
  digest bytea NOT NULL,
  hint text NOT NULL,
  address text,
  reason text NOT NULL,
  kind text,
  tenant text,
  until timestamptz,
  since timestamptz NOT NULL DEFAULT now(),
  entered_by name NOT NULL DEFAULT session_user,
  note text,
  CONSTRAINT suppression_reason_is_known CHECK (reason IN ('hard_bounce', 'complaint', 'unsubscribed', 'manual'))
);
COMMENT ON TABLE outbox.suppression IS 'Addresses that get nothing, as hashes: who is on it can be asked, not read. Private: see outbox.suppressions.';
COMMENT ON COLUMN outbox.suppression.address_hash IS 'outbox.address_hash(): what queue rows have. Finds candidates.';
COMMENT ON COLUMN outbox.suppression.digest IS 'SHA-256 of the address in lower case: decides. Whoever has a guess can compare it, so the table is private all the same.';
COMMENT ON COLUMN outbox.suppression.hint IS 'The address as those see it who may not see addresses.';
COMMENT ON COLUMN outbox.suppression.address IS 'Only where it was asked to be kept.';
COMMENT ON COLUMN outbox.suppression.kind IS 'Only deliveries of this kind; NULL: of all. With a tenant, too: only of both.';
COMMENT ON COLUMN outbox.suppression.until IS 'It counts no longer from then on, by the clock of the database.';
CREATE UNIQUE INDEX suppression_entry ON outbox.suppression (address_hash, digest, coalesce(kind, ''), coalesce(tenant, ''));
COMMENT ON INDEX outbox.suppression_entry IS 'Candidates by hash; one entry per address and scope.';
CREATE INDEX suppression_bounced ON outbox.suppression (since) WHERE reason = 'hard_bounce';
COMMENT ON INDEX outbox.suppression_bounced IS 'How many hard bounces were entered lately.';

CREATE FUNCTION outbox.address_digest(mailbox text) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN sha256(convert_to(lower(outbox.address_of(mailbox)), 'UTF8'));
COMMENT ON FUNCTION outbox.address_digest(text) IS 'Private: SHA-256 of the bare address in lower case.';

-- As in 0029; and those that are suppressed end there, for good.
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

COMMENT ON FUNCTION outbox.stop_batch(uuid[], smallint[], uuid[], uuid[], text[]) IS
  'Relays: parks those of these claimed deliveries that are paused, ends those that are suppressed, by their leases, and answers them; done is false for one that somebody has locked. Called for what was claimed, and by intend_batch().';

-- As in 0029; what is suppressed at this moment gets no intent either.
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
  IF EXISTS (SELECT FROM outbox.pause p WHERE p.ended_at IS NULL) OR EXISTS (SELECT FROM outbox.suppression) THEN
    -- What is paused or suppressed has no intent, and is parked or ended. Whose row is locked by somebody has no answer, as below.
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

-- Deciding -----------------------------------------------------------------------------------------------------------
CREATE FUNCTION outbox.require_address(p_function text, p_address text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF p_address IS NOT NULL AND outbox.address_problem(btrim(p_address, ' ')) IS NULL THEN
    RETURN lower(outbox.address_of(p_address));
  END IF;
  RAISE EXCEPTION USING ERRCODE = '22H73', MESSAGE = format('outbox.%s: address: is not an address', p_function), COLUMN = 'address',
    HINT = 'write user@example.org';
END $$;
COMMENT ON FUNCTION outbox.require_address(text, text) IS 'Private: the bare address in lower case; raises 22H73, without repeating it.';

CREATE FUNCTION outbox.suppress(address text, reason text DEFAULT 'manual', kind text DEFAULT NULL, tenant text DEFAULT NULL, until timestamptz DEFAULT NULL, note text DEFAULT NULL, keep_address boolean DEFAULT false)
RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  bare text := outbox.require_address('suppress', suppress.address);
  entry bigint;
  is_new boolean;
  scope text := coalesce(' of kind ' || suppress.kind, '') || coalesce(' of tenant ' || suppress.tenant, '');
BEGIN
  IF suppress.reason IS NULL OR suppress.reason NOT IN ('hard_bounce', 'complaint', 'unsubscribed', 'manual') THEN
    RAISE EXCEPTION USING ERRCODE = '22H74', MESSAGE = format('outbox.suppress: reason: %L is not hard_bounce, complaint, unsubscribed or manual', left(suppress.reason, 20)), COLUMN = 'reason',
      HINT = 'more can be said in note';
  END IF;
  IF suppress.kind = '' OR suppress.tenant = '' THEN
    RAISE EXCEPTION USING ERRCODE = '22H74', MESSAGE = format('outbox.suppress: %s: is empty', CASE WHEN suppress.kind = '' THEN 'kind' ELSE 'tenant' END), COLUMN = CASE WHEN suppress.kind = '' THEN 'kind' ELSE 'tenant' END,
      HINT = 'name it, or leave it out: then it is for all';
  END IF;
  IF suppress.until <= now() THEN
    RAISE EXCEPTION USING ERRCODE = '22H71', MESSAGE = format('outbox.suppress: until: %s has passed', date_trunc('second', suppress.until)), COLUMN = 'until',
      HINT = 'give a time that lies ahead, or none: then it lasts until outbox.unsuppress()';
  END IF;
  INSERT INTO outbox.suppression AS s (address_hash, digest, hint, address, reason, kind, tenant, until, note)
  VALUES (outbox.address_hash(bare), outbox.address_digest(bare), outbox.mask_address(bare), CASE WHEN keep_address THEN bare END, suppress.reason, suppress.kind, suppress.tenant, suppress.until, suppress.note)
  ON CONFLICT (address_hash, digest, coalesce(kind, ''), coalesce(tenant, '')) DO UPDATE
    SET reason = excluded.reason, until = excluded.until, note = excluded.note, since = excluded.since, entered_by = excluded.entered_by, address = coalesce(excluded.address, s.address)
  RETURNING s.id, s.xmax = 0 INTO entry, is_new;
  -- The audit never holds the address: it outlives what is to be forgotten.
  PERFORM outbox.audit_entry('suppress', NULL, NULL, NULL, concat_ws(': ', suppress.reason, suppress.note), CASE WHEN is_new THEN 'not listed' ELSE 'suppressed' END,
                             format('suppressed: entry %s, %s%s', entry, outbox.mask_address(bare), scope));
  RETURN format('suppressed: entry %s, %s%s%s', entry, outbox.mask_address(bare), scope, CASE WHEN is_new THEN '' ELSE '; it was on the list before, this reason and end are the new ones' END);
END $$;
COMMENT ON FUNCTION outbox.suppress(text, text, text, text, timestamptz, text, boolean) IS
'Puts an address on the suppression list: its deliveries (of one kind or tenant, if given) end as suppressed instead of being sent, from when this has committed, but for those that are on the wire by then. reason is hard_bounce, complaint, unsubscribed or manual. The list keeps a hash, and the address itself only with keep_address. Kinds whose configuration says ignores_suppression are sent all the same. Repeating it changes reason, end and note. Example:
  SELECT outbox.suppress(''ada@example.org'', ''unsubscribed'', kind => ''newsletter'', note => ''by phone'');';

CREATE FUNCTION outbox.unsuppress(address text, reason text, kind text DEFAULT NULL, tenant text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  bare text := outbox.require_address('unsuppress', unsuppress.address);
  gone record;
  removed int := 0;
BEGIN
  PERFORM outbox.require_reason('unsuppress', unsuppress.reason);
  FOR gone IN
    DELETE FROM outbox.suppression s
    WHERE s.address_hash = outbox.address_hash(bare) AND s.digest = outbox.address_digest(bare)
      AND (unsuppress.kind IS NULL OR s.kind = unsuppress.kind) AND (unsuppress.tenant IS NULL OR s.tenant = unsuppress.tenant)
    RETURNING s.id, s.hint, s.reason
  LOOP
    removed := removed + 1;
    PERFORM outbox.audit_entry('unsuppress', NULL, NULL, NULL, unsuppress.reason, format('suppressed: entry %s, %s, %s', gone.id, gone.hint, gone.reason), 'not listed');
  END LOOP;
  RETURN CASE removed WHEN 0 THEN 'nothing to remove: the address is not on the list' WHEN 1 THEN 'removed: one entry' ELSE format('removed: %s entries', removed) END;
END $$;
COMMENT ON FUNCTION outbox.unsuppress(text, text, text, text) IS
'Takes an address off the suppression list: every entry of it, or those of one kind or tenant. What was suppressed before stays so; outbox.retry() sends it. Repeating it is a no-op that says so. Example:
  SELECT outbox.unsuppress(''ada@example.org'', ''has a new mailbox'');';

-- The relay names an attempt, never an address: the ledger decides whether that was a hard bounce.
CREATE FUNCTION outbox.suppress_bounced(p_message_id uuid, p_recipient_no smallint, p_token uuid, p_within_s float8, p_hourly_max int)
RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found_one record;
  bare text;
  entry bigint;
BEGIN
  SELECT a.code, a.enhanced INTO found_one FROM outbox.attempt a
  WHERE a.message_id = p_message_id AND a.recipient_no = p_recipient_no AND a.token = p_token
    AND a.outcome = 'refused' AND a.phase = 'rcpt' AND a.code BETWEEN 500 AND 599 AND a.enhanced IN ('5.1.1', '5.1.6', '5.1.10');
  IF NOT FOUND THEN
    RETURN 'not a hard bounce';
  END IF;
  -- A server that has lost its users refuses everybody.
  IF (SELECT count(*) FROM (SELECT FROM outbox.suppression s WHERE s.reason = 'hard_bounce' AND s.since > now() - interval '1 hour' LIMIT p_hourly_max) n) >= p_hourly_max THEN
    RETURN 'too many';
  END IF;
  SELECT lower(outbox.address_of((m.recipients || m.cc || m.bcc)[p_recipient_no])) INTO bare FROM outbox.message m WHERE m.id = p_message_id;
  INSERT INTO outbox.suppression AS s (address_hash, digest, hint, reason, until, note)
  VALUES (outbox.address_hash(bare), outbox.address_digest(bare), outbox.mask_address(bare), 'hard_bounce', now() + p_within_s * interval '1 second',
          format('%s %s, delivery %s/%s', found_one.code, found_one.enhanced, p_message_id, p_recipient_no))
  ON CONFLICT (address_hash, digest, coalesce(kind, ''), coalesce(tenant, '')) DO UPDATE
    SET reason = excluded.reason, until = excluded.until, note = excluded.note, since = excluded.since, entered_by = excluded.entered_by
    -- What somebody has entered stays what it is while it counts.
    WHERE s.until <= now()
  RETURNING s.id INTO entry;
  IF entry IS NULL THEN
    RETURN 'known';
  END IF;
  PERFORM outbox.audit_entry('suppress', p_message_id, p_recipient_no, p_token, format('hard_bounce: %s %s', found_one.code, found_one.enhanced), 'not listed', format('suppressed: entry %s', entry));
  RETURN 'suppressed';
END $$;
COMMENT ON FUNCTION outbox.suppress_bounced(uuid, smallint, uuid, float8, int) IS
'Relays: the recipient of an attempt that the ledger has as refused at RCPT because there is no such user (5.1.1, 5.1.6, 5.1.10) goes on the suppression list for so long; no more than so many an hour. Answers suppressed, known, too many, or not a hard bounce.';

-- Looking ------------------------------------------------------------------------------------------------------------
CREATE VIEW outbox.suppressions AS
SELECT s.id, CASE WHEN outbox.may_see_addresses(current_user) THEN coalesce(s.address, s.hint) ELSE s.hint END AS address, s.reason, s.kind, s.tenant, s.since, s.until, s.until <= now() AS over, s.entered_by,
  CASE WHEN outbox.may_see_addresses(current_user) THEN s.note ELSE outbox.mask_text(s.note) END AS note
FROM outbox.suppression s;
COMMENT ON VIEW outbox.suppressions IS 'The suppression list. Addresses are masked, but for those that were asked to be kept and roles that may see them; about one address ask outbox.find_suppressions(). Example:
  SELECT reason, count(*) FROM outbox.suppressions WHERE over IS NOT TRUE GROUP BY reason;';
COMMENT ON COLUMN outbox.suppressions.over IS 'Its time has passed: it counts no longer.';

CREATE FUNCTION outbox.find_suppressions(address text) RETURNS SETOF bigint LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  bare text := outbox.require_address('find_suppressions', find_suppressions.address);
BEGIN
  RETURN QUERY SELECT s.id FROM outbox.suppression s WHERE s.address_hash = outbox.address_hash(bare) AND s.digest = outbox.address_digest(bare) ORDER BY s.id;
END $$;
COMMENT ON FUNCTION outbox.find_suppressions(text) IS
'The entries of one address in outbox.suppressions, by their ids; none when it is not on the list. Whoever may look may ask, also without seeing addresses: the address has to be known to be asked for. Example:
  SELECT * FROM outbox.suppressions WHERE id IN (SELECT outbox.find_suppressions(''ada@example.org''));';

-- The list of SQLSTATEs goes on, whatever else it has got meanwhile.
DO $migration$
BEGIN
  EXECUTE format('COMMENT ON FUNCTION outbox.refuse(text, text, text, text, text) IS %L',
    replace(obj_description('outbox.refuse(text, text, text, text, text)'::regprocedure, 'pg_proc'), '. Testing: ', '; 22H73 not an address; 22H74 a reason or scope of a suppression that is none. Testing: '));
END $migration$;

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  ('outbox_operator', 'EXECUTE', '{suppress,unsuppress}'::text[]),
  ('outbox_operator outbox_viewer', 'SELECT', '{suppressions}'),
  ('outbox_operator outbox_viewer', 'EXECUTE', '{find_suppressions}'),
  ('outbox_relay', 'SELECT', '{suppression}'),
  ('outbox_relay', 'EXECUTE', '{suppress_bounced}');
SELECT outbox.grant_roles();
