//! SIGHUP: the configuration is read again while the relay runs. What is under way ends as it began, what follows goes by
//! the new one, what is bad changes nothing, and no delivery is lost or sent twice by any of it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hapax_testkit::smtp::TlsMode;
use hapax_testkit::{ChaosProxy, HapaxProcess, PgCluster, ReservedPort, SmtpServer, eventually};
use hapax_tests::probe::Probe;
use hapax_tests::stage::{PATIENCE, Settings, Stage, running};
use hapax_tests::verdict::Verdict;

const TAKEN_OVER: &str = "the configuration was read again: it holds from now on";
const REFUSED: &str = "is not taken over";
/// Incarnations that have not said goodbye.
const ALIVE: &str = "SELECT count(*) FROM outbox.relay WHERE signed_off_at IS NULL";

fn write(relay: &HapaxProcess, toml: &str) {
    std::fs::write(relay.directory().join("hapax.toml"), toml).expect("the configuration can be written");
}

/// Has this configuration taken over.
async fn reload(relay: &HapaxProcess, settings: &Settings) {
    write(relay, &settings.toml());
    let mark = relay.lines().len();
    relay.sighup();
    relay.wait_for_line_after(mark, |line| line.contains(TAKEN_OVER)).await;
}

/// Has it refused; answers what it says.
async fn refused(relay: &HapaxProcess, toml: &str) -> String {
    write(relay, toml);
    let mark = relay.lines().len();
    relay.sighup();
    relay.wait_for_line_after(mark, |line| line.contains(REFUSED)).await
}

async fn ends_well(mut relay: HapaxProcess) {
    relay.sigterm();
    assert_eq!(relay.wait_exit(PATIENCE).await.code(), Some(0), "{}", relay.report());
}

