//! Named fault points for the crash tests. Without the feature `fault-points` (release builds) every call is nothing.
//!
//! With it, `HAPAX_FAULT=point:action[:nth]` makes the process do `action` when it passes `point` for the nth time
//! (default the first): `kill` raises SIGKILL, `stop` raises SIGSTOP, `panic` panics.

/// The names of all fault points, in the order of an attempt.
pub const POINTS: [&str; 12] = [
    "claimed",
    "rendered",
    "before_intend",
    "intend_sent",
    "intended",
    "body_written",
    "marker_begun",
    "marker_written",
    "reply_read",
    "before_settle",
    "settle_sent",
    "settled",
];

/// Passes the fault point `name`.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn point(_name: &'static str) {}

/// Passes the fault point `name`: does what `HAPAX_FAULT` says when it names it.
#[cfg(feature = "fault-points")]
pub fn point(name: &'static str) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    };

    static PLAN: OnceLock<Option<(String, String, usize)>> = OnceLock::new();
    static PASSED: AtomicUsize = AtomicUsize::new(0);
    debug_assert!(POINTS.contains(&name), "{name} is not a fault point");
    let plan = PLAN.get_or_init(|| {
        let text = std::env::var("HAPAX_FAULT").ok()?;
        let mut parts = text.split(':');
        let (point, action) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        Some((point, action, parts.next().and_then(|nth| nth.parse().ok()).unwrap_or(1)))
    });
    let Some((point, action, nth)) = plan else { return };
    if point != name || PASSED.fetch_add(1, Ordering::SeqCst) + 1 != *nth {
        return;
    }
    let pid = rustix::process::getpid();
    match action.as_str() {
        "kill" => drop(rustix::process::kill_process(pid, rustix::process::Signal::KILL)),
        "stop" => {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::STOP);
            // The kernel hands the signal to the main thread; until that has been scheduled this one would run on, past
            // the point it is to be stopped at.
            std::thread::park_timeout(std::time::Duration::from_millis(500));
        }
        "panic" => panic!("fault point {name}"),
        other => panic!("HAPAX_FAULT: {other} is not kill, stop or panic"),
    }
}
