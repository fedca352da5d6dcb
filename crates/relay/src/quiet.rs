//! Quiet hours: when mail of a kind is not wanted, by the clock of whoever gets it.
//!
//! Invariants: what time it is the database says (a claim tells when the delivery became due and for how long it has been),
//! so that a relay with a wrong clock wakes nobody; the zones come with the binary. Quiet hours only delay, before anything
//! of an attempt has begun, and what expires meanwhile is looked at when it does. A window is one stretch of time a day, also
//! on the days when clocks change: what is skipped begins or ends it at the change, of what comes twice it begins at the
//! first and ends at the last.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hapax_core::{clock::Clock, envelope::Content, fault};
use hapax_store::{Claimed, Release, Store};
use jiff::{
    Timestamp, ToSpan,
    civil::Date,
    tz::{AmbiguousOffset, TimeZone},
};

use crate::{complaint::Complaint, config::RelayConfig, job::Letter};

/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// A time zone by its IANA name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// The zone of that name, if there is one.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let zone = TimeZone::get(name).ok().filter(|zone| !zone.is_unknown())?;
        Some(Self(zone))
    }

    /// The names of all zones.
    #[must_use]
    pub fn names() -> Vec<String> {
        jiff::tz::db().available().map(|name| name.to_string()).collect()
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

/// From one time of day to another, over midnight where the second is not later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Minutes since midnight.
    from: u16,
    to: u16,
}

impl Window {
    /// From minute to minute of a day; the second may be that of its end. None where they are the same, or no such minutes.
    #[must_use]
    pub fn new(from: u16, to: u16) -> Option<Self> {
        let window = Self { from, to: to % DAY };
        (from < DAY && to <= DAY && window.from != window.to).then_some(window)
    }

    /// How long it is on most days.
    #[must_use]
    pub fn length(self) -> Duration {
        Duration::from_secs(60 * u64::from((self.to + DAY - self.from) % DAY))
    }

    /// Whether that minute of a day is in it.
    #[must_use]
    pub fn holds(self, minute: u16) -> bool {
        (minute + DAY - self.from) % DAY < (self.to + DAY - self.from) % DAY
    }

    /// When it ends, if it holds at that time.
    fn end(self, zone: &TimeZone, at: Timestamp) -> Option<Timestamp> {
        let today = zone.to_datetime(at).date();
        let days = [today.yesterday().ok(), Some(today), today.tomorrow().ok()];
        days.into_iter().flatten().find_map(|day| {
            let last = if self.from < self.to { day } else { day.checked_add(1.day()).ok()? };
            let begins = moment(zone, day, self.from, false)?;
            let ends = moment(zone, last, self.to, true)?;
            (begins <= at && at < ends).then_some(ends)
        })
    }
}

/// When it is that minute of a day: of a minute that comes twice the first or the `last`, of one that is skipped the change.
fn moment(zone: &TimeZone, day: Date, minute: u16, last: bool) -> Option<Timestamp> {
    let time = day.at(i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?, 0, 0);
    let found = zone.to_ambiguous_timestamp(time);
    match found.offset() {
        AmbiguousOffset::Gap { .. } => {
            let before = found.earlier().ok()?;
            zone.following(before).next().map(|change| change.timestamp())
        }
        _ if last => found.later().ok(),
        _ => found.earlier().ok(),
    }
}

/// When mail of a kind waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuietHours {
    /// Any of them.
    pub windows: Vec<Window>,
    /// Where nothing better is known.
    pub zone: Zone,
    /// Where in a payload the recipient's zone stands: the names from the outside in.
    pub zone_from: Option<Vec<String>>,
}

impl QuietHours {
    /// When it stops being quiet, if it is.
    fn ends(&self, zone: &Zone, now: Timestamp) -> Option<Timestamp> {
        let mut at = now;
        // One window may begin where another ends.
        for _ in 0..=self.windows.len() {
            let Some(end) = self.windows.iter().filter_map(|window| window.end(&zone.0, at)).max() else { break };
            at = end;
        }
        (at > now).then_some(at)
    }

    /// The zone that the message names; none where it names none. An error where what it names is none.
    fn zone_of(&self, content: &Content) -> Result<Option<Zone>, ()> {
        let (Some(path), Content::Payload(payload)) = (&self.zone_from, content) else { return Ok(None) };
        let payload: serde_json::Value = serde_json::from_str(payload).map_err(|_| ())?;
        match path.iter().try_fold(&payload, |value, name| value.get(name)) {
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(serde_json::Value::String(name)) => Zone::named(name).map(Some).ok_or(()),
            Some(_) => Err(()),
        }
    }
}

