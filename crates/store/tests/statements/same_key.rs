//! Sending again with the same key: only for the pinned upstream, inside the window, and what becomes of its doubts.

use std::time::Duration;

use hapax_core::Token;
use hapax_store::{Bound, Doubt, IntendAnswer, IntendRequest, LateAnswer, Upstream, Verdict, Wait};

use crate::common::{Attempt, Stage, accepted, request, settlement, unknown};

const HERE: Upstream = Upstream { id: 42, usable: Duration::from_secs(3600) };

fn at(attempt: &Attempt, upstream: Option<Upstream>) -> IntendRequest {
    IntendRequest { upstream, ..request(attempt) }
}

impl Stage {
    async fn intend_at(&self, attempt: &Attempt, upstream: Option<Upstream>) -> IntendAnswer {
        self.store.intend(&[at(attempt, upstream)], Wait::ForLocks).await.expect("intends")[0]
    }

    /// A delivery in doubt at an upstream that de-duplicates.
    async fn doubtful_here(&self) -> Attempt {
        let key = self.enqueue(1).await[0];
        let attempt = self.attempt(key).await;
        assert_eq!(self.intend_at(&attempt, Some(HERE)).await, IntendAnswer::Granted);
        assert!(self.settle(&attempt, unknown()).await);
        attempt
    }

    async fn doubt(&self, attempt: &Attempt) -> Doubt {
        let from = hapax_core::MessageId(uuid::Uuid::nil());
        let doubts = self.store.doubts(&[1], from, 100).await.expect("reads");
        doubts.into_iter().find(|doubt| doubt.key == attempt.key).expect("it is in doubt")
    }

    async fn again(&self, attempt: &Attempt) -> String {
        let doubt = self.doubt(attempt).await;
        self.store.resend_same_key(&doubt, "default", HERE.id, HERE.usable, "policy: test").await.expect("answers")
    }

    /// In doubt, and claimed to be sent again with the same key.
    async fn claimed_again(&self) -> (Attempt, Attempt) {
        let first = self.doubtful_here().await;
        assert_eq!(self.again(&first).await, "pending: it will be sent again");
        (first, self.attempt(first.key).await)
    }
}

