//! A storm over a whole system: random producers, relays that are killed, suspended, cut off and told to end, a Postgres
//! that crashes, a mail server that misbehaves at every step, clocks that jump. Then everything is well again, what can
//! settle settles, and the ledger of the mail server is compared with the tables.
//!
//! Invariants: one seed, one sequence of decisions (not of instants); what the harness remembers is bounded by the number
//! of deliveries, a few hundred bytes each; nobody resolves by force a doubt whose relay may be alive.

mod controls;
mod digests;
mod operator;
mod producers;
mod relays;
mod report;
mod weather;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use hapax_testkit::{PgCluster, Script, SmtpServer};
use tempfile::TempDir;
use tokio_postgres::Client;

use crate::stage::{Settings, Stage};
pub use producers::Produced;
pub use report::Report;

/// Deliveries in hand at once, of each relay: the bound on what one kill may leave in doubt.
pub const IN_FLIGHT: usize = 24;

/// Deliveries that wait: producers hold back above this.
const BACKLOG_MAX: i64 = 3_000;

/// How long everything may take to settle when all is well again, and longer for each delivery there is.
const SETTLE_MIN: Duration = Duration::from_secs(240);

/// What is to happen.
#[derive(Clone, Debug)]
pub struct Plan {
    /// At least so many deliveries are committed.
    pub deliveries: usize,
    /// So many SIGKILLs of relays.
    pub kills: usize,
    /// The time they are spread over, roughly.
    pub duration: Duration,
    /// How many relays run at once.
    pub relays: usize,
    /// What decides.
    pub seed: u64,
    /// A deliberate breakage of the protocol to run the relays with (`HAPAX_MUTANT`).
    pub mutant: Option<&'static str>,
    /// Everything that controls delivery is switched on.
    pub controls: bool,
}

