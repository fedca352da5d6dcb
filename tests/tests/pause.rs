//! Pausing and resuming with two relays: nothing of what is paused reaches the mail server, everything else does, and
//! what waited is sent once.

use std::time::{Duration, Instant};

use hapax_testkit::{SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Stage};
use hapax_tests::verdict::Verdict;

/// How soon every relay knows, and a margin for a machine with other things to do.
const KNOWN_AFTER: Duration = Duration::from_millis(1_500);

/// Dialogues of recipients that begin with this letter: how many were told to send their message, and how many did.
fn seen(stage: &Stage, letter: char) -> (usize, usize) {
    stage.server.with_ledger(|ledger| {
        let of = ledger.transactions().filter(|one| one.recipients.first().is_some_and(|to| to.starts_with(letter)));
        of.fold((0, 0), |(began, ended), one| {
            (began + usize::from(one.data_began), ended + usize::from(one.end_marker_read))
        })
    })
}

/// Other mail flows meanwhile, for at least so long.
async fn others_flow(stage: &Stage, during: Duration) {
    let (began, mut before) = (Instant::now(), seen(stage, 'o').1);
    while began.elapsed() < during {
        stage.sql.execute("SELECT outbox.enqueue(kind => 'other', recipients => ARRAY['o@example.org'], subject => 'x', body_text => 'x')", &[]).await.expect("enqueues");
        before += 1;
        eventually(PATIENCE, async || (seen(stage, 'o').1 >= before).then_some(()).ok_or(before)).await;
    }
}

