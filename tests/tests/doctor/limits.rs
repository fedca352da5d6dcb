//! What runs out, or runs wrong: connections, open files, clocks, room in tables.

use std::os::unix::fs::PermissionsExt as _;

use hapax_testkit::find_hapax;
use hapax_testkit::{HapaxProcess, PgCluster, eventually};
use hapax_tests::faketime::Clock;
use hapax_tests::stage::PATIENCE;

use crate::database::Clinic;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_connections_and_many_dead_rows_are_found() {
    let clinic = Clinic::open().await;
    // Three are fewer than the doctor would have at once: it waits for its own.
    for limit in [5, 3] {
        let (set, said) = (
            format!("ALTER ROLE relay CONNECTION LIMIT {limit}"),
            format!("may have {limit} connections; a relay needs"),
        );
        let expected = ["warning", "database.connections", &said, "CONNECTION LIMIT -1"];
        clinic.provoke(&set, "ALTER ROLE relay CONNECTION LIMIT -1", expected).await;
    }
    let usable =
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
                  - count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
    let free = clinic.stage.count(&format!("SELECT ({usable})::bigint")).await;
    let greedy = clinic.stage.settings().set("database.pool_size_max", free + 5);
    let said = clinic.ask(&greedy).await;
    said.assert_only(
        "warning",
        "database.connections",
        &format!("a relay needs {}", free + 6),
        "raise max_connections",
    );
    // Rolled back: they were never seen, and lie there.
    clinic.sql("BEGIN; INSERT INTO outbox.audit (action) SELECT 'x' FROM generate_series(1, 201000); ROLLBACK").await;
    eventually(PATIENCE, async || {
        let dead = clinic.stage.count("SELECT pg_stat_get_dead_tuples('outbox.audit'::regclass)").await;
        (dead > 200_000).then_some(()).ok_or(dead)
    })
    .await;
    clinic.examine().await.assert_only("warning", "schema.dead_rows", "outbox.audit: 201000 dead rows", "VACUUM");
    clinic.sql("VACUUM outbox.audit").await;
    clinic.examine().await.assert_well();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_whose_clock_is_wrong_is_found() {
    if let Err(why) = Clock::available() {
        assert!(std::env::var_os("HAPAX_TESTS_ALL").is_none(), "{why}");
        return eprintln!("SKIPPED: {why}");
    }
    let clock = Clock::right();
    let builder =
        clock.environment().into_iter().fold(PgCluster::builder(), |builder, (name, value)| builder.env(name, value));
    let clinic = Clinic::on(builder.start().await.expect("a cluster starts")).await;
    clock.jump("-75s");
    clinic.examine().await.assert_only("warning", "database.clock", "behind this machine's", "chronyc tracking");
    clock.jump("+75s");
    clinic.examine().await.assert_only("warning", "database.clock", "ahead of this machine's", "chronyc tracking");
    clock.jump("+0");
    clinic.examine().await.assert_well();
}

#[tokio::test]
async fn a_limit_of_open_files_that_is_too_low_and_a_configuration_that_is_missing_are_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let limited = directory.path().join("limited");
    let script = format!("#!/bin/sh\nulimit -n 100\nexec {} \"$@\"\n", find_hapax().display());
    std::fs::write(&limited, script).expect("written");
    std::fs::set_permissions(&limited, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let config = "[database]\nurl = \"postgres://nobody@127.0.0.1:1/none\"\n[routes.default]\nurl = \"capture:\"\n\
                  from = \"shop@example.org\"\n";
    let mut doctor =
        HapaxProcess::builder().binary(limited).config(config).args(["doctor", "--offline", "--json"]).spawn();
    doctor.wait_exit(PATIENCE).await;
    let said = doctor.stdout();
    let found: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    let files = found["findings"].as_array().expect("a list").iter().find(|one| one["name"] == "machine.files");
    let files = files.expect("it looks");
    assert_eq!(files["severity"], "warning", "{said}");
    assert!(files["evidence"].as_str().is_some_and(|words| words.ends_with("may open: 100")), "{said}");
    assert!(files["remedy"].as_str().is_some_and(|words| words.starts_with("LimitNOFILE=")), "{said}");

    let mut doctor = HapaxProcess::builder().args(["doctor", "--config", "/nowhere/hapax.toml", "--json"]).spawn();
    assert_eq!(doctor.wait_exit(PATIENCE).await.code(), Some(1));
    let found: serde_json::Value = serde_json::from_str(&doctor.stdout()).expect("JSON");
    let errors = found["findings"].as_array().expect("a list").iter().filter(|one| one["severity"] == "error");
    let names: Vec<&str> = errors.filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, ["config./nowhere/hapax.toml"], "one error, and nothing that follows from it");
}

/// Whoever may connect may take a lock whose name he knows, and nobody sees why nothing is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_holds_a_lock_of_the_outbox_is_named_and_who_migrates_says_whom_it_waits_for() {
    let clinic = Clinic::open().await;
    clinic.sql("CREATE ROLE stranger LOGIN").await;
    let url = clinic.stage.cluster.url_for("postgres", "stranger");
    let (stranger, driver) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("connects");
    tokio::spawn(driver);
    let pid: i32 = stranger.query_one("SELECT pg_backend_pid()", &[]).await.expect("reads").get(0);
    for (key, means) in [
        ("hashtextextended('hapax.maintain', 0)", "the lock of upkeep"),
        ("hashtextextended('hapax.contents', 0)", "the lock of contents"),
        ("hashtextextended('hapax.erase', 0)", "the lock of erasing"),
        ("448311353720", "the lock of migrations"),
    ] {
        stranger.batch_execute(&format!("SELECT pg_advisory_lock({key})")).await.expect("locks");
        let said = clinic.examine().await;
        let remedy = format!("pg_terminate_backend({pid})");
        said.assert_only("warning", "database.advisory_locks", means, &remedy);
        said.assert_has("warning", "database.advisory_locks", &format!("pid {pid}, user stranger"), &remedy);
        if key != "448311353720" {
            stranger.batch_execute("SELECT pg_advisory_unlock_all()").await.expect("lets go");
        }
    }
    let owner = clinic.stage.settings_of("postgres");
    let mut migrating = HapaxProcess::builder().config(owner.toml()).args(["migrate", "up"]).spawn();
    let named = format!("\"pid\":{pid},");
    migrating.wait_for_line(|line| line.contains("waiting for its end") && line.contains(&named)).await;
    stranger.batch_execute("SELECT pg_advisory_unlock_all()").await.expect("lets go");
    assert!(migrating.wait_exit(PATIENCE).await.success(), "{}", migrating.report());
    // Who may do it is at it for a moment: that is nobody's business.
    clinic.sql("SELECT pg_advisory_lock(hashtextextended('hapax.maintain', 0))").await;
    clinic.examine().await.assert_well();
    clinic.sql("SELECT pg_advisory_unlock_all()").await;
}
