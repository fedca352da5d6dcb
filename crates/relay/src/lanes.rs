//! Which lanes there are, in which order the pump serves them, and where in each of them it goes on.

use std::{collections::HashMap, time::Duration};

use hapax_core::policy::Priority;
use hapax_store::{Claimed, Cursor, Turn, Wanted};

/// Every lane of the given route groups.
pub(crate) fn lanes_of(groups: impl IntoIterator<Item = i16>) -> Vec<i16> {
    groups.into_iter().flat_map(|group| Priority::ALL.map(|priority| group * 4 + priority.lane_offset())).collect()
}

/// Where the next claim goes on.
#[derive(Default)]
pub(crate) struct Cursors {
    pub(crate) lanes: HashMap<i16, Cursor>,
    pub(crate) rescan_at: Duration,
    pub(crate) round: usize,
    /// Where several tenants wait, as of the last look, with where each goes on.
    pub(crate) turns: HashMap<i16, Turn>,
    pub(crate) turns_at: Duration,
    /// When something was last seen in each group's lanes.
    seen_at: HashMap<i16, Duration>,
}

/// For so long a route counts as one that wants places.
const LATELY: Duration = Duration::from_secs(1);

impl Cursors {
    /// There is something in these lanes, or was.
    pub(crate) fn see(&mut self, lanes: impl IntoIterator<Item = i16>, now: Duration) {
        self.seen_at.extend(lanes.into_iter().map(|lane| (lane.div_euclid(4), now)));
    }

    /// Whether there was something in one of these groups lately.
    pub(crate) fn saw(&self, groups: &[i16], now: Duration) -> bool {
        groups.iter().any(|group| self.seen_at.get(group).is_some_and(|at| now.saturating_sub(*at) < LATELY))
    }

    /// What came in behind a cursor is found from the start; where a long way is left to the end, it is gone first.
    pub(crate) fn begin_anew(&mut self) {
        self.lanes.clear();
        for turn in self.turns.values_mut().filter(|turn| turn.seen_all) {
            turn.seen = Cursor::START;
        }
    }

    /// These are the lanes in which several tenants wait; those that were go on where they were.
    pub(crate) fn go_by_turns(&mut self, lanes: &[i16]) {
        self.turns = lanes.iter().map(|lane| (*lane, self.turns.get(lane).copied().unwrap_or(Turn::START))).collect();
    }

    /// Where each lane goes on: behind what was taken of it, or at its start when there was no more.
    pub(crate) fn advance(&mut self, wanted: &[Wanted], mut free: usize, mut rooms: Vec<usize>, claimed: &[Claimed]) {
        for lane in wanted {
            let asked = lane.limit.min(free).min(rooms[lane.room]);
            if asked == 0 {
                continue;
            }
            let of_lane = || claimed.iter().filter(|claimed| claimed.lane == lane.lane);
            let count = of_lane().count();
            let last = of_lane().next_back().filter(|_| count >= asked);
            self.lanes.insert(lane.lane, last.map_or(Cursor::START, |claimed| claimed.cursor));
            free = free.saturating_sub(count);
            rooms[lane.room] = rooms[lane.room].saturating_sub(count);
        }
    }
}

/// In which order the lanes are served in a round, and which fraction (1 / share) of the free permits each may take.
/// Urgent comes first with everything; now and then normal and bulk come first with a quarter, so that none starves.
pub(crate) fn order(round: usize) -> [(Priority, usize); 3] {
    match round % 8 {
        7 => [(Priority::Bulk, 4), (Priority::Urgent, 1), (Priority::Normal, 1)],
        3 => [(Priority::Normal, 4), (Priority::Urgent, 1), (Priority::Bulk, 1)],
        _ => [(Priority::Urgent, 1), (Priority::Normal, 1), (Priority::Bulk, 1)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_counts_for_a_while_after_something_was_seen_in_one_of_its_lanes() {
        let (mut cursors, at) = (Cursors::default(), Duration::from_secs(9));
        assert!(!cursors.saw(&[0, 1], at));
        cursors.see([6], at);
        assert!(cursors.saw(&[0, 1], at) && !cursors.saw(&[0], at));
        assert!(!cursors.saw(&[1], at + LATELY));
    }

    #[test]
    fn every_lane_comes_first_within_eight_rounds() {
        for priority in Priority::ALL {
            assert!((0..8).any(|round| order(round)[0].0 == priority));
        }
        for round in 0..8 {
            let mut lanes = order(round).map(|(priority, _)| priority);
            lanes.sort();
            assert_eq!(lanes, Priority::ALL);
        }
    }
}
