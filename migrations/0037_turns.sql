-- breaking: no
-- Fair turns: no tenant with a backlog starves another of the same lane. Who has no tenants pays nothing: no row gets wider, no
-- index has more in it, and the claim is the one it was.
SET LOCAL lock_timeout = '5s';

ALTER TABLE outbox.queue ADD COLUMN tenant_no int;
COMMENT ON COLUMN outbox.queue.tenant_no IS 'Whose turn it is sent in: a hash of the tenant, so that enqueueing looks nothing up (two that share one share their turns). NULL: no tenant, or queued before there was this column.';
CREATE INDEX queue_turns ON outbox.queue (lane, tenant_no, due_at, message_id, recipient_no) WITH (fillfactor = 90) WHERE tenant_no IS NOT NULL;
COMMENT ON INDEX outbox.queue_turns IS 'What outbox.claim_turns() walks, tenant by tenant. Deliveries without a tenant are not in it.';

-- Who fills the queue gives the number, too. hashtext() is strict: without a tenant it is not called.
DO $migration$
DECLARE
  door record;
  source text;
  changed text;
  places bigint;
  numbers bigint;
BEGIN
  FOR door IN SELECT p.oid, p.proname FROM pg_proc p
    WHERE p.pronamespace = 'outbox'::regnamespace AND p.proname IN ('put', 'enqueue', 'queue_deliveries', 'reopen') AND p.prosrc LIKE '%INSERT INTO outbox.queue (%'
  LOOP
    source := pg_get_functiondef(door.oid);
    changed := regexp_replace(source, '(INSERT INTO outbox\.queue \([^)]*)\)', '\1, tenant_no)', 'g');
    changed := CASE door.proname
      WHEN 'reopen' THEN replace(changed, 'd.content_sha256, d.address_hash)', 'd.content_sha256, d.address_hash,
          (SELECT hashtext(m.tenant) & 2147483647 FROM outbox.message m WHERE m.id = d.message_id))')
      WHEN 'queue_deliveries' THEN replace(replace(replace(replace(changed,
          E'outbox.address_hash_of(f.recipients)\n    FROM', E'outbox.address_hash_of(f.recipients), hashtext(f.tenant) & 2147483647\n    FROM'),
          E'r.address_hash\n  FROM', E'r.address_hash, hashtext(f.tenant) & 2147483647\n  FROM'),
          'nextval(''outbox.order_no'')', 'nextval(''outbox.order_no''), n.tenant_no'),
          'r.address_hash, k.order_key,', 'r.address_hash, k.order_key, hashtext(f.tenant) & 2147483647 AS tenant_no,')
      ELSE regexp_replace(changed, '(outbox\.address_hash_of\((n\.)?recipients\))(\s+FROM m )', '\1, hashtext(\2tenant) & 2147483647\3', 'g') END;
    -- As many numbers as there are places for them.
    SELECT count(*) INTO places FROM regexp_matches(changed, 'INSERT INTO outbox\.queue \([^)]*, tenant_no\)', 'g');
    SELECT count(*) INTO numbers FROM regexp_matches(changed, 'hashtext\(', 'g');
    IF places <> numbers OR places = 0 THEN
      RAISE EXCEPTION 'outbox.% is not as it was', door.proname;
    END IF;
    EXECUTE changed;
  END LOOP;
END $migration$;

CREATE FUNCTION outbox.lanes_by_turns(p_lanes smallint[]) RETURNS smallint[]
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
    IF v_waiting > 1 OR v_at IS NOT NULL OR v_waiting = 1 AND EXISTS (
      SELECT FROM (SELECT c.tenant_no FROM outbox.queue c WHERE c.lane = v_lane AND c.due_at <= now() AND c.intent IS NULL AND c.parked IS NULL
                   ORDER BY c.due_at, c.message_id, c.recipient_no LIMIT 1000) f WHERE f.tenant_no IS NULL) THEN
      v_lanes := v_lanes || v_lane;
    END IF;
  END LOOP;
  RETURN v_lanes;
