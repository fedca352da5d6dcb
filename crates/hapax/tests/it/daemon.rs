//! `migrate`, `run` and the console commands against a real database.

use std::{path::Path, process::Stdio};

use hapax_sandbox::PgCluster;
use hapax_testkit::migrations_recipe;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr},
};

use crate::support::{Ended, hapax, run, run_in, wait};

/// A cluster with an empty database.
async fn database() -> (PgCluster, String) {
    let cluster = PgCluster::start().await.expect("a cluster");
    let url = cluster.create_database("shop").await.expect("a database");
    (cluster, url)
}

async fn migrated() -> (PgCluster, String) {
    let fill = async |cluster: &PgCluster| {
        let url = cluster.create_database("shop").await.expect("a database");
        assert_eq!(run(&["migrate", "up", "--database-url", &url], &[]).await.code, 0);
        Ok(())
    };
    let cluster = PgCluster::builder().start_prepared(&migrations_recipe("shop"), fill).await.expect("a cluster");
    let url = cluster.url_for("shop", "postgres");
    (cluster, url)
}

fn configure(directory: &Path, url: &str) {
    let text = format!(
        "[database]\nurl = \"{url}\"\n[routes.default]\nurl = \"capture:{}/mail\"\nfrom = \"Shop <shop@example.org>\"\n",
        directory.display()
    );
    std::fs::write(directory.join("hapax.toml"), text).expect("written");
}

/// A daemon whose log is read.
struct Daemon {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Daemon {
    fn start(directory: &Path) -> Self {
        let mut child = hapax(directory, &["run"], &[]).stdin(Stdio::null()).spawn().expect("starts");
        let log = BufReader::new(child.stderr.take().expect("a log")).lines();
        Self { child, log }
    }

    /// Reads the log up to a line with these words.
    async fn says(&mut self, words: &str) -> serde_json::Value {
        while let Some(line) = self.log.next_line().await.expect("a log") {
            if line.contains(words) {
                return serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            }
        }
        panic!("it ended without saying {words:?}");
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw).expect("it lives");
        kill_process(pid, signal).expect("sent");
    }

    async fn end(mut self) -> Ended {
        // Whatever it still says must not fill the pipe.
        while self.log.next_line().await.expect("a log").is_some() {}
        wait(self.child).await
    }
}

#[tokio::test]
async fn migrate_applies_lists_and_verifies() {
    let (_cluster, url) = database().await;
    let args = |command| ["migrate", command, "--database-url", url.as_str()];
    let before = run(&args("verify"), &[]).await;
    assert_eq!(before.code, 1);
    assert!(before.stderr.contains("hint: hapax migrate up"), "{}", before.stderr);
    let up = run(&args("up"), &[]).await;
    assert_eq!(up.code, 0, "{}", up.stderr);
    assert!(up.stdout.starts_with("applied 0001_schema.sql\napplied 0002_tables.sql\n"), "{}", up.stdout);
    assert_eq!(run(&args("up"), &[]).await.stdout, "nothing to do: the schema is up to date\n");
    assert_eq!(run(&args("verify"), &[]).await.code, 0);
    let status = run(&args("status"), &[]).await;
    assert!(status.stdout.contains("0001_schema.sql") && !status.stdout.contains("pending"), "{}", status.stdout);
}

#[tokio::test]
async fn a_migration_that_was_edited_is_found_by_verify_and_refused_by_run() {
    let (cluster, url) = migrated().await;
    cluster.execute("shop", "UPDATE outbox.migration SET checksum = 'x' WHERE version = 1").await.expect("updated");
    let verify = run(&["migrate", "verify", "--database-url", &url], &[]).await;
    assert_eq!(verify.code, 1);
    assert!(verify.stderr.contains("error: migration 0001_schema.sql was changed after it was applied\nhint: "));
    let directory = tempfile::tempdir().expect("a directory");
    configure(directory.path(), &url);
    assert_eq!(run_in(directory.path(), &["run"], &[]).await.code, 78);
}

