//! What keeps a relay from doing harm: suspects and poison, changed content, expiry, order, limits of servers.

mod stage;

use std::time::Duration;

use hapax_core::Priority;
use hapax_relay::KindPolicy;
use hapax_testkit::{Fault, Phase, Rule, Script, eventually};
use stage::{DEADLINE, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspect_is_tried_alone_and_what_died_alone_is_poison() {
    let stage = Stage::set().await;
    stage.enqueue(20).await;
    // As if relays had died: five claims without an end for all of them, seven for one.
    stage.sql.batch_execute("UPDATE outbox.queue SET claims = 5").await.expect("updates");
    let worst =
        "UPDATE outbox.queue SET claims = 6 WHERE message_id = (SELECT min(message_id::text)::uuid FROM outbox.queue)";
    stage.sql.batch_execute(worst).await.expect("updates");
    let hold = stage.server.hold(Phase::Rcpt);
    let relay = stage.relay(stage.config()).await;
    hold.wait_for(1).await;
    // One is in hand; the neighbours were given back and are not counted against.
    eventually(DEADLINE, async || {
        let counted = stage.count("SELECT count(*) FROM outbox.queue WHERE claims > 5 AND parked IS NULL").await;
        (counted == 1).then_some(()).ok_or(counted)
    })
    .await;
    assert_eq!(stage.server.connections_open(), 1);
    hold.release();
    stage.until_done(19).await;
    relay.stop().await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE parked = 'poison' AND note LIKE 'poison: the relay died 6 times%'").await, 1);
    assert_eq!(stage.server.with_ledger(|ledger| ledger.totals().accepted), 19);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bytes_than_an_attempt_in_doubt_are_held_and_not_sent() {
    let stage = Stage::set().await;
    stage.enqueue(2).await;
    let changed = "UPDATE outbox.queue SET content_sha256 = sha256('another text'), open_doubts = 1 WHERE message_id = (SELECT min(message_id::text)::uuid FROM outbox.queue)";
    stage.sql.batch_execute(changed).await.expect("updates");
    // The same difference without a doubt is no reason to hold.
    stage
        .sql
        .batch_execute("UPDATE outbox.queue SET content_sha256 = sha256('another text') WHERE open_doubts = 0")
        .await
        .expect("updates");
    let relay = stage.relay(stage.config()).await;
    stage.until_done(1).await;
    eventually(DEADLINE, async || {
        stage.count("SELECT count(*) FROM outbox.queue WHERE parked = 'held' AND note LIKE 'content changed:%'").await
            == 1
    })
    .await;
    relay.stop().await;
    assert_eq!(stage.server.with_ledger(|ledger| ledger.totals().end_markers), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_expired_is_not_sent_whoever_said_so() {
    let stage = Stage::set().await;
    let mut config = stage.config();
    let policy = KindPolicy { expires_after: Some(Duration::ZERO), ..KindPolicy::default() };
    config.kinds.insert("fleeting".into(), policy);
    let insert = "INSERT INTO outbox.notification (kind, recipients, subject, body_text, expires_at) VALUES
        ('note', '{a@example.org}', 's', 't', now() + interval '1 hour'), ('fleeting', '{b@example.org}', 's', 't', NULL), ('note', '{c@example.org}', 's', 't', now() + interval '1 day');
        UPDATE outbox.message SET expires_at = now() - interval '1 second' WHERE recipients = '{a@example.org}'";
    stage.sql.batch_execute(insert).await.expect("enqueues");
    let relay = stage.relay(config).await;
    stage.until_done(3).await;
    relay.stop().await;
    let states = stage.states().await;
    assert_eq!(
        ["a", "b", "c"].map(|name| states[&format!("{name}@example.org")].0.clone()),
        ["expired", "expired", "sent"]
    );
    assert_eq!(stage.server.with_ledger(|ledger| ledger.count_mail_commands()), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_of_one_ordering_key_go_one_after_another_in_order() {
    let stage = Stage::set().await;
    let refuse_once =
        Rule::at(Phase::Rcpt, Fault::Custom(b"450 4.2.1 later\r\n".to_vec())).recipient("k3@example.org").times(1);
    stage.server.script(Script::rules([refuse_once]));
    let insert = "INSERT INTO outbox.notification (kind, recipients, subject, body_text, ordering_key) SELECT 'note', ARRAY['k' || i || '@example.org'], 's', 't', 'key' FROM generate_series(1, 8) i";
    stage.sql.batch_execute(insert).await.expect("enqueues");
    stage.enqueue(20).await;
    let relay = stage.relay(stage.config()).await;
    stage.until_done(28).await;
    relay.stop().await;
    let arrived: Vec<String> = stage.server.with_ledger(|ledger| {
        let keyed = |recipient: &&String| recipient.starts_with('k');
        ledger.messages().filter_map(|message| message.recipients.iter().find(keyed).cloned()).collect()
    });
    // Of several connections the ledger lists each one's messages together: the database says when each ended.
    let order = "SELECT string_agg(m.recipients[1], ' ' ORDER BY d.finished_at) FROM outbox.done d JOIN outbox.message m ON m.id = d.message_id WHERE m.ordering_key = 'key'";
    let ended: String = stage.sql.query_one(order, &[]).await.expect("reads").get(0);
    assert_eq!(ended, (1..=8).map(|n| format!("k{n}@example.org")).collect::<Vec<_>>().join(" "));
    assert_eq!(arrived.len(), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_allows_two_connections_gets_two_and_all_the_mail() {
    let stage = Stage::set().await;
    stage.server.connections_max(2);
    let relay = stage.relay(stage.config()).await;
    stage.enqueue(300).await;
    stage.until_done(300).await;
    relay.stop().await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.done WHERE state = 'sent' AND attempt_no = 1").await, 300);
    assert_eq!(stage.server.with_ledger(|ledger| ledger.totals().accepted), 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_died_while_idle_is_not_an_attempt() {
    let stage = Stage::set().await;
    let mut config = stage.config();
    config.routes[0].max_connections = 1;
    let relay = stage.relay(config).await;
    stage.enqueue(1).await;
    stage.until_done(1).await;
    stage.server.restart().await;
    stage.enqueue(5).await;
    stage.until_done(6).await;
    relay.stop().await;
    let others = "SELECT string_agg(concat_ws(' ', outcome, phase, cause, code, detail), '; ') FROM outbox.attempt WHERE outcome <> 'accepted'";
    let others: Option<String> = stage.sql.query_one(others, &[]).await.expect("reads").get(0);
    assert_eq!(others, None);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.attempt").await, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_urgent_kind_overtakes_a_backlog() {
    let stage = Stage::set().await;
    let mut config = stage.config();
    config.limits.max_in_flight = 4;
    let urgent = KindPolicy { priority: Some(Priority::Urgent), ..KindPolicy::default() };
    config.kinds.insert("password_reset".into(), urgent);
    stage.server.final_reply_delay(Duration::from_millis(5));
    let relay = stage.relay(config).await;
    eventually(DEADLINE, async || {
        stage.count("SELECT count(*) FROM outbox.kind WHERE name = 'password_reset'").await == 1
    })
    .await;
    stage.enqueue(1_000).await;
    stage.server.wait_until(|ledger| ledger.totals().accepted >= 20).await;
    stage.sql.batch_execute("INSERT INTO outbox.notification (kind, recipients, subject, body_text) VALUES ('password_reset', '{me@example.org}', 's', 't')").await.expect("enqueues");
    stage.server.wait_until(|ledger| ledger.count_rcpt_commands("me@example.org") == 1).await;
    let before = stage.server.with_ledger(|ledger| ledger.totals().accepted);
    assert!(before < 900, "{before} of the backlog went first");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_whose_identity_is_taken_stops_and_sends_nothing_more() {
    let stage = Stage::set().await;
    let relay = stage.relay(stage.config()).await;
    stage.enqueue(1).await;
    stage.until_done(1).await;
    stage.sql.batch_execute("UPDATE outbox.relay SET beat = beat + 1000").await.expect("updates");
    let error = relay.task.await.expect("no panic").expect_err("it stops");
    assert!(matches!(error, hapax_relay::Error::Incarnation), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_armed_anew_stops_the_relay_inside_its_statements() {
    let stage = Stage::set().await;
    let relay = stage.relay(stage.config()).await;
    stage.enqueue(1).await;
    stage.until_done(1).await;
    stage.sql.batch_execute("UPDATE outbox.control SET epoch = gen_random_uuid()").await.expect("updates");
    stage.enqueue(5).await;
    let error = relay.task.await.expect("no panic").expect_err("it stops");
    assert!(matches!(error, hapax_relay::Error::Guard { .. }), "{error:?}");
    assert_eq!(stage.server.with_ledger(|ledger| ledger.totals().end_markers), 1);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE intent IS NULL").await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc04_a_slow_dialogue_keeps_its_lease_and_is_not_claimed_again() {
    let stage = Stage::set().await;
    stage.enqueue(3).await;
    let hold = stage.server.hold(Phase::Rcpt);
    let mut config = stage.config();
    config.limits.lease = Duration::from_millis(600);
    let relays = [stage.relay(config.clone()).await, stage.relay(config).await];
    hold.wait_for(3).await;
    // Three leases have passed, and the dialogues go on.
    eventually(DEADLINE, async || {
        let kept = "SELECT count(*) FROM outbox.queue q JOIN outbox.message m ON m.id = q.message_id WHERE q.lease_until > m.created_at + interval '2.4 seconds'";
        stage.count(kept).await == 3
    })
    .await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE claims = 1").await, 3);
    hold.release();
    stage.until_done(3).await;
    for relay in relays {
        relay.stop().await;
    }
    assert_eq!(stage.server.with_ledger(|ledger| ledger.count_mail_commands()), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_locked_while_its_dead_relay_is_reaped_is_put_in_doubt_afterwards() {
    let stage = Stage::set().await;
    stage.enqueue(2).await;
    let dead = "WITH gone AS (INSERT INTO outbox.relay (incarnation, name, host, pid, version, doubt_grace, signed_off_at)
                              VALUES (gen_random_uuid(), 'gone', 'h', 1, '0', '1 minute', now()) RETURNING incarnation)
                UPDATE outbox.queue SET lease = gen_random_uuid(), intent = gen_random_uuid(), intent_by = gone.incarnation, intent_at = now() FROM gone";
    stage.sql.batch_execute(dead).await.expect("updates");
    let mut other = stage.cluster.client("postgres").await.expect("a client");
    let lock = other.transaction().await.expect("begins");
    lock.batch_execute("SELECT FROM outbox.queue ORDER BY message_id LIMIT 1 FOR UPDATE").await.expect("locks");
    let relay = stage.relay(stage.config()).await;
    let doubts = "SELECT count(*) FROM outbox.queue WHERE parked = 'doubt'";
    eventually(DEADLINE, async || stage.count(doubts).await == 1).await;
    lock.rollback().await.expect("ends");
    eventually(DEADLINE, async || stage.count(doubts).await == 2).await;
    relay.stop().await;
    assert_eq!(stage.server.with_ledger(|ledger| ledger.count_mail_commands()), 0);
}
