//! settle: the hot half. Every verdict, its repetition, and what it must leave alone.

use std::time::Duration;

use hapax_core::{Outcome, Phase, Reply, Token, outcome::Cause};
use hapax_store::{LateAnswer, Verdict};

use crate::common::{Attempt, Stage, accepted, deferred, lock, not_sent, refused, settlement, unknown};

#[tokio::test]
async fn every_outcome_moves_its_delivery_and_is_in_the_ledger_once() {
    let stage = Stage::set().await;
    for (end, state, word) in [
        (accepted(), "sent", "accepted"),
        (refused(), "failed", "refused"),
        (deferred(), "pending", "deferred"),
        (not_sent(), "pending", "not_sent"),
        (unknown(), "in_doubt", "unknown"),
    ] {
        let attempt = stage.sending().await;
        assert!(stage.settle(&attempt, end.clone()).await);
        assert_eq!(stage.state(attempt.key).await, state);
        assert_eq!(stage.outcome(&attempt).await.as_deref(), Some(word));
        stage.assert_consistent().await;
        // Its answer was lost: the same again, hot and cold, changes nothing.
        let (queued, done) = (stage.queued(attempt.key).await, stage.done(attempt.key).await);
        if !stage.settle(&attempt, end.clone()).await {
            assert_eq!(stage.late(&attempt, end).await, LateAnswer::Already);
        }
        assert_eq!((stage.queued(attempt.key).await, stage.done(attempt.key).await), (queued, done), "{word} repeated");
        assert_eq!(stage.count("SELECT count(*) FROM outbox.attempt").await, 1);
        stage.run("DELETE FROM outbox.attempt; DELETE FROM outbox.queue; DELETE FROM outbox.done").await;
    }
}

#[tokio::test]
async fn a_settle_back_clears_lease_and_intent_and_keeps_its_hands_off_the_due_time_of_parked_ones() {
    let stage = Stage::set().await;
    let attempt = stage.sending().await;
    let (outcome, _) = deferred();
    let verdict = Verdict::Retry { after: Duration::from_secs(60), counts: true };
    assert!(stage.settle(&attempt, (outcome, verdict)).await);
    let row = stage.queued(attempt.key).await.expect("queued");
    assert_eq!((row.lease, row.intent, row.intent_by, row.due), (None, None, None, false));
    assert_eq!((row.attempt_no, row.claims, row.intents), (1, 0, 1));
    assert!(stage.claim().await.is_empty(), "not due yet");
}

#[tokio::test]
async fn what_concerns_the_route_does_not_count_against_the_message() {
    let stage = Stage::set().await;
    let attempt = stage.sending().await;
    assert!(stage.settle(&attempt, not_sent()).await);
    assert_eq!(stage.queued(attempt.key).await.expect("queued").attempt_no, 0);
}

#[tokio::test]
async fn held_and_poison_are_parked_with_their_reason() {
    let stage = Stage::set().await;
    for (verdict, parked) in [(Verdict::Held("why".into()), "held"), (Verdict::Poison("why".into()), "poison")] {
        let key = stage.enqueue(1).await[0];
        let attempt = stage.attempt(key).await;
        let mut unsent = settlement(&attempt, (Outcome::not_sent(Phase::Prepare, Cause::Aborted, "no"), verdict));
        unsent.intended = false;
        assert_eq!(stage.store.settle(&[unsent]).await.expect("settles"), [true]);
        let row = stage.queued(key).await.expect("queued");
        assert_eq!((row.parked.as_deref(), row.note.as_deref(), row.lease), (Some(parked), Some("why"), None));
        assert_eq!(stage.state(key).await, "held");
        assert_eq!(stage.decide("release", key).await, ["pending"]);
        stage.run("DELETE FROM outbox.queue").await;
    }
}

#[tokio::test]
async fn what_was_never_attempted_expires_without_a_ledger_entry() {
    let stage = Stage::set().await;
    let key = stage.enqueue(1).await[0];
    let attempt = stage.attempt(key).await;
    let mut expired = settlement(&attempt, not_sent());
    (expired.intended, expired.verdict, expired.outcome) = (false, Verdict::Expired, None);
    assert_eq!(stage.store.settle(&[expired]).await.expect("settles"), [true]);
    assert_eq!(stage.done(key).await.expect("done").state, "expired");
    assert_eq!(stage.outcome(&attempt).await, None);
}

