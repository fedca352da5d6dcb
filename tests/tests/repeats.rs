//! What an application enqueues twice, with two relays: the mail server gets each once where its kind says so, people see what
//! was stopped, and what they release is sent.

use hapax_tests::stage::{PATIENCE, Stage};
use hapax_tests::verdict::Verdict;

const TO: &str = "SELECT count(*) FROM outbox.deliveries WHERE kind = $1 AND state = $2";

async fn count(stage: &Stage, kind: &str, state: &str) -> i64 {
    stage.sql.query_one(TO, &[&kind, &state]).await.expect("it can be asked").get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_enqueued_twice_is_held_dropped_or_only_told_and_other_kinds_are_sent_as_ever() {
    let stage = Stage::set().await;
    let mut settings = stage.settings();
    for (kind, what) in [("held", "hold"), ("dropped", "drop"), ("told", "report")] {
        settings = settings.set(&format!("kinds.{kind}.guard_window"), "10m");
        settings = settings.set(&format!("kinds.{kind}.on_duplicate"), what);
    }
    let relays =
        (settings.clone().set("relay.name", "one").run().await, settings.clone().set("relay.name", "two").run().await);
    // Each from two sessions at once, which commit when they like.
    let mut producers = Vec::new();
    for _ in 0..2 {
        let sql = stage.cluster.client("postgres").await.expect("a client");
        producers.push(tokio::spawn(async move {
            for no in 0..100 {
                for kind in ["held", "dropped", "told", "free"] {
                    let insert =
                        "SELECT outbox.enqueue(kind => $1, recipients => ARRAY[$2], subject => 'x', body_text => 'x')";
                    let to = format!("{kind}{no}@example.org");
                    sql.execute(insert, &[&kind, &to]).await.expect("enqueues");
                }
            }
        }));
    }
    for producer in producers {
        producer.await.expect("no panic");
    }
    stage.until_settled().await;
    for (kind, stopped, sent) in
        [("held", "held", 100), ("dropped", "cancelled", 100), ("told", "held", 200), ("free", "held", 200)]
    {
        assert_eq!(
            (count(&stage, kind, "sent").await, count(&stage, kind, stopped).await),
            (sent, 200 - sent),
            "{kind}"
        );
    }
    let health = "SELECT deliveries FROM outbox.queue_health WHERE state = 'held'";
    assert_eq!(stage.count(health).await, 100, "what the metrics are made of");
    let reported = "SELECT count(*) FROM outbox.audit WHERE action = 'guard' AND after = 'reported'";
    assert_eq!(stage.count(reported).await, 100);
    let id = stage.text("SELECT min(message_id::text) FROM outbox.deliveries WHERE state = 'held'", &[]).await;
    let id = id.expect("something is held");
    let operator = stage.settings_of("operator");
    for arguments in [vec!["explain", &id], vec!["show", &id], vec!["ls", "--state", "held"]] {
        let (code, said) = operator.command(arguments).await;
        assert!(code == 0 && said.contains("same content to the same recipient as message "), "{said}");
    }
    // The relays change hands, and what people want sent is sent.
    drop(relays);
    let _relay = settings.run().await;
    let (code, said) = operator.command(["release", &id, "--reason", "they asked for it"]).await;
    assert_eq!(code, 0, "{said}");
    stage.until("sent", 601).await;
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= 601).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(800);
    assert_eq!((verdict.accepted, verdict.twice.len()), (601, 0), "{verdict}");
}
