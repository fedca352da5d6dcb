//! Fair turns: who has few notifications does not wait for the backlog of another tenant, measured at the server.

use std::time::Duration;

use hapax_testkit::eventually;
use hapax_tests::{
    stage::{PATIENCE, Stage},
    verdict::Verdict,
};

async fn enqueue(stage: &Stage, tenant: Option<&str>, name: &str, count: i32) {
    let sql = "SELECT outbox.enqueue('news', ARRAY[$3 || i || '@example.org'], subject => 'News', body_text => 'one', tenant => $2)
               FROM generate_series(1, $1) i";
    stage.sql.query(sql, &[&count, &tenant, &name]).await.expect("enqueues");
}

/// How often this function was called; of a database that counts.
async fn calls(stage: &Stage, function: &str) -> i64 {
    let sql = "SELECT coalesce(sum(calls), 0)::int8 FROM pg_stat_user_functions WHERE schemaname = 'outbox' AND funcname = $1";
    stage.sql.query_one(sql, &[&function]).await.expect("counted").get(0)
}

async fn count_calls(stage: &Stage) {
    let sql =
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET track_functions = ''pl''', current_database()); END $$";
    stage.sql.batch_execute(sql).await.expect("a superuser");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_with_few_does_not_wait_for_the_backlog_of_another() {
    let stage = Stage::set().await;
    count_calls(&stage).await;
    stage.server.final_reply_delay(Duration::from_millis(50));
    enqueue(&stage, Some("a"), "a", 2_000).await;
    enqueue(&stage, Some("b"), "b", 3).await;
    enqueue(&stage, Some("c"), "c", 3).await;
    let settings = stage.settings().set("relay.max_in_flight", 4).set("routes.default.max_connections", 2);
    let _relays = (settings.run().await, settings.run().await);
    let few = |count: usize, mails: &[String]| mails.iter().filter(|to| !to.starts_with('a')).count() == count;
    let mut accepted = Vec::new();
    let all_few = |ledger: &hapax_testkit::Ledger| {
        accepted = ledger.messages().flat_map(|message| message.recipients.clone()).collect::<Vec<String>>();
        few(6, &accepted)
    };
    stage.server.wait_until_within(PATIENCE, all_few).await;
    println!("accepted before the last of the few: {}", accepted.len());
    assert!(accepted.len() <= 60, "{}", accepted.len());
    stage.server.final_reply_delay(Duration::ZERO);
    stage.until("sent", 2_006).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(2_006);
    assert_eq!((verdict.accepted, verdict.twice.len()), (2_006, 0));
    let counted = async || Some(calls(&stage, "claim_turns").await).filter(|calls| *calls > 0).ok_or("not counted");
    eventually(PATIENCE, counted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tenants_and_with_one_the_claim_is_the_plain_one() {
    let stage = Stage::set().await;
    count_calls(&stage).await;
    let _relays = (stage.settings().run().await, stage.settings().run().await);
    enqueue(&stage, None, "n", 300).await;
    stage.until("sent", 300).await;
    enqueue(&stage, Some("a"), "a", 300).await;
    stage.until("sent", 600).await;
    let counted = async || Some(calls(&stage, "claim_batch").await).filter(|calls| *calls > 0).ok_or("not counted");
    eventually(PATIENCE, counted).await;
    assert_eq!(calls(&stage, "claim_turns").await, 0);
}
