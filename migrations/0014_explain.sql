-- breaking: no
-- "A customer got two mails", "a customer got none": finding deliveries by address, Message-ID or token, and notifications
-- that an application has enqueued twice. What `hapax explain` asks.
SET LOCAL lock_timeout = '5s';

-- Searched by hash, then compared: a hash is not an address. outbox.queue has no index on it, by design: it holds what is
-- not finished only, and producers and relays would pay for the index with every delivery.
CREATE FUNCTION outbox.find_deliveries(address text, since timestamptz DEFAULT NULL, max_rows int DEFAULT 50)
RETURNS TABLE (message_id uuid, recipient_no int, state text, enqueued_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off AS $$
#variable_conflict use_column
DECLARE
  wanted text := lower(outbox.address_of(find_deliveries.address));
  hash bigint := outbox.address_hash(find_deliveries.address);
  lowest uuid := coalesce(outbox.uuid_floor(find_deliveries.since), '00000000-0000-0000-0000-000000000000');
BEGIN
  RETURN QUERY
  SELECT f.message_id, f.recipient_no::int, f.state, m.created_at
  FROM (
    SELECT q.message_id, q.recipient_no, outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) AS state
    FROM outbox.queue q WHERE q.address_hash = hash AND q.message_id >= lowest
    UNION ALL
    SELECT d.message_id, d.recipient_no, d.state FROM outbox.done d WHERE d.address_hash = hash AND d.message_id >= lowest
  ) f
  JOIN outbox.message m ON m.id = f.message_id
  WHERE lower(outbox.address_of((m.recipients || m.cc || m.bcc)[f.recipient_no])) = wanted
  ORDER BY f.message_id DESC, f.recipient_no
  LIMIT least(greatest(find_deliveries.max_rows, 1), 10000);
END $$;
COMMENT ON FUNCTION outbox.find_deliveries(text, timestamptz, int) IS
'The deliveries to one address, newest first; "Name <user@example.org>" and any case will do. Finished ones are found by index, unfinished ones by reading outbox.queue once (a second or less per million of them). Whoever may look may ask, also without seeing addresses: the address has to be known to be asked for. Example:
  SELECT d.* FROM outbox.find_deliveries(''ada@example.org'', now() - interval ''30 days'') f JOIN outbox.deliveries d USING (message_id, recipient_no);';

CREATE FUNCTION outbox.find_token(token uuid) RETURNS TABLE (message_id uuid, recipient_no int)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_column
BEGIN
  -- The narrow tables first; the ledger is read only when they do not know it.
  RETURN QUERY SELECT q.message_id, q.recipient_no::int FROM outbox.queue q WHERE find_token.token IN (q.intent, q.prev_intent) LIMIT 1;
  IF FOUND THEN RETURN; END IF;
  RETURN QUERY SELECT d.message_id, d.recipient_no::int FROM outbox.done d WHERE d.token = find_token.token LIMIT 1;
  IF FOUND THEN RETURN; END IF;
  RETURN QUERY SELECT a.message_id, a.recipient_no::int FROM outbox.attempt a WHERE a.token = find_token.token LIMIT 1;
END $$;
COMMENT ON FUNCTION outbox.find_token(uuid) IS
'The delivery of an attempt or doubt, by its token. No index has tokens: this reads outbox.queue, outbox.done and, if it must, all of outbox.attempt. Example:
  SELECT * FROM outbox.find_token(''5b1c2c1e-0f4e-4a57-8f5e-7f0d3c1a9b22'');';

-- The header of a finished message is the producer's own and is stored nowhere else. Only the first 16 kB of each are
-- read, and only the header Message-ID counts: others (References) repeat foreign ids.
CREATE FUNCTION outbox.find_raw_message(message_id_header text, since timestamptz DEFAULT NULL)
RETURNS TABLE (message_id uuid) LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_column
DECLARE
  wanted text := btrim(find_raw_message.message_id_header, ' <>');
  needle bytea := convert_to(btrim(find_raw_message.message_id_header, ' <>'), 'UTF8');
  lowest uuid := outbox.uuid_floor(coalesce(find_raw_message.since, now() - interval '7 days'));
