//! Where the mail of a measurement goes: Postfix's smtp-sink, or our own sink, as a process of its own; and smtp-source,
//! Postfix's load generator.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use hapax_sandbox::ReservedPort;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpStream,
    process::Command,
    task::JoinHandle,
};

use super::{
    proc,
    process::{self, End, Process},
};
use crate::{cli::bench::SinkKind, failure::Refusal};

const START_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A running sink.
pub(super) struct Sink {
    process: Process,
    pub(super) port: u16,
    heard: Arc<Mutex<Heard>>,
    listening: Option<JoinHandle<()>>,
    _reserved: Option<ReservedPort>,
}

/// What our own sink has said.
#[derive(Debug, Default)]
struct Heard {
    port: Option<u16>,
    count: Option<u64>,
    /// When the end marker of each message was read, since boot; the first one if there were several.
    stamps: HashMap<u32, Duration>,
}

/// Which sink `kind` means on this machine.
///
/// # Errors
/// When smtp-sink is asked for and not installed.
pub(super) fn resolve(kind: SinkKind) -> anyhow::Result<SinkKind> {
    match kind {
        SinkKind::Own => Ok(SinkKind::Own),
        SinkKind::SmtpSink => program("smtp-sink").map(|_| kind),
        SinkKind::Auto => Ok(if program("smtp-sink").is_ok() { SinkKind::SmtpSink } else { SinkKind::Own }),
    }
}

/// A program of Postfix.
///
/// # Errors
/// When it is not installed.
pub(super) fn program(name: &str) -> anyhow::Result<PathBuf> {
    process::find(name, Path::new("/")).ok_or_else(|| {
        let hints = ["apt-get install postfix (it need not run)"];
        Refusal::failed(format!("{name} is not installed, or may not be run"), &hints).into()
    })
}

impl Sink {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) async fn start(kind: SinkKind, stamps: bool, log: &Path) -> anyhow::Result<Self> {
        match kind {
            SinkKind::SmtpSink if !stamps => Self::start_smtp_sink(log).await,
            _ => Self::start_own(stamps, log).await,
        }
    }

    async fn start_smtp_sink(log: &Path) -> anyhow::Result<Self> {
        let reserved = ReservedPort::reserve().context("no port of 127.0.0.1")?;
        let mut command = Command::new(program("smtp-sink")?);
        if let Some(user) = unprivileged_user() {
            command.args(["-u", user]);
        }
        // More connections than anybody makes; the last number is the length of the queue of new ones.
        command.args(["-m", "2000", &reserved.address().to_string(), "1000"]);
        command.stdout(Stdio::null());
        let port = reserved.number();
        let mut process = Process::start(command, log, End::Terminate)?;
        let started = Instant::now();
        while !greets(port).await {
            if process.ended().is_some() || started.elapsed() > START_TIMEOUT {
                anyhow::bail!("smtp-sink did not start{}", process.log_tail());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(Self { process, port, heard: Arc::default(), listening: None, _reserved: Some(reserved) })
    }

    async fn start_own(stamps: bool, log: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("could not find this very program")?);
        command.args(["bench", "sink"]).args(stamps.then_some("--stamps")).stdout(Stdio::piped());
        let mut process = Process::start(command, log, End::Stdin)?;
        let heard = Arc::<Mutex<Heard>>::default();
        let stdout = process.stdout().context("the sink has no output")?;
        let listening = tokio::spawn(listen(stdout, Arc::clone(&heard)));
        let started = Instant::now();
        let port = loop {
            if let Some(port) = lock(&heard).port {
                break port;
            }
            if process.ended().is_some() || started.elapsed() > START_TIMEOUT {
                anyhow::bail!("the sink did not start{}", process.log_tail());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        };
        Ok(Self { process, port, heard, listening: Some(listening), _reserved: None })
    }

    /// Its CPU time so far, in microseconds.
    pub(super) fn cpu_us(&self) -> u64 {
        proc::group_cpu_us(self.process.group())
    }

    /// What it has read so far, in bytes: from every socket, and from the files that it was started with. `None` where
    /// the kernel does not tell.
    pub(super) fn bytes_read(&self) -> Option<u64> {
        proc::bytes_read(self.process.group())
    }

    /// How many different messages have been noted.
    pub(super) fn stamped(&self) -> usize {
        lock(&self.heard).stamps.len()
    }

    /// Whether this one has.
    pub(super) fn has(&self, id: u32) -> bool {
        lock(&self.heard).stamps.contains_key(&id)
    }

    /// When the end marker of each message was read, since boot.
    pub(super) fn stamps(&self) -> HashMap<u32, Duration> {
        lock(&self.heard).stamps.clone()
    }

    /// Ends it; how many messages it has taken, if it counts.
    pub(super) async fn stop(mut self) -> Option<u64> {
        self.process.stop().await;
        if let Some(listening) = self.listening.take() {
            drop(listening.await);
        }
        lock(&self.heard).count
    }
}

fn lock(heard: &Mutex<Heard>) -> std::sync::MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn listen(stdout: tokio::process::ChildStdout, heard: Arc<Mutex<Heard>>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Some((word, number)) = line.split_once(' ') else { continue };
        let mut heard = lock(&heard);
        match (word, word.parse::<u32>(), number.parse::<u64>()) {
            ("port", _, Ok(port)) => heard.port = u16::try_from(port).ok(),
            ("count", _, Ok(count)) => heard.count = Some(count),
            (_, Ok(id), Ok(nanoseconds)) => {
                heard.stamps.entry(id).or_insert(Duration::from_nanos(nanoseconds));
            }
            _ => {}
        }
    }
}

/// Whether somebody who speaks SMTP listens there.
async fn greets(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).await else { return false };
    let mut byte = [0];
    stream.read_exact(&mut byte).await.is_ok() && byte == *b"2"
}

/// smtp-sink refuses to run as root without a user to become.
fn unprivileged_user() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let known = |name: &&str| passwd.lines().any(|line| line.split(':').next() == Some(*name));
    ["postfix", "nobody"].into_iter().find(known)
}
