//! Finding deliveries by what a customer or a mail server's log says: an address, a Message-ID, a token; and what an
//! application has enqueued twice. What comes back is masked, whoever asks; an address goes in and never comes out.

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::Console;
use crate::{Typed, error::Error};

readable!(
    /// A delivery that was found.
    pub struct Found {
        /// The message.
        pub message_id: Uuid,
        /// Which delivery of it.
        pub recipient_no: i32,
    }
);

readable!(
    /// What surrounds a delivery: its deduplication key, the head of its ordering key, its origin and its relay.
    pub struct Circumstances {
        /// Which delivery of the message.
        pub recipient_no: i32,
        /// The message's deduplication key, masked.
        pub dedup_key: Option<String>,
        /// Until when the key is remembered; none when it has been released or forgotten.
        pub key_until: Option<String>,
        /// Whether that is in the future.
        pub key_in_force: Option<bool>,
        /// The message that the key stands for now.
        pub key_holder: Option<Uuid>,
        /// The head of its ordering key, when it waits behind it.
        pub waits_for: Option<Uuid>,
        /// Which delivery of that message.
        pub waits_for_no: Option<i32>,
        /// The state of that delivery.
        pub waits_for_state: Option<String>,
        /// How many are ahead of it, counted up to 1,000.
        pub ahead: Option<i64>,
        /// The message that an operator sent again as this one.
        pub copy_of: Option<Uuid>,
        /// When.
        pub copied_at: Option<String>,
        /// Which operator; none when this role may not see decisions.
        pub copied_by: Option<String>,
        /// Why, masked; none when this role may not see decisions.
        pub copy_reason: Option<String>,
        /// For how long the relay that is sending it has been silent, by the database's clock, in seconds.
        pub relay_silent_s: Option<f64>,
        /// Whether its upstream knows repeats by their key.
        pub same_key: Option<bool>,
        /// What it was made of, if it is a digest: the first 100 deliveries.
        pub made_of: Vec<String>,
    }
);

readable!(
    /// The same content, enqueued twice for one recipient.
    pub struct Twins {
        /// Masked.
        pub recipient: Option<String>,
        /// Kind of both.
        pub kind: String,
        /// Seconds between the two.
        pub gap_s: f64,
        /// Whether one transaction enqueued both.
        pub same_transaction: bool,
        /// Whether both were sent.
        pub both_sent: bool,
        /// The first message.
        pub first_id: Uuid,
        /// Which delivery of it.
        pub first_no: i32,
        /// When it was enqueued.
        pub first_at: String,
        /// By which transaction.
        pub first_txid: String,
        /// Of which application.
        pub first_application: Option<String>,
        /// Of which database user.
        pub first_role: String,
        /// Its deduplication key, masked.
        pub first_dedup_key: Option<String>,
        /// Its state.
        pub first_state: Option<String>,
        /// The second message.
        pub second_id: Uuid,
        /// Which delivery of it.
        pub second_no: i32,
        /// When it was enqueued.
        pub second_at: String,
        /// By which transaction.
        pub second_txid: String,
        /// Of which application.
        pub second_application: Option<String>,
        /// Of which database user.
        pub second_role: String,
        /// Its deduplication key, masked.
        pub second_dedup_key: Option<String>,
        /// Its state.
        pub second_state: Option<String>,
    }
);

readable!(
    /// A message that has no delivery: nobody sends it.
    pub struct Unqueued {
        /// Which.
        pub message_id: Uuid,
        /// Of which kind.
        pub kind: String,
        /// When it was enqueued.
        pub enqueued_at: String,
        /// How many attempts the ledger has of it.
        pub attempts: i32,
        /// How many there are of them; the newest are answered.
        pub how_many: i64,
    }
);

/// Whose twins to look for.
#[derive(Clone, Copy, Debug)]
pub enum TwinsOf<'a> {
    /// Of everything sent to an address.
    Address(&'a str),
    /// Of one message.
    Message(Uuid),
}

