//! Joins store, render and mail: a delivery flows one way through claim, render, converse, intend, transmit, settle.
//!
//! The one rule everything else serves: no byte of an end marker leaves before the intent of that delivery is durable,
//! and a delivery whose intent is durable is never handed out again.
//!
//! `pump` claims and hands out, `courier` (one per connection) converses and transmits, `ledger` makes intents and
//! outcomes durable in groups, `reaper` marks doubts, `heartbeat` keeps the gates open. `fatal` ends the process when any
//! of them dies. When the database is another one, the incarnation ends and `guard` tells what `memory` keeps.

mod bounces;
mod canary;
mod chores;
mod closing;
mod collect;
mod complaint;
mod config;
mod contents;
mod courier;
mod detour;
mod directions;
mod ear;
mod ending;
mod error;
mod fatal;
mod flights;
mod freight;
mod guard;
mod heartbeat;
mod idle;
mod introduce;
mod job;
mod lanes;
mod ledger;
mod lines;
mod memory;
mod meters;
mod overview;
mod pace;
mod pauses;
mod progress;
mod pump;
mod quiet;
mod reaper;
mod registry;
mod repeats;
mod rounds;
mod route;
mod stock;
mod told;
mod trace;
mod upkeep;
mod upstream;
mod verdict;
mod verp;
mod warm_up;

use std::{sync::Arc, time::Duration};

pub use canary::CANARY_KIND;
pub use config::{HardBounces, Idempotency, KindPolicy, RecipientLog, RelayConfig, RouteConfig};
pub use directions::{Directions, Tenant};
pub use error::Error;
pub use flights::Flights;
pub use freight::FreightConfig;
pub use guard::{AfterFailover, Guard};
use hapax_core::{
    clock::{Clock, SystemClock},
    fault,
    limits::Limits,
};
use hapax_mail::Heartbeat;
use hapax_render::Renderer;
pub use hapax_store::{Canary, Collecting, GuardWindow, OnDuplicate};
use hapax_store::{Release, Store};
pub use memory::{Memory, Tally};
pub use meters::Meters;
pub use pace::Rate;
pub use progress::{Phase, Progress, Stall};
pub use pump::most_in_flight;
pub use quiet::{QuietHours, Window, Zone};
pub use reaper::Watch;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
pub use trace::{Attempt, Observer, TraceParent, Tracing, hex};
pub use upkeep::{KeepContent, Retention};
pub use verp::EnvelopeSender;
pub use warm_up::WarmUp;

use crate::{
    chores::Chores,
    courier::Office,
    ear::Heard,
    fatal::Fatal,
    freight::Freight,
    introduce::Introduction,
    ledger::Ledger,
    pauses::Pauses,
    pump::Pump,
    reaper::Reaper,
    registry::{Hands, Registry},
    route::Route,
    stock::Stock,
};

/// The two ways to ask a relay to end.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Claim nothing new, give back what has no intent, wait for the rest.
    pub soft: CancellationToken,
    /// Give up what has not begun its end marker; leave the rest to become doubts.
    pub hard: CancellationToken,
}

/// How long after a hard shutdown couriers and ledger may take to wind up.
const WIND_UP: Duration = Duration::from_secs(5);

/// How long the last outcomes may take to become durable.
const SETTLE_LAST: Duration = Duration::from_secs(60);

/// How long a relay may take to end after it was told to, at most: whoever kills it earlier leaves doubts. `call` is the
/// longest that one call to the database takes.
#[must_use]
pub fn stop_longest(limits: &Limits, call: Duration) -> Duration {
    // The pump's last call, the grace, couriers, ledger, what memory tells, watchers, signing off.
    limits.shutdown_grace + 2 * WIND_UP + limits.shutdown_grace.min(SETTLE_LAST) + 3 * call
}

/// What a relay has in common with other incarnations of its process, earlier ones and those that still drain, and how
/// careful it is at its start.
#[derive(Clone, Debug)]
pub struct Past {
    /// What this process remembers of its attempts.
    pub memory: Memory,
    /// What is in flight, whichever of them it belongs to.
    pub flights: Flights,
    /// What was seen of doubts.
    pub watch: Watch,
    /// Cancelled when this incarnation has introduced itself and begins to claim: time for the one before to drain.
    pub started: CancellationToken,
    /// Refuse a database at an unknown address in which no relay is alive: it may be a copy of the whole server.
    pub address_guard: bool,
    /// What its loops say of themselves.
    pub progress: Progress,
    /// What is counted and timed.
    pub meters: Meters,
}

