//! Applications that enqueue through every door, roll back, lose their connection, repeat what they may have said, and
//! change their minds.
//!
//! Invariants: each recipient's address occurs in one notification only, but for what may be gathered, so the mail server can
//! tell deliveries apart, of those by their messages alone;
//! what is counted as committed was answered so by Postgres.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fastrand::Rng;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::{BACKLOG_MAX, World, around, controls};

/// How many there are.
pub(super) const COUNT: usize = 4;

/// Notifications in a transaction, at most.
const BATCH_MAX: usize = 16;

/// What one producer, or all of them, did.
#[derive(Debug, Default)]
pub struct Produced {
    /// Committed: id and number of deliveries.
    pub committed: Vec<(Uuid, usize)>,
    /// Rolled back, whatever way.
    pub rolled_back: Vec<Uuid>,
    /// Whose COMMIT had no answer: both is right.
    pub unanswered: Vec<Uuid>,
    /// Requests that were repeated with their dedup key and got the first id.
    pub repeated: usize,
    /// Repeated requests that got another id: a breach.
    pub repeated_wrongly: Vec<String>,
    /// Cancelled deliveries.
    pub cancelled: i64,
}

impl Produced {
    /// Adds what another one did.
    pub(super) fn add(&mut self, other: Self) {
        self.committed.extend(other.committed);
        self.rolled_back.extend(other.rolled_back);
        self.unanswered.extend(other.unanswered);
        self.repeated += other.repeated;
        self.repeated_wrongly.extend(other.repeated_wrongly);
        self.cancelled += other.cancelled;
    }

    /// Deliveries that were committed.
    #[must_use]
    pub fn deliveries(&self) -> usize {
        self.committed.iter().map(|(_, deliveries)| deliveries).sum()
    }
}

/// One notification as SQL: the arguments of `outbox.enqueue` by name.
struct Note {
    arguments: Vec<(&'static str, String)>,
    deliveries: usize,
}

impl Note {
    fn random(producer: usize, serial: usize, controls: bool, random: &mut Rng) -> Self {
        let deliveries = if random.u8(0..6) == 0 { random.usize(2..=4) } else { 1 };
        let address = |n: usize| format!("'p{producer}-{serial}-{n}@example.org'");
        let all: Vec<String> = (0..deliveries).map(address).collect();
        let body = ["one", ".\n..\n.\n", "a\n.\nb\r\n.\r\n", "Grüße ☕\n"][random.usize(0..4)];
        let mut arguments = if controls { controls::arguments(random) } else { vec![("kind", "'storm'".to_owned())] };
        if controls && random.u8(0..6) == 0 {
            arguments = Vec::from(controls::drizzle(producer, serial, deliveries));
        } else {
            arguments.extend([
                ("recipients", format!("ARRAY[{}]", all.join(", "))),
                ("subject", format!("'Storm {producer}-{serial}'")),
                ("body_text", format!("'{body}'")),
            ]);
        }
        match random.u8(0..20) {
            0 => arguments.push(("priority", "'urgent'".into())),
            1 | 2 => arguments.push(("priority", "'bulk'".into())),
            // A key lives for a while; its head may come into doubt, and then its tail waits.
            3 => arguments.push(("ordering_key", format!("'key-{producer}-{}'", serial / 100))),
            4 => arguments.push(("on_doubt", "'resend'".into())),
            5 => arguments.push(("on_doubt", "'assume_sent'".into())),
            6 | 7 => arguments.push(("dedup_key", format!("'event-{producer}-{serial}'"))),
            _ => {}
        }
        Self { arguments, deliveries }
    }

    fn has_key(&self) -> bool {
        self.arguments.iter().any(|(name, _)| *name == "dedup_key")
    }

