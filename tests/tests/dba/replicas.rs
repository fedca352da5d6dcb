//! Beside replication: nothing is sent from what only receives, logically or physically, and what can be read there is.

use std::process::Command;

use hapax_testkit::{HapaxProcess, PgCluster, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Settings, Stage};
use tokio_postgres::Client;

/// A publisher with its relay's stage, and a subscriber with an outbox of its own, to the same mail server.
struct Pair {
    stage: Stage,
    subscriber: PgCluster,
    there: Client,
}

impl Pair {
    async fn set() -> Self {
        let logical = || PgCluster::builder().setting("wal_level", "logical");
        let stage = Stage::on(logical().start().await.expect("a cluster"), SmtpServer::start()).await;
        let subscriber = logical().start().await.expect("a cluster");
        let settings = Settings::new(&subscriber.url(), "smtp://127.0.0.1:1?starttls=none");
        let (code, said) = settings.command(["migrate", "up"]).await;
        assert_eq!(code, 0, "{said}");
        let roles = "CREATE ROLE relay LOGIN IN ROLE outbox_relay; CREATE ROLE operator LOGIN IN ROLE outbox_operator";
        subscriber.execute("postgres", roles).await.expect("roles can be made");
        let there = subscriber.client("postgres").await.expect("it takes a client");
        Self { stage, subscriber, there }
    }

    fn settings_there(&self, user: &str) -> Settings {
        let url = self.subscriber.url_for("postgres", user);
        self.stage.settings().set("database.url", url).set("relay.name", "there")
    }

    async fn subscribe(&self, tables: &str) {
        self.stage.sql.batch_execute(&format!("CREATE PUBLICATION mail FOR {tables}")).await.expect("publishes");
        // Replication speaks to the server itself: no pooler carries it.
        let from = self.stage.cluster.direct_url_for("postgres", "postgres");
        let subscribe = format!("CREATE SUBSCRIPTION mail CONNECTION '{from}' PUBLICATION mail");
        self.there.batch_execute(&subscribe).await.expect("subscribes");
    }

    async fn count_there(&self, sql: &str) -> i64 {
        self.there.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    async fn until_there(&self, sql: &str, count: i64) {
        eventually(PATIENCE, async || {
            let found = self.count_there(sql).await;
            (found == count).then_some(()).ok_or_else(|| format!("{found}: {sql}\n{}", self.subscriber.log()))
        })
        .await;
    }
}

async fn ends(mut relay: HapaxProcess) {
    relay.sigterm();
    assert!(relay.wait_exit(PATIENCE).await.success(), "{}", relay.report());
}

const QUEUED: &str = "SELECT count(*) FROM outbox.queue";
const ENDED: &str = "SELECT count(*) FROM outbox.done WHERE state = 'sent'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_logical_replication_brings_is_never_sent_from_the_subscriber_until_somebody_arms_it() {
    let pair = Pair::set().await;
    // Its relay lives, and is armed for it: what its own applications enqueue goes.
    let relay_there = pair.settings_there("relay").run().await;
    let own = "SELECT outbox.enqueue('note', '{own@example.org}', subject => 'x', body_text => 'y')";
    pair.there.batch_execute(own).await.expect("enqueues");
    pair.until_there(ENDED, 1).await;
    // What waits, and what comes later.
    pair.stage.enqueue(50).await;
    pair.subscribe("TABLE outbox.message, outbox.queue, outbox.done, outbox.attempt WITH (publish_via_partition_root)")
        .await;
    pair.until_there(QUEUED, 50).await;
    relay_there.wait_for_line(|line| line.contains("guard mode")).await;
    pair.stage.enqueue(50).await;
    pair.until_there(QUEUED, 100).await;
    assert_eq!(pair.stage.server.with_ledger(|ledger| ledger.totals().accepted), 1, "but its own");
    // Nor from a relay that starts there.
    let (code, said) = pair.settings_there("relay").command(["run"]).await;
    assert!(code == 1 && said.contains("rows of another outbox are replicated into it"), "{code}: {said}");
    let (_, said) = pair.settings_there("operator").command(["status"]).await;
    assert!(said.contains("rows of another outbox are replicated into it"), "{said}");

