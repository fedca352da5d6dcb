//! Whether the loops of this process go on, for liveness probes and watchdogs, and how far the process has come.
//!
//! Each loop holds a [`Pulse`] and says before each step within which time the next one follows. A step against a
//! database that is away ends by its time limit, so an outage is life and not a stall; a wait that nothing bounds (for
//! work, for room, for a wake-up) is [`Pulse::idle`]. Invariants: nothing in here waits, asks anybody, or ends anything;
//! noting costs one atomic write. It outlives incarnations: one process may run several, also at once.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

/// Added to every limit: a machine may be busy.
const MARGIN: Duration = Duration::from_secs(30);

/// Milliseconds that no process lives for: nothing is expected.
const NEVER: u64 = u64::MAX;

/// How far the process has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nothing has been looked for yet; again so after the database was another one (guard mode).
    #[default]
    Starting,
    /// The queue was looked at, and is.
    Running,
    /// The process was told to end.
    Draining,
}

impl Phase {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
        }
    }
}

/// A loop that should have gone on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Which one.
    pub task: &'static str,
    /// For how long it has not.
    pub since: Duration,
}

/// The progress of all loops of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    loops: Mutex<Vec<Weak<Beat>>>,
    phase: watch::Sender<Phase>,
}

#[derive(Debug)]
struct Beat {
    task: &'static str,
    /// Milliseconds since `began`: when it last said something, and until when it has to say something again.
    noted: AtomicU64,
    due: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(Inner { began: Instant::now(), loops: Mutex::default(), phase: watch::Sender::default() }))
    }
}

impl Progress {
    /// The loop that is overdue the longest, if there is one.
    #[must_use]
    pub fn stalled(&self, now: Instant) -> Option<Stall> {
        let now = self.0.millis(now);
        let loops = self.0.loops.lock().unwrap_or_else(PoisonError::into_inner);
        let overdue = loops.iter().filter_map(Weak::upgrade).filter(|beat| now > beat.due.load(Ordering::Relaxed));
        let stalls = overdue.map(|beat| Stall {
            task: beat.task,
            since: Duration::from_millis(now.saturating_sub(beat.noted.load(Ordering::Relaxed))),
        });
        stalls.max_by_key(|stall| stall.since)
    }

    /// How far the process has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.phase.borrow()
    }

    /// Waits until the queue was looked at for the first time, or the process was told to end.
    pub async fn started(&self) -> Phase {
        let mut phase = self.0.phase.subscribe();
        // The sender lives as long as self.
        phase.wait_for(|phase| *phase != Phase::Starting).await.map_or(Phase::Draining, |phase| *phase)
    }

    /// The process was told to end. Said by whoever hears the signal: an incarnation may end without it.
    pub fn drain(&self) {
        self.0.phase.send_replace(Phase::Draining);
    }

    /// A loop begins to live; it ends with what is answered.
    pub(crate) fn pulse(&self, task: &'static str, limit: Duration) -> Pulse {
        let beat = Arc::new(Beat { task, noted: AtomicU64::new(0), due: AtomicU64::new(NEVER) });
        let mut loops = self.0.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.retain(|beat| beat.strong_count() > 0);
        loops.push(Arc::downgrade(&beat));
        drop(loops);
        let pulse = Pulse { beat, limit, progress: self.0.clone() };
        pulse.beat();
        pulse
    }

    /// The queue was looked at.
    pub(crate) fn polled(&self) {
        self.go(Phase::Starting, Phase::Running);
    }

    /// The queue is not looked at until further notice.
    pub(crate) fn stands(&self) {
        self.go(Phase::Running, Phase::Starting);
    }

    fn go(&self, from: Phase, to: Phase) {
        self.0.phase.send_if_modified(|phase| {
            let goes = *phase == from;
            if goes {
                *phase = to;
            }
            goes
        });
    }
}

impl Inner {
    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(NEVER - 1)
    }
}

/// What a loop says of itself.
#[derive(Debug)]
pub(crate) struct Pulse {
    beat: Arc<Beat>,
    limit: Duration,
    progress: Arc<Inner>,
}

impl Pulse {
    /// It goes on; the next step is done within the limit of this loop.
    pub(crate) fn beat(&self) {
        self.within(self.limit);
    }

    /// It goes on; it says something again within `longest`.
    pub(crate) fn within(&self, longest: Duration) {
        let now = self.progress.millis(Instant::now());
        let longest = u64::try_from(longest.saturating_add(MARGIN).as_millis()).unwrap_or(NEVER);
        self.beat.noted.store(now, Ordering::Relaxed);
        self.beat.due.store(now.saturating_add(longest), Ordering::Relaxed);
    }

    /// It waits for something that may never come.
    pub(crate) fn idle(&self) {
        self.beat.due.store(NEVER, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn a_loop_is_stalled_when_it_is_overdue_and_not_before() {
        let progress = Progress::default();
        let pulse = progress.pulse("pump", LIMIT);
        let now = Instant::now();
        assert_eq!(progress.stalled(now + LIMIT + MARGIN - Duration::from_secs(1)), None);
        let stall = progress.stalled(now + LIMIT + MARGIN + Duration::from_secs(1)).expect("overdue");
        assert_eq!((stall.task, stall.since.as_secs()), ("pump", 51));
        pulse.within(Duration::from_secs(600));
        assert_eq!(progress.stalled(now + Duration::from_secs(629)), None);
        assert!(progress.stalled(now + Duration::from_secs(631)).is_some());
    }

    #[test]
    fn a_wait_that_nothing_bounds_and_a_loop_that_has_ended_are_no_stalls() {
        let progress = Progress::default();
        let (waits, ends) = (progress.pulse("intend", LIMIT), progress.pulse("reaper", LIMIT));
        waits.idle();
        drop(ends);
        let later = Instant::now() + Duration::from_secs(1_000_000);
        assert_eq!(progress.stalled(later), None);
        waits.beat();
        assert_eq!(progress.stalled(later).map(|stall| stall.task), Some("intend"));
    }

    #[test]
    fn of_two_incarnations_the_one_that_stands_still_is_named() {
        let progress = Progress::default();
        let (old, new) = (progress.pulse("settle", LIMIT), progress.pulse("settle", Duration::from_secs(600)));
        let later = Instant::now() + Duration::from_secs(100);
        assert_eq!(progress.stalled(later).map(|stall| stall.task), Some("settle"));
        drop(old);
        assert_eq!(progress.stalled(later), None);
        drop(new);
    }

    #[test]
    fn who_drains_does_not_run_again() {
        let progress = Progress::default();
        assert_eq!(progress.phase(), Phase::Starting);
        progress.polled();
        assert_eq!(progress.phase(), Phase::Running);
        progress.stands();
        assert_eq!(progress.phase(), Phase::Starting);
        progress.drain();
        progress.polled();
        assert_eq!(progress.phase(), Phase::Draining);
    }
}
