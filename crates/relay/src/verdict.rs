//! From a decision to the word that goes into the ledger.

use hapax_core::{Decision, Outcome};
use hapax_store::Verdict;

/// The same, and that it went to somebody else than it is addressed to.
pub(crate) fn redirected(verdict: Verdict) -> Verdict {
    const NOTE: &str = "redirected by guards.redirect_all_to";
    let with_note = |reason: String| format!("{reason}; {NOTE}");
    match verdict {
        Verdict::Sent => Verdict::SentElsewhere(NOTE),
        Verdict::Failed(reason) => Verdict::Failed(with_note(reason)),
        Verdict::InDoubt(reason) => Verdict::InDoubt(with_note(reason)),
        Verdict::Held(reason) => Verdict::Held(with_note(reason)),
        other => other,
    }
}

/// What the ledger is told of it.
pub(crate) fn obey(decision: Decision, outcome: &Outcome) -> Verdict {
    match decision {
        Decision::Sent => Verdict::Sent,
        Decision::Failed { reason } => Verdict::Failed(reason),
        Decision::Expired => Verdict::Expired,
        Decision::Retry { after, counts } => Verdict::Retry { after, counts },
        Decision::InDoubt => Verdict::InDoubt(match outcome {
            Outcome::Unknown { detail, .. } => detail.clone(),
            _ => "unknown".into(),
        }),
    }
}
