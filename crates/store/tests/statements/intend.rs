//! intend: the fence that carries the safety. Whatever it grants may be transmitted.

use std::time::Duration;

use hapax_core::{Lease, Token};
use hapax_store::{IntendAnswer, Wait};

use crate::common::{
    Attempt, DEADLINE, Stage, accepted, deferred, lock, not_sent, raw_intend, refused, request, settlement, unknown,
};

#[tokio::test]
async fn the_lease_of_its_claim_is_granted_once_and_again_to_the_same_token() {
    let stage = Stage::set().await;
    let attempt = stage.sending().await;
    let row = stage.queued(attempt.key).await.expect("queued");
    assert_eq!((row.intent, row.intents), (Some(attempt.token.0), 1));
    assert_eq!(row.intent_by, Some(stage.store.incarnation().0));
    for _ in 0..3 {
        assert_eq!(stage.intend(&attempt).await, IntendAnswer::Granted, "idempotent");
    }
    assert_eq!(stage.queued(attempt.key).await.expect("queued").intents, 1);
}

#[tokio::test]
async fn a_wrong_lease_or_another_token_is_refused() {
    let stage = Stage::set().await;
    let key = stage.enqueue(1).await[0];
    let attempt = stage.attempt(key).await;
    let stranger = Attempt { lease: Lease::fresh(), token: Token::fresh(), ..attempt };
    assert_eq!(stage.intend(&stranger).await, IntendAnswer::Refused);
    assert_eq!(stage.intend(&attempt).await, IntendAnswer::Granted);
    assert_eq!(stage.intend(&Attempt { token: Token::fresh(), ..attempt }).await, IntendAnswer::Refused, "own lease");
    assert_eq!(stage.queued(key).await.expect("queued").intent, Some(attempt.token.0));
}

#[tokio::test]
async fn a_lease_that_was_taken_over_is_refused_and_one_that_merely_expired_is_granted() {
    let stage = Stage::set().await;
    let key = stage.enqueue(1).await[0];
    let first = stage.attempt(key).await;
    stage.run("UPDATE outbox.queue SET lease_until = now() - interval '1 hour'").await;
    assert_eq!(stage.intend(&first).await, IntendAnswer::Granted, "nobody else has it");
    assert!(stage.settle(&first, not_sent()).await);
    let second = stage.attempt(key).await;
    stage.run("UPDATE outbox.queue SET lease_until = now() - interval '1 hour'").await;
    let third = stage.attempt(key).await;
    assert_eq!(stage.intend(&second).await, IntendAnswer::Refused);
    assert_eq!(stage.intend(&third).await, IntendAnswer::Granted);
}

/// One relay can hold a delivery twice: its own lease expires while a slow courier still works on it, and it claims the
/// delivery again. If both couriers read their 354 at the same time, both intents are in one batch.
#[tokio::test]
async fn two_attempts_of_one_delivery_in_one_batch_are_not_both_granted() {
    let stage = Stage::set().await;
    let key = stage.enqueue(1).await[0];
    let slow = stage.attempt(key).await;
    stage.run("UPDATE outbox.queue SET lease_until = now() - interval '1 second'").await;
    let fresh = stage.attempt(key).await;
    for wait in [Wait::Skip, Wait::ForLocks] {
        for batch in [[&slow, &fresh], [&fresh, &slow]] {
            let answers = stage.store.intend(&batch.map(request), wait).await.expect("intends");
            for (attempt, answer) in batch.iter().zip(answers) {
                // "Busy" is as good as a refusal: it is asked for again alone.
                assert_eq!(answer == IntendAnswer::Granted, attempt.token == fresh.token, "{answer:?}, {wait:?}");
            }
        }
    }
    assert_eq!(stage.intend(&slow).await, IntendAnswer::Refused);
    let row = stage.queued(key).await.expect("queued");
    assert_eq!((row.intent, row.intents), (Some(fresh.token.0), 1));
}

#[tokio::test]
async fn two_tokens_under_one_lease_in_one_batch_are_not_both_granted() {
    let stage = Stage::set().await;
    let key = stage.enqueue(1).await[0];
    let one = stage.attempt(key).await;
    let other = Attempt { token: Token::fresh(), ..one };
    let answers = stage.store.intend(&[request(&one), request(&other)], Wait::Skip).await.expect("intends");
    let granted: Vec<bool> = answers.iter().map(|answer| *answer == IntendAnswer::Granted).collect();
    assert_eq!(granted.iter().filter(|granted| **granted).count(), 1, "{answers:?}");
    let holder = if granted[0] { one.token } else { other.token };
    assert_eq!(stage.queued(key).await.expect("queued").intent, Some(holder.0));
}

