//! Policies: how long to be patient, and what to do about a doubt. Pure numbers in, numbers out.

use std::{str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// A word that is none of the allowed ones.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{found:?} is not one of {allowed}")]
pub struct UnknownWord {
    /// What was given.
    pub found: String,
    /// What would have been understood.
    pub allowed: &'static str,
}

/// What becomes of a delivery whose outcome nobody can know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDoubt {
    /// Wait for evidence or a person.
    #[default]
    Hold,
    /// Send again once the first attempt can no longer be alive: twice is better than never.
    Resend,
    /// Call it sent: never is better than twice.
    AssumeSent,
}

impl OnDoubt {
    /// The word used in SQL and configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Resend => "resend",
            Self::AssumeSent => "assume_sent",
        }
    }
}

impl FromStr for OnDoubt {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "hold" => Ok(Self::Hold),
            "resend" => Ok(Self::Resend),
            "assume_sent" => Ok(Self::AssumeSent),
            _ => Err(UnknownWord { found: word.to_owned(), allowed: "hold, resend, assume_sent" }),
        }
    }
}

/// The lanes of the queue, served in this order with a reserve so that none starves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Somebody waits in front of a screen.
    Urgent,
    /// Everything that has no reason to be otherwise.
    #[default]
    Normal,
    /// Whenever there is room.
    Bulk,
}

impl Priority {
    /// All, most urgent first.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Normal, Self::Bulk];

    /// The word used in SQL and configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
        }
    }

    /// The number within a lane: `lane = route_group * 4 + priority`.
    #[must_use]
    pub const fn lane_offset(self) -> i16 {
        match self {
            Self::Urgent => 0,
            Self::Normal => 1,
            Self::Bulk => 2,
        }
    }
}

/// When to try again after a refusal for now, and when to give up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// The pause after the first refusal.
    pub first: Duration,
    /// Each further pause is so many times longer.
    pub factor: f64,
    /// No pause is longer.
    pub cap: Duration,
    /// Older deliveries are not tried again.
    pub give_up_after: Duration,
    /// Each pause is stretched or shortened by up to this fraction, so that crowds disperse.
    pub jitter: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(30),
            factor: 2.0,
            cap: Duration::from_secs(6 * 3600),
            give_up_after: Duration::from_secs(3 * 24 * 3600),
            jitter: 0.2,
        }
    }
}

impl RetryPolicy {
    /// The pause after `refusals` refusals (from 1), with `chance` in 0..1 deciding the jitter.
    #[must_use]
    pub fn pause(&self, refusals: u32, chance: f64) -> Duration {
        let steps = i32::try_from(refusals.saturating_sub(1)).unwrap_or(i32::MAX).min(1_000);
        let seconds = (self.first.as_secs_f64() * self.factor.powi(steps)).min(self.cap.as_secs_f64());
        let stretched = seconds * (1.0 + self.jitter * (2.0 * chance.clamp(0.0, 1.0) - 1.0));
        Duration::from_secs_f64(stretched.clamp(0.0, self.cap.as_secs_f64()))
    }
}

/// What a kind or a route says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RetryPart {
    /// See [`RetryPolicy::first`].
    pub first: Option<Duration>,
    /// See [`RetryPolicy::factor`].
    pub factor: Option<f64>,
    /// See [`RetryPolicy::cap`].
    pub cap: Option<Duration>,
    /// See [`RetryPolicy::give_up_after`].
    pub give_up_after: Option<Duration>,
    /// See [`RetryPolicy::jitter`].
    pub jitter: Option<f64>,
}

impl RetryPart {
    /// The policy with what is said here in its place.
    #[must_use]
    pub fn over(&self, base: RetryPolicy) -> RetryPolicy {
        RetryPolicy {
            first: self.first.unwrap_or(base.first),
            factor: self.factor.unwrap_or(base.factor),
            cap: self.cap.unwrap_or(base.cap),
            give_up_after: self.give_up_after.unwrap_or(base.give_up_after),
            jitter: self.jitter.unwrap_or(base.jitter),
        }
    }
}

/// What the reaper does about one doubt now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoubtDecision {
    /// Nothing: its policy is to wait, or its attempt may still be alive.
    Wait,
    /// Send it again; counts against `max_resends`.
    Resend,
    /// Call it sent, evidence `policy`.
    AssumeSent,
}

/// The doubt policy. `waited` is how long the doubt has been known to this process, by its own monotonic clock;
/// `grace` how long its attempt may still be alive; `resends` how often policy has sent this delivery again before.
#[must_use]
pub fn decide_doubt(
    policy: OnDoubt,
    waited: Duration,
    grace: Duration,
    resends: i16,
    max_resends: i16,
) -> DoubtDecision {
    match policy {
        OnDoubt::Hold => DoubtDecision::Wait,
        _ if waited < grace => DoubtDecision::Wait,
        OnDoubt::AssumeSent => DoubtDecision::AssumeSent,
        OnDoubt::Resend if resends < max_resends || crate::mutant::is("resends_unlimited") => DoubtDecision::Resend,
        OnDoubt::Resend => DoubtDecision::Wait,
    }
}

/// How an upstream that de-duplicates by a key stands to one doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyWindow {
    /// For how long after the first intent the key may be used: [`usable_window`].
    pub usable: Duration,
    /// Since the first intent, by the database's clock; none when nobody can say.
    pub since_first_intent: Option<Duration>,
    /// How often the delivery has been sent again with its key.
    pub tries: i16,
}

