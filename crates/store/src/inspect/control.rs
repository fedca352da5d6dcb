//! Pauses, the suppression list and what waits, as people make, end and look at them.

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{Console, permitted};
use crate::{Typed, error::Error};

readable!(
    /// Something that is paused. Times are ISO 8601, UTC.
    pub struct Paused {
        /// route, kind or tenant.
        pub what: String,
        /// Its name.
        pub name: String,
        /// The database user who did it.
        pub paused_by: String,
        /// Why.
        pub reason: String,
        /// Since when.
        pub since: String,
        /// For how long, in seconds.
        pub age_s: f64,
        /// When it ends by itself.
        pub until: Option<String>,
    }
);

readable!(
    /// An entry of the suppression list. Times are ISO 8601, UTC.
    pub struct Suppression {
        /// Its number.
        pub id: i64,
        /// Masked.
        pub address: String,
        /// hard_bounce, complaint, unsubscribed or manual.
        pub reason: String,
        /// Only of this kind.
        pub kind: Option<String>,
        /// Only of this tenant.
        pub tenant: Option<String>,
        /// The database user who entered it: a relay's, of hard bounces.
        pub entered_by: String,
        /// What was said besides, masked.
        pub note: Option<String>,
        /// Since when.
        pub since: String,
        /// Until when.
        pub until: Option<String>,
        /// That has passed: it counts no longer.
        pub over: bool,
    }
);

readable!(
    /// A stopped delivery that others of its ordering key wait behind. Times are ISO 8601, UTC.
    pub struct Blocking {
        /// Of the key.
        pub tenant: Option<String>,
        /// Masked.
        pub ordering_key: String,
        /// How many wait behind it.
        pub waiting: i64,
        /// The message that has stopped.
        pub message_id: Uuid,
        /// Which delivery of it.
        pub recipient_no: i32,
        /// Its kind, which says what becomes of the key.
        pub kind: String,
        /// in_doubt or held.
        pub state: String,
        /// Why, masked.
        pub reason: Option<String>,
        /// Since when; none until a relay has met it.
        pub since: Option<String>,
        /// For how long, in seconds.
        pub age_s: Option<f64>,
        /// When the others pass it; none when they wait until it is decided.
        pub passed_at: Option<String>,
        /// The doubt, where it is one.
        pub token: Option<Uuid>,
        /// How many such deliveries there are in all.
        #[serde(skip)]
        pub blocking: i64,
    }
);

/// Whom nothing shall be sent to. Has no `Debug`: it holds an address.
pub struct Suppressing<'a> {
    /// The address.
    pub address: &'a str,
    /// One of the four words.
    pub reason: &'a str,
    /// Only of this kind.
    pub kind: Option<&'a str>,
    /// Only of this tenant.
    pub tenant: Option<&'a str>,
    /// For so long.
    pub within: Option<Duration>,
    /// What else is to be said.
    pub note: Option<&'a str>,
    /// Whether the list keeps more than a hash.
    pub keep_address: bool,
}

impl Console {
    /// Puts an address on the list. Answers in the function's words.
    ///
    /// # Errors
    /// Not an address, no such reason; any of the database's.
    pub async fn suppress(&self, entry: &Suppressing<'_>) -> Result<String, Error> {
        let within = entry.within.map(|within| within.as_secs_f64());
        let params: [Typed<'_>; 7] = [
            (&entry.address, Type::TEXT),
            (&entry.reason, Type::TEXT),
            (&entry.kind, Type::TEXT),
            (&entry.tenant, Type::TEXT),
            (&within, Type::FLOAT8),
            (&entry.note, Type::TEXT),
            (&entry.keep_address, Type::BOOL),
        ];
        self.rows("suppress", include_str!("../../queries/suppress.sql"), &params).await.map(|rows| word(&rows))
    }

