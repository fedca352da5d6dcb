//! Pausing: the fence in intend, parking by lease, going on in the order of before, and what it costs while nothing is.

use hapax_core::{DeliveryKey, Token};
use hapax_store::{IntendAnswer, Scope, Stopped, Wait};

use crate::common::{Attempt, Stage, lock, request};

async fn pause(stage: &Stage, what: &str) -> String {
    stage.text(&format!("SELECT outbox.pause({what}, reason => 'wrong price')")).await
}

async fn resume(stage: &Stage, what: &str) -> String {
    stage.text(&format!("SELECT outbox.resume({what}, reason => 'price corrected')")).await
}

async fn claimed(stage: &Stage) -> Vec<Attempt> {
    let claimed = stage.claim().await;
    claimed.iter().map(|one| Attempt { key: one.key, lease: one.lease, token: Token::fresh() }).collect()
}

fn keys(attempts: &[Attempt]) -> Vec<DeliveryKey> {
    attempts.iter().map(|attempt| attempt.key).collect()
}

async fn reason(stage: &Stage, key: DeliveryKey) -> String {
    let sql = format!(
        "SELECT state || ': ' || coalesce(reason, '') FROM outbox.deliveries WHERE message_id = '{}'",
        key.message_id
    );
    stage.text(&sql).await
}

#[tokio::test]
async fn of_a_pause_and_an_intent_the_first_to_commit_wins() {
    let stage = Stage::set().await;
    stage.enqueue(3).await;
    let attempts = claimed(&stage).await;
    let (operator, _driver) = stage.session().await;
    operator.batch_execute("BEGIN; SELECT outbox.pause(kind => 'note', reason => 'open')").await.expect("pauses");
    let answers = stage.store.intend(&[request(&attempts[0])], Wait::Skip).await.expect("intends");
    assert_eq!(answers, [IntendAnswer::Granted], "a pause that is not committed stops nobody, and nobody waits for it");
    operator.batch_execute("COMMIT").await.expect("commits");
    for (attempt, wait) in [(&attempts[1], Wait::Skip), (&attempts[2], Wait::ForLocks)] {
        assert_eq!(stage.store.intend(&[request(attempt)], wait).await.expect("intends"), [IntendAnswer::Refused]);
        let row = stage.queued(attempt.key).await.expect("queued");
        assert_eq!((row.parked.as_deref(), row.intent, row.lease, row.claims), (Some("paused"), None, None, 0));
        assert_eq!((row.attempt_no, row.intents), (0, 0), "it costs no attempt");
    }
    // What had its intent keeps it, also when its answer was lost and it is asked for again.
    assert_eq!(stage.intend(&attempts[0]).await, IntendAnswer::Granted);
    assert_eq!(stage.state(attempts[0].key).await, "sending");
    let other = reason(&stage, attempts[1].key).await;
    assert!(
        other.starts_with("pending: paused (kind note, by postgres since ") && other.ends_with(": open)"),
        "{other}"
    );
    stage.assert_consistent().await;
}

#[tokio::test]
async fn in_one_batch_only_what_is_paused_is_refused_by_kind_tenant_or_route() {
    let stage = Stage::set().await;
    let insert = "INSERT INTO outbox.notification (kind, tenant, recipients, subject, body_text)
        SELECT k, t, ARRAY['a@example.org'], 'x', 'x' FROM (VALUES (1, 'note', 'acme'), (2, 'news', NULL), (3, 'note', NULL), (4, 'other', 'globex')) v (i, k, t) ORDER BY i";
    stage.store.register_routes(&[("bulk".into(), None)]).await.expect("registers");
    for (what, paused) in [
        ("kind => 'note'", [true, false, true, false]),
        ("tenant => 'acme'", [true, false, false, false]),
        ("route => 'bulk'", [false, false, false, true]),
    ] {
        stage.run("DELETE FROM outbox.queue; DELETE FROM outbox.message").await;
        stage.run(insert).await;
        let attempts = claimed(&stage).await;
        pause(&stage, what).await;
        let mut requests: Vec<_> = attempts.iter().map(request).collect();
        requests[3].route = "bulk".into();
        let answers = stage.store.intend(&requests, Wait::Skip).await.expect("intends");
        let refused: Vec<bool> = answers.iter().map(|answer| *answer == IntendAnswer::Refused).collect();
        assert_eq!(refused, paused, "{what}: {answers:?}");
        assert_eq!(
            stage.count("SELECT count(*) FROM outbox.queue WHERE intent IS NOT NULL").await,
            4 - paused.iter().filter(|one| **one).count() as i64
        );
        assert!(resume(&stage, what).await.starts_with("resumed: "));
        stage.assert_consistent().await;
    }
}

