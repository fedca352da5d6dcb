//! Forgetting an address, and what is known of it afterwards.

use serde::Serialize;
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{Console, permitted};
use crate::{Typed, error::Error};

readable!(
    /// What came of one message, or of what is of none.
    pub struct Erasing {
        /// The message; none for the suppression list, pauses, the audit and keys.
        pub message_id: Option<Uuid>,
        /// Which delivery of it.
        pub recipient_no: Option<i32>,
        /// In the function's words: `erased`, `cancelled, erased`, `kept: ...`.
        pub result: String,
    }
);

readable!(
    /// A delivery whose address was erased. Times are ISO 8601, UTC.
    pub struct Erased {
        /// The message.
        pub message_id: Uuid,
        /// Which delivery of it.
        pub recipient_no: i32,
        /// Kind of the notification.
        pub kind: String,
        /// How it ended.
        pub state: String,
        /// Why `sent` is believed.
        pub evidence: Option<String>,
        /// When it was enqueued.
        pub enqueued_at: String,
        /// When it ended.
        pub finished_at: String,
        /// When it was erased.
        pub erased_at: String,
        /// The server of the attempt that ended it.
        pub server: Option<String>,
        /// Its words, without the address.
        pub reply: Option<String>,
    }
);

impl Console {
    /// One batch: call it until nothing is answered but what is kept.
    ///
    /// # Errors
    /// Not an address, a reason that has it in it; any of the database's.
    pub async fn erase(
        &self,
        address: &str,
        reason: &str,
        messages_max: i32,
        close_doubts: bool,
    ) -> Result<Vec<Erasing>, Error> {
        let params: [Typed<'_>; 4] =
            [(&address, Type::TEXT), (&reason, Type::TEXT), (&messages_max, Type::INT4), (&close_doubts, Type::BOOL)];
        let rows = self.rows("erase", include_str!("../../queries/erase.sql"), &params).await?;
        Ok(rows.iter().map(Erasing::read).collect())
    }

    /// A page of the messages to others that have the address in them; a last row that says `more` is where the next begins.
    ///
    /// # Errors
    /// Not an address, a reason that has it in it; any of the database's.
    pub async fn erase_mentions(
        &self,
        address: &str,
        reason: &str,
        after: Option<Uuid>,
        messages_max: i32,
    ) -> Result<Vec<Erasing>, Error> {
        let params: [Typed<'_>; 4] =
            [(&address, Type::TEXT), (&reason, Type::TEXT), (&after, Type::UUID), (&messages_max, Type::INT4)];
        let rows = self.rows("erase_mentions", include_str!("../../queries/erase_mentions.sql"), &params).await?;
        Ok(rows.iter().map(Erasing::read).collect())
    }

    /// What [`Self::erase`] would do, all of it; nothing is done.
    ///
    /// # Errors
    /// Not an address; any of the database's.
    pub async fn would_erase(&self, address: &str, close_doubts: bool) -> Result<Vec<Erasing>, Error> {
        let params: [Typed<'_>; 2] = [(&address, Type::TEXT), (&close_doubts, Type::BOOL)];
        let rows = self.rows("would_erase", include_str!("../../queries/would_erase.sql"), &params).await?;
        Ok(rows.iter().map(Erasing::read).collect())
    }

    /// What [`Self::erase_mentions`] would do to a page; nothing is done.
    ///
    /// # Errors
    /// Not an address; any of the database's.
    pub async fn would_erase_mentions(
        &self,
        address: &str,
        after: Option<Uuid>,
        messages_max: i32,
    ) -> Result<Vec<Erasing>, Error> {
        let params: [Typed<'_>; 3] = [(&address, Type::TEXT), (&after, Type::UUID), (&messages_max, Type::INT4)];
        let sql = include_str!("../../queries/would_erase_mentions.sql");
        Ok(self.rows("would_erase_mentions", sql, &params).await?.iter().map(Erasing::read).collect())
    }

    /// What is known of an erased address by its proof, newest first; nothing of what is no address, or when this role may
    /// not look.
    ///
    /// # Errors
    /// Any other.
    pub async fn erased(&self, address: &str, limit: i32) -> Result<Vec<Erased>, Error> {
        let params: [Typed<'_>; 2] = [(&address, Type::TEXT), (&limit, Type::INT4)];
        let rows = match self.rows("erased", include_str!("../../queries/erased.sql"), &params).await {
            Err(error) if error.sqlstate().is_some_and(|state| state.code() == "22H73") => return Ok(Vec::new()),
            rows => permitted(rows)?.unwrap_or_default(),
        };
        Ok(rows.iter().map(Erased::read).collect())
    }
}
