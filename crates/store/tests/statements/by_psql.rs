//! Migrations applied by plain psql, from what `hapax migrate sql` prints: all at once, one by one, again, in the wrong
//! order, against somebody's lock, by an owner with few privileges, and on an outbox that is in use.

use std::process::Command;

use hapax_core::{DeliveryKey, Incarnation, MessageId, Token};
use hapax_store::{
    IntendAnswer, Store,
    migrate::{MIGRATIONS, Migrator, script},
};
use hapax_testkit::PgCluster;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::common::{Attempt, Previous, Stage, accepted, options, settlement};

/// What psql said, when it failed.
fn psql(cluster: &PgCluster, url: &str, sql: &str) -> Result<String, String> {
    let file = cluster.socket_directory().join(format!("{}.sql", Uuid::new_v4()));
    std::fs::write(&file, sql).expect("writes");
    let said = Command::new("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-f"])
        .arg(&file)
        .output()
        .expect("psql");
    let words = String::from_utf8_lossy(&said.stderr).into_owned();
    if said.status.success() { Ok(words) } else { Err(words) }
}

fn dump(url: &str) -> String {
    let dump = Command::new("pg_dump").args(["--schema-only", "--no-owner", "-d", url]).output().expect("pg_dump");
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let text = String::from_utf8_lossy(&dump.stdout).into_owned();
    // Newer pg_dump writes a random key.
    text.lines().filter(|line| !line.contains("restrict ")).collect::<Vec<_>>().join("\n")
}

async fn migrator(url: &str) -> Migrator {
    Migrator::connect(&options(url)).await.expect("connects")
}

async fn assert_complete(url: &str) {
    let status = migrator(url).await.status().await.expect("reads");
    assert!(status.pending().is_empty() && status.problems().is_empty(), "the books are kept too");
}

async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}

/// A database, and an owner of nothing who may create schemas in it. Roles were made by somebody else.
async fn of_plain_owner(cluster: &PgCluster, database: &str) -> String {
    cluster.create_database(database).await.expect("made");
    let roles = ["producer", "relay", "operator", "viewer", "monitor"]
        .map(|role| format!("CREATE ROLE outbox_{role} NOLOGIN;"))
        .concat();
    let grant = format!("{roles} CREATE ROLE plain LOGIN; GRANT CREATE ON DATABASE {database} TO plain");
    cluster.execute("postgres", &grant).await.expect("the admin prepares");
    cluster.url_for(database, "plain")
}

#[tokio::test]
async fn plain_psql_makes_the_identical_schema() {
    let cluster = PgCluster::start().await.expect("a cluster");
    let (ours, theirs) =
        (cluster.create_database("ours").await.expect("made"), cluster.create_database("theirs").await.expect("made"));
    migrator(&ours).await.up(|_| {}).await.expect("migrates");
    psql(&cluster, &theirs, &script(0, i32::MAX)).expect("applies");
    let once = dump(&theirs);
    assert_eq!(dump(&ours), once);
    assert_complete(&theirs).await;
    // The same again.
    let said = psql(&cluster, &theirs, &script(0, i32::MAX)).expect("applies what is applied");
    assert_eq!(said.matches(" is applied already").count(), MIGRATIONS.len(), "{said}");
    assert_eq!(dump(&theirs), once);
}

#[tokio::test]
async fn one_by_one_and_by_an_owner_who_is_no_superuser_it_is_the_same_schema() {
    let cluster = PgCluster::builder().fsync(false).start().await.expect("a cluster");
    let theirs = of_plain_owner(&cluster, "theirs").await;
    for migration in MIGRATIONS {
        let sql = script(migration.version - 1, migration.version);
        psql(&cluster, &theirs, &sql).unwrap_or_else(|said| panic!("{}: {said}", migration.name));
    }
    assert_complete(&theirs).await;
    let ours = cluster.create_database("ours").await.expect("made");
    migrator(&ours).await.up(|_| {}).await.expect("migrates");
    assert_eq!(dump(&ours), dump(&theirs));
    // The privilege to create was for once: without it what is applied is known, and the schema serves.
    cluster.execute("postgres", "REVOKE CREATE ON DATABASE theirs FROM plain").await.expect("takes it back");
    psql(&cluster, &theirs, &script(0, i32::MAX)).expect("there is nothing to do");
    assert_eq!(migrator(&theirs).await.up(|_| {}).await.expect("nor for hapax"), 0);
    cluster.execute("postgres", "CREATE ROLE app LOGIN IN ROLE outbox_producer").await.expect("made");
    let app = client(&cluster.url_for("theirs", "app")).await;
    app.query_one("SELECT outbox.enqueue('greeting', '{a@example.org}', '{}')", &[]).await.expect("enqueues");
}

