//! What every statement test stands on: a database of its own, cloned from one that is migrated once a day, a store
//! that speaks for a registered relay, and short words for what the protocol does.
//!
//! Invariants: nothing here sleeps; waiting is for locks (seen in `pg_locks`) or for `eventually`. The oracle is plain
//! SQL on the tables, never the store under test.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use hapax_core::{DeliveryKey, Incarnation, Lease, MessageId, Outcome, Phase, Reply, Token, outcome::Cause};
use hapax_store::{
    Claimed, ConnectOptions, Cursor, IntendAnswer, IntendRequest, LateAnswer, Release, Settlement, Store, Verdict,
    Wait, migrate::Migrator,
};
use hapax_testkit::{PgCluster, eventually, migrations_recipe};
use tokio::{sync::OnceCell, task::JoinHandle};
use tokio_postgres::{Client, NoTls, types::Type};
use uuid::Uuid;

mod previous;
pub(crate) use previous::Previous;

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const LEASE: Duration = Duration::from_secs(3600);
/// The lane of a message without route and priority.
pub(crate) const LANE: i16 = 1;
pub(crate) const GRACE: Duration = Duration::from_secs(900);
pub(crate) const TEMPLATE: &str = "hapax_template";

static CLUSTER: OnceCell<PgCluster> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// One cluster per process; its watchdog removes it when the process has ended.
pub(crate) async fn cluster() -> &'static PgCluster {
    CLUSTER.get_or_init(own_cluster).await
}

/// A cluster for one test alone, with the template in it. Whoever copies a cluster wants one: the shared one grows to ten GB.
pub(crate) async fn own_cluster() -> PgCluster {
    let fill = async |cluster: &PgCluster| {
        let url = cluster.create_database(TEMPLATE).await.expect("a database");
        Migrator::connect(&options(&url)).await.expect("connects").up(|_| {}).await.expect("migrates");
        Ok(())
    };
    let recipe = migrations_recipe("statements");
    PgCluster::builder().start_prepared(&recipe, fill).await.expect("a cluster")
}

/// An empty database of the shared cluster; answers its URL.
pub(crate) async fn empty_database() -> String {
    cluster().await.create_database(&fresh_name()).await.expect("a database")
}

fn fresh_name() -> String {
    format!("test_{}", DATABASES.fetch_add(1, Ordering::SeqCst))
}

pub(crate) fn options(url: &str) -> ConnectOptions {
    ConnectOptions {
        url: url.to_owned(),
        password: None,
        pool_size_max: 8,
        statement_timeout: Duration::from_secs(20),
        application_name: "hapax-test".into(),
    }
}

/// One try at one delivery: the lease of its claim and the token of its attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) key: DeliveryKey,
    pub(crate) lease: Lease,
    pub(crate) token: Token,
}

/// A row of `outbox.queue`, as far as tests look at it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Queued {
    pub(crate) parked: Option<String>,
    pub(crate) lease: Option<Uuid>,
    pub(crate) intent: Option<Uuid>,
    pub(crate) intent_by: Option<Uuid>,
    pub(crate) accepted_late: Option<Uuid>,
    pub(crate) claims: i16,
    pub(crate) attempt_no: i16,
    pub(crate) intents: i16,
    pub(crate) open_doubts: i16,
    pub(crate) resends: i16,
    pub(crate) due: bool,
    pub(crate) note: Option<String>,
}

/// A row of `outbox.done`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Done {
    pub(crate) state: String,
    pub(crate) evidence: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) token: Option<Uuid>,
    pub(crate) open_doubts: i16,
    pub(crate) attempt_no: i16,
}

pub(crate) struct Stage {
    pub(crate) url: String,
    pub(crate) sql: Client,
    pub(crate) store: Store,
    /// A relay of the previous generation, and its share of the hot statements: every second one.
    pub(crate) previous: Option<Previous>,
}

impl Stage {
    pub(crate) async fn set() -> Self {
        let (cluster, name) = (cluster().await, fresh_name());
        cluster.execute("postgres", &format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}")).await.expect("a copy");
        // A copy is another database to the outbox, and refuses to be sent from until it is armed.
        cluster.execute(&name, "UPDATE outbox.control SET identity = outbox.database_identity()").await.expect("arms");
        Self::at(&cluster.url_for(&name, "postgres")).await
    }

    /// On a database that is migrated already.
    pub(crate) async fn at(url: &str) -> Self {
        let (sql, _driver) = connect(url).await;
        Self { url: url.to_owned(), sql, store: relay(url).await, previous: None }
    }

