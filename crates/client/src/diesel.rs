//! Enqueue with `diesel`.
//!
//! Everything takes a connection to Postgres, whatever its kind: diesel's own `PgConnection` or one from a pool. Call it
//! inside of `connection.transaction(...)`; outside of one the notification is enqueued at once. This crate needs no
//! libpq; `PgConnection` does.
//!
//! Diesel's errors do not carry SQLSTATEs, so refusals and conflicts are recognised by what they say.
//!
//! ```
//! use diesel::prelude::*;
//! use hapax_client::{Notification, diesel as outbox};
//!
//! # type PgConnection = diesel_async::async_connection_wrapper::AsyncConnectionWrapper<diesel_async::AsyncPgConnection>;
//! fn place_order(connection: &mut PgConnection, customer: &str) -> Result<uuid::Uuid, outbox::Error> {
//!     connection.transaction(|connection| {
//!         diesel::sql_query("INSERT INTO orders (email, total) VALUES ($1, '19.90')")
//!             .bind::<diesel::sql_types::Text, _>(customer)
//!             .execute(connection)?;
//!         let confirmation =
//!             Notification::new("order_confirmed", customer).subject("Your order 42").body_text("Thank you.");
//!         outbox::enqueue(connection, &confirmation)
//!     })
//! }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let runtime = tokio::runtime::Runtime::new()?;
//! # let database_url = runtime.block_on(hapax_tests::shop::Shop::open())?.url();
//! # let mut connection = PgConnection::establish(&database_url)?;
//! # let id = place_order(&mut connection, "ada@example.org")?;
//! # assert_eq!(outbox::status(&mut connection, id)?[0].state, hapax_client::State::Pending);
//! # Ok(())
//! # }
//! ```

use ::diesel::connection::LoadConnection;
use ::diesel::pg::Pg;
use ::diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use ::diesel::sql_types::{Array, Binary, Text};
use ::diesel::{QueryableByName, RunQueryDsl as _, sql_query};
use uuid::Uuid;

use crate::arguments::{self, Statement, Value};
use crate::content::Content;
use crate::error::Said;
use crate::notification::Notification;
use crate::outcome::{self, Cancellation, Delivery};

/// What can go wrong with this driver.
pub type Error = crate::Error<::diesel::result::Error>;

/// Enqueues one notification and returns the message id: with a repeated dedup key the first one's.
///
/// # Errors
/// See [`Error`](crate::Error).
pub fn enqueue<C: Content>(
    connection: &mut impl LoadConnection<Backend = Pg>,
    notification: &Notification<C>,
) -> Result<Uuid, Error> {
    outcome::id(lines(connection, arguments::enqueue(notification)?)?)
}

/// Enqueues up to 10,000 notifications with one statement, all or none, and returns their message ids in order. Three
/// times as fast as one by one; a refusal says which element it is about.
///
/// # Errors
/// See [`Error`](crate::Error).
pub fn enqueue_many<C: Content>(
    connection: &mut impl LoadConnection<Backend = Pg>,
    notifications: &[Notification<C>],
) -> Result<Vec<Uuid>, Error> {
    outcome::ids(lines(connection, arguments::enqueue_many(notifications)?)?)
}

/// What became of a message: one row for each of its deliveries. None when there is no such message, or when it belongs
/// to a transaction that has not been committed yet.
///
/// # Errors
/// See [`Error`](crate::Error).
pub fn status(connection: &mut impl LoadConnection<Backend = Pg>, id: Uuid) -> Result<Vec<Delivery>, Error> {
    outcome::rows(lines(connection, outcome::status(id))?)
}

/// Stops what is not being sent yet, and says for each delivery whether that was in time. The reason is kept.
///
/// # Errors
/// See [`Error`](crate::Error); an unknown id is refused.
pub fn cancel(
    connection: &mut impl LoadConnection<Backend = Pg>,
    id: Uuid,
    reason: &str,
) -> Result<Vec<Cancellation>, Error> {
    outcome::rows(lines(connection, outcome::cancel(id, reason))?)
}

fn lines(connection: &mut impl LoadConnection<Backend = Pg>, statement: Statement<'_>) -> Result<Vec<String>, Error> {
    let rows: Vec<Row> = query(statement).load(connection)?;
    Ok(rows.into_iter().map(|row| row.line).collect())
}

#[derive(QueryableByName)]
#[diesel(check_for_backend(Pg))]
pub(crate) struct Row {
    #[diesel(sql_type = Text)]
    pub(crate) line: String,
}

pub(crate) fn query(statement: Statement<'_>) -> BoxedSqlQuery<'_, Pg, SqlQuery> {
    let query = sql_query(statement.sql).into_boxed();
    statement.values.into_iter().fold(query, |query, value| match value {
        Value::Text(text) => query.bind::<Text, _>(text),
        Value::Texts(texts) => query.bind::<Array<Text>, _>(texts),
        Value::Bytes(bytes) => query.bind::<Binary, _>(bytes),
    })
}

/// For applications' own statements beside ours: a function, or a transaction's closure, needs one type of error only.
impl From<::diesel::result::Error> for Error {
    fn from(error: ::diesel::result::Error) -> Self {
        let ::diesel::result::Error::DatabaseError(_, said) = &error else { return Error::Database(error) };
        let said = Said {
            sqlstate: None,
            column: said.column_name(),
            message: said.message(),
            detail: said.details(),
            hint: said.hint(),
        };
        said.by_the_outbox().unwrap_or(Error::Database(error))
    }
}
