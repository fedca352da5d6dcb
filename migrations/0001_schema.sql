-- breaking: no
-- The schema, the database's identity, and uuid v7.
SET LOCAL lock_timeout = '5s';

COMMENT ON SCHEMA outbox IS 'Hapax: a transactional outbox for email. Applications call outbox.enqueue() inside their own transactions; the relay delivers each message once. Tables are private, functions and views are the contract.';

-- uuid v7 (RFC 9562): time-ordered ids, so that a partition is a span of time. One inlinable expression, microseconds
-- in rand_a: no inversions within a session and half the index size of the millisecond version. Native from 18 on.
DO $migration$
BEGIN
  IF current_setting('server_version_num')::int >= 180000 THEN
    EXECUTE $sql$ CREATE FUNCTION outbox.uuid_v7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE RETURN uuidv7() $sql$;
  ELSE
    EXECUTE $sql$
      CREATE FUNCTION outbox.uuid_v7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
      RETURN (overlay(lpad(to_hex((date_part('epoch', clock_timestamp()) * 1000000)::bigint * 512 / 125), 15, '0')
              PLACING '7' FROM 13 FOR 0) || right(gen_random_uuid()::text, 17))::uuid $sql$;
  END IF;
END $migration$;
COMMENT ON FUNCTION outbox.uuid_v7() IS 'A new time-ordered id (uuid version 7, RFC 9562).';

CREATE FUNCTION outbox.uuid_floor(at timestamptz) RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
RETURN (lpad(to_hex((date_part('epoch', at) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid;
COMMENT ON FUNCTION outbox.uuid_floor(timestamptz) IS 'The smallest uuid v7 of a point in time: where a partition begins.';

CREATE FUNCTION outbox.uuid_time(id uuid) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN to_timestamp((('x0000' || substr(replace(id::text, '-', ''), 1, 12))::bit(64)::bigint) / 1000.0);
COMMENT ON FUNCTION outbox.uuid_time(uuid) IS 'When a uuid v7 was made, to the millisecond.';

-- Which database this is. A pooler may change the server under a living connection, and a restored or cloned copy looks
-- exactly like the original: so the relay names what it was armed for in every claim, intend and settle.
-- SECURITY DEFINER, so that every role sees the same identity, whoever may call pg_control_system().
CREATE FUNCTION outbox.database_identity() RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  identity text := '?';
BEGIN
  IF has_function_privilege('pg_catalog.pg_control_system()', 'execute') THEN
    SELECT s.system_identifier::text INTO identity FROM pg_control_system() s;
  END IF;
  RETURN identity || '/' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)
      || '/' || (SELECT d.oid::text FROM pg_database d WHERE d.datname = current_database());
END $$;
COMMENT ON FUNCTION outbox.database_identity() IS 'System identifier and timeline of the server that answers, and the oid of the database: what the relay was armed for, checked inside its statements. A copy made by pg_restore or CREATE DATABASE ... TEMPLATE has another oid.';

CREATE TABLE outbox.control (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  epoch uuid NOT NULL DEFAULT gen_random_uuid(),
  identity text NOT NULL DEFAULT outbox.database_identity(),
  armed_at timestamptz NOT NULL DEFAULT now(),
  armed_by name NOT NULL DEFAULT session_user
);
COMMENT ON TABLE outbox.control IS 'One row: the arming epoch of this outbox and the database it was armed for. A relay that knows another epoch or meets another server stops.';
COMMENT ON COLUMN outbox.control.epoch IS 'Changes with every arming; an argument of claim, intend and settle.';
COMMENT ON COLUMN outbox.control.identity IS 'outbox.database_identity() when it was armed.';
INSERT INTO outbox.control DEFAULT VALUES;

CREATE FUNCTION outbox.assert_armed(p_epoch uuid, p_identity text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
  found_epoch uuid := (SELECT epoch FROM outbox.control);
  found_identity text := outbox.database_identity();
BEGIN
  IF found_epoch IS DISTINCT FROM p_epoch OR found_identity IS DISTINCT FROM p_identity THEN
    RAISE EXCEPTION USING ERRCODE = 'HX001', MESSAGE = 'outbox: this is not the database the relay was armed for',
      DETAIL = format('expected %s of epoch %s, found %s of epoch %s', p_identity, p_epoch, found_identity, found_epoch),
      HINT = 'after a failover or a restore: check what was lost, then SELECT outbox.arm(''why''), then start the relays again';
  END IF;
  RETURN true;
END $$;
COMMENT ON FUNCTION outbox.assert_armed(uuid, text) IS 'Raises HX001 unless the answering server and epoch are the expected ones. Evaluated inside claim, intend and settle, so that nothing changes on a mismatch.';

CREATE FUNCTION outbox.durable_commit() RETURNS text LANGUAGE sql STABLE
RETURN CASE WHEN current_setting('synchronous_commit') = 'remote_apply' THEN 'remote_apply' ELSE 'on' END;
COMMENT ON FUNCTION outbox.durable_commit() IS 'The synchronous_commit an intend or settle must run with: at least on, whatever database, role or a leaked session setting says.';
