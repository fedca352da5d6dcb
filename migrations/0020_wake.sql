-- breaking: no
-- Waking a relay that sleeps: NOTIFY in a producer's transaction, but only while some relay has asked for it.
SET LOCAL lock_timeout = '5s';

CREATE TABLE outbox.sleeper (
  incarnation uuid PRIMARY KEY,
  until timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE outbox.sleeper IS 'Relays with little to do, which want to be woken by a NOTIFY when something is enqueued. While nobody is in here (a busy relay is not) a producer pays for one look at this table and never for a NOTIFY, which would serialise commits.';
COMMENT ON COLUMN outbox.sleeper.until IS 'By the clock of the database; the relay moves it on while it sleeps. A relay that died is forgotten then.';

-- NOTIFY makes commits wait for each other, so it is sent for sleepers only. The payload is constant: many in one transaction
-- are one. It is never worth an error: a queue of notifications that somebody's forgotten listener has let grow would
-- refuse the commit when it is full.
CREATE FUNCTION outbox.wake_relays() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- Absurdly far ahead, because the clock went back, is nobody.
  IF EXISTS (SELECT FROM outbox.sleeper s WHERE s.until > now() AND s.until < now() + interval '1 hour') THEN
    IF pg_notification_queue_usage() < 0.5 THEN
      PERFORM pg_notify('hapax', '');
    END IF;
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION outbox.wake_relays() IS 'Trigger of outbox.message: NOTIFY hapax, if a relay sleeps (outbox.sleeper). A hint only: what is enqueued is found by polling, too.';

CREATE TRIGGER message_wakes_relays AFTER INSERT ON outbox.message FOR EACH STATEMENT EXECUTE FUNCTION outbox.wake_relays();
COMMENT ON TRIGGER message_wakes_relays ON outbox.message IS 'Wakes relays that sleep; costs one look at an empty table while none does.';

CREATE FUNCTION outbox.look(p_lanes smallint[], p_waiting boolean, p_mark boolean)
RETURNS TABLE (due smallint[], next_in_s float8, oldest bigint, mark bigint, waiting bigint)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT
    array_agg(l.lane) FILTER (WHERE d.due) AS due, date_part('epoch', min(n.due_at) - now()) AS next_in_s,
    pg_snapshot_xmin(pg_current_snapshot())::text::int8 AS oldest, CASE WHEN $3 THEN pg_current_xact_id()::text::int8 END AS mark,
    CASE WHEN $2 THEN (SELECT count(*) FROM pg_locks k
                       WHERE k.locktype = 'object' AND k.database = 0 AND k.classid = 1262 AND k.objid = 0 AND NOT k.granted) ELSE 0 END AS waiting
  FROM unnest($1::int2[]) AS l (lane)
  LEFT JOIN LATERAL (
    SELECT true AS due FROM outbox.queue c
    WHERE c.lane = l.lane AND c.due_at <= now() AND c.intent IS NULL AND c.parked IS NULL
      AND (c.lease IS NULL OR c.lease_until IS NULL OR c.lease_until < now() OR c.lease_until > now() + interval '1 day')
    ORDER BY c.due_at, c.message_id, c.recipient_no LIMIT 1) d ON true
  LEFT JOIN LATERAL (
    SELECT c.due_at FROM outbox.queue c
    WHERE c.lane = l.lane AND c.due_at > now() AND c.due_at < 'infinity' AND d.due IS NULL
    ORDER BY c.due_at, c.message_id, c.recipient_no LIMIT 1) n ON true;
END $$;
COMMENT ON FUNCTION outbox.look(smallint[], boolean, boolean) IS 'Relays: in which of these lanes a claim would find something, and when the next delivery is due. Planned once, as the hot statements are.';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  ('outbox_relay', 'SELECT, INSERT, UPDATE, DELETE', '{sleeper}'),
  ('outbox_relay', 'EXECUTE', '{look}'),
  ('outbox_operator outbox_viewer outbox_monitor', 'SELECT', '{sleeper}');
SELECT outbox.grant_roles();
