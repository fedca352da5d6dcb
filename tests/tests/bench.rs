//! `hapax bench` measures what it says it measures: its figures agree with each other and with the sink's count, every
//! contender gets its turns, and nothing outlives it.
//!
//! The numbers are tiny and nothing is said about how fast anything is.

use std::path::Path;
use std::process::Output;

use hapax_testkit::{eventually, find_hapax};
use hapax_tests::stage::PATIENCE;
use serde_json::Value;
use tokio::process::Command;

/// `hapax bench` with these words, in a directory of its own.
fn bench(words: &[&str]) -> Command {
    let mut command = Command::new(find_hapax());
    command.arg("bench").args(words).stdin(std::process::Stdio::null()).kill_on_drop(true);
    command
}

async fn run(words: &[&str]) -> Output {
    bench(words).output().await.expect("runs")
}

/// What it prints with `--json`, when all went well.
async fn results(words: &[&str]) -> Value {
    let output = run(&[words, &["--json"]].concat()).await;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert_eq!(stderr, "", "quiet where there is no terminal");
    serde_json::from_str(&stdout).expect("JSON")
}

fn runs(results: &Value) -> &[Value] {
    results["runs"].as_array().expect("runs")
}

/// A figure of a run; all of them are finite and none is negative.
fn figure(run: &Value, name: &str) -> f64 {
    let all = run["figures"].as_object().expect("figures");
    for (name, value) in all {
        assert!(value.as_f64().is_some_and(|value| value.is_finite() && value >= 0.0), "{name}: {run}");
    }
    all.get(name).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {name} in {run}"))
}

fn close(left: f64, right: f64) -> bool {
    (left - right).abs() <= 1e-6 * left.abs().max(right.abs())
}

/// Another outbox relay, of a sort: it marks its messages without sending them.
fn peer(directory: &Path, worker: &str) {
    let description = serde_json::json!({
        "name": "marker",
        "db": "bench_marker",
        "env": { "TABLE": "letters" },
        "setup_sql": ["setup.sql"],
        "enqueue_sql": "INSERT INTO letters (letter) VALUES (%(payload)s::jsonb)",
        "worker": ["/bin/sh", "-c", worker],
        "remaining_sql": "SELECT count(*) FROM letters WHERE NOT done",
    });
    std::fs::write(directory.join("peer.json"), description.to_string()).expect("a file");
    let sql = "CREATE TABLE letters (letter jsonb NOT NULL, done boolean NOT NULL DEFAULT false)";
    std::fs::write(directory.join("setup.sql"), sql).expect("a file");
}

#[tokio::test]
async fn a_drain_delivers_everything_and_its_figures_agree() {
    let results = results(&["drain", "--messages", "50", "--runs", "1", "--sink", "own", "--relays", "2"]).await;
    let [run] = runs(&results) else { panic!("{results}") };
    // The sink's own count is the oracle.
    assert_eq!((figure(run, "received"), figure(run, "delivered"), figure(run, "messages")), (50.0, 50.0, 50.0));
    assert!(close(figure(run, "rate"), 50.0 / figure(run, "wall_s")), "{run}");
    assert!(close(figure(run, "cpu_us"), figure(run, "cpu_worker_us") + figure(run, "cpu_postgres_us")), "{run}");
    let (wal, records) = (figure(run, "wal_total"), figure(run, "wal_records"));
    assert!(0.0 < records && records <= wal, "{run}");
    assert!(figure(run, "wal_enqueue") > 1000.0, "a message has more than 1,000 bytes: {run}");
    assert!(figure(run, "peak_mb") > 1.0, "{run}");
    let commits = figure(run, "commits");
    assert!(0.0 < commits && commits < 50.0, "{run}");
    let median = &results["summary"]["hapax"]["rate"]["median"];
    assert_eq!(median.as_f64(), Some(figure(run, "rate")));
}

