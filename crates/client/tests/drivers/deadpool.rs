//! An application that uses deadpool-postgres: its wrappers lend what tokio-postgres has.

use deadpool_postgres::{Manager, Pool};
use hapax_client::content::Any;
use hapax_client::{Cancellation, Delivery, Notification, tokio_postgres as outbox};
use tokio_postgres::NoTls;
use uuid::Uuid;

use crate::application::{Application, End, Failure, ORDER, plain};

scenarios!(Pool);

impl Application for Pool {
    async fn connect(url: &str) -> Self {
        Pool::builder(Manager::new(url.parse().unwrap(), NoTls)).max_size(1).build().unwrap()
    }

    async fn order(&mut self, customer: &str, notification: &Notification<Any>, end: End) -> Result<Uuid, Failure> {
        let mut client = self.get().await.unwrap();
        let transaction = client.transaction().await.unwrap();
        transaction.execute(ORDER, &[&customer]).await.unwrap();
        let id = outbox::enqueue(&*transaction, notification).await.map_err(plain)?;
        match end {
            End::Commit => transaction.commit().await.unwrap(),
            End::Rollback => transaction.rollback().await.unwrap(),
        }
        Ok(id)
    }

    async fn enqueue(&mut self, notification: &Notification<Any>) -> Result<Uuid, Failure> {
        let client = self.get().await.unwrap();
        outbox::enqueue(&**client, notification).await.map_err(plain)
    }

    async fn enqueue_many(&mut self, notifications: &[Notification<Any>]) -> Result<Vec<Uuid>, Failure> {
        let client = self.get().await.unwrap();
        outbox::enqueue_many(&**client, notifications).await.map_err(plain)
    }

    async fn status(&mut self, id: Uuid) -> Result<Vec<Delivery>, Failure> {
        let client = self.get().await.unwrap();
        outbox::status(&**client, id).await.map_err(plain)
    }

    async fn cancel(&mut self, id: Uuid, reason: &str) -> Result<Vec<Cancellation>, Failure> {
        let client = self.get().await.unwrap();
        outbox::cancel(&**client, id, reason).await.map_err(plain)
    }
}
