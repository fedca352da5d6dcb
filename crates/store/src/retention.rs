//! Upkeep: partitions ahead, old weeks dropped, expired keys and the content of what has ended removed.

use std::time::Duration;

use tokio_postgres::types::Type;

use crate::{Store, error::Error};

/// For how long the content of messages is kept after their end, in seconds; none: forever, 0: until it is accepted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keeps {
    /// Of kinds that have a time of their own.
    pub kinds: Vec<(String, Option<f64>)>,
    /// Of the others.
    pub default: Option<f64>,
}

impl Keeps {
    /// Nothing is ever removed.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.default.is_none() && self.kinds.iter().all(|(_, keep)| keep.is_none())
    }
}

/// What one batch of [`Store::remove_contents`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Messages whose content it has removed.
    pub messages: i64,
    /// There may be more to do now.
    pub more: bool,
}

impl Store {
    /// Makes partitions ahead, removes expired keys, and drops weeks that have ended longer than `keep` ago; none: never.
    /// Answers what it did, postponed, or has left to do.
    ///
    /// # Errors
    /// Any; call again.
    pub async fn maintain(&self, keep: Option<Duration>) -> Result<Vec<(String, String)>, Error> {
        let keep = keep.map(|keep| keep.as_secs_f64());
        let rows = self.rows("maintain", include_str!("../queries/maintain.sql"), &[(&keep, Type::FLOAT8)]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Removes the content of up to `batch` messages all of whose deliveries have ended for long enough.
    ///
    /// # Errors
    /// Any; call again.
    pub async fn remove_contents(&self, keeps: &Keeps, batch: i32) -> Result<Removed, Error> {
        let (kinds, times): (Vec<&str>, Vec<Option<f64>>) =
            keeps.kinds.iter().map(|(kind, keep)| (kind.as_str(), *keep)).unzip();
        let params: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 4] = [
            (&kinds, Type::TEXT_ARRAY),
            (&times, Type::FLOAT8_ARRAY),
            (&keeps.default, Type::FLOAT8),
            (&batch, Type::INT4),
        ];
        let rows = self.rows("remove_contents", include_str!("../queries/remove_contents.sql"), &params).await?;
        Ok(rows.first().map_or_else(Removed::default, |row| Removed { messages: row.get(0), more: row.get(1) }))
    }
}
