-- breaking: no
-- What erasing an address would do, said beforehand; upkeep passes over what erasing has in hand; guards are as they were made, whatever a session sets.
SET LOCAL lock_timeout = '5s';

-- pg_restore --disable-triggers ends in ENABLE TRIGGER ALL, which makes it one of every session but those that replicate: the function does
-- nothing in those others, but a subscriber is guarded no more. Not ENABLE ALWAYS, which would not outlive it either, and would be called for
-- every row that a producer enqueues. Only where it is needed: the lock is one that producers wait for.
DO $migration$
BEGIN
  IF EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = 'outbox.queue'::regclass AND t.tgname = 'queue_is_ours' AND t.tgenabled <> 'R') THEN
    ALTER TABLE outbox.queue ENABLE REPLICA TRIGGER queue_is_ours;
  END IF;
END $migration$;

-- Who erases holds the proofs of keys until his transaction ends, also of keys whose time was over before. Upkeep waited for him for 100 ms,
-- and then failed as a whole: no weeks were made. Now it waits for none of his rows, and so is in no circle with him.
DO $migration$
DECLARE
  source text := pg_get_functiondef('outbox.maintain(interval, interval)'::regprocedure);
  waits text := E'  DELETE FROM outbox.erased_key k WHERE k.expires_at < now();\n';
BEGIN
  IF length(source) - length(replace(source, waits, '')) <> length(waits) THEN
    RAISE EXCEPTION 'outbox.maintain is not as it was';
  END IF;
  EXECUTE replace(source, waits, E'  DELETE FROM outbox.erased_key k USING (\n'
    || E'    SELECT x.proof FROM outbox.erased_key x WHERE x.expires_at < now() LIMIT 50000 FOR UPDATE SKIP LOCKED) old\n  WHERE k.proof = old.proof;\n');
END $migration$;

-- Through a pooler a relay's search_path is its role's: the two functions that it calls as itself compared by whatever = that finds.
ALTER FUNCTION outbox.assert_armed(uuid, text) SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION outbox.assert_armed(uuid, text) SET standard_conforming_strings = on;
ALTER FUNCTION outbox.assert_continues(uuid, text, uuid, bigint) SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION outbox.assert_continues(uuid, text, uuid, bigint) SET standard_conforming_strings = on;