    fn call(&self) -> String {
        let named: Vec<String> = self.arguments.iter().map(|(name, value)| format!("{name} => {value}")).collect();
        format!("outbox.enqueue({})", named.join(", "))
    }
}

/// Produces until enough has been committed by all and the storm is over.
pub(super) async fn produce(world: Arc<World>, number: usize) -> Produced {
    let mut random = world.plan.random(100 + number as u64);
    let mut produced = Produced::default();
    let mut client = connect(&world).await;
    let (mut serial, mut next) = (0, tokio::time::Instant::now());
    // Three of sixteen transactions come to nothing.
    let share = world.plan.deliveries as f64 * 16.0 / 13.0 / COUNT as f64 / world.plan.duration.as_secs_f64();
    while !world.is_over() {
        let notes: Vec<Note> = (0..random.usize(1..=BATCH_MAX))
            .map(|_| {
                serial += 1;
                Note::random(number, serial, world.plan.controls, &mut random)
            })
            .collect();
        let deliveries: usize = notes.iter().map(|note| note.deliveries).sum();
        let pause = around(Duration::from_secs_f64(deliveries as f64 / share), &mut random);
        let (door, fate) = (random.u8(0..3), random.u8(0..16));
        let second_thought = random.u8(0..6) == 0;
        // By the schedule, not by the time a transaction took.
        next += pause;
        tokio::time::sleep_until(next).await;
        while world.backlog.load(Ordering::Relaxed) > BACKLOG_MAX && !world.is_over() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if transact(&mut client, &notes, door, fate, &world, &mut produced).await.is_none() {
            client = connect(&world).await;
            continue;
        }
        if second_thought && change_mind(&client, &mut produced).await.is_none() {
            client = connect(&world).await;
        }
    }
    produced
}

async fn connect(world: &World) -> Client {
    let url = world.cluster.direct_url_for("postgres", "producer");
    loop {
        if let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await {
            tokio::spawn(connection);
            return client;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One transaction through one door; none when the connection is of no further use.
async fn transact(
    client: &mut Client,
    notes: &[Note],
    door: u8,
    fate: u8,
    world: &World,
    produced: &mut Produced,
) -> Option<()> {
    let transaction = client.transaction().await.ok()?;
    let sql = statement(notes, door);
    let rows = transaction.query(&sql, &[]).await;
    let ids: Vec<Uuid> = match &rows {
        Ok(rows) => rows.iter().map(|row| row.get(0)).collect(),
        // Refused by the statement is a mistake of ours; everything else is a lost connection.
        Err(error) if error.code().is_some_and(|code| code.code().starts_with("22H")) => panic!("{error:?}: {sql}"),
        Err(_) => return None,
    };
    match fate {
        0 | 1 => {
            produced.rolled_back.extend(ids);
            return transaction.rollback().await.ok();
        }
        2 => {
            // The producer dies in its transaction.
            produced.rolled_back.extend(ids);
            return None;
        }
        _ => {}
    }
    if transaction.commit().await.is_err() {
        produced.unanswered.extend(ids);
        return None;
    }
    let counts = notes.iter().map(|note| note.deliveries);
    produced.committed.extend(ids.iter().copied().zip(counts));
    world.committed.fetch_add(notes.iter().map(|note| note.deliveries).sum(), Ordering::Relaxed);
    // The webhook comes again: the same request, the same key, the first id.
    for (note, id) in notes.iter().zip(&ids).filter(|(note, _)| note.has_key()) {
        let row = client.query_one(&format!("SELECT {}", note.call()), &[]).await.ok()?;
        match row.get::<_, Uuid>(0) {
            again if again == *id => produced.repeated += 1,
            again => produced.repeated_wrongly.push(format!("{id} was repeated as {again}")),
        }
    }
    Some(())
}

fn statement(notes: &[Note], door: u8) -> String {
    let mut sql = String::new();
    match door {
        0 => {
            // VALUES keeps the order, and each call has a row of its own.
            for (n, note) in notes.iter().enumerate() {
                let _ = write!(sql, "{}SELECT {}", if n == 0 { "" } else { " UNION ALL " }, note.call());
            }
        }
        1 => {
            let object = |note: &Note| {
                let pairs: Vec<String> = note
                    .arguments
                    .iter()
                    .map(|(name, value)| {
                        format!("'{name}', {}", value.replace("ARRAY[", "json_build_array(").replace(']', ")"))
                    })
                    .collect();
                format!("json_build_object({})", pairs.join(", "))
            };
            let objects: Vec<String> = notes.iter().map(object).collect();
            let _ = write!(
                sql,
                "SELECT id FROM outbox.enqueue_many(json_build_array({})) ORDER BY ordinal",
                objects.join(", ")
            );
        }
        _ => {
            // One INSERT each, in one statement, in order.
            for (n, note) in notes.iter().enumerate() {
                let names: Vec<&str> = note.arguments.iter().map(|(name, _)| *name).collect();
                let values: Vec<&str> = note.arguments.iter().map(|(_, value)| value.as_str()).collect();
                let _ = write!(
                    sql,
                    "{} i{n} AS (INSERT INTO outbox.notification ({}) VALUES ({}) RETURNING id)",
                    if n == 0 { "WITH" } else { "," },
                    names.join(", "),
                    values.join(", ")
                );
            }
            for n in 0..notes.len() {
                let _ = write!(sql, "{} SELECT id FROM i{n}", if n == 0 { "" } else { " UNION ALL" });
            }
        }
    }
    sql
}

/// Cancels one of the last notifications; whatever it answers is right.
async fn change_mind(client: &Client, produced: &mut Produced) -> Option<()> {
    let Some((id, _)) = produced.committed.last().copied() else { return Some(()) };
    let sql = "SELECT count(*) FILTER (WHERE result = 'cancelled') FROM outbox.cancel($1, 'a second thought')";
    match client.query_one(sql, &[&id]).await {
        Ok(row) => produced.cancelled += row.get::<_, i64>(0),
        Err(error) if error.code().is_some() && !client.is_closed() => {}
        Err(_) => return None,
    }
    Some(())
}
