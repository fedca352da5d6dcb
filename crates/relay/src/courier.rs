//! One task per SMTP connection: takes a delivery of its route, converses up to the 354, has the intent made durable,
//! transmits, hands the outcome to the ledger, takes the next.
//!
//! Before the intent everything may be given up at any time (a dropped dialogue discards its connection). From a granted
//! intent on nothing here is cancelled from outside: the gate decides whether the marker may still be written, and the
//! reply decides the rest.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hapax_core::{Outcome, Phase, clock::Clock, fault, mutant, outcome::Cause, throttle::asks_to_slow_down};
use hapax_mail::{Begun, Connection, Data, Envelope, Gate, Heartbeat, moments};
use hapax_render::Renderer;
use hapax_store::{IntendRequest, Release, Store, Verdict};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{RelayConfig, RouteConfig},
    ending::{Ending, settle, unfit_ending},
    fatal::Fatal,
    flights::Places,
    freight::Freight,
    job::{Flight, Job, Maker, Parcel, Press, Unfit},
    ledger::{Intended, Ledger},
    meters::Meters,
    pauses::{self, Pauses},
    quiet::{self, Complaints},
    registry::{Hands, Registry},
    route::Route,
    trace, upstream,
};

/// How long a delivery rests for which there was no turn: others go first meanwhile.
const BUSY_PAUSE: Duration = Duration::from_secs(5);

/// What every courier needs.
pub(crate) struct Office {
    pub(crate) config: Arc<RelayConfig>,
    pub(crate) store: Store,
    pub(crate) renderer: Arc<Renderer>,
    pub(crate) freight: Freight,
    pub(crate) ledger: Ledger,
    pub(crate) registry: Registry,
    pub(crate) hands: Hands,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) heartbeat: Arc<Heartbeat>,
    pub(crate) fatal: Fatal,
    pub(crate) meters: Meters,
    pub(crate) pauses: Pauses,
    /// What was said of zones that are none.
    pub(crate) zones: Complaints,
    pub(crate) soft: CancellationToken,
    /// Places between the beginning of an attempt and its durable outcome: `max_in_flight`, over all incarnations.
    pub(crate) flights: Places,
}

/// Works for `route` until there is nothing to do for a while or the relay shuts down.
pub(crate) async fn work(office: Arc<Office>, route: Arc<Route>) {
    let alive = office.fatal.alive("courier");
    let mut line = Line { connection: None, route: &route };
    while let Some(job) = route.next_on(line.connection.is_some(), &office.soft).await {
        if let Some(left) = route.closed_for() {
            // Where there is another way it need not wait.
            let after = if route.config.fallback.is_empty() { left } else { Duration::ZERO };
            give_back(&office, job, after).await;
            continue;
        }
        let Some(job) = take_off(&office, &route, job).await else { continue };
        let place = job.trace;
        if !trace::heard(place, Box::pin(attempt(&office, &route, &mut line, job))).await {
            route.courier_ended();
            break;
        }
        line.retire_if_old().await;
    }
    line.hang_up().await;
    alive.finished();
}

/// Waits for a place in flight; gives the delivery back when the relay shuts down meanwhile. Its route's place comes first:
/// a route whose server is slow must not hold what others could use. What is paused does not take off.
async fn take_off(office: &Office, route: &Route, mut job: Job) -> Option<Job> {
    let places = async {
        let of_route = route.shared.take().await?;
        let global = office.flights.take().await?;
        Some(Flight { _global: global, _route: of_route })
    };
    tokio::select! { biased; flight = places => job.permit.flight = flight, () = office.soft.cancelled() => {} }
    if job.permit.flight.is_none() {
        give_back(office, job, Duration::ZERO).await;
        return None;
    }
    pauses::let_through(office, route, job).await
}

/// A courier's connection, counted in its route.
struct Line<'a> {
    connection: Option<Connection>,
    route: &'a Route,
}

impl Line<'_> {
    fn keep(&mut self, connection: Option<Connection>) {
        match connection {
            Some(connection) => self.connection = Some(connection),
            None => self.route.closed(),
        }
    }

    /// An idle connection that is still good, if there is one.
    fn take_open(&mut self) -> Option<Connection> {
        let mut connection = self.connection.take()?;
        if connection.is_still_open() {
            return Some(connection);
        }
        self.route.closed();
        None
    }

    async fn retire_if_old(&mut self) {
        let limits = &self.route.config;
        let old = |connection: &Connection| {
            connection.deliveries() >= limits.messages_per_connection_max
                || connection.age() >= limits.connection_age_max
        };
        if self.connection.as_ref().is_some_and(old) {
            self.hang_up().await;
        }
    }

    async fn hang_up(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.route.closed();
            connection.quit().await;
        }
    }
}

