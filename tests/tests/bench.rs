//! `hapax bench` measures what it says it measures: its figures agree with each other and with the sink's count, every
//! contender gets its turns, and nothing outlives it.
//!
//! The numbers are tiny and nothing is said about how fast anything is.

use std::path::Path;
use std::process::Output;

use hapax_testkit::{eventually, find_hapax};
use hapax_tests::stage::PATIENCE;
use serde_json::{Value, json};
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

/// A peer's name, its worker and what its description has besides.
type Described<'a> = (&'a str, String, &'a [(&'a str, Value)]);

/// All messages are done.
const MARK: &str = "psql -q \"$DATABASE_URL\" -c \"UPDATE $TABLE SET done = ${DONE:-true}\"";
const SEND: &str = "PATH=$PATH:/usr/sbin smtp-source -l 2048 -m $BENCH_N $SMTP_HOST:$SMTP_PORT";

/// Another outbox relay, of a sort.
fn peer(directory: &Path, worker: &str) {
    peer_named("marker", directory, worker, &[]);
}

fn peer_named(name: &str, directory: &Path, worker: &str, more: &[(&str, Value)]) {
    let mut description = serde_json::json!({
        "name": name,
        "db": "bench_marker",
        "env": { "TABLE": "letters" },
        "setup_sql": ["setup.sql"],
        "enqueue_sql": "INSERT INTO letters (letter) VALUES (%(payload)s::jsonb)",
        "worker": ["/bin/sh", "-c", worker],
        "remaining_sql": "SELECT count(*) FROM letters WHERE NOT done",
    });
    for (key, value) in more {
        description[key] = value.clone();
    }
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
    peer(directory.path(), &format!("{SEND} && {MARK}; exec sleep 1000"));
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
    let failing = directory.path().to_str().expect("UTF-8");
    let directory = tempfile::tempdir().expect("a directory");
    peer(directory.path(), &format!("{MARK}; exec sleep 1000"));
    let liar = format!("{} DONE=true", directory.path().display());
    let words = ["drain", "--messages", "20", "--runs", "1", "--variant", "relay.max_in_flight=2"];
    let words = [&words[..], &["--sink", "smtp-sink", "--peer", failing, "--peer", &liar]].concat();
    let output = run(&words).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("failed: run 1 of marker #1: ") && text.contains("out of order"), "{text}");
    let lie = "failed: run 1 of marker DONE=true: 20 messages are done, but the sink has read only 0 bytes";
    assert!(text.contains(lie), "{text}");
    for name in ["hapax ", "relay.max_in_flight=2 "] {
        let row = text.lines().find(|line| line.starts_with(name)).expect("a row");
        let ratio = row.split_whitespace().last().and_then(|word| word.parse::<f64>().ok());
        assert!(ratio.is_some_and(|ratio| ratio > 0.0), "{row}");
    }
}

