//! `max_connections` of a route holds over all relays: reached, and never exceeded, measured at the server; a relay that
//! joins gets its part, one that dies leaves it to the others.

use std::time::{Duration, Instant};

use hapax_testkit::{HapaxProcess, eventually};
use hapax_tests::{
    probe::Probe,
    stage::{PATIENCE, Stage},
    verdict::Verdict,
};

const LIMIT: &str = "hapax_route_connections_limit{route=\"default\"}";

async fn until_part(relay: &HapaxProcess, part: f64) {
    let probe = Probe::of(relay).await;
    eventually(PATIENCE, async || {
        let now = probe.scrape().await.series.get(LIMIT).copied();
        (now == Some(part)).then_some(()).ok_or(now)
    })
    .await;
}

/// Waits until so many connections are open, and answers the most that were seen for a while after that.
async fn most_open(stage: &Stage, reached: usize) -> usize {
    eventually(PATIENCE, async || {
        let open = stage.server.connections_open();
        (open >= reached).then_some(()).ok_or(open)
    })
    .await;
    let accepted = stage.server.with_ledger(|ledger| ledger.totals().accepted);
    let (mut most, until) = (0, Instant::now() + PATIENCE);
    while stage.server.with_ledger(|ledger| ledger.totals().accepted) < accepted + 60 {
        assert!(Instant::now() < until, "60 more were not accepted in time");
        most = most.max(stage.server.connections_open());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    most
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_share_the_connections_of_a_route_and_take_over_those_of_one_that_died() {
    let stage = Stage::set().await;
    stage.server.final_reply_delay(Duration::from_millis(40));
    stage.enqueue(3_000).await;
    let settings = stage
        .settings()
        .set("routes.default.max_connections", 6)
        .set("relay.max_in_flight", 16)
        .set("http.listen", "127.0.0.1:0");
    let one = settings.run().await;
    until_part(&one, 6.0).await;
    assert_eq!(most_open(&stage, 6).await, 6, "alone it has all");
    let two = settings.run().await;
    until_part(&one, 3.0).await;
    until_part(&two, 3.0).await;
    // What the first had too many ends with its deliveries: it may have some when the second has its first.
    eventually(PATIENCE, async || {
        let mut most = 0;
        for _ in 0..100 {
            most = most.max(stage.server.connections_open());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        (most <= 6).then_some(()).ok_or(most)
    })
    .await;
    assert_eq!(most_open(&stage, 6).await, 6, "together they have all");
    two.sigkill();
    until_part(&one, 6.0).await;
    assert_eq!(most_open(&stage, 6).await, 6, "the survivor has all");
    // Three of them have two each.
    let _more = [settings.run().await, settings.run().await];
    until_part(&one, 2.0).await;
    stage.server.final_reply_delay(Duration::ZERO);
    eventually(PATIENCE, async || {
        let left = stage.count("SELECT count(*) FROM outbox.queue WHERE parked IS NULL").await;
        (left == 0).then_some(()).ok_or(left)
    })
    .await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(3_000);
    assert!(verdict.twice.is_empty());
}