#[tokio::test]
async fn contenders_take_turns_and_a_peer_is_driven_by_its_description() {
    let directory = tempfile::tempdir().expect("a directory");
    peer(directory.path(), "psql -q \"$DATABASE_URL\" -c \"UPDATE $TABLE SET done = $DONE\"; exec sleep 1000");
    let peer = format!("{} DONE=true", directory.path().display());
    let results = results(&["drain", "--messages", "20", "--runs", "2", "--peer", &peer]).await;
    let order: Vec<&str> = runs(&results).iter().filter_map(|run| run["contender"].as_str()).collect();
    assert_eq!(order, ["hapax", "marker", "hapax", "marker"]);
    for run in runs(&results) {
        assert_eq!(figure(run, "messages"), 20.0);
    }
}

#[tokio::test]
async fn a_database_with_a_history_is_made_once_and_takes_its_turns() {
    let results = results(&["drain", "--messages", "20", "--runs", "2", "--history", "2000"]).await;
    let order: Vec<&str> = runs(&results).iter().filter_map(|run| run["contender"].as_str()).collect();
    assert_eq!(order, ["hapax", "hapax after 2000 deliveries", "hapax", "hapax after 2000 deliveries"]);
    let sent: Vec<f64> = runs(&results).iter().map(|run| figure(run, "delivered")).collect();
    assert_eq!(sent, [20.0, 2020.0, 20.0, 2040.0]);
    for run in runs(&results) {
        // Claimed, intended, and then its end and its attempt.
        let versions = figure(run, "versions");
        assert!((4.0..6.0).contains(&versions) && figure(run, "buffers") > versions, "{run}");
    }
}

#[tokio::test]
async fn a_contender_that_fails_is_named_and_the_others_are_measured() {
    let directory = tempfile::tempdir().expect("a directory");
    peer(directory.path(), "echo out of order >&2; exit 3");
    let peer = directory.path().to_str().expect("UTF-8");
    let words = ["drain", "--messages", "20", "--runs", "1", "--variant", "relay.max_in_flight=2", "--peer", peer];
    let output = run(&words).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("failed: run 1 of marker: ") && text.contains("out of order"), "{text}");
    for name in ["hapax ", "relay.max_in_flight=2 "] {
        let row = text.lines().find(|line| line.starts_with(name)).expect("a row");
        let ratio = row.split_whitespace().last().and_then(|word| word.parse::<f64>().ok());
        assert!(ratio.is_some_and(|ratio| ratio > 0.0), "{row}");
    }
}

#[tokio::test]
async fn latencies_are_in_order_and_an_idle_relay_is_watched() {
    let words = ["latency", "--rate", "20", "--seconds", "1", "--idle-seconds", "1", "--runs", "1"];
    let results = results(&words).await;
    let run = &runs(&results)[0];
    assert_eq!(figure(run, "messages"), 20.0);
    let times = ["p50_ms", "p90_ms", "p99_ms", "max_ms"].map(|name| figure(run, name));
    assert!(times[0] > 0.0 && times.is_sorted(), "{times:?}");
    assert!(close(figure(run, "idle_cpu"), figure(run, "idle_cpu_worker") + figure(run, "idle_cpu_postgres")));
    assert!(figure(run, "idle_transactions") > 0.0);
}

#[tokio::test]
async fn urgent_messages_take_turns_with_an_empty_queue_and_a_backlog_that_outlasts_them() {
    let words = ["latency", "--rate", "20", "--seconds", "1", "--backlog", "20000", "--runs", "1"];
    let results = results(&words).await;
    let [empty, behind] = runs(&results) else { panic!("{results}") };
    for run in [empty, behind] {
        assert_eq!(figure(run, "messages"), 20.0);
        assert!(figure(run, "p50_ms") > 0.0 && figure(run, "p50_ms") <= figure(run, "p99_ms"), "{run}");
    }
    let left = figure(behind, "left");
    assert!(left > 0.0 && left < 20_000.0, "{left}");
    assert!(empty["figures"].get("left").is_none(), "{empty}");
}

#[tokio::test]
async fn each_way_to_enqueue_is_compared_with_the_bare_insert() {
    let results = results(&["enqueue", "--clients", "1", "--seconds", "1", "--runs", "1"]).await;
    let names: Vec<&str> = runs(&results).iter().filter_map(|run| run["contender"].as_str()).collect();
    assert_eq!(names.len(), 6, "{names:?}");
    for run in runs(&results) {
        assert!(figure(run, "messages") >= 1.0 && figure(run, "ratio") > 0.0, "{run}");
    }
    let bare = runs(&results).iter().filter(|run| run["contender"].as_str().is_some_and(|name| name.contains("bare")));
    assert!(bare.map(|run| figure(run, "ratio")).eq([1.0, 1.0]));
}

