//! An application that uses tokio-postgres.

use hapax_client::content::Any;
use hapax_client::{Cancellation, Delivery, Notification, tokio_postgres as outbox};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::application::{Application, End, Failure, ORDER, plain};

scenarios!(Client);

impl Application for Client {
    async fn connect(url: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    async fn order(&mut self, customer: &str, notification: &Notification<Any>, end: End) -> Result<Uuid, Failure> {
        let transaction = self.transaction().await.unwrap();
        transaction.execute(ORDER, &[&customer]).await.unwrap();
        let id = outbox::enqueue(&transaction, notification).await.map_err(plain)?;
        match end {
            End::Commit => transaction.commit().await.unwrap(),
            End::Rollback => transaction.rollback().await.unwrap(),
        }
        Ok(id)
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
async fn its_futures_go_to_other_threads_and_a_savepoint_outlives_a_refusal() {
    let shop = hapax_tests::shop::Shop::open().await.unwrap();
    let mut client = Client::connect(&shop.url()).await;
    let work = async move {
        let letter = |to: &str| Notification::new("greeting", to).subject("Hello").body_text("Hello.");
        let mut transaction = client.transaction().await.unwrap();
        let savepoint = transaction.savepoint("attempt").await.unwrap();
        outbox::enqueue(&savepoint, &letter("nobody")).await.unwrap_err();
        savepoint.rollback().await.unwrap();
        let id = outbox::enqueue(&transaction, &letter("ada@example.org")).await.unwrap();
        transaction.commit().await.unwrap();
        outbox::status(&client, id).await.unwrap().len()
    };
    assert_eq!(tokio::spawn(work).await.unwrap(), 1);
}
