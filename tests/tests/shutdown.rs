//! How a relay ends: it claims nothing new, waits for open replies, gives everything else back, signs off, exits 0.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hapax_testkit::smtp::Hold;
use hapax_testkit::{HapaxProcess, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Settings, Stage};
use hapax_tests::verdict::Verdict;

/// What a relay that has ended well leaves behind: no lease, no intent, its name signed off.
async fn assert_nothing_left(stage: &Stage) {
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE lease IS NOT NULL OR intent IS NOT NULL").await, 0);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.relay WHERE signed_off_at IS NULL").await, 0);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.in_doubt").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_leaves_nothing_in_doubt_and_a_second_relay_finishes_the_rest() {
    let server = SmtpServer::builder().final_reply_delay(Duration::from_millis(20)).start();
    let stage = Stage::with(server).await;
    let mut total = 0;
    stage.enqueue(2_000).await;
    // A rolling deploy: six relays one after another, each ended in the middle of its work.
    for generation in 1..=6 {
        let mut relay = stage.settings().run().await;
        let mark = stage.server.with_ledger(|ledger| ledger.totals().accepted) + 150;
        stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= mark).await;
        let asked = Instant::now();
        relay.sigterm();
        assert_eq!(relay.wait_exit(Duration::from_secs(30)).await.code(), Some(0), "{}", relay.report());
        assert_nothing_left(&stage).await;
        let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
        verdict.assert_clean(2_000);
        assert_eq!(
            (verdict.count("sent"), verdict.count("pending")),
            (verdict.accepted, 2_000 - verdict.accepted),
            "{verdict}"
        );
        assert!(verdict.count("sent") > total, "{verdict}");
        total = verdict.count("sent");
        println!("generation {generation} ended within {:.0?}: {verdict}", asked.elapsed());
    }
    let mut relay = stage.settings().run().await;
    stage.until("sent", 2_000).await;
    relay.sigint();
    assert_eq!(relay.wait_exit(Duration::from_secs(30)).await.code(), Some(0), "{}", relay.report());
    assert_nothing_left(&stage).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(2_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_while_a_server_holds_its_reply_waits_for_it() {
    let stage = Stage::set().await;
    let hold = stage.server.hold_final_reply();
    let mut relay = stage.settings().set("routes.default.max_connections", 4).run().await;
    stage.enqueue(60).await;
    hold.wait_for(4).await;
    relay.sigterm();
    // Everything that has no intent is given back at once; the relay itself waits.
    eventually(PATIENCE, async || {
        stage.count("SELECT count(*) FROM outbox.queue WHERE lease IS NOT NULL AND intent IS NULL").await == 0
    })
    .await;
    assert!(relay.status().is_none(), "it waits for four replies\n{}", relay.report());
    assert_eq!(stage.states().await.get("sending"), Some(&4));
    hold.release();
    assert_eq!(relay.wait_exit(Duration::from_secs(20)).await.code(), Some(0), "{}", relay.report());
    assert_nothing_left(&stage).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(60);
    assert_eq!((verdict.count("sent"), verdict.count("pending"), verdict.accepted), (4, 56, 4), "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigterm_ends_it_promptly_and_what_was_held_is_in_doubt_later() {
    let stage = Stage::set().await;
    let hold = stage.server.hold_final_reply();
    let mut relay = stage.settings().set("routes.default.max_connections", 3).run().await;
    stage.enqueue(30).await;
    hold.wait_for(3).await;
    relay.sigterm();
    relay.wait_for_line(|line| line.contains("a second signal ends it at once")).await;
    let asked = Instant::now();
    relay.sigterm();
    let status = relay.wait_exit(Duration::from_secs(20)).await;
    println!("ended with {:?} within {:.1?}", status.code(), asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(8), "{}", relay.report());
    assert_eq!(status.code(), Some(1), "it says that something was left\n{}", relay.report());
    hold.release();
    let _relay = stage.settings().run().await;
    stage.until("in_doubt", 3).await;
    stage.until("sent", 27).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(30);
    assert_eq!((verdict.accepted, verdict.twice.len()), (30, 0), "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_nobody_makes_durable_is_told_once_with_what_was_known() {
    let mut stage = Stage::set().await;
    let hold = stage.server.hold_final_reply();
    let mut relay = stage.settings().run().await;
    stage.enqueue_one("ada@example.org", "").await;
    hold.wait_for(1).await;
    stage.cluster.stop().await.expect("it stops");
    let closed = |relay: &HapaxProcess| {
        let lines = relay.lines();
        lines.into_iter().filter(|line| line.contains("\"verdict\":")).collect::<Vec<_>>()
    };
    hold.release();
    relay.wait_for_line(|line| line.contains("outcomes are not durable yet")).await;
    assert_eq!(closed(&relay), Vec::<String>::new(), "nobody calls it sent before it is durable");
    relay.sigterm();
    relay.wait_for_line(|line| line.contains("a second signal ends it at once")).await;
    relay.sigterm();
    assert_eq!(relay.wait_exit(Duration::from_secs(20)).await.code(), Some(1), "{}", relay.report());
    let lines = closed(&relay);
    assert_eq!(lines.len(), 1, "{}", relay.report());
    for word in
        ["\"verdict\":\"sent\"", "\"durable\":\"no\"", "\"code\":250", "sent: a mail server has accepted it, and this"]
    {
        assert!(lines[0].contains(word), "{word} in {}", lines[0]);
    }
    stage.cluster.restart().await.expect("it starts again");
    stage.reconnect().await;
    let _relay = stage.settings().run().await;
    stage.until("in_doubt", 1).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_clean(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_outlasts_the_grace_leaves_its_delivery_in_doubt_and_the_exit_code_says_so() {
    let stage = Stage::set().await;
    let hold = stage.server.hold_final_reply();
    let settings = stage.settings().set("relay.final_reply_timeout", "2s").set("relay.shutdown_grace", "2s");
    let mut relay = settings.run().await;
    stage.enqueue(1).await;
    hold.wait_for(1).await;
    relay.sigterm();
    let status = relay.wait_exit(Duration::from_secs(20)).await;
    // Reply time-out and end of grace meet: either the relay itself says unknown and ends well, or it gives up with 1.
    println!("ended with {:?}", status.code());
    let _relay = settings.run().await;
    stage.until("in_doubt", 1).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_clean(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_relay_ends_at_once() {
    let stage = Stage::set().await;
    let mut relay = stage.settings().run().await;
    let asked = Instant::now();
    relay.sigterm();
    assert_eq!(relay.wait_exit(Duration::from_secs(20)).await.code(), Some(0), "{}", relay.report());
    println!("within {:.0?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(3));
    assert_nothing_left(&stage).await;
}

/// What stands between end marker and reply at this moment, by the ledger of the server: recipients.
fn between_marker_and_reply(stage: &Stage) -> BTreeSet<String> {
    stage.server.with_ledger(|ledger| {
        let standing = ledger.transactions().filter(|one| one.end_marker_read && !one.confirmed);
        standing.flat_map(|one| one.recipients.clone()).collect()
    })
}

async fn in_doubt(stage: &Stage) -> BTreeSet<String> {
    let sql = "SELECT recipient FROM outbox.deliveries WHERE state = 'in_doubt'";
    let rows = stage.sql.query(sql, &[]).await.expect("doubts can be read");
    rows.iter().map(|row| row.get(0)).collect()
}

/// A relay with load, and exactly six dialogues between end marker and reply when this returns.
async fn six_replies_outstanding(stage: &Stage, settings: &Settings) -> (HapaxProcess, Hold, BTreeSet<String>) {
    let relay = settings.clone().set("routes.default.max_connections", 6).run().await;
    stage.enqueue(200).await;
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= 40).await;
    let hold = stage.server.hold_final_reply();
    // What is between marker and reply behind the gate stays there; everybody else arrives.
    hold.wait_for(6).await;
    let standing = between_marker_and_reply(stage);
    assert_eq!(standing.len(), 6);
    // A reply that was read a moment ago is an outcome once it is committed.
    eventually(PATIENCE, async || {
        let sending = stage.count("SELECT count(*) FROM outbox.queue WHERE intent IS NOT NULL").await;
        if sending == 6 { Ok(()) } else { Err(sending) }
    })
    .await;
    (relay, hold, standing)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_whose_grace_ends_leaves_in_doubt_exactly_what_stood_between_marker_and_reply() {
    let stage = Stage::set().await;
    let settings = stage.settings().set("relay.final_reply_timeout", "3s").set("relay.shutdown_grace", "3s");
    let (mut relay, hold, standing) = six_replies_outstanding(&stage, &settings).await;
    relay.sigterm();
    relay.wait_exit(PATIENCE).await;
    hold.release();
    let _next = stage.settings().run().await;
    stage.until_settled().await;
    assert_eq!(in_doubt(&stage).await, standing);
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(200);
    assert_eq!((verdict.count("sent"), verdict.accepted, verdict.twice.len()), (194, 200, 0), "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_two_relays_under_load_leaves_nothing_in_doubt_although_replies_stand_open() {
    let server = SmtpServer::builder().final_reply_delay(Duration::from_millis(30)).start();
    let stage = Stage::with(server).await;
    let named = |name: &str| stage.settings().set("relay.name", name);
    let mut relays = [named("a").run().await, named("b").run().await];
    stage.enqueue(3_000).await;
    let (mut standing, mut restarts) = (0, 0);
    for generation in 0..3 {
        for (number, name) in ["a", "b"].into_iter().enumerate() {
            let mark = stage.server.with_ledger(|ledger| ledger.totals().accepted) + 150;
            stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= mark).await;
            standing += between_marker_and_reply(&stage).len();
            relays[number].sigterm();
            let status = relays[number].wait_exit(PATIENCE).await;
            assert_eq!(status.code(), Some(0), "{}", relays[number].report());
            assert!(in_doubt(&stage).await.is_empty(), "generation {generation} of {name}");
            relays[number] = named(name).run().await;
            restarts += 1;
        }
    }
    stage.until("sent", 3_000).await;
    println!("{restarts} restarts, at which {standing} dialogues stood between marker and reply");
    assert!(standing > 0, "nothing was at stake");
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(3_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_paused_for_less_than_dead_after_leaves_nothing_in_doubt() {
    let stage = Stage::set().await;
    let settings = stage.settings().set("relay.dead_after", "60s").set("relay.lease", "60s");
    let (relay, hold, standing) = six_replies_outstanding(&stage, &settings).await;
    let _other = settings.set("relay.name", "other").run().await;
    relay.sigstop();
    relay.wait_stopped(PATIENCE).await;
    hold.release();
    // The other one has long done everything else when it goes on.
    eventually(PATIENCE, async || {
        stage.count("SELECT count(*) FROM outbox.deliveries WHERE state = 'pending'").await == 0
    })
    .await;
    assert!(in_doubt(&stage).await.is_empty());
    relay.sigcont();
    stage.until("sent", 200).await;
    println!("{} replies came while it stood still", standing.len());
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_paused_beyond_dead_after_has_in_doubt_exactly_what_stood_between_marker_and_reply_and_nothing_awake() {
    let stage = Stage::set().await;
    let settings = stage.settings().set("relay.lease", "1s").set("relay.dead_after", "1s");
    let (relay, hold, standing) = six_replies_outstanding(&stage, &settings).await;
    relay.sigstop();
    relay.wait_stopped(PATIENCE).await;
    let standing_now = between_marker_and_reply(&stage);
    assert_eq!(standing_now, standing);
    hold.release();
    let _other = settings.set("relay.name", "other").run().await;
    stage.until_settled().await;
    assert_eq!(in_doubt(&stage).await, standing, "asleep");
    relay.sigcont();
    stage.until("sent", 200).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_restart_leaves_nothing_in_doubt_although_replies_stand_open_and_come_meanwhile() {
    let mut stage = Stage::set().await;
    let settings = stage.settings();
    let (mut relay, hold, standing) = six_replies_outstanding(&stage, &settings).await;
    stage.cluster.stop().await.expect("stopped");
    hold.release();
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().confirmed == ledger.totals().accepted).await;
    stage.cluster.restart().await.expect("restarted");
    stage.reconnect().await;
    stage.until("sent", 200).await;
    println!("{} replies came while the database was away", standing.len());
    relay.sigterm();
    assert_eq!(relay.wait_exit(PATIENCE).await.code(), Some(0), "{}", relay.report());
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(200);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.attempt WHERE outcome = 'unknown'").await, 0);
}
