-- breaking: no
-- Finished messages: what mail libraries make anew each time is not content, and what no relay could send is refused.
SET LOCAL lock_timeout = '5s';

-- A retry builds its message again: with another Message-ID, Date, other MIME boundaries and Content-IDs. What two messages
-- are compared by is a list of their parts, so that nothing in a text can be taken for structure: of each its path, its header
-- section and a hash of its body. Lines end as for the relay: at CRLF, at LF and at a lone CR.
CREATE FUNCTION outbox.mime_parts(message text, path text, depth int) RETURNS TABLE (part text, header text, body text) LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  ends int := position(E'\n\n' IN message);
  head text := CASE WHEN left(message, 1) = E'\n' THEN '' WHEN ends > 0 THEN left(message, ends - 1) ELSE message END;
  rest text := CASE WHEN left(message, 1) = E'\n' THEN substr(message, 2) WHEN ends > 0 THEN substr(message, ends + 2) ELSE '' END;
  type text := substring(E'\n' || head FROM '(?i)\ncontent-type[ \t]*:[^\n]*(?:\n[ \t][^\n]*)*');
  boundary text;
  pieces text[];
  piece text;
  parts text[] := '{}';
  around text := '';
  closed boolean := false;
BEGIN
  IF depth < 20 AND type ~* '^\ncontent-type[ \t]*:[ \t\n]*multipart/' THEN
    boundary := coalesce(substring(type FROM '(?i);[ \t\n]*boundary[ \t]*=[ \t]*"([^"\n]+)"'), substring(type FROM '(?i);[ \t\n]*boundary[ \t]*=[ \t]*([^" \t\n;]+)'));
  END IF;
  IF boundary IS NOT NULL THEN
    pieces := string_to_array(E'\n' || rest, E'\n--' || boundary);
    around := pieces[1];
    FOREACH piece IN ARRAY pieces[2:] LOOP
      IF NOT closed AND piece ~ '^[ \t]*\n' THEN
        parts := parts || substr(piece, position(E'\n' IN piece) + 1);
      ELSIF NOT closed AND piece ~ '^--[ \t]*(\n|$)' THEN
        closed := true;
        around := around || E'\x01' || substr(piece, 3);
      ELSIF closed OR parts = '{}' THEN -- text that only looks like it
        around := around || E'\n--\x01' || piece;
      ELSE
        parts[cardinality(parts)] := parts[cardinality(parts)] || E'\n--' || boundary || piece;
      END IF;
    END LOOP;
  END IF;
  IF cardinality(parts) BETWEEN 1 AND 1000 THEN
    RETURN QUERY SELECT path, replace(E'\n' || head, type,
      regexp_replace(type, ';[ \t\n]*boundary[ \t]*=[ \t]*("[^"\n]+"|[^" \t\n;]+)', E';\x01', 'i')), around;
    FOR number IN 1..cardinality(parts) LOOP
      RETURN QUERY SELECT p.part, p.header, p.body FROM outbox.mime_parts(parts[number], path || '.' || number, depth + 1) p;
    END LOOP;
  ELSIF depth < 20 AND type ~* '^\ncontent-type[ \t]*:[ \t\n]*message/rfc822' AND head !~* '(^|\n)content-transfer-encoding[ \t]*:[ \t\n]*(base64|quoted-printable)' THEN
    RETURN QUERY SELECT path, E'\n' || head, ''::text;
    RETURN QUERY SELECT p.part, p.header, p.body FROM outbox.mime_parts(rest, path || '.m', depth + 1) p;
  ELSE
    RETURN QUERY SELECT path, E'\n' || head, rest;
  END IF;
END $$;
COMMENT ON FUNCTION outbox.mime_parts(text, text, int) IS 'Private: the parts of a message whose lines end with LF, multiparts before what they hold, without the boundaries that delimit them.';

-- An HTML part without what a Content-ID is called: as it reads decoded, since the length of a name moves line breaks and base64.
CREATE FUNCTION outbox.without_content_ids(header text, body text, content_ids text[]) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  encoding text := lower(substring(header FROM '(?i)\ncontent-transfer-encoding[ \t]*:[ \t\n]*([A-Za-z0-9-]+)'));
  name text;
