//! What a service manager is told (sd_notify(3)): a datagram to the socket that `NOTIFY_SOCKET` names, a path or, with a
//! leading `@`, an abstract name. Without that variable everything in here does nothing.
//!
//! Our own instead of the crate `sd-notify`: that one knows no abstract names (containers use them), and opens a socket
//! for each message. Invariants: a manager that does not read holds nobody up for longer than [`PATIENCE`], and what
//! cannot be told never fails anything; it is noted at debug level. Nothing in here decides when something is told:
//! `herald` does.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    sync::OnceLock,
    time::Duration,
};

/// The manager's queue is full only when the manager stands still.
const PATIENCE: Duration = Duration::from_millis(100);

/// A manager that listens.
#[derive(Debug)]
struct Manager(UnixDatagram);

impl Manager {
    fn connect(name: &str) -> io::Result<Self> {
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(socket))
    }

    fn tell(&self, message: &str) {
        if let Err(error) = self.0.send(message.as_bytes()) {
            tracing::debug!(error = %error, message, "the service manager could not be told");
        }
    }
}

fn manager() -> Option<&'static Manager> {
    static MANAGER: OnceLock<Option<Manager>> = OnceLock::new();
    let connect = || {
        let name = std::env::var("NOTIFY_SOCKET").ok().filter(|name| !name.is_empty())?;
        Manager::connect(&name)
            .inspect_err(|error| tracing::warn!(error = %error, "NOTIFY_SOCKET names no socket, the service manager is told nothing"))
            .ok()
    };
    MANAGER.get_or_init(connect).as_ref()
}

/// Whether anybody listens.
pub(crate) fn is_heard() -> bool {
    manager().is_some()
}

fn tell(message: &str) {
    if let Some(manager) = manager() {
        manager.tell(message);
    }
}

/// The service has started, or has finished a reload: it works.
pub(crate) fn ready() {
    tell("READY=1");
}

/// A reload begins; [`ready`] ends it, whatever came of it. The time tells the manager that this answers its own signal
/// (systemd 253 with `Type=notify-reload`), not an earlier one.
pub(crate) fn reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

/// The service has begun to end.
pub(crate) fn stopping() {
    tell("STOPPING=1");
}

/// A line for people; no addresses, no secrets.
pub(crate) fn status(text: &str) {
    // A line end would begin another assignment.
    tell(&format!("STATUS={}", text.replace('\n', " ")));
}

/// Starting or stopping takes longer: from now at most `time` until it is done or said again.
pub(crate) fn extend(time: Duration) {
    tell(&format!("EXTEND_TIMEOUT_USEC={}", time.as_micros()));
}

/// Every loop goes on.
pub(crate) fn watchdog() {
    tell("WATCHDOG=1");
}

/// Within what time the manager wants to hear of each watchdog beat, when it wants to hear any.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    interval(variable("WATCHDOG_USEC").as_deref(), variable("WATCHDOG_PID").as_deref(), std::process::id())
}

/// A watchdog that was meant for another process (a parent's) is none.
fn interval(micros: Option<&str>, owner: Option<&str>, own: u32) -> Option<Duration> {
    if owner.is_some_and(|owner| owner.parse() != Ok(own)) {
        return None;
    }
    let micros = micros?.parse().ok().filter(|micros| *micros > 0)?;
    Some(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).expect("a datagram");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn a_manager_is_reached_by_path_and_by_abstract_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let by_path = UnixDatagram::bind(&path).expect("bound");
        Manager::connect(path.to_str().expect("text")).expect("connected").tell("READY=1");
        assert_eq!(heard(&by_path), "READY=1");

        let name = format!("hapax-notify-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("an address");
        let by_name = UnixDatagram::bind_addr(&address).expect("bound");
        Manager::connect(&format!("@{name}")).expect("connected").tell("STOPPING=1");
        assert_eq!(heard(&by_name), "STOPPING=1");
    }

    #[test]
    fn a_manager_that_does_not_read_holds_nobody_up() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let deaf = UnixDatagram::bind(&path).expect("bound");
        let manager = Manager::connect(path.to_str().expect("text")).expect("connected");
        // More than any queue of datagrams holds; only the last one waits at all.
        deaf.set_nonblocking(true).expect("set");
        let full = (0..10_000).find(|_| manager.0.send(b"WATCHDOG=1").is_err());
        assert!(full.is_some(), "the queue never filled");
        manager.tell("STATUS=nobody reads this");
        assert_eq!(heard(&deaf), "WATCHDOG=1");
    }

    #[test]
    fn a_watchdog_is_only_for_the_process_it_names() {
        assert_eq!(interval(Some("30000000"), Some("7"), 7), Some(Duration::from_secs(30)));
        assert_eq!(interval(Some("30000000"), None, 7), Some(Duration::from_secs(30)));
        assert_eq!(interval(Some("30000000"), Some("8"), 7), None);
        assert_eq!(interval(Some("0"), None, 7), None);
        assert_eq!(interval(None, None, 7), None);
    }
}
