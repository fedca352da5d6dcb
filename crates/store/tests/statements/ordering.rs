//! Ordering keys: one after another in commit order, and never stuck.

use hapax_core::DeliveryKey;

use crate::common::{Stage, accepted, enqueue_in, lock, refused, settlement, unknown};

async fn due(stage: &Stage) -> Vec<DeliveryKey> {
    stage.claim().await.iter().map(|claimed| claimed.key).collect()
}

#[tokio::test]
async fn the_settle_that_ends_the_head_frees_the_next_in_the_same_statement() {
    let stage = Stage::set().await;
    let mut keys = Vec::new();
    for _ in 0..3 {
        keys.extend(stage.enqueue_one(2, Some("k")).await);
    }
    for key in &keys {
        let attempt = stage.send(*key).await;
        assert!(due(&stage).await.is_empty(), "one at a time");
        assert!(stage.settle(&attempt, if key.recipient_no == 1 { accepted() } else { refused() }).await);
    }
    assert_eq!(stage.count("SELECT count(*) FROM outbox.done").await, 6);
    assert_eq!(stage.store.free_ordered(None).await.expect("frees").0, 0);
}

#[tokio::test]
async fn a_head_in_doubt_or_held_blocks_until_it_is_decided() {
    let stage = Stage::set().await;
    let head = stage.enqueue_one(1, Some("k")).await[0];
    let next = stage.enqueue_one(1, Some("k")).await[0];
    let attempt = stage.send(head).await;
    assert!(stage.settle(&attempt, unknown()).await);
    stage.store.free_ordered(None).await.expect("frees");
    assert!(due(&stage).await.is_empty());
    stage.resolve(head, "failed", None, false).await;
    assert_eq!(due(&stage).await, [next]);
}

#[tokio::test]
async fn three_producers_of_one_key_are_served_in_the_order_of_their_commits() {
    let stage = Stage::set().await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(stage.session().await.0);
    }
    let mut sessions = sessions.into_iter();
    let first = sessions.next().expect("three");
    first.batch_execute("BEGIN").await.expect("begins");
    let head = enqueue_in(&first, 1, Some("k")).await[0];
    let mut waiting = Vec::new();
    for (session, expected) in sessions.zip(1..) {
        waiting.push(tokio::spawn(async move { enqueue_in(&session, 1, Some("k")).await[0] }));
        stage.until_blocked(expected).await;
    }
    let other = stage.enqueue_one(1, Some("another")).await[0];
    assert_eq!(due(&stage).await, [other], "another key waits for nobody");
    first.batch_execute("COMMIT").await.expect("commits");
    for producer in waiting {
        producer.await.expect("no panic");
    }
    let order = "SELECT message_id FROM outbox.queue WHERE order_key LIKE '%k' ORDER BY order_no";
    let ids: Vec<uuid::Uuid> = stage.sql.query(order, &[]).await.expect("reads").iter().map(|row| row.get(0)).collect();
    assert_eq!(ids[0], head.message_id.0);
    for id in ids {
        let claimed = due(&stage).await;
        assert_eq!(claimed.iter().map(|key| key.message_id.0).collect::<Vec<_>>(), [id]);
        stage.run("UPDATE outbox.queue SET lease = NULL, lease_until = NULL").await;
        let attempt = stage.send(claimed[0]).await;
        assert!(stage.settle(&attempt, accepted()).await);
    }
}

#[tokio::test]
async fn a_head_that_ends_while_its_next_is_being_committed_leaves_it_to_free_ordered() {
    let stage = Stage::set().await;
    let head = stage.enqueue_one(1, Some("k")).await[0];
    let attempt = stage.send(head).await;
    let (producer, _driver) = stage.session().await;
    producer.batch_execute("BEGIN").await.expect("begins");
    let next = enqueue_in(&producer, 1, Some("k")).await[0];
    assert!(stage.settle(&attempt, accepted()).await, "the head ends, and nobody sees the next");
    assert_eq!(stage.store.free_ordered(None).await.expect("frees").0, 0, "not committed yet");
    producer.batch_execute("COMMIT").await.expect("commits");
    assert!(due(&stage).await.is_empty(), "stuck");
    assert_eq!(stage.store.free_ordered(None).await.expect("frees").0, 1);
    assert_eq!(due(&stage).await, [next]);
    assert_eq!(stage.store.free_ordered(None).await.expect("frees").0, 0, "once");
}

