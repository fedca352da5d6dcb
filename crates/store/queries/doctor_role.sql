-- outbox.doctor_role: what this user is, and whether it may do what a relay does. The list is that of outbox.privilege for
-- outbox_relay, which a relay may not read itself; a test compares the two. An object that does not exist is the
-- schema's affair, not the role's.
WITH needed (privilege, kind, name) AS (
  SELECT p.privilege, 'table', n.name
  FROM (VALUES
    ('SELECT, UPDATE, DELETE', '{queue}'::text[]),
    ('SELECT, INSERT, UPDATE', '{attempt,relay,kind,route}'),
    ('SELECT, INSERT', '{done}'),
    ('SELECT', '{message,control,migration,queue_health,pause,pause_parked,suppression,upkeep_postponed}'),
    ('SELECT, INSERT, UPDATE, DELETE', '{sleeper}')) v(privileges, names)
  CROSS JOIN LATERAL unnest(string_to_array(v.privileges, ', ')) p(privilege)
  CROSS JOIN LATERAL unnest(v.names) n(name)
  UNION ALL
  SELECT 'EXECUTE', 'function', n.name
  FROM unnest('{assert_armed,database_identity,durable_commit,settle_late,resolve_doubt,mark_in_doubt,maintain,free_ordered,not_before_of,backlog,lanes,state_of,uuid_time,doubts_over,assert_continues,descends_from,address_is_known,note_address,addresses,own_address,disarm,suspect_copy,continue_after_failover,reassert,uuid_floor,quarantine,is_bound,resend_same_key,claim_batch,contents_of,intend_batch,settle_batch,parked_is_sound,look,look_onward,letters_of,letters_in_brief,without_contents,attachment_pieces,raw_pieces,canary,stop_batch,unpark,suppress_bounced,failed_blocks,is_skipped,guard_batch,collect_batch,follow_digests,adopt_orphans,lanes_by_turns,claim_turns,remove_contents,find_unqueued}'::text[]) n(name)
),
lacking AS (
  SELECT n.privilege || ' on ' || n.kind || ' outbox.' || n.name AS what
  FROM needed n JOIN pg_class c ON n.kind = 'table' AND c.relname = n.name AND c.relnamespace = to_regnamespace('outbox')
  WHERE NOT has_table_privilege(c.oid, n.privilege)
  UNION
  SELECT n.privilege || ' on ' || n.kind || ' outbox.' || n.name
  FROM needed n JOIN pg_proc p ON n.kind = 'function' AND p.proname = n.name AND p.pronamespace = to_regnamespace('outbox')
  WHERE NOT has_function_privilege(p.oid, 'EXECUTE')
)
SELECT /* outbox.doctor_role */ current_user::text AS name, r.rolsuper AS superuser,
       array_remove(ARRAY[
         CASE WHEN r.rolcreaterole THEN 'may create roles' END,
         CASE WHEN r.rolcreatedb THEN 'may create databases' END,
         CASE WHEN r.rolreplication THEN 'may replicate' END,
         CASE WHEN r.rolbypassrls THEN 'bypasses row security' END,
         (SELECT 'is a member of ' || n.nspowner::regrole || ', the owner of schema outbox' FROM pg_namespace n WHERE n.nspname = 'outbox' AND pg_has_role(n.nspowner, 'MEMBER')),
         (SELECT 'is a member of ' || d.datdba::regrole || ', the owner of the database' FROM pg_database d WHERE d.datname = current_database() AND pg_has_role(d.datdba, 'MEMBER')),
         (SELECT 'is a member of ' || string_agg(g.rolname, ', ' ORDER BY g.rolname) FROM pg_roles g
          WHERE g.rolname IN ('outbox_producer', 'outbox_operator') AND pg_has_role(g.oid, 'MEMBER'))], NULL)::text[] AS excess,
       has_schema_privilege(n.oid, 'USAGE') AS usage,
       ARRAY(SELECT l.what FROM lacking l ORDER BY l.what) AS lacking,
       r.rolsuper OR pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all_sessions
FROM pg_roles r CROSS JOIN pg_namespace n
WHERE r.rolname = current_user AND n.nspname = 'outbox'