    // The publisher sends, and the subscriber follows.
    let relay = pair.stage.settings().run().await;
    pair.stage.until("sent", 100).await;
    pair.until_there(ENDED, 101).await;
    pair.until_there(QUEUED, 0).await;
    ends(relay).await;
    // Moved for good: the publisher has ended, what it had left comes along and is held until somebody has looked.
    pair.stage.enqueue(5).await;
    pair.until_there(QUEUED, 5).await;
    pair.there.batch_execute("DROP SUBSCRIPTION mail").await.expect("ends");
    let (code, said) = pair.settings_there("operator").command(["arm", "--reason", "moved here"]).await;
    assert_eq!(code, 0, "{said}");
    pair.there.batch_execute(own).await.expect("enqueues");
    pair.until_there(ENDED, 102).await;
    let held = "SELECT count(*) FROM outbox.queue WHERE parked = 'held'";
    assert_eq!(pair.count_there(held).await, 5);
    assert_eq!(pair.stage.server.with_ledger(|ledger| ledger.totals().accepted), 102);
    let (code, said) = pair
        .settings_there("operator")
        .command(["release", "--failover", "--reason", "the publisher sends no more"])
        .await;
    assert_eq!(code, 0, "{said}");
    pair.until_there(ENDED, 107).await;
    ends(relay_there).await;
    pair.stage.server.with_ledger(|ledger| ledger.assert_none_accepted_twice());
}

