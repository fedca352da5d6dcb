//! The closing line of an attempt: one event in the log, readable alone. deploy/README.md explains its fields; a name that
//! stands there does not change.
//!
//! This module must not: write a subject, a body, the server's words, or an address that was not asked for.

use std::time::Duration;

use hapax_core::{Outcome, Phase};
use hapax_store::Verdict;
use sha2::{Digest, Sha256};

use crate::{config::RecipientLog, courier::Office, ending::Ending, job::Job, route::Route};

/// What an attempt came to, and what follows.
pub(crate) struct Closing<'a> {
    pub(crate) office: &'a Office,
    pub(crate) route: &'a Route,
    pub(crate) job: &'a Job,
    pub(crate) ending: &'a Ending,
    pub(crate) verdict: &'a Verdict,
    pub(crate) took: Duration,
}

/// The same fields at every level: levels are part of an event's type.
macro_rules! close {
    ($level:ident, $fields:expr, $($message:tt)*) => {{
        let at = &$fields;
        tracing::$level!(
            delivery = %at.job.claimed.key,
            attempt = at.job.claimed.attempt_no + 1,
            attempt.token = %at.job.token,
            kind = at.job.letter.notification.kind.as_str(),
            route = at.route.config.name.as_str(),
            recipient = at.recipient(),
            verdict = at.verdict.as_str(),
            outcome = at.outcome().map_or("none", Outcome::as_str),
            phase = at.outcome().map_or(Phase::Prepare, Outcome::phase).as_str(),
            code = at.outcome().and_then(Outcome::reply).map(|reply| reply.code),
            enhanced = at.outcome().and_then(Outcome::reply).and_then(|reply| reply.enhanced.as_deref()),
            cause = at.cause(),
            reason = at.reason(),
            server = at.ending.server.as_deref(),
            intended = at.ending.intended,
            bytes = at.ending.bytes,
            took_ms = millis(at.took),
            age_ms = millis(at.job.letter.age(at.office.clock.as_ref())),
            after_s = at.after_s(),
            $($message)*
        );
    }};
}

impl Closing<'_> {
    /// Writes it.
    pub(crate) fn log(&self) {
        let key = self.job.claimed.key;
        match self.verdict {
            Verdict::Sent => close!(info, self, "sent"),
            Verdict::SentElsewhere(_) => close!(info, self, "sent, to somebody else than it is addressed to"),
            Verdict::Suppressed(_) => close!(info, self, "suppressed, not sent"),
            Verdict::DoubtAgain(_) => {
                close!(error, self, "in doubt again, nothing was transmitted (hint: hapax show {key})");
            }
            Verdict::Retry { .. } => close!(warn, self, "not sent, will be tried again"),
            Verdict::Expired => close!(warn, self, "expired, not sent"),
            // A bad mailbox is nobody's emergency.
            Verdict::Failed(_) if self.outcome().is_some_and(|outcome| outcome.reply().is_some()) => {
                close!(warn, self, "refused for good (hint: hapax show {key})");
            }
            Verdict::Failed(_) => close!(error, self, "failed for good (hint: hapax show {key})"),
            Verdict::InDoubt(_) => {
                close!(error, self, "in doubt: nobody knows whether the server took it (hint: hapax show {key})");
            }
            Verdict::Held(_) | Verdict::Poison(_) => close!(error, self, "held (hint: hapax show {key})"),
        }
    }

    fn outcome(&self) -> Option<&Outcome> {
        self.ending.outcome.as_ref()
    }

    /// Ours, without addresses; the server's own words stay in the ledger, they may repeat one.
    fn cause(&self) -> Option<&str> {
        match self.outcome()? {
            Outcome::NotSent { detail, .. } | Outcome::Unknown { detail, .. } => Some(detail.as_str()),
            _ => None,
        }
    }

    /// Why it was not even tried, or not as it is addressed. What other verdicts say may be the server's words.
    fn reason(&self) -> Option<&str> {
        match self.verdict {
            Verdict::Suppressed(reason) | Verdict::DoubtAgain(reason) => Some(reason),
            Verdict::SentElsewhere(note) => Some(note),
            _ => None,
        }
    }

    fn after_s(&self) -> Option<f64> {
        match self.verdict {
            Verdict::Retry { after, .. } => Some(after.as_secs_f64()),
            _ => None,
        }
    }

    /// Whom it is addressed to, as `log.recipient` says; nothing where that cannot be read.
    fn recipient(&self) -> Option<String> {
        let recipient = self.job.letter.recipient(self.job.claimed.key.recipient_no).ok()?;
        Some(match self.office.config.recipient_log {
            RecipientLog::Masked => recipient.to_string(),
            RecipientLog::Hashed => hashed(&recipient.address()),
            RecipientLog::Full => recipient.address(),
        })
    }
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
