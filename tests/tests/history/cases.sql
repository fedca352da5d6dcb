-- ## name | at most so many buffers, so many partitions of messages or attempts, and large tables that it may read from end
-- to end. A/B is whichever is less.
-- What stands before => is executed first and not counted. @name is a file of crates/store/queries, followed by its
-- arguments, between semicolons. Words in braces come from facts.sql.

-- The relay: what it claims.

## look, all lanes | 200 0
@look '{lanes}'::int2[]; array_fill('epoch'::timestamptz, ARRAY[cardinality('{lanes}'::int2[])]); true; false

## look, a lane that is empty | 40 0
@look '{400,401,402}'::int2[]; '{epoch,epoch,epoch}'::timestamptz[]; true; false

## claim, normal | 1000 0
@claim '{epoch}'; '{identity}'; {claim}; ARRAY[1]::int2[]; ARRAY[128]::int8[]; ARRAY[1]; ARRAY[{first1}]; ARRAY[{first2}]; ARRAY[{first3}]

## claim, urgent | 1000 0
@claim '{epoch}'; '{identity}'; {claim}; ARRAY[0]::int2[]; ARRAY[128]::int8[]; ARRAY[1]; ARRAY[{first1}]; ARRAY[{first2}]; ARRAY[{first3}]

## claim, bulk | 1000 0
@claim '{epoch}'; '{identity}'; {claim}; ARRAY[2]::int2[]; ARRAY[128]::int8[]; ARRAY[1]; ARRAY[{first1}]; ARRAY[{first2}]; ARRAY[{first3}]

## claim, all lanes at once | 1000 0
@claim '{epoch}'; '{identity}'; gen_random_uuid(); 60; 128; ARRAY[128]::int8[]; '{lanes}'::int2[]; array_fill(16::int8, ARRAY[cardinality('{lanes}'::int2[])]); array_fill(1, ARRAY[cardinality('{lanes}'::int2[])]); array_fill({first1}, ARRAY[cardinality('{lanes}'::int2[])]); array_fill({first2}, ARRAY[cardinality('{lanes}'::int2[])]); array_fill({first3}, ARRAY[cardinality('{lanes}'::int2[])])

## claim, a route that is paused | 40 0
@claim '{epoch}'; '{identity}'; {claim}; ARRAY[9]::int2[]; ARRAY[128]::int8[]; ARRAY[1]; ARRAY[{first1}]; ARRAY[{first2}]; ARRAY[{first3}]

-- With a look through a thousand rows for what has no tenant, and at what of a tenant is behind its mail on the wire.

## claim by turns of 500 tenants | 9000 0
@claim_turns '{epoch}'; '{identity}'; gen_random_uuid(); 60; 2::int2; 128; -1; '-infinity'; '00000000-0000-0000-0000-000000000000'; 0::int2

## lanes by turns | 100 0
@lanes_by_turns '{lanes}'::int2[]

## letters of 128 | 1200 2
@letters '{ids}'::uuid[]; 65536

## traceparents of 128 | 1200 2
@traceparents '{ids}'::uuid[]

## pauses | 20 0
@pauses

-- The relay: what becomes of what it has in hand.

## stop, 128 of a paused route | 9000 1
{hand}
=>
WITH b AS MATERIALIZED (SELECT * FROM hand)
SELECT s.* FROM b CROSS JOIN LATERAL outbox.stop_batch(b.ids, b.nos, b.leases, b.tokens, array_fill('third'::text, ARRAY[cardinality(b.ids)])) s

## guard, 128 | 2000 1
{hand}
=>
SELECT g.* FROM hand b CROSS JOIN LATERAL outbox.guard_batch(b.ids, b.nos, b.leases) g

## guard, 128 with a window each | 4000 1
{hand}; UPDATE outbox.kind SET guard_window = '10 minutes'
=>
SELECT g.* FROM hand b CROSS JOIN LATERAL outbox.guard_batch(b.ids, b.nos, b.leases) g

## collect, 128 | 3500 1
{hand}
=>
SELECT c.* FROM hand b CROSS JOIN LATERAL outbox.collect_batch(b.ids, b.nos, b.leases) c

## intend, 128, expected | 4000 1
{hand}
=>
SELECT {intend} 'expected'){end}

## intend, 128, skip | 5000 1
{hand}
=>
SELECT {intend} 'skip'){end}

## settle, 128 sent, expected | 7000 1
{hand}; DO $$ BEGIN PERFORM {intend} 'expected'){end}; END $$
=>
SELECT {settle} 'expected', '2s'){end}

## settle, 128 sent, skip | 8000 1
{hand}; DO $$ BEGIN PERFORM {intend} 'expected'){end}; END $$
=>
SELECT {settle} 'skip', '2s'){end}

