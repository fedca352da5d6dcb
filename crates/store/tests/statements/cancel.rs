//! A call dropped at any of its polls: its statement may run or not, and nobody reads its answer. The pool has a single
//! connection here, so that the next statement certainly meets whatever was left behind on it.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hapax_core::{Incarnation, Lease, Token};
use hapax_store::{ConnectOptions, Cursor, IntendAnswer, LateAnswer, Release, Store, Wait};

use crate::common::{Attempt, GRACE, LANE, LEASE, Stage, accepted, options, request, settlement};

/// More polls than any of the calls needs.
const POLLS_MAX: usize = 1_000;

/// Polls a future at most so many times, then drops it in the middle of whatever it was doing.
struct Polls<F> {
    inner: Pin<Box<F>>,
    left: usize,
}

async fn polled<F: Future>(inner: F, times: usize) -> Option<F::Output> {
    Polls { inner: Box::pin(inner), left: times }.await
}

impl<F: Future> Future for Polls<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        match self.inner.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

async fn single(stage: &Stage) -> Store {
    let options = ConnectOptions { pool_size_max: 1, ..options(&stage.url) };
    let store = Store::connect(&options, Incarnation::fresh()).await.expect("connects");
    store.register("single", "localhost", "0", GRACE, &[]).await.expect("registers");
    store
}

/// Two deliveries, claimed by the stage's own relay.
async fn two(stage: &Stage) -> [Attempt; 2] {
    let keys = stage.enqueue(2).await;
    let claimed = stage.claim().await;
    let attempt = |index: usize| {
        let lease = claimed.iter().find(|claimed| claimed.key == keys[index]).expect("claimed").lease;
        Attempt { key: keys[index], lease, token: Token::fresh() }
    };
    [attempt(0), attempt(1)]
}

#[tokio::test]
async fn an_intend_dropped_at_every_poll_is_granted_to_its_own_token_only() {
    let stage = Stage::set().await;
    let store = single(&stage).await;
    for times in 0..POLLS_MAX {
        let [dropped, next] = two(&stage).await;
        let answer = polled(store.intend(&[request(&dropped)], Wait::ForLocks), times).await;
        // A stranger's answer would be that of the statement before it: granted.
        let stranger = Attempt { token: Token::fresh(), lease: Lease::fresh(), ..next };
        let refused = store.intend(&[request(&stranger)], Wait::ForLocks).await.expect("intends");
        assert_eq!(refused, [IntendAnswer::Refused], "{times} polls: it read the answer of the dropped one");
        assert_eq!(store.intend(&[request(&next)], Wait::ForLocks).await.expect("intends"), [IntendAnswer::Granted]);
        // The same token again is the same intent; another token under the same lease is not granted beside it.
        for _ in 0..2 {
            let again = store.intend(&[request(&dropped)], Wait::ForLocks).await.expect("intends");
            assert_eq!(again, [IntendAnswer::Granted], "{times} polls");
        }
        let rival = Attempt { token: Token::fresh(), ..dropped };
        assert_eq!(stage.intend(&rival).await, IntendAnswer::Refused, "{times} polls");
        let row = stage.queued(dropped.key).await.expect("queued");
        assert_eq!((row.intent, row.intents), (Some(dropped.token.0), 1), "{times} polls");
        stage.assert_consistent().await;
        if let Some(answer) = answer {
            assert_eq!(answer.expect("intends"), [IntendAnswer::Granted]);
            assert!(times > 1, "{times} polls cannot have asked anybody");
            println!("intend: {times} polls");
            return;
        }
    }
    panic!("still not done after {POLLS_MAX} polls");
}

#[tokio::test]
async fn a_settle_dropped_at_every_poll_is_counted_once_when_it_is_repeated() {
    let stage = Stage::set().await;
    let store = single(&stage).await;
    for times in 0..POLLS_MAX {
        let attempt = stage.sending().await;
        let end = settlement(&attempt, accepted());
        let answer = polled(store.settle(std::slice::from_ref(&end)), times).await;
        // Another's settle reads its own answer: nobody holds this one.
        let nobody = settlement(&Attempt { token: Token::fresh(), ..attempt }, accepted());
        assert_eq!(store.settle(&[nobody]).await.expect("settles"), [false], "{times} polls: another's answer");
        // As the ledger does it: hot, and cold when the row has gone.
        if store.settle(std::slice::from_ref(&end)).await.expect("settles") == [false] {
            assert_eq!(store.settle_late(&end).await.expect("settles late"), LateAnswer::Already, "{times} polls");
        }
        let done = stage.done(attempt.key).await.expect("done");
        assert_eq!((done.state.as_str(), done.token, done.attempt_no), ("sent", Some(attempt.token.0), 1), "{times}");
        assert_eq!(stage.outcome(&attempt).await.as_deref(), Some("accepted"));
        assert!(stage.claim().await.is_empty(), "{times} polls: handed out again");
        stage.assert_consistent().await;
        if let Some(answer) = answer {
            assert_eq!(answer.expect("settles"), [true]);
            assert!(times > 1, "{times} polls cannot have asked anybody");
            println!("settle: {times} polls");
            return;
        }
    }
    panic!("still not done after {POLLS_MAX} polls");
}