#[tokio::test]
async fn mail_that_is_only_said_to_be_sent_is_missing_and_a_run_that_fails_shows_its_own_log() {
    let (liar, failing) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    peer(liar.path(), &format!("{MARK}; exec sleep 1000"));
    peer(failing.path(), "echo word-$(ls -d said* 2>/dev/null | wc -l) >&2; touch said-$$; exit 3");
    let [liar, failing] = [&liar, &failing].map(|directory| directory.path().to_str().expect("UTF-8"));
    let liar = format!("{liar} DONE=true");
    let peers = [&liar, failing].map(|peer| ["--peer", peer]);
    let words = ["drain", "--messages", "20", "--runs", "2", "--sink", "own", "--json"];
    let output = run(&[&words[..], peers.as_flattened()].concat()).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let results: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let [ours, lie, first, _, _, second] = runs(&results) else { panic!("{results}") };
    assert!(ours["error"].is_null() && figure(ours, "delivered") == 20.0, "{ours}");
    let error = |run: &Value| run["error"].as_str().unwrap_or_default().to_owned();
    assert!(error(lie).contains("20 messages are done, but the sink has 0"), "{lie}");
    assert!(results["summary"]["marker DONE=true"]["rate"].is_null(), "it has no rate: {results}");
    let (first, second) = (error(first), error(second));
    assert!(first.contains("word-0") && second.contains("word-1") && !second.contains("word-0"), "{first} {second}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("error: drain: 4 of 6 runs failed; run 1 of marker DONE=true: 20 messages"), "{said}");
}

/// A program that does this when it is asked about its configuration, and that for every other command.
fn pretender(directory: &Path, then: &str, check: &str) -> String {
    let script = format!("#!/bin/sh\ncase $1 in check) {check} ;; *) {then} ;; esac\n");
    let path = directory.join("pretender");
    std::fs::write(&path, script).expect("a file");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    path.to_str().expect("UTF-8").to_owned()
}

#[tokio::test]
async fn a_step_before_the_run_takes_no_longer_than_patience_allows() {
    let directory = tempfile::tempdir().expect("a directory");
    let other = pretender(directory.path(), "echo waiting >&2; sleep 1000", "echo '{\"ok\": true}'");
    let words = ["drain", "--messages", "5", "--runs", "1", "--patience", "4s", "--against", &other];
    let output = tokio::time::timeout(PATIENCE, run(&words)).await.expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let expected = format!("{other} migrate up did not end within 4s; the end of what it said:\nwaiting");
    assert!(text.contains(&expected), "{text}");
}

#[tokio::test]
async fn a_contender_is_done_when_its_database_says_so_and_what_it_does_besides_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut words = vec!["drain", "--messages", "20", "--runs", "1", "--patience", "60s", "--json"];
    let oneshot =
        [("oneshot", json!(true)), ("remaining_sql", json!("SELECT count(*)::numeric FROM letters WHERE NOT done;"))];
    let slow = [("remaining_sql", json!("SELECT count(*) FROM letters, pg_sleep(1) WHERE NOT done"))];
    let null = [("remaining_sql", json!("SELECT NULL"))];
    let peers: [Described<'_>; 5] = [
        ("lingers", format!("{SEND} && {MARK}; exec sleep 1000"), &oneshot),
        ("strays", format!("setsid sleep 1000 & {SEND} && {MARK}; exec sleep 1000"), &[]),
        ("crashes", format!("{SEND} && {MARK}; exit 7"), &[]),
        ("slow", format!("{SEND} && {MARK}; exec sleep 1000"), &slow),
        ("knows nothing", "exec sleep 1000".to_owned(), &null),
    ];
    let paths: Vec<String> =
        peers.iter().map(|(name, ..)| directory.path().join(name.replace(' ', "-")).display().to_string()).collect();
    for ((name, worker, more), path) in peers.iter().zip(&paths) {
        std::fs::create_dir(path).expect("a directory");
        peer_named(name, Path::new(path), worker, more);
        words.extend(["--peer", path]);
    }
    let mark = format!("BENCH_MARK={}", directory.path().display());
    let output = bench(&words).env("BENCH_MARK", directory.path()).output().await.expect("runs");
    let results: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let [_, lingers, strays, crashes, slow, nothing] = runs(&results) else { panic!("{results}") };
    assert_eq!((lingers["error"].as_str(), figure(lingers, "messages")), (None, 20.0), "{lingers}");
    assert!(figure(lingers, "wall_s") < 60.0, "its end is not waited for: {lingers}");
    for (run, told) in [
        (strays, "1 of its processes had left its process group"),
        (crashes, "a worker ended by itself (exit status: 7)"),
        (slow, "looking at what is left took "),
        (nothing, "remaining_sql of knows nothing"),
    ] {
        assert!(run["error"].as_str().is_some_and(|error| error.contains(told)), "{told}: {run}");
    }
    assert_eq!(processes_of(&mark), 0, "what had left its group is ended, too");
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
    let directory = tempfile::tempdir().expect("a directory");
    let described = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir(&path).expect("a directory");
        std::fs::write(path.join("peer.json"), text).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let list = described("list", "[]");
    let misspelt = described("misspelt", r#"{ "name": "x", "db": "bench_x", "remaning_sql": "SELECT 0" }"#);
    let shared =
        r#"{ "name": "x", "db": "postgres", "enqueue_sql": "", "worker": ["no-such-worker"], "remaining_sql": "" }"#;
    let (shared, gone) = (described("shared", shared), described("gone", &shared.replace("postgres", "bench_x")));
    let old = pretender(directory.path(), "true", "echo unknown option >&2; exit 2");
    let cases: [(&[&str], &str); 25] = [
        (&["drain", "--peer", &list], "peer.json holds no object"),
        (&["drain", "--peer", &misspelt], "remaning_sql is no key of it, did you mean remaining_sql?"),
        (&["drain", "--peer", &shared], "db = \"postgres\" cannot be its database"),
        (&["drain", "--peer", &gone], "peer.json of x: there is no program \"no-such-worker\""),
        (
            &["drain", "--set", "relay.max_in_flihgt=1"],
            "error: --set relay.max_in_flihgt=1: unknown key\nhint: did you mean",
        ),
        (&["latency", "--variant", "relay.lease=0s"], "--variant \"relay.lease=0s\": relay.lease=0s: must be between"),
        (&["remote-link", "--set", "relay.nope=1"], "error: --set relay.nope=1: unknown key"),
        (&["drain", "--set", "database.url=postgres://elsewhere/"], "database.url is the benchmark's own"),
        (&["drain", "--set", "relay.lease=50s", "--set", "relay.lease=60s"], "--set relay.lease: it is set twice"),
        (
            &["drain", "--against", "/bin/true"],
            "--against /bin/true: it does not answer `check --json` as a hapax does (exit status: 0); it said nothing",
        ),
        (
            &["drain", "--against", "/etc/passwd"],
            "--against /etc/passwd: could not start /etc/passwd: Permission denied",
        ),
        (&["drain", "--config", "hapax.toml"], "--config: hapax bench uses neither a configuration nor a database"),
        (&["enqueue", "--sink", "own"], "unexpected argument '--sink'"),
        (&["enqueue", "--clients", "2,1,2"], "--clients: 2 is there twice"),
        (&["remote-link", "--connections", "4,4"], "--connections: 4 is there twice"),
        (&["remote-link", "--round-trip", "1h"], "is longer than a minute"),
        (&["drain", "--variant", "relay.max_in_flight="], "sets nothing: write a value behind the ="),
        (
            &["drain", "--against", &old],
            "check --json` as a hapax does (exit status: 2); the end of what it said:\nunknown",
        ),
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
async fn results_that_cannot_be_written_are_no_success() {
    let full = std::fs::File::options().write(true).open("/dev/full").expect("there is one");
    let mut command = Command::new(find_hapax());
    command.args(["config", "schema"]).stdout(full).stderr(std::process::Stdio::piped());
    let output = command.spawn().expect("starts").wait_with_output().await.expect("ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error: could not write to standard output: No space left"), "{said}");
}

#[tokio::test]
async fn an_aside_that_cannot_be_written_ends_no_command() {
    let full = std::fs::File::options().write(true).open("/dev/full").expect("there is one");
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("hapax.toml");
    // Advice: all mail goes to one place.
    let text = "[guards]\nredirect_all_to = \"me@example.com\"\n[routes.default]\nurl = \"smtp://127.0.0.1:25\"\nfrom = \"a@example.com\"\n";
    std::fs::write(&config, text).expect("writes");
    let mut command = Command::new(find_hapax());
    command.args(["check", "--database-url", "postgres://localhost/none", "--config"]).arg(&config);
    let told = command.output().await.expect("runs");
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.status.success() && said.contains("warning: "), "{said}");
    let unheard = command.stdout(std::process::Stdio::null()).stderr(full).status().await.expect("runs");
    assert!(unheard.success(), "{unheard}");
}

#[tokio::test]
async fn a_place_for_temporary_files_that_is_none_is_named() {
    let output = bench(&["enqueue"]).env("TMPDIR", "/nowhere").output().await.expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("in /nowhere: ") && said.contains("hint: set TMPDIR to a directory"), "{said}");
}

