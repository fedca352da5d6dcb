//! The database fails over to a standby that has not seen the last commits (RC-34). Nothing is accepted twice: what living
//! relays know is restored, everything else that may have been sent is held until somebody decides.

use std::collections::BTreeSet;
use std::time::Duration;

use hapax_testkit::{ChaosProxy, HapaxProcess, PgCluster, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Settings, Stage};
use hapax_tests::verdict::Verdict;

const DELIVERIES: usize = 600;

/// A primary with a standby, and a proxy in front of whoever is primary now.
struct Pair {
    stage: Stage,
    standby: PgCluster,
    proxy: ChaosProxy,
}

impl Pair {
    async fn set() -> Self {
        let stage = Stage::with(SmtpServer::builder().final_reply_delay(Duration::from_millis(15)).start()).await;
        let standby = PgCluster::standby_of(&stage.cluster).await.expect("a standby");
        let proxy = ChaosProxy::start(([127, 0, 0, 1], stage.cluster.port()).into());
        Self { stage, standby, proxy }
    }

    fn settings(&self, name: &str) -> Settings {
        let url = format!("postgres://relay@127.0.0.1:{}/postgres", self.proxy.port());
        self.stage.settings().set("database.url", url).set("relay.name", name)
    }

    fn operator(&self) -> Settings {
        self.stage.settings().set("database.url", self.standby.url_for("postgres", "operator"))
    }

    /// Waits until the standby has everything that is committed now.
    async fn caught_up(&self) {
        let lsn = self.stage.text("SELECT pg_current_wal_flush_lsn()::text", &[]).await.expect("a position");
        let standby = self.standby.client("postgres").await.expect("it answers");
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn");
        eventually(PATIENCE, async || {
            let there: bool = standby.query_one(&sql, &[]).await.expect("reads").get(0);
            there.then_some(()).ok_or("the standby lags")
        })
        .await;
    }

    /// Load, of which the standby sees the beginning only; then replies are outstanding, and the primary dies.
    async fn lose(&self) -> hapax_testkit::Hold {
        self.stage.enqueue(DELIVERIES as i32).await;
        self.stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= 60).await;
        self.caught_up().await;
        self.standby.cut_replication().await.expect("cut");
        let seen = self.stage.server.with_ledger(|ledger| ledger.totals().accepted);
        let enough = |accepted: usize| accepted >= (seen + 120).min(DELIVERIES - 100);
        self.stage.server.wait_until_within(PATIENCE, |ledger| enough(ledger.totals().accepted)).await;
        let hold = self.stage.server.hold_final_reply();
        hold.wait_for(8).await;
        hold
    }

    /// The primary is gone, the standby takes over, connections arrive there.
    async fn fail_over(&mut self) {
        self.stage.cluster.crash().await.expect("crashed");
        self.standby.promote().await.expect("promoted");
        self.proxy.upstream(([127, 0, 0, 1], self.standby.port()).into());
        self.proxy.cut_all().await;
        self.stage.sql = self.standby.client("postgres").await.expect("it takes a client");
    }

    async fn verdict(&self) -> Verdict {
        Verdict::of(&self.stage.sql, &self.stage.server.ledger()).await
    }

    async fn recipients(&self, filter: &str) -> BTreeSet<String> {
        let sql = format!("SELECT message_id || '/' || recipient FROM outbox.deliveries WHERE {filter}");
        let rows = self.stage.sql.query(&sql, &[]).await.expect("reads");
        rows.iter().map(|row| row.get(0)).collect()
    }
}

async fn guarded(relay: &HapaxProcess) {
    relay.wait_for_line(|line| line.contains("guard mode")).await;
}

