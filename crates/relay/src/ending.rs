//! How an attempt ended, and what follows: decided, counted, and handed to the ledger.

use std::time::Duration;

use hapax_core::{Outcome, Phase, decide, decide::Situation, outcome::Cause};
use hapax_store::{Settlement, Verdict};

use crate::{
    closing::Closing,
    courier::Office,
    job::{Job, Unfit},
    route::Route,
    trace,
    verdict::{obey, redirected},
};

/// How an attempt ended.
pub(crate) struct Ending {
    pub(crate) outcome: Option<Outcome>,
    /// Decided already; otherwise `decide` does.
    pub(crate) verdict: Option<Verdict>,
    pub(crate) began: Duration,
    pub(crate) server: Option<String>,
    pub(crate) intended: bool,
    pub(crate) bytes: usize,
    pub(crate) failures: u32,
    /// It went to somebody else than it is addressed to.
    pub(crate) redirected: bool,
}

impl Ending {
    pub(crate) fn of(outcome: Outcome) -> Self {
        Self {
            outcome: Some(outcome),
            verdict: None,
            began: Duration::MAX,
            server: None,
            intended: false,
            bytes: 0,
            failures: 0,
            redirected: false,
        }
    }

    pub(crate) fn unattempted(verdict: Verdict, outcome: Option<Outcome>) -> Self {
        Self { outcome, verdict: Some(verdict), ..Self::of(Outcome::not_sent(Phase::Prepare, Cause::Aborted, "")) }
    }
}

/// Decides what follows and hands it to the ledger, with the permit and what the attempt's closing line will say.
pub(crate) fn settle(office: &Office, route: &Route, job: Job, ending: Ending) {
    let clock = office.clock.as_ref();
    let took = clock.boottime().saturating_sub(ending.began); // zero when nothing was attempted
    let outcome = ending.outcome.map(|outcome| office.config.weigh(outcome, &job.letter.policy, &route.config));
    let verdict = match (ending.verdict.clone(), &outcome) {
        (Some(verdict), _) => verdict,
        (None, Some(outcome)) => {
            let situation = Situation {
                attempts_before: job.claimed.attempt_no,
                age: job.letter.age(clock),
                expires_in: job.letter.expires_in(clock),
                route_failures: ending.failures.max(1),
                chance: fastrand::f64(),
            };
            let retry = office.config.retry_of(&job.letter.policy, &route.config);
            obey(decide(outcome, &retry, situation), outcome)
        }
        (None, None) => Verdict::Expired,
    };
    let verdict = if ending.redirected { redirected(verdict) } else { verdict };
    count(office, route, &job, outcome.as_ref(), &verdict);
    let closing = Closing::of(&job, office);
    let settlement = Settlement {
        key: job.claimed.key,
        lease: job.claimed.lease,
        token: job.token,
        intended: ending.intended,
        verdict,
        outcome,
        route: route.config.name.clone(),
        server: ending.server,
        took,
        bytes: ending.bytes,
    };
    office.registry.ended(&settlement);
    trace::tell(office, &job, &settlement);
    office.ledger.settle(settlement, job.permit, Some(closing));
}

/// Counts what goes into the ledger.
fn count(office: &Office, route: &Route, job: &Job, outcome: Option<&Outcome>, verdict: &Verdict) {
    let Some(outcome) = outcome else { return };
    route.meters.ended(outcome);
    if matches!(outcome, Outcome::Accepted { .. }) {
        office.meters.accepted(job.letter.age(office.clock.as_ref()), job.trace.filter(|place| place.sampled));
    }
    if matches!(verdict, Verdict::InDoubt(_)) {
        route.meters.doubted(outcome.phase());
    }
}

/// What is said of a delivery that is not even tried.
pub(crate) fn unfit_ending(unfit: Unfit, began: Duration) -> Ending {
    match unfit {
        Unfit::Stopped => {
            let reason = "guards.recipients_allow: its recipient is not on the list".to_owned();
            Ending::unattempted(Verdict::Suppressed(reason), None)
        }
        Unfit::Broken(reason) => {
            let outcome = Outcome::not_sent(Phase::Prepare, Cause::Aborted, reason.clone());
            Ending::unattempted(Verdict::Failed(format!("cannot be rendered: {reason}")), Some(outcome))
        }
        Unfit::Busy => {
            Ending { began, ..Ending::of(Outcome::not_sent(Phase::Prepare, Cause::Aborted, "not its turn")) }
        }
        Unfit::Later(reason) => Ending { began, ..Ending::of(Outcome::not_sent(Phase::Prepare, Cause::Io, reason)) },
    }
}
