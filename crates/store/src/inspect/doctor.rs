//! What `hapax doctor` asks the database: facts, without a judgement.
//!
//! Invariant: nothing is written, and nothing here needs more than the relay's own role; what that role cannot see is
//! absent, not an error.

use serde::Serialize;
use tokio_postgres::{Row, config::Host as Address, types::Type};

use super::Console;
use crate::{ConnectOptions, Typed, connect, error::Error, migrate::Status};

readable!(
    /// Which server answers, and how it is set.
    pub struct Server {
        /// 150004, say.
        pub version_num: i32,
        /// `15.4 (Debian ...)`.
        pub version: String,
        /// It is a standby.
        pub in_recovery: bool,
        /// Its own port; 0 on a unix socket.
        pub port: i32,
        /// The database.
        pub database: String,
        /// The connection is encrypted, as the server sees it.
        pub ssl: bool,
        /// By which version of TLS.
        pub ssl_version: String,
        /// Its clock, in seconds since 1970.
        pub now_s: f64,
        /// `fsync`.
        pub fsync: bool,
        /// `full_page_writes`.
        pub full_page_writes: bool,
        /// `autovacuum`.
        pub autovacuum: bool,
        /// `synchronous_commit` of this user.
        pub synchronous_commit: String,
        /// `synchronous_standby_names`.
        pub synchronous_standby_names: String,
        /// Standbys that are attached.
        pub standbys: i32,
        /// `max_connections`.
        pub connections_max: i32,
        /// Of these, what is not reserved.
        pub connections_usable: i32,
        /// How many are used.
        pub connections_used: i32,
        /// The user's own limit; -1 is none.
        pub role_limit: i32,
        /// The database's own limit; -1 is none.
        pub database_limit: i32,
        /// `statement_timeout` of this user; 0 is none.
        pub statement_timeout_ms: i64,
        /// `lock_timeout`.
        pub lock_timeout_ms: i64,
        /// `idle_in_transaction_session_timeout`.
        pub idle_in_transaction_ms: i64,
        /// `transaction_timeout`.
        pub transaction_timeout_ms: i64,
        /// `idle_session_timeout`.
        pub idle_session_ms: i64,
        /// `default_transaction_read_only`.
        pub read_only: bool,
        /// There is a schema `outbox`.
        pub has_schema: bool,
    }
);

readable!(
    /// The user, and what it may do.
    pub struct Role {
        /// Its name.
        pub name: String,
        /// It may do everything.
        pub superuser: bool,
        /// What it is or may, and a relay need not.
        pub excess: Vec<String>,
        /// It may enter schema `outbox`.
        pub usage: bool,
        /// What a relay needs and it may not.
        pub lacking: Vec<String>,
        /// It sees since when other users' transactions are open.
        pub sees_all_sessions: bool,
    }
);

readable!(
    /// For which server the outbox is armed.
    pub struct ArmedFor {
        /// That one.
        pub identity: String,
        /// This one.
        pub found: String,
        /// Relays have met it at this address.
        pub address_known: bool,
    }
);

readable!(
    /// A table or partition.
    pub struct Table {
        /// Without its schema.
        pub name: String,
        /// Rows at the last analysis; -1 before the first.
        pub estimate: f64,
        /// Live rows, by the statistics.
        pub live: i64,
        /// Dead rows, by the statistics.
        pub dead: i64,
        /// Since the last autovacuum, in seconds.
        pub vacuumed_ago_s: Option<f64>,
        /// Its storage parameters.
        pub options: Vec<String>,
        /// It catches what no partition was made for.
        pub is_default: bool,
        /// How long from now its week lasts, in seconds; negative when it is over.
        pub covers_s: Option<f64>,
        /// It is a partition; what was detached, for an archive, may still have the name of its week.
        pub is_attached: bool,
        /// Its size, of a default partition.
        pub bytes: i64,
    }
);

readable!(
    /// An index that is not as it should be.
    pub struct Index {
        /// Its name.
        pub name: String,
        /// `invalid` or `missing`.
        pub fault: String,
    }
);

readable!(
    /// A trigger that is not enabled as its migration made it.
    pub struct Trigger {
        /// Its name.
        pub name: String,
        /// Its table.
        pub of: String,
        /// `pg_trigger.tgenabled`: D is disabled, O, R, A.
        pub enabled: String,
        /// The statement that puts it back.
        pub remedy: String,
    }
);