async fn ends_well(mut relay: HapaxProcess) {
    assert!(relay.status().is_none(), "it has lived through it\n{}", relay.report());
    relay.sigterm();
    assert!(relay.wait_exit(Duration::from_secs(60)).await.success(), "{}", relay.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc34_relays_that_live_through_a_lossy_failover_restore_what_they_know_and_nothing_is_accepted_twice() {
    let mut pair = Pair::set().await;
    let relays = [pair.settings("a").run().await, pair.settings("b").run().await];
    let hold = pair.lose().await;
    pair.fail_over().await;
    for relay in &relays {
        guarded(relay).await;
    }
    eventually(PATIENCE, async || {
        let walked = pair.stage.count("SELECT count(*) FROM outbox.failover WHERE completed_at IS NOT NULL").await;
        (walked == 1).then_some(()).ok_or(walked)
    })
    .await;
    // Outstanding replies are in doubt with the token of their attempt, and resolved by themselves when they come.
    let outstanding = pair.verdict().await;
    hold.release();
    eventually(PATIENCE, async || {
        let verdict = pair.verdict().await;
        (verdict.wrong.is_empty() && verdict.count("in_doubt") + verdict.count("sending") == 0)
            .then_some(())
            .ok_or_else(|| format!("{verdict}\n{}", verdict.wrong.join("\n")))
    })
    .await;
    let guarded = pair.verdict().await;
    println!("in guard mode, replies outstanding: {outstanding}\nall read: {guarded}");
    guarded.assert_clean(DELIVERIES);
    assert_eq!(guarded.count("sent"), guarded.accepted, "{guarded}");
    let restored = pair.stage.count("SELECT count(*) FROM outbox.done WHERE state = 'sent'").await;
    assert!(restored >= 150, "{guarded}");
    // What is enqueued now waits, and is not held.
    pair.stage.enqueue(20).await;
    let (code, output) = pair.operator().command(["arm", "--reason", "the primary is gone"]).await;
    println!("{output}");
    assert_eq!(code, 0, "{output}");
    let held = guarded.count("held");
    assert!(held > 0 && output.contains("00000002"), "{guarded}\n{output}");
    assert!(output.contains("hapax ls --state held") && output.contains("in doubt: 0"), "{output}");
    // They go on by themselves: with what is new.
    pair.stage.until("sent", restored + 20).await;
    let verdict = pair.verdict().await;
    verdict.assert_clean(DELIVERIES + 20);
    assert_eq!((verdict.count("held"), verdict.twice.len()), (held, 0), "{verdict}");
    let release = ["release", "--failover", "--reason", "relays lived, the held were never sent"];
    let (code, output) = pair.operator().command(release).await;
    assert!(code == 0 && output.contains(&format!("{held} released")), "{output}");
    pair.stage.until_settled().await;

    // The old primary comes back, and connections arrive there: everything is pending in it, and armed. It is older.
    pair.stage.cluster.restart().await.expect("it is back");
    let old = pair.stage.cluster.client("postgres").await.expect("it takes a client");
    let pending: i64 = old.query_one("SELECT count(*) FROM outbox.queue", &[]).await.expect("reads").get(0);
    assert!(pending > 0);
    let markers = pair.stage.server.with_ledger(|ledger| ledger.totals().end_markers);
    pair.proxy.upstream(([127, 0, 0, 1], pair.stage.cluster.port()).into());
    pair.proxy.cut_all().await;
    for relay in &relays {
        relay.wait_for_line(|line| line.contains("older than the last arming")).await;
    }
    let marks = relays.each_ref().map(|relay| relay.lines().len());
    pair.proxy.upstream(([127, 0, 0, 1], pair.standby.port()).into());
    pair.proxy.cut_all().await;
    for (relay, mark) in relays.iter().zip(marks) {
        relay.wait_for_line_after(mark, |line| line.contains("the relay is running")).await;
    }
    assert_eq!(
        pair.stage.server.with_ledger(|ledger| ledger.totals().end_markers),
        markers,
        "nothing left the old one"
    );

    for relay in relays {
        assert!(relay.lines().iter().filter(|line| line.contains("the relay is running")).count() >= 2);
        ends_well(relay).await;
    }
    let verdict = pair.verdict().await;
    println!("released: {verdict}");
    verdict.assert_each_once(DELIVERIES + 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc34_when_all_relays_die_with_the_primary_nothing_is_sent_until_armed_and_only_what_is_released_after() {
    let mut pair = Pair::set().await;
    let mut relays = [pair.settings("a").run().await, pair.settings("b").run().await];
    let hold = pair.lose().await;
    for relay in &mut relays {
        relay.sigkill();
        relay.wait_exit(Duration::from_secs(20)).await;
    }
    hold.release();
    let (code, standby) = pair.operator().command(["arm", "--reason", "too early"]).await;
    assert!(code == 1 && standby.contains("this is a standby: promote it first"), "{standby}");
    let (code, standby) = pair.operator().command(["status"]).await;
    assert!(code == 0 && standby.starts_with("this is a standby"), "{standby}");
    pair.fail_over().await;
    let before = pair.stage.server.with_ledger(|ledger| ledger.totals().accepted);

    let (code, status) = pair.operator().command(["status"]).await;
    assert!(code == 0 && status.starts_with("NOT ARMED: nothing is sent from here (armed for "), "{status}");
    let mut refused = pair.settings("c").spawn();
    assert_eq!(refused.wait_exit(PATIENCE).await.code(), Some(1), "{}", refused.report());
    assert!(refused.stderr().contains("hapax arm --reason"), "{}", refused.report());
    let (code, output) = pair.operator().command(["arm", "--reason", "the primary is gone"]).await;
    assert_eq!(code, 0, "{output}");
    let relay = pair.settings("d").run().await;
    pair.stage.enqueue(10).await;
    pair.stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted == before + 10).await;
    pair.stage.until_settled().await;
    let armed = pair.verdict().await;
    println!("armed: {armed}");
    assert!(armed.twice.is_empty() && armed.accepted == before + 10, "{armed}");
    let held = pair.recipients("state = 'held'").await;
    let doubtful = pair.recipients("state = 'in_doubt'").await;
    assert!(held.len() > 100 && doubtful.len() <= 64, "{armed}");

    // A person finds out about some, and releases the rest: of that, what had been sent is sent again, by decision.
    let (code, output) = pair.operator().command(["release", "--failover", "--reason", "better twice"]).await;
    assert!(code == 0 && output.contains(&format!("{} released", held.len())), "{output}");
    pair.stage.until_settled().await;
    ends_well(relay).await;
    let released = pair.verdict().await;
    println!("released: states {:?}, accepted {}, twice {}", released.states, released.accepted, released.twice.len());
    // Every second copy was decided, by the release.
    released.assert_clean(DELIVERIES + 10);
    let twice: BTreeSet<String> = released.twice.iter().map(|(delivery, ..)| delivery.clone()).collect();
    assert!(!twice.is_empty() && twice.is_subset(&held), "{released}");
    assert!(released.twice.iter().all(|(_, accepted, resends)| *accepted == 2 && *resends == 1), "{released}");
    assert_eq!(pair.recipients("state = 'in_doubt'").await, doubtful, "doubts wait for a person");
    assert_eq!(released.count("sent") + doubtful.len(), DELIVERIES + 10, "{released}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc34_with_synchronous_replication_and_continue_relays_go_on_by_themselves_and_nothing_is_held() {
    let mut pair = Pair::set().await;
    pair.stage.sql.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.expect("set");
    pair.stage.sql.batch_execute("SELECT pg_reload_conf()").await.expect("reloaded");
    eventually(PATIENCE, async || {
        let sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        (pair.stage.count(sync).await == 1).then_some(()).ok_or("not synchronous yet")
    })
    .await;
    let go_on = |name: &str| pair.settings(name).set("database.after_failover", "continue");
    let relays = [go_on("a").run().await, go_on("b").run().await];
    pair.stage.enqueue(DELIVERIES as i32).await;
    pair.stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= 150).await;
    pair.fail_over().await;
    // The new primary would wait for a standby of its own.
    pair.stage.sql.batch_execute("ALTER SYSTEM SET synchronous_standby_names = ''").await.expect("set");
    pair.stage.sql.batch_execute("SELECT pg_reload_conf()").await.expect("reloaded");
    pair.stage.until("sent", DELIVERIES as i64).await;
    for relay in relays {
        ends_well(relay).await;
    }
    pair.verdict().await.assert_each_once(DELIVERIES);
    assert_eq!(pair.stage.count("SELECT count(*) FROM outbox.audit WHERE action = 'arm, continue'").await, 1);
}
