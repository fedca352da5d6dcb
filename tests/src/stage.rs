//! A stage for one test of the whole: a private Postgres with the schema in it (made by `hapax migrate up`, once), the
//! scripted mail server, and real `hapax run` processes with a configuration that is quick to react.
//!
//! Invariant: whatever was started here ends with the stage, also when the test panics.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hapax_testkit::{HapaxProcess, PgCluster, SmtpServer, eventually, migrations_recipe};
use tokio_postgres::{Client, types::ToSql};
use uuid::Uuid;

use crate::pgbouncer::pooled;

/// How long anything may take that is not a measurement.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The domain of `from`, which is that of the Message-IDs.
pub const DOMAIN: &str = "shop.example";

/// A configuration file, key by key: `relay.max_in_flight` is `max_in_flight` below `[relay]`.
#[derive(Clone, Debug)]
#[must_use]
pub struct Settings(BTreeMap<String, BTreeMap<String, String>>);

impl Settings {
    /// For `database`, to `route`; heartbeats, leases and retries in fractions of seconds.
    pub fn new(database: &str, route: &str) -> Self {
        let empty = Self(BTreeMap::new());
        empty
            .set("database.url", database)
            .set("log.format", "json")
            .set("relay.heartbeat_interval", "200ms")
            .set("relay.dead_after", "1500ms")
            .set("relay.lease", "3s")
            .set("relay.max_in_flight", 32)
            .set("relay.transmit_deadline", "10s")
            .set("relay.final_reply_timeout", "10s")
            .set("relay.shutdown_grace", "30s")
            .set("retry.first", "200ms")
            .set("routes.default.url", route)
            .set("routes.default.from", format!("Shop <no-reply@{DOMAIN}>"))
            .set("routes.default.max_connections", 16)
    }

    /// Sets a key, or replaces it. Numbers and booleans are written as they are, everything else as a string.
    pub fn set(mut self, path: &str, value: impl ToString) -> Self {
        // A key in quotes may have dots in it.
        let at = if path.ends_with('"') { path.rfind(".\"") } else { path.rfind('.') };
        let (section, key) = path.split_at(at.expect("a key has a section"));
        let key = &key[1..];
        let value = value.to_string();
        let plain = value.parse::<f64>().is_ok() || value.parse::<bool>().is_ok();
        let value = if plain { value } else { serde_json::to_string(&value).expect("a string is JSON, and TOML") };
        self.0.entry(section.to_owned()).or_default().insert(key.to_owned(), value);
        self
    }

    /// The file.
    #[must_use]
    pub fn toml(&self) -> String {
        let mut text = String::new();
        for (section, keys) in &self.0 {
            let _ = writeln!(text, "[{section}]");
            for (key, value) in keys {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        text
    }

    /// Starts `hapax run`, without waiting for anything.
    #[must_use]
    pub fn spawn(&self) -> HapaxProcess {
        HapaxProcess::builder().config(self.toml()).arg("run").spawn()
    }

    /// Starts `hapax run` and waits until it claims.
    pub async fn run(&self) -> HapaxProcess {
        let relay = self.spawn();
        running(&relay).await;
        relay
    }

    /// Runs a command to its end; answers its exit code and what it printed.
    pub async fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> (i32, String) {
        let mut process = HapaxProcess::builder().config(self.toml()).args(arguments).spawn();
        let status = process.wait_exit(PATIENCE).await;
        (status.code().unwrap_or(-1), process.lines().join("\n"))
    }
}

/// Waits until the relay claims; answers its incarnation.
pub async fn running(relay: &HapaxProcess) -> Uuid {
    let line = relay.wait_for_line(|line| line.contains("the relay is running")).await;
    let from = line.find("relay.incarnation").expect("it says who it is");
    let rest = &line[from + "relay.incarnation".len()..];
    let id: String = rest.chars().skip_while(|c| !c.is_ascii_hexdigit()).take(36).collect();
    id.parse().unwrap_or_else(|_| panic!("no incarnation in {line}"))
}

/// Puts the outbox into database `postgres`, as its user would, and one user into each role.
async fn prepare(cluster: &PgCluster) {
    let settings = Settings::new(&cluster.url(), "smtp://127.0.0.1:1?starttls=none");
    let (code, output) = settings.command(["migrate", "up"]).await;
    assert_eq!(code, 0, "hapax migrate up: {output}");
    let roles = ["relay", "producer", "operator", "viewer"]
        .map(|role| format!("CREATE ROLE {role} LOGIN IN ROLE outbox_{role};"));
    cluster.execute("postgres", &roles.concat()).await.expect("roles can be made");
}

/// Postgres with the outbox, a scripted mail server, and a superuser's connection.
#[derive(Debug)]
pub struct Stage {
    /// The database server.
    pub cluster: PgCluster,
    /// The mail server.
    pub server: SmtpServer,
    /// A superuser of database `postgres`, where the outbox is.
    pub sql: Client,
}

impl Stage {
    /// With a mail server that does everything right.
    pub async fn set() -> Self {
        Self::with(SmtpServer::start()).await
    }

    /// With this mail server.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn with(server: SmtpServer) -> Self {
        let recipe = migrations_recipe("stage");
        let prepared = PgCluster::builder().start_prepared(&recipe, async |cluster| {
            prepare(cluster).await;
            Ok(())
        });
        Self::of(prepared.await.expect("a cluster starts"), server).await
    }

    /// On this cluster, which has no outbox yet.
    ///
    /// # Panics
    /// When something does not start.
    pub async fn on(cluster: PgCluster, server: SmtpServer) -> Self {
        prepare(&cluster).await;
        Self::of(cluster, server).await
    }

    async fn of(cluster: PgCluster, server: SmtpServer) -> Self {
        let sql = cluster.client("postgres").await.expect("it takes a client");
        Self { cluster: pooled(cluster).await, server, sql }
    }

    /// The quick configuration for a relay on this stage, with the privileges of one.
    pub fn settings(&self) -> Settings {
        self.settings_of("relay")
    }

    /// The same for another user of the database: `operator`, `viewer`, `producer`, `postgres`.
    pub fn settings_of(&self, user: &str) -> Settings {
        let route = format!("smtp://127.0.0.1:{}?starttls=none", self.server.port());
        Settings::new(&self.cluster.url_for("postgres", user), &route)
    }

    /// Connects again, after the database server was restarted.
    ///
    /// # Panics
    /// When it cannot.
    pub async fn reconnect(&mut self) {
        self.sql = self.cluster.client("postgres").await.expect("it takes a client");
    }

    /// Enqueues notifications to `r1@example.org`, `r2@example.org` and so on, through the view, in one transaction.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn enqueue(&self, count: i32) {
        let insert = "INSERT INTO outbox.notification (kind, recipients, subject, body_text)
                      SELECT 'note', ARRAY['r' || i || '@example.org'], 'Hello ' || i, E'one\\n.two\\n' FROM generate_series(1, $1) i";
        self.sql.execute(insert, &[&count]).await.expect("enqueues");
    }

