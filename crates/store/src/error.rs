//! What can go wrong with the database, and what it means for the caller: nothing happened, something may have happened,
//! or this is not the database it should be.

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

/// A failed call. `Display` says what, [`std::error::Error::source`] why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration of the connection does not make sense.
    #[error("database.url: {reason}")]
    Config {
        /// What is wrong with it; never the password.
        reason: String,
    },
    /// No connection could be had.
    #[error("{operation}: no connection to the database")]
    Unreachable {
        /// What was wanted.
        operation: &'static str,
        /// Why not.
        source: Box<PoolError>,
    },
    /// The client-side time was up; the server may still do it.
    #[error("{operation}: no answer from the database in time")]
    Timeout {
        /// What was asked.
        operation: &'static str,
    },
    /// The server warned while it committed: its durability is in question.
    #[error("{operation}: the database warned while committing")]
    Warned {
        /// What was asked.
        operation: &'static str,
    },
    /// The statement failed, or the connection was lost while it ran.
    #[error("{operation}: {}", describe(source))]
    Query {
        /// What was asked.
        operation: &'static str,
        /// Why it failed.
        source: tokio_postgres::Error,
    },
    /// What was sent to this very relay did not arrive.
    #[error(
        "notifications do not arrive on this connection (hint: a pooler in transaction mode hands none on: connect past it, or set wake_up = false below [relay])"
    )]
    Deaf,
    /// The connection that heard wake-ups was closed.
    #[error("the connection that hears wake-ups was closed")]
    Closed,
    /// The statement was refused because the server is not the one it was meant for.
    #[error(
        "this is not the database the outbox was armed for: {detail} (hint: after a failover or restore, check what was lost, then hapax arm --reason 'why')"
    )]
    NotArmed {
        /// Expected and found.
        detail: String,
    },
    /// Rows may be hidden from this user, and what is hidden must not be taken for what is not there.
    #[error(
        "row level security hides rows of {} from this user, or from the owner whose rights functions have: nothing is done with it, for what is hidden would be taken for missing (hint: as the owner of the outbox: {} No policy makes up for it; only a role with BYPASSRLS is not affected)",
        .tables.join(", "), disable(tables)
    )]
    RowSecurity {
        /// Which tables, with their schema.
        tables: Vec<String>,
    },
    /// The database has no outbox.
    #[error("there is no outbox in this database (hint: hapax migrate up)")]
    NoOutbox,
    /// A standby cannot be written to.
    #[error(
        "the database is a standby (hint: name the primary, or several hosts with target_session_attrs=read-write)"
    )]
    Standby,
    /// The server would lose commits in a crash.
    #[error(
        "the server runs with fsync = off: it could lose intents, and every lost intent is a duplicate (hint: turn it on)"
    )]
    FsyncOff,
    /// Postgres before 15.
    #[error("Postgres {version_num} is too old, 15 is the oldest supported")]
    TooOld {
        /// `server_version_num`.
        version_num: i32,
    },
    /// A row has something no version of Hapax writes.
    #[error("{operation}: the row of {key} is not readable: {reason}")]
    Row {
        /// What was read.
        operation: &'static str,
        /// Which row.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A migration could not be applied.
    #[error("migration {name}")]
    Migration {
        /// Its file name.
        name: &'static str,
        /// Why.
        source: Box<Error>,
    },
    /// The schema is not one this binary can work with.
    #[error("{0}")]
    Schema(String),
}

/// The words of a database error, with the parts that could carry data (DETAIL, row contents) left out, except ours.
fn describe(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |db| format!("{} ({})", db.message(), db.code().code()))
}

