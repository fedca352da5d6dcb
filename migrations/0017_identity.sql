-- breaking: no
-- The identity of a database gets the oid of outbox.control: a dump that is restored into the same database is noticed.
SET LOCAL lock_timeout = '5s';

-- A restored dump makes its tables anew. Relays of an older version name what this function says, as those of this one do.
CREATE OR REPLACE FUNCTION outbox.database_identity() RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  identity text := '?';
BEGIN
  IF has_function_privilege('pg_catalog.pg_control_system()', 'execute') THEN
    SELECT s.system_identifier::text INTO identity FROM pg_control_system() s;
  END IF;
  RETURN identity || '/' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)
      || '/' || (SELECT d.oid::text FROM pg_database d WHERE d.datname = current_database())
      || '/' || 'outbox.control'::regclass::oid::text;
END $$;
COMMENT ON FUNCTION outbox.database_identity() IS 'System identifier and timeline of the server that answers, the oid of the database and of outbox.control: what the relay was armed for, checked inside its statements. A copy made by pg_restore or CREATE DATABASE ... TEMPLATE has other oids, also when it was restored into the same database.';
UPDATE outbox.control c SET identity = outbox.database_identity() WHERE outbox.database_identity() = c.identity || '/' || 'outbox.control'::regclass::oid::text;

SELECT outbox.grant_roles();