#[tokio::test]
async fn a_remote_link_has_the_round_trip_that_was_asked_for() {
    let words = ["remote-link", "--round-trip", "30ms", "--connections", "2", "--seconds", "1", "--runs", "1"];
    let results = results(&words).await;
    let run = &runs(&results)[0];
    assert_eq!(figure(run, "received"), figure(run, "messages"));
    assert!(figure(run, "round_trip_ms") >= 30.0, "{run}");
    // Two round trips of 30 ms each: nobody could be faster.
    assert!(figure(run, "rate_per_connection") <= 1000.0 / 60.0, "{run}");
    assert!(close(figure(run, "rate"), 2.0 * figure(run, "rate_per_connection")), "{run}");
}

#[tokio::test]
async fn producers_and_old_snapshots_take_turns_with_drains_that_are_alone() {
    let mixed = results(&["mixed", "--messages", "60", "--rate", "20", "--runs", "1"]).await;
    let [alone, beside] = runs(&mixed) else { panic!("{mixed}") };
    assert_eq!(figure(alone, "messages"), 60.0);
    let (added, delivered) = (figure(beside, "added"), figure(beside, "delivered"));
    assert!((1.0..=60.0).contains(&added) && delivered <= 60.0 + added, "{beside}");
    let old = results(&["old-snapshot", "--messages", "30", "--runs", "1", "--sink", "own"]).await;
    for run in runs(&old) {
        assert_eq!((figure(run, "received"), figure(run, "delivered")), (30.0, 30.0));
    }
}

#[tokio::test]
async fn bad_arguments_are_refused_with_what_to_write_instead() {
    let cases: [(&[&str], &str); 7] = [
        (&["drain", "--set", "in_flight=1"], "write section.key=value"),
        (&["drain", "--messages", "0"], "0 is not in"),
        (&["drain", "--against", "/nowhere/hapax"], "--against /nowhere/hapax: there is no such file"),
        (&["drain", "--peer", "/nowhere"], "--peer /nowhere: peer.json: "),
        (&["drain", "--peer-set", "textbook:A=1"], "hint: name its directory with --peer DIR"),
        (&["drain", "--peer-set", "textbook"], "is not NAME:KEY=VALUE"),
        (&["remote-link", "--round-trip", "20"], "a duration such as"),
    ];
    for (words, expected) in cases {
        let output = run(words).await;
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{words:?}: {text}");
        assert!(text.contains(expected), "{words:?}: {text}");
    }
}

#[tokio::test]
async fn a_setting_that_the_relay_refuses_is_shown_in_its_own_words() {
    let output = run(&["drain", "--messages", "1", "--runs", "1", "--set", "relay.max_in_flihgt=1"]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("did you mean"), "{text}");
}

/// Processes that carry this word in their environment.
fn processes_of(word: &str) -> usize {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let environments = entries.filter_map(|entry| std::fs::read(entry.path().join("environ")).ok());
    environments.filter(|bytes| String::from_utf8_lossy(bytes).contains(word)).count()
}

#[tokio::test]
async fn nothing_outlives_a_bench_that_is_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    // A worker that nobody tells to end by closing its standard input.
    peer(directory.path(), "touch running; exec sleep 1000");
    let (mark, peer) =
        (format!("BENCH_MARK={}", directory.path().display()), directory.path().to_str().expect("UTF-8"));
    let mut bench = bench(&["drain", "--messages", "1", "--runs", "1", "--peer", peer]);
    let mut bench = bench.env("BENCH_MARK", directory.path()).spawn().expect("starts");
    eventually(PATIENCE, async || directory.path().join("running").exists()).await;
    // The bench itself, Postgres, the sink, the worker and those who wait for their ends.
    assert!(processes_of(&mark) >= 5);
    bench.kill().await.expect("is killed");
    eventually(PATIENCE, async || {
        let count = processes_of(&mark);
        if count == 0 { Ok(()) } else { Err(count) }
    })
    .await;
}
