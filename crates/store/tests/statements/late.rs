//! settle_late: late truth wins, in every order (RC-47).

use hapax_core::Token;
use hapax_store::{LateAnswer, Verdict};

use crate::common::{Attempt, Stage, accepted, deferred, lock, not_sent, refused, settlement, unknown};

/// What people may do to a doubt, and to what became of it, before its reply comes.
const DECISIONS: [&str; 9] = [
    "nothing",
    "resend",
    "resend, claimed",
    "resend, sending",
    "resend, cancel",
    "sent",
    "failed",
    "failed, retry",
    "resend, hold",
];

async fn decided(stage: &Stage, decision: &str) -> (Attempt, Option<Attempt>) {
    let first = stage.reaped().await;
    let mut second = None;
    for step in decision.split(", ") {
        match step {
            "nothing" => {}
            "resend" | "sent" | "failed" => {
                stage.resolve(first.key, step, Some(first.token), true).await;
            }
            "claimed" => second = Some(stage.attempt(first.key).await),
            "sending" => second = Some(stage.send(first.key).await),
            "cancel" => assert_eq!(stage.decide("cancel", first.key).await, ["cancelled"]),
            "hold" => assert_eq!(stage.decide("hold", first.key).await, ["held"]),
            "retry" => assert_eq!(stage.retry(first.key, true).await, "pending: it was failed"),
            other => panic!("{other}"),
        }
        stage.assert_consistent().await;
    }
    (first, second)
}

/// As the relay does it: hot first, then cold.
async fn tell(stage: &Stage, attempt: &Attempt, end: (hapax_core::Outcome, Verdict)) {
    if !stage.settle(attempt, end.clone()).await {
        assert_ne!(stage.late(attempt, end).await, LateAnswer::Again);
    }
}

#[tokio::test]
async fn rc47_a_late_250_ends_in_sent_whatever_was_decided_meanwhile() {
    let stage = Stage::set().await;
    for decision in DECISIONS {
        let (first, second) = decided(&stage, decision).await;
        tell(&stage, &first, accepted()).await;
        stage.assert_consistent().await;
        if let Some(second) = second.filter(|_| decision == "resend, sending") {
            assert_eq!(stage.state(first.key).await, "sending");
            tell(&stage, &second, deferred()).await;
        } else if let Some(second) = second {
            assert_ne!(stage.intend(&second).await, hapax_store::IntendAnswer::Granted);
        }
        let done = stage.done(first.key).await.expect(decision);
        assert_eq!((done.state.as_str(), done.evidence.as_deref()), ("sent", Some("reply")), "{decision}");
        assert_eq!((done.token, done.open_doubts), (Some(first.token.0), 0), "{decision}");
        stage.assert_consistent().await;
        // And nothing moves it from there.
        assert!(stage.retry(first.key, true).await.starts_with("nothing to retry"), "{decision}");
        assert_eq!(stage.decide("cancel", first.key).await, ["too late: sent"]);
        assert!(stage.claim().await.is_empty(), "{decision}: nothing is sent after a known acceptance");
    }
}

#[tokio::test]
async fn rc47_a_late_refusal_takes_its_doubt_away_whatever_was_decided_meanwhile() {
    let stage = Stage::set().await;
    for end in [refused, deferred, not_sent] {
        for decision in DECISIONS {
            let (first, _) = decided(&stage, decision).await;
            tell(&stage, &first, end()).await;
            let word = end().0.as_str();
            let expected = match (decision, word) {
                ("nothing", "refused") | ("failed", _) => "failed",
                ("nothing" | "resend" | "failed, retry", _) => "pending",
                ("resend, claimed", _) => "claimed",
                ("resend, sending", _) => "sending",
                ("resend, cancel", _) => "cancelled",
                ("sent" | "resend, hold", _) => "held",
                other => panic!("{other:?}"),
            };
            assert_eq!(stage.state(first.key).await, expected, "{decision}, then {word}");
            assert_eq!(stage.outcome(&first).await.as_deref(), Some(word));
            stage.assert_consistent().await;
            let open = stage.count("SELECT coalesce(sum(open_doubts), 0)::int8 FROM (SELECT open_doubts FROM outbox.queue UNION ALL SELECT open_doubts FROM outbox.done) x").await;
            assert_eq!(open, 0, "{decision}, then {word}");
            stage.run("DELETE FROM outbox.queue; DELETE FROM outbox.done").await;
        }
    }
}

#[tokio::test]
async fn a_refusal_after_somebody_decided_sent_is_held_with_that_reason_and_not_sent_again_by_itself() {
    let stage = Stage::set().await;
    let (first, _) = decided(&stage, "sent").await;
    tell(&stage, &first, refused()).await;
    let row = stage.queued(first.key).await.expect("queued");
    assert_eq!(row.parked.as_deref(), Some("held"));
    assert!(row.note.expect("a note").contains("decided as sent by operator"));
    assert!(stage.claim().await.is_empty());
}

