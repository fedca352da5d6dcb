//! A database that crashes, goes away, or is not the one it was.

use std::time::Duration;

use hapax_testkit::{ChaosProxy, PgCluster, Phase, SmtpServer};
use hapax_tests::stage::{PATIENCE, Settings, Stage};

use super::{Kind, breaches, comes_true, play};

/// Everything that was not flushed when its intents were answered is lost.
async fn crashed_behind_four_intents(kind: Kind) -> Vec<String> {
    // Nobody flushes but commits that wait for it: not the WAL writer, not heartbeats, nor a relay that asks to be woken.
    let cluster = PgCluster::builder().setting("wal_writer_delay", "10s");
    let mut stage = Stage::on(cluster.start().await.expect("a cluster starts"), SmtpServer::start()).await;
    let hold = stage.server.hold_final_reply();
    let quiet = stage.settings().set("relay.heartbeat_interval", "40s").set("relay.dead_after", "90s");
    let quiet = quiet.set("relay.transmit_deadline", "90s").set("relay.wake_up", false);
    let mut relay = kind.start(&stage, &quiet, &[]).await;
    relay.wait_for_line(|line| line.contains("the relay is running")).await;
    stage.enqueue(4).await;
    hold.wait_for(4).await;
    stage.cluster.crash().await.expect("crashed");
    relay.sigkill();
    relay.wait_exit(Duration::from_secs(10)).await;
    hold.release();
    stage.cluster.restart().await.expect("restarted");
    stage.reconnect().await;
    let _relay = kind.start(&stage, &stage.settings(), &[]).await;
    breaches(&stage, kind).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intent_that_does_not_survive_a_crash_is_noticed() {
    play(crashed_behind_four_intents, &["intend_asynchronous"]).await;
}

/// A proxy before the database, and the settings for a relay behind it.
fn proxied(stage: &Stage) -> (ChaosProxy, Settings) {
    let proxy = ChaosProxy::start(([127, 0, 0, 1], stage.cluster.port()).into());
    let url = format!("postgres://relay@127.0.0.1:{}/postgres", proxy.port());
    let settings = stage.settings().set("database.url", url).set("relay.lease", "1s").set("relay.dead_after", "1s");
    (proxy, settings.set("routes.default.max_connections", 4))
}

async fn away_at_the_intents(kind: Kind) -> Vec<String> {
    let stage = Stage::set().await;
    let (proxy, settings) = proxied(&stage);
    let hold = stage.server.hold(Phase::Data);
    let mut relay = kind.start(&stage, &settings, &[]).await;
    stage.enqueue(4).await;
    hold.wait_for(4).await;
    proxy.refuse_new(true).await;
    proxy.cut_all().await;
    hold.release();
    let markers = || stage.server.with_ledger(|ledger| ledger.totals().end_markers);
    comes_true(Duration::from_secs(3), async || markers() > 0).await;
    let early = markers();
    relay.sigkill();
    relay.wait_exit(Duration::from_secs(10)).await;
    proxy.refuse_new(false).await;
    let _relay = kind.start(&stage, &settings, &[]).await;
    let mut breaches = breaches(&stage, kind).await;
    if early > 0 {
        breaches.push(format!("{early} end markers without an intent"));
    }
    breaches
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intent_without_an_answer_that_is_taken_for_granted_is_noticed() {
    play(away_at_the_intents, &["lost_intend_granted"]).await;
}

async fn away_at_the_outcomes(kind: Kind) -> Vec<String> {
    let stage = Stage::set().await;
    let (proxy, settings) = proxied(&stage);
    let hold = stage.server.hold_final_reply();
    let _relay = kind.start(&stage, &settings, &[]).await;
    stage.enqueue(4).await;
    hold.wait_for(4).await;
    proxy.refuse_new(true).await;
    proxy.cut_all().await;
    hold.release();
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().confirmed == 4).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    proxy.refuse_new(false).await;
    let mut breaches = breaches(&stage, kind).await;
    let sent = stage.states().await.get("sent").copied().unwrap_or_default();
    if sent != 4 {
        breaches.push(format!("4 were taken and their replies read, {sent} are sent"));
    }
    breaches
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_is_forgotten_is_noticed() {
    play(away_at_the_outcomes, &["outcome_dropped"]).await;
}

async fn armed_elsewhere(kind: Kind) -> Vec<String> {
    let stage = Stage::set().await;
    let relay = kind.start(&stage, &stage.settings(), &[]).await;
    stage.enqueue(1).await;
    stage.until("sent", 1).await;
    let elsewhere = "UPDATE outbox.control SET epoch = gen_random_uuid(), identity = 'another server'";
    stage.sql.execute(elsewhere, &[]).await.expect("it can be armed for another server");
    stage.enqueue(4).await;
    let accepted = || stage.server.with_ledger(|ledger| ledger.totals().accepted);
    let on_guard = || relay.lines().iter().any(|line| line.contains("guard mode"));
    comes_true(PATIENCE, async || on_guard() || accepted() > 1).await;
    if accepted() > 1 {
        vec![format!("{} were sent from an outbox armed for another server", accepted() - 1)]
    } else {
        vec![]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_sends_from_an_outbox_it_was_not_armed_for_is_noticed() {
    play(armed_elsewhere, &["epoch_ignored"]).await;
}