/// One attempt, from rendering to the hand-over of its outcome. Answers whether the courier goes on.
async fn attempt(office: &Arc<Office>, route: &Route, line: &mut Line<'_>, mut job: Job) -> bool {
    let began = office.clock.boottime();
    let clock = office.clock.as_ref();
    if job.letter.expires_in(clock).is_some_and(|left| left.is_zero()) {
        settle(office, route, job, Ending::unattempted(Verdict::Expired, None));
        return true;
    }
    if job.window_ends.is_none()
        && let Some(rest) = quiet::rest(&office.config, &office.zones, &job.claimed, &job.letter, clock)
    {
        quiet::give_back(&office.store, &[(job.claimed.given_back(rest.after), rest.why)]).await;
        return true;
    }
    if job.window_ends.is_some_and(|ends| began >= ends) {
        settle(office, route, job, Ending::unattempted(Verdict::DoubtAgain(upstream::closed()), None));
        return true;
    }
    let press = Press {
        renderer: office.renderer.clone(),
        from: route.config.from.clone(),
        dkim: route.config.dkim.clone(),
        recipient_no: job.claimed.key.recipient_no,
    };
    let maker = Maker { press, freight: &office.freight, route: &route.config, place: job.trace };
    let parcel = tokio::select! {
        biased;
        parcel = job.letter.parcel(job.claimed.key, &office.config.guards, maker) => Some(parcel),
        () = office.soft.cancelled() => None,
    };
    let parcel = match parcel {
        Some(Ok(parcel)) => parcel,
        Some(Err(Unfit::Busy)) => {
            give_back(office, job, BUSY_PAUSE).await;
            return true;
        }
        Some(Err(unfit)) => {
            settle(office, route, job, unfit_ending(unfit, began));
            return true;
        }
        None => {
            give_back(office, job, Duration::ZERO).await;
            return true;
        }
    };
    fault::point("rendered");
    let envelope = envelope(&parcel, &job, &route.config);
    let data = match converse(office, line, &envelope, &mut job).await {
        Conversed::Ready(data) => data,
        Conversed::NotNow => {
            give_back(office, job, Duration::ZERO).await;
            return true;
        }
        Conversed::NoConnection(outcome) => {
            let Some((job, failures)) = route.failed(job, &outcome, fastrand::f64()) else { return false };
            // Where there is another way it need not wait for as long as its route does.
            let failures = if route.config.fallback.is_empty() { failures } else { 1 };
            let (server, redirected) = (route.config.address(), parcel.redirected);
            settle(office, route, job, Ending { began, failures, server, redirected, ..Ending::of(outcome) });
            return true;
        }
        Conversed::Ended(outcome, server) => {
            // The server talks, but wants something else of the route (530: TLS, AUTH): no message is at fault, and none
            // will do better. The connection goes, so that a later one may find the route repaired.
            let refused = matches!(&outcome, Outcome::NotSent { phase, .. } if phase.blames_route());
            let failures = match (refused, asks_to_slow_down(&outcome)) {
                (true, _) => route.refused(&outcome, fastrand::f64()),
                (_, true) => route.slow_down(&outcome, fastrand::f64()),
                _ => 0,
            };
            let redirected = parcel.redirected;
            let ending = Ending { began, server: Some(server), failures, redirected, ..Ending::of(outcome) };
            settle(office, route, job, ending);
            if refused {
                line.hang_up().await;
            } else if failures == 0 {
                route.works();
            }
            return true;
        }
    };
    route.works();
    let connection = Box::pin(deliver(office, route, job, &parcel, data, began)).await;
    line.keep(connection);
    true
}

fn envelope(parcel: &Parcel, job: &Job, route: &RouteConfig) -> Envelope {
    let own = route.envelope_sender.as_ref().map(|pattern| pattern.of(job.claimed.key));
    Envelope {
        sender: own.or_else(|| parcel.ready.sender.clone()),
        recipient: parcel.recipient.clone(),
        size: parcel.ready.message.size(),
        eight_bit: parcel.ready.message.needs_8bit(),
        name_hint: format!("{}-{}", job.claimed.key.message_id, job.claimed.key.recipient_no),
    }
}

enum Conversed {
    Ready(Data),
    /// The relay is shutting down, or the route's rate lets nothing out: nothing was transmitted.
    NotNow,
    NoConnection(Outcome),
    Ended(Outcome, String),
}

/// Up to the 354. Everything in here may be dropped at any time: nothing has been transmitted.
async fn converse(office: &Office, line: &mut Line<'_>, envelope: &Envelope, job: &mut Job) -> Conversed {
    let (mut fresh, route, priority) = (false, line.route, job.letter.priority());
    loop {
        let connection = match line.take_open() {
            Some(connection) if !fresh => connection,
            spare => {
                if spare.is_some() {
                    route.closed();
                }
                fresh = true;
                tokio::select! {
                    opened = timed(office, Phase::Connect, route.mailer.open()) => match opened {
                        Ok(connection) => { route.opened(&connection); connection }
                        Err(outcome) => return Conversed::NoConnection(outcome),
                    },
                    () = office.soft.cancelled() => return Conversed::NotNow,
                }
            }
        };
        let turn = tokio::select! {
            turn = job.permit.turn.take(office.clock.as_ref(), priority) => turn,
            () = office.soft.cancelled() => false,
        };
        if !turn {
            line.keep(Some(connection));
            return Conversed::NotNow;
        }
        let server = connection.server().to_owned();
        tokio::select! {
            begun = timed(office, Phase::Data, connection.begin(envelope)) => match begun {
                Begun::Ready(data) => return Conversed::Ready(data),
                // A connection that died idle is not an attempt: once more, on a fresh one.
                Begun::Ended { stale: true, connection, .. } if !fresh => {
                    drop(connection);
                    route.closed();
                    fresh = true;
                }
                Begun::Ended { outcome, connection, .. } => {
                    line.keep(connection);
                    return Conversed::Ended(outcome, server);
                }
            },
            () = office.soft.cancelled() => {
                route.closed();
                return Conversed::NotNow;
            }
        }
    }
}