impl Default for Past {
    fn default() -> Self {
        Self {
            memory: Memory::default(),
            flights: Flights::default(),
            watch: Watch::default(),
            started: CancellationToken::new(),
            address_guard: true,
            progress: Progress::default(),
            meters: Meters::default(),
        }
    }
}

/// Runs a relay until it is shut down.
///
/// # Errors
/// What made it stop otherwise: a lost incarnation, another database, a task that died.
pub async fn run(store: Store, renderer: Arc<Renderer>, config: RelayConfig, shutdown: Shutdown) -> Result<(), Error> {
    run_with(store, renderer, config, shutdown, Past::default()).await
}

/// As [`run`], with a past. After [`Error::Guard`] the process is expected to [`Guard::stand`] with the same memory, and to
/// run again with the store that answers.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    store: Store,
    renderer: Arc<Renderer>,
    config: RelayConfig,
    shutdown: Shutdown,
    past: Past,
) -> Result<(), Error> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let config = Arc::new(config);
    let meters = past.meters.clone();
    // Before the first there is nobody else to ask; a later one serves from when it works.
    if meters.store().is_none() {
        meters.serves(&store);
    }
    // Its own: this incarnation may end while the process goes on.
    let shutdown = Shutdown { soft: shutdown.soft.child_token(), hard: shutdown.hard.child_token() };
    let mut introduction = Introduction::new(&store, &config, &shutdown);
    if past.address_guard {
        introduction.recognise().await?;
    }
    let introduced = introduction.introduce(&clock, &meters, &past.flights).await;
    if introduced.is_err() {
        introduce::bow_out(&store, &past.memory).await;
    }
    let routes = introduced?;
    past.flights.begins(store.incarnation(), clock.boottime(), pace::joining(&config.limits));
    let _living = past.memory.lives(store.incarnation());
    let fatal = Fatal::default();
    let (registry, hands) = (Registry::new(past.memory.clone(), store.incarnation()), Hands::default());
    let heartbeat = Arc::new(Heartbeat::new(config.limits.transmit_deadline));
    let (ledger_tasks, couriers, watchers) = (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());
    let ledger = Ledger::start(
        store.clone(),
        clock.clone(),
        registry.clone(),
        fatal.clone(),
        shutdown.hard.clone(),
        // Of redirected mail the recipient is another.
        (&past.progress, &meters, config.hard_bounces.filter(|_| config.guards.redirect_all_to.is_none())),
        &ledger_tasks,
    );
    let connections = config.routes.iter().map(|route| route.max_connections).min().unwrap_or(1);
    let freight = Freight::new(store.clone(), config.freight.clone(), connections).map_err(Error::Attachments)?;
    let office = Arc::new(Office {
        freight,
        config: config.clone(),
        store: store.clone(),
        renderer,
        ledger,
        registry: registry.clone(),
        hands: hands.clone(),
        clock: clock.clone(),
        heartbeat: heartbeat.clone(),
        fatal: fatal.clone(),
        meters: meters.clone(),
        pauses: Pauses::default(),
        zones: quiet::Complaints::default(),
        soft: shutdown.soft.clone(),
        flights: past.flights.all(config.limits.max_in_flight),
    });
    let stop = CancellationToken::new();
    let call = store.call_longest();
    let pulse = |task, rest: Duration| past.progress.pulse(task, call + rest);
    let heart = heartbeat::Heart {
        store: store.clone(),
        config: config.clone(),
        clock: clock.clone(),
        fatal: fatal.clone(),
        stop: stop.clone(),
    };
    watchers.spawn(heart.clone().beat(heartbeat.clone(), pulse("heartbeat", config.limits.heartbeat_interval)));
    watchers.spawn(heart.renew(hands, pulse("renew", config.limits.lease / 6)));
    watchers.spawn(overview::watch(store.clone(), meters.clone(), config.limits.dead_after, stop.clone()));
    let watcher = pace::Watcher {
        store: store.clone(),
        flights: past.flights.clone(),
        heartbeat: heartbeat.clone(),
        limits: config.limits,
        clock: clock.clone(),
        stop: stop.clone(),
    };
    let shared = routes.clone();
    watchers.spawn(watcher.watch(move || shared.iter().for_each(|route| route.say_share())));
    watchers.spawn(told::tell(store.clone(), routes.clone(), past.flights.changes(), stop.clone()));
    watchers.spawn(guard::tell_stragglers(store.clone(), past.memory.clone(), stop.clone()));
    let lanes = lanes::lanes_of(routes.iter().flat_map(|route| route.groups.clone()));
    let chores = Chores {
        store: store.clone(),
        config: config.clone(),
        clock: clock.clone(),
        fatal: fatal.clone(),
        pulse: pulse("chores", config.limits.heartbeat_interval),
    };
    let reaper = Reaper {
        store: store.clone(),
        config: config.clone(),
        clock,
        registry: registry.clone(),
        fatal: fatal.clone(),
        meters: meters.clone(),
        pulse: pulse("reaper", config.limits.heartbeat_interval),
        lanes,
        chores,
        watch: past.watch,
    };
    watchers.spawn(reaper.run(shutdown.soft.clone(), stop.clone()));
    let default_route = config.default_route();
    let pump = Pump {
        office: office.clone(),
        groups: routes.iter().flat_map(|route| route.groups.iter().map(|group| (route.clone(), *group))).collect(),
        routes: detour::Ways(routes.clone()),
        default_route,
        stock: Stock::new(pump::places(&config.limits), &config.limits),
        couriers: couriers.clone(),
        progress: past.progress.clone(),
        shared: past.flights.clone(),
        pulse: pulse("pump", config.limits.poll_interval_asleep.max(config.limits.poll_interval_max)),
    };
    let ear = config.wake_up.then(|| {
        let (heard, ear) = watch::channel(Heard::default());
        watchers.spawn(ear::listen(store.clone(), heard, pulse("ear", Duration::ZERO), shutdown.soft.clone()));
        ear
    });
    let pump = watchers.spawn(pump.run(ear));
    meters.serves(&store);
    meters.canary_begins(store.incarnation(), config.canary.as_ref().map(|canary| canary.every));
    if let Some(canary) = config.canary.clone() {
        let pulse = pulse("canary", canary::pause_longest(&canary));
        let (store, meters, fatal) = (store.clone(), meters.clone(), fatal.clone());
        let aviary = canary::Aviary { store, canary, meters, fatal, pulse };
        watchers.spawn(aviary.run(shutdown.soft.clone()));
    }
    past.started.cancel();
    tracing::info!(relay.incarnation = %store.incarnation(), relay.name = config.name, routes = routes.len(), "the relay is running");

    tokio::select! {
        () = shutdown.soft.cancelled() => {}
        () = shutdown.hard.cancelled() => {}
        () = fatal.reported() => {}
    }
    if let Some(error) = fatal.take() {
        // What has not begun its end marker never will. What has, goes on reading its reply, and memory keeps it.
        heartbeat.close();
        shutdown.soft.cancel();
        stop.cancel();
        past.memory.leave(store.incarnation(), couriers);
        return Err(error);
    }
    shutdown.soft.cancel();
    let memory = past.memory;
    let ending = Ending {
        store,
        config,
        registry,
        memory,
        heartbeat,
        pump,
        couriers,
        ledger_tasks,
        watchers,
        stop,
        shutdown,
        fatal,
    };
    ending.wind_up(office, &routes).await
}