    /// Takes it off again.
    ///
    /// # Errors
    /// Not an address; any of the database's.
    pub async fn unsuppress(
        &self,
        address: &str,
        reason: &str,
        kind: Option<&str>,
        tenant: Option<&str>,
    ) -> Result<String, Error> {
        let params: [Typed<'_>; 4] =
            [(&address, Type::TEXT), (&reason, Type::TEXT), (&kind, Type::TEXT), (&tenant, Type::TEXT)];
        self.rows("unsuppress", include_str!("../../queries/unsuppress.sql"), &params).await.map(|rows| word(&rows))
    }

    /// The list, newest first, or what it has about one address.
    ///
    /// # Errors
    /// Not an address; any of the database's.
    pub async fn suppression_list(&self, address: Option<&str>, limit: i64) -> Result<Vec<Suppression>, Error> {
        let params: [Typed<'_>; 2] = [(&address, Type::TEXT), (&limit, Type::INT8)];
        let rows = self.rows("suppression_list", include_str!("../../queries/suppression_list.sql"), &params).await?;
        Ok(rows.iter().map(Suppression::read).collect())
    }

    /// Pauses one of `[route, kind, tenant]`, for so long or until it is resumed. Answers in the function's words.
    ///
    /// # Errors
    /// Not exactly one of them, an unknown route; any of the database's.
    pub async fn pause(
        &self,
        reason: &str,
        [route, kind, tenant, address]: [Option<&str>; 4],
        within: Option<Duration>,
    ) -> Result<String, Error> {
        let within = within.map(|within| within.as_secs_f64());
        let params: [Typed<'_>; 6] = [
            (&reason, Type::TEXT),
            (&route, Type::TEXT),
            (&kind, Type::TEXT),
            (&tenant, Type::TEXT),
            (&within, Type::FLOAT8),
            (&address, Type::TEXT),
        ];
        self.rows("pause", include_str!("../../queries/pause.sql"), &params).await.map(|rows| word(&rows))
    }

    /// Ends such a pause.
    ///
    /// # Errors
    /// Not exactly one of them; any of the database's.
    pub async fn resume(
        &self,
        reason: &str,
        [route, kind, tenant, address]: [Option<&str>; 4],
    ) -> Result<String, Error> {
        let params: [Typed<'_>; 5] = [
            (&reason, Type::TEXT),
            (&route, Type::TEXT),
            (&kind, Type::TEXT),
            (&tenant, Type::TEXT),
            (&address, Type::TEXT),
        ];
        self.rows("resume", include_str!("../../queries/resume.sql"), &params).await.map(|rows| word(&rows))
    }

    /// What is paused; none when this role may not look.
    ///
    /// # Errors
    /// Any other.
    pub async fn pause_list(&self) -> Result<Option<Vec<Paused>>, Error> {
        let rows = self.rows("pause_list", include_str!("../../queries/pause_list.sql"), &[]).await;
        Ok(permitted(rows)?.map(|rows| rows.iter().map(Paused::read).collect()))
    }

    /// What blocks ordering keys, or this one delivery if it does; none when this role may not look. Looks at all that has
    /// an ordering key.
    ///
    /// # Errors
    /// Any other.
    pub async fn blocked_list(&self, of: Option<(Uuid, i32)>, limit: i64) -> Result<Option<Vec<Blocking>>, Error> {
        let params: [Typed<'_>; 3] =
            [(&of.map(|one| one.0), Type::UUID), (&of.map(|one| one.1), Type::INT4), (&limit, Type::INT8)];
        let rows = self.rows("blocked_list", include_str!("../../queries/blocked_list.sql"), &params).await;
        Ok(permitted(rows)?.map(|rows| rows.iter().map(Blocking::read).collect()))
    }

    /// How many deliveries are due and in nobody's hands, counted up to 20,000 per lane; none when this role may not look.
    ///
    /// # Errors
    /// Any other.
    pub async fn due_count(&self) -> Result<Option<i64>, Error> {
        let rows = self.rows("due_count", include_str!("../../queries/due_count.sql"), &[]).await;
        Ok(permitted(rows)?.and_then(|rows| rows.first().map(|row| row.get("due"))))
    }
}

fn word(rows: &[Row]) -> String {
    rows.first().map(|row| row.get("result")).unwrap_or_default()
}
