//! Alerts provoked for real: a relay, a real Prometheus with `deploy/prometheus/alerts.yml`, and the runbook kept to
//! the letter until each is resolved. Minutes are seconds here: windows, thresholds and `for` are a sixtieth.
//!
//! By default what is over quickly; `HAPAX_DRILL=full` (`make drill`) plays all and prints a transcript. Must not set a
//! metric by itself: what fires, fires because of what happened.

#[path = "drill/quiet.rs"]
mod quiet;

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use hapax_sandbox::ReservedPort;
use hapax_testkit::{Fault, HapaxProcess, Phase, Script, eventually};
use hapax_tests::{
    keeper::Keeper,
    promtool,
    stage::{PATIENCE, Settings, Stage, running},
};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Longer than any alert takes to fire or to go, a minute of the breaker's pause included.
const LONG: Duration = PATIENCE.saturating_mul(2);

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What a server on this machine answers.
async fn get(port: u16, path: &str, header: &str) -> Result<String, String> {
    let problem = |error: std::io::Error| error.to_string();
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map_err(problem)?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.map_err(problem)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(problem)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(answer.as_str())?;
    if head.contains(" 200 ") { Ok(body.to_owned()) } else { Err(answer) }
}

/// What a program says to this input; it must end well.
fn piped(program: &Path, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    child.stdin.take().expect("it reads").write_all(input.as_bytes()).expect("it reads all of it");
    let done = child.wait_with_output().expect("it ends");
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(done.status.success(), "{}: {said}\n{input}", program.display());
    said.into_owned()
}

/// The rules that ship, with seconds for minutes.
fn quickened(rules: &str) -> String {
    let mut quick = String::new();
    for line in rules.lines() {
        let windows = [
            ("[15m]", "[15s]"),
            ("[2m]", "[2s]"),
            ("[10m]", "[10s]"),
            ("), 900)", "), 15)"),
            ("[1h]", "[60s]"),
            ("offset 15m", "offset 15s"),
            ("offset 1h", "offset 60s"),
        ];
        let line = windows.iter().fold(line.to_owned(), |line, (long, short)| line.replace(long, short));
        let line = match line.trim().strip_prefix("for: ") {
            Some("1h") => line.replace("1h", "60s"),
            Some(minutes) => line.replace(minutes, &minutes.replace('m', "s")),
            None => line,
        };
        let line = [("> 600", "> 10"), ("> 3600", "> 60"), ("> 900", "> 15"), ("> 120", "> 2")]
            .iter()
            .fold(line, |line, (long, short)| if line.ends_with(long) { line.replace(long, short) } else { line });
        quick.push_str(&line);
        quick.push('\n');
    }
    quick
}

/// A Prometheus that looks at one relay twice a second.
struct Watch {
    port: ReservedPort,
    begun: Instant,
    _server: Keeper,
    _directory: tempfile::TempDir,
}