BEGIN
  IF content_ids = '{}' OR header !~* '\ncontent-type[ \t]*:[ \t\n]*text/html' THEN RETURN body; END IF;
  IF encoding = 'quoted-printable' THEN
    body := replace(body, E'=\n', '');
  ELSIF encoding = 'base64' THEN
    body := encode(decode(body, 'base64'), 'escape');
  END IF;
  FOR number IN 1..cardinality(content_ids) LOOP
    name := replace(regexp_replace(content_ids[number], '([^A-Za-z0-9@])', '\\\1', 'g'), '@', '(?:@|%40|=40)');
    body := regexp_replace(body, '(^|[^A-Za-z0-9])cid:' || name || '(?![A-Za-z0-9._%+@=-])', E'\\1cid:\x01' || number || ' ', 'g');
  END LOOP;
  RETURN body;
EXCEPTION WHEN data_exception THEN
  RETURN body; -- not base64
END $$;
COMMENT ON FUNCTION outbox.without_content_ids(text, text, text[]) IS 'Private: the body of an HTML part, decoded, with the Content-IDs of its message numbered where it refers to them.';

CREATE FUNCTION outbox.canonical_raw(raw_message bytea) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
  content_ids text[];
  parts text[];
BEGIN
  IF position('\x00'::bytea IN raw_message) > 0 THEN RETURN encode(raw_message, 'hex'); END IF; -- from before it was refused
  WITH p AS MATERIALIZED (
    SELECT p.part, p.header, p.body, p.no FROM outbox.mime_parts(replace(replace(convert_from(raw_message, 'LATIN1'), E'\r\n', E'\n'), E'\r', E'\n'), '1', 0)
      WITH ORDINALITY AS p(part, header, body, no)),
  i AS MATERIALIZED (
    SELECT array_agg(n.name ORDER BY n.no) AS names
    FROM (SELECT p.no, substring(p.header FROM '(?i)\ncontent-id[ \t]*:[ \t\n]*<([^<> \t\n]+@[^<> \t\n]+)>') AS name FROM p) n WHERE n.name IS NOT NULL)
  SELECT CASE WHEN cardinality(i.names) <= 100 THEN i.names ELSE '{}' END,
    array_agg(p.part || ' ' || encode(sha256(convert_to(outbox.without_content_ids(p.header, p.body, CASE WHEN cardinality(i.names) <= 100 THEN i.names ELSE '{}' END), 'UTF8')), 'hex')
      || CASE WHEN p.no = 1 THEN regexp_replace(p.header, '\n(?:message-id|date)[ \t]*:[^\n]*(?:\n[ \t][^\n]*)*', '', 'gi') ELSE p.header END ORDER BY p.no)
  INTO content_ids, parts FROM p, i GROUP BY i.names;
  FOR number IN 1..coalesce(cardinality(content_ids), 0) LOOP
    FOR at IN 1..cardinality(parts) LOOP
      CONTINUE WHEN position(content_ids[number] IN parts[at]) = 0;
      parts[at] := replace(parts[at], '<' || content_ids[number] || '>', E'<\x01' || number || '>');
      -- Some libraries (Symfony) name the part after it, beside the name of the file.
      IF parts[at] ~* 'filename\*?0?=' THEN
        parts[at] := regexp_replace(parts[at], '([; \t\n])name="' || regexp_replace(content_ids[number], '([^A-Za-z0-9])', '\\\1', 'g') || '"', E'\\1name=\x01' || number || ' ', 'g');
      END IF;
    END LOOP;
  END LOOP;
  RETURN parts::text;
END $$;
COMMENT ON FUNCTION outbox.canonical_raw(bytea) IS 'Private: what a raw message holds, part by part, without Message-ID, Date, MIME boundaries and the names of Content-IDs: the same for a message that a library has built again.';

CREATE OR REPLACE FUNCTION outbox.check_raw_message(door text, raw_message bytea) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
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
  -- The header section ends at the first empty line; LATIN1 knows every byte but NUL.
  IF encode(substring(raw_message FOR coalesce(least(nullif(position('\x0d0a0d0a'::bytea IN raw_message), 0), nullif(position('\x0a0a'::bytea IN raw_message), 0)), 1)), 'escape') ~* '(^|\n)x-hapax-' THEN
    PERFORM outbox.refuse('22H09', door, 'raw_message', 'has an X-Hapax- header, which would be sent to the recipient', 'a mailer takes it out and passes it as an argument (dedup_key, not_before, ...)');
  END IF;
  IF position('\x00'::bytea IN raw_message) > 0 THEN
    PERFORM outbox.refuse('22H09', door, 'raw_message', 'has a NUL byte', 'let your mail library encode binary parts with base64');
  END IF;
  -- As text high bytes are four characters each: only the few lines that look too long are counted exactly.
  IF EXISTS (SELECT FROM string_to_table(replace(encode(raw_message, 'escape'), E'\r', E'\n'), E'\n') line WHERE length(line) > 998 AND octet_length(decode(line, 'escape')) > 998) THEN
    PERFORM outbox.refuse('22H09', door, 'raw_message', 'has a line longer than 998 bytes', 'let your mail library encode long lines: quoted-printable or base64 (RFC 5322 section 2.1.1)');
  END IF;
