//! Claims as many deliveries as there are free places, lane by lane, and hands them to their routes. A place is one in
//! flight or one in stock: what is in stock is claimed and read, so that couriers never wait for the database, and a claim
//! is for many.
//!
//! Polling adapts (`idle.rs`): at once after a claim that found something, `poll_interval_min` while something happened
//! lately, backing off to `poll_interval_max`; a relay with little to do may be woken instead. A claim that comes back short, and every rescan interval, begins at the start of
//! the index again: rows committed late lie behind the cursor.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hapax_core::{DeliveryKey, MessageId, Outcome, Phase, Token, fault, limits::Limits, outcome::Cause};
use hapax_store::{Claimed, Release, Settlement, Verdict};
use tokio::sync::{oneshot, watch};
use tokio_util::task::TaskTracker;

use crate::{
    collect,
    complaint::Complaint,
    contents,
    courier::{self, Office},
    detour::{Way, Ways},
    ear::Heard,
    flights::Flights,
    idle::Idle,
    job::{Job, Letter, Permit},
    lanes::{Cursors, lanes_of},
    pauses,
    progress::{Progress, Pulse},
    quiet::{self, Rest},
    repeats,
    rounds::is_urgent,
    route::Route,
    stock::Stock,
    trace, upstream,
};

pub(crate) struct Pump {
    pub(crate) office: Arc<Office>,
    pub(crate) routes: Ways,
    /// The lane groups this relay serves, with their routes.
    pub(crate) groups: Vec<(Arc<Route>, i16)>,
    /// Index of the default route in `routes`.
    pub(crate) default_route: usize,
    pub(crate) stock: Stock,
    pub(crate) couriers: TaskTracker,
    pub(crate) progress: Progress,
    pub(crate) pulse: Pulse,
    pub(crate) shared: Flights,
}

/// What becomes of a claimed delivery.
enum Fate {
    /// It is tried by this route; nothing of it may be transmitted after `window_ends` (CLOCK_BOOTTIME).
    Send { route: Arc<Route>, window_ends: Option<Duration> },
    /// It is not tried, and never reaches a connection.
    Stop(Verdict),
    /// Its route rests, and no other may take it: not before so long.
    Wait(Duration),
    /// It is quiet where it goes.
    Quiet(Rest),
    /// This relay has no such route.
    NoRoute(String),
}

/// A delivery that may kill its relay.
struct Suspect {
    route: Arc<Route>,
    claimed: Claimed,
    letter: Arc<Letter>,
    window_ends: Option<Duration>,
}

impl Pump {
    /// Runs until the soft token is cancelled.
    pub(crate) async fn run(self, ear: Option<watch::Receiver<Heard>>) {
        let alive = self.office.fatal.alive("pump");
        let mut cursors = Cursors::default();
        let mut idle = Idle::new(self.office.config.limits, ear);
        let mut complaint = Complaint::default();
        // Before the first heartbeat every gate is shut: what were claimed now would be tried for nothing.
        // Before the first look at who lives its part of the connections is not known.
        let begins = || self.office.heartbeat.last().is_some() && self.shared.are_shared();
        while !begins() && !self.office.soft.is_cancelled() {
            self.pulse.beat();
            self.rest(self.office.config.limits.poll_interval_min).await;
        }
        while !self.office.soft.is_cancelled() {
            self.pulse.beat();
            let looked = self.look_and_round(&mut idle, &mut cursors).await;
            if looked.is_ok() {
                complaint.is_over();
            }
            match looked {
                Ok(more) if more || self.stock.free() == 0 => self.wait_for_room(&mut idle).await,
                Ok(_) => {
                    self.pulse.beat();
                    idle.rest(self.office.clock.as_ref(), &self.office.soft).await;
                }
                Err(error) => {
                    let Ok(error) = self.office.fatal.check_guard(error) else { break };
                    if complaint.is_due() {
                        tracing::warn!(error = error.in_full(), "claiming failed, trying again");
                    }
                    self.rest(Duration::from_millis(500)).await;
                }
            }
        }
        idle.end(&self.office.store).await;
        alive.finished();
    }

