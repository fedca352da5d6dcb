//! The instruments of a process. Handed to each of its relays like [`crate::Progress`], and read by whoever serves metrics.
//!
//! Invariants: labels never carry an address, a subject or anything else from outside (routes, phases, outcomes and states
//! only); every series of a configured route exists from the start, at 0; a delivery on its way touches only handles that
//! were taken once ([`RouteMeters`]), an atomic add or a short lock each.

mod canary;
mod export;
mod process;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant, SystemTime},
};

use hapax_core::{Incarnation, Outcome, Phase};
use hapax_store::{Overview, Standing, Store};
use prometheus_client::{
    metrics::{counter::Counter, exemplar::HistogramWithExemplars, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::trace::TraceParent;

/// What was asked of the whole outbox is told no longer than this: an old figure would look like a fact.
const OVERVIEW_KEPT: Duration = Duration::from_secs(60);

/// The words of `outcome`, as in the ledger.
const OUTCOMES: [&str; 5] = ["accepted", "refused", "deferred", "not_sent", "unknown"];

/// Where a doubt can begin: with the body (a server that answers too early), or at the end marker.
const DOUBTS: [Phase; 3] = [Phase::Intend, Phase::Body, Phase::EndMarker];

/// The route of a doubt whose route nobody knows.
const NO_ROUTE: &str = "unknown";

/// The parts of an attempt that are timed.
pub(crate) const TIMED: [Phase; 4] = [Phase::Connect, Phase::Data, Phase::Intend, Phase::EndMarker];

type One = [(&'static str, String); 1];
type Two = [(&'static str, String); 2];
type Seconds = Gauge<f64, AtomicU64>;

/// The instruments of a process. Cheap to clone.
#[derive(Clone)]
pub struct Meters(Arc<Inner>);

struct Inner {
    registry: Registry,
    attempts: Family<Two, Counter>,
    in_doubt: Family<Two, Counter>,
    connections: Family<Two, Gauge>,
    blocked: Family<One, Gauge>,
    certificates: Family<One, Seconds>,
    rates: Family<One, Seconds>,
    waiting_for_rate: Family<One, Gauge>,
    connections_limits: Family<One, Gauge>,
    detours: Family<One, Counter>,
    phases: HashMap<Phase, Histogram>,
    claims: Counter,
    claim_batch: Histogram,
    claim_duration: Histogram,
    time_to_accept: HistogramWithExemplars<One>,
    intend: Histogram,
    settle: Histogram,
    last_poll: Seconds,
    clock_skew: Seconds,
    reloads: Family<One, Counter>,
    reload_successful: Gauge,
    reload_at: Seconds,
    canaries: canary::Canaries,
    spans_exported: Counter,
    spans_dropped: Counter,
    whole: Arc<Whole>,
}

/// What is not counted here but asked for: the pool and the whole outbox.
#[derive(Debug, Default)]
struct Whole {
    store: Mutex<Option<Store>>,
    overview: Mutex<Option<Seen>>,
}

/// What one incarnation has seen of the whole outbox.
#[derive(Debug)]
struct Seen {
    by: Incarnation,
    at: Instant,
    standing: Standing,
    overview: Overview,
}

impl Default for Meters {
    fn default() -> Self {
        export::meters()
    }
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meters").finish_non_exhaustive()
    }
}

/// The instruments of one route: taken once, used by every attempt.
#[derive(Clone, Debug)]
pub(crate) struct RouteMeters {
    attempts: [Counter; 5],
    doubts: [Counter; 3],
    pub(crate) busy: Gauge,
    pub(crate) idle: Gauge,
    pub(crate) blocked: Gauge,
    pub(crate) waiting_for_rate: Gauge,
    pub(crate) detours: Counter,
    connections_limit: Gauge,
    certificates: Family<One, Seconds>,
    rates: Family<One, Seconds>,
    name: String,
}

impl RouteMeters {
    /// An attempt has ended, and its outcome goes into the ledger.
    pub(crate) fn ended(&self, outcome: &Outcome) {
        if let Some(at) = OUTCOMES.iter().position(|word| *word == outcome.as_str()) {
            self.attempts[at].inc();
        }
    }

    /// A delivery is in doubt since its attempt reached `phase`.
    pub(crate) fn doubted(&self, phase: Phase) {
        let at = DOUBTS.iter().position(|known| *known == phase).unwrap_or(DOUBTS.len() - 1);
        self.doubts[at].inc();
    }

    /// The server showed a certificate that expires then, in seconds since 1970. There is no series before.
    pub(crate) fn certified(&self, until_s: f64) {
        self.certificates.get_or_create(&[("route", self.name.clone())]).set(until_s);
    }

    /// This relay may send so many a second. There is no series for a route without a rate.
    pub(crate) fn limited_to(&self, per_second: f64) {
        self.rates.get_or_create(&[("route", self.name.clone())]).set(per_second);
    }

    /// This relay may have so many connections at once now.
    pub(crate) fn connections_limit(&self, connections: usize) {
        self.connections_limit.set(i64::try_from(connections).unwrap_or(i64::MAX));
    }

    /// The route has no rate (any more).
    pub(crate) fn unlimited(&self) {
        self.rates.remove(&[("route", self.name.clone())]);
    }
}

/// Which of the two commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Intend,
    Settle,
}

impl Meters {
    /// Makes every series of these routes, at 0.
    pub fn routes<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        names.into_iter().for_each(|name| drop(self.route(name)));
    }

    /// A route is not there any more: nothing is said of its present; what was counted stays.
    pub fn forget_route(&self, name: &str) {
        let one = [("route", name.to_owned())];
        self.0.blocked.remove(&one);
        self.0.certificates.remove(&one);
        self.0.rates.remove(&one);
        self.0.waiting_for_rate.remove(&one);
        self.0.connections_limits.remove(&one);
    }

    pub(crate) fn route(&self, name: &str) -> RouteMeters {
        let two = |key: &'static str, word: &str| [("route", name.to_owned()), (key, word.to_owned())];
        let one = [("route", name.to_owned())];
        RouteMeters {
            attempts: OUTCOMES.map(|word| self.0.attempts.get_or_create_owned(&two("outcome", word))),
            doubts: DOUBTS.map(|phase| self.0.in_doubt.get_or_create_owned(&two("phase", phase.as_str()))),
            busy: self.0.connections.get_or_create_owned(&two("state", "busy")),
            idle: self.0.connections.get_or_create_owned(&two("state", "idle")),
            blocked: self.0.blocked.get_or_create_owned(&one),
            waiting_for_rate: self.0.waiting_for_rate.get_or_create_owned(&one),
            detours: self.0.detours.get_or_create_owned(&one),
            connections_limit: self.0.connections_limits.get_or_create_owned(&one),
            certificates: self.0.certificates.clone(),
            rates: self.0.rates.clone(),
            name: name.to_owned(),
        }
    }

    /// The queue was looked at.
    pub(crate) fn polled(&self) {
        self.0.last_poll.set(now_s());
    }

    /// A claim took so many, and so long.
    pub(crate) fn claimed(&self, deliveries: usize, took: Duration) {
        self.0.claim_duration.observe(took.as_secs_f64());
        if deliveries > 0 {
            self.0.claims.inc_by(deliveries as u64);
            self.0.claim_batch.observe(deliveries as f64);
        }
    }

    /// A delivery was put in doubt whose relay vanished after its intent.
    pub(crate) fn vanished(&self, route: Option<&str>) {
        let of = [("route", route.unwrap_or(NO_ROUTE).to_owned()), ("phase", Phase::Intend.as_str().to_owned())];
        self.0.in_doubt.get_or_create(&of).inc();
    }

    /// A commit of intents or outcomes was answered.
    pub(crate) fn committed(&self, step: Step, took: Duration) {
        let histogram = match step {
            Step::Intend => &self.0.intend,
            Step::Settle => &self.0.settle,
        };
        histogram.observe(took.as_secs_f64());
    }

    /// A part of an attempt took so long; one of [`TIMED`].
    pub(crate) fn phase(&self, phase: Phase, took: Duration) {
        if let Some(histogram) = self.0.phases.get(&phase) {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// A mail server took a message that could have been sent since `age`; its trace is named where it is kept.
    pub(crate) fn accepted(&self, age: Duration, place: Option<TraceParent>) {
        let trace = place.map(|place| [("trace_id", place.trace_hex())]);
        self.0.time_to_accept.observe(age.as_secs_f64(), trace, None);
    }

    /// A collector took so many spans.
    pub fn spans_exported(&self, spans: usize) {
        self.0.spans_exported.inc_by(spans as u64);
    }

    /// So many spans were given up, because a collector is slow, or away, or refuses them.
    pub fn spans_dropped(&self, spans: usize) {
        self.0.spans_dropped.inc_by(spans as u64);
    }

    /// The configuration was read again, and is in force or was refused.
    pub fn reloaded(&self, result: Result<(), ()>) {
        let word = if result.is_ok() { "ok" } else { "failed" };
        self.0.reloads.get_or_create(&[("result", word.to_owned())]).inc();
        self.0.reload_successful.set(i64::from(result.is_ok()));
        if result.is_ok() {
            self.0.reload_at.set(now_s());
        }
    }

    /// Whether the last configuration that was read again was refused.
    #[must_use]
    pub fn reload_was_refused(&self) -> bool {
        self.0.reload_successful.get() == 0
    }

    /// The store of the incarnation that began last, if any has: what readiness asks.
    #[must_use]
    pub fn store(&self) -> Option<Store> {
        lock(&self.0.whole.store).clone()
    }

    /// An incarnation begins.
    pub(crate) fn serves(&self, store: &Store) {
        *lock(&self.0.whole.store) = Some(store.clone());
    }

    /// This incarnation is the one that tells of the whole outbox, and has seen this.
    pub(crate) fn saw(&self, by: Incarnation, standing: Standing, overview: Overview) {
        *lock(&self.0.whole.overview) = Some(Seen { by, at: Instant::now(), standing, overview });
    }

    /// This incarnation tells of it no more.
    pub(crate) fn looks_away(&self, by: Incarnation) {
        let mut seen = lock(&self.0.whole.overview);
        if seen.as_ref().is_some_and(|seen| seen.by == by) {
            *seen = None;
        }
    }

    /// The database's clock minus this machine's.
    pub(crate) fn skewed(&self, seconds: f64) {
        self.0.clock_skew.set(seconds);
    }
}

/// This machine's time, in seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a timestamp for people: nothing is decided by it")]
pub(crate) fn now_s() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
