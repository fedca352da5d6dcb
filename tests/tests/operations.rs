//! What ships beside the binary in `deploy/`: alerts, runbook, dashboard, chart, manifests, container file. Checked by
//! the tools that its users have (promtool, helm, the schemas of Kubernetes, hadolint), from `tests/operations/*.py`;
//! `tests/operations/setup` fetches them.
//!
//! Must not judge for itself what a tool can judge.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use hapax_testkit::find_hapax;
use hapax_tests::stage::Stage;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs one file of Python tests; all of them must have passed, and there must have been some.
fn passes(file: &str) {
    let python = top().join("target/operations/venv/bin/python");
    if !python.exists() {
        assert!(std::env::var_os("HAPAX_TESTS_ALL").is_none(), "tests/operations/setup has not run");
        eprintln!("SKIPPED: {} is missing (hint: tests/operations/setup)", python.display());
        return;
    }
    let run = Command::new(python)
        .arg(top().join("tests/operations").join(file))
        .env("HAPAX_BIN", find_hapax())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("Python runs");
    let said = String::from_utf8_lossy(&run.stderr);
    eprintln!("{said}{}", String::from_utf8_lossy(&run.stdout));
    assert!(run.status.success(), "{file} failed");
    assert!(said.contains("\nRan ") && !said.contains("\nRan 0 "), "{file} has no tests");
    assert!(!said.contains("skipped="), "{file} skipped something");
}

async fn connected(stage: &Stage, user: &str) -> tokio_postgres::Client {
    let url = stage.cluster.direct_url_for("postgres", user);
    let (client, connection) =
        tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("the user may connect");
    tokio::spawn(connection);
    client
}

#[test]
fn the_alerts_fire_and_do_not_fire_as_told_and_each_has_its_section_of_the_runbook() {
    passes("alerts.py");
}

#[test]
fn the_dashboard_is_what_its_program_writes_and_shows_only_metrics_that_exist() {
    passes("dashboard.py");
}

#[test]
fn chart_and_manifests_fit_kubernetes_are_restricted_and_carry_a_configuration_that_hapax_takes() {
    passes("kubernetes.py");
}

#[test]
fn the_container_file_keeps_the_rules_of_hadolint_and_runs_the_program_as_nobody() {
    passes("container.py");
}

#[tokio::test]
async fn what_keda_asks_is_answered_to_a_monitor() {
    let stage = Stage::set().await;
    let manifest = std::fs::read_to_string(top().join("deploy/kubernetes/keda.yaml")).expect("the manifest is there");
    let query = manifest.lines().find_map(|line| line.trim().strip_prefix("query: ")).expect("it has a query");
    stage.sql.batch_execute("CREATE ROLE monitor LOGIN IN ROLE outbox_monitor").await.expect("a role");
    let enqueue = "SELECT outbox.enqueue('a', ARRAY['a@example.org'], subject => 'a', body_text => 'a')";
    stage.sql.batch_execute(enqueue).await.expect("a notification");
    let client = connected(&stage, "monitor").await;
    let backlog: i64 = client.query_one(query, &[]).await.expect("a monitor may ask").get(0);
    assert_eq!(backlog, 1);
    client.query("SELECT * FROM outbox.deliveries", &[]).await.expect_err("and nothing else");
}

#[tokio::test]
async fn every_statement_of_the_runbook_is_one_that_an_operator_may_run() {
    let stage = Stage::set().await;
    let runbook = std::fs::read_to_string(top().join("deploy/RUNBOOK.md")).expect("the runbook is there");
    let statements: Vec<&str> =
        runbook.split("```sql\n").skip(1).map(|rest| rest.split_once("```").expect("the block has an end").0).collect();
    assert!(statements.len() >= 6, "{}", statements.len());
    let client = connected(&stage, "operator").await;
    for statement in statements {
        if let Err(error) = client.query(statement, &[]).await {
            panic!("{statement}{error:?}");
        }
    }
}