#[tokio::test]
async fn two_who_free_at_once_free_one() {
    let stage = Stage::set().await;
    let head = stage.enqueue_one(1, Some("k")).await[0];
    stage.enqueue_one(3, Some("k")).await;
    stage.run(&format!("DELETE FROM outbox.queue WHERE message_id = '{}'", head.message_id)).await;
    let calls = [stage.store.clone(), stage.store.clone(), stage.store.clone()]
        .map(|store| tokio::spawn(async move { store.free_ordered(None).await.expect("frees").0 }));
    for call in calls {
        call.await.expect("no panic");
    }
    assert_eq!(due(&stage).await.len(), 1);
}

/// The settle of a head is one commit for many deliveries: it must not stall behind an application that has the next one
/// of its key locked (an open cancel()), nor deadlock with it.
#[tokio::test]
async fn a_settle_does_not_wait_for_the_lock_of_the_next_one() {
    let stage = Stage::set().await;
    let (head, next) = (stage.enqueue_one(1, Some("k")).await[0], stage.enqueue_one(1, Some("k")).await[0]);
    let last = stage.enqueue_one(1, Some("k")).await[0];
    let (attempt, neighbour) = (stage.send(head).await, stage.sending().await);
    let (application, _driver) = stage.session().await;
    lock(&application, next).await;
    let batch = [settlement(&attempt, accepted()), settlement(&neighbour, accepted())];
    let settled = tokio::time::timeout(std::time::Duration::from_secs(5), stage.store.settle(&batch)).await;
    assert_eq!(settled.expect("does not stall").expect("settles"), [true, true]);
    // Nobody overtakes: the lock may be rolled back.
    assert!(due(&stage).await.is_empty());
    application.batch_execute("ROLLBACK").await.expect("rolls back");
    assert_eq!(stage.store.free_ordered(None).await.expect("frees").0, 1);
    assert_eq!(due(&stage).await, [next]);
    let cancel = format!("SELECT outbox.cancel('{}', 'x')", next.message_id);
    stage.run(&cancel).await;
    assert_eq!(due(&stage).await, [last]);
}

#[tokio::test]
async fn a_late_truth_or_a_mark_does_not_wait_for_the_lock_of_the_next_one() {
    let stage = Stage::set().await;
    let (head, next) = (stage.enqueue_one(1, Some("k")).await[0], stage.enqueue_one(1, Some("k")).await[0]);
    let first = stage.send(head).await;
    assert!(stage.settle(&first, unknown()).await);
    stage.resolve(head, "resend", None, false).await;
    stage.send(head).await;
    stage.late(&first, accepted()).await;
    let (application, _driver) = stage.session().await;
    lock(&application, next).await;
    let dead = [stage.store.incarnation()];
    let mark = stage.store.mark_in_doubt(&dead, crate::common::GRACE);
    tokio::time::timeout(std::time::Duration::from_secs(5), mark).await.expect("does not stall").expect("marks");
    assert_eq!(stage.state(head).await, "sent");
    application.batch_execute("ROLLBACK").await.expect("rolls back");
    assert_eq!(stage.store.free_ordered(None).await.expect("frees").0, 1);
    assert_eq!(due(&stage).await, [next]);
}

#[tokio::test]
async fn what_is_not_due_before_some_time_is_freed_for_that_time() {
    let stage = Stage::set().await;
    let head = stage.enqueue_one(1, Some("k")).await[0];
    stage
        .run(
            "INSERT INTO outbox.notification (kind, recipients, subject, body_text, ordering_key, not_before)
               VALUES ('note', ARRAY['a@example.org'], 'x', 'x', 'k', now() + interval '1 hour')",
        )
        .await;
    let attempt = stage.send(head).await;
    assert!(stage.settle(&attempt, accepted()).await);
    assert!(due(&stage).await.is_empty());
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE parked IS NULL AND due_at BETWEEN now() AND now() + interval '1 hour'").await, 1);
}

