-- breaking: no
-- Finished messages: what mail libraries make anew each time is not content, and what no relay could send is refused.
SET LOCAL lock_timeout = '5s';

-- A retry builds its message again: with another Message-ID, Date, other MIME boundaries and Content-IDs. Those of the header
-- section go; boundaries are numbered where they delimit, Content-IDs where they are declared, as names of parts, and in the
-- URLs (RFC 2392) that refer to them; all else counts to the byte. Only what is a boundary parameter of a multipart
-- Content-Type and also begins a line as a delimiter is taken for one: text that talks about boundaries is text.
CREATE FUNCTION outbox.canonical_raw(raw_message bytea) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  message text := replace(encode(raw_message, 'escape'), E'\r\n', E'\n');
  ends int := position(E'\n\n' IN message);
  header text := CASE WHEN ends > 0 THEN left(message, ends - 1) ELSE message END;
  type text;
  boundary text;
  content_id text;
  number int := 0;
BEGIN
  message := CASE WHEN ends > 0 THEN substr(message, ends) ELSE '' END;
  header := regexp_replace(E'\n' || header, '\n(?:message-id|date)[ \t]*:[^\n]*(?:\n[ \t][^\n]*)*', '', 'gi');
  message := header || message;
  FOR type IN SELECT m[1] FROM regexp_matches(message, '\ncontent-type[ \t]*:([ \t\n]*multipart/[^\n]*(?:\n[ \t][^\n]*)*)', 'gi') m LOOP
    boundary := coalesce(substring(type FROM '(?i)[; \t\n]boundary="([^"\n]+)"'), substring(type FROM '(?i)[; \t\n]boundary=([^" \t\n;]+)'));
    CONTINUE WHEN boundary IS NULL OR position(E'\n--' || boundary || E'\n' IN message) = 0;
    number := number + 1;
    message := replace(replace(replace(message, E'\n--' || boundary || E'\n', E'\n--\x01' || number || E'\n'), E'\n--' || boundary || '--', E'\n--\x01' || number || '--'),
      'boundary="' || boundary || '"', E'boundary=\x01' || number);
    -- Without quotes it may begin another, longer one.
    message := regexp_replace(message, 'boundary=' || regexp_replace(boundary, '([^A-Za-z0-9])', '\\\1', 'g') || '(?=[; \t\n])', E'boundary=\x01' || number, 'gi');
  END LOOP;
  FOR content_id IN SELECT m[1] FROM regexp_matches(message, '\ncontent-id[ \t]*:[ \t\n]*<([^<> \t\n]+)>', 'gi') m LOOP
    number := number + 1;
    -- As a name, too: some libraries (Symfony) name the part after it.
    message := replace(replace(message, '<' || content_id || '>', E'<\x02' || number || '>'), 'name="' || content_id || '"', E'name="\x02' || number || '"');
    IF position(E'=\n' IN message) > 0 AND length(message) < 1048576 THEN
      -- Quoted-printable may break the line within the URL, or behind it.
      message := regexp_replace(message,
        replace(regexp_replace(regexp_replace('cid:' || content_id, '(.)', E'\\1\x03', 'g'), E'([^A-Za-z0-9\x03])', '\\\1', 'g'), E'\x03', '(?:=\n)?'),
        E'cid:\x02' || number, 'g');
    ELSE
      message := replace(message, 'cid:' || content_id, E'cid:\x02' || number);
    END IF;
  END LOOP;
  RETURN message;
END $$;
COMMENT ON FUNCTION outbox.canonical_raw(bytea) IS 'Private: a raw message as text without Message-ID and Date, line ends as LF, MIME boundaries and Content-IDs numbered: the same for a message that a library has built again.';

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
  RETURN sha256(convert_to(ARRAY[
    '1', n.kind, n.recipients::text, n.cc::text, n.bcc::text, n.sender, n.reply_to, n.subject, n.body_text, n.body_html,
    encode(sha256(convert_to(outbox.canonical_raw(n.raw_message), 'UTF8')), 'hex'), n.payload::jsonb::text, n.headers::text, n.attachments::text]::text, 'UTF8'));
END $$;
COMMENT ON FUNCTION outbox.digest_of(outbox.notification) IS
'Private: sha256 over kind, addresses and content of a checked notification: what a dedup_key stands for. Message-ID, Date and MIME boundaries of a raw_message are not content.';

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
      DETAIL = format('first message: %s, remembered until %s', known.message_id, date_trunc('second', known.expires_at)),
      HINT = 'use a key that names this very event, or send the same content again; a key of a cancelled or failed message is freed by outbox.release_key()',
      COLUMN = 'dedup_key', TABLE = 'notification', SCHEMA = 'outbox';
  END LOOP;
END $$;
COMMENT ON COLUMN outbox.notification.dedup_key IS 'Names the event, up to 512 characters, per tenant. The same key with the same content returns the first id and enqueues nothing; with other content it is an error (23H01). Message-ID, Date and MIME boundaries of a raw_message are not content: libraries make them anew.';
COMMENT ON FUNCTION outbox.find_suspected_duplicates(timestamptz, interval, text, uuid, int) IS
'Notifications that an application has enqueued twice: the same recipient, kind, tenant, locale and content, at most `within` apart, each with the next of its kind (three of them are two rows). Without address or id: since the given time (the last 7 days when NULL), the newest 200,000 finished and 200,000 unfinished deliveries of it. With an address, or an id (one message and its neighbours), all that is kept. Finished messages (raw_message) are compared without Message-ID, Date and MIME boundaries. Not found, because their content differs: repeats with another order number in their payload. What an operator sent again is not listed. Addresses are masked unless the role may see them. Example:
  SELECT * FROM outbox.find_suspected_duplicates(now() - interval ''30 days'', interval ''10 minutes'');';

SELECT outbox.grant_roles();