readable!(
    /// Where names of Postgres are looked up.
    pub struct SearchPath {
        /// The user.
        pub role: String,
        /// Its database.
        pub database: String,
        /// Schemas in their order, with those that are not written down.
        pub schemas: Vec<String>,
        /// Those of them in which anybody may make something.
        pub open: Vec<String>,
    }
);

readable!(
    /// What keeps dead rows from being cleaned.
    pub struct Holder {
        /// `transaction`, `prepared` or `slot`.
        pub kind: String,
        /// Which one.
        pub what: String,
        /// Its age: in seconds, of a slot in transactions.
        pub age_s: Option<f64>,
        /// The server process, of a transaction.
        pub pid: i32,
    }
);

readable!(
    /// Who has an advisory lock of the outbox and keeps its work from being done.
    pub struct LockHolder {
        /// `upkeep`, `contents`, `erasing` or `migrations`.
        pub what: String,
        /// The server process; none of a prepared transaction.
        pub pid: Option<i32>,
        /// The session's user.
        pub user_name: Option<String>,
        /// What it calls itself.
        pub application: Option<String>,
        /// It may do nothing that needs the lock.
        pub is_stranger: bool,
        /// For how long its transaction, or what it does, has lasted, in seconds; none where that is not to be seen.
        pub held_s: Option<f64>,
    }
);

/// One server of a connection string that may name several.
#[derive(Clone)]
pub struct Host {
    /// `db1:5432`.
    pub name: String,
    /// Whether everything to it stays on this machine.
    pub local: bool,
    index: usize,
}

/// How a connection string asks for encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `disable`.
    Plain,
    /// `allow`, `prefer`, or nothing.
    Opportunistic,
    /// `require` without a root: encrypted, to whomever.
    Unverified,
    /// `verify-ca`, `verify-full`.
    Verified,
}

impl ConnectOptions {
    /// The servers it names.
    ///
    /// # Errors
    /// A connection string that is none.
    pub fn hosts(&self) -> Result<Vec<Host>, Error> {
        let config = connect::config(self)?.0;
        let port = |index: usize| config.get_ports().get(index).or(config.get_ports().first()).copied().unwrap_or(5432);
        let hosts = config.get_hosts().iter().enumerate().map(|(index, address)| match address {
            Address::Tcp(name) => {
                let address = name.parse::<std::net::IpAddr>();
                let local =
                    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback());
                Host { name: format!("{name}:{}", port(index)), local, index }
            }
            Address::Unix(path) => Host { name: format!("{}:{}", path.display(), port(index)), local: true, index },
        });
        Ok(hosts.collect())
    }

    /// How it asks for encryption.
    ///
    /// # Errors
    /// A connection string that is none.
    pub fn asked(&self) -> Result<Asked, Error> {
        connect::config(self).map(|(_, asked)| asked)
    }
}

impl Console {
    /// Connects to one of the servers, whatever it is.
    ///
    /// # Errors
    /// Unreachable database.
    pub async fn connect_to(options: &ConnectOptions, host: &Host) -> Result<Self, Error> {
        let (client, driver) = connect::single_at(options, host.index).await?;
        Ok(Self { client, statement_timeout: options.statement_timeout, _driver: driver })
    }

    /// Which server answers.
    ///
    /// # Errors
    /// Any.
    pub async fn doctor_server(&self) -> Result<Server, Error> {
        self.one("doctor_server", include_str!("../../queries/doctor_server.sql"), Server::read).await
    }

    /// Who asks.
    ///
    /// # Errors
    /// Any; [`Error::NoOutbox`] without a schema.
    pub async fn doctor_role(&self) -> Result<Role, Error> {
        self.one("doctor_role", include_str!("../../queries/doctor_role.sql"), Role::read).await
    }

    /// For which server the outbox is armed.
    ///
    /// # Errors
    /// Any.
    pub async fn doctor_arming(&self) -> Result<ArmedFor, Error> {
        self.one("doctor_arming", include_str!("../../queries/doctor_arming.sql"), ArmedFor::read).await
    }

    /// What was applied.
    ///
    /// # Errors
    /// Any.
    pub async fn doctor_migrations(&self) -> Result<Status, Error> {
        let rows = self.rows("doctor_migrations", include_str!("../../queries/migrations.sql"), &[]).await?;
        Ok(Status::read(&rows))
    }

