//! Named fault points for the crash tests. Without the feature `fault-points` (release builds) every call is nothing.
//!
//! With it, `HAPAX_FAULT=point:action[:nth]` makes the process do `action` when it passes `point` for the nth time
//! (default the first): `kill` raises SIGKILL, `stop` raises SIGSTOP, `wait` holds whoever passes, `panic` panics.
//! Points named `..._sent` lie immediately before a statement is executed.
//!
//! With `HAPAX_FAULT_FILE=path`, `stop` and `wait` make that file when the point has been reached, and whoever passes
//! goes on only once the file is gone: the harness takes the database away meanwhile, say. (A SIGSTOP alone would not do:
//! the thread that raises it may run on for a moment.)

/// The names of all fault points, in the order of a relay's life and of an attempt.
pub const POINTS: [&str; 23] = [
    "register_sent",
    "heartbeat_sent",
    "renew_sent",
    "claim_sent",
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
    "settle_late_sent",
    "settled_late",
    "release_sent",
    "mark_sent",
    "marked",
    "decide_sent",
    "sign_off_sent",
];

// Whoever ships a release must not be able to ship these.
#[cfg(all(feature = "fault-points", not(debug_assertions)))]
compile_error!("the feature fault-points is for tests: a build without debug assertions must not have it");

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
    let raise = |signal| {
        rustix::process::kill_process(rustix::process::getpid(), signal).expect("a process may signal itself");
    };
    match action.as_str() {
        "kill" => {
            raise(rustix::process::Signal::KILL);
            // The signal ends this thread, too, but not at once.
            loop {
                std::thread::park();
            }
        }
        "stop" => reached(|| {
            raise(rustix::process::Signal::STOP);
            // The kernel may hand the signal to another thread first, and this one would run on past the point until that
            // one is scheduled: it once wrote a whole end marker. It is stopped in here.
            std::thread::park_timeout(std::time::Duration::from_millis(500));
        }),
        "wait" => reached(|| {}),
        "panic" => panic!("fault point {name}"),
        other => panic!("HAPAX_FAULT: {other} is not kill, stop, wait or panic"),
    }
}

/// Passes a place where content is at hand.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub fn spill(_content: impl FnOnce() -> String) {}

/// Passes a place where content is at hand: with `HAPAX_FAULT=spill` panics with it in its words, as a library might.
#[cfg(feature = "fault-points")]
pub fn spill(content: impl FnOnce() -> String) {
    if std::env::var_os("HAPAX_FAULT").is_some_and(|fault| fault == "spill") {
        panic!("cannot slice {}", content());
    }
}

/// Announces that the point was reached, does `act`, and returns when the harness says so.
#[cfg(feature = "fault-points")]
#[allow(clippy::disallowed_methods, reason = "no signal can be waited for while this very thread is to stand still")]
fn reached(act: impl FnOnce()) {
    let file = std::env::var_os("HAPAX_FAULT_FILE").map(std::path::PathBuf::from);
    if let Some(file) = &file
        && let Err(error) = std::fs::write(file, "")
    {
        panic!("HAPAX_FAULT_FILE: {error}");
    }
    act();
    while file.as_ref().is_some_and(|file| file.exists()) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
