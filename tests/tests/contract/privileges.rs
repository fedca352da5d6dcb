//! Who may do what: a matrix of statements and roles, and nothing for PUBLIC.

use hapax_testkit::PgCluster;
use hapax_tests::database::migrate;
use tokio_postgres::{NoTls, error::SqlState};

use super::support::Outbox;

const ROLES: [&str; 6] =
    ["outbox_producer", "outbox_relay", "outbox_operator", "outbox_viewer", "outbox_monitor", "outsider"];

/// A statement, and a `+` for each of [`ROLES`] that may run it.
#[rustfmt::skip]
const MATRIX: &[(&str, &str)] = &[
    // Producing.
    ("SELECT outbox.enqueue('greeting', '{a@example.org}', '{}')", "+-----"),
    ("SELECT outbox.enqueue('greeting', '{a@example.org}', '{}'::json)", "+-----"),
    ("SELECT outbox.enqueue('greeting', '{a@example.org}', '{}'::jsonb, dedup_key => 'k', ordering_key => 'o')", "+-----"),
    ("SELECT * FROM outbox.enqueue_many('[{\"kind\": \"greeting\", \"recipients\": [\"a@example.org\"], \"payload\": {}}]')", "+-----"),
    ("SELECT * FROM outbox.enqueue_many('[]'::json)", "+-----"),
    ("SELECT * FROM outbox.enqueue_many('[]'::jsonb)", "+-----"),
    ("INSERT INTO outbox.notification (kind, recipients, payload) VALUES ('greeting', '{a@example.org}', '{}') RETURNING id", "+-----"),
    ("SELECT * FROM outbox.notification", "+-----"),
    ("UPDATE outbox.notification SET kind = 'x'", "------"),
    ("DELETE FROM outbox.notification", "------"),
    ("SELECT * FROM outbox.status(gen_random_uuid())", "+-++--"),
    ("SELECT outbox.release_key('no-such-key')", "+-+---"),
    ("SELECT outbox.force_release_key('no-such-key', 'a reason')", "--+---"),
    ("INSERT INTO outbox.message (kind, recipients) VALUES ('greeting', '{a@example.org}')", "------"),
    ("INSERT INTO outbox.message_default (kind, recipients) VALUES ('greeting', '{a@example.org}')", "------"),
    ("INSERT INTO outbox.dedup_key (key, digest, message_id, expires_at) VALUES ('k', '', gen_random_uuid(), now())", "------"),
    // Testing. Nothing was enqueued, so 22H61 is a yes.
    ("SELECT outbox_test.assert_enqueued('greeting', 'a@example.org', times => 0)", "+-----"),
    ("SELECT outbox_test.assert_nothing_enqueued()", "+-----"),
    ("SELECT * FROM outbox_test.enqueued()", "+-----"),
    ("SELECT * FROM outbox_test.last()", "+-----"),
    ("SELECT * FROM outbox_test.rendered(gen_random_uuid())", "+-----"),
    ("SELECT outbox_test.is_ours('3')", "------"),
    ("SELECT outbox_test.listed(true, true)", "------"),
    ("SELECT outbox_test.decoded('')", "------"),
    ("SELECT outbox_test.raw_text('')", "------"),
    ("SELECT outbox_test.subject_of('', NULL)", "------"),
    ("CREATE TABLE outbox_test.mine (x int)", "------"),
    ("DROP SCHEMA outbox_test CASCADE", "------"),
    // Private functions behind the doors.
    ("SELECT outbox.put('x', NULL)", "------"),
    ("SELECT outbox.take_key('x', NULL)", "------"),
    ("SELECT * FROM outbox.put_many('[]')", "------"),
    ("SELECT outbox.is_plain('x', '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)", "------"),
    ("SELECT outbox.are_plain(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)", "------"),
    ("SELECT outbox.queue_deliveries('{}', now())", "------"),
    ("SELECT outbox.wake_relays()", "------"),
    ("SELECT outbox.canonical_raw('')", "------"),
    ("SELECT outbox.mime_parts('', '1', 0)", "------"),
    ("SELECT outbox.without_content_ids('', '', '{}')", "------"),
    ("SELECT outbox.read_plain_document('[]')", "------"),
    ("SELECT outbox.address_hash_of('{}')", "------"),
    ("SELECT outbox.parked_is_sound('held', 'infinity', NULL, NULL)", "-+----"),
    ("SELECT outbox.payload_violation('{}', '{}')", "------"),
    ("SELECT outbox.part_violation('{}', '{}', '{}', '', 0)", "------"),
    ("SELECT outbox.check_schema('x', 'x', '{}', '{}')", "------"),
    ("SELECT outbox.schema_problem('{}'), outbox.schema_parts('{}'), outbox.keyword_problem('type', '{}', true)", "------"),
    ("SELECT outbox.pattern_of(''), outbox.pattern_problem(''), outbox.pointer_name(''), outbox.pointer_word(''), outbox.are_strings('[]')", "------"),
    ("SELECT outbox.free_key('', 'k', NULL, true)", "------"),
    ("SELECT outbox.check_addresses('x', 'cc', '{}')", "------"),
    ("SELECT outbox.grant_roles()", "------"),
    ("SELECT outbox.audit_entry('x', NULL, NULL, NULL, NULL, NULL, NULL)", "------"),
    // Looking.
    ("SELECT * FROM outbox.deliveries", "--++--"),
    ("SELECT * FROM outbox.attempts", "--++--"),
    ("SELECT * FROM outbox.in_doubt", "--++--"),
    ("SELECT * FROM outbox.suspected_duplicates", "--++--"),
    ("SELECT * FROM outbox.find_suspected_duplicates(address => 'a@example.org')", "--++--"),
    ("SELECT * FROM outbox.find_deliveries('a@example.org')", "--++--"),
    ("SELECT * FROM outbox.find_unqueued()", "-+++--"),
    ("SELECT * FROM outbox.find_state('failed')", "--++--"),
    ("SELECT * FROM outbox.find_token(gen_random_uuid())", "--++--"),
    ("SELECT * FROM outbox.find_raw_message('<1@example.org>')", "--++--"),
    ("SELECT * FROM outbox.circumstances(gen_random_uuid())", "--++--"),
    ("SELECT outbox.history_since()", "--++--"),
    ("SELECT * FROM outbox.armed_state()", "--+++-"),
    ("SELECT * FROM outbox.payload_schemas", "--++--"),
    ("SELECT * FROM outbox.payload_schema", "------"),
    ("SELECT * FROM outbox.queue_health", "-++++-"),
    ("SELECT outbox.backlog()", "-++++-"),
    ("SELECT * FROM outbox.audit", "--+---"),
    ("SELECT * FROM outbox.message", "-+----"),
    ("SELECT * FROM outbox.message_default", "------"),
    ("SELECT * FROM outbox.queue", "-+----"),
    ("SELECT * FROM outbox.done", "-+----"),
    ("SELECT * FROM outbox.attempt", "-+----"),
    ("SELECT * FROM outbox.dedup_key", "------"),
    ("SELECT * FROM outbox.ordering", "------"),
    ("SELECT * FROM outbox.relay", "-++++-"),
    ("SELECT * FROM outbox.route", "-+----"),
    ("SELECT * FROM outbox.control", "-+----"),
    // Deciding. No such delivery and no such schema, so 22H51 and 22H58 are a yes.
    ("SELECT * FROM outbox.cancel(gen_random_uuid(), 'a reason')", "+-+---"),
    ("SELECT * FROM outbox.retry(gen_random_uuid(), 1, 'a reason')", "--+---"),
    ("SELECT * FROM outbox.hold(gen_random_uuid(), 'a reason')", "--+---"),
    ("SELECT * FROM outbox.release(gen_random_uuid(), 'a reason')", "--+---"),
    ("SELECT outbox.send_again(gen_random_uuid(), 'a reason')", "--+---"),
    ("SELECT outbox.without_message_id('')", "------"),
    ("SELECT outbox.resolve(gen_random_uuid(), 1, 'sent', 'a reason')", "--+---"),
    ("SELECT * FROM outbox.resolve_many('sent', 'a reason', kind => 'no-such-kind')", "--+---"),
    ("SELECT outbox.settle_evidence(gen_random_uuid(), 1, gen_random_uuid(), 'accepted', 'a log')", "--+---"),
    ("SELECT outbox.has_namesakes(gen_random_uuid(), 1)", "--+---"),
    ("SELECT outbox.publish_schema('greeting', '{}')", "--+---"),
    ("SELECT outbox.withdraw_schema('greeting', 'a reason')", "--+---"),
    ("SELECT outbox.enforce_schema('greeting', true, 'a reason')", "--+---"),
    ("SELECT outbox.arm('a reason')", "--+---"),
    ("SELECT outbox.arm('a reason', hold_pending => false)", "--+---"),
    ("SELECT * FROM outbox.quarantine()", "-++---"),
    ("SELECT outbox.release_failover('a reason')", "--+---"),
    ("SELECT outbox.resolve_doubt(gen_random_uuid(), 1, 'sent', 'a reason', NULL, false, 'policy')", "-+----"),
    ("SELECT outbox.resend_same_key(gen_random_uuid(), 1, gen_random_uuid(), 'default', 1, '1 hour', 'a reason')", "-+----"),
    ("SELECT outbox.is_bound(NULL, NULL, 0::int2)", "-+----"),
    // Stopping.
    ("SELECT outbox.pause('a reason', kind => 'k')", "--+---"),
    ("SELECT outbox.resume('a reason', kind => 'k')", "--+---"),
    ("SELECT outbox.pause_target('pause', NULL, 'k', NULL, NULL)", "------"),
    ("SELECT outbox.pause_words('k', NULL, NULL)", "--++--"),
    ("SELECT outbox.pause_words('k', NULL, NULL, 'a@example.org')", "--++--"),
    ("SELECT outbox.pause_words('00000000-0000-7000-8000-000000000000', 1::int2, 'paused')", "--++--"),
    ("SELECT outbox.adopt_orphans(1)", "-+----"),
    ("SELECT outbox.lanes_by_turns('{}')", "-+----"),
    ("SELECT * FROM outbox.blocked_keys", "--++--"),
    ("SELECT * FROM outbox.key_block", "------"),
    ("SELECT outbox.failed_blocks(gen_random_uuid()), outbox.is_skipped(gen_random_uuid(), 1::int2, 'held')", "-+----"),
    ("SELECT * FROM outbox.guard_batch('{}', '{}', '{}')", "-+----"),
    ("SELECT outbox.guard_digest(NULL, 1::int2), outbox.short_time('1h')", "------"),
    ("SELECT * FROM outbox.guard_seen", "------"),
    ("SELECT * FROM outbox.collect_batch('{}', '{}', '{}')", "-+----"),
    ("SELECT outbox.follow_digests(true)", "-+----"),
    ("SELECT * FROM outbox.digest_members", "--++--"),
    ("SELECT outbox.make_digest('', 2), outbox.tell_members(gen_random_uuid())", "------"),
    ("SELECT outbox.digest_key(NULL, 1::int2), outbox.digest_of_delivery(gen_random_uuid(), 1::int2)", "------"),
    ("SELECT * FROM outbox.digest, outbox.digest_group, outbox.digest_member", "------"),
    ("SELECT * FROM outbox.pauses", "--++--"),
    ("SELECT * FROM outbox.pause", "-+----"),
    ("SELECT * FROM outbox.pause_parked", "-+----"),
    ("DELETE FROM outbox.pause", "------"),
    ("SELECT * FROM outbox.stop_batch('{}', '{}', '{}', '{}', '{}')", "-+----"),
    ("SELECT outbox.unpark()", "-+----"),
    ("SELECT outbox.suppress('a@example.org')", "--+---"),
    ("SELECT outbox.unsuppress('a@example.org', 'a reason')", "--+---"),
    ("SELECT outbox.require_address('x', 'a@example.org'), outbox.address_digest('a@example.org')", "------"),
    ("SELECT outbox.suppress_bounced(gen_random_uuid(), 1::int2, gen_random_uuid(), 1, 1)", "-+----"),
    ("SELECT * FROM outbox.suppressions", "--++--"),
    // Forgetting.
    ("SELECT * FROM outbox.erase('a@example.org', 'a reason')", "--+---"),
    ("SELECT * FROM outbox.erase_mentions('a@example.org', 'a reason')", "--+---"),
    ("SELECT * FROM outbox.would_erase('a@example.org')", "--+---"),
    ("SELECT * FROM outbox.would_erase_mentions('a@example.org')", "--+---"),
    ("SELECT outbox.empty_mention(gen_random_uuid(), 'a@example.org', 'x')", "------"),
    ("SELECT outbox.without_delivery(gen_random_uuid()), outbox.note_unqueued('x', '{}', NULL, NULL)", "------"),
    ("SELECT outbox.name_taken('message', 'x')", "------"),
    ("SELECT * FROM outbox.erased('a@example.org')", "--++--"),
    ("SELECT outbox.is_content_gone(gen_random_uuid())", "--++--"),
    ("SELECT outbox.proof_of('a@example.org')", "------"),
    ("SELECT outbox.erase_message(gen_random_uuid(), 'a@example.org', '', 'x', false)", "------"),
    ("SELECT outbox.empty_message(NULL, 1::int2, 'a@example.org', '', 'x')", "------"),
    ("SELECT outbox.erase_elsewhere('a@example.org', '')", "------"),
    ("SELECT outbox.erase_keys('{}', '', 'a@example.org')", "------"),
    ("SELECT outbox.cancel_delivery(NULL, 'x')", "------"),
    ("SELECT outbox.erasure_waits_for(gen_random_uuid(), 1::int2, false)", "------"),
    ("SELECT outbox.require_content('x', gen_random_uuid())", "------"),
    ("SELECT * FROM outbox.erasure", "------"),
    ("SELECT * FROM outbox.erasure_key", "------"),
    ("SELECT * FROM outbox.erased_key", "------"),
    ("SELECT outbox.find_suppressions('a@example.org')", "--++--"),
    ("SELECT * FROM outbox.suppression", "-+----"),
    ("DELETE FROM outbox.suppression", "------"),
    ("UPDATE outbox.kind SET ignores_suppression = true", "-+----"),
    // The relay's statements.
    ("UPDATE outbox.queue SET lease = gen_random_uuid() WHERE message_id = gen_random_uuid()", "-+----"),
    ("DELETE FROM outbox.queue WHERE message_id = gen_random_uuid()", "-+----"),
    ("INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, address_hash) VALUES (gen_random_uuid(), 1, 1, now(), 0)", "------"),
    ("INSERT INTO outbox.done (message_id, recipient_no, state, lane, address_hash) VALUES (gen_random_uuid(), 1, 'failed', 1, 0)", "-+----"),
    ("DELETE FROM outbox.done WHERE message_id = gen_random_uuid()", "------"),
    ("INSERT INTO outbox.attempt (message_id, recipient_no, token, attempt_no, outcome, phase) VALUES (gen_random_uuid(), 1, gen_random_uuid(), 1, 'unknown', 'data')", "-+----"),
    ("UPDATE outbox.attempt SET outcome = 'accepted' WHERE outcome = 'unknown' AND false", "-+----"),
    ("DELETE FROM outbox.attempt WHERE message_id = gen_random_uuid()", "------"),
    ("INSERT INTO outbox.relay (incarnation, name, host, pid, version, doubt_grace) VALUES (gen_random_uuid(), 'n', 'h', 1, 'v', '1 min')", "-+----"),
    ("UPDATE outbox.relay SET beat = beat + 1 WHERE incarnation = gen_random_uuid()", "-+----"),
    ("INSERT INTO outbox.route (name) VALUES ('eu') ON CONFLICT (name) DO NOTHING RETURNING group_no", "-+----"),
    ("UPDATE outbox.route SET host = 'mx1', host_since = now() WHERE name = 'eu'", "-+----"),
    ("DELETE FROM outbox.route", "------"),
    ("SELECT outbox.doubts_over('{}', '{}', '{}', gen_random_uuid())", "-+----"),
    ("SELECT * FROM outbox.doubt_over", "------"),
    ("INSERT INTO outbox.doubt_over (token, message_id, recipient_no, observed_by) SELECT g, g, 1, g FROM gen_random_uuid() g", "------"),
    ("SELECT outbox.evidence_on_done(NULL, NULL, 'accepted', 'x')", "------"),
    ("SELECT outbox.evidence_on_queued(NULL, NULL, 'accepted', 'x')", "------"),
    ("INSERT INTO outbox.kind AS k (name) VALUES ('k') ON CONFLICT (name) DO UPDATE SET route = 'eu' WHERE k.route IS NULL", "-+----"),
    ("SELECT outbox.assert_armed(c.epoch, c.identity) FROM outbox.control c", "-+----"),
    ("SELECT outbox.durable_commit()", "-+----"),
    ("SELECT * FROM outbox.mark_in_doubt('{}', '1 hour')", "-+----"),
    ("SELECT outbox.free_ordered()", "-+----"),
    ("SELECT * FROM outbox.free_ordered('k')", "-+----"),
    ("SELECT * FROM outbox.maintain()", "-+----"),
    ("SELECT * FROM outbox.remove_contents('{}', '{}', NULL)", "-+----"),
    ("SELECT * FROM outbox.empty_messages('{}', '{}')", "------"),
    ("SELECT outbox.forget_rows('{}', NULL, NULL, 1)", "------"),
    ("SELECT * FROM outbox.note_postponed('x', 'x', 'x')", "------"),
    ("SELECT * FROM outbox.upkeep_postponed", "-+++--"),
    ("DELETE FROM outbox.upkeep_postponed", "------"),
    ("SELECT * FROM outbox.content_sweep, outbox.content_later", "------"),
    ("UPDATE outbox.message SET payload = NULL", "------"),
    ("SELECT outbox.settle_late(gen_random_uuid(), 1::int2, NULL, gen_random_uuid(), true, 'accepted', 'data', NULL, 250::int2, NULL, NULL, NULL, NULL, NULL, NULL, now(), 1)", "-+----"),
    ("SELECT outbox.assert_continues(c.epoch, c.identity, gen_random_uuid(), 0) FROM outbox.control c WHERE false", "-+----"),
    ("SELECT outbox.reassert(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)", "-+----"),
    ("SELECT outbox.disarm(gen_random_uuid(), gen_random_uuid(), 1)", "-+----"),
    ("SELECT outbox.continue_after_failover(gen_random_uuid(), gen_random_uuid(), 1)", "-+----"),
    ("SELECT outbox.address_is_known(), outbox.addresses(), outbox.own_address(), outbox.descends_from(gen_random_uuid())", "-+----"),
    ("SELECT outbox.note_address('x')", "-+----"),
    ("SELECT outbox.suspect_copy()", "-+----"),
    ("SELECT outbox.notice(gen_random_uuid(), 'x', 'x')", "------"),
    ("SELECT * FROM outbox.failover, outbox.arming, outbox.armed_address", "------"),
    ("UPDATE outbox.control SET epoch = gen_random_uuid()", "------"),
    ("SELECT * FROM outbox.drop_partitions_before(now())", "------"),
    ("SELECT outbox.keep_private('message_default')", "------"),
    // Being woken.
    ("INSERT INTO outbox.sleeper VALUES (gen_random_uuid(), now())", "-+----"),
    ("UPDATE outbox.sleeper SET until = now()", "-+----"),
    ("DELETE FROM outbox.sleeper", "-+----"),
    ("SELECT * FROM outbox.sleeper", "-++++-"),
    // Structure.
    ("CREATE TABLE outbox.mine (x int)", "------"),
    ("DROP VIEW outbox.deliveries", "------"),
    ("ALTER TABLE outbox.message ALTER COLUMN created_at SET DEFAULT now()", "------"),
    ("TRUNCATE outbox.done", "------"),
    ("SELECT nextval('outbox.order_no')", "------"),
];

