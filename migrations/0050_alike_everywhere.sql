-- breaking: no
-- Addresses are compared alike whatever the database's locale; what planners remember of a table has no addresses, contents or keys in it.
SET LOCAL lock_timeout = '5s';

-- Where the locale's language is Turkish or Azerbaijani, lower('I') is a dotless i: the relay, which knows no locale, and everybody who
-- writes the address in small letters mean another one, so that a suppression missed and erasing found nothing. Letters of ASCII first, as in
-- the C locale; then the others as before. In other locales the result is that of lower() to the byte.
CREATE FUNCTION outbox.folded(words text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN lower(lower(words COLLATE "C") COLLATE "default");
COMMENT ON FUNCTION outbox.folded(text) IS 'Private: a text in lower case, ASCII as everywhere, whatever the locale of the database: what addresses, domains and header names are compared by.';

CREATE OR REPLACE FUNCTION outbox.address_hash(address text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashtextextended(outbox.folded(outbox.address_of(address)), 0);

CREATE OR REPLACE FUNCTION outbox.address_digest(mailbox text) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN sha256(convert_to(outbox.folded(outbox.address_of(mailbox)), 'UTF8'));

-- As in 0019.
CREATE OR REPLACE FUNCTION outbox.address_hash_of(recipients text[]) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashtextextended(outbox.folded(CASE WHEN rtrim(recipients[1]) NOT LIKE '%>' THEN btrim(recipients[1])
  WHEN recipients[1] LIKE '%<%' THEN rtrim(split_part(rtrim(recipients[1]), '<', -1), '>') ELSE '' END), 0);

-- As in 0038.
CREATE OR REPLACE FUNCTION outbox.names_address(words text, address text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN strpos(outbox.folded(words), address) > 0 THEN outbox.folded(words) ~ outbox.pattern_for(address) ELSE false END;

CREATE OR REPLACE FUNCTION outbox.without_mailbox(mailboxes text[], address text, name text) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT CASE WHEN outbox.folded(outbox.address_of(u.mailbox)) = address THEN name ELSE outbox.without_address(u.mailbox, address, true) END
             FROM unnest(mailboxes) WITH ORDINALITY AS u(mailbox, no) ORDER BY u.no);

-- As in 0021.
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
      AND outbox.folded(headers::text) !~ '"(?:from|to|cc|bcc|date|message-id|subject|sender|mime-version|content-type|content-transfer-encoding|return-path|received|dkim-signature|reply-to|resent-bcc|x-hapax-[^"]*)": "');

-- The others are as they were, but for that.
DO $migration$
DECLARE
  one text;
  found regprocedure;
BEGIN
  FOREACH one IN ARRAY '{outbox.check_headers,outbox.empty_mention,outbox.erase_message,outbox.find_deliveries,outbox.find_suspected_duplicates,outbox.is_server,
    outbox.queue_deliveries,outbox.recipients_of,outbox.require_address,outbox.suppress_bounced,outbox.without_address,outbox.without_content_ids,outbox.would_erase,
    outbox.would_erase_mentions,outbox_test.assert_enqueued,outbox_test.decoded}'::text[]
  LOOP
    SELECT p.oid INTO found FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE format('%s.%s', n.nspname, p.proname) = one AND p.prosrc ~ '\mlower\(' AND pg_has_role(p.proowner, 'MEMBER');
    -- A DBA may have dropped outbox_test, or have one of his own.
    CONTINUE WHEN found IS NULL AND one LIKE 'outbox_test.%';
    IF found IS NULL THEN
      RAISE EXCEPTION '% is not as it was', one;
    END IF;
    EXECUTE regexp_replace(pg_get_functiondef(found), '\mlower\(', 'outbox.folded(', 'g');
  END LOOP;
END $migration$;

-- Deliveries that such a database has are found by the address again. Of the suppression list and of pauses there are but hashes.
DO $migration$
BEGIN
  IF lower('I') <> 'i' THEN
    UPDATE outbox.done d SET address_hash = outbox.address_hash((m.recipients || m.cc || m.bcc)[d.recipient_no])
    FROM outbox.message m WHERE m.id = d.message_id AND (m.recipients || m.cc || m.bcc)[d.recipient_no] LIKE '%I%';
    UPDATE outbox.queue q SET address_hash = outbox.address_hash((m.recipients || m.cc || m.bcc)[q.recipient_no])
    FROM outbox.message m WHERE m.id = q.message_id AND (m.recipients || m.cc || m.bcc)[q.recipient_no] LIKE '%I%';
  END IF;
END $migration$;