impl Plan {
    /// From `HAPAX_STORM_DELIVERIES`, `_KILLS`, `_SECONDS`, `_RELAYS`, `_PLAIN` (nothing controls delivery) and
    /// `HAPAX_SEED`, else as given; prints the seed.
    #[must_use]
    pub fn from_environment(deliveries: usize, kills: usize, seconds: u64) -> Self {
        fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
            let text = std::env::var(name).ok()?;
            Some(text.parse().unwrap_or_else(|_| panic!("{name}: {text:?} is not a number")))
        }
        let plan = Self {
            deliveries: number("HAPAX_STORM_DELIVERIES").unwrap_or(deliveries),
            kills: number("HAPAX_STORM_KILLS").unwrap_or(kills),
            duration: Duration::from_secs(number("HAPAX_STORM_SECONDS").unwrap_or(seconds)),
            relays: number("HAPAX_STORM_RELAYS").unwrap_or(3),
            seed: number("HAPAX_SEED").unwrap_or_else(|| fastrand::u64(..)),
            mutant: None,
            controls: number("HAPAX_STORM_PLAIN") != Some(1_u8),
        };
        println!("HAPAX_SEED={}", plan.seed);
        plan
    }

    /// A generator for one part of the storm: what others draw does not change what it draws.
    fn random(&self, part: u64) -> Rng {
        Rng::with_seed(self.seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// What all parts of a storm share.
struct World {
    plan: Plan,
    cluster: PgCluster,
    server: SmtpServer,
    settings: Settings,
    /// Lives as long as the relays that read it.
    _templates: TempDir,
    /// Deliveries that are neither done nor parked, as last seen.
    backlog: AtomicI64,
    committed: AtomicUsize,
    kills: AtomicUsize,
    /// What happened, and when: seconds of the wall clock, as Postgres tells them.
    events: Mutex<Vec<(f64, String)>>,
    /// Process ids of relays that were killed.
    killed: Mutex<BTreeSet<i32>>,
    /// Relays that ended although nobody asked them to, with their last words.
    died: Mutex<Vec<String>>,
    /// Enough was produced, and enough was killed.
    over: AtomicBool,
    began: Instant,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "to be laid beside the times of attempts, which are Postgres' own")]
    fn note(&self, event: impl Into<String>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push((now, event.into()));
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// A superuser's connection, as soon as there is one.
    async fn sql(&self) -> Client {
        loop {
            if let Ok(client) = self.cluster.client("postgres").await {
                return client;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn was_killed(&self, pid: i32) -> bool {
        self.killed.lock().unwrap_or_else(PoisonError::into_inner).contains(&pid)
    }

    /// Looks at the backlog twice a second, tells how far it is, and says when it is over.
    async fn watch(&self) {
        let mut sql = self.sql().await;
        let mut told = Instant::now();
        loop {
            match sql.query_one("SELECT count(*) FROM outbox.queue WHERE parked IS NULL", &[]).await {
                Ok(row) => self.backlog.store(row.get(0), Ordering::Relaxed),
                Err(_) => sql = self.sql().await,
            }
            let (committed, kills) = (self.committed.load(Ordering::Relaxed), self.kills.load(Ordering::Relaxed));
            if told.elapsed() > Duration::from_secs(15) {
                told = Instant::now();
                println!(
                    "{:5.0?}: {committed} deliveries committed, {kills} kills, {} wait",
                    self.began.elapsed(),
                    self.backlog.load(Ordering::Relaxed)
                );
            }
            if committed >= self.plan.deliveries && kills >= self.plan.kills {
                self.over.store(true, Ordering::Relaxed);
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Lets it rage, waits until all is settled, and reports.
///
/// # Panics
/// When something of the stage itself fails.
pub async fn rage(plan: Plan) -> Report {
    let world = set(plan).await;
    let mut relays = Vec::new();
    for number in 0..world.plan.relays {
        relays.push(tokio::spawn(relays::haunt(Arc::clone(&world), number)));
    }
    let producers: Vec<_> =
        (0..producers::COUNT).map(|number| tokio::spawn(producers::produce(Arc::clone(&world), number))).collect();
    let others = [
        tokio::spawn(weather::postgres(Arc::clone(&world))),
        tokio::spawn(weather::mail(Arc::clone(&world))),
        tokio::spawn(operator::decide_now_and_then(Arc::clone(&world))),
        tokio::spawn(controls::meddle(Arc::clone(&world))),
    ];
    world.watch().await;
    let mut produced = Produced::default();
    for producer in producers {
        produced.add(producer.await.expect("a producer does not panic"));
    }
    for other in others {
        other.await.expect("the weather does not panic");
    }
    let mut alive = Vec::new();
    for relay in relays {
        alive.push(relay.await.expect("a relay's ghost does not panic"));
    }
    world.server.script(Script::good());
    world.server.final_reply_delay(Duration::ZERO);
    report::settle_and_judge(&world, produced, alive).await
}

async fn set(plan: Plan) -> Arc<World> {
    let server = SmtpServer::builder().keep_bodies(false).keep_dialogues(false).start();
    let cluster = PgCluster::builder().setting("max_connections", "200").setting("checkpoint_timeout", "30s");
    let stage = Stage::on(cluster.start().await.expect("a cluster starts"), server).await;
    let settings = stage
        .settings()
        .set("database.statement_timeout", "4s")
        .set("relay.max_in_flight", IN_FLIGHT)
        .set("relay.lease", "2s")
        .set("relay.transmit_deadline", "3s")
        .set("relay.connect_timeout", "2s")
        .set("relay.command_timeout", "3s")
        .set("relay.data_timeout", "3s")
        .set("relay.body_timeout", "3s")
        .set("relay.final_reply_timeout", "3s")
        .set("retry.cap", "3s")
        .set("log.level", "warn");
    let templates = tempfile::tempdir().expect("a directory");
    let settings = if plan.controls {
        let quiet_hours = stage.text(controls::FAR_HOURS, &[]).await.expect("hours");
        controls::switched_on(settings, stage.server.port(), &quiet_hours, templates.path())
    } else {
        settings
    };
    let Stage { cluster, server, .. } = stage;
    Arc::new(World {
        plan,
        cluster,
        server,
        settings,
        _templates: templates,
        backlog: AtomicI64::new(0),
        committed: AtomicUsize::new(0),
        kills: AtomicUsize::new(0),
        events: Mutex::default(),
        killed: Mutex::default(),
        died: Mutex::default(),
        over: AtomicBool::new(false),
        began: Instant::now(),
    })
}

/// A pause around `mean`, from a third of it to five thirds.
fn around(mean: Duration, random: &mut Rng) -> Duration {
    mean.mul_f64(1.0 / 3.0 + random.f64() * 4.0 / 3.0)
}
