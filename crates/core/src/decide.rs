//! From an outcome to what happens next. The relay only obeys; the model checker calls the same function.
//!
//! Architecture Invariant: no path leads from [`Outcome::Unknown`] to [`Decision::Retry`].

use std::time::Duration;

use crate::{hint, mutant, outcome::Outcome, policy::RetryPolicy, throttle::asks_to_slow_down};

/// What is known about a delivery when an attempt of it has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Situation {
    /// Attempts that concerned the message, before this one.
    pub attempts_before: i16,
    /// Since it first could have been sent, by the database's clock.
    pub age: Duration,
    /// Until `expires_at`, by the database's clock; zero when it has passed.
    pub expires_in: Option<Duration>,
    /// Failures of the route in a row, this one included.
    pub route_failures: u32,
    /// Chance for the jitter, in 0..1.
    pub chance: f64,
}

/// What to do with the delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Terminal: a server has it.
    Sent,
    /// Terminal, with the reason a person will read.
    Failed {
        /// Why.
        reason: String,
    },
    /// Terminal: its time has passed.
    Expired,
    /// Back to pending.
    Retry {
        /// Not before so long from now, by the database's clock.
        after: Duration,
        /// Whether the attempt counts against the message (its own fault) or not (the route's).
        counts: bool,
    },
    /// Nobody knows; only evidence, policy or a person moves it on.
    InDoubt,
}

/// The pause after failures of the route itself: from a second, doubling, to a minute.
const ROUTE_PAUSE: RetryPolicy = RetryPolicy {
    first: Duration::from_secs(1),
    factor: 2.0,
    cap: Duration::from_secs(60),
    give_up_after: Duration::MAX,
    jitter: 0.2,
};

/// Decides what follows from `outcome`.
#[must_use]
pub fn decide(outcome: &Outcome, retry: &RetryPolicy, now: Situation) -> Decision {
    match outcome {
        Outcome::Accepted { .. } => Decision::Sent,
        Outcome::Unknown { .. } if mutant::is("unknown_retried") => {
            Decision::Retry { after: retry.pause(1, now.chance), counts: true }
        }
        Outcome::Unknown { .. } => Decision::InDoubt,
        Outcome::Refused { permanent: true, phase, reply } => {
            Decision::Failed { reason: format!("refused at {phase}: {} {}", reply.code, reply.text) }
        }
        // The route goes too fast: whichever message is asked about, the answer is the same.
        Outcome::Refused { permanent: false, phase, reply } if asks_to_slow_down(outcome) => {
            let said = || format!("{phase}: {} {}", reply.code, reply.text);
            patience(ROUTE_PAUSE.pause(now.route_failures.max(1), now.chance), false, retry, now, said)
        }
        Outcome::Refused { permanent: false, phase, reply } => {
            let refusals = u32::from(now.attempts_before.unsigned_abs()) + 1;
            let said = || format!("{phase}: {} {}", reply.code, reply.text);
            patience(retry.pause(refusals, now.chance), true, retry, now, said)
        }
        Outcome::NotSent { phase, cause, reply, detail } if !phase.blames_route() && !asks_to_slow_down(outcome) => {
            let refusals = u32::from(now.attempts_before.unsigned_abs()) + 1;
            let said = || {
                said_or(
                    reply.as_ref().map(|reply| (reply.code, reply.text.as_str())),
                    &format!("{cause} at {phase}: {detail}"),
                )
            };
            patience(retry.pause(refusals, now.chance), true, retry, now, said)
        }
        Outcome::NotSent { phase, cause, reply, detail } => {
            let said = || {
                said_or(
                    reply.as_ref().map(|reply| (reply.code, reply.text.as_str())),
                    &format!("{cause} at {phase}: {detail}"),
                )
            };
            patience(ROUTE_PAUSE.pause(now.route_failures.max(1), now.chance), false, retry, now, said)
        }
    }
}

