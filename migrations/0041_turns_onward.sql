-- breaking: no
-- Turns that go on: a tenant whose mail is all on the wire takes no place, mail without a tenant is found behind any backlog, and
-- more tenants than one claim can look at do not hide those whose time has come.
SET LOCAL lock_timeout = '5s';

CREATE FUNCTION outbox.claim_turns(p_epoch uuid, p_identity text, p_lease uuid, p_lease_s float8, p_lane smallint, p_take bigint, p_after int,
                                   p_seen_due timestamptz, p_seen_id uuid, p_seen_no smallint)
RETURNS TABLE (lane smallint, message_id uuid, recipient_no smallint, due_at timestamptz, claims smallint, attempt_no smallint, intents smallint, open_doubts smallint,
               pinned_route text, due_for_s float8, bound boolean, upstream bigint, first_intent_age_s float8, turn int,
               seen_due timestamptz, seen_id uuid, seen_no smallint, seen_all boolean)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  v_tenants int[] := '{}';
  v_tenant int;
  v_at int := p_after;
  v_due boolean;
  v_round boolean := false;
  v_whole boolean := false;
  v_turn int := p_after;
  v_rows tid[] := '{}';
  v_more tid[];
  v_left bigint := p_take;
  v_share bigint;
  v_full int[];
  v_count bigint;
  v_end record;
  v_last record;
