//! A route at work: its queue of deliveries, its couriers, and a breaker for when the route itself fails.
//!
//! Invariant: connection-level failures count against the route, never against the message. While the breaker is closed
//! for a while, nothing is claimed for the route but one probe at a time.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use hapax_core::{Outcome, RetryPolicy, clock::Clock};
use hapax_mail::{Connection, Mailer};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    config::RouteConfig,
    error::Error,
    flights::OfRoute,
    job::Job,
    lines::Lines,
    meters::{Meters, RouteMeters, now_s},
    pace::Turn,
    stock::Stock,
    told::{Told, why},
};

/// How long a courier without work keeps its connection.
const IDLE_MAX: Duration = Duration::from_secs(20);

/// The pause after failures of the route in a row.
const PAUSE: RetryPolicy = RetryPolicy {
    first: Duration::from_secs(1),
    factor: 2.0,
    cap: Duration::from_secs(60),
    give_up_after: Duration::MAX,
    jitter: 0.2,
};

/// So long after a rest that nobody has ended, it is forgotten: twice the longest pause.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(120);

/// One way out, shared by the pump and its couriers.
pub(crate) struct Route {
    pub(crate) config: RouteConfig,
    /// `lane / 4` of its deliveries: its own group first, and group 0 for the default route.
    pub(crate) groups: Vec<i16>,
    pub(crate) mailer: Mailer,
    /// Places for what is claimed for it.
    pub(crate) stock: Stock,
    /// What it has in common with earlier incarnations of it.
    pub(crate) shared: OfRoute,
    pub(crate) meters: RouteMeters,
    /// As last heard: it stands in for nobody then.
    pub(crate) paused: AtomicBool,
    state: Mutex<State>,
    arrived: Notify,
    clock: Arc<dyn Clock>,
}

struct State {
    queue: VecDeque<Job>,
    couriers: usize,
    idle: usize,
    /// Couriers that hold an open connection.
    connected: usize,
    failures: u32,
    closed_until: Option<Duration>,
    lines: Lines,
    /// How it failed last, and since when it has.
    why: String,
    since: Option<f64>,
}

impl State {
    fn says(&mut self, why: String) {
        self.why = why;
        self.since.get_or_insert_with(now_s);
    }

    fn new(max_connections: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            couriers: 0,
            idle: 0,
            connected: 0,
            failures: 0,
            closed_until: None,
            lines: Lines::new(max_connections),
            why: String::new(),
            since: None,
        }
    }

    /// Closes the breaker, longer each time; what fails while it is closed counts as the same failure.
    fn close(&mut self, now: Duration, chance: f64, why: String) -> u32 {
        self.says(why);
        if self.closed_until.is_none_or(|until| now >= until) {
            self.failures = self.failures.saturating_add(1);
            self.closed_until = Some(now + PAUSE.pause(self.failures, chance));
        }
        self.failures
    }
}