/// The same, timed.
async fn timed<T>(office: &Office, phase: Phase, step: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let done = step.await;
    office.meters.phase(phase, began.elapsed());
    done
}

/// Intent, end marker, reply. Never cancelled. Answers the connection if it may be used again.
async fn deliver(
    office: &Office,
    route: &Route,
    mut job: Job,
    parcel: &Parcel,
    data: Data,
    began: Duration,
) -> Option<Connection> {
    let (server, redirected) = (Some(data.server().to_owned()), parcel.redirected);
    fault::point("before_intend");
    let now = office.clock.boottime();
    if job.window_ends.is_some_and(|ends| now >= ends) {
        data.abort();
        settle(office, route, job, Ending::unattempted(Verdict::DoubtAgain(upstream::closed()), None));
        return None;
    }
    // The gate closes with the attempt's own deadline or with the upstream's window, whichever comes first.
    let deadline = (now + office.config.limits.transmit_deadline).min(job.window_ends.unwrap_or(Duration::MAX));
    let request = IntendRequest {
        key: job.claimed.key,
        lease: job.claimed.lease,
        token: job.token,
        sha256: parcel.ready.sha256,
        route: route.config.name.clone(),
        upstream: route.config.upstream(),
    };
    office.registry.asked(&request, office.clock.boottime());
    if mutant::is("intent_after_marker") {
        let gate = Gate::until(office.clock.clone(), deadline, office.heartbeat.clone());
        let transmitted = data.transmit(&parcel.ready.message, &gate).await;
        office.ledger.intend(request, deadline).await;
        let ending = Ending { began, server, bytes: transmitted.bytes, ..Ending::of(transmitted.outcome) };
        settle(office, route, job, ending);
        return transmitted.connection;
    }
    match timed(office, Phase::Intend, office.ledger.intend(request, deadline)).await {
        Intended::Granted => {
            office.registry.granted(job.token);
            moments::reached("intent");
        }
        Intended::Refused => {
            data.abort();
            office.registry.refused(job.token);
            tracing::info!(delivery = %job.claimed.key, "not ours any more, or paused: the intent was refused, nothing was transmitted");
            return None;
        }
        Intended::RefusedLate => {
            data.abort();
            // Somebody may have put it in doubt between the execution whose answer was lost and this one.
            let outcome =
                Outcome::not_sent(Phase::Intend, Cause::Aborted, "the intent was taken away before its answer came");
            settle(office, route, job, Ending { began, server, ..Ending::of(outcome) });
            return None;
        }
        Intended::Changed => {
            data.abort();
            let reason = "content changed: an earlier attempt, which is in doubt, transmitted other bytes";
            let outcome = Outcome::not_sent(Phase::Intend, Cause::Aborted, reason);
            let verdict = Some(Verdict::Held(reason.into()));
            settle(office, route, job, Ending { began, server, verdict, redirected, ..Ending::of(outcome) });
            return None;
        }
        Intended::Unavailable => {
            data.abort();
            let outcome = Outcome::not_sent(Phase::Intend, Cause::Aborted, "no durable intent in time");
            settle(office, route, job, Ending { began, server, redirected, ..Ending::of(outcome) });
            return None;
        }
    }
    fault::point("intended");
    if let Some(told) = job.intended.take() {
        told.send(()).unwrap_or_default();
    }
    let gate = Gate::until(office.clock.clone(), deadline, office.heartbeat.clone());
    let transmitted = timed(office, Phase::EndMarker, data.transmit(&parcel.ready.message, &gate)).await;
    fault::point("before_settle");
    let bytes = transmitted.bytes;
    let failures = match &transmitted.outcome {
        outcome if asks_to_slow_down(outcome) => route.slow_down(outcome, fastrand::f64()),
        Outcome::Accepted { .. } => {
            route.accepted();
            0
        }
        _ => 0,
    };
    let ending =
        Ending { began, server, intended: true, bytes, failures, redirected, ..Ending::of(transmitted.outcome) };
    settle(office, route, job, ending);
    transmitted.connection
}

/// Gives a delivery back untouched. If that fails its lease expires.
pub(crate) async fn give_back(office: &Office, job: Job, after: Duration) {
    let release = Release { key: job.claimed.key, lease: job.claimed.lease, after, lane: None };
    fault::point("release_sent");
    if let Err(error) = office.store.release(&[release]).await {
        tracing::warn!(error = %error, delivery = %job.claimed.key, "could not be given back, its lease will expire");
    }
}