BEGIN
  IF wanted = '' THEN RETURN; END IF;
  RETURN QUERY
  SELECT r.id FROM (
    SELECT m.id, substring(m.raw_message FOR 16384) AS head
    FROM (SELECT x.id, x.raw_message FROM outbox.message x WHERE x.id >= lowest ORDER BY x.id DESC LIMIT 200000) m
    WHERE m.raw_message IS NOT NULL) r
  WHERE position(needle IN r.head) > 0
    AND substring(split_part(replace(encode(r.head, 'escape'), E'\r', ''), E'\n\n', 1) FROM '(?in)^message-id[ \t]*:\s*<?([^>\s]+)') = wanted
  ORDER BY r.id DESC LIMIT 10;
END $$;
COMMENT ON FUNCTION outbox.find_raw_message(text, timestamptz) IS
'Finished messages (raw_message) by their own Message-ID header, with or without <>. Looks at the newest 200,000 messages since the given time (the last 7 days when NULL) and at the first 16 kB of each. Other messages carry the message id itself before the @ and need no search. Example:
  SELECT * FROM outbox.find_raw_message(''<20261126.42@shop.example>'');';

CREATE FUNCTION outbox.history_since() RETURNS timestamptz LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT m.created_at FROM outbox.message m ORDER BY m.id LIMIT 1);
END $$;
COMMENT ON FUNCTION outbox.history_since() IS 'When the oldest message that is still kept was enqueued; NULL when there is none. What was before has been dropped by outbox.maintain(keep => ...).';

