//! When what was refused is tried again: by the schedule of its kind or route, by what its code means there, and not before
//! the server said. With two relays and the scripted server.

use std::time::{Duration, Instant};

use hapax_testkit::{Fault, Phase, Rule, Script};
use hapax_tests::{
    stage::{PATIENCE, Stage},
    verdict::Verdict,
};

fn says(who: &str, words: &str) -> Rule {
    Rule::at(Phase::Rcpt, Fault::Custom(format!("{words}\r\n").into_bytes())).recipient(who)
}

async fn enqueue(stage: &Stage, kind: &str, recipient: &str) {
    let insert =
        "INSERT INTO outbox.notification (kind, recipients, subject, body_text) VALUES ($1, ARRAY[$2], 's', 't')";
    stage.sql.execute(insert, &[&kind, &recipient]).await.expect("enqueues");
}

async fn attempts(stage: &Stage, recipient: &str) -> Vec<String> {
    let sql = "SELECT outcome || ' ' || coalesce(code::text, '') FROM outbox.attempts WHERE recipient = $1 ORDER BY finished_at";
    stage.sql.query(sql, &[&recipient]).await.expect("reads").iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_and_a_route_have_schedules_and_codes_of_their_own() {
    let stage = Stage::set().await;
    stage.server.script(Script::rules([
        says("full@example.org", "552 mailbox full").times(2),
        says("nobody@example.org", "550 5.1.1 no such user"),
        says("blocked@example.org", "550 5.7.1 blocked for now").times(2),
        says("strict@example.org", "450 4.2.1 later"),
        says("short@example.org", "450 4.2.1 later"),
        says("other@example.org", "550 5.7.1 blocked"),
    ]));
    let settings = stage
        .settings()
        .set("kinds.reset.retry.first", "20ms")
        .set("kinds.reset.retry.factor", 1)
        .set("kinds.reset.retry.give_up_after", "1s")
        .set("kinds.patient.retry.codes.\"5.7\"", "transient")
        .set("routes.default.retry.codes.\"4.2.1\"", "permanent")
        .set("kinds.reset.retry.codes.\"450\"", "transient");
    let _relays = (settings.run().await, settings.run().await);
    for (kind, recipient) in [
        ("note", "full@example.org"),
        ("note", "nobody@example.org"),
        ("patient", "blocked@example.org"),
        ("note", "strict@example.org"),
        ("reset", "short@example.org"),
        ("note", "other@example.org"),
    ] {
        enqueue(&stage, kind, recipient).await;
    }
    for (recipient, state) in [
        ("full@example.org", "sent"),
        ("nobody@example.org", "failed"),
        ("blocked@example.org", "sent"),
        ("strict@example.org", "failed"),
        ("short@example.org", "failed"),
        ("other@example.org", "failed"),
    ] {
        stage.until_state(recipient, state).await;
    }
    // What a table calls transient stands in the ledger as deferred, with the server's own code.
    assert_eq!(attempts(&stage, "full@example.org").await, ["deferred 552", "deferred 552", "accepted 250"]);
    assert_eq!(attempts(&stage, "blocked@example.org").await, ["deferred 550", "deferred 550", "accepted 250"]);
    assert_eq!(attempts(&stage, "nobody@example.org").await, ["refused 550"]);
    assert_eq!(attempts(&stage, "strict@example.org").await, ["refused 450"]);
    assert_eq!(attempts(&stage, "other@example.org").await, ["refused 550"]);
    // The kind's own patience: the others' is three days.
    let short = attempts(&stage, "short@example.org").await;
    assert!(short.len() > 1 && short.iter().all(|attempt| attempt == "deferred 450"), "{short:?}");
    let (_, reason) = stage.state_of("short@example.org").await;
    assert!(reason.starts_with("gave up after "), "{reason}");
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(6);
    assert_eq!((verdict.accepted, verdict.twice.len()), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_when_is_left_alone_until_then() {
    let stage = Stage::set().await;
    stage.server.script(Script::rules([
        says("grey@example.org", "450 4.2.0 Greylisted for 3 seconds").times(1),
        says("vague@example.org", "450 4.2.0 Greylisted").times(1),
    ]));
    let settings = stage.settings();
    let _relays = (settings.run().await, settings.run().await);
    let began = Instant::now();
    enqueue(&stage, "note", "grey@example.org").await;
    enqueue(&stage, "note", "vague@example.org").await;
    stage.until_state("vague@example.org", "sent").await;
    assert_eq!(stage.state_of("grey@example.org").await.0, "pending", "vague after {:?}", began.elapsed());
    stage.until_state("grey@example.org", "sent").await;
    let waited = "SELECT (extract(epoch FROM max(a.started_at) - min(a.finished_at)) * 1000)::bigint FROM outbox.attempts a WHERE a.recipient = 'grey@example.org'";
    let waited = Duration::from_millis(u64::try_from(stage.count(waited).await).expect("a time"));
    assert!(waited >= Duration::from_millis(2_900) && waited < PATIENCE, "{waited:?}");
}
