//! The gate in front of the end marker (PROTOCOL 4.1, 4.4): the last thing asked before its first byte is written.
//!
//! It is open only until the attempt's own deadline and while the relay's last successful heartbeat is fresh, both by
//! `CLOCK_BOOTTIME`, which goes on while the machine is suspended. [`crate::wire::WireStream`] asks it with nothing
//! but the write itself in between, so nothing can slip out past it.
//!
//! Invariants: a gate lets exactly one end marker through; *closed* and *begun* exclude each other, whoever comes first
//! wins ([`Gate::close`] tells which); [`Gate::marker_begun`] stays true even when the future that was transmitting has
//! been dropped, so its owner always knows on which side of the marker an attempt ended.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use hapax_core::{clock::Clock, fault, mutant};

/// The relay's last successful heartbeat, shared by all its gates.
#[derive(Debug)]
pub struct Heartbeat {
    /// Milliseconds of boot time plus one; zero is never.
    last: AtomicU64,
    closed: AtomicBool,
    allowance: Duration,
}

impl Heartbeat {
    /// A heartbeat that has not happened yet: every gate is closed until the first [`Heartbeat::record`]. Gates stay
    /// open for `transmit_deadline` after each.
    #[must_use]
    pub fn new(transmit_deadline: Duration) -> Self {
        Self { last: AtomicU64::new(0), closed: AtomicBool::new(false), allowance: transmit_deadline }
    }

    /// Notes a successful heartbeat. `at` is the boot time at which it was *asked for*, not answered: the database
    /// may have counted it at any moment in between. An older one never replaces a newer one.
    pub fn record(&self, at: Duration) {
        self.last.fetch_max(millis(at).saturating_add(1), Ordering::SeqCst);
    }

    /// Closes every gate for good: the incarnation is lost, or has signed off.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether [`Heartbeat::close`] was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// The boot time of the last one recorded, to the millisecond.
    #[must_use]
    pub fn last(&self) -> Option<Duration> {
        self.last.load(Ordering::SeqCst).checked_sub(1).map(Duration::from_millis)
    }

    fn is_fresh(&self, now: Duration) -> bool {
        self.last().is_some_and(|last| now <= last.saturating_add(self.allowance))
    }
}

/// Why a gate does not let a marker through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shut {
    /// The attempt's own deadline has passed.
    Deadline,
    /// The relay's last successful heartbeat is too old.
    Heartbeat,
    /// The relay's incarnation is lost.
    Incarnation,
    /// [`Gate::close`] was called.
    Closed,
    /// A marker has been let through before: a gate is for one attempt.
    Spent,
}

impl fmt::Display for Shut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadline => "the transmit deadline has passed",
            Self::Heartbeat => "the relay's last successful heartbeat is older than the transmit deadline",
            Self::Incarnation => "the relay's incarnation is lost",
            Self::Closed => "the gate was closed",
            Self::Spent => "the gate has let a marker through before",
        })
    }
}

impl std::error::Error for Shut {}

const OPEN: u8 = 0;
const BEGUN: u8 = 1;
const CLOSED: u8 = 2;

/// One attempt's gate. Clones share its state.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    deadline: Duration,
    heartbeat: Arc<Heartbeat>,
    state: AtomicU8,
}

impl Gate {
    /// Open until the boot time `deadline` (the intent's request plus `transmit_deadline`) and while `heartbeat` is
    /// fresh.
    #[must_use]
    pub fn until(clock: Arc<dyn Clock>, deadline: Duration, heartbeat: Arc<Heartbeat>) -> Self {
        Self(Arc::new(Inner { clock, deadline, heartbeat, state: AtomicU8::new(OPEN) }))
    }

    /// Closes the gate. Returns whether that came before the marker: `true` means certainly not sent, now and ever.
    pub fn close(&self) -> bool {
        self.0.state.compare_exchange(OPEN, CLOSED, Ordering::SeqCst, Ordering::SeqCst) != Err(BEGUN)
    }