-- What the tables that nobody may read know about the deliveries of one message.
CREATE FUNCTION outbox.circumstances(id uuid)
RETURNS TABLE (recipient_no int, dedup_key text, key_until timestamptz, key_holder uuid, waits_for uuid, waits_for_no int, waits_for_state text, ahead bigint,
  copy_of uuid, copied_at timestamptz, copied_by name, copy_reason text, relay_silent interval, same_key boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  caller name := coalesce(nullif(current_setting('role'), 'none'), session_user);
  unmasked boolean := outbox.may_see_addresses(caller);
  may_audit boolean := has_table_privilege(caller, 'outbox.audit', 'SELECT');
  origin outbox.audit;
BEGIN
  -- That it is an operator's copy is everybody's to know; who and why is for those who may read outbox.audit.
  SELECT u.* INTO origin FROM outbox.audit u
  WHERE u.action IN ('send again', 'send_again') AND u.after = 'sent again as ' || circumstances.id ORDER BY u.id LIMIT 1;
  RETURN QUERY
  SELECT d.recipient_no::int, CASE WHEN unmasked THEN m.dedup_key ELSE outbox.mask_text(m.dedup_key) END, k.expires_at, k.message_id,
    h.message_id, h.recipient_no::int, h.state, h.ahead,
    origin.message_id, origin.at, CASE WHEN may_audit THEN origin.actor END,
    CASE WHEN may_audit AND unmasked THEN origin.reason WHEN may_audit THEN outbox.mask_text(origin.reason) END,
    CASE WHEN d.parked IS NULL AND d.intent IS NOT NULL THEN greatest(now() - r.beat_at, interval '0') END, d.upstream IS NOT NULL
  FROM outbox.message m
  LEFT JOIN outbox.dedup_key k ON k.tenant = coalesce(m.tenant, '') AND k.key = m.dedup_key
  CROSS JOIN LATERAL (
    SELECT q.recipient_no, q.parked, q.order_key, q.order_no, q.intent, q.intent_by, q.upstream FROM outbox.queue q WHERE q.message_id = m.id
    UNION ALL
    SELECT f.recipient_no, NULL, NULL, NULL, NULL, NULL, NULL FROM outbox.done f WHERE f.message_id = m.id) d
  LEFT JOIN outbox.relay r ON r.incarnation = d.intent_by
  LEFT JOIN LATERAL (
    -- The head of its ordering key: the first that is not finished.
    SELECT o.message_id, o.recipient_no, outbox.state_of(o.parked, o.intent, o.lease, o.lease_until) AS state,
      (SELECT count(*) FROM (SELECT FROM outbox.queue b WHERE b.order_key = d.order_key AND b.order_no < d.order_no LIMIT 1000) n) AS ahead
    FROM outbox.queue o WHERE o.order_key = d.order_key ORDER BY o.order_no LIMIT 1) h ON d.parked = 'ordered'
  WHERE m.id = circumstances.id
  ORDER BY d.recipient_no;
END $$;
COMMENT ON FUNCTION outbox.circumstances(uuid) IS
'What surrounds the deliveries of one message: its dedup_key, until when that is remembered and for which message (key_holder: another one when the key has been released or has expired and was used again), and the delivery that it waits for behind its ordering key, with how many are ahead (counted up to 1,000); the message that an operator sent again as this one (copy_of), who and why where the role may read outbox.audit; for how long the relay that is sending it has been silent; whether its upstream knows repeats by their key (same_key). Example:
  SELECT * FROM outbox.circumstances(''0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d'');';

-- Narrow first: pairs of an address near each other in time are found in queue and done alone; only their messages are
-- read, and only those of one kind are digested. What is compared is outbox.digest_of() without the recipients, so that
-- overlapping lists are found, too; a tenant or a locale of its own makes another mail of it.
CREATE FUNCTION outbox.find_suspected_duplicates(since timestamptz DEFAULT NULL, within interval DEFAULT '1 day', address text DEFAULT NULL, id uuid DEFAULT NULL, max_rows int DEFAULT 1000)
RETURNS TABLE (recipient text, kind text, tenant text, gap interval, same_transaction boolean, both_sent boolean,
  first_id uuid, first_no int, first_at timestamptz, first_txid xid8, first_application text, first_role name, first_dedup_key text, first_state text,
  second_id uuid, second_no int, second_at timestamptz, second_txid xid8, second_application text, second_role name, second_dedup_key text, second_state text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off SET work_mem = '64MB' AS $$
#variable_conflict use_column
DECLARE
  -- Inside a SECURITY DEFINER function current_user is the owner.
  caller name := coalesce(nullif(current_setting('role'), 'none'), session_user);
  unmasked boolean := outbox.may_see_addresses(caller);
  narrowed boolean := find_suspected_duplicates.address IS NOT NULL OR find_suspected_duplicates.id IS NOT NULL;
  hashes bigint[];
  lowest uuid := '00000000-0000-0000-0000-000000000000';
  highest uuid := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
BEGIN
  IF find_suspected_duplicates.since IS NOT NULL OR NOT narrowed THEN
    lowest := outbox.uuid_floor(coalesce(find_suspected_duplicates.since, now() - interval '7 days'));
  END IF;
  IF find_suspected_duplicates.address IS NOT NULL THEN
    hashes := ARRAY[outbox.address_hash(find_suspected_duplicates.address)];
  ELSIF find_suspected_duplicates.id IS NOT NULL THEN
    hashes := ARRAY(SELECT q.address_hash FROM outbox.queue q WHERE q.message_id = find_suspected_duplicates.id
                    UNION SELECT d.address_hash FROM outbox.done d WHERE d.message_id = find_suspected_duplicates.id);
    lowest := greatest(lowest, outbox.uuid_floor(outbox.uuid_time(find_suspected_duplicates.id) - within));
    highest := outbox.uuid_floor(outbox.uuid_time(find_suspected_duplicates.id) + within + interval '1 second');
  END IF;
  RETURN QUERY
  WITH seen AS MATERIALIZED (
    (SELECT q.message_id, q.recipient_no, q.address_hash FROM outbox.queue q
     WHERE q.message_id >= lowest AND q.message_id <= highest AND (hashes IS NULL OR q.address_hash = ANY (hashes))
     ORDER BY q.message_id DESC LIMIT 200000)
    UNION ALL
    (SELECT d.message_id, d.recipient_no, d.address_hash FROM outbox.done d
     WHERE d.message_id >= lowest AND d.message_id <= highest AND (hashes IS NULL OR d.address_hash = ANY (hashes))
     ORDER BY d.message_id DESC LIMIT 200000)
  ),
  -- What an operator has sent again as a new message is no producer's mistake.
  copies AS MATERIALIZED (
    SELECT DISTINCT u.after FROM outbox.audit u WHERE u.action IN ('send again', 'send_again') AND u.after IS NOT NULL
  ),
  -- A second for what lies between id and created_at.
  near AS MATERIALIZED (
    SELECT n.message_id, n.recipient_no, n.address_hash FROM (
      SELECT s.*, lag(s.message_id) OVER w AS before, lead(s.message_id) OVER w AS after
      FROM seen s WINDOW w AS (PARTITION BY s.address_hash ORDER BY s.message_id)) n
    WHERE outbox.uuid_time(n.message_id) - outbox.uuid_time(n.before) <= within + interval '1 second'
       OR outbox.uuid_time(n.after) - outbox.uuid_time(n.message_id) <= within + interval '1 second'
  ),
  facts AS MATERIALIZED (
    SELECT m.id, m.kind, coalesce(m.tenant, '') AS tenant, coalesce(m.locale, '') AS locale, m.created_at
    FROM (SELECT DISTINCT n.message_id FROM near n) x JOIN outbox.message m ON m.id = x.message_id
    WHERE NOT EXISTS (SELECT FROM copies c WHERE c.after = 'sent again as ' || m.id)
  ),
  alike AS MATERIALIZED (
    SELECT a.* FROM (
      SELECT n.message_id, n.recipient_no, n.address_hash, f.kind, f.tenant, f.locale, f.created_at, lag(f.created_at) OVER w AS before, lead(f.created_at) OVER w AS after
      FROM near n JOIN facts f ON f.id = n.message_id
      WINDOW w AS (PARTITION BY n.address_hash, f.kind, f.tenant, f.locale ORDER BY n.message_id)) a
    WHERE a.created_at - a.before <= within OR a.after - a.created_at <= within
  ),
  digests AS MATERIALIZED (
    SELECT m.id, outbox.digest_of(ROW(NULL, m.kind, NULL, m.payload, m.subject, m.body_text, m.body_html, m.raw_message, m.sender, m.reply_to, NULL, NULL,
      m.headers, m.attachments, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::outbox.notification) AS digest
    FROM (SELECT DISTINCT a.message_id FROM alike a) x JOIN outbox.message m ON m.id = x.message_id
  ),
  pairs AS MATERIALIZED (
    SELECT p.* FROM (
      SELECT a.message_id AS second_id, a.recipient_no AS second_no, a.created_at AS second_at, lag(a.message_id) OVER w AS first_id,
             lag(a.recipient_no) OVER w AS first_no, lag(a.created_at) OVER w AS first_at
      FROM alike a JOIN digests g ON g.id = a.message_id
      WINDOW w AS (PARTITION BY a.address_hash, a.kind, a.tenant, a.locale, g.digest ORDER BY a.message_id)) p
    WHERE p.second_at - p.first_at <= within
      AND (find_suspected_duplicates.id IS NULL OR find_suspected_duplicates.id IN (p.first_id, p.second_id))
    ORDER BY p.second_id DESC LIMIT least(greatest(find_suspected_duplicates.max_rows, 1), 100000)
  )
  SELECT CASE WHEN unmasked THEN t.mailbox ELSE outbox.mask_address(t.mailbox) END, b.kind, b.tenant, p.second_at - p.first_at, a.txid = b.txid,
    s.state = 'sent' AND t.state = 'sent',
    p.first_id, p.first_no::int, p.first_at, a.txid, a.application_name, a.session_role,
    CASE WHEN unmasked THEN a.dedup_key ELSE outbox.mask_text(a.dedup_key) END, s.state,
    p.second_id, p.second_no::int, p.second_at, b.txid, b.application_name, b.session_role,
    CASE WHEN unmasked THEN b.dedup_key ELSE outbox.mask_text(b.dedup_key) END, t.state
  FROM pairs p
  JOIN outbox.message a ON a.id = p.first_id
  JOIN outbox.message b ON b.id = p.second_id
  CROSS JOIN LATERAL (
    SELECT (a.recipients || a.cc || a.bcc)[p.first_no] AS mailbox,
      coalesce((SELECT outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) FROM outbox.queue q WHERE q.message_id = p.first_id AND q.recipient_no = p.first_no),
               (SELECT d.state FROM outbox.done d WHERE d.message_id = p.first_id AND d.recipient_no = p.first_no)) AS state) s
  CROSS JOIN LATERAL (
    SELECT (b.recipients || b.cc || b.bcc)[p.second_no] AS mailbox,
      coalesce((SELECT outbox.state_of(q.parked, q.intent, q.lease, q.lease_until) FROM outbox.queue q WHERE q.message_id = p.second_id AND q.recipient_no = p.second_no),
               (SELECT d.state FROM outbox.done d WHERE d.message_id = p.second_id AND d.recipient_no = p.second_no)) AS state) t
  -- A hash is not an address.
  WHERE lower(outbox.address_of(s.mailbox)) = lower(outbox.address_of(t.mailbox))
  ORDER BY p.second_id DESC, p.second_no;
END $$;
COMMENT ON FUNCTION outbox.find_suspected_duplicates(timestamptz, interval, text, uuid, int) IS
'Notifications that an application has enqueued twice: the same recipient, kind, tenant, locale and content, at most `within` apart, each with the next of its kind (three of them are two rows). Without address or id: since the given time (the last 7 days when NULL), the newest 200,000 finished and 200,000 unfinished deliveries of it. With an address, or an id (one message and its neighbours), all that is kept. Not found, because their content differs: finished messages (raw_message) with a Message-ID or Date of their own, and repeats with another order number in their payload. What an operator sent again is not listed. Addresses are masked unless the role may see them. Example:
  SELECT * FROM outbox.find_suspected_duplicates(now() - interval ''30 days'', interval ''10 minutes'');';

CREATE VIEW outbox.suspected_duplicates AS
SELECT * FROM outbox.find_suspected_duplicates();
COMMENT ON VIEW outbox.suspected_duplicates IS
'The answer to "a customer got two mails": the same content of the same kind, enqueued at least twice for one recipient within a day, in the last 7 days, newest first, with who enqueued them in which transactions. It looks at the newest 200,000 finished and 200,000 unfinished deliveries of that time and costs 1 to 5 seconds per 100,000 of them, most where everybody gets several mails of one kind a day; outbox.find_suspected_duplicates() takes other times, or one address, which takes milliseconds. The remedy is a dedup_key. Example:
  SELECT kind, first_application, second_application, same_transaction, count(*) FROM outbox.suspected_duplicates WHERE both_sent GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC;';
COMMENT ON COLUMN outbox.suspected_duplicates.recipient IS 'Masked unless the role may see addresses.';
COMMENT ON COLUMN outbox.suspected_duplicates.gap IS 'Between the two INSERTs.';
COMMENT ON COLUMN outbox.suspected_duplicates.same_transaction IS 'Whether one transaction enqueued both: a loop or a list with an address twice; else the application''s work was done twice.';
COMMENT ON COLUMN outbox.suspected_duplicates.both_sent IS 'Whether the recipient got both, as far as is known. When not: the other one may still be cancelled.';
COMMENT ON COLUMN outbox.suspected_duplicates.first_dedup_key IS 'NULL: it had none. Two different ones: the key does not name the event.';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  -- SELECT on outbox.suspected_duplicates is in 0010. A view's functions are called by the reader.
  ('outbox_operator outbox_viewer', 'EXECUTE', '{find_deliveries,find_token,find_raw_message,find_suspected_duplicates,history_since,circumstances}');
SELECT outbox.grant_roles();
