//! The real binary in a harness.
//!
//! Finds `hapax` (`$HAPAX_BIN`, else `hapax` in the target directory the test runs from; it builds nothing), runs it in
//! a temporary directory with a configuration, keeps every line it prints, and signals it. Dropping the harness kills
//! the process; when the test is panicking, its output is printed first.
//!
//! Invariant: a signal is sent only while the process has not been reaped, so it never reaches a stranger with a
//! recycled pid.
//!
//! ```no_run
//! # async fn example(url: &str) {
//! use hapax_testkit::HapaxProcess;
//! use std::time::Duration;
//!
//! let mut relay = HapaxProcess::builder().config("[routes.main]\n").env("DATABASE_URL", url).arg("run").spawn();
//! relay.wait_for_line(|line| line.contains("ready")).await;
//! relay.sigstop();
//! relay.sigcont();
//! relay.sigterm();
//! assert!(relay.wait_exit(Duration::from_secs(10)).await.success());
//! # }
//! ```

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::sync::watch;

use crate::background::{Background, within};

const LINE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long threads are given to stop: one in an uninterruptible system call goes on until it is back.
const STOPS_WITHIN: Duration = Duration::from_secs(5);
/// How long output is waited for after the process has ended; a grandchild may hold the pipe for longer.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// The `hapax` binary that tests run.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn find_hapax() -> PathBuf {
    if let Some(path) = std::env::var_os("HAPAX_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a process knows its executable");
    // target/<profile>/deps/<test>, or target/<profile>/<test>.
    let candidates: Vec<_> = test.ancestors().skip(1).take(2).map(|directory| directory.join("hapax")).collect();
    let found = candidates.iter().find(|path| path.is_file());
    let hint = "hint: cargo build -p hapax, or set HAPAX_BIN";
    found.unwrap_or_else(|| panic!("no hapax binary at {candidates:?}\n{hint}")).clone()
}

/// Where a line was printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Stdout,
    Stderr,
}

/// How to run a [`HapaxProcess`].
#[derive(Debug, Default)]
#[must_use]
pub struct HapaxProcessBuilder {
    binary: Option<PathBuf>,
    config: Option<String>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl HapaxProcessBuilder {
    /// Another binary than [`find_hapax`]'s.
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// The text of a configuration file; passed as `--config FILE` before the arguments.
    pub fn config(mut self, toml: impl Into<String>) -> Self {
        self.config = Some(toml.into());
        self
    }

    /// An argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// An environment variable. Those of the test are inherited, but `HAPAX*` (save
    /// `HAPAX_MUTANT*`), `PG*` and `DATABASE_URL`.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts the process.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(self) -> HapaxProcess {
        let binary = self.binary.clone().unwrap_or_else(find_hapax);
        let directory = tempfile::Builder::new().prefix("hapax-process-").tempdir().expect("a directory can be made");
        let mut command = Command::new(&binary);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let ours = text.starts_with("HAPAX") && !text.starts_with("HAPAX_MUTANT");
            if ours || text.starts_with("PG") || text == "DATABASE_URL" {
                command.env_remove(&name);
            }
        }
        if let Some(config) = &self.config {
            let path = directory.path().join("hapax.toml");
            std::fs::write(&path, config).expect("the configuration can be written");
            command.arg("--config").arg(path);
        }
        command.args(&self.arguments).envs(self.environment).current_dir(directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot run {}: {error}", binary.display()));
        HapaxProcess::watch(child, directory)
    }
}

/// A running `hapax`; dropping it kills the process.
#[derive(Debug)]
pub struct HapaxProcess {
    pid: Pid,
    shared: Arc<Shared>,
    waiter: Option<JoinHandle<()>>,
    directory: tempfile::TempDir,
    background: Background,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    child: Child,
    status: Option<ExitStatus>,
    lines: Vec<(Source, String)>,
    pipes_open: usize,
}

impl HapaxProcess {
    /// How to run it.
    pub fn builder() -> HapaxProcessBuilder {
        HapaxProcessBuilder::default()
    }

