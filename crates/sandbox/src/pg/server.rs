//! One run of the server process: spawn, signal, wait.
//!
//! `postgres` is our direct child (no `pg_ctl` in between), so its pid stays ours until we have waited for it, and a
//! signal can never reach a stranger. It leads its own process group: a Ctrl-C meant for us must not stop the server
//! under our feet. Backends are found by their parent pid in /proc.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use std::os::unix::process::CommandExt;

use rustix::process::{Pid, Signal, kill_process};

use super::error::Error;

/// How often a condition outside this process is looked at.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How long a server may take to end.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A running (or just ended) postmaster.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
}

impl Server {
    pub(crate) fn spawn(mut command: Command, data: &Path, log: &Path) -> Result<Self, Error> {
        let open = || std::fs::File::options().create(true).append(true).open(log);
        let output = open().map_err(Error::file("could not open", log))?;
        let errors = open().map_err(Error::file("could not open", log))?;
        let program = command.get_program().to_owned();
        let child = command
            .arg("-D")
            .arg(data)
            .stdout(Stdio::from(output))
            .stderr(Stdio::from(errors))
            .process_group(0)
            .spawn()
            .map_err(Error::file("could not run", program))?;
        Ok(Self { child })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if the server has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        // An error here means that the child is not ours, which it is.
        self.child.try_wait().ok().flatten()
    }

    /// Signals the postmaster; a server that has ended cannot be signalled.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            signal_pid(self.child.id(), signal);
        }
    }

    /// The postmaster first, then every process it has started.
    pub(crate) fn signal_family(&mut self, signal: Signal) -> Vec<u32> {
        if signal == Signal::KILL {
            // A stopped postmaster starts no new children between the census and the kill.
            self.signal(Signal::STOP);
        } else {
            self.signal(signal);
        }
        let children = children_of(self.child.id());
        self.signal(signal);
        for pid in &children {
            signal_pid(*pid, signal);
        }
        children
    }

    pub(crate) async fn wait(&mut self) -> Result<ExitStatus, Error> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if started.elapsed() > STOP_TIMEOUT {
                return Err(Error::NotStopped { seconds: STOP_TIMEOUT.as_secs() });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Ends the server at once, without a runtime: for `Drop`. The data is about to be deleted, so nothing is flushed.
    pub(crate) fn end_now(mut self) {
        if self.ended().is_some() {
            return;
        }
        self.signal_family(Signal::CONT);
        // SIGQUIT and not SIGKILL: the server then frees its shared memory.
        self.signal(Signal::QUIT);
        let pid = self.child.id();
        let (sender, receiver) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            let _ = self.child.wait();
            let _ = sender.send(());
        });
        if receiver.recv_timeout(Duration::from_secs(10)).is_err() {
            // Not waited for yet, so the pid is still the postmaster's.
            signal_pid(pid, Signal::KILL);
        }
        let _ = waiter.join();
    }
}

/// Waits until none of `pids` exists any more (they are not our children, so their end is only visible in /proc).
pub(crate) async fn wait_gone(pids: &[u32]) -> Result<(), Error> {
    let started = Instant::now();
    while pids.iter().any(|pid| Path::new("/proc").join(pid.to_string()).exists()) {
        if started.elapsed() > STOP_TIMEOUT {
            return Err(Error::NotStopped { seconds: STOP_TIMEOUT.as_secs() });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

fn signal_pid(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // The only failure is that it has ended in the meantime.
        let _ = kill_process(pid, signal);
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // "pid (name) state ppid ...": the name may hold anything, so count from its last parenthesis.
            let ppid: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            (ppid == parent).then_some(pid)
        })
        .collect()
}