fn route_to(server: &SmtpServer) -> String {
    format!("smtp://127.0.0.1:{}?starttls=none", server.port())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_its_reply_ends_where_it_began_and_what_follows_takes_the_new_route() {
    let (stage, second) = (Stage::set().await, SmtpServer::start());
    let relay = stage.settings().run().await;
    let hold = stage.server.hold_final_reply();
    stage.enqueue_one("old@example.org", "").await;
    hold.wait_for(1).await;
    reload(&relay, &stage.settings().set("routes.default.url", route_to(&second))).await;
    stage.enqueue_one("new@example.org", "").await;
    stage.until_state("new@example.org", "sent").await;
    assert_eq!(stage.state_of("old@example.org").await.0, "sending");
    assert_eq!(second.with_ledger(|ledger| ledger.totals().accepted), 1);
    assert_eq!(stage.count(ALIVE).await, 2, "one drains, one works");
    hold.release();
    stage.until_state("old@example.org", "sent").await;
    eventually(PATIENCE, async || (stage.count(ALIVE).await == 1).then_some(()).ok_or("it has not signed off")).await;
    assert_eq!(stage.server.with_ledger(|ledger| ledger.totals().end_markers), 1);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.attempt WHERE outcome = 'accepted'").await, 2);
    ends_well(relay).await;
    assert_eq!(stage.count(ALIVE).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_configuration_changes_nothing_and_every_problem_of_it_is_named() {
    let stage = Stage::set().await;
    let templates = tempfile::tempdir().expect("a directory");
    let settings = stage.settings().set("templates.directory", templates.path().display());
    let relay = settings.run().await;
    let bad = settings.clone().set("relay.leese", "1s").set("retry.factor", 0).set("log.level", "debug");
    let said = refused(&relay, &bad.set("routes.default.from", "CANARY at example.org").toml()).await;
    for path in ["relay.leese: unknown key", "retry.factor: must be between", "routes.default.from: "] {
        assert!(said.contains(path), "{path} in {said}");
    }
    let said = refused(&relay, "[relay\n").await;
    assert!(said.contains("hapax.toml:1:"), "{said}");
    let kind = templates.path().join("note");
    std::fs::create_dir(&kind).expect("it is new");
    std::fs::write(kind.join("subject.txt"), "Hello").expect("written");
    std::fs::write(kind.join("body.txt"), "{% if %}").expect("written");
    let said = refused(&relay, &settings.toml()).await;
    assert!(said.contains("body.txt"), "{said}");
    assert!(!relay.report().contains("CANARY") && !relay.report().contains("\"DEBUG\""), "{}", relay.report());
    stage.enqueue(3).await;
    stage.until("sent", 3).await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.relay").await, 1, "no other incarnation ever began");
    std::fs::write(kind.join("body.txt"), "fine").expect("written");
    reload(&relay, &settings).await;
    ends_well(relay).await;
}

fn descriptors(relay: &HapaxProcess) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", relay.id())).expect("it lives").count()
}

fn resident_kib(relay: &HapaxProcess) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", relay.id())).expect("it lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has memory");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// The most dialogues between end marker and reply that the server ever saw at once.
struct Peak {
    most: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Peak {
    fn watch(stage: &Arc<Stage>) -> Self {
        let (most, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, ends, stage) = (most.clone(), over.clone(), stage.clone());
        tokio::spawn(async move {
            while !ends.load(Ordering::SeqCst) {
                let now = stage.server.with_ledger(|ledger| {
                    let last = ledger.connections().iter().filter_map(|one| one.transactions.last());
                    last.filter(|one| one.end_marker_read && !one.confirmed).count()
                });
                seen.fetch_max(now, Ordering::SeqCst);
                tokio::task::yield_now().await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Self { most, over }
    }

    fn end(self) -> usize {
        self.over.store(true, Ordering::SeqCst);
        self.most.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_reloads_under_load_lose_nothing_send_nothing_twice_and_stay_within_max_in_flight() {
    let server = SmtpServer::builder().final_reply_delay(Duration::from_millis(25)).start();
    let stage = Arc::new(Stage::with(server).await);
    let settings = stage.settings().set("relay.max_in_flight", 8);
    let relay = settings.run().await;
    let peak = Peak::watch(&stage);
    let (mut total, mut early) = (1_500, (0, 0));
    stage.enqueue(total).await;
    for round in 0..50 {
        // On a machine with other things to do a reload takes longer, and more goes out meanwhile.
        if stage.count("SELECT count(*) FROM outbox.queue").await < 300 {
            stage.enqueue(300).await;
            total += 300;
        }
        let mark = stage.server.with_ledger(|ledger| ledger.totals().accepted) + 20;
        stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= mark).await;
        reload(&relay, &settings.clone().set("routes.default.max_connections", 12 + round % 5)).await;
        if round == 9 {
            early = (descriptors(&relay), resident_kib(&relay));
        }
    }
    let left = stage.count("SELECT count(*) FROM outbox.queue").await;
    assert!(left > 0, "there was load to the last reload");
    stage.until("sent", i64::from(total)).await;
    let late = (descriptors(&relay), resident_kib(&relay));
    let most = peak.end();
    println!(
        "{total} deliveries, {most} in flight at most; descriptors and KiB after 10: {early:?}, after 50: {late:?}"
    );
    assert!((2..=8).contains(&most), "{most} were in flight");
    // Connections come and go with the load; one that each reload left behind would make forty more.
    assert!(late.0 <= early.0 + 24, "descriptors: {early:?}, {late:?}");
    assert!(late.1 <= early.1 + 24 * 1024, "memory: {early:?}, {late:?}");
    assert_eq!(stage.count("SELECT count(*) FROM outbox.attempt WHERE outcome <> 'accepted'").await, 0);
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(usize::try_from(total).expect("small"));
    ends_well(relay).await;
    let signed_off = "SELECT count(*) FROM outbox.relay WHERE signed_off_at IS NOT NULL";
    assert_eq!(stage.count(signed_off).await, 51);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_in_flight_are_shared_with_what_drains_a_second_reload_works_meanwhile_and_signals_reach_all() {
    let stage = Stage::set().await;
    let settings = stage.settings().set("relay.max_in_flight", 6).set("routes.default.max_connections", 4);
    let mut relay = settings.run().await;
    let hold = stage.server.hold_final_reply();
    stage.enqueue(40).await;
    hold.wait_for(4).await;
    reload(&relay, &settings).await;
    // One connection more is left to it, however many the one before still has.
    hold.wait_for(5).await;
    reload(&relay, &settings).await;
    hold.wait_for(6).await;
    reload(&relay, &settings).await;
    let last = relay.lines().iter().rposition(|line| line.contains(TAKEN_OVER)).expect("it was taken over");
    assert!(relay.lines()[last].contains("\"draining\":3"), "{}", relay.report());
    eventually(PATIENCE, async || {
        let claimed = stage.count("SELECT count(*) FROM outbox.queue WHERE lease IS NOT NULL AND intent IS NULL").await;
        (claimed > 0).then_some(()).ok_or("the last one has claimed nothing yet")
    })
    .await;
    assert_eq!(hold.arrived(), 6);
    let mark = relay.lines().len();
    relay.sigterm();
    relay.wait_for_line_after(mark, |line| line.contains("a second signal ends it at once")).await;
    relay.sighup();
    relay.wait_for_line_after(mark, |line| line.contains("the configuration is not read again")).await;
    assert!(relay.status().is_none(), "six replies are outstanding\n{}", relay.report());
    hold.release();
    assert_eq!(relay.wait_exit(PATIENCE).await.code(), Some(0), "{}", relay.report());
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(40);
    assert_eq!((verdict.count("sent"), verdict.count("pending"), verdict.accepted), (6, 34, 6), "{verdict}");
}

fn write_body(templates: &Path, body: &str) {
    let kind = templates.join("greeting");
    std::fs::create_dir_all(&kind).expect("made");
    std::fs::write(kind.join("subject.txt"), "Hello").expect("written");
    std::fs::write(kind.join("body.txt"), body).expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_password_template_and_log_level_hold_after_a_reload_and_what_needs_a_restart_is_named() {
    let stage = Stage::with(SmtpServer::builder().tls(TlsMode::StartTls).credentials("user", "second").start()).await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("password"), "first").expect("written");
    std::fs::write(path("ca.pem"), stage.server.ca_pem()).expect("written");
    std::fs::create_dir(path("templates")).expect("it is new");
    write_body(&path("templates"), "before");
    let settings = stage
        .settings()
        .set("routes.default.url", format!("smtp://user@127.0.0.1:{}", stage.server.port()))
        .set("routes.default.starttls", "required")
        .set("routes.default.ca_file", path("ca.pem").display())
        .set("routes.default.password_file", path("password").display())
        .set("templates.directory", path("templates").display());
    let relay = settings.run().await;
    let enqueue =
        "SELECT outbox.enqueue(kind => 'greeting', recipients => ARRAY['a@example.org'], payload => '{}'::json)";
    stage.sql.execute(enqueue, &[]).await.expect("enqueues");
    relay.wait_for_line(|line| line.contains("will be tried again")).await;
    assert!(!relay.report().contains("\"DEBUG\""));
    std::fs::write(path("password"), "second").expect("written");
    write_body(&path("templates"), "after");
    let mark = relay.lines().len();
    let other =
        settings.set("log.level", "debug").set("log.format", "pretty").set("database.url", "postgres://nowhere/x");
    reload(&relay, &other).await;
    for key in ["database.url", "log.format"] {
        let named = |line: &str| line.contains("needs a restart") && line.contains(key);
        relay.wait_for_line_after(mark, named).await;
    }
    stage.until_state("a@example.org", "sent").await;
    let body = stage.server.with_ledger(|ledger| ledger.messages().next().expect("a message").body.clone());
    assert!(String::from_utf8_lossy(&body).contains("after"));
    relay.wait_for_line_after(mark, |line| line.contains("\"DEBUG\"")).await;
    ends_well(relay).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_database_answers_a_reload_may_even_change_where_it_is() {
    let stage = Stage::set().await;
    let away = stage.settings().set("database.url", "postgres://relay@127.0.0.1:1/postgres");
    let relay = away.spawn();
    relay.wait_for_line(|line| line.contains("waiting for the database")).await;
    let said = refused(&relay, "[relay]\nleese = 1\n").await;
    assert!(said.contains("relay.leese"), "{said}");
    write(&relay, &stage.settings().toml());
    relay.sighup();
    running(&relay).await;
    stage.enqueue(2).await;
    stage.until("sent", 2).await;
    ends_well(relay).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_breaks_no_reload_and_no_reload_breaks_what_waits_for_it() {
    let mut stage = Stage::set().await;
    let settings = stage.settings().set("database.statement_timeout", "1s");
    let relay = settings.run().await;
    let hold = stage.server.hold_final_reply();
    stage.enqueue(5).await;
    hold.wait_for(5).await;
    // One that has registered itself and is given up says goodbye.
    stage.sql.batch_execute("BEGIN; LOCK TABLE outbox.route IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    write(&relay, &settings.clone().set("routes.default.max_connections", 2).toml());
    relay.sighup();
    relay.wait_for_line(|line| line.contains("registering the routes")).await;
    relay.sighup();
    relay.wait_for_line(|line| line.contains("it still waited for the database")).await;
    stage.sql.batch_execute("COMMIT").await.expect("free again");
    relay.wait_for_line(|line| line.contains(TAKEN_OVER)).await;
    let settings = settings.set("routes.default.max_connections", 2);
    let gone = "SELECT count(*) FROM outbox.relay WHERE signed_off_at IS NOT NULL";
    eventually(PATIENCE, async || (stage.count(gone).await == 1).then_some(()).ok_or("it has not signed off")).await;
    stage.cluster.stop().await.expect("stopped");
    let mark = relay.lines().len();
    write(&relay, &settings.clone().set("routes.default.max_connections", 3).toml());
    relay.sighup();
    relay.wait_for_line_after(mark, |line| line.contains("reading the configuration again")).await;
    relay.wait_for_line_after(mark, |line| line.contains("the database does not answer, trying again")).await;
    // What waits is given up for what is read after it.
    let mark_again = relay.lines().len();
    write(&relay, &settings.clone().set("routes.default.max_connections", 4).toml());
    relay.sighup();
    relay.wait_for_line_after(mark_again, |line| line.contains("it still waited for the database")).await;
    relay.wait_for_line_after(mark_again, |line| line.contains("the database does not answer, trying again")).await;
    hold.release();
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().confirmed == 5).await;
    assert!(!relay.lines()[mark..].iter().any(|line| line.contains(TAKEN_OVER)), "nothing relieves it yet");
    stage.cluster.restart().await.expect("restarted");
    stage.reconnect().await;
    relay.wait_for_line_after(mark, |line| line.contains(TAKEN_OVER)).await;
    stage.enqueue(5).await;
    stage.until("sent", 10).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(10);
    ends_well(relay).await;
    assert_eq!(stage.count(ALIVE).await, 0, "each has said goodbye");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_the_database_refuses_changes_nothing_and_a_route_that_goes_takes_its_metrics_along() {
    let stage = Stage::set().await;
    let place = tempfile::tempdir().expect("a directory");
    let password = place.path().join("password");
    std::fs::write(&password, "right").expect("written");
    let role = "CREATE ROLE keyed LOGIN PASSWORD 'right' IN ROLE outbox_relay";
    stage.sql.batch_execute(role).await.expect("made");
    let rules = stage.cluster.data_directory().join("pg_hba.conf");
    let before = std::fs::read_to_string(&rules).expect("there are rules");
    std::fs::write(&rules, format!("host all keyed all scram-sha-256\n{before}")).expect("written");
    stage.sql.execute("SELECT pg_reload_conf()", &[]).await.expect("told");
    eventually(PATIENCE, async || {
        let (code, said) = stage.settings_of("keyed").command(["status"]).await;
        (code != 0).then_some(()).ok_or(said)
    })
    .await;
    let settings = stage.settings_of("keyed").set("database.password_file", password.display());
    let settings = settings.set("http.listen", "127.0.0.1:0");
    let closed = ReservedPort::reserve().expect("a free port").number();
    let gone = format!("[routes.gone]\nurl = \"smtp://127.0.0.1:{closed}?starttls=none\"\nfrom = \"a@shop.example\"\n");
    let relay = HapaxProcess::builder().config(format!("{}\n{gone}", settings.toml())).arg("run").spawn();
    let probe = Probe::of(&relay).await;
    stage.enqueue_one("waits@example.org", ", route => 'gone'").await;
    let metrics = async |wanted: &str| {
        eventually(PATIENCE, async || {
            let body = probe.get("/metrics").await.body;
            if body.contains(wanted) { Ok(body) } else { Err(body) }
        })
        .await
    };
    metrics("hapax_route_blocked{route=\"gone\"} 1").await;

    std::fs::write(&password, "wrong").expect("written");
    let said = refused(&relay, &settings.toml()).await;
    assert!(said.contains("password authentication failed"), "{said}");
    metrics("hapax_config_reloads_total{result=\"failed\"} 1").await;
    assert_eq!(probe.get("/readyz").await.status, 200, "the one in force works");
    stage.enqueue_one("first@example.org", "").await;
    stage.until_state("first@example.org", "sent").await;

    std::fs::write(&password, "right").expect("written");
    let mark = relay.lines().len();
    reload(&relay, &settings).await;
    relay.wait_for_line_after(mark, |line| line.contains("this route is not configured any more")).await;
    let body = metrics("hapax_config_reloads_total{result=\"ok\"} 1").await;
    assert!(!body.contains("hapax_route_blocked{route=\"gone\"}"), "{body}");
    stage.enqueue_one("second@example.org", "").await;
    stage.until_state("second@example.org", "sent").await;
    ends_well(relay).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_while_one_drains_and_one_works_sends_nothing_until_armed_and_nothing_twice() {
    let mut stage = Stage::set().await;
    let standby = PgCluster::standby_of(&stage.cluster).await.expect("a standby");
    let proxy = ChaosProxy::start(([127, 0, 0, 1], stage.cluster.port()).into());
    let url = format!("postgres://relay@127.0.0.1:{}/postgres", proxy.port());
    let settings = stage.settings().set("database.url", url).set("relay.max_in_flight", 6);
    let settings = settings.set("routes.default.max_connections", 4);
    let relay = settings.run().await;
    let hold = stage.server.hold_final_reply();
    stage.enqueue(30).await;
    hold.wait_for(4).await;
    reload(&relay, &settings).await;
    hold.wait_for(5).await;
    let lsn = stage.text("SELECT pg_current_wal_flush_lsn()::text", &[]).await.expect("a position");
    let other = standby.client("postgres").await.expect("it answers");
    let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn");
    eventually(PATIENCE, async || {
        let there: bool = other.query_one(&caught_up, &[]).await.expect("reads").get(0);
        there.then_some(()).ok_or("the standby lags")
    })
    .await;
    stage.cluster.crash().await.expect("crashed");
    standby.promote().await.expect("promoted");
    proxy.upstream(([127, 0, 0, 1], standby.port()).into());
    proxy.cut_all().await;
    stage.sql = standby.client("postgres").await.expect("it takes a client");
    relay.wait_for_line(|line| line.contains("guard mode")).await;
    // In guard mode a reload is taken, and holds for what follows.
    let mark = relay.lines().len();
    write(&relay, &settings.clone().set("routes.default.max_connections", 7).toml());
    relay.sighup();
    relay.wait_for_line_after(mark, |line| line.contains("it holds when the outbox is armed")).await;
    let markers = stage.server.with_ledger(|ledger| ledger.totals().end_markers);
    hold.release();
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().confirmed == markers).await;
    let operator = stage.settings().set("database.url", standby.url_for("postgres", "operator"));
    let (code, output) = operator.command(["arm", "--reason", "the primary is gone"]).await;
    assert_eq!(code, 0, "{output}");
    relay.wait_for_line_after(mark, |line| line.contains("the relay is running")).await;
    let (code, output) = operator.command(["release", "--failover", "--reason", "nothing was lost"]).await;
    assert_eq!(code, 0, "{output}");
    stage.until("sent", 30).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(30);
    // The two that a failover ended could not say goodbye: the one that works does it for them.
    eventually(PATIENCE, async || (stage.count(ALIVE).await == 1).then_some(()).ok_or("silent rows are left")).await;
    ends_well(relay).await;
    assert_eq!(stage.count(ALIVE).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_never_comes_to_what_drains_is_a_doubt_and_the_process_goes_on() {
    let stage = Stage::set().await;
    let settings = stage.settings().set("relay.final_reply_timeout", "2s").set("relay.shutdown_grace", "2s");
    let relay = settings.run().await;
    let hold = stage.server.hold_final_reply();
    stage.enqueue_one("old@example.org", "").await;
    hold.wait_for(1).await;
    reload(&relay, &settings).await;
    stage.until_state("old@example.org", "in_doubt").await;
    hold.release();
    stage.enqueue_one("new@example.org", "").await;
    stage.until_state("new@example.org", "sent").await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_clean(2);
    ends_well(relay).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_reloads_waits_when_too_many_wait_for_replies_and_the_last_configuration_holds_in_the_end() {
    let stage = Stage::set().await;
    let settings = stage.settings().set("relay.max_in_flight", 40).set("routes.default.max_connections", 1);
    let relay = settings.run().await;
    let hold = stage.server.hold_final_reply();
    stage.enqueue(60).await;
    for number in 1..=16 {
        // Each has a reply outstanding when the next one relieves it.
        hold.wait_for(number).await;
        reload(&relay, &settings).await;
    }
    hold.wait_for(17).await;
    let mark = relay.lines().len();
    let last = settings.clone().set("routes.default.from", "Last <last@shop.example>");
    write(&relay, &last.toml());
    for _ in 0..100 {
        relay.sighup();
    }
    relay.wait_for_line_after(mark, |line| line.contains("so many earlier configurations still wait")).await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.relay WHERE signed_off_at IS NULL").await, 17);
    assert_eq!(stage.server.connections_open(), 17);
    hold.release();
    relay.wait_for_line_after(mark, |line| line.contains(TAKEN_OVER)).await;
    stage.until("sent", 60).await;
    stage.enqueue_one("last@example.org", "").await;
    stage.until_state("last@example.org", "sent").await;
    let sender = stage.server.with_ledger(|ledger| {
        let is_last = |one: &&hapax_testkit::smtp::Transaction| one.recipients == ["last@example.org"];
        ledger.messages().find(is_last).map(|one| one.sender.clone())
    });
    assert!(sender.is_some_and(|sender| sender.contains("last@shop.example")));
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_clean(61);
    assert_eq!(stage.server.with_ledger(|ledger| ledger.totals().accepted), 61);
    ends_well(relay).await;
}
