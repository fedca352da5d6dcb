//! The migrator: plain numbered SQL, embedded in the binary, each file applied once in a transaction of its own.
//!
//! Safe when twenty run at once (one advisory lock, taken inside the transaction, so that a pooler cannot leak it),
//! idempotent, and careful: a file that was changed after it was applied is an error, and so is a database that is ahead
//! by a migration this binary would break on.
//!
//! Where there is nothing yet, privileges are given once, by the last migration that gives them: for nobody uses what is half
//! made, and giving them forty times is five sixths of the time. The schema is the same (a test compares it with psql's).

use std::{borrow::Cow, time::Duration};

use sha2::{Digest, Sha256};
use tokio_postgres::{Client, IsolationLevel, Row, error::SqlState};

use crate::{
    connect::{ConnectOptions, Notices},
    error::Error,
};

mod script;
pub use script::script;

/// One embedded file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its number: the order.
    pub version: i32,
    /// Its file name.
    pub name: &'static str,
    /// Its text.
    pub sql: &'static str,
}

/// What most migrations end with. It takes all privileges away and gives them anew.
const GRANT_ROLES: &str = "\nSELECT outbox.grant_roles();\n";

impl Migration {
    /// Its text for a database in which everything is made at once.
    fn sql_from_nothing(&self) -> Cow<'static, str> {
        let later = |other: &&Migration| other.version > self.version && other.sql.contains(GRANT_ROLES);
        match MIGRATIONS.iter().any(|other| later(&other)) {
            true => Cow::Owned(self.sql.replace(GRANT_ROLES, "\n")),
            false => Cow::Borrowed(self.sql),
        }
    }
}

const BOOTSTRAP: &str = include_str!("../../../migrations/0000_bootstrap.sql");

macro_rules! embedded {
    ($($version:literal $name:literal),* $(,)?) => {
        &[$(Migration { version: $version, name: $name, sql: include_str!(concat!("../../../migrations/", $name)) }),*]
    };
}

/// Every migration, in order.
pub const MIGRATIONS: &[Migration] = embedded![
    1 "0001_schema.sql",
    2 "0002_tables.sql",
    3 "0003_protocol.sql",
    4 "0004_validate.sql",
    5 "0005_enqueue.sql",
    6 "0006_enqueue_many.sql",
    7 "0007_decide.sql",
    8 "0008_observe.sql",
    9 "0009_roles.sql",
    10 "0010_privileges.sql",
    11 "0011_doubt.sql",
    12 "0012_guard.sql",
    13 "0013_upstream.sql",
    14 "0014_explain.sql",
    15 "0015_send_again.sql",
    16 "0016_ordering_key.sql",
    17 "0017_identity.sql",
    18 "0018_hot.sql",
    19 "0019_enqueue_speed.sql",
    20 "0020_wake.sql",
    21 "0021_direct.sql",
    22 "0022_raw_digest.sql",
    23 "0023_outbox_test.sql",
    24 "0024_words.sql",
    25 "0025_payload_schema.sql",
    26 "0026_letters.sql",
    27 "0027_letters_in_brief.sql",
    28 "0028_canary.sql",
    29 "0029_pause.sql",
    30 "0030_suppression.sql",
    31 "0031_route_states.sql",
    32 "0032_on_block.sql",
    33 "0033_pause_address.sql",
    34 "0034_orphans.sql",
    35 "0035_guard_window.sql",
    36 "0036_digest.sql",
    37 "0037_turns.sql",
    38 "0038_erase.sql",
    39 "0039_retention.sql",
    40 "0040_history.sql",
    41 "0041_turns_onward.sql",
    42 "0042_ordered_enqueue.sql",
    43 "0043_digest_doubts.sql",
    44 "0044_digest_states.sql",
    45 "0045_somebodys.sql",
    46 "0046_erase_keys.sql",
    47 "0047_retry_in_order.sql",
    48 "0048_whole_digests.sql",
    49 "0049_would_erase.sql",
    50 "0050_alike_everywhere.sql",
    51 "0051_unqueued.sql",
    52 "0052_row_security.sql",
    53 "0053_upkeep_alone.sql",
    54 "0054_look_onward.sql",
    55 "0055_turns_by_index.sql",
    56 "0056_local_parts.sql",
    57 "0057_isolation.sql",
];

