-- breaking: no
-- The protocol's server side: filling the queue, states, and what the hot statements leave to functions.
SET LOCAL lock_timeout = '5s';

CREATE FUNCTION outbox.address_of(mailbox text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN right(rtrim(mailbox), 1) = '>' THEN rtrim(substr(rtrim(mailbox), length(rtrim(mailbox)) - position('<' IN reverse(rtrim(mailbox))) + 2), '>')
            ELSE btrim(mailbox) END;
COMMENT ON FUNCTION outbox.address_of(text) IS 'The bare address of "Name <user@example.org>" or "user@example.org".';

CREATE FUNCTION outbox.address_hash(address text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashtextextended(lower(outbox.address_of(address)), 0);
COMMENT ON FUNCTION outbox.address_hash(text) IS 'What deliveries are searched by instead of the address itself.';

CREATE FUNCTION outbox.state_of(parked text, intent uuid, lease uuid, lease_until timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
  WHEN parked = 'doubt' THEN 'in_doubt'
  WHEN intent IS NOT NULL THEN 'sending'
  WHEN parked IN ('held', 'poison') THEN 'held'
  WHEN lease IS NOT NULL AND lease_until >= now() THEN 'claimed'
  ELSE 'pending' END;
COMMENT ON FUNCTION outbox.state_of(text, uuid, uuid, timestamptz) IS 'The state of a queue row: pending, claimed, sending, in_doubt or held. Derived, never stored.';

-- The trigger behind every door: enqueue(), the view and bulk inserts all end in an INSERT into outbox.message.
-- Statement-level with a transition table: 2.6 us a row in bulk.
CREATE FUNCTION outbox.fill_queue() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- A restore with --data-only, a bulk copy or a replica would otherwise send all history again.
  IF EXISTS (SELECT FROM fresh WHERE id < outbox.uuid_floor(now() - interval '1 hour')) THEN
    RAISE EXCEPTION USING ERRCODE = '22H90', MESSAGE = 'outbox.message: refusing ids older than an hour: this looks like a restore, and would send old mail again',
      HINT = 'enqueue new notifications with outbox.enqueue(); to load history, disable the trigger message_fills_queue';
  END IF;

  -- Joined rather than called: an SQL function that cannot be inlined costs 100 us in a statement of its own.
  INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, address_hash)
  SELECT f.id, r.recipient_no, outbox.lane(g.group_no, f.priority, k.priority), greatest(f.created_at, f.not_before), r.address_hash
  FROM fresh f
  LEFT JOIN outbox.kind k ON k.name = f.kind
  LEFT JOIN outbox.route g ON g.name = coalesce(f.route, k.route)
  CROSS JOIN LATERAL (
    SELECT min(u.o)::smallint AS recipient_no, hashtextextended(u.address, 0) AS address_hash
    FROM (SELECT lower(outbox.address_of(a)) AS address, o FROM unnest(f.recipients || f.cc || f.bcc) WITH ORDINALITY AS x (a, o)) u
    GROUP BY u.address) r
  WHERE f.ordering_key IS NULL;

  IF NOT EXISTS (SELECT FROM fresh WHERE ordering_key IS NOT NULL) THEN
    RETURN NULL;
  END IF;
  -- Producers of one key queue up here until the first has committed: that makes the order commit-consistent. Sorted,
  -- so that two statements with several keys cannot deadlock.
  INSERT INTO outbox.ordering AS o (order_key)
  SELECT DISTINCT outbox.order_key(tenant, ordering_key) FROM fresh WHERE ordering_key IS NOT NULL ORDER BY 1
  ON CONFLICT (order_key) DO UPDATE SET last_used = now();
  -- A new statement, so a new snapshot: it sees what the transaction before us has committed.
  INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, parked, address_hash, order_key, order_no)
  SELECT n.id, n.recipient_no, n.lane, CASE WHEN n.first THEN n.due_at ELSE 'infinity' END,
         CASE WHEN n.first THEN NULL ELSE 'ordered' END, n.address_hash, n.order_key, nextval('outbox.order_no')
  FROM (
    SELECT f.id, r.recipient_no, outbox.lane(g.group_no, f.priority, kind.priority) AS lane, greatest(f.created_at, f.not_before) AS due_at,
           r.address_hash, k.order_key,
           row_number() OVER (PARTITION BY k.order_key ORDER BY f.id, r.recipient_no) = 1
             AND NOT EXISTS (SELECT FROM outbox.queue q WHERE q.order_key = k.order_key) AS first
    FROM fresh f
    LEFT JOIN outbox.kind kind ON kind.name = f.kind
    LEFT JOIN outbox.route g ON g.name = coalesce(f.route, kind.route)
    CROSS JOIN LATERAL outbox.recipients_of(f.recipients, f.cc, f.bcc) r
    CROSS JOIN LATERAL (SELECT outbox.order_key(f.tenant, f.ordering_key) AS order_key) k
    WHERE f.ordering_key IS NOT NULL
    ORDER BY f.id, r.recipient_no
  ) n;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION outbox.fill_queue() IS 'Trigger of outbox.message: one queue row per distinct recipient. Refuses old ids, so that a restore does not send history.';

CREATE FUNCTION outbox.order_key(tenant text, ordering_key text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(tenant, '') || chr(31) || ordering_key;
COMMENT ON FUNCTION outbox.order_key(text, text) IS 'An ordering key within its tenant.';

CREATE FUNCTION outbox.lane(p_group smallint, p_priority text, p_kind_priority text) RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (coalesce(p_group, 0) * 4
        + CASE CASE WHEN p_priority = 'normal' THEN coalesce(p_kind_priority, 'normal') ELSE p_priority END
          WHEN 'urgent' THEN 0 WHEN 'bulk' THEN 2 ELSE 1 END)::smallint;
COMMENT ON FUNCTION outbox.lane(smallint, text, text) IS 'The lane of a notification: route group * 4 + priority. The kind''s configuration fills in what the notification does not say.';

CREATE FUNCTION outbox.recipients_of(recipients text[], cc text[], bcc text[])
RETURNS TABLE (recipient_no smallint, address_hash bigint) LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1
AS $$
  SELECT min(u.o)::smallint, outbox.address_hash(lower(outbox.address_of(min(u.a))))
  FROM unnest(recipients || cc || bcc) WITH ORDINALITY AS u(a, o)
  GROUP BY lower(outbox.address_of(u.a))
$$;
COMMENT ON FUNCTION outbox.recipients_of(text[], text[], text[]) IS 'The deliveries of a message: the first position of each distinct address in recipients || cc || bcc.';

CREATE TRIGGER message_fills_queue AFTER INSERT ON outbox.message
  REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION outbox.fill_queue();
COMMENT ON TRIGGER message_fills_queue ON outbox.message IS 'One queue row per delivery, whatever door the message came through.';

-- A function, so that the settle statement need not be planned for every partition of a table it rarely looks at.
CREATE FUNCTION outbox.not_before_of(p_message_id uuid) RETURNS timestamptz LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT m.not_before FROM outbox.message m WHERE m.id = p_message_id);
END $$;
COMMENT ON FUNCTION outbox.not_before_of(uuid) IS 'Private: when a message wanted to be sent at the earliest.';

-- The settle that ends the head of an ordering key frees the next in the same statement; this is the same for functions.
CREATE FUNCTION outbox.free_next(p_order_key text) RETURNS void LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE outbox.queue q
  SET parked = NULL, due_at = greatest(now(), (SELECT m.not_before FROM outbox.message m WHERE m.id = q.message_id))
  FROM (
    SELECT n.message_id, n.recipient_no FROM outbox.queue n
    WHERE n.parked = 'ordered'
      AND NOT EXISTS (SELECT FROM outbox.queue h WHERE h.order_key = p_order_key AND h.parked IS DISTINCT FROM 'ordered')
      AND (n.message_id, n.recipient_no) = (
        SELECT f.message_id, f.recipient_no FROM outbox.queue f
        WHERE f.order_key = p_order_key AND f.parked = 'ordered' ORDER BY f.order_no LIMIT 1)
    FOR UPDATE OF n SKIP LOCKED) n
  WHERE q.message_id = n.message_id AND q.recipient_no = n.recipient_no
$$;
COMMENT ON FUNCTION outbox.free_next(text) IS 'Makes the next delivery of an ordering key due, if its head has ended. Does not wait for its lock, and lets nobody overtake it: free_ordered() comes again.';

CREATE FUNCTION outbox.free_ordered() RETURNS bigint LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  stuck text;
  freed bigint := 0;
BEGIN
  FOR stuck IN
    SELECT q.order_key FROM outbox.queue q WHERE q.order_key IS NOT NULL
    GROUP BY q.order_key HAVING bool_and(q.parked IS NOT DISTINCT FROM 'ordered') ORDER BY q.order_key LIMIT 1000
  LOOP
    PERFORM FROM outbox.ordering o WHERE o.order_key = stuck FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
      PERFORM outbox.free_next(stuck);
      freed := freed + 1;
    END IF;
  END LOOP;
  RETURN freed;
END $$;
COMMENT ON FUNCTION outbox.free_ordered() IS 'Frees keys whose head ended while their next delivery was being committed or locked; called by the reaper.';

-- Ends a delivery whose queue row the caller holds locked.
CREATE FUNCTION outbox.finish(q outbox.queue, p_state text, p_evidence text, p_reason text, p_token uuid, p_open_doubts int)
RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  DELETE FROM outbox.queue d WHERE d.message_id = q.message_id AND d.recipient_no = q.recipient_no;
  INSERT INTO outbox.done (message_id, recipient_no, state, evidence, reason, token, open_doubts, attempt_no, intents, resends, lane, content_sha256, address_hash)
  VALUES (q.message_id, q.recipient_no, p_state, p_evidence, p_reason, p_token, greatest(p_open_doubts, 0), q.attempt_no, q.intents, q.resends, q.lane, q.content_sha256, q.address_hash);
  IF q.order_key IS NOT NULL THEN
    PERFORM outbox.free_next(q.order_key);
  END IF;
END $$;
COMMENT ON FUNCTION outbox.finish(outbox.queue, text, text, text, uuid, int) IS 'Private: moves a locked queue row to outbox.done and frees the next of its ordering key.';

-- Puts a finished delivery back into the queue (retry of a failed one, a refusal after "sent" was decided).
CREATE FUNCTION outbox.reopen(d outbox.done, p_parked text, p_note text) RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  DELETE FROM outbox.done x WHERE x.message_id = d.message_id AND x.recipient_no = d.recipient_no;
  INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, parked, note, attempt_no, intents, open_doubts, resends, prev_intent, content_sha256, address_hash)
  VALUES (d.message_id, d.recipient_no, d.lane, CASE WHEN p_parked IS NULL THEN greatest(now(), outbox.not_before_of(d.message_id)) ELSE 'infinity' END, p_parked, p_note,
          d.attempt_no, d.intents, d.open_doubts, d.resends, d.token, d.content_sha256, d.address_hash);
