//! What machines and people see of a running relay: probes, metrics, closing lines. Real processes, a real database, the
//! scripted mail server; the figures are compared with its ledger and with that of the outbox.

use std::collections::BTreeMap;

use hapax_testkit::{Fault, HapaxProcess, Phase, ReservedPort, Rule, Script, SmtpServer, eventually};
use hapax_tests::probe::Probe;
use hapax_tests::promtool;
use hapax_tests::stage::{PATIENCE, Settings, Stage};
use tokio::io::AsyncReadExt as _;

const ATTEMPTS: [&str; 5] = ["accepted", "refused", "deferred", "not_sent", "unknown"];
const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";

fn watched(stage: &Stage) -> Settings {
    stage.settings().set("http.listen", "127.0.0.1:0")
}

fn attempts(outcome: &str) -> String {
    format!("attempts_total{{route=\"default\",outcome=\"{outcome}\"}}")
}

/// Waits until `path` is answered with `status`; answers the body.
async fn until_status(probe: &Probe, path: &str, status: u16) -> String {
    eventually(PATIENCE, async || {
        let answer = probe.get(path).await;
        if answer.status == status { Ok(answer.body) } else { Err(answer) }
    })
    .await
}

/// The closing lines of a relay's attempts, as JSON.
fn closing_lines(relay: &HapaxProcess) -> Vec<serde_json::Value> {
    let lines = relay.lines();
    let parsed = lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    parsed.filter(|line| line.get("attempt.token").is_some() && line.get("verdict").is_some()).collect()
}

