-- breaking: no
-- What attacks on digests found: a member forgot the doubt of its digest, so that its dedup_key could be freed and the guard of its
-- kind let a second one out; a digest was sent after the time of what is in it; a pause or a suppression of a kind did not reach digests
-- of it that had been made.
SET LOCAL lock_timeout = '5s';

ALTER TABLE outbox.digest ADD COLUMN kind text;
COMMENT ON COLUMN outbox.digest.kind IS 'The kind of what it was made of: pauses and suppressions of that reach it, too.';
UPDATE outbox.digest g SET kind = m.kind FROM outbox.digest_member x JOIN outbox.message m ON m.id = x.message_id WHERE x.digest_id = g.id;
UPDATE outbox.done d SET open_doubts = g.open_doubts FROM outbox.digest g JOIN outbox.digest_member x ON x.digest_id = g.id
WHERE g.open_doubts > 0 AND d.message_id = x.message_id AND d.recipient_no = x.recipient_no;

CREATE OR REPLACE FUNCTION outbox.make_digest(p_key bytea, p_max int) RETURNS uuid
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
  -- What has expired ends by itself; the digest expires with the first, see tell_members(). No message is too large for a server because of what it was made of; the first always goes.
  SELECT array_agg(s.id ORDER BY s.id, s.no), array_agg(s.no ORDER BY s.id, s.no), json_agg(s.payload ORDER BY s.id, s.no),
         min(s.expires_at)
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
  INSERT INTO outbox.digest (id, members, kind) VALUES (n.id, cardinality(ids), m.kind);
  UPDATE outbox.digest_member d SET digest_id = n.id FROM unnest(ids, nos) AS i (id, no) WHERE d.message_id = i.id AND d.recipient_no = i.no;
  UPDATE outbox.queue q SET parked = 'collected', due_at = 'infinity', lease = NULL, lease_until = NULL, note = 'in digest ' || n.id
  FROM unnest(ids, nos) AS i (id, no) WHERE q.message_id = i.id AND q.recipient_no = i.no;
  RETURN n.id;
END $$;

CREATE OR REPLACE FUNCTION outbox.tell_members(p_id uuid) RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
  d outbox.done;
  q outbox.queue;
  words text;
BEGIN
  SELECT x.* INTO d FROM outbox.done x WHERE x.message_id = p_id AND x.recipient_no = 1;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  -- One expired, and so did the digest, certainly not sent: those whose time is not over are gathered again.
  IF d.state = 'expired' AND d.open_doubts = 0 AND EXISTS (SELECT FROM outbox.message m WHERE m.id = p_id AND m.expires_at <= now()) THEN
    WITH freed AS (
      UPDATE outbox.queue w SET parked = NULL, due_at = now(), note = NULL
      FROM (
        SELECT x.message_id, x.recipient_no FROM outbox.digest_member m JOIN outbox.queue x ON x.message_id = m.message_id AND x.recipient_no = m.recipient_no
        JOIN outbox.message n ON n.id = m.message_id
        WHERE m.digest_id = p_id AND x.parked = 'collected' AND coalesce(n.expires_at > now(), true)
        ORDER BY x.message_id, x.recipient_no FOR UPDATE OF x SKIP LOCKED) h
      WHERE w.message_id = h.message_id AND w.recipient_no = h.recipient_no
      RETURNING w.message_id, w.recipient_no)
    DELETE FROM outbox.digest_member m USING freed f WHERE m.message_id = f.message_id AND m.recipient_no = f.recipient_no;
  END IF;
  words := format('in digest %s%s%s', p_id, CASE WHEN d.open_doubts > 0 THEN ', which may have arrived' ELSE '' END, coalesce(': ' || d.reason, ''));
  FOR q IN
    SELECT x.* FROM outbox.digest_member m JOIN outbox.queue x ON x.message_id = m.message_id AND x.recipient_no = m.recipient_no
    WHERE m.digest_id = p_id AND x.parked = 'collected' ORDER BY x.message_id, x.recipient_no FOR UPDATE OF x SKIP LOCKED
  LOOP
    CONTINUE WHEN d.state = 'expired' AND d.open_doubts = 0
      AND EXISTS (SELECT FROM outbox.message m JOIN outbox.message n ON n.id = q.message_id WHERE m.id = p_id AND m.expires_at <= now() AND coalesce(n.expires_at > now(), true));
    -- With its doubts: what may have arrived with it has not ended without arriving.
    PERFORM outbox.finish(q, d.state, d.evidence, words, NULL, d.open_doubts);
  END LOOP;
  -- One that an application has locked ends with the next call.
  IF EXISTS (SELECT FROM outbox.digest_member m JOIN outbox.queue x ON x.message_id = m.message_id AND x.recipient_no = m.recipient_no WHERE m.digest_id = p_id AND x.parked = 'collected') THEN
    RETURN false;
  END IF;
  UPDATE outbox.done x SET state = d.state, evidence = d.evidence, reason = words, open_doubts = d.open_doubts
  FROM outbox.digest_member m
  WHERE m.digest_id = p_id AND x.message_id = m.message_id AND x.recipient_no = m.recipient_no
    AND (x.state, x.evidence, x.reason, x.open_doubts) IS DISTINCT FROM (d.state, d.evidence, words, d.open_doubts);
  UPDATE outbox.digest g SET state = d.state, evidence = d.evidence, open_doubts = d.open_doubts,
    final = d.state = 'sent' AND d.evidence IN ('reply', 'report', 'idempotent upstream') AND d.open_doubts = 0
  WHERE g.id = p_id;
  RETURN true;
END $$;

-- Also by the kind of what a digest was made of.
DO $migration$
DECLARE
  source text := pg_get_functiondef('outbox.stop_batch(uuid[],smallint[],uuid[],uuid[],text[])'::regprocedure);
  paused text := 'CASE p.what WHEN ''kind'' THEN m.kind WHEN';
  listed text := '(e.kind IS NULL OR e.kind = m.kind)';
  of_digest text := '(SELECT g.kind FROM outbox.digest g WHERE g.id = i.message_id)';
BEGIN
  IF strpos(source, paused) = 0 OR strpos(source, listed) = 0 THEN
    RAISE EXCEPTION 'outbox.stop_batch is not as it was';
  END IF;
  source := replace(source, paused, format('CASE p.what WHEN ''kind'' THEN CASE WHEN p.name = m.kind THEN m.kind ELSE %s END WHEN', of_digest));
  source := replace(source, listed, format('(e.kind IS NULL OR e.kind = m.kind OR e.kind = %s)', of_digest));
  EXECUTE source;
END $migration$;

SELECT outbox.grant_roles();