impl Watch {
    async fn start(prometheus: &Path, relay: u16) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let write =
            |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("it can be written");
        let rules = std::fs::read_to_string(top().join("deploy/prometheus/alerts.yml")).expect("the alerts are there");
        write("alerts.yml", &quickened(&rules));
        write(
            "prometheus.yml",
            &format!(
                "global: {{ scrape_interval: 500ms, evaluation_interval: 500ms }}\nrule_files: [alerts.yml]\n\
                 scrape_configs: [{{ job_name: hapax, static_configs: [{{ targets: ['127.0.0.1:{relay}'] }}] }}]\n"
            ),
        );
        let port = ReservedPort::reserve().expect("a port");
        let mut command = Command::new(prometheus);
        command
            .arg(format!("--config.file={}", directory.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{}", port.number()));
        let server = Keeper::run(command, &directory.path().join("log"), None);
        let watch = Self { port, begun: Instant::now(), _server: server, _directory: directory };
        eventually(PATIENCE, async || watch.ask("/api/v1/alerts").await.map(drop)).await;
        watch
    }

    async fn ask(&self, path: &str) -> Result<Value, String> {
        let body = get(self.port.number(), path, "").await?;
        serde_json::from_str(&body).map_err(|error| error.to_string())
    }

    /// The alerts that fire.
    async fn firing(&self) -> BTreeSet<String> {
        let answer = self.ask("/api/v1/alerts").await.expect("Prometheus answers");
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing.filter_map(|alert| Some(alert["labels"]["alertname"].as_str()?.to_owned())).collect()
    }

    /// Waits until all of these fire, whatever else does.
    async fn fires(&self, names: &[&str]) {
        eventually(LONG, async || {
            let firing = self.firing().await;
            if names.iter().all(|name| firing.contains(*name)) { Ok(()) } else { Err(firing) }
        })
        .await;
        println!("{:>6.1} s  FIRING {}", self.begun.elapsed().as_secs_f64(), names.join(", "));
    }

    /// Waits until none fires.
    async fn resolved(&self) {
        eventually(LONG, async || {
            let firing = self.firing().await;
            if firing.is_empty() { Ok(()) } else { Err(firing) }
        })
        .await;
        println!("{:>6.1} s  resolved", self.begun.elapsed().as_secs_f64());
    }

    fn note(&self, what: &str) {
        println!("{:>6.1} s  {what}", self.begun.elapsed().as_secs_f64());
    }
}

/// A command of the runbook, as the person on call types it.
async fn typed(watch: &Watch, operator: &Settings, command: &[&str]) -> String {
    let (code, said) = operator.command(command.iter().copied()).await;
    assert_eq!(code, 0, "hapax {}: {said}", command.join(" "));
    watch.note(&format!("$ hapax {}", command.join(" ")));
    for line in said.lines().take(14) {
        println!("          | {}", line.trim_end());
    }
    said
}

struct Drill {
    stage: Stage,
    settings: Settings,
    operator: Settings,
    relay: HapaxProcess,
    port: ReservedPort,
    watch: Watch,
}

impl Drill {
    /// All is well, and Prometheus sees it. `None` where there is no Prometheus.
    async fn begin() -> Option<Self> {
        let prometheus = top().join("target/operations/prometheus");
        if !prometheus.exists() {
            assert!(std::env::var_os("HAPAX_TESTS_ALL").is_none(), "tests/operations/setup has not run");
            eprintln!("SKIPPED: {} is missing (hint: tests/operations/setup)", prometheus.display());
            return None;
        }
        let stage = Stage::set().await;
        let port = ReservedPort::reserve().expect("a port");
        let listen = format!("127.0.0.1:{}", port.number());
        let settings = stage.settings().set("http.listen", listen);
        let relay = settings.run().await;
        let operator = stage.settings_of("operator");
        let watch = Watch::start(&prometheus, port.number()).await;
        stage.enqueue_one("before@example.org", "").await;
        stage.until_state("before@example.org", "sent").await;
        eventually(PATIENCE, async || {
            let up = watch.ask("/api/v1/query?query=hapax_relays_alive").await?;
            if up["data"]["result"][0]["value"][1] == "1" { Ok(()) } else { Err(up.to_string()) }
        })
        .await;
        watch.resolved().await;
        Some(Self { stage, settings, operator, relay, port, watch })
    }

    /// Every metric is the one that alerts and dashboard are written for.
    async fn the_metrics_are_those_of_the_list(&self) {
        let port = self.port.number();
        let open = "Accept: application/openmetrics-text; version=1.0.0\r\n";
        let text = get(port, "/metrics", open).await.expect("the relay answers");
        // There is none before a mail server has shown one, nor for a route without a rate.
        let compare = top().join("tests/operations/exposition.py");
        let said = piped(&compare, &["hapax_certificate_expiry_timestamp_seconds", "hapax_route_rate_limit"], &text);
        assert!(said.contains("every metric is as listed"), "{said}");
        let plain = get(port, "/metrics", "").await.expect("the relay answers");
        let (fine, said) = promtool::check_metrics(&promtool::find().expect("it was unpacked"), &plain);
        assert!(fine && said.trim().is_empty(), "{said}");
        self.watch.note("every metric is as listed, and promtool finds nothing wrong");
    }

    async fn the_database_goes_away_and_comes_back(&mut self) {
        self.watch.note("Postgres is killed");
        self.stage.cluster.kill_immediate().await.expect("killed");
        self.watch.fires(&["HapaxDatabaseUnreachable"]).await;
        self.stage.cluster.restart().await.expect("restarted");
        self.stage.reconnect().await;
        self.watch.note("Postgres is back");
        self.watch.resolved().await;
    }

    async fn the_last_relay_ends_and_is_started_again(&mut self) {
        self.relay.sigterm();
        assert!(self.relay.wait_exit(PATIENCE).await.success(), "{}", self.relay.report());
        self.watch.note("the relay has ended");
        self.watch.fires(&["HapaxRelayMissing", "HapaxRelayNotScraped"]).await;
        let said = typed(&self.watch, &self.operator, &["status"]).await;
        assert!(said.contains("start one: hapax run"), "{said}");
        self.relay = self.settings.spawn();
        running(&self.relay).await;
        self.watch.note("$ systemctl start hapax");
        self.watch.resolved().await;
    }

