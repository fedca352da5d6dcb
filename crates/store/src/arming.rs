//! Arming, for people: after a failover or a restore this database is the one to send from.
//!
//! What may have been sent before is held first, batch by batch, each in a transaction of its own.

use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::{error::Error, guard::Batch, inspect::Console};

/// What an arming found and did.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Arming {
    /// The server that is armed now.
    pub identity: String,
    /// The one that was.
    pub previous_identity: String,
    /// The new epoch.
    pub epoch: Uuid,
    /// Why pending deliveries had to be held, if they had.
    pub cause: Option<String>,
    /// How many were held.
    pub held: i64,
    /// How many are in doubt.
    pub in_doubt: i64,
    /// How many carry an intent whose outcome is not known yet.
    pub sending: i64,
}

/// Whether relays send from this database.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ArmedState {
    /// This server is the one the outbox is armed for, and writable.
    pub armed: bool,
    /// It is a standby.
    pub standby: bool,
    /// A relay has met it at an address that is not known, and took it for a copy.
    pub copy: bool,
    /// The server the outbox is armed for.
    pub armed_for: String,
    /// This server; a standby cannot say.
    pub here: Option<String>,
    /// Its own address as this connection meets it; empty for a unix socket or loopback.
    pub address: String,
    /// Its port.
    pub port: i32,
    /// The database's name.
    pub database: String,
}

impl ArmedState {
    /// Where it is, as people write it.
    #[must_use]
    pub fn place(&self) -> String {
        let at = match self.address.as_str() {
            "" => format!("port {}", self.port),
            v6 if v6.contains(':') => format!("[{v6}]:{}", self.port),
            v4 => format!("{v4}:{}", self.port),
        };
        format!("database {} at {at}", self.database)
    }
}

impl Console {
    /// Whether relays send from here.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn armed_state(&self) -> Result<ArmedState, Error> {
        let rows = self.rows("armed_state", include_str!("../queries/armed_state.sql"), &[]).await?;
        let row = rows.first().ok_or(Error::NoOutbox)?;
        Ok(ArmedState {
            armed: row.get("armed"),
            standby: row.get("standby"),
            copy: row.get("copy"),
            armed_for: row.get("armed_for"),
            here: row.get("here"),
            address: row.get("address"),
            port: row.get("port"),
            database: row.get("database"),
        })
    }

    /// Holds the next batch of what may have been sent before; nothing on a server that is armed.
    ///
    /// # Errors
    /// Any; call again, it goes on where it was.
    pub async fn quarantine(&self, batch: i32) -> Result<Batch, Error> {
        let rows = self.rows("quarantine", include_str!("../queries/quarantine.sql"), &[(&batch, Type::INT4)]).await?;
        let row = rows.first().ok_or(Error::NoOutbox)?;
        Ok(Batch { held: row.get("held"), finished: row.get("finished") })
    }

    /// Arms this database. What may have been sent before is held where it must be, or always, or never.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn arm(&self, reason: &str, hold_pending: Option<bool>) -> Result<Arming, Error> {
        let params = [(&reason as _, Type::TEXT), (&hold_pending as _, Type::BOOL)];
        let rows = self.rows("arm", include_str!("../queries/arm.sql"), &params).await?;
        let row = rows.first().ok_or(Error::NoOutbox)?;
        Ok(Arming {
            identity: row.get("identity"),
            previous_identity: row.get("previous_identity"),
            epoch: row.get("epoch"),
            cause: row.get("cause"),
            held: row.get("held"),
            in_doubt: row.get("in_doubt"),
            sending: row.get("sending"),
        })
    }

    /// Releases a batch of what a failover has held; answers how many, 0 when there are no more.
    ///
    /// # Errors
    /// Any of the database's.
    pub async fn release_failover(&self, reason: &str, batch: i32) -> Result<i64, Error> {
        let params = [(&reason as _, Type::TEXT), (&batch as _, Type::INT4)];
        let rows = self.rows("release_failover", include_str!("../queries/release_failover.sql"), &params).await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }
}