#[tokio::test]
async fn what_comes_too_early_or_was_changed_is_refused_with_what_to_do() {
    let cluster = PgCluster::builder().fsync(false).start().await.expect("a cluster");
    let url = cluster.create_database("shop").await.expect("made");
    let said = psql(&cluster, &url, &script(1, 2)).expect_err("too early");
    assert!(said.contains("0002_tables.sql was not applied: it comes after 0001_schema.sql"), "{said}");
    assert!(said.contains("hapax migrate sql --from 0"), "{said}");
    psql(&cluster, &url, &script(0, 3)).expect("applies");
    let said = psql(&cluster, &url, &script(5, 6)).expect_err("too early");
    assert!(said.contains("hapax migrate sql --from 3"), "{said}");
    let sql = client(&url).await;
    sql.batch_execute("UPDATE outbox.migration SET checksum = 'x' WHERE version = 2").await.expect("changes");
    let said = psql(&cluster, &url, &script(0, 3)).expect_err("another file");
    assert!(said.contains("0002_tables.sql was changed after it was applied") && said.contains("verify"), "{said}");
    sql.batch_execute("TRUNCATE outbox.migration").await.expect("forgets");
    // Whatever fails says which file it was, in a few lines, and leaves nothing behind.
    let said = psql(&cluster, &url, &script(0, i32::MAX)).expect_err("it is all there already");
    assert!(said.contains("0001_schema.sql was not applied: function \"uuid_v7\" already exists"), "{said}");
    assert!(said.contains("run this script again") && said.lines().count() < 5, "{said}");
    sql.batch_execute("DROP SCHEMA outbox CASCADE").await.expect("away");
    psql(&cluster, &url, &script(0, i32::MAX)).expect("applies");
    assert_complete(&url).await;
}

#[tokio::test]
async fn a_lock_that_somebody_holds_stops_the_script_soon_and_it_can_be_run_again() {
    let cluster = PgCluster::builder().fsync(false).start().await.expect("a cluster");
    let url = cluster.create_database("shop").await.expect("made");
    psql(&cluster, &url, &script(0, 16)).expect("applies");
    let mut somebody = client(&url).await;
    // A producer's transaction that does not end, and another migrator.
    for (locks, words) in [
        ("LOCK TABLE outbox.queue IN ROW EXCLUSIVE MODE", "0018_hot.sql was not applied: somebody else holds a lock"),
        ("SELECT pg_advisory_xact_lock(448311353720)", "canceling statement due to lock timeout"),
    ] {
        let transaction = somebody.transaction().await.expect("begins");
        transaction.batch_execute(locks).await.expect("locks");
        let said = psql(&cluster, &url, &script(16, i32::MAX)).expect_err("it gives up");
        assert!(said.contains(words), "{said}");
        transaction.rollback().await.expect("lets go");
        let applied: i32 =
            somebody.query_one("SELECT max(version) FROM outbox.migration", &[]).await.expect("x").get(0);
        assert_eq!(applied, 17, "what came before stays, what failed left nothing");
    }
    psql(&cluster, &url, &script(0, i32::MAX)).expect("the same again");
    assert_complete(&url).await;
}

async fn enqueue(sql: &Client, dedup_key: &str) -> DeliveryKey {
    let enqueue = "SELECT outbox.enqueue('note', ARRAY['a@example.org'], subject => 'Hello', body_text => 'one', dedup_key => $1)";
    let id = sql.query_one(enqueue, &[&dedup_key]).await.expect("enqueues").get(0);
    DeliveryKey { message_id: MessageId(id), recipient_no: 1 }
}

/// An outbox of long ago: its schema, its relay's statements, and what they have come to by the time of the upgrade.
struct LongAgo {
    sql: Client,
    relay: Previous,
}

impl LongAgo {
    async fn set(url: &str) -> Self {
        let sql = client(url).await;
        let store = Store::connect(&options(url), Incarnation::fresh()).await.expect("connects");
        let beat = "INSERT INTO outbox.relay (incarnation, name, host, pid, version, doubt_grace) VALUES ($1, 'old', 'h', 1, '0', '15 min')";
        sql.execute(beat, &[&store.incarnation().0]).await.expect("registers");
        Self { sql, relay: Previous::new(client(url).await, store) }
    }

