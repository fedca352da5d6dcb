-- breaking: no
-- The right to be forgotten: outbox.erase() takes an address out of every table and leaves a proof, a keyed hash, by which
-- outbox.erased() still tells what was delivered to it. What is on its way or in doubt keeps its address until it has ended.
SET LOCAL lock_timeout = '5s';

CREATE TABLE outbox.erasure_key (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  inner_pad bytea NOT NULL,
  outer_pad bytea NOT NULL
);
COMMENT ON TABLE outbox.erasure_key IS 'One row: a random key, of this outbox alone, as HMAC-SHA-256 uses it. Without it a proof cannot be compared with a guess; with it gone nobody learns any more what an erased address was sent. Private.';
COMMENT ON COLUMN outbox.erasure_key.inner_pad IS 'The key, each byte with 0x36.';
COMMENT ON COLUMN outbox.erasure_key.outer_pad IS 'The key, each byte with 0x5c.';

DO $migration$
DECLARE
  -- 366 random bits, in 32 bytes; the rest of a block of 64 is zeros.
  key bytea := sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())) || decode(repeat('00', 32), 'hex');
  inner_pad bytea := key;
  outer_pad bytea := key;
BEGIN
  FOR i IN 0 .. 63 LOOP
    inner_pad := set_byte(inner_pad, i, get_byte(key, i) # 54);
    outer_pad := set_byte(outer_pad, i, get_byte(key, i) # 92);
  END LOOP;
  INSERT INTO outbox.erasure_key (inner_pad, outer_pad) VALUES (inner_pad, outer_pad);
END $migration$;

CREATE TABLE outbox.erasure (
  message_id uuid NOT NULL,
  recipient_no smallint NOT NULL,
  proof bytea NOT NULL,
  erased_at timestamptz NOT NULL DEFAULT now(),
  erased_by name NOT NULL DEFAULT session_user,
  PRIMARY KEY (message_id, recipient_no)
);
COMMENT ON TABLE outbox.erasure IS 'Deliveries whose address was erased, each with the proof of it. Goes with the partition of its message. Private: see outbox.erased().';
COMMENT ON COLUMN outbox.erasure.proof IS 'HMAC-SHA-256 of the address in lower case. In the message its first 16 bytes stand for the address: as <32 hex digits>@erased.invalid.';
CREATE INDEX erasure_proof ON outbox.erasure (proof);
COMMENT ON INDEX outbox.erasure_proof IS 'What is known of an address by its proof.';

CREATE TABLE outbox.erased_key (
  proof bytea PRIMARY KEY,
  digest bytea NOT NULL,
  message_id uuid NOT NULL,
  expires_at timestamptz NOT NULL
);
COMMENT ON TABLE outbox.erased_key IS 'Dedup keys that had an erased address in them: a producer''s retry must not send a second mail to somebody who wants to be forgotten. Goes with its time. Private.';
COMMENT ON COLUMN outbox.erased_key.proof IS 'HMAC-SHA-256 of tenant and key.';

CREATE FUNCTION outbox.proof_of(words text) RETURNS bytea LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT sha256(k.outer_pad || sha256(k.inner_pad || convert_to(words, 'UTF8'))) FROM outbox.erasure_key k
$$;
COMMENT ON FUNCTION outbox.proof_of(text) IS 'Private: HMAC-SHA-256 by the key of this outbox.';

CREATE FUNCTION outbox.erased_name(proof bytea) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN encode(substr(proof, 1, 16), 'hex') || '@erased.invalid';
COMMENT ON FUNCTION outbox.erased_name(bytea) IS 'Private: what stands where an erased address stood. It is an address, so that whatever reads recipients need not know; .invalid never exists.';

CREATE FUNCTION outbox.pattern_for(words text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '(?<![[:alnum:]])' || regexp_replace(words, '([^[:alnum:]])', '\\\1', 'g') || '(?![[:alnum:]])';
COMMENT ON FUNCTION outbox.pattern_for(text) IS 'Private: a regular expression for words that are no part of longer ones.';

CREATE FUNCTION outbox.names_address(words text, address text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN strpos(lower(words), address) > 0 THEN lower(words) ~ outbox.pattern_for(address) ELSE false END;
COMMENT ON FUNCTION outbox.names_address(text, text) IS 'Private: whether an address, in lower case, stands in a text. Those that only end like it after a dot or a dash (jo.ann@, ann@) are taken for it.';

-- Servers say "unknown user bob" as well: in their words what stands before the @ goes, too, where it is a word. In a key it may
-- be anything (info), so there only the whole address goes.
CREATE FUNCTION outbox.without_address(words text, address text, whole_only boolean DEFAULT false) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  local text := btrim(substr(address, 1, length(address) - strpos(reverse(address), '@')), '"');
BEGIN
  IF strpos(lower(words), local) > 0 THEN words := regexp_replace(words, outbox.pattern_for(address), '***', 'gi'); END IF;
  IF whole_only THEN RETURN words; END IF;
  -- A reply is kept with its backslashes doubled.
  IF strpos(local, '\') > 0 THEN words := regexp_replace(words, outbox.pattern_for(replace(address, '\', '\\')), '***', 'gi'); END IF;
  IF strpos(lower(words), local) > 0 THEN words := regexp_replace(words, outbox.pattern_for(local), '***', 'gi'); END IF;
  RETURN words;
END $$;
COMMENT ON FUNCTION outbox.without_address(text, text, boolean) IS 'Private: a text in which *** stands for an address in lower case and, unless whole_only, for the word before its @.';

CREATE FUNCTION outbox.without_mailbox(mailboxes text[], address text, name text) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT CASE WHEN lower(outbox.address_of(u.mailbox)) = address THEN name ELSE outbox.without_address(u.mailbox, address, true) END
             FROM unnest(mailboxes) WITH ORDINALITY AS u(mailbox, no) ORDER BY u.no);
COMMENT ON FUNCTION outbox.without_mailbox(text[], text, text) IS 'Private: mailboxes in which a name stands for those of an address; their positions stay.';

-- Content that is gone ---------------------------------------------------------------------------------------------------
CREATE FUNCTION outbox.is_content_gone(p_id uuid) RETURNS boolean LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN EXISTS (SELECT FROM outbox.message m WHERE m.id = p_id AND m.payload IS NULL AND m.subject IS NULL AND m.body_text IS NULL AND m.body_html IS NULL AND m.raw_message IS NULL);
END $$;
COMMENT ON FUNCTION outbox.is_content_gone(uuid) IS 'Whether a message has been emptied: it was enqueued with a payload, bodies or a raw message, and has none of them any more.';

CREATE FUNCTION outbox.require_content(p_function text, p_id uuid) RETURNS void LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF outbox.is_content_gone(p_id) THEN
    RAISE EXCEPTION USING ERRCODE = '22H76', COLUMN = 'id',
      MESSAGE = format('outbox.%s: id: the content of %s is gone%s', p_function, p_id,
                       CASE WHEN EXISTS (SELECT FROM outbox.erasure e WHERE e.message_id = p_id) THEN ': an address of it was erased' ELSE '' END),
      HINT = 'nothing of it can be sent; enqueue a new message';
  END IF;
END $$;
COMMENT ON FUNCTION outbox.require_content(text, uuid) IS 'Private: refuses (22H76) what would send a message whose content is gone.';

DO $migration$
DECLARE
  change record;
  source text;
BEGIN
  FOR change IN SELECT * FROM (VALUES
    -- What was decided as sent, and was not, has nothing left that could be sent.
    ('reopen(outbox.done, text, text)', E'BEGIN\n  DELETE FROM outbox.done x',
     E'BEGIN\n  IF outbox.is_content_gone(d.message_id) THEN\n    IF p_parked IS NULL THEN PERFORM outbox.require_content(''retry'', d.message_id); END IF;\n'
     || E'    UPDATE outbox.done x SET state = ''failed'', evidence = NULL, reason = p_note || ''; its content is gone'', open_doubts = d.open_doubts\n'
     || E'    WHERE x.message_id = d.message_id AND x.recipient_no = d.recipient_no;\n    RETURN;\n  END IF;\n  DELETE FROM outbox.done x'),
    -- All that can be retried is asked before anything of it is.
    ('retry(uuid, int, text, boolean)', E'    IF d.state = ''sent'' THEN\n',
     E'    IF d.state <> ''sent'' THEN PERFORM outbox.require_content(''retry'', d.message_id); END IF;\n    IF d.state = ''sent'' THEN\n'),
    -- Read again under the lock, after whoever has emptied it meanwhile.
    ('send_again(uuid, text, int)', E'  PERFORM FROM outbox.done d WHERE d.message_id = m.id FOR UPDATE;\n',
     E'  PERFORM FROM outbox.done d WHERE d.message_id = m.id FOR UPDATE;\n  SELECT x.* INTO m FROM outbox.message x WHERE x.id = send_again.id;\n'
     || E'  IF NOT FOUND THEN PERFORM outbox.unknown_delivery(''send_again'', send_again.id, send_again.recipient_no); END IF;\n'
     || E'  PERFORM outbox.require_content(''send_again'', m.id);\n'),
    -- An attempt that had not come to its intent when its delivery was cancelled says what the server said.
    ('settle_late(uuid, smallint, uuid, uuid, boolean, text, text, text, smallint, text, text, text, text, text, uuid, timestamptz, int)',
     E'\n  SELECT a.outcome INTO known FROM outbox.attempt a\n',
     E'\n  IF EXISTS (SELECT FROM outbox.erasure e WHERE e.message_id = p_message_id) THEN\n    p_reply := NULL;\n    p_detail := NULL;\n  END IF;\n'
     || E'\n  SELECT a.outcome INTO known FROM outbox.attempt a\n'),
    -- A bounce that is told of afterwards is nobody's any more.
    ('suppress_bounced(uuid, smallint, uuid, float8, int)', E'FROM outbox.message m WHERE m.id = p_message_id;\n',
     E'FROM outbox.message m WHERE m.id = p_message_id;\n  IF bare LIKE ''%@erased.invalid'' THEN RETURN ''not a hard bounce''; END IF;\n'),
    -- Nothing is like nothing, but it is no duplicate.
    ('find_suspected_duplicates(timestamptz, interval, text, uuid, int)', E'    WHERE NOT EXISTS (SELECT FROM copies c WHERE c.after = ''sent again as '' || m.id)\n',
     E'    WHERE NOT EXISTS (SELECT FROM copies c WHERE c.after = ''sent again as '' || m.id)\n'
     || E'      AND NOT (m.payload IS NULL AND m.subject IS NULL AND m.body_text IS NULL AND m.body_html IS NULL AND m.raw_message IS NULL)\n'),
    ('drop_partitions_before(timestamptz)', E'      DELETE FROM outbox.done WHERE message_id >= lower_bound AND message_id < upper_bound;\n',
     E'      DELETE FROM outbox.done WHERE message_id >= lower_bound AND message_id < upper_bound;\n'
     || E'      DELETE FROM outbox.erasure WHERE message_id >= lower_bound AND message_id < upper_bound;\n'),
    ('maintain(interval, interval)', E'  DELETE FROM outbox.ordering o USING (\n',
     E'  DELETE FROM outbox.erased_key k WHERE k.expires_at < now();\n  DELETE FROM outbox.ordering o USING (\n'),
    ('take_key(text, outbox.notification)', E'    CONTINUE WHEN NOT FOUND; -- removed between the two statements\n',
     E'    IF NOT FOUND THEN\n      SELECT scope, n.dedup_key, e.digest, e.message_id, e.expires_at INTO known FROM outbox.erased_key e\n'
     || E'      WHERE e.proof = outbox.proof_of(outbox.order_key(scope, n.dedup_key)) AND e.expires_at > clock_timestamp();\n    END IF;\n'
     || E'    CONTINUE WHEN NOT FOUND; -- removed between the two statements\n')) AS v (name, before, after)
  LOOP
    source := pg_get_functiondef(('outbox.' || change.name)::regprocedure);
    IF (length(source) - length(replace(source, change.before, ''))) <> length(change.before) THEN
      RAISE EXCEPTION 'outbox.% is not as it was', change.name;
    END IF;
    EXECUTE replace(source, change.before, change.after);
  END LOOP;
END $migration$;

-- Whoever inserts a key that was erased is told, as of any other, that it is there: take_key() answers whose it was.
CREATE FUNCTION outbox.refuse_erased_key() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_proof bytea;
BEGIN
  IF EXISTS (SELECT FROM outbox.erased_key) THEN
    -- outbox.proof_of(), which costs as much as the rest of an enqueue.
    SELECT sha256(k.outer_pad || sha256(k.inner_pad || convert_to(outbox.order_key(NEW.tenant, NEW.key), 'UTF8'))) INTO v_proof FROM outbox.erasure_key k;
    IF EXISTS (SELECT FROM outbox.erased_key e WHERE e.proof = v_proof AND e.expires_at > clock_timestamp()) THEN
      RETURN NULL;
    END IF;
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION outbox.refuse_erased_key() IS 'Private: a dedup key that was erased is in use until its time is over.';
CREATE TRIGGER refuse_erased_key BEFORE INSERT ON outbox.dedup_key FOR EACH ROW EXECUTE FUNCTION outbox.refuse_erased_key();
COMMENT ON TRIGGER refuse_erased_key ON outbox.dedup_key IS 'A look at an empty table, until a key was erased.';

-- Cancelling one delivery ------------------------------------------------------------------------------------------------
CREATE FUNCTION outbox.cancel_delivery(q outbox.queue, p_reason text) RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF q.accepted_late IS NOT NULL AND (q.intent IS NULL OR q.parked = 'doubt') THEN
    PERFORM outbox.finish(q, 'sent', 'reply', 'an earlier attempt was accepted', q.accepted_late, q.open_doubts);
    RETURN 'too late: sent';
  ELSIF q.parked = 'doubt' THEN
    RETURN 'too late: in doubt, decide it with outbox.resolve()';
  ELSIF q.intent IS NOT NULL THEN
    RETURN 'too late: in flight';
  ELSIF q.parked = 'collected' THEN
    RETURN format('too late: in digest %s, which can be cancelled', outbox.digest_of_delivery(q.message_id, q.recipient_no));
  END IF;
  PERFORM outbox.audit_entry('cancel', q.message_id, q.recipient_no, NULL, p_reason, outbox.state_of(q.parked, q.intent, q.lease, q.lease_until), 'cancelled');
  -- The token keeps in mind that a doubt was decided before: should it be retried, resolve() asks which one is meant.
  PERFORM outbox.finish(q, 'cancelled', NULL, p_reason, q.prev_intent, q.open_doubts);
  RETURN 'cancelled';
END $$;
COMMENT ON FUNCTION outbox.cancel_delivery(outbox.queue, text) IS 'Private: cancels a delivery, given as its locked row, unless it is too late.';

DO $migration$
DECLARE
  source text := pg_get_functiondef('outbox.cancel(uuid, text)'::regprocedure);
  changed text := regexp_replace(source, '    IF q\.accepted_late IS NOT NULL AND .*\n    END IF;\n(?=    RETURN NEXT;\n  END LOOP;)', E'    result := outbox.cancel_delivery(q, cancel.reason);\n');
BEGIN
  IF changed = source THEN
    RAISE EXCEPTION 'outbox.cancel is not as it was';
  END IF;
  EXECUTE changed;
END $migration$;

-- Erasing ----------------------------------------------------------------------------------------------------------------
-- Under the locks of all deliveries of the message. Digests of content (guard_seen, dedup_key, content_sha256) stay: who has no
-- copy of the content cannot guess them, and they keep what was sent once from being sent again.
CREATE FUNCTION outbox.empty_message(m outbox.message, p_recipient_no smallint, p_address text, p_proof bytea, p_reason text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  stand_in text := outbox.erased_name(p_proof);
  was text;
BEGIN
  PERFORM outbox.erase_keys(ARRAY[m.dedup_key], coalesce(m.tenant, ''), p_address);
  UPDATE outbox.message x SET
    recipients = outbox.without_mailbox(x.recipients, p_address, stand_in), cc = outbox.without_mailbox(x.cc, p_address, stand_in), bcc = outbox.without_mailbox(x.bcc, p_address, stand_in),
    sender = CASE WHEN NOT outbox.names_address(x.sender, p_address) THEN x.sender END,
    reply_to = CASE WHEN NOT outbox.names_address(x.reply_to, p_address) THEN x.reply_to END,
    payload = NULL, subject = NULL, body_text = NULL, body_html = NULL, raw_message = NULL, headers = NULL, attachments = NULL,
    tenant = outbox.without_address(x.tenant, p_address, true), ordering_key = outbox.without_address(x.ordering_key, p_address, true),
    dedup_key = outbox.without_address(x.dedup_key, p_address, true), tracestate = outbox.without_address(x.tracestate, p_address, true)
  WHERE x.id = m.id;
  SELECT d.state INTO was FROM outbox.done d WHERE d.message_id = m.id AND d.recipient_no = p_recipient_no;
  UPDATE outbox.done d SET reason = outbox.without_address(d.reason, p_address),
    address_hash = CASE WHEN d.recipient_no IS NOT DISTINCT FROM p_recipient_no THEN outbox.address_hash(stand_in) ELSE d.address_hash END
  WHERE d.message_id = m.id;
  UPDATE outbox.attempt a SET reply = outbox.without_address(a.reply, p_address), detail = outbox.without_address(a.detail, p_address)
  WHERE a.message_id = m.id AND (a.reply, a.detail) IS DISTINCT FROM (outbox.without_address(a.reply, p_address), outbox.without_address(a.detail, p_address));
  UPDATE outbox.audit u SET reason = outbox.without_address(u.reason, p_address), before = outbox.without_address(u.before, p_address), after = outbox.without_address(u.after, p_address)
  WHERE u.message_id = m.id AND (u.reason, u.before, u.after)
    IS DISTINCT FROM (outbox.without_address(u.reason, p_address), outbox.without_address(u.before, p_address), outbox.without_address(u.after, p_address));
  -- What two members have in common has done its work once they are in a digest; their address is in it.
  UPDATE outbox.digest_member d SET key = '' WHERE d.message_id = m.id AND d.recipient_no = p_recipient_no AND d.digest_id IS NOT NULL;
  IF p_recipient_no IS NOT NULL THEN
    INSERT INTO outbox.erasure (message_id, recipient_no, proof) VALUES (m.id, p_recipient_no, p_proof) ON CONFLICT DO NOTHING;
  END IF;
  PERFORM outbox.audit_entry('erase', m.id, p_recipient_no, NULL, p_reason, was, CASE WHEN p_recipient_no IS NULL THEN 'emptied: it named ' ELSE 'erased as ' END || stand_in);
END $$;
COMMENT ON FUNCTION outbox.empty_message(outbox.message, smallint, text, bytea, text) IS 'Private: takes an address and all content out of a message that has ended; p_recipient_no is NULL where it is only named.';

CREATE FUNCTION outbox.erase_keys(p_keys text[], p_tenant text, p_address text) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  gone bigint;
BEGIN
  WITH gone AS (
    DELETE FROM outbox.dedup_key k WHERE k.tenant = p_tenant AND k.key = ANY (p_keys) AND (outbox.names_address(k.key, p_address) OR outbox.names_address(k.tenant, p_address))
    RETURNING k.tenant, k.key, k.digest, k.message_id, k.expires_at)
  INSERT INTO outbox.erased_key AS e (proof, digest, message_id, expires_at)
  SELECT outbox.proof_of(outbox.order_key(g.tenant, g.key)), g.digest, g.message_id, g.expires_at FROM gone g
  ON CONFLICT (proof) DO UPDATE SET digest = excluded.digest, message_id = excluded.message_id, expires_at = excluded.expires_at;
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN gone;
END $$;
COMMENT ON FUNCTION outbox.erase_keys(text[], text, text) IS 'Private: of dedup keys with an address in them only a proof stays, for as long as they would have.';

CREATE FUNCTION outbox.erasure_waits_for(p_id uuid, p_recipient_no smallint, p_close_doubts boolean) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  q outbox.queue;
  others bigint;
  digest uuid;
BEGIN
  SELECT x.* INTO q FROM outbox.queue x WHERE x.message_id = p_id AND x.recipient_no = p_recipient_no;
  IF FOUND THEN
    digest := CASE WHEN q.parked = 'collected' THEN outbox.digest_of_delivery(p_id, p_recipient_no) END;
    RETURN CASE
      WHEN digest IS NOT NULL AND NOT EXISTS (SELECT FROM outbox.done d WHERE d.message_id = digest) THEN format('in digest %s, which has not ended; call again', digest)
      WHEN q.accepted_late IS NOT NULL AND (q.intent IS NULL OR q.parked = 'doubt') THEN NULL
      WHEN q.parked = 'doubt' AND p_close_doubts AND outbox.may_be_alive(q.doubt_by, q.intent_by, q.intent) THEN 'in doubt, and its attempt may still be alive; call again'
      WHEN q.parked = 'doubt' AND p_close_doubts THEN NULL
      WHEN q.parked = 'doubt' THEN 'in doubt; decide it with outbox.resolve(), then call again'
      WHEN q.intent IS NOT NULL THEN 'in flight; call again' END;
  END IF;
  SELECT count(*) INTO others FROM outbox.queue x WHERE x.message_id = p_id;
  IF others > 0 THEN
    RETURN format('%s of its message not ended; call again then', CASE others WHEN 1 THEN 'another delivery has' ELSE others || ' other deliveries have' END);
  END IF;
  -- One that was given up may still be told of: its relay has the address.
  IF EXISTS (SELECT FROM outbox.done d JOIN outbox.attempt a ON a.message_id = d.message_id AND a.recipient_no = d.recipient_no
             WHERE d.message_id = p_id AND d.open_doubts > 0 AND a.outcome = 'unknown' AND a.bytes IS NULL AND outbox.may_be_alive('reaper', a.relay, a.token)) THEN
    RETURN 'an attempt of it may still be alive; call again';
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION outbox.erasure_waits_for(uuid, smallint, boolean) IS 'Private: why nothing can be done to a delivery yet that is to be erased.';

-- Locks nothing that is kept, and waits for nobody: all deliveries of the message are locked, or it is left for the next call.
-- Those who wait for these locks (a relay's settle, outbox.retry()) see afterwards what it has become.
CREATE FUNCTION outbox.erase_message(p_id uuid, p_address text, p_proof bytea, p_reason text, p_close_doubts boolean, OUT recipient_no int, OUT result text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  m outbox.message;
  queued outbox.queue[];
  locked smallint[];
  q outbox.queue;
  waits_for text;
BEGIN
  SELECT x.* INTO m FROM outbox.message x WHERE x.id = p_id;
  SELECT min(u.no) INTO recipient_no FROM unnest(m.recipients || m.cc || m.bcc) WITH ORDINALITY AS u(mailbox, no) WHERE lower(outbox.address_of(u.mailbox)) = p_address;
  IF recipient_no IS NULL THEN RETURN; END IF; -- a hash is not an address
  result := 'kept: ' || outbox.erasure_waits_for(p_id, recipient_no::smallint, p_close_doubts);
  IF result IS NOT NULL THEN RETURN; END IF;
  queued := ARRAY(SELECT x FROM outbox.queue x WHERE x.message_id = p_id ORDER BY x.recipient_no FOR UPDATE SKIP LOCKED);
  locked := ARRAY(SELECT (x).recipient_no FROM unnest(queued) x)
    || ARRAY(SELECT x.recipient_no FROM outbox.done x WHERE x.message_id = p_id ORDER BY x.recipient_no FOR UPDATE SKIP LOCKED);
  result := '';
  SELECT (x).* INTO q FROM unnest(queued) x WHERE (x).recipient_no = erase_message.recipient_no;
  IF FOUND AND q.parked = 'collected' THEN
    -- Its digest has ended; whoever has it in hand is just telling.
    PERFORM FROM outbox.digest d WHERE d.id = outbox.digest_of_delivery(p_id, q.recipient_no) FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
      PERFORM outbox.tell_members(outbox.digest_of_delivery(p_id, q.recipient_no));
    END IF;
  ELSIF FOUND AND q.parked = 'doubt' AND p_close_doubts AND q.accepted_late IS NULL AND NOT outbox.may_be_alive(q.doubt_by, q.intent_by, q.intent) THEN
    -- Taken for sent, so that nothing ever sends it again.
    PERFORM outbox.audit_entry('resolve sent', q.message_id, q.recipient_no, q.intent, p_reason, 'in_doubt', 'sent');
    PERFORM outbox.finish(q, 'sent', 'erased', p_reason, q.intent, q.open_doubts);
    result := 'doubt closed, ';
  ELSIF FOUND AND outbox.cancel_delivery(q, p_reason) = 'cancelled' THEN
    result := 'cancelled, ';
  END IF;
  waits_for := outbox.erasure_waits_for(p_id, recipient_no::smallint, p_close_doubts);
  IF waits_for IS NULL AND (NOT recipient_no = ANY (locked) OR NOT ARRAY(SELECT r.recipient_no FROM outbox.recipients_of(m.recipients, m.cc, m.bcc) r) <@ locked
                            OR EXISTS (SELECT FROM outbox.queue x WHERE x.message_id = p_id)) THEN
    waits_for := 'busy; call again';
  END IF;
  IF waits_for IS NOT NULL THEN result := result || 'kept: ' || waits_for; RETURN; END IF;
  PERFORM outbox.empty_message(m, recipient_no::smallint, p_address, p_proof, p_reason);
  result := result || 'erased';
END $$;
COMMENT ON FUNCTION outbox.erase_message(uuid, text, bytea, text, boolean) IS 'Private: erases an address from one message, or says what it waits for.';

CREATE FUNCTION outbox.erase_elsewhere(p_address text, p_proof bytea) RETURNS SETOF text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  stand_in text := outbox.erased_name(p_proof);
  scope text;
  keys text[];
  gone bigint := 0;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtextextended('hapax.erase', 0)) THEN
    RETURN NEXT 'kept: what is of no message: somebody else is erasing; call again'; RETURN;
  END IF;
  UPDATE outbox.suppression s SET address = NULL, hint = stand_in, note = outbox.without_address(s.note, p_address)
  WHERE s.address_hash = outbox.address_hash(p_address) AND s.digest = outbox.address_digest(p_address)
    AND (s.address IS NOT NULL OR s.hint <> stand_in OR s.note IS DISTINCT FROM outbox.without_address(s.note, p_address));
  IF FOUND THEN RETURN NEXT 'erased: in the suppression list, where a hash of it stays: nothing is sent to it'; END IF;
  UPDATE outbox.suppression s SET note = outbox.without_address(s.note, p_address, true) WHERE outbox.names_address(s.note, p_address);
  IF FOUND THEN RETURN NEXT 'erased: in notes of the suppression list'; END IF;
  UPDATE outbox.pause p SET hint = stand_in, reason = outbox.without_address(p.reason, p_address)
  WHERE p.what = 'address' AND p.name = encode(outbox.address_digest(p_address), 'hex') AND (p.hint, p.reason) IS DISTINCT FROM (stand_in, outbox.without_address(p.reason, p_address));
  IF FOUND THEN RETURN NEXT 'erased: in a pause, which holds on by a hash of it until outbox.resume()'; END IF;
  UPDATE outbox.pause p SET reason = outbox.without_address(p.reason, p_address, true) WHERE outbox.names_address(p.reason, p_address);
  IF FOUND THEN RETURN NEXT 'erased: in reasons of pauses'; END IF;
  -- What was said when it was listed or paused, which the audit has with its mask: that others may have, too, so it stays.
  UPDATE outbox.audit u SET reason = outbox.without_address(u.reason, p_address)
  WHERE u.message_id IS NULL AND u.reason IS DISTINCT FROM outbox.without_address(u.reason, p_address) AND strpos(concat_ws(' ', u.before, u.after), outbox.mask_address(p_address)) > 0;
  IF FOUND THEN RETURN NEXT 'erased: in reasons of the audit'; END IF;
  -- A reason that was given for the delivery of somebody else is in its row, too.
  WITH words AS (
    UPDATE outbox.audit u SET reason = outbox.without_address(u.reason, p_address, true), before = outbox.without_address(u.before, p_address, true), after = outbox.without_address(u.after, p_address, true)
    WHERE outbox.names_address(concat_ws(' ', u.reason, u.before, u.after), p_address) RETURNING u.message_id, u.recipient_no)
  UPDATE outbox.done d SET reason = outbox.without_address(d.reason, p_address, true)
  FROM (SELECT DISTINCT w.message_id, w.recipient_no FROM words w) w WHERE d.message_id = w.message_id AND d.recipient_no = w.recipient_no;
  GET DIAGNOSTICS gone = ROW_COUNT;
  IF gone > 0 THEN RETURN NEXT format('erased: in reasons of %s other deliveries', gone); END IF;
  gone := 0;
  FOR scope, keys IN SELECT k.tenant, array_agg(k.key ORDER BY k.key) FROM outbox.dedup_key k WHERE outbox.names_address(k.key, p_address) OR outbox.names_address(k.tenant, p_address) GROUP BY 1 LOOP
    gone := gone + outbox.erase_keys(keys, scope, p_address);
  END LOOP;
  IF gone > 0 THEN RETURN NEXT format('erased: %s dedup keys, of which hashes stay for their time', gone); END IF;
  -- First the lock, so that no producer of the key is between it and the queue; then a look that sees what those before have queued.
  keys := ARRAY(SELECT o.order_key FROM outbox.ordering o WHERE outbox.names_address(o.order_key, p_address) ORDER BY 1 FOR UPDATE SKIP LOCKED);
  DELETE FROM outbox.ordering o WHERE o.order_key = ANY (keys) AND NOT EXISTS (SELECT FROM outbox.queue q WHERE q.order_key = o.order_key);
  IF FOUND THEN RETURN NEXT 'erased: ordering keys'; END IF;
END $$;
COMMENT ON FUNCTION outbox.erase_elsewhere(text, bytea) IS 'Private: takes an address out of what is of no message: the suppression list, pauses, the audit, keys.';

CREATE FUNCTION outbox.erase(address text, reason text, max_messages int DEFAULT 100, close_doubts boolean DEFAULT false) RETURNS TABLE (message_id uuid, recipient_no int, result text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' SET jit = off AS $$
#variable_conflict use_column
DECLARE
  bare text := outbox.require_address('erase', erase.address);
  proof bytea := outbox.proof_of(bare);
  -- Digests before what they were made of, which ends with them.
  ids uuid[] := ARRAY(
    SELECT f.message_id FROM (SELECT q.message_id FROM outbox.queue q WHERE q.address_hash = outbox.address_hash(bare)
                              UNION SELECT d.message_id FROM outbox.done d WHERE d.address_hash = outbox.address_hash(bare)) f
    ORDER BY EXISTS (SELECT FROM outbox.digest_member g WHERE g.message_id = f.message_id AND g.digest_id IS NOT NULL), f.message_id);
  done int := 0;
BEGIN
  PERFORM outbox.require_reason('erase', erase.reason);
  IF outbox.names_address(erase.reason, bare) THEN
    RAISE EXCEPTION USING ERRCODE = '22H75', MESSAGE = 'outbox.erase: reason: has the address in it', COLUMN = 'reason', HINT = 'name the request instead: its ticket, its date';
  END IF;
  FOREACH message_id IN ARRAY ids LOOP
    SELECT e.recipient_no, e.result INTO recipient_no, result FROM outbox.erase_message(message_id, bare, proof, erase.reason, coalesce(erase.close_doubts, false)) e;
    CONTINUE WHEN result IS NULL;
    RETURN NEXT;
    done := done + (result NOT LIKE 'kept:%')::int;
    EXIT WHEN done >= erase.max_messages;
  END LOOP;
  message_id := NULL; recipient_no := NULL;
  IF done < coalesce(erase.max_messages, done + 1) THEN
    FOR result IN SELECT e FROM outbox.erase_elsewhere(bare, proof) e LOOP
      RETURN NEXT;
      CONTINUE WHEN result LIKE 'kept:%';
      PERFORM outbox.audit_entry('erase', NULL, NULL, NULL, erase.reason, NULL, result || ' (' || outbox.erased_name(proof) || ')');
    END LOOP;
  END IF;
END $$;
COMMENT ON FUNCTION outbox.erase(text, text, int, boolean) IS 'Takes an address out of every table, with the content of all messages it was a recipient of: what waits is cancelled, what has ended is emptied; what is in flight or in doubt, or has other deliveries that have not ended, is kept, and result says why. With close_doubts a doubt whose attempt is certainly over ends as sent, evidence erased: nobody knows whether it arrived, and it is never sent again. At most max_messages in a call: call it until it answers nothing but what is kept, and again later for that. A proof stays: see outbox.erased(). Example:
  SELECT * FROM outbox.erase(''ada@example.org'', ''request of 2026-11-27'');';

-- Not by an index: it reads every message, so much at a time, each page in a transaction of its own.
CREATE FUNCTION outbox.erase_mentions(address text, reason text, after uuid DEFAULT NULL, max_messages int DEFAULT 2000) RETURNS TABLE (message_id uuid, result text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' SET jit = off AS $$
#variable_conflict use_column
DECLARE
  bare text := outbox.require_address('erase_mentions', erase_mentions.address);
  ids uuid[];
  last uuid;
  seen int;
BEGIN
  PERFORM outbox.require_reason('erase_mentions', erase_mentions.reason);
  IF outbox.names_address(erase_mentions.reason, bare) THEN
    RAISE EXCEPTION USING ERRCODE = '22H75', MESSAGE = 'outbox.erase_mentions: reason: has the address in it', COLUMN = 'reason', HINT = 'name the request instead: its ticket, its date';
  END IF;
  SELECT array_agg(p.id ORDER BY p.id) FILTER (WHERE outbox.names_address(p.words, bare)), (array_agg(p.id ORDER BY p.id DESC))[1], count(*) INTO ids, last, seen
  FROM (
    SELECT m.id, concat_ws(' ', m.sender, m.reply_to, array_to_string(m.recipients || m.cc || m.bcc, ' '), m.payload::text, m.subject, m.body_text, m.body_html, m.headers::text,
                           outbox.without_contents(m.attachments)::text, encode(m.raw_message, 'escape'), m.tenant, m.ordering_key, m.dedup_key) AS words
    FROM outbox.message m WHERE m.id > coalesce(erase_mentions.after, '00000000-0000-0000-0000-000000000000') ORDER BY m.id LIMIT greatest(erase_mentions.max_messages, 1)) p;
  FOREACH message_id IN ARRAY coalesce(ids, '{}') LOOP
    result := outbox.empty_mention(message_id, bare, erase_mentions.reason);
    RETURN NEXT;
  END LOOP;
  IF seen >= greatest(erase_mentions.max_messages, 1) THEN
    message_id := last;
    result := 'more';
    RETURN NEXT;
  END IF;
END $$;
COMMENT ON FUNCTION outbox.erase_mentions(text, text, uuid, int) IS 'Empties the messages to others that have an address in them (their payload, text, reply_to): all of their content goes. Reads every message, max_messages of them in a call; where the last row says more, call it again with its message_id as after. Base64 is not looked into. First call outbox.erase(): what the address was a recipient of is kept here. Example:
  SELECT * FROM outbox.erase_mentions(''ada@example.org'', ''request of 2026-11-27'');';

CREATE FUNCTION outbox.empty_mention(p_id uuid, p_address text, p_reason text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  m outbox.message;
  locked smallint[] := ARRAY(SELECT x.recipient_no FROM outbox.done x WHERE x.message_id = p_id ORDER BY x.recipient_no FOR UPDATE SKIP LOCKED);
BEGIN
  SELECT x.* INTO m FROM outbox.message x WHERE x.id = p_id;
  IF EXISTS (SELECT FROM unnest(m.recipients || m.cc || m.bcc) u WHERE lower(outbox.address_of(u)) = p_address) THEN
    RETURN 'kept: the address is a recipient of it; outbox.erase() comes first';
  ELSIF EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = p_id) THEN
    RETURN 'kept: it has not ended; call again then';
  ELSIF NOT ARRAY(SELECT r.recipient_no FROM outbox.recipients_of(m.recipients, m.cc, m.bcc) r) <@ locked THEN
    RETURN 'kept: busy; call again';
  END IF;
  PERFORM outbox.empty_message(m, NULL, p_address, outbox.proof_of(p_address), p_reason);
  RETURN 'erased';
END $$;
COMMENT ON FUNCTION outbox.empty_mention(uuid, text, text) IS 'Private: empties a message to others, unless it has not ended.';

CREATE FUNCTION outbox.erased(address text, max_rows int DEFAULT 1000)
RETURNS TABLE (message_id uuid, recipient_no int, kind text, state text, evidence text, enqueued_at timestamptz, finished_at timestamptz, erased_at timestamptz, server text, reply text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  caller name := coalesce(nullif(current_setting('role'), 'none'), session_user);
  unmasked boolean := outbox.may_see_addresses(caller);
BEGIN
  RETURN QUERY
  SELECT e.message_id, e.recipient_no::int, m.kind, d.state, d.evidence, m.created_at, d.finished_at, e.erased_at, a.server, CASE WHEN unmasked THEN s.words ELSE outbox.mask_text(s.words) END
  FROM outbox.erasure e
  JOIN outbox.message m ON m.id = e.message_id
  JOIN outbox.done d ON d.message_id = e.message_id AND d.recipient_no = e.recipient_no
  LEFT JOIN outbox.attempt a ON a.message_id = e.message_id AND a.recipient_no = e.recipient_no AND a.token = d.token
  -- Servers repeat the enhanced code in front of their words.
  CROSS JOIN LATERAL (SELECT nullif(concat_ws(' ', a.code, CASE WHEN NOT starts_with(coalesce(a.reply, ''), a.enhanced) THEN a.enhanced END, a.reply), '') AS words) s
  WHERE e.proof = outbox.proof_of(outbox.require_address('erased', erased.address))
  ORDER BY e.message_id DESC LIMIT least(greatest(erased.max_rows, 1), 10000);
END $$;
COMMENT ON FUNCTION outbox.erased(text, int) IS 'What was sent to an address that was erased, newest first: by its proof, for whoever knows the address. Example:
  SELECT enqueued_at, kind, state, finished_at, server, reply FROM outbox.erased(''ada@example.org'');';

DO $migration$
DECLARE
  codes text := obj_description('outbox.refuse(text, text, text, text, text)'::regprocedure, 'pg_proc');
BEGIN
  EXECUTE format('COMMENT ON FUNCTION outbox.refuse(text, text, text, text, text) IS %L',
                 replace(codes, '. Testing: ', '; 22H75 a reason that has the address in it; 22H76 its content is gone. Testing: '));
END $migration$;

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  ('outbox_operator', 'EXECUTE', '{erase_mentions}'::text[]),
  ('outbox_operator outbox_viewer', 'EXECUTE', '{erased,is_content_gone}');
SELECT outbox.grant_roles();
