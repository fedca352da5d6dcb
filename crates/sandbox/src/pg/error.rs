//! What can go wrong with a private cluster. Messages name the path or value, and say what to do where we know it.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// An error of [`PgCluster`](crate::PgCluster).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No `initdb` and `postgres` pair was found.
    #[error("no Postgres server binaries found in {}\nhint: apt-get install postgresql, or set HAPAX_PG_BIN", list(.searched))]
    BinariesMissing {
        /// The directories that were looked at.
        searched: Vec<PathBuf>,
    },
    /// We are root, and there is nobody to run the server as.
    #[error(
        "Postgres refuses to run as root, and neither user \"postgres\" nor \"nobody\" exists\nhint: run as another user"
    )]
    NoUnprivilegedUser,
    /// The server runs as another user than we do, and that one may not go where it would have to.
    #[error("user {uid} (the server's: it refuses to run as root) may not enter {}\nhint: set TMPDIR to a directory \
             that everybody may enter, such as /tmp", path.display())]
    Locked {
        /// The server's user.
        uid: u32,
        /// The directory.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("{operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A program could not be started, or failed.
    #[error("{program} failed ({status}): {output}")]
    Program {
        /// The program.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// What it printed.
        output: String,
    },
    /// The databases of a prepared cluster could not be filled.
    #[error("could not fill the databases: {0}")]
    Unprepared(String),
    /// No port was free.
    #[error("no port of 127.0.0.1 could be reserved")]
    Port(#[source] io::Error),
    /// The server ended while starting.
    #[error("the server ended while starting ({status}); the end of its log:\n{log}")]
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// The server did not accept connections in time.
    #[error("the server accepted no connection within {seconds} s; the end of its log:\n{log}")]
    NotReady {
        /// The deadline.
        seconds: u64,
        /// The last lines of its log.
        log: String,
    },
    /// The server did not end in time.
    #[error("the server did not end within {seconds} s")]
    NotStopped {
        /// The deadline.
        seconds: u64,
    },
    /// A statement of ours failed.
    #[error("{operation}")]
    Database {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server is not running.
    #[error("the server is not running")]
    NotRunning,
    /// The server is running already.
    #[error("the server is running already")]
    Running,
    /// A background task of ours was cancelled by a runtime that is shutting down.
    #[error("the runtime is shutting down")]
    ShuttingDown,
}

impl Error {
    pub(crate) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