#[tokio::test]
async fn what_is_parked_finished_or_gone_is_refused() {
    let stage = Stage::set().await;
    let keys = stage.enqueue(3).await;
    let mut attempts: Vec<Attempt> = Vec::new();
    for claimed in stage.claim().await {
        attempts.push(Attempt { key: claimed.key, lease: claimed.lease, token: Token::fresh() });
    }
    assert_eq!(attempts.iter().map(|attempt| attempt.key).collect::<Vec<_>>(), keys);
    assert_eq!(stage.decide("hold", keys[0]).await, ["held"]);
    assert_eq!(stage.decide("cancel", keys[1]).await, ["cancelled"]);
    stage.run(&format!("DELETE FROM outbox.queue WHERE message_id = '{}'", keys[2].message_id)).await;
    for attempt in &attempts {
        assert_eq!(stage.intend(attempt).await, IntendAnswer::Refused);
        let skipping = stage.store.intend(&[request(attempt)], Wait::Skip).await.expect("intends")[0];
        assert_ne!(skipping, IntendAnswer::Granted);
    }
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE intent IS NOT NULL").await, 0);
}

#[tokio::test]
async fn an_intent_is_refused_once_the_doubt_of_it_has_been_marked() {
    let stage = Stage::set().await;
    let attempt = stage.reaped().await;
    assert_eq!(stage.intend(&attempt).await, IntendAnswer::Refused);
}

#[tokio::test]
async fn an_intent_is_refused_when_an_earlier_attempt_turned_out_accepted() {
    let stage = Stage::set().await;
    let first = stage.doubtful().await;
    stage.resolve(first.key, "resend", None, false).await;
    let second = stage.send(first.key).await;
    stage.late(&first, accepted()).await;
    assert_eq!(stage.intend(&second).await, IntendAnswer::Refused, "nothing is sent after a known acceptance");
}

#[tokio::test]
async fn a_locked_row_is_busy_and_does_not_stall_its_neighbours() {
    let stage = Stage::set().await;
    let keys = stage.enqueue(3).await;
    let attempts: Vec<Attempt> = stage
        .claim()
        .await
        .iter()
        .map(|claimed| Attempt { key: claimed.key, lease: claimed.lease, token: Token::fresh() })
        .collect();
    let (blocker, _driver) = stage.session().await;
    lock(&blocker, keys[1]).await;
    let requests: Vec<_> = attempts.iter().map(request).collect();
    let answers = stage.store.intend(&requests, Wait::Skip).await.expect("intends");
    assert_eq!(answers, [IntendAnswer::Granted, IntendAnswer::Busy, IntendAnswer::Granted]);

    let refusal = stage.store.intend(&requests[1..2], Wait::ForLocks).await.expect_err("the lock is held");
    assert_eq!(refusal.sqlstate().expect("a state").code(), "55P03");
    assert!(refusal.is_transient() && !refusal.is_ambiguous());

    let (store, waiting) = (stage.store.clone(), requests[1].clone());
    let waiter = tokio::spawn(async move { store.intend(&[waiting], Wait::ForLocks).await });
    stage.until_blocked(1).await;
    blocker.batch_execute("ROLLBACK").await.expect("rolls back");
    assert_eq!(waiter.await.expect("no panic").expect("intends"), [IntendAnswer::Granted]);
}

#[tokio::test]
async fn the_first_to_commit_wins_between_cancel_and_intend() {
    let stage = Stage::set().await;
    let key = stage.enqueue(1).await[0];
    let attempt = stage.attempt(key).await;
    let (application, _driver) = stage.session().await;
    application
        .batch_execute(&format!("BEGIN; SELECT outbox.cancel('{}', 'changed my mind')", key.message_id))
        .await
        .expect("cancels");
    let (store, waiting) = (stage.store.clone(), request(&attempt));
    let waiter = tokio::spawn(async move { store.intend(&[waiting], Wait::ForLocks).await });
    stage.until_blocked(1).await;
    application.batch_execute("COMMIT").await.expect("commits");
    assert_eq!(waiter.await.expect("no panic").expect("intends"), [IntendAnswer::Refused]);
    assert_eq!(stage.state(key).await, "cancelled");

    let sending = stage.sending().await;
    assert_eq!(stage.decide("cancel", sending.key).await, ["too late: in flight"]);
    assert_eq!(stage.decide("hold", sending.key).await, ["too late: in flight"]);
    assert_eq!(stage.state(sending.key).await, "sending");
}

#[tokio::test]
async fn other_bytes_than_those_of_an_open_doubt_are_not_granted() {
    let stage = Stage::set().await;
    let first = stage.doubtful().await;
    stage.resolve(first.key, "resend", None, false).await;
    let second = stage.attempt(first.key).await;
    let mut changed = request(&second);
    changed.sha256 = [8; 32];
    for wait in [Wait::Skip, Wait::ForLocks] {
        let answer = stage.store.intend(std::slice::from_ref(&changed), wait).await.expect("intends");
        assert_eq!(answer, [IntendAnswer::Changed]);
    }
    assert_eq!(stage.queued(first.key).await.expect("queued").intent, None);
    assert_eq!(stage.intend(&second).await, IntendAnswer::Granted, "the same bytes");
}