-- ANALYZE keeps the most common values and a histogram of each column in pg_statistic, where erase() does not reach, for as long as the table
-- is not analysed again; and what was written is in no plan's interest. What stays: ids, hashes, states, kinds, routes, roles.
ALTER TABLE outbox.message ALTER COLUMN sender SET STATISTICS 0, ALTER COLUMN reply_to SET STATISTICS 0, ALTER COLUMN recipients SET STATISTICS 0,
  ALTER COLUMN cc SET STATISTICS 0, ALTER COLUMN bcc SET STATISTICS 0, ALTER COLUMN payload SET STATISTICS 0, ALTER COLUMN subject SET STATISTICS 0,
  ALTER COLUMN body_text SET STATISTICS 0, ALTER COLUMN body_html SET STATISTICS 0, ALTER COLUMN raw_message SET STATISTICS 0,
  ALTER COLUMN headers SET STATISTICS 0, ALTER COLUMN attachments SET STATISTICS 0, ALTER COLUMN ordering_key SET STATISTICS 0,
  ALTER COLUMN tenant SET STATISTICS 0, ALTER COLUMN traceparent SET STATISTICS 0, ALTER COLUMN tracestate SET STATISTICS 0,
  ALTER COLUMN dedup_key SET STATISTICS 0, ALTER COLUMN application_name SET STATISTICS 0;
ALTER TABLE outbox.attempt ALTER COLUMN reply SET STATISTICS 0, ALTER COLUMN detail SET STATISTICS 0;
ALTER TABLE outbox.queue ALTER COLUMN note SET STATISTICS 0, ALTER COLUMN order_key SET STATISTICS 0;
ALTER TABLE outbox.done ALTER COLUMN reason SET STATISTICS 0;
ALTER TABLE outbox.dedup_key ALTER COLUMN tenant SET STATISTICS 0, ALTER COLUMN key SET STATISTICS 0, ALTER COLUMN digest SET STATISTICS 0;
ALTER TABLE outbox.erased_key ALTER COLUMN digest SET STATISTICS 0;
ALTER TABLE outbox.guard_seen ALTER COLUMN digest SET STATISTICS 0;
ALTER TABLE outbox.ordering ALTER COLUMN order_key SET STATISTICS 0;
ALTER TABLE outbox.suppression ALTER COLUMN digest SET STATISTICS 0, ALTER COLUMN hint SET STATISTICS 0, ALTER COLUMN address SET STATISTICS 0,
  ALTER COLUMN tenant SET STATISTICS 0, ALTER COLUMN note SET STATISTICS 0;
ALTER INDEX outbox.suppression_entry ALTER COLUMN 4 SET STATISTICS 0; -- coalesce(tenant, '')
ALTER TABLE outbox.pause ALTER COLUMN name SET STATISTICS 0, ALTER COLUMN reason SET STATISTICS 0, ALTER COLUMN hint SET STATISTICS 0;
ALTER TABLE outbox.audit ALTER COLUMN application_name SET STATISTICS 0, ALTER COLUMN reason SET STATISTICS 0, ALTER COLUMN before SET STATISTICS 0,
  ALTER COLUMN after SET STATISTICS 0;
ALTER TABLE outbox.arming ALTER COLUMN reason SET STATISTICS 0;
ALTER TABLE outbox.upkeep_postponed ALTER COLUMN why SET STATISTICS 0;
-- Of one row; a sample of it would be the key.
ALTER TABLE outbox.erasure_key ALTER COLUMN inner_pad SET STATISTICS 0, ALTER COLUMN outer_pad SET STATISTICS 0;

-- Neither LIKE nor ATTACH hands that on.
CREATE FUNCTION outbox.keep_unsampled(p_table text, p_like text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  EXECUTE (SELECT format('ALTER TABLE outbox.%I ', p_table) || string_agg(format('ALTER COLUMN %I SET STATISTICS 0', a.attname), ', ' ORDER BY a.attnum)
           FROM pg_attribute a WHERE a.attrelid = format('outbox.%I', p_like)::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attstattarget = 0);
END $$;
COMMENT ON FUNCTION outbox.keep_unsampled(text, text) IS 'Private: keeps ANALYZE from columns of a partition from which it is kept in the parent: those with addresses, contents, keys.';

DO $migration$
DECLARE
  source text := pg_get_functiondef('outbox.maintain(interval, interval)'::regprocedure);
  made text := E'        PERFORM outbox.keep_private(child);\n';
BEGIN
  IF length(source) - length(replace(source, made, '')) <> length(made) THEN
    RAISE EXCEPTION 'outbox.maintain is not as it was';
  END IF;
  EXECUTE replace(source, made, made || E'        PERFORM outbox.keep_unsampled(child, parent);\n');
END $migration$;

-- What was sampled before stays: ANALYZE only passes over such columns. It is removed where that is allowed: to superusers, and from Postgres
-- 18 on to the owner. Nobody analyses meanwhile: the locks above are those of ANALYZE. For the others deploy/DBA.md has a statement.
DO $migration$
BEGIN
  IF (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
    DELETE FROM pg_statistic s USING pg_attribute a, pg_class c
    WHERE a.attrelid = s.starelid AND a.attnum = s.staattnum AND a.attstattarget = 0 AND c.oid = a.attrelid AND c.relnamespace = 'outbox'::regnamespace;
  ELSIF current_setting('server_version_num')::int >= 180000 THEN
    EXECUTE $sql$SELECT pg_clear_attribute_stats('outbox', c.relname, a.attname, i.inherited)
      FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid CROSS JOIN (VALUES (false), (true)) AS i (inherited)
      WHERE c.relnamespace = 'outbox'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped AND a.attstattarget = 0$sql$;
  END IF;
END $migration$;

SELECT outbox.grant_roles();
