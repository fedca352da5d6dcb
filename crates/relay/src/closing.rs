//! The closing line of an attempt: one event in the log, readable alone. deploy/README.md explains its fields; a name that
//! stands there does not change.
//!
//! Invariants: written once, after its outcome is durable; or when nobody will make it so, and then it says that. This module
//! must not write a subject, a body, the server's words, or an address that was not asked for.

use std::{sync::Arc, time::Duration};

use hapax_core::{Outcome, Phase};
use hapax_store::{Settlement, Verdict};
use sha2::{Digest, Sha256};

use crate::{
    config::RecipientLog,
    courier::Office,
    job::{Job, Letter},
    trace::TraceParent,
};

/// What the line says beside the settlement.
pub(crate) struct Closing {
    letter: Arc<Letter>,
    recipient: Option<String>,
    attempt: i16,
    age: Duration,
    trace: Option<TraceParent>,
}

/// What became of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durable {
    Yes,
    /// Its delivery had moved on; it stands in the ledger.
    Late,
    /// Not by this incarnation.
    No,
}

impl Durable {
    fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Late => "late",
            Self::No => "no",
        }
    }
}

/// The same fields at every level: levels are part of an event's type.
macro_rules! close {
    ($level:ident, $all:expr, $($message:tt)*) => {{
        let (at, settled, durable): (&Closing, &Settlement, Durable) = $all;
        let outcome = settled.outcome.as_ref();
        tracing::$level!(
            delivery = %settled.key,
            attempt = at.attempt,
            attempt.token = %settled.token,
            trace_id = at.trace.map(|place| place.trace_hex()),
            kind = at.letter.notification.kind.as_str(),
            route = settled.route.as_str(),
            recipient = at.recipient.as_deref(),
            verdict = settled.verdict.as_str(),
            outcome = outcome.map_or("none", Outcome::as_str),
            durable = durable.as_str(),
            phase = outcome.map_or(Phase::Prepare, Outcome::phase).as_str(),
            code = outcome.and_then(Outcome::reply).map(|reply| reply.code),
            enhanced = outcome.and_then(Outcome::reply).and_then(|reply| reply.enhanced.as_deref()),
            cause = cause(outcome),
            reason = reason(&settled.verdict),
            server = settled.server.as_deref(),
            intended = settled.intended,
            bytes = settled.bytes,
            took_ms = millis(settled.took),
            age_ms = millis(at.age),
            after_s = after_s(&settled.verdict),
            $($message)*
        );
    }};
}

impl Closing {
    /// As the attempt ends.
    pub(crate) fn of(job: &Job, office: &Office) -> Self {
        Self {
            letter: job.letter.clone(),
            recipient: recipient(job, office.config.recipient_log),
            attempt: job.claimed.attempt_no + 1,
            age: job.letter.age(office.clock.as_ref()),
            trace: job.trace,
        }
    }

    /// Writes it.
    pub(crate) fn log(&self, settled: &Settlement, durable: Durable) {
        let (key, all) = (settled.key, (self, settled, durable));
        if durable == Durable::No {
            let said = told(&settled.verdict);
            close!(
                error,
                all,
                "{said}, and this is not durable: what is in doubt stays so until somebody decides it, unless this relay can still \
                 tell it (hint: hapax show {key})"
            );
            return;
        }
        match &settled.verdict {
            Verdict::Sent => close!(info, all, "sent"),
            Verdict::SentElsewhere(_) => close!(info, all, "sent, to somebody else than it is addressed to"),
            Verdict::Suppressed(_) => close!(info, all, "suppressed, not sent"),
            Verdict::DoubtAgain(_) => {
                close!(error, all, "in doubt again, nothing was transmitted (hint: hapax show {key})");
            }
            Verdict::Retry { .. } => close!(warn, all, "not sent, will be tried again"),
            Verdict::Expired => close!(warn, all, "expired, not sent"),
            // A bad mailbox is nobody's emergency.
            Verdict::Failed(_) if settled.outcome.as_ref().is_some_and(|outcome| outcome.reply().is_some()) => {
                close!(warn, all, "refused for good (hint: hapax show {key})");
            }
            Verdict::Failed(_) => close!(error, all, "failed for good (hint: hapax show {key})"),
            Verdict::InDoubt(_) => {
                close!(error, all, "in doubt: nobody knows whether the server took it (hint: hapax show {key})");
            }
            Verdict::Held(_) | Verdict::Poison(_) => close!(error, all, "held (hint: hapax show {key})"),
        }
    }
}

/// What is known of an attempt whose outcome nobody makes durable.
fn told(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Sent | Verdict::SentElsewhere(_) => "sent: a mail server has accepted it",
        Verdict::InDoubt(_) => "in doubt: nobody knows whether the server took it",
        _ => "not sent by this attempt",
    }
}

/// Ours, without addresses; the server's own words stay in the ledger, they may repeat one.
fn cause(outcome: Option<&Outcome>) -> Option<&str> {
    match outcome? {
        Outcome::NotSent { detail, .. } | Outcome::Unknown { detail, .. } => Some(detail.as_str()),
        _ => None,
    }
}

/// Why it was not even tried, or not as it is addressed. What other verdicts say may be the server's words.
fn reason(verdict: &Verdict) -> Option<&str> {
    match verdict {
        Verdict::Suppressed(reason) | Verdict::DoubtAgain(reason) => Some(reason),
        Verdict::SentElsewhere(note) => Some(note),
        _ => None,
    }
}

fn after_s(verdict: &Verdict) -> Option<f64> {
    match verdict {
        Verdict::Retry { after, .. } => Some(after.as_secs_f64()),
        _ => None,
    }
}

/// Whom it is addressed to, as `log.recipient` says; nothing where that cannot be read.
fn recipient(job: &Job, how: RecipientLog) -> Option<String> {
    let recipient = job.letter.recipient(job.claimed.key.recipient_no).ok()?;
    Some(match how {
        RecipientLog::Masked => recipient.to_string(),
        RecipientLog::Hashed => hashed(&recipient.address()),
        RecipientLog::Full => recipient.address(),
    })
}

fn hashed(address: &str) -> String {
    let digest = Sha256::digest(address.to_lowercase().as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hashed_address_is_what_sha256sum_says_of_it_in_lower_case() {
        assert_eq!(hashed("Ada@Example.org"), hashed("ada@example.org"));
        assert_eq!(hashed(""), "e3b0c44298fc1c14");
    }
}
