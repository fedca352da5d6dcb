//! The steady state: producers, two relays, upkeep and retention at work for half a year, made short, and no table or index
//! grows after the first quarter. Then the same with a transaction that holds an old snapshot all along.
//!
//! Time is made short by ids: `outbox.uuid_v7()` of this outbox runs so much faster, so that weeks fill, end and are
//! dropped in seconds. Everything else is as ever. Bounded here; by hand as long as one likes: `make steady`,
//! `HAPAX_STEADY_SECONDS` (half of them with the snapshot, or `HAPAX_STEADY_SNAPSHOT_SECONDS`), `HAPAX_STEADY_RATE`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hapax_testkit::{HapaxProcess, SmtpServer, eventually};
use hapax_tests::stage::{PATIENCE, Stage};
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;

/// How much time goes by, and how much of it is kept.
const WEEKS: f64 = 24.0;
const WEEKS_KEPT: f64 = 4.0;

/// Of each relation at the end, beside what it was in the second quarter. A page is a large part of a small one.
const GROWTH_MAX: f64 = 1.3;
const SLACK_BYTES: f64 = 256.0 * 1024.0;

/// Dead rows of all tables together: what autovacuum lets lie between two of its rounds.
const DEAD_MAX: i64 = 20_000;

/// Throughput with an old snapshot, beside that without.
const RATIO_MIN: f64 = 0.8;

const PRODUCERS: i32 = 2;
const IN_A_TRANSACTION: i32 = 20;

/// Producers wait while more is pending.
const PENDING_MAX: i64 = 500;

/// Every fifth has a dedup key; one of a transaction has an ordering key, and one is cancelled; half of the kinds keep their content.
const PRODUCE: &str = "WITH made AS (
      SELECT outbox.enqueue(kind => CASE i % 2 WHEN 0 THEN 'reset' ELSE 'law' END, recipients => ARRAY['s' || i || '@example.org'],
        subject => 'Steady ' || i, body_text => repeat(md5(random()::text), 60), dedup_key => CASE WHEN i % 5 = 0 THEN gen_random_uuid()::text END,
        dedup_ttl => CASE WHEN i % 5 = 0 THEN $1::float8 * interval '1 second' END, ordering_key => CASE WHEN i = 10 THEN 'key-' || floor(random() * 200) END) AS id
      FROM generate_series(1, $2::int) i)
    SELECT (array_agg(id))[1] FROM made";

/// What is ahead is made as the time goes by, what is behind is dropped; the rest of upkeep is that of every hour.
const UPKEEP: &str = "DO $$
    DECLARE week timestamp; parent text; name text;
    BEGIN
      FOR week IN SELECT generate_series(date_trunc('week', simulated() AT TIME ZONE 'UTC'), simulated() AT TIME ZONE 'UTC' + interval '56 days', interval '7 days') LOOP
        FOREACH parent IN ARRAY ARRAY['message', 'attempt'] LOOP
          name := format('%s_%s', parent, to_char(week, 'YYYYMMDD'));
          CONTINUE WHEN to_regclass('outbox.' || name) IS NOT NULL;
          EXECUTE format('CREATE TABLE outbox.%I PARTITION OF outbox.%I FOR VALUES FROM (%L) TO (%L)', name, parent,
                         outbox.uuid_floor(week AT TIME ZONE 'UTC'), outbox.uuid_floor((week + interval '7 days') AT TIME ZONE 'UTC'));
        END LOOP;
      END LOOP;
    END $$";

const SIZES: &str = "SELECT regexp_replace(c.relname, '_([0-9]{8}|default)$', ''), sum(coalesce(pg_total_relation_size(c.oid), 0))::bigint,
      sum(coalesce(pg_stat_get_dead_tuples(c.oid), 0))::bigint
    FROM pg_class c WHERE c.relnamespace = 'outbox'::regnamespace AND c.relkind = 'r' GROUP BY 1";

/// Bytes with indexes and TOAST, and dead rows, by table; partitions count as their parent.
type Sizes = BTreeMap<String, (i64, i64)>;

/// What producers go by.
struct World {
    rate: f64,
    /// Seconds that a dedup key is known.
    ttl: f64,
    is_late: AtomicBool,
    over: AtomicBool,
}

struct Sample {
    /// From 0 to 1.
    at: f64,
    sizes: Sizes,
}

/// What is left of one life: everything still runs.
struct Report {
    stage: Stage,
    relays: Vec<HapaxProcess>,
    /// Holds the old snapshot.
    holder: Client,
    samples: Vec<Sample>,
    dropped: usize,
}

impl Report {
    /// The most in a part of the time.
    fn most(&self, from: f64, to: f64) -> Sizes {
        let mut most = Sizes::new();
        for sample in self.samples.iter().filter(|sample| sample.at > from && sample.at <= to) {
            for (name, (bytes, dead)) in &sample.sizes {
                let known = most.entry(name.clone()).or_default();
                *known = (known.0.max(*bytes), known.1.max(*dead));
            }
        }
        most
    }