impl Route {
    pub(crate) fn new(
        config: RouteConfig,
        groups: Vec<i16>,
        stock: Stock,
        shared: OfRoute,
        clock: Arc<dyn Clock>,
        meters: &Meters,
    ) -> Result<Self, Error> {
        let mailer = Mailer::new(config.transport.clone(), clock.clone())
            .map_err(|source| Error::Route { route: config.name.clone(), source })?;
        let (meters, arrived) = (meters.route(&config.name), Notify::new());
        let state = Mutex::new(State::new(config.max_connections));
        meters.connections_limit(config.max_connections);
        meters.blocked.set(0);
        meters.waiting_for_rate.set(0);
        if config.rate.is_none() && config.warm_up.is_none() {
            meters.unlimited();
        }
        let paused = AtomicBool::new(false);
        Ok(Self { config, groups, mailer, stock, shared, meters, paused, state, arrived, clock })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many deliveries it would take now: its free permits, as far as its rate lets it, none while its breaker is
    /// closed, one as a probe.
    pub(crate) fn free(&self) -> usize {
        self.takes(self.stock.free())
    }

    /// As [`Route::free`], of what is urgent.
    pub(crate) fn free_for_urgent(&self) -> usize {
        self.takes(self.stock.free_for_urgent())
    }

    fn takes(&self, free: usize) -> usize {
        let now = self.clock.boottime();
        let free = free.min(self.shared.pace.room(now));
        let state = self.state();
        match state.closed_until {
            Some(until) if now < until => 0,
            Some(_) if state.failures > 0 => {
                free.min(usize::from(state.queue.is_empty() && state.idle == state.couriers))
            }
            _ => free,
        }
    }

    /// After a rest that nobody has ended: while something waited, it would have been tried long ago. Whoever comes next finds
    /// out how it is; until then there is nothing to complain of.
    pub(crate) fn forget_rest(&self) {
        let mut state = self.state();
        let forgotten = |until| self.clock.boottime() >= until + FORGOTTEN_AFTER;
        if !state.closed_until.is_some_and(forgotten) || !state.queue.is_empty() || state.idle < state.couriers {
            return;
        }
        (state.failures, state.closed_until) = (0, None);
        if self.allowed(&state) >= self.config.max_connections {
            state.since = None;
        }
        drop(state);
        self.meters.blocked.set(0);
        self.shared.change();
    }

    /// When its rate has room again; none when it has.
    pub(crate) fn room_in(&self) -> Option<Duration> {
        let (now, pace) = (self.clock.boottime(), &self.shared.pace);
        let waits = pace.is_limited() && pace.room(now) == 0;
        self.meters.waiting_for_rate.set(i64::from(waits));
        waits.then(|| pace.room_in(now)).flatten()
    }

    /// A turn for a delivery that has been claimed.
    pub(crate) fn turn(&self) -> Option<Turn> {
        self.shared.pace.reserve(self.clock.boottime())
    }

    /// It is known who lives: tells how fast this relay may go, and couriers that are too many now end when they are idle.
    pub(crate) fn say_share(&self) {
        match self.shared.pace.share() {
            Some(share) => self.meters.limited_to(share),
            // Warm enough.
            None if self.config.warm_up.is_some() => self.meters.unlimited(),
            None => {}
        }
        let too_many = {
            let state = self.state();
            state.couriers > self.most(&state)
        };
        if too_many {
            self.arrived.notify_waiters();
        }
    }

    /// Hands a delivery to the couriers, before the less urgent ones. Answers whether one more courier is wanted (and
    /// counted).
    pub(crate) fn push(&self, job: Job) -> bool {
        let mut state = self.state();
        let priority = job.letter.priority();
        let behind = state.queue.iter().rev().take_while(|other| other.letter.priority() > priority).count();
        let at = state.queue.len() - behind;
        state.queue.insert(at, job);
        let wanted = self.wants(&mut state);
        drop(state);
        self.arrived.notify_one();
        wanted
    }

    /// Whether one more courier is wanted for what waits, now that there may be more of them (and counts it).
    pub(crate) fn hires(&self) -> bool {
        let wanted = self.wants(&mut self.state());
        if wanted {
            self.arrived.notify_one();
        }
        wanted
    }

    fn wants(&self, state: &mut State) -> bool {
        if state.queue.len() <= state.idle {
            return false;
        }
        // What an earlier incarnation still has counts; but one there must be.
        let most = self.most(state).saturating_sub(self.shared.couriers_elsewhere(state.couriers)).max(1);
        let wanted = state.couriers < most;
        if wanted {
            state.couriers += 1;
            self.shared.courier_begins();
        }
        wanted
    }

    /// The next delivery for a courier; none when it has waited long enough, is one too many, or the relay is shutting
    /// down: then the courier has been counted out and must end.
    async fn next(&self, soft: &CancellationToken) -> Option<Job> {
        let waited = tokio::time::sleep(IDLE_MAX);
        tokio::pin!(waited);
        let mut idle = false;
        loop {
            let arrived = self.arrived.notified();
            {
                let mut state = self.state();
                if idle {
                    state.idle -= 1;
                }
                let one_too_many = state.couriers > 1 && state.couriers > self.most(&state);
                let ended = soft.is_cancelled() || waited.is_elapsed() || one_too_many;
                if !one_too_many
                    && !soft.is_cancelled()
                    && let Some(job) = state.queue.pop_front()
                {
                    if !state.queue.is_empty() {
                        self.arrived.notify_one();
                    }
                    return Some(job);
                }
                if ended {
                    state.couriers -= 1;
                    self.shared.courier_ends();
                    if one_too_many {
                        // It may have been told of something.
                        self.arrived.notify_one();
                    }
                    return None;
                }
                state.idle += 1;
                idle = true;
            }
            tokio::select! {
                () = arrived => {}
                () = soft.cancelled() => {}
                () = &mut waited => {}
            }
        }
    }

    /// What is still waiting, to be given back.
    pub(crate) fn drain(&self) -> Vec<Job> {
        self.state().queue.drain(..).collect()
    }

    /// How long it is closed yet, if it is.
    pub(crate) fn closed_for(&self) -> Option<Duration> {
        let left = self.state().closed_until?.saturating_sub(self.clock.boottime());
        (!left.is_zero()).then_some(left)
    }

    /// A connection was opened and authenticated.
    pub(crate) fn opened(&self, connection: &Connection) {
        if let Some(until) = connection.certificate_until_s() {
            self.meters.certified(until as f64);
        }
        self.state().connected += 1;
        self.meters.busy.inc();
    }

    /// The server spoke of a message, not of the route: whatever was wrong with the route is over.
    pub(crate) fn works(&self) {
        let mut state = self.state();
        state.failures = 0;
        if state.closed_until.take().is_some() {
            self.meters.blocked.set(0);
            self.shared.change();
        }
    }

    /// A connection was given up, by whomever.
    pub(crate) fn closed(&self) {
        let mut state = self.state();
        if state.connected > 0 {
            state.connected -= 1;
            self.meters.busy.dec();
        }
    }

    /// No connection could be had. Other couriers that have one go on with the work: then the job goes back to the queue
    /// (none is returned). Otherwise the route is at fault: answers the job with the failures in a row.
    pub(crate) fn failed(&self, mut job: Job, outcome: &Outcome, chance: f64) -> Option<(Job, u32)> {
        let now = self.clock.boottime();
        let mut state = self.state();
        if state.connected > 0 {
            let connected = state.connected;
            state.lines.no_more_than(connected, now);
            state.says(why(outcome));
            self.shared.change();
            self.allowed(&state);
            job.permit.flight = None; // it waits again
            state.queue.push_front(job);
            drop(state);
            self.arrived.notify_one();
            return None;
        }
        self.meters.blocked.set(1);
        self.shared.change();
        Some((job, state.close(now, chance, why(outcome))))
    }

    /// How many connections the server allows now.
    fn allowed(&self, state: &State) -> usize {
        let allowed = state.lines.allowed(self.clock.boottime());
        self.meters.connections_limit(allowed.min(self.shared.part_of(self.config.max_connections)));
        allowed
    }

    /// How many connections this relay may have now: its part, as far as the server allows it.
    fn most(&self, state: &State) -> usize {
        self.allowed(state).min(self.shared.part_of(self.config.max_connections))
    }

    /// The server asked for less, of a message. Answers how often since it accepted one: with one connection left the
    /// route rests, like one that fails.
    pub(crate) fn slow_down(&self, outcome: &Outcome, chance: f64) -> u32 {
        let now = self.clock.boottime();
        let mut state = self.state();
        let in_use = state.couriers;
        if state.lines.slow_down(in_use, now) && state.lines.hints > 1 {
            self.meters.blocked.set(1);
            state.close(now, chance, why(outcome));
        }
        state.says(why(outcome));
        self.shared.change();
        self.allowed(&state);
        state.lines.hints
    }

    /// The server took a message.
    pub(crate) fn accepted(&self) {
        let mut state = self.state();
        let before = state.lines.slowed();
        state.lines.accepted(self.clock.boottime());
        let allowed = self.allowed(&state);
        if allowed >= self.config.max_connections && state.failures == 0 {
            state.since = None;
        }
        if before != state.lines.slowed() {
            self.shared.change();
        }
    }

    /// The server refused the route itself on an open connection. Answers the failures in a row.
    pub(crate) fn refused(&self, outcome: &Outcome, chance: f64) -> u32 {
        let now = self.clock.boottime();
        self.meters.blocked.set(1);
        self.shared.change();
        self.state().close(now, chance, why(outcome))
    }

    /// What is to be said of it: nothing while all is well.
    pub(crate) fn told(&self) -> Option<Told> {
        let state = self.state();
        let connections = state.lines.allowed(self.clock.boottime());
        let word = match (state.closed_until.is_some(), connections < self.config.max_connections) {
            (true, _) => "resting",
            (_, true) => "slowed",
            _ => return None,
        };
        Some(Told {
            route: self.config.name.clone(),
            state: word,
            since: state.since.unwrap_or_default() as u64,
            failures: state.failures,
            connections,
            why: state.why.clone(),
        })
    }

    /// Whether it rests after failures, or was not tried since: then what may go another way does.
    pub(crate) fn is_resting(&self) -> bool {
        self.state().closed_until.is_some()
    }

    /// As [`Route::next`], of a courier that holds an open connection meanwhile.
    pub(crate) async fn next_on(&self, connected: bool, soft: &CancellationToken) -> Option<Job> {
        if !connected {
            return self.next(soft).await;
        }
        self.meters.busy.dec();
        self.meters.idle.inc();
        let next = self.next(soft).await;
        self.meters.idle.dec();
        self.meters.busy.inc();
        next
    }

    /// A courier ends without having asked for more work.
    pub(crate) fn courier_ended(&self) {
        let mut state = self.state();
        state.couriers = state.couriers.saturating_sub(1);
        self.shared.courier_ends();
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use hapax_core::{Phase, outcome::Cause};
    use hapax_mail::Transport;

    use super::*;
    use crate::Flights;

    #[derive(Debug)]
    struct Hand(Mutex<Duration>);

    impl Clock for Hand {
        fn boottime(&self) -> Duration {
            *self.0.lock().expect("not poisoned")
        }
    }

    #[test]
    fn a_rest_that_nobody_has_ended_is_forgotten_and_one_that_was_renewed_is_not() {
        let hand = Arc::new(Hand(Mutex::new(Duration::from_secs(1_000))));
        let after = |seconds| *hand.0.lock().expect("not poisoned") += Duration::from_secs(seconds);
        let config = RouteConfig {
            name: "a".into(),
            transport: Transport::File { directory: PathBuf::from(".") },
            from: "shop@example.org".into(),
            max_connections: 4,
            messages_per_connection_max: 100,
            connection_age_max: Duration::from_secs(300),
            rate: None,
            warm_up: None,
            fallback: Vec::new(),
            weights: Vec::new(),
            envelope_sender: None,
            idempotency: None,
            retry: hapax_core::RetryPart::default(),
            codes: hapax_core::Codes::default(),
            dkim: Vec::new(),
            traceparent_header: false,
        };
        let (shared, meters) = (Flights::default().of_route("a", 4), Meters::default());
        let stock = Stock::new(4, &hapax_core::limits::Limits::default());
        let route = Route::new(config, vec![0], stock, shared, hand.clone(), &meters).expect("a route");
        let outcome = Outcome::not_sent(Phase::Connect, Cause::Io, "refused");
        assert_eq!(route.refused(&outcome, 0.5), 1);
        after(100);
        assert_eq!(route.refused(&outcome, 0.5), 2, "a probe failed");
        after(100);
        route.forget_rest();
        assert!(route.is_resting() && route.told().is_some(), "it was tried less than two minutes ago");
        assert_eq!(route.meters.blocked.get(), 1);
        after(30);
        route.forget_rest();
        assert!(!route.is_resting() && route.told().is_none() && route.free() == 4);
        assert_eq!(route.meters.blocked.get(), 0);
        assert_eq!(route.refused(&outcome, 0.5), 1, "it begins anew");
    }
}
