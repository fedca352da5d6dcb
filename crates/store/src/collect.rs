//! Digests: claimed deliveries of kinds that collect are gathered, and go as one message.
//!
//! Nothing here touches a delivery that has an intent, or was tried before: the statement matches the lease of a claim.

use std::time::Duration;

use hapax_core::{DeliveryKey, Lease, MessageId};
use tokio_postgres::types::Type;

use crate::{Store, error::Error};

/// How a kind collects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collecting {
    /// For so long after the first became due.
    pub within: Duration,
    /// So many go at once.
    pub max: i32,
    /// The kind of the digest; none: the same.
    pub as_kind: Option<String>,
}

/// What has become of claimed deliveries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gathered {
    /// These are nobody's any more: they wait for a digest, or are in one.
    pub waiting: Vec<DeliveryKey>,
    /// These are paused or suppressed.
    pub stopped: Vec<DeliveryKey>,
    /// Somebody has these locked: they must not go on now.
    pub locked: Vec<DeliveryKey>,
    /// Digests that were made.
    pub made: Vec<MessageId>,
}

impl Store {
    /// Gathers these claimed deliveries, where their kind collects and they may be, and makes the digests that are due. Those
    /// that are not answered go by themselves.
    ///
    /// # Errors
    /// Any; nothing is known of them then, and none may go on.
    pub async fn collect(&self, claimed: &[(DeliveryKey, Lease)]) -> Result<Gathered, Error> {
        let rows = self.about_claimed("collect", include_str!("../queries/collect.sql"), claimed).await?;
        let mut gathered = Gathered::default();
        for row in &rows {
            let verdict: &str = row.get("verdict");
            if verdict == "made" {
                gathered.made.push(MessageId(row.get("digest_id")));
                continue;
            }
            let key = DeliveryKey { message_id: MessageId(row.get(0)), recipient_no: row.get(1) };
            match verdict {
                "waits" => gathered.waiting.push(key),
                "locked" => gathered.locked.push(key),
                _ => gathered.stopped.push(key),
            }
        }
        Ok(gathered)
    }

    /// Lets what digests were made of end as they have; with `all` also where one was retried, or its outcome has changed
    /// since. Answers how many digests that was.
    ///
    /// # Errors
    /// Any; call again.
    pub async fn follow_digests(&self, all: bool) -> Result<i64, Error> {
        let params =
            [(&self.armed.epoch as _, Type::UUID), (&self.armed.identity as _, Type::TEXT), (&all as _, Type::BOOL)];
        let rows = self.rows("follow_digests", include_str!("../queries/follow_digests.sql"), &params).await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }
}
