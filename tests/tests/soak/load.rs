//! A producer with a steady hand: so many notifications in every second, of four forms, whatever the database does
//! meanwhile. What it could not commit it repeats with its dedup key, so that each is there once.

use std::sync::Arc;
use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use hapax_testkit::PgCluster;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_postgres::Client;

use super::World;

/// Every so many notifications have an attachment, or one that is too large for memory.
const ATTACHED_EVERY: usize = 50;
const LARGE_EVERY: usize = 400;
const ATTACHED_BYTES: usize = 100_000;
const LARGE_BYTES: usize = 1_500_000;

const NOTE: &str =
    "SELECT outbox.enqueue(kind => 'note_' || $1::int % 3, recipients => ARRAY['s' || $1::int || '@example.org'],
    subject => 'Soak ' || $1::int, body_text => E'one\\n.\\n.two\\n', dedup_key => 'soak-' || $1::int)";
const FORM: &str = "SELECT outbox.enqueue(kind => 'order_confirmed', recipients => ARRAY['s' || $1::int || '@example.org'],
    payload => json_build_object('order_id', $1::int, 'name', 'Ada', 'items', json_build_array('Tea', 'Cup')), dedup_key => 'soak-' || $1::int)";
const ATTACHED: &str = "SELECT outbox.enqueue(kind => 'report', recipients => ARRAY['s' || $1::int || '@example.org'],
    subject => 'Soak ' || $1::int, body_html => '<p>See</p>', dedup_key => 'soak-' || $1::int,
    attachments => jsonb_build_array(jsonb_build_object('filename', 'report.bin', 'content_base64', $2::text)))";

/// Enqueues until it is over; answers how many.
pub(super) async fn produce(world: Arc<World>) -> usize {
    let mut random = world.plan.random(1);
    let mut noise = |bytes| STANDARD.encode((0..bytes).map(|_| random.u8(..)).collect::<Vec<_>>());
    let (attached, large) = (noise(ATTACHED_BYTES), noise(LARGE_BYTES));
    let mut ticks = interval(Duration::from_secs(1) / world.plan.rate);
    // What an outage held up comes after it, as it would from an application with a queue before it.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sql = connect(&world.stage.cluster).await;
    let mut number: usize = 0;
    while !world.is_over() {
        ticks.tick().await;
        number += 1;
        let content = if number.is_multiple_of(LARGE_EVERY) { &large } else { &attached };
        while enqueue(&sql, number, content).await.is_err() {
            sql = connect(&world.stage.cluster).await;
        }
    }
    number
}

async fn enqueue(sql: &Client, number: usize, content: &str) -> Result<(), tokio_postgres::Error> {
    let key = i32::try_from(number).expect("not so many");
    let answered = if number.is_multiple_of(ATTACHED_EVERY) {
        sql.query_one(ATTACHED, &[&key, &content]).await
    } else if number.is_multiple_of(5) {
        sql.query_one(FORM, &[&key]).await
    } else {
        sql.query_one(NOTE, &[&key]).await
    };
    if let Err(error) = &answered {
        // It crashed, is starting, or goes down; anything else is a mistake of this test.
        let away = error.as_db_error().is_none_or(|error| error.code().code().starts_with("57P"));
        assert!(away, "{error:?}");
    }
    answered.map(drop)
}

/// As soon as there is somebody to connect to.
async fn connect(cluster: &PgCluster) -> Client {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match cluster.client("postgres").await {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < deadline, "no database: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