END $$;

CREATE FUNCTION outbox.exact_digest_of(n outbox.notification) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RETURN sha256(convert_to(ARRAY[
    '1', n.kind, n.recipients::text, n.cc::text, n.bcc::text, n.sender, n.reply_to, n.subject, n.body_text, n.body_html,
    encode(sha256(n.raw_message), 'hex'), n.payload::jsonb::text, n.headers::text, n.attachments::text]::text, 'UTF8'));
END $$;
COMMENT ON FUNCTION outbox.exact_digest_of(outbox.notification) IS 'Private: as outbox.digest_of(), but with every byte of raw_message: what keys taken before migration 0022 remember.';

CREATE OR REPLACE FUNCTION outbox.digest_of(n outbox.notification) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RETURN sha256(convert_to((ARRAY[
    '1', n.kind, n.recipients::text, n.cc::text, n.bcc::text, n.sender, n.reply_to, n.subject, n.body_text, n.body_html,
    encode(sha256(convert_to(outbox.canonical_raw(n.raw_message), 'UTF8')), 'hex'), n.payload::jsonb::text, n.headers::text, n.attachments::text]
    || CASE WHEN n.locale IS NULL THEN '{}' ELSE ARRAY[n.locale] END)::text, 'UTF8'));
END $$;
COMMENT ON FUNCTION outbox.digest_of(outbox.notification) IS
'Private: sha256 over kind, addresses and content of a checked notification: what a dedup_key stands for. Message-ID, Date, MIME boundaries and Content-IDs of a raw_message are not content.';

CREATE OR REPLACE FUNCTION outbox.take_key(door text, n outbox.notification) RETURNS uuid LANGUAGE plpgsql VOLATILE AS $$
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
    IF n.raw_message IS NOT NULL AND known.digest = outbox.exact_digest_of(n) THEN RETURN known.message_id; END IF;
    RAISE EXCEPTION USING ERRCODE = '23H01', MESSAGE = format('%s: dedup_key: was used for other content', door),
      -- Whoever has an id may ask for it and cancel it: another application must not learn it by guessing keys.
      DETAIL = CASE WHEN EXISTS (SELECT FROM outbox.message m WHERE m.id = known.message_id AND m.session_role = session_user)
        THEN format('first message: %s, remembered until %s', known.message_id, date_trunc('second', known.expires_at))
        ELSE format('the first message is of another user of the database, remembered until %s', date_trunc('second', known.expires_at)) END,
      HINT = 'use a key that names this very event, or send the same content again; a key of a cancelled or failed message is freed by outbox.release_key()',
      COLUMN = 'dedup_key', TABLE = 'notification', SCHEMA = 'outbox';
  END LOOP;
END $$;
COMMENT ON COLUMN outbox.notification.dedup_key IS 'Names the event, up to 512 characters, per tenant. The same key with the same content returns the first id and enqueues nothing; with other content it is an error (23H01). Message-ID, Date, MIME boundaries and Content-IDs of a raw_message are not content: libraries make them anew.';
COMMENT ON FUNCTION outbox.find_suspected_duplicates(timestamptz, interval, text, uuid, int) IS
'Notifications that an application has enqueued twice: the same recipient, kind, tenant, locale and content, at most `within` apart, each with the next of its kind (three of them are two rows). Without address or id: since the given time (the last 7 days when NULL), the newest 200,000 finished and 200,000 unfinished deliveries of it. With an address, or an id (one message and its neighbours), all that is kept. Finished messages (raw_message) are compared without Message-ID, Date and MIME boundaries. Not found, because their content differs: repeats with another order number in their payload. What an operator sent again is not listed. Addresses are masked unless the role may see them. Example:
  SELECT * FROM outbox.find_suspected_duplicates(now() - interval ''30 days'', interval ''10 minutes'');';

SELECT outbox.grant_roles();
