//! What a scenario asks of an application, whatever library it uses.

use std::fmt::Display;

use hapax_client::content::Any;
use hapax_client::{Cancellation, Delivery, Error, Notification};
use uuid::Uuid;

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Commit,
    /// The application changes its mind after it has enqueued.
    Rollback,
}

/// An error with the driver's own part as text.
pub(crate) type Failure = Error<String>;

pub(crate) fn plain<D: Display>(error: Error<D>) -> Failure {
    match error {
        Error::Refused { sqlstate, argument, message, hint } => Error::Refused { sqlstate, argument, message, hint },
        Error::DedupConflict { first, message, hint } => Error::DedupConflict { first, message, hint },
        Error::Database(error) => Error::Database(error.to_string()),
        Error::Answer(error) => Error::Answer(error),
        _ => unreachable!("no other kind of error"),
    }
}

/// An application with a connection.
pub(crate) trait Application: Sized {
    /// Whether the library's errors carry the SQLSTATE.
    const HAS_SQLSTATE: bool = true;

    async fn connect(url: &str) -> Self;

    /// One transaction: an order of that customer and a notification. What fails in it rolls it back.
    async fn order(&mut self, customer: &str, notification: &Notification<Any>, end: End) -> Result<Uuid, Failure>;

    /// Without a transaction of the application's.
    async fn enqueue(&mut self, notification: &Notification<Any>) -> Result<Uuid, Failure>;

    async fn enqueue_many(&mut self, notifications: &[Notification<Any>]) -> Result<Vec<Uuid>, Failure>;

    async fn status(&mut self, id: Uuid) -> Result<Vec<Delivery>, Failure>;

    async fn cancel(&mut self, id: Uuid, reason: &str) -> Result<Vec<Cancellation>, Failure>;
}

pub(crate) const ORDER: &str = "INSERT INTO orders (email, total) VALUES ($1, '19.90')";
