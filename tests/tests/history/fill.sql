-- A history of {weeks} weeks: {finished} finished deliveries, {pending} pending ones. Parts between lines of === are
-- transactions; what is between >>> lines may run at once. Partitions that are made in the transaction that fills them,
-- and tables that are emptied in it, need no WAL.
-- ===
CREATE SCHEMA history;
-- An id of a point in time, as outbox.uuid_v7() makes them; its random half from the number, so that the tables agree.
CREATE FUNCTION history.id(at timestamptz, no bigint, salt text) RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
RETURN (overlay(lpad(to_hex((date_part('epoch', at) * 1000000)::bigint * 512 / 125), 15, '0') PLACING '7' FROM 13 FOR 0)
        || '8' || substr(md5(salt || no), 1, 3) || '-' || substr(md5(salt || no), 4, 12))::uuid;
CREATE FUNCTION history.at(no bigint) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
RETURN timestamptz '{begin}' + (no::float8 / {finished}) * (timestamptz '{end}' - timestamptz '{begin}');
CREATE FUNCTION history.state(no bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN no % 50 = 7 THEN 'failed' WHEN no % 250 = 3 THEN 'expired' WHEN no % 500 = 11 THEN 'suppressed'
            -- Long ago only: whoever asks for the newest of them must not walk through everything since.
            WHEN no % 10 = 1 AND no < {finished} / 1000 THEN 'cancelled' ELSE 'sent' END;
CREATE FUNCTION history.recipient(no bigint) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY['r' || no % ({finished} / 20) || '@example.org'];
CREATE FUNCTION history.token(no bigint) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN md5('token ' || no)::uuid;
CREATE FUNCTION history.partitions(parent text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  week timestamp;
  child text;
BEGIN
  FOR week IN SELECT generate_series(timestamptz '{begin}' AT TIME ZONE 'UTC', date_trunc('week', now() AT TIME ZONE 'UTC') - interval '7 days', interval '7 days') LOOP
    child := format('%s_%s', parent, to_char(week, 'YYYYMMDD'));
    EXECUTE format('CREATE TABLE outbox.%I (LIKE outbox.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING INDEXES)', child, parent);
    EXECUTE format('ALTER TABLE outbox.%I ATTACH PARTITION outbox.%I FOR VALUES FROM (%L) TO (%L)', parent, child,
                   outbox.uuid_floor(week AT TIME ZONE 'UTC'), outbox.uuid_floor((week + interval '7 days') AT TIME ZONE 'UTC'));
  END LOOP;
END $$;
INSERT INTO outbox.route (name, host, host_since) VALUES ('second', 'mx2.example.org', now()), ('third', 'mx3.example.org', now());
INSERT INTO outbox.kind (name, guard_window) VALUES ('order', NULL), ('receipt', NULL), ('guarded', '10 minutes');
INSERT INTO outbox.pause (what, name, reason) VALUES ('route', 'third', 'it is being moved');
INSERT INTO outbox.relay (incarnation, name, host, pid, version, started_at, beat, beat_at, doubt_grace, signed_off_at, routes)
SELECT md5('relay ' || no)::uuid, 'relay-' || no, 'host-' || no % 3, no, '0', now() - no * interval '3 hours', 1000, now() - no * interval '3 hours',
       '15 minutes', CASE WHEN no > 1 THEN now() - no * interval '3 hours' END, '{second,third,default}'
FROM generate_series(1, 200) no;
-- The pending: numbers of stopped and of in-flight ones are the same whatever the size.
CREATE UNLOGGED TABLE history.pending AS
SELECT x.*, CASE WHEN x.first THEN x.fate END AS what FROM (SELECT p.*, p.ordering_key IS NULL OR row_number() OVER (PARTITION BY p.ordering_key ORDER BY p.no) = 1 AS first FROM (
SELECT p.no, p.share, history.id(p.at, p.no, 'pending') AS id, p.at,
  CASE WHEN p.no <= 200 THEN 'doubt' WHEN p.no <= 480 THEN 'held' WHEN p.no <= 500 THEN 'poison' WHEN p.no <= 564 THEN 'claimed' WHEN p.no <= 628 THEN 'sending'
       WHEN p.share BETWEEN 90 AND 97 THEN 'paused' END AS fate,
  CASE WHEN p.share BETWEEN 55 AND 74 THEN 'key ' || p.no / 100 WHEN p.share BETWEEN 75 AND 77 THEN 'stopped' WHEN p.share > 77 AND p.share < 80 AND p.no > 1000 THEN 'busy' END AS ordering_key,
  CASE WHEN p.share BETWEEN 30 AND 44 THEN 'tenant-' || p.no % 500 END AS tenant,
  CASE WHEN p.share BETWEEN 80 AND 89 OR p.share = 98 THEN 'second' WHEN p.share BETWEEN 90 AND 97 THEN 'third' END AS route,
  CASE WHEN p.share BETWEEN 30 AND 44 OR p.share = 98 THEN 'bulk' WHEN p.share BETWEEN 45 AND 49 THEN 'urgent' ELSE 'normal' END AS priority,
  CASE WHEN p.share BETWEEN 50 AND 54 THEN now() + p.no % 10000 * interval '1 minute' ELSE p.at END AS due_at
FROM (SELECT no, no % 100 AS share, timestamptz '{end}' - interval '14 days' + (no::float8 / {pending}) * interval '14 days' AS at FROM generate_series(1, {pending}::bigint) no) p) p) x;
INSERT INTO outbox.ordering (order_key, last_used) SELECT DISTINCT outbox.order_key(NULL, p.ordering_key), now() FROM history.pending p WHERE p.ordering_key IS NOT NULL;
ANALYZE history.pending;
-- >>>
SELECT history.partitions('message');
INSERT INTO outbox.message (id, created_at, kind, recipients, cc, bcc, subject, body_text, priority, tenant, dedup_key, application_name)
SELECT history.id(history.at(no), no, 'finished'), history.at(no), CASE WHEN no % 5 < 3 THEN 'order' WHEN no % 1000 = 4 THEN 'guarded' ELSE 'receipt' END, history.recipient(no), '{}', '{}',
       'Order ' || no, E'Dear Ada,\nthank you for your order.\n', 'normal', CASE WHEN no % 3 = 0 THEN 'tenant-' || no % 500 END, CASE WHEN no % 10 = 0 THEN 'order-' || no END, 'shop'
FROM generate_series(1, {finished}::bigint) no;
INSERT INTO outbox.message (id, created_at, kind, recipients, cc, bcc, subject, body_text, priority, tenant, route, ordering_key, application_name, not_before)
SELECT p.id, p.at, CASE WHEN p.no % 1000 = 4 THEN 'guarded' ELSE 'order' END, ARRAY['p' || p.no || '@example.org'], '{}', '{}', 'Order ' || p.no, E'Dear Ada,\nthank you for your order.\n',
       p.priority, p.tenant, p.route, p.ordering_key, 'shop', CASE WHEN p.due_at > p.at THEN p.due_at END
FROM history.pending p ORDER BY p.no;
-- ===
SELECT history.partitions('attempt');
INSERT INTO outbox.attempt (message_id, recipient_no, token, attempt_no, outcome, phase, code, enhanced, reply, route, server, relay, started_at, finished_at, bytes)
SELECT history.id(history.at(no), no, 'finished'), 1, CASE n WHEN 0 THEN history.token(no) ELSE md5('first ' || no)::uuid END, CASE WHEN n = 0 AND no % 33 = 0 THEN 2 ELSE 1 END,
       CASE WHEN n = 1 THEN 'deferred' WHEN history.state(no) = 'failed' THEN 'refused' ELSE 'accepted' END, 'end_marker',
       CASE WHEN n = 1 THEN 450 WHEN history.state(no) = 'failed' THEN 550 ELSE 250 END, '2.0.0', 'Ok: queued as ' || to_hex(no), 'default', 'mx.example.org',
       md5('relay ' || no % 200)::uuid, history.at(no) + n * interval '1 second', history.at(no) + (2 - n) * interval '1 second', 2000
FROM generate_series(1, {finished}::bigint) no CROSS JOIN LATERAL generate_series(CASE WHEN no % 33 = 0 THEN 1 ELSE 0 END, 0, -1) n
WHERE history.state(no) IN ('sent', 'failed');
INSERT INTO outbox.attempt (message_id, recipient_no, token, attempt_no, outcome, phase, cause, detail, route, relay, started_at)
SELECT p.id, 1, md5('doubt ' || p.no)::uuid, 1, 'unknown', 'end_marker', 'io', 'the relay vanished behind the intent', 'default', md5('relay 7')::uuid, now() - interval '1 hour'
FROM history.pending p WHERE p.what = 'doubt';
-- ===
-- An index is made faster than it is filled.
TRUNCATE outbox.done;
DROP INDEX outbox.done_address;
INSERT INTO outbox.done (message_id, recipient_no, state, finished_at, evidence, reason, token, attempt_no, intents, lane, address_hash)
SELECT history.id(history.at(no), no, 'finished'), 1, s.state, history.at(no) + interval '2 seconds', CASE WHEN s.state = 'sent' THEN 'reply' END,
       CASE WHEN s.state <> 'sent' THEN '550 5.1.1 no such user' END, CASE WHEN s.state IN ('sent', 'failed') THEN history.token(no) END, 1, 1, 1, outbox.address_hash_of(history.recipient(no))
FROM generate_series(1, {finished}::bigint) no CROSS JOIN LATERAL history.state(no) s (state);
CREATE INDEX done_address ON outbox.done (address_hash);
COMMENT ON INDEX outbox.done_address IS 'Search by address.';
-- ===
TRUNCATE outbox.queue;
INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, parked, note, claims, attempt_no, intents, open_doubts, lease, lease_until, intent, intent_by, intent_at, first_intent_at,
  doubt_since, doubt_by, address_hash, order_key, order_no, tenant_no)
SELECT p.id, 1, outbox.lane(r.group_no, p.priority, NULL), CASE WHEN q.parked IS NULL THEN p.due_at ELSE 'infinity' END, q.parked,
  CASE WHEN q.parked IN ('held', 'poison') THEN 'somebody held it' END, CASE WHEN p.what IN ('claimed', 'sending') THEN 1 ELSE 0 END, CASE WHEN p.share BETWEEN 50 AND 54 THEN 1 ELSE 0 END,
  CASE WHEN p.what IN ('doubt', 'sending') THEN 1 ELSE 0 END, CASE WHEN p.what = 'doubt' THEN 1 ELSE 0 END,
  CASE WHEN p.what IN ('claimed', 'sending') THEN md5('lease ' || p.no)::uuid END, CASE WHEN p.what IN ('claimed', 'sending') THEN now() + interval '1 hour' END,
  CASE WHEN p.what IN ('doubt', 'sending') THEN md5(p.what || ' ' || p.no)::uuid END, CASE p.what WHEN 'doubt' THEN md5('relay 7')::uuid WHEN 'sending' THEN md5('relay 1')::uuid END,
  CASE WHEN p.what IN ('doubt', 'sending') THEN now() END, CASE WHEN p.what IN ('doubt', 'sending') THEN now() END,
  CASE WHEN p.what = 'doubt' THEN now() - interval '1 hour' END, CASE WHEN p.what = 'doubt' THEN 'reaper' END,
  outbox.address_hash_of(ARRAY['p' || p.no || '@example.org']), outbox.order_key(NULL, p.ordering_key), CASE WHEN p.ordering_key IS NOT NULL THEN nextval('outbox.order_no') END,
  hashtext(p.tenant) & 2147483647
FROM history.pending p
LEFT JOIN outbox.route r ON r.name = p.route
CROSS JOIN LATERAL (SELECT CASE WHEN NOT p.first THEN 'ordered' WHEN p.what NOT IN ('claimed', 'sending') THEN p.what END AS parked) q
ORDER BY p.no;
INSERT INTO outbox.pause_parked (message_id, recipient_no, pause_id, due_at)
SELECT q.message_id, q.recipient_no, (SELECT max(id) FROM outbox.pause), now() FROM outbox.queue q WHERE q.parked = 'paused';
INSERT INTO outbox.dedup_key (tenant, key, digest, message_id, expires_at)
SELECT CASE WHEN no % 3 = 0 THEN 'tenant-' || no % 500 ELSE '' END, 'order-' || no, sha256(no::text::bytea), history.id(history.at(no), no, 'finished'), history.at(no) + interval '30 days'
FROM generate_series(10, {finished}::bigint, 10) no WHERE history.at(no) > now() - interval '30 days';
INSERT INTO outbox.guard_seen (digest, message_id, recipient_no, enqueued_at, until)
SELECT sha256(no::text::bytea), history.id(history.at(no), no, 'finished'), 1, history.at(no), now() + interval '1 day' FROM generate_series(4, {finished}::bigint, 1000) no;
INSERT INTO outbox.audit (at, action, message_id, recipient_no, reason, before, after)
SELECT history.at(no), 'resolve', history.id(history.at(no), no, 'finished'), 1, 'it had arrived', 'in_doubt', 'sent' FROM generate_series(7, {finished}::bigint, 200) no;
-- <<<
DROP SCHEMA history CASCADE;
