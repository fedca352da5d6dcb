//! Enqueue with `tokio-postgres` and what is built on it, such as deadpool-postgres or bb8.
//!
//! Everything takes a `Transaction` or a `Client`. Give it the transaction that the notification belongs to; with a
//! client outside of one the notification is enqueued at once. A pool's wrappers need one more star: `&**client`,
//! `&*transaction`.
//!
//! Statements are sent unnamed and with their types: one round trip each, and nothing that a pooler such as PgBouncer
//! would have to know about.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let database_url = hapax_tests::shop::Shop::open().await?.url();
//! # let (mut client, connection) = tokio_postgres::connect(&database_url, tokio_postgres::NoTls).await?;
//! # tokio::spawn(connection);
//! use hapax_client::{Notification, tokio_postgres as outbox};
//!
//! let transaction = client.transaction().await?;
//! transaction.execute("INSERT INTO orders (email, total) VALUES ($1, $2)", &[&"ada@example.org", &"19.90"]).await?;
//! let confirmation = Notification::new("order_confirmed", "ada@example.org")
//!     .subject("Your order 42")
//!     .body_text("Thank you.")
//!     .dedup_key("order-42-confirmed");
//! let id = outbox::enqueue(&transaction, &confirmation).await?;
//! transaction.commit().await?;
//!
//! // The event happens again, in code that may run twice: the same id, and no second mail.
//! assert_eq!(outbox::enqueue(&client, &confirmation).await?, id);
//!
//! let deliveries = outbox::status(&client, id).await?;
//! assert_eq!(deliveries[0].state, hapax_client::State::Pending);
//! # Ok(())
//! # }
//! ```

use ::tokio_postgres::GenericClient;
use ::tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use crate::arguments::{self, Statement, Value};
use crate::content::Content;
use crate::error::Said;
use crate::notification::Notification;
use crate::outcome::{self, Cancellation, Delivery};

/// What can go wrong with this driver.
pub type Error = crate::Error<::tokio_postgres::Error>;

/// Enqueues one notification and returns the message id: with a repeated dedup key the first one's.
///
/// # Errors
/// See [`Error`](crate::Error).
pub async fn enqueue<C: Content>(
    client: &(impl GenericClient + Sync),
    notification: &Notification<C>,
) -> Result<Uuid, Error> {
    outcome::id(lines(client, &arguments::enqueue(notification)?).await?)
}

/// Enqueues up to 10,000 notifications with one statement, all or none, and returns their message ids in order. Three
/// times as fast as one by one; a refusal says which element it is about.
///
/// # Errors
/// See [`Error`](crate::Error).
pub async fn enqueue_many<C: Content>(
    client: &(impl GenericClient + Sync),
    notifications: &[Notification<C>],
) -> Result<Vec<Uuid>, Error> {
    outcome::ids(lines(client, &arguments::enqueue_many(notifications)?).await?)
}

/// What became of a message: one row for each of its deliveries. None when there is no such message, or when it belongs
/// to a transaction that has not been committed yet.
///
/// # Errors
/// See [`Error`](crate::Error).
pub async fn status(client: &(impl GenericClient + Sync), id: Uuid) -> Result<Vec<Delivery>, Error> {
    outcome::rows(lines(client, &outcome::status(id)).await?)
}

/// Stops what is not being sent yet, and says for each delivery whether that was in time. The reason is kept.
///
/// # Errors
/// See [`Error`](crate::Error); an unknown id is refused.
pub async fn cancel(client: &(impl GenericClient + Sync), id: Uuid, reason: &str) -> Result<Vec<Cancellation>, Error> {
    outcome::rows(lines(client, &outcome::cancel(id, reason)).await?)
}

async fn lines(client: &(impl GenericClient + Sync), statement: &Statement<'_>) -> Result<Vec<String>, Error> {
    let parameters: Vec<(&(dyn ToSql + Sync), Type)> = statement
        .values
        .iter()
        .map(|value| match value {
            Value::Text(text) => (text as &(dyn ToSql + Sync), Type::TEXT),
            Value::Texts(texts) => (texts as &(dyn ToSql + Sync), Type::TEXT_ARRAY),
            Value::Bytes(bytes) => (bytes as &(dyn ToSql + Sync), Type::BYTEA),
        })
        .collect();
    let rows = client.query_typed(&statement.sql, &parameters).await?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(Error::Database)
}

/// For applications' own statements beside ours: a function, or a transaction's closure, needs one type of error only.
impl From<::tokio_postgres::Error> for Error {
    fn from(error: ::tokio_postgres::Error) -> Self {
        let said = error.as_db_error().map(|said| Said {
            sqlstate: Some(said.code().code()),
            column: said.column(),
            message: said.message(),
            detail: said.detail(),
            hint: said.hint(),
        });
        said.and_then(|said| said.by_the_outbox()).unwrap_or(Error::Database(error))
    }
}