/// The statements that switch row level security off again.
fn disable(tables: &[String]) -> String {
    let statements = tables.iter().map(|table| format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;"));
    statements.collect::<Vec<_>>().join(" ")
}

/// The table that Postgres names, in whatever language it says so.
fn named_table(message: &str) -> String {
    let is_name = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let quotes = ['"', '\u{ab}', '\u{bb}', '\u{201e}', '\u{201c}', '\u{201d}', '\u{300c}', '\u{300d}', '\''];
    let name = message.split(quotes).skip(1).step_by(2).map(str::trim).find(is_name);
    format!("outbox.{}", name.unwrap_or("..."))
}

/// Why there is no connection: the words of the server, or of the system.
fn reason(error: &PoolError) -> String {
    let PoolError::Backend(backend) = error else { return error.to_string() };
    if backend.as_db_error().is_some() {
        return describe(backend);
    }
    let mut text = backend.to_string();
    let mut next = std::error::Error::source(backend);
    while let Some(error) = next {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = error.source();
    }
    text
}

impl Error {
    /// What `Display` says, and where there is no connection, why.
    #[must_use]
    pub fn in_full(&self) -> String {
        match self {
            Self::Unreachable { source, .. } => format!("{self}: {}", reason(source)),
            _ => self.to_string(),
        }
    }

    /// Whether the values may be at fault that were sent along (SQLSTATE classes 22, 23 and 54): a byte that the encoding
    /// does not have, a text that is too long. Everything else is the server's, or of whoever set it up.
    #[must_use]
    pub fn may_blame_values(&self) -> bool {
        self.sqlstate().is_some_and(|state| matches!(&state.code()[..2], "22" | "23" | "54"))
    }

    /// Whether the server was there and had its reasons (SQLSTATE classes 0A, 21, 22, 23, 42, 54, 55 and P0): no outage, no
    /// timeout, no standby in its place.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        let reasons = ["0A", "21", "22", "23", "42", "54", "55", "P0"];
        self.sqlstate().is_some_and(|state| reasons.contains(&&state.code()[..2]))
    }

    /// Whether the database cannot read what is stored: damage, or a value that nothing can be made of.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        self.sqlstate().is_some_and(|state| matches!(state.code(), "XX001" | "XX002") || state.code().starts_with("22"))
    }

    pub(crate) fn query(operation: &'static str, source: tokio_postgres::Error) -> Self {
        match source.as_db_error() {
            Some(db) if db.code().code() == "HX001" => {
                Self::NotArmed { detail: db.detail().unwrap_or("no detail").to_owned() }
            }
            Some(db) if db.code().code() == "HX002" => {
                let tables = db.detail().unwrap_or("outbox....").split(", ").map(str::to_owned).collect();
                Self::RowSecurity { tables }
            }
            // What row_security = off raises; it has the code of any lack of a privilege.
            Some(db) if *db.code() == SqlState::INSUFFICIENT_PRIVILEGE && db.routine() == Some("check_enable_rls") => {
                Self::RowSecurity { tables: vec![named_table(db.message())] }
            }
            _ => Self::Query { operation, source },
        }
    }

    /// An error where tables were answered of which rows are hidden.
    pub(crate) fn of_hidden_rows(rows: &[tokio_postgres::Row]) -> Result<(), Self> {
        if rows.is_empty() {
            return Ok(());
        }
        let tables = rows.iter().map(|row| format!("outbox.{}", row.get::<_, String>("name"))).collect();
        Err(Self::RowSecurity { tables })
    }

    pub(crate) fn explain_missing_schema(self) -> Self {
        match self.sqlstate() {
            Some(state) if *state == SqlState::UNDEFINED_TABLE || *state == SqlState::INVALID_SCHEMA_NAME => {
                Self::NoOutbox
            }
            Some(state) if *state == SqlState::UNDEFINED_FUNCTION => Self::Schema(format!(
                "the outbox in this database is older than this hapax, which asks it for what it does not have: {self} \
                 (hint: hapax migrate up)"
            )),
            _ => self,
        }
    }

    /// The SQLSTATE, where the server gave one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&SqlState> {
        match self {
            Self::Query { source, .. } => source.code(),
            Self::Migration { source, .. } => source.sqlstate(),
            _ => None,
        }
    }

    /// The HINT the server gave, for people.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Query { source, .. } => source.as_db_error()?.hint(),
            _ => None,
        }
    }

    /// Whether the statement may nevertheless have been committed, or may still be.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Warned { .. } => true,
            // An ErrorResponse means a rollback, except where the server died or was told to stop at the COMMIT.
            Self::Query { source, .. } => source.as_db_error().is_none_or(|db| db.code().code().starts_with("57P")),
            _ => false,
        }
    }

    /// Whether the same statement may succeed when it is tried again later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Warned { .. } | Self::Standby => true,
            Self::Query { source, .. } => source.as_db_error().is_none_or(|db| {
                let class = &db.code().code()[..2];
                matches!(class, "08" | "25" | "40" | "53" | "55" | "57" | "58")
            }),
            _ => false,
        }
    }

    /// Whether a row was locked by somebody for longer than the statement waits: nothing happened.
    pub(crate) fn is_lock_timeout(&self) -> bool {
        self.has_code("55P03")
    }

    /// Whether there is no such table, or no such schema.
    pub(crate) fn is_missing_table(&self) -> bool {
        self.has_code("42P01") || self.has_code("3F000")
    }

    /// Whether a row was there already: nothing happened.
    pub(crate) fn is_already_there(&self) -> bool {
        self.has_code("23505")
    }

    fn has_code(&self, code: &str) -> bool {
        matches!(self, Self::Query { source, .. } if source.as_db_error().is_some_and(|db| db.code().code() == code))
    }

    /// Whether the connection cannot come about as it is configured, however long one waits: no password where one is
    /// asked for, no TLS where it is required.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        let told = |error: &dyn std::error::Error| {
            let mut next = Some(error);
            while let Some(error) = next {
                let text = error.to_string();
                if text.contains("password missing") || text.contains("server does not support TLS") {
                    return true;
                }
                next = error.source();
            }
            false
        };
        match self {
            Self::Unreachable { source, .. } => told(source.as_ref()),
            Self::Query { source, .. } => source.as_db_error().is_none() && told(source),
            _ => false,
        }
    }

    /// Whether the answering server is not the one this relay was armed for: stop at once.
    #[must_use]
    pub fn is_guard(&self) -> bool {
        matches!(self, Self::NotArmed { .. })
    }
}
