//! What a service manager hears.

use std::time::Duration;

use hapax_testkit::{ChaosProxy, HapaxProcess, eventually};
use hapax_tests::manager::Manager;
use hapax_tests::stage::{PATIENCE, Settings, Stage};

/// A watchdog that wants to hear something every three seconds: it is told every second.
const WATCHDOG_USEC: &str = "3000000";

fn managed(settings: &Settings, manager: &Manager, more: &[(&str, &str)]) -> HapaxProcess {
    let mut builder = HapaxProcess::builder().config(settings.toml()).arg("run");
    builder = builder.env("NOTIFY_SOCKET", manager.path()).env("WATCHDOG_USEC", WATCHDOG_USEC);
    for (name, value) in more {
        builder = builder.env(name, value);
    }
    builder.spawn()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_ready_after_the_first_look_and_asks_for_time_while_a_server_delays_its_reply() {
    let stage = Stage::set().await;
    let manager = Manager::listen();
    let hold = stage.server.hold_final_reply();
    let mut relay = managed(&stage.settings(), &manager, &[]);
    manager.wait_for("READY=1", 1, PATIENCE).await;
    manager.wait_for("WATCHDOG=1", 2, PATIENCE).await;
    stage.enqueue(3).await;
    hold.wait_for(3).await;
    manager.wait_for("STATUS=running; 3 under way;", 1, PATIENCE).await;
    assert_eq!(manager.count("STOPPING=1"), 0);

    relay.sigterm();
    manager.wait_for("STOPPING=1", 1, PATIENCE).await;
    // More than one: it asks again and again, for as long as it waits.
    let asked = manager.count("EXTEND_TIMEOUT_USEC=30000000");
    manager.wait_for("EXTEND_TIMEOUT_USEC=30000000", asked + 3, PATIENCE).await;
    manager.wait_for("STATUS=ending: waiting for open replies; 3 under way", 1, PATIENCE).await;
    assert!(relay.status().is_none(), "{}", relay.report());
    hold.release();
    assert_eq!(relay.wait_exit(PATIENCE).await.code(), Some(0), "{}", relay.report());

    let place = |word| manager.place(word).unwrap_or_else(|| panic!("{word} was never said"));
    let order = ["READY=1", "STATUS=running; 3 under way", "STOPPING=1", "STATUS=ending"].map(place);
    assert!(order.is_sorted(), "{:?}", manager.words());
    assert_eq!((manager.count("READY=1"), manager.count("STOPPING=1")), (1, 1));
    let words = manager.words();
    let running = &words[order[0]..order[2]];
    assert!(
        running.iter().all(|(_, word)| !word.starts_with("EXTEND")),
        "only a start and an end are extended: {running:?}"
    );
    let said: String = words.iter().map(|(_, word)| word.as_str()).collect();
    assert!(!said.contains('@') && !said.contains("Hello"), "no address, no subject: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_away_it_is_not_ready_but_asks_for_more_time() {
    let stage = Stage::set().await;
    let manager = Manager::listen();
    let proxy = ChaosProxy::start(([127, 0, 0, 1], stage.cluster.port()).into());
    proxy.refuse_new(true).await;
    let url = format!("postgres://relay@{}/postgres", proxy.address());
    let mut relay = managed(&stage.settings().set("database.url", url), &manager, &[]);
    manager.wait_for("EXTEND_TIMEOUT_USEC=", 3, PATIENCE).await;
    manager.wait_for("STATUS=starting: waiting for the database", 3, PATIENCE).await;
    assert_eq!(manager.count("READY=1"), 0, "nobody has looked at the queue");
    proxy.refuse_new(false).await;
    manager.wait_for("READY=1", 1, PATIENCE).await;
    relay.sigterm();
    assert_eq!(relay.wait_exit(PATIENCE).await.code(), Some(0), "{}", relay.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_that_stands_still_silences_the_watchdog_and_nothing_else_does() {
    let stage = Stage::set().await;
    let manager = Manager::listen();
    let directory = tempfile::tempdir().expect("a directory can be made");
    let held = directory.path().join("held");
    // The heartbeat stands still for good at its fifth beat; a limit of three statements, and half a minute for a busy machine.
    let settings = stage.settings().set("database.statement_timeout", "1s").set("relay.dead_after", "10m");
    let file = held.to_str().expect("a path is text");
    let faults = [("HAPAX_FAULT", "heartbeat_sent:wait:5"), ("HAPAX_FAULT_FILE", file)];
    let relay = managed(&settings, &manager, &faults);
    eventually(PATIENCE, async || held.exists()).await;
    manager.wait_for("WATCHDOG=1", 10, PATIENCE).await;
    // A thread that is blocked stops its whole runtime sooner or later: which loop is named first is chance.
    manager.wait_for("STATUS=stalled: ", 1, PATIENCE).await;
    let heard = manager.count("WATCHDOG=1");
    manager.wait_for("STATUS=stalled", 4, PATIENCE).await;
    assert_eq!(manager.count("WATCHDOG=1"), heard, "systemd would restart it now");
    relay.wait_for_line(|line| line.contains("a loop of this relay stands still")).await;
    // It goes on: so does the watchdog.
    std::fs::remove_file(&held).expect("it is there");
    manager.wait_for("WATCHDOG=1", heard + 2, Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_is_announced_with_the_time_of_the_clock_and_ends_with_ready() {
    let stage = Stage::set().await;
    let manager = Manager::listen();
    let mut relay = managed(&stage.settings(), &manager, &[]);
    manager.wait_for("READY=1", 1, PATIENCE).await;
    let micros = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000
    };
    let before = micros();
    relay.sighup();
    manager.wait_for("READY=1", 2, PATIENCE).await;
    let words: Vec<String> = manager.words().into_iter().map(|(_, word)| word).collect();
    let place = manager.place("RELOADING=1").unwrap_or_else(|| panic!("it was not announced: {words:?}"));
    let said: i128 =
        words[place + 1].strip_prefix("MONOTONIC_USEC=").expect("in the same message").parse().expect("a number");
    assert!((before..=micros()).contains(&said), "systemd takes no answer that is older than its signal");
    relay.sigterm();
    assert_eq!(relay.wait_exit(PATIENCE).await.code(), Some(0), "{}", relay.report());
}
