//! The whole way of a delivery inside one process: real Postgres, a scripted mail server, no binary.

mod stage;

use std::time::Duration;

use hapax_mail::Transport;
use hapax_testkit::{Fault, Phase, Rule, Script, eventually};
use stage::{DEADLINE, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_is_delivered_once_and_recorded() {
    let stage = Stage::set().await;
    let relay = stage.relay(stage.config()).await;
    stage.enqueue(500).await;
    stage.until_done(500).await;
    relay.stop().await;
    stage.server.with_ledger(|ledger| {
        assert_eq!(ledger.totals().accepted, 500);
        ledger.assert_none_accepted_twice();
    });
    assert_eq!(stage.count("SELECT count(*) FROM outbox.done WHERE state = 'sent' AND evidence = 'reply'").await, 500);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.attempt WHERE outcome = 'accepted' AND code = 250").await, 500);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue").await, 0);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.relay WHERE signed_off_at IS NOT NULL").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_for_now_is_tried_again_and_one_for_good_fails_with_the_servers_words() {
    let stage = Stage::set().await;
    let first_refusal =
        Rule::at(Phase::Rcpt, Fault::Custom(b"450 4.2.1 later\r\n".to_vec())).recipient("r1@example.org").times(1);
    let no_such_user =
        Rule::at(Phase::Rcpt, Fault::Custom(b"550 5.1.1 no such user\r\n".to_vec())).recipient("r2@example.org");
    stage.server.script(Script::rules([first_refusal, no_such_user]));
    let relay = stage.relay(stage.config()).await;
    stage.enqueue(3).await;
    stage.until_done(3).await;
    relay.stop().await;
    let states = stage.states().await;
    assert_eq!(states["r1@example.org"], ("sent".into(), 2, None));
    assert_eq!(states["r2@example.org"].0, "failed");
    assert_eq!(states["r2@example.org"].2.as_deref(), Some("refused at rcpt: 550 5.1.1 no such user"));
    assert_eq!(states["r3@example.org"], ("sent".into(), 1, None));
    stage.server.with_ledger(|ledger| assert_eq!(ledger.count_rcpt_commands("r1@example.org"), 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_lost_after_the_end_marker_is_in_doubt_and_never_sent_again() {
    let stage = Stage::set().await;
    let took = Phase::EndMarker { took: true };
    let faults = [
        Fault::Eof,
        Fault::Reset,
        Fault::Reply421,
        Fault::Garbage,
        Fault::HalfLine,
        Fault::Reply3xx,
        Fault::Stall,
        // A refusal with an acceptance behind it: believing the first would send a second copy.
        Fault::Custom(b"451 4.3.0 later\r\n250 2.0.0 ok\r\n".to_vec()),
        Fault::Custom(b"554 5.0.0 no\r\n250 2.0.0 ok\r\n".to_vec()),
    ];
    let rules =
        faults.iter().zip(1..).map(|(fault, n)| Rule::at(took, fault.clone()).recipient(format!("r{n}@example.org")));
    stage.server.script(Script::rules(rules.collect::<Vec<_>>()));
    let relay = stage.relay(stage.config()).await;
    stage.enqueue(10).await;
    eventually(DEADLINE, async || {
        let open = stage.count("SELECT count(*) FROM outbox.queue WHERE parked IS DISTINCT FROM 'doubt'").await;
        (open == 0).then_some(()).ok_or(open)
    })
    .await;
    assert_eq!(
        stage
            .count(
                "SELECT count(*) FROM outbox.queue WHERE parked = 'doubt' AND doubt_by = 'relay' AND open_doubts = 1"
            )
            .await,
        9
    );
    assert_eq!(stage.count("SELECT count(*) FROM outbox.attempt WHERE outcome = 'unknown'").await, 9);
    // A person decides; each is then sent once more, and only once.
    stage.server.script(Script::good());
    let resolve = "SELECT count(outbox.resolve(message_id, recipient_no, 'resend', 'test', intent)) FROM outbox.queue WHERE parked = 'doubt'";
    assert_eq!(stage.count(resolve).await, 9);
    stage.until_done(10).await;
    relay.stop().await;
    assert_eq!(stage.server.with_ledger(|ledger| ledger.totals().accepted), 19);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.done WHERE state = 'sent' AND open_doubts = 1").await, 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_shuts_down_waits_for_the_reply_and_gives_back_the_rest() {
    let stage = Stage::set().await;
    let hold = stage.server.hold_final_reply();
    let mut config = stage.config();
    config.timeouts.final_reply = Duration::from_secs(60);
    if let Transport::Smtp(server) = &mut config.routes[0].transport {
        server.timeouts.final_reply = Duration::from_secs(60);
    }
    config.routes[0].max_connections = 4;
    let relay = stage.relay(config).await;
    stage.enqueue(100).await;
    hold.wait_for(4).await;
    relay.shutdown.soft.cancel();
    eventually(DEADLINE, async || {
        let leased = stage.count("SELECT count(*) FROM outbox.queue WHERE lease IS NOT NULL AND intent IS NULL").await;
        (leased == 0).then_some(()).ok_or(leased)
    })
    .await;
    hold.release();
    relay.stop().await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.done WHERE state = 'sent'").await, 4);
    assert_eq!(
        stage.count("SELECT count(*) FROM outbox.queue WHERE lease IS NULL AND intent IS NULL AND claims = 0").await,
        96
    );
    assert_eq!(stage.server.with_ledger(|ledger| ledger.totals().accepted), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_is_down_costs_the_message_no_attempt() {
    let stage = Stage::set().await;
    stage.server.stop().await;
    let relay = stage.relay(stage.config()).await;
    stage.enqueue(200).await;
    eventually(DEADLINE, async || {
        let tried =
            stage.count("SELECT count(*) FROM outbox.attempt WHERE outcome = 'not_sent' AND phase = 'connect'").await;
        (tried >= 2).then_some(()).ok_or(tried)
    })
    .await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE attempt_no > 0").await, 0);
    stage.server.restart().await;
    stage.until_done(200).await;
    relay.stop().await;
    assert_eq!(stage.server.with_ledger(|ledger| ledger.totals().accepted), 200);
    // The breaker lets single probes through, not the whole backlog again and again.
    let tried = stage.count("SELECT count(*) FROM outbox.attempt WHERE outcome = 'not_sent'").await;
    assert!(tried < 200, "{tried} failed attempts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_killed_under_load_costs_no_duplicate_and_nothing_is_lost() {
    let stage = Stage::set().await;
    stage.server.final_reply_delay(Duration::from_millis(5));
    let relay = stage.relay(stage.config()).await;
    stage.enqueue(1_000).await;
    for mark in [200, 600] {
        stage.server.wait_until(|ledger| ledger.totals().accepted >= mark).await;
        stage.cluster.kill_immediate().await.expect("killed");
        stage.cluster.restart().await.expect("restarted");
    }
    let stage = Stage { sql: stage.cluster.client("postgres").await.expect("a client"), ..stage };
    stage.until_done(1_000).await;
    relay.stop().await;
    stage.server.with_ledger(|ledger| {
        ledger.assert_none_accepted_twice();
        assert_eq!(ledger.totals().accepted, 1_000);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_names_an_unknown_route_is_held_and_says_so() {
    let stage = Stage::set().await;
    let relay = stage.relay(stage.config()).await;
    stage.sql.batch_execute("INSERT INTO outbox.notification (kind, recipients, subject, body_text, route) VALUES ('note', '{a@example.org}', 's', 't', 'pigeon')").await.expect("enqueues");
    eventually(DEADLINE, async || stage.count("SELECT count(*) FROM outbox.queue WHERE parked = 'held' AND note LIKE 'route \"pigeon\" is not configured%'").await == 1).await;
    relay.stop().await;
}
