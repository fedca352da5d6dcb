//! Traces: an attempt that has ended, with the times of its steps, for whoever makes spans of it.
//!
//! A delivery is a trace. Its identity derives from the delivery ([`TraceParent::of_delivery`]), so nothing about it is
//! stored. Where nothing is configured, or this delivery is not kept, an attempt pays for asking and for nothing else.
//!
//! This module must not: wait, fail, or hand on an address, a subject, a body, a payload or a server's words.

mod context;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

pub use context::{TraceParent, hex};
use hapax_core::{DeliveryKey, Outcome, Phase, Token};
use hapax_mail::moments;
use hapax_store::{Settlement, Verdict};

use crate::{
    config::RelayConfig,
    courier::Office,
    job::{Job, Letter},
};

/// The moment an attempt began.
const BEGAN: &str = "attempt";

/// The header that carries a delivery's place to whoever reads the message.
pub(crate) const HEADER: &str = "traceparent";

/// How a relay traces.
#[derive(Clone, Debug)]
pub struct Tracing {
    /// Of deliveries whose producer said nothing, this part.
    pub sample_ratio: f64,
    /// Who is told.
    pub observer: Arc<dyn Observer>,
}

/// Whoever makes spans of attempts.
pub trait Observer: fmt::Debug + Send + Sync {
    /// An attempt has ended. Called where mail is under way: must not wait, and must not fail.
    fn ended(&self, attempt: Attempt);
}

/// An attempt that has ended, in words that name nobody.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Which delivery.
    pub delivery: DeliveryKey,
    /// Its place in the trace: the span of the whole delivery.
    pub context: TraceParent,
    /// What its producer gave.
    pub parent: Option<TraceParent>,
    /// Its own name in the ledger.
    pub token: Token,
    /// From 1.
    pub number: i32,
    /// Of the notification.
    pub kind: String,
    /// The way it went.
    pub route: String,
    /// `host:port` of the mail server; none where it was not reached.
    pub server: Option<String>,
    /// What becomes of the delivery, as in the closing line.
    pub verdict: &'static str,
    /// What the attempt came to; none when nothing was tried.
    pub outcome: Option<&'static str>,
    /// How far it came.
    pub phase: &'static str,
    /// The code of the server's reply.
    pub code: Option<u16>,
    /// Its enhanced status code.
    pub enhanced: Option<String>,
    /// Whether its intent was durable.
    pub intended: bool,
    /// Of the message that were written.
    pub bytes: usize,
    /// The mail server took it.
    pub accepted: bool,
    /// No attempt follows by itself.
    pub last: bool,
    /// When it could first have been sent.
    pub since: SystemTime,
    /// When this attempt began.
    pub began: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// When which step was done, in their order.
    pub steps: Vec<(&'static str, SystemTime)>,
}

/// The place of a delivery, where this relay traces at all.
pub(crate) fn place(config: &RelayConfig, letter: &Letter, delivery: DeliveryKey) -> Option<TraceParent> {
    let tracing = config.tracing.as_ref()?;
    Some(TraceParent::of_delivery(delivery, letter.parent.as_ref(), tracing.sample_ratio))
}

/// Runs an attempt; its steps are kept where its trace is.
pub(crate) async fn heard<T>(place: Option<TraceParent>, attempt: Pin<Box<impl Future<Output = T>>>) -> T {
    match place {
        Some(place) if place.sampled => moments::heard(BEGAN, attempt).await,
        _ => attempt.await,
    }
}

/// Tells of an attempt that has ended; its outcome is about to be made durable.
pub(crate) fn tell(office: &Office, job: &Job, settled: &Settlement) {
    let (Some(tracing), Some(context)) = (&office.config.tracing, job.trace.filter(|place| place.sampled)) else {
        return;
    };
    let (now, wall) = (Instant::now(), wall());
    let at = |moment: Instant| before(wall, now.saturating_duration_since(moment));
    let mut steps = moments::take().into_iter().map(|(step, moment)| (step, at(moment)));
    let began = steps.next().map_or(wall, |(_, began)| began);
    let outcome = settled.outcome.as_ref();
    let reply = outcome.and_then(Outcome::reply);
    tracing.observer.ended(Attempt {
        delivery: job.claimed.key,
        context,
        parent: job.letter.parent,
        token: job.token,
        number: i32::from(job.claimed.attempt_no) + 1,
        kind: job.letter.notification.kind.clone(),
        route: settled.route.clone(),
        // What follows is the server's own word.
        server: settled.server.as_deref().and_then(|server| server.split(' ').next()).map(str::to_owned),
        verdict: settled.verdict.as_str(),
        outcome: outcome.map(Outcome::as_str),
        phase: outcome.map_or(Phase::Prepare, Outcome::phase).as_str(),
        code: reply.map(|reply| reply.code),
        enhanced: reply.and_then(|reply| reply.enhanced.clone()),
        intended: settled.intended,
        bytes: settled.bytes,
        accepted: matches!(outcome, Some(Outcome::Accepted { .. })),
        last: is_last(&settled.verdict),
        since: before(wall, job.letter.age(office.clock.as_ref())),
        began,
        ended: wall,
        steps: steps.collect(),
    });
}

/// Whether a delivery has come to its end. A doubt has not: somebody or something will resolve it.
fn is_last(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Sent | Verdict::SentElsewhere(_) | Verdict::Failed(_) => true,
        Verdict::Expired | Verdict::Suppressed(_) => true,
        Verdict::Retry { .. } | Verdict::InDoubt(_) | Verdict::DoubtAgain(_) => false,
        Verdict::Held(_) | Verdict::Poison(_) => false,
    }
}

fn before(now: SystemTime, passed: Duration) -> SystemTime {
    now.checked_sub(passed).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[expect(clippy::disallowed_methods, reason = "a time in a trace, for people: nothing is decided by it")]
fn wall() -> SystemTime {
    SystemTime::now()
}
