-- breaking: no
-- Producing, directly: the doors write messages and their deliveries themselves, without a trigger and its transition table,
-- and one expression knows nearly everything that is certainly fine. What is refused, and in which words, stays as it was.
SET LOCAL lock_timeout = '2s';

-- A call that began before this migration and waits for its lock would go on to insert a message that nothing queues. It takes
-- this default, as does everybody who inserts behind the back of the doors. Restores name every column: they queue nothing.
CREATE FUNCTION outbox.only_through_the_doors() RETURNS timestamptz LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = 'outbox.message: nothing is enqueued by an INSERT into this table',
    HINT = 'use outbox.enqueue(); if you did, the schema was migrated meanwhile: run the transaction again', TABLE = 'message', SCHEMA = 'outbox';
END $$;
COMMENT ON FUNCTION outbox.only_through_the_doors() IS 'Private: the default of outbox.message.created_at, which all doors give. Raises 40001, for whoever inserts a message without its deliveries.';
ALTER TABLE outbox.message ALTER COLUMN created_at SET DEFAULT outbox.only_through_the_doors();
DROP TRIGGER message_fills_queue ON outbox.message;
DROP TRIGGER message_wakes_relays ON outbox.message;
DROP FUNCTION outbox.fill_queue();
DROP FUNCTION outbox.wake_relays();

-- NOTIFY makes commits wait for each other, so it is sent for sleepers only (an absurdly late one, because the clock went back,
-- is none). The payload is constant: many in one transaction are one. It is never worth an error: a queue of notifications that
-- somebody's forgotten listener has let grow would refuse the commit when it is full.
CREATE FUNCTION outbox.wake_relays() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  IF EXISTS (SELECT FROM outbox.sleeper s WHERE s.until > now() AND s.until < now() + interval '1 hour') AND pg_notification_queue_usage() < 0.5 THEN
    PERFORM pg_notify('hapax', '');
  END IF;
END $$;
COMMENT ON FUNCTION outbox.wake_relays() IS 'Private: NOTIFY hapax, if a relay sleeps (outbox.sleeper). A hint only: what is enqueued is found by polling, too.';