/// The same when there are so many: they follow the commits of their outcomes.
async fn until_closed(relay: &HapaxProcess, attempts: i64) -> Vec<serde_json::Value> {
    eventually(PATIENCE, async || {
        let lines = closing_lines(relay);
        if lines.len() as i64 >= attempts { Ok(()) } else { Err(lines) }
    })
    .await;
    closing_lines(relay)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_series_is_there_from_the_start_and_the_counters_equal_the_ledgers() {
    let rule = |recipient: &str, phase, fault| Rule::at(phase, fault).recipient(recipient).times(1);
    let script = Script::rules([
        rule("r1@example.org", Phase::Rcpt, Fault::Reply5xx),
        rule("r2@example.org", Phase::EndMarker { took: true }, Fault::Eof),
        rule("r3@example.org", Phase::Rcpt, Fault::Reply4xx),
        rule("r4@example.org", Phase::EndMarker { took: false }, Fault::Reply5xx),
    ]);
    let stage = Stage::with(SmtpServer::builder().script(script).start()).await;
    let relay = watched(&stage).run().await;
    let probe = Probe::of(&relay).await;
    let start = probe.scrape().await;
    for outcome in ATTEMPTS {
        assert_eq!(start.value(&attempts(outcome)), 0.0);
    }
    for series in [
        "in_doubt_total{route=\"default\",phase=\"end_marker\"}",
        "in_doubt_total{route=\"default\",phase=\"body\"}",
        "claims_total",
        "time_to_accept_seconds_count",
        "ledger_commit_duration_seconds_count{step=\"settle\"}",
        "smtp_connections{route=\"default\",state=\"busy\"}",
        "route_blocked{route=\"default\"}",
    ] {
        assert_eq!(start.value(series), 0.0, "{series}");
    }
    stage.enqueue(60).await;
    stage.until_settled().await;
    assert_eq!((stage.states().await["sent"], stage.states().await["in_doubt"]), (57, 1));
    let end = probe.scrape().await;
    let rows = stage.sql.query("SELECT outcome, count(*) FROM outbox.attempt GROUP BY outcome", &[]).await;
    let ledger: BTreeMap<String, i64> = rows.expect("attempts").iter().map(|row| (row.get(0), row.get(1))).collect();
    for outcome in ATTEMPTS {
        let recorded = ledger.get(outcome).copied().unwrap_or(0) as f64;
        assert_eq!(end.value(&attempts(outcome)), recorded, "{outcome}: {ledger:?}");
    }
    assert_eq!((ledger["refused"], ledger["deferred"], ledger["unknown"]), (2, 1, 1), "{ledger:?}");
    let server = stage.server.with_ledger(|ledger| ledger.totals());
    let (accepted, unknown) = (end.value(&attempts("accepted")), end.value(&attempts("unknown")));
    assert_eq!(accepted + unknown, server.accepted as f64, "what the server took was accepted here or is in doubt");
    assert_eq!(end.value("in_doubt_total{route=\"default\",phase=\"end_marker\"}"), 1.0);
    assert_eq!(end.value("time_to_accept_seconds_count"), accepted);
    assert_eq!(end.value("smtp_phase_duration_seconds_count{phase=\"end_marker\"}"), server.end_markers as f64);
    assert!(end.value("claims_total") >= 61.0 && end.value("claim_batch_size_count") >= 1.0, "{}", end.text);
    let open =
        ["busy", "idle"].map(|state| end.value(&format!("smtp_connections{{route=\"default\",state=\"{state}\"}}")));
    assert_eq!(open[0] + open[1], stage.server.connections_open() as f64, "{open:?}");
    assert_eq!(end.value("database_up"), 1.0);
    assert!(end.value("db_pool_connections{state=\"idle\"}") >= 1.0);
    let closed = until_closed(&relay, ledger.values().sum::<i64>()).await;
    assert_eq!(closed.len() as i64, ledger.values().sum::<i64>(), "one closing line an attempt");
    assert!(closed.iter().all(|line| line["durable"] == "yes"), "{closed:?}");
    let doubt = closed.iter().find(|line| line["verdict"] == "in_doubt").expect("a doubt is told");
    let told =
        ["recipient", "outcome", "phase", "route", "kind"].map(|field| doubt[field].as_str().unwrap_or_default());
    assert_eq!(told, ["r***@example.org", "unknown", "end_marker", "default", "note"]);
    assert_eq!((&doubt["intended"], &doubt["attempt"], &doubt["level"]), (&true.into(), &1.into(), &"ERROR".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_database_a_relay_is_unready_and_alive() {
    let stage = Stage::set().await;
    let relay = watched(&stage).set("database.statement_timeout", "1s").run().await;
    let probe = Probe::of(&relay).await;
    assert_eq!(until_status(&probe, "/readyz", 200).await, "ok\n");
    let checks = probe.get("/readyz?verbose").await.body;
    for check in ["database", "schema", "first-poll", "draining"] {
        assert!(checks.contains(&format!("[+] {check} ok\n")), "{checks}");
    }
    stage.cluster.stop().await.expect("it stops");
    let body = until_status(&probe, "/readyz", 503).await;
    assert!(body.contains("[-] database"), "{body}");
    assert_eq!(probe.get("/livez").await.status, 200);
    assert_eq!(probe.scrape().await.value("database_up"), 0.0);
    stage.cluster.restart().await.expect("it starts again");
    until_status(&probe, "/readyz", 200).await;
    // What somebody does to its schema while it runs is seen, too.
    let owner = stage.cluster.client("postgres").await.expect("it takes a client");
    for (ill, said, well) in [
        (
            "UPDATE outbox.migration SET version = version + 1000 WHERE version = 27",
            "[-] schema: it lacks migrations (hapax migrate up)",
            "UPDATE outbox.migration SET version = version - 1000 WHERE version = 1027",
        ),
        (
            "ALTER SCHEMA outbox RENAME TO elsewhere",
            "[-] schema: there is no outbox any more",
            "ALTER SCHEMA elsewhere RENAME TO outbox",
        ),
    ] {
        owner.batch_execute(ill).await.expect("changed");
        let body = until_status(&probe, "/readyz", 503).await;
        assert!(body.contains(said) && !body.contains("[-] database"), "{body}");
        owner.batch_execute(well).await.expect("changed back");
        until_status(&probe, "/readyz", 200).await;
    }
    eventually(PATIENCE, async || probe.scrape().await.value("database_up") == 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_waits_for_its_database_is_alive_and_not_ready() {
    let port = ReservedPort::reserve().expect("a port");
    let url = format!("postgres://relay@127.0.0.1:{}/postgres", port.number());
    let relay = Settings::new(&url, "smtp://127.0.0.1:1?starttls=none").set("http.listen", "127.0.0.1:0").spawn();
    let probe = Probe::of(&relay).await;
    assert_eq!(probe.get("/livez").await.status, 200);
    let ready = probe.get("/readyz?verbose").await;
    assert_eq!(ready.status, 503, "{ready:?}");
    assert!(ready.body.contains("[-] database: no connection yet"), "{}", ready.body);
    let scrape = probe.scrape().await;
    assert_eq!((scrape.value("database_up"), scrape.value(&attempts("accepted"))), (0.0, 0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_server_that_is_down_makes_nothing_unready_and_its_route_is_blocked() {
    let stage = Stage::with(SmtpServer::builder().script(Script::fault(Phase::Connect, Fault::Eof)).start()).await;
    let relay = watched(&stage).run().await;
    let probe = Probe::of(&relay).await;
    stage.enqueue(3).await;
    eventually(PATIENCE, async || probe.scrape().await.value("route_blocked{route=\"default\"}") == 1.0).await;
    assert_eq!(probe.get("/readyz").await.status, 200);
    assert_eq!(probe.get("/livez").await.status, 200);
    stage.server.script(Script::good());
    stage.until("sent", 3).await;
    assert_eq!(probe.scrape().await.value("route_blocked{route=\"default\"}"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_drains_a_relay_is_unready_and_alive() {
    let stage = Stage::set().await;
    let hold = stage.server.hold_final_reply();
    let mut relay = watched(&stage).run().await;
    let probe = Probe::of(&relay).await;
    stage.enqueue(1).await;
    hold.wait_for(1).await;
    relay.sigterm();
    let body = until_status(&probe, "/readyz", 503).await;
    assert!(body.contains("[-] draining: this process was told to end"), "{body}");
    assert_eq!(probe.get("/livez").await.status, 200);
    hold.release();
    assert_eq!(relay.wait_exit(PATIENCE).await.code(), Some(0), "{}", relay.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_that_is_blocked_is_not_alive_until_it_goes_on() {
    let stage = Stage::set().await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("held");
    let settings = watched(&stage).set("database.statement_timeout", "500ms");
    let relay = HapaxProcess::builder()
        .config(settings.toml())
        .env("HAPAX_FAULT", "renew_sent:wait")
        .env("HAPAX_FAULT_FILE", &file)
        .arg("run")
        .spawn();
    let probe = Probe::of(&relay).await;
    // A lease that grows old is renewed: there the loop is held.
    let hold = stage.server.hold_final_reply();
    stage.enqueue(40).await;
    eventually(PATIENCE, async || file.exists()).await;
    assert_eq!(probe.get("/livez").await.status, 200, "a moment is no stall");
    let body = until_status(&probe, "/livez", 503).await;
    // Itself, or a loop whose turn it was on the thread that it blocks.
    assert!(body.starts_with("stalled: ") && body.contains(" has not gone on for 3"), "{body}");
    std::fs::remove_file(&file).expect("it was there");
    assert_eq!(until_status(&probe, "/livez", 200).await, "ok\n");
    hold.release();
}

/// More of them than may be there at once, of whom none asks anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_say_nothing_are_sent_away_and_keep_neither_mail_nor_probes_waiting() {
    let stage = Stage::set().await;
    let relay = stage.settings().set("http.listen", "127.0.0.1:0").run().await;
    let probe = Probe::of(&relay).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(tokio::net::TcpStream::connect(probe.address()).await.expect("it listens"));
    }
    stage.enqueue(20).await;
    stage.until("sent", 20).await;
    for mut client in silent {
        let read = tokio::time::timeout(PATIENCE, client.read_to_end(&mut Vec::new())).await;
        assert!(read.is_ok(), "it is sent away");
    }
    until_status(&probe, "/livez", 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_relays_tells_of_the_whole_outbox_and_the_other_takes_over() {
    let stage = Stage::set().await;
    let first = watched(&stage).set("relay.name", "first").run().await;
    let second = watched(&stage).set("relay.name", "second").run().await;
    let (first_probe, second_probe) = (Probe::of(&first).await, Probe::of(&second).await);
    let later = stage.enqueue_one("later@example.org", ", not_before => now() + interval '1 hour'").await;
    eventually(PATIENCE, async || {
        let scrape = first_probe.scrape().await;
        scrape.has("hapax_relays_alive")
            && scrape.value("relays_alive") == 2.0
            && scrape.value("deliveries{state=\"pending\"}") == 1.0
    })
    .await;
    let told = first_probe.scrape().await;
    assert_eq!(told.value("oldest_pending_timestamp_seconds"), 0.0, "{later} is not due yet");
    assert_eq!((told.value("backlog"), told.value("deliveries{state=\"in_doubt\"}")), (0.0, 0.0));
    assert!(told.text.contains("name=\"second\""), "{}", told.text);
    let other = second_probe.scrape().await;
    for name in ["hapax_deliveries", "hapax_oldest", "hapax_backlog", "hapax_relay"] {
        assert!(!other.has(name), "{name}: {}", other.text);
    }
    assert!(other.value("clock_skew_seconds").abs() < 5.0);
    first.sigkill();
    eventually(PATIENCE, async || {
        let scrape = second_probe.scrape().await;
        scrape.has("hapax_relays_alive") && scrape.value("relays_alive") == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_come_in_both_formats_and_promtool_has_nothing_to_say() {
    let promtool = match promtool::find() {
        Ok(promtool) => promtool,
        Err(why) => {
            assert!(std::env::var_os("HAPAX_TESTS_ALL").is_none(), "{why}");
            eprintln!("SKIPPED: {why}");
            return;
        }
    };
    let stage = Stage::with(SmtpServer::builder().tls(hapax_testkit::smtp::TlsMode::StartTls).start()).await;
    let ca = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(ca.path(), stage.server.ca_pem()).expect("it can be written");
    let settings = watched(&stage)
        .set("routes.default.url", format!("smtp://localhost:{}", stage.server.port()))
        .set("routes.default.starttls", "required")
        .set("routes.default.ca_file", ca.path().display());
    let relay = settings.run().await;
    let probe = Probe::of(&relay).await;
    stage.enqueue(5).await;
    stage.until("sent", 5).await;
    eventually(PATIENCE, async || probe.scrape().await.has("hapax_deliveries")).await;
    let plain = probe.get("/metrics").await;
    assert_eq!(plain.content_type, "text/plain; version=0.0.4; charset=utf-8");
    assert!(
        plain.body.contains("\nhapax_attempts_total{route=\"default\",outcome=\"accepted\"} 5\n"),
        "{}",
        plain.body
    );
    assert!(plain.body.contains("\nhapax_certificate_expiry_timestamp_seconds{route=\"default\"} "), "{}", plain.body);
    assert!(plain.body.contains("\nprocess_start_time_seconds "), "{}", plain.body);
    assert_eq!(promtool::check_metrics(&promtool, &plain.body), (true, String::new()), "{}", plain.body);
    let open = probe.get_with("/metrics", OPEN_METRICS).await;
    assert_eq!(open.content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.body.ends_with("# EOF\n") && open.body.contains("# TYPE hapax_attempts counter\n"), "{}", open.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_is_planted_comes_out_in_metrics_or_logs() {
    let script = Script::rules([
        Rule::at(Phase::Rcpt, Fault::Reply5xx).recipient("canary-two@example.org"),
        Rule::at(Phase::EndMarker { took: true }, Fault::Eof).recipient("canary-three@example.org"),
        Rule::at(Phase::Mail, Fault::Garbage).times(1),
    ]);
    let server =
        SmtpServer::builder().credentials("canary-user", "canary-password").require_auth().script(script).start();
    let stage = Stage::with(server).await;
    let settings = watched(&stage)
        .set("log.level", "trace")
        .set("routes.default.url", format!("smtp://canary-user@127.0.0.1:{}?starttls=none", stage.server.port()));
    let relay = HapaxProcess::builder()
        .config(settings.toml())
        .env("HAPAX__ROUTES__DEFAULT__PASSWORD", "canary-password")
        .arg("run")
        .spawn();
    let probe = Probe::of(&relay).await;
    let insert = "INSERT INTO outbox.notification (kind, recipients, subject, body_text)
                  SELECT 'note', ARRAY['canary-' || i || '@example.org'], 'canary-subject', 'canary-body'
                  FROM unnest(ARRAY['one', 'two', 'three', 'four']) i";
    stage.sql.execute(insert, &[]).await.expect("enqueues");
    stage.until_settled().await;
    eventually(PATIENCE, async || probe.scrape().await.has("hapax_deliveries")).await;
    let mut heard = vec![probe.get("/livez").await.body, probe.get("/readyz?verbose").await.body];
    heard.push(probe.get("/metrics").await.body);
    heard.push(probe.get_with("/metrics", OPEN_METRICS).await.body);
    heard.extend(relay.lines());
    let found: Vec<&String> = heard.iter().filter(|text| text.contains("canary-")).collect();
    assert!(found.is_empty(), "{found:?}");
    until_closed(&relay, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_lines_name_recipients_as_the_configuration_says() {
    let stage = Stage::set().await;
    let mut number = 0;
    for (word, shown) in [("hashed", "cfe00dde46ef9426"), ("full", "Ada@example.org"), ("masked", "A***@example.org")] {
        let mut relay = stage.settings().set("log.recipient", word).run().await;
        stage.enqueue_one("Ada@example.org", "").await;
        number += 1;
        stage.until("sent", number).await;
        relay.sigterm();
        relay.wait_exit(PATIENCE).await;
        let lines = closing_lines(&relay);
        assert_eq!(lines.len(), 1, "{}", relay.report());
        assert_eq!(lines[0]["recipient"], shown, "{word}");
        assert_eq!((&lines[0]["verdict"], &lines[0]["code"]), (&"sent".into(), &250.into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthcheck_asks_the_configured_listener_and_a_taken_address_ends_the_start() {
    let stage = Stage::set().await;
    let port = ReservedPort::reserve().expect("a port");
    let settings = watched(&stage).set("http.listen", port.address());
    let (code, output) = settings.command(["healthcheck"]).await;
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("nobody answers at 127.0.0.1:"), "{output}");
    let relay = settings.run().await;
    let probe = Probe::of(&relay).await;
    until_status(&probe, "/readyz", 200).await;
    assert_eq!(settings.command(["healthcheck"]).await, (0, "ok".to_owned()));
    assert_eq!(settings.command(["healthcheck", "--ready"]).await, (0, "ok".to_owned()));
    stage.cluster.stop().await.expect("it stops");
    until_status(&probe, "/readyz", 503).await;
    let (code, output) = settings.command(["healthcheck", "--ready"]).await;
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("/readyz answers 503: [-] database"), "{output}");
    assert_eq!(settings.command(["healthcheck"]).await.0, 0, "alive without its database");
    let mut twin = settings.spawn();
    assert_eq!(twin.wait_exit(PATIENCE).await.code(), Some(1), "{}", twin.report());
    assert!(twin.stderr().contains("error: http.listen: cannot listen at"), "{}", twin.report());
    let (code, output) = stage.settings().command(["healthcheck"]).await;
    assert_eq!(code, 78, "{output}");
    let (code, output) = watched(&stage).command(["healthcheck"]).await;
    assert!(code == 78 && output.contains("has port 0") && output.contains("set a fixed one"), "{output}");
}