#[tokio::test]
async fn a_bench_that_is_told_to_end_leaves_nothing_and_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    // The server runs as somebody else where we are root.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).expect("ours");
    let mark = format!("BENCH_MARK={}", directory.path().display());
    let found = |name: &str| {
        let entries = std::fs::read_dir(directory.path()).expect("a directory").flatten();
        entries.map(|entry| entry.path()).find(|path| path.file_name().is_some_and(|known| matches(known, name)))
    };
    for signal in ["TERM", "HUP", "INT"] {
        let mut bench = bench(&["enqueue", "--seconds", "1000"]);
        bench.env("BENCH_MARK", directory.path()).env("TMPDIR", directory.path());
        let child = bench.stderr(std::process::Stdio::piped()).spawn().expect("starts");
        let migrating = async || found("hapax-bench-").is_some_and(|path| path.join("hapax-migrate.log").exists());
        eventually(PATIENCE, migrating).await;
        let pid = child.id().expect("it runs").to_string();
        Command::new("kill").args([&format!("-{signal}"), &pid]).status().await.expect("there is kill");
        let output = child.wait_with_output().await.expect("ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{signal}: {said}");
        assert!(said.starts_with("error: interrupted"), "{signal}: {said}");
        assert_eq!(found("hapax-bench-").or_else(|| found("hapax-pg-")), None, "{signal}");
        eventually(PATIENCE, async || processes_of(&mark) == 0).await;
    }
}

/// A temporary directory of this sort; templates stay on purpose.
fn matches(name: &std::ffi::OsStr, start: &str) -> bool {
    let name = name.to_string_lossy();
    name.starts_with(start) && !name.contains("template")
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
