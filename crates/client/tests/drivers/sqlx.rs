//! An application that uses sqlx.

use hapax_client::content::Any;
use hapax_client::{Cancellation, Delivery, Notification, sqlx as outbox};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use crate::application::{Application, End, Failure, ORDER, plain};

scenarios!(PgPool);

impl Application for PgPool {
    async fn connect(url: &str) -> Self {
        PgPoolOptions::new().max_connections(1).connect(url).await.unwrap()
    }

    async fn order(&mut self, customer: &str, notification: &Notification<Any>, end: End) -> Result<Uuid, Failure> {
        let mut transaction = self.begin().await.unwrap();
        sqlx::query(ORDER).bind(customer).execute(&mut *transaction).await.unwrap();
        let id = outbox::enqueue(&mut *transaction, notification).await.map_err(plain)?;
        match end {
            End::Commit => transaction.commit().await.unwrap(),
            End::Rollback => transaction.rollback().await.unwrap(),
        }
        Ok(id)
    }

    async fn enqueue(&mut self, notification: &Notification<Any>) -> Result<Uuid, Failure> {
        let mut connection = self.acquire().await.unwrap();
        outbox::enqueue(&mut *connection, notification).await.map_err(plain)
    }

    async fn enqueue_many(&mut self, notifications: &[Notification<Any>]) -> Result<Vec<Uuid>, Failure> {
        outbox::enqueue_many(&*self, notifications).await.map_err(plain)
    }

    async fn status(&mut self, id: Uuid) -> Result<Vec<Delivery>, Failure> {
        outbox::status(&*self, id).await.map_err(plain)
    }

    async fn cancel(&mut self, id: Uuid, reason: &str) -> Result<Vec<Cancellation>, Failure> {
        outbox::cancel(&*self, id, reason).await.map_err(plain)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn its_futures_go_to_other_threads() {
    let shop = hapax_tests::shop::Shop::open().await.unwrap();
    let pool = PgPool::connect(&shop.url()).await.unwrap();
    let work = async move {
        let letter = Notification::new("greeting", "ada@example.org").subject("Hello").body_text("Hello.");
        let mut transaction = pool.begin().await.unwrap();
        let id = outbox::enqueue(&mut *transaction, &letter).await.unwrap();
        transaction.commit().await.unwrap();
        outbox::status(&pool, id).await.unwrap().len()
    };
    assert_eq!(tokio::spawn(work).await.unwrap(), 1);
}