#[tokio::test]
async fn each_role_may_do_exactly_what_it_is_there_for() {
    let outbox = Outbox::new().await;
    outbox.db.batch_execute(&format!("CREATE ROLE outsider_group_{0} NOLOGIN", outbox.name)).await.unwrap();
    let mut wrong = Vec::new();
    for (at, role) in ROLES.iter().enumerate() {
        let group = if *role == "outsider" { format!("outsider_group_{}", outbox.name) } else { (*role).to_owned() };
        let session = outbox.member_of(&group).await;
        for (statement, allowed) in MATRIX {
            assert_eq!(allowed.len(), ROLES.len(), "{statement}");
            session.batch_execute("BEGIN").await.unwrap();
            let denied = match session.batch_execute(statement).await {
                Ok(()) => false,
                Err(error) => match error.code() {
                    Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => true,
                    Some(code) if ["22H51", "22H58", "22H61"].contains(&code.code()) => false,
                    // The view takes no UPDATE and no DELETE from anybody.
                    Some(code) if *code == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE => true,
                    _ => panic!("{role}: {statement}: {error:?}"),
                },
            };
            session.batch_execute("ROLLBACK").await.unwrap();
            if denied == (&allowed[at..=at] == "+") {
                wrong.push(format!("{role} {}: {statement}", if denied { "may not" } else { "may" }));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{} cases", MATRIX.len() * ROLES.len());
}

#[tokio::test]
async fn nothing_is_granted_to_public() {
    let outbox = Outbox::new().await;
    let sql = "
        SELECT 'schema ' || nspname FROM pg_namespace n, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) a
        WHERE nspname IN ('outbox', 'outbox_test') AND a.grantee = 0
        UNION ALL
        SELECT 'function ' || p.oid::regprocedure FROM pg_proc p, aclexplode(coalesce(proacl, acldefault('f', proowner))) a
        WHERE pronamespace IN ('outbox'::regnamespace, 'outbox_test'::regnamespace) AND a.grantee = 0
        UNION ALL
        SELECT 'relation ' || c.oid::regclass FROM pg_class c, aclexplode(coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", relowner))) a
        WHERE relnamespace IN ('outbox'::regnamespace, 'outbox_test'::regnamespace) AND a.grantee = 0
        UNION ALL
        SELECT 'column ' || attrelid::regclass || '.' || attname FROM pg_attribute, aclexplode(attacl) a
        WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace IN ('outbox'::regnamespace, 'outbox_test'::regnamespace)) AND a.grantee = 0";
    assert_eq!(outbox.texts(sql).await, Vec::<String>::new());
}

#[tokio::test]
async fn every_object_has_a_comment() {
    let outbox = Outbox::new().await;
    let sql = "
        SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname IN ('outbox', 'outbox_test') AND obj_description(oid, 'pg_namespace') IS NULL
        UNION ALL
        SELECT 'function ' || oid::regprocedure FROM pg_proc
        WHERE pronamespace IN ('outbox'::regnamespace, 'outbox_test'::regnamespace) AND obj_description(oid, 'pg_proc') IS NULL
        UNION ALL
        -- Indexes of constraints and sequences of identity columns speak through their tables.
        SELECT relkind::text || ' ' || oid::regclass FROM pg_class c
        WHERE relnamespace IN ('outbox'::regnamespace, 'outbox_test'::regnamespace) AND obj_description(oid, 'pg_class') IS NULL
          AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = c.oid)
          AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND classid = 'pg_class'::regclass AND deptype IN ('i', 'P'))
        UNION ALL
        SELECT 'trigger ' || tgname FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
        WHERE relnamespace IN ('outbox'::regnamespace, 'outbox_test'::regnamespace) AND NOT tgisinternal AND tgparentid = 0 AND obj_description(t.oid, 'pg_trigger') IS NULL
        UNION ALL
        SELECT 'column outbox.notification.' || attname FROM pg_attribute
        WHERE attrelid = 'outbox.notification'::regclass AND attnum > 0 AND col_description(attrelid, attnum) IS NULL";
    assert_eq!(outbox.texts(sql).await, Vec::<String>::new());
}