    /// Every table and partition of the outbox.
    ///
    /// # Errors
    /// Any.
    pub async fn doctor_tables(&self) -> Result<Vec<Table>, Error> {
        self.many("doctor_tables", include_str!("../../queries/doctor_tables.sql"), &[], Table::read).await
    }

    /// Indexes that are invalid or missing.
    ///
    /// # Errors
    /// Any.
    pub async fn doctor_indexes(&self) -> Result<Vec<Index>, Error> {
        self.many("doctor_indexes", include_str!("../../queries/doctor_indexes.sql"), &[], Index::read).await
    }

    /// Triggers that are not enabled as they should be.
    ///
    /// # Errors
    /// Any.
    pub async fn doctor_triggers(&self) -> Result<Vec<Trigger>, Error> {
        self.many("doctor_triggers", include_str!("../../queries/doctor_triggers.sql"), &[], Trigger::read).await
    }

    /// Where names of Postgres are looked up on such a connection.
    ///
    /// # Errors
    /// Any.
    pub async fn doctor_search_path(&self) -> Result<SearchPath, Error> {
        let sql = include_str!("../../queries/doctor_search_path.sql");
        self.one("doctor_search_path", sql, SearchPath::read).await
    }

    /// Weeks that should have been dropped days ago: which, why they are still there, and for how many seconds.
    ///
    /// # Errors
    /// Any.
    pub async fn doctor_postponed(&self) -> Result<Vec<(String, String, f64)>, Error> {
        let sql = include_str!("../../queries/doctor_postponed.sql");
        self.many("doctor_postponed", sql, &[], |row| (row.get(0), row.get(1), row.get(2))).await
    }

    /// What is older than so many seconds and keeps dead rows.
    ///
    /// # Errors
    /// Any.
    pub async fn doctor_horizon(&self, older_than_s: f64) -> Result<Vec<Holder>, Error> {
        let sql = include_str!("../../queries/doctor_horizon.sql");
        self.many("doctor_horizon", sql, &[(&older_than_s, Type::FLOAT8)], Holder::read).await
    }

    /// Strangers that hold an advisory lock of the outbox, and others that have held one for so many seconds.
    ///
    /// # Errors
    /// Any.
    pub async fn doctor_locks(&self, longer_than_s: f64) -> Result<Vec<LockHolder>, Error> {
        let sql = include_str!("../../queries/doctor_locks.sql");
        self.many("doctor_locks", sql, &[(&longer_than_s, Type::FLOAT8)], LockHolder::read).await
    }

    /// Whether a pooler gives each transaction whichever server process is free: told by another connection, in the
    /// middle of a transaction, having the process that this one had, or by this one having another meanwhile.
    ///
    /// # Errors
    /// Any.
    pub async fn is_pooled_with(&self, other: &mut Self) -> Result<bool, Error> {
        for _ in 0..POOLER_ROUNDS {
            let before = self.backend().await?;
            let fail = |source| Error::query("doctor_backend", source);
            let transaction = other.client.transaction().await.map_err(fail)?;
            let row =
                transaction.query_typed(include_str!("../../queries/doctor_backend.sql"), &[]).await.map_err(fail)?;
            let theirs: i32 = row.first().ok_or(Error::NoOutbox)?.get("pid");
            let after = self.backend().await?;
            transaction.rollback().await.map_err(fail)?;
            if theirs == before || after != before {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn backend(&self) -> Result<i32, Error> {
        self.one("doctor_backend", include_str!("../../queries/doctor_backend.sql"), |row| row.get("pid")).await
    }

    pub(super) async fn one<T>(
        &self,
        operation: &'static str,
        sql: &str,
        read: impl Fn(&Row) -> T,
    ) -> Result<T, Error> {
        let rows = self.rows(operation, sql, &[]).await?;
        rows.first().map(read).ok_or(Error::NoOutbox)
    }

    pub(super) async fn many<T>(
        &self,
        operation: &'static str,
        sql: &str,
        params: &[Typed<'_>],
        read: impl Fn(&Row) -> T,
    ) -> Result<Vec<T>, Error> {
        Ok(self.rows(operation, sql, params).await?.iter().map(read).collect())
    }
}

/// How often the two connections are compared.
const POOLER_ROUNDS: usize = 3;
