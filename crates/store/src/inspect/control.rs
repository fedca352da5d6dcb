//! Pauses, as people make, end and look at them.

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::{Row, types::Type};

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

impl Console {
    /// Pauses one of `[route, kind, tenant]`, for so long or until it is resumed. Answers in the function's words.
    ///
    /// # Errors
    /// Not exactly one of them, an unknown route; any of the database's.
    pub async fn pause(
        &self,
        reason: &str,
        [route, kind, tenant]: [Option<&str>; 3],
        within: Option<Duration>,
    ) -> Result<String, Error> {
        let within = within.map(|within| within.as_secs_f64());
        let params: [Typed<'_>; 5] = [
            (&reason, Type::TEXT),
            (&route, Type::TEXT),
            (&kind, Type::TEXT),
            (&tenant, Type::TEXT),
            (&within, Type::FLOAT8),
        ];
        self.rows("pause", include_str!("../../queries/pause.sql"), &params).await.map(|rows| word(&rows))
    }

    /// Ends such a pause.
    ///
    /// # Errors
    /// Not exactly one of them; any of the database's.
    pub async fn resume(&self, reason: &str, [route, kind, tenant]: [Option<&str>; 3]) -> Result<String, Error> {
        let params: [Typed<'_>; 4] =
            [(&reason, Type::TEXT), (&route, Type::TEXT), (&kind, Type::TEXT), (&tenant, Type::TEXT)];
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
}

fn word(rows: &[Row]) -> String {
    rows.first().map(|row| row.get("result")).unwrap_or_default()
}
