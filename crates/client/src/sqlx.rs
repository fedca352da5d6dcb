//! Enqueue with `sqlx`.
//!
//! Everything takes what sqlx calls an executor: `&mut *transaction`, `&mut connection`, or a `&pool`. Give it the
//! transaction that the notification belongs to; outside of one it is enqueued at once.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let database_url = hapax_tests::shop::Shop::open().await?.url();
//! use hapax_client::{Notification, sqlx as outbox};
//!
//! let pool = sqlx::PgPool::connect(&database_url).await?;
//! let mut transaction = pool.begin().await?;
//! sqlx::query("INSERT INTO orders (email, total) VALUES ($1, $2)")
//!     .bind("ada@example.org")
//!     .bind("19.90")
//!     .execute(&mut *transaction)
//!     .await?;
//! let confirmation =
//!     Notification::new("order_confirmed", "ada@example.org").subject("Your order 42").body_text("Thank you.");
//! let id = outbox::enqueue(&mut *transaction, &confirmation).await?;
//! transaction.commit().await?;
//!
//! let deliveries = outbox::status(&pool, id).await?;
//! assert_eq!(deliveries[0].state, hapax_client::State::Pending);
//! # Ok(())
//! # }
//! ```

use ::sqlx::postgres::{PgDatabaseError, PgExecutor};
use ::sqlx::{AssertSqlSafe, query_scalar};
use uuid::Uuid;

use crate::arguments::{self, Statement, Value};
use crate::content::Content;
use crate::error::Said;
use crate::notification::Notification;
use crate::outcome::{self, Cancellation, Delivery};

/// What can go wrong with this driver.
pub type Error = crate::Error<::sqlx::Error>;

/// Enqueues one notification and returns the message id: with a repeated dedup key the first one's.
///
/// # Errors
/// See [`Error`](crate::Error).
pub async fn enqueue<'c, C: Content>(
    executor: impl PgExecutor<'c>,
    notification: &Notification<C>,
) -> Result<Uuid, Error> {
    outcome::id(lines(executor, arguments::enqueue(notification)?).await?)
}

/// Enqueues up to 10,000 notifications with one statement, all or none, and returns their message ids in order. Three
/// times as fast as one by one; a refusal says which element it is about.
///
/// # Errors
/// See [`Error`](crate::Error).
pub async fn enqueue_many<'c, C: Content>(
    executor: impl PgExecutor<'c>,
    notifications: &[Notification<C>],
) -> Result<Vec<Uuid>, Error> {
    outcome::ids(lines(executor, arguments::enqueue_many(notifications)?).await?)
}

/// What became of a message: one row for each of its deliveries. None when there is no such message, or when it belongs
/// to a transaction that has not been committed yet.
///
/// # Errors
/// See [`Error`](crate::Error).
pub async fn status<'c>(executor: impl PgExecutor<'c>, id: Uuid) -> Result<Vec<Delivery>, Error> {
    outcome::rows(lines(executor, outcome::status(id)).await?)
}

/// Stops what is not being sent yet, and says for each delivery whether that was in time. The reason is kept.
///
/// # Errors
/// See [`Error`](crate::Error); an unknown id is refused.
pub async fn cancel<'c>(executor: impl PgExecutor<'c>, id: Uuid, reason: &str) -> Result<Vec<Cancellation>, Error> {
    outcome::rows(lines(executor, outcome::cancel(id, reason)).await?)
}

async fn lines<'c>(executor: impl PgExecutor<'c>, statement: Statement<'_>) -> Result<Vec<String>, Error> {
    // Safe: the text consists of the names of arguments and of numbers.
    let mut query = query_scalar(AssertSqlSafe(statement.sql));
    for value in &statement.values {
        query = match value {
            Value::Text(text) => query.bind(&**text),
            Value::Texts(texts) => query.bind(*texts),
            Value::Bytes(bytes) => query.bind(*bytes),
        };
    }
    // Unnamed: the text differs with the arguments, and the server keeps no plan for a call of a function.
    query.persistent(false).fetch_all(executor).await.map_err(Error::from)
}

/// For applications' own statements beside ours: a function, or a transaction's closure, needs one type of error only.
impl From<::sqlx::Error> for Error {
    fn from(error: ::sqlx::Error) -> Self {
        let said =
            error.as_database_error().and_then(|said| said.try_downcast_ref::<PgDatabaseError>()).map(|said| Said {
                sqlstate: Some(said.code()),
                column: said.column(),
                message: said.message(),
                detail: said.detail(),
                hint: said.hint(),
            });
        said.and_then(|said| said.by_the_outbox()).unwrap_or(Error::Database(error))
    }
}
