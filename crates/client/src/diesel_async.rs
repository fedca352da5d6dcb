//! Enqueue with `diesel-async`.
//!
//! Everything takes an `AsyncPgConnection`, or what stands for one, such as a connection from a pool. Call it inside of
//! `connection.transaction(...)`; outside of one the notification is enqueued at once.
//!
//! Diesel's errors do not carry SQLSTATEs, so refusals and conflicts are recognised by what they say.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let database_url = hapax_tests::shop::Shop::open().await?.url();
//! use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
//! use hapax_client::{Notification, diesel_async as outbox};
//!
//! let mut connection = AsyncPgConnection::establish(&database_url).await?;
//! let id = connection
//!     .transaction(async |connection| {
//!         diesel::sql_query("INSERT INTO orders (email, total) VALUES ('ada@example.org', '19.90')")
//!             .execute(connection)
//!             .await?;
//!         let confirmation =
//!             Notification::new("order_confirmed", "ada@example.org").subject("Your order 42").body_text("Thank you.");
//!         outbox::enqueue(connection, &confirmation).await
//!     })
//!     .await?;
//!
//! let deliveries = outbox::status(&mut connection, id).await?;
//! assert_eq!(deliveries[0].state, hapax_client::State::Pending);
//! # Ok(())
//! # }
//! ```

use ::diesel::pg::Pg;
use ::diesel_async::{AsyncConnection, RunQueryDsl as _};
use uuid::Uuid;

use crate::arguments::{self, Statement};
use crate::content::Content;
use crate::diesel::{Row, query};
use crate::notification::Notification;
use crate::outcome::{self, Cancellation, Delivery};

pub use crate::diesel::Error;

/// Enqueues one notification and returns the message id: with a repeated dedup key the first one's.
///
/// # Errors
/// See [`Error`](crate::Error).
pub async fn enqueue<C: Content>(
    connection: &mut impl AsyncConnection<Backend = Pg>,
    notification: &Notification<C>,
) -> Result<Uuid, Error> {
    outcome::id(lines(connection, arguments::enqueue(notification)?).await?)
}

/// Enqueues up to 10,000 notifications with one statement, all or none, and returns their message ids in order. Three
/// times as fast as one by one; a refusal says which element it is about.
///
/// # Errors
/// See [`Error`](crate::Error).
pub async fn enqueue_many<C: Content>(
    connection: &mut impl AsyncConnection<Backend = Pg>,
    notifications: &[Notification<C>],
) -> Result<Vec<Uuid>, Error> {
    outcome::ids(lines(connection, arguments::enqueue_many(notifications)?).await?)
}

/// What became of a message: one row for each of its deliveries. None when there is no such message, or when it belongs
/// to a transaction that has not been committed yet.
///
/// # Errors
/// See [`Error`](crate::Error).
pub async fn status(connection: &mut impl AsyncConnection<Backend = Pg>, id: Uuid) -> Result<Vec<Delivery>, Error> {
    outcome::rows(lines(connection, outcome::status(id)).await?)
}

/// Stops what is not being sent yet, and says for each delivery whether that was in time. The reason is kept.
///
/// # Errors
/// See [`Error`](crate::Error); an unknown id is refused.
pub async fn cancel(
    connection: &mut impl AsyncConnection<Backend = Pg>,
    id: Uuid,
    reason: &str,
) -> Result<Vec<Cancellation>, Error> {
    outcome::rows(lines(connection, outcome::cancel(id, reason)).await?)
}

async fn lines(
    connection: &mut impl AsyncConnection<Backend = Pg>,
    statement: Statement<'_>,
) -> Result<Vec<String>, Error> {
    let rows: Vec<Row> = query(statement).load(connection).await?;
    Ok(rows.into_iter().map(|row| row.line).collect())
}
