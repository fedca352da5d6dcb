-- breaking: no
-- Messages without a delivery are found, erased and counted when their week is dropped; a table that has a week's name and is not attached is told.
SET LOCAL lock_timeout = '5s';

-- Messages without a delivery ---------------------------------------------------------------------------------------------
-- Somebody has deleted from the queue, or a restore was partial. A message and its queue rows are one transaction, and so are a queue row's
-- end and its terminal record: whoever looks at both in one statement sees one of them. Not further back than seven days: records are kept for
-- longer than that, and before a week is dropped its terminal records go.
CREATE FUNCTION outbox.find_unqueued(address text DEFAULT NULL, id uuid DEFAULT NULL, max_messages int DEFAULT 100000)
RETURNS TABLE (message_id uuid, kind text, enqueued_at timestamptz, attempts int)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  wanted text := outbox.folded(outbox.address_of(find_unqueued.address));
  lowest uuid := coalesce(find_unqueued.id, outbox.uuid_floor(now() - interval '7 days'));
  highest uuid := coalesce(find_unqueued.id, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
BEGIN
  -- Scalar subqueries: a probe for each, whatever the planner thinks of the rest of the table.
  RETURN QUERY
  WITH page AS MATERIALIZED (
    SELECT m.id FROM outbox.message m WHERE m.id >= lowest AND m.id <= highest ORDER BY m.id DESC LIMIT least(greatest(find_unqueued.max_messages, 1), 1000000)),
  missing AS MATERIALIZED (
    SELECT p.id FROM page p
    WHERE (SELECT 1 FROM outbox.done d WHERE d.message_id = p.id LIMIT 1) IS NULL AND (SELECT 1 FROM outbox.queue q WHERE q.message_id = p.id LIMIT 1) IS NULL)
  SELECT m.id, m.kind, m.created_at, (SELECT count(*)::int FROM outbox.attempt a WHERE a.message_id = m.id)
  FROM missing i JOIN outbox.message m ON m.id = i.id
  WHERE CASE
    WHEN wanted IS NOT NULL THEN EXISTS (SELECT FROM unnest(m.recipients || m.cc || m.bcc) u WHERE outbox.folded(outbox.address_of(u)) = wanted)
    -- Of what has been erased nothing is left to do.
    ELSE find_unqueued.id IS NOT NULL OR num_nonnulls(m.payload, m.subject, m.body_text, m.body_html, m.raw_message) > 0 END
  ORDER BY m.id DESC;
END $$;
COMMENT ON FUNCTION outbox.find_unqueued(text, uuid, int) IS 'Messages that have no delivery, neither queued nor ended: somebody deleted from outbox.queue, or they were loaded past the doors (a partial restore, an INSERT into a partition). Nobody sends them. Looks at the newest max_messages of the last seven days, or at one, newest first; attempts says how many the ledger has of it. What shall be sent is enqueued again, with a dedup_key of its own. Example:
  SELECT * FROM outbox.find_unqueued();';

CREATE FUNCTION outbox.without_delivery(p_id uuid) RETURNS smallint[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN ARRAY(
    SELECT r.recipient_no FROM outbox.message m CROSS JOIN LATERAL outbox.recipients_of(m.recipients, m.cc, m.bcc) r
    WHERE m.id = p_id AND NOT EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = m.id AND q.recipient_no = r.recipient_no)
      AND NOT EXISTS (SELECT FROM outbox.done d WHERE d.message_id = m.id AND d.recipient_no = r.recipient_no));
END $$;
COMMENT ON FUNCTION outbox.without_delivery(uuid) IS 'Private: which recipients of a message have no delivery, neither queued nor ended.';

-- Erasing: who has no delivery is waited for by nobody.
DO $migration$
DECLARE
  change record;
  source text;
BEGIN
  FOR change IN SELECT * FROM (VALUES
    ('outbox.erase_message(uuid, text, bytea, text, boolean)', E'ORDER BY x.recipient_no FOR UPDATE SKIP LOCKED);\n  result := '''';\n',
     E'ORDER BY x.recipient_no FOR UPDATE SKIP LOCKED)\n    || outbox.without_delivery(p_id);\n  result := '''';\n'),
    ('outbox.erase(text, text, int, boolean)', E'WHERE d.address_hash = outbox.address_hash(bare)) f\n',
     E'WHERE d.address_hash = outbox.address_hash(bare)\n                              UNION SELECT u.message_id FROM outbox.find_unqueued(bare) u) f\n'),
    ('outbox.would_erase(text, boolean)', E'WHERE d.address_hash = outbox.address_hash(bare)) f\n',
     E'WHERE d.address_hash = outbox.address_hash(bare)\n                              UNION SELECT u.message_id FROM outbox.find_unqueued(bare) u) f\n'),
    ('outbox.would_erase_mentions(text, uuid, int)', E'WHEN EXISTS (SELECT FROM unnest(one.mailboxes) u WHERE outbox.folded(outbox.address_of(u)) = bare) THEN',
     E'WHEN EXISTS (SELECT FROM unnest(one.mailboxes) WITH ORDINALITY AS u (mailbox, no) WHERE outbox.folded(outbox.address_of(u.mailbox)) = bare\n'
     || '                   HAVING count(*) > 0 AND min(u.no) <> ALL (outbox.without_delivery(one.id))) THEN')) AS v (name, before, after)
  LOOP
    source := pg_get_functiondef(change.name::regprocedure);
    IF length(source) - length(replace(source, change.before, '')) <> length(change.before) THEN
      RAISE EXCEPTION '% is not as it was', change.name;
    END IF;
    EXECUTE replace(source, change.before, change.after);
  END LOOP;
END $migration$;

CREATE OR REPLACE FUNCTION outbox.empty_mention(p_id uuid, p_address text, p_reason text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  m outbox.message;
  own smallint;
  locked smallint[] := ARRAY(SELECT x.recipient_no FROM outbox.done x WHERE x.message_id = p_id ORDER BY x.recipient_no FOR UPDATE SKIP LOCKED);
  missing smallint[] := outbox.without_delivery(p_id);
BEGIN
  SELECT x.* INTO m FROM outbox.message x WHERE x.id = p_id;
  SELECT min(u.no) INTO own FROM unnest(m.recipients || m.cc || m.bcc) WITH ORDINALITY AS u (mailbox, no) WHERE outbox.folded(outbox.address_of(u.mailbox)) = p_address;
  IF own IS NOT NULL AND own <> ALL (missing) THEN
    RETURN 'kept: the address is a recipient of it; outbox.erase() comes first';
  ELSIF EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = p_id) THEN
    RETURN 'kept: it has not ended; call again then';
  ELSIF NOT ARRAY(SELECT r.recipient_no FROM outbox.recipients_of(m.recipients, m.cc, m.bcc) r) <@ (locked || missing) THEN
    RETURN 'kept: busy; call again';
  END IF;
  -- A recipient without a delivery is found by no hash, so also not by outbox.erase().
  PERFORM outbox.empty_message(m, own, p_address, outbox.proof_of(p_address), p_reason);
  RETURN 'erased';
END $$;

-- Weeks ------------------------------------------------------------------------------------------------------------------
ALTER TABLE outbox.upkeep_postponed ADD COLUMN unqueued bigint;
COMMENT ON COLUMN outbox.upkeep_postponed.unqueued IS 'How many messages of a week that is being dropped had no delivery, when its deliveries began to be deleted.';

CREATE FUNCTION outbox.note_unqueued(p_what text, p_ids uuid[], p_from uuid, p_to uuid, OUT action text, OUT detail text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
  most CONSTANT int := 200000;
  looked bigint;
  lost bigint;
  first uuid;
BEGIN
  IF p_ids IS NULL AND EXISTS (SELECT FROM outbox.upkeep_postponed u WHERE u.what = p_what AND u.unqueued IS NOT NULL) THEN
    UPDATE outbox.upkeep_postponed u SET last_at = now() WHERE u.what = p_what;
    RETURN;
  END IF;
  WITH page AS MATERIALIZED (
    SELECT i AS id FROM unnest(p_ids) i
    UNION ALL (SELECT m.id FROM outbox.message m WHERE p_ids IS NULL AND m.id >= p_from AND m.id < p_to ORDER BY m.id LIMIT most))
  SELECT count(*), count(*) FILTER (WHERE p.missing), (array_agg(p.id ORDER BY p.id) FILTER (WHERE p.missing))[1] INTO looked, lost, first
  FROM (SELECT x.id, (SELECT 1 FROM outbox.done d WHERE d.message_id = x.id LIMIT 1) IS NULL AND (SELECT 1 FROM outbox.queue q WHERE q.message_id = x.id LIMIT 1) IS NULL AS missing FROM page x) p;
  IF p_ids IS NULL THEN
    INSERT INTO outbox.upkeep_postponed AS u (what, why, unqueued) VALUES (p_what, 'is being dropped: its deliveries go first', lost)
    ON CONFLICT (what) DO UPDATE SET unqueued = excluded.unqueued, last_at = now();
  END IF;
  IF lost > 0 THEN
    action := 'unqueued';
    detail := format('%s: messages without a delivery, neither queued nor ended: %s%s, the first %s', p_what, CASE WHEN looked = most THEN 'at least ' ELSE '' END, lost, first);
    PERFORM outbox.audit_entry('drop', NULL, NULL, NULL, 'records are not kept for longer', p_what, detail);
  END IF;
END $$;
COMMENT ON FUNCTION outbox.note_unqueued(text, uuid[], uuid, uuid) IS 'Private: counts and audits the messages without a delivery of a week that is about to be dropped, once, among its first 200,000; or of these.';

DO $migration$
DECLARE
  change record;
  source text;
  told text := E'    IF action IS NOT NULL THEN RETURN NEXT; END IF;\n';
BEGIN
  FOR change IN SELECT * FROM (VALUES
    ('WHERE u.last_at < now() - interval ''7 days'';', 'WHERE u.last_at < now() - interval ''7 days'' AND u.unqueued IS NULL;'),
    (E'    budget := budget - outbox.forget_rows(NULL, lower_bound, upper_bound, budget);\n',
     E'    -- Before its deliveries go: afterwards nobody can tell.\n'
     || E'    SELECT n.* INTO action, detail FROM outbox.note_unqueued(''message_'' || stamp, NULL, lower_bound, upper_bound) n;\n' || told
     || E'    budget := budget - outbox.forget_rows(NULL, lower_bound, upper_bound, budget);\n'),
    (E'    PERFORM outbox.forget_rows(strays, NULL, NULL, 20000);\n',
     E'    SELECT n.* INTO action, detail FROM outbox.note_unqueued(''message_default'', strays, NULL, NULL) n;\n' || told
     || E'    PERFORM outbox.forget_rows(strays, NULL, NULL, 20000);\n'),
    -- One that was detached is somebody's.
    (E'      EXECUTE format(''DROP TABLE IF EXISTS outbox.attempt_%s'', stamp);\n',
     E'      IF EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = to_regclass(''outbox.attempt_'' || stamp)) THEN\n'
     || E'        EXECUTE format(''DROP TABLE outbox.attempt_%s'', stamp);\n      END IF;\n')) AS v (before, after)
  LOOP
    source := pg_get_functiondef('outbox.drop_partitions_before(timestamptz)'::regprocedure);
    IF length(source) - length(replace(source, change.before, '')) <> length(change.before) THEN
      RAISE EXCEPTION 'outbox.drop_partitions_before is not as it was';
    END IF;
    EXECUTE replace(source, change.before, change.after);
  END LOOP;
END $migration$;

-- A week that was detached, for an archive, and still has its name: it was taken for the week, which nobody made.
CREATE FUNCTION outbox.name_taken(p_parent text, p_name text, OUT action text, OUT detail text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  pending boolean;
BEGIN
  SELECT i.inhdetachpending INTO pending FROM pg_inherits i
  WHERE i.inhparent = to_regclass(format('outbox.%I', p_parent)) AND i.inhrelid = to_regclass(format('outbox.%I', p_name));
  IF NOT pending THEN
    DELETE FROM outbox.upkeep_postponed u WHERE u.what = p_name AND u.why LIKE 'is not attached, %';
    RETURN;
  END IF;
  SELECT n.* INTO action, detail FROM outbox.note_postponed(p_name,
    format('is not attached, and has the name of the week, which is not made: what is enqueued in it goes to outbox.%s_default; %sALTER TABLE outbox.%I RENAME TO %I (or SET SCHEMA), or attach it again',
           p_parent, CASE WHEN pending THEN format('ALTER TABLE outbox.%I DETACH PARTITION outbox.%I FINALIZE; ', p_parent, p_name) ELSE '' END, p_name, p_name || '_archive'), 'name taken') n;
END $$;
COMMENT ON FUNCTION outbox.name_taken(text, text) IS 'Private: notes that a week cannot be made, because what has its name is no partition of the table; forgets it when it is one.';

DO $migration$
DECLARE
  change record;
  source text;
BEGIN
  FOR change IN SELECT * FROM (VALUES
    (E'  IF NOT pg_try_advisory_xact_lock(hashtextextended(''hapax.maintain'', 0)) THEN\n',
     E'  IF ahead > interval ''2 years'' THEN\n'
     || E'    RAISE EXCEPTION USING ERRCODE = ''22H77'', MESSAGE = ''outbox.maintain: ahead: is more than two years'', COLUMN = ''ahead'', HINT = ''each week is two tables; the default, 28 days, is made again by every call'';\n'
     || E'  END IF;\n'
     || E'  -- Longer than there have been messages: everything is kept. Before 1970 there are no ids.\n'
     || E'  IF keep > interval ''30 years'' THEN\n    keep := NULL;\n  END IF;\n'
     || E'  IF NOT pg_try_advisory_xact_lock(hashtextextended(''hapax.maintain'', 0)) THEN\n'),
    (E'      CONTINUE WHEN parent = ANY (busy) OR to_regclass(''outbox.'' || child) IS NOT NULL;\n',
     E'      CONTINUE WHEN parent = ANY (busy);\n'
     || E'      IF to_regclass(''outbox.'' || child) IS NOT NULL THEN\n'
     || E'        SELECT n.* INTO action, detail FROM outbox.name_taken(parent, child) n;\n'
     || E'        IF action IS NOT NULL THEN RETURN NEXT; END IF;\n'
     || E'        CONTINUE;\n'
     || E'      END IF;\n')) AS v (before, after)
  LOOP
    source := pg_get_functiondef('outbox.maintain(interval, interval)'::regprocedure);
    IF length(source) - length(replace(source, change.before, '')) <> length(change.before) THEN
      RAISE EXCEPTION 'outbox.maintain is not as it was';
    END IF;
    EXECUTE replace(source, change.before, change.after);
  END LOOP;
  source := obj_description('outbox.refuse(text, text, text, text, text)'::regprocedure, 'pg_proc');
  EXECUTE format('COMMENT ON FUNCTION outbox.refuse(text, text, text, text, text) IS %L', replace(source, '. Testing: ', '; 22H77 weeks are not made so far ahead. Testing: '));
  EXECUTE format('COMMENT ON FUNCTION outbox.maintain(interval, interval) IS %L',
                 obj_description('outbox.maintain(interval, interval)'::regprocedure, 'pg_proc')
                 || ' Ahead is at most 2 years (22H77); a keep of more than 30 years keeps everything. A week whose name a table has that is not attached is told as name taken, and stays in outbox.upkeep_postponed.');
END $migration$;
COMMENT ON TABLE outbox.upkeep_postponed IS 'Weeks that upkeep could not see to yet, and why: older than records are kept and not dropped, because somebody holds a lock on them or something of them is unfinished; or not made, because a table that is not attached has their name. Example:
  SELECT what, why, now() - since AS overdue FROM outbox.upkeep_postponed ORDER BY since;';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES ('outbox_relay outbox_operator outbox_viewer', 'EXECUTE', '{find_unqueued}'::text[]);
SELECT outbox.grant_roles();
