//! What ANALYZE keeps of the tables outlives what it was taken from, and erasing does not reach it: nothing of addresses,
//! contents, keys and free texts is kept, in weeks that were made later either.

use tokio_postgres::NoTls;

use super::support::{Outbox, apply, cluster, texts};

const PAGE: &str = include_str!("../../../deploy/DBA.md");

/// Columns that may be sampled though a text could be in them: words of a fixed set, names that the configuration or the
/// database gives, and hashes by which rows are found. Whoever adds a column decides: here, or `SET STATISTICS 0`.
const SAMPLED: &[&str] = &[
    "armed_address.address",
    "armed_address.how",
    "armed_address.noted_by",
    "arming.armed_by",
    "arming.identity",
    "attempt.cause",
    "attempt.enhanced",
    "attempt.outcome",
    "attempt.phase",
    "attempt.route",
    "attempt.server",
    "audit.action",
    "audit.actor",
    "audit.role",
    "content_sweep.kinds",
    "control.armed_by",
    "control.identity",
    "digest.evidence",
    "digest.kind",
    "digest.state",
    "digest_group.key",
    "digest_group.kind",
    "digest_member.key",
    "done.content_sha256",
    "done.evidence",
    "done.state",
    "erased_key.proof",
    "erasure.erased_by",
    "erasure.proof",
    "failover.cause",
    "failover.identity",
    "failover.noticed_by",
    "kind.collect_as",
    "kind.name",
    "kind.on_duplicate",
    "kind.priority",
    "kind.route",
    "message.kind",
    "message.locale",
    "message.on_doubt",
    "message.priority",
    "message.route",
    "message.session_role",
    "migration.applied_by",
    "migration.checksum",
    "migration.name",
    "pause.paused_by",
    "pause.what",
    "payload_schema.kind",
    "payload_schema.published_by",
    "payload_schema.schema",
    "payload_schema.sha256",
    "privilege.names",
    "privilege.privileges",
    "privilege.roles",
    "privilege.schema",
    "queue.content_sha256",
    "queue.doubt_by",
    "queue.parked",
    "queue.pinned_route",
    "relay.host",
    "relay.name",
    "relay.route_states",
    "relay.routes",
    "relay.version",
    "route.host",
    "route.name",
    "suppression.entered_by",
    "suppression.kind",
    "suppression.reason",
    "upkeep_postponed.what",
];

/// Numbers, times and ids have nothing to tell; everything else may.
const MAY_BE_SAMPLED: &str = "
    SELECT DISTINCT regexp_replace(c.relname, '_(20[0-9]{6}|default)$', '') || '.' || a.attname
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'outbox'::regnamespace AND c.relkind IN ('r', 'p', 'm') AND a.attnum > 0 AND NOT a.attisdropped
      AND coalesce(a.attstattarget, -1) <> 0
      AND a.atttypid <> ALL ('{bool,int2,int4,int8,float8,uuid,xid8,timestamptz,interval}'::regtype[]) ORDER BY 1";

/// Of indexes by expressions there are samples, too.
const OF_INDEXES: &str = "
    SELECT c.relname || ': ' || pg_get_indexdef(c.oid, a.attnum, true) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'outbox'::regnamespace AND i.indkey[a.attnum - 1] = 0 AND coalesce(a.attstattarget, -1) <> 0 ORDER BY 1";

const FILL: &str = "
    SELECT outbox.enqueue('note', ARRAY['Zebedee <zebedee' || g || '@example.org>'], cc => ARRAY['zebedee.cc@example.org'], bcc => ARRAY['zebedee.bcc@example.org'],
      sender => 'zebedee@example.org', reply_to => 'zebedee@example.org', subject => 'Dear Zebedee', body_text => 'zebedee''s token ' || g, body_html => 'zebedee',
      headers => '{\"X-Who\": \"zebedee\"}', attachments => '[{\"filename\": \"zebedee.txt\", \"content_type\": \"text/plain\", \"content_base64\": \"eA==\"}]',
      ordering_key => 'zebedee' || g % 50, dedup_key => 'zebedee' || g, tenant => 'zebedee') FROM generate_series(1, 300) g;
    SELECT outbox.enqueue('note', ARRAY['zebedee@example.org'], raw_message => convert_to(E'Subject: zebedee ' || g || E'\\n\\nzebedee\\n', 'UTF8')) FROM generate_series(1, 50) g;
    SELECT outbox.hold(d.message_id, 'zebedee called'), outbox.cancel(d.message_id, 'zebedee wrote') FROM (SELECT DISTINCT message_id FROM outbox.queue LIMIT 80) d;
    SELECT outbox.hold(d.message_id, 'zebedee called') FROM (SELECT DISTINCT message_id FROM outbox.queue WHERE order_key IS NOT NULL LIMIT 80) d;
    SELECT outbox.suppress('zebedee' || g || '@example.org', 'manual', tenant => 'zebedee', note => 'zebedee called', keep_address => true) FROM generate_series(1, 50) g;
    SELECT outbox.pause('zebedee called', address => 'zebedee' || g || '@example.org') FROM generate_series(1, 50) g;
    INSERT INTO outbox.attempt (message_id, recipient_no, token, attempt_no, outcome, phase, reply, detail, started_at)
    SELECT q.message_id, q.recipient_no, gen_random_uuid(), 1, 'deferred', 'rcpt', 'zebedee is full', 'zebedee', now() FROM outbox.queue q";

