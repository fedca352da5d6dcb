-- breaking: no
-- In somebody's database: what its defaults give is not given of a new week, no session changes what functions mean, a replica does not send.
SET LOCAL lock_timeout = '5s';

-- Default privileges of the owner (ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO ...) apply to each table when it is made. What
-- a migration makes is put right by grant_roles(), but the weeks are made later: who may look at masked views could read them as they are.
CREATE FUNCTION outbox.keep_private(p_table text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  someone text;
BEGIN
  FOR someone IN
    SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
    FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
    WHERE c.relnamespace = 'outbox'::regnamespace AND c.relname = p_table AND a.grantee <> c.relowner
  LOOP
    EXECUTE format('REVOKE ALL ON outbox.%I FROM %s', p_table, someone);
  END LOOP;
END $$;
COMMENT ON FUNCTION outbox.keep_private(text) IS 'Private: takes from everybody but its owner what default privileges have given of a partition. Partitions are reached through their parents.';

DO $migration$
DECLARE
  source text := pg_get_functiondef('outbox.maintain(interval, interval)'::regprocedure);
  made text := E'INCLUDING INDEXES)'', child, parent);\n';
BEGIN
  IF length(source) - length(replace(source, made, '')) <> length(made) THEN
    RAISE EXCEPTION 'outbox.maintain is not as it was';
  END IF;
  EXECUTE replace(source, made, made || E'        PERFORM outbox.keep_private(child);\n');
END $migration$;

-- What stands in quotes within a function is read by the setting of whoever calls it first. The doors of producers have had it since 0024;
-- without it a valid address was none to outbox.erase() where the database sets standard_conforming_strings = off.
DO $migration$
DECLARE
  door regprocedure;
BEGIN
  FOR door IN
    SELECT p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN outbox.privilege r ON r.schema = n.nspname AND p.proname = ANY (r.names)
    WHERE r.privileges = 'EXECUTE' AND p.prosqlbody IS NULL AND p.proconfig IS NOT NULL AND pg_has_role(p.proowner, 'USAGE')
    GROUP BY p.oid ORDER BY p.oid
  LOOP
    EXECUTE format('ALTER FUNCTION %s SET standard_conforming_strings = on', door);
  END LOOP;
END $migration$;

-- Logical replication brings the queue of another outbox, without its identity: a subscriber that was migrated is armed for itself, and
-- its relay would send what the publisher's sends. So the first row that comes that way disarms it, in the transaction that brings it.
-- The trigger is for sessions that replicate (session_replication_role = replica) and costs producers nothing. The setting is looked at
-- again, because ALTER TABLE ... ENABLE TRIGGER ALL (pg_restore --disable-triggers ends so) makes it one for everybody.
CREATE FUNCTION outbox.notice_replication() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  here text;
  newest uuid := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
BEGIN
  IF current_setting('session_replication_role') <> 'replica' THEN
    RETURN NEW;
  END IF;
  here := outbox.database_identity();
  UPDATE outbox.control SET identity = 'disarmed: rows of another outbox are replicated into it' WHERE identity = here;
  IF FOUND THEN
    PERFORM outbox.audit_entry('disarm', NULL, NULL, NULL, 'rows of another outbox are replicated into it', here, 'disarmed');
  END IF;
  -- Whatever came after a relay here has held everything: the next arming holds it, too.
  UPDATE outbox.failover f SET until_message = newest, until_recipient = 32767, completed_at = NULL
  WHERE f.identity = here AND f.epoch = (SELECT c.epoch FROM outbox.control c) AND (f.completed_at IS NOT NULL OR f.until_message IS DISTINCT FROM newest);
  RETURN NEW;
END $$;
COMMENT ON FUNCTION outbox.notice_replication() IS 'Trigger of outbox.queue: a row that comes by replication disarms this outbox.';
CREATE TRIGGER queue_is_ours BEFORE INSERT ON outbox.queue FOR EACH ROW EXECUTE FUNCTION outbox.notice_replication();
COMMENT ON TRIGGER queue_is_ours ON outbox.queue IS 'For sessions that replicate only: nothing is sent from a subscriber until somebody arms it.';
ALTER TABLE outbox.queue ENABLE REPLICA TRIGGER queue_is_ours;

-- The one table without a key: in a publication of all tables its rows could not be changed.
ALTER TABLE outbox.privilege REPLICA IDENTITY FULL;

SELECT outbox.grant_roles();
SELECT outbox.keep_private(c.relname) FROM pg_class c WHERE c.oid IN (
  SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent IN ('outbox.message'::regclass, 'outbox.attempt'::regclass)) ORDER BY c.relname;
