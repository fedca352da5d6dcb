//! Row level security that somebody switches on: what it hides is not taken for missing. Nothing is sent that should not be, nothing
//! fails for good, and when it is off again all goes on.

use std::time::Duration;

use hapax_testkit::{HapaxProcess, eventually};
use hapax_tests::pgbouncer::PgBouncer;
use hapax_tests::stage::{PATIENCE, Settings, Stage};
use hapax_tests::verdict::Verdict;

/// Tables, and what would go wrong: to somebody on the list, of what is paused, for good, never.
const TABLES: [&str; 8] = ["suppression", "pause", "message", "queue", "done", "control", "relay", "attempt"];

async fn switch(stage: &Stage, table: &str, how: &str) {
    let sql = format!("ALTER TABLE outbox.{table} {how} ROW LEVEL SECURITY");
    stage.sql.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// To one who is suppressed, of what is paused, and to one who gets it.
async fn enqueue(stage: &Stage, table: &str) {
    stage.enqueue_one("left@example.org", "").await;
    let paused = "SELECT outbox.enqueue(kind => 'news', recipients => ARRAY['news@example.org'], subject => 'x', body_text => 'x')";
    stage.sql.execute(paused, &[]).await.expect("enqueues");
    stage.enqueue_one(&format!("{table}@example.org"), "").await;
}

fn seen(stage: &Stage) -> usize {
    stage.server.with_ledger(|ledger| ledger.transactions().count())
}

/// The relay says what is wrong and what to do, and goes on to say it.
async fn complains(relay: &HapaxProcess, table: &str, times: usize) {
    let names = format!("rows of outbox.{table} from this user");
    let remedy = format!("ALTER TABLE outbox.{table} DISABLE ROW LEVEL SECURITY;");
    eventually(PATIENCE, async || {
        let lines = relay.lines();
        let said = lines.iter().filter(|line| line.contains(&names) && line.contains(&remedy)).count();
        (said >= times).then_some(()).ok_or_else(|| lines.last().cloned())
    })
    .await;
}

async fn nothing_is_taken_for_missing(stage: &Stage, settings: &Settings) {
    let operator = stage.settings_of("operator");
    let (code, said) = operator.command(["suppress", "left@example.org", "--reason", "unsubscribed"]).await;
    assert_eq!(code, 0, "{said}");
    let (code, said) = operator.command(["pause", "--kind", "news", "--reason", "wrong price"]).await;
    assert_eq!(code, 0, "{said}");
    let relay = settings.run().await;
    for (number, table) in (1_i64..).zip(TABLES) {
        let before = seen(stage);
        switch(stage, table, "ENABLE").await;
        enqueue(stage, table).await;
        // The heartbeat and the claim each say it.
        complains(&relay, table, 2).await;
        if number == 1 {
            let mut other = settings.spawn();
            let code = other.wait_exit(PATIENCE).await.code();
            assert_eq!(code, Some(78), "it does not even begin\n{}", other.report());
            assert!(other.report().contains("ALTER TABLE outbox.suppression DISABLE"), "{}", other.report());
        }
        assert_eq!(seen(stage), before, "nothing goes out while outbox.{table} has it\n{}", relay.report());
        switch(stage, table, "DISABLE").await;
        stage.until_state(&format!("{table}@example.org"), "sent").await;
        stage.until("suppressed", number).await;
        let waits = "SELECT count(*) FROM outbox.deliveries WHERE kind = 'news' AND state = 'pending' AND reason LIKE 'paused (%'";
        eventually(PATIENCE, async || {
            let now = stage.count(waits).await;
            (now == number).then_some(()).ok_or(now)
        })
        .await;
    }
    let states = stage.states().await;
    let many = i64::try_from(TABLES.len()).expect("few");
    assert_eq!(states.get("failed"), None, "{states:?}");
    assert_eq!((states.get("sent"), states.get("suppressed")), (Some(&many), Some(&many)), "{states:?}");
    for nobody in ["left@example.org", "news@example.org"] {
        assert_eq!(stage.server.with_ledger(|ledger| ledger.count_rcpt_commands(nobody)), 0, "{nobody}");
    }
    assert!(!relay.report().contains("cannot be tried"), "{}", relay.report());
    stage.server.with_ledger(|ledger| ledger.assert_none_accepted_twice());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_level_security_is_not_taken_for_empty_tables() {
    let stage = Stage::set().await;
    let settings = stage.settings();
    nothing_is_taken_for_missing(&stage, &settings).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_behind_a_pooler_that_passes_no_settings_on() {
    if let Err(why) = PgBouncer::available() {
        assert!(std::env::var_os("HAPAX_TESTS_ALL").is_none(), "{why}");
        eprintln!("SKIPPED: {why}");
        return;
    }
    let stage = Stage::set().await;
    let pooler = PgBouncer::start(stage.cluster.port(), 8).await;
    let settings = stage.settings().set("database.url", pooler.url_for("postgres", "relay"));
    nothing_is_taken_for_missing(&stage, &settings).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_whose_user_bypasses_it_works_as_before() {
    let stage = Stage::set().await;
    let everywhere = "DO $$ DECLARE t regclass; BEGIN
        FOR t IN SELECT oid FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'p') LOOP
          EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t); END LOOP; END $$; ALTER ROLE relay BYPASSRLS";
    stage.sql.batch_execute(everywhere).await.expect("switches");
    let relay = stage.settings().run().await;
    stage.enqueue(20).await;
    stage.until("sent", 20).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(20);
    // What it may not do any more it notices in the middle of its work.
    stage.sql.batch_execute("ALTER ROLE relay NOBYPASSRLS").await.expect("takes it");
    stage.enqueue(20).await;
    let refused = |line: &str| line.contains("row level security hides rows of");
    relay.wait_for_line(refused).await;
    tokio::time::timeout(Duration::from_secs(30), relay.wait_for_line(refused)).await.expect("says so");
    assert!(!stage.states().await.contains_key("failed"));
    stage.sql.batch_execute("ALTER ROLE relay BYPASSRLS").await.expect("gives it");
    stage.until("sent", 40).await;
}