BEGIN
  -- A lost claim is harmless: its lease expires.
  PERFORM set_config('synchronous_commit', 'off', true);
  PERFORM outbox.assert_armed(p_epoch, p_identity);
  -- Whoever comes after the one that was served last, once round; no more than can have one each. Whose first is on the wire
  -- or leased has a turn only when another one of its waits, too.
  FOR step IN 1 .. 1000 LOOP
    EXIT WHEN cardinality(v_tenants) >= p_take;
    SELECT c.tenant_no, c.due_at <= now() AND (
        c.intent IS NULL AND c.parked IS NULL AND (c.lease IS NULL OR c.lease_until IS NULL OR c.lease_until < now() OR c.lease_until > now() + interval '1 day')
        OR EXISTS (
          SELECT FROM outbox.queue x WHERE x.lane = p_lane AND x.tenant_no = c.tenant_no AND x.due_at <= now() AND x.intent IS NULL AND x.parked IS NULL
            AND (x.lease IS NULL OR x.lease_until IS NULL OR x.lease_until < now() OR x.lease_until > now() + interval '1 day')))
      INTO v_tenant, v_due FROM outbox.queue c
    WHERE c.lane = p_lane AND c.tenant_no > v_at ORDER BY c.tenant_no, c.due_at, c.message_id, c.recipient_no LIMIT 1;
    IF NOT FOUND THEN
      v_whole := v_round OR p_after < 0;
      EXIT WHEN v_whole;
      v_round := true;
      v_at := -1;
      CONTINUE;
    END IF;
    v_whole := v_round AND v_tenant > p_after;
    EXIT WHEN v_whole;
    v_at := v_tenant;
    IF v_due THEN v_tenants := v_tenants || v_tenant; END IF;
  END LOOP;
  seen_due := p_seen_due;
  seen_id := p_seen_id;
  seen_no := p_seen_no;
  seen_all := false;
  IF cardinality(v_tenants) = 0 AND NOT v_whole THEN
    -- A thousand tenants in a row wait for their time: the next claim goes on behind them. Meanwhile the first of the lane.
    v_turn := v_at;
    v_rows := ARRAY(
      SELECT c.ctid FROM outbox.queue c
      WHERE c.lane = p_lane AND c.due_at <= now() AND c.intent IS NULL AND c.parked IS NULL
        AND (c.lease IS NULL OR c.lease_until IS NULL OR c.lease_until < now() OR c.lease_until > now() + interval '1 day')
      ORDER BY c.due_at, c.message_id, c.recipient_no
      LIMIT v_left FOR UPDATE OF c SKIP LOCKED);
    v_left := 0;
  -- Those without a tenant have a turn in every claim; of a single place they have every other one. The next thousand of the lane
  -- are looked at for them, from where the last look ended.
  ELSIF v_left > 1 OR cardinality(v_tenants) = 0 OR random() < 0.5 THEN
    SELECT count(*) OVER () AS count, e.due_at, e.message_id, e.recipient_no INTO v_end FROM (
      SELECT b.due_at, b.message_id, b.recipient_no FROM outbox.queue b
      WHERE b.lane = p_lane AND (b.due_at, b.message_id, b.recipient_no) > (p_seen_due, p_seen_id, p_seen_no) AND b.due_at <= now()
      ORDER BY b.due_at, b.message_id, b.recipient_no LIMIT 1000) e
    ORDER BY e.due_at DESC, e.message_id DESC, e.recipient_no DESC LIMIT 1;
    seen_all := v_end.count IS NULL OR v_end.count < 1000;
    v_count := greatest(v_left / (cardinality(v_tenants) + 1), 1);
    IF v_end.count IS NOT NULL THEN
      v_rows := ARRAY(
        SELECT c.ctid FROM outbox.queue c
        WHERE c.lane = p_lane AND c.tenant_no IS NULL
          AND (c.due_at, c.message_id, c.recipient_no) > (p_seen_due, p_seen_id, p_seen_no)
          AND (c.due_at, c.message_id, c.recipient_no) <= (v_end.due_at, v_end.message_id, v_end.recipient_no)
          AND c.intent IS NULL AND c.parked IS NULL
          AND (c.lease IS NULL OR c.lease_until IS NULL OR c.lease_until < now() OR c.lease_until > now() + interval '1 day')
        ORDER BY c.due_at, c.message_id, c.recipient_no
        LIMIT v_count FOR UPDATE OF c SKIP LOCKED);
      IF cardinality(v_rows) >= v_count THEN
        SELECT l.due_at, l.message_id, l.recipient_no INTO v_last FROM outbox.queue l WHERE l.ctid = v_rows[cardinality(v_rows)];
        seen_due := coalesce(v_last.due_at, p_seen_due);
        seen_id := coalesce(v_last.message_id, p_seen_id);
        seen_no := coalesce(v_last.recipient_no, p_seen_no);
        seen_all := false;
      ELSE
        seen_due := v_end.due_at;
        seen_id := v_end.message_id;
        seen_no := v_end.recipient_no;
      END IF;
    END IF;
    v_left := v_left - cardinality(v_rows);
  END IF;
  -- What some do not need is for the others.
  FOR pass IN 1 .. 3 LOOP
    EXIT WHEN v_left <= 0 OR cardinality(v_tenants) = 0;
    v_share := greatest(v_left / cardinality(v_tenants), 1);
    v_full := '{}';
    FOREACH v_tenant IN ARRAY v_tenants LOOP
      EXIT WHEN v_left <= 0;
      -- Who had no place this time comes first next time.
      IF pass = 1 THEN v_turn := v_tenant; END IF;
      v_more := ARRAY(
        SELECT c.ctid FROM outbox.queue c
        WHERE c.lane = p_lane AND c.tenant_no = v_tenant AND c.due_at <= now() AND c.ctid <> ALL (v_rows)
          AND c.intent IS NULL AND c.parked IS NULL
          AND (c.lease IS NULL OR c.lease_until IS NULL OR c.lease_until < now() OR c.lease_until > now() + interval '1 day')
        ORDER BY c.due_at, c.message_id, c.recipient_no
        LIMIT least(v_share, v_left) FOR UPDATE OF c SKIP LOCKED);
      v_rows := v_rows || v_more;
      v_left := v_left - cardinality(v_more);
      IF cardinality(v_more) >= v_share THEN v_full := v_full || v_tenant; END IF;
    END LOOP;
    v_tenants := v_full;
  END LOOP;
  RETURN QUERY
    UPDATE outbox.queue q
    SET lease = p_lease, lease_until = now() + p_lease_s * interval '1 second', claims = least(q.claims, 32766) + 1
    WHERE q.ctid = ANY (v_rows)
    RETURNING q.lane, q.message_id, q.recipient_no, q.due_at, q.claims, q.attempt_no, q.intents, q.open_doubts, q.pinned_route,
      date_part('epoch', now() - q.due_at),
      outbox.is_bound(q.same_key_of, q.prev_intent, q.open_doubts), q.upstream, date_part('epoch', now() - q.first_intent_at), v_turn,
      seen_due, seen_id, seen_no, seen_all;
  IF NOT FOUND THEN
    -- Nothing was taken: only how far this claim has looked.
    turn := v_turn;
    RETURN NEXT;
  END IF;
