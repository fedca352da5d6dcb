//! Digests, further: what is in one is in its state; what is in somebody's hands when a window closes is waited for.

use crate::{
    common::{lock, unknown},
    digest::{collecting, comments, digest, gather, state},
};

#[tokio::test]
async fn what_is_in_a_digest_is_in_the_state_of_that_and_does_not_age_the_queue() {
    let stage = collecting(50).await;
    let keys = comments(&stage, "a", 2).await;
    gather(&stage).await;
    let answer = stage.retry(keys[0], false).await;
    assert!(answer.starts_with("nothing to retry: it is pending, gathered: goes in a digest at "), "{answer}");
    let one = digest(&stage).await;
    let oldest = "SELECT coalesce(oldest < now() - interval '1 hour', false)::int::bigint FROM outbox.queue_health WHERE state = 'pending'";
    let found = |state: &str| {
        format!(
            "SELECT count(*) FROM outbox.find_state('{state}') f JOIN outbox.deliveries d USING (message_id, recipient_no) WHERE d.state = '{state}'"
        )
    };
    assert_eq!((stage.count(&found("pending")).await, stage.count(&found("in_doubt")).await), (3, 0));
    let attempt = stage.send(one).await;
    assert!(state(&stage, keys[0]).await.starts_with("sending: in digest "));
    assert_eq!(stage.count(&found("sending")).await, 3);
    assert!(stage.settle(&attempt, unknown()).await);
    assert!(state(&stage, keys[1]).await.starts_with("in_doubt: in digest "));
    assert_eq!((stage.count(&found("pending")).await, stage.count(&found("in_doubt")).await), (0, 3));
    assert_eq!(stage.count("SELECT count(*) FROM outbox.in_doubt").await, 1, "there is one thing to decide");
    assert_eq!(stage.count(oldest).await, 0);
    let again = format!("SELECT outbox.send_again('{}', 'why not')", keys[0].message_id);
    let refused = stage.sql.query_one(&again, &[]).await.expect_err("it is in a digest");
    let refused = refused.as_db_error().expect("the server's").clone();
    assert!(refused.message().ends_with(" is in_doubt"), "{refused:?}");
    let hint = format!("it is in digest {} and ends as that does: decide that one", one.message_id);
    assert_eq!(refused.hint(), Some(hint.as_str()));
    stage.resolve(one, "resend", None, true).await;
    assert!(state(&stage, keys[0]).await.starts_with("pending: in digest "));
    assert_eq!(stage.decide("hold", one).await, ["held"]);
    assert!(state(&stage, keys[0]).await.starts_with("held: in digest "));
    assert_eq!(stage.count(&found("held")).await, 3);
}

#[tokio::test]
async fn what_somebody_has_in_hand_when_the_window_closes_is_waited_for_a_little() {
    let stage = collecting(50).await;
    let keys = comments(&stage, "a", 3).await;
    gather(&stage).await;
    let closes =
        "UPDATE outbox.digest_group SET closes_at = now(); UPDATE outbox.queue SET due_at = now() WHERE parked IS NULL";
    let (other, _driver) = stage.session().await;
    lock(&other, keys[1]).await;
    stage.sql.batch_execute("UPDATE outbox.digest_group SET closes_at = now()").await.expect("closes");
    let due = format!("UPDATE outbox.queue SET due_at = now() WHERE message_id <> '{}'", keys[1].message_id);
    stage.run(&due).await;
    let gathered = gather(&stage).await;
    assert_eq!((gathered.made.len(), gathered.waiting.len()), (0, 2), "{gathered:?}");
    other.batch_execute("ROLLBACK").await.expect("lets go");
    stage.sql.batch_execute(closes).await.expect("closes");
    assert_eq!(gather(&stage).await.made.len(), 1);
    assert_eq!(stage.count("SELECT sum(members) FROM outbox.digest").await, 3);
    stage.assert_consistent().await;
}