/// A key of its own for `pg_advisory_xact_lock`: "hapax" in ASCII.
const LOCK: i64 = 0x0068_6170_6178;

/// How often a migration that met a lock is tried again.
const LOCK_RETRIES_MAX: u32 = 20;
/// Producers queue up behind a migration that waits: between two tries they get on.
const LOCK_PAUSE: Duration = Duration::from_secs(4);

impl Migration {
    /// sha256 of the text, in hexadecimal.
    #[must_use]
    pub fn checksum(&self) -> String {
        Sha256::digest(self.sql.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether older relays must not run on the schema it makes.
    #[must_use]
    pub fn breaking(&self) -> bool {
        self.sql.lines().next().is_some_and(|line| line.trim() == "-- breaking: yes")
    }
}

/// What the database says about one migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its number.
    pub version: i32,
    /// Its name when it was applied.
    pub name: String,
    /// The checksum of the file that was applied.
    pub checksum: String,
    /// Whether older relays must not run on it.
    pub breaking: bool,
    /// When, in ISO 8601.
    pub applied_at: String,
}

/// The database's migrations beside the binary's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// What was applied, in order.
    pub applied: Vec<Applied>,
}

impl Status {
    pub(crate) fn read(rows: &[Row]) -> Self {
        let applied = |row: &Row| Applied {
            version: row.get("version"),
            name: row.get("name"),
            checksum: row.get("checksum"),
            breaking: row.get("breaking"),
            applied_at: row.get("applied_at"),
        };
        Self { applied: rows.iter().map(applied).collect() }
    }

    /// The binary's migrations that the database lacks.
    #[must_use]
    pub fn pending(&self) -> Vec<Migration> {
        MIGRATIONS
            .iter()
            .filter(|m| !self.applied.iter().any(|applied| applied.version == m.version))
            .copied()
            .collect()
    }

    /// Everything that keeps this binary from working with the database, in words; empty when nothing does.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for applied in &self.applied {
            match MIGRATIONS.iter().find(|m| m.version == applied.version) {
                Some(known) if known.checksum() != applied.checksum => problems.push(format!(
                    "migration {} was changed after it was applied (hint: never edit a migration; restore the file, or add a new one)",
                    applied.name
                )),
                None if applied.breaking => problems.push(format!(
                    "the database is ahead: migration {} is not known to this binary and older relays must not run on it (hint: upgrade hapax)",
                    applied.name
                )),
                _ => {}
            }
        }
        problems
    }
}

/// Somebody who is in the way; a prepared transaction has no session.
struct Session {
    pid: Option<i32>,
    user: Option<String>,
    application: Option<String>,
}

/// A connection for migrations alone; it needs the owner's privileges, not the relay's.
pub struct Migrator {
    client: Client,
    notices: Notices,
    statement_timeout: Duration,
    _driver: tokio::task::JoinHandle<()>,
}