/// What to do about a doubt whose upstream de-duplicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameKey {
    /// Nothing yet: its attempt may still be alive, or the pause after the last try is not over.
    Wait,
    /// Send it again with the same key; does not count against `max_resends`.
    SendAgain,
    /// The window has closed: [`decide_doubt`] decides, as for any other upstream.
    Closed,
}

/// The margin that is taken off a window, at least and at most; in between it is a tenth.
const WINDOW_MARGIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// For how long after the first intent the key may be used: the upstream's window minus a margin, for clocks that
/// differ and for the time between our last look and the upstream's.
#[must_use]
pub fn usable_window(window: Duration) -> Duration {
    window.saturating_sub((window / 10).clamp(WINDOW_MARGIN.0, WINDOW_MARGIN.1))
}

/// The doubt policy of an upstream that de-duplicates, asked before [`decide_doubt`]. `waited` and `grace` as there.
/// The first try comes as soon as the attempt can no longer be alive, each further one after a pause as after a refusal.
///
/// Architecture Invariant: never [`SameKey::SendAgain`] outside the window, nor when its age is not known.
#[must_use]
pub fn decide_same_key(window: KeyWindow, waited: Duration, grace: Duration, retry: &RetryPolicy) -> SameKey {
    let Some(since) = window.since_first_intent.filter(|since| *since < window.usable) else {
        return SameKey::Closed;
    };
    let pause = match u32::try_from(window.tries) {
        Ok(0) | Err(_) => Duration::ZERO,
        Ok(tries) => retry.pause(tries, 0.5),
    };
    let until = grace.max(pause);
    if waited >= until {
        SameKey::SendAgain
    } else if since.saturating_add(until.saturating_sub(waited)) >= window.usable {
        // It would only be too late then: no reason to keep anybody waiting.
        SameKey::Closed
    } else {
        SameKey::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_thirty_seconds_to_six_hours() {
        let policy = RetryPolicy::default();
        let pauses: Vec<u64> = (1..=12).map(|refusals| policy.pause(refusals, 0.5).as_secs()).collect();
        assert_eq!(pauses, [30, 60, 120, 240, 480, 960, 1920, 3840, 7680, 15360, 21600, 21600]);
        assert_eq!(policy.pause(u32::MAX, 1.0), policy.cap);
        assert_eq!(policy.pause(1, 0.0), Duration::from_secs(24));
        assert_eq!(policy.pause(1, 1.0), Duration::from_secs(36));
    }

    #[test]
    fn a_doubt_is_never_acted_on_within_its_grace_nor_beyond_its_resends() {
        let grace = Duration::from_secs(10);
        let early = Duration::from_secs(9);
        for policy in [OnDoubt::Hold, OnDoubt::Resend, OnDoubt::AssumeSent] {
            assert_eq!(decide_doubt(policy, early, grace, 0, 1), DoubtDecision::Wait);
        }
        assert_eq!(decide_doubt(OnDoubt::Hold, grace, grace, 0, 1), DoubtDecision::Wait);
        assert_eq!(decide_doubt(OnDoubt::Resend, grace, grace, 0, 1), DoubtDecision::Resend);
        assert_eq!(decide_doubt(OnDoubt::Resend, grace, grace, 1, 1), DoubtDecision::Wait);
        assert_eq!(decide_doubt(OnDoubt::AssumeSent, grace, grace, 9, 1), DoubtDecision::AssumeSent);
    }

    #[test]
    fn a_window_loses_a_tenth_but_at_least_a_minute_and_at_most_an_hour() {
        let minutes = |count: u64| Duration::from_secs(count * 60);
        let cases = [(1, 0), (0, 0), (5, 4), (10, 9), (60, 54), (24 * 60, 23 * 60), (30 * 24 * 60, 30 * 24 * 60 - 60)];
        for (window, usable) in cases {
            assert_eq!(usable_window(minutes(window)), minutes(usable), "{window} min");
        }
    }

    /// The whole table: tries, grace, time waited, age; against the rules in other words.
    #[test]
    fn the_same_key_is_used_only_inside_the_window_after_grace_and_pause() {
        let seconds = Duration::from_secs;
        let retry = RetryPolicy { first: seconds(30), factor: 2.0, cap: seconds(600), ..RetryPolicy::default() };
        let usable = seconds(1_000);
        let mut cells = [0; 3];
        for tries in [-1_i16, 0, 1, 2, 3, 5, i16::MAX] {
            let pause: u64 = match tries {
                ..=0 => 0,
                1 => 30,
                2 => 60,
                3 => 120,
                5 => 480,
                _ => 600,
            };
            for grace in [0_u64, 1, 100, 5_000] {
                let due = grace.max(pause);
                for waited in [0_u64, 1, 29, 30, 59, 60, 99, 100, 119, 120, 480, 600, 5_000] {
                    for age in [0_u64, 1, 500, 970, 999, 1_000, 1_001, u64::MAX] {
                        let window = KeyWindow { usable, since_first_intent: Some(seconds(age)), tries };
                        let decided = decide_same_key(window, seconds(waited), seconds(grace), &retry);
                        let expected = if age >= 1_000 {
                            SameKey::Closed
                        } else if waited >= due {
                            SameKey::SendAgain
                        } else if age + (due - waited) < 1_000 {
                            SameKey::Wait
                        } else {
                            SameKey::Closed
                        };
                        assert_eq!(decided, expected, "{window:?} waited {waited} grace {grace}");
                        cells[decided as usize] += 1;
                        let unknown = KeyWindow { since_first_intent: None, ..window };
                        assert_eq!(decide_same_key(unknown, seconds(waited), seconds(grace), &retry), SameKey::Closed);
                    }
                }
            }
        }
        assert!(cells.iter().all(|count| *count > 100), "{cells:?}");
    }
}