## settle, 128 that are tried again | 8000 1
{hand}; DO $$ BEGIN PERFORM {intend} 'expected'){end}; END $$
=>
SELECT {retry} 'skip', '2s'){end}

## settle, the heads of 64 ordering keys | 7000 2
{heads}; DO $$ BEGIN PERFORM {intend} 'expected'){end}; END $$
=>
SELECT {settle} 'expected', '2s'){end}

## settle, the head of a long ordering key | 160 1
{busy}; DO $$ BEGIN PERFORM {intend} 'expected'){end}; END $$
=>
SELECT {settle} 'expected', '2s'){end}

## release, 128 | 2500 0
{hand}
=>
WITH b AS MATERIALIZED (SELECT * FROM hand),
hit AS MATERIALIZED (
  SELECT q.message_id, q.recipient_no FROM b CROSS JOIN LATERAL unnest(b.ids, b.nos, b.leases) AS i (message_id, recipient_no, lease)
  JOIN outbox.queue q USING (message_id, recipient_no) WHERE q.lease = i.lease AND q.intent IS NULL FOR UPDATE OF q SKIP LOCKED)
UPDATE outbox.queue q SET lease = NULL, lease_until = NULL FROM hit h WHERE q.message_id = h.message_id AND q.recipient_no = h.recipient_no

## renew, 128 | 2500 0
{hand}
=>
@renew '{epoch}'; '{identity}'; (SELECT ids FROM hand); (SELECT nos FROM hand); (SELECT leases FROM hand); 60

-- The relay: what it looks after.

## doubts, the first page | 1500 2
@doubts '{lanes}'::int2[]; '00000000-0000-0000-0000-000000000000'::uuid; 0::int2; 500

## free ordered | 15000 2
@free_ordered NULL::text

## follow digests | 20 0
@follow_digests '{epoch}'; '{identity}'; false

## follow digests, all | 40 0
@follow_digests '{epoch}'; '{identity}'; true

## adopt orphans | 60000/20*queue_pages 0 queue
@adopt_orphans 2000

## unqueued, a page of 10,000 | 120000 6
@unqueued '00000000-0000-0000-0000-000000000000'::uuid; 10000

## unpark | 60 0
@unpark '{epoch}'; '{identity}'; 1000

## relays | 30 0
@relays

## standing | 30 0
@standing 30

## overview | 120000/10*queue_pages 0
@overview

## canary | 100 1
@canary '{epoch}'; '{identity}'; 'canary@example.org'; 60; NULL; NULL

## maintain | 2000 0 ordering
@maintain NULL::float8

-- Once a minute, and for a minute after a relay has died: the queue, but no history.

## mark in doubt | 2*queue_pages+500 0 queue
@mark_in_doubt '{epoch}'; '{identity}'; '{}'::uuid[]; 3600

## own sending | 2*queue_pages+500 0 queue
@own_sending '{relay}'::uuid

-- Applications.

## enqueue | 300 1
SELECT outbox.enqueue(kind => 'order', recipients => ARRAY['new@example.org'], payload => '{"order": 1}')

## enqueue, with a new dedup key | 300 1
SELECT outbox.enqueue(kind => 'order', recipients => ARRAY['new@example.org'], subject => 'x', body_text => 'x', dedup_key => 'never seen')

## enqueue, with a dedup key that is known | 300 1
DO $$ BEGIN PERFORM outbox.enqueue(kind => 'order', recipients => ARRAY['new@example.org'], subject => 'x', body_text => 'x', dedup_key => 'seen'); END $$
=>
SELECT outbox.enqueue(kind => 'order', recipients => ARRAY['new@example.org'], subject => 'x', body_text => 'x', dedup_key => 'seen')

## enqueue, of a tenant, bulk | 300 1
SELECT outbox.enqueue(kind => 'order', recipients => ARRAY['new@example.org'], subject => 'x', body_text => 'x', tenant => 'tenant-7', priority => 'bulk')

## enqueue, with a new ordering key | 300 1
SELECT outbox.enqueue(kind => 'order', recipients => ARRAY['new@example.org'], subject => 'x', body_text => 'x', ordering_key => 'new')

## enqueue, with a long ordering key | 300 1
SELECT outbox.enqueue(kind => 'order', recipients => ARRAY['new@example.org'], subject => 'x', body_text => 'x', ordering_key => 'busy')

## enqueue_many, 100 | 2500 1
SELECT outbox.enqueue_many((SELECT json_agg(json_build_object('kind', 'order', 'recipients', json_build_array('m' || i || '@example.org'), 'subject', 'x', 'body_text', 'x')) FROM generate_series(1, 100) i))

