//! What the demo needs: a cluster with roles as in production, templates, a catcher, a configuration.

use std::path::{Path, PathBuf};

use anyhow::Context;
use hapax_sandbox::{Catcher, PgCluster};
use hapax_store::{ConnectOptions, migrate::Migrator};
use tokio_postgres::{Client, NoTls};

use crate::{
    cli::Demo,
    failure::{CONFIGURATION, Refusal},
};

/// The relay and the shop have the roles they would have in production: nothing works by being superuser.
const ROLES_SQL: &str = include_str!("../../assets/demo.sql");

/// The catcher's pause before its last reply, so that kills hit what waits for one.
const REPLY_DELAY: std::time::Duration = std::time::Duration::from_millis(20);

macro_rules! templates {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_str!(concat!("../../assets/demo-templates/", $path)))),*]
    };
}

const TEMPLATES: [(&str, &str); 4] = templates![
    "_layouts/page.html",
    "order_confirmed/subject.txt",
    "order_confirmed/body.txt",
    "order_confirmed/body.html",
];

/// Everything but the relay and the shop. Gone when dropped.
pub(super) struct Stage {
    pub(super) catcher: Catcher,
    pub(super) owner_url: String,
    pub(super) shop_url: String,
    client: Client,
    directory: tempfile::TempDir,
    _cluster: PgCluster,
}

impl Stage {
    /// Sets it all up.
    pub(super) async fn set(options: Demo) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("hapax-demo-").tempdir().context("no temporary directory")?;
        let cluster = PgCluster::builder().password_auth(true).start().await;
        let cluster = cluster.map_err(|error| Refusal::of_error(1, &error, &[]))?;
        let owner_url = cluster.create_database("shop").await?;
        migrate(&owner_url).await?;
        let password = cluster.password().unwrap_or_default();
        cluster
            .execute("shop", &ROLES_SQL.replace("$PASSWORD", password))
            .await
            .context("could not furnish the shop")?;
        let (client, connection) = tokio_postgres::connect(&owner_url, NoTls).await?;
        tokio::spawn(connection);
        let mut catcher = Catcher::builder().directory(directory.path().join("mail")).messages_kept_max(1_000_000);
        if options.chaos {
            catcher = catcher.reply_delay(REPLY_DELAY);
        }
        let stage = Self {
            catcher: catcher.start().await.context("could not start the mail catcher")?,
            shop_url: cluster.url_for("shop", "shop"),
            owner_url,
            client,
            directory,
            _cluster: cluster,
        };
        stage.write_files(&stage._cluster.url_for("shop", "relay"), options)?;
        Ok(stage)
    }

    fn write_files(&self, relay_url: &str, options: Demo) -> anyhow::Result<()> {
        for (path, text) in TEMPLATES {
            let path = self.directory.path().join("templates").join(path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).with_context(|| format!("could not make {}", parent.display()))?;
            }
            write(&path, text)?;
        }
        write(&self.config(), &config(relay_url, self.catcher.port(), options))
    }

    /// Deliveries that have not come to rest.
    pub(super) async fn unfinished(&self) -> anyhow::Result<i64> {
        let sql = "SELECT count(*) FROM outbox.deliveries WHERE state IN ('pending', 'claimed', 'sending')";
        Ok(self.client.query_one(sql, &[]).await.context("could not look at the outbox")?.get(0))
    }

    /// Message, address and state of each delivery.
    pub(super) async fn deliveries(&self) -> anyhow::Result<Vec<(String, String, String)>> {
        let sql = "SELECT message_id::text, outbox.address_of(recipient), state FROM outbox.deliveries";
        let rows = self.client.query(sql, &[]).await.context("could not look at the outbox")?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
    }

    /// The relay's configuration.
    pub(super) fn config(&self) -> PathBuf {
        self.directory.path().join("hapax.toml")
    }

    /// The relay's log.
    pub(super) fn log(&self) -> PathBuf {
        self.directory.path().join("relay.log")
    }

    /// What arrived.
    pub(super) fn mail(&self) -> PathBuf {
        self.directory.path().join("mail")
    }
}

async fn migrate(url: &str) -> anyhow::Result<()> {
    let options = ConnectOptions {
        url: url.to_owned(),
        password: None,
        pool_size_max: 1,
        statement_timeout: std::time::Duration::from_secs(60),
        application_name: "hapax demo".to_owned(),
    };
    let mut migrator = Migrator::connect(&options).await?;
    migrator.up(|_| {}).await.map_err(|error| Refusal::of_error(CONFIGURATION, &error, &[]))?;
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

/// The relay's configuration; with chaos, everything that has to do with death is quick.
fn config(database_url: &str, smtp_port: u16, options: Demo) -> String {
    let relay = match options.chaos {
        true => {
            "max_in_flight = 16\nheartbeat_interval = \"200ms\"\ndead_after = \"1s\"\nlease = \"2s\"\n\
             transmit_deadline = \"5s\"\nfinal_reply_timeout = \"5s\"\nshutdown_grace = \"10s\"\n"
        }
        false => "final_reply_timeout = \"30s\"\nshutdown_grace = \"40s\"\n",
    };
    let connections = if options.chaos { 8 } else { 4 };
    format!(
        "# Made by hapax demo.\n\
         [database]\nurl = \"{database_url}\"\n\n\
         [relay]\nname = \"demo\"\n{relay}\n\
         [templates]\ndirectory = \"templates\"\n\n\
         [routes.default]\nurl = \"smtp://127.0.0.1:{smtp_port}?starttls=none\"\n\
         from = \"The Tea Cabinet <shop@example.org>\"\nmax_connections = {connections}\n"
    )
}