/// What roles may call runs as its owner, so it must not look names up where the caller says.
#[tokio::test]
async fn definer_functions_pin_their_search_path() {
    let outbox = Outbox::new().await;
    let sql = "SELECT oid::regprocedure FROM pg_proc WHERE pronamespace IN ('outbox'::regnamespace, 'outbox_test'::regnamespace) AND prosecdef \
               AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)";
    assert_eq!(outbox.texts(sql).await, Vec::<String>::new());
}

/// Strings within a function are read by the setting of whoever calls it first in a session.
#[tokio::test]
async fn what_roles_may_call_reads_its_own_strings_whatever_a_session_sets() {
    let outbox = Outbox::new().await;
    let sql = "SELECT DISTINCT p.oid::regprocedure FROM pg_proc p
               JOIN pg_namespace n ON n.oid = p.pronamespace
               JOIN outbox.privilege r ON r.schema = n.nspname AND p.proname = ANY (r.names) AND r.privileges = 'EXECUTE'
               WHERE p.prosqlbody IS NULL AND p.proconfig IS NOT NULL
                 AND NOT 'standard_conforming_strings=on' = ANY (p.proconfig)";
    assert_eq!(outbox.texts(sql).await, Vec::<String>::new(), "SET standard_conforming_strings = on");
    let unpinned = "SELECT p.oid::regprocedure FROM pg_proc p JOIN outbox.privilege r ON p.proname = ANY (r.names) AND r.privileges = 'EXECUTE'
                    WHERE p.pronamespace = 'outbox'::regnamespace AND p.prosqlbody IS NULL AND p.proconfig IS NULL AND p.prosrc ~ '\\\\'";
    assert_eq!(outbox.texts(unpinned).await, Vec::<String>::new(), "has a string that depends on it");
}