    /// From now on two generations of the relay work on the queue, taking turns statement by statement.
    pub(crate) async fn with_previous(mut self) -> Self {
        let store = self.relay().await;
        self.previous = Some(Previous::new(connect(&self.url).await.0, store));
        self
    }

    /// Every incarnation that intends here.
    pub(crate) fn incarnations(&self) -> Vec<Incarnation> {
        let previous = self.previous.as_ref().map(Previous::incarnation);
        [self.store.incarnation()].into_iter().chain(previous).collect()
    }

    /// The previous generation, when it is its turn.
    fn previous_turn(&self) -> Option<&Previous> {
        self.previous.as_ref().filter(|previous| previous.takes_turn())
    }

    /// Another relay process.
    pub(crate) async fn relay(&self) -> Store {
        relay(&self.url).await
    }

    /// Another session; aborting the handle cuts its connection without a word.
    pub(crate) async fn session(&self) -> (Client, JoinHandle<()>) {
        connect(&self.url).await
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        self.sql.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    pub(crate) async fn text(&self, sql: &str) -> String {
        self.sql.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    /// Commits `count` notifications with one recipient each.
    pub(crate) async fn enqueue(&self, count: i32) -> Vec<DeliveryKey> {
        let insert = "INSERT INTO outbox.notification (kind, recipients, subject, body_text)
            SELECT 'note', ARRAY['r' || i || '@example.org'], 'Hello', 'Hello' FROM generate_series(1, $1) i RETURNING id";
        let rows = self.sql.query(insert, &[&count]).await.expect("enqueues");
        rows.iter().map(|row| DeliveryKey { message_id: MessageId(row.get(0)), recipient_no: 1 }).collect()
    }

    /// Commits one notification with so many recipients, under an ordering key if there is one.
    pub(crate) async fn enqueue_one(&self, recipients: i32, ordering_key: Option<&str>) -> Vec<DeliveryKey> {
        enqueue_in(&self.sql, recipients, ordering_key).await
    }

    /// Claims everything that is due in the usual lane.
    pub(crate) async fn claim(&self) -> Vec<Claimed> {
        if let Some(previous) = self.previous_turn() {
            return previous.claim().await;
        }
        self.store.claim(LANE, Cursor::START, 10_000, LEASE).await.expect("claims").1
    }

    /// Claims, and expects to get exactly `key`.
    pub(crate) async fn attempt(&self, key: DeliveryKey) -> Attempt {
        let claimed = self.claim().await;
        let claimed = claimed.iter().find(|claimed| claimed.key == key).expect("the delivery is claimed");
        Attempt { key, lease: claimed.lease, token: Token::fresh() }
    }

    pub(crate) async fn intend(&self, attempt: &Attempt) -> IntendAnswer {
        if let Some(previous) = self.previous_turn() {
            return previous.intend(attempt).await;
        }
        self.store.intend(&[request(attempt)], Wait::ForLocks).await.expect("intends")[0]
    }

    /// A fresh delivery whose intent is durable.
    pub(crate) async fn sending(&self) -> Attempt {
        let key = self.enqueue(1).await[0];
        self.send(key).await
    }

    /// Claims a known delivery and makes its intent durable.
    pub(crate) async fn send(&self, key: DeliveryKey) -> Attempt {
        let attempt = self.attempt(key).await;
        assert_eq!(self.intend(&attempt).await, IntendAnswer::Granted);
        attempt
    }

    /// A fresh delivery whose relay was declared dead behind the intent.
    pub(crate) async fn reaped(&self) -> Attempt {
        let attempt = self.sending().await;
        let marked = self.store.mark_in_doubt(&[self.store.incarnation()], GRACE).await.expect("marks");
        assert_eq!(marked.iter().filter(|marked| marked.key == attempt.key).count(), 1);
        attempt
    }

    /// A fresh delivery whose relay has said itself that it does not know.
    pub(crate) async fn doubtful(&self) -> Attempt {
        let attempt = self.sending().await;
        assert!(self.settle(&attempt, unknown()).await);
        attempt
    }

    /// The hot statement alone.
    pub(crate) async fn settle(&self, attempt: &Attempt, end: (Outcome, Verdict)) -> bool {
        self.settle_hot(&settlement(attempt, end)).await
    }

    /// The same, of a settlement that was changed.
    pub(crate) async fn settle_hot(&self, settlement: &Settlement) -> bool {
        if let Some(previous) = self.previous_turn() {
            return previous.settle(settlement).await;
        }
        self.store.settle(std::slice::from_ref(settlement)).await.expect("settles")[0]
    }

    /// The cold half alone.
    pub(crate) async fn late(&self, attempt: &Attempt, end: (Outcome, Verdict)) -> LateAnswer {
        self.store.settle_late(&settlement(attempt, end)).await.expect("settles late")
    }

    pub(crate) async fn release(&self, attempt: &Attempt) -> usize {
        if let Some(previous) = self.previous_turn() {
            return previous.release(attempt).await;
        }
        let release = Release { key: attempt.key, lease: attempt.lease, after: Duration::ZERO, lane: None };
        self.store.release(&[release]).await.expect("releases")
    }

    /// `outbox.resolve`, answering its words or its SQLSTATE.
    pub(crate) async fn resolve(&self, key: DeliveryKey, verdict: &str, token: Option<Token>, force: bool) -> String {
        resolve_in(&self.sql, key, verdict, token, force).await
    }

    /// `outbox.settle_evidence`, answering its words or its SQLSTATE.
    pub(crate) async fn evidence(&self, attempt: &Attempt, verdict: &str) -> String {
        let sql = "SELECT outbox.settle_evidence($1, $2, $3, $4, 'mx1 3F2A51C0D4')";
        let (id, number) = (attempt.key.message_id.0, i32::from(attempt.key.recipient_no));
        match self.sql.query_one(sql, &[&id, &number, &attempt.token.0, &verdict]).await {
            Ok(row) => row.get(0),
            Err(error) => error.code().map(|code| code.code().to_owned()).unwrap_or_else(|| panic!("{error:?}")),
        }
    }

    /// A function of outbox that takes id and reason and answers one row per delivery: cancel, hold, release.
    pub(crate) async fn decide(&self, function: &str, key: DeliveryKey) -> Vec<String> {
        let sql = format!("SELECT result FROM outbox.{function}($1, reason => 'test')");
        let rows = self.sql.query(&sql, &[&key.message_id.0]).await.expect("decides");
        rows.iter().map(|row| row.get(0)).collect()
    }

    pub(crate) async fn retry(&self, key: DeliveryKey, force: bool) -> String {
        let sql = "SELECT result FROM outbox.retry($1, $2, 'test', $3)";
        let row = self.sql.query_one(sql, &[&key.message_id.0, &i32::from(key.recipient_no), &force]).await;
        row.expect("retries").get(0)
    }

    pub(crate) async fn queued(&self, key: DeliveryKey) -> Option<Queued> {
        let sql =
            "SELECT parked, lease, intent, intent_by, accepted_late, claims, attempt_no, intents, open_doubts, resends,
                     due_at <= now() AS due, note FROM outbox.queue WHERE message_id = $1 AND recipient_no = $2";
        let row = self.sql.query_opt(sql, &[&key.message_id.0, &key.recipient_no]).await.expect("reads")?;
        Some(Queued {
            parked: row.get(0),
            lease: row.get(1),
            intent: row.get(2),
            intent_by: row.get(3),
            accepted_late: row.get(4),
            claims: row.get(5),
            attempt_no: row.get(6),
            intents: row.get(7),
            open_doubts: row.get(8),
            resends: row.get(9),
            due: row.get(10),
            note: row.get(11),
        })
    }

    pub(crate) async fn done(&self, key: DeliveryKey) -> Option<Done> {
        let sql = "SELECT state, evidence, reason, token, open_doubts, attempt_no FROM outbox.done
                   WHERE message_id = $1 AND recipient_no = $2";
        let row = self.sql.query_opt(sql, &[&key.message_id.0, &key.recipient_no]).await.expect("reads")?;
        Some(Done {
            state: row.get(0),
            evidence: row.get(1),
            reason: row.get(2),
            token: row.get(3),
            open_doubts: row.get(4),
            attempt_no: row.get(5),
        })
    }

    /// The state of a delivery in the words of the contract.
    pub(crate) async fn state(&self, key: DeliveryKey) -> String {
        let sql = "SELECT outbox.state_of(parked, intent, lease, lease_until) FROM outbox.queue WHERE message_id = $1 AND recipient_no = $2
                   UNION ALL SELECT state FROM outbox.done WHERE message_id = $1 AND recipient_no = $2";
        let rows = self.sql.query(sql, &[&key.message_id.0, &key.recipient_no]).await.expect("reads");
        let states: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        states.join(" and ")
    }

    /// The ledger of one attempt; none when it has no record.
    pub(crate) async fn outcome(&self, attempt: &Attempt) -> Option<String> {
        let sql = "SELECT outcome FROM outbox.attempt WHERE message_id = $1 AND recipient_no = $2 AND token = $3";
        let (id, no, token) = (attempt.key.message_id.0, attempt.key.recipient_no, attempt.token.0);
        Some(self.sql.query_opt(sql, &[&id, &no, &token]).await.expect("reads")?.get(0))
    }

    /// Asserts what must hold of every delivery at any time, as far as SQL can see it (PROTOCOL section 7).
    pub(crate) async fn assert_consistent(&self) {
        let rows = self.sql.query(VIOLATIONS, &[]).await.expect("checks");
        let found: Vec<String> =
            rows.iter().map(|row| format!("{}: {}", row.get::<_, &str>(0), row.get::<_, &str>(1))).collect();
        assert!(found.is_empty(), "violated:\n{}", found.join("\n"));
    }

    /// Waits until so many sessions of this database wait for a lock.
    pub(crate) async fn until_blocked(&self, sessions: i64) {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        eventually(DEADLINE, async || {
            let blocked = self.count(sql).await;
            (blocked >= sessions).then_some(()).ok_or(format!("{blocked} of {sessions} are blocked"))
        })
        .await;
    }
}

const VIOLATIONS: &str = "
WITH doubts AS (
  SELECT message_id, recipient_no, count(*) FILTER (WHERE outcome = 'unknown') AS unknown,
         count(*) FILTER (WHERE outcome = 'accepted') AS accepted
  FROM outbox.attempt GROUP BY message_id, recipient_no
),
live AS (
  SELECT x.*, coalesce(d.unknown, 0) AS unknown, coalesce(d.accepted, 0) AS accepted FROM (
    SELECT message_id, recipient_no, open_doubts, NULL AS state, NULL AS evidence, parked, intent, accepted_late, due_at FROM outbox.queue
    UNION ALL SELECT message_id, recipient_no, open_doubts, state, evidence, NULL, NULL, NULL, NULL FROM outbox.done) x
  LEFT JOIN doubts d USING (message_id, recipient_no)
)
SELECT format('%s/%s', message_id, recipient_no), format('open_doubts %s, but %s attempts are unknown (%s)', open_doubts, unknown, coalesce(state, 'queued'))
FROM live WHERE open_doubts <> unknown AND evidence IS DISTINCT FROM 'idempotent upstream'
UNION ALL SELECT format('%s/%s', message_id, recipient_no), 'in queue and done' FROM outbox.queue JOIN outbox.done USING (message_id, recipient_no)
UNION ALL SELECT format('%s/%s', message_id, recipient_no), format('accepted, but %s', coalesce(state, 'queued without a note of it'))
FROM live WHERE accepted > 0 AND state IS DISTINCT FROM 'sent' AND (state IS NOT NULL OR intent IS NULL OR parked IS NOT NULL OR accepted_late IS NULL)
UNION ALL SELECT format('%s/%s', message_id, recipient_no), 'parked but due' FROM live WHERE parked IS NOT NULL AND due_at <> 'infinity'
UNION ALL SELECT format('%s/%s', message_id, recipient_no), 'not parked, never due' FROM live WHERE state IS NULL AND parked IS NULL AND intent IS NULL AND due_at = 'infinity'
UNION ALL SELECT format('%s/%s', message_id, recipient_no), 'parked as ' || parked || ' with an intent' FROM live WHERE parked <> 'doubt' AND intent IS NOT NULL
UNION ALL SELECT format('%s/%s', message_id, recipient_no), 'sent by reply, but no reply accepted it' FROM outbox.done d JOIN doubts USING (message_id, recipient_no)
WHERE d.evidence = 'reply' AND accepted = 0";

async fn connect(url: &str) -> (Client, JoinHandle<()>) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connects");
    let driver = tokio::spawn(async move { drop(connection.await) });
    (client, driver)
}

async fn relay(url: &str) -> Store {
    let store = Store::connect(&options(url), Incarnation::fresh()).await.expect("connects");
    store.register("relay", "localhost", "0", GRACE, &[]).await.expect("registers");
    store
}

/// Inserts one notification in a transaction of the caller's.
pub(crate) async fn enqueue_in(client: &Client, recipients: i32, ordering_key: Option<&str>) -> Vec<DeliveryKey> {
    let insert = "INSERT INTO outbox.notification (kind, recipients, subject, body_text, ordering_key)
        SELECT 'note', ARRAY(SELECT 'r' || i || '@example.org' FROM generate_series(1, $1) i), 'Hello', 'Hello', $2 RETURNING id";
    let id: Uuid = client.query_one(insert, &[&recipients, &ordering_key]).await.expect("enqueues").get(0);
    let last = i16::try_from(recipients).expect("few recipients");
    (1..=last).map(|recipient_no| DeliveryKey { message_id: MessageId(id), recipient_no }).collect()
}

pub(crate) async fn resolve_in(
    client: &Client,
    key: DeliveryKey,
    verdict: &str,
    token: Option<Token>,
    force: bool,
) -> String {
    let sql = "SELECT outbox.resolve($1, $2, $3, 'test', $4, $5)";
    let (id, number, token) = (key.message_id.0, i32::from(key.recipient_no), token.map(|token| token.0));
    match client.query_one(sql, &[&id, &number, &verdict, &token, &force]).await {
        Ok(row) => row.get(0),
        Err(error) => error.code().expect("an SQLSTATE").code().to_owned(),
    }
}

/// Locks one queue row as an application's open transaction would.
pub(crate) async fn lock(client: &Client, key: DeliveryKey) {
    client.batch_execute("BEGIN").await.expect("begins");
    let sql = "SELECT FROM outbox.queue WHERE message_id = $1 AND recipient_no = $2 FOR UPDATE";
    client.query_one(sql, &[&key.message_id.0, &key.recipient_no]).await.expect("locks");
}

pub(crate) fn request(attempt: &Attempt) -> IntendRequest {
    IntendRequest {
        key: attempt.key,
        lease: attempt.lease,
        token: attempt.token,
        sha256: [7; 32],
        route: "default".into(),
        upstream: None,
    }
}

/// Executes the intend statement on a connection of the test's own, waiting for locks without a limit.
pub(crate) async fn raw_intend(client: &Client, store: &Store, attempt: &Attempt) -> Vec<String> {
    let sql = include_str!("../../queries/intend.sql");
    let (armed, sha): (_, &[u8]) = (store.armed(), &[7; 32]);
    let params: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 14] = [
        (&armed.epoch, Type::UUID),
        (&armed.identity, Type::TEXT),
        (&vec![attempt.key.message_id.0], Type::UUID_ARRAY),
        (&vec![attempt.key.recipient_no], Type::INT2_ARRAY),
        (&vec![attempt.lease.0], Type::UUID_ARRAY),
        (&vec![attempt.token.0], Type::UUID_ARRAY),
        (&vec![sha], Type::BYTEA_ARRAY),
        (&vec!["default"], Type::TEXT_ARRAY),
        (&store.incarnation().0, Type::UUID),
        (&"0", Type::TEXT),
        (&vec![None::<i64>], Type::INT8_ARRAY),
        (&vec![None::<f64>], Type::FLOAT8_ARRAY),
        (&0_i64, Type::INT8),
        (&"wait", Type::TEXT),
    ];
    match client.query_typed(sql, &params).await {
        Ok(rows) => rows.iter().map(|row| row.get("answer")).collect(),
        Err(error) => vec![error.to_string()],
    }
}

