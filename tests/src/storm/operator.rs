//! Somebody who decides doubts: now and then during the storm, and at the end what others wait for.
//!
//! Invariant: by force only where the harness itself has killed the relay's process; a doubt of a relay that may be alive
//! is left alone.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio_postgres::Client;
use uuid::Uuid;

use super::{World, around};

const VERDICTS: [&str; 3] = ["sent", "resend", "failed"];

const DOUBTS_OF_SOMEBODY: &str = "SELECT q.message_id, q.recipient_no::int, q.intent, r.pid
     FROM outbox.queue q JOIN outbox.message m ON m.id = q.message_id JOIN outbox.relay r ON r.incarnation = q.intent_by
     WHERE q.parked = 'doubt' AND m.on_doubt IS NULL AND q.doubt_by = 'reaper' ORDER BY q.doubt_since LIMIT 20";

/// Decides a doubt every few seconds until the storm is over.
pub(super) async fn decide_now_and_then(world: Arc<World>) {
    let mut random = world.plan.random(3);
    let mut sql = world.sql().await;
    while !world.is_over() {
        let (pause, verdict) = (around(Duration::from_secs(2), &mut random), VERDICTS[random.usize(0..3)]);
        tokio::time::sleep(pause).await;
        let Ok(rows) = sql.query(DOUBTS_OF_SOMEBODY, &[]).await else {
            sql = world.sql().await;
            continue;
        };
        let dead = rows.iter().find(|row| world.was_killed(row.get(3)));
        if let Some(row) = dead
            && resolve(&sql, (row.get(0), row.get(1), row.get(2)), verdict).await.is_some()
        {
            world.note("doubt decided by a person");
        }
    }
}

async fn resolve(sql: &Client, (id, recipient, token): (Uuid, i32, Uuid), verdict: &str) -> Option<()> {
    let resolve = "SELECT outbox.resolve($1, $2, $3, 'the storm has decided', token => $4, force => true)";
    sql.query_one(resolve, &[&id, &recipient, &verdict, &token]).await.ok().map(drop)
}

/// When all is calm: releases what was held because relays died of it, and decides the doubts that block ordering keys.
/// Answers whether there was anything to do.
pub(super) async fn unblock(sql: &Client, random: &mut Rng) -> bool {
    let release =
        "SELECT outbox.release(message_id, 'the storm is over') FROM outbox.queue WHERE parked IN ('poison', 'held')";
    let released = sql.query(release, &[]).await.expect("what is held can be released");
    let heads = "SELECT q.message_id, q.recipient_no::int, q.intent FROM outbox.queue q
         WHERE q.parked = 'doubt' AND q.order_key IS NOT NULL
           AND EXISTS (SELECT FROM outbox.queue w WHERE w.order_key = q.order_key AND w.parked = 'ordered')";
    let heads = sql.query(heads, &[]).await.expect("heads can be read");
    for row in &heads {
        // All relays that were killed are gone, and those that live have settled theirs.
        let verdict = VERDICTS[random.usize(0..3)];
        resolve(sql, (row.get(0), row.get(1), row.get(2)), verdict).await.expect("a doubt can be resolved");
    }
    !(released.is_empty() && heads.is_empty())
}