    async fn the_database_is_restored_to_an_earlier_time(&mut self) {
        self.stage.cluster.take_snapshot().await.expect("a snapshot");
        self.stage.reconnect().await;
        self.watch.resolved().await;
        self.stage.enqueue(20).await;
        self.stage.until_settled().await;
        self.stage.cluster.restore_snapshot().await.expect("restored");
        self.stage.reconnect().await;
        self.watch.note("20 notifications later Postgres is restored to what it was before them");
        self.watch.fires(&["HapaxNoProgress"]).await;
        self.relay.wait_for_line(|line| line.contains("guard mode")).await;
        typed(&self.watch, &self.operator, &["arm", "--reason", "restored on purpose"]).await;
        typed(&self.watch, &self.operator, &["ls", "--state", "held"]).await;
        self.watch.resolved().await;
        self.stage.enqueue_one("after@example.org", "").await;
        self.stage.until_state("after@example.org", "sent").await;
    }

    async fn the_mail_server_is_down(&mut self) {
        self.stage.server.stop().await;
        self.watch.note("the mail server is stopped; 30 notifications are enqueued");
        self.stage.enqueue(30).await;
        self.watch.fires(&["HapaxRouteBlocked", "HapaxPendingOld"]).await;
        typed(&self.watch, &self.operator, &["status"]).await;
        let said = typed(&self.watch, &self.operator, &["ls", "--state", "pending", "--limit", "20"]).await;
        assert!(said.contains("pending"), "{said}");
        self.watch.note("an application enqueues 1,200 more");
        self.stage.enqueue(1_200).await;
        self.watch.fires(&["HapaxBacklogGrowing"]).await;
        self.stage.server.restart().await;
        self.watch.note("the mail server is back");
        self.watch.resolved().await;
        self.stage.until_settled().await;
    }

    async fn the_mail_server_breaks_connections_at_the_end_of_messages(&mut self) {
        self.stage.server.script(Script::fault(Phase::EndMarker { took: true }, Fault::Eof));
        self.stage.enqueue(25).await;
        self.watch.note("the mail server breaks 25 connections after the end of a message");
        self.watch.fires(&["HapaxDoubtBurst"]).await;
        self.stage.server.script(Script::good());
        self.watch.fires(&["HapaxInDoubtOld"]).await;
        let said = typed(&self.watch, &self.operator, &["ls", "--in-doubt"]).await;
        assert!(said.contains("127.0.0.1"), "{said}");
        typed(&self.watch, &self.operator, &["resolve", "--all", "sent", "--reason", "in the log of the server"]).await;
        self.watch.resolved().await;
        assert_eq!(self.stage.count("SELECT count(*) FROM outbox.in_doubt").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_fires_its_alert_and_the_runbook_ends_it() {
    let Some(mut drill) = Drill::begin().await else { return };
    drill.the_metrics_are_those_of_the_list().await;
    drill.the_database_goes_away_and_comes_back().await;
    drill.the_last_relay_ends_and_is_started_again().await;
    if std::env::var("HAPAX_DRILL").is_ok_and(|drill| drill == "full") {
        drill.the_database_is_restored_to_an_earlier_time().await;
        drill.the_mail_server_is_down().await;
        drill.the_mail_server_breaks_connections_at_the_end_of_messages().await;
        drill.a_new_configuration_is_refused().await;
        drill.the_certificate_of_a_mail_server_ends_in_five_days().await;
        drill.the_clock_of_a_relay_is_wrong().await;
        drill.the_canary_does_not_come_through().await;
    }
    drill.stage.server.ledger().assert_none_accepted_twice();
}

#[test]
fn only_times_differ_from_the_rules_that_ship() {
    let rules = std::fs::read_to_string(top().join("deploy/prometheus/alerts.yml")).expect("the alerts are there");
    let quick = quickened(&rules);
    assert_eq!(rules.lines().count(), quick.lines().count());
    let changed = rules.lines().zip(quick.lines()).filter(|(ships, played)| ships != played).count();
    assert!((15..40).contains(&changed), "{changed}");
    for word in
        ["[15s]", "[2s]", "[60s]", "offset 15s", "offset 60s", "> 10", "> 60", "for: 5s", "for: 60s", "14 * 86400"]
    {
        assert!(quick.contains(word), "{word}\n{quick}");
    }
    assert!(!quick.lines().any(|line| line.trim().starts_with("for: ") && line.ends_with('m')), "{quick}");
}