#[tokio::test]
async fn accepted_with_the_same_key_settles_the_doubts_before_it() {
    let stage = Stage::set().await;
    let first = stage.doubtful_here().await;
    assert_eq!(stage.doubt(&first).await.upstream, Some(42));
    assert_eq!(stage.again(&first).await, "pending: it will be sent again");
    let claimed = stage.claim().await;
    let bound = claimed[0].bound.expect("bound");
    assert_eq!((bound.upstream, claimed[0].pinned_route.as_deref()), (Some(42), Some("default")));
    assert!(bound.since_first_intent.is_some_and(|age| age < Duration::from_secs(600)));
    let second = Attempt { key: first.key, lease: claimed[0].lease, token: Token::fresh() };
    assert_eq!(stage.intend_at(&second, Some(HERE)).await, IntendAnswer::Granted);
    assert!(stage.settle(&second, accepted()).await);
    let done = stage.done(first.key).await.expect("done");
    assert_eq!(
        (done.evidence.as_deref(), done.open_doubts, done.token),
        (Some("idempotent upstream"), 0, Some(second.token.0))
    );
    assert_eq!(stage.late(&first, accepted()).await, LateAnswer::Settled, "a late reply is still the better evidence");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn it_gets_an_intent_only_for_its_route_and_upstream_and_inside_the_window() {
    let stage = Stage::set().await;
    let (_, second) = stage.claimed_again().await;
    let refused = [
        at(&second, None),
        at(&second, Some(Upstream { id: 43, ..HERE })),
        at(&second, Some(Upstream { usable: Duration::ZERO, ..HERE })),
        IntendRequest { route: "other".into(), ..at(&second, Some(HERE)) },
    ];
    for request in refused {
        let answer = stage.store.intend(std::slice::from_ref(&request), Wait::ForLocks).await.expect("intends");
        assert_eq!(answer, [IntendAnswer::Refused], "{request:?}");
    }
    // The database's clock was set back behind the first intent: nobody knows how old it is.
    stage.run("UPDATE outbox.queue SET first_intent_at = first_intent_at + interval '1 hour'").await;
    assert_eq!(stage.intend_at(&second, Some(HERE)).await, IntendAnswer::Refused);
    stage.run("UPDATE outbox.queue SET first_intent_at = first_intent_at - interval '1 hour'").await;
    assert_eq!(stage.intend_at(&second, Some(HERE)).await, IntendAnswer::Granted);
    // A repetition of an intent that stands is granted whatever the time: the gate asks once more.
    stage.run("UPDATE outbox.queue SET first_intent_at = now() - interval '2 hours'").await;
    assert_eq!(stage.intend_at(&second, Some(HERE)).await, IntendAnswer::Granted);
}

#[tokio::test]
async fn the_policy_does_nothing_outside_the_window_or_at_another_upstream() {
    let stage = Stage::set().await;
    let first = stage.doubtful_here().await;
    let doubt = stage.doubt(&first).await;
    let ask = async |route: &str, id: i64| {
        stage.store.resend_same_key(&doubt, route, id, HERE.usable, "policy: test").await.expect("answers")
    };
    assert_eq!(ask("other", 42).await, "nothing done: it was sent to another upstream");
    assert_eq!(ask("default", 7).await, "nothing done: it was sent to another upstream");
    for age in ["- interval '1 hour'", "+ interval '1 minute'"] {
        stage.run(&format!("UPDATE outbox.queue SET first_intent_at = now() {age}")).await;
        assert_eq!(ask("default", 42).await, "nothing done: the window of its upstream has closed", "{age}");
    }
    stage.run("UPDATE outbox.queue SET first_intent_at = now()").await;
    assert_eq!(ask("default", 42).await, "pending: it will be sent again");
    assert_eq!(ask("default", 42).await, "nothing to resolve: it has moved on", "its token is of the past");
    let row = stage.queued(first.key).await.expect("queued");
    assert_eq!((row.resends, row.open_doubts), (1, 1));
    assert_eq!(stage.count("SELECT same_key_resends::int8 FROM outbox.queue").await, 1);
}

#[tokio::test]
async fn what_cannot_be_sent_again_any_more_is_in_doubt_as_before_and_can_be_decided() {
    let stage = Stage::set().await;
    let (first, second) = stage.claimed_again().await;
    let mut nothing = settlement(&second, (accepted().0, Verdict::DoubtAgain("closed".into())));
    (nothing.outcome, nothing.intended) = (None, false);
    assert_eq!(stage.store.settle(&[nothing]).await.expect("settles"), [true]);
    let row = stage.queued(first.key).await.expect("queued");
    assert_eq!(
        (row.parked.as_deref(), row.intent, row.open_doubts, row.lease),
        (Some("doubt"), Some(first.token.0), 1, None)
    );
    assert_eq!(stage.state(first.key).await, "in_doubt");
    stage.assert_consistent().await;
    assert!(stage.claim().await.is_empty(), "nobody gets it");
    // The reply of that very attempt may still come.
    let (other, third) = stage.claimed_again().await;
    let mut nothing = settlement(&third, (accepted().0, Verdict::DoubtAgain("closed".into())));
    (nothing.outcome, nothing.intended) = (None, false);
    assert_eq!(stage.store.settle(&[nothing]).await.expect("settles"), [true]);
    assert!(stage.settle(&other, accepted()).await, "the token is that of the doubt again");
    assert_eq!(stage.state(other.key).await, "sent");
    assert_eq!(stage.resolve(first.key, "failed", Some(first.token), false).await, "failed");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn a_persons_resend_is_not_bound_and_ends_the_policy_when_it_goes_elsewhere() {
    let stage = Stage::set().await;
    let (first, second) = stage.claimed_again().await;
    assert_eq!(stage.intend_at(&second, Some(HERE)).await, IntendAnswer::Granted);
    assert!(stage.settle(&second, unknown()).await);
    assert_eq!(stage.resolve(first.key, "resend", Some(second.token), true).await, "pending: it will be sent again");
    let third = stage.claim().await;
    assert_eq!(third[0].bound, None, "a person may send it anywhere");
    let third = Attempt { key: first.key, lease: third[0].lease, token: Token::fresh() };
    assert_eq!(stage.intend_at(&third, None).await, IntendAnswer::Granted);
    assert!(stage.settle(&third, unknown()).await);
    assert_eq!(stage.doubt(&first).await.upstream, None, "its doubts are at two upstreams");
    assert_eq!(stage.again(&first).await, "nothing done: it was sent to another upstream");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn a_bound_delivery_that_is_cancelled_held_or_expired_is_not_sent() {
    let stage = Stage::set().await;
    let (first, second) = stage.claimed_again().await;
    assert_eq!(stage.decide("hold", first.key).await, ["held"]);
    assert_eq!(stage.intend_at(&second, Some(HERE)).await, IntendAnswer::Refused);
    assert_eq!(stage.decide("release", first.key).await, ["pending"]);
    let claimed = stage.claim().await;
    assert_eq!(claimed[0].bound.map(|Bound { upstream, .. }| upstream), Some(Some(42)), "still bound");
    let third = Attempt { key: first.key, lease: claimed[0].lease, token: Token::fresh() };
    assert_eq!(stage.decide("cancel", first.key).await, ["cancelled"]);
    assert_eq!(stage.intend_at(&third, Some(HERE)).await, IntendAnswer::Refused);
    assert_eq!(stage.done(first.key).await.expect("done").open_doubts, 1, "it may have arrived");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn no_doubt_left_no_bond_left() {
    let stage = Stage::set().await;
    let (first, second) = stage.claimed_again().await;
    assert_eq!(stage.release(&second).await, 1);
    let refused = hapax_core::Outcome::not_sent(hapax_core::Phase::Body, hapax_core::outcome::Cause::Aborted, "late");
    let retry = Verdict::Retry { after: Duration::ZERO, counts: true };
    assert_eq!(stage.late(&first, (refused, retry)).await, LateAnswer::Noted);
    assert_eq!(stage.claim().await[0].bound, None, "nothing of it can have arrived");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn rc25_the_claim_says_how_long_each_delivery_has_been_due() {
    let stage = Stage::set().await;
    let keys = stage.enqueue(2).await;
    let age = format!(
        "UPDATE outbox.queue SET due_at = now() - interval '5 days' WHERE message_id = '{}'",
        keys[0].message_id
    );
    stage.run(&age).await;
    let claimed = stage.claim().await;
    assert_eq!(claimed.len(), 2);
    assert_eq!(claimed[0].key, keys[0]);
    assert!(claimed[0].due_for >= Duration::from_secs(5 * 86_400) && claimed[1].due_for < Duration::from_secs(600));
}