#[tokio::test]
async fn a_claim_dropped_at_every_poll_leases_nothing_twice_and_loses_nothing() {
    let stage = Stage::set().await;
    let store = single(&stage).await;
    for times in 0..POLLS_MAX {
        let keys = stage.enqueue(3).await;
        let answer = polled(store.claim(LANE, Cursor::START, 2, LEASE), times).await;
        let claimed = store.claim(LANE, Cursor::START, 10, LEASE).await.expect("claims").1;
        let mut leased_before = 0;
        for key in &keys {
            let row = stage.queued(*key).await.expect("queued");
            let mine = claimed.iter().find(|claimed| claimed.key == *key);
            assert_eq!(mine.is_some_and(|mine| row.lease == Some(mine.lease.0)), mine.is_some(), "{times} polls");
            assert!(row.lease.is_some(), "{times} polls: {key} is leased by neither");
            leased_before += usize::from(mine.is_none());
        }
        assert!(leased_before == 0 || leased_before == 2, "{times} polls: {leased_before}");
        // What nobody heard of comes back when its lease expires.
        stage.run("UPDATE outbox.queue SET lease_until = now() - interval '1 second'").await;
        let again = store.claim(LANE, Cursor::START, 10, LEASE).await.expect("claims").1;
        assert_eq!(again.len(), keys.len(), "{times} polls");
        for (claimed, granted) in claimed.iter().map(|old| (old, false)).chain(again.iter().map(|new| (new, true))) {
            let attempt = Attempt { key: claimed.key, lease: claimed.lease, token: Token::fresh() };
            assert_eq!(stage.intend(&attempt).await == IntendAnswer::Granted, granted, "{times} polls");
        }
        stage.run("DELETE FROM outbox.queue").await;
        if let Some(answer) = answer {
            assert_eq!(answer.expect("claims").1.len(), 2);
            assert!(times > 1, "{times} polls cannot have asked anybody");
            println!("claim: {times} polls");
            return;
        }
    }
    panic!("still not done after {POLLS_MAX} polls");
}

#[tokio::test]
async fn a_release_dropped_at_every_poll_gives_back_once_and_takes_nothing_from_the_next_holder() {
    let stage = Stage::set().await;
    let store = single(&stage).await;
    let back =
        |attempt: &Attempt| Release { key: attempt.key, lease: attempt.lease, after: Duration::ZERO, lane: None };
    for times in 0..POLLS_MAX {
        let [dropped, next] = two(&stage).await;
        let answer = polled(store.release(&[back(&dropped)]), times).await;
        let strange = Release { lease: Lease::fresh(), ..back(&next) };
        assert_eq!(store.release(&[strange]).await.expect("releases"), 0, "{times} polls: another's answer");
        store.release(&[back(&dropped)]).await.expect("releases");
        let row = stage.queued(dropped.key).await.expect("queued");
        assert_eq!((row.lease, row.claims, row.due), (None, 0, true), "{times} polls");
        assert_eq!(stage.queued(next.key).await.expect("queued").lease, Some(next.lease.0), "{times} polls");
        assert_eq!(stage.intend(&dropped).await, IntendAnswer::Refused, "{times} polls");
        let holder = stage.attempt(dropped.key).await;
        assert_eq!(store.release(&[back(&dropped)]).await.expect("releases"), 0, "{times} polls");
        assert_eq!(stage.intend(&holder).await, IntendAnswer::Granted, "{times} polls");
        stage.run("DELETE FROM outbox.queue").await;
        if let Some(answer) = answer {
            assert_eq!(answer.expect("releases"), 1);
            assert!(times > 1, "{times} polls cannot have asked anybody");
            println!("release: {times} polls");
            return;
        }
    }
    panic!("still not done after {POLLS_MAX} polls");
}
