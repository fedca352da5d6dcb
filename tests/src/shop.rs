//! An application's database: the outbox beside a table of the application's own, seen by a role that may produce.
//!
//! For tests that play an application with a library of its own: they get a URL, and look at what arrived as the
//! superuser.

use anyhow::Context as _;
use hapax_testkit::PgCluster;
use tokio::sync::OnceCell;
use tokio_postgres::Client;

use crate::database::{migrated_database, prepared_cluster};
use crate::pgbouncer::pooled;

/// One for the process. It is never dropped; its watchdog stops it when the process ends.
static CLUSTER: OnceCell<PgCluster> = OnceCell::const_new();

/// The table of orders, for the role `producer`.
pub const ORDERS: &str = "CREATE TABLE public.orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text NOT NULL, total text NOT NULL);
    GRANT INSERT, SELECT ON public.orders TO producer";

/// A database with the outbox and the table `orders (id, email, total)`, which the role `producer` may use.
#[derive(Debug)]
pub struct Shop {
    name: String,
    url: String,
}

impl Shop {
    /// Makes one.
    ///
    /// # Errors
    /// When the cluster does not start or a migration does not apply.
    pub async fn open() -> anyhow::Result<Self> {
        let cluster = CLUSTER.get_or_try_init(start).await?;
        let name = migrated_database(cluster).await?;
        cluster.execute(&name, ORDERS).await?;
        let url = cluster.url_for(&name, "producer");
        Ok(Self { name, url })
    }

    /// Where the application connects.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// A session of the superuser.
    ///
    /// # Errors
    /// When the cluster does not take it.
    pub async fn superuser(&self) -> anyhow::Result<Client> {
        let cluster = CLUSTER.get().context("the cluster has been started")?;
        Ok(cluster.client(&self.name).await?)
    }
}

async fn start() -> anyhow::Result<PgCluster> {
    let cluster = pooled(prepared_cluster().await.context("could not start a cluster")?).await;
    // Roles belong to the cluster: made once, here, since two at a time would get in each other's way. The group comes
    // with the first migrated database.
    let first = migrated_database(&cluster).await?;
    cluster.execute(&first, "CREATE ROLE producer LOGIN IN ROLE outbox_producer").await?;
    Ok(cluster)
}
