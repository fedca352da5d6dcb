-- breaking: no
-- A look that begins where an earlier one has arrived: while a transaction holds an old snapshot, what is before that is dead rows,
-- and each look from the start of a lane reads them all.
SET LOCAL lock_timeout = '5s';

-- As the one of 0020 (which relays of before go on calling), but each lane from a time on; and how far each lane was read: up to
-- its first delivery that may be claimed, or to the present.
CREATE FUNCTION outbox.look_onward(p_lanes smallint[], p_from timestamptz[], p_waiting boolean, p_mark boolean)
RETURNS TABLE (due smallint[], next_in_s float8, oldest bigint, mark bigint, waiting bigint, reached timestamptz[])
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off SET row_security = off SET standard_conforming_strings = on AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT
    array_agg(l.lane) FILTER (WHERE d.due_at IS NOT NULL) AS due, date_part('epoch', min(n.due_at) - now()) AS next_in_s,
    pg_snapshot_xmin(pg_current_snapshot())::text::int8 AS oldest, CASE WHEN $4 THEN pg_current_xact_id()::text::int8 END AS mark,
    CASE WHEN $3 THEN (SELECT count(*) FROM pg_locks k
                       WHERE k.locktype = 'object' AND k.database = 0 AND k.classid = 1262 AND k.objid = 0 AND NOT k.granted) ELSE 0 END AS waiting,
    array_agg(coalesce(d.due_at, now())) AS reached
  FROM unnest($1::int2[], $2::timestamptz[]) AS l (lane, from_at)
  LEFT JOIN LATERAL (
    SELECT c.due_at FROM outbox.queue c
    WHERE c.lane = l.lane AND c.due_at >= l.from_at AND c.due_at <= now() AND c.intent IS NULL AND c.parked IS NULL
      AND (c.lease IS NULL OR c.lease_until IS NULL OR c.lease_until < now() OR c.lease_until > now() + interval '1 day')
    ORDER BY c.due_at, c.message_id, c.recipient_no LIMIT 1) d ON true
  LEFT JOIN LATERAL (
    SELECT c.due_at FROM outbox.queue c
    WHERE c.lane = l.lane AND c.due_at > now() AND c.due_at < 'infinity' AND d.due_at IS NULL
    ORDER BY c.due_at, c.message_id, c.recipient_no LIMIT 1) n ON true;
END $$;
COMMENT ON FUNCTION outbox.look_onward(smallint[], timestamptz[], boolean, boolean) IS 'Relays: in which of these lanes a claim would find something that is due from these times on, when the next delivery is due, and how far each lane was read. Planned once, as the hot statements are.';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES ('outbox_relay', 'EXECUTE', '{look_onward}'::text[]);
SELECT outbox.grant_roles();
