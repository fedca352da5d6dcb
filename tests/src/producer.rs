//! An application that enqueues letters through every door, in transactions of which some come to nothing.

use fastrand::Rng;
use serde_json::{Value, json};
use tokio_postgres::{Client, Transaction};
use uuid::Uuid;

use crate::letters::{FORMS, Letter, letter};
use crate::stage::Stage;

/// The arguments as SQL expressions over the document `d`, by name.
const ARGUMENTS: [(&str, &str); 12] = [
    ("kind", "d ->> 'kind'"),
    ("recipients", "ARRAY(SELECT json_array_elements_text(d -> 'recipients'))"),
    ("payload", "(d -> 'payload')::json"),
    ("subject", "d ->> 'subject'"),
    ("body_text", "d ->> 'body_text'"),
    ("body_html", "d ->> 'body_html'"),
    ("raw_message", "decode(d ->> 'raw_message_base64', 'base64')"),
    ("sender", "d ->> 'sender'"),
    ("reply_to", "d ->> 'reply_to'"),
    ("cc", "CASE WHEN d -> 'cc' IS NOT NULL THEN ARRAY(SELECT json_array_elements_text(d -> 'cc')) END"),
    ("bcc", "CASE WHEN d -> 'bcc' IS NOT NULL THEN ARRAY(SELECT json_array_elements_text(d -> 'bcc')) END"),
    ("headers", "(d -> 'headers')::jsonb"),
];
const REST: [(&str, &str); 2] =
    [("attachments", "(d -> 'attachments')::jsonb"), ("priority", "coalesce(d ->> 'priority', 'normal')")];

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Produced {
    /// What was committed, with the ids.
    pub committed: Vec<(Uuid, Letter)>,
    /// The ids of what was rolled back.
    pub rolled_back: Vec<Uuid>,
    /// Transactions that were committed.
    pub commits: usize,
    /// Transactions and savepoints that were rolled back, or lost with their connection.
    pub rollbacks: usize,
}

/// Enqueues until `count` notifications have been committed, in transactions of 1 to 25; about every sixth comes to
/// nothing, one way or another.
///
/// # Panics
/// When the database refuses something.
pub async fn produce(stage: &Stage, count: usize, seed: u64) -> Produced {
    let mut random = Rng::with_seed(seed);
    let mut produced = Produced::default();
    let mut client = connect(stage).await;
    let mut next = 0;
    while produced.committed.len() < count {
        let size = random.usize(1..=25).min(count - produced.committed.len());
        let letters: Vec<Letter> = (next..next + size).map(letter).collect();
        next += size;
        let transaction = client.transaction().await.expect("a transaction begins");
        let ids = enqueue(&transaction, random.usize(0..3), &letters).await;
        match random.usize(0..12) {
            0 => {
                transaction.rollback().await.expect("rolls back");
                produced.rollbacks += 1;
                produced.rolled_back.extend(ids);
            }
            1 => {
                // The producer dies in its transaction.
                drop(transaction);
                client = connect(stage).await;
                produced.rollbacks += 1;
                produced.rolled_back.extend(ids);
            }
            2 => {
                // A second thought: the last ones were enqueued behind a savepoint.
                let mut transaction = transaction;
                let savepoint = transaction.savepoint("second_thought").await.expect("a savepoint");
                let more: Vec<Letter> = (next..next + 3).map(letter).collect();
                next += 3;
                let taken_back = enqueue(&savepoint, random.usize(0..3), &more).await;
                savepoint.rollback().await.expect("rolls back to it");
                transaction.commit().await.expect("commits");
                produced.commits += 1;
                produced.rollbacks += 1;
                produced.rolled_back.extend(taken_back);
                produced.committed.extend(ids.into_iter().zip(letters));
            }
            _ => {
                transaction.commit().await.expect("commits");
                produced.commits += 1;
                produced.committed.extend(ids.into_iter().zip(letters));
            }
        }
    }
    assert!(next > FORMS, "every form occurred");
    produced
}

async fn connect(stage: &Stage) -> Client {
    let url = stage.cluster.url_for("postgres", "producer");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("it takes a client");
    tokio::spawn(connection);
    client
}

async fn enqueue(transaction: &Transaction<'_>, door: usize, letters: &[Letter]) -> Vec<Uuid> {
    let mut ids = Vec::new();
    if door == 0 {
        let documents: Vec<&Value> = letters.iter().map(|letter| &letter.document).collect();
        let sql = "SELECT id FROM outbox.enqueue_many($1::text::json) ORDER BY ordinal";
        let rows = transaction.query(sql, &[&json!(documents).to_string()]).await;
        return rows.expect("enqueue_many takes them").iter().map(|row| row.get(0)).collect();
    }
    let all = || ARGUMENTS.into_iter().chain(REST);
    let sql = if door == 1 {
        let arguments: Vec<String> = all().map(|(name, value)| format!("{name} => {value}")).collect();
        format!("SELECT outbox.enqueue({}) FROM (SELECT $1::text::json AS d) x", arguments.join(", "))
    } else {
        let (names, values): (Vec<&str>, Vec<&str>) = all().unzip();
        let (names, values) = (names.join(", "), values.join(", "));
        format!(
            "INSERT INTO outbox.notification ({names}) SELECT {values} FROM (SELECT $1::text::json AS d) x RETURNING id"
        )
    };
    for letter in letters {
        let row = transaction.query_one(&sql, &[&letter.document.to_string()]).await;
        ids.push(row.unwrap_or_else(|error| panic!("{error:?}: {}", letter.document)).get(0));
    }
    ids
}
