//! Rates as people write them: `14/s`, `200/min`, `1000/h`, `50000/day`.

use std::time::Duration;

use hapax_relay::Rate;

use super::{reader::Section, schema::Shape};

const UNITS: [(&str, u64); 4] = [("s", 1), ("min", 60), ("h", 3_600), ("day", 86_400)];

/// The most per second that is a limit of anything.
const PER_SECOND_MAX: u64 = 100_000;

/// `rate`, if there is one.
pub(super) fn read(section: &mut Section<'_>) -> Option<Rate> {
    let given = section.take_as("rate", Shape::Rate);
    section.show("rate", given.as_ref(), None);
    let given = given?;
    let Some((count, unit_s)) = parse(&given.text) else {
        let hint = "a whole number, a slash and s, min, h or day; over all relays together";
        section.refuse_with("rate", &given, "is not a rate such as 14/s, 200/min, 1000/h or 50000/day", hint);
        return None;
    };
    if count == 0 || u64::from(count) > PER_SECOND_MAX * unit_s {
        let hint = "leave it out for a route that may go as fast as it can";
        section.refuse_with("rate", &given, format!("must be between 1/day and {PER_SECOND_MAX}/s"), hint);
        return None;
    }
    Some(Rate { count, per: Duration::from_secs(unit_s) })
}

fn parse(text: &str) -> Option<(u32, u64)> {
    let (count, unit) = text.trim().split_once('/')?;
    let (_, unit_s) = UNITS.into_iter().find(|(word, _)| *word == unit)?;
    let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    Some((digits.then(|| count.parse().ok()).flatten()?, unit_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them_and_nothing_else_is_one() {
        let cases = [("14/s", 14, 1), ("200/min", 200, 60), ("1000/h", 1_000, 3_600), (" 50000/day ", 50_000, 86_400)];
        for (text, count, unit_s) in cases {
            assert_eq!(parse(text), Some((count, unit_s)), "{text}");
        }
        for text in ["", "14", "/s", "14/", "14/sec", "1.5/s", "-1/s", "+1/s", "14 / s", "14/s/s", "99999999999/s"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