END $$;
COMMENT ON FUNCTION outbox.reopen(outbox.done, text, text) IS 'Private: moves a finished delivery back into the queue, keeping its counters and doubts.';

-- Settle, the cold half. The hot statement (outbox.settle) has settled every attempt that still owned its delivery; what
-- reaches this function came late: the delivery was reaped, resolved, cancelled or claimed again meanwhile. Late truth
-- wins: a known acceptance always ends in sent, no definite reply is discarded. Returns
--   settled  the truth changed the delivery,   noted   it is in the ledger and changes nothing,
--   already  this very attempt was settled before,   again   the row is this attempt's after all: use the hot statement.
CREATE FUNCTION outbox.settle_late(
  p_message_id uuid, p_recipient_no smallint, p_lease uuid, p_token uuid, p_intended boolean,
  p_outcome text, p_phase text, p_cause text, p_code smallint, p_enhanced text, p_reply text, p_detail text,
  p_route text, p_server text, p_relay uuid, p_started_at timestamptz, p_bytes int)
RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  q outbox.queue;
  d outbox.done;
  known text;       -- what the ledger said of this attempt before
  learnt int := 0;  -- doubts this settle resolves
BEGIN
  SELECT * INTO q FROM outbox.queue WHERE message_id = p_message_id AND recipient_no = p_recipient_no FOR UPDATE;
  IF FOUND AND (q.intent = p_token OR (NOT p_intended AND q.intent IS NULL AND q.lease = p_lease)) THEN
    RETURN 'again';
  END IF;
  IF q.message_id IS NULL THEN
    SELECT * INTO d FROM outbox.done WHERE message_id = p_message_id AND recipient_no = p_recipient_no FOR UPDATE;
    IF NOT FOUND THEN
      -- Reopened between the two looks, or erased.
      PERFORM FROM outbox.queue WHERE message_id = p_message_id AND recipient_no = p_recipient_no;
      IF FOUND THEN RETURN 'again'; END IF;
    END IF;
  END IF;

  SELECT a.outcome INTO known FROM outbox.attempt a
  WHERE a.message_id = p_message_id AND a.recipient_no = p_recipient_no AND a.token = p_token;
  IF known IS NOT NULL AND (known <> 'unknown' OR p_outcome = 'unknown') THEN
    RETURN 'already';
  END IF;
  INSERT INTO outbox.attempt AS a (message_id, recipient_no, token, attempt_no, outcome, phase, cause, code, enhanced, reply, detail, route, server, relay, started_at, bytes)
  VALUES (p_message_id, p_recipient_no, p_token, coalesce(q.attempt_no, d.attempt_no, 0) + 1, p_outcome, p_phase, p_cause, p_code, p_enhanced, p_reply, p_detail, p_route, p_server, p_relay, p_started_at, p_bytes)
  ON CONFLICT (message_id, recipient_no, token) DO UPDATE
    SET outcome = excluded.outcome, phase = excluded.phase, cause = excluded.cause, code = excluded.code, enhanced = excluded.enhanced,
        reply = excluded.reply, detail = excluded.detail, route = excluded.route, server = excluded.server, finished_at = excluded.finished_at, bytes = excluded.bytes
    WHERE a.outcome = 'unknown';
  IF known = 'unknown' THEN learnt := 1; END IF;
  IF p_outcome = 'unknown' THEN
    -- An attempt nobody had counted yet.
    UPDATE outbox.queue SET open_doubts = open_doubts + 1 WHERE message_id = p_message_id AND recipient_no = p_recipient_no;
    UPDATE outbox.done SET open_doubts = open_doubts + 1 WHERE message_id = p_message_id AND recipient_no = p_recipient_no;
    RETURN 'noted';
  END IF;

  IF p_outcome = 'accepted' THEN
    IF q.message_id IS NOT NULL THEN
      IF q.intent IS NULL OR q.parked = 'doubt' THEN
        PERFORM outbox.finish(q, 'sent', 'reply', 'late reply of an earlier attempt', p_token, q.open_doubts - learnt);
      ELSE
        UPDATE outbox.queue SET accepted_late = p_token, open_doubts = greatest(open_doubts - learnt, 0)
        WHERE message_id = p_message_id AND recipient_no = p_recipient_no;
      END IF;
      RETURN 'settled';
    END IF;
    UPDATE outbox.done SET state = 'sent', evidence = 'reply', reason = 'late reply' || CASE WHEN state = 'sent' THEN '' ELSE ', after it was ' || state END,
           token = p_token, open_doubts = greatest(open_doubts - learnt, 0)
    WHERE message_id = p_message_id AND recipient_no = p_recipient_no AND NOT (state = 'sent' AND evidence = 'reply');
    IF FOUND THEN RETURN 'settled'; END IF;
    -- A second copy was accepted: the first word stands, but this is no doubt any more.
    UPDATE outbox.done SET open_doubts = greatest(open_doubts - learnt, 0) WHERE message_id = p_message_id AND recipient_no = p_recipient_no;
    RETURN 'noted';
  END IF;

  -- Refused, deferred or provably not sent, late: one doubt less.
  IF q.message_id IS NOT NULL THEN
    UPDATE outbox.queue SET open_doubts = greatest(open_doubts - learnt, 0) WHERE message_id = p_message_id AND recipient_no = p_recipient_no;
    RETURN 'noted';
  END IF;
  IF d.message_id IS NULL THEN RETURN 'noted'; END IF;
  d.open_doubts := greatest(d.open_doubts - learnt, 0);
  IF d.state = 'sent' AND d.evidence IN ('operator', 'policy') AND d.token IS NOT DISTINCT FROM p_token THEN
    PERFORM outbox.reopen(d, 'held', format('decided as sent by %s, but its attempt turned out %s', d.evidence, p_outcome));
    RETURN 'settled';
  END IF;
  UPDATE outbox.done SET open_doubts = d.open_doubts WHERE message_id = p_message_id AND recipient_no = p_recipient_no;
  RETURN 'noted';