async fn waiting(stage: &Stage, recipient_like: &str) -> i64 {
    stage.count(&format!("SELECT count(*) FROM outbox.deliveries WHERE state = 'pending' AND reason LIKE 'paused (%' AND recipient LIKE '{recipient_like}'")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_kind_stops_on_every_relay_survives_restarts_and_each_that_waited_is_sent_once() {
    let stage = Stage::with(SmtpServer::builder().final_reply_delay(Duration::from_millis(30)).start()).await;
    let settings = stage.settings().set("routes.default.max_connections", 3);
    let (one, two) = (settings.run().await, settings.run().await);
    stage.enqueue(1_000).await;
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= 60).await;
    let operator = stage.settings_of("operator");
    let (code, said) = operator.command(["pause", "--kind", "note", "--reason", "wrong price"]).await;
    assert!(code == 0 && said.contains("paused: kind note"), "{said}");
    others_flow(&stage, KNOWN_AFTER).await;
    let stopped = seen(&stage, 'r');
    assert!(stopped.1 < 1_000, "there was something to stop");
    others_flow(&stage, Duration::from_millis(700)).await;
    assert_eq!(seen(&stage, 'r'), stopped, "nothing of it begins, and nothing of it ends");
    assert_eq!(
        stage.count("SELECT count(*) FROM outbox.queue WHERE attempt_no > 0 OR intents > 0 AND intent IS NULL").await,
        0,
        "it costs nothing"
    );
    // The relays die, new ones begin, more is enqueued.
    one.sigkill();
    two.sigkill();
    let (one, two) = (settings.run().await, settings.run().await);
    stage.enqueue_one("rlate@example.org", "").await;
    others_flow(&stage, Duration::from_millis(700)).await;
    assert_eq!(seen(&stage, 'r'), stopped, "it is known from the start");
    let left = stage
        .count("SELECT count(*) FROM outbox.deliveries WHERE kind = 'note' AND state NOT IN ('sent', 'in_doubt')")
        .await;
    eventually(PATIENCE, async || {
        let now = waiting(&stage, "r%").await;
        (now == left).then_some(()).ok_or((now, left))
    })
    .await;
    eventually(PATIENCE, async || {
        let parked = stage.count("SELECT count(*) FROM outbox.queue WHERE parked = 'paused'").await;
        (parked == left).then_some(()).ok_or(parked)
    })
    .await;
    let (_, status) = operator.command(["status"]).await;
    assert!(
        status.contains("PAUSED kind note since ")
            && status.contains("by operator: wrong price; hapax resume --kind note"),
        "{status}"
    );
    let (_, why) = operator.command(["explain", "rlate@example.org"]).await;
    assert!(why.contains("Waits: it is paused (kind note, by operator since"), "{why}");
    let (code, said) = operator.command(["resume", "--kind", "note", "--reason", "corrected"]).await;
    assert!(code == 0 && said.contains("resumed: kind note"), "{said}");
    stage.until_settled().await;
    let (code, said) = operator.command(["resume", "--kind", "note", "--reason", "again", "--json"]).await;
    assert!(code == 1 && said.contains("nothing to resume"), "{said}");
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(verdict.count("sent") + verdict.count("in_doubt"));
    assert_eq!(stage.count("SELECT count(*) FROM outbox.pause_parked").await, 0);
    drop((one, two));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_route_or_tenant_waits_untouched_and_what_expires_meanwhile_is_not_sent_late() {
    let stage = Stage::set().await;
    let url = format!("smtp://127.0.0.1:{}?starttls=none", stage.server.port());
    let settings = stage.settings().set("routes.bulk.url", url).set("routes.bulk.from", "bulk@shop.example");
    let (_one, _two) = (settings.run().await, settings.run().await);
    let operator = stage.settings_of("operator");
    for what in [["--route", "bulk"], ["--tenant", "acme"]] {
        let (code, said) = operator.command(["pause", what[0], what[1], "--reason", "moving", "--for", "1h"]).await;
        assert_eq!(code, 0, "{said}");
    }
    let (code, said) = operator.command(["pause", "--route", "nowhere", "--reason", "x"]).await;
    assert!(code == 1 && said.contains("22H72") && said.contains("bulk, default"), "{said}");
    others_flow(&stage, KNOWN_AFTER).await;
    stage.enqueue_one("bulk@example.org", ", route => 'bulk'").await;
    stage.enqueue_one("both@example.org", ", route => 'bulk', tenant => 'acme'").await;
    stage.enqueue_one("tenant@example.org", ", tenant => 'acme'").await;
    stage.enqueue_one("old@example.org", ", tenant => 'acme', expires_at => now() + interval '3 s'").await;
    others_flow(&stage, KNOWN_AFTER).await;
    assert!(waiting(&stage, "%").await >= 3);
    let lane = "SELECT count(*) FROM outbox.queue WHERE parked IS NULL AND lease IS NULL AND claims = 0";
    assert_eq!(stage.count(lane).await, 2, "what takes a paused route is not even claimed");
    let reason = stage.until_state("old@example.org", "expired").await;
    assert_eq!(reason, "its time passed while it was paused");
    operator.command(["resume", "--tenant", "acme", "--reason", "moved"]).await;
    stage.until_state("tenant@example.org", "sent").await;
    assert_eq!(waiting(&stage, "b%").await, 2);
    assert_eq!(seen(&stage, 'b'), (0, 0));
    operator.command(["resume", "--route", "bulk", "--reason", "moved"]).await;
    stage.until_settled().await;
    assert_eq!((seen(&stage, 'b'), seen(&stage, 't')), ((2, 2), (1, 1)));
    let audit = "SELECT string_agg(action || ' by ' || actor, ', ' ORDER BY id) FROM outbox.audit";
    assert_eq!(
        stage.text(audit, &[]).await.as_deref(),
        Some("pause by operator, pause by operator, resume by operator, resume by operator")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_address_waits_whatever_it_gets_and_is_told_to_nobody() {
    let stage = Stage::set().await;
    let settings = stage.settings();
    let (_one, _two) = (settings.run().await, settings.run().await);
    let operator = stage.settings_of("operator");
    let pause = ["pause", "--address", "Rada@Example.ORG", "--reason", "loops"];
    let (code, said) = operator.command(pause).await;
    assert!(code == 0 && said.contains("paused: address r***@example.org"), "{said}");
    others_flow(&stage, KNOWN_AFTER).await;
    stage.enqueue_one("rada@example.org", "").await;
    stage.enqueue_one("rbob@example.org", ", cc => ARRAY['rada@example.org']").await;
    let reason = stage.until_state("rbob@example.org", "sent").await;
    assert_eq!(reason, "");
    eventually(PATIENCE, async || {
        let parked = stage.count("SELECT count(*) FROM outbox.queue WHERE parked = 'paused'").await;
        (parked == 2).then_some(()).ok_or(parked)
    })
    .await;
    assert_eq!(seen(&stage, 'r'), (1, 1));
    let waits = "SELECT count(*) FROM outbox.deliveries WHERE state = 'pending' AND reason LIKE 'paused (address r***@example.org, by operator since %: loops)'";
    assert_eq!(stage.count(waits).await, 2);
    let (_, status) = operator.command(["status"]).await;
    assert!(
        status.contains("PAUSED address r***@example.org since ")
            && status.contains("hapax resume --address ADDRESS --reason"),
        "{status}"
    );
    let (code, said) = operator.command(["pause", "--address", "no address", "--reason", "x"]).await;
    assert!(code == 1 && said.contains("22H73") && !said.contains("no address"), "{said}");
    let kept = "SELECT count(*) FROM outbox.audit a, outbox.pause p WHERE concat(a.*, p.*) ILIKE '%rada%'";
    assert_eq!(stage.count(kept).await, 0, "a hash is kept, and a hint");
    let (code, said) = operator.command(["resume", "--address", "rada@example.org", "--reason", "mended"]).await;
    assert!(code == 0 && said.contains("resumed: address r***@example.org"), "{said}");
    stage.until_settled().await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(verdict.count("sent"));
    assert_eq!(seen(&stage, 'r'), (3, 3));
}
