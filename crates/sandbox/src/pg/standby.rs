//! Streaming standbys: base backup, promotion.
//!
//! A standby is a [`PgCluster`] of its own (directory, port, life) that follows another through the other's socket.
//! Replication is asynchronous unless the primary is told otherwise: promotion may lose the last commits, which is what
//! the failover tests are after.

use super::builder::{PgClusterBuilder, blocking};
use super::error::Error;
use super::{PgCluster, SUPERUSER};

impl PgCluster {
    /// A streaming standby of a running `primary`, started and answering reads, with the primary's fsync and password.
    ///
    /// # Errors
    /// See [`PgError`](crate::PgError).
    pub async fn standby_of(primary: &Self) -> Result<Self, Error> {
        Self::builder().fsync(primary.fsync).start_standby_of(primary).await
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
        let options = self.password_auth(primary.password().is_some());
        let socket = primary.socket_directory().to_owned();
        let port = primary.port().to_string();
        let password = primary.password().map(str::to_owned);
        let cluster = blocking(move || {
            let mut cluster = options.shell()?;
            // Roles, and so their passwords, come with the copy.
            cluster.password = password;
            let mut command = cluster.command("pg_basebackup");
            command.args(["-X", "stream", "-c", "fast", "--no-sync", "-R", "-U", SUPERUSER, "-p", &port]);
            command.arg("-h").arg(socket).arg("-D").arg(cluster.data_directory());
            let program = cluster.binaries.path("pg_basebackup");
            let output = command.output().map_err(Error::file("could not run", program))?;
            if !output.status.success() {
                let text = [output.stdout, output.stderr].concat();
                return Err(Error::Program {
                    program: "pg_basebackup",
                    status: output.status,
                    output: String::from_utf8_lossy(&text).into_owned(),
                });
            }
            options.configure(&cluster)?;
            Ok(cluster)
        })
        .await?;
        cluster.launch().await?;
        Ok(cluster)
    }
}
