//! The suppression list: who is on it gets no intent, and ends visibly; scopes, time, exceptions; hard bounces from the
//! ledger; and no address where none belongs.

use std::time::Duration;

use hapax_core::{DeliveryKey, Outcome, Phase, Reply, Token};
use hapax_store::{IntendAnswer, Kind, Stopped, Verdict, Wait};

use crate::common::{Attempt, Stage, lock, request};

const LISTED: &str = "r1@example.org";

async fn suppress(stage: &Stage, arguments: &str) -> String {
    stage.text(&format!("SELECT outbox.suppress('{LISTED}'{arguments})")).await
}

async fn claimed(stage: &Stage) -> Vec<Attempt> {
    let claimed = stage.claim().await;
    claimed.iter().map(|one| Attempt { key: one.key, lease: one.lease, token: Token::fresh() }).collect()
}

async fn intend(stage: &Stage, attempts: &[Attempt], wait: Wait) -> Vec<IntendAnswer> {
    let requests: Vec<_> = attempts.iter().map(request).collect();
    stage.store.intend(&requests, wait).await.expect("intends")
}

#[tokio::test]
async fn what_is_suppressed_ends_at_the_claim_and_at_its_intend_and_what_has_an_intent_goes_on() {
    let stage = Stage::set().await;
    let first = stage.enqueue(2).await;
    let attempts = claimed(&stage).await;
    assert_eq!(intend(&stage, &attempts[..1], Wait::Skip).await, [IntendAnswer::Granted]);
    let said = suppress(&stage, ", 'complaint', note => 'ticket 4711'").await;
    assert_eq!(said, "suppressed: entry 1, r***@example.org");
    assert!(stage.store.pauses().await.expect("reads").suppressing);
    assert_eq!(
        intend(&stage, &attempts, Wait::ForLocks).await,
        [IntendAnswer::Granted, IntendAnswer::Granted],
        "asked again, and another"
    );
    assert_eq!(stage.state(first[0]).await, "sending");
    // At the claim.
    let second = stage.enqueue(2).await;
    let attempts = claimed(&stage).await;
    let held: Vec<_> = attempts.iter().map(|attempt| (attempt.key, attempt.lease)).collect();
    assert_eq!(stage.store.stop(&held, None).await.expect("stops"), [(second[0], Stopped::Suppressed)]);
    let done = stage.done(second[0]).await.expect("ended");
    assert_eq!((done.state.as_str(), done.attempt_no, done.token), ("suppressed", 0, None));
    let reason = done.reason.expect("a reason");
    assert!(
        reason.starts_with("on the suppression list: complaint since ") && reason.ends_with("(entry 1)"),
        "{reason}"
    );
    // At the intend, where the relay did not know; and with a row that somebody has locked.
    let third = stage.enqueue(1).await;
    let attempts = claimed(&stage).await;
    let (blocker, _driver) = stage.session().await;
    lock(&blocker, third[0]).await;
    assert_eq!(intend(&stage, &attempts, Wait::Skip).await, [IntendAnswer::Busy]);
    blocker.batch_execute("ROLLBACK").await.expect("ends");
    assert_eq!(intend(&stage, &attempts, Wait::Skip).await, [IntendAnswer::Refused]);
    assert_eq!(stage.state(third[0]).await, "suppressed");
    assert_eq!(stage.retry(third[0], false).await, "pending: it was suppressed");
    let attempts = claimed(&stage).await;
    assert_eq!(intend(&stage, &attempts, Wait::ForLocks).await, [IntendAnswer::Refused], "it is asked again");
    // Off the list.
    let off = "SELECT outbox.unsuppress('R1 <R1@example.org>', 'has apologised')";
    assert_eq!(stage.text(off).await, "removed: one entry");
    assert_eq!(stage.text(off).await, "nothing to remove: the address is not on the list");
    stage.retry(third[0], false).await;
    let attempts = claimed(&stage).await;
    assert_eq!(intend(&stage, &attempts, Wait::Skip).await, [IntendAnswer::Granted]);
    let audit = "SELECT string_agg(action || ' ' || actor || ': ' || concat_ws(', ', reason, before, after), '; ' ORDER BY id) FROM outbox.audit WHERE action LIKE '%suppress'";
    let audit = stage.text(audit).await;
    assert!(audit.starts_with("suppress postgres: complaint: ticket 4711, not listed, suppressed: entry 1, r***@example.org; unsuppress postgres: has apologised"), "{audit}");
    assert!(!audit.contains("r1@"), "{audit}");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn an_entry_is_for_all_or_for_a_kind_or_a_tenant_for_a_while_and_not_for_kinds_that_ignore_it() {
    let stage = Stage::set().await;
    let news = Kind { name: "law".into(), ignores_suppression: true, ..Kind::default() };
    stage.store.register_kinds(&[news]).await.expect("registers");
    let insert = "INSERT INTO outbox.notification (kind, tenant, recipients, subject, body_text)
        SELECT k, t, ARRAY['R1 <R1@Example.org>'], 'x', 'x' FROM (VALUES (1, 'note', 'acme'), (2, 'news', NULL), (3, 'note', NULL), (4, 'law', 'acme')) v (i, k, t) ORDER BY i";
    for (arguments, stopped) in [
        ("", [true, true, true, false]),
        (", kind => 'note'", [true, false, true, false]),
        (", tenant => 'acme'", [true, false, false, false]),
        (", kind => 'news', tenant => 'acme'", [false, false, false, false]),
        (", until => now() + interval '1 hour'", [true, true, true, false]),
    ] {
        stage.run("DELETE FROM outbox.queue; DELETE FROM outbox.done; DELETE FROM outbox.message; DELETE FROM outbox.suppression").await;
        stage.run(insert).await;
        suppress(&stage, &format!(", 'manual'{arguments}")).await;
        let attempts = claimed(&stage).await;
        let answers = intend(&stage, &attempts, Wait::Skip).await;
        let refused: Vec<bool> = answers.iter().map(|answer| *answer == IntendAnswer::Refused).collect();
        assert_eq!(refused, stopped, "{arguments}: {answers:?}");
    }
    // Its time has passed; and an address that has the same hash by chance is another address.
    for change in ["until = now() - interval '1 s'", "until = NULL, digest = 'another'"] {
        stage.run(&format!("DELETE FROM outbox.queue; DELETE FROM outbox.done; DELETE FROM outbox.message; UPDATE outbox.suppression SET {change}")).await;
        stage.run(insert).await;
        let attempts = claimed(&stage).await;
        assert_eq!(intend(&stage, &attempts, Wait::Skip).await, [IntendAnswer::Granted; 4], "{change}");
    }
}

#[tokio::test]
async fn a_resend_of_a_doubt_is_suppressed_with_its_doubt_and_a_paused_one_is_not_ended() {
    let stage = Stage::set().await;
    let doubt = stage.doubtful().await;
    suppress(&stage, "").await;
    assert_eq!(stage.state(doubt.key).await, "in_doubt", "nothing is decided of what has an intent");
    assert_eq!(stage.resolve(doubt.key, "resend", None, false).await, "pending: it will be sent again");
    stage.run("SELECT outbox.pause('x', kind => 'note')").await;
    let attempt = stage.attempt(doubt.key).await;
    assert_eq!(stage.intend(&attempt).await, IntendAnswer::Refused);
    assert_eq!(stage.state(doubt.key).await, "pending", "it is paused");
    stage.run("SELECT outbox.resume('x', kind => 'note')").await;
    let attempt = stage.attempt(doubt.key).await;
    assert_eq!(stage.intend(&attempt).await, IntendAnswer::Refused);
    let done = stage.done(doubt.key).await.expect("ended");
    assert_eq!((done.state.as_str(), done.open_doubts, done.token), ("suppressed", 1, Some(doubt.token.0)));
    stage.assert_consistent().await;
}

/// One attempt at a new delivery that ends like this.
async fn refused(stage: &Stage, phase: Phase, code: u16, text: &str) -> (DeliveryKey, Token) {
    let key = stage.enqueue(1).await[0];
    let attempt = stage.send(key).await;
    let outcome = Outcome::Refused { permanent: code >= 500, phase, reply: Reply::new(code, text) };
    assert!(stage.settle(&attempt, (outcome, Verdict::Failed("refused".into()))).await);
    (key, attempt.token)
}

#[tokio::test]
async fn only_what_the_ledger_has_as_a_hard_bounce_enters_the_list_and_not_too_many_an_hour() {
    let stage = Stage::set().await;
    let day = Duration::from_secs(86_400);
    for (phase, code, text, expected) in [
        (Phase::Rcpt, 550, "5.7.1 denied", "not a hard bounce"),
        (Phase::Rcpt, 550, "user unknown", "not a hard bounce"),
        (Phase::EndMarker, 550, "5.1.1 user unknown", "not a hard bounce"),
        (Phase::Rcpt, 550, "5.1.1 user unknown", "suppressed"),
    ] {
        let (key, token) = refused(&stage, phase, code, text).await;
        assert_eq!(
            stage.store.suppress_bounced(key, token, day, 10).await.expect("answers"),
            expected,
            "{code} {text}"
        );
        let other = stage.store.suppress_bounced(key, Token::fresh(), day, 10).await.expect("answers");
        assert_eq!(other, "not a hard bounce", "an attempt that is not in the ledger");
        if expected == "suppressed" {
            assert_eq!(stage.store.suppress_bounced(key, token, day, 10).await.expect("answers"), "known");
            assert_eq!(stage.store.suppress_bounced(key, token, day, 1).await.expect("answers"), "too many");
            let entry = "SELECT concat_ws(' ', reason, note, (until - since)::text) FROM outbox.suppression";
            assert_eq!(stage.text(entry).await, format!("hard_bounce 550 5.1.1, delivery {}/1 1 day", key.message_id));
            // A person knows better, and stays right until that ends.
            suppress(&stage, ", 'manual'").await;
            assert_eq!(stage.store.suppress_bounced(key, token, day, 10).await.expect("answers"), "known");
            assert_eq!(stage.text("SELECT reason FROM outbox.suppression").await, "manual");
        }
    }
}

#[tokio::test]
async fn a_refused_call_names_the_argument_and_no_address_and_the_list_is_masked() {
    let stage = Stage::set().await;
    // Whatever enqueue takes.
    let quoted = r#"'"one two"@example.org'"#;
    let said = stage.text(&format!("SELECT outbox.suppress({quoted})")).await;
    assert!(said.starts_with("suppressed"), "{said}");
    assert_eq!(stage.count(&format!("SELECT count(*) FROM outbox.find_suppressions({quoted})")).await, 1);
    stage.run(&format!("SELECT outbox.unsuppress({quoted}, 'a reason')")).await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.suppression").await, 0);
    for (call, code, column) in [
        ("suppress('secret at example.org')", "22H73", "address"),
        ("suppress('secret@example.org', 'spite')", "22H74", "reason"),
        ("suppress('secret@example.org', kind => '')", "22H74", "kind"),
        ("suppress('secret@example.org', until => now() - interval '1 s')", "22H71", "until"),
        ("unsuppress('secret@example.org', '')", "22H50", "reason"),
        ("find_suppressions('secret')", "22H73", "address"),
    ] {
        let error = stage.sql.query(&format!("SELECT outbox.{call}"), &[]).await.expect_err(call);
        let error = error.as_db_error().expect("of the database");
        assert_eq!((error.code().code(), error.column()), (code, Some(column)), "{call}");
        assert!(
            error.message().contains(&format!(": {column}: ")) && !format!("{error:?}").contains("secret@"),
            "{error:?}"
        );
    }
    stage
        .run("SELECT outbox.suppress('kept@example.org', keep_address => true, note => 'as other@example.org said')")
        .await;
    stage.run("SELECT outbox.suppress('hashed@example.org')").await;
    let list = "SELECT string_agg(concat_ws(' ', address, note), ', ' ORDER BY id) FROM outbox.suppressions";
    assert_eq!(stage.text(list).await, "kept@example.org as other@example.org said, h***@example.org");
    let found = "SELECT string_agg(f::text, ' ') FROM outbox.find_suppressions('HASHED@example.org') f";
    assert_eq!(stage.text(found).await, "3");
    stage.run("SET ROLE outbox_viewer").await;
    assert_eq!(stage.text(list).await, "k***@example.org as *** said, h***@example.org");
    assert_eq!(stage.text(found).await, "3", "who knows the address may ask");
    stage.run("RESET ROLE").await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.suppression s WHERE s::text LIKE '%hashed@%'").await, 0);
}
