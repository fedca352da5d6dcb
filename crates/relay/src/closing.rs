//! The closing line of an attempt: one event in the log, readable alone.
//!
//! This module must not: write an address, a subject, a body or the server's words.

use std::time::Duration;

use hapax_core::{Outcome, Phase};
use hapax_store::Verdict;

use crate::{job::Job, route::Route};

/// The one closing event of an attempt.
pub(crate) fn log_attempt(route: &Route, job: &Job, outcome: Option<&Outcome>, verdict: &Verdict, took: Duration) {
    let key = job.claimed.key;
    let word = outcome.map_or("none", Outcome::as_str);
    let phase = outcome.map_or(Phase::Prepare, Outcome::phase).as_str();
    let code = outcome.and_then(Outcome::reply).map(|reply| reply.code);
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let kind = job.letter.notification.kind.as_str();
    let route = route.config.name.as_str();
    let attempt = job.claimed.attempt_no + 1;
    // Ours, without addresses; the server's own words stay in the ledger, they may repeat one.
    let cause = match outcome {
        Some(Outcome::NotSent { detail, .. } | Outcome::Unknown { detail, .. }) => Some(detail.as_str()),
        _ => None,
    };
    match verdict {
        Verdict::Sent => {
            tracing::info!(delivery = %key, kind, route, attempt, outcome = word, phase, code, took_ms, "sent");
        }
        Verdict::SentElsewhere(note) => {
            tracing::info!(delivery = %key, kind, route, attempt, outcome = word, phase, code, took_ms, note, "sent, to somebody else than it is addressed to");
        }
        Verdict::Suppressed(reason) => {
            tracing::info!(delivery = %key, kind, route, attempt, reason, "suppressed, not sent");
        }
        Verdict::DoubtAgain(reason) => {
            tracing::error!(delivery = %key, kind, route, attempt, reason, "in doubt again, nothing was transmitted (hint: hapax show {key})");
        }
        Verdict::Retry { after, .. } => {
            let after_s = after.as_secs();
            tracing::warn!(delivery = %key, kind, route, attempt, outcome = word, phase, code, cause, took_ms, after_s, "not sent, will be tried again");
        }
        Verdict::Expired => {
            tracing::warn!(delivery = %key, kind, route, attempt, outcome = word, phase, code, cause, took_ms, "expired, not sent");
        }
        // A bad mailbox is nobody's emergency.
        Verdict::Failed(_) if code.is_some() => {
            tracing::warn!(delivery = %key, kind, route, attempt, outcome = word, phase, code, cause, took_ms, "refused for good (hint: hapax show {key})");
        }
        Verdict::Failed(_) => {
            tracing::error!(delivery = %key, kind, route, attempt, outcome = word, phase, code, cause, took_ms, "failed for good (hint: hapax show {key})");
        }
        Verdict::InDoubt(_) => {
            tracing::error!(delivery = %key, kind, route, attempt, outcome = word, phase, code, cause, took_ms, "in doubt: nobody knows whether the server took it (hint: hapax show {key})");
        }
        Verdict::Held(_) | Verdict::Poison(_) => {
            tracing::error!(delivery = %key, kind, route, attempt, outcome = word, phase, code, cause, took_ms, "held (hint: hapax show {key})");
        }
    }
}