    /// Enqueues one notification to `recipient` with further arguments of `outbox.enqueue`, written in SQL
    /// (`, priority => 'urgent'`); answers its id.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn enqueue_one(&self, recipient: &str, arguments: &str) -> Uuid {
        let sql = format!(
            "SELECT outbox.enqueue(kind => 'note', recipients => ARRAY[$1], subject => 'Hello', body_text => 'one'{arguments})"
        );
        let row = self.sql.query_one(&sql, &[&recipient]).await;
        row.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    /// The first column of the only row, a number.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn count(&self, sql: &str) -> i64 {
        self.sql.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    /// The first column of the only row, a text.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn text(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Option<String> {
        self.sql.query_one(sql, parameters).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    /// Deliveries by state.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn states(&self) -> BTreeMap<String, i64> {
        let sql = "SELECT state, count(*) FROM outbox.deliveries GROUP BY state";
        let rows = self.sql.query(sql, &[]).await.expect("states can be read");
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// State and reason of a recipient's delivery.
    ///
    /// # Panics
    /// When there is none, or more than one.
    pub async fn state_of(&self, recipient: &str) -> (String, String) {
        let sql = "SELECT state, coalesce(reason, '') FROM outbox.deliveries WHERE recipient = $1";
        let row = self.sql.query_one(sql, &[&recipient]).await.expect("there is one delivery");
        (row.get(0), row.get(1))
    }

    /// Waits until so many deliveries are in `state`.
    ///
    /// # Panics
    /// When that takes too long, with all states.
    pub async fn until(&self, state: &str, count: i64) {
        eventually(PATIENCE, async || {
            let states = self.states().await;
            (states.get(state).copied().unwrap_or_default() == count).then_some(()).ok_or(states)
        })
        .await;
    }

    /// Waits until the recipient's delivery is in `state`; answers its reason.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn until_state(&self, recipient: &str, state: &str) -> String {
        eventually(PATIENCE, async || {
            let now = self.state_of(recipient).await;
            if now.0 == state { Ok(now.1) } else { Err(now) }
        })
        .await
    }

    /// Waits until nothing moves any more: every delivery is terminal, in doubt, or held.
    ///
    /// # Panics
    /// When that takes too long, with all states.
    pub async fn until_settled(&self) {
        eventually(PATIENCE, async || {
            let states = self.states().await;
            let moving = ["pending", "claimed", "sending"].iter().any(|state| states.contains_key(*state));
            if moving { Err(states) } else { Ok(()) }
        })
        .await;
    }
}