END $$;
COMMENT ON FUNCTION outbox.lanes_by_turns(smallint[]) IS 'Relays: in which of these lanes several tenants wait, those without one being one more. A hint, once a second: both ways of claiming hand out the same deliveries, in another order.';

CREATE FUNCTION outbox.claim_turns(p_epoch uuid, p_identity text, p_lease uuid, p_lease_s float8, p_lane smallint, p_take bigint, p_after int)
RETURNS TABLE (lane smallint, message_id uuid, recipient_no smallint, due_at timestamptz, claims smallint, attempt_no smallint, intents smallint, open_doubts smallint,
               pinned_route text, due_for_s float8, bound boolean, upstream bigint, first_intent_age_s float8, turn int)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
  v_tenants int[] := '{}';
  v_tenant int;
  v_at int := p_after;
  v_due boolean;
  v_round boolean := false;
  v_turn int := p_after;
  v_rows tid[] := '{}';
  v_more tid[];
  v_left bigint := p_take;
  v_share bigint;
  v_full int[];
BEGIN
  -- A lost claim is harmless: its lease expires.
  PERFORM set_config('synchronous_commit', 'off', true);
  PERFORM outbox.assert_armed(p_epoch, p_identity);
  -- Whoever comes after the one that was served last, once round; no more than can have one each.
  FOR step IN 1 .. 1000 LOOP
    EXIT WHEN cardinality(v_tenants) >= p_take;
    SELECT c.tenant_no, c.due_at <= now() INTO v_tenant, v_due FROM outbox.queue c
    WHERE c.lane = p_lane AND c.tenant_no > v_at ORDER BY c.tenant_no, c.due_at, c.message_id, c.recipient_no LIMIT 1;
    IF NOT FOUND THEN
      EXIT WHEN v_round;
      v_round := true;
      v_at := -1;
      CONTINUE;
    END IF;
    EXIT WHEN v_round AND v_tenant > p_after;
    v_at := v_tenant;
    IF v_due THEN v_tenants := v_tenants || v_tenant; END IF;
  END LOOP;
  -- Those without a tenant have a turn in every claim. Only the first thousand of the lane are looked at for them.
  -- Of a single place they have every other one.
  IF v_left > 1 OR cardinality(v_tenants) = 0 OR random() < 0.5 THEN
    v_rows := ARRAY(
      SELECT c.ctid FROM outbox.queue c
      WHERE c.lane = p_lane AND c.due_at <= now() AND c.tenant_no IS NULL
        AND (c.due_at, c.message_id, c.recipient_no) <= (
          SELECT e.due_at, e.message_id, e.recipient_no FROM (
            SELECT b.due_at, b.message_id, b.recipient_no FROM outbox.queue b WHERE b.lane = p_lane ORDER BY b.due_at, b.message_id, b.recipient_no LIMIT 1000) e
          ORDER BY e.due_at DESC, e.message_id DESC, e.recipient_no DESC LIMIT 1)
        AND c.intent IS NULL AND c.parked IS NULL
        AND (c.lease IS NULL OR c.lease_until IS NULL OR c.lease_until < now() OR c.lease_until > now() + interval '1 day')
      ORDER BY c.due_at, c.message_id, c.recipient_no
      LIMIT greatest(v_left / (cardinality(v_tenants) + 1), 1) FOR UPDATE OF c SKIP LOCKED);
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
      outbox.is_bound(q.same_key_of, q.prev_intent, q.open_doubts), q.upstream, date_part('epoch', now() - q.first_intent_at), v_turn;
END $$;
COMMENT ON FUNCTION outbox.claim_turns(uuid, text, uuid, float8, smallint, bigint, int) IS
  'Relays: as claim_batch(), of one lane in which several tenants wait: as many of each, those first that come after p_after (the turn that the last call answered, -1 at first), and in due order within a tenant. Deliveries without a tenant have a turn in every claim, while they are among the first thousand of the lane.';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES ('outbox_relay', 'EXECUTE', '{lanes_by_turns,claim_turns}'::text[]);
SELECT outbox.grant_roles();
