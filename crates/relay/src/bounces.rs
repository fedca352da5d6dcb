//! Hard bounces: who is refused because there is no such user goes on the suppression list, where that is wanted.
//!
//! Only what the ledger holds counts, and only RCPT answered with an enhanced code that says so: a bare 550 may mean
//! anything. No more than so many an hour: a server that has lost its users refuses everybody. Best effort: nothing
//! waits for it, and what is missed bounces again.

use hapax_core::{DeliveryKey, Outcome, Phase, Token};
use hapax_store::{Settlement, Store};

use crate::config::HardBounces;

/// RFC 3463, RFC 7505: no such mailbox; moved without a new address; the domain takes no mail.
const CODES: [&str; 3] = ["5.1.1", "5.1.6", "5.1.10"];

/// Whether this outcome says that there is no such user.
pub(crate) fn is_hard(settlement: &Settlement) -> bool {
    match &settlement.outcome {
        Some(Outcome::Refused { permanent: true, phase: Phase::Rcpt, reply }) => {
            reply.enhanced.as_deref().is_some_and(|enhanced| CODES.contains(&enhanced))
        }
        _ => false,
    }
}

/// Enters the recipient of an attempt that is durable.
pub(crate) async fn enter(store: Store, bounces: HardBounces, key: DeliveryKey, token: Token) {
    match store.suppress_bounced(key, token, bounces.expire_after, bounces.per_hour_max).await.as_deref() {
        Ok("suppressed") => tracing::info!(delivery = %key, "a hard bounce: its address is suppressed from now on"),
        Ok("too many") => tracing::warn!(
            delivery = %key,
            per_hour_max = bounces.per_hour_max,
            "a hard bounce is not suppressed, there were too many within an hour: does the mail server know its users? \
             (hint: suppression.hard_bounces_per_hour_max)"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(error = %error, delivery = %key, "a hard bounce could not be suppressed"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hapax_core::{Lease, MessageId, Reply};
    use hapax_store::Verdict;

    use super::*;

    fn refused(phase: Phase, code: u16, text: &str) -> Settlement {
        let reply = Reply::new(code, text);
        Settlement {
            key: DeliveryKey { message_id: MessageId(uuid::Uuid::nil()), recipient_no: 1 },
            lease: Lease::fresh(),
            token: Token::fresh(),
            intended: false,
            verdict: Verdict::Failed(String::new()),
            outcome: Some(Outcome::Refused { permanent: code >= 500, phase, reply }),
            route: String::new(),
            server: None,
            took: Duration::ZERO,
            bytes: 0,
        }
    }

    #[test]
    fn only_a_refused_recipient_whose_code_says_that_there_is_no_such_user_is_a_hard_bounce() {
        for (phase, code, text, hard) in [
            (Phase::Rcpt, 550, "5.1.1 user unknown", true),
            (Phase::Rcpt, 550, "5.1.10 null MX", true),
            (Phase::Rcpt, 551, "5.1.6 moved", true),
            (Phase::Rcpt, 550, "user unknown", false),
            (Phase::Rcpt, 550, "5.7.1 relaying denied", false),
            (Phase::Rcpt, 552, "5.2.2 mailbox full", false),
            (Phase::Rcpt, 450, "4.1.1 try later", false),
            (Phase::EndMarker, 550, "5.1.1 user unknown", false),
        ] {
            assert_eq!(is_hard(&refused(phase, code, text)), hard, "{phase:?} {code} {text}");
        }
    }
}