/// Data alone, as `pg_dump` takes it and `pg_restore` puts it back.
fn restore_queue(from: &str, to: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("queue.dump");
    let ended = |command: &mut Command| {
        let output = command.output().expect("it is installed");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    ended(Command::new("pg_dump").args(["-Fc", "--data-only", "-t", "outbox.queue", "-d", from, "-f"]).arg(&file));
    ended(Command::new("pg_restore").args(["--data-only", "--disable-triggers", "-d", to]).arg(&file));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_without_triggers_a_subscriber_says_how_it_is_guarded_again_and_its_producers_disarm_nothing() {
    let pair = Pair::set().await;
    pair.stage.enqueue_one("later@example.org", ", not_before => now() + interval '1 day'").await;
    restore_queue(&pair.stage.cluster.url(), &pair.subscriber.url());
    let enabled = "SELECT count(*) FROM pg_trigger WHERE tgname = 'queue_is_ours' AND tgenabled = 'O'";
    assert_eq!((pair.count_there(enabled).await, pair.count_there(QUEUED).await), (1, 1), "this is what it does");
    pair.there.batch_execute("DELETE FROM outbox.queue").await.expect("of the publisher");
    // Its own applications go on, and so does its relay.
    let relay_there = pair.settings_there("relay").run().await;
    let own = "SELECT outbox.enqueue('note', '{own@example.org}', subject => 'x', body_text => 'y')";
    pair.there.batch_execute(own).await.expect("enqueues");
    pair.until_there(ENDED, 1).await;
    let armed = "SELECT count(*) FROM outbox.control WHERE identity = outbox.database_identity()";
    assert_eq!(pair.count_there(armed).await, 1);
    let doctor = async || pair.settings_there("relay").command(["doctor", "--timeout", "3s"]).await;
    let remedy = "ALTER TABLE outbox.queue ENABLE REPLICA TRIGGER queue_is_ours;";
    let (code, said) = doctor().await;
    assert!(code == 1 && said.contains(remedy), "{code}: {said}");
    pair.there.batch_execute(remedy).await.expect("by its owner");
    let (_, said) = doctor().await;
    assert!(!said.contains("queue_is_ours"), "{said}");
    // Guarded as before.
    pair.subscribe("TABLE outbox.message, outbox.queue WITH (publish_via_partition_root)").await;
    pair.until_there(QUEUED, 1).await;
    assert_eq!(pair.count_there(armed).await, 0);
    relay_there.wait_for_line(|line| line.contains("guard mode")).await;
    ends(relay_there).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_of_all_tables_disturbs_no_delivery_and_no_upgrade() {
    let pair = Pair::set().await;
    pair.subscribe("ALL TABLES").await;
    let relay = pair.stage.settings().run().await;
    pair.stage.enqueue(40).await;
    pair.stage.until("sent", 40).await;
    // Every row of the outbox may be changed: each table has a replica identity.
    let bare = "SELECT count(*) FROM pg_class c WHERE c.relnamespace = 'outbox'::regnamespace AND c.relkind IN ('r', 'p') AND c.relreplident = 'd'
                AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)";
    assert_eq!(pair.stage.count(bare).await, 0);
    pair.stage.sql.batch_execute("UPDATE outbox.privilege SET names = names").await.expect("may be changed");
    let (code, said) =
        pair.stage.settings_of("postgres").command(["erase", "r1@example.org", "--reason", "asked"]).await;
    assert_eq!(code, 0, "{said}");
    pair.until_there(ENDED, 40).await;
    pair.stage.enqueue_one("later@example.org", ", not_before => now() + interval '1 hour'").await;
    pair.until_there(QUEUED, 1).await;
    let armed = "SELECT count(*) FROM outbox.control WHERE identity = outbox.database_identity()";
    assert_eq!(pair.count_there(armed).await, 0);
    ends(relay).await;
    pair.stage.server.with_ledger(|ledger| ledger.assert_none_accepted_twice());
    assert_eq!(pair.stage.server.with_ledger(|ledger| ledger.totals().accepted), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_standby_answers_who_looks_and_its_relay_waits_until_it_is_promoted() {
    let stage = Stage::set().await;
    stage.enqueue(20).await;
    let id = stage.enqueue_one("ada@example.org", "").await.to_string();
    let relay = stage.settings().run().await;
    stage.until("sent", 21).await;
    stage.enqueue_one("later@example.org", ", not_before => now() + interval '1 hour'").await;
    let standby = PgCluster::standby_of(&stage.cluster).await.expect("a standby");
    let lsn = stage.text("SELECT pg_current_wal_flush_lsn()::text", &[]).await.expect("a position");
    let there = standby.client("postgres").await.expect("it answers");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn");
    eventually(PATIENCE, async || there.query_one(&replayed, &[]).await.expect("reads").get::<_, bool>(0)).await;

    let at = |user: &str| stage.settings_of(user).set("database.url", standby.url_for("postgres", user));
    for (words, expected) in [
        (vec!["status"], "this is a standby"),
        (vec!["ls"], "sent"),
        (vec!["ls", "--state", "pending"], "l***@example.org"),
        (vec!["show", &id], "sent"),
        (vec!["explain", "ada@example.org"], "Sent once"),
        (vec!["explain", &id], "Sent once"),
    ] {
        for user in ["viewer", "operator"] {
            let (code, said) = at(user).command(words.clone()).await;
            let masked = user == "viewer" || !expected.contains('@');
            assert!(code == 0 && (!masked || said.contains(expected)), "{user} {words:?}: {code} {said}");
        }
    }
    // Who would change something is told why not.
    for words in [
        vec!["hold", &id, "--reason", "x"],
        vec!["arm", "--reason", "x"],
        vec!["pause", "--kind", "note", "--reason", "x"],
    ] {
        let (code, said) = at("operator").command(words.clone()).await;
        assert!(code != 0 && said.contains("standby"), "{words:?}: {code} {said}");
    }
    // A relay that is sent there waits: for as long as it is a standby, and no longer.
    let mut waiting = at("relay").set("relay.name", "waits").spawn();
    let told = |lines: Vec<String>| lines.iter().filter(|line| line.contains("the database is a standby")).count();
    eventually(PATIENCE, async || told(waiting.lines()) >= 1).await;
    ends(relay).await;
    stage.cluster.stop().await.expect("stops");
    standby.promote().await.expect("promoted");
    // It is another server than the one that was armed: what to do is said, and nothing is sent.
    assert_eq!(waiting.wait_exit(PATIENCE).await.code(), Some(1), "{}", waiting.report());
    assert!(waiting.report().contains("hapax arm"), "{}", waiting.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_several_hosts_a_relay_finds_the_primary_and_the_one_that_follows_it() {
    let mut stage = Stage::set().await;
    let standby = PgCluster::standby_of(&stage.cluster).await.expect("a standby");
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", standby.port(), stage.cluster.port());
    let at = |stage: &Stage, user: &str| {
        let url = format!("postgres://{user}@{hosts}/postgres?target_session_attrs=read-write");
        stage.settings_of(user).set("database.url", url)
    };
    let relay = at(&stage, "relay").run().await;
    stage.enqueue(10).await;
    stage.until("sent", 10).await;
    let lsn = stage.text("SELECT pg_current_wal_flush_lsn()::text", &[]).await.expect("a position");
    let there = standby.client("postgres").await.expect("it answers");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn");
    eventually(PATIENCE, async || there.query_one(&replayed, &[]).await.expect("reads").get::<_, bool>(0)).await;

    stage.cluster.stop().await.expect("stops");
    standby.promote().await.expect("promoted");
    relay.wait_for_line(|line| line.contains("guard mode: the database is not the one")).await;
    let (code, said) = at(&stage, "operator").command(["arm", "--reason", "planned", "--continue"]).await;
    assert_eq!(code, 0, "{said}");
    stage.sql = there;
    stage.enqueue(10).await;
    stage.until("sent", 20).await;
    ends(relay).await;
    stage.server.with_ledger(|ledger| ledger.assert_none_accepted_twice());
}