END $$;
COMMENT ON FUNCTION outbox.settle_late(uuid, smallint, uuid, uuid, boolean, text, text, text, smallint, text, text, text, text, text, uuid, timestamptz, int) IS
  'The cold half of settle: records the attempt and reconciles a delivery that has moved on meanwhile. Late truth wins. Answers settled, noted, already, or again (use the hot statement).';

-- The reaper's mark, the only way from sending to in_doubt besides the transmitting relay's own word.
CREATE FUNCTION outbox.mark_in_doubt(p_dead uuid[], p_age interval) RETURNS TABLE (message_id uuid, recipient_no smallint, token uuid, relay uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  q outbox.queue;
BEGIN
  FOR q IN
    SELECT x.* FROM outbox.queue x
    WHERE x.intent IS NOT NULL AND x.parked IS NULL
      AND (x.intent_by = ANY (p_dead) OR x.intent_at < now() - p_age
           OR NOT EXISTS (SELECT FROM outbox.relay r WHERE r.incarnation = x.intent_by AND r.signed_off_at IS NULL))
    ORDER BY x.message_id, x.recipient_no FOR UPDATE OF x SKIP LOCKED
  LOOP
    IF q.accepted_late IS NOT NULL THEN
      PERFORM outbox.finish(q, 'sent', 'reply', 'an earlier attempt was accepted', q.accepted_late, q.open_doubts + 1);
    ELSE
      UPDATE outbox.queue u SET parked = 'doubt', due_at = 'infinity', doubt_since = now(), doubt_by = 'reaper',
             open_doubts = u.open_doubts + 1, lease = NULL, lease_until = NULL, note = 'the relay vanished behind the intent'
      WHERE u.message_id = q.message_id AND u.recipient_no = q.recipient_no;
    END IF;
    INSERT INTO outbox.attempt (message_id, recipient_no, token, attempt_no, outcome, phase, cause, detail, route, relay, started_at)
    VALUES (q.message_id, q.recipient_no, q.intent, q.attempt_no + 1, 'unknown', 'end_marker', 'io', 'the relay vanished behind the intent', q.pinned_route, q.intent_by, q.intent_at)
    ON CONFLICT DO NOTHING;
    CONTINUE WHEN q.accepted_late IS NOT NULL; -- sent, not in doubt
    message_id := q.message_id; recipient_no := q.recipient_no; token := q.intent; relay := q.intent_by;
    RETURN NEXT;
  END LOOP;
END $$;
COMMENT ON FUNCTION outbox.mark_in_doubt(uuid[], interval) IS 'Marks deliveries in doubt whose intent belongs to an incarnation the caller has itself observed to be dead, that does not exist or has signed off, or is older than p_age. Never makes anything pending.';

CREATE FUNCTION outbox.maintain(ahead interval DEFAULT '28 days', keep interval DEFAULT NULL)
RETURNS TABLE (action text, detail text) LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
#variable_conflict use_column
DECLARE
  week timestamp;       -- UTC without a zone: days of a session's zone are 23 to 25 hours long
  busy text[] := '{}';  -- parents somebody has locked: the first wait says enough
  parent text;
  child text;
  gone bigint;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtextextended('hapax.maintain', 0)) THEN
    action := 'skipped'; detail := 'another session is at it'; RETURN NEXT; RETURN;
  END IF;
  FOR week IN SELECT generate_series(date_trunc('week', now() AT TIME ZONE 'UTC'), (now() + ahead) AT TIME ZONE 'UTC', interval '7 days') LOOP
    FOREACH parent IN ARRAY ARRAY['message', 'attempt'] LOOP
      child := format('%s_%s', parent, to_char(week, 'YYYYMMDD'));
      CONTINUE WHEN parent = ANY (busy) OR to_regclass('outbox.' || child) IS NOT NULL;
      BEGIN
        -- LIKE + ATTACH stalls producers for milliseconds, CREATE ... PARTITION OF for as long as their transactions.
        EXECUTE format('CREATE TABLE outbox.%I (LIKE outbox.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING INDEXES)', child, parent);
        EXECUTE format('ALTER TABLE outbox.%I ATTACH PARTITION outbox.%I FOR VALUES FROM (%L) TO (%L)', parent, child,
                       outbox.uuid_floor(week AT TIME ZONE 'UTC'), outbox.uuid_floor((week + interval '7 days') AT TIME ZONE 'UTC'));
        EXECUTE format('COMMENT ON TABLE outbox.%I IS %L', child, format('outbox.%s of the week from %s UTC', parent, to_char(week, 'YYYY-MM-DD')));
        action := 'created'; detail := child; RETURN NEXT;
      EXCEPTION
        WHEN lock_not_available THEN
          busy := busy || parent;
          action := 'postponed'; detail := format('%s: %s', child, SQLERRM); RETURN NEXT;
        WHEN check_violation THEN
          action := 'postponed'; detail := format('%s: %s', child, SQLERRM); RETURN NEXT;
      END;
    END LOOP;
  END LOOP;
  IF keep IS NOT NULL THEN
    RETURN QUERY SELECT * FROM outbox.drop_partitions_before(now() - greatest(keep, interval '7 days'));
  END IF;
  -- SKIP LOCKED, and looked at again under the lock: a producer may be taking an expired key over, or using an old
  -- ordering key again.
  DELETE FROM outbox.dedup_key k USING (
    SELECT x.tenant, x.key FROM outbox.dedup_key x WHERE x.expires_at < now() LIMIT 50000 FOR UPDATE SKIP LOCKED) old
  WHERE k.tenant = old.tenant AND k.key = old.key;
  GET DIAGNOSTICS gone = ROW_COUNT;
  IF gone > 0 THEN action := 'expired keys'; detail := gone::text; RETURN NEXT; END IF;
  DELETE FROM outbox.ordering o USING (
    SELECT x.order_key FROM outbox.ordering x
    WHERE x.last_used < now() - interval '1 day' AND NOT EXISTS (SELECT FROM outbox.queue q WHERE q.order_key = x.order_key)
    FOR UPDATE OF x SKIP LOCKED) old
  WHERE o.order_key = old.order_key;
  DELETE FROM outbox.relay r WHERE coalesce(r.signed_off_at, r.beat_at) < now() - interval '30 days'
     AND NOT EXISTS (SELECT FROM outbox.queue q WHERE q.intent_by = r.incarnation);