#[tokio::test]
async fn a_paused_row_that_somebody_has_locked_is_busy_and_not_granted_afterwards() {
    let stage = Stage::set().await;
    stage.enqueue(2).await;
    let attempts = claimed(&stage).await;
    pause(&stage, "kind => 'note'").await;
    let (blocker, _driver) = stage.session().await;
    lock(&blocker, attempts[0].key).await;
    let requests: Vec<_> = attempts.iter().map(request).collect();
    let answers = stage.store.intend(&requests, Wait::Skip).await.expect("intends");
    assert_eq!(answers, [IntendAnswer::Busy, IntendAnswer::Refused]);
    assert_eq!(
        stage.store.stop(&[(attempts[0].key, attempts[0].lease)], None).await.expect("asks"),
        [],
        "nobody waits"
    );
    blocker.batch_execute("ROLLBACK").await.expect("ends");
    assert_eq!(stage.intend(&attempts[0]).await, IntendAnswer::Refused);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.queue WHERE parked = 'paused'").await, 2);
}

#[tokio::test]
async fn what_is_parked_goes_on_in_its_order_and_a_second_pause_parks_it_again() {
    let stage = Stage::set().await;
    let enqueued = stage.enqueue(5).await;
    stage
        .run(
            "UPDATE outbox.queue SET due_at = now() - interval '1 hour' * (substr(message_id::text, 36, 1) < '8')::int",
        )
        .await;
    let due = "SELECT string_agg(to_char(due_at, 'HH24MISSUS') || message_id, ' ' ORDER BY due_at, message_id) FROM outbox.queue";
    let before = stage.text(due).await;
    pause(&stage, "kind => 'note'").await;
    pause(&stage, "tenant => 'nobody'").await;
    assert!(pause(&stage, "kind => 'note'").await.starts_with("already paused: kind note, by postgres since "));
    let paused = stage.store.pauses().await.expect("reads");
    let scopes = |scope| paused.in_force.iter().filter(|pause| pause.scope == scope).count();
    assert_eq!((scopes(Scope::Kind), scopes(Scope::Tenant), scopes(Scope::Route), paused.ended), (1, 1, 0, false));
    let attempts = claimed(&stage).await;
    let held: Vec<_> = attempts.iter().map(|attempt| (attempt.key, attempt.lease)).collect();
    let mut stopped = stage.store.stop(&held, None).await.expect("parks");
    stopped.sort_by_key(|(key, _)| key.message_id.0);
    assert_eq!(stopped, enqueued.iter().map(|key| (*key, Stopped::Paused)).collect::<Vec<_>>());
    assert!(stage.claim().await.is_empty(), "it does not clog the head of the index");
    assert!(stage.store.stop(&held, None).await.expect("asks").is_empty(), "a lease that is gone parks nothing");
    // Enqueued while it is paused.
    let late = stage.enqueue(1).await[0];
    assert!(reason(&stage, late).await.starts_with("pending: paused (kind note"));
    // Decisions about single ones.
    assert_eq!(stage.decide("cancel", enqueued[0]).await, ["cancelled"]);
    assert_eq!(stage.decide("hold", enqueued[1]).await, ["held"]);
    assert_eq!(stage.retry(enqueued[2], false).await, "nothing to retry: it is pending, paused until outbox.resume()");
    let (blocker, _driver) = stage.session().await;
    lock(&blocker, enqueued[3]).await;
    assert!(resume(&stage, "kind => 'note'").await.starts_with("resumed: kind note, paused by postgres since "));
    assert_eq!(resume(&stage, "kind => 'note'").await, "nothing to resume: kind note is not paused");
    assert_eq!(stage.state(enqueued[1]).await, "held", "a hold is not ended by it");
    assert_eq!(stage.queued(enqueued[3]).await.expect("queued").parked.as_deref(), Some("paused"), "it is locked");
    assert!(stage.store.pauses().await.expect("reads").ended);
    blocker.batch_execute("ROLLBACK").await.expect("ends");
    assert_eq!(stage.store.unpark(100).await.expect("frees"), 1);
    assert!(!stage.store.pauses().await.expect("reads").ended, "nothing is left to do");
    let after = stage.text(due).await;
    assert!(
        after
            .split(' ')
            .filter(|row| !row.starts_with("inf"))
            .all(|row| before.contains(row) || row.ends_with(&late.message_id.to_string())),
        "{before}\n{after}"
    );
    // Another pause of the same deliveries.
    pause(&stage, "kind => 'note'").await;
    let again = claimed(&stage).await;
    assert_eq!(keys(&again).len(), 4);
    let held: Vec<_> = again.iter().map(|attempt| (attempt.key, attempt.lease)).collect();
    assert_eq!(stage.store.stop(&held, None).await.expect("parks").len(), 4);
    resume(&stage, "kind => 'note'").await;
    assert_eq!(claimed(&stage).await.len(), 4);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.pause_parked").await, 0);
    let audit = "SELECT string_agg(action || ' ' || actor || ' ' || reason || ' ' || before || ' ' || after, '; ' ORDER BY id) FROM outbox.audit WHERE before LIKE '%kind note%'";
    let audit = stage.text(audit).await;
    assert!(audit.starts_with("pause postgres wrong price kind note paused (kind note); pause postgres"), "{audit}");
    assert!(audit.ends_with("resume postgres price corrected paused (kind note) resumed"), "{audit}");
    stage.assert_consistent().await;
}