    /// A delivery that its relay has claimed.
    async fn claimed(&self, dedup_key: &str) -> Attempt {
        let key = enqueue(&self.sql, dedup_key).await;
        let claimed = self.relay.claim().await;
        let claimed = claimed.iter().find(|claimed| claimed.key == key).expect("it is claimed");
        Attempt { key, lease: claimed.lease, token: Token::fresh() }
    }

    async fn intended(&self, dedup_key: &str) -> Attempt {
        let attempt = self.claimed(dedup_key).await;
        assert_eq!(self.relay.intend(&attempt).await, IntendAnswer::Granted);
        attempt
    }

    async fn decide(&self, function: &str, dedup_key: &str) -> DeliveryKey {
        let key = enqueue(&self.sql, dedup_key).await;
        let sql = format!("SELECT FROM outbox.{function}($1, 'a reason')");
        self.sql.query_one(&sql, &[&key.message_id.0]).await.expect("decides");
        key
    }
}

#[tokio::test]
async fn what_an_older_schema_holds_goes_on_after_the_upgrade_by_psql() {
    let cluster = PgCluster::start().await.expect("a cluster");
    let newest = MIGRATIONS.last().expect("there are migrations").version;
    for version in [17, 30, newest - 1] {
        let url = cluster.create_database(&format!("since_{version}")).await.expect("made");
        psql(&cluster, &url, &script(0, version)).expect("applies");
        let then = LongAgo::set(&url).await;
        let held = then.decide("hold", "held").await;
        let cancelled = then.decide("cancel", "cancelled").await;
        let doubts = [then.intended("doubt 1").await, then.intended("doubt 2").await];
        let sql = "SELECT count(*) FROM outbox.mark_in_doubt(ARRAY[$1]::uuid[], '1 hour')";
        let marked: i64 = then.sql.query_one(sql, &[&then.relay.incarnation().0]).await.expect("marks").get(0);
        assert_eq!(marked, 2);
        let sent = then.intended("sent").await;
        assert!(then.relay.settle(&settlement(&sent, accepted())).await);
        let (sending, in_hand) = (then.intended("sending").await, then.claimed("in hand").await);
        let pending = enqueue(&then.sql, "pending").await;

        psql(&cluster, &url, &script(version, i32::MAX)).expect("is upgraded");

        let stage = Stage::at(&url).await;
        stage.assert_consistent().await;
        for (key, state) in [
            (held, "held"),
            (cancelled, "cancelled"),
            (doubts[0].key, "in_doubt"),
            (doubts[1].key, "in_doubt"),
            (sent.key, "sent"),
            (sending.key, "sending"),
            (in_hand.key, "claimed"),
            (pending, "pending"),
        ] {
            assert_eq!(stage.state(key).await, state, "since {version}");
        }
        // Of the old relay: what it had in hand when the schema changed under it.
        assert!(then.relay.settle(&settlement(&sending, accepted())).await, "since {version}");
        assert_eq!(then.relay.intend(&in_hand).await, IntendAnswer::Granted, "since {version}");
        assert!(then.relay.settle(&settlement(&in_hand, accepted())).await);
        // Of people: what waited for them; each is free once, and only then.
        assert_eq!(stage.claim().await.iter().map(|claimed| claimed.key).collect::<Vec<_>>(), [pending]);
        assert_eq!(stage.resolve(doubts[0].key, "sent", None, false).await, "sent");
        assert_eq!(stage.decide("release", held).await, ["pending"]);
        let attempt = stage.send(held).await;
        assert!(stage.settle(&attempt, accepted()).await);
        let again = stage.resolve(doubts[1].key, "resend", Some(doubts[1].token), true).await;
        assert!(again.starts_with("pending"), "{again}");
        let attempt = stage.send(doubts[1].key).await;
        assert!(stage.settle(&attempt, accepted()).await);
        for key in [held, doubts[1].key, sending.key, in_hand.key] {
            assert_eq!(stage.state(key).await, "sent", "since {version}");
        }
        // Of applications: the same content under the same key is the same notification.
        for (dedup_key, key) in [("sent", sent.key), ("pending", pending), ("held", held), ("cancelled", cancelled)] {
            assert_eq!(enqueue(&stage.sql, dedup_key).await, key, "since {version}");
        }
        stage.assert_consistent().await;
    }
}
