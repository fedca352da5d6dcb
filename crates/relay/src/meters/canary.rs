//! What metrics say of the canary: of the incarnation that began last. One that drains, or whose configuration had a canary
//! while the new one has none, says nothing any more.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hapax_core::Incarnation;
use hapax_store::CanarySeen;
use prometheus_client::registry::Registry;

use super::{Meters, Seconds};

/// The gauges, and whose word they take.
#[derive(Default)]
pub(super) struct Canaries {
    of: Mutex<Option<Incarnation>>,
    interval: Seconds,
    enqueued: Seconds,
    completed: Seconds,
}

impl fmt::Debug for Canaries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canaries").finish_non_exhaustive()
    }
}

impl Canaries {
    pub(super) fn register(&self, own: &mut Registry) {
        let gauges = [
            ("canary_interval_seconds", "How often a canary is to come through; 0 when there is none", &self.interval),
            (
                "canary_last_enqueued_timestamp_seconds",
                "When a canary was enqueued last, by whichever relay; 0 before the first",
                &self.enqueued,
            ),
            (
                "canary_last_completed_timestamp_seconds",
                "When a server accepted a canary last, whichever relay delivered it; 0 before the first",
                &self.completed,
            ),
        ];
        for (name, help, gauge) in gauges {
            own.register(name, help, gauge.clone());
        }
    }
}

impl Meters {
    /// An incarnation begins, with a canary or without.
    pub(crate) fn canary_begins(&self, of: Incarnation, every: Option<Duration>) {
        let canaries = &self.0.canaries;
        let mut owner = canaries.of.lock().unwrap_or_else(PoisonError::into_inner);
        *owner = Some(of);
        canaries.interval.set(every.map_or(0.0, |every| every.as_secs_f64()));
        if every.is_none() {
            canaries.enqueued.set(0.0);
            canaries.completed.set(0.0);
        }
    }

    /// What the database knows of canaries.
    pub(crate) fn canary_seen(&self, by: Incarnation, seen: CanarySeen) {
        let canaries = &self.0.canaries;
        let owner = canaries.of.lock().unwrap_or_else(PoisonError::into_inner);
        if *owner == Some(by) {
            canaries.enqueued.set(seen.enqueued_s.unwrap_or(0.0));
            canaries.completed.set(seen.completed_s.unwrap_or(0.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_incarnation_says_late_does_not_bring_back_a_canary_that_was_switched_off() {
        let meters = Meters::default();
        let [old, new] = [Incarnation::fresh(), Incarnation::fresh()];
        let seen = CanarySeen { enqueued_s: Some(1_000.5), completed_s: Some(900.5), ..CanarySeen::default() };
        meters.canary_begins(old, Some(Duration::from_secs(300)));
        assert!(meters.open_metrics().contains("hapax_canary_last_completed_timestamp_seconds 0.0\n"));
        meters.canary_seen(old, seen);
        let text = meters.open_metrics();
        for line in [
            "interval_seconds 300.0",
            "last_enqueued_timestamp_seconds 1000.5",
            "last_completed_timestamp_seconds 900.5",
        ] {
            assert!(text.contains(&format!("hapax_canary_{line}\n")), "{line}: {text}");
        }
        meters.canary_begins(new, None);
        meters.canary_seen(old, seen);
        let text = meters.open_metrics();
        for line in
            ["interval_seconds 0.0", "last_enqueued_timestamp_seconds 0.0", "last_completed_timestamp_seconds 0.0"]
        {
            assert!(text.contains(&format!("hapax_canary_{line}\n")), "{line}: {text}");
        }
    }
}
