-- {finished} deliveries that were sent in the last 26 weeks, as if they had been lived: the same tables, indexes, statistics. From
-- one number to the next the tables agree.
SET synchronous_commit = off;
SET maintenance_work_mem = '512MB';
CREATE SCHEMA bench;
CREATE FUNCTION bench.at(no bigint) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
RETURN now() - interval '26 weeks' + (no::float8 / {finished}) * interval '26 weeks' - interval '1 hour';
CREATE FUNCTION bench.id(no bigint) RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
RETURN (overlay(lpad(to_hex((date_part('epoch', bench.at(no)) * 1000000)::bigint * 512 / 125), 15, '0') PLACING '7' FROM 13 FOR 0)
        || '8' || substr(md5('id' || no), 1, 3) || '-' || substr(md5('id' || no), 4, 12))::uuid;
DO $$
DECLARE
  week timestamp;
  parent text;
BEGIN
  FOREACH parent IN ARRAY ARRAY['message', 'attempt'] LOOP
    FOR week IN SELECT generate_series(date_trunc('week', (now() - interval '27 weeks') AT TIME ZONE 'UTC'),
                                       date_trunc('week', now() AT TIME ZONE 'UTC') - interval '7 days', interval '7 days') LOOP
      EXECUTE format('CREATE TABLE IF NOT EXISTS outbox.%1$s_%2$s (LIKE outbox.%1$s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING INDEXES)',
                     parent, to_char(week, 'YYYYMMDD'));
      EXECUTE format('ALTER TABLE outbox.%1$s ATTACH PARTITION outbox.%1$s_%2$s FOR VALUES FROM (%3$L) TO (%4$L)', parent, to_char(week, 'YYYYMMDD'),
                     outbox.uuid_floor(week AT TIME ZONE 'UTC'), outbox.uuid_floor((week + interval '7 days') AT TIME ZONE 'UTC'));
    END LOOP;
  END LOOP;
END $$;
INSERT INTO outbox.message (id, created_at, kind, recipients, cc, bcc, subject, body_text, priority, dedup_key, application_name)
SELECT bench.id(no), bench.at(no), 'bench', ARRAY['r' || no % ({finished} / 20) || '@example.net'], '{}', '{}', 'Order ' || no, E'Thank you for your order.\n', 'normal',
       CASE WHEN no % 10 = 0 THEN 'order-' || no END, 'shop'
FROM generate_series(1, {finished}::bigint) no;
INSERT INTO outbox.attempt (message_id, recipient_no, token, attempt_no, outcome, phase, code, enhanced, reply, route, server, relay, started_at, finished_at, bytes)
SELECT bench.id(no), 1, md5('token' || no)::uuid, 1, 'accepted', 'end_marker', 250, '2.0.0', 'Ok: queued as ' || to_hex(no), 'default', 'mx.example.net',
       md5('relay' || no % 200)::uuid, bench.at(no), bench.at(no) + interval '1 second', 2000
FROM generate_series(1, {finished}::bigint) no;
INSERT INTO outbox.done (message_id, recipient_no, state, finished_at, evidence, token, attempt_no, intents, lane, address_hash)
SELECT bench.id(no), 1, 'sent', bench.at(no) + interval '1 second', 'reply', md5('token' || no)::uuid, 1, 1, 1,
       outbox.address_hash_of(ARRAY['r' || no % ({finished} / 20) || '@example.net'])
FROM generate_series(1, {finished}::bigint) no;
INSERT INTO outbox.dedup_key (tenant, key, digest, message_id, expires_at)
SELECT '', 'order-' || no, sha256(no::text::bytea), bench.id(no), bench.at(no) + interval '30 days'
FROM generate_series(10, {finished}::bigint, 10) no WHERE bench.at(no) > now() - interval '30 days';
DROP SCHEMA bench CASCADE;
RESET synchronous_commit;
