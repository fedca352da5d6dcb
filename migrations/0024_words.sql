-- breaking: no
-- Refusals that help more: options written as headers, what the relay could not render, keys of messages that have been sent.
SET LOCAL lock_timeout = '5s';

CREATE OR REPLACE FUNCTION outbox.check_headers(door text, headers jsonb) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
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
    IF lower(header.name) = ANY ('{from,to,cc,bcc,date,message-id,subject,sender,mime-version,content-type,content-transfer-encoding,return-path,received,dkim-signature,reply-to,resent-bcc}') THEN
      PERFORM outbox.refuse('22H07', door, 'headers', format('%s is written by Hapax', lower(header.name)), 'use the arguments recipients, cc, bcc, sender, reply_to, subject; the others cannot be set');
    END IF;
    IF header.name ~* '^x-hapax-' THEN
      PERFORM outbox.refuse('22H07', door, 'headers', format('%s would be sent to the recipient', lower(header.name)), 'options are arguments here (dedup_key, not_before, ...); only the mailers of deploy/producers take them from headers');
    END IF;
    IF header.type <> 'string' THEN
      PERFORM outbox.refuse('22H07', door, 'headers', format('the value of %s is not a string', header.name), 'write {"X-Order": "42"}: names and string values');
    END IF;
    IF header.value ~ '[\u0001-\u001f\u007f-\u009f]' THEN
      PERFORM outbox.refuse('22H07', door, 'headers', format('the value of %s has a control character (a line break, a tab)', header.name), 'remove it: a line break would begin another header');
    END IF;
    IF length(header.value) > 8000 THEN
      PERFORM outbox.refuse('22H07', door, 'headers', format('the value of %s is longer than 8,000 characters', header.name), 'put data into the body or an attachment');
    END IF;
    IF EXISTS (SELECT FROM regexp_split_to_table(header.value, ' ') word WHERE octet_length(word) > 900) OR position(repeat(' ', 900) IN header.value) > 0 THEN
      PERFORM outbox.refuse('22H07', door, 'headers', format('the value of %s has a word longer than 900 bytes', header.name), 'a line has at most 998 bytes: put spaces into it, or the data into the body');
    END IF;
  END LOOP;
END $$;

CREATE OR REPLACE FUNCTION outbox.free_key(p_tenant text, p_key text, p_reason text, p_force boolean) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
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
      DETAIL = CASE WHEN p_force OR EXISTS (SELECT FROM outbox.message m WHERE m.id = known.message_id AND m.session_role = session_user)
        THEN format('message %s is %s', known.message_id, blocker) ELSE format('its message, of another user of the database, is %s', blocker) END,
      HINT = CASE WHEN blocker LIKE 'sent%' THEN 'use another key for another message; an operator may use outbox.force_release_key()'
        ELSE 'cancel it first: SELECT * FROM outbox.cancel(id, reason); an operator may use outbox.force_release_key()' END,
      COLUMN = 'dedup_key', TABLE = 'notification', SCHEMA = 'outbox';
  END IF;
  DELETE FROM outbox.dedup_key k WHERE k.tenant = known.tenant AND k.key = known.key;
  INSERT INTO outbox.audit (action, message_id, reason, before, after)
  VALUES (CASE WHEN blocker IS NULL THEN 'release key' ELSE 'release key by force' END, known.message_id, p_reason, coalesce(blocker, 'key taken'), 'key free');
  RETURN true;
END $$;

CREATE OR REPLACE FUNCTION outbox.check_attachments(door text, attachments jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
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
      WHEN octet_length(attachment ->> 'filename') > 500 THEN 'has a filename longer than 500 bytes'
      WHEN attachment ->> 'content_type' ~* '^multipart/' THEN 'has a content_type of several parts'
      WHEN attachment ->> 'filename' ~ '[\u0001-\u001f\u007f-\u009f]' THEN 'has a control character in filename'
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
        IF encoded ~ '=[^=]' THEN problem := 'has content_base64 that is not base64'; END IF;
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

CREATE OR REPLACE FUNCTION outbox.check_content(door text, n outbox.notification) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
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
    IF n.subject ~ '[\u0001-\u001f\u007f-\u009f]' THEN
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

-- A session's own setting of this would change what the checks' expressions mean.
DO $migration$
DECLARE
  door regprocedure;
BEGIN
  FOR door IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'outbox'::regnamespace AND p.proname IN ('enqueue', 'enqueue_many', 'notification_inserts') LOOP
    EXECUTE format('ALTER FUNCTION %s SET standard_conforming_strings = on', door);
  END LOOP;
END $migration$;

SELECT outbox.grant_roles();
