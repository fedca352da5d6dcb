-- breaking: no
-- Producing in bulk: outbox.enqueue_many(), one JSON document, one INSERT.
SET LOCAL lock_timeout = '5s';

-- What the keys of one element are and what JSON type each takes; NULL for a key that does not exist.
CREATE FUNCTION outbox.json_type_of(argument text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
  WHEN argument IN ('kind', 'subject', 'body_text', 'body_html', 'raw_message_base64', 'sender', 'reply_to', 'not_before', 'expires_at', 'priority',
    'ordering_key', 'dedup_key', 'dedup_ttl', 'on_doubt', 'route', 'tenant', 'locale', 'traceparent', 'tracestate') THEN 'string'
  WHEN argument IN ('recipients', 'cc', 'bcc') THEN 'array'
  WHEN argument IN ('payload', 'headers', 'attachments') THEN 'any' END;
COMMENT ON FUNCTION outbox.json_type_of(text) IS 'Private: the JSON type of an argument of enqueue_many ("any": its own check looks), NULL for what is no argument.';

-- Refuses what the document itself does wrong, before anything is read from it: the database's own errors would repeat
-- the value.
CREATE FUNCTION outbox.check_document(notifications json) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  door text := 'outbox.enqueue_many';
  bad record;
BEGIN
  IF notifications IS NULL OR json_typeof(notifications) <> 'array' THEN
    PERFORM outbox.refuse('22H17', door, 'notifications', 'must be a JSON array', 'write [{"kind": "order_confirmed", "recipients": ["ada@example.org"], "payload": {}}]');
  END IF;
  IF json_array_length(notifications) > 10000 THEN
    PERFORM outbox.refuse('22H17', door, 'notifications', 'has more than 10,000 elements', 'call it several times in the same transaction');
  END IF;
  SELECT e.no INTO bad FROM json_array_elements(notifications) WITH ORDINALITY AS e(doc, no) WHERE json_typeof(e.doc) <> 'object' ORDER BY e.no LIMIT 1;
  IF FOUND THEN
    PERFORM outbox.refuse('22H17', format('%s: element %s', door, bad.no), 'notifications', 'is not an object', 'write [{"kind": "order_confirmed", "recipients": ["ada@example.org"], "payload": {}}]');
  END IF;
  BEGIN
    SELECT e.no, k.key, outbox.json_type_of(k.key) AS type INTO bad
    FROM json_array_elements(notifications) WITH ORDINALITY AS e(doc, no), json_each(e.doc) AS k
    WHERE outbox.json_type_of(k.key) IS NULL OR outbox.json_type_of(k.key) <> 'any' AND json_typeof(k.value) NOT IN (outbox.json_type_of(k.key), 'null')
    ORDER BY e.no LIMIT 1;
  EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    -- The object cannot even be taken apart; jsonb finds which one.
    FOR bad IN SELECT e.doc, e.no FROM json_array_elements(notifications) WITH ORDINALITY AS e(doc, no) ORDER BY e.no LOOP
      BEGIN
        PERFORM bad.doc::jsonb;
      EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        PERFORM outbox.refuse('22H17', format('%s: element %s', door, bad.no), 'notifications', 'has a value that cannot be stored (\u0000, half a surrogate pair, a number out of range)', 'remove it');
      END;
    END LOOP;
    PERFORM outbox.refuse('22H17', door, 'notifications', 'has a value that cannot be stored', 'remove it');
  END;
  IF NOT FOUND THEN RETURN; END IF;
  door := format('%s: element %s', door, bad.no);
  IF bad.type IS NOT NULL THEN
    PERFORM outbox.refuse('22H17', door, bad.key, format('must be a JSON %s', bad.type), CASE bad.type WHEN 'array' THEN 'write ["ada@example.org"], also for one address' ELSE 'write it in quotes' END);
  ELSIF bad.key = 'id' THEN
    PERFORM outbox.refuse('22H16', door, 'id', 'cannot be given', 'leave id out, it is returned');
  ELSIF bad.key = 'raw_message' THEN
    PERFORM outbox.refuse('22H17', door, 'raw_message', 'cannot be written in JSON', 'give raw_message_base64');
  ELSE
    -- A key is a name in the caller's code, unless something is very wrong: then it is not repeated.
    PERFORM outbox.refuse('22H17', door, CASE WHEN bad.key ~ '^[A-Za-z][A-Za-z0-9_]*$' AND length(bad.key) <= 63 THEN bad.key ELSE '(malformed)' END, 'is no argument',
      'the keys are the arguments of outbox.enqueue(), with raw_message_base64 for raw_message: \d outbox.notification');
  END IF;
END $$;
COMMENT ON FUNCTION outbox.check_document(json) IS 'Private: refuses a document that is no array of objects with the arguments of enqueue() as keys.';

CREATE FUNCTION outbox.read_element(element json) RETURNS outbox.notification LANGUAGE plpgsql STABLE AS $$
DECLARE
  n outbox.notification := json_populate_record(NULL::outbox.notification, element);
BEGIN
  n.raw_message := decode(element ->> 'raw_message_base64', 'base64');
  RETURN n;
END $$;
COMMENT ON FUNCTION outbox.read_element(json) IS 'Private: one element of the document as a notification, unchecked.';

CREATE FUNCTION outbox.read_document(notifications json) RETURNS outbox.notification[] LANGUAGE plpgsql STABLE AS $$
DECLARE
  door text;
  element record;
  argument text;
BEGIN
  PERFORM outbox.check_document(notifications);
  BEGIN
    RETURN ARRAY(SELECT outbox.read_element(e.doc) FROM json_array_elements(notifications) WITH ORDINALITY AS e(doc, no) ORDER BY e.no);
  EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    NULL; -- some value does not fit its type
  END;
  FOR element IN SELECT e.doc, e.no FROM json_array_elements(notifications) WITH ORDINALITY AS e(doc, no) ORDER BY e.no LOOP
    FOR argument IN SELECT json_object_keys(element.doc) LOOP
      BEGIN
        PERFORM outbox.read_element(json_build_object(argument, element.doc -> argument));
      EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        door := format('outbox.enqueue_many: element %s', element.no);
        IF argument IN ('not_before', 'expires_at') THEN
          PERFORM outbox.refuse('22H17', door, argument, 'is not a timestamp', 'write ISO 8601 with a time zone: "2030-01-31T12:00:00Z"');
        ELSIF argument = 'dedup_ttl' THEN
          PERFORM outbox.refuse('22H17', door, argument, 'is not an interval', 'write "7 days" or ISO 8601: "P7D"');
        ELSIF argument = 'raw_message_base64' THEN
          PERFORM outbox.refuse('22H17', door, argument, 'is not base64', 'encode the finished message with standard base64');
        ELSE
          PERFORM outbox.refuse('22H17', door, argument, 'does not fit its type', 'write strings as strings, lists of addresses as ["ada@example.org"]');
        END IF;
      END;
    END LOOP;
  END LOOP;
  RAISE EXCEPTION USING ERRCODE = '22H17', MESSAGE = 'outbox.enqueue_many: notifications: cannot be read', COLUMN = 'notifications';
END $$;
COMMENT ON FUNCTION outbox.read_document(json) IS 'Private: the elements of the document as notifications, in order, unchecked; raises 22H17 naming element and argument when a value does not fit.';

CREATE FUNCTION outbox.put_many(notifications json) RETURNS TABLE (ordinal int, id uuid) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  batch outbox.notification[] := outbox.read_document(notifications);
  n outbox.notification;
  no int := 0;
  ids uuid[] := '{}';
BEGIN
  FOREACH n IN ARRAY batch LOOP
    no := no + 1;
    n := outbox.checked(format('outbox.enqueue_many: element %s', no), n);
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
COMMENT ON FUNCTION outbox.put_many(json) IS 'Private: what the overloads of outbox.enqueue_many() do.';

CREATE FUNCTION outbox.enqueue_many(notifications json) RETURNS TABLE (ordinal int, id uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN QUERY SELECT * FROM outbox.put_many(notifications);
END $$;
CREATE FUNCTION outbox.enqueue_many(notifications jsonb) RETURNS TABLE (ordinal int, id uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN QUERY SELECT * FROM outbox.put_many(notifications::json);
END $$;
CREATE FUNCTION outbox.enqueue_many(notifications text) RETURNS TABLE (ordinal int, id uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  document json;
BEGIN
  BEGIN
    document := notifications::json;
  EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    PERFORM outbox.refuse('22H17', 'outbox.enqueue_many', 'notifications', 'is not JSON', 'write [{"kind": "order_confirmed", "recipients": ["ada@example.org"], "payload": {}}]');
  END;
  RETURN QUERY SELECT * FROM outbox.put_many(document);
END $$;

COMMENT ON FUNCTION outbox.enqueue_many(text) IS
'Enqueues up to 10,000 notifications with one INSERT, all or none. A JSON array of objects whose keys are the arguments of outbox.enqueue() (raw_message_base64 for raw_message); returns the position of each element, from 1, with its id (the first one''s for a repeated dedup_key). Errors name the element. Dedup keys are taken in sorted order, so that producers with the same keys do not deadlock. Example:
  SELECT * FROM outbox.enqueue_many(''[{"kind": "digest", "recipients": ["ada@example.org"], "payload": {"items": 3}}]'');';
COMMENT ON FUNCTION outbox.enqueue_many(json) IS 'outbox.enqueue_many(text) for a document of type json.';
COMMENT ON FUNCTION outbox.enqueue_many(jsonb) IS 'outbox.enqueue_many(text) for a document of type jsonb.';
