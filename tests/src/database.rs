//! A database with the schema in it, for suites that test the schema itself.
//!
//! The files of `/migrations` are applied as they lie there, in the order of their numbers, each in a transaction of its
//! own: what the migrator does, without it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use hapax_testkit::PgCluster;

static DATABASES: AtomicU32 = AtomicU32::new(0);

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

/// Creates a database of its own in the cluster, applies every migration as the superuser and returns its name.
///
/// # Errors
/// When a file cannot be read or a migration fails; names the file.
pub async fn migrated_database(cluster: &PgCluster) -> anyhow::Result<String> {
    let name = format!("hapax_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    cluster.create_database(&name).await?;
    let client = cluster.client(&name).await?;
    client.batch_execute("CREATE SCHEMA outbox").await?;
    for file in migration_files()? {
        let sql = std::fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
        // One simple query is one transaction, unless the text says otherwise; SET LOCAL needs it said.
        client
            .batch_execute(&format!("BEGIN;\n{sql}\n;COMMIT"))
            .await
            .with_context(|| format!("could not apply {}", file.display()))?;
    }
    Ok(name)
}