    /// Whether the write of the marker has begun. Until then the delivery is certainly not sent by this attempt.
    #[must_use]
    pub fn marker_begun(&self) -> bool {
        self.0.state.load(Ordering::SeqCst) == BEGUN
    }

    /// Why a marker would not be let through now, if it would not.
    #[must_use]
    pub fn shut(&self) -> Option<Shut> {
        match self.0.state.load(Ordering::SeqCst) {
            BEGUN => return Some(Shut::Spent),
            CLOSED => return Some(Shut::Closed),
            _ => {}
        }
        if mutant::is("gate_never_closes") {
            return None;
        }
        let now = self.0.clock.boottime();
        if self.0.heartbeat.is_closed() {
            Some(Shut::Incarnation)
        } else if now > self.0.deadline {
            Some(Shut::Deadline)
        } else if !self.0.heartbeat.is_fresh(now) {
            Some(Shut::Heartbeat)
        } else {
            None
        }
    }

    /// Lets the marker begin, once (but see [`Gate::retract_marker`]). The caller writes it next, with nothing in
    /// between.
    pub(crate) fn begin_marker(&self) -> Result<(), Shut> {
        if let Some(shut) = self.shut() {
            return Err(shut);
        }
        match self.0.state.compare_exchange(OPEN, BEGUN, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => {
                fault::point("marker_begun");
                Ok(())
            }
            Err(BEGUN) => Err(Shut::Spent),
            Err(_) => Err(Shut::Closed),
        }
    }

    /// The kernel put the write off without taking a byte: as if it had never been tried.
    pub(crate) fn retract_marker(&self) {
        self.0.state.store(OPEN, Ordering::SeqCst);
    }
}

fn millis(at: Duration) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn boottime(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::SeqCst))
        }
    }

    fn fixture() -> (Arc<Hand>, Arc<Heartbeat>, Gate) {
        let clock = Arc::new(Hand::default());
        let heartbeat = Arc::new(Heartbeat::new(Duration::from_secs(60)));
        heartbeat.record(Duration::ZERO);
        let gate = Gate::until(clock.clone(), Duration::from_secs(50), heartbeat.clone());
        (clock, heartbeat, gate)
    }

    #[test]
    fn a_gate_is_open_up_to_its_deadline_and_not_a_millisecond_longer() {
        let (clock, _, gate) = fixture();
        clock.0.store(50_000, Ordering::SeqCst);
        assert_eq!(gate.shut(), None);
        clock.0.store(50_001, Ordering::SeqCst);
        assert_eq!(gate.begin_marker(), Err(Shut::Deadline));
        assert!(!gate.marker_begun());
    }

    #[test]
    fn a_gate_is_shut_without_a_fresh_heartbeat_or_when_the_incarnation_is_lost() {
        let (clock, heartbeat, _) = fixture();
        let gate = Gate::until(clock.clone(), Duration::MAX, heartbeat.clone());
        clock.0.store(60_001, Ordering::SeqCst);
        assert_eq!(gate.shut(), Some(Shut::Heartbeat));
        heartbeat.record(Duration::from_secs(30));
        heartbeat.record(Duration::from_secs(1));
        assert_eq!((gate.shut(), heartbeat.last()), (None, Some(Duration::from_secs(30))));
        heartbeat.close();
        heartbeat.record(Duration::from_secs(60));
        assert_eq!(gate.begin_marker(), Err(Shut::Incarnation));
        let never = Gate::until(clock, Duration::MAX, Arc::new(Heartbeat::new(Duration::MAX)));
        assert_eq!(never.shut(), Some(Shut::Heartbeat));
    }

    #[test]
    fn closing_and_beginning_exclude_each_other() {
        let (_, _, gate) = fixture();
        assert!(gate.close() && gate.close());
        assert_eq!(gate.begin_marker(), Err(Shut::Closed));
        let (_, _, gate) = fixture();
        assert_eq!(gate.begin_marker(), Ok(()));
        assert!(!gate.close() && gate.marker_begun());
        assert_eq!(gate.begin_marker(), Err(Shut::Spent));
    }
}