pub(crate) fn settlement(attempt: &Attempt, (outcome, verdict): (Outcome, Verdict)) -> Settlement {
    Settlement {
        key: attempt.key,
        lease: attempt.lease,
        token: attempt.token,
        intended: true,
        verdict,
        outcome: Some(outcome),
        route: "default".into(),
        server: Some("mx.example.org".into()),
        took: Duration::from_millis(5),
        bytes: 100,
    }
}

pub(crate) fn accepted() -> (Outcome, Verdict) {
    (Outcome::Accepted { reply: Reply::new(250, "2.0.0 queued as 1") }, Verdict::Sent)
}

pub(crate) fn refused() -> (Outcome, Verdict) {
    let reply = Reply::new(550, "5.1.1 no such user");
    (Outcome::Refused { permanent: true, phase: Phase::EndMarker, reply }, Verdict::Failed("refused".into()))
}

pub(crate) fn deferred() -> (Outcome, Verdict) {
    let reply = Reply::new(450, "4.2.1 later");
    (
        Outcome::Refused { permanent: false, phase: Phase::EndMarker, reply },
        Verdict::Retry { after: Duration::ZERO, counts: true },
    )
}

pub(crate) fn not_sent() -> (Outcome, Verdict) {
    (Outcome::not_sent(Phase::Body, Cause::Io, "reset"), Verdict::Retry { after: Duration::ZERO, counts: false })
}

pub(crate) fn unknown() -> (Outcome, Verdict) {
    let outcome = Outcome::Unknown { cause: Cause::Eof, reply: None, detail: "eof".into() };
    (outcome, Verdict::InDoubt("eof".into()))
}
