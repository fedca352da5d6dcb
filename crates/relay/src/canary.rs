//! The canary: asks the database for a notification of Hapax's own now and then, and tells metrics when the last one came
//! through.
//!
//! Invariants: every relay asks, the database enqueues one per slot for all of them, and none while one is under way. What
//! is told is what the outbox holds, never what this process believes: it is the same after a restart, and whoever
//! delivered it. No error of it stops a relay, and it touches no delivery.

use std::{sync::Arc, time::Duration};

use hapax_store::{Canary, CanarySeen, Store};
use tokio_util::sync::CancellationToken;

use crate::{fatal::Fatal, meters::Meters, progress::Pulse};

/// The kind of canaries; of nobody else's notifications.
pub const CANARY_KIND: &str = "hapax_canary";

/// Asked again after no more than this: what another relay delivered should be seen soon.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Asked again after no less than this.
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// Whoever asks later than others finds the slot taken: they need not all come at once.
const JITTER_MAX: Duration = Duration::from_secs(2);

/// What the loop needs.
pub(crate) struct Aviary {
    pub(crate) store: Store,
    pub(crate) canary: Arc<Canary>,
    pub(crate) meters: Meters,
    pub(crate) fatal: Fatal,
    pub(crate) pulse: Pulse,
}

/// The longest pause between two calls.
pub(crate) fn pause_longest(canary: &Canary) -> Duration {
    (canary.every / 4).clamp(PAUSE_MIN, PAUSE_MAX) + JITTER_MAX
}

impl Aviary {
    /// Asks until `soft`: whoever drains leaves it to others.
    pub(crate) async fn run(self, soft: CancellationToken) {
        let alive = self.fatal.alive("canary");
        let mut waits = Waits::default();
        let mut told = false;
        while !soft.is_cancelled() {
            self.pulse.beat();
            let pause = match self.store.canary(&self.canary).await {
                Ok(seen) => {
                    if std::mem::take(&mut told) {
                        tracing::info!("the canary can be asked for again");
                    }
                    self.meters.canary_seen(self.store.incarnation(), seen);
                    waits.after(self.canary.every, seen, fastrand::f64())
                }
                Err(error) => match self.fatal.check_guard(error) {
                    Ok(error) if std::mem::replace(&mut told, true) => {
                        tracing::debug!(error = %error, "the canary could not be asked for");
                        pause_longest(&self.canary)
                    }
                    Ok(error) => {
                        tracing::warn!(
                            error = %error,
                            hint = error.hint(),
                            "the canary could not be asked for, trying again now and then"
                        );
                        pause_longest(&self.canary)
                    }
                    Err(()) => break,
                },
            };
            tokio::select! {
                () = soft.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        alive.finished();
    }
}

/// How long to wait: while one is under way, soon and then ever longer; else until the next slot.
#[derive(Debug, Default)]
struct Waits {
    last: Option<Duration>,
}

impl Waits {
    /// `chance` is in 0..1.
    fn after(&mut self, every: Duration, seen: CanarySeen, chance: f64) -> Duration {
        let longest = (every / 4).clamp(PAUSE_MIN, PAUSE_MAX);
        if seen.under_way {
            let pause = self.last.map_or(PAUSE_MIN, |last| last * 2).min(longest);
            self.last = Some(pause);
            return pause;
        }
        self.last = None;
        let jitter = (every / 20).min(JITTER_MAX).mul_f64(chance);
        seen.next_in.min(longest).max(PAUSE_MIN) + jitter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(300);

    fn seen(under_way: bool, next_in: u64) -> CanarySeen {
        CanarySeen { under_way, next_in: Duration::from_secs(next_in), ..CanarySeen::default() }
    }

    #[test]
    fn what_is_under_way_is_asked_after_soon_and_then_ever_less_often() {
        let mut waits = Waits::default();
        let pauses: Vec<_> = (0..12).map(|_| waits.after(EVERY, seen(true, 7), 0.5).as_millis()).collect();
        assert_eq!(pauses[..4], [200, 400, 800, 1_600]);
        assert_eq!(pauses[11], 60_000, "{pauses:?}");
        waits.after(EVERY, seen(false, 7), 0.5);
        assert_eq!(waits.after(EVERY, seen(true, 7), 0.5), PAUSE_MIN, "the next one is another one");
    }

    #[test]
    fn otherwise_the_next_slot_is_waited_for_and_others_are_heard_of_meanwhile() {
        let mut waits = Waits::default();
        assert_eq!(waits.after(EVERY, seen(false, 250), 0.0), PAUSE_MAX);
        assert_eq!(waits.after(EVERY, seen(false, 20), 0.5), Duration::from_secs(21));
        assert_eq!(waits.after(Duration::from_secs(2), seen(false, 0), 0.0), PAUSE_MIN);
        let longest = waits.after(Duration::from_secs(86_400), seen(false, 80_000), 1.0);
        assert_eq!(longest, Duration::from_secs(62));
    }
}
