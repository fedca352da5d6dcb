//! What becomes of an ordering key in which a delivery has stopped: `wait`, `skip`, `skip_after 10m`.

use std::time::Duration;

use super::{duration, origin::Problem, reader::Section, schema::Shape};

/// No key waits longer before it is skipped.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// `on_block` and `failed_blocks`: for how long those behind a stopped delivery wait (none: until it is decided), and whether
/// one that has failed is such.
pub(super) fn read(section: &mut Section<'_>) -> (Option<Duration>, bool) {
    let (skip_after, failed_blocks) = (policy(section), section.switch("failed_blocks", false));
    if failed_blocks && skip_after == Some(Duration::ZERO) {
        let problem = Problem::new(section.path("failed_blocks"), "changes nothing: on_block skips what has stopped");
        let hint = format!("leave it out, or set {} to wait or skip_after", section.path("on_block"));
        section.reader.warnings.push(problem.hint(hint));
    }
    (skip_after, failed_blocks)
}

fn policy(section: &mut Section<'_>) -> Option<Duration> {
    let given = section.take_as("on_block", Shape::Text);
    section.show("on_block", given.as_ref(), Some("\"wait\"".to_owned()));
    let given = given?;
    match parse(&given.text) {
        Some(skip_after) => skip_after,
        None => {
            let hint = "skip_after takes a time above 0, of at most a year: skip_after 10m";
            section.refuse_with("on_block", &given, "is not one of wait, skip, skip_after 10m", hint);
            None
        }
    }
}

fn parse(text: &str) -> Option<Option<Duration>> {
    let mut words = text.split_whitespace();
    let parsed = match (words.next()?, words.next()) {
        ("wait", None) => None,
        ("skip", None) => Some(Duration::ZERO),
        ("skip_after", Some(time)) => {
            Some(duration::parse(time).filter(|time| *time <= LONGEST && *time > Duration::ZERO)?)
        }
        _ => return None,
    };
    words.next().is_none().then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_three_policies_and_nothing_else_is_one() {
        assert_eq!(parse("wait"), Some(None));
        assert_eq!(parse("skip"), Some(Some(Duration::ZERO)));
        assert_eq!(parse(" skip_after  10m "), Some(Some(Duration::from_secs(600))));
        for text in [
            "",
            "hold",
            "skip_after",
            "skip_after soon",
            "skip_after 0s",
            "skip 10m",
            "wait 10m",
            "skip_after 10m now",
            "skip_after 9999d",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
