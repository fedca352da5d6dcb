//! The only user of Postgres: every statement of the protocol, the migrations, and what the command line reads.
//!
//! One statement a file in `queries/`, embedded; no ad-hoc SQL in code. Statements are unnamed and typed, one round trip
//! and one implicit transaction each, so that they work through PgBouncer in transaction mode without settings; the hot
//! ones call functions of the schema, which each backend plans once. The durability each needs is set inside the statement
//! itself. Every call has a client-side timeout, after which the
//! connection is thrown away: its backend may still commit, which the protocol expects.
//!
//! Architecture Invariant: no other crate of the daemon names tokio-postgres, and this one never sees `mail`.

mod arming;
mod canary;
mod claim;
mod collect;
mod connect;
mod error;
mod guard;
mod hot;
pub mod inspect;
pub mod migrate;
mod overview;
mod pieces;
mod repeat;
mod retention;
mod rows;
mod stop;
mod tls;
mod wake;
mod watch;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

pub use arming::{ArmedState, Arming};
pub use canary::{Canary, CanarySeen};
pub use claim::Wanted;
pub use collect::{Collecting, Gathered};
pub use connect::{ConnectOptions, is_url, parse_url};
use deadpool_postgres::{Object, Pool};
pub use error::Error;
pub use guard::{Address, Attempted, Batch, Reasserted, Situation, Unqueued};
use hapax_core::{Incarnation, mutant};
pub use hot::{IntendAnswer, IntendRequest, LateAnswer, Release, Settlement, Upstream, Verdict, Wait};
pub use overview::{Counted, Living, Overview, Standing};
pub use repeat::{GuardWindow, OnDuplicate, Repeat};
pub use retention::{Keeps, Removed};
pub use rows::{Bound, Claimed, Cursor, Turn};
pub use stop::{Pause, Pauses, Scope, Stopped};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};
use uuid::Uuid;
pub use wake::{Listener, Look};
pub use watch::{Doubt, DoubtCursor, Kind, Marked, RelaySeen};

/// What the relay was armed for: an argument of claim, intend, settle and heartbeat, compared inside the statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Armed {
    /// The outbox's arming epoch.
    pub epoch: Uuid,
    /// System identifier and timeline of the server.
    pub identity: String,
}

/// A handle to one outbox. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pool: Pool,
    armed: Arc<Armed>,
    incarnation: Incarnation,
    /// This incarnation's last heartbeat that was answered: intend compares it, so that an earlier state of the database is
    /// noticed before anything leaves.
    beat: Arc<AtomicI64>,
    notices: connect::Notices,
    /// Whether the last statement had an answer.
    up: Arc<AtomicBool>,
    statement_timeout: Duration,
    /// For the connection that hears wake-ups.
    options: Arc<ConnectOptions>,
}

/// A parameter with its type: unnamed statements carry their types, so that one round trip is enough.
type Typed<'a> = (&'a (dyn ToSql + Sync), Type);

impl Store {
    /// Connects, and reads what this outbox is armed for. Waits for nobody: the caller decides how patient to be.
    ///
    /// # Errors
    /// Unreachable or refusing database, no outbox schema, `fsync = off`, a standby, or an outbox armed for another
    /// database ([`Error::NotArmed`]).
    pub async fn connect(options: &ConnectOptions, incarnation: Incarnation) -> Result<Self, Error> {
        let (pool, notices) = connect::pool(options)?;
        let unarmed = Arc::new(Armed { epoch: Uuid::nil(), identity: String::new() });
        let mut store = Self {
            pool,
            armed: unarmed,
            incarnation,
            beat: Arc::default(),
            notices,
            up: Arc::default(),
            statement_timeout: options.statement_timeout,
            options: Arc::new(options.clone()),
        };
        store.armed = Arc::new(store.read_armed().await?);
        Ok(store)
    }

    /// The same outbox for another incarnation of this process, over the same connections.
    #[must_use]
    pub fn another(&self, incarnation: Incarnation) -> Self {
        Self { incarnation, beat: Arc::default(), ..self.clone() }
    }