fn said_or(reply: Option<(u16, &str)>, otherwise: &str) -> String {
    reply.map_or_else(|| otherwise.to_owned(), |(code, text)| format!("{code} {text}"))
}

/// Retry after `pause`, later where the server's words ask for it. Where that is longer than the delivery lives it is tried once
/// more shortly before the end, and ends when its time has passed, not before: by expiry nothing is attempted any more, by
/// giving up the last attempt is at the end.
fn patience(pause: Duration, counts: bool, retry: &RetryPolicy, now: Situation, said: impl Fn() -> String) -> Decision {
    let left = now.expires_in.unwrap_or(Duration::MAX);
    if left.is_zero() {
        return Decision::Expired;
    }
    let patient = retry.give_up_after.saturating_sub(now.age);
    if patient.is_zero() {
        let after = match retry.give_up_after.as_secs() {
            seconds @ 0..60 => format!("{seconds} s"),
            seconds @ 60..3_600 => format!("{} min", seconds / 60),
            seconds => format!("{} h", seconds / 3_600),
        };
        return Decision::Failed { reason: format!("gave up after {after}; last: {}", said()) };
    }
    let pause = hint::retry_after(&said()).map_or(pause, |asked| asked.max(pause)).min(patient.max(SHORTEST));
    let after = match left {
        left if left > pause => pause,
        // The pause after the last try is at most a little shorter, by chance: that one is not followed by another.
        left if left > pause / 6 => left / 10 * 9,
        left => left + SHORTEST,
    };
    Decision::Retry { after, counts }
}

