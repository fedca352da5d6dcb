//! A process of a measurement: it leads a group of its own, and the whole group ends with its handle.
//!
//! When we are killed, `Drop` does not run: a tiny shell that waits at a pipe whose other end only we hold then kills
//! the group.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, ChildStdin, Command};

use super::proc;
use crate::config::duration;

/// How long an orderly end may take.
const END_TIMEOUT: Duration = Duration::from_secs(20);
/// The lines of its output that are shown when it went wrong.
const LOG_TAIL_LINES: usize = 15;

/// A variable by which the descendants of a process are known, wherever they have gone.
const MARK: &str = "HAPAX_BENCH_PROCESS";
static STARTED: AtomicU32 = AtomicU32::new(1);

const KEEPER: &str = r#"read -r line || kill -s KILL -- "-$1" 2>/dev/null"#;

/// How a process is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Its standard input is closed.
    Stdin,
    /// SIGTERM to its group.
    Terminate,
}

/// A running process group; killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    group: u32,
    end: End,
    stdin: Option<ChildStdin>,
    keeper: std::process::Child,
    log: PathBuf,
    /// What stood in it before.
    log_from: u64,
    /// What it and whatever it starts have in their environments.
    mark: String,
    /// Nobody of the group is left: its number may be somebody else's by now.
    gone: bool,
}

impl Process {
    /// Starts it; what it says goes to the end of `log`, its standard output only if nobody reads that.
    pub(super) fn start(mut command: Command, log: &Path, end: End) -> anyhow::Result<Self> {
        let name = command.as_std().get_program().to_string_lossy().into_owned();
        let mark = format!("{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        command.stderr(open(log)?).process_group(0).kill_on_drop(true).env(MARK, &mark);
        command.stdin(if end == End::Stdin { Stdio::piped() } else { Stdio::null() });
        let log_from = std::fs::metadata(log).map_or(0, |metadata| metadata.len());
        let mut child = command.spawn().with_context(|| format!("could not start {name}"))?;
        let group = child.id().with_context(|| format!("{name} ended at once"))?;
        let keeper = std::process::Command::new("/bin/sh")
            .args(["-c", KEEPER, "hapax-bench-keeper", &group.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("could not start /bin/sh")?;
        let log = log.to_owned();
        Ok(Self { stdin: child.stdin.take(), child, group, end, keeper, log, log_from, mark, gone: false })
    }

    /// The group's id, which is the process's own.
    pub(super) fn group(&self) -> u32 {
        self.group
    }

    /// Its standard output, when it was piped.
    pub(super) fn stdout(&mut self) -> Option<tokio::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// How it has ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        // An error here means that the child is not ours, which it is.
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    pub(super) async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.wait().await.context("could not wait for a process")
    }

    /// The end of what it has said, to be put behind what went wrong.
    pub(super) fn log_tail(&self) -> String {
        match tail(&self.log, self.log_from) {
            words if words.is_empty() => "; it said nothing".to_owned(),
            words => format!("; the end of what it said:\n{words}"),
        }
    }

    /// Kills what it has started outside its group, which nobody would count or end otherwise; how many there were.
    pub(super) fn end_strays(&self) -> usize {
        let strays = proc::marked(&format!("{MARK}={}", self.mark));
        let outside: Vec<u32> =
            strays.into_iter().filter(|(_, group)| *group != self.group).map(|(pid, _)| pid).collect();
        for pid in &outside {
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                // The only failure is that it is gone.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        outside.len()
    }

    /// Asks it to end, and kills what is left of its group after a while.
    pub(super) async fn stop(&mut self) {
        match self.end {
            End::Stdin => drop(self.stdin.take()),
            End::Terminate => self.signal(Signal::TERM),
        }
        // Whether it ended well is not what is measured.
        drop(tokio::time::timeout(END_TIMEOUT, self.child.wait()).await);
        self.signal(Signal::KILL);
        self.end_strays();
        drop(self.child.wait().await);
        self.gone = true;
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.group).ok().and_then(Pid::from_raw) {
            // The only failure is that nobody is left.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.gone {
            self.signal(Signal::KILL);
            self.end_strays();
        }
        if let Some(mut pipe) = self.keeper.stdin.take() {
            // A shell that is gone has nothing left to be told.
            let _ = pipe.write_all(b"clean\n");
        }
        let _ = self.keeper.wait();
    }
}

/// A file at whose end is written.
pub(super) fn open(log: &Path) -> anyhow::Result<std::fs::File> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(log);
    file.with_context(|| format!("could not open {}", log.display()))
}

/// The last lines of a file, of what stands behind its first bytes.
fn tail(log: &Path, from: u64) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(text.len());
    let text = String::from_utf8_lossy(&text[from..]);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

/// Runs a program to its end, and kills it with its group when that takes too long.
///
/// # Errors
/// With the end of what it said when it fails, or does not end.
pub(super) async fn run(mut command: Command, log: &Path, what: &str, patience: Duration) -> anyhow::Result<()> {
    command.stdout(open(log)?);
    let mut process = Process::start(command, log, End::Terminate)?;
    let failed = match tokio::time::timeout(patience, process.wait()).await {
        Ok(status) => Some(status?).filter(|status| !status.success()).map(|status| format!("failed ({status})")),
        Err(_) => Some(format!("did not end within {}", duration::format(patience))),
    };
    match failed {
        Some(how) => anyhow::bail!("{what} {how}{}", process.log_tail()),
        None => Ok(()),
    }
}

/// Waits no longer than that for a step.
///
/// # Errors
/// Its own, and when it takes longer.
pub(super) async fn within<T>(
    patience: Duration,
    what: &str,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let done = tokio::time::timeout(patience, work).await;
    done.unwrap_or_else(|_| Err(anyhow::anyhow!("{what} was not done within {}", duration::format(patience))))
}

/// The program that `word` means: one below `directory` if it is a path, else one on the PATH, or where Postfix' are.
pub(super) fn find(word: &str, directory: &Path) -> Option<PathBuf> {
    let runs = |path: &PathBuf| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    if word.contains('/') {
        return Some(directory.join(word)).filter(runs);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    places.find_map(|place| Some(place.join(word)).filter(runs))
}
