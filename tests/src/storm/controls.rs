//! Everything that controls delivery, switched on: rates and weights far above the load, a fallback, tenants, policies of
//! kinds; and somebody who pauses, resumes, suppresses and relents all the time.
//!
//! Invariant: when the storm is over nothing is paused any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio_postgres::Client;

use super::{World, around};
use crate::stage::{PATIENCE, Settings};

/// Of every storm that has controls: `main` shares with the default route, and both have a stand-in.
pub(super) fn switched_on(settings: Settings, port: u16) -> Settings {
    let url = format!("smtp://127.0.0.1:{port}?starttls=none");
    let from = format!("Shop <no-reply@{}>", crate::stage::DOMAIN);
    ["routes.backup", "routes.other"]
        .into_iter()
        .fold(settings, |settings, route| {
            settings.set(&format!("{route}.url"), &url).set(&format!("{route}.from"), &from)
        })
        .set("routes.default.rate", "2000/s")
        .set("routes.default.fallback", "backup")
        .set("routes.other.rate", "100000/min")
        .set("routes.other.fallback", "backup, default")
        .set("suppression.hard_bounces", true)
        .set("kinds.storm.on_block", "skip_after 2s")
        .set("kinds.squall.route", "other")
        .set("kinds.squall.priority", "bulk")
        .set("kinds.squall.failed_blocks", true)
}

/// Further arguments of one notification: whose it is, and of which kind.
pub(super) fn arguments(random: &mut Rng) -> (&'static str, Option<&'static str>) {
    let kind = if random.u8(0..4) == 0 { "'squall'" } else { "'storm'" };
    // One tenant has most of it.
    let tenant = ["'big'", "'big'", "'big'", "'big'", "'small'", "'least'"].get(random.usize(0..8)).copied();
    (kind, tenant)
}

/// What somebody does, and undoes a moment later.
const DEEDS: [(&str, &str); 6] = [
    ("outbox.pause(kind => 'squall', reason => 'storm')", "outbox.resume(kind => 'squall', reason => 'storm')"),
    ("outbox.pause(kind => 'storm', reason => 'storm')", "outbox.resume(kind => 'storm', reason => 'storm')"),
    ("outbox.pause(tenant => 'big', reason => 'storm')", "outbox.resume(tenant => 'big', reason => 'storm')"),
    ("outbox.pause(route => 'other', reason => 'storm')", "outbox.resume(route => 'other', reason => 'storm')"),
    (
        "outbox.pause(address => 'p0-7-0@example.org', reason => 'storm')",
        "outbox.resume(address => 'p0-7-0@example.org', reason => 'storm')",
    ),
    ("outbox.suppress('p1-9-0@example.org')", "outbox.unsuppress('p1-9-0@example.org', 'storm')"),
];

/// Does and undoes until the storm is over, however often the database goes away; then undoes everything.
pub(super) async fn meddle(world: Arc<World>) {
    if !world.plan.controls {
        return;
    }
    let mut random = world.plan.random(6);
    let mut sql = world.sql().await;
    while !world.is_over() {
        let (pause, time) = (around(Duration::from_millis(700), &mut random), random.u64(50..900));
        let (done, undone) = DEEDS[random.usize(0..DEEDS.len())];
        tokio::time::sleep(pause).await;
        if did(&sql, done).await {
            world.note(done.split('(').next().unwrap_or_default());
            tokio::time::sleep(Duration::from_millis(time)).await;
        }
        if !did(&sql, undone).await {
            sql = world.sql().await;
        }
    }
    // The database is well by now, but for a crash that it has not recovered from.
    for (_, undone) in DEEDS {
        let until = Instant::now() + PATIENCE;
        while !did(&sql, undone).await {
            assert!(Instant::now() < until, "it cannot be undone: {undone}");
            sql = world.sql().await;
        }
    }
}

async fn did(sql: &Client, deed: &str) -> bool {
    sql.query_one(&format!("SELECT {deed}"), &[]).await.is_ok()
}
