//! The database goes away: killed, restarted, unreachable, late, or not the one it was. The relay stays, waits, and goes
//! on by itself; what the mail server took meanwhile is recorded later, never sent again.

use std::time::{Duration, Instant};

use hapax_testkit::{ChaosProxy, HapaxProcess, PgCluster, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Settings, Stage, running};
use hapax_tests::verdict::Verdict;

fn slow_server() -> SmtpServer {
    SmtpServer::builder().final_reply_delay(Duration::from_millis(15)).start()
}

/// A proxy before the database, and the URL through it.
fn proxied(cluster: &PgCluster) -> (ChaosProxy, String) {
    let proxy = ChaosProxy::start(([127, 0, 0, 1], cluster.port()).into());
    let url = format!("postgres://relay@127.0.0.1:{}/postgres", proxy.port());
    (proxy, url)
}

async fn ends_well(mut relay: HapaxProcess) {
    assert!(relay.status().is_none(), "it has lived through it\n{}", relay.report());
    relay.sigterm();
    assert!(relay.wait_exit(Duration::from_secs(30)).await.success(), "{}", relay.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc19_postgres_killed_three_times_under_load_costs_no_duplicate_no_loss_and_no_restart_of_the_relay() {
    let mut stage = Stage::with(slow_server()).await;
    let relay = stage.settings().run().await;
    stage.enqueue(1_500).await;
    for mark in [200, 600, 1_000] {
        stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= mark).await;
        stage.cluster.kill_immediate().await.expect("killed");
        stage.cluster.restart().await.expect("restarted");
    }
    stage.reconnect().await;
    let back = Instant::now();
    stage.until_settled().await;
    println!("settled {:.1?} after the last restart", back.elapsed());
    ends_well(relay).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_each_once(1_500);
    println!("{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc19_postgres_crashed_with_sigkill_between_reply_and_commit_loses_no_intent_that_was_answered() {
    let mut stage = Stage::with(slow_server()).await;
    let relay = stage.settings().run().await;
    stage.enqueue(600).await;
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= 150).await;
    // Replies are held: intents are durable, outcomes are not there yet. Then the database loses everything unflushed.
    let hold = stage.server.hold_final_reply();
    hold.wait_for(16).await;
    stage.cluster.crash().await.expect("crashed");
    hold.release();
    stage.cluster.restart().await.expect("restarted");
    stage.reconnect().await;
    stage.until_settled().await;
    ends_well(relay).await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_unreachable_for_twenty_seconds_under_load_is_waited_for() {
    let stage = Stage::with(slow_server()).await;
    let (proxy, url) = proxied(&stage.cluster);
    let relay = stage.settings().set("database.url", url).set("relay.transmit_deadline", "60s").run().await;
    stage.enqueue(1_500).await;
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= 300).await;
    // A black hole, not a refusal: bytes vanish both ways, nobody says so.
    proxy.stall_all(true);
    let (cut_at, before) = (Instant::now(), stage.server.with_ledger(|ledger| ledger.totals().end_markers));
    tokio::time::sleep(Duration::from_secs(20)).await;
    let during = stage.server.with_ledger(|ledger| ledger.totals().end_markers) - before;
    proxy.cut_all().await;
    proxy.stall_all(false);
    let back = Instant::now();
    stage.until_settled().await;
    println!(
        "unreachable for {:.1?}: {during} end markers meanwhile; settled {:.1?} after it was back",
        back - cut_at,
        back.elapsed()
    );
    // Only what had its intent when the database vanished may have gone out.
    assert!(during <= 32, "{during}");
    ends_well(relay).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_each_once(1_500);
    println!("{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc44_after_an_outage_longer_than_dead_after_nobody_is_taken_for_dead_and_nothing_is_resent() {
    let stage = Stage::with(slow_server()).await;
    let (proxy, url) = proxied(&stage.cluster);
    let settings = stage.settings().set("database.url", url).set("relay.on_doubt", "resend");
    let relays = [settings.clone().set("relay.name", "a").run().await, settings.set("relay.name", "b").run().await];
    stage.enqueue(800).await;
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= 200).await;
    let hold = stage.server.hold_final_reply();
    hold.wait_for(8).await;
    proxy.refuse_new(true).await;
    proxy.cut_all().await;
    // Longer than dead_after (1.5 s), with replies outstanding at both.
    tokio::time::sleep(Duration::from_secs(4)).await;
    proxy.refuse_new(false).await;
    hold.release();
    stage.until_settled().await;
    for relay in relays {
        ends_well(relay).await;
    }
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_each_once(800);
    assert_eq!(stage.count("SELECT count(*) FROM outbox.attempt WHERE outcome = 'unknown'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc37_rc40_connections_cut_again_and_again_in_the_middle_of_statements_leave_nothing_stuck() {
    let stage = Stage::with(slow_server()).await;
    let (proxy, url) = proxied(&stage.cluster);
    let relay = stage.settings().set("database.url", url).run().await;
    stage.enqueue(1_000).await;
    let mut cuts = 0;
    for mark in (50..900).step_by(50) {
        stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= mark).await;
        // The statement arrives, its answer does not: after so many bytes, somewhere in the middle of anything.
        proxy.cut_after_bytes(hapax_testkit::Direction::ToClient, fastrand::u64(1..2_000));
        if mark % 100 == 0 {
            proxy.cut_all().await;
        }
        cuts += 1;
    }
    stage.until_settled().await;
    ends_well(relay).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    println!("{cuts} cuts, {} connections: {verdict}", proxy.counters().accepted);
    verdict.assert_each_once(1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_starts_before_its_database_waits_for_it_and_then_works() {
    let mut stage = Stage::set().await;
    stage.cluster.stop().await.expect("stopped");
    // A pooler takes the connection all the same, and says nothing.
    let settings = stage.settings().set("database.statement_timeout", "5s");
    let relay = settings.spawn();
    relay.wait_for_line(|line| line.contains("waiting for the database")).await;
    stage.cluster.restart().await.expect("restarted");
    running(&relay).await;
    stage.reconnect().await;
    stage.enqueue(50).await;
    stage.until("sent", 50).await;
    ends_well(relay).await;
    // And one that is told to end while it still waits, ends.
    stage.cluster.stop().await.expect("stopped");
    let mut relay = settings.spawn();
    relay.wait_for_line(|line| line.contains("waiting for the database")).await;
    relay.sigterm();
    assert!(relay.wait_exit(Duration::from_secs(10)).await.success(), "{}", relay.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_a_connection_and_says_nothing_is_not_waited_for_in_silence() {
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("postgres://relay@{}/postgres", mute.local_addr().expect("it is bound"));
    let settings = Settings::new(&url, "smtp://127.0.0.1:9?starttls=none").set("database.statement_timeout", "1s");
    let mut relay = settings.spawn();
    let said = relay.wait_for_line(|line| line.contains("waiting for the database")).await;
    assert!(said.contains("connect: no answer from the database in time"), "{said}");
    relay.sigterm();
    assert!(relay.wait_exit(Duration::from_secs(10)).await.success(), "{}", relay.report());
    for command in [["migrate", "status"], ["status", "--json"], ["migrate", "up"]] {
        let (code, said) = settings.command(command).await;
        assert_eq!(code, 1, "{command:?}: {said}");
        assert!(said.contains("connect: no answer from the database in time"), "{command:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_goes_away_while_a_relay_registers_is_waited_for() {
    let stage = Stage::set().await;
    let (proxy, url) = proxied(&stage.cluster);
    // Found by a storm: the statement waits, its connection breaks, and the relay gave up.
    let locker = stage.cluster.client("postgres").await.expect("it takes a client");
    locker.batch_execute("BEGIN; LOCK TABLE outbox.relay").await.expect("locked");
    let relay = stage.settings().set("database.url", url).spawn();
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%outbox.register */%'";
    eventually(PATIENCE, async || stage.count(waiting).await == 1).await;
    proxy.cut_all().await;
    locker.batch_execute("COMMIT").await.expect("unlocked");
    running(&relay).await;
    stage.enqueue(10).await;
    stage.until("sent", 10).await;
    ends_well(relay).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_without_a_schema_ends_with_78_and_says_what_to_type() {
    let cluster = PgCluster::start().await.expect("a cluster starts");
    let settings = Settings::new(&cluster.url(), "smtp://127.0.0.1:9?starttls=none");
    let mut relay = settings.spawn();
    assert_eq!(relay.wait_exit(Duration::from_secs(20)).await.code(), Some(78), "{}", relay.report());
    assert!(relay.stderr().contains("hapax migrate up"), "{}", relay.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc25_rc33_another_epoch_ends_the_incarnation_and_the_relay_goes_on_with_a_fresh_one_by_itself() {
    let stage = Stage::with(slow_server()).await;
    let relay = stage.settings().run().await;
    stage.enqueue(1_000).await;
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= 100).await;
    let hold = stage.server.hold_final_reply();
    hold.wait_for(8).await;
    // An operator arms while it runs, on the right server: nothing was lost, so nothing is held.
    let armed = stage.count("SELECT held FROM outbox.arm('rehearsal')").await;
    assert_eq!(armed, 0);
    relay.wait_for_line(|line| line.contains("going on")).await;
    hold.release();
    stage.until("sent", 1_000).await;
    let incarnations = "SELECT count(DISTINCT relay) FROM outbox.attempt WHERE outcome = 'accepted'";
    assert_eq!(stage.count(incarnations).await, 2, "a fresh incarnation");
    ends_well(relay).await;
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    verdict.assert_each_once(1_000);
    println!("{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_with_prepared_transactions_is_polled_by_relays_that_slept_and_wakes_nobody() {
    let mut stage = Stage::with(SmtpServer::start()).await;
    let url = stage.cluster.direct_url_for("postgres", "relay");
    let relay = stage.settings().set("database.url", url).run().await;
    let asleep = async |stage: &Stage, count: i64| {
        eventually(PATIENCE, async || {
            let found: i64 =
                stage.sql.query_one("SELECT count(*) FROM outbox.sleeper", &[]).await.expect("is told").get(0);
            if found == count { Ok(()) } else { Err(found) }
        })
        .await;
    };
    asleep(&stage, 1).await;
    // It has been woken before: the next count begins at nothing.
    stage.enqueue(1).await;
    stage.until_settled().await;
    asleep(&stage, 1).await;
    stage.sql.batch_execute("ALTER SYSTEM SET max_prepared_transactions = 10").await.expect("is set");
    stage.cluster.stop().await.expect("stops");
    stage.cluster.restart().await.expect("restarted");
    stage.reconnect().await;
    // One of a relay that is gone, which says so to nobody.
    let gone = "INSERT INTO outbox.sleeper SELECT gen_random_uuid(), now() + interval '1 minute'";
    stage.sql.batch_execute(gone).await.expect("is there");
    let business = "BEGIN; SELECT outbox.enqueue('note', ARRAY['p@example.org'], NULL, subject => 's', body_text => 't'); \
                    PREPARE TRANSACTION 'shop'";
    stage.sql.batch_execute(business).await.expect("can be prepared");
    stage.sql.batch_execute("COMMIT PREPARED 'shop'").await.expect("commits");
    stage.enqueue(3).await;
    stage.until_settled().await;
    assert!(relay.report().contains("the relay is not woken, it polls"), "{}", relay.report());
    ends_well(relay).await;
    assert_eq!(stage.server.ledger().totals().accepted, 5);
}
