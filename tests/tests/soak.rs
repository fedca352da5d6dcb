//! The soak: a steady load through one relay, with trouble all along, and nothing of it may add up. At the end the figures
//! of the relay, the tables and the ledger of the mail server are the same to the last message, and neither memory nor
//! descriptors nor the log have grown with what went through.
//!
//! Bounded here; by hand as long as one likes: `make soak`, `HAPAX_SOAK_SECONDS`, `HAPAX_SOAK_RATE`, `HAPAX_SEED`.

#[path = "soak/books.rs"]
mod books;
#[path = "soak/load.rs"]
mod load;
#[path = "soak/trouble.rs"]
mod trouble;
#[path = "soak/vitals.rs"]
mod vitals;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hapax_testkit::{ChaosProxy, HapaxProcess, PgCluster, Script, SmtpServer};
use hapax_tests::letters::TEMPLATES;
use hapax_tests::probe::Probe;
use hapax_tests::stage::{PATIENCE, Settings, Stage};

/// What is to happen.
#[derive(Clone, Copy, Debug)]
struct Plan {
    duration: Duration,
    /// Notifications in a second.
    rate: u32,
    seed: u64,
}

impl Plan {
    fn from_environment(seconds: u64) -> Self {
        fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
            let text = std::env::var(name).ok()?;
            Some(text.parse().unwrap_or_else(|_| panic!("{name}: {text:?} is not a number")))
        }
        let plan = Self {
            duration: Duration::from_secs(number("HAPAX_SOAK_SECONDS").unwrap_or(seconds)),
            rate: number("HAPAX_SOAK_RATE").unwrap_or(40),
            seed: number("HAPAX_SEED").unwrap_or_else(|| fastrand::u64(..)),
        };
        println!("HAPAX_SEED={} {plan:?}", plan.seed);
        plan
    }

    fn random(&self, part: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// What all parts of it share.
struct World {
    plan: Plan,
    stage: Stage,
    /// Between the relay and the database, and between the relay and the mail server.
    database: ChaosProxy,
    mail: ChaosProxy,
    settings: Settings,
    relay: HapaxProcess,
    over: AtomicBool,
}

impl World {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

fn write_templates(directory: &Path) {
    for (path, text) in TEMPLATES {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().expect("it lies in a directory")).expect("made");
        std::fs::write(path, text).expect("written");
    }
}

/// Time-outs of seconds, so that nothing that hangs outlasts the test; heart and lease as calm as they are by default.
fn settings(stage: &Stage, database: &ChaosProxy, mail: &ChaosProxy, templates: &Path) -> Settings {
    let url = format!("postgres://relay@127.0.0.1:{}/postgres", database.port());
    Settings::new(&url, &format!("smtp://127.0.0.1:{}?starttls=none", mail.port()))
        .set("database.statement_timeout", "4s")
        .set("http.listen", "127.0.0.1:0")
        .set("relay.heartbeat_interval", "2s")
        .set("relay.dead_after", "30s")
        .set("relay.lease", "5s")
        .set("relay.max_in_flight", 32)
        .set("relay.connect_timeout", "2s")
        .set("relay.command_timeout", "3s")
        .set("relay.data_timeout", "3s")
        .set("relay.body_timeout", "3s")
        .set("relay.final_reply_timeout", "4s")
        .set("retry.cap", "3s")
        .set("templates.directory", templates.display())
        .set("relay.spool_directory", stage.cluster.data_directory().parent().expect("it lies somewhere").display())
}

async fn set(plan: Plan, templates: &Path) -> Arc<World> {
    let server = SmtpServer::builder().keep_bodies(false).keep_dialogues(false).start();
    let cluster = PgCluster::builder().setting("checkpoint_timeout", "30s").start().await;
    let stage = Stage::on(cluster.expect("a cluster starts"), server).await;
    write_templates(templates);
    let database = ChaosProxy::start(([127, 0, 0, 1], stage.cluster.port()).into());
    let mail = ChaosProxy::start(([127, 0, 0, 1], stage.server.port()).into());
    let settings = settings(&stage, &database, &mail, templates);
    let relay = settings.run().await;
    Arc::new(World { plan, stage, database, mail, settings, relay, over: AtomicBool::new(false) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soak_with_trouble_all_along_leaves_equal_books_and_a_relay_that_has_not_grown() {
    let plan = Plan::from_environment(20);
    let templates = tempfile::tempdir().expect("a directory");
    let world = set(plan, templates.path()).await;
    let probe = Probe::of(&world.relay).await;
    let load = tokio::spawn(load::produce(Arc::clone(&world)));
    let trouble = tokio::spawn(trouble::make(Arc::clone(&world)));
    let began = Instant::now();
    let vitals = vitals::watch(&world.relay, plan.duration, &probe).await;
    world.over.store(true, Ordering::Relaxed);
    let trouble = trouble.await.expect("it goes on to the end");
    let produced = load.await.expect("it goes on to the end");
    world.stage.server.script(Script::good());
    world.stage.server.final_reply_delay(Duration::ZERO);

    let mut world = Arc::into_inner(world).expect("everybody has ended");
    world.stage.reconnect().await;
    world.stage.until_settled().await;
    println!("{produced} notifications in {:.0?}; {trouble}", began.elapsed());
    println!("{vitals}");
    let attempts = books::compare(&world.stage, &probe, produced).await;
    println!("{}", probe.scrape().await.text);
    world.relay.sigterm();
    assert_eq!(world.relay.wait_exit(PATIENCE).await.code(), Some(0), "it ends well");
    let told = books::Told::by(&world.relay);
    println!("{told}");
    told.assert_bounded(attempts, &trouble);
    vitals.assert_flat();
    let left = "SELECT count(*) FROM outbox.relay WHERE signed_off_at IS NULL";
    assert_eq!(world.stage.count(left).await, 0, "every incarnation has signed off");
}

/// Has this configuration taken over.
async fn reload(world: &World, settings: &Settings) {
    std::fs::write(world.relay.directory().join("hapax.toml"), settings.toml()).expect("it can be written");
    let mark = world.relay.lines().len();
    world.relay.sighup();
    world.relay.wait_for_line_after(mark, |line| line.contains("it holds from now on")).await;
}