END $$;
COMMENT ON FUNCTION outbox.maintain(interval, interval) IS 'Upkeep: weekly partitions made ahead, old ones dropped when keep is given, expired keys removed. Called by the relay, pg_cron or by hand; never waits longer than 100 ms for a lock, postponed work is done by the next call.';

CREATE FUNCTION outbox.drop_partitions_before(p_before timestamptz) RETURNS TABLE (action text, detail text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
#variable_conflict use_column
DECLARE
  stamp text;
  lower_bound uuid;
  upper_bound uuid;
BEGIN
  FOR stamp IN
    SELECT substr(c.relname, 9) FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
    WHERE i.inhparent = 'outbox.message'::regclass AND c.relname ~ '^message_[0-9]{8}$'
      AND (to_date(substr(c.relname, 9), 'YYYYMMDD') + 7)::timestamp <= p_before AT TIME ZONE 'UTC' ORDER BY 1
  LOOP
    lower_bound := outbox.uuid_floor(to_date(stamp, 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC');
    upper_bound := outbox.uuid_floor((to_date(stamp, 'YYYYMMDD') + 7)::timestamp AT TIME ZONE 'UTC');
    BEGIN
      -- Under the lock nobody can enqueue into the range, so the check holds until the drop.
      EXECUTE format('LOCK TABLE outbox.message_%s IN ACCESS EXCLUSIVE MODE', stamp);
      IF EXISTS (SELECT FROM outbox.queue q WHERE q.message_id >= lower_bound AND q.message_id < upper_bound) THEN
        action := 'kept'; detail := format('message_%s has unfinished deliveries', stamp); RETURN NEXT;
        CONTINUE;
      END IF;
      EXECUTE format('DROP TABLE outbox.message_%s', stamp);
      EXECUTE format('DROP TABLE IF EXISTS outbox.attempt_%s', stamp);
      DELETE FROM outbox.done WHERE message_id >= lower_bound AND message_id < upper_bound;
      action := 'dropped'; detail := 'message_' || stamp; RETURN NEXT;
    EXCEPTION WHEN lock_not_available THEN
      action := 'postponed'; detail := 'message_' || stamp; RETURN NEXT;
    END;
  END LOOP;
END $$;
COMMENT ON FUNCTION outbox.drop_partitions_before(timestamptz) IS 'Private to maintain(): drops whole weeks that have ended before the given time and hold nothing unfinished.';

SELECT outbox.maintain();
