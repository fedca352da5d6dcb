//! Everything that controls delivery, switched on: rates far above the load, fallbacks, weights, envelope senders, tenants
//! and senders with routes of their own, a warm-up that is over, schedules, codes, guards, policies and quiet hours of kinds;
//! digests; and somebody who pauses, resumes, suppresses and relents all the time.
//!
//! Invariant: when the storm is over nothing is paused any more.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio_postgres::Client;

use super::{World, around};
use crate::stage::{DOMAIN, PATIENCE, Settings};

/// Of every storm that has controls: what the default route has it shares with `other`, and both have a stand-in. It is quiet
/// in hours that are far away. Of kind `drizzle` as much as may be is gathered, in `puddle`s; both are rendered from `templates`.
pub(super) fn switched_on(settings: Settings, port: u16, quiet_hours: &str, templates: &Path) -> Settings {
    for (kind, body) in [("drizzle", "{{ no }}"), ("puddle", "{% for item in items %}{{ item.no }}\n{% endfor %}")] {
        let directory = templates.join(kind);
        std::fs::create_dir(&directory).expect("it is new");
        std::fs::write(directory.join("subject.txt"), kind).expect("it can be written");
        std::fs::write(directory.join("body.txt"), body).expect("it can be written");
    }
    let url = format!("smtp://127.0.0.1:{port}?starttls=none");
    let from = format!("Shop <no-reply@{DOMAIN}>");
    ["routes.backup", "routes.other"]
        .into_iter()
        .fold(settings, |settings, route| {
            settings.set(&format!("{route}.url"), &url).set(&format!("{route}.from"), &from)
        })
        .set("routes.default.rate", "2000/s")
        .set("routes.default.fallback", "backup")
        .set("routes.default.weights.default", 3)
        .set("routes.default.weights.other", 1)
        .set("routes.default.envelope_sender", "bounces+{message_id}.{recipient_no}@shop.example")
        .set("routes.other.local_address", "127.0.0.1")
        .set("tenants.small.route", "other")
        // West of Greenwich: the hours are further away there.
        .set("tenants.small.time_zone", "America/St_Johns")
        .set(&format!("senders.\"{DOMAIN}\".route"), "other")
        .set("kinds.storm.quiet_hours", quiet_hours)
        .set("routes.other.warm_up.starts", "2020-01-01")
        .set("routes.other.warm_up.daily", "1, 10")
        .set("routes.other.retry.cap", "2s")
        .set("routes.other.retry.codes.\"5.7.99\"", "transient")
        .set("kinds.squall.retry.first", "100ms")
        .set("kinds.squall.guard_window", "10m")
        .set("kinds.squall.on_duplicate", "report")
        .set("routes.other.rate", "100000/min")
        .set("routes.other.fallback", "backup, default")
        .set("suppression.hard_bounces", true)
        .set("kinds.storm.on_block", "skip_after 2s")
        .set("kinds.squall.route", "other")
        .set("kinds.squall.priority", "bulk")
        .set("kinds.squall.failed_blocks", true)
        .set("templates.directory", templates.display())
        .set("kinds.drizzle.collect", "2s")
        .set("kinds.drizzle.collect_max", 5)
        .set("kinds.drizzle.collect_as", "puddle")
        .set("kinds.puddle.priority", "bulk")
}

/// Three hours that begin in three, by the clock of the database and in UTC.
pub(super) const FAR_HOURS: &str =
    "SELECT to_char(at + interval '3 hours', 'HH24:MI-') || to_char(at + interval '6 hours', 'HH24:MI')
    FROM (SELECT now() AT TIME ZONE 'UTC' AS at) x";

/// Further arguments of one notification: of which kind it is, and sometimes whose, and from whom.
pub(super) fn arguments(random: &mut Rng) -> Vec<(&'static str, String)> {
    let kind = if random.u8(0..4) == 0 { "'squall'" } else { "'storm'" };
    // One tenant has most of it.
    let tenant = ["'big'", "'big'", "'big'", "'big'", "'small'", "'least'"].get(random.usize(0..8)).copied();
    let sender = (random.u8(0..10) == 0).then(|| format!("'Other <mail@{DOMAIN}>'"));
    let mut given = vec![("kind", kind.to_owned())];
    given.extend(tenant.map(|tenant| ("tenant", tenant.to_owned())));
    given.extend(sender.map(|sender| ("sender", sender)));
    given
}

/// Instead of a kind, recipients and content: one that may be gathered, with others of the same readers.
pub(super) fn drizzle(producer: usize, serial: usize, readers: usize) -> [(&'static str, String); 3] {
    let all: Vec<String> = (0..readers).map(|n| format!("'d{producer}-{n}@example.org'")).collect();
    [
        ("kind", "'drizzle'".to_owned()),
        ("recipients", format!("ARRAY[{}]", all.join(", "))),
        ("payload", format!("json_build_object('no', '{producer}-{serial}')")),
    ]
}

/// What somebody does, and undoes a moment later.
const DEEDS: [(&str, &str); 8] = [
    ("outbox.pause(kind => 'squall', reason => 'storm')", "outbox.resume(kind => 'squall', reason => 'storm')"),
    ("outbox.pause(kind => 'storm', reason => 'storm')", "outbox.resume(kind => 'storm', reason => 'storm')"),
    ("outbox.pause(tenant => 'big', reason => 'storm')", "outbox.resume(tenant => 'big', reason => 'storm')"),
    ("outbox.pause(route => 'other', reason => 'storm')", "outbox.resume(route => 'other', reason => 'storm')"),
    (
        "outbox.pause(address => 'p0-7-0@example.org', reason => 'storm')",
        "outbox.resume(address => 'p0-7-0@example.org', reason => 'storm')",
    ),
    ("outbox.pause(kind => 'drizzle', reason => 'storm')", "outbox.resume(kind => 'drizzle', reason => 'storm')"),
    ("outbox.suppress('d0-0@example.org')", "outbox.unsuppress('d0-0@example.org', 'storm')"),
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
