//! Times in logs: `Nov 26 10:31:02`, which has neither year nor zone, and ISO 8601 / RFC 3339, which may have both.
//!
//! Pure. The year of a traditional time is that of the line before, of today for the first line; what would then be in
//! the future was last year. Seconds are those since 1970.

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAY_S: i64 = 86_400;
/// A log that jumps back by more has passed New Year.
const HALF_A_YEAR_S: i64 = 182 * DAY_S;

/// When a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// As UTC, where `zoned`; otherwise nobody knows what the numbers mean.
    pub(crate) seconds: i64,
    /// The line, or the caller, said which zone it is.
    pub(crate) zoned: bool,
    /// The line itself had neither year nor zone.
    pub(crate) guessed: bool,
}

/// Reads times one line after another.
#[derive(Debug)]
pub(crate) struct Clock {
    now: i64,
    offset: Option<i64>,
    last: Option<(i64, i64)>,
}

impl Clock {
    /// `now` is the end of all logs; `offset` what times without a zone mean.
    pub(crate) fn new(now: i64, offset: Option<i64>) -> Self {
        Self { now, offset, last: None }
    }

    /// The time at the beginning of a line, and what is behind it.
    pub(crate) fn read<'a>(&mut self, line: &'a str) -> Option<(Stamp, &'a str)> {
        if line.as_bytes().first()?.is_ascii_digit() { self.iso(line) } else { self.traditional(line) }
    }

    fn traditional<'a>(&mut self, line: &'a str) -> Option<(Stamp, &'a str)> {
        let (head, rest) = line.split_at_checked(15)?;
        let rest = rest.strip_prefix(' ')?;
        let month = 1 + MONTHS.iter().position(|name| head.get(..3) == Some(name))?;
        let month = i64::try_from(month).ok()?;
        let day: i64 = head.get(4..6)?.trim_start().parse().ok().filter(|day| (1..=31).contains(day))?;
        (head.get(3..4)? == " " && head.get(6..7)? == " ").then_some(())?;
        let time = clock_time(head.get(7..)?)?;
        let at = |year: i64| days(year, month, day).map(|days| days * DAY_S + time);
        let (today_year, ..) = civil(self.now.div_euclid(DAY_S));
        let (seconds, year) = match self.last {
            None => {
                // A day ahead: it may be the log of a zone further east.
                let this = at(today_year).filter(|seconds| *seconds <= self.now + DAY_S);
                this.map(|seconds| (seconds, today_year)).or_else(|| Some((at(today_year - 1)?, today_year - 1)))?
            }
            Some((last, year)) => {
                let near = |seconds: &i64| (*seconds - last).abs() < HALF_A_YEAR_S;
                [year, year + 1, year - 1]
                    .into_iter()
                    .find_map(|year| at(year).filter(near).map(|seconds| (seconds, year)))?
            }
        };
        self.last = Some((seconds, year));
        let stamp = Stamp { seconds: seconds - self.offset.unwrap_or(0), zoned: self.offset.is_some(), guessed: true };
        Some((stamp, rest))
    }

    fn iso<'a>(&self, line: &'a str) -> Option<(Stamp, &'a str)> {
        let (head, rest) = line.split_once(' ')?;
        let (date, time) = head.split_once('T')?;
        let mut numbers = date.split('-').map(|part| part.parse::<i64>().ok());
        let (year, month, day) = (numbers.next()??, numbers.next()??, numbers.next()??);
        (numbers.next().is_none() && (1970..10_000).contains(&year)).then_some(())?;
        let local = days(year, month, day)? * DAY_S + clock_time(time.get(..8)?)?;
        let zone = time.get(8..)?.trim_start_matches(|c: char| c == '.' || c == ',' || c.is_ascii_digit());
        if zone.is_empty() {
            let offset = self.offset.unwrap_or(0);
            return Some((Stamp { seconds: local - offset, zoned: self.offset.is_some(), guessed: true }, rest));
        }
        Some((Stamp { seconds: local - offset(zone)?, zoned: true, guessed: false }, rest))
    }
}

