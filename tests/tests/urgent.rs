//! What is urgent does not wait behind a backlog: not for a place among what is claimed, and for no more than one delivery in
//! flight on each connection, measured at the server.

use std::time::Duration;

use hapax_testkit::{Ledger, eventually};
use hapax_tests::{
    probe::Probe,
    stage::{PATIENCE, Stage},
    verdict::Verdict,
};

/// How long the server takes with each.
const TAKES: Duration = Duration::from_millis(250);

async fn enqueue_bulk(stage: &Stage, count: i32) {
    let insert = "INSERT INTO outbox.notification (kind, recipients, subject, body_text, priority)
                  SELECT 'news', ARRAY['bulk' || i || '@example.org'], 'News', 'one', 'bulk' FROM generate_series(1, $1) i";
    stage.sql.execute(insert, &[&count]).await.expect("enqueues");
}

/// How many others began between the commit of each of so many urgent ones and its own beginning.
async fn began_before(stage: &Stage, name: &str, count: usize) -> Vec<usize> {
    let mut before = Vec::new();
    for number in 0..count {
        let seen = stage.server.with_ledger(|ledger| ledger.mails().len());
        // Just begun, so that there is time to claim it before that one ends.
        stage.server.wait_until_within(PATIENCE, |ledger| ledger.mails().len() > seen).await;
        let address = format!("{name}{number}@example.org");
        stage.enqueue_one(&address, ", priority => 'urgent'").await;
        let (committed, mut at) = (stage.server.with_ledger(|ledger| ledger.mails().len()), 0);
        let is_there = |ledger: &Ledger| {
            at = ledger.mails().len();
            ledger.count_rcpt_commands(&address) > 0
        };
        stage.server.wait_until_within(PATIENCE, is_there).await;
        // The urgent one's own is among them.
        before.push((at - committed).saturating_sub(1));
    }
    before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_urgent_one_waits_for_no_more_than_one_delivery_in_flight_on_each_connection() {
    let stage = Stage::set().await;
    stage.server.final_reply_delay(TAKES);
    enqueue_bulk(&stage, 2_000).await;
    // One connection each, and everything else that may be claimed is bulk.
    let settings = stage
        .settings()
        .set("relay.max_in_flight", 4)
        .set("routes.default.max_connections", 1)
        .set("http.listen", "127.0.0.1:0");
    let (one, mut two) = (settings.run().await, settings.run().await);
    let probes = [Probe::of(&one).await, Probe::of(&two).await];
    let claimed = async || {
        let mut claimed = Vec::new();
        for probe in &probes {
            claimed.push(probe.scrape().await.value("claim_batch_size_sum"));
        }
        claimed
    };
    // Both have claimed as much as they may.
    eventually(PATIENCE, async || {
        let before = claimed().await;
        let mails = stage.server.with_ledger(|ledger| ledger.mails().len());
        (mails >= 4 && before.iter().all(|claimed| *claimed >= 20.0)).then_some(()).ok_or((mails, before))
    })
    .await;
    let others = began_before(&stage, "two", 12).await;
    println!("others that began between the commit of an urgent one and its turn: {others:?}");
    // Each of the two connections may have begun another one.
    assert!(others.iter().all(|others| *others <= 2), "{others:?}");
    assert_eq!(stage.server.connections_open(), 2, "the limit is reached, not exceeded");
    // Of one connection it is the very next.
    two.sigterm();
    assert!(two.wait_exit(PATIENCE).await.success());
    let others = began_before(&stage, "one", 8).await;
    println!("with one connection: {others:?}");
    assert!(others.iter().sum::<usize>() <= 3, "{others:?}");
    stage.server.final_reply_delay(Duration::ZERO);
    stage.until("sent", 2_020).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(2_020);
    assert_eq!((verdict.accepted, verdict.twice.len()), (2_020, 0));
}
