//! Times as the outbox reads and shows them, without a calendar library: `SystemTime` forces none on applications.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MICROSECONDS: i128 = 1_000_000;
/// 0001-01-01 00:00:00.
const FIRST: i128 = -62_135_596_800 * MICROSECONDS;
/// 9999-12-31 23:59:59.999999.
const LAST: i128 = 253_402_300_800 * MICROSECONDS - 1;

/// ISO 8601 in UTC, to the microsecond, which is what Postgres keeps. What lies outside of the years 1 to 9999 becomes
/// the nearest time inside: as a time to send, or to expire, it means the same.
pub(crate) fn timestamp(at: SystemTime) -> String {
    let since = match at.duration_since(UNIX_EPOCH) {
        Ok(after) => micros(after),
        Err(before) => -micros(before.duration()),
    };
    let since = since.clamp(FIRST, LAST);
    let (seconds, fraction) = (since.div_euclid(MICROSECONDS), since.rem_euclid(MICROSECONDS));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z")
}

/// An interval. Longer than anybody's patience is as good as the longest that Postgres can read for sure: both are
/// refused, in the same words.
pub(crate) fn interval(span: Duration) -> String {
    format!("{}.{:06} seconds", span.as_secs().min(u64::from(u32::MAX)), span.subsec_micros())
}

/// The time that is so many microseconds after 1970.
pub(crate) fn from_micros(since: i64) -> SystemTime {
    let span = Duration::from_micros(since.unsigned_abs());
    // SystemTime has 64 bits of seconds: microseconds in 64 bits always fit.
    if since < 0 { UNIX_EPOCH - span } else { UNIX_EPOCH + span }
}

fn micros(span: Duration) -> i128 {
    i128::try_from(span.as_micros()).expect("2^64 seconds in microseconds have 84 bits")
}

/// Year, month and day of the proleptic Gregorian calendar, from days since 1970-01-01.
///
/// The year is thought to begin in March, so that the leap day is its last; 400 years have 146,097 days.
fn date(days: i128) -> (i128, i128, i128) {
    // 0000-03-01 is 719,468 days before 1970.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Five months from March, and again from August, have 153 days.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i128::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_postgres_reads_them() {
        for (since, written) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (951_827_696_123_456, "2000-02-29T12:34:56.123456Z"),
            (1_709_251_199_000_000, "2024-02-29T23:59:59.000000Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
            (i64::MAX, "9999-12-31T23:59:59.999999Z"),
            (i64::MIN, "0001-01-01T00:00:00.000000Z"),
        ] {
            assert_eq!(timestamp(from_micros(since)), written, "{since}");
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut before = date(-719_162);
        assert_eq!(before, (1, 1, 1));
        for days in -719_161..=2_932_896 {
            let (year, month, day) = date(days);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = |month: i128| match month {
                2 => 28 + i128::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let next = match before {
                (y, 12, 31) => (y + 1, 1, 1),
                (y, m, d) if d == length(m) => (y, m + 1, 1),
                (y, m, d) => (y, m, d + 1),
            };
            assert_eq!((year, month, day), next, "day {days}");
            before = (year, month, day);
        }
        assert_eq!(before, (9999, 12, 31));
    }

    #[test]
    fn intervals_keep_their_microseconds_and_have_an_end() {
        assert_eq!(interval(Duration::from_micros(90_000_001)), "90.000001 seconds");
        assert_eq!(interval(Duration::MAX), "4294967295.999999 seconds");
    }
}
