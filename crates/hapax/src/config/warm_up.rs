//! `[routes.NAME.warm_up]`: the volumes of a route's first days.

use hapax_relay::WarmUp;

use super::{reader::Section, schema::Shape};

/// Nobody warms up for longer.
const DAYS_MAX: usize = 366;

const HINT: &str =
    "whole numbers of messages a day, each at least the one before: daily = [50, 100, 500, 1000, 5000, 20000]";

/// The section, if it is there.
pub(super) fn read(section: &mut Section<'_>) -> Option<WarmUp> {
    section.sub("warm_up", |section| {
        let starts = section.take("starts");
        section.show("starts", starts.as_ref(), None);
        let given = section.list_as("daily", Shape::Volumes);
        let (starts, given) = match (starts, given) {
            (Some(starts), Some(given)) => (starts, given),
            (Some(_), None) if !section.has_problem("daily") => {
                section.missing("daily", HINT);
                return None;
            }
            (None, Some(_)) => {
                section.missing("starts", "the first day, in UTC: starts = \"2026-12-01\"");
                return None;
            }
            _ => return None,
        };
        let mut daily = Vec::new();
        for volume in &given {
            match volume.text.parse::<u32>() {
                Ok(count) if count > 0 && daily.last().is_none_or(|before| *before <= count) => daily.push(count),
                _ => section.refuse_with("daily", volume, "is not a volume that follows the one before", HINT),
            }
        }
        if given.is_empty() || given.len() > DAYS_MAX {
            section.missing("daily", format!("1 to {DAYS_MAX} of them; {HINT}"));
            return None;
        }
        match WarmUp::new(&starts.text, daily) {
            Ok(warm_up) => Some(warm_up),
            Err(why) => {
                section.refuse_with("starts", &starts, why, "the first day, in UTC");
                None
            }
        }
    })
}
