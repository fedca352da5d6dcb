//! A database with the schema in it, for suites that test the schema itself.
//!
//! The files of `/migrations` are applied as they lie there, in the order of their numbers, each in a transaction of its
//! own: what the migrator does, without it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use hapax_testkit::{PgCluster, migrations_recipe};
use tokio::sync::Mutex;
use tokio_postgres::Client;

const TEMPLATE: &str = "hapax_template";

static DATABASES: AtomicU32 = AtomicU32::new(0);
/// The ports of the clusters that have a migrated template.
static MIGRATED: Mutex<BTreeSet<u16>> = Mutex::const_new(BTreeSet::new());

/// Every migration, in order.
///
/// # Errors
/// When the directory cannot be read.
pub fn migration_files() -> anyhow::Result<Vec<PathBuf>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let entries = std::fs::read_dir(&directory).with_context(|| format!("could not read {}", directory.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "sql"));
    files.sort();
    Ok(files)
}

/// Applies every migration to an empty database, as the user of `client`.
///
/// # Errors
/// When a file cannot be read or a migration fails; names the file.
pub async fn migrate(client: &Client) -> anyhow::Result<()> {
    client.batch_execute("CREATE SCHEMA outbox").await?;
    for file in migration_files()? {
        let sql = std::fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
        client
            .batch_execute(&format!("BEGIN;\n{sql}\n;COMMIT"))
            .await
            .with_context(|| format!("could not apply {}", file.display()))?;
    }
    Ok(())
}

async fn fill(cluster: &PgCluster) -> anyhow::Result<()> {
    cluster.create_database(TEMPLATE).await?;
    migrate(&cluster.client(TEMPLATE).await?).await
}

/// A cluster for [`migrated_database`], in which that has nothing left to migrate.
///
/// # Errors
/// As [`migrate`], or when it does not start.
pub async fn prepared_cluster() -> anyhow::Result<PgCluster> {
    let fill = async |cluster: &PgCluster| fill(cluster).await.map_err(|error| format!("{error:#}"));
    Ok(PgCluster::builder().fsync(false).start_prepared(&migrations_recipe("suites"), fill).await?)
}

/// Creates a database of its own in the cluster, with every migration applied by the superuser, and returns its name.
///
/// The first call for a cluster migrates (unless it is a [`prepared_cluster`]), the others copy: their arming epochs are the same.
///
/// # Errors
/// As [`migrate`].
pub async fn migrated_database(cluster: &PgCluster) -> anyhow::Result<String> {
    let mut migrated = MIGRATED.lock().await;
    if migrated.insert(cluster.port()) {
        let client = cluster.client("postgres").await?;
        let exists = client.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&TEMPLATE]).await?;
        if exists.is_none() {
            fill(cluster).await?;
        }
    }
    let name = format!("hapax_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    // One at a time: a template must not be in use.
    cluster.execute("postgres", &format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}")).await?;
    // A copy is another database to the outbox, and refuses to be sent from until it is armed.
    cluster.execute(&name, "UPDATE outbox.control SET identity = outbox.database_identity()").await?;
    Ok(name)
}
