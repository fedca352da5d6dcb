//! The migrator: at once, again, ahead, changed, and blocked. By hand: `by_psql`.

use hapax_store::{
    Error,
    migrate::{MIGRATIONS, Migrator},
};
use tokio::task::JoinSet;

use crate::common::{Stage, cluster, empty_database, options};

async fn migrator(url: &str) -> Migrator {
    Migrator::connect(&options(url)).await.expect("connects")
}

#[tokio::test]
async fn twenty_at_once_apply_each_migration_once() {
    let url = empty_database().await;
    let mut all = JoinSet::new();
    for _ in 0..20 {
        let url = url.clone();
        all.spawn(async move { migrator(&url).await.up(|_| {}).await.expect("migrates") });
    }
    assert_eq!(all.join_all().await.into_iter().sum::<usize>(), MIGRATIONS.len());
    let status = migrator(&url).await.status().await.expect("reads");
    assert!(status.pending().is_empty() && status.problems().is_empty());
    assert_eq!(migrator(&url).await.up(|_| {}).await.expect("again"), 0, "idempotent");
}

#[tokio::test]
async fn twenty_at_once_do_so_whatever_the_default_isolation_level_is() {
    let url = empty_database().await;
    let name = url.rsplit('/').next().expect("a name");
    let strict = format!("ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'");
    cluster().await.execute("postgres", &strict).await.expect("sets");
    let mut all = JoinSet::new();
    for _ in 0..5 {
        let url = url.clone();
        all.spawn(async move { migrator(&url).await.up(|_| {}).await.expect("migrates") });
    }
    assert_eq!(all.join_all().await.into_iter().sum::<usize>(), MIGRATIONS.len());
}

#[tokio::test]
async fn a_database_without_an_outbox_has_everything_pending() {
    let url = empty_database().await;
    let status = migrator(&url).await.status().await.expect("reads");
    assert_eq!(status.pending().len(), MIGRATIONS.len());
}

#[tokio::test]
async fn a_file_that_was_changed_after_it_was_applied_is_refused() {
    let stage = Stage::set().await;
    stage.run("UPDATE outbox.migration SET checksum = 'other' WHERE version = 2").await;
    let mut migrator = migrator(&stage.url).await;
    assert!(migrator.status().await.expect("reads").problems()[0].contains("0002_tables.sql was changed"));
    let refusal = migrator.up(|_| {}).await.expect_err("refused");
    assert!(matches!(refusal, Error::Schema(_)), "{refusal}");
}

#[tokio::test]
async fn a_database_that_is_ahead_is_refused_only_by_a_breaking_migration() {
    let stage = Stage::set().await;
    let ahead =
        "INSERT INTO outbox.migration (version, name, checksum, breaking) VALUES (9999, '9999_next.sql', '', false)";
    stage.run(ahead).await;
    assert_eq!(migrator(&stage.url).await.up(|_| {}).await.expect("fine"), 0);
    stage.run("UPDATE outbox.migration SET breaking = true WHERE version = 9999").await;
    let refusal = migrator(&stage.url).await.up(|_| {}).await.expect_err("refused");
    assert!(refusal.to_string().contains("9999_next.sql"), "{refusal}");
    assert!(refusal.to_string().contains("upgrade hapax"), "{refusal}");
}

/// As if 000x_decide.sql were new: its functions are dropped and its entry too.
async fn without_decide(stage: &Stage) -> &'static str {
    let decide = MIGRATIONS.iter().find(|migration| migration.name.ends_with("_decide.sql")).expect("its file");
    stage.run("DELETE FROM outbox.migration WHERE name LIKE '%decide.sql'").await;
    for name in decide.sql.split("CREATE FUNCTION ").skip(1).filter_map(|text| text.split('(').next()) {
        stage.run(&format!("DROP FUNCTION {name} CASCADE")).await;
    }
    decide.name
}

#[tokio::test]
async fn a_migration_that_fails_changes_nothing_and_names_its_file() {
    let stage = Stage::set().await;
    let name = without_decide(&stage).await;
    // The last function of the file is there already.
    stage.run("CREATE FUNCTION outbox.release(id uuid, reason text) RETURNS void LANGUAGE sql AS 'SELECT'").await;
    let failure = migrator(&stage.url).await.up(|_| {}).await.expect_err("fails");
    assert!(failure.to_string().contains(name), "{failure}");
    assert_eq!(stage.count("SELECT count(*) FROM pg_proc WHERE proname = 'resolve_doubt'").await, 0, "nothing is left");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.migration WHERE name LIKE '%decide.sql'").await, 0);
    stage.run("DROP FUNCTION outbox.release").await;
    assert_eq!(migrator(&stage.url).await.up(|_| {}).await.expect("now it works"), 1);
}

#[tokio::test]
async fn a_lock_that_somebody_holds_is_waited_for() {
    let stage = Stage::set().await;
    without_decide(&stage).await;
    let (somebody, _driver) = stage.session().await;
    somebody.batch_execute("BEGIN; LOCK TABLE outbox.migration IN ACCESS EXCLUSIVE MODE").await.expect("locks");
    let url = stage.url.clone();
    let migrating = tokio::spawn(async move { migrator(&url).await.up(|_| {}).await });
    stage.until_blocked(1).await;
    // Long enough to run into its lock_timeout once: it has let go and asks again.
    let gave_up = "SELECT count(*) FROM pg_stat_database WHERE datname = current_database() AND xact_rollback > 0";
    hapax_testkit::eventually(crate::common::DEADLINE, async || stage.count(gave_up).await > 0).await;
    somebody.batch_execute("ROLLBACK").await.expect("lets go");
    assert_eq!(migrating.await.expect("no panic").expect("migrates"), 1);
}

/// Any login may take it, and hold it for ever: no transaction waits for longer than five seconds for that either.
#[tokio::test]
async fn who_holds_the_lock_of_migrations_is_waited_for_in_transactions_of_five_seconds() {
    let stage = Stage::set().await;
    without_decide(&stage).await;
    let (somebody, _driver) = stage.session().await;
    somebody.batch_execute("SELECT pg_advisory_lock(448311353720)").await.expect("locks");
    let url = stage.url.clone();
    let migrating = tokio::spawn(async move { migrator(&url).await.up(|_| {}).await });
    stage.until_blocked(1).await;
    let gave_up = "SELECT count(*) FROM pg_stat_database WHERE datname = current_database() AND xact_rollback > 0";
    hapax_testkit::eventually(crate::common::DEADLINE, async || stage.count(gave_up).await > 0).await;
    assert!(!migrating.is_finished());
    let rows = stage.sql.query(include_str!("../../queries/migration_lock.sql"), &[]).await.expect("reads");
    let pid: i32 = somebody.query_one("SELECT pg_backend_pid()", &[]).await.expect("reads").get(0);
    assert_eq!(rows.iter().map(|row| row.get::<_, i32>("pid")).collect::<Vec<_>>(), [pid]);
    somebody.batch_execute("SELECT pg_advisory_unlock(448311353720)").await.expect("lets go");
    assert_eq!(migrating.await.expect("no panic").expect("migrates"), 1);
}
