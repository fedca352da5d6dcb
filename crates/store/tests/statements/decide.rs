//! What people and policies decide: resolve, cancel, retry, hold, release. Tokens, grace, and two who decide at once.

use std::time::Duration;

use hapax_core::{DeliveryKey, MessageId, Token};

use crate::common::{LANE, Stage, lock, resolve_in, unknown};

#[tokio::test]
async fn rc46_a_resolve_script_run_twice_does_not_decide_the_doubt_of_the_next_attempt() {
    let stage = Stage::set().await;
    let first = stage.doubtful().await;
    assert_eq!(stage.resolve(first.key, "resend", Some(first.token), false).await, "pending: it will be sent again");
    let again = stage.resolve(first.key, "resend", Some(first.token), false).await;
    assert!(again.contains("decided before"), "{again}");
    let second = stage.send(first.key).await;
    assert!(stage.settle(&second, unknown()).await);
    let again = stage.resolve(first.key, "resend", Some(first.token), true).await;
    assert!(again.contains("decided before"), "{again}");
    let other = stage.doubtful().await;
    for (verdict, token) in [("sent", other.token), ("resend", Token(uuid::Uuid::new_v4()))] {
        let answer = stage.resolve(first.key, verdict, Some(token), true).await;
        assert_eq!(answer, format!("nothing to resolve: the token {} is not of this delivery", token.0));
    }
    assert_eq!((stage.state(first.key).await, stage.state(other.key).await), ("in_doubt".into(), "in_doubt".into()));
    assert_eq!(
        stage.resolve(first.key, "resend", None, true).await,
        "22H53",
        "without a token nobody knows which is meant"
    );
    assert_eq!(stage.state(first.key).await, "in_doubt");
    assert_eq!(stage.resolve(first.key, "sent", Some(second.token), false).await, "sent");
    assert_eq!(stage.resolve(first.key, "sent", Some(second.token), false).await, "nothing to resolve: it is sent");
    assert_eq!(stage.queued(first.key).await, None);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.audit").await, 2, "no-ops are not decisions");
    stage.assert_consistent().await;
}

/// Found by the random test: the cancel forgot that a doubt had been decided.
#[tokio::test]
async fn rc46_a_cancel_and_a_retry_in_between_do_not_make_a_script_without_token_right() {
    let stage = Stage::set().await;
    let first = stage.doubtful().await;
    assert_eq!(stage.resolve(first.key, "resend", None, false).await, "pending: it will be sent again");
    assert_eq!(stage.decide("cancel", first.key).await, ["cancelled"]);
    assert_eq!(stage.retry(first.key, true).await, "pending: it was cancelled");
    let second = stage.send(first.key).await;
    assert!(stage.settle(&second, unknown()).await);
    assert_eq!(stage.resolve(first.key, "resend", None, false).await, "22H53");
    assert_eq!(stage.state(first.key).await, "in_doubt");
}

#[tokio::test]
async fn resend_and_failed_are_refused_while_the_attempt_may_be_alive() {
    let stage = Stage::set().await;
    for verdict in ["resend", "failed"] {
        let attempt = stage.reaped().await;
        assert_eq!(stage.resolve(attempt.key, verdict, Some(attempt.token), false).await, "22H54");
        assert_eq!(stage.state(attempt.key).await, "in_doubt");
        let forced = stage.resolve(attempt.key, verdict, Some(attempt.token), true).await;
        assert!(["pending: it will be sent again", "failed"].contains(&forced.as_str()), "{forced}");

        let attempt = stage.reaped().await;
        assert_eq!(stage.resolve(attempt.key, "sent", Some(attempt.token), false).await, "sent", "no copy comes of it");

        let attempt = stage.reaped().await;
        stage.store.doubts_over(&[(attempt.key, attempt.token)]).await.expect("notes");
        assert_ne!(stage.resolve(attempt.key, verdict, Some(attempt.token), false).await, "22H54", "the grace is over");
    }
    stage.assert_consistent().await;
}

