//! What every measurement needs: a private, durable cluster, a directory for logs, and the connection that looks.
//!
//! The cluster keeps every default but `shared_buffers`: fsync and synchronous_commit are on. It listens on loopback
//! without passwords while a measurement runs, because the peers' own drivers expect that.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Context;
use hapax_sandbox::PgCluster;
use tokio_postgres::{Client, types::ToSql};

use super::proc;
use crate::failure::Refusal;

const SHARED_BUFFERS: &str = "512MB";

/// The cluster and where logs go. Gone when dropped.
pub(super) struct Stage {
    cluster: PgCluster,
    pub(super) directory: tempfile::TempDir,
    postmaster: u32,
    has_walinspect: bool,
    version: String,
}

impl Stage {
    /// Sets it all up.
    ///
    /// # Errors
    /// When there are no server programs, or they do not start.
    pub(super) async fn set(preload: Option<&str>) -> anyhow::Result<Self> {
        let directory = directory()?;
        let mut builder = PgCluster::builder().setting("shared_buffers", SHARED_BUFFERS);
        if let Some(library) = preload {
            builder = builder.setting("shared_preload_libraries", library).setting("pg_stat_statements.max", "10000");
        }
        let cluster = builder.start().await.map_err(|error| Refusal::of_error(1, &error, &[]))?;
        let postmaster = cluster.pid().await.context("the cluster does not run")?;
        let has_walinspect = cluster.execute("postgres", "CREATE EXTENSION pg_walinspect").await.is_ok();
        let version =
            cluster.client("postgres").await?.query_one("SHOW server_version", &[]).await?.get::<_, String>(0);
        let version = version.split_whitespace().next().unwrap_or_default().to_owned();
        Ok(Self { cluster, directory, postmaster, has_walinspect, version })
    }

    /// A database of that name, empty.
    pub(super) async fn fresh_database(&self, name: &str) -> anyhow::Result<()> {
        self.drop_database(name).await?;
        self.cluster.create_database(name).await?;
        Ok(())
    }

    /// Whether there is one of that name.
    pub(super) async fn has_database(&self, name: &str) -> anyhow::Result<bool> {
        let sql = "SELECT count(*) FROM pg_database WHERE datname = $1";
        Ok(self.client("postgres").await?.query_one(sql, &[&name]).await?.get::<_, i64>(0) > 0)
    }

    /// Without it.
    pub(super) async fn drop_database(&self, name: &str) -> anyhow::Result<()> {
        let sql = format!("DROP DATABASE IF EXISTS \"{}\" WITH (FORCE)", name.replace('"', "\"\""));
        Ok(self.cluster.execute("postgres", &sql).await?)
    }

    /// Over TCP.
    pub(super) fn url(&self, database: &str, user: &str) -> String {
        self.cluster.url_for(database, user)
    }

    /// Runs SQL as the superuser.
    pub(super) async fn execute(&self, database: &str, sql: &str) -> anyhow::Result<()> {
        Ok(self.cluster.execute(database, sql).await?)
    }

    /// A connection as the superuser, over the unix socket.
    pub(super) async fn client(&self, database: &str) -> anyhow::Result<Client> {
        Ok(self.cluster.client(database).await?)
    }

    /// The connection that looks.
    pub(super) async fn watcher(&self, database: &str) -> anyhow::Result<Watcher> {
        let client = self.client(database).await?;
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        Ok(Watcher { client, pid: pid.unsigned_abs(), statements: AtomicU32::new(1) })
    }

    /// The postmaster's process id.
    pub(super) fn postmaster(&self) -> u32 {
        self.postmaster
    }

    /// CPU time of the server without the backends of those who look, in microseconds.
    pub(super) fn postgres_cpu_us(&self, watchers: &[u32]) -> u64 {
        proc::family_cpu_us(self.postmaster, watchers)
    }

