//! How a relay ends: it claims nothing new, waits for open replies, gives everything else back, signs off, exits 0.

use std::time::{Duration, Instant};

use hapax_testkit::{SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Stage};
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
