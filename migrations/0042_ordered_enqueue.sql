-- breaking: no
-- Enqueueing with an ordering key: its largest statement was planned anew at every call, which was three quarters of the time.
-- In a function of its own it keeps a plan; the usual single notification to one recipient needs none of its joins.
SET LOCAL lock_timeout = '5s';

CREATE FUNCTION outbox.queue_ordered(batch outbox.notification[], at timestamptz) RETURNS void
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
  v_note outbox.notification;
  v_key text;
  v_lane smallint;
  v_first boolean;
BEGIN
  IF cardinality(batch) = 1 AND cardinality(batch[1].recipients || batch[1].cc || batch[1].bcc) = 1 THEN
    v_note := batch[1];
    v_key := outbox.order_key(v_note.tenant, v_note.ordering_key);
    -- As below.
    INSERT INTO outbox.ordering AS o (order_key) VALUES (v_key) ON CONFLICT (order_key) DO UPDATE SET last_used = now();
    SELECT outbox.lane(g.group_no, v_note.priority, k.priority) INTO v_lane
    FROM (VALUES (v_note.kind)) x (kind)
    LEFT JOIN outbox.kind k ON k.name = x.kind
    LEFT JOIN outbox.route g ON g.name = coalesce(v_note.route, k.route);
    v_first := NOT EXISTS (SELECT FROM outbox.queue q WHERE q.order_key = v_key);
    INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, parked, address_hash, order_key, order_no, tenant_no)
    VALUES (v_note.id, 1, v_lane, CASE WHEN v_first THEN greatest(at, v_note.not_before) ELSE 'infinity' END, CASE WHEN v_first THEN NULL ELSE 'ordered' END,
            outbox.address_hash_of(v_note.recipients || v_note.cc || v_note.bcc), v_key, nextval('outbox.order_no'), hashtext(v_note.tenant) & 2147483647);
    RETURN;
  END IF;
  -- Producers of one key queue up here until the first has committed: that makes the order commit-consistent. Sorted,
  -- so that two statements with several keys cannot deadlock.
  INSERT INTO outbox.ordering AS o (order_key)
  SELECT DISTINCT outbox.order_key(f.tenant, f.ordering_key) FROM unnest(batch) f WHERE f.id IS NOT NULL AND f.ordering_key IS NOT NULL ORDER BY 1
  ON CONFLICT (order_key) DO UPDATE SET last_used = now();
  -- A new statement, so a new snapshot: it sees what the transaction before us has committed.
  INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, parked, address_hash, order_key, order_no, tenant_no)
  SELECT n.id, n.recipient_no, n.lane, CASE WHEN n.first THEN n.due_at ELSE 'infinity' END,
         CASE WHEN n.first THEN NULL ELSE 'ordered' END, n.address_hash, n.order_key, nextval('outbox.order_no'), n.tenant_no
  FROM (
    SELECT f.id, r.recipient_no, outbox.lane(g.group_no, f.priority, kind.priority) AS lane, greatest(at, f.not_before) AS due_at,
           r.address_hash, k.order_key, hashtext(f.tenant) & 2147483647 AS tenant_no,
           row_number() OVER (PARTITION BY k.order_key ORDER BY f.id, r.recipient_no) = 1
             AND NOT EXISTS (SELECT FROM outbox.queue q WHERE q.order_key = k.order_key) AS first
    FROM unnest(batch) f
    LEFT JOIN outbox.kind kind ON kind.name = f.kind
    LEFT JOIN outbox.route g ON g.name = coalesce(f.route, kind.route)
    CROSS JOIN LATERAL outbox.recipients_of(f.recipients, f.cc, f.bcc) r
    CROSS JOIN LATERAL (SELECT outbox.order_key(f.tenant, f.ordering_key) AS order_key) k
    WHERE f.id IS NOT NULL AND f.ordering_key IS NOT NULL
    ORDER BY f.id, r.recipient_no
  ) n;
END $$;
COMMENT ON FUNCTION outbox.queue_ordered(outbox.notification[], timestamptz) IS 'Private to queue_deliveries(): queues what has an ordering key, each behind those of its key that were enqueued before.';

DO $migration$
DECLARE
  source text := pg_get_functiondef('outbox.queue_deliveries'::regproc);
  first int := strpos(source, '    -- Producers of one key queue up here');
  rest int := strpos(source, E'  END IF;\n  PERFORM outbox.wake_relays();\nEND');
BEGIN
  IF first = 0 OR rest < first THEN
    RAISE EXCEPTION 'outbox.queue_deliveries is not as it was';
  END IF;
  EXECUTE left(source, first - 1) || E'    PERFORM outbox.queue_ordered(batch, at);\n' || substr(source, rest);
END $migration$;

SELECT outbox.grant_roles();