/// When it was last said of a kind that its zones cannot be used.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Mutex<HashMap<String, Complaint>>);

impl Complaints {
    fn say(&self, kind: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.entry(kind.to_owned()).or_default().is_due() {
            tracing::warn!(
                kind,
                "what time_zone_from names is no time zone, the tenant's or the kind's is used (hint: payloads have an IANA \
                 name there, such as Europe/Berlin, or nothing)"
            );
        }
    }
}

/// How long a delivery waits, and what is said of it.
#[derive(Clone, Debug)]
pub(crate) struct Rest {
    pub(crate) after: Duration,
    pub(crate) why: String,
}

/// Whether a delivery has to wait because it is quiet where it goes; never beyond its expiry.
pub(crate) fn rest(
    config: &RelayConfig,
    complaints: &Complaints,
    claimed: &Claimed,
    letter: &Letter,
    clock: &dyn Clock,
) -> Option<Rest> {
    let hours = letter.policy.quiet.as_ref()?;
    let notification = &letter.notification;
    let own = hours.zone_of(&notification.content).unwrap_or_else(|()| {
        complaints.say(&notification.kind);
        None
    });
    let of_tenant = || config.directions.tenant(notification).and_then(|tenant| tenant.zone.as_ref());
    let zone = own.as_ref().or_else(of_tenant).unwrap_or(&hours.zone);
    let now = Timestamp::try_from(claimed.at() + letter.held_for(clock)).ok()?;
    let ends = hours.ends(zone, now)?;
    let rest = ends.duration_since(now).unsigned_abs();
    let after = letter.expires_in(clock).map_or(rest, |left| rest.min(left));
    Some(Rest { after, why: format!("quiet hours of its kind: not before {}", ends.strftime("%Y-%m-%d %H:%M:%SZ")) })
}