-- Reads only: takes no lock that anybody waits for, and leaves no dead rows, as erasing in a transaction that is rolled back would.
CREATE FUNCTION outbox.would_erase(address text, close_doubts boolean DEFAULT false) RETURNS TABLE (message_id uuid, recipient_no int, result text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on SET jit = off AS $$
#variable_conflict use_column
DECLARE
  bare text := outbox.require_address('would_erase', would_erase.address);
  v_close boolean := coalesce(would_erase.close_doubts, false);
  v_id uuid;
  v_no smallint;
  q outbox.queue;
  waits text;
  -- Digests that would have ended when the turn of what is in them comes.
  ended uuid[] := '{}';
  is_queued boolean;
  gone bigint;
BEGIN
  -- In the order of erase().
  FOR v_id IN
    SELECT f.message_id FROM (SELECT x.message_id FROM outbox.queue x WHERE x.address_hash = outbox.address_hash(bare)
                              UNION SELECT d.message_id FROM outbox.done d WHERE d.address_hash = outbox.address_hash(bare)) f
    ORDER BY EXISTS (SELECT FROM outbox.digest_member g WHERE g.message_id = f.message_id AND g.digest_id IS NOT NULL), f.message_id
  LOOP
    SELECT min(u.no) INTO v_no FROM outbox.message m CROSS JOIN LATERAL unnest(m.recipients || m.cc || m.bcc) WITH ORDINALITY AS u(mailbox, no)
    WHERE m.id = v_id AND lower(outbox.address_of(u.mailbox)) = bare;
    CONTINUE WHEN v_no IS NULL; -- a hash is not an address
    SELECT x.* INTO q FROM outbox.queue x WHERE x.message_id = v_id AND x.recipient_no = v_no;
    is_queued := FOUND;
    waits := CASE WHEN q.parked = 'collected' AND outbox.digest_of_delivery(v_id, v_no) = ANY (ended) THEN NULL
                  ELSE outbox.erasure_waits_for(v_id, v_no, v_close) END;
    result := '';
    IF is_queued AND waits IS NULL THEN
      result := CASE WHEN q.parked = 'collected' OR q.accepted_late IS NOT NULL THEN '' WHEN q.parked = 'doubt' THEN 'doubt closed, ' ELSE 'cancelled, ' END;
      IF EXISTS (SELECT FROM outbox.digest d WHERE d.id = v_id) THEN ended := ended || v_id; END IF;
      SELECT count(*) INTO gone FROM outbox.queue x WHERE x.message_id = v_id AND x.recipient_no <> v_no;
      waits := CASE gone WHEN 0 THEN NULL WHEN 1 THEN 'another delivery has of its message not ended; call again then'
                         ELSE gone || ' other deliveries have of its message not ended; call again then' END;
    END IF;
    message_id := v_id;
    recipient_no := v_no;
    result := result || coalesce('kept: ' || waits, 'erased');
    RETURN NEXT;
  END LOOP;
  message_id := NULL; recipient_no := NULL;
  FOR result IN
    SELECT 'erased: in the suppression list, where a hash of it stays: nothing is sent to it'
    WHERE EXISTS (SELECT FROM outbox.suppression s WHERE s.address_hash = outbox.address_hash(bare) AND s.digest = outbox.address_digest(bare)
                    AND (s.address IS NOT NULL OR s.hint <> outbox.erased_name(outbox.proof_of(bare)) OR s.note IS DISTINCT FROM outbox.without_address(s.note, bare)))
    UNION ALL SELECT 'erased: in notes of the suppression list'
    WHERE EXISTS (SELECT FROM outbox.suppression s WHERE outbox.names_address(s.note, bare) AND s.digest <> outbox.address_digest(bare))
    UNION ALL SELECT 'erased: in a pause, which holds on by a hash of it until outbox.resume()'
    WHERE EXISTS (SELECT FROM outbox.pause p WHERE p.what = 'address' AND p.name = encode(outbox.address_digest(bare), 'hex')
                    AND (p.hint, p.reason) IS DISTINCT FROM (outbox.erased_name(outbox.proof_of(bare)), outbox.without_address(p.reason, bare)))
    UNION ALL SELECT 'erased: in reasons of pauses'
    WHERE EXISTS (SELECT FROM outbox.pause p WHERE outbox.names_address(p.reason, bare) AND (p.what <> 'address' OR p.name <> encode(outbox.address_digest(bare), 'hex')))
    UNION ALL SELECT 'erased: in reasons of the audit'
    WHERE EXISTS (SELECT FROM outbox.audit u WHERE outbox.names_address(concat_ws(' ', u.reason, u.before, u.after), bare)
                    OR u.message_id IS NULL AND u.reason IS DISTINCT FROM outbox.without_address(u.reason, bare)
                       AND strpos(concat_ws(' ', u.before, u.after), outbox.mask_address(bare)) > 0)
    UNION ALL SELECT format('erased: %s dedup keys, of which hashes stay for their time', k.many)
    FROM (SELECT count(*) AS many FROM outbox.dedup_key k WHERE outbox.names_address(k.key, bare) OR outbox.names_address(k.tenant, bare)) k WHERE k.many > 0
    UNION ALL SELECT 'erased: ordering keys'
    WHERE EXISTS (SELECT FROM outbox.ordering o WHERE outbox.names_address(o.order_key, bare)
                    AND NOT EXISTS (SELECT FROM outbox.queue x WHERE x.order_key = o.order_key AND x.address_hash <> outbox.address_hash(bare)))
  LOOP
    RETURN NEXT;
  END LOOP;
END $$;
COMMENT ON FUNCTION outbox.would_erase(text, boolean) IS 'What outbox.erase() would do to an address, in its words, and nothing is done: reads only, and waits for nobody. What is at work goes on, so that a moment later it may do something else: what is in flight now may have ended. Dedup keys are counted with those of the messages. Example:
  SELECT result, count(*) FROM outbox.would_erase(''ada@example.org'') GROUP BY result ORDER BY result;';

CREATE FUNCTION outbox.would_erase_mentions(address text, after uuid DEFAULT NULL, max_messages int DEFAULT 2000) RETURNS TABLE (message_id uuid, result text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on SET jit = off AS $$
#variable_conflict use_column
DECLARE
  bare text := outbox.require_address('would_erase_mentions', would_erase_mentions.address);
  many int := greatest(would_erase_mentions.max_messages, 1);
  seen int := 0;
  one record;
BEGIN
  FOR one IN
    SELECT m.id, m.recipients || m.cc || m.bcc AS mailboxes,
           outbox.names_address(concat_ws(' ', m.sender, m.reply_to, array_to_string(m.recipients || m.cc || m.bcc, ' '), m.payload::text, m.subject, m.body_text, m.body_html,
             m.headers::text, outbox.without_contents(m.attachments)::text, encode(m.raw_message, 'escape'), m.tenant, m.ordering_key, m.dedup_key), bare) AS is_named
    FROM outbox.message m WHERE m.id > coalesce(would_erase_mentions.after, '00000000-0000-0000-0000-000000000000') ORDER BY m.id LIMIT many
  LOOP
    seen := seen + 1;
    message_id := one.id;
    CONTINUE WHEN NOT coalesce(one.is_named, false);
    result := CASE
      WHEN EXISTS (SELECT FROM unnest(one.mailboxes) u WHERE lower(outbox.address_of(u)) = bare) THEN 'kept: the address is a recipient of it; outbox.erase() comes first'
      WHEN EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = one.id) THEN 'kept: it has not ended; call again then'
      ELSE 'erased' END;
    RETURN NEXT;
  END LOOP;
  IF seen >= many THEN
    result := 'more';
    RETURN NEXT;
  END IF;
END $$;
COMMENT ON FUNCTION outbox.would_erase_mentions(text, uuid, int) IS 'What outbox.erase_mentions() would do, in its words and page by page, and nothing is done. Example:
  SELECT * FROM outbox.would_erase_mentions(''ada@example.org'');';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES ('outbox_operator', 'EXECUTE', '{would_erase,would_erase_mentions}'::text[]);
SELECT outbox.grant_roles();
