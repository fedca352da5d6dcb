//! settle_evidence: what a mail server's log says is late truth, too, in every order (RC-47); a reply outranks it.

use hapax_store::{IntendAnswer, Verdict};

use crate::common::{Attempt, GRACE, Stage, accepted, deferred, lock, not_sent, refused, unknown};

/// What may have happened to a doubt before the evidence comes.
const DECISIONS: [&str; 10] = [
    "nothing",
    "resend",
    "resend, claimed",
    "resend, sending",
    "resend, doubtful",
    "resend, cancel",
    "sent",
    "failed",
    "failed, retry",
    "policy",
];

async fn decided(stage: &Stage, decision: &str) -> (Attempt, Option<Attempt>) {
    let first = stage.reaped().await;
    stage.store.doubts_over(&[(first.key, first.token)]).await.expect("its grace is over");
    let mut second = None;
    for step in decision.split(", ") {
        match step {
            "nothing" => {}
            "resend" | "sent" | "failed" => drop(stage.resolve(first.key, step, Some(first.token), false).await),
            "policy" => {
                let doubt = stage.store.doubts(&[1], first.key.message_id, 1).await.expect("reads");
                assert!(doubt.is_empty(), "behind the key");
                let decide = "SELECT outbox.resolve_doubt($1, 1, 'sent', 'policy', $2, true, 'policy')";
                stage.sql.query_one(decide, &[&first.key.message_id.0, &first.token.0]).await.expect("decides");
            }
            "claimed" => second = Some(stage.attempt(first.key).await),
            "sending" => second = Some(stage.send(first.key).await),
            "doubtful" => {
                second = Some(stage.send(first.key).await);
                assert!(stage.settle(&second.expect("a second"), unknown()).await);
            }
            "cancel" => assert_eq!(stage.decide("cancel", first.key).await, ["cancelled"]),
            "retry" => assert_eq!(stage.retry(first.key, true).await, "pending: it was failed"),
            other => panic!("{other}"),
        }
        stage.assert_consistent().await;
    }
    (first, second)
}

#[tokio::test]
async fn rc47_a_log_that_shows_it_queued_ends_in_sent_whatever_was_decided_meanwhile() {
    let stage = Stage::set().await;
    for decision in DECISIONS {
        // The doubt that the first mark left is forgotten with its token, once it has been decided.
        let (first, second) = decided(&stage, decision).await;
        let answer = stage.evidence(&first, "accepted").await;
        assert!(answer.starts_with("sent"), "{decision}: {answer}");
        stage.assert_consistent().await;
        if decision == "resend, sending" {
            assert_eq!(stage.state(first.key).await, "sending");
            assert!(stage.settle(&second.expect("a second"), deferred()).await);
        } else if let (Some(second), "resend, claimed") = (second, decision) {
            assert_ne!(stage.intend(&second).await, IntendAnswer::Granted);
        }
        let done = stage.done(first.key).await.expect(decision);
        assert_eq!((done.state.as_str(), done.token), ("sent", Some(first.token.0)), "{decision}");
        if decision != "resend, sending" {
            assert_eq!(done.evidence.as_deref(), Some("report"), "{decision}");
        }
        assert_eq!(done.open_doubts, i16::from(decision == "resend, doubtful"), "{decision}");
        stage.assert_consistent().await;
        let before = stage.count("SELECT count(*) FROM outbox.audit").await;
        let again = stage.evidence(&first, "accepted").await;
        assert!(again.starts_with("nothing to settle: the attempt is known as accepted"), "{decision}: {again}");
        assert_eq!(stage.count("SELECT count(*) FROM outbox.audit").await, before, "a no-op is no decision");
        assert!(stage.claim().await.is_empty(), "{decision}: nothing is sent after a known acceptance");
        stage.run("DELETE FROM outbox.queue; DELETE FROM outbox.done").await;
    }
}

#[tokio::test]
async fn rc47_a_log_that_shows_it_was_not_taken_takes_its_doubt_away_whatever_was_decided_meanwhile() {
    let stage = Stage::set().await;
    for decision in DECISIONS {
        let (first, second) = decided(&stage, decision).await;
        // Forgotten with the decision: the attempt signed off is what makes it certain now.
        stage.run("UPDATE outbox.relay SET signed_off_at = now()").await;
        let answer = stage.evidence(&first, "not_sent").await;
        let expected = match decision {
            "nothing" | "resend" | "failed, retry" => "pending",
            "resend, claimed" => "claimed",
            "resend, sending" => "sending",
            "resend, doubtful" => "in_doubt",
            "resend, cancel" => "cancelled",
            "sent" | "policy" => "held",
            _ => "failed",
        };
        assert_eq!(stage.state(first.key).await, expected, "{decision}: {answer}");
        assert_eq!(stage.outcome(&first).await.as_deref(), Some("not_sent"));
        stage.assert_consistent().await;
        if decision == "nothing" {
            let row = stage.queued(first.key).await.expect("queued");
            assert_eq!((row.open_doubts, row.resends, row.due, row.intent), (0, 0, true, None), "no resend");
            let again = stage.evidence(&first, "not_sent").await;
            assert!(again.starts_with("nothing to settle: the attempt is known as not_sent"), "{again}");
            // And it goes out, once.
            let next = stage.send(first.key).await;
            assert!(stage.settle(&next, accepted()).await);
            assert_eq!(stage.done(first.key).await.expect("done").open_doubts, 0);
        }
        if let (Some(second), "resend, sending") = (second, decision) {
            assert!(stage.settle(&second, accepted()).await);
        }
        stage.assert_consistent().await;
        stage
            .run("DELETE FROM outbox.queue; DELETE FROM outbox.done; UPDATE outbox.relay SET signed_off_at = NULL")
            .await;
    }
}

