//! The table: which point, when, in which part of a relay's life, and what may be in doubt after a crash there.

use std::fmt;
use std::ops::RangeInclusive;

/// Deliveries of a cell.
pub(crate) const DELIVERIES: i32 = 60;

/// Deliveries in a relay's hands at once, and so the most that one crash may put in doubt.
pub(crate) const IN_FLIGHT: usize = 24;

/// Replies that are held when a predecessor dies, or the relay itself is suspended.
pub(crate) const HELD: usize = 8;

/// What happens at the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Kill,
    Stop,
    LoseDatabase,
    LoseAnswer,
}

/// The part of a relay's life in which the point is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// From its start, with everything waiting.
    Work,
    /// A slow server: the 354 is held until the point is reached.
    Slow,
    /// SIGTERM in the middle of its work.
    Shutdown,
    /// A predecessor died with replies outstanding.
    AfterDeath,
    /// The same, and the policy says `assume_sent`.
    Policy,
    /// The same, and an operator has decided to send those again.
    Resend,
    /// It was suspended with replies outstanding, another relay has put those in doubt, and an operator has given them up.
    Late,
}

/// What a crash at this point may leave in doubt, by the place of the point between intent and outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// No delivery can have an intent yet: nothing.
    BeforeAnyIntent,
    /// Others may be anywhere: no more than are in flight.
    Anywhere,
    /// At least one has an intent and no durable outcome.
    BehindAnIntent,
    /// Every outcome is durable: nothing.
    Done,
}

/// One cell.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) point: &'static str,
    /// Acts when the point is passed for the nth time.
    pub(crate) nth: usize,
    pub(crate) life: Life,
    pub(crate) place: Place,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} ({:?})", self.point, self.nth, self.life)
    }
}

impl Cell {
    /// How many deliveries are in doubt once everything has settled.
    pub(crate) fn doubts(&self, action: Action) -> RangeInclusive<usize> {
        // What a dead predecessor has left stays in doubt, unless it is decided in this cell.
        let before = if self.life == Life::AfterDeath { HELD } else { 0 };
        if action != Action::Kill || self.life == Life::Policy {
            // Whoever lives on knows what it has done: it learns the outcome, or knows that it has sent nothing.
            return before..=before;
        }
        let most = if self.life == Life::Late { HELD } else { IN_FLIGHT };
        match self.place {
            Place::BeforeAnyIntent | Place::Done => before..=before,
            Place::Anywhere => before..=before + most,
            Place::BehindAnIntent => before + 1..=before + most,
        }
    }
}

const fn cell(point: &'static str, nth: usize, life: Life, place: Place) -> Cell {
    Cell { point, nth, life, place }
}

/// Every point at least once; those of an attempt at their first pass, where it is known what the others are doing, and
/// under load.
pub(crate) const CELLS: &[Cell] = &[
    cell("register_sent", 1, Life::Work, Place::BeforeAnyIntent),
    cell("heartbeat_sent", 1, Life::Work, Place::Anywhere),
    cell("heartbeat_sent", 3, Life::Slow, Place::BeforeAnyIntent),
    cell("renew_sent", 1, Life::Slow, Place::BeforeAnyIntent),
    cell("claim_sent", 1, Life::Work, Place::BeforeAnyIntent),
    cell("claim_sent", 3, Life::Work, Place::Anywhere),
    cell("claimed", 1, Life::Work, Place::BeforeAnyIntent),
    cell("claimed", 3, Life::Work, Place::Anywhere),
    cell("rendered", 1, Life::Work, Place::BeforeAnyIntent),
    cell("rendered", 30, Life::Work, Place::Anywhere),
    cell("before_intend", 1, Life::Work, Place::BeforeAnyIntent),
    cell("before_intend", 30, Life::Work, Place::Anywhere),
    cell("intend_sent", 1, Life::Work, Place::BeforeAnyIntent),
    cell("intend_sent", 4, Life::Work, Place::Anywhere),
    cell("intend_sent", 1, Life::Resend, Place::BeforeAnyIntent),
    cell("intended", 1, Life::Work, Place::BehindAnIntent),
    cell("intended", 30, Life::Work, Place::BehindAnIntent),
    cell("intended", 1, Life::Resend, Place::BehindAnIntent),
    cell("body_written", 1, Life::Work, Place::BehindAnIntent),
    cell("body_written", 30, Life::Work, Place::BehindAnIntent),
    cell("marker_begun", 1, Life::Work, Place::BehindAnIntent),
    cell("marker_begun", 30, Life::Work, Place::BehindAnIntent),
    cell("marker_written", 1, Life::Work, Place::BehindAnIntent),
    cell("marker_written", 30, Life::Work, Place::BehindAnIntent),
    cell("reply_read", 1, Life::Work, Place::BehindAnIntent),
    cell("reply_read", 30, Life::Work, Place::BehindAnIntent),
    cell("before_settle", 1, Life::Work, Place::BehindAnIntent),
    cell("before_settle", 30, Life::Work, Place::BehindAnIntent),
    cell("settle_sent", 1, Life::Work, Place::BehindAnIntent),
    cell("settle_sent", 4, Life::Work, Place::BehindAnIntent),
    cell("settle_sent", 1, Life::Resend, Place::BehindAnIntent),
    cell("settled", 1, Life::Work, Place::Anywhere),
    cell("settled", 4, Life::Work, Place::Anywhere),
    cell("settle_late_sent", 1, Life::Late, Place::BehindAnIntent),
    cell("settled_late", 1, Life::Late, Place::Anywhere),
    cell("release_sent", 1, Life::Shutdown, Place::Anywhere),
    cell("mark_sent", 2, Life::AfterDeath, Place::Anywhere),
    cell("marked", 1, Life::AfterDeath, Place::Anywhere),
    cell("decide_sent", 1, Life::Policy, Place::Anywhere),
    cell("sign_off_sent", 1, Life::Shutdown, Place::Done),
];