    fn watch(mut child: Child, directory: tempfile::TempDir) -> Self {
        let pid = Pid::from_child(&child);
        let stdout = child.stdout.take().expect("it was piped");
        let stderr = child.stderr.take().expect("it was piped");
        let state = State { child, status: None, lines: Vec::new(), pipes_open: 2 };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: watch::Sender::new(0) });
        collect(stdout, Source::Stdout, &shared);
        collect(stderr, Source::Stderr, &shared);
        let waiter = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || wait_and_reap(pid, &shared))
        };
        Self { pid, shared, waiter: Some(waiter), directory, background: Background::start("hapax-process") }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Its working directory, with the configuration in it; deleted with the harness.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Everything it has printed, line by line, as it came.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.shared.state().lines.iter().map(|(_, line)| line.clone()).collect()
    }

    /// What it has printed to stdout.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.shared.output(Source::Stdout)
    }

    /// What it has printed to stderr.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.shared.output(Source::Stderr)
    }

    /// Waits for a line, printed before or after this call, and returns it.
    ///
    /// # Panics
    /// After 20 s, or when the process has ended without it, with all output.
    pub async fn wait_for_line(&self, condition: impl FnMut(&str) -> bool) -> String {
        self.wait_for_line_after(0, condition).await
    }

    /// Waits for a line behind the first `mark` ones (take the mark from `lines().len()`).
    ///
    /// # Panics
    /// As [`wait_for_line`](Self::wait_for_line).
    pub async fn wait_for_line_after(&self, mark: usize, mut condition: impl FnMut(&str) -> bool) -> String {
        let mut seen = mark;
        let found = self.wait(LINE_TIMEOUT, |state| {
            let fresh = state.lines.get(seen..).unwrap_or_default();
            let line = fresh.iter().find(|(_, line)| condition(line)).map(|(_, line)| line.clone());
            seen = seen.max(state.lines.len());
            let over = state.status.is_some() && state.pipes_open == 0;
            line.map(Some).or(over.then_some(None))
        });
        match found.await {
            Some(Some(line)) => line,
            Some(None) => panic!("the process ended without that line:\n{}", self.report()),
            None => panic!("no such line within {LINE_TIMEOUT:?}:\n{}", self.report()),
        }
    }

    /// Waits until it has ended, and its output has been read.
    ///
    /// # Panics
    /// At the deadline (real time), with all output.
    pub async fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let Some(status) = self.wait(deadline, |state| state.status).await else {
            panic!("the process did not end within {deadline:?}:\n{}", self.report());
        };
        self.wait(OUTPUT_GRACE, |state| (state.pipes_open == 0).then_some(())).await;
        status
    }

    /// The exit status, if it has ended.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.shared.state().status
    }

    /// Waits until it stands still: somebody, maybe itself, has sent it SIGSTOP, and every thread has obeyed.
    ///
    /// # Panics
    /// At the deadline, or when it has ended instead, with all output.
    pub async fn wait_stopped(&self, deadline: Duration) {
        crate::eventually(deadline, async || {
            assert!(self.status().is_none(), "it has ended instead of standing still:\n{}", self.report());
            self.is_stopped()
        })
        .await;
    }

    /// Whether every thread of it is stopped.
    fn is_stopped(&self) -> bool {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.id())) else { return false };
        let stat = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("stat")).ok();
        threads
            .flatten()
            .filter_map(stat)
            .all(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
    }

    /// SIGKILL: it dies at once.
    pub fn sigkill(&self) {
        self.signal(Signal::KILL);
    }

    /// SIGSTOP: it stands still, as a suspended machine would.
    pub fn sigstop(&self) {
        self.signal(Signal::STOP);
        // The signal is sent; each thread stops on its own way back from the kernel.
        let until = std::time::Instant::now() + STOPS_WITHIN;
        while !self.is_stopped() && self.status().is_none() && std::time::Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// SIGCONT: it goes on.
    pub fn sigcont(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM: it is asked to end.
    pub fn sigterm(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGINT: Ctrl-C.
    pub fn sigint(&self) {
        self.signal(Signal::INT);
    }

    /// SIGHUP.
    pub fn sighup(&self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        // Under the lock: the waiter cannot reap in between, so the pid is ours.
        let state = self.shared.state();
        if state.status.is_none() {
            kill_process(self.pid, signal).expect("a child that was not reaped can be signalled");
        }
    }

    /// Everything there is to know, for the message of a failed assertion.
    #[must_use]
    pub fn report(&self) -> String {
        let state = self.shared.state();
        let prefix = |source| if source == Source::Stdout { "out" } else { "err" };
        let lines: Vec<_> = state.lines.iter().map(|(source, line)| format!("{}| {line}\n", prefix(*source))).collect();
        format!("hapax process {} ({:?})\n{}", self.id(), state.status, lines.concat())
    }

    async fn wait<T>(&self, deadline: Duration, mut condition: impl FnMut(&State) -> Option<T>) -> Option<T> {
        let mut changed = self.shared.changed.subscribe();
        let settled = async {
            loop {
                changed.borrow_and_update();
                if let Some(value) = condition(&self.shared.state()) {
                    return value;
                }
                changed.changed().await.expect("the sender lives in the harness");
            }
        };
        within(self.background.handle(), deadline, settled).await
    }
}

impl Drop for HapaxProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report());
        }
        self.sigkill();
        if let Some(waiter) = self.waiter.take() {
            // A panic there has been printed there.
            let _ = waiter.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.send_modify(|changes| *changes += 1);
    }

    fn output(&self, wanted: Source) -> String {
        let state = self.state();
        let lines = state.lines.iter().filter(|(source, _)| *source == wanted);
        lines.map(|(_, line)| format!("{line}\n")).collect()
    }
}

fn collect(pipe: impl Read + Send + 'static, source: Source, shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            shared.change(|state| state.lines.push((source, line)));
        }
        shared.change(|state| state.pipes_open -= 1);
    });
}

/// Sees the end without reaping, then reaps under the lock that signals are sent under.
fn wait_and_reap(pid: Pid, shared: &Shared) {
    let seen = || waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    while matches!(seen(), Err(rustix::io::Errno::INTR)) {}
    shared.change(|state| state.status = state.child.wait().ok());
}