impl Migrator {
    /// Connects with the URL's own user.
    ///
    /// # Errors
    /// Unreachable database.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, Error> {
        let (client, driver, notices) = crate::connect::single_heard(options).await?;
        Ok(Self { client, notices, statement_timeout: options.statement_timeout, _driver: driver })
    }

    /// Reads what was applied; a database without an outbox has an empty status.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn status(&self) -> Result<Status, Error> {
        self.refuse_hidden_rows().await?;
        let sql = include_str!("../queries/migrations.sql");
        let asked = tokio::time::timeout(self.statement_timeout, self.client.query_typed(sql, &[])).await;
        match asked.map_err(|_elapsed| Error::Timeout { operation: "migrate status" })? {
            Ok(rows) => Ok(Status::read(&rows)),
            Err(error) if matches!(error.code(), Some(code) if *code == SqlState::UNDEFINED_TABLE || *code == SqlState::INVALID_SCHEMA_NAME) => {
                Ok(Status::default())
            }
            Err(error) => Err(Error::query("migrate status", error)),
        }
    }

    /// What hides applied migrations must not look like none.
    async fn refuse_hidden_rows(&self) -> Result<(), Error> {
        let sql = include_str!("../queries/row_security.sql");
        let asked = tokio::time::timeout(self.statement_timeout, self.client.query_typed(sql, &[])).await;
        let rows = asked.map_err(|_elapsed| Error::Timeout { operation: "migrate status" })?;
        Error::of_hidden_rows(&rows.map_err(|error| Error::query("migrate status", error))?)
    }

    /// Roles of the outbox that there are not: migrations make them only where the owner may.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn missing_roles(&self) -> Result<Vec<String>, Error> {
        let sql = include_str!("../queries/missing_roles.sql");
        let asked = tokio::time::timeout(self.statement_timeout, self.client.query_typed(sql, &[])).await;
        let rows = asked.map_err(|_elapsed| Error::Timeout { operation: "missing_roles" })?;
        let rows = rows.map_err(|error| Error::query("missing_roles", error))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Applies what is pending, calling `applied` after each. Answers how many were applied by this call.
    ///
    /// # Errors
    /// A failed migration changes nothing and names its file; a database ahead of this binary is refused.
    pub async fn up(&mut self, applied: impl FnMut(&Migration)) -> Result<usize, Error> {
        self.up_and_tell(applied, |_| {}).await
    }

    /// The same, with what the migrations say (NOTICE): what they could not do and somebody else must.
    ///
    /// # Errors
    /// As of [`Migrator::up`].
    pub async fn up_and_tell(
        &mut self,
        mut applied: impl FnMut(&Migration),
        mut told: impl FnMut(&str),
    ) -> Result<usize, Error> {
        let mut count = 0;
        // Whatever keeps it from being seen will be told by the migration that meets it.
        let from_nothing = self.nothing_yet().await.unwrap_or(false);
        for migration in MIGRATIONS {
            let sql = if from_nothing { migration.sql_from_nothing() } else { Cow::Borrowed(migration.sql) };
            let done = self.apply_patiently(migration, &sql).await;
            self.notices.take().iter().for_each(|said| told(said));
            if done? {
                applied(migration);
                count += 1;
            }
        }
        Ok(count)
    }

    async fn nothing_yet(&self) -> Result<bool, Error> {
        let sql = include_str!("../queries/nothing_yet.sql");
        let asked = tokio::time::timeout(self.statement_timeout, self.client.query_typed_one(sql, &[])).await;
        let row = asked.map_err(|_elapsed| Error::Timeout { operation: "nothing_yet" })?;
        Ok(row.map_err(|error| Error::query("nothing_yet", error))?.get(0))
    }

    async fn apply_patiently(&mut self, migration: &Migration, sql: &str) -> Result<bool, Error> {
        let (mut tries, mut waits) = (0, 0_u32);
        loop {
            match self.apply(migration, sql).await {
                Ok(Some(applied)) => return Ok(applied),
                // Another migrator, as a rule: what it applies need not be applied again.
                Ok(None) => {
                    waits += 1;
                    if waits.is_power_of_two() {
                        self.tell_who_migrates().await;
                    }
                }
                Err(error) if error.sqlstate() == Some(&SqlState::LOCK_NOT_AVAILABLE) && tries < LOCK_RETRIES_MAX => {
                    tries += 1;
                    if tries.is_power_of_two() {
                        self.tell_who_locks(migration).await;
                    }
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whom it waits for: any login may take an advisory lock.
    async fn tell_who_migrates(&self) {
        for Session { pid, user, application } in self.sessions(include_str!("../queries/migration_lock.sql")).await {
            tracing::warn!(
                pid,
                user,
                application,
                "another session has the lock of migrations: waiting for its end (hint: another hapax migrate, or somebody \
                 who has no business with it: SELECT pg_terminate_backend(pid))"
            );
        }
    }

    /// Who has locks on the tables right now: not necessarily the one that it met.
    async fn tell_who_locks(&self, migration: &Migration) {
        let sessions = self.sessions(include_str!("../queries/migration_blockers.sql")).await;
        tracing::warn!(
            migration = migration.name,
            "a table of the outbox is locked by somebody: trying again in a moment, {LOCK_RETRIES_MAX} times at most"
        );
        for Session { pid, user, application } in sessions {
            tracing::warn!(pid, user, application, "this session has a table of the outbox in use");
        }
    }

    /// Nothing when it cannot be seen: it is not what was asked for.
    async fn sessions(&self, sql: &str) -> Vec<Session> {
        let asked = tokio::time::timeout(self.statement_timeout, self.client.query_typed(sql, &[])).await;
        let read = |row: &Row| Session { pid: row.get(0), user: row.get(1), application: row.get(2) };
        asked.ok().and_then(Result::ok).map(|rows| rows.iter().map(read).collect()).unwrap_or_default()
    }

    /// Whether it was applied now; nothing when another session had the lock of migrations for too long.
    async fn apply(&mut self, migration: &Migration, sql: &str) -> Result<Option<bool>, Error> {
        let wrap =
            |source| Error::Migration { name: migration.name, source: Box::new(Error::query("migrate up", source)) };
        // Whatever the default is: after waiting for the lock the books must be read with a new snapshot.
        let transaction = self.client.build_transaction().isolation_level(IsolationLevel::ReadCommitted);
        let transaction = transaction.start().await.map_err(wrap)?;
        transaction.batch_execute(script::SETTINGS).await.map_err(wrap)?;
        match transaction.batch_execute(&format!("SELECT pg_advisory_xact_lock({LOCK})")).await {
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => return Ok(None),
            taken => taken.map_err(wrap)?,
        }
        transaction.batch_execute(&bootstrap()).await.map_err(wrap)?;
        let rows = transaction.query_typed(include_str!("../queries/migrations.sql"), &[]).await.map_err(wrap)?;
        let status = Status::read(&rows);
        if let Some(problem) = status.problems().into_iter().next() {
            return Err(Error::Schema(problem));
        }
        if status.applied.iter().any(|applied| applied.version == migration.version) {
            return Ok(Some(false));
        }
        transaction.batch_execute(sql).await.map_err(wrap)?;
        transaction.batch_execute(&bookkeeping(migration)).await.map_err(wrap)?;
        transaction.commit().await.map_err(wrap)?;
        Ok(Some(true))
    }
}

fn bookkeeping(migration: &Migration) -> String {
    // All three are this binary's own constants: digits, a file name, hexadecimal.
    format!(
        "INSERT INTO outbox.migration (version, name, checksum, breaking) VALUES ({}, '{}', '{}', {});",
        migration.version,
        migration.name,
        migration.checksum(),
        migration.breaking()
    )
}

/// Makes the migrator's own table where it is missing. Looked for beforehand: `IF NOT EXISTS` asks for the privilege to
/// create, also where there is nothing to create.
fn bootstrap() -> String {
    format!(
        "DO $hapax_books$ BEGIN
IF to_regclass('outbox.migration') IS NULL THEN
{BOOTSTRAP}END IF;
END $hapax_books$;"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_ascend_and_begin_the_file_names() {
        assert!(MIGRATIONS.windows(2).all(|pair| pair[0].version < pair[1].version));
        for migration in MIGRATIONS {
            assert!(migration.name.starts_with(&format!("{:04}_", migration.version)), "{}", migration.name);
        }
    }

    #[test]
    fn every_migration_says_whether_it_breaks_and_waits_for_no_lock_for_long() {
        for migration in MIGRATIONS {
            let first = migration.sql.lines().next().unwrap_or_default();
            assert!(first == "-- breaking: no" || first == "-- breaking: yes", "{}: {first}", migration.name);
            assert!(migration.sql.contains("SET LOCAL lock_timeout"), "{}", migration.name);
        }
    }

    #[test]
    fn from_nothing_privileges_are_given_once_and_nothing_else_is_left_out() {
        let giving = MIGRATIONS.iter().filter(|migration| migration.sql_from_nothing().contains(GRANT_ROLES));
        let last = MIGRATIONS.iter().rfind(|migration| migration.sql.contains(GRANT_ROLES));
        assert_eq!(giving.map(|migration| migration.version).collect::<Vec<_>>(), [last.expect("one does").version]);
        for migration in MIGRATIONS {
            let rest = migration.sql_from_nothing().replace(GRANT_ROLES, "\n");
            assert_eq!(rest, migration.sql.replace(GRANT_ROLES, "\n"), "{}", migration.name);
            assert!(!rest.lines().any(|line| line.starts_with("SELECT outbox.grant_roles")), "{}", migration.name);
        }
    }

    #[test]
    fn a_database_ahead_is_refused_only_when_it_breaks() {
        let ahead = |breaking| Status {
            applied: vec![Applied {
                version: 9999,
                name: "9999_x.sql".into(),
                checksum: String::new(),
                breaking,
                applied_at: String::new(),
            }],
        };
        assert!(ahead(false).problems().is_empty());
        assert!(ahead(true).problems()[0].contains("upgrade hapax"));
    }
}
