//! A private Postgres cluster in a temporary directory.
//!
//! It listens on a port of 127.0.0.1 and on a unix socket in its own directory (0700), runs as an unprivileged user when
//! we are root, and is stopped and deleted when its handle is dropped; if we are killed, a watchdog does it. It can be
//! stopped, killed, crashed, frozen, restarted on the same port, copied as a standby and promoted.
//!
//! Invariants: fsync is on unless a test turns it off; every durability default of the server is left as it is; the port
//! never changes during the life of a cluster.
//!
//! ```no_run
//! # async fn example() -> Result<(), hapax_sandbox::PgError> {
//! use hapax_sandbox::PgCluster;
//!
//! let cluster = PgCluster::builder().fsync(false).setting("log_statement", "all").start().await?;
//! let url = cluster.create_database("shop").await?;
//! cluster.kill_immediate().await?;
//! cluster.restart().await?;
//! # drop(url); Ok(())
//! # }
//! ```

mod binaries;
mod builder;
mod error;
mod prepared;
mod server;
mod standby;
mod template;

use std::any::Any;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls};

pub use builder::PgClusterBuilder;
pub use error::Error;
pub(crate) use template::private_directory;

use crate::port::ReservedPort;
use crate::watchdog::Watchdog;
use binaries::{Binaries, ServerUser};
use server::{POLL_INTERVAL, Server};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const LOG_TAIL_LINES: usize = 30;
/// The name of the superuser.
const SUPERUSER: &str = "postgres";

/// A private Postgres cluster; see the module's description. Dropping it stops the server and deletes its files.
///
/// `Drop` blocks for the tens of milliseconds that an immediate shutdown takes.
#[derive(Debug)]
pub struct PgCluster {
    binaries: Binaries,
    user: Option<ServerUser>,
    fsync: bool,
    environment: Vec<(String, String)>,
    password: Option<String>,
    directory: tempfile::TempDir,
    port: ReservedPort,
    front: Option<Front>,
    server: Mutex<Option<Server>>,
    // After `server`: whatever `Drop` leaves behind is still guarded.
    _watchdog: Watchdog,
}

/// What the URLs lead to instead of the server.
#[derive(Debug)]
struct Front {
    port: u16,
    _keeper: Box<dyn Any + Send + Sync>,
}

impl PgCluster {
    /// Starts a cluster with the defaults: fsync on, trust authentication on loopback.
    ///
    /// # Errors
    /// See [`PgError`](crate::PgError).
    pub async fn start() -> Result<Self, Error> {
        Self::builder().start().await
    }

    /// A cluster with other options.
    pub fn builder() -> PgClusterBuilder {
        PgClusterBuilder::default()
    }

