-- breaking: no
-- Digests: notifications of one recipient are gathered for a while and go as one message. What is gathered waits in the queue as
-- ever, only later; once it is in a digest it is parked, and ends as its digest does.
SET LOCAL lock_timeout = '5s';

ALTER TABLE outbox.kind
  ADD COLUMN collect interval,
  ADD COLUMN collect_max int NOT NULL DEFAULT 50,
  ADD COLUMN collect_as text,
  ADD CONSTRAINT kind_collect_is_a_time CHECK (collect > interval '0'),
  ADD CONSTRAINT kind_collect_max_is_many CHECK (collect_max > 1);
COMMENT ON COLUMN outbox.kind.collect IS 'Notifications of this kind to one recipient go in one message, so long after the first of them became due; NULL: each by itself. From the relays'' configuration.';
COMMENT ON COLUMN outbox.kind.collect_max IS 'So many of them go at once. From the relays'' configuration.';
COMMENT ON COLUMN outbox.kind.collect_as IS 'The kind of that message; NULL: the same. From the relays'' configuration.';

CREATE TABLE outbox.digest_group (
  key bytea PRIMARY KEY,
  kind text NOT NULL,
  closes_at timestamptz NOT NULL
) WITH (fillfactor = 80);
COMMENT ON TABLE outbox.digest_group IS 'Windows in which notifications are gathered now: its row is locked by whoever gathers or makes a digest of them. Private.';
COMMENT ON COLUMN outbox.digest_group.key IS 'SHA-256 of what those have in common that may go in one message.';

