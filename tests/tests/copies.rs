//! Copies of the database (RC-33) and earlier states of it (RC-25): nothing is sent from them until somebody says so, and
//! the original goes on undisturbed.

use std::time::Duration;

use hapax_testkit::{HapaxProcess, PgCluster, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Settings, Stage};
use hapax_tests::verdict::Verdict;

async fn ends_well(mut relay: HapaxProcess) {
    assert!(relay.status().is_none(), "it lives\n{}", relay.report());
    relay.sigterm();
    assert!(relay.wait_exit(Duration::from_secs(60)).await.success(), "{}", relay.report());
}

/// Deliveries that wait, some of them in hand at a relay that was killed.
async fn busy() -> Stage {
    let stage = Stage::with(SmtpServer::start()).await;
    let mut relay = stage.settings().run().await;
    let hold = stage.server.hold_final_reply();
    stage.enqueue(40).await;
    hold.wait_for(8).await;
    relay.sigkill();
    relay.wait_exit(Duration::from_secs(20)).await;
    hold.release();
    stage
}

/// A relay there refuses; armed it starts, and what the original may send is held; nothing has arrived by then.
async fn refused_then_held(stage: &Stage, settings: &Settings, operator: &Settings, words: &str) {
    let before = stage.server.with_ledger(|ledger| ledger.totals().end_markers);
    let mut relay = settings.spawn();
    assert_eq!(relay.wait_exit(PATIENCE).await.code(), Some(1), "{}", relay.report());
    assert!(relay.stderr().contains(words), "{}", relay.report());
    assert!(relay.stderr().contains("hapax arm --reason"), "{}", relay.report());
    let (code, output) = operator.command(["arm", "--reason", "this copy is to be used"]).await;
    println!("{output}");
    assert!(code == 0 && !output.contains("held: 0"), "{output}");
    let relay = settings.run().await;
    ends_well(relay).await;
    assert_eq!(stage.server.with_ledger(|ledger| ledger.totals().end_markers), before, "nothing left the copy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc33_a_dump_and_a_template_copy_are_refused_until_armed_and_then_hold_what_the_original_may_send() {
    let mut stage = busy().await;
    stage.cluster.dump_and_restore("postgres", "dumped").await.expect("dumped and restored");
    stage
        .cluster
        .execute(
            "template1",
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = 'postgres'",
        )
        .await
        .expect("nobody is connected");
    stage.cluster.execute("template1", "CREATE DATABASE copied TEMPLATE postgres").await.expect("copied");
    stage.reconnect().await;
    for copy in ["dumped", "copied"] {
        let of = |user: &str| stage.settings().set("database.url", stage.cluster.url_for(copy, user));
        refused_then_held(&stage, &of("relay"), &of("operator"), "not the database the outbox was armed for").await;
    }
    // The original has not noticed.
    let relay = stage.settings().run().await;
    stage.until_settled().await;
    ends_well(relay).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_clean(40);
    assert!(verdict.twice.is_empty() && verdict.count("held") == 0, "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc33_a_copy_of_the_whole_server_started_elsewhere_is_noticed_by_its_address() {
    let stage = Stage::with(SmtpServer::builder().final_reply_delay(Duration::from_millis(15)).start()).await;
    let original = stage.settings().run().await;
    stage.enqueue(800).await;
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= 50).await;
    let copy = PgCluster::copy_of(&stage.cluster).await.expect("a copy");
    let of = |user: &str| stage.settings().set("database.url", copy.url_for("postgres", user));
    let mut refused = of("relay").spawn();
    assert_eq!(refused.wait_exit(PATIENCE).await.code(), Some(1), "{}", refused.report());
    assert!(refused.stderr().contains("looks like a copy of the outbox"), "{}", refused.report());
    stage.until_settled().await;
    refused_then_held(&stage, &of("relay"), &of("operator"), "looks like a copy of the outbox").await;
    // A person may say that it is none of that.
    let trusting = of("relay").set("database.address_guard", "off").run().await;
    ends_well(trusting).await;
    ends_well(original).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(800);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc33_the_living_original_behind_another_address_is_recognised_by_a_heartbeat() {
    let stage = Stage::set().await;
    let first = stage.settings().run().await;
    eventually(PATIENCE, async || stage.count("SELECT count(*) FROM outbox.armed_address").await == 1).await;
    // Until the heartbeat of the first tells better, the server is known elsewhere only.
    stage
        .sql
        .batch_execute("UPDATE outbox.armed_address SET address = '10.0.0.5', port = port + 1")
        .await
        .expect("set");
    let second = stage.settings().run().await;
    stage.enqueue(50).await;
    stage.until("sent", 50).await;
    assert_eq!(stage.count("SELECT count(*) FROM outbox.armed_address").await, 2);
    for relay in [first, second] {
        ends_well(relay).await;
    }
    // With nobody alive in it, it is not believed.
    stage.sql.batch_execute("DELETE FROM outbox.armed_address WHERE address = ''").await.expect("set");
    let mut refused = stage.settings().spawn();
    assert_eq!(refused.wait_exit(PATIENCE).await.code(), Some(1), "{}", refused.report());
    assert!(refused.stderr().contains("10.0.0.5"), "{}", refused.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc25_rc33_a_snapshot_restored_in_place_under_a_living_relay_sends_no_history_again() {
    let mut stage = Stage::with(SmtpServer::builder().final_reply_delay(Duration::from_millis(10)).start()).await;
    let relay = stage.settings().run().await;
    stage.enqueue(300).await;
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= 50).await;
    stage.cluster.take_snapshot().await.expect("a snapshot");
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= 200).await;
    // Everything since is forgotten, and everything looks as it did: system, timeline, epoch, address.
    stage.cluster.restore_snapshot().await.expect("restored");
    stage.reconnect().await;
    relay.wait_for_line(|line| line.contains("guard mode")).await;
    eventually(PATIENCE, async || {
        let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
        (verdict.wrong.is_empty()
            && verdict.count("in_doubt") + verdict.count("sending") == 0
            && verdict.count("pending") + verdict.count("claimed") == 0)
            .then_some(())
            .ok_or_else(|| format!("{verdict}\n{}", verdict.wrong.join("\n")))
    })
    .await;
    let guarded = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    println!("in guard mode: {guarded}");
    guarded.assert_clean(300);
    assert!(guarded.accepted >= 200 && guarded.count("sent") == guarded.accepted, "{guarded}");
    // Nobody else starts on it either.
    let mut refused = stage.settings().spawn();
    assert_eq!(refused.wait_exit(PATIENCE).await.code(), Some(1), "{}", refused.report());
    let arm = ["arm", "--reason", "restored, the relay has told what it knew", "--release-held"];
    let (code, output) = stage.settings_of("operator").command(arm).await;
    println!("{output}");
    assert!(code == 0 && output.contains("restored to an earlier point") && output.contains("held: 0"), "{output}");
    stage.until("sent", 300).await;
    ends_well(relay).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(300);
}