#[tokio::test]
async fn run_refuses_a_database_without_or_with_half_an_outbox_and_names_the_command() {
    let (cluster, url) = database().await;
    let directory = tempfile::tempdir().expect("a directory");
    configure(directory.path(), &url);
    let without = run_in(directory.path(), &["run"], &[]).await;
    assert_eq!(without.code, 78, "{}", without.stderr);
    assert!(without.stderr.contains("error: there is no outbox in this database\nhint: hapax migrate up"));
    assert_eq!(run(&["migrate", "up", "--database-url", &url], &[]).await.code, 0);
    cluster.execute("shop", "DELETE FROM outbox.migration WHERE version = 7").await.expect("deleted");
    let half = run_in(directory.path(), &["run"], &[]).await;
    assert_eq!(half.code, 78);
    assert!(half.stderr.contains("error: the schema lacks migrations 0007_decide.sql\nhint: hapax migrate up"));
}

#[tokio::test]
async fn run_waits_for_its_database_delivers_and_ends_on_sigterm() {
    let (cluster, url) = migrated().await;
    let directory = tempfile::tempdir().expect("a directory");
    configure(directory.path(), &url);
    cluster.stop().await.expect("stopped");
    let mut daemon = Daemon::start(directory.path());
    daemon.says("waiting for the database").await;
    cluster.restart().await.expect("restarted");
    daemon.says("the relay is running").await;
    let enqueue = "SELECT outbox.enqueue('welcome', ARRAY['Ada <ada.canary@example.org>'], subject => 'Hi', body_text => 'there')";
    cluster.execute("shop", enqueue).await.expect("enqueued");
    let sent = daemon.says("\"sent\"").await;
    assert!(!sent.to_string().contains("canary"), "an address in the log: {sent}");
    assert!(directory.path().join("mail/00000001.eml").is_file());
    daemon.signal(Signal::HUP);
    daemon.says("SIGHUP").await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().await.code, 0);
}

#[tokio::test]
async fn a_relay_that_meets_another_database_than_it_was_armed_for_stays_says_what_to_type_and_ends_with_a_signal() {
    let (cluster, url) = migrated().await;
    let directory = tempfile::tempdir().expect("a directory");
    configure(directory.path(), &url);
    let mut daemon = Daemon::start(directory.path());
    daemon.says("the relay is running").await;
    cluster.execute("shop", "UPDATE outbox.control SET identity = '1/00000001/1'").await.expect("another server");
    daemon.says("hapax arm --reason 'why'; this relay goes on by itself").await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().await.code, 0);
}

#[tokio::test]
async fn a_signal_ends_a_daemon_that_still_waits_for_its_database() {
    let directory = tempfile::tempdir().expect("a directory");
    configure(directory.path(), "postgres://u@127.0.0.1:1/x");
    let mut daemon = Daemon::start(directory.path());
    daemon.says("waiting for the database").await;
    daemon.signal(Signal::INT);
    assert_eq!(daemon.end().await.code, 0);
}