END $$;
COMMENT ON FUNCTION outbox.claim_turns(uuid, text, uuid, float8, smallint, bigint, int, timestamptz, uuid, smallint) IS
  'Relays: as claim_batch(), of one lane in which several tenants wait: as many of each, those first that come after p_after (the turn that the last call answered, -1 at first), and in due order within a tenant. Deliveries without a tenant have a turn in every claim that finds any among the thousand due after p_seen_*, where the last call had looked (seen_*; seen_all: there was no more). When nothing is taken one row tells these alone, with message_id NULL.';

-- For relays of the release before, which look for those without a tenant among the first thousand only.
CREATE OR REPLACE FUNCTION outbox.claim_turns(p_epoch uuid, p_identity text, p_lease uuid, p_lease_s float8, p_lane smallint, p_take bigint, p_after int)
RETURNS TABLE (lane smallint, message_id uuid, recipient_no smallint, due_at timestamptz, claims smallint, attempt_no smallint, intents smallint, open_doubts smallint,
               pinned_route text, due_for_s float8, bound boolean, upstream bigint, first_intent_age_s float8, turn int)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN QUERY SELECT t.lane, t.message_id, t.recipient_no, t.due_at, t.claims, t.attempt_no, t.intents, t.open_doubts, t.pinned_route, t.due_for_s, t.bound, t.upstream,
      t.first_intent_age_s, t.turn
    FROM outbox.claim_turns(p_epoch, p_identity, p_lease, p_lease_s, p_lane, p_take, p_after, '-infinity', '00000000-0000-0000-0000-000000000000', 0::smallint) t
    WHERE t.message_id IS NOT NULL;
END $$;

-- One tenant with more than a thousand due may have mail without a tenant behind it: turns find out.
CREATE OR REPLACE FUNCTION outbox.lanes_by_turns(p_lanes smallint[]) RETURNS smallint[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
DECLARE
  v_lane smallint;
  v_at int;
  v_due boolean;
  v_waiting int;
  v_lanes smallint[] := '{}';
BEGIN
  FOREACH v_lane IN ARRAY p_lanes LOOP
    v_at := -1;
    v_waiting := 0;
    -- From tenant to tenant, over those whose time has not come.
    FOR step IN 1 .. 200 LOOP
      SELECT c.tenant_no, c.due_at <= now() INTO v_at, v_due FROM outbox.queue c
      WHERE c.lane = v_lane AND c.tenant_no > v_at ORDER BY c.tenant_no, c.due_at, c.message_id, c.recipient_no LIMIT 1;
      EXIT WHEN NOT FOUND;
      v_waiting := v_waiting + v_due::int;
      EXIT WHEN v_waiting > 1;
    END LOOP;
    -- More tenants than steps: there are turns to take, if only one day.
    IF v_waiting > 1 OR v_at IS NOT NULL OR v_waiting = 1 AND (
      SELECT count(*) >= 1000 OR bool_or(f.tenant_no IS NULL)
      FROM (SELECT c.tenant_no FROM outbox.queue c WHERE c.lane = v_lane AND c.due_at <= now() AND c.intent IS NULL AND c.parked IS NULL
            ORDER BY c.due_at, c.message_id, c.recipient_no LIMIT 1000) f) THEN
      v_lanes := v_lanes || v_lane;
    END IF;
  END LOOP;
  RETURN v_lanes;
END $$;

SELECT outbox.grant_roles();