#[tokio::test]
async fn where_failures_block_a_failed_head_is_held_unless_an_earlier_attempt_may_have_arrived() {
    let stage = Stage::set().await;
    stage.run("INSERT INTO outbox.kind (name, failed_blocks) VALUES ('note', true) ON CONFLICT (name) DO UPDATE SET failed_blocks = true").await;
    let plain = stage.enqueue_one(1, Some("p")).await[0];
    let behind = stage.enqueue_one(1, Some("p")).await[0];
    let attempt = stage.send(plain).await;
    assert!(stage.settle(&attempt, refused()).await);
    assert_eq!(stage.state(plain).await, "held");
    let doubtful = stage.enqueue_one(1, Some("d")).await[0];
    let attempt = stage.send(doubtful).await;
    assert!(stage.settle(&attempt, unknown()).await);
    stage.resolve(doubtful, "resend", None, true).await;
    let attempt = stage.send(doubtful).await;
    assert!(stage.settle(&attempt, refused()).await);
    assert_eq!(stage.state(doubtful).await, "failed", "to send it again is a resend, and has to be asked for as one");
    stage.store.free_ordered(None).await.expect("frees");
    assert!(due(&stage).await.is_empty(), "the key of the held one waits");
    stage.run("SELECT outbox.cancel(message_id, 'they have moved') FROM outbox.blocked_keys").await;
    assert_eq!(due(&stage).await, [behind]);
}

/// Keys are looked at page by page: those that stay blocked must not stand before the others.
#[tokio::test]
async fn behind_a_thousand_blocked_keys_another_is_still_freed() {
    let stage = Stage::set().await;
    stage
        .run(
            "INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, parked, address_hash, order_key, order_no)
             SELECT outbox.uuid_v7(), 1, 1, 'infinity', parked, 1, 'blocked ' || i, nextval('outbox.order_no')
             FROM generate_series(1, 1100) i, unnest(ARRAY['held', 'ordered']) parked;
             INSERT INTO outbox.queue (message_id, recipient_no, lane, due_at, parked, address_hash, order_key, order_no)
             SELECT outbox.uuid_v7(), 1, 1, 'infinity', 'ordered', 1, 'headless', nextval('outbox.order_no') FROM generate_series(1, 3);
             INSERT INTO outbox.ordering (order_key) VALUES ('headless')",
        )
        .await;
    let (freed, next) = stage.store.free_ordered(None).await.expect("frees");
    assert_eq!(freed, 0);
    let next = next.expect("there is more");
    assert_eq!(stage.store.free_ordered(Some(&next)).await.expect("frees"), (1, None));
    assert_eq!(due(&stage).await.len(), 1);
    assert_eq!(stage.count("SELECT outbox.free_ordered()").await, 0, "an earlier relay goes once round");
}

#[tokio::test]
async fn what_is_tried_again_goes_behind_what_waits_for_its_key() {
    let stage = Stage::set().await;
    let mut keys = Vec::new();
    for _ in 0..3 {
        keys.extend(stage.enqueue_one(1, Some("k")).await);
    }
    assert_eq!(stage.decide("cancel", keys[1]).await, ["cancelled"]);
    let attempt = stage.send(keys[0]).await;
    assert!(stage.settle(&attempt, unknown()).await);
    assert_eq!(stage.retry(keys[1], false).await, "pending: it was cancelled, behind what waits for its ordering key");
    stage.store.free_ordered(None).await.expect("frees");
    assert!(due(&stage).await.is_empty(), "the head is in doubt");
    stage.resolve(keys[0], "sent", None, false).await;
    for key in [keys[2], keys[1]] {
        assert!(stage.settle(&stage.send(key).await, accepted()).await);
    }
    // Of a key that nothing waits for: at once, and the next waits for it.
    let one = stage.enqueue_one(1, Some("k")).await[0];
    assert_eq!(stage.decide("cancel", one).await, ["cancelled"]);
    assert_eq!(stage.retry(one, false).await, "pending: it was cancelled");
    stage.enqueue_one(1, Some("k")).await;
    assert_eq!(due(&stage).await, [one]);
    stage.assert_consistent().await;
}