-- People: one message.

## outbox.status, finished | 60 1
SELECT * FROM outbox.status('{finished}')

## outbox.status, pending | 60 1
SELECT * FROM outbox.status('{pending}')

## outbox.deliveries by id, finished | 40 1
SELECT * FROM outbox.deliveries WHERE message_id = '{finished}'

## outbox.deliveries by id, pending | 60 1
SELECT * FROM outbox.deliveries WHERE message_id = '{pending}'

## outbox.attempts of a message | 40 1
SELECT * FROM outbox.attempts WHERE message_id = '{finished}'

## show: deliveries | 60 1
@message_deliveries '{finished}'::uuid; NULL

## show: attempts | 60 1
@message_attempts '{finished}'::uuid; NULL

## show: decisions | 40 0
@message_audit '{finished}'::uuid; NULL

## show: circumstances, finished | 80 1
@circumstances '{finished}'::uuid

## show: circumstances, ordered | 3000 1
@circumstances '{ordered}'::uuid

## cancel | 200 1
@cancel '{pending}'::uuid; 'test'

## hold | 200 1
@hold '{pending}'::uuid; 'test'

## release held | 200 1
@release_held '{held}'::uuid; 'test'

## retry | 300 1
@retry '{failed}'::uuid; 1; 'test'; false

## send again | 300 2
@send_again '{finished}'::uuid; 'test'; NULL

## resolve | 300 1
@resolve '{doubt}'::uuid; 1; 'sent'; 'test'; '{doubt_token}'::uuid; true

-- People: lists.

## outbox.deliveries, the newest 50 | 1000 33
SELECT * FROM outbox.deliveries ORDER BY message_id DESC, recipient_no LIMIT 50

## ls | 1000 33
@delivery_list NULL; 50

## ls --state sent | 1200 1
@delivery_list_state 'sent'; NULL; 50

## ls --state failed | 1200 1
@delivery_list_state 'failed'; NULL; 50

## ls --state cancelled, the last of which is months old | 1200 2
@delivery_list_state 'cancelled'; NULL; 50

## ls --state held | 1200 2
@delivery_list_state 'held'; NULL; 50

## ls --state pending | 1200 1
@delivery_list_state 'pending'; NULL; 50

## ls --state sending | 2*queue_pages+1200 1 queue
@delivery_list_state 'sending'; NULL; 50

## ls --kind order | 1000 33
@delivery_list 'order'; 50

## outbox.in_doubt | 3200 2
SELECT * FROM outbox.in_doubt

## ls --in-doubt | 2400 2
@doubt_list NULL; NULL; NULL; NULL; 50

## reconcile | 4500 2
@reconcile_list

## outbox.blocked_keys | 1000 2
SELECT * FROM outbox.blocked_keys

## status: blocked | 1000 2
@blocked_list NULL; NULL; 20

## outbox.queue_health | 80000/6*queue_pages 0
SELECT * FROM outbox.queue_health

## outbox.backlog | 60000/4*queue_pages 0
SELECT outbox.backlog()

## history since | 200 33
@history_since

-- People: searches.

## outbox.find_deliveries, since | 4000 20
SELECT * FROM outbox.find_deliveries('{address}', now() - interval '1 hour')

## outbox.find_deliveries | 2*queue_pages+4000 20 queue
SELECT * FROM outbox.find_deliveries('{address}')

## outbox.suspected_duplicates of an address | 2*queue_pages+4000 20 queue
SELECT * FROM outbox.find_suspected_duplicates(address => '{address}')

## outbox.suspected_duplicates of a message | 200 2
SELECT * FROM outbox.find_suspected_duplicates(id => '{finished}')

## outbox.suspected_duplicates | 1200000 33 queue message
SELECT * FROM outbox.suspected_duplicates

## outbox.find_token | 2*queue_pages+2*done_pages+1000 32 queue done attempt
SELECT * FROM outbox.find_token('{failed_token}')

## outbox.find_raw_message | 400000 8 message
SELECT * FROM outbox.find_raw_message('nobody@example.org')

-- The DBA.

-- Each message of the week is looked up once: whether it has a delivery that has ended or not. Beside that week, the planner looks
-- at the end of an index of another when there are many rows.
## outbox.maintain, one week dropped | 12*week_rows+2000 2 ordering
SELECT * FROM outbox.maintain(keep => now() - date '{second_week}'::timestamp AT TIME ZONE 'UTC')

## doctor: tables | 1000 0
@doctor_tables

## doctor: indexes | 200 0
@doctor_indexes

## doctor: role | 1000 0
@doctor_role