    /// The same outbox for another incarnation, with connections of its own, made as `options` say. Connects nowhere yet:
    /// what is armed is what is armed here, so another database than this one would be refused.
    ///
    /// # Errors
    /// What is no connection string.
    pub fn another_with(&self, options: &ConnectOptions, incarnation: Incarnation) -> Result<Self, Error> {
        let (pool, notices) = connect::pool(options)?;
        let (statement_timeout, options) = (options.statement_timeout, Arc::new(options.clone()));
        Ok(Self { pool, notices, statement_timeout, options, ..self.another(incarnation) })
    }

    /// What this store's statements name.
    #[must_use]
    pub fn armed(&self) -> &Armed {
        &self.armed
    }

    /// The incarnation this store's intents and settles carry.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The longest that one call may take: a turn at the pool, a fresh connection, the statement.
    #[must_use]
    pub fn call_longest(&self) -> Duration {
        self.statement_timeout.saturating_mul(3)
    }

    async fn read_armed(&self) -> Result<Armed, Error> {
        Error::of_hidden_rows(&self.rows("row_security", include_str!("../queries/row_security.sql"), &[]).await?)?;
        let row = self
            .rows("armed", include_str!("../queries/armed.sql"), &[])
            .await
            .map_err(Error::explain_missing_schema)?
            .into_iter()
            .next()
            .ok_or(Error::NoOutbox)?;
        if row.get::<_, i32>("version") < 150_000 {
            return Err(Error::TooOld { version_num: row.get("version") });
        }
        if row.get("in_recovery") {
            return Err(Error::Standby);
        }
        if !row.get::<_, bool>("fsync") {
            return Err(Error::FsyncOff);
        }
        let (identity, found): (String, String) = (row.get("identity"), row.get("found"));
        if identity != found {
            return Err(Error::NotArmed { detail: format!("armed for {identity}, but this server is {found}") });
        }
        Ok(Armed { epoch: row.get("epoch"), identity })
    }

    /// Opens so many connections ahead, as far as that goes: neither a first intent nor a first outcome should wait for one.
    pub async fn warm_up(&self, connections: usize) {
        let opened = futures_util::future::join_all((0..connections).map(|_| self.client("warm up"))).await;
        if let Some(error) = opened.iter().find_map(|opened| opened.as_ref().err()) {
            tracing::debug!(error = %error, "not every connection could be opened ahead");
        }
    }

    /// Whether the database answered when it was last asked; a refusal is an answer.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    async fn rows(&self, operation: &'static str, sql: &str, params: &[Typed<'_>]) -> Result<Vec<Row>, Error> {
        let answered = self.try_rows(operation, sql, params).await;
        let up = answered.as_ref().err().is_none_or(|error| error.sqlstate().is_some() && !error.is_transient());
        self.up.store(up, Ordering::Relaxed);
        answered
    }

    /// Runs one statement; `operation` names it in errors and logs.
    async fn try_rows(&self, operation: &'static str, sql: &str, params: &[Typed<'_>]) -> Result<Vec<Row>, Error> {
        let client = self.client(operation).await?;
        let sql = mutant::of_sql(operation, sql);
        match tokio::time::timeout(self.statement_timeout, client.query_typed(&sql, params)).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(source)) => {
                if source.as_db_error().is_none() {
                    drop(Object::take(client));
                }
                Err(Error::query(operation, source))
            }
            Err(_elapsed) => {
                // Its answer may still come: nobody else may read it.
                drop(Object::take(client));
                Err(Error::Timeout { operation })
            }
        }
    }

    /// As [`Store::rows`], for statements whose COMMIT must not be doubted: a WARNING from the server meanwhile (a
    /// cancelled wait for a synchronous standby) counts as no answer.
    async fn durable_rows(&self, operation: &'static str, sql: &str, params: &[Typed<'_>]) -> Result<Vec<Row>, Error> {
        let before = self.notices.warnings();
        let rows = self.rows(operation, sql, params).await?;
        if self.notices.warnings() == before { Ok(rows) } else { Err(Error::Warned { operation }) }
    }

    async fn client(&self, operation: &'static str) -> Result<Object, Error> {
        self.pool.get().await.map_err(|source| Error::Unreachable { operation, source: Box::new(source) })
    }
}
