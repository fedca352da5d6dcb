//! How many connections a route may have at once now: as many as are configured, until its server says that this is too
//! much. Half of them then (when it says so of a message), or what there are (when it refuses one more).
//!
//! Invariant: never fewer than one. What a server took back comes back one by one: with what it accepts, and with time
//! where it refused a connection, since only another try tells.

use std::time::Duration;

/// Said again within this time, it is the same thing that is said.
const SAME_WITHIN: Duration = Duration::from_secs(1);

/// So many accepted messages are worth another connection.
const PER_CONNECTION: u32 = 20;

/// After so long one connection more is tried; twice as long each time when it is refused again.
const STEP: Duration = Duration::from_secs(10);
const STEP_MAX: Duration = Duration::from_secs(300);

/// The most that a server gave.
#[derive(Clone, Copy, Debug)]
struct Ceiling {
    connections: usize,
    since: Duration,
    step: Duration,
}

/// Times are CLOCK_BOOTTIME.
#[derive(Debug)]
pub(crate) struct Lines {
    most: usize,
    /// What it is slowed down to.
    slowed: usize,
    accepted: u32,
    said_at: Option<Duration>,
    ceiling: Option<Ceiling>,
    /// Hints since a message was accepted; what several connections are told at once is one.
    pub(crate) hints: u32,
}

impl Lines {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, slowed: most, accepted: 0, said_at: None, ceiling: None, hints: 0 }
    }

    /// How many there may be.
    pub(crate) fn allowed(&self, now: Duration) -> usize {
        let ceiling = self.ceiling.map_or(usize::MAX, |ceiling| ceiling.at(now));
        self.most.min(self.slowed).min(ceiling).max(1)
    }

    /// What it is slowed down to by hints.
    pub(crate) fn slowed(&self) -> usize {
        self.slowed
    }

    /// The server asks for less, of a message. Answers whether there is nothing left to take back.
    pub(crate) fn slow_down(&mut self, in_use: usize, now: Duration) -> bool {
        let again = self.said_at.is_some_and(|at| now.saturating_sub(at) < SAME_WITHIN);
        let allowed = self.allowed(now);
        if again {
            return false;
        }
        self.hints = self.hints.saturating_add(1);
        (self.said_at, self.accepted) = (Some(now), 0);
        self.slowed = (allowed.min(in_use.max(1)) / 2).max(1);
        allowed == 1
    }

    /// The server refused a connection more than these.
    pub(crate) fn no_more_than(&mut self, connections: usize, now: Duration) {
        let step = match self.ceiling {
            Some(before) if now.saturating_sub(before.since) < SAME_WITHIN => before.step,
            // The one more that was tried.
            Some(before) if before.connections <= connections => (before.step * 2).min(STEP_MAX),
            _ => STEP,
        };
        self.ceiling = Some(Ceiling { connections: connections.max(1), since: now, step });
    }

    /// It took a message.
    pub(crate) fn accepted(&mut self, now: Duration) {
        self.hints = 0;
        if self.ceiling.is_some_and(|ceiling| ceiling.at(now) >= self.most) {
            self.ceiling = None;
        }
        if self.slowed >= self.most {
            return;
        }
        self.accepted += 1;
        if self.accepted >= PER_CONNECTION {
            (self.accepted, self.slowed) = (0, self.slowed + 1);
        }
    }
}

impl Ceiling {
    fn at(&self, now: Duration) -> usize {
        let steps = now.saturating_sub(self.since).as_secs() / self.step.as_secs().max(1);
        self.connections.saturating_add(usize::try_from(steps).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_hint_halves_once_a_second_down_to_one_and_what_is_accepted_brings_them_back_one_by_one() {
        let mut lines = Lines::new(16);
        let halved: Vec<(bool, usize)> =
            (1..=6).map(|second| (lines.slow_down(16, at(second)), lines.allowed(at(second)))).collect();
        assert_eq!(halved, [(false, 8), (false, 4), (false, 2), (false, 1), (true, 1), (true, 1)]);
        assert!(!lines.slow_down(16, at(6) + Duration::from_millis(900)), "the same is said by another connection");
        assert_eq!(lines.hints, 6);
        for accepted in 1..=400 {
            lines.accepted(at(7));
            assert_eq!(lines.allowed(at(7)), (1 + accepted / 20).min(16));
        }
        assert_eq!(lines.hints, 0);
    }

    #[test]
    fn what_is_in_use_is_halved_and_not_what_would_be_allowed() {
        let mut lines = Lines::new(100);
        assert!(!lines.slow_down(6, at(1)));
        assert_eq!(lines.allowed(at(1)), 3);
    }

    #[test]
    fn a_refused_connection_is_tried_again_later_and_later() {
        let mut lines = Lines::new(16);
        lines.no_more_than(4, at(100));
        lines.no_more_than(4, at(100));
        assert_eq!((lines.allowed(at(109)), lines.allowed(at(110))), (4, 5));
        lines.no_more_than(4, at(110));
        assert_eq!((lines.allowed(at(129)), lines.allowed(at(130))), (4, 5));
        assert_eq!(lines.allowed(at(10_000)), 16);
        lines.accepted(at(10_000));
        lines.no_more_than(0, at(10_001));
        assert_eq!((lines.allowed(at(10_001)), lines.allowed(at(10_011))), (1, 2));
    }
}
