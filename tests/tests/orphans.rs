//! What becomes of mail when the configuration changes under it: a route that is taken out, a route that shares and is paused,
//! a time that has passed. With two relays and the scripted server.

use hapax_testkit::eventually;
use hapax_tests::{
    stage::{PATIENCE, Settings, Stage},
    verdict::Verdict,
};

async fn enqueue(stage: &Stage, kind: &str, recipient: &str, arguments: &str) {
    let insert = format!(
        "SELECT outbox.enqueue(kind => $1, recipients => ARRAY[$2], subject => 's', body_text => 't'{arguments})"
    );
    stage.sql.execute(&insert, &[&kind, &recipient]).await.expect("enqueues");
}

/// With a second route to the same server.
fn with_route(stage: &Stage, name: &str) -> Settings {
    let url = format!("smtp://127.0.0.1:{}?starttls=none", stage.server.port());
    let from = "Shop <no-reply@shop.example>";
    stage.settings().set(&format!("routes.{name}.url"), url).set(&format!("routes.{name}.from"), from)
}

async fn clean(stage: &Stage, deliveries: usize, accepted: usize) {
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(deliveries);
    assert_eq!((verdict.accepted, verdict.twice.len()), (accepted, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_of_a_route_that_was_taken_out_goes_by_what_the_configuration_says_now_or_is_held() {
    let stage = Stage::set().await;
    let with = with_route(&stage, "gone").set("kinds.bill.route", "gone");
    for mut relay in [with.run().await, with.run().await] {
        relay.sigterm();
        assert!(relay.wait_exit(PATIENCE).await.success());
    }
    enqueue(&stage, "bill", "kind@example.org", "").await;
    enqueue(&stage, "note", "own@example.org", ", route => 'gone'").await;
    enqueue(&stage, "bill", "later@example.org", ", not_before => now() + interval '1 hour'").await;
    let settings = stage.settings();
    let _relays = (settings.run().await, settings.run().await);
    // They may come back: nothing is moved for a while.
    assert_eq!(stage.count("SELECT outbox.adopt_orphans(10)").await, 0);
    assert_eq!(stage.state_of("kind@example.org").await.0, "pending");
    let long_ago =
        "UPDATE outbox.relay SET signed_off_at = signed_off_at - interval '5 minutes' WHERE signed_off_at IS NOT NULL";
    stage.sql.execute(long_ago, &[]).await.expect("updates");
    stage.until_state("kind@example.org", "sent").await;
    let reason = stage.until_state("own@example.org", "held").await;
    assert!(reason.contains("route \"gone\" is not configured on this relay"), "{reason}");
    // What is enqueued from now on does not even begin there.
    enqueue(&stage, "bill", "new@example.org", "").await;
    stage.until_state("new@example.org", "sent").await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.kind WHERE route IS NOT NULL").await, 0);
    assert_eq!(stage.state_of("later@example.org").await.0, "pending", "its time has not come");
    // A relay of an older version does not say which routes it has: nothing is taken from it.
    stage.sql.execute("UPDATE outbox.relay SET routes = NULL WHERE signed_off_at IS NULL", &[]).await.expect("updates");
    stage.sql.execute("UPDATE outbox.queue SET due_at = now() WHERE lane > 3", &[]).await.expect("updates");
    assert_eq!(stage.count("SELECT outbox.adopt_orphans(10)").await, 0);
    clean(&stage, 4, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_of_a_route_that_shares_holds_what_is_for_it_and_says_so_wherever_that_comes_from() {
    let stage = Stage::set().await;
    let settings = with_route(&stage, "b")
        .set("routes.w.url", format!("smtp://127.0.0.1:{}?starttls=none", stage.server.port()))
        .set("routes.w.from", "Shop <no-reply@shop.example>")
        .set("routes.w.weights.default", 1)
        .set("routes.w.weights.b", 3)
        .set("tenants.acme.route", "w");
    let _relays = (settings.run().await, settings.run().await);
    let operator = stage.settings_of("operator");
    let (code, said) = operator.command(["pause", "--route", "w", "--reason", "a test"]).await;
    assert_eq!(code, 0, "{said}");
    // Relays know of it.
    eventually(PATIENCE, async || {
        let since = stage.count("SELECT count(*) FROM outbox.pause WHERE since < now() - interval '600 ms'").await;
        (since == 1).then_some(()).ok_or(since)
    })
    .await;
    for number in 0..12 {
        enqueue(&stage, "note", &format!("own{number}@example.org"), ", route => 'w'").await;
        enqueue(&stage, "note", &format!("tenant{number}@example.org"), ", tenant => 'acme'").await;
    }
    enqueue(&stage, "note", "free@example.org", "").await;
    stage.until_state("free@example.org", "sent").await;
    let paused = "SELECT count(*) FROM outbox.deliveries WHERE state = 'pending' AND reason LIKE 'paused (route w, by %: a test)'";
    eventually(PATIENCE, async || {
        let paused = stage.count(paused).await;
        (paused == 24).then_some(()).ok_or(paused)
    })
    .await;
    assert_eq!(stage.server.with_ledger(|ledger| ledger.totals().accepted), 1);
    let (code, said) = operator.command(["resume", "--route", "w", "--reason", "a test"]).await;
    assert_eq!(code, 0, "{said}");
    stage.until("sent", 25).await;
    clean(&stage, 25, 25).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_expired_is_not_called_pending_by_a_retry_that_cannot_help_it() {
    let stage = Stage::set().await;
    let id = stage.enqueue_one("late@example.org", ", expires_at => clock_timestamp() + interval '50 ms'").await;
    eventually(PATIENCE, async || {
        let left = stage.count("SELECT count(*) FROM outbox.message WHERE expires_at > clock_timestamp()").await;
        (left == 0).then_some(()).ok_or(left)
    })
    .await;
    let _relay = stage.settings().run().await;
    stage.until_state("late@example.org", "expired").await;
    let operator = stage.settings_of("operator");
    let (_, said) = operator.command(["retry", &id.to_string(), "--reason", "a test"]).await;
    assert!(said.contains("refused: its expires_at has passed"), "{said}");
    assert_eq!(stage.state_of("late@example.org").await.0, "expired");
    let (code, said) = operator.command(["send-again", &id.to_string(), "--reason", "a test"]).await;
    assert_eq!(code, 0, "{said}");
    eventually(PATIENCE, async || {
        let sent = stage.count("SELECT count(*) FROM outbox.deliveries WHERE state = 'sent'").await;
        (sent == 1).then_some(()).ok_or(sent)
    })
    .await;
    clean(&stage, 2, 1).await;
}
