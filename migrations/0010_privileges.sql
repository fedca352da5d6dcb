-- breaking: no
-- Who may do what, as a table: a later migration adds its rows and calls outbox.grant_roles(), instead of writing the whole
-- function again.
SET LOCAL lock_timeout = '5s';

CREATE TABLE outbox.privilege (
  roles text NOT NULL,
  privileges text NOT NULL,
  names text[] NOT NULL
);
COMMENT ON TABLE outbox.privilege IS 'Who may do what: what outbox.grant_roles() gives. Functions are named without arguments (all overloads); what does not exist (yet) is skipped. Private.';
COMMENT ON COLUMN outbox.privilege.roles IS 'Role names, separated by spaces.';
COMMENT ON COLUMN outbox.privilege.privileges IS 'EXECUTE for functions, anything else for tables and views.';

INSERT INTO outbox.privilege (roles, privileges, names) VALUES
  -- Producers: enqueue, look, cancel. Nothing of anybody else's: an id cannot be guessed, and the view shows nothing.
  ('outbox_producer', 'EXECUTE', '{enqueue,enqueue_many,status,cancel,release_key}'::text[]),
  ('outbox_producer', 'SELECT, INSERT', '{notification}'),
  -- Relays: the statements in crates/store/queries, no DDL, no dedup keys, no audit. EXECUTE on what their SQL calls
  -- by name; the rest runs inside SECURITY DEFINER functions.
  ('outbox_relay', 'SELECT, UPDATE, DELETE', '{queue}'),
  ('outbox_relay', 'SELECT, INSERT, UPDATE', '{attempt,relay,kind}'),
  ('outbox_relay', 'SELECT, INSERT', '{done,route}'),
  ('outbox_relay', 'SELECT', '{message,control,migration,queue_health}'),
  ('outbox_relay', 'EXECUTE', '{assert_armed,database_identity,durable_commit,settle_late,resolve_doubt,mark_in_doubt,maintain,free_ordered,not_before_of}'),
  -- Operators: decide, read what was decided, and see addresses.
  ('outbox_operator', 'EXECUTE', '{resolve,cancel,retry,hold,release,pause,resume,erase,send_again,release_key,force_release_key,unmasked,arm}'),
  ('outbox_operator', 'SELECT', '{audit}'),
  ('outbox_operator outbox_viewer outbox_monitor', 'SELECT', '{relay}'),
  -- Everybody who looks; the functions are those the views call, which run as the reader.
  ('outbox_operator outbox_viewer', 'SELECT', '{deliveries,attempts,in_doubt,suspected_duplicates,queue_health}'),
  ('outbox_operator outbox_viewer', 'EXECUTE', '{status,backlog,mask_address,mask_text,may_see_addresses,state_of,state_reason,may_be_alive_until,uuid_time,lanes}'),
  -- Monitors: numbers only.
  ('outbox_monitor', 'SELECT', '{queue_health}'),
  ('outbox_monitor outbox_relay', 'EXECUTE', '{backlog,lanes,state_of,uuid_time}');

CREATE OR REPLACE FUNCTION outbox.grant_roles() RETURNS TABLE (grantee text, grants int) LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  rule record;
  object record;
BEGIN
  -- First nothing: for PUBLIC, and for our roles what an older version gave.
  REVOKE ALL ON SCHEMA outbox FROM PUBLIC;
  REVOKE ALL ON ALL TABLES IN SCHEMA outbox FROM PUBLIC;
  REVOKE ALL ON ALL SEQUENCES IN SCHEMA outbox FROM PUBLIC;
  REVOKE ALL ON ALL ROUTINES IN SCHEMA outbox FROM PUBLIC;
  FOR grantee IN SELECT r.rolname FROM pg_roles r WHERE r.rolname IN ('outbox_producer', 'outbox_relay', 'outbox_operator', 'outbox_viewer', 'outbox_monitor') ORDER BY 1 LOOP
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA outbox FROM %I', grantee);
    EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA outbox FROM %I', grantee);
    EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA outbox FROM %I', grantee);
    EXECUTE format('GRANT USAGE ON SCHEMA outbox TO %I', grantee);
    grants := 1;
    FOR rule IN
      SELECT r.privileges, unnest(r.names) AS name FROM outbox.privilege r
      WHERE grantee = ANY (string_to_array(r.roles, ' '))
    LOOP
      FOR object IN
        SELECT format('FUNCTION %s', p.oid::regprocedure) AS what FROM pg_proc p
        WHERE rule.privileges = 'EXECUTE' AND p.pronamespace = 'outbox'::regnamespace AND p.proname = rule.name
        UNION ALL
        SELECT format('TABLE %s', c.oid::regclass) FROM pg_class c
        WHERE rule.privileges <> 'EXECUTE' AND c.relnamespace = 'outbox'::regnamespace AND c.relname = rule.name
      LOOP
        EXECUTE format('GRANT %s ON %s TO %I', rule.privileges, object.what, grantee);
        grants := grants + 1;
      END LOOP;
    END LOOP;
    RETURN NEXT;
  END LOOP;
END $$;

SELECT outbox.grant_roles();