    /// The URL of database `postgres` as the superuser, over TCP.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_for(SUPERUSER, SUPERUSER)
    }

    /// The URL of `database` as `user`, over TCP. With password authentication it carries [`password`](Self::password),
    /// so create the role with that one. Both names must be plain words.
    #[must_use]
    pub fn url_for(&self, database: &str, user: &str) -> String {
        self.url_at(self.front.as_ref().map_or_else(|| self.port(), |front| front.port), database, user)
    }

    /// The same past what was put in front, for a session that is more than its transactions.
    #[must_use]
    pub fn direct_url_for(&self, database: &str, user: &str) -> String {
        self.url_at(self.port(), database, user)
    }

    fn url_at(&self, port: u16, database: &str, user: &str) -> String {
        let password = self.password.as_deref().map(|password| format!(":{password}")).unwrap_or_default();
        format!("postgres://{user}{password}@127.0.0.1:{port}/{database}")
    }

    /// From now on URLs name `port`, where something of the caller's (a pooler, say) passes connections on to this server;
    /// it lives as long as the cluster.
    pub fn put_in_front(&mut self, port: u16, keeper: impl Any + Send + Sync) {
        self.front = Some(Front { port, _keeper: Box::new(keeper) });
    }

    /// The generated password, when the cluster was built with `password_auth(true)`.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The port on 127.0.0.1, the same for the cluster's whole life.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The directory of the unix socket; only we (and root) can enter it, and whoever can is trusted.
    #[must_use]
    pub fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    /// The data directory.
    #[must_use]
    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The server's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The postmaster's process id, if it runs.
    pub async fn pid(&self) -> Option<u32> {
        let mut server = self.server.lock().await;
        server.as_mut().and_then(|server| server.ended().is_none().then(|| server.id()))
    }

    /// A new connection to `database` as the superuser, its driver spawned on the current runtime.
    ///
    /// # Errors
    /// When the server does not take the connection.
    pub async fn client(&self, database: &str) -> Result<Client, Error> {
        let (client, connection) = self
            .socket_config(database)
            .connect(NoTls)
            .await
            .map_err(|source| Error::Database { operation: "could not connect", source })?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs SQL (one or many statements) in `database` as the superuser.
    ///
    /// # Errors
    /// When the server refuses the connection or a statement.
    pub async fn execute(&self, database: &str, sql: &str) -> Result<(), Error> {
        let client = self.client(database).await?;
        let done = client.batch_execute(sql).await;
        done.map_err(|source| Error::Database { operation: "could not execute the statements", source })
    }

    /// Creates a database and returns its URL as the superuser.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create_database(&self, name: &str) -> Result<String, Error> {
        self.execute(SUPERUSER, &format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""))).await?;
        Ok(self.url_for(name, SUPERUSER))
    }

    /// Stops the server orderly (SIGINT, "fast"): connections are cut, everything is flushed.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub async fn stop(&self) -> Result<(), Error> {
        self.end(Signal::INT).await
    }

    /// Stops the server without a checkpoint (SIGQUIT, "immediate"): the next start recovers from the WAL.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub async fn kill_immediate(&self) -> Result<(), Error> {
        match self.end(Signal::QUIT).await {
            // It has happened once in thousands that a postmaster did not end: the crash it was asked for comes anyway.
            Err(Error::NotStopped { .. }) => self.crash().await,
            ended => ended,
        }
    }

    /// Kills the postmaster and every backend with SIGKILL, as a power cut of the process (not of the disk) would.
    ///
    /// # Errors
    /// When it does not run, or the backends do not end in time.
    pub async fn crash(&self) -> Result<(), Error> {
        let mut slot = self.server.lock().await;
        let server = slot.as_mut().ok_or(Error::NotRunning)?;
        let family = server.signal_family(Signal::KILL);
        server.wait().await?;
        *slot = None;
        server::wait_gone(&family).await
    }

    /// Starts a stopped server, on the same port and data; returns when it takes connections. A running one is stopped
    /// orderly first.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&self) -> Result<(), Error> {
        match self.stop().await {
            Ok(()) | Err(Error::NotRunning) => self.launch().await,
            Err(error) => Err(error),
        }
    }

    /// Stops the server's processes in their tracks (SIGSTOP): connections stay open and nothing answers.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn freeze(&self) -> Result<(), Error> {
        self.signal_family(Signal::STOP).await
    }

    /// Lets a frozen server run on.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn thaw(&self) -> Result<(), Error> {
        self.signal_family(Signal::CONT).await
    }

    async fn signal_family(&self, signal: Signal) -> Result<(), Error> {
        let mut slot = self.server.lock().await;
        slot.as_mut().ok_or(Error::NotRunning)?.signal_family(signal);
        Ok(())
    }

    async fn end(&self, signal: Signal) -> Result<(), Error> {
        let mut slot = self.server.lock().await;
        let server = slot.as_mut().ok_or(Error::NotRunning)?;
        server.signal_family(Signal::CONT);
        server.signal(signal);
        server.wait().await?;
        *slot = None;
        Ok(())
    }

    /// Spawns the server and waits until it answers.
    async fn launch(&self) -> Result<(), Error> {
        let mut slot = self.server.lock().await;
        if slot.as_mut().is_some_and(|server| server.ended().is_none()) {
            return Err(Error::Running);
        }
        let server = slot.insert(Server::spawn(self.server_command(), &self.data_directory(), &self.log_path())?);
        let started = Instant::now();
        let config = self.socket_config(SUPERUSER);
        loop {
            if let Some(status) = server.ended() {
                let log = self.log_tail();
                // After a crash the kernel may take a moment to end the backends of the server before.
                let haunted = log.lines().rev().take(3).any(|line| line.contains("pre-existing shared memory block"));
                if haunted && started.elapsed() < START_TIMEOUT {
                    tokio::time::sleep(POLL_INTERVAL).await;
                    *server = Server::spawn(self.server_command(), &self.data_directory(), &self.log_path())?;
                    continue;
                }
                *slot = None;
                return Err(Error::Exited { status, log });
            }
            if let Ok((client, connection)) = config.connect(NoTls).await {
                // Answered: politely let go of it, so that it does not count as a connection for long.
                drop(client);
                let _ = connection.await;
                return Ok(());
            }
            if started.elapsed() > START_TIMEOUT {
                return Err(Error::NotReady { seconds: START_TIMEOUT.as_secs(), log: self.log_tail() });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn server_command(&self) -> Command {
        let mut command = self.command("postgres");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn command(&self, program: &str) -> Command {
        self.binaries.command(program, self.user, self.directory.path())
    }

    fn socket_config(&self, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.directory.path()).port(self.port()).user(SUPERUSER).dbname(database);
        config
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("postgres.log")
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let skip = log.lines().count().saturating_sub(LOG_TAIL_LINES);
        log.lines().skip(skip).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for PgCluster {
    fn drop(&mut self) {
        let segment = shared_memory_id(&self.data_directory());
        match self.server.get_mut().take() {
            Some(server) => server.end_now(),
            // A crashed server left its interlock segment behind, and nobody will restart it to take it over.
            None => segment.into_iter().for_each(free_shared_memory),
        }
    }
}

/// The System V segment named in the pid file (7th line: "key id"), which only a server that crashed leaves behind.
fn shared_memory_id(data: &Path) -> Option<String> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let id = text.lines().nth(6)?.split_whitespace().nth(1)?;
    id.bytes().all(|byte| byte.is_ascii_digit()).then(|| id.to_owned())
}

fn free_shared_memory(id: String) {
    // Best effort: the segment is 56 bytes, and some systems have no ipcrm.
    let _ = Command::new("ipcrm").args(["-m", &id]).output();
}
