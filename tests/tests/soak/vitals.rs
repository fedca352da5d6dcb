//! Memory and descriptors of the relay, looked at once a second while it works.
//!
//! What the first fifth of the time shows is warming up. Of the rest the second half is laid beside the first by its
//! median, which no single burst moves; and where there is time for it, a line through the medians of its tenths says how
//! much it would grow in an hour.

use std::fmt;
use std::time::{Duration, Instant};

use hapax_testkit::HapaxProcess;
use hapax_tests::probe::Probe;
use tokio::time::{MissedTickBehavior, interval};

/// What a relay that does not grow may still have more of in the second half: pages that the allocator keeps.
const MARGIN_KIB: u64 = 6 * 1024;
const MARGIN_DESCRIPTORS: u64 = 8;
/// From so much time on the slope says something.
const SLOPE_FROM: Duration = Duration::from_secs(600);
const SLOPE_MAX_KIB_PER_HOUR: f64 = 16.0 * 1024.0;

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Vitals {
    watched: Duration,
    kib: Vec<u64>,
    descriptors: Vec<u64>,
}

/// Looks once a second for so long, and tells every minute.
pub(super) async fn watch(relay: &HapaxProcess, duration: Duration, probe: &Probe) -> Vitals {
    let mut vitals = Vitals { watched: duration, ..Vitals::default() };
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let began = Instant::now();
    while began.elapsed() < duration {
        ticks.tick().await;
        vitals.kib.push(resident_kib(relay));
        vitals.descriptors.push(descriptors(relay));
        if vitals.kib.len().is_multiple_of(60) {
            let scrape = probe.scrape().await;
            println!(
                "{:4.0?}: {} KiB, {} descriptors, {} accepted, {} in doubt",
                began.elapsed(),
                vitals.kib[vitals.kib.len() - 1],
                vitals.descriptors[vitals.descriptors.len() - 1],
                scrape.value("attempts_total{route=\"default\",outcome=\"accepted\"}"),
                scrape.value("attempts_total{route=\"default\",outcome=\"unknown\"}"),
            );
        }
    }
    vitals
}

fn resident_kib(relay: &HapaxProcess) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", relay.id())).expect("it lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has memory");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

fn descriptors(relay: &HapaxProcess) -> u64 {
    std::fs::read_dir(format!("/proc/{}/fd", relay.id())).expect("it lives").count() as u64
}

fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// The medians of first and second half behind the warming up.
fn halves(values: &[u64]) -> (u64, u64) {
    let warm = &values[values.len() / 5..];
    let (first, second) = warm.split_at(warm.len() / 2);
    (median(first), median(second))
}

/// Growth in an hour by the line through the medians of ten parts.
fn slope_per_hour(values: &[u64]) -> f64 {
    let warm = &values[values.len() / 5..];
    let part = (warm.len() / 10).max(1);
    let points: Vec<(f64, f64)> =
        warm.chunks(part).enumerate().map(|(at, part_of)| ((at * part) as f64, median(part_of) as f64)).collect();
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let (above, below) = points
        .iter()
        .fold((0.0, 0.0), |(above, below), (at, value)| (above + (at - x) * (value - y), below + (at - x).powi(2)));
    if below > 0.0 { above / below * 3_600.0 } else { 0.0 }
}

impl Vitals {
    /// Asserts that nothing has grown.
    ///
    /// # Panics
    /// With the figures, otherwise.
    #[track_caller]
    pub(super) fn assert_flat(&self) {
        let ((first, second), (few, more)) = (halves(&self.kib), halves(&self.descriptors));
        assert!(second <= first + first / 20 + MARGIN_KIB, "memory grows: {self}");
        assert!(more <= few + MARGIN_DESCRIPTORS, "descriptors add up: {self}");
        if self.watched >= SLOPE_FROM {
            assert!(slope_per_hour(&self.kib) < SLOPE_MAX_KIB_PER_HOUR, "memory grows: {self}");
        }
    }
}

impl fmt::Display for Vitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kib, descriptors] = [&self.kib, &self.descriptors].map(|values| {
            let ((first, second), most) = (halves(values), values.iter().max().copied().unwrap_or_default());
            let slope = slope_per_hour(values);
            format!("median {first} in the first half, {second} in the second, {most} at most, {slope:+.0} in an hour")
        });
        write!(f, "resident KiB: {kib}\ndescriptors: {descriptors}")
    }
}
