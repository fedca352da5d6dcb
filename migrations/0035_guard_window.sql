-- breaking: no
-- A guard for producers: the same content of one kind enqueued twice for one recipient within a time, without a dedup_key, is
-- held, dropped or only reported, as its kind says. Kinds without guard_window pay nothing.
SET LOCAL lock_timeout = '5s';

ALTER TABLE outbox.kind
  ADD COLUMN guard_window interval,
  ADD COLUMN on_duplicate text NOT NULL DEFAULT 'hold',
  ADD CONSTRAINT kind_guard_window_is_a_time CHECK (guard_window > interval '0'),
  ADD CONSTRAINT kind_on_duplicate_is_known CHECK (on_duplicate IN ('hold', 'drop', 'report'));
COMMENT ON COLUMN outbox.kind.guard_window IS 'The same content enqueued again for the same recipient so soon, without a dedup_key, is taken for a mistake; NULL: it is not looked for. From the relays'' configuration.';
COMMENT ON COLUMN outbox.kind.on_duplicate IS 'What becomes of it: hold, drop (cancelled), report (sent, and told). From the relays'' configuration.';

CREATE TABLE outbox.guard_seen (
  digest bytea PRIMARY KEY,
  message_id uuid NOT NULL,
  recipient_no smallint NOT NULL,
  enqueued_at timestamptz NOT NULL,
  before_id uuid,
  until timestamptz NOT NULL
) WITH (fillfactor = 80);
COMMENT ON TABLE outbox.guard_seen IS 'What has passed the guard of its kind lately: the key makes sure that of two deliveries, committed and claimed at the same moment, one is caught. Private.';
COMMENT ON COLUMN outbox.guard_seen.digest IS 'SHA-256 of kind, tenant, locale, address and content.';
COMMENT ON COLUMN outbox.guard_seen.before_id IS 'Which message was here before, where the one after it was only reported.';
CREATE INDEX guard_seen_until ON outbox.guard_seen (until);
COMMENT ON INDEX outbox.guard_seen_until IS 'Finds what is to be forgotten.';

CREATE INDEX audit_copies ON outbox.audit (after) WHERE action IN ('send again', 'send_again');
COMMENT ON INDEX outbox.audit_copies IS 'Whether a message is one that an operator sent again.';

CREATE FUNCTION outbox.short_time(length interval) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  seconds bigint := round(extract(epoch FROM length));
BEGIN
  RETURN CASE WHEN seconds = 0 THEN '0s' WHEN seconds % 86400 = 0 THEN seconds / 86400 || 'd' WHEN seconds % 3600 = 0 THEN seconds / 3600 || 'h'
              WHEN seconds % 60 = 0 THEN seconds / 60 || 'm' ELSE seconds || 's' END;
END $$;
COMMENT ON FUNCTION outbox.short_time(interval) IS 'Private: a time as the configuration has it, to the second.';