    /// A round over the lanes that are worth it. Answers whether to go on at once.
    async fn look_and_round(&self, idle: &mut Idle, cursors: &mut Cursors) -> Result<bool, hapax_store::Error> {
        let room = self.stock.free();
        let (clock, pauses) = (self.office.clock.as_ref(), &self.office.pauses);
        pauses.refresh(&self.office.store, clock).await?;
        self.pulse.beat();
        for route in &self.routes.0 {
            route.paused.store(pauses.is_paused(&route.config.name), Ordering::Relaxed);
        }
        let goes = |route: &Arc<Route>| !pauses.is_paused(&route.config.name) || self.has_guests(route);
        let is_open = |route: &Arc<Route>| room.min(self.room(route)) > 0 && goes(route);
        let (open, closed): (Vec<_>, Vec<_>) = self.groups.iter().partition(|(route, _)| is_open(route));
        let mut lanes = lanes_of(open.iter().map(|(_, group)| *group));
        lanes.extend(
            closed.iter().filter(|(route, _)| goes(route)).filter_map(|(route, group)| self.reserved(route, *group)),
        );
        let (due, seen) =
            idle.look(&self.office.store, clock, lanes, closed.is_empty(), (cursors, &self.pulse)).await?;
        if seen {
            cursors.see(due.iter().copied(), clock.boottime());
        }
        for route in &self.routes.0 {
            route.forget_rest();
            // Its part of the connections may have grown since its deliveries were handed to it.
            while !route.is_resting() && route.hires() {
                self.couriers.spawn(courier::work(self.office.clone(), route.clone()));
            }
        }
        if let Some(pause) = self.routes.0.iter().filter_map(|route| route.room_in()).min() {
            idle.look_within(pause);
        }
        self.pulse.beat();
        let found = if due.is_empty() { 0 } else { self.round(cursors, &due).await? };
        self.progress.polled();
        self.office.meters.polled();
        self.pulse.beat();
        Ok(idle.found(&self.office.store, found, room, clock.boottime()).await)
    }

