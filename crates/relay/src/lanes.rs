//! Which lanes there are and in which order they are served.

use hapax_core::Priority;

/// Every lane of the given route groups.
pub(crate) fn lanes_of(groups: impl IntoIterator<Item = i16>) -> Vec<i16> {
    groups.into_iter().flat_map(|group| Priority::ALL.map(|priority| group * 4 + priority.lane_offset())).collect()
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