/// Columns and tables of ours whose sample has him in it.
const NAMED: &str = "
    SELECT tablename || '.' || attname FROM pg_stats WHERE schemaname = 'outbox'
      AND concat(most_common_vals::text, histogram_bounds::text, most_common_elems::text) ~* 'zebedee|7a656265646565' ORDER BY 1";

#[tokio::test]
async fn every_column_that_may_be_sampled_is_on_the_list() {
    let outbox = Outbox::new().await;
    let weeks = outbox.number("SELECT count(*) FROM outbox.maintain('70 days') WHERE action = 'created'").await;
    assert!(weeks >= 10, "{weeks}");
    assert_eq!(outbox.texts(MAY_BE_SAMPLED).await, SAMPLED);
    assert_eq!(outbox.texts(OF_INDEXES).await, ["suppression_entry: COALESCE(kind, ''::text)"]);
}

#[tokio::test]
async fn analysed_tables_leave_nothing_of_what_was_in_them_in_old_weeks_and_new_ones() {
    let outbox = Outbox::new().await;
    outbox.db.batch_execute(FILL).await.expect("fills");
    // As a message of a week that was made later: with the id of one enqueued then.
    outbox.db.batch_execute("SELECT outbox.maintain('70 days')").await.expect("makes weeks");
    let later = "INSERT INTO outbox.message (id, created_at, kind, recipients, subject, body_text)
                 SELECT outbox.uuid_floor(now() + interval '60 days' + g * interval '1 s'), now(), 'note', ARRAY['zebedee' || g || '@example.org'], 'zebedee ' || g, 'zebedee'
                 FROM generate_series(1, 60) g";
    outbox.db.batch_execute(later).await.expect("fills");
    outbox.db.batch_execute("ANALYZE").await.expect("analyses");
    let sampled = outbox
        .number("SELECT count(DISTINCT tablename) FROM pg_stats WHERE schemaname = 'outbox' AND tablename ~ '^message'")
        .await;
    assert!(sampled >= 3, "the parent and two weeks: {sampled}");
    assert_eq!(outbox.texts(NAMED).await, [""; 0]);
    // It would be seen: one that is sampled after all.
    let forgotten = "ALTER TABLE outbox.message ALTER COLUMN subject SET STATISTICS -1; ANALYZE outbox.message";
    outbox.db.batch_execute(forgotten).await.expect("analyses");
    let seen = outbox.texts(NAMED).await;
    assert!(seen.len() >= 3 && seen.iter().all(|one| one.ends_with(".subject")), "{seen:?}");
}

#[tokio::test]
async fn samples_of_before_go_with_the_migration_of_a_superuser_and_else_by_the_statement_of_the_page_for_dbas() {
    let boxes = PAGE.split("```sql\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
    let statement = boxes.clone().find(|sql| sql.starts_with("DELETE FROM pg_statistic")).expect("on the page");
    // Roles are the cluster's.
    let template = Outbox::new().await;
    for (user, at_once) in [("postgres", true), ("landlady", false)] {
        let name = format!("{}_{user}", template.name);
        let owner = "CREATE ROLE landlady LOGIN";
        if !at_once {
            template.db.batch_execute(owner).await.expect("a role");
        }
        cluster().await.execute("postgres", &format!("CREATE DATABASE {name} OWNER {user}")).await.expect("a database");
        let (db, connection) =
            tokio_postgres::connect(&cluster().await.url_for(&name, user), NoTls).await.expect("connects");
        tokio::spawn(connection);
        db.batch_execute("CREATE SCHEMA outbox").await.expect("a schema");
        apply(&db, "0001"..="0049").await;
        db.batch_execute(FILL).await.expect("fills");
        db.batch_execute("ANALYZE").await.expect("analyses");
        let before = texts(&db, NAMED).await.expect("reads");
        for column in [
            "message.recipients",
            "message.headers",
            "attempt.reply",
            "queue.note",
            "done.reason",
            "dedup_key.key",
            "ordering.order_key",
            "suppression.note",
            "suppression_entry.coalesce1",
            "pause.reason",
            "audit.reason",
        ] {
            assert!(before.iter().any(|one| one == column), "{column}: {before:?}");
        }
        let admin = cluster().await.client(&name).await.expect("it takes a client");
        if !at_once {
            // And a schema of somebody else's, in place of ours.
            let theirs = "DROP SCHEMA outbox_test CASCADE; CREATE SCHEMA outbox_test; CREATE FUNCTION outbox_test.decoded(text) RETURNS text RETURN lower($1)";
            let theirs = format!(
                "{theirs}; CREATE FUNCTION outbox_test.assert_enqueued() RETURNS text LANGUAGE sql AS 'SELECT lower(user)'"
            );
            admin.batch_execute(&theirs).await.expect("made");
        }
        apply(&db, "0050"..="9999").await;
        db.batch_execute("ANALYZE").await.expect("analyses");
        let after = texts(&db, NAMED).await.expect("reads");
        let version: i32 =
            db.query_one("SELECT current_setting('server_version_num')::int", &[]).await.expect("reads").get(0);
        assert_eq!(after, if at_once || version >= 180_000 { Vec::new() } else { before }, "{user}");
        admin.batch_execute(statement).await.expect("removes");
        assert_eq!(texts(&db, NAMED).await.expect("reads"), [""; 0], "{user}");
    }
}