    async fn rest(&self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.office.soft.cancelled() => {}
        }
    }

    /// The route whose lane it is.
    fn route_of_lane(&self, lane: i16) -> &Arc<Route> {
        let own = self.groups.iter().find(|(_, group)| *group == lane.div_euclid(4));
        own.map_or(&self.routes.0[self.default_route], |(route, _)| route)
    }

    /// Fetches what the claimed deliveries say and hands them on. `asked` is the boot time before they were claimed.
    pub(crate) async fn dispatch(&self, mut claimed: Vec<Claimed>, asked: Duration) -> Result<(), hapax_store::Error> {
        match pauses::among(&self.office, &claimed).await {
            Ok(paused) => claimed.retain(|claimed| !paused.contains(&claimed.key)),
            // Which one is told by the contents; what is paused gets no intent.
            Err(error) if error.is_damage() => {
                tracing::error!(
                    error = error.in_full(),
                    "it cannot be told what of this is paused or suppressed: intend will say"
                );
            }
            Err(error) => {
                self.release(claimed.iter().map(|claimed| (claimed, None, Duration::ZERO)).collect()).await;
                return Err(error);
            }
        }
        if claimed.is_empty() {
            return Ok(());
        }
        self.pulse.beat();
        let mut ids: Vec<MessageId> = claimed.iter().map(|claimed| claimed.key.message_id).collect();
        ids.dedup();
        self.pulse.beat();
        let letters = match contents::fetch(&self.office, &ids).await {
            Ok(letters) => letters,
            Err(error) => {
                self.release(claimed.iter().map(|claimed| (claimed, None, Duration::ZERO)).collect()).await;
                return Err(error);
            }
        };
        let claimed = repeats::without(&self.office, claimed, &letters).await;
        let claimed = collect::apart(&self.office, claimed, &letters).await;
        let (mut elsewhere, mut quiet, mut suspects) = (Vec::new(), Vec::new(), Vec::new());
        for claimed in claimed {
            self.pulse.beat();
            let lane_route = self.route_of_lane(claimed.lane);
            let letter = match letters.get(&claimed.key.message_id) {
                Some(Ok(letter)) => letter.clone(),
                other => {
                    let missing = || "content missing: the message is not in outbox.message any more".to_owned();
                    let reason =
                        other.and_then(|unreadable| unreadable.as_ref().err().cloned()).unwrap_or_else(missing);
                    self.settle_unsent(lane_route, &claimed, Verdict::Failed(reason)).await;
                    continue;
                }
            };
            let (route, fate) = match self.fate(&claimed, &letter, asked) {
                Fate::Send { route, window_ends } => (route, Ok(window_ends)),
                Fate::Stop(verdict) => (lane_route.clone(), Err(verdict)),
                Fate::Wait(pause) => {
                    elsewhere.push((claimed, None, pause));
                    continue;
                }
                Fate::Quiet(rest) => {
                    quiet.push((claimed.given_back(rest.after), rest.why));
                    continue;
                }
                Fate::NoRoute(reason) => {
                    self.settle_unsent(lane_route, &claimed, Verdict::Held(reason)).await;
                    continue;
                }
            };
            if let (Ok(window_ends), true) = (&fate, claimed.claims > self.office.config.limits.suspect_after_claims) {
                suspects.push(Suspect { route, claimed, letter, window_ends: *window_ends });
                continue;
            }
            match (self.permit(&route, is_urgent(claimed.lane)), fate) {
                (Some(permit), Ok(window_ends)) => {
                    let job = Job { window_ends, ..self.job(claimed, letter, permit, None) };
                    self.push(&route, job);
                }
                (Some(permit), Err(verdict)) => self.stop(&route, &claimed, verdict, permit),
                // Its route is busy and this lane is not the route's own: into the right one, where it waits.
                (None, _) => {
                    let lane = route.groups[0] * 4 + letter.priority().lane_offset();
                    let is_detour = self.is_detour(&route, &letter, &claimed);
                    let own = is_detour || Arc::ptr_eq(&route, self.route_of_lane(claimed.lane));
                    elsewhere.push((claimed, Some(lane).filter(|_| !own), Duration::ZERO));
                }
            }
        }
        self.pulse.beat();
        self.release(elsewhere.iter().map(|(claimed, lane, pause)| (claimed, *lane, *pause)).collect()).await;
        quiet::give_back(&self.office.store, &quiet).await;
        self.try_suspects(suspects).await;
        Ok(())
    }

    /// Whether and where a delivery goes. What has expired is expired even where a guard would hold it.
    fn fate(&self, claimed: &Claimed, letter: &Letter, asked: Duration) -> Fate {
        let config = &self.office.config;
        if letter.expires_in(self.office.clock.as_ref()).is_some_and(|left| left.is_zero()) {
            return Fate::Stop(Verdict::Expired);
        }
        if config.guards.is_too_old(claimed.due_for) {
            return Fate::Stop(Verdict::Held(too_old(claimed, config.guards.max_age.unwrap_or_default())));
        }
        let clock = self.office.clock.as_ref();
        let quiet = quiet::rest(config, &self.office.zones, claimed, letter, clock);
        if let Some(bound) = claimed.bound {
            return match upstream::way_of(config, claimed.pinned_route.as_deref(), bound, asked) {
                // It may wait for as long as there is as much time left after it: its window comes first.
                Ok((_, ends)) if let Some(rest) = quiet.filter(|rest| clock.boottime() + 2 * rest.after < ends) => {
                    Fate::Quiet(rest)
                }
                Ok((name, ends)) => match self.routes.named(name) {
                    Some(route) => Fate::Send { route: route.clone(), window_ends: Some(ends) },
                    None => Fate::NoRoute(format!("route {name:?} is not at work on this relay")),
                },
                Err(reason) => Fate::Stop(Verdict::DoubtAgain(reason)),
            };
        }
        if let Some(rest) = quiet {
            return Fate::Quiet(rest);
        }
        match self.route_of(letter, claimed) {
            Ok(route) => match self.routes.way(&route, claimed) {
                Way::By(route) => Fate::Send { route, window_ends: None },
                Way::Wait(pause) => Fate::Wait(pause),
            },
            Err(name) => Fate::NoRoute(format!(
                "route {name:?} is not configured on this relay (hint: add [routes.{name}] and release it)"
            )),
        }
    }

    /// Settles what is not even tried, with many others in one commit.
    fn stop(&self, route: &Route, claimed: &Claimed, verdict: Verdict, permit: Permit) {
        match &verdict {
            Verdict::Held(reason) => tracing::warn!(delivery = %claimed.key, reason, "held, not sent"),
            Verdict::DoubtAgain(reason) => {
                tracing::error!(delivery = %claimed.key, reason, "in doubt again, nothing was transmitted");
            }
            _ => tracing::warn!(delivery = %claimed.key, "expired, not sent"),
        }
        let settlement = Settlement {
            key: claimed.key,
            lease: claimed.lease,
            token: Token::fresh(),
            intended: false,
            verdict,
            outcome: None,
            route: route.config.name.clone(),
            server: None,
            took: Duration::ZERO,
            bytes: 0,
        };
        self.office.ledger.settle(settlement, permit, None);
    }

    /// Deliveries that may kill their relay: one alone, with nothing else in flight before its intent, the others given
    /// back first, so that no innocent neighbour is counted when the process dies. Whoever dies alone is poison.
    async fn try_suspects(&self, mut suspects: Vec<Suspect>) {
        let limits = &self.office.config.limits;
        suspects.sort_by_key(|suspect| std::cmp::Reverse(suspect.claimed.claims));
        let mut suspects = suspects.into_iter();
        let Some(Suspect { route, claimed, letter, window_ends }) = suspects.next() else { return };
        self.pulse.beat();
        let others: Vec<Claimed> = suspects.map(|suspect| suspect.claimed).collect();
        self.release(others.iter().map(|claimed| (claimed, None, Duration::ZERO)).collect()).await;
        if claimed.claims > limits.suspect_after_claims + 1 {
            let reason = format!(
                "poison: the relay died {} times while it was in hand, the last time with nothing else",
                claimed.claims - 1
            );
            return self.settle_unsent(&route, &claimed, Verdict::Poison(reason)).await;
        }
        let Some(permit) = self.permit(&route, false) else {
            return self.release(vec![(&claimed, None, Duration::ZERO)]).await;
        };
        tracing::warn!(delivery = %claimed.key, claims = claimed.claims, "suspected to kill its relay: alone until its intent");
        self.pulse.idle();
        let (intended, done) = oneshot::channel();
        let job = Job { window_ends, ..self.job(claimed, letter, permit, Some(intended)) };
        let alone = tokio::select! {
            alone = self.stock.all_others() => alone,
            () = self.office.soft.cancelled() => return courier::give_back(&self.office, job, Duration::ZERO).await,
        };
        self.push(&route, job);
        // Told when the intent is durable; an error means that the attempt has ended without one.
        drop(done.await);
        drop(alone);
    }

    /// The route of a delivery, or of those that share what is for that route its one.
    fn route_of(&self, letter: &Letter, claimed: &Claimed) -> Result<Arc<Route>, String> {
        let route = match self.office.config.directions.route_of(&letter.notification, &letter.policy) {
            None => &self.routes.0[self.default_route],
            Some(name) => self.routes.named(name).ok_or_else(|| name.to_owned())?,
        };
        Ok(self.routes.share(route, claimed))
    }

    /// Whether this is not the delivery's own route.
    fn is_detour(&self, route: &Arc<Route>, letter: &Letter, claimed: &Claimed) -> bool {
        self.route_of(letter, claimed).is_ok_and(|own| !Arc::ptr_eq(&own, route))
    }

    fn permit(&self, route: &Route, is_urgent: bool) -> Option<Permit> {
        let of_route = route.stock.take(is_urgent)?;
        let global = self.stock.take(is_urgent)?;
        Some(Permit { _global: global, _route: Some(of_route), flight: None, turn: route.turn()? })
    }

    fn job(&self, claimed: Claimed, letter: Arc<Letter>, permit: Permit, intended: Option<oneshot::Sender<()>>) -> Job {
        let in_hand = self.office.hands.take(claimed.key, claimed.lease, self.office.clock.boottime());
        let trace = trace::place(&self.office.config, &letter, claimed.key);
        let (token, window_ends) = (Token::fresh(), None);
        Job { claimed, letter, token, permit, _in_hand: in_hand, intended, window_ends, trace }
    }

    fn push(&self, route: &Arc<Route>, job: Job) {
        if route.push(job) {
            self.couriers.spawn(courier::work(self.office.clone(), route.clone()));
        }
    }

    /// Settles what cannot even be tried, without a permit: the pump waits for it.
    async fn settle_unsent(&self, route: &Route, claimed: &Claimed, verdict: Verdict) {
        let reason = match &verdict {
            Verdict::Failed(reason) | Verdict::Held(reason) | Verdict::Poison(reason) => reason.clone(),
            _ => String::new(),
        };
        tracing::error!(delivery = %claimed.key, reason, "cannot be tried");
        let outcome = Outcome::not_sent(Phase::Prepare, Cause::Aborted, reason);
        route.meters.ended(&outcome);
        let settlement = Settlement {
            key: claimed.key,
            lease: claimed.lease,
            token: Token::fresh(),
            intended: false,
            verdict,
            outcome: Some(outcome),
            route: route.config.name.clone(),
            server: None,
            took: Duration::ZERO,
            bytes: 0,
        };
        if let Err(error) = self.office.store.settle(&[settlement]).await {
            tracing::warn!(error = %error, delivery = %claimed.key, "could not be settled, its lease will expire");
        }
    }

    async fn release(&self, batch: Vec<(&Claimed, Option<i16>, Duration)>) {
        if batch.is_empty() {
            return;
        }
        let releases: Vec<Release> = batch
            .iter()
            .map(|(claimed, lane, after)| Release {
                key: claimed.key,
                lease: claimed.lease,
                after: *after,
                lane: *lane,
            })
            .collect();
        fault::point("release_sent");
        if let Err(error) = self.office.store.release(&releases).await {
            tracing::warn!(error = %error, deliveries = releases.len(), "could not be given back, their leases will expire");
        }
    }
}

