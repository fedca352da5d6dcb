//! An order and its mail in one transaction, with tokio-postgres.
//!
//! Needs a database with the outbox (`hapax migrate up`) and a table
//! `orders (id bigint GENERATED ALWAYS AS IDENTITY, email text, total text)`:
//!
//! ```sh
//! DATABASE_URL=postgres://shop@127.0.0.1/shop cargo run -p hapax-client --example place_order
//! ```

use std::time::Duration;

use anyhow::Context as _;
use hapax_client::{Attachment, Error, Notification, OnDoubt, content, mailbox, tokio_postgres as outbox};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// What the customer gets. A function of its own: it needs no database to be tested, and whatever is built again for a
/// repeated event is the same.
fn confirmation(order_id: i64, customer: &str, total: &str) -> Notification<content::Body> {
    Notification::new("order_confirmed", customer)
        .sender(mailbox("The Shop", "no-reply@shop.example"))
        .subject(format!("Your order {order_id}"))
        .body_text(format!("Thank you. Total: {total}.\n"))
        .attachment(Attachment::new("order.csv", format!("order,total\n{order_id},{total}\n")).content_type("text/csv"))
        // The event has a name, so code that runs twice sends one mail.
        .dedup_key(format!("order-{order_id}-confirmed"))
        .dedup_ttl(Duration::from_secs(90 * 24 * 60 * 60))
        // Rather a second confirmation than none.
        .on_doubt(OnDoubt::Resend)
}

/// Writes the order and its notification: both, or neither.
async fn place_order(client: &mut Client, customer: &str, total: &str) -> anyhow::Result<(i64, Uuid)> {
    let transaction = client.transaction().await?;
    let sql = "INSERT INTO orders (email, total) VALUES ($1, $2) RETURNING id";
    let order_id: i64 = transaction.query_one(sql, &[&customer, &total]).await?.get(0);
    let id = match outbox::enqueue(&transaction, &confirmation(order_id, customer, total)).await {
        // The customer's doing: to be shown, not to be repeated. Leaving rolls back.
        Err(Error::Refused { argument, message, .. }) if argument == "recipients" => {
            anyhow::bail!("this is no address that mail can be sent to ({message})")
        }
        result => result?,
    };
    transaction.commit().await?;
    Ok((order_id, id))
}

/// Places an order, and tells what has become of its mail.
pub(crate) async fn run(database_url: &str) -> anyhow::Result<Uuid> {
    let (mut client, connection) = tokio_postgres::connect(database_url, NoTls).await?;
    tokio::spawn(connection);
    let (order_id, id) = place_order(&mut client, "ada@example.org", "19.90 EUR").await?;
    for delivery in outbox::status(&client, id).await? {
        println!("order {order_id}: mail to {} is {}", delivery.recipient, delivery.state);
    }
    Ok(id)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let database_url = std::env::var("DATABASE_URL").context("DATABASE_URL is not set")?;
    run(&database_url).await?;
    Ok(())
}
