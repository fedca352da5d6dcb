//! A new address, domain or provider is used a little more each day: so many on the first, so many on the second, ...
//!
//! Invariants: days are those of UTC by the clock of the database; before the first day the first one counts, and while
//! nobody knows the time; after the last there is no cap. A day's volume is spread evenly over the day, and over all relays
//! like any rate.

use std::time::Duration;

use jiff::civil::Date;

use crate::pace::Rate;

const DAY: Duration = Duration::from_secs(86_400);

/// The volumes of a route's first days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmUp {
    /// Days since 1970-01-01.
    first_day: i64,
    daily: Vec<u32>,
}

impl WarmUp {
    /// From a date such as `2026-12-01`; at least one volume, all above zero.
    ///
    /// # Errors
    /// When it is no date.
    pub fn new(starts: &str, daily: Vec<u32>) -> Result<Self, &'static str> {
        let date: Date = starts.trim().parse().map_err(|_| "is not a date such as 2026-12-01")?;
        let epoch = jiff::civil::date(1970, 1, 1);
        let days = date.since(epoch).map_err(|_| "is too far away")?.get_days();
        Ok(Self { first_day: days.into(), daily })
    }

    /// Its cap at this time, in seconds since 1970; none when it is over.
    pub(crate) fn rate_at(&self, now_s: Option<f64>) -> Option<Rate> {
        let today = now_s.map_or(self.first_day, |now_s| (now_s / DAY.as_secs_f64()).floor() as i64);
        let day = usize::try_from((today - self.first_day).max(0)).unwrap_or(usize::MAX);
        self.daily.get(day).map(|count| Rate { count: *count, per: DAY })
    }
}

/// How fast a route may go: what it is told, and its warm-up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ceiling {
    pub(crate) rate: Option<Rate>,
    pub(crate) warm_up: Option<WarmUp>,
}

impl Ceiling {
    /// The lower of both.
    pub(crate) fn at(&self, now_s: Option<f64>) -> Option<Rate> {
        let warm = self.warm_up.as_ref().and_then(|warm_up| warm_up.rate_at(now_s));
        match (self.rate, warm) {
            (Some(rate), Some(warm)) => Some(if warm.per_second() < rate.per_second() { warm } else { rate }),
            (rate, warm) => rate.or(warm),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_day_has_its_volume_and_then_there_is_none() {
        let warm_up = WarmUp::new("2026-12-01", vec![50, 100, 1_000]).expect("a date");
        // date -u -d 2026-12-01 +%s
        let midnight = 1_796_083_200.0;
        let at = |now_s: f64| warm_up.rate_at(Some(now_s)).map(|rate| rate.count);
        assert_eq!(at(midnight - 86_400.0 * 30.0), Some(50), "not begun");
        assert_eq!((at(midnight), at(midnight + 86_399.0)), (Some(50), Some(50)));
        assert_eq!((at(midnight + 86_400.0), at(midnight + 2.5 * 86_400.0)), (Some(100), Some(1_000)));
        assert_eq!(at(midnight + 3.0 * 86_400.0), None);
        assert_eq!(warm_up.rate_at(None).map(|rate| rate.count), Some(50), "nobody knows the time");
        for text in ["", "soon", "2026-13-01", "2026-02-30", "01.12.2026"] {
            assert!(WarmUp::new(text, vec![1]).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_lower_of_rate_and_warm_up_counts() {
        let warm_up = WarmUp::new("1970-01-01", vec![86_400]).ok();
        let rate = |count| Some(Rate { count, per: Duration::from_secs(1) });
        let at = |rate, now_s| Ceiling { rate, warm_up: warm_up.clone() }.at(Some(now_s)).map(Rate::per_second);
        assert_eq!((at(rate(2), 0.0), at(None, 0.0)), (Some(1.0), Some(1.0)));
        let slow = Some(Rate { count: 30, per: Duration::from_secs(60) });
        assert_eq!((at(slow, 0.0), at(rate(2), 86_400.0), at(None, 86_400.0)), (Some(0.5), Some(2.0), None));
    }
}
