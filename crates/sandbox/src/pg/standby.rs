//! Streaming standbys and other copies: base backup, promotion, cold snapshots, dumps.
//!
//! A standby is a [`PgCluster`] of its own (directory, port, life) that follows another through the other's socket.
//! Replication is asynchronous unless the primary is told otherwise: promotion may lose the last commits, which is what
//! the failover tests are after.

use super::builder::{PgClusterBuilder, blocking};
use super::error::Error;
use super::server::POLL_INTERVAL;
use super::{PgCluster, SUPERUSER, template};

impl PgCluster {
    /// A streaming standby of a running `primary`, started and answering reads, with the primary's fsync and password.
    ///
    /// # Errors
    /// See [`PgError`](crate::PgError).
    pub async fn standby_of(primary: &Self) -> Result<Self, Error> {
        Self::builder().fsync(primary.fsync).start_standby_of(primary).await
    }

    /// A copy of a running `original` with a life of its own, as one gets it from a file system snapshot that is started
    /// elsewhere: the same system identifier and timeline, another port.
    ///
    /// # Errors
    /// See [`PgError`](crate::PgError).
    pub async fn copy_of(original: &Self) -> Result<Self, Error> {
        Self::builder().fsync(original.fsync).start_copy_of(original, false).await
    }

    /// Cuts a standby off from its primary: what is committed there from now on never arrives here.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn cut_replication(&self) -> Result<(), Error> {
        // One at a time: ALTER SYSTEM takes no company.
        self.execute(SUPERUSER, "ALTER SYSTEM SET primary_conninfo = ''").await?;
        self.execute(SUPERUSER, "SELECT pg_reload_conf()").await?;
        let client = self.client(SUPERUSER).await?;
        loop {
            let receivers = client.query("SELECT FROM pg_stat_wal_receiver", &[]).await;
            match receivers.map_err(|source| Error::Database { operation: "could not look at the receiver", source })? {
                rows if rows.is_empty() => return Ok(()),
                _ => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    }

    /// Copies the data directory while the server is stopped, and starts it again. A second snapshot replaces the first.
    ///
    /// # Errors
    /// When the server does not stop or start, or the files cannot be copied.
    pub async fn take_snapshot(&self) -> Result<(), Error> {
        self.stop().await?;
        self.replace(self.data_directory(), self.snapshot_directory()).await?;
        self.restart().await
    }

    /// Puts the snapshot back in place of the data, and starts the server on the same port.
    ///
    /// # Errors
    /// As [`take_snapshot`](Self::take_snapshot).
    pub async fn restore_snapshot(&self) -> Result<(), Error> {
        match self.kill_immediate().await {
            Ok(()) | Err(Error::NotRunning) => {}
            Err(error) => return Err(error),
        }
        self.replace(self.snapshot_directory(), self.data_directory()).await?;
        self.restart().await
    }

    fn snapshot_directory(&self) -> std::path::PathBuf {
        self.directory.path().join("snapshot")
    }

    async fn replace(&self, from: std::path::PathBuf, to: std::path::PathBuf) -> Result<(), Error> {
        let user = self.user;
        blocking(move || {
            let attempt = || {
                if to.exists() {
                    std::fs::remove_dir_all(&to)?;
                }
                template::copy_tree(&from, &to, user)
            };
            attempt().map_err(Error::file("could not copy to", &to))
        })
        .await
    }

    /// Copies a database as `pg_dump` and `pg_restore` do, into a new one of this cluster; answers its URL.
    ///
    /// # Errors
    /// When a program fails.
    pub async fn dump_and_restore(&self, from: &str, to: &str) -> Result<String, Error> {
        let url = self.create_database(to).await?;
        self.restore_into(from, to, &[]).await?;
        Ok(url)
    }

    /// Copies with `pg_dump` and `pg_restore`, with further options of the latter, into a database that is there.
    ///
    /// # Errors
    /// When a program fails. `pg_restore` does when it had to ignore errors.
    pub async fn restore_into(&self, from: &str, to: &str, options: &[&str]) -> Result<(), Error> {
        let file = self.directory.path().join(format!("{to}.dump"));
        let connect = |command: &mut std::process::Command| {
            command.args(["-U", SUPERUSER, "-p", &self.port().to_string(), "-h"]).arg(self.socket_directory());
        };
        let (mut dump, mut restore) = (self.command("pg_dump"), self.command("pg_restore"));
        connect(&mut dump);
        connect(&mut restore);
        dump.args(["-Fc", "-d", from, "-f"]).arg(&file);
        restore.args(["-d", to]).args(options).arg(&file);
        blocking(move || {
            for (program, mut command) in [("pg_dump", dump), ("pg_restore", restore)] {
                run(program, &mut command)?;
            }
            Ok(())
        })
        .await
    }

    /// Makes a standby a primary; returns when it takes writes.
    ///
    /// # Errors
    /// When the server refuses: it is no standby.
    pub async fn promote(&self) -> Result<(), Error> {
        self.execute(SUPERUSER, "SELECT pg_promote(true, 60)").await
    }
}

impl PgClusterBuilder {
    /// Like [`PgCluster::standby_of`], with options.
    ///
    /// # Errors
    /// See [`PgError`](crate::PgError).
    pub async fn start_standby_of(self, primary: &PgCluster) -> Result<PgCluster, Error> {
        self.start_copy_of(primary, true).await
    }

    async fn start_copy_of(self, primary: &PgCluster, follow: bool) -> Result<PgCluster, Error> {
        let options = self.password_auth(primary.password().is_some());
        let socket = primary.socket_directory().to_owned();
        let port = primary.port().to_string();
        let password = primary.password().map(str::to_owned);
        let cluster = blocking(move || {
            let mut cluster = options.shell()?;
            // Roles, and so their passwords, come with the copy.
            cluster.password = password;
            let mut command = cluster.command("pg_basebackup");
            command.args(["-X", "stream", "-c", "fast", "--no-sync", "-U", SUPERUSER, "-p", &port]);
            if follow {
                command.arg("-R");
            }
            command.arg("-h").arg(socket).arg("-D").arg(cluster.data_directory());
            run("pg_basebackup", &mut command)?;
            options.configure(&cluster)?;
            Ok(cluster)
        })
        .await?;
        cluster.launch().await?;
        Ok(cluster)
    }
}

fn run(program: &'static str, command: &mut std::process::Command) -> Result<(), Error> {
    let path = command.get_program().to_owned();
    let output = command.output().map_err(Error::file("could not run", path))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(Error::Program { program, status: output.status, output: String::from_utf8_lossy(&text).into_owned() })
}