#[tokio::test]
async fn other_bytes_are_granted_when_every_earlier_attempt_certainly_did_not_arrive() {
    let stage = Stage::set().await;
    for end in [deferred, not_sent] {
        let first = stage.sending().await;
        assert!(stage.settle(&first, end()).await);
        let second = stage.attempt(first.key).await;
        let mut changed = request(&second);
        changed.sha256 = [9; 32];
        assert_eq!(stage.store.intend(&[changed], Wait::Skip).await.expect("intends"), [IntendAnswer::Granted]);
    }
}

#[tokio::test]
async fn rc41_a_delayed_first_intend_does_not_match_after_its_settle_back() {
    let stage = Stage::set().await;
    let key = stage.enqueue(1).await[0];
    let attempt = stage.attempt(key).await;
    // The answer never came, so the courier gives up: certainly not sent, and it cannot know whether it was intended.
    let mut given_up = settlement(&attempt, not_sent());
    given_up.intended = false;
    assert_eq!(stage.store.settle(&[given_up]).await.expect("settles"), [true]);
    assert_eq!(stage.intend(&attempt).await, IntendAnswer::Refused);
    assert_eq!(stage.state(key).await, "pending");

    let other = stage.attempt(key).await;
    assert_eq!(stage.release(&other).await, 1);
    assert_eq!(stage.intend(&other).await, IntendAnswer::Refused, "given back");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn rc39_an_intend_whose_client_is_gone_does_not_match_the_next_attempt() {
    let stage = Stage::set().await;
    let key = stage.enqueue(1).await[0];
    let first = stage.attempt(key).await;
    let (blocker, _driver) = stage.session().await;
    lock(&blocker, key).await;
    let (orphan, wire) = stage.session().await;
    let store = stage.store.clone();
    let statement = tokio::spawn(async move { raw_intend(&orphan, &store, &first).await });
    stage.until_blocked(1).await;
    wire.abort();
    statement.await.expect("no panic");
    // The next attempt begins under the lock: released by the sweeper of leases, claimed again.
    let second = Lease::fresh();
    blocker
        .execute(
            "UPDATE outbox.queue SET lease = $1, claims = claims + 1 WHERE message_id = $2",
            &[&second.0, &key.message_id.0],
        )
        .await
        .expect("claims again");
    blocker.batch_execute("COMMIT").await.expect("commits");
    no_statement_left(&stage).await;
    let row = stage.queued(key).await.expect("queued");
    assert_eq!((row.intent, row.lease), (None, Some(second.0)));
}

#[tokio::test]
async fn rc40_an_intend_whose_answer_was_lost_is_repeated_and_does_not_stick() {
    let stage = Stage::set().await;
    let key = stage.enqueue(1).await[0];
    let attempt = stage.attempt(key).await;
    let (blocker, _driver) = stage.session().await;
    lock(&blocker, key).await;
    let (orphan, wire) = stage.session().await;
    let store = stage.store.clone();
    let statement = tokio::spawn(async move { raw_intend(&orphan, &store, &attempt).await });
    stage.until_blocked(1).await;
    wire.abort();
    statement.await.expect("no panic");
    // A SELECT sees no intent here; the repetition queues up behind the orphan and finds its token.
    assert_eq!(stage.queued(key).await.expect("queued").intent, None);
    let (store, again) = (stage.store.clone(), request(&attempt));
    let repetition = tokio::spawn(async move { store.intend(&[again], Wait::ForLocks).await });
    stage.until_blocked(2).await;
    blocker.batch_execute("ROLLBACK").await.expect("rolls back");
    assert_eq!(repetition.await.expect("no panic").expect("intends"), [IntendAnswer::Granted]);
    no_statement_left(&stage).await;
    let row = stage.queued(key).await.expect("queued");
    assert_eq!((row.intent, row.intents), (Some(attempt.token.0), 1));
    assert!(stage.settle(&attempt, not_sent()).await, "and its attempt settles it");
    assert_eq!(stage.state(key).await, "pending");
}

#[tokio::test]
async fn an_intend_never_follows_a_settle_of_the_same_token() {
    let stage = Stage::set().await;
    for end in [accepted, refused, deferred, unknown] {
        let attempt = stage.sending().await;
        assert!(stage.settle(&attempt, end()).await);
        assert_eq!(stage.intend(&attempt).await, IntendAnswer::Refused);
    }
    stage.assert_consistent().await;
}

async fn no_statement_left(stage: &Stage) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()";
    hapax_testkit::eventually(DEADLINE.max(Duration::from_secs(5)), async || stage.count(sql).await == 0).await;
}
