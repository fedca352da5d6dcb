//! What `hapax doctor` asks about the schema's objects: whether they are as the migrations made them.

use serde::Serialize;
use tokio_postgres::Row;

use super::Console;
use crate::error::Error;

readable!(
    /// A table with row level security.
    pub struct Secured {
        /// Its name.
        pub name: String,
        /// It hides rows from who asks, or from the owner.
        pub hides: bool,
        /// It hides rows from somebody who may be a relay.
        pub hides_from_relays: bool,
    }
);

impl Console {
    /// Tables with row level security.
    ///
    /// # Errors
    /// Any.
    pub async fn doctor_row_security(&self) -> Result<Vec<Secured>, Error> {
        let sql = include_str!("../../queries/doctor_row_security.sql");
        self.many("doctor_row_security", sql, &[], Secured::read).await
    }
}
