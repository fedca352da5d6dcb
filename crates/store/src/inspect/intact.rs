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

readable!(
    /// Something that does not belong to the role that most of the functions belong to; without a name that role itself.
    pub struct Owned {
        /// `table outbox.queue`, or nothing.
        pub what: String,
        /// Whose it is.
        pub owner: String,
        /// Whose it should be.
        pub rightful: String,
        /// That one is a superuser.
        pub superuser: bool,
        /// The statement that gives it back.
        pub remedy: String,
    }
);

readable!(
    /// How a table is stored, where that is not as it was made.
    pub struct Stored {
        /// `unlogged`, or `default`: without its default partition.
        pub fault: String,
        /// Its name.
        pub name: String,
        /// The statement that puts it right.
        pub remedy: String,
    }
);

readable!(
    /// A week that is no partition.
    pub struct Detached {
        /// Its name: that of the week, or one that begins with it.
        pub name: String,
        /// `message` or `attempt`.
        pub parent: String,
        /// How long from now its week lasts, in seconds; negative when it is over.
        pub covers_s: f64,
        /// How many unfinished deliveries have theirs in it.
        pub unfinished: i64,
        /// The statements that attach it again.
        pub remedy: String,
    }
);

/// Every object that the migrations make, and every privilege on them, a line each; a test writes it.
pub const OBJECTS: &str = include_str!("../../../../migrations/objects.txt");

impl Console {
    /// Weeks that are no partitions.
    ///
    /// # Errors
    /// Any.
    pub async fn doctor_detached(&self) -> Result<Vec<Detached>, Error> {
        self.many("doctor_detached", include_str!("../../queries/doctor_detached.sql"), &[], Detached::read).await
    }

    /// Every object and privilege that there is, as in [`OBJECTS`].
    ///
    /// # Errors
    /// Any.
    pub async fn doctor_objects(&self) -> Result<Vec<String>, Error> {
        let sql = include_str!("../../queries/doctor_objects.sql");
        self.many("doctor_objects", sql, &[], |row| row.get("line")).await
    }

    /// Whose the functions are, and what is somebody else's.
    ///
    /// # Errors
    /// Any.
    pub async fn doctor_owners(&self) -> Result<Vec<Owned>, Error> {
        self.many("doctor_owners", include_str!("../../queries/doctor_owners.sql"), &[], Owned::read).await
    }

    /// Tables that are not stored as they were made.
    ///
    /// # Errors
    /// Any.
    pub async fn doctor_storage(&self) -> Result<Vec<Stored>, Error> {
        self.many("doctor_storage", include_str!("../../queries/doctor_storage.sql"), &[], Stored::read).await
    }

    /// Tables with row level security.
    ///
    /// # Errors
    /// Any.
    pub async fn doctor_row_security(&self) -> Result<Vec<Secured>, Error> {
        let sql = include_str!("../../queries/doctor_row_security.sql");
        self.many("doctor_row_security", sql, &[], Secured::read).await
    }
}