CREATE TABLE outbox.digest (
  id uuid PRIMARY KEY,
  members int NOT NULL,
  made_at timestamptz NOT NULL DEFAULT now(),
  state text,
  evidence text,
  open_doubts smallint,
  final boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE outbox.digest IS 'Messages that were made of others. Private: see outbox.digest_members.';
COMMENT ON COLUMN outbox.digest.state IS 'How it has ended, as its members have been told; NULL: not yet.';
COMMENT ON COLUMN outbox.digest.final IS 'Nothing can change that any more: a server has accepted it.';
CREATE INDEX digest_open ON outbox.digest (id) WHERE state IS NULL;
COMMENT ON INDEX outbox.digest_open IS 'Those whose end is waited for.';
CREATE INDEX digest_not_final ON outbox.digest (id) WHERE state IS NOT NULL AND NOT final;
COMMENT ON INDEX outbox.digest_not_final IS 'Those that may be retried, or turn out to have arrived.';

CREATE TABLE outbox.digest_member (
  message_id uuid NOT NULL,
  recipient_no smallint NOT NULL,
  key bytea NOT NULL,
  digest_id uuid,
  PRIMARY KEY (message_id, recipient_no)
);
COMMENT ON TABLE outbox.digest_member IS 'Deliveries that are gathered, and those that are in a digest. Private: see outbox.digest_members.';
CREATE INDEX digest_member_waiting ON outbox.digest_member (key) WHERE digest_id IS NULL;
COMMENT ON INDEX outbox.digest_member_waiting IS 'What the next digest is made of.';
CREATE INDEX digest_member_digest ON outbox.digest_member (digest_id) WHERE digest_id IS NOT NULL;
COMMENT ON INDEX outbox.digest_member_digest IS 'What a digest was made of.';

CREATE VIEW outbox.digest_members AS
SELECT m.digest_id, m.message_id, m.recipient_no::int AS recipient_no FROM outbox.digest_member m WHERE m.digest_id IS NOT NULL;
COMMENT ON VIEW outbox.digest_members IS 'Which deliveries went in which digest: a message of its own, made of them. Example:
  SELECT d.message_id, d.state FROM outbox.digest_members x JOIN outbox.deliveries d USING (message_id, recipient_no) WHERE x.digest_id = ''...'';';

-- As in 0029, with one word more.
CREATE OR REPLACE FUNCTION outbox.parked_is_sound(parked text, due_at timestamptz, intent uuid, doubt_since timestamptz) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN parked IN ('doubt', 'held', 'poison', 'ordered', 'paused', 'collected') AND due_at = 'infinity'
     AND (parked <> 'doubt' OR (intent IS NOT NULL AND doubt_since IS NOT NULL));
END $$;
COMMENT ON COLUMN outbox.queue.parked IS 'Why it is not due at all: doubt, held, poison, ordered (waits behind its ordering key), paused (outbox.pause_parked says for what), collected (it is in a digest, and ends as that does). Parked rows have due_at = infinity, so they never clog the head of the index.';

-- Making -------------------------------------------------------------------------------------------------------------
CREATE FUNCTION outbox.digest_key(m outbox.message, p_recipient_no smallint) RETURNS bytea LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN sha256(convert_to(ARRAY[m.kind, m.tenant, m.route, m.sender, m.reply_to, m.locale, m.on_doubt, m.priority, m.headers::text]::text, 'UTF8')
                || outbox.address_digest((m.recipients || m.cc || m.bcc)[p_recipient_no]));
END $$;
COMMENT ON FUNCTION outbox.digest_key(outbox.message, smallint) IS 'Private: what deliveries have in common that may go in one message.';

-- Under the lock of the group. What an application has locked (an open cancel) is left out, as is what is held, paused or has
-- ended meanwhile.
CREATE FUNCTION outbox.make_digest(p_key bytea, p_max int) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
  ids uuid[];
  nos smallint[];
  m outbox.message;
  k outbox.kind;
  n outbox.notification;
  items json;
  mailbox text;
  ends_at timestamptz;
  digest_id uuid := outbox.uuid_v7();
  at timestamptz := clock_timestamp();
BEGIN
  SELECT array_agg(h.message_id ORDER BY h.message_id, h.recipient_no), array_agg(h.recipient_no ORDER BY h.message_id, h.recipient_no) INTO ids, nos
  FROM (
    SELECT q.message_id, q.recipient_no FROM outbox.digest_member d JOIN outbox.queue q ON q.message_id = d.message_id AND q.recipient_no = d.recipient_no
    WHERE d.key = p_key AND d.digest_id IS NULL AND q.parked IS NULL AND q.intent IS NULL AND q.intents = 0 AND q.open_doubts = 0 AND q.accepted_late IS NULL
    ORDER BY q.message_id, q.recipient_no LIMIT p_max FOR UPDATE OF q SKIP LOCKED) h;
  IF ids IS NULL THEN
    RETURN NULL;
  END IF;
  -- What has expired ends by itself. No message is too large for a server because of what it was made of; the first always goes.
  SELECT array_agg(s.id ORDER BY s.id, s.no), array_agg(s.no ORDER BY s.id, s.no), json_agg(s.payload ORDER BY s.id, s.no),
         CASE WHEN bool_and(s.expires_at IS NOT NULL) THEN max(s.expires_at) END
  INTO ids, nos, items, ends_at
  FROM (
    SELECT x.id, i.no, x.payload, x.expires_at, sum(octet_length(x.payload::text)) OVER (ORDER BY x.id, i.no) AS so_far, row_number() OVER (ORDER BY x.id, i.no) AS place
    FROM unnest(ids, nos) AS i (id, no) JOIN outbox.message x ON x.id = i.id
    WHERE x.payload IS NOT NULL AND coalesce(x.expires_at > at, true)) s
  WHERE s.so_far <= 8388608 OR s.place = 1;
  IF ids IS NULL THEN
    RETURN NULL;
  END IF;
  SELECT x.* INTO m FROM outbox.message x WHERE x.id = ids[cardinality(ids)];
  SELECT x.* INTO k FROM outbox.kind x WHERE x.name = m.kind;
  n.id := digest_id;
  n.kind := coalesce(k.collect_as, m.kind);
  mailbox := (m.recipients || m.cc || m.bcc)[nos[cardinality(nos)]];
  n.recipients := ARRAY[mailbox];
  n.cc := '{}';
  n.bcc := '{}';
  n.priority := m.priority;
  n.tenant := m.tenant;
  -- By the route of those that it is made of, unless its own kind has one.
  n.route := coalesce(m.route, CASE WHEN NOT EXISTS (SELECT FROM outbox.kind x WHERE x.name = n.kind AND x.route IS NOT NULL) THEN k.route END);
  INSERT INTO outbox.message (id, created_at, kind, sender, reply_to, recipients, payload, headers, priority, expires_at, on_doubt, route, tenant, locale)
  VALUES (n.id, at, n.kind, m.sender, m.reply_to, n.recipients, json_build_object('items', items, 'count', cardinality(ids)), m.headers, m.priority, ends_at, m.on_doubt, n.route, m.tenant, m.locale);
  PERFORM outbox.queue_deliveries(ARRAY[n], at);
  INSERT INTO outbox.digest (id, members) VALUES (n.id, cardinality(ids));
  UPDATE outbox.digest_member d SET digest_id = n.id FROM unnest(ids, nos) AS i (id, no) WHERE d.message_id = i.id AND d.recipient_no = i.no;
  UPDATE outbox.queue q SET parked = 'collected', due_at = 'infinity', lease = NULL, lease_until = NULL, note = 'in digest ' || n.id
  FROM unnest(ids, nos) AS i (id, no) WHERE q.message_id = i.id AND q.recipient_no = i.no;
  RETURN n.id;
END $$;
COMMENT ON FUNCTION outbox.make_digest(bytea, int) IS 'Private: makes one message of at most so many deliveries that are gathered under a key, oldest first, and parks them; NULL when there is none that may go. Its group is locked by the caller.';

-- Group after group in the order of their keys, and each group before its deliveries, so that two relays wait for each other
-- but never deadlock: of one window one digest is made.
CREATE FUNCTION outbox.collect_batch(p_message_ids uuid[], p_recipient_nos smallint[], p_leases uuid[])
RETURNS TABLE (message_id uuid, recipient_no smallint, verdict text, digest_id uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  one record;
  v_stopped text[] := '{}';
  v_closes timestamptz;
  v_waiting bigint;
  v_digest uuid;
  v_made uuid[];
BEGIN
  IF EXISTS (SELECT FROM outbox.pause p WHERE p.ended_at IS NULL) THEN
    -- Nothing is made of what is paused. Its lease names it.
    FOR one IN SELECT s.* FROM outbox.stop_batch(p_message_ids, p_recipient_nos, p_leases, ARRAY(SELECT gen_random_uuid() FROM unnest(p_leases)), array_fill(NULL::text, ARRAY[cardinality(p_leases)])) s LOOP
      v_stopped := v_stopped || format('%s/%s', one.message_id, one.recipient_no);
      message_id := one.message_id; recipient_no := one.recipient_no; verdict := CASE WHEN one.done THEN one.verdict ELSE 'locked' END;
      RETURN NEXT;
    END LOOP;
  END IF;
  FOR one IN
    SELECT m.key, m.kind, k.collect, k.collect_max, min(q.due_at) AS first_due, array_agg(i.message_id ORDER BY i.message_id, i.recipient_no) AS ids,
           array_agg(i.recipient_no ORDER BY i.message_id, i.recipient_no) AS nos, array_agg(i.lease ORDER BY i.message_id, i.recipient_no) AS leases
    FROM unnest($1, $2, $3) AS i (message_id, recipient_no, lease)
    JOIN outbox.queue q ON q.message_id = ANY (ARRAY[i.message_id]) AND q.recipient_no = i.recipient_no AND q.lease = i.lease AND q.intent IS NULL AND q.parked IS NULL
    CROSS JOIN LATERAL (
      SELECT x.kind, x.expires_at, outbox.digest_key(x, i.recipient_no) AS key FROM outbox.message x
      WHERE x.id = ANY (ARRAY[i.message_id]) AND x.payload IS NOT NULL AND coalesce(x.attachments, '[]') = '[]' OFFSET 0) m
    JOIN outbox.kind k ON k.name = m.kind AND k.collect IS NOT NULL
    WHERE (v_stopped = '{}' OR format('%s/%s', i.message_id, i.recipient_no) <> ALL (v_stopped)) AND q.intents = 0 AND q.open_doubts = 0 AND q.order_key IS NULL AND q.lane % 4 <> 0
      -- What would expire in the window goes by itself.
      AND (m.expires_at IS NULL OR m.expires_at > now() + k.collect
           OR m.expires_at > now() AND EXISTS (SELECT FROM outbox.digest_member d WHERE d.message_id = i.message_id AND d.recipient_no = i.recipient_no))
      AND NOT EXISTS (SELECT FROM outbox.digest d WHERE d.id = i.message_id)
      AND NOT EXISTS (SELECT FROM outbox.audit u WHERE u.after = 'sent again as ' || i.message_id AND u.action IN ('send again', 'send_again'))
    GROUP BY m.key, m.kind, k.collect, k.collect_max ORDER BY m.key
  LOOP
    -- From the first on; after an outage long enough for the others to be met.
    INSERT INTO outbox.digest_group AS g (key, kind, closes_at)
    VALUES (one.key, one.kind, greatest(one.first_due + one.collect, now() + least(one.collect, interval '5 seconds')))
    ON CONFLICT (key) DO UPDATE SET kind = excluded.kind RETURNING g.closes_at INTO v_closes;
    FOR message_id, recipient_no IN
      WITH hit AS MATERIALIZED (
        SELECT q.message_id, q.recipient_no FROM unnest(one.ids, one.nos, one.leases) AS i (message_id, recipient_no, lease)
        JOIN outbox.queue q ON q.message_id = ANY (ARRAY[i.message_id]) AND q.recipient_no = i.recipient_no
        WHERE q.lease = i.lease AND q.intent IS NULL AND q.parked IS NULL
        ORDER BY q.message_id, q.recipient_no FOR UPDATE OF q SKIP LOCKED),
      noted AS (
        INSERT INTO outbox.digest_member (message_id, recipient_no, key) SELECT h.message_id, h.recipient_no, one.key FROM hit h
        ON CONFLICT (message_id, recipient_no) DO UPDATE SET key = excluded.key, digest_id = NULL)
      UPDATE outbox.queue q SET lease = NULL, lease_until = NULL, claims = greatest(q.claims - 1, 0), due_at = greatest(q.due_at, v_closes),
        note = format('gathered: goes in a digest at %s', date_trunc('second', v_closes))
      FROM hit h WHERE q.message_id = ANY (ARRAY[h.message_id]) AND q.recipient_no = h.recipient_no
      RETURNING q.message_id, q.recipient_no
    LOOP
      verdict := 'waits'; digest_id := NULL;
      RETURN NEXT;
    END LOOP;
    LOOP
      SELECT count(*) INTO v_waiting FROM outbox.digest_member d JOIN outbox.queue q ON q.message_id = d.message_id AND q.recipient_no = d.recipient_no
      WHERE d.key = one.key AND d.digest_id IS NULL AND q.parked IS NULL AND q.intent IS NULL AND q.intents = 0;
      EXIT WHEN v_waiting = 0 OR v_closes > clock_timestamp() AND v_waiting < one.collect_max;
      v_digest := outbox.make_digest(one.key, one.collect_max);
      EXIT WHEN v_digest IS NULL;
      message_id := NULL; recipient_no := NULL; verdict := 'made'; digest_id := v_digest;
      RETURN NEXT;
      IF v_closes > clock_timestamp() THEN
        -- A window of their own for those that are left.
        v_closes := now() + one.collect;
        UPDATE outbox.digest_group g SET closes_at = v_closes WHERE g.key = one.key;
        UPDATE outbox.queue q SET due_at = v_closes, note = format('gathered: goes in a digest at %s', date_trunc('second', v_closes))
        FROM (
          SELECT x.message_id, x.recipient_no FROM outbox.digest_member d JOIN outbox.queue x ON x.message_id = d.message_id AND x.recipient_no = d.recipient_no
          WHERE d.key = one.key AND d.digest_id IS NULL AND x.parked IS NULL AND x.intent IS NULL AND x.intents = 0 FOR UPDATE OF x SKIP LOCKED) r
        WHERE q.message_id = r.message_id AND q.recipient_no = r.recipient_no;
      END IF;
    END LOOP;
    IF v_waiting = 0 OR v_closes <= clock_timestamp() THEN
      DELETE FROM outbox.digest_group g WHERE g.key = one.key;
      DELETE FROM outbox.digest_member d WHERE d.key = one.key AND d.digest_id IS NULL
        AND NOT EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = d.message_id AND q.recipient_no = d.recipient_no);
    END IF;
  END LOOP;
END $$;
COMMENT ON FUNCTION outbox.collect_batch(uuid[], smallint[], uuid[]) IS
  'Relays: gathers these claimed deliveries, where their kind collects and they may be (a payload, no attachments, no ordering key, not urgent, never tried), by their leases, and makes the digests that are due. Answers those that are nobody''s any more (waits, paused, suppressed), those that somebody has locked (locked), and the digests (made). The others go by themselves.';

-- Ending -------------------------------------------------------------------------------------------------------------
CREATE FUNCTION outbox.tell_members(p_id uuid) RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
  d outbox.done;
  q outbox.queue;
  words text;
BEGIN
  SELECT x.* INTO d FROM outbox.done x WHERE x.message_id = p_id AND x.recipient_no = 1;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  -- Doubts are counted by attempts, and theirs are the digest's.
  words := format('in digest %s%s%s', p_id, CASE WHEN d.open_doubts > 0 THEN ', which may have arrived' ELSE '' END, coalesce(': ' || d.reason, ''));
  FOR q IN
    SELECT x.* FROM outbox.digest_member m JOIN outbox.queue x ON x.message_id = m.message_id AND x.recipient_no = m.recipient_no
    WHERE m.digest_id = p_id AND x.parked = 'collected' ORDER BY x.message_id, x.recipient_no FOR UPDATE OF x SKIP LOCKED
  LOOP
    PERFORM outbox.finish(q, d.state, d.evidence, words, NULL, 0);
  END LOOP;
  -- One that an application has locked ends with the next call.
  IF EXISTS (SELECT FROM outbox.digest_member m JOIN outbox.queue x ON x.message_id = m.message_id AND x.recipient_no = m.recipient_no WHERE m.digest_id = p_id AND x.parked = 'collected') THEN
    RETURN false;
  END IF;
  UPDATE outbox.done x SET state = d.state, evidence = d.evidence, reason = words
  FROM outbox.digest_member m
  WHERE m.digest_id = p_id AND x.message_id = m.message_id AND x.recipient_no = m.recipient_no
    AND (x.state, x.evidence, x.reason) IS DISTINCT FROM (d.state, d.evidence, words);
  UPDATE outbox.digest g SET state = d.state, evidence = d.evidence, open_doubts = d.open_doubts,
    final = d.state = 'sent' AND d.evidence IN ('reply', 'report', 'idempotent upstream') AND d.open_doubts = 0
  WHERE g.id = p_id;
  RETURN true;
END $$;
COMMENT ON FUNCTION outbox.tell_members(uuid) IS 'Private: those that a digest was made of end as it did, or have ended so.';

-- What ended without evidence may be retried, or turn out to have arrived: looked at again now and then (p_all). Of a digest whose
-- history is gone its members are forgotten; theirs goes with their own partition.
CREATE FUNCTION outbox.follow_digests(p_all boolean, batch int DEFAULT 500) RETURNS bigint LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
  one uuid;
  told bigint := 0;
BEGIN
  FOR one IN
    SELECT g.id FROM outbox.digest g WHERE g.state IS NULL AND EXISTS (SELECT FROM outbox.done d WHERE d.message_id = g.id AND d.recipient_no = 1)
    ORDER BY g.id LIMIT batch FOR UPDATE OF g SKIP LOCKED
  LOOP
    told := told + outbox.tell_members(one)::int;
  END LOOP;
  IF NOT p_all THEN
    RETURN told;
  END IF;
  UPDATE outbox.digest g SET state = NULL FROM outbox.queue q WHERE g.state IS NOT NULL AND NOT g.final AND q.message_id = g.id AND q.recipient_no = 1;
  FOR one IN
    SELECT g.id FROM outbox.digest g JOIN outbox.done d ON d.message_id = g.id AND d.recipient_no = 1
    WHERE g.state IS NOT NULL AND NOT g.final AND (g.state, g.evidence, g.open_doubts) IS DISTINCT FROM (d.state, d.evidence, d.open_doubts)
    ORDER BY g.id LIMIT batch FOR UPDATE OF g SKIP LOCKED
  LOOP
    told := told + outbox.tell_members(one)::int;
  END LOOP;
  WITH old AS (
    SELECT o.id FROM (SELECT g.id FROM outbox.digest g ORDER BY g.id LIMIT 200 FOR UPDATE SKIP LOCKED) o
    WHERE NOT EXISTS (SELECT FROM outbox.done d WHERE d.message_id = o.id) AND NOT EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = o.id)),
  forgotten AS (
    DELETE FROM outbox.digest_member m USING old WHERE m.digest_id = old.id)
  DELETE FROM outbox.digest g USING old WHERE g.id = old.id;
  -- Windows that nobody came back for: all of it was cancelled, or its kind does not collect any more.
  WITH stale AS (
    DELETE FROM outbox.digest_group g USING (SELECT x.key FROM outbox.digest_group x WHERE x.closes_at < now() - interval '1 hour' LIMIT 1000 FOR UPDATE SKIP LOCKED) s
    WHERE g.key = s.key RETURNING g.key)
  DELETE FROM outbox.digest_member m USING stale
  WHERE m.key = stale.key AND m.digest_id IS NULL AND NOT EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = m.message_id AND q.recipient_no = m.recipient_no);
  RETURN told;
