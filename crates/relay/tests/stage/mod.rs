//! A private Postgres with an outbox, a scripted mail server, and relays run inside the test process.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "shared by several test binaries, none of which uses all of it"
)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hapax_core::{
    Incarnation, OnDoubt, RetryPolicy,
    guards::Guards,
    limits::{Limits, Timeouts},
};
use hapax_mail::{ParsedUrl, Transport};
use hapax_relay::{RelayConfig, RouteConfig, Shutdown};
use hapax_render::{Options, Renderer};
use hapax_store::{ConnectOptions, Store, migrate::Migrator};
use hapax_testkit::{PgCluster, PgClusterBuilder, SmtpServer, eventually, migrations_recipe};

pub const DEADLINE: Duration = Duration::from_secs(30);

pub struct Stage {
    pub cluster: PgCluster,
    pub server: SmtpServer,
    pub sql: tokio_postgres::Client,
}

impl Stage {
    pub async fn set() -> Self {
        Self::on(PgCluster::builder()).await
    }

    pub async fn on(builder: PgClusterBuilder) -> Self {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let fill = async |cluster: &PgCluster| {
            Migrator::connect(&options(cluster)).await.expect("connects").up(|_| {}).await.expect("migrates");
            Ok(())
        };
        let cluster = builder.start_prepared(&migrations_recipe("migrated"), fill).await.expect("a cluster");
        let sql = cluster.client("postgres").await.expect("a client");
        Self { cluster, server: SmtpServer::start(), sql }
    }

    pub fn config(&self) -> RelayConfig {
        let timeouts = Timeouts { final_reply: Duration::from_secs(2), ..Timeouts::default() };
        let url = format!("smtp://127.0.0.1:{}?starttls=none", self.server.port());
        let Ok(ParsedUrl::Transport(Transport::Smtp(mut server))) = hapax_mail::parse_url(&url) else {
            panic!("an smtp url")
        };
        server.timeouts = timeouts;
        RelayConfig {
            name: "test".into(),
            host: "localhost".into(),
            version: "0".into(),
            // A claim whose answer was lost in a crash of the database waits for its lease to expire.
            limits: Limits {
                heartbeat_interval: Duration::from_millis(100),
                lease: Duration::from_secs(3),
                ..Limits::default()
            },
            timeouts,
            codes: hapax_core::Codes::default(),
            retry: RetryPolicy { first: Duration::from_millis(50), jitter: 0.0, ..RetryPolicy::default() },
            routes: vec![RouteConfig {
                name: "default".into(),
                transport: Transport::Smtp(server),
                from: "Shop <no-reply@example.com>".into(),
                max_connections: 16,
                messages_per_connection_max: 1_000,
                connection_age_max: Duration::from_secs(600),
                rate: None,
                warm_up: None,
                fallback: Vec::new(),
                weights: Vec::new(),
                envelope_sender: None,
                idempotency: None,
                retry: hapax_core::RetryPart::default(),
                codes: hapax_core::Codes::default(),
                dkim: Vec::new(),
                traceparent_header: false,
            }],
            kinds: BTreeMap::new(),
            directions: hapax_relay::Directions::default(),
            on_doubt: OnDoubt::Hold,
            guards: Guards::default(),
            wake_up: false,
            freight: hapax_relay::FreightConfig::default(),
            hard_bounces: None,
            retention: hapax_relay::Retention::default(),
            recipient_log: hapax_relay::RecipientLog::default(),
            canary: None,
            tracing: None,
        }
    }

    pub async fn relay(&self, config: RelayConfig) -> Relay {
        let store = Store::connect(&options(&self.cluster), Incarnation::fresh()).await.expect("connects");
        let renderer = Arc::new(Renderer::new(Options::default()).expect("a renderer"));
        let shutdown = Shutdown::default();
        let task = tokio::spawn(hapax_relay::run(store, renderer, config, shutdown.clone()));
        Relay { shutdown, task }
    }

    pub async fn enqueue(&self, count: i32) {
        let insert = "INSERT INTO outbox.notification (kind, recipients, subject, body_text)
                      SELECT 'note', ARRAY['r' || i || '@example.org'], 'Hello ' || i, E'one\\n.two\\n' FROM generate_series(1, $1) i";
        self.sql.execute(insert, &[&count]).await.expect("enqueues");
    }

    pub async fn count(&self, sql: &str) -> i64 {
        self.sql.query_one(sql, &[]).await.expect("counts").get(0)
    }

    /// State, attempts that concerned the message, and reason of each finished delivery, by recipient.
    pub async fn states(&self) -> BTreeMap<String, (String, i16, Option<String>)> {
        let sql = "SELECT m.recipients[1], d.state, d.attempt_no, d.reason FROM outbox.done d JOIN outbox.message m ON m.id = d.message_id";
        let rows = self.sql.query(sql, &[]).await.expect("reads");
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2), row.get(3)))).collect()
    }

    pub async fn until_done(&self, count: i64) {
        eventually(DEADLINE, async || {
            let done = self.count("SELECT count(*) FROM outbox.done").await;
            (done == count).then_some(()).ok_or(format!("{done} of {count} are done"))
        })
        .await;
    }
}

pub struct Relay {
    pub shutdown: Shutdown,
    pub task: tokio::task::JoinHandle<Result<(), hapax_relay::Error>>,
}

impl Relay {
    pub async fn stop(self) {
        self.shutdown.soft.cancel();
        self.task.await.expect("no panic").expect("a clean end");
    }
}

fn options(cluster: &PgCluster) -> ConnectOptions {
    ConnectOptions {
        url: cluster.url(),
        password: None,
        pool_size_max: 8,
        statement_timeout: Duration::from_secs(10),
        application_name: "hapax-test".into(),
    }
}