    fn dead_most(&self) -> i64 {
        let dead = |sample: &Sample| sample.sizes.values().map(|(_, dead)| dead).sum();
        self.samples.iter().filter(|sample| sample.at > 0.25).map(dead).max().unwrap_or(0)
    }

    fn say(&self, what: &str) {
        let (early, late) = (self.most(0.25, 0.5), self.most(0.75, 1.0));
        let mib = |sizes: &Sizes| sizes.values().map(|(bytes, _)| *bytes).sum::<i64>() as f64 / 1_048_576.0;
        println!(
            "{what}: {} weeks dropped, {:.1} MiB in the second quarter, {:.1} MiB in the last, \
             at most {} dead rows",
            self.dropped,
            mib(&early),
            mib(&late),
            self.dead_most()
        );
        for (name, (bytes, dead)) in late.iter().filter(|(_, (bytes, _))| *bytes > 262_144) {
            println!(
                "  {name}: {} kB, then {} kB, {dead} dead",
                early.get(name).map_or(0, |size| size.0) / 1024,
                bytes / 1024
            );
        }
    }

    fn assert_flat(&self) {
        let (early, late) = (self.most(0.25, 0.5), self.most(0.75, 1.0));
        let grown: Vec<String> = late
            .iter()
            .map(|(name, (bytes, _))| (name, early.get(name).map_or(0, |size| size.0), *bytes))
            .filter(|(_, before, now)| *now as f64 > *before as f64 * GROWTH_MAX + SLACK_BYTES)
            .map(|(name, before, now)| format!("{name}: {before} bytes, then {now}"))
            .collect();
        assert!(grown.is_empty(), "{grown:?}");
        assert!(self.dead_most() <= DEAD_MAX, "{} dead rows", self.dead_most());
        assert!(self.dropped >= 10, "{} weeks were dropped", self.dropped);
    }
}

fn number(name: &str, default: f64) -> f64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name}: {text:?} is not a number"))
}

/// Ids are those of a clock that runs through all the weeks in this time, and arrives at today.
async fn make_time_short(sql: &Client, duration: Duration) {
    let factor = WEEKS * 7.0 * 86_400.0 / duration.as_secs_f64();
    let text = format!(
        "DO $do$ BEGIN EXECUTE format($sql$
           CREATE FUNCTION public.simulated() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
           RETURN %L::timestamptz + (clock_timestamp() - %L::timestamptz) * {factor} $sql$, now() - interval '{WEEKS} weeks', now());
         END $do$;
         CREATE OR REPLACE FUNCTION outbox.uuid_v7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
         RETURN (overlay(lpad(to_hex((date_part('epoch', public.simulated()) * 1000000)::bigint * 512 / 125), 15, '0')
                 PLACING '7' FROM 13 FOR 0) || right(gen_random_uuid()::text, 17))::uuid;"
    );
    sql.batch_execute(&text).await.expect("time can be made short");
}

async fn client(stage: &Stage, user: &str) -> Client {
    let url = stage.cluster.direct_url_for("postgres", user);
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("it takes a client");
    tokio::spawn(connection);
    client
}

