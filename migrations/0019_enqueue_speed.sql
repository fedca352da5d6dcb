-- breaking: no
-- Producing, cheaper: a short way for what is certainly fine. What is refused, and in which words, stays as it was: what the
-- short way does not know goes the long one (0004 to 0006).
SET LOCAL lock_timeout = '5s';

-- Nearly every notification is this: one address, no copies, one form of content, nothing unusual. One expression says so. The
-- planner writes it into the statement that asks (which is why it pins no search_path: everything in it is an operator or a
-- function of pg_catalog, and only doors that pin theirs call it). False and NULL mean "look closely", never "refuse". What it
-- lets through outbox.checked() would accept, unchanged but for the defaults of cc, bcc and priority, if outbox.check_payload()
-- and outbox.check_options() do, which the callers run. The regular expressions are those of outbox.checked(),
-- outbox.check_addresses() and outbox.check_content(); three matches cost less than one of them all.
CREATE FUNCTION outbox.is_plain(kind text, recipients text[], payload json, subject text, body_text text, body_html text, raw_message bytea,
  sender text, reply_to text, cc text[], bcc text[], headers jsonb, attachments jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN num_nonnulls(raw_message, sender, reply_to, cc, bcc, headers, attachments) = 0
  AND CASE WHEN payload IS NULL
    THEN octet_length(subject) <= 998 AND subject ~ '^[^\u0001-\u0020\u007f][^\u0001-\u001f\u007f]*$'
      AND coalesce(octet_length(body_text), 0) + coalesce(octet_length(body_html), 0) BETWEEN 1 AND 26214400
    ELSE num_nonnulls(subject, body_text, body_html) = 0 AND json_typeof(payload) = 'object' END
  AND octet_length(kind) <= 63 AND kind ~ '^[a-z][a-z0-9_.-]*$'
  AND cardinality(recipients) = 1 AND octet_length(recipients[1]) <= 64 AND (
    recipients[1] ~ '^[!#-''*+/-9=?A-Z^-~-]+(?:\.[!#-''*+/-9=?A-Z^-~-]+)*@[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*(?:\.[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*)*$'
    OR recipients[1] ~ '^[^\u0001-\u0020\u007f-\u009f"<>@,;][^\u0001-\u001f\u007f-\u009f"<>@,;]*<[!#-''*+/-9=?A-Z^-~-]+(?:\.[!#-''*+/-9=?A-Z^-~-]+)*@[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*(?:\.[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*)*>$');
COMMENT ON FUNCTION outbox.is_plain(text, text[], json, text, text, text, bytea, text, text, text[], text[], jsonb, jsonb) IS
'Private: true for a notification to one address whose addresses and content are certainly right; anything else is for outbox.checked() to look at.';

CREATE OR REPLACE FUNCTION outbox.put(door text, n outbox.notification) RETURNS uuid LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  first uuid;
BEGIN
  IF outbox.is_plain(n.kind, n.recipients, n.payload, n.subject, n.body_text, n.body_html, n.raw_message, n.sender, n.reply_to, n.cc, n.bcc, n.headers, n.attachments) THEN
    IF n.payload IS NOT NULL THEN PERFORM outbox.check_payload(door, n.payload); END IF;
    -- Of the options only dedup_key is common enough to be looked at here.
    IF num_nonnulls(n.not_before, n.expires_at, n.ordering_key, n.dedup_ttl, n.on_doubt, n.route, n.tenant, n.locale, n.traceparent, n.tracestate) = 0 AND coalesce(n.priority, 'normal') = 'normal'
       AND (n.dedup_key IS NULL OR octet_length(n.dedup_key) <= 512 AND n.dedup_key ~ '^[^\u0001-\u001f\u007f]+$') THEN
      n.id := outbox.uuid_v7();
      IF n.dedup_key IS NOT NULL THEN
        n.cc := '{}';
        n.bcc := '{}';
        first := outbox.take_key(door, n);
        IF first <> n.id THEN RETURN first; END IF;
      END IF;
      INSERT INTO outbox.message (id, kind, recipients, payload, subject, body_text, body_html, dedup_key)
      VALUES (n.id, n.kind, n.recipients, n.payload, n.subject, n.body_text, n.body_html, n.dedup_key);
      RETURN n.id;
    END IF;
    n.cc := '{}';
    n.bcc := '{}';
    n.priority := coalesce(n.priority, 'normal');
    PERFORM outbox.check_options(door, n);
  ELSE
    n := outbox.checked(door, n);
  END IF;
  n.id := outbox.uuid_v7();
  IF n.dedup_key IS NOT NULL THEN
    first := outbox.take_key(door, n);
    IF first <> n.id THEN RETURN first; END IF;
  END IF;
  INSERT INTO outbox.message (id, kind, sender, reply_to, recipients, cc, bcc, payload, subject, body_text, body_html, raw_message, headers, attachments,
    priority, not_before, expires_at, ordering_key, on_doubt, route, tenant, locale, traceparent, tracestate, dedup_key)
  VALUES (n.id, n.kind, n.sender, n.reply_to, n.recipients, n.cc, n.bcc, n.payload, n.subject, n.body_text, n.body_html, n.raw_message, n.headers, n.attachments,
    n.priority, n.not_before, n.expires_at, n.ordering_key, n.on_doubt, n.route, n.tenant, n.locale, n.traceparent, n.tracestate, n.dedup_key);
  RETURN n.id;
END $$;

-- As hashtextextended(lower(outbox.address_of(recipients[1])), 0), but shorter: split_part() finds what follows the last <.
CREATE FUNCTION outbox.address_hash_of(recipients text[]) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashtextextended(lower(CASE WHEN rtrim(recipients[1]) NOT LIKE '%>' THEN btrim(recipients[1])
  WHEN recipients[1] LIKE '%<%' THEN rtrim(split_part(rtrim(recipients[1]), '<', -1), '>') ELSE '' END), 0);
COMMENT ON FUNCTION outbox.address_hash_of(text[]) IS 'Private: outbox.address_hash() of the first address, for the trigger that fills the queue.';

CREATE OR REPLACE FUNCTION outbox.fill_queue() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- The common statement: recent ids, no ordering keys, one address each. One look instead of two, and no aggregate: both cost
  -- more than the rows they are for.
  PERFORM FROM fresh f
  WHERE f.id < outbox.uuid_floor(now() - interval '1 hour') OR f.ordering_key IS NOT NULL
     OR cardinality(f.recipients || f.cc || f.bcc) <> 1 OR f.recipients[1] IS NULL;
  IF NOT FOUND THEN
    INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, address_hash)
    SELECT f.id, 1, outbox.lane(g.group_no, f.priority, k.priority), greatest(f.created_at, f.not_before), outbox.address_hash_of(f.recipients)
    FROM fresh f
    LEFT JOIN outbox.kind k ON k.name = f.kind
    LEFT JOIN outbox.route g ON g.name = coalesce(f.route, k.route);
    RETURN NULL;
  END IF;

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