-- One row per distinct recipient of each message.
CREATE FUNCTION outbox.queue_deliveries(batch outbox.notification[], at timestamptz) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM unnest(batch) f WHERE f.id IS NOT NULL AND (f.ordering_key IS NOT NULL OR cardinality(f.recipients || f.cc || f.bcc) <> 1)) THEN
    INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, address_hash)
    SELECT f.id, 1, outbox.lane(g.group_no, f.priority, k.priority), greatest(at, f.not_before), outbox.address_hash_of(f.recipients)
    FROM unnest(batch) f
    LEFT JOIN outbox.kind k ON k.name = f.kind
    LEFT JOIN outbox.route g ON g.name = coalesce(f.route, k.route)
    WHERE f.id IS NOT NULL ORDER BY f.id;
    PERFORM outbox.wake_relays();
    RETURN;
  END IF;

  -- Joined rather than called: an SQL function that cannot be inlined costs 100 us in a statement of its own.
  INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, address_hash)
  SELECT f.id, r.recipient_no, outbox.lane(g.group_no, f.priority, k.priority), greatest(at, f.not_before), r.address_hash
  FROM unnest(batch) f
  LEFT JOIN outbox.kind k ON k.name = f.kind
  LEFT JOIN outbox.route g ON g.name = coalesce(f.route, k.route)
  CROSS JOIN LATERAL (
    SELECT min(u.o)::smallint AS recipient_no, hashtextextended(u.address, 0) AS address_hash
    FROM (SELECT lower(outbox.address_of(a)) AS address, o FROM unnest(f.recipients || f.cc || f.bcc) WITH ORDINALITY AS x (a, o)) u
    GROUP BY u.address) r
  WHERE f.id IS NOT NULL AND f.ordering_key IS NULL;

  IF EXISTS (SELECT FROM unnest(batch) f WHERE f.id IS NOT NULL AND f.ordering_key IS NOT NULL) THEN
    -- Producers of one key queue up here until the first has committed: that makes the order commit-consistent. Sorted,
    -- so that two statements with several keys cannot deadlock.
    INSERT INTO outbox.ordering AS o (order_key)
    SELECT DISTINCT outbox.order_key(f.tenant, f.ordering_key) FROM unnest(batch) f WHERE f.id IS NOT NULL AND f.ordering_key IS NOT NULL ORDER BY 1
    ON CONFLICT (order_key) DO UPDATE SET last_used = now();
    -- A new statement, so a new snapshot: it sees what the transaction before us has committed.
    INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, parked, address_hash, order_key, order_no)
    SELECT n.id, n.recipient_no, n.lane, CASE WHEN n.first THEN n.due_at ELSE 'infinity' END,
           CASE WHEN n.first THEN NULL ELSE 'ordered' END, n.address_hash, n.order_key, nextval('outbox.order_no')
    FROM (
      SELECT f.id, r.recipient_no, outbox.lane(g.group_no, f.priority, kind.priority) AS lane, greatest(at, f.not_before) AS due_at,
             r.address_hash, k.order_key,
             row_number() OVER (PARTITION BY k.order_key ORDER BY f.id, r.recipient_no) = 1
               AND NOT EXISTS (SELECT FROM outbox.queue q WHERE q.order_key = k.order_key) AS first
      FROM unnest(batch) f
      LEFT JOIN outbox.kind kind ON kind.name = f.kind
      LEFT JOIN outbox.route g ON g.name = coalesce(f.route, kind.route)
      CROSS JOIN LATERAL outbox.recipients_of(f.recipients, f.cc, f.bcc) r
      CROSS JOIN LATERAL (SELECT outbox.order_key(f.tenant, f.ordering_key) AS order_key) k
      WHERE f.id IS NOT NULL AND f.ordering_key IS NOT NULL
      ORDER BY f.id, r.recipient_no
    ) n;
  END IF;
  PERFORM outbox.wake_relays();
END $$;
COMMENT ON FUNCTION outbox.queue_deliveries(outbox.notification[], timestamptz) IS 'Private: one queue row per distinct recipient of the messages just stored; elements without an id are repeats and have none.';