/// Gives deliveries back until it is not quiet any more.
pub(crate) async fn give_back(store: &Store, quiet: &[(Release, String)]) {
    if quiet.is_empty() {
        return;
    }
    fault::point("release_sent");
    if let Err(error) = store.release_saying(quiet).await {
        tracing::warn!(error = %error, deliveries = quiet.len(), "could not be given back, their leases will expire");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(windows: &[(u16, u16)]) -> QuietHours {
        let windows = windows.iter().map(|(from, to)| Window::new(*from, *to).expect("a window")).collect();
        QuietHours { windows, zone: Zone::default(), zone_from: Some(vec!["to".into(), "zone".into()]) }
    }

    fn minutes(hours: &QuietHours, zone: &str, at: &str) -> Option<u64> {
        let at: Timestamp = at.parse().expect("a time");
        let ends = hours.ends(&Zone::named(zone).expect("a zone"), at)?;
        Some(ends.duration_since(at).unsigned_abs().as_secs() / 60)
    }

    const H: u16 = 60;

    #[test]
    fn it_is_quiet_from_the_first_minute_to_the_last_over_midnight_too() {
        let night = hours(&[(22 * H, 7 * H)]);
        let cases = [
            ("2026-06-10T21:59:59Z", None),
            ("2026-06-10T22:00:00Z", Some(9 * 60)),
            ("2026-06-11T00:00:00Z", Some(7 * 60)),
            ("2026-06-11T06:59:00Z", Some(1)),
            ("2026-06-11T07:00:00Z", None),
        ];
        for (at, rest) in cases {
            assert_eq!(minutes(&night, "UTC", at), rest, "{at}");
        }
        let noon = hours(&[(12 * H, 13 * H + 30)]);
        assert_eq!(minutes(&noon, "Europe/Berlin", "2026-06-10T09:59:00Z"), None);
        assert_eq!(minutes(&noon, "Europe/Berlin", "2026-06-10T10:00:00Z"), Some(90));
        assert_eq!(minutes(&noon, "Asia/Kathmandu", "2026-06-10T06:15:00Z"), Some(90), "5 h 45 min ahead");
    }

    #[test]
    fn windows_that_join_are_waited_for_as_one() {
        let joined = hours(&[(0, 7 * H), (22 * H, DAY), (6 * H, 8 * H)]);
        assert_eq!(minutes(&joined, "UTC", "2026-06-10T22:00:00Z"), Some(10 * 60));
        assert_eq!(minutes(&joined, "UTC", "2026-06-10T08:00:00Z"), None);
    }

    #[test]
    fn clocks_that_change_shorten_and_lengthen_a_night() {
        // Berlin: 2026-03-29 02:00 becomes 03:00, 2026-10-25 03:00 becomes 02:00.
        let night = hours(&[(22 * H, 7 * H)]);
        assert_eq!(minutes(&night, "Europe/Berlin", "2026-03-28T21:00:00Z"), Some(8 * 60));
        assert_eq!(minutes(&night, "Europe/Berlin", "2026-10-24T20:00:00Z"), Some(10 * 60));
        // An end that is skipped is the change itself.
        let skipped = hours(&[(H, 2 * H + 30)]);
        assert_eq!(minutes(&skipped, "Europe/Berlin", "2026-03-29T00:00:00Z"), Some(60));
        assert_eq!(minutes(&skipped, "Europe/Berlin", "2026-03-29T01:00:00Z"), None);
        // So is a beginning.
        let begins = hours(&[(2 * H + 30, 4 * H)]);
        assert_eq!(minutes(&begins, "Europe/Berlin", "2026-03-29T00:59:00Z"), None);
        assert_eq!(minutes(&begins, "Europe/Berlin", "2026-03-29T01:00:00Z"), Some(60));
        // What comes twice is quiet from its first beginning to its last end, and at no time in between not.
        let twice = hours(&[(2 * H + 15, 2 * H + 45)]);
        assert_eq!(minutes(&twice, "Europe/Berlin", "2026-10-25T00:14:00Z"), None);
        assert_eq!(minutes(&twice, "Europe/Berlin", "2026-10-25T00:15:00Z"), Some(90));
        assert_eq!(minutes(&twice, "Europe/Berlin", "2026-10-25T00:50:00Z"), Some(55));
        assert_eq!(minutes(&twice, "Europe/Berlin", "2026-10-25T01:45:00Z"), None);
        // A whole day that never was: Samoa went from the 29th to the 31st of December 2011.
        assert_eq!(minutes(&night, "Pacific/Apia", "2011-12-30T09:59:00Z"), Some(7 * 60 + 1));
    }

    #[test]
    fn whenever_it_is_quiet_it_is_not_any_more_when_that_ends() {
        let all = [hours(&[(22 * H, 7 * H)]), hours(&[(2 * H + 30, 3 * H + 5)]), hours(&[(0, 5), (23 * H, 60)])];
        let year: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let (mut quiet, mut loud, mut changes) = (0, 0, 0);
        for zone in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo"] {
            let named = Zone::named(zone).expect("a zone");
            for change in named.0.following(year).take(2) {
                changes += 1;
                for step in -90..90_i64 {
                    let at = change.timestamp() + (step * 20 + step % 7).minutes();
                    for hours in &all {
                        let Some(ends) = hours.ends(&named, at) else {
                            loud += 1;
                            continue;
                        };
                        quiet += 1;
                        assert!(ends <= at + 11.hours(), "{zone} {at} {ends}");
                        assert_eq!(hours.ends(&named, ends), None, "{zone} {at}");
                    }
                }
            }
        }
        assert!(changes == 8 && quiet > 500 && loud > 500, "{changes} {quiet} {loud}");
    }

    #[test]
    fn windows_are_no_whole_days_and_hold_what_lies_between() {
        assert_eq!(Window::new(60, 60), None);
        assert_eq!(Window::new(0, DAY), None);
        assert_eq!(Window::new(DAY, 60), None);
        assert_eq!(Window::new(0, DAY + 1), None);
        let night = Window::new(22 * H, 7 * H).expect("a window");
        assert_eq!(night.length(), Duration::from_secs(9 * 3600));
        let held: Vec<u16> = (0..24).filter(|hour| night.holds(hour * H)).collect();
        assert_eq!(held, [0, 1, 2, 3, 4, 5, 6, 22, 23]);
    }

    #[test]
    fn a_payload_names_a_zone_or_none_or_something_that_is_none() {
        let of = |payload: &str| hours(&[(0, 60)]).zone_of(&Content::Payload(payload.to_owned()));
        assert_eq!(of(r#"{"to": {"zone": "Asia/Tokyo"}}"#), Ok(Zone::named("Asia/Tokyo")));
        for nothing in ["{}", r#"{"to": {}}"#, r#"{"to": {"zone": null}}"#, r#"{"to": "x"}"#] {
            assert_eq!(of(nothing), Ok(None), "{nothing}");
        }
        for bad in [r#"{"to": {"zone": "Europe/Berlim"}}"#, r#"{"to": {"zone": 2}}"#, "not JSON"] {
            assert_eq!(of(bad), Err(()), "{bad}");
        }
        assert_eq!(Zone::named("Etc/Unknown"), None);
        assert!(Zone::names().iter().any(|name| name == "Europe/Berlin"));
    }
}
