//! What producers have enqueued twice: kinds with a guard window, as a relay asks before anything is done for a delivery.
//!
//! Nothing here touches a delivery that has an intent, or was tried before: the statement matches the lease of a claim.

use std::time::Duration;

use hapax_core::{DeliveryKey, Lease, MessageId};
use tokio_postgres::types::Type;

use crate::{Store, error::Error};

/// What becomes of a delivery that repeats another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDuplicate {
    /// It is held.
    #[default]
    Hold,
    /// It is cancelled.
    Drop,
    /// It is sent, and told.
    Report,
}

impl OnDuplicate {
    /// As in the configuration and in `outbox.kind`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Drop => "drop",
            Self::Report => "report",
        }
    }
}

/// The guard of a kind: the same content for the same recipient again, so soon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardWindow {
    /// How far apart two may have been enqueued.
    pub within: Duration,
    /// What becomes of the one that comes second.
    pub on_duplicate: OnDuplicate,
}

/// What has become of a delivery that repeats another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It is held, and nobody's any more.
    Held,
    /// It has ended as cancelled.
    Dropped,
    /// It goes on.
    Reported,
    /// Somebody has its row locked: it must not go on now.
    Locked,
}

impl Store {
    /// A statement about claimed deliveries, by their leases.
    pub(crate) async fn about_claimed(
        &self,
        name: &'static str,
        sql: &'static str,
        claimed: &[(DeliveryKey, Lease)],
    ) -> Result<Vec<tokio_postgres::Row>, Error> {
        let ids: Vec<uuid::Uuid> = claimed.iter().map(|(key, _)| key.message_id.0).collect();
        let numbers: Vec<i16> = claimed.iter().map(|(key, _)| key.recipient_no).collect();
        let leases: Vec<uuid::Uuid> = claimed.iter().map(|(_, lease)| lease.0).collect();
        self.rows(
            name,
            sql,
            &[
                (&self.armed.epoch, Type::UUID),
                (&self.armed.identity, Type::TEXT),
                (&ids, Type::UUID_ARRAY),
                (&numbers, Type::INT2_ARRAY),
                (&leases, Type::UUID_ARRAY),
            ],
        )
        .await
    }

    /// Notes these claimed deliveries and answers those that repeat another, with what has become of them and why.
    ///
    /// # Errors
    /// Any; nothing is known of them then, and none may go on.
    pub async fn guard(&self, claimed: &[(DeliveryKey, Lease)]) -> Result<Vec<(DeliveryKey, Repeat, String)>, Error> {
        let rows = self.about_claimed("guard", include_str!("../queries/guard.sql"), claimed).await?;
        let repeats = rows.iter().map(|row| {
            let repeat = match row.get("verdict") {
                "held" => Repeat::Held,
                "dropped" => Repeat::Dropped,
                "reported" => Repeat::Reported,
                _ => Repeat::Locked,
            };
            (DeliveryKey { message_id: MessageId(row.get(0)), recipient_no: row.get(1) }, repeat, row.get("reason"))
        });
        Ok(repeats.collect())
    }
}
