//! Durations as people write them: `250ms`, `30s`, `1h30m`, `3d`.

use std::time::Duration;

/// Milliseconds of each unit, largest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// What a duration looks like, for messages.
pub(crate) const SHAPE: &str = "a duration such as 250ms, 30s, 10m, 1h30m or 3d";

/// Reads a duration. `None` when it is not one, or is longer than 2^64 milliseconds.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total_ms: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let amount: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (_, unit_ms) = UNITS.into_iter().find(|(unit, _)| *unit == &rest[..letters])?;
        rest = &rest[letters..];
        total_ms = total_ms.checked_add(amount.checked_mul(unit_ms)?)?;
    }
    Some(Duration::from_millis(total_ms))
}

/// Writes a duration so that [`parse`] reads it back (to the millisecond).
pub(crate) fn format(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, unit_ms) in UNITS {
        if rest >= unit_ms {
            text.push_str(&format!("{}{unit}", rest / unit_ms));
            rest %= unit_ms;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_people_do() {
        let cases = [
            ("250ms", 250),
            ("30s", 30_000),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("3d", 259_200_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("0s", 0),
        ];
        for (text, milliseconds) in cases {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(parse(text), Some(duration), "{text}");
            assert_eq!(format(duration), text);
        }
        assert_eq!(parse(" 90m "), parse("1h30m"));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "10", "s", "-5s", "1.5h", "10 m", "10M", "5minutes", "1h30", "99999999999999999999s", "é"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(parse("18446744073709551615d"), None);
    }
}
