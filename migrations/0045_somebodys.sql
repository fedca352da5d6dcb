-- breaking: no
-- In somebody's database: what its defaults give away is not given of a new week, and no session's setting changes what functions mean.
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

SELECT outbox.grant_roles();
SELECT outbox.keep_private(c.relname) FROM pg_class c WHERE c.oid IN (
  SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent IN ('outbox.message'::regclass, 'outbox.attempt'::regclass)) ORDER BY c.relname;
