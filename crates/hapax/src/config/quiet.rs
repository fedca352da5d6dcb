//! `quiet_hours` of kinds, and the time zones they are meant in.
//!
//! What could never end, or never begin, is refused.

use std::{sync::Arc, time::Duration};

use hapax_relay::{QuietHours, Window, Zone};

use super::{
    duration::format,
    nearest::nearest,
    origin::Problem,
    reader::{Given, Section},
};

const DAY: u16 = 24 * 60;
const HOURS: &str = "from and to by the clock of 24 hours, over midnight if need be: quiet_hours = \"22:00-07:00\"";

/// Those of a kind, whose notifications expire after so long.
pub(super) fn read(section: &mut Section<'_>, expires_after: Option<Duration>) -> Option<Arc<QuietHours>> {
    let given = section.list("quiet_hours");
    let zone = zone(section, Some("UTC"));
    let zone_from = zone_from(section);
    let path = section.path("quiet_hours");
    let Some(given) = given else {
        for (key, is_given) in [("time_zone", zone.is_some()), ("time_zone_from", zone_from.is_some())] {
            if is_given {
                let problem = Problem::new(section.path(key), "changes nothing: there are no quiet_hours");
                section.reader.warnings.push(problem.hint(format!("set {path}, or leave it out")));
            }
        }
        return None;
    };
    let windows: Vec<Window> = given.iter().filter_map(|one| window(section, one)).collect();
    if given.is_empty() {
        section.reader.problems.push(Problem::new(path, "is empty").hint(format!("leave it out, or write {HOURS}")));
        return None;
    }
    if windows.len() < given.len() {
        return None;
    }
    if (0..DAY).all(|minute| windows.iter().any(|window| window.holds(minute))) {
        let all: Vec<&str> = given.iter().map(|one| one.text.as_str()).collect();
        let problem = Problem::new(path, format!("{}: hold all day, nothing would ever be sent", all.join(", ")));
        section
            .reader
            .problems
            .push(problem.hint("leave an hour, or pause the kind: hapax pause --kind NAME --reason WHY"));
        return None;
    }
    let longest = windows.iter().map(|window| window.length()).max().unwrap_or_default();
    if let Some(expires) = expires_after.filter(|expires| *expires <= longest) {
        let message = format!(
            "is {}, no longer than quiet hours of {}: what is enqueued when they begin expires unsent",
            format(expires),
            format(longest)
        );
        let problem = Problem::new(section.path("expires_after"), message);
        section.reader.warnings.push(problem.hint("make it longer, or shorten quiet_hours"));
    }
    Some(Arc::new(QuietHours { windows, zone: zone.unwrap_or_default(), zone_from }))
}

/// `time_zone`, if there is one.
pub(super) fn zone(section: &mut Section<'_>, default: Option<&str>) -> Option<Zone> {
    let given = section.take("time_zone");
    section.show("time_zone", given.as_ref(), default.map(|name| format!("{name:?}")));
    let given = given?;
    let zone = Zone::named(&given.text);
    if zone.is_none() {
        let names = Zone::names();
        let hint = match nearest(&given.text, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {near}?"),
            None => "a name of the IANA time zone database, such as Europe/Berlin or America/New_York".to_owned(),
        };
        section.refuse_with("time_zone", &given, "is no time zone", &hint);
    }
    zone
}

/// `time_zone_from`: where it stands in a payload.
fn zone_from(section: &mut Section<'_>) -> Option<Vec<String>> {
    let given = section.take("time_zone_from");
    section.show("time_zone_from", given.as_ref(), None);
    let given = given?;
    let names: Vec<String> = given.text.split('.').map(str::to_owned).collect();
    match names.split_first() {
        Some((first, rest)) if first == "payload" && !rest.is_empty() && rest.iter().all(|name| !name.is_empty()) => {
            Some(rest.to_vec())
        }
        _ => {
            let hint = "the names that lead to it, with dots: time_zone_from = \"payload.customer.time_zone\"";
            section.refuse_with("time_zone_from", &given, "does not lead into the payload", hint);
            None
        }
    }
}

fn window(section: &mut Section<'_>, given: &Given) -> Option<Window> {
    let times = given.text.split_once('-').and_then(|(from, to)| Some((minute(from)?, minute(to)?)));
    let Some((from, to)) = times else {
        section.refuse_with("quiet_hours", given, "is not two times of day with a hyphen between them", HOURS);
        return None;
    };
    let window = Window::new(from, to);
    if window.is_none() {
        let message = match (from, to) {
            (DAY, _) => "begins at 24:00, which is the end of a day",
            (from, to) if from == to => "begins and ends at the same time",
            _ => "holds all day, nothing would ever be sent",
        };
        section.refuse_with("quiet_hours", given, message, HOURS);
    }
    window
}

/// A time of day, `24:00` for its end.
fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.trim().split_once(':')?;
    let two = |text: &str, most: u16| {
        let fits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|number| fits && *number <= most)
    };
    let minute = 60 * two(hour, 24)? + two(minute, 59)?;
    (minute <= DAY).then_some(minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_has_two_digits_each_and_ends_at_twenty_four() {
        for (text, expected) in [("00:00", 0), (" 07:30 ", 450), ("23:59", 1_439), ("24:00", 1_440)] {
            assert_eq!(minute(text), Some(expected), "{text}");
        }
        for text in ["", "7:00", "07", "07:60", "24:01", "25:00", "07:0", "+7:00", "07:00:00", "7am"] {
            assert_eq!(minute(text), None, "{text:?}");
        }
    }
}