/// Everything that has to end, in order.
struct Ending {
    store: Store,
    config: Arc<RelayConfig>,
    registry: Registry,
    memory: Memory,
    heartbeat: Arc<Heartbeat>,
    pump: JoinHandle<()>,
    couriers: TaskTracker,
    ledger_tasks: TaskTracker,
    watchers: TaskTracker,
    stop: CancellationToken,
    shutdown: Shutdown,
    fatal: Fatal,
}

impl Ending {
    /// The incarnation signs off only after all sockets are closed and all settles done: until then heartbeats go on.
    async fn wind_up(mut self, office: Arc<Office>, routes: &[Arc<Route>]) -> Result<(), Error> {
        let (open, incarnation) = (self.registry.len(), self.store.incarnation());
        let relieved = self.memory.is_relieved(incarnation);
        match relieved {
            true => tracing::info!(
                open,
                relay.incarnation = %incarnation,
                "relieved by the next of this process: claiming nothing new, waiting for open deliveries"
            ),
            false => tracing::info!(open, "shutting down: claiming nothing new, waiting for open deliveries"),
        }
        // After the pump nobody hands anything out any more; each of its calls to the database has a time limit.
        if (&mut self.pump).await.is_err() {
            return Err(Error::Task("pump"));
        }
        self.couriers.close();
        self.give_back_queued(&office, routes).await;
        self.memory.stragglers.close();
        tokio::select! {
            () = async { self.couriers.wait().await; self.memory.stragglers.wait().await; } => {}
            () = self.shutdown.hard.cancelled() => {}
            () = tokio::time::sleep(self.config.limits.shutdown_grace) => {
                tracing::warn!("the grace period is over");
            }
            () = self.fatal.reported_guard() => {}
        }
        if self.fatal.is_guard()
            && let Some(error) = self.fatal.take()
        {
            // As it would be without a shutdown: who reads a reply goes on, and memory keeps it.
            self.heartbeat.close();
            self.stop.cancel();
            self.memory.leave(incarnation, self.couriers);
            return Err(error);
        }
        self.give_back_queued(&office, routes).await;
        if !self.couriers.is_empty() {
            // Whoever has not begun its end marker now never will.
            self.heartbeat.close();
            drop(tokio::time::timeout(WIND_UP, self.couriers.wait()).await);
            self.memory.leave(incarnation, self.couriers.clone());
        }
        let abandoned = if self.couriers.is_empty() { 0 } else { self.registry.len() };
        drop(office);
        self.ledger_tasks.close();
        let settled =
            tokio::time::timeout(self.config.limits.shutdown_grace.min(SETTLE_LAST), self.ledger_tasks.wait());
        // The ledger ends without them, too, when it was told to give up.
        let settled = abandoned == 0 && settled.await.is_ok() && self.registry.len() == 0;
        let untold = self.memory.untold();
        if let Err(error) = guard::tell(&self.store, &self.memory, untold).await {
            tracing::warn!(error = %error, "late outcomes of an earlier incarnation could not be told to the database");
        }
        guard::say_goodbye(&self.store, &self.memory).await;
        self.shutdown.hard.cancel();
        self.stop.cancel();
        self.watchers.close();
        // The ledger says of each outcome that it gives up what was known. It ends only after all couriers.
        let ledger = async {
            if abandoned == 0 {
                self.ledger_tasks.wait().await;
            }
        };
        let ends = async { tokio::join!(self.watchers.wait(), ledger) };
        drop(tokio::time::timeout(WIND_UP, ends).await);
        if let Some(error) = self.fatal.take() {
            self.memory.leave(incarnation, self.couriers);
            return Err(error);
        }
        if !settled {
            // Whoever is there when the rest of it has been told says goodbye for it.
            self.memory.leave(incarnation, self.couriers);
            return Err(Error::Abandoned(self.registry.len().max(abandoned)));
        }
        fault::point("sign_off_sent");
        if let Err(error) = self.store.sign_off().await {
            tracing::warn!(error = %error, "could not sign off");
            self.memory.leave(incarnation, self.couriers);
        }
        match relieved {
            true => {
                tracing::info!(relay.incarnation = %incarnation, "an earlier incarnation of this process has ended")
            }
            false => tracing::info!("the relay has ended"),
        }
        Ok(())
    }

    async fn give_back_queued(&self, office: &Office, routes: &[Arc<Route>]) {
        let jobs: Vec<_> = routes.iter().flat_map(|route| route.drain()).collect();
        if jobs.is_empty() {
            return;
        }
        tracing::debug!(deliveries = ?pump::keys(&jobs), "given back");
        let releases: Vec<Release> = jobs
            .iter()
            .map(|job| Release { key: job.claimed.key, lease: job.claimed.lease, after: Duration::ZERO, lane: None })
            .collect();
        fault::point("release_sent");
        if let Err(error) = office.store.release(&releases).await {
            tracing::warn!(error = %error, "could not give back what was waiting, its leases will expire");
        }
    }
}
