//! Which lanes there are, in which order the pump serves them, and where in each of them it goes on.

use std::{collections::HashMap, time::Duration};

use hapax_core::policy::Priority;
use hapax_store::{Claimed, Cursor, Turn, Wanted};

/// Every lane of the given route groups.
pub(crate) fn lanes_of(groups: impl IntoIterator<Item = i16>) -> Vec<i16> {
    groups.into_iter().flat_map(|group| Priority::ALL.map(|priority| group * 4 + priority.lane_offset())).collect()
}

/// A read of a lane from its start that takes so long has met dead rows that somebody's old snapshot keeps.
const DEAR: Duration = Duration::from_millis(10);

/// Of the time, dear reads may take this part: one in so many.
const DEAR_SHARE: u32 = 10;

/// What is before the floor of a lane is looked at again after so long, however long a read took: it may have been a stall.
const FLOOR_MAX: Duration = Duration::from_secs(10);

/// Where a lane begins for now: what is before was read, and reading it again is dear.
#[derive(Clone, Copy, Debug)]
struct Floor {
    at: Cursor,
    until: Duration,
}

/// Where the next claim goes on.
#[derive(Default)]
pub(crate) struct Cursors {
    lanes: HashMap<i16, Cursor>,
    floors: HashMap<i16, Floor>,
    /// A claim was dear that began at the start of a lane: the next round looks first.
    look_first: bool,
    rescan_at: Duration,
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

    /// Where reading the lane begins.
    pub(crate) fn start_of(&self, lane: i16, now: Duration) -> Cursor {
        self.floors.get(&lane).filter(|floor| now < floor.until).map_or(Cursor::START, |floor| floor.at)
    }

    /// Where the next claim from the lane goes on.
    pub(crate) fn next_of(&self, lane: i16, now: Duration) -> Cursor {
        self.lanes.get(&lane).copied().unwrap_or_else(|| self.start_of(lane, now))
    }

    /// These lanes were read, each from its cursor, and that is how far. If it was dear to read them from their starts, they
    /// begin there for a while: what commits late, or is given back, is found when that is over.
    pub(crate) fn reached(&mut self, lanes: &[(i16, Cursor)], reached: &[Cursor], began: Duration, ended: Duration) {
        let took = ended.saturating_sub(began);
        for ((lane, from), at) in lanes.iter().zip(reached) {
            if *from != Cursor::START {
                // What has died since, at a high rate, is passed by, too.
                if let Some(floor) = self.floors.get_mut(lane).filter(|_| took >= DEAR) {
                    floor.at = *at;
                }
            } else if took < DEAR {
                self.floors.remove(lane);
            } else {
                self.floors.insert(*lane, Floor { at: *at, until: ended + (took * DEAR_SHARE).min(FLOOR_MAX) });
            }
        }
    }

    /// A claim of these lanes has taken so long.
    pub(crate) fn claimed(&mut self, wanted: &[Wanted], took: Duration) {
        self.look_first |= took >= DEAR && wanted.iter().any(|lane| lane.from == Cursor::START);
    }

    /// Whether to look before the next claim, also where nobody needs to ask whether there is something: it tells where
    /// lanes begin.
    pub(crate) fn looks_first(&mut self) -> bool {
        std::mem::take(&mut self.look_first)
    }

    /// Now and then claims begin at the start, also while there is always more.
    pub(crate) fn rescan(&mut self, now: Duration, interval: Duration) {
        if now >= self.rescan_at {
            self.begin_anew();
            self.rescan_at = now + interval;
        }
    }

    /// What came in behind a cursor is found from the start; where a long way is left to the end, it is gone first.
    fn begin_anew(&mut self) {
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
            match last {
                Some(claimed) => self.lanes.insert(lane.lane, claimed.cursor),
                None => self.lanes.remove(&lane.lane),
            };
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
    fn what_is_dear_to_read_is_read_a_tenth_of_the_time_and_lanes_begin_behind_it_meanwhile() {
        let at = |seconds: u64| Cursor::before(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let (now, mut cursors) = (Duration::from_secs, Cursors::default());
        let all = [(1, Cursor::START), (2, Cursor::START)];
        cursors.reached(&all, &[at(50), at(60)], now(100), now(100) + DEAR / 2);
        assert_eq!([1, 2].map(|lane| cursors.start_of(lane, now(101))), [Cursor::START; 2], "it was cheap");

        cursors.reached(&all, &[at(50), at(60)], now(100), now(160));
        assert_eq!(cursors.start_of(1, now(170)), Cursor::START, "it stalled");

        cursors.reached(&all, &[at(50), at(60)], now(101), now(101) + Duration::from_millis(500));
        assert_eq!([1, 2, 3].map(|lane| cursors.start_of(lane, now(106))), [at(50), at(60), Cursor::START]);
        // Reading on from there tells nothing of what is before.
        cursors.reached(&[(1, at(50))], &[at(90)], now(103), now(103) + DEAR / 2);
        assert_eq!(cursors.start_of(1, now(106)), at(50));
        assert_eq!(cursors.next_of(1, now(106)), at(50));
        cursors.reached(&[(1, at(50))], &[at(91)], now(103), now(103) + DEAR);
        assert_eq!(cursors.start_of(1, now(106)), at(91));
        assert_eq!([1, 2].map(|lane| cursors.start_of(lane, now(107))), [Cursor::START; 2], "its time is over");

        let wanted = |from| [Wanted { lane: 1, room: 0, limit: 1, from }];
        cursors.claimed(&wanted(Cursor::START), DEAR / 2);
        cursors.claimed(&wanted(at(50)), DEAR);
        assert!(!cursors.looks_first());
        cursors.claimed(&wanted(Cursor::START), DEAR);
        assert_eq!([cursors.looks_first(), cursors.looks_first()], [true, false]);
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