-- Each statement reads a table's CHECK constraints from text and plans them: three, with their lists, cost an INSERT of one row
-- as much as its three indexes. The same rule as one constraint that names little; the function runs for parked rows only.
CREATE FUNCTION outbox.parked_is_sound(parked text, due_at timestamptz, intent uuid, doubt_since timestamptz) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN parked IN ('doubt', 'held', 'poison', 'ordered') AND due_at = 'infinity'
     AND (parked <> 'doubt' OR (intent IS NOT NULL AND doubt_since IS NOT NULL));
END $$;
COMMENT ON FUNCTION outbox.parked_is_sound(text, timestamptz, uuid, timestamptz) IS
'The constraint of parked queue rows: the reason is known, the row is never due, a doubt has an intent and a beginning.';
ALTER TABLE outbox.queue
  DROP CONSTRAINT queue_parked_is_known, DROP CONSTRAINT queue_doubt_has_an_intent, DROP CONSTRAINT queue_parked_is_never_due,
  ADD CONSTRAINT queue_parked_is_sound CHECK (parked IS NULL OR outbox.parked_is_sound(parked, due_at, intent, doubt_since));

-- The document as notifications in one pass, or NULL when anything in it needs a closer look: outbox.read_document() looks.
CREATE FUNCTION outbox.read_plain_document(notifications json) RETURNS outbox.notification[] LANGUAGE plpgsql STABLE AS $$
DECLARE
  batch outbox.notification[];
  fine boolean;
BEGIN
  SELECT array_agg(json_populate_record(NULL::outbox.notification, e.doc) ORDER BY e.no),
         count(*) <= 10000 AND bool_and(NOT EXISTS (
           SELECT FROM json_each(e.doc) k
           WHERE CASE
             WHEN k.key = ANY ('{kind,subject,body_text,body_html,sender,reply_to,not_before,expires_at,priority,ordering_key,dedup_key,dedup_ttl,on_doubt,route,tenant,locale,traceparent,tracestate}'::text[])
               THEN left(k.value::text, 1) NOT IN ('"', 'n')
             WHEN k.key = ANY ('{recipients,cc,bcc}'::text[]) THEN left(k.value::text, 1) NOT IN ('[', 'n')
             ELSE k.key <> ALL ('{payload,headers,attachments}'::text[]) END))
  INTO batch, fine FROM json_array_elements(notifications) WITH ORDINALITY AS e(doc, no);
  RETURN CASE WHEN fine THEN batch END;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
  RETURN NULL;
