//! The sample shop: an application as it could be anybody's. It knows its own table and `outbox.enqueue`, nothing else.
//!
//! Each request inserts an order and enqueues its notification in one transaction. One in ten is rolled back at the
//! end, one in ten is made twice, as by a client that did not get the first answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::Progress;

/// How many requests are served at once.
pub(super) const ASSISTANTS: u32 = 8;

const NAMES: [&str; 8] = [
    "Ada Lovelace",
    "Jürgen Müller",
    "Zoë Krüger",
    "李明",
    "Søren Kierkegaard",
    "Фёдор Достоевский",
    "Anaïs Nin",
    "Grace Hopper",
];

const TEAS: [(&str, u32); 5] =
    [("Oolong", 890), ("Earl Grey", 650), ("Genmaicha", 720), ("Darjeeling", 1190), ("Thé à la menthe", 540)];

const INSERT: &str =
    "INSERT INTO shop.orders (id, customer, total) VALUES ($1, $2, $3::text::numeric) ON CONFLICT DO NOTHING";
const ENQUEUE: &str = "SELECT outbox.enqueue(kind => 'order_confirmed', recipients => $1, payload => $2::text, \
     cc => $3, dedup_key => $4)";

/// What the shop knows when it closes.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// The message and the addresses of each committed order.
    pub(super) committed: Vec<(Uuid, Vec<String>)>,
    /// The messages of transactions that were rolled back.
    pub(super) rolled_back: Vec<Uuid>,
    /// Requests that were made twice.
    pub(super) repeated: u32,
    /// Repeats that got another message than the first.
    pub(super) repeated_otherwise: u32,
}

/// One request.
struct Request {
    number: i64,
    to: Vec<String>,
    cc: Option<Vec<String>>,
    total: String,
    payload: String,
}

impl Request {
    fn new(number: u32) -> Self {
        let name = NAMES[number as usize % NAMES.len()];
        let (tea, cents) = TEAS[number as usize % TEAS.len()];
        let quantity = number % 3 + 1;
        let price = |cents: u32| format!("{}.{:02} EUR", cents / 100, cents % 100);
        let mut to = vec![format!("{name} <customer-{number}@example.org>")];
        if number % 8 == 5 {
            to.push(format!("Partner <partner-{number}@example.net>"));
        }
        let payload = json!({
            "order_id": number,
            "name": name,
            "items": [{ "quantity": quantity, "name": tea, "price": price(cents) }],
            "total": price(quantity * cents),
        });
        Self {
            number: i64::from(number),
            to,
            cc: (number % 8 == 1).then(|| vec![format!("accounts-{number}@example.com")]),
            total: format!("{}.{:02}", quantity * cents / 100, quantity * cents % 100),
            payload: payload.to_string(),
        }
    }

    fn addresses(&self) -> Vec<String> {
        let bare = |mailbox: &String| match mailbox.rsplit_once('<') {
            Some((_, address)) => address.trim_end_matches('>').to_owned(),
            None => mailbox.clone(),
        };
        self.to.iter().chain(self.cc.iter().flatten()).map(bare).collect()
    }

    /// One transaction; answers the message's id, whether it was committed or not.
    async fn serve(&self, client: &mut Client, commit: bool) -> Result<Uuid, tokio_postgres::Error> {
        let transaction = client.transaction().await?;
        transaction.execute(INSERT, &[&self.number, &self.to[0], &self.total]).await?;
        let key = format!("order-{}-confirmed", self.number);
        let row = transaction.query_one(ENQUEUE, &[&self.to, &self.payload, &self.cc, &key]).await?;
        if commit {
            transaction.commit().await?;
        } else {
            transaction.rollback().await?;
        }
        Ok(row.get(0))
    }
}

/// Serves `messages` requests, several at a time, with a pause after each.
pub(super) async fn open(url: String, messages: u32, pace: Duration, progress: Arc<Progress>) -> anyhow::Result<Books> {
    let next = Arc::new(AtomicU32::new(0));
    let mut assistants = JoinSet::new();
    for _ in 0..ASSISTANTS.min(messages) {
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.context("the shop has no database")?;
        tokio::spawn(connection);
        assistants.spawn(assist(client, next.clone(), messages, pace, progress.clone()));
    }
    let mut books = Books::default();
    while let Some(ended) = assistants.join_next().await {
        let own = ended.context("an assistant of the shop panicked")??;
        books.committed.extend(own.committed);
        books.rolled_back.extend(own.rolled_back);
        books.repeated += own.repeated;
        books.repeated_otherwise += own.repeated_otherwise;
    }
    Ok(books)
}

async fn assist(
    mut client: Client,
    next: Arc<AtomicU32>,
    messages: u32,
    pace: Duration,
    progress: Arc<Progress>,
) -> anyhow::Result<Books> {
    let mut books = Books::default();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= messages {
            return Ok(books);
        }
        let request = Request::new(number);
        let commit = number % 10 != 3;
        let id = request.serve(&mut client, commit).await.context("a transaction of the shop failed")?;
        if !commit {
            books.rolled_back.push(id);
        } else {
            books.committed.push((id, request.addresses()));
        }
        if number % 10 == 7 {
            let again = request.serve(&mut client, true).await.context("a repeated transaction of the shop failed")?;
            books.repeated += 1;
            books.repeated_otherwise += u32::from(again != id);
        }
        progress.orders.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(pace).await;
    }
}
