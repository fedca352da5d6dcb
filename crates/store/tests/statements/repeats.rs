//! Kinds with a guard window: of two with the same content for one recipient one goes, whoever commits and claims when.

use std::time::Duration;

use hapax_core::{DeliveryKey, Lease, MessageId, Token};
use hapax_store::{GuardWindow, Kind, OnDuplicate, Repeat, Store};

use crate::common::{Attempt, Stage, accepted, lock, refused};

const ENQUEUE: &str = "INSERT INTO outbox.notification (kind, recipients, subject, body_text) VALUES ('note', ARRAY[$1], $2, 'x') RETURNING id";

async fn guarded(on_duplicate: OnDuplicate) -> Stage {
    let stage = Stage::set().await;
    let guard = Some(GuardWindow { within: Duration::from_secs(600), on_duplicate });
    stage.store.register_kinds(&[Kind { name: "note".into(), guard, ..Kind::default() }]).await.expect("registers");
    stage
}

async fn enqueue(stage: &Stage, to: &str, subject: &str) -> DeliveryKey {
    let row = stage.sql.query_one(ENQUEUE, &[&to, &subject]).await.expect("enqueues");
    DeliveryKey { message_id: MessageId(row.get(0)), recipient_no: 1 }
}

/// Claims everything and asks; answers what is told, and the lease of each.
async fn ask(stage: &Stage, store: &Store) -> (Vec<(DeliveryKey, Repeat, String)>, Vec<(DeliveryKey, Lease)>) {
    let claimed: Vec<_> = stage.claim().await.iter().map(|one| (one.key, one.lease)).collect();
    (store.guard(&claimed).await.expect("asks"), claimed)
}

async fn send(stage: &Stage, claimed: &[(DeliveryKey, Lease)], key: DeliveryKey) -> Attempt {
    let lease = claimed.iter().find(|(one, _)| *one == key).expect("is claimed").1;
    let attempt = Attempt { key, lease, token: Token::fresh() };
    assert_eq!(stage.intend(&attempt).await, hapax_store::IntendAnswer::Granted);
    attempt
}

#[tokio::test]
async fn the_second_is_held_and_says_why_and_released_it_is_sent() {
    let stage = guarded(OnDuplicate::Hold).await;
    let first = enqueue(&stage, "A@example.org", "x").await;
    let second = enqueue(&stage, "a@example.org", "x").await;
    let others = [enqueue(&stage, "b@example.org", "x").await, enqueue(&stage, "a@example.org", "y").await];
    let (told, claimed) = ask(&stage, &stage.store).await;
    let reason = format!(
        "same content to the same recipient as message {}, enqueued 0 s earlier; guard_window of kind note is 10m",
        first.message_id
    );
    assert_eq!(told, [(second, Repeat::Held, reason.clone())]);
    let row = stage.queued(second).await.expect("is queued");
    assert_eq!((row.parked.as_deref(), row.lease, row.claims, row.attempt_no), (Some("held"), None, 0, 0));
    assert_eq!(row.note.as_deref(), Some(reason.as_str()));
    for key in [first, others[0], others[1]] {
        let attempt = send(&stage, &claimed, key).await;
        assert!(stage.settle(&attempt, accepted()).await);
    }
    assert_eq!(stage.decide("release", second).await, ["pending"]);
    let (told, claimed) = ask(&stage, &stage.store).await;
    assert_eq!((told, claimed.len()), (vec![], 1), "somebody wants it");
    // And a third is caught again.
    let third = enqueue(&stage, "a@example.org", "x").await;
    let (told, _) = ask(&stage, &stage.store).await;
    assert_eq!(told.iter().map(|one| (one.0, one.1)).collect::<Vec<_>>(), [(third, Repeat::Held)]);
    stage.assert_consistent().await;
}

