//! The cluster starts, dies in every way, comes back with its data, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may panic, too")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hapax_sandbox::PgCluster;

async fn cluster() -> PgCluster {
    PgCluster::builder().fsync(false).start().await.expect("the cluster starts")
}

async fn rows(cluster: &PgCluster) -> i64 {
    let client = cluster.client("postgres").await.expect("the cluster takes connections");
    client.query_one("SELECT count(*) FROM notes", &[]).await.expect("the table is there").get(0)
}

async fn add_row(cluster: &PgCluster) {
    let sql = "CREATE TABLE IF NOT EXISTS notes (id serial); INSERT INTO notes DEFAULT VALUES";
    cluster.execute("postgres", sql).await.expect("the row is inserted");
}

async fn show(cluster: &PgCluster, name: &str) -> String {
    let client = cluster.client("postgres").await.expect("the cluster takes connections");
    client.query_one(&format!("SHOW {name}"), &[]).await.expect("the setting exists").get(0)
}

fn exists(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[tokio::test]
async fn a_committed_row_survives_every_way_to_die_on_the_same_port() {
    let cluster = cluster().await;
    let port = cluster.port();
    add_row(&cluster).await;
    cluster.stop().await.unwrap();
    assert!(cluster.client("postgres").await.is_err(), "a stopped server takes no connection");
    cluster.restart().await.unwrap();
    add_row(&cluster).await;
    cluster.kill_immediate().await.unwrap();
    cluster.restart().await.unwrap();
    add_row(&cluster).await;
    cluster.crash().await.unwrap();
    cluster.restart().await.unwrap();
    assert_eq!(rows(&cluster).await, 3);
    cluster.restart().await.unwrap();
    assert_eq!((rows(&cluster).await, cluster.port()), (3, port));
}

#[tokio::test]
async fn the_server_is_the_one_that_was_asked_for() {
    let Some(directory) = std::env::var_os("HAPAX_PG_BIN") else {
        return;
    };
    let said = Command::new(Path::new(&directory).join("postgres")).arg("--version").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let runs = show(&cluster().await, "server_version").await;
    assert!(said.contains(&format!("(PostgreSQL) {runs}")), "{said} was asked for, {runs} runs");
}

#[tokio::test]
async fn a_second_start_is_fast_because_the_template_is_copied() {
    drop(cluster().await);
    let started = Instant::now();
    let second = cluster().await;
    let took = started.elapsed();
    println!("cluster start from the template: {took:?}");
    drop(second);
    println!("with its end: {:?}", started.elapsed());
    // Generous: the machine may be busy with a build. initdb alone would take longer.
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn durability_is_on_by_default_and_settings_are_obeyed() {
    let cluster = PgCluster::builder().setting("work_mem", "3MB").start().await.unwrap();
    for (name, value) in [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("listen_addresses", "127.0.0.1"),
        ("max_connections", "200"),
        ("work_mem", "3MB"),
        ("server_encoding", "UTF8"),
    ] {
        assert_eq!(show(&cluster, name).await, value, "{name}");
    }
}

#[tokio::test]
async fn a_bad_setting_fails_the_start_with_the_server_s_own_words() {
    let error = PgCluster::builder().setting("no_such_setting", "1").start().await.unwrap_err().to_string();
    assert!(error.contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn dropping_a_cluster_ends_its_processes_and_removes_its_files() {
    let cluster = cluster().await;
    let (pid, directory) = (cluster.pid().await.unwrap(), cluster.socket_directory().to_owned());
    assert!(exists(pid) && directory.exists());
    drop(cluster);
    assert!(!exists(pid) && !directory.exists());
}

#[tokio::test]
async fn a_frozen_cluster_answers_nobody_until_it_is_thawed_and_can_be_dropped_frozen() {
    let cluster = cluster().await;
    let client = cluster.client("postgres").await.unwrap();
    cluster.freeze().await.unwrap();
    let mut query = Box::pin(client.simple_query("SELECT 1"));
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut query).await.is_err());
    cluster.thaw().await.unwrap();
    query.await.unwrap();
    cluster.freeze().await.unwrap();
    drop(cluster);
}

#[tokio::test]
async fn with_password_auth_tcp_needs_the_password() {
    let cluster = PgCluster::builder().fsync(false).password_auth(true).start().await.unwrap();
    let connect = async |url: &str| tokio_postgres::connect(url, tokio_postgres::NoTls).await.is_ok();
    assert!(connect(&cluster.url()).await);
    let without = cluster.url().replace(&format!(":{}@", cluster.password().unwrap()), "@");
    assert!(!connect(&without).await);
    let url = cluster.create_database("shop").await.unwrap();
    assert!(connect(&url).await);
}

#[tokio::test]
async fn a_standby_follows_and_can_be_promoted_after_the_primary_is_gone() {
    let primary = cluster().await;
    add_row(&primary).await;
    let standby = PgCluster::standby_of(&primary).await.unwrap();
    assert_eq!(rows(&standby).await, 1);
    assert!(standby.execute("postgres", "INSERT INTO notes DEFAULT VALUES").await.is_err());
    primary.crash().await.unwrap();
    standby.promote().await.unwrap();
    add_row(&standby).await;
    assert_eq!(rows(&standby).await, 2);
}

/// Run as a child of the next test only: starts a cluster, says where, and waits to be killed.
#[tokio::test]
async fn a_holder_waits_to_be_killed_when_asked_to() {
    if std::env::var_os("HAPAX_SANDBOX_TEST_HOLDER").is_none() {
        return;
    }
    let cluster = cluster().await;
    println!("\nHOLDS {} {}", cluster.pid().await.unwrap(), cluster.socket_directory().display());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_holder_leaves_no_server_and_no_files() {
    use std::io::BufRead;
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_holder_waits_to_be_killed_when_asked_to", "--nocapture"])
        .env("HAPAX_SANDBOX_TEST_HOLDER", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(holder.stdout.take().unwrap());
    let line = output.lines().map_while(Result::ok).find(|line| line.contains("HOLDS ")).expect("the holder starts");
    let words: Vec<_> = line.split_whitespace().rev().collect();
    let (directory, pid) = (Path::new(words[0]).to_owned(), words[1].parse().unwrap());
    assert!(exists(pid) && directory.exists());
    holder.kill().unwrap();
    holder.wait().unwrap();
    let started = Instant::now();
    while exists(pid) || directory.exists() {
        assert!(started.elapsed() < Duration::from_secs(20), "the watchdog has not cleaned up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_prepared_cluster_is_filled_once_and_everybody_gets_a_copy_of_their_own() {
    let recipe = b"a row in a table";
    let fill = async |cluster: &PgCluster| {
        add_row(cluster).await;
        Ok(())
    };
    let prepared = || PgCluster::builder().fsync(false).setting("work_mem", "3MB");
    let first = prepared().start_prepared(recipe, fill).await.unwrap();
    add_row(&first).await;
    let never = async |_: &PgCluster| panic!("it is filled already");
    let second = prepared().start_prepared(recipe, never).await.unwrap();
    assert_eq!((rows(&first).await, rows(&second).await), (2, 1));
    assert_ne!(first.port(), second.port());
    assert_eq!(show(&second, "work_mem").await, "3MB");

    let fails = async |_: &PgCluster| Err("no".to_owned());
    for _ in 0..2 {
        let failed = prepared().start_prepared(b"never made", fails).await;
        assert_eq!(failed.unwrap_err().to_string(), "could not fill the databases: no", "it left nothing behind");
    }
}