/// At a steady rate, as far as the relays keep up.
async fn produce(sql: Client, operator: Client, world: Arc<World>) {
    let mut ticks = interval(Duration::from_secs_f64(f64::from(PRODUCERS * IN_A_TRANSACTION) / world.rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while !world.over.load(Ordering::Relaxed) {
        ticks.tick().await;
        if world.is_late.load(Ordering::Relaxed) {
            continue;
        }
        let row = sql.query_one(PRODUCE, &[&world.ttl, &IN_A_TRANSACTION]).await.expect("enqueues");
        let id: uuid::Uuid = row.get(0);
        operator.execute("SELECT outbox.cancel($1, 'not wanted')", &[&id]).await.expect("cancels, or is too late");
    }
}

/// Deliveries in a second, of many at once. By the mail server's count: who asks the outbox for its states reads all that is
/// dead, and takes a core of it.
async fn drain(stage: &Stage, count: i32) -> f64 {
    let before = stage.server.with_ledger(|ledger| ledger.totals().accepted);
    stage.enqueue(count).await;
    let began = Instant::now();
    let all = before + count.unsigned_abs() as usize;
    stage.server.wait_until_within(PATIENCE, |ledger| ledger.totals().accepted >= all).await;
    let took = began.elapsed();
    stage.until_settled().await;
    f64::from(count) / took.as_secs_f64()
}

/// Weeks dropped.
async fn upkeep(sql: &Client) -> usize {
    sql.batch_execute(UPKEEP).await.expect("makes partitions");
    sql.batch_execute("SELECT * FROM outbox.maintain()").await.expect("maintains");
    let drop = format!(
        "SELECT count(*) FILTER (WHERE action = 'dropped') FROM outbox.drop_partitions_before(simulated() - interval '{WEEKS_KEPT} weeks')"
    );
    let dropped: i64 = sql.query_one(&drop, &[]).await.expect("drops").get(0);
    usize::try_from(dropped).expect("it is a count")
}

async fn sizes(sql: &Client) -> Sizes {
    let rows = sql.query(SIZES, &[]).await.expect("asks");
    rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
}

/// All of it, once.
async fn live(duration: Duration, old_snapshot: bool) -> Report {
    let stage = Stage::with(SmtpServer::builder().keep_bodies(false).keep_dialogues(false).start()).await;
    stage.sql.batch_execute("ALTER SYSTEM SET autovacuum_naptime = '1s'").await.expect("it may");
    stage.sql.batch_execute("SELECT pg_reload_conf()").await.expect("it may");
    let holder = client(&stage, "postgres").await;
    if old_snapshot {
        // A report of the application: it reads nothing of the outbox.
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class";
        holder.batch_execute(begin).await.expect("a snapshot");
    }
    let settings = stage.settings().set("kinds.reset.keep_content", "accepted").set("guards.max_age", "off");
    let relays = vec![settings.run().await, settings.run().await];
    make_time_short(&stage.sql, duration).await;
    upkeep(&stage.sql).await;
    let world = Arc::new(World {
        rate: number("HAPAX_STEADY_RATE", 120.0),
        ttl: duration.as_secs_f64() * 2.0 / WEEKS,
        is_late: AtomicBool::new(false),
        over: AtomicBool::new(false),
    });
    let mut producers = Vec::new();
    for _ in 0..PRODUCERS {
        let (sql, operator) = (client(&stage, "producer").await, client(&stage, "operator").await);
        producers.push(tokio::spawn(produce(sql, operator, world.clone())));
    }
    let (began, mut samples, mut dropped) = (Instant::now(), Vec::new(), 0);
    let (mut at, mut next_upkeep, mut next_sample) = (0.0, 0.0, 0.0);
    while at < 1.0 {
        let is_late = stage.count("SELECT count(*) FROM outbox.queue").await > PENDING_MAX;
        world.is_late.store(is_late, Ordering::Relaxed);
        if at >= next_upkeep {
            dropped += upkeep(&stage.sql).await;
            next_upkeep = at + 0.5 / WEEKS;
        }
        if at >= next_sample {
            samples.push(Sample { at, sizes: sizes(&stage.sql).await });
            next_sample = at + 0.02;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        at = began.elapsed().as_secs_f64() / duration.as_secs_f64();
    }
    world.over.store(true, Ordering::Relaxed);
    for producer in producers {
        producer.await.expect("it goes on to the end");
    }
    stage.until_settled().await;
    Report { stage, relays, holder, samples, dropped }
}

/// Its snapshot has ended: autovacuum cleans up.
async fn end(report: Report) {
    report.holder.batch_execute("ROLLBACK").await.expect("ends");
    eventually(PATIENCE, async || {
        let dead: i64 = sizes(&report.stage.sql).await.values().map(|(_, dead)| dead).sum();
        (dead <= DEAD_MAX / 5).then_some(()).ok_or(dead)
    })
    .await;
    for mut relay in report.relays {
        relay.sigterm();
        assert!(relay.wait_exit(PATIENCE).await.success(), "{}", relay.report());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_grows_in_half_a_year_and_an_old_snapshot_slows_it_down_little() {
    let seconds = number("HAPAX_STEADY_SECONDS", 20.0);
    let duration = Duration::from_secs_f64(seconds / 2.0);
    let free = live(duration, false).await;
    free.say("steady");
    let held = live(Duration::from_secs_f64(number("HAPAX_STEADY_SNAPSHOT_SECONDS", seconds / 2.0)), true).await;
    held.say("with an old snapshot all along");
    // By turns, since the speed of a machine drifts; the best, since others may be at work on it.
    let count = (duration.as_secs_f64() * 20.0).clamp(300.0, 10_000.0) as i32;
    let mut best = (0.0_f64, 0.0_f64);
    for _ in 0..3 {
        best = (best.0.max(drain(&free.stage, count).await), best.1.max(drain(&held.stage, count).await));
    }
    let ratio = best.1 / best.0;
    println!("{count} at once: {:.0} deliveries a second, with the old snapshot {:.0}: {ratio:.2}", best.0, best.1);
    free.assert_flat();
    // A short run on a busy machine says little about speed.
    assert!(ratio >= RATIO_MIN || seconds < 300.0, "{ratio}");
    assert!(held.dropped >= 10, "weeks are dropped: {}", held.dropped);
    end(free).await;
    end(held).await;
}
