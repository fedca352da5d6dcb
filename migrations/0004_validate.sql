-- breaking: no
-- What a notification may look like: the view outbox.notification, and the checks every door puts its input through.
SET LOCAL lock_timeout = '5s';

DO $migration$
BEGIN
  -- The checks name code points; in SQL_ASCII they would see bytes.
  IF getdatabaseencoding() <> 'UTF8' THEN
    RAISE EXCEPTION USING MESSAGE = format('outbox: the encoding of this database is %s, it must be UTF8', getdatabaseencoding()),
      HINT = 'CREATE DATABASE ... ENCODING ''UTF8'' TEMPLATE template0';
  END IF;
END $migration$;

-- One place that says what a notification has. The view is a door (INSERT, COPY, ORMs: 0005 adds its trigger), and its
-- row type is what the functions behind every door pass to each other. It shows nothing, so SELECT on it is harmless;
-- it reads no table, so it is not updatable and does not follow changes of outbox.message.
CREATE VIEW outbox.notification AS
SELECT NULL::uuid AS id, NULL::text AS kind, NULL::text[] AS recipients, NULL::json AS payload,
       NULL::text AS subject, NULL::text AS body_text, NULL::text AS body_html, NULL::bytea AS raw_message,
       NULL::text AS sender, NULL::text AS reply_to, NULL::text[] AS cc, NULL::text[] AS bcc,
       NULL::jsonb AS headers, NULL::jsonb AS attachments, NULL::timestamptz AS not_before, NULL::timestamptz AS expires_at,
       NULL::text AS priority, NULL::text AS ordering_key, NULL::text AS dedup_key, NULL::interval AS dedup_ttl,
       NULL::text AS on_doubt, NULL::text AS route, NULL::text AS tenant, NULL::text AS locale,
       NULL::text AS traceparent, NULL::text AS tracestate
WHERE false;
COMMENT ON VIEW outbox.notification IS
'Insert here to enqueue: INSERT, COPY and object mappers; the columns are the arguments of outbox.enqueue(). Always empty when read. RETURNING id gives the message id, for a repeated dedup_key the first one. ON CONFLICT DO NOTHING swallows nothing here: use dedup_key. For bulk loads outbox.enqueue_many() is three times as fast.';
COMMENT ON COLUMN outbox.notification.id IS 'Leave it out: Hapax makes it, RETURNING id gives it back. A value is refused (22H16).';
COMMENT ON COLUMN outbox.notification.kind IS 'Required. Names the template, the policy and the metric label: a-z, 0-9, _ . -, begins with a letter, up to 63 characters.';
COMMENT ON COLUMN outbox.notification.recipients IS 'Required. "user@example.org" or "Name <user@example.org>", one per element; with cc and bcc up to 1,000. One delivery each, a repeated address has one.';
COMMENT ON COLUMN outbox.notification.payload IS 'A JSON object for the kind''s template. Exactly one form of content: payload, or subject with body_text and/or body_html, or raw_message.';
COMMENT ON COLUMN outbox.notification.subject IS 'Subject line, without line breaks, up to 998 characters. Needs body_text or body_html.';
COMMENT ON COLUMN outbox.notification.body_text IS 'Plain text body; with body_html up to 25 MB.';
COMMENT ON COLUMN outbox.notification.body_html IS 'HTML body; with body_text up to 25 MB.';
COMMENT ON COLUMN outbox.notification.raw_message IS 'A finished RFC 5322 message, header block and body, up to 50 MB. Takes no headers, attachments or reply_to beside it.';
COMMENT ON COLUMN outbox.notification.sender IS 'From, one address; the route''s own when absent.';
COMMENT ON COLUMN outbox.notification.reply_to IS 'Reply-To, one address.';
COMMENT ON COLUMN outbox.notification.cc IS 'Copies, as recipients.';
COMMENT ON COLUMN outbox.notification.bcc IS 'Blind copies, as recipients; never in a header.';
COMMENT ON COLUMN outbox.notification.headers IS 'JSON object of further header names and string values, up to 100. Those that Hapax writes itself (From, To, Subject, Message-ID, ...) are refused.';
COMMENT ON COLUMN outbox.notification.attachments IS 'JSON array of {"filename", "content_base64", "content_type"?, "content_id"?}, up to 100, 25 MB decoded in all.';
COMMENT ON COLUMN outbox.notification.not_before IS 'Not sent before this time.';
COMMENT ON COLUMN outbox.notification.expires_at IS 'Not sent after this time: it ends as expired.';
COMMENT ON COLUMN outbox.notification.priority IS 'urgent, normal (the default) or bulk.';
COMMENT ON COLUMN outbox.notification.ordering_key IS 'Deliveries of one key (and tenant) are sent one after another in commit order; up to 512 characters.';
COMMENT ON COLUMN outbox.notification.dedup_key IS 'Names the event, up to 512 characters, per tenant. The same key with the same content returns the first id and enqueues nothing; with other content it is an error (23H01).';
COMMENT ON COLUMN outbox.notification.dedup_ttl IS 'How long dedup_key is remembered; 30 days when absent, up to 10 years.';
COMMENT ON COLUMN outbox.notification.on_doubt IS 'When nobody can know whether it was sent: hold, resend or assume_sent; the kind''s policy when absent.';
COMMENT ON COLUMN outbox.notification.route IS 'The route to send it by; the kind''s when absent.';
COMMENT ON COLUMN outbox.notification.tenant IS 'Whose notification it is: scope of dedup_key and ordering_key. Letters, digits, _ . : -, up to 100 characters.';
COMMENT ON COLUMN outbox.notification.locale IS 'Locale of the template, such as en or pt-BR.';
COMMENT ON COLUMN outbox.notification.traceparent IS 'W3C trace context of the producer, 00-<32 hex>-<16 hex>-<2 hex>.';
COMMENT ON COLUMN outbox.notification.tracestate IS 'W3C trace state, up to 512 characters; needs traceparent.';

