SELECT json_build_object(
  'epoch', (SELECT epoch FROM outbox.control),
  'identity', outbox.database_identity(),
  'finished', (SELECT d.message_id FROM outbox.done d WHERE d.message_id > outbox.uuid_floor(now() - interval '90 days') AND d.state = 'sent' ORDER BY d.message_id LIMIT 1),
  'failed', (SELECT d.message_id FROM outbox.done d WHERE d.message_id > outbox.uuid_floor(now() - interval '90 days') AND d.state = 'failed' ORDER BY d.message_id LIMIT 1),
  'failed_token', (SELECT d.token FROM outbox.done d WHERE d.message_id > outbox.uuid_floor(now() - interval '90 days') AND d.state = 'failed' ORDER BY d.message_id LIMIT 1),
  'address', (SELECT m.recipients[1] FROM outbox.message m WHERE m.id > outbox.uuid_floor(now() - interval '90 days') ORDER BY m.id LIMIT 1),
  'pending', (SELECT q.message_id FROM outbox.queue q WHERE q.lane = 1 AND q.parked IS NULL AND q.lease IS NULL AND q.order_key IS NULL ORDER BY q.lane, q.due_at OFFSET 1000 LIMIT 1),
  'ordered', (SELECT q.message_id FROM outbox.queue q WHERE q.order_key = chr(31) || 'busy' ORDER BY q.order_no OFFSET 100 LIMIT 1),
  'held', (SELECT q.message_id FROM outbox.queue q WHERE q.parked = 'held' LIMIT 1),
  'doubt', (SELECT q.message_id FROM outbox.queue q WHERE q.parked = 'doubt' LIMIT 1),
  'doubt_token', (SELECT q.intent FROM outbox.queue q WHERE q.parked = 'doubt' LIMIT 1),
  'dedup_key', (SELECT k.key FROM outbox.dedup_key k WHERE k.tenant = '' LIMIT 1),
  'lanes', (SELECT array_agg(l)::text FROM outbox.lanes() l),
  'second_week', (SELECT (date_trunc('week', now() AT TIME ZONE 'UTC') - interval '25 weeks')::date),
  'ids', (SELECT array_agg(d.message_id)::text FROM (SELECT q.message_id FROM outbox.queue q WHERE q.lane = 1 ORDER BY q.lane, q.due_at LIMIT 128) d),
  'week_rows', (SELECT count(*) FROM outbox.done d WHERE d.message_id >= outbox.uuid_floor(date_trunc('week', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '26 weeks')
                  AND d.message_id < outbox.uuid_floor(date_trunc('week', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '25 weeks')),
  'queue_pages', pg_relation_size('outbox.queue') / 8192,
  'done_pages', pg_relation_size('outbox.done') / 8192,
  'relay', md5('relay 1')::uuid,
  'first1', '''-infinity''::timestamptz',
  'first2', '''00000000-0000-0000-0000-000000000000''::uuid',
  'first3', '0::int2',
  'claim', 'gen_random_uuid(); 60; 128; ARRAY[128]::int8[]',
  -- What a relay has in hand: one row, with arrays.
  'hand', $$CREATE TEMP TABLE hand ON COMMIT DROP AS SELECT array_agg(c.message_id) AS ids, array_agg(c.recipient_no) AS nos, array_agg(l.lease) AS leases, array_agg(gen_random_uuid()) AS tokens
    FROM (SELECT gen_random_uuid() AS lease) l CROSS JOIN LATERAL outbox.claim_batch('{epoch}', '{identity}', l.lease, 60, 128, ARRAY[128], ARRAY[1::int2], ARRAY[128], ARRAY[1],
                       ARRAY[{first1}], ARRAY[{first2}], ARRAY[{first3}]) c$$,
  'heads', $$CREATE TEMP TABLE hand ON COMMIT DROP AS WITH u AS (UPDATE outbox.queue q SET lease = gen_random_uuid(), lease_until = now() + interval '1 minute', claims = 1
      WHERE (q.message_id, q.recipient_no) IN (SELECT h.message_id, h.recipient_no FROM outbox.queue h WHERE h.order_key LIKE chr(31) || 'key %' AND h.parked IS NULL AND h.lease IS NULL LIMIT 64) RETURNING q.*)
    SELECT array_agg(u.message_id) AS ids, array_agg(u.recipient_no) AS nos, array_agg(u.lease) AS leases, array_agg(gen_random_uuid()) AS tokens FROM u$$,
  'busy', $$CREATE TEMP TABLE hand ON COMMIT DROP AS WITH u AS (UPDATE outbox.queue q SET lease = gen_random_uuid(), lease_until = now() + interval '1 minute', claims = 1
      WHERE q.order_key = chr(31) || 'busy' AND q.parked IS NULL RETURNING q.*)
    SELECT array_agg(u.message_id) AS ids, array_agg(u.recipient_no) AS nos, array_agg(u.lease) AS leases, array_agg(gen_random_uuid()) AS tokens FROM u$$,
  'end', ' x',
  'intend', $$x.* FROM (SELECT h.*, cardinality(h.ids) AS n FROM hand h) b CROSS JOIN LATERAL outbox.intend_batch('{epoch}', '{identity}', b.ids, b.nos, b.leases, b.tokens,
      array_fill('x'::bytea, ARRAY[b.n]), array_fill('default'::text, ARRAY[b.n]), '{relay}', '2s', array_fill(NULL::int8, ARRAY[b.n]), array_fill(NULL::float8, ARRAY[b.n]), 0,$$,
  'settle', $$x.* FROM (SELECT h.*, cardinality(h.ids) AS n FROM hand h) b CROSS JOIN LATERAL outbox.settle_batch('{epoch}', '{identity}', b.ids, b.nos, b.leases, b.tokens,
      array_fill(true, ARRAY[b.n]), array_fill('sent'::text, ARRAY[b.n]), array_fill(0::float8, ARRAY[b.n]), array_fill(true, ARRAY[b.n]), array_fill(NULL::text, ARRAY[b.n]),
      array_fill('accepted'::text, ARRAY[b.n]), array_fill('end_marker'::text, ARRAY[b.n]), array_fill(NULL::text, ARRAY[b.n]), array_fill(250::int2, ARRAY[b.n]), array_fill('2.0.0'::text, ARRAY[b.n]),
      array_fill('Ok: queued as 4711'::text, ARRAY[b.n]), array_fill(NULL::text, ARRAY[b.n]), array_fill('default'::text, ARRAY[b.n]), array_fill('mx.example.org'::text, ARRAY[b.n]),
      array_fill(0.01::float8, ARRAY[b.n]), array_fill(2000, ARRAY[b.n]), '{relay}',$$,
  'retry', $$x.* FROM (SELECT h.*, cardinality(h.ids) AS n FROM hand h) b CROSS JOIN LATERAL outbox.settle_batch('{epoch}', '{identity}', b.ids, b.nos, b.leases, b.tokens,
      array_fill(true, ARRAY[b.n]), array_fill('retry'::text, ARRAY[b.n]), array_fill(60::float8, ARRAY[b.n]), array_fill(true, ARRAY[b.n]), array_fill(NULL::text, ARRAY[b.n]),
      array_fill('deferred'::text, ARRAY[b.n]), array_fill('end_marker'::text, ARRAY[b.n]), array_fill(NULL::text, ARRAY[b.n]), array_fill(450::int2, ARRAY[b.n]), array_fill('4.2.1'::text, ARRAY[b.n]),
      array_fill('later'::text, ARRAY[b.n]), array_fill(NULL::text, ARRAY[b.n]), array_fill('default'::text, ARRAY[b.n]), array_fill('mx.example.org'::text, ARRAY[b.n]),
      array_fill(0.01::float8, ARRAY[b.n]), array_fill(2000, ARRAY[b.n]), '{relay}',$$)