    /// A file for what a process says.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        let fits = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        self.directory.path().join(format!("{}.log", name.chars().map(fits).collect::<String>()))
    }

    /// A file of that name.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// WAL between two places: records and full-page images, in bytes; only their sum where nobody can tell.
    pub(super) async fn wal(&self, from: &str, to: &str) -> anyhow::Result<Wal> {
        let client = self.client("postgres").await?;
        let sql = format!("SELECT ('{to}'::pg_lsn - '{from}'::pg_lsn)::float8");
        let total: f64 = client.query_one(&sql, &[]).await?.get(0);
        if !self.has_walinspect || total == 0.0 {
            return Ok(Wal { total, records: None });
        }
        // A durable commit flushes everything up to here. Segments may have been recycled: then nobody can tell.
        client.batch_execute("SELECT pg_logical_emit_message(true, 'bench', '')").await?;
        let sql = format!("SELECT sum(record_size)::float8 FROM pg_get_wal_stats('{from}', '{to}')");
        let records = client.query_one(&sql, &[]).await.ok().and_then(|row| row.get(0));
        Ok(Wal { total, records })
    }

    /// The machine in a few words.
    pub(super) fn machine(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
        let cores = if cores == 1 { "1 core".to_owned() } else { format!("{cores} cores") };
        format!("{cores}, {}, Postgres {}, shared_buffers {SHARED_BUFFERS}", name.trim_matches('"'), self.version)
    }
}

/// Bytes of WAL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wal {
    pub(super) total: f64,
    /// Without full-page images, where `pg_walinspect` is installed.
    pub(super) records: Option<f64>,
}

/// What the server has counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) versions: f64,
    pub(super) buffers: f64,
}

/// The connection that looks. What it costs is left out of what is measured: its backend's CPU time, and its statements
/// are counted.
pub(super) struct Watcher {
    client: Client,
    pid: u32,
    statements: AtomicU32,
}

impl Watcher {
    /// One statement.
    pub(super) async fn one<T>(&self, sql: &str) -> anyhow::Result<T>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        self.statements.fetch_add(1, Ordering::Relaxed);
        let no: &[(&(dyn ToSql + Sync), tokio_postgres::types::Type)] = &[];
        let rows = self.client.query_typed(sql, no).await.with_context(|| format!("could not look: {sql}"))?;
        let row = rows.first().with_context(|| format!("nothing came of {sql}"))?;
        row.try_get(0).with_context(|| format!("could not take what came of {sql}"))
    }

    /// Two columns of each row.
    pub(super) async fn pairs(&self, sql: &str) -> anyhow::Result<Vec<(String, i64)>> {
        self.statements.fetch_add(1, Ordering::Relaxed);
        let rows = self.client.query_typed(sql, &[]).await.with_context(|| format!("could not look: {sql}"))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Statements that cannot be part of a transaction, or are many.
    pub(super) async fn batch(&self, sql: &str) -> anyhow::Result<()> {
        self.statements.fetch_add(1, Ordering::Relaxed);
        self.client.batch_execute(sql).await.with_context(|| format!("could not run: {sql}"))
    }

    /// Where the WAL ends.
    pub(super) async fn lsn(&self) -> anyhow::Result<String> {
        self.one("SELECT pg_current_wal_insert_lsn()::text").await
    }

    /// Transactions of the database so far, without our own. Exact for backends that have ended, or been idle for a while.
    pub(super) async fn transactions(&self) -> anyhow::Result<i64> {
        self.batch("SELECT pg_stat_force_next_flush()").await?;
        let own = i64::from(self.statements.load(Ordering::Relaxed));
        let sql = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()";
        Ok(self.one::<i64>(sql).await? - own)
    }

    /// Versions of rows that were written, and buffers that were looked at. Exact as [`Watcher::transactions`].
    pub(super) async fn work(&self) -> anyhow::Result<Work> {
        self.batch("SELECT pg_stat_force_next_flush()").await?;
        let rows = "SELECT coalesce(sum(n_tup_ins + n_tup_upd), 0)::float8 FROM pg_stat_user_tables";
        let buffers = "SELECT (blks_hit + blks_read)::float8 FROM pg_stat_database WHERE datname = current_database()";
        Ok(Work { versions: self.one(rows).await?, buffers: self.one(buffers).await? })
    }

    /// The process id of its backend.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }
}

/// A temporary directory. Gone when dropped.
pub(super) fn directory() -> anyhow::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("hapax-bench-").tempdir().map_err(|error| {
        let place = std::env::temp_dir();
        let problem = format!("could not make a directory in {}: {}", place.display(), error.kind());
        Refusal::failed(problem, &["set TMPDIR to a directory that you may write to, such as /tmp"]).into()
    })
}

/// The directory of a path, for people.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
