//! An application that uses diesel-async.

use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use hapax_client::content::Any;
use hapax_client::{Cancellation, Delivery, Error, Notification, diesel_async as outbox};
use uuid::Uuid;

use crate::application::{Application, End, Failure, ORDER, plain};

scenarios!(AsyncPgConnection);

impl Application for AsyncPgConnection {
    const HAS_SQLSTATE: bool = false;

    async fn connect(url: &str) -> Self {
        <Self as diesel_async::AsyncConnection>::establish(url).await.unwrap()
    }

    async fn order(&mut self, customer: &str, notification: &Notification<Any>, end: End) -> Result<Uuid, Failure> {
        let mut enqueued = None;
        let result = self
            .transaction(async |connection| {
                let order = diesel::sql_query(ORDER).bind::<diesel::sql_types::Text, _>(customer);
                order.execute(connection).await?;
                let id = outbox::enqueue(connection, notification).await?;
                enqueued = Some(id);
                match end {
                    End::Commit => Ok(id),
                    End::Rollback => Err(Error::Database(diesel::result::Error::RollbackTransaction)),
                }
            })
            .await;
        match (result, enqueued) {
            (Err(Error::Database(diesel::result::Error::RollbackTransaction)), Some(id)) => Ok(id),
            (result, _) => result.map_err(plain),
        }
    }

    async fn enqueue(&mut self, notification: &Notification<Any>) -> Result<Uuid, Failure> {
        outbox::enqueue(self, notification).await.map_err(plain)
    }

    async fn enqueue_many(&mut self, notifications: &[Notification<Any>]) -> Result<Vec<Uuid>, Failure> {
        outbox::enqueue_many(self, notifications).await.map_err(plain)
    }

    async fn status(&mut self, id: Uuid) -> Result<Vec<Delivery>, Failure> {
        outbox::status(self, id).await.map_err(plain)
    }

    async fn cancel(&mut self, id: Uuid, reason: &str) -> Result<Vec<Cancellation>, Failure> {
        outbox::cancel(self, id, reason).await.map_err(plain)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn its_futures_go_to_other_threads() {
    let shop = hapax_tests::shop::Shop::open().await.unwrap();
    let mut connection = AsyncPgConnection::connect(&shop.url()).await;
    let work = async move {
        let letter = Notification::new("greeting", "ada@example.org").subject("Hello").body_text("Hello.");
        let id = outbox::enqueue(&mut connection, &letter).await.unwrap();
        outbox::status(&mut connection, id).await.unwrap().len()
    };
    assert_eq!(tokio::spawn(work).await.unwrap(), 1);
}