/// A relay behind a pooler has the search_path of its role.
#[tokio::test]
async fn what_roles_may_call_looks_names_up_in_pg_catalog() {
    let outbox = Outbox::new().await;
    let sql = "SELECT DISTINCT p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
               JOIN outbox.privilege r ON r.schema = n.nspname AND p.proname = ANY (r.names) AND r.privileges = 'EXECUTE'
               WHERE p.prosqlbody IS NULL AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)";
    assert_eq!(outbox.texts(sql).await, Vec::<String>::new(), "SET search_path = pg_catalog, pg_temp");
}

/// What row level security hides from a relay, or by FORCE from the owner, must be an error there: through a pooler no session says so.
#[tokio::test]
async fn what_relays_call_takes_nothing_that_is_hidden_for_missing() {
    let outbox = Outbox::new().await;
    let sql = "SELECT DISTINCT p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
               JOIN outbox.privilege r ON r.schema = n.nspname AND p.proname = ANY (r.names) AND r.privileges = 'EXECUTE'
               WHERE r.roles ~ '\\moutbox_relay\\M' AND p.proconfig IS NOT NULL AND NOT 'row_security=off' = ANY (p.proconfig)";
    assert_eq!(outbox.texts(sql).await, Vec::<String>::new(), "SET row_security = off");
    // Each table that a relay reads by itself is looked at before anything it does.
    let sql = "SELECT DISTINCT t FROM outbox.privilege r CROSS JOIN unnest(r.names) t JOIN pg_class c ON c.relname = t AND c.relkind IN ('r', 'p')
               WHERE c.relnamespace = 'outbox'::regnamespace AND r.schema = 'outbox' AND r.roles ~ '\\moutbox_relay\\M' AND r.privileges <> 'EXECUTE'
                 AND strpos(pg_get_functiondef('outbox.assert_armed(uuid, text)'::regprocedure), '(''outbox.' || t || '''::regclass)') = 0";
    assert_eq!(outbox.texts(sql).await, Vec::<String>::new(), "outbox.assert_armed() looks at it");
}

#[tokio::test]
async fn a_producers_search_path_and_temporary_objects_change_nothing() {
    let outbox = Outbox::new().await;
    let producer = outbox.member_of("outbox_producer").await;
    producer
        .batch_execute(
            "CREATE TEMP TABLE message (LIKE pg_class); CREATE FUNCTION pg_temp.btrim(text, text) RETURNS text LANGUAGE sql AS 'SELECT ''x''';
             SET search_path = pg_temp, public",
        )
        .await
        .unwrap();
    super::support::enqueue(&producer, ", payload => '{}', cc => '{\" b@example.org \"}'").await.unwrap();
    assert_eq!(outbox.texts("SELECT cc FROM outbox.message").await, ["{b@example.org}"]);
}