-- Content is what outbox.find_suspected_duplicates() compares.
CREATE FUNCTION outbox.guard_digest(m outbox.message, p_recipient_no smallint) RETURNS bytea LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN sha256(outbox.digest_of(ROW(NULL, m.kind, NULL, m.payload, m.subject, m.body_text, m.body_html, m.raw_message, m.sender, m.reply_to, NULL, NULL,
                  m.headers, m.attachments, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::outbox.notification)
                || convert_to(ARRAY[coalesce(m.tenant, ''), coalesce(m.locale, '')]::text, 'UTF8')
                || outbox.address_digest((m.recipients || m.cc || m.bcc)[p_recipient_no]));
END $$;
COMMENT ON FUNCTION outbox.guard_digest(outbox.message, smallint) IS 'Private: what two deliveries have in common of which one is a duplicate.';

-- Of one digest after the other, and the key of the table makes each wait for whoever has the same in hand: the second sees the
-- first, whoever committed when. What was tried before is not stopped, nor what the guard has told before (released, it is
-- sent), nor what an operator sends again. A first that has ended without arriving does not count.
CREATE FUNCTION outbox.guard_batch(p_message_ids uuid[], p_recipient_nos smallint[], p_leases uuid[])
RETURNS TABLE (message_id uuid, recipient_no smallint, verdict text, reason text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  one record;
  seen outbox.guard_seen;
  row_of outbox.queue;
  v_reason text;
  counts boolean;
BEGIN
  FOR one IN
    SELECT i.message_id, i.recipient_no, i.lease, m.kind, m.created_at, m.digest, m.dedup_key IS NULL AND q.intents = 0 AS guarded, k.guard_window, k.on_duplicate
    FROM unnest($1, $2, $3) AS i (message_id, recipient_no, lease)
    JOIN outbox.queue q ON q.message_id = ANY (ARRAY[i.message_id]) AND q.recipient_no = i.recipient_no AND q.lease = i.lease AND q.intent IS NULL AND q.parked IS NULL
    CROSS JOIN LATERAL (
      SELECT x.kind, x.created_at, x.dedup_key, outbox.guard_digest(x, i.recipient_no) AS digest FROM outbox.message x WHERE x.id = ANY (ARRAY[i.message_id]) OFFSET 0) m
    JOIN outbox.kind k ON k.name = m.kind AND k.guard_window IS NOT NULL
    ORDER BY m.digest, i.message_id, i.recipient_no
  LOOP
    LOOP
      INSERT INTO outbox.guard_seen (digest, message_id, recipient_no, enqueued_at, until)
      VALUES (one.digest, one.message_id, one.recipient_no, one.created_at, now() + one.guard_window + interval '1 day') ON CONFLICT (digest) DO NOTHING;
      EXIT WHEN FOUND;
      SELECT g.* INTO seen FROM outbox.guard_seen g WHERE g.digest = one.digest FOR UPDATE;
      EXIT WHEN FOUND; -- else it was forgotten between the two
    END LOOP;
    CONTINUE WHEN seen.digest IS DISTINCT FROM one.digest OR (seen.message_id, seen.recipient_no) = (one.message_id, one.recipient_no) OR seen.before_id = one.message_id;
    counts := abs(extract(epoch FROM one.created_at - seen.enqueued_at)) <= extract(epoch FROM one.guard_window)
      AND NOT EXISTS (SELECT FROM outbox.done d WHERE d.message_id = seen.message_id AND d.recipient_no = seen.recipient_no AND d.state <> 'sent' AND d.open_doubts = 0);
    IF NOT counts THEN
      IF one.created_at > seen.enqueued_at OR seen.until < now() + one.guard_window THEN
        UPDATE outbox.guard_seen g SET message_id = one.message_id, recipient_no = one.recipient_no, enqueued_at = one.created_at, before_id = NULL,
          until = now() + one.guard_window + interval '1 day'
        WHERE g.digest = one.digest;
      END IF;
      CONTINUE;
    END IF;
    CONTINUE WHEN NOT one.guarded
      OR EXISTS (SELECT FROM outbox.audit u WHERE u.message_id = one.message_id AND u.recipient_no = one.recipient_no AND u.action = 'guard')
      OR EXISTS (SELECT FROM outbox.audit u WHERE u.after = 'sent again as ' || one.message_id AND u.action IN ('send again', 'send_again'));
    message_id := one.message_id; recipient_no := one.recipient_no;
    v_reason := format('same content to the same recipient as message %s, enqueued %s s %s; guard_window of kind %s is %s', seen.message_id,
      abs(round(extract(epoch FROM one.created_at - seen.enqueued_at))), CASE WHEN one.created_at < seen.enqueued_at THEN 'later' ELSE 'earlier' END,
      one.kind, outbox.short_time(one.guard_window));
    reason := v_reason;
    IF one.on_duplicate = 'report' THEN
      UPDATE outbox.guard_seen g SET message_id = one.message_id, recipient_no = one.recipient_no, enqueued_at = one.created_at, before_id = seen.message_id,
        until = now() + one.guard_window + interval '1 day'
      WHERE g.digest = one.digest;
      PERFORM outbox.audit_entry('guard', one.message_id, one.recipient_no, NULL, v_reason, 'pending', 'reported');
      verdict := 'reported';
      RETURN NEXT;
      CONTINUE;
    END IF;
    SELECT x.* INTO row_of FROM outbox.queue x
    WHERE x.message_id = one.message_id AND x.recipient_no = one.recipient_no AND x.lease = one.lease AND x.intent IS NULL AND x.parked IS NULL
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
      verdict := 'locked';
    ELSIF one.on_duplicate = 'drop' THEN
      PERFORM outbox.finish(row_of, 'cancelled', NULL, v_reason, NULL, 0);
      PERFORM outbox.audit_entry('guard', one.message_id, one.recipient_no, NULL, v_reason, 'pending', 'cancelled');
      verdict := 'dropped';
    ELSE
      UPDATE outbox.queue q SET parked = 'held', due_at = 'infinity', lease = NULL, lease_until = NULL, claims = greatest(q.claims - 1, 0), note = v_reason
      WHERE q.message_id = one.message_id AND q.recipient_no = one.recipient_no;
      PERFORM outbox.audit_entry('guard', one.message_id, one.recipient_no, NULL, v_reason, 'pending', 'held');
      verdict := 'held';
    END IF;
    RETURN NEXT;
  END LOOP;
  DELETE FROM outbox.guard_seen g USING (SELECT x.digest FROM outbox.guard_seen x WHERE x.until < now() ORDER BY x.until LIMIT 200 FOR UPDATE SKIP LOCKED) old
  WHERE g.digest = old.digest;
END $$;
COMMENT ON FUNCTION outbox.guard_batch(uuid[], smallint[], uuid[]) IS
  'Relays: notes these claimed deliveries, where their kind has a guard_window, and stops those whose content the same recipient has been given within it: held or dropped (cancelled), by their leases; reported ones go on. locked: it is one, and somebody has its row. Answers these, and why.';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  ('outbox_relay', 'EXECUTE', '{guard_batch}'::text[]);
SELECT outbox.grant_roles();