/// So long after the end it is certainly over, whoever's clock is asked.
const SHORTEST: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Cause, Phase, Reply};

    fn now() -> Situation {
        Situation { attempts_before: 0, age: Duration::ZERO, expires_in: None, route_failures: 1, chance: 0.5 }
    }

    fn deferred() -> Outcome {
        Outcome::Refused { permanent: false, phase: Phase::Rcpt, reply: Reply::new(450, "4.2.1 later") }
    }

    #[test]
    fn unknown_is_never_retried_whatever_the_situation() {
        let outcome = Outcome::Unknown { cause: Cause::Eof, reply: None, detail: String::new() };
        for age in [0, 10_000_000] {
            for expires_in in [None, Some(Duration::ZERO), Some(Duration::MAX)] {
                let now = Situation { age: Duration::from_secs(age), expires_in, ..now() };
                assert_eq!(decide(&outcome, &RetryPolicy::default(), now), Decision::InDoubt);
            }
        }
    }

    #[test]
    fn accepted_is_sent_even_when_it_has_expired_meanwhile() {
        let outcome = Outcome::Accepted { reply: Reply::new(250, "") };
        let now = Situation { expires_in: Some(Duration::ZERO), ..now() };
        assert_eq!(decide(&outcome, &RetryPolicy::default(), now), Decision::Sent);
    }

    #[test]
    fn a_refusal_for_now_is_retried_until_it_expires_or_is_too_old() {
        let policy = RetryPolicy::default();
        let retry = Decision::Retry { after: Duration::from_secs(30), counts: true };
        assert_eq!(decide(&deferred(), &policy, now()), retry);
        let over = Situation { expires_in: Some(Duration::ZERO), ..now() };
        assert_eq!(decide(&deferred(), &policy, over), Decision::Expired);
        let old = Situation { age: policy.give_up_after, ..now() };
        assert_eq!(
            decide(&deferred(), &policy, old),
            Decision::Failed { reason: "gave up after 72 h; last: rcpt: 450 4.2.1 later".into() }
        );
    }

    #[test]
    fn a_server_that_says_when_is_left_alone_until_then_or_asked_once_more_before_the_end() {
        let (policy, second) = (RetryPolicy::default(), Duration::from_secs(1));
        let asks = |text: &str| Outcome::Refused { permanent: false, phase: Phase::Rcpt, reply: Reply::new(450, text) };
        let after = |outcome: &Outcome, now| match decide(outcome, &policy, now) {
            Decision::Retry { after, .. } => after.as_secs(),
            other => panic!("{other:?}"),
        };
        assert_eq!(after(&asks("4.2.0 Greylisted for 300 seconds"), now()), 300);
        assert_eq!(after(&asks("4.2.0 try again in 5 seconds"), now()), 30, "no sooner than the schedule has it");
        let expires = |left| Situation { expires_in: Some(left * second), ..now() };
        assert_eq!(after(&asks("4.2.0 Greylisted for 300 seconds"), expires(301)), 300);
        assert_eq!(after(&asks("4.2.0 Greylisted for 300 seconds"), expires(300)), 270, "once more before the end");
        let old = Situation { age: policy.give_up_after - 60 * second, ..now() };
        assert_eq!(after(&asks("4.2.0 Greylisted for 300 seconds"), old), 60, "at the end");
    }

    #[test]
    fn nothing_ends_before_its_time_and_there_is_one_last_try_before_it() {
        let policy = RetryPolicy { first: Duration::from_secs(300), ..RetryPolicy::default() };
        for (outcome, policy) in [
            (deferred(), policy),
            (Outcome::not_sent(Phase::Connect, Cause::Io, "nobody is there"), RetryPolicy::default()),
        ] {
            for chance in [0.0, 0.5, 0.999] {
                for life in [1, 20, 59, 240, 359] {
                    let (mut left, mut tries) = (Duration::from_secs(life), 0);
                    while !left.is_zero() {
                        let now = Situation { expires_in: Some(left), route_failures: 9, chance, ..now() };
                        let Decision::Retry { after, .. } = decide(&outcome, &policy, now) else { panic!("{left:?}") };
                        left = left.saturating_sub(after);
                        tries += usize::from(!left.is_zero());
                    }
                    assert!((usize::from(life > 60)..=9).contains(&tries), "{life} s: {tries}");
                    assert!(policy.first.as_secs() != 300 || tries <= 2, "{life} s: {tries}");
                }
            }
        }
        let impatient = RetryPolicy { give_up_after: Duration::from_secs(240), ..policy };
        let after = Decision::Retry { after: Duration::from_secs(239), counts: true };
        let young = Situation { age: Duration::from_secs(1), ..now() };
        assert_eq!(decide(&deferred(), &impatient, young), after, "the last try is at the end");
    }

    #[test]
    fn a_failure_of_the_route_does_not_count_against_the_message() {
        let outcome = Outcome::not_sent(Phase::Connect, Cause::Timeout, "no answer");
        assert_eq!(
            decide(&outcome, &RetryPolicy::default(), Situation { attempts_before: 9, ..now() }),
            Decision::Retry { after: Duration::from_secs(1), counts: false }
        );
    }

    #[test]
    fn a_hint_to_slow_down_does_not_count_against_the_message() {
        let refused = Outcome::Refused {
            permanent: false,
            phase: Phase::Rcpt,
            reply: Reply::new(450, "4.7.1 too much mail from"),
        };
        let now = Situation { attempts_before: 9, route_failures: 3, ..now() };
        let retry = Decision::Retry { after: Duration::from_secs(4), counts: false };
        assert_eq!(decide(&refused, &RetryPolicy::default(), now), retry);
        let closing = Outcome::NotSent {
            phase: Phase::Mail,
            cause: Cause::Eof,
            reply: Some(Reply::new(421, "4.7.0 too many connections")),
            detail: String::new(),
        };
        assert_eq!(decide(&closing, &RetryPolicy::default(), now), retry);
    }

    #[test]
    fn a_permanent_refusal_fails_with_the_servers_words() {
        let outcome =
            Outcome::Refused { permanent: true, phase: Phase::Rcpt, reply: Reply::new(550, "5.1.1 no such user") };
        assert_eq!(
            decide(&outcome, &RetryPolicy::default(), now()),
            Decision::Failed { reason: "refused at rcpt: 550 5.1.1 no such user".into() }
        );
    }
}
