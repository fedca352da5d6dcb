-- breaking: no
-- Retention: the content of messages is removed some time after their end, and weeks are dropped without anybody waiting for it.
SET LOCAL lock_timeout = '5s';

-- Weeks ------------------------------------------------------------------------------------------------------------------
CREATE TABLE outbox.upkeep_postponed (
  what text PRIMARY KEY,
  why text NOT NULL,
  since timestamptz NOT NULL DEFAULT now(),
  last_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE outbox.upkeep_postponed IS 'Weeks that are older than records are kept and could not be dropped yet, and why: somebody holds a lock on them, or something of them is unfinished. Example:
  SELECT what, why, now() - since AS overdue FROM outbox.upkeep_postponed ORDER BY since;';
COMMENT ON COLUMN outbox.upkeep_postponed.last_at IS 'When it was last tried.';

CREATE FUNCTION outbox.note_postponed(p_what text, p_why text, p_word text, OUT action text, OUT detail text) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  first timestamptz;
BEGIN
  INSERT INTO outbox.upkeep_postponed AS u (what, why) VALUES (p_what, p_why)
  ON CONFLICT (what) DO UPDATE SET why = excluded.why, last_at = now() RETURNING u.since INTO first;
  action := CASE WHEN first < now() - interval '2 days' AND p_word = 'postponed' THEN 'overdue' ELSE p_word END;
  detail := CASE action WHEN 'overdue' THEN format('%s since %s: %s', p_what, date_trunc('second', first), p_why) ELSE format('%s %s', p_what, p_why) END;
END $$;
COMMENT ON FUNCTION outbox.note_postponed(text, text, text) IS 'Private: notes what could not be dropped. For more than two days it is overdue.';

CREATE FUNCTION outbox.forget_rows(p_ids uuid[], p_from uuid, p_to uuid, p_most int) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
  name text;
  gone int;
  total int := 0;
BEGIN
  FOREACH name IN ARRAY ARRAY['digest_member', 'erasure', 'content_later', 'audit', 'attempt_default', 'done'] LOOP
    CONTINUE WHEN to_regclass('outbox.' || name) IS NULL;
    EXECUTE format('DELETE FROM outbox.%1$I x WHERE x.ctid = ANY (ARRAY(
      SELECT y.ctid FROM outbox.%1$I y WHERE %2$s LIMIT $4 FOR UPDATE SKIP LOCKED))', name,
      CASE WHEN p_ids IS NULL THEN 'y.message_id >= $2 AND y.message_id < $3' ELSE 'y.message_id = ANY ($1)' END)
    USING p_ids, p_from, p_to, p_most - total;
    GET DIAGNOSTICS gone = ROW_COUNT;
    total := total + gone;
    EXIT WHEN total >= p_most;
  END LOOP;
  RETURN total;
END $$;
COMMENT ON FUNCTION outbox.forget_rows(uuid[], uuid, uuid, int) IS 'Private: deletes at most so many rows that hang on these messages, or on those of a range of ids, outside of their partitions. Never waits.';

