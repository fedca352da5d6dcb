//! The canary: one notification per slot for the whole outbox, whoever of its relays asks.
//!
//! Must not: decide anything here. Slots, and whether one is under way, are judged by the database alone.

use std::time::Duration;

use tokio_postgres::types::Type;

use crate::{Store, Typed, error::Error};

/// What a canary is, as every relay asks for it.
#[derive(Clone, PartialEq, Eq)]
pub struct Canary {
    /// To whom.
    pub recipient: String,
    /// The length of a slot.
    pub every: Duration,
    /// Its route; that of its kind, or the default one, unless named.
    pub route: Option<String>,
    /// Its sender; that of its route unless named.
    pub from: Option<String>,
}

/// Addresses stay out of logs.
impl std::fmt::Debug for Canary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Canary").field("every", &self.every).field("route", &self.route).finish_non_exhaustive()
    }
}

/// What is known of the last canaries.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CanarySeen {
    /// One was enqueued by this very call.
    pub enqueued: bool,
    /// One is under way.
    pub under_way: bool,
    /// When the last one was enqueued, in seconds since 1970.
    pub enqueued_s: Option<f64>,
    /// When a server accepted one last, in seconds since 1970.
    pub completed_s: Option<f64>,
    /// Until the next slot begins, by the database's clock.
    pub next_in: Duration,
}

impl Store {
    /// Enqueues a canary when it is time for one; answers what is known of the last ones.
    ///
    /// # Errors
    /// Any; ask again later. A canary may have been enqueued all the same, the next answer says so.
    pub async fn canary(&self, canary: &Canary) -> Result<CanarySeen, Error> {
        let params: [Typed<'_>; 6] = [
            (&self.armed.epoch, Type::UUID),
            (&self.armed.identity, Type::TEXT),
            (&canary.recipient, Type::TEXT),
            (&canary.every.as_secs_f64(), Type::FLOAT8),
            (&canary.route, Type::TEXT),
            (&canary.from, Type::TEXT),
        ];
        let rows = self.rows("canary", include_str!("../queries/canary.sql"), &params).await;
        let rows = rows.map_err(Error::explain_missing_schema)?;
        Ok(rows.first().map_or_else(CanarySeen::default, |row| CanarySeen {
            enqueued: row.get("enqueued"),
            under_way: row.get("under_way"),
            enqueued_s: row.get("enqueued_s"),
            completed_s: row.get("completed_s"),
            next_in: Duration::try_from_secs_f64(row.get::<_, f64>("next_in_s").max(0.0)).unwrap_or(Duration::MAX),
        }))
    }
}