#[tokio::test]
async fn a_pause_ends_by_itself_and_a_refused_call_names_the_argument() {
    let stage = Stage::set().await;
    let key = stage.enqueue(1).await[0];
    pause(&stage, "kind => 'note', until => now() + interval '1 hour'").await;
    let attempt = claimed(&stage).await[0];
    assert_eq!(stage.intend(&attempt).await, IntendAnswer::Refused);
    stage.run("UPDATE outbox.pause SET until = now() - interval '1 second'").await;
    assert!(stage.store.pauses().await.expect("reads").ended);
    assert_eq!(stage.store.unpark(100).await.expect("frees"), 1);
    assert_eq!(
        stage.text("SELECT action || ': ' || reason FROM outbox.audit ORDER BY id DESC LIMIT 1").await,
        "resume: its time was over: wrong price"
    );
    let again = stage.attempt(key).await;
    assert_eq!(stage.intend(&again).await, IntendAnswer::Granted);
    for (call, code, column) in [
        ("pause(reason => 'x')", "22H70", "kind"),
        ("pause(kind => 'a', tenant => 'b', reason => 'x')", "22H70", "kind"),
        ("pause(tenant => '', reason => 'x')", "22H70", "tenant"),
        ("pause(kind => 'a', reason => ' ')", "22H50", "reason"),
        ("pause(kind => 'a', reason => 'x', until => now() - interval '1 s')", "22H71", "until"),
        ("pause(route => 'nowhere', reason => 'x')", "22H72", "route"),
        ("resume(reason => 'x')", "22H70", "kind"),
    ] {
        let error = stage.sql.query(&format!("SELECT outbox.{call}"), &[]).await.expect_err(call);
        let error = error.as_db_error().expect("of the database");
        assert_eq!((error.code().code(), error.column()), (code, Some(column)), "{call}");
        assert!(error.message().contains(&format!(": {column}: ")) && error.hint().is_some(), "{error:?}");
    }
}

#[tokio::test]
async fn a_paused_head_blocks_its_ordering_key_and_a_failover_holds_what_is_parked() {
    let stage = Stage::set().await;
    let head = stage.enqueue_one(1, Some("order 42")).await[0];
    let next = stage.enqueue_one(1, Some("order 42")).await[0];
    let attempt = stage.attempt(head).await;
    pause(&stage, "kind => 'note'").await;
    assert_eq!(stage.intend(&attempt).await, IntendAnswer::Refused);
    stage.run("SELECT outbox.free_ordered()").await;
    let row = stage.queued(next).await.expect("queued");
    assert_eq!(row.parked.as_deref(), Some("ordered"), "nobody overtakes a paused head");
    // Another server: what was parked here may have been resumed and sent there.
    stage.run("UPDATE outbox.control SET identity = 'another'").await;
    stage.run("SELECT outbox.quarantine()").await;
    assert_eq!(stage.state(head).await, "held");
    assert!(stage.queued(head).await.expect("queued").note.expect("a note").starts_with("failover:"));
}

#[tokio::test]
async fn while_nothing_is_paused_intend_looks_once_per_batch_and_reads_one_block() {
    let stage = Stage::set().await;
    let plan = "EXPLAIN (ANALYZE, BUFFERS, COSTS off, TIMING off, SUMMARY off) SELECT EXISTS (SELECT FROM outbox.pause p WHERE p.ended_at IS NULL)";
    // The first look may read it from the disk.
    stage.sql.query(plan, &[]).await.expect("explains");
    let rows = stage.sql.query(plan, &[]).await.expect("explains");
    let plan = rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n");
    println!("{plan}");
    assert!(plan.contains("actual rows=0") && plan.contains("shared hit=1\n") && !plan.contains("read="), "{plan}");
    let touched = "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relid = 'outbox.pause'::regclass";
    stage.enqueue(128).await;
    let requests: Vec<_> = claimed(&stage).await.iter().map(request).collect();
    let answers = stage.store.intend(&requests, Wait::Skip).await.expect("intends");
    assert!(answers.iter().all(|answer| *answer == IntendAnswer::Granted));
    assert_eq!(stage.count("SELECT pg_relation_size('outbox.pause')").await, 0, "it has no block to read");
    stage.run("SELECT pg_stat_force_next_flush(); SELECT pg_stat_clear_snapshot()").await;
    assert_eq!(stage.count(touched).await, 0);
}