-- The checks run inside SECURITY DEFINER doors with a pinned search_path; nobody else may execute them. `door` is what
-- the caller called, for the message. A message names the argument and what is wrong with it, never its value: it ends
-- up in logs.
CREATE FUNCTION outbox.refuse(code text, door text, argument text, problem text, hint text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = code, MESSAGE = format('%s: %s: %s', door, argument, problem), HINT = hint,
    COLUMN = argument, TABLE = 'notification', SCHEMA = 'outbox';
END $$;
COMMENT ON FUNCTION outbox.refuse(text, text, text, text, text) IS
'Private: raises what a producer did wrong. The argument is named in the message and in the COLUMN field, what to do is in HINT; no value is ever repeated. SQLSTATEs: 22H01 kind; 22H02 number and shape of recipients; 22H03 an address; 22H04 forms of content; 22H05 payload; 22H06 subject; 22H07 headers; 22H08 attachments; 22H09 raw_message; 22H10 size of the bodies; 22H11 not_before, expires_at; 22H12 priority, on_doubt; 22H13 dedup_key, dedup_ttl, ordering_key; 22H14 route, tenant, locale; 22H15 traceparent, tracestate; 22H16 an id from the client; 22H17 the document given to enqueue_many; 23H01 dedup_key used for other content; 23H02 dedup_key cannot be released.';

-- The slow, exact check: says what is wrong with one address, NULL when nothing is. No bounded quantifiers: they cost
-- forty times as much as length().
CREATE FUNCTION outbox.address_problem(mailbox text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  address text := mailbox;
  name text := '';
  local text;
  domain text;
BEGIN
  IF mailbox = '' THEN RETURN 'is empty'; END IF;
  IF length(mailbox) > 1000 THEN RETURN 'is longer than 1,000 characters'; END IF;
  IF mailbox ~ '[\u0001-\u001f\u007f-\u009f]' THEN RETURN 'has a control character (a line break, a tab)'; END IF;
  IF mailbox ~ '>$' THEN
    address := substring(mailbox FROM '<([^<>]*)>$');
    IF address IS NULL THEN RETURN 'has unbalanced < >'; END IF;
    name := btrim(left(mailbox, length(mailbox) - length(address) - 2));
    IF name ~ '^"' THEN
      IF name !~ '^"(?:[^"\\]|\\.)*"$' THEN RETURN 'has unbalanced quotes in its name'; END IF;
    ELSIF name ~ '[<>]' THEN
      RETURN 'has unbalanced < >';
    ELSIF name ~ '[@,;"]' THEN
      RETURN 'has a name that must be quoted as a whole';
    END IF;
  ELSIF mailbox ~ '[<>]' THEN
    RETURN 'has unbalanced < >';
  END IF;

  IF address ~ '^"' THEN
    local := substring(address FROM '^("(?:[^"\\]|\\.)*")@');
    IF local IS NULL THEN RETURN 'has unbalanced quotes before the @'; END IF;
    IF local = '""' THEN RETURN 'has nothing before the @'; END IF;
  ELSE
    IF address ~ '[,;]' THEN RETURN 'has a comma or semicolon'; END IF;
    IF position('@' IN address) = 0 THEN RETURN 'has no @'; END IF;
    local := split_part(address, '@', 1);
    IF local = '' THEN RETURN 'has nothing before the @'; END IF;
    IF address ~ '[ \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]' THEN RETURN 'has a space'; END IF;
    IF local ~ '[(),:;<>\[\\\]"]' THEN RETURN 'has a character before the @ that must be quoted'; END IF;
    IF local ~ '^\.|\.\.|\.$' THEN RETURN 'has a misplaced dot before the @'; END IF;
  END IF;
  domain := substr(address, length(local) + 2);
  IF domain = '' THEN RETURN 'has no domain'; END IF;
  IF position('@' IN domain) > 0 THEN RETURN 'has more than one @'; END IF;
  IF octet_length(local) > 64 THEN RETURN 'has more than 64 bytes before the @'; END IF;
  IF octet_length(address) > 254 THEN RETURN 'is longer than 254 bytes'; END IF;
  IF domain ~ '^\[' THEN
    IF domain !~ '^\[(?:IPv6:[0-9A-Fa-f:.]+|[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+)\]$' THEN RETURN 'has a malformed address literal'; END IF;
    BEGIN
      PERFORM regexp_replace(domain, '^\[(?:IPv6:)?|\]$', '', 'g')::inet;
    EXCEPTION WHEN data_exception THEN
      RETURN 'has a malformed address literal';
    END;
    RETURN NULL;
  END IF;
  -- Letters and digits of any script; whether IDNA knows them, the relay says.
  IF domain !~ '^[^\u0001-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u00a0\u2000-\u206f\u3000]+(?:[.-]+[^\u0001-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u00a0\u2000-\u206f\u3000]+)*$'
     OR domain ~ '\.\.|-\.|\.-' OR EXISTS (SELECT FROM unnest(string_to_array(domain, '.')) label WHERE length(label) > 63) THEN
    RETURN 'has a domain that is not a host name';
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION outbox.address_problem(text) IS 'Private: what is wrong with a mailbox ("user@example.org" or "Name <user@example.org>"), NULL when nothing is. At least as strict as the relay''s parser.';

CREATE FUNCTION outbox.check_addresses(door text, argument text, mailboxes text[]) RETURNS text[] LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  single boolean := argument IN ('sender', 'reply_to');
  mailbox text;
  problem text;
  element int := 0;
BEGIN
  IF array_ndims(mailboxes) > 1 THEN
    PERFORM outbox.refuse('22H02', door, argument, 'must be a one-dimensional array', 'write ARRAY[''user@example.org'', ''Name <user@example.org>'']');
  END IF;
  -- Positions count from 1, whatever the client's array says.
  IF array_lower(mailboxes, 1) <> 1 THEN mailboxes := ARRAY(SELECT unnest(mailboxes)); END IF;
  FOREACH mailbox IN ARRAY mailboxes LOOP
    element := element + 1;
    -- Nearly every address passes one of these two, and is then also right for address_problem(). 64 characters keep
    -- every limit of its parts.
    CONTINUE WHEN length(mailbox) <= 64 AND (
      mailbox ~ '^[!#-''*+/-9=?A-Z^-~-]+(?:\.[!#-''*+/-9=?A-Z^-~-]+)*@[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*(?:\.[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*)*$'
      OR mailbox ~ '^[^\u0001-\u0020\u007f-\u009f"<>@,;][^\u0001-\u001f\u007f-\u009f"<>@,;]*<[!#-''*+/-9=?A-Z^-~-]+(?:\.[!#-''*+/-9=?A-Z^-~-]+)*@[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*(?:\.[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*)*>$');
    IF mailbox IS NULL THEN
      PERFORM outbox.refuse('22H02', door, argument, format('element %s is NULL', element), 'leave it out of the array');
    END IF;
    problem := outbox.address_problem(btrim(mailbox, ' '));
    IF problem IS NOT NULL THEN
      PERFORM outbox.refuse('22H03', door, argument, CASE WHEN single THEN problem ELSE format('element %s %s', element, problem) END,
        CASE WHEN single THEN 'write one address, user@example.org or Name <user@example.org>, or leave it out'
             ELSE 'write user@example.org or Name <user@example.org>, one address per element' END);
    END IF;
    mailboxes[element] := btrim(mailbox, ' ');
  END LOOP;
  RETURN mailboxes;
END $$;
COMMENT ON FUNCTION outbox.check_addresses(text, text, text[]) IS 'Private: refuses what is no address, returns the others without surrounding spaces.';

CREATE FUNCTION outbox.check_headers(door text, headers jsonb) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  header record;
BEGIN
  IF jsonb_typeof(headers) <> 'object' THEN
    PERFORM outbox.refuse('22H07', door, 'headers', 'must be a JSON object', 'write {"X-Order": "42"}: names and string values');
  END IF;
  IF (SELECT count(*) FROM jsonb_object_keys(headers)) > 100 THEN
    PERFORM outbox.refuse('22H07', door, 'headers', 'has more than 100 names', 'put data into the body or an attachment');
  END IF;
  FOR header IN SELECT h.key AS name, jsonb_typeof(h.value) AS type, h.value #>> '{}' AS value FROM jsonb_each(headers) h LOOP
    IF header.name !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]+$' OR length(header.name) > 76 THEN
      PERFORM outbox.refuse('22H07', door, 'headers', 'a name is empty, longer than 76 characters, or has a character that is not allowed', 'names consist of letters, digits and hyphens');
    END IF;
    IF lower(header.name) = ANY ('{from,to,cc,bcc,date,message-id,subject,sender,mime-version,content-type,content-transfer-encoding,return-path,received,dkim-signature,reply-to}') THEN
      PERFORM outbox.refuse('22H07', door, 'headers', format('%s is written by Hapax', lower(header.name)), 'use the arguments recipients, cc, bcc, sender, reply_to, subject; the others cannot be set');
    END IF;
    IF header.type <> 'string' THEN
      PERFORM outbox.refuse('22H07', door, 'headers', format('the value of %s is not a string', header.name), 'write {"X-Order": "42"}: names and string values');
    END IF;
    IF header.value ~ '[\u0001-\u001f\u007f]' THEN
      PERFORM outbox.refuse('22H07', door, 'headers', format('the value of %s has a control character (a line break, a tab)', header.name), 'remove it: a line break would begin another header');
    END IF;
    IF length(header.value) > 8000 THEN
      PERFORM outbox.refuse('22H07', door, 'headers', format('the value of %s is longer than 8,000 characters', header.name), 'put data into the body or an attachment');
    END IF;
  END LOOP;
END $$;
COMMENT ON FUNCTION outbox.check_headers(text, jsonb) IS 'Private: refuses headers that would break or forge a message.';

CREATE FUNCTION outbox.check_attachments(door text, attachments jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  attachment jsonb;
  element int := 0;
  encoded text;
  decoded bytea;
  problem text;
  total bigint := 0;
BEGIN
  IF jsonb_typeof(attachments) <> 'array' THEN
    PERFORM outbox.refuse('22H08', door, 'attachments', 'must be a JSON array', 'write [{"filename": "a.pdf", "content_type": "application/pdf", "content_base64": "..."}]');
  END IF;
  IF jsonb_array_length(attachments) > 100 THEN
    PERFORM outbox.refuse('22H08', door, 'attachments', 'has more than 100 elements', 'send fewer, or an archive');
  END IF;
  FOR attachment IN SELECT jsonb_array_elements(attachments) LOOP
    element := element + 1;
    problem := CASE
      WHEN jsonb_typeof(attachment) <> 'object' THEN 'is not an object'
      WHEN attachment - '{filename,content_type,content_base64,content_id}'::text[] <> '{}' THEN 'has a key other than filename, content_type, content_base64, content_id'
      WHEN jsonb_typeof(attachment -> 'filename') IS DISTINCT FROM 'string' OR attachment ->> 'filename' = '' THEN 'has no filename'
      WHEN length(attachment ->> 'filename') > 255 THEN 'has a filename longer than 255 characters'
      WHEN attachment ->> 'filename' ~ '[\u0001-\u001f\u007f]' THEN 'has a control character in filename'
      WHEN jsonb_typeof(attachment -> 'content_base64') IS DISTINCT FROM 'string' THEN 'has no content_base64'
      WHEN jsonb_typeof(attachment -> 'content_type') NOT IN ('string', 'null') OR length(attachment ->> 'content_type') > 255
        OR attachment ->> 'content_type' !~ '^[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?: *; *[A-Za-z0-9!#$&^_.+-]+=(?:[A-Za-z0-9!#$&^_.+-]+|"[ !#-[\]-~]*"))*$' THEN 'has a malformed content_type'
      WHEN jsonb_typeof(attachment -> 'content_id') NOT IN ('string', 'null') OR length(attachment ->> 'content_id') > 255
        OR attachment ->> 'content_id' !~ '^[!-;=?-~]+$' THEN 'has a malformed content_id'
      END;
    IF problem IS NULL THEN
      encoded := attachment ->> 'content_base64';
      -- Encoders that wrap lines are common; the relay reads it without.
      IF encoded ~ '[ \t\r\n]' THEN
        encoded := translate(encoded, E' \t\r\n', '');
        attachments := jsonb_set(attachments, ARRAY[(element - 1)::text, 'content_base64'], to_jsonb(encoded));
      END IF;
      BEGIN
        decoded := decode(encoded, 'base64');
        total := total + length(decoded);
        -- Strict decoders refuse stray bits in the last group.
        IF right(encoded, 4) <> encode(decode(right(encoded, 4), 'base64'), 'base64') THEN problem := 'has content_base64 that is not base64'; END IF;
      EXCEPTION WHEN data_exception THEN
        problem := 'has content_base64 that is not base64';
      END;
    END IF;
    IF problem IS NOT NULL THEN
      PERFORM outbox.refuse('22H08', door, 'attachments', format('element %s %s', element, problem), 'write [{"filename": "a.pdf", "content_type": "application/pdf", "content_base64": "..."}]');
    END IF;
  END LOOP;
  IF total > 26214400 THEN
    PERFORM outbox.refuse('22H08', door, 'attachments', 'has more than 25 MB in all', 'send a link instead');
  END IF;
  RETURN attachments;
END $$;
COMMENT ON FUNCTION outbox.check_attachments(text, jsonb) IS 'Private: refuses malformed attachments, returns the others with base64 on one line.';

CREATE FUNCTION outbox.check_raw_message(door text, raw_message bytea) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF length(raw_message) = 0 THEN
    PERFORM outbox.refuse('22H09', door, 'raw_message', 'is empty', 'give a finished RFC 5322 message, or leave it out');
  END IF;
  IF length(raw_message) > 52428800 THEN
    PERFORM outbox.refuse('22H09', door, 'raw_message', 'is longer than 50 MB', 'send a link instead');
  END IF;
  IF encode(substring(raw_message FOR 200), 'escape') !~ '^[A-Za-z0-9][A-Za-z0-9_-]*[ \t]*:'
     OR (position('\x0d0a0d0a'::bytea IN raw_message) = 0 AND position('\x0a0a'::bytea IN raw_message) = 0) THEN
    PERFORM outbox.refuse('22H09', door, 'raw_message', 'does not begin with a header block', 'header lines first, then an empty line, then the body');
  END IF;
END $$;
COMMENT ON FUNCTION outbox.check_raw_message(text, bytea) IS 'Private: refuses what cannot be a finished RFC 5322 message.';

CREATE FUNCTION outbox.to_payload(door text, payload text) RETURNS json LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RETURN payload::json;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
  PERFORM outbox.refuse('22H05', door, 'payload', 'is not JSON', 'write a JSON object: {"order_id": 42}');
END $$;
COMMENT ON FUNCTION outbox.to_payload(text, text) IS 'Private: text as JSON, without repeating it when it is none.';

CREATE FUNCTION outbox.check_payload(door text, payload json) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF json_typeof(payload) <> 'object' THEN
    PERFORM outbox.refuse('22H05', door, 'payload', format('is a JSON %s, not an object', json_typeof(payload)), 'templates need names: {"order_id": 42}');
  END IF;
  IF octet_length(payload::text) > 26214400 THEN
    PERFORM outbox.refuse('22H05', door, 'payload', 'is longer than 25 MB', 'send a link instead');
  END IF;
  -- json is only scanned, jsonb is read: NUL, lone surrogates and absurd numbers show up here, not in the relay.
  BEGIN
    PERFORM payload::jsonb;
  EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    PERFORM outbox.refuse('22H05', door, 'payload', 'has a value that cannot be stored (\u0000, half a surrogate pair, a number out of range)', 'remove it');
  END;
END $$;
COMMENT ON FUNCTION outbox.check_payload(text, json) IS 'Private: refuses payloads that no template could read.';

CREATE FUNCTION outbox.check_content(door text, n outbox.notification) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  ready boolean := num_nonnulls(n.subject, n.body_text, n.body_html) > 0;
  forms int := (n.payload IS NOT NULL)::int + ready::int + (n.raw_message IS NOT NULL)::int;
BEGIN
  IF forms <> 1 THEN
    PERFORM outbox.refuse('22H04', door, CASE WHEN forms = 0 OR n.payload IS NOT NULL THEN 'payload' ELSE 'raw_message' END,
      CASE forms WHEN 0 THEN 'there is no content' ELSE 'there is more than one form of content' END,
      'give exactly one of: payload; subject with body_text and/or body_html; raw_message');
  END IF;
  IF n.payload IS NOT NULL THEN
    PERFORM outbox.check_payload(door, n.payload);
  ELSIF ready THEN
    IF n.subject IS NULL OR btrim(n.subject) = '' THEN
      PERFORM outbox.refuse('22H04', door, 'subject', CASE WHEN n.subject IS NULL THEN 'is missing' ELSE 'is empty' END, 'a message with a body needs a subject');
    END IF;
    IF n.body_text IS NULL AND n.body_html IS NULL THEN
      PERFORM outbox.refuse('22H04', door, 'body_text', 'is missing', 'a message with a subject needs body_text or body_html');
    END IF;
    IF coalesce(n.body_text, '') = '' AND coalesce(n.body_html, '') = '' AND n.attachments IS NULL THEN
      PERFORM outbox.refuse('22H04', door, 'body_text', 'is empty', 'write a body, or attach something');
    END IF;
    IF n.subject ~ '[\u0001-\u001f\u007f]' THEN
      PERFORM outbox.refuse('22H06', door, 'subject', 'has a control character (a line break, a tab)', 'remove it: a line break would begin another header');
    END IF;
    IF length(n.subject) > 998 THEN
      PERFORM outbox.refuse('22H06', door, 'subject', 'is longer than 998 characters', 'put the rest into the body');
    END IF;
    IF coalesce(octet_length(n.body_text), 0) + coalesce(octet_length(n.body_html), 0) > 26214400 THEN
      PERFORM outbox.refuse('22H10', door, CASE WHEN octet_length(n.body_text) > 13107200 THEN 'body_text' ELSE 'body_html' END,
        'body_text and body_html are longer than 25 MB', 'send a link instead');
    END IF;
  ELSE
    IF num_nonnulls(n.headers, n.attachments, n.reply_to) > 0 THEN
      PERFORM outbox.refuse('22H04', door, CASE WHEN n.headers IS NOT NULL THEN 'headers' WHEN n.attachments IS NOT NULL THEN 'attachments' ELSE 'reply_to' END,
        'cannot be added to raw_message', 'raw_message is finished: it holds its own headers and attachments');
    END IF;
    PERFORM outbox.check_raw_message(door, n.raw_message);
  END IF;
END $$;
COMMENT ON FUNCTION outbox.check_content(text, outbox.notification) IS 'Private: exactly one form of content, and that one complete.';

CREATE FUNCTION outbox.check_options(door text, n outbox.notification) RETURNS void LANGUAGE plpgsql STABLE AS $$
DECLARE
  argument text;
  value text;
BEGIN
  IF n.priority NOT IN ('urgent', 'normal', 'bulk') THEN
    PERFORM outbox.refuse('22H12', door, 'priority', 'is none of urgent, normal, bulk', 'leave it out for normal');
  END IF;
  IF n.on_doubt NOT IN ('hold', 'resend', 'assume_sent') THEN
    PERFORM outbox.refuse('22H12', door, 'on_doubt', 'is none of hold, resend, assume_sent', 'leave it out for the policy of the kind');
  END IF;
  IF n.not_before = 'infinity' OR n.not_before = '-infinity' THEN
    PERFORM outbox.refuse('22H11', door, 'not_before', 'is infinite', 'give a point in time, or leave it out');
  END IF;
  IF n.expires_at = 'infinity' THEN
    PERFORM outbox.refuse('22H11', door, 'expires_at', 'is infinite', 'leave it out: without it nothing expires');
  END IF;
  IF n.expires_at <= clock_timestamp() THEN
    PERFORM outbox.refuse('22H11', door, 'expires_at', 'is in the past', 'it could never be sent; check the time zone');
  END IF;
  IF n.expires_at <= n.not_before THEN
    PERFORM outbox.refuse('22H11', door, 'expires_at', 'is not after not_before', 'it could never be sent');
  END IF;
  FOREACH argument IN ARRAY '{dedup_key,ordering_key}'::text[] LOOP
    value := CASE argument WHEN 'dedup_key' THEN n.dedup_key ELSE n.ordering_key END;
    IF value = '' OR length(value) > 512 OR value ~ '[\u0001-\u001f\u007f]' THEN
      PERFORM outbox.refuse('22H13', door, argument,
        CASE WHEN value = '' THEN 'is empty' WHEN length(value) > 512 THEN 'is longer than 512 characters' ELSE 'has a control character' END,
        CASE argument WHEN 'dedup_key' THEN 'name the event, such as order-42-confirmed, or leave it out' ELSE 'name what must stay in order, such as order-42, or leave it out' END);
    END IF;
  END LOOP;
  IF n.dedup_ttl IS NOT NULL THEN
    IF n.dedup_key IS NULL THEN
      PERFORM outbox.refuse('22H13', door, 'dedup_ttl', 'is given without dedup_key', 'give both or neither');
    END IF;
    IF n.dedup_ttl <= interval '0' OR n.dedup_ttl > interval '10 years' THEN
      PERFORM outbox.refuse('22H13', door, 'dedup_ttl', 'is not between 0 and 10 years', 'leave it out for 30 days');
    END IF;
  END IF;
  IF n.route !~ '^[a-z][a-z0-9_.-]*$' OR length(n.route) > 63 THEN
    PERFORM outbox.refuse('22H14', door, 'route', 'is not the name of a route', 'routes are named in hapax.toml: a-z, 0-9, _ . -, begins with a letter, up to 63 characters');
  END IF;
  IF n.tenant !~ '^[A-Za-z0-9][A-Za-z0-9_.:-]*$' OR length(n.tenant) > 100 THEN
    PERFORM outbox.refuse('22H14', door, 'tenant', 'is malformed', 'letters, digits, _ . : -, begins with a letter or digit, up to 100 characters');
  END IF;
  IF n.locale !~ '^[A-Za-z]+(?:[_-][A-Za-z0-9]+)*$' OR length(n.locale) > 35 THEN
    PERFORM outbox.refuse('22H14', door, 'locale', 'is malformed', 'write a language tag, such as en or pt-BR');
  END IF;
  IF n.traceparent !~ '^[0-9a-f]+-[0-9a-f]+-[0-9a-f]+-[0-9a-f]+$' OR n.traceparent NOT LIKE '__-________________________________-________________-__'
     OR n.traceparent ~ '^ff|-0+-' THEN
    PERFORM outbox.refuse('22H15', door, 'traceparent', 'is malformed', 'write 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, in lower case, or leave it out');
  END IF;
  IF n.tracestate IS NOT NULL THEN
    IF n.traceparent IS NULL THEN
      PERFORM outbox.refuse('22H15', door, 'tracestate', 'is given without traceparent', 'give both or only traceparent');
    END IF;
    IF n.tracestate !~ '^[ -~]+$' OR length(n.tracestate) > 512 THEN
      PERFORM outbox.refuse('22H15', door, 'tracestate', 'is malformed', 'printable ASCII, up to 512 characters');
    END IF;
  END IF;
END $$;
COMMENT ON FUNCTION outbox.check_options(text, outbox.notification) IS 'Private: the arguments that are neither addresses nor content.';

CREATE FUNCTION outbox.checked(door text, n outbox.notification) RETURNS outbox.notification LANGUAGE plpgsql STABLE AS $$
BEGIN
  IF n.kind IS NULL THEN
    PERFORM outbox.refuse('22H01', door, 'kind', 'is missing', 'name the kind of notification, such as order_confirmed');
  END IF;
  IF n.kind !~ '^[a-z][a-z0-9_.-]*$' OR length(n.kind) > 63 THEN
    PERFORM outbox.refuse('22H01', door, 'kind', CASE WHEN length(n.kind) > 63 THEN 'is longer than 63 characters' ELSE 'is malformed' END,
      'a-z, 0-9, _ . -, begins with a letter, such as order_confirmed');
  END IF;

  n.cc := coalesce(n.cc, '{}');
  n.bcc := coalesce(n.bcc, '{}');
  IF coalesce(cardinality(n.recipients), 0) = 0 THEN
    PERFORM outbox.refuse('22H02', door, 'recipients', CASE WHEN n.recipients IS NULL THEN 'is missing' ELSE 'is empty' END, 'give at least one address');
  END IF;
  IF cardinality(n.recipients) + cardinality(n.cc) + cardinality(n.bcc) > 1000 THEN
    PERFORM outbox.refuse('22H02', door, 'recipients', 'has more than 1,000 addresses, with cc and bcc', 'enqueue one notification per person');
  END IF;
  n.recipients := outbox.check_addresses(door, 'recipients', n.recipients);
  IF cardinality(n.cc) > 0 THEN n.cc := outbox.check_addresses(door, 'cc', n.cc); END IF;
  IF cardinality(n.bcc) > 0 THEN n.bcc := outbox.check_addresses(door, 'bcc', n.bcc); END IF;
  IF n.sender IS NOT NULL THEN n.sender := (outbox.check_addresses(door, 'sender', ARRAY[n.sender]))[1]; END IF;
  IF n.reply_to IS NOT NULL THEN n.reply_to := (outbox.check_addresses(door, 'reply_to', ARRAY[n.reply_to]))[1]; END IF;

  -- Mappers write JSON null and empty containers for "nothing".
  IF json_typeof(n.payload) = 'null' THEN n.payload := NULL; END IF;
  IF n.headers IN ('null', '{}') THEN n.headers := NULL; END IF;
  IF n.attachments IN ('null', '[]') THEN n.attachments := NULL; END IF;
  PERFORM outbox.check_content(door, n);
  IF n.headers IS NOT NULL THEN PERFORM outbox.check_headers(door, n.headers); END IF;
  IF n.attachments IS NOT NULL THEN n.attachments := outbox.check_attachments(door, n.attachments); END IF;

  n.priority := coalesce(n.priority, 'normal');
  PERFORM outbox.check_options(door, n);
  RETURN n;
END $$;
COMMENT ON FUNCTION outbox.checked(text, outbox.notification) IS
'Private: raises what is wrong with a notification, or returns it as it will be stored: addresses without surrounding spaces, JSON null and empty containers as NULL, base64 on one line, priority filled in.';
