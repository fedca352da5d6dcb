-- breaking: no
-- Producing, one notification at a time: outbox.enqueue(), INSERT INTO outbox.notification, and dedup keys.
SET LOCAL lock_timeout = '5s';

-- What "the same content" means. An array's text form quotes its elements, so no two lists of fields look alike; it does
-- not depend on settings (a row's would: bytea_output). Trace, priority and times are not content.
CREATE FUNCTION outbox.digest_of(n outbox.notification) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RETURN sha256(convert_to(ARRAY[
    '1', n.kind, n.recipients::text, n.cc::text, n.bcc::text, n.sender, n.reply_to, n.subject, n.body_text, n.body_html,
    encode(sha256(n.raw_message), 'hex'), n.payload::jsonb::text, n.headers::text, n.attachments::text]::text, 'UTF8'));
END $$;
COMMENT ON FUNCTION outbox.digest_of(outbox.notification) IS
'Private: sha256 over kind, addresses and content of a checked notification: what a dedup_key stands for.';

-- Concurrent producers of one key: the second waits for the first to commit or roll back. DO NOTHING, not DO UPDATE, so
-- that repeats do not block each other; each statement of the loop has a new snapshot, because after waiting the first
-- one cannot see the row it waited for. Under REPEATABLE READ the INSERT raises 40001 instead: the caller retries.
CREATE FUNCTION outbox.take_key(door text, n outbox.notification) RETURNS uuid LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  scope text := coalesce(n.tenant, '');
  content bytea := outbox.digest_of(n);
  at timestamptz := clock_timestamp();
  until timestamptz := at + coalesce(n.dedup_ttl, interval '30 days');
  known outbox.dedup_key;
BEGIN
  LOOP
    INSERT INTO outbox.dedup_key (tenant, key, digest, message_id, expires_at) VALUES (scope, n.dedup_key, content, n.id, until)
    ON CONFLICT (tenant, key) DO NOTHING;
    IF FOUND THEN RETURN n.id; END IF;
    SELECT * INTO known FROM outbox.dedup_key k WHERE k.tenant = scope AND k.key = n.dedup_key;
    CONTINUE WHEN NOT FOUND; -- removed between the two statements
    IF known.expires_at <= at THEN
      UPDATE outbox.dedup_key k SET digest = content, message_id = n.id, expires_at = until
      WHERE k.tenant = scope AND k.key = n.dedup_key AND k.expires_at <= at;
      IF FOUND THEN RETURN n.id; END IF;
      CONTINUE; -- somebody else was faster
    END IF;
    IF known.digest = content THEN RETURN known.message_id; END IF;
    RAISE EXCEPTION USING ERRCODE = '23H01', MESSAGE = format('%s: dedup_key: was used for other content', door),
      DETAIL = format('first message: %s, remembered until %s', known.message_id, date_trunc('second', known.expires_at)),
      HINT = 'use a key that names this very event, or send the same content again; a key of a cancelled or failed message is freed by outbox.release_key()',
      COLUMN = 'dedup_key', TABLE = 'notification', SCHEMA = 'outbox';
  END LOOP;
END $$;
COMMENT ON FUNCTION outbox.take_key(text, outbox.notification) IS 'Private: the id a dedup_key stands for: the notification''s own when the key was free, the first one''s when the content is the same; else raises 23H01.';

CREATE FUNCTION outbox.put(door text, n outbox.notification) RETURNS uuid LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  first uuid;
BEGIN
  n := outbox.checked(door, n);
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
COMMENT ON FUNCTION outbox.put(text, outbox.notification) IS 'Private: checks a notification, takes its dedup_key, stores it. What outbox.enqueue() and outbox.notification end in.';

-- Three overloads, because drivers type their parameters: a string or an untyped literal finds text, Json and Jsonb
-- wrappers find their own. With two, literals are ambiguous. Only text has a default, so that a call without payload
-- finds exactly one. plpgsql, because a SQL function of this many arguments costs three times as much to call.
DO $migration$
DECLARE
  payload text;
BEGIN
  FOREACH payload IN ARRAY ARRAY['text', 'json', 'jsonb'] LOOP
    EXECUTE format($sql$
CREATE FUNCTION outbox.enqueue(
  kind text, recipients text[], payload %1$s %2$s,
  subject text DEFAULT NULL, body_text text DEFAULT NULL, body_html text DEFAULT NULL, raw_message bytea DEFAULT NULL,
  sender text DEFAULT NULL, reply_to text DEFAULT NULL, cc text[] DEFAULT NULL, bcc text[] DEFAULT NULL,
  headers jsonb DEFAULT NULL, attachments jsonb DEFAULT NULL, not_before timestamptz DEFAULT NULL, expires_at timestamptz DEFAULT NULL,
  priority text DEFAULT 'normal', ordering_key text DEFAULT NULL, dedup_key text DEFAULT NULL, dedup_ttl interval DEFAULT NULL,
  on_doubt text DEFAULT NULL, route text DEFAULT NULL, tenant text DEFAULT NULL, locale text DEFAULT NULL,
  traceparent text DEFAULT NULL, tracestate text DEFAULT NULL)
RETURNS uuid LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
  RETURN outbox.put('outbox.enqueue', ROW(NULL::uuid, kind, recipients, %3$s, subject, body_text, body_html, raw_message, sender, reply_to, cc, bcc,
    headers, attachments, not_before, expires_at, priority, ordering_key, dedup_key, dedup_ttl, on_doubt, route, tenant, locale, traceparent, tracestate)::outbox.notification);
END $body$ $sql$,
      payload, CASE payload WHEN 'text' THEN 'DEFAULT NULL' ELSE '' END,
      CASE payload WHEN 'text' THEN 'CASE WHEN payload IS NOT NULL THEN outbox.to_payload(''outbox.enqueue'', payload) END' WHEN 'json' THEN 'payload' ELSE 'payload::json' END);
    EXECUTE format($sql$
COMMENT ON FUNCTION outbox.enqueue(text, text[], %1$s, text, text, text, bytea, text, text, text[], text[], jsonb, jsonb, timestamptz, timestamptz, text, text, text, interval, text, text, text, text, text, text) IS %2$L $sql$,
      payload,
'Enqueues one notification in your own transaction and returns its id: it is sent if you commit, and only then. Required: kind, recipients, and one form of content (payload, or subject with body_text and/or body_html, or raw_message); NULL means absent. Example:
  SELECT outbox.enqueue(kind => ''order_confirmed'', recipients => ARRAY[''Ada <ada@example.org>''], payload => ''{"order_id": 42}'', dedup_key => ''order-42-confirmed'');
\d+ outbox.notification explains each argument. Bad input raises SQLSTATE 22Hxx, with the argument in COLUMN and the remedy in HINT (\df+ outbox.refuse lists them); a dedup_key used for other content 23H01. Retry the transaction on 40001 and 40P01; several dedup or ordering keys in one transaction go in sorted order.'
      || CASE payload WHEN 'text' THEN '' ELSE format(' This is the same function for a payload of type %s.', payload) END);
  END LOOP;
END $migration$;

CREATE FUNCTION outbox.notification_inserts() RETURNS trigger LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NEW.id IS NOT NULL THEN
    -- Replacing it silently would leave the client with an id that does not exist.
    PERFORM outbox.refuse('22H16', 'outbox.notification', 'id', 'cannot be given', 'leave id out, RETURNING id gives it back; in an object mapper mark it as generated by the database (not default=uuid4)');
  END IF;
  NEW.id := outbox.put('outbox.notification', NEW);
  RETURN NEW;
END $$;
COMMENT ON FUNCTION outbox.notification_inserts() IS 'Trigger of outbox.notification: each inserted row goes the way of outbox.enqueue().';

CREATE TRIGGER notification_inserts INSTEAD OF INSERT ON outbox.notification FOR EACH ROW EXECUTE FUNCTION outbox.notification_inserts();
COMMENT ON TRIGGER notification_inserts ON outbox.notification IS 'Enqueues each inserted row.';

CREATE FUNCTION outbox.free_key(p_tenant text, p_key text, p_reason text, p_force boolean) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  known outbox.dedup_key;
  blocker text;
BEGIN
  SELECT * INTO known FROM outbox.dedup_key k WHERE k.tenant = coalesce(p_tenant, '') AND k.key = p_key FOR UPDATE;
  IF NOT FOUND THEN RETURN false; END IF;
  -- Locked, so that no retry moves a delivery from done back to the queue meanwhile.
  PERFORM FROM outbox.done d WHERE d.message_id = known.message_id FOR SHARE;
  SELECT state INTO blocker FROM (
    SELECT q.recipient_no, outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) AS state FROM outbox.queue q WHERE q.message_id = known.message_id
    UNION ALL
    SELECT d.recipient_no, CASE WHEN d.state = 'sent' THEN 'sent' WHEN d.open_doubts > 0 THEN d.state || ', but it may have arrived' END
    FROM outbox.done d WHERE d.message_id = known.message_id
  ) delivery WHERE state IS NOT NULL ORDER BY recipient_no LIMIT 1;
  IF blocker IS NOT NULL AND NOT p_force THEN
    RAISE EXCEPTION USING ERRCODE = '23H02', MESSAGE = 'outbox.release_key: dedup_key: cannot be released, its message may still arrive or has arrived',
      DETAIL = format('message %s is %s', known.message_id, blocker),
      HINT = 'cancel it first: SELECT * FROM outbox.cancel(id, reason); an operator may use outbox.force_release_key()',
      COLUMN = 'dedup_key', TABLE = 'notification', SCHEMA = 'outbox';
  END IF;
  DELETE FROM outbox.dedup_key k WHERE k.tenant = known.tenant AND k.key = known.key;
  INSERT INTO outbox.audit (action, message_id, reason, before, after)
  VALUES (CASE WHEN blocker IS NULL THEN 'release key' ELSE 'release key by force' END, known.message_id, p_reason, coalesce(blocker, 'key taken'), 'key free');
  RETURN true;
END $$;
COMMENT ON FUNCTION outbox.free_key(text, text, text, boolean) IS 'Private: what outbox.release_key() and outbox.force_release_key() do.';

CREATE FUNCTION outbox.release_key(dedup_key text, tenant text DEFAULT NULL, reason text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN outbox.free_key(tenant, dedup_key, reason, false);
END $$;
COMMENT ON FUNCTION outbox.release_key(text, text, text) IS 'Frees a dedup_key, so that it can be used for another message. Refused (23H02) unless every delivery of its message has ended as cancelled, failed, expired or suppressed without a doubt. True when it was freed, false when there was no such key.';

CREATE FUNCTION outbox.force_release_key(dedup_key text, reason text, tenant text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF reason IS NULL OR btrim(reason) = '' THEN
    PERFORM outbox.refuse('22H50', 'outbox.force_release_key', 'reason', 'is required', 'say why in a few words; they are kept in outbox.audit');
  END IF;
  RETURN outbox.free_key(tenant, dedup_key, reason, true);
END $$;
COMMENT ON FUNCTION outbox.force_release_key(text, text, text) IS 'Frees a dedup_key whatever became of its message: the next message with this key may be a second one. For operators; the reason is kept in outbox.audit.';