#[tokio::test]
async fn deliveries_are_listed_shown_and_decided_without_addresses() {
    let (cluster, url) = migrated().await;
    let client = cluster.client("shop").await.expect("a client");
    let enqueue = "SELECT outbox.enqueue('welcome', ARRAY['Ada <ada.canary@example.org>', 'b.canary@example.org'], subject => 'Hi', body_text => 'x')::text";
    let id: String = client.query_one(enqueue, &[]).await.expect("enqueued").get(0);
    let with =
        |args: &[&str]| args.iter().chain(&["--database-url", &url]).map(ToString::to_string).collect::<Vec<_>>();
    let mut said = String::new();
    let expected: [(&[&str], i32, &str); 15] = [
        (&["status"], 0, "pending              2"),
        (&["ls"], 0, "a***@example.org"),
        (&["ls", "--in-doubt"], 0, "nothing is in doubt"),
        (&["ls", "--in-doubt", "--kind", "nope"], 0, "no doubt has kind nope"),
        (&["ls", "--state", "sent"], 0, "no such deliveries"),
        (&["ls", "--kind", "welcome", "--limit", "1"], 0, "welcome"),
        (&["show", &id], 0, "Waits for a relay: due since"),
        (&["hold", &id, "--reason", "wait for it"], 0, "/1  held"),
        (&["show", &id], 0, "because \"wait for it\". Nothing is sent until somebody decides: hapax release"),
        (&["retry", &id, "--reason", "x"], 1, "release it with hapax release"),
        (&["release", &id, "--reason", "go"], 0, "/2  pending"),
        (&["cancel", &id, "--reason", "b.canary@example.org asked"], 0, "/1  cancelled"),
        (&["cancel", &id, "--reason", "again"], 0, "already cancelled"),
        (&["show", &format!("{id}/2")], 0, "Not sent: cancelled by session user"),
        (&["resolve", &format!("{id}/1"), "sent", "--reason", "x"], 0, "nothing to resolve: it is cancelled"),
    ];
    for (args, code, words) in expected {
        let args = with(args);
        let ended = run(&args.iter().map(String::as_str).collect::<Vec<_>>(), &[]).await;
        assert_eq!(ended.code, code, "{args:?}\n{}{}", ended.stdout, ended.stderr);
        assert!(ended.stdout.contains(words), "{args:?}\n{}", ended.stdout);
        said.push_str(&ended.stdout);
        said.push_str(&ended.stderr);
    }
    assert!(!said.contains("canary"), "an address was shown:\n{said}");
    for command in ["hold", "cancel", "release", "retry", "show"] {
        let unknown = "0199aa3e-6f0c-7d2e-9b6f-0d8f3a1c2b4d";
        let mut args = vec![command, unknown];
        if command != "show" {
            args.extend(["--reason", "x"]);
        }
        let args = with(&args);
        let ended = run(&args.iter().map(String::as_str).collect::<Vec<_>>(), &[]).await;
        assert_eq!(ended.code, 1, "{command}");
        assert!(ended.stderr.contains("there is no delivery 0199aa3e"), "{command}: {}", ended.stderr);
        assert!(ended.stderr.contains("hapax ls"), "{command}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn every_reading_command_speaks_json() {
    let (cluster, url) = migrated().await;
    let client = cluster.client("shop").await.expect("a client");
    let enqueue = "SELECT outbox.enqueue('welcome', ARRAY['ada@example.org'], subject => 'Hi', body_text => 'x')::text";
    let id: String = client.query_one(enqueue, &[]).await.expect("enqueued").get(0);
    let cases: [&[&str]; 8] = [
        &["status", "--json"],
        &["ls", "--json"],
        &["ls", "--in-doubt", "--json"],
        &["show", &id, "--json"],
        &["explain", &id, "--json"],
        &["migrate", "status", "--json"],
        &["migrate", "verify", "--json"],
        &["hold", &id, "--reason", "x", "--json"],
    ];
    for args in cases {
        let args: Vec<&str> = args.iter().copied().chain(["--database-url", &url]).collect();
        let ended = run(&args, &[]).await;
        assert_eq!(ended.code, 0, "{args:?}: {}", ended.stderr);
        let json: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
        assert!(json.is_object() || json.is_array());
    }
}

#[tokio::test]
async fn a_log_reader_that_goes_away_or_stops_reading_stops_no_relay() {
    let (cluster, url) = migrated().await;
    // Far more lines than a pipe holds, one for each delivery.
    let enqueue = "SELECT outbox.enqueue(kind => 'note', recipients => ARRAY['r' || i || '@example.org'], subject => 's', body_text => 't')
                   FROM generate_series(1, 600) i";
    for reads_nothing in [true, false] {
        cluster.execute("shop", enqueue).await.expect("enqueues");
        let directory = tempfile::tempdir().expect("a directory");
        configure(directory.path(), &url);
        let mut daemon = Daemon::start(directory.path());
        daemon.says("the relay is running").await;
        let Daemon { mut child, log } = daemon;
        // Either the pipe stays open and fills, or its other end is closed.
        let _open = reads_nothing.then_some(log);
        let client = cluster.client("shop").await.expect("a client");
        hapax_testkit::eventually(std::time::Duration::from_secs(60), async || {
            let left: i64 = client.query_one("SELECT count(*) FROM outbox.queue", &[]).await.expect("counts").get(0);
            (left == 0).then_some(()).ok_or(left)
        })
        .await;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw).expect("it lives");
        kill_process(pid, Signal::TERM).expect("sent");
        let ended = tokio::time::timeout(std::time::Duration::from_secs(30), child.wait()).await.expect("it ends");
        assert_eq!(ended.expect("waited for").code(), Some(0), "reads nothing: {reads_nothing}");
    }
}