-- As 0019 made it, with sender, reply_to and short headers. Headers that are longer than 84 bytes as text are the caller's to
-- check: within them a name is at most 76 characters long. Their text is that of jsonb: one form, quotes and controls escaped.
CREATE OR REPLACE FUNCTION outbox.is_plain(kind text, recipients text[], payload json, subject text, body_text text, body_html text, raw_message bytea,
  sender text, reply_to text, cc text[], bcc text[], headers jsonb, attachments jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN num_nonnulls(raw_message, cc, bcc, attachments) = 0
  AND CASE WHEN payload IS NULL
    THEN octet_length(subject) <= 998 AND subject ~ '^[^\u0001-\u0020\u007f-\u009f][^\u0001-\u001f\u007f-\u009f]*$'
      AND coalesce(octet_length(body_text), 0) + coalesce(octet_length(body_html), 0) BETWEEN 1 AND 26214400
    ELSE num_nonnulls(subject, body_text, body_html) = 0 AND json_typeof(payload) = 'object' END
  AND octet_length(kind) <= 63 AND kind ~ '^[a-z][a-z0-9_.-]*$'
  AND cardinality(recipients) = 1 AND octet_length(recipients[1]) <= 64 AND (
    recipients[1] ~ '^[!#-''*+/-9=?A-Z^-~-]+(?:\.[!#-''*+/-9=?A-Z^-~-]+)*@[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*(?:\.[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*)*$'
    OR recipients[1] ~ '^[^\u0001-\u0020\u007f-\u009f"<>@,;][^\u0001-\u001f\u007f-\u009f"<>@,;]*<[!#-''*+/-9=?A-Z^-~-]+(?:\.[!#-''*+/-9=?A-Z^-~-]+)*@[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*(?:\.[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*)*>$')
  AND (sender IS NULL OR octet_length(sender) <= 64
    AND sender ~ '^(?:[^\u0001-\u0020\u007f-\u009f"<>@,;][^\u0001-\u001f\u007f-\u009f"<>@,;]*<[!#-''*+/-9=?A-Z^-~-]+(?:\.[!#-''*+/-9=?A-Z^-~-]+)*@[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*(?:\.[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*)*>|[!#-''*+/-9=?A-Z^-~-]+(?:\.[!#-''*+/-9=?A-Z^-~-]+)*@[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*(?:\.[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*)*)$')
  AND (reply_to IS NULL OR octet_length(reply_to) <= 64
    AND reply_to ~ '^(?:[^\u0001-\u0020\u007f-\u009f"<>@,;][^\u0001-\u001f\u007f-\u009f"<>@,;]*<[!#-''*+/-9=?A-Z^-~-]+(?:\.[!#-''*+/-9=?A-Z^-~-]+)*@[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*(?:\.[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*)*>|[!#-''*+/-9=?A-Z^-~-]+(?:\.[!#-''*+/-9=?A-Z^-~-]+)*@[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*(?:\.[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*)*)$')
  AND (headers IS NULL OR octet_length(headers::text) > 84
    OR headers::text ~ '^\{"[A-Za-z0-9!#$%&''*+.^_`|~-]+": "(?:[^"\\\u0001-\u001f\u007f-\u009f]|\\["\\])*"(?:, "[A-Za-z0-9!#$%&''*+.^_`|~-]+": "(?:[^"\\\u0001-\u001f\u007f-\u009f]|\\["\\])*")*\}$'
      AND lower(headers::text) !~ '"(?:from|to|cc|bcc|date|message-id|subject|sender|mime-version|content-type|content-transfer-encoding|return-path|received|dkim-signature|reply-to|resent-bcc|x-hapax-[^"]*)": "');
COMMENT ON FUNCTION outbox.is_plain(text, text[], json, text, text, text, bytea, text, text, text[], text[], jsonb, jsonb) IS
'Private: true for a notification to one address whose addresses and content are certainly right, but for payload and for headers longer than 84 bytes, which the caller checks; anything else is for outbox.checked() to look at.';

CREATE FUNCTION outbox.are_plain(not_before timestamptz, expires_at timestamptz, priority text, ordering_key text, dedup_key text, dedup_ttl interval,
  on_doubt text, route text, tenant text, locale text, traceparent text, tracestate text) RETURNS boolean LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN ordering_key IS NULL AND coalesce(priority, 'normal') IN ('normal', 'urgent', 'bulk')
  AND (on_doubt IS NULL OR on_doubt IN ('hold', 'resend', 'assume_sent'))
  AND (not_before IS NULL OR isfinite(not_before))
  AND (expires_at IS NULL OR isfinite(expires_at) AND expires_at > clock_timestamp() AND expires_at > coalesce(not_before, '-infinity'))
  AND (dedup_key IS NULL OR octet_length(dedup_key) <= 512 AND dedup_key ~ '^[^\u0001-\u001f\u007f]+$')
  AND (dedup_ttl IS NULL OR dedup_key IS NOT NULL AND dedup_ttl > interval '0' AND dedup_ttl <= interval '10 years')
  AND (route IS NULL OR octet_length(route) <= 63 AND route ~ '^[a-z][a-z0-9_.-]*$')
  AND (tenant IS NULL OR octet_length(tenant) <= 100 AND tenant ~ '^[A-Za-z0-9][A-Za-z0-9_.:-]*$')
  AND (locale IS NULL OR octet_length(locale) <= 35 AND locale ~ '^[A-Za-z]+(?:[_-][A-Za-z0-9]+)*$')
  AND (traceparent IS NULL OR octet_length(traceparent) = 55 AND traceparent ~ '^[0-9a-f]+-[0-9a-f]+-[0-9a-f]+-[0-9a-f]+$'
    AND traceparent LIKE '__-________________________________-________________-__' AND traceparent !~ '^ff|-0+-')
  AND (tracestate IS NULL OR traceparent IS NOT NULL AND octet_length(tracestate) <= 512 AND tracestate ~ '^[ -~]+$');
COMMENT ON FUNCTION outbox.are_plain(timestamptz, timestamptz, text, text, text, interval, text, text, text, text, text, text) IS
'Private: true for options that outbox.check_options() certainly accepts, without an ordering key; anything else is for it to look at.';

-- outbox.digest_of() of what outbox.is_plain() lets through, as one expression.
CREATE FUNCTION outbox.digest_of_plain(kind text, recipients text[], payload json, subject text, body_text text, body_html text, sender text, reply_to text, headers jsonb, locale text)
RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE
RETURN sha256(convert_to((ARRAY['1', kind, recipients::text, '{}', '{}', sender, reply_to, subject, body_text, body_html, NULL, payload::jsonb::text, headers::text, NULL]
  || CASE WHEN locale IS NULL THEN '{}'::text[] ELSE ARRAY[locale] END)::text, 'UTF8'));
COMMENT ON FUNCTION outbox.digest_of_plain(text, text[], json, text, text, text, text, text, jsonb, text) IS 'Private: outbox.digest_of() of a notification without copies, attachments and raw_message.';

-- The document as notifications in one pass, and whether they are all plain and without keys; NULL when anything in it needs a
-- closer look: outbox.read_document() looks.
DROP FUNCTION outbox.read_plain_document(json);
CREATE FUNCTION outbox.read_plain_document(notifications json, OUT batch outbox.notification[], OUT plain boolean) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  fine boolean;
BEGIN
  SELECT array_agg(r ORDER BY e.no), count(*) <= 10000 AND bool_and(NOT EXISTS (
           SELECT FROM json_each(e.doc) k
           WHERE CASE
             WHEN k.key = ANY ('{kind,subject,body_text,body_html,sender,reply_to,not_before,expires_at,priority,ordering_key,dedup_key,dedup_ttl,on_doubt,route,tenant,locale,traceparent,tracestate}'::text[])
               THEN left(k.value::text, 1) NOT IN ('"', 'n')
             WHEN k.key = ANY ('{recipients,cc,bcc}'::text[]) THEN left(k.value::text, 1) NOT IN ('[', 'n')
             ELSE k.key <> ALL ('{payload,headers,attachments}'::text[]) END)),
         -- NULL is not yes.
         bool_and((outbox.is_plain(r.kind, r.recipients, r.payload, r.subject, r.body_text, r.body_html, r.raw_message, r.sender, r.reply_to, r.cc, r.bcc, r.headers, r.attachments)
           AND (r.headers IS NULL OR octet_length(r.headers::text) <= 84)
           AND (r.payload IS NULL OR octet_length(r.payload::text) <= 26214400 AND r.payload::jsonb IS NOT NULL)
           AND num_nonnulls(r.not_before, r.expires_at, r.ordering_key, r.dedup_key, r.dedup_ttl, r.on_doubt, r.route, r.tenant, r.locale, r.traceparent, r.tracestate) = 0
           AND coalesce(r.priority, 'normal') = 'normal') IS TRUE)
  INTO batch, fine, plain
  FROM json_array_elements(notifications) WITH ORDINALITY AS e(doc, no), json_populate_record(NULL::outbox.notification, e.doc) r;
  IF NOT coalesce(fine, false) THEN
    batch := NULL;
  END IF;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
  batch := NULL;
END $$;
COMMENT ON FUNCTION outbox.read_plain_document(json) IS 'Private: what outbox.read_document() returns, in one pass, and whether all of it is certainly fine and without options; no batch when the document is not certainly well-formed.';

CREATE OR REPLACE FUNCTION outbox.put_many(notifications json) RETURNS TABLE (ordinal int, id uuid) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  batch outbox.notification[];
  plain boolean;
  n outbox.notification;
  no int := 0;
  ids uuid[] := '{}';
  keyed boolean := false;
  at timestamptz;
BEGIN
  SELECT d.batch, d.plain INTO batch, plain FROM outbox.read_plain_document(notifications) d;
  IF batch IS NOT NULL AND plain THEN
    at := clock_timestamp();
    RETURN QUERY
    WITH e AS MATERIALIZED (
      SELECT u.no::int AS no, outbox.uuid_v7() AS new_id, u.kind, u.recipients, u.payload, u.subject, u.body_text, u.body_html, u.sender, u.reply_to, u.headers
      FROM unnest(batch) WITH ORDINALITY AS u(id, kind, recipients, payload, subject, body_text, body_html, raw_message, sender, reply_to, cc, bcc, headers, attachments, not_before, expires_at, priority, ordering_key, dedup_key, dedup_ttl, on_doubt, route, tenant, locale, traceparent, tracestate, no)),
    m AS (
      INSERT INTO outbox.message (id, created_at, kind, recipients, payload, subject, body_text, body_html, sender, reply_to, headers)
      SELECT e.new_id, at, e.kind, e.recipients, e.payload, e.subject, e.body_text, e.body_html, e.sender, e.reply_to, e.headers FROM e),
    q AS (
      INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, address_hash)
      SELECT e.new_id, 1, outbox.lane(g.group_no, 'normal', k.priority), at, outbox.address_hash_of(e.recipients)
      FROM e LEFT JOIN outbox.kind k ON k.name = e.kind LEFT JOIN outbox.route g ON g.name = k.route)
    SELECT e.no, e.new_id FROM e;
    PERFORM outbox.wake_relays();
    RETURN;
  END IF;
  batch := coalesce(batch, outbox.read_document(notifications));
  FOREACH n IN ARRAY batch LOOP
    no := no + 1;
    IF outbox.is_plain(n.kind, n.recipients, n.payload, n.subject, n.body_text, n.body_html, n.raw_message, n.sender, n.reply_to, n.cc, n.bcc, n.headers, n.attachments)
       AND (n.headers IS NULL OR octet_length(n.headers::text) <= 84)
       AND outbox.are_plain(n.not_before, n.expires_at, n.priority, n.ordering_key, n.dedup_key, n.dedup_ttl, n.on_doubt, n.route, n.tenant, n.locale, n.traceparent, n.tracestate) THEN
      IF n.payload IS NOT NULL THEN PERFORM outbox.check_payload(format('outbox.enqueue_many: element %s', no), n.payload); END IF;
      n.cc := '{}';
      n.bcc := '{}';
      n.priority := coalesce(n.priority, 'normal');
    ELSE
      n := outbox.checked(format('outbox.enqueue_many: element %s', no), n);
    END IF;
    n.id := outbox.uuid_v7();
    keyed := keyed OR n.dedup_key IS NOT NULL;
    batch[no] := n;
    ids[no] := n.id;
  END LOOP;
  IF keyed THEN
    -- One order for everybody, or two producers with the same keys would deadlock.
    FOR no IN
      SELECT u.no FROM unnest(batch) WITH ORDINALITY AS u(id, kind, recipients, payload, subject, body_text, body_html, raw_message, sender, reply_to, cc, bcc,
        headers, attachments, not_before, expires_at, priority, ordering_key, dedup_key, dedup_ttl, on_doubt, route, tenant, locale, traceparent, tracestate, no)
      WHERE u.dedup_key IS NOT NULL ORDER BY coalesce(u.tenant, '') COLLATE "C", u.dedup_key COLLATE "C", u.no
    LOOP
      n := batch[no];
      ids[no] := outbox.take_key(format('outbox.enqueue_many: element %s', no), n);
      IF ids[no] <> n.id THEN
        n.id := NULL; -- a repeat: nothing to insert
        batch[no] := n;
      END IF;
    END LOOP;
  END IF;
  at := clock_timestamp();
  INSERT INTO outbox.message (id, created_at, kind, sender, reply_to, recipients, cc, bcc, payload, subject, body_text, body_html, raw_message, headers, attachments,
    priority, not_before, expires_at, ordering_key, on_doubt, route, tenant, locale, traceparent, tracestate, dedup_key)
  SELECT u.id, at, u.kind, u.sender, u.reply_to, u.recipients, u.cc, u.bcc, u.payload, u.subject, u.body_text, u.body_html, u.raw_message, u.headers, u.attachments,
    u.priority, u.not_before, u.expires_at, u.ordering_key, u.on_doubt, u.route, u.tenant, u.locale, u.traceparent, u.tracestate, u.dedup_key
  FROM unnest(batch) u
  WHERE u.id IS NOT NULL
  ORDER BY u.id;
  PERFORM outbox.queue_deliveries(batch, at);
  RETURN QUERY SELECT i.no::int, i.id FROM unnest(ids) WITH ORDINALITY AS i(id, no);