#[tokio::test]
async fn an_acceptance_of_the_first_copy_after_the_second_was_sent_is_counted_out_of_the_doubts() {
    let stage = Stage::set().await;
    let (first, second) = decided(&stage, "resend, sending").await;
    tell(&stage, &second.expect("a second"), accepted()).await;
    assert_eq!(stage.done(first.key).await.expect("done").open_doubts, 1);
    assert_eq!(stage.late(&first, accepted()).await, LateAnswer::Noted);
    assert_eq!(stage.done(first.key).await.expect("done").open_doubts, 0);
    stage.assert_consistent().await;
}

#[tokio::test]
async fn an_acceptance_of_the_first_copy_settles_the_doubt_of_the_second() {
    let stage = Stage::set().await;
    let (first, second) = decided(&stage, "resend, sending").await;
    let second = second.expect("a second");
    tell(&stage, &second, unknown()).await;
    assert_eq!(stage.queued(first.key).await.expect("queued").open_doubts, 2);
    assert_eq!(stage.late(&first, accepted()).await, LateAnswer::Settled);
    let done = stage.done(first.key).await.expect("done");
    assert_eq!((done.state.as_str(), done.open_doubts), ("sent", 1));
    stage.assert_consistent().await;
    assert_eq!(stage.late(&second, refused()).await, LateAnswer::Noted);
    assert_eq!(stage.done(first.key).await.expect("done").open_doubts, 0);
    assert_eq!(stage.state(first.key).await, "sent");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn the_reaper_looks_at_a_known_acceptance_first() {
    let stage = Stage::set().await;
    let (first, second) = decided(&stage, "resend, sending").await;
    let second = second.expect("a second");
    tell(&stage, &first, accepted()).await;
    let marked = stage.store.mark_in_doubt(&[stage.store.incarnation()], crate::common::GRACE).await.expect("marks");
    assert!(marked.is_empty(), "it is not in doubt, it is sent: {marked:?}");
    assert_eq!(stage.state(first.key).await, "sent");
    assert_eq!(stage.outcome(&second).await.as_deref(), Some("unknown"));
    stage.assert_consistent().await;
    assert_eq!(stage.late(&second, accepted()).await, LateAnswer::Noted);
    stage.assert_consistent().await;
}

#[tokio::test]
async fn an_unknown_that_comes_late_is_counted_wherever_its_delivery_is() {
    let stage = Stage::set().await;
    for end in [accepted, refused, deferred] {
        let attempt = stage.sending().await;
        assert!(stage.settle(&attempt, end()).await);
        let stray = Attempt { token: Token::fresh(), ..attempt };
        assert_eq!(stage.late(&stray, unknown()).await, LateAnswer::Noted);
        stage.assert_consistent().await;
        assert_eq!(stage.late(&stray, unknown()).await, LateAnswer::Already);
        assert_eq!(stage.late(&stray, refused()).await, LateAnswer::Noted);
        stage.assert_consistent().await;
    }
}

#[tokio::test]
async fn a_delivery_nobody_knows_any_more_still_gets_its_ledger_entry() {
    let stage = Stage::set().await;
    let attempt = stage.sending().await;
    stage.run("DELETE FROM outbox.queue").await;
    assert_eq!(stage.late(&attempt, accepted()).await, LateAnswer::Noted);
    assert_eq!(stage.outcome(&attempt).await.as_deref(), Some("accepted"));
}

#[tokio::test]
async fn a_late_settle_waits_for_a_locked_row_and_sees_what_it_became() {
    let stage = Stage::set().await;
    let (first, _) = decided(&stage, "resend").await;
    let (application, _driver) = stage.session().await;
    lock(&application, first.key).await;
    let (store, late) = (stage.store.clone(), settlement(&first, accepted()));
    let waiting = tokio::spawn(async move { store.settle_late(&late).await });
    stage.until_blocked(1).await;
    let cancel = format!("SELECT outbox.cancel('{}', 'meanwhile'); COMMIT", first.key.message_id);
    application.batch_execute(&cancel).await.expect("cancels");
    assert_eq!(waiting.await.expect("no panic").expect("settles"), LateAnswer::Settled);
    assert_eq!(stage.done(first.key).await.expect("done").state, "sent");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn a_late_settle_that_meets_a_retry_in_the_act_asks_to_be_tried_again() {
    let stage = Stage::set().await;
    let (first, _) = decided(&stage, "failed").await;
    let (application, _driver) = stage.session().await;
    let retry = format!("BEGIN; SELECT outbox.retry('{}', 1, 'once more', true)", first.key.message_id);
    application.batch_execute(&retry).await.expect("retries");
    let (store, late) = (stage.store.clone(), settlement(&first, accepted()));
    let waiting = tokio::spawn(async move { store.settle_late(&late).await });
    stage.until_blocked(1).await;
    application.batch_execute("COMMIT").await.expect("commits");
    assert_eq!(waiting.await.expect("no panic").expect("settles"), LateAnswer::Again);
    tell(&stage, &first, accepted()).await;
    assert_eq!(stage.done(first.key).await.expect("done").state, "sent");
    stage.assert_consistent().await;
}
