-- breaking: no
-- Row level security that somebody switches on is an error, not an empty table: a relay that sees no suppression list would send to everybody on it.
SET LOCAL lock_timeout = '5s';

-- From a session's own setting, which hapax asks for, a pooler in transaction mode keeps it. So every call that a relay makes looks: what it sees
-- nothing of, it must not take for empty. A look at each table's entry in the cache of catalogues, no query.
CREATE OR REPLACE FUNCTION outbox.assert_armed(p_epoch uuid, p_identity text) RETURNS boolean LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on SET row_security = off AS $$
DECLARE
  armed_epoch uuid;
  armed_identity text;
  found_identity text := outbox.database_identity();
BEGIN
  IF row_security_active('outbox.queue'::regclass) OR row_security_active('outbox.message'::regclass) OR row_security_active('outbox.done'::regclass)
    OR row_security_active('outbox.attempt'::regclass) OR row_security_active('outbox.suppression'::regclass) OR row_security_active('outbox.pause'::regclass)
    OR row_security_active('outbox.pause_parked'::regclass) OR row_security_active('outbox.kind'::regclass) OR row_security_active('outbox.route'::regclass)
    OR row_security_active('outbox.relay'::regclass) OR row_security_active('outbox.control'::regclass) OR row_security_active('outbox.sleeper'::regclass)
    OR row_security_active('outbox.upkeep_postponed'::regclass) OR row_security_active('outbox.migration'::regclass)
  THEN
    RAISE EXCEPTION USING ERRCODE = 'HX002', MESSAGE = 'outbox: row level security hides rows of the outbox from this user',
      DETAIL = (SELECT string_agg('outbox.' || c.relname, ', ' ORDER BY c.relname) FROM pg_class c
                WHERE c.relnamespace = 'outbox'::regnamespace AND c.relrowsecurity AND NOT c.relispartition AND row_security_active(c.oid)),
      HINT = 'as the owner of the outbox, for each: ALTER TABLE outbox.... DISABLE ROW LEVEL SECURITY';
  END IF;
  SELECT c.epoch, c.identity INTO armed_epoch, armed_identity FROM outbox.control c;
  IF armed_epoch IS DISTINCT FROM p_epoch OR found_identity IS DISTINCT FROM p_identity OR armed_identity IS DISTINCT FROM found_identity THEN
    RAISE EXCEPTION USING ERRCODE = 'HX001', MESSAGE = 'outbox: this is not the database the relay was armed for',
      DETAIL = format('expected %s of epoch %s, found %s of epoch %s, armed for %s', p_identity, p_epoch, found_identity, armed_epoch, armed_identity),
      HINT = 'after a failover or a restore: hapax arm --reason ''why'', or SELECT * FROM outbox.arm(''why'')';
  END IF;
  RETURN true;
END $$;
COMMENT ON FUNCTION outbox.assert_armed(uuid, text) IS 'Raises HX001 unless the answering server and epoch are the expected ones, and HX002 where row level security would hide rows from the caller. Evaluated inside claim, intend and settle, so that nothing changes on a mismatch.';

-- What is switched on in the middle of a statement, or FORCEd upon the owner, whose rights most of these have: an error, too. Those without any setting
-- are parts of queries and read no table.
DO $migration$
DECLARE
  one regprocedure;
BEGIN
  FOR one IN
    SELECT p.oid FROM pg_proc p
    WHERE p.pronamespace = 'outbox'::regnamespace AND p.proconfig IS NOT NULL
      AND EXISTS (SELECT FROM outbox.privilege v WHERE v.roles ~ '\moutbox_relay\M' AND v.privileges = 'EXECUTE' AND p.proname = ANY (v.names)) ORDER BY p.oid
  LOOP
    EXECUTE format('ALTER FUNCTION %s SET row_security = off', one);
  END LOOP;
END $migration$;

DO $migration$
DECLARE
  codes text := obj_description('outbox.refuse(text, text, text, text, text)'::regprocedure, 'pg_proc');
  last text := 'HX001 not the database the relay was armed for';
BEGIN
  EXECUTE format('COMMENT ON FUNCTION outbox.refuse(text, text, text, text, text) IS %L',
                 replace(codes, last, last || '; HX002 row level security hides rows from the relay'));
END $migration$;