END $$;

-- One text for the doors with arguments and the one with rows: @x is the argument x, or the column of the row. The message and
-- its delivery are one statement; with a dedup_key the key, too: nothing is inserted unless the key was free.
DO $migration$
DECLARE
  plain text := $sql$
  IF outbox.is_plain(@kind, @recipients, @document, @subject, @body_text, @body_html, @raw_message, @sender, @reply_to, @cc, @bcc, @headers, @attachments) THEN
    IF @document IS NOT NULL THEN PERFORM outbox.check_payload(door, @document); END IF;
    IF @headers IS NOT NULL THEN
      IF octet_length(@headers::text) > 84 THEN PERFORM outbox.check_headers(door, @headers); END IF;
    END IF;
    IF num_nonnulls(@not_before, @expires_at, @ordering_key, @dedup_ttl, @on_doubt, @route, @tenant, @locale, @traceparent, @tracestate) > 0
       OR coalesce(@priority, 'normal') <> 'normal' THEN
      fine := outbox.are_plain(@not_before, @expires_at, @priority, @ordering_key, @dedup_key, @dedup_ttl, @on_doubt, @route, @tenant, @locale, @traceparent, @tracestate);
    ELSE
      fine := @dedup_key IS NULL OR octet_length(@dedup_key) <= 512 AND @dedup_key ~ '^[^\u0001-\u001f\u007f]+$';
    END IF;
    IF fine THEN
      IF @dedup_key IS NULL THEN
        WITH m AS (INSERT INTO outbox.message (id, created_at, #columns) VALUES (outbox.uuid_v7(), clock_timestamp(), #values) RETURNING message.id, message.created_at)
        #queue
        RETURN fresh;
      END IF;
      fresh := outbox.uuid_v7();
      WITH taken AS (
        INSERT INTO outbox.dedup_key (tenant, key, digest, message_id, expires_at)
        VALUES (coalesce(@tenant, ''), @dedup_key, outbox.digest_of_plain(@kind, @recipients, @document, @subject, @body_text, @body_html, @sender, @reply_to, @headers, @locale),
          fresh, clock_timestamp() + coalesce(@dedup_ttl, interval '30 days'))
        ON CONFLICT ON CONSTRAINT dedup_key_pkey DO NOTHING RETURNING dedup_key.message_id),
      m AS (INSERT INTO outbox.message (id, created_at, #columns) SELECT t.message_id, clock_timestamp(), #values FROM taken t RETURNING message.id, message.created_at)
      #queue
      IF fresh IS NOT NULL THEN RETURN fresh; END IF;
    END IF;
  END IF;$sql$;
  queue text := $sql$INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, address_hash)
        SELECT m.id, 1, outbox.lane(g.group_no, coalesce(@priority, 'normal'), k.priority), greatest(m.created_at, @not_before), outbox.address_hash_of(@recipients)
        FROM m LEFT JOIN outbox.kind k ON k.name = @kind LEFT JOIN outbox.route g ON g.name = coalesce(@route, k.route)
        RETURNING queue.message_id, EXISTS (SELECT FROM outbox.sleeper s WHERE s.until > now()) INTO fresh, asleep;
        IF asleep THEN PERFORM outbox.wake_relays(); END IF;$sql$;
  payload text;
  names text := 'kind, sender, reply_to, recipients, payload, subject, body_text, body_html, headers, priority, not_before, expires_at, on_doubt, route, tenant, locale, traceparent, tracestate, dedup_key';
BEGIN
  plain := replace(replace(replace(plain, '#queue', queue), '#columns', names),
    '#values', replace(replace('@' || replace(names, ', ', ', @'), '@payload', '@document'), '@priority', 'coalesce(@priority, ''normal'')'));

  EXECUTE format($sql$
CREATE OR REPLACE FUNCTION outbox.put(door text, n outbox.notification) RETURNS uuid LANGUAGE plpgsql VOLATILE AS $body$
#variable_conflict use_variable
DECLARE
  fresh uuid;
  fine boolean;
  asleep boolean;
  at timestamptz;
BEGIN
%s
  n := outbox.checked(door, n);
  n.id := outbox.uuid_v7();
  IF n.dedup_key IS NOT NULL THEN
    fresh := outbox.take_key(door, n);
    IF fresh <> n.id THEN RETURN fresh; END IF;
  END IF;
  at := clock_timestamp();
  INSERT INTO outbox.message (id, created_at, kind, sender, reply_to, recipients, cc, bcc, payload, subject, body_text, body_html, raw_message, headers, attachments,
    priority, not_before, expires_at, ordering_key, on_doubt, route, tenant, locale, traceparent, tracestate, dedup_key)
  VALUES (n.id, at, n.kind, n.sender, n.reply_to, n.recipients, n.cc, n.bcc, n.payload, n.subject, n.body_text, n.body_html, n.raw_message, n.headers, n.attachments,
    n.priority, n.not_before, n.expires_at, n.ordering_key, n.on_doubt, n.route, n.tenant, n.locale, n.traceparent, n.tracestate, n.dedup_key);
  PERFORM outbox.queue_deliveries(ARRAY[n], at);
  RETURN n.id;
END $body$ $sql$, replace(replace(plain, '@document', 'n.payload'), '@', 'n.'));

  FOREACH payload IN ARRAY ARRAY['text', 'json', 'jsonb'] LOOP
    EXECUTE format($sql$
CREATE OR REPLACE FUNCTION outbox.enqueue(
  kind text, recipients text[], payload %1$s %2$s,
  subject text DEFAULT NULL, body_text text DEFAULT NULL, body_html text DEFAULT NULL, raw_message bytea DEFAULT NULL,
  sender text DEFAULT NULL, reply_to text DEFAULT NULL, cc text[] DEFAULT NULL, bcc text[] DEFAULT NULL,
  headers jsonb DEFAULT NULL, attachments jsonb DEFAULT NULL, not_before timestamptz DEFAULT NULL, expires_at timestamptz DEFAULT NULL,
  priority text DEFAULT 'normal', ordering_key text DEFAULT NULL, dedup_key text DEFAULT NULL, dedup_ttl interval DEFAULT NULL,
  on_doubt text DEFAULT NULL, route text DEFAULT NULL, tenant text DEFAULT NULL, locale text DEFAULT NULL,
  traceparent text DEFAULT NULL, tracestate text DEFAULT NULL)
RETURNS uuid LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
#variable_conflict use_variable
DECLARE
  door CONSTANT text := 'outbox.enqueue';
  document json;
  fresh uuid;
  fine boolean;
  asleep boolean;
BEGIN
  IF payload IS NOT NULL THEN document := %3$s; END IF;
%4$s
  RETURN outbox.put(door, ROW(NULL::uuid, kind, recipients, document, subject, body_text, body_html, raw_message, sender, reply_to, cc, bcc,
    headers, attachments, not_before, expires_at, priority, ordering_key, dedup_key, dedup_ttl, on_doubt, route, tenant, locale, traceparent, tracestate)::outbox.notification);
END $body$ $sql$,
      payload, CASE payload WHEN 'text' THEN 'DEFAULT NULL' ELSE '' END,
      CASE payload WHEN 'text' THEN 'outbox.to_payload(door, payload)' WHEN 'json' THEN 'payload' ELSE 'payload::json' END,
      replace(plain, '@', ''));
  END LOOP;
END $migration$;

-- As 0015 made it, but for the deliveries.
CREATE OR REPLACE FUNCTION outbox.send_again(id uuid, reason text, recipient_no int DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  m outbox.message;
  delivery record;
  known boolean := false;
  again uuid;
  at timestamptz;
  n outbox.notification;
BEGIN
  PERFORM outbox.require_reason('send_again', send_again.reason);
  SELECT x.* INTO m FROM outbox.message x WHERE x.id = send_again.id;
  IF NOT FOUND THEN PERFORM outbox.unknown_delivery('send_again', send_again.id, send_again.recipient_no); END IF;
  -- Locked, so that no retry moves a delivery from done back to the queue meanwhile: it would be sent twice.
  PERFORM FROM outbox.done d WHERE d.message_id = m.id FOR UPDATE;
  FOR delivery IN
    SELECT q.recipient_no, outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) AS state, false AS ended FROM outbox.queue q WHERE q.message_id = m.id
    UNION ALL SELECT d.recipient_no, d.state, d.state <> 'suppressed' FROM outbox.done d WHERE d.message_id = m.id
    ORDER BY 1
  LOOP
    CONTINUE WHEN delivery.recipient_no <> send_again.recipient_no;
    known := true;
    IF NOT delivery.ended THEN
      RAISE EXCEPTION USING ERRCODE = '22H56', COLUMN = 'id',
        MESSAGE = format('outbox.send_again: id: %s/%s is %s', m.id, delivery.recipient_no, delivery.state),
        HINT = CASE delivery.state WHEN 'in_doubt' THEN 'decide it with outbox.resolve()' WHEN 'suppressed' THEN 'its address is suppressed' WHEN 'held' THEN 'release it with outbox.release()'
               ELSE 'it will still be sent; wait for its end, or cancel it first' END;
    END IF;
  END LOOP;
  IF NOT known THEN PERFORM outbox.unknown_delivery('send_again', m.id, send_again.recipient_no); END IF;
  IF send_again.recipient_no IS NOT NULL THEN
    m.recipients := ARRAY[(m.recipients || m.cc || m.bcc)[send_again.recipient_no]];
    m.cc := '{}';
    m.bcc := '{}';
  END IF;
  -- A new id, and with it a new Message-ID and Date: whoever received the first must not take it for a copy. Now, although
  -- the first had a time or an expiry; by itself, although the first had an order or a dedup_key, which stays the first's.
  again := outbox.uuid_v7();
  at := clock_timestamp();
  INSERT INTO outbox.message (id, created_at, kind, sender, reply_to, recipients, cc, bcc, payload, subject, body_text, body_html, raw_message, headers, attachments,
                              priority, on_doubt, route, tenant, locale, traceparent, tracestate)
  VALUES (again, at, m.kind, m.sender, m.reply_to, m.recipients, m.cc, m.bcc, m.payload, m.subject, m.body_text, m.body_html, outbox.without_message_id(m.raw_message), m.headers, m.attachments,
          m.priority, m.on_doubt, m.route, m.tenant, m.locale, m.traceparent, m.tracestate);
  n.id := again;
  n.kind := m.kind;
  n.recipients := m.recipients;
  n.cc := m.cc;
  n.bcc := m.bcc;
  n.priority := m.priority;
  n.route := m.route;
  n.tenant := m.tenant;
  PERFORM outbox.queue_deliveries(ARRAY[n], at);
  PERFORM outbox.audit_entry('send again', m.id, d.recipient_no, d.token, send_again.reason, d.state, 'sent again as ' || again)
  FROM outbox.done d WHERE d.message_id = m.id AND (send_again.recipient_no IS NULL OR d.recipient_no = send_again.recipient_no) ORDER BY d.recipient_no;
  RETURN again;
END $$;

SELECT outbox.grant_roles();
