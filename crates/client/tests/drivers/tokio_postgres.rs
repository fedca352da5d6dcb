//! An application that uses tokio-postgres.

use std::time::{Duration, UNIX_EPOCH};

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

#[tokio::test]
async fn what_another_schema_calls_like_postgres_is_not_taken_for_it() {
    let shop = hapax_tests::shop::Shop::open().await.unwrap();
    let evil = "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;
                CREATE FUNCTION evil.trap() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
                CREATE DOMAIN evil.text AS pg_catalog.text CHECK (evil.trap());
                CREATE DOMAIN evil.uuid AS pg_catalog.uuid CHECK (evil.trap());
                CREATE DOMAIN evil.jsonb AS pg_catalog.jsonb CHECK (evil.trap());
                CREATE FUNCTION evil.times(numeric, int) RETURNS numeric RETURN CASE WHEN evil.trap() THEN 1 END;
                CREATE OPERATOR evil.* (LEFTARG = numeric, RIGHTARG = int, FUNCTION = evil.times);
                CREATE FUNCTION evil.json_build_object(pg_catalog.text, int, pg_catalog.text, pg_catalog.text) RETURNS json
                  LANGUAGE sql AS $$ SELECT CASE WHEN evil.trap() THEN '{}'::json END $$";
    shop.superuser().await.unwrap().batch_execute(evil).await.unwrap();
    let client = Client::connect(&shop.url()).await;
    client.batch_execute("SET search_path = evil, pg_catalog").await.unwrap();
    let letter = || {
        let letter = Notification::new("greeting", "ada@example.org").subject("Hello").body_text("Hello.");
        letter.header("X-Shop", "1").not_before(UNIX_EPOCH + Duration::from_secs(4_000_000_000))
    };
    let id = outbox::enqueue(&client, &letter()).await.unwrap();
    outbox::enqueue_many(&client, &[letter().into_any()]).await.unwrap();
    assert_eq!(outbox::status(&client, id).await.unwrap().len(), 1);
    assert_eq!(outbox::cancel(&client, id, "no more").await.unwrap().len(), 1);
}