END $$;
COMMENT ON FUNCTION outbox.read_plain_document(json) IS 'Private: what outbox.read_document() returns, in one pass; NULL when the document is not certainly well-formed.';

CREATE OR REPLACE FUNCTION outbox.put_many(notifications json) RETURNS TABLE (ordinal int, id uuid) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  batch outbox.notification[] := coalesce(outbox.read_plain_document(notifications), outbox.read_document(notifications));
  n outbox.notification;
  no int := 0;
  ids uuid[] := '{}';
BEGIN
  FOREACH n IN ARRAY batch LOOP
    no := no + 1;
    IF outbox.is_plain(n.kind, n.recipients, n.payload, n.subject, n.body_text, n.body_html, n.raw_message, n.sender, n.reply_to, n.cc, n.bcc, n.headers, n.attachments)
       AND num_nonnulls(n.not_before, n.expires_at, n.ordering_key, n.dedup_key, n.dedup_ttl, n.on_doubt, n.route, n.tenant, n.locale, n.traceparent, n.tracestate) = 0
       AND coalesce(n.priority, 'normal') = 'normal' THEN
      IF n.payload IS NOT NULL THEN PERFORM outbox.check_payload(format('outbox.enqueue_many: element %s', no), n.payload); END IF;
      n.cc := '{}';
      n.bcc := '{}';
      n.priority := 'normal';
    ELSE
      n := outbox.checked(format('outbox.enqueue_many: element %s', no), n);
    END IF;
    n.id := outbox.uuid_v7();
    batch[no] := n;
    ids[no] := n.id;
  END LOOP;
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
  INSERT INTO outbox.message (id, kind, sender, reply_to, recipients, cc, bcc, payload, subject, body_text, body_html, raw_message, headers, attachments,
    priority, not_before, expires_at, ordering_key, on_doubt, route, tenant, locale, traceparent, tracestate, dedup_key)
  SELECT u.id, u.kind, u.sender, u.reply_to, u.recipients, u.cc, u.bcc, u.payload, u.subject, u.body_text, u.body_html, u.raw_message, u.headers, u.attachments,
    u.priority, u.not_before, u.expires_at, u.ordering_key, u.on_doubt, u.route, u.tenant, u.locale, u.traceparent, u.tracestate, u.dedup_key
  FROM unnest(batch) u
  WHERE u.id IS NOT NULL
  ORDER BY u.id;
  RETURN QUERY SELECT i.no::int, i.id FROM unnest(ids) WITH ORDINALITY AS i(id, no);
END $$;

-- The doors with arguments, and the shortest way of all: a plain notification with its content, without options, is never made
-- a row of outbox.notification. All else goes through outbox.put().
DO $migration$
DECLARE
  payload text;
BEGIN
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
DECLARE
  fresh_id uuid;
BEGIN
  IF subject IS NOT NULL AND dedup_key IS NULL THEN
    IF num_nonnulls(payload, not_before, expires_at, ordering_key, dedup_ttl, on_doubt, route, tenant, locale, traceparent, tracestate) = 0
       AND coalesce(priority, 'normal') = 'normal'
       AND outbox.is_plain(kind, recipients, NULL, subject, body_text, body_html, raw_message, sender, reply_to, cc, bcc, headers, attachments) THEN
      fresh_id := outbox.uuid_v7();
      INSERT INTO outbox.message (id, kind, recipients, subject, body_text, body_html) VALUES (fresh_id, kind, recipients, subject, body_text, body_html);
      RETURN fresh_id;
    END IF;
  END IF;
  RETURN outbox.put('outbox.enqueue', ROW(NULL::uuid, kind, recipients, %3$s, subject, body_text, body_html, raw_message, sender, reply_to, cc, bcc,
    headers, attachments, not_before, expires_at, priority, ordering_key, dedup_key, dedup_ttl, on_doubt, route, tenant, locale, traceparent, tracestate)::outbox.notification);
END $body$ $sql$,
      payload, CASE payload WHEN 'text' THEN 'DEFAULT NULL' ELSE '' END,
      CASE payload WHEN 'text' THEN 'CASE WHEN payload IS NOT NULL THEN outbox.to_payload(''outbox.enqueue'', payload) END' WHEN 'json' THEN 'payload' ELSE 'payload::json' END);
  END LOOP;
END $migration$;

INSERT INTO outbox.privilege (roles, privileges, names) VALUES ('outbox_relay', 'EXECUTE', '{parked_is_sound}');
SELECT outbox.grant_roles();
