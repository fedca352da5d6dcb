//! Options of a cluster, and its birth: directory, data, configuration, first start.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write as _};
use std::path::Path;

use tokio::sync::Mutex;

use super::binaries::{Binaries, ServerUser};
use super::error::Error;
use super::{PgCluster, template};
use crate::port::ReservedPort;
use crate::watchdog::Watchdog;

const CONNECTIONS_MAX: u32 = 200;

/// Options of a [`PgCluster`]. Later settings win over earlier ones and over the defaults.
#[derive(Clone, Debug)]
#[must_use]
pub struct PgClusterBuilder {
    fsync: bool,
    password_auth: bool,
    settings: Vec<(String, String)>,
    environment: Vec<(String, String)>,
}

impl Default for PgClusterBuilder {
    fn default() -> Self {
        Self { fsync: true, password_auth: false, settings: Vec::new(), environment: Vec::new() }
    }
}

impl PgClusterBuilder {
    /// Whether the server forces data to the disk (default: yes). Off is fine for tests, killed servers included: the
    /// operating system keeps what was written. `synchronous_commit` is not touched.
    pub fn fsync(mut self, fsync: bool) -> Self {
        self.fsync = fsync;
        self
    }

    /// Whether TCP connections need a password (default: no). On a machine with other users it should be on: a superuser
    /// of the database can run programs as the user of the server.
    pub fn password_auth(mut self, required: bool) -> Self {
        self.password_auth = required;
        self
    }

    /// A line for postgresql.conf.
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// An environment variable of the server, each time it is started.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Makes the cluster and starts it; returns when it takes connections.
    ///
    /// # Errors
    /// See [`PgError`](crate::PgError).
    pub async fn start(self) -> Result<PgCluster, Error> {
        let made = blocking(move || {
            let cluster = self.shell()?;
            template::make_data_directory(&cluster.binaries, cluster.user, &cluster.data_directory())?;
            self.configure(&cluster)?;
            Ok((cluster, self))
        });
        let (cluster, builder) = made.await?;
        builder.launch(cluster).await
    }

    /// The first start.
    pub(super) async fn launch(self, cluster: PgCluster) -> Result<PgCluster, Error> {
        cluster.launch().await?;
        if self.password_auth
            && let Some(password) = cluster.password()
        {
            cluster.execute("postgres", &format!("ALTER ROLE postgres PASSWORD '{password}'")).await?;
        }
        Ok(cluster)
    }

    /// A cluster with a directory, a port and a watchdog, but no data yet.
    pub(super) fn shell(&self) -> Result<PgCluster, Error> {
        let binaries = Binaries::find()?;
        let user = ServerUser::needed()?;
        let temporary = std::env::temp_dir();
        let directory = tempfile::Builder::new()
            .prefix("hapax-pg-")
            .tempdir()
            .map_err(Error::file("could not make a directory in", temporary))?;
        template::give(directory.path(), user).map_err(Error::file("could not hand over", directory.path()))?;
        let watchdog = Watchdog::guard(directory.path()).map_err(Error::file("could not run", "/bin/sh"))?;
        Ok(PgCluster {
            binaries,
            user,
            fsync: self.fsync,
            environment: self.environment.clone(),
            password: self.password_auth.then(generate_password).transpose()?,
            directory,
            port: ReservedPort::reserve().map_err(Error::Port)?,
            front: None,
            server: Mutex::new(None),
            _watchdog: watchdog,
        })
    }

    /// Appends our settings to postgresql.conf (the last one wins) and writes who may connect.
    pub(super) fn configure(&self, cluster: &PgCluster) -> Result<(), Error> {
        let mut text = String::from("\n# hapax-sandbox\n");
        let on_off = |on: bool| if on { "on" } else { "off" };
        let defaults = [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", cluster.port().to_string()),
            ("unix_socket_directories", cluster.directory.path().display().to_string()),
            ("max_connections", CONNECTIONS_MAX.to_string()),
            ("shared_buffers", "64MB".to_owned()),
            ("fsync", on_off(self.fsync).to_owned()),
            ("full_page_writes", on_off(self.fsync).to_owned()),
            ("timezone", "UTC".to_owned()),
            ("log_timezone", "UTC".to_owned()),
            ("cluster_name", "hapax-sandbox".to_owned()),
        ];
        let extra = self.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
        for (name, value) in defaults.into_iter().chain(extra) {
            let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
        }
        let data = cluster.data_directory();
        append(&data.join("postgresql.conf"), &text)?;
        let tcp = if self.password_auth { "scram-sha-256" } else { "trust" };
        // The socket lies in a directory that nobody else can enter: trust there is as good as `peer`.
        let access = format!("local all,replication all trust\nhost all,replication all 127.0.0.1/32 {tcp}\n");
        let path = data.join("pg_hba.conf");
        // Truncated in place, so that the owner stays.
        std::fs::write(&path, access).map_err(Error::file("could not write", path))
    }
}

fn append(path: &Path, text: &str) -> Result<(), Error> {
    let write = || OpenOptions::new().append(true).open(path)?.write_all(text.as_bytes());
    write().map_err(Error::file("could not write", path))
}

fn generate_password() -> Result<String, Error> {
    let mut bytes = [0_u8; 16];
    let read = || File::open("/dev/urandom")?.read_exact(&mut bytes);
    let mut read = read;
    read().map_err(Error::file("could not read", "/dev/urandom"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Runs file work off the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::ShuttingDown),
    }
}