END $$;
COMMENT ON FUNCTION outbox.follow_digests(boolean, int) IS 'Relays: lets what digests were made of end as those have; with p_all also where one was retried or its outcome has changed since. Answers how many digests.';

-- Deciding -----------------------------------------------------------------------------------------------------------
CREATE FUNCTION outbox.digest_of_delivery(p_message_id uuid, p_recipient_no smallint) RETURNS uuid LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT m.digest_id FROM outbox.digest_member m WHERE m.message_id = p_message_id AND m.recipient_no = p_recipient_no);
END $$;
COMMENT ON FUNCTION outbox.digest_of_delivery(uuid, smallint) IS 'Private: the digest that a delivery is in, if it is in one.';

-- As in 0007; what is in a digest is decided with that.
CREATE OR REPLACE FUNCTION outbox.cancel(id uuid, reason text) RETURNS TABLE (recipient_no int, result text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  q outbox.queue;
  handled int[] := '{}';
BEGIN
  PERFORM outbox.require_reason('cancel', cancel.reason);
  -- All at once, not row by row from a cursor: ending one frees the next of an ordering key, and a cursor passes over rows
  -- that its own transaction has changed meanwhile.
  FOREACH q IN ARRAY ARRAY(SELECT x FROM outbox.queue x WHERE x.message_id = cancel.id ORDER BY x.recipient_no FOR UPDATE) LOOP
    handled := handled || q.recipient_no::int;
    recipient_no := q.recipient_no;
    IF q.accepted_late IS NOT NULL AND (q.intent IS NULL OR q.parked = 'doubt') THEN
      PERFORM outbox.finish(q, 'sent', 'reply', 'an earlier attempt was accepted', q.accepted_late, q.open_doubts);
      result := 'too late: sent';
    ELSIF q.parked = 'doubt' THEN
      result := 'too late: in doubt, decide it with outbox.resolve()';
    ELSIF q.intent IS NOT NULL THEN
      result := 'too late: in flight';
    ELSIF q.parked = 'collected' THEN
      result := format('too late: in digest %s, which can be cancelled', outbox.digest_of_delivery(q.message_id, q.recipient_no));
    ELSE
      PERFORM outbox.audit_entry('cancel', q.message_id, q.recipient_no, NULL, cancel.reason, outbox.state_of(q.parked, q.intent, q.lease, q.lease_until), 'cancelled');
      -- The token keeps in mind that a doubt was decided before: should it be retried, resolve() asks which one is meant.
      PERFORM outbox.finish(q, 'cancelled', NULL, cancel.reason, q.prev_intent, q.open_doubts);
      result := 'cancelled';
    END IF;
    RETURN NEXT;
  END LOOP;
  RETURN QUERY SELECT d.recipient_no::int, CASE d.state WHEN 'cancelled' THEN 'already cancelled' ELSE 'too late: ' || d.state END
    FROM outbox.done d WHERE d.message_id = cancel.id AND d.recipient_no <> ALL (handled) ORDER BY 1;
  IF NOT FOUND AND handled = '{}' THEN PERFORM outbox.unknown_delivery('cancel', cancel.id, NULL); END IF;
END $$;

-- As in 0007.
CREATE OR REPLACE FUNCTION outbox.hold(id uuid, reason text) RETURNS TABLE (recipient_no int, result text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  q outbox.queue;
  known boolean := false;
BEGIN
  PERFORM outbox.require_reason('hold', hold.reason);
  FOR q IN SELECT x.* FROM outbox.queue x WHERE x.message_id = hold.id ORDER BY x.recipient_no FOR UPDATE LOOP
    known := true;
    recipient_no := q.recipient_no;
    IF q.intent IS NOT NULL THEN
      result := CASE WHEN q.parked = 'doubt' THEN 'too late: in doubt' ELSE 'too late: in flight' END;
    ELSIF q.parked = 'collected' THEN
      result := format('too late: in digest %s, which can be held', outbox.digest_of_delivery(q.message_id, q.recipient_no));
    ELSIF q.parked = 'ordered' THEN
      result := 'nothing to hold: it waits behind its ordering key; hold the head of the key';
    ELSE
      UPDATE outbox.queue u SET parked = 'held', due_at = 'infinity', note = hold.reason, lease = NULL, lease_until = NULL
      WHERE u.message_id = q.message_id AND u.recipient_no = q.recipient_no;
      PERFORM outbox.audit_entry('hold', q.message_id, q.recipient_no, NULL, hold.reason, outbox.state_of(q.parked, q.intent, q.lease, q.lease_until), 'held');
      result := 'held';
    END IF;
    RETURN NEXT;
  END LOOP;
  IF NOT known THEN
    IF NOT EXISTS (SELECT FROM outbox.done d WHERE d.message_id = hold.id) THEN PERFORM outbox.unknown_delivery('hold', hold.id, NULL); END IF;
    RETURN QUERY SELECT d.recipient_no::int, 'nothing to hold: it is ' || d.state FROM outbox.done d WHERE d.message_id = hold.id ORDER BY 1;
  END IF;
END $$;

-- As in 0029.
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
                WHEN q.parked = 'paused' THEN ', paused until outbox.resume()'
                WHEN q.parked = 'collected' THEN format(', in digest %s', outbox.digest_of_delivery(q.message_id, q.recipient_no)) ELSE '' END;
    END IF;
    RETURN NEXT;
  END LOOP;
  FOR d IN SELECT x.* FROM outbox.done x WHERE x.message_id = retry.id AND (retry.recipient_no IS NULL OR x.recipient_no = retry.recipient_no) ORDER BY x.recipient_no FOR UPDATE LOOP
    known := true;
    delivery := d.recipient_no;
    IF d.state = 'sent' THEN
      result := 'nothing to retry: it is sent';
    ELSIF outbox.digest_of_delivery(d.message_id, d.recipient_no) IS NOT NULL THEN
      result := format('refused: it went in digest %s: retry that, or send this one again as a message of its own: outbox.send_again()', outbox.digest_of_delivery(d.message_id, d.recipient_no));
    ELSIF d.state = 'expired' AND EXISTS (SELECT FROM outbox.message m WHERE m.id = d.message_id AND m.expires_at <= now()) THEN
      result := 'refused: its expires_at has passed; outbox.send_again() sends it as a new message, which does not expire';
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

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  ('outbox_relay', 'EXECUTE', '{collect_batch,follow_digests}'::text[]),
  ('outbox_operator outbox_viewer', 'SELECT', '{digest_members}');
SELECT outbox.grant_roles();
