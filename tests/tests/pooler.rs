//! Through a real PgBouncer in transaction mode: no lock and no setting of a session is Hapax's to rely on, and none of
//! somebody else's may hurt it.

use std::time::Duration;

use fastrand::Rng;
use hapax_testkit::{PgCluster, SmtpServer, eventually};
use hapax_tests::pgbouncer::{PgBouncer, is_pooled};
use hapax_tests::stage::{PATIENCE, Settings, Stage};
use hapax_tests::verdict::Verdict;
use tokio_postgres::{Client, NoTls};

fn available() -> bool {
    match PgBouncer::available() {
        Ok(()) => true,
        Err(why) => {
            assert!(std::env::var_os("HAPAX_TESTS_ALL").is_none(), "{why}");
            eprintln!("SKIPPED: {why}");
            false
        }
    }
}

fn seed() -> u64 {
    let seed = std::env::var("HAPAX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("HAPAX_SEED={seed}");
    seed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc03_through_pgbouncer_in_transaction_mode_relays_are_killed_and_the_pooler_restarted_and_nothing_is_sent_twice()
 {
    const DELIVERIES: i32 = 1_500;
    const IN_FLIGHT: usize = 24;
    if !available() {
        return;
    }
    let stage = Stage::with(SmtpServer::builder().final_reply_delay(Duration::from_millis(15)).start()).await;
    let mut pooler = PgBouncer::start(stage.cluster.port(), 6).await;
    // Leases run out long before anybody is taken for dead: were they what keeps others away, mail would be doubled.
    let settings = stage
        .settings()
        .set("database.url", pooler.url_for("postgres", "relay"))
        .set("relay.max_in_flight", IN_FLIGHT)
        .set("relay.lease", "1s")
        .set("relay.dead_after", "4s");
    let mut random = Rng::with_seed(seed());
    stage.enqueue(DELIVERIES).await;
    let names = ["a", "b"];
    let mut relays = [
        settings.clone().set("relay.name", names[0]).run().await,
        settings.clone().set("relay.name", names[1]).run().await,
    ];
    for round in 0..6 {
        let taken = stage.server.with_ledger(|ledger| ledger.totals().end_markers);
        let mark = taken + random.usize(50..=200);
        stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().end_markers >= mark).await;
        if round % 2 == 0 {
            let victim = round / 2 % 2;
            relays[victim].sigkill();
            relays[victim].wait_exit(Duration::from_secs(10)).await;
            relays[victim] = settings.clone().set("relay.name", names[victim]).run().await;
        } else {
            // Every connection is cut, in whatever statement it is.
            pooler.restart().await;
        }
        // Mail flows on: what the tables say is compared at the end.
        stage.server.with_ledger(|ledger| ledger.assert_none_accepted_twice());
    }
    stage.until_settled().await;
    for mut relay in relays {
        assert!(relay.status().is_none(), "it has lived through it\n{}", relay.report());
        relay.sigterm();
        assert!(relay.wait_exit(Duration::from_secs(60)).await.success(), "{}", relay.report());
    }
    let verdict = Verdict::of(&stage.sql, &stage.server.ledger()).await;
    println!("three SIGKILLs and three restarts of the pooler: {verdict}");
    verdict.assert_clean(1_500);
    assert!(verdict.twice.is_empty() && verdict.count("in_doubt") <= 3 * IN_FLIGHT, "{verdict}");
    assert_eq!(verdict.count("sent") + verdict.count("in_doubt"), 1_500, "{verdict}");
    // It was a pooler: many transactions shared few backends, and no session ever held a lock of its own.
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    assert_eq!(stage.count(held).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc03_rc23_a_relay_that_cannot_be_woken_through_pgbouncer_says_so_once_and_polls() {
    if !available() {
        return;
    }
    let stage = Stage::set().await;
    let pooler = PgBouncer::start(stage.cluster.port(), 6).await;
    let settings = stage.settings().set("database.url", pooler.url_for("postgres", "relay"));
    let relay = settings.set("relay.poll_interval_asleep", "1h").run().await;
    let said = relay.wait_for_line(|line| line.contains("cannot be woken")).await;
    assert!(said.contains("pooler in transaction mode"), "{said}");
    for number in 1..=20 {
        stage.enqueue(1).await;
        stage.until("sent", number).await;
    }
    assert_eq!(stage.count("SELECT count(*) FROM outbox.sleeper").await, 0, "so no producer notifies for nothing");
    let warnings = relay.lines().iter().filter(|line| line.contains("cannot be woken")).count();
    assert_eq!(warnings, 1, "{}", relay.report());
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(20);
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("it takes a client");
    tokio::spawn(connection);
    client
}

async fn setting(client: &Client) -> String {
    let rows = client.simple_query("SHOW synchronous_commit").await.expect("it can be shown");
    rows.iter()
        .find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .expect("a row")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rc43_with_synchronous_commit_off_leaked_through_pgbouncer_no_acknowledged_intent_is_lost_in_a_crash() {
    const POOL: usize = 4;
    if !available() {
        return;
    }
    // Nothing reaches the disk but by a durable commit.
    let careless = PgCluster::builder().setting("wal_writer_delay", "10s").start().await.expect("a cluster");
    let mut stage =
        Stage::on(careless, SmtpServer::builder().final_reply_delay(Duration::from_millis(10)).start()).await;
    let pooler = PgBouncer::start(stage.cluster.port(), POOL).await;
    let url = pooler.url_for("postgres", "relay");
    // Somebody, as the same user, leaves the setting behind on every backend of the pool.
    let mut leaky = Vec::new();
    for _ in 0..POOL {
        let client = connect(&url).await;
        client.batch_execute("BEGIN; SET synchronous_commit = off").await.expect("sets");
        leaky.push(client);
    }
    for client in leaky {
        client.batch_execute("COMMIT").await.expect("commits");
    }
    for _ in 0..2 * POOL {
        assert_eq!(setting(&connect(&url).await).await, "off", "it leaks: the witness can tell");
    }
    let relay = stage.settings().set("database.url", url).run().await;
    stage.enqueue(600).await;
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= 100).await;
    // Markers are out, replies are held: the intents of all of these were acknowledged. Then memory is lost.
    let hold = stage.server.hold_final_reply();
    hold.wait_for(16).await;
    stage.cluster.crash().await.expect("crashed");
    stage.cluster.restart().await.expect("restarted");
    stage.reconnect().await;
    let begun = stage.server.with_ledger(|ledger| ledger.totals().end_markers);
    let known = stage
        .count(
            "SELECT (SELECT count(*) FROM outbox.queue WHERE intent IS NOT NULL) + (SELECT count(*) FROM outbox.done)",
        )
        .await;
    println!("{begun} end markers were begun, {known} deliveries have an intent or an end after the crash");
    assert!(known >= i64::try_from(begun).expect("few"), "{begun} end markers, {known} intents and ends");
    hold.release();
    stage.until_settled().await;
    Verdict::of(&stage.sql, &stage.server.ledger()).await.assert_each_once(600);
    eventually(PATIENCE, async || relay.status().is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_stands_behind_a_pooler_where_every_stage_is_to() {
    let stage = Stage::set().await;
    let (_, said) = stage.settings().command(["doctor"]).await;
    assert_eq!(said.contains("a pooler in transaction mode stands in front"), is_pooled(), "{said}");
    assert!(said.contains("things examined"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schema_is_made_through_pgbouncer_by_two_at_once() {
    if !available() {
        return;
    }
    let cluster = PgCluster::start().await.expect("a cluster");
    let pooler = PgBouncer::start(cluster.port(), 2).await;
    let settings = Settings::new(&pooler.url_for("postgres", "postgres"), "smtp://127.0.0.1:9?starttls=none");
    let (one, other) = tokio::join!(settings.command(["migrate", "up"]), settings.command(["migrate", "up"]));
    assert_eq!((one.0, other.0), (0, 0), "{}\n{}", one.1, other.1);
    let sql = cluster.client("postgres").await.expect("a client");
    let made = sql.query_one("SELECT count(*) FROM outbox.queue", &[]).await.expect("it is there");
    assert_eq!(made.get::<_, i64>(0), 0);
    let (code, said) = settings.command(["migrate", "status"]).await;
    assert_eq!(code, 0, "{said}");
}
