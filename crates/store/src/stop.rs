//! What shall not go out: pauses and the suppression list, as a relay reads them, and what becomes of what it has claimed.
//!
//! Nothing here touches a delivery that has an intent: the statements match the lease of a claim without one.

use std::time::Duration;

use hapax_core::{DeliveryKey, Lease, MessageId, Token};
use tokio_postgres::types::Type;

use crate::{Store, error::Error, hot::seconds_of};

/// What a pause stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A way out.
    Route,
    /// What notifications are about.
    Kind,
    /// Whose they are.
    Tenant,
    /// Whom they are for: SHA-256 of the address in lower case, in hex digits.
    Address,
}

/// One thing that is paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Of which sort.
    pub scope: Scope,
    /// Its name.
    pub name: String,
}

/// What is paused now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pauses {
    /// Everything that is.
    pub in_force: Vec<Pause>,
    /// Something was parked for a pause that has ended: [`Store::unpark`].
    pub ended: bool,
    /// There is a suppression list.
    pub suppressing: bool,
}

/// What became of a delivery that shall not go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It waits.
    Paused,
    /// It has ended.
    Suppressed,
}

impl Store {
    /// What is paused now.
    ///
    /// # Errors
    /// Any.
    pub async fn pauses(&self) -> Result<Pauses, Error> {
        let rows = self.rows("pauses", include_str!("../queries/pauses.sql"), &[]).await?;
        let mut pauses = Pauses::default();
        for row in &rows {
            if row.get("ended") {
                pauses.ended = true;
                continue;
            }
            let scope = match row.get::<_, &str>("what") {
                "route" => Scope::Route,
                "kind" => Scope::Kind,
                "suppression" => {
                    pauses.suppressing = true;
                    continue;
                }
                "address" => Scope::Address,
                _ => Scope::Tenant,
            };
            pauses.in_force.push(Pause { scope, name: row.get("name") });
        }
        Ok(pauses)
    }

    /// Parks those of these claimed deliveries that are paused: by kind and tenant, and by `route` where it is known; ends
    /// those that are suppressed. Answers those that are nobody's any more; one that somebody has locked stays ours, and intend asks again.
    ///
    /// # Errors
    /// Any; what was not parked is refused by intend.
    pub async fn stop(
        &self,
        claimed: &[(DeliveryKey, Lease)],
        route: Option<&str>,
    ) -> Result<Vec<(DeliveryKey, Stopped)>, Error> {
        let ids: Vec<uuid::Uuid> = claimed.iter().map(|(key, _)| key.message_id.0).collect();
        let numbers: Vec<i16> = claimed.iter().map(|(key, _)| key.recipient_no).collect();
        let leases: Vec<uuid::Uuid> = claimed.iter().map(|(_, lease)| lease.0).collect();
        let rows = self
            .rows(
                "stop",
                include_str!("../queries/stop.sql"),
                &[
                    (&self.armed.epoch, Type::UUID),
                    (&self.armed.identity, Type::TEXT),
                    (&ids, Type::UUID_ARRAY),
                    (&numbers, Type::INT2_ARRAY),
                    (&leases, Type::UUID_ARRAY),
                    (&route, Type::TEXT),
                ],
            )
            .await?;
        let done = rows.iter().filter(|row| row.get("done"));
        let stopped = done.map(|row| {
            let verdict = match row.get("verdict") {
                "suppressed" => Stopped::Suppressed,
                _ => Stopped::Paused,
            };
            (DeliveryKey { message_id: MessageId(row.get(0)), recipient_no: row.get(1) }, verdict)
        });
        Ok(stopped.collect())
    }

    /// Makes due again what was parked for pauses that have ended, at most `batch`. Answers how many.
    ///
    /// # Errors
    /// Any; it stays parked, and the next call finds it.
    pub async fn unpark(&self, batch: i32) -> Result<i64, Error> {
        let rows = self
            .rows(
                "unpark",
                include_str!("../queries/unpark.sql"),
                &[(&self.armed.epoch, Type::UUID), (&self.armed.identity, Type::TEXT), (&batch, Type::INT4)],
            )
            .await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }

    /// Enters the recipient of a hard bounce into the suppression list, for so long; no more than `hourly_max` an hour.
    /// Answers suppressed, known, too many, or not a hard bounce: the ledger decides.
    ///
    /// # Errors
    /// Any; the next bounce is another chance.
    pub async fn suppress_bounced(
        &self,
        key: DeliveryKey,
        token: Token,
        within: Duration,
        hourly_max: i32,
    ) -> Result<String, Error> {
        let rows = self
            .rows(
                "suppress_bounced",
                include_str!("../queries/suppress_bounced.sql"),
                &[
                    (&self.armed.epoch, Type::UUID),
                    (&self.armed.identity, Type::TEXT),
                    (&key.message_id.0, Type::UUID),
                    (&key.recipient_no, Type::INT2),
                    (&token.0, Type::UUID),
                    (&seconds_of(within), Type::FLOAT8),
                    (&hourly_max, Type::INT4),
                ],
            )
            .await?;
        Ok(rows.first().map(|row| row.get("result")).unwrap_or_default())
    }
}
