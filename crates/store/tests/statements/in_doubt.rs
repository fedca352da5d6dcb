//! mark_in_doubt: the reaper's mark. What is on the wire of the living is never touched.

use std::time::Duration;

use hapax_core::Incarnation;
use hapax_store::IntendAnswer;

use crate::common::{GRACE, Stage, accepted, lock, request, settlement};

const AGE: Duration = GRACE;

#[tokio::test]
async fn the_dead_the_unknown_and_those_who_signed_off_are_marked_and_the_living_are_not() {
    let stage = Stage::set().await;
    let mut relays = Vec::new();
    for _ in 0..4 {
        let store = stage.relay().await;
        let key = stage.enqueue(1).await[0];
        let attempt = stage.attempt(key).await;
        let answer = store.intend(&[request(&attempt)], hapax_store::Wait::Skip).await.expect("intends");
        assert_eq!(answer, [IntendAnswer::Granted]);
        relays.push((store, attempt));
    }
    let [(dead, a), (unknown, b), (gone, c), (_living, d)] = &relays[..] else { panic!("four") };
    stage.run(&format!("DELETE FROM outbox.relay WHERE incarnation = '{}'", unknown.incarnation())).await;
    gone.sign_off().await.expect("signs off");
    let marked = stage.store.mark_in_doubt(&[dead.incarnation()], AGE).await.expect("marks");
    let mut keys: Vec<_> = marked.iter().map(|marked| marked.key).collect();
    keys.sort();
    assert_eq!(keys, [a.key, b.key, c.key]);
    for attempt in [a, b, c] {
        assert_eq!(stage.state(attempt.key).await, "in_doubt");
        assert_eq!(stage.outcome(attempt).await.as_deref(), Some("unknown"));
    }
    assert_eq!(stage.state(d.key).await, "sending");
    assert!(stage.store.mark_in_doubt(&[dead.incarnation()], AGE).await.expect("marks").is_empty(), "once");
    stage.assert_consistent().await;
    assert!(stage.claim().await.is_empty(), "a doubt is never due");
}

#[tokio::test]
async fn what_is_older_than_any_attempt_can_live_is_marked_even_of_the_living() {
    let stage = Stage::set().await;
    let (old, young) = (stage.sending().await, stage.sending().await);
    stage
        .run(&format!(
            "UPDATE outbox.queue SET intent_at = now() - interval '901 s' WHERE message_id = '{}'",
            old.key.message_id
        ))
        .await;
    let marked = stage.store.mark_in_doubt(&[], AGE).await.expect("marks");
    assert_eq!(marked.iter().map(|marked| marked.key).collect::<Vec<_>>(), [old.key]);
    assert_eq!(stage.state(young.key).await, "sending");
}

#[tokio::test]
async fn what_has_no_intent_is_nobodys_doubt() {
    let stage = Stage::set().await;
    stage.enqueue(2).await;
    stage.claim().await;
    stage.run("UPDATE outbox.queue SET lease_until = now() - interval '1 day'").await;
    assert!(
        stage
            .store
            .mark_in_doubt(&[stage.store.incarnation(), Incarnation::fresh()], Duration::ZERO)
            .await
            .expect("marks")
            .is_empty()
    );
}

#[tokio::test]
async fn a_row_that_is_being_settled_is_passed_over() {
    let stage = Stage::set().await;
    let (one, other) = (stage.sending().await, stage.sending().await);
    let (settling, _driver) = stage.session().await;
    lock(&settling, one.key).await;
    let marked = stage.store.mark_in_doubt(&[stage.store.incarnation()], AGE).await.expect("marks");
    assert_eq!(marked.iter().map(|marked| marked.key).collect::<Vec<_>>(), [other.key]);
    settling.batch_execute("ROLLBACK").await.expect("rolls back");
    assert_eq!(stage.state(one.key).await, "sending");
}

#[tokio::test]
async fn mark_and_settle_at_once_leave_one_truth() {
    let stage = Stage::set().await;
    for _ in 0..20 {
        let attempt = stage.sending().await;
        let (reaper, settler, dead) = (stage.store.clone(), stage.store.clone(), [stage.store.incarnation()]);
        let end = settlement(&attempt, accepted());
        let mark = tokio::spawn(async move { reaper.mark_in_doubt(&dead, AGE).await });
        let settle = tokio::spawn(async move { settler.settle(&[end]).await });
        mark.await.expect("no panic").expect("marks");
        if settle.await.expect("no panic").expect("settles") == [false] {
            assert!(stage.settle(&attempt, accepted()).await, "locked before, its own now");
        }
        assert_eq!(stage.state(attempt.key).await, "sent");
    }
    stage.assert_consistent().await;
}

#[tokio::test]
async fn rc42_a_restarted_relay_of_the_same_name_does_not_speak_for_its_predecessor() {
    let stage = Stage::set().await;
    let attempt = stage.sending().await;
    let successor = stage.relay().await;
    assert_eq!(successor.heartbeat(0).await.expect("beats"), Some(1));
    assert!(successor.own_sending().await.expect("reads").is_empty());
    assert_eq!(stage.store.own_sending().await.expect("reads"), [(attempt.key, attempt.token)]);
    let marked = successor.mark_in_doubt(&[stage.store.incarnation()], AGE).await.expect("marks");
    assert_eq!(marked.len(), 1);
    assert!(stage.store.own_sending().await.expect("reads").is_empty(), "a doubt is not sending");
}

#[tokio::test]
async fn a_doubt_of_one_delivery_holds_no_other_back() {
    let stage = Stage::set().await;
    stage.reaped().await;
    let key = stage.enqueue(1).await[0];
    assert_eq!(stage.send(key).await.key, key);
}