#[tokio::test]
async fn migrating_without_the_right_to_create_roles_says_what_to_run() {
    let cluster = PgCluster::builder().fsync(false).setting("log_min_messages", "notice").start().await.unwrap();
    cluster.execute("postgres", "CREATE ROLE plain_owner LOGIN").await.unwrap();
    cluster.execute("postgres", "CREATE DATABASE shop OWNER plain_owner").await.unwrap();
    let (owner, connection) = tokio_postgres::connect(&cluster.url_for("shop", "plain_owner"), NoTls).await.unwrap();
    tokio::spawn(connection);
    migrate(&owner).await.expect("an owner without any role migrates");
    let log = cluster.log();
    let notice = log.lines().find(|line| line.contains("may not create roles")).expect("the notice");
    let (_, statements) = notice.split_once("run: ").expect("the statements");
    let (create, grant) = statements.split_once("SELECT").expect("and the grants");
    assert_eq!(grant.trim(), "outbox.grant_roles();");

    // The DBA does as told.
    cluster.execute("postgres", create).await.unwrap();
    let granted = owner.query("SELECT grantee FROM outbox.grant_roles()", &[]).await.unwrap();
    assert_eq!(granted.len(), 5);
    cluster
        .execute("shop", "SET ROLE outbox_producer; SELECT outbox.enqueue('greeting', '{a@example.org}', '{}')")
        .await
        .unwrap();

    // A second outbox in the cluster finds the roles.
    cluster.execute("postgres", "CREATE DATABASE other OWNER plain_owner").await.unwrap();
    let (second, connection) = tokio_postgres::connect(&cluster.url_for("other", "plain_owner"), NoTls).await.unwrap();
    tokio::spawn(connection);
    migrate(&second).await.unwrap();
    cluster
        .execute("other", "SET ROLE outbox_producer; SELECT outbox.enqueue('greeting', '{a@example.org}', '{}')")
        .await
        .unwrap();
}
