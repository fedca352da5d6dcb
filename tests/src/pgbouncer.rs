//! A real PgBouncer in transaction mode (unpacked by `tests/setup`), with a configuration and a port of its own, in front
//! of one cluster: each transaction may run on another backend, and what a session leaves behind there stays for others.
//!
//! Invariant: it ends with its handle, and when this process dies without dropping it (see [`Keeper`]).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use hapax_testkit::{PgCluster, ReservedPort, eventually};
use tokio::net::TcpStream;

use crate::jail::servers;
use crate::keeper::Keeper;

const START_DEADLINE: Duration = Duration::from_secs(30);

/// What makes every stage a pooled one (`make pooled`).
const POOLED: &str = "HAPAX_TESTS_POOLED";
/// `PgBouncer`'s own default.
const POOL_SIZE: usize = 20;

/// Whether the URLs of stages lead through a pooler.
#[must_use]
pub fn is_pooled() -> bool {
    std::env::var_os(POOLED).is_some_and(|value| value == "1")
}

/// The cluster, with a pooler in front where every stage is to have one.
///
/// # Panics
/// When there is no pooler here.
pub async fn pooled(mut cluster: PgCluster) -> PgCluster {
    if is_pooled() && cluster.password().is_none() {
        PgBouncer::available().expect("every stage wants one");
        let pooler = PgBouncer::start(cluster.port(), POOL_SIZE).await;
        cluster.put_in_front(pooler.port(), pooler);
    }
    cluster
}

/// A pooler; see the module.
#[derive(Debug)]
pub struct PgBouncer {
    // Before the directory: it ends before that is deleted.
    server: Option<Keeper>,
    directory: tempfile::TempDir,
    port: ReservedPort,
}

impl PgBouncer {
    /// Whether it can run here; if not, says why.
    ///
    /// # Errors
    /// What is missing and what to type.
    pub fn available() -> Result<(), &'static str> {
        let complete = servers().join("complete").exists();
        complete.then_some(()).ok_or("PgBouncer is not unpacked: run tests/setup")
    }

    /// Starts it in front of the server at `port`, with so many connections to it per user. All else is `PgBouncer`'s default,
    /// but for what JDBC asks for, room for many clients, and a server that was away, which is tried after 1 s instead of 15.
    ///
    /// # Panics
    /// When it does not start, with its log.
    pub async fn start(port: u16, pool_size: usize) -> Self {
        let directory = tempfile::Builder::new().prefix("hapax-pooler-").tempdir().expect("a directory can be made");
        let root = directory.path();
        // It refuses to run as root, and nobody may not look into everybody's checkout.
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let own = ReservedPort::reserve().expect("a port is free");
        let configuration = format!(
            "[databases]\n* = host=127.0.0.1 port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}/users\nauth_user = postgres\npool_mode = transaction\ndefault_pool_size = {pool_size}\n\
             max_client_conn = 200\nserver_login_retry = 1\nignore_startup_parameters = extra_float_digits\n",
            own.number(),
            root.display()
        );
        fs::write(root.join("pgbouncer.ini"), configuration).expect("a file can be written");
        // It asks the database for all others.
        fs::write(root.join("users"), "\"postgres\" \"\"\n").expect("a file can be written");
        let copy = "cp \"$1/usr/sbin/pgbouncer\" \"$2\" && mkdir \"$2/lib\" && find \"$1/usr/lib\" -name '*.so*' -exec cp {} \"$2/lib\" \\;";
        let copied =
            Command::new("/bin/sh").args(["-c", copy, "copy"]).arg(servers().join("packages")).arg(root).status();
        assert!(copied.expect("there is a shell").success(), "the program can be copied");
        let mut pooler = Self { server: None, directory, port: own };
        pooler.run().await;
        pooler
    }

    async fn run(&mut self) {
        let root = self.directory.path();
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(root.join("pgbouncer"));
            command
        } else {
            Command::new(root.join("pgbouncer"))
        };
        command.arg(root.join("pgbouncer.ini")).env("LD_LIBRARY_PATH", root.join("lib"));
        self.server = Some(Keeper::run(command, &self.log_path(), Some(root)));
        let open = async || TcpStream::connect(self.port.address()).await.map_err(|error| (error, self.log()));
        eventually(START_DEADLINE, open).await;
    }

    /// Ends it, with every connection through it, and starts it again on the same port.
    ///
    /// # Panics
    /// When it does not start again.
    pub async fn restart(&mut self) {
        self.server.take().expect("it runs").end();
        self.run().await;
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The URL of a database through it.
    #[must_use]
    pub fn url_for(&self, database: &str, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port())
    }

    /// Everything it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}
