-- breaking: no
-- Refusals that help more: options written as headers, and keys of messages that have been sent.
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
    IF lower(header.name) = ANY ('{from,to,cc,bcc,date,message-id,subject,sender,mime-version,content-type,content-transfer-encoding,return-path,received,dkim-signature,reply-to}') THEN
      PERFORM outbox.refuse('22H07', door, 'headers', format('%s is written by Hapax', lower(header.name)), 'use the arguments recipients, cc, bcc, sender, reply_to, subject; the others cannot be set');
    END IF;
    IF header.name ~* '^x-hapax-' THEN
      PERFORM outbox.refuse('22H07', door, 'headers', format('%s would be sent to the recipient', lower(header.name)), 'options are arguments here (dedup_key, not_before, ...); only the mailers of deploy/producers take them from headers');
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
      DETAIL = format('message %s is %s', known.message_id, blocker),
      HINT = CASE WHEN blocker LIKE 'sent%' THEN 'use another key for another message; an operator may use outbox.force_release_key()'
        ELSE 'cancel it first: SELECT * FROM outbox.cancel(id, reason); an operator may use outbox.force_release_key()' END,
      COLUMN = 'dedup_key', TABLE = 'notification', SCHEMA = 'outbox';
  END IF;
  DELETE FROM outbox.dedup_key k WHERE k.tenant = known.tenant AND k.key = known.key;
  INSERT INTO outbox.audit (action, message_id, reason, before, after)
  VALUES (CASE WHEN blocker IS NULL THEN 'release key' ELSE 'release key by force' END, known.message_id, p_reason, coalesce(blocker, 'key taken'), 'key free');
  RETURN true;
END $$;

SELECT outbox.grant_roles();