#[tokio::test]
async fn dropped_it_ends_as_cancelled_and_reported_it_goes() {
    let stage = guarded(OnDuplicate::Drop).await;
    let first = enqueue(&stage, "a@example.org", "x").await;
    let second = enqueue(&stage, "a@example.org", "x").await;
    let (told, _) = ask(&stage, &stage.store).await;
    assert_eq!((told[0].0, told[0].1, told.len()), (second, Repeat::Dropped, 1));
    let row =
        format!("SELECT state || ' ' || reason FROM outbox.deliveries WHERE message_id = '{}'", second.message_id);
    assert!(
        stage
            .text(&row)
            .await
            .starts_with(&format!("cancelled same content to the same recipient as message {}", first.message_id))
    );
    assert_eq!(
        stage.count("SELECT count(*) FROM outbox.audit WHERE action = 'guard' AND after = 'cancelled'").await,
        1
    );
    let guard = Some(GuardWindow { within: Duration::from_secs(600), on_duplicate: OnDuplicate::Report });
    stage.store.register_kinds(&[Kind { name: "note".into(), guard, ..Kind::default() }]).await.expect("registers");
    let third = enqueue(&stage, "a@example.org", "x").await;
    let (told, claimed) = ask(&stage, &stage.store).await;
    assert_eq!((told[0].0, told[0].1, told.len()), (third, Repeat::Reported, 1));
    send(&stage, &claimed, third).await;
    let leased = [(first, claimed[0].1)];
    assert_eq!(stage.store.guard(&leased).await.expect("asks"), [], "another claim's");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn what_names_its_event_is_far_apart_did_not_arrive_or_is_wanted_again_is_no_duplicate() {
    let stage = guarded(OnDuplicate::Hold).await;
    let first = enqueue(&stage, "a@example.org", "x").await;
    let (_, claimed) = ask(&stage, &stage.store).await;
    let attempt = send(&stage, &claimed, first).await;
    let keyed = "INSERT INTO outbox.notification (kind, recipients, subject, body_text, dedup_key) VALUES ('note', '{a@example.org}', 'x', 'x', 'k')";
    stage.run(keyed).await;
    assert_eq!(ask(&stage, &stage.store).await.0, [], "with a dedup_key");
    // The first fails: another is wanted.
    assert!(stage.settle(&attempt, refused()).await);
    let again = enqueue(&stage, "a@example.org", "x").await;
    let (told, claimed) = ask(&stage, &stage.store).await;
    assert_eq!(told, []);
    let attempt = send(&stage, &claimed, again).await;
    assert!(stage.settle(&attempt, accepted()).await);
    let sql = format!("SELECT outbox.send_again('{}', 'they lost it')::text", again.message_id);
    for _ in 0..2 {
        stage.text(&sql).await;
        let (told, claimed) = ask(&stage, &stage.store).await;
        assert_eq!((told, claimed.len()), (vec![], 1), "an operator's");
    }
    // Time passes.
    stage.run("UPDATE outbox.guard_seen SET enqueued_at = enqueued_at - interval '601 seconds'").await;
    enqueue(&stage, "a@example.org", "x").await;
    assert_eq!(ask(&stage, &stage.store).await.0, []);
    stage.run("UPDATE outbox.guard_seen SET enqueued_at = enqueued_at - interval '590 seconds'").await;
    enqueue(&stage, "a@example.org", "x").await;
    let (told, _) = ask(&stage, &stage.store).await;
    assert!(told.len() == 1 && told[0].2.contains("enqueued 590 s earlier"), "{told:?}");
}

/// Committed at the same moment, the second first, each claimed by another relay: one is caught.
#[tokio::test]
async fn of_two_that_two_relays_ask_about_at_once_one_goes() {
    let stage = guarded(OnDuplicate::Hold).await;
    let other = stage.relay().await;
    for round in 0..10 {
        let (producer, _driver) = stage.session().await;
        let subject = format!("round {round}");
        producer.batch_execute("BEGIN").await.expect("begins");
        let first: uuid::Uuid =
            producer.query_one(ENQUEUE, &[&"a@example.org", &subject]).await.expect("enqueues").get(0);
        let second = enqueue(&stage, "a@example.org", &subject).await;
        let one: Vec<_> = stage.claim().await.iter().map(|claimed| (claimed.key, claimed.lease)).collect();
        assert_eq!(one.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [second]);
        producer.batch_execute("COMMIT").await.expect("commits");
        let two: Vec<_> = stage.claim().await.iter().map(|claimed| (claimed.key, claimed.lease)).collect();
        assert_eq!(two[0].0.message_id.0, first);
        let (a, b) = tokio::join!(stage.store.guard(&one), other.guard(&two));
        let told = [a.expect("asks"), b.expect("asks")].concat();
        assert_eq!(told.len(), 1, "{told:?}");
        let held = told[0].0;
        let words = if held == second { "earlier" } else { "later" };
        assert!(told[0].2.contains(words), "{told:?}");
        stage.run("UPDATE outbox.queue SET parked = 'held', due_at = 'infinity', lease = NULL").await;
    }
}

#[tokio::test]
async fn one_that_somebody_has_locked_is_told_and_not_stopped_and_what_is_over_is_forgotten() {
    let stage = guarded(OnDuplicate::Hold).await;
    enqueue(&stage, "a@example.org", "x").await;
    let second = enqueue(&stage, "a@example.org", "x").await;
    let (application, _driver) = stage.session().await;
    let claimed: Vec<_> = stage.claim().await.iter().map(|one| (one.key, one.lease)).collect();
    lock(&application, second).await;
    let told = stage.store.guard(&claimed).await.expect("asks");
    assert_eq!((told[0].0, told[0].1), (second, Repeat::Locked));
    application.batch_execute("ROLLBACK").await.expect("rolls back");
    let told = stage.store.guard(&claimed).await.expect("asks");
    assert_eq!((told[0].0, told[0].1), (second, Repeat::Held));
    stage.run("UPDATE outbox.guard_seen SET until = now() - interval '1 second'").await;
    assert_eq!(stage.store.guard(&[]).await.expect("asks"), []);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.guard_seen").await, 0);
}
