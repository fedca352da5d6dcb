//! claim: what it hands out, to whom, and what it must never hand out.

use std::collections::HashSet;

use hapax_core::DeliveryKey;
use hapax_store::Cursor;
use tokio::task::JoinSet;

use crate::common::{LANE, LEASE, Stage, lock};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc02_ten_claimers_at_once_get_disjoint_sets_and_everything() {
    let stage = Stage::set().await;
    let all: HashSet<DeliveryKey> = stage.enqueue(1_000).await.into_iter().collect();
    let mut claimers = JoinSet::new();
    for _ in 0..10 {
        let store = stage.store.clone();
        claimers.spawn(async move {
            let (mut mine, mut cursor) = (Vec::new(), Cursor::START);
            loop {
                let (next, claimed) = store.claim(LANE, cursor, 17, LEASE).await.expect("claims");
                // A short claim proves nothing about what others have locked: only an empty one from the start ends it.
                if claimed.is_empty() && cursor == Cursor::START {
                    return mine;
                }
                cursor = if claimed.len() < 17 { Cursor::START } else { next };
                mine.extend(claimed.into_iter().map(|claimed| claimed.key));
            }
        });
    }
    let handed_out: Vec<DeliveryKey> = claimers.join_all().await.concat();
    assert_eq!(handed_out.len(), 1_000, "nothing twice");
    assert_eq!(handed_out.into_iter().collect::<HashSet<_>>(), all);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE claims = 1 AND lease IS NOT NULL").await, 1_000);
}

#[tokio::test]
async fn the_cursor_goes_on_within_the_recipients_of_one_message() {
    let stage = Stage::set().await;
    let (first, second) = (stage.enqueue_one(7, None).await, stage.enqueue_one(7, None).await);
    let (mut cursor, mut found) = (Cursor::START, Vec::new());
    for _ in 0..5 {
        let (next, claimed) = stage.store.claim(LANE, cursor, 3, LEASE).await.expect("claims");
        (cursor, found) = (next, [found, claimed.into_iter().map(|claimed| claimed.key).collect()].concat());
    }
    assert_eq!(found, [first, second].concat(), "all of them, in order");
}

#[tokio::test]
async fn what_has_an_intent_is_parked_or_due_later_is_never_handed_out() {
    let stage = Stage::set().await;
    let sending = stage.sending().await;
    stage.run("UPDATE outbox.queue SET lease_until = now() - interval '1 hour'").await;
    let doubt = stage.doubtful().await;
    let keys = stage.enqueue(3).await;
    stage.decide("hold", keys[0]).await;
    let later = format!(
        "UPDATE outbox.queue SET due_at = now() + interval '1 second' WHERE message_id = '{}'",
        keys[1].message_id
    );
    stage.run(&later).await;
    let claimed: Vec<DeliveryKey> = stage.claim().await.iter().map(|claimed| claimed.key).collect();
    assert_eq!(claimed, [keys[2]]);
    assert_eq!(stage.state(sending.key).await, "sending");
    assert_eq!(stage.state(doubt.key).await, "in_doubt");
}

#[tokio::test]
async fn rc07_an_expired_lease_or_one_absurdly_far_ahead_is_nobodys() {
    let stage = Stage::set().await;
    stage.enqueue(4).await;
    let before = stage.claim().await;
    assert!(stage.claim().await.is_empty(), "leased");
    for (claimed, until) in before.iter().zip(["-1 second", "10 years", "23 hours", "1 minute"]) {
        let sql = format!(
            "UPDATE outbox.queue SET lease_until = now() + interval '{until}' WHERE message_id = '{}'",
            claimed.key.message_id
        );
        stage.run(&sql).await;
    }
    let again = stage.claim().await;
    let keys: HashSet<DeliveryKey> = again.iter().map(|claimed| claimed.key).collect();
    assert_eq!(keys, before[..2].iter().map(|claimed| claimed.key).collect());
    assert!(again.iter().all(|claimed| claimed.claims == 2 && claimed.lease != before[0].lease));
}

#[tokio::test]
async fn a_row_locked_by_an_application_is_passed_over_at_once() {
    let stage = Stage::set().await;
    let keys = stage.enqueue(3).await;
    let (blocker, _driver) = stage.session().await;
    lock(&blocker, keys[1]).await;
    let claimed: Vec<DeliveryKey> = stage.claim().await.iter().map(|claimed| claimed.key).collect();
    assert_eq!(claimed, [keys[0], keys[2]]);
    blocker.batch_execute("ROLLBACK").await.expect("rolls back");
    assert_eq!(stage.claim().await.len(), 1);
}

#[tokio::test]
async fn only_the_asked_lane_is_claimed() {
    let stage = Stage::set().await;
    stage
        .run(
            "INSERT INTO outbox.message (kind, recipients, subject, body_text, priority)
               SELECT 'note', ARRAY['a@example.org'], 'x', 'x', unnest(ARRAY['urgent', 'normal', 'bulk'])",
        )
        .await;
    for lane in 0..3 {
        let claimed = stage.store.claim(lane, Cursor::START, 10, LEASE).await.expect("claims").1;
        assert_eq!(claimed.len(), 1, "lane {lane}");
    }
}

#[tokio::test]
async fn a_delivery_that_was_claimed_a_thousand_times_a_day_for_a_month_does_not_stop_its_lane() {
    let stage = Stage::set().await;
    stage.enqueue(2).await;
    stage.run("UPDATE outbox.queue SET claims = 32767").await;
    let claimed = stage.claim().await;
    assert_eq!(claimed.iter().map(|claimed| claimed.claims).collect::<Vec<_>>(), [32767, 32767]);
}