/// `Z`, `+01:00`, `+0100`: seconds east of Greenwich.
pub(crate) fn offset(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let digits: String = zone.get(1..)?.chars().filter(|c| *c != ':').collect();
    (digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(())?;
    let (hours, minutes): (i64, i64) = (digits[..2].parse().ok()?, digits[2..].parse().ok()?);
    (hours <= 14 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// `10:31:02`.
fn clock_time(text: &str) -> Option<i64> {
    let mut parts = text.split(':').map(|part| (part.len() == 2).then(|| part.parse::<i64>().ok()).flatten());
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    let good = parts.next().is_none() && hour < 24 && minute < 60 && (0..=60).contains(&second) && hour >= 0;
    good.then_some(hour * 3600 + minute * 60 + second)
}

/// Days since 1970 of a date of the Gregorian calendar; none when there is no such day.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let (shifted, at) = (year - i64::from(month <= 2), (month + 9) % 12);
    let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let of_year = (153 * at + 2) / 5 + day - 1;
    let number = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    (civil(number) == (year, month, day)).then_some(number)
}

/// Year, month and day of a number of days since 1970.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let at = (5 * of_year + 2) / 153;
    let month = if at < 10 { at + 3 } else { at - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, of_year - (153 * at + 2) / 5 + 1)
}

/// `2026-11-26T10:31:02Z`.
pub(crate) fn iso(seconds: i64) -> String {
    let (year, month, day) = civil(seconds.div_euclid(DAY_S));
    let time = seconds.rem_euclid(DAY_S);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time / 3600, time / 60 % 60, time % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_689_062; // 2026-11-26T10:31:02Z

    fn read(clock: &mut Clock, line: &str) -> Option<String> {
        clock.read(line).map(|(stamp, _)| iso(stamp.seconds))
    }

    #[test]
    fn iso_times_are_read_with_and_without_zone_and_fraction() {
        let mut clock = Clock::new(NOW, None);
        for line in [
            "2026-11-26T10:31:02Z mx1 x",
            "2026-11-26T11:31:02+01:00 mx1 x",
            "2026-11-26T11:31:02.123456+01:00 mx1 x",
            "2026-11-26T04:31:02-0600 mx1 x",
        ] {
            let (stamp, rest) = clock.read(line).expect(line);
            assert_eq!((stamp.seconds, stamp.zoned, rest), (NOW, true, "mx1 x"), "{line}");
        }
        let (stamp, _) = clock.read("2026-11-26T10:31:02 mx1 x").expect("a time");
        assert!(!stamp.zoned && stamp.guessed);
        let mut told = Clock::new(NOW, Some(3600));
        assert_eq!(told.read("2026-11-26T11:31:02 mx1 x").expect("a time").0.seconds, NOW);
        assert_eq!(told.read("2026-11-26T10:31:02Z mx1 x").expect("a time").0.seconds, NOW, "its own zone counts");
    }

    #[test]
    fn a_year_is_inferred_from_today_and_from_the_line_before() {
        let mut clock = Clock::new(NOW, Some(0));
        assert_eq!(read(&mut clock, "Nov 26 10:31:02 mx1 x").as_deref(), Some("2026-11-26T10:31:02Z"));
        let mut clock = Clock::new(NOW, Some(0));
        assert_eq!(read(&mut clock, "Dec  1 10:31:02 mx1 x").as_deref(), Some("2025-12-01T10:31:02Z"));
        assert_eq!(read(&mut clock, "Dec 31 23:59:59 mx1 x").as_deref(), Some("2025-12-31T23:59:59Z"));
        assert_eq!(read(&mut clock, "Jan  1 00:00:01 mx1 x").as_deref(), Some("2026-01-01T00:00:01Z"));
        assert_eq!(read(&mut clock, "Dec 31 23:59:59 mx1 x").as_deref(), Some("2025-12-31T23:59:59Z"), "a straggler");
        // The log of a server east of here, just after midnight.
        let mut clock = Clock::new(NOW, Some(0));
        assert_eq!(read(&mut clock, "Nov 27 00:31:02 mx1 x").as_deref(), Some("2026-11-27T00:31:02Z"));
    }

    #[test]
    fn what_is_no_time_is_none() {
        let mut clock = Clock::new(NOW, None);
        for line in [
            "",
            "hello",
            "Nov 31 10:31:02 mx1 x",
            "Nov 26 24:31:02 mx1 x",
            "Nov 26 10:31:2 mx1 x",
            "Foo 26 10:31:02 mx1 x",
            "2026-02-29T10:31:02Z mx1 x",
            "2026-11-26T10:31Z mx1 x",
            "2026-11-26T10:31:02CET mx1 x",
            "2026-11-26",
            "Növ 26 10:31:02 mx1",
        ] {
            assert_eq!(clock.read(line), None, "{line}");
        }
    }

    #[test]
    fn days_are_counted_through_leap_years() {
        for days_since in [0, 59, 60, 789, 11_016, 11_017, 20_783, 47_540, -1] {
            let (year, month, day) = civil(days_since);
            assert_eq!(days(year, month, day), Some(days_since));
        }
        assert_eq!(days(2028, 2, 29), Some(21_243));
        assert_eq!(days(2026, 2, 29), None);
    }
}
