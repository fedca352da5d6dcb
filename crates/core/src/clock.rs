//! Time as a parameter. Due times and leases are decided by the database's clock; deadlines inside the process by
//! [`Clock::boottime`], which goes on while the machine is suspended and never jumps.

use std::{fmt, time::Duration};

/// The process's monotonic clock.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Time since boot, including suspension (`CLOCK_BOOTTIME`).
    fn boottime(&self) -> Duration;
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn boottime(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // The kernel's boot time is never negative and its nanoseconds are below 10^9.
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
    }
}