#[tokio::test]
async fn rc47_an_acceptance_that_is_found_after_a_log_said_otherwise_still_ends_in_sent() {
    let stage = Stage::set().await;
    let (first, _) = decided(&stage, "nothing").await;
    stage.run("UPDATE outbox.relay SET signed_off_at = now()").await;
    let pending = stage.evidence(&first, "not_sent").await;
    assert!(pending.starts_with("pending"), "{pending}");
    assert_eq!(stage.evidence(&first, "accepted").await, "sent");
    assert_eq!(stage.state(first.key).await, "sent");
    assert_eq!(stage.done(first.key).await.expect("done").open_doubts, 0);
    assert_eq!(stage.outcome(&first).await.as_deref(), Some("accepted"));
    let again = stage.evidence(&first, "not_sent").await;
    assert!(again.starts_with("nothing to settle: the attempt is known as accepted"), "{again}");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn a_not_sent_is_refused_while_the_attempt_may_be_alive_and_an_accepted_never_is() {
    let stage = Stage::set().await;
    let attempt = stage.reaped().await;
    assert_eq!(stage.evidence(&attempt, "not_sent").await, "22H54");
    assert_eq!(stage.state(attempt.key).await, "in_doubt");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.audit").await, 0);
    assert_eq!(stage.evidence(&attempt, "accepted").await, "sent");
    // Forced to be sent again while its relay may wake up: the first attempt stays untouchable.
    let attempt = stage.reaped().await;
    stage.resolve(attempt.key, "resend", Some(attempt.token), true).await;
    assert_eq!(stage.evidence(&attempt, "not_sent").await, "22H54");
    // Its relay's own word needs no grace.
    let attempt = stage.doubtful().await;
    assert!(stage.evidence(&attempt, "not_sent").await.starts_with("pending"));
    stage.assert_consistent().await;
}

#[tokio::test]
async fn a_reply_that_was_read_outranks_every_log() {
    let stage = Stage::set().await;
    for (end, state) in [(accepted(), "sent"), (refused(), "failed"), (deferred(), "pending"), (not_sent(), "pending")]
    {
        let attempt = stage.sending().await;
        assert!(stage.settle(&attempt, end).await);
        for verdict in ["accepted", "not_sent"] {
            let answer = stage.evidence(&attempt, verdict).await;
            assert!(answer.starts_with("nothing to settle: the attempt is known as"), "{answer}");
        }
        assert_eq!(stage.state(attempt.key).await, state);
    }
    let living = stage.sending().await;
    assert!(stage.evidence(&living, "accepted").await.starts_with("nothing to settle: no finished attempt"));
    assert_eq!(stage.evidence(&living, "perhaps").await, "22H52");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn a_reply_that_comes_after_the_log_was_read_changes_nothing_that_is_true() {
    let stage = Stage::set().await;
    let attempt = stage.reaped().await;
    assert_eq!(stage.evidence(&attempt, "accepted").await, "sent");
    assert_eq!(stage.late(&attempt, accepted()).await, hapax_store::LateAnswer::Already);
    let done = stage.done(attempt.key).await.expect("done");
    assert_eq!((done.state.as_str(), done.evidence.as_deref()), ("sent", Some("report")));
    stage.assert_consistent().await;
}

#[tokio::test]
async fn evidence_waits_for_a_locked_row_and_sees_what_it_became() {
    let stage = Stage::set().await;
    let attempt = stage.doubtful().await;
    let (other, _driver) = stage.session().await;
    lock(&other, attempt.key).await;
    let (second, _other_driver) = stage.session().await;
    let sql = format!(
        "SELECT outbox.settle_evidence('{}', 1, '{}', 'not_sent', 'log')",
        attempt.key.message_id, attempt.token.0
    );
    let waiting = tokio::spawn(async move { second.query_one(&sql, &[]).await.expect("settles").get::<_, String>(0) });
    stage.until_blocked(1).await;
    let resolve = format!("SELECT outbox.resolve('{}', 1, 'sent', 'seen by hand'); COMMIT", attempt.key.message_id);
    other.batch_execute(&resolve).await.expect("resolves");
    let answer = waiting.await.expect("no panic");
    assert_eq!(answer, "held: it was decided as sent by operator, but was not sent");
    stage.assert_consistent().await;
}

/// Found by an attack on a storm: the answer of an intend was lost, the relay was declared dead meanwhile, the intend was
/// executed again and refused. The row's doubt is about an attempt that transmitted nothing.
#[tokio::test]
async fn rc40_rc47_an_intend_that_is_refused_after_its_row_was_put_in_doubt_settles_as_not_sent() {
    let stage = Stage::set().await;
    let attempt = stage.sending().await; // written, but nobody has read the answer
    let marked = stage.store.mark_in_doubt(&[stage.store.incarnation()], GRACE).await.expect("marks");
    assert_eq!(marked.len(), 1);
    assert_eq!(stage.intend(&attempt).await, IntendAnswer::Refused);
    let told = hapax_store::Settlement {
        intended: false,
        verdict: Verdict::Retry { after: std::time::Duration::ZERO, counts: false },
        ..crate::common::settlement(&attempt, not_sent())
    };
    assert_eq!(stage.store.settle(&[told]).await.expect("settles"), [true]);
    let row = stage.queued(attempt.key).await.expect("queued");
    assert_eq!((row.parked, row.open_doubts, row.attempt_no), (None, 0, 0));
    stage.assert_consistent().await;
    let next = stage.send(attempt.key).await;
    assert!(stage.settle(&next, accepted()).await);
    stage.assert_consistent().await;
}