/// The database's clock may jump by hours: nothing becomes possible by it.
#[tokio::test]
async fn rc36_no_jump_of_the_databases_clock_lets_an_unforced_resend_through_while_the_attempt_may_be_alive() {
    let stage = Stage::set().await;
    let attempt = stage.reaped().await;
    for jump in ["- interval '3 hours'", "- interval '40 days'", "+ interval '3 hours'"] {
        stage.run(&format!("UPDATE outbox.queue SET doubt_since = now() {jump}, intent_at = now() {jump}")).await;
        stage.run(&format!("UPDATE outbox.relay SET beat_at = now() {jump}, started_at = now() {jump}")).await;
        for verdict in ["resend", "failed"] {
            assert_eq!(stage.resolve(attempt.key, verdict, Some(attempt.token), false).await, "22H54", "{jump}");
        }
        let many = "SELECT string_agg(result, '; ') FROM outbox.resolve_many('resend', 'test', everything => true)";
        assert!(stage.text(many).await.starts_with("too early for resend"), "{jump}");
        assert_eq!(stage.evidence(&attempt, "not_sent").await, "22H54", "{jump}");
        assert_eq!(stage.state(attempt.key).await, "in_doubt");
    }
    // What another relay has watched for the whole grace, by its own clock, is over; and only that very doubt.
    let other = stage.reaped().await;
    let stale = stage.enqueue(1).await[0];
    stage.store.doubts_over(&[(attempt.key, attempt.token), (stale, Token::fresh())]).await.expect("notes");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.doubt_over").await, 1, "of doubts only");
    assert_eq!(stage.resolve(other.key, "resend", Some(other.token), false).await, "22H54");
    stage.run("DELETE FROM outbox.queue WHERE parked IS NULL").await;
    let answer = stage.resolve(attempt.key, "resend", Some(attempt.token), false).await;
    assert_eq!(answer, "pending: it will be sent again");
    let second = stage.send(attempt.key).await;
    stage.store.mark_in_doubt(&[stage.store.incarnation()], crate::common::GRACE).await.expect("marks");
    assert_eq!(stage.resolve(second.key, "resend", Some(second.token), false).await, "22H54", "another doubt");
    stage.store.doubts_over(&[]).await.expect("notes");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.doubt_over").await, 0, "decided, forgotten");
}

#[tokio::test]
async fn who_signed_off_is_certainly_not_alive() {
    let stage = Stage::set().await;
    let attempt = stage.reaped().await;
    stage.store.sign_off().await.expect("signs off");
    assert_eq!(stage.resolve(attempt.key, "resend", None, false).await, "pending: it will be sent again");
}

#[tokio::test]
async fn a_doubt_the_relay_itself_reported_needs_no_grace() {
    let stage = Stage::set().await;
    let attempt = stage.doubtful().await;
    assert_eq!(stage.resolve(attempt.key, "failed", None, false).await, "failed");
    let done = stage.done(attempt.key).await.expect("done");
    assert_eq!((done.open_doubts, done.token), (1, Some(attempt.token.0)), "it may have arrived");
}

#[tokio::test]
async fn of_two_who_resolve_at_once_one_decides() {
    let stage = Stage::set().await;
    for (one, other) in [("resend", "resend"), ("sent", "failed"), ("failed", "resend"), ("resend", "sent")] {
        let attempt = stage.doubtful().await;
        let (first, _driver) = stage.session().await;
        first.batch_execute("BEGIN").await.expect("begins");
        resolve_in(&first, attempt.key, one, Some(attempt.token), false).await;
        let (second, _other_driver) = stage.session().await;
        let (key, token) = (attempt.key, Some(attempt.token));
        let waiting = tokio::spawn(async move { resolve_in(&second, key, other, token, false).await });
        stage.until_blocked(1).await;
        first.batch_execute("COMMIT").await.expect("commits");
        let answer = waiting.await.expect("no panic");
        assert!(answer.starts_with("nothing to resolve"), "{one}, {other}: {answer}");
        let state = stage.state(attempt.key).await;
        assert_eq!(state, if one == "resend" { "pending" } else { one });
        stage.assert_consistent().await;
        stage.run("DELETE FROM outbox.queue").await;
    }
}