/// "Expired with an open doubt" may have arrived: forgetting that would let a retry send it twice without a question.
#[tokio::test]
async fn an_expired_delivery_keeps_its_open_doubts() {
    let stage = Stage::set().await;
    let first = stage.doubtful().await;
    stage.resolve(first.key, "resend", None, false).await;
    let second = stage.attempt(first.key).await;
    let mut expired = settlement(&second, not_sent());
    (expired.intended, expired.verdict, expired.outcome) = (false, Verdict::Expired, None);
    assert_eq!(stage.store.settle(&[expired]).await.expect("settles"), [true]);
    assert_eq!(stage.done(first.key).await.expect("done").open_doubts, 1);
    assert!(stage.retry(first.key, false).await.starts_with("refused"), "it may have arrived");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn another_token_settles_nothing() {
    let stage = Stage::set().await;
    let attempt = stage.sending().await;
    let stranger = Attempt { token: Token::fresh(), ..attempt };
    for end in [accepted(), refused(), deferred(), not_sent()] {
        assert!(!stage.settle(&stranger, end).await);
    }
    assert_eq!(stage.state(attempt.key).await, "sending");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.attempt").await, 0);
}

#[tokio::test]
async fn rc39_a_stale_repeat_of_attempt_one_leaves_attempt_two_on_the_wire_alone() {
    let stage = Stage::set().await;
    for end in [deferred, not_sent] {
        let first = stage.sending().await;
        assert!(stage.settle(&first, end()).await);
        let second = stage.send(first.key).await;
        let before = stage.queued(first.key).await;
        assert!(!stage.settle(&first, end()).await);
        assert_eq!(stage.late(&first, end()).await, LateAnswer::Already);
        assert_eq!(stage.queued(first.key).await, before);
        assert!(stage.settle(&second, accepted()).await);
        stage.assert_consistent().await;
    }
}

/// Both in one batch: only one of them owns the row, and the answer must say which, or a definite reply is dropped.
#[tokio::test]
async fn two_attempts_of_one_delivery_in_one_batch_are_answered_each_for_itself() {
    let stage = Stage::set().await;
    let first = stage.doubtful().await;
    stage.resolve(first.key, "resend", None, false).await;
    let second = stage.send(first.key).await;
    let batch = [settlement(&first, accepted()), settlement(&second, deferred())];
    assert_eq!(stage.store.settle(&batch).await.expect("settles"), [false, true]);
    assert_eq!(stage.late(&first, accepted()).await, LateAnswer::Settled);
    assert_eq!(stage.state(first.key).await, "sent");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn the_same_settlement_twice_in_one_batch_is_one() {
    let stage = Stage::set().await;
    let attempt = stage.sending().await;
    let batch = [settlement(&attempt, accepted()), settlement(&attempt, accepted())];
    assert_eq!(stage.store.settle(&batch).await.expect("settles"), [true, true]);
    stage.assert_consistent().await;
}

#[tokio::test]
async fn rc20_a_locked_row_is_left_for_the_next_batch() {
    let stage = Stage::set().await;
    let attempts = [stage.sending().await, stage.sending().await, stage.sending().await];
    let (blocker, _driver) = stage.session().await;
    lock(&blocker, attempts[1].key).await;
    let batch = attempts.map(|attempt| settlement(&attempt, accepted()));
    assert_eq!(stage.store.settle(&batch).await.expect("settles"), [true, false, true]);
    blocker.batch_execute("ROLLBACK").await.expect("rolls back");
    assert_eq!(stage.late(&attempts[1], accepted()).await, LateAnswer::Again, "it is its own after all");
    assert!(stage.settle(&attempts[1], accepted()).await);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.done WHERE state = 'sent'").await, 3);
}

#[tokio::test]
async fn a_doubt_is_counted_once_however_often_it_is_settled() {
    let stage = Stage::set().await;
    let attempt = stage.reaped().await;
    for _ in 0..3 {
        assert!(stage.settle(&attempt, unknown()).await);
    }
    let row = stage.queued(attempt.key).await.expect("queued");
    assert_eq!((row.open_doubts, row.attempt_no), (1, 1));
    stage.assert_consistent().await;
    assert!(stage.settle(&attempt, deferred()).await, "its reply came after all");
    let row = stage.queued(attempt.key).await.expect("queued");
    assert_eq!((row.open_doubts, row.attempt_no, row.parked), (0, 1, None));
    stage.assert_consistent().await;
}

#[tokio::test]
async fn the_attempts_own_late_reply_resolves_its_doubt() {
    let stage = Stage::set().await;
    for (end, state) in [(accepted(), "sent"), (refused(), "failed"), (deferred(), "pending"), (not_sent(), "pending")]
    {
        for doubt in [stage.reaped().await, stage.doubtful().await] {
            assert!(stage.settle(&doubt, end.clone()).await);
            assert_eq!(stage.state(doubt.key).await, state);
            stage.assert_consistent().await;
        }
        stage.run("DELETE FROM outbox.queue").await;
    }
}

#[tokio::test]
async fn an_earlier_acceptance_outranks_every_verdict() {
    let stage = Stage::set().await;
    for end in [accepted(), refused(), deferred(), not_sent(), unknown()] {
        let first = stage.doubtful().await;
        stage.resolve(first.key, "resend", None, false).await;
        let second = stage.send(first.key).await;
        assert_eq!(stage.late(&first, accepted()).await, LateAnswer::Settled);
        assert_eq!(stage.state(first.key).await, "sending", "the other is on the wire");
        stage.assert_consistent().await;
        assert!(stage.settle(&second, end.clone()).await);
        let done = stage.done(first.key).await.expect("done");
        assert_eq!((done.state.as_str(), done.token), ("sent", Some(first.token.0)), "{:?}", end.0);
        assert_eq!(stage.outcome(&second).await.as_deref(), Some(end.0.as_str()));
        stage.assert_consistent().await;
    }
}

#[tokio::test]
async fn rc21_nothing_a_server_says_can_poison_a_batch() {
    let stage = Stage::set().await;
    let texts = ["x".repeat(2_000), "ü".repeat(5_000), "nul \0 nul".into(), "\u{fffe}\u{10ffff}".into(), String::new()];
    for text in texts {
        let (one, neighbour) = (stage.sending().await, stage.sending().await);
        let outcome =
            Outcome::Refused { permanent: true, phase: Phase::EndMarker, reply: Reply::new(550, text.clone()) };
        let mut nasty = settlement(&one, (outcome, Verdict::Failed(text.clone())));
        nasty.server = Some(text.clone());
        nasty.route = text.clone();
        nasty.took = Duration::MAX;
        nasty.bytes = usize::MAX;
        assert_eq!(
            stage.store.settle(&[nasty, settlement(&neighbour, accepted())]).await.expect("settles"),
            [true, true]
        );
        let detail =
            Outcome::Unknown { cause: Cause::Io, reply: Some(Reply::new(421, text.clone())), detail: text.clone() };
        let doubt = stage.sending().await;
        let mut nasty = settlement(&doubt, (detail, Verdict::InDoubt(text.clone())));
        nasty.server = Some(text.clone());
        assert_eq!(stage.store.settle(&[nasty.clone()]).await.expect("settles"), [true]);
        nasty.token = Token::fresh();
        nasty.route = text.clone();
        nasty.took = Duration::MAX;
        stage.store.settle_late(&nasty).await.expect("settles late");
        stage.run("UPDATE outbox.queue SET open_doubts = 2").await; // the made-up attempt has no marker behind it
    }
    assert_eq!(stage.count("SELECT count(*) FROM outbox.attempt WHERE length(reply) > 2000").await, 0);
}

#[tokio::test]
async fn an_attempt_whose_intent_is_not_certain_settles_by_its_lease_or_its_token() {
    let stage = Stage::set().await;
    for intended in [false, true] {
        let key = stage.enqueue(1).await[0];
        let attempt = if intended { stage.send(key).await } else { stage.attempt(key).await };
        let mut end = settlement(&attempt, not_sent());
        end.intended = false;
        assert_eq!(stage.store.settle(&[end.clone()]).await.expect("settles"), [true]);
        assert_eq!(stage.state(key).await, "pending");
        // Somebody else has it now: neither lease nor token match.
        let other = stage.send(key).await;
        assert_eq!(stage.store.settle(&[end]).await.expect("settles"), [false]);
        assert_eq!(stage.queued(key).await.expect("queued").intent, Some(other.token.0));
        stage.run("DELETE FROM outbox.queue").await;
    }
}