impl Console {
    /// The deliveries to an address, newest first.
    ///
    /// # Errors
    /// Any.
    pub async fn find_deliveries(
        &self,
        address: &str,
        since: Option<Duration>,
        limit: i32,
    ) -> Result<Vec<Found>, Error> {
        let since = since.map(|since| since.as_secs_f64());
        let params: [Typed<'_>; 3] = [(&address, Type::TEXT), (&since, Type::FLOAT8), (&limit, Type::INT4)];
        let rows = self.rows("find_deliveries", include_str!("../../queries/find_deliveries.sql"), &params).await?;
        Ok(rows.iter().map(Found::read).collect())
    }

    /// The delivery of an attempt or doubt.
    ///
    /// # Errors
    /// Any.
    pub async fn find_token(&self, token: Uuid) -> Result<Option<Found>, Error> {
        let params: [Typed<'_>; 1] = [(&token, Type::UUID)];
        let rows = self.rows("find_token", include_str!("../../queries/find_token.sql"), &params).await?;
        Ok(rows.first().map(Found::read))
    }

    /// The newest finished messages with this Message-ID header of their own.
    ///
    /// # Errors
    /// Any.
    pub async fn find_raw_message(&self, header: &str, since: Option<Duration>) -> Result<Vec<Uuid>, Error> {
        let since = since.map(|since| since.as_secs_f64());
        let params: [Typed<'_>; 2] = [(&header, Type::TEXT), (&since, Type::FLOAT8)];
        let rows = self.rows("find_raw_message", include_str!("../../queries/find_raw_message.sql"), &params).await?;
        Ok(rows.iter().map(|row| row.get("message_id")).collect())
    }

    /// Messages without a delivery: to an address, one by its id, or all of the last days; the newest.
    ///
    /// # Errors
    /// Any.
    pub async fn find_unqueued(&self, address: Option<&str>, id: Option<Uuid>) -> Result<Vec<Unqueued>, Error> {
        let params: [Typed<'_>; 2] = [(&address, Type::TEXT), (&id, Type::UUID)];
        let rows = self.rows("find_unqueued", include_str!("../../queries/find_unqueued.sql"), &params).await?;
        Ok(rows.iter().map(Unqueued::read).collect())
    }

    /// When the oldest message that is kept was enqueued.
    ///
    /// # Errors
    /// Any.
    pub async fn history_since(&self) -> Result<Option<String>, Error> {
        let rows = self.rows("history_since", include_str!("../../queries/history_since.sql"), &[]).await?;
        Ok(rows.first().and_then(|row| row.get("at")))
    }

    /// What surrounds the deliveries of one message.
    ///
    /// # Errors
    /// Any.
    pub async fn circumstances(&self, id: Uuid) -> Result<Vec<Circumstances>, Error> {
        let params: [Typed<'_>; 1] = [(&id, Type::UUID)];
        let rows = self.rows("circumstances", include_str!("../../queries/circumstances.sql"), &params).await?;
        Ok(rows.iter().map(Circumstances::read).collect())
    }

    /// What producers have enqueued twice, newest first.
    ///
    /// # Errors
    /// Any.
    pub async fn suspected_duplicates(
        &self,
        of: TwinsOf<'_>,
        since: Option<Duration>,
        limit: i32,
    ) -> Result<Vec<Twins>, Error> {
        let since = since.map(|since| since.as_secs_f64());
        let (address, id) = match of {
            TwinsOf::Address(address) => (Some(address), None),
            TwinsOf::Message(id) => (None, Some(id)),
        };
        let params: [Typed<'_>; 4] =
            [(&since, Type::FLOAT8), (&address, Type::TEXT), (&id, Type::UUID), (&limit, Type::INT4)];
        let sql = include_str!("../../queries/suspected_duplicates.sql");
        let rows = self.rows("suspected_duplicates", sql, &params).await?;
        Ok(rows.iter().map(Twins::read).collect())
    }
}