-- First what hangs on a week and is not in its partitions, so much at a time, while nobody waits for anything; then the partitions,
-- whose parents are locked for the milliseconds until the caller's transaction ends.
CREATE OR REPLACE FUNCTION outbox.drop_partitions_before(p_before timestamptz) RETURNS TABLE (action text, detail text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
#variable_conflict use_column
DECLARE
  stamp text;
  clean text[] := '{}';
  lower_bound uuid;
  upper_bound uuid;
  strays uuid[];
  budget int := 20000;
BEGIN
  DELETE FROM outbox.upkeep_postponed u WHERE u.last_at < now() - interval '7 days';
  FOR stamp IN
    SELECT substr(c.relname, 9) FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
    WHERE i.inhparent = 'outbox.message'::regclass AND c.relname ~ '^message_[0-9]{8}$'
      AND (to_date(substr(c.relname, 9), 'YYYYMMDD') + 7)::timestamp <= p_before AT TIME ZONE 'UTC' ORDER BY 1
  LOOP
    lower_bound := outbox.uuid_floor(to_date(stamp, 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC');
    upper_bound := outbox.uuid_floor((to_date(stamp, 'YYYYMMDD') + 7)::timestamp AT TIME ZONE 'UTC');
    IF EXISTS (SELECT FROM outbox.queue q WHERE q.message_id >= lower_bound AND q.message_id < upper_bound) THEN
      SELECT n.* INTO action, detail FROM outbox.note_postponed('message_' || stamp, 'has unfinished deliveries', 'kept') n;
      RETURN NEXT;
      CONTINUE;
    END IF;
    budget := budget - outbox.forget_rows(NULL, lower_bound, upper_bound, budget);
    IF budget <= 0 THEN
      action := 'more'; detail := format('message_%s: its deliveries are being deleted', stamp); RETURN NEXT;
      EXIT;
    END IF;
    clean := clean || stamp;
  END LOOP;
  -- What came with an id of a week that has no partition.
  strays := ARRAY(SELECT m.id FROM outbox.message_default m
                  WHERE m.id < outbox.uuid_floor(p_before) AND NOT EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = m.id) ORDER BY m.id LIMIT 1000);
  IF strays <> '{}' AND budget > 0 THEN
    PERFORM outbox.forget_rows(strays, NULL, NULL, 20000);
    DELETE FROM outbox.message_default m WHERE m.id = ANY (strays) AND NOT EXISTS (SELECT FROM outbox.done d WHERE d.message_id = m.id)
      AND NOT EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = m.id);
    action := CASE cardinality(strays) WHEN 1000 THEN 'more' ELSE 'deleted' END; detail := format('message_default: %s', cardinality(strays)); RETURN NEXT;
  END IF;
  FOREACH stamp IN ARRAY clean LOOP
    lower_bound := outbox.uuid_floor(to_date(stamp, 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC');
    upper_bound := outbox.uuid_floor((to_date(stamp, 'YYYYMMDD') + 7)::timestamp AT TIME ZONE 'UTC');
    BEGIN
      -- Under the lock nobody can enqueue into the range, so the check holds until the drop.
      EXECUTE format('LOCK TABLE outbox.message_%s IN ACCESS EXCLUSIVE MODE', stamp);
      IF EXISTS (SELECT FROM outbox.queue q WHERE q.message_id >= lower_bound AND q.message_id < upper_bound)
         OR EXISTS (SELECT FROM outbox.done d WHERE d.message_id >= lower_bound AND d.message_id < upper_bound) THEN
        SELECT n.* INTO action, detail FROM outbox.note_postponed('message_' || stamp, 'has deliveries that somebody decides', 'postponed') n;
        RETURN NEXT;
        CONTINUE;
      END IF;
      EXECUTE format('DROP TABLE outbox.message_%s', stamp);
      EXECUTE format('DROP TABLE IF EXISTS outbox.attempt_%s', stamp);
      DELETE FROM outbox.upkeep_postponed u WHERE u.what = 'message_' || stamp;
      action := 'dropped'; detail := 'message_' || stamp; RETURN NEXT;
    EXCEPTION WHEN lock_not_available THEN
      SELECT n.* INTO action, detail FROM outbox.note_postponed('message_' || stamp, 'is in use by another transaction', 'postponed') n;
      RETURN NEXT;
    END;
  END LOOP;
END $$;
COMMENT ON FUNCTION outbox.drop_partitions_before(timestamptz) IS 'Private to maintain(): drops whole weeks that have ended before the given time and hold nothing unfinished. Deletes at most 20,000 rows of theirs in other tables in one call, and answers more when there are more.';

-- Drops come last: whoever waits for a parent of what was dropped waits for the end of this transaction.
DO $migration$
DECLARE
  change record;
  source text;
BEGIN
  FOR change IN SELECT * FROM (VALUES
    (E'  IF keep IS NOT NULL THEN\n    RETURN QUERY SELECT * FROM outbox.drop_partitions_before(now() - greatest(keep, interval ''7 days''));\n  END IF;\n', ''),
    (E'detail := gone::text; RETURN NEXT; END IF;\n',
     E'detail := gone::text; RETURN NEXT; END IF;\n  IF gone = 50000 THEN action := ''more''; detail := ''expired keys''; RETURN NEXT; END IF;\n'),
    (E'     AND NOT EXISTS (SELECT FROM outbox.queue q WHERE q.intent_by = r.incarnation);\n',
     E'     AND NOT EXISTS (SELECT FROM outbox.queue q WHERE q.intent_by = r.incarnation);\n'
     || E'  IF keep IS NOT NULL THEN\n    RETURN QUERY SELECT * FROM outbox.drop_partitions_before(now() - greatest(keep, interval ''7 days''));\n  END IF;\n')) AS v (before, after)
  LOOP
    source := pg_get_functiondef('outbox.maintain(interval, interval)'::regprocedure);
    IF (length(source) - length(replace(source, change.before, ''))) <> length(change.before) THEN
      RAISE EXCEPTION 'outbox.maintain is not as it was';
    END IF;
    EXECUTE replace(source, change.before, change.after);
  END LOOP;
END $migration$;
COMMENT ON FUNCTION outbox.maintain(interval, interval) IS 'Upkeep: weekly partitions made ahead, expired keys removed, old weeks dropped when keep is given (at least 7 days). Called by the relay, pg_cron or by hand; never waits longer than 100 ms for a lock, postponed work is done by the next call. What is left to do is answered as more: call again.';

COMMENT ON TABLE outbox.message IS 'Notifications as the producers committed them. Insert-only, but for content that is removed when its time is over; partitioned by id, which is time (uuid v7).';

-- Content ----------------------------------------------------------------------------------------------------------------
CREATE TABLE outbox.content_sweep (
  keep_s float8 PRIMARY KEY,
  is_default boolean NOT NULL,
  kinds text[] NOT NULL,
  after uuid NOT NULL,
  back_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE outbox.content_sweep IS 'Up to which message each time of keeping content has been applied: all before it are empty, or in outbox.content_later. Private.';
COMMENT ON COLUMN outbox.content_sweep.keep_s IS 'Content is kept for so long after the end; 0: until it is accepted.';
COMMENT ON COLUMN outbox.content_sweep.kinds IS 'To which kinds it applies; with is_default: to which it does not.';
COMMENT ON COLUMN outbox.content_sweep.back_at IS 'When it last went two days back, to those that were committed behind it.';

CREATE TABLE outbox.content_later (
  message_id uuid PRIMARY KEY,
  look_at timestamptz NOT NULL
);
COMMENT ON TABLE outbox.content_later IS 'Messages that had not ended, or not for long enough, when their turn came: looked at again. Private.';
CREATE INDEX content_later_look_at ON outbox.content_later (look_at);
COMMENT ON INDEX outbox.content_later_look_at IS 'Whose time has come.';

-- Whoever reopens a delivery has its terminal row locked: it is passed over, and what is locked here cannot be reopened meanwhile.
CREATE FUNCTION outbox.empty_messages(p_ids uuid[], p_keeps_s float8[]) RETURNS TABLE (id uuid, emptied boolean, look_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  dues timestamptz[];
  locked uuid[];
  counts bigint[];
  gone uuid[] := '{}';
BEGIN
  SELECT array_agg(s.due ORDER BY s.no) INTO dues FROM (
    SELECT i.no, CASE WHEN NOT EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = i.id)
      THEN e.ended + CASE WHEN i.keep_s > 0 THEN i.keep_s * interval '1 second' WHEN e.accepted THEN interval '0' ELSE interval '30 days' END END AS due
    FROM unnest(p_ids, p_keeps_s) WITH ORDINALITY AS i (id, keep_s, no)
    CROSS JOIN LATERAL (
      SELECT max(d.finished_at) AS ended, bool_and(d.state = 'sent' AND d.evidence IN ('reply', 'report', 'idempotent upstream') AND d.open_doubts = 0) AS accepted
      FROM outbox.done d WHERE d.message_id = i.id) e) s;
  SELECT array_agg(l.message_id), array_agg(l.deliveries) INTO locked, counts FROM (
    SELECT h.message_id, count(*) AS deliveries FROM (
      SELECT d.message_id FROM unnest(p_ids, dues) AS i (id, due) JOIN outbox.done d ON d.message_id = i.id
      WHERE i.due <= now() ORDER BY d.message_id, d.recipient_no FOR UPDATE OF d SKIP LOCKED) h
    GROUP BY h.message_id) l;
  BEGIN
    WITH emptied AS (
      UPDATE outbox.message m SET payload = NULL, subject = NULL, body_text = NULL, body_html = NULL, raw_message = NULL, headers = NULL, attachments = NULL
      FROM unnest(locked, counts) AS i (id, deliveries)
      WHERE m.id = i.id AND NOT EXISTS (SELECT FROM outbox.queue q WHERE q.message_id = m.id)
        AND i.deliveries = (SELECT count(*) FROM outbox.done d WHERE d.message_id = m.id)
      RETURNING m.id)
    SELECT coalesce(array_agg(e.id), '{}') INTO gone FROM emptied e;
  EXCEPTION WHEN lock_not_available THEN
    NULL; -- next time
  END;
  -- Who has waited for long waits a little longer.
  RETURN QUERY SELECT i.id, i.id = ANY (gone),
    CASE WHEN i.due > now() THEN i.due WHEN i.due IS NOT NULL THEN now() + interval '1 minute'
         ELSE now() + least(greatest((now() - outbox.uuid_time(i.id)) / 4, interval '1 minute'), interval '6 hours') END
  FROM unnest(p_ids, dues) AS i (id, due);
END $$;
COMMENT ON FUNCTION outbox.empty_messages(uuid[], float8[]) IS 'Private: removes the content of those of these messages all of whose deliveries have ended for long enough; tells when to look at the others again. Never waits for who decides something about one.';

CREATE FUNCTION outbox.remove_contents(p_kinds text[], p_keeps_s float8[], p_default_s float8, p_batch int DEFAULT 500, OUT removed bigint, OUT more boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
  keep float8;
  v_default boolean;
  v_kinds text[];
  known outbox.content_sweep;
  ids uuid[];
  keeps float8[];
  last uuid;
  seen bigint;
BEGIN
  removed := 0;
  more := false;
  IF NOT pg_try_advisory_xact_lock(hashtextextended('hapax.contents', 0)) THEN
    RETURN;
  END IF;
  -- Those whose turn came too early.
  SELECT array_agg(l.message_id), array_agg(CASE WHEN m.kind = ANY (p_kinds) THEN p_keeps_s[array_position(p_kinds, m.kind)] ELSE CASE WHEN m.kind IS NOT NULL THEN p_default_s END END)
  INTO ids, keeps
  FROM (SELECT x.message_id FROM outbox.content_later x WHERE x.look_at <= now() ORDER BY x.look_at LIMIT p_batch) l
  LEFT JOIN outbox.message m ON m.id = l.message_id AND num_nonnulls(m.payload, m.subject, m.body_text, m.body_html, m.raw_message) > 0;
  more := coalesce(cardinality(ids), 0) = p_batch;
  -- Without a message, without content, or to be kept: nothing to wait for.
  DELETE FROM outbox.content_later c USING unnest(ids, keeps) AS i (id, keep_s) WHERE c.message_id = i.id AND i.keep_s IS NULL;
  WITH looked AS MATERIALIZED (
    SELECT e.* FROM outbox.empty_messages(ARRAY(SELECT i.id FROM unnest(ids, keeps) AS i (id, keep_s) WHERE i.keep_s IS NOT NULL),
                                          ARRAY(SELECT i.keep_s FROM unnest(ids, keeps) AS i (id, keep_s) WHERE i.keep_s IS NOT NULL)) e),
  over AS (
    DELETE FROM outbox.content_later c USING looked l WHERE c.message_id = l.id AND l.emptied),
  again AS (
    UPDATE outbox.content_later c SET look_at = l.look_at FROM looked l WHERE c.message_id = l.id AND NOT l.emptied)
  SELECT count(*) FILTER (WHERE l.emptied) INTO removed FROM looked l;
  -- The others, in the order of their ids: each once for each time of keeping.
  DELETE FROM outbox.content_sweep s WHERE s.keep_s <> ALL (array_remove(p_keeps_s || p_default_s, NULL));
  FOR keep IN SELECT DISTINCT u.keep_s FROM unnest(p_keeps_s || p_default_s) AS u (keep_s) WHERE u.keep_s IS NOT NULL ORDER BY 1 LOOP
    v_default := coalesce(p_default_s = keep, false);
    v_kinds := ARRAY(SELECT u.kind FROM unnest(p_kinds, p_keeps_s) AS u (kind, keep_s) WHERE coalesce(u.keep_s = keep, false) <> v_default ORDER BY 1);
    SELECT s.* INTO known FROM outbox.content_sweep s WHERE s.keep_s = keep;
    -- From the beginning for kinds that it has not applied to.
    IF known.keep_s IS NULL
       OR NOT (CASE WHEN v_default THEN known.is_default AND known.kinds <@ v_kinds WHEN known.is_default THEN NOT known.kinds && v_kinds ELSE v_kinds <@ known.kinds END) THEN
      known.after := '00000000-0000-0000-0000-000000000000';
      known.back_at := now();
    END IF;
    SELECT array_agg(p.id ORDER BY p.id) FILTER (WHERE p.mine), (array_agg(p.id ORDER BY p.id DESC))[1], count(*) INTO ids, last, seen
    FROM (
      SELECT m.id, num_nonnulls(m.payload, m.subject, m.body_text, m.body_html, m.raw_message) > 0 AND (m.kind = ANY (v_kinds)) <> v_default AS mine FROM outbox.message m
      WHERE m.id > known.after AND m.id < outbox.uuid_floor(now() - keep * interval '1 second' - interval '1 minute') ORDER BY m.id LIMIT p_batch) p;
    known.after := coalesce(last, known.after);
    more := more OR seen = p_batch;
    WITH looked AS MATERIALIZED (
      SELECT e.* FROM outbox.empty_messages(ids, array_fill(keep, ARRAY[coalesce(cardinality(ids), 0)])) e),
    later AS (
      INSERT INTO outbox.content_later (message_id, look_at) SELECT l.id, l.look_at FROM looked l WHERE NOT l.emptied ON CONFLICT DO NOTHING)
    SELECT removed + count(*) FILTER (WHERE l.emptied) INTO removed FROM looked l;
    -- A transaction may have committed behind it, or a clock been slow.
    IF seen < p_batch AND known.back_at < now() - interval '1 day' THEN
      known.after := least(known.after, outbox.uuid_floor(now() - keep * interval '1 second' - interval '2 days'));
      known.back_at := now();
    END IF;
    INSERT INTO outbox.content_sweep (keep_s, is_default, kinds, after, back_at) VALUES (keep, v_default, v_kinds, known.after, known.back_at)
    ON CONFLICT (keep_s) DO UPDATE SET is_default = excluded.is_default, kinds = excluded.kinds, after = excluded.after, back_at = excluded.back_at;
  END LOOP;
END $$;
COMMENT ON FUNCTION outbox.remove_contents(text[], float8[], float8, int) IS
  'Relays: removes the content (payload, subject, bodies, raw message, headers, attachments) of messages all of whose deliveries have ended, so many seconds after the last of them: p_keeps_s by kind, p_default_s for the others; NULL: never, 0: as soon as a server has accepted them all (30 days after the end of what was not accepted). A small batch; answers how many, and whether there may be more. One session at a time does it; nobody waits for it.';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  ('outbox_relay', 'EXECUTE', '{remove_contents}'::text[]),
  ('outbox_relay outbox_operator outbox_viewer', 'SELECT', '{upkeep_postponed}');
SELECT outbox.grant_roles();
