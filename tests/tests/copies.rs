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
    assert!(code == 0 && !output.contains("held by this failover: 0"), "{output}");
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
    // Slow enough that much is waiting when the copy is complete.
    let stage = Stage::with(SmtpServer::builder().final_reply_delay(Duration::from_millis(60)).start()).await;
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
    ends_well(first).await;
    // The server is known elsewhere only. Somebody's heartbeat goes on in it, of a version that does not record addresses.
    let elsewhere = "UPDATE outbox.armed_address SET address = '10.0.0.5', port = port + 1;
                     INSERT INTO outbox.relay (incarnation, name, host, pid, version, doubt_grace) VALUES (gen_random_uuid(), 'other', 'h', 1, '0', '1 min')";
    stage.sql.batch_execute(elsewhere).await.expect("set");
    let heart = stage.cluster.client("postgres").await.expect("a client");
    let beating = tokio::spawn(async move {
        loop {
            heart.execute("UPDATE outbox.relay SET beat = beat + 1 WHERE name = 'other'", &[]).await.expect("beats");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let second = stage.settings().run().await;
    assert!(second.stderr().contains("looking for a living relay"), "{}", second.report());
    stage.enqueue(50).await;
    stage.until("sent", 50).await;
    let how = "SELECT how FROM outbox.armed_address WHERE address = ''";
    assert_eq!(stage.text(how, &[]).await.as_deref(), Some("the heartbeat of another relay goes on there"));
    ends_well(second).await;
    beating.abort();
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
    assert!(
        code == 0 && output.contains("restored to an earlier point") && output.contains("held by this failover: 0"),
        "{output}"
    );
    stage.until("sent", 300).await;
    ends_well(relay).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc48_data_restored_into_another_outbox_disarms_it_and_messages_past_the_trigger_are_reported_not_sent() {
    let stage = busy().await;
    let markers = stage.server.with_ledger(|ledger| ledger.totals().end_markers);
    stage.cluster.create_database("other").await.expect("created");
    let of = |user: &str| stage.settings().set("database.url", stage.cluster.url_for("other", user));
    let (code, output) = of("postgres").command(["migrate", "up"]).await;
    assert_eq!(code, 0, "{output}");
    // Queue rows and all: tables are filled directly, past the doors. Rows that are there already are complained about.
    let restored = stage.cluster.restore_into("postgres", "other", &["--data-only"]).await;
    println!("{restored:?}");
    let other = stage.cluster.client("other").await.expect("a client");
    let due: i64 =
        other.query_one("SELECT count(*) FROM outbox.queue WHERE due_at <= now()", &[]).await.expect("reads").get(0);
    assert!(due > 0, "everything is due, and nothing may be sent");
    refused_then_held(&stage, &of("relay"), &of("operator"), "data of another outbox").await;

    // Into an outbox that is in use, past the doors: nothing becomes due, and it is said.
    let relay = of("relay").run().await;
    let past = "SET session_replication_role = replica;
                INSERT INTO outbox.message (created_at, kind, recipients, subject, body_text) VALUES (now(), 'note', '{a@example.org}', 'x', 'x')";
    other.batch_execute(past).await.expect("inserts");
    relay.wait_for_line(|line| line.contains("neither a queue row nor a terminal record")).await;
    assert!(!relay.stderr().contains("could not finish its round"), "{}", relay.report());
    ends_well(relay).await;
    assert_eq!(stage.server.with_ledger(|ledger| ledger.totals().end_markers), markers);
}