#[tokio::test]
async fn a_retry_of_what_may_have_arrived_is_a_resend_and_says_so() {
    let stage = Stage::set().await;
    let attempt = stage.doubtful().await;
    stage.resolve(attempt.key, "failed", None, false).await;
    assert!(stage.retry(attempt.key, false).await.starts_with("refused: failed with 1 open doubt(s)"));
    assert_eq!(stage.retry(attempt.key, true).await, "pending: it was failed");
    let row = stage.queued(attempt.key).await.expect("queued");
    assert_eq!((row.open_doubts, row.resends, row.due), (1, 1, true));
    stage.assert_consistent().await;
}

#[tokio::test]
async fn a_message_under_an_ordering_key_is_cancelled_whole_however_many_recipients_it_has() {
    let stage = Stage::set().await;
    let keys = stage.enqueue_one(120, Some("customer 7")).await;
    let next = stage.enqueue_one(1, Some("customer 7")).await[0];
    assert_eq!(stage.decide("cancel", keys[0]).await, vec!["cancelled"; 120]);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.done WHERE state = 'cancelled'").await, 120);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.audit WHERE action = 'cancel'").await, 120);
    let claimed: Vec<DeliveryKey> = stage.claim().await.iter().map(|claimed| claimed.key).collect();
    assert_eq!(claimed, [next], "the next of the key is free");
}

#[tokio::test]
async fn holding_takes_the_lease_away_and_releasing_gives_the_delivery_back() {
    let stage = Stage::set().await;
    let key = stage.enqueue(1).await[0];
    let attempt = stage.attempt(key).await;
    assert_eq!(stage.decide("hold", key).await, ["held"]);
    assert_ne!(stage.intend(&attempt).await, hapax_store::IntendAnswer::Granted);
    assert_eq!(stage.release(&attempt).await, 0, "it is not the relay's any more");
    assert_eq!(stage.state(key).await, "held");
    assert_eq!(stage.decide("release", key).await, ["pending"]);
    assert_eq!(stage.send(key).await.key, key);
}

#[tokio::test]
async fn a_policys_decision_names_its_doubt_and_does_not_wait_for_an_application() {
    let stage = Stage::set().await;
    let attempt = stage.reaped().await;
    let doubt = stage.store.doubts(&[LANE], MessageId(uuid::Uuid::nil()), 10).await.expect("reads").remove(0);
    assert_eq!((doubt.key, doubt.token, doubt.grace), (attempt.key, attempt.token, Duration::from_secs(900)));
    let (application, _driver) = stage.session().await;
    lock(&application, attempt.key).await;
    stage.store.decide_doubt(&doubt, "resend", "policy").await.expect("an answer while the row is locked");
    assert_eq!(stage.state(attempt.key).await, "in_doubt");
    application.batch_execute("ROLLBACK").await.expect("rolls back");
    stage.store.decide_doubt(&doubt, "resend", "policy").await.expect("decides");
    assert_eq!(stage.state(attempt.key).await, "pending");
    let second = stage.send(attempt.key).await;
    assert!(stage.settle(&second, unknown()).await);
    stage.store.decide_doubt(&doubt, "resend", "policy").await.expect("a no-op");
    assert_eq!(stage.state(attempt.key).await, "in_doubt", "the doubt of the next attempt is another");
    assert_eq!(stage.queued(attempt.key).await.expect("queued").resends, 1);
}

#[tokio::test]
async fn the_pages_of_doubts_skip_no_recipient_of_a_message() {
    let stage = Stage::set().await;
    let keys = stage.enqueue_one(5, None).await;
    for claimed in stage.claim().await {
        let attempt = crate::common::Attempt { key: claimed.key, lease: claimed.lease, token: Token::fresh() };
        stage.intend(&attempt).await;
        assert!(stage.settle(&attempt, unknown()).await);
    }
    let mut found: Vec<DeliveryKey> = Vec::new();
    let mut after = DeliveryKey { message_id: MessageId(uuid::Uuid::nil()), recipient_no: 0 };
    loop {
        let page = stage.store.doubts(&[LANE], after, 2).await.expect("reads");
        found.extend(page.iter().map(|doubt| doubt.key));
        match page.last() {
            Some(last) => after = last.key,
            None => break,
        }
    }
    assert_eq!(found, keys);
}