/// What is said of a delivery that has been due for longer than `limit`.
fn too_old(claimed: &Claimed, limit: Duration) -> String {
    format!(
        "guards.max_age: due for {} h, longer than {} h, so not sent unasked (hint: hapax release {} sends it, hapax cancel \
         does not; a restored or forgotten database has many of these)",
        claimed.due_for.as_secs() / 3600,
        limit.as_secs() / 3600,
        claimed.key.message_id
    )
}

/// How many deliveries may be claimed at once: those in flight, and those that wait for a courier.
pub(crate) fn places(limits: &Limits) -> usize {
    limits.max_in_flight + limits.prefetch
}

/// What each route has of `all` for itself, so that others that stall leave it something; and what is for whoever comes.
pub(crate) fn route_shares(routes: usize, all: usize) -> (usize, usize) {
    let own = if routes <= 1 { all } else { (all / (8 * routes)).max(1) };
    (own, all.saturating_sub(routes * own))
}

/// How many deliveries may be in flight by one of so many routes, of `all`.
#[must_use]
pub fn most_in_flight(routes: usize, all: usize) -> usize {
    let (own, common) = route_shares(routes, all);
    own + common
}

/// Keys of jobs that were never begun, for the log at shutdown.
pub(crate) fn keys(jobs: &[Job]) -> Vec<DeliveryKey> {
    jobs.iter().map(|job| job.claimed.key).collect()
}
