//! A database with a history, filled set by set: the same tables, indexes and statistics as if it had been lived.

use std::time::Instant;

use hapax_testkit::{PgCluster, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Stage};

const FINISHED: u64 = 200_000;
const PENDING: u64 = 20_000;
const WEEKS: u64 = 26;

fn wanted(variable: &str, usual: u64) -> u64 {
    match std::env::var(variable) {
        Ok(number) => number.replace('_', "").parse().unwrap_or_else(|_| panic!("{variable}: not a number: {number}")),
        Err(_) => usual,
    }
}

/// Whether the server has `pg_stat_statements`, which tells what relays and commands touch: not every build comes with it,
/// and where it is missing somebody has to say so.
pub(crate) fn witness() -> bool {
    std::env::var_os("HAPAX_HISTORY_WITNESS").is_none_or(|value| value != "no")
}

/// A stage with so many deliveries on it, as the environment wants; answers it in words, too.
pub(crate) async fn stage() -> (Stage, String) {
    let (finished, pending) = (wanted("HAPAX_HISTORY_FINISHED", FINISHED), wanted("HAPAX_HISTORY_PENDING", PENDING));
    assert!(finished >= 100_000 && pending >= 10_000, "too few to tell anything");
    let started = Instant::now();
    // Without replication a table that is filled in the transaction that made it needs no WAL.
    let mut cluster = PgCluster::builder()
        .fsync(false)
        .setting("wal_level", "minimal")
        .setting("max_wal_senders", "0")
        .setting("max_wal_size", "4GB")
        .setting("shared_buffers", "256MB")
        .setting("maintenance_work_mem", "256MB")
        .setting("autovacuum", "off");
    if witness() {
        cluster = cluster.setting("shared_preload_libraries", "pg_stat_statements");
    }
    let mut stage = Stage::on(cluster.start().await.expect("a cluster starts"), SmtpServer::start()).await;
    fill(&stage, finished, pending).await;
    println!("{finished} finished and {pending} pending deliveries after {} s", started.elapsed().as_secs());
    // A relay wants a server that keeps its promises.
    stage.sql.batch_execute("ALTER SYSTEM SET fsync = on").await.expect("sets");
    stage.sql.batch_execute("SELECT pg_reload_conf()").await.expect("reloads");
    eventually(PATIENCE, async || {
        // A session that has not seen it empty.
        stage.reconnect().await;
        let fsync = stage.text("SHOW fsync", &[]).await;
        if fsync.as_deref() == Some("on") { Ok(()) } else { Err(fsync) }
    })
    .await;
    (stage, format!("{finished} finished and {pending} pending deliveries"))
}

async fn fill(stage: &Stage, finished: u64, pending: u64) {
    let time = async |expression: &str| {
        let sql = format!("SELECT to_char({expression}, 'YYYY-MM-DD HH24:MI:SS') || '+00'");
        stage.text(&sql, &[]).await.expect("a time")
    };
    let week = format!("date_trunc('week', now() AT TIME ZONE 'UTC') - interval '{WEEKS} weeks'");
    let script = include_str!("fill.sql")
        .replace("{finished}", &finished.to_string())
        .replace("{pending}", &pending.to_string())
        .replace("{weeks}", &WEEKS.to_string())
        .replace("{begin}", &time(&week).await)
        .replace("{end}", &time("(now() - interval '10 minutes') AT TIME ZONE 'UTC'").await);
    let (first, rest) = script.split_once("-- >>>\n").expect("a first part");
    let (parts, last) = rest.split_once("-- <<<\n").expect("a last part");
    let run = async |sql: &str| stage.sql.batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?}"));
    run(&format!("BEGIN; {first}; COMMIT")).await;
    let mut workers = Vec::new();
    for part in parts.split("-- ===\n") {
        let (sql, part) = (stage.cluster.client("postgres").await.expect("a client"), part.to_owned());
        workers.push(tokio::spawn(async move { sql.batch_execute(&format!("BEGIN; {part}; COMMIT")).await }));
    }
    for worker in workers {
        worker.await.expect("no panic").unwrap_or_else(|error| panic!("{error:?}"));
    }
    run(last).await;
    run("VACUUM (ANALYZE)").await;
    if witness() {
        run("CREATE EXTENSION pg_stat_statements").await;
    }
}
