//! An application that uses diesel.
//!
//! Its connection is diesel-async's blocking wrapper, which is a diesel connection to Postgres like any other to what is
//! tested here, and needs no libpq to be built.

use diesel::{Connection as _, RunQueryDsl as _};
use diesel_async::AsyncPgConnection;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use hapax_client::content::Any;
use hapax_client::{Cancellation, Delivery, Error, Notification, diesel as outbox};
use uuid::Uuid;

use crate::application::{Application, End, Failure, ORDER, plain};

type Connection = AsyncConnectionWrapper<AsyncPgConnection>;

/// A blocking application, on a thread where it may block.
struct Blocking(Option<Connection>);

scenarios!(Blocking);

impl Blocking {
    async fn run<T: Send + 'static>(&mut self, work: impl FnOnce(&mut Connection) -> T + Send + 'static) -> T {
        let mut connection = self.0.take().unwrap();
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&mut connection);
            (connection, result)
        });
        let (connection, result) = done.await.unwrap();
        self.0 = Some(connection);
        result
    }
}

impl Application for Blocking {
    const HAS_SQLSTATE: bool = false;

    async fn connect(url: &str) -> Self {
        let url = url.to_owned();
        let connection = tokio::task::spawn_blocking(move || Connection::establish(&url).unwrap()).await.unwrap();
        Self(Some(connection))
    }

    async fn order(&mut self, customer: &str, notification: &Notification<Any>, end: End) -> Result<Uuid, Failure> {
        let (customer, notification) = (customer.to_owned(), notification.clone());
        self.run(move |connection| {
            let mut enqueued = None;
            let result = connection.transaction(|connection| {
                let order = diesel::sql_query(ORDER).bind::<diesel::sql_types::Text, _>(customer);
                order.execute(connection)?;
                let id = outbox::enqueue(connection, &notification)?;
                enqueued = Some(id);
                match end {
                    End::Commit => Ok(id),
                    End::Rollback => Err(Error::Database(diesel::result::Error::RollbackTransaction)),
                }
            });
            match (result, enqueued) {
                (Err(Error::Database(diesel::result::Error::RollbackTransaction)), Some(id)) => Ok(id),
                (result, _) => result.map_err(plain),
            }
        })
        .await
    }

    async fn enqueue(&mut self, notification: &Notification<Any>) -> Result<Uuid, Failure> {
        let notification = notification.clone();
        self.run(move |connection| outbox::enqueue(connection, &notification).map_err(plain)).await
    }

    async fn enqueue_many(&mut self, notifications: &[Notification<Any>]) -> Result<Vec<Uuid>, Failure> {
        let notifications = notifications.to_vec();
        self.run(move |connection| outbox::enqueue_many(connection, &notifications).map_err(plain)).await
    }

    async fn status(&mut self, id: Uuid) -> Result<Vec<Delivery>, Failure> {
        self.run(move |connection| outbox::status(connection, id).map_err(plain)).await
    }

    async fn cancel(&mut self, id: Uuid, reason: &str) -> Result<Vec<Cancellation>, Failure> {
        let reason = reason.to_owned();
        self.run(move |connection| outbox::cancel(connection, id, &reason).map_err(plain)).await
    }
}
